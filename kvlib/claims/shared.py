"""Documents that several models read: their tables, curves, exponents and paired differences.

Documents of the study `sensitivity` begin at the same characters for every tokenizer, so exponents
of two models on one text differ by what the models are and by nothing that they were given: their
difference is paired, document by document.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from kvlib import fit, names, store
from kvlib.claims.claim import MIN_WINDOW

KL, TV, LOSS = "KL", "TV", "excess loss"
DISTANCES = {KL: "kl_nats", TV: "tv", LOSS: "nll_excess_nats"}  # by the columns that hold them
LAWS = {KL: "finite-context power", TV: "root power", LOSS: "finite-context power"}
BETWEEN = (KL, TV)  # distances between two laws
SHORTER = "small-gpt2"  # its windows end at a quarter of the others'
LONG = 65  # windows from here on are long


# --- the tables -----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Shared:
    """What one model said of the shared documents of one text.

    `begins` are the first characters of the documents, `chars` (documents,) their characters a
    token; `rows` are truncations and `twice` laws that were measured once more (`fit.parted`).
    """

    model: str
    corpus: str
    parameters: int
    dtype: str
    begins: tuple[int, ...]
    chars: np.ndarray
    rows: pd.DataFrame
    twice: pd.DataFrame


Tables = dict[tuple[str, str], Shared]


def stored(folder: Path = store.DATA, study: str = "sensitivity") -> Tables:
    """(model, corpus) → what is stored of a study of shared documents, in the book's order."""
    found = {}
    for table in store.tables(folder, study):
        model, corpus = table.settings["model"], table.settings["corpus"]
        places = table.manifest["about"]["corpus"]["characters"]
        rows, twice = fit.parted(table.load())
        chars = np.array([end - begin for begin, end in places]) / table.settings["seq_len"]
        found[model, corpus] = Shared(
            *(model, corpus, table.model["parameters"], table.settings["dtype"]),
            *(tuple(begin for begin, _ in places), chars, rows, twice),
        )
    return {key: found[key] for key in sorted(found, key=lambda key: names.order(*key))}


def models_of(tables: Tables) -> list[str]:
    """The models, the smallest first."""
    sizes = {one.model: one.parameters for one in tables.values()}
    return sorted(sizes, key=sizes.__getitem__)


def corpora_of(tables: Tables) -> list[str]:
    return list(dict.fromkeys(sorted((c for _, c in tables), key=lambda c: names.order(c))))


def readers(tables: Tables) -> pd.DataFrame:
    """Who read what, a row a model, the smallest first: `model, parameters, numbers` (the format
    that they were computed in), `windows to, texts, documents` (of each text)."""
    rows = []
    for model in models_of(tables):
        own = [one for one in tables.values() if one.model == model]
        docs = [len(one.begins) for one in own]
        rows.append(
            {"model": model, "parameters": f"{own[0].parameters / 1e6:,.0f} million"}
            | {"numbers": " and ".join(dict.fromkeys(one.dtype for one in own))}
            | {"windows to": f"{max(one.rows['window'].max() for one in own):,}"}
            | {"texts": len(own), "documents": f"{min(docs)}"}
        )
    return pd.DataFrame(rows)


def same_documents(parts: Sequence[Shared]) -> tuple[int, ...]:
    """The numbers of the documents that begin at the same character in all tables of one text."""
    fewest = min(len(one.begins) for one in parts)
    return tuple(k for k in range(fewest) if len({one.begins[k] for one in parts}) == 1)


# --- exponents ------------------------------------------------------------------------------------


@lru_cache(maxsize=256)
def curve(one: Shared, distance: str, docs: tuple[int, ...] | None = None) -> fit.Curve:
    """Mean distance against window, of all documents or of some. Losses may be negative."""
    rows, column = one.rows, DISTANCES[distance]
    if docs is not None:
        rows = rows[rows["doc"].isin(docs)]
    if distance == LOSS:  # the last token of a document is followed by none
        rows = rows.dropna(subset=[column])
    return fit.curve(rows, column, signed=distance == LOSS)


def fitted(one: Shared, distance: str, docs: tuple[int, ...] | None = None) -> fit.Curve:
    """The part of a curve that its law is fitted to: from MIN_WINDOW on, and of losses the bins
    whose mean is positive whichever document is left out."""
    data = curve(one, distance, docs).between(MIN_WINDOW)
    return data.positive() if distance == LOSS else data


@lru_cache(maxsize=1024)
def left_out(one: Shared, distance: str, docs: tuple[int, ...] | None = None) -> np.ndarray:
    """The exponent, then without each document; nan where fewer than three bins are left."""
    data = fitted(one, distance, docs)
    if len(data.window) < 3:
        return np.full(1 + data.n_documents, np.nan)
    return fit.left_out_exponents(data, LAWS[distance])


def estimate_of(values: np.ndarray, distance: str = KL) -> fit.Estimate:
    """The estimate that `left_out` gives; `flat` where there is no exponent."""
    if np.isnan(values).any():
        return fit.Estimate(np.nan, np.nan, np.nan, len(values) - 1, flat=True)
    return fit.exponent_of(values, LAWS[distance])


def exponents(tables: Tables) -> pd.DataFrame:
    """A row a table: `model, corpus, parameters, documents`, the exponents of DISTANCES (an
    `Estimate` each), and `left out`, the bins without a logarithm that the losses' fit lacks."""
    rows = []
    for (model, corpus), one in tables.items():
        lost = len(curve(one, LOSS).between(MIN_WINDOW).window) - len(fitted(one, LOSS).window)
        rows.append(
            {"model": model, "corpus": corpus, "parameters": one.parameters}
            | {"documents": len(one.begins)}
            | {distance: estimate_of(left_out(one, distance), distance) for distance in DISTANCES}
            | {"left out": lost}
        )
    return pd.DataFrame(rows)


def difference(one: Shared, others: Sequence[Shared], distance: str) -> fit.Estimate:
    """An exponent less the mean of others', on the documents that all of them read.

    Each document is left out of all at once (jackknife-t), so what it does to all cancels.
    """
    docs = same_documents([one, *others])
    mean = np.mean([left_out(other, distance, docs) for other in others], axis=0)
    gap = left_out(one, distance, docs) - mean
    return fit.jackknife(gap[0], gap[1:])


# --- for the explorers ----------------------------------------------------------------------------


def curves_table(tables: Tables) -> pd.DataFrame:
    """Every curve for a chart, a row a bin: what `fit.summary` says, `model, corpus, divergence`,
    the window in characters, `chars`, and what the other models on that text span.

    `others_low, others_high` at the same window in tokens, `chars_low, chars_high` at the same in
    characters, nan where no other model has such a window; `alpha` is the exponent. Bins of the
    excess loss without a logarithm are left out.
    """
    found = []
    for (model, corpus), one in tables.items():
        others = [t for (name, text), t in tables.items() if text == corpus and name != model]
        for distance in DISTANCES:
            data = curve(one, distance)
            data = data.positive() if distance == LOSS else data
            table = fit.summary(data, _law_of(one, distance))
            table.loc[table["first"] < MIN_WINDOW, "fit"] = np.nan
            table["chars"] = table["window"] * one.chars.mean()
            found.append(
                table.assign(
                    **{"model": model, "corpus": corpus, "divergence": distance},
                    **_spanned(table, others, distance),
                    alpha=left_out(one, distance)[0],
                )
            )
    return pd.concat(found, ignore_index=True)


def _law_of(one: Shared, distance: str) -> fit.Fit | None:
    data = fitted(one, distance)
    if len(data.window) < 3:
        return None
    return fit.fit_law(LAWS[distance], data.window, data.mean, data.weights, data.contexts)


def _spanned(table: pd.DataFrame, others: Sequence[Shared], distance: str) -> dict[str, np.ndarray]:
    """The least and the largest mean of the other models at each window of a curve."""
    spans = {}
    for column, unit, names_ in (
        ("window", lambda one: 1.0, ("others_low", "others_high")),
        ("chars", lambda one: one.chars.mean(), ("chars_low", "chars_high")),
    ):
        read = [_read(other, distance, table[column].to_numpy(), unit(other)) for other in others]
        stack = np.array([np.full(len(table), np.nan), *read])
        spans[names_[0]] = np.fmin.reduce(stack)
        spans[names_[1]] = np.fmax.reduce(stack)
    return spans


def _read(one: Shared, distance: str, at: np.ndarray, unit: float) -> np.ndarray:
    """A curve between its bins, on straight lines of both logarithms; nan outside them."""
    data = curve(one, distance)
    data = data.positive() if distance == LOSS else data
    if not len(data.window):
        return np.full(len(at), np.nan)
    x, y = np.log(data.window * unit), np.log(data.mean)
    return np.exp(np.interp(np.log(at), x, y, left=np.nan, right=np.nan))


# --- small parts --------------------------------------------------------------------------------


def count_of(flags: Iterable[bool]) -> str:
    listed = list(flags)
    return f"{sum(listed)} of {len(listed)}"


def surely(items: Iterable[fit.Estimate], side: int) -> list[bool]:
    """Does each interval lie above (1) or below (-1) zero?"""
    return [item.low > 0 if side > 0 else item.high < 0 for item in items]


def facts(tables: Tables, powers: pd.DataFrame) -> dict[str, str]:
    bins = [curve(one, LOSS).between(MIN_WINDOW).first for one in tables.values()]
    kept = [fitted(one, LOSS).first for one in tables.values()]
    long = sum(int((first >= LONG).sum()) for first in bins)
    long -= sum(int((first >= LONG).sum()) for first in kept)
    found = {
        "n-models": f"{powers['model'].nunique()}",
        "n-texts": f"{powers['corpus'].nunique()}",
        "n-tables": f"{len(powers)}",
        "docs-least": f"{powers['documents'].min()}",
        "docs-most": f"{powers['documents'].max()}",
        "first-window": f"{min(first[0] for first in bins):.0f}",
        "bins-left-out": f"{powers['left out'].sum()} of {sum(map(len, bins))}",
        "bins-long": f"{long}",
    }
    for distance, key in ((KL, "kl"), (TV, "tv"), (LOSS, "loss")):
        items = [item for item in powers[distance] if not item.flat]
        low, high = fit.extremes(pd.Series(items))
        found |= {f"least-{key}": f"{low:.2f}", f"most-{key}": f"{high:.2f}"}
    return found
