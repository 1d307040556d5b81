"""The pages of tables and plans: whole, escaped, held to their policy; and a plan in a terminal."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import re
import tomllib
from pathlib import Path

import numpy as np
import pytest
from reports import PLAN, SIZES, distortions, truncations

from kvlib import charts, fit, store
from kvlib.charts import offline
from kvlib.plan import NOT_CERTIFIED, Tried, report, show
from kvlib.plan.result import Clipped

SCRIPT = re.compile(r"<script>(.*?)</script>", re.S)


@pytest.fixture(autouse=True)
def without_vega(monkeypatch):
    """Vega takes seconds to make; the browser's tests have it."""
    monkeypatch.setattr(offline, "library", lambda: "(function () {})();\n")


def check_whole(page: str) -> None:
    """All scripts of the page are allowed by their hashes, and nothing asks for an address."""
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
    allowed = set(re.findall(r"sha256-([^']+)'", policy))
    scripts = SCRIPT.findall(page)
    found = {base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts}
    assert found == allowed and len(scripts) == len(offline.SCRIPTS) + 3
    assert "default-src 'none'" in policy and "unsafe-eval" not in policy
    assert not re.search(r"""(?:src|href)=["'](?!data:,?)""", re.sub(SCRIPT, "", page))
    assert "@import" not in page and "url(" not in re.sub(SCRIPT, "", page)


@pytest.mark.parametrize("docs", [1, 3])
@pytest.mark.parametrize("windows", [[16], [4, 16, 64]])
def test_a_table_of_windows_has_a_page(tmp_path, docs, windows):
    of = show.shown(truncations(tmp_path / "t", docs, np.array(windows)))
    page = report.of_table(of)
    check_whole(page)
    assert page.count('class="kv-chart"') == 2
    assert "What toy may forget of mine.txt" in page and "NaN" not in page
    assert (", 95% band" in page) == (docs == 3)


@pytest.mark.parametrize(
    ("docs", "budgets", "policies"), [(1, (16,), ("sinks",)), (3, (16, 64), ())]
)
def test_a_table_of_policies_has_a_page(tmp_path, docs, budgets, policies):
    of = show.shown(distortions(tmp_path / "t", docs, budgets, policies or ("sinks", "random")))
    page = report.of_table(of, 0.3, "kl")
    check_whole(page)
    assert page.count('class="kv-chart"') == 2 and "To paste" in page or "No measured" in page


def test_sentences_of_the_slider_are_those_of_the_terminal(tmp_path):
    of = show.shown(distortions(tmp_path / "t", 3))
    table = report.answers(of)
    row = table[(table["series"] == "4 sinks + recent") & (table["metric"] == "kl")]
    said = row.set_index("epsilon")["sentence"]
    assert said[0.2].startswith("With epsilon = 0.2 nats keep 64 entries by 4 sinks + recent")
    assert said[0.001].startswith("No measured budget keeps epsilon = 0.001 nats")
    least = row.set_index("epsilon")["least"]
    assert least[0.2] == 64 and np.isnan(least[0.001]) and least.dropna().is_monotonic_decreasing
    assert table["sentence"].str.endswith((".", ")")).all()


def test_what_a_table_says_of_itself_is_text_and_no_markup(tmp_path):
    table = truncations(tmp_path / "t", 3, np.array([8, 16]), corpus="<img src=x onerror=alert(1)>")
    page = report.of_table(show.shown(table))
    check_whole(page)
    assert "<img src=x" not in page and "&lt;img src=x" in page


def test_a_page_is_written_by_the_command(command, tmp_path):
    table, page = distortions(tmp_path / "t", 3, (16, 64)), tmp_path / "page.html"
    code, out, err = command("show", table, "--html", page)
    assert code == 0 and "4 sinks + recent" in out and str(page) in err
    check_whole(page.read_text(encoding="utf-8"))
    (tmp_path / "folder.html").mkdir()
    code, out, err = command("show", table, "--html", tmp_path / "folder.html")
    assert code == 2 and out == "" and err.count("\n") == 1 and err.startswith("error: ")


# --- plans ----------------------------------------------------------------------------------------

NOT = dataclasses.replace(
    PLAN,
    status=NOT_CERTIFIED,
    budget=None,
    reason="the bound of the largest budget, 1,024 entries, is 0.3 nats",
    documents_that_would_do=60,
    proposed=(Tried(1024, 0.14, 0.3, 0.4, 6, False),),
    law=None,
    clipped=None,
)
EMPTY = dataclasses.replace(NOT, proposed=(), tails={}, documents_that_would_do=None)


def test_a_plan_is_told_with_its_bound_and_what_it_weighs():
    text = " ".join(report.plan_text(PLAN, SIZES).split())
    assert "Keep 256 entries (4 sinks + recent, online): with 95% confidence" in text
    assert "at most 0.188 nats on average, where a document counts as 2 nats at most, " in text
    assert "as 2 nats at most, within epsilon = 0.2 nats" in text
    # 30 layers, 3 KV heads of 64, keys and values, 2 bytes: 23,040 bytes an entry
    assert "256 entries weigh 5.9 MB a sequence in bfloat16, 189 MB for 32 sequences" in text
    assert "3.12% of the 189 MB of the full cache at 8,192 tokens" in text
    assert "BoundedCache(256, n_sink=4, model=model)" in text and "llama-server" in text
    assert "Assumed: Documents are exchangeable." in text


@pytest.mark.parametrize("share", [0.0, 0.01])
def test_the_cap_of_a_bound_on_kl_stands_in_its_headline_seen_or_not(share):
    plan = dataclasses.replace(PLAN, clipped=Clipped(2.0, share, 0.05))
    assert "nats on average, where a document counts as 2 nats at most, within" in (
        report.headline(plan)
    )
    assert "counts as" not in report.headline(dataclasses.replace(PLAN, clipped=None))


@pytest.mark.parametrize("confidence, said", [(0.95, "95%"), (0.9996, "99.96%"), (0.29, "29%")])
def test_no_confidence_is_rounded_to_certainty(confidence, said):
    for plan in (PLAN, NOT):
        one = dataclasses.replace(plan, confidence=confidence)
        assert f"with {said} confidence" in report.headline(one)
        assert "100%" not in report.headline(one)


@pytest.mark.parametrize("plan", [NOT, EMPTY])
def test_a_plan_without_a_budget_says_why_and_pastes_nothing(plan):
    text = report.plan_text(plan, SIZES)
    assert text.startswith("Not certified") and "0.3 nats" in text
    assert ("60 documents in all would do" in " ".join(text.split())) == (plan is NOT)
    assert "BoundedCache" not in text


@pytest.mark.parametrize("plan", [PLAN, NOT, EMPTY])
@pytest.mark.parametrize("sizes", [SIZES, None])
def test_every_plan_has_a_page_and_a_text(plan, sizes):
    page, text = report.of_plan(plan, sizes), report.plan_text(plan, sizes)
    check_whole(page)
    assert page.count('class="kv-chart"') == bool(plan.proposed)
    assert ("kv-answer kv-no" in page) == (not plan.certified)
    assert text.isascii() and "nan" not in text
    narrow = [line for line in text.splitlines() if not line.startswith("    ")]  # but to paste
    assert all(len(line) <= 80 for line in narrow)


@pytest.mark.parametrize("metric", ["kl", "tv", "top1"])
def test_each_budget_that_was_tried_has_its_sentence(metric):
    plan = dataclasses.replace(PLAN, metric=metric)
    tails = {"kl": "Single tokens: 50% lose at most 0.02 nats", "tv": "50% lose at most 0.02,"}
    tails["top1"] = "Single documents: 50% lose at most 2%"
    assert tails[metric] in " ".join(report.findings(plan))
    said = [report._tried_sentence(plan, one, SIZES) for one in plan.proposed]
    assert said[0].startswith("With 1,024 entries: ") and "certified for epsilon = 0.2" in said[0]
    assert "not certified" in said[-1] and "23.6 MB a sequence" in said[0]
    assert ("%: certified" in said[0]) == (metric == "top1")


def test_the_explorer_of_the_page_on_sensitivity_takes_a_table_of_short_windows(tmp_path):
    table = store.load_table(truncations(tmp_path / "t", 3, np.array([4, 8, 16, 32, 64])))
    curves = {"kl_nats": {("toy", "mine.txt"): fit.curve(table)}}
    explorer = charts.sensitivity.sensitivity(fit.summaries(curves, min_window=4))
    assert "64 tokens" in explorer.to_html()


def test_what_a_page_is_made_of_is_the_books_and_comes_with_the_package():
    root = Path(__file__).parents[2]
    packed = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert "charts/page/*" in packed["package-data"]["kvlib"]
    for name in ("book.css", *offline.SCRIPTS):
        there = root / "book" / "_static" / name
        assert (offline.STATIC / name).read_bytes() == there.read_bytes(), name
    assert offline.STATIC.is_relative_to(root / "kvlib")
