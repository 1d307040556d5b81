"""Guarantees hold on planted losses, are as tight as can be, and move the way they must."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom

from kvlib.fit import certify

LEVEL, TOLERANCE = 0.05, 0.1


def rare_ones(rng, shape, mean, base):
    """Losses of `base`, and of 1 as often as makes their mean: the hardest there are."""
    return np.where(rng.random(shape) < (mean - base) / (1 - base), 1.0, base)


def beta_losses(rng, shape, mean, strength):
    return rng.beta(mean * strength, (1 - mean) * strength, shape)


LAWS = {
    "ones": lambda rng, shape, mean: rare_ones(rng, shape, mean, 0.0),
    "rare ones": lambda rng, shape, mean: rare_ones(rng, shape, mean, 0.7 * mean),
    "narrow": lambda rng, shape, mean: beta_losses(rng, shape, mean, 50),
    "wide": lambda rng, shape, mean: beta_losses(rng, shape, mean, 2),
    "constant": lambda rng, shape, mean: np.full(shape, mean),
}


def most(level, tries):
    """More than so many mistakes in so many tries are not of this level: 1 in 10,000."""
    return binom.ppf(1 - 1e-4, tries, level)


def wealth_by_hand(losses, m, bets):
    """The plain twin of the p-value: one stake after the other, one loss after the other."""
    stakes, best = list(bets.weights), 1.0
    for x in losses:
        stakes = [k * (1 + c * (m - x) / (1 - m)) for k, c in zip(stakes, bets.shares, strict=True)]
        best = max(best, sum(stakes))
    return 1 / best


@pytest.mark.parametrize("law", LAWS)
def test_the_p_value_is_that_of_the_plain_twin(law):
    rng = np.random.default_rng(1)
    losses = LAWS[law](rng, 40, 0.05)
    for bets in (certify.even_bets(), certify.bets_of(losses, TOLERANCE)):
        found = certify.p_value(losses, TOLERANCE, bets)
        assert found == pytest.approx(wealth_by_hand(losses, TOLERANCE, bets), rel=1e-9)


@pytest.mark.parametrize("law", LAWS)
def test_a_mean_at_the_tolerance_is_certified_as_seldom_as_promised(law):
    rng, tries = np.random.default_rng(2), 1500
    seen, others = (LAWS[law](rng, (tries, 60), TOLERANCE) for _ in range(2))
    mistakes = sum(
        certify.p_value(x, TOLERANCE, certify.bets_of(y, TOLERANCE)) <= LEVEL
        for x, y in zip(seen, others, strict=True)
    )
    assert mistakes <= most(LEVEL, tries)


def test_losses_that_are_left_out_make_more_mistakes_than_promised():
    rng, tries = np.random.default_rng(3), 1500
    seen = LAWS["rare ones"](rng, (tries, 20), TOLERANCE)
    alone = certify.Bets(np.ones(1), np.ones(1))
    p = [certify.p_value(x[x < 1], TOLERANCE, alone) for x in seen]  # the losses of 1 left out
    assert sum(np.array(p) <= 0.6) > most(0.6, tries)


@pytest.mark.parametrize("law", LAWS)
def test_upper_bounds_hold(law):
    rng, tries = np.random.default_rng(4), 300
    seen, others = (LAWS[law](rng, (tries, 40), 0.2) for _ in range(2))
    bounds = [
        certify.upper_bound(x, 1 - LEVEL, certify.bets_of(y, 0.25))
        for x, y in zip(seen, others, strict=True)
    ]
    assert sum(np.array(bounds) < 0.2 - 1e-9) <= most(LEVEL, tries)


def test_an_upper_bound_is_where_the_p_value_is_the_level():
    losses = LAWS["wide"](np.random.default_rng(5), 50, 0.1)
    bound = certify.upper_bound(losses, 0.9)
    assert certify.p_value(losses, bound) <= 0.1 < certify.p_value(losses, bound - 1e-5)


@pytest.mark.parametrize(("tolerance", "n"), [(0.05, 59), (0.1, 29), (0.5, 5)])
def test_losses_of_zero_need_as_many_documents_as_any_test_does(tolerance, n):
    """(1 - ε)^n ≤ δ: a law of ones as frequent as ε shows none so often."""
    alone = certify.Bets(np.ones(1), np.ones(1))
    assert certify.p_value(np.zeros(n), tolerance, alone) <= LEVEL
    assert certify.p_value(np.zeros(n - 1), tolerance, alone) > LEVEL
    assert certify.documents_needed(np.zeros(9), tolerance, 0.95, alone) == n


def test_betting_needs_fewer_documents_than_hoeffding_and_bentkus():
    def hoeffding_bentkus(losses, m):
        n, mean = len(losses), losses.mean()
        gap = mean * math.log(mean / m) + (1 - mean) * math.log((1 - mean) / (1 - m))
        return min(math.exp(-n * gap), math.e * binom.cdf(math.ceil(n * mean), n, m))

    losses = LAWS["narrow"](np.random.default_rng(6), 60, 0.03)
    ours = certify.p_value(losses, TOLERANCE, certify.bets_of(losses, TOLERANCE))
    assert ours < 0.2 * hoeffding_bentkus(losses, TOLERANCE)


def test_what_must_rise_rises():
    losses = LAWS["wide"](np.random.default_rng(7), 30, 0.1)
    worse = losses.copy()
    worse[3] = min(1.0, worse[3] + 0.3)
    assert certify.p_value(worse, TOLERANCE) >= certify.p_value(losses, TOLERANCE)
    assert certify.upper_bound(worse, 0.95) > certify.upper_bound(losses, 0.95)
    assert certify.upper_bound(losses, 0.99) > certify.upper_bound(losses, 0.95)
    p = [certify.p_value(losses, m) for m in np.linspace(0.05, 0.6, 12)]
    assert (np.diff(p) <= 0).all() and p[0] > p[-1]


def test_a_loss_of_one_ends_no_test():
    losses = np.r_[1.0, np.zeros(300)]
    assert certify.p_value(losses, TOLERANCE, certify.bets_of(np.zeros(20), TOLERANCE)) < LEVEL
    assert certify.upper_bound(np.ones(5), 0.95) == pytest.approx(1)


# --- several budgets ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("p", "count"),
    [([0.01, 0.05, 0.2, 0.01], 2), ([0.2, 0.01], 0), ([0.01, 0.01], 2), ([], 0)],
)
def test_a_fixed_order_ends_at_the_first_failure(p, count):
    assert certify.passed(np.array(p), LEVEL) == count


def planted_budgets(rng, n, means):
    """Losses (n, k) of documents that have more or less of everything, budgets largest first."""
    return np.clip(rng.gamma(2, 0.5, (n, 1)) * np.asarray(means), 0, 1)


def test_no_budget_of_several_is_certified_wrongly_more_often_than_promised():
    rng, tries = np.random.default_rng(8), 400
    means = [0.02, 0.05, TOLERANCE, 0.105, 0.11]
    truth = planted_budgets(np.random.default_rng(0), 400_000, means).mean(axis=0)
    means = np.array(means) * TOLERANCE / truth[2]  # the third at the tolerance exactly
    mistakes, first = 0, 0
    for _ in range(tries):
        losses, others = (planted_budgets(rng, n, means) for n in (120, 20))
        p = [
            certify.p_value(x, TOLERANCE, certify.bets_of(y, TOLERANCE))
            for x, y in zip(losses.T, others.T, strict=True)
        ]
        count = certify.passed(np.array(p), LEVEL)
        mistakes += count > 2
        first += count >= 2
    assert mistakes <= most(LEVEL, tries)
    assert first > 0.9 * tries  # and what is half of the tolerance is certified


def test_the_next_document_loses_no_more_than_promised():
    rng, tries = np.random.default_rng(9), 3000
    means = np.geomspace(0.01, 0.5, 12)
    lost = []
    for _ in range(tries):
        losses = planted_budgets(rng, 31, means)
        found = certify.conformal(losses[:-1], TOLERANCE)
        lost.append(losses[-1, found.passed - 1] if found.passed else 0.0)
    error = np.std(lost) / math.sqrt(tries)
    assert np.mean(lost) < TOLERANCE + 4 * error
    assert np.mean(lost) > 0.5 * TOLERANCE  # nor much less


def test_a_loss_that_falls_with_the_budget_counts_as_the_worst_above():
    found = certify.conformal(np.array([[0.3, 0.1], [0.0, 0.2]]), 0.6)
    assert found.bounds == pytest.approx([(0.3 + 1) / 3, (0.3 + 0.2 + 1) / 3])
    assert found.passed == 2
    assert certify.conformal(np.zeros((3, 2)), 0.2).passed == 0  # 1 / 4 is above it


# --- how many would do, shares, and what is refused ---------------------------------------------


def test_as_many_documents_as_are_said_to_do_do():
    rng = np.random.default_rng(10)
    others = LAWS["narrow"](rng, 200, 0.06)
    bets = certify.bets_of(others, TOLERANCE)
    need = certify.documents_needed(others, TOLERANCE, 0.95, bets)
    assert need is not None
    good = sum(
        certify.p_value(LAWS["narrow"](rng, 2 * need, 0.06), TOLERANCE, bets) <= LEVEL
        for _ in range(50)
    )
    assert good > 45
    assert certify.p_value(others[: need // 2], TOLERANCE, bets) > LEVEL
    assert certify.documents_needed(np.full(9, 0.2), TOLERANCE, 0.95) is None


def test_the_bound_of_a_share_is_the_share_that_is_barely_likely():
    for count, n in [(0, 30), (3, 30)]:
        assert binom.cdf(count, n, certify.share_bound(count, n, 0.95)) == pytest.approx(0.05)
    assert certify.share_bound(30, 30, 0.95) == 1


@pytest.mark.parametrize("losses", [[], [-0.1], [1.1], [math.nan]])
def test_losses_that_are_none_are_refused(losses):
    with pytest.raises(ValueError, match="losses: expected some between 0 and 1, got"):
        certify.p_value(np.array(losses), TOLERANCE)


@pytest.mark.parametrize("tolerance", [0, 1, -1, math.nan])
def test_a_tolerance_that_is_none_is_refused(tolerance):
    with pytest.raises(ValueError, match="tolerance: expected more than 0"):
        certify.p_value(np.zeros(3), tolerance)
