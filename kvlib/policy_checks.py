"""Tables of the pages on cache policies: from stored rows to figures with intervals.

Documents are what is left out for an interval (jackknife-t). Means and ratios are taken to the
logarithm first, for a divergence is positive and skewed. KL is averaged before any logarithm.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from kvlib import fit, store
from kvlib.charts import NAMES, name_of
from kvlib.fit import MARGIN

KINDS = (  # of stored tables, in the order in which pages show them
    *("online", "cache_positions", "scored"),
    *("prefill", "prefill_heads", "prefill_scored", "prefill_expected", "reencode"),
)
KEYS = ["model", "corpus", "protocol", "policy", "budget"]
PROTOCOLS = ("reencode", "online", "prefill")
RECENCY = ("sliding window", "4 sinks + recent")
RANDOM, FAIR_RANDOM = "random", "4 sinks + random"
LAW = "finite-context power"
LEAST_BUDGETS = 4  # for a fit in the budget


def stored_rows(folder: Path = store.DATA) -> pd.DataFrame:
    """Every stored row of a policy, with its `model` and `corpus`; empty when there is no table."""
    parts = [
        store.load_table(path).assign(model=model, corpus=corpus)
        for kind in KINDS
        for (model, corpus), path in sorted(
            store.stored(kind, folder).items(), key=lambda item: [*map(_place, item[0])]
        )
    ]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=KEYS)


def document_means(rows: pd.DataFrame, value: str = "kl_nats") -> pd.Series:
    """Mean of each document, by `KEYS` and `doc`."""
    return rows.groupby([*KEYS, "doc"], sort=False)[value].mean()


def log_mean(values: np.ndarray) -> fit.Estimate:
    """Mean of positive document means with its 95% interval, symmetric in the logarithm."""
    return _exp(fit.jackknife(np.log(values.mean()), np.log(_without_each(values))))


def log_ratio(above: np.ndarray, below: np.ndarray) -> fit.Estimate:
    """Ratio of two means over the same documents, paired, symmetric in the logarithm."""
    whole = np.log(above.mean() / below.mean())
    return _exp(fit.jackknife(whole, np.log(_without_each(above) / _without_each(below))))


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """One row a model, text, protocol, policy and budget.

    Columns: `KEYS`, `mean, low, high` (KL, nats, with its interval over documents), `median`,
    `p95` (over tokens), `top1` (share of tokens whose likeliest next token stays), `nll` (excess
    in nats on the text itself), `documents`, `tokens`.
    """
    table = []
    for key, part in rows.groupby(KEYS, sort=False):
        mean = log_mean(part.groupby("doc")["kl_nats"].mean().to_numpy())
        median, p95 = np.quantile(part["kl_nats"], [0.5, 0.95])
        shares = part["top1_same"].mean(), part["nll_excess_nats"].mean()
        counts = part["doc"].nunique(), len(part)
        table.append((*key, mean.value, mean.low, mean.high, median, p95, *shares, *counts))
    columns = ["mean", "low", "high", "median", "p95", "top1", "nll", "documents", "tokens"]
    return pd.DataFrame(table, columns=[*KEYS, *columns])


def ratios(rows: pd.DataFrame, baseline: str = RANDOM) -> pd.DataFrame:
    """How many times the distortion of a baseline is that of each policy, at equal budget.

    Columns: `KEYS`, `ratio` (an `fit.Estimate`, paired over the documents both were run on).
    """
    means = document_means(rows).unstack("doc")
    table = []
    for key, values in means.iterrows():
        other = (*key[:3], baseline, key[4])
        if key[3] == baseline or other not in means.index:
            continue
        both = pd.concat([means.loc[other], values], axis=1).dropna().to_numpy()
        table.append((*key, log_ratio(both[:, 0], both[:, 1])))
    return pd.DataFrame(table, columns=[*KEYS, "ratio"])


def kept(policy: str, budget: np.ndarray) -> np.ndarray:
    """Tokens kept besides the sinks, whose number a policy's name begins with."""
    sinks = re.match(r"(\d+) sinks", policy)
    return np.asarray(budget, dtype=float) - (int(sinks[1]) if sinks else 0)


def curve(rows: pd.DataFrame, besides_sinks: bool = True) -> fit.Curve:
    """The rows of one model, text, protocol and policy as a curve over the tokens kept.

    Sinks are not counted, for a suffix that is compared has none; without `besides_sinks` the
    curve is over the budget. A budget that holds the whole context of some target is left out:
    there nothing is cut.
    """
    rows = rows[rows["budget"] < rows["position"].min() + 1]
    means = rows.groupby(["doc", "budget"])["kl_nats"].mean().unstack()
    policy = rows["policy"].iloc[0] if besides_sinks else ""
    window = kept(policy, means.columns)
    contexts = np.unique(rows["position"]) + 1.0
    return fit.Curve(
        window=window,
        first=window.astype(int),
        last=window.astype(int),
        doc_means=means.to_numpy(dtype=float),
        contexts=np.quantile(contexts, (np.arange(32) + 0.5) / 32),
        n_pairs=len(rows),
        n_starts=rows["doc"].nunique(),
    )


def budget_curves(rows: pd.DataFrame) -> dict[tuple[str, ...], fit.Curve]:
    """(model, corpus, protocol, policy) → curve over budgets, where enough were measured."""
    return {
        key: data
        for key, part in rows.groupby(KEYS[:4], sort=False)
        if len((data := curve(part, besides_sinks=False)).window) >= LEAST_BUDGETS
    }


def suffix_tables(folder: Path = store.DATA) -> dict[tuple[str, str], pd.DataFrame]:
    """(model, corpus) → rows of re-encoded suffixes of 1 to 512 tokens, on the stretches of text
    that the policies were scored on."""
    return {key: store.load_table(path) for key, path in store.stored("suffix", folder).items()}


def same_exponent(
    rows: pd.DataFrame, suffixes: dict[tuple[str, str], pd.DataFrame], policy: str, protocol: str
) -> pd.DataFrame:
    """Exponents of a policy and of re-encoded suffixes on the same documents, and the difference.

    Both are fits of the finite-context power law, to windows of at least 8 tokens, on the same
    documents and the same half of each. Columns: `model, corpus, documents, policy, suffix,
    difference` (an `fit.Estimate` each, the last one with each document left out of both, and
    `flat` when the policy has no exponent).
    """
    ours = rows[(rows["policy"] == policy) & (rows["protocol"] == protocol)]
    table = []
    for (model, corpus), part in ours.groupby(["model", "corpus"], sort=False):
        if (model, corpus) not in suffixes:
            continue
        part, suffix = _same_documents(part, suffixes[model, corpus])
        data, other = curve(part), fit.curve(suffix).between(8)
        if len(data.window) < LEAST_BUDGETS:
            continue
        both = [fit.left_out_exponents(data), fit.left_out_exponents(other)]
        found = [fit.exponent_of(values) for values in both]
        gap = both[0] - both[1]
        difference = fit.jackknife(gap[0], gap[1:])
        difference = replace(difference, flat=any(item.flat for item in found))
        table.append((model, corpus, data.n_documents, *found, difference))
    columns = ["model", "corpus", "documents", "policy", "suffix", "difference"]
    return pd.DataFrame(table, columns=columns)


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
        part, suffix = _same_documents(part, suffixes[key[:2]])
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
            factor = _exp(fit.jackknife(gap[0], gap[1:]))
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


def protocols_compared(rows: pd.DataFrame, policy: str) -> pd.DataFrame:
    """The three protocols of one policy at equal budgets, on the documents and tokens they share.

    Columns: `model, corpus, policy, budget, documents, tokens`, an `fit.Estimate` of the mean KL
    for each protocol, and `online / reencode`, `online / prefill`, paired ratios.
    """
    ours = rows[rows["policy"] == policy]
    table = []
    for (model, corpus, budget), part in ours.groupby(["model", "corpus", "budget"], sort=False):
        wide = part.pivot_table(index=["doc", "position"], columns="protocol", values="kl_nats")
        if set(wide) != set(PROTOCOLS) or len(wide := wide.dropna()) == 0:
            continue
        docs = wide.groupby("doc").mean()
        if len(docs) < 3:
            continue
        of = {name: docs[name].to_numpy() for name in docs}
        table.append(
            {
                **{"model": model, "corpus": corpus, "policy": policy, "budget": int(budget)},
                **{"documents": len(docs), "tokens": len(wide)},
                **{name: log_mean(of[name]) for name in PROTOCOLS},
                "online / reencode": log_ratio(of["online"], of["reencode"]),
                "online / prefill": log_ratio(of["online"], of["prefill"]),
            }
        )
    return pd.DataFrame(table)


def step_effect(folder: Path = store.DATA) -> pd.DataFrame:
    """What running a score-based policy in steps changes: the same documents, token by token.

    Columns: `model, corpus, policy, budget, documents`, mean KL in nats `in steps` and `token by
    token`, and the `least` and `most` of the documents' ratios, steps over tokens.
    """
    table = []
    steps = store.stored("scored", folder)
    for (model, corpus), path in store.stored("stepwise", folder).items():
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


def shared_documents(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of documents on which every policy of their model, text and protocol was run: what
    a ranking may compare."""
    places = ["model", "corpus", "protocol"]
    tried = rows.groupby([*places, "doc"], sort=False)["policy"].nunique().rename("tried")
    whole = tried == tried.groupby(places).transform("max")
    docs = whole[whole].reset_index()[[*places, "doc"]]
    return rows.merge(docs, on=[*places, "doc"])


def shared_tokens(rows: pd.DataFrame, policies: Sequence[str]) -> pd.DataFrame:
    """The rows of tokens that a policy was scored on in all three protocols."""
    ours = rows[rows["policy"].isin(policies)]
    token = ours.groupby(["model", "corpus", "policy", "doc", "position"])["protocol"]
    return ours[token.transform("nunique") == len(PROTOCOLS)]


def _same_documents(*tables: pd.DataFrame) -> list[pd.DataFrame]:
    """The rows of the documents that all of the tables have."""
    docs = set.intersection(*(set(table["doc"]) for table in tables))
    return [table[table["doc"].isin(docs)] for table in tables]


def extremes(estimates: pd.Series) -> tuple[fit.Estimate, fit.Estimate]:
    """The smallest and the largest of a column of estimates."""
    return tuple(pick(estimates, key=lambda item: item.value) for pick in (min, max))


# --- for pages ------------------------------------------------------------------------------------


def place(model: str, corpus: str) -> str:
    """Model and text in a few words."""
    return f"{name_of(model).split('-')[0]} on {name_of(corpus)}"


def placed(table: pd.DataFrame) -> pd.DataFrame:
    """The table with a column `where`: model and text in a few words."""
    return table.assign(where=[place(*p) for p in zip(table["model"], table["corpus"])])  # noqa: B905


def worded(table: pd.DataFrame) -> pd.DataFrame:
    """The table with its estimates in words, to two digits."""
    return table.map(lambda item: f"{item:.2g}" if isinstance(item, fit.Estimate) else item)


def by_budget(table: pd.DataFrame, column: str, keys: Sequence[str]) -> pd.DataFrame:
    """A column of estimates with a column a budget, to two digits; blank where there is none."""
    cells = worded(table).set_index([*keys, "budget"])[column]
    wide = cells.unstack("budget", sort=False)
    return wide[sorted(wide)].fillna("").rename_axis(index=[None] * len(keys))


# --- verdicts; without a measurement each is "to come" --------------------------------------------

FORETOLD = 1.5  # a prediction within this factor counts
ORDERS = 10**1.5  # two orders of magnitude, give or take half of one
ONE_ORDER = 10.0


def sink_verdict(same: pd.DataFrame) -> str:
    """C4, a test of equivalence. Reproduced: on every table the interval of the difference lies
    within ± MARGIN. Not reproduced: on every table it lies outside. Partly: anything between, as
    a difference that is there but may be smaller than MARGIN."""
    if same.empty:
        return "to come"
    if all(
        not item.flat and -MARGIN < item.low and item.high < MARGIN for item in same["difference"]
    ):
        return "reproduced"
    outside = [item.flat or item.low > MARGIN or item.high < -MARGIN for item in same["difference"]]
    return "not reproduced" if all(outside) else "partly"


def holds(foretold: pd.DataFrame) -> pd.DataFrame:
    """Where the law foretells a recency policy online: `policy, model, corpus, holds`.

    It holds when at no budget the factor lies surely outside ×/÷ FORETOLD, interval and all, and
    its geometric mean over budgets lies within.
    """
    table = []
    keys = ["policy", "model", "corpus"]
    ours = _online_recency(foretold)
    for key, part in ours.groupby(keys, sort=False) if len(ours) else ():
        off = [item.low > FORETOLD or item.high < 1 / FORETOLD for item in part["factor"]]
        near = 1 / FORETOLD <= fit.geometric_mean(part["factor"]) <= FORETOLD
        table.append((*key, near and not any(off)))
    return pd.DataFrame(table, columns=[*keys, "holds"])


def prediction_verdict(foretold: pd.DataFrame) -> str:
    """C10, over recency policies online. Reproduced: the law `holds` for both on every table.
    Partly: for one of them on some table. Not reproduced: nowhere."""
    found = holds(foretold)["holds"]
    if found.empty:
        return "to come"
    return "reproduced" if found.all() else "partly" if found.any() else "not reproduced"


def retention_verdict(ratio: pd.DataFrame) -> str:
    """C11, over recency policies online against random retention. Reproduced: for both, the
    geometric mean over budgets and tables is ORDERS or more. Partly: one of them is better by an
    order of magnitude (ONE_ORDER), interval and all, at some budget of some table. Not reproduced:
    nowhere."""
    ours = _online_recency(ratio)
    if ours.empty:
        return "to come"
    means = ours.groupby("policy")["ratio"].agg(fit.geometric_mean)
    if (means >= ORDERS).all():
        return "reproduced"
    return "partly" if any(item.low > ONE_ORDER for item in ours["ratio"]) else "not reproduced"


def law_verdict(laws: pd.DataFrame) -> str:
    """C12, over recency policies online. Reproduced: the exponential and the stretched exponential
    lose on unseen documents on every table, intervals above one. Partly: the exponential does so
    for one policy on some table. Not reproduced: nowhere."""
    ours = _online_recency(laws)
    if ours.empty:
        return "to come"
    beaten = [item.low > 1 for item in ours["exponential"]]
    if all(beaten) and all(item.low > 1 for item in ours["stretched"]):
        return "reproduced"
    return "partly" if any(beaten) else "not reproduced"


def sink_figure(same: pd.DataFrame) -> str:
    """The differences of exponents that C4 rests on, with n."""
    parts = [f"{row.where} {row.difference:.2g}" for row in placed(same).itertuples()]
    return (
        f"exponent of 4 sinks + recent, online, less that of re-encoded suffixes: "
        f"{'; '.join(parts)}; {same['documents'].min()} or more documents each"
    )


def prediction_figure(foretold: pd.DataFrame) -> str:
    """On how many tables the law holds for each recency policy online, and the extreme factors."""
    parts = []
    ours, found = _online_recency(foretold), holds(foretold)
    for policy, part in ours.groupby("policy", sort=False):
        at = found[found["policy"] == policy]["holds"]
        low, high = extremes(part["factor"])
        parts.append(f"{policy} {low:.2g} to {high:.2g}, holds on {at.sum()} of {len(at)} tables")
    budgets = f"{ours['budget'].min():,} to {ours['budget'].max():,}"
    return f"measured / foretold KL, online, budgets {budgets}. {'; '.join(parts)}; {_n(ours)}"


def retention_figure(ratio: pd.DataFrame) -> str:
    """The smallest and the largest ratio of each recency policy online, with intervals."""
    parts = []
    ours = _online_recency(ratio)
    for policy, part in ours.groupby("policy", sort=False):
        low, high = extremes(part["ratio"])
        mean = fit.geometric_mean(part["ratio"])
        parts.append(f"{policy} {low:.2g} to {high:.2g}, geometric mean {mean:.2g}")
    return (
        "KL of random retention over that of the policy, online, at equal budget. "
        f"{'; '.join(parts)}; {_n(ours)}"
    )


def law_figure(laws: pd.DataFrame) -> str:
    """What C12 rests on: the rivals' errors over the power law's, online, and the exponents."""
    parts = []
    ours = _online_recency(laws)
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
        parts.append(f"{policy}: {', '.join(rivals)}, {alpha}")
    return (
        "error on unseen documents over the power law's, in the budget, online. "
        f"{'; '.join(parts)}; {_n(ours, 'exponential')}"
    )


def carrying_figure(rows: pd.DataFrame) -> str:
    """C8 on real models: does a cache that carries entries along lose less than re-reading them?"""
    table = protocols_compared(rows, "4 sinks + recent")
    low, high = extremes(table["online / reencode"])
    names = " and ".join(dict.fromkeys(name_of(model).split("-")[0] for model in table["model"]))
    return (
        f"on {names}, KL online over that of the same tokens re-encoded, 4 sinks + recent at equal "
        f"budget: {low:.2g} to {high:.2g}, {table['documents'].min()} documents with "
        f"{table['tokens'].min()} tokens or more"
    )


def _n(table: pd.DataFrame, column: str = "") -> str:
    """How many documents stand behind a table's estimates, in words."""
    column = column or next(name for name in ("factor", "ratio") if name in table)
    return f"{min(item.n_documents for item in table[column])} or more documents each"


def _place(key: str) -> int:
    """Where a model or text stands in the order of the book."""
    return [*NAMES, key].index(key)


def _online_recency(table: pd.DataFrame) -> pd.DataFrame:
    return table[(table["protocol"] == "online") & table["policy"].isin(RECENCY)]


def _without_each(values: np.ndarray) -> np.ndarray:
    """Means (n,) without each of n values in turn."""
    return (values.sum() - values) / (len(values) - 1)


def _exp(item: fit.Estimate) -> fit.Estimate:
    value, low, high = np.exp([item.value, item.low, item.high])
    return fit.Estimate(float(value), float(low), float(high), item.n_documents)
