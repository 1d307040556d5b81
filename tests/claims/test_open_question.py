"""C8: memories obey their bounds, and protocols are compared on the tokens that they share."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pandas as pd
import pytest
from studies import finite, rows_of

from kvlib import claims, fit
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
    assert claims.open_question.answer_of_sources(table) == "both"
    said = claims.open_question.sentence(table, table.iloc[2:])
    assert "wins on 2 and keeps the exponent on 2; below one, of 2 it wins on 0" in said


@pytest.mark.parametrize(("outcome", "answer"), [("wins", "yes"), ("same exponent", "no")])
def test_sources_that_agree_give_one_answer(outcome, answer):
    table = pd.DataFrame({"outcome": [outcome] * 3})
    assert claims.open_question.answer_of_sources(table) == answer


def test_below_one_two_sources_exist_and_none_undercuts_its_bound():
    curves = claims.open_question.memory_curves(0.9)
    needs = claims.open_question.memory_needs(curves, (0.01, 0.001, 0.0001))
    assert list(needs["source"].unique()) == ["rudin-shapiro", "recall"]
    assert (needs["bound"] <= needs["recurrent"]).all()
    assert (needs["recurrent"] <= needs["suffix"]).all()


@pytest.mark.parametrize(
    ("answers", "word"),
    [
        (("both", "no", "no", "no"), "open"),
        (("no", "no", "undecided", "no"), "open"),
        (("yes", "yes", "no", "no"), "open"),
        (("no", "no", "no", "no"), "partly"),
        (("yes", "yes", "yes", "yes"), "partly"),
        (("undecided",), "open"),
    ],
)
def test_the_word_is_open_until_all_parts_give_one_answer(answers, word):
    assert claims.open_question.rule(dict(enumerate(answers))) == word


@pytest.mark.parametrize(
    ("answer", "word"), [("yes", "partly"), ("no", "partly"), ("both", "open")]
)
def test_a_reading_is_partly_where_the_part_has_one_voice(answer, word):
    assert claims.open_question.reading(answer) == word


def suffix_rows(law, docs):
    """Suffixes of 1 to 512 tokens that lose `law(window)`, KL, give or take."""
    window = np.arange(1, 513)
    parts = []
    for doc in range(docs):
        kl = law(window) * np.exp(0.02 * np.sin(doc + window))
        rows = {"doc": doc, "position": 1535, "window": window, "kl_nats": kl}
        parts.append(pd.DataFrame(rows))
    table = pd.concat(parts, ignore_index=True)
    return table.assign(context=1536, tv=np.sqrt(table["kl_nats"]) / 4)


def cached(gain, docs=12, spread=0.1):
    """Rows of a cache online that loses `gain(budget)` times what a suffix of equal budget does."""
    law = finite(0.6)
    rows = rows_of(lambda b: gain(b) * law(b), "sinks", docs=docs, spread=spread)
    suffixes = {("m", "c"): suffix_rows(law, docs)}
    return claims.open_question.carrying(rows, suffixes), claims.open_question.carrying_slopes(
        rows, suffixes
    )


def equal(tables, distance="KL"):
    """The rows of one distance, at the same budget."""
    here = claims.open_question.SAME_BUDGET
    return [t[(t["window"] == here) & (t["distance"] == distance)] for t in tables]


@pytest.mark.parametrize(("power", "answer"), [(0.0, "no"), (-0.3, "yes"), (0.3, "no")])
def test_a_gain_that_grows_is_a_yes_and_one_that_does_not_is_a_no(power, answer):
    tables = cached(lambda b: 0.8 * (b / 16) ** power)
    assert claims.open_question.answer_of_caches(*equal(tables)) == answer


def test_a_noisy_study_leaves_the_question_undecided():
    tables = cached(lambda b: (b / 16) ** -0.05, docs=4, spread=1.0)
    assert claims.open_question.answer_of_caches(*equal(tables)) == "undecided"


def test_a_harm_that_wears_off_is_no_gain():
    tables = cached(lambda b: 4 * (b / 16) ** -0.3)
    assert claims.open_question.answer_of_caches(*equal(tables)) == "undecided"


def test_tables_that_differ_leave_the_question_undecided():
    first, second = (equal(cached(g)) for g in (lambda b: 1.0, lambda b: 0.8 * (b / 16) ** -0.3))
    both = [
        pd.concat([one, two.assign(model="other")]) for one, two in zip(first, second, strict=True)
    ]
    assert claims.open_question.answer_of_caches(*both) == "undecided"


def test_the_ratio_and_its_slope_are_recovered_in_both_distances():
    ratios, slopes = cached(lambda b: 0.8 * (b / 16) ** -0.3)
    for distance, root in (("KL", 1), ("TV", 2)):
        ours, bent = equal((ratios, slopes), distance)
        expected = (0.8 * (ours["budget"] / 16) ** -0.3) ** (1 / root)
        got = [item.value for item in ours["ratio"]]
        assert got == pytest.approx(expected.tolist(), rel=0.03)
        assert bent["slope"].iloc[0].value == pytest.approx(-0.3 / root, abs=0.02)


def test_the_same_recent_tokens_are_a_longer_way_from_the_cache():
    ratios, _ = cached(lambda b: 1.0)
    by = ratios.set_index(["distance", "window", "budget"])["ratio"].map(lambda item: item.value)
    here = claims.open_question
    at = {w: by.loc[("KL", w, 16)] for w in here.WINDOWS}
    law = finite(0.6)
    said = at[here.SAME_RECENT] / at[here.SAME_BUDGET]
    assert said == pytest.approx(float(law(16) / law(12)), rel=0.02)


def test_a_suffix_is_read_to_the_end_of_its_last_bin():
    """Where the bin's centre counted, a power law would be read too high at its last window."""
    table = suffix_rows(lambda w: 1 / w, docs=4)
    rows = rows_of(lambda b: 1 / b, "sinks", docs=4, spread=1e-9)
    cache = claims.policy_rows.curve(rows, False)
    budgets, gaps = claims.open_question.log_gaps(cache, fit.curve(table), 0)
    assert budgets.tolist() == [16, 64, 256, 512]
    assert np.abs(gaps).max() < 0.01


def test_tries_are_corrected_for_their_number():
    ratios, slopes = cached(lambda b: 0.9)
    for table in (ratios, slopes):
        assert (table["corrected"] >= table["p"]).all()
    assert ratios["corrected"].min() >= len(ratios) * ratios["p"].min() - 1e-15


def test_a_study_that_might_have_been_follows_its_truth():
    tables = cached(lambda b: 1.0)
    said = claims.open_question.carrying_chances(*tables, truths=(0.0, -0.3), studies=20)
    said = said[said["distance"] == "KL"].set_index("slope")
    assert said.loc[0.0, "no"] >= 0.8 and said.loc[-0.3, "yes"] == 1
    assert said[["yes", "no", "undecided"]].sum(axis=1).tolist() == pytest.approx([1, 1])


@pytest.mark.parametrize(
    ("truth", "answer"),
    [(-fit.MARGIN, "no"), (0.0, "yes")],  # a slope surely above the one, surely below the other
)
def test_at_the_border_an_answer_is_given_in_one_study_of_forty(truth, answer):
    here = claims.open_question
    rng = np.random.default_rng(9)
    slope = fit.Estimate(0.0, -0.02, 0.02, 16)
    gain = [fit.Estimate(0.5, 0.4, 0.6, 16)]  # sure at the largest budget
    if answer == "no":
        slope = fit.Estimate(0.0, -0.2, 0.2, 16)  # too wide for a fall that is sure
    said = []
    for _ in range(1000):
        made = fit.drawn(slope, truth, rng)
        above = fit.p_above(made, 0)
        p = np.array([2 * min(above, 1 - above)])
        said.append(here.answer_of_tables([np.array([0])], gain, [made], np.zeros(1), p))
    assert 10 < said.count(answer) < 45


def test_the_power_names_each_slope_and_what_cannot_be_drawn():
    tables = cached(lambda b: 1.0)
    said = claims.open_question.power(
        claims.open_question.carrying_chances(*tables, truths=(0.0, -0.3), studies=10)
    )
    assert (
        said.startswith("Exact sources cannot be drawn") and "\u22120.3 gives KL yes 100%" in said
    )
    assert claims.open_question.power(pd.DataFrame()).endswith("turn that answer to both.")


def test_protocols_are_compared_on_the_tokens_they_share():
    parts = [
        rows_of(lambda b, c=c: c / b, "random", p)
        for p, c in (("online", 2), ("prefill", 1), ("reencode", 4))
    ]
    parts[2] = parts[2][parts[2]["position"] % 256 == 0]
    found = claims.open_question.protocols_compared(pd.concat(parts), "random")
    assert (found["tokens"] == 8 * 4).all()
    assert all(item.value == pytest.approx(0.5, rel=0.1) for item in found["online / reencode"])


def test_the_figure_of_the_open_question_counts_documents_tokens_and_tries():
    said = claims.open_question.carrying_sentence(*cached(lambda b: 0.8))
    assert "12 documents with 96 tokens a budget or more" in said
    assert "8 of 8 ratios" in said and "corrected for 16 tries" in said
    none = claims.open_question.carrying_sentence(*cached(lambda b: 1.2))
    assert "0 of 8 ratios" in none and "the least" not in none


def test_without_tables_the_word_rests_on_sources_alone(tmp_path):
    (verdict,) = claims.open_question.judge(tmp_path)
    assert verdict.word == "open" and len(verdict.readings) == 2
