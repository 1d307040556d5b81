"""Decay laws, and their weighted least-squares fits in the logarithm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

SHIFT = 1.0  # of the finite-reference power law: D(w) = C[(w+1)^-α - mean of (T+1)^-α]


# --- laws -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Law:
    """log D(w) = intercept + slope · basis(w, shape): linear but for one shape parameter.

    `shapes` is the grid of shape values to profile over (a single one when there is none to
    choose); `unit_slope` fixes the slope at 1. `basis(w, shape, contexts)` broadcasts.
    """

    name: str
    formula: str
    basis: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
    shapes: np.ndarray
    unit_slope: bool = False


def _finite_basis(shift: float) -> Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]:
    def basis(window: np.ndarray, alpha: np.ndarray, contexts: np.ndarray) -> np.ndarray:
        alpha = np.asarray(alpha, dtype=float)
        reference = ((contexts + shift) ** -alpha[..., None]).mean(axis=-1)
        return np.log((window + shift) ** -alpha - reference)

    return basis


def _root_basis(window: np.ndarray, a: np.ndarray, contexts: np.ndarray) -> np.ndarray:
    """Of a total variation, where KL is as its square: half the logarithm of KL's bracket."""
    return _finite_basis(SHIFT)(window, 2 * np.asarray(a, dtype=float), contexts) / 2


_NO_SHAPE = np.zeros(1)
LAWS: dict[str, Law] = {
    law.name: law
    for law in (
        Law("power", "C w^-α", lambda w, _, T: np.log(w) + 0 * _, _NO_SHAPE),
        Law("exponential", "A exp(-w/ξ)", lambda w, _, T: w + 0 * _, _NO_SHAPE),
        Law(
            "stretched exponential",
            "A exp(-(w/ξ)^b)",
            lambda w, b, T: w**b,
            np.linspace(0.02, 1.5, 149),
        ),
        Law(
            "shifted power",
            "C (w+s)^-α",
            lambda w, s, T: np.log(w + s),
            np.concatenate([[0.0], np.geomspace(0.01, 1000, 150)]),
        ),
        Law(
            "finite-context power",
            "C [(w+1)^-α - mean (T+1)^-α]",
            _finite_basis(SHIFT),
            np.linspace(0.02, 4, 399),
            unit_slope=True,
        ),
        Law(
            "finite-context power, unshifted",
            "C [w^-α - mean T^-α]",
            _finite_basis(0.0),
            np.linspace(0.02, 4, 399),
            unit_slope=True,
        ),
        Law(
            "root power",
            "C' [(w+1)^-2a - mean (T+1)^-2a]^½",
            _root_basis,
            np.linspace(0.01, 2, 399),
            unit_slope=True,
        ),
    )
}


@dataclass(frozen=True)
class Fit:
    """A fitted law, or a stack of them: `intercept`, `slope`, `shape` have one shape (...)."""

    law: Law
    intercept: np.ndarray
    slope: np.ndarray
    shape: np.ndarray
    contexts: np.ndarray

    @property
    def exponent(self) -> np.ndarray:
        """α of a power law; raises ValueError for the exponential ones, which have none."""
        if "power" not in self.law.name:
            raise ValueError(f"exponent: expected a power law, got {self.law.name}")
        return self.shape if self.law.unit_slope else -self.slope

    @property
    def prefactor(self) -> np.ndarray:
        """The constant in front, in the unit of the curve."""
        return np.exp(self.intercept)

    def log_value(self, window: np.ndarray) -> np.ndarray:
        """log D at `window` (k,), shape (..., k)."""
        x = self.law.basis(np.asarray(window, dtype=float), self.shape[..., None], self.contexts)
        return self.intercept[..., None] + self.slope[..., None] * x

    def __call__(self, window: np.ndarray) -> np.ndarray:
        """D at `window`."""
        return np.exp(self.log_value(window))


def fit_law(
    law: Law | str,
    window: np.ndarray,
    value: np.ndarray,
    weights: np.ndarray | None = None,
    contexts: np.ndarray | None = None,
) -> Fit:
    """Weighted least squares of log(value) on a law, profiled over its shape.

    Args:
        value: positive, shape (..., k): a curve or a stack of bootstrapped ones.
        weights: (k,), default equal.
        contexts: reference lengths T for the finite-context law; without them T is infinite.

    Raises ValueError for fewer than 3 windows or values that are not positive.
    """
    law = LAWS[law] if isinstance(law, str) else law
    window, value = np.asarray(window, dtype=float), np.asarray(value, dtype=float)
    if len(window) < 3:
        raise ValueError(f"windows: expected at least 3 to fit a law, got {len(window)}")
    if not (value > 0).all():
        raise ValueError(f"values: expected all positive, got a minimum of {value.min()}")
    w = np.ones(len(window)) if weights is None else np.asarray(weights, dtype=float)
    w = w / w.sum()
    contexts = np.array([np.inf]) if contexts is None else np.asarray(contexts, dtype=float)
    y = np.log(value)

    def residual(shape: np.ndarray) -> np.ndarray:
        return line(law.basis(window, shape[..., None], contexts), y, w, law.unit_slope)[2]

    over_grid = residuals(law.basis(window, law.shapes[:, None], contexts), y, w, law.unit_slope)
    shape = _refined(law.shapes, over_grid, residual)
    basis = law.basis(window, shape[..., None], contexts)
    intercept, slope, _ = line(basis, y, w, law.unit_slope)
    return Fit(law, intercept, slope, shape, contexts)


def line(
    x: np.ndarray, y: np.ndarray, weights: np.ndarray, unit_slope: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Intercept, slope and mean squared residual of y on x, over the last axis.

    `weights` (k,) sum to one; `x` and `y` (..., k) broadcast. `unit_slope` fixes the slope at 1.
    """
    x_mean, y_mean = x @ weights, y @ weights
    xc, yc = x - x_mean[..., None], y - y_mean[..., None]
    sxx, sxy, syy = (xc * xc) @ weights, (xc * yc) @ weights, (yc * yc) @ weights
    slope = np.ones_like(sxy) if unit_slope else sxy / sxx
    return y_mean - slope * x_mean, slope, syy - 2 * slope * sxy + slope**2 * sxx


def residuals(
    x: np.ndarray, y: np.ndarray, weights: np.ndarray, unit_slope: bool = False
) -> np.ndarray:
    """Mean squared residuals (..., shapes) of each y (..., k) on each x (shapes, k).

    What `line` says of `y[..., None, :]`, by one matrix product: thousands of resampled curves on
    hundreds of shapes need no array of all three.
    """
    xc, yc = x - (x @ weights)[:, None], y - (y @ weights)[..., None]
    sxx, sxy, syy = (xc * xc) @ weights, (yc * weights) @ xc.T, (yc * yc) @ weights
    slope = np.ones_like(sxy) if unit_slope else sxy / sxx
    return syy[..., None] - 2 * slope * sxy + slope**2 * sxx


def _refined(
    grid: np.ndarray, over_grid: np.ndarray, residual: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """The minimum of `residual` near the best grid point: two parabolas, each through three."""
    best = over_grid.argmin(axis=-1)
    if len(grid) < 3:
        return grid[best]
    inner = np.clip(best, 1, len(grid) - 2)
    x = np.stack([grid[inner + k] for k in (-1, 0, 1)])
    f = np.stack(
        [np.take_along_axis(over_grid, (inner + k)[..., None], -1)[..., 0] for k in (-1, 0, 1)]
    )
    shape = np.where(inner == best, _vertex(x, f), grid[best])
    near = np.abs(x[2] - x[0]) / 100
    x = np.stack([shape - near, shape, shape + near])
    f = np.stack([residual(point) for point in x])
    return np.clip(np.where(inner == best, _vertex(x, f), shape), grid[0], grid[-1])


def _vertex(x: np.ndarray, f: np.ndarray) -> np.ndarray:
    """Where the parabola through three points has its minimum, kept between the outer two."""
    left, right = (f[1] - f[0]) / (x[1] - x[0]), (f[2] - f[1]) / (x[2] - x[1])
    bend = (right - left) / (x[2] - x[0])
    safe = np.where(bend > 0, bend, 1)
    vertex = 0.5 * (x[0] + x[1]) - 0.5 * left / safe
    return np.where(bend > 0, np.clip(vertex, x[0], x[2]), x[1])
