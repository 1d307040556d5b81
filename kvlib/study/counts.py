"""What a study does, counted and not run: forward passes, tokens, rows of the head, stored rows.

Each kind of table has a function here that goes through the loops of the code that measures it,
with the designs, policies and constants of that code. Tests hold the counts against what passes
through a model.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from kvlib.cache import protocols
from kvlib.cache.policies import Policy
from kvlib.measure import cache_run, truncation
from kvlib.measure.distortion import named_policies
from kvlib.measure.positions import targets_of


class Pass(NamedTuple):
    """One forward of a model's body: `batch` rows of `tokens` tokens behind `before` cached ones.

    `way` is plain (causal), masked (a mask of its own), eager (attention weights written out), or
    scored (eager, and then entries are scored and evicted).
    """

    way: str
    batch: int
    tokens: int
    before: int = 0

    @property
    def read(self) -> int:
        """Tokens that go through the body."""
        return self.batch * self.tokens

    @property
    def pairs(self) -> int:
        """Queries times entries: half of the square for a causal pass, else the whole of it."""
        own = self.tokens * (self.tokens + 1) // 2 if self.way == "plain" else self.tokens**2
        return self.batch * (self.tokens * self.before + own)


@dataclass
class Work:
    """Of one document: passes with their numbers, `head` rows of the vocabulary's head, of which
    `laws` are references, and `rows` of the table. `kept` are laws held at once, `states` rows of
    last hidden states."""

    passes: Counter[Pass] = field(default_factory=Counter)
    head: int = 0
    laws: int = 0
    rows: int = 0
    kept: int = 0
    states: int = 0
    cached: bool = False

    @property
    def tokens(self) -> int:
        """Tokens through the body."""
        return sum(one.read * many for one, many in self.passes.items())

    @property
    def forwards(self) -> int:
        """Passes through the body."""
        return self.passes.total()

    def add(self, way: str, batch: int, tokens: int, before: int = 0, many: int = 1) -> None:
        """So many more passes of a kind."""
        if batch and tokens and many:
            self.passes[Pass(way, batch, tokens, before)] += many


def counted(
    kind: str, settings: dict[str, Any], doc: int, prefix: int, at_once: int = 0
) -> Work | None:
    """What the document of that number takes behind `prefix` tokens; None for a kind that runs no
    model. `at_once` are the tokens of a pass where starts of one length go together, on a card; it
    changes the number of passes alone."""
    if kind == "truncation_sensitivity":
        return _truncation(settings, doc, prefix, at_once or truncation.BATCH_TOKENS)
    return COUNTED[kind](settings, doc, prefix) if kind in COUNTED else None


# --- kind by kind -----------------------------------------------------------------------------


def _truncation(
    s: dict[str, Any], doc: int, prefix: int, at_once: int = truncation.BATCH_TOKENS
) -> Work:
    s = truncation.LATER | s
    design = truncation.design_for(
        *(s["seq_len"], s["max_window"], s["pairs_per_octave"], s["seed"]),
        *(s["thin"], s["contexts"]),
    )
    work, positions, windows = Work(), [], []
    for octave in design.octaves():
        for starts, length in truncation.equal_lengths(design, doc, octave, at_once):
            work.add("plain", len(starts), prefix + length)
            window = np.arange(octave[0], length + 1)
            position = starts[:, None] + window - 1
            keep = design.kept(position, octave)
            positions.append(position[keep])
            windows.append(np.broadcast_to(window, position.shape)[keep])
    position, window = np.concatenate(positions), np.concatenate(windows)
    begin = 0
    for length in sorted(s["contexts"], reverse=True) or [design.first_target + 1]:
        begin = design.first_target + 1 - length
        work.add("plain", 1, prefix + s["seq_len"] - begin)
        fits = window < position - begin + 1
        work.laws += len(np.unique(position[fits]))
        work.rows += int(fits.sum())
    work.states = len(position) + s["seq_len"]
    if s["twice"] and doc == 0:
        again = design.first_target + design.thin * np.arange(s["twice"])
        again = again[again <= design.last_target]
        _in_pieces(work, prefix + int(again[-1]) + 1 - begin, truncation.PIECE)
        work.laws, work.rows = work.laws + len(again), work.rows + len(again)
    work.head = work.laws + work.rows
    return work


def _distortion(s: dict[str, Any], doc: int, prefix: int) -> Work:
    policies = named_policies(s["policies"])
    targets = np.arange(s["seq_len"] // 2, s["seq_len"], s["every"])
    work = _full_pass(s["seq_len"] + prefix, protocols.to_score(policies, s["protocol"]))
    work.add("masked", 1, 8, many=3)  # `masks.check_masks` asks whether masks are obeyed
    work.laws = work.kept = len(targets)
    for policy in policies:
        for budget in s["budgets"]:
            _policy(work, policy, s, budget, targets, prefix)
    work.rows = len(targets) * len(policies) * len(s["budgets"])
    work.head = work.laws + work.rows
    return work


def _passage(s: dict[str, Any], doc: int, prefix: int) -> Work:
    policies, n = named_policies(s["policies"]), s["context"] + s["shown"]
    targets = np.arange(s["context"] - 1, n - 1)
    work = _full_pass(n + prefix, [])
    of_text = s | {"seq_len": n, "protocol": "online", "step": protocols.STEP}
    for policy in policies:
        for budget in s["budgets"]:
            _policy(work, policy, of_text, budget, targets, prefix)
    work.laws = work.head = work.rows = s["shown"] * (1 + len(policies) * len(s["budgets"]))
    work.kept = 2 * s["shown"]
    return work


def _nested(s: dict[str, Any], doc: int, prefix: int) -> Work:
    work = Work(laws=3 * s["targets"], head=3 * s["targets"], rows=s["targets"], kept=s["targets"])
    work.add("plain", 1, prefix + s["seq_len"])
    for window in s["windows"]:
        work.add("plain", 1, prefix + window, many=s["targets"])
    return work


def _positions(s: dict[str, Any], doc: int, prefix: int) -> Work:
    targets = targets_of(s)
    work = _full_pass(s["seq_len"] + prefix, [])
    for window in s["windows"]:
        for variant in s["variants"]:
            for t in targets:
                length = int(t) + 1 if variant == "shuffled" else window
                work.add("plain", 1, prefix + length)
    cells = len(s["windows"]) * len(s["variants"])
    work.laws = work.kept = len(targets) * (1 + len(s["windows"]))
    work.rows = len(targets) * cells
    work.head = work.laws + 2 * work.rows
    return work


def _cache_run(s: dict[str, Any], doc: int, prefix: int) -> Work:
    work, stops = Work(cached=True), cache_run.STOPS
    if doc == 0:
        work.add("plain", 1, s["prompt"])
        for token in range(1, s["tokens"]):
            work.add("plain", 1, 1, min(s["prompt"] + token - 1, s["budget"] - 1))
        work.head, work.rows = s["tokens"], s["tokens"] // s["every"]
        return work
    for stop in range(stops, s["tokens"] + 1, stops):
        begin = stop - stops
        for chunk in _pieces(stops - cache_run.SINGLE, 256):
            work.add("plain", 1, chunk, begin)
            begin, work.head = begin + chunk, work.head + 1
        for one in range(begin, stop):
            work.add("plain", 1, 1, one)
            work.head += 1
        work.rows += 1
    return work


COUNTED: dict[str, Callable[[dict[str, Any], int, int], Work]] = {
    "truncation_sensitivity": _truncation,
    "policy_distortion": _distortion,
    "passage": _passage,
    "diagnostics": _nested,
    "positions": _positions,
    "cache_run": _cache_run,
}


# --- a policy in a protocol -------------------------------------------------------------------


def _full_pass(whole: int, scored: list) -> Work:
    work = Work(states=whole, cached=True)
    work.add("eager" if scored else "plain", 1, whole)
    return work


def _policy(
    work: Work, policy: Policy, s: dict[str, Any], budget: int, targets: np.ndarray, prefix: int
) -> None:
    """The passes of one policy at one budget, as `protocols.run` has them."""
    whole = s["seq_len"] + prefix
    if s["protocol"] == "reencode":
        _reencoded(work, policy, budget, targets, prefix)
    elif s["protocol"] == "prefill":
        work.add("masked", 1, len(targets), whole)
    elif policy.kind == "scored":
        step = min(s["step"], max(1, budget // 8))
        for begin in range(0, whole, step):
            work.add("scored", 1, min(step, whole - begin), min(begin, budget - step))
    elif budget < whole and getattr(policy, "positions", "") == "cache":
        work.add("plain", 1, 4, many=2)  # the cache asks whether keys turn
        begin = 0
        for chunk in _pieces(whole, protocols.CHUNK):
            work.add("masked", 1, chunk, min(begin, budget))
            begin += chunk
    elif budget < whole:
        work.add("masked", 1, whole - budget, budget)


def _reencoded(work: Work, policy: Any, budget: int, targets: np.ndarray, prefix: int) -> None:
    """What is kept for each target, as many of one length in a pass as `reencode_hidden` takes.
    How many are kept depends on no draw."""
    rng = protocols.draws(policy, budget)
    lengths = Counter(len(policy.kept(int(t) + 1, budget, rng)) for t in targets)
    for length, many in lengths.items():
        size = max(1, protocols.BATCH_TOKENS // length)
        work.add("plain", size, prefix + length, many=many // size)
        work.add("plain", many % size, prefix + length)


def _in_pieces(work: Work, tokens: int, piece: int) -> None:
    """A text behind a growing cache."""
    begin = 0
    for part in _pieces(tokens, piece):
        work.add("plain", 1, part, begin)
        begin += part


def _pieces(tokens: int, piece: int) -> Iterator[int]:
    """Lengths of the pieces that a text is split into."""
    for k in range(math.ceil(tokens / piece)):
        yield min(piece, tokens - k * piece)
