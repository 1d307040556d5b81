"""From the stored measurements to a verdict for each claim. The rules are here, in code, so that
a verdict changes when the data do."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from kvlib import (
    block_checks,
    bounds,
    charts,
    closed_forms,
    coding,
    fit,
    kv_rates,
    policy_checks,
    positions,
    sources,
    store,
)

MIN_WINDOW = 8  # shorter windows hold no sentence; the page on C2 shows what other choices give
SPLIT = 64  # the extrapolation page lets the reader choose another
RIVAL = "stretched exponential"
POWER = re.compile(r"\^\(([^)]*)\)")  # of a claim in plain text


@dataclass(frozen=True)
class Claim:
    """A claim of the paper in our words, and the page that treats it (none yet: empty)."""

    id: str
    text: str
    page: str = ""


CLAIMS = (
    Claim(
        "C1",
        "Compressing a cache online is sequential Wyner-Ziv coding; the next query is side "
        "information.",
        "formulation",
    ),
    Claim(
        "C2",
        "What cutting old context changes decays polynomially, not geometrically, in the length "
        "kept.",
        "sensitivity",
    ),
    Claim(
        "C3",
        "Fitted on short windows, a power law foretells long ones ten times better than an "
        "exponential.",
        "extrapolation",
    ),
    Claim("C4", "A cache of sinks and recent tokens shows the same exponent.", "sink_recent"),
    Claim("C5", "The decay is no artifact of positional encodings.", "positions"),
    Claim("C6", "A sliding window reaches distortion ε with w = O(ε^(−1/α)).", "bounds"),
    Claim(
        "C7", "Under a two-sided condition a suffix-only policy needs w = Ω(ε^(−1/α)).", "bounds"
    ),
    Claim(
        "C8",
        "Open: can summaries that carry old tokens forward beat that scaling?",
        "open_question",
    ),
    Claim(
        "C9",
        "A block-Markov scheme attains the upper bound, up to a factor of two in the exponent.",
        "block_markov",
    ),
    Claim("C10", "The polynomial law predicts how concrete cache policies degrade.", "policies"),
    Claim(
        "C11",
        "At equal budget recency-based eviction beats random retention a hundredfold.",
        "policies",
    ),
    Claim("C12", "Distortion falls as a power law in the budget.", "policies"),
)


@dataclass(frozen=True)
class Verdict:
    """A word and its figure: `reproduced`, `partly`, `not reproduced`, `proved here`, `open` or
    `to come`."""

    claim: Claim
    verdict: str
    figure: str


def stored_curves(
    value: str = "kl_nats", folder: Path = store.DATA
) -> dict[tuple[str, str], fit.Curve]:
    """(model, corpus) → curve, for every stored truncation-sensitivity table."""
    tables = store.stored("sensitivity", folder)
    order = list(charts.NAMES)
    return {
        key: fit.curve(store.load_table(tables[key]), value)
        for key in sorted(
            tables, key=lambda key: [order.index(k) if k in order else len(order) for k in key]
        )
    }


def sizes(curves: dict[tuple[str, str], fit.Curve]) -> pd.DataFrame:
    """What stands behind each table: `model, corpus, documents, starts, pairs`."""
    return pd.DataFrame(
        [(*key, data.n_documents, data.n_starts, data.n_pairs) for key, data in curves.items()],
        columns=["model", "corpus", "documents", "starts", "pairs"],
    )


def decay(curves: dict[tuple[str, str], fit.Curve], min_window: int = MIN_WINDOW) -> pd.DataFrame:
    """What C2 rests on, a row a table: the exponent, and the held-out error of the rivals.

    Columns: `model, corpus, documents, exponent` and, as ratios to the finite-context power law,
    `exponential, stretched` (an `fit.Estimate` each).
    """
    rows = []
    for (model, corpus), data in curves.items():
        long = data.between(min_window)
        errors = fit.held_out(long, ("finite-context power", "exponential", RIVAL))
        rows.append(
            {
                "model": model,
                "corpus": corpus,
                "documents": data.n_documents,
                "exponent": fit.exponent(long),
                "exponential": errors["exponential"],
                "stretched": errors[RIVAL],
            }
        )
    return pd.DataFrame(rows)


def starting_points(
    curves: dict[tuple[str, str], fit.Curve], firsts: tuple[int, ...]
) -> pd.DataFrame:
    """The exponent of each table for several smallest windows, with the finite-context correction
    and without: columns `model, corpus, corrected ≥ w …, naive ≥ w …`, an `fit.Estimate` each."""
    laws = {"corrected": "finite-context power", "naive": "power"}
    return pd.DataFrame(
        {"model": model, "corpus": corpus}
        | {
            f"{kind} ≥ {first}": fit.exponent(data.between(first), law)
            for kind, law in laws.items()
            for first in firsts
        }
        for (model, corpus), data in curves.items()
    )


def contests(
    curves: dict[tuple[str, str], fit.Curve], split: float = SPLIT, min_window: int = MIN_WINDOW
) -> pd.DataFrame:
    """What C3 rests on, a row a table: errors beyond the split and their ratios to the power law's.

    Columns: `model, corpus, documents, power` (its error), and the ratios `exponential, stretched,
    finite` (finite-context power law), an `fit.Estimate` each.
    """
    rows = []
    for (model, corpus), data in curves.items():
        contest = fit.extrapolation(data.between(min_window), split)
        rows.append(
            {
                "model": model,
                "corpus": corpus,
                "documents": data.n_documents,
                "power": contest.errors["power"],
                "exponential": contest.ratios["exponential"],
                "stretched": contest.ratios[RIVAL],
                "finite": contest.ratios["finite-context power"],
            }
        )
    return pd.DataFrame(rows)


def solver_holds() -> bool:
    """C1's one-step problem: the Wyner-Ziv solver meets the doubly symmetric closed form, which
    lies above the conditional rate, with a certified gap."""
    p, flip = 0.25, np.array([[0.75, 0.25], [0.25, 0.75]])
    points = [coding.wyner_ziv(flip / 2, 1 - np.eye(2), slope) for slope in (2.5, 3.0, 4.0)]
    distortion = np.array([point.distortion for point in points])
    formula = closed_forms.doubly_symmetric_rate(distortion, p)
    rate = np.array([point.rate_nats for point in points])
    return bool(
        all(point.converged for point in points)
        and np.abs(rate - formula).max() < 1e-8
        and (formula > closed_forms.binary_rate(distortion, p)).all()
    )


def coverage(folder: Path = store.DATA) -> pd.DataFrame:
    """How often the 95% interval of an exponent held the truth, a row a simulated source.

    From the stored calibration: columns are ways to make the interval, cells the share of studies
    with its binomial interval, in percent.
    """
    table = store.read_table(folder / "calibration.parquet").query("check == 'interval'")
    cells = [
        f"{100 * share:.1f} [{100 * low:.1f},\u00a0{100 * high:.1f}]"
        for share, low, high in zip(table["share"], table["low"], table["high"], strict=True)
    ]
    shown = table.assign(cell=cells).pivot(index="source", columns="method", values="cell")
    return shown.loc[table["source"].unique()].rename_axis(index=None, columns="source")


def sandwich_checks(count: int = 40) -> pd.DataFrame:
    """C6 and C7 on sources whose Bayes risk is exact: does the least window obey both bounds?

    The constants c and C are the extremes of Δ(w) w^α over windows 1 to 4096; the least window is
    found by search, for `count` values of ε within the reach of those windows. One row a source.
    """
    windows = np.arange(1, 4097)
    known = {
        "Gaussian, α = 0.5": (sources.GaussianPowerLaw(0.5, 0.1), 0.5),
        "Gaussian, α = 1.5": (sources.GaussianPowerLaw(1.5, 0.1), 1.5),
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


def bound_verdict(holds: pd.Series) -> str:
    """C6 or C7: `proved here` when the bound held on every source with a known answer."""
    return "proved here" if holds.all() else "not reproduced"


def decay_verdict(rows: pd.DataFrame) -> str:
    """C2. Reproduced: on every table the power law beats the exponential *and* the stretched
    exponential on unseen documents, intervals above one. Partly: only the exponential."""
    if not all(ratio.low > 1 for ratio in rows["exponential"]):
        return "not reproduced"
    return "reproduced" if all(ratio.low > 1 for ratio in rows["stretched"]) else "partly"


def extrapolation_verdict(rows: pd.DataFrame) -> str:
    """C3. Reproduced: on every table the exponential's error is the larger one, interval above
    one, and the geometric mean of the ratios is an order of magnitude, give or take half of one
    (√10 or more). Partly: larger, but by less."""
    if not all(ratio.low > 1 for ratio in rows["exponential"]):
        return "not reproduced"
    return "reproduced" if fit.geometric_mean(rows["exponential"]) >= 10**0.5 else "partly"


def verdicts(
    curves: dict[tuple[str, str], fit.Curve],
    tv_curves: dict[tuple[str, str], fit.Curve] | None = None,
) -> list[Verdict]:
    """The verdict of every claim, in order; `to come` where there is no measurement yet.

    `tv_curves` are those of the total variation, of the same tables; C9 needs both.
    """
    checked = sandwich_checks()
    tried = f"{int(checked['values of ε'].sum())} values of ε on {len(checked)} sources"
    found = {
        "C6": (bound_verdict(checked["upper holds"]), f"{tried} with a known Bayes risk"),
        "C7": (
            bound_verdict(checked["lower holds"]),
            f"{tried} with a known Bayes risk; no lower bound for a real model",
        ),
    }
    rates = kv_rates.stored()
    found["C1"] = (
        kv_rates.formulation_verdict(solver_holds(), rates),
        kv_rates.formulation_figure(rates),
    )
    memory = block_checks.memory_needs(block_checks.memory_curves(1.5))
    rows = block_checks.open_question_table(memory)
    found["C8"] = block_checks.open_question_verdict(rows), block_checks.open_question_figure(rows)
    measured = policy_checks.stored_rows()
    if len(policy_checks.protocols_compared(measured, "4 sinks + recent")):
        both = found["C8"][1], policy_checks.carrying_figure(measured)
        found["C8"] = found["C8"][0], "; ".join(both)
    if tv_curves:
        exact = block_checks.exponent_table(), block_checks.sliding_checks()
        ratios = block_checks.two_distances(curves, tv_curves, MIN_WINDOW)
        found["C9"] = (
            block_checks.block_markov_verdict(*exact, block_checks.tv_exponents()),
            block_checks.block_markov_figure(*exact, ratios),
        )
    if curves:
        slow, far = decay(curves), contests(curves)
        found["C2"] = (decay_verdict(slow), _spread("α", slow["exponent"], slow))
        found["C3"] = (
            extrapolation_verdict(far),
            _spread("error of exponential / power law", far["exponential"], far),
        )
    found |= policy_verdicts()
    found["C5"] = positions.verdict_and_figure()
    return [
        Verdict(claim, *found[claim.id]) if claim.id in found else Verdict(claim, "to come", "")
        for claim in CLAIMS
    ]


def policy_verdicts(folder: Path = store.DATA) -> dict[str, tuple[str, str]]:
    """C4, C10, C11 and C12: verdict and figure, from the stored rows of policies."""
    rows, suffixes = policy_checks.stored_rows(folder), policy_checks.suffix_tables(folder)
    if rows.empty or not suffixes:
        return {}
    same = policy_checks.same_exponent(rows, suffixes, "4 sinks + recent", "online")
    foretold = policy_checks.predictions(rows, suffixes)
    ratio, laws = policy_checks.ratios(rows), policy_checks.budget_laws(rows)
    return {
        "C4": (policy_checks.sink_verdict(same), policy_checks.sink_figure(same)),
        "C10": (
            policy_checks.prediction_verdict(foretold),
            policy_checks.prediction_figure(foretold),
        ),
        "C11": (policy_checks.retention_verdict(ratio), policy_checks.retention_figure(ratio)),
        "C12": (policy_checks.law_verdict(laws), policy_checks.law_figure(laws)),
    }


def _spread(what: str, estimates: pd.Series, rows: pd.DataFrame) -> str:
    """The smallest and the largest of a column of estimates, with their intervals and n."""
    lowest, highest = min(estimates, key=_value), max(estimates, key=_value)
    models, corpora = rows["model"].nunique(), rows["corpus"].nunique()
    return (
        f"{what} from {lowest:.2g} to {highest:.2g}; {len(rows)} pairs of {models} models and "
        f"{corpora} texts, {rows['documents'].min()} or more documents each"
    )


def _value(item: fit.Estimate) -> float:
    return item.value


def to_html(items: list[Verdict]) -> str:
    """The verdict table of the front page, as an HTML table with links to the pages."""
    rows = []
    for item in items:
        claim = POWER.sub(r"<sup>\1</sup>", html.escape(item.claim.text))
        if item.claim.page:
            claim = f'<a href="../notebooks/{item.claim.page}.html">{claim}</a>'
        kind = item.verdict.replace(" ", "-")
        rows.append(
            f"<tr><td>{item.claim.id}</td>"
            f'<td>{claim}<div class="kv-figure">{html.escape(item.figure)}</div></td>'
            f'<td><span class="kv-verdict kv-{kind}">{item.verdict}</span></td></tr>'
        )
    head = (
        "<tr><th>Claim</th><th>The paper says, in our words; what we measured</th>"
        "<th>Our verdict</th>"
    )
    return (
        f'<table class="table kv-verdicts"><thead>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def named(rows: pd.DataFrame) -> pd.DataFrame:
    """A table for a page: models and corpora by their names, estimates with their intervals."""
    shown = rows.copy()
    for column in ("model", "corpus"):
        shown[column] = shown[column].map(charts.name_of)
    shown = shown.astype(str).set_index("model")
    return shown.rename_axis(index=None, columns="model")
