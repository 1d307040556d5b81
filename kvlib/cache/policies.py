"""Which entries a bounded KV cache keeps: the contract of a policy, and one small class for each.

A `budget` counts the entries that a query sees in each layer and KV head, its own included; the
tokens that a model puts before every text (Gemma's BOS) count like any other. A static policy
looks at positions only. A scored one looks at what a layer did: attention weights and keys, one of
them at queries and values too. How a policy is run is the business of `kvlib.cache.protocols.run`.

A policy is a frozen dataclass that derives from `Static`, `Scored` or `Stepwise` and fills in what
is abstract there; one line, `register(…)`, gives it to the command line.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from kvlib.models.rotary import LayerPass, turned
from kvlib.names import PROTOCOLS, name_of

Positions = Literal["true", "cache"]
Kept = Int[np.ndarray, " kept"]  # positions, ascending
Held = Int[np.ndarray, " held"]  # positions, in the order of their places
NAMED: dict[str, Policy] = {}  # by their keys: what the command line offers


def register(*policies: Policy) -> None:
    """Offer policies by their keys; ValueError for a key that is taken."""
    for policy in policies:
        if policy.key in NAMED:
            raise ValueError(f"policy: expected a key that is free, got {policy.key!r} again")
        NAMED[policy.key] = policy


def about(keys: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What pages must know of policies, who know no models: manifests carry it."""
    return {key: {"title": NAMED[key].title, "n_sink": NAMED[key].n_sink} for key in keys}


# --- the contract ---------------------------------------------------------------------------


class Policy(ABC):
    """What every policy has. Instances are compared and hashed by value.

    `kind` says by which of its methods a policy is run: "static" or "scored". `n_sink` are the
    first entries that it keeps whatever comes; predictions do not count them as recent tokens.
    `draws` says whether what it keeps is drawn at random.
    """

    kind: ClassVar[Literal["static", "scored"]]
    draws: ClassVar[bool] = False
    n_sink: int = 0

    @property
    @abstractmethod
    def key(self) -> str:
        """Its name in rows, in manifests and on the command line: lower case, with hyphens."""

    @property
    def title(self) -> str:
        """How a sentence calls it: what `kvlib.names` says of the key, else the key.

        A policy that is none of the book's may say its own, as it says its key.
        """
        return name_of(self.key)

    @property
    @abstractmethod
    def protocols(self) -> tuple[str, ...]:
        """Those of `kvlib.names.PROTOCOLS` in which it can be run."""

    @property
    @abstractmethod
    def least(self) -> int:
        """The least budget, in entries, within which it can work."""

    def check(self, budget: int) -> None:
        """Raises ValueError when the policy cannot work within `budget` entries."""
        if budget < self.least:
            raise ValueError(f"budget: expected at least {self.least}, got {budget}")

    def check_protocol(self, protocol: str) -> None:
        """Raises ValueError for a protocol that the policy does not have."""
        if protocol not in self.protocols:
            raise ValueError(
                f"{self.title}: expected one of its protocols {', '.join(self.protocols)}, "
                f"got {protocol!r}"
            )


class Static(Policy):
    """A policy that looks at positions only.

    An entry that has gone must not come back: what `survivors` keeps of the past only shrinks.
    `by_head`: whether each layer and KV head draws by itself (not in `reencode`, where tokens are
    kept). `positions`: where sinks stand online once entries have gone; `"cache"`, where they lie,
    is `BoundedCache`'s and for sinks and recent entries alone. `closed_up`: whether tokens that are
    read again in `reencode` stand as if nothing had stood between them.
    """

    kind: ClassVar[Literal["static", "scored"]] = "static"
    positions: Positions = "true"

    @property
    def by_head(self) -> bool:
        """All layers and KV heads share one draw."""
        return False

    @property
    def closed_up(self) -> bool:
        """Closed up."""
        return True

    @property
    def protocols(self) -> tuple[str, ...]:
        """All three."""
        return PROTOCOLS

    @property
    def least(self) -> int:
        """The sinks and the query's own entry."""
        return self.n_sink + 1

    def step(self, held: Held, t: int, budget: int, rng: np.random.Generator) -> Kept:
        """Online, what the query at t sees, itself last, where the query before it saw `held`.

        Called for t = 0, 1, 2 … in turn. The rows of `survivors`, for texts whose length nobody
        knows: from the same `rng` they are the same.
        """
        return self.kept(t + 1, budget, rng)

    @abstractmethod
    def kept(self, context: int, budget: int, rng: np.random.Generator) -> Kept:
        """Positions kept for the query at `context - 1`, out of 0 … context - 1.

        Ascending, min(budget, context) of them, the query's own last. `rng` is for policies that
        draw. Raises ValueError for a budget below `least`.
        """

    def survivors(
        self, length: int, budget: int, rng: np.random.Generator
    ) -> Bool[np.ndarray, "tokens tokens"]:
        """Who is seen by whom when entries go as tokens come, for a text of `length` tokens.

        Row t holds what the query at t sees: causal, itself included, at most `budget` entries.
        Here row by row from `kept`, which is right where what is kept of the past only shrinks;
        a policy that draws, or knows a faster way, has its own.
        """
        seen = np.zeros((length, length), dtype=bool)
        for t in range(length):
            seen[t, self.kept(t + 1, budget, rng)] = True
        return seen


class Scored(Policy):
    """A policy that ranks entries by what a layer did with them, in each layer and KV head.

    Of every score: higher stays. `heads` are the query heads of a layer, `kv_heads` its KV heads;
    heads h·n … (h+1)·n - 1 share KV head h, where n = heads / kv_heads. Without more, a scored
    policy is run after a prefill only: see `Stepwise`.
    """

    kind: ClassVar[Literal["static", "scored"]] = "scored"

    @property
    def protocols(self) -> tuple[str, ...]:
        """Scores need a cache, and these need all of a prompt."""
        return ("prefill",)

    @property
    def least(self) -> int:
        """The sinks, one entry that was chosen, and the query's own."""
        return self.n_sink + 2

    @abstractmethod
    def protected(self, budget: int) -> int:
        """How many of the newest entries stay whatever their score."""

    @abstractmethod
    def target_scores(
        self, layer: LayerPass, targets: Int[Tensor, " targets"]
    ) -> Float[Tensor, "kv_heads targets tokens"]:
        """Scores of a whole pass at several moments: before each target is read.

        Args:
            layer: what one layer did in a pass with full attention over all tokens: `attention`
                (heads, tokens, tokens) weights, each row a query's, causal and adding up to 1;
                `keys` and `values` (kv_heads, tokens, head_dim) as the cache holds them, rotated;
                `queries` (heads, tokens, head_dim) before rotation.
            targets: token numbers, the prefix counted, each 1 or more.

        Returns:
            The score of each token as an entry of the cache that holds the tokens before a target
            t. It may look at queries and keys 0 … t - 1 alone; scores of tokens from t on are
            ignored. `inf` keeps an entry for certain. Comparable within a KV head only.
        """


class Stepwise(Scored):
    """A scored policy whose scores can be kept up while entries come and go: run online too.

    `needs_attention`: whether it looks at weights, which eager attention alone lets one see.
    """

    needs_attention: ClassVar[bool] = True

    @property
    def protocols(self) -> tuple[str, ...]:
        """Whatever has a cache."""
        return ("online", "prefill")

    @abstractmethod
    def step_scores(
        self,
        previous: Float[Tensor, "kv_heads old"],
        attention: Float[Tensor, "heads queries entries"],
        keys: Float[Tensor, "kv_heads entries head_dim"],
    ) -> Float[Tensor, "kv_heads entries"]:
        """Scores of the entries that a layer holds after a forward of a few tokens.

        Args:
            previous: scores of the entries held before, in the order of the first `old` entries;
                empty (kv_heads, 0) in the beginning.
            attention: weights of the forward's queries over all entries, their own among them;
                entries = old + queries, the new ones last. Weights of later entries are 0.
            keys: of all entries, as the cache holds them, rotated.

        Returns:
            One score an entry. `target_scores` at t equals it for a single forward of the tokens
            0 … t - 1.
        """


# --- static policies: positions decide ------------------------------------------------------


@dataclass(frozen=True)
class SinkRecent(Static):
    """The first `n_sink` entries and the most recent ones: StreamingLLM.

    Keeps {0..n_sink-1} ∪ {t-(budget-n_sink)+1..t} for the query at t. `positions` says where the
    sinks stand after evictions: at their true positions, or (`"cache"`, as published) where they
    lie in the cache. Source: Xiao et al., Efficient Streaming Language Models with Attention
    Sinks, ICLR 2024, arXiv 2309.17453.
    """

    n_sink: int = 4
    positions: Positions = "true"

    @property
    def key(self) -> str:
        key = {0: "sliding", 4: "sinks"}.get(self.n_sink, f"sinks-{self.n_sink}")
        return key + ("-cache-positions" if self.positions == "cache" else "")

    @property
    def protocols(self) -> tuple[str, ...]:
        """Cache positions are tried online only: there they are what a server would use."""
        return ("online",) if self.positions == "cache" else PROTOCOLS

    def kept(self, context: int, budget: int, rng: np.random.Generator) -> Kept:
        self.check(budget)
        if context <= budget:
            return np.arange(context)
        recent = np.arange(context - (budget - self.n_sink), context)
        return np.concatenate([np.arange(self.n_sink), recent])

    def survivors(
        self, length: int, budget: int, rng: np.random.Generator
    ) -> Bool[np.ndarray, "tokens tokens"]:
        """As in the contract, in one comparison of positions."""
        self.check(budget)
        query, entry = np.arange(length)[:, None], np.arange(length)
        recent = (entry <= query) & (entry > query - (budget - self.n_sink))
        return recent | ((entry < self.n_sink) & (entry <= query))


@dataclass(frozen=True)
class SlidingWindow(SinkRecent):
    """The last `budget` entries and nothing else: `SinkRecent` without sinks.

    Re-encoded from scratch it is the paper's suffix-only class. Online, the L layers together
    still see a suffix of L(budget-1)+1 tokens. Source: Beltagy et al., Longformer, 2020, arXiv
    2004.05150.
    """

    n_sink: int = 0


register(SlidingWindow(), SinkRecent(), SinkRecent(positions="cache"))


@dataclass(frozen=True)
class RandomRetention(Static):
    """Random older entries, the newest, and the first ones: the baseline to beat.

    `online`: when the cache is full, one uniformly drawn older entry goes for each that comes, so
    an entry a tokens old (the query itself: 0) is still there with probability
    (1 - 1/(budget - n_sink))^a: it forgets like a soft window. `prefill` and `reencode`: a uniform
    draw out of the whole past.
    Protected from the draw are the first `n_sink` and `pinned_share` of the budget more, and of the
    newest `recent_share` of the budget, the query's own at least: with the same protection as a
    policy that scores, what is left of a difference is the score's.
    `scope`: `"shared"` draws once for all layers and KV heads, `"heads"` for each layer and KV
    head (not in `reencode`, where tokens are kept). `positions`: in `reencode`, whether the kept
    tokens stand at their true positions or closed up (`"cache"`).
    """

    draws: ClassVar[bool] = True
    n_sink: int = 0
    scope: Literal["shared", "heads"] = "shared"
    positions: Positions = "true"
    recent_share: float = 0.0
    pinned_share: float = 0.0

    def __repr__(self) -> str:
        """As manifests have it: the shares where they are not 0, as before there were any."""
        of_shares = ("recent_share", "pinned_share")
        names = [f.name for f in fields(self) if f.name not in of_shares or getattr(self, f.name)]
        shown = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
        return f"{type(self).__name__}({shown})"

    @property
    def key(self) -> str:
        sinks = {0: "", 4: "-sinks"}.get(self.n_sink, f"-sinks-{self.n_sink}")
        heads = "-heads" if self.by_head else ""
        shares = (("pinned", self.pinned_share), ("recent", self.recent_share))
        kept = "".join(
            f"-{name}" + ("" if share == 0.5 else f"-{100 * share:.0f}")
            for name, share in shares
            if share
        )
        return f"random{sinks}{heads}{kept}" + ("-closed-up" if self.closed_up else "")

    @property
    def by_head(self) -> bool:
        """Whether each layer and KV head draws by itself."""
        return self.scope == "heads"

    @property
    def closed_up(self) -> bool:
        """Whether tokens that are read again stand closed up."""
        return self.positions == "cache"

    @property
    def protocols(self) -> tuple[str, ...]:
        """Heads of their own need a cache; tokens closed up need to be encoded again."""
        if self.by_head:
            return ("online", "prefill")
        return ("reencode",) if self.closed_up else PROTOCOLS

    @property
    def least(self) -> int:
        """What is protected, the query's own entry with it."""
        budget = self.n_sink + 1
        while self.first(budget) + self.newest(budget) > budget:
            budget += 1
        return budget

    def first(self, budget: int) -> int:
        """How many of the first entries stay."""
        return self.n_sink + int(budget * self.pinned_share)

    def newest(self, budget: int) -> int:
        """How many of the newest entries stay, the query's own with them."""
        return max(1, int(budget * self.recent_share))

    def kept(self, context: int, budget: int, rng: np.random.Generator) -> Kept:
        self.check(budget)
        if context <= budget:
            return np.arange(context)
        first, newest = self.first(budget), self.newest(budget)
        drawn = rng.choice(context - newest - first, budget - newest - first, replace=False)
        older = np.sort(drawn) + first
        return np.concatenate([np.arange(first), older, np.arange(context - newest, context)])

    def step(self, held: Held, t: int, budget: int, rng: np.random.Generator) -> Kept:
        """As in the contract; places of older entries are kept, so that draws mean the same."""
        self.check(budget)
        first, newest = self.first(budget), self.newest(budget)
        room = budget - first - newest
        drawn = int(rng.integers(max(room + 1, 1)))
        if t < budget:
            return np.append(held, t)
        older = held[first : first + room].copy()
        if drawn < room:
            older[drawn] = held[first + room]
        return np.concatenate([held[:first], older, held[first + room + 1 :], [t]])

    def survivors(
        self, length: int, budget: int, rng: np.random.Generator
    ) -> Bool[np.ndarray, "tokens tokens"]:
        """As in the contract, by one draw a token: row by row, what went would come back."""
        self.check(budget)
        first, newest = self.first(budget), self.newest(budget)
        room = budget - first - newest  # places for older entries
        seen = np.tri(length, dtype=bool)
        older = np.arange(first, first + room)
        drawn = rng.integers(max(room + 1, 1), size=length)
        for t in range(budget, length):  # t-newest joins the older ones, and one of them goes
            if drawn[t] < room:
                older[drawn[t]] = t - newest
            row = seen[t]
            row[first : t - newest + 1] = False
            row[older] = True
        return seen


register(RandomRetention(), RandomRetention(n_sink=4), RandomRetention(scope="heads"))
register(RandomRetention(positions="cache"), RandomRetention(n_sink=4, positions="cache"))
for scope in ("shared", "heads"):  # the same protection as sinks, as heavy hitters, as a prompt
    register(RandomRetention(recent_share=0.5, scope=scope))
    register(RandomRetention(n_sink=4, recent_share=0.5, scope=scope))
register(RandomRetention(n_sink=4, scope="heads"))
register(RandomRetention(pinned_share=0.5, scope="heads"))


# --- scored policies: attention and keys decide ---------------------------------------------


@dataclass(frozen=True)
class HeavyHitter(Stepwise):
    """The entries with the largest attention received so far, and recent ones: H2O.

    Score of an entry: the attention weights of all queries since it came, summed, averaged over
    the query heads that share its KV head. `recent_share` of the budget is kept for the newest.
    Source: Zhang et al., H2O, NeurIPS 2023, arXiv 2306.14048.
    """

    recent_share: float = 0.5

    @property
    def key(self) -> str:
        share = {0.5: "", 0: "-unprotected"}.get(self.recent_share)
        return "h2o" + (f"-{100 * self.recent_share:.0f}" if share is None else share)

    def protected(self, budget: int) -> int:
        """Newest entries that stay whatever their score."""
        return round(budget * self.recent_share)

    def step_scores(
        self,
        previous: Float[Tensor, "kv_heads old"],
        attention: Float[Tensor, "heads queries entries"],
        keys: Float[Tensor, "kv_heads entries head_dim"],
    ) -> Float[Tensor, "kv_heads entries"]:
        new = _by_kv_head(attention.sum(-2), len(keys))
        new[:, : previous.shape[1]] += previous
        return new

    def target_scores(
        self, layer: LayerPass, targets: Int[Tensor, " targets"]
    ) -> Float[Tensor, "kv_heads targets tokens"]:
        sums = _by_kv_head(layer.attention, len(layer.keys)).cumsum_(1)
        return sums[:, targets - 1]


register(HeavyHitter(), HeavyHitter(recent_share=0))


@dataclass(frozen=True)
class TOVA(Stepwise):
    """The entries that the newest query attends to most, the same for all heads of a layer.

    Score: the last query's attention weights, averaged over the heads of the layer. Source: Oren
    et al., Transformers are Multi-State RNNs, EMNLP 2024, arXiv 2401.06104.
    """

    key: ClassVar[str] = "tova"

    def protected(self, budget: int) -> int:
        """Only the newest entry: the model must see what it has just read."""
        return 1

    def step_scores(
        self,
        previous: Float[Tensor, "kv_heads old"],
        attention: Float[Tensor, "heads queries entries"],
        keys: Float[Tensor, "kv_heads entries head_dim"],
    ) -> Float[Tensor, "kv_heads entries"]:
        return attention[:, -1].mean(0).expand(len(keys), -1).contiguous()

    def target_scores(
        self, layer: LayerPass, targets: Int[Tensor, " targets"]
    ) -> Float[Tensor, "kv_heads targets tokens"]:
        return layer.attention[:, targets - 1].mean(0).expand(len(layer.keys), -1, -1)


register(TOVA())


@dataclass(frozen=True)
class SnapKV(Scored):
    """The entries that the last `window` queries of a prompt attend to most, and that window.

    Score: attention weights averaged over those queries and over the query heads that share the KV
    head, then smoothed by an average over `kernel` neighbouring entries. Source: Li et al.,
    SnapKV, NeurIPS 2024, arXiv 2404.14469.
    """

    window: int = 32
    kernel: int = 5
    key: ClassVar[str] = "snapkv"

    @property
    def least(self) -> int:
        """The observation window, one entry that was chosen, and the query's own."""
        return self.window + 2

    def protected(self, budget: int) -> int:
        """The observation window stays."""
        return self.window

    def target_scores(
        self, layer: LayerPass, targets: Int[Tensor, " targets"]
    ) -> Float[Tensor, "kv_heads targets tokens"]:
        attention, kv_heads, rows = layer.attention, len(layer.keys), []
        for t in targets.tolist():
            before = t - self.window  # the window itself is protected
            if before < 1:  # and holds everything
                rows.append(attention.new_zeros(kv_heads, attention.shape[-1]))
                continue
            seen = attention[:, before:t, :before].mean(1)
            smooth = torch.nn.functional.avg_pool1d(
                seen[None], self.kernel, stride=1, padding=self.kernel // 2
            )[0]
            row = _by_kv_head(smooth, kv_heads)
            rows.append(torch.nn.functional.pad(row, (0, attention.shape[-1] - before)))
        return torch.stack(rows, 1)


register(SnapKV())


@dataclass(frozen=True)
class KeyNorm(Stepwise):
    """The entries whose keys are shortest: a key of small norm tends to draw attention.

    Score: -‖k‖₂, each layer and KV head by itself. Source: Devoto et al., A Simple and Effective
    L2 Norm-Based Strategy for KV Cache Compression, EMNLP 2024, arXiv 2406.11430.
    """

    needs_attention: ClassVar[bool] = False
    key: ClassVar[str] = "key-norm"

    def protected(self, budget: int) -> int:
        """None: the norm alone decides."""
        return 0

    def step_scores(
        self,
        previous: Float[Tensor, "kv_heads old"],
        attention: Float[Tensor, "heads queries entries"],
        keys: Float[Tensor, "kv_heads entries head_dim"],
    ) -> Float[Tensor, "kv_heads entries"]:
        return -keys.norm(dim=-1)

    def target_scores(
        self, layer: LayerPass, targets: Int[Tensor, " targets"]
    ) -> Float[Tensor, "kv_heads targets tokens"]:
        return -layer.keys.norm(dim=-1)[:, None].expand(-1, len(targets), -1)


register(KeyNorm())


@dataclass(frozen=True)
class ExpectedAttention(Scored):
    """The entries that queries still to come can be expected to weigh most, and the first `n_sink`.

    Past queries q before rotation (without those of the sinks) have mean μ and covariance Σ; R is
    the rotation averaged over the next `future` positions, s the factor of q·k in the layer. For
    Gaussian queries the expected weight of a key k is E[exp(s qᵀk)] = exp(s kᵀRμ + s² kᵀRΣRᵀk / 2).
    Score: these weights, as shares of their sum, averaged over the query heads that share the KV
    head, times ‖v‖₂. Source: Devoto, Jeblick, Jégou, Expected Attention, 2025, arXiv 2510.00636.
    """

    future: int = 512
    n_sink: int = 4
    key: ClassVar[str] = "expected-attention"

    def protected(self, budget: int) -> int:
        """No recent entry; the sinks stay by an infinite score."""
        return 0

    def target_scores(
        self, layer: LayerPass, targets: Int[Tensor, " targets"]
    ) -> Float[Tensor, "kv_heads targets tokens"]:
        queries, sinks = layer.queries, self.n_sink
        kv_heads, tokens, width = layer.keys.shape
        center = queries.mean(1, keepdim=True)  # near every mean: the sums below lose no digits
        past = (queries - center)[:, sinks:].double()
        sums, squares, done = past.new_zeros(len(past), width), 0.0, 0
        scores = layer.keys.new_zeros(kv_heads, len(targets), tokens)
        scores[..., :sinks] = torch.inf
        order = targets.argsort().tolist()
        for i, t in zip(order, targets[order].tolist(), strict=True):
            n = t - sinks
            if n < 1:  # the sinks are all there is
                continue
            more = past[:, done:n]
            sums, squares, done = sums + more.sum(1), squares + more.mT @ more, n
            mean = sums / n
            cov = (squares / n - mean[:, :, None] * mean[:, None]).float()
            where = torch.arange(t, t + self.future, device=targets.device)
            cos, sin = (part.mean(0) for part in layer.turns(where))
            mean = turned(mean.float() + center[:, 0], cos, sin)
            cov = turned(turned(cov, cos, sin).mT, cos, sin).mT
            keys = layer.keys[:, None, sinks:t] * layer.scaling
            first = keys @ mean.unflatten(0, (kv_heads, -1))[..., None]
            second = (keys @ cov.unflatten(0, (kv_heads, -1)) * keys).sum(-1) / 2
            weights = (first[..., 0] + second).softmax(-1).mean(1)
            assert layer.values is not None, "a pass that is scored keeps its values"
            scores[:, i, sinks:t] = weights * layer.values[:, sinks:t].norm(dim=-1)
        return scores


register(ExpectedAttention())


def _by_kv_head(
    weights: Float[Tensor, "heads ..."], kv_heads: int
) -> Float[Tensor, "kv_heads ..."]:
    """(heads, …) → (kv_heads, …): the mean over the query heads that share a KV head."""
    return weights.unflatten(0, (kv_heads, -1)).mean(1)
