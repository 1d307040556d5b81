"""The same targets behind references of several lengths: is the reference's bracket in the data?

If D_T(w) = Δ(w) - Δ(T), a longer reference makes the distance of one and the same window larger, by
an amount that the law foretells; and a bend that stays when the reference grows is a bend of the
decay itself. Tables of the study `long` hold each suffix compared with several references.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pandas as pd

from kvlib import fit, store
from kvlib.claims.claim import DISTANCES, MIN_WINDOW


class Long(NamedTuple):
    """One table: the rows of each reference, by its length at the first target, shortest first."""

    model: str
    corpus: str
    rows: dict[int, pd.DataFrame]

    @property
    def shortest(self) -> int:
        return min(self.rows)

    @property
    def longest(self) -> int:
        return max(self.rows)


def stored(folder: Path = store.DATA) -> list[Long]:
    """The tables with references of several lengths."""
    return [
        Long(table.settings["model"], table.settings["corpus"], by_length(table.load()))
        for table in store.tables(folder, "long")
    ]


def by_length(rows: pd.DataFrame) -> dict[int, pd.DataFrame]:
    """Rows of truncations by the length of their reference at the first target."""
    rows, _ = fit.parted(rows)
    lengths = rows["context"] - rows["position"] + rows["position"].min()
    return {int(length): part for length, part in rows.groupby(lengths)}


def curves(one: Long, distance: str = "KL") -> list[fit.Curve]:
    """A curve a reference, the shortest first, on the windows that are at most half of it."""
    top = one.shortest // 2
    return [_curve(rows, distance).between(MIN_WINDOW, top) for rows in one.rows.values()]


def farthest(one: Long, distance: str = "KL") -> fit.Curve:
    """The curve against the longest reference, to the longest window."""
    return _curve(one.rows[one.longest], distance).between(MIN_WINDOW)


def _curve(rows: pd.DataFrame, distance: str) -> fit.Curve:
    return fit.curve(rows, DISTANCES[distance], common=True)


def ratios(one: Long) -> pd.DataFrame:
    """KL against the longest reference over KL against each shorter one: the same documents,
    targets and windows, those of the last octave that is at most half the shortest reference.

    Columns: `reference` (the shorter one's length), `windows, documents`, `ratio` (an
    `fit.Estimate`) and `foretold`, by the corrected law of the longest reference.
    """
    top = one.shortest // 2
    law = fit.exponent(farthest(one)).value
    means, brackets = {}, {}
    for length, rows in one.rows.items():
        part = rows[(rows["window"] > top // 2) & (rows["window"] <= top)]
        means[length] = part.groupby("doc")["kl_nats"].mean().to_numpy()
        near, far = ((part[column] + 1.0) ** -law for column in ("window", "context"))
        brackets[length] = (near - far).mean()
    return pd.DataFrame(
        {"reference": length, "windows": f"{top // 2 + 1:,} to {top:,}"}
        | {"documents": len(means[length])}
        | {"ratio": fit.log_ratio(means[one.longest], means[length])}
        | {"foretold": brackets[one.longest] / brackets[length]}
        for length in one.rows
        if length != one.longest
    )


def told_apart(one: Long) -> pd.DataFrame:
    """Bend and strength of the bracket from all references at once, a row a distance.

    Columns: `distance`, `b`, `λ`, and `α`, the exponent to the longest window with λ = 1.
    """
    rows = []
    for distance, law in (("KL", "finite-context power"), ("TV", "root power")):
        found = fit.strengths(curves(one, distance), root=distance == "TV")
        alpha = fit.exponent(farthest(one, distance), law)
        rows.append({"distance": distance, "b": found.bend, "λ": found.strength, "α": alpha})
    return pd.DataFrame(rows)


def facts(tables: list[Long]) -> dict[str, str]:
    """What the page's prose glues, of the first table; nothing where there is none."""
    if not tables:
        return {}
    one = tables[0]
    apart, longer = told_apart(one).set_index("distance"), ratios(one)
    first = longer.iloc[0]
    lengths = [f"{length:,}" for length in one.rows]
    found = {
        "long-n": f"{first['documents']}",
        "long-references": f"{', '.join(lengths[:-1])} and {lengths[-1]}",
        "long-windows": first["windows"],
        "long-most": f"{one.rows[one.longest]['window'].max():,}",
        "long-ratio": f"{first['ratio']:.3g}",
        "long-foretold": f"{first['foretold']:.3g}",
        "long-word": word(first["ratio"], first["foretold"]),
    }
    for distance in apart.index:
        key = distance.lower()
        found |= {
            f"long-{name}-{key}": f"{apart.loc[distance, column]:.2f}"
            for name, column in (("b", "b"), ("lambda", "λ"), ("alpha", "α"))
        }
    return found


def word(ratio: fit.Estimate, foretold: float) -> str:
    """How a measured ratio stands to one, and to what the bracket foretells."""
    if ratio.low > 1:
        side = "surely above one"
    elif ratio.high < 1:
        side = "surely below one"
    else:
        side = "not surely other than one"
    holds = "holds" if ratio.low <= foretold <= ratio.high else "does not hold"
    return f"{side}, and its interval {holds} what the bracket predicts"
