"""Verdicts follow their rules, both ways, and the front page says what they say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from studies import exact_curve, noisy_curve

from kvlib import claims, fit, store

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
    assert claims.sensitivity.decay_verdict(rows) == expected


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
    assert claims.extrapolation.extrapolation_verdict(rows) == expected


def decay_and_extrapolation(curves) -> tuple[str, str]:
    """C2's verdict and C3's."""
    return (
        claims.sensitivity.decay_verdict(claims.sensitivity.decay(curves)),
        claims.extrapolation.extrapolation_verdict(claims.extrapolation.contests(curves)),
    )


def test_geometric_sources_are_not_called_power_laws():
    curves = {("m", "c"): noisy_curve(lambda w: np.exp(-w / 60), spread=0.1)}
    assert decay_and_extrapolation(curves) == ("not reproduced", "not reproduced")


def test_power_law_sources_pass_against_the_exponential():
    curves = {("m", "c"): noisy_curve(lambda w: exact_curve(0.6, 2560, w), spread=0.1)}
    c2, c3 = decay_and_extrapolation(curves)
    assert c2 in ("reproduced", "partly") and c3 == "reproduced"


@pytest.fixture(scope="module")
def without_curves() -> list[claims.claim.Verdict]:
    return claims.front.verdicts({})


def test_without_measurements_a_claim_about_models_is_to_come(without_curves, tmp_path):
    found = {item.claim.id: item.verdict for item in without_curves}
    assert {found["C6"], found["C7"]} == {"proved here"}
    assert (found["C1"], found["C8"]) == ("partly", "open")
    assert {found["C2"], found["C3"], found["C9"]} == {"to come"}
    assert claims.front.policy_verdicts(tmp_path) == {}
    assert [claim.id for claim in claims.claim.CLAIMS] == [f"C{k}" for k in range(1, 13)]


def test_every_claim_has_a_page_and_with_the_stored_tables_a_verdict():
    curves = claims.claim.stored_curves()
    items = claims.front.verdicts(curves, claims.claim.stored_curves("tv"))
    assert all(item.verdict != "to come" and item.figure for item in items)
    pages = {path.stem for path in (ROOT / "notebooks").glob("*.md")}
    assert {item.claim.page for item in items} <= pages


def test_a_bound_that_fails_once_is_not_proved():
    assert claims.bounds.bound_verdict(pd.Series([True, True])) == "proved here"
    assert claims.bounds.bound_verdict(pd.Series([True, False])) == "not reproduced"


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


def test_the_html_table_names_every_claim_and_escapes_its_text(without_curves):
    claim = claims.claim.Claim("C0", "a < b & c", "sensitivity")
    html = claims.front.to_html([claims.claim.Verdict(claim, "partly", "α > 0")])
    assert "a &lt; b &amp; c" in html and "α &gt; 0" in html
    assert 'href="../notebooks/sensitivity.html"' in html
    whole = claims.front.to_html(without_curves)
    assert all(f"<td>{claim.id}</td>" in whole for claim in claims.claim.CLAIMS)
