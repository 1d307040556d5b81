"""Gaussian rates: forward channels that attain them, biases by simulation, causal against not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import integrate, optimize, signal, special

from kvlib.theory import gaussian_coding

laws_hold = settings(deadline=None, derandomize=True, max_examples=100)
seeds = st.integers(0, 2**32 - 1)


def random_covariance(rng, size):
    root = rng.normal(size=(size, size + 2))
    return root @ root.T / size


def logdet(matrix):
    return np.linalg.slogdet(matrix)[1]


# --- scalar -----------------------------------------------------------------------------------


@laws_hold
@given(st.floats(0.1, 5), st.floats(0.05, 5), st.floats(0.01, 0.99))
def test_the_wyner_ziv_channel_of_a_gaussian_attains_the_rate_of_both_ends(sx, noise, share):
    # Y = X + N; the encoder sends T = X + Z without seeing Y, the decoder estimates X from T, Y
    conditional = sx * noise / (sx + noise)
    distortion = share * conditional
    z = 1 / (1 / distortion - 1 / conditional)
    error = 1 / (1 / sx + 1 / noise + 1 / z)
    rate = 0.5 * np.log((conditional + z) / z)  # I(X; T | Y)
    assert error == pytest.approx(distortion)
    assert gaussian_coding.gaussian_rate(distortion, conditional) == pytest.approx(rate, abs=1e-9)
    assert gaussian_coding.gaussian_rate(2 * conditional, conditional) == 0


@laws_hold
@given(st.floats(0.1, 0.99), st.floats(0.02, 30))
def test_the_gaussian_bottleneck_is_attained_by_adding_noise(rho, noise):
    # M = F + N, Var F = 1: rate I(F; M), excess I(X; F | M) = ½ log Var(X|M)/Var(X|F)
    rate = 0.5 * np.log1p(1 / noise)
    excess = 0.5 * np.log((1 - rho**2 / (1 + noise)) / (1 - rho**2))
    assert gaussian_coding.gaussian_bottleneck_rate(excess, rho) == pytest.approx(rate, rel=1e-8)


def test_a_gaussian_cache_may_be_empty_once_the_excess_reaches_all_information():
    everything = -0.5 * np.log(1 - 0.8**2)
    assert gaussian_coding.gaussian_bottleneck_rate(everything * (1 - 1e-9), 0.8) > 0
    assert gaussian_coding.gaussian_bottleneck_rate(everything * (1 + 1e-9), 0.8) == 0


def test_a_scalar_state_needs_half_a_log_of_one_over_epsilon():
    rate = gaussian_coding.gaussian_bottleneck_rate(np.array([1e-6, 1e-8]), 0.7)
    assert np.diff(rate)[0] == pytest.approx(0.5 * np.log(100), rel=1e-5)


# --- vectors ----------------------------------------------------------------------------------


@laws_hold
@given(seeds, st.floats(0.001, 1.2))
def test_water_filling_meets_its_distortion_and_its_forward_channel_the_rate(seed, share):
    values = np.random.default_rng(seed).gamma(0.7, size=7) + 1e-3
    rate, level, errors = gaussian_coding.water_filling(values, share * values.sum())
    assert errors.sum() == pytest.approx(min(share, 1) * values.sum())
    assert (errors <= values + 1e-12).all() and errors == pytest.approx(np.minimum(level, values))
    # test channel of each component: X̂ = ηX + √(ηθ) Z, η = 1 - θ/λ
    eta = 1 - errors / values
    on = eta > 1e-9
    power = eta[on] ** 2 * values[on] + eta[on] * errors[on]
    mutual = 0.5 * np.log(power / (eta[on] * errors[on])).sum()
    error = ((1 - eta) ** 2 * values + eta * errors).sum()
    assert mutual == pytest.approx(rate, abs=1e-7)
    assert error == pytest.approx(errors.sum())


def test_no_split_of_the_distortion_beats_reverse_water_filling():
    rng = np.random.default_rng(0)
    values = np.array([4.0, 1.0, 0.5, 0.1])
    for total in (0.2, 1.0, 3.0, 5.0):
        best = gaussian_coding.water_filling(values, total).rate_nats
        splits = np.minimum(rng.dirichlet(np.ones(4), 2000) * total, values)
        assert (0.5 * np.log(values / splits).sum(axis=1) >= best - 1e-12).all()


def test_water_filling_broadcasts_over_distortions():
    values, levels = np.array([3.0, 1.0, 0.2]), np.array([[0.1, 0.6], [2.0, 9.0]])
    rate, level, errors = gaussian_coding.water_filling(values, levels)
    assert rate.shape == level.shape == (2, 2) and errors.shape == (2, 2, 3)
    for i, d in np.ndenumerate(levels):
        assert rate[i] == pytest.approx(gaussian_coding.water_filling(values, d).rate_nats)
    assert rate[1, 1] == 0


def test_the_conditional_covariance_is_the_schur_complement_and_the_error_of_regression():
    joint = random_covariance(np.random.default_rng(1), 9)
    kq, qq = joint[:4, 4:], joint[4:, 4:]
    schur = joint[:4, :4] - kq @ np.linalg.solve(qq, kq.T)
    assert gaussian_coding.conditional_covariance(joint, 4) == pytest.approx(
        schur, rel=1e-9, abs=1e-12
    )
    assert gaussian_coding.conditional_covariance(joint, 9) == pytest.approx(joint)


def test_what_the_query_saves_at_small_distortion_is_the_mutual_information():
    joint = random_covariance(np.random.default_rng(2), 8)
    alone = gaussian_coding.water_filling(np.linalg.eigvalsh(joint[:3, :3]), 1e-6).rate_nats
    saved = alone - gaussian_coding.conditional_rate(joint, 3, 1e-6).rate_nats
    mutual = 0.5 * (logdet(joint[:3, :3]) + logdet(joint[3:, 3:]) - logdet(joint))
    assert saved == pytest.approx(mutual, abs=1e-9)
    assert gaussian_coding.side_information_gain(joint, 3) == pytest.approx(mutual, abs=1e-9)


def test_weighting_the_error_is_coding_the_transformed_vector():
    rng = np.random.default_rng(3)
    joint, weight = random_covariance(rng, 7), random_covariance(rng, 3)
    values, vectors = np.linalg.eigh(weight)
    root = vectors @ np.diag(np.sqrt(values)) @ vectors.T
    transformed = root @ gaussian_coding.conditional_covariance(joint, 3) @ root
    exact = gaussian_coding.water_filling(np.linalg.eigvalsh(transformed), 0.2).rate_nats
    assert gaussian_coding.conditional_rate(joint, 3, 0.2, weight).rate_nats == pytest.approx(exact)
    plain = gaussian_coding.conditional_rate(joint, 3, 0.2).rate_nats
    assert gaussian_coding.conditional_rate(joint, 3, 0.2, np.eye(3)).rate_nats == pytest.approx(
        plain
    )


def test_plug_in_biases_have_their_known_values():
    assert gaussian_coding.logdet_bias(2000, 64, 192) == pytest.approx(-3.83, abs=5e-3)
    assert gaussian_coding.logdet_bias(20000, 64, 192) == pytest.approx(-0.36, abs=5e-3)
    assert gaussian_coding.logdet_bias(2000, 64, 192, ddof=1) == pytest.approx(-3.81, abs=5e-3)
    assert gaussian_coding.gain_bias(2000, 64, 192) == pytest.approx(3.29, abs=5e-3)
    assert gaussian_coding.gain_bias(20000, 64, 192) == pytest.approx(0.309, abs=5e-4)
    assert gaussian_coding.logdet_bias(60, 4, 6) == pytest.approx(-0.345, abs=5e-4)


def plug_in(rows, size):
    """½ log|Σ̂_{K|Q}| and the plug-in gain of studies (study, row, variable), divisor n."""
    centred = rows - rows.mean(axis=1, keepdims=True)
    joint = np.swapaxes(centred, 1, 2) @ centred / rows.shape[1]
    conditional = logdet(joint) - logdet(joint[:, size:, size:])
    return conditional / 2, (logdet(joint[:, :size, :size]) - conditional) / 2


def test_the_plug_in_biases_are_seen_in_simulated_studies():
    # 4,000 studies, seeded; 5 standard errors: for a fresh seed a false alarm has probability 1e-6
    studies = np.random.default_rng(0).normal(size=(4000, 60, 10))
    conditional, gain = plug_in(studies, 4)
    for values, bias in (
        (conditional, gaussian_coding.logdet_bias(60, 4, 6)),
        (gain, gaussian_coding.gain_bias(60, 4, 6)),
    ):
        assert abs(values.mean() - bias) < 5 * values.std() / np.sqrt(len(values))
    # that simulation is precise enough to tell the two divisors apart
    wrong = gaussian_coding.logdet_bias(60, 4, 6, ddof=1)
    assert abs(conditional.mean() - wrong) > 5 * conditional.std() / np.sqrt(len(conditional))


def test_heavy_tails_are_biased_by_more_than_the_formula():
    # independent t with 4 degrees of freedom, variance 2: the true ½ log det is ½ · 4 · log 2
    studies = np.random.default_rng(1).standard_t(4, size=(4000, 60, 10))
    bias = plug_in(studies, 4)[0] - 2 * np.log(2)
    error = bias.std() / np.sqrt(len(bias))
    assert abs(bias.mean() + 0.455) < 5 * error + 5e-4  # the known value, to its last digit
    assert bias.mean() < gaussian_coding.logdet_bias(60, 4, 6) - 5 * error


# --- sequences --------------------------------------------------------------------------------


@laws_hold
@given(st.floats(-3, 3), st.floats(0.1, 5), seeds)
def test_rates_of_a_varying_distortion_regroup_and_a_constant_one_is_best(a, sigma2, seed):
    levels = np.random.default_rng(seed).uniform(0.01, 1, 12) * sigma2
    prior = a**2 * np.roll(levels, 1) + sigma2  # a cycle, so that nothing is left at the ends
    spent = 0.5 * np.log(prior / levels).mean()
    assert spent == pytest.approx(0.5 * np.log(a**2 + sigma2 / levels).mean())
    assert spent >= gaussian_coding.causal_rate(levels.mean(), a, sigma2) - 1e-12


def test_an_unstable_source_costs_its_expansion_at_any_distortion():
    assert gaussian_coding.causal_rate(1e12, 2.0, 1.0) == pytest.approx(np.log(2))
    assert gaussian_coding.causal_rate(1e12, 0.5, 1.0) == 0


@laws_hold
@example(0.5, 0.625, 1.0)  # the border of small distortion, but for rounding
@given(st.floats(-0.95, 0.95), st.floats(0.1, 5), st.floats(0.01, 1))
def test_causality_costs_half_a_log_at_small_distortion(a, sigma2, share):
    distortion = share * sigma2 / (1 + abs(a)) ** 2
    price = gaussian_coding.causal_rate(distortion, a, sigma2) - gaussian_coding.noncausal_rate(
        distortion, a, sigma2
    )
    assert price == pytest.approx(0.5 * np.log1p(a**2 * distortion / sigma2), abs=1e-12)


def test_the_price_of_causality_vanishes_with_the_distortion():
    levels = [1e-2, 1e-4, 1e-6]
    price = [
        gaussian_coding.causal_rate(d, 0.9, 1.0) - gaussian_coding.noncausal_rate(d, 0.9, 1.0)
        for d in levels
    ]
    assert price == pytest.approx(0.5 * 0.81 * np.array(levels), rel=1e-2)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.99])
@pytest.mark.parametrize("a", [0.5, -0.9])
def test_noncausal_water_filling_agrees_with_a_sum_over_frequencies(a, share):
    omega = (np.arange(20000) + 0.5) * np.pi / 20000
    spectrum = 1 / (1 + a**2 - 2 * a * np.cos(omega))
    distortion = share / (1 - a**2)
    level = optimize.brentq(
        lambda x: np.minimum(x, spectrum).mean() - distortion, 1e-9, spectrum.max()
    )
    exact = 0.5 * np.maximum(np.log(spectrum / level), 0).mean()
    rate = gaussian_coding.noncausal_rate(distortion, a, 1.0)
    assert rate == pytest.approx(exact, abs=1e-7)
    assert rate <= gaussian_coding.causal_rate(distortion, a, 1.0)


def test_noncausal_water_filling_is_continuous_where_all_frequencies_begin_to_count():
    edge = 1 / 1.9**2
    sides = [gaussian_coding.noncausal_rate(edge * (1 + h), 0.9, 1.0) for h in (-1e-9, 0, 1e-9)]
    assert sides == pytest.approx([0.5 * np.log(1 / edge)] * 3, abs=1e-8)


def test_the_forward_channel_realises_the_causal_rate():
    # X̂_t = a X̂_{t-1} + η (X_t - a X̂_{t-1}) + √(ηD) V_t; 200,000 steps, seeded: the error of the
    # mean is about 0.4%, so that 2% fails falsely with probability below 1e-6 for a fresh seed
    a, sigma2, d, n = 0.9, 1.0, 0.3, 200_000
    rng = np.random.default_rng(0)
    prior = a**2 * d + sigma2
    eta = 1 - d / prior
    x = signal.lfilter([1], [1, -a], rng.normal(size=n) * np.sqrt(sigma2))
    noise = rng.normal(size=n) * np.sqrt(eta * d)
    xhat = signal.lfilter([1], [1, -a * (1 - eta)], eta * x + noise)
    innovation = xhat[1:] - a * xhat[:-1]
    assert np.mean((x - xhat)[100:] ** 2) == pytest.approx(d, rel=0.02)
    rate = 0.5 * np.log(np.var(innovation[100:]) / (eta * d))
    assert rate == pytest.approx(gaussian_coding.causal_rate(d, a, sigma2), abs=0.02)


def test_subtractive_dither_leaves_an_error_that_is_uniform_and_independent():
    # 100,000 samples, seeded; limits of 5 standard errors: false alarm 1e-6 each for a fresh seed
    rng, n, step = np.random.default_rng(0), 100_000, 0.7
    z, dither = rng.normal(size=n), rng.uniform(-step / 2, step / 2, n)
    error = step * np.round((z + dither) / step) - dither - z
    assert np.abs(error).max() <= step / 2 + 1e-12
    assert np.mean(error**2) == pytest.approx(step**2 / 12, rel=5 * np.sqrt(0.8 / n))
    assert abs(np.corrcoef(error, z)[0, 1]) < 5 / np.sqrt(n)


@pytest.mark.parametrize("ratio", [0.01, 0.1, 1.0])
def test_a_dithered_quantiser_costs_at_most_a_quarter_of_a_bit(ratio):
    # given the dither, its entropy is I(Z; Z + U), U uniform of variance D: by quadrature
    step = np.sqrt(12 * ratio)

    def information(z):
        p = (special.ndtr(z + step / 2) - special.ndtr(z - step / 2)) / step
        return -p * np.log(max(p, 1e-300))

    entropy = integrate.quad(information, -12 - step, 12 + step, limit=400)[0]
    loss = (entropy - np.log(step)) / np.log(2) - 0.5 * np.log2(1 + 1 / ratio)
    assert gaussian_coding.DITHER_LOSS_BITS == pytest.approx(0.2546, abs=5e-5)
    assert 0 <= loss <= gaussian_coding.DITHER_LOSS_BITS
    if ratio == 0.01:
        assert loss == pytest.approx(gaussian_coding.DITHER_LOSS_BITS, abs=0.02)


@laws_hold
@given(st.floats(-2, 2), st.floats(0.1, 3), st.floats(0.05, 20), st.floats(0.01, 0.9))
def test_causal_coding_with_side_information_is_a_riccati_step(a, sigma2, side, share):
    d = share * min(sigma2, side) / 2
    prior = a**2 * d + sigma2
    known = prior * side / (prior + side)
    rate = gaussian_coding.causal_rate(d, a, sigma2, side)
    assert rate == pytest.approx(max(0.5 * np.log(known / d), 0), abs=1e-12)
    assert rate <= gaussian_coding.causal_rate(d, a, sigma2)
    far = gaussian_coding.causal_rate(d, a, sigma2, 1e12 * sigma2)
    assert far == pytest.approx(gaussian_coding.causal_rate(d, a, sigma2), abs=1e-9)


@laws_hold
@given(st.floats(-2, 2), st.floats(0.1, 3), st.floats(0.05, 20))
def test_the_causal_rate_with_side_information_is_convex(a, sigma2, side):
    known = 1 / (1 / sigma2 + 1 / side)
    grid = np.linspace(0.01, 0.9, 60) * known  # below it the rate is positive
    rate = gaussian_coding.causal_rate(grid, a, sigma2, side)
    assert (rate > 0).all()
    assert (np.diff(rate, 2) >= -1e-12).all()


# --- bad input --------------------------------------------------------------------------------

INDEFINITE = np.array([[1.0, 2.0], [2.0, 1.0]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gaussian_coding.gaussian_rate(0, 1), "distortion: .*got 0"),
        (lambda: gaussian_coding.gaussian_rate(1, -1), "conditional_variance: .*got -1"),
        (
            lambda: gaussian_coding.gaussian_bottleneck_rate(0.1, 1),
            r"correlation: .*\(-1, 1\), got 1",
        ),
        (lambda: gaussian_coding.gaussian_bottleneck_rate(0, 0.5), "excess_nats: .*got 0"),
        (lambda: gaussian_coding.water_filling([1.0, 0.0], 1), "eigenvalues: .*got 0"),
        (lambda: gaussian_coding.water_filling(np.eye(2) + 1, 1), r"shape \(d,\), got \(2, 2\)"),
        (lambda: gaussian_coding.conditional_covariance(INDEFINITE, 1), "definite, got .* of -1"),
        (
            lambda: gaussian_coding.conditional_covariance([[1.0, 0.5], [0, 1]], 1),
            "symmetric .*0.5 apart",
        ),
        (lambda: gaussian_coding.conditional_covariance(np.ones((2, 3)), 1), r"square .*\(2, 3\)"),
        (
            lambda: gaussian_coding.conditional_covariance(np.eye(2), 3),
            "size: expected from 1 to 2",
        ),
        (
            lambda: gaussian_coding.conditional_rate(np.eye(3), 2, 1, np.eye(3)),
            r"weight: .*got \(3, 3\)",
        ),
        (lambda: gaussian_coding.conditional_rate(np.eye(3), 2, 0), "distortion: .*got 0"),
        (lambda: gaussian_coding.side_information_gain(INDEFINITE, 1), "positive definite"),
        (lambda: gaussian_coding.logdet_bias(10, 4, 6), r"n: .*4 \+ 6, got 10"),
        (lambda: gaussian_coding.causal_rate(1, 0.5, 0), "noise_variance: .*got 0"),
        (lambda: gaussian_coding.causal_rate(1, 0.5, 1, -1), "side_variance: .*got -1"),
        (lambda: gaussian_coding.noncausal_rate(1, 1.0, 1), "coefficient: .*got 1"),
    ],
)
def test_bad_input_raises_with_what_was_expected_and_what_came(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
