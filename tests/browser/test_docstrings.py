"""Docstrings reach the library's page as they were typed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "book" / "_ext"))
from kvbook.docstrings import to_rst  # noqa: E402


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        (["Mean |r - s| of *args, d_k."], [r"Mean \|r - s\| of \*args, d\_k."]),
        (["The `row_k` of `x`."], [r"The \ ``row_k``\  of \ ``x``\ ."]),
        (["A `span of", "two` lines."], [r"A \ ``span of two``\  lines."]),
        (
            ["Says:", "", "    a_b = |c|", "    d", "", "e_f"],
            ["Says:", "", "::", ""] + ["    a_b = |c|", "    d", "", r"e\_f"],
        ),
        (["Args:", "    a_b: one"], ["Args:", r"    a\_b: one"]),
    ],
)
def test_signs_stand_as_they_were_typed(typed, read):
    assert to_rst(typed) == read
