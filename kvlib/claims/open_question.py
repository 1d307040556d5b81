"""C8: can a carried summary beat the window? Exact sources of one exponent, and real caches.

The sources, their recurrent memories and the bounds are our reconstruction. On real models a cache
that evicts online is compared with re-encoded suffixes of equal budget, on all stored tokens of the
documents that both were scored on; and one policy in three protocols, on the tokens that all share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from kvlib import fit, names, store
from kvlib.claims import chances
from kvlib.claims.claim import Claim, Figure, Verdict, figures_of, rule_text
from kvlib.claims.policy_rows import (
    DISTANCES,
    MODEL,
    PROTOCOLS,
    SINKS,
    SLIDING,
    curve,
    same_documents,
    stored_rows,
    suffix_tables,
)
from kvlib.fit import MARGIN, log_mean, log_ratio
from kvlib.theory import banks, bounds, gaussian, sources

CLAIM = Claim(
    "C8", "Open: can summaries that carry old tokens forward beat that scaling?", "open_question"
)
CLAIMS = (CLAIM,)


def protocols_compared(rows: pd.DataFrame, policy: str) -> pd.DataFrame:
    """The three protocols of one policy at equal budgets, on the documents and tokens they share.

    Columns: `model, corpus, policy, budget, documents, tokens`, an `fit.Estimate` of the mean KL
    for each protocol, and `online / reencode`, `online / prefill`, paired ratios.
    """
    ours = rows[rows["policy"] == policy]
    table = []
    for (model, corpus, budget), part in ours.groupby(["model", "corpus", "budget"], sort=False):
        wide = part.pivot_table(index=["doc", "position"], columns="protocol", values="kl_nats")
        if set(wide) != set(PROTOCOLS) or len(wide := wide.dropna()) == 0:
            continue
        docs = wide.groupby("doc").mean()
        if len(docs) < 3:
            continue
        of = {name: docs[name].to_numpy() for name in docs}
        table.append(
            {
                **{"model": model, "corpus": corpus, "policy": policy, "budget": int(budget)},
                **{"documents": len(docs), "tokens": len(wide)},
                **{name: log_mean(of[name]) for name in PROTOCOLS},
                "online / reencode": log_ratio(of["online"], of["reencode"]),
                "online / prefill": log_ratio(of["online"], of["prefill"]),
            }
        )
    return pd.DataFrame(table)


# --- online caches and suffixes, on all tokens ------------------------------------------------

SAME_BUDGET, SAME_RECENT = WINDOWS = ("same budget", "same recent tokens")
SURE = 0.05  # a corrected two-sided p below it
STUDIES = 100
TRUTHS = (0.0, -0.05, -0.1, -0.2)  # slopes that might have been
ANSWERS = ("yes", "no", "undecided")  # of caches: does carrying forward beat the scaling?


def carrying(rows: pd.DataFrame, suffixes: dict[tuple[str, str], pd.DataFrame]) -> pd.DataFrame:
    """Distortion of an online cache with sinks over that of a re-encoded suffix.

    `rows` and `suffixes` are those of `stored_rows` and `suffix_tables`: every token that either
    was scored on, of the documents that both have. Columns: `model, corpus, distance`, `window` (of
    WINDOWS: the suffix has as many tokens as the cache has entries, or as it has besides sinks),
    `budget, documents, tokens, suffixes` (rows behind both), `ratio` (an `fit.Estimate`, paired
    over documents), `p` (two-sided, of a ratio of one) and `corrected` (Holm, over all rows).
    """
    table = []
    for place, data, below, (tokens, pairs) in _pairs(rows, suffixes):
        budgets, gaps = log_gaps(data, below, _kept(place))
        for budget, gap in zip(budgets, gaps.T, strict=True):
            item = fit.jackknife(gap[0], gap[1:])
            above = fit.p_above(item, 0)
            p = 2 * min(above, 1 - above)
            counts = int(budget), data.n_documents, tokens[int(budget)], pairs
            table.append((*place, *counts, fit.exponential_of(item), p))
    columns = ["model", "corpus", "distance", "window", "budget", "documents", "tokens"]
    found = pd.DataFrame(table, columns=[*columns, "suffixes", "ratio", "p"])
    return found.assign(corrected=fit.holm(found["p"].to_numpy()))


def carrying_slopes(
    rows: pd.DataFrame, suffixes: dict[tuple[str, str], pd.DataFrame]
) -> pd.DataFrame:
    """Slope of log(online / suffix) on log window: below zero where a gain grows with the budget.

    Columns: `model, corpus, distance, window, documents, slope` (an `fit.Estimate`), `p`
    (two-sided, of no slope) and `corrected` (Holm, over all rows). If carrying changed the
    exponent, the slope would be the change.
    """
    table = []
    for place, data, below, _ in _pairs(rows, suffixes):
        budgets, gaps = log_gaps(data, below, _kept(place))
        x = np.log(budgets - _kept(place))
        x -= x.mean()
        slopes = gaps @ x / (x @ x)
        slope = fit.jackknife(slopes[0], slopes[1:])
        above = fit.p_above(slope, 0)
        table.append((*place, data.n_documents, slope, 2 * min(above, 1 - above)))
    columns = ["model", "corpus", "distance", "window", "documents", "slope", "p"]
    found = pd.DataFrame(table, columns=columns)
    return found.assign(corrected=fit.holm(found["p"].to_numpy()))


def _pairs(rows: pd.DataFrame, suffixes: dict[tuple[str, str], pd.DataFrame]) -> Iterator[tuple]:
    """Model, text, distance and window; curves of cache and suffixes; rows behind each."""
    online = rows[(rows["protocol"] == "online") & (rows["policy"] == SINKS)]
    for (model, corpus), suffix in suffixes.items():
        ours = online[(online["model"] == model) & (online["corpus"] == corpus)]
        if len(ours) == 0:
            continue
        ours, below = same_documents(ours, suffix)
        counts = ours.groupby("budget").size().to_dict(), len(below)
        for distance, value in DISTANCES.items():
            pair = curve(ours, False, value), fit.curve(below, value)
            for window in WINDOWS:
                yield (model, corpus, distance, window), *pair, counts


def _kept(place: tuple[str, ...]) -> int:
    """Entries of the cache that its suffix has no token for."""
    return names.sinks_of(SINKS) if place[-1] == SAME_RECENT else 0


def log_gaps(cache: fit.Curve, suffix: fit.Curve, sinks: int) -> tuple[np.ndarray, np.ndarray]:
    """Budgets, and log(cache / suffix of `sinks` fewer tokens): (1 + documents, budgets).

    First of all documents, then without each in turn. The suffix is read as `fit.log_gap` has it.
    """
    window = cache.window - sinks
    inside = (window >= suffix.first[0]) & (window <= suffix.last[-1])
    docs = cache.doc_means[:, inside]
    ours = replace(cache, window=window[inside], doc_means=docs)
    both = zip(ours.leaving_out(), suffix.leaving_out(), strict=True)
    return cache.window[inside], np.array([fit.log_gap(*pair) for pair in both])


def surely(table: pd.DataFrame, gain: bool) -> pd.DataFrame:
    """The rows of `carrying` whose ratio is surely below one (a gain), or above it; corrected."""
    below = np.array([item.value < 1 for item in table["ratio"]], dtype=bool)
    return table[(table["corrected"] < SURE) & (below == gain)]


# --- what each part of the evidence answers -----------------------------------------------------


def answer_of_sources(table: pd.DataFrame) -> str:
    """`yes` where a recurrent memory wins on every source of `open_question_table`, `no` where it
    keeps the exponent on every one, else `both`."""
    outcomes = set(table["outcome"])
    if len(outcomes) != 1:
        return "both"
    return "yes" if outcomes == {"wins"} else "no"


def answer_of_caches(ratios: pd.DataFrame, slopes: pd.DataFrame) -> str:
    """What `carrying` and `carrying_slopes` of one distance and window answer."""
    estimates = list(ratios["ratio"]), list(slopes["slope"])
    corrected = (table["corrected"].to_numpy() for table in (ratios, slopes))
    return answer_of_tables(_largest(ratios, slopes), *estimates, *corrected)


def answer_of_tables(
    largest: list[np.ndarray],
    ratios: list[fit.Estimate],
    slopes: list[fit.Estimate],
    p_ratios: np.ndarray,
    p_slopes: np.ndarray,
) -> str:
    """The answer that all tables share, else `undecided`.

    On a table `yes`: a gain at the largest budget (its places among the ratios are `largest`) and a
    gain that grows with the budget, both sure (corrected). `no`: the slope's interval lies above
    -MARGIN, so that the gain in the exponent is smaller, and the slope is not surely below zero.
    """
    answers = set()
    for places, slope, p in zip(largest, slopes, p_slopes, strict=True):
        falls = p < SURE and slope.value < 0
        gains = any(p_ratios[k] < SURE and ratios[k].value < 1 for k in places)
        if falls and gains:
            answers.add("yes")
        else:
            answers.add("no" if slope.low > -MARGIN and not falls else "undecided")
    return answers.pop() if len(answers) == 1 else "undecided"


def _largest(ratios: pd.DataFrame, slopes: pd.DataFrame) -> list[np.ndarray]:
    """For the table of each slope, the places of the ratios at its largest budget."""
    budget, found = ratios["budget"].to_numpy(), []
    for row in slopes.itertuples():
        here = (ratios["model"] == row.model) & (ratios["corpus"] == row.corpus)
        found.append(np.flatnonzero(here & (budget == budget[here].max())))
    return found


def answers_of(
    above: pd.DataFrame, below: pd.DataFrame, ratios: pd.DataFrame, slopes: pd.DataFrame
) -> dict[str, str]:
    """Part of the evidence → its answer: exact sources of α above and below one, real caches in
    each distance (at the same budget)."""
    found = {
        "exact sources, α > 1": answer_of_sources(above),
        "exact sources, α < 1": answer_of_sources(below),
    }
    for distance in DISTANCES:
        here = [
            table[(table["distance"] == distance) & (table["window"] == SAME_BUDGET)]
            for table in (ratios, slopes)
        ]
        if len(here[0]):
            found[f"real caches, {distance}"] = answer_of_caches(*here)
    return found


def reading(answer: str) -> str:
    """The word on a part: `partly` where it answers with one voice, for it is only a part."""
    return "partly" if answer in ("yes", "no") else "open"


def carrying_chances(
    ratios: pd.DataFrame,
    slopes: pd.DataFrame,
    truths: Sequence[float] = TRUTHS,
    studies: int = STUDIES,
) -> pd.DataFrame:
    """What `answer_of_caches` would have said, were the slope another one on every table.

    Studies as precise as ours are drawn: a slope around `slope` on each table, and a ratio at each
    budget around that of a power law with no gain at the smallest budget. (Slope and ratios are
    drawn apart.) Columns: `slope, distance`, and the share of studies with each answer.
    """
    rng = np.random.default_rng(0)
    table = []
    for distance in DISTANCES:
        ours, theirs = (
            part[(part["distance"] == distance) & (part["window"] == SAME_BUDGET)]
            for part in (ratios, slopes)
        )
        levels = ours["budget"].to_numpy() / ours["budget"].min()
        tables = _largest(ours, theirs), list(ours["ratio"]), list(theirs["slope"])
        for truth in truths:
            said = [_drawn_answer(*tables, levels, truth, rng) for _ in range(studies)]
            shares = chances.counted(said, ANSWERS)
            table.append({"slope": truth, "distance": distance} | shares)
    return pd.DataFrame(table, columns=["slope", "distance", *ANSWERS])


def power(of: pd.DataFrame) -> str:
    """What data would have given each answer, from `carrying_chances`."""
    columns = ["distance", "truth", *ANSWERS]
    table = of.rename(columns={"slope": "truth"}).reindex(columns=columns)
    truth = "the slope of the ratio in the budget on every table"
    return (
        "Exact sources cannot be drawn: above one both kinds are proved to exist, and below one a "
        "single source on which a memory wins would turn that answer to both. "
        f"{chances.sentence(table, truth, STUDIES)}"
    ).rstrip()


def _drawn_answer(
    largest: list[np.ndarray],
    ratios: list[fit.Estimate],
    slopes: list[fit.Estimate],
    levels: np.ndarray,
    truth: float,
    rng: np.random.Generator,
) -> str:
    """The answer of one study that might have been. Tries are corrected for within the distance."""
    pairs = zip(ratios, levels**truth, strict=True)
    drawn = [fit.drawn(item, level, rng, log=True) for item, level in pairs]
    bent = [fit.drawn(item, truth, rng) for item in slopes]
    corrected = []
    for items in (map(fit.logarithm_of, drawn), bent):
        above = np.array([fit.p_above(item, 0) for item in items])
        corrected.append(fit.holm(2 * np.minimum(above, 1 - above)))
    return answer_of_tables(largest, drawn, bent, *corrected)


# --- constants of the exact sources ---------------------------------------------------------------

PREFACTOR = 0.08  # nats; of the Gaussian sources
ORDER = 512  # the Gaussian sources are compared with a predictor of so many symbols
ALPHA, ALPHA_BELOW = 1.5, 0.75  # of the two tables; real exponents are below one
ABOVE_ONE = ("renewal", "plus")  # below, one is not stationary and one not ergodic
ALPHAS = (ALPHA_BELOW, 0.9, 1.1, 1.25, 1.5, 1.75, 2.0)
EPSILONS = tuple(round(m * 10.0**k, 6) for k in (-4, -3, -2) for m in (1, 1.5, 2, 3, 5, 7))[:-2]


# --- the open question ------------------------------------------------------------------------


def least_memory(risk: Callable[[int], float], epsilon: float, most: int = 2**24) -> int:
    """The least integer n ≥ 0 with risk(n) ≤ ε, for a non-increasing risk, by bisection; -1 where
    `most` doesn't do."""
    low, high = -1, 1
    while high < most and risk(high) > epsilon:
        low, high = high, 2 * high
    high = min(high, most)
    if risk(high) > epsilon:
        return -1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if risk(middle) <= epsilon else (middle, high)
    return high


def best_bank(source: gaussian.GaussianPowerLaw, states: int, rounds: int = 3) -> float:
    """Least KL found, nats, for a bank of so many decaying sums with log-spaced rates.

    A grid over the slowest and the fastest rate, refined around the best: found, not proved best.
    """
    if states == 1:
        rates = np.geomspace(0.003, 3, 200)[:, None]
        return float(banks.linear_bank(source, rates, ORDER).min())
    centre, reach, best = np.log([0.03, 1.5]), np.log([20, 8]), np.inf
    for _ in range(rounds):
        low, high = (c + r * np.linspace(-1, 1, 9) for c, r in zip(centre, reach, strict=True))
        ends = np.stack(np.meshgrid(low, high), axis=-1).reshape(-1, 2)
        ends = ends[ends[:, 1] - ends[:, 0] > 0.05]
        rates = np.exp(ends[:, :1] + np.diff(ends) * np.linspace(0, 1, states))
        lost = banks.linear_bank(source, rates, ORDER)
        best = min(best, float(lost.min()))
        centre, reach = ends[lost.argmin()], reach / 3
    return best


def bank_losses(states: Sequence[int] = range(1, 7), alpha: float = 1.5) -> pd.DataFrame:
    """What the best bank of so many decaying sums loses beside a window of as many symbols, nats.

    A row a number of states; columns `plus` and `mixed` (the signs of the Gaussian source), and
    `window`. All against a predictor of ORDER symbols.
    """
    kinds = {"plus": "plus", "mixed": "rudin-shapiro"}
    known = {
        name: gaussian.GaussianPowerLaw(alpha, PREFACTOR, kind) for name, kind in kinds.items()
    }
    lost = {name: [best_bank(source, m) for m in states] for name, source in known.items()}
    risk = known["plus"].sensitivity(np.append(states, ORDER))
    return pd.DataFrame(lost | {"window": risk[:-1] - risk[-1]}, index=pd.Index(states))


def linear_bound(source: gaussian.GaussianPowerLaw, states: np.ndarray) -> np.ndarray:
    """Least KL of any linear recursion with so many numbers, against a predictor of ORDER symbols.

    `banks.linear_state_bound` counts against all the past there is, ORDER symbols and up to n more;
    what those are worth is taken off, for each n.
    """
    delta = source.sensitivity(np.arange(ORDER + 257))
    best = np.zeros(len(states))
    for n in (2, 4, 8, 16, 32, 64, 128, 256):
        extra = np.mean(delta[ORDER] - delta[ORDER : ORDER + n])
        bound = banks.linear_state_bound(source, states, ORDER, [n])
        best = np.maximum(best, bound - extra)
    return best


@lru_cache(maxsize=16)
def _linear_bounds(alpha: float, signs: str) -> np.ndarray:
    """`linear_bound` for 0 to ORDER numbers."""
    source = gaussian.GaussianPowerLaw(alpha, PREFACTOR, signs)
    return linear_bound(source, np.arange(ORDER + 1))


@lru_cache(maxsize=16)
def lag_entropy_bits(alpha: float, terms: int = 2**18) -> float:
    """Entropy of the lag of `sources.Recall`: terms one by one, then the integral of the rest."""
    n = np.arange(1.0, terms + 1)
    p = -(n**-alpha) * np.expm1(-alpha * np.log1p(1 / n))
    end = terms + 0.5
    rest = end**-alpha * ((1 + alpha) * (np.log(end) + 1 / alpha) - np.log(alpha))
    return float((-(p * np.log(p)).sum() + rest) / np.log(2))


def memory_curves(alpha: float) -> pd.DataFrame:
    """Memory against distortion for the sources that exist at exponent α: four or, below one, two.

    A renewal process with P(T > n) = (1+n)^-α has no stationary version for α ≤ 1; a Gaussian
    source of plus signs is not ergodic for α < 1 (`gaussian.GaussianPowerLaw.ergodic`).

    Columns: `source, alpha, kind` (`suffix`, `recurrent` or `bound`), `memory` (bits; real numbers
    for the Gaussian sources) and `value` (nats). The recurrent policies: a capped age counter; the
    best bank found; the same or a shift register, whichever is better; the last fresh bits.
    The bounds: the recurrent converse; any linear recursion, twice; any policy.
    """
    w = np.unique(np.round(2 ** np.arange(0, 13.01, 0.25)).astype(int))
    few = w[w < ORDER]
    parts = []

    def add(source: str, kind: str, memory: np.ndarray, value: np.ndarray) -> None:
        table = pd.DataFrame({"memory": np.asarray(memory, dtype=float), "value": value})
        parts.append(table.assign(source=source, alpha=alpha, kind=kind))

    if alpha > 1:
        renewal = sources.Renewal(alpha)
        add("renewal", "suffix", w, renewal.sensitivity(w))
        add("renewal", "recurrent", bits := np.arange(1, 14), renewal.capped_counter(bits))
        delta = renewal.sensitivity(np.arange(2**14))
        epsilon = np.geomspace(1e-5, delta[0] / 1.05, 40)
        add("renewal", "bound", bounds.recurrent_converse(epsilon, delta) / np.log(2), epsilon)
    for signs in ("plus", "rudin-shapiro") if alpha > 1 else ("rudin-shapiro",):
        source = gaussian.GaussianPowerLaw(alpha, PREFACTOR, signs)
        lost = source.sensitivity(few) - source.sensitivity(ORDER)
        add(signs, "suffix", few, lost)
        states = np.arange(1, 5)  # enough for every ε above 5e-5
        found = np.array([best_bank(source, m) for m in states])
        if signs == "plus":
            add(signs, "recurrent", states, np.minimum.accumulate(found))
        else:  # a shift register is a linear recursion too
            register = source.sensitivity(states) - source.sensitivity(ORDER)
            found = np.append(np.minimum(found, register), lost[few > states[-1]])
            add(
                signs,
                "recurrent",
                np.append(states, few[few > states[-1]]),
                np.minimum.accumulate(found),
            )
        some = few[few <= 256]
        add(signs, "bound", some, _linear_bounds(alpha, signs)[some])
    recall = sources.Recall(alpha)
    cost = 2 + lag_entropy_bits(alpha)  # bits a round: fresh bit, lag, answer
    if alpha < 1:  # a longer way to the same distortion
        w = np.append(w, 2 ** np.arange(14, 18))
    add("recall", "suffix", w * cost, recall.sensitivity(w))
    for kind in ("recurrent", "bound"):
        add("recall", kind, w, recall.lower_bound(w))
    table = pd.concat(parts, ignore_index=True)
    return table[table["value"] > 0].reset_index(drop=True)


def memory_needs(curves: pd.DataFrame, epsilons: tuple[float, ...] = EPSILONS) -> pd.DataFrame:
    """What a distortion ε costs on each source of `memory_curves`.

    Columns: `source, alpha, epsilon, window` (tokens; rounds for recall), and `suffix, recurrent,
    bound`: memory in the source's unit, whole but for the suffix of recall and the recurrent
    converse. Nothing is read off the drawing but what the bank of linear states needs.
    """
    rows = []
    for (name, alpha), drawn in curves.groupby(["source", "alpha"], sort=False):
        for epsilon in epsilons:
            suffix, recurrent, bound = _needs(name, alpha, epsilon, drawn)
            window = suffix
            if name == "recall":
                suffix = round(window * (2 + lag_entropy_bits(alpha)), 1)
            rows.append((name, alpha, epsilon, window, suffix, recurrent, bound))
    columns = ["source", "alpha", "epsilon", "window", "suffix", "recurrent", "bound"]
    return pd.DataFrame(rows, columns=columns)


@lru_cache(maxsize=4096)
def _recall_risk(alpha: float, window: int) -> float:
    """Δ(window) of recall, nats; kept, for its work grows with the window and every ε asks."""
    return float(sources.Recall(alpha).sensitivity(window))


def _needs(name: str, alpha: float, epsilon: float, curve: pd.DataFrame) -> tuple:
    """Window, recurrent memory and lower bound for one source, exponent and ε."""
    if name == "renewal":
        source = sources.Renewal(alpha)
        window = least_memory(lambda n: float(source.sensitivity(n)), epsilon)
        counter = least_memory(lambda n: float(source.capped_counter(n)), epsilon, 64)
        delta = source.sensitivity(np.arange(window + 1))
        converse = bounds.recurrent_converse(epsilon, delta) / np.log(2)
        return window, counter, round(float(converse), 3)
    if name == "recall":
        source = sources.Recall(alpha)
        window = least_memory(lambda n: _recall_risk(alpha, n), epsilon)
        fresh = least_memory(lambda n: float(source.lower_bound(n)), epsilon)
        return window, fresh, fresh
    source = gaussian.GaussianPowerLaw(alpha, PREFACTOR, name)
    window = least_memory(
        lambda n: float(source.sensitivity(n) - source.sensitivity(ORDER)), epsilon, ORDER
    )
    found = curve.query("kind == 'recurrent' and value <= @epsilon")["memory"]
    if name == "rudin-shapiro":  # a window is a linear recursion too
        found = np.append(found, window)
    states = int(found.min())
    return window, states, int(np.argmax(_linear_bounds(alpha, name) <= epsilon))


def converse_exponents(
    alphas: tuple[float, ...] = (0.5, 0.7, 1.0, 1.5), epsilon: float = 1e-6
) -> pd.DataFrame:
    """Growth of window and of the recurrent converse as ε falls by ten, for Δ = c (k+1)^-α.

    Columns: `window` and `recurrent, at least` (local exponents in 1/ε), `bound in bits` at ε.
    """
    pair = np.array([epsilon, epsilon / 10])
    rows = {}
    for alpha in alphas:
        window = bounds.window_for(pair, PREFACTOR, alpha, shift=1)
        nats = bounds.recurrent_converse_power(pair, PREFACTOR, alpha)
        slopes = [float(np.diff(np.log10(values))[0]) for values in (window, nats)]
        rows[alpha] = (*slopes, float(nats[0] / np.log(2)))
    columns = ["window", "recurrent, at least", "bound in bits"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns)


def open_question_table(needs: pd.DataFrame, alpha: float = ALPHA) -> pd.DataFrame:
    """What two decades of accuracy cost, from ε = 0.01 to ε = 0.0001, at one exponent.

    A row a source that exists there. Columns: `unit`, `suffix` and `recurrent` (memory at the
    smaller ε), `suffix grows` and `recurrent grows` (factors), and `outcome`: `wins` where the
    recurrent memory grows by less than half the logarithm of the suffix's growth, else
    `same exponent`.
    """
    here = needs[needs["alpha"] == alpha].set_index(["source", "epsilon"])
    rows = {}
    for source, name in names.SOURCES.items():
        if (source, 0.01) not in here.index:
            continue
        coarse, fine = here.loc[(source, 0.01)], here.loc[(source, 0.0001)]
        grows = {kind: fine[kind] / coarse[kind] for kind in ("suffix", "recurrent")}
        wins = np.log(grows["recurrent"]) < np.log(grows["suffix"]) / 2
        rows[name] = {
            "unit": "bits" if source in ("renewal", "recall") else "numbers",
            "suffix": int(round(fine["suffix"])),
            "recurrent": int(fine["recurrent"]),
            "suffix grows": round(float(grows["suffix"]), 1),
            "recurrent grows": round(float(grows["recurrent"]), 1),
            "outcome": "wins" if wins else "same exponent",
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def rule(answers: dict[str, str]) -> str:
    """C8: four parts of the evidence answer, each by itself: exact sources with α above one and
    with α below one (yes where a recurrent memory wins on all of them, no where it keeps the
    exponent on all), real caches in KL and in TV (yes where a gain over the suffix of equal budget
    surely grows with the budget on all tables, no where on all it surely grows by less than the
    margin of an exponent, if at all). `open` while any part is undecided, or two differ; `partly`
    if all gave one answer, for no examples are all there is. A part's own reading is `partly` where
    it answers with one voice, else `open`."""
    given = set(answers.values())
    return "partly" if len(given) == 1 and given <= {"yes", "no"} else "open"


def sentence(above: pd.DataFrame, below: pd.DataFrame) -> str:
    """What exact sources say of C8, in a line."""
    wins, few = ((table["outcome"] == "wins").sum() for table in (above, below))
    return (
        f"of {len(above)} exact sources with one exponent above one, a recurrent memory wins on "
        f"{wins} and keeps the exponent on {len(above) - wins}; below one, of {len(below)} it wins "
        f"on {few}"
    )


def carrying_sentence(ratios: pd.DataFrame, slopes: pd.DataFrame) -> str:
    """What real caches say of C8: gains over the suffix of equal budget, and whether they grow."""
    ours, bent = (table[table["window"] == SAME_BUDGET] for table in (ratios, slopes))
    low, high = fit.extremes(bent["slope"])
    gains = surely(ours, gain=True)
    said = f"{len(gains)} of {len(ours)} ratios to the suffix of equal budget surely below one"
    if len(gains):
        budgets = ", ".join(str(budget) for budget in sorted(gains["budget"].unique()))
        best = min(gains["ratio"], key=lambda item: item.value)
        said += f" (at budget {budgets}; the least {best:.2g})"
    return (
        f"caches with 4 sinks online, KL and TV: {said}, corrected for {len(ratios)} tries; slope "
        f"of the ratio in the budget from {low:.2g} to {high:.2g}; {ours['documents'].min()} "
        f"documents with {ours['tokens'].min():,} tokens a budget or more"
    )


@lru_cache(maxsize=2)
def source_table(alpha: float) -> pd.DataFrame:
    """`open_question_table` of the sources that exist at α."""
    return open_question_table(memory_needs(memory_curves(alpha)), alpha)


def judge(folder: Path = store.DATA) -> tuple[Verdict, ...]:
    """The verdict on C8: from exact sources, and beside them what the stored rows say."""
    above, below = source_table(ALPHA), source_table(ALPHA_BELOW)
    said = sentence(above, below)
    figures = tuple(
        Figure(f"{kind} grows, {source}, α = {alpha:g}", float(row[f"{kind} grows"]))
        for alpha, table in ((ALPHA, above), (ALPHA_BELOW, below))
        for source, row in table.iterrows()
        for kind in ("suffix", "recurrent")
    )
    rows, suffixes = stored_rows(folder), suffix_tables(folder)
    ratios, slopes = carrying(rows, suffixes), carrying_slopes(rows, suffixes)
    answers = answers_of(above, below, ratios, slopes)
    if len(ratios):
        said = f"{said}; {carrying_sentence(ratios, slopes)}"
        figures += carried_figures(ratios, slopes)
    readings = {part: reading(answer) for part, answer in answers.items()}
    tried = power(carrying_chances(ratios, slopes) if len(ratios) else ratios)
    return (Verdict(CLAIM, rule(answers), said, rule_text(rule), figures, readings, tried),)


def carried_figures(ratios: pd.DataFrame, slopes: pd.DataFrame) -> tuple[Figure, ...]:
    """Ratios and slopes of real caches, by distance and window, as figures."""
    found: tuple[Figure, ...] = ()
    for table, column, name in (
        (ratios, "ratio", "online / suffix"),
        (slopes, "slope", "slope of log(online / suffix)"),
    ):
        for (distance, window), part in table.groupby(["distance", "window"], sort=False):
            where = {"distance": distance, "protocol": "online", "policy": SINKS}
            found += figures_of(part, {column: f"{name}, {window}"}, **where)
    return found


# --- the values of the page's prose ---------------------------------------------------------------


def facts(
    tables: tuple[pd.DataFrame, pd.DataFrame],
    needs: pd.DataFrame,
    bank: pd.DataFrame,
    three: pd.DataFrame,
    carry: tuple[pd.DataFrame, pd.DataFrame],
) -> dict[str, str]:
    """Name → text of every value that the page glues.

    `tables` are what `open_question_table` makes of `needs` at ALPHA and ALPHA_BELOW, `needs` what
    `memory_needs` returns; `bank` is that of `bank_losses`; `three` holds `protocols_compared` for
    sinks and for the sliding window; `carry` what `carrying` and `carrying_slopes` return.
    """
    answers = answers_of(*tables, *carry)
    keys = dict(zip(answers, ("above", "below", "kl", "tv"), strict=True))
    return {
        "verdict-c8": rule(answers),
        **{f"reading-{keys[part]}": reading(answer) for part, answer in answers.items()},
        **{f"answer-{keys[part]}": answer for part, answer in answers.items()},
        **_source_facts(tables[0], needs),
        **_below_facts(tables[1], needs),
        "gain": f"{(bank['window'] / bank['mixed']).max():.2f}",
        **_carrying_facts(*carry),
        **_protocol_facts(three),
    }


def _carrying_facts(ratios: pd.DataFrame, slopes: pd.DataFrame) -> dict[str, str]:
    """Online caches beside suffixes, on all tokens: gains, harms, slopes, counts."""
    equal, bent = (table[table["window"] == SAME_BUDGET] for table in (ratios, slopes))
    least = min(equal[equal["distance"] == "KL"].itertuples(), key=lambda row: row.corrected)
    gains = surely(equal, gain=True)
    if len(gains):
        least = min(gains.itertuples(), key=lambda row: row.ratio.value)
    place = (equal["model"] == least.model) & (equal["corpus"] == least.corpus)
    at = equal[place & (equal["budget"] == least.budget)].set_index("distance")["ratio"]
    recent = ratios[ratios["window"] == SAME_RECENT]
    low, high = zip(*(fit.extremes(part["slope"]) for _, part in bent.groupby("distance")))  # noqa: B905
    return {
        "carry-docs": str(equal["documents"].min()),
        "carry-tokens": f"{equal['tokens'].min():,}",
        "carry-pairs": f"{equal['suffixes'].min():,}",
        "n-tables": str(len(equal[["model", "corpus"]].drop_duplicates())),
        "n-tries": str(len(ratios)),
        "n-equal": str(len(equal)),
        "n-gains": str(len(gains)),
        "n-harms": str(len(surely(equal, gain=False))),
        "n-recent-gains": str(len(surely(recent, gain=True))),
        "best-budget": str(least.budget),
        "best-kl": f"{at['KL']:.2g}",
        "best-tv": f"{at['TV']:.2g}",
        **dict(zip(("slope-kl-low", "slope-tv-low"), map(str, low), strict=True)),
        **dict(zip(("slope-kl-high", "slope-tv-high"), map(str, high), strict=True)),
        "margin": str(MARGIN),
        "power-c8": power(carrying_chances(ratios, slopes)),
    }


def _below_facts(table: pd.DataFrame, needs: pd.DataFrame) -> dict[str, str]:
    """Memory on the exact sources below one, at ε = 1e-4."""
    at = table.rename({title: key for key, title in names.SOURCES.items()})
    fine = needs[(needs["alpha"] == ALPHA_BELOW) & (needs["epsilon"] == 1e-4)].set_index("source")
    return {
        "low-alpha": f"{ALPHA_BELOW:g}",
        "n-low": str(len(at)),
        "low-window": str(at.loc["rudin-shapiro", "suffix"]),
        "low-states": str(at.loc["rudin-shapiro", "recurrent"]),
        "low-bound": str(int(fine.loc["rudin-shapiro", "bound"])),
        "low-recall-window": f"{at.loc['recall', 'suffix']:,}",
        "low-recall-least": f"{at.loc['recall', 'recurrent']:,}",
    }


def carried(three: pd.DataFrame, policy: str, model: str | None = None) -> pd.DataFrame:
    """The rows of one policy, on one model where it is given."""
    ours = three[three["policy"] == policy]
    return ours if model is None else ours[ours["model"] == model]


def _source_facts(table: pd.DataFrame, needs: pd.DataFrame) -> dict[str, str]:
    """Memory on the four exact sources at α = 1.5 and ε = 1e-4."""
    at = table.rename({title: key for key, title in names.SOURCES.items()})
    fine = needs.query("source == 'rudin-shapiro' and alpha == 1.5 and epsilon == 1e-4")
    return {
        "lamp-window": f"{at.loc['renewal', 'suffix']:,}",
        "lamp-counter": str(at.loc["renewal", "recurrent"]),
        "plus-window": str(at.loc["plus", "suffix"]),
        "plus-states": str(at.loc["plus", "recurrent"]),
        "rs-states": str(at.loc["rudin-shapiro", "recurrent"]),
        "rs-bound": str(int(fine["bound"].item())),
        "recall-window": f"{at.loc['recall', 'suffix']:,}",
        "recall-least": f"{at.loc['recall', 'recurrent']:,}",
    }


def _protocol_facts(three: pd.DataFrame) -> dict[str, str]:
    """Online over re-encoded and over prefill, on two models; counts behind them."""
    other = "gemma3-270m"
    said = {}
    for policy, key in ((SINKS, "sink"), (SLIDING, "bare")):
        at = carried(three, policy, MODEL).set_index("budget")["online / reencode"]
        said |= {f"{key}-{budget}": f"{at[budget]:.2g}" for budget in (64, 256)}
    after = carried(three, SINKS, MODEL).set_index("budget")["online / prefill"]
    said |= {f"sink-pre-{budget}": f"{after[budget]:.2g}" for budget in (64, 256)}
    at = carried(three, SINKS, other).set_index("budget")["online / reencode"]
    said |= {f"gemma-{budget}": f"{at[budget]:.2g}" for budget in (16, 64, 256, 512)}
    ratios = carried(three, SINKS)["online / reencode"]
    counts = {
        "n-ratios": len(ratios),
        "n-below": sum(item.high < 1 for item in ratios),
        "n-above": sum(item.low > 1 for item in ratios),
    }
    for model, name in ((MODEL, ("n-three", "n-tokens")), (other, ("n-gemma", "n-gemma-tokens"))):
        least = three[three["model"] == model][["documents", "tokens"]].min()
        counts |= dict(zip(name, least, strict=True))
    return said | {name: str(count) for name, count in counts.items()}
