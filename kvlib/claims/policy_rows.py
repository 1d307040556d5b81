"""Tables of the pages on cache policies: from stored rows to figures with intervals.

Documents are what is left out for an interval (jackknife-t). Means and ratios are taken to the
logarithm first, for a divergence is positive and skewed. KL is averaged before any logarithm.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from kvlib import fit, store
from kvlib.claims.claim import DISTANCES
from kvlib.fit import log_mean, log_ratio
from kvlib.names import POLICIES, PROTOCOLS, name_of, order, sinks_of

KEYS = ["model", "corpus", "protocol", "policy", "budget"]
SLIDING, SINKS = RECENCY = ("sliding", "sinks")
RANDOM, FAIR_RANDOM = "random", "random-sinks"
HALF_RECENT = ("random-recent", "random-sinks-recent")  # half of what recency policies keep
EXPECTED = "expected-attention"
MODEL, CORPUS = "smollm2-135m-instruct", "world-english-bible"  # singled out by sentences
LAW = "finite-context power"
STEP = 32  # tokens a forward; what other steps give is for `policies.step_effect`
PROTECTION = "protection_"  # how studies of what protects are called, before their protocol
LEAST_BUDGETS = 4  # for a fit in the budget


def stored_rows(folder: Path = store.DATA) -> pd.DataFrame:
    """Every stored row of a policy, with its `model` and `corpus`; empty when there is no table.

    But for those of `protection_rows`, which hold some of the same policies again, on other tokens.
    """
    return _rows(table for table in _tables(folder) if not _of_protection(table))


def protection_rows(folder: Path = store.DATA) -> pd.DataFrame:
    """As `stored_rows`, of the studies of what protects: random retention and H2O, part by part."""
    return _rows(table for table in _tables(folder) if _of_protection(table))


def _tables(folder: Path) -> list[store.Stored]:
    return store.tables(folder, kind="policy_distortion", step=STEP)


def _of_protection(table: store.Stored) -> bool:
    return table.manifest["study"].startswith(PROTECTION)


def _rows(found: Iterable[store.Stored]) -> pd.DataFrame:
    """The rows of some tables, in the order of the book."""
    parts = [
        table.load().assign(model=table.settings["model"], corpus=table.settings["corpus"])
        for table in sorted(found, key=_place)
    ]
    nothing = pd.DataFrame(columns=[*KEYS, "doc", "position", *DISTANCES.values()])
    return pd.concat(parts, ignore_index=True) if parts else nothing


def document_means(rows: pd.DataFrame, value: str = "kl_nats") -> pd.Series:
    """Mean of each document, by `KEYS` and `doc`."""
    return rows.groupby([*KEYS, "doc"], sort=False)[value].mean()


def summary(rows: pd.DataFrame, value: str = "kl_nats") -> pd.DataFrame:
    """One row a model, text, protocol, policy and budget.

    Columns: `KEYS`, `mean, low, high` (KL, nats, or the distance in column `value`, with its
    interval over documents), `median`, `p95` (over tokens), `top1` (share of tokens whose likeliest
    next token stays), `nll` (excess in nats on the text itself), `documents`, `tokens`. A table as
    `store.load_table` reads it is of one model and text, and need not name them.
    """
    rows = rows.assign(**{key: "" for key in KEYS[:2] if key not in rows})
    table = []
    for key, part in rows.groupby(KEYS, sort=False):
        mean = log_mean(part.groupby("doc")[value].mean().to_numpy())
        median, p95 = np.quantile(part[value], [0.5, 0.95])
        shares = part["top1_same"].mean(), part["nll_excess_nats"].mean()
        counts = part["doc"].nunique(), len(part)
        table.append((*key, mean.value, mean.low, mean.high, median, p95, *shares, *counts))
    columns = ["mean", "low", "high", "median", "p95", "top1", "nll", "documents", "tokens"]
    return pd.DataFrame(table, columns=[*KEYS, *columns])


def summaries(rows: pd.DataFrame) -> pd.DataFrame:
    """The `summary` of each distance, one below the other, with a column `distance`."""
    parts = [summary(rows, value).assign(distance=name) for name, value in DISTANCES.items()]
    return pd.concat(parts, ignore_index=True)


def ratios(rows: pd.DataFrame, baseline: str = RANDOM, value: str = "kl_nats") -> pd.DataFrame:
    """How many times the distortion of a baseline is that of each policy, at equal budget.

    Columns: `KEYS`, `ratio` (an `fit.Estimate`, paired over the documents both were run on).
    """
    means = document_means(rows, value).unstack("doc")
    table = []
    for key, values in means.iterrows():
        other = (*key[:3], baseline, key[4])
        if key[3] == baseline or other not in means.index:
            continue
        both = pd.concat([means.loc[other], values], axis=1).dropna().to_numpy()
        table.append((*key, log_ratio(both[:, 0], both[:, 1])))
    return pd.DataFrame(table, columns=[*KEYS, "ratio"])


def by_distance(make, rows: pd.DataFrame, *args: str) -> pd.DataFrame:
    """A table of `make(rows, *args, value=…)` in each distance, one under the other."""
    parts = [make(rows, *args, value=v).assign(distance=k) for k, v in DISTANCES.items()]
    return pd.concat(parts, ignore_index=True)


def kept(policy: str, budget: np.ndarray) -> np.ndarray:
    """Tokens kept besides the sinks."""
    return np.asarray(budget, dtype=float) - sinks_of(policy)


def curve(rows: pd.DataFrame, besides_sinks: bool = True, value: str = "kl_nats") -> fit.Curve:
    """The rows of one model, text, protocol and policy as a curve over the tokens kept.

    Sinks are not counted, for a suffix that is compared has none; without `besides_sinks` the
    curve is over the budget. A budget that holds the whole context of some target is left out:
    there nothing is cut.
    """
    rows = rows[rows["budget"] < rows["position"].min() + 1]
    means = rows.groupby(["doc", "budget"])[value].mean().unstack()
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


def budget_curves(rows: pd.DataFrame, value: str = "kl_nats") -> dict[tuple[str, ...], fit.Curve]:
    """(model, corpus, protocol, policy) → curve over budgets, where enough were measured."""
    return {
        key: data
        for key, part in rows.groupby(KEYS[:4], sort=False)
        if len((data := curve(part, False, value)).window) >= LEAST_BUDGETS
    }


def suffix_tables(folder: Path = store.DATA) -> dict[tuple[str, str], pd.DataFrame]:
    """(model, corpus) → rows of re-encoded suffixes of 1 to 512 tokens, on the stretches of text
    that the policies were scored on."""
    return {key: store.load_table(path) for key, path in store.stored("suffix", folder).items()}


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


def same_documents(*tables: pd.DataFrame) -> list[pd.DataFrame]:
    """The rows of the documents that all of the tables have."""
    docs = set.intersection(*(set(table["doc"]) for table in tables))
    return [table[table["doc"].isin(docs)] for table in tables]


# --- for pages ------------------------------------------------------------------------------------


def place(model: str, corpus: str) -> str:
    """Model and text in a few words."""
    return f"{name_of(model).split('-')[0]} on {name_of(corpus)}"


def placed(table: pd.DataFrame) -> pd.DataFrame:
    """The table with a column `where`: model and text in a few words."""
    return table.assign(where=[place(*p) for p in zip(table["model"], table["corpus"])])  # noqa: B905


def titled(table: pd.DataFrame) -> pd.DataFrame:
    """The table with its policies by their titles."""
    return table.assign(policy=table["policy"].map(name_of)) if "policy" in table else table


def worded(table: pd.DataFrame) -> pd.DataFrame:
    """The table with its estimates in words."""
    return table.map(lambda item: f"{item:t}" if isinstance(item, fit.Estimate) else item)


def by_budget(table: pd.DataFrame, column: str, keys: Sequence[str]) -> pd.DataFrame:
    """A column of estimates with a column a budget; blank where there is none."""
    cells = worded(titled(table)).set_index([*keys, "budget"])[column]
    wide = cells.unstack("budget", sort=False)
    return wide[sorted(wide)].fillna("").rename_axis(columns=None)


def documents_behind(table: pd.DataFrame, column: str = "") -> str:
    """How many documents stand behind a table's estimates, in words."""
    column = column or next(name for name in ("factor", "ratio") if name in table)
    return f"{min(item.n_documents for item in table[column])} or more documents each"


def _place(table: store.Stored) -> tuple[object, ...]:
    """Where a table of policies stands in the order of the book."""
    settings, known = table.settings, list(POLICIES)
    first = min(known.index(key) if key in known else len(known) for key in settings["policies"])
    return settings["protocol"], first, order(settings["model"], settings["corpus"])


def online_recency(table: pd.DataFrame) -> pd.DataFrame:
    return table[(table["protocol"] == "online") & table["policy"].isin(RECENCY)]
