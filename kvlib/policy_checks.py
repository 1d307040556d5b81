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
from kvlib.charts import NAMES, name_of

KINDS = ("online", "cache_positions", "scored", "prefill", "prefill_scored", "reencode")
KEYS = ["model", "corpus", "protocol", "policy", "budget"]
SINKS = {"4 sinks + recent": 4, "4 sinks + random": 4, "4 sinks + recent, cache positions": 4}
RECENCY = ("sliding window", "4 sinks + recent")
RANDOM, FAIR_RANDOM = "random", "4 sinks + random"
LAW = "finite-context power"


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
    """Tokens kept besides the sinks: what the law's window is compared with."""
    return np.asarray(budget, dtype=float) - SINKS.get(policy, 0)


def curve(rows: pd.DataFrame) -> fit.Curve:
    """The rows of one model, text, protocol and policy as a curve over the tokens kept.

    A budget that holds the whole context of some target is left out: there nothing is cut.
    """
    rows = rows[rows["budget"] < rows["position"].min() + 1]
    means = rows.groupby(["doc", "budget"])["kl_nats"].mean().unstack()
    window = kept(rows["policy"].iloc[0], means.columns)
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


def curves(rows: pd.DataFrame, least_budgets: int = 4) -> dict[tuple[str, ...], fit.Curve]:
    """(model, corpus, protocol, policy) → curve, where enough budgets were measured."""
    return {
        key: data
        for key, part in rows.groupby(KEYS[:4], sort=False)
        if len((data := curve(part)).window) >= least_budgets
    }


def suffix_tables(folder: Path = store.DATA) -> dict[tuple[str, str], pd.DataFrame]:
    """(model, corpus) → rows of the stored truncation sensitivity: re-encoded suffixes."""
    return {
        key: store.load_table(path) for key, path in store.stored("sensitivity", folder).items()
    }


def same_exponent(
    rows: pd.DataFrame, suffixes: dict[tuple[str, str], pd.DataFrame], policy: str, protocol: str
) -> pd.DataFrame:
    """Exponents of a policy and of re-encoded suffixes on the same documents, and the difference.

    Both are fits of the finite-context power law, to windows of at least 8 tokens. Columns:
    `model, corpus, documents, policy, suffix, difference` (an `fit.Estimate` each, the last one
    with each document left out of both).
    """
    table = []
    for (model, corpus, _, _), data in curves(
        rows[(rows["policy"] == policy) & (rows["protocol"] == protocol)]
    ).items():
        if (model, corpus) not in suffixes:
            continue
        docs = sorted(rows.query("model == @model and corpus == @corpus")["doc"].unique())
        docs = docs[: data.n_documents]
        suffix = suffixes[model, corpus]
        other = fit.curve(suffix[suffix["doc"].isin(docs)]).between(8)
        both = [fit.left_out_exponents(data), fit.left_out_exponents(other)]
        difference = both[0] - both[1]
        table.append(
            (
                *(model, corpus, data.n_documents),
                *(fit.jackknife(e[0], e[1:]) for e in both),
                fit.jackknife(difference[0], difference[1:]),
            )
        )
    columns = ["model", "corpus", "documents", "policy", "suffix", "difference"]
    return pd.DataFrame(table, columns=columns)


def predictions(rows: pd.DataFrame, suffixes: dict[tuple[str, str], pd.DataFrame]) -> pd.DataFrame:
    """What the law of re-encoded suffixes foretells for each policy, and how far it is off.

    The law is fitted to suffixes on the same documents; its window is the tokens that the policy
    keeps besides sinks, its references are the policy's own targets. Columns: `KEYS`,
    `predicted`, `mean`, `factor` = measured / predicted (an `fit.Estimate`, each document left out
    of both).
    """
    table = []
    for key, part in rows.groupby(KEYS[:4], sort=False):
        if key[:2] not in suffixes:
            continue
        data = curve(part)
        docs = part["doc"].unique()
        suffix = suffixes[key[:2]]
        other = fit.curve(suffix[suffix["doc"].isin(docs)]).between(8)
        logs = []
        for one, two in zip(_leave_out(data), _leave_out(other), strict=True):
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
    for key, data in curves(rows).items():
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
    for (model, corpus, budget), part in ours.groupby(["model", "corpus", "budget"], sort=True):
        wide = part.pivot_table(index=["doc", "position"], columns="protocol", values="kl_nats")
        if set(wide) != {"online", "prefill", "reencode"} or len(wide := wide.dropna()) == 0:
            continue
        docs = wide.groupby("doc").mean()
        if len(docs) < 3:
            continue
        of = {name: docs[name].to_numpy() for name in docs}
        table.append(
            {
                **{"model": model, "corpus": corpus, "policy": policy, "budget": int(budget)},
                **{"documents": len(docs), "tokens": len(wide)},
                **{name: log_mean(of[name]) for name in ("reencode", "online", "prefill")},
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


# --- verdicts; without a measurement each is "to come" --------------------------------------------

MARGIN = 0.1  # exponents closer than this are called the same
FORETOLD = 1.5  # a prediction within this factor counts
ORDERS = 10**1.5  # two orders of magnitude, give or take half of one


def sink_verdict(same: pd.DataFrame) -> str:
    """C4, a test of equivalence. Reproduced: on every table the interval of the difference lies
    within ± MARGIN. Not reproduced: on every table it lies outside. Partly: anything between, as
    a difference that is there but may be smaller than MARGIN."""
    if same.empty:
        return "to come"
    if all(-MARGIN < item.low and item.high < MARGIN for item in same["difference"]):
        return "reproduced"
    outside = [item.low > MARGIN or item.high < -MARGIN for item in same["difference"]]
    return "not reproduced" if all(outside) else "partly"


def prediction_verdict(foretold: pd.DataFrame) -> str:
    """C10, over recency policies online. Reproduced: at every budget the factor between measured
    and foretold is at most FORETOLD. Partly: for one of the policies. Not reproduced: for none."""
    good = [
        all(1 / FORETOLD <= item.value <= FORETOLD for item in part["factor"])
        for _, part in _online_recency(foretold).groupby("policy")
    ]
    if not good:
        return "to come"
    return "reproduced" if all(good) else "partly" if any(good) else "not reproduced"


def retention_verdict(ratio: pd.DataFrame) -> str:
    """C11, over recency policies online against random retention. Reproduced: for both, the
    geometric mean over budgets and tables is ORDERS or more. Partly: at some budget of some table
    the ratio is above one, interval and all. Not reproduced: nowhere."""
    ours = _online_recency(ratio)
    if ours.empty:
        return "to come"
    means = ours.groupby("policy")["ratio"].agg(geometric_mean)
    if (means >= ORDERS).all():
        return "reproduced"
    return "partly" if any(item.low > 1 for item in ours["ratio"]) else "not reproduced"


def law_verdict(laws: pd.DataFrame) -> str:
    """C12, over recency policies online. Reproduced: the exponential and the stretched exponential
    lose on unseen documents on every table, intervals above one. Partly: the exponential does so
    for one policy at least. Not reproduced: for none."""
    ours = _online_recency(laws)
    beaten = [
        all(item.low > 1 for item in part["exponential"]) for _, part in ours.groupby("policy")
    ]
    if not beaten:
        return "to come"
    if all(beaten) and all(item.low > 1 for item in ours["stretched"]):
        return "reproduced"
    return "partly" if any(beaten) else "not reproduced"


def sink_figure(same: pd.DataFrame) -> str:
    """The differences of exponents that C4 rests on, with n."""
    parts = [
        f"{name_of(row.model)} on {name_of(row.corpus)} {row.difference}"
        for row in same.itertuples()
    ]
    return (
        f"exponent of sinks + recent, online, less that of re-encoded suffixes: {'; '.join(parts)} "
        f"({same['documents'].min()} or more documents each)"
    )


def prediction_figure(foretold: pd.DataFrame) -> str:
    """How far each recency policy online is from the law, over budgets and tables."""
    parts = []
    for policy, part in _online_recency(foretold).groupby("policy"):
        values = [item.value for item in part["factor"]]
        parts.append(f"{policy} {min(values):.2g} to {max(values):.2g}")
    return f"measured / foretold KL, online, budgets 16 to 1,024: {'; '.join(parts)}"


def retention_figure(ratio: pd.DataFrame) -> str:
    """The smallest and the largest ratio of each recency policy online, with intervals."""
    parts = []
    for policy, part in _online_recency(ratio).groupby("policy"):
        low, high = (pick(part["ratio"], key=lambda item: item.value) for pick in (min, max))
        parts.append(f"{policy} {low} to {high}")
    return f"KL of random retention over that of {'; '.join(parts)}, online, at equal budget"


def law_figure(laws: pd.DataFrame) -> str:
    """The exponents of recency policies in the budget, online, with intervals."""
    parts = [
        f"{row.policy}, {name_of(row.model)} on {name_of(row.corpus)} {row.exponent}"
        for row in _online_recency(laws).itertuples()
    ]
    return f"exponent in the budget, online: {'; '.join(parts)}"


def carrying_figure(rows: pd.DataFrame) -> str:
    """C8 on real models: does a cache that carries entries along lose less than re-reading them?"""
    table = protocols_compared(rows, "4 sinks + recent")
    low, high = (
        pick(table["online / reencode"], key=lambda item: item.value) for pick in (min, max)
    )
    names = ", ".join(dict.fromkeys(map(name_of, table["model"])))
    return (
        f"on {names}, KL online over that of the same tokens re-encoded, 4 sinks + recent at equal "
        f"budget: {low} to {high}, {table['documents'].min()} documents"
    )


def geometric_mean(estimates: pd.Series) -> float:
    """Geometric mean of the values of a column of estimates."""
    return float(np.exp(np.mean([np.log(item.value) for item in estimates])))


def _place(key: str) -> int:
    """Where a model or text stands in the order of the book."""
    return [*NAMES, key].index(key)


def _online_recency(table: pd.DataFrame) -> pd.DataFrame:
    return table[(table["protocol"] == "online") & table["policy"].isin(RECENCY)]


def _leave_out(data: fit.Curve) -> list[fit.Curve]:
    """The curve, then the curve without each document in turn."""
    n = data.n_documents
    return [
        data,
        *(replace(data, doc_means=np.delete(data.doc_means, k, axis=0)) for k in range(n)),
    ]


def _without_each(values: np.ndarray) -> np.ndarray:
    """Means (n,) without each of n values in turn."""
    return (values.sum() - values) / (len(values) - 1)


def _exp(item: fit.Estimate) -> fit.Estimate:
    value, low, high = np.exp([item.value, item.low, item.high])
    return fit.Estimate(float(value), float(low), float(high), item.n_documents)
