"""The story in fifteen minutes: its passage, the plan of a cache, and what its prose says."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from kvlib import fit, names, store
from kvlib.claims.claim import MIN_WINDOW
from kvlib.claims.open_question import SAME_BUDGET
from kvlib.claims.policy_rows import SINKS
from kvlib.names import name_of


def stored_passage(folder: Path = store.DATA) -> pd.DataFrame:
    """The stored passage: where there are several, the first in the order of the book."""
    tables = store.stored("passage", folder)
    if not tables:
        raise ValueError(f"{folder}: expected a table of the study passage, found none")
    return store.load_table(tables[min(tables, key=lambda key: names.order(*key))])


POLICY, PROTOCOL = SINKS, "online"
KEYS = ["model", "corpus"]


class Plan(NamedTuple):
    """A budget that keeps a distortion; `budget` None when no measured one does."""

    budget: int | None
    mean: float
    low: float
    high: float
    documents: int


def plan(summary: pd.DataFrame, model: str, corpus: str, epsilon: float) -> Plan:
    """The least measured budget whose mean KL is vouched to be at most `epsilon` nats.

    `summary` is what `kvlib.claims.policy_rows.summary` returns; sinks and recent tokens, online.
    With no such budget, the figures are those of the largest. Raises ValueError for an ε that
    is not positive, or a model and text that were not measured.
    """
    if not epsilon > 0:
        raise ValueError(f"epsilon: expected more than 0 nats, got {epsilon}")
    rows = _rows(summary).query("model == @model and corpus == @corpus")
    if rows.empty:
        known = sorted(set(_rows(summary)[KEYS].itertuples(index=False, name=None)))
        raise ValueError(f"plan: expected one of {known}, got {(model, corpus)}")
    good = rows[rows["worst"] <= epsilon]
    row = (good if len(good) else rows.tail(1)).iloc[0]
    budget = int(row["budget"]) if len(good) else None
    return Plan(budget, row["mean"], row["low"], row["high"], int(row["documents"]))


def plan_rows(summary: pd.DataFrame, costs: dict[str, tuple[int, int, int]]) -> pd.DataFrame:
    """What the plan's chart needs, a row a model, text and budget.

    `costs`: model → bytes a token (full, sliding, local), as `kvlib.models.cache_cost`. Columns:
    `source` (a name), `budget, mean, low, high, p95, documents`, `worst` (the largest `high` of
    this and all larger budgets), `megabytes` (one sequence, 16-bit numbers, as `BoundedCache` holds
    them: so many entries in every layer, sliding ones too).
    """
    table = _rows(summary)
    table["source"] = [
        f"{name_of(model)} on {name_of(corpus)}"
        for model, corpus in zip(table["model"], table["corpus"], strict=True)
    ]
    cost = np.array([costs[model] for model in table["model"]])
    table["megabytes"] = (cost[:, 0] + cost[:, 1]) * table["budget"] / 1e6
    columns = ["source", "budget", "mean", "low", "high", "p95", "documents", "worst", "megabytes"]
    return table[columns]


def _rows(summary: pd.DataFrame) -> pd.DataFrame:
    """Rows of the planned policy, budgets ascending, with `worst`."""
    ours = summary[(summary["policy"] == POLICY) & (summary["protocol"] == PROTOCOL)]
    ours = ours.sort_values("budget", kind="stable", ignore_index=True)
    worst = ours[::-1].groupby(KEYS, sort=False)["high"].cummax()
    order = pd.Index(summary[KEYS].apply(tuple, axis=1).unique())
    place = pd.Series(order.get_indexer(ours[KEYS].apply(tuple, axis=1)), ours.index)
    return ours.assign(worst=worst, place=place).sort_values(["place", "budget"])


# --- the values of the page's prose ---------------------------------------------------------------


def facts(curves: dict[tuple[str, str], fit.Curve]) -> dict[str, str]:
    """Name → text of every value that the page glues; `curves` are the stored ones."""
    exponents = [fit.exponent(data.between(MIN_WINDOW)) for data in curves.values()]
    flattest, steepest = fit.extremes(pd.Series(exponents))
    middle = float(np.median([10 ** (1 / item.value) for item in exponents]))
    return {
        "cheapest": f"{10 ** (1 / steepest.value):.0f}",
        "middle": f"{float(f'{middle:.2g}'):,.0f}",  # to two digits
        "steepest": f"{steepest:.2g}",
        "flattest": f"{flattest:.2g}",
        "n-tables": str(len(exponents)),
    }


def carry_facts(ratios: pd.DataFrame) -> dict[str, str]:
    """How a cache with sinks, online, compares with a suffix of equal budget read from scratch, in
    KL at most: on the model where it compares worst, and on the others. `ratios` are what
    `kvlib.claims.open_question.carrying` returns."""
    ours = ratios[(ratios["distance"] == "KL") & (ratios["window"] == SAME_BUDGET)]
    value = ours["ratio"].map(lambda item: item.value)
    worst = ours.loc[value.idxmax()]
    rest = ours[ours["model"] != worst["model"]]
    return {
        "carry-worst": f"{worst['ratio']}",
        "carry-worst-name": name_of(worst["model"]),
        "carry-rest": f"{rest.loc[value[rest.index].idxmax(), 'ratio']}",
        "carry-budgets": f"{ours['budget'].min()} to {ours['budget'].max()}",
    }


FRONT_BUDGET = 256  # entries of the cache that the front page speaks of


def front_facts(
    curves: dict[tuple[str, str], fit.Curve],
    summary: pd.DataFrame,
    costs: dict[str, tuple[int, int, int]],
) -> dict[str, str]:
    """What the front page says was found: the price of less error, and one good cache.

    `curves` are the stored ones, `summary` and `costs` what `plan_rows` takes. The cache is that of
    the first model and text.
    """
    table = plan_rows(summary, costs)
    row = table[table["budget"] == FRONT_BUDGET].iloc[0]
    price = facts(curves)
    return {name: price[name] for name in ("cheapest", "middle", "n-tables")} | {
        "front-budget": f"{FRONT_BUDGET}",
        "front-source": row["source"],
        "front-kl": f"{row['mean']:.2g}",
        "front-megabytes": f"{row['megabytes']:.2g}",
    }
