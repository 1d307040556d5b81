"""Exponents and local slopes of a curve, with their intervals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from kvlib.fit.curve import BOOTSTRAPS, Curve
from kvlib.fit.estimate import Estimate, estimate, jackknife
from kvlib.fit.laws import LAWS, Fit, fit_law


def exponent(
    data: Curve,
    law: str = "finite-context power",
    interval: str = "jackknife-t",
    n_boot: int = BOOTSTRAPS,
    seed: int = 0,
) -> Estimate:
    """The exponent α of a power law fitted to a whole curve, with its 95% interval over documents.

    `interval` is `jackknife-t`, which covers the truth as often as it says on simulated studies of
    24 documents (`kvlib.fit.calibration`), or `percentile`, the document bootstrap's, narrower.
    Raises ValueError for another name.
    """
    if interval == "jackknife-t":
        return jackknife_t(data, law)
    if interval != "percentile":
        raise ValueError(f"interval: expected jackknife-t or percentile, got {interval!r}")
    options = {"weights": data.weights, "contexts": data.contexts}
    samples = fit_law(law, data.window, data.resampled(n_boot, seed), **options).exponent
    whole = fit_law(law, data.window, data.mean, **options)
    return estimate(float(whole.exponent), samples, data.n_documents)


def local_slopes(data: Curve, n_boot: int = BOOTSTRAPS, seed: int = 0) -> pd.DataFrame:
    """-d log D / d log w over each octave, with its interval: flat for a power law, and growing
    in proportion to w for an exponential. Columns `window, slope, low, high`."""
    octave = np.log2(data.window)
    tops = range(1, int(np.ceil(np.log2(data.last.max()))) + 1)
    stacked = np.log(np.vstack([data.mean, data.resampled(n_boot, seed)]))
    rows = []
    for top in tops:
        inside = (data.first >= 2 ** (top - 1)) & (data.last <= 2**top)
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
    finite-context power law, and of total variation its root law, on windows of at least
    `min_window`.
    """
    tables = []
    for divergence, curves in kinds.items():
        for (model, corpus), data in curves.items():
            long = data.between(min_window)
            name = "root power" if divergence == "tv" else "finite-context power"
            law = fit_law(name, long.window, long.mean, long.weights, long.contexts)
            table = summary(data, law)
            table.loc[table["first"] < min_window, "fit"] = np.nan
            tables.append(table.assign(model=model, corpus=corpus, divergence=divergence))
    return pd.concat(tables, ignore_index=True)


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
