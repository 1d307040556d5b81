"""May a measured D(w) be read as the Bayes risk Δ(w)? Two necessary signs, on real text.

Nested Bayes predictors obey D_T(w) = D_T(v) + D_v(w) for w < v < T (Pythagoras), and where the
full-context law is calibrated jointly with the short one, log P_T(x)/P_w(x) averages to D_T(w)
over the tokens x that really follow. Neither sign is sufficient. [Our reconstruction.]
"""

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
from kvlib.fit import mean_of

CLAIM = Claim(
    "C2",
    "What cutting old context changes decays polynomially, not geometrically, in the length kept.",
    "sensitivity",
)
CLAIMS = (CLAIM,)


def nested_summary(table: pd.DataFrame) -> pd.DataFrame:
    """Both diagnostics with 95% t intervals over documents: rows `Pythagoras` and `data check`.

    `left` and `right` would be equal for Bayes predictors; `defect` is left minus right.
    """
    means = table.groupby("doc")[["full_short", "full_long", "long_short", "log_ratio"]].mean()
    sides = {
        "Pythagoras": (means["full_short"], means["full_long"] + means["long_short"]),
        "data check": (means["log_ratio"], means["full_short"]),
    }
    return pd.DataFrame(
        {
            name: {
                "left": mean_of(left),
                "right": mean_of(right),
                "defect": mean_of(left - right),
            }
            for name, (left, right) in sides.items()
        }
    ).T


def decay(curves: dict[tuple[str, str], fit.Curve], min_window: int = MIN_WINDOW) -> pd.DataFrame:
    """What C2 rests on, a row a table: the exponent, and the held-out error of the rivals.

    Columns: `model, corpus, documents, exponent` and, as ratios to the finite-context power law,
    `exponential, stretched` (an `fit.Estimate` each).
    """
    rows = []
    for (model, corpus), data in curves.items():
        long = data.between(min_window)
        errors = fit.held_out(long, ("finite-context power", "exponential", RIVAL))
        rows.append(
            {
                "model": model,
                "corpus": corpus,
                "documents": data.n_documents,
                "exponent": fit.exponent(long),
                "exponential": errors["exponential"],
                "stretched": errors[RIVAL],
            }
        )
    return pd.DataFrame(rows)


def starting_points(
    curves: dict[tuple[str, str], fit.Curve], firsts: tuple[int, ...]
) -> pd.DataFrame:
    """The exponent of each table for several smallest windows, with the finite-context correction
    and without: columns `model, corpus, corrected ≥ w …, naive ≥ w …`, an `fit.Estimate` each."""
    laws = {"corrected": "finite-context power", "naive": "power"}
    return pd.DataFrame(
        {"model": model, "corpus": corpus}
        | {
            f"{kind} ≥ {first}": fit.exponent(data.between(first), law)
            for kind, law in laws.items()
            for first in firsts
        }
        for (model, corpus), data in curves.items()
    )


def coverage(folder: Path = store.DATA) -> pd.DataFrame:
    """How often the 95% interval of an exponent held the truth, a row a simulated source.

    From the stored calibration: columns are ways to make the interval, cells the share of studies
    with its binomial interval, in percent.
    """
    table = store.read_table(folder / "calibration.parquet").query("check == 'interval'")
    cells = [
        f"{100 * share:.1f} [{100 * low:.1f},\u00a0{100 * high:.1f}]"
        for share, low, high in zip(table["share"], table["low"], table["high"], strict=True)
    ]
    shown = table.assign(cell=cells).pivot(index="source", columns="method", values="cell")
    return shown.loc[table["source"].unique()].rename_axis(index=None, columns="source")


def rule(rows: pd.DataFrame) -> str:
    """C2. Reproduced: on every table the power law beats the exponential *and* the stretched
    exponential on unseen documents, intervals above one. Partly: only the exponential."""
    if not all(ratio.low > 1 for ratio in rows["exponential"]):
        return "not reproduced"
    return "reproduced" if all(ratio.low > 1 for ratio in rows["stretched"]) else "partly"


def sentence(rows: pd.DataFrame) -> str:
    """The smallest and the largest exponent of `decay`."""
    return spread("α", rows["exponent"], rows)


def judge(folder: Path = store.DATA) -> tuple[Verdict, ...]:
    """The verdict on C2."""
    curves = stored_curves(folder=folder)
    if not curves:
        return (to_come(CLAIM, rule),)
    rows = decay(curves)
    columns = {
        "exponent": "exponent α",
        "exponential": "unseen error, exponential / power law",
        "stretched": "unseen error, stretched exponential / power law",
    }
    figures = figures_of(rows, columns, distance="KL", protocol="reencode")
    return (Verdict(CLAIM, rule(rows), sentence(rows), rule_text(rule), figures),)
