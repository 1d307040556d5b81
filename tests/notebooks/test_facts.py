"""Notebook tests are green on any processor, and red when a fact changes.

Both are seen by running nbval on executions that were tampered with: every float a unit in the
last place off, in what charts hold or all through the computation, or one fact that is another.
"""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import charts_of
import last_place
import nbformat
import numpy as np
import pandas as pd
import pytest
import reading
import references
from kvbook import outputs, pictures

PAGES = outputs.pages()
SHAKEN = ("formulation", "block_markov")  # executed again with every float moved
DIGIT = re.compile(r"\d(?=\D*$)")
CELL = re.compile(r"(?<=<td>)[^<]*\d[^<]*(?=</td>)")
HELD = re.compile(r'(?<=class="kv-data">)[^<]*(?=<)')


def keep(folder, page, notebook):
    """Put an execution of a page where nbval's kernel finds it."""
    folder.mkdir(exist_ok=True)
    text = nbformat.writes(notebook, version=nbformat.NO_CONVERT)
    (folder / f"{page.stem}.ipynb").write_text(text, encoding="utf-8")


def compare(folder, pages):
    """Have nbval compare executions with the references: the cells it passed, and those it failed.

    A cell is named by its page and its place among the page's code cells.
    """
    report = folder / "report.xml"
    command = [sys.executable, "-m", "pytest", "--nbval", "--nbval-current-env", "-q"]
    command += ["-p", "no:cacheprovider", f"--junitxml={report}"]
    command += [str(references.reference_of(page)) for page in pages]
    env = os.environ | {"KVLIB_EXECUTED": str(folder)}
    run = subprocess.run(command, cwd=outputs.ROOT, env=env, capture_output=True, text=True)
    assert run.returncode in (0, 1), run.stdout + run.stderr
    passed, failed = set(), set()
    for case in ElementTree.parse(report).iter("testcase"):
        page = case.get("classname").split(".")[-2 if ".ipynb" in case.get("classname") else -1]
        (failed if len(case) else passed).add((page, int(case.get("name").split()[-1])))
    return passed, failed


# --- green: the last place moves ------------------------------------------------------------------


def moved(value, towards, fixed=()):
    """JSON with each computed float moved, but for what stands under fixed names.

    Short decimals stay: they were rounded when the page was executed, from floats that may move
    (`last_place` does so), and are the same ones everywhere.
    """
    if isinstance(value, dict):
        return {
            name: item if name in fixed else moved(item, towards, fixed)
            for name, item in value.items()
        }
    if isinstance(value, list):
        return [moved(item, towards, fixed) for item in value]
    if isinstance(value, float) and not last_place.short(np.array(value)):
        return math.nextafter(value, towards)
    return value


def with_charts_moved(notebook, towards):
    """An execution whose charts have every float of their tables moved.

    Columns that a control chooses from stay: their floats are named in the chart, not computed.
    """

    def move(match):
        chart = json.loads(match[0])
        chosen = {control["name"] for control in chart.get("controls", [])}
        chart |= moved({k: chart[k] for k in ("tables", "cells") if k in chart}, towards, chosen)
        return as_held(chart)

    for cell in outputs.code_cells(notebook):
        for output in cell.outputs:
            if "text/html" in output.get("data", {}):
                output.data["text/html"] = HELD.sub(move, output.data["text/html"])
    return notebook


def as_kept(page):
    """The last execution of a page, with what it rests on."""
    outputs.executed(page)
    return nbformat.read(outputs.kept(page), as_version=4)


@pytest.mark.parametrize("towards", [math.inf, -math.inf])
def test_no_sentence_changes_when_charts_move_in_the_last_place(tmp_path, towards):
    for page in PAGES:
        keep(tmp_path, page, with_charts_moved(as_kept(page), towards))
    passed, failed = compare(tmp_path, PAGES)
    assert not failed
    assert len(passed) == sum(len(outputs.code_cells(as_kept(page))) for page in PAGES)


def test_pages_say_the_same_when_every_computed_float_moves_in_the_last_place(
    tmp_path, monkeypatch
):
    pages = [page for page in PAGES if page.stem in SHAKEN]
    before = f"import sys; sys.path.insert(0, {str(references.HERE)!r}); import last_place"

    def execute(page):
        return outputs.execute(page, f"{before}; last_place.shake(seed={len(page.stem)})")

    with ThreadPoolExecutor(outputs.AT_ONCE) as pool:
        for page, notebook in zip(pages, pool.map(execute, pages), strict=True):
            keep(tmp_path, page, notebook)
    passed, failed = compare(tmp_path, pages)
    assert passed and not failed
    real = {page: charts_of.charts(page) for page in pages}
    monkeypatch.setenv("KVLIB_EXECUTED", str(tmp_path))
    shaken = {page: charts_of.charts(page) for page in pages}
    assert shaken != real  # something did move
    for page in pages:
        assert charts_of.difference(charts_of.load(page), shaken[page]) == ""


@dataclass(frozen=True)
class Found:
    """A result as the library's are."""

    value: float
    n: int


Found.__module__ = "kvlib.fit"


def test_a_shaken_float_is_its_neighbour_and_equal_ones_move_alike():
    values = np.sqrt(np.arange(2.0, 200.0))
    values = values[values != np.round(values)]
    ways = {}
    for seed in range(20):
        new = last_place.Shaker(seed).moved(values)
        up, down = np.nextafter(values, np.inf), np.nextafter(values, -np.inf)
        assert ((new == up) | (new == down)).all() and (new == up).any() and (new == down).any()
        ways[seed] = tuple(new == up)
    assert len(set(ways.values())) == 20
    twice = last_place.Shaker(3).moved(np.repeat(values, 2))
    assert (twice[::2] == twice[1::2]).all()


def test_a_shaker_reaches_into_results_and_leaves_counts_settings_and_words():
    shaker = last_place.Shaker(0)
    shaker.settings_stay = True
    table = pd.DataFrame({"mean": [1 / 3, np.nan], "level": [0.09, 1e-4], "n": [3, 4], "of": "ab"})
    new = shaker.moved({"found": (Found(1 / 3, 24), table)})["found"]
    assert new[0].value != 1 / 3 and new[0].n == 24
    assert new[1]["mean"][0] != 1 / 3 and np.isnan(new[1]["mean"][1])
    stored = pd.DataFrame({"kl_nats": np.array([1 / 3, 2 / 3], dtype=np.float32)})
    pd.testing.assert_frame_equal(shaker.moved(stored), stored)
    assert (shaker.moved(stored["kl_nats"].to_numpy()) != stored["kl_nats"]).all()
    pd.testing.assert_frame_equal(new[1].drop(columns="mean"), table.drop(columns="mean"))
    assert shaker.moved([2.0, math.inf, "0.1", None]) == [2.0, math.inf, "0.1", None]
    shaker.settings_stay = False
    assert shaker.moved(0.09) != 0.09 and shaker.moved(3.0) == 3.0


# --- red: a fact changes --------------------------------------------------------------------------


def other_digit(text):
    """The text with its last digit changed."""
    return DIGIT.sub(lambda match: str((int(match[0]) + 1) % 10), text)


def change_sentence(html):
    """HTML whose chart says another sentence: with larger floats, or else started elsewhere."""

    def change(match):
        chart = json.loads(match[0])
        chosen = {control["name"] for control in chart["controls"]}
        for table in chart["tables"].values():
            for name in table.keys() - chosen:
                if isinstance(table[name], list):
                    table[name] = [v * 1.05 if isinstance(v, float) else v for v in table[name]]
                elif name == "sentence":
                    table[name]["texts"] = [other_digit(text) for text in table[name]["texts"]]
        return as_held(chart)

    def start_elsewhere(match):
        chart = json.loads(match[0])
        for control in chart["controls"]:
            control["value"] = control["values"][control["values"].index(control["value"]) - 1]
            for param in chart["spec"]["params"]:
                if param["name"] == control["name"]:
                    param["value"] = control["value"]
        return as_held(chart)

    said = sentences(html)
    new = HELD.sub(change, html)
    new = new if sentences(new) != said else HELD.sub(start_elsewhere, html)
    assert sentences(new) != said
    return new


def as_held(chart):
    """A chart as HTML holds it."""
    return json.dumps(chart).replace("<", "\\u003c")


def sentences(html):
    """What the charts in a piece of HTML say."""
    return [pictures.still(data)[1] for data in reading.payloads_of(html)]


def change_output(output):
    """Change one fact in an output; says of which kind it is, or nothing when there is none."""
    if output.output_type == "stream" and DIGIT.search(output.text):
        output.text = other_digit(output.text)
        return "sentence"
    data = output.get("data", {})
    html = data.get("text/html", "")
    if CELL.search(html):
        data["text/html"] = CELL.sub(lambda match: other_digit(match[0]), html, count=1)
        return "table"
    if '"controls":' in html:
        data["text/html"] = change_sentence(html)
        return "chart"
    for kind, value in data.items():
        if kind.startswith(reading.GLUED):
            data[kind] = other_digit(value) if DIGIT.search(value) else f"not {value}"
            return "glued"
    return ""


def test_each_changed_fact_fails_its_cell_and_no_other(tmp_path):
    changed, kinds = set(), []
    for page in PAGES:
        notebook = as_kept(page)
        for place, cell in enumerate(outputs.code_cells(notebook)):
            kind = next(filter(None, map(change_output, reversed(cell.outputs))), "")
            if kind:
                changed.add((page.stem, place))
                kinds.append(kind)
        keep(tmp_path, page, notebook)
    passed, failed = compare(tmp_path, PAGES)
    missed = changed - failed
    assert not failed - changed
    assert not missed
    assert passed and {"sentence", "table", "chart", "glued"} == set(kinds)


def test_a_value_glued_under_another_name_fails(tmp_path):
    page = next(page for page in PAGES if page.stem == "formulation")
    notebook = as_kept(page)
    place, names = next(
        (place, [output.metadata.get("scrapbook") for output in cell.outputs])
        for place, cell in reversed(list(enumerate(outputs.code_cells(notebook))))
        if len([o for o in cell.outputs if o.get("metadata", {}).get("scrapbook")]) > 1
    )
    names[0]["name"], names[1]["name"] = names[1]["name"], names[0]["name"]
    keep(tmp_path, page, notebook)
    assert compare(tmp_path, [page])[1] == {(page.stem, place)}


# --- how it is read -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "printed, read",
    [
        ("0.48392719", "0.483927"),
        ("5.4445312345e-07 nats", "5.44453e-7 nats"),
        ("0.1234565", "0.123456"),
        ("0.12345650000000001", "0.123456"),
        ("0.12345649999999999", "0.123456"),
        ("0.1234575", "0.123458"),
        ("version 1.2.3456789", "version 1.2.3456789"),
        ("12345678.0 of 0.065007 and 9.78", "12345678.0 of 0.065007 and 9.78"),
    ],
)
def test_long_fractions_are_cut_the_same_way_on_every_processor(printed, read):
    assert reading.rounded(printed) == read
    assert reading.rounded(read) == read


def test_html_is_read_as_lines_and_rows_without_what_is_unseen():
    html = (
        "<style>td { color: red }</style><table><tr><th>source</th><th>α</th></tr>"
        "<tr><td>text &amp; code</td><td>0.51 [0.42,\u00a00.64]</td></tr></table>"
        "<p>Of <sup>two</sup>.</p><noscript>no</noscript>"
    )
    assert reading.text_of(html).splitlines() == [
        "source | α |",
        "text & code | 0.51 [0.42, 0.64] |",
        "Of two.",
    ]
