"""C8: can a carried summary beat the window? Exact sources of one exponent, and real caches.

The sources, their recurrent memories and the bounds are our reconstruction. On real models the same
policy is compared in three protocols, at equal budgets and on the same tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from kvlib import names, store
from kvlib.claims.claim import Claim, Figure, Verdict, figures_of, rule_text
from kvlib.claims.policy_rows import MODEL, PROTOCOLS, SINKS, SLIDING, stored_rows
from kvlib.fit import extremes, log_mean, log_ratio
from kvlib.names import name_of
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


def carrying_sentence(rows: pd.DataFrame) -> str:
    """C8 on real models: does a cache that carries entries along lose less than re-reading them?"""
    table = protocols_compared(rows, SINKS)
    low, high = extremes(table["online / reencode"])
    names = " and ".join(dict.fromkeys(name_of(model).split("-")[0] for model in table["model"]))
    return (
        f"on {names}, KL online over that of the same tokens re-encoded, 4 sinks + recent at equal "
        f"budget: {low:.2g} to {high:.2g}, {table['documents'].min()} documents with "
        f"{table['tokens'].min()} tokens or more"
    )


PREFACTOR = 0.08  # nats; of the Gaussian sources
ORDER = 512  # the Gaussian sources are compared with a predictor of so many symbols
ALPHAS = (1.1, 1.25, 1.5, 1.75, 2.0)
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
    """Memory against distortion for the four sources with exponent α > 1.

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

    renewal = sources.Renewal(alpha)
    add("renewal", "suffix", w, renewal.sensitivity(w))
    add("renewal", "recurrent", bits := np.arange(1, 14), renewal.capped_counter(bits))
    delta = renewal.sensitivity(np.arange(2**14))
    epsilon = np.geomspace(1e-5, delta[0] / 1.05, 40)
    add("renewal", "bound", bounds.recurrent_converse(epsilon, delta) / np.log(2), epsilon)
    for signs in ("plus", "rudin-shapiro"):
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
    for (name, alpha), curve in curves.groupby(["source", "alpha"], sort=False):
        for epsilon in epsilons:
            suffix, recurrent, bound = _needs(name, alpha, epsilon, curve)
            window = suffix
            if name == "recall":
                suffix = round(window * (2 + lag_entropy_bits(alpha)), 1)
            rows.append((name, alpha, epsilon, window, suffix, recurrent, bound))
    columns = ["source", "alpha", "epsilon", "window", "suffix", "recurrent", "bound"]
    return pd.DataFrame(rows, columns=columns)


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
        window = least_memory(lambda n: float(source.sensitivity(n)), epsilon)
        fresh = least_memory(lambda n: float(source.lower_bound(n)), epsilon)
        return window, fresh, fresh
    source = gaussian.GaussianPowerLaw(alpha, PREFACTOR, name)
    window = least_memory(
        lambda n: float(source.sensitivity(n) - source.sensitivity(ORDER)), epsilon, ORDER
    )
    found = curve.query("kind == 'recurrent' and value <= @epsilon")["memory"]
    states = int(min(found.min(), window)) if name == "rudin-shapiro" else int(found.min())
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


def open_question_table(needs: pd.DataFrame, alpha: float = 1.5) -> pd.DataFrame:
    """What two decades of accuracy cost, from ε = 0.01 to ε = 0.0001, at one exponent.

    Columns: `unit`, `suffix` and `recurrent` (memory at the smaller ε), `suffix grows` and
    `recurrent grows` (factors), and `outcome`: `wins` where the recurrent memory grows by less
    than half the logarithm of the suffix's growth, else `same exponent`.
    """
    here = needs[needs["alpha"] == alpha].set_index(["source", "epsilon"])
    rows = {}
    for source, name in names.SOURCES.items():
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


def rule(table: pd.DataFrame) -> str:
    """C8: `open` while sources of one exponent give both answers, so that the exponent decides
    nothing; `partly` if all exact sources agreed."""
    return "open" if table["outcome"].nunique() > 1 else "partly"


def sentence(table: pd.DataFrame) -> str:
    """What the verdict of C8 rests on, in a line."""
    wins = (table["outcome"] == "wins").sum()
    return (
        f"of {len(table)} exact sources with one exponent, a recurrent memory wins on {wins} and "
        f"keeps the exponent on {len(table) - wins}"
    )


def judge(folder: Path = store.DATA) -> tuple[Verdict, ...]:
    """The verdict on C8: from exact sources, and beside them what the stored rows say."""
    table = open_question_table(memory_needs(memory_curves(1.5)))
    said = sentence(table)
    figures = tuple(
        Figure(f"{kind} grows, {source}", float(row[f"{kind} grows"]))
        for source, row in table.iterrows()
        for kind in ("suffix", "recurrent")
    )
    rows = stored_rows(folder)
    three = protocols_compared(rows, SINKS)
    if len(three):
        said = f"{said}; {carrying_sentence(rows)}"
        name = {"online / reencode": "KL online / re-encoded"}
        figures += figures_of(three, name, distance="KL", protocol="online")
    return (Verdict(CLAIM, rule(table), said, rule_text(rule), figures),)


# --- the values of the page's prose ---------------------------------------------------------------


def facts(
    table: pd.DataFrame, needs: pd.DataFrame, bank: pd.DataFrame, three: pd.DataFrame
) -> dict[str, str]:
    """Name → text of every value that the page glues.

    `table` is what `open_question_table` makes of `needs`, those what `memory_needs` returns;
    `bank` is that of `bank_losses`; `three` holds `protocols_compared` for sinks and for the
    sliding window.
    """
    return {
        "verdict-c8": rule(table),
        **_source_facts(table, needs),
        "gain": f"{(bank['window'] / bank['mixed']).max():.2f}",
        **_protocol_facts(three),
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
    """Online over re-encoded and over prefill, on the two models; counts behind them."""
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
