"""C3: the rule both ways, its mean ratio by a second route, facts that follow any tables."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from studies import exact_curve, noisy_curve

from kvlib import claims, fit


def ratio(value, low, high):
    return fit.Estimate(value, low, high, 24)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (ratio(10, 5, 20), ratio(4, 2, 8), "reproduced"),
        (ratio(2, 1.5, 3), ratio(3, 2, 4), "partly"),
        (ratio(20, 5, 50), ratio(1.5, 0.8, 4), "not reproduced"),
    ],
)
def test_extrapolation_needs_an_order_of_magnitude_on_every_table(first, second, expected):
    rows = pd.DataFrame({"exponential": [first, second]})
    assert claims.extrapolation.rule(rows) == expected


def power_curve(alpha: float = 0.6, n_documents: int = 8, seed: int = 0) -> fit.Curve:
    return noisy_curve(lambda w: exact_curve(alpha, 2560, w), n_documents, seed, spread=0.1)


def test_on_geometric_sources_the_power_law_foretells_no_better():
    curves = {("m", "c"): noisy_curve(lambda w: np.exp(-w / 60), spread=0.1)}
    assert claims.extrapolation.rule(claims.extrapolation.contests(curves)) == "not reproduced"


def test_on_power_law_sources_it_foretells_ten_times_better():
    rows = claims.extrapolation.contests({("m", "c"): power_curve(n_documents=24)})
    assert claims.extrapolation.rule(rows) == "reproduced"


def miss(data: fit.Curve, doc_means: np.ndarray, x: np.ndarray) -> float:
    """RMSE of log D beyond 64 tokens of a straight line in x fitted up to there, by polyfit."""
    mean, n = doc_means.mean(axis=0), len(doc_means)
    error = doc_means.std(axis=0, ddof=1) / np.sqrt(n) / mean
    near = data.last <= 64
    line = np.polyfit(x[near], np.log(mean)[near], 1, w=1 / error[near])
    return np.sqrt(np.mean((np.polyval(line, x) - np.log(mean))[~near] ** 2))


def test_the_mean_ratio_over_tables_is_that_of_polyfit_and_a_jackknife_by_hand():
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
    found = claims.extrapolation.mean_ratio(curves)
    by_hand = np.exp([middle, middle - half, middle + half])
    np.testing.assert_allclose([found.value, found.low, found.high], by_hand, rtol=1e-5)


def test_a_duel_of_two_rivals_is_the_ratio_of_their_errors():
    curves = {("m", "c"): power_curve()}
    (duel,) = claims.extrapolation.duels(curves)
    rows = claims.extrapolation.contests(curves).iloc[0]
    assert duel.value == pytest.approx(rows["stretched"].value / rows["finite"].value)


def test_facts_take_in_tables_of_a_new_model_and_text():
    curves = {("m", "c"): power_curve(), ("a new model", "a new text"): power_curve(0.9, 6, 1)}
    rows = claims.extrapolation.contests(curves)
    rows["stretched / finite"] = claims.extrapolation.duels(curves)
    facts = claims.extrapolation.facts(curves, rows)
    assert (facts["n-tables"], facts["n-docs"]) == ("2", "6")
