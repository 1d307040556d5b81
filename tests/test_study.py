"""Studies: what is declared is what is stored; one loop makes each kind; bad ones are one line."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from kvlib import corpora, models, names, store, study
from kvlib.models.about import licence
from kvlib.study import here

DECLARED = study.studies()
ROWS = {  # SHA-256 of the tables whose manifests were once of an older layout
    "cache_positions-smollm2-135m-instruct-world-english-bible": "cdca790d1ba44809",
    "cache_run-smollm2-135m-instruct": "b93f6d29bf99837e",
    "calibration": "92bbe7912e84f70e",
    "diagnostics-smollm2-135m-instruct-world-english-bible": "c3b3982d4cf5cdc3",
    "kv_rates-smollm2-135m-instruct-world-english-bible": "1f7ab12f1249c066",
    "online-gemma3-270m-world-english-bible": "68f380f457d5e339",
    "online-smollm2-135m-instruct-scipy-docs": "96d5e7e0c5c01dcf",
    "online-smollm2-135m-instruct-world-english-bible": "7e7c6c2661164bca",
    "passage-smollm2-135m-instruct-world-english-bible": "b60f1b8c42836d3a",
    "positions-gemma3-270m-world-english-bible": "582ec867f7726500",
    "positions-smollm2-135m-instruct-world-english-bible": "10b16f3504a15cb4",
    "prefill-gemma3-270m-world-english-bible": "6fb6a3d6a314afbe",
    "prefill-smollm2-135m-instruct-world-english-bible": "060262ffa8347c02",
    "prefill_expected-smollm2-135m-instruct-world-english-bible": "e58064c91a441a7b",
    "prefill_heads-smollm2-135m-instruct-world-english-bible": "e91091666feb0601",
    "prefill_scored-smollm2-135m-instruct-world-english-bible": "426d5b24f7e6ad70",
    "reencode-gemma3-270m-world-english-bible": "9451864a9186fb19",
    "reencode-smollm2-135m-instruct-world-english-bible": "08d46af1a87a1d71",
    "scored-smollm2-135m-instruct-world-english-bible": "ed4ed26b6cdd3951",
    "stepwise-smollm2-135m-instruct-world-english-bible": "652621cb9fb518f2",
    "suffix-gemma3-270m-world-english-bible": "df0e68cf5c59eb96",
    "suffix-smollm2-135m-instruct-scipy-docs": "98556fcda4b9d539",
    "suffix-smollm2-135m-instruct-world-english-bible": "1ebd558384f9b862",
}

# --- the studies of the book ------------------------------------------------------------------


@pytest.mark.parametrize("one", DECLARED, ids=lambda one: one.table)
def test_a_stored_manifest_is_that_of_its_declared_study(one):
    manifest = store.checked_manifest(one.path)
    settings = dict(manifest["settings"])
    identity = {}
    for subject in ("model", "corpus"):
        identity |= {k: settings.pop(k) for k in list(settings) if k.startswith(f"{subject}_")}
    identity |= {k: settings.pop(k) for k in ("weights_sha256",) if k in settings}
    assert settings == json.loads(json.dumps(one.checked()))
    assert manifest["study"] == one.label and manifest["documents"] == one.docs
    if "model" in settings:
        known = models.EMBEDDED.get(settings["model"]) or models.TRAINED[settings["model"]]
        whole = getattr(known, "gguf_sha256", None) or known.model_sha256
        assert identity.pop("model_sha256") == whole
        assert identity.pop("weights_sha256")
        assert manifest["about"]["model"]["description"] == known.description
        assert manifest["about"]["model"]["licence"] == licence(settings["model"])
    if "corpus" in settings:
        assert identity.pop("corpus_sha256") == corpora.CORPORA[settings["corpus"]].sha256
        assert manifest["about"]["corpus"]["source"] == corpora.CORPORA[settings["corpus"]].source
    assert identity == {}
    assert manifest["about"].keys() - {"policies"} == settings.keys() & {"model", "corpus"}


def test_every_stored_table_is_declared_and_every_declared_one_is_complete():
    assert {one.path for one in DECLARED} == {t.path.with_suffix("") for t in store.tables()}
    assert {study.state(one).word for one in DECLARED} == {"complete"}


@pytest.mark.parametrize("name", ROWS)
def test_rows_are_those_that_were_measured_before_the_manifests_changed(name):
    assert store.checked_manifest(store.DATA / name)["sha256"].startswith(ROWS[name])


def test_the_models_that_sentences_name_are_those_that_load():
    assert set(names.MODELS) == models.EMBEDDED.keys() | models.TRAINED.keys()


def test_a_manifest_says_of_a_model_what_the_model_says(small, random_model):
    (table,) = store.tables(study="positions", model="small-gpt2")
    assert table.model == models.about(small)
    sliding = random_model("gemma3_text", sliding_window=16, layer_types=["sliding_attention"] * 4)
    cost = models.about(sliding)["cache_bytes"]
    assert cost == {"full": 0, "sliding": 2 * 4 * 2 * 8 * 2, "local": 16}


# --- declaring --------------------------------------------------------------------------------

ENTRY = """
[[study]]
table = "a-{model}-{corpus}"
kind = "truncation_sensitivity"
model = ["small-gpt2", "some/two"]
corpus = ["scipy-docs", "sympy-code"]
seq_len = 64
stride = 80
max_window = 16
docs = 3
"""
POLICIES = """
[[study]]
table = "p"
kind = "policy_distortion"
model = "small-gpt2"
corpus = "scipy-docs"
budgets = [8]
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "studies.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_lists_stand_for_a_table_each_and_defaults_are_filled_in(tmp_path):
    found = study.studies(write(tmp_path, ENTRY))
    expected = [f"a-{m}-{c}" for m in ("small-gpt2", "two") for c in ("scipy-docs", "sympy-code")]
    assert [one.table for one in found] == expected
    assert {one.label for one in found} == {"a"} and {one.docs for one in found} == {3}
    first = found[0]
    assert first.path == tmp_path / expected[0]
    later = study.KINDS[first.kind].later  # not said where they are as they always were
    assert later and not first.settings.keys() & set(later)
    defaults = {k: v for k, v in study.KINDS[first.kind].settings.items() if k not in later}
    assert first.settings == defaults | {
        **{"model": "small-gpt2", "corpus": "scipy-docs"},
        **{"seq_len": 64, "stride": 80, "max_window": 16},
    }
    assert [one.table for one in study.chosen(found, ["a-two-scipy-docs", "a-sm*"])] == expected[:3]
    assert study.chosen(found, ["a"]) == study.chosen(found, ["a-{model}-{corpus}"]) == found
    assert study.chosen(found, []) == found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[study]]\ntable = a\nkind = 'b'", r"studies.toml: expected TOML, got .*line 2"),
        ("[study]\ntable = 'a'", r"expected \[\[study\]\] and nothing else"),
        ("[[studies]]\ntable = 'a'", r"expected \[\[study\]\] and nothing else, got studies"),
        (ENTRY.replace("truncation_sensitivity", "séance"), "kind: expected one of truncation_s"),
        (ENTRY.replace("kind =", "# kind ="), "kind: expected one of .*, got ''"),
        (ENTRY.replace("table =", "# table ="), "table: expected the name of a table, got ''"),
        (ENTRY + "windows = [1]", r"expected settings of truncation_.*\(model, .*\), got windows"),
        (ENTRY.replace("corpus = ", "# "), "expected corpus too, got no such setting"),
        (ENTRY.replace("docs = 3", "docs = '3'"), "docs: expected int, got '3'"),
        (ENTRY.replace("seq_len = 64", "seq_len = true"), "seq_len: expected int, got True"),
        (ENTRY.replace("seq_len = 64", "seq_len = 64.0"), "seq_len: expected int, got 64.0"),
        (ENTRY.replace('["scipy-docs", "sympy-code"]', "[]"), "expected something in each list"),
        (ENTRY.replace("-{corpus}", ""), "expected each table once, got a-small-gpt2, a-two twice"),
        (ENTRY + ENTRY, "expected each table once, got a-small-gpt2-scipy-docs, .* twice"),
        (ENTRY.replace("{corpus}", "{text}"), "expected settings in braces, got 'text'"),
        (ENTRY.replace("a-{", "../a-{"), "expected the name of a table, got '../a-small-gpt2-sci"),
        (ENTRY.replace("small-gpt2", "smol"), "model: expected one of smollm2.*, got 'smol'"),
        (ENTRY.replace("some/two", "/some/two"), "a folder with a model, .*, got '/some/two'"),
        (ENTRY.replace("sympy-code", "sympy"), "corpus: expected one of world.*, got 'sympy'"),
        (POLICIES + 'policies = ["sinks", "lucky"]', "p: policy: expected one of .*, got lucky"),
        (POLICIES + 'policies = ["sinks", ["tova"]]', r"policies: expected str, got \['tova'\]"),
        (POLICIES.replace("[8]", "[8, 'all']") + 'policies = ["sinks"]', "expected int, got 'all'"),
    ],
)
def test_a_bad_declaration_is_one_line(tmp_path, text, message):
    with pytest.raises(ValueError, match=message) as error:
        study.studies(write(tmp_path, text))
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_of_studies_is_not_waited_for(command, tmp_path, make):
    make(tmp_path / "studies.toml")
    for name in (["study"], ["merge", tmp_path], ["status"]):
        code, _, err = command(*name, "--file", tmp_path / "studies.toml")
        assert code == 1 and err.count("\n") == 1
        assert "studies.toml: expected a regular file, got another kind" in err


def test_names_are_asked_for_only_where_there_is_no_table_yet(tmp_path, tiny_folder, text_file):
    """A folder or a file of long ago may be gone: its table is still listed, and whole."""
    gone = write(tmp_path, ENTRY.replace("small-gpt2", "gone").replace("sympy-code", "x.txt"))
    for name in ("a-gone-scipy-docs", "a-gone-x.txt", "a-two-x.txt"):
        (tmp_path / f"{name}.json").touch()
    assert len(study.studies(gone)) == 4
    there = ENTRY.replace("small-gpt2", str(tiny_folder)).replace("sympy-code", str(text_file))
    assert len(study.studies(write(tmp_path, there))) == 4


def test_an_unknown_name_names_the_known_ones():
    with pytest.raises(ValueError, match="expected one of sensitivity, float32, .*, got 'onlin'"):
        study.chosen(DECLARED, ["online", "onlin"])


def declared(kind: str, folder: Path, docs: int | None = None, **settings) -> study.Study:
    subject = {"model": "small-gpt2", "corpus": "world-english-bible"}
    known = study.KINDS[kind].settings
    settings = {k: v for k, v in subject.items() if k in known} | settings
    (one,) = study.declare(kind, "t", settings, docs, folder)
    return one


BAD = [
    ("truncation_sensitivity", {"seed": -1}, "seed: expected 0 to"),
    ("truncation_sensitivity", {"docs": 0}, "docs: expected 1 to 32768, got 0"),
    ("truncation_sensitivity", {"docs": 40_000}, "docs: expected 1 to 32768, got 40000"),
    ("truncation_sensitivity", {"stride": 9}, "stride: expected at least seq-len 3072, got 9"),
    ("truncation_sensitivity", {"dtype": "int4"}, "dtype: expected auto, float32"),
    ("policy_distortion", {"policies": ["lucky"]}, "policy: expected one of sliding, .* got lucky"),
    ("policy_distortion", {"policies": []}, "at least one policy"),
    ("policy_distortion", {"budgets": [2**31]}, "budgets: expected 0 to 2147483647"),
    ("policy_distortion", {"step": 0}, "step: expected at least 1, got 0"),
    ("policy_distortion", {"protocol": "offline"}, "protocol: expected one of"),
    ("passage", {"protocol": "prefill"}, "protocol: expected online"),
    ("passage", {"shown": 0}, "context and shown: expected at least 1"),
    ("diagnostics", {"windows": [9, 8]}, "windows: expected two"),
    ("diagnostics", {"targets": 0}, "targets: expected 1 to"),
    ("positions", {"variants": ["kept"]}, "variants: expected restarted first"),
    ("positions", {"variants": ["restarted", "x"]}, "variants: expected some of restarted"),
    ("positions", {"windows": [600]}, "windows: expected some from 1 to 512"),
    ("positions", {"targets": 600}, "targets: expected 1 to"),
    ("positions", {"stretches": "torn"}, "stretches: expected drawn or held out"),
    ("kv_rates", {"docs": 1}, "docs: expected at least 2, got 1"),
    ("cache_run", {"docs": 3}, "docs: expected 2"),
    ("cache_run", {"tokens": 3}, "tokens, every and prompt: expected"),
    ("cache_run", {"temperature": 0}, "temperature: expected more than 0"),
    ("drafting", {"windows": [4]}, "windows: expected some, each above n_sink = 4, got .4."),
    ("drafting", {"draft": 0}, "draft: expected at least 1, got 0"),
    ("drafting", {"prompt": 1}, "prompt: expected at least 2, got 1"),
    ("drafting", {"prompt": 4000}, "prompt: expected at most stride 3072, got 4000"),
    ("readers", {"readers": ["lz"]}, "readers: expected some of ppmd, n-gram, recency"),
    ("readers", {"windows": [0]}, "windows: expected some, growing, from 1 to 8192, got .0."),
    ("readers", {"docs": 25}, "docs: expected 1 to 24, got 25"),
    ("bends", {"docs": 3}, "docs: expected 44, one a table and distance, got 3"),
    ("bends", {"studies": 0}, "studies: expected at least 1"),
    ("bends", {"truths": []}, "truths: expected bends from 0 to 2"),
    ("calibration", {"docs": 3}, "docs: expected 12"),
    ("calibration", {"studies": 0}, "studies: expected at least 1"),
]
SAID = {  # what a study of a kind must say
    "policy_distortion": {"policies": ["sinks"], "budgets": [16]},
    "passage": {"policies": ["sinks"], "budgets": [16]},
    "positions": {"variants": ["restarted"], "windows": [16], "targets": 2},
    "drafting": {"windows": [16]},
    "readers": {"readers": ["ppmd", "n-gram", "recency"], "windows": [1, 2, 8]},
}


@pytest.mark.parametrize(("kind", "bad", "message"), BAD)
def test_bad_settings_are_one_line_before_anything_is_loaded(tmp_path, kind, bad, message):
    one = declared(kind, tmp_path, **SAID.get(kind, {}) | bad)
    with pytest.raises(ValueError, match=message) as error:
        study.run(one, "by hand")
    assert "\n" not in str(error.value) and list(tmp_path.iterdir()) == []


# --- the loop ---------------------------------------------------------------------------------

SMALL = {
    "truncation_sensitivity": {"max_window": 16, "seq_len": 64, "stride": 80, "docs": 2},
    "policy_distortion": {"seq_len": 32, "stride": 32, "docs": 2} | SAID["policy_distortion"],
    "passage": {"context": 24, "shown": 4, "stride": 40} | SAID["passage"],
    "diagnostics": {"seq_len": 48, "stride": 48, "windows": [4, 8], "targets": 2, "docs": 2},
    "positions": {"seq_len": 64, "stride": 64, "docs": 2} | SAID["positions"],
    "kv_rates": {"docs": 4, "seq_len": 100, "stride": 100},
    "cache_run": {"budget": 24, "tokens": 500, "every": 250, "prompt": 8},
    "drafting": {"docs": 2, "draft": 2, "tokens": 4, "prompt": 24, "stride": 40} | SAID["drafting"],
    "readers": {"docs": 2, "chars": 300, "history": 30_000, "ppmd_history": 3_000}
    | SAID["readers"],
    "bends": {"studies": 1, "truths": [1.0]},
    "calibration": {"studies": 2, "resamples": 4},
}


@pytest.fixture(scope="module")
def made(tiny_folder, bible, tmp_path_factory) -> dict[str, study.Study]:
    """A small table of each kind, made by the loop."""
    folder, found = tmp_path_factory.mktemp("made"), {}
    text_file = tmp_path_factory.mktemp("text") / "verses.txt"
    text_file.write_text(bible.text[100_000:109_000], encoding="utf-8")
    long_file = text_file.with_name("chapters.txt")  # for documents at the same places of any text
    long_file.write_text(bible.text[100_000:400_000], encoding="utf-8")
    for kind, settings in SMALL.items():
        subject = {"model": str(tiny_folder), "corpus": str(text_file)}
        if "model" not in study.KINDS[kind].settings:
            subject = {"corpus": str(long_file)}
        subject = {k: v for k, v in subject.items() if k in study.KINDS[kind].settings}
        docs = settings.get("docs")
        rest = {k: v for k, v in settings.items() if k != "docs"}
        (found[kind],) = study.declare(kind, f"{kind}-t", subject | rest, docs, folder)
        study.run(found[kind], "by hand", "cpu")
    return found


def test_every_kind_is_tried():
    assert SMALL.keys() == study.KINDS.keys()


@pytest.mark.parametrize("kind", study.KINDS)
def test_the_loop_makes_each_kind_whole(made, kind):
    one = made[kind]
    assert study.state(one)[::2] == (one.docs, "complete")
    table, manifest = store.load_table(one.path), store.read_manifest(one.path)
    assert sorted(set(table["doc"])) == list(range(one.docs))
    assert manifest["run"]["command"] == "by hand" and manifest["settings"]["kind"] == kind
    (found,) = store.tables(one.folder, kind=kind)
    pd.testing.assert_frame_equal(found.load(), table)


@pytest.mark.parametrize("kind", study.KINDS)
def test_columns_are_those_of_the_stored_tables(made, kind):
    if not (tables := store.tables(kind=kind)):
        pytest.skip(f"no table of {kind} is stored yet")
    stored = tables[0].load()
    ours = store.load_table(made[kind].path)
    if kind == "calibration":  # was stored without the number of the check
        ours = ours.drop(columns="doc")
    if kind == "truncation_sensitivity":  # the loss on the text came after some tables
        ours = ours[[c for c in ours.columns if c in stored.columns or "nll" not in c]]
    assert ours.columns.tolist() == stored.columns.tolist()
    assert ours.dtypes.drop("doc", errors="ignore").equals(
        stored.dtypes.drop("doc", errors="ignore")
    )


def test_an_interrupted_run_goes_on_where_it_was(made, tmp_path, monkeypatch):
    from kvlib.measure import truncation

    one = made["truncation_sensitivity"]
    again = study.Study("again", one.kind, one.settings, one.docs, tmp_path)
    whole, measured = truncation.measure_document, []

    def interrupted(lm, document, doc, **options):
        measured.append(doc)
        if measured == [0, 1]:
            raise OSError("the cable was pulled")
        return whole(lm, document, doc, **options)

    monkeypatch.setattr(truncation, "measure_document", interrupted)
    with pytest.raises(OSError, match="cable"):
        study.run(again, "by hand", "cpu")
    assert study.state(again)[::2] == (1, "begun")
    study.run(again, "by hand", "cpu")
    assert measured == [0, 1, 1]
    pd.testing.assert_frame_equal(store.load_table(again.path), store.load_table(one.path))


def test_states_tell_apart_what_there_is(made, tmp_path):
    one = made["diagnostics"]
    here = study.Study(one.table, one.kind, one.settings, one.docs, tmp_path)
    assert study.state(here) == (0, 0, "missing")
    for ending in (".json", ".parquet"):
        shutil.copy(store.table_file(one.path, ending), tmp_path)
    assert study.state(here).word == "complete"
    more = study.Study(one.table, one.kind, one.settings, one.docs + 1, tmp_path)
    assert study.state(more) == (one.docs, study.state(here).rows, "begun")
    other = study.Study(one.table, one.kind, one.settings | {"seed": 1}, one.docs, tmp_path)
    assert study.state(other).word == "other seed"
    manifest = store.table_file(here.path, ".json")
    found = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({k: v for k, v in found.items() if k != "layout"}))
    assert study.state(here).word == "older layout"
    with pytest.raises(ValueError, match="expected a manifest of layout 2, got one of layout 1"):
        store.load_table(here.path)
    manifest.write_text(json.dumps(found))
    with store.table_file(here.path).open("ab") as file:
        file.write(b"x")
    assert study.state(here).word == "damaged"


def test_a_table_is_complete_with_as_many_documents_as_are_declared(tmp_path):
    one = declared("calibration", tmp_path)
    rows = pd.DataFrame({"doc": [0, 1]})
    with store.Measurement(one.path, {"kind": one.kind} | one.settings, 2) as measurement:
        for doc, row in rows.groupby("doc"):
            measurement.add(doc, row)
        measurement.finish({})
    for docs, word in ((2, "complete"), (3, "begun")):
        again = study.Study(one.table, one.kind, one.settings, docs, tmp_path)
        assert study.state(again) == (2, 2, word)


def test_the_loop_makes_stored_rows_again(small):
    """A document of the small GPT-2, the only model that is fast enough for it."""
    from kvlib.measure import positions

    (one,) = study.chosen(DECLARED, ["positions-small-gpt2-*"])
    text = corpora.load_corpus("world-english-bible")
    rows = positions.item_rows(small, text, one.checked(), one.docs)(1)
    stored = store.load_table(one.path).query("doc == 1").reset_index(drop=True)
    exact = ["doc", "position", "context", "window", "variant"]
    pd.testing.assert_frame_equal(rows[exact], stored[exact])
    assert rows.columns.tolist() == stored.columns.tolist()
    for column in set(rows) - set(exact):
        np.testing.assert_allclose(rows[column], stored[column], rtol=2e-3, atol=2e-5)


def test_a_policy_of_ones_own_is_known_by_the_manifest_of_its_table(
    tiny_folder, text_file, tmp_path, monkeypatch
):
    """Its title and its sinks reach pages that know no policy's class."""
    from kvlib.cache import policies
    from kvlib.claims import policy_rows

    monkeypatch.setitem(policies.NAMED, "own", None)  # taken out again at the end
    del policies.NAMED["own"]
    monkeypatch.setattr(names, "_told", {})
    said = {"key": "own", "title": "3 sinks + the newest", "n_sink": 3}
    policies.register(type("Own", (policies.SinkRecent,), said)(n_sink=3))
    subject = {"model": str(tiny_folder), "corpus": str(text_file), "policies": ["own", "tova"]}
    shape = {"budgets": [8, 16], "seq_len": 64, "stride": 64}
    (one,) = study.declare("policy_distortion", "own", subject | shape, 1, tmp_path)
    study.run(one, "by hand", "cpu")
    told = store.read_manifest(one.path)["about"]["policies"]
    assert told == {
        "own": {"title": "3 sinks + the newest", "n_sink": 3},
        "tova": {"title": "TOVA", "n_sink": 0},
    }
    names._told.clear()  # as in a process that did not measure it
    rows = policy_rows.stored_rows(tmp_path).query("policy == 'own'")
    assert policy_rows.curve(rows).window.tolist() == [5, 13]
    assert set(policy_rows.titled(rows)["policy"]) == {"3 sinks + the newest"}


def test_a_manifest_says_which_characters_are_shared(tiny_folder, tmp_path):
    text = tmp_path / "long.txt"
    text.write_text(" ".join(str(k) for k in range(60_000)), encoding="utf-8")
    subject = {"model": str(tiny_folder), "corpus": str(text), "stretches": "shared"}
    shape = {"max_window": 8, "seq_len": 64, "stride": 64, "pairs_per_octave": 4}
    (one,) = study.declare("truncation_sensitivity", "shared", subject | shape, 2, tmp_path)
    study.run(one, "by hand", "cpu")
    manifest = store.read_manifest(one.path)
    begins = corpora.begins(len(text.read_text(encoding="utf-8")), 2)
    assert manifest["settings"]["stretches"] == "shared"  # and a token of this model is a byte
    assert manifest["about"]["corpus"]["characters"] == [[one, one + 64] for one in begins]


def test_a_checks_rows_are_those_of_the_calibration_itself():
    from kvlib.fit import calibration

    one = declared("calibration", Path(), studies=3, resamples=5)
    rows = calibration.item_rows(None, None, one.settings, 12)
    designs = calibration.power_designs()
    expected = calibration.coverage(designs[1], 3, 5, 10_000)
    pd.testing.assert_frame_equal(rows(1).drop(columns="doc"), expected)
    alone = calibration.contest(calibration.geometric_designs()[0], 3, seed=70_000)
    pd.testing.assert_frame_equal(rows(7)[alone.columns], alone)
    assert set(rows(7)["doc"]) == {7}


def test_targets_of_the_diagnostics_have_room_for_their_windows(made):
    table = store.load_table(made["diagnostics"].path)
    assert table["position"].between(16, 46).all()
    assert (table.groupby("doc")["position"].nunique() == 2).all()


# --- tables by their manifests ----------------------------------------------------------------


def test_tables_are_found_by_what_their_manifests_say():
    found = store.tables(kind="policy_distortion", protocol="prefill", model="gemma3-270m")
    assert [table.path.stem for table in found] == ["prefill-gemma3-270m-world-english-bible"]
    assert store.tables(kind="séance") == []
    assert len(store.tables(study="sensitivity")) == 22
    assert store.tables(study="calibration", studies=1000)[0].model == {}


def test_names_of_files_do_not_matter(tmp_path):
    (table,) = store.tables(study="cache_run")
    for ending in (".json", ".parquet"):
        shutil.copy(table.path.with_suffix(ending), tmp_path / f"elsewhere{ending}")
    assert [found.path.stem for found in store.tables(tmp_path, kind="cache_run")] == ["elsewhere"]


@pytest.mark.parametrize("name", ["a\nb.txt", "[/x].txt", "[red]x", "a\u202eb", "\x1b[31m"])
def test_a_bar_stands_behind_one_line_whatever_a_text_is_called(name, capfd):
    with here.bars() as bars:
        bars.advance(bars.add_task(name, total=1))
    (line,) = capfd.readouterr().err.rstrip().splitlines()
    shown = "".join(sign if sign.isprintable() else "\ufffd" for sign in name)
    assert line.startswith(shown) and "1/1" in line and line.isprintable()
