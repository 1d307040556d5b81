"""Which models and texts stand behind the book: what the manifests of its tables say."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from kvlib import names, store


def models(folder: Path = store.DATA) -> pd.DataFrame:
    """A row a model, the smallest first: `model, parameters, what it is, licence`."""
    found = {t.settings["model"]: t.model for t in store.tables(folder) if "model" in t.settings}
    rows = [
        {"model": key, "parameters": about["parameters"]}
        | {"what it is": about["description"], "licence": about["licence"]}
        for key, about in found.items()
    ]
    return pd.DataFrame(rows).sort_values("parameters", ignore_index=True)


def texts(folder: Path = store.DATA) -> pd.DataFrame:
    """A row a text, in the book's order: `text, where it is from, licence`."""
    tables = [t for t in store.tables(folder) if "corpus" in t.settings]
    found = {t.settings["corpus"]: t.manifest["about"]["corpus"] for t in tables}
    return pd.DataFrame(
        {"text": key, "where it is from": found[key]["source"], "licence": found[key]["licence"]}
        for key in sorted(found, key=names.order)
    )


def shown(rows: pd.DataFrame) -> pd.DataFrame:
    """A table for a page: by name, parameters in millions."""
    table = rows.copy()
    first = table.columns[0]
    table[first] = table[first].map(names.name_of)
    if "parameters" in table:
        table["parameters"] = [f"{n / 1e6:,.0f} million" for n in table["parameters"]]
    return table.set_index(first).rename_axis(index=None, columns=first)


def facts(folder: Path = store.DATA) -> dict[str, str]:
    """What prose says of them."""
    rows = models(folder)
    families = {t.model["family"] for t in store.tables(folder) if "model" in t.settings}
    sizes = [f"{n / 1e6:,.0f} million" for n in rows["parameters"].iloc[[0, -1]]]
    return {
        "models": f"{len(rows)}",
        "families": f"{len(families)}",
        "texts": f"{len(texts(folder))}",
        "least-parameters": sizes[0],
        "most-parameters": sizes[1],
    }
