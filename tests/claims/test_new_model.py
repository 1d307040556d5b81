"""A table of a model that nobody has named: pages take it in, by what its manifest says."""

from __future__ import annotations

import shutil

import pytest

from kvlib import charts, claims, names, store

OLD, NEW, TEXT = "smollm2-135m-instruct", "my-model", "world-english-bible"
COST = {"full": 1000, "sliding": 3000, "local": 128}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The tables of SmolLM2 and their copies under another model's name; the small GPT-2's."""
    data = tmp_path_factory.mktemp("data")
    for table in store.tables():
        settings, about = table.settings, table.manifest["about"]
        others = settings.get("model", OLD) != OLD and table.manifest["study"] != "positions"
        if settings.get("corpus", TEXT) == TEXT and not others:
            for ending in (".json", ".parquet"):
                shutil.copy(table.path.with_suffix(ending), data)
        if settings.get("model") == OLD and settings["corpus"] == TEXT:
            path = data / table.path.name.replace(OLD, NEW)
            shutil.copy(table.path, path)
            model = about["model"] | {"cache_bytes": COST, "description": "mine"}
            changed = {"settings": settings | {"model": NEW}, "about": about | {"model": model}}
            store.write_manifest(path.with_suffix(".json"), table.manifest | changed)
    return data


@pytest.fixture(scope="module")
def curves(folder):
    return claims.claim.stored_curves(folder=folder)


def test_what_a_token_costs_comes_from_the_manifests(folder):
    costs = claims.claim.cache_costs(folder=folder)
    assert costs[NEW] == (1000, 3000, 128)
    known = [name for name in names.MODELS if name in costs]
    assert list(costs) == [*known, NEW]  # the book's order, unknown ones last
    assert list(claims.claim.cache_costs("sensitivity", folder)) == [OLD, NEW]
    assert list(claims.claim.cache_costs("sensitivity")) == list(names.MODELS)


def test_a_manifest_that_does_not_say_it_is_one_line(folder, tmp_path):
    (table,) = store.tables(folder, study="sensitivity", model=NEW)
    about = table.manifest["about"]
    model = {key: value for key, value in about["model"].items() if key != "cache_bytes"}
    shutil.copy(table.path, tmp_path)
    path = tmp_path / table.path.name
    store.write_manifest(
        path.with_suffix(".json"), table.manifest | {"about": about | {"model": model}}
    )
    with pytest.raises(ValueError, match="what a cached token of my-model weighs") as error:
        claims.claim.cache_costs(folder=tmp_path)
    assert "\n" not in str(error.value) and str(path) in str(error.value)


def test_bounds_draws_the_new_model_and_charges_what_it_costs(folder, curves):
    assert (NEW, TEXT) in curves
    costs = claims.claim.cache_costs("sensitivity", folder)
    points = claims.bounds.budget_rows(curves, costs)
    mine = points[points["source"].str.startswith(NEW)]
    assert len(mine) and set(mine["full"]) == {1000} and set(mine["sliding"]) == {3000}
    explorer = charts.bounds.budget(points).to_html()
    assert "my-model on the World English Bible" in explorer
    assert NEW in set(claims.bounds.law_errors(curves)["model"])


def test_story_plans_for_the_new_model_and_tells_its_passage(folder, curves):
    rows = claims.policy_rows.stored_rows(folder)
    summary = claims.policy_rows.summary(rows[rows["policy"] == claims.policy_rows.SINKS])
    table = claims.story.plan_rows(summary, claims.claim.cache_costs(folder=folder))
    mine = table[table["source"] == "my-model on the World English Bible"]
    assert (mine["megabytes"] * 1e6 == 4000 * mine["budget"]).all() and len(mine) == 5
    assert "my-model on the World" in charts.story.plan(table).to_html()
    passages = store.stored("passage", folder)
    assert len(passages) == 2
    stored = store.load_table(passages[OLD, TEXT])
    assert claims.story.stored_passage(folder).equals(stored)
    assert claims.story.facts(curves)


def test_verdicts_and_tables_of_the_other_pages_take_it_in(folder):
    assert NEW in claims.positions.stored_positions(folder)
    assert NEW in set(claims.policies.step_effect(folder)["model"])
    (judged,) = claims.formulation.judge(folder)
    assert judged.word != "to come"
    assert (NEW, TEXT) in claims.policy_rows.suffix_tables(folder)


def test_steps_without_their_larger_twin_are_left_out(folder, tmp_path):
    for table in store.tables(folder, study="stepwise"):
        for ending in (".json", ".parquet"):
            shutil.copy(table.path.with_suffix(ending), tmp_path)
    assert len(claims.policies.step_effect(tmp_path)) == 0
