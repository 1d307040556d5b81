"""C10, C11 and C12: on made-up rows whose law is known, the rules say what is so."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from studies import estimates, finite, online, rows_of, suffix_rows

from kvlib import claims, store
from kvlib.fit import Estimate

RULES = {
    "prediction": (claims.policies.prediction_rule, claims.policies.prediction_sentence),
    "retention": (claims.policies.retention_rule, claims.policies.retention_sentence),
    "law": (claims.policies.law_rule, claims.policies.law_sentence),
}


def test_the_law_of_suffixes_foretells_a_policy_that_follows_it():
    rows = rows_of(lambda b: finite(0.6)(b - 4), "sinks", spread=0.01)
    found = claims.policies.predictions(rows, {("m", "c"): suffix_rows(0.6)})
    near = found[found["budget"] <= 256]  # at the largest the references of the two differ
    assert len(near) == 3 and all(0.9 < item.value < 1.1 for item in near["factor"])
    floor = rows_of(lambda b: finite(0.6)(b) + 0.5, "sliding", spread=0.01)
    found = claims.policies.predictions(floor, {("m", "c"): suffix_rows(0.6)})
    assert found["factor"].iloc[-1].low > 5


def test_the_law_in_the_budget_counts_sinks_and_the_law_of_the_window_does_not():
    rows = rows_of(lambda b: 1 / b, "sinks")
    assert claims.policy_rows.curve(rows).window[0] == 12
    assert claims.policy_rows.curve(rows, besides_sinks=False).window[0] == 16


@pytest.mark.parametrize(
    ("figure", "column", "expected"),
    [
        (
            "prediction",
            "factor",
            "sliding window 30 [20, 40] to 30 [20, 40], holds on 0 of 1",
        ),
        (
            "retention",
            "ratio",
            "4 sinks + recent 1 [0.9, 1.1] to 1 [0.9, 1.1], geometric",
        ),
    ],
)
def test_figures_carry_intervals_and_documents(figure, column, expected):
    table = online(**{column: estimates((20, 30, 40), (0.9, 1, 1.1))}, budget=64)
    said = RULES[figure][1](table)
    assert expected in said.replace("\u00a0", " ") and said.endswith("16 or more documents each")


def test_the_figure_of_the_law_in_the_budget_says_where_there_is_no_exponent():
    exponent = [Estimate(0.02, 0.02, 0.02, 16, flat=True), Estimate(0.5, 0.4, 0.6, 16)]
    said = claims.policies.law_sentence(
        online(
            exponential=estimates((0.5, 0.8, 1.1), (2, 3, 4)),
            stretched=estimates((0.1, 0.3, 0.5), (1, 2, 3)),
            exponent=exponent,
        )
    )
    assert "no exponent;" in said and "α 0.5 [0.4,\u00a00.6]" in said
    assert "exponential 3 [2,\u00a04] to 3 [2,\u00a04]" in said


@pytest.mark.parametrize(
    ("factors", "word"),
    [
        (((1, 1.1, 1.2), (0.7, 0.8, 0.9)), "reproduced"),
        (((30, 40, 50), (0.4, 1.2, 3)), "partly"),
        (((30, 40, 50), (0.6, 1.9, 9)), "not reproduced"),  # undecided, and far off
        (((30, 40, 50), (1.6, 2, 3)), "not reproduced"),
    ],
)
def test_the_verdict_on_predictions(factors, word):
    assert claims.policies.prediction_rule(online(factor=estimates(*factors))) == word


def test_a_law_that_is_surely_off_at_one_budget_does_not_hold():
    near, off = online(factor=estimates((1, 1.1, 1.2), (1, 1.1, 1.2))), estimates((1.6, 1.7, 1.8))
    both = pd.concat([near, near.iloc[:1].assign(factor=off)])
    assert claims.policies.holds(near)["holds"].all()
    assert claims.policies.holds(both)["holds"].tolist() == [False, True]


@pytest.mark.parametrize(
    ("ratios", "word"),
    [
        (((80, 100, 120), (50, 60, 70)), "reproduced"),
        (((0.9, 1, 1.1), (11, 22, 44)), "partly"),
        (
            ((1.02, 1.05, 1.08), (5, 8, 12)),
            "not reproduced",
        ),  # better, but by no order of magnitude
    ],
)
def test_the_verdict_on_random_retention(ratios, word):
    assert claims.policies.retention_rule(online(ratio=estimates(*ratios))) == word


@pytest.mark.parametrize(
    ("exponential", "stretched", "word"),
    [
        ([(2, 3, 4)] * 2, [(1.1, 2, 3)] * 2, "reproduced"),
        ([(0.9, 3, 4), (2, 3, 4)], [(1.1, 2, 3)] * 2, "partly"),
        ([(0.9, 3, 4)] * 2, [(1.1, 2, 3)] * 2, "not reproduced"),
        ([(2, 3, 4)] * 2, [(0.9, 2, 3)] * 2, "partly"),
    ],
)
def test_the_verdict_on_the_law_in_the_budget(exponential, stretched, word):
    table = online(exponential=estimates(*exponential), stretched=estimates(*stretched))
    assert claims.policies.law_rule(table) == word


@pytest.mark.parametrize("of", ["prediction", "retention", "law"])
def test_without_a_measurement_a_verdict_is_to_come(of):
    columns = ["difference", "factor", "ratio", "exponential", "stretched", "protocol", "policy"]
    nothing = pd.DataFrame({name: pd.Series(dtype=object) for name in columns})
    assert RULES[of][0](nothing) == "to come"


def test_the_effect_of_steps_compares_equal_documents(tmp_path):
    def write(kind: str, docs: int, factor: float) -> None:
        rows = rows_of(lambda b: 1 / b, "tova", docs=docs, spread=0).assign(policy="tova")
        rows["kl_nats"] *= np.where(rows["doc"] == 1, factor, 1.0)
        path = tmp_path / f"{kind}-smollm2-135m-instruct-world-english-bible"
        settings = {"kind": kind, "model": "smollm2-135m-instruct", "corpus": "world-english-bible"}
        measurement = store.Measurement(path, settings, docs)
        for doc, part in rows.groupby("doc"):
            measurement.add(doc, part.drop(columns=["model", "corpus"]))
        measurement.finish({"command": "none"}, kind)

    write("scored", 4, 3.0)
    write("stepwise", 2, 1.0)
    table = claims.policies.step_effect(tmp_path)
    assert set(table["documents"]) == {2} and len(table) == 5
    np.testing.assert_allclose(table["least"], 1.0)
    np.testing.assert_allclose(table["most"], 3.0)
    np.testing.assert_allclose(table["in steps"], 2 / table["budget"])
