"""What was found when stored tables were put to the test: small files beside them, a row a table or
a model, so that a part can be done again; and what the page `reproduce` says of them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from kvlib import names, store, study

VERIFIED_KINDS = ("truncation_sensitivity", "policy_distortion", "positions")  # as `verify` does
Rows = list[dict[str, Any]]


def file_of(name: str, folder: Path = store.DATA) -> Path:
    """Where a check of a folder's tables is kept: `verified`, `deaths` or `deaths_whole`."""
    return folder / "checks" / f"{name}.json"


def rows_of(file: Path) -> Rows:
    """The rows of a file; none where there is none."""
    return json.loads(file.read_text(encoding="utf-8"))["rows"] if file.exists() else []


def keep(row: dict[str, Any], key: str, file: Path) -> None:
    """Put a row into a file, in the place of that of the same `key`; rows are sorted by it."""
    rows = {one[key]: one for one in rows_of(file)} | {row[key]: row}
    lines = ",\n".join(json.dumps(rows[name], ensure_ascii=False) for name in sorted(rows))
    text = f'{{"rows": [\n{lines}\n]}}\n'
    store.write_atomically(file, lambda new: new.write_text(text, encoding="utf-8"))


# --- rows measured anew -------------------------------------------------------------------------


def verified() -> Rows:
    """What `kvlib verify --record` has kept of the book's tables."""
    return rows_of(file_of("verified"))


def floors(rows: Rows) -> pd.DataFrame:
    """The noise floor of each model and format: the largest gap between stored rows and the same
    rows measured another way; of policies that rank entries by scores, between means over rows."""
    parts: dict[tuple, Rows] = {}
    for row in rows:
        what = row["model"], row["dtype"], "means" if row["of_means"] else "rows"
        parts.setdefault((names.order(row["model"])[0], what), []).append(row)
    table = []
    for (_, (model, dtype, compared)), some in sorted(parts.items()):
        said = {"format": dtype, "compared": compared, "tables": len(some)}
        table.append({"model": names.name_of(model)} | said | _worst(some))
    return pd.DataFrame(table).set_index("model")


def each(rows: Rows) -> pd.DataFrame:
    """The same table by table, with what is allowed."""
    found = [
        {"table": row["table"]} | _worst([row]) | {"allowed (nats, and TV)": row["allowed"]}
        for row in rows
    ]
    return pd.DataFrame(found).set_index("table")


def _worst(rows: Rows) -> dict[str, Any]:
    """The largest gaps of some tables, and the largest share of what was allowed."""
    gaps = {key: max(row["gap"][key] for row in rows) for key in ("kl_nats", "tv")}
    return {
        "rows": sum(row["rows"] for row in rows),
        "KL (nats)": gaps["kl_nats"],
        "TV": gaps["tv"],
        "of what is allowed": f"{max(row['share'] for row in rows):.0%}",
    }


# --- workers that died --------------------------------------------------------------------------


def killed(whole: bool = False) -> Rows:
    """What `make deaths` has kept, a row a model: of tables in little, or of `whole` ones."""
    return rows_of(file_of("deaths_whole" if whole else "deaths"))


def facts(rows: Rows, died: Rows, died_whole: Rows) -> dict[str, str]:
    """What the page's prose glues: of rows measured anew, and of workers that died over tables in
    little and over whole ones."""
    tables = len([one for one in study.studies() if one.kind in VERIFIED_KINDS])
    return {
        "verified": f"{sum(row['word'] == 'ok' for row in rows)}",
        "verified-of": f"{tables}",
        "verified-rows": f"{sum(row['rows'] for row in rows)}",
        "died-of": f"{len(study.studies())}",
        **_died(died, "died"),
        **_died(died_whole, "whole"),
    }


def _died(rows: Rows, name: str) -> dict[str, str]:
    """Tables, documents, rows and deaths in all; how many differ, and how much was left behind."""
    counted = ("tables", "documents", "rows", "deaths")
    found = {
        **{key: f"{sum(row[key] for row in rows):,}" for key in counted},
        "different": f"{sum(len(row['different']) for row in rows) or 'none'}",
        "left": f"{sum(len(row['left']) for row in rows) or 'nothing'}",
    }
    return {f"{name}-{key}": said for key, said in found.items()}
