"""C10, C11 and C12: on made-up rows whose law is known, the rules say what is so."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from studies import estimates, finite, rows_of, suffix_rows

from kvlib import claims, fit, store
from kvlib.fit import Estimate


def exponential(w):
    """A law that falls by a factor of e in 150 tokens."""
    return 2.0 * np.exp(-np.asarray(w) / 150)


def floor(w):
    """A law that falls to half a nat and stays there."""
    return finite(0.6)(w) + 0.5


def both_policies(law, protocol="online", docs=8, spread=0.02, seed=0) -> pd.DataFrame:
    """Rows of both recency policies that follow a law of the tokens kept besides sinks."""
    kept = claims.policy_rows.kept
    parts = [
        rows_of(lambda b, p=p: law(kept(p, b)), p, protocol, docs, spread, seed)
        for p in claims.policy_rows.RECENCY
    ]
    return pd.concat(parts, ignore_index=True)


def test_the_law_of_suffixes_foretells_a_policy_that_follows_it():
    rows = rows_of(lambda b: finite(0.6)(b - 4), "sinks", spread=0.01)
    found = claims.policy_laws.predictions(rows, {("m", "c"): suffix_rows(0.6)})
    near = found[found["budget"] <= 256]  # at the largest the references of the two differ
    assert len(near) == 3 and all(0.9 < item.value < 1.1 for item in near["factor"])
    floor = rows_of(lambda b: finite(0.6)(b) + 0.5, "sliding", spread=0.01)
    found = claims.policy_laws.predictions(floor, {("m", "c"): suffix_rows(0.6)})
    assert found["factor"].iloc[-1].low > 5


def test_the_law_in_the_budget_counts_sinks_and_the_law_of_the_window_does_not():
    rows = rows_of(lambda b: 1 / b, "sinks")
    assert claims.policy_rows.curve(rows).window[0] == 12
    assert claims.policy_rows.curve(rows, besides_sinks=False).window[0] == 16


# --- C10 ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suffix", "policy", "word"),
    [
        (finite(0.6), finite(0.6), "reproduced"),
        (finite(0.6), floor, "not reproduced"),  # another law, and far off
        (exponential, exponential, "not reproduced"),  # foretold, but not by a power law
    ],
)
def test_the_contest_gives_the_word_that_is_so_in_both_distances(suffix, policy, word):
    suffixes = {("m", "c"): suffix_rows(0.6, law=suffix)}
    table = claims.policy_laws.contests(both_policies(policy), suffixes)
    assert claims.policies.prediction_readings(table) == {"KL": word, "TV": word}
    assert claims.policies.prediction_rule(table) == word
    assert len(table) == 4 and set(table["documents"]) == {8}


def test_a_law_that_holds_for_one_policy_holds_partly():
    rows = both_policies(finite(0.6))
    rows = pd.concat([rows[rows["policy"] == "sinks"], rows_of(floor, "sliding")])
    table = claims.policy_laws.contests(rows, {("m", "c"): suffix_rows(0.6)})
    assert claims.policies.prediction_rule(table) == "partly"


def test_the_factor_of_a_contest_by_hand():
    """Fitted to windows of 8 to 64 alone, scored at each budget, sinks not counted."""
    rows, suffix = both_policies(finite(0.6), spread=0.1), suffix_rows(0.6)
    table = claims.policy_laws.contests(rows[rows["policy"] == "sinks"], {("m", "c"): suffix})
    data = fit.curve(suffix).between(8, 64)
    line = np.polyfit(np.log(data.window), np.log(data.mean), 1, w=np.sqrt(data.weights))
    means = rows[rows["policy"] == "sinks"].groupby("budget")["kl_nats"].mean()
    off = np.abs(np.log(means) - np.polyval(line, np.log(means.index - 4)))
    found = table[table["distance"] == "KL"]["power"].item()
    assert found.value == pytest.approx(np.exp(off.mean()), rel=1e-6)


def test_a_law_must_surely_be_near_and_the_exponential_surely_farther():
    cells = [
        ((1.1, 1.2, 1.4), (2, 3, 4), "holds"),
        ((1.1, 1.4, 1.6), (2, 3, 4), "undecided"),
        ((1.6, 2, 3), (2, 3, 4), "fails"),
        ((1.1, 1.2, 1.4), (0.9, 1.5, 4), "undecided"),
        ((1.1, 1.2, 1.4), (0.5, 0.7, 0.9), "fails"),
    ]
    law, lead, said = zip(*cells, strict=True)
    table = pd.DataFrame({"law": estimates(*law), "lead": estimates(*lead)})
    assert claims.policies.outcomes(table) == list(said)


def test_at_the_border_the_law_holds_as_often_as_an_interval_lies():
    """A law that misses by just FORETOLD: one study in forty says that it holds."""
    item, rng = Estimate(1.5, 1.3, 1.73, 16), np.random.default_rng(0)
    lead = estimates((2, 3, 4))
    made = [
        claims.policies.outcomes(
            pd.DataFrame({"law": [fit.drawn(item, 1.5, rng, log=True)], "lead": lead})
        )
        for _ in range(1000)
    ]
    assert 10 < made.count(["holds"]) < 45 and 10 < made.count(["fails"]) < 45


# --- C11 ------------------------------------------------------------------------------------------


def retention(ratio: float, protocol="online", docs=8, spread=0.05, seed=0):
    """Ratios and geometric means where random retention loses `ratio` times as much."""
    law = lambda w: 0.001 * finite(0.6)(w)  # noqa: E731
    rows = pd.concat(
        [
            both_policies(law, protocol, docs, spread, seed),
            rows_of(lambda b: ratio * law(b), "random", protocol, docs, spread, seed),
        ]
    )
    return (
        claims.policy_rows.by_distance(claims.policy_rows.ratios, rows, "random"),
        claims.policy_rows.by_distance(claims.policy_laws.mean_ratios, rows, "random"),
    )


@pytest.mark.parametrize(
    ("ratio", "word"),
    [(100, "reproduced"), (20, "partly"), (4, "not reproduced"), (1000, "partly")],
)
def test_a_hundredfold_a_twentyfold_and_a_fourfold_get_their_words(ratio, word):
    tables = retention(ratio)
    readings = claims.policies.retention_readings(*tables)
    assert readings["online, KL"] == word == claims.policies.retention_rule(*tables)
    assert readings["online, TV"] == ("partly" if ratio == 1000 else "not reproduced")


def test_the_verdict_on_retention_is_the_least_favourable_protocol():
    tables = [pd.concat(both) for both in zip(retention(4), retention(100, "prefill"), strict=True)]
    readings = claims.policies.retention_readings(*tables)
    assert readings["prefill, KL"] == "reproduced"
    assert claims.policies.retention_rule(*tables) == "not reproduced"


def test_one_sure_ratio_among_thirty_is_none():
    """Surely above ten by itself, not when all thirty count as tries."""
    one, others = (11, 22, 44), (1, 2, 4)
    alone = pd.DataFrame({"ratio": estimates(one)})
    many = pd.DataFrame({"ratio": estimates(one, *[others] * 29)})
    assert claims.policies.surely_tenfold(alone) == [True]
    assert not any(claims.policies.surely_tenfold(many))


def test_at_the_border_any_of_thirty_is_tenfold_no_oftener_than_once_in_forty():
    rng = np.random.default_rng(3)
    item = Estimate(10.0, 7.0, 100 / 7, 16)

    def study() -> bool:
        made = [fit.drawn(item, 10, rng, log=True) for _ in range(30)]
        return any(claims.policies.surely_tenfold(pd.DataFrame({"ratio": made})))

    assert sum(study() for _ in range(400)) < 22  # 10 expected


def test_a_geometric_mean_is_that_of_the_ratios_and_leaves_documents_out_of_all():
    ratio, means = retention(20, spread=0.3)
    ours = means[(means["policy"] == "sinks") & (means["distance"] == "KL")]
    parts = ratio[(ratio["policy"] == "sinks") & (ratio["distance"] == "KL")]["ratio"]
    overall = claims.policy_laws.over_tables(ours)
    assert overall.value == pytest.approx(fit.geometric_mean(parts))
    item = ours["ratio"].item()
    assert (overall.low, overall.high) == pytest.approx((item.low, item.high))


def test_two_tables_have_half_the_variance_of_one():
    item = Estimate(20.0, 10.0, 40.0, 16)
    two = pd.DataFrame({"budgets": [5, 5], "ratio": [item, item]})
    overall = claims.policy_laws.over_tables(two)
    assert overall.value == pytest.approx(20)
    assert np.log(overall.high / 20) == pytest.approx(np.log(2) / np.sqrt(2))


# --- C12 ------------------------------------------------------------------------------------------


def over_budgets(law, docs=8, spread=0.02) -> pd.DataFrame:
    parts = [rows_of(law, policy, "online", docs, spread) for policy in claims.policy_rows.RECENCY]
    return claims.policy_laws.budget_laws(pd.concat(parts))


@pytest.mark.parametrize(
    ("law", "word"),
    [
        (finite(0.6), "reproduced"),
        (floor, "partly"),  # slower than geometric, and no power law
        (lambda b: 2.0 * np.exp(-b / 300), "not reproduced"),
    ],
)
def test_the_bend_in_the_budget_gives_the_word_that_is_so(law, word):
    laws = over_budgets(law)
    assert claims.policies.law_readings(laws) == {"online, KL": word, "online, TV": word}
    assert claims.policies.law_rule(laws) == word


def test_what_a_power_law_needs_of_its_bend():
    is_one = claims.policies.is_power_law
    zero, steep, low, wide = estimates(
        (0, 0, 0.1), (0.1, 0.2, 0.25), (-0.3, -0.2, -0.1), (0, 0, 0.4)
    )
    (free,) = estimates((-0.1, 0.1, 0.2))
    assert is_one(free, zero)
    assert not is_one(free, steep) and not is_one(low, zero) and not is_one(free, wide)


def test_at_the_border_a_small_bend_is_a_power_law_in_one_curve_of_forty():
    rng, item = np.random.default_rng(12), Estimate(0.0, -0.35, 0.35, 16)
    (free,) = estimates((0, 0.1, 0.2))
    made = [fit.drawn(item, claims.claim.SMALL_BEND, rng) for _ in range(1000)]
    assert 10 < sum(claims.policies.is_power_law(free, one) for one in made) < 45


def test_a_power_law_is_taken_for_a_floor_in_one_curve_of_forty():
    rng, item = np.random.default_rng(13), Estimate(0.0, -0.1, 0.1, 16)
    (zero,) = estimates((0, 0, 0.1))
    made = [fit.drawn(item, 0.0, rng) for _ in range(1000)]
    assert 10 < sum(not claims.policies.is_power_law(one, zero) for one in made) < 45


def test_at_the_border_an_exponential_is_not_geometric_no_oftener_than_once_in_forty():
    rng, item = np.random.default_rng(4), Estimate(1.0, 0.8, 1.2, 16)

    def study() -> bool:
        made = [fit.drawn(item, 1.0, rng) for _ in range(10)]
        return any(claims.policies.surely_not_geometric(pd.DataFrame({"b": made})))

    assert sum(study() for _ in range(400)) < 22  # 10 expected


# --- all three ------------------------------------------------------------------------------------


def test_sentences_carry_intervals_and_documents():
    table = claims.policy_laws.contests(both_policies(finite(0.6)), {("m", "c"): suffix_rows(0.6)})
    said = claims.policies.prediction_sentence(table)
    assert "KL, 4 sinks + recent: 1" in said and "holds on 1 of 1" in said
    ratio, means = retention(20)
    assert "online: sliding window 2" in claims.policies.retention_sentence(ratio, means)
    bent = claims.policies.law_sentence(over_budgets(finite(0.6)))
    assert "TV, online:" in bent and "not geometric 2 of 2, a power law 2 of 2" in bent
    for text in (said, claims.policies.retention_sentence(ratio, means), bent):
        assert text.endswith("8 or more documents each")


def test_without_a_measurement_a_verdict_is_to_come(tmp_path):
    names = ["distance", "protocol", "policy", "law", "lead", "ratio", "b", "bracket", "budgets"]
    nothing = pd.DataFrame({name: pd.Series(dtype=object) for name in names})
    assert claims.policies.prediction_rule(nothing) == "to come"
    assert claims.policies.retention_rule(nothing, nothing) == "to come"
    assert claims.policies.law_rule(nothing) == "to come"
    assert {item.word for item in claims.policies.judge(tmp_path)} == {"to come"}


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
