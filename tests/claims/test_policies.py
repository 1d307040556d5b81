"""From rows to figures: by hand, on made-up rows whose answer is known, and on the stored ones."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from kvlib import charts, claims, fit, store
from kvlib.fit import Estimate

RULES = {
    "sink": (claims.sink_recent.rule, claims.sink_recent.sentence),
    "prediction": (claims.policies.prediction_rule, claims.policies.prediction_sentence),
    "retention": (claims.policies.retention_rule, claims.policies.retention_sentence),
    "law": (claims.policies.law_rule, claims.policies.law_sentence),
}


def rows_of(
    law, policy: str, protocol: str = "online", docs: int = 8, spread: float = 0.05, seed: int = 0
) -> pd.DataFrame:
    """Rows whose document means scatter log-normally around `law(budget)`."""
    rng = np.random.default_rng([seed, *policy.encode()])
    position = np.arange(1024, 2048, 128)
    parts = []
    for doc in range(docs):
        factor = np.exp(spread * rng.standard_normal())
        for budget in (16, 64, 256, 512, 1024):
            noise = np.exp(spread * rng.standard_normal(len(position)))
            parts.append(
                pd.DataFrame(
                    {
                        **{"model": "m", "corpus": "c", "protocol": protocol, "policy": policy},
                        **{"budget": budget, "doc": doc, "position": position},
                        "kl_nats": law(budget) * factor * noise,
                        **{"top1_same": True, "nll_excess_nats": 0.0},
                    }
                )
            )
    return pd.concat(parts, ignore_index=True)


def suffix_rows(alpha: float, docs: int = 8) -> pd.DataFrame:
    """A truncation table whose law is C[(w+1)^-α - (T+1)^-α] with T = 1536."""
    parts = []
    for doc in range(docs):
        window = np.unique(np.geomspace(1, 1024, 60).astype(int))
        value = finite(alpha)(window) * np.exp(0.02 * np.sin(doc + window))
        parts.append(
            pd.DataFrame({"doc": doc, "position": 1535, "window": window, "kl_nats": value})
        )
    return pd.concat(parts, ignore_index=True).assign(context=1536)


def finite(alpha: float, contexts: float = 1536.0):
    return lambda w: 3.0 * ((np.asarray(w) + 1.0) ** -alpha - (contexts + 1.0) ** -alpha)


def test_a_mean_and_its_interval_are_the_delete_one_t_interval_of_the_logarithm():
    values = np.array([0.5, 1.0, 2.0, 0.7])
    found = fit.log_mean(values)
    left = np.log([np.delete(values, k).mean() for k in range(4)])
    half = stats.t.ppf(0.975, 3) * np.sqrt(3 / 4 * ((left - left.mean()) ** 2).sum())
    assert found.value == pytest.approx(values.mean())
    assert np.log(found.high) - np.log(found.value) == pytest.approx(half)


def test_a_ratio_is_paired_so_a_common_factor_leaves_it():
    below = np.array([0.5, 1.0, 2.0, 0.7])
    found = fit.log_ratio(3 * below, below)
    assert (found.low, found.value, found.high) == pytest.approx((3, 3, 3))


def test_ratios_compare_with_random_at_the_same_budget_and_protocol():
    rows = pd.concat(
        [
            rows_of(lambda b: 1 / b, "sinks"),
            rows_of(lambda b: 50 / b, "random"),
            rows_of(lambda b: 7 / b, "sinks", "prefill"),
        ]
    )
    found = claims.policy_rows.ratios(rows)
    assert set(found["protocol"]) == {"online"}  # nothing to compare with after the prefill
    assert sorted(found["budget"]) == [16, 64, 256, 512, 1024]
    assert all(item.low < 50 < item.high for item in found["ratio"])


def test_the_law_of_suffixes_foretells_a_policy_that_follows_it():
    rows = rows_of(lambda b: finite(0.6)(b - 4), "sinks", spread=0.01)
    found = claims.policies.predictions(rows, {("m", "c"): suffix_rows(0.6)})
    near = found[found["budget"] <= 256]  # at the largest the references of the two differ
    assert len(near) == 3 and all(0.9 < item.value < 1.1 for item in near["factor"])
    floor = rows_of(lambda b: finite(0.6)(b) + 0.5, "sliding", spread=0.01)
    found = claims.policies.predictions(floor, {("m", "c"): suffix_rows(0.6)})
    assert found["factor"].iloc[-1].low > 5


def test_equal_exponents_are_found_equal_and_others_not():
    suffix = {("m", "c"): suffix_rows(0.6)}
    for alpha, verdict in ((0.6, "reproduced"), (1.2, "not reproduced")):
        law = finite(alpha)
        rows = rows_of(lambda b, law=law: law(b - 4), "sinks", spread=0.01)
        same = claims.sink_recent.same_exponent(rows, suffix, "sinks", "online")
        assert same["difference"].iloc[0].value == pytest.approx(alpha - 0.6, abs=0.08)
        assert claims.sink_recent.rule(same) == verdict


def estimates(*triples) -> list[Estimate]:
    return [Estimate(value, low, high, 16) for low, value, high in triples]


@pytest.mark.parametrize(
    ("differences", "word"),
    [
        ([(-0.05, 0, 0.05)], "reproduced"),
        ([(-0.05, 0, 0.05), (-0.16, -0.09, -0.02)], "partly"),
        ([(-0.5, -0.4, -0.3), (0.2, 0.3, 0.4)], "not reproduced"),
    ],
)
def test_the_verdict_on_sinks_is_a_test_of_equivalence(differences, word):
    same = pd.DataFrame({"difference": estimates(*differences)})
    assert claims.sink_recent.rule(same) == word


def test_no_exponent_is_not_the_same_exponent():
    same = pd.DataFrame({"difference": [Estimate(0.0, -0.01, 0.01, 16, flat=True)]})
    assert claims.sink_recent.rule(same) == "not reproduced"
    flat = rows_of(lambda b: 0.5 + 0 * b, "sinks", spread=0.01)
    suffix = {("m", "c"): suffix_rows(0.6)}
    found = claims.sink_recent.same_exponent(flat, suffix, "sinks", "online")
    assert str(found["difference"].item()) == str(found["policy"].item()) == "no exponent"


def test_exponents_are_compared_on_the_documents_of_that_policy():
    """Documents 4 to 7 beside another policy on 0 to 7: the suffixes of 0 to 3 must not count."""
    law = finite(0.6)
    ours = rows_of(lambda b: law(b - 4), "sinks", spread=0.01)
    other = rows_of(law, "random")
    suffix = suffix_rows(0.6)
    wild = suffix.assign(kl_nats=np.where(suffix["doc"] < 4, 1.0, suffix["kl_nats"]))
    both = pd.concat([ours[ours["doc"] >= 4], other])
    found = claims.sink_recent.same_exponent(both, {("m", "c"): wild}, "sinks", "online")
    assert found["documents"].item() == 4
    assert found["difference"].item().value == pytest.approx(0, abs=0.08)


@pytest.mark.parametrize(
    ("name", "sinks"),
    [("sliding", 0), ("sinks", 4), ("random-sinks", 4), ("tova", 0), ("unknown", 0)],
)
def test_sinks_are_looked_up(name, sinks):
    assert claims.policy_rows.kept(name, [64]).item() == 64 - sinks


def test_the_law_in_the_budget_counts_sinks_and_the_law_of_the_window_does_not():
    rows = rows_of(lambda b: 1 / b, "sinks")
    assert claims.policy_rows.curve(rows).window[0] == 12
    assert claims.policy_rows.curve(rows, besides_sinks=False).window[0] == 16


def test_a_ranking_is_over_documents_that_every_policy_has_seen():
    many, few = rows_of(lambda b: 1 / b, "random"), rows_of(lambda b: 2 / b, "tova", docs=3)
    alone = rows_of(lambda b: 1 / b, "random", "prefill")
    shared = claims.policy_rows.shared_documents(pd.concat([many, few, alone]))
    count = shared.groupby(["protocol", "policy"])["doc"].nunique()
    assert count.to_dict() == {
        ("online", "tova"): 3,
        ("online", "random"): 3,
        ("prefill", "random"): 8,
    }
    sizes = (
        claims.policy_rows.summary(shared).query("protocol == 'online'").groupby("budget")["tokens"]
    )
    assert (sizes.nunique() == 1).all()


def three_protocols() -> pd.DataFrame:
    """A policy in all protocols, re-encoded at every second token only."""
    parts = [rows_of(lambda b: 1 / b, "random", p) for p in claims.policy_rows.PROTOCOLS]
    parts[0] = parts[0][parts[0]["position"] % 256 == 0]
    return pd.concat([*parts, rows_of(lambda b: 1 / b, "tova", "online")])


def test_protocols_stand_side_by_side_on_the_tokens_of_all_three():
    shared = claims.policy_rows.shared_tokens(three_protocols(), ["random", "tova"])
    assert set(shared["policy"]) == {"random"}
    tokens = shared.groupby("protocol")["position"].apply(lambda at: sorted(set(at)))
    assert tokens["online"] == tokens["prefill"] == tokens["reencode"]
    summary = claims.policy_rows.summary(shared)
    table = charts.open_question.three_protocols_rows(summary, ("random",))
    assert set(table["protocol"]) == set(claims.policy_rows.PROTOCOLS)
    alone = claims.policy_rows.summary(three_protocols())
    assert alone["tokens"].nunique() > 1  # what must not be drawn in one picture


def test_a_table_for_a_page_has_a_column_a_budget_and_blanks():
    table = pd.DataFrame(
        {
            "policy": ["a", "a", "b"],
            "budget": [256, 16, 16],
            "ratio": estimates((1, 2, 3), (-0.1, 0.123, 4), (5, 6, 7)),
        }
    )
    wide = claims.policy_rows.by_budget(table, "ratio", ["policy"])
    assert list(wide) == [16, 256]
    assert wide.loc["a", 16] == "0.12 [\u22120.1,\u00a04]" and wide.loc["b", 256] == ""


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


def test_the_figure_of_the_open_question_counts_documents_and_tokens():
    rows = three_protocols().assign(policy="sinks")
    said = claims.open_question.carrying_sentence(rows[rows["protocol"] != "x"].drop_duplicates())
    assert "8 documents with 32 tokens or more" in said


def online(**columns) -> pd.DataFrame:
    """One row for sliding window, one for sinks."""
    names = list(claims.policy_rows.RECENCY)
    return pd.DataFrame(
        {"protocol": "online", "policy": names, "model": "m", "corpus": "c"} | columns
    )


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


@pytest.mark.parametrize("of", ["sink", "prediction", "retention", "law"])
def test_without_a_measurement_a_verdict_is_to_come(of):
    columns = ["difference", "factor", "ratio", "exponential", "stretched", "protocol", "policy"]
    nothing = pd.DataFrame({name: pd.Series(dtype=object) for name in columns})
    assert RULES[of][0](nothing) == "to come"


def test_protocols_are_compared_on_the_tokens_they_share():
    parts = [
        rows_of(lambda b, c=c: c / b, "random", p)
        for p, c in (("online", 2), ("prefill", 1), ("reencode", 4))
    ]
    parts[2] = parts[2][parts[2]["position"] % 256 == 0]
    found = claims.open_question.protocols_compared(pd.concat(parts), "random")
    assert (found["tokens"] == 8 * 4).all()
    assert all(item.value == pytest.approx(0.5, rel=0.1) for item in found["online / reencode"])


def test_the_stored_tables_are_whole_and_large_enough():
    rows = claims.policy_rows.stored_rows()
    smol = rows[
        (rows["model"] == "smollm2-135m-instruct") & (rows["corpus"] == "world-english-bible")
    ]
    for protocol in ("online", "prefill", "reencode"):
        of = smol[(smol["protocol"] == protocol) & smol["policy"].isin(claims.policy_rows.RECENCY)]
        assert of.groupby("policy")["doc"].nunique().min() >= 16
        assert {16, 64, 256, 512} <= set(of["budget"])
    scored = {"tova", "snapkv", "key-norm", "h2o", "expected-attention"}
    assert scored <= set(smol["policy"])
    assert (rows["kl_nats"] > -1e-6).all() and rows["tv"].between(-1e-5, 1 + 1e-5).all()


def test_on_the_stored_tables_sinks_matter_and_the_summary_is_a_plain_mean():
    rows = claims.policy_rows.stored_rows()
    summary = claims.policy_rows.summary(rows).set_index(claims.policy_rows.KEYS)["mean"]
    key = ("smollm2-135m-instruct", "world-english-bible", "online")
    assert summary[*key, "sliding", 1024] > 10 * summary[*key, "sinks", 1024]
    path = store.stored("online")[key[:2]]
    table = store.load_table(path).query("policy == 'random' and budget == 64")
    assert summary[*key, "random", 64] == pytest.approx(table["kl_nats"].mean(), rel=1e-6)


def test_jackknife_needs_three_documents():
    with pytest.raises(ValueError, match="expected at least 3"):
        fit.jackknife(1.0, np.array([1.0, 2.0]))


def test_the_effect_of_steps_compares_equal_documents(tmp_path):
    def write(kind: str, docs: int, factor: float) -> None:
        rows = rows_of(lambda b: 1 / b, "tova", docs=docs, spread=0).assign(policy="tova")
        rows["kl_nats"] *= np.where(rows["doc"] == 1, factor, 1.0)
        path = tmp_path / f"{kind}-smollm2-135m-instruct-world-english-bible"
        settings = {"kind": kind, "model": "smollm2-135m-instruct", "corpus": "world-english-bible"}
        measurement = store.Measurement(path, settings, docs)
        for doc, part in rows.groupby("doc"):
            measurement.add(doc, part.drop(columns=["model", "corpus"]))
        measurement.finish({"command": "none"})

    write("scored", 4, 3.0)
    write("stepwise", 2, 1.0)
    table = claims.policies.step_effect(tmp_path)
    assert set(table["documents"]) == {2} and len(table) == 5
    np.testing.assert_allclose(table["least"], 1.0)
    np.testing.assert_allclose(table["most"], 3.0)
    np.testing.assert_allclose(table["in steps"], 2 / table["budget"])
