"""The references that nbval compares with belong to the pages as they are now, and are readable."""

from __future__ import annotations

import copy

import jupytext
import nbformat
import pytest
import reading
import references
from kvbook import outputs

PAGES = outputs.pages()
KILOBYTES = 750  # of all references; with what is in their charts it would be thousands


def stored(page):
    """The reference of a page."""
    return nbformat.read(references.reference_of(page), as_version=4)


def sources(notebook):
    """What a reader wrote: kind and text of every cell."""
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


def unexecuted(notebook):
    """Code cells that nbval would pass without comparing anything."""
    return [c.source for c in notebook.cells if c.cell_type == "code" and not c.execution_count]


def unread(notebook):
    """Outputs that hold more than what is read of them."""
    pairs = zip(notebook.cells, reading.read(notebook).cells, strict=True)
    return [before.source for before, after in pairs if before != after]


def test_every_page_has_one_reference_and_every_reference_a_page():
    kept = {path.name for path in references.HERE.glob("*.ipynb")}
    assert kept == {references.reference_of(page).name for page in PAGES}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_reference_has_the_cells_of_its_page(page):
    assert sources(stored(page)) == sources(jupytext.read(page)), "run `make references`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_cell_of_a_reference_was_executed_without_error(page):
    reference = stored(page)
    assert unexecuted(reference) == []
    said = [output for cell in reference.cells for output in cell.get("outputs", [])]
    assert said
    assert not [output for output in said if output.output_type == "error"]
    assert not [output for output in said if output.get("name") == "stderr"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_reference_holds_what_is_read_and_nothing_else(page):
    assert unread(stored(page)) == []


def test_references_stay_small():
    sizes = [path.stat().st_size for path in references.HERE.glob("*.ipynb")]
    assert sum(sizes) < 1000 * KILOBYTES


def test_a_changed_cell_a_missing_count_and_raw_output_are_noticed():
    page = PAGES[-1]
    reference = stored(page)
    changed = copy.deepcopy(reference)
    changed.cells[-1].source += " "
    assert sources(changed) != sources(jupytext.read(page))
    forgotten = copy.deepcopy(reference)
    code = outputs.code_cells(forgotten)
    code[0]["execution_count"] = None
    assert len(unexecuted(forgotten)) == 1
    html = {"text/html": "<p>0.3 nats</p>"}
    code[1].outputs = [nbformat.v4.new_output("display_data", html)]
    assert len(unread(forgotten)) == 1


def test_a_page_that_does_not_exist_is_refused_by_its_name():
    assert references.named(["index"])[0].stem == "index" and references.named([]) == PAGES
    with pytest.raises(SystemExit, match="unknown page: expected some of index, .*, got nosuch"):
        references.named(["nosuch"])
