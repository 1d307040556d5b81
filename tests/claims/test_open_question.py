"""C8: memories obey their bounds, and protocols are compared on the tokens that they share."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pandas as pd
import pytest
from studies import rows_of, three_protocols

from kvlib import claims
from kvlib.theory import gaussian

ALPHA = 1.5


@lru_cache(maxsize=1)
def memory():
    """Curves and needs of the four sources at one exponent."""
    curves = claims.open_question.memory_curves(ALPHA)
    return curves, claims.open_question.memory_needs(curves)


def of(source):
    """The needs of one source, by ε."""
    return memory()[1].query("source == @source").set_index("epsilon")


@pytest.mark.parametrize("epsilon", [0.9, 0.5, 0.1, 0.013, 1e-3])
def test_the_least_memory_is_the_one_that_counting_finds(epsilon):
    def risk(n):
        return (n + 1) ** -0.7

    counted = next(n for n in range(10**5) if risk(n) <= epsilon)
    assert claims.open_question.least_memory(risk, epsilon) == counted


def test_the_least_memory_says_when_there_is_none():
    assert claims.open_question.least_memory(lambda n: 1.0, 0.5, most=100) == -1
    assert claims.open_question.least_memory(lambda n: 0.0, 0.5) == 0


def test_the_counter_holds_the_logarithm_of_the_window():
    lamp = of("renewal")
    assert (lamp["recurrent"] == np.ceil(np.log2(lamp["window"] + 1))).all()


def test_no_memory_undercuts_its_bound_and_no_recurrent_one_needs_more_than_the_suffix():
    needs = memory()[1]
    assert (needs["bound"] <= needs["recurrent"]).all()
    small = needs[needs["epsilon"] <= 0.01]
    assert (small["recurrent"] <= small["suffix"]).all()


def test_the_two_gaussian_sources_need_the_same_windows_and_different_states():
    plus, mixed = of("plus"), of("rudin-shapiro")
    assert (plus["window"] == mixed["window"]).all()
    assert plus["recurrent"].loc[1e-4] <= 3 and mixed["bound"].loc[1e-4] > 20


def test_a_linear_bound_never_exceeds_what_a_bank_or_a_register_reaches():
    states = np.array([1, 2, 3, 4, 8, 16])
    for signs in ("plus", "rudin-shapiro"):
        source = gaussian.GaussianPowerLaw(ALPHA, claims.open_question.PREFACTOR, signs)
        bound = claims.open_question.linear_bound(source, states)
        register = source.sensitivity(states) - source.sensitivity(claims.open_question.ORDER)
        found = [claims.open_question.best_bank(source, m) for m in states[:4]]
        assert (bound <= register).all() and (bound[:4] <= found).all()


def test_the_entropy_of_the_lag_does_not_depend_on_where_the_sum_becomes_an_integral():
    for alpha in (1.1, 2.0):
        short, long = (claims.open_question.lag_entropy_bits(alpha, n) for n in (2**12, 2**18))
        assert short == pytest.approx(long, rel=1e-6)


@pytest.mark.parametrize("alpha", [0.5, 0.7])
def test_below_one_the_converse_grows_with_the_exponent_of_the_window_less_one(alpha):
    row = claims.open_question.converse_exponents((alpha,)).loc[alpha]
    assert row["window"] == pytest.approx(1 / alpha, rel=1e-3)
    assert row["recurrent, at least"] == pytest.approx(1 / alpha - 1, abs=0.01)


def test_every_source_has_a_need_at_every_epsilon():
    """A reader of the chart may choose any of them."""
    for _, rows in memory()[1].groupby("source"):
        assert sorted(rows["epsilon"]) == sorted(claims.open_question.EPSILONS)


def test_one_exponent_gives_three_answers_so_the_question_is_open():
    table = claims.open_question.open_question_table(memory()[1], ALPHA)
    assert table["outcome"].tolist() == ["wins", "wins", "same exponent", "same exponent"]
    assert claims.open_question.rule(table) == "open"
    assert "wins on 2 and keeps the exponent on 2" in claims.open_question.sentence(table)
    assert claims.open_question.rule(table.assign(outcome="wins")) == "partly"


def test_protocols_are_compared_on_the_tokens_they_share():
    parts = [
        rows_of(lambda b, c=c: c / b, "random", p)
        for p, c in (("online", 2), ("prefill", 1), ("reencode", 4))
    ]
    parts[2] = parts[2][parts[2]["position"] % 256 == 0]
    found = claims.open_question.protocols_compared(pd.concat(parts), "random")
    assert (found["tokens"] == 8 * 4).all()
    assert all(item.value == pytest.approx(0.5, rel=0.1) for item in found["online / reencode"])


def test_the_figure_of_the_open_question_counts_documents_and_tokens():
    rows = three_protocols().assign(policy="sinks")
    said = claims.open_question.carrying_sentence(rows[rows["protocol"] != "x"].drop_duplicates())
    assert "8 documents with 32 tokens or more" in said
