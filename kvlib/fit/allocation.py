"""Where the next second of measuring helps most: variance components, and what each costs.

A row is drawn in three stages: a document, a start in it, a target of the start's pass. Of a
log-log slope Σ c_k log m_k over octaves k, m_k the mean of octave k, each stage has its share:

    variance = [σ_D² + Σ_k (σ_Sk² + σ_Rk² / rows_k) / starts_k] / documents
    seconds  = documents · [c_D + Σ_k starts_k (c_Sk + rows_k c_R)]

[Standard: nested sampling, Cochran 1977; two levels of precision, Giles 2008.]
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats


@dataclass(frozen=True)
class Components:
    """Variances of a log-log slope: between `documents`, and octave by octave between the `starts`
    of a document and the `rows` of a start. `tops` are the largest windows of the octaves."""

    tops: np.ndarray
    documents: float
    starts: np.ndarray
    rows: np.ndarray

    def variance(self, starts: np.ndarray, rows: np.ndarray) -> float:
        """Of the slope of one document with so many starts an octave and rows a start."""
        within = (self.starts + self.rows / np.maximum(rows, 1)) / np.maximum(starts, 1)
        return float(self.documents + within.sum())


def components(table: pd.DataFrame, value: str = "kl_nats", smallest: int = 8) -> Components:
    """Variance components of the slope of log mean `value` on log window, from `smallest` on.

    By the analysis of variance of each octave, its values divided by the octave's mean and weighted
    with the octave's influence on the slope; rows of a start count as drawn from it. A component
    that comes out negative is zero. Raises ValueError for other columns, numbers that are not
    finite, windows below 1, and fewer than 3 documents or 2 octaves.
    """
    needed = ["doc", "position", "window", "context", value]
    if missing := [name for name in needed if name not in table]:
        raise ValueError(f"table: expected the column {missing[0]}, got {', '.join(table)}")
    if not np.isfinite(table[needed].to_numpy(float)).all() or (table["window"] < 1).any():
        raise ValueError("table: expected finite numbers and windows of 1 or more, got others")
    octave = np.ceil(np.log2(table["window"])).astype(int)
    part = table.assign(octave=octave, start=table["position"] - table["window"] + 1)
    part = part[
        (part["window"] > smallest) & (part["window"] < part["context"])
    ]  # octaves (9..16), (17..32), …
    if part["doc"].nunique() < 3 or part["octave"].nunique() < 2:
        raise ValueError(
            "table: expected at least 3 documents and 2 octaves of windows above "
            f"{smallest}, got {part['doc'].nunique()} and {part['octave'].nunique()}"
        )
    by_octave = part.groupby("octave")
    x = by_octave["window"].apply(lambda w: np.log(w).mean())
    influence = (x - x.mean()) / ((x - x.mean()) ** 2).sum()
    scaled = part[value] / by_octave[value].transform("mean") * part["octave"].map(influence)
    part = part.assign(scaled=scaled)
    starts, rows, sampled = [], [], 0.0
    for _, one in part.groupby("octave"):
        found = _nested(one)
        starts.append(found[0])
        rows.append(found[1])
        sampled += found[2]
    slopes = part.groupby(["doc", "octave"])["scaled"].mean().groupby("doc").sum()
    between = max(0.0, float(slopes.var(ddof=1)) - sampled)
    tops = np.array([2**k for k in sorted(part["octave"].unique())])
    return Components(tops, between, np.array(starts), np.array(rows))


def _nested(rows: pd.DataFrame) -> tuple[float, float, float]:
    """Variance between starts, between the rows of a start, and both in the mean of a document."""
    by_start = rows.groupby(["doc", "start"])["scaled"]
    means, counts = by_start.mean(), by_start.size()
    several = counts > 1
    within = (by_start.var(ddof=1)[several] * (counts[several] - 1)).sum()
    of_rows = within / max(1, (counts[several] - 1).sum())
    by_doc = means.groupby("doc")
    spread = by_doc.var(ddof=1).dropna()
    per_row = (1 / counts).groupby("doc").mean().reindex(spread.index)
    of_starts = max(0.0, float((spread - of_rows * per_row).mean())) if len(spread) else 0.0
    n_starts = by_doc.size()
    in_means = float(((of_starts + of_rows * (1 / counts).groupby("doc").mean()) / n_starts).mean())
    return of_starts, float(of_rows), in_means


@dataclass(frozen=True)
class Plan:
    """A design with what a document costs and how much its slope varies. `documents` are those
    that the seconds at hand allow, `half_width` is of the 95% t interval of the slope then."""

    settings: dict[str, int]
    seconds_a_document: float
    variance: float
    documents: int
    half_width: float


def plan(
    settings: dict[str, int],
    starts: np.ndarray,
    rows: np.ndarray,
    each: float,
    found: Components,
    seconds: float,
) -> Plan:
    """What a design gives for so many seconds, a document taking `each`: 2 documents or more.

    `starts` and `rows` are those of the octaves of `found`, a document and a start. Raises
    ValueError for other octaves.
    """
    if not len(starts) == len(rows) == len(found.tops):
        raise ValueError(
            f"octaves: expected those of the table, up to windows of {found.tops.tolist()}, got "
            f"{len(starts)} of a design"
        )
    variance = found.variance(starts, rows)
    documents = max(2, int(seconds / each))
    half = stats.t.ppf(0.975, documents - 1) * np.sqrt(variance / documents)
    return Plan(settings, each, variance, documents, float(half))


def best(plans: list[Plan]) -> Plan:
    """The plan with the narrowest interval: the least variance times seconds, documents aside."""
    return min(plans, key=lambda one: one.variance * one.seconds_a_document)


@dataclass(frozen=True)
class TwoLevels:
    """Cheap rows of many documents, corrected by the difference to dear ones on a few.

    `share` is how many documents of a hundred want both, as a fraction; `time` the seconds that the
    two levels take over those of dear rows alone, for the same variance: below one they pay.
    `shift` and `half_width` are of the difference dear minus cheap, with its 95% t interval.
    """

    share: float
    time: float
    shift: float
    half_width: float


def two_levels(
    cheap: np.ndarray, dear: np.ndarray, cheap_seconds: float, dear_seconds: float
) -> TwoLevels:
    """Does it pay? From an exponent's pseudo-values of the same documents at both precisions.

    With V0 the variance of the cheap ones, V1 that of the differences, c0 and c1 what a document
    costs (both passes for the second): N1/N0 = √(V1 c0 / (V0 c1)), and the seconds for one unit of
    variance are (√(V0 c0) + √(V1 c1))². Raises ValueError for fewer than 3 documents.
    """
    if len(cheap) != len(dear) or len(cheap) < 3:
        raise ValueError(
            f"documents: expected at least 3 at both precisions, got {len(cheap)} and {len(dear)}"
        )
    gap = dear - cheap
    v0, v1, alone = (float(np.var(x, ddof=1)) for x in (cheap, gap, dear))
    c0, c1 = cheap_seconds, cheap_seconds + dear_seconds
    share = np.sqrt(v1 * c0 / (v0 * c1)) if v0 > 0 else np.inf
    time = (np.sqrt(v0 * c0) + np.sqrt(v1 * c1)) ** 2 / (alone * dear_seconds)
    half = stats.t.ppf(0.975, len(gap) - 1) * np.sqrt(v1 / len(gap))
    return TwoLevels(float(share), float(time), float(gap.mean()), float(half))
