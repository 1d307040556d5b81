"""A KV cache that stops growing: attention sinks and the most recent tokens.

    cache = BoundedCache(256, n_sink=4, model=model)
    model.generate(**inputs, past_key_values=cache)

It does what `SinkRecent` does `online`: later tokens are computed from what was left. Prompts may
be longer than the budget, batches may be padded on the left, and positions need no help.

How: a cache alone never learns about padding, and cannot say who sees whom. So a forward pre-hook
on the model's body sets mask and positions of every forward that is given this cache (`_Plan`), and
the layers follow the same plan. Hooks after body and model see that a forward came through: one
that broke off after its keys were stored would double its tokens when tried again. Entries carry
their true positions, so that their order in memory does not matter: once the budget is full, a new
token takes the place of the one that goes.
"""

from __future__ import annotations

import inspect
import weakref
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from kvlib.models import masks
from kvlib.models.rotary import turned, turns

Mask = Bool[Tensor, "batch queries entries"]
Age = Int[Tensor, "batch queries entries"] | Bool[Tensor, "batch queries entries"]


class BoundedCache(Cache):
    """A transformers cache of at most `budget` entries a layer: `n_sink` sinks and recent tokens.

    The query at position t sees {0..n_sink-1} ∪ {t-(budget-n_sink)+1..t}, itself included. t counts
    tokens from 0 behind the padding; `position_ids` of the caller are replaced. On a model with
    sliding layers (Gemma: 512 tokens) each of those sees what of this its own window holds, so that
    sinks are invisible there in the end. During the forward of a long prompt the prompt's own keys
    and values are alive too; `generate(prefill_chunk_size=…)` bounds them.

    `model` and its body get forward hooks. They act only in forwards that are given this cache, and
    go when the cache does, or at `close()`.

    `positions` says where sinks stand once tokens have been evicted: `"true"`, where they stood, or
    `"cache"`, where they lie in the cache, as in StreamingLLM (arXiv 2309.17453). For RoPE only the
    distance to the sinks changes, from t - i to budget - 1 - i: each query gets copies of the
    sinks' keys, turned by t - budget + 1 positions. A forward of q tokens then holds n_sink·q
    entries more: feed long texts in chunks of a few hundred tokens.

    Beam search, `reset()` and `copy.deepcopy` (a prompt read once, continued many times) work.
    Raises ValueError for a budget that the sinks fill, padding that is not on the left, a mask that
    is not (batch, tokens), `crop` (so no assisted generation), and architectures whose layers do
    not all attend through plain or sliding attention; RuntimeError after a forward that broke off,
    until `reset()`.
    """

    def __init__(
        self,
        budget: int,
        n_sink: int = 4,
        *,
        model: Any,
        positions: str = "true",
    ) -> None:
        if n_sink < 0 or budget <= n_sink:
            raise ValueError(f"budget: expected more than n_sink = {n_sink} ≥ 0, got {budget}")
        if positions not in ("true", "cache"):
            raise ValueError(f"positions: expected 'true' or 'cache', got {positions!r}")
        _check_model(model, positions)
        n_layers = len(masks.attention_modules(model))
        super().__init__(layers=[_BoundedLayer(self, k) for k in range(n_layers)])
        self.budget, self.n_sink, self.positions = budget, n_sink, positions
        self._model = weakref.ref(model)
        self._forget()
        self._unhook = weakref.finalize(self, _remove, _hooked(self, model))

    def _forget(self) -> None:
        self._plan: _Plan | None = None  # of the body's forward that is under way
        self._around = False  # the next forward of the body is one of the model
        self._head_is_due = False  # the body is through, the model around it is not
        self._held: Any = None  # or a tensor (batch, entries) true positions, -1 for padding
        self._next: Any = None  # or a tensor (batch, 1) position of each row's next token
        self._tokens = 0  # columns seen, padding included

    def close(self) -> None:
        """Take the hook off the model; the cache cannot be used any more."""
        self._unhook()

    @property
    def cache_bytes(self) -> int:
        """Bytes of keys and values held between forwards."""
        held = [layer for layer in self.layers if layer.is_initialized]
        return sum(part.nbytes for layer in held for part in (layer.keys, layer.values))

    def reset(self) -> None:
        """Forget everything; the hook stays."""
        super().reset()
        self._forget()

    def crop(self, tokens_to_remove: int) -> None:
        """Refused: what was evicted cannot come back."""
        raise ValueError("crop: expected a cache that keeps everything, got one that evicts")

    def reorder_cache(self, beam_idx: Int[Tensor, " rows"]) -> None:
        """Put the batch in the order of `beam_idx`, for beam search."""
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: Int[Tensor, " rows"]) -> None:
        """Keep the rows `indices` of the batch."""
        super().batch_select_indices(indices)
        if self._held is not None:
            self._held, self._next = self._held[indices], self._next[indices]

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each row of the batch `repeats` times."""
        super().batch_repeat_interleave(repeats)
        if self._held is not None:
            self._held = self._held.repeat_interleave(repeats, dim=0)
            self._next = self._next.repeat_interleave(repeats, dim=0)

    def __deepcopy__(self, memo: dict[int, Any]) -> BoundedCache:
        """A cache of its own with the same contents, for the same model."""
        self._refuse_if_broken()
        twin = type(self)(self.budget, self.n_sink, model=self._model(), positions=self.positions)
        for copied, layer in zip(twin.layers, self.layers, strict=True):
            if layer.is_initialized:
                copied.lazy_initialization(layer.keys, layer.values)
                copied.keys, copied.values = layer.keys.clone(), layer.values.clone()
        twin._held, twin._next, twin._tokens = self._held, self._next, self._tokens
        return twin

    def _refuse_if_broken(self) -> None:
        if self._plan is not None or self._head_is_due:
            raise RuntimeError("BoundedCache: the last forward broke off in the middle; reset() it")

    def _prepare(self, batch: int, queries: int, mask: Any) -> _Plan:
        """The plan of the next forward, from what the caller says about padding."""
        self._refuse_if_broken()
        around, self._around = self._around, False
        model = self._model()
        assert model is not None, "the hook that calls this is the model's own"
        device = model.device
        if self._held is None:
            self._held = torch.empty(batch, 0, dtype=torch.long, device=device)
            self._next = torch.zeros(batch, 1, dtype=torch.long, device=device)
        if batch != len(self._held):
            raise ValueError(f"input_ids: expected {len(self._held)} rows as before, got {batch}")
        real = self._real(mask, batch, queries).to(device)
        if bool((torch.cat([self._next > 0, real[:, :-1]], dim=1) & ~real).any()):
            raise ValueError("attention_mask: expected padding on the left, got it after tokens")
        self._plan = _Plan(self, torch.where(real, self._next + real.cumsum(1) - 1, -1))
        self._plan.around = around
        return self._plan

    def _real(self, mask: Any, batch: int, queries: int) -> Bool[Tensor, "batch queries"]:
        """(batch, queries) bool: the tokens of this forward that are no padding."""
        if mask is None:
            return torch.ones(batch, queries, dtype=torch.bool)
        whole = (batch, self._tokens + queries)
        shape = tuple(mask.shape) if isinstance(mask, torch.Tensor) else type(mask).__name__
        if shape not in (whole, (batch, queries)):
            raise ValueError(f"attention_mask: expected one of shape {whole} or none, got {shape}")
        return mask[:, -queries:].bool()

    def _commit(self) -> None:
        """The body is through: its tokens are among those that are held."""
        plan, self._plan = self._plan, None
        assert plan is not None, "a forward that came through had a plan"
        self._held, self._next = plan.left, plan.following
        self._tokens += plan.query.shape[1]
        self._head_is_due = plan.around


class _Plan:
    """One forward: what each query sees, where it stands, and which entries make room.

    `query` (batch, queries) and `entry` (batch, entries): true positions, -1 for padding; the
    entries are those that the layers hold during the forward. Either a single token takes the place
    `slot` (batch, 1) of an entry that nobody will see again, or the new entries are appended and,
    beyond the budget, those at `keep` (batch, budget) stay. `around`: the whole model is run.
    """

    def __init__(self, cache: BoundedCache, query: Int[Tensor, "batch queries"]) -> None:
        self.n_sink, self.window = cache.n_sink, cache.budget - cache.n_sink
        self.model, self.query = cache._model(), query
        self.position_ids = query.clamp(min=0)
        self.following = torch.maximum(cache._next, query.amax(1, keepdim=True) + 1)
        self.slot, self.keep = self._slot(cache), None
        if self.slot is None:
            self.entry = self.left = torch.cat([cache._held, query], dim=1)
            if self.entry.shape[1] > cache.budget:
                self.keep = self._best(cache.budget)
                self.left = self.entry.gather(1, self.keep)
        else:
            self.entry = self.left = cache._held.scatter(1, self.slot, query)
        self.turn: torch.Tensor | None = None
        self.around = False
        visible = self._visible()
        age = self._age(visible, turned=cache.positions == "cache")
        if cache.positions == "cache" and cache.n_sink:
            visible, age = self._copy_sinks(cache, visible, age)
        self.mask = masks.masks_for(self.model, visible[:, None], age[:, None])

    def _wanted(
        self, entry: Int[Tensor, "batch entries"], following: Int[Tensor, "batch 1"]
    ) -> Bool[Tensor, "batch entries"]:
        """Which entries the query at `following` or a later one still sees."""
        return (entry >= 0) & ((entry > following - self.window) | (entry < self.n_sink))

    def _slot(self, cache: BoundedCache) -> Int[Tensor, "batch 1"] | None:
        """In each row an entry that a single token may replace, if there is one in each."""
        idle = ~self._wanted(cache._held, cache._next)
        if self.query.shape[1] > 1 or not bool(idle.any(1).all()):
            return None
        return idle.long().argmax(1, keepdim=True)

    def _best(self, budget: int) -> Int[Tensor, "batch kept"]:
        """All entries that are still wanted, filled up with the newest others."""
        order = torch.arange(self.entry.shape[1], device=self.entry.device)
        rank = self._wanted(self.entry, self.following) * len(order) + order
        return rank.topk(budget, dim=1).indices.sort(dim=1).values

    def _visible(self) -> Mask:
        """(batch, queries, entries) bool; large for long prompts, so it is made in place."""
        entry, now = self.entry[:, None, :], self.query[:, :, None]
        visible = entry > now - self.window
        visible |= entry < self.n_sink
        visible &= entry <= now
        visible &= entry >= 0
        # a query sees itself, padding too: a row without any entry would be NaN
        n = self.query.shape[1]
        own = torch.arange(n, device=entry.device) + self.entry.shape[1] - n
        own = own.expand(len(entry), -1) if self.slot is None else self.slot
        return visible.scatter_(2, own[:, :, None], True)

    def _age(self, visible: Mask, turned: bool) -> Age:
        """(batch, queries, entries) query's position less entry's, where anyone asks for it."""
        if turned or any(masks.sliding_windows(self.model)):
            return self.query[:, :, None] - self.entry[:, None, :]
        return visible

    def _copy_sinks(
        self, cache: BoundedCache, visible: Mask, age: Age
    ) -> tuple[Bool[Tensor, "batch queries seen"], Int[Tensor, "batch queries seen"]]:
        """Hide the sinks where they lie and let each query see its own turned copies of them."""
        n = self.query.shape[1]
        sink = (self.entry >= 0) & (self.entry < cache.n_sink)
        count = min(cache.n_sink, self.entry.shape[1])
        self.sinks = sink.long().topk(count, dim=1).indices.sort(dim=1).values
        of_sinks = self.sinks[:, None].expand(-1, n, -1)
        seen, old = visible.gather(2, of_sinks), age.gather(2, of_sinks)
        seen &= sink.gather(1, self.sinks)[:, None]
        self.turn = (self.query - cache.budget + 1).clamp(min=0)
        own = torch.eye(n, dtype=torch.bool, device=self.query.device)[None, :, :, None]
        copies = (seen[:, :, None] & own).flatten(2)
        # for a sliding layer a copy is as old as the query now sees it
        shrunk = (old - self.turn[:, :, None])[:, :, None].expand(-1, -1, n, -1).flatten(2)
        return torch.cat([visible & ~sink[:, None], copies], -1), torch.cat([age, shrunk], -1)


class _Hook:
    """Called around a forward of the model or its body; acts if the forward is given this cache.

    A copy of the model, or one that was pickled, has a hook that does nothing. So has, for a
    moment, a thread that runs the model while another makes a cache: torch stores a hook before it
    stores that the hook takes keywords.
    """

    def __init__(self, cache: weakref.ref | None = None) -> None:
        self.cache = cache

    def __reduce__(self) -> tuple[type, tuple]:
        return type(self), ()

    def given(
        self, module: Any, args: tuple, kwargs: dict[str, Any] | None
    ) -> tuple[BoundedCache | None, dict[str, Any]]:
        """The cache, if it is this forward's, and all arguments by name."""
        cache = self.cache() if self.cache else None
        if cache is None or not isinstance(kwargs, dict):
            return None, {}
        if args:
            names = inspect.signature(module.forward).parameters
            kwargs = dict(zip(names, args, strict=False)) | kwargs
        return (cache if kwargs.get("past_key_values") is cache else None), kwargs


class _BeforeBody(_Hook):
    """Mask and positions by the plan."""

    def __call__(
        self, body: Any, args: tuple, kwargs: dict[str, Any] | None = None
    ) -> tuple | None:
        cache, kwargs = self.given(body, args, kwargs)
        if cache is None:
            return None
        ids = kwargs.get("input_ids")
        ids = kwargs["inputs_embeds"] if ids is None else ids
        plan = cache._prepare(ids.shape[0], ids.shape[1], kwargs.get("attention_mask"))
        return (), kwargs | {"attention_mask": plan.mask, "position_ids": plan.position_ids}


class _AfterBody(_Hook):
    """The tokens are held."""

    def __call__(self, body: Any, args: tuple, kwargs: Any, output: Any = None) -> None:
        cache, _ = self.given(body, args, kwargs)
        if cache is not None and output is not None:
            cache._commit()


class _BeforeModel(_Hook):
    """From here on laws are due, not states alone."""

    def __call__(self, model: Any, args: tuple, kwargs: dict[str, Any] | None = None) -> None:
        cache, _ = self.given(model, args, kwargs)
        if cache is not None:
            cache._refuse_if_broken()
            cache._around = True


class _AfterModel(_Hook):
    """All is through."""

    def __call__(self, model: Any, args: tuple, kwargs: Any, output: Any = None) -> None:
        cache, _ = self.given(model, args, kwargs)
        if cache is not None and output is not None:
            cache._around = cache._head_is_due = False


def _hooked(cache: BoundedCache, model: Any) -> list[Any]:
    """Hooks around the body, and around the model where it is more than its body."""
    me, body = weakref.ref(cache), model.base_model
    handles = [
        body.register_forward_pre_hook(_BeforeBody(me), with_kwargs=True),
        body.register_forward_hook(_AfterBody(me), with_kwargs=True),
    ]
    if model is not body:
        handles += [
            model.register_forward_pre_hook(_BeforeModel(me), with_kwargs=True),
            model.register_forward_hook(_AfterModel(me), with_kwargs=True),
        ]
    return handles


def _remove(handles: list[Any]) -> None:
    for handle in handles:
        handle.remove()


class _BoundedLayer(DynamicLayer):
    """One layer's keys and values (batch, kv_heads, entries, head_dim); does what the plan says."""

    is_croppable = False

    def __init__(self, cache: BoundedCache, index: int) -> None:
        super().__init__()
        self.keys: torch.Tensor
        self.values: torch.Tensor
        self._cache, self._index = weakref.ref(cache), index

    def update(
        self,
        key_states: Float[Tensor, "batch kv_heads queries head_dim"],
        value_states: Float[Tensor, "batch kv_heads queries value_dim"],
        *args: Any,
        **kwargs: Any,
    ) -> tuple[
        Float[Tensor, "batch kv_heads entries head_dim"],
        Float[Tensor, "batch kv_heads entries value_dim"],
    ]:
        cache = self._cache()
        plan = None if cache is None else cache._plan
        if plan is None:
            raise RuntimeError(
                "BoundedCache: expected a forward of the model it was made for, before close()"
            )
        if plan.slot is not None:
            keys = self.keys = _put(self.keys, plan.slot, key_states)
            values = self.values = _put(self.values, plan.slot, value_states)
        else:
            keys, values = super().update(key_states, value_states)
            if plan.keep is not None:
                self.keys, self.values = _take(keys, plan.keep), _take(values, plan.keep)
        if plan.turn is not None:
            rotation = turns(plan.model, self._index, plan.turn)
            copies = _turn(_take(keys, plan.sinks), rotation)
            keys = torch.cat([keys, copies], dim=2)
            same = _take(values, plan.sinks).repeat(1, 1, plan.turn.shape[1], 1)
            values = torch.cat([values, same], dim=2)
        return keys, values

    def get_seq_length(self) -> int:
        """Columns seen so far, padding included: what `generate` calls the past."""
        cache = self._cache()
        return 0 if cache is None else cache._tokens

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Entries a mask must cover; the hook brings its own."""
        held = self.keys.shape[-2] if self.is_initialized else 0
        return held + query_length, 0


def _put(
    states: Float[Tensor, "batch heads entries dim"],
    slot: Int[Tensor, "batch 1"],
    new: Float[Tensor, "batch heads 1 dim"],
) -> Float[Tensor, "batch heads entries dim"]:
    """`states` (batch, heads, entries, dim) with `new` (batch, heads, 1, dim) at `slot`; in place,
    unless autograd remembers them."""
    index = slot.to(new.device)[:, None, :, None].expand_as(new)
    frozen = states.is_inference() and not torch.is_inference_mode_enabled()
    if frozen or new.requires_grad or states.requires_grad:
        return states.scatter(2, index, new)
    return states.scatter_(2, index, new)


def _take(
    states: Float[Tensor, "batch heads entries dim"], index: Int[Tensor, "batch kept"]
) -> Float[Tensor, "batch heads kept dim"]:
    """(batch, heads, entries, dim) → those at `index` (batch, kept)."""
    _, heads, _, dim = states.shape
    return states.gather(2, index.to(states.device)[:, None, :, None].expand(-1, heads, -1, dim))


def _turn(
    keys: Float[Tensor, "batch heads sinks dim"],
    rotation: tuple[Float[Tensor, "batch queries dim"], Float[Tensor, "batch queries dim"]],
) -> Float[Tensor, "batch heads copies dim"]:
    """Copies of keys (batch, heads, sinks, dim), one set a query: (…, queries·sinks, dim)."""
    cos, sin = (part.to(keys.device)[:, None, :, None] for part in rotation)
    return turned(keys[:, :, None], cos, sin).flatten(2, 3)


# --- what it cannot serve -----------------------------------------------------------------------


def _check_model(model: Any, positions: str) -> None:
    """Refuses by name what masks or positions cannot be had for."""
    name = type(model).__name__
    if not (hasattr(model, "base_model") and hasattr(model, "config")):
        raise ValueError(f"model: expected a transformers model, got {name}")
    if getattr(model.config, "is_encoder_decoder", False):
        raise ValueError(f"{name}: expected a decoder, got an encoder and a decoder; not supported")
    masks.sliding_windows(model)
    theirs = {type(layer) for layer in DynamicCache(config=model.config).layers}
    if other := theirs - {DynamicLayer, DynamicSlidingWindowLayer}:
        got = ", ".join(sorted(kind.__name__ for kind in other))
        raise ValueError(
            f"{name}: expected a cache of plain keys and values, got {got}; not supported"
        )
    if (kind := model.config._attn_implementation) not in ("sdpa", "eager"):
        raise ValueError(f"{name}: expected attention by sdpa or eager, got {kind}; not supported")
    if positions == "cache" and not _keys_turn(model):
        raise ValueError(
            f"{name}: expected plain rotary positions over whole heads in every layer for "
            "positions='cache', got others; not supported"
        )


@torch.no_grad()
def _keys_turn(model: Any, tolerance: float = 0.1) -> bool:
    """Tried out: are the keys of a text that stands elsewhere the same keys, turned?

    What does not turn, or another way, is off by about 1; bfloat16 by a few hundredths.
    """
    rotary = getattr(model.base_model, "rotary_emb", None)
    kinds = getattr(rotary, "rope_type", None)
    kinds = set(kinds.values()) if isinstance(kinds, dict) else {kinds}
    if kinds & {None, "dynamic", "longrope"}:  # the last two turn otherwise in longer texts
        return False
    shift = min(1000, model.config.max_position_embeddings // 2)
    ids = torch.arange(1, 5, device=model.device)[None]
    here, there = DynamicCache(), DynamicCache()
    for cache, first in ((here, 0), (there, shift)):
        place = torch.arange(first, first + 4, device=model.device)[None]
        model.base_model(ids, position_ids=place, past_key_values=cache, use_cache=True)
    for k, (old, new) in enumerate(zip(here.layers, there.layers, strict=True)):
        cos, sin = turns(model, k, torch.full_like(ids[:, :1], shift))
        if cos.shape[-1] != old.keys.shape[-1]:
            return False
        error = _turn(old.keys, (cos, sin)) - new.keys
        if not error.norm() < tolerance * new.keys.norm():
            return False
    return True
