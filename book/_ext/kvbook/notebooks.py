"""A page as a notebook to download: its text and its code, without outputs."""

from __future__ import annotations

from pathlib import Path

import jupytext
import nbformat
from sphinx.application import Sphinx

from kvbook import outputs


def offer_notebook(app: Sphinx, pagename: str, templatename: str, context: dict, doctree) -> None:
    """Write an executed page next to its source as `.ipynb`, and name it to the theme's button."""
    page = Path(app.srcdir) / f"{pagename}.md"
    if app.builder.format != "html" or page not in outputs.pages():
        return
    file = f"{pagename}.ipynb"
    target = Path(app.outdir) / "_sources" / file
    target.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(jupytext.read(page), target)
    context["ipynb_source"] = file
