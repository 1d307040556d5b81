"""Tables of pages: what stands in a cell, what is folded, and which columns name a row."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest

from kvlib import fit
from kvlib.charts.tables import MOST, Table, number, shown


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (True, "yes"),
        (np.bool_(False), "no"),
        (9230.0, "9,230"),
        (-0.25, "−0.25"),
        (6e-9, "6 × 10⁻⁹"),
        (2.5e-5, "2.5 × 10⁻⁵"),
        ("2e-05 + 0.1 of it", "2 × 10⁻⁵ + 0.1 of it"),
        (np.int64(12345), "12,345"),
        (0.30000000000000004, "0.3"),
        (np.nan, "–"),
        (None, "–"),
        ("", "–"),
        (np.inf, "∞"),
        ("SmolLM2", "SmolLM2"),
    ],
)
def test_a_cell_is_read_as_it_is_said(cell, text):
    assert shown(cell) == text


def test_a_number_has_the_digits_that_are_asked_for():
    assert [number(1234.56, digits) for digits in (2, 5)] == ["1,235", "1,234.6"]


@pytest.mark.parametrize(
    ("ends", "text"),
    [
        ((1.003, 0.998, 1.008), "1.003 [0.998,\u00a01.008]"),
        ((-0.25, -0.30, -0.1), "−0.25 [−0.30,\u00a0−0.10]"),
        ((45.2, 33.0, 53.1), "45 [33,\u00a053]"),
        ((0.3, 0.02, 35.0), "0.30 [0.02,\u00a035.00]"),
        ((0.0, -0.004, 2.0), "0.0 [0.0,\u00a02.0]"),
        ((1.0, 1.0, 1.0), "1.00 [1.00,\u00a01.00]"),
        ((1e-6, 0.0, 2e-6), "0.00 [0.00,\u00a00.00]"),
    ],
)
def test_an_interval_has_as_many_places_as_it_is_wide(ends, text):
    assert shown(fit.Estimate(*ends, 3)) == text


def test_an_interval_is_no_three_times_the_same():
    assert str(fit.Estimate(1.0001, 0.9999, 1.0003, 3)) == "1.00010 [0.99990,\u00a01.00030]"
    assert f"{fit.Estimate(0.25, 0.2, 0.31, 3):.2g}" == "0.25 [0.20,\u00a00.31]"


def rows_of(count: int) -> pd.DataFrame:
    return pd.DataFrame({"model": "small-gpt2", "corpus": "a text", "n": range(count)})


@pytest.mark.parametrize(
    ("count", "said"), [(MOST, []), (MOST + 1, ["1 more row"]), (11, ["3 more rows"])]
)
def test_of_a_long_table_the_rest_is_folded(count, said):
    page = Table(rows_of(count), "A caption.")._repr_html_()
    assert re.findall(r"<summary>(.*?)</summary>", page) == said
    assert page.partition("<details")[0].count('<tr><th scope="row"') == min(count, MOST)
    assert page.count('<tr><th scope="row"') == count


def test_keys_are_shown_by_name_and_columns_of_keys_name_the_row():
    page = Table(rows_of(2), "A caption.")._repr_html_()
    assert page.count('<th scope="row">the small GPT-2</th><th scope="row">a text</th>') == 1
    assert page.count('<th scope="row" class="kv-same">the small GPT-2</th>') == 1
    assert "<caption>A caption.</caption>" in page and '<th scope="col">text</th>' in page


def test_there_is_one_row_of_headings_with_the_name_of_the_columns_in_its_corner():
    wide = pd.DataFrame([[1, 2]], index=["counter"], columns=[4, 8]).rename_axis(columns="bits")
    page = Table(wide, "A caption.")._repr_html_()
    heads = re.findall(r"<thead>(.*?)</thead>", page)
    assert heads == [
        '<tr><th scope="col">bits</th><th scope="col">4</th><th scope="col">8</th></tr>'
    ]


def test_two_levels_of_headings_share_what_is_the_same():
    columns = pd.MultiIndex.from_product([["law", "rival"], ["KL", "TV"]])
    page = Table(pd.DataFrame([[1, 2, 3, 4]], index=["a"], columns=columns), "A caption.")
    assert page._repr_html_().count('<th scope="col" colspan="2">') == 2


def test_what_is_typed_is_no_markup_and_a_table_says_what_it_shows():
    page = Table(pd.DataFrame({"a": ["<b>"]}), "<i>")._repr_html_()
    assert "<b>" not in page and "<i>" not in page
    with pytest.raises(ValueError, match="caption: expected what the table shows"):
        Table(rows_of(1), " ")


def test_without_html_it_is_plain_text():
    assert str(Table(rows_of(1), "A caption.")).splitlines()[0] == "A caption."


def test_headings_are_words_and_numbers_as_they_are_read():
    page = Table(pd.DataFrame([[1, 2, 3]], columns=[1024, "kl_nats", "upper_miss"]), "A caption.")
    heads = re.findall(r'<th scope="col">(.*?)</th>', page._repr_html_())
    assert heads == ["1,024", "KL, nats", "upper miss"]
