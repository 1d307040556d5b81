"""Noise: the same law measured twice, and half precision beside float32 on the same documents."""

from __future__ import annotations

import numpy as np
import pandas as pd

from kvlib.claims.shared import BETWEEN, KL, TV, Tables, curve, difference
from kvlib.names import name_of

HALF = 0.06  # of an interval that tells models of one text apart


def noise(tables: Tables) -> pd.DataFrame:
    """Laws measured twice, a row a model and number format: `model, dtype, laws`, and the median
    and the largest KL (nats) and TV between the two."""
    kept = [
        one.twice.assign(model=one.model, dtype=one.dtype)
        for one in tables.values()
        if len(one.twice)
    ]
    columns = ["model", "dtype", "laws", "KL, median", "KL, largest", "TV, median", "TV, largest"]
    if not kept:
        return pd.DataFrame(columns=columns)
    rows = []
    for (model, dtype), part in pd.concat(kept).groupby(["model", "dtype"], sort=False):
        said = [getattr(part[c], how)() for c in ("kl_nats", "tv") for how in ("median", "max")]
        rows.append((model, dtype, len(part), *map(float, said)))
    return pd.DataFrame(rows, columns=columns)


def precision(tables: Tables, whole: Tables) -> pd.DataFrame:
    """By how much half precision moves an exponent: that of `tables` less that of `whole`, on the
    documents of both; a row a table that has both, `model, corpus, dtype, documents, KL, TV`."""
    rows = []
    for key, exact in whole.items():
        if key not in tables or tables[key].dtype == exact.dtype:
            continue
        moved = {d: difference(tables[key], [exact], d) for d in BETWEEN}
        where = {"model": key[0], "corpus": key[1], "dtype": tables[key].dtype}
        rows.append(where | {"documents": moved[KL].n_documents} | moved)
    return pd.DataFrame(rows, columns=["model", "corpus", "dtype", "documents", *BETWEEN])


def documents(powers: pd.DataFrame, half: float = HALF) -> pd.DataFrame:
    """How many documents an interval of ± `half` takes, a row a table of `shared.exponents`.

    `model, corpus, documents`, and for KL and TV the half-width at hand and the documents that
    would do: n (half-width / half)^2, for the spread between documents is what makes it.
    """
    rows = []
    for row in powers.to_dict("records"):
        if any(row[distance].flat for distance in BETWEEN):  # no exponent
            continue
        found = {key: row[key] for key in ("model", "corpus", "documents")}
        for distance in BETWEEN:
            width = (row[distance].high - row[distance].low) / 2
            found[f"{distance}, ±"] = round(width, 3)
            found[f"{distance}, documents"] = int(np.ceil(row["documents"] * (width / half) ** 2))
        rows.append(found)
    return pd.DataFrame(rows)


def documents_facts(powers: pd.DataFrame) -> dict[str, str]:
    needed, found = documents(powers), {"half-width": f"{HALF}"}
    for distance in BETWEEN:
        key, wanted = distance.lower(), needed[f"{distance}, documents"]
        worst = needed.loc[wanted.idxmax()]
        found |= {
            f"narrow-{key}": f"{(needed[f'{distance}, ±'] <= HALF).sum()} of {len(needed)}",
            f"docs-middle-{key}": f"{wanted.median():.0f}",
            f"docs-worst-{key}": f"{wanted.max():,} ({name_of(worst['model'])} on "
            f"{name_of(worst['corpus'])})",
        }
    return found


def facts(tables: Tables, whole: Tables) -> dict[str, str]:
    twice, moved = noise(tables), precision(tables, whole)
    said = [
        f"{dtype}: {part['KL, median'].max():.2g} nats and {part['TV, median'].max():.2g} at the "
        f"median, {part['KL, largest'].max():.2g} and {part['TV, largest'].max():.2g} at most"
        for dtype, part in twice.groupby("dtype", sort=False)
    ]
    shares = [
        one.twice["kl_nats"].median() / curve(one, KL).mean[-1]
        for one in tables.values()
        if len(one.twice)
    ]
    shifts = [
        f"{name_of(row['model'])} on {name_of(row['corpus'])}: {row[KL]:.3f} in KL, "
        f"{row[TV]:.3f} in TV ({row['documents']} documents)"
        for row in moved.to_dict("records")
    ]
    return {
        "noise": "; ".join(said) or "no law was measured twice yet",
        "noise-share": f"{100 * max(shares, default=0):.2g}%",
        "precision": "; ".join(shifts) or "no table was measured in both yet",
    }
