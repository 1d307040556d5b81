"""C6 and C7: the check of the bounds can fail, and facts follow any tables."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from studies import exact_curve, noisy_curve

from kvlib import claims


def test_a_bound_that_fails_once_is_no_checked_definition():
    assert claims.bounds.bound_rule(pd.Series([True, True])) == "definition checked"
    assert claims.bounds.bound_rule(pd.Series([True, False])) == "not reproduced"


WINDOWS = np.arange(1.0, 2049.0)


def rows_of(value: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame([claims.bounds.foretell(WINDOWS, value)._asdict()])


def local(slope: float) -> np.ndarray:
    """A power law of exponent one half up to 64 tokens, of another beyond."""
    return WINDOWS**-0.5 * np.where(WINDOWS > 64, (WINDOWS / 64) ** (0.5 - slope), 1)


@pytest.mark.parametrize(
    ("slope", "lower", "upper"),
    [
        (0.5, "reproduced", "reproduced"),
        (0.55, "partly", "reproduced"),  # (2048/64)^0.1: a factor of 1.4
        (0.45, "reproduced", "partly"),
        (0.9, "not reproduced", "reproduced"),
        (0.2, "reproduced", "not reproduced"),
    ],
)
def test_beyond_the_fitted_windows_each_bound_gets_its_word(slope, lower, upper):
    rows = rows_of(local(slope))
    assert rows["tried"].item() == 2048 - 64
    assert claims.bounds.reading(rows, "lower") == lower
    assert claims.bounds.reading(rows, "upper") == upper


def test_a_miss_is_counted_in_tokens_by_hand():
    """With exponent 0.9 beyond 64 the last ε is 2048^-0.5 32^-0.4; a law of one half needs its
    inverse square, 2048 · 32^0.8 tokens."""
    assert rows_of(local(0.9))["lower_miss"].item() == pytest.approx(32**0.8, rel=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_a_noisy_power_law_is_mostly_held_and_nearly_met(seed):
    data = noisy_curve(lambda w: w**-0.5, seed=seed, spread=0.1)
    found = claims.bounds.foretell(data.window, data.mean)
    assert found.tried == 13 and found.lower + found.upper >= 13
    assert max(found.lower_miss, found.upper_miss) < claims.bounds.CLOSE


def test_a_curve_without_windows_beyond_is_refused():
    with pytest.raises(ValueError, match="windows: expected 3 up to 64 and some beyond"):
        claims.bounds.foretell(WINDOWS[:64], WINDOWS[:64] ** -0.5)


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
    beyond = claims.bounds.out_of_sample({"KL": curves, "TV": curves}, count=5)
    facts = claims.bounds.facts(curves, checked, beyond, rows)
    assert facts["worst-name"] == "a new model on a new text"
    assert (facts["n"], facts["checks"]) == ("24", "20")
