"""Rate-distortion of finite sources: solvers that certify their error.

Rates in nats per symbol. Each solver minimises rate + slope · distortion, whose minimum V(s) is
the intercept of a tangent to the rate-distortion curve, and brackets it from both sides at every
step. On a straight part of the curve one slope has many optimal points: compare V there, never
the distortion.
"""

from __future__ import annotations

import itertools
import warnings
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize

from kvlib.theory.bounds import within
from kvlib.theory.closed_forms import safe_log

MASS_TOLERANCE = 1e-9
MOST_STRATEGIES = 2**16


@dataclass(frozen=True)
class RatePoint:
    """A point at slope `slope` of a rate-distortion curve, and how far it may be off.

    `rate_nats` at `distortion` is achievable (it belongs to `channel`), and the least rate there
    is at most `gap` lower: V(slope) lies in [value - gap, value]. `converged` says gap ≤ the
    tolerance asked for. `trace` (iterations, 2) holds the certified lower and upper value of V at
    each step, `channel` the test channel (source symbol, reproduction or strategy).
    """

    rate_nats: float
    distortion: float
    slope: float
    converged: bool
    gap: float
    iterations: int
    trace: np.ndarray = field(repr=False, compare=False)
    channel: np.ndarray = field(repr=False, compare=False)

    @property
    def value(self) -> float:
        """rate + slope · distortion, in nats."""
        return self.rate_nats + self.slope * self.distortion


def blahut_arimoto(
    source: ArrayLike,
    distortion: ArrayLike,
    slope: float,
    tolerance: float = 1e-10,
    max_iterations: int = 2000,
) -> RatePoint:
    """The rate-distortion function R(D) of a finite source where it has slope -s.

        V(s) = min_Q -Σ_x p(x) log Z_x,  Z_x = Σ_y Q(y) e^{-s d(x,y)}
        V(Q) - log max_y c(y) ≤ V(s) ≤ V(Q),  c(y) = Σ_x p(x) e^{-s d(x,y)} / Z_x

    Each step is the classical Q ← Q·c followed by a Newton step on the same convex function,
    which is quick also where Blahut and Arimoto's own steps crawl. The bracket holds for any Q
    (Csiszár 1974), so that it judges both. Source symbols of no mass are allowed.

    Args:
        source: p(x), shape (symbols,); `distortion`: d(x, y), shape (symbols, reproductions).
        slope: s ≥ 0 in nats per unit of distortion.

    Warns (RuntimeWarning) when the gap is above `tolerance` at the end. Raises ValueError for
    wrong shapes, a negative slope, or mass that is not one.
    """
    p = probabilities("source", source, 1)
    d = _distortion(distortion, len(p))
    slope = float(within("slope", slope, 0, np.inf))
    seen = p > 0
    p, d = p[seen], d[seen]
    least = d.min(axis=1)
    kernel = np.exp(-slope * (d - least[:, None]))
    law, trace, best, base = np.full(d.shape[1], 1 / d.shape[1]), [], -np.inf, slope * p @ least
    for iteration in range(1, max_iterations + 1):
        mix = kernel @ law
        growth = (p / mix) @ kernel
        upper = base - p @ np.log(mix)
        best = max(best, upper - np.log(growth.max()))
        trace.append((upper - np.log(growth.max()), upper))
        if upper - best <= tolerance or iteration == max_iterations:
            break
        law = _newton(kernel, p, law * growth)
    channel = law * kernel / mix[:, None]
    rate = _kl(channel, law * growth, p)
    full = np.tile(law, (len(seen), 1))  # what an unseen symbol is sent to costs nothing
    full[seen] = channel
    return _point(rate, p @ (channel * d).sum(axis=1), slope, best, tolerance, trace, full)


def _newton(kernel: np.ndarray, p: np.ndarray, law: np.ndarray) -> np.ndarray:
    """One step of Newton's method for min -Σ p log(kernel @ law) over probability vectors.

    The quadratic model is a least-squares problem over the simplex, which `nnls` solves exactly:
    of ‖C u‖² + (1 - Σu)² over u ≥ 0 the minimiser, normalised, is that of ‖C v‖² over laws v.
    """
    mix = kernel @ law
    root = np.sqrt(p)
    model = kernel * (root / mix)[:, None] - 2 * root[:, None]
    try:
        target = optimize.nnls(np.vstack([model, np.ones(len(law))]), np.r_[np.zeros(len(p)), 1])[0]
    except RuntimeError:  # nnls ran out of steps: the plain step still descends
        return law
    step, before = target / target.sum() - law, p @ np.log(mix)
    for halving in range(12):
        new = law + 0.5**halving * step
        if p @ np.log(kernel @ new) >= before - 1e-15 * (1 + abs(before)):
            return new
    return law


def conditional_blahut_arimoto(
    joint: ArrayLike,
    distortion: ArrayLike,
    slope: float,
    tolerance: float = 1e-10,
    max_iterations: int = 2000,
) -> RatePoint:
    """The conditional rate-distortion function R_{X|Y}, side information Y known at both ends.

    `joint` is p(x, y); one `blahut_arimoto` at the same slope for every y of positive mass. The
    answer has the shape of theirs; `trace` and `channel` are empty.
    """
    joint = probabilities("joint", joint, 2)
    weights = joint.sum(axis=0)
    kept = np.flatnonzero(weights)
    points = [
        blahut_arimoto(joint[:, y] / weights[y], distortion, slope, tolerance, max_iterations)
        for y in kept
    ]
    rate, level, gap = (
        float(weights[kept] @ [getattr(point, name) for point in points])
        for name in ("rate_nats", "distortion", "gap")
    )
    iterations = max(point.iterations for point in points)
    nothing = np.empty((0, 2))
    return RatePoint(rate, level, float(slope), gap <= tolerance, gap, iterations, nothing, nothing)


def strategies(reproductions: int, side_symbols: int) -> np.ndarray:
    """All maps from side information to reproductions, shape (reproductions^side_symbols, side).

    Raises ValueError above MOST_STRATEGIES: their number is exponential in the side alphabet.
    """
    if (number := reproductions**side_symbols) > MOST_STRATEGIES:
        raise ValueError(f"strategies: expected at most {MOST_STRATEGIES}, got {number}")
    return np.array(list(itertools.product(range(reproductions), repeat=side_symbols)))


def wyner_ziv(
    joint: ArrayLike,
    distortion: ArrayLike,
    slope: float,
    tolerance: float = 1e-10,
    max_iterations: int = 5000,
) -> RatePoint:
    """The Wyner-Ziv function, side information Y at the decoder alone, where it has slope -s.

        min I(X; T | Y) + s E d(X, T(Y))  over channels q(t|x), t a map from y to reproductions

    Alternating minimisation of a jointly convex function (Willems 1983; Dupuis, Yu and Willems
    2004); the certificate is our reconstruction: with V(Q) the minimum over q at the law Q(t|y)
    and Q' the law that this q induces,

        V(Q) - Σ_y p(y) log max_t Q'(t|y)/Q(t|y) ≤ V(s) ≤ V(Q).

    In logs throughout, and no strategy is dropped. Where the curve turns into its straight part
    the steps become slow: the gap then says so.

    Args:
        joint: p(x, y); `distortion`: d(x, x̂); `slope`: s ≥ 0 in nats per unit.

    The channel's columns are `strategies(reproductions, side symbols of positive mass)`. Warns
    and raises as `blahut_arimoto` does, and for too many strategies.
    """
    joint = probabilities("joint", joint, 2)
    d = _distortion(distortion, len(joint))
    slope = float(within("slope", slope, 0, np.inf))
    seen = joint.sum(axis=1) > 0
    joint = joint[seen][:, joint.sum(axis=0) > 0]
    px, py = joint.sum(axis=1), joint.sum(axis=0)
    y_of_x, maps = joint / px[:, None], strategies(d.shape[1], len(py))
    cost = np.einsum("xy,xty->xt", y_of_x, d[seen][:, maps])
    with np.errstate(divide="ignore"):
        log_x_of_y = np.log(joint / py).T[:, :, None]  # (y, x, 1)
    log_law = np.full((len(py), len(maps)), -np.log(len(maps)))  # log Q(t|y)
    trace, best = [], -np.inf
    for iteration in range(1, max_iterations + 1):
        log_channel = y_of_x @ log_law - slope * cost
        log_z = log_sum_exp(log_channel, 1)
        log_channel -= log_z[:, None]
        log_new = log_sum_exp(log_x_of_y + log_channel, 1)
        upper = -px @ log_z
        lower = upper - py @ (log_new - log_law).max(axis=1)
        best = max(best, lower)
        trace.append((lower, upper))
        if upper - best <= tolerance or iteration == max_iterations:
            break
        log_law = log_new
    channel = np.exp(log_channel)
    rate = float((px[:, None] * channel * (log_channel - y_of_x @ log_new)).sum())
    full = np.full((len(seen), len(maps)), 1 / len(maps))
    full[seen] = channel
    return _point(rate, px @ (channel * cost).sum(axis=1), slope, best, tolerance, trace, full)


# --- checks and small sums --------------------------------------------------------------------


def probabilities(name: str, values: ArrayLike, ndim: int, axis: int | None = None) -> np.ndarray:
    """Probabilities of `ndim` axes that sum to one over `axis` (all of them by default)."""
    p = np.asarray(values, dtype=np.float64)
    if p.ndim != ndim or not p.size:
        raise ValueError(f"{name}: expected {ndim} axes and an entry, got shape {p.shape}")
    if not (p >= 0).all():  # NaN fails this too
        raise ValueError(f"{name}: expected probabilities, got a minimum of {p.min():.6g}")
    mass = p.sum(axis=axis, keepdims=True)
    if not (np.abs(mass - 1) <= MASS_TOLERANCE).all():
        worst = mass.flat[np.abs(mass - 1).argmax()]
        raise ValueError(f"{name}: expected mass 1, got {worst:.10g}")
    return p / mass


def _distortion(values: ArrayLike, symbols: int) -> np.ndarray:
    d = np.asarray(values, dtype=np.float64)
    if d.ndim != 2 or d.shape[0] != symbols or not d.shape[1]:
        raise ValueError(f"distortion: expected shape ({symbols}, reproductions), got {d.shape}")
    if not np.isfinite(d).all() or (d < 0).any():
        raise ValueError("distortion: expected finite values ≥ 0, got others among them")
    return d


def log_sum_exp(values: np.ndarray, axis: int) -> np.ndarray:
    top = values.max(axis=axis, keepdims=True)
    return np.log(np.exp(values - top).sum(axis=axis)) + top.squeeze(axis)


def _kl(channel: np.ndarray, law: np.ndarray, weights: np.ndarray) -> float:
    """Σ_x w(x) KL(channel(·|x) ‖ law)."""
    return float(weights @ (channel * (safe_log(channel) - safe_log(law))).sum(axis=1))


def _point(
    rate: float,
    distortion: float,
    slope: float,
    lower: float,
    tolerance: float,
    trace: list[tuple[float, float]],
    channel: np.ndarray,
) -> RatePoint:
    """The point of a solver's last step; warns when its gap is above the tolerance."""
    gap = max(float(rate + slope * distortion - lower), 0.0)
    converged = gap <= tolerance
    if not converged:
        warnings.warn(
            f"rate-distortion at slope {slope:.6g}: expected a gap of at most {tolerance:.1e}, "
            f"got {gap:.1e} after {len(trace)} iterations",
            RuntimeWarning,
            stacklevel=3,
        )
    return RatePoint(
        max(float(rate), 0.0),
        float(distortion),
        slope,
        converged,
        gap,
        len(trace),
        np.array(trace),
        channel,
    )
