"""What data would have given each word: the shares of words among studies drawn anew."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from studies import finite, rows_of, suffix_rows

from kvlib import claims, fit


def test_shares_are_those_of_the_words_that_the_studies_get():
    found = claims.chances.shares(
        lambda rng: "partly" if rng.uniform() < 0.3 else "reproduced", 1000, seed=1
    )
    assert found["partly"] == pytest.approx(0.3, abs=0.05) and found["not reproduced"] == 0
    assert sum(found.values()) == pytest.approx(1)


def test_a_drawn_study_of_c4_says_what_one_of_resampled_documents_says():
    """The declared truth put into the rows, their documents drawn with replacement."""
    law, truth = finite(0.6), 0.1
    rows = rows_of(lambda b: law(b - 4), "sinks", docs=16, spread=0.1)
    ours = claims.policy_rows.curve(rows)
    other = fit.curve(suffix_rows(0.6, docs=16))
    measured = fit.matched_slope(ours, other)
    ours = replace(ours, doc_means=ours.doc_means * ours.window ** (truth - measured.value))
    rng = np.random.default_rng(0)

    def resampled(rng) -> fit.Estimate:
        docs = rng.integers(0, 16, 16)
        pair = (replace(data, doc_means=data.doc_means[docs]) for data in (ours, other))
        return fit.matched_slope(*pair)

    half = [(item.high - item.low) / 2 for item in (resampled(rng) for _ in range(60))]
    drawn = [fit.drawn(measured, truth, rng) for _ in range(60)]
    other_half = [(item.high - item.low) / 2 for item in drawn]
    assert np.median(half) == pytest.approx(np.median(other_half), rel=0.2)
    means = [
        np.std([item.value for item in made])
        for made in (drawn, [resampled(rng) for _ in range(60)])
    ]
    assert means[0] == pytest.approx(means[1], rel=0.4)


def test_a_table_for_a_page_has_a_row_a_truth_and_a_column_a_reading():
    table = pd.DataFrame(
        [("KL", 0.0, 0.75, 0.25, 0.0), ("TV", 0.0, 0.0, 0.0, 1.0)],
        columns=["reading", "truth", *claims.chances.WORDS],
    )
    shown = claims.chances.shown(table)
    assert shown.loc[0.0].tolist() == ["reproduced 75%, partly 25%", "not reproduced 100%"]


def test_a_table_in_words_names_the_truths_in_their_order_and_no_rare_word():
    table = pd.DataFrame(
        [("KL", 0.0, 0.995, 0.005, 0.0), ("KL", "a floor", 0.0, 0.25, 0.75)],
        columns=["reading", "truth", *claims.chances.WORDS],
    )
    assert claims.chances.sentence(table, "the slope", 400) == (
        "Of 400 simulated studies as precise as ours, by the slope: 0 gives KL reproduced 100%. "
        "a floor gives KL not reproduced 75%, partly 25%."
    )


def test_every_key_has_random_numbers_of_its_own_and_the_same_at_every_run():
    def study(rng: np.random.Generator, name: str) -> str:
        return "partly" if rng.uniform() < 0.5 else "reproduced"

    made = [claims.chances.table(["name"], [("a",), ("b",)], study, 50, seed=3) for _ in "12"]
    pd.testing.assert_frame_equal(*made)
    assert made[0]["partly"].nunique() == 2
