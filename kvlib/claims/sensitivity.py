"""C2: how the decay bends, by one number; exponents of KL and of TV; whose α is whose.

The bend b is that of `fit.bend`: 0 for a power law, 1 for an exponential. Beside it stand two signs
that a measured D(w) may be read as the Bayes risk Δ(w). Nested Bayes predictors obey
D_T(w) = D_T(v) + D_v(w) for w < v < T (Pythagoras), and where the full-context law is calibrated
jointly with the short one, log P_T(x)/P_w(x) averages to D_T(w) over the tokens x that really
follow. Neither sign is sufficient. [Our reconstruction.]
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from kvlib import fit, store
from kvlib.claims import chances, references
from kvlib.claims.claim import (
    DISTANCES,
    MIN_WINDOW,
    RIVAL,
    SMALL_BEND,
    Claim,
    Figure,
    Verdict,
    both_distances,
    figure_of,
    figures_of,
    rule_text,
    to_come,
)
from kvlib.fit import extremes, mean_of

CLAIM = Claim(
    "C2",
    "What cutting old context changes decays polynomially, not geometrically, in the length kept.",
    "sensitivity",
)
CLAIMS = (CLAIM,)
FIRSTS = (8, 12, 16, 33)  # windows from which the bend is fitted
NOTE = (0.4, 0.6)  # the paper's exponents of TV, as a public note reports them
RISK = 0.025  # one-sided, of any false "surely bent" among the tables of a distance
ALONE = "each table by itself"
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


def exponents(
    curves: dict[str, dict[tuple[str, str], fit.Curve]], min_window: int = MIN_WINDOW
) -> pd.DataFrame:
    """The exponents of both distances, a row a table: `model, corpus, documents`, and an
    `fit.Estimate` each of `KL, plain`, `KL, corrected`, `TV, plain`, `TV, root law`.

    `plain` is the power law, which is what others print; `corrected` and `root law` know that the
    reference is finite. Total variation is no increment of an entropy, so its law is a root.
    """
    laws = {
        "KL": {"plain": "power", "corrected": "finite-context power"},
        "TV": {"plain": "power", "root law": "root power"},
    }
    return pd.DataFrame(
        {"model": model, "corpus": corpus, "documents": data.n_documents}
        | {
            f"{distance}, {kind}": fit.exponent(
                curves[distance][model, corpus].between(min_window), law
            )
            for distance, of in laws.items()
            for kind, law in of.items()
        }
        for (model, corpus), data in curves["KL"].items()
    )


def of_texts(rows: pd.DataFrame, column: str) -> fit.Estimate:
    """The mean of an exponent over texts, with the interval of their spread: n is that of texts.

    A text's exponent is the mean over the models that read it. Raises ValueError for one text.
    """
    values = rows[column].map(lambda item: item.value).groupby(rows["corpus"]).mean()
    n = len(values)
    return fit.over_texts([fit.Estimate(value, value, value, n) for value in values])


def bends(
    curves: dict[str, dict[tuple[str, str], fit.Curve]], firsts: tuple[int, ...] = FIRSTS
) -> pd.DataFrame:
    """How each table bends, a row a first window of the fit, distance and table.

    Columns: `model, corpus, documents, distance, from`; `plain` and `reference`, the bend b without
    the bracket of the finite reference and with it (an `fit.Estimate` each); and what they say,
    `not geometric` and `power law`.
    """
    rows = []
    for first, (distance, of_tables) in itertools.product(firsts, curves.items()):
        for (model, corpus), data in of_tables.items():
            part, root = data.between(first), distance == "TV"
            plain = fit.bend(part, root).first
            reference = fit.bend_of_reference(part, root).first
            rows.append(
                {"model": model, "corpus": corpus, "documents": data.n_documents}
                | {"distance": distance, "from": first, "plain": plain, "reference": reference}
                | {
                    "not geometric": is_not_geometric(plain.high, reference.high),
                    "power law": is_power_law(reference.low, reference.high),
                }
            )
    return pd.DataFrame(rows)


def starting_at(rows: pd.DataFrame, first: int = MIN_WINDOW) -> pd.DataFrame:
    """The rows of `bends` whose fits begin at one window; the rule's begin at MIN_WINDOW."""
    return rows[rows["from"] == first]


def is_not_geometric(plain_high: float, reference_high: float) -> bool:
    """Do the intervals of b end below the exponential's 1, without the bracket and with it?"""
    return plain_high < 1 and reference_high < 1


def is_power_law(low: float, high: float) -> bool:
    """Of one table by itself: does the interval of b, with the bracket, hold 0 (as far as it is
    fitted) and end small?"""
    return low <= fit.EDGE and high < SMALL_BEND


def counted(rows: pd.DataFrame) -> pd.DataFrame:
    """How many tables are not geometric, a power law, or bent (b > 0 with the bracket), each taken
    alone, by the first window of the fit and the distance."""
    bent = rows["reference"].map(lambda item: item.low > fit.EDGE)
    flags = rows.assign(**{"bent, alone": bent}).groupby(["from", "distance"], sort=False)
    counts = flags[["not geometric", "power law", "bent, alone"]].sum()
    return counts.assign(tables=flags.size()).reset_index()


def strengths(
    curves: dict[str, dict[tuple[str, str], fit.Curve]], min_window: int = MIN_WINDOW
) -> pd.DataFrame:
    """How strong the bracket of the finite reference is, a row a table and distance.

    Columns: `model, corpus, distance`; `λ`, 1 for a Bayes predictor on a power-law source and 0
    where the reference has no effect; and the exponent, of KL or of TV, `free` with λ left free and
    `fixed` with λ = 1.
    """
    rows = []
    for distance, of_tables in curves.items():
        law, half = ("root power", 2) if distance == "TV" else ("finite-context power", 1)
        for (model, corpus), data in of_tables.items():
            part = data.between(min_window)
            found = fit.strength(part, root=distance == "TV")
            free = found.first
            free = fit.Estimate(
                *(x / half for x in (free.value, free.low, free.high)), free.n_documents
            )
            rows.append(
                {"model": model, "corpus": corpus, "distance": distance, "λ": found.second}
                | {"free": free, "fixed": fit.exponent(part, law)}
            )
    return pd.DataFrame(rows)


def rule(rows: pd.DataFrame) -> str:
    """C2, by the bend b of the decay: 0 is a power law, 1 an exponential. It is *not geometric*
    when on every table the 95% interval of b ends below 1, both without the bracket of the finite
    reference and with it. It is *a power law* when with the bracket no table is surely bent (b > 0
    at a risk of RISK, after Holm's correction over the tables of a distance), and the mean of b
    over texts, with the 95% interval of their spread, ends below SMALL_BEND. Reproduced: both, in
    KL and in TV. Partly: not geometric, but no power law. Not reproduced: geometric is not excluded
    on some table."""
    if not rows["not geometric"].all():
        return "not reproduced"
    straight = [is_straight(part) for _, part in rows.groupby("distance", sort=False)]
    return "reproduced" if all(straight) else "partly"


def is_straight(rows: pd.DataFrame) -> bool:
    """Do the tables of one distance, taken together, speak for a power law?"""
    return not surely_bent(rows["reference"]).any() and mean_bend(rows).high < SMALL_BEND


def surely_bent(items: Iterable[fit.Estimate]) -> np.ndarray:
    """Which bends are surely above zero, as many as are tried."""
    return fit.holm(np.array([fit.p_above(item, fit.EDGE) for item in items])) < RISK


def mean_bend(rows: pd.DataFrame) -> fit.Estimate:
    """The mean of b with the bracket: over texts; of a single text the widest interval."""
    if rows["corpus"].nunique() > 1:
        return of_texts(rows, "reference")
    items = list(rows["reference"])
    ends = (min(item.low for item in items), max(item.high for item in items))
    return fit.Estimate(float(np.mean([item.value for item in items])), *ends, 1)


def readings(rows: pd.DataFrame) -> dict[str, str]:
    """The word of each distance by itself, and the word if every table had to be a power law."""
    found = {distance: rule(part) for distance, part in rows.groupby("distance", sort=False)}
    strict = "reproduced" if rows["power law"].all() else "partly"
    return found | {ALONE: strict if rows["not geometric"].all() else "not reproduced"}


def sentence(rows: pd.DataFrame, powers: pd.DataFrame) -> str:
    """Both counts of `bends`, also for the latest fits, and the `exponents` of KL and TV: their
    intervals on these texts, and the one between texts."""
    judged, late = starting_at(rows), starting_at(rows, rows["from"].max())
    counts = [
        f"in {distance} {_of(part['not geometric'])} tables are not geometric, and b is "
        f"{mean_bend(part):.2g} over texts; by itself a power law is "
        f"{_of(part['power law'])}"
        for distance, part in judged.groupby("distance", sort=False)
    ]
    few = [_of(part["power law"]) for _, part in late.groupby("distance", sort=False)]
    counts.append(f"fitted from {late['from'].max()} tokens on, on {' and '.join(few)}")
    spans = []
    for distance, column in (("KL", "KL, corrected"), ("TV", "TV, root law")):
        low, high = extremes(powers[column])
        span = f"α of {distance} from {low:.2g} to {high:.2g}"
        texts = powers["corpus"].nunique()
        if texts > 1:
            span += f", over {texts} texts {of_texts(powers, column):.2g}"
        spans.append(span)
    return f"{'; '.join(counts + spans)}; {rows['documents'].min()} or more documents each"


def _of(flags: pd.Series) -> str:
    return f"{flags.sum()} of {len(flags)}"


def judge(folder: Path = store.DATA) -> tuple[Verdict, ...]:
    """The verdict on C2."""
    curves = both_distances(folder)
    if not curves["KL"]:
        return (to_come(CLAIM, rule),)
    rows, powers = bends(curves, (MIN_WINDOW, FIRSTS[-1])), exponents(curves)
    judged, said = starting_at(rows), sentence(rows, powers)
    figures = _figures(judged, powers, curves)
    power = _power_facts(had_it_been(simulated(folder)))["had-it-been"]
    judgement = rule(judged), said, rule_text(rule), figures, readings(judged), power
    return (Verdict(CLAIM, *judgement),)


def _figures(rows: pd.DataFrame, powers: pd.DataFrame, curves: dict) -> tuple[Figure, ...]:
    """What C2 is judged by and what stands beside it."""
    where, found = {"protocol": "reencode"}, []
    names = {"plain": "bend b", "reference": "bend b, finite reference"}
    strong = strengths(curves)
    for distance, part in rows.groupby("distance", sort=False):
        found += figures_of(part, names, distance=distance, **where)
        part = strong[strong["distance"] == distance]
        found += figures_of(part, {"λ": "strength λ of the reference"}, distance=distance, **where)
    for column in powers.columns[3:]:
        distance, kind = column.split(", ")
        found += figures_of(powers, {column: f"exponent α, {kind}"}, distance=distance, **where)
        if powers["corpus"].nunique() > 1:
            of = {"model": "every model", "corpus": "every text", "distance": distance} | where
            found.append(
                figure_of(f"exponent α, {kind}, over texts", of_texts(powers, column), **of)
            )
    errors = {
        "exponential": "unseen error, exponential / power law",
        "stretched": "unseen error, stretched exponential / power law",
    }
    return tuple(found) + figures_of(decay(curves["KL"]), errors, distance="KL", **where)


def bend_table(bent: pd.DataFrame, strong: pd.DataFrame) -> pd.DataFrame:
    """The page's short table, a row a model and text: b with the bracket and λ, in KL and TV."""
    rows = starting_at(bent).merge(strong, on=["model", "corpus", "distance"])
    columns = {}
    for sign, column in (("b", "reference"), ("λ", "λ")):
        for distance in DISTANCES:
            part = rows[rows["distance"] == distance].set_index(["model", "corpus"])[column]
            columns[f"{sign}, {distance}"] = part
    return pd.DataFrame(columns).reset_index()


def bends_by_first(bent: pd.DataFrame) -> pd.DataFrame:
    """b with the bracket, a row a table and distance, a column a first window of the fit."""
    keys = ["model", "corpus", "distance"]
    wide = bent.pivot(index=keys, columns="from", values="reference")
    order = bent[keys].drop_duplicates()
    wide = wide.loc[list(map(tuple, order.to_numpy()))].reset_index().rename_axis(columns=None)
    return wide.rename(columns={first: f"from {first}" for first in bent["from"].unique()})


# --- what would have changed the word -------------------------------------------------------------


def had_it_been(simulated: pd.DataFrame) -> pd.DataFrame:
    """What the rule says of simulated studies, were the bend of every table another.

    `simulated` are rows of the kind `bends`, or none. A row a truth: `b`, `studies`, the shares of
    `not geometric` and `power law` over tables and distances, `coverage` (how often the interval
    with the bracket held the truth), and of each word over whole studies: `reproduced`, `partly`,
    `not reproduced`.
    """
    columns = ["b", "studies", "coverage", "not geometric", "power law", *chances.WORDS]
    if simulated.empty:
        return pd.DataFrame(columns=columns)
    keys = ["truth", "study", "model", "corpus", "distance", "documents"]
    ends = simulated.pivot(index=keys, columns="bracket", values=["b", "low", "high"])
    low, high = ends["low"][True], ends["high"][True]
    n = low.index.get_level_values("documents")
    flags = pd.DataFrame(
        {
            "not geometric": (ends["high"] < 1).all(axis=1),
            "power law": (low <= fit.EDGE) & (high < SMALL_BEND),
            "coverage": (low - fit.EDGE <= (b := low.index.get_level_values("truth")))
            & (b <= high + fit.EDGE),
            "reference": list(map(fit.Estimate, ends["b"][True], low, high, n)),
        }
    ).reset_index()
    rows = []
    for truth, part in flags.groupby("truth"):
        said = [rule(of) for _, of in part.groupby("study")]
        rows.append(
            {"b": truth, "studies": len(said)}
            | part[["coverage", "not geometric", "power law"]].mean().to_dict()
            | chances.counted(said)
        )
    return pd.DataFrame(rows)[columns]


def simulated(folder: Path = store.DATA) -> pd.DataFrame:
    """The stored simulated studies; no rows where they were not made."""
    found = store.tables(folder, kind="bends")
    return found[0].load() if found else pd.DataFrame()


# --- what the page says -------------------------------------------------------------------------


def facts(
    curves: dict[str, dict[tuple[str, str], fit.Curve]],
    bent: pd.DataFrame,
    powers: pd.DataFrame,
    rows: pd.DataFrame,
    drift: pd.DataFrame,
    slopes: pd.DataFrame,
    signs: pd.DataFrame,
    folder: Path = store.DATA,
) -> dict[str, str]:
    """What the page's prose glues: of the stored curves of `both_distances`, their `bends` and
    `exponents`, `rows` of the `decay` of KL, their `starting_points`, and of the table SHOWN the
    local slopes and the `nested_summary`."""
    return {
        **_bend_facts(bent),
        **alpha_facts(powers),
        **_reference_facts(strengths(curves)),
        **references.facts(references.stored(folder)),
        **_power_facts(had_it_been(simulated(folder))),
        **_decay_facts(curves["KL"], rows, powers),
        **_shown_facts(curves["KL"][SHOWN], slopes),
        **_drift_facts(drift),
        **_sign_facts(signs, folder),
        **_coverage_facts(folder),
    }


def _bend_facts(bent: pd.DataFrame) -> dict[str, str]:
    judged, late = starting_at(bent), bent["from"].max()
    counts = counted(bent).set_index(["distance", "from"])
    found = {
        "verdict-c2": rule(judged),
        "word-alone": readings(judged)[ALONE],
        "small-bend": f"{SMALL_BEND}",
        "late-window": f"{late}",
    }
    for distance, part in judged.groupby("distance", sort=False):
        key, last = distance.lower(), counts.loc[distance, late]
        found |= {
            f"verdict-{key}": rule(part),
            f"not-geometric-{key}": _of(part["not geometric"]),
            f"power-law-{key}": _of(part["power law"]),
            f"mean-b-{key}": f"{mean_bend(part):.2g}",
            f"bent-{key}": f"{surely_bent(part['reference']).sum()}",
            f"largest-b-{key}": f"{max(item.high for item in part['reference']):.2g}",
            f"plain-low-{key}": f"{extremes(part['plain'])[0]:.2g}",
            f"plain-high-{key}": f"{extremes(part['plain'])[1]:.2g}",
            f"late-not-geometric-{key}": f"{last['not geometric']} of {last['tables']}",
            f"late-power-law-{key}": f"{last['power law']} of {last['tables']}",
            f"late-bent-{key}": f"{last['bent, alone']} of {last['tables']}",
        }
    return found


def alpha_facts(powers: pd.DataFrame) -> dict[str, str]:
    """Which α is which: the plain exponents of both distances, and what a note reports of TV's."""
    low, high = NOTE
    meet = [item.low <= high and item.high >= low for item in powers["TV, plain"]]
    found = {"note-low": f"{low}", "note-high": f"{high}", "n-meet": _of(pd.Series(meet))}
    for distance in DISTANCES:
        least, most = extremes(powers[f"{distance}, plain"])
        found |= {f"alpha-{distance.lower()}-low": f"{least:.2g}"}
        found |= {f"alpha-{distance.lower()}-high": f"{most:.2g}"}
        found[f"texts-{distance.lower()}"] = f"{of_texts(powers, f'{distance}, plain'):.2g}"
    pairs = zip(powers["KL, plain"], powers["TV, plain"], strict=True)
    faster = [kl.value / tv.value for kl, tv in pairs]
    found |= {"kl-over-tv-low": f"{min(faster):.3g}", "kl-over-tv-high": f"{max(faster):.3g}"}
    return found | {"n-texts": f"{powers['corpus'].nunique()}"}


def _reference_facts(strong: pd.DataFrame) -> dict[str, str]:
    """How strong the bracket is, and what not knowing it costs in width."""
    found = {}
    for distance, part in strong.groupby("distance", sort=False):
        key, items = distance.lower(), part["λ"]
        found[f"lambda-one-{key}"] = _of(items.map(lambda item: item.low <= 1 <= item.high))
        found[f"lambda-zero-{key}"] = _of(items.map(lambda item: item.low > 0))
        found[f"lambda-more-{key}"] = f"{sum(item.low > 1 for item in items)}"
        found[f"lambda-low-{key}"] = f"{extremes(items)[0]:.2g}"
        found[f"lambda-high-{key}"] = f"{extremes(items)[1]:.2g}"
    wider = [
        (free.high - free.low) / (fixed.high - fixed.low)
        for free, fixed in zip(strong["free"], strong["fixed"], strict=True)
    ]
    found["lambda-wider"] = f"{np.median(wider):.1f}"
    return found


def _power_facts(shares: pd.DataFrame) -> dict[str, str]:
    """What data would have given each word, in one sentence."""
    if shares.empty:
        return {"had-it-been": "No simulated studies are stored; kvlib study bends makes them."}
    words = chances.WORDS
    said = [
        f"with b = {row['b']:g} " + ", ".join(f"{word} in {100 * row[word]:.0f}%" for word in words)
        for row in shares.to_dict("records")
    ]
    number = f"{shares['studies'].min():.0f}"
    return {"had-it-been": f"Of {number} simulated studies a bend the rule said {'; '.join(said)}."}


def _decay_facts(
    curves: dict[tuple[str, str], fit.Curve], rows: pd.DataFrame, powers: pd.DataFrame
) -> dict[str, str]:
    lowest, highest = extremes(rows["exponent"])
    tv = extremes(powers["TV, root law"])
    lost = sum(item.low > 1 for item in rows["exponential"])
    better = {
        "stretched-better": sum(item.high < 1 for item in rows["stretched"]),
        "power-better": sum(item.low > 1 for item in rows["stretched"]),
    }
    open_ones = len(rows) - sum(better.values())
    shown = rows.set_index(["model", "corpus"]).loc[SHOWN]
    return {
        "lowest": f"{lowest}",
        "highest": f"{highest}",
        "lowest-tv": f"{tv[0]}",
        "highest-tv": f"{tv[1]}",
        "over-texts": f"{of_texts(powers, 'KL, corrected'):.2g}",
        "over-texts-tv": f"{of_texts(powers, 'TV, root law'):.2g}",
        "n-tables": f"{len(rows)}",
        "n-docs": f"{rows['documents'].min()}",
        "first-window": f"{curves[SHOWN].between(MIN_WINDOW).first[0]}",
        "last-window": f"{max(data.last[-1] for data in curves.values()):,}",
        "exponential-loses": f"{lost} of {len(rows)}",
        "weakest": f"{extremes(rows['exponential'])[0]}",
        "undecided": f"{open_ones} of {len(rows)}",
        **{key: f"{count}" for key, count in better.items()},
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
        "slope-one": _one_slope(slopes),
        "doublings": f"{2 ** (len(slopes) - 1)}",
    }


def _one_slope(slopes: pd.DataFrame) -> str:
    """Does one slope lie in the intervals of all octaves that the law is fitted to, and of how many
    others?"""
    fitted = slopes[slopes["window"] >= MIN_WINDOW]
    low, high = fitted["low"].max(), fitted["high"].min()
    if low > high:
        return "It is no clean power law either: no one slope lies in all the intervals"
    out = int(((slopes["low"] > high) | (slopes["high"] < low)).sum())
    return (
        "Between octaves it can't be told from a clean power law: a slope of "
        f"{low:.2f} to {high:.2f} lies in all intervals{f' but {out}' if out else ''}"
        f"{', below the windows that the law is fitted to' if out else ''}"
    )


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
    }


def _coverage_facts(folder: Path) -> dict[str, str]:
    """The shares, in percent, of intervals that take tokens as independent and hold the truth."""
    kinds = naive_coverage(folder)
    found = {"n-rough": f"{len(kinds['rough'])}"}
    for kind, rows in kinds.items():
        few = sorted({f"{100 * share:.1f}" for share in rows["share"]})
        found[f"cover-{kind}"] = f"{few[0]} to {few[-1]}" if len(few) > 1 else few[0]
    return found
