"""C4: does a cache of sinks and recent tokens lose by the law of re-encoded suffixes?

Documents are what is left out for an interval (jackknife-t). Means and ratios are taken to the
logarithm first, for a divergence is positive and skewed. KL is averaged before any logarithm.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from kvlib import fit, store
from kvlib.claims import chances
from kvlib.claims.claim import Claim, Verdict, agreed, figures_of, rule_text, to_come
from kvlib.claims.policy_rows import (
    CORPUS,
    DISTANCES,
    LEAST_BUDGETS,
    MODEL,
    SINKS,
    SLIDING,
    curve,
    placed,
    ratios,
    same_documents,
    stored_rows,
    suffix_tables,
    summary,
)
from kvlib.fit import MARGIN

CLAIM = Claim("C4", "A cache of sinks and recent tokens shows the same exponent.", "sink_recent")
CLAIMS = (CLAIM,)
CLOSED_UP = "sinks-cache-positions"
TRUTHS = (0.0, MARGIN / 2, MARGIN, 2 * MARGIN)  # slopes that might have been
HALF = "half of KL against TV"
READINGS = {  # reading → distance of the policy, distance of the suffix, power of the first
    "KL": ("KL", "KL", 1.0),
    "TV": ("TV", "TV", 1.0),
    HALF: ("KL", "TV", 0.5),
}


def same_exponent(
    rows: pd.DataFrame, suffixes: dict[tuple[str, str], pd.DataFrame], policy: str, protocol: str
) -> pd.DataFrame:
    """How much more slowly a policy's curve falls than re-encoded suffixes, on the same documents.

    Columns: `model, corpus, documents`; the slopes of READINGS (`fit.matched_slope`, no law between
    the curves, window = budget - sinks); and what laws say of KL: the exponents `policy` and
    `suffix` of the finite-context power law, fitted to windows of at least 8 tokens, and their
    `difference`, suffix less policy, so that it has the sign of a slope. All are `fit.Estimate`s
    with each document left out of both; `flat` where the policy has no exponent.
    """
    ours = rows[(rows["policy"] == policy) & (rows["protocol"] == protocol)]
    table = []
    for (model, corpus), part in ours.groupby(["model", "corpus"], sort=False):
        if (model, corpus) not in suffixes:
            continue
        part, suffix = same_documents(part, suffixes[model, corpus])
        data = {name: curve(part, value=value) for name, value in DISTANCES.items()}
        other = {name: fit.curve(suffix, value) for name, value in DISTANCES.items()}
        if len(data["KL"].window) < LEAST_BUDGETS:
            continue
        slopes = [
            fit.matched_slope(data[ours], other[theirs], power)
            for ours, theirs, power in READINGS.values()
        ]
        exponents = fitted_exponents(data["KL"], other["KL"].between(8))
        table.append((model, corpus, data["KL"].n_documents, *slopes, *exponents))
    columns = ["documents", *READINGS, "policy", "suffix", "difference"]
    return pd.DataFrame(table, columns=["model", "corpus", *columns])


def fitted_exponents(ours: fit.Curve, theirs: fit.Curve) -> tuple[fit.Estimate, ...]:
    """Exponents of two curves and how much the second has more, each document left out of both."""
    both = [fit.left_out_exponents(ours), fit.left_out_exponents(theirs)]
    found = [fit.exponent_of(values) for values in both]
    gap = both[1] - both[0]
    difference = fit.jackknife(gap[0], gap[1:])
    return *found, replace(difference, flat=any(item.flat for item in found))


def word(slopes: pd.Series) -> str:
    """The word on one reading: a test of equivalence over tables."""
    if not len(slopes):
        return "to come"
    if all(-MARGIN < item.low and item.high < MARGIN for item in slopes):
        return "reproduced"
    outside = [item.low > MARGIN or item.high < -MARGIN for item in slopes]
    return "not reproduced" if all(outside) else "partly"


def readings(same: pd.DataFrame) -> dict[str, str]:
    """Reading → word; none without a table."""
    return {name: word(same[name]) for name in READINGS if len(same)}


def rule(same: pd.DataFrame) -> str:
    """C4, a test of equivalence without a law: the slope of log(policy / suffix) on log w, at
    windows that both have. Reproduced: on every table its interval lies within ± MARGIN. Not
    reproduced: on every table it lies outside. Partly: anything between, as a difference that is
    there but may be smaller than MARGIN. Three readings: KL, TV, and half of the policy's KL
    exponent against the suffix's TV exponent; the verdict is the word that they share, else
    partly."""
    return agreed(readings(same))


def sentence(same: pd.DataFrame) -> str:
    """The slopes that C4 rests on, by reading, with n."""
    parts = []
    for name in READINGS:
        slopes = ", ".join(
            f"{where} {item:.2g}"
            for where, item in zip(placed(same)["where"], same[name], strict=True)
        )
        parts.append(f"{name}: {slopes}")
    return (
        "slope of log(4 sinks + recent, online / re-encoded suffix) on log w. "
        f"{'; '.join(parts)}; {same['documents'].min()} or more documents each"
    )


def judge(folder: Path = store.DATA) -> tuple[Verdict, ...]:
    """The verdict on C4."""
    rows, suffixes = stored_rows(folder), suffix_tables(folder)
    if rows.empty or not suffixes:
        return (to_come(CLAIM, rule),)
    same = same_exponent(rows, suffixes, SINKS, "online")
    where = {"protocol": "online", "policy": SINKS}
    figures = [
        *figures_of(same, {"KL": "slope of log(policy / suffix)"}, distance="KL", **where),
        *figures_of(same, {"TV": "slope of log(policy / suffix)"}, distance="TV", **where),
        *figures_of(
            same, {HALF: "slope of log(policy's KL^½ / suffix's TV)"}, distance="KL and TV", **where
        ),
        *figures_of(same, {"policy": "exponent α"}, distance="KL", **where),
        *figures_of(
            same, {"suffix": "exponent α"}, distance="KL", protocol="reencode", policy="suffix"
        ),
        *figures_of(
            same, {"difference": "fitted exponents, suffix - policy"}, distance="KL", **where
        ),
    ]
    return (
        Verdict(
            *(CLAIM, rule(same), sentence(same), rule_text(rule), tuple(figures), readings(same)),
            power(had_it_been(same)),
        ),
    )


# --- what would have changed the word -------------------------------------------------------------


def had_it_been(same: pd.DataFrame, n: int = chances.STUDIES, seed: int = 0) -> pd.DataFrame:
    """What each reading would have said, were the slope another one, the same on every table.

    Slopes are drawn anew around `truth`. Columns: `reading, truth`, and the share of each word.
    """
    return chances.table(
        ["reading", "truth"],
        [(name, truth) for name in READINGS for truth in TRUTHS],
        lambda rng, name, truth: word(chances.drawn(same[name], truth, rng)),
        *(n, seed),
    )


def power(of: pd.DataFrame) -> str:
    """What data would have given each word, from `had_it_been`."""
    return chances.sentence(of, "the slope on every table")


# --- the values of the page's prose ---------------------------------------------------------------


def _open(item: fit.Estimate) -> bool:
    """Does the interval reach across the margin, on either side?"""
    least = max(0.0, item.low, -item.high)
    return least < fit.MARGIN < max(abs(item.low), abs(item.high))


def _gap_facts(same: pd.DataFrame) -> dict[str, str]:
    """Least and most of what the suffix's exponent exceeds the cache's by, a distance."""
    return {
        f"gap-{name.lower()}-{which}": f"{item:.2g}"
        for name in ("KL", "TV")
        for which, item in zip(("least", "most"), fit.extremes(same[name]), strict=True)
    }


def facts(
    rows: pd.DataFrame, same: pd.DataFrame, costs: pd.DataFrame, run: pd.DataFrame
) -> dict[str, str]:
    """Name → text of every value that the page glues.

    `rows` are the stored ones of policies, `same` what `same_exponent` makes of them, `costs` what
    `sink_costs` does; `run` is the stored run of a bounded cache.
    """
    least, most = fit.extremes(costs["ratio"])
    times = costs.set_index(["model", "corpus", "budget"])["ratio"][MODEL, CORPUS, 256]
    closed = rows[rows["policy"] == CLOSED_UP]
    return {
        "verdict-c4": rule(same),
        **dict(
            zip(("reading-kl", "reading-tv", "reading-half"), readings(same).values(), strict=True)
        ),
        "margin": str(fit.MARGIN),
        **_gap_facts(same),
        "kl-differ": f"{sum(x.low > 0 or x.high < 0 for x in same['KL'])} of {len(same)}",
        "kl-open": f"{sum(_open(x) for x in same['KL'])}",
        "power-c4": power(had_it_been(same)),
        "n-docs": str(same["documents"].min()),
        "n-moved": str(closed["doc"].nunique()),
        "times-256": f"{times:.2g}",
        "least-cost": f"{least:.2g}",
        "most-cost": f"{most:.2g}",
        **_loss_facts(rows),
        **_run_facts(run),
    }


def sink_costs(rows: pd.DataFrame) -> pd.DataFrame:
    """What a missing sink costs: the sliding window's KL over that of four sinks and recent tokens,
    as `policy_rows.ratios` has it."""
    over = ratios(rows, SLIDING)
    return over[over["policy"] == SINKS]


def online_means(rows: pd.DataFrame, model: str, corpus: str, policy: str) -> pd.DataFrame:
    """budget → `mean, low, high, documents` of the online KL of a policy, nats."""
    ours = rows[(rows["protocol"] == "online") & (rows["policy"] == policy)]
    ours = ours[(ours["model"] == model) & (ours["corpus"] == corpus)]
    return summary(ours).set_index("budget")[["mean", "low", "high", "documents"]]


def full_bounded(run: pd.DataFrame) -> pd.DataFrame:
    """The rows of the bounded cache after it was surely full, in the order of tokens."""
    return run.query("cache == 'bounded' and token > 1000").sort_values("token")


def _loss_facts(rows: pd.DataFrame) -> dict[str, str]:
    """Mean KL with its interval, with sinks and without, on the table that sentences single out."""
    sinks, bare = (online_means(rows, MODEL, CORPUS, policy) for policy in (SINKS, SLIDING))
    shown = {"sink-256": sinks.loc[256]}
    shown |= {f"bare-{budget}": bare.loc[budget] for budget in (16, 256, 512, 1024)}
    said = {
        name: f"{row['mean']:.2g} [{row['low']:.2g},\u00a0{row['high']:.2g}]"
        for name, row in shown.items()
    }
    documents = min(sinks["documents"].min(), bare["documents"].min())
    return said | {"n-web": str(documents)}


def _run_facts(run: pd.DataFrame) -> dict[str, str]:
    """What a bounded and an unbounded cache cost in time (ms a token) and memory (MB)."""
    halves = np.array_split(full_bounded(run)["cpu_seconds"].to_numpy(), 2)
    early, late = (1000 * np.median(half) for half in halves)
    last = run[run["token"] == run["token"].max()].set_index("cache")
    megabytes = last["cache_bytes"] / 1e6
    return {
        "n-written": f"{run['token'].max():,}",
        "early-ms": f"{early:.0f}",
        "late-ms": f"{late:.0f}",
        "mb-bounded": f"{megabytes['bounded']:.0f}",
        "mb-unbounded": f"{megabytes['unbounded']:.0f}",
        "ms-unbounded": f"{1000 * last.loc['unbounded', 'cpu_seconds']:.0f}",
    }
