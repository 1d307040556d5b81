"""C1: the one-step problem is checked, the check can fail, and so can the rule."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from kvlib import charts, claims, fit


@pytest.fixture(scope="module")
def solved() -> tuple[pd.DataFrame, pd.Series]:
    return claims.formulation.one_step(), claims.formulation.three_flips()


def test_the_solver_meets_the_closed_forms(solved):
    assert claims.formulation.solver_holds(*solved)


@pytest.mark.parametrize("column", ["solver", "solver both", "gap"])
def test_a_rate_or_a_certificate_that_is_off_is_noticed(solved, column):
    steps, bits = solved
    off = steps.copy()
    off.loc[off.index[1], column] += 1e-7
    assert not claims.formulation.solver_holds(off, bits)


def test_notes_of_the_wrong_length_are_noticed(solved):
    steps, bits = solved
    assert not claims.formulation.solver_holds(steps, bits + [0, 1e-5])


def test_a_crossover_that_is_another_is_noticed(solved):
    steps, bits = solved
    assert not claims.formulation.solver_holds(steps, bits, p=0.4)


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return claims.formulation.stored_rates()


def test_the_mean_over_heads_in_the_summary_is_that_of_the_rows(table):
    summary = claims.formulation.rates_summary(table).set_index(
        ["part", "layer", "head", "distortion"]
    )
    rows = table.query("part == 'key' and layer == 3")
    rows = rows[np.isclose(rows["distortion"], 0.09)]
    saving = rows["rate_bits"].mean() - rows["rate_with_query_bits"].mean()
    assert summary.loc[("key", 3, "mean", 0.09), "saving"] == pytest.approx(saving, rel=1e-4)


def test_the_verdict_is_never_more_than_partly_and_can_fail(table):
    assert claims.formulation.rule(True, table) == "partly"
    assert claims.formulation.rule(False, table) == "not reproduced"
    silent = table.assign(gain_bits=np.where(table["doc"] % 2, 1.0, -1.0))
    assert claims.formulation.rule(True, silent) == "not reproduced"


def test_a_query_that_says_nothing_of_values_is_said_to_speak_in_one_study_of_forty():
    rng = np.random.default_rng(10)
    key, value = fit.Estimate(5.0, 4.0, 6.0, 16), fit.Estimate(0.0, -1.0, 1.0, 16)
    words = [claims.formulation.word(True, [key, fit.drawn(value, 0.0, rng)]) for _ in range(1000)]
    assert 10 < words.count("partly") < 45


def test_savings_that_might_have_been_follow_their_truth():
    savings = {"key": fit.Estimate(5.0, 4.0, 6.0, 16), "value": fit.Estimate(3.0, 2.0, 4.0, 16)}
    found = claims.formulation.had_it_been(savings, n=40)
    shares = found.set_index("truth")["partly"]
    assert shares[1.0] == 1 and shares[0.0] < 0.1
    assert "1 gives partly 100%" in claims.formulation.power(found)


def test_asking_for_a_distortion_that_is_not_stored_raises(table):
    with pytest.raises(ValueError, match="expected stored ones"):
        claims.formulation.mean_saving(table, "key", 0.123)


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(ValueError, match="expected a table of the study kv_rates"):
        claims.formulation.stored_rates(tmp_path)


def test_every_explorer_draws_with_its_controls(table):
    summary = claims.formulation.rates_summary(table)
    explorers = [
        charts.formulation.side_information(claims.formulation.tangents()),
        charts.formulation.cache_rates(summary),
        charts.formulation.saving_by_layer(summary),
    ]
    for explorer in explorers:
        names = {parameter["name"] for parameter in explorer.spec()["params"]}
        assert {control.name for control in explorer.controls} == names
        assert "kv-reading" in explorer.to_html()
