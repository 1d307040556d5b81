"""One law, held to references of several lengths at once: what bends, and what is the reference.

A curve that bends down near its end may bend by itself (b > 0) or because its reference is finite
(λ > 0), and one curve can hardly tell. The same targets behind references of several lengths can:
the bracket moves with T, the bend doesn't. The law of all curves together is

    D_T(w) = A [Δ_b(w + 1) - λ mean Δ_b(T + 1)],   Δ_b(x) = exp(-c ℓ_b(x / 64)),

with the family of `fit.bent`: b = 0 is a power law of exponent c, and λ = 1 a Bayes predictor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares

from kvlib.fit.bent import PIVOT, box_cox, resampled
from kvlib.fit.curve import Curve
from kvlib.fit.estimate import Estimate, estimate
from kvlib.fit.laws import SHIFT

RESAMPLES = 300
LOWEST = np.array([-np.inf, np.log(0.02), 0.0, -2.0])  # of log A, log c, b, λ
HIGHEST = np.array([np.inf, np.log(4.0), 2.0, 4.0])
STARTS = ((0.0, 1.0), (0.3, 0.5), (0.3, 0.0))  # of b and λ; the best end of all counts
LEAST = 1e-6  # of Δ(w): what a bracket leaves at least


@dataclass(frozen=True)
class Strengths:
    """b, c and λ of the law of several curves, with intervals over resampled documents."""

    bend: Estimate
    exponent: Estimate
    strength: Estimate


def strengths(curves: Sequence[Curve], root: bool = False, seed: int = 0) -> Strengths:
    """b, c and λ of curves of the same targets against references of several lengths.

    Least squares in the logarithm, each curve with its own weights, all with one A; percentile
    intervals of documents drawn with replacement, the same for all curves. With `root` the curves
    are total variations and their squares are fitted; c is that of the squares. Raises ValueError
    for fewer than two curves, or curves that differ in their windows or number of documents.
    """
    if len(curves) < 2:
        raise ValueError(f"curves: expected at least 2, of several references, got {len(curves)}")
    shapes = {(len(data.window), data.n_documents) for data in curves}
    if len(shapes) > 1:
        raise ValueError(f"curves: expected the same windows and documents, got {sorted(shapes)}")
    drawn = [resampled(data, RESAMPLES, seed) for data in curves]
    logs, weights = (np.stack(part, axis=1) for part in zip(*drawn, strict=True))
    logs = logs * (1 + root)
    best = min(
        (_fitted(curves, logs[0], weights[0], start) for start in STARTS), key=lambda r: r[1]
    )
    near = (float(best[0][2]), float(best[0][3]))
    fits = [_fitted(curves, *one, near)[0] for one in zip(logs, weights, strict=True)]
    _, rate, bend, strength = np.array(fits).T
    n = curves[0].n_documents
    found = (estimate(x[0], x[1:], n) for x in (bend, np.exp(rate), strength))
    return Strengths(*found)


def log_law(data: Curve, log_rate: float, bend: float, strength: float) -> np.ndarray:
    """log D less log A at the windows of a curve, for its references."""
    rate = np.exp(log_rate)
    near = np.exp(-rate * box_cox((data.window + SHIFT) / PIVOT, bend))
    far = np.exp(-rate * box_cox((data.contexts + SHIFT) / PIVOT, bend)).mean()
    return np.log(np.maximum(near - strength * far, LEAST * near))


def _fitted(
    curves: Sequence[Curve], logs: np.ndarray, weights: np.ndarray, start: tuple[float, float]
) -> tuple[np.ndarray, float]:
    """(log A, log c, b, λ) and their loss; `logs` and `weights` are (curves, windows)."""
    roots = np.sqrt(weights / len(curves))

    def misses(shape: np.ndarray) -> np.ndarray:
        laws = np.stack([log_law(data, *shape[1:]) for data in curves])
        return (roots * (logs - shape[0] - laws)).ravel()

    level = float(logs[0, np.argmin(np.abs(np.log(curves[0].window / PIVOT)))])
    first = np.clip([level, np.log(0.5), *start], LOWEST + 1e-3, HIGHEST - 1e-3)
    found = least_squares(misses, first, bounds=(LOWEST, HIGHEST), x_scale=(1, 1, 0.3, 0.5))
    return found.x, float(found.cost)
