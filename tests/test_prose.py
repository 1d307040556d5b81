"""The sentences of the book hold for the stored data: one test a sentence, named after it.

A test that fails says which sentence to rewrite. What a page prints of a number comes from the
`facts` of its module in `kvlib.claims` and follows the data by itself; here stands what the words
around the numbers say. Tables and fits are made once, by the fixtures on top of each page's part.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from kvlib import claims, fit, names, store
from kvlib.claims.policy_rows import CORPUS, DISTANCES, MODEL, RANDOM, SINKS, SLIDING
from kvlib.study import architectures, checks, reproduce
from kvlib.theory import bounds, closed_forms
from kvlib.theory import drafting as theory_of_drafting

ROOT = Path(__file__).parents[1]


def glued(page: str) -> set[str]:
    """Names of the values that the prose of a page glues."""
    text = (ROOT / f"{page}.md").read_text(encoding="utf-8")
    return set(re.findall(r"\{glue:text\}`([^`]+)`", text))


def assert_all_is_said(page: str, facts: dict[str, str]) -> None:
    """The facts of a page are what it glues, no more and no less, and each is a text."""
    assert facts.keys() == glued(page)
    assert all(isinstance(value, str) and value.strip() for value in facts.values())
    assert not [name for name, value in facts.items() if value in ("nan", "inf", "None")]


# --- tables that several pages share --------------------------------------------------------------


@pytest.fixture(scope="session")
def curves() -> dict[tuple[str, str], fit.Curve]:
    """KL over windows, a curve a stored table."""
    return claims.claim.stored_curves()


@pytest.fixture(scope="session")
def rows() -> pd.DataFrame:
    """The stored rows of policies."""
    return claims.policy_rows.stored_rows()


@pytest.fixture(scope="session")
def suffixes() -> dict[tuple[str, str], pd.DataFrame]:
    return claims.policy_rows.suffix_tables()


@pytest.fixture(scope="session")
def foretold(rows, suffixes) -> pd.DataFrame:
    """What the law of suffixes foretells for each policy, in each protocol."""
    return claims.policy_laws.predictions(rows, suffixes)


# --- index ----------------------------------------------------------------------------------------


def test_index_nine_pages_one_to_three_claims_each():
    pages = [claim.page for claim in claims.front.claims()]
    counts = [pages.count(page) for page in dict.fromkeys(pages)]
    assert len(counts) == 9 and set(counts) <= {1, 2, 3}


def test_index_every_model_and_text_of_the_book_is_in_its_tables():
    tables = store.tables()
    of = {
        key: {t.settings[key] for t in tables if key in t.settings} for key in ("model", "corpus")
    }
    assert set(claims.measured.models()["model"]) == of["model"]
    assert set(claims.measured.texts()["text"]) == of["corpus"]


# --- story ----------------------------------------------------------------------------------------


def test_the_facts_of_story_are_what_its_prose_glues(curves, carry):
    powers = claims.shared.exponents(claims.shared.stored())
    facts = claims.story.facts(curves) | claims.whose_exponent.spread_facts(powers)
    facts |= claims.story.carry_facts(carry[0])
    assert_all_is_said("notebooks/story", facts)


def test_story_a_cache_with_sinks_compares_worst_on_one_model_and_well_on_the_others(carry):
    """ "At most so many times that": by a factor of three nowhere, by half on no other model."""
    said = claims.story.carry_facts(carry[0])
    worst, rest = (float(said[key].split()[0]) for key in ("carry-worst", "carry-rest"))
    assert 1.5 < worst < 3 and 1 < rest < 1.5


def test_story_the_more_is_kept_the_fewer_words_go_dark_and_with_sixteen_many_do():
    shown = claims.story.stored_passage().query("policy == 'sinks'")
    dark = shown.assign(dark=shown["kl_nats"] >= 0.5).groupby("budget")["dark"].mean()
    assert dark.is_monotonic_decreasing and dark.loc[16] > 0.2


def test_story_the_measured_share_of_a_doubling_is_not_quite_the_same_everywhere(curves):
    first = next(iter(curves.values())).between(claims.claim.MIN_WINDOW)
    slopes = fit.local_slopes(first)["slope"]
    assert slopes.max() > 1.5 * slopes.min()


def test_story_an_exponent_is_not_the_texts_alone():
    powers = claims.shared.exponents(claims.shared.stored())
    powers = powers[powers["model"] != claims.shared.SHORTER]
    sure = [
        max(item.low for item in part["KL"]) > min(item.high for item in part["KL"])
        for _, part in powers.groupby("corpus")
    ]
    assert any(sure)  # two models of one text whose intervals do not meet


@pytest.fixture(scope="session")
def online_means(rows) -> pd.DataFrame:
    """Mean KL of SmolLM2 on the World English Bible online: budget by policy, nats."""
    ours = rows[(rows["model"] == MODEL) & (rows["corpus"] == CORPUS)]
    ours = claims.policy_rows.summary(ours[ours["protocol"] == "online"])
    return ours.pivot(index="budget", columns="policy", values="mean")


@pytest.fixture(scope="session")
def off_by(foretold) -> pd.DataFrame:
    """(policy, model) → least and largest factor between measured and foretold, on that text."""
    web = foretold[(foretold["protocol"] == "online") & (foretold["corpus"] == CORPUS)]
    web = web.assign(off=[item.value for item in web["factor"]])
    return web.groupby(["policy", "model"])["off"].agg(["min", "max"])


def test_story_on_every_table_the_exponential_is_the_worse_description(curves):
    assert all(item.value > 1 for item in claims.extrapolation.contests(curves)["exponential"])


def test_story_a_sliding_window_is_about_as_bad_as_throwing_out_entries_at_random(online_means):
    assert (online_means[SLIDING] / online_means[RANDOM]).between(0.5, 2).all()


def test_story_add_four_sinks_and_it_becomes_one_of_the_best(online_means):
    assert (online_means[SINKS] < 1.5 * online_means.min(axis=1)).all()


def test_story_two_orders_of_magnitude_depend_on_the_protocol(ratio):
    ours = ratio[(ratio["model"] == MODEL) & (ratio["corpus"] == CORPUS)]
    at = ours[(ours["policy"] == SINKS) & (ours["budget"] == 256)].set_index("protocol")["ratio"]
    least, most = sorted((at["online"], at["prefill"]), key=lambda item: item.value)
    assert least.high < most.low


def test_story_one_token_in_twenty_loses_far_more(rows):
    ours = claims.policy_rows.summary(online_of(rows, SINKS))
    assert (ours["p95"] > 2 * ours["mean"]).all()


def test_story_no_window_up_to_a_thousand_tokens_was_long_enough_to_lose_nothing(
    curves, online_means
):
    longest = [fit.mean_of(pd.Series(data.doc_means[:, -1])) for data in curves.values()]
    assert all(item.low > 0 for item in longest)
    assert (online_means[SINKS] > 0.01).all()


def test_story_within_half_as_much_again_on_smollm2_of_reading_the_window_from_scratch(off_by):
    assert 1 / 1.6 < off_by.loc[(SINKS, MODEL), "min"]
    assert off_by.loc[(SINKS, MODEL), "max"] < 1.6


def test_story_within_a_factor_of_about_two_on_gemma(off_by):
    gemma = off_by.loc[(SINKS, "gemma3-270m")]
    assert 1 / 2.3 < gemma["min"] and gemma["max"] < 2.3


def test_story_one_without_sinks_loses_far_more(off_by):
    assert (off_by.loc[SLIDING, "min"] > 2).all()


def test_story_on_sources_built_for_the_purpose_a_summary_can_beat_the_law(memory_table):
    assert (memory_table["outcome"] == "wins").any()


def test_story_caches_that_carry_gain_at_the_smallest_budget_of_one_table_and_no_gain_grows(carry):
    equal = at_same_budget(carry)
    gains = claims.open_question.surely(equal[0], gain=True)
    assert set(gains["budget"]) == {equal[0]["budget"].min()}
    assert len(gains[["model", "corpus"]].drop_duplicates()) == 1
    assert all(item.value > 0.9 for item in gains["ratio"])
    assert "yes" not in {
        claims.open_question.answer_of_caches(*equal_in(equal, d)) for d in DISTANCES
    }


def test_story_one_yahweh_is_dark_with_sinks_and_lighter_with_random_retention():
    shown = claims.story.stored_passage().query("budget == 128")
    shown = shown[shown["token"].str.strip() == "Yahweh"]
    kl = shown.pivot(index="position", columns="policy", values="kl_nats")
    assert (kl[SINKS] > 2 * kl[RANDOM]).any()


# --- sensitivity ----------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def bible(curves) -> fit.Curve:
    return curves[claims.sensitivity.SHOWN]


@pytest.fixture(scope="session")
def decay(curves) -> pd.DataFrame:
    return claims.sensitivity.decay(curves)


@pytest.fixture(scope="session")
def drift(curves) -> pd.DataFrame:
    return claims.sensitivity.starting_points(curves, firsts=(2, 33))


@pytest.fixture(scope="session")
def slopes(bible) -> pd.DataFrame:
    return fit.local_slopes(bible)


@pytest.fixture(scope="session")
def signs() -> pd.DataFrame:
    path = store.stored("diagnostics")[claims.sensitivity.SHOWN]
    return claims.sensitivity.nested_summary(store.load_table(path))


@pytest.fixture(scope="session")
def both_distances() -> dict[str, dict[tuple[str, str], fit.Curve]]:
    return claims.sensitivity.both_distances()


@pytest.fixture(scope="session")
def bent(both_distances) -> pd.DataFrame:
    return claims.sensitivity.bends(both_distances)


@pytest.fixture(scope="session")
def powers(both_distances) -> pd.DataFrame:
    return claims.sensitivity.exponents(both_distances)


@pytest.fixture(scope="session")
def strong(both_distances) -> pd.DataFrame:
    return claims.sensitivity.strengths(both_distances)


@pytest.fixture(scope="session")
def excess(rows) -> pd.DataFrame:
    return claims.data_check.excess_over_kl(rows)


def test_sensitivity_every_value_of_the_page_is_a_fact(
    both_distances, bent, powers, decay, drift, slopes, signs, excess
):
    facts = claims.sensitivity.facts(both_distances, bent, powers, decay, drift, slopes, signs)
    assert_all_is_said("notebooks/sensitivity", facts | claims.data_check.facts(excess))


def test_sensitivity_on_most_tables_the_loss_is_the_kl_within_the_intervals(excess):
    suffix = excess[(excess["policy"] == SLIDING) & (excess["protocol"] == "reencode")]
    held = suffix["ratio"].map(lambda item: item.low <= 1 <= item.high)
    assert len(suffix) >= 8 and held.mean() > 0.5 and not held.all()
    assert all(item.high < 1 for item in suffix["ratio"][~held])


def test_index_its_values_are_those_of_the_page_on_sensitivity_and_of_what_was_measured(powers):
    facts = claims.sensitivity.alpha_facts(powers) | claims.measured.facts()
    rows = claims.policy_rows.summary(claims.policy_rows.stored_rows())
    curves, costs = claims.claim.stored_curves(), claims.claim.cache_costs()
    front = claims.story.front_facts(curves, rows, costs)
    assert front.keys() < glued("book/index") < facts.keys() | front.keys()


def test_sensitivity_each_word_was_within_reach():
    been = claims.sensitivity.had_it_been(claims.sensitivity.simulated()).set_index("b")
    assert been.loc[1.0, "not reproduced"] > 0.95
    assert been.loc[0.0, "reproduced"] > 0.5 and been.loc[0.3, "partly"] > 0.5


def test_sensitivity_kl_falls_faster_than_tv(powers):
    pairs = zip(powers["KL, plain"], powers["TV, plain"], strict=True)
    assert all(kl.value > 1.3 * tv.value for kl, tv in pairs)


def test_sensitivity_either_way_one_lies_outside_every_interval(bent):
    judged = claims.sensitivity.starting_at(bent)
    assert all(item.high < 1 for item in [*judged["plain"], *judged["reference"]])


def test_sensitivity_an_exponential_is_excluded_and_a_power_law_describes_most_tables(bent):
    judged = claims.sensitivity.starting_at(bent)
    for _, part in judged.groupby("distance"):
        assert part["not geometric"].mean() > 0.75 and part["power law"].mean() > 0.5


def test_sensitivity_fitted_late_two_octaves_of_seven_are_gone(bible):
    early, late = (bible.between(first) for first in (8, claims.sensitivity.FIRSTS[-1]))
    assert np.log2(late.first[0] / early.first[0]) == pytest.approx(2, abs=0.2)
    assert np.log2(early.last[-1] / early.first[0]) == pytest.approx(7, abs=0.3)


def test_sensitivity_fitted_late_much_of_the_power_to_tell_is_gone(bent):
    counts = claims.sensitivity.counted(bent).groupby("from").sum(numeric_only=True)
    early, late = counts.iloc[0], counts.iloc[-1]
    for column in ("power law", "not geometric"):
        assert late[column] < early[column]
    widths = [
        np.median([x.high - x.low for x in claims.sensitivity.starting_at(bent, first)["plain"]])
        for first in (claims.sensitivity.FIRSTS[0], claims.sensitivity.FIRSTS[-1])
    ]
    assert widths[1] > 1.5 * widths[0]


def test_sensitivity_the_strength_is_surely_above_zero_on_more_tables_in_tv(strong):
    surely = {
        distance: sum(item.low > 0 for item in part["λ"])
        for distance, part in strong.groupby("distance")
    }
    assert surely["TV"] > surely["KL"] > 0


def test_sensitivity_not_knowing_the_strength_widens_the_exponents_interval(strong):
    wider = [
        (free.high - free.low) / (fixed.high - fixed.low)
        for free, fixed in zip(strong["free"], strong["fixed"], strict=True)
    ]
    assert np.median(wider) > 1


def test_sensitivity_the_page_has_one_table_of_several_references():
    (long,) = claims.references.stored()
    assert (long.model, long.corpus) == (MODEL, CORPUS) and len(long.rows) == 3
    means = [part.groupby("doc")["position"].nunique().sum() for part in long.rows.values()]
    assert len(set(means)) == 1  # the same targets behind all of them


def test_sensitivity_at_a_hundred_sentences_one_reader_still_misses_one_question_in_ten():
    assert 101**-0.5 == pytest.approx(0.1, rel=0.05) and 0.9**100 < 1e-4
    assert 11**-0.5 == pytest.approx(0.9**10, abs=0.06)  # "at ten the two are alike"


def test_sensitivity_every_table_is_fitted_from_the_same_window(curves, bible):
    first = bible.between(claims.claim.MIN_WINDOW).first[0]
    assert {data.between(claims.claim.MIN_WINDOW).first[0] for data in curves.values()} == {first}


def test_sensitivity_documents_begin_at_the_same_characters_for_every_model():
    tables = claims.shared.stored()
    for corpus in claims.shared.corpora_of(tables):
        parts = [one for (_, name), one in tables.items() if name == corpus]
        assert len(claims.shared.same_documents(parts)) == min(len(one.begins) for one in parts)


def test_sensitivity_most_models_are_of_a_few_bits_and_smaller_than_the_papers(curves):
    models = claims.measured.models()
    small = models["what it is"].str.contains(r"\dbit|\d-bit|Q\d", regex=True)
    assert small.mean() > 0.5 and (models["parameters"] < 5e8).mean() > 0.5


def test_sensitivity_all_layers_of_the_others_see_everything():
    costs = claims.claim.cache_costs("sensitivity")
    assert [model for model, (_, sliding, _) in costs.items() if sliding] == ["gemma3-270m"]


def test_sensitivity_most_lines_bend_down_at_the_right_edge(curves):
    down = []
    for data in curves.values():
        slopes = fit.local_slopes(data, n_boot=2)["slope"]
        down.append(slopes.iloc[-1] > slopes.median())
    assert np.mean(down) > 0.7


def test_sensitivity_the_naive_fit_overshoots_by_a_third_and_the_corrected_returns_the_truth():
    window, context = 2.0 ** np.arange(2, 9.01, 0.25), np.array([1024.0])
    exact = (window + 1) ** -0.5 - (context + 1) ** -0.5
    naive = fit.fit_law("power", window, exact).exponent
    corrected = fit.fit_law("finite-context power", window, exact, contexts=context).exponent
    assert abs(naive / 0.5 - 4 / 3) < 0.05 and abs(corrected - 0.5) < 1e-3


def test_sensitivity_no_exponent_lies_at_an_end_of_what_is_fitted(decay):
    assert all(0 < item.low and item.high < 4 for item in decay["exponent"])


def test_sensitivity_we_simulated_a_thousand_studies_on_each_source():
    studies = claims.sensitivity.interval_studies()
    assert (studies["studies"] == 1000).all() and studies["source"].nunique() > 3


def test_sensitivity_the_plain_percentile_bootstrap_runs_a_little_narrow():
    studies = claims.sensitivity.interval_studies().query("method == 'documents, percentile'")
    assert (studies["high"] < 0.95).all() and (studies["share"] > 0.85).all()


def test_sensitivity_the_sources_are_recall_gaussian_with_rough_and_with_plus_signs():
    kinds = claims.sensitivity.naive_coverage()
    sources = claims.sensitivity.interval_studies()["source"].nunique()
    assert sum(map(len, kinds.values())) == sources


def test_sensitivity_tokens_as_independent_keep_their_promise_on_the_recall_sources():
    rows = claims.sensitivity.naive_coverage()["recall"]
    assert (rows["low"] < 0.95).all() and (rows["high"] > 0.95).all()


def test_sensitivity_they_are_somewhat_narrow_on_gaussian_ones_with_rough_signs():
    rows = claims.sensitivity.naive_coverage()["rough"]
    assert rows["high"].max() < 0.95 and rows["low"].min() > 0.8


def test_sensitivity_with_plus_signs_they_fail():
    assert claims.sensitivity.naive_coverage()["plus"]["high"].max() < 0.5


def test_sensitivity_the_correction_hardly_makes_the_exponent_steadier(drift):
    moves = {
        kind: claims.sensitivity.drifts(drift, kind).median() for kind in ("corrected", "naive")
    }
    assert 0.7 < moves["corrected"] / moves["naive"] < 1.5


def test_sensitivity_the_fits_begin_at_the_windows_that_the_columns_name(curves):
    for data in curves.values():
        assert [data.between(first).first[0] for first in (2, 33)] == [2, 33]


def test_sensitivity_nor_does_the_correction_win_on_unseen_documents_of_any_table(curves):
    laws = ("power", "finite-context power")
    for data in curves.values():
        ratio = fit.held_out(data.between(claims.claim.MIN_WINDOW), laws)["power"]
        assert ratio.low < 1


def test_sensitivity_the_slope_rises_but_not_in_every_row_and_far_less_than_doubling(slopes):
    slope = slopes["slope"].to_numpy()
    assert slope[-1] > slope[0] and (np.diff(slope) < 0).any()
    assert slope[-1] / slope[0] < 2 ** (len(slope) - 1) / 10


def test_sensitivity_no_one_slope_lies_in_all_the_intervals_even_far_from_the_end(slopes):
    far = slopes[slopes["window"] < 128]
    assert far["low"].max() > far["high"].min()


def test_sensitivity_the_exponential_is_the_weaker_opponent_if_not_surely_on_each(decay):
    pairs = zip(decay["exponential"], decay["stretched"], strict=True)
    assert all(one.value > 1.1 > other.value for one, other in pairs)
    assert 0 < sum(item.low > 1 for item in decay["exponential"]) < len(decay)


def test_sensitivity_the_stretched_exponential_is_a_fair_one_on_nearly_every_table(decay):
    assert np.mean([item.low < 1 < item.high for item in decay["stretched"]]) > 0.9
    assert all(item.low < 1 for item in decay["stretched"])  # it loses surely on none


def test_sensitivity_the_windows_span_two_decades(bible):
    fitted = bible.between(claims.claim.MIN_WINDOW)
    assert 2 <= np.log10(fitted.last[-1] / fitted.first[0]) < 2.2


def test_sensitivity_both_intervals_of_the_defect_hold_zero(signs):
    assert all(item.low < 0 < item.high for item in signs["defect"])


def test_sensitivity_the_second_sign_could_hardly_speak(signs):
    check = signs.loc["data check"]
    assert check["defect"].high - check["defect"].low > check["right"].value


# --- extrapolation --------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def far(curves) -> pd.DataFrame:
    """The contests of C3, with the duels of its fair rivals."""
    rows = claims.extrapolation.contests(curves)
    return rows.assign(**{"stretched / finite": claims.extrapolation.duels(curves)})


@pytest.fixture(scope="session")
def found_factors(both_distances) -> pd.DataFrame:
    return claims.extrapolation.factors(both_distances)


@pytest.fixture(scope="session")
def mean_factors(found_factors) -> pd.DataFrame:
    return claims.extrapolation.summary(found_factors)


@pytest.fixture(scope="session")
def other_decays(both_distances) -> pd.DataFrame:
    return claims.extrapolation.had_it_been(both_distances)


def test_extrapolation_every_value_of_the_page_is_a_fact(
    curves, far, found_factors, mean_factors, other_decays
):
    facts = claims.extrapolation.facts(curves, far, found_factors, mean_factors, other_decays)
    assert_all_is_said("notebooks/extrapolation", facts)


def test_extrapolation_its_factor_is_the_geometric_mean_over_models_and_then_texts(
    far, mean_factors
):
    first = mean_factors.iloc[0]
    assert (first["distance"], first["error"]) == ("KL", "log")
    of_texts = far.groupby("corpus")["exponential"].agg(fit.geometric_mean)
    assert first["factor"].value == pytest.approx(np.exp(np.log(of_texts).mean()), rel=1e-9)


def test_extrapolation_more_than_ten_in_log_error_and_a_few_times_in_the_others(mean_factors):
    for row in mean_factors.itertuples():
        if row.error == "log":
            assert row.factor.low > 10
        else:
            assert 2 < row.factor.value < 7


def test_extrapolation_a_factor_of_ten_tells_a_power_law_from_an_exponential_alone(other_decays):
    said = other_decays.set_index("b")
    power, stretched, exponential = (said.loc[b] for b in (0.0, 0.3, 1.0))
    assert exponential["not reproduced"] > 0.9 and power["reproduced"] > 0.9
    assert stretched["not reproduced"] < 0.1  # not told from a power law
    assert exponential["KL"] < 1 < stretched["KL"] < power["KL"]


def test_extrapolation_the_exponential_is_short_by_a_factor_of_many_millions():
    rate = np.log((8 / 64) ** -0.5) / (64 - 8)
    guess = 64**-0.5 * np.exp(-rate * (1024 - 64))
    assert 1024**-0.5 / guess > 5e6


def test_extrapolation_an_exact_power_law_is_foretold_better_the_more_a_law_knows_of_its_end():
    window, context = 2.0 ** np.arange(1, 11), np.array([2048.0])
    exact, seen = (window + 1) ** -0.5 - (context + 1) ** -0.5, window <= 64
    errors = []
    for law in ("power", "stretched exponential", "finite-context power"):
        fitted = fit.fit_law(law, window[seen], exact[seen], contexts=context)
        miss = fitted.log_value(window[~seen]) - np.log(exact[~seen])
        errors.append(np.sqrt(np.mean(miss**2)))
    assert errors == sorted(errors, reverse=True)


def test_extrapolation_resampled_curves_miss_by_more_so_that_some_intervals_lean(far):
    assert any(2 * item.value < item.low + item.high for item in far["power"])


def test_extrapolation_the_ratio_shrinks_at_the_largest_split(curves, far):
    """On the source that the chart shows at first, and on most others."""
    shrinks = []
    for data, ratio in zip(curves.values(), far["exponential"], strict=True):
        data = data.between(claims.claim.MIN_WINDOW)
        last = fit.extrapolation(data, data.last[-3], ("power", "exponential"), n_boot=2)
        shrinks.append(last.ratios["exponential"].value < ratio.value)
    assert shrinks[0] and np.mean(shrinks) > 0.8


def test_extrapolation_where_the_scores_stop_the_finite_reference_bends_the_curve(curves):
    for data in curves.values():
        assert data.last[-1] > data.contexts.max() / 4


def test_extrapolation_on_most_tables_it_is_open_which_of_the_two_foretells_better(far):
    held = [item.low <= 1 <= item.high for item in far["stretched / finite"]]
    assert np.mean(held) > 0.8


def test_extrapolation_the_power_law_wins_on_geometric_mean(mean_factors):
    assert all(item.low > 1 for item in mean_factors["factor"])


def test_extrapolation_the_finite_context_law_foretold_no_better_as_a_rule(far):
    assert np.mean([item.high < 1 for item in far["finite"]]) < 0.1
    assert sum(item.value > 1 for item in far["finite"]) > len(far) / 2


def test_extrapolation_all_tables_are_fitted_from_the_same_window(curves):
    firsts = {data.between(claims.claim.MIN_WINDOW).first[0] for data in curves.values()}
    assert len(firsts) == 1


# --- positions ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def placed() -> dict[str, pd.DataFrame]:
    return claims.positions.stored_positions()


@pytest.fixture(scope="module")
def small_table(placed) -> pd.DataFrame:
    return placed[claims.positions.SMALL]


@pytest.fixture(scope="module")
def small_exponents(small_table) -> pd.DataFrame:
    return claims.positions.exponents(small_table).set_index("variant")


@pytest.fixture(scope="module")
def agreement(placed) -> pd.DataFrame:
    return claims.positions.agreement(placed).set_index(["model", "variant"])


def mean_at(table: pd.DataFrame, variant: str, window: int) -> float:
    return claims.positions.divergences_at(table, window)[variant].mean()


def test_positions_every_value_of_the_page_is_a_fact(placed, agreement, small_exponents):
    tables = placed, agreement.reset_index(), small_exponents.reset_index()
    assert_all_is_said("notebooks/positions", claims.positions.facts(*tables))


def test_positions_in_kl_this_model_can_hardly_say_reproduced_tv_of_no_difference_can(placed):
    kept = claims.positions.kept_rows(placed["small-gpt2"])
    shares = claims.positions.had_it_been(kept).set_index(["distance", "truth"])["reproduced"]
    assert shares["KL"].max() < 0.05 and shares["TV", 0.0] > 0.6
    assert 0.1 < shares["TV", fit.MARGIN / 2] < 0.9
    wide = kept["KL"]["difference"]
    assert wide.high - wide.low > 2 * fit.MARGIN


def test_positions_all_contexts_have_513_to_1024_tokens(placed):
    for table in placed.values():
        assert table["context"].min() >= 513 and table["context"].max() == 1024


def test_positions_with_everything_moved_and_on_smollm2_the_laws_agree_to_rounding(agreement):
    smol, gemma = claims.positions.ROPE
    for key in ((smol, "kept"), (smol, "moved"), (gemma, "moved")):
        assert agreement.loc[key, "largest"] < claims.positions.SAME_NATS


def test_positions_when_gemmas_bos_stays_at_0_the_law_really_changes(agreement):
    assert agreement.loc[("gemma3-270m", "kept"), "mean"] > 0.1


def test_positions_for_the_rotary_models_fewer_windows_were_measured(placed, small_table):
    for model in claims.positions.ROPE:
        assert placed[model]["window"].nunique() < small_table["window"].nunique()


def test_positions_no_curve_of_the_small_model_ends_on_a_floor(small_table):
    curves = claims.positions.curves(small_table)
    assert not any(claims.positions.floor_of(data) for data in curves.values())


def test_positions_at_its_own_positions_the_decay_is_still_no_exponential(small_exponents):
    kept = small_exponents.loc["kept"]
    assert kept["exponent"].low > 0 and kept["exponential"].low > 1


def test_positions_in_kl_the_difference_is_too_wide_to_call_them_the_same(small_exponents):
    difference = small_exponents.loc["kept", "difference"]
    assert difference.low < 0 < difference.high
    assert max(-difference.low, difference.high) > fit.MARGIN


def test_positions_in_total_variation_it_lies_within_the_margin(placed):
    kept = claims.positions.kept_rows(placed["small-gpt2"])
    assert claims.positions.learned(kept["TV"]) == "reproduced"
    assert claims.positions.learned(kept["KL"]) == "partly"


def test_positions_order_stops_mattering_much_sooner_than_the_words(small_exponents):
    assert small_exponents.loc["shuffled", "difference"].low > 0.5


def test_positions_on_the_small_model_shuffling_costs_far_less_than_cutting(small_table):
    assert mean_at(small_table, "shuffled", 16) < 0.5 * mean_at(small_table, "restarted", 16)


def test_positions_on_smollm2_a_context_that_makes_no_sense_misleads_more_than_none(placed):
    table = placed["smollm2-135m-instruct"]
    assert claims.positions.shuffling_over_cutting(table, 64).low > 1


def test_positions_on_gemma_the_factor_is_undecided(placed):
    factor = claims.positions.shuffling_over_cutting(placed["gemma3-270m"], 64)
    assert factor.low < 1 < factor.high


def ratio_at(table: pd.DataFrame, window: int) -> float:
    return mean_at(table, "kept", window) / mean_at(table, "restarted", window)


def test_positions_at_every_window_measured_the_suffix_loses_more_at_its_own(small_table):
    assert all(ratio_at(small_table, window) > 1.5 for window in set(small_table["window"]))


def test_positions_at_long_windows_the_two_come_closer(small_table):
    assert ratio_at(small_table, 512) < ratio_at(small_table, 256) < ratio_at(small_table, 128)


# --- formulation ----------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def rates() -> pd.DataFrame:
    return claims.formulation.stored_rates()


@pytest.fixture(scope="session")
def solved() -> pd.DataFrame:
    return claims.formulation.one_step()


@pytest.fixture(scope="session")
def bits() -> pd.Series:
    return claims.formulation.three_flips()


def test_formulation_every_value_of_the_page_is_a_fact(rates, solved, bits):
    summary = claims.formulation.rates_summary(rates)
    facts = claims.formulation.facts(rates, summary, 0.09, solved, bits)
    assert_all_is_said("notebooks/formulation", facts)


def test_formulation_one_bit_is_enough_and_the_note_must_hold_all_three(bits):
    np.testing.assert_allclose(bits, [1, 3], atol=2e-6)


def test_formulation_the_rate_is_too_large_by_no_more_than_the_certificate(solved):
    assert (solved["gap"] <= 1e-10).all()
    assert (solved["solver"] - solved["formula"]).abs().max() < 1e-8


def test_formulation_the_conditional_rate_meets_its_formula_in_the_same_way(solved):
    assert (solved["solver both"] - solved["formula both"]).abs().max() < 1e-8


def test_formulation_hiding_the_side_information_from_the_writer_costs_something(solved):
    """Between D = 0 and D = p lies a narrow gap."""
    conditional = closed_forms.binary_rate(solved["D"].to_numpy(), 0.25)
    assert (solved["formula"] > conditional).all() and solved["D"].between(0, 0.25).all()


def test_formulation_with_d_0_the_two_lower_curves_meet_and_with_d_p_no_note_is_needed():
    distortion, p = np.array([1e-9, 0.24]), 0.24
    reader = closed_forms.doubly_symmetric_rate(distortion, p)
    both = closed_forms.binary_rate(distortion, p)
    np.testing.assert_allclose(reader, both, atol=1e-6)
    assert abs(reader[1]) < 1e-12


def test_formulation_the_query_saves_bits_for_keys_and_for_values(rates):
    for part in claims.formulation.PARTS:
        assert claims.formulation.mean_saving(rates, part).low > 0


def test_formulation_the_layers_differ(rates):
    summary = claims.formulation.rates_summary(rates)
    keys = summary.query("head == 'mean' and part == 'key'")
    keys = keys[np.isclose(keys["distortion"], 0.09)]
    assert keys.loc[keys["saving"].idxmax(), "low"] > 2 * keys.loc[keys["saving"].idxmin(), "high"]


def test_formulation_that_is_a_modest_share_even_from_a_genie(rates, solved, bits):
    summary = claims.formulation.rates_summary(rates)
    facts = claims.formulation.facts(rates, summary, 0.09, solved, bits)
    assert max(int(facts[name]) for name in ("key-share", "value-share")) < 20


def test_formulation_a_saving_a_tenth_as_large_would_have_been_seen_in_most_studies(rates):
    savings = {part: claims.formulation.mean_saving(rates, part) for part in ("key", "value")}
    shares = claims.formulation.had_it_been(savings).set_index("truth")["partly"]
    assert shares[0.1] > 0.5 > shares[0.05] and shares[0.0] < 0.05


def test_formulation_on_held_out_documents_the_saving_on_keys_is_smaller_than_both(rates):
    key = claims.formulation.gains(rates).loc["key"]
    assert key["held out"].high < min(key["corrected"], key["plug-in"])


# --- bounds ---------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def checked() -> pd.DataFrame:
    return claims.bounds.sandwich_checks()


@pytest.fixture(scope="session")
def misses(curves) -> pd.DataFrame:
    return claims.bounds.law_errors(curves)


@pytest.fixture(scope="session")
def beyond(both_distances) -> pd.DataFrame:
    return claims.bounds.out_of_sample(both_distances)


@pytest.fixture(scope="session")
def tried(both_distances) -> dict[str, pd.DataFrame]:
    """What the trial of C6 and C7 would have said of other exponents beyond its windows."""
    return {
        side: table.set_index(["distance", "truth"])
        for side, table in claims.bounds.had_it_been(both_distances).items()
    }


def test_bounds_every_value_of_the_page_is_a_fact(curves, checked, beyond, misses, tried):
    shares = {side: table.reset_index() for side, table in tried.items()}
    facts = claims.bounds.facts(curves, checked, beyond, misses, shares)
    assert_all_is_said("notebooks/bounds", facts)


def test_bounds_the_trial_mostly_finds_an_exponent_that_changes_by_two(tried):
    for side, broken, kept in (("upper", 0.5, 2.0), ("lower", 2.0, 0.5)):
        shares = tried[side]
        assert (shares.xs(broken, level="truth")["not reproduced"] > 0.7).all()
        assert (shares.xs(kept, level="truth")["not reproduced"] < 0.4).all()


def test_bounds_an_exponent_that_never_changes_is_seldom_reproduced(tried):
    for shares in tried.values():
        assert (shares.xs(1.0, level="truth")["reproduced"] < 0.2).all()
    assert (tried["lower"].xs(1.0, level="truth")["not reproduced"] > 0.3).all()


def test_bounds_even_exact_power_laws_look_shallower_on_short_windows(beyond):
    exact = beyond[beyond["part"] == claims.bounds.SOURCES].set_index("name")
    for name, (_, alpha) in claims.bounds.known_sources().items():
        assert exact.loc[name, "exponent"] < alpha
    assert (exact["upper"] == exact["tried"]).all() and (exact["lower"] < exact["tried"]).all()


def test_bounds_on_the_models_the_readings_went_either_way(beyond):
    models = beyond[beyond["part"] != claims.bounds.SOURCES]
    for side in ("upper", "lower"):
        assert 0 < models[side].sum() < models["tried"].sum()


def test_bounds_most_of_the_lower_bounds_misses_are_the_finite_references(both_distances):
    """With an infinite reference added by the fitted law, the lower bound misses by less on most
    curves."""
    closer = []
    for distance, of_tables in both_distances.items():
        power = 2 if distance == "TV" else 1
        for data in of_tables.values():
            part = data.between(claims.claim.MIN_WINDOW)
            law = fit.fit_law(
                "finite-context power", part.window, part.mean**power, part.weights, part.contexts
            )
            far = law.prefactor * ((part.contexts + 1) ** -law.exponent).mean()
            whole = claims.bounds.foretell(part.window, (part.mean**power + far) ** (1 / power))
            finite = claims.bounds.foretell(part.window, part.mean)
            closer.append(whole.lower_miss < finite.lower_miss)
    assert np.mean(closer) > 0.5


def test_bounds_both_bounds_held_for_all_values_on_four_sources_two_of_them_gaussian(checked):
    assert checked["upper holds"].all() and checked["lower holds"].all()
    assert len(checked) == 4 and checked.index.str.startswith("Gaussian").sum() == 2


def test_bounds_at_the_longest_windows_the_points_bend_below_such_a_line(curves):
    for data in curves.values():
        long = data.between(claims.claim.MIN_WINDOW)
        alpha = fit.exponent(long).value
        line = long.mean[0] * (long.window / long.window[0]) ** -alpha
        assert long.mean[-1] < line[-1]


def test_bounds_all_curves_are_fitted_from_the_same_window_and_none_beyond_the_one_named(curves):
    parts = [data.between(claims.claim.MIN_WINDOW) for data in curves.values()]
    assert len({part.first[0] for part in parts}) == 1
    assert max(part.last[-1] for part in parts) == parts[0].last[-1]


def test_bounds_the_typical_and_the_largest_miss_are_those_of_one_table(misses):
    assert misses["typical error"].idxmax() == misses["largest error"].idxmax()


def test_bounds_in_tokens_a_miss_weighs_more(curves, misses):
    key = misses.set_index(["model", "corpus"])["typical error"].idxmax()
    alpha = fit.exponent(curves[key].between(claims.claim.MIN_WINDOW)).value
    for column in ("typical error", "largest error"):
        assert claims.bounds.more_window(misses[column].max(), alpha) > misses[column].max()


# --- block_markov ---------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def exponents() -> pd.DataFrame:
    return claims.block_markov.exponent_table()


@pytest.fixture(scope="session")
def sliding() -> pd.DataFrame:
    return claims.block_markov.sliding_checks()


@pytest.fixture(scope="session")
def two_distances(curves) -> pd.DataFrame:
    tv = claims.claim.stored_curves("tv")
    return claims.block_markov.two_distances(curves, tv, claims.claim.MIN_WINDOW)


def test_the_facts_of_block_markov_are_what_its_prose_glues(
    exponents, sliding, two_distances, curves
):
    ratios = claims.block_markov.tv_exponents(1.5)
    facts = claims.block_markov.facts(exponents, sliding, ratios, two_distances, curves)
    assert_all_is_said("notebooks/block_markov", facts)


def test_block_markov_the_exact_excess_falls_with_the_predicted_exponent_in_all_cases(exponents):
    miss = (exponents["exact"] - exponents["leading term"]).abs()
    assert (miss <= claims.block_markov.TOLERANCE).all()


def test_block_markov_with_a_carry_as_long_as_the_block_the_exponent_is_alpha(exponents):
    equal = exponents[exponents["regime"] == "carry = block"]
    assert len(equal) and (equal["limit"] == equal["α"]).all()
    assert equal["exact"].to_numpy() == pytest.approx(equal["α"].to_numpy(), abs=0.01)


def test_block_markov_with_no_carry_or_a_short_one_the_exponent_is_at_most_one(exponents):
    fixed = exponents[exponents["regime"].isin(["no carry", "short carry"])]
    assert len(fixed) and (fixed["limit"] == fixed["α"].clip(upper=1)).all()


def test_block_markov_five_sources_are_tried(sliding):
    kinds = sliding.index.str.split(",").str[0].tolist()
    assert kinds == ["Gaussian", "Gaussian", "renewal", "recall", "lacunary"]


def test_block_markov_no_more_than_their_carry_and_no_less_than_equal_peak(sliding):
    assert (sliding["carry"] <= 1 + 1e-9).all()
    assert (sliding["peak"] >= 1 - 1e-9).all()


def test_block_markov_at_equal_mean_context_they_won_on_the_lacunary_source_alone(sliding):
    assert sliding["convex"].tolist() == [True] * 4 + [False]
    assert (sliding["mean"].iloc[:4] >= 1 - 1e-9).all() and sliding["mean"].iloc[4] < 1


def test_block_markov_both_ends_of_the_ratio_occur():
    ratios = claims.block_markov.tv_exponents(1.5)["ρ"]
    assert min(abs(ratios - 1)) < 0.02 and min(abs(ratios - 2)) < 0.02


def test_block_markov_on_the_renewal_source_the_reading_goes_wrong():
    theta = 1.5
    renewal = claims.block_markov.tv_exponents(theta).loc["renewal", ["KL", "TV"]]
    reading = bounds.two_exponents(*renewal)
    assert (reading.phi, reading.sigma) == pytest.approx((1.5, 0.0), abs=0.01)
    assert abs(reading.phi - (theta - 1)) > 0.5 and abs(reading.sigma - 1) > 0.5  # the truth


def test_block_markov_rho_is_within_the_theorys_range_or_above_by_less_than_a_fifth(two_distances):
    assert all(1 < item.low and item.value < 2.2 for item in two_distances["ρ"])
    inside = [1 < item.low and item.high < 2 for item in two_distances["ρ"]]
    assert np.mean(inside) > 0.5  # "most models sit at neither end"


def test_block_markov_all_tables_begin_at_one_window_and_hold_five_to_seven_octaves(curves):
    used = [data.between(claims.claim.MIN_WINDOW) for data in curves.values()]
    assert len({data.first[0] for data in used}) == 1
    assert all(4.5 < np.log2(data.last[-1] / data.first[0]) < 7 for data in used)


# --- sink_recent ----------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def same(rows, suffixes) -> pd.DataFrame:
    return claims.sink_recent.same_exponent(rows, suffixes, SINKS, "online")


@pytest.fixture(scope="session")
def costs(rows) -> pd.DataFrame:
    return claims.sink_recent.sink_costs(rows[rows["protocol"] == "online"])


@pytest.fixture(scope="session")
def cache_run() -> pd.DataFrame:
    return store.load_table(store.stored("cache_run")[MODEL, CORPUS])


def bare_means(rows: pd.DataFrame, model: str) -> pd.Series:
    """budget → mean KL of the sliding window online, on the World English Bible."""
    return claims.sink_recent.online_means(rows, model, CORPUS, SLIDING)["mean"]


def test_the_facts_of_sink_recent_are_what_its_prose_glues(rows, same, costs, cache_run):
    facts = claims.sink_recent.facts(rows, same, costs, cache_run)
    assert_all_is_said("notebooks/sink_recent", facts)


def test_sink_recent_every_fourth_token_of_the_second_half_of_2048_was_scored(rows):
    online = rows[(rows["protocol"] == "online") & rows["policy"].isin([SINKS, SLIDING])]
    for _, part in online.groupby(["model", "corpus"]):
        positions = np.sort(part["position"].unique())
        assert set(np.diff(positions)) == {4} and 1024 <= positions[0] and positions[-1] < 2048


def test_sink_recent_of_gemmas_eighteen_layers_fifteen_see_512_tokens_at_most():
    from kvlib.models import cache_cost

    cost = cache_cost("gemma3-270m")  # bytes a token in full and in sliding layers
    assert cost.local == 512 and cost.sliding == 5 * cost.full


def test_sink_recent_no_exponent_is_found_without_sinks(rows, suffixes):
    bare = claims.sink_recent.same_exponent(rows, suffixes, SLIDING, "online")
    assert any(item.flat for item in bare["policy"])


def test_sink_recent_it_hardly_matters_where_the_sinks_stand(rows):
    over = claims.policy_rows.ratios(rows, claims.sink_recent.CLOSED_UP)
    moved = over[over["policy"] == SINKS]
    assert len(moved) and all(0.9 < item.value < 1.1 for item in moved["ratio"])


def test_sink_recent_on_smollm2_without_sinks_more_budget_stops_helping(rows):
    mean = bare_means(rows, MODEL)
    assert mean[16] > 4 * mean[512] and 0.9 < mean[1024] / mean[512] < 1.1


def test_sink_recent_gemmas_goes_on_falling(rows):
    mean = bare_means(rows, "gemma3-270m")
    assert mean[1024] < 0.6 * mean[256]


def test_sink_recent_over_all_models_texts_and_budgets_a_missing_sink_costs(costs):
    assert all(item.low > 1 for item in costs["ratio"])


def test_sink_recent_in_tv_the_exponents_agree_on_every_table_to_within_the_margin(same):
    assert claims.sink_recent.readings(same)["TV"] == "reproduced"


def test_sink_recent_in_kl_they_surely_differ_but_not_in_one_direction(same):
    slopes = same.set_index(["model", "corpus"])["KL"]
    assert all(item.low > 0 for item in slopes[MODEL]) and slopes["gemma3-270m"].item().high < 0


def test_sink_recent_where_exponents_surely_differ_it_is_not_in_one_direction(same):
    assert any(x.low > 0 for x in same["KL"]) and any(x.high < 0 for x in same["KL"])


def test_sink_recent_tv_would_mostly_have_shown_half_the_margin_as_no_difference(same):
    chances = claims.sink_recent.had_it_been(same).set_index(["reading", "truth"])
    assert chances.loc[("TV", 0.05), "reproduced"] > 0.5
    assert chances.loc[("KL", 0.05), "reproduced"] < 0.2
    twice = chances.xs(2 * fit.MARGIN, level="truth")
    assert (twice["reproduced"] < 0.01).all()


def test_sink_recent_with_few_entries_better_than_re_reading_with_many_worse(foretold):
    ours = online_of(foretold, SINKS)
    ours = ours[(ours["model"] == MODEL) & (ours["corpus"] == CORPUS)]
    factor = ours.set_index("budget")["factor"]
    assert factor[16].high < 1 < factor[512].low


def test_sink_recent_the_bounded_cache_holds_the_same_from_the_moment_it_is_full(cache_run):
    assert claims.sink_recent.full_bounded(cache_run)["cache_bytes"].nunique() == 1


def test_sink_recent_over_8000_generated_tokens(cache_run):
    assert round(cache_run["token"].max(), -3) == 8000


def test_sink_recent_five_budgets(rows):
    ours = rows[(rows["protocol"] == "online") & (rows["policy"] == SINKS)]
    assert set(ours.groupby(["model", "corpus"])["budget"].nunique()) == {5}


# --- policies -------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def ratio(rows) -> pd.DataFrame:
    return claims.policy_rows.ratios(rows)


@pytest.fixture(scope="session")
def recency(rows) -> pd.DataFrame:
    return rows[rows["policy"].isin([SINKS, SLIDING])]


@pytest.fixture(scope="session")
def contests(recency, suffixes) -> pd.DataFrame:
    return claims.policy_laws.contests(recency[recency["protocol"] == "online"], suffixes)


@pytest.fixture(scope="session")
def in_both(rows, protected) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Ratios and geometric means of random retention to each policy, in KL and in TV."""
    return claims.policies.retention_tables(rows, protected)


@pytest.fixture(scope="session")
def laws(recency) -> pd.DataFrame:
    return claims.policy_laws.budget_laws(recency)


@pytest.fixture(scope="session")
def steps() -> pd.DataFrame:
    return claims.policies.step_effect().set_index("policy")


def online_of(table: pd.DataFrame, policy: str) -> pd.DataFrame:
    return table[(table["protocol"] == "online") & (table["policy"] == policy)]


@pytest.fixture(scope="session")
def protected() -> pd.DataFrame:
    """The stored rows of what protects; empty where none is measured."""
    return claims.policy_rows.protection_rows()


@pytest.fixture(scope="session")
def worth(protected) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What protections and scores are worth: at each budget, and over budgets."""
    return claims.protection.in_both(protected)


def test_the_facts_of_policies_are_what_its_prose_glues(rows, contests, in_both, laws, worth):
    been = claims.policies.had_it_been(contests, *in_both, laws)
    facts = claims.policies.facts(rows, contests, *in_both, laws, been)
    facts |= claims.protection.facts(*worth)
    assert_all_is_said("notebooks/policies", facts)


def test_policies_re_encoded_every_so_manieth_token_was_scored(rows):
    path = store.stored("reencode")[MODEL, CORPUS]
    every = store.read_manifest(path)["settings"]["every"]
    scored = rows[rows["protocol"] == "reencode"].groupby(["model", "corpus"])["position"].unique()
    assert all(np.diff(np.sort(positions)).min() == every for positions in scored)


def test_policies_most_words_hardly_move_a_few_carry_the_mean():
    shown = claims.story.stored_passage()
    kl = shown[(shown["policy"] == SINKS) & (shown["budget"] == 256)]["kl_nats"].sort_values()
    assert (kl < 0.1).mean() > 0.8
    assert kl.tail(len(kl) // 10).sum() > 0.45 * kl.sum()


def test_policies_online_and_after_a_prefill_on_smollm2_every_fourth_token_was_scored(rows):
    ours = rows[(rows["protocol"] == "online") | (rows["model"] == MODEL)]
    ours = ours[ours["protocol"] != "reencode"]
    for _, part in ours.groupby(["protocol", "model", "corpus", "policy"]):
        assert set(np.diff(np.sort(part["position"].unique()))) == {4}


def test_policies_gemma_after_a_prefill_was_scored_where_re_encoding_was(rows):
    gemma = rows[rows["model"] == "gemma3-270m"]
    at = gemma.groupby("protocol")["position"].unique().map(set)
    assert at["prefill"] == at["reencode"]


def test_policies_the_law_is_fitted_to_suffixes_of_up_to_512_tokens(suffixes):
    assert {int(table["window"].max()) for table in suffixes.values()} == {512}


def test_policies_online_most_of_the_advantage_is_owed_to_the_sinks_after_a_prefill_it_is_not(rows):
    fair = claims.policies.fair_ratios(rows)
    assert fair["online"].high < 3 < fair["prefill"].low


def test_policies_the_factor_belongs_to_a_protocol_and_a_baseline(rows, ratio):
    ours = ratio[(ratio["model"] == MODEL) & (ratio["corpus"] == CORPUS)]
    plain = ours[(ours["policy"] == SINKS) & (ours["budget"] == 256)].set_index("protocol")["ratio"]
    fair = claims.policies.fair_ratios(rows)
    assert fair["online"].high < plain["online"].low < plain["online"].high < plain["prefill"].low


def test_policies_what_protects_names_what_was_measured_or_says_that_nothing_was(protected, worth):
    said = claims.protection.facts(*worth)["protection-measured"]
    tables = protected.groupby(["protocol", "model", "corpus"])["doc"].nunique()
    assert said.count("documents") == len(tables)
    assert all(f"({n} documents)" in said for n in tables)
    assert (said == claims.protection.NOTHING) == (not len(tables))


def test_policies_what_each_protection_divides_the_kl_by(protected, worth):
    """By plain means of the stored rows, over budgets and tables."""
    said = claims.protection.facts(*worth)["protection-worth"]
    for protocol, part in protected.groupby("protocol"):
        keys = ["model", "corpus", "budget"]
        logs = np.log(part.groupby([*keys, "policy"])["kl_nats"].mean().unstack("policy"))
        bare = ["random", "random-recent", "random-heads", "random-heads-recent"]
        kept = [policy.replace("random", "random-sinks", 1) for policy in bare]
        sinks = np.exp((logs[bare].mean(axis=1) - logs[kept].mean(axis=1)).mean())
        assert f"{protocol}: 4 sinks kept {sinks:.2g} [" in said
    assert said.count("4 sinks kept") == protected["protocol"].nunique()


def test_policies_how_much_of_the_lead_of_h2o_is_left(protected, worth):
    said = claims.protection.facts(*worth)["protection-scores"]
    for protocol, part in protected.groupby("protocol"):
        keys = ["model", "corpus", "budget"]
        logs = np.log(part.groupby([*keys, "policy"])["kl_nats"].mean().unstack("policy"))
        here = next(text for text in said.split(";") if protocol in text)
        lead = np.exp((logs["random-heads"] - logs["h2o"]).mean())
        assert f"loses {lead:.2g} [" in here
    assert said.count("as much as H2O") == protected["protocol"].nunique()


def after_a_prefill(worth: pd.DataFrame) -> pd.DataFrame:
    """How many times less KL, a row a text and a column an effect."""
    part = worth.query("protocol == 'prefill' and distance == 'KL'")
    return part.pivot(index=["model", "corpus"], columns="effect", values="ratio")


def test_policies_scores_alone_lose_to_a_draw_after_a_prefill_and_mostly_find_the_sinks(worth):
    table, effects = after_a_prefill(worth[1]), claims.protection
    assert len(table) and all(item.high < 1 for item in table[effects.UNPROTECTED])
    assert all(item.low > 1 for item in table[effects.ALSO_SINKS])
    for kept, granted in zip(table[effects.SAME], table[effects.ALSO_SINKS], strict=True):
        assert np.log(kept.low) > 2 * np.log(granted.value)  # mostly: over half of it


def test_policies_what_h2o_wins_is_owed_to_protection_and_a_pinned_beginning_does_not_help(worth):
    table, effects = after_a_prefill(worth[1]), claims.protection
    assert all(item.low > 3 for item in table[effects.RIVALS])
    for pinned, unprotected in zip(table[effects.PIN], table[effects.BOTH], strict=True):
        assert 0.8 < pinned.value / unprotected.value


def test_policies_which_is_worth_more_the_newest_half_or_the_scores(protected, worth):
    said = claims.protection.facts(*worth)["protection-answer"]
    answers = claims.protection.answers(worth[0])
    assert len(answers) == 2 * protected["protocol"].nunique()
    assert all(f"{name}: {word} (" in said for name, word in answers.items())
    assert (said == claims.protection.NOTHING) == (not answers)


def test_policies_random_draws_with_the_beginning_pinned_over_h2o(protected, worth):
    said = claims.protection.facts(*worth)["protection-pinned"]
    there = "random-heads-pinned" in set(protected["policy"])
    assert (said == claims.protection.NOTHING) == (not there)
    if there:
        keys = ["model", "corpus", "budget"]
        ours = protected[protected["protocol"] == "prefill"]
        logs = np.log(ours.groupby([*keys, "policy"])["tv"].mean().unstack("policy"))
        ratio = np.exp((logs["random-heads-pinned"] - logs["h2o"]).mean())
        assert f"{ratio:#.2g} [" in said and " in TV (surely more" in said


def test_policies_for_heavy_hitters_and_tova_the_steps_change_little(steps):
    some = steps.loc[["h2o", "tova"], ["least", "most"]]
    assert some.stack().between(0.9, 1.2).all()


def test_policies_for_key_norm_they_change_much(steps):
    assert (steps.loc["key-norm", "most"] < 0.7).all()


def test_policies_in_kl_with_sinks_it_misses_by_most_on_gemma(contests):
    ours = online_of(contests, SINKS)
    kl = ours[ours["distance"] == "KL"].set_index("model")["law"].map(lambda item: item.value)
    assert kl["gemma3-270m"] > kl[MODEL].max()


def test_policies_up_to_sixteen_times_as_many(rows):
    assert rows["budget"].max() == 16 * claims.policy_laws.LONGEST


def test_policies_the_exponential_misses_by_more_and_that_is_the_evidence(contests):
    assert all(item.value > 1 for item in contests["lead"])
    ours = online_of(contests, SINKS)
    assert all(item.value > 10 and item.low > 2 for item in ours["exponential"])


def test_policies_without_sinks_it_fails_and_by_most_at_the_largest_budget(contests, foretold):
    assert set(claims.policies.outcomes(online_of(contests, SLIDING))) == {"fails"}
    for _, part in online_of(foretold, SLIDING).groupby(["model", "corpus"]):
        factors = [item.value for item in part.sort_values("budget")["factor"]]
        assert factors[-1] == max(factors) and min(factors) > claims.policies.FORETOLD


def test_policies_two_orders_of_magnitude_can_hardly_be_a_tv(in_both):
    means = in_both[1]
    tv = means[(means["distance"] == "TV") & means["policy"].isin([SINKS, SLIDING])]
    assert all(item.high < claims.policies.ONE_ORDER for item in tv["ratio"])


def test_policies_tokens_that_are_re_encoded_lose_by_a_power_law(laws):
    readings = claims.policies.law_readings(laws)
    assert readings["reencode, KL"] == "reproduced" and readings["reencode, TV"] != "not reproduced"
    tv = laws[(laws["protocol"] == "reencode") & (laws["distance"] == "TV")]
    assert all(item.high < 0.5 for item in tv["b"])


def test_policies_online_nothing_falls_geometrically(laws):
    assert all(item.high < 1 for item in laws[laws["protocol"] == "online"]["b"])


def test_policies_without_sinks_smollm2_falls_to_a_floor_with_sinks_gemma_bends_the_other_way(laws):
    bare = online_of(laws, SLIDING).set_index("model")["b"][MODEL]
    assert len(bare) == 4 and all(item.high < 0 for item in bare)
    gemma = online_of(laws, SINKS).set_index("model").loc[["gemma3-270m"]]
    assert len(gemma) == 2 and all(0 < item.low and item.high < 1 for item in gemma["bracket"])


def test_policies_a_hundredfold_would_have_been_seen_for_certain(in_both):
    chances = claims.policies.retention_had_it_been(*in_both, n=20).set_index("truth")
    assert (chances.loc[100.0, "reproduced"] == 1).all()


def test_policies_a_power_law_is_a_matter_of_luck_an_exponential_would_be_found_out(laws):
    chances = claims.policies.law_had_it_been(laws, n=60).set_index("truth")
    assert (chances.loc[0.0, "reproduced"] < 0.9).all()
    assert (chances.loc[1.0, "not reproduced"] > 0.9).all()


def test_policies_in_kl_even_a_law_much_better_than_it_needs_to_be_would_mostly_not_hold(contests):
    chances = claims.policies.prediction_had_it_been(contests, n=60).set_index(
        ["distance", "truth"]
    )
    assert chances.loc[("KL", 1.05), "reproduced"] < 0.5 < chances.loc[("TV", 1.05), "reproduced"]


def test_policies_per_token_divergence_is_heavy_tailed(rows):
    ours = claims.policy_rows.summary(online_of(rows, SINKS)).query("budget == 256")
    assert (ours["median"] < ours["mean"]).all() and (ours["mean"] < ours["p95"] / 2).all()


def test_policies_expected_attention_loses_more_than_sinks_and_recent_tokens(rows):
    assert claims.policies.expected_ratio(rows).low > 1


def test_policies_the_score_based_policies_were_measured_on_fewer_documents(rows):
    documents = rows.groupby(["policy", "protocol"])["doc"].nunique()
    scored = ["h2o", "tova", "snapkv", "key-norm", "expected-attention"]
    assert documents[scored].max() < documents[[SINKS, SLIDING, RANDOM]].min()


# --- drafting -------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def drafted() -> pd.DataFrame:
    """Every stored row of a run that drafts and verifies."""
    return claims.drafting.stored_runs()


@pytest.fixture(scope="session")
def came_of_it(drafted) -> pd.DataFrame:
    return claims.drafting.outcomes(drafted)


@pytest.fixture(scope="session")
def rejected(rows) -> pd.DataFrame:
    return claims.drafting.rejections(rows)


def test_the_facts_of_drafting_are_what_its_prose_glues(drafted, came_of_it, rejected):
    facts = claims.drafting.facts(drafted, came_of_it, rejected)
    assert_all_is_said("notebooks/drafting", facts)


def test_drafting_six_drafts_in_ten_are_kept():
    p, q = np.array([0.5, 0.5, 0.0]), np.array([0.8, 0.1, 0.1])
    assert theory_of_drafting.acceptance(p, q) == pytest.approx(0.6)


def test_drafting_greedy_texts_equal_plain_decoding(came_of_it):
    greedy = came_of_it[came_of_it["way"] == "greedy"]
    assert (greedy["same"] == [item.n_documents for item in greedy["kept"]]).all()


def test_drafting_the_price_is_tv(came_of_it):
    sampled = came_of_it[came_of_it["way"] == "sampled"]
    for kept, promised in zip(sampled["kept"], sampled["promised"], strict=True):
        assert kept.low < promised.value < kept.high


def test_drafting_dependence_hardly_shows(came_of_it):
    sure = [item for item in came_of_it["more"] if item.low > 1 or item.high < 1]
    assert len(sure) <= len(came_of_it) / 8


def test_drafting_tv_on_the_text_foretold_the_rounds(came_of_it, rejected):
    sampled = came_of_it.query("way == 'sampled' and model == @MODEL").set_index("window")["tokens"]
    tokens = sampled[claims.drafting.SPOKEN]
    foretold = theory_of_drafting.tokens_a_round(1 - claims.drafting.spoken_rate(rejected)["tv"], 5)
    assert tokens.low < foretold < tokens.high


def test_drafting_down_to_one_sequence_the_gain_is_gone(rejected):
    one, many = claims.drafting.example(rejected).to_dict("records")
    assert one["speed_up"] < 1.15 and many["speed_up"] > 2


def test_drafting_texts_of_2048_tokens():
    for table in store.tables(kind="policy_distortion", protocol="online"):
        assert table.settings["seq_len"] == 2048


def test_drafting_greedy_text_goes_round_in_circles(drafted):
    again = claims.drafting.repeats(drafted)[MODEL]
    assert again["greedy"] > 3 * again["sampled"]


def test_drafting_tv_falls_by_less_than_three(rejected):
    at = rejected[rejected["setting"] == f"{MODEL}|{CORPUS}"].set_index("window")["tv"]
    assert 2 < at[64] / at[512] < 3


def test_drafting_one_or_ten_drafted_tokens():
    one, ten = (theory_of_drafting.tokens_a_round(0.9, n) for n in (1, 10))
    assert [round(float(n), 1) for n in (one, ten)] == [1.9, 6.9]
    assert 1 > one / 2 > ten / 11


# --- open_question --------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def needs() -> pd.DataFrame:
    alphas = claims.open_question.ALPHA, claims.open_question.ALPHA_BELOW
    curves = pd.concat(map(claims.open_question.memory_curves, alphas))
    return claims.open_question.memory_needs(curves)


@pytest.fixture(scope="session")
def memory_table(needs) -> pd.DataFrame:
    return claims.open_question.open_question_table(needs)


@pytest.fixture(scope="session")
def below_table(needs) -> pd.DataFrame:
    return claims.open_question.open_question_table(needs, claims.open_question.ALPHA_BELOW)


@pytest.fixture(scope="session")
def carry(rows, suffixes) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Online caches beside suffixes, on all tokens: ratios and slopes."""
    here = claims.open_question
    return here.carrying(rows, suffixes), here.carrying_slopes(rows, suffixes)


def at_same_budget(carry) -> list[pd.DataFrame]:
    return [part[part["window"] == claims.open_question.SAME_BUDGET] for part in carry]


def equal_in(tables, distance: str) -> list[pd.DataFrame]:
    return [part[part["distance"] == distance] for part in tables]


@pytest.fixture(scope="session")
def bank() -> pd.DataFrame:
    return claims.open_question.bank_losses()


@pytest.fixture(scope="session")
def three(rows) -> pd.DataFrame:
    """The three protocols on shared tokens, for sinks and for the sliding window."""
    shared = claims.policy_rows.shared_tokens(rows, (SINKS, SLIDING, RANDOM))
    compare = claims.open_question.protocols_compared
    return pd.concat([compare(shared, policy) for policy in (SINKS, SLIDING)])


def test_the_facts_of_open_question_are_what_its_prose_glues(
    memory_table, below_table, needs, bank, three, carry
):
    tables = memory_table, below_table
    facts = claims.open_question.facts(tables, needs, bank, three, carry)
    assert_all_is_said("notebooks/open_question", facts)


def test_open_question_the_sensitivity_to_truncation_alone_cannot_decide_it(memory_table):
    assert claims.open_question.answer_of_sources(memory_table) == "both"


def test_open_question_below_one_two_sources_exist_and_no_memory_wins(below_table):
    assert claims.open_question.answer_of_sources(below_table) == "no"
    assert below_table.index.str.contains("Rudin|recall").all() and len(below_table) == 2
    mixed = below_table.iloc[0]
    assert mixed["recurrent"] == mixed["suffix"]


def test_open_question_a_gain_at_equal_budget_is_sure_for_smollm2_on_the_bible_in_tv_alone(carry):
    gains = claims.open_question.surely(at_same_budget(carry)[0], gain=True)
    assert set(zip(gains["model"], gains["corpus"], strict=True)) == {(MODEL, CORPUS)}
    assert sorted(gains["distance"]) == ["TV"] and len(set(gains["budget"])) == 1


def test_open_question_with_the_same_recent_tokens_the_gains_are_on_that_text_too(carry):
    ratios = carry[0][carry[0]["window"] == claims.open_question.SAME_RECENT]
    gains = claims.open_question.surely(ratios, gain=True)
    assert len(gains) and set(zip(gains["model"], gains["corpus"], strict=True)) == {
        (MODEL, CORPUS)
    }


def test_open_question_on_smollm2_no_slope_is_surely_below_zero_on_gemma_both_are(carry):
    ratios, slopes = at_same_budget(carry)
    falls = (slopes["corrected"] < 0.05) & slopes["slope"].map(lambda item: item.value < 0)
    assert (falls == (slopes["model"] == "gemma3-270m")).all()
    largest = ratios[ratios["budget"] == ratios["budget"].max()]
    assert len(claims.open_question.surely(largest, gain=True)) == 0
    small = claims.open_question.surely(ratios[ratios["budget"] <= 256], gain=False)
    assert len(small[small["model"] == "gemma3-270m"]) == 6


def test_open_question_no_gain_is_a_no_in_tv_half_the_margin_undecided(carry):
    said = claims.open_question.carrying_chances(*carry, truths=(0.0, -0.05, -0.2))
    said = said.set_index(["distance", "slope"])
    assert said.loc[("KL", 0.0), "no"] < 0.5 and said.loc[("TV", 0.0), "no"] > 0.9
    assert (said.xs(-0.05, level="slope")["undecided"] > 0.7).all()
    assert said.loc[("TV", -0.2), "yes"] > 0.8 and said.loc[("KL", -0.2), "yes"] < 0.5


def test_open_question_one_exponent_three_answers(memory_table):
    outcomes = memory_table["outcome"].tolist()
    assert outcomes == ["wins", "wins", "same exponent", "same exponent"]


def test_open_question_for_recall_a_window_costs_a_constant_factor_more(needs):
    for _, recall in needs[needs["source"] == "recall"].groupby("alpha"):
        factor = recall["suffix"] / recall["recurrent"]
        assert (factor > 1).all() and factor.max() < 1.5 * factor.min()


def test_open_question_with_plus_signs_each_further_state_divides_the_loss_by_several(bank):
    assert (bank["plus"].to_numpy()[:-1] / bank["plus"].to_numpy()[1:] > 2).all()


def test_open_question_with_mixed_signs_the_bank_is_hardly_better_and_often_worse(bank):
    over = bank["mixed"] / bank["window"]
    assert over.min() > 1 / 1.5 and (over > 1).mean() >= 0.5


def test_open_question_the_exponents_on_the_page_on_sensitivity_are_below_one(curves):
    long = [data.between(claims.claim.MIN_WINDOW) for data in curves.values()]
    assert all(fit.exponent(data).high < 1 for data in long)


def test_open_question_below_one_the_bound_grows_with_one_over_alpha_less_one_then_hardly():
    found = claims.open_question.converse_exponents()
    assert found["window"].to_numpy() == pytest.approx(1 / found.index.to_numpy(), abs=0.01)
    for alpha, slope in found["recurrent, at least"].items():
        if alpha < 1:
            assert slope == pytest.approx(1 / alpha - 1, abs=0.1)
        else:
            assert slope < 0.1


def test_open_question_for_a_sliding_window_carrying_does_harm(three):
    ratios = claims.open_question.carried(three, SLIDING)["online / reencode"]
    assert all(item.low > 1 for item in ratios)


def test_open_question_entries_that_have_seen_the_whole_past_carry_some_of_it(three):
    after = claims.open_question.carried(three, SINKS, MODEL).set_index("budget")
    assert all(after.loc[budget, "online / prefill"].low > 1 for budget in (64, 256))


def test_open_question_on_gemma_carrying_does_harm_even_with_sinks_while_the_budget_is_small(three):
    at = claims.open_question.carried(three, SINKS, "gemma3-270m").set_index("budget")
    at = at["online / reencode"]
    assert at[16].low > 1 and at[64].low > 1
    assert at[512].low < 1 < at[512].high


def test_open_question_one_ratio_a_table_and_budget_and_the_budgets_end_at_512(three):
    ours = claims.open_question.carried(three, SINKS)
    assert not ours.duplicated(["model", "corpus", "budget"]).any()
    assert three["budget"].max() == 512


# --- whose_exponent -------------------------------------------------------------------------------


def test_the_facts_of_whose_exponent_are_what_its_prose_glues():
    here, shared = claims.whose_exponent, claims.shared
    tables = shared.stored()
    rows = shared.exponents(tables), here.departures(tables), here.components(tables)
    rows += claims.memory.losses(tables), claims.memory.ranks(tables), claims.roads.roads(tables)
    facts = here.facts(tables, *rows, shared.stored(study="float32"))
    counted, beside = readers_of(tables)
    facts |= claims.readers.facts(claims.readers.exponents(counted, beside), counted)
    assert_all_is_said("notebooks/whose_exponent", facts)


def readers_of(tables) -> tuple[claims.readers.Tables, claims.readers.Tables]:
    """The readers that are no neural nets, and the models beside them."""
    widths = claims.readers.bytes_a_character()
    return claims.readers.stored(), claims.readers.of_models(tables, widths)


def test_whose_exponent_counts_end_soon_and_recent_bytes_do_not():
    counted = claims.readers.stored()
    for corpus in {corpus for _, corpus in counted}:
        ends = {reader: claims.readers.reach(counted[reader, corpus]) for reader in names.READERS}
        assert max(ends["ppmd"], ends["n-gram"]) <= 64 < 1000 < ends["recency"]


def test_whose_exponent_counts_need_more_bits_than_the_best_model():
    counted, beside = readers_of(claims.shared.stored())
    short = claims.shared.SHORTER  # no good reader of a language that it did not learn
    beside = {key: one for key, one in beside.items() if key[0] != short}
    for corpus in {corpus for _, corpus in counted} & {corpus for _, corpus in beside}:
        best = [
            min(one.full.mean() for (_, c), one in part.items() if c == corpus)
            for part in (counted, beside)
        ]
        assert best[1] < best[0]


def test_whose_exponent_the_small_gpt2_has_shorter_windows_than_all_others():
    rows = claims.shared.readers(claims.shared.stored())
    largest = rows.set_index("model")["windows to"].str.replace(",", "").astype(int)
    others = largest.drop(claims.shared.SHORTER, errors="ignore")
    assert set(others) == {1024} and (largest.drop(others.index) == 256).all()


# --- try it ---------------------------------------------------------------------------------------


def test_the_facts_of_try_it_are_what_its_prose_glues():
    from kvlib.live import try_it

    facts = try_it.facts(np.array([0.003, 0.004]), 3.9) | try_it.training_facts()
    assert_all_is_said("notebooks/try_it", facts)


# --- lab ------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def bench():
    from kvlib.live import lab

    return lab.Lab("small-gpt2", dtype="float64")


@pytest.fixture(scope="session")
def recorded(bench) -> pd.DataFrame:
    """The recorded run, of the sliding window alone."""
    from kvlib.live import lab

    return bench.grid(lab.EXAMPLE, ["sliding"], [6, 8])


@pytest.fixture(scope="session")
def two_laws(bench):
    from kvlib.live import lab

    return bench.laws(lab.EXAMPLE, policy=lab.SUFFIX, budget=16)


def test_the_facts_of_lab_are_what_its_prose_glues(two_laws, recorded):
    from kvlib.live import lab

    assert_all_is_said("notebooks/lab", lab.facts(two_laws, recorded, budget=16))


def test_lab_whoever_looks_only_at_first_guesses_sees_no_loss_at_all_here(two_laws):
    assert two_laws.same_first


def test_lab_the_probability_of_that_guess_falls(two_laws):
    first = two_laws.table[two_laws.table["rank"] == 1].set_index("side")["share"]
    assert first["kept"] < first["full"] - 0.05


def test_lab_eight_entries_lose_more_than_six(recorded):
    kl = recorded.set_index("budget")["kl_nats"].groupby("budget").first()
    assert kl[8] > kl[6]


def test_lab_six_thousand_characters_around_the_passage_above():
    from kvlib.corpora import load_corpus
    from kvlib.live import lab
    from kvlib.models import small_gpt2

    stretch = small_gpt2.split(load_corpus(CORPUS).text).held_out[1]
    assert round(len(stretch), -3) == 6000
    assert " ".join(lab.EXAMPLE.split())[:60] in " ".join(stretch.split())


def test_lab_the_stored_curves_are_of_a_dozen_long_documents_or_more(curves):
    assert all(data.n_documents >= 12 for data in curves.values())


# --- architectures --------------------------------------------------------------------------------


def test_the_facts_of_architectures_are_what_its_prose_glues():
    made = architectures.read()
    assert_all_is_said("book/architectures", architectures.facts(made))
    assert len(architectures.failed(made))  # what the sentence below that table speaks of


# --- reproduce ------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def priced() -> pd.DataFrame:
    return reproduce.costs_table()


@pytest.fixture(scope="session")
def many_workers() -> pd.DataFrame:
    return reproduce.efficiencies()


@pytest.fixture(scope="session")
def estimated(priced, many_workers) -> dict[str, str]:
    seen = checks.facts(checks.verified(), checks.killed(), checks.killed(whole=True))
    return reproduce.facts(priced, many_workers) | seen


def test_the_facts_of_reproduce_are_what_its_prose_glues(estimated):
    assert_all_is_said("notebooks/reproduce", estimated)


def test_reproduce_a_model_of_seventy_billion_needs_several_cards(priced):
    fits = priced.loc["70B, 4 texts"] != "does not fit"
    assert not fits["A100-80GB"] and fits["2xH100"] and fits["8xH100"]
    assert (priced.loc[["this book", "the paper's scale"]] != "does not fit").all(axis=None)


def test_reproduce_on_eight_h100_most_of_the_time_is_one_load_and_one_item():
    hours = reproduce.hours_table(cards=["H100"], counts=[2, 8, 16])
    assert (hours["longest"] / hours["minutes"])[hours["cards"] == 8].min() > 0.5
    assert (hours["longest"] / hours["minutes"])[hours["cards"] == 2].min() < 0.5


def test_reproduce_one_worker_alone_waits_for_more_than_a_tenth_of_its_time(estimated):
    assert int(estimated["one-share"].rstrip("%")) < 90 and int(estimated["load-items"]) > 10


def test_reproduce_each_worker_has_little_more_than_a_minute_of_work():
    assert 60 < reproduce.item()[0] * reproduce.MANY / reproduce.WORKERS[-1] < 90


def test_reproduce_loading_and_files_limit_and_deaths_hardly_show(many_workers):
    at = many_workers[reproduce.WORKERS[-1]]
    assert at["one storage"] < at["nothing shared"] / 2
    assert at["and one folder"] < at["one storage"] / 1.5
    assert abs(at["and workers die"] - at["and one folder"]) < 0.01


def test_reproduce_the_two_changes_win_back_most(many_workers):
    at = many_workers[reproduce.WORKERS[-1]]
    mended = at["and weights on each node"]
    assert at["nothing shared"] > mended > 5 * at["and workers die"] and mended > 0.5


def test_reproduce_workers_a_tenth_as_many_are_well_used():
    """Those would need ten times the documents: so many workers a document, and no more."""
    assert reproduce.efficiencies(workers=[100]).loc["and weights on each node", 100] > 0.85


def test_reproduce_no_table_differs_and_nothing_is_left(estimated):
    for way in ("died", "whole"):
        assert estimated[f"{way}-different"] == "none" and estimated[f"{way}-left"] == "nothing"
        assert int(estimated[f"{way}-deaths"]) >= 1 and int(estimated[f"{way}-tables"]) >= 1


def test_reproduce_all_that_were_looked_at_were_within_what_is_allowed(estimated):
    assert int(estimated["verified"]) == len(checks.verified())
