"""Policies: what each keeps, by hand-computable cases and laws."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from kvlib.cache import protocols
from kvlib.cache.policies import (
    NAMED,
    TOVA,
    ExpectedAttention,
    HeavyHitter,
    KeyNorm,
    RandomRetention,
    SinkRecent,
    SlidingWindow,
    SnapKV,
)
from kvlib.models.rotary import LayerPass


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_sinks_and_recent_by_hand():
    assert SinkRecent(n_sink=2).kept(10, 5, rng()).tolist() == [0, 1, 7, 8, 9]
    assert SlidingWindow().kept(10, 3, rng()).tolist() == [7, 8, 9]
    assert SinkRecent(n_sink=2).kept(4, 5, rng()).tolist() == [0, 1, 2, 3]


def test_a_sliding_window_is_sinks_and_recent_without_sinks():
    window, sinks = SlidingWindow(), SinkRecent(n_sink=0)
    np.testing.assert_array_equal(window.survivors(40, 7, rng()), sinks.survivors(40, 7, rng()))
    assert window.key == "sliding" == sinks.key and window.title == "sliding window"


@pytest.mark.parametrize("policy", [SlidingWindow(), SinkRecent(), SinkRecent(n_sink=1)])
def test_what_recency_keeps_at_once_and_online_is_the_same(policy):
    seen = policy.survivors(50, 9, rng())
    for t in range(50):
        assert np.flatnonzero(seen[t]).tolist() == policy.kept(t + 1, 9, rng()).tolist()


def test_random_online_forgets_geometrically():
    """Survival of age a is (1 - 1/budget)^a: 4,000 caches, so 5 standard errors are 0.04."""
    budget, length, n = 8, 30, 4000
    alive = np.mean(
        [RandomRetention().survivors(length, budget, rng(k))[-1] for k in range(n)], axis=0
    )
    age = length - 1 - np.arange(length)
    evictable = (age >= 1) & (np.arange(length) >= budget)
    expected = (1 - 1 / budget) ** age[evictable]
    np.testing.assert_allclose(alive[evictable], expected, atol=0.04)


def test_random_at_once_is_uniform_over_the_past():
    """20,000 draws of 4 of 19: each position is kept with probability 4/19, ± 5 errors of 0.003."""
    kept = [
        RandomRetention().kept(20, 5, generator) for generator in [rng(1)] for _ in range(20000)
    ]
    counts = np.bincount(np.concatenate(kept), minlength=20) / 20000
    np.testing.assert_allclose(counts[:-1], 4 / 19, atol=0.015)
    assert counts[-1] == 1


@pytest.mark.parametrize(
    ("policy", "least"),
    [
        (SinkRecent(n_sink=4), 5),
        (SlidingWindow(), 1),
        (RandomRetention(n_sink=4), 5),
        (SnapKV(window=32), 34),
        (ExpectedAttention(n_sink=4), 6),
        (TOVA(), 2),
    ],
)
def test_a_budget_too_small_is_refused_with_the_least_one(policy, least):
    policy.check(least)
    with pytest.raises(ValueError, match=f"budget: expected at least {least}, got {least - 1}"):
        policy.check(least - 1)


@pytest.mark.parametrize(
    "policy", [SinkRecent, SlidingWindow, HeavyHitter, TOVA, SnapKV, KeyNorm, ExpectedAttention]
)
def test_a_published_policy_cites_its_paper(policy):
    assert "arXiv" in policy.__doc__


@pytest.mark.parametrize(
    ("policy", "key"),
    [
        (SinkRecent(n_sink=2), "sinks-2"),
        (SinkRecent(n_sink=1, positions="cache"), "sinks-1-cache-positions"),
        (RandomRetention(n_sink=2, scope="heads"), "random-sinks-2-heads"),
    ],
)
def test_a_policy_with_numbers_of_its_own_has_a_key_of_its_own(policy, key):
    assert policy.key == policy.title == key and key not in NAMED


# --- scores, on attention weights small enough to add up by hand --------------------------------

ATTENTION = torch.tensor(  # (heads 2, queries 3, entries 4): one KV head shared by both
    [
        [[0.5, 0.5, 0.0, 0.0], [0.2, 0.2, 0.6, 0.0], [0.1, 0.2, 0.3, 0.4]],
        [[0.9, 0.1, 0.0, 0.0], [0.4, 0.0, 0.6, 0.0], [0.3, 0.0, 0.3, 0.4]],
    ]
)
KEYS = torch.tensor([[[3.0, 4.0], [1.0, 0.0], [0.0, 2.0], [6.0, 8.0]]])


def test_heavy_hitters_add_up_attention_and_keep_the_old_sums():
    score = HeavyHitter().step_scores(torch.tensor([[10.0, 20.0]]), ATTENTION, KEYS)
    expected = [10 + (0.8 + 1.6) / 2, 20 + (0.9 + 0.1) / 2, 0.9, 0.4]
    np.testing.assert_allclose(score[0], expected, rtol=1e-6)
    assert HeavyHitter().protected(64) == 32


def test_tova_looks_at_the_last_query_over_all_heads():
    score = TOVA().step_scores(torch.empty(1, 0), ATTENTION, KEYS)
    np.testing.assert_allclose(score[0], [0.2, 0.1, 0.3, 0.4], rtol=1e-6)


def test_key_norm_prefers_short_keys():
    score = KeyNorm().step_scores(torch.empty(1, 0), ATTENTION, KEYS)
    np.testing.assert_allclose(score[0], [-5, -1, -2, -10], rtol=1e-6)


@pytest.mark.parametrize("target", [0, 2, 3])
def test_snapkv_scores_nothing_while_its_window_holds_everything(target):
    attention, keys = torch.rand(2, 6, 6), torch.rand(1, 6, 4)
    score = SnapKV(window=3, kernel=3).target_scores(
        LayerPass(attention, keys), torch.tensor([target])
    )
    assert score.shape == (1, 1, 6) and not score.any()


def test_snapkv_pools_the_window_and_leaves_it_out():
    square = torch.rand(2, 12, 12, generator=torch.Generator().manual_seed(0)).tril()
    score = SnapKV(window=3, kernel=3).target_scores(
        LayerPass(square, torch.ones(1, 12, 2)), torch.tensor([9])
    )
    plain = square[:, 6:9, :6].mean((0, 1))
    padded = torch.nn.functional.pad(plain, (1, 1))
    expected = (padded[:-2] + padded[1:-1] + padded[2:]) / 3
    np.testing.assert_allclose(score[0, 0, :6], expected, rtol=1e-5)
    assert (score[0, 0, 6:] == 0).all()


# --- expected attention, on a tiny model ---------------------------------------------------------


@pytest.fixture(scope="module")
def second_layer(tiny):
    """What the tiny model's second layer did on 60 tokens."""
    seen = []

    @dataclass(frozen=True)
    class Spy(TOVA):
        def target_scores(self, layer, targets):
            seen.append(layer)
            return super().target_scores(layer, targets)

    ids = torch.from_numpy(np.random.default_rng(5).integers(1, 250, 60))
    protocols.FullPass(tiny, ids, np.array([59]), [Spy()])
    return seen[1]


def rotation(layer, position: int) -> np.ndarray:
    """(width, width) of one position, pair by pair, out of the model's own base frequency."""
    width = layer.keys.shape[-1]
    theta = layer.module.config.rope_parameters["rope_theta"]
    turn = np.zeros((width, width))
    for a in range(width // 2):
        b, angle = a + width // 2, position * theta ** (-2 * a / width)
        turn[[a, b], [a, b]] = np.cos(angle)
        turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
    return turn


def test_queries_before_rotation_give_the_attention_that_was_paid(second_layer):
    """q rotated at its own position, times k, through a softmax: the layer's weights."""
    layer = second_layer
    keys = layer.keys.double().numpy()
    for h, queries in enumerate(layer.queries.double().numpy()):
        for t in (0, 7, 59):
            logits = keys[h // 2, : t + 1] @ (rotation(layer, t) @ queries[t]) * layer.scaling
            weights = np.exp(logits) / np.exp(logits).sum()
            np.testing.assert_allclose(layer.attention[h, t, : t + 1], weights, atol=1e-5)


@pytest.mark.parametrize("target", [9, 40])
def test_expected_attention_is_its_formula_written_out(second_layer, target):
    layer, policy = second_layer, ExpectedAttention(future=7, n_sink=3)
    turn = np.mean([rotation(layer, target + k) for k in range(7)], axis=0)
    keys, values = layer.keys.double().numpy(), layer.values.double().numpy()
    shares = np.zeros((2, target - 3))
    for h, queries in enumerate(layer.queries.double().numpy()):
        past = queries[3:target]
        mean, cov = turn @ past.mean(0), turn @ np.cov(past.T, bias=True) @ turn.T
        k = keys[h // 2, 3:target] * layer.scaling
        weights = np.exp(k @ mean + np.einsum("ni,ij,nj->n", k, cov, k) / 2)
        shares[h // 2] += weights / weights.sum() / 2
    expected = shares * np.linalg.norm(values[:, 3:target], axis=-1)
    both = policy.target_scores(layer, torch.tensor([40, 9]))  # in any order
    score = both[:, [40, 9].index(target)]
    np.testing.assert_allclose(score[:, 3:target], expected, rtol=1e-3)
    assert torch.isinf(score[:, :3]).all() and not score[:, target:].any()


def test_the_weight_that_gaussian_queries_pay_is_the_one_expected():
    """E[exp(s qᵀk)] over 400,000 Gaussian queries, in two dimensions, within 2%."""
    rng = np.random.default_rng(0)
    mean, cov = np.array([0.5, -1.0]), np.array([[1.0, 0.6], [0.6, 0.8]])
    queries = rng.multivariate_normal(mean, cov, 400_000)
    for k in np.array([[1.0, 0.3], [-0.7, 0.4]]):
        paid = np.exp(queries @ k).mean()
        assert paid == pytest.approx(np.exp(k @ mean + k @ cov @ k / 2), rel=0.02)


def test_only_sinks_before_a_target_leave_nothing_to_weigh(second_layer):
    score = ExpectedAttention(n_sink=4).target_scores(second_layer, torch.tensor([2, 4]))
    assert torch.isinf(score[..., :4]).all() and not score[..., 4:].any()


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox"])
def test_expected_attention_refuses_what_it_cannot_rotate(random_model, kind):
    lm = random_model(kind)
    with pytest.raises(ValueError, match="expected attention with q_proj.*not supported"):
        protocols.FullPass(lm, torch.arange(1, 30), np.array([20]), [ExpectedAttention()])


def test_expected_attention_refuses_keys_rotated_otherwise(second_layer):
    """Keys that are not what the layer's own projection and rotation make."""
    other = replace(second_layer, keys=second_layer.keys.flip(-1))
    with pytest.raises(ValueError, match="expected keys rotated in halves.*not supported"):
        ExpectedAttention().target_scores(other, torch.tensor([20]))
