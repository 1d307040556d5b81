"""C2: the rule both ways, and facts that follow any tables."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from studies import exact_curve, noisy_curve

from kvlib import claims, fit, store


def ratio(value, low, high):
    return fit.Estimate(value, low, high, 24)


@pytest.mark.parametrize(
    ("exponential", "stretched", "expected"),
    [
        (ratio(3, 2, 4), ratio(1.5, 1.1, 2), "reproduced"),
        (ratio(3, 2, 4), ratio(1.1, 0.9, 1.3), "partly"),
        (ratio(1.2, 0.9, 2), ratio(1.5, 1.1, 2), "not reproduced"),
    ],
)
def test_decay_is_reproduced_only_if_both_rivals_lose(exponential, stretched, expected):
    rows = pd.DataFrame({"exponential": [exponential], "stretched": [stretched]})
    assert claims.sensitivity.rule(rows) == expected


def test_geometric_sources_are_not_called_power_laws():
    curves = {("m", "c"): noisy_curve(lambda w: np.exp(-w / 60), spread=0.1)}
    assert claims.sensitivity.rule(claims.sensitivity.decay(curves)) == "not reproduced"


def test_power_law_sources_pass_against_the_exponential():
    curves = {("m", "c"): noisy_curve(lambda w: exact_curve(0.6, 2560, w), spread=0.1)}
    word = claims.sensitivity.rule(claims.sensitivity.decay(curves))
    assert word in ("reproduced", "partly")


def test_a_drift_is_the_largest_move_between_starting_points():
    exponents = {"naive ≥ 2": [0.5, 0.9], "naive ≥ 33": [0.8, 0.7], "corrected ≥ 2": [0.1, 0.1]}
    drift = pd.DataFrame(exponents).map(lambda value: fit.Estimate(value, 0, 1, 24))
    np.testing.assert_allclose(claims.sensitivity.drifts(drift, "naive"), [0.3, 0.2])


def test_facts_take_in_tables_of_a_new_model_and_text():
    shown = noisy_curve(lambda w: exact_curve(0.6, 2560, w))
    other = noisy_curve(lambda w: exact_curve(0.9, 2560, w), n_documents=9, seed=1)
    curves = {claims.sensitivity.SHOWN: shown, ("a new model", "a new text"): other}
    path = store.stored("diagnostics")[claims.sensitivity.SHOWN]
    facts = claims.sensitivity.facts(
        curves,
        claims.sensitivity.decay(curves),
        claims.sensitivity.starting_points(curves, firsts=(9, 33)),
        fit.local_slopes(shown),
        claims.sensitivity.nested_summary(store.load_table(path)),
    )
    assert (facts["n-tables"], facts["n-docs"], facts["n-bible"]) == ("2", "9", "24")
    assert float(facts["highest"].split()[0]) == pytest.approx(0.9, abs=0.2)


def table_of(full_short, full_long, long_short, log_ratio, documents=6):
    """Documents that agree but for a little noise of their own."""
    rng = np.random.default_rng(0)
    columns = {
        "full_short": full_short,
        "full_long": full_long,
        "long_short": long_short,
        "log_ratio": log_ratio,
    }
    noise = rng.normal(0, 1e-3, (documents, 4))
    table = pd.DataFrame({name: value for name, value in columns.items()}, index=range(documents))
    return (table + noise).assign(doc=range(documents), position=7)


def test_nested_bayes_predictors_have_no_defect():
    found = claims.sensitivity.nested_summary(table_of(0.5, 0.2, 0.3, 0.5))
    assert all(abs(defect.value) < 0.005 for defect in found["defect"])  # noise of 0.001


def test_a_predictor_that_is_not_nested_is_noticed():
    found = claims.sensitivity.nested_summary(table_of(0.5, 0.2, 0.4, 0.7))
    assert found.loc["Pythagoras", "defect"].high < 0
    assert found.loc["data check", "defect"].low > 0


def test_the_stored_tables_are_whole_and_large_enough():
    tables = store.stored("sensitivity")
    assert {corpus for model, corpus in tables if model.startswith("smollm2")} == {
        "world-english-bible",
        "scipy-docs",
        "sympy-code",
    }
    assert ("gemma3-270m", "world-english-bible") in tables
    for path in tables.values():
        table = store.load_table(path)  # checks its SHA-256
        assert table["doc"].nunique() >= 24
        assert set(table["window"]) == set(range(1, 1025))
        assert (table["kl_nats"] > -1e-6).all()
        assert (table["context"] == table["position"] + 1).all()
        assert (table["context"] >= 2 * table["window"]).all()
        top = table[table["window"] > 512]
        starts = (top["position"] - top["window"]).groupby(top["doc"]).nunique()
        assert (starts >= 3).all()
