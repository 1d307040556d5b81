"""Contests of laws: fitted here, scored there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from kvlib.fit.bent import leaving_out
from kvlib.fit.curve import BOOTSTRAPS, Curve
from kvlib.fit.estimate import Estimate, estimate
from kvlib.fit.laws import LAWS, Fit, fit_law

RIVALS = tuple(name for name in LAWS if name != "root power")  # that one is a total variation's

ERRORS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {  # of (log said, log measured)
    "log": lambda said, measured: said - measured,
    "relative": lambda said, measured: np.expm1(said - measured),
    "linear": lambda said, measured: np.exp(said) - np.exp(measured),
}


@dataclass(frozen=True)
class Contest:
    """Laws fitted on windows ≤ split, scored on the rest by the root mean square of an error.

    `errors[law]` and `ratios[law]` (its error over the power law's) carry bootstrap intervals.
    """

    split: float
    fits: dict[str, Fit]
    errors: dict[str, Estimate]
    ratios: dict[str, Estimate]


def extrapolation(
    data: Curve,
    split: float,
    laws: tuple[str, ...] = RIVALS,
    n_boot: int = BOOTSTRAPS,
    seed: int = 0,
    against: str = "power",
    error: str = "log",
) -> Contest:
    """Fit each law on the short windows of a curve and score it on the long ones.

    Weights are those of the fitted part; the scored bins count the same, being log-spaced. In
    every bootstrap sample the same documents are used to fit and to score. `error` is one of
    ERRORS: of log D (nats of log), of D in shares of what was measured, or of D in its unit. A law
    that falls to nothing misses by any amount of log D, but by no more than all in shares.
    Raises ValueError for another `error`, or with fewer than 2 windows beyond the split.
    """
    if error not in ERRORS:
        raise ValueError(f"error: expected one of {', '.join(ERRORS)}, got {error!r}")
    short, long = data.split_at(split)
    if len(long.window) < 2:
        raise ValueError(f"split: expected at least 2 windows beyond it, got {len(long.window)}")
    keep = data.last <= split
    stacked = np.vstack([data.mean, data.resampled(n_boot, seed)])
    fits, scores = {}, {}
    for law in laws:
        fitted = fit_law(law, short.window, stacked[:, keep], short.weights, data.contexts)
        miss = ERRORS[error](fitted.log_value(long.window), np.log(stacked[:, ~keep]))
        scores[law] = np.sqrt((miss**2).mean(axis=-1))
        fits[law] = Fit(
            fitted.law, fitted.intercept[0], fitted.slope[0], fitted.shape[0], fitted.contexts
        )
    n = data.n_documents
    return Contest(
        split=split,
        fits=fits,
        errors={law: _holding(estimate(s[0], s[1:], n)) for law, s in scores.items()},
        ratios={
            law: _holding(estimate(s[0] / scores[against][0], s[1:] / scores[against][1:], n))
            for law, s in scores.items()
        },
    )


def _holding(item: Estimate) -> Estimate:
    """The interval, and the value itself: errors of resampled curves are larger, for they are
    noisier, so that an interval of percentiles may leave out the value that it is of."""
    low, high = min(item.low, item.value), max(item.high, item.value)
    return replace(item, low=low, high=high)


def straight_log_ratios(data: Curve, split: float, error: str = "log") -> np.ndarray:
    """log(exponential's error / power law's) beyond the split, (1 + documents,): of all documents,
    then without each in turn.

    Both laws are straight lines, so that all samples are fitted at once; the plain twin is
    `extrapolation` of each curve of `Curve.leaving_out`. Raises ValueError as that does, and for
    fewer than 3 documents.
    """
    if error not in ERRORS:
        raise ValueError(f"error: expected one of {', '.join(ERRORS)}, got {error!r}")
    y, weights = leaving_out(data)
    near = data.last <= split
    if (~near).sum() < 2 or near.sum() < 3:
        raise ValueError(
            "split: expected at least 3 windows up to it and 2 beyond, "
            f"got {near.sum()} and {(~near).sum()}"
        )
    weights = weights[:, near] / weights[:, near].sum(axis=1, keepdims=True)
    scores = []
    for x in (np.log(data.window), data.window):
        centre = weights @ x[near], (weights * y[:, near]).sum(axis=1)
        off = x[near] - centre[0][:, None]
        slope = (weights * off * y[:, near]).sum(axis=1) / (weights * off**2).sum(axis=1)
        said = centre[1][:, None] + slope[:, None] * (x[~near] - centre[0][:, None])
        scores.append(np.sqrt((ERRORS[error](said, y[:, ~near]) ** 2).mean(axis=1)))
    return np.log(scores[1] / scores[0])


def held_out(
    data: Curve,
    laws: tuple[str, ...] = RIVALS,
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
            near, _ = data.split_at(split)
            fitted = fit_law(law, near.window, near.mean, near.weights, near.contexts)
            drawn = data.window[::2]
            predictions.append(
                pd.DataFrame({"window": drawn, "value": fitted(drawn)}).assign(
                    source=source, split=split
                )
            )
    return tuple(pd.concat(t, ignore_index=True) for t in (points, predictions))
