"""Stored tables: what was written comes back, damage is told from data, a kill costs no rows."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from kvlib import store
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


def finished(path: Path, docs: int = 3) -> Path:
    measurement = Measurement(path, SETTINGS, docs)
    for doc in range(docs):
        measurement.add(doc, rows(doc))
    measurement.finish(RUN)
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
    finished(tmp_path / "kind-one")
    finished(tmp_path / "other-one")
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
    (tmp_path / f".{path.name}.{os.getpid()}").symlink_to("/dev/full")
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
