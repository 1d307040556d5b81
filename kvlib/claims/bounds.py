"""C6 and C7: the least window for a distortion, between two bounds with one exponent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from kvlib import fit, names, store
from kvlib.claims.claim import MIN_WINDOW, Claim, Figure, Verdict, rule_text
from kvlib.theory import bounds, gaussian, sources

UPPER = Claim("C6", "A sliding window reaches distortion ε with w = O(ε^(−1/α)).", "bounds")
LOWER = Claim(
    "C7", "Under a two-sided condition a suffix-only policy needs w = Ω(ε^(−1/α)).", "bounds"
)
CLAIMS = (UPPER, LOWER)


def sandwich_checks(count: int = 40) -> pd.DataFrame:
    """C6 and C7 on sources whose Bayes risk is exact: does the least window obey both bounds?

    The constants c and C are the extremes of Δ(w) w^α over windows 1 to 4096; the least window is
    found by search, for `count` values of ε within the reach of those windows. One row a source.
    """
    windows = np.arange(1, 4097)
    known = {
        "Gaussian, α = 0.5": (gaussian.GaussianPowerLaw(0.5, 0.1), 0.5),
        "Gaussian, α = 1.5": (gaussian.GaussianPowerLaw(1.5, 0.1), 1.5),
        "renewal, θ = 1.5": (sources.Renewal(1.5), 1.5),
        "recall, α = 0.8": (sources.Recall(0.8), 0.8),
    }
    rows = {}
    for name, (source, alpha) in known.items():
        risk = source.sensitivity(windows)
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


def bound_rule(holds: pd.Series) -> str:
    """C6 or C7: `proved here` when the bound held on every source with a known answer."""
    return "proved here" if holds.all() else "not reproduced"


def sentence(checked: pd.DataFrame) -> str:
    """On what both bounds were tried; `checked` is what `sandwich_checks` returns."""
    tried = int(checked["values of ε"].sum())
    return f"{tried} values of ε on {len(checked)} sources with a known Bayes risk"


def judge(folder: Path = store.DATA) -> tuple[Verdict, ...]:
    """The verdicts on C6 and C7."""
    checked = sandwich_checks()
    figures = tuple(
        Figure(f"C / c, {source}", float(spread)) for source, spread in checked["C / c"].items()
    )
    said, because = sentence(checked), rule_text(bound_rule)
    none = f"{said}; no lower bound for a real model"
    return (
        Verdict(UPPER, bound_rule(checked["upper holds"]), said, because, figures),
        Verdict(LOWER, bound_rule(checked["lower holds"]), none, because, figures),
    )


def more_window(miss: float, exponent: float) -> float:
    """By how much more window, relatively, a relative miss in distortion is made good."""
    return (1 + miss) ** (1 / exponent) - 1


# --- what the page says -------------------------------------------------------------------------


def facts(
    curves: dict[tuple[str, str], fit.Curve], checked: pd.DataFrame, rows: pd.DataFrame
) -> dict[str, str]:
    """What the page's prose glues: of the stored curves, their `law_errors` in `rows`, and the
    `sandwich_checks`. The first curve is the one whose exponent the page turns into windows."""
    first = next(iter(curves.values())).between(MIN_WINDOW)
    alpha = fit.exponent(first)
    return {
        "verdict-c6": bound_rule(checked["upper holds"]),
        "verdict-c7": bound_rule(checked["lower holds"]),
        "n-sources": f"{len(checked)}",
        "checks": f"{checked['values of ε'].sum()}",
        "alpha": f"{alpha}",
        "halving": f"{2 ** (1 / alpha.value):.1f}",
        "n": f"{first.n_documents}",
        "first-window": f"{first.first[0]}",
        "last-window": f"{first.last[-1]:,}",
        **_miss_facts(curves, rows.set_index(["model", "corpus"])),
    }


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
