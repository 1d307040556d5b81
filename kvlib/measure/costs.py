"""What measuring costs on this machine: a short calibration of a model, and a design's counts."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from scipy.optimize import nnls

from kvlib.cache.policies import TOVA
from kvlib.cache.protocols import decode_hidden
from kvlib.measure.laws import HEAD_ROWS, divergences_of_rows, hidden_states
from kvlib.measure.truncation import BATCH_TOKENS, Design
from kvlib.models import LanguageModel, check_length, masks

LADDER = ((1, 1), (1, 32), (1, 256), (1, 1024), (4, 256), (16, 64), (1, 2048))  # texts, tokens
BUDGET = 64  # of a cache that evicts, for a text of four times as many tokens
SQUARE = 512  # tokens of a pass whose pairs are timed


class Seconds(NamedTuple):
    """Seconds of a pass over a document, of a start's pass by the top of its octave, and of a row:
    its law and its divergence."""

    document: float
    starts: dict[int, float]
    row: float


class Pace(NamedTuple):
    """Seconds that a forward costs by itself, a token in it, a pair of query and entry, such a pair
    in a pass with a mask of its own and in one that writes attention weights out, a row (its law
    and its divergence), and what a forward costs more that scores entries and evicts some."""

    forward: float
    token: float
    pair: float
    masked_pair: float
    eager_pair: float
    row: float
    evicting: float = 0.0


class Counts(NamedTuple):
    """Of a design, a document: starts and rows a start by octave, and targets in all."""

    starts: dict[int, float]
    rows: dict[int, float]
    targets: int


def calibrated(
    lm: LanguageModel,
    seq_len: int,
    tops: list[int],
    clock: Callable[[], float] = time.perf_counter,
) -> Seconds:
    """Each kind of pass once, warm, on random tokens: a minute for half a billion parameters.

    `time.process_time` as the clock leaves out what else runs on a busy CPU.
    """
    ids = torch.randint(0, lm.vocab_size - 1, (seq_len,), device=lm.device)
    with torch.inference_mode():
        hidden_states(lm, ids[None, :64])  # warm
        document = _seconds(lambda: hidden_states(lm, ids[None]), clock)
        starts = {}
        for top in tops:
            batch = ids[: max(1, BATCH_TOKENS // top) * top].reshape(-1, top)
            starts[top] = _seconds(partial(hidden_states, lm, batch), clock) / len(batch)
        row = _row(lm, clock)
    return Seconds(document, starts, row)


def paced(
    lm: LanguageModel, seconds: float = 30.0, clock: Callable[[], float] = time.perf_counter
) -> Pace:
    """Passes of rising size, warm, for as long as there are `seconds`; then the least non-negative
    costs of a forward, a token and a pair that give their times, each in proportion.

    At least three sizes are tried, however long they take.
    """
    spent, taken = 0.0, []
    seen: list[tuple[float, ...]] = []
    with torch.inference_mode():
        hidden_states(lm, _random(lm, 1, 64))  # warm
        for batch, length in LADDER:
            if len(seen) >= 3 and spent > seconds / 3 or not _fits(lm, length):
                break
            ids = _random(lm, batch, length)
            runs = [_seconds(lambda: hidden_states(lm, ids), clock) for _ in range(2)]  # noqa: B023
            tokens = length + len(lm.prefix_ids)
            seen.append((1, batch * tokens, batch * tokens * (tokens + 1) / 2))
            taken.append(sum(runs) / 2)
            spent += sum(runs)
        relative = np.array(seen) / np.array(taken)[:, None]
        forward, token, pair = nnls(relative, np.ones(len(taken)))[0]
        masked, eager = _pairs(lm, float(forward), float(token), clock)
        row = _row(lm, clock)
    evicting = _evicting(lm, float(forward), float(token), clock) if eager else 0.0
    return Pace(float(forward), float(token), float(pair), masked, eager, row, evicting)


def counts(design: Design, docs: int = 24) -> Counts:
    """What a design does in a document, on average over documents."""
    starts, rows = ({octave[1]: 0.0 for octave in design.octaves()} for _ in range(2))
    targets = 0
    for doc in range(docs):
        reached = []
        for octave in design.octaves():
            begins = design.starts(doc, octave)
            position = begins[:, None] + np.arange(octave[0], octave[1] + 1) - 1
            reached.append(position[design.kept(position, octave)])
            starts[octave[1]] += len(begins) / docs
            rows[octave[1]] += len(reached[-1]) / docs
        targets += len(np.unique(np.concatenate(reached)))
    a_start = {top: rows[top] / starts[top] for top in starts}
    return Counts(starts, a_start, round(targets / docs))


def _pairs(
    lm: LanguageModel, forward: float, token: float, clock: Callable[[], float]
) -> tuple[float, float]:
    """Seconds a pair in a pass with a mask of its own, and where attention weights are written out;
    0 for models that take no mask, which no policy runs on."""
    length = next((n for n in (SQUARE, SQUARE // 4) if _fits(lm, n)), 32)
    ids, place = _random(lm, 1, length), torch.arange(length, device=lm.device)
    age = place[:, None] - place

    def seconds() -> float:
        mask = masks.masks_for(lm.model, (age >= 0)[None, None], age)
        run = partial(lm.model.base_model, ids, attention_mask=mask, use_cache=False)
        run()  # warm
        return max(0.0, _seconds(run, clock) - forward - token * length) / length**2

    try:
        masked = seconds()
        with masks.eager(lm.model):
            return masked, seconds()
    except (RuntimeError, TypeError, ValueError):
        return 0.0, 0.0


def _evicting(lm: LanguageModel, forward: float, token: float, clock: Callable[[], float]) -> float:
    """Seconds that a forward of `decode_hidden` costs beyond its tokens, of a scored policy."""
    ids, policy, step = _random(lm, 1, 4 * BUDGET)[0], TOVA(), BUDGET // 8
    run = partial(decode_hidden, lm, ids, np.array([4 * BUDGET - 1]), policy, BUDGET)
    seconds = _seconds(lambda: run(np.random.default_rng(0), step), clock)
    tokens = len(ids) + len(lm.prefix_ids)
    return max(0.0, (seconds - token * tokens) / -(-tokens // step) - forward)


def _row(lm: LanguageModel, clock: Callable[[], float]) -> float:
    """Seconds of a row: its law and its divergence."""
    states = hidden_states(lm, _random(lm, 1, 2 * HEAD_ROWS))[0]
    part, position = _random(lm, 1, len(states))[0], np.zeros(len(states), dtype=np.int64)
    divergences_of_rows(lm, states, states, position, part)  # warm
    run = _seconds(lambda: divergences_of_rows(lm, states, states, position, part), clock)
    return run / len(position)


def _random(lm: LanguageModel, batch: int, tokens: int) -> Int[torch.Tensor, "batch tokens"]:
    return torch.randint(0, lm.vocab_size - 1, (batch, tokens), device=lm.device)


def _fits(lm: LanguageModel, tokens: int) -> bool:
    """Whether a model can number so many tokens."""
    try:
        check_length(lm, tokens)
    except ValueError:
        return False
    return True


def _seconds(run: Callable[[], object], clock: Callable[[], float]) -> float:
    begin = clock()
    run()
    return clock() - begin
