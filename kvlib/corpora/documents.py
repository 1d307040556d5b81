"""A text and its documents: drawn from a seed, or the same characters for every tokenizer."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from kvlib.corpora.reading import tokens_of

STRETCHES = 24  # evenly spaced along a text: the documents that all models read
STRETCH_CHARS = 6144  # over 1,024 tokens of the small GPT-2, and cut out of its training
SHIFTS = (0.5, 0.0, 0.25, 0.75)  # where in their parts the first, second, … 24 begin
MOST_CHARS_A_TOKEN = 8  # of a whole document


class Stretch(NamedTuple):
    """A document: its first character in the text, the one after its last, and its token ids."""

    begin: int
    end: int
    ids: np.ndarray


@dataclass(frozen=True)
class Corpus:
    """A text to measure on. `sha256` is that of its UTF-8 bytes."""

    name: str
    text: str = field(repr=False)
    sha256: str
    licence: str
    source: str

    def about(self) -> dict[str, str]:
        """What a manifest says of the text beside its hash."""
        return {"source": self.source, "licence": self.licence}

    def documents(self, tokenizer: Any, seq_len: int, n: int, seed: int = 0) -> list[np.ndarray]:
        """`n` disjoint stretches of `seq_len` token ids (int64), in an order drawn from `seed`.

        The text is tokenised whole, without special tokens, and cut into consecutive stretches;
        the first `k` of `n` stretches are those that a call for `k` returns, so a measurement
        can grow. Raises ValueError when the text holds fewer than `n`.
        """
        if seq_len < 1 or n < 1:
            raise ValueError(f"seq_len and n: expected at least 1, got {seq_len} and {n}")
        ids = _token_ids(tokenizer, self.text)
        available = len(ids) // seq_len
        if available < n:
            raise ValueError(
                f"{self.name} is too short: expected {n} documents of {seq_len} tokens, "
                f"got {len(ids)} tokens, enough for {available}"
            )
        order = np.random.default_rng(seed).permutation(available)[:n]
        return [ids[k * seq_len : (k + 1) * seq_len] for k in order]

    def shared(self, tokenizer: Any, seq_len: int, n: int) -> list[Stretch]:
        """`n` disjoint documents of `seq_len` tokens that begin at the same characters whatever the
        tokenizer: `begins`. Raises ValueError for a text too short for them."""
        places = begins(len(self.text), n)
        found = [_stretch(tokenizer, self.text, begin, seq_len) for begin in places]
        ends = dict(zip(sorted(places), [*sorted(places)[1:], len(self.text)], strict=True))
        for stretch in found:
            if len(stretch.ids) < seq_len or stretch.end > ends[stretch.begin]:
                raise ValueError(
                    f"{self.name} is too short: expected {n} stretches of {seq_len} tokens apart "
                    f"from each other, got {len(self.text)} characters in all and "
                    f"{ends[stretch.begin] - stretch.begin} from one begin to the next"
                )
        return found


def begins(chars: int, n: int) -> list[int]:
    """Where the first `n` shared documents of a text of `chars` characters begin.

    The text is cut into STRETCHES equal parts. The first 24 documents begin where the middle
    STRETCH_CHARS of a part do, the next at its start and its quarters; within each 24 the order
    halves the text again and again, so that any first few are spread over all of it.
    Raises ValueError for more than 96, and for parts shorter than two middles.
    """
    part = chars // STRETCHES
    if 2 * STRETCH_CHARS > part:
        raise ValueError(
            f"text: expected at least {2 * STRETCH_CHARS * STRETCHES} characters, got {chars}"
        )
    if not 1 <= n <= STRETCHES * len(SHIFTS):
        raise ValueError(f"docs: expected 1 to {STRETCHES * len(SHIFTS)} shared, got {n}")
    halving = sorted(range(STRETCHES), key=lambda k: f"{k:05b}"[::-1])
    return [
        halving[i % STRETCHES] * part + int((part - STRETCH_CHARS) * SHIFTS[i // STRETCHES])
        for i in range(n)
    ]


def check_stretches(settings: dict[str, Any]) -> None:
    """Refuses other choices of documents than `documents_of` knows."""
    if (stretches := settings.get("stretches", "drawn")) not in ("drawn", "shared"):
        raise ValueError(f"stretches: expected drawn or shared, got {stretches!r}")


def documents_of(
    text: Corpus, tokenizer: Any, settings: dict[str, Any], docs: int
) -> list[np.ndarray]:
    """The documents of a study by its settings: `shared` stretches, or the first `seq_len` tokens
    of `stride` that are drawn from `seed`."""
    seq_len = settings["seq_len"]
    if settings.get("stretches") == "shared":
        return [stretch.ids for stretch in text.shared(tokenizer, seq_len, docs)]
    drawn = text.documents(tokenizer, settings["stride"], docs, settings["seed"])
    return [ids[:seq_len] for ids in drawn]


def _stretch(tokenizer: Any, text: str, begin: int, seq_len: int) -> Stretch:
    """The `seq_len` tokens from a character on, or as many as there are."""
    piece = text[begin : begin + MOST_CHARS_A_TOKEN * seq_len]
    read = tokens_of(tokenizer, piece, return_offsets_mapping=True)
    ids = np.asarray(read["input_ids"][:seq_len], dtype=np.int64)
    end = begin + read["offset_mapping"][:seq_len][-1][1]
    return Stretch(begin, end, ids)


@cache
def _token_ids(tokenizer: Any, text: str) -> np.ndarray:
    """Token ids of the whole text, without special tokens; kept, for it takes seconds."""
    return np.asarray(tokens_of(tokenizer, text)["input_ids"], dtype=np.int64)
