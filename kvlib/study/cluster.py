"""Studies on a cluster of Dask: workers measure, this process writes.

Workers need kvlib, models and texts, and see no folder of this process: rows come back, a part is
written for each document, and tables are joined here. Who does what, and again when a worker dies,
is left to Dask.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import json
import logging
import platform
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import dask
import distributed
import pandas as pd

from kvlib import __version__, store
from kvlib.study import here, items, joining
from kvlib.study.declared import KINDS, Study

SECONDS = 5  # that a scheduler may take to answer
GREETINGS = 10  # that may be disturbed by what others cancel
AGAIN = "-again"  # of the key of a document that another client asked for in vain
RETRIES = 2  # of a document that fails on a worker that lives
LOCAL = {  # of the local cluster
    "distributed.scheduler.allowed-failures": 25,  # workers that may die over one document
    "distributed.deploy.lost-worker-timeout": "1s",  # until a worker that went away is made again
}
TOPIC = "kvlib"  # of what workers tell while they measure


class Failed(Exception):
    """A document that could not be measured: on which host, and why, in one line."""


class OtherCode(Exception):
    """A worker that would measure something else."""


class Begun(NamedTuple):
    """What a worker tells when it begins a document, and needs to tell for its rows."""

    settings: dict[str, Any]
    about: dict[str, Any]
    code: str


class Measured(NamedTuple):
    """A document's rows, with the mark of their part."""

    begun: Begun
    rows: pd.DataFrame
    mark: dict[str, Any]


class Tally(NamedTuple):
    """What became of a run: documents measured, and failed."""

    measured: int
    failed: int


# --- on a worker ----------------------------------------------------------------------------------

_one_at_a_time = threading.Lock()  # a worker with several threads has one model all the same
_ready: dict[str, items.Prepared] = {}  # the table of the last document


def identity(kinds: Sequence[str]) -> dict[str, str]:
    """What decides what a worker measures: the version of kvlib and the hashes of its code."""
    return {"kvlib": __version__} | {kind: items.code_sha256(kind) for kind in kinds}


def measure(study: Study, doc: int, device: str, wanted: dict[str, str], name: str) -> Measured:
    """Measure a document, on a worker. Raises Failed with host and line, and OtherCode."""
    worker = distributed.get_worker()
    if line := _other(worker.address, identity([study.kind]), wanted):
        raise OtherCode(line)
    try:
        with _one_at_a_time:
            ready = _prepared(study, device, str(worker.name))
            begun = Begun(ready.settings, ready.about, ready.code)
            worker.log_event(TOPIC, {"name": name, "begun": tuple(begun)})
            return Measured(begun, ready.rows(doc), ready.mark(doc))
    except Exception as error:
        raise Failed(platform.node(), here.line_of(error)) from None


def _prepared(study: Study, device: str, worker: str) -> items.Prepared:
    """What the table's items need; kept until the next table comes."""
    said = json.dumps([study.table, study.kind, study.settings, study.docs, device])
    if said not in _ready:
        _ready.clear()
        _ready[said] = items.prepared(study, _device(study, device, worker))
    return _ready[said]


def _device(study: Study, device: str, worker: str) -> str:
    """The GPU of a local worker where there are several: theirs go by their numbers."""
    if device == "auto" == KINDS[study.kind].device and "model" in study.settings:
        import torch

        if (there := torch.cuda.device_count()) > 1 and worker.isdigit():
            return f"cuda:{int(worker) % there}"
    return device


def _other(worker: str, found: Any, wanted: dict[str, str]) -> str:
    """The line that refuses a worker of another version or code; empty for one that is right, and
    for one that died meanwhile: who comes after it is asked again, document by document."""
    if isinstance(found, OSError):
        return ""
    if not isinstance(found, dict):
        return f"worker {worker}: expected kvlib {wanted['kvlib']}, got {here.line_of(found)}"
    for key, value in found.items():
        if value != wanted[key]:
            what = "kvlib" if key == "kvlib" else f"the code of {key},"
            return f"worker {worker}: expected {what} {wanted[key][:12]}, got {value[:12]}"
    return ""


# --- in this process ------------------------------------------------------------------------------


@contextlib.contextmanager
def connected(workers: int = 0, scheduler: str = "") -> Iterator[distributed.Client]:
    """A client of a scheduler, or of a cluster of so many processes here, which ends with it.

    Raises OSError with one line for a scheduler that does not answer, ValueError for what is no
    address.
    """
    _quiet()
    with contextlib.ExitStack() as stack:
        if scheduler:
            try:
                client = _client(scheduler, timeout=SECONDS)
            except ValueError:
                raise ValueError(
                    f"scheduler: expected an address such as tcp://node1:8786, got {scheduler!r}"
                ) from None
            except OSError:
                raise OSError(
                    f"scheduler: expected an answer from {scheduler} within {SECONDS} s, got none"
                ) from None
            yield stack.enter_context(client)
            return
        stack.enter_context(dask.config.set(LOCAL))
        cluster = distributed.LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            memory_limit=0,  # a model is read only where it fits
            dashboard_address="127.0.0.1:0",
            silence_logs=logging.CRITICAL,
        )
        stack.enter_context(cluster)
        client = stack.enter_context(distributed.Client(cluster))
        stack.enter_context(_kept_at(cluster, workers))
        yield client


def _client(where: Any, **how: Any) -> distributed.Client:
    """A client of this scheduler or cluster.

    Dask tells every client what one of them cancels, and asserts that nothing comes with its
    greeting: who joins in that moment asks again.
    """
    for _ in range(GREETINGS):
        with contextlib.suppress(AssertionError):
            return distributed.Client(where, **how)
    return distributed.Client(where, **how)


def _quiet() -> None:
    """Let Dask log nothing: what matters is said here. Some of its loggers have levels of their
    own."""
    for name in list(logging.root.manager.loggerDict):
        if name.partition(".")[0] == "distributed":
            logging.getLogger(name).setLevel(logging.CRITICAL)


@contextlib.contextmanager
def _kept_at(cluster: distributed.LocalCluster, workers: int) -> Iterator[None]:
    """Ask for so many workers again and again: one that dies while it starts is given up by who
    watches over it, and Dask makes a new one only when it is asked."""
    stop = threading.Event()

    def ask() -> None:
        while not stop.wait(1):
            cluster.scale(workers)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def run(
    client: distributed.Client,
    studies: Sequence[Study],
    command: str,
    device: str,
    told: Callable[[Study, pd.DataFrame], object],
) -> Tally:
    """Measure what is missing of all tables, and join each when its last document is there; `told`
    gets it. What fails is noted, and the rest goes on.

    Raises ValueError with one line for a worker of another version, and for parts of other code;
    OSError for a scheduler that goes away, and for a part that cannot be written.
    """
    wanted = identity(sorted({study.kind for study in studies}))
    found = client.run(identity, list(wanted)[1:], on_error="return")
    for worker in sorted(found):
        if line := _other(worker, found[worker], wanted):
            raise ValueError(line)
    print(f"{len(found)} workers; dashboard {client.dashboard_link}", file=sys.stderr)
    with here.bars() as progress:
        book = _Book(studies, command, told, progress)
        client.subscribe_topic(TOPIC, book.hear)

        def asked(name: str, key: str) -> distributed.Future:
            table, doc = book.items[name]
            arguments = (table.study, doc, device, wanted, name)
            return client.submit(measure, *arguments, key=key, retries=RETRIES)

        futures = {asked(name, name): name for name in book.items}
        try:
            book.join_what_is_done()
            coming = distributed.as_completed(futures)
            for future in coming:
                name = futures[future]
                if _of_another(future) and _answers(client):
                    again = asked(name, name + AGAIN)
                    futures[again] = name
                    coming.add(again)
                else:
                    book.take(name, future)
        except BaseException:
            with contextlib.suppress(Exception):  # the scheduler may be gone
                client.cancel(list(futures))
            raise
        finally:
            book.close()
            client.unsubscribe_topic(TOPIC)
    return Tally(book.measured, book.failed)


def _of_another(future: distributed.Future) -> bool:
    """May this be what became of another client's wish for the same document: given up, or met by
    a worker that was of other code then?"""
    if str(future.key).endswith(AGAIN):
        return False
    return future.cancelled() or (
        future.status == "error" and isinstance(future.exception(), OtherCode)
    )


def _answers(client: distributed.Client) -> bool:
    """Is the scheduler there?"""
    try:
        return client.status == "running" and client.ncores() is not None
    except Exception:
        return False


class _Table:
    """A table while its documents come in."""

    def __init__(self, study: Study, progress: Any) -> None:
        self.study = study
        self.todo = sorted(set(range(study.docs)) - store.progress(study.path).done)
        self.left = set(self.todo)
        self.measurement: store.Measurement | None = None
        done = study.docs - len(self.todo)
        self.bar = progress.add_task(here.title(study), total=study.docs, completed=done)

    def opened(self, begun: Begun) -> store.Measurement:
        """Where its parts go; ValueError for what is of another model or text than the rest."""
        if self.measurement is None:
            self.measurement = store.Measurement(
                self.study.path, begun.settings, self.study.docs, begun.code, begun.about
            )
        ours, theirs = self.measurement.settings, json.loads(json.dumps(begun.settings))
        for key in sorted(ours.keys() | theirs.keys()):
            if ours.get(key) != theirs.get(key):
                raise _OtherSettings(f"expected {key} = {ours.get(key)}, got {theirs.get(key)}")
        return self.measurement


class _OtherSettings(ValueError):
    """Rows of another model or text than those before them."""


class _Book:
    """All tables of a run: who hears what workers tell, and writes what they measured."""

    def __init__(
        self,
        studies: Sequence[Study],
        command: str,
        told: Callable[[Study, pd.DataFrame], object],
        progress: Any,
    ) -> None:
        self.command, self.told, self.progress = command, told, progress
        self.measured = self.failed = 0
        self.tables = [_Table(study, progress) for study in studies]
        self.items = {_name(t.study, doc): (t, doc) for t in self.tables for doc in t.todo}
        self._lock = threading.Lock()  # events come in a thread of their own

    def hear(self, event: tuple[float, dict[str, Any]]) -> None:
        """A worker has begun a document: it shows as running."""
        said = event[1]
        if said["name"] not in self.items:
            return  # of another client
        table, doc = self.items[said["name"]]
        with self._lock, contextlib.suppress(ValueError, OSError):  # `take` says what is wrong
            if doc in table.left:
                table.opened(Begun(*said["begun"])).begin(doc)

    def take(self, name: str, future: distributed.Future) -> None:
        """Write a document that came back, or note why it did not; join the table after the last.

        Raises OSError when the scheduler is gone, and for what cannot be written."""
        table, doc = self.items[name]
        try:  # not under the lock: what brings rows here also calls `hear`
            found = future.result()
        except concurrent.futures.CancelledError:
            raise OSError(
                f"scheduler: expected rows of {len(self.items)} documents, got those of "
                f"{self.measured} before it went away; give the command again"
            ) from None
        except Exception as error:
            found = error
        future.release()
        with self._lock:
            if isinstance(found, Measured):
                self._write(table, doc, found)
            else:
                self._note(table, doc, found)
            table.left.discard(doc)
            self.progress.advance(table.bar)
            if not table.left and table.measurement and not table.measurement.missing():
                self._join(table)

    def _write(self, table: _Table, doc: int, found: Measured) -> None:
        try:
            table.opened(found.begun).add(doc, found.rows, **found.mark)
            self.measured += 1
        except _OtherSettings as error:
            self._note(table, doc, Failed(found.mark["run"]["host"], str(error)))

    def _note(self, table: _Table, doc: int, error: BaseException) -> None:
        if isinstance(error, OtherCode):
            raise ValueError(str(error))
        host, line = "a worker", here.line_of(error)
        if isinstance(error, Failed):
            host, line = error.args
        elif isinstance(error, distributed.KilledWorker):
            host, line = str(error.last_worker.address), "expected a worker that lives, got none"
        store.note_failure(table.study.path, doc, host, line)
        self.failed += 1

    def _join(self, table: _Table) -> None:
        begun = table.measurement
        if begun:
            label, about = table.study.label, begun.about
            self.told(table.study, begun.finish(joining.run_of(self.command), label, about))

    def join_what_is_done(self) -> None:
        """Join the tables of which an earlier run has measured all documents."""
        for table in self.tables:
            if not table.todo and joining.merge(table.study, self.command):
                self.told(table.study, store.load_table(table.study.path))

    def close(self) -> None:
        """Nothing is being measured for this process any more."""
        with self._lock:
            for table in self.tables:
                if table.measurement:
                    table.measurement.close()
                table.left.clear()


def _name(study: Study, doc: int) -> str:
    """What Dask calls an item. Two clients of one scheduler call it the same: it is done once."""
    said = json.dumps([study.kind, study.settings, study.docs, items.code_sha256(study.kind)])
    return f"kvlib-{study.table}-{doc}-{hashlib.sha256(said.encode()).hexdigest()[:16]}"
