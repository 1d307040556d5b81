"""Parts into tables: those of this folder, and those that a job array left in others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from kvlib import store
from kvlib.study.declared import Study
from kvlib.study.states import difference

Marks = list[dict[str, Any]]


def merge(study: Study, command: str, folders: Sequence[Path] = ()) -> bool:
    """Take in the parts that other folders hold of a table, and join it when no document is
    missing. Says whether the table is complete now.

    Raises ValueError with one line: parts of other settings, model, text or code than the rest,
    with the part or folder that differs; a folder that no measurement made; damage.
    """
    found = [study.path, *(folder / study.table for folder in folders)]
    begun = [said for path in found if (said := store.begun(path))]
    if not begun:
        return store.table_file(study.path, ".json").exists() and study.docs <= len(
            store.progress(study.path).done
        )
    settings, about = begun[0]["settings"], begun[0].get("about")
    if other := difference(study, settings):
        raise ValueError(
            f"{study.path}: expected parts of this study, got some of other {', '.join(other)}"
        )
    with store.Measurement(study.path, settings, study.docs, about=about) as measurement:
        for path in found[1:]:
            measurement.take(path)
        if measurement.missing():
            return False
        if about is None:
            raise ValueError(
                f"{measurement.parts}: expected parts that say what is known of model and text, "
                f"got some of an earlier version; `kvlib study {study.table}` joins them"
            )
        measurement.finish(run_of(command), study.label, about)
    return True


def run_of(command: str) -> Callable[[Marks], dict[str, Any]]:
    """What a manifest says of the runs that made parts: all devices and versions there were."""

    def told(marks: Marks) -> dict[str, Any]:
        runs = [mark["run"] for mark in marks if "run" in mark]
        made = store.run_of(command, _all(run["device"] for run in runs) or "unknown")
        if runs:
            made["python"] = _all(run["python"] for run in runs)
            made["versions"] = {
                name: _all(run["versions"].get(name, "not installed") for run in runs)
                for name in made["versions"]
            }
        return made

    return told


def _all(said: Any) -> str:
    return ", ".join(sorted(set(said)))
