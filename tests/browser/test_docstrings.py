"""Docstrings reach the library's page as they were typed."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "book" / "_ext"))
from kvbook.docstrings import as_written, to_rst  # noqa: E402


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


HERE = Path(__file__)


class Pair(NamedTuple):
    """One with defaults."""

    place: Path = HERE
    name: str = "x"


@dataclasses.dataclass
class Study:
    """The same, whose constructor nobody wrote."""

    place: Path = HERE
    name: str = dataclasses.field(default="x", compare=False)


@pytest.mark.parametrize("cls", [Pair, Study])
def test_a_default_is_named_as_in_the_source_and_not_by_a_folder_of_this_machine(cls):
    signature = f"(place: Path = {HERE!r}, name: str = 'x')"
    assert as_written(cls, signature) == "(place: Path = HERE, name: str = 'x')"
