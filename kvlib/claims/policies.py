"""Tables of the pages on cache policies: from stored rows to figures with intervals.

Documents are what is left out for an interval (jackknife-t). Means and ratios are taken to the
logarithm first, for a divergence is positive and skewed. KL is averaged before any logarithm.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from kvlib import fit, store
from kvlib.claims.claim import Claim, Verdict, figures_of, rule_text, to_come
from kvlib.claims.policy_rows import (
    CORPUS,
    EXPECTED,
    FAIR_RANDOM,
    KEYS,
    LAW,
    MODEL,
    PROTOCOLS,
    RANDOM,
    SINKS,
    SLIDING,
    budget_curves,
    curve,
    documents_behind,
    online_recency,
    ratios,
    same_documents,
    shared_documents,
    shared_tokens,
    stored_rows,
    suffix_tables,
    summary,
)
from kvlib.fit import exponential_of, extremes
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


def predictions(rows: pd.DataFrame, suffixes: dict[tuple[str, str], pd.DataFrame]) -> pd.DataFrame:
    """What the law of re-encoded suffixes foretells for each policy, and how far it is off.

    The law is fitted to suffixes of up to 512 tokens on the same half of the same documents; its
    window is the tokens that the policy keeps besides sinks, its references are the policy's own
    targets. Columns: `KEYS`, `predicted`, `mean`, `factor` = measured / predicted (an
    `fit.Estimate`, each document left out of both).
    """
    table = []
    for key, part in rows.groupby(KEYS[:4], sort=False):
        if key[:2] not in suffixes:
            continue
        part, suffix = same_documents(part, suffixes[key[:2]])
        data, other = curve(part), fit.curve(suffix).between(8)
        logs = []
        for one, two in zip(data.leaving_out(), other.leaving_out(), strict=True):
            law = fit.fit_law(LAW, two.window, two.mean, two.weights, two.contexts)
            foretold = replace(law, contexts=data.contexts).log_value(data.window)
            logs.append((foretold, np.log(one.mean)))
        foretold, measured = np.moveaxis(np.array(logs), 1, 0)
        budgets = np.sort(part["budget"].unique())
        for k in range(len(data.window)):
            gap = measured[:, k] - foretold[:, k]
            factor = exponential_of(fit.jackknife(gap[0], gap[1:]))
            means = np.exp(foretold[0, k]), np.exp(measured[0, k])
            table.append((*key, int(budgets[k]), *means, factor))
    return pd.DataFrame(table, columns=[*KEYS, "predicted", "mean", "factor"])


def budget_laws(rows: pd.DataFrame) -> pd.DataFrame:
    """C12: the exponent of distortion in the budget, and rivals on unseen documents.

    Columns: `model, corpus, protocol, policy, documents, budgets, exponent`, and the held-out
    errors of `exponential` and `stretched` exponential over the power law's (`fit.Estimate`s).
    """
    laws = (LAW, "exponential", "stretched exponential")
    table = []
    for key, data in budget_curves(rows).items():
        errors = fit.held_out(data, laws)
        table.append(
            (
                *key,
                *(data.n_documents, len(data.window)),
                fit.exponent(data),
                *(errors[law] for law in laws[1:]),
            )
        )
    columns = ["documents", "budgets", "exponent", "exponential", "stretched"]
    return pd.DataFrame(table, columns=[*KEYS[:4], *columns])


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


# --- verdicts; without a measurement each is "to come" --------------------------------------------

FORETOLD = 1.5  # a prediction within this factor counts
ORDERS = 10**1.5  # two orders of magnitude, give or take half of one
ONE_ORDER = 10.0


def holds(foretold: pd.DataFrame) -> pd.DataFrame:
    """Where the law foretells a recency policy online: `policy, model, corpus, holds`.

    It holds when at no budget the factor lies surely outside ×/÷ FORETOLD, interval and all, and
    its geometric mean over budgets lies within.
    """
    table = []
    keys = ["policy", "model", "corpus"]
    ours = online_recency(foretold)
    for key, part in ours.groupby(keys, sort=False) if len(ours) else ():
        off = [item.low > FORETOLD or item.high < 1 / FORETOLD for item in part["factor"]]
        near = 1 / FORETOLD <= fit.geometric_mean(part["factor"]) <= FORETOLD
        table.append((*key, near and not any(off)))
    return pd.DataFrame(table, columns=[*keys, "holds"])


def prediction_rule(foretold: pd.DataFrame) -> str:
    """C10, over recency policies online. Reproduced: the law `holds` for both on every table.
    Partly: for one of them on some table. Not reproduced: nowhere."""
    found = holds(foretold)["holds"]
    if found.empty:
        return "to come"
    return "reproduced" if found.all() else "partly" if found.any() else "not reproduced"


def retention_rule(ratio: pd.DataFrame) -> str:
    """C11, over recency policies online against random retention. Reproduced: for both, the
    geometric mean over budgets and tables is ORDERS or more. Partly: one of them is better by an
    order of magnitude (ONE_ORDER), interval and all, at some budget of some table. Not reproduced:
    nowhere."""
    ours = online_recency(ratio)
    if ours.empty:
        return "to come"
    means = ours.groupby("policy")["ratio"].agg(fit.geometric_mean)
    if (means >= ORDERS).all():
        return "reproduced"
    return "partly" if any(item.low > ONE_ORDER for item in ours["ratio"]) else "not reproduced"


def law_rule(laws: pd.DataFrame) -> str:
    """C12, over recency policies online. Reproduced: the exponential and the stretched exponential
    lose on unseen documents on every table, intervals above one. Partly: the exponential does so
    for one policy on some table. Not reproduced: nowhere."""
    ours = online_recency(laws)
    if ours.empty:
        return "to come"
    beaten = [item.low > 1 for item in ours["exponential"]]
    if all(beaten) and all(item.low > 1 for item in ours["stretched"]):
        return "reproduced"
    return "partly" if any(beaten) else "not reproduced"


def prediction_sentence(foretold: pd.DataFrame) -> str:
    """On how many tables the law holds for each recency policy online, and the extreme factors."""
    parts = []
    ours, found = online_recency(foretold), holds(foretold)
    for policy, part in ours.groupby("policy", sort=False):
        at = found[found["policy"] == policy]["holds"]
        low, high = extremes(part["factor"])
        parts.append(
            f"{name_of(policy)} {low:.2g} to {high:.2g}, holds on {at.sum()} of {len(at)} tables"
        )
    budgets = f"{ours['budget'].min():,} to {ours['budget'].max():,}"
    said = "; ".join([*parts, documents_behind(ours)])
    return f"measured / foretold KL, online, budgets {budgets}. {said}"


def retention_sentence(ratio: pd.DataFrame) -> str:
    """The smallest and the largest ratio of each recency policy online, with intervals."""
    parts = []
    ours = online_recency(ratio)
    for policy, part in ours.groupby("policy", sort=False):
        low, high = extremes(part["ratio"])
        mean = fit.geometric_mean(part["ratio"])
        parts.append(f"{name_of(policy)} {low:.2g} to {high:.2g}, geometric mean {mean:.2g}")
    return (
        "KL of random retention over that of the policy, online, at equal budget. "
        f"{'; '.join(parts)}; {documents_behind(ours)}"
    )


def law_sentence(laws: pd.DataFrame) -> str:
    """What C12 rests on: the rivals' errors over the power law's, online, and the exponents."""
    parts = []
    ours = online_recency(laws)
    for policy, part in ours.groupby("policy", sort=False):
        rivals = [
            "{} {:.2g} to {:.2g}".format(name, *extremes(part[name]))
            for name in ("exponential", "stretched")
        ]
        real = part[[not item.flat for item in part["exponent"]]]["exponent"]
        alpha = "no exponent"
        if len(real):
            ends = dict.fromkeys(map("{:.2g}".format, extremes(real)))
            alpha = f"α {' to '.join(ends)} on {len(real)} of {len(part)} tables"
        parts.append(f"{name_of(policy)}: {', '.join(rivals)}, {alpha}")
    return (
        "error on unseen documents over the power law's, in the budget, online. "
        f"{'; '.join(parts)}; {documents_behind(ours, 'exponential')}"
    )


def judge(folder: Path = store.DATA) -> tuple[Verdict, ...]:
    """The verdicts on C10, C11 and C12."""
    rows, suffixes = stored_rows(folder), suffix_tables(folder)
    rules = prediction_rule, retention_rule, law_rule
    if rows.empty or not suffixes:
        return tuple(map(to_come, CLAIMS, rules))
    tables = predictions(rows, suffixes), ratios(rows), budget_laws(rows)
    sentences = prediction_sentence, retention_sentence, law_sentence
    columns = (
        {"factor": "KL, measured / foretold"},
        {"ratio": "KL, random / policy"},
        {
            "exponent": "exponent α in the budget",
            "exponential": "unseen error, exponential / power law",
            "stretched": "unseen error, stretched exponential / power law",
        },
    )
    return tuple(
        Verdict(
            claim,
            rule(table),
            sentence(table),
            rule_text(rule),
            figures_of(online_recency(table), names, distance="KL"),
        )
        for claim, rule, sentence, table, names in zip(
            CLAIMS, rules, sentences, tables, columns, strict=True
        )
    )


# --- the values of the page's prose ---------------------------------------------------------------

AT = 256  # entries, where a sentence speaks of one budget


def facts(
    rows: pd.DataFrame, foretold: pd.DataFrame, ratio: pd.DataFrame, laws: pd.DataFrame
) -> dict[str, str]:
    """Name → text of every value that the page glues.

    `rows` are the stored ones; the others are what `predictions`, `policy_rows.ratios` and
    `budget_laws` make of them.
    """
    said = {
        "foretold": prediction_sentence(foretold),
        "retention": retention_sentence(ratio),
        "laws": law_sentence(laws),
    }
    scored = _example(rows, protocol="reencode")["position"].unique()
    return {
        "verdict-c10": prediction_rule(foretold),
        "verdict-c11": retention_rule(ratio),
        "verdict-c12": law_rule(laws),
        **{name: text[:1].upper() + text[1:] for name, text in said.items()},
        "foretold-limit": str(FORETOLD),
        "orders": f"{ORDERS:.0f}",
        "every": str(np.diff(np.sort(scored)).min()),
        **_protocol_facts(rows),
        **_baseline_facts(rows, ratio),
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
    """The sliding window at the largest budget, and the fairer baseline."""
    fair = fair_ratios(rows)
    long = _example(ratio, protocol="online", policy=SLIDING, budget=1024)
    return {
        "bare-1024": f"{long['ratio'].item():.2g}",
        "fair-online": f"{fair['online']:.2g}",
        "fair-prefill": f"{fair['prefill']:.2g}",
    }


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
