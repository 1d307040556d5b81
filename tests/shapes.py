"""How annotations are held to in tests: shapes to the letter, NumPy's numbers as numbers."""

from __future__ import annotations

import numpy as np
from beartype import BeartypeConf, FrozenDict, beartype

held = beartype(
    conf=BeartypeConf(
        hint_overrides=FrozenDict(
            {
                int: int | np.integer,
                float: float | int | np.floating | np.integer,
                complex: complex | float | int | np.number,
            }
        )
    )
)
