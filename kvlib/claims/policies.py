"""C10, C11 and C12: which policies the law foretells, and how far recency beats chance.

Documents are what is left out for an interval (jackknife-t). Means and ratios are taken to the
logarithm first, for a divergence is positive and skewed. A divergence is averaged before any
logarithm.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from kvlib import fit, store
from kvlib.claims import chances, protection
from kvlib.claims.claim import (
    SMALL_BEND,
    Claim,
    Verdict,
    agreed,
    figures_of,
    rule_text,
    to_come,
)
from kvlib.claims.policy_laws import (
    LONGEST,
    budget_laws,
    contests,
    mean_ratios,
    over_tables,
)
from kvlib.claims.policy_rows import (
    CORPUS,
    DISTANCES,
    EXPECTED,
    FAIR_RANDOM,
    HALF_RECENT,
    MODEL,
    PROTOCOLS,
    RANDOM,
    RECENCY,
    SINKS,
    SLIDING,
    by_distance,
    documents_behind,
    online_recency,
    placed,
    protection_rows,
    ratios,
    shared_documents,
    shared_tokens,
    stored_rows,
    suffix_tables,
    summary,
    titled,
    worded,
)
from kvlib.fit import extremes
from kvlib.names import name_of

PREDICTION = Claim(
    "C10", "The polynomial law predicts how concrete cache policies degrade.", "policies"
)
RETENTION = Claim(
    "C11",
    "At equal budget recency-based eviction beats random retention a hundredfold.",
    "policies",
)
LAW_IN_BUDGET = Claim("C12", "Distortion falls as a power law in the budget.", "policies")
CLAIMS = (PREDICTION, RETENTION, LAW_IN_BUDGET)

FORETOLD = 1.5  # a law that misses by no more than this factor foretells
ORDERS = 10**1.5, 10**2.5  # two orders of magnitude, give or take half of one
ONE_ORDER = 10.0
RISK = 0.025  # one-sided, of an "any" rule after Holm's correction


def step_effect(folder: Path = store.DATA) -> pd.DataFrame:
    """What running a score-based policy in steps changes: the same documents, token by token.

    Columns: `model, corpus, policy, budget, documents`, mean KL in nats `in steps` and `token by
    token`, and the `least` and `most` of the documents' ratios, steps over tokens.
    """
    table = []
    steps = store.stored("scored", folder)
    for (model, corpus), path in store.stored("stepwise", folder).items():
        if (model, corpus) not in steps:
            continue
        tokens = store.load_table(path)
        keys = ["policy", "budget", "doc"]
        one = tokens.groupby(keys, sort=False)["kl_nats"].mean()
        other = store.load_table(steps[model, corpus]).groupby(keys)["kl_nats"].mean()
        both = pd.DataFrame({"steps": other, "tokens": one}).loc[one.index]
        for (policy, budget), part in both.groupby(keys[:2], sort=False):
            ratio = part["steps"] / part["tokens"]
            means = part["steps"].mean(), part["tokens"].mean()
            key = (model, corpus, policy, budget)
            table.append((*key, len(part), *means, ratio.min(), ratio.max()))
    columns = ["documents", "in steps", "token by token", "least", "most"]
    return pd.DataFrame(table, columns=["model", "corpus", "policy", "budget", *columns])


# --- C10 ------------------------------------------------------------------------------------------


def outcomes(table: pd.DataFrame) -> list[str]:
    """What a contest says of the law on each table and policy: holds, fails, undecided.

    It holds where its factor is surely within FORETOLD and the exponential surely misses by more.
    It fails where its factor is surely beyond, or the exponential surely misses by less.
    """
    found = []
    for law, lead in zip(table["law"], table["lead"], strict=True):
        holds = law.high <= FORETOLD and lead.low > 1
        fails = law.low > FORETOLD or lead.high < 1
        found.append("holds" if holds else "fails" if fails else "undecided")
    return found


def prediction_word(table: pd.DataFrame) -> str:
    """The word on contests in one distance."""
    found = set(outcomes(table))
    if not found:
        return "to come"
    return {("holds",): "reproduced", ("fails",): "not reproduced"}.get(tuple(found), "partly")


def prediction_readings(table: pd.DataFrame) -> dict[str, str]:
    """Distance → word, over recency policies online."""
    ours = online_recency(table)
    return {name: prediction_word(part) for name, part in ours.groupby("distance", sort=False)}


def prediction_rule(table: pd.DataFrame) -> str:
    """C10, a contest of laws fitted to re-encoded suffixes of 8 to 64 tokens, over both recency
    policies online, at all budgets. On a table the law of a finite reference holds for a policy if
    it misses by surely no more than a factor of FORETOLD on geometric mean, and the exponential by
    surely more than the law; it fails if it surely misses by more, or the exponential by less.
    Reproduced: it holds for both policies on every table. Not reproduced: it fails for both on
    every table. Partly: anything between. One reading a distance; the verdict is the word that they
    share, else partly."""
    return agreed(prediction_readings(table))


def prediction_sentence(table: pd.DataFrame) -> str:
    """The factors of misses by distance and policy, and the exponential's."""
    parts = []
    ours = online_recency(table)
    for (distance, policy), part in ours.groupby(["distance", "policy"], sort=False):
        law, rival = ("{:.2g} to {:.2g}".format(*extremes(part[k])) for k in ("law", "exponential"))
        holding = outcomes(part).count("holds")
        parts.append(
            f"{distance}, {name_of(policy)}: {law}, exponential {rival}, "
            f"holds on {holding} of {len(part)}"
        )
    return (
        f"factor by which laws fitted to suffixes of 8 to {LONGEST} tokens miss policies online, "
        f"budgets to 1,024. {'; '.join(parts)}; {documents_behind(ours, 'law')}"
    )


# --- C11 ------------------------------------------------------------------------------------------


def surely_tenfold(ratio: pd.DataFrame) -> list[bool]:
    """Which ratios are surely above ONE_ORDER when all of the table count as tries (Holm)."""
    bound = float(np.log(ONE_ORDER))
    tries = [fit.p_above(fit.logarithm_of(item), bound) for item in ratio["ratio"]]
    return list(fit.holm(np.array(tries)) < RISK)


def retention_word(ratio: pd.DataFrame, means: pd.DataFrame) -> str:
    """The word on one protocol and distance, from ratios at each budget and geometric means."""
    if ratio.empty:
        return "to come"
    return retention_said(ratio, [over_tables(part) for _, part in means.groupby("policy")])


def retention_said(ratio: pd.DataFrame, overall: list[fit.Estimate]) -> str:
    """The word on ratios at each budget and, of each policy, the mean over budgets and tables."""
    low, high = ORDERS
    if len(overall) == len(RECENCY) and all(low < m.low and m.high < high for m in overall):
        return "reproduced"
    return "partly" if any(surely_tenfold(ratio)) else "not reproduced"


def retention_readings(ratio: pd.DataFrame, means: pd.DataFrame) -> dict[str, str]:
    """ "protocol, distance" → word, over recency policies; both tables have a column `distance`.

    Policies that keep the newest half by right (HALF_RECENT) count among the tries.
    """
    readings = {}
    for distance in DISTANCES:
        for protocol in PROTOCOLS:
            ours = [
                table[
                    table["policy"].isin(policies)
                    & (table["protocol"] == protocol)
                    & (table["distance"] == distance)
                ]
                for table, policies in ((ratio, (*RECENCY, *HALF_RECENT)), (means, RECENCY))
            ]
            if len(ours[0]):
                readings[f"{protocol}, {distance}"] = retention_word(*ours)
    return readings


def retention_rule(ratio: pd.DataFrame, means: pd.DataFrame) -> str:
    """C11, over recency policies against random retention, one reading a protocol and distance.
    Reproduced: for both policies the geometric mean over budgets and tables lies within ORDERS,
    interval and all. Partly: some policy is surely ONE_ORDER times better at some budget of some
    table, all of them counted as tries (Holm), and with them random retention that keeps the newest
    half by right. Not reproduced: neither. The claim names no protocol, so the verdict is the least
    favourable word of KL's readings. TV's stand beside it: a TV is at most one, so a hundredfold
    would need one below a hundredth."""
    found = retention_readings(ratio, means)
    words = [word for name, word in found.items() if name.endswith("KL")]
    order = ("not reproduced", "partly", "reproduced")
    return min(words, key=order.index) if words else "to come"


def retention_tables(
    rows: pd.DataFrame, protected: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What C11 rests on, in both distances: `ratios` to random retention, and their `mean_ratios`.

    `rows` are the stored ones, and the ratios of `protection_rows` join them where a policy keeps
    the newest half by right.
    """
    half = protected[protected["policy"].isin([RANDOM, *HALF_RECENT])]
    found = [by_distance(ratios, part, RANDOM) for part in (rows, half) if len(part)]
    return pd.concat(found, ignore_index=True), by_distance(mean_ratios, rows, RANDOM)


def retention_sentence(ratio: pd.DataFrame, means: pd.DataFrame) -> str:
    """Geometric means by protocol and policy in KL, and the largest in TV."""
    parts = []
    ours = means[means["policy"].isin(RECENCY)]
    for protocol in PROTOCOLS:
        here = ours[(ours["protocol"] == protocol) & (ours["distance"] == "KL")]
        said = [
            f"{name_of(policy)} {over_tables(part):.2g}"
            for policy, part in here.groupby("policy", sort=False)
        ]
        parts += [f"{name_of(protocol)}: {', '.join(said)}"] if said else []
    total = [
        over_tables(part)
        for _, part in ours[ours["distance"] == "TV"].groupby(["protocol", "policy"])
    ]
    most = max(total, key=lambda item: item.value)
    return (
        "KL of random retention over that of the policy, equal budget, geometric mean over budgets "
        f"and tables. {'; '.join(parts)}; TV at most {most:.2g}; {documents_behind(ours, 'ratio')}"
    )


# --- C12 ------------------------------------------------------------------------------------------


def is_power_law(b: fit.Estimate, bracket: fit.Estimate) -> bool:
    """Whether a curve is a power law as far as its bend tells.

    With the bracket of a finite reference b may be zero and is surely below SMALL_BEND, and without
    it b is not surely below zero, as where a curve falls to a floor.
    """
    return bracket.low <= fit.EDGE and bracket.high < SMALL_BEND and b.high >= 0


def surely_not_geometric(laws: pd.DataFrame) -> list[bool]:
    """Which curves bend surely less than an exponential, all of them counted as tries (Holm)."""
    tries = np.array([1 - fit.p_above(item, 1.0) for item in laws["b"]])
    return list(fit.holm(tries) < RISK)


def law_word(laws: pd.DataFrame) -> str:
    """The word on curves of one protocol and distance."""
    if laws.empty:
        return "to come"
    power = map(is_power_law, laws["b"], laws["bracket"])
    if all(item.high < 1 for item in laws["b"]) and all(power):
        return "reproduced"
    return "partly" if any(surely_not_geometric(laws)) else "not reproduced"


def law_readings(laws: pd.DataFrame) -> dict[str, str]:
    """ "protocol, distance" → word, over recency policies."""
    ours = laws[laws["policy"].isin(RECENCY)]
    return {
        f"{protocol}, {distance}": law_word(part)
        for distance in DISTANCES
        for protocol in PROTOCOLS
        if len(part := ours[(ours["protocol"] == protocol) & (ours["distance"] == distance)])
    }


def law_rule(laws: pd.DataFrame) -> str:
    """C12, by the bend b of each recency policy's curve in the budget (0 is a power law, 1 an
    exponential), one reading a protocol and distance. Reproduced: on every curve b is surely below
    1, may be 0 with the bracket of a finite reference and is then surely below SMALL_BEND, and is
    not surely below 0 without, as where a curve falls to a floor. Partly: on some curve b is surely
    below 1, all of them counted as tries (Holm). Not reproduced: on none. The verdict is the word
    that the readings share, else partly."""
    return agreed(law_readings(laws))


def law_sentence(laws: pd.DataFrame) -> str:
    """The bends by distance and protocol, and two counts: not geometric, a power law."""
    parts = []
    ours = laws[laws["policy"].isin(RECENCY)]
    for (distance, protocol), part in ours.groupby(["distance", "protocol"], sort=False):
        bends = "{:.2g} to {:.2g}".format(*extremes(part["b"]))
        straight = sum(map(is_power_law, part["b"], part["bracket"]))
        below = sum(item.high < 1 for item in part["b"])
        parts.append(
            f"{distance}, {name_of(protocol)}: {bends}, not geometric {below} of {len(part)}, "
            f"a power law {straight} of {len(part)}"
        )
    return (
        f"bend b in the budget, recency policies. {'; '.join(parts)}; {documents_behind(ours, 'b')}"
    )


# --- what would have changed the words -----------------------------------------------------------

FACTORS = (1.05, 1.2, FORETOLD, 3.0)  # by which the law of C10 misses
RATIOS = (4.0, 10.0, 20.0, 100.0)  # of random retention to recency
BENDS = (-0.3, 0.0, SMALL_BEND, 1.0)


def prediction_had_it_been(
    foretold: pd.DataFrame, n: int = chances.STUDIES, seed: int = 0
) -> pd.DataFrame:
    """C10: rows `distance, truth`, a column a word; the law misses every curve by that factor.

    Estimates are drawn anew; the exponential's lead around what was measured.
    """
    parts = dict(iter(online_recency(foretold).groupby("distance")))

    def study(rng: np.random.Generator, distance: str, truth: float) -> str:
        part = parts[distance]
        lead = [fit.drawn(item, item.value, rng, log=True) for item in part["lead"]]
        law = chances.drawn(part["law"], truth, rng, log=True)
        return prediction_word(pd.DataFrame({"law": law, "lead": lead}))

    keys = [(distance, truth) for distance in DISTANCES if distance in parts for truth in FACTORS]
    return chances.table(["distance", "truth"], keys, study, n, seed)


def retention_had_it_been(
    ratio: pd.DataFrame, means: pd.DataFrame, n: int = chances.STUDIES, seed: int = 0
) -> pd.DataFrame:
    """C11 in KL: rows `protocol, truth`, a column a word; that ratio at every budget and table.

    Ratios and their means are drawn one by one, though they share documents. Tries of policies that
    keep the newest half by right are drawn around what was measured.
    """
    single = _by_protocol(ratio, (*RECENCY, *HALF_RECENT))
    ours = {name: part["policy"].isin(RECENCY).tolist() for name, part in single.items()}
    whole = {
        name: [over_tables(table) for _, table in part.groupby("policy")]
        for name, part in _by_protocol(means).items()
    }

    def study(rng: np.random.Generator, protocol: str, truth: float) -> str:
        made = [
            fit.drawn(item, truth if recent else item.value, rng, log=True)
            for item, recent in zip(single[protocol]["ratio"], ours[protocol], strict=True)
        ]
        overall = chances.drawn(whole[protocol], truth, rng, log=True)
        return retention_said(pd.DataFrame({"ratio": made}), overall)

    keys = [(protocol, truth) for protocol in PROTOCOLS if protocol in whole for truth in RATIOS]
    return chances.table(["protocol", "truth"], keys, study, n, seed)


def law_had_it_been(laws: pd.DataFrame, n: int = chances.STUDIES, seed: int = 0) -> pd.DataFrame:
    """C12 in KL: rows `protocol, truth`, a column a word; every curve bends by that b.

    The estimate with the bracket of a finite reference is taken to be the one without, kept at or
    above zero: where it ends there it has no width of its own to draw from.
    """
    parts = _by_protocol(laws)

    def study(rng: np.random.Generator, protocol: str, truth: float) -> str:
        b = chances.drawn(parts[protocol]["b"], truth, rng)
        return law_word(pd.DataFrame({"b": b, "bracket": [_from_zero(item) for item in b]}))

    keys = [(protocol, truth) for protocol in PROTOCOLS if protocol in parts for truth in BENDS]
    return chances.table(["protocol", "truth"], keys, study, n, seed)


def had_it_been(
    foretold: pd.DataFrame, ratio: pd.DataFrame, means: pd.DataFrame, laws: pd.DataFrame
) -> dict[str, pd.DataFrame]:
    """Claim → what its rule would have said, were another truth behind its estimates."""
    return {
        PREDICTION.id: prediction_had_it_been(foretold),
        RETENTION.id: retention_had_it_been(ratio, means),
        LAW_IN_BUDGET.id: law_had_it_been(laws),
    }


def powers(been: dict[str, pd.DataFrame]) -> dict[str, str]:
    """Claim → what data would have given each word, in a sentence, from `had_it_been`."""
    truths = {
        PREDICTION.id: "the factor by which the law misses",
        RETENTION.id: "the ratio of random retention to recency at every budget (KL)",
        LAW_IN_BUDGET.id: "the bend b of every curve (KL)",
    }
    return {claim: chances.sentence(been[claim], truth) for claim, truth in truths.items()}


def _by_protocol(table: pd.DataFrame, chosen: tuple[str, ...] = RECENCY) -> dict[str, pd.DataFrame]:
    """Protocol → the rows of recency policies, or of others, in KL."""
    ours = table[table["policy"].isin(chosen) & (table["distance"] == "KL")]
    return dict(iter(ours.groupby("protocol")))


def _from_zero(item: fit.Estimate) -> fit.Estimate:
    ends = (max(end, 0.0) for end in (item.value, item.low, item.high))
    return fit.Estimate(*ends, item.n_documents)


# --- for the page ---------------------------------------------------------------------------------


def side_by_side(table: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Estimates of recency policies with both distances side by side: a row a table and policy."""
    ours = titled(placed(table[table["policy"].isin(RECENCY)]))
    keys = ["where", "policy", "distance"]
    wide = worded(ours.set_index(keys)[columns]).unstack("distance", sort=False)
    return wide.rename_axis(columns=[None, None])


def mean_table(means: pd.DataFrame) -> pd.DataFrame:
    """Geometric means over budgets and tables: a row a protocol and policy, a column a distance."""
    ours = titled(means[means["policy"].isin(RECENCY)])
    keys = ["protocol", "policy", "distance"]
    cells = {key: f"{over_tables(part):t}" for key, part in ours.groupby(keys, sort=False)}
    wide = pd.Series(cells).unstack(sort=False)
    return wide.rename_axis(index=["protocol", "policy"])


def words(readings: dict[str, str]) -> pd.DataFrame:
    """Readings "protocol, distance" → word as a table: a row a protocol, a column a distance."""
    cells = {tuple(name.split(", ")): word for name, word in readings.items()}
    return pd.Series(cells).unstack(sort=False).rename_axis(index="protocol")


# --- verdicts; without a measurement each is "to come" --------------------------------------------


def judge(folder: Path = store.DATA) -> tuple[Verdict, ...]:
    """The verdicts on C10, C11 and C12."""
    rows, suffixes = stored_rows(folder), suffix_tables(folder)
    if rows.empty or not suffixes:
        return tuple(map(to_come, CLAIMS, (prediction_rule, retention_rule, law_rule)))
    rows = rows[rows["policy"].isin([*RECENCY, RANDOM])]
    ours = rows[rows["policy"].isin(RECENCY)]
    foretold = contests(ours[ours["protocol"] == "online"], suffixes)
    protected = protection_rows(folder)
    ratio, means = retention_tables(rows, protected)
    laws = budget_laws(ours)
    power = powers(had_it_been(foretold, ratio, means, laws))
    return (
        _verdict(
            PREDICTION,
            power,
            *(prediction_rule, prediction_sentence, prediction_readings, (foretold,)),
            {
                "law": "factor missed by, law of a finite reference",
                "power": "factor missed by, power law",
                "exponential": "factor missed by, exponential",
                "lead": "factor missed by, exponential / law",
            },
        ),
        _retention(ratio, means, protected, power),
        _verdict(
            LAW_IN_BUDGET,
            power,
            *(law_rule, law_sentence, law_readings, (laws,)),
            {
                "exponent": "exponent α in the budget",
                "b": "bend b in the budget",
                "bracket": "bend b in the budget, with a finite reference",
            },
        ),
    )


def _retention(
    ratio: pd.DataFrame, means: pd.DataFrame, protected: pd.DataFrame, power: dict[str, str]
) -> Verdict:
    """The verdict on C11; what each protection is worth stands among its figures."""
    found = _verdict(
        RETENTION,
        power,
        *(retention_rule, retention_sentence, retention_readings, (ratio, means)),
        {"ratio": "random / policy"},
    )
    worth = protection.figures(protection.in_both(protected)[1])
    return replace(found, figures=(*found.figures, *worth))


def _verdict(
    claim: Claim, power: dict[str, str], rule, sentence, readings, tables, columns: dict[str, str]
) -> Verdict:
    """A verdict from its tables; its figures are those of the first, by distance."""
    ours = tables[0][tables[0]["policy"].isin(RECENCY)]
    figures = tuple(
        figure
        for distance, part in ours.groupby("distance", sort=False)
        for figure in figures_of(part, columns, distance=distance)
    )
    judged = rule(*tables), sentence(*tables), rule_text(rule), figures, readings(*tables)
    return Verdict(claim, *judged, power[claim.id])


# --- the values of the page's prose ---------------------------------------------------------------

AT = 256  # entries, where a sentence speaks of one budget


def facts(
    rows: pd.DataFrame,
    foretold: pd.DataFrame,
    ratio: pd.DataFrame,
    means: pd.DataFrame,
    laws: pd.DataFrame,
    been: dict[str, pd.DataFrame],
) -> dict[str, str]:
    """Name → text of every value that the page glues.

    `rows` are the stored ones; the others are what `policy_laws.contests` (of policies online),
    `policy_rows.ratios` and `policy_laws.mean_ratios` (in each distance, `by_distance`) and
    `policy_laws.budget_laws` make of them, and `had_it_been` of all these.
    """
    said = {
        "foretold": prediction_sentence(foretold),
        "retention": retention_sentence(ratio, means),
        "laws": law_sentence(laws),
    }
    scored = _example(rows, protocol="reencode")["position"].unique()
    least, most = (f"{end:.0f}" for end in ORDERS)
    return {
        "verdict-c10": prediction_rule(foretold),
        "verdict-c11": retention_rule(ratio, means),
        "verdict-c12": law_rule(laws),
        **{name: text[:1].upper() + text[1:] for name, text in said.items()},
        **{"orders-least": least, "orders-most": most, "ten": f"{ONE_ORDER:.0f}"},
        **{"foretold-limit": str(FORETOLD), "small-bend": str(SMALL_BEND)},
        "every": str(np.diff(np.sort(scored)).min()),
        **{f"power-{claim.lower()}": text for claim, text in powers(been).items()},
        **_protocol_facts(rows),
        **_baseline_facts(rows, ratio),
        **_contest_facts(foretold),
        **_loss_facts(rows),
    }


def fair_ratios(rows: pd.DataFrame) -> pd.Series:
    """protocol → how many times better sinks with recent tokens are than sinks with random ones, at
    AT entries on the model and text of the sentences."""
    fair = _example(ratios(rows, FAIR_RANDOM), policy=SINKS, budget=AT)
    return fair.set_index("protocol")["ratio"]


def expected_ratio(rows: pd.DataFrame) -> fit.Estimate:
    """How many times the loss of sinks with recent tokens that of expected attention is, after a
    prefill, at AT entries."""
    over = ratios(shared_documents(rows), EXPECTED)
    return _example(over, policy=SINKS, protocol="prefill", budget=AT)["ratio"].item()


def _example(table: pd.DataFrame, **where: object) -> pd.DataFrame:
    """The rows of the model and text that sentences single out, and of `where`."""
    for column, value in ({"model": MODEL, "corpus": CORPUS} | where).items():
        table = table[table[column] == value]
    return table


def _protocol_facts(rows: pd.DataFrame) -> dict[str, str]:
    """Random retention over recency in the three protocols, on the tokens that they share."""
    tokens = _example(shared_tokens(rows, [SLIDING, SINKS, RANDOM]))
    at = ratios(tokens).set_index(["protocol", "policy", "budget"])["ratio"]
    once = _example(tokens, protocol="online", policy=RANDOM, budget=AT)
    return {
        **{f"sink-{name}": f"{at[name, SINKS, AT]:.2g}" for name in PROTOCOLS},
        **{f"bare-{name}": f"{at[name, SLIDING, AT]:.2g}" for name in PROTOCOLS},
        "n-shared": str(len(once)),
    }


def _baseline_facts(rows: pd.DataFrame, ratio: pd.DataFrame) -> dict[str, str]:
    """The sliding window at the largest budget, random retention in TV, and the fairer baseline."""
    fair = fair_ratios(rows)
    long = _example(ratio, protocol="online", policy=SLIDING, budget=1024, distance="KL")
    lost = _example(rows, protocol="online", policy=RANDOM, budget=AT)["tv"].mean()
    return {
        "bare-1024": f"{long['ratio'].item():.2g}",
        "tv-random": f"{lost:.2g}",
        "tv-needed": f"{lost / 100:.1g}",
        "fair-online": f"{fair['online']:.2g}",
        "fair-prefill": f"{fair['prefill']:.2g}",
    }


def _contest_facts(foretold: pd.DataFrame) -> dict[str, str]:
    """Tables where the law holds for sinks with recent tokens, and the exponential's misses."""
    ours = online_recency(foretold)
    counts = {}
    for distance, part in ours[ours["policy"] == SINKS].groupby("distance", sort=False):
        holding = outcomes(part).count("holds")
        counts[f"holds-{distance.lower()}"] = f"{holding} of {len(part)}"
        counts[f"off-{distance.lower()}"] = "{:.2g} to {:.2g}".format(
            *extremes(part["exponential"])
        )
    return counts


def _loss_facts(rows: pd.DataFrame) -> dict[str, str]:
    """What is lost online with AT entries: over tokens, and by the best policy of all."""
    online = _example(rows, protocol="online", budget=AT)
    sinks = summary(online).set_index("policy").loc[SINKS]
    shared = _example(shared_documents(rows), protocol="online", budget=AT)
    ranked = summary(shared).set_index("policy")
    best = ranked["mean"].idxmin()
    lead = ratios(shared, SINKS).set_index("policy")["ratio"][best]
    return {
        **{name: f"{sinks[name]:.2g}" for name in ("median", "mean", "p95")},
        "best": name_of(best),
        "best-mean": f"{ranked.loc[best, 'mean']:.2g}",
        "n-best": str(ranked.loc[best, "documents"]),
        "lead": f"{lead:.2g}",
        "asked": f"{expected_ratio(rows):.2g}",
    }
