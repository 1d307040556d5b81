"""What there is of a study: its state in a word, and document by document."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from kvlib import store
from kvlib.study.declared import Study


class State(NamedTuple):
    """Documents done, rows, and `complete`, `begun`, `missing`, `damaged`, `older layout` or
    `other …`, with the settings that differ."""

    done: int
    rows: int
    word: str


def state(study: Study) -> State:
    """What there is of a table, without measuring or loading anything."""
    parts = list(store.table_file(study.path, ".parts").glob("[0-9]*.parquet"))
    if not store.table_file(study.path, ".json").exists():
        return State(len(parts), 0, "begun" if parts else "missing")
    try:
        manifest = store.checked_manifest(study.path)
    except (ValueError, OSError) as error:
        return State(0, 0, "older layout" if "manifest of layout" in str(error) else "damaged")
    found = manifest["documents"], manifest["rows"]
    if other := difference(study, manifest["settings"]):
        return State(*found, f"other {', '.join(other)}")
    return State(*found, "begun" if found[0] < study.docs or parts else "complete")


def difference(study: Study, settings: dict[str, Any]) -> list[str]:
    """Which declared settings those of a table or of parts are not."""
    ours = {"kind": study.kind} | study.settings
    if "corpus" in ours:
        ours["corpus"] = Path(ours["corpus"]).name  # what a manifest says of a file
    return [key for key, value in ours.items() if settings.get(key) != value]


# --- document by document -------------------------------------------------------------------------


class Status(NamedTuple):
    """Documents of a table that are wanted, by what became of them, and the table in a word:
    that of its `State`, or `to merge` where all are done and parts wait to be joined."""

    study: Study
    done: int
    running: dict[int, str]
    failed: dict[int, dict[str, str]]
    holes: list[int]
    word: str


def status(study: Study) -> Status:
    """What there is of a table, and what runs or failed, without measuring or loading anything."""
    word = state(study).word
    if word not in ("complete", "begun", "missing"):  # it is damaged, or not of this study
        return Status(study, 0, {}, {}, list(range(study.docs)), word)
    found, wanted = store.progress(study.path), set(range(study.docs))
    running = {doc: who for doc, who in found.running.items() if doc in wanted}
    failed = {doc: said for doc, said in found.failed.items() if doc in wanted}
    holes = sorted(wanted - found.done)
    if not holes and word != "complete":
        word = "to merge"
    elif running and word == "missing":
        word = "begun"
    return Status(study, len(wanted & found.done), running, failed, holes, word)


def holes_of(found: Status) -> list[str]:
    """A line for each document that runs or failed, and one for the rest that is missing."""
    name = found.study.table
    lines = [f"{name}: document {doc} runs on {who}" for doc, who in found.running.items()]
    lines += [
        f"{name}: document {doc} failed on {said['host']}: {said['error']}"
        for doc, said in found.failed.items()
    ]
    rest = [d for d in found.holes if d not in found.running and d not in found.failed]
    if rest:
        lines.append(f"{name}: missing {ranges(rest)}")
    return lines


def ranges(numbers: list[int]) -> str:
    """`0-3, 5, 7-9` of growing numbers."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(f"{p[0]}-{p[-1]}" if len(p) > 1 else str(p[0]) for p in parts)
