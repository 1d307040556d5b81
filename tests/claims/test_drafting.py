"""Drafting: what is counted of runs is what a hand counts, and rates are those of stored rows."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from kvlib import claims
from kvlib.claims import drafting as ours
from kvlib.theory import drafting

FATES = {0: [2, 0, 1], 1: [2, 2], 2: [0, 1, 2, 2]}  # document → kept in each round of two


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    """Three documents of one greedy run, and the same as a sampled one."""
    found = [
        {
            **{"doc": doc, "round": number, "place": place + 1, "token": 10 * number + place},
            **{"reached": place <= kept, "kept": place < kept, "chance": 0.5 + place / 4},
            **{"tv": 0.25 if place == 0 else 0.5, "closing": 99, "same": same},
            **{"way": way, "window": 16, "model": "m", "corpus": "c"},
        }
        for way, same in (("greedy", 1), ("sampled", -1))
        for doc, rounds in FATES.items()
        for number, kept in enumerate(rounds)
        for place in range(2)
    ]
    return pd.DataFrame(found)


def test_outcomes_are_what_a_hand_counts(rows):
    greedy, sampled = ours.outcomes(rows).to_dict("records")
    kept, rounds = 12, 9
    tried = sum(min(k + 1, 2) for fate in FATES.values() for k in fate)
    assert greedy["kept"].value == pytest.approx(kept / tried)
    assert greedy["tokens"].value == pytest.approx(1 + kept / rounds)
    first = rounds
    assert greedy["promised"].value == pytest.approx(
        1 - (first * 0.25 + (tried - first) * 0.5) / tried
    )
    formula = drafting.tokens_a_round(0.625, 2)  # places have a chance of 0.5 and 0.75
    assert greedy["independent"].value == pytest.approx(formula)
    assert greedy["more"].value == pytest.approx((1 + kept / rounds) / formula)
    assert greedy["rounds"] == rounds and greedy["same"] == 3
    assert np.isnan(sampled["same"]) and sampled["kept"] == greedy["kept"]
    assert greedy["kept"].n_documents == 3


def test_a_shorter_draft_counts_its_first_places(rows):
    (greedy, _) = ours.outcomes(rows, 1).to_dict("records")
    first = sum(k > 0 for fate in FATES.values() for k in fate) / 9
    assert greedy["kept"].value == pytest.approx(first)
    assert greedy["tokens"].value == pytest.approx(1 + first)
    assert greedy["independent"].value == pytest.approx(1.5)


def test_an_interval_ends_where_the_possible_does(rows):
    always = rows.assign(kept=rows["round"] < 2, reached=True)
    for item in ours.outcomes(always)["kept"]:
        assert 0 <= item.low <= item.value <= item.high <= 1
    for item in ours.outcomes(always)["tokens"]:
        assert 1 <= item.low and item.high <= 3


def test_rounds_that_are_kept_whole_or_not_at_all_yield_more_than_the_formula():
    """Half and half. The share of places that were reached would hide it."""
    fates = pd.DataFrame(
        [(doc, n, place, n % 2 == 0) for doc in range(4) for n in range(10) for place in (1, 2, 3)],
        columns=["doc", "round", "place", "kept"],
    )
    rows = fates.assign(
        reached=fates["kept"] | (fates["place"] == 1), chance=fates["kept"].astype(float), tv=0.5
    ).assign(same=-1, window=16, way="sampled", model="m", corpus="c", token=0, closing=0)
    (one,) = ours.outcomes(rows).to_dict("records")
    assert one["tokens"].value == 2.5
    assert one["more"].value == pytest.approx(2.5 / drafting.tokens_a_round(0.5, 3))
    assert one["kept"].value == 0.75
    assert drafting.tokens_a_round(0.75, 3) > 2.5


def test_rounds_have_what_they_kept_and_what_was_expected(rows):
    found = ours.rounds(rows)
    assert found["expected"].unique().tolist() == [1 + 0.5 + 0.5 * 0.75]
    one = found[(found["way"] == "greedy") & (found["doc"] == 2)]
    assert one["kept"].tolist() == FATES[2]


def test_a_text_is_what_was_kept_and_what_closed(rows):
    run = rows[(rows["way"] == "greedy") & (rows["doc"] == 0)]
    assert ours.written(run) == [0, 1, 99, 99, 20, 99]


def test_repeats_count_stretches_that_came_before():
    rows = pd.DataFrame(
        {"doc": 0, "round": range(12), "kept": False, "token": 5, "closing": [1, 2, 3, 4] * 3}
    ).assign(model="m", corpus="c", way="greedy", window=16)
    assert ours.repeats(rows)["m", "greedy"] == pytest.approx(1 - 4 / 9)


def test_the_picture_holds_every_draft_length_and_the_rate_of_the_text(rows):
    table = pd.DataFrame({"setting": ["m|c"], "window": [16], "tv": [0.25], "measured": [True]})
    found = ours.drawn(rows, table)
    assert found.groupby("way")["draft"].apply(list).tolist() == [[1, 2], [1, 2]]
    assert found["of_text"].tolist() == [1.75, 1.75, 1 + 0.75 + 0.75**2, 1 + 0.75 + 0.75**2]
    missing = ours.drawn(rows, table.assign(measured=False))
    assert missing["of_text"].isna().all() and missing["tokens"].equals(found["tokens"])


# --- rates ------------------------------------------------------------------------------------


def test_windows_are_even_steps_of_an_octave_and_hold_the_ends():
    assert ours.grid(16, 64).tolist() == [16, 23, 32, 45, 64]
    assert ours.grid(16, 100)[[0, -1]].tolist() == [16, 100]


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return ours.rejections(claims.policy_rows.stored_rows())


def test_rates_are_the_mean_distances_of_the_stored_rows(table):
    rows = claims.policy_rows.stored_rows()
    rows = rows[(rows["protocol"] == "online") & (rows["policy"] == "sinks")]
    measured = table[table["measured"]]
    assert len(measured) >= 5
    for row in measured.itertuples():
        model, corpus = row.setting.split("|")
        part = rows[(rows["model"] == model) & (rows["corpus"] == corpus)]
        mean = part.loc[part["budget"] == row.window, "tv"].groupby(part["doc"]).mean().mean()
        assert row.tv == pytest.approx(mean, rel=1e-6)
    for _, part in table.groupby("setting"):
        assert part["tv"].is_monotonic_decreasing


def test_models_with_layers_that_see_little_are_left_out(table):
    assert not table["setting"].str.startswith("gemma").any()


def test_the_worked_number_is_that_of_the_formulas(table):
    row = ours.spoken_rate(table)
    assert row["setting"].startswith("smollm2") and row["window"] == ours.SPOKEN
    one, many = ours.example(table).to_dict("records")
    tokens = (1 - (1 - row["tv"]) ** 5) / row["tv"]
    plain = row["weights"] + row["token_bytes"] * 8192
    drafts = 4 * (row["weights"] + row["token_bytes"] * 256)
    assert one["tokens"] == pytest.approx(tokens)
    assert one["speed_up"] == pytest.approx(tokens * plain / (drafts + plain))
    assert many["speed_up"] > one["speed_up"]
    assert many["pays_from"] < one["pays_from"]


def test_without_a_table_there_are_no_runs(tmp_path):
    assert ours.stored_runs(tmp_path).empty
