"""C5: the rule both ways, and what the page takes from its tables, by hand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from kvlib import claims, fit


def table() -> pd.DataFrame:
    """Three documents, two targets each, with the old context cut and shuffled."""
    rows = [
        (doc, position, 64, variant, (1 + doc) * factor * (1 + position))
        for doc in range(3)
        for position in range(2)
        for variant, factor in (("restarted", 0.1), ("shuffled", 0.3))
    ]
    columns = ["doc", "position", "window", "variant", "kl_nats"]
    return pd.DataFrame(rows, columns=columns).sample(frac=1, random_state=0)


def test_divergences_are_means_of_documents_in_one_order():
    found = claims.positions.divergences_at(table(), 64)
    np.testing.assert_allclose(found["restarted"], [0.15, 0.3, 0.45])
    np.testing.assert_allclose(found["shuffled"], [0.45, 0.9, 1.35])


def test_shuffling_over_cutting_is_a_paired_ratio():
    """A ratio that is the same in every document has no width."""
    ratio = claims.positions.shuffling_over_cutting(table(), 64)
    np.testing.assert_allclose([ratio.low, ratio.value, ratio.high], 3)


def curve(mean: list[float]) -> fit.Curve:
    window = 2.0 ** np.arange(len(mean))
    return fit.Curve(
        window=window,
        first=window.astype(int),
        last=window.astype(int),
        doc_means=np.array([mean, mean]),
        contexts=np.array([1024.0]),
        n_pairs=1,
        n_starts=1,
    )


def test_a_floor_is_where_a_curve_stops_falling():
    assert claims.positions.floor_of(curve([1, 0.5, 0.2, 0.1, 0.1, 0.099])) == 8
    assert claims.positions.floor_of(curve([1, 0.5, 0.25, 0.12, 0.06, 0.03])) is None


def test_the_stored_tables_give_the_verdict_and_cover_all_three_models():
    tables = claims.positions.stored_positions()
    assert set(tables) == {claims.positions.SMALL, *claims.positions.ROPE}
    assert tables[claims.positions.SMALL]["doc"].nunique() >= 24
    (judged,) = claims.positions.judge()
    word, figure = judged.word, judged.sentence
    assert word in ("reproduced", "partly", "not reproduced") and "nats" in figure


def test_without_tables_the_verdict_is_to_come(tmp_path):
    assert claims.positions.judge(tmp_path)[0].word == "to come"


def test_an_exponent_and_its_difference_by_hand():
    windows = 2.0 ** np.arange(10)
    parts = []
    for doc in range(6):
        for variant, alpha in (("restarted", 0.5), ("kept", 0.8)):
            value = (windows + 1) ** -alpha - 1024.0**-alpha
            parts.append(
                pd.DataFrame(
                    {
                        **{"doc": doc, "position": 1022, "context": 1023, "window": windows},
                        **{"variant": variant, "kl_nats": value * (1 + 0.01 * doc)},
                        "tv": np.sqrt(value) * (1 + 0.01 * doc) / 10,
                    }
                ).astype({"window": int})
            )
    found = claims.positions.exponents(pd.concat(parts)).set_index("variant")
    assert found.loc["kept", "difference"].value == pytest.approx(0.3, abs=0.01)
    kept = claims.positions.kept_rows(pd.concat(parts))
    assert kept["KL"]["difference"] == found.loc["kept", "difference"]
    assert kept["TV"]["difference"].value == pytest.approx(0.15, abs=0.01)  # the root's is half


def kept_row(exponent: float, exponential: float, difference: float) -> pd.Series:
    """A row of `exponents` whose intervals reach 0.05 to either side."""
    values = {"exponent": exponent, "exponential": exponential, "difference": difference}
    return pd.Series({k: fit.Estimate(v, v - 0.05, v + 0.05, 24) for k, v in values.items()})


@pytest.mark.parametrize(
    ("moved_nats", "exponent", "exponential", "difference", "word"),
    [
        (1e-8, 0.6, 2.0, 0.01, "reproduced"),
        (1e-8, 0.6, 2.0, 0.08, "partly"),  # closer than the margin, but not interval and all
        (1e-8, 0.6, 2.0, -0.4, "partly"),
        (1e-2, 0.6, 2.0, 0.01, "not reproduced"),  # the origin matters
        (1e-8, 0.03, 2.0, 0.01, "not reproduced"),  # no decay
        (1e-8, 0.6, 1.03, 0.01, "not reproduced"),  # an exponential does as well
    ],
)
def test_the_rule_of_c5_both_ways(moved_nats, exponent, exponential, difference, word):
    row = kept_row(exponent, exponential, difference)
    assert claims.positions.rule(moved_nats, {"KL": row, "TV": row}) == word


def test_each_kind_of_position_has_its_word_and_the_claim_the_weaker_one():
    same, other = kept_row(0.6, 2.0, 0.01), kept_row(0.6, 2.0, 0.4)
    said = claims.positions.readings(1e-8, {"KL": same, "TV": other})
    assert said == {
        "rotary positions": "definition checked",
        "learned positions, KL": "reproduced",
        "learned positions, TV": "partly",
    }
    assert claims.positions.rule(1e-8, {"KL": same, "TV": other}) == "partly"
    assert claims.positions.rotary(1e-2) == "not reproduced"


@pytest.mark.parametrize(
    ("differs", "rival", "word"),
    [
        (fit.MARGIN, 3.0, "reproduced"),  # closer, interval and all, in one study of forty
        (0.0, 1.0, "partly"),  # surely slower than an exponential, in one of forty
    ],
)
def test_at_the_border_learned_positions_get_a_word_as_often_as_stated(differs, rival, word):
    rng = np.random.default_rng(6)
    row = {
        "exponent": (fit.Estimate(0.6, 0.5, 0.7, 24), 0.6, False),
        "difference": (fit.Estimate(0.0, -0.02, 0.02, 24), differs, False),
        "exponential": (fit.Estimate(3.0, 2.5, 3.6, 24), rival, True),
    }
    said = []
    for _ in range(1000):
        made = {name: fit.drawn(item, at, rng, log) for name, (item, at, log) in row.items()}
        said.append(claims.positions.learned(pd.Series(made)))
    also = "reproduced" if word == "partly" else word  # a difference of none is surely small
    assert 10 < said.count(also) < 45


def test_studies_that_might_have_been_follow_their_truth():
    row = kept_row(0.6, 2.0, 0.01)
    found = claims.positions.had_it_been({"KL": row}, n=40).set_index("truth")
    assert found.loc[0.0, "reproduced"] > 0.8 < found.loc[4 * fit.MARGIN, "partly"]
    assert found.loc["an exponential", "not reproduced"] > 0.85
    said = claims.positions.power(found.reset_index()[["distance", "truth", *claims.chances.WORDS]])
    assert "0.4 gives KL partly 100%" in said and "an exponential gives KL not repr" in said


def simulated(own: Callable, seed: int = 0) -> pd.DataFrame:
    """Rows of 24 documents whose suffix decays as w^-0.6 restarted and as `own` at its own
    positions, with five percent of scatter."""
    rng, parts = np.random.default_rng(seed), []
    windows = np.unique(np.round(2 ** np.arange(3, 9.01, 0.5)).astype(int))
    for doc in range(24):
        for variant, law in (("restarted", lambda w: w**-0.6), ("kept", own)):
            value = law(windows.astype(float)) * np.exp(rng.normal(0, 0.05, len(windows)))
            columns = {"doc": doc, "position": 10**6, "context": 10**6, "window": windows}
            columns |= {"variant": variant, "kl_nats": value, "tv": np.sqrt(value) / 3}
            parts.append(pd.DataFrame(columns))
    return pd.concat(parts)


@pytest.mark.parametrize(
    ("own", "word"),
    [
        (lambda w: 2 * w**-0.6, "reproduced"),
        (lambda w: 2 * w**-1.0, "partly"),
        (lambda w: np.exp(-w / 40), "not reproduced"),
        (lambda w: 0.1 + 0 * w, "not reproduced"),
    ],
)
def test_simulated_models_with_learned_positions_get_their_word(own, word):
    kept = claims.positions.kept_rows(simulated(own))
    assert claims.positions.rule(1e-8, kept) == word
