"""A bounded cache whose policy looks at more than positions, or draws: each head keeps its own.

It does what `kvlib.cache.protocols` measures `online`. A policy that scores gets attention weights
and keys of each layer after every forward, and before a forward of q tokens each layer and KV head
is cut to its budget - q best entries: what is kept depends on how the text is fed, as with `step`
there. A policy that draws, or looks at positions, is followed token by token, however it is fed.

Every KV head sees entries of its own, so that each attention module gets its own mask.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from kvlib.cache import hooks
from kvlib.cache.bounded import STATE, BoundedCache
from kvlib.cache.plan import Plan
from kvlib.cache.policies import Kept, Policy, Static, Stepwise
from kvlib.models import masks

Heads = Int[Tensor, "batch kv_heads entries"]


class PolicyCache(BoundedCache):
    """What `BoundedCache(budget, policy=…)` makes for policies beyond sinks and recent tokens.

    `policy` has an online form: `RandomRetention`, `HeavyHitter`, `TOVA`, `KeyNorm`, or one of your
    own that derives from `Static` or `Stepwise`. Scores of attention need the model's eager
    attention. `seed`: where a policy that draws begins; all rows of a batch share its draws.

    A forward of a scored policy holds fewer tokens than the budget: give long prompts as
    `generate(prefill_chunk_size=…)`. Raises ValueError for that, for padding, and for settings that
    are those of sinks and recent tokens alone: `n_sink`, `positions="cache"`, `rollback`.
    """

    def __init__(
        self,
        budget: int,
        n_sink: int | None = None,
        *,
        policy: Any,
        model: Any,
        positions: str = "true",
        rollback: int = 0,
        seed: int = 0,
    ) -> None:
        _check(policy, budget, n_sink, positions, rollback, model)
        self.policy, self.seed = policy, seed
        super().__init__(budget, policy.n_sink, model=model)
        modules = masks.attention_modules(self.model)
        self._number = {id(module): k for k, module in enumerate(modules)}
        hooks.install_in_layers(self.model)
        self._try_out()

    def _forget(self) -> None:
        super()._forget()
        self.plan: Any = None
        self.layer_entries: list[Entries] = []  # of each layer, once the first token is read
        self.walk: Walk | None = None  # of a static policy

    def _try_out(self) -> None:
        """Refuses a model whose attention is not handed the cache, or hides its weights."""
        was, ids = self._read_layers(), torch.ones(1, 1, dtype=torch.long)
        with torch.no_grad():
            self.model.base_model(ids.to(self.model.device), past_key_values=self)
        found = self._read_layers() - was
        self.reset()
        if found < len(self.layers):
            raise ValueError(
                f"{type(self.model).__name__}: expected attention that is handed its cache and "
                f"returns its weights, got another; {self.policy.title} is not supported there"
            )

    def _read_layers(self) -> int:
        return sum(entries.read for entries in self.layer_entries)

    def crop(self, tokens_to_remove: int) -> None:
        """Refused: no policy but sinks and recent tokens says what would have been kept."""
        if tokens_to_remove:
            raise ValueError(f"crop: expected 0 with {self.policy.title}, got {tokens_to_remove}")

    def batch_select_indices(self, indices: Int[Tensor, " rows"]) -> None:
        """Keep the rows `indices` of the batch."""
        super().batch_select_indices(indices)
        for entries in self.layer_entries:
            entries.rows(lambda part: part[indices.to(part.device)])

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each row of the batch `repeats` times."""
        super().batch_repeat_interleave(repeats)
        for entries in self.layer_entries:
            entries.rows(lambda part: part.repeat_interleave(repeats, dim=0))

    def __deepcopy__(self, memo: dict[int, Any]) -> PolicyCache:
        """A cache of its own with the same contents, for the same model."""
        self._refuse_if_broken()
        twin = PolicyCache(self.budget, policy=self.policy, model=self.model, seed=self.seed)
        for copied, layer in zip(twin.layers, self.layers, strict=True):
            if layer.is_initialized:
                copied.lazy_initialization(layer.keys, layer.values)
                copied.keys, copied.values = layer.keys.clone(), layer.values.clone()
        for name in STATE:
            setattr(twin, name, getattr(self, name))
        twin.layer_entries, twin.walk = copy.deepcopy((self.layer_entries, self.walk), memo)
        return twin

    def state(self) -> dict[str, Any]:
        """Refused: a policy is code, and what it has drawn and scored is its own."""
        raise ValueError(
            f"state: expected a cache of sinks and recent tokens, got {self.policy.title}; it "
            "cannot be stored"
        )

    @classmethod
    def from_state(cls, state: dict[str, Any], *, model: Any) -> PolicyCache:
        """Refused, as `state` is."""
        raise ValueError(
            "state: expected BoundedCache.from_state, for a cache of sinks and recent tokens; one "
            "with another policy cannot be stored"
        )

    def planned(self, query: Int[Tensor, "batch queries"]) -> Plan:
        """The plan of the next forward; refuses what the policy cannot follow."""
        batch, n = query.shape
        _check_weights(self.policy, self.model)  # it may be switched at any time
        if bool((query < 0).any()):
            raise ValueError(f"{self.policy.title}: expected texts without padding, got some")
        if self.policy.kind == "scored" and n >= self.budget:
            raise ValueError(
                f"{self.policy.title}: expected forwards of fewer tokens than the budget "
                f"{self.budget}, got {n}; give a long prompt with generate(prefill_chunk_size=…)"
            )
        if not self.layer_entries:
            kv_heads, layers, device = _kv_heads(self.model), len(self.layers), self.model.device
            self.layer_entries = [Entries(w, batch, kv_heads, device) for w in self.windows]
            if self.policy.kind == "static":
                self.walk = Walk(self.policy, self.budget, layers, kv_heads, self.seed)
        if self.policy.kind == "scored":
            for entries, layer in zip(self.layer_entries, self.layers, strict=True):
                entries.keep_best(layer, self.policy, self.budget, n)
        else:
            assert self.walk is not None, "a static policy walks"
            self.walk.take(n)
        for entries in self.layer_entries:
            entries.append(query)
        return PolicyPlan(self, query)

    def before_attention(self, module: Any) -> Any:
        """The mask of one layer."""
        k = self._number.get(id(module))
        if k is None or self.plan is None:
            return None
        entries, plan = self.layer_entries[k], self.plan
        seen = entries.visible(plan.query)
        if self.walk is not None:
            seen = seen & self.walk.visible(k, entries.positions, plan.query.shape[1])
        if seen.shape[1] > 1:
            seen = seen.repeat_interleave(self.model.config.num_attention_heads // seen.shape[1], 1)
        return masks.as_mask(self.model, seen)

    def after_attention(self, module: Any, weights: Any) -> None:
        """A scored policy sees what one layer did; a static one evicts."""
        k = self._number.get(id(module))
        if k is None or self.plan is None:
            return
        entries, layer = self.layer_entries[k], self.layers[k]
        if layer.keys is None or layer.keys.shape[:3] != entries.positions.shape:
            return  # it was not handed the cache, or has other heads
        if self.walk is not None:
            entries.cut(layer, self.walk.kept(k, entries.positions))
        elif weights is not None or not self.policy.needs_attention:
            entries.score(self.policy, weights, layer.keys)
        else:
            return
        entries.read += 1


BoundedCache.by_policy = PolicyCache


class PolicyPlan(Plan):
    """One forward, as `kvlib.cache.plan.Plan` has it: layers append, and the cache evicts."""

    def __init__(self, cache: Any, query: Int[Tensor, "batch queries"]) -> None:
        self.slot = self.keep = self.turn = None
        self.around, self.model = False, cache.model
        self.query, self.position_ids, self.left = query, query, cache.held
        self.following = query[:, -1:] + 1
        self.mask = masks.placeholder(
            cache.model, query.shape[1], cache.layer_entries[0].positions.shape[2]
        )


class Entries:
    """Of one layer: position of each entry (batch, kv_heads, entries), and its score."""

    def __init__(self, window: int, batch: int, kv_heads: int, device: Any) -> None:
        self.window = window  # the layer's own, or 0
        self.positions = torch.empty(batch, kv_heads, 0, dtype=torch.long, device=device)
        self.scores: Any = None
        self.read = 0  # forwards that came through

    def rows(self, of: Any) -> None:
        """Another choice of rows of the batch."""
        self.positions = of(self.positions)
        self.scores = None if self.scores is None else of(self.scores)

    def append(self, query: Int[Tensor, "batch queries"]) -> None:
        """The tokens of a forward, behind those that are held."""
        new = query[:, None].expand(-1, self.positions.shape[1], -1)
        self.positions = torch.cat([self.positions, new], dim=2)

    def visible(
        self, query: Int[Tensor, "batch queries"]
    ) -> Bool[Tensor, "batch heads queries entries"]:
        """All that is held, and the forward's own tokens causally."""
        age = query[:, None, :, None] - self.positions[:, :, None]
        return (age >= 0) & (age < self.window) if self.window else age >= 0

    def keep_best(self, layer: Any, policy: Any, budget: int, queries: int) -> None:
        """Cut the layer to its budget - queries best entries."""
        room = budget - queries
        if self.positions.shape[2] <= room:
            return
        ranked = self.scores.clone()
        newest = min(policy.protected(budget), room)
        if newest:
            ranked[..., -newest:] = torch.inf
        self.cut(layer, ranked.topk(room, dim=2).indices.sort(dim=2).values)

    def score(self, policy: Stepwise, weights: Any, keys: Float[Tensor, "batch heads e d"]) -> None:
        """New scores of all entries, row by row."""
        batch, kv_heads, n, _ = keys.shape
        if weights is None:  # nobody looks at them
            weights = keys.new_zeros(1).expand(batch, kv_heads, 1, n)
        old = keys.new_zeros(batch, kv_heads, 0) if self.scores is None else self.scores
        rows = zip(old, weights, keys, strict=True)
        self.scores = torch.stack([policy.step_scores(*row) for row in rows]).detach()

    def cut(self, layer: Any, index: Int[Tensor, "batch heads kept"]) -> None:
        """Keep the entries at `index`."""
        if index.shape[2] == self.positions.shape[2]:
            return
        self.positions = self.positions.gather(2, index)
        self.scores = None if self.scores is None else self.scores.gather(2, index)
        wide = index[..., None].to(layer.keys.device)
        layer.keys = layer.keys.gather(2, wide.expand(*index.shape, layer.keys.shape[-1]))
        layer.values = layer.values.gather(2, wide.expand(*index.shape, layer.values.shape[-1]))


class Walk:
    """A static policy followed token by token: what each draw's next queries see.

    One draw for all layers and KV heads, or one for each. `seen` holds the positions that the
    forward's queries see, a list a draw.
    """

    def __init__(self, policy: Any, budget: int, layers: int, kv_heads: int, seed: int) -> None:
        self.policy, self.budget, self.tokens = policy, budget, 0
        self.kv_heads = kv_heads if policy.by_head else 1
        count = layers * kv_heads if policy.by_head else 1
        self.rngs = draws(seed, count)
        self.seen: list[list[Kept]] = [[np.arange(0)] for _ in range(count)]

    def take(self, queries: int) -> None:
        """Go on by the tokens of a forward."""
        for k, rng in enumerate(self.rngs):
            held, path = self.seen[k][-1], []
            for t in range(self.tokens, self.tokens + queries):
                held = self.policy.step(held, t, self.budget, rng)
                path.append(held)
            self.seen[k] = path
        self.tokens += queries

    def _draws(self, layer: int) -> list[list[Kept]]:
        first = layer * self.kv_heads if self.policy.by_head else 0
        return self.seen[first : first + self.kv_heads]

    def visible(
        self, layer: int, positions: Heads, queries: int
    ) -> Bool[Tensor, "one heads queries entries"]:
        """Who sees whom; rows of a batch share the draws, and so their positions."""
        where = positions[0].cpu().numpy()
        rows = [
            [np.isin(where[h], seen) for seen in path] for h, path in enumerate(self._draws(layer))
        ]
        return torch.from_numpy(np.array(rows))[None].to(positions.device)

    def kept(self, layer: int, positions: Heads) -> Int[Tensor, "batch heads kept"]:
        """Index of the entries that the last query of the forward saw."""
        where = positions[0].cpu().numpy()
        rows = [
            np.flatnonzero(np.isin(where[h], path[-1])) for h, path in enumerate(self._draws(layer))
        ]
        index = torch.from_numpy(np.array(rows)).to(positions.device)
        return index[None].expand(*positions.shape[:2], -1)


def draws(seed: int, count: int) -> list[np.random.Generator]:
    """A generator for each draw; a single one is that of `seed` itself."""
    if count == 1:
        return [np.random.default_rng(seed)]
    return [np.random.default_rng([seed, k]) for k in range(count)]


def _kv_heads(model: Any) -> int:
    config = model.config
    return getattr(config, "num_key_value_heads", None) or config.num_attention_heads


def _check(
    policy: Any, budget: int, n_sink: int | None, positions: str, rollback: int, model: Any
) -> None:
    """Refuses by name what a policy cannot do or does not get."""
    if not isinstance(policy, Static | Stepwise):
        got = policy.title if isinstance(policy, Policy) else type(policy).__name__
        raise ValueError(f"policy: expected one with an online form, got {got}")
    policy.check_protocol("online")
    policy.check(budget)
    given = {"positions": (positions, "true"), "rollback": (rollback, 0)}
    for name, (value, only) in given.items():
        if value != only:
            raise ValueError(
                f"{name}: expected {only!r} with {policy.title}, got {value!r}; others are for "
                "sinks and recent tokens"
            )
    if n_sink not in (None, policy.n_sink):
        raise ValueError(f"n_sink: expected the policy's own {policy.n_sink}, got {n_sink}")
    _check_weights(policy, model)


def _check_weights(policy: Any, model: Any) -> None:
    """Refuses attention that hides what a policy looks at."""
    kind = getattr(getattr(model, "config", None), "_attn_implementation", "eager")
    if isinstance(policy, Stepwise) and policy.needs_attention and kind != "eager":
        raise ValueError(
            f"{policy.title}: expected eager attention, whose weights can be seen, got {kind}; "
            "model.set_attn_implementation('eager')"
        )
