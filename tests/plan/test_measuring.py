"""A plan from flags to a report, with a tiny model: measured once, resumed, refused in a line."""

from __future__ import annotations

import json

import numpy as np
import pytest

from kvlib import store
from kvlib.measure.distortion import measure_policies, named_policies
from kvlib.plan import Plan, deciding, measuring, texts
from kvlib.plan.deciding import Question


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Forty pages of words made of few letters: 160 documents of 64 tokens of the tiny model."""
    folder = tmp_path_factory.mktemp("pages")
    rng = np.random.default_rng(0)
    for k in range(40):
        letters = rng.choice(list("aeiou nst"), 4 * 64)
        (folder / f"{k:02d}.txt").write_text("".join(letters))
    return folder


@pytest.fixture
def request_of(tiny_folder, pages):
    def make(**change):
        asked = measuring.Request(
            str(tiny_folder), [str(pages)], Question("tv", 0.5, 0.9), context=64, documents=50
        )
        return asked._replace(**change)

    return make


def test_a_plan_is_made_of_rows_of_policy_distortion(request_of, tiny, tmp_path):
    asked = request_of()
    found, held = measuring.planned(asked, tmp_path / "plan", "test", tiny)
    assert held is not None and held.bytes(1) > 0
    assert found.documents.measured + found.documents.certification == 50
    assert found.documents.files > 20 and found.context == 64
    stored = store.load_table(tmp_path / "plan-measured")
    read = texts.read(asked.texts, tiny.tokenizer)
    cut = texts.stretches(read, 64, 50)
    rungs = deciding.ladder(64)[::-2][::-1]
    again = measure_policies(tiny, cut.ids[3], 3, named_policies(["sinks"]), rungs, "online")
    rows = stored[stored["doc"] == 3].reset_index(drop=True)
    np.testing.assert_allclose(rows["tv"], again["tv"], atol=1e-6)
    tried = sorted(tmp_path.glob("plan-certified-*.parquet"))
    others = store.load_table(tried[0])
    assert not set(others["doc"]) & set(stored["doc"])  # no document is in both halves
    shown = next(t for t in found.proposed if t.budget == (found.budget or t.budget))
    assert shown.mean == pytest.approx(
        deciding.losses_of(others, "tv")[shown.budget].mean(), rel=1e-6
    )


def test_a_run_that_was_killed_goes_on_where_it_was(request_of, tiny, tmp_path, monkeypatch):
    whole = measuring.planned(request_of(), tmp_path / "one", "test", tiny).plan
    calls, real = [], measuring.measure_policies

    def dying(lm, ids, doc, *rest):
        if len(calls) == 30 and doc not in calls:
            raise KeyboardInterrupt
        calls.append(doc)
        return real(lm, ids, doc, *rest)

    monkeypatch.setattr(measuring, "measure_policies", dying)
    with pytest.raises(KeyboardInterrupt):
        measuring.planned(request_of(), tmp_path / "two", "test", tiny)
    again = []
    monkeypatch.setattr(measuring, "measure_policies", lambda *a: (again.append(a[2]), real(*a))[1])
    found = measuring.planned(request_of(), tmp_path / "two", "test", tiny).plan
    assert found == whole
    assert not set(again) & set(calls) and len(again) + len(calls) == 50
    measuring.planned(request_of(), tmp_path / "two", "test", tiny)
    assert len(again) + len(calls) == 50  # and nothing is measured a second time


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"policy": "lru"}, "policy: expected one of"),
        ({"protocol": "offline"}, "protocol: expected one of"),
        ({"context": 20}, "seq-len: expected at least 32 tokens a document, got 20"),
        ({"context": -1}, "seq-len: expected at least 1, or 0 for a choice, got -1"),
        ({"documents": 1}, "docs: expected at least 2, one for each half, or 0 for a choice, got"),
        ({"seed": -1}, "seed: expected 0 to 2147483647, got -1"),
        ({"question": Question("tv", 2.0, 0.9)}, "epsilon: expected more than 0 and below 1"),
        ({"policy": "snapkv", "protocol": "online"}, "expected one of its protocols"),
    ],
)
def test_what_cannot_be_planned_is_refused_before_a_model_is_loaded(request_of, change, said):
    with pytest.raises(ValueError, match=said):
        request_of(**change, model="nowhere").checked()


def test_more_documents_go_on_where_fewer_were(request_of, tiny, tmp_path, monkeypatch):
    few = measuring.planned(request_of(documents=12), tmp_path / "plan", "test", tiny).plan
    calls, real = [], measuring.measure_policies
    monkeypatch.setattr(measuring, "measure_policies", lambda *a: (calls.append(a[2]), real(*a))[1])
    more = measuring.planned(request_of(documents=30), tmp_path / "plan", "test", tiny).plan
    assert few.documents.measured == 6 and not set(range(6)) & set(calls)
    assert more.documents.measured + more.documents.certification == 30
    with pytest.raises(ValueError, match="expected seed = 0, got 1"):
        measuring.planned(request_of(documents=30, seed=1), tmp_path / "plan", "test", tiny)


def test_many_files_are_named_in_few_words(request_of, tiny, tmp_path):
    measuring.planned(request_of(documents=12), tmp_path / "plan", "test", tiny)
    said = store.read_manifest(tmp_path / "plan-measured.json")["settings"]["corpus"]
    assert said == "00.txt, 01.txt, 02.txt and 37 others"
    assert measuring._listed(["a", "b", "c", "d"]) == "a, b, c, d"


# --- the command --------------------------------------------------------------------------------


@pytest.fixture
def ask(command, tiny_folder, pages, tmp_path):
    def run(*flags, epsilon=0.9, metric="tv"):
        known = ["plan", "--model", tiny_folder, "--text", pages, "--out", tmp_path / "plan"]
        known += ["--seq-len", 64, "--docs", 60, "--metric", metric, "--epsilon", epsilon]
        return command(*known, *flags)

    return run


def test_certified_ends_with_0_and_writes_what_it_was_asked_for(ask, tmp_path):
    code, out, err = ask("--json", tmp_path / "p.json", "--report", tmp_path / "p.html")
    assert code == 0, err
    plan = Plan.from_json((tmp_path / "p.json").read_text())
    assert plan.certified and f"Keep {plan.budget} entries" in out
    page = (tmp_path / "p.html").read_text()
    assert "http-equiv" in page or "<h1>" in page
    assert {p.suffix for p in tmp_path.iterdir()} == {".json", ".html", ".parquet"}


def test_not_certified_ends_with_3_and_says_why(ask, tmp_path):
    code, out, _ = ask("--json", tmp_path / "p.json", epsilon=0.01)
    assert code == 3 and "Not certified" in out
    said = json.loads((tmp_path / "p.json").read_text())
    assert said["budget"] is None and said["reason"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--metric", "bits"], "metric: expected one of kl, tv, top1, got 'bits'"),
        (["--epsilon", "-1"], "epsilon: expected more than 0"),
        (["--text", "nowhere.txt"], "got 'nowhere.txt'"),
        (["--report", "plan.pdf"], "report: expected a name that ends in .html, got 'plan.pdf'"),
        (["--text", "no\nwhere.txt"], "where.txt"),
        (["--policy", "no\nnone"], "no none"),
        (["--seq-len", "4096"], "expected at least 48 different documents"),
        (["--report", "{folder}"], "report: expected a file to write, got the folder"),
        (["--json", "{file}/p.json"], "json: expected a folder to write into, got"),
        (["--out", "{file}/p"], "out: expected a folder to write into, got"),
        (["--batch", "0"], "batch and context: expected at least 1 and 0, got 0 and 0"),
    ],
)
def test_unusable_input_ends_with_2_and_one_line(ask, flags, said, tmp_path, monkeypatch):
    def measured(*_) -> None:
        raise AssertionError("expected nothing to be measured")

    monkeypatch.setattr(measuring, "measure_policies", measured)
    (tmp_path / "there.html").mkdir()
    (tmp_path / "file").write_text("")
    places = {"folder": tmp_path / "there.html", "file": tmp_path / "file"}
    code, out, err = ask(*(flag.format(**places) for flag in flags))
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and err.count("\n") == 1 and said in err
