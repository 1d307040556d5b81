"""What the next-token law loses when all but the last w tokens are cut, for every w."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int

from kvlib.measure.divergences import kl_divergence, total_variation
from kvlib.measure.laws import divergences_of_rows, hidden_states, next_token_law
from kvlib.models import LanguageModel, check_length

GOLDEN = 0.6180339887498949  # steps of this fraction fill a circle evenly, however many there are
PAIRS_PER_OCTAVE = 1024
BATCH_TOKENS = 1024  # more tokens a forward pass gain nothing on a CPU


@dataclass(frozen=True)
class Design:
    """Which pairs of one document are measured, and by which forward passes.

    Windows are sorted into octaves (1), (2), (3, 4), (5..8), … Each octave has starts s, evenly
    spaced and `spacing` tokens apart, with a phase that differs from document to document. One pass
    over x[s..] serves the windows of its octave at once: at s+w-1 it has seen exactly w tokens.
    Targets outside [first_target, last_target] are dropped, so that every window is scored on
    the same region of text.

    A start of the top octave costs as much as two of the octave below, while the start-to-start
    spread of KL, relative to its mean, is about the same in every octave. For starts of cost c
    and equal spread, the variance of a log-log slope falls fastest with starts ∝ 1/√c: so each
    octave has 1/√2 of the pairs of the octave above it, and √2 times the starts.
    """

    max_window: int
    first_target: int
    last_target: int
    pairs_per_octave: int
    seed: int

    def octaves(self) -> list[tuple[int, int]]:
        """(smallest, largest) window of each octave."""
        tops = [2**k for k in range(int(np.ceil(np.log2(self.max_window))) + 1)]
        return [(top // 2 + 1 if top > 1 else 1, min(top, self.max_window)) for top in tops]

    def spacing(self, octave: tuple[int, int]) -> int:
        """Tokens between neighbouring starts; the top octave has about `pairs_per_octave` pairs."""
        region = self.last_target - self.first_target + 1
        width = octave[1] - octave[0] + 1
        pairs = self.pairs_per_octave * (octave[1] / self.max_window) ** 0.5
        return max(1, min(region, round(width * region / pairs)))

    def starts(self, doc: int, octave: tuple[int, int]) -> Int[np.ndarray, " starts"]:
        """Starts of one document and octave whose passes reach the target region."""
        spacing = self.spacing(octave)
        offset = np.random.default_rng([self.seed, octave[1]]).random()
        phase = int(spacing * ((offset + doc * GOLDEN) % 1))
        first, last = self.first_target - octave[1] + 1, self.last_target - octave[0] + 1
        return np.arange(first + (phase - first) % spacing, last + 1, spacing)


def truncation_sensitivity(
    lm: LanguageModel,
    documents: Sequence[Int[np.ndarray, " tokens"]],
    max_window: int = 1024,
    pairs_per_octave: int = PAIRS_PER_OCTAVE,
    seed: int = 0,
) -> pd.DataFrame:
    """What the next-token law loses when all but the last w tokens are cut, for every w.

    D(w) = KL( P(·|x[0..t]) ‖ P(·|x[t-w+1..t]) ), the suffix re-encoded from position 0.

    Args:
        documents: token ids, all of one length ≥ 2·max_window. Targets t are the positions from
            2·max_window - 1 to the end, so each context is at least twice the window.
        pairs_per_octave: pairs (t, w) of a document in the top octave; `Design` has the rest.

    Returns:
        One row a pair: `doc, position, context, window, kl_nats, tv`; `position` is t and
        `context` = t + 1 is the length of the reference. Neighbouring pairs share their start and
        are correlated: count documents, not rows.

    Raises:
        ValueError: a window below 1, or documents too short for it.
        FloatingPointError: logits that are not finite.
    """
    return pd.concat(
        [
            measure_document(lm, document, doc, max_window, pairs_per_octave, seed)
            for doc, document in enumerate(documents)
        ],
        ignore_index=True,
    )


def measure_document(
    lm: LanguageModel,
    document: Int[np.ndarray, " tokens"],
    doc: int,
    max_window: int = 1024,
    pairs_per_octave: int = PAIRS_PER_OCTAVE,
    seed: int = 0,
) -> pd.DataFrame:
    """`truncation_sensitivity` of one document; `doc` is its number and sets its starts."""
    design = design_for(len(document), max_window, pairs_per_octave, seed)
    check_length(lm, len(document))
    ids = torch.as_tensor(np.asarray(document), device=lm.device)
    with torch.inference_mode():
        reference = hidden_states(lm, ids[None])[0]
        positions, windows, hidden = [], [], []
        for octave in design.octaves():
            for starts, length in _equal_lengths(design, doc, octave):
                states = hidden_states(lm, torch.stack([ids[s : s + length] for s in starts]))
                w = np.arange(octave[0], length + 1)
                t = starts[:, None] + w[None, :] - 1
                keep = (t >= design.first_target) & (t <= design.last_target)
                hidden.append(states[:, octave[0] - 1 :][torch.from_numpy(keep).to(lm.device)])
                positions.append(t[keep])
                windows.append(np.broadcast_to(w, t.shape)[keep])
        position, window = np.concatenate(positions), np.concatenate(windows)
        order = np.lexsort((window, position))
        position, window = position[order], window[order]
        hidden = torch.cat(hidden)[torch.from_numpy(order).to(lm.device)]
        kl, tv = divergences_of_rows(lm, reference, hidden, position)
    if not (np.isfinite(kl).all() and np.isfinite(tv).all()):
        bad = int(np.argmin(np.isfinite(kl) & np.isfinite(tv)))
        raise FloatingPointError(
            f"{lm.name}: expected finite logits, got NaN or infinity in document {doc} at "
            f"position {position[bad]}, window {window[bad]}"
        )
    return pd.DataFrame(
        {
            "doc": np.full(len(position), doc, dtype=np.int16),
            "position": position.astype(np.int32),
            "context": (position + 1).astype(np.int32),
            "window": window.astype(np.int32),
            "kl_nats": kl,
            "tv": tv,
        }
    )


def naive_sensitivity(
    lm: LanguageModel, document: Int[np.ndarray, " tokens"], pairs: Iterable[tuple[int, int]]
) -> pd.DataFrame:
    """The plain twin of `measure_document`: one forward pass for each pair (position, window).

    References are computed once a position. Its divergences are the float64 ones.
    """
    ids = torch.as_tensor(np.asarray(document), device=lm.device)
    references: dict[int, np.ndarray] = {}
    rows = []
    for position, window in pairs:
        if not 1 <= window <= position + 1:
            raise ValueError(
                f"window: expected 1 to {position + 1}, the context's length, got {window}"
            )
        if position not in references:
            references[position] = next_token_law(lm, ids[: position + 1])
        log_q = next_token_law(lm, ids[position - window + 1 : position + 1])
        kl = float(kl_divergence(references[position], log_q))
        tv = float(total_variation(references[position], log_q))
        rows.append((position, position + 1, window, kl, tv))
    return pd.DataFrame(rows, columns=["position", "context", "window", "kl_nats", "tv"])


def design_for(seq_len: int, max_window: int, pairs_per_octave: int, seed: int) -> Design:
    """The design for documents of `seq_len` tokens; raises ValueError when it cannot be had."""
    if max_window < 1:
        raise ValueError(f"max_window: expected at least 1, got {max_window}")
    if pairs_per_octave < 1:
        raise ValueError(f"pairs_per_octave: expected at least 1, got {pairs_per_octave}")
    if seq_len < 2 * max_window:
        raise ValueError(
            f"documents: expected at least {2 * max_window} tokens, twice the largest window "
            f"{max_window}, got {seq_len}"
        )
    return Design(max_window, 2 * max_window - 1, seq_len - 1, pairs_per_octave, seed)


# --- as a study -------------------------------------------------------------------------------


def checked(settings: dict[str, Any], docs: int) -> dict[str, Any]:
    """The settings of a study of this kind; ValueError for those that no document can have."""
    s = settings
    design_for(s["seq_len"], s["max_window"], s["pairs_per_octave"], s["seed"])
    return s


def item_rows(
    lm: LanguageModel, text: Any, settings: dict[str, Any], docs: int
) -> Callable[[int], pd.DataFrame]:
    """The number of a document → its rows."""
    s = settings
    documents = text.documents(lm.tokenizer, s["stride"], docs, s["seed"])
    return lambda doc: measure_document(
        lm,
        documents[doc][: s["seq_len"]],
        doc,
        s["max_window"],
        s["pairs_per_octave"],
        s["seed"],
    )


# --- inside the loop --------------------------------------------------------------------------


def _equal_lengths(
    design: Design, doc: int, octave: tuple[int, int]
) -> Iterator[tuple[Int[np.ndarray, " starts"], int]]:
    """Batches of starts with one pass length each, so that nothing is padded."""
    starts = design.starts(doc, octave)
    lengths = np.minimum(octave[1], design.last_target - starts + 1)
    for length in np.unique(lengths)[::-1]:
        group = starts[lengths == length]
        size = max(1, BATCH_TOKENS // int(length))
        for i in range(0, len(group), size):
            yield group[i : i + size], int(length)
