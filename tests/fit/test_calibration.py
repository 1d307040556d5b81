"""Simulated studies: their means and tokens are exact, and the stored table meets its bounds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from kvlib import fit, store
from kvlib.fit import calibration
from kvlib.theory.gaussian import gaussian_kl

POWER, GEOMETRIC = calibration.power_designs(), calibration.geometric_designs()
DESIGNS = {design.name: design for design in POWER + GEOMETRIC}
PLUS, RECALL = DESIGNS["Gaussian α=1.0, plus"], DESIGNS["recall α=0.5"]
SMALL = {"windows": (1, 3, 8, 21), "context": 40, "targets": 12}
PERCENTILE, STUDENTISED, BCA, JACKKNIFE, TOKENS = calibration.METHODS


def gaussian_tokens(design, documents, seed):
    """KL of every token (documents, windows, targets), predicted window by window."""
    source, context = design.source, design.context
    paths = source.sample(context + design.targets, seed, documents)
    past = sliding_window_view(paths, context, axis=1)[:, : design.targets, ::-1]
    variance = source.innovation_variances(context)
    best = past @ source.predictor(context)
    kl = [
        gaussian_kl(best, variance[context], past[..., :w] @ source.predictor(w), variance[w])
        for w in design.windows
    ]
    return np.stack(kl, axis=1)


def recall_tokens(design, documents, seed):
    """KL of every answer, by asking each window what it has seen."""
    lags = design.source.sample(design.context + design.targets, seed, documents).lag
    kl = np.zeros((documents, len(design.windows), design.targets))
    for d, lag in enumerate(lags):
        for target in range(design.targets):
            now = design.context + target

            def knows(window, lag=lag, now=now):
                seen = range(now - window, now)
                return now - lag[now] in {*seen, *(s - lag[s] for s in seen)}

            for k, window in enumerate(design.windows):
                kl[d, k, target] = np.log(2) * (knows(design.context) and not knows(window))
    return kl


def renewal_tokens(design, documents, seed):
    """KL of every symbol, from sums over 5000 ages."""
    source, ages = design.source, np.arange(5000)
    weight = source.q * source.l1**ages + (1 - source.q) * source.l2**ages

    def rate(past, window):
        ones = np.flatnonzero(past[::-1][:window])
        if len(ones):
            return source.hazard(ones[0])
        return weight[window:] @ source.hazard(ages[window:]) / weight[window:].sum()

    def kl(p, q):
        return p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))

    paths = source.sample(design.context + design.targets, seed, documents)
    return np.array(
        [
            [
                [
                    kl(rate(path[:now], design.context), rate(path[:now], window))
                    for now in range(design.context, design.context + design.targets)
                ]
                for window in design.windows
            ]
            for path in paths
        ]
    )


def curve_of(design, doc_means):
    return next(calibration.curves(design, doc_means[None]))


@pytest.mark.parametrize(
    ("name", "tokens"),
    [
        ("Gaussian α=0.5, rudin-shapiro", gaussian_tokens),
        ("MA(1) b=0.9", gaussian_tokens),
        ("recall α=0.5", recall_tokens),
        ("recall α=1.5", recall_tokens),
        ("hyperexponential renewal", renewal_tokens),
    ],
)
def test_documents_are_what_their_tokens_say_one_by_one(name, tokens):
    design = replace(DESIGNS[name], documents=6, **SMALL)
    seed = int(np.random.SeedSequence(3).generate_state(1)[0])
    kl = tokens(design, 6, seed)
    means, products = calibration.simulate(design, studies=1, seed=3)
    np.testing.assert_allclose(means[0], kl.mean(axis=2), rtol=1e-9, atol=1e-13)
    expected = np.einsum("dwt,dvt->wv", kl, kl) / kl[:, 0].size
    np.testing.assert_allclose(products[0], expected, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("name", DESIGNS)
def test_the_mean_of_documents_is_the_difference_of_two_sensitivities(name):
    """480 documents. A true mean strays by 4.5 standard errors at one of the windows with
    probability below 25 · 7e-6 < 2e-4 a source."""
    means, _ = calibration.simulate(DESIGNS[name], studies=20, seed=5)
    flat = means.reshape(-1, means.shape[-1])
    error = flat.std(axis=0, ddof=1) / np.sqrt(len(flat))
    source, windows = DESIGNS[name].source, DESIGNS[name].windows
    expected = source.sensitivity(windows) - source.sensitivity(DESIGNS[name].context)
    assert (np.abs(flat.mean(axis=0) - expected) < 4.5 * error).all()


@pytest.mark.parametrize("name", [design.name for design in POWER])
def test_the_estimand_is_the_exponent_where_the_law_is_exact(name):
    design = DESIGNS[name]
    means, _ = calibration.simulate(design, studies=10, seed=6)
    found = calibration.estimand(design, means)
    if name.startswith("Gaussian"):
        assert found == pytest.approx(design.source.alpha, abs=1e-5)
    else:  # Δ of recall is steeper only in the limit
        assert 0.9 * design.source.alpha < found < design.source.alpha


@pytest.mark.parametrize("design", [PLUS, RECALL], ids=lambda d: d.name)
def test_intervals_agree_with_the_functions_that_studies_use(design):
    means, products = calibration.simulate(design, studies=1, seed=7)
    data = curve_of(design, means[0])
    alpha, found = calibration.intervals(data, products[0], design.targets, n_boot=500, seed=8)
    percentile, jackknife = (
        fit.exponent(data, interval="percentile", n_boot=500, seed=8),
        fit.jackknife_t(data),
    )
    assert alpha == pytest.approx(percentile.value, abs=1e-5)
    assert found[PERCENTILE] == pytest.approx((percentile.low, percentile.high), abs=1e-5)
    assert found[JACKKNIFE] == (jackknife.low, jackknife.high)
    assert jackknife.value == percentile.value


def test_the_naive_interval_is_what_resampling_tokens_gives():
    """2000 resamples know a width to 3%."""
    design = replace(PLUS, windows=(2, 4, 8, 16, 32), context=64, targets=32)
    seed = int(np.random.SeedSequence(9).generate_state(1)[0])
    kl = gaussian_tokens(design, 24, seed)
    means, products = calibration.simulate(design, studies=1, seed=9)
    data = curve_of(design, means[0])
    _, found = calibration.intervals(data, products[0], design.targets, n_boot=100, seed=0)
    tokens = kl.transpose(0, 2, 1).reshape(-1, len(design.windows))
    n = len(tokens)
    counts = np.random.default_rng(1).multinomial(n, np.full(n, 1 / n), size=2000)
    drawn = fit.fit_law(
        calibration.LAW, data.window, counts @ tokens / n, data.weights, data.contexts
    ).exponent
    width = found[TOKENS][1] - found[TOKENS][0]
    assert width == pytest.approx(2 * 1.96 * drawn.std(), rel=0.12)


def test_gradients_are_those_of_the_fit():
    design = RECALL
    means, _ = calibration.simulate(design, studies=1, seed=10)
    data = curve_of(design, means[0])

    def alpha(value):
        return fit.fit_law(
            calibration.LAW, data.window, value, data.weights, data.contexts
        ).exponent

    found = calibration.gradients(data.mean[None], alpha(data.mean)[None], data)[0]
    steps = 1e-3 * np.diag(data.mean)
    slopes = (alpha(data.mean + steps) - alpha(data.mean - steps)) / (2e-3 * data.mean)
    np.testing.assert_allclose(found, slopes, rtol=1e-3, atol=1e-3 * np.abs(slopes).max())


def test_the_jackknife_interval_is_students_where_the_fit_is_linear():
    """Documents that differ by small powers of w: α is linear in them, and weights stay put."""
    rng, n = np.random.default_rng(11), 9
    powers = 1e-4 * rng.standard_normal((n, 1)) * np.log(PLUS.windows)
    data = curve_of(PLUS, PLUS.expected * (1 + powers))
    whole = fit.fit_law(
        calibration.LAW, data.window, data.mean, data.weights, data.contexts
    ).exponent
    slope = calibration.gradients(data.mean[None], whole[None], data)[0]
    error = ((data.doc_means - data.mean) @ slope).std(ddof=1) / np.sqrt(n)
    found = fit.jackknife_t(data)
    assert (found.high - found.low) / 2 == pytest.approx(2.306 * error, rel=1e-3)  # t, 8 degrees
    with pytest.raises(ValueError, match="expected at least 3 .* got 2"):
        fit.jackknife_t(curve_of(PLUS, data.doc_means[:2]))


def test_a_miniature_covers_and_says_how_often():
    """100 studies. An interval that covers 95% covers fewer than 85 with probability 4e-5."""
    table = calibration.coverage(RECALL, studies=100, n_boot=100, seed=12).set_index("method")
    assert table.loc[JACKKNIFE, "hits"] >= 85
    row = table.loc[JACKKNIFE]
    assert row["low"] < row["share"] == row["hits"] / 100 < row["high"]
    assert (table["studies"] == 100).all() and (table["mean_width"] > 0).all()


def test_resampling_tokens_undercovers_where_neighbours_are_alike():
    """60 studies. Intervals that cover even half would cover 20 or fewer with probability 7e-3;
    these cover one study in seven, and pass all but once in 10^4."""
    table = calibration.coverage(PLUS, studies=60, n_boot=100, seed=13).set_index("method")
    assert table.loc[TOKENS, "hits"] <= 20
    assert table.loc[JACKKNIFE, "hits"] >= 48
    assert table.loc[TOKENS, "mean_width"] < table.loc[PERCENTILE, "mean_width"] / 5


@pytest.mark.parametrize("design", GEOMETRIC, ids=lambda d: d.name)
def test_the_contest_names_the_exponential_on_geometric_controls(design):
    table = calibration.contest(design, studies=20, n_boot=50, seed=14).set_index("method")
    assert table.loc["exponential before power", "hits"] == 20


# --- the stored table -------------------------------------------------------------------------


def stored():
    return store.load_table(store.DATA / "calibration")


def test_the_stored_jackknife_covers_92_to_98_percent_of_1000_studies_or_more():
    table = stored().query("check == 'interval' and method == @JACKKNIFE")
    assert set(table["source"]) == {design.name for design in POWER}
    assert (table["studies"] >= 1000).all()
    assert table["share"].between(0.92, 0.98).all()
    assert (table["low"] < table["share"]).all() and (table["share"] < table["high"]).all()


def test_the_stored_tokens_interval_fails_and_percentiles_run_narrow():
    table = (
        stored()
        .query("check == 'interval'")
        .pivot(index="source", columns="method", values=["share", "mean_width"])
    )
    assert table["share"].loc[PLUS.name, TOKENS] < 0.3
    assert (table["share"][PERCENTILE] < table["share"][JACKKNIFE]).all()
    assert table["share"][PERCENTILE].min() < 0.92


def test_the_stored_contest_names_the_exponential_in_95_percent_and_never_on_a_power_law():
    table = stored().query("check == 'contest' and method == 'exponential before power'")
    shares = table.set_index("source")["share"]
    assert (table["studies"] >= 1000).all()
    assert (shares[[design.name for design in GEOMETRIC]] >= 0.95).all()
    assert (shares[[name for name in shares.index if "α" in name]] <= 0.05).all()


def test_the_stored_table_is_of_the_designs_in_the_code():
    settings = store.read_manifest(store.DATA / "calibration")["settings"]
    assert [d["source"] for d in settings["designs"]] == [repr(d.source) for d in DESIGNS.values()]
    for told, design in zip(settings["designs"], DESIGNS.values(), strict=True):
        for name in ("windows", "context", "targets", "documents"):
            assert told[name] == (
                list(design.windows) if name == "windows" else getattr(design, name)
            )
