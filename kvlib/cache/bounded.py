"""A KV cache that stops growing: attention sinks and the most recent tokens.

    cache = BoundedCache(256, n_sink=4, model=model)
    model.generate(**inputs, past_key_values=cache)

It does what `SinkRecent` does `online`: later tokens are computed from what was left. Prompts may
be longer than the budget, batches may be padded anywhere, and positions need no help.

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
from transformers import Cache

from kvlib.cache import history, hooks, support
from kvlib.cache.layers import BoundedLayer
from kvlib.cache.plan import Plan
from kvlib.cache.policies import SinkRecent
from kvlib.models import masks
from kvlib.models import positions as places

# what goes on, beside the layers' keys and values
STATE = ("held", "next", "tokens", "floor", "history", "last")


class BoundedCache(hooks.Hooked):
    """A transformers cache of at most `budget` entries a layer: `n_sink` sinks and recent tokens.

    The query at position t sees {0..n_sink-1} ∪ {t-(budget-n_sink)+1..t}, itself included. t counts
    the tokens of a row from 0, wherever padding stands: before them, or between the turns of a
    batch; `position_ids` of the caller are replaced. On a model with sliding layers (Gemma: 512
    tokens) each of those sees what of this its own window holds, so that sinks are invisible there
    in the end. During the forward of a long prompt the prompt's own keys and values are alive too;
    `generate(prefill_chunk_size=…)` bounds them.

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

    Beam search, `reset()` and `copy.deepcopy` (a prompt read once, continued many times) work. A
    cache can be stored: `state()` is made of tensors and plain values, for `torch.save`, and
    `from_state` makes a cache of it, in another process too; one that was pickled is used after
    `attach(model)`.

    What has been read cannot change. `generate` is given the whole text again: where it does not
    begin with what was read, ValueError (a running hash of the ids is compared). A forward that is
    called directly shows its new ids alone, and embeddings no ids at all: there nothing is noticed.

    Raises ValueError for a budget that the sinks fill, a mask that is not (batch, tokens), no token
    at all, positions beyond the model's end (`kvlib.models.positions`), padding on the right in
    `generate`, `crop` by more than `rollback`, and architectures whose layers do not all attend
    through plain or sliding attention; RuntimeError after a forward that broke off, until
    `reset()`, and for a model that throws the cache away.
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
        budget, n_sink, rollback = (
            support.whole_number(name, value)
            for name, value in (("budget", budget), ("n_sink", n_sink), ("rollback", rollback))
        )
        if n_sink < 0 or budget <= n_sink:
            raise ValueError(f"budget: expected more than n_sink = {n_sink} ≥ 0, got {budget}")
        if positions not in ("true", "cache"):
            raise ValueError(f"positions: expected 'true' or 'cache', got {positions!r}")
        if rollback < 0:
            raise ValueError(f"rollback: expected 0 tokens or more, got {rollback}")
        model = support.plain(model)
        support.check_model(model, positions)
        self.windows = masks.sliding_windows(model)  # a layer each, 0 where it sees everything
        self.budget, self.n_sink, self.positions = budget, n_sink, positions
        self.rollback = rollback
        super().__init__(layers=[BoundedLayer(self, k) for k in range(len(self.windows))])
        self._model: Any = weakref.ref(model)
        self._end = places.end(model)
        self._waiting: dict[str, Any] | None = None  # what an unpickled cache holds, for `attach`
        self._forget()
        hooks.install(model)

    @property
    def settings(self) -> dict[str, Any]:
        """What it was made with, but for the model."""
        names = ("budget", "n_sink", "positions", "rollback")
        return {name: getattr(self, name) for name in names}

    def _forget(self) -> None:
        self.plan: Plan | None = None  # of the body's forward that is under way
        self._around = False  # the next forward of the body is one of the model
        self._head_is_due = False  # the body is through, the model around it is not
        self.held: Any = None  # or a tensor (batch, entries) true positions, -1 for padding
        self.next: Any = None  # or a tensor (batch, 1) position of each row's next token
        self.tokens = 0  # columns seen, padding included
        self.floor = 0  # the fewest columns that `crop` can go back to
        self.history: Any = 0  # or a tensor (batch,) of the ids read; None where some are unknown
        self.last: Any = None  # or (batch, tokens, 2) what `crop` may take back: place, part in it
        self._read: Any = None  # of this forward, each token's part in it
        self._padding_is_due = False  # it has not been seen what the last prompt ends with
        self._history_is_due = False  # the present text has not been compared with it

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
            place, part = self.last[:, -n:].unbind(2)
            self.last = self.last[:, :-n]
            self.next = self.next - (place >= 0).sum(1, keepdim=True)
            self.history = None if self.history is None else self.history - part.sum(1)
            self.held = torch.where(self.held < self.next, self.held, -1)

    def reorder_cache(self, beam_idx: Int[Tensor, " rows"]) -> None:
        """Put the batch in the order of `beam_idx`, for beam search."""
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: Int[Tensor, " rows"]) -> None:
        """Keep the rows `indices` of the batch."""
        super().batch_select_indices(indices)
        if self.held is not None:
            self.held, self.next = self.held[indices], self.next[indices]
            self.history = None if self.history is None else self.history[indices]
            self.last = None if self.last is None else self.last[indices]

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each row of the batch `repeats` times."""
        super().batch_repeat_interleave(repeats)
        if self.held is not None:
            self.held = self.held.repeat_interleave(repeats, dim=0)
            self.next = self.next.repeat_interleave(repeats, dim=0)
            for name in ("history", "last"):
                if (part := getattr(self, name)) is not None:
                    setattr(self, name, part.repeat_interleave(repeats, dim=0))

    def __deepcopy__(self, memo: dict[int, Any]) -> BoundedCache:
        """A cache of its own with the same contents, for the same model."""
        self._refuse_if_broken()
        twin = type(self)(model=self._live_model(), **self.settings)
        for copied, layer in zip(twin.layers, self.layers, strict=True):
            if layer.is_initialized:
                copied.lazy_initialization(layer.keys, layer.values)
                copied.keys, copied.values = layer.keys.clone(), layer.values.clone()
        for name in STATE:
            setattr(twin, name, getattr(self, name))
        return twin

    def state(self) -> dict[str, Any]:
        """All that it holds, as tensors, lists and plain values, with a fingerprint of the model.

        `torch.save(cache.state(), file)`, and `torch.load(file)` unpickles no code.
        """
        self._refuse_if_broken()
        layers = [layer for layer in self.layers if layer.is_initialized]
        return {
            "settings": self.settings,
            "model": support.fingerprint(self._live_model()),
            "keys": [layer.keys for layer in layers],
            "values": [layer.values for layer in layers],
            **{name: getattr(self, name) for name in STATE},
        }

    @classmethod
    def from_state(cls, state: dict[str, Any], *, model: Any) -> BoundedCache:
        """A cache that goes on where the one with this `state()` stood.

        ValueError for a state that is damaged or was made with another model.
        """
        return _detached(cls, state).attach(model)

    def attach(self, model: Any) -> BoundedCache:
        """A cache that was unpickled, ready for its model; ValueError for another model."""
        state, model = self._waiting, support.plain(model)
        if state is None:
            raise ValueError("attach: expected a cache that was unpickled, got one with a model")
        support.check_state(state, model, STATE)
        BoundedCache.__init__(self, model=model, **state["settings"])
        for layer, module, keys, values in zip(
            self.layers,
            masks.attention_modules(model),
            state["keys"],
            state["values"],
            strict=False,
        ):
            device = next(module.parameters()).device
            layer.lazy_initialization(keys.to(device), values.to(device))
            layer.keys, layer.values = keys.to(device), values.to(device)
        for name in STATE:
            value = state[name]
            moved = value.to(model.device) if isinstance(value, torch.Tensor) else value
            setattr(self, name, moved)
        return self

    def __reduce__(self) -> tuple[Any, tuple]:
        """Pickled it is its state; the model is not taken along."""
        return _detached, (type(self), self._waiting or self.state())

    def _live_model(self) -> Any:
        if self.model is None:
            raise RuntimeError("BoundedCache: closed, not attached, or its model is gone")
        return self.model

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

    def before_generation(self, ids: Any, mask: Any, new: int | None, first: bool) -> None:
        """Compares what `generate` gives with what was read: once a call, when all ids are there.

        Prefill in chunks shows them only after it.
        """
        self._padding_is_due |= first
        if not self.tokens:
            return
        if self._padding_is_due and not first:
            self._padding_is_due = False
            if mask is not None and not bool(mask[:, self.tokens - 1].all()):
                raise ValueError(
                    "attention_mask: expected a token at the end of each row, got padding: its "
                    "next token would follow from padding"
                )
        if first and new is not None and new <= 0:
            raise ValueError(
                f"input_ids: expected more than the {self.tokens} tokens that the cache has read, "
                f"got {ids.shape[1]}; new ones alone need an attention_mask of old and new"
            )
        if first and new is None and mask is not None and mask.shape[1] == ids.shape[1]:
            raise ValueError(
                f"input_ids: expected the tokens behind the {self.tokens} that the cache has read, "
                "got the whole text; assisted generation begins with an empty cache"
            )
        self._history_is_due |= first
        if self._history_is_due and new and ids.shape[1] == self.tokens + new:
            self._history_is_due = False
            self._check_history(ids[:, : self.tokens], mask)

    def _check_history(self, ids: Int[Tensor, "batch tokens"], mask: Any) -> None:
        if self.history is None or len(ids) != len(self.history):
            return
        real = torch.ones_like(ids) if mask is None else mask[:, : self.tokens]
        given = history.mixed(ids, history.places(real.bool())).sum(1)
        if bool((given.to(self.history.device) != self.history).any()):
            raise ValueError(
                f"input_ids: expected to begin with the {self.tokens} tokens that the cache has "
                "read, with the same padding, got others; reset() it or make a new one"
            )

    def before_body(self, given: dict[str, Any]) -> dict[str, Any]:
        """Mask and positions of this forward, by a plan that the layers will follow."""
        self._refuse_if_broken()
        support.check_kernel(self.model)
        ids = given.get("input_ids")
        parts = given["inputs_embeds"] if ids is None else ids
        plan = self._prepare(parts.shape[0], parts.shape[1], given.get("attention_mask"))
        self._read = None if ids is None else history.mixed(ids.to(plan.query.device), plan.query)
        return {"attention_mask": plan.mask, "position_ids": plan.position_ids}

    def after_body(self) -> None:
        """The forward's tokens are among those that are held."""
        plan, self.plan = self.plan, None
        assert plan is not None, "a forward that came through had a plan"
        self.held, self.next = plan.left, plan.following
        self.tokens += plan.query.shape[1]
        self.floor = max(self.floor, self.tokens - self.rollback)
        self._remember(plan.query)
        self._head_is_due = plan.around

    def _remember(self, place: Int[Tensor, "batch queries"]) -> None:
        """Which ids were read at which places; of the last ones each, as `crop` takes them back."""
        read, self._read = self._read, None
        unknown = read is None or self.history is None
        self.history = None if unknown else self.history + read.sum(1)
        if self.rollback:
            new = torch.stack([place, torch.zeros_like(place) if read is None else read], dim=2)
            old = new[:, :0] if self.last is None else self.last
            self.last = torch.cat([old, new], dim=1)[:, -self.rollback :]

    def _prepare(self, batch: int, queries: int, mask: Any) -> Plan:
        """The plan of the next forward, from what the caller says about padding."""
        around, self._around = self._around, False
        if not queries:
            raise ValueError("input_ids: expected at least one token, got none")
        device = self.model.device
        if self.held is None:
            self.held = torch.empty(batch, 0, dtype=torch.long, device=device)
            self.next = torch.zeros(batch, 1, dtype=torch.long, device=device)
        if batch != len(self.held):
            raise ValueError(f"input_ids: expected {len(self.held)} rows as before, got {batch}")
        real = self._real(mask, batch, queries).to(device)
        query = torch.where(real, self.next + real.cumsum(1) - 1, -1)
        if self._end is not None and self.tokens + queries > self._end.tokens:
            places.check_end(self.model, int(query.max()))
        self.plan = self.planned(query)
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


def _detached(kind: type[BoundedCache], state: dict[str, Any]) -> BoundedCache:
    """A cache without a model, which waits for `attach`."""
    cache = kind.__new__(kind)
    cache.rollback = 0
    Cache.__init__(cache, layers=[BoundedLayer(cache, 0)])
    cache._model, cache._waiting = _nothing, state
    cache._forget()
    return cache
