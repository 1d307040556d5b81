"""Do the intervals of `fit` cover the truth? Simulated studies of sources with known exponents.

A study has `documents` paths of a stationary source. In each, `targets` consecutive symbols are
predicted by the exact predictor of order w, for every window w, and by the exact predictor of order
T = `context`; the document gives the mean KL(order T ‖ order w) over its targets, so that tokens
stay as correlated as the source makes them. The expectation is Δ(w) - Δ(T). Every study is drawn
afresh: no document serves twice, and the studies are independent.

The estimand is the exponent that the same law gives for the exact expected curve on the same
windows, T and weights (those of all documents together): for `GaussianPowerLaw` it is α, the
finite-context law being exact there; for `Recall` eq. Δ ~ w^-α holds only in the limit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

import numpy as np
import pandas as pd
from scipy.fft import irfft, rfft
from scipy.stats import binomtest, norm

from kvlib.fit.contests import extrapolation
from kvlib.fit.curve import BINS_PER_OCTAVE, Curve
from kvlib.fit.exponents import jackknife_t
from kvlib.fit.laws import LAWS, fit_law
from kvlib.theory.gaussian import GaussianPowerLaw, MovingAverage, bregman, gaussian_kl
from kvlib.theory.sources import LOG2, HyperexponentialRenewal, Recall, Rounds

LAW = LAWS["finite-context power"]
METHODS = (  # the last is what resampling tokens tends to when there are many
    *("documents, percentile", "documents, studentised", "documents, BCa"),
    *("documents, jackknife-t", "tokens, as if independent"),
)
COLUMNS = (  # of a check's rows; contests have no interval, and NaN in the second line
    *("method", "studies", "hits", "share", "low", "high"),
    *("alpha", "estimand", "mean_estimate", "mean_width", "check", "source"),
)
CHUNK = 480  # documents sampled at once
LEVELS = np.array([0.025, 0.975])


@dataclass(frozen=True)
class Design:
    """What is simulated: a source, and the shape of a study."""

    name: str
    source: GaussianPowerLaw | MovingAverage | Recall | HyperexponentialRenewal
    windows: tuple[int, ...]
    context: int
    targets: int
    documents: int = 24

    @property
    def alpha(self) -> float:
        """The exponent of the source, where it has one."""
        return cast(GaussianPowerLaw | Recall, self.source).alpha

    @property
    def expected(self) -> np.ndarray:
        """Δ(w) - Δ(T): the exact mean of a document."""
        return self.source.sensitivity(self.windows) - self.source.sensitivity(self.context)


def log_windows(first: float, last: float) -> tuple[int, ...]:
    """Whole windows, log-spaced like the bins of a curve."""
    octaves = np.arange(np.log2(first), np.log2(last) + 1e-9, 1 / BINS_PER_OCTAVE)
    return tuple(int(w) for w in np.unique(np.round(2**octaves)))


def power_designs() -> list[Design]:
    """Sources with known exponents. All-plus signs make long stretches of tokens alike; recall has
    two events or more a document at every window, so that no mean is zero."""
    rough, plus = "rudin-shapiro", "plus"
    return [
        Design(f"Gaussian α={a}, {s}", GaussianPowerLaw(a, 0.1, s), log_windows(8, 512), 1024, 256)
        for a, s in ((0.5, rough), (1.0, rough), (1.5, rough), (1.0, plus))
    ] + [
        Design(f"recall α={a}", Recall(a), log_windows(8, top), 1024, 1024)
        for a, top in ((0.5, 512), (1.0, 256), (1.5, 64))
    ]


def geometric_designs() -> list[Design]:
    """Controls without a power law; the windows reach ten lengths over which Δ falls by e."""
    renewal = HyperexponentialRenewal(0.5, 0.9, 0.98)
    return [
        Design("MA(1) b=0.9", MovingAverage(0.9), log_windows(4, 48), 256, 256),
        Design("hyperexponential renewal", renewal, log_windows(4, 52), 256, 256),
    ]


# --- documents --------------------------------------------------------------------------------


def simulate(design: Design, studies: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Means (studies, documents, windows) of the KL, nats, and the mean products of its tokens at
    two windows (studies, windows, windows), which only the naive interval needs."""
    kind = {Recall: _recall, HyperexponentialRenewal: _renewal}.get(type(design.source), _gaussian)
    size, per_chunk, found = design.documents, max(1, CHUNK // design.documents), []
    seeds = np.random.SeedSequence(seed).generate_state(-(-studies // per_chunk))
    for k, chunk_seed in enumerate(seeds):
        n = min(per_chunk, studies - k * per_chunk)
        means, products = kind(design, n * size, int(chunk_seed))
        products = products.reshape(n, size, *products.shape[1:]).mean(axis=1)
        found.append((means.reshape(n, size, -1), products))
    means, products = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
    return means, products


def _gaussian(design: Design, documents: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The two means differ by a linear filter of the path, applied by FFT."""
    source = cast(GaussianPowerLaw, design.source)
    context, n = design.context, design.context + design.targets
    filters = np.zeros((len(design.windows), n))
    filters[:, 1 : context + 1] = source.predictor(context)
    for row, window in zip(filters, design.windows, strict=True):
        row[1 : window + 1] -= source.predictor(window)
    variances = source.innovation_variances(context)
    variance, spectra = variances[list(design.windows), None], rfft(filters)
    fixed = gaussian_kl(0.0, variances[-1], 0.0, variance)
    means, products = np.empty((documents, len(fixed))), np.empty((documents, *2 * (len(fixed),)))
    for d, path in enumerate(source.sample(n, seed, documents)):
        gap = irfft(rfft(path) * spectra, n)[:, context:]  # the rest wraps around
        kl = fixed + 0.5 * gap**2 / variance
        means[d], products[d] = kl.mean(axis=1), kl @ kl.T / design.targets
    return means, products


def _recall(design: Design, documents: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """ln 2 where a window of T rounds knows the bit and one of w does not. The least window that
    knows it is the lag, or the distance to the last round that asked for the same bit."""
    rounds = cast(Rounds, design.source.sample(design.context + design.targets, seed, documents))
    asked = np.arange(rounds.lag.shape[1]) - rounds.lag
    order = np.argsort(asked, axis=1, kind="stable")
    ranked, reach = (np.take_along_axis(array, order, axis=1) for array in (asked, rounds.lag))
    again = ranked[:, 1:] == ranked[:, :-1]
    reach[:, 1:][again] = np.diff(order, axis=1)[again]
    back = np.empty_like(reach)
    np.put_along_axis(back, order, reach, axis=1)
    back = back[:, design.context :]
    unknown = [((back > w) & (back <= design.context)).mean(axis=1) for w in design.windows]
    means = LOG2 * np.stack(unknown, axis=1)
    larger = np.maximum.outer(*2 * (np.arange(len(design.windows)),))
    return means, LOG2 * means[:, larger]  # both unknown: the larger window's event


def _renewal(design: Design, documents: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A window that holds a 1 knows the age and is exact; the others share one hazard."""
    source, context = cast(HyperexponentialRenewal, design.source), design.context
    x = source.sample(context + design.targets, seed, documents)
    index = np.arange(x.shape[1])
    last = np.maximum.accumulate(np.where(x > 0, index, -1), axis=1)
    ages = np.minimum(index[context:] - 1 - last[:, context - 1 : -1], context)
    age = np.arange(context + 1)
    pooled = source.tail(age) / source.tail(age, power=1)  # the hazard given no smaller age
    rate = pooled[list(design.windows), None]
    excess = np.append(source.hazard(age[:-1]), pooled[-1]) - rate
    kl = rate * bregman(excess / rate) + (1 - rate) * bregman(-excess / (1 - rate))
    kl *= age >= np.array(design.windows)[:, None]
    shares = np.stack([np.bincount(row, minlength=context + 1) for row in ages]) / design.targets
    return shares @ kl.T, np.einsum("da,wa,va->dwv", shares, kl, kl, optimize=True)


# --- intervals --------------------------------------------------------------------------------


def gradients(value: np.ndarray, alpha: np.ndarray, data: Curve) -> np.ndarray:
    """d α / d value of the fit, shape (rows, windows), by the implicit function theorem."""
    w, step = data.weights, 1e-4
    shapes = [(alpha + k * step)[:, None] for k in (-1, 0, 1)]
    below, x, above = (LAW.basis(data.window, shape, data.contexts) for shape in shapes)
    first, second = (above - below) / (2 * step), (above - 2 * x + below) / step**2
    first, error = (a - (a @ w)[:, None] for a in (first, np.log(value) - x))
    return w * first / value / ((first**2 - error * second) @ w)[:, None]


def intervals(
    data: Curve, products: np.ndarray, targets: int, n_boot: int, seed: int
) -> tuple[float, dict[str, tuple[float, float]]]:
    """The exponent of one study and its 95% interval by each of METHODS: the percentile one is that
    of `fit.exponent`, faster, since α is sought near the jackknife's."""
    n, docs = data.n_documents, data.doc_means
    jackknife = jackknife_t(data)
    width = jackknife.high - jackknife.low
    near = np.linspace(max(jackknife.value - 2 * width, 0.01), jackknife.value + 2 * width, 29)
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=n_boot)
    stacked = np.vstack([data.mean, counts @ docs / n])
    law = replace(LAW, shapes=near)
    alphas = fit_law(law, data.window, stacked, data.weights, data.contexts).exponent
    slopes = gradients(stacked, alphas, data)
    alpha, samples = alphas[0], alphas[1:]

    influence = slopes @ docs.T - (slopes * stacked).sum(axis=1)[:, None]
    drawn = np.vstack([np.ones(n), counts])
    errors = np.sqrt((drawn * influence**2).sum(axis=1) / n / (n - 1))
    bend = (influence[0] ** 3).sum() / (6 * (influence[0] ** 2).sum() ** 1.5)
    bias = norm.ppf(np.clip((samples < alpha).mean(), 1 / n_boot, 1 - 1 / n_boot))
    shifted = bias + norm.ppf(LEVELS)
    tokens = (products - np.outer(data.mean, data.mean)) / (n * targets)
    found = (
        np.quantile(samples, LEVELS),
        alpha - errors[0] * np.quantile((samples - alpha) / errors[1:], LEVELS[::-1]),
        np.quantile(samples, norm.cdf(bias + shifted / (1 - bend * shifted))),
        (jackknife.low, jackknife.high),
        alpha + np.sqrt(slopes[0] @ tokens @ slopes[0]) * norm.ppf(LEVELS),
    )
    return float(alpha), {name: tuple(pair) for name, pair in zip(METHODS, found, strict=True)}


# --- tables -----------------------------------------------------------------------------------


def curves(design: Design, doc_means: np.ndarray) -> Iterator[Curve]:
    """The curve of every study."""
    windows = np.array(design.windows, dtype=float)
    for docs in doc_means:
        contexts, size = np.array([float(design.context)]), docs.size * design.targets
        yield Curve(windows, windows, windows, docs, contexts, size, size)


def estimand(design: Design, doc_means: np.ndarray) -> float:
    """The exponent of the exact expected curve under the weights of all documents together."""
    weights = (doc_means.mean(axis=(0, 1)) / doc_means.std(axis=(0, 1))) ** 2
    contexts = np.array([float(design.context)])
    return float(
        fit_law(LAW, np.array(design.windows), design.expected, weights, contexts).exponent
    )


def share(hits: int, studies: int) -> dict[str, float]:
    """A proportion with its 95% binomial interval (Clopper and Pearson)."""
    low, high = binomtest(int(hits), studies).proportion_ci(0.95)
    return dict(studies=studies, hits=int(hits), share=hits / studies, low=low, high=high)


def coverage(design: Design, studies: int, n_boot: int = 1000, seed: int = 0) -> pd.DataFrame:
    """How often each method's interval covers the estimand: a row for each, with the binomial
    interval `low` to `high` of the `share`, and the mean estimate and width of interval."""
    doc_means, products = simulate(design, studies, seed)
    truth, found = estimand(design, doc_means), []
    for k, data in enumerate(curves(design, doc_means)):
        found.append(intervals(data, products[k], design.targets, n_boot, seed + k))
    mean = np.mean([alpha for alpha, _ in found])
    rows, same = [], {"alpha": design.alpha, "estimand": truth, "mean_estimate": mean}
    for method in METHODS:
        low, high = np.array([pairs[method] for _, pairs in found]).T
        counted = share(((low <= truth) & (truth <= high)).sum(), studies)
        rows.append({"method": method, **counted, **same, "mean_width": (high - low).mean()})
    return pd.DataFrame(rows).assign(check="interval", source=design.name)


def contest(design: Design, studies: int, n_boot: int = 200, seed: int = 0) -> pd.DataFrame:
    """How often `fit.extrapolation` from the nearer half of the windows (on a log scale) names
    the exponential: its error is the smaller one, or surely so (the ratio's whole interval)."""
    split = float(np.sqrt(design.windows[0] * design.windows[-1]))
    named: dict[str, list[bool]] = {}
    for data in curves(design, simulate(design, studies, seed)[0]):
        for rival in ("power", LAW.name):
            pair = ("exponential", rival)
            ratio = extrapolation(data, split, pair, n_boot, seed, rival).ratios[pair[0]]
            named.setdefault(f"exponential before {rival}", []).append(ratio.value < 1)
            named.setdefault(f"exponential surely before {rival}", []).append(ratio.high < 1)
    rows = [{"method": method, **share(sum(hits), studies)} for method, hits in named.items()]
    return pd.DataFrame(rows).assign(check="contest", source=design.name)


# --- as a study -------------------------------------------------------------------------------


def checked(settings: dict[str, Any], docs: int) -> dict[str, Any]:
    """The settings of a study of this kind, with all designs; its documents are their checks."""
    if docs != len(_checks()):
        raise ValueError(f"docs: expected {len(_checks())}, one a check, got {docs}")
    for key in ("studies", "resamples"):
        if settings[key] < 1:
            raise ValueError(f"{key}: expected at least 1, got {settings[key]}")
    designs = power_designs() + geometric_designs()
    return settings | {
        "designs": [asdict(design) | {"source": repr(design.source)} for design in designs]
    }


def item_rows(
    lm: None, text: None, settings: dict[str, Any], docs: int
) -> Callable[[int], pd.DataFrame]:
    """The number of a check → its rows."""
    s, checks = settings, _checks()

    def rows(number: int) -> pd.DataFrame:
        check, design = checks[number]
        seed = s["seed"] + 10_000 * number  # no two checks share their random numbers
        if check == "interval":
            found = coverage(design, s["studies"], s["resamples"], seed)
        else:
            found = contest(design, s["studies"], seed=seed)
        return found.reindex(columns=COLUMNS).assign(doc=np.int16(number))

    return rows


def _checks() -> list[tuple[str, Design]]:
    """What is checked: intervals where the exponent is known; contests where there is no power
    law, and where α = 1."""
    power = power_designs()
    contested = [*geometric_designs(), *(d for d in power if d.alpha == 1)]
    return [("interval", d) for d in power] + [("contest", d) for d in contested]
