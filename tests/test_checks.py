"""What is kept of rows measured anew and of workers that died, and what the page says of it."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import sys
from pathlib import Path

import pandas as pd
import pytest

from kvlib import store, study
from kvlib.study import checks, verify

BENCH = Path(__file__).with_name("bench")


@pytest.fixture(scope="module")
def deaths():
    spec = importlib.util.spec_from_file_location("bench_deaths", BENCH / "deaths.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def row(table: str, model: str = "gemma3-270m", **other: object) -> dict:
    said = {"dtype": "float32", "of_means": False, "rows": 2, "word": "ok", "share": 0.25}
    gaps = {"gap": {"kl_nats": 1.2e-6, "tv": 3e-7}, "allowed": "2e-05"}
    return {"table": table, "model": model} | said | gaps | other


# --- kept row by row ----------------------------------------------------------------------------


def test_a_row_takes_the_place_of_that_of_the_same_table(tmp_path):
    file = checks.file_of("verified", tmp_path)
    assert checks.rows_of(file) == []
    for name, rows in (("b", 1), ("a", 2), ("b", 3)):
        checks.keep({"table": name, "rows": rows}, "table", file)
    assert checks.rows_of(file) == [{"table": "a", "rows": 2}, {"table": "b", "rows": 3}]
    assert [path.name for path in file.parent.iterdir()] == ["verified.json"]


def test_a_floor_is_the_largest_gap_of_a_model_and_a_format():
    rows = [
        row("a"),
        row("b", gap={"kl_nats": 1e-7, "tv": 4e-5}, share=0.5),
        row("c", dtype="bfloat16"),
        row("d", of_means=True),
        row("e", "smollm2-135m-instruct"),
    ]
    found = checks.floors(rows)
    assert list(found.index) == ["SmolLM2-135M-Instruct", *["Gemma-3-270M"] * 3]
    both = found[(found["format"] == "float32") & (found["compared"] == "rows")].iloc[1]
    assert both[["tables", "rows"]].tolist() == [2, 4]
    assert both["KL (nats)"] == 1.2e-6 and both["TV"] == 4e-5
    assert both["of what is allowed"] == "50%"
    assert list(checks.each(rows).index) == ["a", "b", "c", "d", "e"]


def test_kinds_that_are_counted_are_those_that_verify_measures():
    assert set(checks.VERIFIED_KINDS) == set(verify.AGAIN)


# --- what is stored -----------------------------------------------------------------------------


def test_what_was_verified_is_of_the_tables_that_are_stored():
    """After a table was made anew: kvlib verify TABLE --rows 2 --record."""
    there = {table.path.stem: table.manifest["sha256"] for table in store.tables()}
    for one in checks.verified():
        assert there[one["table"]] == one["sha256"], one["table"]
        assert one["word"] == "ok" and one["share"] <= 1, one["table"]


def test_the_page_shows_few_rows_and_folds_the_rest():
    assert 0 < len(checks.floors(checks.verified())) <= 8


@pytest.mark.parametrize("whole", [False, True])
def test_workers_died_over_tables_of_models_that_are_declared_and_nothing_differed(whole):
    died = {one["model"]: one for one in checks.killed(whole)}
    declared = {one.settings.get("model", "no model") for one in study.studies()}
    assert died and died.keys() <= declared
    assert all(one["deaths"] > 0 and not one["different"] for one in died.values())
    assert all(not one["left"] for one in died.values())


# --- all tables in little -----------------------------------------------------------------------


def test_every_table_is_there_in_little_and_can_be_declared(deaths, tmp_path):
    small = [one for group in deaths.groups().values() for one in group]
    file = tmp_path / "studies.toml"
    file.write_text(deaths.declared(small), encoding="utf-8")
    again = study.studies(file)
    assert {one.table for one in again} == {one.table for one in study.studies()}
    for one, before in zip(again, small, strict=True):
        assert (one.kind, one.settings, one.docs) == (before.kind, before.settings, before.docs)
        if one.kind not in ("bends", "calibration"):  # whose documents are given
            one.checked()
            assert one.docs <= 2
    whole = {one.table: one for one in study.studies()}
    for one in again:
        for key in ("model", "corpus", "dtype", "policies", "protocol", "variants"):
            assert one.settings.get(key) == whole[one.table].settings.get(key)


def test_named_tables_can_be_had_at_their_full_length(deaths):
    groups = deaths.groups(["sensitivity-small-gpt2-*"])
    named = [one for one in study.studies() if one.table.startswith("sensitivity-small-gpt2-")]
    assert groups == {"small-gpt2": named} and len(named) > 1
    with pytest.raises(ValueError, match="unknown study or table"):
        deaths.groups(["no-such-table"])


def two_tables(folder: Path, deaths, change: float = 0.0) -> tuple[list[study.Study], list[Path]]:
    """The same table in two folders, but for one row's loss and all clock times."""
    (one,) = (o for o in study.studies() if o.kind == "cache_run")
    folders = [folder / way for way in ("alone", "together")]
    for number, place in enumerate(folders):
        settings = one.settings | {"kind": one.kind}
        with store.Measurement(place / one.table, settings, 2) as measurement:
            for doc in range(2):
                said = {"doc": doc, "token": [1, 2], "seconds": 0.5 + number}
                rows = pd.DataFrame(said | {"cpu_seconds": 1.0, "cache_bytes": 100.0})
                rows.loc[0, "cache_bytes"] += change * number
                measurement.add(doc, rows)
            measurement.finish({"command": "by hand"}, one.label, {})
    return [dataclasses.replace(one, docs=2)], folders


def test_clock_times_may_differ_and_nothing_else(deaths, tmp_path):
    assert deaths.different(*flat(two_tables(tmp_path / "a", deaths))) == []
    (line,) = deaths.different(*flat(two_tables(tmp_path / "b", deaths, change=1e-9)))
    assert "cache_bytes" in line


def flat(made):
    studies, folders = made
    return studies, *folders


def test_what_dask_keeps_is_nothing_left_and_a_workers_folder_is(deaths, tmp_path):
    space = tmp_path / deaths.DASK
    space.mkdir()
    (space / "purge.lock").touch()
    assert deaths.temporary(tmp_path) == set()
    (space / "worker-1").mkdir()
    assert deaths.temporary(tmp_path) == {f"{deaths.DASK}/worker-1"}


def test_the_files_are_a_row_a_line():
    for name in ("verified", "deaths"):
        text = checks.file_of(name).read_text(encoding="utf-8")
        assert len(text.splitlines()) == len(json.loads(text)["rows"]) + 2
