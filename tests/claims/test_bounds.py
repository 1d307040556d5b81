"""C6 and C7: the check of the bounds can fail, and facts follow any tables."""

from __future__ import annotations

import pandas as pd
import pytest
from studies import exact_curve, noisy_curve

from kvlib import claims


def test_a_bound_that_fails_once_is_not_proved():
    assert claims.bounds.bound_rule(pd.Series([True, True])) == "proved here"
    assert claims.bounds.bound_rule(pd.Series([True, False])) == "not reproduced"


def test_the_sandwich_check_can_fail(monkeypatch):
    honest = claims.bounds.bounds.sandwich

    def too_tight(epsilon, low, high, exponent):
        return honest(epsilon, 2 * low, 2 * high, exponent)

    monkeypatch.setattr(claims.bounds.bounds, "sandwich", too_tight)
    assert not claims.bounds.sandwich_checks()["lower holds"].all()


def test_a_miss_is_made_good_by_as_much_window_as_the_law_asks_for():
    window, exponent, miss = 100, 0.5, 0.2
    wrong = (1 + miss) * window**-exponent
    more = claims.bounds.more_window(miss, exponent)
    assert (window * (1 + more)) ** -exponent == pytest.approx(wrong / (1 + miss) ** 2)
    assert claims.bounds.more_window(1, 0.5) == pytest.approx(3)  # halving costs a factor of four


def test_facts_take_in_tables_of_a_new_model_and_text():
    exact = noisy_curve(lambda w: exact_curve(0.6, 2560, w), spread=0.01)
    bumpy = noisy_curve(lambda w: exact_curve(0.9, 2560, w), n_documents=9, seed=1, spread=0.5)
    curves = {("m", "c"): exact, ("a new model", "a new text"): bumpy}
    checked, rows = claims.bounds.sandwich_checks(count=5), claims.bounds.law_errors(curves)
    facts = claims.bounds.facts(curves, checked, rows)
    assert facts["worst-name"] == "a new model on a new text"
    assert (facts["n"], facts["checks"]) == ("24", "20")
