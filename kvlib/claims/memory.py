"""Is it memory? How well a model foretells a text, with little in front and with all of it."""

from __future__ import annotations

import numpy as np
import pandas as pd

from kvlib import fit
from kvlib.claims.shared import BETWEEN, Shared, Tables, count_of, left_out
from kvlib.names import name_of

LITTLE = (8, 16)  # windows with little in front
CONTROLS = {"aws-docs": "newer than every model", "petrogold": "in another language"}


def losses_of_documents(one: Shared) -> pd.DataFrame:
    """Mean loss of each document in bits a character: `little`, on windows of LITTLE tokens, and
    `full`, at the same tokens with the whole context in front."""
    rows = one.rows[one.rows["window"].between(*LITTLE)].dropna(subset=["nll_nats"])
    rows = rows.assign(full=rows["nll_nats"] - rows["nll_excess_nats"])
    means = rows.groupby("doc")[["nll_nats", "full"]].mean().rename(columns={"nll_nats": "little"})
    return means.div(one.chars[means.index], axis=0) / np.log(2)


def losses(tables: Tables) -> pd.DataFrame:
    """A row a table: `model, corpus, documents`, and in bits a character, an `Estimate` each, the
    loss with `little` in front, with the `full` context, and how much that `helps`."""
    rows = []
    for (model, corpus), one in tables.items():
        means = losses_of_documents(one)
        rows.append(
            {"model": model, "corpus": corpus, "documents": len(means)}
            | {name: fit.mean_of(means[name]) for name in means}
            | {"helps": fit.mean_of(means["little"] - means["full"])}
        )
    return pd.DataFrame(rows)


def ranks(tables: Tables) -> pd.DataFrame:
    """Does a document that is foretold well with little in front have another exponent?

    A row a table: `model, corpus`, and of KL and TV the rank correlation (an `Estimate`) of the
    documents' pseudo-values of the exponent with their loss.
    """
    rows = []
    for (model, corpus), one in tables.items():
        little = losses_of_documents(one)["little"].to_numpy()
        rows.append(
            {"model": model, "corpus": corpus}
            | {
                distance: fit.rank_correlation(fit.pseudo_values(left_out(one, distance)), little)
                for distance in BETWEEN
            }
        )
    return pd.DataFrame(rows)


def facts(lost: pd.DataFrame, ranked: pd.DataFrame) -> dict[str, str]:
    least, most = fit.extremes(lost["helps"])
    best = []
    for corpus, part in lost.groupby("corpus", sort=False):
        row = min(part.to_dict("records"), key=lambda row: row["full"].value)
        best.append(f"{name_of(corpus)}: {name_of(row['model'])}, {row['full']:.2f}")
    controls = []
    for corpus, why in CONTROLS.items():
        part = lost[lost["corpus"] == corpus]
        if len(part):
            low, high = fit.extremes(part["helps"])
            controls.append(f"{name_of(corpus)}, {why}: {low:.2f} to {high:.2f}")
    items = [item for distance in BETWEEN for item in ranked[distance]]
    low, high = fit.extremes(pd.Series(items))
    return {
        "little-first": f"{LITTLE[0]}",
        "little-last": f"{LITTLE[1]}",
        "helps-least": f"{least:.2f}",
        "helps-most": f"{most:.2f}",
        "best": "; ".join(best),
        "controls": "; ".join(controls) or "neither was measured yet",
        "ranks-sure": count_of(not item.low <= 0 <= item.high for item in items),
        "ranks-least": f"{low:.2f}",
        "ranks-most": f"{high:.2f}",
    }
