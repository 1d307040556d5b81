"""What data would have given each word: rules run on studies that might have been.

A study has the tables, documents and precision of the stored one, and a truth that we declare:
every estimate is drawn anew around it (`fit.drawn`). The share of studies with each word is the
power of a rule at the documents at hand.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pandas as pd

from kvlib import fit
from kvlib.claims import policies, sink_recent
from kvlib.claims.policy_rows import DISTANCES, HALF_RECENT, PROTOCOLS, RECENCY, online_recency

STUDIES = 200
WORDS = ("reproduced", "partly", "not reproduced")
SAME = (0.0, 0.05, fit.MARGIN, 0.2)  # how far two exponents of C4 differ
FACTORS = (1.05, 1.2, policies.FORETOLD, 3.0)  # by which the law of C10 misses
RATIOS = (4.0, 10.0, 20.0, 100.0)  # of random retention to recency
BENDS = (-0.3, 0.0, 0.3, 1.0)


def shares(study: Callable[[np.random.Generator], str], n: int, seed: int) -> dict[str, float]:
    """Word → share of `n` drawn studies that get it."""
    rng = np.random.default_rng(seed)
    counts = Counter(study(rng) for _ in range(n))
    return {word: counts[word] / n for word in WORDS}


def same_exponent(same: pd.DataFrame, n: int = STUDIES, seed: int = 0) -> pd.DataFrame:
    """C4: rows `reading, truth` and a column a word; the true slope is the same on every table."""
    return _table(
        ["reading", "truth"],
        [(name, truth) for name in ("KL", "TV") for truth in SAME],
        lambda rng, name, truth: sink_recent.word(_drawn(same[name], truth, rng)),
        *(n, seed),
    )


def predictions(foretold: pd.DataFrame, n: int = STUDIES, seed: int = 0) -> pd.DataFrame:
    """C10: rows `distance, truth`, a column a word; the law misses every curve by that factor.

    The exponential's lead is drawn around what was measured.
    """
    parts = dict(iter(online_recency(foretold).groupby("distance")))

    def study(rng: np.random.Generator, distance: str, truth: float) -> str:
        part = parts[distance]
        lead = [fit.drawn(item, item.value, rng, log=True) for item in part["lead"]]
        law = _drawn(part["law"], truth, rng, log=True)
        return policies.prediction_word(part.assign(law=law, lead=lead))

    keys = [(distance, truth) for distance in DISTANCES if distance in parts for truth in FACTORS]
    return _table(["distance", "truth"], keys, study, n, seed)


def retention(
    ratio: pd.DataFrame, means: pd.DataFrame, n: int = STUDIES, seed: int = 0
) -> pd.DataFrame:
    """C11 in KL: rows `protocol, truth`, a column a word; that ratio at every budget and table.

    Budgets are drawn one by one, though they share documents. Tries of policies that keep the
    newest half by right are drawn around what was measured.
    """
    parts = _by_protocol(ratio, (*RECENCY, *HALF_RECENT)), _by_protocol(means)

    def remade(table: pd.DataFrame, truth: float, rng: np.random.Generator) -> pd.DataFrame:
        truths = [
            truth if policy in RECENCY else item.value
            for policy, item in zip(table["policy"], table["ratio"], strict=True)
        ]
        pairs = zip(table["ratio"], truths, strict=True)
        return table.assign(ratio=[fit.drawn(item, at, rng, log=True) for item, at in pairs])

    def study(rng: np.random.Generator, protocol: str, truth: float) -> str:
        return policies.retention_word(*(remade(part[protocol], truth, rng) for part in parts))

    keys = [(protocol, truth) for protocol in PROTOCOLS if protocol in parts[0] for truth in RATIOS]
    return _table(["protocol", "truth"], keys, study, n, seed)


def budget_laws(laws: pd.DataFrame, n: int = STUDIES, seed: int = 0) -> pd.DataFrame:
    """C12 in KL: rows `protocol, truth`, a column a word; every curve bends by that b.

    The estimate with the bracket of a finite reference is taken to be the one without, kept at or
    above zero: where it ends there it has no width of its own to draw from.
    """
    parts = _by_protocol(laws)

    def study(rng: np.random.Generator, protocol: str, truth: float) -> str:
        part = parts[protocol]
        b = _drawn(part["b"], truth, rng)
        return policies.law_word(part.assign(b=b, bracket=[_from_zero(item) for item in b]))

    keys = [(protocol, truth) for protocol in PROTOCOLS if protocol in parts for truth in BENDS]
    return _table(["protocol", "truth"], keys, study, n, seed)


def shown(chances: pd.DataFrame) -> pd.DataFrame:
    """A table of chances for a page: a row a truth, a column a reading, the shares of its words.

    A cell holds the words that at least one study in a hundred gets, the commonest first.
    """
    reading = next(name for name in chances if name != "truth")
    cells = chances.assign(said=[_said(row) for row in chances.to_dict("records")])
    wide = cells.pivot(index="truth", columns=reading, values="said")
    return wide[list(dict.fromkeys(chances[reading]))].rename_axis(index=None, columns="truth")


def _said(row: dict) -> str:
    common = sorted(WORDS, key=lambda word: -row[word])
    return ", ".join(f"{word} {row[word]:.0%}" for word in common if row[word] >= 0.01)


def _table(names: list[str], keys: list[tuple], study: Callable, n: int, seed: int) -> pd.DataFrame:
    """A row a key: its parts under `names`, then the share of each word."""
    found = []
    for place, key in enumerate(keys):
        of_words = shares(lambda rng, key=key: study(rng, *key), n, seed + place)
        found.append(dict(zip(names, key, strict=True)) | of_words)
    return pd.DataFrame(found, columns=[*names, *WORDS])


def _by_protocol(table: pd.DataFrame, chosen: tuple[str, ...] = RECENCY) -> dict[str, pd.DataFrame]:
    """Protocol → the rows of recency policies, or of others, in KL."""
    ours = table[table["policy"].isin(chosen) & (table["distance"] == "KL")]
    return dict(iter(ours.groupby("protocol")))


def _drawn(
    items: pd.Series, truth: float, rng: np.random.Generator, log: bool = False
) -> list[fit.Estimate]:
    return [fit.drawn(item, truth, rng, log) for item in items]


def _from_zero(item: fit.Estimate) -> fit.Estimate:
    ends = (max(end, 0.0) for end in (item.value, item.low, item.high))
    return fit.Estimate(*ends, item.n_documents)
