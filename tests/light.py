"""A kind of table that measures nothing and takes milliseconds, in the place of `calibration`.

`plant` puts it there in this process; a worker of Dask that preloads this file has it from its
start. A study with seed 13 cannot be prepared, as if a model were missing; document 7 of a study
with seed 7 fails.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd

PLACE = "kvlib.fit.calibration"
SECONDS = 0.02  # that a document takes on a worker


def checked(settings: dict[str, Any], docs: int) -> dict[str, Any]:
    """The settings, with the hash of a model that there is not."""
    return settings | {"model_sha256": os.environ.get("LIGHT_MODEL", "a" * 64)}


def item_rows(lm: None, text: None, settings: dict[str, Any], docs: int):
    """The number of a document → its rows."""
    if settings["seed"] == 13:
        raise OSError("cannot load 'a-model': expected a folder, got none")

    def rows(doc: int) -> pd.DataFrame:
        time.sleep(SECONDS)
        if settings["seed"] == doc == 7:
            raise ArithmeticError("expected finite logits, got NaN")
        values = np.random.default_rng([settings["seed"], doc]).random(40)
        return pd.DataFrame({"doc": np.int16(doc), "window": np.arange(40), "kl_nats": values})

    return rows


def plant(modules: dict[str, Any]) -> None:
    """Put this kind where that of the calibration is."""
    module = ModuleType(PLACE)
    module.checked, module.item_rows = checked, item_rows
    modules[PLACE] = module


def dask_setup(worker: object) -> None:
    """What Dask calls on a worker that preloads this file."""
    plant(sys.modules)


def declared(folder: Path, seeds: list[int]) -> Path:
    """A file of studies of this kind, a table of twelve documents a seed."""
    file = folder / "mine.toml"
    text = f'[[study]]\ntable = "t-{{seed}}"\nkind = "calibration"\nseed = {seeds}\n'
    file.write_text(text, encoding="utf-8")
    return file


def undisturbed(seed: int) -> pd.DataFrame:
    """The table that a study of this seed is."""
    rows = item_rows(None, None, {"seed": seed}, 12)
    return pd.concat([rows(doc) for doc in range(12)], ignore_index=True)


def left(folder: Path) -> set[str]:
    """All files and folders, but for tables, manifests and declarations."""
    known = (".parquet", ".json", ".toml")
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.parent != folder or path.name.startswith(".") or path.suffix not in known
    }
