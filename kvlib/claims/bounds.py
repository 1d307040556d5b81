"""From the stored measurements to a verdict for each claim. The rules are here, in code, so that
a verdict changes when the data do."""

from __future__ import annotations

import numpy as np
import pandas as pd

from kvlib import fit
from kvlib.claims.claim import MIN_WINDOW
from kvlib.theory import bounds, gaussian, sources


def sandwich_checks(count: int = 40) -> pd.DataFrame:
    """C6 and C7 on sources whose Bayes risk is exact: does the least window obey both bounds?

    The constants c and C are the extremes of Δ(w) w^α over windows 1 to 4096; the least window is
    found by search, for `count` values of ε within the reach of those windows. One row a source.
    """
    windows = np.arange(1, 4097)
    known = {
        "Gaussian, α = 0.5": (gaussian.GaussianPowerLaw(0.5, 0.1), 0.5),
        "Gaussian, α = 1.5": (gaussian.GaussianPowerLaw(1.5, 0.1), 1.5),
        "renewal, θ = 1.5": (sources.Renewal(1.5), 1.5),
        "recall, α = 0.8": (sources.Recall(0.8), 0.8),
    }
    rows = {}
    for name, (source, alpha) in known.items():
        risk = source.sensitivity(windows)
        scaled = risk * windows**alpha
        epsilons = np.geomspace(1.01 * risk[-1], 0.99 * risk[0], count)
        least = np.array([windows[np.argmax(risk <= epsilon)] for epsilon in epsilons])
        caught = bounds.sandwich(epsilons, scaled.min(), scaled.max(), alpha)
        rows[name] = {
            "values of ε": count,
            "C / c": round(float(scaled.max() / scaled.min()), 2),
            "lower holds": bool((caught.low <= least).all()),
            "upper holds": bool((least <= caught.high).all()),
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def law_errors(
    curves: dict[tuple[str, str], fit.Curve], min_window: int = MIN_WINDOW
) -> pd.DataFrame:
    """How far the fitted finite-context power law is from each measured curve, relatively: columns
    `model, corpus, documents`, `typical error` (root mean square) and `largest error`."""
    rows = []
    for (model, corpus), data in curves.items():
        part = data.between(min_window)
        law = fit.fit_law(
            "finite-context power", part.window, part.mean, part.weights, part.contexts
        )
        miss = np.expm1(np.abs(law.log_value(part.window) - np.log(part.mean)))
        rows.append(
            {
                "model": model,
                "corpus": corpus,
                "documents": data.n_documents,
                "typical error": round(float(np.sqrt(np.mean(miss**2))), 3),
                "largest error": round(float(miss.max()), 3),
            }
        )
    return pd.DataFrame(rows)


def bound_verdict(holds: pd.Series) -> str:
    """C6 or C7: `proved here` when the bound held on every source with a known answer."""
    return "proved here" if holds.all() else "not reproduced"
