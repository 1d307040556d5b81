"""The block-Markov scheme: exact excess, its asymptotics, and what blocks can and can't win."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg

from kvlib.theory import blocks, bounds

laws_hold = settings(deadline=None, derandomize=True, max_examples=100)
seeds = st.integers(0, 2**32 - 1)


def power_law(n, c=0.1, alpha=1.0):
    return c * np.arange(1.0, n + 1) ** -alpha


def gaussian_autocovariance(n, c, alpha):
    """Autocovariance 0..n-1 of the Gaussian source whose Δ(w) is c (w+1)^-α, by Durbin-Levinson."""
    k = np.arange(1, n)
    partial = np.sqrt(-np.expm1(-2 * c * (k**-alpha - (k + 1.0) ** -alpha)))
    variance, gamma, coefficients = np.exp(2 * c), [np.exp(2 * c)], np.empty(0)
    for reflection in partial:
        gamma.append(reflection * variance + coefficients @ np.array(gamma[:0:-1]))
        coefficients = np.r_[coefficients - reflection * coefficients[::-1], reflection]
        variance *= 1 - reflection**2
    return np.array(gamma)


# --- exact excess -----------------------------------------------------------------------------


@pytest.mark.parametrize(("block", "carry"), [(1, 0), (8, 0), (8, 5), (5, 40), (48, 16)])
def test_the_excess_is_the_determinant_of_a_gaussian_block_given_its_carry(block, carry):
    covariance = linalg.toeplitz(gaussian_autocovariance(64, 0.1, 0.7))
    log_deviation = np.log(np.diag(np.linalg.cholesky(covariance)))  # ½ log σ_w²; σ_∞ = 1
    exact = log_deviation[carry : carry + block].mean()
    delta = power_law(64, 0.1, 0.7)
    assert blocks.block_excess(delta, block, carry) == pytest.approx(exact, abs=1e-12)


@laws_hold
@given(seeds, st.integers(1, 40), st.integers(0, 40))
def test_the_excess_is_the_mean_sensitivity_over_the_block(seed, block, carry):
    delta = np.sort(np.random.default_rng(seed).exponential(size=80))[::-1]
    exact = np.mean([delta[carry + k] for k in range(block)])
    assert blocks.block_excess(delta, block, carry) == pytest.approx(exact, rel=1e-12)


def test_the_excess_keeps_its_digits_in_an_exponential_tail():
    delta = 0.8 ** np.arange(400)
    exact = delta[300:310].mean()
    assert blocks.block_excess(delta, 10, 300) == pytest.approx(exact, rel=1e-12)


def test_the_excess_broadcasts_over_blocks_and_carries():
    table = blocks.block_excess(power_law(200), np.array([1, 10, 100]), np.array([[0], [50]]))
    assert table.shape == (2, 3)
    assert table[1, 2] == blocks.block_excess(power_law(200), 100, 50)
    assert (np.diff(table, axis=0) < 0).all()


# --- the asymptotic table ---------------------------------------------------------------------


def exact_excess(c, alpha, block, carry):
    """The excess of c (w+1)^-α for blocks too long for an array."""
    sums = bounds.power_sum(carry + block, alpha) - bounds.power_sum(carry, alpha)
    return c * sums / block


@pytest.mark.parametrize("alpha", [0.3, 0.5, 1.0, 1.5, 2.5])
@pytest.mark.parametrize("regime", ["no carry", "short carry", "long carry"])
def test_the_exact_excess_tends_to_each_entry_of_the_table(regime, alpha):
    sizes = {
        "no carry": [(10.0**k, 0.0) for k in (4, 6, 8)],
        "short carry": [(10.0 ** (3 * k), 10.0**k) for k in (1, 2, 4)],
        "long carry": [(10.0**k, 10.0 ** (2 * k)) for k in (1, 2, 3)],
    }[regime]
    misses = []
    for block, carry in sizes:
        exact = exact_excess(0.1, alpha, block, carry)
        table = blocks.asymptotic_excess(0.1, alpha, block, carry, regime)
        misses.append(abs(exact / table - 1))
    assert misses[0] > misses[1] > misses[2]
    # for α < 1 the next term is ζ(α)(1-α) B^(α-1) or (w/B)^(1-α): slow near α = 1
    assert misses[2] < {0.3: 5e-3, 0.5: 2e-2}.get(alpha, 2e-2)


@pytest.mark.parametrize("alpha", [0.3, 0.7, 1.5, 3.0])
def test_the_exponent_saturates_at_one_without_a_carry_and_is_alpha_with_one(alpha):
    block = np.array([1e4, 1e5]) if alpha > 2 else np.array([1e8, 1e9])
    for carry, grows in ((0 * block, False), (block, True)):
        excess = exact_excess(1.0, alpha, block, carry)
        slope = -np.diff(np.log(excess))[0] / np.log(10)
        assert slope == pytest.approx(blocks.excess_exponent(alpha, grows), abs=5e-3)


def test_at_exponent_one_a_block_without_carry_pays_a_logarithm():
    block = np.array([1e6, 1e9])
    excess = exact_excess(1.0, 1.0, block, 0)
    assert excess * block == pytest.approx(np.log(block) + np.euler_gamma, rel=1e-6)


# --- blocks against sliding windows -----------------------------------------------------------


@laws_hold
@given(st.floats(0.05, 4), st.integers(1, 200), st.integers(0, 200))
def test_for_a_convex_sensitivity_blocks_never_beat_sliding_at_equal_mean_context(
    alpha, block, carry
):
    delta = power_law(400, 0.1, alpha)
    sliding = np.interp(carry + (block - 1) / 2, np.arange(400), delta)
    assert blocks.block_excess(delta, block, carry) >= sliding * (1 - 1e-12)


@laws_hold
@given(seeds, st.integers(1, 30), st.integers(0, 30))
def test_for_every_source_blocks_lose_to_sliding_at_equal_peak_context(seed, block, carry):
    rng = np.random.default_rng(seed)
    delta = np.sort(rng.exponential(size=64) * (rng.random(64) < 0.3))[::-1]
    excess = blocks.block_excess(delta, block, carry)
    assert excess >= delta[carry + block - 1] - 1e-12


def test_for_the_lacunary_source_blocks_beat_sliding_at_equal_mean_context():
    jumps = np.array([2.0, 4, 16, 256])
    delta = 1 / jumps[np.searchsorted(jumps, np.arange(100), side="right")]
    excess = blocks.block_excess(delta, block=17, carry=7)
    assert excess == pytest.approx(0.0349, abs=5e-5)
    assert delta[15] == 0.0625 > excess  # mean context 7 + 8
    assert excess >= delta[23]  # equal peak context


# --- the factor of two ------------------------------------------------------------------------


def test_pinsker_over_a_block_halves_the_exponent():
    n = 2**14
    for alpha in (0.5, 1.5):
        delta = power_law(2 * n, 0.01, alpha)
        carry = np.array([n // 2, n])
        slopes = [
            -np.diff(np.log(values))[0] / np.log(2)
            for values in (
                blocks.block_excess(delta, 1, carry),
                blocks.block_tv(delta, 1, carry),
            )
        ]
        assert slopes == pytest.approx([alpha, alpha / 2], rel=1e-3)


def test_pinsker_bounds_the_total_variation_of_a_whole_block():
    # two product laws of coins: chain rule for KL, exact TV by enumeration
    p, q = np.array([0.5, 0.5]), np.array([0.58, 0.42])
    delta = np.full(8, p @ np.log(p / q))
    for block in (1, 4, 8):
        whole_p, whole_q = np.ones(1), np.ones(1)
        for _ in range(block):
            whole_p, whole_q = np.outer(whole_p, p).ravel(), np.outer(whole_q, q).ravel()
        exact = 0.5 * np.abs(whole_p - whole_q).sum()
        assert exact <= blocks.block_tv(delta, block) <= 1.3 * exact
    assert blocks.block_tv(np.ones(100), 100) == 1


# --- bad input --------------------------------------------------------------------------------

DELTA = power_law(10)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: blocks.block_excess(DELTA, 8, 3), "expected at least 11 windows, got 10"),
        (lambda: blocks.block_excess(DELTA, 0), "block: expected integers of at least 1, got 0"),
        (lambda: blocks.block_excess(DELTA, 2.5), "block: expected integers .*got 2.5"),
        (lambda: blocks.block_excess(DELTA, 2, -1), "carry: .*got -1"),
        (lambda: blocks.block_excess([DELTA], 2), r"shape \(windows,\) and ≥ 0, got \(1, 10\)"),
        (lambda: blocks.block_excess(-DELTA, 2), "sensitivity: .*≥ 0"),
        (lambda: blocks.asymptotic_excess(1, -1, 10), "exponent: .*got -1"),
        (lambda: blocks.asymptotic_excess(1, 1, 10, 0, "long carry"), "carry: .*got 0"),
        (lambda: blocks.asymptotic_excess(1, 1, 10, 1, "some"), "regime: .*got 'some'"),
        (lambda: blocks.excess_exponent(0, True), "exponent: .*got 0"),
    ],
)
def test_bad_input_raises_with_what_was_expected_and_what_came(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
