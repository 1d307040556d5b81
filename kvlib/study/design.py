"""Documents, starts and rows to measure: proposed from stored rows and a calibration here."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd

from kvlib.fit.allocation import Components, Plan, best, components, plan
from kvlib.measure import costs
from kvlib.measure.truncation import PAIRS_PER_OCTAVE, design_for
from kvlib.models import LanguageModel

PAIRS = (64, 128, 256, 512, 1024)
THINS = (1, 2, 4, 8, 16)
UNSAID = {"pairs_per_octave": PAIRS_PER_OCTAVE, "thin": 1}  # the design when nothing is said


def checked(table: pd.DataFrame, max_window: int, seq_len: int) -> Components:
    """The components of a table's slope of KL; ValueError unless its octaves are the design's."""
    found = components(table)
    octaves = [top for _, top in design_for(seq_len, max_window, 1, 0).octaves()]
    if found.tops.tolist() != octaves[-len(found.tops) :]:
        raise ValueError(
            f"like: expected a table with windows to {max_window}, got octaves of windows to "
            f"{found.tops.tolist()}"
        )
    return found


def calibrated(lm: LanguageModel, max_window: int, seq_len: int) -> costs.Seconds:
    """What each kind of pass and a row cost, for documents and windows of these lengths."""
    tops = [top for _, top in design_for(seq_len, max_window, 1, 0).octaves()]
    return costs.calibrated(lm, seq_len, tops)


def proposals(
    table: pd.DataFrame, spent: costs.Seconds, seconds: float, max_window: int, seq_len: int
) -> dict[str, Plan]:
    """The `best` of all densities of starts with all thinnings for the slope of KL, and the
    `unsaid` one, of a study whose settings are the defaults."""
    found = checked(table, max_window, seq_len)
    plans = [
        planned(found, spent, seconds, max_window, seq_len, pairs, thin)
        for pairs, thin in itertools.product(PAIRS, THINS)
    ]
    unsaid = next(one for one in plans if one.settings == UNSAID)
    return {"best": best(plans), "unsaid": unsaid}


def planned(
    found: Components,
    spent: costs.Seconds,
    seconds: float,
    max_window: int,
    seq_len: int,
    pairs: int,
    thin: int,
) -> Plan:
    """One design. Octaves below those of the components cost their time and bear no variance."""
    counted = costs.counts(design_for(seq_len, max_window, pairs, 0, thin))
    each = spent.document + counted.targets * spent.row
    for top, starts in counted.starts.items():
        each += starts * (spent.starts[top] + counted.rows[top] * spent.row)
    tops = list(counted.starts)[-len(found.tops) :]
    starts, rows = (np.array([of[top] for top in tops]) for of in (counted.starts, counted.rows))
    settings = {"pairs_per_octave": pairs, "thin": thin}
    return plan(settings, starts, rows, each, found, seconds)


def told(plans: dict[str, Plan], spent: costs.Seconds) -> str:
    """The costs, and a line for each proposal with the flags that `kvlib measure` takes."""
    lines = [
        f"a document's reference {spent.document:.2f} s, a start of {max(spent.starts)} tokens "
        f"{spent.starts[max(spent.starts)]:.2f} s, a row {1000 * spent.row:.1f} ms"
    ]
    for name, one in plans.items():
        settings = " ".join(
            f"--{key.replace('_', '-')} {value}" for key, value in one.settings.items()
        )
        lines.append(
            f"{name}: --docs {one.documents} {settings} ({one.seconds_a_document:.1f} s each; "
            f"then the 95% interval of the slope of KL is about ±{one.half_width:.3f})"
        )
    return "\n".join(lines)
