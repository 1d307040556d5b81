"""Gaussian rate-distortion in closed form: scalar, vector with side information, and causal.

Rates in nats; distortion is mean squared error. For Gaussian sources under squared error, side
information at the decoder alone is as good as at both ends (Wyner 1978).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import integrate, optimize, special

from kvlib.theory.bounds import positive, within

DITHER_LOSS_BITS = 0.5 * np.log2(2 * np.pi * np.e / 12)  # at most, of a scalar dithered quantiser


def gaussian_rate(distortion: ArrayLike, conditional_variance: ArrayLike) -> np.ndarray:
    """½ log⁺(σ²_{X|Y} / D): the rate given side information Y, at one end or at both."""
    variance = positive("conditional_variance", conditional_variance)
    return np.maximum(0.5 * np.log(variance / positive("distortion", distortion)), 0)


def gaussian_bottleneck_rate(excess_nats: ArrayLike, correlation: ArrayLike) -> np.ndarray:
    """Least I(F; M) with I(X; F | M) ≤ ε, for a Gaussian pair (F, X) of correlation ρ.

    R(ε) = ½ log⁺ [ρ² / ((1-ρ²)(e^{2ε}-1))],  which is 0 from ε = -½ log(1-ρ²) on
    """
    within("correlation", correlation, -1, 1, open_ends=True)
    rho2 = np.asarray(correlation, dtype=float) ** 2
    excess = positive("excess_nats", excess_nats)
    with np.errstate(divide="ignore"):  # ρ = 0: nothing to store
        return np.maximum(0.5 * (np.log(rho2 / (1 - rho2)) - np.log(np.expm1(2 * excess))), 0)


# --- vectors ----------------------------------------------------------------------------------


class WaterFilling(NamedTuple):
    """`rate_nats` and water `level` (...), and the error of each component (..., d)."""

    rate_nats: np.ndarray
    level: np.ndarray
    distortions: np.ndarray


def water_filling(eigenvalues: ArrayLike, distortion: ArrayLike) -> WaterFilling:
    """Reverse water-filling: Σ ½ log⁺(λ_i/θ) with Σ min(θ, λ_i) = D (Berger 1971).

    Args:
        eigenvalues: (d,), positive; `distortion`: total squared error D > 0, any shape.

    From D = Σ λ_i on the rate is 0. Raises ValueError for other input.
    """
    values = positive("eigenvalues", eigenvalues)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"eigenvalues: expected shape (d,), got {values.shape}")
    distortion = np.minimum(positive("distortion", distortion), values.sum())
    rising = np.sort(values)
    below = np.concatenate([[0.0], np.cumsum(rising)[:-1]])
    left = np.arange(len(rising), 0, -1)
    # component k is wholly lost once D reaches below[k] + left[k] · λ_k
    lost = np.searchsorted(below + left * rising, distortion, side="right")
    lost = np.minimum(lost, len(rising) - 1)
    level = np.minimum((distortion - below[lost]) / left[lost], rising[-1])
    errors = np.minimum(level[..., None], values)
    rate = 0.5 * np.maximum(np.log(values / level[..., None]), 0).sum(axis=-1)
    return WaterFilling(rate[()], level[()], errors)


def conditional_covariance(joint: ArrayLike, size: int) -> np.ndarray:
    """Σ_{K|Q} = Σ_KK - Σ_KQ Σ_QQ^-1 Σ_QK, K being the first `size` of the joint's variables.

    Raises ValueError for a matrix that is not square, symmetric and positive definite.
    """
    joint, size = _covariance("joint", joint), int(size)
    if not 1 <= size <= len(joint):
        raise ValueError(f"size: expected from 1 to {len(joint)}, got {size}")
    # of the ordering (Q, K) the last block of the Cholesky factor is that of Σ_{K|Q}
    order = np.r_[size : len(joint), :size]
    corner = np.linalg.cholesky(joint[np.ix_(order, order)])[-size:, -size:]
    return corner @ corner.T


def conditional_rate(
    joint: ArrayLike, size: int, distortion: ArrayLike, weight: ArrayLike | None = None
) -> WaterFilling:
    """Rate for the first `size` variables at total squared error D, the others being known.

    With a positive definite `weight` W (size, size) the error is e^T W e: for errors in logits
    that is the uncentred E[q q^T]. A rate of long blocks for a memoryless source with this
    covariance: achievable for other laws too, but no bound on the KL of next-token laws.
    """
    conditional = conditional_covariance(joint, size)
    if weight is not None:
        weight = _covariance("weight", weight)
        if weight.shape != conditional.shape:
            raise ValueError(f"weight: expected shape {conditional.shape}, got {weight.shape}")
        root = np.linalg.cholesky(weight)
        conditional = root.T @ conditional @ root
    return water_filling(np.linalg.eigvalsh(conditional), distortion)


def side_information_gain(joint: ArrayLike, size: int) -> float:
    """½ log |Σ_KK| / |Σ_{K|Q}| in nats: what Q saves at small D, and I(K; Q) if Gaussian."""
    known = conditional_covariance(joint, size)
    return 0.5 * (_logdet(np.asarray(joint, dtype=float)[:size, :size]) - _logdet(known))


def logdet_bias(n: int, size: int, side: int = 0, ddof: int = 0) -> float:
    """E ½ log|Σ̂_{K|Q}| - ½ log|Σ_{K|Q}| in nats, for n independent Gaussian rows.

        ½ [Σ_{i<d} ψ((n-1-d_q-i)/2) + d log 2 - d log(n-ddof)]

    The covariance is the in-sample one, mean removed, divided by n - ddof. Heavier tails and
    dependent rows do worse. Raises ValueError unless n > size + side.
    """
    if size < 1 or side < 0 or n <= size + side:
        raise ValueError(f"n: expected more than size + side = {size} + {side}, got {n}")
    digammas = special.digamma((n - 1 - side - np.arange(size)) / 2)
    return float(0.5 * (digammas.sum() + size * np.log(2) - size * np.log(n - ddof)))


def gain_bias(n: int, size: int, side: int) -> float:
    """How much the in-sample `side_information_gain` overstates, in nats: subtract it.

    ½ Σ_{i<d} [ψ((n-1-i)/2) - ψ((n-1-d_q-i)/2)]; whatever the divisor of the covariance.
    """
    return logdet_bias(n, size) - logdet_bias(n, size, side)


# --- sequences --------------------------------------------------------------------------------


def causal_rate(
    distortion: ArrayLike,
    coefficient: ArrayLike,
    noise_variance: ArrayLike,
    side_variance: ArrayLike = np.inf,
) -> np.ndarray:
    """Nats per step of an AR(1) source coded without look-ahead at squared error D.

        X_{t+1} = a X_t + W_t, Var W = σ²:  R(D) = max{0, ½ log(a² + σ²/D)}

    [Gorbunov and Pinsker 1974; Tatikonda, Sahai and Mitter 2004.] With Y_t = X_t + V_t at the
    decoder, Var V = v = `side_variance`: ½ log⁺ [(a²D+σ²) v / (D (a²D+σ²+v))], our
    reconstruction, optimal among linear-Gaussian schemes only. Any real a, also |a| ≥ 1.
    """
    distortion = positive("distortion", distortion)
    noise = positive("noise_variance", noise_variance)
    coefficient = within("coefficient", coefficient, -np.inf, np.inf, "finite", open_ends=True)
    side = np.asarray(side_variance, dtype=float)
    positive("side_variance", np.where(np.isposinf(side), 1.0, side))
    prior = coefficient**2 * distortion + noise
    return np.maximum(0.5 * np.log(1 / (1 / prior + 1 / side) / distortion), 0)


def noncausal_rate(distortion: float, coefficient: float, noise_variance: float) -> float:
    """Nats per step of the same AR(1) source, |a| < 1, coded in long blocks (scalars).

    Reverse water-filling of the spectrum σ²/|1 - a e^{-iω}|². For D ≤ σ²/(1+|a|)² it equals
    ½ log(σ²/D), and causality costs ½ log(1 + a²D/σ²).
    """
    # in units of σ²
    d = float(positive("distortion", distortion)) / float(
        positive("noise_variance", noise_variance)
    )
    a = abs(float(within("coefficient", coefficient, -1, 1, open_ends=True)))
    power, lowest = 1 / (1 - a**2), 1 / (1 + a) ** 2
    if d <= lowest * (1 + 1e-12):  # rounding may put the border itself above it
        return -0.5 * np.log(d)
    if d >= power:
        return 0.0

    def edge(level: float) -> float:  # the spectrum exceeds `level` below this frequency
        return np.arccos(np.clip((1 + a**2 - 1 / level) / (2 * a), -1, 1))

    def error(level: float) -> float:
        kept = 2 * power * np.arctan((1 + a) / (1 - a) * np.tan(edge(level) / 2))
        return (level * edge(level) + np.pi * power - kept) / np.pi

    highest = 1 / (1 - a) ** 2
    level = optimize.brentq(lambda x: error(x) - d, lowest, highest, xtol=1e-15 * highest)

    def integrand(w: float) -> float:
        return -0.5 * np.log((1 + a**2 - 2 * a * np.cos(w)) * level)

    return integrate.quad(integrand, 0, edge(level), epsabs=1e-13, epsrel=1e-12)[0] / np.pi


# --- checks -----------------------------------------------------------------------------------


def _covariance(name: str, matrix: ArrayLike) -> np.ndarray:
    matrix = np.asarray(matrix, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not len(matrix):
        raise ValueError(f"{name}: expected a square matrix, got shape {matrix.shape}")
    apart = np.abs(matrix - matrix.T).max()
    if not apart <= 1e-10 * np.abs(matrix).max():  # NaN fails this too
        raise ValueError(f"{name}: expected a symmetric matrix, got entries {apart:.6g} apart")
    matrix = (matrix + matrix.T) / 2
    if (least := np.linalg.eigvalsh(matrix)[0]) <= 0:
        raise ValueError(f"{name}: expected positive definite, got an eigenvalue of {least:.6g}")
    return matrix


def _logdet(matrix: np.ndarray) -> float:
    return float(2 * np.log(np.diag(np.linalg.cholesky(matrix))).sum())
