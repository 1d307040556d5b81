"""How far one next-token law is from another, in nats. Plain NumPy, float64 inside.

Every function takes log-probabilities of shape (..., vocabulary) and reduces the last axis.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

Nats = Float[np.ndarray, "..."] | np.float64  # of laws, or of a single one
Laws = Float[np.ndarray, "*laws vocabulary"]
MASS_TOLERANCE = 1e-3  # float32 log-softmax over 262,144 entries sums to one within this


def kl_divergence(log_p: ArrayLike, log_q: ArrayLike) -> Nats:
    """Kullback-Leibler divergence KL(p‖q) = Σ p (log p - log q), in nats.

    Computed as Σ p (e + d) with d = log p - log q and e = exp(-d) - 1. When p and q both sum to
    one the two sums are equal, but every term of this one is ≥ 0, so nothing cancels when p ≈ q.
    Missing support (q = 0 where p > 0) gives inf; p = 0 adds q, its share of the second form.

    Raises ValueError for different shapes, NaN, or mass that is not one.
    """
    log_p, log_q = _checked(log_p, log_q)
    d = _log_ratio(log_p, log_q)
    with np.errstate(over="ignore", invalid="ignore"):
        terms = np.exp(log_p) * (np.expm1(-d) + d)
    terms = np.where(np.isneginf(log_p), np.exp(log_q), terms)
    terms = np.where(np.isneginf(log_q) & ~np.isneginf(log_p), np.inf, terms)
    # below d = -700 exp(-d) overflows while p·exp(-d) is just q
    terms = np.where(d < -700, np.exp(log_q), terms)
    return terms.sum(axis=-1)


def total_variation(log_p: ArrayLike, log_q: ArrayLike) -> Nats:
    """Total variation ½ Σ |p - q|, between 0 and 1. Raises as `kl_divergence` does."""
    log_p, log_q = _checked(log_p, log_q)
    return 0.5 * np.abs(np.exp(log_p) - np.exp(log_q)).sum(axis=-1)


def jensen_shannon(log_p: ArrayLike, log_q: ArrayLike) -> Nats:
    """Jensen-Shannon divergence ½ KL(p‖m) + ½ KL(q‖m), m = (p+q)/2, in nats; at most log 2."""
    log_p, log_q = _checked(log_p, log_q)
    log_m = np.logaddexp(log_p, log_q) - np.log(2)
    return 0.5 * (kl_divergence(log_p, log_m) + kl_divergence(log_q, log_m))


def entropy(log_p: ArrayLike) -> Nats:
    """Shannon entropy -Σ p log p, in nats. Raises ValueError for NaN or mass that is not one."""
    (log_p,) = _checked(log_p)
    return -(np.exp(log_p) * np.where(np.isneginf(log_p), 0.0, log_p)).sum(axis=-1)


def _log_ratio(log_p: Laws, log_q: Laws) -> Laws:
    """log p - log q, with 0 where either is missing (those places are handled apart)."""
    present = ~(np.isneginf(log_p) | np.isneginf(log_q))
    return np.where(present, np.where(present, log_p, 0) - np.where(present, log_q, 0), 0.0)


def _checked(*laws: ArrayLike) -> list[Laws]:
    arrays = [np.asarray(law, dtype=np.float64) for law in laws]
    shapes = {array.shape for array in arrays}
    if len(shapes) > 1 or arrays[0].ndim == 0:
        raise ValueError(
            "log-probabilities: expected one shape (..., vocabulary), got "
            + " and ".join(str(array.shape) for array in arrays)
        )
    for array in arrays:
        mass = np.exp(array).sum(axis=-1)
        if not np.all(np.abs(mass - 1) <= MASS_TOLERANCE):  # NaN fails this too
            worst = mass.flat[np.argmax(np.nan_to_num(np.abs(mass - 1), nan=np.inf))]
            raise ValueError(f"log-probabilities: expected mass 1, got {worst:.6g}")
    return arrays
