"""Rates of a cache with the next query: the capture is the cache's, the arithmetic is a law's."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvlib import claims
from kvlib.measure import rates
from kvlib.theory import gaussian_coding

laws_hold = settings(deadline=None, derandomize=True, max_examples=60)
seeds = st.integers(0, 2**32 - 1)


def random_covariance(rng, size):
    root = rng.normal(size=(size, size + 2)) * rng.gamma(1, size=(size, 1))
    return root @ root.T / size + 1e-3 * np.eye(size)


def exact(covariance):
    """Moments of infinitely many rows of that covariance and mean zero."""
    return rates.Moments(10**9, np.zeros(len(covariance)), covariance)


# --- what is captured -------------------------------------------------------------------------


def test_captured_keys_rotated_are_the_keys_of_the_cache(smollm2, passage):
    ids = passage(smollm2, 40)
    found = rates.capture(smollm2, ids)
    held = rates.cached_keys(smollm2, ids)
    np.testing.assert_allclose(
        rates.rotate(smollm2, found.keys), held, atol=1e-5 * np.abs(held).max()
    )


def test_captured_values_are_the_values_of_the_cache(smollm2, passage):
    import torch

    ids = passage(smollm2, 40)
    with torch.inference_mode():
        cache = smollm2.model(torch.as_tensor(ids)[None], use_cache=True).past_key_values
    held = torch.stack([layer.values[0] for layer in cache.layers]).numpy()
    found = rates.capture(smollm2, ids).values
    np.testing.assert_allclose(found, held, atol=1e-5 * np.abs(held).max())


def test_stacked_queries_attend_as_the_model_does(smollm2, passage):
    # eager attention of layer 0 from captured keys and queries: each key head, its three queries
    import torch

    ids = passage(smollm2, 24)
    found = rates.capture(smollm2, ids)
    heads, length, size = found.keys.shape[1:]
    queries = found.queries[0].reshape(heads, length, -1, size).swapaxes(1, 2)
    turned = rates.rotate(smollm2, queries.reshape(-1, length, size)).reshape(queries.shape)
    keys = rates.rotate(smollm2, found.keys[0])
    logits = turned @ keys[:, None].swapaxes(-1, -2) / np.sqrt(size)
    logits[..., np.triu(np.ones((length, length), bool), 1)] = -np.inf
    mine = np.exp(logits - logits.max(-1, keepdims=True))
    mine /= mine.sum(-1, keepdims=True)
    before = smollm2.model.config._attn_implementation
    smollm2.model.set_attn_implementation("eager")
    try:
        with torch.inference_mode():
            whole = smollm2.model(torch.as_tensor(ids)[None], output_attentions=True)
    finally:
        smollm2.model.set_attn_implementation(before)
    theirs = whole.attentions[0][0].numpy()
    np.testing.assert_allclose(mine.reshape(theirs.shape), theirs, atol=1e-5)


def test_the_cache_check_can_fail_unrotated_keys_are_not_the_caches(smollm2, passage):
    ids = passage(smollm2, 40)
    held = rates.cached_keys(smollm2, ids)
    assert np.abs(rates.capture(smollm2, ids).keys - held).max() > 0.1 * np.abs(held).max()


def test_a_model_that_normalises_its_keys_is_refused(tiny):
    attention = tiny.model.base_model.layers[0].self_attn
    attention.k_norm = None
    try:
        with pytest.raises(ValueError, match="expected keys straight from k_proj"):
            rates.capture(tiny, [1, 2, 3])
    finally:
        del attention.k_norm


def test_pairs_join_a_key_with_the_query_of_the_token_after_it():
    t = np.arange(10.0).reshape(1, 1, 10, 1)
    rows = rates.rows_of(rates.Capture(t, 100 + t, 200 + t))[0, 0]
    assert rows.shape == (10 - 1 - rates.SINKS, 3)
    np.testing.assert_array_equal(rows[:, 1] - rows[:, 0], 100)
    np.testing.assert_array_equal(rows[:, 2] - rows[:, 0], 201)
    assert rows[0, 0] == rates.SINKS


# --- moments and shrinkage --------------------------------------------------------------------


def test_pooled_moments_are_those_of_all_rows():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(50, 3)) + 2
    pooled = rates.pooled([rates.moments_of(part) for part in (rows[:13], rows[13:])])
    assert pooled.n == 50
    np.testing.assert_allclose(pooled.mean, rows.mean(0))
    np.testing.assert_allclose(pooled.around(pooled.mean), np.cov(rows.T, ddof=0))


def test_shrinkage_keeps_variances_and_vanishes_with_many_rows():
    covariance = random_covariance(np.random.default_rng(1), 6)
    few, many = rates.oas(covariance, 10), rates.oas(covariance, 10**9)
    np.testing.assert_allclose(np.diag(few), np.diag(covariance))
    np.testing.assert_allclose(many, covariance, rtol=1e-6, atol=1e-6)
    assert np.abs(few - covariance).max() > 1e-3 * np.abs(covariance).max()


def test_shrinkage_does_not_depend_on_units():
    covariance, scale = random_covariance(np.random.default_rng(2), 5), np.geomspace(1e-3, 1e3, 5)
    turned = np.outer(scale, scale)
    np.testing.assert_allclose(
        rates.oas(covariance * turned, 40), rates.oas(covariance, 40) * turned
    )


def test_shrinkage_brings_a_small_sample_nearer_to_the_truth():
    rng = np.random.default_rng(3)
    truth = 0.85 * np.eye(20) + 0.15
    fell = 0
    for _ in range(20):  # in 10,000 other draws it rose 14 times: five rises are 1 in 10^10
        sample = np.cov(rng.multivariate_normal(np.zeros(20), truth, 30).T, ddof=0)
        errors = [np.sum((c - truth) ** 2) for c in (rates.oas(sample, 30), sample)]
        fell += errors[0] < errors[1]
    assert fell > 15


def test_shrinkage_refuses_a_variable_that_does_not_vary():
    with pytest.raises(ValueError, match="variances"):
        rates.oas(np.diag([1.0, 0.0]), 10)


# --- rates ------------------------------------------------------------------------------------


@laws_hold
@given(seeds, st.floats(0.01, 0.99))
def test_side_information_never_costs_bits_when_the_covariance_is_known(seed, relative):
    rng = np.random.default_rng(seed)
    size, side = rng.integers(1, 6), rng.integers(1, 6)
    joint = random_covariance(rng, size + side)
    distortion = relative * np.trace(joint[:size, :size])
    known = gaussian_coding.conditional_rate(joint, size, distortion).rate_nats
    without = gaussian_coding.conditional_rate(joint[:size, :size], size, distortion).rate_nats
    assert without - known >= -1e-9


@laws_hold
@given(seeds)
def test_a_codebook_on_its_own_source_is_water_filling(seed):
    rng = np.random.default_rng(seed)
    variances = rng.gamma(1, size=5) + 1e-3
    levels = np.geomspace(1e-3, variances.max() * 0.999, 7)
    points = rates.coded(variances, variances, levels)
    again = gaussian_coding.water_filling(variances, points.distortion)
    np.testing.assert_allclose(points.rate_nats, again.rate_nats, atol=1e-9)


@laws_hold
@given(seeds)
def test_a_codebook_made_for_another_source_is_never_better(seed):
    rng = np.random.default_rng(seed)
    variances, actual = rng.gamma(1, size=(2, 5)) + 1e-3
    levels = np.geomspace(1e-3, variances.max() * 0.999, 7)
    points = rates.coded(variances, actual, levels)
    best = gaussian_coding.water_filling(actual, points.distortion).rate_nats
    assert (points.rate_nats >= best - 1e-9).all()


def test_the_rate_of_a_wrong_codebook_is_that_of_the_simulated_channel():
    # y = a x + noise of variance θa, charged by the output law N(0, λ - θ) it was made for
    rng, n, lam, actual, theta = np.random.default_rng(4), 400_000, 2.0, 3.0, 0.5
    a = 1 - theta / lam
    x = rng.normal(scale=actual**0.5, size=n)
    noise = rng.normal(scale=(theta * a) ** 0.5, size=n)
    y = a * x + noise
    charged = 0.5 * np.log((lam - theta) / (theta * a))
    charged += np.mean(y**2 / (lam - theta) - noise**2 / (theta * a)) / 2
    points = rates.coded([lam], [actual], np.array([theta]))
    # standard errors below 3e-3; five of them: false alarms less than one in a million
    assert points.rate_nats[0] == pytest.approx(charged, abs=0.015)
    assert points.distortion[0] == pytest.approx(np.mean((x - y) ** 2), abs=0.01)


@laws_hold
@given(seeds)
def test_with_the_true_fit_and_endless_rows_the_rate_meets_conditional_rate(seed):
    rng = np.random.default_rng(seed)
    joint = random_covariance(rng, 7)
    grid = np.array([0.5, 0.2, 0.05])
    mean = np.zeros(7)
    for known, covariance in ((True, joint), (False, joint[:4, :4])):
        found = rates.rate_at(rates.fit_coder(mean, joint, 4, known), exact(joint), grid)
        theory = gaussian_coding.conditional_rate(covariance, 4, grid * np.trace(joint[:4, :4]))
        np.testing.assert_allclose(found, theory.rate_nats, atol=5e-3)


def test_held_out_rate_and_gain_meet_theory_on_simulated_rows():
    rng = np.random.default_rng(5)
    joint = random_covariance(rng, 10)
    root = np.linalg.cholesky(joint)
    fitted, fresh = (rates.moments_of(rng.normal(size=(40_000, 10)) @ root.T + 3) for _ in range(2))
    shrunk = rates.oas(fitted.around(fitted.mean), fitted.n)
    coders = [rates.fit_coder(fitted.mean, shrunk, 4, known) for known in (False, True)]
    grid = np.array([0.5, 0.1, 0.02])
    target = grid * np.trace(joint[:4, :4])
    for coder, covariance in zip(coders, (joint[:4, :4], joint), strict=True):
        theory = gaussian_coding.conditional_rate(covariance, 4, target).rate_nats
        np.testing.assert_allclose(rates.rate_at(coder, fresh, grid), theory, atol=0.05)
    gain = rates.held_out_gain(*coders, fresh)
    assert gain == pytest.approx(gaussian_coding.side_information_gain(joint, 4), abs=0.03)


def test_held_out_rows_expose_a_saving_that_is_chance():
    # key and query independent: in sample there is a gain, and its bias formula says how much
    rng, n, size, side = np.random.default_rng(6), 300, 6, 20
    plug_in, held_out = [], []
    for _ in range(40):
        fitted, fresh = (rates.moments_of(rng.normal(size=(n, size + side))) for _ in range(2))
        sample = fitted.around(fitted.mean)
        plug_in.append(gaussian_coding.side_information_gain(sample, size))
        coders = [rates.fit_coder(fitted.mean, sample, size, known) for known in (False, True)]
        held_out.append(rates.held_out_gain(*coders, fresh))
    error = 5 * np.std(plug_in) / 40**0.5  # five standard errors: one false alarm in a million
    assert np.mean(plug_in) == pytest.approx(gaussian_coding.gain_bias(n, size, side), abs=error)
    assert np.mean(held_out) < 0 < np.mean(plug_in)


# --- the stored table -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def table():
    return claims.formulation.stored_rates()


def test_the_stored_table_has_every_document_layer_head_part_and_distortion(table):
    counts = [table[name].nunique() for name in ("doc", "layer", "head", "part", "distortion")]
    assert counts == [16, 30, 3, 2, len(rates.GRID)]
    assert len(table) == np.prod(counts) and table.notna().all().all()


def test_stored_rates_fall_with_distortion(table):
    keys = ["doc", "layer", "head", "part"]
    ordered = table.sort_values([*keys, "distortion"])
    for column in ("rate_bits", "rate_with_query_bits"):
        steps = ordered.groupby(keys)[column].diff().dropna()
        assert (steps <= 1e-4).all()


def test_too_few_rows_to_fit_raise_with_expected_and_got(tiny):
    with pytest.raises(ValueError, match="rows to fit: expected more than"):
        rates.measure(tiny, [np.arange(20), np.arange(20)])


def test_a_tiny_model_is_measured_from_pass_to_table(tiny):
    rng = np.random.default_rng(7)
    documents = [rng.integers(0, 256, 150) for _ in range(4)]
    table = rates.measure(tiny, documents)
    assert isinstance(table, pd.DataFrame) and table["doc"].nunique() == 4
    assert np.isfinite(table.filter(like="_bits")).all().all()
