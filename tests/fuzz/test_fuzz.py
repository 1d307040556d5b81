"""The inputs of `make fuzz` are the same each time; what watches them notices what it should."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from fuzz import inputs, run, worker


def test_there_are_two_thousand_and_they_are_the_same_each_time(tmp_path):
    assert len(list(run.plan(2000))) == 2000
    drawn = []
    for name in ("a", "b"):
        place = tmp_path / name / "place"
        place.mkdir(parents=True)
        (tmp_path / name / "studies.toml").touch()
        given = inputs.drawn("flags of measure", 7, place, tmp_path / name)
        drawn.append([word.replace(str(tmp_path / name), "") for word in given.argv])
    assert drawn[0] == drawn[1] and drawn[0][0] == "measure"


def test_a_sample_of_each_kind_is_refused_in_a_line_or_does_what_was_asked():
    found = list(run.results(50, alone=False))
    assert {one["kind"] for one in found} == set(inputs.KINDS)
    assert [(one["kind"], one["number"], one["wrong"]) for one in found if one["wrong"]] == []
    assert {"refused", "accepted"} <= {one["outcome"] for one in found}


# --- what watches -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def watch(tmp_path_factory) -> worker.Watch:
    """A watch that is off: its hook stays, and does nothing then."""
    return worker.Watch(tmp_path_factory.mktemp("root"))


def start_a_program(place: Path) -> None:
    subprocess.run(["true"], check=True)


def unpickle(place: Path) -> None:
    pickle.load(io.BytesIO(pickle.dumps(pytest.raises)))


def run_code(place: Path) -> None:
    exec(compile("1 + 1", str(place / "evil.py"), "exec"))


def write_elsewhere(place: Path) -> None:
    (place.parents[1] / "elsewhere").write_text("x")


def make_a_folder_elsewhere(place: Path) -> None:
    (place.parents[1] / "folder").mkdir()


@pytest.mark.parametrize(
    ("deed", "noticed"),
    [
        (start_a_program, "started a program"),
        (unpickle, "unpickled"),
        (run_code, "ran "),
        (write_elsewhere, "wrote to "),
        (make_a_folder_elsewhere, "wrote to "),
        (lambda place: (place / "t").write_text("x"), ""),
        (lambda place: os.listdir(place.parent), ""),
    ],
)
def test_deeds_are_noticed(watch, tmp_path, deed, noticed):
    root = tmp_path / "root"
    place = root / "place"
    place.mkdir(parents=True)
    watch.root, watch.place, watch.seen, watch.on = str(root), str(place), [], True
    try:
        deed(place)
    finally:
        watch.on = False
    assert [one.startswith(noticed) for one in watch.seen] == [True] * bool(noticed), watch.seen


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ("t.parquet", []),
        ("t.parts/00000.parquet", []),
        (".t.parquet.lock", []),
        ("other.txt", ["other.txt"]),
        ("model/config.json", ["model/config.json"]),
    ],
)
def test_files_beside_the_output_are_noticed(tmp_path, change, names):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").touch()
    before = worker.tree(tmp_path)
    (tmp_path / change).parent.mkdir(exist_ok=True)
    (tmp_path / change).write_text("x")
    after = worker.tree(tmp_path)
    assert worker.strangers(before, after, tmp_path, ["measure", "--out=t"], ()) == names


@pytest.mark.parametrize(
    ("code", "err", "wrong"),
    [
        (0, "", False),
        (0, "UserWarning: odd\n", True),
        (0, "note: t.parquet: expected finite numbers\n", False),
        (1, "error: expected this, got that\n", False),
        (1, "error: expected this\ngot that\n", True),
        (1, "petrogold: fetching  0.0/22.8 MB 0:00:14\nerror: expected this\n", False),
        (1, "that\n", True),
        (1, "", True),
        (1, "Traceback (most recent call last)\nValueError: x\n", True),
        (2, "Usage: kvlib [OPTIONS]\nTry this\n", False),
        (0, "model · text ━━━━ 2/2 documents · elapsed 0:00:00\n", False),
    ],
)
def test_words_that_are_not_one_line_are_noticed(code, err, wrong):
    assert bool(worker.wrong_words("measure", code, err)) == wrong


def test_an_input_that_does_not_end_and_a_worker_that_dies_are_noticed(tmp_path, monkeypatch):
    one = run.Worker(tmp_path)
    read, write = os.pipe()
    one.process = subprocess.Popen(["sleep", "600"], stdin=subprocess.PIPE, text=True)
    one.results = os.fdopen(read)
    try:
        assert "nothing done" in one.answer(still=0.2)["ended"]
        monkeypatch.setattr(run, "MOST_BYTES", 1000)
        assert "memory" in one.answer()["ended"]
        os.close(write)
        one.process.kill()
        one.process.wait()
        assert "died" in one.answer()["ended"]
    finally:
        one.stop()


def test_an_input_that_works_without_end_is_noticed(tmp_path):
    one = run.Worker(tmp_path)
    read, write = os.pipe()
    one.process = subprocess.Popen(
        [sys.executable, "-c", "while True: pass"], stdin=subprocess.PIPE, text=True
    )
    one.results = os.fdopen(read)
    try:
        assert "no end after" in one.answer(most=0.2)["ended"]
    finally:
        one.stop()
        os.close(write)
