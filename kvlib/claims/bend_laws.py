"""The laws of every bend beside the measured curves: what a reader bends on the page on C2."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from kvlib import fit

BENDS = tuple(k / 20 for k in range(21))  # from a power law to an exponential
KINDS = {"reference": "a finite reference", "plain": "no bracket"}  # by columns of the bends

Curves = dict[str, dict[tuple[str, str], fit.Curve]]


def measured(curves: Curves, min_window: int) -> pd.DataFrame:
    """What the laws are fitted to: `model, corpus, distance, window, mean, documents`."""
    return pd.DataFrame(
        {"model": model, "corpus": corpus, "distance": distance}
        | {"window": window, "mean": mean, "documents": data.n_documents}
        for distance, of_tables in curves.items()
        for (model, corpus), data in of_tables.items()
        for part in (data.between(min_window),)
        for window, mean in zip(part.window, part.mean, strict=True)
    )


def laws(
    curves: Curves, bends: pd.DataFrame, min_window: int, grid: Sequence[float] = BENDS
) -> pd.DataFrame:
    """For each table, distance, kind and b of the grid the law that fits best, as `fit.BentLaw`.

    `bends` has the intervals of b from the same windows on, columns `model, corpus, distance` and
    those of KINDS. Columns: `model, corpus, distance, kind`, `low, high` (of b) and those of a law.
    """
    found = []
    for row in bends.to_dict("records"):
        place = {key: row[key] for key in ("model", "corpus", "distance")}
        data = curves[row["distance"]][row["model"], row["corpus"]].between(min_window)
        for kind in KINDS:
            ends = {"low": row[kind].low, "high": row[kind].high}
            for b in grid:
                law = fit.bent_law(data, b, kind == "reference", row["distance"] == "TV")
                found.append(place | {"kind": kind} | ends | vars(law))
    return pd.DataFrame(found)
