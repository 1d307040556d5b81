"""Many workers at one heap of items: a schedule without contention, and a simulation with it."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


def makespan(items: Sequence[tuple[str, float, float]], workers: int) -> float:
    """Seconds until all items (model, seconds, seconds of a load) are done in their order, each by
    the worker that is free first; a worker loads where the item's model is not the one it has.

    Raises ValueError for less than one worker where there are items.
    """
    if not items:
        return 0.0
    if workers < 1:
        raise ValueError(f"workers: expected at least 1, got {workers}")
    free: list[tuple[float, int]] = [(0.0, k) for k in range(min(workers, len(items)))]
    held: dict[int, str] = {}
    last = 0.0
    for model, seconds, load in items:
        begin, worker = heapq.heappop(free)
        end = begin + seconds + load * (held.get(worker) != model)
        held[worker] = model
        last = max(last, end)
        heapq.heappush(free, (end, worker))
    return last


class Cluster(NamedTuple):
    """What workers share, and how often they die.

    A worker reads `load_bytes` at `own_rate`, or at an equal share of `shared_rate` (bytes a
    second) where all that read together want more. The folder takes one file every `file_seconds`,
    one after another. A worker dies after an exponential time of mean `mean_life` (seconds, of
    computing): its item goes back, and it reads the model again after `restart` seconds.
    """

    load_bytes: float
    own_rate: float = 1e9
    shared_rate: float = math.inf
    start: float = 0.0
    file_seconds: float = 0.0
    mean_life: float = math.inf
    restart: float = 0.0


class Outcome(NamedTuple):
    """Seconds until the last file is there, the share of the workers' time that went into items
    that came to something, and items that were lost with a worker and made again."""

    seconds: float
    efficiency: float
    lost: int


def simulate(
    seconds: Sequence[float], workers: int, cluster: Cluster, seed: int = 0, files: int = 1
) -> Outcome:
    """Discrete events: `workers` pull items of these `seconds` until none is left.

    `files` are written by each item. Workers that find no item stop. Events are the end of a
    worker's waiting, of a load, of an item, and a death. Loads share the storage equally: since all
    are of one size, they end in the order of their begin, and a clock that runs at each load's rate
    says when.

    Raises ValueError for less than one worker, or an item that takes no time.
    """
    if workers < 1 or min(seconds, default=1.0) <= 0:
        raise ValueError(
            f"expected at least 1 worker and items that take time, got {workers} and "
            f"{min(seconds, default=1.0)}"
        )
    rng = np.random.default_rng(seed)
    todo, done, lost, last = list(reversed(seconds)), 0, 0, 0.0
    events: list[tuple[float, int, str, float]] = []  # when, worker, what, seconds of its item
    loads = _Loads(cluster)
    writer = 0.0
    for worker in range(workers):
        heapq.heappush(events, (cluster.start, worker, "load", 0.0))

    def take(now: float, worker: int) -> None:
        if not todo:
            return
        item = todo.pop()
        life = rng.exponential(cluster.mean_life) if math.isfinite(cluster.mean_life) else math.inf
        died = life < item
        heapq.heappush(events, (now + min(life, item), worker, "died" if died else "made", item))

    while done < len(seconds):
        if loads.next_end() <= (events[0][0] if events else math.inf):
            now, worker = loads.end()
            take(now, worker)
            continue
        now, worker, what, item = heapq.heappop(events)
        if what == "load":
            if todo:
                loads.begin(now, worker)
        elif what == "died":
            todo.append(item)
            lost += 1
            heapq.heappush(events, (now + cluster.restart, worker, "load", 0.0))
        elif what == "made":
            writer = max(writer, now) + files * cluster.file_seconds
            heapq.heappush(events, (writer, worker, "written", item))
        else:
            done, last = done + 1, now
            take(now, worker)
    return Outcome(last, sum(seconds) / (workers * last) if last else 1.0, lost)


class _Loads:
    """Loads of one size that share the storage equally."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster, self.now, self.clock = cluster, 0.0, 0.0
        self.running: list[tuple[float, int]] = []  # the clock's bytes at the end, worker

    @property
    def rate(self) -> float:
        """Bytes a second that each load has now."""
        return min(self.cluster.own_rate, self.cluster.shared_rate / max(1, len(self.running)))

    def next_end(self) -> float:
        """When the next load ends if none begins before."""
        if not self.running:
            return math.inf
        return self.now + max(0.0, self.running[0][0] - self.clock) / self.rate

    def begin(self, now: float, worker: int) -> None:
        """A load more from now on."""
        self._run_to(now)
        heapq.heappush(self.running, (self.clock + self.cluster.load_bytes, worker))

    def end(self) -> tuple[float, int]:
        """The next load ends: when, and whose."""
        self._run_to(self.next_end())
        self.clock = self.running[0][0]
        return self.now, heapq.heappop(self.running)[1]

    def _run_to(self, now: float) -> None:
        if self.running:
            self.clock += (now - self.now) * self.rate
        self.now = now
