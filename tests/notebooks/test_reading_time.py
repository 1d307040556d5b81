"""A page is read in a few minutes: at most so many words stand open, the rest is folded."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
WORDS = 900  # of prose outside folds
LONGER = {"story": 1500}  # a tour of the whole book, with what to move on the way
PAGES = sorted(path.stem for path in (ROOT / "notebooks").glob("*.md"))
FENCE = re.compile(r"^( *)(`{3,}|:{3,})\{?([\w-]*)[^\n]*\n(.*?)^\1\2$", re.S | re.M)
TRUST = re.compile(r"^## How far to trust this\n.*?(?=^## |\Z)", re.S | re.M)
GLUE = re.compile(r"\{glue:text\}`([^`]+)`")
ROLE = re.compile(r"\{[\w:]+\}`([^`]*)`")
OPEN = {"admonition", "prf"}  # blocks of prose; all others are code, pictures or formulas


def facts(page: str) -> dict[str, str]:
    """Name → text of what a page glues, as its reference has it."""
    notebook = nbformat.read(HERE / f"{page}.ipynb", as_version=4)
    said = [
        text
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        for kind, text in output.get("data", {}).items()
        if kind.startswith("application/papermill.record/")
    ]
    return dict(text.split(" = ", 1) for text in said if " = " in text)


def prose(text: str) -> str:
    """What is read of a page without opening anything: no code, no formula, no table, no fold."""

    def block(match: re.Match) -> str:
        body = match[4]
        if match[3] not in OPEN or ":class: dropdown" in body:
            return ""
        return re.sub(r"^ *:[\w-]+:.*$", "", body, flags=re.M)

    text = re.sub(r"\A---\n.*?^---\n", "", text, flags=re.S | re.M)
    text = FENCE.sub(block, TRUST.sub("", text))
    text = re.sub(r"\$\$.*?\$\$( \(eq-[\w-]+\))?", "", text, flags=re.S)
    return re.sub(r"^(\|.*| *\d+\. )", "", text, flags=re.M)


def open_words(text: str, said: dict[str, str]) -> int:
    """How many words stand open on a page, given what it glues."""
    plain = GLUE.sub(lambda match: said.get(match[1], match[1]).strip("'\""), prose(text))
    plain = re.sub(r"\]\([^)]*\)", "]", ROLE.sub(r"\1", plain))
    return len(re.findall(r"\w[\w'’.,-]*", plain))


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_short_outside_its_folds(page):
    text = (ROOT / "notebooks" / f"{page}.md").read_text(encoding="utf-8")
    assert open_words(text, facts(page)) <= LONGER.get(page, WORDS)


def test_words_are_counted_where_they_stand_open():
    page = (
        "---\nkernelspec:\n  a: b\n---\n\n# One two\n\n"
        "```{admonition} Title\n:class: tip\nthree four\n```\n\n"
        "```{code-cell}\nnot = this\n```\n\n| not | this |\n\n$$\nnot\n$$ (eq-a)\n\n"
        "{glue:text}`five` and [seven](eight.md) {term}`nine`\n\n1. ten\n\n"
        "   ```{admonition} Answer\n   :class: dropdown\n   not this\n   ```\n\n"
        "## How far to trust this\n\nnot\n\n### this\n\n## Eleven\n\ntwelve\n"
    )
    assert open_words(page, {}) == 11
    assert open_words(page, {"five": "'a b c'"}) == 13
