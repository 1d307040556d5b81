"""A reader that counts: what followed the last bytes wherever they stood before.

Order by order, from the empty context to the longest, what was counted after a context is mixed
into what shorter ones say (interpolation, Jelinek and Mercer 1980):

    p_k(x) = (1-λ) p_j(x) + λ c/N      j the order before k, p before the first order uniform

N is how often the context was followed, c how often by x. Each order is mixed in twice: with the
counts of the history, then with those of the document's own past. λ in (0, 1) depends on the order
and on counts that know nothing of x, by their powers of two; it is learnt on texts apart. A context
that was never seen changes nothing. So every p is a law over the 256 bytes, and its loss is exact.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

BYTES = 256
MOST = 8  # kinds of counts: none, one, two, up to 4, 8, 16, 32, more
PRIOR = 0.5  # weight of log λ + log(1-λ) beside the losses that λ is learnt on
HALVINGS = 40  # of the interval that λ lies in

Places = Int[np.ndarray, " places"]
Met = Int[np.ndarray, " met"]  # of places before which a context was met
Asked = Int[np.ndarray, " asked"]
Bytes = UInt8[np.ndarray, " places"]
Mask = Bool[np.ndarray, " places"]
Shares = Float[np.ndarray, " places"]


class Text(NamedTuple):
    """Pieces of text behind each other: their bytes, where the piece of each place begins, and its
    number. No context reaches from a piece into another."""

    byte: Bytes
    begin: Places
    piece: Places


class Seen(NamedTuple):
    """What followed the contexts of one order before the places `at`, of those that are asked for.

    In the history `total` times something (0: never seen), `kinds` different bytes, `same` times
    the byte that follows here. `past` and `past_same` hold a number for each place beyond the
    history, sorted: of its piece and context (and of the byte after it), and of where it stands in
    the piece, so that what lies a little before a place has a number a little below its own,
    `here` (and `here_same`).
    """

    order: int
    at: Met
    total: Met
    kinds: Met
    same: Met
    past: Int[np.ndarray, " past"]
    past_same: Int[np.ndarray, " past"]
    here: Met
    here_same: Met

    def counts(self, reach: int) -> tuple[Met, Met]:
        """How often the context was followed at the `reach` places before, and how often by the
        byte that follows here."""
        total, same = (
            np.searchsorted(past, here) - np.searchsorted(past, here - reach)
            for past, here in ((self.past, self.here), (self.past_same, self.here_same))
        )
        return total, same


class Reader:
    """Laws of the bytes of documents, each from the share `scored` of it on.

    Contexts are counted in the `history`, up to the longest of `orders` (which increase, from 0
    on), and weights are learnt on the bytes of `tuning` from the same share on. Raises ValueError
    for other orders, and without tuning.
    """

    def __init__(
        self,
        history: Sequence[bytes],
        tuning: Sequence[bytes],
        documents: Sequence[bytes],
        orders: Sequence[int],
        scored: float,
    ) -> None:
        if list(orders[:1]) != [0] or any(np.diff(orders) < 1):
            raise ValueError(f"orders: expected 0 and what increases from it, got {list(orders)}")
        if not tuning:
            raise ValueError("tuning: expected at least one text, got none")
        pieces = [*history, *tuning, *documents]
        ends = np.cumsum([len(piece) for piece in pieces])
        targets = [
            np.arange(end - len(piece) + int(scored * len(piece)), end)
            for piece, end in zip(pieces, ends, strict=True)
        ][len(history) :]
        places, text = np.concatenate(targets), joined(pieces)
        self.learns = text.piece[places] < len(history) + len(tuning)
        self.cuts = np.cumsum([len(one) for one in targets])[len(tuning) - 1 : -1]
        self.seen = list(evidence(text, len(history), places, orders))
        self.whole = max(map(len, pieces))

    def losses(self, longest: int, reach: int) -> list[Float[np.ndarray, " targets"]]:
        """-log p (nats) of the scored bytes of each document: contexts of at most `longest` bytes,
        and of the document's own past what stands whole in the last `reach` bytes."""
        law = np.full(len(self.learns), 1 / BYTES)
        for seen in self.seen:
            if seen.order <= longest:
                law = self.mixed(law, seen, reach)
        return self._of_documents(law)

    def by_order(self) -> list[list[Float[np.ndarray, " targets"]]]:
        """`losses` with contexts of at most each order, and all of the document's past."""
        law, found = np.full(len(self.learns), 1 / BYTES), []
        for seen in self.seen:
            law = self.mixed(law, seen, self.whole)
            found.append(self._of_documents(law))
        return found

    def mixed(self, law: Shares, seen: Seen, reach: int) -> Shares:
        """The next order's probability of the byte at each place."""
        kind = _power(seen.total)
        law = self._mixed(law, seen.at, seen.total, seen.same, kind * MOST + _power(seen.kinds))
        total, same = seen.counts(min(max(0, reach - seen.order), self.whole))
        return self._mixed(law, seen.at, total, same, kind * MOST + _power(total))

    def _mixed(self, law: Shares, at: Met, total: Met, same: Met, kind: Met) -> Shares:
        """The law with what was counted at the places `at`, by the kind of the counts."""
        known = total > 0
        at, share, kind = at[known], same[known] / total[known], kind[known]
        before, learns = law[at], self.learns[at]
        weight = weights(before[learns], share[learns], kind[learns])[kind]
        found = law.copy()
        found[at] = before + weight * (share - before)
        return found

    def _of_documents(self, law: Shares) -> list[Float[np.ndarray, " targets"]]:
        return np.split(-np.log(law), self.cuts)[1:]


def weights(before: Shares, share: Shares, kind: Places) -> Float[np.ndarray, " kinds"]:
    """λ of each kind of context: where Σ log((1-λ) before + λ share) + PRIOR log λ(1-λ) is largest.

    The sum is concave: its slope falls through zero once, and the interval is halved around it.
    """
    low, high = np.zeros(MOST**2), np.ones(MOST**2)
    gain = share - before
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        slope = np.bincount(kind, gain / (before + middle[kind] * gain), MOST**2)
        rises = slope + PRIOR / middle - PRIOR / (1 - middle) > 0
        low, high = np.where(rises, middle, low), np.where(rises, high, middle)
    return (low + high) / 2


def _power(count: Places) -> Places:
    """The kind of a count: 0 for none, else 1 more than the power of two that it does not exceed,
    below MOST."""
    power = np.ceil(np.log2(np.maximum(count, 1))).astype(np.int64)
    return np.where(count > 0, np.minimum(power + 1, MOST - 1), 0)


# --- counting ---------------------------------------------------------------------------------


def joined(pieces: Sequence[bytes]) -> Text:
    """Pieces as one text."""
    lengths = np.array([len(piece) for piece in pieces])
    begins = np.cumsum(lengths) - lengths
    number = np.repeat(np.arange(len(pieces)), lengths)
    return Text(np.frombuffer(b"".join(pieces), np.uint8), begins[number], number)


def evidence(text: Text, history: int, places: Places, orders: Sequence[int]) -> Iterator[Seen]:
    """What was seen after the contexts of each order (increasing) before each of `places`, which
    lie beyond the first `history` pieces."""
    asked_at = np.full(len(text.byte), -1)
    asked_at[places] = np.arange(len(places))
    for order, (where, name) in zip(orders, repeated(text, orders), strict=True):
        at, old = asked_at[where], text.piece[where] < history
        asked = at >= 0
        counts = _in_history(name, text.byte[where], old, asked)
        past = _by_place(text, where, name)
        sorted_past = (np.sort(numbers[~old]) for numbers in past)
        yield Seen(order, at[asked], *counts, *sorted_past, *(numbers[asked] for numbers in past))


def repeated(text: Text, orders: Sequence[int]) -> Iterator[tuple[Places, Places]]:
    """For each order k (increasing): the places whose last k bytes stand before another place too,
    and a number for these bytes, the same at both.

    Numbers of twice as many bytes are those of pairs of numbers (Karp, Miller and Rosenberg 1972);
    between powers of two the pairs overlap. What stands nowhere else is not looked at any more.
    """
    depth = np.arange(len(text.byte)) - text.begin
    power, number = 1, np.where(depth >= 1, np.roll(text.byte, 1).astype(np.int64), -1)
    for order in orders:
        if order == 0:
            yield np.arange(len(depth)), np.zeros(len(depth), dtype=np.int64)
            continue
        while 2 * power <= order:
            power, number = 2 * power, _longer(number, depth, power, 2 * power)
        of_order = number if order == power else _longer(number, depth, power, order)
        where = np.flatnonzero(of_order >= 0)
        yield where, of_order[where]


def _longer(number: Places, depth: Places, power: int, order: int) -> Places:
    """Numbers of the last `order` bytes from those of the last `power`, at least half as many; -1
    where they stand once."""
    where = np.flatnonzero((number >= 0) & (depth >= order))
    first = number[where - (order - power)]
    where, first = where[first >= 0], first[first >= 0]
    pairs = number[where] * len(number) + first
    _, pair, count = np.unique(pairs, return_inverse=True, return_counts=True)
    often = count[pair] > 1
    found = np.full(len(number), -1)
    found[where[often]] = pair[often]
    return found


def _in_history(name: Places, byte: Bytes, old: Mask, asked: Mask) -> tuple[Asked, Asked, Asked]:
    """`total, kinds, same` of `Seen` at the places that are asked for, counted at the old ones."""
    pair = name * BYTES + byte
    pairs, count = np.unique(pair[old], return_counts=True)
    most = 1 + name.max(initial=0)
    total = np.bincount(name[old], minlength=most)
    kinds = np.bincount(pairs // BYTES, minlength=most)
    pairs, count = np.append(pairs, most * BYTES), np.append(count, 0)  # a last one, never met
    at = np.searchsorted(pairs, pair[asked])
    same = np.where(pairs[at] == pair[asked], count[at], 0)
    return total[name[asked]], kinds[name[asked]], same


def _by_place(text: Text, where: Places, name: Places) -> tuple[Places, Places]:
    """Numbers by piece, context and place in the piece, and by the byte after the context too:
    from one context to the next there is room for twice the length of a piece."""
    depth = where - text.begin[where]
    room = 2 * np.bincount(text.piece).max()
    context = text.piece[where] * (1 + name.max(initial=0)) + name
    by_context, by_pair = (
        group * room + room // 2 + depth for group in (context, context * BYTES + text.byte[where])
    )
    return by_context, by_pair
