"""C2: the rule on studies that deserve each of its words, and facts that follow any tables."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from studies import exact_curve, noisy_curve

from kvlib import claims, fit, store
from kvlib.fit import studies
from kvlib.fit.bent import box_cox

WINDOWS = np.unique(np.round(2 ** np.arange(3, 10.01, 0.25)).astype(int))
CONTEXTS = np.linspace(2048, 3072, 32)
KEYS = ("m", "a text"), ("m", "another")


def judged(*tables: tuple[bool, float, float], texts: int = 5) -> pd.DataFrame:
    """Rows of `bends` from (not geometric, b, half its interval), a table each."""
    items = [fit.Estimate(b, b - half, b + half, 24) for _, b, half in tables]
    return pd.DataFrame(
        {
            "distance": "KL",
            "corpus": [f"text {k % texts}" for k in range(len(tables))],
            "reference": items,
            "not geometric": [flag for flag, *_ in tables],
            "power law": [claims.sensitivity.is_power_law(x.low, x.high) for x in items],
        }
    )


STRAIGHT = (True, 0.02, 0.2)


@pytest.mark.parametrize(
    ("tables", "expected", "alone"),
    [
        ([STRAIGHT] * 20, "reproduced", "reproduced"),
        ([STRAIGHT] * 19 + [(True, 0.02, 0.5)], "reproduced", "partly"),  # one is not precise
        ([STRAIGHT] * 19 + [(True, 0.22, 0.2)], "reproduced", "partly"),  # one, by chance
        ([STRAIGHT] * 19 + [(True, 0.22, 0.05)], "partly", "partly"),  # one, surely
        ([(True, 0.5, 0.6)] * 20, "partly", "partly"),  # none surely, all together
        ([STRAIGHT] * 19 + [(False, 0.5, 1.0)], "not reproduced", "not reproduced"),
    ],
)
def test_the_rule_takes_tables_together_and_a_reading_each_alone(tables, expected, alone):
    rows = judged(*tables)
    assert claims.sensitivity.rule(rows) == expected
    readings = {"KL": expected, claims.sensitivity.ALONE: alone}
    assert claims.sensitivity.readings(rows) == readings


def test_a_single_text_has_the_widest_interval_of_its_tables():
    rows = judged((True, 0.1, 0.1), (True, 0.0, 0.3), texts=1)
    found = claims.sensitivity.mean_bend(rows)
    assert (found.value, found.low, found.high) == pytest.approx((0.05, -0.3, 0.3))


@pytest.mark.parametrize(
    ("plain_high", "low", "high", "not_geometric", "power_law"),
    [
        (0.2, -0.1, 0.1, True, True),
        (0.2, 0.0009, 0.1, True, True),  # zero, as far as it is fitted
        (0.2, 0.05, 0.1, True, False),  # surely bent
        (0.2, -0.1, 0.31, True, False),  # not surely small
        (1.1, -0.1, 0.1, False, True),  # only with the bracket
        (0.9, 0.5, 1.2, False, False),  # only without
    ],
)
def test_what_an_interval_of_the_bend_says(plain_high, low, high, not_geometric, power_law):
    assert claims.sensitivity.is_not_geometric(plain_high, high) == not_geometric
    assert claims.sensitivity.is_power_law(low, high) == power_law


def test_the_rule_as_printed_names_its_constant():
    assert f"below {claims.claim.SMALL_BEND}" in claims.claim.rule_text(claims.sensitivity.rule)


def bent_curve(b: float, seed: int, docs: int = 24) -> fit.Curve:
    """A study of a law with that bend and a finite reference, little scatter."""
    near, far = (np.exp(-0.6 * box_cox(x / 64, b)) for x in (WINDOWS + 1.0, CONTEXTS + 1.0))
    scatter = np.random.default_rng(seed).normal(0, 0.06, (docs, len(WINDOWS)))
    doc_means = (near - far.mean()) * np.exp(scatter)
    return fit.Curve(WINDOWS, WINDOWS, WINDOWS, doc_means, CONTEXTS, docs, docs)


@pytest.mark.parametrize(
    ("b", "word"), [(0.0, "reproduced"), (0.5, "partly"), (1.0, "not reproduced")]
)
def test_studies_of_each_truth_get_their_word(b, word):
    """Of little scatter, so that power is one; at b = 1 an interval ends below the truth in 2.5%
    of tables: the seed is one where none of four does."""
    curves = {
        "KL": {key: bent_curve(b, seed) for seed, key in enumerate(KEYS)},
        "TV": {
            key: replace(one, doc_means=np.sqrt(one.doc_means))
            for key, one in zip(KEYS, (bent_curve(b, seed) for seed in (2, 3)), strict=True)
        },
    }
    rows = claims.sensitivity.bends(curves, (8,))
    assert claims.sensitivity.rule(rows) == word
    said = claims.sensitivity.readings(rows)
    assert said == {"KL": word, "TV": word, claims.sensitivity.ALONE: word}


def test_at_the_border_geometric_is_excluded_at_about_the_stated_rate():
    """At b = 1 a 95% interval ends below the truth in 2.5% of studies; of 120, more than 11 would
    do so with probability 2e-5."""
    data = bent_curve(1.0, 0)
    expected = studies.expectation(data, 1.0, bracket=False)
    drawn = studies.studies(data, expected, 120, seed=1)
    assert sum(fit.bend(one).first.high < 1 for one in drawn) <= 11


@pytest.mark.parametrize(("truth", "half", "word"), [(0.3, 0.35, True), (0.0, 0.1, False)])
def test_at_the_borders_a_power_law_is_said_and_denied_in_one_table_of_forty(truth, half, word):
    """A bend of SMALL_BEND is surely below it, and one of zero surely above zero, by chance."""
    item, rng = fit.Estimate(0.0, -half, half, 24), np.random.default_rng(11)
    made = [fit.drawn(item, truth, rng) for _ in range(1000)]
    said = [claims.sensitivity.is_power_law(one.low, one.high) for one in made]
    assert 10 < said.count(word) < 45


def made_up(truths: dict[float, tuple[float, float]], n: int = 4) -> pd.DataFrame:
    """Rows of simulated studies on two tables: truth → the interval that each fit gives."""
    rows = [
        (*key, distance, bracket, truth, study, (low + high) / 2, low, high, 24)
        for key in KEYS
        for distance in ("kl_nats", "tv")
        for bracket in (False, True)
        for truth, (low, high) in truths.items()
        for study in range(n)
    ]
    names = ["model", "corpus", "distance", "bracket", "truth", "study"]
    names += ["b", "low", "high", "documents"]
    return pd.DataFrame(rows, columns=names)


def test_each_word_is_counted_over_whole_simulated_studies():
    table = made_up({0.0: (-0.1, 0.1), 0.3: (0.1, 0.5), 1.0: (0.8, 1.2)})
    odd = (table["truth"] == 0) & (table["study"] == 0) & (table["corpus"] == KEYS[0][1])
    table.loc[odd, ["b", "low"]] = 0.09, 0.08  # one table of one study surely leaves zero
    found = claims.sensitivity.had_it_been(table).set_index("b")
    assert found["studies"].tolist() == [4, 4, 4]
    assert found.loc[0.0, ["reproduced", "partly"]].tolist() == [0.75, 0.25]
    assert found.loc[0.0, ["power law", "coverage"]].tolist() == [7 / 8, 7 / 8]
    assert found.loc[0.3, "partly"] == found.loc[1.0, "not reproduced"] == 1
    assert found.loc[1.0, "not geometric"] == 0


def test_without_simulated_studies_the_page_says_how_to_make_them(tmp_path):
    none = claims.sensitivity.had_it_been(claims.sensitivity.simulated(tmp_path))
    assert none.empty
    (said,) = claims.sensitivity._power_facts(none).values()
    assert "kvlib study bends" in said


def test_an_exponent_of_texts_is_the_mean_over_models_and_then_texts():
    rows = pd.DataFrame(
        {
            "corpus": ["a", "a", "b", "c"],
            "x": [fit.Estimate(v, v, v, 24) for v in (0.4, 0.6, 0.7, 0.9)],
        }
    )
    found = claims.sensitivity.of_texts(rows, "x")
    assert (found.value, found.n_documents) == (pytest.approx(0.7), 3)
    assert found.high - found.value == pytest.approx(4.302653 * 0.2 / np.sqrt(3))  # t, two degrees


def test_the_root_law_gives_the_exponent_of_tv_back():
    kl = bent_curve(0.0, 0)
    tv = replace(kl, doc_means=0.3 * np.sqrt(kl.doc_means))
    row = claims.sensitivity.exponents({"KL": {("m", "c"): kl}, "TV": {("m", "c"): tv}}).iloc[0]
    assert row["KL, corrected"].value == pytest.approx(0.6, abs=0.05)
    assert row["TV, root law"].value == pytest.approx(row["KL, corrected"].value / 2, abs=0.02)
    assert row["TV, plain"].value > row["TV, root law"].value  # the bend near the end


def test_a_drift_is_the_largest_move_between_starting_points():
    exponents = {"naive ≥ 2": [0.5, 0.9], "naive ≥ 33": [0.8, 0.7], "corrected ≥ 2": [0.1, 0.1]}
    drift = pd.DataFrame(exponents).map(lambda value: fit.Estimate(value, 0, 1, 24))
    np.testing.assert_allclose(claims.sensitivity.drifts(drift, "naive"), [0.3, 0.2])


def test_facts_take_in_tables_of_a_new_model_and_text():
    shown = noisy_curve(lambda w: exact_curve(0.6, 2560, w))
    other = noisy_curve(lambda w: exact_curve(0.9, 2560, w), n_documents=9, seed=1)
    curves = {claims.sensitivity.SHOWN: shown, ("a new model", "a new text"): other}
    roots = {key: replace(one, doc_means=np.sqrt(one.doc_means)) for key, one in curves.items()}
    path = store.stored("diagnostics")[claims.sensitivity.SHOWN]
    both = {"KL": curves, "TV": roots}
    facts = claims.sensitivity.facts(
        both,
        claims.sensitivity.bends(both),
        claims.sensitivity.exponents(both),
        claims.sensitivity.decay(curves),
        claims.sensitivity.starting_points(curves, firsts=(9, 33)),
        fit.local_slopes(shown),
        claims.sensitivity.nested_summary(store.load_table(path)),
    )
    assert (facts["n-tables"], facts["n-docs"], facts["n-bible"]) == ("2", "9", "24")
    assert float(facts["highest"].split()[0]) == pytest.approx(0.9, abs=0.2)
    assert facts["not-geometric-tv"] == "2 of 2"


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
    tables = store.tables(study="sensitivity")
    models = {table.settings["model"] for table in tables}
    families = {table.model["family"] for table in tables}
    corpora = {table.settings["corpus"] for table in tables}
    assert len(models) >= 4 and len(families) >= 3 and len(corpora) >= 4
    for found in tables:
        table, most = found.load(), found.settings["max_window"]  # checks its SHA-256
        assert table["doc"].nunique() == found.manifest["documents"] >= 12
        again = table["window"] == table["context"]
        assert again.sum() == found.settings["twice"]
        table = table[~again]
        assert table["window"].min() == 1 and table["window"].max() == most
        assert (table["kl_nats"] > -1e-6).all()
        assert (table["context"] == table["position"] + 1).all()
        assert (table["context"] >= 2 * table["window"]).all()
