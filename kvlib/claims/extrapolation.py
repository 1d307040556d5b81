"""C3: a law fitted on short windows and scored on long ones, against its rivals."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from kvlib import fit, store
from kvlib.claims import chances
from kvlib.claims.claim import (
    MIN_WINDOW,
    RIVAL,
    Claim,
    Verdict,
    both_distances,
    figures_of,
    rule_text,
    to_come,
)
from kvlib.fit import extremes, studies
from kvlib.names import name_of

CLAIM = Claim(
    "C3",
    "Fitted on short windows, a power law predicts long ones ten times better than an exponential.",
    "extrapolation",
)
CLAIMS = (CLAIM,)

SPLIT = 64  # the extrapolation page lets the reader choose another
LAWS = ("power", "exponential", RIVAL, "finite-context power")
FINITE = {"KL": "finite-context power", "TV": "root power"}  # laws of a finite reference
ERRORS = ("log", "relative", "linear")
RISK = 0.025  # one-sided, of any false "surely below one" among the tables of a distance
ORDER, HALF = 10.0, 10**0.5  # "about ten times": from √10 to 10√10
STUDIES = 100  # simulated ones
Curves = dict[tuple[str, str], fit.Curve]


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


def factor(
    data: fit.Curve, split: float = SPLIT, min_window: int = MIN_WINDOW, error: str = "log"
) -> fit.Estimate:
    """The exponential's error beyond the split over the power law's; the interval leaves out one
    document at a time, in the logarithm of the ratio."""
    logs = fit.straight_log_ratios(data.between(min_window), split, error)
    return fit.exponential_of(fit.jackknife(logs[0], logs[1:]))


def mean_factor(rows: pd.DataFrame) -> fit.Estimate:
    """Geometric mean of the factors of some tables, columns `corpus, exponential`.

    A text's is the mean over the models that read it, and the interval is that of texts. Of a
    single text it is that of its tables, taken as independent.
    """
    logs = [fit.logarithm_of(item) for item in rows["exponential"]]
    of_texts = pd.Series([item.value for item in logs]).groupby(rows["corpus"].to_numpy()).mean()
    if len(of_texts) > 1:
        return fit.exponential_of(fit.mean_of(of_texts))
    half = np.sqrt(sum((item.high - item.value) ** 2 for item in logs)) / len(logs)
    middle, n = float(of_texts.iloc[0]), min(item.n_documents for item in logs)
    return fit.exponential_of(fit.Estimate(middle, middle - half, middle + half, n))


def factors(curves: dict[str, Curves], errors: tuple[str, ...] = ERRORS) -> pd.DataFrame:
    """What C3 rests on, a row a distance, error and table: the `factor` of the exponential.

    Columns: `distance, error, model, corpus, documents, exponential` (an `fit.Estimate`). An error
    is of log D, of D in shares of what was measured, or of D itself.
    """
    rows = []
    for (distance, tables), error in itertools.product(curves.items(), errors):
        for (model, corpus), data in tables.items():
            found = factor(data, error=error)
            rows.append((distance, error, model, corpus, data.n_documents, found))
    columns = ["distance", "error", "model", "corpus", "documents", "exponential"]
    return pd.DataFrame(rows, columns=columns)


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """The factor and the word by `distance` and `error`: columns `factor` (the geometric mean),
    `from` and `to` (the least and the largest of a table), `word`."""
    found = []
    for (distance, error), part in rows.groupby(["distance", "error"], sort=False):
        least, most = extremes(part["exponential"])
        mean = mean_factor(part)
        found.append((distance, error, mean, least, most, reading(part)))
    return pd.DataFrame(found, columns=["distance", "error", "factor", "from", "to", "word"])


def reading(rows: pd.DataFrame) -> str:
    """The word of the tables of one distance and error."""
    logs = [fit.logarithm_of(item) for item in rows["exponential"]]
    smaller = fit.holm(np.array([1 - fit.p_above(item, 0.0) for item in logs])) < RISK
    mean = mean_factor(rows)
    if not mean.low > 1 or smaller.any():
        return "not reproduced"
    return "reproduced" if ORDER / HALF <= mean.value <= ORDER * HALF else "partly"


def rule(rows: pd.DataFrame) -> str:
    """C3, by the error of log D, in KL and in TV: the exponential's over the power law's, a
    geometric mean over texts. Reproduced: in either distance it is an order of magnitude, give or
    take half of one, from √10 to 10√10, and its 95% interval over texts lies above one. Partly:
    surely above one, but less or more than that. Not reproduced: not surely above one, or on some
    table surely below (at a risk of RISK, Holm's correction over tables). The relative and the
    linear error have readings of their own."""
    return _least([reading(p) for _, p in rows[rows["error"] == ERRORS[0]].groupby("distance")])


def _least(words: list[str]) -> str:
    """*Reproduced* where all are, *not reproduced* where one is."""
    if "not reproduced" in words:
        return "not reproduced"
    return "reproduced" if set(words) == {"reproduced"} else "partly"


def readings(rows: pd.DataFrame) -> dict[str, str]:
    """The word of each distance and error by itself."""
    parts = rows.groupby(["distance", "error"], sort=False)
    return {f"{distance}, {error} error": reading(part) for (distance, error), part in parts}


def sentence(means: pd.DataFrame, rows: pd.DataFrame) -> str:
    """The three factors in both distances, of a `summary`."""
    said = [
        f"{distance} "
        + ", ".join(f"{row.factor:.2g} in {row.error} error" for row in part.itertuples())
        for distance, part in means.groupby("distance", sort=False)
    ]
    tables = rows[["model", "corpus"]].drop_duplicates()
    texts = tables["corpus"].nunique()
    return (
        f"error of exponential / power law beyond {SPLIT} tokens, geometric mean over {texts} "
        f"texts in {len(tables)} tables: {'; '.join(said)}; "
        f"{rows['documents'].min()} or more documents each"
    )


def judge(folder: Path = store.DATA) -> tuple[Verdict, ...]:
    """The verdict on C3."""
    curves = both_distances(folder)
    if not curves["KL"]:
        return (to_come(CLAIM, rule),)
    rows, where = factors(curves), {"protocol": "reencode"}
    found = []
    for (distance, error), part in rows.groupby(["distance", "error"], sort=False):
        name = f"{error} error beyond {SPLIT} tokens, exponential / power law"
        found += figures_of(part, {"exponential": name}, distance=distance, **where)
    others = {
        "stretched": f"log error beyond {SPLIT} tokens, {RIVAL} / power law",
        "finite": f"log error beyond {SPLIT} tokens, finite-context power law / power law",
    }
    figures = (*found, *figures_of(contests(curves["KL"]), others, distance="KL", **where))
    said = sentence(summary(rows), rows), rule_text(rule)
    tried = power(had_it_been(curves))
    return (Verdict(CLAIM, rule(rows), *said, figures, readings(rows), tried),)


def explorer_tables(
    curves: dict[str, Curves], min_window: int = MIN_WINDOW
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What the explorer draws: `fit.contest_tables` of each distance, with a column `distance`.

    The law of a finite reference is the power law's for KL, and its root for TV.
    """
    pairs = []
    for distance, tables in curves.items():
        ours = {key: data.between(min_window) for key, data in tables.items()}
        made = fit.contest_tables(ours, name_of, FINITE[distance])
        pairs.append([table.assign(distance=distance) for table in made])
    points, rivals = (pd.concat(tables, ignore_index=True) for tables in zip(*pairs, strict=True))
    return points, rivals


def had_it_been(curves: dict[str, Curves], n: int = STUDIES, seed: int = 0) -> pd.DataFrame:
    """What the rule says of simulated studies of these designs, were all tables bent otherwise.

    Studies are drawn around the law of a given bend b that comes nearest to each curve, against its
    finite reference; the distances of a study share their random numbers. A row a truth: `b,
    studies`, `KL` and `TV` (median of the geometric mean of the ratios in log error), and the
    shares of the words.
    """
    rows = []
    for truth in studies.TRUTHS:
        items = {
            distance: [
                list(_factors(data.between(MIN_WINDOW), truth, distance == "TV", n, seed + place))
                for place, data in enumerate(tables.values())
            ]
            for distance, tables in curves.items()
        }
        of_study = [
            [
                pd.DataFrame({"corpus": [corpus for _, corpus in curves[distance]]}).assign(
                    exponential=of
                )
                for of in zip(*tables, strict=True)
            ]
            for distance, tables in items.items()
        ]
        said = [_least([reading(part) for part in parts]) for parts in zip(*of_study, strict=True)]
        middle = {
            distance: float(np.median([mean_factor(part).value for part in parts]))
            for distance, parts in zip(items, of_study, strict=True)
        }
        rows.append({"b": truth, "studies": n} | middle | chances.counted(said))
    return pd.DataFrame(rows)


def _factors(
    data: fit.Curve, truth: float, root: bool, n: int, seed: int
) -> Iterator[fit.Estimate]:
    """The factor of each of `n` studies of one curve, bent by `truth`."""
    expected = studies.expectation(data, truth, bracket=True, root=root)
    return (factor(one) for one in studies.studies(data, expected, n, seed))


def power(other: pd.DataFrame) -> str:
    """What data would have given each word, from `had_it_been`."""
    table = other.rename(columns={"b": "truth"}).assign(reading="")
    return chances.sentence(
        table[["reading", "truth", *chances.WORDS]],
        *("the bend b of every table (0 is a power law, 1 an exponential)", other["studies"].min()),
        "simulated studies of these designs",
    )


# --- what the page says -------------------------------------------------------------------------


def facts(
    curves: Curves,
    rows: pd.DataFrame,
    found: pd.DataFrame,
    means: pd.DataFrame,
    other: pd.DataFrame,
) -> dict[str, str]:
    """What the page's prose glues: of the stored curves of KL and `rows` of their `contests`, which
    hold the `duels` in a column `stretched / finite`; of the `factors` found in both distances,
    their `summary`, and what `had_it_been` says of `other` truths."""
    (log,) = means.query("distance == 'KL' and error == 'log'").to_dict("records")
    return {
        "verdict-c3": rule(found),
        **_factor_facts(means),
        **_other_facts(other),
        "low-ratio": f"{log['from']:.2g}",
        "high-ratio": f"{log['to']:.2g}",
        "split": f"{SPLIT}",
        "first-window": f"{next(iter(curves.values())).between(MIN_WINDOW).first[0]}",
        "n-tables": f"{len(rows)}",
        "n-docs": f"{rows['documents'].min()}",
        "last-window": f"{max(data.last[-1] for data in curves.values()):,}",
        "stretched-wins": f"{sum(item.high < 1 for item in rows['stretched'])} of {len(rows)}",
        "fair-open": f"{_holding_one(rows['stretched / finite'])} of {len(rows)}",
        **_finite_facts(rows["finite"]),
    }


def _factor_facts(means: pd.DataFrame) -> dict[str, str]:
    """The three factors of both distances, and their words."""
    found = {}
    for row in means.itertuples():
        key = f"{row.distance.lower()}-{row.error}"
        found |= {f"mean-{key}": f"{row.factor:.2g}", f"word-{key}": row.word}
    return found


def _other_facts(other: pd.DataFrame) -> dict[str, str]:
    """What the rule says, were the decay another, and the factor in KL for each bend."""
    n = other["studies"].min()
    found = {"n-studies": f"{n}", "share-off": f"{100 * 0.98 / np.sqrt(n):.0f}"}
    found["power-c3"] = power(other)
    for row in other.to_dict("records"):
        key = {0.0: "power", 1.0: "exponential"}.get(row["b"], "stretched")
        found[f"factor-{key}"] = f"{row['KL']:.2g}"
    return found | {"stretched-b": f"{other['b'].iloc[1]:g}"}


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
