"""From the stored measurements to a verdict for each claim. The rules are here, in code, so that
a verdict changes when the data do."""

from __future__ import annotations

import html
import re
from pathlib import Path

from kvlib import fit, store
from kvlib.claims import (
    block_markov,
    formulation,
    open_question,
    policies,
    policy_rows,
    positions,
    sink_recent,
)
from kvlib.claims.bounds import bound_verdict, sandwich_checks
from kvlib.claims.claim import CLAIMS, MIN_WINDOW, Verdict, spread
from kvlib.claims.extrapolation import contests, extrapolation_verdict
from kvlib.claims.formulation import solver_holds
from kvlib.claims.sensitivity import decay, decay_verdict

POWER = re.compile(r"\^\(([^)]*)\)")  # of a claim in plain text


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
    rates = formulation.stored_rates()
    found["C1"] = (
        formulation.formulation_verdict(solver_holds(), rates),
        formulation.formulation_figure(rates),
    )
    memory = open_question.memory_needs(open_question.memory_curves(1.5))
    rows = open_question.open_question_table(memory)
    found["C8"] = (
        open_question.open_question_verdict(rows),
        open_question.open_question_figure(rows),
    )
    measured = policy_rows.stored_rows()
    if len(open_question.protocols_compared(measured, "4 sinks + recent")):
        both = found["C8"][1], open_question.carrying_figure(measured)
        found["C8"] = found["C8"][0], "; ".join(both)
    if tv_curves:
        exact = block_markov.exponent_table(), block_markov.sliding_checks()
        ratios = block_markov.two_distances(curves, tv_curves, MIN_WINDOW)
        found["C9"] = (
            block_markov.block_markov_verdict(*exact, block_markov.tv_exponents()),
            block_markov.block_markov_figure(*exact, ratios),
        )
    if curves:
        slow, far = decay(curves), contests(curves)
        found["C2"] = (decay_verdict(slow), spread("α", slow["exponent"], slow))
        found["C3"] = (
            extrapolation_verdict(far),
            spread("error of exponential / power law", far["exponential"], far),
        )
    found |= policy_verdicts()
    found["C5"] = positions.verdict_and_figure()
    return [
        Verdict(claim, *found[claim.id]) if claim.id in found else Verdict(claim, "to come", "")
        for claim in CLAIMS
    ]


def policy_verdicts(folder: Path = store.DATA) -> dict[str, tuple[str, str]]:
    """C4, C10, C11 and C12: verdict and figure, from the stored rows of policies."""
    rows, suffixes = policy_rows.stored_rows(folder), policy_rows.suffix_tables(folder)
    if rows.empty or not suffixes:
        return {}
    same = sink_recent.same_exponent(rows, suffixes, "4 sinks + recent", "online")
    foretold = policies.predictions(rows, suffixes)
    ratio, laws = policy_rows.ratios(rows), policies.budget_laws(rows)
    return {
        "C4": (sink_recent.sink_verdict(same), sink_recent.sink_figure(same)),
        "C10": (
            policies.prediction_verdict(foretold),
            policies.prediction_figure(foretold),
        ),
        "C11": (policies.retention_verdict(ratio), policies.retention_figure(ratio)),
        "C12": (policies.law_verdict(laws), policies.law_figure(laws)),
    }


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
