"""Verdicts follow their rules, both ways, and the front page says what they say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from studies import exact_curve, noisy_curve

from kvlib import claims, fit, store
from kvlib.claims.claim import Verdict

ROOT = Path(__file__).parents[2]


def ratio(value, low, high):
    return fit.Estimate(value, low, high, 24)


@pytest.mark.parametrize(
    ("exponential", "stretched", "expected"),
    [
        (ratio(3, 2, 4), ratio(1.5, 1.1, 2), "reproduced"),
        (ratio(3, 2, 4), ratio(1.1, 0.9, 1.3), "partly"),
        (ratio(1.2, 0.9, 2), ratio(1.5, 1.1, 2), "not reproduced"),
    ],
)
def test_decay_is_reproduced_only_if_both_rivals_lose(exponential, stretched, expected):
    rows = pd.DataFrame({"exponential": [exponential], "stretched": [stretched]})
    assert claims.sensitivity.rule(rows) == expected


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (ratio(10, 5, 20), ratio(4, 2, 8), "reproduced"),
        (ratio(2, 1.5, 3), ratio(3, 2, 4), "partly"),
        (ratio(20, 5, 50), ratio(1.5, 0.8, 4), "not reproduced"),
    ],
)
def test_extrapolation_needs_an_order_of_magnitude_on_every_table(first, second, expected):
    rows = pd.DataFrame({"exponential": [first, second]})
    assert claims.extrapolation.rule(rows) == expected


def decay_and_extrapolation(curves) -> tuple[str, str]:
    """C2's verdict and C3's."""
    return (
        claims.sensitivity.rule(claims.sensitivity.decay(curves)),
        claims.extrapolation.rule(claims.extrapolation.contests(curves)),
    )


def test_geometric_sources_are_not_called_power_laws():
    curves = {("m", "c"): noisy_curve(lambda w: np.exp(-w / 60), spread=0.1)}
    assert decay_and_extrapolation(curves) == ("not reproduced", "not reproduced")


def test_power_law_sources_pass_against_the_exponential():
    curves = {("m", "c"): noisy_curve(lambda w: exact_curve(0.6, 2560, w), spread=0.1)}
    c2, c3 = decay_and_extrapolation(curves)
    assert c2 in ("reproduced", "partly") and c3 == "reproduced"


@pytest.fixture(scope="session")
def stored_verdicts() -> list[Verdict]:
    """The verdicts from the tables that travel with the library."""
    return claims.front.verdicts()


@pytest.fixture(scope="module")
def without_tables(tmp_path_factory) -> list[Verdict]:
    return claims.front.verdicts(tmp_path_factory.mktemp("empty"))


def test_without_measurements_a_claim_about_models_is_to_come(without_tables):
    exact = {"C6": "proved here", "C7": "proved here", "C8": "open"}  # these need none
    found = {item.claim.id: item.word for item in without_tables}
    claims_in_order = [claim.id for claim in claims.front.claims()]
    assert claims_in_order == [f"C{k + 1}" for k in range(len(claims_in_order))]
    assert found == {id: exact.get(id, "to come") for id in claims_in_order}
    assert all(item.rule for item in without_tables)


def test_every_claim_has_a_page_and_with_the_stored_tables_a_verdict(stored_verdicts):
    assert tuple(item.claim for item in stored_verdicts) == claims.front.claims()
    assert all(item.word != "to come" and item.sentence for item in stored_verdicts)
    assert all(item.rule and item.figures for item in stored_verdicts)
    pages = {path.stem for path in (ROOT / "notebooks").glob("*.md")}
    assert {item.claim.page for item in stored_verdicts} <= pages


def test_a_page_judges_its_own_claims():
    for page in claims.front.PAGES:
        name = page.__name__.split(".")[-1]
        assert {claim.page for claim in page.CLAIMS} == {name}


def test_every_interval_on_data_says_of_what_it_is(stored_verdicts):
    measured = [
        figure for item in stored_verdicts for figure in item.figures if figure.low is not None
    ]
    assert len(measured) > 100
    assert all(figure.low <= figure.estimate <= figure.high for figure in measured)
    assert all(figure.n >= 3 and figure.model and figure.corpus for figure in measured)


def test_the_verdicts_as_json_are_the_verdicts(stored_verdicts):
    read = json.loads(claims.front.to_json(stored_verdicts))
    assert [item["claim"]["id"] for item in read] == [item.claim.id for item in stored_verdicts]
    back = [
        Verdict(
            claim=claims.claim.Claim(**item.pop("claim")),
            figures=tuple(claims.claim.Figure(**figure) for figure in item.pop("figures")),
            **item,
        )
        for item in read
    ]
    assert back == stored_verdicts


def test_the_verdicts_as_text_hold_rule_sentence_and_each_figure(stored_verdicts):
    text = claims.front.to_text(stored_verdicts)
    flat = " ".join(text.split())
    for item in stored_verdicts:
        assert f"{item.claim.id} {item.word}" in flat
        assert item.claim.text in flat and item.rule in flat
        assert " ".join(item.sentence.split()) in flat
    lines = sum(line.startswith("      ") for line in text.splitlines())
    assert lines == sum(len(item.figures) for item in stored_verdicts)


def test_a_figure_in_a_line_says_what_it_has_and_nothing_else():
    claim = claims.claim.Claim("C0", "said", "sensitivity")
    figures = (
        claims.claim.Figure("bits", 160.0),
        claims.claim.Figure(
            *("α", 0.5, 0.4, 0.6, 24, "gemma3-270m", "scipy-docs", "KL", "online"),
            policy="sinks",
            budget=1024,
        ),
        claims.claim.figure_of("α", fit.Estimate(0, 0, 0, 16, flat=True), distance="TV"),
    )
    readings = {"KL": "reproduced", "TV": "not reproduced"}
    said = claims.front.to_text([Verdict(claim, "partly", "all", "a rule", figures, readings)])
    assert [line.strip() for line in said.splitlines()] == [
        *("C0  partly", "said", "Rule: a rule", "all", "KL: reproduced", "TV: not reproduced"),
        "bits = 160",
        "α = 0.5 [0.4, 0.6]; n = 24; Gemma-3-270M on SciPy's docstrings; KL; online; "
        "4 sinks + recent; budget 1,024",
        "α = none; n = 16; TV",
    ]


@pytest.mark.parametrize("bad", [("great", {}), ("partly", {"TV": "great"})])
def test_a_word_that_no_rule_may_give_is_refused(bad):
    word, readings = bad
    claim = claims.front.claims()[0]
    with pytest.raises(ValueError, match="expected one of reproduced, .*, got 'great'"):
        Verdict(claim, word, "", "", readings=readings)


def test_a_rule_is_printed_from_its_docstring():
    assert claims.claim.rule_text(claims.sensitivity.rule).startswith("C2. Reproduced: on every")
    with pytest.raises(ValueError, match="expected a docstring that states the rule"):
        claims.claim.rule_text(lambda table: "partly")


def test_figures_take_their_place_from_the_row():
    rows = pd.DataFrame({"model": ["m"], "budget": [64], "a": [ratio(3, 2, 4)], "b": ["x"]})
    (found,) = claims.claim.figures_of(rows, {"a": "ratio"}, distance="TV")
    assert found == claims.claim.Figure(
        "ratio", 3.0, 2.0, 4.0, 24, model="m", distance="TV", budget=64
    )


def test_a_bound_that_fails_once_is_not_proved():
    assert claims.bounds.bound_rule(pd.Series([True, True])) == "proved here"
    assert claims.bounds.bound_rule(pd.Series([True, False])) == "not reproduced"


def test_the_sandwich_check_can_fail(monkeypatch):
    honest = claims.bounds.bounds.sandwich

    def too_tight(epsilon, low, high, exponent):
        return honest(epsilon, 2 * low, 2 * high, exponent)

    monkeypatch.setattr(claims.bounds.bounds, "sandwich", too_tight)
    assert not claims.bounds.sandwich_checks()["lower holds"].all()


def test_the_stored_tables_are_whole_and_large_enough():
    tables = store.stored("sensitivity")
    assert {corpus for model, corpus in tables if model.startswith("smollm2")} == {
        "world-english-bible",
        "scipy-docs",
        "sympy-code",
    }
    assert ("gemma3-270m", "world-english-bible") in tables
    for path in tables.values():
        table = store.load_table(path)  # checks its SHA-256
        assert table["doc"].nunique() >= 24
        assert set(table["window"]) == set(range(1, 1025))
        assert (table["kl_nats"] > -1e-6).all()
        assert (table["context"] == table["position"] + 1).all()
        assert (table["context"] >= 2 * table["window"]).all()
        top = table[table["window"] > 512]
        starts = (top["position"] - top["window"]).groupby(top["doc"]).nunique()
        assert (starts >= 3).all()


def test_the_html_table_names_every_claim_and_escapes_its_text(without_tables):
    claim = claims.claim.Claim("C0", "a < b & c", "sensitivity")
    html = claims.front.to_html([Verdict(claim, "partly", "α > 0", "")])
    assert "a &lt; b &amp; c" in html and "α &gt; 0" in html
    assert 'href="../notebooks/sensitivity.html"' in html
    whole = claims.front.to_html(without_tables)
    assert all(f"<td>{claim.id}</td>" in whole for claim in claims.front.claims())
