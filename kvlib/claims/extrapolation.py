"""C3: a law fitted on short windows and scored on long ones, against its rivals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
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
from kvlib.fit import extremes

CLAIM = Claim(
    "C3",
    "Fitted on short windows, a power law foretells long ones ten times better than an "
    "exponential.",
    "extrapolation",
)
CLAIMS = (CLAIM,)

SPLIT = 64  # the extrapolation page lets the reader choose another
LAWS = ("power", "exponential", RIVAL, "finite-context power")


def contests(
    curves: dict[tuple[str, str], fit.Curve], split: float = SPLIT, min_window: int = MIN_WINDOW
) -> pd.DataFrame:
    """What C3 rests on, a row a table: errors beyond the split and their ratios to the power law's.

    Columns: `model, corpus, documents, power` (its error), and the ratios `exponential, stretched,
    finite` (finite-context power law), an `fit.Estimate` each.
    """
    rows = []
    for (model, corpus), data in curves.items():
        contest = fit.extrapolation(data.between(min_window), split, LAWS)
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


def duels(
    curves: dict[tuple[str, str], fit.Curve], split: float = SPLIT, min_window: int = MIN_WINDOW
) -> list[fit.Estimate]:
    """A stretched exponential's error beyond the split over that of the finite-context power law,
    for each curve."""
    finite, rival = laws = "finite-context power", RIVAL
    return [
        fit.extrapolation(data.between(min_window), split, laws, against=finite).ratios[rival]
        for data in curves.values()
    ]


def mean_ratio(
    curves: dict[tuple[str, str], fit.Curve], split: float = SPLIT, min_window: int = MIN_WINDOW
) -> fit.Estimate:
    """Geometric mean over curves of the exponential's error over the power law's.

    The interval leaves out one document at a time, and takes the curves as independent.
    """
    each = []
    for data in curves.values():
        whole, *left = (_log_ratio(part, split) for part in data.between(min_window).leaving_out())
        each.append(fit.jackknife(whole, np.array(left)))
    middle = np.mean([item.value for item in each])
    half = np.sqrt(sum((item.high - item.value) ** 2 for item in each)) / len(each)
    n = min(item.n_documents for item in each)
    return fit.exponential_of(fit.Estimate(middle, middle - half, middle + half, n))


def _log_ratio(data: fit.Curve, split: float) -> float:
    contest = fit.extrapolation(data, split, ("power", "exponential"), n_boot=2)
    return float(np.log(contest.ratios["exponential"].value))


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


# --- what the page says -------------------------------------------------------------------------


def facts(curves: dict[tuple[str, str], fit.Curve], rows: pd.DataFrame) -> dict[str, str]:
    """What the page's prose glues: of the stored curves and `rows` of their `contests`, which hold
    the `duels` in a column `stretched / finite`."""
    lowest, highest = extremes(rows["exponential"])
    return {
        "verdict-c3": rule(rows),
        "mean-ratio": f"{mean_ratio(curves):.2g}",
        "low-ratio": f"{lowest}",
        "high-ratio": f"{highest}",
        "split": f"{SPLIT}",
        "first-window": f"{next(iter(curves.values())).between(MIN_WINDOW).first[0]}",
        "n-tables": f"{len(rows)}",
        "n-docs": f"{rows['documents'].min()}",
        "stretched-wins": f"{sum(item.high < 1 for item in rows['stretched'])} of {len(rows)}",
        "fair-open": f"{_holding_one(rows['stretched / finite'])} of {len(rows)}",
        **_finite_facts(rows["finite"]),
    }


def _finite_facts(ratios: pd.Series) -> dict[str, str]:
    """The finite-context law's error over the plain one's."""
    lowest, highest = extremes(ratios)
    n, holding = len(ratios), _holding_one(ratios)
    all_hold = "every interval holds" if holding == n else f"{holding} of {n} intervals hold"
    return {
        "finite-low": f"{lowest:.2g}",
        "finite-high": f"{highest:.2g}",
        "finite-holds": all_hold,
        "finite-above": f"{sum(item.value > 1 for item in ratios)} of {n}",
    }


def _holding_one(ratios: pd.Series) -> int:
    """In how many intervals one lies."""
    return sum(item.low <= 1 <= item.high for item in ratios)
