"""The three ways to run a cache policy on a text, never to be mixed up.

`reencode`: the kept tokens are encoded again from scratch, behind the model's own prefix. For a
    suffix this is the suffix-only class, the one that the converse bound speaks of.
`online`: entries go as tokens come, and later tokens are computed from what was left, as a server
    does it. This is a recurrent summary.
`prefill`: one eviction after a pass with full attention. The kept entries were computed with the
    evicted ones in sight: omniscient, and no bound of the book covers it.

`run` is the door to all of them. It returns last hidden states (targets, width) of the model's
body, for targets given as positions in `ids`; `kvlib.measure.policy_distortion` applies the head.
Policies become attention masks (`kvlib.models.masks`), or evict from a real cache. What a policy
has to offer for that is in `kvlib.cache.policies`.

On models with sliding layers (Gemma: 512 tokens) a policy is intersected with them: an entry that
such a layer's own window has passed is invisible there, kept or not, sinks included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import DynamicCache

from kvlib.cache.bounded import BoundedCache
from kvlib.cache.policies import Policy, Scored, Static, Stepwise
from kvlib.models import LanguageModel, check_length, masks
from kvlib.models.memory import in_batches, tokens_at_once
from kvlib.models.rotary import LayerPass

Ids = Int[Tensor, " tokens"]
Targets = Int[np.ndarray, " targets"]
Hidden = Float[Tensor, "targets width"]
Weights = Float[Tensor, "batch heads queries entries"]
STEP = 32  # tokens a step of a score-based policy; never more than an eighth of the budget
BATCH_TOKENS = 1024  # tokens of one re-encoding pass
CHUNK = 256  # tokens a forward through a cache whose sinks are copied for each query


class FullPass:
    """A pass with full attention over `ids` behind the prefix: the reference of every protocol.

    `whole` are the tokens with the prefix, `states` (tokens, width) the last hidden states of
    `ids`, `cache` holds each layer's keys and values. For the scored policies in `scored`
    (`to_score` finds them) it keeps, a layer each, their `target_scores` at `targets` (kv_heads,
    targets, tokens); then attention weights are computed openly.
    """

    def __init__(
        self,
        lm: LanguageModel,
        ids: Ids,
        targets: Targets,
        scored: Sequence[Scored] = (),
    ) -> None:
        check_length(lm, len(ids))
        self.lm, self.ids, self.targets = lm, ids, targets
        self.whole = lm.prefixed(ids)
        self.rows = _rows(lm, targets)
        self.scores: dict[Scored, list[torch.Tensor]] = {policy: [] for policy in scored}
        self.cache = DynamicCache()  # without a config: sliding layers keep all their entries too
        everything = torch.arange(len(self.whole), device=lm.device)[None]

        def take(
            k: int,
            hidden: Float[Tensor, "batch tokens width"],
            weights: Float[Tensor, "batch heads tokens tokens"],
        ) -> None:
            kept = self.cache.layers[k]
            layer = LayerPass(weights[0], kept.keys[0], kept.values[0], hidden[0], lm.model, k)
            for policy, scores in self.scores.items():
                scores.append(policy.target_scores(layer, self.rows))

        run = dict(position_ids=everything, past_key_values=self.cache, use_cache=True)
        with torch.inference_mode():
            if scored:
                with masks.eager(lm.model), _attention_of(lm, take):
                    out = lm.model.base_model(self.whole[None], **run)
            else:
                out = lm.model.base_model(self.whole[None], **run)
        self.all_states = out.last_hidden_state[0]
        self.states = self.all_states[len(lm.prefix_ids) :]

    def first(self, tokens: int) -> DynamicCache:
        """A new cache with the entries of the first `tokens` tokens."""
        cache = DynamicCache()
        for k, layer in enumerate(self.cache.layers):
            cache.update(layer.keys[:, :, :tokens], layer.values[:, :, :tokens], k)
        return cache


def to_score(policies: Sequence[Policy], protocol: str) -> list[Scored]:
    """The policies whose scores a `FullPass` has to keep for a protocol."""
    return [cast(Scored, p) for p in policies if protocol == "prefill" and p.kind == "scored"]


def draws(policy: Policy, budget: int, seed: int = 0, doc: int = 0) -> np.random.Generator:
    """Where a policy draws from: anew for each document and budget.

    The stored tables were drawn by titles; a random policy with another title draws otherwise.
    """
    return np.random.default_rng([seed, doc, budget, *policy.title.encode()])


def run(
    full: FullPass,
    policy: Policy,
    protocol: str,
    budget: int,
    rng: np.random.Generator,
    step: int = STEP,
) -> Hidden:
    """A policy in a protocol: last hidden states (targets, width) at the targets of `full`.

    Args:
        full: the reference. For a scored policy after a prefill it must hold its scores.
        budget: entries that a query sees in each layer and KV head, itself included.
        rng: for policies that draw; see `draws`.
        step: tokens a forward of a scored policy online; at most an eighth of the budget.

    Raises:
        ValueError: an unknown protocol, one that the policy does not have, a budget below its
            least.
    """
    policy.check_protocol(protocol)
    policy.check(budget)
    return _ROUTES[protocol, policy.kind](full, policy, budget, rng, step)


def online_hidden(full: FullPass, policy: Static, budget: int, rng: np.random.Generator) -> Hidden:
    """A static policy online, in one forward: who survives at each step is an attention mask.

    The first `budget` tokens still see everything, so their entries are those of the full pass.
    Equals `decode_hidden`, its plain twin, which evicts from a real cache token by token.
    """
    lm, length = full.lm, len(full.whole)
    if budget >= length:
        return full.all_states[full.rows]
    if policy.positions == "cache":  # no mask can say this: through the cache that does
        cache = BoundedCache(budget, policy.n_sink, model=lm.model, positions="cache")
        with torch.inference_mode():
            parts = [
                lm.model.base_model(chunk[None], past_key_values=cache).last_hidden_state[0]
                for chunk in full.whole.split(CHUNK)
            ]
        return torch.cat(parts)[full.rows]
    seen = torch.from_numpy(_survivors(lm, policy, length, budget, rng)).to(lm.device)
    rest = torch.arange(budget, length, device=lm.device)
    age = rest[:, None] - torch.arange(length, device=lm.device)
    seen = seen[..., budget:, :]
    windows = masks.sliding_windows(lm.model)
    run = dict(position_ids=rest[None], past_key_values=full.first(budget), use_cache=True)
    with torch.inference_mode():
        if seen.ndim == 2:
            out = lm.model.base_model(
                full.whole[None, rest],
                attention_mask=masks.masks_for(lm.model, seen[None, None], age),
                **run,
            )
        else:
            with masks.layer_masks(
                lm.model, lambda k: seen[k] & masks.near(rest, length, windows[k])
            ):
                out = lm.model.base_model(
                    full.whole[None, rest],
                    attention_mask=masks.placeholder(lm.model, len(rest), length),
                    **run,
                )
    return torch.cat([full.all_states[:budget], out.last_hidden_state[0]])[full.rows]


def decode_hidden(
    lm: LanguageModel,
    ids: Ids,
    targets: Targets,
    policy: Static | Stepwise,
    budget: int,
    rng: np.random.Generator,
    step: int = 1,
) -> Hidden:
    """A policy online with a real evicting cache, `step` tokens a forward.

    Before each forward the cache of each layer is cut to `budget - step` entries, so that no query
    sees more than `budget`. Static policies need step = 1. Attention weights come from the model's
    own eager implementation.
    """
    check_length(lm, len(ids))
    whole, static = lm.prefixed(ids), policy.kind == "static"
    if static and step != 1:
        raise ValueError(f"step: expected 1 for a static policy, got {step}")
    if step >= budget:
        raise ValueError(f"step: expected less than the budget {budget}, got {step}")
    seen = torch.empty(0)
    if static:
        survivors = _survivors(lm, cast(Static, policy), len(whole), budget, rng)
        seen = torch.from_numpy(survivors).to(lm.device)
    cache = DynamicCache()
    held = [_Held(window) for window in masks.sliding_windows(lm.model)]
    states = []
    with torch.inference_mode(), masks.eager(lm.model), _attention_of(lm) as attention:
        for begin in range(0, len(whole), step):
            chunk = torch.arange(begin, min(begin + step, len(whole)), device=lm.device)
            for k, layer in enumerate(cache.layers):
                if static:
                    held[k].keep_seen(layer, seen if seen.ndim == 2 else seen[k], begin)
                else:
                    held[k].keep_best(layer, cast(Stepwise, policy), budget, step)
            with masks.layer_masks(lm.model, lambda k: held[k].mask(chunk)):  # noqa: B023 (used at once)
                out = lm.model.base_model(
                    whole[None, chunk],
                    attention_mask=masks.placeholder(
                        lm.model, len(chunk), held[0].length + len(chunk)
                    ),
                    position_ids=chunk[None],
                    past_key_values=cache,
                    use_cache=True,
                )
            states.append(out.last_hidden_state[0])
            for k, layer in enumerate(cache.layers):
                held[k].append(chunk, layer.keys.shape[1])
                if not static:
                    held[k].score(cast(Stepwise, policy), attention[k], layer.keys[0])
    return torch.cat(states)[_rows(lm, targets)]


def reencode_hidden(
    lm: LanguageModel,
    ids: Ids,
    targets: Targets,
    policy: Static,
    budget: int,
    rng: np.random.Generator,
) -> Hidden:
    """What is kept for each target, encoded again from scratch behind the prefix.

    The budget counts tokens of the text; the prefix (Gemma's BOS) stands in front in addition, as
    in `truncation_sensitivity`. Kept tokens stand closed up, or where they stood in the text if the
    policy is not `closed_up`.
    """
    kept = [policy.kept(int(t) + 1, budget, rng) for t in targets]
    prefix = len(lm.prefix_ids)
    states: dict[int, torch.Tensor] = {}
    lengths = np.array([len(k) for k in kept])
    tokens_a_pass = tokens_at_once(lm, BATCH_TOKENS)

    def read(some: Int[np.ndarray, " rows"]) -> Float[Tensor, "rows width"]:
        positions = torch.from_numpy(np.stack([kept[r] for r in some])).to(lm.device)
        tokens = lm.prefixed(ids[positions])
        where = torch.arange(tokens.shape[1], device=lm.device).expand(len(some), -1)
        if not policy.closed_up:
            where = torch.cat([where[:, :prefix], positions + prefix], dim=1)
        with torch.inference_mode():
            # a mask of ones: without it transformers takes a jump in positions for a new text
            out = lm.model.base_model(
                tokens,
                attention_mask=torch.ones_like(tokens),
                position_ids=where,
                use_cache=False,
            )
        return out.last_hidden_state[:, -1]

    for length in np.unique(lengths):
        rows = np.flatnonzero(lengths == length)
        read_now = in_batches(lm, read, rows, max(1, tokens_a_pass // int(length)))
        states |= dict(zip(rows.tolist(), torch.cat(read_now), strict=True))
    return torch.stack([states[r] for r in range(len(targets))])


def prefill_hidden(
    full: FullPass, policy: Static | Scored, budget: int, rng: np.random.Generator
) -> Hidden:
    """One eviction after the full pass, at every target: the cache of x[0..t-1] is cut to
    `budget - 1` entries in each layer and head; then x[t] is read, at its true position.

    All targets go through one further forward, each with a mask of its own.
    """
    lm, n, length = full.lm, len(full.targets), len(full.whole)
    if policy.kind == "scored":
        scored = cast(Scored, policy)
        layers = [_best(full, scores, scored, budget) for scores in full.scores[scored]]
    else:
        layers = _drawn(full, cast(Static, policy), budget, rng)
    own = torch.eye(n, dtype=torch.bool, device=lm.device)
    windows = masks.sliding_windows(lm.model)

    def mask(k: int) -> Bool[Tensor, "heads targets entries"]:
        seen = layers[k % len(layers)] & masks.near(full.rows, length, windows[k])
        return torch.cat([seen, own.expand(len(seen), -1, -1)], dim=-1)

    with torch.inference_mode(), masks.layer_masks(lm.model, mask):
        out = lm.model.base_model(
            full.whole[None, full.rows],
            attention_mask=masks.placeholder(lm.model, n, length + n),
            position_ids=full.rows[None],
            past_key_values=full.first(length),
            use_cache=True,
        )
    return out.last_hidden_state[0]


def _best(
    full: FullPass, scores: Float[Tensor, "kv_heads targets tokens"], policy: Scored, budget: int
) -> Bool[Tensor, "kv_heads targets tokens"]:
    """(kv_heads, targets, tokens) bool: the budget - 1 best entries before each target."""
    age = full.rows[:, None] - torch.arange(len(full.whole), device=full.lm.device)
    newest = min(policy.protected(budget), budget - 1)
    ranked = scores.masked_fill((age > 0) & (age <= newest), torch.inf)
    ranked = ranked.masked_fill(age <= 0, -torch.inf)
    best = ranked.topk(min(budget - 1, ranked.shape[-1]), dim=-1).indices
    return torch.zeros_like(ranked, dtype=torch.bool).scatter_(-1, best, True) & (age > 0)


def _drawn(
    full: FullPass, policy: Static, budget: int, rng: np.random.Generator
) -> list[Bool[Tensor, "heads targets tokens"]]:
    """One (1, targets, tokens) bool for all layers, or one (kv_heads, targets, tokens) for each."""
    layers = full.cache.layers
    shape = (len(layers), layers[0].keys.shape[1]) if policy.by_head else (1, 1)
    kept = np.zeros((*shape, len(full.targets), len(full.whole)), dtype=bool)
    for draw in np.ndindex(shape):
        for i, t in enumerate(full.rows.tolist()):
            kept[(*draw, i, policy.kept(t + 1, budget, rng)[:-1])] = True
    return list(torch.from_numpy(kept).to(full.lm.device))


# --- the routes: three protocols, two kinds of policies ----------------------------------------


def _reencode(full: FullPass, policy: Any, budget: int, rng: Any, step: int) -> Hidden:
    return reencode_hidden(full.lm, full.ids, full.targets, policy, budget, rng)


def _online(full: FullPass, policy: Any, budget: int, rng: Any, step: int) -> Hidden:
    return online_hidden(full, policy, budget, rng)


def _decode(full: FullPass, policy: Any, budget: int, rng: Any, step: int) -> Hidden:
    step = min(step, max(1, budget // 8))
    return decode_hidden(full.lm, full.ids, full.targets, policy, budget, rng, step)


def _prefill(full: FullPass, policy: Any, budget: int, rng: Any, step: int) -> Hidden:
    return prefill_hidden(full, policy, budget, rng)


_ROUTES = {  # there is no text to encode again when each head keeps entries of its own
    ("reencode", "static"): _reencode,
    ("online", "static"): _online,
    ("online", "scored"): _decode,
    ("prefill", "static"): _prefill,
    ("prefill", "scored"): _prefill,
}


# --- inside the protocols --------------------------------------------------------------------


@contextmanager
def _attention_of(
    lm: LanguageModel,
    take: Callable[[int, Float[Tensor, "batch queries width"], Weights], None] | None = None,
) -> Iterator[dict[int, Float[Tensor, "heads queries entries"]]]:
    """Hands each layer's number, what went into its attention (batch, queries, width) and the
    weights (batch, heads, queries, entries) to `take`, or keeps the weights of the batch's first in
    the dictionary it yields."""
    found: dict[int, torch.Tensor] = {}
    hooks = []

    def after(k: int) -> Callable:
        def look(module: torch.nn.Module, args: tuple, kwargs: dict, out: tuple) -> None:
            if take:
                take(k, args[0] if args else kwargs["hidden_states"], out[1])
            else:
                found[k] = out[1][0]

        return look

    try:
        for k, module in enumerate(masks.attention_modules(lm.model)):
            hooks.append(module.register_forward_hook(after(k), with_kwargs=True))
        yield found
    finally:
        for hook in hooks:
            hook.remove()


class _Held:
    """What one layer's cache holds: position of each entry (kv_heads, n) and its score."""

    def __init__(self, window: int) -> None:
        self.positions: torch.Tensor | None = None
        self.scores: torch.Tensor | None = None
        self.window = window  # the layer's own, or 0

    @property
    def length(self) -> int:
        return 0 if self.positions is None else self.positions.shape[1]

    def mask(self, chunk: Int[Tensor, " queries"]) -> Bool[Tensor, "kv_heads queries entries"]:
        """(kv_heads, queries, entries + queries): all that is held, and the chunk causally."""
        own = (chunk <= chunk[:, None])[None]
        if self.positions is None:
            return own
        old = torch.ones_like(self.positions, dtype=torch.bool)[:, None]
        seen = old.expand(-1, len(chunk), -1)
        if self.window:
            seen = chunk[:, None] - self.positions[:, None] < self.window
        return torch.cat([seen, own.expand(len(seen), -1, -1)], dim=-1)

    def append(self, chunk: Int[Tensor, " queries"], kv_heads: int) -> None:
        new = chunk.expand(kv_heads, -1)
        self.positions = new if self.positions is None else torch.cat([self.positions, new], dim=1)

    def score(
        self,
        policy: Stepwise,
        attention: Float[Tensor, "heads queries entries"],
        keys: Float[Tensor, "kv_heads entries head_dim"],
    ) -> None:
        previous = keys.new_zeros(len(keys), 0) if self.scores is None else self.scores
        self.scores = policy.step_scores(previous, attention, keys)

    def keep_best(self, layer: Any, policy: Scored, budget: int, step: int) -> None:
        """Cut the layer to its `budget - step` best entries."""
        room = budget - step
        if self.length <= room:
            return
        assert self.scores is not None, "what is held was scored"
        ranked = self.scores.clone()
        newest = min(policy.protected(budget), room)
        if newest:
            ranked[:, -newest:] = torch.inf
        self._take(layer, ranked.topk(room, dim=1).indices.sort(dim=1).values)

    def keep_seen(self, layer: Any, seen: Bool[Tensor, "... tokens tokens"], t: int) -> None:
        """Cut the layer to what the query at t may see: `seen` is ([kv_heads,] tokens, tokens)."""
        assert self.positions is not None, "a cache with entries has positions"
        now = seen[..., t, :].expand(len(self.positions), -1).gather(1, self.positions)
        if bool(now.all()):
            return
        count = int(now[0].sum())
        self._take(layer, now.float().topk(count, dim=1).indices.sort(dim=1).values)

    def _take(self, layer: Any, index: Int[Tensor, "kv_heads kept"]) -> None:
        assert self.positions is not None, "a cache with entries has positions"
        self.positions = self.positions.gather(1, index)
        if self.scores is not None:
            self.scores = self.scores.gather(1, index)
        wide = index[None, ..., None].expand(-1, -1, -1, layer.keys.shape[-1])
        layer.keys, layer.values = layer.keys.gather(2, wide), layer.values.gather(2, wide)


def _survivors(
    lm: LanguageModel, policy: Static, length: int, budget: int, rng: np.random.Generator
) -> Bool[np.ndarray, "... tokens tokens"]:
    """(length, length) for all layers, or (layers, kv_heads, length, length)."""
    if not policy.by_head:
        return policy.survivors(length, budget, rng)
    config = lm.model.config
    kv_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    draws = [
        [policy.survivors(length, budget, rng) for _ in range(kv_heads)]
        for _ in masks.attention_modules(lm.model)
    ]
    return np.array(draws)


def _rows(lm: LanguageModel, targets: Targets) -> Int[Tensor, " targets"]:
    return torch.as_tensor(np.asarray(targets) + len(lm.prefix_ids), device=lm.device)
