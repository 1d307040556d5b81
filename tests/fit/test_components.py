"""Variance components: planted answers, a table by loops, no bias, honest intervals."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from kvlib import fit
from kvlib.fit import components

SHAPE = (4, 3, 8)  # texts, models, documents


def drawn(rng: np.random.Generator, deviations: tuple, shape=SHAPE) -> tuple:
    """A table with normal effects of these standard deviations (in the order of PARTS), and the
    effects of text, model and cell."""
    i, j, k = shape
    shapes = (i, 1, 1), (1, j, 1), (i, j, 1), (i, 1, k), (i, j, k)
    effects = [d * rng.standard_normal(s) for d, s in zip(deviations, shapes, strict=True)]
    return sum(effects), effects[:3]


def shares(values: np.ndarray) -> dict[str, float]:
    found = fit.variance_components(values, n_boot=10)
    return {part: item.value for part, item in zip(found["part"], found["share"], strict=True)}


# --- planted answers ------------------------------------------------------------------------------


@pytest.mark.parametrize("whose", range(5))
def test_a_table_that_is_all_one_parts_has_its_share_one(whose):
    """Documents and rest alone scatter into the others' mean squares; the first three don't."""
    rng = np.random.default_rng(whose)
    deviations = [0.0] * 5
    deviations[whose] = 1.0
    values, _ = drawn(rng, tuple(deviations), (40, 30, 20) if whose > 1 else SHAPE)
    found = shares(values)
    part = fit.PARTS[whose]
    if whose < 2:
        assert found[part] == pytest.approx(1) and sum(found.values()) == pytest.approx(1)
    else:
        table = fit.variance_components(values, n_boot=10).set_index("part")["variance"]
        assert table[part] == pytest.approx(1, abs=0.1)
        assert table.drop(part).max() < 0.05


def test_an_exponent_of_the_texts_alone_has_every_other_part_at_nothing():
    values = np.zeros(SHAPE) + np.array([0.3, 0.5, 0.6, 0.9])[:, None, None]
    found = fit.variance_components(values, n_boot=50).set_index("part")
    assert found.loc["texts", "share"].low == pytest.approx(1)
    assert found.loc["texts", "variance"] == pytest.approx(np.var([0.3, 0.5, 0.6, 0.9], ddof=1))
    assert found["variance"].drop("texts").max() < 1e-12


def test_an_exponent_of_the_models_alone_is_theirs():
    values = np.zeros(SHAPE) + np.array([0.3, 0.5, 0.9])[:, None]
    found = fit.variance_components(values, n_boot=50).set_index("part")
    assert found.loc["models", "share"].value == pytest.approx(1)
    assert found.loc["models", "variance"] == pytest.approx(np.var([0.3, 0.5, 0.9], ddof=1))


# --- two routes -----------------------------------------------------------------------------------


def plain_table(values: np.ndarray) -> list[float]:
    """The analysis of variance by loops over the cells, from its textbook sums of squares."""
    n_texts, n_models, n_docs = values.shape
    whole = np.mean(values)
    sums = [0.0] * 5
    for i, j, k in itertools.product(*map(range, values.shape)):
        text, model = np.mean(values[i]), np.mean(values[:, j])
        cell, document = np.mean(values[i, j]), np.mean(values[i, :, k])
        sums[0] += (text - whole) ** 2
        sums[1] += (model - whole) ** 2
        sums[2] += (cell - text - model + whole) ** 2
        sums[3] += (document - text) ** 2
        sums[4] += (values[i, j, k] - cell - document + text) ** 2
    degrees = [
        n_texts - 1,
        n_models - 1,
        (n_texts - 1) * (n_models - 1),
        n_texts * (n_docs - 1),
        n_texts * (n_models - 1) * (n_docs - 1),
    ]
    assert sum(degrees) == values.size - 1
    assert sum(sums) == pytest.approx(np.sum((values - whole) ** 2))
    return [total / of for total, of in zip(sums, degrees, strict=True)]


def test_mean_squares_are_those_of_a_plain_table_made_by_loops():
    values, _ = drawn(np.random.default_rng(3), (1, 0.5, 0.3, 1, 0.7))
    assert components.mean_squares(values) == pytest.approx(plain_table(values))


def test_a_stack_of_tables_is_each_by_itself():
    stack = np.stack([drawn(np.random.default_rng(seed), (1,) * 5)[0] for seed in (1, 2)])
    found = components.mean_squares(stack)
    assert found[1] == pytest.approx(components.mean_squares(stack[1]))


def test_pseudo_values_of_a_mean_are_the_values():
    values = np.array([0.2, 0.5, 0.9, 0.1])
    left_out = np.array([values.mean(), *fit.means_without_each(values)])
    assert fit.pseudo_values(left_out) == pytest.approx(values)


# --- what is estimated ----------------------------------------------------------------------------


def test_each_variance_is_met_on_average():
    """Without the cut at zero the method of moments has no bias: 600 tables, within 4 errors."""
    rng = np.random.default_rng(5)
    deviations = (0.5, 0.3, 0.2, 1.0, 0.7)
    found = []
    for _ in range(600):
        values, _ = drawn(rng, deviations)
        found.append(components.components_of(components.mean_squares(values), SHAPE))
    mean, error = np.mean(found, axis=0), np.std(found, axis=0) / np.sqrt(len(found))
    assert (np.abs(mean - np.square(deviations)) < 4 * error).all()


def test_a_negative_variance_counts_as_none_and_is_told():
    rng = np.random.default_rng(0)
    tables = [drawn(rng, (0, 0, 0, 1, 1))[0] for _ in range(20)]
    found = [fit.variance_components(values, n_boot=10) for values in tables]
    negative = [one for one in found if (one["raw"] < 0).any()]
    assert negative
    for one in negative:
        below = one["raw"] < 0
        assert (one.loc[below, "variance"] == 0).all()
        assert all(item.value == 0 for item in one.loc[below, "share"])


def test_the_interval_holds_the_share_of_these_texts_and_models():
    """Of 120 studies of one set of texts and models at least 100 should hold the share of texts
    that endless documents give; were the interval's promise true, fewer would with 1e-5."""
    shape = (3, 3, 24)
    _, effects = drawn(np.random.default_rng(3), (0.12, 0.04, 0.02, 0, 0), shape)
    base = sum(effects)
    truth = components.mean_squares(np.concatenate([base, base], axis=-1))
    truth *= np.array([12, 12, 12, 1, 1])  # 24 documents instead of 2, without noise
    expected = components.components_of(truth, shape)
    rng, held, widths = np.random.default_rng(9), 0, []
    noise = 0.3, 0.2
    for _ in range(120):
        values = base + noise[0] * rng.standard_normal((3, 1, 24))
        values = values + noise[1] * rng.standard_normal(shape)
        item = fit.variance_components(values, n_boot=300)["share"][0]
        full = expected + np.array([0, 0, 0, noise[0] ** 2, noise[1] ** 2])
        held += item.low <= components.shares_of(full, 24)[0] <= item.high
        widths.append(item.high - item.low)
    assert held >= 100
    assert np.mean(widths) < 0.4  # and says something


def test_where_there_is_noise_alone_no_text_or_model_is_found():
    """Of 60 tables more than 6 would have an interval above zero with probability 0.03 for each
    part, were it one in twenty; resampled noise that is counted twice puts it there often."""
    rng = np.random.default_rng(6)
    found = [fit.variance_components(drawn(rng, (0, 0, 0, 0, 1))[0], n_boot=300) for _ in range(60)]
    for place in range(3):
        assert sum(one["share"][place].low > 0 for one in found) <= 6


def test_few_degrees_of_freedom_know_a_variance_badly():
    assert components.factor_known(2) == pytest.approx((0.271, 39.5), rel=0.01)
    low, high = components.factor_known(100)
    assert 0.7 < low < 1 < high < 1.4


# --- ranks ----------------------------------------------------------------------------------------


def test_a_rank_correlation_is_scipys_and_one_for_any_rising_pair():
    rng = np.random.default_rng(2)
    x = rng.standard_normal(24)
    y = x + rng.standard_normal(24)
    assert fit.rank_correlation(x, y).value == pytest.approx(stats.spearmanr(x, y)[0])
    rising = fit.rank_correlation(x, np.exp(x))
    assert rising.value == pytest.approx(1) and rising.low > 0.99
    assert fit.rank_correlation(x, -x).value == pytest.approx(-1)


def test_the_interval_of_no_correlation_leaves_zero_in_about_one_of_twenty():
    rng = np.random.default_rng(4)
    items = [fit.rank_correlation(*rng.standard_normal((2, 24))) for _ in range(1000)]
    assert 20 <= sum(not item.low <= 0 <= item.high for item in items) <= 90


# --- a curve of signed values ---------------------------------------------------------------------


def test_bins_without_a_logarithm_are_left_out_of_a_signed_curve():
    from studies import table_of

    means = np.array([[1.0, 0.5, 0.2, -0.1], [1.1, 0.4, -0.3, -0.2], [0.9, 0.6, 0.3, 0.1]])
    table = table_of(means, [8, 16, 32, 64])
    with pytest.raises(ValueError, match="finite values ≥ 0"):
        fit.curve(table)
    data = fit.curve(table, signed=True)
    assert data.mean == pytest.approx(means.mean(axis=0))
    assert data.positive().last.tolist() == [8, 16]  # 32: negative without the third


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: fit.variance_components(np.zeros((1, 3, 8))), "2 or more"),
        (lambda: fit.variance_components(np.zeros((3, 8))), "2 or more"),
        (lambda: fit.variance_components(np.full(SHAPE, np.nan)), "finite"),
        (lambda: fit.pseudo_values(np.array([1.0, 1.0])), "at least 2"),
        (lambda: fit.rank_correlation(np.arange(4), np.arange(4)), "5 or more"),
        (lambda: fit.rank_correlation(np.ones(9), np.arange(9)), "different"),
    ],
)
def test_bad_input_raises_in_one_line(call, said):
    with pytest.raises(ValueError, match=said):
        call()
