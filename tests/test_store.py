"""Stored tables: what was written comes back, damage is told from data, a kill costs no rows."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kvlib import names, store
from kvlib.store import Measurement, load_table, read_manifest, read_table, save_table

SETTINGS = {"model": "a model", "corpus": "a text", "seed": 0}
RUN = {"command": "by hand", "date": "today"}


def rows(doc: int, n: int = 200) -> pd.DataFrame:
    rng = np.random.default_rng(doc)
    return pd.DataFrame(
        {
            "doc": np.full(n, doc, dtype=np.int16),
            "position": rng.integers(0, 3072, n).astype(np.int32),
            "window": rng.integers(1, 1025, n).astype(np.int32),
            "kl_nats": rng.random(n).astype(np.float32),
            "tv": rng.random(n),
        }
    )


def finished(path: Path, docs: int = 3, study: str = "") -> Path:
    measurement = Measurement(path, SETTINGS, docs)
    for doc in range(docs):
        measurement.add(doc, rows(doc))
    measurement.finish(RUN, study)
    return path.with_suffix(".parquet")


@pytest.fixture
def table_path(tmp_path) -> Path:
    return finished(tmp_path / "table")


def one_line(error: pytest.ExceptionInfo, path: Path) -> str:
    message = str(error.value)
    assert "\n" not in message and str(path) in message
    return message


# --- round trips ------------------------------------------------------------------------------


def test_rows_come_back_with_their_dtypes_and_bits(tmp_path):
    table = rows(0)
    table.loc[0, "kl_nats"] = np.float32(1e-38)
    table.loc[1, "tv"] = -0.0
    save_table(tmp_path / "t.parquet", table)
    found = read_table(tmp_path / "t.parquet")
    pd.testing.assert_frame_equal(found, table, check_exact=True)
    assert list(tmp_path.iterdir()) == [tmp_path / "t.parquet"]


def test_a_table_without_rows_comes_back_with_its_columns(tmp_path):
    save_table(tmp_path / "t.parquet", rows(0, n=0))
    pd.testing.assert_frame_equal(read_table(tmp_path / "t.parquet"), rows(0, n=0))


def test_a_finished_measurement_is_its_documents_in_order_and_two_files(tmp_path):
    measurement = Measurement(tmp_path / "table", SETTINGS, 3)
    for doc in (2, 0, 1):
        measurement.add(doc, rows(doc))
    assert measurement.done() == {0, 1, 2}
    returned = measurement.finish(RUN)
    expected = pd.concat([rows(0), rows(1), rows(2)], ignore_index=True)
    pd.testing.assert_frame_equal(returned, expected)
    pd.testing.assert_frame_equal(load_table(tmp_path / "table"), expected, check_exact=True)
    assert {path.name for path in tmp_path.iterdir()} == {"table.parquet", "table.json"}
    manifest = read_manifest(tmp_path / "table")
    assert manifest["settings"] == SETTINGS and manifest["run"] == RUN
    assert (manifest["rows"], manifest["documents"]) == (600, 3)


def test_a_finished_table_grows_and_keeps_its_first_rows(tmp_path):
    before = load_table(finished(tmp_path / "table", docs=2))
    measurement = Measurement(tmp_path / "table", SETTINGS, 3)
    assert measurement.done() == {0, 1}
    measurement.add(2, rows(2))
    measurement.finish(RUN)
    after = load_table(tmp_path / "table")
    pd.testing.assert_frame_equal(after[: len(before)], before, check_exact=True)
    pd.testing.assert_frame_equal(after, load_table(finished(tmp_path / "at-once")))


def test_stored_tables_are_found_by_model_and_corpus(tmp_path):
    finished(tmp_path / "kind-one", study="kind")
    finished(tmp_path / "other-one", study="other")
    assert store.stored("kind", tmp_path) == {
        ("a model", "a text"): tmp_path / "kind-one.parquet",
    }


# --- damage -----------------------------------------------------------------------------------


def flip_middle(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 0x55]) + content[middle + 1 :]


DAMAGE = {
    "a flipped byte": flip_middle,
    "a missing end": lambda content: content[: len(content) // 2],
    "nothing": lambda content: b"",
    "text": lambda content: b"doc,position\n0,1\n",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_table_is_refused(table_path, damage):
    table_path.write_bytes(DAMAGE[damage](table_path.read_bytes()))
    with pytest.raises(ValueError, match="damaged") as error:
        load_table(table_path)
    one_line(error, table_path)


def test_each_single_flipped_byte_of_a_table_is_found(tmp_path):
    path = finished(tmp_path / "table", docs=1)
    sound = path.read_bytes()
    for k in range(0, len(sound), 7):
        path.write_bytes(sound[:k] + bytes([sound[k] ^ 0x55]) + sound[k + 1 :])
        with pytest.raises(ValueError) as error:
            load_table(path)
        one_line(error, path)


def test_a_flipped_byte_in_a_finished_document_never_changes_its_rows(tmp_path):
    # no manifest knows these files yet: the checksum of each page protects them
    measurement = Measurement(tmp_path / "table", SETTINGS, 3)
    measurement.add(0, rows(0))
    part = measurement.parts / "00000.parquet"
    sound = part.read_bytes()
    footer = int.from_bytes(sound[-8:-4], "little") + 8
    found_out = 0
    for k in range(0, len(sound) - footer, 3):
        part.write_bytes(sound[:k] + bytes([sound[k] ^ 0x55]) + sound[k + 1 :])
        try:
            found = read_table(part)
        except ValueError as error:
            found_out += 1
            assert str(part) in str(error) and "\n" not in str(error)
        else:  # a byte of a page's header that says nothing about its rows
            pd.testing.assert_frame_equal(found, rows(0), check_exact=True)
    assert found_out > 0.9 * (len(sound) - footer) / 3


def test_a_table_that_is_not_its_manifests_is_refused(table_path):
    save_table(table_path, rows(7))
    with pytest.raises(ValueError, match="expected SHA-256 .*…, got .*…") as error:
        load_table(table_path)
    one_line(error, table_path)


def test_a_missing_table_is_named(table_path):
    table_path.unlink()
    with pytest.raises(ValueError, match="expected a Parquet file, found none") as error:
        load_table(table_path)
    one_line(error, table_path)


def test_a_missing_manifest_is_named(table_path):
    manifest = table_path.with_suffix(".json")
    manifest.unlink()
    with pytest.raises(ValueError, match="expected a manifest beside the table") as error:
        load_table(table_path)
    one_line(error, manifest)


NOT_MANIFESTS = [b"", b"{", b'{"settings": {', b"\xff\xfe\x00", b"{}", b"[1, 2]", b'"text"']


@pytest.mark.parametrize("content", NOT_MANIFESTS)
def test_a_damaged_manifest_is_refused(table_path, content):
    manifest = table_path.with_suffix(".json")
    manifest.write_bytes(content)
    for read in (load_table, lambda path: Measurement(path, SETTINGS, 3)):
        with pytest.raises(ValueError, match="manifest") as error:
            read(table_path)
        one_line(error, manifest)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"[1, 2]"])
def test_damaged_settings_of_a_begun_measurement_are_named(tmp_path, content):
    begun = Measurement(tmp_path / "table", SETTINGS, 3).parts / "settings.json"
    begun.write_bytes(content)
    with pytest.raises(ValueError) as error:
        Measurement(tmp_path / "table", SETTINGS, 3)
    one_line(error, begun)


# --- other settings ---------------------------------------------------------------------------

OTHER = [SETTINGS | {"seed": 1}, SETTINGS | {"dtype": "bfloat16"}, {"model": "a model"}]


@pytest.mark.parametrize("other", OTHER)
def test_a_begun_measurement_refuses_other_settings(tmp_path, other):
    Measurement(tmp_path / "table", SETTINGS, 3).add(0, rows(0))
    with pytest.raises(ValueError, match="begun with other settings: expected") as error:
        Measurement(tmp_path / "table", other, 3)
    one_line(error, tmp_path)
    assert Measurement(tmp_path / "table", SETTINGS, 3).done() == {0}


@pytest.mark.parametrize("other", OTHER)
def test_a_finished_table_refuses_other_settings_and_stays_as_it_was(table_path, other):
    before = {path: path.read_bytes() for path in table_path.parent.iterdir()}
    with pytest.raises(ValueError, match="begun with other settings: expected"):
        Measurement(table_path, other, 3)
    assert {path: path.read_bytes() for path in table_path.parent.iterdir()} == before


# --- a kill -----------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[2])
import pyarrow.parquet as pq
from test_store import RUN, SETTINGS, Measurement, Path, rows

whole, calls = pq.write_table, 0

def write_table(table, file, **options):
    global calls
    calls += 1
    whole(table, file, **options)
    if calls == int(sys.argv[3]):
        os.truncate(file, 100)
        os.kill(os.getpid(), signal.SIGKILL)

pq.write_table = write_table
measurement = Measurement(Path(sys.argv[1]), SETTINGS, 3)
for doc in measurement.missing():
    measurement.add(doc, rows(doc))
measurement.finish(RUN)
"""


@pytest.mark.parametrize("write", [1, 2, 3, 4])  # the fourth write is that of the whole table
def test_a_kill_in_the_middle_of_a_write_costs_no_rows(tmp_path, write):
    def run(killed_at: int) -> int:
        here = Path(__file__).parent
        command = [sys.executable, "-c", KILLED, tmp_path / "table", here, killed_at]
        return subprocess.run(list(map(str, command)), timeout=120).returncode

    assert run(killed_at=write) == -signal.SIGKILL
    assert not (tmp_path / "table.parquet").exists()
    assert Measurement(tmp_path / "table", SETTINGS, 3).done() == set(range(write - 1))
    assert run(killed_at=0) == 0
    undisturbed = load_table(finished(tmp_path / "undisturbed"))
    pd.testing.assert_frame_equal(load_table(tmp_path / "table"), undisturbed, check_exact=True)
    assert read_manifest(tmp_path / "table") == read_manifest(tmp_path / "undisturbed")


# --- whole or not at all ------------------------------------------------------------------------


@pytest.mark.parametrize("failure", [ValueError("bad"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_nothing_behind(tmp_path, failure):
    def write(file: Path) -> None:
        file.write_text("half of it")
        raise failure

    with pytest.raises(type(failure)):
        store.write_atomically(tmp_path / "new.txt", write)
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_keeps_what_was_there(tmp_path):
    path = tmp_path / "old.txt"
    path.write_text("old")

    def write(file: Path) -> None:
        file.write_text("half of it")
        raise ValueError("bad")

    with pytest.raises(ValueError, match="bad"):
        store.write_atomically(path, write)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk without room")
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path):
    # the file that is written first stands on a device that is always full
    path = tmp_path / "table.parquet"
    store.temporary_of(path).symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device") as error:
        save_table(path, rows(0, n=200_000))
    assert error.value.errno == errno.ENOSPC
    assert re.search("No space left on device", str(error.value)) and "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


FULL = """
import resource, sys
sys.path.insert(0, sys.argv[2])
from test_store import SETTINGS, Measurement, Path, rows

measurement = Measurement(Path(sys.argv[1]), SETTINGS, 3)
measurement.add(0, rows(0))
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
try:
    measurement.add(1, rows(1, n=100_000))
except OSError as error:
    print(error)
"""


def test_a_file_that_may_not_grow_keeps_the_documents_before_it(tmp_path):
    command = [sys.executable, "-c", FULL, tmp_path / "table", Path(__file__).parent]
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert "File too large" in result.stdout and result.stdout.count("\n") == 1
    measurement = Measurement(tmp_path / "table", SETTINGS, 3)
    assert measurement.done() == {0}
    names = {path.name for path in measurement.parts.iterdir()}
    assert names == {"00000.parquet", "settings.json"}
    begun = json.loads((measurement.parts / "settings.json").read_text())
    assert begun["settings"] == SETTINGS


# --- any number of writers, one that joins ----------------------------------------------------


@pytest.mark.parametrize("name", ["table", "table.parquet", "table.json"])
def test_two_writers_share_a_table_and_the_first_that_is_through_joins_it(tmp_path, name):
    first = Measurement(tmp_path / "table", SETTINGS, 2)
    second = Measurement(tmp_path / name, SETTINGS, 2)
    first.add(0, rows(0))
    assert second.missing() == [1]
    second.begin(1)
    first.add(1, rows(1))
    first.finish(RUN)
    assert second.missing() == [] and not second.parts.exists()
    second.add(1, rows(1))  # a duplicate that comes late
    assert not second.parts.exists()
    found = second.finish({"command": "another"})
    assert read_manifest(tmp_path / "table")["run"] == RUN
    undisturbed = load_table(finished(tmp_path / "undisturbed", docs=2))
    pd.testing.assert_frame_equal(found, undisturbed, check_exact=True)
    left = {file.name for file in tmp_path.iterdir()} - {"undisturbed.json", "undisturbed.parquet"}
    assert left == {"table.parquet", "table.json"}


def test_a_document_that_the_joined_table_lacks_opens_it_again(tmp_path):
    more = Measurement(tmp_path / "table", SETTINGS, 3)
    finished(tmp_path / "table", docs=2)
    more.add(2, rows(2))
    assert more.missing() == []
    more.finish(RUN)
    undisturbed = load_table(finished(tmp_path / "undisturbed"))
    pd.testing.assert_frame_equal(load_table(tmp_path / "table"), undisturbed, check_exact=True)


def test_who_waits_for_a_join_in_vain_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "JOINING_SECONDS", 0.1)
    with store._locked(tmp_path / "table.parquet"):
        with pytest.raises(ValueError, match="expected one process at a time to join") as error:
            Measurement(tmp_path / "table", SETTINGS, 1)
        one_line(error, tmp_path / "table.parquet")
    assert list(tmp_path.iterdir()) == []
    Measurement(tmp_path / "table", SETTINGS, 1)


def test_a_writer_that_closes_or_fails_keeps_its_documents(tmp_path):
    with pytest.raises(KeyError), Measurement(tmp_path / "table", SETTINGS, 1) as failed:
        failed.begin(0)
        raise KeyError
    assert [file.name for file in failed.parts.iterdir()] == ["settings.json"]
    with Measurement(tmp_path / "table", SETTINGS, 1) as second:
        second.add(0, rows(0))
    with pytest.raises(ValueError, match="other settings"):
        Measurement(tmp_path / "table", SETTINGS | {"seed": 1}, 1)
    with Measurement(tmp_path / "table", SETTINGS, 1) as third:
        third.finish(RUN)
    assert {path.name for path in tmp_path.iterdir()} == {"table.parquet", "table.json"}


WRITER = """
import sys, time
sys.path.insert(0, sys.argv[2])
from test_store import RUN, SETTINGS, Measurement, Path, rows

out, me = Path(sys.argv[1]), sys.argv[3]
(out.parent / f"ready-{me}").touch()
while len(list(out.parent.glob("ready-*"))) < 4:
    time.sleep(0.001)
with Measurement(out, SETTINGS, 6) as measurement:
    for doc in measurement.missing():
        if doc not in measurement.done():
            measurement.begin(doc)
            time.sleep(0.02)
            measurement.add(doc, rows(doc))
    measurement.finish(RUN)
"""


def test_four_processes_write_one_table_at_once(tmp_path):
    command = [sys.executable, "-c", WRITER, tmp_path / "table", Path(__file__).parent]
    processes = [
        subprocess.Popen([*map(str, command), me], stderr=subprocess.PIPE, text=True)
        for me in "abcd"
    ]
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert errors == [""] * 4 and [process.returncode for process in processes] == [0] * 4
    left = {file.name for file in tmp_path.iterdir() if not file.name.startswith("ready-")}
    assert left == {"table.parquet", "table.json"}
    undisturbed = load_table(finished(tmp_path / "undisturbed", docs=6))
    pd.testing.assert_frame_equal(load_table(tmp_path / "table"), undisturbed, check_exact=True)


# --- whose rows, by which code ------------------------------------------------------------------


def test_the_manifest_counts_documents_by_the_code_that_measured_them(tmp_path):
    finished(tmp_path / "table", docs=1)  # of before codes were noted
    with Measurement(tmp_path / "table", SETTINGS, 3, code="a" * 64) as grown:
        for doc in grown.missing():
            grown.add(doc, rows(doc))
        grown.finish(RUN)
    run = read_manifest(tmp_path / "table")["run"]
    assert run == RUN | {"code_sha256": {"a" * 64: 2, "unknown": 1}}
    with Measurement(tmp_path / "table", SETTINGS, 4, code="b" * 64) as grown:
        grown.add(3, rows(3))
        grown.finish(lambda marks: {"parts": len(marks)})
    run = read_manifest(tmp_path / "table")["run"]
    assert run == {"parts": 1, "code_sha256": {"b" * 64: 1, "a" * 64: 2, "unknown": 1}}


def test_parts_of_two_codes_are_not_joined_and_the_one_that_differs_is_named(tmp_path):
    with Measurement(tmp_path / "table", SETTINGS, 2, code="a" * 64) as begun:
        begun.add(0, rows(0))
    with pytest.raises(ValueError, match="measured by code bbbb.*code aaaa") as error:
        Measurement(tmp_path / "table", SETTINGS, 2, code="b" * 64)
    one_line(error, begun.parts / "00000.parquet")
    with Measurement(tmp_path / "table", SETTINGS, 2) as other:
        other.code = "b" * 64
        other.add(1, rows(1))
        other.code = ""
        with pytest.raises(ValueError, match="same code as the other parts, aaaa.*bbbb") as error:
            other.finish(RUN)
    one_line(error, begun.parts / "00001.parquet")
    assert not (tmp_path / "table.parquet").exists()


# --- what is being measured, and what failed ------------------------------------------------------


def dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.mark.parametrize("days", [-3000, 0, 3000])  # clocks that disagree change nothing
def test_what_runs_is_told_from_what_a_dead_process_left_without_a_clock(tmp_path, days):
    me, dead = os.getpid(), dead_process()
    with Measurement(tmp_path / "t", SETTINGS, 5) as measurement:
        measurement.begin(0)
        for doc, host, process in ((1, store.HOST, dead), (2, "elsewhere", dead)):
            (measurement.parts / f".{doc:05d}.parquet.{host}.{process}").write_text("half")
        measurement.add(3, rows(3))
        for file in measurement.parts.iterdir():
            os.utime(file, (file.stat().st_mtime + 86400 * days,) * 2)
        found = store.progress(tmp_path / "t")
        assert found.done == {3} and found.failed == {}
        assert found.running == {
            0: f"{store.HOST}, process {me}",
            2: f"elsewhere, process {dead}",
        }
        with Measurement(tmp_path / "t", SETTINGS, 5) as again:
            assert again.missing() == [0, 1, 2, 4]
        left = {file.name for file in measurement.parts.iterdir() if file.name[0] == "."}
        assert left == {f".00000.parquet.{store.HOST}.{me}", f".00002.parquet.elsewhere.{dead}"}
        for doc in measurement.missing():
            measurement.add(doc, rows(doc))
        measurement.finish(RUN)
    assert {path.name for path in tmp_path.iterdir()} == {"t.parquet", "t.json"}


def test_a_temporary_file_that_is_taken_away_costs_nothing(tmp_path, monkeypatch):
    """As if a host of the same name had tidied it: the rows are written again."""
    whole, calls = os.replace, []

    def replace(source, target):
        calls.append(source)
        if len(calls) == 1:
            os.unlink(source)
        whole(source, target)

    with Measurement(tmp_path / "table", SETTINGS, 1) as measurement:
        monkeypatch.setattr(os, "replace", replace)
        measurement.add(0, rows(0))
        monkeypatch.undo()
        found = measurement.finish(RUN)
    assert len(calls) == 2
    pd.testing.assert_frame_equal(found, rows(0), check_exact=True)


def test_what_failed_is_kept_until_it_is_done(tmp_path):
    with Measurement(tmp_path / "t", SETTINGS, 3) as measurement:
        store.note_failure(tmp_path / "t", 1, "node7", "expected a model, got none")
        store.note_failure(tmp_path / "t", 2, "node8", "expected a text, got none")
        (tmp_path / "t.failed" / "notes.json").write_text("mine")
        found = store.progress(tmp_path / "t").failed
        assert found[1] == {"host": "node7", "error": "expected a model, got none"}
        assert found.keys() == {1, 2}
        measurement.add(1, rows(1))
        assert store.failures(tmp_path / "t").keys() == {2}
        for doc in measurement.missing():
            measurement.add(doc, rows(doc))
        measurement.finish(RUN)
    assert store.failures(tmp_path / "t") == {}
    assert (tmp_path / "t.failed" / "notes.json").read_text() == "mine"


def full(*arguments: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("write", ["replace", "rename", "touch"])
def test_a_full_disk_at_each_write_is_one_line_and_what_was_there_stays(
    tmp_path, monkeypatch, write
):
    def run() -> None:
        with Measurement(tmp_path / "table", SETTINGS, 2) as measurement:
            for doc in measurement.missing():
                measurement.begin(doc)
                measurement.add(doc, rows(doc))
            measurement.finish(RUN)

    holder = Path if write == "touch" else os
    whole, allowed, failed = getattr(holder, write), 0, 0

    def limited(*arguments, **options):
        nonlocal left
        left -= 1
        return whole(*arguments, **options) if left >= 0 else full()

    while not (tmp_path / "table.json").exists():  # each write in its turn is the one that fails
        left = allowed
        monkeypatch.setattr(holder, write, limited)
        try:
            run()
        except OSError as error:
            failed += 1
            assert "No space left" in str(error) and "\n" not in str(error)
        monkeypatch.undo()
        left_over = [file for file in tmp_path.rglob(".*") if file.suffix != ".lock"]
        assert left_over == []
        allowed += 1
    assert failed >= 2  # two parts are begun, two files written, a folder comes and goes
    run()
    undisturbed = load_table(finished(tmp_path / "undisturbed", docs=2))
    pd.testing.assert_frame_equal(load_table(tmp_path / "table"), undisturbed, check_exact=True)
    assert {file.name for file in tmp_path.iterdir()} == {
        *("table.parquet", "table.json", "undisturbed.parquet", "undisturbed.json")
    }


# --- complete, or no table ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("documents", "added", "missing"),
    [
        (3, [], "0, 1, 2"),
        (3, [0, 1], "2"),
        (3, [2], "0, 1"),
        ({4, 7}, [4], "7"),
        (1, [0, 3], "1, 2"),
    ],
)
def test_a_table_that_lacks_documents_is_not_finished(tmp_path, documents, added, missing):
    measurement = Measurement(tmp_path / "table", SETTINGS, documents)
    for doc in added:
        measurement.add(doc, rows(doc))
    with pytest.raises(ValueError, match=f"missing: {missing}$") as error:
        measurement.finish(RUN)
    one_line(error, tmp_path)
    assert not (tmp_path / "table.parquet").exists() and measurement.done() == set(added)


def test_rows_of_another_document_or_none_are_not_stored(tmp_path):
    measurement = Measurement(tmp_path / "table", SETTINGS, 3)
    mixed = pd.concat([rows(1), rows(2)])
    for bad in (rows(2), rows(1, n=0), mixed, rows(1).drop(columns="doc")):
        with pytest.raises(ValueError, match="rows: expected some, with doc = 1 in each"):
            measurement.add(1, bad)
    assert measurement.done() == set()


def test_more_documents_than_asked_for_stay(tmp_path):
    before = load_table(finished(tmp_path / "table", docs=3))
    with Measurement(tmp_path / "table", SETTINGS, 1) as measurement:
        assert measurement.missing() == []
        measurement.finish(RUN)
    pd.testing.assert_frame_equal(load_table(tmp_path / "table"), before, check_exact=True)


KILLED_ANYWHERE = """
import os, sys
sys.path.insert(0, sys.argv[2])
from test_store import RUN, SETTINGS, Measurement, Path, finished, load_table, rows

CHANGES = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir"}
out = Path(sys.argv[1])

def run(path, docs):
    with Measurement(path, SETTINGS, docs) as measurement:
        for doc in measurement.missing():
            measurement.add(doc, rows(doc))
        measurement.finish(RUN)

def killed_at(change, path, docs):
    # a copy of this process that ends without a word before its `change`-th change of a file
    child = os.fork()
    if child == 0:
        seen = 0
        def watch(event, arguments):
            nonlocal seen
            if event in CHANGES and str(out) in str(arguments[0]):
                seen += 1
                if seen == change:
                    os._exit(9)
        sys.addaudithook(watch)
        try:
            run(path, docs)
        except BaseException as error:
            print(change, docs, repr(error), flush=True)
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

grown = sys.argv[3] == "grown"
for change in range(1, 1000):
    path = out / str(change) / "table"
    if grown:
        assert killed_at(0, path, 2) == 0
    code = killed_at(change, path, 4)
    if code == 0:
        break
    assert code == 9 and killed_at(0, path, 1) == 0, change  # goes on, for fewer documents
    before = set(load_table(path)["doc"])
    assert before == set(range(len(before))), (change, before)
    assert killed_at(0, path, 4) == 0, change
    left = {file.name for file in path.parent.iterdir()}
    assert left == {"table.parquet", "table.json"}, (change, left)
    assert load_table(path).equals(load_table(finished(out / str(change) / "whole", 4))), change
print("killed", change - 1)
"""


@pytest.mark.parametrize("begun", ["new", "grown"])
def test_a_kill_before_any_change_of_a_file_loses_nothing_and_leaves_nothing(tmp_path, begun):
    command = [sys.executable, "-c", KILLED_ANYWHERE, tmp_path, Path(__file__).parent, begun]
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=280)
    assert result.returncode == 0, result.stdout + result.stderr
    assert int(result.stdout.split()[-1]) > 20  # the kills, each before another change


# --- parts are not trusted ------------------------------------------------------------------------


def kept_metadata(change):
    """A change of a Parquet file's rows that keeps all that the file says of itself."""

    def changed(file: Path, others: Path) -> None:
        arrow = pq.read_table(file)
        metadata = arrow.schema.metadata
        pq.write_table(change(arrow).replace_schema_metadata(metadata), file)

    return changed


def by_pandas(change):
    def changed(file: Path, others: Path) -> None:
        change(pd.read_parquet(file)).to_parquet(file)

    return changed


def of_other_settings(file: Path, others: Path) -> None:
    other = Measurement(others / "other", SETTINGS | {"seed": 1}, 3)
    other.add(1, rows(1))
    (other.parts / file.name).rename(file)


TAMPERED = {
    "a column less": kept_metadata(lambda arrow: arrow.drop_columns(["tv"])),
    "a column more": kept_metadata(lambda arrow: arrow.append_column("x", arrow["tv"])),
    "a column renamed": kept_metadata(
        lambda arrow: arrow.rename_columns(["doc", "position", "window", "tv", "kl_nats"])
    ),
    "half of the rows": kept_metadata(lambda arrow: arrow.slice(0, len(arrow) // 2)),
    "no rows": kept_metadata(lambda arrow: arrow.slice(0, 0)),
    "rows twice": kept_metadata(lambda arrow: pa.concat_tables([arrow, arrow])),
    "rows in another order": kept_metadata(lambda arrow: arrow.sort_by("kl_nats")),
    "another type": kept_metadata(
        lambda arrow: arrow.set_column(3, "kl_nats", arrow["kl_nats"].cast(pa.float64()))
    ),
    "another document's file": lambda file, others: shutil.copy(
        file.with_name("00000.parquet"), file
    ),
    "another document's rows": by_pandas(lambda table: rows(0).assign(doc=np.int16(1))),
    "written by someone else": by_pandas(lambda table: table),
    "another number in the column": by_pandas(lambda table: table.assign(doc=np.int16(0))),
    "a part of other settings": of_other_settings,
    "half of the file": lambda file, others: os.truncate(file, file.stat().st_size // 2),
    "an empty file": lambda file, others: os.truncate(file, 0),
    "a folder": lambda file, others: (file.unlink(), file.mkdir()),
    "a pipe": lambda file, others: (file.unlink(), os.mkfifo(file)),
}


@pytest.mark.parametrize("when", ["before it is opened", "before it is finished"])
@pytest.mark.parametrize("kind", TAMPERED)
def test_a_part_that_changed_is_named_and_never_in_a_table(tmp_path, kind, when):
    with Measurement(tmp_path / "table", SETTINGS, 3) as begun:
        for doc in range(3):
            begun.add(doc, rows(doc))
        part = begun.parts / "00001.parquet"
        if when == "before it is finished":
            TAMPERED[kind](part, tmp_path)
            with pytest.raises(ValueError, match="damaged") as error:
                begun.finish(RUN)
            one_line(error, part)
    if when == "before it is opened":
        TAMPERED[kind](part, tmp_path)
    with pytest.raises(ValueError, match="damaged") as error:
        Measurement(tmp_path / "table", SETTINGS, 3)
    one_line(error, part)
    assert not (tmp_path / "table.parquet").exists()


def test_a_damaged_part_can_be_deleted_and_measured_again(tmp_path):
    with Measurement(tmp_path / "table", SETTINGS, 3) as begun:
        for doc in range(3):
            begun.add(doc, rows(doc))
    (begun.parts / "00001.parquet").unlink()
    with Measurement(tmp_path / "table", SETTINGS, 3) as again:
        assert again.missing() == [1]
        again.add(1, rows(1))
        found = again.finish(RUN)
    pd.testing.assert_frame_equal(found, load_table(finished(tmp_path / "whole")), check_exact=True)


def test_parts_of_different_columns_make_no_table(tmp_path):
    measurement = Measurement(tmp_path / "table", SETTINGS, 2)
    measurement.add(0, rows(0))
    measurement.add(1, rows(1).assign(more=1.0))
    with pytest.raises(ValueError, match="expected the columns of the other parts") as error:
        measurement.finish(RUN)
    one_line(error, measurement.parts / "00001.parquet")


VALUES = [
    pd.DataFrame({"a": ["x", None, "z"], "b": [True, False, True]}),
    pd.DataFrame({"a": ["xy", "", "z"], "b": [1.5, np.nan, -0.0]}),
    pd.DataFrame({"a": np.array([], dtype=np.int16)}),
]


@pytest.mark.parametrize("table", VALUES, ids=range(len(VALUES)))
def test_a_digest_survives_the_file_and_tells_tables_apart(tmp_path, table):
    save_table(tmp_path / "t.parquet", table)
    assert store.digest(read_table(tmp_path / "t.parquet")) == store.digest(table)
    others = [
        *(other for other in VALUES if other is not table),
        table[::-1] if len(table) else table.astype(np.int32),
        table.rename(columns={"a": "c"}),
    ]
    assert store.digest(table) not in map(store.digest, others)


@pytest.mark.parametrize("kind", ["string", "large_string"])
def test_text_that_another_pandas_has_written_is_the_same_text(tmp_path, kind):
    """Versions of pandas differ in how Parquet names a column of text."""
    measurement = Measurement(tmp_path / "table", SETTINGS, 2)
    for doc in range(2):
        measurement.add(doc, rows(doc).assign(policy="sinks"))
    part = measurement.parts / "00001.parquet"
    arrow = pq.read_table(part)
    place = arrow.column_names.index("policy")
    column = arrow["policy"].cast(getattr(pa, kind)())
    mark = {store.MARK: arrow.schema.metadata[store.MARK]}
    other = arrow.set_column(place, "policy", column).replace_schema_metadata(mark)
    pq.write_table(other, part)
    found = measurement.finish(RUN)
    assert list(found["policy"]) == ["sinks"] * len(found) and set(found["doc"]) == {0, 1}


# --- what is not a measurement's own --------------------------------------------------------------


def tree(folder: Path) -> dict[str, object]:
    """Every file, folder and link below a folder, with contents."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = os.readlink(path)
        else:
            found[name] = path.read_bytes() if path.is_file() else path.stat().st_mode
    return found


def folder_with(name: str, content: str):
    def make(path: Path) -> None:
        path.mkdir()
        (path / name).write_text(content)

    return make


def linked(target_name: str, make):
    def link(path: Path) -> None:
        target = path.with_name(target_name)
        make(target)
        path.symlink_to(target)

    return link


FOREIGN_PARTS = {
    "a folder of notes": folder_with("notes.txt", "mine"),
    "a folder with other tables": folder_with("00000.parquet", "mine"),
    "settings of someone else": folder_with("settings.json", '{"theme": "dark"}'),
    "settings that look alike": folder_with("settings.json", json.dumps(SETTINGS)),
    "settings without their hash": folder_with(
        "settings.json", json.dumps({"settings": SETTINGS, "settings_sha256": "0"})
    ),
    "an empty folder": lambda path: path.mkdir(),
    "a file": lambda path: path.write_text("mine"),
    "a link to a folder": linked("elsewhere", folder_with("notes.txt", "mine")),
    "a link to nothing": lambda path: path.symlink_to("nowhere"),
}
FOREIGN_FILES = {
    "json of npm": ("json", lambda path: path.write_text('{"name": "package", "version": "1"}')),
    "json with settings": ("json", lambda path: path.write_text('{"settings": {}, "a": 1}')),
    "no json": ("json", lambda path: path.write_text("mine")),
    "an empty file": ("json", lambda path: path.write_text("")),
    "a folder": ("json", lambda path: path.mkdir()),
    "a pipe": ("json", os.mkfifo),
    "a link": ("json", linked("mine.txt", lambda path: path.write_text("mine"))),
    "a link to nothing": ("json", lambda path: path.symlink_to("nowhere")),
    "a table by pandas": ("parquet", lambda path: rows(0).to_parquet(path)),
    "a table of ours alone": ("parquet", lambda path: save_table(path, rows(0))),
    "no table": ("parquet", lambda path: path.write_text("mine")),
    "a folder of tables": ("parquet", folder_with("a.parquet", "mine")),
    "a pipe for a table": ("parquet", os.mkfifo),
    "a link to a table": ("parquet", linked("x.parquet", lambda path: rows(0).to_parquet(path))),
    "a device for a table": ("parquet", lambda path: path.symlink_to("/dev/zero")),
}


@pytest.mark.parametrize("kind", FOREIGN_PARTS)
def test_a_folder_it_did_not_make_is_left_alone(tmp_path, kind):
    FOREIGN_PARTS[kind](tmp_path / "car.parts")
    before = tree(tmp_path)
    with pytest.raises(ValueError, match="choose another --out or move it away") as error:
        Measurement(tmp_path / "car", SETTINGS, 1)
    one_line(error, tmp_path / "car.parts")
    assert tree(tmp_path) == before


def test_a_table_without_documents_is_not_gone_on_with(tmp_path):
    with Measurement(tmp_path / "t", SETTINGS, 1) as measurement:
        measurement.add(0, rows(0))
        measurement.finish(RUN)
    path = tmp_path / "t.parquet"
    said = json.loads(path.with_suffix(".json").read_text())
    rows(0).drop(columns="doc").to_parquet(path)
    said["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_suffix(".json").write_text(json.dumps(said))
    with pytest.raises(ValueError, match="expected a column doc, got .*; choose another --out"):
        Measurement(tmp_path / "t", SETTINGS, 1)


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("kind", FOREIGN_FILES)
def test_a_file_it_did_not_make_is_left_alone(tmp_path, kind, begun):
    if begun:
        with Measurement(tmp_path / "package", SETTINGS, 1) as measurement:
            measurement.add(0, rows(0))
    ending, make = FOREIGN_FILES[kind]
    make(tmp_path / f"package.{ending}")
    before = tree(tmp_path)
    with pytest.raises(ValueError) as error:
        Measurement(tmp_path / "package", SETTINGS, 1)
    message = one_line(error, tmp_path)
    assert "package." in message
    assert tree(tmp_path) == before


@pytest.mark.parametrize("kind", FOREIGN_FILES)
def test_a_file_that_comes_while_it_measures_is_left_alone(tmp_path, kind):
    measurement = Measurement(tmp_path / "package", SETTINGS, 1)
    measurement.add(0, rows(0))
    ending, make = FOREIGN_FILES[kind]
    make(tmp_path / f"package.{ending}")
    before = tree(tmp_path)
    with pytest.raises(ValueError, match="got a file changed since"):
        measurement.finish(RUN)
    assert tree(tmp_path) == before


def test_notes_put_into_its_own_folder_stay(tmp_path):
    measurement = Measurement(tmp_path / "table", SETTINGS, 1)
    measurement.add(0, rows(0))
    (measurement.parts / "notes.txt").write_text("mine")
    measurement.finish(RUN)
    assert (measurement.parts / "notes.txt").read_text() == "mine"
    assert len(load_table(tmp_path / "table")) == 200
    with pytest.raises(ValueError, match="notes.txt: expected parts of a measurement alone"):
        Measurement(tmp_path / "table", SETTINGS, 1)


@pytest.mark.parametrize(("one", "two"), [("lr0.1", "lr0.2"), ("a.b.c", "a.b"), ("v1.", "v1")])
def test_dots_in_a_name_are_part_of_it(tmp_path, one, two):
    finished(tmp_path / one, docs=1)
    finished(tmp_path / two, docs=2)
    assert [load_table(tmp_path / name)["doc"].nunique() for name in (one, two)] == [1, 2]
    names = {f"{name}.{ending}" for name in (one, two) for ending in ("parquet", "json")}
    assert {path.name for path in tmp_path.iterdir()} == names
    kinds = {read_manifest(tmp_path / f"{name}.json")["documents"] for name in (one, two)}
    assert kinds == {1, 2}


@pytest.mark.parametrize("name", [".", "..", "", "/", "a/..", "new\nline", "non\udcff"])
def test_a_path_without_a_table_name_is_refused(name):
    with pytest.raises(ValueError, match="out: expected the name of a table, got") as error:
        store.table_file(Path(name))
    assert "\n" not in str(error.value)


def test_what_a_killed_run_left_is_tidied_and_the_like_of_others_is_not(tmp_path):
    with Measurement(tmp_path / "t", SETTINGS, 1) as measurement:
        measurement.add(0, rows(0))
    for left in (".t.parquet.123", ".t.json.7", "t.parts/.00001.parquet.9"):
        (tmp_path / left).write_text("half")
    folder_with("settings.json", "half")(tmp_path / ".t.parts.44")
    others = {".t.parquet.mine", ".t2.parquet.123", "t.parquet.123", ".xt.json.7"}
    for other in others:
        (tmp_path / other).write_text("mine")
    with Measurement(tmp_path / "t", SETTINGS, 1) as measurement:
        measurement.finish(RUN)
    assert {path.name for path in tmp_path.iterdir()} == others | {"t.parquet", "t.json"}


# --- manifests of any kind ------------------------------------------------------------------------

DEEP = 100_000
REST = '"layout": 2, "study": "", "about": {}, "run": {}, "rows": 1, "documents": 1'
STRANGE = {
    "settings null": '{"settings": null, "sha256": "x"}',
    "settings a list": '{"settings": [], "sha256": "x"}',
    "settings a text": '{"settings": "model", "sha256": "x"}',
    "hash a number": '{"settings": {}, "sha256": 1}',
    "hash null": '{"settings": {}, "sha256": null}',
    "hash an object": '{"settings": {}, "sha256": {"a": "b"}}',
    "other settings": '{"settings": {"model": {"a": [1, "\\n"]}, "\\n": 1}, "sha256": "x"}',
    "long settings": json.dumps({"settings": {"model": "x" * 10**6}, "sha256": "x"}),
    "deep lists": "[" * DEEP + "]" * DEEP,
    "deep objects": '{"a":' * DEEP + "1" + "}" * DEEP,
    "deep settings": '{"settings": {"model": ' + "[" * 900 + "]" * 900 + '}, "sha256": "x"}',
    "a huge number": '{"settings": {"seed": ' + "9" * 5000 + '}, "sha256": "x"}',
    "NaN": '{"settings": {"seed": NaN}, "sha256": "x"}',
}


@pytest.mark.parametrize("kind", STRANGE)
def test_a_strange_manifest_is_one_line(table_path, kind):
    manifest = table_path.with_suffix(".json")
    whole = STRANGE[kind].replace('{"settings"', f'{{{REST}, "settings"', 1)
    manifest.write_text(whole)
    before = tree(table_path.parent)
    for read in (load_table, lambda path: Measurement(path, SETTINGS, 3)):
        with pytest.raises(ValueError) as error:
            read(table_path)
        assert len(one_line(error, table_path.with_suffix(""))) < 500
    assert tree(table_path.parent) == before


LAYOUTS = [None, 1, 3, "2", "\n" * 9, [2]]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_manifest_of_another_layout_is_one_line_and_stays(table_path, layout):
    manifest = table_path.with_suffix(".json")
    changed = json.loads(manifest.read_text()) | {"layout": layout}
    manifest.write_text(json.dumps(changed))
    before = tree(table_path.parent)
    for read in (load_table, lambda path: Measurement(path, SETTINGS, 3)):
        with pytest.raises(ValueError, match="expected a manifest of layout 2, got one") as error:
            read(table_path)
        one_line(error, manifest)
    assert tree(table_path.parent) == before


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ([], "expected title and n_sink of each policy"),
        ({"mine": 4}, "expected title and n_sink of each policy"),
        ({"mine": {"title": "mine"}}, "expected title and n_sink of each policy"),
        ({"mine": {"title": "mine", "n_sink": None}}, "expected title and n_sink of each policy"),
        ({"sinks": {"title": "few", "n_sink": 2}}, "policy sinks: expected n_sink 4 as before"),
        ({"told": {"title": "told", "n_sink": 2}}, "policy told: expected n_sink 1 as before"),
    ],
)
def test_what_a_manifest_says_of_policies_is_checked(table_path, monkeypatch, said, message):
    monkeypatch.setattr(names, "_told", {})
    names.tell("told", "told earlier", 1)
    manifest = table_path.with_suffix(".json")
    found = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(found | {"about": {"policies": said}}))
    with pytest.raises(ValueError, match=message) as error:
        load_table(table_path)
    one_line(error, manifest)
    assert names.name_of("told") == "told earlier"


@pytest.mark.parametrize("key", store.KEYS)
def test_a_manifest_without_a_key_is_one_line(table_path, key):
    manifest = table_path.with_suffix(".json")
    found = json.loads(manifest.read_text())
    del found[key]
    manifest.write_text(json.dumps(found))
    with pytest.raises(ValueError, match=f"expected a manifest .*{key}") as error:
        load_table(table_path)
    one_line(error, manifest)


@pytest.mark.parametrize("kind", STRANGE)
def test_strange_settings_of_begun_parts_are_one_line(tmp_path, kind):
    begun = Measurement(tmp_path / "table", SETTINGS, 3).parts / "settings.json"
    begun.write_text(STRANGE[kind])
    with pytest.raises(ValueError) as error:
        Measurement(tmp_path / "table", SETTINGS, 3)
    assert len(one_line(error, begun.parent)) < 500


@pytest.mark.parametrize("settings", ["{}", '{"model": "x"}', '{"corpus": null}'])
def test_stored_tables_whose_settings_name_nothing_are_one_line(table_path, settings):
    manifest = table_path.with_suffix(".json")
    changed = json.loads(manifest.read_text()) | {"settings": json.loads(settings), "study": "kind"}
    manifest.write_text(json.dumps(changed))
    manifest.rename(manifest.with_name("kind-x.json"))
    with pytest.raises(ValueError, match="expected settings with") as error:
        store.stored("kind", table_path.parent)
    one_line(error, table_path.parent / "kind-x.json")


@pytest.mark.parametrize("ending", [".parquet", ".json"])
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), os.mkdir])
def test_what_may_never_end_is_not_read(table_path, ending, make):
    path = table_path.with_suffix(ending)
    path.unlink()
    make(path)
    with pytest.raises(ValueError, match="expected a") as error:
        load_table(table_path)
    one_line(error, path)


@pytest.mark.parametrize("key", ["rows", "documents"])
@pytest.mark.parametrize("number", [0, 7, -1, "many", None, [600], {"a": 1}])
def test_a_manifest_that_counts_otherwise_is_refused(table_path, key, number):
    manifest = table_path.with_suffix(".json")
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {key: number}))
    expected = f"{key} by its manifest, got|a manifest with int as its {key}, got"
    with pytest.raises(ValueError, match=expected) as error:
        load_table(table_path)
    one_line(error, table_path if isinstance(number, int) else manifest)


def test_every_stored_table_is_as_its_manifest_says_and_names_its_model():
    for manifest in sorted(store.DATA.glob("*.json")):
        load_table(manifest)
        settings = read_manifest(manifest)["settings"]
        assert "model" not in settings or len(settings["model_sha256"]) == 64, manifest


@pytest.mark.parametrize(
    "make", [lambda path: path.write_text("mine"), os.mkfifo, os.mkdir, lambda p: p.symlink_to("x")]
)
def test_a_lock_file_it_did_not_make_is_left_alone(tmp_path, make):
    make(tmp_path / ".t.parquet.lock")
    before = tree(tmp_path)
    with pytest.raises(ValueError, match="expected an empty lock file") as error:
        Measurement(tmp_path / "t", SETTINGS, 1)
    one_line(error, tmp_path)
    assert tree(tmp_path) == before
