"""Whose exponent: planted answers come out, pairs cancel what documents share, and each word."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from studies import SIZES, shared, shared_tables, suffix_rows

from kvlib import claims, fit, store
from kvlib.claims.shared import KL, LOSS, SHORTER, TV
from kvlib.claims.whose_exponent import LARGEST, RECITED

here = claims.whose_exponent
PAGE = Path(__file__).parents[2] / "notebooks" / "whose_exponent.md"
SMOL, GEMMA, HALF = list(SIZES)[1:4]
TEXTS = RECITED, "scipy-docs", "sympy-source"
OF_TEXT = dict(zip(TEXTS, (0.5, 0.7, 0.3), strict=True))
OF_MODEL = dict(zip((SMOL, GEMMA, HALF), (0.7, 0.5, 0.3), strict=True))


def planted(whose: str, models=(SMOL, GEMMA, HALF), texts=TEXTS) -> dict:
    """Tables whose exponents are the text's alone, or the model's alone."""
    return {
        (model, text): OF_TEXT[text] if whose == "text" else OF_MODEL[model]
        for text in texts
        for model in models
    }


@pytest.fixture(scope="module")
def by_text():
    return shared_tables(planted("text"))


@pytest.fixture(scope="module")
def by_model():
    return shared_tables(planted("model"))


def item(low: float, high: float, n: int = 24) -> fit.Estimate:
    return fit.Estimate((low + high) / 2, low, high, n)


# --- the tables -----------------------------------------------------------------------------------


def test_a_law_measured_twice_is_no_truncation():
    rows = pd.DataFrame({"window": [8, 1536, 1024], "context": [1536, 1536, 2048]})
    truncations, twice = fit.parted(rows)
    assert truncations["window"].tolist() == [8, 1024] and twice["window"].tolist() == [1536]


def test_stored_tables_say_what_their_manifests_do(tmp_path):
    rows = suffix_rows(0.5, docs=3).assign(nll_nats=2.0, nll_excess_nats=0.1)
    rows = pd.concat([rows, rows.head(1).assign(window=1536)])
    path = tmp_path / "sensitivity-m-c.parquet"
    rows.to_parquet(path, index=False)
    manifest = {
        "layout": store.LAYOUT,
        "study": "sensitivity",
        "settings": {"model": "m", "corpus": "c", "dtype": "bfloat16", "seq_len": 100},
        "about": {
            "model": {"parameters": 7},
            "corpus": {"characters": [[0, 400], [900, 1200], [500, 750]]},
        },
        "run": {},
        "rows": len(rows),
        "documents": 3,
        "sha256": store.sha256(path),
    }
    store.write_manifest(path.with_suffix(".json"), manifest)
    one = claims.shared.stored(tmp_path)["m", "c"]
    assert (one.parameters, one.dtype, one.begins) == (7, "bfloat16", (0, 900, 500))
    assert one.chars.tolist() == [4.0, 3.0, 2.5]
    assert len(one.rows) == len(rows) - 1 and len(one.twice) == 1
    assert claims.shared.stored(tmp_path, "float32") == {}


def test_documents_are_the_same_where_they_begin_at_one_character():
    one = shared("m", "c", 0.5, docs=4)
    fewer = shared("n", "c", 0.5, docs=3)
    moved = shared("o", "c", 0.5, docs=4, begins=(0, 1000, 2001, 3000))
    assert claims.shared.same_documents([one, fewer]) == (0, 1, 2)
    assert claims.shared.same_documents([one, moved]) == (0, 1, 3)


# --- exponents ------------------------------------------------------------------------------------


def test_exponents_are_the_planted_ones_in_all_three_distances(by_text):
    rows = claims.shared.exponents(by_text)
    for row in rows.to_dict("records"):
        alpha = OF_TEXT[row["corpus"]]
        assert row[KL].value == pytest.approx(alpha, abs=0.06)
        assert row[TV].value == pytest.approx(row[KL].value / 2, abs=0.01)
        assert row[LOSS].value == pytest.approx(row[KL].value, abs=0.01)
        assert row["left out"] == 0


def test_bins_whose_loss_has_no_logarithm_are_left_out_and_counted():
    one = shared("m", "c", 0.5)
    far = one.rows["window"] > 256
    one.rows.loc[far, "nll_excess_nats"] = -0.01
    (row,) = claims.shared.exponents({("m", "c"): one}).to_dict("records")
    assert row["left out"] == 8 and row[LOSS].value == pytest.approx(0.5, abs=0.05)
    one = shared("m", "c", 0.5)
    one.rows["nll_excess_nats"] = -0.01
    (row,) = claims.shared.exponents({("m", "c"): one}).to_dict("records")
    assert row[LOSS].flat and str(row[LOSS]) == "no exponent"


def test_what_documents_do_to_both_models_cancels_in_a_difference():
    tilts = 0.3 * np.random.default_rng(1).standard_normal(12)
    one, other = (shared(m, "c", a, 12, tilts=tilts) for m, a in (("m", 0.6), ("n", 0.5)))
    gap = claims.shared.difference(one, [other], KL)
    alone = claims.shared.estimate_of(claims.shared.left_out(one, KL))
    assert gap.value == pytest.approx(0.1, abs=0.03)
    assert gap.high - gap.low < (alone.high - alone.low) / 5


def test_a_difference_is_of_the_documents_that_both_read():
    tilts = np.array([0, 0, 0, 0, 0, 0, 3, 3])
    one = shared("m", "c", 0.5, 6)
    other = shared("n", "c", 0.5, 8, tilts=tilts)
    gap = claims.shared.difference(one, [other], KL)
    assert gap.n_documents == 6 and gap.value == pytest.approx(0, abs=1e-9)


# --- the prediction -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [(-0.1, 0.1, "kept"), (-0.2, 0.1, "undecided"), (0.13, 0.2, "missed"), (-0.3, -0.13, "missed")],
)
def test_an_interval_inside_across_and_outside_the_margin(low, high, word):
    assert here.outcome(item(low, high), -0.12, 0.12) == word


@pytest.mark.parametrize(
    ("words", "word"),
    [
        ([], "to come"),
        (["kept", "kept"], "kept"),
        (["kept", "undecided"], "undecided"),
        (["undecided", "missed", "kept"], "missed"),
    ],
)
def test_one_prediction_of_several_numbers(words, word):
    assert here.together(words) == word


def test_only_larger_models_depart_and_only_from_both_references(by_text):
    gaps = here.departures(by_text)
    assert set(gaps["model"]) == {HALF} and len(gaps) == 2 * len(TEXTS)
    alone = {key: one for key, one in by_text.items() if key[0] != GEMMA}
    assert here.departures(alone).empty


def test_the_prediction_is_kept_where_exponents_are_the_texts(by_text):
    words = here.prediction(here.departures(by_text), here.components(by_text))
    assert words.to_numpy().tolist() == [["kept"] * 2, ["kept"] * 2, ["to come"] * 2]


def test_the_prediction_is_missed_where_they_are_the_models(by_model):
    words = here.prediction(here.departures(by_model), here.components(by_model))
    assert words.to_numpy().tolist() == [["missed"] * 2, ["missed"] * 2, ["to come"] * 2]


@pytest.mark.parametrize(("alpha", "word"), [(0.9, "kept"), (0.5, "missed"), (0.3, "missed")])
def test_the_largest_on_the_bible_is_judged_by_itself_and_upwards(alpha, word):
    alphas = planted("text") | {(LARGEST, RECITED): alpha, (LARGEST, "scipy-docs"): 0.7}
    tables = shared_tables(alphas)
    words = here.prediction(here.departures(tables), here.components(tables))
    assert words.iloc[2].tolist() == [word] * 2
    assert words.iloc[0].tolist() == ["kept"] * 2  # and does no harm to the first part


def test_the_rules_as_printed_name_their_words():
    assert all(word in here.outcome.__doc__ for word in here.WORDS[:3])
    assert "to come" in here.together.__doc__ and "one half" in here.whose.__doc__


# --- whose variance -------------------------------------------------------------------------------


def test_the_split_takes_the_largest_table_that_is_whole():
    keys = {(m, c): None for m in (SMOL, GEMMA, HALF) for c in TEXTS}
    keys |= {(LARGEST, c): None for c in TEXTS[:2]} | {(SHORTER, c): None for c in TEXTS}
    tables = {
        (m, c): claims.shared.Shared(m, c, SIZES[m], "", (), np.array([]), *(pd.DataFrame(),) * 2)
        for m, c in keys
    }
    assert here.block(tables, without=SHORTER) == ([SMOL, GEMMA, HALF], list(TEXTS))
    assert here.block(tables, must=SHORTER) == ([SHORTER, SMOL, GEMMA, HALF], list(TEXTS))
    found = here.block(tables, must=LARGEST, without=SHORTER)
    assert found == ([SMOL, GEMMA, HALF, LARGEST], list(TEXTS[:2]))
    assert here.block({key: tables[key] for key in [(SMOL, RECITED), (GEMMA, RECITED)]}) == ([], [])


def test_what_is_planted_in_the_texts_is_found_there(by_text):
    parts = here.components(by_text)
    assert set(parts["split"]) == {"windows to 1,024"}
    assert set(parts["distance"]) == {KL, TV, LOSS}
    assert all(here.whose(parts, distance) == "the text's" for distance in (KL, TV, LOSS))
    (share,) = here.share_of(parts, KL, "texts")
    assert share.low > 0.9
    assert parts["documents"].unique().tolist() == [8]


def test_what_is_planted_in_the_models_is_found_there(by_model):
    parts = here.components(by_model)
    assert all(here.whose(parts, distance) == "not the text's" for distance in (KL, TV))
    (share,) = here.share_of(parts, KL, "models")
    assert share.low > 0.9


def test_splits_are_compared_on_as_many_documents_as_all_read():
    alphas = planted("text", (SMOL, GEMMA), TEXTS[:2])
    tables = shared_tables(alphas, docs=8)
    tables[HALF, TEXTS[0]] = shared(HALF, TEXTS[0], 0.5, 6, parameters=SIZES[HALF])
    tables[HALF, TEXTS[1]] = shared(HALF, TEXTS[1], 0.7, 8, parameters=SIZES[HALF])
    values = here.pseudo_values(tables, KL, [SMOL, GEMMA, HALF], TEXTS[:2])
    assert values.shape == (2, 3, 6)


# --- memory, noise --------------------------------------------------------------------------------


def test_losses_are_in_bits_a_character_at_the_same_tokens():
    one = shared("m", "c", 0.5, chars=5.0)
    (row,) = claims.memory.losses({("m", "c"): one}).to_dict("records")
    short = one.rows[one.rows["window"].between(8, 16)]
    excess = short.groupby("doc")["kl_nats"].mean().mean()
    assert row["full"].value == pytest.approx(2 / 5 / np.log(2))
    assert row["helps"].value == pytest.approx(excess / 5 / np.log(2))
    assert row["little"].value == pytest.approx(row["full"].value + row["helps"].value)


@pytest.mark.parametrize("sign", [1, -1])
def test_documents_that_are_foretold_badly_may_have_other_exponents(sign):
    tilts = np.linspace(-0.2, 0.2, 10)
    one = shared("m", "c", 0.6, 10, tilts=tilts)
    one.rows["nll_nats"] = 2 + sign * tilts[one.rows["doc"]]
    (row,) = claims.memory.ranks({("m", "c"): one}).to_dict("records")
    assert row[KL].value == pytest.approx(sign, abs=0.05)


def test_noise_is_that_of_the_laws_measured_twice(by_text):
    rows = claims.precision.noise(by_text)
    assert rows["laws"].tolist() == [3, 3, 3]  # one a text
    assert rows["KL, largest"].tolist() == pytest.approx([1e-6] * 3)


def test_half_precision_moves_an_exponent_by_what_is_planted():
    whole = {("m", "c"): shared("m", "c", 0.5, 4)}
    half = {("m", "c"): shared("m", "c", 0.46, 8, dtype="bfloat16")}
    (row,) = claims.precision.precision(half, whole).to_dict("records")
    assert row["documents"] == 4 and row[KL].value == pytest.approx(-0.04, abs=0.01)
    assert claims.precision.precision(whole, whole).empty


def test_an_interval_half_as_wide_takes_four_times_the_documents():
    items = {"KL": fit.Estimate(0.5, 0.38, 0.62, 24), "TV": fit.Estimate(0.3, 0.27, 0.33, 24)}
    flat = fit.Estimate(0.0, 0.0, 0.0, 24, flat=True)
    powers = pd.DataFrame(
        [
            {"model": "m", "corpus": "c", "documents": 24} | items,
            {"model": "n", "corpus": "c", "documents": 24, "KL": flat, "TV": flat},
        ]
    )
    (row,) = claims.precision.documents(powers).to_dict("records")
    assert (row["KL, documents"], row["TV, documents"]) == (4 * 24, 24 // 4)
    assert (row["KL, ±"], row["TV, ±"]) == (0.12, 0.03)
    facts = claims.precision.documents_facts(powers)
    assert (facts["narrow-kl"], facts["narrow-tv"]) == ("0 of 1", "1 of 1")


# --- other roads ----------------------------------------------------------------------------------


def test_what_a_block_says_of_the_next_is_a_sum_over_its_tokens():
    d = np.array([8.0, 5.0, 3.0, 2.0, 1.0, 0.5, 0.25])  # windows 1 to 7
    assert claims.roads.information(d, np.array([2, 4])).tolist() == [8 - 3, 16 - 1.75]


def test_long_blocks_grow_with_one_less_the_exponent():
    law = (np.arange(1, 2**20) + 1.0) ** -0.4
    assert claims.roads.growth(law, np.array([2**17, 2**18, 2**19])) == pytest.approx(0.6, abs=0.01)


def test_a_measured_law_grows_as_the_law_does():
    one = shared("m", "c", 0.5, tilts=np.zeros(8))
    (row,) = claims.roads.roads({("m", "c"): one}).to_dict("records")
    assert row["blocks"].value == pytest.approx(row["law"].value, abs=0.02)
    assert row["law"].value > row["1 - α"].value + 0.1  # short blocks are no endless ones


def test_a_reader_whose_moves_are_worth_half_has_half_the_loss_and_the_same_exponent():
    one = shared("m", "c", 0.5, worth=0.5)
    (row,) = claims.roads.roads({("m", "c"): one}).to_dict("records")
    assert row["excess / KL"].value == pytest.approx(0.5)
    assert row["excess minus KL"].value == pytest.approx(0, abs=0.01)


def test_good_readers_are_those_whose_moves_are_worth_more_than_half_two_or_more_a_text():
    worths = {("m", "c"): 0.9, ("n", "c"): 0.8, ("o", "c"): 0.3, ("m", "d"): 0.9}
    tables = {key: shared(*key, 0.5, worth=worth) for key, worth in worths.items()}
    found = claims.roads.good_readers(claims.roads.roads(tables))
    assert {text: part["model"].tolist() for text, part in found.items()} == {"c": ["m", "n"]}


def test_exponents_of_good_readers_are_compared_on_the_documents_that_all_have_read(by_text):
    tables = {(m, c): one for (m, c), one in by_text.items() if c == RECITED}
    few = dataclasses.replace(one := tables[HALF, RECITED], begins=one.begins[:4])
    values, docs = claims.roads.on_the_same(tables | {(HALF, RECITED): few}, RECITED, [SMOL, HALF])
    assert docs == 4
    expected = claims.shared.left_out(tables[SMOL, RECITED], KL, (0, 1, 2, 3))[0]
    assert values[0] == pytest.approx(expected)
    assert values[0] != pytest.approx(
        claims.shared.left_out(tables[SMOL, RECITED], KL)[0], abs=1e-6
    )


# --- for the explorers ----------------------------------------------------------------------------


def test_the_other_models_span_their_own_means_in_tokens_and_in_characters():
    tables = {(m, "c"): shared(m, "c", 0.5, chars=chars) for m, chars in (("m", 4.0), ("n", 8.0))}
    rows = claims.shared.curves_table(tables)
    kl = rows[(rows["divergence"] == KL) & (rows["model"] == "m")]
    assert kl["others_low"].to_numpy() == pytest.approx(kl["mean"].to_numpy())
    there = kl["chars_low"].notna()
    assert not there.iloc[0] and there.sum() > 20  # n's shortest window is 8 characters
    at = kl[there].iloc[-1]  # m's window of w tokens holds as much text as n's of w / 2
    data = claims.shared.curve(tables["n", "c"], KL)
    expected = np.exp(np.interp(np.log(at["window"] / 2), np.log(data.window), np.log(data.mean)))
    assert at["chars_low"] == at["chars_high"] == pytest.approx(expected)


# --- what the page says ---------------------------------------------------------------------------


def facts_of(tables: dict, whole: dict) -> dict[str, str]:
    gaps, parts = here.departures(tables), here.components(tables)
    rows = (
        claims.shared.exponents(tables),
        gaps,
        parts,
        claims.memory.losses(tables),
        claims.memory.ranks(tables),
    )
    return here.facts(tables, *rows, claims.roads.roads(tables), whole)


def assert_said(facts: dict[str, str]) -> None:
    text = PAGE.read_text(encoding="utf-8")
    glued = set(re.findall(r"\{glue:text\}`([^`]+)`", text))
    assert facts.keys() == {name for name in glued if not name.startswith("readers-")}
    assert all(isinstance(value, str) and value.strip() for value in facts.values())
    assert not [name for name, value in facts.items() if "nan" in value.split()]


def test_the_facts_are_what_the_page_glues_however_few_tables_there_are(by_text):
    assert_said(facts_of(by_text, {}))
    few = {key: one for key, one in by_text.items() if key[1] == RECITED and key[0] != HALF}
    found = facts_of(few, {})
    assert_said(found)
    assert found["outcome"] == "of 6 parts, 6 to come" and found["whose-kl"] == "to come"


def test_facts_follow_the_tables(by_text, by_model):
    assert facts_of(by_text, {})["whose-kl"] == "the text's"
    found = facts_of(by_model, {})
    assert found["whose-kl"] == "not the text's"
    assert "surely below on 3 of 3" in found["departures-kl"]
    assert "4 missed, 2 to come" in found["outcome"]


def test_readers_are_listed_from_the_smallest_on(by_text):
    rows = claims.shared.readers(by_text)
    assert rows["model"].tolist() == [SMOL, GEMMA, HALF]
    assert rows["parameters"].tolist() == ["135 million", "270 million", "630 million"]


def test_how_far_exponents_lie_apart_is_that_of_the_planted_ones(by_text, by_model):
    for tables, same, other, planted_ in (
        (by_text, "models-apart", "texts-apart", OF_TEXT),
        (by_model, "texts-apart", "models-apart", OF_MODEL),
    ):
        found = here.spread_facts(claims.shared.exponents(tables))
        assert float(found[same].split()[0]) < 0.1
        spread = max(planted_.values()) - min(planted_.values())
        assert float(found[other].split()[0]) == pytest.approx(spread, abs=0.1)
        assert found["smallest"] == f"{SIZES[SMOL] / 1e6:,.0f}"
        assert found["largest"] == f"{SIZES[HALF] / 1e6:,.0f}"
