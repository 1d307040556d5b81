"""Divergences: hand values, theorems, and the fast float32 route against the float64 one."""

from __future__ import annotations

from types import SimpleNamespace

import hypothesis.extra.numpy as hnp
import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvlib.measure.divergences import entropy, jensen_shannon, kl_divergence, total_variation

# Hypothesis draws the same examples on every run; the laws hold for all inputs, so a false alarm
# has probability zero.
laws_hold = settings(deadline=None, derandomize=True, max_examples=200)


def log_law(logits: np.ndarray) -> np.ndarray:
    logits = np.asarray(logits, dtype=np.float64)
    top = logits.max(axis=-1, keepdims=True)
    return logits - top - np.log(np.exp(logits - top).sum(axis=-1, keepdims=True))


def pairs_of_laws() -> st.SearchStrategy[tuple[np.ndarray, np.ndarray]]:
    """Two laws on the same 1 to 40 symbols, from flat to ones with entries of e^-120."""

    def two(n: int) -> st.SearchStrategy[tuple[np.ndarray, np.ndarray]]:
        law = hnp.arrays(np.float64, n, elements=st.floats(-60, 60)).map(log_law)
        return st.tuples(law, law)

    return st.integers(1, 40).flatmap(two)


def log(*probabilities: float) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log(np.array(probabilities))


# --- hand values ------------------------------------------------------------------------------


def test_kl_of_two_coins_has_its_hand_value():
    expected = 0.5 * np.log(0.5 / 0.9) + 0.5 * np.log(0.5 / 0.1)
    assert kl_divergence(log(0.5, 0.5), log(0.9, 0.1)) == pytest.approx(expected, rel=1e-14)


def test_kl_counts_a_symbol_that_only_q_has_exactly_once():
    # Σ p log(p/q) = log(1/0.75): the symbol with p = 0 enters through the mass that q spends on it
    assert kl_divergence(log(1.0, 0.0), log(0.75, 0.25)) == pytest.approx(-np.log(0.75), rel=1e-14)


def test_kl_is_infinite_when_support_is_missing():
    assert kl_divergence(log(0.5, 0.5), log(1.0, 0.0)) == np.inf


def test_a_vocabulary_that_is_filled_up_with_tokens_that_cannot_come_changes_nothing():
    p, q = log(0.5, 0.3, 0.2), log(0.1, 0.3, 0.6)
    wide = [np.append(law, np.full(61, -np.inf)) for law in (p, q)]
    for divergence in (kl_divergence, total_variation, jensen_shannon):
        assert divergence(*wide) == pytest.approx(divergence(p, q), rel=1e-14)
    assert entropy(wide[0]) == pytest.approx(entropy(p), rel=1e-14)


def test_kl_holds_where_the_ratio_of_the_laws_overflows():
    log_p = np.array([np.log1p(-np.exp(-800)), -800.0])
    assert kl_divergence(log_p, log(0.5, 0.5)) == pytest.approx(np.log(2), rel=1e-14)
    assert kl_divergence(log(0.5, 0.5), log_p) == pytest.approx(400 - np.log(2), rel=1e-14)


def test_total_variation_of_two_coins_is_the_difference_of_their_biases():
    assert total_variation(log(0.5, 0.5), log(0.9, 0.1)) == pytest.approx(0.4, rel=1e-14)


def test_disjoint_laws_are_as_far_apart_as_can_be():
    left, right = log(0.5, 0.5, 0.0, 0.0), log(0.0, 0.0, 0.25, 0.75)
    assert total_variation(left, right) == pytest.approx(1, rel=1e-14)
    assert jensen_shannon(left, right) == pytest.approx(np.log(2), rel=1e-14)
    assert kl_divergence(left, right) == np.inf


@pytest.mark.parametrize("n", [1, 2, 7, 49_152])
def test_entropy_of_the_uniform_law_is_log_n(n):
    assert entropy(np.full(n, -np.log(n))) == pytest.approx(np.log(n), rel=1e-12, abs=1e-15)


def test_entropy_of_a_certain_symbol_is_zero():
    assert entropy(log(0.0, 1.0, 0.0)) == 0


# --- theorems ---------------------------------------------------------------------------------


@given(pairs_of_laws())
@laws_hold
def test_kl_is_never_negative(laws):
    assert kl_divergence(*laws) >= 0


@given(pairs_of_laws())
@laws_hold
def test_pinsker_bounds_total_variation(laws):
    assert total_variation(*laws) <= np.sqrt(kl_divergence(*laws) / 2) + 1e-12


@given(pairs_of_laws())
@laws_hold
def test_total_variation_and_jensen_shannon_are_symmetric(laws):
    p, q = laws
    assert total_variation(p, q) == total_variation(q, p)
    assert jensen_shannon(p, q) == pytest.approx(jensen_shannon(q, p), rel=1e-12, abs=1e-15)


@given(pairs_of_laws())
@laws_hold
def test_jensen_shannon_is_at_most_log_two_and_total_variation_at_most_one(laws):
    assert 0 <= jensen_shannon(*laws) <= np.log(2) + 1e-12
    assert 0 <= total_variation(*laws) <= 1 + 1e-12


@given(pairs_of_laws())
@laws_hold
def test_every_divergence_of_a_law_from_itself_vanishes(laws):
    p, _ = laws
    assert kl_divergence(p, p) == 0
    assert total_variation(p, p) == 0
    assert 0 <= jensen_shannon(p, p) < 1e-15


@given(pairs_of_laws())
@laws_hold
def test_entropy_lies_between_zero_and_log_n(laws):
    p, _ = laws
    assert -1e-12 <= entropy(p) <= np.log(len(p)) + 1e-12


# --- limit: p ≈ q over a real vocabulary --------------------------------------------------------


@pytest.fixture(scope="module")
def neighbours() -> tuple[np.ndarray, np.ndarray, float]:
    """Two laws on 50,000 symbols with KL ≈ 1e-9, and that KL with 40 digits. Seeded: no luck."""
    rng = np.random.default_rng(0)
    a = 3 * rng.standard_normal(50_000)
    b = a + 4.5e-5 * rng.standard_normal(50_000)
    with mpmath.workdps(40):
        exp_a, exp_b = [mpmath.exp(x) for x in a], [mpmath.exp(x) for x in b]
        mass_a, mass_b = mpmath.fsum(exp_a), mpmath.fsum(exp_b)
        mean_log_ratio = (
            mpmath.fsum(
                e * (mpmath.mpf(x) - mpmath.mpf(y)) for e, x, y in zip(exp_a, a, b, strict=True)
            )
            / mass_a
        )
        exact = float(mean_log_ratio - mpmath.log(mass_a) + mpmath.log(mass_b))
    return log_law(a), log_law(b), exact


def test_kl_of_near_equal_laws_is_right_to_a_millionth(neighbours):
    log_p, log_q, exact = neighbours
    assert 5e-10 < exact < 2e-9
    assert kl_divergence(log_p, log_q) == pytest.approx(exact, rel=1e-6)


def test_the_accuracy_check_fails_for_the_textbook_sum_in_float32(neighbours):
    log_p, log_q, exact = neighbours
    p32, q32 = log_p.astype(np.float32), log_q.astype(np.float32)
    textbook = float((np.exp(p32) * p32).sum() - (np.exp(p32) * q32).sum())
    assert textbook != pytest.approx(exact, rel=0.5)


# --- shapes and bad input ---------------------------------------------------------------------


def test_leading_axes_are_batches():
    rng = np.random.default_rng(1)
    p, q = log_law(rng.standard_normal((2, 3, 11))), log_law(rng.standard_normal((2, 3, 11)))
    for divergence in (kl_divergence, total_variation, jensen_shannon):
        each = [[divergence(p[i, j], q[i, j]) for j in range(3)] for i in range(2)]
        assert divergence(p, q).shape == (2, 3)
        np.testing.assert_allclose(divergence(p, q), each, rtol=1e-12)
    np.testing.assert_allclose(entropy(p)[1, 2], entropy(p[1, 2]), rtol=1e-12)


TWO_PLACE = [kl_divergence, total_variation, jensen_shannon]


@pytest.mark.parametrize("divergence", TWO_PLACE)
def test_laws_on_different_alphabets_are_refused(divergence):
    with pytest.raises(ValueError, match=r"expected one shape .* got \(2,\) and \(3,\)"):
        divergence(log(0.5, 0.5), log(0.5, 0.25, 0.25))


@pytest.mark.parametrize("divergence", TWO_PLACE)
def test_a_law_without_a_vocabulary_axis_is_refused(divergence):
    with pytest.raises(ValueError, match="expected one shape"):
        divergence(0.0, 0.0)


@pytest.mark.parametrize("divergence", TWO_PLACE)
@pytest.mark.parametrize("bad", [(0.5, 0.4), (0.5, 0.6)])
def test_mass_that_is_not_one_is_refused_with_its_value(divergence, bad):
    for laws in [(log(*bad), log(0.5, 0.5)), (log(0.5, 0.5), log(*bad))]:
        with pytest.raises(ValueError, match=f"expected mass 1, got {sum(bad):.6g}"):
            divergence(*laws)


@pytest.mark.parametrize("divergence", TWO_PLACE)
def test_nan_is_refused_not_skipped(divergence):
    with pytest.raises(ValueError, match="expected mass 1, got nan"):
        divergence([[np.log(0.5), np.nan], log(0.5, 0.5)], [log(0.5, 0.5), log(0.5, 0.5)])


@pytest.mark.parametrize("bad", [log(0.5, 0.4), np.array([0.0, np.nan])])
def test_entropy_refuses_what_is_not_a_law(bad):
    with pytest.raises(ValueError, match="expected mass 1"):
        entropy(bad)


# --- two routes agree: the fast float32 rows of the measurement ---------------------------------


def fast_rows(reference: np.ndarray, logits: np.ndarray, position: np.ndarray):
    """KL and TV by the measurement's own route, with logits in the place of hidden states."""
    import torch

    from kvlib.measure.laws import divergences_of_rows
    from kvlib.models import LanguageModel

    class Head:
        """Hidden states are logits."""

        weight = torch.empty(reference.shape[1], 0)

        def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
            return hidden.clone()

    body = SimpleNamespace(get_output_embeddings=Head)
    lm = LanguageModel(body, None, "logits", torch.device("cpu"), torch.float32, (), "")
    ids = torch.zeros(len(reference), dtype=torch.int64)
    found = divergences_of_rows(
        lm, torch.tensor(reference).float(), torch.tensor(logits).float(), position, ids
    )
    return found.kl, found.tv


def assert_routes_agree(reference: np.ndarray, logits: np.ndarray, position: np.ndarray) -> None:
    # both routes start from the same float32 logits
    reference, logits = reference.astype(np.float32), logits.astype(np.float32)
    log_p, log_q = log_law(reference)[position], log_law(logits)
    kl, tv = fast_rows(reference, logits, position)
    assert (kl >= -1e-6).all()
    np.testing.assert_allclose(kl, kl_divergence(log_p, log_q), rtol=1e-5, atol=1e-6)
    # the mass under the logits carries a rounding of the largest: TV feels it at first order
    ulps = 2 * np.spacing(np.abs(logits).max(initial=1.0, where=logits > -1000))
    np.testing.assert_allclose(tv, total_variation(log_p, log_q), rtol=2e-5, atol=ulps)


@pytest.mark.parametrize("noise", [1e-5, 1e-3, 0.1, 1.0, 5.0])
@pytest.mark.parametrize("scale", [0.5, 3.0, 15.0])
def test_the_fast_rows_agree_with_float64_from_near_equal_to_far_apart(noise, scale):
    # seeded, so always the same numbers; 15 makes the law so peaked that one symbol holds it all
    rng = np.random.default_rng(2)
    reference = scale * rng.standard_normal((5, 30_000)) + 20
    position = np.sort(rng.integers(0, 5, 40))
    logits = reference[position] + noise * rng.standard_normal((40, 30_000))
    assert_routes_agree(reference, logits, position)


def test_the_fast_rows_are_zero_for_equal_laws():
    reference = 5 * np.random.default_rng(3).standard_normal((3, 20_000))
    kl, tv = fast_rows(reference, reference, np.arange(3))
    # float32 numbers near 20, the largest here, lie 1.9e-6 apart: two sums that were added up in
    # another order, as processors do, differ by that or twice that. So does TV; KL by its square
    assert np.abs(kl).max() < 1e-9 and np.abs(tv).max() < 4e-6


@pytest.mark.parametrize("depth", [40, 79, 81, 95, 150, 1000])
def test_the_fast_rows_count_mass_where_the_reference_has_almost_none(depth):
    # the reference gives the second symbol e^-depth, the truncated law gives it one half
    reference = np.full((1, 1000), -2000.0)
    reference[0, :2] = 0, -depth
    logits = np.full((1, 1000), -2000.0)
    logits[0, :2] = 0, 0
    assert_routes_agree(reference, logits, np.array([0]))


def test_the_fast_rows_agree_across_every_boundary_of_their_chunks():
    from kvlib.measure.laws import HEAD_ROWS

    rng = np.random.default_rng(4)
    count = 3 * HEAD_ROWS + 5  # more targets than one block holds, more rows than one chunk
    reference = 4 * rng.standard_normal((count, 50))
    position = np.sort(np.concatenate([np.arange(0, count, 2), rng.integers(0, count, 400)]))
    logits = reference[position] + rng.standard_normal((len(position), 50))
    assert_routes_agree(reference, logits, position)


def test_the_agreement_check_fails_for_rows_scored_against_the_wrong_target():
    rng = np.random.default_rng(5)
    reference = rng.standard_normal((2, 100))
    logits = reference + rng.standard_normal((2, 100))
    right, _ = fast_rows(reference, logits, np.array([0, 1]))
    swapped, _ = fast_rows(reference[::-1].copy(), logits, np.array([0, 1]))
    assert np.abs(right - swapped).min() > 0.1
