"""Slopes at matched windows, paired ratios, and the interval between texts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from kvlib import fit

WINDOWS = 2.0 ** np.arange(2, 9.01, 0.25)


def curve_of(mean, windows, docs=10, spread=0.1, seed=0) -> fit.Curve:
    rng = np.random.default_rng(seed)
    level = rng.standard_normal((docs, 1)) + 0.3 * rng.standard_normal((docs, len(windows)))
    whole = windows.astype(int)
    doc_means = mean * np.exp(spread * level)
    return fit.Curve(windows, whole, whole, doc_means, np.array([2048.0]), docs, docs)


def test_a_slope_by_which_one_curve_lags_behind_is_found_whatever_the_law():
    lag = np.array([12.0, 60.0, 252.0, 508.0])
    law = np.exp(-0.4 * np.log(WINDOWS) - 0.02 * np.log(WINDOWS) ** 2)
    at = np.exp(np.interp(np.log(lag), np.log(WINDOWS), np.log(law)))
    found = fit.matched_slope(
        curve_of(0.7 * at * lag**0.13, lag, spread=0), curve_of(law, WINDOWS, spread=0)
    )
    assert found.value == pytest.approx(0.13, abs=1e-12)


def test_the_slope_is_that_of_polyfit_without_each_document_in_turn():
    above = curve_of(np.array([9.0, 4, 2, 1]), np.array([8.0, 32, 128, 400]), seed=1)
    below = curve_of(WINDOWS**-0.5, WINDOWS, seed=2)

    def slope(keep):
        ours, theirs = above.doc_means[keep].mean(0), below.doc_means[keep].mean(0)
        there = [
            stats.linregress(np.log(WINDOWS[k : k + 2]), np.log(theirs[k : k + 2]))
            for k in np.searchsorted(WINDOWS, above.window) - 1
        ]
        logs = [p.intercept + p.slope * np.log(w) for p, w in zip(there, above.window, strict=True)]
        return np.polyfit(np.log(above.window), np.log(ours) - logs, 1)[0]

    docs = np.arange(10)
    left = np.array([slope(docs != k) for k in docs])
    half = stats.t.ppf(0.975, 9) * np.sqrt(0.9 * ((left - left.mean()) ** 2).sum())
    found = fit.matched_slope(above, below)
    assert found.value == pytest.approx(slope(docs >= 0))
    assert found.high - found.value == pytest.approx(half, rel=1e-9)


def test_a_power_of_the_one_curve_is_held_against_the_other():
    at = np.array([12.0, 60.0, 252.0])
    pair = curve_of(at**-0.8, at, spread=0), curve_of(WINDOWS**-0.3, WINDOWS, spread=0)
    assert fit.matched_slope(*pair, power=0.5).value == pytest.approx(0.3 - 0.4, abs=1e-12)


def suffixes(law, last=512, docs=4) -> pd.DataFrame:
    """Pairs at every window up to the last, documents that differ by a factor."""
    window = np.arange(1, last + 1)
    parts = [
        pd.DataFrame({"doc": doc, "window": window, "kl_nats": (1 + 0.1 * doc) * law(window)})
        for doc in range(docs)
    ]
    return pd.concat(parts).assign(position=1535, context=1536)


@pytest.mark.parametrize("alpha", [0.3, 0.6, 1.2])
def test_a_curve_of_bins_is_read_to_the_end_of_the_last_one(alpha):
    """508 tokens lie beyond the centre of the bin that ends at 512."""
    at = np.array([12.0, 60.0, 252.0, 508.0])
    ours = curve_of(at ** (0.13 - alpha), at, docs=4, spread=0)
    theirs = fit.curve(suffixes(lambda w: w**-alpha))
    assert theirs.window[-1] < 475 and theirs.last[-1] == 512
    assert fit.matched_slope(ours, theirs).value == pytest.approx(0.13, abs=0.003)
    level = np.log(theirs.mean[0])
    assert fit.log_gap(ours, theirs) == pytest.approx(0.13 * np.log(at) - level, abs=0.01)


def test_beyond_the_last_centre_the_line_is_the_one_through_the_last_octave():
    bent = WINDOWS**-0.5 * np.exp(-WINDOWS / 300)
    below = curve_of(bent, WINDOWS, spread=0)
    at = np.array([40.0, 500.0, 560.0, 600.0])
    tail = stats.linregress(np.log(WINDOWS[-5:]), np.log(bent[-5:])).slope
    straight = np.log(bent[-1]) + tail * np.log(at[2:] / WINDOWS[-1])
    gaps = fit.log_gap(curve_of(np.ones(4), at, spread=0), below)
    assert -gaps[2:] == pytest.approx(straight, abs=1e-12)
    inside = np.interp(np.log(at[:2]), np.log(WINDOWS), np.log(bent))
    assert -gaps[:2] == pytest.approx(inside, abs=1e-12)


def test_windows_that_the_other_curve_lacks_do_not_count():
    lag = np.array([2.0, 12, 60, 252, 1020])
    wild = np.array([99.0, 1, 1, 1, 99])
    below = curve_of(np.ones_like(WINDOWS), WINDOWS, spread=0)
    assert fit.matched_slope(curve_of(wild, lag, spread=0), below).value == pytest.approx(0)
    assert fit.covered(curve_of(wild, lag), below).tolist() == [False, True, True, True, False]


def test_unequal_documents_and_few_windows_are_refused():
    below = curve_of(WINDOWS**-0.5, WINDOWS)
    above = curve_of(np.array([3.0, 2, 1]), np.array([8.0, 32, 128]))
    with pytest.raises(ValueError, match="documents: .*got 9 and 10"):
        fit.matched_slope(replace(above, doc_means=above.doc_means[1:]), below)
    with pytest.raises(ValueError, match="windows: expected at least 3.*got 2"):
        fit.matched_slope(above.between(10), below)


def test_a_paired_ratio_is_that_of_the_means_with_the_interval_of_its_leave_outs():
    rng = np.random.default_rng(0)
    below = np.exp(rng.standard_normal(12))
    above = 0.9 * below + 0.05 * rng.standard_normal(12)
    found = fit.ratio(above, below)
    assert found.value == pytest.approx(above.mean() / below.mean())
    left = [np.delete(above, k).mean() / np.delete(below, k).mean() for k in range(12)]
    assert found.high - found.low == pytest.approx(
        2 * stats.t.ppf(0.975, 11) * np.sqrt(11 * np.var(left))
    )
    assert fit.ratio(-above, below).value == pytest.approx(-found.value)


def test_the_interval_of_texts_is_a_t_interval_over_their_values():
    items = [fit.Estimate(v, v - 9, v + 9, 24) for v in (0.66, 0.42, 0.6)]
    found = fit.over_texts(items)
    low, high = stats.t.interval(0.95, 2, 0.56, stats.sem([0.66, 0.42, 0.6]))
    assert (found.value, found.low, found.high) == pytest.approx((0.56, low, high))
    assert found.n_documents == 3
    with pytest.raises(ValueError, match="texts: expected at least 2, got 1"):
        fit.over_texts(items[:1])


def test_the_root_law_of_a_total_variation_has_half_the_exponent_of_its_square():
    contexts = np.linspace(1024, 2048, 32)
    far = ((contexts + 1) ** -0.7).mean()
    value = 0.3 * np.sqrt((WINDOWS + 1) ** -0.7 - far)
    found = fit.fit_law("root power", WINDOWS, value, contexts=contexts)
    assert float(found.exponent) == pytest.approx(0.35, abs=1e-6)
    square = fit.fit_law("finite-context power", WINDOWS, value**2, contexts=contexts)
    assert float(found.exponent) == pytest.approx(float(square.exponent) / 2, abs=1e-6)
    assert found(WINDOWS) == pytest.approx(value, rel=1e-6)
    assert pd.Series(found.log_value(WINDOWS)).is_monotonic_decreasing
