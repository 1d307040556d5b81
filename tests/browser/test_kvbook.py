"""The book's Sphinx extension: how pages are hardened and pictures compiled."""

from __future__ import annotations

import json
import sys

import pytest
from book_checks import ROOT

sys.path.insert(0, str(ROOT / "book" / "_ext"))
from kvbook import pages, pictures  # noqa: E402

THEME = "document.documentElement.dataset.theme = 'auto'"
PAGE = f"""<head><meta charset="utf-8"><script>{THEME}</script></head>
<script src="b.js"></script><script>let a = 1</script><script defer src="c.js"></script>
<script type="application/json">{{"c": 3}}</script><button onclick="window.print()">"""


def test_hardening_moves_scripts_and_clicks_out_and_sets_the_policy_once():
    scripts: dict[str, str] = {}
    hard = pages.harden(PAGE, "page.html", "../", scripts)
    theme, file = scripts
    assert scripts[file] == "let a = 1" and f'<script defer src="../_static/inline/{file}">' in hard
    assert hard.count("Content-Security-Policy") == 1 and 'data-click="window.print()"' in hard
    assert '{"c": 3}' in hard and "onclick" not in hard
    assert '<script defer src="b.js">' in hard and '<script defer src="c.js">' in hard
    assert scripts[theme].startswith(THEME) and "prefers-color-scheme" in scripts[theme]
    assert f'<script src="../_static/inline/{theme}">' in hard  # before the first paint
    assert hard.index(file) < hard.index("b.js") < hard.index("c.js")  # a setting comes first
    assert pages.harden(hard, "page.html", "../", {}) == hard


def test_a_page_that_cannot_be_hardened_raises_with_its_name():
    with pytest.raises(ValueError, match="page.html: expected <meta charset"):
        pages.harden("<p>", "page.html", "", {})
    with pytest.raises(ValueError, match="page.html: expected onclick .* got 'evil"):
        pages.harden('<button onclick="evil()">', "page.html", "", {})


def test_a_compiled_explorer_keeps_its_tables_and_signals_and_has_the_books_inks():
    spec = {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "data": {"name": "points"},
        "params": [{"name": "least", "value": 2}],
        "transform": [{"filter": "datum.x >= least"}],
        "mark": "point",
        "encoding": {"x": {"field": "x", "type": "quantitative"}},
    }
    tables = {"points": {"x": [1, 2, 3]}}
    said = json.loads(
        pictures.compiled(json.dumps({"spec": spec, "tables": tables, "controls": []}))
    )
    vega = said["spec"]
    assert "/vega/" in vega["$schema"] and said["tables"] == tables and said["controls"] == []
    assert {"name": "least", "value": 2} in vega["signals"]
    assert [part["values"] for part in vega["data"] if part["name"] == "points"] == [[]]
    loader = (ROOT / "book" / "_static" / "explorer.js").read_text()
    inks = [pictures.TEXT, pictures.MUTED, pictures.GRID, *pictures.INKS]
    assert all(f'"{ink}": "--' in loader for ink in inks)  # each becomes the page's own
    assert pictures.TEXT in json.dumps(vega) and pictures.INKS[0] in json.dumps(vega)
