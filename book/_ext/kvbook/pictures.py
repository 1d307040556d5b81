"""Explorers compiled when the book is built, and a still picture of each."""

from __future__ import annotations

import hashlib
import html
import json
from pathlib import Path

from sphinx.application import Sphinx

from kvbook import markup
from kvlib.charts import inks
from kvlib.charts.compiled import compiled, still

VEGA_LITE = "/vega-lite/"  # in the schema of a spec that waits to be compiled


def finish_explorers(page: str, to_root: str, folder: Path) -> str:
    """The page whose explorers are compiled and have still pictures for want of scripts.

    An explorer that is compiled already stays as it is.
    """
    edits = []
    folder.mkdir(exist_ok=True)
    for chart in markup.within(markup.read(page).tags, "div", "kv-chart"):
        script = next(tag for tag in chart if "kv-data" in tag.classes)
        if VEGA_LITE not in json.loads(script.text)["spec"]["$schema"]:
            continue
        svg, sentence = still(script.text)
        file = folder / f"{hashlib.sha256(script.text.encode()).hexdigest()[:16]}.svg"
        file.write_text(svg, encoding="utf-8")
        image = f'<img class="kv-still" src="{to_root}_static/stills/{file.name}" alt="">'
        begin, end = (tag for tag in chart if tag.name == "noscript")
        edits.append((begin.end, end.start, f"{image}<p>{html.escape(sentence)}</p>"))
        edits.append((script.end, script.end + len(script.text), compiled(script.text)))
    return markup.edited(page, edits)


def write_inks(app: Sphinx) -> None:
    """Writes for the explorers' script which of the page's colours each ink becomes."""
    static = Path(app.outdir) / "_static"
    static.mkdir(parents=True, exist_ok=True)
    (static / "inks.js").write_text(f"window.kvInks = {json.dumps(inks.PAGE)};\n")
