"""Corrected p-values, and studies drawn anew around a declared truth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from kvlib import fit


def test_p_is_that_of_a_t_test_on_documents():
    values = np.random.default_rng(0).normal(0.3, 1, 12)
    left = (values.sum() - values) / 11
    found = fit.p_above(fit.jackknife(values.mean(), left), 0.1)
    test = stats.ttest_1samp(values, 0.1, alternative="greater")
    assert found == pytest.approx(test.pvalue, rel=1e-9)


def test_p_agrees_with_the_interval_and_knows_certainty():
    assert fit.p_above(fit.Estimate(2.0, 1.0, 3.0, 16), 1.0) == pytest.approx(0.025)
    assert fit.p_above(fit.Estimate(2.0, 2.0, 2.0, 16), 1.0) == 0
    assert fit.p_above(fit.Estimate(1.0, 1.0, 1.0, 16), 1.0) == 1


def test_holm_by_hand_and_against_scipys_control_of_one_try():
    found = fit.holm(np.array([0.04, 0.01, 0.03, 0.5]))
    np.testing.assert_allclose(found, [0.09, 0.04, 0.09, 0.5])
    assert fit.holm(np.array([0.2])) == pytest.approx([0.2])
    assert fit.holm(np.array([0.9, 0.8])).tolist() == [1, 1]


def test_holm_keeps_its_promise_over_many_tries():
    p = np.random.default_rng(1).uniform(size=(4000, 10))
    false = np.mean([fit.holm(row).min() < 0.05 for row in p])
    assert stats.binomtest(int(4000 * 0.05), 4000).proportion_ci(0.999).low < false < 0.06


def test_drawn_values_and_widths_scatter_as_those_of_eight_documents():
    """A t interval of half-width 1: values by its standard error, squared widths as χ²/7."""
    rng, item = np.random.default_rng(3), fit.Estimate(0.0, -1.0, 1.0, 8)
    made = [fit.drawn(item, 2.0, rng) for _ in range(20_000)]
    error = 1 / stats.t.ppf(0.975, 7)
    assert np.std([one.value for one in made]) == pytest.approx(error, rel=0.02)
    square = np.array([(one.high - one.low) / 2 for one in made]) ** 2
    assert np.mean(square) == pytest.approx(1, rel=0.02)
    assert np.var(square) == pytest.approx(2 / 7, rel=0.1)


@pytest.mark.parametrize("log", [False, True])
def test_drawn_intervals_hold_the_truth_as_often_as_they_say(log):
    rng = np.random.default_rng(2)
    item = fit.Estimate(3.0, 2.0, 4.5, 8) if log else fit.Estimate(0.3, 0.2, 0.4, 8)
    made = [fit.drawn(item, 1.5, rng, log) for _ in range(2000)]
    held = sum(one.low < 1.5 < one.high for one in made)
    assert 0.93 < held / 2000 < 0.97
    assert np.median([one.value for one in made]) == pytest.approx(1.5, rel=0.02)
