"""The data check: excess loss over KL, by a second route and on rows whose answer is known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from studies import rows_of

from kvlib import claims
from kvlib.claims.data_check import counted, excess_over_kl, excess_over_kl_plain, facts


def checked_rows(ratio: float, corpus: str = "scipy-docs", noise: float = 0.1) -> pd.DataFrame:
    """Rows of two policies whose excess loss is so many times their KL, give or take some noise."""
    rows = pd.concat(
        [rows_of(lambda b: b**-0.6, policy, "reencode") for policy in ("sliding", "random")]
    )
    scatter = np.random.default_rng(0).normal(0, noise, len(rows))
    excess = rows["kl_nats"] * (ratio + scatter)
    return rows.assign(model="gemma3-270m", corpus=corpus, nll_excess_nats=excess)


def test_the_stored_rows_give_the_same_ratio_by_a_plain_loop():
    rows = claims.policy_rows.stored_rows()
    table = excess_over_kl(rows).set_index(claims.policy_rows.KEYS)["ratio"]
    plain = excess_over_kl_plain(rows)
    assert len(table) > 100
    assert table.map(lambda item: item.value).to_dict() == pytest.approx(
        {key: plain[key] for key in table.index}
    )


@pytest.mark.parametrize(("ratio", "column"), [(0.7, "below"), (1.0, "hold one"), (1.4, "above")])
def test_a_known_ratio_is_found_and_counted(ratio, column):
    table = excess_over_kl(checked_rows(ratio))
    assert len(table) == 10
    assert all(abs(item.value - ratio) < 0.06 for item in table["ratio"])
    (row,) = counted(table).to_dict("records")
    assert row["settings"] == 10 and row[column] >= 8
    assert row["median"] == pytest.approx(ratio, abs=0.03)


def test_a_setting_with_two_documents_has_no_interval_and_is_left_out():
    rows = checked_rows(1.0)
    few = rows[(rows["policy"] == "sliding") | (rows["doc"] < 2)]
    assert set(excess_over_kl(few)["policy"]) == {"sliding"}


def test_the_sentence_counts_settings_and_names_each_text():
    rows = pd.concat([checked_rows(1.0), checked_rows(0.7, "world-english-bible")])
    table = excess_over_kl(rows)
    said, counts = facts(table)["data-check"], counted(table)
    total = counts[["hold one", "below", "above"]].sum().tolist()
    assert said.startswith(
        f"Of 20 settings the interval holds one on {total[0]}, lies below on {total[1]} and above "
        f"on {total[2]}. Medians: Gemma-3-270M on SciPy's docstrings {counts['median'][0]:.2f}, "
    )
    bible = f"the World English Bible {counts['median'][1]:.2f}, surely below one 10 of 10 times"
    assert bible in said
    table = table[table["policy"] == "sliding"]
    suffixes = facts(table)["data-check-suffix"]
    holds = sum(item.low <= 1 <= item.high for item in table["ratio"] if item.value > 0.9)
    assert suffixes.endswith(f"one lies in {holds} of 10 intervals") and " to 1.0" in suffixes
    online = table.assign(protocol="online")
    assert facts(online)["data-check-suffix"] == "none is stored"
