"""A KV cache that stops growing: attention sinks and the most recent tokens.

    cache = BoundedCache(256, n_sink=4, model=model)
    model.generate(**inputs, past_key_values=cache)

It does what `SinkRecent` does `online`: later tokens are computed from what was left. Prompts may
be longer than the budget, batches may be padded on the left, and positions need no help.
"""

from __future__ import annotations

import weakref
from typing import Any, Literal

import torch
from transformers import Cache
from transformers.cache_utils import DynamicLayer

from kvlib import masks


class BoundedCache(Cache):
    """A transformers cache of at most `budget` entries a layer: `n_sink` sinks and recent tokens.

    The query at position t sees {0..n_sink-1} ∪ {t-(budget-n_sink)+1..t}, itself included; between
    forwards `budget - 1` entries are held. On a model with sliding layers (Gemma: 512 tokens) each
    of those sees what of this its own window holds. During the forward of a long prompt the
    prompt's own keys and values are alive too; `generate(prefill_chunk_size=…)` bounds them.

    `model` gets a forward pre-hook on its body. It acts only in forwards that are given this cache,
    sets their mask and positions, and goes when the cache does, or at `close()`.

    `positions` says where sinks stand once tokens have been evicted: `"true"`, where they stood, or
    `"cache"`, where they lie in the cache, as in StreamingLLM (arXiv 2309.17453). For RoPE only the
    distance to the sinks changes, from t - i to budget - 1 - i: each query gets copies of the
    sinks' keys, turned by t - budget + 1 positions.

    Raises ValueError for a budget that the sinks fill, padding that is not on the left, a mask that
    is not of two dimensions, and architectures whose layers do not all attend through plain or
    sliding attention; and RuntimeError after a forward that broke off, until `reset()`.
    """

    def __init__(
        self,
        budget: int,
        n_sink: int = 4,
        *,
        model: Any,
        positions: Literal["true", "cache"] = "true",
    ) -> None:
        if n_sink < 0 or budget <= n_sink:
            raise ValueError(f"budget: expected more than n_sink = {n_sink} ≥ 0, got {budget}")
        if positions not in ("true", "cache"):
            raise ValueError(f"positions: expected 'true' or 'cache', got {positions!r}")
        _check_model(model, positions)
        n_layers = len(masks.attention_modules(model))
        super().__init__(layers=[_BoundedLayer(self, k) for k in range(n_layers)])
        self.budget, self.n_sink, self.positions = budget, n_sink, positions
        self._plan: _Plan | None = None
        self.held: torch.Tensor | None = None  # (batch, entries) true positions, -1 for padding
        self.next: torch.Tensor | None = None  # (batch, 1) position of each row's next token
        self.tokens = 0  # columns seen, padding included
        handle = model.base_model.register_forward_pre_hook(
            _Hook(weakref.ref(self), weakref.ref(model)), with_kwargs=True
        )
        self._unhook = weakref.finalize(self, handle.remove)

    def close(self) -> None:
        """Take the hook off the model; the cache cannot be used any more."""
        self._unhook()

    @property
    def cache_bytes(self) -> int:
        """Bytes of keys and values held between forwards."""
        return sum(
            part.numel() * part.element_size()
            for layer in self.layers
            if layer.is_initialized
            for part in (layer.keys, layer.values)
        )

    def reset(self) -> None:
        """Forget everything; the hook stays."""
        super().reset()
        self.held = self.next = self._plan = None
        self.tokens = 0

    def crop(self, tokens_to_remove: int) -> None:
        """Refused: what was evicted cannot come back."""
        raise ValueError("crop: expected a cache that keeps everything, got one that evicts")

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        """Put the batch in the order of `beam_idx`, for beam search."""
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep the rows `indices` of the batch."""
        super().batch_select_indices(indices)
        if self.held is not None:
            self.held, self.next = self.held[indices], self.next[indices]

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each row of the batch `repeats` times."""
        super().batch_repeat_interleave(repeats)
        if self.held is not None:
            self.held = self.held.repeat_interleave(repeats, dim=0)
            self.next = self.next.repeat_interleave(repeats, dim=0)

    def prepare(self, model: Any, batch: int, queries: int, padding: torch.Tensor | None) -> _Plan:
        """What the next forward needs, and what each layer keeps after it."""
        if self._plan is not None:
            raise RuntimeError("BoundedCache: the last forward broke off in the middle; reset() it")
        if self.held is None:
            self.held = torch.empty(batch, 0, dtype=torch.long, device=model.device)
            self.next = torch.zeros(batch, 1, dtype=torch.long, device=model.device)
        if padding is None:
            padding = torch.ones(batch, queries, dtype=torch.bool, device=model.device)
        real = padding[:, -queries:].to(device=model.device, dtype=torch.bool)
        if bool((torch.cat([self.next > 0, real[:, :-1]], dim=1) & ~real).any()):
            raise ValueError("attention_mask: expected padding on the left, got it after tokens")
        query = torch.where(real, self.next + real.cumsum(1) - 1, -1)
        self._plan = _Plan(self, model, query)
        return self._plan

    def commit(self, plan: _Plan) -> None:
        """The last layer has its entries: the forward is through."""
        self.held, self._plan = plan.entry.gather(1, plan.keep), None
        self.next = self.next + (plan.query >= 0).sum(1, keepdim=True)
        self.tokens += plan.query.shape[1]


class _Plan:
    """One forward: mask, positions, and the indices (batch, kept) of the entries that stay."""

    def __init__(self, cache: BoundedCache, model: Any, query: torch.Tensor) -> None:
        self.model, self.query, held = model, query, cache.held
        self.entry = torch.cat([held, query], dim=1)
        window = cache.budget - cache.n_sink
        entry, now = self.entry[:, None, :], query[:, :, None]
        age = now - entry
        visible = (entry >= 0) & (age >= 0) & ((age < window) | (entry < cache.n_sink))
        # a padded query sees itself alone: a row without any entry would be NaN
        itself = torch.eye(query.shape[1], dtype=torch.bool, device=query.device)
        itself = torch.nn.functional.pad(itself, (held.shape[1], 0))
        visible |= itself & (now < 0)
        self.turn: torch.Tensor | None = None
        if cache.positions == "cache" and cache.n_sink:
            visible, age = self._copy_sinks(cache, visible, age)
        self.mask = masks.masks_for(model, visible[:, None], age[:, None])
        self.position_ids = query.clamp(min=0)
        following = torch.maximum(cache.next, query.amax(1, keepdim=True) + 1)
        stay = (self.entry >= 0) & ((following - self.entry < window) | (self.entry < cache.n_sink))
        size = min(int(stay.sum(1).max()), cache.budget - 1)
        order = torch.arange(self.entry.shape[1], device=query.device)
        rank = stay * (2 * len(order)) + order  # those that stay, then the newest padding
        self.keep = rank.topk(size, dim=1).indices.sort(dim=1).values

    def _copy_sinks(
        self, cache: BoundedCache, visible: torch.Tensor, age: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Hide the sinks where they lie and let each query see its own turned copies of them."""
        batch, n = self.query.shape
        sink = (self.entry >= 0) & (self.entry < cache.n_sink)
        count = min(cache.n_sink, self.entry.shape[1])
        self.sinks = (sink * 2).long().topk(count, dim=1).indices.sort(dim=1).values
        of_sinks = self.sinks[:, None].expand(-1, n, -1)
        seen, old = visible.gather(2, of_sinks), age.gather(2, of_sinks)
        seen &= sink.gather(1, self.sinks)[:, None]
        self.turn = (self.query - cache.budget + 1).clamp(min=0)
        own = torch.eye(n, dtype=torch.bool, device=self.query.device)[None, :, :, None]
        copies = (seen[:, :, None] & own).flatten(2)
        # an entry's age for sliding layers is its distance as the query now sees it
        shrunk = (old - self.turn[:, :, None])[:, :, None].expand(-1, -1, n, -1).flatten(2)
        return torch.cat([visible & ~sink[:, None], copies], -1), torch.cat([age, shrunk], -1)

    def rotation(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """cos and sin (batch, queries, head_dim) of each query's `turn`, as the layer rotates."""
        return _rotary(self.model, layer, self.turn)


class _Hook:
    """Before the body's forward: mask and positions, if the forward is given this cache."""

    def __init__(self, cache: weakref.ref, model: weakref.ref) -> None:
        self.cache, self.model = cache, model

    def __call__(self, body: Any, args: tuple, kwargs: dict[str, Any]) -> tuple | None:
        cache, model = self.cache(), self.model()
        if cache is None or model is None or kwargs.get("past_key_values") is not cache:
            return None
        given = kwargs.get("inputs_embeds")
        if given is None:
            given = args[0] if args else kwargs["input_ids"]
        padding = kwargs.get("attention_mask")
        if padding is not None and getattr(padding, "ndim", 0) != 2:
            got = (
                f"{padding.ndim} dimensions" if hasattr(padding, "ndim") else type(padding).__name__
            )
            raise ValueError(f"attention_mask: expected 2 dimensions or none, got {got}")
        plan = cache.prepare(model, given.shape[0], given.shape[1], padding)
        return args, kwargs | {"attention_mask": plan.mask, "position_ids": plan.position_ids}


class _BoundedLayer(DynamicLayer):
    """One layer's keys and values (batch, kv_heads, entries, head_dim), cut after each forward."""

    def __init__(self, cache: BoundedCache, index: int) -> None:
        super().__init__()
        self._cache, self._index = weakref.ref(cache), index

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        cache = self._cache()
        plan = cache._plan
        if plan is None:
            raise RuntimeError("BoundedCache: expected its own model's forward, got another's")
        keys, values = super().update(key_states, value_states)
        self.keys, self.values = _take(keys, plan.keep), _take(values, plan.keep)
        if plan.turn is not None:
            copies = _turn(_take(keys, plan.sinks), plan.turn, plan.rotation(self._index))
            n = plan.turn.shape[1]
            keys = torch.cat([keys, copies], dim=2)
            values = torch.cat([values, _take(values, plan.sinks).repeat(1, 1, n, 1)], dim=2)
        if self._index == len(cache.layers) - 1:
            cache.commit(plan)
        return keys, values

    def get_seq_length(self) -> int:
        """Columns seen so far, padding included: what `generate` calls the past."""
        cache = self._cache()
        return 0 if cache is None else cache.tokens

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Entries a mask must cover; the hook brings its own."""
        held = self.keys.shape[-2] if self.is_initialized else 0
        return held + query_length, 0


def _take(states: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """(batch, heads, entries, dim) → those at `index` (batch, kept)."""
    _, heads, _, dim = states.shape
    return states.gather(2, index[:, None, :, None].expand(-1, heads, -1, dim))


def _turn(
    keys: torch.Tensor, turn: torch.Tensor, rotation: tuple[torch.Tensor, torch.Tensor]
) -> torch.Tensor:
    """Copies of keys (batch, heads, sinks, dim), one set a query: (…, queries·sinks, dim)."""
    cos, sin = (part[:, None, :, None] for part in rotation)
    left, right = keys.chunk(2, dim=-1)
    half = torch.cat([-right, left], dim=-1)
    return (keys[:, :, None] * cos + half[:, :, None] * sin).flatten(2, 3)


def _rotary(model: Any, layer: int, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The model's own cos and sin (batch, positions, head_dim) in a layer."""
    like = torch.empty(0, dtype=model.dtype, device=model.device)
    rotary, kinds = model.base_model.rotary_emb, getattr(model.config, "layer_types", None)
    if kinds is not None and hasattr(rotary, f"{kinds[layer]}_inv_freq"):
        return rotary(like, positions, kinds[layer])
    return rotary(like, positions)


def _check_model(model: Any, positions: str) -> None:
    """Refuses by name what masks or positions cannot be had for."""
    name, config = type(model).__name__, model.config
    if getattr(config, "is_encoder_decoder", False):
        raise ValueError(f"{name}: expected a decoder, got an encoder and a decoder; not supported")
    masks.sliding_windows(model)
    if (kind := config._attn_implementation) not in ("sdpa", "eager"):
        raise ValueError(f"{name}: expected attention by sdpa or eager, got {kind}; not supported")
    if positions == "true":
        return
    if not hasattr(model.base_model, "rotary_emb"):
        raise ValueError(
            f"{name}: expected rotary positions for positions='cache', got others; not supported"
        )
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    zero = torch.zeros(1, 1, dtype=torch.long, device=model.device)
    for layer in range(len(masks.attention_modules(model))):
        cos, _ = _rotary(model, layer, zero)
        if cos.shape[-1] != head_dim or not torch.all(cos == 1):
            raise ValueError(
                f"{name}: expected plain rotary positions over the whole head for "
                "positions='cache', got partial or scaled ones; not supported"
            )
