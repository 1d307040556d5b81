"""The reference notebooks that nbval compares with belong to the pages as they are now."""

from __future__ import annotations

import copy
import importlib.util
from pathlib import Path

import jupytext
import nbformat
import pytest

SPEC = importlib.util.spec_from_file_location(
    "references", Path(__file__).parent / "notebooks" / "references.py"
)
references = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(references)

PAGES = references.pages()


def sources(notebook):
    """What a reader wrote: kind and text of every cell."""
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


def unexecuted(notebook):
    """Code cells that nbval would pass without comparing anything."""
    return [c.source for c in notebook.cells if c.cell_type == "code" and not c.execution_count]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_reference_has_the_cells_of_its_page(page):
    reference = nbformat.read(references.reference_of(page), as_version=4)
    assert sources(reference) == sources(jupytext.read(page)), "run `make references`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_cell_of_a_reference_was_executed_without_error(page):
    reference = nbformat.read(references.reference_of(page), as_version=4)
    assert unexecuted(reference) == []
    outputs = [output for cell in reference.cells for output in cell.get("outputs", [])]
    assert outputs
    assert not [output for output in outputs if output.output_type == "error"]
    assert not [output for output in outputs if output.get("name") == "stderr"]


def test_a_changed_cell_and_a_missing_count_are_noticed():
    page = PAGES[-1]
    reference = nbformat.read(references.reference_of(page), as_version=4)
    changed = copy.deepcopy(reference)
    changed.cells[-1].source += " "
    assert sources(changed) != sources(jupytext.read(page))
    forgotten = copy.deepcopy(reference)
    next(cell for cell in forgotten.cells if cell.cell_type == "code")["execution_count"] = None
    assert len(unexecuted(forgotten)) == 1
