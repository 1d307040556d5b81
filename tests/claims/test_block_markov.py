"""C9: exponents, schemes and ratios obey the theory, and can fail it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from studies import WINDOWS, exact_curve, noisy_curve, table_of

from kvlib import claims, fit


def passing():
    """Tables on which the verdict of C9 rests, when all is as predicted."""
    exponents = pd.DataFrame({"exact": [0.5, 1.0], "leading term": [0.501, 1.0]})
    sliding = pd.DataFrame({"carry": [1.0, 0.9], "peak": [1.0, 1.2]})
    return exponents, sliding, pd.DataFrame({"ρ": [2.0, 1.0]})


def test_every_exponent_of_the_table_is_met_by_the_exact_excess():
    table = claims.block_markov.exponent_table((0.5, 1.0, 1.5))
    assert len(table) == 12
    assert (table["exact"] - table["leading term"]).abs().max() <= claims.block_markov.TOLERANCE
    away = table[table["α"] != 1]  # at one a logarithm delays the limit
    assert away["exact"].to_numpy() == pytest.approx(away["limit"].to_numpy(), abs=0.01)


def test_blocks_lie_between_their_carry_and_their_peak_and_lose_to_the_mean_if_convex():
    table = claims.block_markov.sliding_checks(64)
    assert (table["carry"] <= 1 + 1e-9).all() and (table["peak"] >= 1 - 1e-9).all()
    assert (table["mean"] >= 1 - 1e-9).tolist() == table["convex"].tolist()
    assert table["convex"].tolist() == [True] * 4 + [False]


def test_pinsker_halves_every_exponent():
    table = claims.block_markov.pinsker_exponents((0.3, 2.0))
    assert (table["KL"] / table["by Pinsker"]).to_numpy() == pytest.approx([2, 2], rel=1e-3)


def test_the_ratio_of_exponents_is_two_for_the_gaussian_and_one_for_rare_changes():
    ratios = claims.block_markov.tv_exponents(1.3)["ρ"]
    assert ratios.to_numpy() == pytest.approx([2, 1, 1], abs=1e-3)


def test_the_block_markov_verdict_is_of_our_construction_when_every_part_holds():
    assert claims.block_markov.rule(*passing()) == "our construction"


@pytest.mark.parametrize(
    ("part", "column", "wrong", "expected"),
    [
        (0, "exact", 0.6, "not reproduced"),
        (1, "carry", 1.01, "not reproduced"),
        (1, "peak", 0.99, "not reproduced"),
        (2, "ρ", 1.7, "partly"),
    ],
)
def test_the_block_markov_verdict_can_fail(part, column, wrong, expected):
    tables = passing()
    tables[part].loc[0, column] = wrong
    assert claims.block_markov.rule(*tables) == expected


@pytest.mark.parametrize(
    ("part", "column", "inside", "beyond", "word"),
    [
        (0, "exact", 0.5109, 0.5111, "not reproduced"),
        (1, "carry", 1 + 1e-10, 1 + 1e-8, "not reproduced"),
        (1, "peak", 1 - 1e-10, 1 - 1e-8, "not reproduced"),
        (2, "ρ", 1.981, 1.979, "partly"),
    ],
)
def test_the_borders_of_the_block_markov_verdict(part, column, inside, beyond, word):
    """Exact numbers have no rate: the word turns at the stated tolerance."""
    for value, expected in ((inside, "our construction"), (beyond, word)):
        tables = passing()
        tables[part].loc[0, column] = value
        assert claims.block_markov.rule(*tables) == expected


def test_the_power_says_how_far_each_word_is():
    said = claims.block_markov.power(*passing())
    assert "off by more than 0.01 (the worst is off by 0.001)" in said
    assert "at most 1 times the risk of the carry and at least 1 times" in said


def test_the_figure_names_what_the_verdict_rests_on():
    exponents, sliding, _ = passing()
    real = claims.block_markov.two_distances(*pair_of(2.0), 8, n_boot=50)
    text = claims.block_markov.sentence(exponents, sliding.assign(schemes=9), real)
    assert text.startswith(
        "our reconstruction: 2 exponents met to 0.001, and 18 schemes on 2 exact"
    )
    assert text.endswith("1 tables, 24 or more documents each")


def pair_of(power, spread=0.3):
    """KL and TV curves of one study with TV = KL^(1/power) / 2, document by document."""
    kl = noisy_curve(lambda w: exact_curve(0.6, 2560, w), spread=spread)
    shape = dict(vars(kl)) | {"doc_means": kl.doc_means ** (1 / power) / 2}
    return {("m", "c"): kl}, {("m", "c"): fit.Curve(**shape)}


@pytest.mark.parametrize("power", [1.0, 1.5, 2.0])
def test_the_ratio_is_recovered_whatever_the_reference_bends(power):
    found = claims.block_markov.two_distances(*pair_of(power, spread=1e-6), 8, n_boot=50)["ρ"][0]
    assert found.value == pytest.approx(power, rel=1e-4)


def test_the_root_law_recovers_a_ratio_of_two_and_misses_a_ratio_of_one():
    for power, right in ((2.0, True), (1.0, False)):
        found = claims.block_markov.two_distances(*pair_of(power, spread=1e-6), 8, n_boot=50)
        assert (abs(found["ρ, root law"][0].value - power) < 0.02) == right


def test_the_bootstrap_is_paired_so_that_a_common_factor_leaves_the_ratio_alone():
    row = claims.block_markov.two_distances(*pair_of(2.0), 8, n_boot=400).iloc[0]
    assert row["ρ"].low <= row["ρ"].value <= row["ρ"].high
    ratio, alpha = row["ρ"], row["α"]
    assert (ratio.high - ratio.low) / ratio.value < (alpha.high - alpha.low) / alpha.value / 3


def test_the_two_exponents_add_up():
    row = claims.block_markov.two_distances(*pair_of(1.6), 8, n_boot=50).iloc[0]
    assert row["φ"].value + 2 * row["σ"].value == pytest.approx(row["α"].value)


def test_distances_of_different_studies_are_refused():
    kl, tv = pair_of(2.0)
    short = table_of(np.ones((3, len(WINDOWS))), WINDOWS)
    with pytest.raises(ValueError, match="expected one shape for KL and TV, got"):
        claims.block_markov.two_distances(kl, {("m", "c"): fit.curve(short)}, 8, n_boot=10)
