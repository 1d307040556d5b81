"""The reader that counts: its plain twin, laws that sum to one, and nothing read that is not meant
to be."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pytest
from scipy.optimize import brentq

from kvlib.measure import ngrams

SCORED = 2 / 3
ORDERS = [0, 1, 2, 3, 4, 6, 8, 12]
WORDS = [b"the ", b"house ", b"of ", b"rain ", b"and ", b"river ", b"stone ", b"a "]


def text(seed: int, words: int) -> bytes:
    rng = np.random.default_rng(seed)
    return b"".join(WORDS[k] for k in rng.geometric(0.3, words) % len(WORDS))


HISTORY = [text(1, 60), text(2, 40)]
TUNING = [text(3, 30), text(4, 30)]
DOCUMENTS = [text(5, 30), text(6, 20) + b"\xff\x00" + text(7, 10)]


def made(**changed) -> ngrams.Reader:
    parts = {"history": HISTORY, "tuning": TUNING, "documents": DOCUMENTS, "orders": ORDERS}
    return ngrams.Reader(**parts | changed, scored=SCORED)


# --- the plain twin -----------------------------------------------------------------------------


def plain_laws(longest: int, reach: int) -> list[np.ndarray]:
    """All 256 probabilities of each scored byte of each document, by dictionaries and loops."""
    places = [(piece, t) for piece in TUNING + DOCUMENTS for t in scored(piece)]
    n_tuning = sum(len(scored(piece)) for piece in TUNING)
    laws = [np.full(256, 1 / 256) for _ in places]
    for order in [k for k in ORDERS if k <= longest]:
        counted = plain_counts(order)
        histories = [counted[piece[t - order : t]] for piece, t in places]
        kinds = [(kind_of(c.total()), kind_of(len(c))) for c in histories]
        laws = plain_mixed(laws, histories, kinds, places, n_tuning)
        pasts = [plain_past(piece, t, order, reach) for piece, t in places]
        kinds = [
            (kind_of(c.total()), kind_of(own.total()))
            for c, own in zip(histories, pasts, strict=True)
        ]
        laws = plain_mixed(laws, pasts, kinds, places, n_tuning)
    ends = np.cumsum([len(scored(piece)) for piece in DOCUMENTS])[:-1]
    return np.split(np.array(laws[n_tuning:]), ends)


def scored(piece: bytes) -> range:
    return range(int(SCORED * len(piece)), len(piece))


def plain_counts(order: int) -> dict[bytes, Counter]:
    counted = defaultdict(Counter)
    for piece in HISTORY:
        for t in range(order, len(piece)):
            counted[piece[t - order : t]][piece[t]] += 1
    return counted


def plain_past(piece: bytes, t: int, order: int, reach: int) -> Counter:
    window = piece[max(0, t - reach) : t]
    context = piece[t - order : t]
    ends = range(order, len(window))
    return Counter(window[j] for j in ends if window[j - order : j] == context)


def kind_of(count: int) -> int:
    """0, 1, 2, 4, 8, … are the largest of their kinds, and the last kind has no end."""
    bounds = [0, *(2**k for k in range(ngrams.MOST - 2))]
    return sum(count > bound for bound in bounds)


def plain_mixed(laws, counts, kinds, places, n_tuning):
    pairs = defaultdict(list)
    for law, count, kind, (piece, t) in list(zip(laws, counts, kinds, places, strict=True))[
        :n_tuning
    ]:
        if count:
            pairs[kind].append((law[piece[t]], count[piece[t]] / count.total()))
    found = []
    for law, count, kind in zip(laws, counts, kinds, strict=True):
        if count:
            share = np.array([count[x] for x in range(256)]) / count.total()
            weight = plain_weight(pairs[kind])
            law = (1 - weight) * law + weight * share
        found.append(law)
    return found


def plain_weight(pairs: list[tuple[float, float]]) -> float:
    def slope(weight: float) -> float:
        gains = sum((q - p) / ((1 - weight) * p + weight * q) for p, q in pairs)
        return gains + ngrams.PRIOR / weight - ngrams.PRIOR / (1 - weight)

    return brentq(slope, 1e-12, 1 - 1e-12, xtol=1e-14)


@pytest.mark.parametrize(("longest", "reach"), [(12, 10_000), (12, 30), (4, 7), (3, 0), (0, 5)])
def test_losses_are_those_of_dictionaries_and_loops(longest, reach):
    laws = plain_laws(longest, reach)
    for found, law, piece in zip(made().losses(longest, reach), laws, DOCUMENTS, strict=True):
        assert law.sum(axis=1) == pytest.approx(1, abs=1e-12)
        own = law[np.arange(len(law)), list(piece[scored(piece).start :])]
        np.testing.assert_allclose(found, -np.log(own), atol=1e-9)


def test_all_orders_at_once_are_those_one_by_one():
    reader = made()
    for order, found in zip(ORDERS, reader.by_order(), strict=True):
        for one, other in zip(found, reader.losses(order, 10_000), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-12)


# --- what a law is ------------------------------------------------------------------------------


@pytest.mark.parametrize(("longest", "reach"), [(12, 10_000), (12, 16), (2, 0)])
def test_a_law_sums_to_one(longest, reach):
    start = DOCUMENTS[0][:-1]
    reader = made(documents=[start + bytes([x]) for x in range(256)])
    last = [losses[-1] for losses in reader.losses(longest, reach)]
    assert np.exp(-np.array(last)).sum() == pytest.approx(1, abs=1e-9)


def test_what_comes_later_and_other_documents_change_nothing():
    whole, (alone,) = made(), made(documents=DOCUMENTS[:1]).losses(12, 1000)
    np.testing.assert_allclose(whole.losses(12, 1000)[0], alone, rtol=1e-12)
    (other,) = made(documents=[DOCUMENTS[0][:-1] + b"\x07"]).losses(12, 1000)
    np.testing.assert_allclose(other[:-1], alone[:-1], rtol=1e-12)
    assert other[-1] > alone[-1]


def test_only_the_last_bytes_are_read_where_the_reach_says_so():
    reach, old = 24, DOCUMENTS[0]
    new = text(8, 40)[: len(old) - reach - 1] + old[-reach - 1 :]
    assert len(new) == len(old) and new != old
    reader = made(documents=[old, new])
    near, far = (np.array([one[-1] for one in reader.losses(8, r)]) for r in (reach, 10_000))
    assert near[0] == pytest.approx(near[1], rel=1e-12)
    assert far[0] != pytest.approx(far[1], rel=1e-3)


def test_the_entropy_of_a_source_of_order_two_is_reached_from_two_bytes_on():
    rng = np.random.default_rng(0)
    nexts = rng.dirichlet([0.3] * 4, size=(4, 4))

    def drawn(n: int) -> bytes:
        found = [0, 1]
        for u in rng.random(n):
            found.append(int(np.searchsorted(nexts[found[-2], found[-1]].cumsum(), u)))
        return bytes(found)

    reader = made(
        history=[drawn(60_000)],
        tuning=[drawn(6_000)],
        documents=[drawn(30_000)],
        orders=[0, 1, 2, 3],
    )
    zero, one, two, three = (losses[0].mean() for losses in reader.by_order())
    document = reader.losses(2, 0)[0]
    pairs = Counter()
    data = drawn(60_000)
    for a, b, c in zip(data, data[1:], data[2:], strict=False):
        pairs[a, b] += -np.log(nexts[a, b, c])
    entropy = sum(pairs.values()) / 60_000
    assert zero > one + 0.05 > two + 0.1
    assert two == pytest.approx(entropy, abs=0.03) and three == pytest.approx(two, abs=0.003)
    assert document.mean() == pytest.approx(two, abs=0.003)


# --- weights ------------------------------------------------------------------------------------


def test_weights_are_those_of_scipy_and_one_half_without_data():
    rng = np.random.default_rng(0)
    before, share = rng.uniform(0.01, 1, 50), rng.integers(0, 2, 50).astype(float)
    kind = np.repeat([3, 7], 25)
    found = ngrams.weights(before, share, kind)
    for k in (3, 7):
        pairs = list(zip(before[kind == k], share[kind == k], strict=True))
        assert found[k] == pytest.approx(plain_weight(pairs), abs=1e-9)
    assert found[0] == pytest.approx(0.5)


@pytest.mark.parametrize("orders", [[], [1, 2], [0, 2, 2], [0, 3, 1]])
def test_other_orders_are_refused(orders):
    with pytest.raises(ValueError, match="orders: expected 0 and what increases"):
        made(orders=orders)


def test_weights_cannot_be_learnt_on_nothing():
    with pytest.raises(ValueError, match="tuning: expected at least one text"):
        made(tuning=[])
