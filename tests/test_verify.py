"""Stored rows measured anew: what is as it was passes, what was changed is found, what is not here
is skipped; noise floors are what two roads to one law differ by."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from kvlib import __main__ as command_line
from kvlib import store, study
from kvlib.measure import floor, laws
from kvlib.study import checks, verify

SIZE = {"seq_len": 64, "stride": 80, "docs": 3}
TRUNCATED = SIZE | {"kind": "truncation_sensitivity", "max_window": 16, "pairs_per_octave": 20}
POLICIES = SIZE | {"kind": "policy_distortion", "budgets": [12, 16]}
DECLARED = {
    "plain": TRUNCATED,
    "thin": TRUNCATED | {"thin": 2, "contexts": [40, 56], "twice": 4},
    "half": TRUNCATED | {"dtype": "bfloat16", "twice": 8},
    "half-once": TRUNCATED | {"dtype": "bfloat16"},
    "online": POLICIES | {"policies": ["sinks", "random"], "every": 2},
    "reencode": POLICIES | {"policies": ["sinks", "random"], "protocol": "reencode"},
    "prefill": POLICIES | {"policies": ["tova", "sinks"], "protocol": "prefill"},
    "stepwise": POLICIES | {"policies": ["tova"]},
    "positions": SIZE
    | {"kind": "positions", "variants": ["restarted", "kept", "moved", "shuffled"]}
    | {"windows": [16], "targets": 3},
    "nested": SIZE | {"kind": "diagnostics", "windows": [4, 8], "targets": 2},
}


@pytest.fixture(scope="module")
def folder(tiny_folder, text_file, tmp_path_factory) -> Path:
    """A table of each of `DECLARED`, made by the loop."""
    folder = tmp_path_factory.mktemp("tables")
    for name, settings in DECLARED.items():
        rest = settings | {"model": str(tiny_folder), "corpus": str(text_file)}
        kind, docs = rest.pop("kind"), rest.pop("docs")
        (one,) = study.declare(kind, name, rest, docs, folder)
        study.run(one, "by hand", "cpu")
    return folder


@pytest.fixture
def here(command, folder, text_file):
    """verify(…): exit code and lines of `kvlib verify` with this folder and text."""

    def run(*args: object, corpus: object = text_file) -> tuple[int, list[str]]:
        given = ["verify", *args, "--corpus", corpus, "--device", "cpu"]
        folders = [] if "--folder" in args else ["--folder", folder]
        code, out, err = command(*given, *folders)
        return code, (out + err).splitlines()

    return run


def copied(folder: Path, name: str, to: Path) -> Path:
    for ending in (".json", ".parquet"):
        shutil.copy(store.table_file(folder / name, ending), to)
    return to / name


def rewrite(path: Path, change) -> None:
    """Change a table's rows, and its manifest with them, as if they had been measured so."""
    table, manifest = store.load_table(path), store.read_manifest(path)
    change(table)
    store.save_table(store.table_file(path), table)
    manifest["sha256"] = store.sha256(store.table_file(path))
    store.write_manifest(store.table_file(path, ".json"), manifest)


def test_a_table_of_a_plan_is_said_to_be_none_of_those(here, folder, tmp_path):
    path = copied(folder, "plain", tmp_path)
    manifest = store.read_manifest(path) | {"study": "plan"}
    manifest["settings"] |= {"corpus": ", ".join(f"{k}.txt" for k in range(200))}
    store.write_manifest(store.table_file(path, ".json"), manifest)
    code, lines = here(str(path))
    assert lines == ["plain: not verified: a table of plan: its texts are one's own"], code


def test_a_text_whose_name_no_file_can_have_is_skipped_and_the_rest_goes_on(here, folder, tmp_path):
    path = copied(folder, "plain", tmp_path)
    manifest = store.read_manifest(path)
    manifest["settings"] |= {"corpus": ", ".join(f"{k}.txt" for k in range(200))}
    store.write_manifest(store.table_file(path, ".json"), manifest)
    code, lines = here(str(path), corpus="")
    assert code == 1 and len(lines) == 1 and lines[0].startswith("plain: skipped: its text is not")


# --- what is as it was ------------------------------------------------------------------------


def test_fresh_tables_of_each_kind_are_verified(here, folder):
    code, lines = here()
    assert code == 0, lines
    words = {line.split(":")[0]: line.split(": ")[1] for line in lines}
    assert words == {n: "not verified" if n == "nested" else "ok" for n in DECLARED}
    said = {line.split(":")[0]: line for line in lines}
    assert "8 rows of 2 documents" in said["plain"] and "float32 on cpu" in said["plain"]
    assert "allowed 2e-05 " in said["plain"] or "2e-05 + 0.0001 of it" in said["plain"]
    assert "bfloat16 on cpu" in said["half"] and "laws measured twice" in said["half"]
    assert "bfloat16 beside float32" in said["half-once"]
    assert "of the mean" in said["stepwise"] and "of the mean" in said["prefill"]
    assert "only truncation_sensitivity, policy_distortion, positions are" in said["nested"]


def test_all_rows_can_be_asked_for(here, folder):
    code, lines = here("plain", "thin", "--rows", 10_000)
    assert code == 0 and len(lines) == 2
    rows = len(store.load_table(folder / "plain"))
    assert f"{rows} rows of 3 documents" in lines[0]
    table = store.load_table(folder / "thin")
    assert (table["window"] == table["context"]).sum() == 4  # noise, not measured anew
    assert f"{len(table) - 4} rows of 3 documents" in lines[1]


def test_a_seed_draws_the_rows(tiny, folder):
    table = store.load_table(folder / "plain")
    rngs = [np.random.default_rng(k) for k in (0, 0, 1)]
    first, again, other = (verify._drawn(table, 8, rng).index.tolist() for rng in rngs)
    assert first == again != other and len(set(first)) == 8


def test_a_table_is_found_by_name_study_pattern_and_path(folder, tmp_path):
    names = [table.path.stem for table in verify.chosen(["half*", "plain"], folder)]
    assert sorted(names) == ["half", "half-once", "plain"]
    path = copied(folder, "plain", tmp_path)
    assert [t.path for t in verify.chosen([str(path)], folder)] == [store.table_file(path)]
    assert len(verify.chosen([], folder)) == len(DECLARED)
    with pytest.raises(ValueError, match="expected a table or a study in .*, got 'plane'"):
        verify.chosen(["plane"], folder)


def test_what_was_found_is_kept_beside_the_table_that_it_is_of(here, folder, tmp_path):
    """Not among the book's, where kvlib lies: a path may lead anywhere."""
    path = copied(folder, "plain", tmp_path)
    code, lines = here("thin", path, "--rows", 2, "--record")
    assert code == 0, lines
    kept = [checks.rows_of(checks.file_of("verified", at)) for at in (folder, tmp_path)]
    assert [[row["table"] for row in rows] for rows in kept] == [["thin"], ["plain"]]


def test_another_format_than_the_tables_is_held_to_its_own_noise(here):
    code, lines = here("plain", "--dtype", "bfloat16")
    assert code == 0 and "bfloat16 beside float32" in lines[0]


# --- what was changed -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["plain", "thin", "online", "reencode", "positions"])
@pytest.mark.parametrize("column", verify.VALUES)
def test_one_row_that_was_changed_is_found(here, folder, tmp_path, name, column):
    path = copied(folder, name, tmp_path)

    def change(table: pd.DataFrame) -> None:
        row = 3  # of the first variant, the first policy, the first budget
        table.loc[row, column] += 1e-3

    rewrite(path, change)
    code, lines = here("--folder", tmp_path, "--rows", 10_000)
    assert code == 1 and lines[0].startswith(f"{name}: differs: ")
    assert "largest gap 0.001 " in lines[0]


def test_a_gap_within_what_is_allowed_is_none(here, folder, tmp_path):
    path = copied(folder, "plain", tmp_path)
    rewrite(path, lambda table: table.update(table["kl_nats"] + 1.5e-5))
    assert here(path, "--rows", 10_000)[0] == 0


def test_rows_that_are_no_numbers_differ(here, folder, tmp_path):
    path = copied(folder, "plain", tmp_path)
    rewrite(path, lambda table: table.__setitem__("kl_nats", np.float32("nan")))
    code, lines = here(path)
    assert code == 1 and ": differs: " in lines[0]


def test_half_precision_that_is_off_by_more_than_its_noise_is_found(here, folder, tmp_path):
    path = copied(folder, "half", tmp_path)
    rewrite(path, lambda table: table.update(table["kl_nats"] * 2))
    code, lines = here(path)
    assert code == 1 and ": differs: " in lines[0]


@pytest.mark.parametrize("key", ["weights_sha256", "model_sha256", "corpus_sha256"])
def test_another_model_or_text_is_refused(here, folder, tmp_path, key):
    path = copied(folder, "plain", tmp_path)
    manifest = store.read_manifest(path)
    manifest["settings"][key] = "0" * 64
    store.write_manifest(store.table_file(path, ".json"), manifest)
    code, lines = here(path)
    assert code == 1
    assert lines[0].startswith(f"plain: refused: {key}: expected 000000000000… by the manifest")


@pytest.mark.parametrize("column", ["doc", "position", "window", "kl_nats"])
def test_a_table_that_lacks_a_column_or_has_another_in_its_place_is_refused(
    here, folder, tmp_path, column
):
    for change in (
        lambda table: table.pop(column),
        lambda table: table.__setitem__(column, pd.Timestamp("2026-01-01")),
    ):
        path = copied(folder, "plain", tmp_path)
        rewrite(path, change)
        code, lines = here(path)
        assert code == 1 and len(lines) == 1 and lines[0].startswith("plain: refused: ")


def test_a_damaged_table_is_refused_and_the_next_one_is_looked_at(here, folder, tmp_path):
    path = copied(folder, "plain", tmp_path)
    with store.table_file(path).open("ab") as file:
        file.write(b"x")
    code, lines = here(path, "online")
    assert code == 1
    assert [line.split(": ")[1] for line in lines] == ["refused", "ok"]


# --- what is not here -------------------------------------------------------------------------


def manifest_of(folder: Path, to: Path, **settings: str) -> Path:
    path = copied(folder, "plain", to)
    manifest = json.loads(store.table_file(path, ".json").read_text())
    manifest["settings"] |= settings
    store.write_manifest(store.table_file(path, ".json"), manifest)
    return path


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"model": "qwen2.5-coder-0.5b-instruct"}, "kvlib fetch qwen2.5-coder-0.5b-instruct"),
        ({"model": "/gone/tiny"}, "--model FOLDER says where /gone/tiny is now"),
    ],
)
def test_a_table_of_a_model_that_is_not_here_is_skipped(
    here, folder, tmp_path, monkeypatch, settings, why
):
    monkeypatch.setenv("KVLIB_CACHE", str(tmp_path / "empty"))
    path = manifest_of(folder, tmp_path, **settings)
    code, lines = here(path)  # nothing was verified
    assert code == 1 and lines == [f"plain: skipped: its model is not here: {why}"]
    assert here(path, "online")[0] == 0  # something was


@pytest.mark.parametrize(
    ("text", "why"),
    [("petrogold", "kvlib fetch petrogold"), ("numbers.txt", "--corpus FILE says where num")],
)
def test_a_table_of_a_text_that_is_not_here_is_skipped(
    here, folder, tmp_path, monkeypatch, text, why
):
    monkeypatch.setenv("KVLIB_CACHE", str(tmp_path / "empty"))
    path = manifest_of(folder, tmp_path, corpus=text)
    code, lines = here(path, corpus="")
    assert code == 1 and lines[0].startswith(f"plain: skipped: its text is not here: {why}")


def test_a_model_that_has_moved_is_named(here, folder, tmp_path, tiny_folder):
    path = manifest_of(folder, tmp_path, model="/gone/tiny")
    assert here(path, "--model", tiny_folder)[0] == 0


@pytest.mark.parametrize("name", ["kind", "model", "corpus", "dtype"])
def test_a_manifest_without_names_is_refused_and_the_next_one_looked_at(
    here, folder, tmp_path, name
):
    path = manifest_of(folder, tmp_path, **{name: {"a": 1}})
    code, lines = here(path, "thin", "--rows", 2)
    refused, ok = sorted(lines)  # model by model
    assert code == 1 and ok.startswith("thin: ok: ")
    assert refused == f"plain: refused: {name}: expected a name, got {{'a': 1}}"


def test_no_rows_are_one_error_line(here):
    code, lines = here("plain", "--rows", 0)
    assert code == 1 and lines == ["error: rows: expected at least 1, got 0"]


# --- noise floors -----------------------------------------------------------------------------


def test_the_floor_of_a_format_is_its_distance_from_float32(tiny, tiny_folder, text_file):
    from kvlib.models import load_model

    half = load_model(str(tiny_folder), "cpu", "bfloat16")
    ids = np.arange(96) * 7 % 250
    found = floor.between(tiny, half, ids)
    with torch.inference_mode():
        log_p = tiny.model(torch.tensor(ids)[None]).logits[0, 48:].double().log_softmax(-1)
        log_q = half.model(torch.tensor(ids)[None]).logits[0, 48:].double().log_softmax(-1)
    kl = (log_p.exp() * (log_p - log_q)).sum(-1)
    assert found.laws == 48
    assert found.kl_median == pytest.approx(np.median(kl), rel=0.05)
    assert found.kl_max == pytest.approx(float(kl.max()), rel=0.05)
    assert found.kl_max > 100 * floor.again(tiny, ids, piece=10).kl_max
    assert floor.between(tiny, tiny, ids) == floor.Floor(48, 0, 0, 0, 0)


def test_tf32_is_switched_on_for_one_side_alone(tiny, monkeypatch):
    seen = []

    def spy(*_: object) -> None:
        seen.append(torch.backends.cuda.matmul.allow_tf32)

    handle = tiny.model.base_model.register_forward_pre_hook(spy)
    try:
        floor.between(tiny, tiny, np.arange(20), floor.tf32())
    finally:
        handle.remove()
    assert seen == [False, True] and not torch.backends.cuda.matmul.allow_tf32


def test_the_command_prints_a_line_a_format(monkeypatch, capsys, tiny_folder, text_file):
    args = ["floor", "--model", tiny_folder, "--corpus", text_file, "--tokens", 64]
    monkeypatch.setattr(sys, "argv", ["kvlib", *map(str, args), "--device=cpu"])
    with pytest.raises(SystemExit) as exit_:
        command_line.main()
    assert not exit_.value.code
    lines = capsys.readouterr().out.splitlines()
    named = [line.split(":")[0] for line in lines]
    assert named == ["float32 in pieces", "tf32", "bfloat16", "float16"]
    assert "32 laws on cpu" in lines[2] and "only a CUDA card has it" in lines[1]


# --- the exact divergences --------------------------------------------------------------------


def test_divergences_on_the_device_are_those_of_numpy():
    from kvlib.measure import divergences

    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.normal(0, [[1], [5], [20]], (2, 3, 40)))
    log_p, log_q = logits.log_softmax(-1)
    kl, tv = laws.exact_divergences(log_p, log_q)
    np.testing.assert_allclose(kl, divergences.kl_divergence(log_p, log_q), rtol=1e-12)
    np.testing.assert_allclose(tv, divergences.total_variation(log_p, log_q), rtol=1e-12)
