"""Guarantees for the mean loss of documents not seen yet, whatever the law of the losses is.

Losses X_1, X_2, … lie in [0, 1], one a document, and documents are exchangeable. Whether their mean
can be above a tolerance ε is asked by betting (Waudby-Smith & Ramdas 2024, arXiv 2010.09686). One
stakes a share c of all that may be staked on "the next loss is below m":

    K_t = Π_{i ≤ t} (1 + c (m - X_i) / (1 - m)),        0 < c ≤ 1.

No factor is negative. Where the mean is m or more each factor has expectation 1 at most, so K is a
supermartingale, and by Ville's inequality K ever reaches 1/δ with probability δ at most: 1 / max K
is a p-value of "the mean is above ε" at m = ε, and the least m that is refused at level δ is an
upper confidence bound. Both stay so for a mixture of several c, fixed before the losses are seen.
Each factor falls in X and rises in m, so p falls in ε, bounds rise in every loss, and bisection
finds them.

Small losses of small spread pay for this: n losses of x need (1 + (ε - x)/(1 - ε))^n = 1/δ, which
no valid test of these hypotheses can better, since a law of x and, with probability
(ε - x)/(1 - x), of 1 is one of them. Hoeffding's and Bentkus's bounds, which look at the mean
alone, need several times as many documents.

Several budgets are tested in a fixed order, the largest first, each at the full level, until one
fails: learn then test (Angelopoulos, Bates, Candès, Jordan & Lei 2021, arXiv 2110.01052). The first
budget whose mean is above ε in truth is passed with probability δ at most, and none behind it is
reached otherwise: δ bounds the chance of any mistake.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp, stdtrit
from scipy.stats import beta

SHARES = np.array([0.1, 0.2, 0.4, 0.6, 0.8, 1.0])  # of what may be staked: bets are of these
TRUST = 0.5  # the weight of the one that other documents recommend; the others share the rest
PRECISION = 1e-6  # to which an upper bound is found


class Bets(NamedTuple):
    """Shares c (k,) of what may be staked, and their weights (k,), which add up to one."""

    shares: np.ndarray
    weights: np.ndarray


def even_bets() -> Bets:
    """All shares alike: where nothing is known."""
    return Bets(SHARES, np.full(len(SHARES), 1 / len(SHARES)))


def bets_of(losses: np.ndarray, tolerance: float) -> Bets:
    """Bets for a test at `tolerance`, from losses (n,) of other documents than it will see.

    The share under which those grow fastest has weight TRUST. A bad choice costs documents, never
    validity.
    """
    growth = _log_factors(_checked(losses), tolerance, SHARES).mean(axis=0)
    weights = np.full(len(SHARES), (1 - TRUST) / (len(SHARES) - 1))
    weights[np.argmax(growth)] = TRUST
    return Bets(SHARES, weights)


def p_value(losses: np.ndarray, tolerance: float, bets: Bets | None = None) -> float:
    """The p-value of "the mean loss is above `tolerance`", from losses (n,) in [0, 1].

    Raises ValueError for losses or a tolerance outside of that, and without any loss.
    """
    return float(np.exp(-max(0.0, _log_wealth(_checked(losses), tolerance, bets).max())))


def upper_bound(losses: np.ndarray, confidence: float, bets: Bets | None = None) -> float:
    """The least m such that "the mean is above m" is refused: an upper confidence bound of the
    mean; 1 where no m below is refused. Raises ValueError as `p_value` does."""
    losses, level = _checked(losses), 1 - _inside("confidence", confidence)
    low, high = 0.0, 1.0
    while high - low > PRECISION:
        middle = (low + high) / 2
        refused = _log_wealth(losses, middle, bets).max() >= -np.log(level)
        low, high = (low, middle) if refused else (middle, high)
    return high


def passed(p_values: np.ndarray, level: float) -> int:
    """Of hypotheses tested in a fixed order, how many are refused before the first that is not."""
    kept = np.asarray(p_values) > level
    return int(np.argmax(kept)) if kept.any() else len(kept)


class Conformal(NamedTuple):
    """How many budgets, the largest first, hold for the next document, and the bounds (k,) of its
    expected loss under each of all of them."""

    passed: int
    bounds: np.ndarray


def conformal(losses: np.ndarray, tolerance: float) -> Conformal:
    """Conformal risk control (Angelopoulos, Bates, Fisch, Lei & Schuster 2024, arXiv 2208.02814).

    Losses (n, k) in [0, 1], a row a document, a column a budget, the largest first. A document's
    loss at a budget is taken to be its largest at that budget or above, so that it never falls as
    the budget does. The last budget with (Σ losses + 1) / (n + 1) ≤ ε has then an expected loss
    of at most ε on the next document, averaged over these n documents too: the 1 stands for the
    worst that the next can be. There is no confidence in it: of the mean of all documents, with
    confidence, `p_value` speaks.
    """
    worst = np.maximum.accumulate(_checked(losses), axis=1)
    bounds = (worst.sum(axis=0) + 1) / (len(worst) + 1)
    return Conformal(int((bounds <= tolerance).sum()), bounds)


def documents_needed(
    losses: np.ndarray, tolerance: float, confidence: float, bets: Bets | None = None
) -> int | None:
    """How many documents with losses like these would certify `tolerance`; None: no number would.

    The mixture grows at least as fast as its best bet: n ≥ (log(1/δ) - log weight) / mean log
    factor. What it takes on average, not for certain.
    """
    shares, weights = bets or even_bets()
    growth = _log_factors(_checked(losses), tolerance, shares).mean(axis=0)
    if growth.max() <= 0:
        return None
    need = -np.log(1 - _inside("confidence", confidence)) - np.log(weights[growth > 0])
    return int(np.ceil((need / growth[growth > 0]).min()))


def t_bound(losses: np.ndarray, confidence: float) -> np.ndarray:
    """Upper bounds (k,) of means over documents (n, k) from a t interval: for proposals, not
    certificates. Infinite for a single document."""
    n = len(losses)
    if n < 2:
        return np.full(losses.shape[1:], np.inf)
    error = losses.std(axis=0, ddof=1) / np.sqrt(n)
    return losses.mean(axis=0) + stdtrit(n - 1, _inside("confidence", confidence)) * error


def share_bound(count: int, n: int, confidence: float) -> float:
    """The upper confidence bound (Clopper-Pearson) of a share, from `count` of `n` documents."""
    _inside("confidence", confidence)
    return 1.0 if count >= n else float(beta.ppf(confidence, count + 1, n - count))


# --- the game ---------------------------------------------------------------------------------


def _log_factors(losses: np.ndarray, m: float, shares: np.ndarray) -> np.ndarray:
    """The logarithm of what each loss makes of each stake: (n, k)."""
    _inside("tolerance", m)
    with np.errstate(divide="ignore"):  # a loss of 1 takes all of a stake of everything
        return np.log1p(shares * ((m - losses) / (1 - m))[:, None])


def _log_wealth(losses: np.ndarray, m: float, bets: Bets | None) -> np.ndarray:
    """The logarithm of the mixture's wealth after each loss: (n,)."""
    shares, weights = bets or even_bets()
    return logsumexp(_log_factors(losses, m, shares).cumsum(axis=0), axis=1, b=weights)


def _checked(losses: np.ndarray) -> np.ndarray:
    losses = np.asarray(losses, dtype=float)
    if losses.size == 0 or not ((losses >= 0) & (losses <= 1)).all():
        got = "none" if losses.size == 0 else f"{losses.min():.3g} to {losses.max():.3g}"
        raise ValueError(f"losses: expected some between 0 and 1, got {got}")
    return losses


def _inside(name: str, value: float) -> float:
    if not 0 < value < 1:
        raise ValueError(f"{name}: expected more than 0 and less than 1, got {value}")
    return value
