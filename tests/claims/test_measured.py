"""Models and texts of the book, by the manifests of its tables."""

from __future__ import annotations

from kvlib import claims, store


def test_every_model_and_text_is_there_once_with_its_licence():
    models, texts = claims.measured.models(), claims.measured.texts()
    assert models["model"].is_unique and models["parameters"].is_monotonic_increasing
    assert texts["text"].is_unique
    for rows in (models, texts):
        assert not rows.isna().any(axis=None) and (rows != "").all(axis=None)
        assert len(claims.measured.shown(rows)) == len(rows)


def test_what_prose_says_of_them_counts_the_tables():
    facts, tables = claims.measured.facts(), store.tables(study="sensitivity")
    assert int(facts["models"]) >= len({table.settings["model"] for table in tables}) >= 4
    assert int(facts["families"]) >= 3 and int(facts["texts"]) >= 4
    assert facts["least-parameters"] == "5 million"
