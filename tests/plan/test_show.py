"""What a table says: of any number of documents and windows, in words, characters and data."""

from __future__ import annotations

import itertools
import json
import math
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from reports import WINDOWS, distortions, stored, truncations
from studies import table_of

from kvlib import fit, store
from kvlib.claims import policy_rows
from kvlib.plan import show


def no_wider_than(text: str, width: int = 80) -> bool:
    return all(len(line) <= width for line in text.splitlines())


# --- any number of documents and windows ----------------------------------------------------------


@pytest.mark.parametrize("docs", [1, 2, 3, 8])
@pytest.mark.parametrize("windows", [[1], [16], [1, 2], [8, 9, 300], WINDOWS])
def test_every_table_of_windows_has_words_a_chart_and_data(tmp_path, docs, windows):
    of = show.shown(truncations(tmp_path / "t", docs, np.array(windows)))
    for metric, epsilon in itertools.product(of.metrics, (1e-6, 0.2, 50.0)):
        allowed = epsilon if metric == "kl" else min(epsilon, 0.9)
        text = show.to_text(of, allowed, metric)
        assert f"{docs} document" in text and show.TITLES[metric] in text
        assert text.isascii() and no_wider_than(text)
        assert "nan" not in text and "e-0" not in text and " 1 tokens" not in text
        data = json.loads(json.dumps(show.to_json(of, allowed, metric), allow_nan=False))
        assert data["documents"] == docs and len(data["series"]) == 2


@pytest.mark.parametrize("docs", [1, 2, 3])
@pytest.mark.parametrize("budgets", [(16,), (16, 64, 256)])
@pytest.mark.parametrize("policies", [("sinks",), ("sinks", "random")])
def test_every_table_of_policies_has_words_a_chart_and_data(tmp_path, docs, budgets, policies):
    of = show.shown(distortions(tmp_path / "t", docs, budgets, policies))
    assert of.metrics == ["kl", "tv", "top1"]
    for metric in of.metrics:
        text = show.to_text(of, None, metric)
        assert text.isascii() and no_wider_than(text)
        json.dumps(show.to_json(of, None, metric), allow_nan=False)


def test_no_interval_of_a_share_reaches_beyond_all(tmp_path):
    of = show.shown(distortions(tmp_path / "t", 3, (16, 64), ("sinks",)))
    for one in of.series:
        assert all(p.low >= 0 for p in one.points)
        assert one.metric == "kl" or all(p.high <= 1 for p in one.points)
    wide = pd.Series([0.95, 0.2, 0.9])
    assert show._point(1, 1, wide, 1.0).high == 1 < show._point(1, 1, wide, math.inf).high


@pytest.mark.parametrize("docs", [1, 2])
def test_with_one_or_two_documents_no_interval_is_pretended(tmp_path, docs):
    of = show.shown(truncations(tmp_path / "t", docs))
    assert all(p.low is None and p.high is None for one in of.series for p in one.points)
    assert of.decay is None
    text = " ".join(show.to_text(of, 0.2).split())
    assert "95% interval" not in text and "too few for an interval" in text
    assert "an exponent takes three or more" in text
    assert "nothing vouches for it. Measure three documents or more" in text
    assert show.to_json(of)["plan"]["vouched"] is False


def test_losses_of_zero_have_no_chart_and_are_said(tmp_path):
    table = table_of(np.zeros((3, 3)), np.array([8, 16, 32]))
    of = show.shown(stored(tmp_path / "t", table, show.TRUNCATION))
    text = show.to_text(of)
    assert "Nothing is lost at any size" in text and "keep the last 8 tokens: 0 nats" in text


# --- right values ---------------------------------------------------------------------------------


def test_means_and_intervals_are_those_of_the_book():
    of = show.shown("online-smollm2-135m-instruct-world-english-bible")
    rows = store.load_table(show.found("online-smollm2-135m-instruct-world-english-bible"))
    rows = rows.assign(model="m", corpus="c")
    expected = policy_rows.summary(rows).set_index(["policy", "budget"])
    for one in of.of("kl"):
        for point in one.points:
            row = expected.loc[one.policy, point.size]
            assert point.mean == pytest.approx(row["mean"], rel=1e-4)
            assert (point.low, point.high) == pytest.approx((row["low"], row["high"]), rel=1e-4)


def test_the_exponent_is_that_of_the_fitted_law(tmp_path):
    of = show.shown(truncations(tmp_path / "t", 5, alpha=0.7))
    assert of.decay.exponent.value == pytest.approx(0.7, abs=0.02)
    assert "a tenth of it takes about 2" in " ".join(show.about(of, "kl"))  # 10^(1/0.7) = 26.8
    curve = fit.curve(store.load_table(tmp_path / "t")).between(show.FROM)
    assert of.decay.exponent.value == pytest.approx(fit.exponent(curve).value, abs=1e-6)


def test_the_least_size_is_the_one_from_which_all_are_vouched_for():
    points = [(8, 0.5), (16, 0.1), (32, 0.3), (64, 0.15), (128, 0.05)]
    series = show.Series(
        "sinks",
        "online",
        "kl",
        tuple(show.Point(s, s, h - 0.01, h - 0.02, h, 5) for s, h in points),
    )
    assert series.least(0.2).size == 64  # 16 lies below, but 32 does not
    assert series.least(0.15).size == 64 and series.least(0.149).size == 128
    assert series.least(0.01) is None
    assert series.least(0.295, vouched=False).size == 16


def test_the_plan_is_the_least_budget_and_what_it_weighs(tmp_path):
    of = show.shown(distortions(tmp_path / "t", 4))
    best = show.budget(of, 0.2, "kl")
    assert (best.series.policy, best.point.size, best.vouched) == ("sinks", 64, True)
    text = " ".join(show.to_text(of, 0.2).split())
    assert "keep 64 entries by 4 sinks + recent" in text
    assert "64.0 kB" in text or "64 kB of cache a sequence" in text  # 64 entries of 1,000 bytes
    assert "BoundedCache(64, n_sink=4, model=model)" in text
    assert "random 256 entries" in text
    assert show.budget(of, 1e-3, "kl") is None
    assert "No measured budget keeps epsilon = 0.001 nats" in show.advice(of, 1e-3, "kl")


def test_beyond_what_was_measured_a_number_is_called_an_extrapolation(tmp_path):
    of = show.shown(truncations(tmp_path / "t", 6))
    largest = of.of("kl")[0].points[-1]
    truth = 2.0 * (np.arange(1, 1025) + 1.0) ** -0.7 - 2.0 * 2561.0**-0.7
    epsilon = float(truth[2 * largest.size - 1])  # what twice the largest window loses
    said = show.advice(of, epsilon, "kl")
    assert "an extrapolation that nothing here vouches for" in said
    assert "2 times the largest window" in said or "2.0" in said or "1.9" in said
    far = show.advice(of, 1e-4, "kl")
    assert "further no number is given" in far and "--max-window" in far
    few = show.shown(truncations(tmp_path / "u", 2))
    assert "extrapolation" not in show.advice(few, epsilon, "kl")


def test_a_mean_that_would_do_asks_for_documents(tmp_path):
    means = np.array([[0.02, 0.01], [0.04, 0.03], [0.5, 0.4]])
    of = show.shown(stored(tmp_path / "t", table_of(means, np.array([32, 64])), show.TRUNCATION))
    assert "measure more documents (--docs)" in show.advice(of, 0.2, "kl")


# --- what cannot be shown -------------------------------------------------------------------------


def broken(folder: Path) -> dict[str, tuple[Path | str, str]]:
    """Tables that there are not, or that are none, with what is said of them."""
    table = table_of(np.ones((2, 2)), np.array([8, 16]))
    infinite = table.assign(kl_nats=np.inf)
    return {
        "missing": (folder / "none", "expected a table"),
        "another kind": (stored(folder / "k", table, "passage"), "got one of the kind 'passage'"),
        "no columns": (
            stored(folder / "c", table.drop(columns="window"), show.TRUNCATION),
            "got no window",
        ),
        "no rows": (stored(folder / "r", table[:0], show.TRUNCATION), "expected rows, got none"),
        "infinite": (stored(folder / "i", infinite, show.TRUNCATION), "expected finite numbers"),
        "whole context alone": (
            stored(folder / "w", table.assign(context=table["window"]), show.TRUNCATION),
            "shorter than their contexts",
        ),
        "a stored one of another kind": ("calibration", "'calibration'"),
    }


@pytest.mark.parametrize(
    "what",
    ["missing", "another kind", "no columns", "no rows", "infinite", "whole context alone"]
    + ["a stored one of another kind"],
)
def test_what_is_no_such_table_is_one_line_and_code_2(command, tmp_path, what):
    path, said = broken(tmp_path)[what]
    code, out, err = command("show", path)
    assert code == 2 and out == ""
    assert err.count("\n") == 1 and err.startswith("error: ") and said in err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--metric mse", "metric: expected one of kl, tv, top1, got 'mse'"),
        ("--metric top1", "metric: expected one of kl, tv, got 'top1'"),
        ("--epsilon -1", "epsilon: expected more than 0 nats"),
        ("--epsilon nan", "epsilon: expected more than 0 nats"),
        ("--metric tv --epsilon 1", "below 1"),
        ("--html page.parquet", "html: expected a name that ends in .html"),
    ],
)
def test_flags_that_say_nothing_are_one_line_and_code_2(command, tmp_path, flags, said):
    path = truncations(tmp_path / "t", 3, np.array([8, 16, 32]))
    before = sorted(tmp_path.iterdir())
    code, out, err = command("show", path, *shlex.split(flags))
    assert code == 2 and out == "" and err.count("\n") == 1 and said in err
    assert sorted(tmp_path.iterdir()) == before


def test_a_damaged_table_is_refused(command, tmp_path):
    path = store.table_file(truncations(tmp_path / "t", 3))
    path.write_bytes(path.read_bytes()[:-9])
    code, out, err = command("show", path)
    assert code == 2 and out == "" and "damaged" in err


# --- the command ----------------------------------------------------------------------------------


def test_the_command_prints_words_or_data(command, tmp_path):
    path = distortions(tmp_path / "t", 3)
    code, out, err = command("show", path, "--epsilon", 0.2)
    assert code == 0 and err == "" and "keep 64 entries" in " ".join(out.split())
    code, out, err = command("show", path, "--epsilon", 0.2, "--json")
    data = json.loads(out)
    assert code == 0 and data["plan"]["size"] == 64 and data["plan"]["vouched"]
    assert "sink_token_length=4" in data["plan"]["settings"]["TensorRT-LLM"]["lines"]


def test_a_table_of_the_book_is_shown_by_its_name(command):
    code, out, _ = command("show", "sensitivity-small-gpt2-scipy-docs", "--metric", "tv")
    assert code == 0 and out.startswith("The small GPT-2 on SciPy's docstrings: 24 documents")


def test_digits_have_no_exponents():
    said = [show.digits(x) for x in (0, 1e-9, 0.000123, 0.12345, 12.345, 1234.5, 1e7)]
    assert said == [
        *("0", "less than 0.0001", "0.000123", "0.123", "12.3", "1,234", "10,000,000"),
    ]
    assert show.allowed(0.00001, "kl") == "epsilon = 0.00001 nats"


def test_every_measured_kind_of_the_book_can_be_shown():
    tables = [t for t in store.tables(store.DATA) if t.settings.get("kind") in show.KINDS]
    assert len(tables) > 30
    for table in tables[:: len(tables) // 12]:  # every kind of name, a dozen in all
        assert no_wider_than(show.to_text(show.shown(table.path)), 80)
