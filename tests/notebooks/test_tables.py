"""Every table of a page is one for readers: a caption, and no number of a machine."""

from __future__ import annotations

import re

import pandas as pd
import pytest
from kvbook import outputs
from nbformat import NotebookNode, v4

from kvlib.charts.tables import Table

PAGES = outputs.pages()
VERDICTS = "kv-verdicts"  # the front page's own table, which a sentence stands in front of
RAW = {
    "a bare frame": re.compile(r'class="dataframe"'),
    "a type": re.compile(r"\bdtype: "),
    "yes or no": re.compile(r"<td[^>]*>\s*(?:True|False)\s*<"),
    "a float": re.compile(r"<td[^>]*>\s*[-−]?[\d.]+e[-+]\d+"),
    "a hyphen": re.compile(r"<td[^>]*>\s*-\d"),
    "three times the same": re.compile(r"<td[^>]*>\s*([\d.]*[1-9][\d.]*) \[\1,\s\1\]"),
}


def complaints(notebook: NotebookNode) -> list[str]:
    """What a page's outputs hold that a reader should not see in a table."""
    found = []
    for cell in outputs.code_cells(notebook):
        if "remove-cell" in cell.metadata.get("tags", []):
            continue
        for output in cell.outputs:
            shown = output.get("data", {})
            text = shown.get("text/html") or shown.get("text/plain", "")
            found += [
                f"{what} after {cell.source[-60:]!r}"
                for what, form in RAW.items()
                if form.search(text)
            ]
            if "<table" in text and not ("<caption" in text or VERDICTS in text):
                found.append(f"no caption after {cell.source[-60:]!r}")
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_table_has_a_caption_and_is_not_raw(page):
    assert complaints(outputs.executed(page)) == []


def page_of(value: object) -> NotebookNode:
    """A page whose one cell ends with a value."""
    html = getattr(value, "_repr_html_", lambda: None)()
    data = {"text/plain": repr(value)} | ({"text/html": html} if html else {})
    output = v4.new_output("execute_result", data=data)
    return v4.new_notebook(cells=[v4.new_code_cell("value", outputs=[output])])


def test_raw_tables_are_noticed():
    frame = pd.DataFrame({"holds": [True], "loss": [1e-9], "slope": [-0.25], "of": ["1 [1, 1]"]})
    assert len(complaints(page_of(frame))) == 6
    assert len(complaints(page_of(frame["loss"]))) == 1
    assert complaints(page_of(Table(frame[["holds", "loss", "slope"]], "What it shows."))) == []
