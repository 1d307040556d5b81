"""Sources: hand values, brute force, theorems of the literature, and samplers against exact laws.

A seeded sampler test rejects at p < 1e-6: with the seeds fixed it is repeatable, and a correct
sampler would have failed it for one seed in a million per comparison.
"""

from __future__ import annotations

import itertools
import time
import warnings

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.linalg import toeplitz
from scipy.special import zeta

from kvlib.fit import fit_law
from kvlib.measure.divergences import kl_divergence
from kvlib.measure.divergences import total_variation as discrete_tv
from kvlib.theory.banks import canonical_information, linear_bank, linear_state_bound, truncated
from kvlib.theory.gaussian import (
    GaussianPowerLaw,
    Lacunary,
    MovingAverage,
    NotErgodicWarning,
    bregman,
    durbin_levinson,
    gaussian_kl,
    gaussian_mean_tv,
    gaussian_total_variation,
)
from kvlib.theory.sources import (
    HyperexponentialRenewal,
    MisspecifiedMarkov,
    Recall,
    Renewal,
    ZeroDelayedRenewal,
)

laws_hold = settings(deadline=None, derandomize=True, max_examples=30)
FALSE_ALARM = 1e-6
LOG2 = np.log(2)
alphas = st.floats(0.05, 4)
plus = pytest.mark.filterwarnings("ignore::kvlib.theory.gaussian.NotErgodicWarning")


def every_source() -> list:
    return [
        GaussianPowerLaw(0.5, 0.1),
        GaussianPowerLaw(1.5, 0.1, "plus"),
        Renewal(1.5),
        ZeroDelayedRenewal(0.5, 2000),
        MovingAverage(0.9),
        MovingAverage(-0.3),
        HyperexponentialRenewal(0.5, 0.6, 0.9),
        Recall(0.5),
        Recall(1.0, limit=700),
        Lacunary(1.0, 1.0),
        MisspecifiedMarkov(1.0),
    ]


def named(sources: list) -> dict:
    return {"argvalues": sources, "ids": str}


# --- the orientation table --------------------------------------------------------------------

ORIENTATION = {
    GaussianPowerLaw(0.5, 0.1): "7.0711e-02 4.4721e-02 2.4254e-02 1.2403e-02 6.2378e-03 3.1235e-03",
    GaussianPowerLaw(1.0, 0.1): "5.0000e-02 2.0000e-02 5.8824e-03 1.5385e-03 3.8911e-04 9.7561e-05",
    GaussianPowerLaw(1.5, 0.1): "3.5355e-02 8.9443e-03 1.4267e-03 1.9082e-04 2.4272e-05 3.0473e-06",
    Renewal(1.5): "5.6641e-02 1.4709e-02 2.3578e-03 3.1551e-04 4.0132e-05 5.0386e-06",
    ZeroDelayedRenewal(0.5, 2**14): (
        "5.2456e-03 2.8294e-03 1.1869e-03 4.2183e-04 1.2628e-04 2.8311e-05"
    ),
    Recall(0.5): "4.4970e-01 2.8088e-01 1.5601e-01 8.2079e-02 4.2119e-02 2.1348e-02",
    MovingAverage(0.9): "1.5466e-01 4.8434e-02 2.7104e-03 1.0697e-07 2.8733e-25 1.4958e-95",
}


@pytest.mark.parametrize(("source", "row"), ORIENTATION.items(), ids=str)
def test_sensitivity_has_its_printed_digits(source, row):
    got = source.sensitivity([1, 4, 16, 64, 256, 1024])
    assert " ".join(f"{value:.4e}" for value in got) == row


# --- laws of every source ---------------------------------------------------------------------


@pytest.mark.parametrize("source", **named(every_source()))
def test_sensitivity_never_rises_with_the_window(source):
    delta = source.sensitivity(np.arange(600))
    assert (delta >= 0).all() and delta[0] > 0
    assert (np.diff(delta) <= 1e-13 * delta[:-1]).all()


@pytest.mark.parametrize("source", **named(every_source()))
def test_total_variation_obeys_pinsker(source):
    windows = np.arange(300)
    tau = source.total_variation(windows)
    assert ((tau >= 0) & (tau <= 1)).all()
    assert (tau <= np.sqrt(source.sensitivity(windows) / 2)).all()


@pytest.mark.parametrize("source", **named(every_source()))
def test_results_are_float64_of_the_shape_of_the_windows(source):
    for method in (source.sensitivity, source.total_variation):
        assert np.shape(method(3)) == () and np.asarray(method(3)).dtype == np.float64
        assert method([[1, 2, 3], [4, 5, 6]]).shape == (2, 3)
        assert method([[1, 2, 3], [4, 5, 6]])[1, 0] == pytest.approx(float(method(4)), rel=1e-13)


@pytest.mark.parametrize("source", **named(every_source()))
def test_windows_that_are_not_whole_numbers_are_refused(source):
    for bad in (-1, 0.5, np.nan, [3, -2]):
        with pytest.raises(ValueError, match="windows: expected whole numbers ≥ 0, got"):
            source.sensitivity(bad)
        with pytest.raises(ValueError, match="windows: expected"):
            source.total_variation(bad)


@pytest.mark.parametrize("source", **named(every_source()))
def test_samples_repeat_with_their_seed_and_have_their_shape(source):
    def flat(n, seed, paths=None):
        return np.stack(np.atleast_1d(source.sample(n, seed, paths)))

    assert np.array_equal(flat(20, 1), flat(20, 1))
    assert not np.array_equal(flat(40, 1, 3), flat(40, 2, 3))
    assert flat(20, 1).shape[-1] == 20 and flat(20, 1, 3).shape[-2:] == (3, 20)
    for bad in (0, -3, 1.5):
        with pytest.raises(ValueError, match="n, paths: expected"):
            source.sample(bad, 1)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: GaussianPowerLaw(0, 0.1), "alpha: expected a number > 0, got 0"),
        (lambda: GaussianPowerLaw(np.nan, 0.1), "alpha"),
        (lambda: GaussianPowerLaw(1, -0.1), "c: expected a number > 0, got -0.1"),
        (lambda: GaussianPowerLaw(1, 0.1, "minus"), "signs: expected one of .* got minus"),
        (lambda: Lacunary(-1, 1), "alpha"),
        (lambda: Lacunary(1, 0), "c: expected"),
        (lambda: MovingAverage(1.0), r"b: expected 0 < \|b\| < 1, got 1.0"),
        (lambda: MovingAverage(0.0), "b: expected"),
        (lambda: Renewal(1.0), r"theta: expected a number > 1 \(stationary\), got 1.0"),
        (lambda: Renewal(0.5), "theta"),
        (lambda: ZeroDelayedRenewal(0.0, 5), "theta: expected a number > 0, got 0.0"),
        (lambda: ZeroDelayedRenewal(0.5, 0), "t: expected whole numbers ≥ 1, got 0"),
        (lambda: HyperexponentialRenewal(1.0, 0.5, 0.9), "q: expected 0 < q < 1, got 1.0"),
        (lambda: HyperexponentialRenewal(0.5, 0.9, 0.5), "l1, l2: expected 0 < l1 < l2 < 1"),
        (lambda: Recall(-0.5), "alpha: expected a number > 0, got -0.5"),
        (lambda: Recall(1.0, limit=0), "limit: expected whole numbers ≥ 1, got 0"),
        (lambda: Recall(1.0).lower_bound(-1), "bits: expected numbers ≥ 0, got -1"),
        (lambda: MisspecifiedMarkov(0), "alpha"),
        (lambda: MisspecifiedMarkov(1, ((0.5, 0.5),)), "transition: expected a square matrix"),
        (lambda: MisspecifiedMarkov(1, ((0.5, 0.4), (0.5, 0.5))), "rows that sum to 1"),
        (lambda: MisspecifiedMarkov(1, ((1.0, 0.0), (0.5, 0.5))), "positive rows"),
        (lambda: MisspecifiedMarkov(1, ((0.5, 0.5), (0.5, 0.5))), "rows that aren't uniform"),
        (lambda: MisspecifiedMarkov(1).reencoded(0), "windows: expected whole numbers ≥ 1, got 0"),
        (lambda: gaussian_kl(0, 0, 0, 1), "variances: expected > 0"),
        (lambda: gaussian_total_variation(0, 1, 0, -1), "variances: expected > 0"),
        (lambda: gaussian_mean_tv(-0.1), r"kl_nats: expected values in \[0, 300\], got -0.1"),
        (lambda: linear_bank(MovingAverage(0.5), [], 8), r"rates: expected shape \(\.\.\., m\)"),
        (lambda: linear_bank(MovingAverage(0.5), [-1.0], 8), "rates: expected finite numbers ≥ 0"),
        (lambda: truncated(MovingAverage(0.5), 9, 8), "window: expected at most the order 8"),
        (lambda: linear_state_bound(MovingAverage(0.5), -1, 8, 4), "states: expected"),
    ],
)
def test_parameters_outside_their_domain_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


# --- normal laws ------------------------------------------------------------------------------


def grid_laws(mean_p, var_p, mean_q, var_q):
    """Two normal laws as log-probabilities of 400,001 narrow cells."""
    x = np.linspace(-60, 60, 400_001)
    log = [
        -((x - m) ** 2) / (2 * v) - 0.5 * np.log(2 * np.pi * v) + np.log(x[1] - x[0])
        for m, v in ((mean_p, var_p), (mean_q, var_q))
    ]
    return log


@pytest.mark.parametrize("law", [(0, 1, 0.3, 1.7), (1, 2, -2, 0.5), (0, 1, 0.5, 1), (0, 1, 0, 4)])
def test_gaussian_divergences_agree_with_those_of_fine_cells(law):
    cells = grid_laws(*law)
    assert gaussian_kl(*law) == pytest.approx(float(kl_divergence(*cells)), abs=1e-9)
    assert gaussian_total_variation(*law) == pytest.approx(float(discrete_tv(*cells)), abs=1e-6)


def test_gaussian_kl_keeps_its_digits_when_the_laws_nearly_agree():
    mpmath.mp.dps = 50
    s = 1 + mpmath.mpf(2) ** -30
    exact = mpmath.log(s) / -2 + (s - 1) / 2
    assert gaussian_kl(0, 1 + 2.0**-30, 0, 1) == pytest.approx(float(exact), rel=1e-12)


@laws_hold
@given(st.floats(-5, 5), st.floats(0.1, 9), st.floats(-5, 5), st.floats(0.1, 9))
def test_gaussian_tv_is_symmetric_and_obeys_pinsker(mean_p, var_p, mean_q, var_q):
    tv = gaussian_total_variation(mean_p, var_p, mean_q, var_q)
    assert tv == pytest.approx(gaussian_total_variation(mean_q, var_q, mean_p, var_p), abs=1e-14)
    assert -1e-15 <= tv <= min(1, np.sqrt(gaussian_kl(mean_p, var_p, mean_q, var_q) / 2)) + 1e-9


@pytest.mark.parametrize(("delta", "digits"), [(2.0, 25), (0.05, 30), (1e-5, 40), (1e-30, 80)])
def test_mean_tv_of_a_gaussian_agrees_with_a_high_precision_integral(delta, digits):
    mpmath.mp.dps = digits
    d = mpmath.mpf(delta)
    s = mpmath.exp(d)

    def tv(m):
        a, b, c = 1 - s**-2, 2 * m / s**2, -(m**2) / s**2 - 2 * d
        root = mpmath.sqrt(b * b - 4 * a * c)
        x, y = (-b - root) / (2 * a), (-b + root) / (2 * a)
        narrow = mpmath.ncdf(y) - mpmath.ncdf(x)
        return narrow - mpmath.ncdf((y - m) / s) + mpmath.ncdf((x - m) / s)

    width, knee = mpmath.sqrt(s * s - 1), mpmath.sqrt(2 * d)
    points = [0, *(knee * f for f in (0.5, 1, 3, 10, 100, 1e4) if knee * f < 1), 1, 3, 6, 11]
    exact = 2 * mpmath.quad(lambda z: mpmath.npdf(z) * tv(width * z), sorted(points), maxdegree=6)
    assert gaussian_mean_tv(delta) == pytest.approx(float(exact), rel=1e-10)


def test_gaussian_tv_is_the_root_of_the_kl_so_its_exponent_is_half():
    delta = 10.0 ** np.arange(-12, -5)
    ratio = gaussian_mean_tv(delta) / np.sqrt(delta)
    assert ratio == pytest.approx(np.sqrt(2) / np.pi, rel=3e-3)
    assert ratio[0] == pytest.approx(np.sqrt(2) / np.pi, rel=1e-5)


def test_bregman_of_a_small_change_has_its_series():
    assert bregman(np.array([1e-9, -1e-9, 0.0, -1.0])) == pytest.approx(
        [0.5e-18, 0.5e-18, 0, 1], rel=1e-8
    )


@laws_hold
@given(st.lists(st.tuples(st.floats(-4, 4), st.floats(-4, 4)), min_size=2, max_size=20))
def test_kl_and_tv_bound_each_other_where_log_ratios_are_bounded(logits):
    """TV ≤ √(KL/2), KL ≤ 2 L TV with L = max |log p/q|, KL ≤ 2 TV² / min q."""
    log_p, log_q = (a - np.log(np.exp(a).sum()) for a in np.array(logits).T)
    kl, tv = kl_divergence(log_p, log_q), discrete_tv(log_p, log_q)
    assert tv <= np.sqrt(kl / 2) + 1e-9
    assert kl <= 2 * np.abs(log_p - log_q).max() * tv + 1e-12
    assert kl <= 2 * tv**2 / np.exp(log_q).min() + 1e-12


# --- Gaussian sources -------------------------------------------------------------------------

GAUSSIAN = [
    GaussianPowerLaw(0.5, 0.1),
    GaussianPowerLaw(1.0, 0.08, "plus"),
    GaussianPowerLaw(1.5, 0.1),
    Lacunary(1.0, 0.3),
    MovingAverage(0.9),
    MovingAverage(-0.5),
]


@pytest.mark.parametrize("source", **named(GAUSSIAN))
def test_the_covariance_yields_the_prescribed_sensitivity(source):
    """Two routes: Durbin-Levinson covariance, then the pivots of its Cholesky factor."""
    pivots = np.diag(np.linalg.cholesky(toeplitz(source.autocovariance(300))))
    delta = source.sensitivity(np.arange(300))
    assert np.log(pivots) == pytest.approx(delta, rel=1e-9, abs=2e-13)
    assert np.exp(2 * delta) == pytest.approx(source.innovation_variances(299), rel=1e-14)


@plus
@laws_hold
@given(alphas, st.floats(1e-3, 1), st.sampled_from(["plus", "rudin-shapiro"]))
def test_any_exponent_prefactor_and_sign_pattern_is_a_covariance(alpha, c, signs):
    source = GaussianPowerLaw(alpha, c, signs)
    gamma = toeplitz(source.autocovariance(60))
    pivots = np.diag(np.linalg.cholesky(gamma))
    assert np.log(pivots) == pytest.approx(source.sensitivity(np.arange(60)), abs=1e-11)


def test_the_sign_pattern_changes_the_predictor_and_not_the_sensitivity():
    one, other = GaussianPowerLaw(1, 0.08), GaussianPowerLaw(1, 0.08, "plus")
    windows = np.arange(1025)
    assert np.array_equal(one.sensitivity(windows), other.sensitivity(windows))
    assert np.array_equal(one.total_variation(windows), other.total_variation(windows))
    assert np.abs(one.predictor(64) - other.predictor(64)).max() > 0.1


def test_rudin_shapiro_signs_count_adjacent_ones():
    signs = np.sign(GaussianPowerLaw(1, 0.1).pacf(300))
    assert [(-1) ** sum(f"{k:b}"[i : i + 2] == "11" for i in range(9)) for k in range(1, 301)] == [
        *signs
    ]


def test_the_moving_average_has_its_textbook_covariance():
    for b in (0.9, -0.4, 0.01):
        gamma = MovingAverage(b).autocovariance(40)
        assert gamma == pytest.approx([1 + b * b, b, *[0] * 38], abs=1e-12)


def test_predictors_solve_the_yule_walker_equations():
    source = GaussianPowerLaw(0.7, 0.2)
    gamma = source.autocovariance(101)
    solved = np.linalg.solve(toeplitz(gamma[:100]), gamma[1:])
    assert source.predictor(100) == pytest.approx(solved, abs=1e-11)
    assert source.predictor(0).shape == (0,)
    assert len(list(durbin_levinson(source.pacf(5)))) == 6


def test_durbin_levinson_to_order_4096_takes_less_than_two_seconds():
    start = time.perf_counter()
    GaussianPowerLaw(1, 0.08).predictor(4096)
    assert time.perf_counter() - start < 2


@pytest.mark.parametrize("source", **named(GAUSSIAN[:3]))
@pytest.mark.parametrize(("window", "reference"), [(0, 40), (4, 64), (32, 128)])
def test_mean_kl_between_nested_predictors_is_a_difference_of_sensitivities(
    source, window, reference
):
    """E(μ_T - μ_w)² as a quadratic form in the covariance, then the per-token KL at that value."""
    short, long = source.predictor(window), source.predictor(reference)
    change = long - np.concatenate([short, np.zeros(reference - window)])
    square = change @ toeplitz(source.autocovariance(reference)) @ change
    variances = source.innovation_variances(reference)
    var_w, var_t = variances[window], variances[reference]
    assert square == pytest.approx(var_w - var_t, rel=1e-9)
    delta = source.sensitivity([window, reference])
    mean = gaussian_kl(np.sqrt(square), var_t, 0, var_w)  # linear in the square of the gap
    assert mean == pytest.approx(delta[0] - delta[1], rel=1e-9)


@plus
@pytest.mark.parametrize(
    ("alpha", "c", "warned"),
    [(0.5, 0.1, 1), (1, 0.13, 1), (1, 0.12, 0), (1, 1 / 8, 0), (1.5, 3, 0)],
)
def test_all_plus_signs_warn_exactly_where_the_mean_is_random(alpha, c, warned):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert GaussianPowerLaw(alpha, c, "plus").ergodic is not bool(warned)
        assert GaussianPowerLaw(alpha, c).ergodic
    assert [w.category for w in caught] == [NotErgodicWarning] * warned


@plus
def test_all_plus_signs_below_one_leave_a_sixth_of_the_variance_in_a_random_mean():
    source = GaussianPowerLaw(0.5, 0.1, "plus")
    share = source.random_mean_share()
    assert f"{share:.2%}" == "16.61%"
    assert share == pytest.approx(source.random_mean_share(2**18), rel=1e-6)
    gamma = source.autocovariance(4000)
    assert gamma[-1] / gamma[0] == pytest.approx(share, abs=5e-3)
    log_a = np.cumsum(np.log1p(-source.pacf(2**18)))  # without σ_0²/σ_n² it would be another one
    assert f"{1 / (1 + np.exp(2 * log_a).sum()):.1%}" == "18.5%"
    with pytest.raises(ValueError, match="signs: expected plus"):
        GaussianPowerLaw(0.5, 0.1).random_mean_share()


def test_rudin_shapiro_signs_let_the_correlation_die():
    gamma = GaussianPowerLaw(0.5, 0.1).autocovariance(4000)
    assert np.abs(gamma[2000:]).max() < 0.02 * gamma[0]


@plus
def test_the_coefficients_of_an_unergodic_source_grow_with_the_lag():
    phi = np.abs(GaussianPowerLaw(0.5, 0.3, "plus").predictor(4096))
    octaves = [phi[2**k : 2 ** (k + 1)].max() for k in range(10)]
    assert (np.diff(octaves) > 0).all() and octaves[-1] > 20 * octaves[0]


def test_gaussian_paths_have_the_exact_covariance():
    """Whitened by the exact covariance they are standard normal: each second moment, Bonferroni."""
    source, n, paths = GaussianPowerLaw(0.5, 0.1), 8, 20_000
    root = np.linalg.cholesky(toeplitz(source.autocovariance(n)))
    z = np.linalg.solve(root, source.sample(n, seed=5, paths=paths).T)
    excess = (z @ z.T / paths - np.eye(n)) * np.sqrt(paths / (1 + np.eye(n)))
    assert np.abs(excess).max() < stats.norm.isf(FALSE_ALARM / n**2 / 2)


def test_per_token_kl_of_sampled_paths_averages_to_the_sensitivity():
    source, window, reference = GaussianPowerLaw(1, 0.08), 4, 64
    x = source.sample(reference, seed=3, paths=20_000)[:, ::-1]
    variances = source.innovation_variances(reference)
    far, near = x @ source.predictor(reference), x[:, :window] @ source.predictor(window)
    kl = gaussian_kl(far, variances[reference], near, variances[window])
    tv = gaussian_total_variation(far, variances[reference], near, variances[window])
    delta = source.sensitivity([window, reference]) @ [1, -1]
    for values, exact in ((kl, delta), (tv, gaussian_mean_tv(delta))):
        error = values.std(ddof=1) / np.sqrt(len(values))
        assert abs(values.mean() - exact) < stats.norm.isf(FALSE_ALARM / 2) * error


def test_cutting_coefficients_instead_of_refitting_costs_up_to_2_4_times_as_much():
    for c, factor in ((0.1, "2.4"), (0.08, "1.94")):
        source = GaussianPowerLaw(1, c, "plus")
        bayes = source.sensitivity(512) - source.sensitivity(1024)
        ratio = truncated(source, 512, 1024) / bayes
        assert f"{ratio:.{len(factor) - 2}f}" == factor


@pytest.mark.parametrize("source", **named(GAUSSIAN))
@pytest.mark.parametrize("window", [0, 1, 7, 30, 64])
def test_a_re_encoder_that_is_not_bayes_never_beats_the_sensitivity(source, window):
    bayes = source.sensitivity(window) - source.sensitivity(64)
    assert truncated(source, window, 64) >= bayes - 1e-13


def test_the_lacunary_window_swings_between_the_square_root_and_the_whole_power():
    source = Lacunary(1.0, 1.0)
    windows = np.arange(1, 70_000)
    delta = source.sensitivity(windows)
    assert (delta <= 1.0 / windows).all()
    assert np.array_equal(np.flatnonzero(source.pacf(300)) + 1, [2, 4, 16, 256])
    for step in (16, 256, 65_536):
        need = windows[np.argmax(delta <= 1 / step)]  # smallest window for ε = 1/step
        assert need == np.sqrt(step)
        just_below = windows[np.argmax(delta < 1 / step)]
        assert just_below == step


def test_blocks_with_a_carry_can_beat_sliding_at_equal_mean_context_on_a_lacunary_source():
    source = Lacunary(1.0, 1.0)
    blocks, sliding = source.sensitivity(7 + np.arange(17)).mean(), source.sensitivity(15)
    assert f"{blocks:.4f} {sliding:.4f}" == "0.0349 0.0625"
    assert blocks >= source.sensitivity(7 + 16)  # equal peak context: holds for every source


def test_nested_bayes_predictors_are_pythagorean_and_truncated_ones_are_not():
    """KL of window w against T = KL of w' against T + KL of w against w', all by matrices."""
    source = GaussianPowerLaw(1, 0.1, "plus")
    gamma = toeplitz(source.autocovariance(65))
    variance = source.innovation_variances(64)

    def kl(window: int, order: int, refit: bool) -> float:
        if not refit:
            return truncated(source, window, order)
        short = np.append(-source.predictor(window)[::-1], 1)  # error of the short predictor
        lost = short @ gamma[: window + 1, : window + 1] @ short
        return 0.5 * np.log(lost / variance[order])

    defects = [kl(8, 64, fit) - kl(32, 64, fit) - kl(8, 32, fit) for fit in (True, False)]
    assert abs(defects[0]) < 1e-12 and abs(defects[1]) > 1e-5


def test_the_moving_average_keeps_its_digits_where_the_plain_formula_gives_zero():
    mpmath.mp.dps = 120
    windows = np.array([0, 1, 63, 256, 1024])
    for b in (0.9, 0.99, -0.999, 0.6):
        exact = [
            mpmath.log1p(
                mpmath.mpf(b) ** (2 * int(w) + 2)
                * (1 - mpmath.mpf(b) ** 2)
                / (1 - mpmath.mpf(b) ** (2 * int(w) + 2))
            )
            / 2
            for w in windows
        ]
        assert MovingAverage(b).sensitivity(windows) == pytest.approx(
            np.array(exact, dtype=float), rel=1e-11, abs=0
        )
    with np.errstate(divide="ignore"):
        assert np.log((1 - 0.9**516) / (1 - 0.9**514)) == 0


def test_gaussian_power_law_is_exact_to_nine_digits():
    mpmath.mp.dps = 40
    windows = np.array([1, 7, 100, 1024])
    for alpha in (0.05, 0.5, 3.0):
        exact = [mpmath.mpf(0.1) * mpmath.mpf(int(w) + 1) ** -mpmath.mpf(alpha) for w in windows]
        got = GaussianPowerLaw(alpha, 0.1).sensitivity(windows)
        assert got == pytest.approx(np.array(exact, dtype=float), rel=1e-13)


# --- recurrent states on Gaussian sources -----------------------------------------------------


def best_bank(source, m: int, order: int = 512) -> float:
    """The best of log-spaced rates between two ends, on five grids, each around the last best."""
    if m == 1:
        return float(linear_bank(source, np.geomspace(0.05, 3, 200)[:, None], order).min())
    centre, reach = np.log([0.03, 1.5]), np.log([40, 12])
    best = np.inf
    for _ in range(5):
        low, high = (c + r * np.linspace(-1, 1, 11) for c, r in zip(centre, reach, strict=True))
        ends = np.stack(np.meshgrid(low, high), axis=-1).reshape(-1, 2)
        ends = ends[ends[:, 1] - ends[:, 0] > 0.05]
        rates = np.exp(ends[:, :1] + np.diff(ends) * np.linspace(0, 1, m))
        kl = linear_bank(source, rates, order)
        best = min(best, float(kl.min()))
        centre, reach = ends[kl.argmin()], reach / 2.5
    return best


BANKS = {
    GaussianPowerLaw(1.5, 0.1, "plus"): [4.1e-3, 3.8e-4, 8.5e-5, 1.4e-5, 1.2e-6, 1.3e-7],
    GaussianPowerLaw(1.0, 0.08, "plus"): [6.1e-3, 7.6e-4, 1.5e-4, 3.0e-5, 3.1e-6, 7.3e-7],
}
STATES = (1, 2, 3, 4, 6, 8)


@pytest.mark.parametrize(("source", "printed"), BANKS.items(), ids=str)
def test_recurrent_banks_lose_geometrically_little_when_all_signs_are_plus(source, printed):
    got = np.array([best_bank(source, m) for m in STATES])
    assert got[:4] == pytest.approx(printed[:4], rel=0.05)
    assert (got <= 1.05 * np.array(printed)).all()
    slopes = -np.diff(np.log2(got[[0, 1, 3, 5]]))  # per doubling: still rising at 8 states
    assert (slopes > [2.95, 4.55, 5.3]).all() and (slopes < [3.5, 4.85, 6.75]).all()


def test_eight_linear_states_match_a_window_of_510_when_all_signs_are_plus():
    source = GaussianPowerLaw(1, 0.08, "plus")
    window = source.sensitivity([509, 510]) - source.sensitivity(512)
    assert window[1] < best_bank(source, 8) < window[0]
    assert source.sensitivity(8) - source.sensitivity(512) == pytest.approx(8.7e-3, rel=0.01)


def test_coincident_rates_do_not_make_phantom_states():
    """e^-71 is lost beside 1: QR alone would hand out a second direction that no bank has."""
    source = GaussianPowerLaw(1, 0.08)
    one, same = linear_bank(source, [71.0], 512), linear_bank(source, [71.0, 115.0], 512)
    assert same == pytest.approx(float(one), rel=1e-9)
    assert one == pytest.approx(source.sensitivity(1) - source.sensitivity(512), rel=1e-9)


def test_no_linear_recursion_gets_far_below_the_window_with_rudin_shapiro_signs():
    source, states = GaussianPowerLaw(1, 0.08), np.array([1, 2, 3, 4, 6, 8, 16, 32])
    bound = linear_state_bound(source, states, 512, [2, 4, 8, 12, 16, 24, 32, 48, 64, 128, 256])
    printed = [1.9e-2, 9.0e-3, 6.6e-3, 5.2e-3, 3.5e-3, 2.4e-3]
    assert bound[:6] == pytest.approx(printed, rel=0.05)
    window = source.sensitivity(states) - source.sensitivity(512)
    assert (bound > 0.23 * window).all()
    best = np.array([best_bank(source, m) for m in STATES])
    assert (bound[:6] <= best).all()
    assert best[[0, 5]] == pytest.approx([3.2e-2, 7.3e-3], rel=0.05)
    assert (best > 0.75 * window[:6]).all()  # the bank itself hardly beats the window


def test_canonical_correlations_carry_the_mutual_information():
    source = GaussianPowerLaw(0.7, 0.2)
    k = np.arange(12)
    exact = (source.sensitivity(k) - source.sensitivity(40 + k)).sum()
    assert canonical_information(source, 40, 12).sum() == pytest.approx(exact, rel=1e-9)


def test_a_bank_of_all_lags_is_the_full_predictor():
    source = GaussianPowerLaw(1, 0.08)
    assert linear_bank(source, np.geomspace(0.05, 4, 8), 8) == pytest.approx(0, abs=1e-9)


# --- renewal sources --------------------------------------------------------------------------


def words(n: int) -> np.ndarray:
    return np.array(list(itertools.product((0, 1), repeat=n)), dtype=int).reshape(2**n, n)


def renewal_law(n: int, survival, start) -> np.ndarray:
    """P of each 0/1 word of length n; `start(k)` is P(first renewal at symbol k), or None beyond
    the word with `start(None, n)`."""
    mass = [np.nan, *(survival(k - 1) - survival(k) for k in range(1, n + 1))]
    probability = np.empty(2**n)
    for index, word in enumerate(words(n)):
        ones = np.flatnonzero(word) + 1
        if len(ones) == 0:
            probability[index] = start(None, n)
            continue
        gaps = [mass[gap] for gap in np.diff(ones)]
        probability[index] = start(ones[0], n) * np.prod(gaps) * survival(n - ones[-1])
    return probability


def entropy_of(p: np.ndarray) -> float:
    return float(-(p[p > 0] * np.log(p[p > 0])).sum())


def stationary_start(survival, beyond):
    mu = beyond(0)
    return lambda first, n: (beyond(n) if first is None else survival(first - 1)) / mu


def power_renewal(theta):
    def survival(n):
        return (1.0 + n) ** -theta

    return survival, stationary_start(survival, lambda n: zeta(theta, n + 1))


def hyper_renewal(source):
    phases = ((source.q, source.l1), (1 - source.q, source.l2))

    def survival(n):
        return sum(share * rate**n for share, rate in phases)

    return survival, stationary_start(
        survival, lambda n: sum(share * rate**n / (1 - rate) for share, rate in phases)
    )


ENUMERATED = [
    (Renewal(1.5), power_renewal(1.5)),
    (Renewal(3.0), power_renewal(3.0)),
    (HyperexponentialRenewal(0.3, 0.5, 0.8), hyper_renewal(HyperexponentialRenewal(0.3, 0.5, 0.8))),
]


def conditional_entropies(law) -> np.ndarray:
    """h_0, ..., h_9 by enumeration of all words up to length 10."""
    return np.diff([0.0, *(entropy_of(renewal_law(n, *law)) for n in range(1, 11))])


def shown(value: object) -> str:
    """A source by its name; the functions that give its law have none worth printing."""
    return "law" if isinstance(value, tuple) else str(value)


@pytest.mark.parametrize(("source", "law"), ENUMERATED, ids=shown)
def test_renewal_sensitivity_agrees_with_the_enumeration_of_all_words(source, law):
    h, delta = conditional_entropies(law), source.sensitivity(np.arange(10))
    assert renewal_law(10, *law).sum() == pytest.approx(1, abs=1e-12)
    assert h - h[-1] == pytest.approx(delta - delta[-1], abs=1e-13)


def test_the_enumeration_tells_exponents_apart_that_differ_by_a_billionth():
    h, delta = conditional_entropies(power_renewal(1.5)), Renewal(1.5 + 1e-9).sensitivity(range(10))
    assert np.abs((h - h[-1]) - (delta - delta[-1])).max() > 1e-12


@pytest.mark.parametrize("theta", [1.05, 1.5, 4.0, 10.0])
def test_renewal_sensitivity_is_exact_to_nine_digits(theta):
    """Against 40 digits: terms one by one, then Euler-Maclaurin with mpmath's derivatives."""
    mpmath.mp.dps = 40
    s = mpmath.mpf(theta)

    def term(n):
        f = n**-s - (n + 1) ** -s
        return -f * mpmath.log(f)

    cut = 1100
    beyond = mpmath.sumem(term, [cut, mpmath.inf], tol=mpmath.mpf(10) ** -40)
    windows, exact = (1, 10, 300, 1024), []
    for w in windows:
        survival, mass = mpmath.mpf(1 + w) ** -s, mpmath.zeta(s, w + 1)
        rate = survival / mass
        coin = -mass * (rate * mpmath.log(rate) + (1 - rate) * mpmath.log(1 - rate))
        entropy = mpmath.fsum(term(mpmath.mpf(n)) for n in range(w + 1, cut)) + beyond
        exact.append((coin - entropy - survival * mpmath.log(survival)) / mpmath.zeta(s))
    got = Renewal(theta).sensitivity(windows)
    assert got == pytest.approx(np.array(exact, dtype=float), rel=1e-9, abs=0)


@pytest.mark.parametrize("theta", [1.05, 1.5, 4.0])
def test_renewal_total_variation_agrees_with_the_plain_sum(theta):
    source, top = Renewal(theta), 200_000
    a = np.arange(top)
    survival, hazard = source.survival(a), source.hazard(a)
    windows, plain = np.array([0, 1, 10, 300, 1024]), []
    for w in windows:
        rate = source.survival(w) / zeta(theta, w + 1)
        beyond = rate * zeta(theta, top + 1) - source.survival(top)  # r < r̄ there
        plain.append((survival[w:] * np.abs(hazard[w:] - rate)).sum() + beyond)
    got = source.total_variation(windows)
    assert got == pytest.approx(np.array(plain) / zeta(theta), rel=1e-9)


def test_the_first_form_of_renewal_sensitivity_converges_hopelessly():
    source = Renewal(1.5)
    a = np.arange(1, 4_000_000)
    rate, r = source.survival(1) / zeta(1.5, 2), source.hazard(a)
    kl = r * np.log(r / rate) + (1 - r) * np.log((1 - r) / (1 - rate))
    left = source.sensitivity(1) - source.survival(a) @ kl / zeta(1.5)
    assert f"{left:.0e}" == "9e-05"


@pytest.mark.parametrize("theta", [1.5, 3.0])
def test_renewal_kl_and_tv_share_the_exponent_theta_with_its_constants(theta):
    w = 1e6
    kl = (np.log(theta / (theta - 1)) - 1 / theta) / zeta(theta)
    tv = 2 / zeta(theta) / (theta - 1) * ((theta - 1) / theta) ** theta
    assert Renewal(theta).sensitivity(w) * w**theta == pytest.approx(kl, rel=1e-3)
    assert Renewal(theta).total_variation(w) * w**theta == pytest.approx(tv, rel=1e-3)


@laws_hold
@given(st.floats(1.02, 6))
def test_renewal_sensitivity_is_below_the_excess_entropy_over_the_window(theta):
    source = Renewal(theta)
    w = np.arange(400)
    delta = source.sensitivity(w)
    assert (delta > 0).all() and (np.diff(delta) < 0).all()
    assert (np.cumsum(delta) <= source.excess_entropy_nats).all()
    assert (delta <= source.excess_entropy_nats / (w + 1)).all()
    assert source.excess_entropy_nats <= source.age_entropy_nats


@pytest.mark.parametrize("theta", [1.5, 3.0])
def test_renewal_sensitivities_sum_to_the_excess_entropy(theta):
    source, top = Renewal(theta), 20_000
    total = source.sensitivity(np.arange(top)).sum()
    constant = (np.log(theta / (theta - 1)) - 1 / theta) / zeta(theta)
    total += constant * zeta(theta, top + 0.5)  # the rest by the asymptotic law
    assert total == pytest.approx(source.excess_entropy_nats, rel=1e-6)


def test_block_entropies_sum_the_sensitivities():
    law, source = power_renewal(1.5), Renewal(1.5)
    a = np.arange(2_000_000)
    mass = (1.0 + a) ** -1.5 * source.hazard(a)
    edge = a[-1] + 2.0  # tail of -Σ f log f: f ~ 1.5 n^-2.5, n ≥ edge
    beyond = edge**-1.5 * (2.5 * np.log(edge) + 5 / 3 - np.log(1.5))
    rate = (-(mass * np.log(mass)).sum() + beyond) / zeta(1.5)
    for n in (1, 5, 10):
        delta = source.sensitivity(np.arange(n)).sum()
        assert entropy_of(renewal_law(n, *law)) - n * rate == pytest.approx(delta, abs=1e-9)


def test_the_age_entropy_has_its_closed_form():
    mpmath.mp.dps = 30
    for theta in (1.05, 1.5, 3.0):
        value = mpmath.log(mpmath.zeta(theta))
        value -= theta * mpmath.zeta(theta, derivative=1) / mpmath.zeta(theta)
        assert Renewal(theta).age_entropy_nats == pytest.approx(float(value), rel=1e-12)
    assert f"{Renewal(1.5).age_entropy_nats:.2f}" == "3.22"


def test_a_capped_counter_gains_theta_bits_of_accuracy_a_bit():
    source = Renewal(1.5)
    got = source.capped_counter([0, 1, 3, 20, 21])
    assert got == pytest.approx(source.sensitivity([0, 1, 7, 2**20 - 1, 2**21 - 1]), rel=1e-14)
    assert got[3] / got[4] == pytest.approx(2**1.5, rel=1e-4)


def zero_delayed_start(theta):
    def survival(n):
        return (1.0 + n) ** -theta

    return (
        survival,
        lambda first, n: survival(n) if first is None else survival(first - 1) - survival(first),
    )


@pytest.mark.parametrize("theta", [0.5, 1.0, 2.0])
def test_zero_delayed_sensitivity_agrees_with_the_enumeration_of_all_words(theta):
    t, law = 9, zero_delayed_start(theta)
    joint = renewal_law(t + 1, *law).reshape(2 ** (t + 1))
    windows, delta, tau = range(t + 1), [], []
    past = joint.reshape(2**t, 2)
    one = past[:, 1] / past.sum(axis=1)
    for w in windows:
        short = past.reshape(2 ** (t - w), 2**w, 2).sum(axis=0)
        rate = np.tile(short[:, 1] / short.sum(axis=1), 2 ** (t - w))
        kl = one * np.log(one / rate) + (1 - one) * np.log((1 - one) / (1 - rate))
        delta.append(past.sum(axis=1) @ kl)
        tau.append(past.sum(axis=1) @ np.abs(one - rate))
    source = ZeroDelayedRenewal(theta, t)
    assert source.sensitivity(windows) == pytest.approx(delta, abs=1e-14)
    assert source.total_variation(windows) == pytest.approx(tau, abs=1e-14)
    assert source.sensitivity([t, t + 5]) == pytest.approx(0, abs=0)


def test_zero_delayed_sensitivity_is_exact_to_nine_digits():
    mpmath.mp.dps = 40
    theta, t = mpmath.mpf("0.5"), 1100
    survival = [mpmath.mpf(1 + n) ** -theta for n in range(t + 2)]
    mass = [survival[k - 1] - survival[k] for k in range(1, t + 2)]
    u = [mpmath.mpf(1)]
    for n in range(1, t + 1):
        u.append(mpmath.fdot(mass[:n], u[::-1]))
    windows, exact = (1, 30, 1024, 1098), []
    for w in windows:
        p = [u[t - a] * survival[a] for a in range(w, t + 1)]
        r = [mass[a] / survival[a] for a in range(w, t + 1)]
        rate = mpmath.fdot(p, r) / mpmath.fsum(p)
        kl = [x * mpmath.log(x / rate) + (1 - x) * mpmath.log((1 - x) / (1 - rate)) for x in r]
        exact.append(float(mpmath.fdot(p, kl)))
    got = ZeroDelayedRenewal(0.5, t).sensitivity(windows)
    assert got == pytest.approx(exact, rel=1e-9, abs=0)


def test_a_zero_delayed_renewal_shows_no_exponent_near_theta():
    theta, t = 0.5, 2**14
    source = ZeroDelayedRenewal(theta, t)
    octaves = 2 ** np.arange(15)[:14]
    slopes = -np.diff(np.log2(source.sensitivity(octaves)))
    assert f"{slopes[0]:.2f} {slopes[9]:.2f} {slopes[-1]:.1f}" == "0.39 1.15 2.8"
    assert (np.diff(slopes) > 0).all()
    # the asymptotic forms are far off: too high by a third at best, or negative
    u = source._ages()[0][0]
    w = np.unique(np.geomspace(1, t - 1, 300).astype(int))
    assert (2 * u * w**-theta / source.total_variation(w)).min() >= 1.36
    asymptotic = np.log(theta * np.arange(1.0, t) ** (theta - 1) / u) - 1 / theta
    assert np.flatnonzero(asymptotic < 0)[0] + 1 == 741


@pytest.mark.parametrize(  # the KL of the largest window cancels nearly as many digits
    ("rates", "digits"),
    [((0.5, 0.6, 0.9), 150), ((0.2, 0.9, 0.95), 60), ((0.999, 0.1, 0.99), 700)],
)
def test_hyperexponential_sensitivity_is_exact_to_nine_digits(rates, digits):
    source = HyperexponentialRenewal(*rates)
    mpmath.mp.dps = digits
    q, l1, l2 = (mpmath.mpf(x) for x in rates)
    mu = q / (1 - l1) + (1 - q) / (1 - l2)
    windows, kls, tvs = (0, 1, 40, 300), [], []
    for w in windows:
        mass = q * l1**w / (1 - l1) + (1 - q) * l2**w / (1 - l2)
        rate = (q * l1**w + (1 - q) * l2**w) / mass
        kl = tv = mpmath.mpf(0)
        one, two = q * l1**w, (1 - q) * l2**w
        for _ in range(700):
            survival, r = one + two, (one * (1 - l1) + two * (1 - l2)) / (one + two)
            kl += survival * (r * mpmath.log(r / rate) + (1 - r) * mpmath.log((1 - r) / (1 - rate)))
            tv += survival * abs(r - rate)
            one, two = one * l1, two * l2
        rest = one / (1 - l1) + two / (1 - l2)  # ages where phase 1 is out
        r = 1 - l2
        kl += rest * (r * mpmath.log(r / rate) + l2 * mpmath.log(l2 / (1 - rate)))
        tv += rest * (rate - r)
        kls.append(float(kl / mu))
        tvs.append(float(tv / mu))
    assert source.sensitivity(windows) == pytest.approx(kls, rel=1e-9, abs=0)
    assert source.total_variation(windows) == pytest.approx(tvs, rel=1e-9, abs=0)


def test_hyperexponential_rates_differ_between_kl_and_tv():
    source, windows = HyperexponentialRenewal(0.5, 0.85, 0.95), np.array([500, 501, 1023, 1024])
    kl, tv = source.sensitivity(windows), source.total_variation(windows)
    assert kl[[1, 3]] / kl[[0, 2]] == pytest.approx(0.85**2 / 0.95, rel=1e-9)
    assert tv[[1, 3]] / tv[[0, 2]] == pytest.approx(0.85, rel=1e-9)


@pytest.mark.parametrize(
    ("source", "law"),
    [*ENUMERATED, (ZeroDelayedRenewal(0.5, 9), zero_delayed_start(0.5))],
    ids=shown,
)
def test_renewal_paths_have_the_exact_word_frequencies(source, law):
    n, paths = 5, 20_000
    x = source.sample(n, seed=11, paths=paths)
    counts = np.bincount(x @ (1 << np.arange(n)[::-1]), minlength=2**n)
    assert word_test(counts, renewal_law(n, *law)) > FALSE_ALARM


@pytest.mark.parametrize(("source", "law"), ENUMERATED, ids=shown)
def test_renewal_paths_are_stationary(source, law):
    n, paths = 5, 20_000
    x = source.sample(200, seed=12, paths=paths)[:, -n:]
    counts = np.bincount(x @ (1 << np.arange(n)[::-1]), minlength=2**n)
    assert word_test(counts, renewal_law(n, *law)) > FALSE_ALARM


def word_test(counts: np.ndarray, law: np.ndarray) -> float:
    """p-value of Pearson's test; words expected less than 10 times are pooled."""
    expected = law * counts.sum()
    rare = expected < 10
    counts = np.append(counts[~rare], counts[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    keep = expected > 0
    assert counts[~keep].sum() == 0
    statistic = ((counts[keep] - expected[keep]) ** 2 / expected[keep]).sum()
    return float(stats.chi2.sf(statistic, keep.sum() - 1))


def test_the_word_test_rejects_a_renewal_started_at_a_renewal():
    x = ZeroDelayedRenewal(1.5, 9).sample(5, seed=11, paths=20_000)
    counts = np.bincount(x @ (1 << np.arange(5)[::-1]), minlength=32)
    assert word_test(counts, renewal_law(5, *power_renewal(1.5))) < FALSE_ALARM


# --- recall -----------------------------------------------------------------------------------


def recall_by_enumeration(p: np.ndarray, window: int) -> float:
    """Mean conditional entropy of the answer given the window, over all bits and lags."""
    limit = len(p)
    bits = list(itertools.product((0, 1), repeat=window + limit))  # newest first
    total = 0.0
    for lags in itertools.product(range(1, limit + 1), repeat=window):  # newest round first
        weight = np.prod([p[k - 1] for k in lags])
        for query in range(1, limit + 1):
            seen: dict[tuple, list[int]] = {}
            for b in bits:
                answers = tuple(b[i + k] for i, k in enumerate(lags))
                seen.setdefault((b[:window], answers), []).append(b[query - 1])
            entropy = 0.0
            for group in seen.values():
                one = np.mean(group)
                entropy += len(group) * entropy_of(np.array([one, 1 - one])) / len(bits)
            total += weight * p[query - 1] * entropy
    return total


@pytest.mark.parametrize("alpha", [0.5, 2.0])
@pytest.mark.parametrize("window", [0, 1, 2, 3])
def test_recall_sensitivity_agrees_with_the_enumeration_of_bits_and_lags(alpha, window):
    source = Recall(alpha, limit=3)
    exact = recall_by_enumeration(source.lag_law(3), window)
    assert source.sensitivity(window) == pytest.approx(exact, abs=1e-13)


@pytest.mark.parametrize("alpha", [0.2, 0.5, 1.0, 2.5])
def test_recall_sensitivity_is_exact_to_nine_digits(alpha):
    """Plain sum of 8 million terms; the rest, where Π differs from 1 by w α k^-(1+α) [1 + (1+α) w /
    2k], in closed form: what is neglected there is of relative order (w/k)²."""
    top = 2**23
    k = np.arange(1.0, top + 1)
    p = -(k**-alpha) * np.expm1(-alpha * np.log1p(1 / k))
    silent = np.concatenate([[0.0], np.cumsum(np.log1p(-p))])
    windows, exact = (1, 33, 1024), []
    for w in windows:
        told = -np.expm1(silent[w:top] - silent[: top - w])
        rest = alpha**2 * w * (top + 0.5) ** -(2 * alpha + 1) / (2 * alpha + 1)
        rest *= 1 + (2 * alpha + 1) / (2 * alpha + 2) * (1 + alpha) * (w - 1) / 2 / top
        exact.append(LOG2 * ((1.0 + w) ** -alpha - p[w:] @ told - rest))
    assert Recall(alpha).sensitivity(windows) == pytest.approx(exact, rel=1e-9)


def test_recall_correction_falls_like_the_law_itself():
    ratio = Recall(0.5).sensitivity([256, 1024]) / LOG2 * np.sqrt([256, 1024])
    assert f"{1 - ratio[1]:.1%}" == "1.4%"
    assert (1 - ratio[0]) / (1 - ratio[1]) == pytest.approx(2, rel=0.05)


def test_recall_total_variation_is_a_fixed_share_of_the_sensitivity():
    source, w = Recall(1.0), np.arange(50)
    assert source.total_variation(w) == pytest.approx(source.sensitivity(w) / (2 * LOG2))
    assert discrete_tv(np.log([1, 1e-300]), np.log([0.5, 0.5])) == pytest.approx(0.5)


def test_a_finite_recall_has_no_sensitivity_beyond_its_limit():
    source = Recall(0.5, limit=20)
    assert source.lag_law(30).sum() == pytest.approx(1, abs=1e-14)
    assert np.array_equal(source.sensitivity([20, 21, 500]), [0, 0, 0])
    assert source.sensitivity(19) > 0
    assert Recall(0.5, limit=1).sensitivity([0, 1]) == pytest.approx([LOG2, 0])
    assert (np.diff(source.lag_law(20)) < 0).all()
    n, alpha = 20, 0.5
    b = np.arange(21)
    plain = ((1.0 + b) ** -alpha - (1.0 + n) ** -alpha) / (1 - (1.0 + n) ** -alpha)
    assert source.lower_bound(b) == pytest.approx(LOG2 * plain, abs=1e-15)


@laws_hold
@given(alphas, st.integers(0, 200))
def test_a_suffix_of_bits_and_answers_lies_between_the_bound_and_fresh_bits(alpha, window):
    """A suffix of w rounds holds up to 2w bits of the past, never fewer than its w fresh ones."""
    source = Recall(alpha)
    delta = source.sensitivity(window)
    assert source.lower_bound(2 * window) <= delta * (1 + 1e-12)
    assert delta <= source.lower_bound(window) * (1 + 1e-12)


@laws_hold
@given(alphas, st.floats(0, 1e6))
def test_the_all_policy_bound_is_interpolated_and_convex(alpha, bits):
    source = Recall(alpha)
    low, high = np.floor(bits), np.floor(bits) + 1
    ends = source.lower_bound([low, high])
    assert ends == pytest.approx(LOG2 * np.array([1 + low, 1 + high]) ** -alpha)
    assert ends[1] <= source.lower_bound(bits) <= ends[0]
    assert source.lower_bound(bits) >= LOG2 * (1 + bits) ** -alpha * (1 - 1e-12)


def partitions(n: int):
    """All set partitions of n points as label vectors."""
    labels = [[0]]
    for _ in range(1, n):
        labels = [[*p, new] for p in labels for new in range(max(p) + 2)]
    return np.array(labels)


def best_memories(p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(bits, distortion) of every deterministic memory of the last three fair bits."""
    worlds, rows = words(3), []
    for labels in partitions(8):
        size = np.bincount(labels)
        d = 0.0
        for k in range(3):
            one = np.bincount(labels, weights=worlds[:, k]) / size
            d += p[k] * size / 8 @ [entropy_of(np.array([x, 1 - x])) for x in one]
        rows.append((entropy_of(size / 8) / LOG2, d))
    return np.array(rows).T


@pytest.mark.parametrize("alpha", [0.3, 1.0])
def test_no_memory_of_three_bits_beats_the_all_policy_bound(alpha):
    source = Recall(alpha, limit=3)
    bits, distortion = best_memories(source.lag_law(3))
    assert len(bits) == 4140
    assert (distortion >= source.lower_bound(bits) - 1e-12).all()
    for b in (0, 1, 2, 3):  # attained by the last b bits
        assert distortion[np.abs(bits - b) < 1e-12].min() == pytest.approx(
            source.lower_bound(b), abs=1e-12
        )


def test_clipping_the_lag_instead_of_conditioning_breaks_the_bound():
    """Mass N^-α on the last lag: p no longer falls, and keeping that bit beats ln 2 P(K > b)."""
    tail = np.append(np.arange(1.0, 4) ** -0.3, 0.0)
    bits, distortion = best_memories(-np.diff(tail))
    whole = np.abs(bits - 1) < 1e-12
    assert distortion[whole].min() < LOG2 * tail[1] - 0.1


def test_random_retention_is_two_orders_worse_than_recency():
    source = Recall(1.0)
    random = source.random_retention(256, 1024)
    assert round(float(random / source.lower_bound(256))) == 193
    assert round(float(random / source.sensitivity(256))) == 196


def test_recall_paths_answer_with_the_bit_that_was_asked_for():
    bit, lag, answer = Recall(0.5).sample(2000, seed=1)
    source = np.arange(2000) - lag
    inside = source >= 0
    assert 0.5 < inside.mean() < 1 and lag.max() > 1e5
    assert np.array_equal(answer[inside], bit[source[inside]])
    before = dict(zip(source[~inside], answer[~inside], strict=True))
    assert all(before[s] == a for s, a in zip(source[~inside], answer[~inside], strict=True))


@pytest.mark.parametrize("source", [Recall(0.5), Recall(0.05), Recall(1.5, limit=12)], ids=str)
def test_recall_lags_have_their_law_and_bits_are_fair(source):
    bit, lag, answer = source.sample(4000, seed=9, paths=5)
    counts = np.bincount(np.minimum(lag.ravel(), 13), minlength=14)[1:]
    law = np.append(source.lag_law(12), source.tail(12))
    assert word_test(counts, law) > FALSE_ALARM
    assert stats.binomtest(int(bit.sum()), bit.size).pvalue > FALSE_ALARM
    assert answer.max() <= 1 and lag.min() >= 1
    assert source.limit is None or lag.max() <= source.limit


# --- a re-encoder that is not Bayes -----------------------------------------------------------


def test_a_misspecified_re_encoder_shows_a_power_law_though_one_symbol_suffices():
    source = MisspecifiedMarkov(1.3)
    windows = 2 ** np.arange(1, 11)
    assert np.array_equal(source.sensitivity(windows), np.zeros(10))
    d = source.reencoded(windows)
    assert fit_law("power", windows[6:], d[6:]).exponent == pytest.approx(1.3, rel=0.03)


def test_misspecified_distortion_agrees_with_the_divergence_of_its_laws():
    p, alpha = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4]]), 0.8
    source = MisspecifiedMarkov(alpha, p)
    assert source.stationary @ p == pytest.approx(source.stationary, abs=1e-14)
    eta = np.array([1, 5, 100])[:, None, None] ** (-alpha / 2)
    q = (1 - eta) * p + eta / 3
    exact = kl_divergence(np.log(np.broadcast_to(p, q.shape)), np.log(q)) @ source.stationary
    assert source.reencoded([1, 5, 100]) == pytest.approx(exact, rel=1e-11)
    at_zero = source.stationary @ kl_divergence(
        np.log(p), np.log(np.tile(source.stationary, (3, 1)))
    )
    assert source.sensitivity(0) == pytest.approx(at_zero, rel=1e-12)


def test_markov_paths_have_their_transitions():
    source, paths = MisspecifiedMarkov(1.0), 20_000
    x = source.sample(3, seed=2, paths=paths)
    p, pi = np.array(source.transition), source.stationary
    law = (pi[:, None, None] * p[:, :, None] * p[None]).ravel()
    counts = np.bincount(x @ [4, 2, 1], minlength=8)
    assert word_test(counts, law) > FALSE_ALARM


# --- what a fit makes of exact curves ---------------------------------------------------------


def miss(law: str, windows, value, split, reference=np.inf) -> float:
    """RMSE of log D beyond the split of a law fitted up to it."""
    near = windows <= split
    fitted = fit_law(law, windows[near], value[near], contexts=[reference])
    return float(np.sqrt(np.mean((fitted.log_value(windows[~near]) - np.log(value[~near])) ** 2)))


@pytest.mark.parametrize(("alpha", "naive"), [(0.5, "0.69"), (1.0, "1.07"), (1.5, "1.51")])
def test_a_finite_reference_bends_the_naive_exponent_and_the_corrected_fit_undoes_it(alpha, naive):
    source, windows, reference = GaussianPowerLaw(alpha, 0.1), 2 ** np.arange(2, 10), 1024
    d = source.sensitivity(windows) - source.sensitivity(reference)
    options = {"window": windows, "value": d, "contexts": [reference]}
    assert f"{fit_law('power', windows, d).exponent:.2f}" == naive
    assert fit_law("finite-context power", **options).exponent == pytest.approx(alpha, abs=1e-5)
    unshifted = fit_law("finite-context power, unshifted", **options).exponent
    assert 0.04 <= 1 - unshifted / alpha <= 0.06


@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.5])
def test_the_local_slope_against_a_finite_reference_has_its_formula(alpha):
    reference, w = 1024.0, np.array([16.0, 256.0, 512.0])
    d = [(w * f) ** -alpha - reference**-alpha for f in (1 - 1e-6, 1 + 1e-6)]
    slope = -(np.log(d[1]) - np.log(d[0])) / (np.log1p(1e-6) - np.log1p(-1e-6))
    assert slope == pytest.approx(alpha / (1 - (w / reference) ** alpha), rel=1e-8)


CONTEST = [
    *((0.5, 32, 0.096, 0.654), (0.5, 64, 0.167, 0.640), (0.5, 128, 0.229, 0.641)),
    *((1.5, 32, 0.635, 0.658), (1.5, 64, 0.330, 0.571), (1.5, 128, 0.131, 0.520)),
]


@pytest.mark.parametrize(("alpha", "split", "stretched", "power"), CONTEST)
def test_a_stretched_exponential_beats_the_power_law_on_an_exact_power_law(
    alpha, split, stretched, power
):
    source, windows = GaussianPowerLaw(alpha, 0.1), 2 ** np.arange(1, 11)
    d = source.sensitivity(windows) - source.sensitivity(2048)
    got = miss("stretched exponential", windows, d, split, 2048)
    assert got == pytest.approx(stretched, rel=0.03)
    assert miss("power", windows, d, split) == pytest.approx(power, rel=0.03)
    assert got < power
    assert miss("finite-context power", windows, d, split, 2048) < 1e-4


@pytest.mark.parametrize("split", [32, 64, 128])
@pytest.mark.parametrize("source", **named([*list(ORIENTATION)[:4], Recall(0.5)]))
def test_an_exponential_loses_by_65_on_every_power_law_of_infinite_reference(source, split):
    windows = 2 ** np.arange(1, 11)
    d = source.sensitivity(windows)
    assert miss("exponential", windows, d, split) >= 65 * miss("power", windows, d, split)


def test_a_slow_geometric_source_passes_for_a_power_law_on_short_windows():
    windows = 2 ** np.arange(11)
    slow, fast = (MovingAverage(b).sensitivity(windows) for b in (0.99, 0.9))
    assert slow[2:5] == pytest.approx(0.5 / (windows[2:5] + 1.0), rel=0.2)
    assert miss("power", windows, slow, 64) < miss("exponential", windows, slow, 64)
    assert miss("exponential", windows, fast, 64) < miss("power", windows, fast, 64)
