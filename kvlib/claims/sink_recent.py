"""Tables of the pages on cache policies: from stored rows to figures with intervals.

Documents are what is left out for an interval (jackknife-t). Means and ratios are taken to the
logarithm first, for a divergence is positive and skewed. KL is averaged before any logarithm.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd

from kvlib import fit, store
from kvlib.claims.claim import Claim, Verdict, figures_of, rule_text, to_come
from kvlib.claims.policy_rows import (
    LEAST_BUDGETS,
    curve,
    placed,
    same_documents,
    stored_rows,
    suffix_tables,
)
from kvlib.fit import MARGIN

CLAIM = Claim("C4", "A cache of sinks and recent tokens shows the same exponent.", "sink_recent")
CLAIMS = (CLAIM,)


def same_exponent(
    rows: pd.DataFrame, suffixes: dict[tuple[str, str], pd.DataFrame], policy: str, protocol: str
) -> pd.DataFrame:
    """Exponents of a policy and of re-encoded suffixes on the same documents, and the difference.

    Both are fits of the finite-context power law, to windows of at least 8 tokens, on the same
    documents and the same half of each. Columns: `model, corpus, documents, policy, suffix,
    difference` (an `fit.Estimate` each, the last one with each document left out of both, and
    `flat` when the policy has no exponent).
    """
    ours = rows[(rows["policy"] == policy) & (rows["protocol"] == protocol)]
    table = []
    for (model, corpus), part in ours.groupby(["model", "corpus"], sort=False):
        if (model, corpus) not in suffixes:
            continue
        part, suffix = same_documents(part, suffixes[model, corpus])
        data, other = curve(part), fit.curve(suffix).between(8)
        if len(data.window) < LEAST_BUDGETS:
            continue
        both = [fit.left_out_exponents(data), fit.left_out_exponents(other)]
        found = [fit.exponent_of(values) for values in both]
        gap = both[0] - both[1]
        difference = fit.jackknife(gap[0], gap[1:])
        difference = replace(difference, flat=any(item.flat for item in found))
        table.append((model, corpus, data.n_documents, *found, difference))
    columns = ["model", "corpus", "documents", "policy", "suffix", "difference"]
    return pd.DataFrame(table, columns=columns)


def rule(same: pd.DataFrame) -> str:
    """C4, a test of equivalence. Reproduced: on every table the interval of the difference lies
    within ± MARGIN. Not reproduced: on every table it lies outside. Partly: anything between, as
    a difference that is there but may be smaller than MARGIN."""
    if same.empty:
        return "to come"
    if all(
        not item.flat and -MARGIN < item.low and item.high < MARGIN for item in same["difference"]
    ):
        return "reproduced"
    outside = [item.flat or item.low > MARGIN or item.high < -MARGIN for item in same["difference"]]
    return "not reproduced" if all(outside) else "partly"


def sentence(same: pd.DataFrame) -> str:
    """The differences of exponents that C4 rests on, with n."""
    parts = [f"{row.where} {row.difference:.2g}" for row in placed(same).itertuples()]
    return (
        f"exponent of 4 sinks + recent, online, less that of re-encoded suffixes: "
        f"{'; '.join(parts)}; {same['documents'].min()} or more documents each"
    )


def judge(folder: Path = store.DATA) -> tuple[Verdict, ...]:
    """The verdict on C4."""
    rows, suffixes = stored_rows(folder), suffix_tables(folder)
    if rows.empty or not suffixes:
        return (to_come(CLAIM, rule),)
    same = same_exponent(rows, suffixes, "4 sinks + recent", "online")
    where = {"distance": "KL", "policy": "4 sinks + recent"}
    figures = [
        *figures_of(same, {"policy": "exponent α"}, protocol="online", **where),
        *figures_of(
            same, {"suffix": "exponent α"}, protocol="reencode", distance="KL", policy="suffix"
        ),
        *figures_of(same, {"difference": "difference of exponents"}, protocol="online", **where),
    ]
    return (Verdict(CLAIM, rule(same), sentence(same), rule_text(rule), tuple(figures)),)
