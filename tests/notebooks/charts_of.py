"""What the charts of a page hold, kept small, and compared with a tolerance.

Of each chart everything is kept that the browser gets: its spec, its tables, its controls. Numbers
that are no whole numbers are kept to `KEPT` digits and may differ by a share of `TOLERANCE`.
"""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import Any

import reading
from kvbook import outputs

HERE = Path(__file__).parent
TOLERANCE = 1e-6  # of a number's size
ZERO = 1e-12  # what is smaller is nothing
KEPT = 8  # significant digits


def charts(page: Path) -> list[dict[str, Any]]:
    """What each chart of an executed page holds, in order; tables are named by their place."""
    found = []
    for cell in outputs.code_cells(outputs.executed(page)):
        for output in cell.outputs:
            html = output.get("data", {}).get("text/html", "")
            found += [unnamed(json.loads(data)) for data in reading.payloads_of(html)]
    return found


def unnamed(payload: dict[str, Any]) -> dict[str, Any]:
    """The chart with its tables called by their place: Altair names them by a hash of the rows."""
    text = json.dumps(payload)
    for place, name in enumerate(payload.get("tables", {})):
        text = text.replace(json.dumps(name), f'"table {place}"')
    return json.loads(text)


def kept(page: Path) -> Path:
    """Where what a page's charts hold is kept."""
    return HERE / "charts" / f"{page.stem}.json.gz"


def shortened(value: Any) -> Any:
    """The same with `KEPT` digits a number."""
    if isinstance(value, dict):
        return {name: shortened(item) for name, item in value.items()}
    if isinstance(value, list):
        return [shortened(item) for item in value]
    return float(f"{value:.{KEPT}g}") if isinstance(value, float) else value


def write(page: Path) -> None:
    """Keep what a page's charts hold; the same bytes for the same charts."""
    kept(page).parent.mkdir(exist_ok=True)
    text = json.dumps(shortened(charts(page)), separators=(",", ":"), ensure_ascii=False)
    kept(page).write_bytes(gzip.compress(text.encode(), mtime=0))


def load(page: Path) -> list[dict[str, Any]]:
    """What was kept of a page's charts."""
    return json.loads(gzip.decompress(kept(page).read_bytes()))


def difference(expected: Any, found: Any, where: str = "charts") -> str:
    """The first place at which two charts differ, in words; nothing when they agree."""
    if isinstance(expected, bool | str | None) or isinstance(found, bool | str | None):
        same = expected == found and type(expected) is type(found)
    elif isinstance(expected, dict) and isinstance(found, dict):
        if list(expected) == list(found):
            parts = (difference(expected[k], found[k], f"{where}.{k}") for k in expected)
            return next(filter(None, parts), "")
        same, expected, found = False, list(expected), list(found)
    elif isinstance(expected, list) and isinstance(found, list):
        if len(expected) == len(found):
            pairs = enumerate(zip(expected, found, strict=True))
            parts = (difference(one, other, f"{where}[{k}]") for k, (one, other) in pairs)
            return next(filter(None, parts), "")
        same, expected, found = False, f"{len(expected)} items", f"{len(found)} items"
    elif isinstance(expected, int | float) and isinstance(found, int | float):
        same = math.isclose(expected, found, rel_tol=TOLERANCE, abs_tol=ZERO)
    else:
        same = False
    return "" if same else f"{where}: expected {expected}, got {found}"
