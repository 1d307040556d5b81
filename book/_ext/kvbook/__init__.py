"""What this book asks of Sphinx beyond Jupyter Book: all local, nothing inline, nothing stale.

- Vega and MathJax are written next to the pages, and loaded only where there is a chart or a
  formula.
- Links to terms of the glossary hold their definitions, which a script shows when pointed at.
- After the build, each explorer's Vega-Lite is compiled to Vega, which spares the reader's browser
  that work, and gets a still picture for browsers without scripts. Inline scripts are moved to
  files, so that each page can carry a strict Content-Security-Policy; the book runs from a web
  server and from ``file://`` alike.
- The small GPT-2 is written as scripts, for pages in which it runs.
- No script holds the page up: all but the one that sets the theme wait until it has been read, and
  the explorers' come first.
- Each executed page can be downloaded as a notebook, and each page says of which version it is.
- A page's part on how far to trust it is folded, and a link into it opens it.
- References are listed under the names that the text uses.
- Docstrings of kvlib, which are plain text, are put into the markup that Sphinx reads; signatures
  name their defaults as the source does.
- A notebook is executed again when a module of kvlib that it imports, the data or the requirements
  changed, which Jupyter's cache, looking only at the notebooks' own cells, would not notice.
"""

from __future__ import annotations

import os

from sphinx.application import Sphinx

from kvbook import markup
from kvbook.cache import bring_outputs, choose_cache
from kvbook.docstrings import prepare, resign
from kvbook.folds import fold
from kvbook.labels import offer_style
from kvbook.libraries import VEGA, write_libraries, write_model, write_tables
from kvbook.notebooks import offer_notebook
from kvbook.pages import address_card, finish_pages
from kvbook.pictures import write_inks
from kvbook.terms import define_terms, definitions

TRY = ("tokenizer", "laws", "cells", "model", "engine", "loader", "film", "page")  # in this order
FIRST = 100  # a script's place among others, which stand at 200 and above


def add_scripts(app: Sphinx, pagename: str, templatename: str, context: dict, doctree) -> None:
    """Vega and the explorers' loader, ahead of all else, on pages that have an explorer."""
    body = fold(define_terms(context.get("body", ""), definitions(app)))
    context["body"] = body
    tags = markup.read(body).tags
    here = {name for tag in tags for name in tag.classes}
    charts, passages, model = (name in here for name in ("kv-chart", "kv-passage", "kv-try"))
    app.add_js_file("clicks.js", defer="defer")
    if pagename == "search":
        app.add_js_file("snippets.js", defer="defer")
    if "kv-fold" in here or "kv-more" in here:
        app.add_js_file("folds.js", priority=FIRST, defer="defer")
    moves = charts or passages or model
    wanted = {"tools.js": moves, "sliders.js": moves, VEGA: charts, "inks.js": charts}
    wanted |= {"rules.js": charts, "explorer.js": charts, "passage.js": passages}
    for file in [name for name, needed in wanted.items() if needed]:
        app.add_js_file(file, priority=FIRST, defer="defer")
    if model:
        app.add_css_file("try/try.css")
        for name in TRY:
            app.add_js_file(f"try/{name}.js", defer="defer")
    if "kv-tour" in here:
        app.add_js_file("tour.js", defer="defer")
    if any("data-definition" in tag.attributes for tag in tags):
        app.add_js_file("terms.js", defer="defer")


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers the above, and keeps widget state out of the notebooks' outputs."""
    os.environ["KVLIB_STATIC"] = "1"
    offer_style()
    app.connect("config-inited", choose_cache)
    app.connect("autodoc-process-docstring", prepare, priority=100)  # before napoleon
    app.connect("autodoc-process-signature", resign)
    app.connect("env-get-outdated", bring_outputs)
    app.connect("builder-inited", write_libraries)
    app.connect("builder-inited", write_model)
    app.connect("builder-inited", write_tables)
    app.connect("builder-inited", write_inks)
    app.connect("html-page-context", add_scripts)
    app.connect("html-page-context", address_card)
    app.connect("html-page-context", offer_notebook, priority=100)  # before the theme's buttons
    app.connect("build-finished", finish_pages, priority=900)  # after the theme's own index.html
    return {"parallel_read_safe": True, "parallel_write_safe": True}
