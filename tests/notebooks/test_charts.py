"""What the charts of each page hold is what was kept of them, within a tolerance."""

from __future__ import annotations

import copy
import math
import re

import charts_of
import pytest
from kvbook import outputs

PAGES = outputs.pages()
KILOBYTES = 500  # of all that is kept
CHART = {
    "spec": {"mark": "line", "encoding": {"x": {"field": "window"}}},
    "tables": {"table 0": {"window": [1, 2], "mean": [0.31, None], "name": {"texts": ["a"]}}},
    "controls": [{"name": "window", "values": [1, 2], "value": 2}],
}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_charts_hold_what_they_held(page):
    assert charts_of.difference(charts_of.load(page), charts_of.charts(page)) == ""


def test_what_is_kept_is_small():
    kept = {charts_of.kept(page) for page in PAGES}
    assert kept == set(charts_of.HERE.glob("charts/*"))
    assert sum(path.stat().st_size for path in kept) < 1000 * KILOBYTES


def changed(*path, value):
    """The chart with one thing in it changed."""
    chart = copy.deepcopy(CHART)
    at = chart
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = value
    return chart


@pytest.mark.parametrize(
    "path, value, words",
    [
        (("tables", "table 0", "mean", 0), 0.310001, r"mean\[0\]: expected 0.31, got 0.310001"),
        (("tables", "table 0", "mean", 1), 0.0, r"mean\[1\]: expected None, got 0.0"),
        (("tables", "table 0", "window"), [1, 2, 3], "window: expected 2 items, got 3 items"),
        (("tables", "table 0", "name", "texts", 0), "b", "expected a, got b"),
        (("tables", "table 1"), {}, "tables: expected .*, got "),
        (("spec", "mark"), "bar", "spec.mark: expected line, got bar"),
        (("controls", 0, "value"), 1, r"controls\[0\].value: expected 2, got 1"),
        (("controls", 0, "value"), True, r"expected 2, got True"),
    ],
)
def test_a_change_in_a_chart_is_found_and_named(path, value, words):
    found = charts_of.difference(CHART, changed(*path, value=value))
    assert re.search(words, found)


def test_the_last_place_is_no_change():
    near = math.nextafter(0.31, 1)
    assert charts_of.difference(CHART, changed("tables", "table 0", "mean", 0, value=near)) == ""
    assert charts_of.difference(CHART, charts_of.shortened(CHART)) == ""


def test_tables_are_known_by_their_place_not_by_a_hash_of_their_rows():
    spec = {"layer": [{"data": {"name": "data-1f"}}, {"data": {"name": "data-2e"}}]}
    chart = {"spec": spec, "tables": {"data-1f": {}, "data-2e": {}}, "controls": []}
    found = charts_of.unnamed(chart)
    assert list(found["tables"]) == ["table 0", "table 1"]
    assert found["spec"]["layer"][1]["data"] == {"name": "table 1"}
