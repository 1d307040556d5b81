"""The block-Markov scheme: what is lost by rebuilding the context only at block boundaries.

Blocks of B symbols; at a boundary only the last w symbols (the carry) are kept, and offset k of a
block is predicted from w + k symbols. The scheme and all that follows are our reconstruction.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import zeta

from kvlib.theory.bounds import positive

Regime = Literal["no carry", "short carry", "long carry"]


def block_excess(sensitivity: ArrayLike, block: ArrayLike, carry: ArrayLike = 0) -> np.ndarray:
    """Excess rate over the entropy rate, (1/B) Σ_{k<B} Δ(w + k), in nats per symbol.

    Exact under log-loss, for lossless codes, and for Gaussian sources at high resolution.

    Args:
        sensitivity: Δ(0), Δ(1), … in nats, at least up to carry + block - 1.
        block, carry: integers B ≥ 1 and w ≥ 0 that broadcast.

    Raises ValueError for other shapes and sizes.
    """
    return (_block_sum(sensitivity, block, carry) / np.asarray(block))[()]


def block_tv(sensitivity: ArrayLike, block: ArrayLike, carry: ArrayLike = 0) -> np.ndarray:
    """Pinsker for a whole block: TV ≤ √(½ Σ_{k<B} Δ(w + k)), and never above 1.

    One of the two readings of a factor of two between exponents: where only this is known, a
    bounded distortion falls as w^{-α/2} while Δ falls as w^-α.
    """
    return np.minimum(np.sqrt(_block_sum(sensitivity, block, carry) / 2), 1)[()]


def asymptotic_excess(
    prefactor: ArrayLike,
    exponent: ArrayLike,
    block: ArrayLike,
    carry: ArrayLike = 0,
    regime: Regime = "no carry",
) -> np.ndarray:
    """Leading term of `block_excess` for Δ(w) = c (w+1)^-α, in nats per symbol.

        ============  ================  ====================  =========================
        regime        α < 1             α = 1                 α > 1
        ============  ================  ====================  =========================
        no carry      c/(1-α) B^-α      c (log B + γ)/B       c ζ(α)/B
        short carry   c/(1-α) B^-α      (c/B) log(B/w)        c/(α-1) w^{1-α}/B
        long carry    c w^-α            c w^-α                c w^-α
        ============  ================  ====================  =========================

    Short means 1 ≪ w ≪ B, long means w ≫ B. Raises ValueError for an unknown regime, or a carry
    that is not positive where the regime has one.
    """
    c, alpha, block = (
        positive(name, value)
        for name, value in (("prefactor", prefactor), ("exponent", exponent), ("block", block))
    )
    if regime not in ("no carry", "short carry", "long carry"):
        raise ValueError(f"regime: expected no, short or long carry, got {regime!r}")
    if regime == "long carry":
        return (c * positive("carry", carry) ** -alpha)[()]
    away = np.where(alpha == 1, 2.0, alpha)
    slow = c / (1 - away) * block**-alpha
    if regime == "no carry":
        at_one, fast = c * (np.log(block) + np.euler_gamma) / block, c * zeta(away) / block
    else:
        carry = positive("carry", carry)
        at_one = c / block * np.log(block / carry)
        fast = c / (away - 1) * carry ** (1 - away) / block
    return np.where(alpha < 1, slow, np.where(alpha == 1, at_one, fast))[()]


def excess_exponent(exponent: ArrayLike, carry_grows: bool) -> np.ndarray:
    """The exponent of the excess in B: α when the carry grows with B, min(α, 1) with no carry.

    (At α = 1 with no carry there is a logarithm besides.)
    """
    alpha = positive("exponent", exponent)
    return alpha[()] if carry_grows else np.minimum(alpha, 1)[()]


def _block_sum(sensitivity: ArrayLike, block: ArrayLike, carry: ArrayLike) -> np.ndarray:
    delta, block, carry = np.asarray(sensitivity, dtype=float), np.asarray(block), np.asarray(carry)
    if delta.ndim != 1 or not (delta >= 0).all():
        raise ValueError(f"sensitivity: expected shape (windows,) and ≥ 0, got {delta.shape}")
    for name, value, least in (("block", block, 1), ("carry", carry, 0)):
        if value.dtype.kind not in "iu" or (value < least).any():
            raise ValueError(f"{name}: expected integers of at least {least}, got {value}")
    if (longest := int((block + carry).max())) > len(delta):
        raise ValueError(f"sensitivity: expected at least {longest} windows, got {len(delta)}")
    beyond = np.concatenate([np.cumsum(delta[::-1])[::-1], [0.0]])  # from the small end: accurate
    return beyond[carry] - beyond[carry + block]
