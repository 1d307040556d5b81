"""A KV cache that stops growing: attention sinks and the most recent tokens.

    cache = BoundedCache(256, n_sink=4, model=model)
    model.generate(**inputs, past_key_values=cache)

It does what `SinkRecent` does `online`: later tokens are computed from what was left. Prompts may
be longer than the budget, batches may be padded on the left, and positions need no help.

How: the model's hook (`kvlib.cache.hooks`) sets mask and positions of every forward that is given
this cache by a plan (`kvlib.cache.plan`), and the layers (`kvlib.cache.layers`) follow the same
plan. The cache learns when body and model came through: a forward that broke off after its keys
were stored would double its tokens when tried again.
"""

from __future__ import annotations

import weakref
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from kvlib.cache import hooks
from kvlib.cache.layers import BoundedLayer
from kvlib.cache.plan import Plan
from kvlib.cache.policies import SinkRecent
from kvlib.cache.support import check_model
from kvlib.models import masks


class BoundedCache(hooks.Hooked):
    """A transformers cache of at most `budget` entries a layer: `n_sink` sinks and recent tokens.

    The query at position t sees {0..n_sink-1} ∪ {t-(budget-n_sink)+1..t}, itself included. t counts
    tokens from 0 behind the padding; `position_ids` of the caller are replaced. On a model with
    sliding layers (Gemma: 512 tokens) each of those sees what of this its own window holds, so that
    sinks are invisible there in the end. During the forward of a long prompt the prompt's own keys
    and values are alive too; `generate(prefill_chunk_size=…)` bounds them.

    `model` and its body get one forward hook for all caches. It stays, holds nothing, and acts only
    in forwards that are given one of them. The cache does not keep the model alive.

    `positions` says where sinks stand once tokens have been evicted: `"true"`, where they stood, or
    `"cache"`, where they lie in the cache, as in StreamingLLM (arXiv 2309.17453). For RoPE only the
    distance to the sinks changes, from t - i to budget - 1 - i: each query gets copies of the
    sinks' keys, turned by t - budget + 1 positions. A forward of q tokens then holds n_sink·q
    entries more: feed long texts in chunks of a few hundred tokens.

    `rollback` = k keeps the last k evicted entries, which no query sees, so that `crop` can take
    back up to k tokens: assisted decoding and prompt look-up then work in `generate` with up to k
    drafted tokens a round, and write what plain greedy decoding with this cache writes. Each layer
    holds budget + k entries.

    `policy`: another one with an online form, as `RandomRetention`, `TOVA`, `HeavyHitter` (H2O) or
    `KeyNorm`; what they need and cannot do is said at `kvlib.cache.by_policy.PolicyCache`.

    Beam search, `reset()` and `copy.deepcopy` (a prompt read once, continued many times) work.
    Raises ValueError for a budget that the sinks fill, padding that is not on the left, a mask that
    is not (batch, tokens), `crop` by more than `rollback`, and architectures whose layers do not
    all attend through plain or sliding attention; RuntimeError after a forward that broke off,
    until `reset()`.
    """

    by_policy: ClassVar[type[BoundedCache]]  # `kvlib.cache.by_policy` puts its class here

    def __new__(cls, *args: Any, policy: Any = None, **kwargs: Any) -> BoundedCache:
        """A `PolicyCache` for policies beyond sinks and recent tokens."""
        if cls is BoundedCache and policy is not None and not isinstance(policy, SinkRecent):
            return object.__new__(cls.by_policy)
        return object.__new__(cls)

    def __init__(
        self,
        budget: int,
        n_sink: int | None = None,
        *,
        model: Any,
        positions: str = "true",
        rollback: int = 0,
        policy: Any = None,
        seed: int = 0,
    ) -> None:
        if isinstance(policy, SinkRecent):
            n_sink, positions = _of_policy(policy, n_sink, positions)
        n_sink = 4 if n_sink is None else n_sink
        if n_sink < 0 or budget <= n_sink:
            raise ValueError(f"budget: expected more than n_sink = {n_sink} ≥ 0, got {budget}")
        if positions not in ("true", "cache"):
            raise ValueError(f"positions: expected 'true' or 'cache', got {positions!r}")
        if rollback < 0:
            raise ValueError(f"rollback: expected 0 tokens or more, got {rollback}")
        check_model(model, positions)
        n_layers = len(masks.attention_modules(model))
        self.budget, self.n_sink, self.positions = budget, n_sink, positions
        self.rollback = rollback
        super().__init__(layers=[BoundedLayer(self, k) for k in range(n_layers)])
        self._model: Any = weakref.ref(model)
        self._forget()
        hooks.install(model)

    def _forget(self) -> None:
        self.plan: Plan | None = None  # of the body's forward that is under way
        self._around = False  # the next forward of the body is one of the model
        self._head_is_due = False  # the body is through, the model around it is not
        self.held: Any = None  # or a tensor (batch, entries) true positions, -1 for padding
        self.next: Any = None  # or a tensor (batch, 1) position of each row's next token
        self.tokens = 0  # columns seen, padding included
        self.floor = 0  # the fewest columns that `crop` can go back to

    @property
    def model(self) -> Any:
        """The model it was made for, or None once it is closed or that model is gone."""
        return self._model()

    def close(self) -> None:
        """Forget everything and the model; the cache cannot be used any more."""
        self.reset()
        self._model = _nothing

    @property
    def cache_bytes(self) -> int:
        """Bytes of keys and values held between forwards."""
        held = [layer for layer in self.layers if layer.is_initialized]
        return sum(part.nbytes for layer in held for part in (layer.keys, layer.values))

    def reset(self) -> None:
        """Forget everything: the next text begins anew."""
        super().reset()
        self._forget()

    def crop(self, tokens_to_remove: int) -> None:
        """Take back the last n tokens by `crop(-n)`, as transformers counts; 0 changes nothing.

        ValueError where n is more than what is left of `rollback` since the last forward.
        """
        self._refuse_if_broken()
        n, left = -tokens_to_remove, self.tokens - self.floor
        if not 0 <= n <= left:
            most = f"{-left} to 0" if left else "0"
            raise ValueError(
                f"crop: expected {most} (BoundedCache with rollback={self.rollback}), "
                f"got {tokens_to_remove}"
            )
        if n:
            self.tokens -= n
            self.next = (self.next - n).clamp(min=0)
            self.held = torch.where(self.held < self.next, self.held, -1)

    def reorder_cache(self, beam_idx: Int[Tensor, " rows"]) -> None:
        """Put the batch in the order of `beam_idx`, for beam search."""
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: Int[Tensor, " rows"]) -> None:
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

    def __deepcopy__(self, memo: dict[int, Any]) -> BoundedCache:
        """A cache of its own with the same contents, for the same model."""
        self._refuse_if_broken()
        if self.model is None:
            raise RuntimeError("BoundedCache: closed, or made for a model that is gone")
        settings = dict(model=self.model, positions=self.positions, rollback=self.rollback)
        twin = type(self)(self.budget, self.n_sink, **settings)
        for copied, layer in zip(twin.layers, self.layers, strict=True):
            if layer.is_initialized:
                copied.lazy_initialization(layer.keys, layer.values)
                copied.keys, copied.values = layer.keys.clone(), layer.values.clone()
        twin.held, twin.next = self.held, self.next
        twin.tokens, twin.floor = self.tokens, self.floor
        return twin

    def _refuse_if_broken(self) -> None:
        if self.plan is not None or self._head_is_due:
            raise RuntimeError("BoundedCache: the last forward broke off in the middle; reset() it")

    def before_model(self) -> None:
        """From here on laws are due, not states alone."""
        self._refuse_if_broken()
        self._around = True

    def after_model(self) -> None:
        """All is through."""
        self._around = self._head_is_due = False

    def model_broke(self) -> None:
        """What broke before the body leaves nothing behind."""
        self._around = False

    def before_body(self, given: dict[str, Any]) -> dict[str, Any]:
        """Mask and positions of this forward, by a plan that the layers will follow."""
        ids = given.get("input_ids")
        ids = given["inputs_embeds"] if ids is None else ids
        plan = self._prepare(ids.shape[0], ids.shape[1], given.get("attention_mask"))
        return {"attention_mask": plan.mask, "position_ids": plan.position_ids}

    def after_body(self) -> None:
        """The forward's tokens are among those that are held."""
        plan, self.plan = self.plan, None
        assert plan is not None, "a forward that came through had a plan"
        self.held, self.next = plan.left, plan.following
        self.tokens += plan.query.shape[1]
        self.floor = max(self.floor, self.tokens - self.rollback)
        self._head_is_due = plan.around

    def _prepare(self, batch: int, queries: int, mask: Any) -> Plan:
        """The plan of the next forward, from what the caller says about padding."""
        self._refuse_if_broken()
        around, self._around = self._around, False
        device = self.model.device
        if self.held is None:
            self.held = torch.empty(batch, 0, dtype=torch.long, device=device)
            self.next = torch.zeros(batch, 1, dtype=torch.long, device=device)
        if batch != len(self.held):
            raise ValueError(f"input_ids: expected {len(self.held)} rows as before, got {batch}")
        real = self._real(mask, batch, queries).to(device)
        if bool((torch.cat([self.next > 0, real[:, :-1]], dim=1) & ~real).any()):
            raise ValueError("attention_mask: expected padding on the left, got it after tokens")
        self.plan = self.planned(torch.where(real, self.next + real.cumsum(1) - 1, -1))
        self.plan.around = around
        return self.plan

    def planned(self, query: Int[Tensor, "batch queries"]) -> Plan:
        """The plan of a forward of the tokens at `query`, -1 for padding."""
        return Plan(self, query)

    def _real(self, mask: Any, batch: int, queries: int) -> Bool[Tensor, "batch queries"]:
        """(batch, queries) bool: the tokens of this forward that are no padding."""
        if mask is None:
            return torch.ones(batch, queries, dtype=torch.bool)
        whole = (batch, self.tokens + queries)
        shape = tuple(mask.shape) if isinstance(mask, torch.Tensor) else type(mask).__name__
        if shape not in (whole, (batch, queries)):
            raise ValueError(f"attention_mask: expected one of shape {whole} or none, got {shape}")
        return mask[:, -queries:].bool()


def _of_policy(policy: SinkRecent, n_sink: int | None, positions: str) -> tuple[int, str]:
    """Sinks and positions of a policy; ValueError where others are asked for beside it."""
    if n_sink not in (None, policy.n_sink):
        raise ValueError(f"n_sink: expected the policy's own {policy.n_sink}, got {n_sink}")
    if positions not in ("true", policy.positions):
        raise ValueError(
            f"positions: expected {policy.positions!r} as the policy has, got {positions!r}"
        )
    return policy.n_sink, policy.positions


def _nothing() -> None:
    """What a closed cache has for a model."""
