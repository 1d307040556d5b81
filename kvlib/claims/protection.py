"""C11, what protects: is it H2O's scores that win, or the newest half of the budget that it keeps?

Random retention was run with and without each of three protections: the first 4 entries kept, the
newest half of the budget kept, a draw of its own for each head. Beside it stand H2O, H2O with none
protected, and a draw for each head with the beginning pinned. A protection is worth the factor by
which it divides the mean distortion: over the settings of the others a geometric mean. All of it is
paired by document, and documents are what is left out for an interval (jackknife-t), in the
logarithm.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pandas as pd

from kvlib import fit
from kvlib.claims.claim import Figure, figures_of
from kvlib.claims.policy_laws import of_all_and_left, over_tables
from kvlib.claims.policy_rows import (
    DISTANCES,
    KEYS,
    by_distance,
    document_means,
    place,
    ratios,
    worded,
)
from kvlib.names import POLICIES, PROTOCOLS

PLACE = ["model", "corpus", "protocol"]
RISK = 0.025  # one-sided, of any false "surely" among the tries of a protocol and distance
LEAST_DOCUMENTS = 3  # for an interval
NOTHING = "not measured yet"

SINKS, RECENT, HEADS = FACTORS = ("sinks", "recent", "heads")
IN_KEYS = (SINKS, HEADS, RECENT)  # as the keys of policies name them
H2O, BARE_H2O, PINNED = "h2o", "h2o-unprotected", "random-heads-pinned"
BOTH, SAME, ALSO_SINKS, UNPROTECTED, KEPT_SCORES, PIN, RIVALS = (
    "scores and newest half",
    "scores, newest half kept in both",
    "scores, random keeps 4 sinks too",
    "scores, nothing protected",
    "newest half, with scores",
    "H2O over random with the beginning pinned",
    "newest half alone over scores alone",
)

Weights = dict[str, float]  # policy → weight of its log mean distortion


def random_key(*kept: str) -> str:
    """The key of random retention with these protections (of FACTORS)."""
    return "random" + "".join(f"-{name}" for name in IN_KEYS if name in kept)


def _of_random(sign) -> Weights:
    """A weight for each kind of random retention, by the protections that it has."""
    kinds = [
        set(kept) for n in range(len(FACTORS) + 1) for kept in itertools.combinations(FACTORS, n)
    ]
    return {random_key(*kept): sign(kept) for kept in kinds}


def worth(factor: str) -> Weights:
    """What a protection divides the distortion by: a mean over the settings of the two others."""
    return _of_random(lambda kept: -0.25 if factor in kept else 0.25)


def together(one: str, other: str) -> Weights:
    """What a protection is worth beside another, over what it is worth without it: below one, they
    protect in part from the same; above one, each needs the other. A mean over the third."""
    return _of_random(lambda kept: 0.5 if (one in kept) != (other in kept) else -0.5)


def _over(worse: str, better: str) -> Weights:
    """How many times the distortion of one policy is that of another."""
    return {worse: 1.0, better: -1.0}


WORTH = {
    "4 sinks kept": worth(SINKS),
    "newest half kept": worth(RECENT),
    "each head its own draw": worth(HEADS),
    "sinks beside the newest half, over alone": together(SINKS, RECENT),
    "sinks beside own draws, over alone": together(SINKS, HEADS),
    "newest half beside own draws, over alone": together(RECENT, HEADS),
}
SCORES = {  # H2O chooses for each head, so random retention does here
    BOTH: _over(random_key(HEADS), H2O),
    UNPROTECTED: _over(random_key(HEADS), BARE_H2O),
    SAME: _over(random_key(HEADS, RECENT), H2O),
    ALSO_SINKS: _over(random_key(HEADS, RECENT, SINKS), H2O),
    KEPT_SCORES: _over(BARE_H2O, H2O),
    RIVALS: _over(BARE_H2O, random_key(HEADS, RECENT)),
    PIN: _over(PINNED, H2O),
}
EFFECTS = WORTH | SCORES


# --- from rows to effects -------------------------------------------------------------------------


def effects(rows: pd.DataFrame, value: str = "kl_nats") -> pd.DataFrame:
    """Each of EFFECTS at each budget, where its policies were run.

    Columns: `PLACE, budget, effect, ratio` (an `fit.Estimate`).
    """
    table = []
    for where, effect, gaps in _gaps(rows, value):
        for budget, gap in gaps.items():
            ratio = fit.exponential_of(fit.jackknife(gap[0], gap[1:]))
            table.append((*where, budget, effect, ratio))
    return pd.DataFrame(table, columns=[*PLACE, "budget", "effect", "ratio"])


def mean_effects(rows: pd.DataFrame, value: str = "kl_nats") -> pd.DataFrame:
    """The geometric mean of each effect over budgets, documents left out of all budgets at once.

    Columns: `PLACE, effect, budgets, ratio` (an `fit.Estimate`).
    """
    table = []
    for where, effect, gaps in _gaps(rows, value):
        gap = np.mean(list(gaps.values()), axis=0)
        ratio = fit.exponential_of(fit.jackknife(gap[0], gap[1:]))
        table.append((*where, effect, len(gaps), ratio))
    return pd.DataFrame(table, columns=[*PLACE, "effect", "budgets", "ratio"])


def gains(rows: pd.DataFrame) -> pd.DataFrame:
    """How many times less each policy loses than bare random retention, in each distance: what the
    picture shows. Columns: those of `policy_rows.ratios`, and `distance`."""
    if rows.empty:
        return pd.DataFrame(columns=[*KEYS, "ratio", "distance"])
    found = by_distance(ratios, rows, random_key())
    order = {policy: place for place, policy in enumerate(POLICIES)}
    return found.sort_values("policy", key=lambda keys: keys.map(order), kind="stable")


def _gaps(
    rows: pd.DataFrame, value: str
) -> Iterator[tuple[tuple[str, ...], str, dict[int, np.ndarray]]]:
    """Place, effect, and for each budget the weighted sum of log means: of all, without each."""
    if rows.empty:
        return
    means = document_means(rows, value).unstack(["policy", "budget"])
    for where, part in means.groupby(level=PLACE, sort=False):
        ran = part.dropna(axis=1, how="all").dropna()
        for effect, weights in EFFECTS.items():
            budgets = set.intersection(
                *({b for p, b in ran.columns if p == policy} for policy in weights)
            )
            if budgets and len(ran) >= LEAST_DOCUMENTS:
                yield where, effect, {b: _weighted(ran, weights, b) for b in sorted(budgets)}


def _weighted(means: pd.DataFrame, weights: Weights, budget: int) -> np.ndarray:
    """Weighted sums of the log mean distortions at one budget: (1 + documents,)."""
    of_each = means[[(policy, budget) for policy in weights]].to_numpy()
    return np.log(of_all_and_left(of_each)) @ np.array(list(weights.values()))


# --- what they say --------------------------------------------------------------------------------


def counts(table: pd.DataFrame) -> tuple[int, int]:
    """How many ratios are surely above one, and how many surely below; all are tries (Holm)."""
    if table.empty:
        return 0, 0
    p = np.array([fit.p_above(fit.logarithm_of(item), 0.0) for item in table["ratio"]])
    return int((fit.holm(p) < RISK).sum()), int((fit.holm(1 - p) < RISK).sum())


def answer(table: pd.DataFrame) -> str:
    """What more of H2O's lead is owed to, from RIVALS at the budgets and texts of one protocol and
    distance: the newest half without scores against the scores without it. Each is a try (Holm)."""
    if table.empty:
        return NOTHING
    above, below = counts(table)
    if above and below:
        return "it depends on the budget and the text"
    return "the protection" if above else "the scores" if below else "undecided"


def answers(table: pd.DataFrame) -> dict[str, str]:
    """ "protocol, distance" → `answer`, from `effects` in both distances."""
    ours = table[table["effect"] == RIVALS]
    return {
        f"{protocol}, {distance}": answer(part)
        for protocol in PROTOCOLS
        for distance in DISTANCES
        if len(part := ours[(ours["protocol"] == protocol) & (ours["distance"] == distance)])
    }


def shown(means: pd.DataFrame, kinds: dict[str, Weights], distance: str = "KL") -> pd.DataFrame:
    """Mean effects of one kind for a page: a row an effect, a column a protocol and text."""
    ours = means[means["effect"].isin(list(kinds))]
    ours = ours[ours["distance"] == distance] if len(ours) else ours
    if ours.empty:
        return nothing()
    columns = [f"{r.protocol}, {place(r.model, r.corpus)}" for r in ours.itertuples()]
    wide = worded(ours.assign(where=columns).set_index(["effect", "where"])[["ratio"]])["ratio"]
    wide = wide.unstack("where", sort=False).reindex([k for k in kinds if k in set(ours["effect"])])
    return wide.fillna("").rename_axis(index="what is protected", columns=None)


def nothing() -> pd.DataFrame:
    """What a page shows in place of a table or picture of what is not measured."""
    return pd.DataFrame({"": [NOTHING]}, index=[""])


def figures(means: pd.DataFrame) -> tuple[Figure, ...]:
    """The mean effects of both distances, as figures of the verdict."""
    return tuple(
        figure
        for (effect, distance), part in means.groupby(["effect", "distance"], sort=False)
        for figure in figures_of(part, {"ratio": f"worth of: {effect}"}, distance=distance)
    )


def in_both(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """`effects` and `mean_effects` in each distance."""
    return by_distance(effects, rows), by_distance(mean_effects, rows)


# --- the values of the page's prose ---------------------------------------------------------------


def facts(table: pd.DataFrame, means: pd.DataFrame) -> dict[str, str]:
    """What the page glues, from `in_both`; each is "not measured yet" where its tables are not."""
    return {
        "protection-measured": measured(means),
        "protection-worth": _by_protocol(means, worth_sentence),
        "protection-scores": _by_protocol(means, scores_sentence),
        "protection-answer": answer_sentence(table),
        "protection-pinned": pinned_sentence(table, means),
    }


def measured(means: pd.DataFrame) -> str:
    """What stands behind the effects: protocols, models and texts, documents."""
    where = means.drop_duplicates(PLACE)
    said = [
        f"{row.protocol}, {place(row.model, row.corpus)} ({row.ratio.n_documents} documents)"
        for row in where.itertuples()
    ]
    return "; ".join(said) or NOTHING


def worth_sentence(at: dict[str, fit.Estimate]) -> str:
    """What each protection divides the KL by, and what two of them share."""
    each = ", ".join(f"{name} {at[name]:.2g}" for name in list(WORTH)[:3])
    beside = list(WORTH)[3]
    return f"{each}; {beside} {at[beside]:.2g}"


def scores_sentence(at: dict[str, fit.Estimate]) -> str:
    """H2O's lead, and what is left of it as random retention gets the same protection."""
    return (
        f"random retention, each head its own, loses {at[BOTH]:.2g} times as much as H2O; with the "
        f"newest half kept in both {at[SAME]:.2g}, with 4 sinks kept besides {at[ALSO_SINKS]:.2g}; "
        f"with nothing protected in either {at[UNPROTECTED]:.2g}"
    )


def answer_sentence(table: pd.DataFrame) -> str:
    """The answers by protocol and distance, each with its counts."""
    said = []
    for name, word in answers(table).items():
        protocol, distance = name.split(", ")
        here = (table["protocol"] == protocol) & (table["distance"] == distance)
        above, below = counts(rivals := table[here & (table["effect"] == RIVALS)])
        wins, losses = counts(same := table[here & (table["effect"] == SAME)])
        said.append(
            f"{name}: {word} (the newest half alone surely loses less than scores alone in {above} "
            f"of {len(rivals)} cases, surely more in {below}; protected alike, H2O surely loses "
            f"less than random in {wins} of {len(same)}, surely more in {losses})"
        )
    return "; ".join(said) or NOTHING


def pinned_sentence(table: pd.DataFrame, means: pd.DataFrame) -> str:
    """Random retention with the beginning pinned over H2O, in both distances."""
    said = []
    for distance in DISTANCES:
        ours = [t[(t["effect"] == PIN) & (t["distance"] == distance)] for t in (table, means)]
        if len(ours[1]):
            above, below = counts(ours[0])
            said.append(
                f"{over_tables(ours[1]):.2g} in {distance} (surely more in {above} of "
                f"{len(ours[0])} cases, surely less in {below})"
            )
    return ", ".join(said) or NOTHING


def _by_protocol(means: pd.DataFrame, sentence) -> str:
    """A sentence of KL's mean effects over tables, for each protocol."""
    said = []
    for protocol in PROTOCOLS:
        ours = means[(means["protocol"] == protocol) & (means["distance"] == "KL")]
        at = {name: over_tables(part) for name, part in ours.groupby("effect", sort=False)}
        if set(EFFECTS) - {PIN} <= set(at):
            said.append(f"{protocol}: {sentence(at)}")
    return "; ".join(said) or NOTHING
