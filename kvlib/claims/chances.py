"""What data would have given each word: rules run on studies that might have been.

A study has the tables, documents and precision of the stored one, and a truth that we declare. The
share of studies with each word is the power of a rule at the documents at hand. What a study is, is
said where the rule is: estimates drawn anew around the truth (`fit.drawn`), or documents drawn anew
around a curve (`fit.studies`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pandas as pd

from kvlib import fit

STUDIES = 200
WORDS = ("reproduced", "partly", "not reproduced")
LEAST = 0.01  # a word that fewer studies get is not named
AS_PRECISE = "simulated studies as precise as ours"


def shares(study: Callable[[np.random.Generator], str], n: int, seed: int) -> dict[str, float]:
    """Word → share of `n` drawn studies that get it."""
    rng = np.random.default_rng(seed)
    return counted([study(rng) for _ in range(n)])


def counted(said: Sequence[str], words: Sequence[str] = WORDS) -> dict[str, float]:
    """The share of studies that got each word, from the word of each."""
    return {word: said.count(word) / len(said) for word in words}


def table(
    names: list[str], keys: list[tuple], study: Callable[..., str], n: int, seed: int
) -> pd.DataFrame:
    """A row a key: its parts under `names`, then the share of each word.

    `study(rng, *key)` is the word that one study gets; every key has random numbers of its own.
    """
    found = []
    for place, key in enumerate(keys):
        of_words = shares(lambda rng, key=key: study(rng, *key), n, seed + place)
        found.append(dict(zip(names, key, strict=True)) | of_words)
    return pd.DataFrame(found, columns=[*names, *WORDS])


def drawn(
    items: Iterable[fit.Estimate], truth: float, rng: np.random.Generator, log: bool = False
) -> list[fit.Estimate]:
    """Estimates drawn anew around one truth, as `fit.drawn` does."""
    return [fit.drawn(item, truth, rng, log) for item in items]


def shown(chances: pd.DataFrame) -> pd.DataFrame:
    """A table of chances for a page: a row a truth, a column a reading, the shares of its words.

    The columns are those of `table`: a reading, the `truth`, and the words. A cell holds the words
    that at least LEAST of the studies get, the commonest first.
    """
    reading, *words = (name for name in chances if name != "truth")
    cells = chances.assign(said=[_said(row) for row in chances[words].to_dict("records")])
    wide = cells.pivot(index="truth", columns=reading, values="said")
    wide = wide.loc[list(dict.fromkeys(chances["truth"])), list(dict.fromkeys(chances[reading]))]
    return wide.rename_axis(index=None, columns="truth")


def sentence(chances: pd.DataFrame, truth: str, n: int = STUDIES, of: str = AS_PRECISE) -> str:
    """A table of chances in words, none for an empty one; `truth` says what that column holds."""
    if chances.empty:
        return ""
    parts = []
    for value, row in shown(chances).iterrows():
        said = "; ".join(f"{reading} {words}".strip() for reading, words in row.items())
        parts.append(f"{_number(value)} gives {said}")
    return f"Of {n} {of}, by {truth}: {'. '.join(parts)}."


def _number(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:g}".replace("-", "\u2212")


def _said(share: dict[str, float]) -> str:
    common = sorted((word for word in share if share[word] >= LEAST), key=lambda w: -share[w])
    return ", ".join(f"{word} {share[word]:.0%}" for word in common)
