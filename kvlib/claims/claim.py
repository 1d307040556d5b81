"""What the pages of claims share: claims, verdicts, their figures, and the stored curves.

A page of claims is a module of this room. It has

- `CLAIMS`, the claims that it judges, in their order;
- for each a *rule*, a function of a table that returns a word and whose docstring is the rule as
  printed, and a *sentence*, a function that says what the word rests on. They are called `rule` and
  `sentence` where the page has one claim, else `…_rule` and `…_sentence`;
- `judge(folder)`, one `Verdict` a claim, in the order of `CLAIMS`, from the tables in a folder;
- `facts(…)`, name → text, every value that the page's prose glues, from the page's own tables.

So a verdict changes when the data do, and a new claim needs a module and a place in `front.PAGES`.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd

from kvlib import fit, names, store

CONSTANT = re.compile(r"\b[A-Z][A-Z_]{3,}\b")  # a number by its name, in the words of a rule
MIN_WINDOW = 8  # shorter windows hold no sentence; the page on C2 shows what other choices give
RIVAL = "stretched exponential"
SMALL_BEND = 0.3  # a bend surely below it is small: over two decades hardly told from a power law

DISTANCES = {"KL": "kl_nats", "TV": "tv"}  # by the columns that hold them

WORDS = (
    *("reproduced", "partly", "not reproduced"),  # of what is measured
    *("proved here", "definition checked", "our construction"),  # of what can't fail on data
    *("open", "to come"),
)


@dataclass(frozen=True)
class Claim:
    """A claim of the paper in our words, and the page that treats it."""

    id: str
    text: str
    page: str


@dataclass(frozen=True)
class Figure:
    """One number that a verdict rests on: where it was measured, with its 95% interval.

    `n` counts the documents behind the interval. What a figure doesn't have is None or empty: an
    exact one has no interval, an exponent that is no exponent (`fit.Estimate.flat`) no estimate.
    """

    name: str
    estimate: float | None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    model: str = ""
    corpus: str = ""
    distance: str = ""  # "KL" or "TV"
    protocol: str = ""
    policy: str = ""
    budget: int | None = None


@dataclass(frozen=True)
class Verdict:
    """A word on a claim, the sentence it rests on, the rule that gave it, and its figures.

    `readings` are words on a part of the evidence, by the name of the part: a distance, a protocol.
    `power` says how often the rule would have given each word, had the truth been another.
    Raises ValueError for a word that is none of WORDS.
    """

    claim: Claim
    word: str
    sentence: str
    rule: str
    figures: tuple[Figure, ...] = ()
    readings: dict[str, str] = field(default_factory=dict)
    power: str = ""  # what data would have given each word

    def __post_init__(self) -> None:
        for word in (self.word, *self.readings.values()):
            if word not in WORDS:
                raise ValueError(f"verdict: expected one of {', '.join(WORDS)}, got {word!r}")

    def to_dict(self) -> dict[str, Any]:
        """What JSON can hold."""
        return dataclasses.asdict(self)


def rule_text(rule: Callable[..., str]) -> str:
    """A rule as it is printed: its docstring in one line, with the values of constants for their
    names. Raises ValueError where it has none."""
    if not (text := inspect.getdoc(rule)):
        raise ValueError(f"{rule.__name__}: expected a docstring that states the rule, got none")
    known = inspect.unwrap(rule).__globals__

    def value(name: re.Match[str]) -> str:
        found = known.get(name[0], name[0])
        ends = found if isinstance(found, tuple) else (found,)
        return " to ".join(end if isinstance(end, str) else f"{end:.3g}" for end in ends)

    return " ".join(CONSTANT.sub(value, text).split())


def agreed(readings: dict[str, str]) -> str:
    """The word that all readings share, else *partly*; *to come* where there is none."""
    words = set(readings.values()) or {"to come"}
    return words.pop() if len(words) == 1 else "partly"


def to_come(claim: Claim, rule: Callable[..., str]) -> Verdict:
    """The verdict on a claim whose tables are not there."""
    return Verdict(claim, "to come", "", rule_text(rule))


def figure_of(name: str, item: fit.Estimate, **where: Any) -> Figure:
    """An estimate as a figure; `where` holds any of `model, corpus, distance, …`."""
    values = [
        float(x) if math.isfinite(x) and not item.flat else None
        for x in (item.value, item.low, item.high)
    ]
    return Figure(name, *values, int(item.n_documents), **where)


def figures_of(rows: pd.DataFrame, columns: dict[str, str], **where: str) -> tuple[Figure, ...]:
    """A figure for each estimate in some columns of a table, row by row.

    `columns`: column → name of its figures. Model, text, protocol, policy and budget are the row's,
    as far as it has such columns; `where` says what is the same in all rows.
    """
    of_row = [key for key in ("model", "corpus", "protocol", "policy", "budget") if key in rows]
    found = []
    for row in rows.to_dict("records"):
        place = {key: row[key] for key in of_row if key not in columns} | where
        found += [figure_of(name, row[column], **place) for column, name in columns.items()]
    return tuple(found)


def stored_curves(
    value: str = "kl_nats", folder: Path = store.DATA
) -> dict[tuple[str, str], fit.Curve]:
    """(model, corpus) → curve, for every stored truncation-sensitivity table."""
    tables = store.stored("sensitivity", folder)
    return {
        key: _stored_curve(tables[key], value, store.signature(tables[key]))
        for key in sorted(tables, key=lambda key: names.order(*key))
    }


def both_distances(folder: Path = store.DATA) -> dict[str, dict[tuple[str, str], fit.Curve]]:
    """Distance → the stored curves."""
    return {name: stored_curves(column, folder) for name, column in DISTANCES.items()}


@lru_cache(maxsize=64)
def _stored_curve(path: Path, value: str, _: tuple) -> fit.Curve:
    """The curve of a table, kept as long as its files are the same: several claims ask for it."""
    return fit.curve(store.load_table(path), value)


def cache_costs(study: str | None = None, folder: Path = store.DATA) -> dict[str, tuple[int, ...]]:
    """Model → bytes that a token of its 16-bit cache weighs: in layers that see everything, in
    those that see `local` tokens, and `local`. Of the models of a study, or of all; by manifests.
    """
    found = {}
    for table in store.tables(folder, study):
        if model := table.settings.get("model"):
            cost = table.model.get("cache_bytes")
            if not isinstance(cost, dict) or not {"full", "sliding", "local"} <= cost.keys():
                raise ValueError(
                    f"{table.path}: expected a manifest that says what a cached token of {model} "
                    "weighs (about, model, cache_bytes), got none"
                )
            found[model] = cost["full"], cost["sliding"], cost["local"]
    return {model: found[model] for model in sorted(found, key=names.order)}


def sizes(curves: dict[tuple[str, str], fit.Curve]) -> pd.DataFrame:
    """What stands behind each table: `model, corpus, documents, starts, pairs`."""
    return pd.DataFrame(
        [(*key, data.n_documents, data.n_starts, data.n_pairs) for key, data in curves.items()],
        columns=["model", "corpus", "documents", "starts", "pairs"],
    )


def spread(what: str, estimates: pd.Series, rows: pd.DataFrame) -> str:
    """The smallest and the largest of a column of estimates, with their intervals and n."""
    lowest, highest = fit.extremes(estimates)
    models, corpora = rows["model"].nunique(), rows["corpus"].nunique()
    return (
        f"{what} from {lowest:.2g} to {highest:.2g}; {len(rows)} pairs of {models} models and "
        f"{corpora} texts, {rows['documents'].min()} or more documents each"
    )
