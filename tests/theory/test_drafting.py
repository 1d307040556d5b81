"""Drafting: the rule writes the full model's law, and the closed forms are those of brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvlib.measure.divergences import total_variation
from kvlib.theory import drafting

# Derandomised and seeded: a false alarm has probability zero.
laws_hold = settings(deadline=None, derandomize=True, max_examples=60)
seeds = st.integers(0, 2**32 - 1)
shares = st.floats(0, 1)
LOAD = {"weights": 269e6, "token_bytes": 23_040}


def two_laws(seed: int, symbols: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """p and q with some zeros, at different places."""
    rng = np.random.default_rng(seed)
    laws = rng.gamma(0.5, size=(2, symbols)) * (rng.random((2, symbols)) < 0.8)
    laws[:, 0] += 0.01
    return tuple(laws / laws.sum(axis=1, keepdims=True))


# --- the rule -----------------------------------------------------------------------------------


@laws_hold
@given(seeds)
def test_the_rule_writes_the_law_of_the_full_model(seed):
    p, q = two_laws(seed)
    np.testing.assert_allclose(drafting.output_law(p, q), p, atol=1e-14)


def test_any_other_law_behind_a_rejection_would_be_noticed():
    p, q = two_laws(0)
    wrong = np.minimum(p, q) + (1 - drafting.acceptance(p, q)) * p
    assert np.abs(wrong - p).max() > 0.01


@laws_hold
@given(seeds)
def test_the_acceptance_is_one_less_the_total_variation(seed):
    p, q = two_laws(seed)
    with np.errstate(divide="ignore"):
        tv = total_variation(np.log(p), np.log(q))
    assert drafting.acceptance(p, q) == pytest.approx(1 - tv, abs=1e-14)


@laws_hold
@given(seeds)
def test_the_acceptance_is_the_mean_chance_of_a_drafted_token(seed):
    p, q = two_laws(seed)
    mean = sum(q[x] * drafting.kept_chance(p, q, x) for x in np.flatnonzero(q))
    assert drafting.acceptance(p, q) == pytest.approx(mean, abs=1e-14)


def test_by_hand():
    p, q = np.array([0.5, 0.5, 0.0]), np.array([0.8, 0.1, 0.1])
    assert drafting.acceptance(p, q) == pytest.approx(0.6)
    assert [drafting.kept_chance(p, q, x) for x in range(3)] == [0.625, 1, 0]
    np.testing.assert_allclose(drafting.residual(p, q), [0, 1, 0])
    np.testing.assert_allclose(drafting.residual(p, p), p)  # nothing is rejected there


def test_a_token_that_is_never_drafted_has_no_chance():
    with pytest.raises(ValueError, match="token: expected one that q can draw, got 1 with q = 0"):
        drafting.kept_chance([0.5, 0.5], [1.0, 0.0], 1)


# --- tokens a round -----------------------------------------------------------------------------


@laws_hold
@given(shares, st.integers(0, 7))
def test_tokens_a_round_are_those_of_all_fates_of_a_draft(beta, draft):
    total = 0.0
    for fate in itertools.product([True, False], repeat=draft):
        chance = np.prod([beta if kept else 1 - beta for kept in fate])
        total += chance * (1 + sum(itertools.takewhile(bool, fate)))
    assert drafting.tokens_a_round(beta, draft) == pytest.approx(total, abs=1e-12)


def test_tokens_a_round_at_both_ends():
    assert drafting.tokens_a_round([0.0, 1.0], 4).tolist() == [1, 5]
    assert drafting.tokens_a_round(0.5, 0) == 1
    with pytest.raises(ValueError, match="beta: expected .0, 1., got 1.1"):
        drafting.tokens_a_round(1.1, 4)


def test_tokens_a_round_are_those_of_a_simulation():
    rng = np.random.default_rng(0)
    kept = np.cumprod(rng.random((200_000, 5)) < 0.8, axis=1).sum(axis=1)
    assert drafting.tokens_a_round(0.8, 5) == pytest.approx(1 + kept.mean(), abs=0.02)


@laws_hold
@given(shares, st.integers(1, 6))
def test_equal_chances_are_the_independent_formula(beta, draft):
    along = drafting.tokens_along(np.full((3, draft), beta))
    np.testing.assert_allclose(along, drafting.tokens_a_round(beta, draft), atol=1e-12)


@laws_hold
@given(st.lists(shares, min_size=1, max_size=20), st.integers(1, 6))
def test_rounds_that_are_good_or_bad_as_a_whole_yield_more_than_their_mean_chance(chances, draft):
    rounds = np.repeat(np.array(chances)[:, None], draft, axis=1)
    independent = drafting.tokens_a_round(np.clip(np.mean(chances), 0, 1), draft)
    assert drafting.tokens_along(rounds).mean() >= independent - 1e-9


def test_places_that_repel_each_other_yield_less():
    """The inequality is one of good company, not a theorem of any chances."""
    rounds = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert drafting.tokens_along(rounds).mean() == 1.5
    assert drafting.tokens_a_round(0.5, 2) == 1.75


# --- bytes and time -----------------------------------------------------------------------------


def test_bytes_by_hand():
    assert drafting.step_bytes(100, 2, 3, 5) == 130
    assert drafting.round_bytes(4, 5, 50, 3, 100, 2) == 4 * 130 + 400
    assert drafting.speed_up(3, 4, 5, 50, 3, 100, 2) == pytest.approx(3 * 400 / 920)


def test_the_speed_up_goes_to_the_tokens_a_round_and_to_their_share_of_a_round():
    last = [drafting.speed_up(3.0, 4, 64, 1e6, b, **LOAD) for b in (1e6, 1e-9)]
    assert last == pytest.approx([3.0, 3.0 / 5], rel=1e-3)


@pytest.mark.parametrize("beta", [0.3, 0.7, 0.95])
@pytest.mark.parametrize("draft", [1, 5, 12])
@pytest.mark.parametrize("sequences", [1, 16])
def test_at_the_break_even_nothing_is_won(beta, draft, sequences):
    tokens = drafting.tokens_a_round(beta, draft)
    context = drafting.break_even_context(tokens, draft, 64, sequences, **LOAD)
    assert drafting.speed_up(tokens, draft, 64, context, sequences, **LOAD) == pytest.approx(1)
    assert context >= 64  # a draft from all that is verified wins nothing
    batch = drafting.break_even_sequences(tokens, draft, 64, 2 * context, **LOAD)
    assert drafting.speed_up(tokens, draft, 64, 2 * context, batch, **LOAD) == pytest.approx(1)


def test_without_an_accepted_token_or_with_too_wide_a_window_nothing_breaks_even():
    assert drafting.break_even_context(1.0, 4, 64, 8, **LOAD) == np.inf
    assert drafting.break_even_sequences(2.0, 4, 500, 2000, **LOAD) == np.inf
    assert np.isfinite(drafting.break_even_sequences(2.0, 4, 499, 2000, **LOAD))


@pytest.mark.parametrize("name", ["sequences", "weights", "token_bytes"])
def test_what_is_no_load_is_refused(name):
    load = {"sequences": 1, "held": 5} | LOAD
    with pytest.raises(ValueError, match=f"{name}: expected positive and finite, got 0"):
        drafting.step_bytes(**load | {name: 0})
