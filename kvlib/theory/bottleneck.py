"""What a cache must say about the past when the query comes afterwards: one step of the game.

An information bottleneck with side information, by alternating minimisation with restarts. It
isn't convex, so nothing here is certified except by the closed forms below.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize

from kvlib.theory.bounds import within
from kvlib.theory.closed_forms import binary_entropy, safe_log, star
from kvlib.theory.coding import log_sum_exp, probabilities


@dataclass(frozen=True)
class BottleneckPoint:
    """The best of several descents: I(F; M | S) = `rate_nats` and I(X; F | M, S) = `excess_nats`.

    `value` = rate + multiplier · excess is an upper bound on the minimum: the problem isn't
    convex and nothing certifies it. `values` holds that of every start, `channel` the best
    q(m|f). `converged`: the best start fell by no more than the tolerance in its last step.
    """

    rate_nats: float
    excess_nats: float
    multiplier: float
    converged: bool
    iterations: int
    values: np.ndarray = field(repr=False, compare=False)
    channel: np.ndarray = field(repr=False, compare=False)

    @property
    def value(self) -> float:
        """rate + multiplier · excess, in nats."""
        return self.rate_nats + self.multiplier * self.excess_nats


def bottleneck(
    joint: ArrayLike,
    predictions: ArrayLike,
    multiplier: float,
    size: int,
    restarts: int = 12,
    seed: int = 0,
    tolerance: float = 1e-13,
    max_iterations: int = 5000,
) -> BottleneckPoint:
    """What a cache M of the past F must say when the query S comes afterwards, for one step.

        min I(F; M | S) + λ I(X; F | M, S)  over channels q(m|f)

    An information bottleneck (Tishby, Pereira and Bialek 1999) with side information: indirect
    rate-distortion under log-loss. The rate is one of many independent caches coded together; a
    single cache needs H(M) ≥ I(F; M) ≥ I(F; M | S). [Our reconstruction.]

    Args:
        joint: p(f, s); `predictions`: the law of the next token given f and s, (f, s, x).
        multiplier: λ ≥ 0; `size`: number of cache states m; `restarts`: random first channels.

    Warns when the best start still moves at the end. Raises ValueError for wrong shapes or mass.
    """
    joint = probabilities("joint", joint, 2)
    p = probabilities("predictions", predictions, 3, axis=-1)
    if p.shape[:2] != joint.shape:
        raise ValueError(f"predictions: expected shape {joint.shape} + (x,), got {p.shape}")
    within("multiplier", multiplier, 0, np.inf)
    if size < 1 or restarts < 1:
        raise ValueError(f"size and restarts: expected at least 1, got {size} and {restarts}")
    seen = joint.sum(axis=1) > 0
    joint, p = joint[seen][:, joint.sum(axis=0) > 0], p[seen][:, joint.sum(axis=0) > 0]
    s_of_f, f_of_s = joint / joint.sum(axis=1, keepdims=True), joint / joint.sum(axis=0)
    negative_entropy = (p * safe_log(p)).sum(axis=-1)
    rng = np.random.default_rng(seed)
    q = rng.dirichlet(np.full(size, 0.5), (restarts, len(joint)))  # (start, f, m)
    previous = np.full(restarts, np.inf)
    for iteration in range(1, max_iterations + 1):
        law = np.einsum("fs,rfm->rsm", f_of_s, q)
        output = np.einsum("fs,rfm,fsx->rsmx", f_of_s, q, p, optimize=True)
        output /= np.maximum(law[..., None], 1e-300)
        log_law = safe_log(law)
        score = np.einsum("fsx,rsmx->rfsm", p, safe_log(output), optimize=True)
        rate = np.einsum("fs,rfm->r", joint, q * safe_log(q))
        rate -= np.einsum("fs,rfm,rsm->r", joint, q, log_law, optimize=True)
        excess = (joint * negative_entropy).sum()
        excess = excess - np.einsum("fs,rfm,rfsm->r", joint, q, score, optimize=True)
        values = rate + multiplier * excess
        best = int(values.argmin())
        converged = bool(previous[best] - values[best] <= tolerance)
        settled = bool((previous - values <= tolerance).all())
        if settled or iteration == max_iterations:
            break
        previous = values
        log_q = np.einsum("fs,rfsm->rfm", s_of_f, log_law[:, None] + multiplier * score)
        q = np.exp(log_q - log_sum_exp(log_q, 2)[..., None])
    if not converged:
        warnings.warn(
            f"bottleneck: expected a last step of at most {tolerance:.1e}, got "
            f"{previous[best] - values[best]:.1e} after {iteration} iterations",
            RuntimeWarning,
            stacklevel=2,
        )
    full = np.full((len(seen), size), 1 / size)
    full[seen] = q[best]
    rate, excess = max(float(rate[best]), 0.0), max(float(excess[best]), 0.0)
    return BottleneckPoint(rate, excess, float(multiplier), converged, iteration, values, full)


# --- closed forms -----------------------------------------------------------------------------


def binary_bottleneck_rate(excess_nats: float, crossover: float) -> float:
    """Least I(F; M) with I(X; F | M) ≤ ε for a fair bit F and X = F ⊕ Bernoulli(p), 0 < p < 1/2.

    log 2 - h(d) where h(p∗d) = h(p) + ε, by Mrs. Gerber's lemma; 0 from ε = log 2 - h(p) on.
    """
    p = float(within("crossover", crossover, 0, 0.5, open_ends=True))
    target = float(binary_entropy(p)) + float(within("excess_nats", excess_nats, 0, np.inf))
    if target >= np.log(2):
        return 0.0
    d = optimize.brentq(lambda d: binary_entropy(star(p, d)) - target, 0, 0.5, xtol=1e-16)
    return float(np.log(2) - binary_entropy(d))


def recall_value(multiplier: ArrayLike, lag_law: ArrayLike) -> np.ndarray:
    """log 2 · Σ_k min(1, λ p_k): the bottleneck value where query k asks for the k-th past bit.

    A bit is worth keeping whole once λ p_k > 1, and not at all before.
    """
    multiplier = within("multiplier", multiplier, 0, np.inf)
    return np.log(2) * np.minimum(
        1, multiplier[..., None] * probabilities("lag_law", lag_law, 1)
    ).sum(-1)
