"""Sources whose context-truncation sensitivity is known exactly, with samplers.

Every source is a small frozen dataclass. `sensitivity(windows)` is Δ(w) = I(X_{t+1}; X_{≤t-w} |
last w symbols): what a Bayes predictor loses, in nats, when it sees w symbols and not the whole
past. `total_variation(windows)` is the mean total variation between the two laws. `sample(n, seed,
paths)` draws exactly, shape (n,) or (paths, n). Values below the smallest float come out as zero.
The Gaussian sources live in `gaussian` and are imported here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import zeta

from kvlib.theory.gaussian import bregman, require, shape_of, whole

LOG2 = np.log(2.0)
HEAD = 4096  # terms of an infinite sum that are added one by one; the rest is an integral
FARTHEST = 2.0**62  # heavy-tailed lags are cut here before they become integers
_LAGUERRE = np.polynomial.laguerre.laggauss(32)


def _bernoulli_kl(rate: np.ndarray, excess: np.ndarray) -> np.ndarray:
    """KL(Bern(rate + excess) ‖ Bern(rate)), accurate for a small excess."""
    return rate * bregman(excess / rate) + (1 - rate) * bregman(-excess / (1 - rate))


# --- renewal sources --------------------------------------------------------------------------


def _series(scaled: Callable, decay: float, start: ArrayLike) -> np.ndarray:
    """Σ_{n ≥ start} G(log n) n^-(1+decay) for a slowly varying G, every start at once.

    HEAD terms one by one; the rest by Euler-Maclaurin at the midpoint, ∫_{N-½}^∞ + g'(N-½)/24,
    with the integral in log n by Gauss-Laguerre, which is exact for G polynomial in log n.
    """

    def term(n: np.ndarray) -> np.ndarray:
        return scaled(np.log(n)) * n ** -(1 + decay)

    head = np.append(np.cumsum(term(np.arange(HEAD, 0.0, -1)))[::-1], 0.0)
    start = np.asarray(start, dtype=np.float64)
    edge = np.maximum(start, HEAD + 1) - 0.5
    nodes, weights = _LAGUERRE
    integral = scaled(np.log(edge)[..., None] + nodes / decay) @ weights * edge**-decay / decay
    tail = integral + (term(edge + 0.5) - term(edge - 0.5)) / 24
    return head[np.minimum(start, HEAD + 1).astype(int) - 1] + tail


def _mark(first: np.ndarray, gaps: np.ndarray) -> np.ndarray:
    """0/1 paths (paths, n) with renewals at `first` (1 is the first symbol), then after `gaps`."""
    paths, n = gaps.shape
    times = np.cumsum(np.minimum(np.column_stack([first, gaps[:, 1:]]), n + 1), axis=1)
    x = np.zeros((paths, n + 1), dtype=np.uint8)
    np.put_along_axis(x, np.minimum(times, n + 1).astype(int) - 1, 1, axis=1)
    return x[:, :n]


def _power_gaps(theta: float, uniform: np.ndarray, age: ArrayLike = 0.0) -> np.ndarray:
    """Steps to the next renewal after `age` steps without one, P(T > n) = (1+n)^-θ, as floats."""
    steps = np.ceil((1 + np.asarray(age)) * np.expm1(-np.log(uniform) / theta))
    return np.clip(steps, 1, FARTHEST)


def _uniform(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Uniform on (0, 1], so that its logarithm is finite."""
    return 1 - generator.random(shape)


@dataclass(frozen=True)
class Renewal:
    """Stationary binary renewal process with P(T > n) = (1+n)^-θ: X_t = 1 at the renewals.

    The age (steps since the last 1) is all that the past tells, so a counter predicts perfectly
    while a window of w zeros does not: Δ(w) = [M h_b(r̄) - F̄(w) H(T|T>w)] / μ with F̄(n) = P(T>n),
    M = Σ_{a≥w} F̄(a), r̄ = F̄(w)/M, μ = ζ(θ). KL and TV share the exponent θ. Renewal theory;
    formula our reconstruction. Raises ValueError for θ ≤ 1, which has no stationary version.
    """

    theta: float

    def __post_init__(self) -> None:
        require(1 < self.theta < np.inf, "theta", "a number > 1 (stationary)", self.theta)

    def survival(self, n: ArrayLike) -> np.ndarray:
        """F̄(n) = P(T > n) = (1+n)^-θ."""
        return (whole(n, "n") + 1) ** -self.theta

    def hazard(self, age: ArrayLike) -> np.ndarray:
        """P(X_{t+1} = 1 | age), the exact predictor."""
        return -np.expm1(-self.theta * np.log1p(1 / (whole(age, "age") + 1)))

    def _mass(self, log_n: np.ndarray) -> np.ndarray:
        """n^{θ+1} P(T = n), which tends to θ."""
        inverse = np.exp(-np.minimum(log_n, 690))
        return -np.expm1(-self.theta * np.log1p(inverse)) / inverse

    def _surprise(self, log_n: np.ndarray) -> np.ndarray:
        """-log P(T = n)."""
        return (self.theta + 1) * log_n - np.log(self._mass(log_n))

    def sensitivity(self, windows: ArrayLike) -> np.ndarray:
        """Δ(w), nats; to 1e-9 relative for θ ≤ 10, where little cancels."""
        w, theta = whole(windows), self.theta
        survival, mass, rest = (1 + w) ** -theta, zeta(theta, w + 1), zeta(theta, w + 2)
        entropy = _series(lambda y: self._mass(y) * self._surprise(y), theta, w + 1)
        coin = survival * np.log(mass / survival) + rest * np.log(mass / rest)
        return (coin - survival * np.log(survival) - entropy) / zeta(theta)

    def total_variation(self, windows: ArrayLike) -> np.ndarray:
        """Mean |r(A) - r̄| over ages A ≥ w: twice its positive part, closed since r decreases."""
        w, theta = whole(windows), self.theta
        rate = (1 + w) ** -theta / zeta(theta, w + 1)
        cross = np.ceil(1 / np.expm1(-np.log1p(-rate) / theta)) - 1  # first age with r ≤ r̄
        ones = (1 + w) ** -theta - (1 + cross) ** -theta
        return 2 * (ones - rate * (zeta(theta, w + 1) - zeta(theta, cross + 1))) / zeta(theta)

    @property
    def age_entropy_nats(self) -> float:
        """H(A) = log ζ(θ) - θ ζ'(θ)/ζ(θ): what a counter holds in the stationary state."""
        mu = zeta(self.theta)
        return float(np.log(mu) + self.theta * _series(lambda y: y, self.theta - 1, 1) / mu)

    @property
    def excess_entropy_nats(self) -> float:
        """E = I(past; future) = Σ_w Δ(w) = 2 H(A) - H(A, R), R the steps still to go."""
        mu = zeta(self.theta)
        joint = _series(lambda y: self._mass(y) * self._surprise(y), self.theta - 1, 1) / mu
        return float(2 * self.age_entropy_nats - np.log(mu) - joint)

    def capped_counter(self, bits: ArrayLike) -> np.ndarray:
        """Distortion of an age counter that stops at 2^bits - 1: exactly Δ(2^bits - 1), nats."""
        return self.sensitivity(2.0 ** whole(bits, "bits") - 1)

    def sample(self, n: int, seed: int, paths: int | None = None) -> np.ndarray:
        """Stationary 0/1 paths, uint8: the age at the start has P(A ≥ a) = ζ(θ, a+1)/ζ(θ)."""
        shape = shape_of(n, paths)
        generator = np.random.default_rng(seed)
        level = _uniform(generator, shape[:1]) * zeta(self.theta)
        low, high = np.zeros(shape[0]), np.full(shape[0], FARTHEST)
        for _ in range(64):  # the largest age with P(A ≥ age) ≥ level
            middle = np.ceil((low + high) / 2)
            inside = zeta(self.theta, middle + 1) >= level
            low, high = np.where(inside, middle, low), np.where(inside, high, middle - 1)
        first = _power_gaps(self.theta, _uniform(generator, shape[:1]), age=low)
        x = _mark(first, _power_gaps(self.theta, _uniform(generator, shape)))
        return x[0] if paths is None else x


@lru_cache(maxsize=8)
def _renewal_sequence(theta: float, t: int) -> np.ndarray:
    """u_t, ..., u_1, u_0 with u_n = P(renewal at n | renewal at 0)."""
    n = np.arange(1.0, t + 1)
    mass = -(n**-theta) * np.expm1(-theta * np.log1p(1 / n))
    u = np.zeros(t + 1)
    u[t] = 1
    for k in range(1, t + 1):
        u[t - k] = mass[:k] @ u[t - k + 1 :]
    u.flags.writeable = False
    return u


@dataclass(frozen=True)
class ZeroDelayedRenewal:
    """The renewal process started by a renewal at time 0, at time t; the decoder knows t.

    P(A_t = a) = u_{t-a} F̄(a) and Δ_t(w) = Σ_{a≥w} P(A_t = a) kl(r(a) ‖ r̄), any θ > 0. For θ < 1 its
    local slopes are far from θ at any practical t: compare with the exact values, not with an
    exponent. Our reconstruction. Work O(t²) once. Raises ValueError for θ ≤ 0 or t < 1.
    """

    theta: float
    t: int

    def __post_init__(self) -> None:
        require(0 < self.theta < np.inf, "theta", "a number > 0", self.theta)
        whole(self.t, "t", least=1)

    def _ages(self) -> tuple[np.ndarray, np.ndarray]:
        """P(A_t = a) and r(a) for a = 0, ..., t."""
        a = np.arange(self.t + 1)
        u = _renewal_sequence(float(self.theta), int(self.t))
        return u * (1.0 + a) ** -self.theta, -np.expm1(-self.theta * np.log1p(1 / (a + 1)))

    def _mean_of(self, loss: Callable, windows: ArrayLike) -> np.ndarray:
        weight, hazard = self._ages()
        w = whole(windows)

        def one(window: float) -> float:
            p, r = weight[int(window) :], hazard[int(window) :]
            rate = p @ r / p.sum()
            return p @ loss(rate, r - rate)

        values = [one(window) if window < self.t else 0.0 for window in w.ravel()]
        return np.array(values, dtype=np.float64).reshape(w.shape)

    def sensitivity(self, windows: ArrayLike) -> np.ndarray:
        """Δ_t(w), nats; zero for w ≥ t."""
        return self._mean_of(_bernoulli_kl, windows)

    def total_variation(self, windows: ArrayLike) -> np.ndarray:
        """Mean |r(A_t) - r̄| over ages ≥ w."""
        return self._mean_of(lambda rate, excess: np.abs(excess), windows)

    def sample(self, n: int, seed: int, paths: int | None = None) -> np.ndarray:
        """X_1, ..., X_n after the renewal at time 0, uint8."""
        gaps = _power_gaps(self.theta, _uniform(np.random.default_rng(seed), shape_of(n, paths)))
        x = _mark(gaps[:, 0], gaps)
        return x[0] if paths is None else x


@dataclass(frozen=True)
class HyperexponentialRenewal:
    """Renewal process with P(T > n) = q l1^n + (1-q) l2^n: a geometric control, a binary HMM.

    KL falls by l1²/l2 a symbol and TV by l1. Everything is computed from the probability of phase 1
    given the age, as deviations from the last hazard 1 - l2, because hazards themselves agree to
    all digits after some hundred symbols. Our reconstruction. Raises ValueError unless 0 < q < 1
    and 0 < l1 < l2 < 1.
    """

    q: float
    l1: float
    l2: float

    def __post_init__(self) -> None:
        require(0 < self.q < 1, "q", "0 < q < 1", self.q)
        ok = 0 < self.l1 < self.l2 < 1
        require(ok, "l1, l2", "0 < l1 < l2 < 1", (self.l1, self.l2))

    def _phase(self, age: np.ndarray, weight: float = 1.0) -> np.ndarray:
        """P(phase 1 | age), or given age ≥ `age` with weight (1-l2)/(1-l1)."""
        odds = self.q / (1 - self.q) * weight * np.exp(age * np.log(self.l1 / self.l2))
        return odds / (1 + odds)

    def hazard(self, age: ArrayLike) -> np.ndarray:
        """P(X_{t+1} = 1 | age), the exact predictor."""
        return 1 - self.l2 + (self.l2 - self.l1) * self._phase(whole(age, "age"))

    def tail(self, n: np.ndarray | int, power: int = 0) -> np.ndarray:
        """F̄(n), or with power 1 the sum of F̄ from n on."""
        phases = ((self.q, self.l1), (1 - self.q, self.l2))
        first, second = (share * rate**n / (1 - rate) ** power for share, rate in phases)
        return np.asarray(first + second)

    def _mean_of(self, loss: Callable, windows: ArrayLike) -> np.ndarray:
        """Σ_{a≥w} P(A = a) loss(r̄, r(a) - r̄); beyond the last term phase 1 is out of the game."""
        w = whole(windows)[..., None]
        gap, mean_phase = self.l2 - self.l1, self._phase(w, (1 - self.l2) / (1 - self.l1))
        rate = 1 - self.l2 + gap * mean_phase
        a = w + np.arange(np.ceil(45 / max(-np.log(self.l2), np.log(self.l2 / self.l1))))
        near = (self.tail(a) * loss(rate, gap * (self._phase(a) - mean_phase))).sum(axis=-1)
        far = self.tail(a[..., -1:] + 1, power=1) * loss(rate, -gap * mean_phase)
        return (near + far[..., 0]) / self.tail(0, power=1)

    def sensitivity(self, windows: ArrayLike) -> np.ndarray:
        """Δ(w), nats."""
        return self._mean_of(_bernoulli_kl, windows)

    def total_variation(self, windows: ArrayLike) -> np.ndarray:
        """Mean |r(A) - r̄| over ages A ≥ w."""
        return self._mean_of(lambda rate, excess: np.abs(excess), windows)

    def sample(self, n: int, seed: int, paths: int | None = None) -> np.ndarray:
        """Stationary 0/1 paths, uint8: a phase for every gap, the first by its share of time."""
        shape = shape_of(n, paths)
        generator = np.random.default_rng(seed)
        share = np.full(shape[1], self.q)
        share[0] = self.q / (1 - self.l1) / self.tail(0, power=1)
        rate = np.where(generator.random(shape) < share, self.l1, self.l2)
        gaps = np.ceil(np.log(_uniform(generator, shape)) / np.log(rate))
        gaps = np.clip(gaps, 1, FARTHEST)
        x = _mark(gaps[:, 0], gaps)
        return x[0] if paths is None else x


# --- recall, and a re-encoder that is not Bayes -----------------------------------------------


class Rounds(NamedTuple):
    """Rounds of the recall source: fresh bit, lag of the query, and the bit it asks for."""

    bit: np.ndarray
    lag: np.ndarray
    answer: np.ndarray


@dataclass(frozen=True)
class Recall:
    """Round s shows a fresh fair bit B_s, a query lag K_s with P(K > n) = (1+n)^-α, then B_{s-K}.

    A window counts rounds; only the answer carries distortion. Δ(w) = ln 2 Σ_{k>w} p_k Π_{i≤w}
    (1 - p_{k-i}): the bit is unknown unless an answer inside the window gave it away.
    τ = Δ / (2 ln 2). With `limit` the lag is conditioned on K ≤ limit (finite alphabet). Our
    reconstruction. Work O(window) a window, O(limit) if finite. Raises ValueError for α ≤ 0 or a
    limit that is not a whole number ≥ 1.
    """

    alpha: float
    limit: int | None = None

    def __post_init__(self) -> None:
        require(0 < self.alpha < np.inf, "alpha", "a number > 0", self.alpha)
        if self.limit is not None:
            whole(self.limit, "limit", least=1)

    @property
    def _excluded(self) -> float:
        """P(K > limit) before conditioning."""
        return 0.0 if self.limit is None else (1.0 + self.limit) ** -self.alpha

    def tail(self, n: ArrayLike) -> np.ndarray:
        """P(K > n)."""
        plain = (np.asarray(n, dtype=np.float64) + 1) ** -self.alpha
        return np.maximum(plain - self._excluded, 0) / (1 - self._excluded)

    def lag_law(self, n: int) -> np.ndarray:
        """P(K = 1), ..., P(K = n), shape (n,)."""
        k = np.arange(1.0, int(whole(n, "n")) + 1)
        p = -(k**-self.alpha) * np.expm1(-self.alpha * np.log1p(1 / k)) / (1 - self._excluded)
        return np.where(k <= (self.limit or np.inf), np.minimum(p, 1), 0.0)

    def sensitivity(self, windows: ArrayLike) -> np.ndarray:
        """Δ(w), nats a round."""
        w = whole(windows)
        top = self.limit or HEAD + 16 * int(w.max(initial=0))
        p = self.lag_law(top)
        with np.errstate(divide="ignore"):  # limit = 1 has p = 1
            silent = np.concatenate([[0.0], np.cumsum(np.log1p(-p))])

        def one(window: int) -> float:
            if window >= (self.limit or np.inf):
                return 0.0
            last = self.limit or HEAD + 16 * window
            k = np.arange(window + 1, last + 1)
            told = -np.expm1(silent[k - 1] - silent[k - 1 - window])
            return self.tail(window) - p[window:last] @ told - self._told_beyond(window, last)

        values = [one(int(window)) for window in w.ravel()]
        return LOG2 * np.array(values, dtype=np.float64).reshape(w.shape)

    def _told_beyond(self, window: int, last: int) -> float:
        """Σ_{k>last} p_k [1 - Π_i (1 - p_{k-i})] by an integral; there Σ_i log(1 - p_{k-i}) is
        -[(k-w)^-α - k^-α] - ½ Σ p², the second sum by its integral."""
        if window == 0 or self.limit is not None:
            return 0.0
        alpha, (nodes, weights) = self.alpha, _LAGUERRE
        decay = 2 * alpha + 1
        x = (last + 0.5) * np.exp(nodes / decay)
        p = -(x**-alpha) * np.expm1(-alpha * np.log1p(1 / x))
        first = x**-alpha * np.expm1(-alpha * np.log1p(-window / x))
        second = ((x - window) ** -decay - x**-decay) * alpha**2 / decay
        told = -np.expm1(-first - second / 2)
        return float(weights @ (np.exp(nodes) * p * told * x) / decay)

    def total_variation(self, windows: ArrayLike) -> np.ndarray:
        """τ(w) = Δ(w) / (2 ln 2): where the bit is unknown the law moves by one half."""
        return self.sensitivity(windows) / (2 * LOG2)

    def lower_bound(self, bits: ArrayLike) -> np.ndarray:
        """Least distortion of any memory of entropy ≤ `bits` bits, even chosen with all the past.

        d ≥ ln 2 · P(K > b) for whole b, interpolated linearly in between; met by the last b fresh
        bits. Each bit can be known only once and p_k decreases. Our reconstruction. Raises
        ValueError for bits < 0.
        """
        b = np.asarray(bits, dtype=np.float64)
        require(bool((b >= 0).all()), "bits", "numbers ≥ 0", bits)
        part = b - np.floor(b)
        return LOG2 * ((1 - part) * self.tail(np.floor(b)) + part * self.tail(np.floor(b) + 1))

    def random_retention(self, kept: ArrayLike, horizon: int) -> np.ndarray:
        """Distortion of a random `kept` of the last `horizon` bits: ln 2 [1 - (w/T) P(K ≤ T)]."""
        return LOG2 * (1 - whole(kept, "kept") / horizon * (1 - self.tail(horizon)))

    def sample(self, n: int, seed: int, paths: int | None = None) -> Rounds:
        """Rounds of the stationary source: uint8 bits and answers, int64 lags (cut at 2^62).

        Lags reach back before the first round; the bits there are drawn once and kept.
        """
        shape = shape_of(n, paths)
        generator = np.random.default_rng(seed)
        bit = generator.integers(0, 2, shape, dtype=np.uint8)
        u = self._excluded + (1 - self._excluded) * _uniform(generator, shape)
        with np.errstate(over="ignore"):
            lag = np.ceil(u ** (-1 / self.alpha)) - 1
        lag = np.clip(lag, 1, self.limit or FARTHEST).astype(np.int64)
        source = np.arange(shape[1]) - lag
        answer = np.take_along_axis(bit, np.maximum(source, 0), axis=1)
        for row in range(shape[0]):
            before = source[row] < 0
            _, place = np.unique(source[row][before], return_inverse=True)
            answer[row, before] = generator.integers(0, 2, before.sum(), dtype=np.uint8)[place]
        return Rounds(*((a[0] if paths is None else a) for a in (bit, lag, answer)))


@dataclass(frozen=True)
class MisspecifiedMarkov:
    """A Markov chain, whose Δ(w) is 0 for w ≥ 1, read by a re-encoder that is not Bayes.

    From w symbols it answers Q_w = (1-η) P + η U, η = w^{-α/2}, U uniform: its distortion falls
    like w^-α, though one symbol suffices. A power law measured by re-encoding bounds Δ from above
    only. Our reconstruction. Raises ValueError for α ≤ 0, or a transition matrix that isn't square,
    positive, with rows that sum to 1, or is uniform.
    """

    alpha: float
    transition: tuple[tuple[float, ...], ...] = ((0.9, 0.1), (0.2, 0.8))

    def __post_init__(self) -> None:
        require(0 < self.alpha < np.inf, "alpha", "a number > 0", self.alpha)
        p = np.array(self.transition, dtype=np.float64)
        square = p.ndim == 2 and p.shape[0] == p.shape[1] >= 2
        require(square, "transition", "a square matrix", p.shape)
        ok = (p > 0).all() and np.allclose(p.sum(axis=1), 1, rtol=0, atol=1e-9)
        require(bool(ok), "transition", "positive rows that sum to 1", self.transition)
        require(not np.allclose(p, 1 / len(p)), "transition", "rows that aren't uniform", p)
        object.__setattr__(self, "transition", tuple(map(tuple, p.tolist())))

    @property
    def stationary(self) -> np.ndarray:
        """The stationary law of the chain."""
        p = np.array(self.transition)
        system = np.vstack([p.T - np.eye(len(p)), np.ones(len(p))])
        return np.linalg.lstsq(system, np.append(np.zeros(len(p)), 1.0), rcond=None)[0]

    def sensitivity(self, windows: ArrayLike) -> np.ndarray:
        """Δ(w) of the Bayes predictor, nats: I(X_t; X_{t+1}) at w = 0, then 0."""
        p, pi = np.array(self.transition), self.stationary
        return np.where(whole(windows) == 0, pi @ (pi * bregman(p / pi - 1)).sum(axis=1), 0.0)

    def total_variation(self, windows: ArrayLike) -> np.ndarray:
        """Mean TV of the Bayes predictor: 0 for w ≥ 1."""
        p, pi = np.array(self.transition), self.stationary
        return np.where(whole(windows) == 0, 0.5 * pi @ np.abs(p - pi).sum(axis=1), 0.0)

    def reencoded(self, windows: ArrayLike) -> np.ndarray:
        """D(w) = E KL(P ‖ Q_w) ≥ Δ(w) of the re-encoder, nats; windows ≥ 1."""
        eta = whole(windows, least=1)[..., None, None] ** (-self.alpha / 2)
        p = np.array(self.transition)
        q = (1 - eta) * p + eta / len(p)
        return (q * bregman(eta * (p - 1 / len(p)) / q)).sum(axis=-1) @ self.stationary

    def sample(self, n: int, seed: int, paths: int | None = None) -> np.ndarray:
        """Stationary paths of states, int64."""
        shape = shape_of(n, paths)
        u = np.random.default_rng(seed).random(shape)
        steps = np.cumsum(np.array(self.transition), axis=1)[:, :-1]
        x = np.zeros(shape, dtype=np.int64)
        x[:, 0] = np.searchsorted(np.cumsum(self.stationary)[:-1], u[:, 0], side="right")
        for t in range(1, shape[1]):
            x[:, t] = (u[:, t, None] >= steps[x[:, t - 1]]).sum(axis=1)
        return x[0] if paths is None else x
