"""What measuring costs on this machine: a short calibration of a model, and a design's counts."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from kvlib.measure.laws import HEAD_ROWS, divergences_of_rows, hidden_states
from kvlib.measure.truncation import BATCH_TOKENS, Design
from kvlib.models import LanguageModel


class Seconds(NamedTuple):
    """Seconds of a pass over a document, of a start's pass by the top of its octave, and of a row:
    its law and its divergence."""

    document: float
    starts: dict[int, float]
    row: float


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
        states = hidden_states(lm, ids[None, : 2 * HEAD_ROWS])[0]
        part = ids[: len(states)]
        position = np.zeros(len(states), dtype=np.int64)
        divergences_of_rows(lm, states, states, position, part)
        row = _seconds(lambda: divergences_of_rows(lm, states, states, position, part), clock)
    return Seconds(document, starts, row / len(position))


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


def _seconds(run: Callable[[], object], clock: Callable[[], float]) -> float:
    begin = clock()
    run()
    return clock() - begin
