"""Simulated studies of the stored curves: what C2's rule would say, were the law another.

Each item is one stored table of truncation sensitivity in one distance. `fit.studies` draws studies
of its design around laws of a given bend and fits each as the real one is fitted. The two distances
of a study share their random numbers, as those of a real one share their documents.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from kvlib import store
from kvlib.claims.claim import stored_curves
from kvlib.fit import studies

DISTANCES = ("kl_nats", "tv")
AT_ONCE = 100  # studies drawn from one seed


def checked(settings: dict[str, Any], docs: int) -> dict[str, Any]:
    """The settings of a study of this kind, with the tables it starts from; its documents are those
    tables in both distances."""
    found = [table.manifest["sha256"] for table in store.tables(study="sensitivity")]
    if docs != len(DISTANCES) * len(found):
        raise ValueError(
            f"docs: expected {len(DISTANCES) * len(found)}, one a table and distance, got {docs}"
        )
    if settings["studies"] < 1:
        raise ValueError(f"studies: expected at least 1, got {settings['studies']}")
    if not settings["truths"] or not all(0 <= b <= 2 for b in settings["truths"]):
        raise ValueError(f"truths: expected bends from 0 to 2, got {settings['truths']}")
    return settings | {"tables_sha256": found}


def item_rows(
    lm: None, text: None, settings: dict[str, Any], docs: int
) -> Callable[[int], pd.DataFrame]:
    """The number of a table and distance → its simulated studies."""
    items = [
        (key, distance, place)
        for distance in DISTANCES
        for place, key in enumerate(stored_curves(distance))
    ]

    def rows(number: int) -> pd.DataFrame:
        (model, corpus), distance, place = items[number]
        data = stored_curves(distance)[model, corpus].between(settings["first"])
        parts = []
        for done in range(0, settings["studies"], AT_ONCE):
            part = studies.bends(
                data,
                root=distance == "tv",
                n=min(AT_ONCE, settings["studies"] - done),
                seed=settings["seed"] + 1_000_000 * (place + 1) + 17 * done,
                truths=tuple(settings["truths"]),
            )
            parts.append(part.assign(study=part["study"] + done))
        table = pd.concat(parts, ignore_index=True)
        table = table.astype({name: np.float32 for name in ("b", "low", "high")})
        table = table.astype({"study": np.int16})
        place_of = {"model": model, "corpus": corpus, "distance": distance}
        return table.assign(**place_of, documents=np.int16(data.n_documents), doc=np.int16(number))

    return rows
