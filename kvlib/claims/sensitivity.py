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
from kvlib.fit import extremes, mean_of

CLAIM = Claim(
    "C2",
    "What cutting old context changes decays polynomially, not geometrically, in the length kept.",
    "sensitivity",
)
CLAIMS = (CLAIM,)
SHOWN = ("smollm2-135m-instruct", "world-english-bible")  # the table that the page looks at closely
NAIVE = "tokens, as if independent"  # an interval of `coverage`


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
    table = interval_studies(folder)
    cells = [
        f"{100 * share:.1f} [{100 * low:.1f},\u00a0{100 * high:.1f}]"
        for share, low, high in zip(table["share"], table["low"], table["high"], strict=True)
    ]
    shown = table.assign(cell=cells).pivot(index="source", columns="method", values="cell")
    return shown.loc[table["source"].unique()].rename_axis(index=None, columns="source")


def interval_studies(folder: Path = store.DATA) -> pd.DataFrame:
    """The stored calibration of intervals, a row a source and a method."""
    return store.read_table(folder / "calibration.parquet").query("check == 'interval'")


def naive_coverage(folder: Path = store.DATA) -> dict[str, pd.DataFrame]:
    """How intervals do that take a document's tokens as independent: kind of source → its rows."""
    rows = interval_studies(folder).query("method == @NAIVE").set_index("source")
    kinds = {"recall": "recall", "rough": "rudin-shapiro", "plus": "plus"}
    return {kind: rows.filter(like=part, axis=0) for kind, part in kinds.items()}


def drifts(drift: pd.DataFrame, kind: str) -> pd.Series:
    """By how much the `corrected` or `naive` exponent moves between `starting_points`."""
    values = drift.filter(like=f"{kind} ≥").map(lambda item: item.value)
    return values.max(axis=1) - values.min(axis=1)


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


# --- what the page says -------------------------------------------------------------------------


def facts(
    curves: dict[tuple[str, str], fit.Curve],
    rows: pd.DataFrame,
    drift: pd.DataFrame,
    slopes: pd.DataFrame,
    signs: pd.DataFrame,
    folder: Path = store.DATA,
) -> dict[str, str]:
    """What the page's prose glues: of the stored curves, `rows` of their `decay`, their
    `starting_points`, and of the table SHOWN the local slopes and the `nested_summary`."""
    return {
        **_decay_facts(curves, rows),
        **_shown_facts(curves[SHOWN], slopes),
        **_drift_facts(drift),
        **_sign_facts(signs, folder),
        **_coverage_facts(folder),
    }


def _decay_facts(curves: dict[tuple[str, str], fit.Curve], rows: pd.DataFrame) -> dict[str, str]:
    lowest, highest = extremes(rows["exponent"])
    lost = sum(item.low > 1 for item in rows["exponential"])
    open_ones = sum(not item.low > 1 for item in rows["stretched"])
    shown = rows.set_index(["model", "corpus"]).loc[SHOWN]
    return {
        "verdict-c2": rule(rows),
        "lowest": f"{lowest}",
        "highest": f"{highest}",
        "n-tables": f"{len(rows)}",
        "n-docs": f"{rows['documents'].min()}",
        "first-window": f"{curves[SHOWN].between(MIN_WINDOW).first[0]}",
        "exponential-loses": f"{lost} of {len(rows)}",
        "weakest": f"{extremes(rows['exponential'])[0]}",
        "undecided": f"{open_ones} of {len(rows)}",
        "web-stretched": f"{shown['stretched']}",
    }


def _shown_facts(data: fit.Curve, slopes: pd.DataFrame) -> dict[str, str]:
    """Of one curve: two of its points, and its local slopes."""
    bins, n = fit.summary(data), data.n_documents
    points = {"web-16": bins[bins["first"] <= 16].iloc[-1], "web-1024": bins.iloc[-1]}
    means = {key: fit.Estimate(*row[["mean", "low", "high"]], n) for key, row in points.items()}
    first, last = (
        fit.Estimate(*slopes[["slope", "low", "high"]].iloc[k], n_documents=n) for k in (0, -1)
    )
    return {
        "n-bible": f"{n}",
        **{key: f"{mean:.2g}" for key, mean in means.items()},
        **{
            f"{key}-windows": f"{row['first']:,.0f} to {row['last']:,.0f}"
            for key, row in points.items()
        },
        "slope-first": f"{first:.2g}",
        "slope-last": f"{last:.2g}",
        "slope-factor": f"{last.value / first.value:.1f}",
        "doublings": f"{2 ** (len(slopes) - 1)}",
    }


def _drift_facts(drift: pd.DataFrame) -> dict[str, str]:
    firsts = [int(name.split()[-1]) for name in drift.filter(like="corrected ≥")]
    found = dict(zip(("drift-first", "drift-second"), map(str, firsts), strict=True))
    for kind in ("corrected", "naive"):
        moves = drifts(drift, kind)
        found[f"drift-{kind}"] = f"{moves.median():.2f}"
        found[f"drift-{kind}-least"] = f"{moves.min():.2f}"
        found[f"drift-{kind}-most"] = f"{moves.max():.2f}"
    return found


def _sign_facts(signs: pd.DataFrame, folder: Path) -> dict[str, str]:
    short, long = store.read_manifest(store.stored("diagnostics", folder)[SHOWN])["settings"][
        "windows"
    ]
    check = signs.loc["data check", "defect"]
    return {
        "sign-short": f"{short}",
        "sign-long": f"{long}",
        "n-signs": f"{check.n_documents}",
        "signs": "; ".join(f"{name}: {item:.2g}" for name, item in signs["defect"].items()),
        "defect-width": f"{check.high - check.low:.2f}",
    }


def _coverage_facts(folder: Path) -> dict[str, str]:
    """The shares, in percent, of intervals that take tokens as independent and hold the truth."""
    kinds = naive_coverage(folder)
    found = {"n-rough": f"{len(kinds['rough'])}"}
    for kind, rows in kinds.items():
        few = sorted({f"{100 * share:.1f}" for share in rows["share"]})
        found[f"cover-{kind}"] = f"{few[0]} to {few[-1]}" if len(few) > 1 else few[0]
    return found
