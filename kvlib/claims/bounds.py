"""C6 and C7: the least window for a distortion, between two bounds with one exponent."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from kvlib import fit, names, store
from kvlib.claims import chances
from kvlib.claims import claim as stored
from kvlib.claims.claim import MIN_WINDOW, Claim, Figure, Verdict, rule_text
from kvlib.fit import studies
from kvlib.theory import bounds, gaussian, sources

UPPER = Claim("C6", "A sliding window reaches distortion ε with w = O(ε^(−1/α)).", "bounds")
LOWER = Claim(
    "C7", "Under a two-sided condition a suffix-only policy needs w = Ω(ε^(−1/α)).", "bounds"
)
CLAIMS = (UPPER, LOWER)
SIDES = {"c6": "upper", "c7": "lower"}
FITTED_TO = 64  # c, C and α come from windows up to here where the bounds are tested beyond
MOST = 0.9  # of the curves count: with dozens of them the worst says little
CLOSE = 2.0  # a bound missed by less than this factor in tokens is nearly met
IN_SAMPLE, SOURCES = "in sample, exact sources", "beyond 64 tokens, exact sources"
BEYOND = (0.5, 0.8, 1.0, 1.25, 2.0)  # exponents beyond FITTED_TO over those before
STUDIES = 100  # simulated ones
HALF = (0.2, 0.1)  # nats: of an error that is halved, for the prose
MODELS = {"KL": "beyond 64 tokens, models, KL", "TV": "beyond 64 tokens, models, TV"}


def known_sources() -> dict[str, tuple[Any, float]]:
    """Sources whose Bayes risk is exact, with their exponents."""
    return {
        "Gaussian, α = 0.5": (gaussian.GaussianPowerLaw(0.5, 0.1), 0.5),
        "Gaussian, α = 1.5": (gaussian.GaussianPowerLaw(1.5, 0.1), 1.5),
        "renewal, θ = 1.5": (sources.Renewal(1.5), 1.5),
        "recall, α = 0.8": (sources.Recall(0.8), 0.8),
    }


@lru_cache(maxsize=1)
def known_risks() -> dict[str, np.ndarray]:
    """Δ(1), …, Δ(4096) of the `known_sources`, nats."""
    windows = np.arange(1, 4097)
    return {name: source.sensitivity(windows) for name, (source, _) in known_sources().items()}


def sandwich_checks(count: int = 40) -> pd.DataFrame:
    """C6 and C7 on sources whose Bayes risk is exact: does the least window obey both bounds?

    The constants c and C are the extremes of Δ(w) w^α over windows 1 to 4096; the least window is
    found by search, for `count` values of ε within the reach of those windows. One row a source.
    """
    windows = np.arange(1, 4097)
    rows = {}
    for name, (_, alpha) in known_sources().items():
        risk = known_risks()[name]
        scaled = risk * windows**alpha
        epsilons = np.geomspace(1.01 * risk[-1], 0.99 * risk[0], count)
        least = np.array([windows[np.argmax(risk <= epsilon)] for epsilon in epsilons])
        caught = bounds.sandwich(epsilons, scaled.min(), scaled.max(), alpha)
        rows[name] = {
            "values of ε": count,
            "C / c": round(float(scaled.max() / scaled.min()), 2),
            "lower holds": bool((caught.low <= least).all()),
            "upper holds": bool((least <= caught.high).all()),
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def law_errors(
    curves: dict[tuple[str, str], fit.Curve], min_window: int = MIN_WINDOW
) -> pd.DataFrame:
    """How far the fitted finite-context power law is from each measured curve, relatively: columns
    `model, corpus, documents`, `typical error` (root mean square) and `largest error`."""
    rows = []
    for (model, corpus), data in curves.items():
        part = data.between(min_window)
        law = fit.fit_law(
            "finite-context power", part.window, part.mean, part.weights, part.contexts
        )
        miss = np.expm1(np.abs(law.log_value(part.window) - np.log(part.mean)))
        rows.append(
            {
                "model": model,
                "corpus": corpus,
                "documents": data.n_documents,
                "typical error": round(float(np.sqrt(np.mean(miss**2))), 3),
                "largest error": round(float(miss.max()), 3),
            }
        )
    return pd.DataFrame(rows)


class Tried(NamedTuple):
    """One curve whose bounds come from short windows and are tried on longer ones.

    Of `tried` values of ε, how often the least window obeyed the lower and the upper bound, and by
    what factor it missed each at worst (1 where it never did).
    """

    exponent: float
    tried: int
    lower: int
    upper: int
    lower_miss: float
    upper_miss: float


def foretell(window: np.ndarray, value: np.ndarray, epsilons: np.ndarray | None = None) -> Tried:
    """α, c and C of a falling curve from windows MIN_WINDOW to FITTED_TO, tried on all beyond.

    α is the slope of a straight line through the logarithms, c and C the extremes of D(w) w^α on
    the same windows. For each ε the least window is the first whose value is at most ε; `epsilons`
    are the values at the windows beyond, if not given. Raises ValueError with nothing beyond.
    """
    near = (window >= MIN_WINDOW) & (window <= FITTED_TO)
    if not (window > FITTED_TO).any() or near.sum() < 3:
        raise ValueError(f"windows: expected 3 up to {FITTED_TO} and some beyond, got {window}")
    alpha = -np.polyfit(np.log(window[near]), np.log(value[near]), 1)[0]
    scaled = value[near] * window[near] ** alpha
    falling = np.minimum.accumulate(value)
    epsilons = falling[window > FITTED_TO] if epsilons is None else epsilons
    least = np.array([window[np.argmax(falling <= epsilon)] for epsilon in epsilons])
    low, high = ((constant / epsilons) ** (1 / alpha) for constant in (scaled.min(), scaled.max()))
    short, long = low * (1 - 1e-9) / least, least / np.ceil(high)
    return Tried(
        float(alpha),
        len(least),
        *(int((miss <= 1).sum()) for miss in (short, long)),
        *(float(max(1.0, miss.max())) for miss in (short, long)),
    )


def out_of_sample(
    curves: dict[str, dict[tuple[str, str], fit.Curve]], count: int = 40
) -> pd.DataFrame:
    """C6 and C7 with constants from short windows and held against long ones, a row a curve.

    On exact sources, and as a prediction on the models' curves of both distances, where no theorem
    asks for it. Columns: `part` (SOURCES or one of MODELS), `name`, `model, corpus` of models, and
    those of `Tried`.
    """
    windows, rows = np.arange(1, 4097), []
    for name, risk in known_risks().items():
        epsilons = np.geomspace(1.01 * risk[-1], risk[FITTED_TO], count)
        tried = foretell(windows.astype(float), risk, epsilons)
        rows.append({"part": SOURCES, "name": name} | tried._asdict())
    for distance, of_tables in curves.items():
        for (model, corpus), data in of_tables.items():
            tried = foretell(data.window, data.mean)
            name = f"{names.name_of(model)} on {names.name_of(corpus)}"
            found = {"part": MODELS[distance], "name": name, "model": model, "corpus": corpus}
            rows.append(found | tried._asdict())
    return pd.DataFrame(rows)


def both_distances(folder: Path = store.DATA) -> dict[str, dict[tuple[str, str], fit.Curve]]:
    """Distance → the stored curves; none where nothing is stored."""
    found = stored.both_distances(folder)
    return found if found["KL"] else {}


def bound_rule(holds: pd.Series) -> str:
    """C6 or C7. The bound is two lines of proof, and with constants that are the extremes of the
    very curve in which the window is then searched it can't fail: *definition checked* when it held
    on every exact source, *not reproduced* when not. It is tried out of sample too, with α, c and C
    from windows of 8 to 64 tokens: a reading is *reproduced* where on a share of MOST of the
    curves the bound held for every ε that needs a longer window, *partly* where on as many the
    least window missed it by less than a factor of CLOSE, *not reproduced* beyond. Of fewer than
    ten curves all count. These readings are predictions: no theorem asks for them."""
    return "definition checked" if holds.all() else "not reproduced"


def reading(rows: pd.DataFrame, side: str) -> str:
    """The word of one part of `out_of_sample` on the `lower` or the `upper` bound."""
    miss = np.quantile(rows[f"{side}_miss"], MOST, method="higher")
    if miss <= 1:
        return "reproduced"
    return "partly" if miss < CLOSE else "not reproduced"


def readings(checked: pd.DataFrame, beyond: pd.DataFrame, side: str) -> dict[str, str]:
    """The words on one bound: in sample, and of each part of `out_of_sample`."""
    parts = beyond.groupby("part", sort=False)
    found = {IN_SAMPLE: bound_rule(checked[f"{side} holds"])}
    return found | {part: reading(rows, side) for part, rows in parts}


def sentence(checked: pd.DataFrame, beyond: pd.DataFrame, side: str) -> str:
    """On what one bound was tried, in sample and beyond; `checked` is what `sandwich_checks`
    returns, `beyond` what `out_of_sample` does."""
    tried = int(checked["values of ε"].sum())
    said = [f"{tried} values of ε on {len(checked)} sources with a known Bayes risk"]
    for part, rows in beyond.groupby("part", sort=False):
        worst = rows[f"{side}_miss"].max()
        missed = f", missed by a factor of {worst:.2g} at worst" if worst > 1 else ""
        said.append(f"{part}: {_held(rows, side)}{missed}")
    return "; ".join(said)


def _held(rows: pd.DataFrame, side: str) -> str:
    return f"{rows[side].sum()} of {rows['tried'].sum()} ε held"


def judge(folder: Path = store.DATA) -> tuple[Verdict, ...]:
    """The verdicts on C6 and C7."""
    curves = both_distances(folder)
    checked, beyond = sandwich_checks(), out_of_sample(curves)
    tried = had_it_been(curves)
    constants = tuple(
        Figure(f"C / c, {source}", float(spread)) for source, spread in checked["C / c"].items()
    )
    found = []
    for claim, side, after in (
        (UPPER, "upper", ""),
        (LOWER, "lower", "; no lower bound for a real model"),
    ):
        figures = constants + _figures(beyond, side)
        said = sentence(checked, beyond, side) + after
        word, words = bound_rule(checked[f"{side} holds"]), readings(checked, beyond, side)
        told = power(tried[side])
        found.append(Verdict(claim, word, said, rule_text(bound_rule), figures, words, told))
    return tuple(found)


# --- what would have changed a reading ------------------------------------------------------------


def had_it_been(
    curves: dict[str, dict[tuple[str, str], fit.Curve]], n: int = STUDIES, seed: int = 0
) -> dict[str, pd.DataFrame]:
    """What the trial on models would have said, were the exponent another one beyond FITTED_TO.

    Documents are drawn anew around the power law that is nearest to each curve up to FITTED_TO and
    goes on with `truth` times its exponent. For each bound columns `distance, truth`, and the share
    of each word.
    """
    found: dict[str, list[dict]] = {"upper": [], "lower": []}
    for distance, of_tables in curves.items():
        parts = [data.between(MIN_WINDOW) for data in of_tables.values()]
        for truth in BEYOND:
            made = [
                _trials(data, _going_on(data, truth), n, seed + place)
                for place, data in enumerate(parts)
            ]
            of_study = [pd.DataFrame(tried) for tried in zip(*made, strict=True)]
            for side, rows in found.items():
                shares = chances.counted([reading(tried, side) for tried in of_study])
                rows.append({"distance": distance, "truth": truth} | shares)
    columns = ["distance", "truth", *chances.WORDS]
    return {side: pd.DataFrame(rows, columns=columns) for side, rows in found.items()}


def _trials(data: fit.Curve, expected: np.ndarray, n: int, seed: int) -> list[Tried]:
    """`n` studies of a curve's design around an expectation, each tried beyond FITTED_TO."""
    return [foretell(one.window, one.mean) for one in studies.studies(data, expected, n, seed)]


def _going_on(data: fit.Curve, times: float) -> np.ndarray:
    """The power law nearest to a curve up to FITTED_TO, with so many times its exponent beyond."""
    near = data.last <= FITTED_TO
    slope, level = np.polyfit(np.log(data.window[near]), np.log(data.mean[near]), 1)
    far = np.log(np.maximum(data.window / FITTED_TO, 1))
    return np.exp(level + slope * (np.log(data.window) + (times - 1) * far))


def power(of: pd.DataFrame) -> str:
    """What data would have given each word, from one table of `had_it_been`."""
    truth = f"the exponent beyond {FITTED_TO} tokens over the one before"
    said = chances.sentence(of, truth, STUDIES, "simulated studies of the models")
    return (
        "In sample nothing can be drawn: one ε outside its bounds is a mistake in a proof or in "
        f"code. {said}"
    ).rstrip()


def _figures(beyond: pd.DataFrame, side: str) -> tuple[Figure, ...]:
    """Of each curve the share of ε for which one bound held, and its worst miss."""
    distances = {part: distance for distance, part in MODELS.items()}
    found = []
    for row in beyond.fillna("").to_dict("records"):
        of = f" beyond {FITTED_TO} tokens" + ("" if row.get("model") else f", {row['name']}")
        where = {
            "model": row.get("model", ""),
            "corpus": row.get("corpus", ""),
            "distance": distances.get(row["part"], ""),
        }
        share = row[side] / row["tried"]
        found.append(Figure(f"share of ε held, {side} bound{of}", share, **where))
        found.append(Figure(f"worst miss of the {side} bound{of}", row[f"{side}_miss"], **where))
    return tuple(found)


def more_window(miss: float, exponent: float) -> float:
    """By how much more window, relatively, a relative miss in distortion is made good."""
    return (1 + miss) ** (1 / exponent) - 1


def budget_rows(
    curves: dict[tuple[str, str], fit.Curve], costs: dict[str, tuple[int, int, int]]
) -> pd.DataFrame:
    """What the chart of windows and megabytes needs, a row a model, text and measured bin.

    `costs` maps a model to its bytes a token (full, sliding, local). Columns: those of
    `fit.summary`, and, the same in all rows of a source: `source` (a name); the fitted
    finite-context law as its exponent `alpha` with `alpha_low` and `alpha_high`, its `level` in
    nats at the window `middle`, and `reference`, the one context T that stands for all:
    (T+1)^-α = mean of (T_i+1)^-α; `shortest` and `longest` (windows measured); `full`, `sliding`,
    `local`.
    """
    tables = []
    for (model, corpus), data in curves.items():
        long = data.between(MIN_WINDOW)
        law = fit.fit_law(
            "finite-context power", long.window, long.mean, long.weights, long.contexts
        )
        alpha, middle = fit.exponent(long), float(np.sqrt(long.window[0] * long.window[-1]))
        reference = np.mean((long.contexts + 1) ** -alpha.value) ** (-1 / alpha.value) - 1
        full, sliding, local = costs[model]
        tables.append(
            fit.summary(long).assign(
                source=f"{names.name_of(model)} on {names.name_of(corpus)}",
                alpha=alpha.value,
                alpha_low=alpha.low,
                alpha_high=alpha.high,
                level=float(law(np.array([middle]))[0]),
                middle=middle,
                reference=reference,
                shortest=int(long.first[0]),
                longest=int(long.last[-1]),
                full=full,
                sliding=sliding,
                local=local,
            )
        )
    return pd.concat(tables, ignore_index=True).drop(columns="fit")


# --- what the page says -------------------------------------------------------------------------


def facts(
    curves: dict[tuple[str, str], fit.Curve],
    checked: pd.DataFrame,
    beyond: pd.DataFrame,
    rows: pd.DataFrame,
    tried: dict[str, pd.DataFrame],
) -> dict[str, str]:
    """What the page's prose glues: of the stored curves of KL, their `law_errors` in `rows`, the
    `sandwich_checks`, what is `out_of_sample` beyond, and what `had_it_been` tried. The first curve
    is the one whose exponent the page turns into windows."""
    first = next(iter(curves.values())).between(MIN_WINDOW)
    alpha = fit.exponent(first)
    return {
        "verdict-c6": bound_rule(checked["upper holds"]),
        "verdict-c7": bound_rule(checked["lower holds"]),
        **{f"power-{claim}": power(tried[side]) for claim, side in SIDES.items()},
        **_beyond_facts(beyond),
        "n-sources": f"{len(checked)}",
        "checks": f"{checked['values of ε'].sum()}",
        "alpha": f"{alpha}",
        "halving": f"{2 ** (1 / alpha.value):.1f}",
        **_half_facts(first),
        "n": f"{first.n_documents}",
        "first-window": f"{first.first[0]}",
        "last-window": f"{first.last[-1]:,}",
        "least-context": f"{first.contexts.min():,.0f}",
        "most-context": f"{first.contexts.max():,.0f}",
        **_miss_facts(curves, rows.set_index(["model", "corpus"])),
    }


def _half_facts(curve: fit.Curve) -> dict[str, str]:
    """What halving an error costs by the law of a finite text, where it was measured."""
    law = fit.fit_law(
        "finite-context power", curve.window, curve.mean, curve.weights, curve.contexts
    )
    windows = np.arange(curve.first[0], curve.last[-1] + 1)
    first, last = (int(windows[law(windows) <= epsilon][0]) for epsilon in HALF)
    return {
        "half-from": f"{HALF[0]:g}",
        "half-to": f"{HALF[1]:g}",
        "half-first": f"{first:,}",
        "half-last": f"{last:,}",
        "half-times": f"{last / first:.1f}",
    }


def _beyond_facts(beyond: pd.DataFrame) -> dict[str, str]:
    """How often each bound held beyond the windows that it was fitted on, and its worst miss."""
    found = {"fitted-to": f"{FITTED_TO}", "close": f"{CLOSE:g}"}
    keys = {SOURCES: "sources", MODELS["KL"]: "kl", MODELS["TV"]: "tv"}
    for part, rows in beyond.groupby("part", sort=False):
        for side in ("upper", "lower"):
            key = f"{side}-{keys[part]}"
            found[f"held-{key}"] = f"{rows[side].sum()} of {rows['tried'].sum()}"
            found[f"miss-{key}"] = f"{rows[f'{side}_miss'].max():.2g}"
            found[f"word-{key}"] = reading(rows, side)
    return found


def _miss_facts(curves: dict[tuple[str, str], fit.Curve], rows: pd.DataFrame) -> dict[str, str]:
    """How far the fitted law is off where it is off most, in distortion and in tokens."""
    model, corpus = worst = rows["typical error"].idxmax()
    alpha = fit.exponent(curves[worst].between(MIN_WINDOW))
    typical, largest = rows.loc[worst, ["typical error", "largest error"]].astype(float)
    return {
        "worst-name": f"{names.name_of(model)} on {names.name_of(corpus)}",
        "worst": f"{100 * typical:.0f}",
        "largest": f"{100 * largest:.0f}",
        "worst-alpha": f"{alpha:.2g}",
        "worst-window": f"{100 * more_window(typical, alpha.value):.0f}",
        "largest-window": f"{100 * more_window(largest, alpha.value):.0f}",
    }
