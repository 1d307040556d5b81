"""Laws of the fits, on curves whose exponents are known by construction."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import curve_fit
from studies import WINDOWS, exact_curve, noisy_curve, table_of

from kvlib import fit
from kvlib.fit import laws
from kvlib.fit.estimate import estimate


@given(alpha=st.floats(0.1, 3), prefactor=st.floats(1e-3, 10))
@settings(max_examples=40, deadline=None)
def test_a_power_law_gives_its_exponent_and_prefactor_back(alpha, prefactor):
    found = fit.fit_law("power", WINDOWS, prefactor * WINDOWS**-alpha)
    assert found.exponent == pytest.approx(alpha, abs=1e-9)
    assert found.prefactor == pytest.approx(prefactor, rel=1e-9)


@given(alpha=st.floats(0.1, 3), context=st.floats(600, 4000))
@settings(max_examples=40, deadline=None)
def test_the_finite_context_law_gives_the_exponent_back_to_five_digits(alpha, context):
    contexts = np.array([context])
    value = exact_curve(alpha, context)
    found = fit.fit_law("finite-context power", WINDOWS, value, contexts=contexts)
    assert found.exponent == pytest.approx(alpha, abs=1e-5)


@pytest.mark.parametrize(("alpha", "naive"), [(0.5, 0.67), (1.0, 1.06), (1.5, 1.50)])
def test_the_naive_exponent_is_too_steep_against_a_finite_reference(alpha, naive):
    value = exact_curve(alpha, 1024)
    assert fit.fit_law("power", WINDOWS, value).exponent == pytest.approx(naive, abs=0.01)


def test_leaving_the_shift_out_biases_the_exponent_down_by_four_to_six_percent():
    for alpha in (0.5, 1.0, 1.5):
        law = "finite-context power, unshifted"
        value = exact_curve(alpha, 1024)
        found = fit.fit_law(law, WINDOWS, value, contexts=np.array([1024.0]))
        assert 0.935 < found.exponent / alpha < 0.965


def test_an_infinite_reference_leaves_the_shifted_power_law():
    with_infinity = fit.fit_law("finite-context power", WINDOWS, (WINDOWS + 1) ** -0.7)
    assert with_infinity.exponent == pytest.approx(0.7, abs=1e-6)


@pytest.mark.parametrize(
    ("law", "function", "guess"),
    [
        ("exponential", lambda w, a, xi: a - w / xi, (0, 100)),
        ("stretched exponential", lambda w, a, xi, b: a - (w / xi) ** b, (0, 30, 0.5)),
        ("shifted power", lambda w, a, s, alpha: a - alpha * np.log(w + s), (0, 3, 0.6)),
    ],
)
def test_a_fit_is_as_good_as_scipys(law, function, guess):
    truth = 0.4 * (WINDOWS + 5) ** -0.8
    value = truth * np.exp(np.random.default_rng(1).normal(0, 0.05, len(WINDOWS)))
    ours = fit.fit_law(law, WINDOWS, value)
    with np.errstate(invalid="ignore"):  # scipy tries lengths below zero on its way
        theirs, _ = curve_fit(function, WINDOWS, np.log(value), guess, maxfev=20_000)
    mine = np.sum((ours.log_value(WINDOWS) - np.log(value)) ** 2)
    other = np.sum((function(WINDOWS, *theirs) - np.log(value)) ** 2)
    assert mine <= other * (1 + 1e-5)


def test_a_stack_of_curves_is_fitted_as_each_alone():
    values = np.stack([exact_curve(a, 2048) for a in (0.4, 0.8, 1.6)])
    contexts = np.array([2048.0])
    for law in fit.LAWS:
        stack = fit.fit_law(law, WINDOWS, values, contexts=contexts)
        for k, value in enumerate(values):
            alone = fit.fit_law(law, WINDOWS, value, contexts=contexts)
            np.testing.assert_allclose(stack.log_value(WINDOWS)[k], alone.log_value(WINDOWS))


@pytest.mark.parametrize("law", fit.LAWS)
def test_one_matrix_product_gives_the_residuals_of_each_curve_on_each_shape(law):
    law, rng = fit.LAWS[law], np.random.default_rng(0)
    window, weights = 2.0 ** np.arange(3, 10), rng.dirichlet(np.ones(7))
    y = np.log(window) * -0.5 + rng.normal(0, 0.1, (3, 4, 7))
    x = law.basis(window, law.shapes[:, None], np.array([2048.0, 3000.0]))
    plain = laws.line(x, y[..., None, :], weights, law.unit_slope)[2]
    fast = laws.residuals(x, y, weights, law.unit_slope)
    assert fast.shape == (3, 4, len(law.shapes))
    np.testing.assert_allclose(fast, plain, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("split", "stretched", "power"), [(32, 0.096, 0.654), (64, 0.167, 0.640), (128, 0.229, 0.641)]
)
def test_a_finite_reference_makes_a_stretched_exponential_foretell_an_exact_power_law(
    split, stretched, power
):
    """Unless the finite reference is allowed for: then it is exact."""
    windows, contexts = 2.0 ** np.arange(1, 11), np.array([2048.0])
    value, near = exact_curve(0.5, 2048, windows), windows <= split

    def error(law):
        found = fit.fit_law(law, windows[near], value[near], contexts=contexts)
        return np.sqrt(np.mean((found.log_value(windows) - np.log(value))[~near] ** 2))

    assert error("stretched exponential") == pytest.approx(stretched, rel=0.05)
    assert error("power") == pytest.approx(power, rel=0.02)
    assert error("finite-context power") < 1e-4


def test_an_exponential_loses_the_contest_on_a_power_law_and_wins_it_on_its_own():
    power = noisy_curve(lambda w: w**-0.6, spread=0.05)
    contest = fit.extrapolation(power, split=64, laws=("power", "exponential"), n_boot=200)
    assert contest.ratios["exponential"].low > 10
    exponential = noisy_curve(lambda w: np.exp(-w / 60), spread=0.05)
    contest = fit.extrapolation(exponential, split=64, laws=("power", "exponential"), n_boot=200)
    assert contest.ratios["exponential"].high < 1


@pytest.mark.parametrize(
    ("error", "miss"),
    [
        ("log", lambda said, measured: np.log(said / measured)),
        ("relative", lambda said, measured: (said - measured) / measured),
        ("linear", lambda said, measured: said - measured),
    ],
)
def test_the_errors_of_a_contest_are_those_of_polyfit(error, miss):
    data, scores = noisy_curve(lambda w: w**-0.6, spread=0.05), {}
    near, weights = data.last <= 64, data.split_at(64)[0].weights
    for law, x in (("power", np.log(data.window)), ("exponential", data.window)):
        line = np.polyfit(x[near], np.log(data.mean)[near], 1, w=np.sqrt(weights))
        said = np.exp(np.polyval(line, x[~near]))
        scores[law] = np.sqrt(np.mean(miss(said, data.mean[~near]) ** 2))
    contest = fit.extrapolation(data, 64, tuple(scores), n_boot=20, error=error)
    for law, score in scores.items():
        assert contest.errors[law].value == pytest.approx(score, rel=1e-9)
        assert contest.ratios[law].value == pytest.approx(score / scores["power"], rel=1e-9)


def test_a_law_that_falls_to_nothing_misses_by_no_more_than_all_in_shares():
    """Why an exponential loses by much more in the logarithm than in shares."""
    data = noisy_curve(lambda w: w**-0.6, spread=0.05)
    ratios = {
        error: fit.extrapolation(data, 64, ("power", "exponential"), n_boot=20, error=error)
        for error in ("log", "relative")
    }
    assert ratios["relative"].errors["exponential"].value <= 1
    log, relative = (ratios[e].ratios["exponential"].value for e in ("log", "relative"))
    assert log > 3 * relative


def test_held_out_documents_prefer_the_law_that_made_them():
    laws = ("finite-context power", "exponential")
    power = fit.held_out(noisy_curve(lambda w: exact_curve(0.6, 2560, w)), laws, n_boot=200)
    assert power["exponential"].low > 1
    geometric = fit.held_out(noisy_curve(lambda w: np.exp(-w / 200)), laws, n_boot=200)
    assert geometric["exponential"].high < 1


def test_the_interval_covers_a_known_exponent_about_as_often_as_it_says():
    """200 studies of 24 documents. A true 95% interval covers fewer than 176 of them with
    probability below 1e-4."""
    hits = 0
    for seed in range(200):
        data = noisy_curve(lambda w: exact_curve(0.6, 2560, w), seed=seed)
        found = fit.exponent(data)
        hits += found.low <= 0.6 <= found.high
    assert hits >= 176


def test_both_intervals_are_about_as_wide_and_around_one_value():
    data = noisy_curve(lambda w: exact_curve(0.6, 2560, w))
    one, other = fit.exponent(data), fit.exponent(data, interval="percentile")
    assert one.value == pytest.approx(other.value, abs=1e-9)
    assert (one.high - one.low) / (other.high - other.low) == pytest.approx(1.1, abs=0.3)


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("of", [fit.log_mean, lambda values: fit.log_ratio(values, values)])
def test_too_few_documents_are_one_line_and_no_warning(of, n):
    with pytest.raises(ValueError, match=f"expected at least 3 to leave one out, got {n}$"):
        of(np.ones(n))


def test_a_percentile_interval_holds_95_in_a_hundred_samples():
    found = estimate(7.0, np.arange(1001), 5)
    assert (found.value, found.low, found.high, found.n_documents) == (7, 25, 975, 5)


def test_resampling_pairs_instead_of_documents_would_be_far_too_sure():
    """Why the cluster bootstrap: documents differ by a common factor."""
    rng = np.random.default_rng(0)
    windows = np.repeat([9, 10, 11, 13], 50)
    factor = np.exp(rng.normal(0, 0.5, (20, 1)))
    data = fit.curve(table_of(factor * np.exp(rng.normal(0, 0.5, (20, 200))), windows))
    by_document = data.resampled(500).mean(axis=1).std()
    as_if_independent = data.doc_means.std() / np.sqrt(20 * 200)
    assert by_document > 4 * as_if_independent


def smooth_curve(value_at, largest):
    """A curve without noise over every window from 1 to `largest`."""
    windows = np.arange(1, largest + 1)
    return fit.curve(table_of(np.tile(value_at(windows.astype(float)), (2, 1)), windows))


def test_local_slopes_are_flat_for_a_power_law_and_double_for_an_exponential():
    power = fit.local_slopes(smooth_curve(lambda w: w**-0.6, 1024), n_boot=2)
    np.testing.assert_allclose(power["slope"], 0.6, rtol=0.01)
    falling = fit.local_slopes(smooth_curve(lambda w: np.exp(-w / 100), 256), n_boot=2)
    slope = falling["slope"].to_numpy()[2:]  # from the octave of 5 to 8 on
    np.testing.assert_allclose(slope[1:] / slope[:-1], 2, rtol=0.1)


def test_the_mean_comes_before_the_logarithm():
    values = np.array([[1.0, 0.5, 0.2], [3.0, 0.1, 0.2]])
    data = fit.curve(table_of(values, [1, 2, 4]))
    np.testing.assert_allclose(data.mean, [2.0, 0.3, 0.2])


def test_documents_count_the_same_however_many_pairs_they_have():
    table = table_of(np.array([[1.0, 1.0, 1.0], [3.0, 3.0, 3.0]]), [1, 2, 4])
    extra = pd.concat([table, table[table["doc"] == 0], table[table["doc"] == 0]])
    np.testing.assert_allclose(fit.curve(extra).mean, 2.0)


def test_bins_hold_every_window_and_lie_within_a_quarter_of_an_octave():
    windows = np.arange(1, 1025)
    data = fit.curve(table_of(np.ones((2, 1024)), windows))
    assert data.first[0] == 1 and data.last[-1] == 1024
    np.testing.assert_array_equal(data.first[1:], data.last[:-1] + 1)
    assert (data.last / data.first < 2**0.25 * (1 + 1e-9)).all()


def test_a_part_of_a_curve_holds_the_windows_that_it_names():
    """The geometric mean of a bin that holds 8 alone is 7.999…: that bin is kept all the same."""
    windows = 2 ** np.arange(11)
    data = fit.curve(table_of(np.ones((2, 11)), windows))
    assert (data.window != windows).any()  # what made window 8 disappear
    for window in windows:
        np.testing.assert_array_equal(data.between(window).first, windows[windows >= window])
        np.testing.assert_array_equal(data.between(0, window).last, windows[windows <= window])
        near, far = data.split_at(window)
        np.testing.assert_array_equal([*near.first, *far.first], windows)
        assert near.last.max() == window


def test_windows_that_are_powers_of_two_count_at_both_ends_wherever_windows_are_compared():
    """Their geometric mean may lie a rounding error beside them."""
    windows = 2 ** np.arange(11)
    values = np.tile((windows + 1.0) ** -0.5, (3, 1)) * [[1], [1.1], [1.2]]
    data = fit.curve(table_of(values, windows))
    drawn = fit.summaries({"kl_nats": {("m", "c"): data}}, min_window=8)
    np.testing.assert_array_equal(drawn["first"][drawn["fit"].notna()], windows[windows >= 8])
    assert fit.covered(data, data).all()
    quarters = np.floor(2 ** (np.arange(12, 41) / 4)).astype(int)
    slopes = fit.local_slopes(fit.curve(table_of(np.ones((2, 29)), quarters)), n_boot=2)
    octaves = [quarters[k : k + 5] for k in range(0, 28, 4)]  # both ends are powers of two
    means = [np.exp(np.log(octave).mean()) for octave in octaves]
    np.testing.assert_allclose(slopes["window"], means, rtol=1e-9)


def test_a_bin_that_a_border_cuts_is_left_out_and_a_split_loses_no_bin():
    data = fit.curve(table_of(np.ones((2, 1024)), np.arange(1, 1025)))
    assert data.between(8).first[0] == 9  # 7 and 8 share a bin
    assert data.between(0, 100).last[-1] == 90
    near, far = data.split_at(100)
    assert near.last[-1] == 90 and far.first[0] == 91
    assert len(near.window) + len(far.window) == len(data.window)


def test_contest_tables_fit_the_split_that_they_name():
    data = noisy_curve(lambda w: exact_curve(0.6, 2560, w))
    points, predictions = fit.contest_tables({("m", "c"): data})
    split = int(predictions["split"].iloc[0])
    near, _ = data.split_at(split)
    law = fit.fit_law("finite-context power", near.window, near.mean, near.weights, near.contexts)
    drawn = predictions[predictions["split"] == split]
    np.testing.assert_allclose(drawn["value"], law(drawn["window"].to_numpy()), rtol=1e-4)
    assert list(points["name"].unique()) == ["m on c"]


@pytest.mark.parametrize("error", ["log", "relative", "linear"])
def test_straight_laws_fitted_at_once_are_those_fitted_one_by_one(error):
    data = noisy_curve(lambda w: w**-0.6, n_documents=9)
    found = fit.straight_log_ratios(data, 64, error)
    plain = [
        fit.extrapolation(one, 64, ("power", "exponential"), n_boot=2, error=error)
        for one in data.leaving_out()
    ]
    expected = [np.log(contest.ratios["exponential"].value) for contest in plain]
    assert found == pytest.approx(expected, abs=1e-9)
    with pytest.raises(ValueError, match="split: expected at least 3 windows up to it and 2 beyo"):
        fit.straight_log_ratios(data, 1024, error)
    with pytest.raises(ValueError, match="error: expected one of log"):
        fit.straight_log_ratios(data, 64, "square")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fit.fit_law("power", [1.0, 2.0], [1.0, 0.5]), "at least 3"),
        (lambda: fit.fit_law("power", [1.0, 2.0, 4.0], [1.0, 0.0, 0.5]), "all positive"),
        (lambda: fit.curve(table_of(np.ones((1, 3)), [1, 2, 4])), "at least 2"),
        (lambda: fit.curve(table_of(np.array([[1, -1, 1], [1, 1, 1.0]]), [1, 2, 4])), "finite"),
        (lambda: fit.extrapolation(noisy_curve(lambda w: 1 / w), split=1024), "beyond"),
        (lambda: fit.extrapolation(noisy_curve(lambda w: 1 / w), 64, error="square"), "log, rel"),
        (lambda: fit.held_out(noisy_curve(lambda w: 1 / w, n_documents=3)), "at least 4"),
        (lambda: fit.fit_law("exponential", WINDOWS, 1 / WINDOWS).exponent, "power law"),
        (lambda: fit.exponent(noisy_curve(lambda w: 1 / w), interval="BCa"), "jackknife-t"),
    ],
)
def test_bad_input_is_refused_with_expected_and_got(call, message):
    with pytest.raises(ValueError, match=f"expected.*{message}.*got|{message}.*got"):
        call()


def test_a_document_without_some_window_is_refused():
    table = table_of(np.ones((2, 3)), [1, 2, 4])
    with pytest.raises(ValueError, match="every window bin .* at 4 tokens in document 1$"):
        fit.curve(table.iloc[:-1])
    common = fit.curve(table.iloc[:-1], common=True)
    assert (common.last.tolist(), common.n_pairs, common.n_documents) == ([1, 2], 4, 2)


def test_rows_whose_window_is_their_whole_context_are_no_part_of_a_curve():
    table = table_of(np.ones((2, 3)), [1, 2, 4])
    twice = table.assign(window=table["context"], kl_nats=1e-9)
    both = fit.curve(pd.concat([table, twice], ignore_index=True))
    np.testing.assert_array_equal(both.doc_means, fit.curve(table).doc_means)
    assert both.n_pairs == len(table)


def test_a_curve_on_a_floor_has_no_exponent_and_a_falling_one_has():
    flat = fit.exponent(noisy_curve(lambda w: 0.5 + w / 1e4, spread=0.01))
    assert flat.flat and str(flat) == "no exponent"
    falling = fit.exponent(noisy_curve(lambda w: w**-0.5, spread=0.01))
    assert not falling.flat and str(falling).startswith("0.")
    mixed = fit.exponent_of(np.array([0.02, 0.02, 0.3, 0.02]))
    assert not mixed.flat  # one document makes it fall: an interval says more


def test_an_estimate_reads_the_same_however_it_is_asked_for():
    found = fit.Estimate(0.65688, 0.61082, -0.70294, 24)
    assert str(found) == f"{found}" == "0.657 [0.611,\u00a0\u22120.703]"
    assert f"{found:.2g}" == "0.66 [0.61,\u00a0\u22120.70]"
    large = fit.Estimate(67.4, 28.1, 1612.0, 24)
    assert f"{large:.2g}" == "67 [28,\u00a01,600]"
