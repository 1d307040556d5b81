"""From the stored measurements to a verdict for each claim. The rules are here, in code, so that
a verdict changes when the data do."""

from __future__ import annotations

import pandas as pd

from kvlib import fit
from kvlib.claims.claim import MIN_WINDOW, RIVAL

SPLIT = 64  # the extrapolation page lets the reader choose another


def contests(
    curves: dict[tuple[str, str], fit.Curve], split: float = SPLIT, min_window: int = MIN_WINDOW
) -> pd.DataFrame:
    """What C3 rests on, a row a table: errors beyond the split and their ratios to the power law's.

    Columns: `model, corpus, documents, power` (its error), and the ratios `exponential, stretched,
    finite` (finite-context power law), an `fit.Estimate` each.
    """
    rows = []
    for (model, corpus), data in curves.items():
        contest = fit.extrapolation(data.between(min_window), split)
        rows.append(
            {
                "model": model,
                "corpus": corpus,
                "documents": data.n_documents,
                "power": contest.errors["power"],
                "exponential": contest.ratios["exponential"],
                "stretched": contest.ratios[RIVAL],
                "finite": contest.ratios["finite-context power"],
            }
        )
    return pd.DataFrame(rows)


def extrapolation_verdict(rows: pd.DataFrame) -> str:
    """C3. Reproduced: on every table the exponential's error is the larger one, interval above
    one, and the geometric mean of the ratios is an order of magnitude, give or take half of one
    (√10 or more). Partly: larger, but by less."""
    if not all(ratio.low > 1 for ratio in rows["exponential"]):
        return "not reproduced"
    return "reproduced" if fit.geometric_mean(rows["exponential"]) >= 10**0.5 else "partly"
