"""The plan: a budget is named only when it and every larger one keep the distortion."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

from kvlib import charts, claims
from kvlib.cache.bounded import BoundedCache
from kvlib.models import cache_cost

COST = {"m": (100, 0, 0), "local": (10, 90, 64)}


def summary(highs: dict[int, float], model: str = "m") -> pd.DataFrame:
    """Rows of `policy_checks.summary` whose upper limits are given, by budget."""
    rows = [
        {
            **{"model": model, "corpus": "c", "protocol": "online", "policy": claims.story.POLICY},
            **{"budget": budget, "mean": high / 2, "low": high / 4, "high": high, "p95": 3 * high},
            "documents": 16,
        }
        for budget, high in highs.items()
    ]
    return pd.DataFrame(rows)


def test_the_least_budget_whose_upper_limit_is_within_epsilon():
    table = summary({256: 0.1, 16: 2.0, 64: 0.4})
    assert [claims.story.plan(table, "m", "c", e).budget for e in (2.0, 1.9, 0.4, 0.1)] == [
        16,
        64,
        64,
        256,
    ]
    found = claims.story.plan(table, "m", "c", 0.4)
    assert found == (64, 0.2, 0.1, 0.4, 16)


def test_a_mean_within_epsilon_is_not_enough():
    assert claims.story.plan(summary({16: 0.3}), "m", "c", 0.2).budget is None


def test_a_budget_is_not_vouched_for_when_a_larger_one_fails():
    table = summary({16: 0.3, 64: 0.5, 256: 0.1})
    assert claims.story.plan(table, "m", "c", 0.3).budget == 256
    assert claims.story.plan(table, "m", "c", 0.5).budget == 16


def test_when_none_keeps_it_the_figures_are_those_of_the_largest():
    found = claims.story.plan(summary({16: 2.0, 64: 0.5}), "m", "c", 0.2)
    assert found.budget is None and found.high == 0.5


@pytest.mark.parametrize("epsilon", [0, -1, float("nan")])
def test_an_epsilon_that_is_not_positive_raises(epsilon):
    with pytest.raises(ValueError, match="epsilon: expected more than 0"):
        claims.story.plan(summary({16: 2.0}), "m", "c", epsilon)


def test_what_was_not_measured_raises_and_names_what_was():
    with pytest.raises(ValueError, match=r"expected one of \[\('m', 'c'\)\], got \('m', 'x'\)"):
        claims.story.plan(summary({16: 2.0}), "m", "x", 0.1)


def test_other_policies_and_protocols_are_left_out():
    table = summary({16: 2.0})
    other = summary({64: 0.01}).assign(protocol="prefill")
    bare = summary({64: 0.01}).assign(policy="sliding")
    assert claims.story.plan(pd.concat([table, other, bare]), "m", "c", 0.1).budget is None


def test_megabytes_are_those_that_the_bounded_cache_holds(random_model):
    """Of a model with sliding layers too: each layer holds the budget."""
    model = random_model("gemma3_text", sliding_window=8).model
    cache = BoundedCache(32, model=model)
    with torch.inference_mode():
        model(torch.arange(1, 65)[None], past_key_values=cache)
    cost = cache_cost(model.config, bytes_per_number=4)
    table = summary({16: 1.0, 32: 0.5})
    rows = claims.story.plan_rows(table, {"m": cost})
    assert rows["megabytes"].iloc[1] * 1e6 == pytest.approx(cache.cache_bytes, rel=1e-3)
    assert rows["megabytes"].iloc[0] * 2 == pytest.approx(rows["megabytes"].iloc[1], rel=1e-3)


def test_the_stored_plan_is_measured_and_its_chart_says_so():
    stored = claims.policy_rows.summary(claims.policy_rows.stored_rows())
    model, corpus = "smollm2-135m-instruct", "world-english-bible"
    budget = claims.story.plan(stored, model, corpus, 0.2).budget
    online = stored[(stored["protocol"] == "online") & (stored["budget"] == budget)]
    row = online.query("model == @model and corpus == @corpus").set_index("policy")
    assert row.loc[claims.story.POLICY, "high"] <= 0.2 < row.loc["sliding", "high"]
    rows = claims.story.plan_rows(stored, dict.fromkeys(stored["model"].unique(), (1, 0, 0)))
    assert charts.story.plan(rows, 0.2).spec()["params"][1] == {"name": "epsilon", "value": 0.2}


def test_an_axis_that_clamps_has_no_labels_beyond_its_ends():
    """Vega would draw them at the edges, where they say something false."""
    rows = claims.story.plan_rows(summary({16: 1.0, 64: 0.5}), COST)
    y = charts.story.plan_chart(rows).to_dict()["layer"][1]["encoding"]["y"]
    low, high = y["scale"]["domain"]
    ticks = y["axis"]["values"]
    assert y["scale"]["clamp"] and low <= min(ticks) < max(ticks) <= high
