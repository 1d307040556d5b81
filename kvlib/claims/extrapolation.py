"""From the stored measurements to a verdict for each claim. The rules are here, in code, so that
a verdict changes when the data do."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from kvlib import fit, store
from kvlib.claims.claim import (
    MIN_WINDOW,
    RIVAL,
    Claim,
    Verdict,
    figures_of,
    rule_text,
    spread,
    stored_curves,
    to_come,
)

CLAIM = Claim(
    "C3",
    "Fitted on short windows, a power law foretells long ones ten times better than an "
    "exponential.",
    "extrapolation",
)
CLAIMS = (CLAIM,)

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


def rule(rows: pd.DataFrame) -> str:
    """C3. Reproduced: on every table the exponential's error is the larger one, interval above
    one, and the geometric mean of the ratios is an order of magnitude, give or take half of one
    (√10 or more). Partly: larger, but by less."""
    if not all(ratio.low > 1 for ratio in rows["exponential"]):
        return "not reproduced"
    return "reproduced" if fit.geometric_mean(rows["exponential"]) >= 10**0.5 else "partly"


def sentence(rows: pd.DataFrame) -> str:
    """The smallest and the largest ratio of errors of `contests`."""
    return spread("error of exponential / power law", rows["exponential"], rows)


def judge(folder: Path = store.DATA) -> tuple[Verdict, ...]:
    """The verdict on C3."""
    curves = stored_curves(folder=folder)
    if not curves:
        return (to_come(CLAIM, rule),)
    rows = contests(curves)
    columns = {
        name: f"error beyond {SPLIT} tokens, {law} / power law"
        for name, law in (
            ("exponential", "exponential"),
            ("stretched", RIVAL),
            ("finite", "finite-context power law"),
        )
    }
    figures = figures_of(rows, columns, distance="KL", protocol="reencode")
    return (Verdict(CLAIM, rule(rows), sentence(rows), rule_text(rule), figures),)
