"""Readers that are no neural nets: does their excess loss fall as that of models on the same text?

`kvlib.measure.readers` says what they are. Windows are bytes here, and those of models are turned
into bytes by the bytes a token of theirs has on that text. Documents begin at the same characters
for all, so differences are paired, document by document.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from kvlib import fit, names, store
from kvlib.claims import memory, shared
from kvlib.claims.shared import KL, LOSS, Shared
from kvlib.claims.whose_exponent import MARGINS
from kvlib.names import name_of

FIRST = 32  # bytes of the shortest window that a law is fitted to: eight tokens of four
LAW = "finite-context power"
SPANS = ((4, 16), (16, 64), (64, 256), (256, 1024))  # windows in bytes, each by itself
STRICT = "recency"  # the reader of which a window bounds all that it reads, as it does of a model
MARGIN = MARGINS[KL]  # within which exponents are called the same
LEFT = 0.01  # bits a byte: a reader that has no more to win has read what helps it
RISK = 0.05  # of a false finding among all texts
LAST_THIRD = 1 / 3  # of a document's characters, whose bytes are scored


@dataclass(frozen=True, eq=False)
class Read:
    """What one reader lost on the shared documents of one text, by bytes of context.

    `data` is its excess loss (nats a byte) over `context`, its largest window; `full` (documents,)
    its loss there, in bits a byte.
    """

    reader: str
    corpus: str
    data: fit.Curve
    full: np.ndarray

    @property
    def context(self) -> float:
        """The reference, in bytes; of a model the mean over targets."""
        return float(self.data.contexts.mean())


Tables = dict[tuple[str, str], Read]


# --- the tables -----------------------------------------------------------------------------------


def stored(folder: Path = store.DATA) -> Tables:
    """(reader, corpus) → what is stored of the study `readers`, in the book's order."""
    found = {}
    for table in store.tables(folder, "readers"):
        for reader, rows in table.load().groupby("reader", sort=False):
            corpus = table.settings["corpus"]
            found[str(reader), corpus] = read_of(str(reader), corpus, rows)
    order = list(names.READERS)
    return dict(
        sorted(found.items(), key=lambda item: (names.order(item[0][1]), order.index(item[0][0])))
    )


def read_of(reader: str, corpus: str, rows: pd.DataFrame) -> Read:
    """One reader's rows of one text. The row of the largest window has no excess, and is left out
    of the curve."""
    tables = {
        column: rows.pivot(index="doc", columns="window_bytes", values=column)
        for column in ("nll_excess_nats_a_byte", "nll_nats_a_byte")
    }
    excess, losses = (table.to_numpy() for table in tables.values())
    windows = tables["nll_nats_a_byte"].columns.to_numpy(dtype=float)
    data = fit.Curve(
        window=windows[:-1],
        first=windows[:-1],
        last=windows[:-1],
        doc_means=excess[:, :-1],
        contexts=windows[-1:],
        n_pairs=int(rows["targets"].sum()),
        n_starts=len(rows),
    )
    return Read(reader, corpus, data, losses[:, -1] / np.log(2))


def bytes_a_character(folder: Path = store.DATA) -> dict[str, float]:
    """Of each text that readers read, from the bytes and the characters that were scored."""
    found = {}
    for table in store.tables(folder, "readers"):
        scored = table.settings["chars"] * LAST_THIRD
        found[table.settings["corpus"]] = float(table.load()["targets"].mean() / scored)
    return found


def of_models(tables: shared.Tables, widths: dict[str, float]) -> Tables:
    """(model, corpus) → the excess loss of each model on the texts of `bytes_a_character`: windows
    in bytes, losses a byte."""
    return {
        (model, corpus): in_bytes(one, widths[corpus])
        for (model, corpus), one in tables.items()
        if corpus in widths
    }


def in_bytes(one: Shared, width: float) -> Read:
    """A model's losses by bytes, where a character has `width` of them and its tokens are as long
    as they are in its documents on average."""
    data, token = shared.curve(one, LOSS), one.chars.mean() * width
    moved = {name: getattr(data, name) * token for name in ("window", "first", "last", "contexts")}
    data = replace(data, **moved, doc_means=data.doc_means / token)
    full = memory.losses_of_documents(one)["full"].to_numpy() / width
    return Read(one.model, one.corpus, data, full)


# --- exponents ------------------------------------------------------------------------------------


@lru_cache(maxsize=1024)
def left_out(one: Read, docs: int) -> np.ndarray:
    """The exponent of the first `docs` documents, then without each; nan for less than three bins
    with a logarithm from FIRST on."""
    data = replace(one.data, doc_means=one.data.doc_means[:docs]).between(FIRST).positive()
    if len(data.window) < 3:
        return np.full(1 + docs, np.nan)
    return fit.left_out_exponents(data, LAW)


def exponent(one: Read) -> fit.Estimate:
    """Of the finite-context power law from FIRST bytes on; `flat` where there is none."""
    return shared.estimate_of(left_out(one, one.data.n_documents), LOSS)


def difference(one: Read, others: Sequence[Read]) -> fit.Estimate:
    """The exponent of a reader less the mean of others', each document left out of all at once."""
    docs = min(part.data.n_documents for part in (one, *others))
    gap = left_out(one, docs) - np.mean([left_out(other, docs) for other in others], axis=0)
    if np.isnan(gap).any():
        return shared.estimate_of(gap)
    return fit.jackknife(gap[0], gap[1:])


def fall(one: Read, low: float, high: float) -> fit.Estimate:
    """The exponent of a plain power law on the windows from `low` to `high` bytes alone; `flat`
    for less than three that have a logarithm."""
    data = one.data.between(low, high).positive()
    if len(data.window) < 3:
        return shared.estimate_of(np.full(1 + data.n_documents, np.nan))
    values = fit.left_out_exponents(data, "power")
    return fit.jackknife(values[0], values[1:])


def exponents(tables: Tables, models: Tables) -> pd.DataFrame:
    """A row a reader or model and text: `reader, corpus, documents, bits a byte` (with its longest
    context), the fall over each of SPANS, `exponent`, and `minus models`, the paired difference
    from the mean of the models on that text whose windows are long (an `Estimate` each); None of a
    model itself."""
    rows = []
    for (reader, corpus), one in _by_text(tables | models):
        others = [
            other
            for (model, text), other in models.items()
            if text == corpus and model != shared.SHORTER
        ]
        counts = reader in names.READERS and len(others) > 0
        rows.append(
            {"reader": reader, "corpus": corpus, "documents": one.data.n_documents}
            | {"bits a byte": fit.mean_of(pd.Series(one.full))}
            | {span_name(span): fall(one, *span) for span in SPANS}
            | {"exponent": exponent(one)}
            | {"minus models": difference(one, others) if counts else None}
        )
    return pd.DataFrame(rows)


def _by_text(tables: Tables) -> list[tuple[tuple[str, str], Read]]:
    return sorted(tables.items(), key=lambda item: names.order(item[0][1]))


def surely(gaps: Sequence[fit.Estimate]) -> list[bool]:
    """Which differences are surely none: two-sided, corrected for the number of texts (Holm)."""
    if not gaps:
        return []
    above = np.array([fit.p_above(item, 0) for item in gaps])
    return list(fit.holm(2 * np.minimum(above, 1 - above)) < RISK)


def belongs(gaps: Sequence[fit.Estimate]) -> str:
    """From the strict reader's exponents less those of the models, a text each: *the reader's too*
    where one surely differs (`surely`), *the same* where every interval lies within MARGIN, and
    *undecided* otherwise. Where no text was read by both it is *to come*."""
    if not gaps:
        return "to come"
    if any(surely(gaps)):
        return "the reader's too"
    within = all(-MARGIN <= item.low and item.high <= MARGIN for item in gaps)
    return "the same" if within else "undecided"


# --- for the page ---------------------------------------------------------------------------------


def curves_table(tables: Tables) -> pd.DataFrame:
    """Every curve for a chart, a row a window: `reader, corpus, window` (bytes), `mean, low, high`
    (bits a byte, with the 95% band over documents), `n_documents, context, full`, and `alpha`.

    Windows whose mean has no logarithm are left out.
    """
    found = []
    for (reader, corpus), one in _by_text(tables):
        data = one.data.positive()
        if not len(data.window):
            continue
        table = fit.summary(data)[["window", "mean", "low", "high", "n_documents"]]
        table[["mean", "low", "high"]] /= np.log(2)
        own = {"reader": reader, "corpus": corpus, "context": one.context}
        own |= {"full": one.full.mean(), "alpha": exponent(one).value}
        found.append(table.assign(**own))
    return pd.concat(found, ignore_index=True)


def shown(rows: pd.DataFrame) -> pd.DataFrame:
    """`exponents` for a page: readers and texts by name, numbers as text."""
    table = rows.assign(**{name: rows[name].map(name_of) for name in ("reader", "corpus")})
    for column in ("bits a byte", *map(span_name, SPANS), "exponent", "minus models"):
        table[column] = ["" if item is None else f"{item:.2f}" for item in table[column]]
    return table.set_index("reader").rename_axis(index=None, columns="reader")


def facts(rows: pd.DataFrame, tables: Tables) -> dict[str, str]:
    """What the page's prose glues: of `exponents` and of the readers' tables."""
    ours = rows[rows["reader"].isin(list(names.READERS))]
    strict = ours[ours["reader"] == STRICT]
    gaps = [item for item in strict["minus models"] if item is not None and not item.flat]
    sure = [gap for gap, flag in zip(gaps, surely(gaps), strict=True) if flag]
    steeper = [near_is_steeper(tables, corpus) for corpus in strict["corpus"]]
    ends = [reach(tables[reader, c]) for reader in ("ppmd", "n-gram") for c in strict["corpus"]]
    far = [reach(tables[STRICT, corpus]) for corpus in strict["corpus"]]
    return {
        "readers-first": f"{FIRST}",
        "readers-left": f"{LEFT}",
        "readers-bits": _bits(rows, ours),
        "readers-ends": f"{min(ends):.0f} to {max(ends):.0f}",
        "readers-far": f"{min(far):,.0f} to {max(far):,.0f}",
        "readers-steeper": f"{sum(steeper)} of {len(steeper)}",
        "readers-strict": _spread([item for item in strict["exponent"] if not item.flat]),
        "readers-gaps": _spread(gaps),
        "readers-sure": f"{sum(gap.value < 0 for gap in sure)} of {len(gaps)} texts, surely above "
        f"on {sum(gap.value > 0 for gap in sure)}",
        "readers-word": belongs(gaps),
    }


def near_is_steeper(tables: Tables, corpus: str) -> bool:
    """Does the n-gram surely fall more steeply over the first of SPANS than the strict reader?"""
    near, strict = (fall(tables[reader, corpus], *SPANS[0]) for reader in ("n-gram", STRICT))
    return near.low > strict.high


def reach(one: Read) -> float:
    """The first window (bytes) from which on no more than LEFT bits a byte are to be won."""
    more = np.flatnonzero(one.data.mean / np.log(2) > LEFT)
    windows = [*one.data.window, one.context]
    return float(windows[more[-1] + 1] if len(more) else windows[0])


def span_name(span: tuple[int, int]) -> str:
    return f"{span[0]} to {span[1]:,}"


def _bits(rows: pd.DataFrame, ours: pd.DataFrame) -> str:
    """The best of these readers on each text, and the best model."""
    said = []
    for corpus, part in ours.groupby("corpus", sort=False):
        models = rows[(rows["corpus"] == corpus) & ~rows["reader"].isin(list(names.READERS))]
        best = [
            min(some.to_dict("records"), key=lambda row: row["bits a byte"].value)
            for some in (part, models)
            if len(some)
        ]
        told = (f"{name_of(row['reader'])} {row['bits a byte'].value:.2f}" for row in best)
        said.append(f"{name_of(corpus)}: {', '.join(told)}")
    return "; ".join(said)


def _spread(items: Sequence[fit.Estimate]) -> str:
    """The smallest and the largest of some estimates."""
    if not items:
        return "none"
    low, high = fit.extremes(pd.Series(list(items)))
    return f"{low:.2f} to {high:.2f}"
