"""Many tries, and studies that might have been: corrected p-values, estimates drawn anew."""

from __future__ import annotations

import functools
import math

import numpy as np
from scipy.special import stdtr, stdtrit

from kvlib.fit.estimate import Estimate, exponential_of


def p_above(item: Estimate, bound: float) -> float:
    """One-sided p of "no more than `bound`", from a jackknife-t interval.

    1 - p is that of "no less". It is below 0.025 where the 95% interval lies above the bound. Where
    the interval is symmetric in the logarithm, take that of both first (`logarithm_of`).
    """
    error = (item.high - item.low) / 2 / quantile(item.n_documents - 1)
    if error == 0:
        return float(item.value <= bound)
    return float(stdtr(item.n_documents - 1, (bound - item.value) / error))


def holm(p_values: np.ndarray) -> np.ndarray:
    """Holm's corrected p-values (n,): the chance of one false finding among n tries is theirs.

    The k-th smallest is multiplied by n - k + 1, and none is below a smaller one's.
    """
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p)
    steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(steps, 1)
    return corrected


def logarithm_of(item: Estimate) -> Estimate:
    """A positive estimate in the logarithm, where its interval is symmetric."""
    value, low, high = (math.log(x) for x in (item.value, item.low, item.high))
    return Estimate(value, low, high, item.n_documents)


def drawn(item: Estimate, truth: float, rng: np.random.Generator, log: bool = False) -> Estimate:
    """What another study as precise as this one might say, were `truth` the truth.

    The estimate is normal around the truth with the standard error at hand, and the width of its
    interval scatters as that of a t interval from as many documents. With `log` all of it is in the
    logarithm. That the error does not depend on the truth is an assumption.
    """
    freedom = item.n_documents - 1
    half = (math.log(item.high / item.low) if log else item.high - item.low) / 2
    value = (math.log(truth) if log else truth) + half / quantile(freedom) * rng.standard_normal()
    half *= math.sqrt(rng.chisquare(freedom) / freedom)
    made = Estimate(value, value - half, value + half, item.n_documents, item.flat)
    return exponential_of(made) if log else made


@functools.cache
def quantile(freedom: int) -> float:
    """How many standard errors a 95% t interval reaches to either side."""
    return float(stdtrit(freedom, 0.975))
