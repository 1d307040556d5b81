"""What a decay law implies: windows, converses and memory. Nats inside; plain NumPy and SciPy.

Δ(w) is the context-truncation sensitivity, the least expected KL of any predictor that sees only
the last w tokens; D(w) ≥ Δ(w) is what one particular predictor attains. Every function takes
arrays that broadcast. Where no literature is named, the statement is our reconstruction.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

LARGEST_WINDOW = 2**53  # beyond it a float no longer tells an integer from the next
ROUNDING = 4 * np.finfo(np.float64).eps  # an equality that fails by so little counts as met


def positive(name: str, value: ArrayLike) -> np.ndarray:
    """`value` as float64, or a ValueError that names the first entry that is not in (0, ∞)."""
    return within(name, value, 0, np.inf, "positive and finite", open_ends=True)


def within(
    name: str, value: ArrayLike, low: float, high: float, words: str = "", open_ends: bool = False
) -> np.ndarray:
    """`value` as float64, or a ValueError that names the first entry outside [low, high]."""
    array = np.asarray(value, dtype=np.float64)
    inside = (array > low) & (array < high) if open_ends else (array >= low) & (array <= high)
    if not inside.all():
        brackets = "()" if open_ends else "[]"
        words = words or f"{brackets[0]}{low:.6g}, {high:.6g}{brackets[1]}"
        raise ValueError(f"{name}: expected {words}, got {array[~inside].flat[0]:.6g}")
    return array


# --- suffix windows ---------------------------------------------------------------------------


def distortion_at(
    window: ArrayLike, prefactor: ArrayLike, exponent: ArrayLike, shift: int = 0
) -> np.ndarray:
    """The power law C (w + shift)^-α in nats; `shift` is 0 or 1, and w ≥ 1 - shift.

    Raises ValueError for a window below 1 - shift, or a prefactor or exponent that is not positive.
    """
    _checked_shift(shift)
    window = within("window", window, 1 - shift, np.inf, f"at least {1 - shift}")
    return positive("prefactor", prefactor) * (window + shift) ** -positive("exponent", exponent)


def window_for(
    epsilon: ArrayLike, prefactor: ArrayLike, exponent: ArrayLike, shift: int = 0
) -> np.ndarray:
    """The smallest window that a law D(w) ≤ C (w + shift)^-α certifies for distortion ε.

        w(ε) = max(1, ⌈(C/ε)^{1/α}⌉) - shift

    An integer found by bisection on `distortion_at`, so that it is exact where the power is: an
    equality missed by rounding alone counts as met.

    Args:
        epsilon, prefactor: nats. With `shift` 0 the law speaks of w ≥ 1, with 1 of w ≥ 0.

    Returns int64. Raises ValueError for input that is not positive or a window above 2^53.
    """
    _checked_shift(shift)
    epsilon, prefactor, exponent = np.broadcast_arrays(
        positive("epsilon", epsilon),
        positive("prefactor", prefactor),
        positive("exponent", exponent),
    )
    limit = epsilon * (1 + ROUNDING)
    low = np.zeros(epsilon.shape, dtype=np.int64)
    high = np.full(epsilon.shape, LARGEST_WINDOW, dtype=np.int64)
    unreachable = prefactor * float(LARGEST_WINDOW) ** -exponent > limit
    if unreachable.any():
        digits = (np.log10(prefactor / epsilon) / exponent)[unreachable].flat[0]
        raise ValueError(f"window: expected at most 2^53, got about 10^{digits:.1f}")
    while (high - low > 1).any():
        middle = np.maximum((low + high) // 2, 1)
        met = prefactor * middle.astype(np.float64) ** -exponent <= limit
        low, high = np.where(met, low, middle), np.where(met, middle, high)
    return (high - shift)[()]


def converse_window(
    epsilon: ArrayLike,
    prefactor_low: ArrayLike,
    exponent: ArrayLike,
    shift: int = 0,
    at_zero: ArrayLike = np.inf,
) -> np.ndarray:
    """The window that every suffix-only policy needs when Δ(w) ≥ c (w + shift)^-α.

    No predictor that sees a suffix of w tokens has a distortion below Δ(w), so ε ≥ c (w+shift)^-α
    and w ≥ ⌈(c/ε)^{1/α}⌉ - shift. With `shift` 0 the hypothesis speaks of w ≥ 1 only, and the
    answer 1 for ε ≥ c rests on ε < Δ(0): pass `at_zero` = Δ(0) and the answer is 0 from there on.

    The hypothesis is about the best predictor: a lower bound fitted to one model's re-encoding is
    none for Δ. Sinks, recurrent states and caches computed with full context are not covered.
    """
    window = window_for(epsilon, prefactor_low, exponent, shift)
    return np.where(np.asarray(epsilon) >= np.asarray(at_zero), 0, window)[()]


class Sandwich(NamedTuple):
    """`low` ≤ w*(ε) ≤ `high`; `ratio` = (C/c)^{1/α} is what the two approach for small ε."""

    low: np.ndarray
    high: np.ndarray
    ratio: np.ndarray


def sandwich(
    epsilon: ArrayLike,
    prefactor_low: ArrayLike,
    prefactor_high: ArrayLike,
    exponent: ArrayLike,
    shift: int = 0,
) -> Sandwich:
    """The least window w*(ε) between its two bounds, when c (w+s)^-α ≤ Δ(w) ≤ C (w+s)^-α.

    Raises ValueError when c > C, or as `window_for` does.
    """
    low, high = positive("prefactor_low", prefactor_low), positive("prefactor_high", prefactor_high)
    if (low > high).any():
        raise ValueError(f"prefactor_low: expected at most prefactor_high {high}, got {low}")
    return Sandwich(
        converse_window(epsilon, low, exponent, shift),
        window_for(epsilon, high, exponent, shift),
        (high / low) ** (1 / positive("exponent", exponent)),
    )


def suffix_bits(window: ArrayLike, alphabet: ArrayLike) -> np.ndarray:
    """Bits of a raw suffix: w log2 |alphabet|."""
    window = within("window", window, 0, np.inf, "at least 0")
    return window * np.log2(within("alphabet", alphabet, 1, np.inf, "at least 1"))


def coded_suffix_bits(window: ArrayLike, entropy_rate: float, sensitivity: ArrayLike) -> np.ndarray:
    """Bits of an entropy-coded suffix, H(X_1..X_w) = [w h∞ + Σ_{k<w} Δ(k)] / ln 2.

    `sensitivity` holds Δ(0), Δ(1), … in nats, at least up to the longest window (integers).
    """
    window = np.asarray(window)
    delta = _checked_sensitivity(sensitivity)
    if window.dtype.kind not in "iu" or (window < 0).any() or (window > len(delta)).any():
        raise ValueError(f"window: expected integers from 0 to {len(delta)}, got {window}")
    sums = np.concatenate([[0.0], np.cumsum(delta)])
    return (window * within("entropy_rate", entropy_rate, 0, np.inf) + sums[window]) / np.log(2)


# --- recurrent policies -----------------------------------------------------------------------


def recurrent_converse(
    epsilon: ArrayLike, sensitivity: ArrayLike, seen_alphabet: int = 1
) -> np.ndarray:
    """Nats of memory H(M) that every recurrent policy with distortion ≤ ε needs.

        H(M) ≥ Σ_k (Δ(k) - ε)_+

    Recurrent: M_t = f(M_{t-1}, X_t, independent noise), a decoder that sees M_t alone, and the
    infinite past as reference. A cut `sensitivity` array still gives a valid bound. Where the
    decoder also sees the current token, log `seen_alphabet` is subtracted. False for encoders
    that keep everything, such as one eviction after a full-context pass. [Our reconstruction;
    for ε = 0 the excess entropy of Shalizi and Crutchfield 2001.]

    Args:
        epsilon: nats, any shape; `sensitivity`: Δ(0), Δ(1), … in nats, non-increasing.

    Raises ValueError for ε < 0 or a sensitivity that is negative or increases.
    """
    epsilon = within("epsilon", epsilon, 0, np.inf, "at least 0")
    within("seen_alphabet", seen_alphabet, 1, np.inf, "at least 1")
    delta = _checked_sensitivity(sensitivity)
    above = np.searchsorted(-delta, -epsilon, side="left")  # how many Δ(k) exceed ε
    sums = np.concatenate([[0.0], np.cumsum(delta)])
    return np.maximum(sums[above] - above * epsilon - np.log(seen_alphabet), 0)[()]


def power_sum(n: ArrayLike, exponent: ArrayLike) -> np.ndarray:
    """Σ_{j=1}^n j^-α for integers n ≥ 0 and any α > 0, to 1e-13 (Euler-Maclaurin from j = 16)."""
    alpha = positive("exponent", exponent)[..., None]
    n = within("n", n, 0, np.inf, "at least 0")[..., None]
    first = np.arange(1, 17)
    head = ((first <= n) * first**-alpha).sum(axis=-1)
    alpha, n, start = alpha[..., 0], np.maximum(n[..., 0], 16), 16.0
    span = np.log(n / start)
    tail = start ** (1 - alpha) * span * special.exprel((1 - alpha) * span)
    tail += (n**-alpha - start**-alpha) / 2  # the term of j = 16 stands in the head
    derivative = -alpha
    for k, bernoulli in enumerate((1 / 12, -1 / 720, 1 / 30240, -1 / 1209600)):
        order = -alpha - 2 * k - 1
        tail += bernoulli * derivative * (n**order - start**order)
        derivative = derivative * (alpha + 2 * k + 1) * (alpha + 2 * k + 2)
    return (head + tail)[()]


def recurrent_converse_power(
    epsilon: ArrayLike, prefactor: ArrayLike, exponent: ArrayLike
) -> np.ndarray:
    """`recurrent_converse` for Δ(k) = c (k+1)^-α exactly, summed over all k: a bound, in nats."""
    terms = window_for(epsilon, prefactor, exponent) - 1
    value = np.asarray(prefactor) * power_sum(terms, exponent) - terms * np.asarray(epsilon)
    return np.maximum(value, 0)[()]


def recurrent_converse_limit(
    epsilon: ArrayLike, prefactor: ArrayLike, exponent: ArrayLike
) -> np.ndarray:
    """What `recurrent_converse_power` tends to as ε → 0, up to O(ε): a formula, not a bound.

        α ≠ 1:  α/(1-α) c^{1/α} ε^{1-1/α} + c ζ(α)
        α = 1:  c [log(c/ε) + γ - 1]

    For α < 1, ζ(α) is negative: the first term alone overstates. For α > 1 the value tends to
    c ζ(α), the excess entropy. Written so that nothing cancels near α = 1.
    """
    epsilon, c = positive("epsilon", epsilon), positive("prefactor", prefactor)
    alpha = positive("exponent", exponent)
    rest, log_window = 1 - alpha, np.log(c / epsilon) / alpha
    near = np.abs(rest) < 1e-5
    away = np.where(near, 2.0, alpha)
    # ζ(α) - 1/(α-1) is smooth through α = 1: Stieltjes' constants γ and γ_1
    smooth = np.where(
        near, np.euler_gamma - 0.07281584548 * rest, special.zeta(away) - 1 / (away - 1)
    )
    growth = log_window * special.exprel(rest * log_window) - np.exp(rest * log_window)
    return (c * (growth + smooth))[()]


# --- total variation --------------------------------------------------------------------------


def tv_upper(kl_nats: ArrayLike) -> np.ndarray:
    """Pinsker: E TV ≤ √(E KL / 2)."""
    return np.sqrt(within("kl_nats", kl_nats, 0, np.inf) / 2)


def kl_lower(tv: ArrayLike) -> np.ndarray:
    """Pinsker read the other way: E KL ≥ 2 (E TV)², in nats."""
    return 2 * within("tv", tv, 0, 1) ** 2


def kl_upper(tv: ArrayLike, log_ratio: ArrayLike) -> np.ndarray:
    """E KL ≤ 2 L E TV in nats, where |log P/Q| ≤ L over all contexts and windows."""
    return 2 * positive("log_ratio", log_ratio) * within("tv", tv, 0, 1)


def kl_upper_local(tv: ArrayLike, q_min: ArrayLike) -> np.ndarray:
    """KL ≤ 2 TV² / q_min in nats, for one pair of laws with Q ≥ q_min everywhere."""
    within("q_min", q_min, 0, 1, "in (0, 1)", open_ends=True)
    return 2 * within("tv", tv, 0, 1) ** 2 / np.asarray(q_min)


def window_for_tv(
    delta: ArrayLike, prefactor: ArrayLike, exponent: ArrayLike, shift: int = 0
) -> np.ndarray:
    """A window with E TV ≤ δ when D(w) ≤ C (w+shift)^-α nats: Pinsker alone, so w ~ δ^{-2/α}."""
    return window_for(kl_lower(positive("delta", delta)), prefactor, exponent, shift)


class TwoExponents(NamedTuple):
    """A fraction w^-`phi` of the positions changes by w^-`sigma`; `rho` = α_KL / α_TV."""

    phi: np.ndarray
    sigma: np.ndarray
    rho: np.ndarray


def two_exponents(alpha_kl: ArrayLike, alpha_tv: ArrayLike) -> TwoExponents:
    """Read two measured exponents as how often (φ) and how much (σ) predictions change.

        α_TV = φ + σ,  α_KL = φ + 2σ

    ρ = 2: nearly every position drifts a little; ρ = 1: rare large changes. Theory bounds ρ to
    [1, 2] where log-ratios are bounded; estimates outside are passed on as they are. Only valid
    where KL ≍ TV² at the changed positions (probabilities bounded below) and the other positions
    are negligible: a binary renewal source violates both. [Our reconstruction.]
    """
    kl, tv = positive("alpha_kl", alpha_kl), positive("alpha_tv", alpha_tv)
    return TwoExponents(2 * tv - kl, kl - tv, kl / tv)


def _checked_shift(shift: int) -> None:
    if shift not in (0, 1):
        raise ValueError(f"shift: expected 0 or 1, got {shift}")


def _checked_sensitivity(sensitivity: ArrayLike) -> np.ndarray:
    delta = np.asarray(sensitivity, dtype=np.float64)
    if delta.ndim != 1 or not len(delta):
        raise ValueError(f"sensitivity: expected shape (windows,), got {delta.shape}")
    if not (np.isfinite(delta) & (delta >= 0)).all():
        raise ValueError(f"sensitivity: expected finite values ≥ 0, got a minimum of {delta.min()}")
    rise = np.diff(delta, prepend=delta[0])
    if (rise > 1e-12 * delta[0]).any():
        at = int(rise.argmax())
        raise ValueError(
            f"sensitivity: expected non-increasing, got {delta[at]:.6g} at window {at} "
            f"after {delta[at - 1]:.6g}"
        )
    return np.minimum.accumulate(delta)
