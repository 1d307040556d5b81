"""Other roads to the exponent: the excess loss, and the information between neighbouring blocks."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from kvlib import fit
from kvlib.claims.shared import (
    KL,
    LONG,
    LOSS,
    Shared,
    Tables,
    count_of,
    curve,
    estimate_of,
    left_out,
    same_documents,
    surely,
)
from kvlib.names import name_of

BLOCKS = 8  # tokens of the shortest neighbouring blocks


def block_lengths(last: float) -> np.ndarray:
    """Lengths of neighbouring blocks: BLOCKS, twice that, …, as far as windows up to `last` go."""
    lengths = BLOCKS * 2 ** np.arange(20)
    return lengths[2 * lengths - 1 <= last]


def information(losses_at: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Σ over w = 1 … L-1 of D(w) - D(w+L), in nats, for each length L of a block.

    What a block of L tokens says about the next one: a token with w of its own block in front is
    foretold from these, or from L more. `losses_at` (windows,) is D at windows 1, 2, …; a block's
    first token, with nothing in front, is left out. The terms of the finite reference cancel. It is
    the mutual information where D is a Bayes risk. [Our reconstruction, by the chain rule.]
    """
    d = losses_at
    return np.array([(d[: n - 1] - d[n : 2 * n - 1]).sum() for n in lengths])


def growth(losses_at: np.ndarray, lengths: np.ndarray) -> float:
    """The exponent with which `information` grows: its slope, both logarithmic."""
    return float(np.polyfit(np.log(lengths), np.log(information(losses_at, lengths)), 1)[0])


def growth_of(data: fit.Curve) -> float:
    """`growth` of a measured curve, read on straight lines between its bins (both logarithmic)."""
    windows = np.arange(1, int(data.window[-1]) + 1)
    read = np.exp(np.interp(np.log(windows), np.log(data.window), np.log(data.mean)))
    return growth(read, block_lengths(data.window[-1]))


def growth_of_law(alpha: float, last: float) -> float:
    """`growth` of (w + 1)^-α at the same lengths: 1 - α only where blocks are endless."""
    return growth((np.arange(1, int(last) + 1) + 1.0) ** -alpha, block_lengths(last))


def roads(tables: Tables) -> pd.DataFrame:
    """Other roads to the exponent, a row a table, an `Estimate` each.

    `model, corpus, KL, excess loss`; `excess minus KL`, paired; `excess / KL`, of the means over
    windows from LONG on; `1 - α` of KL; `blocks`, the growth exponent of the information between
    neighbouring blocks; `law`, that of KL's law at the same lengths; `blocks minus law`, paired.
    """
    rows = []
    for (model, corpus), one in tables.items():
        data, alphas, loss = curve(one, KL), left_out(one, KL), left_out(one, LOSS)
        last = data.window[-1]
        grown = np.array([growth_of(part) for part in data.leaving_out()])
        law = np.array([growth_of_law(alpha, last) for alpha in alphas])
        gap = loss - alphas
        rows.append(
            {"model": model, "corpus": corpus}
            | {KL: estimate_of(alphas), LOSS: estimate_of(loss)}
            | {"excess minus KL": estimate_of(gap) if np.isnan(gap).any() else _shift(gap)}
            | {"excess / KL": _worth(one)}
            | {"1 - α": _shift(1 - alphas), "blocks": _shift(grown), "law": _shift(law)}
            | {"blocks minus law": _shift(grown - law)}
        )
    return pd.DataFrame(rows)


def good_readers(other: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Text → the rows of `roads` whose changes of law are surely worth more than half; of texts
    that have two such readers or more."""
    good = other[[item.low > 0.5 for item in other["excess / KL"]]]
    return {corpus: part for corpus, part in good.groupby("corpus", sort=False) if len(part) > 1}


def on_the_same(tables: Tables, corpus: str, models: Iterable[str]) -> tuple[list[float], int]:
    """The exponents of KL of some models on the documents of a text that all of them read, and how
    many these are."""
    parts = [tables[model, corpus] for model in models]
    docs = same_documents(parts)
    return [float(left_out(one, KL, docs)[0]) for one in parts], len(docs)


def _worth(one: Shared) -> fit.Estimate:
    """Mean excess loss over mean KL on the long windows: what a change of the law was worth."""
    long = one.rows[one.rows["window"] >= LONG].dropna(subset=["nll_excess_nats"])
    means = long.groupby("doc")[["nll_excess_nats", "kl_nats"]].mean()
    return fit.ratio(means["nll_excess_nats"].to_numpy(), means["kl_nats"].to_numpy())


def _shift(values: np.ndarray) -> fit.Estimate:
    return fit.jackknife(values[0], values[1:])


def facts(tables: Tables, other: pd.DataFrame) -> dict[str, str]:
    gaps = [item for item in other["excess minus KL"] if not item.flat]
    worth = fit.extremes(other["excess / KL"])
    least, most = (
        other.loc[[item is end for item in other["excess / KL"]]].iloc[0] for end in worth
    )
    good = []
    for corpus, part in good_readers(other).items():
        values, docs = on_the_same(tables, corpus, part["model"])
        span = f"{min(values):.2f} to {max(values):.2f}"
        good.append(f"{name_of(corpus)}: {span} ({len(values)} models, {docs} documents)")
    lengths = block_lengths(max(curve(one, KL).window[-1] for one in tables.values()))
    naive = [
        row["1 - α"].low <= row["blocks"].high and row["blocks"].low <= row["1 - α"].high
        for row in other.to_dict("records")
    ]
    return {
        "excess-hold": count_of(item.low <= 0 <= item.high for item in gaps),
        "excess-above": count_of(surely(gaps, 1)),
        "long-window": f"{LONG}",
        "worth-least": f"{worth[0]:.2f} ({_where(least)})",
        "worth-most": f"{worth[1]:.2f} ({_where(most)})",
        "good": "; ".join(good) or "no text has two such readers yet",
        "block-first": f"{lengths[0]}",
        "block-last": f"{lengths[-1]}",
        "blocks-naive": count_of(naive),
        "blocks-law": count_of(item.low <= 0 <= item.high for item in other["blocks minus law"]),
        "blocks-below": count_of(surely(other["blocks minus law"], -1)),
    }


def _where(row: pd.Series) -> str:
    return f"{name_of(row['model'])} on {name_of(row['corpus'])}"
