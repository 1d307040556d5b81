"""One forward through a bounded cache: who sees whom, and which entries make room.

Entries carry their true positions, so that their order in memory does not matter: once the budget
is full, a new token takes the place of the one that goes.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from kvlib.models import masks

Mask = Bool[Tensor, "batch queries entries"]
Age = Int[Tensor, "batch queries entries"] | Bool[Tensor, "batch queries entries"]


class Plan:
    """One forward: what each query sees, where it stands, and which entries make room.

    `query` (batch, queries) and `entry` (batch, entries): true positions, -1 for padding; the
    entries are those that the layers hold during the forward. Either a single token takes the place
    `slot` (batch, 1) of an entry that nobody will see again, or the new entries are appended and,
    beyond the room, those at `keep` (batch, room) stay: the budget and what `crop` may bring back.
    `around`: the whole model is run.
    """

    def __init__(self, cache: Any, query: Int[Tensor, "batch queries"]) -> None:
        self.n_sink, self.window = cache.n_sink, cache.budget - cache.n_sink
        self.rollback, room = cache.rollback, cache.budget + cache.rollback
        self.model, self.query, self.windows = cache.model, query, cache.windows
        self.position_ids = query.clamp(min=0)
        self.following = torch.maximum(cache.next, query.amax(1, keepdim=True) + 1)
        self.slot, self.keep = self._slot(cache), None
        if self.slot is None:
            self.entry = self.left = torch.cat([cache.held, query], dim=1)
            if self.entry.shape[1] > room:
                self.keep = self._best(room)
                self.left = self.entry.gather(1, self.keep)
        else:
            self.entry = self.left = cache.held.scatter(1, self.slot, query)
        self.turn: torch.Tensor | None = None
        self.around = False
        visible = self._visible()
        age = self._age(visible, turned=cache.positions == "cache")
        if cache.positions == "cache" and cache.n_sink:
            visible, age = self._copy_sinks(cache, visible, age)
        self.mask = masks.masks_for(self.model, visible[:, None], age[:, None], self.windows)

    def _wanted(
        self, entry: Int[Tensor, "batch entries"], following: Int[Tensor, "batch 1"]
    ) -> Bool[Tensor, "batch entries"]:
        """Which entries are seen by a query from `following` - `rollback` on."""
        oldest = following - self.window - self.rollback
        return (entry >= 0) & ((entry > oldest) | (entry < self.n_sink))

    def _slot(self, cache: Any) -> Int[Tensor, "batch 1"] | None:
        """In each row an entry that a single token may replace, if there is one in each."""
        idle = ~self._wanted(cache.held, cache.next)
        if self.query.shape[1] > 1 or not bool(idle.any(1).all()):
            return None
        return idle.long().argmax(1, keepdim=True)

    def _best(self, room: int) -> Int[Tensor, "batch kept"]:
        """All entries that are still wanted, filled up with the newest others."""
        order = torch.arange(self.entry.shape[1], device=self.entry.device)
        rank = self._wanted(self.entry, self.following) * len(order) + order
        return rank.topk(room, dim=1).indices.sort(dim=1).values

    def _visible(self) -> Mask:
        """(batch, queries, entries) bool; large for long prompts, so it is made in place."""
        entry, now = self.entry[:, None, :], self.query[:, :, None]
        visible = entry > now - self.window
        visible |= entry < self.n_sink
        visible &= entry <= now
        visible &= entry >= 0
        # a query sees itself, padding too: a row without any entry would be NaN
        n = self.query.shape[1]
        own = torch.arange(n, device=entry.device) + self.entry.shape[1] - n
        own = own.expand(len(entry), -1) if self.slot is None else self.slot
        return visible.scatter_(2, own[:, :, None], True)

    def _age(self, visible: Mask, turned: bool) -> Age:
        """(batch, queries, entries) query's position less entry's, where anyone asks for it."""
        if turned or any(self.windows):
            return self.query[:, :, None] - self.entry[:, None, :]
        return visible

    def _copy_sinks(
        self, cache: Any, visible: Mask, age: Age
    ) -> tuple[Bool[Tensor, "batch queries seen"], Int[Tensor, "batch queries seen"]]:
        """Hide the sinks where they lie and let each query see its own turned copies of them."""
        n = self.query.shape[1]
        sink = (self.entry >= 0) & (self.entry < cache.n_sink)
        count = min(cache.n_sink, self.entry.shape[1])
        self.sinks = sink.long().topk(count, dim=1).indices.sort(dim=1).values
        of_sinks = self.sinks[:, None].expand(-1, n, -1)
        seen, old = visible.gather(2, of_sinks), age.gather(2, of_sinks)
        seen &= sink.gather(1, self.sinks)[:, None]
        self.turn = (self.query - cache.budget + 1).clamp(min=0)
        own = torch.eye(n, dtype=torch.bool, device=self.query.device)[None, :, :, None]
        copies = (seen[:, :, None] & own).flatten(2)
        # for a sliding layer a copy is as old as the query now sees it
        shrunk = (old - self.turn[:, :, None])[:, :, None].expand(-1, -1, n, -1).flatten(2)
        return torch.cat([visible & ~sink[:, None], copies], -1), torch.cat([age, shrunk], -1)
