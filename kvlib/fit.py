"""Decay laws and their uncertainty: from a table of divergences to an exponent with an interval.

Everything here averages first and takes logs afterwards: per-token KL is heavy-tailed, and the
mean of logs has another exponent than the log of means. The unit of resampling is the document.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy.special import stdtrit

BINS_PER_OCTAVE = 4
BOOTSTRAPS = 2000
MARGIN = 0.1  # exponents closer than this are called the same
SHIFT = 1.0  # of the finite-reference power law: D(w) = C[(w+1)^-α - mean of (T+1)^-α]


@dataclass(frozen=True)
class Curve:
    """Mean divergence against window, document by document.

    `doc_means` has shape (documents, bins); the windows of a bin lie within 1/BINS_PER_OCTAVE of
    an octave: from `first` to `last`, and `window` is their geometric mean. `contexts`
    are 32 reference lengths T, evenly spread over those that occur: a mean over them is a mean
    over the targets. `n_starts` counts forward passes, `n_pairs` rows.
    """

    window: np.ndarray
    first: np.ndarray
    last: np.ndarray
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
        return replace(
            self,
            window=self.window[keep],
            first=self.first[keep],
            last=self.last[keep],
            doc_means=self.doc_means[:, keep],
        )

    def leaving_out(self) -> list[Curve]:
        """The curve, then the curve without each of its documents in turn."""
        n = self.n_documents
        without = (np.delete(self.doc_means, k, axis=0) for k in range(n))
        return [self, *(replace(self, doc_means=rest) for rest in without)]

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
    by_bin = table["window"].groupby(bins)
    return Curve(
        window=np.exp(np.log(table["window"]).groupby(bins).mean()).to_numpy(),
        first=by_bin.min().to_numpy(),
        last=by_bin.max().to_numpy(),
        doc_means=doc_means.to_numpy(dtype=float),
        contexts=np.quantile(np.unique(table["context"]), (np.arange(32) + 0.5) / 32),
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

    def line(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Intercept, slope and mean squared residual of y on x, over the last axis."""
        x_mean, y_mean = x @ w, y @ w
        xc, yc = x - x_mean[..., None], y - y_mean[..., None]
        sxx, sxy, syy = (xc * xc) @ w, (xc * yc) @ w, (yc * yc) @ w
        slope = np.ones_like(sxy) if law.unit_slope else sxy / sxx
        return y_mean - slope * x_mean, slope, syy - 2 * slope * sxy + slope**2 * sxx

    def residual(shape: np.ndarray) -> np.ndarray:
        return line(law.basis(window, shape[..., None], contexts), y)[2]

    over_grid = line(law.basis(window, law.shapes[:, None], contexts), y[..., None, :])[2]
    shape = _refined(law.shapes, over_grid, residual)
    intercept, slope, _ = line(law.basis(window, shape[..., None], contexts), y)
    return Fit(law, intercept, slope, shape, contexts)


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


# --- estimates with intervals -----------------------------------------------------------------


@dataclass(frozen=True)
class Estimate:
    """A number with its 95% interval over documents, and how many documents stand behind it.

    `flat` marks an exponent at the lower end of what is fitted, whichever document is left out, or
    a difference from one: there is no exponent, and the width of the interval means nothing.
    """

    value: float
    low: float
    high: float
    n_documents: int
    flat: bool = False

    def __str__(self) -> str:
        return format(self, ".3g")

    def __format__(self, spec: str) -> str:
        """The value and its interval, each formatted by `spec`; no line breaks in an interval."""
        if self.flat:
            return "no exponent"
        value, low, high = (_plain(x, spec or ".3g") for x in (self.value, self.low, self.high))
        return f"{value} [{low},\u00a0{high}]".replace("-", "\u2212")


def _plain(number: float, spec: str) -> str:
    """A number as `spec` has it, but 160 rather than 1.6e+02."""
    text = format(number, spec)
    return f"{float(text):,.0f}" if "e+" in text else text


def estimate(value: float, samples: np.ndarray, n_documents: int) -> Estimate:
    """Percentile interval of bootstrap samples around the value from all documents."""
    low, high = np.quantile(samples, [0.025, 0.975])
    return Estimate(float(value), float(low), float(high), n_documents)


def exponent(
    data: Curve,
    law: str = "finite-context power",
    interval: str = "jackknife-t",
    n_boot: int = BOOTSTRAPS,
    seed: int = 0,
) -> Estimate:
    """The exponent α of a power law fitted to a whole curve, with its 95% interval over documents.

    `interval` is `jackknife-t`, which covers the truth as often as it says on simulated studies of
    24 documents (`kvlib.calibration`), or `percentile`, the document bootstrap's, a little narrow.
    Raises ValueError for another name.
    """
    if interval == "jackknife-t":
        return jackknife_t(data, law)
    if interval != "percentile":
        raise ValueError(f"interval: expected jackknife-t or percentile, got {interval!r}")
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


def held_out(
    data: Curve,
    laws: tuple[str, ...] = tuple(LAWS),
    n_boot: int = BOOTSTRAPS,
    seed: int = 0,
    against: str = "finite-context power",
) -> dict[str, Estimate]:
    """Errors on documents that a fit has not seen, as ratios to the law `against`.

    Each bootstrap sample of documents is fitted over all windows and scored (RMSE of log D, bins
    the same) on the documents that it left out; the value is the median ratio. A ratio above one
    speaks for `against`. Raises ValueError for fewer than 4 documents.
    """
    n = data.n_documents
    if n < 4:
        raise ValueError(f"documents: expected at least 4 to hold some out, got {n}")
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=n_boot)
    left_out = (counts == 0).astype(float)
    enough = left_out.sum(axis=1) >= 2
    counts, left_out = counts[enough], left_out[enough]
    seen = counts @ data.doc_means / n
    unseen = np.log(left_out @ data.doc_means / left_out.sum(axis=1, keepdims=True))
    scores = {}
    for law in laws:
        fitted = fit_law(law, data.window, seen, data.weights, data.contexts)
        scores[law] = np.sqrt(((fitted.log_value(data.window) - unseen) ** 2).mean(axis=-1))
    ratios = {law: score / scores[against] for law, score in scores.items()}
    return {law: estimate(np.median(ratio), ratio, n) for law, ratio in ratios.items()}


def local_slopes(data: Curve, n_boot: int = BOOTSTRAPS, seed: int = 0) -> pd.DataFrame:
    """-d log D / d log w over each octave, with its interval: flat for a power law, and growing
    in proportion to w for an exponential. Columns `window, slope, low, high`."""
    octave = np.log2(data.window)
    stacked = np.log(np.vstack([data.mean, data.resampled(n_boot, seed)]))
    rows = []
    for top in range(1, int(np.ceil(octave.max())) + 1):
        inside = (octave >= top - 1) & (octave <= top + 1e-9)
        if inside.sum() < 3:
            continue
        x = octave[inside] - octave[inside].mean()
        slope = -(stacked[:, inside] @ x) / (x @ x) / np.log(2)
        low, high = np.quantile(slope[1:], [0.025, 0.975])
        rows.append((2 ** octave[inside].mean(), slope[0], low, high))
    return pd.DataFrame(rows, columns=["window", "slope", "low", "high"])


def summary(data: Curve, law: Fit | None = None, n_boot: int = BOOTSTRAPS) -> pd.DataFrame:
    """A curve as a table for a chart: `window, first, last, mean, low, high, n_documents`, and
    the value of a fitted law as `fit`. `first` and `last` are the smallest and largest window
    of the bin, the band is the 95% interval of the mean."""
    low, high = np.quantile(data.resampled(n_boot), [0.025, 0.975], axis=0)
    return pd.DataFrame(
        {
            "window": data.window,
            "first": data.first,
            "last": data.last,
            "mean": data.mean,
            "low": low,
            "high": high,
            "n_documents": data.n_documents,
            "fit": np.nan if law is None else law(data.window),
        }
    )


def summaries(kinds: dict[str, dict[tuple[str, str], Curve]], min_window: float) -> pd.DataFrame:
    """Curves of several divergences, models and corpora as one table for a chart.

    `kinds` maps a divergence's column name to (model, corpus) → curve; the fitted law is the
    finite-context power law on windows of at least `min_window`. Rounded to 4 digits.
    """
    tables = []
    for divergence, curves in kinds.items():
        for (model, corpus), data in curves.items():
            long = data.between(min_window)
            law = fit_law(
                "finite-context power", long.window, long.mean, long.weights, long.contexts
            )
            table = summary(data, law)
            table.loc[table["window"] < min_window, "fit"] = np.nan
            tables.append(table.assign(model=model, corpus=corpus, divergence=divergence))
    return rounded(pd.concat(tables, ignore_index=True))


def contest_tables(
    curves: dict[tuple[str, str], Curve],
    names: Callable[[str], str] = str,
    law: str = "finite-context power",
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What the extrapolation chart needs: the points with their weights, and one law's predictions.

    A split is possible after the third bin and before the last two. Columns of the points:
    `source, name, window, value, weight` (`names` gives models and corpora theirs); of the
    predictions: `source, split, window, value`.
    """
    points, predictions = [], []
    for (model, corpus), data in curves.items():
        source, name = f"{model} {corpus}", f"{names(model)} on {names(corpus)}"
        columns = {"window": data.window, "value": data.mean, "weight": data.weights}
        points.append(pd.DataFrame(columns).assign(source=source, name=name))
        for split in data.last[3:-2]:
            near = data.between(0, split)
            fitted = fit_law(law, near.window, near.mean, near.weights, near.contexts)
            drawn = data.window[::2]
            predictions.append(
                pd.DataFrame({"window": drawn, "value": fitted(drawn)}).assign(
                    source=source, split=split
                )
            )
    return tuple(rounded(pd.concat(t, ignore_index=True)) for t in (points, predictions))


def pinned_points(
    curves: dict[tuple[str, str], Curve],
    costs: dict[str, tuple[int, int, int]],
    names: Callable[[str], str] = str,
    min_window: float = 8,
    largest: float = 1e6,
) -> pd.DataFrame:
    """What the budget chart needs: measured points, and a grid on which a law is drawn.

    `costs` maps a model to its bytes a token (full, sliding, local). The law is pinned to the first
    measured bin of at least `min_window`. Columns as `kvlib.bound_charts.budget` asks for.
    """
    tables = []
    for (model, corpus), data in curves.items():
        long = data.between(min_window)
        grid = np.geomspace(1, largest, 49)
        table = pd.DataFrame(
            {
                "window": np.concatenate([long.window, grid]),
                "value": np.concatenate([long.mean, 0 * grid]),
            }
        )
        full, sliding, local = costs[model]
        tables.append(
            table.assign(
                source=f"{model} {corpus}",
                name=f"{names(model)} on {names(corpus)}",
                pin_window=long.window[0],
                pin_value=long.mean[0],
                measured_alpha=str(exponent(long)),
                full=full,
                sliding=sliding,
                local=local,
            )
        )
    return rounded(pd.concat(tables, ignore_index=True))


def rounded(table: pd.DataFrame, digits: int = 5) -> pd.DataFrame:
    """Floats with so many significant digits: enough for a picture, the same on every processor."""
    table = table.copy()
    for name in table.select_dtypes("float"):
        table[name] = [float(f"{value:.{digits}g}") for value in table[name]]
    return table


def geometric_mean(estimates: pd.Series) -> float:
    """Geometric mean of the values of a column of estimates."""
    return float(np.exp(np.mean([np.log(item.value) for item in estimates])))


def left_out_exponents(data: Curve, law: str = "finite-context power") -> np.ndarray:
    """The exponent of a curve, then with each of its documents left out: (1 + documents,).

    Weights are estimated anew each time, so their noise counts as well.
    """
    return np.array(
        [
            float(fit_law(law, c.window, c.mean, c.weights, c.contexts).exponent)
            for c in data.leaving_out()
        ]
    )


def jackknife_t(data: Curve, law: str = "finite-context power") -> Estimate:
    """The exponent with a t interval from leaving out each document in turn, for few documents.

    See `calibration` for the coverage. Raises ValueError for fewer than 3 documents.
    """
    if data.n_documents < 3:
        raise ValueError(f"documents: expected at least 3 to leave one out, got {data.n_documents}")
    return exponent_of(left_out_exponents(data, law), law)


def exponent_of(values: np.ndarray, law: str = "finite-context power") -> Estimate:
    """The estimate of an exponent from `left_out_exponents`, and whether it is `flat`."""
    found = jackknife(values[0], values[1:])
    fixed = LAWS[law].unit_slope  # only there the exponent is a shape, with a least one
    return replace(found, flat=bool(fixed and (values <= LAWS[law].shapes[0]).all()))


def jackknife(whole: float, left: np.ndarray) -> Estimate:
    """A statistic with a t interval, from its values when each of n documents is left out."""
    n = len(left)
    if n < 3:
        raise ValueError(f"documents: expected at least 3 to leave one out, got {n}")
    half = stdtrit(n - 1, 0.975) * np.sqrt((n - 1) * np.var(left))
    return Estimate(float(whole), float(whole - half), float(whole + half), n)
