"""Normal laws, and stationary Gaussian sources whose sensitivity is prescribed exactly.

A zero-mean Gaussian process is fixed by its partial autocorrelations φ_kk, and any with |φ_kk| < 1
are allowed: Δ(w) = -½ Σ_{k>w} log(1-φ_kk²), so a decay law can be written down and then had.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import erf, ndtr

_LEGENDRE = tuple(zip(*np.polynomial.legendre.leggauss(16), strict=True))


class NotErgodicWarning(UserWarning):
    """The Gaussian source has a random mean: one path does not show its law."""


def require(ok: bool, name: str, expected: str, got: object) -> None:
    if not ok:
        raise ValueError(f"{name}: expected {expected}, got {got}")


def whole(values: ArrayLike, name: str = "windows", least: int = 0) -> np.ndarray:
    """Whole numbers ≥ `least` as float64."""
    array = np.asarray(values, dtype=np.float64)
    ok = np.isfinite(array) & (array >= least) & (array == np.floor(array))
    require(bool(ok.all()), name, f"whole numbers ≥ {least}", values)
    return array


def shape_of(n: int, paths: int | None) -> tuple[int, int]:
    """(paths, n) for a sampler, one path by default."""
    counts = whole([n, 1 if paths is None else paths], "n, paths", least=1)
    return int(counts[1]), int(counts[0])


def bregman(delta: np.ndarray) -> np.ndarray:
    """(1+δ) log(1+δ) - δ ≥ 0; near 0, where this cancels, as δ² ∫₀¹ (1-s)/(1+sδ) ds."""
    with np.errstate(divide="ignore", invalid="ignore"):
        far = np.where(delta <= -1, 1.0, (1 + delta) * np.log1p(delta) - delta)
    d = np.where(np.abs(delta) < 0.5, delta, 0.0)
    near = sum(weight / 2 * (1 - node) / 2 / (1 + (1 + node) / 2 * d) for node, weight in _LEGENDRE)
    return np.where(np.abs(delta) < 0.5, d * d * near, far)


def gaussian_kl(
    mean_p: ArrayLike, variance_p: ArrayLike, mean_q: ArrayLike, variance_q: ArrayLike
) -> np.ndarray:
    """KL(p‖q) in nats of two normal laws: log(σq/σp) + (σp² + (μp-μq)²) / 2σq² - ½.

    Computed as ½[r - log(1+r)] + (μp-μq)²/2σq² with r = σp²/σq² - 1, without cancellation between
    the two parts. Arguments broadcast. Raises ValueError for variances that are not positive.
    """
    var_p, var_q = np.asarray(variance_p, float), np.asarray(variance_q, float)
    require(bool((var_p > 0).all() and (var_q > 0).all()), "variances", "> 0", (var_p, var_q))
    inverse = (var_q - var_p) / var_p  # x - log1p(x) = (1+x) bregman(-x/(1+x)), x = r
    shape = 0.5 * var_p / var_q * bregman(inverse)
    return shape + 0.5 * (np.asarray(mean_p) - np.asarray(mean_q)) ** 2 / var_q


def gaussian_total_variation(
    mean_p: ArrayLike, variance_p: ArrayLike, mean_q: ArrayLike, variance_q: ArrayLike
) -> np.ndarray:
    """Total variation between two normal laws by the two roots of their log-ratio.

    The narrower density is the larger one between the roots x₁ < x₂ of a quadratic, so TV is the
    difference of the two masses of [x₁, x₂]; equal variances give erf(|μp-μq| / σ√8). Arguments
    broadcast. Raises ValueError for variances that are not positive.
    """
    mean_p, var_p, mean_q, var_q = np.broadcast_arrays(
        *(np.asarray(a, dtype=np.float64) for a in (mean_p, variance_p, mean_q, variance_q))
    )
    require(bool((var_p > 0).all() and (var_q > 0).all()), "variances", "> 0", (var_p, var_q))
    narrow = np.minimum(var_p, var_q)
    log_ratio = 0.5 * np.log1p(np.abs(var_p - var_q) / narrow)
    gap = np.abs(mean_p - mean_q) / np.sqrt(narrow)
    return np.where(
        log_ratio > 0, _two_roots(gap, np.where(log_ratio > 0, log_ratio, 1)), erf(gap / 8**0.5)
    )


def _two_roots(gap: np.ndarray, log_ratio: np.ndarray) -> np.ndarray:
    """TV between N(0, 1) and N(gap, s²), s = exp(log_ratio) > 1, gap ≥ 0."""
    inverse, a = np.exp(-log_ratio), -np.expm1(-2 * log_ratio)  # 1/s and 1 - 1/s²
    root = np.sqrt((gap * inverse) ** 2 + 2 * a * log_ratio)
    low = -(gap * inverse**2 + root) / a
    high = ((gap * inverse) ** 2 + 2 * log_ratio) / (gap * inverse**2 + root)

    def difference(x: np.ndarray) -> np.ndarray:
        """Φ(x) - Φ((x-gap)/s): a short interval is integrated, a long one subtracted."""
        width = -np.expm1(-log_ratio) * x + gap * inverse
        with np.errstate(over="ignore"):
            near = sum(
                weight / 2 * np.exp(-0.5 * (x - width * (1 + node) / 2) ** 2)
                for node, weight in _LEGENDRE
            )
        exact = width * near / np.sqrt(2 * np.pi)
        return np.where(np.abs(width) < 1, exact, ndtr(x) - ndtr((x - gap) * inverse))

    return difference(high) - difference(low)


def gaussian_mean_tv(kl_nats: ArrayLike) -> np.ndarray:
    """Mean total variation of a truncated Gaussian predictor whose mean KL is `kl_nats`.

    E TV(N(μ, 1), N(μ-m, s²)) with s² = exp(2 KL) and m ~ N(0, s²-1), so it depends on the KL only,
    not on window, reference or signs; √(2 KL)/π for small KL. One quadrature: the integrand has
    branch points at m/√(s²-1) = ±i√(2 KL), which z = √(2 KL) sinh u removes, and the trapezoidal
    rule in u converges exponentially. Our reconstruction. Raises ValueError for KL < 0 or > 300.
    """
    kl = np.asarray(kl_nats, dtype=np.float64)
    require(bool(((kl >= 0) & (kl <= 300)).all()), "kl_nats", "values in [0, 300]", kl_nats)
    tiny = kl < 1e-60
    delta = np.where(tiny, 1.0, kl)[..., None]
    scale = np.sqrt(2 * delta)
    top = np.arcsinh(9.5 / scale)
    n = max(48, int(np.ceil(top.max(initial=1.0) / 0.1)))
    u = top * np.arange(n + 1) / n
    z = scale * np.sinh(u)
    density = np.exp(-0.5 * z * z) * np.sqrt(2 / np.pi) * scale * np.cosh(u)
    values = density * _two_roots(np.sqrt(np.expm1(2 * delta)) * z, delta)
    total = (values.sum(axis=-1) - 0.5 * values[..., 0]) * top[..., 0] / n
    return np.where(tiny, np.sqrt(2 * kl) / np.pi, total)


def durbin_levinson(pacf: np.ndarray) -> Iterator[np.ndarray]:
    """Best linear predictors of order 0, 1, ..., len(pacf), newest symbol first.

    φ_{n,j} = φ_{n-1,j} - φ_nn φ_{n-1,n-j} from the partial autocorrelations φ_nn. Each array is a
    view that the next step overwrites: copy what is to be kept.
    """
    phi = np.zeros(len(pacf))
    for n, reflection in enumerate(pacf):
        yield phi[:n]
        phi[:n] -= reflection * phi[:n][::-1]
        phi[n] = reflection
    yield phi


class _Gaussian(ABC):
    """What the stationary Gaussian sources share: innovation variance 1 given the whole past, so
    that σ²_w = exp(2Δ(w)), and everything else from `sensitivity` and `pacf`."""

    @abstractmethod
    def sensitivity(self, windows: ArrayLike) -> np.ndarray:
        """Δ(w), nats."""

    @abstractmethod
    def pacf(self, n: int) -> np.ndarray:
        """Partial autocorrelations of lags 1, ..., n."""

    def innovation_variances(self, n: int) -> np.ndarray:
        """Prediction error variance from 0, 1, ..., n symbols, shape (n+1,)."""
        return np.exp(2 * self.sensitivity(np.arange(int(whole(n, "n")) + 1)))

    def total_variation(self, windows: ArrayLike) -> np.ndarray:
        """Mean TV against the infinite past; for a reference of T symbols apply
        `gaussian_mean_tv` to Δ(w) - Δ(T)."""
        return gaussian_mean_tv(self.sensitivity(windows))

    def predictor(self, order: int) -> np.ndarray:
        """Coefficients φ of E[X_{t+1} | last `order` symbols] = Σ_j φ[j] X_{t-j}, newest first."""
        *_, phi = durbin_levinson(self.pacf(order))
        return phi.copy()

    def autocovariance(self, n: int) -> np.ndarray:
        """γ(0), ..., γ(n-1): the first row of the (n, n) Toeplitz covariance. n ≥ 1."""
        n = int(whole(n, "n", least=1))
        pacf, variances, gamma = self.pacf(n - 1), self.innovation_variances(n), np.zeros(n)
        gamma[0] = variances[0]
        for k, phi in zip(range(1, n), durbin_levinson(pacf), strict=False):
            gamma[k] = pacf[k - 1] * variances[k - 1] + phi @ gamma[k - 1 : 0 : -1]
        return gamma

    def sample(self, n: int, seed: int, paths: int | None = None) -> np.ndarray:
        """Exact stationary paths, float64; O(n²) work for each."""
        paths_, n = shape_of(n, paths)
        x = np.random.default_rng(seed).standard_normal((n, paths_))
        deviations = np.sqrt(self.innovation_variances(n))
        for k, phi in enumerate(durbin_levinson(self.pacf(n - 1))):
            x[k] = deviations[k] * x[k] + phi[::-1] @ x[:k]
        return x[:, 0].copy() if paths is None else x.T.copy()


@dataclass(frozen=True)
class GaussianPowerLaw(_Gaussian):
    """Stationary Gaussian process with Δ(w) = c (w+1)^-α exactly, for every w ≥ 0.

    Its partial autocorrelations are s_k √(1 - exp{-2c [k^-α - (k+1)^-α]}). The signs s_k do not
    enter Δ: "rudin-shapiro" ((-1) to the number of 11's in binary k) or "plus". All-plus has a
    random mean for α < 1, and for α = 1 with c > 1/8; then NotErgodicWarning is given and
    `random_mean_share` tells how much. Raises ValueError for α ≤ 0, c ≤ 0 or unknown signs.
    Verblunsky 1935, Barndorff-Nielsen and Schou 1973 (any |φ_kk| < 1 is allowed); the choice of
    φ_kk and the limits on the signs are our reconstruction.
    """

    alpha: float
    c: float
    signs: str = "rudin-shapiro"

    def __post_init__(self) -> None:
        require(0 < self.alpha < np.inf, "alpha", "a number > 0", self.alpha)
        require(0 < self.c < np.inf, "c", "a number > 0", self.c)
        known = ("rudin-shapiro", "plus")
        require(self.signs in known, "signs", f"one of {known}", self.signs)
        if not self.ergodic:
            text = "all-plus signs give a random mean here: use rudin-shapiro for time averages"
            warnings.warn(f"{self}: {text}", NotErgodicWarning, stacklevel=3)

    @property
    def ergodic(self) -> bool:
        """False where the spectrum is known to have an atom at frequency zero."""
        heavy = self.alpha < 1 or (self.alpha == 1 and self.c > 1 / 8)
        return not (self.signs == "plus" and heavy)

    def sensitivity(self, windows: ArrayLike) -> np.ndarray:
        """Δ(w) = c (w+1)^-α, nats."""
        return self.c * (whole(windows) + 1) ** -self.alpha

    def pacf(self, n: int) -> np.ndarray:
        """Partial autocorrelations φ_11, ..., φ_nn, shape (n,)."""
        count = int(whole(n, "n"))
        k = np.arange(1.0, count + 1)
        drop = -self.c * k**-self.alpha * np.expm1(-self.alpha * np.log1p(1 / k))
        size = np.sqrt(-np.expm1(-2 * drop))
        if self.signs == "plus":
            return size
        index = np.arange(1, count + 1)
        ones = sum((index & (index >> 1)) >> bit & 1 for bit in range(count.bit_length()))
        return np.where(ones % 2 == 0, size, -size)

    def random_mean_share(self, terms: int = 2**20) -> float:
        """Share of the variance in the random mean, [Σ_n A_n² σ_0²/σ_n²]^-1, A_n = Π(1 - φ_kk).

        An upper bound that decreases to the true share with `terms` (to 0 for an ergodic source);
        for α < 1 the default is the limit to many digits. Simon, Orthogonal Polynomials on the
        Unit Circle; application our reconstruction. Raises ValueError for signs other than "plus".
        """
        require(self.signs == "plus", "signs", "plus", self.signs)
        log_a = np.concatenate([[0.0], np.cumsum(np.log1p(-self.pacf(terms)))])
        inside = 2 * (log_a + self.c - self.sensitivity(np.arange(terms + 1)))
        return float(1 / np.exp(inside).sum())


@dataclass(frozen=True)
class Lacunary(_Gaussian):
    """Gaussian source with Δ(w) = c k^-α, k the first of 2, 4, 16, 256, 65536, ... above w.

    Only φ_kk at those k is nonzero. Δ(w) ≤ c w^-α, yet ε = Δ(k_j - 1) needs only the window
    √k_j: an upper power law alone does not make a window necessary. Our reconstruction. Raises
    ValueError for α ≤ 0 or c ≤ 0.
    """

    alpha: float
    c: float
    STEPS: ClassVar[np.ndarray] = 2.0 ** (2.0 ** np.arange(10))

    def __post_init__(self) -> None:
        require(0 < self.alpha < np.inf, "alpha", "a number > 0", self.alpha)
        require(0 < self.c < np.inf, "c", "a number > 0", self.c)

    def sensitivity(self, windows: ArrayLike) -> np.ndarray:
        """Δ(w), nats: flat between the steps."""
        step = np.searchsorted(self.STEPS, whole(windows), side="right")
        return self.c * self.STEPS[step] ** -self.alpha

    def pacf(self, n: int) -> np.ndarray:
        """Partial autocorrelations φ_11, ..., φ_nn, all signs plus."""
        delta = self.sensitivity(np.arange(int(whole(n, "n")) + 1))
        return np.sqrt(-np.expm1(2 * np.diff(delta)))


@dataclass(frozen=True)
class MovingAverage(_Gaussian):
    """X_t = e_t + b e_{t-1}: a geometric control, Δ(w) = ½ log[(1-b^{2w+4}) / (1-b^{2w+2})].

    Δ falls by b² a symbol in the end, but like 1/(2w+2) before w ~ 1/(1-b²): with b = 0.99 and
    windows up to 64 it passes for a power law. Textbook. Raises ValueError unless 0 < |b| < 1.
    """

    b: float

    def __post_init__(self) -> None:
        require(0 < abs(self.b) < 1, "b", "0 < |b| < 1", self.b)

    def sensitivity(self, windows: ArrayLike) -> np.ndarray:
        """Δ(w), nats, as ½ log1p of a ratio that keeps its digits when b^2w is tiny."""
        log_b = np.log(abs(self.b))
        power = 2 * (whole(windows) + 1) * log_b
        return 0.5 * np.log1p(np.exp(power) * np.expm1(2 * log_b) / np.expm1(power))

    def pacf(self, n: int) -> np.ndarray:
        """Partial autocorrelations -(-b)^k (1-b²) / (1-b^{2k+2})."""
        k, log_b = np.arange(1, int(whole(n, "n")) + 1), np.log(abs(self.b))
        size = np.exp(k * log_b) * np.expm1(2 * log_b) / np.expm1(2 * (k + 1) * log_b)
        return size * (np.where(k % 2, 1, -1) if self.b > 0 else -1)
