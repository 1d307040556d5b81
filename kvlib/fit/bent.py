"""Laws with two shapes: how a decay bends from a power law, and how strong its reference is.

`bend` fits one family for the rivals: log Δ(w) = a - c ℓ_b(w/64), ℓ_b(x) = (x^b - 1)/b, so that c
is the local exponent at 64 tokens. There b = 0 is the power law with α = c, b = 1 the exponential,
in between lie the stretched exponentials, and b < 0 falls to a floor. `strength` leaves the bracket
of the finite reference free: D(w) = C [(w+1)^-α - λ mean (T+1)^-α], where λ = 1 is a Bayes
predictor on a power-law source and λ = 0 no effect of the reference at all. Both are weighted least
squares in the logarithm; intervals are over documents, and weights are estimated anew for every
sample.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from kvlib.fit.curve import Curve
from kvlib.fit.estimate import Estimate, estimate, jackknife
from kvlib.fit.laws import SHIFT

PIVOT = 64  # tokens: c is the local exponent there, whatever b
FLOOR, BENT = -1.5, 2.5  # b is sought between these
BENDS, RATES = np.linspace(FLOOR, BENT, 51), np.geomspace(0.02, 4, 40)
BRACKET_BENDS = np.linspace(0, BENT, 33)
RESAMPLES = 400
EDGE = 1e-3  # a b below it is at the end of its range
STEPS = 40  # of Levenberg and Marquardt; a handful is enough where the curve says anything
NUDGE, ARRIVED = 1e-5, 1e-8  # of a shape: for slopes, and a step too small to go on


@dataclass(frozen=True)
class Shapes:
    """Two shapes of a law fitted to a curve; `fits` (1 + samples, 2) are those behind them."""

    first: Estimate
    second: Estimate
    fits: np.ndarray


def box_cox(x: np.ndarray, b: np.ndarray | float) -> np.ndarray:
    """ℓ_b(x) = (x^b - 1)/b, and log x at b = 0; broadcasts."""
    log = np.log(x)
    b = np.asarray(b, dtype=float)
    safe = np.where(np.abs(b) < 1e-9, 1.0, b)
    return np.where(np.abs(b) < 1e-9, log, np.expm1(safe * log) / safe)


def bend(data: Curve, root: bool = False) -> Shapes:
    """b (`first`) and c (`second`, the exponent at 64 tokens) of a curve, without a bracket.

    With `root` the curve is a total variation and its square is fitted: b stays, c is that of
    the square. Jackknife-t intervals. Raises ValueError for fewer than 4 windows or 3 documents.
    """
    y, weights = leaving_out(data)
    fits = solve(y * (1 + root), weights, plain, BENDS, RATES, data)
    return _jackknifed(fits)


def bend_of_reference(data: Curve, root: bool = False, seed: int = 0) -> Shapes:
    """b ≥ 0 and c where the reference is finite: D(w) = Δ_b(w+1) - mean Δ_b(T+1).

    Below zero the bracket makes the family turn back: as c → 0 with b = -α the difference becomes
    the power law's own, C [(w+1)^-α - mean (T+1)^-α]. So b < 0 is no other law, and is not sought;
    an estimate of 0 is at the end of the range. A jackknife has no width there: where some sample
    without a document gets to 0, the interval is the percentile one of resampled documents, else
    jackknife-t. `root` as in `bend`. Raises ValueError as `bend`.
    """
    fits = _bracketed(data, root, *leaving_out(data))
    if fits[:, 0].min() > EDGE:
        return _jackknifed(fits)
    fits = _bracketed(data, root, *resampled(data, RESAMPLES, seed))
    first, second = (estimate(column[0], column[1:], data.n_documents) for column in fits.T)
    return Shapes(first, second, fits)


def _jackknifed(fits: np.ndarray) -> Shapes:
    """Shapes with jackknife-t intervals, from fits to all documents and without each."""
    first, second = (jackknife(column[0], column[1:]) for column in fits.T)
    return Shapes(first, second, fits)


def _bracketed(data: Curve, root: bool, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return solve(y * (1 + root), weights, bracketed, BRACKET_BENDS, RATES, data)


def strength(data: Curve, root: bool = False) -> Shapes:
    """α (`first`) and λ (`second`) of the bracket with a free strength, jackknife-t intervals.

    λ is sought from -4 to 4, and below what would make the bracket zero at the longest window.
    With `root`, τ = C' [(w+1)^-2a - λ mean (T+1)^-2a]^½ is fitted, and `first` is 2a.
    """
    y, weights = leaving_out(data)
    alphas, strengths = np.linspace(0.02, 3, 120), np.linspace(-4, 4, 161)
    fits = solve(y * (1 + root), weights, weighed, alphas, strengths, data)
    return _jackknifed(fits)


@dataclass(frozen=True)
class BentLaw:
    """The law of one b that fits a curve best: log D = (level + log(Δ - reference)) / power.

    Δ = exp(-rate ℓ_b((w + shift)/64)). `reference` is the mean of Δ over the references, and 0
    where they are taken as endless; `power` is 2 for the root law. `misfit` is the weighted root
    mean square of what it misses log D by.
    """

    b: float
    level: float
    rate: float
    reference: float
    shift: float
    power: int
    misfit: float

    def log_value(self, window: np.ndarray) -> np.ndarray:
        """log D at windows; nan where the reference leaves nothing."""
        near = np.exp(-self.rate * box_cox((window + self.shift) / PIVOT, self.b))
        with np.errstate(invalid="ignore", divide="ignore"):
            return (self.level + np.log(near - self.reference)) / self.power


def bent_law(data: Curve, b: float, bracket: bool, root: bool = False) -> BentLaw:
    """The law with this b that fits a curve best, with the bracket of `bend_of_reference` or
    without; `root` as in `bend`. Raises ValueError for fewer than 4 windows."""
    family, power, shift = bracketed if bracket else plain, 1 + root, SHIFT if bracket else 0.0
    y, weights = power * np.log(data.mean)[None], data.weights[None]
    ((_, rate),) = solve(y, weights, family, np.array([b]), RATES, data)
    x = family(np.array([b]), np.array([rate]), data.window, data.contexts)[0]
    level = (y[0] - x) @ weights[0]
    misfit = np.sqrt(((y[0] - x - level) ** 2) @ weights[0]) / power
    far = np.exp(-rate * box_cox((data.contexts + SHIFT) / PIVOT, b)).mean() if bracket else 0.0
    return BentLaw(b, float(level), float(rate), float(far), shift, power, float(misfit))


# --- families: log D less its intercept, (..., windows) ------------------------------------------


def plain(b: np.ndarray, c: np.ndarray, window: np.ndarray, contexts: np.ndarray) -> np.ndarray:
    return -c[..., None] * box_cox(window / PIVOT, b[..., None])


def bracketed(b: np.ndarray, c: np.ndarray, window: np.ndarray, contexts: np.ndarray) -> np.ndarray:
    near = -c[..., None] * box_cox((window + SHIFT) / PIVOT, b[..., None])
    far = -c[..., None] * box_cox((contexts + SHIFT) / PIVOT, b[..., None])
    reference = np.exp(far - near.max(axis=-1, keepdims=True)).mean(axis=-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return near + np.log1p(-reference * np.exp(near.max(axis=-1, keepdims=True) - near))


def weighed(
    alpha: np.ndarray, strength: np.ndarray, window: np.ndarray, contexts: np.ndarray
) -> np.ndarray:
    reference = ((contexts + SHIFT) ** -alpha[..., None]).mean(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return np.log((window + SHIFT) ** -alpha[..., None] - (strength * reference)[..., None])


# --- the fit ------------------------------------------------------------------------------------


def leaving_out(data: Curve) -> tuple[np.ndarray, np.ndarray]:
    """log D and weights, (1 + documents, windows): of all documents, then without each in turn.

    The plain twin is `Curve.leaving_out`, a curve at a time.
    """
    if data.n_documents < 3:
        raise ValueError(f"documents: expected at least 3 to leave one out, got {data.n_documents}")
    n = data.n_documents
    return _logs(data, np.vstack([np.ones(n), 1 - np.eye(n)]))


def resampled(data: Curve, samples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """log D and weights, (1 + samples, windows): of all documents, then of some drawn anew."""
    n = data.n_documents
    if n < 3:
        raise ValueError(f"documents: expected at least 3 to resample, got {n}")
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=samples)
    return _logs(data, np.vstack([np.ones(n), drawn[(drawn > 0).sum(axis=1) > 1]]))


def _logs(data: Curve, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    size = counts.sum(axis=1, keepdims=True)
    mean, second = counts @ data.doc_means / size, counts @ data.doc_means**2 / size
    variance = np.maximum(second - mean**2, 1e-12 * mean**2) / (size - 1)  # of the mean
    weights = mean**2 / variance
    return np.log(mean), weights / weights.sum(axis=1, keepdims=True)


def solve(
    y: np.ndarray,
    weights: np.ndarray,
    family: Callable,
    first: np.ndarray,
    second: np.ndarray,
    data: Curve,
) -> np.ndarray:
    """The two shapes (curves, 2) of least weighted squares of y (curves, windows of `data`).

    The best point of the grid `first` × `second`, then damped steps; shapes stay between the ends
    of their grids.
    """
    window, contexts = data.window, data.contexts
    if len(window) < 4:
        raise ValueError(f"windows: expected at least 4, got {len(window)}")
    grid = np.stack(np.meshgrid(first, second, indexing="ij"), axis=-1).reshape(-1, 2)
    x = family(grid[:, 0], grid[:, 1], window, contexts)
    possible = np.isfinite(x).all(axis=1)
    grid, x = grid[possible], x[possible]
    # the intercept is free: weighted variance of y - x, expanded into products of matrices
    wy = weights * y
    mean = wy.sum(axis=1, keepdims=True) - weights @ x.T
    error = (wy * y).sum(axis=1, keepdims=True) - 2 * wy @ x.T + weights @ (x * x).T - mean**2
    shapes = grid[error.argmin(axis=1)]
    low, high = np.array([first[0], second[0]]), np.array([first[-1], second[-1]])

    todo = np.arange(len(y))
    damping = np.full(len(y), 1e-3)
    for _ in range(STEPS):
        shapes[todo], damping[todo], small = _step(
            shapes[todo], damping[todo], y[todo], weights[todo], family, (low, high), data
        )
        todo = todo[~small]
        if not len(todo):
            break
    return shapes


def _step(
    shapes: np.ndarray,
    damping: np.ndarray,
    y: np.ndarray,
    weights: np.ndarray,
    family: Callable,
    ends: tuple[np.ndarray, np.ndarray],
    data: Curve,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One step of Levenberg and Marquardt for each curve: shapes, damping, and who has arrived."""

    def residual(shapes: np.ndarray) -> np.ndarray:
        miss = y - family(shapes[:, 0], shapes[:, 1], data.window, data.contexts)
        return miss - (weights * miss).sum(axis=1, keepdims=True)

    def loss(miss: np.ndarray) -> np.ndarray:
        total = (weights * miss**2).sum(axis=1)
        return np.where(np.isfinite(total), total, np.inf)

    low, high = ends
    miss = residual(shapes)
    slopes = np.stack(
        [(residual(shapes + h) - residual(shapes - h)) / (2 * NUDGE) for h in NUDGE * np.eye(2)],
        axis=-1,
    )
    slopes = np.where(np.isfinite(slopes), slopes, 0)
    weighted = weights[..., None] * slopes
    square = np.einsum("cwi,cwj->cij", weighted, slopes)
    gradient = np.einsum("cwi,cw->ci", weighted, np.where(np.isfinite(miss), miss, 0))
    # at an end of its range a shape is held, and the other one moves alone
    held = ((shapes <= low) & (gradient > 0)) | ((shapes >= high) & (gradient < 0))
    gradient = np.where(held, 0, gradient)
    square = np.where(held[:, :, None] | held[:, None, :], np.eye(2), square)
    damped = square + damping[:, None, None] * square * np.eye(2) + 1e-15 * np.eye(2)
    move = np.linalg.solve(damped, -gradient[..., None])[..., 0]
    tried = np.clip(shapes + move, low, high)
    better = loss(residual(tried)) < loss(miss)
    small = (np.abs(move) < ARRIVED).all(axis=1)
    damping = np.where(better, damping / 5, damping * 8)
    return np.where(better[:, None], tried, shapes), damping, small
