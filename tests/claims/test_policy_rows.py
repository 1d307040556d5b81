"""From rows of policies to figures: by hand, on made-up rows, and on the stored ones."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from studies import estimates, rows_of, three_protocols

from kvlib import charts, claims, fit, store


def test_a_mean_and_its_interval_are_the_delete_one_t_interval_of_the_logarithm():
    values = np.array([0.5, 1.0, 2.0, 0.7])
    found = fit.log_mean(values)
    left = np.log([np.delete(values, k).mean() for k in range(4)])
    half = stats.t.ppf(0.975, 3) * np.sqrt(3 / 4 * ((left - left.mean()) ** 2).sum())
    assert found.value == pytest.approx(values.mean())
    assert np.log(found.high) - np.log(found.value) == pytest.approx(half)


def test_a_table_as_it_is_read_has_a_summary_without_naming_its_model():
    rows = rows_of(lambda budget: 1 / budget, "sinks")
    bare = rows.drop(columns=["model", "corpus"])
    named = claims.policy_rows.summary(rows).drop(columns=["model", "corpus"])
    assert claims.policy_rows.summary(bare).drop(columns=["model", "corpus"]).equals(named)


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


@pytest.mark.parametrize(
    ("name", "sinks"),
    [("sliding", 0), ("sinks", 4), ("random-sinks", 4), ("tova", 0), ("unknown", 0)],
)
def test_sinks_are_looked_up(name, sinks):
    assert claims.policy_rows.kept(name, [64]).item() == 64 - sinks


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
    assert wide.loc["a", 16] == "0.1 [\u22120.1,\u00a04.0]" and wide.loc["b", 256] == ""


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
    half = {t.settings["model"] for t in store.tables() if t.settings.get("dtype") == "bfloat16"}
    rounded = rows["model"].isin(half)  # its sums reach further beyond one
    assert (rows["kl_nats"] > -1e-6).all()
    assert rows["tv"][~rounded].between(-1e-5, 1 + 1e-5).all()
    assert rows["tv"][rounded].between(-1e-5, 1 + 1e-4).all()


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
