"""Plans on stored losses of a real model, judged by means that are known: a small `bench_plan`."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom

from kvlib.plan.deciding import Question

PATH = Path(__file__).parents[1] / "bench" / "bench_plan.py"
PLANS = 25


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("bench_plan", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_plans_on_stored_losses_are_right_tight_and_repeatable(bench):
    losses = bench.population("qwen2.5-coder-0.5b-instruct", "tv")
    found = bench.judged(losses, Question("tv", 0.3, 0.9), PLANS)
    assert found.violations <= binom.ppf(1 - 1e-4, PLANS, 0.1)
    assert found.certified >= PLANS / 2
    assert np.median(found.ratios) <= 1.5
    assert found.following <= 0.3
    again = bench.judged(losses, Question("tv", 0.3, 0.9), PLANS)
    assert again.ratios.tolist() == found.ratios.tolist()


def test_a_plan_that_promises_half_of_what_is_needed_is_counted_as_wrong(bench, monkeypatch):
    losses = bench.population("smollm2-135m-instruct", "kl")
    question = Question("kl", 0.3, 0.9)
    half = int(bench.least_within(losses.mean(), question.epsilon)) // 2
    monkeypatch.setattr(bench, "planned", lambda drawn, question: (half, None))
    found = bench.judged(losses, question, PLANS)
    assert found.violations == found.certified == PLANS
    assert found.interval()[0] > 0.8 and (found.ratios < 1).all()


def test_the_least_window_is_that_from_which_on_all_are_within(bench):
    truth = pd.Series({16: 0.5, 32: 0.1, 64: 0.3, 128: 0.1})
    assert bench.least_within(truth, 0.2) == 128
    assert bench.least_within(truth, 0.4) == 32
    assert bench.least_within(truth, 1.0) == 16
    assert bench.least_within(truth, 0.01) == np.inf
