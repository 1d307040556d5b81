"""Shares of a study: measured apart, told, merged; what is not of the same is refused."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path

import light
import pandas as pd
import pytest

from kvlib import store, study
from kvlib.study import here, items, states


@pytest.fixture(autouse=True)
def planted(monkeypatch):
    monkeypatch.setattr(light, "SECONDS", 0)
    monkeypatch.setitem(sys.modules, light.PLACE, None)
    light.plant(sys.modules)


@pytest.fixture
def kvlib(command):
    """kvlib(…): exit code, standard output, standard error."""
    return command


@pytest.fixture
def file(tmp_path) -> Path:
    return light.declared(tmp_path, [1, 2])


def listed(out: str) -> dict[str, list[str]]:
    """table → the other cells of its line, after the head."""
    return {line.split()[0]: line.split()[1:] for line in out.splitlines()[1:]}


def one_line(found: tuple[int, str, str]) -> str:
    code, out, err = found
    assert code == 1 and out == "" and err.count("\n") == 1 and err.startswith("error: "), err
    return err


# --- items ----------------------------------------------------------------------------------------


def copied(folder: Path, monkeypatch) -> Path:
    """The sources, copied, as those that are hashed."""
    leave = shutil.ignore_patterns("data", "__pycache__")
    shutil.copytree(items.PACKAGE, folder, ignore=leave)
    monkeypatch.setattr(items, "PACKAGE", folder)
    return folder


def test_the_hash_of_the_code_is_that_of_what_measures_wherever_it_lies(tmp_path, monkeypatch):
    hashed = items.code_sha256.__wrapped__  # without its memory
    kinds = ("truncation_sensitivity", "calibration")
    before = [hashed(kind) for kind in kinds]
    assert len({*before}) == 2 and all(len(one) == 64 for one in before)
    there = copied(tmp_path / "elsewhere", monkeypatch)
    assert [hashed(kind) for kind in kinds] == before
    for name in ("measure/truncation.py", "models/load.py", "fit/calibration.py"):
        content = (there / name).read_bytes()
        (there / name).write_bytes(content.replace(b"\n", b"\r\n"))
        assert [hashed(kind) for kind in kinds] == before  # line ends are not text
        (there / name).write_bytes(content + b"\nx = 1\n")
        changed = [one != other for one, other in zip([*map(hashed, kinds)], before, strict=True)]
        assert changed == [name != "fit/calibration.py", True]
        (there / name).write_bytes(content)
    (there / "charts" / "parts.py").write_text("x = 1\n")
    assert [hashed(kind) for kind in kinds] == before


def test_a_key_is_of_settings_document_and_code():
    one = items.key({"model": "a", "seed": 1}, 3, "c")
    assert one == items.key({"seed": 1, "model": "a"}, 3, "c") and len(one) == 64
    others = [({"model": "b", "seed": 1}, 3, "c"), ({"model": "a", "seed": 1}, 4, "c")]
    others += [({"model": "a", "seed": 1}, 3, "d"), ({"model": "a"}, 3, "c")]
    assert len({one, *(items.key(*other) for other in others)}) == 5


def test_a_part_says_what_made_it(kvlib, file, tmp_path):
    assert kvlib("study", "t-1", "--file", file, "--shard", "1/12")[0] == 0
    mark = store._read_marked(tmp_path / "t-1.parts" / "00000.parquet")[1]
    code = items.code_sha256("calibration")
    settings = json.loads((tmp_path / "t-1.parts" / "settings.json").read_text())["settings"]
    assert mark["code_sha256"] == code and mark["key"] == items.key(settings, 0, code)
    assert mark["subject"] == {"model_sha256": "a" * 64}
    assert mark["run"]["device"] == "cpu" and "torch" in mark["run"]["versions"]


# --- shares ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("of", [1, 5, 16, 40])
def test_shares_are_all_items_once(file, of):
    studies = study.studies(file)
    taken = [
        (one.table, doc)
        for number in range(1, of + 1)
        for one, docs in here.Shard(number, of).share(studies)
        for doc in docs
    ]
    assert len(taken) == len(set(taken)) == 24
    assert here.Shard(3, 16).share(studies) == [(studies[0], [2]), (studies[1], [6])]


@pytest.mark.parametrize("shard", ["17/16", "0/4", "x", "1/0", "-1/4", "1/4/2", "1", "٣/٤"])
def test_a_share_that_there_is_not_is_one_line(kvlib, file, tmp_path, shard):
    code, out, err = kvlib("study", "--file", file, f"--shard={shard}")
    assert code == 2 and out == "" and err.count("\n") == 1
    assert "error: shard: expected a number and how many there are, from 1/16 to 16/16" in err
    assert light.left(tmp_path) == set()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--shard=1/2", "--workers=2"], "expected one of --shard, --workers and --scheduler"),
        (["--workers=-1"], "workers: expected at least 1, got -1"),
    ],
)
def test_flags_that_do_not_go_together_are_one_line(kvlib, file, flags, message):
    code, out, err = kvlib("study", "--file", file, *flags)
    assert code == 2 and out == "" and err.count("\n") == 1 and message in err


def test_without_dask_a_cluster_is_one_line(kvlib, file, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    monkeypatch.delitem(sys.modules, "kvlib.study.cluster", raising=False)
    monkeypatch.delattr(study, "cluster", raising=False)
    line = one_line(kvlib("study", "--file", file, "--workers", "2"))
    assert "expected the package distributed, got no module distributed; pip install" in line


def test_merged_shares_are_the_tables_of_one_process(kvlib, file, tmp_path):
    whole = tmp_path / "whole"
    whole.mkdir()
    assert kvlib("study", "--file", shutil.copy(file, whole))[0] == 0
    code, out, err = kvlib("study", "--file", file, "--shard", "2/3")
    assert code == 0 and out.startswith("shard 2/3: 8 documents measured, 0 done before; ")
    assert not list(tmp_path.glob("*.parquet"))
    code, out, err = kvlib("status", "--file", file)
    assert code == 1 and listed(out)["t-1"] == ["4/12", "0", "0", "8", "begun"]
    assert err.splitlines()[0] == "t-1: missing 0, 2-3, 5-6, 8-9, 11"
    found = kvlib("merge", "t-1", "--file", file)
    assert found == (1, "", "t-1: missing 0, 2-3, 5-6, 8-9, 11\n")
    for shard in ("1/3", "3/3", "2/3"):
        assert kvlib("study", "--file", file, "--shard", shard)[0] == 0
    code, out, err = kvlib("status", "--file", file)
    assert code == 0 and {tuple(line[-2:]) for line in listed(out).values()} == {("to", "merge")}
    found = kvlib("merge", "--file", file)
    assert found == (0, "t-1: 12 of 12 documents\nt-2: 12 of 12 documents\n", "")
    code, out, err = kvlib("status", "--file", file)
    assert code == 0 and {line[-1] for line in listed(out).values()} == {"complete"}
    assert kvlib("merge", "--file", file)[0] == 0
    for name in ("t-1", "t-2"):
        one, other = (folder / f"{name}.parquet" for folder in (whole, tmp_path))
        assert one.read_bytes() == other.read_bytes()
        one, other = (store.read_manifest(file) for file in (one, other))
        for manifest in (one, other):
            assert manifest["run"].pop("command").startswith("python -m kvlib ")
            del manifest["run"]["date"]
        assert one == other
        pd.testing.assert_frame_equal(
            store.load_table(tmp_path / name), light.undisturbed(int(name[-1]))
        )
    shutil.rmtree(whole)
    assert light.left(tmp_path) == set()


def test_a_share_that_is_taken_again_measures_what_is_missing(kvlib, file, tmp_path):
    assert kvlib("study", "--file", file, "--shard", "1/2")[0] == 0
    (tmp_path / "t-1.parts" / "00004.parquet").unlink()
    code, out, err = kvlib("study", "--file", file, "--shard", "1/2")
    assert code == 0 and out.startswith("shard 1/2: 1 document measured, 11 done before; ")


def test_one_process_finishes_what_shares_left_and_a_share_what_one_process_left(
    kvlib, file, tmp_path
):
    assert kvlib("study", "--file", file, "--shard", "1/2")[0] == 0
    assert kvlib("study", "--file", file)[0] == 0
    assert {study.state(one).word for one in study.studies(file)} == {"complete"}
    assert light.left(tmp_path) == set()


# --- what is not of the same ------------------------------------------------------------------


def on_two_disks(kvlib, file: Path, tmp_path: Path) -> list[Path]:
    disks = [tmp_path / "one", tmp_path / "two"]
    for number, disk in enumerate(disks, start=1):
        disk.mkdir()
        shutil.copy(file, disk)
        assert kvlib("study", "--file", disk / file.name, "--shard", f"{number}/2")[0] == 0
    return disks


def test_parts_on_other_disks_are_taken_in(kvlib, file, tmp_path):
    disks = on_two_disks(kvlib, file, tmp_path)
    before = {path: path.read_bytes() for disk in disks for path in disk.rglob("*.parquet")}
    code, out, err = kvlib("merge", "t-1", "--file", file, "--from", disks[0])
    assert code == 1 and err == "t-1: missing 1, 3, 5, 7, 9, 11\n"
    found = kvlib("merge", "--file", file, "--from", disks[0], "--from", disks[1])
    assert found == (0, "t-1: 12 of 12 documents\nt-2: 12 of 12 documents\n", "")
    assert {path: path.read_bytes() for path in before} == before  # they stay where they were
    pd.testing.assert_frame_equal(store.load_table(tmp_path / "t-1"), light.undisturbed(1))
    for disk in disks:
        shutil.rmtree(disk)
    assert light.left(tmp_path) == set()


def test_what_is_no_folder_or_not_ours_is_not_merged(kvlib, file, tmp_path):
    disks = on_two_disks(kvlib, file, tmp_path)
    args = ("merge", "t-1", "--file", file, "--from", disks[0], "--from")
    assert "from: expected a folder, got " in one_line(kvlib(*args, tmp_path / "three"))
    settings = disks[1] / "t-1.parts" / "settings.json"
    found = json.loads(settings.read_text())
    settings.write_text(json.dumps(found | {"settings": found["settings"] | {"studies": 3}}))
    assert f"{settings}: expected settings with their SHA-256" in one_line(kvlib(*args, disks[1]))
    settings.unlink()
    line = one_line(kvlib(*args, disks[1]))
    assert f"{settings.parent}: expected a folder that a measurement made" in line
    assert not (tmp_path / "t-1.parquet").exists()


def test_parts_of_another_study_are_not_merged(kvlib, file, tmp_path):
    disks = on_two_disks(kvlib, file, tmp_path)
    file.write_text(file.read_text() + "studies = 7\n")
    line = one_line(kvlib("merge", "t-1", "--file", file, "--from", disks[0]))
    assert "t-1: expected parts of this study, got some of other studies" in line


def test_parts_of_another_model_are_not_merged(kvlib, file, tmp_path, monkeypatch):
    assert kvlib("study", "--file", file, "--shard", "1/2")[0] == 0
    other = tmp_path / "other"
    other.mkdir()
    monkeypatch.setenv("LIGHT_MODEL", "b" * 64)
    assert kvlib("study", "--file", shutil.copy(file, other), "--shard", "2/2")[0] == 0
    theirs, ours = (folder / "t-1.parts" for folder in (other, tmp_path))
    line = one_line(kvlib("merge", "t-1", "--file", file, "--from", other))
    assert f"{theirs} was begun with other settings: expected model_sha256 = 'bbb" in line
    shutil.copy(theirs / "00001.parquet", ours)
    line = one_line(kvlib("merge", "t-1", "--file", file))
    assert f"{ours / '00001.parquet'}: expected rows with model_sha256 = 'aaa" in line
    assert "got 'bbb" in line
    code, out, err = kvlib("study", "--file", file, "--shard", "2/2")  # and are not added to
    assert code == 1 and "0 documents measured, 1 done before, 11 failed" in out


def test_parts_of_other_code_are_not_merged(kvlib, file, tmp_path, monkeypatch):
    assert kvlib("study", "--file", file, "--shard", "1/2")[0] == 0
    other = tmp_path / "other"
    other.mkdir()
    monkeypatch.setattr(items, "code_sha256", lambda kind: "b" * 64)
    assert kvlib("study", "--file", shutil.copy(file, other), "--shard", "2/2")[0] == 0
    args = ("merge", "t-1", "--file", file)
    line = one_line(kvlib(*args, "--from", other))
    assert f"{other / 't-1.parts' / '00001.parquet'}: expected rows measured by code " in line
    assert "got those of code bbbbbbbbbbbb" in line
    for part in (other / "t-1.parts").glob("0*"):
        shutil.copy(part, tmp_path / "t-1.parts")
    line = one_line(kvlib(*args))
    assert f"{tmp_path / 't-1.parts' / '00001.parquet'}: expected rows of the same code" in line
    line = one_line(kvlib("study", "t-1", "--file", file))
    assert f"{tmp_path / 't-1.parts' / '00000.parquet'}: expected rows measured by code " in line
    assert not (tmp_path / "t-1.parquet").exists()


# --- what fails -------------------------------------------------------------------------------


def test_what_fails_in_a_share_is_noted_and_the_rest_goes_on(kvlib, tmp_path):
    file = light.declared(tmp_path, [7, 13, 1])
    code, out, err = kvlib("study", "--file", file, "--shard", "1/1")
    assert code == 1 and "shard 1/1: 23 documents measured, 0 done before, 13 failed" in out
    code, out, err = kvlib("status", "--file", file)
    assert code == 1 and listed(out)["t-7"] == ["11/12", "0", "1", "0", "begun"]
    assert listed(out)["t-13"] == ["0/12", "0", "12", "0", "missing"]
    lines = err.splitlines()
    line = "ArithmeticError: expected finite logits, got NaN"
    assert lines[0] == f"t-7: document 7 failed on {store.HOST}: {line}"
    line = "cannot load 'a-model': expected a folder, got none"
    assert lines[1:] == [f"t-13: document {d} failed on {store.HOST}: {line}" for d in range(12)]


def test_a_share_whose_disk_is_full_says_so_and_goes_on_later(kvlib, file, tmp_path, monkeypatch):
    whole, calls = store._save, []

    def full(*arguments):
        calls.append(arguments)
        if len(calls) == 4:
            raise OSError(28, "No space left on device")
        whole(*arguments)

    monkeypatch.setattr(store, "_save", full)
    code, out, err = kvlib("study", "--file", file, "--shard", "1/2")
    assert code == 1 and out == "" and err.rstrip().endswith("[Errno 28] No space left on device")
    monkeypatch.setattr(store, "_save", whole)
    assert states.status(study.studies(file)[0]).done == 3
    for args in (["--shard", "1/2"], ["--shard", "2/2"]):
        assert kvlib("study", "--file", file, *args)[0] == 0
    assert kvlib("merge", "--file", file)[0] == 0
    pd.testing.assert_frame_equal(store.load_table(tmp_path / "t-1"), light.undisturbed(1))


def test_a_table_of_other_settings_is_all_holes(kvlib, file):
    assert kvlib("study", "t-1", "--file", file)[0] == 0
    file.write_text(file.read_text() + "studies = 7\n")
    code, out, err = kvlib("status", "t-1", "--file", file)
    assert code == 1 and listed(out)["t-1"] == ["0/12", "0", "0", "12", "other", "studies"]
    line = one_line(kvlib("merge", "t-1", "--file", file))
    assert "expected a table of this study or none, got one that is: other studies" in line


def test_numbers_are_told_in_ranges():
    assert states.ranges([]) == "" and states.ranges([4]) == "4"
    assert states.ranges([0, 1, 2, 5, 7, 8]) == "0-2, 5, 7-8"


def test_settings_have_their_sha256(kvlib, file, tmp_path):
    """What `begun` holds is checked against the hash that a measurement gave it."""
    assert kvlib("study", "--file", file, "--shard", "1/2")[0] == 0
    found = store.begun(tmp_path / "t-1")
    said = json.dumps(found["settings"], sort_keys=True).encode()
    assert found["settings_sha256"] == hashlib.sha256(said).hexdigest()
    assert found["about"] == {}
