"""Readers that are no neural nets, on the documents that models read: loss by bytes of context.

Each learns from the text outside all shared documents, and says a law of every byte of the last
third of a document:

    ppmd      PPMd, variant H: contexts of at most w bytes (its order, 2 to 64)
    n-gram    `ngrams.Reader`: contexts of at most w bytes
    recency   the same with contexts of at most 32 bytes, and of the document itself only the last
              w bytes

The first two are bounded in what they look up: what stood earlier in the document counts as learnt,
as the history does. The third is bounded in what it reads, as a model with a window of w is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pyppmd
from jaxtyping import Float

from kvlib.corpora import STRETCHES, Corpus, begins
from kvlib.measure import ngrams

READERS = ("ppmd", "n-gram", "recency")
PPMD_ORDERS = (2, 64)  # the least and the most that the library has
PPMD_MEMORY = 2**28  # bytes; with a quarter of it some models are full, and start anew
LONGEST = 32  # contexts of `recency`, in bytes
SCORED = 2 / 3  # of a document, from where on bytes are scored


def split(text: Corpus, chars: int) -> tuple[list[bytes], list[bytes], list[bytes]]:
    """The pieces of a text outside, the documents to learn weights on, and the shared documents.

    Documents are `chars` characters from `corpora.begins` on: the first 24 are shared with models,
    the next 24 are learnt on. Raises ValueError for a text where two of them overlap.
    """
    places = begins(len(text.text), 2 * STRETCHES)
    ends = [0, *(begin + chars for begin in sorted(places))]
    outside = list(zip(ends, [*sorted(places), len(text.text)], strict=True))
    if any(end < begin for begin, end in outside):
        least = min(b - a for a, b in pairwise(sorted(places)))
        raise ValueError(
            f"{text.name} is too short: expected {2 * STRETCHES} documents of {chars} characters "
            f"apart from each other, got {least} from one begin to the next"
        )
    pieces = [text.text[begin:end].encode() for begin, end in outside]
    documents = [text.text[begin : begin + chars].encode() for begin in places]
    return pieces, documents[STRETCHES:], documents[:STRETCHES]


def kept(pieces: Sequence[bytes], most: int) -> list[bytes]:
    """Of each piece the last bytes, the same share of all, so that there are `most` at most."""
    total = sum(map(len, pieces))
    if total <= most:
        return list(pieces)
    return [piece[len(piece) - most * len(piece) // total :] for piece in pieces]


def ppmd_loss(history: bytes, document: bytes, order: int) -> float:
    """Nats a byte of the document's last third after history and document, by the code's length.

    The code has whole bytes: the loss is known to 8 log 2 nats over the number of bytes scored.
    """
    encoder, first = pyppmd.Ppmd7Encoder(order, PPMD_MEMORY), first_scored(document)
    encoder.encode(history)
    encoder.encode(document[:first])
    code = encoder.encode(document[first:])
    return len(code) * np.log(256) / (len(document) - first)


def first_scored(document: bytes) -> int:
    """The first byte of a document that is scored."""
    return int(SCORED * len(document))


def windows_of(reader: str, windows: Sequence[int]) -> list[int]:
    """The windows that a reader can have."""
    least, most = PPMD_ORDERS if reader == "ppmd" else (1, max(windows))
    return [w for w in windows if least <= w <= most]


def measured(text: Corpus, settings: dict[str, Any]) -> Callable[[str, int], list[float]]:
    """Reader and number of a document → its loss (nats a byte) at each of `windows_of`."""
    s, windows = settings, settings["windows"]
    pieces, tuning, documents = split(text, s["chars"])
    learnt = b"".join(kept(pieces, s["ppmd_history"]))

    @cache
    def counted() -> ngrams.Reader:
        history = kept(pieces, s["history"])
        return ngrams.Reader(history, tuning, documents, [0, *windows], SCORED)

    @cache
    def losses(reader: str) -> Float[np.ndarray, "windows documents"]:
        """Of all documents, (windows, documents)."""
        if reader == "n-gram":
            found = counted().by_order()[1:]
        else:
            found = [counted().losses(min(w, LONGEST), w) for w in windows]
        return np.array([[one.mean() for one in of_window] for of_window in found])

    def loss(reader: str, doc: int) -> list[float]:
        if reader == "ppmd":
            orders = windows_of(reader, windows)
            return [ppmd_loss(learnt, documents[doc], order) for order in orders]
        return losses(reader)[:, doc].tolist()

    return loss


def checked(settings: dict[str, Any], docs: int) -> dict[str, Any]:
    """The settings of a study of this kind; ValueError for those that give no rows."""
    s, windows = settings, settings["windows"]
    if not s["readers"] or (set(s["readers"]) - set(READERS)):
        raise ValueError(f"readers: expected some of {', '.join(READERS)}, got {s['readers']}")
    if not 1 <= docs <= STRETCHES:
        raise ValueError(f"docs: expected 1 to {STRETCHES}, got {docs}")
    most = int(SCORED * s["chars"])
    grows = all(a < b for a, b in pairwise([0, *windows]))
    if not windows or not grows or windows[-1] > most:
        raise ValueError(f"windows: expected some, growing, from 1 to {most}, got {windows}")
    if lacking := [one for one in s["readers"] if len(windows_of(one, windows)) < 2]:
        raise ValueError(f"windows: expected at least 2 of {lacking[0]}, got {windows}")
    for key in ("history", "ppmd_history"):
        if s[key] < 1:
            raise ValueError(f"{key}: expected at least 1 byte, got {s[key]}")
    return s


def item_rows(
    lm: None, text: Corpus, settings: dict[str, Any], docs: int
) -> Callable[[int], pd.DataFrame]:
    """The number of a document → its rows: `doc, reader, window_bytes, nll_nats_a_byte,
    nll_excess_nats_a_byte, targets`. The excess is over the reader's largest window."""
    loss = measured(text, settings)
    documents = split(text, settings["chars"])[2]

    def rows(doc: int) -> pd.DataFrame:
        parts = []
        for reader in settings["readers"]:
            nll = np.array(loss(reader, doc))
            windows = np.array(windows_of(reader, settings["windows"]), dtype=np.int32)
            part = {"reader": reader, "window_bytes": windows, "nll_nats_a_byte": nll}
            parts.append(pd.DataFrame(part | {"nll_excess_nats_a_byte": nll - nll[-1]}))
        table = pd.concat(parts, ignore_index=True)
        table.insert(0, "doc", np.int16(doc))
        document = documents[doc]
        return table.assign(targets=np.int32(len(document) - first_scored(document)))

    return rows
