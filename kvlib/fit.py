"""Decay laws and their uncertainty: from a table of divergences to an exponent with an interval.

Everything here averages first and takes logs afterwards: per-token KL is heavy-tailed, and the
mean of logs has another exponent than the log of means. The unit of resampling is the document.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

BINS_PER_OCTAVE = 4
BOOTSTRAPS = 2000
SHIFT = 1.0  # of the finite-reference power law: D(w) = C[(w+1)^-α - mean of (T+1)^-α]


@dataclass(frozen=True)
class Curve:
    """Mean divergence against window, document by document.

    `doc_means` has shape (documents, bins); the windows of a bin lie within 1/BINS_PER_OCTAVE of
    an octave and `window` is their geometric mean. `contexts` are the reference lengths T that
    occur, all equally often. `n_starts` counts forward passes, `n_pairs` rows.
    """

    window: np.ndarray
    doc_means: np.ndarray
    contexts: np.ndarray
    n_pairs: int
    n_starts: int

    @property
    def n_documents(self) -> int:
        """Documents behind the curve: the sample size of every interval."""
        return len(self.doc_means)

    @property
    def mean(self) -> np.ndarray:
        """Mean over documents, one number a bin."""
        return self.doc_means.mean(axis=0)

    @property
    def weights(self) -> np.ndarray:
        """1 / variance of log(mean), from the spread between documents; they sum to one."""
        error = self.doc_means.std(axis=0, ddof=1) / np.sqrt(self.n_documents) / self.mean
        return error**-2 / np.sum(error**-2)

    def between(self, smallest: float, largest: float = np.inf) -> Curve:
        """The part of the curve with `smallest` ≤ window ≤ `largest`."""
        keep = (self.window >= smallest) & (self.window <= largest)
        return Curve(
            self.window[keep], self.doc_means[:, keep], self.contexts, self.n_pairs, self.n_starts
        )

    def resampled(self, n: int = BOOTSTRAPS, seed: int = 0) -> np.ndarray:
        """Means (n, bins) over documents drawn with replacement: the cluster bootstrap."""
        counts = np.random.default_rng(seed).multinomial(
            self.n_documents, np.full(self.n_documents, 1 / self.n_documents), size=n
        )
        return counts @ self.doc_means / self.n_documents


def curve(table: pd.DataFrame, value: str = "kl_nats") -> Curve:
    """Average a table of pairs (`doc, position, context, window, <value>`) into a Curve.

    Every document counts the same. Raises ValueError for fewer than two documents, a document
    without some bin, or values that are negative beyond rounding.
    """
    if table["doc"].nunique() < 2:
        raise ValueError(f"documents: expected at least 2, got {table['doc'].nunique()}")
    if (low := table[value].min()) < -1e-6 or not np.isfinite(table[value]).all():
        raise ValueError(f"{value}: expected finite values ≥ 0, got a minimum of {low}")
    bins = np.ceil(BINS_PER_OCTAVE * np.log2(table["window"]) - 1e-9).astype(int)
    doc_means = table.groupby(["doc", bins])[value].mean().unstack()
    if doc_means.isna().any(axis=None):
        raise ValueError(f"documents: expected every window bin in each, got {doc_means.isna()}")
    start = table["position"] - table["window"] + 1
    octave = np.ceil(np.log2(table["window"])).astype(int)
    return Curve(
        window=np.exp(np.log(table["window"]).groupby(bins).mean()).to_numpy(),
        doc_means=doc_means.to_numpy(dtype=float),
        contexts=np.unique(table["context"]).astype(float),
        n_pairs=len(table),
        n_starts=len(pd.DataFrame({"d": table["doc"], "o": octave, "s": start}).drop_duplicates()),
    )


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


_NO_SHAPE = np.array([np.nan])

LAWS: dict[str, Law] = {
    law.name: law
    for law in (
        Law("power", "C w^-α", lambda w, _, T: np.log(w) + 0 * _nan_to_zero(_), _NO_SHAPE),
        Law("exponential", "A exp(-w/ξ)", lambda w, _, T: w + 0 * _nan_to_zero(_), _NO_SHAPE),
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
    )
}


def _nan_to_zero(x: np.ndarray) -> np.ndarray:
    return np.nan_to_num(x)


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
        contexts: reference lengths T for the finite-context law.

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

    def line(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Intercept, slope and mean squared residual of y on x, over the last axis."""
        x_mean, y_mean = x @ w, y_of(x) @ w
        xc, yc = x - x_mean[..., None], y_of(x) - y_mean[..., None]
        sxx, sxy, syy = (xc * xc) @ w, (xc * yc) @ w, (yc * yc) @ w
        slope = np.ones_like(sxy) if law.unit_slope else sxy / sxx
        return y_mean - slope * x_mean, slope, syy - 2 * slope * sxy + slope**2 * sxx

    def y_of(x: np.ndarray) -> np.ndarray:
        return np.broadcast_to(y if x.ndim == y.ndim else y[..., None, :], x.shape)

    grid = law.basis(window, law.shapes[:, None], contexts)
    residual = line(np.broadcast_to(grid, (*y.shape[:-1], *grid.shape)))[2]
    shape = _refined(law.shapes, residual)
    x = np.broadcast_to(law.basis(window, shape[..., None], contexts), y.shape)
    intercept, slope, _ = line(x)
    return Fit(law, intercept, slope, shape, contexts)


def _refined(grid: np.ndarray, residual: np.ndarray) -> np.ndarray:
    """The minimum of `residual` (..., grid) between grid points, by a parabola through three."""
    if len(grid) == 1:
        return np.full(residual.shape[:-1], grid[0])
    best = residual.argmin(axis=-1)
    inner = np.clip(best, 1, len(grid) - 2)
    left, mid, right = (
        np.take_along_axis(residual, (inner + k)[..., None], -1)[..., 0] for k in (-1, 0, 1)
    )
    bend = left - 2 * mid + right
    step = np.where(bend > 0, 0.5 * (left - right) / np.where(bend > 0, bend, 1), 0)
    place = np.where(inner == best, inner + np.clip(step, -1, 1), best)
    return np.interp(place, np.arange(len(grid)), grid)


# --- estimates with intervals -----------------------------------------------------------------


@dataclass(frozen=True)
class Estimate:
    """A number with its 95% interval from the document bootstrap, and what stands behind it."""

    value: float
    low: float
    high: float
    n_documents: int

    def __str__(self) -> str:
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"


def estimate(value: float, samples: np.ndarray, n_documents: int) -> Estimate:
    """Percentile interval of bootstrap samples around the value from all documents."""
    low, high = np.quantile(samples, [0.025, 0.975])
    return Estimate(float(value), float(low), float(high), n_documents)


def exponent(
    data: Curve, law: str = "finite-context power", n_boot: int = BOOTSTRAPS, seed: int = 0
) -> Estimate:
    """The exponent α of a power law fitted to a whole curve, with its interval."""
    options = {"weights": data.weights, "contexts": data.contexts}
    samples = fit_law(law, data.window, data.resampled(n_boot, seed), **options).exponent
    whole = fit_law(law, data.window, data.mean, **options)
    return estimate(whole.exponent, samples, data.n_documents)


@dataclass(frozen=True)
class Contest:
    """Laws fitted on windows ≤ split, scored on the rest by the RMSE of log D (nats of log).

    `errors[law]` and `ratios[law]` (its error over the power law's) carry bootstrap intervals.
    """

    split: float
    fits: dict[str, Fit]
    errors: dict[str, Estimate]
    ratios: dict[str, Estimate]


def extrapolation(
    data: Curve,
    split: float,
    laws: tuple[str, ...] = tuple(LAWS),
    n_boot: int = BOOTSTRAPS,
    seed: int = 0,
    against: str = "power",
) -> Contest:
    """Fit each law on the short windows of a curve and score it on the long ones.

    Weights are those of the fitted part; the scored bins count the same, being log-spaced. In
    every bootstrap sample the same documents are used to fit and to score.
    """
    short, long = data.between(0, split), data.between(np.nextafter(split, np.inf))
    if len(long.window) < 2:
        raise ValueError(f"split: expected at least 2 windows beyond it, got {len(long.window)}")
    keep = data.window <= split
    stacked = np.vstack([data.mean, data.resampled(n_boot, seed)])
    fits, scores = {}, {}
    for law in laws:
        fitted = fit_law(law, short.window, stacked[:, keep], short.weights, data.contexts)
        miss = fitted.log_value(long.window) - np.log(stacked[:, ~keep])
        scores[law] = np.sqrt((miss**2).mean(axis=-1))
        fits[law] = Fit(
            fitted.law, fitted.intercept[0], fitted.slope[0], fitted.shape[0], fitted.contexts
        )
    n = data.n_documents
    return Contest(
        split=split,
        fits=fits,
        errors={law: estimate(s[0], s[1:], n) for law, s in scores.items()},
        ratios={
            law: estimate(s[0] / scores[against][0], s[1:] / scores[against][1:], n)
            for law, s in scores.items()
        },
    )
