"""Linear recurrent states on a Gaussian source: what a bank of them reaches, and what none can."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import solve_triangular, svdvals, toeplitz

from kvlib.theory.gaussian import require, whole

SAME_STATE = 1e-10  # states closer than this, relative to their size, are one


class GaussianSource(Protocol):
    """Any source of `gaussian`: a covariance, its predictors and their error variances."""

    def autocovariance(self, n: int) -> np.ndarray: ...
    def predictor(self, order: int) -> np.ndarray: ...
    def innovation_variances(self, n: int) -> np.ndarray: ...


def linear_bank(source: GaussianSource, rates: ArrayLike, order: int) -> np.ndarray:
    """KL in nats that the best readout of m decaying sums loses to the predictor of `order`.

    States S_i(t) = e^{-r_i} S_i(t-1) + X_t, started `order` symbols ago, one for each rate; the
    readout is least squares in the norm of the covariance, by Cholesky and QR (the normal equations
    would lose all digits); states that rounding cannot tell apart count once, since QR alone would
    turn their difference into a phantom state. The mean KL is ½ log(σ²_bank / σ²_order).
    `rates` has shape (..., m), the result (...): many banks share one factorisation. Raises
    ValueError for no rates, more than `order`, or a rate that is not a finite number ≥ 0.
    """
    rates = np.asarray(rates, dtype=np.float64)
    ok = rates.ndim >= 1 and 1 <= rates.shape[-1] <= order
    require(ok, "rates", f"shape (..., m) with 1 ≤ m ≤ {order}", rates.shape)
    require(bool((np.isfinite(rates) & (rates >= 0)).all()), "rates", "finite numbers ≥ 0", rates)
    root = np.linalg.cholesky(toeplitz(source.autocovariance(order))).T
    states = root @ np.exp(-np.arange(order)[:, None] * rates[..., None, :])
    basis, small = np.linalg.qr(states / np.linalg.norm(states, axis=-2, keepdims=True))
    turn, size, _ = np.linalg.svd(small)  # nearly equal rates span less than m directions
    basis = basis @ (turn * (size > SAME_STATE * size[..., :1])[..., None, :])
    missed = np.broadcast_to(root @ source.predictor(order), basis.shape[:-1])[..., None]
    for _ in range(2):  # the second pass removes what rounding left
        missed = missed - basis @ (np.swapaxes(basis, -1, -2) @ missed)
    lost = (missed[..., 0] ** 2).sum(axis=-1)
    return 0.5 * np.log1p(lost / source.innovation_variances(order)[-1])


def truncated(source: GaussianSource, window: int, order: int) -> float:
    """KL in nats of cutting the predictor of `order` to its newest `window` coefficients.

    The variance is refitted, the coefficients are not: ½ log(σ²_cut / σ²_order), never below the
    Bayes value Δ(w) - Δ(order). It models a network that reads a short context with the habits
    of a long one. Raises ValueError unless 0 ≤ window ≤ order.
    """
    whole(window, "window")
    require(window <= order, "window", f"at most the order {order}", window)
    dropped = source.predictor(order)[window:]
    covariance = toeplitz(source.autocovariance(order + 1))
    # X_{t+1} minus the kept part is the innovation plus the dropped part, which are uncorrelated
    lost = dropped @ covariance[: order - window, : order - window] @ dropped
    return float(0.5 * np.log1p(lost / source.innovation_variances(order)[-1]))


def canonical_information(source: GaussianSource, past: int, future: int) -> np.ndarray:
    """-½ log(1-ρ_i²), falling, for the canonical correlations of `past` and `future` symbols.

    They sum to I(past; future) = Σ_{k<future} [Δ(k) - Δ(past+k)], in nats. The ρ_i are the singular
    values of L_p⁻¹ Γ_pf L_f⁻ᵀ, L the Cholesky factors of the covariances (Hotelling 1936).
    """
    gamma = toeplitz(source.autocovariance(int(whole(past + future, "past + future", least=2))))
    root = np.linalg.cholesky(gamma)
    half = solve_triangular(root[:past, :past], gamma[:past, past:], lower=True)
    both = solve_triangular(root[:future, :future], half.T, lower=True)
    return -0.5 * np.log1p(-(np.minimum(svdvals(both), 1) ** 2))


def linear_state_bound(
    source: GaussianSource, states: ArrayLike, past: int, futures: ArrayLike
) -> np.ndarray:
    """Least KL that any linear recursion with so many real states can lose, nats a step.

    A recursion of dimension m started `past` symbols ago loses on average over the next n steps,
    against all it could have seen, at least (1/n) Σ_{i>m} -½ log(1-ρ_i²): m numbers carry at most
    the m largest canonical correlations. The best n of `futures` counts. It says nothing about
    nonlinear states of infinite precision. Our reconstruction. Raises ValueError for states < 0.
    """
    m = whole(states, "states").astype(int)
    best = np.zeros(m.shape)
    for n in whole(futures, "futures", least=1).astype(int).ravel():
        left = np.append(np.cumsum(canonical_information(source, past, n)[::-1])[::-1], 0.0)
        best = np.maximum(best, left[np.minimum(m, len(left) - 1)] / n)
    return best
