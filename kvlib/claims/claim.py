"""From the stored measurements to a verdict for each claim. The rules are here, in code, so that
a verdict changes when the data do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from kvlib import fit, names, store

MIN_WINDOW = 8  # shorter windows hold no sentence; the page on C2 shows what other choices give
RIVAL = "stretched exponential"


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
    order = list(names.NAMES)
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


def spread(what: str, estimates: pd.Series, rows: pd.DataFrame) -> str:
    """The smallest and the largest of a column of estimates, with their intervals and n."""
    lowest, highest = min(estimates, key=_value), max(estimates, key=_value)
    models, corpora = rows["model"].nunique(), rows["corpus"].nunique()
    return (
        f"{what} from {lowest:.2g} to {highest:.2g}; {len(rows)} pairs of {models} models and "
        f"{corpora} texts, {rows['documents'].min()} or more documents each"
    )


def _value(item: fit.Estimate) -> float:
    return item.value


def named(rows: pd.DataFrame) -> pd.DataFrame:
    """A table for a page: models and corpora by their names, estimates with their intervals."""
    shown = rows.copy()
    for column in ("model", "corpus"):
        shown[column] = shown[column].map(names.name_of)
    shown = shown.astype(str).set_index("model")
    return shown.rename_axis(index=None, columns="model")
