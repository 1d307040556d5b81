"""Which entries a bounded KV cache keeps: one small dataclass for each policy.

A `budget` counts the entries that a query sees in each layer and KV head, its own included; the
tokens that a model puts before every text (Gemma's BOS) count like any other. A static policy
looks at positions only. A score-based one looks at what a layer did: attention weights and keys,
one of them at queries and values too. Each of its scores is "higher stays". How a policy is run
(`reencode`, `online`, `prefill`) is the business of `kvlib.cache.protocols`; `protocols` in each
class says which of the three it has.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import numpy as np
import torch

from kvlib.models.rotary import LayerPass, turned

Positions = Literal["true", "cache"]
ALL = ("reencode", "online", "prefill")


class Policy(Protocol):
    """What every policy has: a name for tables and charts, and the protocols it can be run in."""

    @property
    def name(self) -> str: ...

    @property
    def protocols(self) -> tuple[str, ...]: ...

    def check(self, budget: int) -> None:
        """Raises ValueError when the policy cannot work within `budget`."""


# --- static policies: positions decide ------------------------------------------------------


@dataclass(frozen=True)
class SinkRecent:
    """The first `n_sink` entries and the most recent ones: StreamingLLM.

    Keeps {0..n_sink-1} ∪ {t-(budget-n_sink)+1..t} for the query at t. `positions` says where the
    sinks stand after evictions: at their true positions, or (`"cache"`, as published) where they
    lie in the cache. Source: Xiao et al., Efficient Streaming Language Models with Attention
    Sinks, ICLR 2024, arXiv 2309.17453.
    """

    n_sink: int = 4
    positions: Positions = "true"

    @property
    def protocols(self) -> tuple[str, ...]:
        """Cache positions are tried online only: there they are what a server would use."""
        return ("online",) if self.positions == "cache" else ALL

    @property
    def name(self) -> str:
        base = f"{self.n_sink} sinks + recent" if self.n_sink else "sliding window"
        return base + (", cache positions" if self.positions == "cache" else "")

    def check(self, budget: int) -> None:
        """Raises ValueError when sinks fill the budget."""
        _check_budget(budget, self.n_sink + 1)

    def kept(self, context: int, budget: int, rng: np.random.Generator) -> np.ndarray:
        """Sorted positions kept for the query at `context - 1`; all of them when they fit."""
        self.check(budget)
        if context <= budget:
            return np.arange(context)
        recent = np.arange(context - (budget - self.n_sink), context)
        return np.concatenate([np.arange(self.n_sink), recent])

    def survivors(self, length: int, budget: int, rng: np.random.Generator) -> np.ndarray:
        """(length, length) bool: row t holds what the query at t sees when eviction is online."""
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


@dataclass(frozen=True)
class RandomRetention:
    """Random older entries, the newest, and the first `n_sink`: the baseline to beat.

    `online`: when the cache is full, one uniformly drawn older entry goes for each that comes, so
    an entry a tokens old (the query itself: 0) is still there with probability
    (1 - 1/(budget - n_sink))^a: it forgets like a soft window. `prefill` and `reencode`: a uniform
    draw out of the whole past.
    `scope`: `"shared"` draws once for all layers and KV heads, `"heads"` for each layer and KV
    head (not in `reencode`, where tokens are kept). `positions`: in `reencode`, whether the kept
    tokens stand at their true positions or closed up (`"cache"`).
    """

    n_sink: int = 0
    scope: Literal["shared", "heads"] = "shared"
    positions: Positions = "true"

    @property
    def protocols(self) -> tuple[str, ...]:
        """Heads of their own need a cache; tokens closed up need to be encoded again."""
        if self.scope == "heads":
            return ("online", "prefill")
        return ("reencode",) if self.positions == "cache" else ALL

    @property
    def name(self) -> str:
        name = f"{self.n_sink} sinks + random" if self.n_sink else "random"
        name += ", each head its own" if self.scope == "heads" else ""
        return name + (", closed up" if self.positions == "cache" else "")

    def check(self, budget: int) -> None:
        """Raises ValueError when sinks fill the budget."""
        _check_budget(budget, self.n_sink + 1)

    def kept(self, context: int, budget: int, rng: np.random.Generator) -> np.ndarray:
        """Sorted positions kept for the query at `context - 1`; all of them when they fit."""
        self.check(budget)
        if context <= budget:
            return np.arange(context)
        drawn = rng.choice(context - 1 - self.n_sink, budget - 1 - self.n_sink, replace=False)
        older = np.sort(drawn) + self.n_sink
        return np.concatenate([np.arange(self.n_sink), older, [context - 1]])

    def survivors(self, length: int, budget: int, rng: np.random.Generator) -> np.ndarray:
        """(length, length) bool: row t holds what the query at t sees when eviction is online."""
        self.check(budget)
        room = budget - self.n_sink - 1  # places for older entries; the newest has its own
        seen = np.tri(length, dtype=bool)
        older = np.arange(self.n_sink, self.n_sink + room)
        drawn = rng.integers(max(room + 1, 1), size=length)
        for t in range(budget, length):  # t-1 joins the older ones, and one of them goes
            if drawn[t] < room:
                older[drawn[t]] = t - 1
            row = seen[t]
            row[self.n_sink : t] = False
            row[older] = True
        return seen


# --- score-based policies: attention and keys decide ----------------------------------------


@dataclass(frozen=True)
class HeavyHitter:
    """The entries with the largest attention received so far, and recent ones: H2O.

    Score of an entry: the attention weights of all queries since it came, summed, averaged over
    the query heads that share its KV head. `recent_share` of the budget is kept for the newest.
    Source: Zhang et al., H2O, NeurIPS 2023, arXiv 2306.14048.
    """

    recent_share: float = 0.5
    protocols: ClassVar[tuple[str, ...]] = ("online", "prefill")
    name: ClassVar[str] = "heavy hitters (H2O)"

    def check(self, budget: int) -> None:
        """Raises ValueError for a budget without room for an older entry."""
        _check_budget(budget, 2)

    def protected(self, budget: int) -> int:
        """Newest entries that stay whatever their score."""
        return round(budget * self.recent_share)

    def step_scores(
        self, previous: torch.Tensor, attention: torch.Tensor, keys: torch.Tensor
    ) -> torch.Tensor:
        new = _by_kv_head(attention.sum(-2), len(keys))
        new[:, : previous.shape[1]] += previous
        return new

    def target_scores(self, layer: LayerPass, targets: torch.Tensor) -> torch.Tensor:
        sums = _by_kv_head(layer.attention, len(layer.keys)).cumsum_(1)
        return sums[:, targets - 1]


@dataclass(frozen=True)
class TOVA:
    """The entries that the newest query attends to most, the same for all heads of a layer.

    Score: the last query's attention weights, averaged over the heads of the layer. Source: Oren
    et al., Transformers are Multi-State RNNs, EMNLP 2024, arXiv 2401.06104.
    """

    protocols: ClassVar[tuple[str, ...]] = ("online", "prefill")
    name: ClassVar[str] = "TOVA"

    def check(self, budget: int) -> None:
        """Raises ValueError for a budget without room for an older entry."""
        _check_budget(budget, 2)

    def protected(self, budget: int) -> int:
        """Only the newest entry: the model must see what it has just read."""
        return 1

    def step_scores(
        self, previous: torch.Tensor, attention: torch.Tensor, keys: torch.Tensor
    ) -> torch.Tensor:
        return attention[:, -1].mean(0).expand(len(keys), -1).contiguous()

    def target_scores(self, layer: LayerPass, targets: torch.Tensor) -> torch.Tensor:
        return layer.attention[:, targets - 1].mean(0).expand(len(layer.keys), -1, -1)


@dataclass(frozen=True)
class SnapKV:
    """The entries that the last `window` queries of a prompt attend to most, and that window.

    Score: attention weights averaged over those queries and over the query heads that share the KV
    head, then smoothed by an average over `kernel` neighbouring entries. Source: Li et al.,
    SnapKV, NeurIPS 2024, arXiv 2404.14469.
    """

    window: int = 32
    kernel: int = 5
    protocols: ClassVar[tuple[str, ...]] = ("prefill",)
    name: ClassVar[str] = "SnapKV"

    def check(self, budget: int) -> None:
        """Raises ValueError when the observation window and the query fill the budget."""
        _check_budget(budget, self.window + 2)

    def protected(self, budget: int) -> int:
        """The observation window stays."""
        return self.window

    def target_scores(self, layer: LayerPass, targets: torch.Tensor) -> torch.Tensor:
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


@dataclass(frozen=True)
class KeyNorm:
    """The entries whose keys are shortest: a key of small norm tends to draw attention.

    Score: -‖k‖₂, each layer and KV head by itself. Source: Devoto et al., A Simple and Effective
    L2 Norm-Based Strategy for KV Cache Compression, EMNLP 2024, arXiv 2406.11430.
    """

    protocols: ClassVar[tuple[str, ...]] = ("online", "prefill")
    name: ClassVar[str] = "key norm"

    def check(self, budget: int) -> None:
        """Raises ValueError for a budget without room for an older entry."""
        _check_budget(budget, 2)

    def protected(self, budget: int) -> int:
        """None: the norm alone decides."""
        return 0

    def step_scores(
        self, previous: torch.Tensor, attention: torch.Tensor, keys: torch.Tensor
    ) -> torch.Tensor:
        return -keys.norm(dim=-1)

    def target_scores(self, layer: LayerPass, targets: torch.Tensor) -> torch.Tensor:
        return -layer.keys.norm(dim=-1)[:, None].expand(-1, len(targets), -1)


@dataclass(frozen=True)
class ExpectedAttention:
    """The entries that queries still to come can be expected to weigh most, and the first `n_sink`.

    Past queries q before rotation (without those of the sinks) have mean μ and covariance Σ; R is
    the rotation averaged over the next `future` positions, s the factor of q·k in the layer. For
    Gaussian queries the expected weight of a key k is E[exp(s qᵀk)] = exp(s kᵀRμ + s² kᵀRΣRᵀk / 2).
    Score: these weights, as shares of their sum, averaged over the query heads that share the KV
    head, times ‖v‖₂. Source: Devoto, Jeblick, Jégou, Expected Attention, 2025, arXiv 2510.00636.
    """

    future: int = 512
    n_sink: int = 4
    protocols: ClassVar[tuple[str, ...]] = ("prefill",)
    name: ClassVar[str] = "expected attention"

    def check(self, budget: int) -> None:
        """Raises ValueError for a budget that the sinks and the query fill."""
        _check_budget(budget, self.n_sink + 2)

    def protected(self, budget: int) -> int:
        """No recent entry; the sinks stay by an infinite score."""
        return 0

    def target_scores(self, layer: LayerPass, targets: torch.Tensor) -> torch.Tensor:
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
            scores[:, i, sinks:t] = weights * layer.values[:, sinks:t].norm(dim=-1)
        return scores


Static = SinkRecent | RandomRetention
Scored = HeavyHitter | TOVA | SnapKV | KeyNorm | ExpectedAttention
NAMED: dict[str, Policy] = {  # what the command line offers
    "sliding": SlidingWindow(),
    "sinks": SinkRecent(),
    "sinks-cache-positions": SinkRecent(positions="cache"),
    "random": RandomRetention(),
    "random-sinks": RandomRetention(n_sink=4),
    "random-heads": RandomRetention(scope="heads"),
    "random-closed-up": RandomRetention(positions="cache"),
    "random-sinks-closed-up": RandomRetention(n_sink=4, positions="cache"),
    "h2o": HeavyHitter(),
    "tova": TOVA(),
    "snapkv": SnapKV(),
    "key-norm": KeyNorm(),
    "expected-attention": ExpectedAttention(),
}


def _by_kv_head(weights: torch.Tensor, kv_heads: int) -> torch.Tensor:
    """(heads, …) → (kv_heads, …): the mean over the query heads that share a KV head."""
    return weights.unflatten(0, (kv_heads, -1)).mean(1)


def _check_budget(budget: int, least: int) -> None:
    if budget < least:
        raise ValueError(f"budget: expected at least {least}, got {budget}")
