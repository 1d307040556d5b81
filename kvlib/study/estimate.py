"""What a study would cost, before it is run: tokens, hours, bytes, and memory a worker.

Counts come from `kvlib.study.counts`, which follows the measuring code. Seconds come from a
calibration of the model here, or from what a card's maker says and the assumptions of
`kvlib.study.hardware`:

    seconds of a pass = max(operations / (share · peak), bytes / bandwidth) + launch · layers
    operations        = 2 · body · tokens + 4 · layers · heads · head_dim · pairs
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from functools import cache
from types import SimpleNamespace
from typing import NamedTuple

from kvlib import study
from kvlib.measure import costs
from kvlib.measure.laws import HEAD_ROWS
from kvlib.measure.truncation import BATCH_TOKENS
from kvlib.models import LanguageModel, load_model
from kvlib.models.memory import tokens_for
from kvlib.study import hardware, scale
from kvlib.study.counts import COUNTED, Pass, Work, counted
from kvlib.study.hardware import Card, Machine
from kvlib.study.shapes import BYTES, Shape, from_config, shape_of

ROW_BYTES = 10.0  # of a stored row, compressed: the mean of the book's tables
RUNTIME = 0.6e9  # bytes that Python, torch and a card's own code take before any weight
HEAD_BUFFERS = 5  # float32 laws of HEAD_ROWS rows alive at once: references, logits, scratch
SECONDS = 30.0  # of a calibration


class Cost(NamedTuple):
    """Of one table. `seconds` are those of each document on one worker, without the model's
    loading; `row_bytes` what is written, `read_bytes` what a worker reads to begin."""

    table: str
    model: str
    tokens: int
    forwards: int
    head: int
    rows: int
    seconds: tuple[float, ...]
    load_seconds: float
    memory: float
    read_bytes: float
    row_bytes: float


class Pace(NamedTuple):
    """How fast a model is somewhere: seconds of a document's work, and of a load. `at_once` are the
    tokens of a pass where texts go together, on a card; 0 is what the CPU takes."""

    seconds: Callable[[Work], float]
    load: float
    at_once: int = 0


# --- speeds -----------------------------------------------------------------------------------


def here(lm: LanguageModel, load: float, clock: Callable[[], float] = time.perf_counter) -> Pace:
    """Of a loaded model, from a calibration of about half a minute."""
    return Pace(_calibrated(costs.paced(lm, SECONDS, clock)), load)


def _calibrated(pace: costs.Pace) -> Callable[[Work], float]:
    def seconds(work: Work) -> float:
        pair = {"masked": pace.masked_pair, "eager": pace.eager_pair, "scored": pace.eager_pair}
        more = {"scored": pace.evicting}
        passes = sum(
            many
            * (
                pace.forward
                + more.get(one.way, 0.0)
                + pace.token * one.read
                + pair.get(one.way, pace.pair) * one.pairs
            )
            for one, many in work.passes.items()
        )
        return passes + pace.row * work.head

    return seconds


def elsewhere(
    shape: Shape, card: Card, dtype: str, share: float = hardware.SHARE, cards: int = 1
) -> Pace:
    """Of a model that is not here on a card that is not here; a model that is spread over several
    cards runs on one after another, and is no faster for it."""
    size, rate, bandwidth = BYTES[dtype], share * card.flops(dtype), 1e9 * card.bandwidth_gbs

    def seconds(work: Work) -> float:
        passes = sum(many * _pass(one) for one, many in work.passes.items())
        return passes + work.head * row

    def _pass(one: Pass) -> float:
        pairs = shape.layers * shape.heads * one.pairs
        operations = 2 * shape.body * one.read + 4 * pairs * shape.head_dim
        moved = shape.body * size + one.batch * one.before * shape.cache_bytes(dtype)
        moved += 3 * pairs * 4 * (one.way in ("eager", "scored"))
        launch = hardware.LAUNCH * shape.layers
        return max(operations / rate, moved / bandwidth) + launch

    through = hardware.ROW_PASSES * 4 * shape.vocab
    row = 2 * shape.width * shape.vocab / rate + through / bandwidth
    load = hardware.START + shape.weight_bytes(dtype) / hardware.LOAD_RATE
    free = cards * 1e9 * card.memory_gb - shape.weight_bytes(dtype) - RUNTIME
    sizes = SimpleNamespace(intermediate_size=shape.inner, hidden_size=shape.width)
    at_once = max(BATCH_TOKENS, tokens_for(sizes, size, max(0, int(free))))
    return Pace(seconds, load, at_once)


def memory(shape: Shape, works: Sequence[Work], dtype: str) -> float:
    """Bytes that a worker needs at least, with the passes of a CPU: weights, the cache of the
    longest (twice, where policies cut a copy of it), activations of the widest, laws, and states
    that wait for the head."""
    size = BYTES[dtype]
    passes = {one for work in works for one in work.passes}
    longest = max((one.batch * (one.before + one.tokens) for one in passes), default=0)
    cached = 2 if any(work.cached for work in works) else 1 / shape.layers
    widest = max((one.read for one in passes), default=0)
    open_weights = max((one.pairs for one in passes if one.way != "plain"), default=0)
    laws = HEAD_BUFFERS * HEAD_ROWS + max((work.kept for work in works), default=0)
    states = max((work.states for work in works), default=0)
    return (
        RUNTIME
        + shape.weight_bytes(dtype)
        + cached * longest * shape.cache_bytes(dtype)
        + widest * (6 * shape.width + 3 * shape.inner) * size
        + 2 * open_weights * shape.heads * 4
        + 4 * laws * shape.vocab
        + 2 * states * shape.width * size
    )


# --- a table ----------------------------------------------------------------------------------


def cost(one: study.Study, shape: Shape, pace: Pace) -> Cost:
    """Of one table, of a model and a speed. Raises ValueError for kinds that are not counted."""
    works, least = works_of(one, shape.prefix, pace.at_once), works_of(one, shape.prefix)
    if works is None or least is None:
        known = ", ".join(COUNTED)
        raise ValueError(f"{one.table}: expected a kind that is counted ({known}), got {one.kind}")
    dtype = one.settings["dtype"]
    rows = sum(work.rows for work in works)
    return Cost(
        one.table,
        shape.name,
        sum(work.tokens for work in works),
        sum(work.forwards for work in works),
        sum(work.head for work in works),
        rows,
        tuple(pace.seconds(work) for work in works),
        pace.load,
        memory(shape, least, dtype),
        shape.weight_bytes(dtype),
        ROW_BYTES * rows,
    )


UNCOUNTED = {  # kinds with a model that `COUNTED` leaves out
    "drafting": "runs until it is through, which no design says",
    "kv_rates": "spends most of its time on fits after one pass a document",
}


def works_of(one: study.Study, prefix: int, at_once: int = 0) -> list[Work] | None:
    """What each document takes, or None for a kind that is not counted; as in `counted`."""
    if one.kind not in COUNTED:
        return None
    settings = {k: v for k, v in one.settings.items() if k not in ("model", "corpus", "dtype")}
    return list(_works(one.kind, json.dumps(settings), one.docs, prefix, at_once))


def uncounted(kind: str) -> str:
    """Why a kind's work is not counted."""
    return UNCOUNTED.get(kind, "runs no model")


@cache
def _works(kind: str, settings: str, docs: int, prefix: int, at_once: int) -> tuple[Work, ...]:
    """Kept, for many tables differ in model and text alone."""
    said = json.loads(settings)
    found = [counted(kind, said, doc, prefix, at_once) for doc in range(docs)]
    return tuple(work for work in found if work is not None)


def spread(found: Sequence[Cost], workers: int) -> float:
    """Seconds until so many workers have made all tables, each item taken by whoever is free
    first; a worker loads a model when its next item is of another."""
    items = [(one.model, seconds, one.load_seconds) for one in found for seconds in one.seconds]
    return scale.makespan(items, workers)


# --- studies on a machine ---------------------------------------------------------------------


class Estimate(NamedTuple):
    """Costs of tables, the seconds until all are made by `workers`, each of `cards` cards, and
    lines on what was not estimated."""

    costs: list[Cost]
    seconds: float
    workers: int
    cards: int
    left_out: list[str]


def on_machine(
    studies: Sequence[study.Study],
    machine: Machine,
    share: float = hardware.SHARE,
    model: str = "",
    dtype: str = "",
) -> Estimate:
    """On cards that are not here. Tables whose worker fits on no such machine are left out."""
    found, left_out, most = [], [], 0.0
    for one in adapted(studies, model, dtype):
        if one.kind not in COUNTED:
            left_out.append(f"{one.table}: not estimated, {one.kind} {uncounted(one.kind)}")
            continue
        shape, precision = shape_of(one.settings["model"]), one.settings["dtype"]
        needed = memory(shape, works_of(one, shape.prefix) or [], precision)
        cards = machine.cards_each(needed)
        if not machine.workers(needed):
            left_out.append(
                f"{one.table}: not estimated, a worker needs {needed / 1e9:.0f} GB: "
                f"{cards} x {machine.card.name}, got {machine.cards}"
            )
            continue
        pace = elsewhere(shape, machine.card, precision, share, cards)
        priced = cost(one, shape, pace)
        found.append(priced)
        most = max(most, priced.memory)
    workers = machine.workers(most)
    return Estimate(found, spread(found, workers), workers, machine.cards_each(most), left_out)


def on_this(
    studies: Sequence[study.Study],
    device: str = "auto",
    model: str = "",
    dtype: str = "",
    clock: Callable[[], float] = time.perf_counter,
) -> Estimate:
    """Here, by one process: each model is loaded once, and calibrated."""
    found, left_out = [], []
    speeds: dict[tuple[str, str], tuple[Shape, Pace]] = {}
    for one in adapted(studies, model, dtype):
        if one.kind not in COUNTED:
            left_out.append(f"{one.table}: not estimated, {one.kind} {uncounted(one.kind)}")
            continue
        key = one.settings["model"], one.settings["dtype"]
        if key not in speeds:
            begin = clock()
            lm = load_model(key[0], device, key[1])
            load = clock() - begin
            shape = from_config(key[0], lm.model.config.to_dict())
            shape = shape._replace(prefix=len(lm.prefix_ids))
            speeds[key] = shape, here(lm, load, clock)
            del lm
        found.append(cost(one, *speeds[key]))
    return Estimate(found, spread(found, 1), 1, 1, left_out)


def adapted(studies: Sequence[study.Study], model: str = "", dtype: str = "") -> list[study.Study]:
    """The studies with another model or precision in the place of their own, each once."""
    change = {key: value for key, value in (("model", model), ("dtype", dtype)) if value}
    if dtype and dtype not in BYTES:
        raise ValueError(f"dtype: expected one of {', '.join(BYTES)}, got {dtype!r}")
    found: dict[str, study.Study] = {}
    for one in studies:
        if "model" in one.settings:
            own = one.settings["model"]
            table = one.table.replace(own, model.rpartition("/")[2]) if model else one.table
            one = dataclasses.replace(one, table=table, settings=one.settings | change)
        found.setdefault(one.table, one)
    return list(found.values())


# --- in words ---------------------------------------------------------------------------------


def told(found: Estimate, where: str) -> str:
    """A line a table, their sum, and what was assumed."""
    lines = [("table", "documents", "tokens", "rows", "work", "written", "a worker's memory")]
    for one in found.costs:
        lines.append(
            (one.table, f"{len(one.seconds)}", amount(one.tokens), f"{one.rows:,}")
            + (duration(sum(one.seconds)), in_bytes(one.row_bytes), in_bytes(one.memory))
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [
        "  ".join(
            cell.rjust(width) if k else cell.ljust(width)
            for k, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]
    text += found.left_out
    if not found.costs:
        return "\n".join(text[1:])
    tokens, work = sum(c.tokens for c in found.costs), sum(sum(c.seconds) for c in found.costs)
    models = {one.model: one for one in found.costs}
    loads = sum(one.load_seconds for one in models.values())
    read = sum(one.read_bytes for one in models.values())
    text.append(
        f"in all {amount(tokens)} tokens and {sum(c.head for c in found.costs):,} rows of the "
        f"head: {duration(work)} of work, {in_bytes(sum(c.row_bytes for c in found.costs))} "
        f"written, {in_bytes(read)} of weights read and {duration(loads)} of loading by each "
        "worker that has every model"
    )
    plural = "s" * (found.workers != 1)
    each = f" of {found.cards} cards each" if found.cards > 1 else ""
    text.append(f"{where}: {duration(found.seconds)} with {found.workers} worker{plural}{each}")
    return "\n".join(text)


def assumed(share: float) -> str:
    """What stands behind hours elsewhere, in a line."""
    return (
        f"assumed: {share:.0%} of the card's dense rate; {1e3 * hardware.LAUNCH:.1f} ms a layer "
        f"and forward; weights read at {hardware.LOAD_RATE / 1e9:.0f} GB/s; "
        f"{hardware.START:.0f} s until a worker begins; sliding layers as if they saw everything"
    )


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, in three digits at most."""
    for unit, size in (("s", 1), ("min", 60), ("h", 3600)):
        if seconds < 100 * size or unit == "h":
            return (
                f"{seconds / size:,.3g} {unit}"
                if seconds < 1000 * size
                else (f"{seconds / size:,.0f} {unit}")
            )
    raise AssertionError("hours hold any time")


def in_bytes(number: float) -> str:
    """Bytes in kB, MB, GB, in three digits."""
    for unit, size in (("kB", 1e3), ("MB", 1e6), ("GB", 1e9)):
        if number < 999.5 * size or unit == "GB":
            return f"{number / size:,.3g} {unit}"
    raise AssertionError("gigabytes hold any size")


def amount(number: float) -> str:
    """A number of tokens, in millions where it has some."""
    return f"{number / 1e6:,.3g} M" if number >= 1e6 else f"{number:,}"
