"""Bounds: exact windows, the theorems behind them on finite examples, and what isn't covered."""

from __future__ import annotations

import itertools

import mpmath
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import special

from kvlib.measure.divergences import entropy, kl_divergence, total_variation
from kvlib.theory import bounds

# Hypothesis draws the same examples on every run; the laws hold for all inputs, so a false alarm
# has probability zero. The same goes for examples drawn from a seed.
laws_hold = settings(deadline=None, derandomize=True, max_examples=200)
few = settings(deadline=None, derandomize=True, max_examples=40)
exponents = st.floats(0.1, 4)
prefactors = st.floats(1e-3, 1e2)
seeds = st.integers(0, 2**32 - 1)


def expected_kl(weights, log_p, log_q):
    """Σ weights · KL(p‖q), laws on the last axis."""
    return float((weights * kl_divergence(*np.broadcast_arrays(log_p, log_q))).sum())


def random_laws(rng, *shape, concentration=0.7):
    """Probability vectors over the last axis, none of them exactly zero."""
    draws = rng.gamma(concentration, size=shape) + 1e-12
    return draws / draws.sum(axis=-1, keepdims=True)


# --- windows: the smallest integer, exactly ---------------------------------------------------


def test_windows_are_exact_at_exact_powers():
    for w in [1, 2, 3, 10, 99, 100, 1000, 4096, 10**6, 10**9]:
        for alpha in [0.25, 1 / 3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0]:
            for c in [1.0, 0.1, 3.0, 0.3]:
                for epsilon in (c * float(w) ** -alpha, c / float(w) ** alpha):
                    assert bounds.window_for(epsilon, c, alpha) == w
                    assert bounds.converse_window(epsilon, c, alpha, shift=1) == w - 1


def test_windows_at_decimal_powers_are_what_one_reads():
    assert bounds.window_for(0.001, 1, 0.5) == 10**6
    assert bounds.window_for(0.3, 3, 1) == 10
    assert bounds.window_for(1e-3, 0.1, 0.5) == 10**4
    assert bounds.window_for(0.1, 1, 1 / 3) == 1000


def test_a_window_by_the_plain_ceiling_is_off_by_one_somewhere():
    # what the exact search is for: floating-point powers land just above the integer
    def ceiling(epsilon, c, alpha):
        return int(np.ceil((c / epsilon) ** (1 / alpha)))

    cases = [(w**-alpha, 1.0, alpha) for w in range(2, 200) for alpha in (0.3, 0.5, 0.7)]
    assert any(ceiling(*case) != bounds.window_for(*case) for case in cases)


@laws_hold
@given(st.floats(1e-3, 1e2), prefactors, st.floats(0.3, 4), st.sampled_from([0, 1]))
@example(1.0, 1.0, 1.0, 0)
def test_a_window_reaches_epsilon_and_the_one_before_does_not(epsilon, c, alpha, shift):
    w = bounds.window_for(epsilon, c, alpha, shift)
    assert bounds.distortion_at(w, c, alpha, shift) <= epsilon * (1 + 1e-14)
    if w > 1 - shift:
        assert bounds.distortion_at(w - 1, c, alpha, shift) > epsilon
    assert w.dtype == np.int64


@laws_hold
@given(st.integers(1, 10**6), prefactors, exponents)
def test_the_window_for_the_distortion_of_a_window_is_that_window(w, c, alpha):
    assert bounds.window_for(bounds.distortion_at(w, c, alpha), c, alpha) == w


def test_windows_broadcast_and_agree_with_scalars():
    epsilon, alpha = np.array([0.5, 0.1, 0.01]), np.array([[0.5], [1.0]])
    table = bounds.window_for(epsilon, 0.7, alpha)
    assert table.shape == (2, 3)
    for (i, a), (j, e) in itertools.product(enumerate(alpha[:, 0]), enumerate(epsilon)):
        assert table[i, j] == bounds.window_for(e, 0.7, a)


def test_a_converse_needs_no_window_once_epsilon_reaches_the_sensitivity_at_zero():
    assert bounds.converse_window(0.5, 0.1, 1) == 1
    assert bounds.converse_window(0.5, 0.1, 1, at_zero=0.5) == 0
    assert bounds.converse_window(0.5, 0.1, 1, at_zero=0.6) == 1
    assert bounds.converse_window(0.5, 0.1, 1, shift=1) == 0


@laws_hold
@given(st.floats(1e-2, 1), prefactors, st.floats(1, 5), st.floats(0.5, 3), st.floats(0, 1))
def test_the_least_window_lies_in_the_sandwich(epsilon, c, spread, alpha, where):
    # Δ anywhere between its two laws and non-increasing: a factor that wobbles, made monotone
    windows = np.arange(1, 3000)
    wobble = spread ** (where * (1 + np.sin(windows)) / 2)
    delta = np.minimum.accumulate(c * wobble * windows**-alpha)
    delta = np.maximum(delta, c * windows**-alpha)
    low, high, ratio = bounds.sandwich(epsilon, c, spread * c, alpha)
    reached = np.flatnonzero(delta <= epsilon * (1 + 1e-14))
    if len(reached):
        assert low <= windows[reached[0]] <= high
    assert ratio == pytest.approx(spread ** (1 / alpha))


def test_the_sandwich_is_wide_for_small_exponents():
    low, high, ratio = bounds.sandwich(1e-3, 0.1, 0.2, np.array([0.3, 0.5, 2]))
    assert ratio == pytest.approx([2 ** (1 / 0.3), 4, 2**0.5])
    assert high / low == pytest.approx(ratio, rel=0.1)


def test_bits_of_a_suffix_by_symbols_and_by_its_entropy():
    assert bounds.suffix_bits(10, 2**16) == 160
    # a fair coin followed by copies of it: H(X_1..X_w) is one bit for every w ≥ 1
    assert bounds.coded_suffix_bits(np.arange(4), 0.0, [np.log(2), 0, 0, 0]) == pytest.approx(
        [0, 1, 1, 1]
    )


def test_coded_bits_are_the_entropy_of_the_words_and_no_more_than_the_raw_ones():
    chain = Chain(np.random.default_rng(3))
    words = np.arange(1, 5)
    exact = [entropy(np.log(chain.words(n).ravel())) / np.log(2) for n in words]
    coded = bounds.coded_suffix_bits(words, chain.entropy_rate, chain.sensitivity(5))
    assert coded == pytest.approx(exact, abs=1e-12)
    assert (coded <= bounds.suffix_bits(words, 2)).all()


# --- the identity that everything rests on ----------------------------------------------------


def compensation(seed, leak=0.0):
    """Both sides of E KL(P_F‖Q(M,S)) = I(X;F|M,S) + E KL(P*‖Q) for random finite laws.

    With `leak` > 0 the memory's randomisation depends on X itself, which the identity forbids.
    """
    rng = np.random.default_rng(seed)
    f, x, ms = rng.integers(2, 7), rng.integers(2, 6), rng.integers(1, 9)
    p_f, p_x = random_laws(rng, f), random_laws(rng, f, x)
    memory = random_laws(rng, f, 1, ms) * (1 - leak) + leak * random_laws(rng, f, x, ms)
    q = random_laws(rng, ms, x)
    joint = p_f[:, None, None] * p_x[:, :, None] * memory  # f, x, ms
    fm, xm = joint.sum(axis=1), joint.sum(axis=0).T
    best = xm / xm.sum(axis=1, keepdims=True)
    left = expected_kl(fm, np.log(p_x)[:, None], np.log(q))
    bayes = (xm.sum(axis=1) * entropy(np.log(best))).sum() - (p_f * entropy(np.log(p_x))).sum()
    return left, bayes + expected_kl(xm.sum(axis=1), np.log(best), np.log(q))


@laws_hold
@given(seeds)
def test_distortion_is_bayes_risk_plus_distance_from_the_bayes_decoder(seed):
    left, right = compensation(seed)
    assert left == pytest.approx(right, abs=1e-11)


def test_the_identity_fails_when_the_memory_has_seen_the_next_token():
    gaps = [abs(np.subtract(*compensation(seed, leak=0.5))) for seed in range(20)]
    assert np.median(gaps) > 1e-3


def reencoding(seed, length=4):
    """Δ and D of every window against all `length` tokens, for a random law of binary words and
    a random model that answers from a suffix. Each (length + 1,)."""
    rng = np.random.default_rng(seed)
    words = random_laws(rng, 2 ** (length + 1)).reshape((2,) * (length + 1))
    whole = words / words.sum(axis=-1, keepdims=True)
    context = words.sum(axis=-1)
    delta, d, distance = [], [], []
    for w in range(length + 1):
        seen = words.sum(axis=tuple(range(length - w)))
        best = seen / seen.sum(axis=-1, keepdims=True)
        model = random_laws(rng, *best.shape)
        delta.append(expected_kl(context, np.log(whole), np.log(best)))
        d.append(expected_kl(context, np.log(whole), np.log(model)))
        distance.append(expected_kl(seen.sum(axis=-1), np.log(best), np.log(model)))
    return np.array(delta), np.array(d), np.array(distance)


@few
@given(seeds)
def test_a_models_reencoding_costs_the_sensitivity_plus_its_own_error(seed):
    delta, d, distance = reencoding(seed)
    assert d == pytest.approx(delta + distance, abs=1e-11)
    assert (d >= delta - 1e-12).all()
    assert (np.diff(delta) <= 1e-12).all()


def test_reencoding_need_not_fall_with_the_window_while_sensitivity_does():
    delta, d, _ = reencoding(0)
    assert (np.diff(d) > 0).any()
    assert (np.diff(delta) <= 0).all()


# --- total variation and Pinsker --------------------------------------------------------------


@laws_hold
@given(seeds)
def test_pinsker_and_its_two_reverses_hold_for_averages_over_contexts(seed):
    rng = np.random.default_rng(seed)
    weights, size = random_laws(rng, 5), rng.integers(2, 9)
    p, q = (random_laws(rng, 5, size, concentration=rng.uniform(0.3, 5)) for _ in range(2))
    q = q + p * 10.0 ** rng.uniform(-3, 6)
    q /= q.sum(axis=-1, keepdims=True)
    kls, tvs = kl_divergence(np.log(p), np.log(q)), total_variation(np.log(p), np.log(q))
    kl, tv = weights @ kls, weights @ tvs
    assert tv <= bounds.tv_upper(kl) + 1e-12
    assert kl >= bounds.kl_lower(tv) - 1e-12
    assert kl <= bounds.kl_upper(tv, np.abs(np.log(p / q)).max() + 1e-12) + 1e-12
    assert (kls <= bounds.kl_upper_local(tvs, q.min(axis=-1)) + 1e-12).all()


def test_pinsker_is_sharp_for_nearly_equal_coins():
    h = 1e-4
    p, q = np.log([0.5 + h, 0.5 - h]), np.log([0.5, 0.5])
    assert total_variation(p, q) == pytest.approx(bounds.tv_upper(kl_divergence(p, q)), rel=1e-6)


@laws_hold
@given(st.floats(0.01, 0.9), prefactors, st.floats(0.5, 3))
def test_a_window_for_total_variation_meets_it_by_pinsker(delta, c, alpha):
    w = bounds.window_for_tv(delta, c, alpha)
    assert bounds.tv_upper(bounds.distortion_at(w, c, alpha)) <= delta * (1 + 1e-12)


def test_windows_for_total_variation_grow_with_twice_the_inverse_exponent():
    w = bounds.window_for_tv(np.array([1e-2, 1e-3]), 1.0, 1.0)
    assert w[1] / w[0] == pytest.approx(10 ** (2 / 1.0), rel=1e-3)


@few
@given(st.floats(0, 1.5), st.floats(0.2, 1.5))
def test_two_exponents_are_recovered_from_rare_and_small_changes(phi, sigma):
    # a fraction w^-φ of positions moves a fair coin by w^-σ/4, the others not at all
    windows = np.array([1e3, 1e5])
    moved = windows**-sigma / 4
    p, q = (np.log(np.stack([0.5 + s * moved, 0.5 - s * moved], -1)) for s in (1, 0))
    share = windows**-phi
    slope = [
        -np.diff(np.log(share * value))[0] / np.diff(np.log(windows))[0]
        for value in (kl_divergence(p, q), total_variation(p, q))
    ]
    found = bounds.two_exponents(*slope)
    assert found.phi == pytest.approx(phi, abs=5e-3)
    assert found.sigma == pytest.approx(sigma, abs=5e-3)
    assert found.rho == pytest.approx((phi + 2 * sigma) / (phi + sigma), abs=2e-2)


def test_two_exponents_mislead_where_probabilities_vanish():
    # a renewal source: both exponents are θ, so the reading is φ = θ, σ = 0; the changed share is
    # really w^-(θ-1), and there predictions of size 1/w change by as much
    assert bounds.two_exponents(1.5, 1.5)[:2] == (1.5, 0.0)


def test_a_ratio_of_1_9_means_that_a_tenth_of_the_tv_exponent_is_rarity():
    alpha_tv = np.array([0.3, 1.0])
    assert bounds.two_exponents(1.9 * alpha_tv, alpha_tv).phi == pytest.approx([0.03, 0.1])


# --- what fails without two-sidedness ---------------------------------------------------------


def test_a_misspecified_reencoder_shows_a_power_law_where_one_token_suffices():
    # an order-1 chain, and a predictor that mixes in w^(-α/2) of the uniform law
    alpha, stay = 0.8, np.array([[0.9, 0.1], [0.3, 0.7]])
    stationary = np.array([0.75, 0.25])
    windows = 2.0 ** np.arange(10, 31, 4)
    d = [
        expected_kl(stationary, np.log(stay), np.log((1 - eta) * stay + eta / 2))
        for eta in windows ** (-alpha / 2)
    ]
    slopes = -np.diff(np.log(d)) / np.diff(np.log(windows))
    assert slopes[-1] == pytest.approx(alpha, rel=5e-3)
    # its lower law, taken for Δ, asks for many tokens; the Bayes decoder needs one
    c = min(d * windows**alpha)
    assert bounds.converse_window(1e-4, c, alpha) > 100
    assert bounds.recurrent_converse(1e-4, [0.1, 0.0, 0.0]) == pytest.approx(0.1 - 1e-4)


def lacunary(windows, alpha=1.0, c=1.0):
    """Δ(w) = C k_j^-α on k_{j-1} ≤ w < k_j, with k_j = 2^(2^j)."""
    jumps = np.array([2.0 ** (2**j) for j in range(6)])
    return c * jumps[np.searchsorted(jumps, windows, side="right")] ** -alpha


def test_a_lacunary_source_obeys_the_upper_law_but_needs_only_the_root_of_its_window():
    windows = np.arange(1, 70000)
    for alpha in (0.5, 1.0):
        delta = lacunary(windows, alpha)
        assert (delta <= bounds.distortion_at(windows, 1.0, alpha)).all()
        orders = []
        for j in (2, 3, 4):
            k = 2.0 ** (2**j)
            for epsilon in (k**-alpha, k**-alpha * (1 - 1e-9)):
                need = windows[np.flatnonzero(delta <= epsilon)[0]] if epsilon else 0
                orders.append(np.log(need) / np.log(1 / epsilon))
                assert need <= bounds.window_for(epsilon, 1.0, alpha)
        # at ε = k_j^-α the order is 1/(2α), just below it 1/α
        assert orders[::2] == pytest.approx([1 / (2 * alpha)] * 3)
        assert orders[1::2] == pytest.approx([1 / alpha] * 3)


def test_a_lower_law_is_refuted_by_the_lacunary_source():
    # the converse would ask for a window of 256, half of its logarithm suffices
    k = 256
    assert lacunary(np.array([16]))[0] == 1 / k
    assert bounds.converse_window(1 / k, 1.0, 1.0) == k > 16


def test_a_geometric_source_obeys_every_power_law_with_a_constant_that_depends_on_it():
    windows = np.arange(1, 400)
    for alpha in (0.5, 2.0, 8.0):
        c = (0.8**windows * windows**alpha).max()
        assert (0.8**windows <= bounds.distortion_at(windows, c, alpha) * (1 + 1e-12)).all()


# --- recurrent policies -----------------------------------------------------------------------


class Chain:
    """A stationary binary chain of order 2, random or given by P(next = 1 | last two)."""

    def __init__(self, rng=None, ones=None):
        ones = rng.beta(0.4, 0.4, (2, 2)) * 0.98 + 0.01 if ones is None else np.array(ones)
        self.law = np.stack([1 - ones, ones], axis=-1)
        self.pairs = stationary(self._step(np.zeros((2, 1), dtype=int)), 4).reshape(2, 2)

    def _step(self, f):
        """Transition matrix of (two tokens ago, last token, memory) under m' = f[x, m]."""
        m = f.shape[1]
        step = np.zeros((2, 2, m, 2, 2, m))
        for a, b, x, k in itertools.product(range(2), range(2), range(2), range(m)):
            step[a, b, k, b, x, f[x, k]] += self.law[a, b, x]
        return step.reshape(4 * m, 4 * m)

    @property
    def entropy_rate(self):
        return float((self.pairs * entropy(np.log(self.law))).sum())

    def words(self, n):
        """The law of n tokens in a row, shape (2,) * n."""
        words = self.pairs
        for _ in range(n - 2):
            words = words[..., None] * self.law
        return words if n > 1 else self.pairs.sum(axis=1)

    def sensitivity(self, n):
        h = [entropy(np.log(self.words(k).ravel())) for k in range(1, n + 1)]
        return np.maximum(np.diff([0.0, *h]) - self.entropy_rate, 0)

    def automaton(self, f):
        """H(M) and the distortion of the Bayes decoder that sees M alone, for m' = f[x, m]."""
        m = f.shape[1]
        joint = stationary(self._step(f), 4 * m).reshape(2, 2, m)
        memory = joint.sum(axis=(0, 1))
        used = memory > 1e-14
        seen = np.einsum("abm,abx->mx", joint, self.law)[used] / memory[used, None]
        memory = memory[used] / memory[used].sum()
        uncertainty = memory @ entropy(np.log(seen))
        return entropy(np.log(memory)), max(uncertainty - self.entropy_rate, 0.0)


def stationary(step, size):
    """A stationary law of a transition matrix: the mean over a long run, from the uniform law."""
    lazy = np.linalg.matrix_power((step + np.eye(size)) / 2, 2**16)
    law = np.full(size, 1 / size) @ lazy
    return law / law.sum()


def random_automata(count, seed=0):
    """(H(M), bound) of random deterministic automata on random chains, memory of 2 to 5 states."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        chain, m = Chain(rng), rng.integers(2, 6)
        memory, epsilon = chain.automaton(rng.integers(0, m, (2, m)))
        yield memory, bounds.recurrent_converse(epsilon, chain.sensitivity(6)), chain, epsilon


def test_none_of_200_random_automata_holds_less_than_the_recurrent_converse():
    shares = []
    for memory, bound, _, _ in random_automata(200):
        assert memory >= bound - 1e-9
        shares.append(bound / max(memory, 1e-12))
    assert 0.8 < max(shares) <= 1 + 1e-9  # the bound comes close to what some of them hold


def test_the_recurrent_converse_is_reached_by_a_nearly_periodic_chain():
    # tokens that alternate but for 1 in 2000: one bit of memory, and the bound is close to it
    chain = Chain(ones=[[0.9995, 0.0005], [0.9995, 0.0005]])
    memory, epsilon = chain.automaton(np.array([[0, 0], [1, 1]]))  # M = the last token
    assert epsilon == pytest.approx(0, abs=1e-12)
    bound = bounds.recurrent_converse(epsilon, chain.sensitivity(6))
    assert memory == pytest.approx(np.log(2))
    assert 0.99 * memory < bound <= memory


def test_a_decoder_that_also_sees_the_token_escapes_and_the_scope_says_by_how_much():
    # order-1 chain, constant memory, decoder sees X_t: zero distortion at H(M) = 0
    chain = Chain(ones=[[0.9, 0.1], [0.9, 0.1]])
    delta = chain.sensitivity(6)
    assert bounds.recurrent_converse(0.0, delta) > 0.1  # would contradict H(M) = 0
    assert bounds.recurrent_converse(0.0, delta, seen_alphabet=2) == 0


def test_a_cut_sensitivity_array_still_gives_a_lower_bound():
    delta = 0.3 * np.arange(1, 2000) ** -0.7
    cuts = [bounds.recurrent_converse(1e-3, delta[:n]) for n in (1, 10, 100, 1999)]
    assert (np.diff(cuts) >= 0).all()
    assert bounds.recurrent_converse(1e-3, delta) <= bounds.recurrent_converse_power(1e-3, 0.3, 0.7)


def test_the_recurrent_converse_is_the_sum_of_positive_parts():
    rng = np.random.default_rng(0)
    delta = np.sort(rng.exponential(size=50))[::-1]
    epsilon = np.array([[0.0, 0.1], [1.0, 10.0]])
    expected = np.maximum(delta - epsilon[..., None], 0).sum(axis=-1)
    assert bounds.recurrent_converse(epsilon, delta) == pytest.approx(expected, abs=1e-12)


@few
@given(st.integers(0, 3000), st.floats(0.05, 6))
@example(16, 1.0)
@example(17, 1.0)
def test_power_sums_agree_with_adding_up(n, alpha):
    direct = (np.arange(1, n + 1) ** -alpha).sum()
    assert bounds.power_sum(n, alpha) == pytest.approx(direct, rel=1e-13, abs=1e-13)


@pytest.mark.parametrize("alpha", [0.3, 0.5, 1.0, 1.5, 2.5])
def test_power_sums_of_many_terms_agree_with_hurwitz_zeta(alpha):
    n = 10**12
    with mpmath.workdps(30):
        if alpha == 1:
            exact = mpmath.harmonic(n)
        else:
            exact = mpmath.zeta(alpha) - mpmath.zeta(alpha, n + 1)
    assert bounds.power_sum(n, alpha) == pytest.approx(float(exact), rel=1e-13)


@pytest.mark.parametrize("alpha", [0.4, 0.5, 0.8, 1.0, 1.3, 2.0])
def test_the_closed_form_of_the_recurrent_converse_agrees_with_the_sum(alpha):
    c, epsilon = 0.3, np.array([1e-2, 1e-3])
    delta = c * np.arange(1.0, 2 * 10**6) ** -alpha
    exact = bounds.recurrent_converse(epsilon, delta)
    assert bounds.recurrent_converse_power(epsilon, c, alpha) == pytest.approx(exact, rel=1e-9)
    miss = np.abs(bounds.recurrent_converse_limit(epsilon, c, alpha) - exact)
    assert (miss <= epsilon).all()  # O(ε)


def test_the_zeta_forms_have_their_textbook_values():
    epsilon, c = 1e-4, 0.2
    root = 0.5 / 0.5 * c**2 * epsilon**-1 + c * special.zeta(0.5)
    assert bounds.recurrent_converse_limit(epsilon, c, 0.5) == pytest.approx(root, rel=1e-12)
    log = c * (np.log(c / epsilon) + np.euler_gamma - 1)
    assert bounds.recurrent_converse_limit(epsilon, c, 1.0) == pytest.approx(log, rel=1e-12)
    assert bounds.recurrent_converse_limit(1e-30, c, 2.0) == pytest.approx(c * np.pi**2 / 6)


@pytest.mark.parametrize("step", [1e-9, 1e-6, 0.9e-5, 1.1e-5, 1e-4])
def test_the_zeta_form_passes_smoothly_through_exponent_one(step):
    middle = bounds.recurrent_converse_limit(1e-3, 0.2, 1.0)
    sides = bounds.recurrent_converse_limit(1e-3, 0.2, np.array([1 - step, 1 + step]))
    assert np.abs(sides - middle).max() < 10 * step
    assert sides.mean() == pytest.approx(middle, abs=20 * step**2 + 1e-11)


def test_the_leading_term_alone_is_no_lower_bound():
    c, epsilon, alpha = 0.3, 1e-3, 0.5
    leading = alpha / (1 - alpha) * c ** (1 / alpha) * epsilon ** (1 - 1 / alpha)
    assert leading > bounds.recurrent_converse_power(epsilon, c, alpha) + 0.4


@pytest.mark.parametrize("alpha", [0.3, 0.5, 0.8])
def test_recurrent_memory_is_of_the_order_of_epsilon_times_the_suffix_window(alpha):
    epsilon = 1e-7 if alpha > 0.4 else 1e-4
    window = bounds.window_for(epsilon, 1.0, alpha)
    ratio = bounds.recurrent_converse_power(epsilon, 1.0, alpha) / (epsilon * window)
    assert ratio == pytest.approx(alpha / (1 - alpha), rel=0.05)


# --- checks that can fail ---------------------------------------------------------------------


def test_the_automata_would_catch_a_converse_without_its_epsilon():
    broken = [
        memory < bounds.recurrent_converse(0.0, chain.sensitivity(6)) - 1e-9
        for memory, _, chain, _ in random_automata(100)
    ]
    assert any(broken)


# --- bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bounds.window_for(0, 1, 1), "epsilon: expected positive and finite, got 0"),
        (lambda: bounds.window_for(-0.1, 1, 1), "epsilon: .*got -0.1"),
        (lambda: bounds.window_for([0.1, np.nan], 1, 1), "epsilon: .*got nan"),
        (lambda: bounds.window_for(0.1, 1, -0.5), "exponent: .*got -0.5"),
        (lambda: bounds.window_for(0.1, 0, 1), "prefactor: .*got 0"),
        (lambda: bounds.window_for(0.1, 1, 1, shift=2), "shift: expected 0 or 1, got 2"),
        (lambda: bounds.window_for(1e-6, 1, 0.1), r"window: expected at most 2\^53, got .*10\^60"),
        (lambda: bounds.distortion_at(0, 1, 1), "window: expected at least 1, got 0"),
        (lambda: bounds.converse_window(0.1, 1, 0), "exponent: .*got 0"),
        (lambda: bounds.sandwich(0.1, 2, 1, 1), "prefactor_low: expected at most"),
        (lambda: bounds.recurrent_converse(-1, [1.0]), "epsilon: expected at least 0, got -1"),
        (lambda: bounds.recurrent_converse(0.1, [1.0, 2.0]), "non-increasing, got 2 at window 1"),
        (lambda: bounds.recurrent_converse(0.1, [1.0, -2.0]), "values ≥ 0, got .*-2"),
        (lambda: bounds.recurrent_converse(0.1, [[1.0]]), r"shape \(windows,\), got \(1, 1\)"),
        (lambda: bounds.recurrent_converse_power(0.1, 1, 0), "exponent: .*got 0"),
        (lambda: bounds.tv_upper(-1), "kl_nats: .*got -1"),
        (lambda: bounds.kl_lower(1.5), r"tv: expected \[0, 1\], got 1.5"),
        (lambda: bounds.kl_upper_local(0.5, 0), r"q_min: expected in \(0, 1\), got 0"),
        (lambda: bounds.two_exponents(0, 1), "alpha_kl: .*got 0"),
        (lambda: bounds.suffix_bits(-1, 2), "window: expected at least 0, got -1"),
        (lambda: bounds.coded_suffix_bits(3, 0.5, [1.0]), "window: expected integers from 0 to 1"),
    ],
)
def test_bad_input_raises_with_what_was_expected_and_what_came(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
