"""Laws and contests of cache policies: what foretells their curves, how these bend in the budget.

Documents are what is left out for an interval (jackknife-t). Each distance has laws with ground of
its own: the finite-context power law for KL, its root for TV.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from kvlib import fit
from kvlib.claims.claim import MIN_WINDOW
from kvlib.claims.policy_rows import (
    DISTANCES,
    KEYS,
    LAW,
    budget_curves,
    curve,
    document_means,
    same_documents,
)
from kvlib.fit import exponential_of

LAWS = {"KL": LAW, "TV": "root power"}  # of a finite reference, by distance
RIVALS = ("power", "exponential")
LONGEST = 64  # tokens: the longest suffix that the laws of C10 are fitted to


def both_predictions(
    rows: pd.DataFrame, suffixes: dict[tuple[str, str], pd.DataFrame]
) -> pd.DataFrame:
    """The `predictions` of each distance, one below the other, with a column `distance`."""
    parts = [predictions(rows, suffixes, name).assign(distance=name) for name in DISTANCES]
    return pd.concat(parts, ignore_index=True)


def predictions(
    rows: pd.DataFrame, suffixes: dict[tuple[str, str], pd.DataFrame], distance: str = "KL"
) -> pd.DataFrame:
    """What the law of re-encoded suffixes foretells for each policy, and how far it is off.

    The law is fitted to suffixes of up to 512 tokens on the same half of the same documents; its
    window is the tokens that the policy keeps besides sinks, its references are the policy's own
    targets, and its form that of the `distance` (LAWS). Columns: `KEYS`, `predicted`, `mean`,
    `factor` = measured / predicted (an `fit.Estimate`, each document left out of both).
    """
    table = []
    for key, part in rows.groupby(KEYS[:4], sort=False):
        if key[:2] not in suffixes:
            continue
        part, suffix = same_documents(part, suffixes[key[:2]])
        value = DISTANCES[distance]
        data, other = curve(part, value=value), fit.curve(suffix, value).between(8)
        logs = []
        for one, two in zip(data.leaving_out(), other.leaving_out(), strict=True):
            law = fit.fit_law(LAWS[distance], two.window, two.mean, two.weights, two.contexts)
            foretold = replace(law, contexts=data.contexts).log_value(data.window)
            logs.append((foretold, np.log(one.mean)))
        foretold, measured = np.moveaxis(np.array(logs), 1, 0)
        budgets = np.sort(part["budget"].unique())
        for k in range(len(data.window)):
            gap = measured[:, k] - foretold[:, k]
            factor = exponential_of(fit.jackknife(gap[0], gap[1:]))
            means = np.exp(foretold[0, k]), np.exp(measured[0, k])
            table.append((*key, int(budgets[k]), *means, factor))
    return pd.DataFrame(table, columns=[*KEYS, "predicted", "mean", "factor"])


def contests(rows: pd.DataFrame, suffixes: dict[tuple[str, str], pd.DataFrame]) -> pd.DataFrame:
    """C10: laws fitted to re-encoded suffixes of 8 to 64 tokens, scored on a policy's whole curve.

    A law's factor is that by which it misses on geometric mean over the budgets, up or down:
    exp(mean |log measured - log foretold|), so 1 at best. Same documents, same tokens of each, at
    the policy's own references. Columns: `KEYS` but the budget, `distance, documents, law`
    (of a finite reference: `LAWS`), `power, exponential` (factors), `lead` (the exponential's
    factor over the law's), all `fit.Estimate`s, each document left out of both; `worst` and
    `worst exponential` (largest factors at one budget).
    """
    table = []
    for key, part in rows.groupby(KEYS[:4], sort=False):
        if key[:2] not in suffixes:
            continue
        part, suffix = same_documents(part, suffixes[key[:2]])
        for distance, value in DISTANCES.items():
            ours = curve(part, value=value)
            short = fit.curve(suffix, value).between(MIN_WINDOW, LONGEST)
            off = misses(ours, short, (LAWS[distance], *RIVALS))
            means = off.mean(axis=-1)
            found = [exponential_of(fit.jackknife(m[0], m[1:])) for m in means.T]
            gap = means[:, 2] - means[:, 0]
            lead = exponential_of(fit.jackknife(gap[0], gap[1:]))
            worst = np.exp(off[0].max(axis=-1))
            row = (*key, distance, ours.n_documents, *found, lead, worst[0], worst[2])
            table.append(row)
    columns = ["distance", "documents", "law", *RIVALS, "lead", "worst", "worst exponential"]
    return pd.DataFrame(table, columns=[*KEYS[:4], *columns])


def misses(ours: fit.Curve, short: fit.Curve, laws: tuple[str, ...]) -> np.ndarray:
    """|log measured - log foretold| of laws fitted to `short`: (1 + documents, laws, windows).

    First of all documents, then without each in turn.
    """
    found = []
    for one, two in zip(ours.leaving_out(), short.leaving_out(), strict=True):
        fits = [fit.fit_law(law, two.window, two.mean, two.weights, two.contexts) for law in laws]
        said = [replace(f, contexts=ours.contexts).log_value(ours.window) for f in fits]
        found.append(np.abs(np.log(one.mean) - np.array(said)))
    return np.array(found)


def mean_ratios(rows: pd.DataFrame, baseline: str, value: str = "kl_nats") -> pd.DataFrame:
    """C11: the geometric mean over budgets of a baseline's distortion over that of each policy.

    Columns: `KEYS` but the budget, `budgets`, `ratio` (an `fit.Estimate`: budgets share documents,
    each left out of all at once). Over documents on which every budget was run with both.
    """
    means = document_means(rows, value).unstack("budget")
    keys = list(dict.fromkeys(index[:4] for index in means.index))
    table = []
    for key in keys:
        other = (*key[:3], baseline)
        if key[3] == baseline or other not in keys:
            continue
        pair = [means.loc[name].dropna(axis=1, how="all").dropna() for name in (other, key)]
        budgets = pair[0].columns.intersection(pair[1].columns)
        docs = pair[0].index.intersection(pair[1].index)
        logs = [np.log(of_all_and_left(side.loc[docs, budgets].to_numpy())) for side in pair]
        gap = (logs[0] - logs[1]).mean(axis=1)
        ratio = exponential_of(fit.jackknife(gap[0], gap[1:]))
        table.append((*key, len(budgets), ratio))
    return pd.DataFrame(table, columns=[*KEYS[:4], "budgets", "ratio"])


def of_all_and_left(values: np.ndarray) -> np.ndarray:
    """Means over documents (documents, budgets), then without each: (1 + documents, budgets)."""
    left = (values.sum(axis=0) - values) / (len(values) - 1)
    return np.vstack([values.mean(axis=0), left])


def over_tables(means: pd.DataFrame) -> fit.Estimate:
    """The geometric mean over tables of the `ratio` of `mean_ratios`, each budget the same.

    Tables are independent; the interval has as many degrees of freedom as the smallest has alone.
    """
    parts = [fit.logarithm_of(item) for item in means["ratio"]]
    weights = means["budgets"] / means["budgets"].sum()
    value = sum(w * item.value for w, item in zip(weights, parts, strict=True))
    halves = [w * (item.high - item.low) / 2 for w, item in zip(weights, parts, strict=True)]
    half = float(np.linalg.norm(halves))
    least = min(item.n_documents for item in parts)
    return exponential_of(fit.Estimate(value, value - half, value + half, least))


def budget_laws(rows: pd.DataFrame) -> pd.DataFrame:
    """C12: how distortion falls in the budget, sinks counted.

    Columns: `KEYS` but the budget, `distance, documents, budgets, exponent` (of the law of a finite
    reference), `b` (`fit.bend`) and `bracket` (`fit.bend_of_reference`: b with the bracket of a
    finite reference, at least zero), `fit.Estimate`s. A TV is fitted in its square.
    """
    table = []
    for distance, value in DISTANCES.items():
        root = distance == "TV"
        for key, data in budget_curves(rows, value).items():
            exponent = fit.jackknife_t(data, LAWS[distance])
            shapes = fit.bend(data, root).first, fit.bend_of_reference(data, root).first
            counts = data.n_documents, len(data.window)
            table.append((*key, distance, *counts, exponent, *shapes))
    columns = ["distance", "documents", "budgets", "exponent", "b", "bracket"]
    return pd.DataFrame(table, columns=[*KEYS[:4], *columns])
