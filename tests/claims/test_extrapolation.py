"""C3: the rule's words, its mean factor by a second route, facts that follow any tables."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from studies import exact_curve, noisy_curve

from kvlib import claims, fit


def ratio(value, low, high):
    return fit.Estimate(value, low, high, 24)


def tables_of(*ratios: fit.Estimate, texts: int | None = None) -> pd.DataFrame:
    """Rows of `factors` with these ratios, of as many texts as there are if not said."""
    corpora = [f"text {k % (texts or len(ratios))}" for k in range(len(ratios))]
    return pd.DataFrame(
        {"distance": "KL", "error": "log", "corpus": corpora, "exponential": list(ratios)}
    )


@pytest.mark.parametrize(
    ("ratios", "expected"),
    [
        ([ratio(10, 5, 20), ratio(8, 2, 32), ratio(12, 6, 24)], "reproduced"),
        ([ratio(2, 1.5, 8 / 3), ratio(3, 2, 4.5), ratio(2.5, 2, 3.125)], "partly"),  # less than ten
        ([ratio(60, 20, 180), ratio(40, 20, 80), ratio(50, 25, 100)], "partly"),  # more
        ([ratio(20, 5, 80), ratio(1.5, 0.8, 2.8), ratio(0.7, 0.5, 1)], "not reproduced"),
        ([ratio(10, 5, 20), ratio(8, 0.5, 128), ratio(12, 6, 24)], "reproduced"),  # one table wide
        ([ratio(10, 5, 20)] * 6 + [ratio(0.5, 0.4, 0.625)], "not reproduced"),  # one surely below
    ],
)
def test_about_ten_times_has_a_floor_and_a_ceiling_on_the_mean_over_texts(ratios, expected):
    rows = tables_of(*ratios)
    assert claims.extrapolation.rule(rows) == expected
    assert claims.extrapolation.readings(rows) == {"KL, log error": expected}


def test_the_rule_asks_both_distances_and_the_log_error_alone():
    ten, more, none = ratio(10, 5, 20), ratio(60, 20, 80), ratio(1, 0.5, 2)
    rows = [
        *(("KL", "log", "a", ten), ("TV", "log", "a", ten)),
        *(("KL", "linear", "a", more), ("TV", "linear", "a", none)),
    ]
    table = pd.DataFrame(rows, columns=["distance", "error", "corpus", "exponential"])
    assert claims.extrapolation.rule(table) == "reproduced"
    for other, word in ((more, "partly"), (none, "not reproduced")):
        table.at[1, "exponential"] = other
        assert claims.extrapolation.rule(table) == word


def power_curve(alpha: float = 0.6, n_documents: int = 8, seed: int = 0) -> fit.Curve:
    return noisy_curve(lambda w: exact_curve(alpha, 2560, w), n_documents, seed, spread=0.1)


@pytest.mark.parametrize(
    ("law", "word"),
    [
        (lambda w: np.exp(-w / 60), "not reproduced"),
        (lambda w: np.exp(-2 * (w / 64) ** 0.3), "reproduced"),  # bent: the power law misses too
        (lambda w: w**-0.6, "partly"),  # an exact power law: the exponential loses by far more
    ],
)
def test_studies_of_each_kind_get_their_word(law, word):
    curves = {"KL": {("m", "c"): noisy_curve(law, spread=0.1)}}
    assert claims.extrapolation.rule(claims.extrapolation.factors(curves)) == word


def test_a_study_at_the_floor_is_reproduced_about_half_of_the_time():
    """Ratios scatter evenly around √10 in the logarithm: of 200, 70 to 130 lie above it; else
    with probability 2e-5."""
    drawn = 10**0.5 * np.exp(np.random.default_rng(0).normal(0, 0.2, 200))
    words = [claims.extrapolation.reading(tables_of(ratio(x, x / 1.5, 1.5 * x))) for x in drawn]
    assert set(words) == {"reproduced", "partly"} and 70 <= words.count("reproduced") <= 130


def test_at_equal_errors_the_exponential_is_surely_worse_in_one_study_of_forty():
    item, rng = ratio(1.0, 0.8, 1.25), np.random.default_rng(7)
    words = [
        claims.extrapolation.reading(tables_of(fit.drawn(item, 1.0, rng, log=True)))
        for _ in range(1000)
    ]
    assert 10 < 1000 - words.count("not reproduced") < 45


def test_studies_bent_otherwise_are_judged_by_the_same_rule():
    curves = {
        "KL": {("m", "c"): power_curve(n_documents=12)},
        "TV": {("m", "c"): power_curve(0.3, n_documents=12)},
    }
    found = claims.extrapolation.had_it_been(curves, n=3).set_index("b")
    words = ["reproduced", "partly", "not reproduced"]
    np.testing.assert_allclose(found[words].sum(axis=1), 1)
    assert found.loc[1.0, "not reproduced"] == 1 and found.loc[1.0, "KL"] < 1
    said = claims.extrapolation.power(found.reset_index())
    assert "Of 3 simulated" in said and said.endswith("1 gives not reproduced 100%.")


def miss(data: fit.Curve, doc_means: np.ndarray, x: np.ndarray) -> float:
    """RMSE of log D beyond 64 tokens of a straight line in x fitted up to there, by polyfit."""
    mean, n = doc_means.mean(axis=0), len(doc_means)
    error = doc_means.std(axis=0, ddof=1) / np.sqrt(n) / mean
    near = data.last <= 64
    line = np.polyfit(x[near], np.log(mean)[near], 1, w=1 / error[near])
    return np.sqrt(np.mean((np.polyval(line, x) - np.log(mean))[~near] ** 2))


def test_the_mean_factor_over_tables_is_that_of_polyfit_and_a_jackknife_by_hand():
    curves = {("m", str(k)): power_curve(0.4 + 0.3 * k, seed=k) for k in range(2)}
    logs, halves = [], []
    for data in curves.values():
        data = data.between(claims.claim.MIN_WINDOW)
        docs = data.doc_means
        samples = [docs, *(np.delete(docs, k, axis=0) for k in range(len(docs)))]
        tries = [
            np.log(miss(data, s, data.window) / miss(data, s, np.log(data.window))) for s in samples
        ]
        spread = np.sqrt((len(docs) - 1) * np.mean((tries[1:] - np.mean(tries[1:])) ** 2))
        logs.append(tries[0])
        halves.append(2.364624 * spread)  # Student's t, seven degrees of freedom
    middle, half = np.mean(logs), np.hypot(*halves) / 2
    factors = [claims.extrapolation.factor(data) for data in curves.values()]
    found = claims.extrapolation.mean_factor(tables_of(*factors, texts=1))
    by_hand = np.exp([middle, middle - half, middle + half])
    np.testing.assert_allclose([found.value, found.low, found.high], by_hand, rtol=1e-5)


def test_the_mean_factor_over_texts_is_that_of_their_means_with_the_interval_of_texts():
    rows = tables_of(*(ratio(x, x / 2, 2 * x) for x in (4, 9, 16, 25)), texts=2)
    logs = np.log([8, 15])  # of two texts, each read by two models
    found = claims.extrapolation.mean_factor(rows)
    half = 12.706205 * np.std(logs, ddof=1) / np.sqrt(2)  # Student's t, one degree of freedom
    by_hand = np.exp([logs.mean(), logs.mean() - half, logs.mean() + half])
    np.testing.assert_allclose([found.value, found.low, found.high], by_hand, rtol=1e-5)
    assert found.n_documents == 2


def test_a_duel_of_two_rivals_is_the_ratio_of_their_errors():
    curves = {("m", "c"): power_curve()}
    (duel,) = claims.extrapolation.duels(curves)
    rows = claims.extrapolation.contests(curves).iloc[0]
    assert duel.value == pytest.approx(rows["stretched"].value / rows["finite"].value)


def test_facts_take_in_tables_of_a_new_model_and_text():
    curves = {("m", "c"): power_curve(), ("a new model", "a new text"): power_curve(0.9, 6, 1)}
    rows = claims.extrapolation.contests(curves)
    rows["stretched / finite"] = claims.extrapolation.duels(curves)
    found = claims.extrapolation.factors({"KL": curves})
    means = claims.extrapolation.summary(found)
    other = claims.extrapolation.had_it_been({"KL": curves, "TV": curves}, n=1)
    facts = claims.extrapolation.facts(curves, rows, found, means, other)
    assert (facts["n-tables"], facts["n-docs"]) == ("2", "6")
