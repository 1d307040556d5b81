"""Rate-distortion functions of finite sources that are known in closed form, in nats.

The solvers of `coding` are held against them; the Gaussian ones stand in `gaussian_coding`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize

from kvlib.theory.bounds import positive, within


def safe_log(values: np.ndarray) -> np.ndarray:
    """log, with the smallest normal float in place of 0: for 0 log 0 = 0."""
    return np.log(np.maximum(values, np.finfo(np.float64).tiny))


def binary_entropy(p: ArrayLike) -> np.ndarray:
    """h(p) = -p log p - (1-p) log(1-p) in nats."""
    p = within("p", p, 0, 1)
    return -(p * safe_log(p) + (1 - p) * safe_log(1 - p))


def star(p: ArrayLike, d: ArrayLike) -> np.ndarray:
    """p∗d = p(1-d) + d(1-p): the crossover of two binary symmetric channels in a row."""
    p, d = within("p", p, 0, 1), within("d", d, 0, 1)
    return p * (1 - d) + d * (1 - p)


def binary_rate(distortion: ArrayLike, p: ArrayLike) -> np.ndarray:
    """h(p) - h(D) for D < min(p, 1-p), else 0: a Bernoulli(p) source under Hamming distortion.

    Also the conditional rate of a doubly symmetric binary source with crossover p.
    """
    p = within("p", p, 0, 1)
    least = np.minimum(p, 1 - p)
    lossy = np.minimum(within("distortion", distortion, 0, np.inf), least)
    return binary_entropy(least) - binary_entropy(lossy)


class Tangent(NamedTuple):
    """Where the straight part begins: its `distortion`, `rate_nats` and `slope` (nats per unit)."""

    distortion: float
    rate_nats: float
    slope: float


def doubly_symmetric_tangent(crossover: float) -> Tangent:
    """The point from which the Wyner-Ziv curve of a doubly symmetric binary source is straight.

    g(d_c) + g'(d_c) (p - d_c) = 0,  g(d) = h(p∗d) - h(d)
    """
    p = float(within("crossover", crossover, 0, 0.5, open_ends=True))

    def slope(d: float) -> float:
        through = star(p, d)
        return (1 - 2 * p) * np.log((1 - through) / through) - np.log((1 - d) / d)

    def curve(d: float) -> float:
        return float(binary_entropy(star(p, d)) - binary_entropy(d))

    at = optimize.brentq(
        lambda d: curve(d) + slope(d) * (p - d), 1e-12 * p, p * (1 - 1e-9), xtol=1e-16
    )
    return Tangent(at, curve(at), -float(slope(at)))


def doubly_symmetric_rate(distortion: ArrayLike, crossover: float) -> np.ndarray:
    """Wyner-Ziv rate of Y = X ⊕ Bernoulli(p), Hamming distortion, 0 < p < 1/2, in nats.

    h(p∗D) - h(D) up to the tangent point, the chord to (p, 0) beyond it (Wyner and Ziv 1976).
    """
    d = within("distortion", distortion, 0, np.inf)
    tangent = doubly_symmetric_tangent(crossover)
    curved = np.minimum(d, tangent.distortion)
    straight = tangent.slope * np.maximum(crossover - d, 0)
    on_curve = binary_entropy(star(crossover, curved)) - binary_entropy(curved)
    return np.where(d <= tangent.distortion, on_curve, straight)[()]


def erased_side_rate(distortion: ArrayLike, erasure: ArrayLike) -> np.ndarray:
    """e (log 2 - h(D/e)) for D < e/2, else 0: a fair bit that the decoder sees unless erased.

    The same whether or not the encoder sees the erasures (Verdú and Weissman 2008).
    """
    e = positive("erasure", within("erasure", erasure, 0, 1))
    share = np.minimum(within("distortion", distortion, 0, np.inf) / e, 0.5)
    return e * (np.log(2) - binary_entropy(share))


def log_loss_rate(distortion: ArrayLike, conditional_entropy: ArrayLike) -> np.ndarray:
    """(H(X|Y) - D)⁺ in nats: under log-loss, side information at one end or both (2014,
    Courtade and Weissman)."""
    entropy = within("conditional_entropy", conditional_entropy, 0, np.inf)
    return np.maximum(entropy - within("distortion", distortion, 0, np.inf), 0)
