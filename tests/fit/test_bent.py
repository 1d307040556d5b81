"""Bent laws: exact curves give their shapes back, and a plain optimiser finds the same minimum."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import least_squares

from kvlib import fit
from kvlib.fit import bent, studies

WINDOWS = 2.0 ** np.arange(3, 10.01, 0.25)
CONTEXTS = np.linspace(2048, 3072, 32)


def curve_of(expected: np.ndarray, spread: float = 0.0, docs: int = 12, seed: int = 0) -> fit.Curve:
    """A study whose documents scatter a little around a curve, alike at neighbouring windows."""
    rng = np.random.default_rng(seed)
    level = 0.1 * rng.standard_normal((docs, 1)) + spread * rng.standard_normal(
        (docs, len(WINDOWS))
    )
    doc_means = expected * np.exp(level)
    doc_means *= expected / doc_means.mean(axis=0) if spread == 0 else 1
    whole = WINDOWS.astype(int)
    return fit.Curve(WINDOWS, whole, whole, doc_means, CONTEXTS, docs, docs)


def law(b: float, c: float, x: np.ndarray) -> np.ndarray:
    """exp(-c ℓ_b(x/64)), written out case by case."""
    x = x / 64
    return x**-c if b == 0 else np.exp(-c * (x**b - 1) / b)


@pytest.mark.parametrize("b", [-0.4, 0.0, 0.3, 1.0])
@pytest.mark.parametrize("root", [False, True])
def test_an_exact_curve_gives_its_bend_back(b, root):
    curve = curve_of(0.2 * law(b, 0.6, WINDOWS) ** (0.5 if root else 1.0))
    found = fit.bend(curve, root)
    assert found.first.value == pytest.approx(b, abs=1e-4)
    assert found.second.value == pytest.approx(0.6, rel=1e-4)


@pytest.mark.parametrize("b", [0.0, 0.3, 1.0])
def test_an_exact_curve_with_a_finite_reference_gives_its_bend_back(b):
    far = law(b, 0.6, CONTEXTS + 1).mean()
    found = fit.bend_of_reference(curve_of(0.2 * (law(b, 0.6, WINDOWS + 1) - far)))
    assert found.first.value == pytest.approx(b, abs=1e-3)
    assert found.second.value == pytest.approx(0.6, rel=2e-3)


@pytest.mark.parametrize("strength", [0.0, 0.7, 1.0, -0.5])
def test_an_exact_curve_gives_the_strength_of_its_reference_back(strength):
    far = ((CONTEXTS + 1) ** -0.5).mean()
    found = fit.strength(curve_of(0.2 * ((WINDOWS + 1) ** -0.5 - strength * far)))
    assert found.first.value == pytest.approx(0.5, abs=1e-3)
    assert found.second.value == pytest.approx(strength, abs=2e-3)


def test_below_zero_the_bracket_turns_the_family_back_into_the_power_law():
    power = (WINDOWS + 1) ** -0.5 - ((CONTEXTS + 1) ** -0.5).mean()
    b, c = np.array([-0.5]), np.array([1e-7])
    shown = np.exp(bent.bracketed(b, c, WINDOWS, CONTEXTS)[0])
    assert shown / shown[0] == pytest.approx(power / power[0], rel=1e-5)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("of", ["plain", "bracketed", "weighed"])
def test_the_shapes_are_those_of_a_plain_optimiser(seed, of):
    family = getattr(bent, of)
    data = curve_of(0.3 * law(0.2, 0.5, WINDOWS), spread=0.05, seed=seed)
    grids = {
        "plain": (bent.BENDS, bent.RATES),
        "bracketed": (bent.BRACKET_BENDS, bent.RATES),
        "weighed": (np.linspace(0.02, 3, 120), np.linspace(-4, 4, 161)),
    }[of]
    y, weights = bent.leaving_out(data)
    ours = bent.solve(y, weights, family, *grids, data)
    for k in (0, 5):

        def miss(shapes, k=k):
            x = family(shapes[:1], shapes[1:], data.window, data.contexts)[0]
            gap = np.nan_to_num(y[k] - x, nan=1e3, posinf=1e3, neginf=-1e3)
            return np.sqrt(weights[k]) * (gap - gap @ weights[k])

        low, high = ([grid[end] for grid in grids] for end in (0, -1))
        start = np.clip(ours[k] + [0.03, -0.02], np.add(low, 1e-6), np.subtract(high, 1e-6))
        plain = least_squares(miss, start, bounds=(low, high), xtol=1e-14, ftol=1e-14, gtol=1e-14)
        assert (miss(ours[k]) ** 2).sum() <= (plain.fun**2).sum() * (1 + 1e-6)
        if (plain.fun**2).sum() < (miss(ours[k]) ** 2).sum() * (1 + 1e-9):
            assert ours[k] == pytest.approx(plain.x, rel=5e-3, abs=1e-3)


def test_leaving_out_at_once_is_leaving_out_one_by_one():
    data = curve_of(law(0, 0.5, WINDOWS), spread=0.1)
    y, weights = bent.leaving_out(data)
    for k, one in enumerate(data.leaving_out()):
        assert y[k] == pytest.approx(np.log(one.mean))
        assert weights[k] == pytest.approx(one.weights)


def test_few_windows_or_documents_are_refused():
    data = curve_of(law(0, 0.5, WINDOWS), spread=0.1)
    with pytest.raises(ValueError, match="windows: expected at least 4, got 3"):
        fit.bend(data.between(0, 12))
    with pytest.raises(ValueError, match="documents: expected at least 3.*got 2"):
        fit.bend(replace(data, doc_means=data.doc_means[:2]))


def test_simulated_studies_have_the_expectation_and_the_spread_asked_for():
    data = curve_of(law(0, 0.5, WINDOWS), spread=0.2, docs=40)
    expected = studies.expectation(data, 0.3, bracket=False)
    assert fit.bend(curve_of(expected)).first.value == pytest.approx(0.3, abs=1e-3)
    drawn = np.stack([one.doc_means for one in studies.studies(data, expected, 200, seed=1)])
    # 8,000 documents of relative spread 0.23: means within 4 standard errors
    assert drawn.mean(axis=(0, 1)) == pytest.approx(expected, rel=4 * 0.24 / np.sqrt(8000))
    assert np.log(drawn).std(axis=(0, 1)) == pytest.approx(np.log(data.doc_means).std(0), rel=0.1)


def test_the_estimates_of_simulated_studies_hold_the_truth_about_as_often_as_they_say():
    data = curve_of(law(0.1, 0.5, WINDOWS), spread=0.1)
    rows = studies.bends(data, n=12, truths=(0.0, 1.0))
    held = (rows["low"] <= rows["truth"] + 1e-9) & (rows["truth"] <= rows["high"])
    # 48 intervals of 95%: fewer than 39 hold with probability 1e-4
    assert len(rows) == 48 and held.sum() >= 39


@pytest.mark.parametrize(("bracket", "root"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("b", [0.0, 0.35, 1.0])
def test_the_law_of_one_bend_is_the_one_that_studies_start_from(b, bracket, root):
    data = curve_of(0.2 * law(0.2, 0.6, WINDOWS), spread=0.05)
    found = fit.bent_law(data, b, bracket, root)
    expected = np.log(studies.expectation(data, b, bracket, root))
    assert found.log_value(WINDOWS) == pytest.approx(expected, abs=1e-9)
    miss = np.log(data.mean) - expected
    assert found.misfit == pytest.approx(np.sqrt(data.weights @ miss**2), abs=1e-9)


def test_no_other_rate_of_that_bend_fits_better():
    data = curve_of(0.2 * law(0.2, 0.6, WINDOWS), spread=0.05)
    found = fit.bent_law(data, 0.5, bracket=True)

    def missed(rate):
        near, far = law(0.5, rate, WINDOWS + 1), law(0.5, rate, CONTEXTS + 1).mean()
        miss = np.log(data.mean) - np.log(near - far)
        return np.sqrt(data.weights @ (miss - data.weights @ miss) ** 2)

    assert missed(found.rate) == pytest.approx(found.misfit, rel=1e-9)
    assert all(missed(found.rate * by) > found.misfit for by in (0.98, 1.02))
