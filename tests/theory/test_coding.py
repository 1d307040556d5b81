"""Rate-distortion solvers against closed forms, their certificates, and theorems between them."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from kvlib.measure.divergences import entropy, kl_divergence
from kvlib.theory import bottleneck, closed_forms, coding

# Derandomised and seeded: a false alarm has probability zero.
laws_hold = settings(deadline=None, derandomize=True, max_examples=60)
seeds = st.integers(0, 2**32 - 1)

HAMMING = 1 - np.eye(2)
CROSSOVER = 0.25
SYMMETRIC = np.array([[1 - CROSSOVER, CROSSOVER], [CROSSOVER, 1 - CROSSOVER]]) / 2
CRITICAL = closed_forms.doubly_symmetric_tangent(CROSSOVER)


def erased(e):
    """p(x, y) of a fair bit that is seen (y = 0, 1) or erased (y = 2)."""
    return np.array([[(1 - e) / 2, 0, e / 2], [0, (1 - e) / 2, e / 2]])


def value_of(rate, slope, most):
    """min over D in [0, most] of rate(D) + slope · D, for a convex rate: the intercept V(s)."""
    inner = optimize.minimize_scalar(
        lambda d: float(rate(d)) + slope * d,
        bounds=(0, most),
        method="bounded",
        options={"xatol": 1e-12, "maxiter": 1000},
    )
    return min(inner.fun, *(float(rate(d)) + slope * d for d in (0.0, most)))


def random_problem(seed, symbols=4, side=2, reproductions=3, holes=True):
    """p(x, y) with some zeros, d(x, x̂) and a slope."""
    rng = np.random.default_rng(seed)
    joint = rng.gamma(0.7, size=(symbols, side))
    if holes:
        joint[rng.random(joint.shape) < 0.2] = 0
        joint[0] += 0.1
    d = rng.exponential(size=(symbols, reproductions))
    return joint / joint.sum(), d, rng.uniform(0.2, 6)


# --- Blahut-Arimoto ---------------------------------------------------------------------------


@pytest.mark.parametrize("slope", [0.1, 0.5, 1.0, 2.0, 4.0, 8.0])
@pytest.mark.parametrize("p", [0.5, 0.3, 0.05])
def test_blahut_arimoto_meets_the_binary_closed_form(slope, p):
    point = coding.blahut_arimoto([p, 1 - p], HAMMING, slope)
    assert point.converged
    assert point.rate_nats == pytest.approx(
        closed_forms.binary_rate(point.distortion, p), abs=1e-10
    )
    value = value_of(lambda d: closed_forms.binary_rate(d, p), slope, p)
    assert point.value == pytest.approx(value, abs=1e-10)


@pytest.mark.parametrize("m", [2, 5, 40])
@pytest.mark.parametrize("slope", [0.5, 3.0])
def test_blahut_arimoto_meets_the_uniform_closed_form(m, slope):
    point = coding.blahut_arimoto(np.full(m, 1 / m), 1 - np.eye(m), slope)
    d = point.distortion
    exact = np.log(m) - closed_forms.binary_entropy(d) - d * np.log(m - 1)
    assert d == pytest.approx((m - 1) / (m - 1 + np.exp(slope)), abs=1e-10)
    assert point.rate_nats == pytest.approx(exact, abs=1e-10)


def test_the_rate_at_a_steep_slope_is_the_entropy_of_the_source():
    p = np.array([0.5, 0.3, 0.15, 0.05])
    point = coding.blahut_arimoto(p, 1 - np.eye(4), 60.0)
    assert point.rate_nats == pytest.approx(entropy(np.log(p)), abs=1e-10)
    assert coding.blahut_arimoto(p, 1 - np.eye(4), 0.0).rate_nats == 0


@laws_hold
@given(seeds)
def test_the_bracket_of_every_step_contains_the_value(seed):
    joint, d, slope = random_problem(seed, symbols=6, side=1, reproductions=7)
    point = coding.blahut_arimoto(joint[:, 0], d, slope, tolerance=1e-11)
    assert point.converged and point.gap <= 1e-11
    assert (point.trace[:, 0] <= point.value + 1e-11).all()
    assert (point.trace[:, 1] >= point.value - 1e-11).all()


@laws_hold
@given(seeds)
def test_a_point_is_what_its_channel_attains(seed):
    joint, d, slope = random_problem(seed, symbols=5, side=1, reproductions=4)
    p = joint[:, 0]
    point = coding.blahut_arimoto(p, d, slope)
    assert point.channel.sum(axis=1) == pytest.approx(1, abs=1e-9)
    out = np.tile(p @ point.channel, (len(p), 1))
    with np.errstate(divide="ignore"):
        mutual = p @ kl_divergence(np.log(point.channel), np.log(out))
    assert point.rate_nats == pytest.approx(mutual, abs=1e-9)
    assert point.distortion == pytest.approx(p @ (point.channel * d).sum(axis=1), abs=1e-9)


@laws_hold
@given(seeds)
def test_newton_steps_find_the_value_of_the_plain_iteration(seed):
    joint, d, slope = random_problem(seed, symbols=4, side=1, reproductions=3)
    p, kernel = joint[:, 0], np.exp(-slope * d)
    law = np.full(3, 1 / 3)
    for _ in range(3000):
        growth = (p / (kernel @ law)) @ kernel
        law = law * growth
    upper = -p @ np.log(kernel @ law)
    point = coding.blahut_arimoto(p, d, slope)
    assert upper - np.log(growth.max()) - 1e-9 <= point.value <= upper + 1e-9


@laws_hold
@given(seeds)
def test_rate_distortion_curves_fall_and_are_convex(seed):
    joint, d, _ = random_problem(seed, symbols=5, side=1, reproductions=4)
    points = [coding.blahut_arimoto(joint[:, 0], d, s) for s in np.geomspace(0.1, 20, 12)]
    levels, rates = np.array([(q.distortion, q.rate_nats) for q in points]).T
    assert (np.diff(levels) <= 1e-8).all() and (np.diff(rates) >= -1e-8).all()
    for a, b in zip(points, points[1:], strict=False):  # each tangent lies below the curve
        assert b.rate_nats + a.slope * b.distortion >= a.value - 1e-9


def test_symbols_of_no_mass_change_nothing():
    d = 1 - np.eye(4)
    with_hole = coding.blahut_arimoto([0.6, 0, 0.3, 0.1], d, 2.0)
    without = coding.blahut_arimoto([0.6, 0.3, 0.1], np.delete(d, 1, axis=0), 2.0)
    assert with_hole.value == pytest.approx(without.value, abs=1e-12)
    assert with_hole.channel.shape == (4, 4)


def test_a_solver_that_stops_early_says_so_and_its_bracket_still_holds():
    p, d = [0.4, 0.3, 0.2, 0.1], 1 - np.eye(4)
    with pytest.warns(RuntimeWarning, match="expected a gap of at most 1.0e-10, got .* after 2"):
        early = coding.blahut_arimoto(p, d, 1.5, max_iterations=2)
    late = coding.blahut_arimoto(p, d, 1.5)
    assert not early.converged and early.gap > 1e-10 and early.iterations == 2
    assert early.value - early.gap <= late.value <= early.value
    with pytest.warns(RuntimeWarning):
        coding.wyner_ziv(SYMMETRIC, HAMMING, 2.0, max_iterations=2)


# --- side information -------------------------------------------------------------------------


def test_the_straight_part_of_the_doubly_symmetric_source_begins_where_it_should():
    assert CRITICAL.distortion == pytest.approx(0.08802, abs=5e-6)
    assert CRITICAL.rate_nats == pytest.approx(0.30777, abs=5e-6)
    assert CRITICAL.slope == pytest.approx(1.90005, abs=5e-6)


def test_the_doubly_symmetric_curve_is_the_convex_envelope_of_its_two_pieces():
    grid = np.linspace(0, CROSSOVER, 20001)
    g = closed_forms.binary_entropy(
        closed_forms.star(CROSSOVER, grid)
    ) - closed_forms.binary_entropy(grid)
    g[-1] = 0.0
    rate = closed_forms.doubly_symmetric_rate(grid, CROSSOVER)
    assert (rate <= g + 1e-12).all()
    assert (np.diff(rate, 2) >= -1e-12).all()
    # no chord from (p, 0) to a point of g lies below it
    chords = g[:-1] / (CROSSOVER - grid[:-1])
    assert chords.min() == pytest.approx(CRITICAL.slope, abs=1e-7)
    assert closed_forms.doubly_symmetric_rate([0.25, 0.4], CROSSOVER) == pytest.approx([0, 0])


@pytest.mark.parametrize("slope", [0.7, 1.5, 1.8, 2.1, 2.5, 4.0, 6.0])
def test_wyner_ziv_meets_the_doubly_symmetric_closed_form_away_from_the_critical_slope(slope):
    point = coding.wyner_ziv(SYMMETRIC, HAMMING, slope, tolerance=1e-9)
    value = value_of(
        lambda d: closed_forms.doubly_symmetric_rate(d, CROSSOVER), slope, CRITICAL.distortion
    )
    assert point.converged
    assert point.value == pytest.approx(min(value, slope * CROSSOVER), abs=1.1e-9)
    if slope > CRITICAL.slope:  # on the curved part the point itself is determined
        exact = closed_forms.doubly_symmetric_rate(point.distortion, CROSSOVER)
        assert point.rate_nats == pytest.approx(exact, abs=1e-8)


def test_near_the_critical_slope_wyner_ziv_is_slow_and_its_gap_says_how_far_off_it_is():
    with pytest.warns(RuntimeWarning, match="slope 1.9"):
        point = coding.wyner_ziv(SYMMETRIC, HAMMING, 1.9, max_iterations=3000)
    value = 1.9 * CROSSOVER  # below the critical slope the end of the straight part is best
    lower, upper = point.trace[-1]
    assert 1e-6 < upper - value < 1e-5
    assert lower <= value + 1e-12
    assert point.value - point.gap <= value + 1e-12


@pytest.mark.parametrize("e", [0.3, 0.7, 1.0])
@pytest.mark.parametrize("slope", [0.5, 1.0, 2.0, 3.0])
def test_erased_side_information_meets_its_closed_form_at_one_end_and_at_both(e, slope):
    distortion = e / (1 + np.exp(slope))
    value = closed_forms.erased_side_rate(distortion, e) + slope * distortion
    for solver in (coding.wyner_ziv, coding.conditional_blahut_arimoto):
        point = solver(erased(e), HAMMING, slope, tolerance=1e-9)
        assert point.converged
        assert point.value == pytest.approx(value, abs=1.1e-9)
        exact = closed_forms.erased_side_rate(point.distortion, e)
        assert point.rate_nats == pytest.approx(exact, abs=1e-8)


@pytest.mark.parametrize("slope", [0.3, 0.7, 1.5])
def test_log_loss_costs_the_same_with_side_information_at_one_end_or_both(slope):
    # reproductions are laws: certainty of either symbol, and p(x|y) for both y
    joint = np.array([[0.4, 0.15], [0.1, 0.35]])
    certain, given_y = np.eye(2), (joint / joint.sum(axis=0)).T
    with np.errstate(divide="ignore"):
        d = np.minimum(-np.log(np.vstack([certain, given_y])).T, 100.0)
    h = entropy(np.log(joint.ravel())) - entropy(np.log(joint.sum(axis=0)))
    value = value_of(lambda level: closed_forms.log_loss_rate(level, h), slope, h)
    assert value == pytest.approx(min(slope, 1) * h, abs=1e-9)
    for solver in (coding.wyner_ziv, coding.conditional_blahut_arimoto):
        assert solver(joint, d, slope, tolerance=1e-9).value == pytest.approx(value, abs=2e-9)


@laws_hold
@given(seeds)
def test_the_wyner_ziv_certificate_holds_at_every_step(seed):
    joint, d, slope = random_problem(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # critical slopes are slow
        short = coding.wyner_ziv(joint, d, slope, max_iterations=60)
        long = coding.wyner_ziv(joint, d, slope, max_iterations=2500)
    lower = long.trace[:, 0].max()
    assert (np.diff(long.trace[:, 1]) <= 1e-12).all()  # V(Q) never rises
    assert (short.trace[:, 0] <= long.trace[-1, 1] + 1e-12).all()
    assert (short.trace[:, 1] >= lower - 1e-12).all()
    assert lower <= long.value + 1e-12 <= long.trace[-1, 1] + 2e-12


@laws_hold
@given(seeds)
def test_side_information_at_both_ends_costs_no_more_and_none_costs_no_less(seed):
    joint, d, slope = random_problem(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        both = coding.conditional_blahut_arimoto(joint, d, slope)
        decoder = coding.wyner_ziv(joint, d, slope, max_iterations=2000)
        neither = coding.blahut_arimoto(joint.sum(axis=1), d, slope)
    assert both.value - both.gap <= decoder.value + 1e-12
    assert decoder.value - decoder.gap <= neither.value + 1e-12


def test_the_conditional_rate_lies_strictly_below_wyner_ziv_for_the_symmetric_source():
    for slope in (1.95, 2.5, 4.0):
        decoder = coding.wyner_ziv(SYMMETRIC, HAMMING, slope, tolerance=1e-9)
        both = coding.conditional_blahut_arimoto(SYMMETRIC, HAMMING, slope)
        assert both.value < decoder.value - decoder.gap - 1e-3
        exact = closed_forms.binary_rate(both.distortion, CROSSOVER)
        assert both.rate_nats == pytest.approx(exact, abs=1e-10)
    levels = np.linspace(0.001, CROSSOVER - 0.001, 50)
    gap = closed_forms.doubly_symmetric_rate(levels, CROSSOVER) - closed_forms.binary_rate(
        levels, CROSSOVER
    )
    assert (gap > 1e-4).all()


@laws_hold
@given(seeds)
def test_useless_side_information_leaves_the_plain_rate(seed):
    joint, d, slope = random_problem(seed, symbols=3, side=1, reproductions=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        point = coding.wyner_ziv(joint * [0.5, 0.5], d, slope, max_iterations=2000)
    plain = coding.blahut_arimoto(joint[:, 0], d, slope)
    assert point.value - point.gap - 1e-10 <= plain.value <= point.value + 1e-10


def test_perfect_side_information_costs_nothing():
    point = coding.wyner_ziv(np.diag([0.2, 0.3, 0.5]), 1 - np.eye(3), 5.0, max_iterations=20000)
    assert point.value == pytest.approx(0, abs=1.1e-10)


def test_symbols_of_no_mass_change_nothing_for_wyner_ziv():
    holes = np.zeros((3, 3))
    holes[np.ix_([0, 2], [1, 2])] = SYMMETRIC
    d = np.vstack([HAMMING[0], [7.0, 7.0], HAMMING[1]])
    with_holes = coding.wyner_ziv(holes, d, 2.5)
    without = coding.wyner_ziv(SYMMETRIC, HAMMING, 2.5)
    assert with_holes.value == pytest.approx(without.value, abs=1e-12)


def test_strategies_are_all_maps_from_side_information_to_reproductions():
    maps = coding.strategies(3, 2)
    assert sorted(map(tuple, maps)) == [(a, b) for a in range(3) for b in range(3)]


# --- the cache problem: bottleneck ------------------------------------------------------------

LAGS = np.array([0.5, 0.3, 0.2])
PAST = np.array(list(np.ndindex(2, 2, 2)))  # three fresh bits
RECALL = np.full((8, 3), 1 / 8) * LAGS, np.stack([1 - PAST, PAST], axis=-1).astype(float)


@pytest.mark.parametrize("multiplier", [0.5, 1.5, 2.5, 4.0, 7.0])
def test_the_recall_toy_keeps_a_bit_once_its_query_is_likely_enough(multiplier):
    point = bottleneck.bottleneck(*RECALL, multiplier, size=8, restarts=12)
    exact = bottleneck.recall_value(multiplier, LAGS)
    assert point.converged
    assert point.value == pytest.approx(exact, abs=1e-10)
    assert (point.values >= exact - 1e-10).all()
    kept = (multiplier * LAGS > 1).sum()
    assert point.rate_nats == pytest.approx(kept * np.log(2), abs=1e-8)


def test_single_starts_get_stuck_so_that_restarts_are_needed():
    point = bottleneck.bottleneck(*RECALL, 7.0, size=8, restarts=12)
    assert (point.values > point.value + 0.05).sum() >= 4


@pytest.mark.parametrize("multiplier", [1.7, 2.0, 3.0, 6.0])
def test_the_binary_bottleneck_meets_mrs_gerbers_curve(multiplier):
    p = 0.1
    predictions = np.array([[[1 - p, p]], [[p, 1 - p]]])
    point = bottleneck.bottleneck(np.full((2, 1), 0.5), predictions, multiplier, 2, restarts=4)
    exact = bottleneck.binary_bottleneck_rate(point.excess_nats, p)
    assert point.rate_nats == pytest.approx(exact, abs=1e-8)


def test_below_the_first_transition_a_binary_cache_stores_nothing():
    p = 0.1  # the curve starts with slope -1/(1-2p)²: a smaller multiplier buys nothing
    predictions = np.array([[[1 - p, p]], [[p, 1 - p]]])
    point = bottleneck.bottleneck(np.full((2, 1), 0.5), predictions, 1.5, 2, restarts=4)
    assert 1.5 < 1 / (1 - 2 * p) ** 2
    assert point.rate_nats == pytest.approx(0, abs=1e-10)
    everything = np.log(2) - closed_forms.binary_entropy(p)
    assert point.excess_nats == pytest.approx(everything, abs=1e-10)
    assert bottleneck.binary_bottleneck_rate(everything, p) == 0


@laws_hold
@given(seeds)
def test_a_bottleneck_point_is_what_its_channel_attains_and_no_worse_than_two_plain_caches(seed):
    rng = np.random.default_rng(seed)
    joint = rng.dirichlet(np.ones(8)).reshape(4, 2)
    predictions = rng.dirichlet(np.ones(3), (4, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        point = bottleneck.bottleneck(joint, predictions, 2.0, 4, restarts=3, max_iterations=300)
    law = np.einsum("fs,fm,fsx->msx", joint, point.channel, predictions)
    pair = np.einsum("fs,fm->msf", joint, point.channel)

    def h(p):
        return -(p * closed_forms.safe_log(p)).sum()

    def given_ms(p):  # entropy of the last axis given the other two
        return h(p) - h(p.sum(axis=2))

    noise = -(joint[..., None] * predictions * np.log(predictions)).sum()
    excess = given_ms(law) - noise
    rate = h(joint) - h(joint.sum(axis=0)) - given_ms(pair)
    assert point.excess_nats == pytest.approx(excess, abs=1e-9)
    assert point.rate_nats == pytest.approx(rate, abs=1e-9)
    everything = h(joint) - h(joint.sum(axis=0))  # M = F
    nothing = 2.0 * (given_ms(law.sum(axis=0, keepdims=True)) - noise)
    assert point.value <= min(everything, nothing) + 1e-6


# --- checks that can fail ---------------------------------------------------------------------


def test_the_certificate_would_catch_a_strategy_that_was_dropped():
    # without the two constant strategies the symmetric source costs more; the full certificate,
    # evaluated at the law that the crippled iteration ends in, exposes it
    d, slope = HAMMING, 2.5
    maps = coding.strategies(2, 2)
    cost = np.einsum("xy,xty->xt", 2 * SYMMETRIC, d[:, maps])
    law = np.array([[1e-12, 0.5, 0.5, 1e-12]] * 2)
    kept = np.array([False, True, True, False])
    for _ in range(500):
        q = np.exp(2 * SYMMETRIC @ np.log(law) - slope * cost) * kept
        q /= q.sum(axis=1, keepdims=True)
        law = np.maximum(2 * SYMMETRIC @ q, 1e-12)
    log_q = 2 * SYMMETRIC @ np.log(law) - slope * cost
    z = np.exp(log_q).sum(axis=1)
    new = 2 * SYMMETRIC @ (np.exp(log_q) / z[:, None])
    upper = -0.5 * np.log(z).sum()
    gap = 0.5 * np.log((new / law).max(axis=1)).sum()
    honest = coding.wyner_ziv(SYMMETRIC, d, slope)
    assert upper > honest.value + 1e-2  # stuck above the optimum
    assert gap > 1e-2  # and the certificate knows
    dropped = 0.5 * np.log((new / law)[:, kept].max(axis=1)).sum()
    assert dropped < 1e-6  # a maximum over the kept strategies alone would not


# --- bad input --------------------------------------------------------------------------------

LAW, SQUARE = [0.5, 0.5], HAMMING


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: coding.blahut_arimoto([0.5, 0.4], SQUARE, 1), "source: expected mass 1, got 0.9"),
        (lambda: coding.blahut_arimoto([1.5, -0.5], SQUARE, 1), "source: .*got a minimum of -0.5"),
        (lambda: coding.blahut_arimoto([np.nan, 1], SQUARE, 1), "source: .*got a minimum of nan"),
        (lambda: coding.blahut_arimoto(SQUARE, SQUARE, 1), r"source: .*got shape \(2, 2\)"),
        (lambda: coding.blahut_arimoto(LAW, np.eye(3), 1), r"shape \(2, repro.*got \(3, 3\)"),
        (lambda: coding.blahut_arimoto(LAW, [0, 1], 1), r"distortion: .*got \(2,\)"),
        (lambda: coding.blahut_arimoto(LAW, [[0, np.inf], [1, 0]], 1), "distortion: .*finite"),
        (lambda: coding.blahut_arimoto(LAW, SQUARE, -1), "slope: .*got -1"),
        (lambda: coding.wyner_ziv(LAW, SQUARE, 1), r"joint: expected 2 axes.*got shape \(2,\)"),
        (lambda: coding.wyner_ziv(2 * SYMMETRIC, SQUARE, 1), "joint: expected mass 1, got 2"),
        (lambda: coding.wyner_ziv(SYMMETRIC, np.eye(3), 1), r"distortion: .*got \(3, 3\)"),
        (lambda: coding.strategies(2, 17), "strategies: expected at most 65536, got 131072"),
        (lambda: coding.conditional_blahut_arimoto(LAW, SQUARE, 1), "joint: expected 2 axes"),
        (lambda: bottleneck.bottleneck(RECALL[0], RECALL[1][:4], 1, 2), r"expected shape \(8, 3\)"),
        (lambda: bottleneck.bottleneck(RECALL[0], 2 * RECALL[1], 1, 2), "predictions: .*got 2"),
        (lambda: bottleneck.bottleneck(*RECALL, -1, 2), "multiplier: .*got -1"),
        (lambda: bottleneck.bottleneck(*RECALL, 1, 0), "size and restarts: .*got 0 and 12"),
        (lambda: bottleneck.recall_value(1, [0.5, 0.6]), "lag_law: expected mass 1, got 1.1"),
        (lambda: bottleneck.binary_bottleneck_rate(0.1, 0.5), "crossover: .*got 0.5"),
        (lambda: closed_forms.binary_rate(0.1, 1.2), r"p: expected \[0, 1\], got 1.2"),
        (lambda: closed_forms.binary_rate(-0.1, 0.2), "distortion: .*got -0.1"),
        (lambda: closed_forms.doubly_symmetric_rate(0.1, 0.5), r"crossover: .*\(0, 0.5\), got 0.5"),
        (lambda: closed_forms.erased_side_rate(0.1, 0), "erasure: .*got 0"),
        (lambda: closed_forms.log_loss_rate(-1, 1), "distortion: .*got -1"),
    ],
)
def test_bad_input_raises_with_what_was_expected_and_what_came(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
