"""What the next-token law loses when all but the last w tokens are cut, for every w."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from kvlib.corpora import check_stretches, documents_of
from kvlib.measure.laws import (
    divergences_of_rows,
    exact_divergences,
    hidden_states,
    laws_at,
    states_in_pieces,
)
from kvlib.models import LanguageModel, check_length
from kvlib.models.memory import in_batches, tokens_at_once

STARTS = ("max_window", "pairs_per_octave", "seed")  # settings of every table
LATER: dict[str, Any] = {"thin": 1, "contexts": [], "twice": 0}  # those of old do not say them
GOLDEN = 0.6180339887498949  # steps of this fraction fill a circle evenly, however many there are
PAIRS_PER_OCTAVE = 1024
BATCH_TOKENS = 1024  # more tokens a forward pass gain nothing on a CPU
PIECE = 512  # tokens a forward where the text is read a second time, in pieces


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

    Neighbouring rows of one pass say nearly the same, while the vocabulary's head costs as much for
    each: with `thin` only targets that it divides are kept, in octaves wide enough to hold four.
    """

    max_window: int
    first_target: int
    last_target: int
    pairs_per_octave: int
    seed: int
    thin: int = 1

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

    def kept(
        self, position: Int[np.ndarray, "starts windows"], octave: tuple[int, int]
    ) -> Bool[np.ndarray, "starts windows"]:
        """Which targets of the passes of an octave are measured."""
        inside = (position >= self.first_target) & (position <= self.last_target)
        if octave[1] - octave[0] + 1 < 4 * self.thin:
            return inside
        return inside & (position % self.thin == 0)


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
        One row a pair: `doc, position, context, window, kl_nats, tv, nll_nats, nll_excess_nats`.
        `position` is t, `context` = t + 1 the length of the reference, `nll_nats` is -log Q(x) at
        the text's own next token x for the law Q of the suffix, and `nll_excess_nats` what it is
        above the reference's; both NaN after the last token. Neighbouring pairs share their start
        and are correlated: count documents, not rows.

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
    thin: int = 1,
    contexts: Sequence[int] = (),
    twice: int = 0,
) -> pd.DataFrame:
    """`truncation_sensitivity` of one document; `doc` is its number and sets its starts.

    Args:
        thin: one target in so many is measured; see `Design`.
        contexts: lengths of context that the references have at the first target. Each suffix is
            compared with each of them that is longer, so rows of one target differ in `context`
            alone. Without any, the reference is all that stands before.
        twice: targets whose full law is measured again in document 0, the text read in pieces with
            a cache: rows with `window` = `context`, whose divergence is the noise floor.
    """
    design = design_for(len(document), max_window, pairs_per_octave, seed, thin, contexts)
    check_length(lm, len(document))
    ids = torch.as_tensor(np.asarray(document), device=lm.device)
    with torch.inference_mode():
        position, window, hidden = _suffixes(lm, ids, design, doc)
        tables = []
        for length in sorted(contexts, reverse=True) or [design.first_target + 1]:
            begin = design.first_target + 1 - length
            reference = hidden_states(lm, ids[None, begin:])[0]
            fits = window < position - begin + 1
            states = hidden[torch.from_numpy(fits).to(lm.device)]
            tables.append(
                _compared(lm, ids, reference, states, position[fits], window[fits], begin)
            )
        if twice and doc == 0:
            tables.append(_again(lm, ids, reference, design, begin, twice))
    table = pd.concat(tables, ignore_index=True)
    _check_finite(lm, table, doc)
    table.insert(0, "doc", np.int16(doc))
    return table


def naive_sensitivity(
    lm: LanguageModel, document: Int[np.ndarray, " tokens"], pairs: Iterable[tuple[int, int]]
) -> pd.DataFrame:
    """The plain twin of `measure_document`: one forward pass for each pair (position, window).

    References are computed once a position. Divergences are float64, reduced where the model is.
    """
    ids = torch.as_tensor(np.asarray(document), device=lm.device)
    references: dict[int, torch.Tensor] = {}
    rows = []
    for position, window in pairs:
        if not 1 <= window <= position + 1:
            raise ValueError(
                f"window: expected 1 to {position + 1}, the context's length, got {window}"
            )
        if position not in references:
            references[position] = laws_at(lm, ids[: position + 1], [position])
        log_q = laws_at(lm, ids[position - window + 1 : position + 1], [window - 1])
        kl, tv = exact_divergences(references[position], log_q)
        rows.append((position, position + 1, window, float(kl), float(tv)))
    return pd.DataFrame(rows, columns=["position", "context", "window", "kl_nats", "tv"])


def design_for(
    seq_len: int,
    max_window: int,
    pairs_per_octave: int,
    seed: int,
    thin: int = 1,
    contexts: Sequence[int] = (),
) -> Design:
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
    if thin < 1:
        raise ValueError(f"thin: expected at least 1, got {thin}")
    if contexts and not 2 <= min(contexts) <= max(contexts) <= seq_len:
        raise ValueError(f"contexts: expected some of 2 to {seq_len} tokens, got {contexts}")
    first = max([2 * max_window, *contexts]) - 1
    return Design(max_window, first, seq_len - 1, pairs_per_octave, seed, thin)


# --- as a study -------------------------------------------------------------------------------


def checked(settings: dict[str, Any], docs: int) -> dict[str, Any]:
    """The settings of a study of this kind; ValueError for those that no document can have."""
    s = LATER | settings
    design_for(s["seq_len"], *(s[key] for key in (*STARTS, "thin", "contexts")))
    check_stretches(settings)
    return settings


def item_rows(
    lm: LanguageModel, text: Any, settings: dict[str, Any], docs: int
) -> Callable[[int], pd.DataFrame]:
    """The number of a document → its rows."""
    documents = documents_of(text, lm.tokenizer, settings, docs)
    options = {key: (LATER | settings)[key] for key in (*STARTS, *LATER)}
    return lambda doc: measure_document(lm, documents[doc], doc, **options)


# --- inside the loop --------------------------------------------------------------------------


def _suffixes(
    lm: LanguageModel, ids: Int[Tensor, " tokens"], design: Design, doc: int
) -> tuple[Int[np.ndarray, " rows"], Int[np.ndarray, " rows"], Float[Tensor, "rows width"]]:
    """Target, window and last hidden state of each row of a document, sorted by target."""
    found, tokens = [], tokens_at_once(lm, BATCH_TOKENS)
    for octave in design.octaves():
        for starts, length in equal_lengths(design, doc, octave, tokens):

            def rows(some: Any, octave: Any = octave, length: int = length) -> tuple:
                w = np.arange(octave[0], length + 1)
                t = some[:, None] + w[None, :] - 1
                keep = design.kept(t, octave)
                states = hidden_states(lm, ids[_places(lm, some, length)])
                states = states[:, octave[0] - 1 :][torch.from_numpy(keep).to(lm.device)]
                return t[keep], np.broadcast_to(w, t.shape)[keep], states

            found += in_batches(lm, rows, starts, len(starts))
    positions, windows, hidden = zip(*found, strict=True)
    position, window = np.concatenate(positions), np.concatenate(windows)
    order = np.lexsort((window, position))
    sorted_hidden = torch.cat(hidden)[torch.from_numpy(order).to(lm.device)]
    return position[order], window[order], sorted_hidden


def _compared(
    lm: LanguageModel,
    ids: Int[Tensor, " tokens"],
    reference: Float[Tensor, "context width"],
    hidden: Float[Tensor, "rows width"],
    position: Int[np.ndarray, " rows"],
    window: Int[np.ndarray, " rows"],
    begin: int,
) -> pd.DataFrame:
    """Rows of suffixes against one reference, which was read from token `begin` on."""
    found = divergences_of_rows(lm, reference, hidden, position - begin, ids[begin:])
    columns = {"kl_nats": found.kl, "tv": found.tv}
    columns |= {"nll_nats": found.nll, "nll_excess_nats": found.nll_excess}
    whole = {"position": position, "context": position - begin + 1, "window": window}
    return pd.DataFrame({key: value.astype(np.int32) for key, value in whole.items()} | columns)


def _again(
    lm: LanguageModel,
    ids: Int[Tensor, " tokens"],
    reference: Float[Tensor, "context width"],
    design: Design,
    begin: int,
    targets: int,
) -> pd.DataFrame:
    """The reference's law at the first targets, measured once more: its text in pieces."""
    position = design.first_target + design.thin * np.arange(targets)
    position = position[position <= design.last_target]
    states = states_in_pieces(lm, ids[None, begin : position[-1] + 1], PIECE)[0]
    hidden = states[torch.from_numpy(position - begin).to(lm.device)]
    return _compared(lm, ids, reference, hidden, position, position - begin + 1, begin)


def _check_finite(lm: LanguageModel, table: pd.DataFrame, doc: int) -> None:
    finite = np.isfinite(table[["kl_nats", "tv"]]).all(axis=1)
    if not finite.all():
        bad = table[~finite].iloc[0]
        raise FloatingPointError(
            f"{lm.name}: expected finite logits, got NaN or infinity in document {doc} at "
            f"position {bad['position']:.0f}, window {bad['window']:.0f}"
        )


def _places(
    lm: LanguageModel, starts: Int[np.ndarray, " starts"], length: int
) -> Int[Tensor, "starts length"]:
    """Where in a document the stretches of these starts stand."""
    return torch.from_numpy(starts[:, None] + np.arange(length)).to(lm.device)


def equal_lengths(
    design: Design, doc: int, octave: tuple[int, int], tokens: int = BATCH_TOKENS
) -> Iterator[tuple[Int[np.ndarray, " starts"], int]]:
    """Batches of starts with one pass length each, so that nothing is padded."""
    starts = design.starts(doc, octave)
    lengths = np.minimum(octave[1], design.last_target - starts + 1)
    for length in np.unique(lengths)[::-1]:
        group = starts[lengths == length]
        size = max(1, tokens // int(length))
        for i in range(0, len(group), size):
            yield group[i : i + size], int(length)
