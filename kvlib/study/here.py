"""A study in this process: a whole table, or a share of the items of several."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import rich.progress
from rich.console import Console

from kvlib import store
from kvlib.study import items
from kvlib.study.declared import Study

COLUMNS = (  # of the progress that a run shows
    rich.progress.TextColumn("{task.description}", markup=False),  # names of files are no markup
    rich.progress.BarColumn(bar_width=10),
    rich.progress.MofNCompleteColumn(),
    rich.progress.TimeElapsedColumn(),
    rich.progress.TextColumn("left"),
    rich.progress.TimeRemainingColumn(compact=True),
)
TENTHS = 10  # lines at most that a task writes where there is no terminal to draw on


class Bars(rich.progress.Progress):
    """Bars on a terminal; in a file or a pipe a line whenever another tenth is done."""

    def add_task(self, description: str, *given: Any, **more: Any) -> rich.progress.TaskID:
        """A bar, behind one line whatever a file is called."""
        line = "".join(sign if sign.isprintable() else "\ufffd" for sign in description)
        return super().add_task(line, *given, **more)

    def advance(self, task_id: rich.progress.TaskID, advance: float = 1) -> None:
        """So many documents more are done."""
        before = self._tasks[task_id].completed
        super().advance(task_id, advance)
        task = self._tasks[task_id]
        if self.console.is_terminal or not task.total or task.completed >= task.total:
            return  # the bar is drawn, as it is where all is done
        if int(TENTHS * before / task.total) < int(TENTHS * task.completed / task.total):
            line = self.make_tasks_table([task])
            self.console.print(line)


def bars() -> rich.progress.Progress:
    """Bars of progress on standard error: documents, time that went by, time that is left."""
    return Bars(*COLUMNS, console=Console(stderr=True))


def title(study: Study) -> str:
    """What stands before a table's bar: its model and text, or its name."""
    said = [Path(study.settings[k]).name for k in ("model", "corpus") if k in study.settings]
    return " · ".join(said) or study.table


def run(study: Study, command: str, device: str = "auto") -> pd.DataFrame:
    """Measure what is missing of a table, one document at a time, and finish it; a run that was
    killed goes on where it was. Bad settings fail before text and model are loaded."""
    ready = items.prepared(study, device)
    with opened(study, ready) as measurement:
        with bars() as progress:
            done = study.docs - len(measurement.missing())
            task = progress.add_task(title(study), total=study.docs, completed=done)
            for doc in measurement.missing():
                if doc not in measurement.done():  # else another process has measured it meanwhile
                    measurement.begin(doc)
                    measurement.add(doc, ready.rows(doc), **ready.mark(doc))
                progress.advance(task)
        made = store.run_of(command, ready.device)
        return measurement.finish(made, study.label, ready.about)


def opened(study: Study, ready: items.Prepared) -> store.Measurement:
    """The table that items are measured for."""
    return store.Measurement(study.path, ready.settings, study.docs, ready.code, ready.about)


# --- a share of several tables ------------------------------------------------------------------


class Shard(NamedTuple):
    """Every `of`-th item from the `number`-th on, from 1."""

    number: int
    of: int

    @classmethod
    def parsed(cls, text: str) -> Shard:
        """`3/16`; ValueError for what is no share."""
        match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text, re.ASCII)
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            raise ValueError(
                f"shard: expected a number and how many there are, from 1/16 to 16/16, got {text!r}"
            )
        return cls(int(match[1]), int(match[2]))

    def share(self, studies: Sequence[Study]) -> list[tuple[Study, list[int]]]:
        """Its documents of each table. Items are counted over all tables in their order, whether
        they are done or not, so that the shares do not depend on when they are taken."""
        places = [(table, doc) for table, study in enumerate(studies) for doc in range(study.docs)]
        found: dict[int, list[int]] = {}
        for table, doc in places[self.number - 1 :: self.of]:
            found.setdefault(table, []).append(doc)
        return [(studies[table], docs) for table, docs in found.items()]


class Share(NamedTuple):
    """What became of a share: documents measured, done before, and failed."""

    measured: int
    before: int
    failed: int


def run_share(studies: Sequence[Study], shard: Shard, device: str = "auto") -> Share:
    """Measure a share of the items, parts only. One that fails is noted, and the rest goes on; what
    cannot be written ends it. Raises OSError for that."""
    share = shard.share(studies)
    measured = before = failed = 0
    with bars() as progress:
        total = sum(len(docs) for _, docs in share)
        task = progress.add_task(f"shard {shard.number}/{shard.of}", total=total)
        for study, docs in share:
            todo = sorted(set(docs) - store.progress(study.path).done)
            progress.advance(task, len(docs) - len(todo))
            good = _measure(study, todo, device, lambda: progress.advance(task)) if todo else 0
            before += len(docs) - len(todo)
            measured += good
            failed += len(todo) - good
    return Share(measured, before, failed)


def _measure(study: Study, docs: list[int], device: str, advance: Callable[[], object]) -> int:
    """Measure these documents of a table and note those that fail; how many did not."""
    good = 0
    try:
        ready = items.prepared(study, device)
        measurement = opened(study, ready)
    except Exception as error:  # no model, no text, or parts of others: all of them fail
        for doc in docs:
            store.note_failure(study.path, doc, store.HOST, line_of(error))
            advance()
        return 0
    for doc in docs:
        with measurement:
            measurement.begin(doc)
            try:
                rows = ready.rows(doc)
            except Exception as error:
                store.note_failure(study.path, doc, store.HOST, line_of(error))
            else:
                measurement.add(doc, rows, **ready.mark(doc))
                good += 1
        advance()
    return good


def line_of(error: BaseException) -> str:
    """The first line of an error, and its kind where that says more."""
    text = (str(error) or type(error).__name__).splitlines()[0]
    return text if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: {text}"
