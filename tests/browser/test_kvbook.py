"""The book's Sphinx extension: how pages are hardened and pictures compiled."""

from __future__ import annotations

import json
import zipfile
from types import SimpleNamespace

import altair as alt
import pandas as pd
import pytest
from book_checks import ROOT
from kvbook import folds, labels, libraries, markup, pages, pictures, terms
from pybtex.database import parse_string

from kvlib import store, study
from kvlib.charts import inks, parts
from kvlib.charts.controls import Explorer, Slider

THEME = "document.documentElement.dataset.theme = 'auto'"
PAGE = f"""<head><meta charset="utf-8"><script>{THEME}</script></head>
<script src="b.js"></script><script>let a = 1</script><script defer src="c.js"></script>
<script type="application/json">{{"c": 3}}</script><button onclick="window.print()">"""


def hardened(page: str) -> tuple[str, dict[str, str]]:
    """A page after hardening, and the files that it now needs."""
    files: dict[str, str] = {}
    return pages.harden(page, "page.html", "../", files), files


def body(content: str) -> str:
    """A page that holds a piece of markup."""
    return f'<!doctype html><head><meta charset="utf-8"></head><body>{content}</body>'


def test_hardening_moves_scripts_and_clicks_out_and_sets_the_policy_once():
    hard, scripts = hardened(PAGE)
    theme, file = scripts
    assert scripts[file] == "let a = 1"
    assert f'<script src="../_static/inline/{file}" defer="">' in hard
    assert hard.count("Content-Security-Policy") == 1 and 'data-click="window.print()"' in hard
    assert '{"c": 3}' in hard and "onclick" not in hard
    assert '<script src="b.js" defer="">' in hard and '<script defer="" src="c.js">' in hard
    assert scripts[theme].startswith(THEME) and "prefers-color-scheme" in scripts[theme]
    assert f'<script src="../_static/inline/{theme}">' in hard  # before the first paint
    assert hard.index(file) < hard.index("b.js") < hard.index("c.js")  # a setting comes first
    assert hardened(hard) == (hard, {})


def test_what_searches_is_loaded_on_the_page_of_the_search_alone():
    """The theme puts it on every page, for a search while one types, which is off."""
    tags = [f'<script src="../{name}"></script>' for name in ("_static/a.js", "searchindex.js")]
    everywhere = pages.harden(body("".join(tags)), "page.html", "../", {})
    assert "a.js" in everywhere and "searchindex.js" not in everywhere
    assert "searchindex.js" in pages.harden(body("".join(tags)), "search.html", "../", {})


@pytest.mark.parametrize(
    "script",
    [
        "<SCRIPT>go()</SCRIPT>",
        "<script\n type='text/javascript'\n>go()</script >",
        "<script type=module>go()</script>",
        "<script type=' TEXT/JavaScript '>go()</script>",
        "<script data-x=\"</script>\" title='a > b'>go()</script>",
    ],
)
def test_an_inline_script_is_moved_however_it_is_written(script):
    hard, files = hardened(body(script))
    ((name, text),) = files.items()
    assert text == "go()" and "go()" not in hard and f"_static/inline/{name}" in hard
    assert [tag.text for tag in markup.read(hard).tags if tag.name == "script"] == ["", ""]


def test_a_script_in_a_comment_goes_with_the_comment_and_data_stay():
    data = '<script type="application/json">{"a": "<b onclick=evil()>"}</script>'
    hard, files = hardened(body(f"a<!-- <script>go()</script> --><?php go() ?>b{data}"))
    assert files == {} and f"ab{data}" in hard and "go()" not in hard


@pytest.mark.parametrize("hidden", ["<!--><script>go()</script>-->", "<![CDATA[<b>go()</b>]]>"])
def test_what_a_browser_may_not_take_for_a_comment_is_gone_all_the_same(hidden):
    hard, files = hardened(body(f"a{hidden}b"))
    assert "go()" not in hard and files == {} and ">ab<" in hard


@pytest.mark.parametrize(
    ("page", "complaint"),
    [
        (body('<button onclick="evil()">'), "onclick to be one of .* got onclick='evil"),
        (body("<img/ONERROR=evil() src=x>"), "onclick to be one of .* got onerror='evil"),
        (body("<body onload='window.print()'>"), "got onload="),
        (body("<a href='JaVa&#9;Script:evil()'>"), "expected an address in href, got 'JaVa"),
        (body('<form action=" javascript:evil()">'), "expected an address in action"),
        (body('<a xlink:href="java\nscript:evil()">'), "expected an address in xlink:href"),
        (body("<iframe srcdoc='javascript:evil()'>"), "expected an address in srcdoc"),
        (body("a < b"), "expected < in a text to be written &lt;, got '< b"),
        (body("<!-- a --!><script>evil()</script>"), "to be written &lt;"),
        (body("<script>evil()"), "expected </script>, got the end"),
        (body("<style>a{}</style"), "expected </style>, got the end"),
        (body("<script type=a><!--<script></script>"), "expected data without <!--"),
        ("<p>", "expected <meta charset"),
        ('<meta charset="utf-8"><style>a{}</style>', "expected </head> in a page with a <style>"),
    ],
)
def test_a_page_that_cannot_be_hardened_raises_with_its_name(page, complaint):
    with pytest.raises(ValueError, match=f"^page.html: .*{complaint}") as raised:
        hardened(page)
    assert "\n" not in str(raised.value)


def test_of_an_attribute_given_twice_the_first_counts_as_in_a_browser():
    hard, files = hardened(body('<script type="" type="application/json">go()</script>'))
    assert list(files.values()) == ["go()"] and "go()" not in hard


def test_styles_are_moved_to_the_head_each_once_and_a_page_has_one_viewport():
    view = '<meta name="viewport" content="width=device-width">'
    style = "<STYLE scoped>\n th > td { color: red }\n</STYLE>"
    page = f'<head><meta charset="utf-8">{view}{view.upper()}</head><p>{style}<b>{style}'
    hard, files = hardened(page)
    ((name, text),) = files.items()
    assert name.endswith(".css") and text == "\n th > td { color: red }\n"
    assert f'<link rel="stylesheet" href="../_static/inline/{name}"></head><p><b>' in hard
    assert hard.lower().count("viewport") == 1 and "style " not in hard.lower().split("</head>")[1]


def test_roles_that_docutils_gives_in_vain_are_gone_and_others_stay():
    roles = '<div role="list" class="a citation-list"><div role="doc-biblioentry"><ul role="list">'
    assert '<div class="a citation-list"><div><ul role="list">' in hardened(body(roles))[0]


def test_of_elements_with_one_id_the_first_keeps_it():
    hard, _ = hardened(body('<p id="a">1<p class="x" id="a">2<p id="A">3'))
    assert '<p id="a">1<p class="x">2<p id="A">3' in hard


def test_what_is_not_edited_stays_letter_by_letter():
    odd = "<P  CLASS=a\n>x &amp; &lt;y&gt; &unknown <svg viewBox='0 0 1 1'/><br/></P >"
    assert f"<body>{odd}</body>" in hardened(body(odd))[0]


def test_edits_that_overlap_raise():
    with pytest.raises(ValueError, match="edits that don't overlap, got two at 2"):
        markup.edited("abcdef", [(1, 3, "x"), (2, 4, "y")])


def test_links_to_terms_and_signs_hold_what_they_mean():
    links = '<a class="x" href="g.html#term-window">w</a><A HREF="#sign-a">a</A>'
    meanings = {"term-window": 'so "many"', "sign-a": "a < b", "b": "c"}
    said = terms.define_terms(f'{links}<a href="#term-b">b</a>', meanings)
    assert '<a class="x" href="g.html#term-window" data-definition="so &quot;many&quot;">w' in said
    assert '<a href="#sign-a" data-definition="a &lt; b" aria-label="a &lt; b">a' in said
    assert said.endswith('<a href="#term-b">b</a>')


def test_links_to_references_hold_what_they_refer_to_instead_of_a_title():
    link = '<a href="../book/references.html#id2" title="A. Author. A paper.">Author, 2026</a>'
    others = '<a href="references.html" title="t">R</a><a href="x.html#id2" title="t">x</a>'
    said = terms.define_terms(link + others, {})
    held = 'href="../book/references.html#id2" data-definition="A. Author. A paper.">Author'
    assert said == f"<a {held}, 2026</a>{others}"


def test_the_archive_holds_every_table_with_its_manifest_and_is_the_same_each_time(tmp_path):
    file = tmp_path / "_static" / libraries.TABLES
    libraries.write_tables(SimpleNamespace(outdir=tmp_path))
    first = file.read_bytes()
    with zipfile.ZipFile(file) as archive:
        held = {
            name.removeprefix("kvlib-tables/"): archive.read(name) for name in archive.namelist()
        }
    names = [path.stem for path in store.DATA.glob("*.parquet")]
    assert set(held) == {f"{name}.{kind}" for name in names for kind in ("parquet", "json")}
    for name in names:
        assert held[f"{name}.parquet"] == (store.DATA / f"{name}.parquet").read_bytes()
        assert json.loads(held[f"{name}.json"])["settings"]["kind"] in study.KINDS
    libraries.write_tables(SimpleNamespace(outdir=tmp_path))
    assert file.read_bytes() == first


def explorer() -> Explorer:
    """A chart with a sentence and a slider."""
    rows = alt.Chart(pd.DataFrame({"x": [1, 2, 3]})).transform_filter("datum.x >= least")
    points = rows.mark_point().encode(x="x:Q")
    said = parts.reading(rows, "'From <' + least + '> on & further.'")
    return Explorer(
        parts.picture(points, said, parameters=["least"]), [Slider("least", "x", 1, 3)], "x"
    )


def test_explorers_are_compiled_and_get_a_still_picture_once(tmp_path):
    page = f"<p>{explorer().to_html()}</p>{explorer().to_html()}"
    finished = pictures.finish_explorers(page, "../", tmp_path)
    assert finished.count("<p>From &lt;1&gt; on &amp; further.</p></noscript>") == 2
    (file,) = tmp_path.iterdir()
    assert finished.count(f'<img class="kv-still" src="../_static/stills/{file.name}"') == 2
    for chart in markup.within(markup.read(finished).tags, "div", "kv-chart"):
        (data,) = [json.loads(tag.text) for tag in chart if "kv-data" in tag.classes]
        assert "/vega/" in data["spec"]["$schema"]
    assert pictures.finish_explorers(finished, "../", tmp_path) == finished


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
    inked = {inks.TEXT, inks.MUTED, inks.GRID, inks.BLUE}
    assert all(ink in json.dumps(vega) for ink in inked) and inked < set(inks.PAGE)


def test_each_ink_becomes_a_colour_that_the_page_has(tmp_path):
    pictures.write_inks(SimpleNamespace(outdir=tmp_path))
    written = (tmp_path / "_static" / "inks.js").read_text()
    assert json.loads(written.removeprefix("window.kvInks = ").removesuffix(";\n")) == inks.PAGE
    sheet = (ROOT / "book" / "_static" / "book.css").read_text()
    ours = [name for name in inks.PAGE.values() if name.startswith("--kv-")]
    assert all(sheet.count(f"{name}:") == 2 for name in ours)  # light and dark


def test_no_ink_is_written_a_second_time():
    """`kvlib.charts.inks` is where they stand."""
    files = [path for kind in ("py", "js") for path in ROOT.glob(f"[bk]*/**/*.{kind}")]
    named = {ink.lower() for ink in inks.PAGE}
    again = [
        str(path.relative_to(ROOT))
        for path in files
        if path.name != "inks.py" and any(ink in path.read_text().lower() for ink in named)
    ]
    assert len(files) > 50 and again == []


@pytest.mark.parametrize(
    "base, found",
    [("", "../_static/card.png"), ("https://a.b/c/", "https://a.b/c/_static/card.png")],
)
def test_a_shared_link_shows_a_picture_by_its_whole_address(base, found):
    app = SimpleNamespace(config=SimpleNamespace(html_baseurl=base))
    context = {"metatags": '<meta property="og:image" content="../_static/card.png" />'}
    pages.address_card(app, "book/index", "page.html", context, None)
    assert f'content="{found}"' in context["metatags"]


SIGN = '<a class="headerlink" href="#a">#</a>'
TRUST = (
    '<section id="how-far-to-trust-this"><h2>How far to trust this' + SIGN + "</h2><p>Said.</p>"
    f'<section id="measure"><h3>Measure <em>it</em>{SIGN}</h3><p>So.</p></section></section>'
)


def test_the_part_on_trust_is_folded_and_its_summary_says_what_is_in_it():
    page = f'<section id="claim"><h2>Claim{SIGN}</h2></section>{TRUST}<p>After.</p>'
    said = folds.fold(page)
    heading = "<summary><h2>How far to trust this</h2>"
    assert f'<details class="kv-fold">{heading}<span class="kv-inside">Measure it</span>' in said
    assert said.endswith("</section></details></section><p>After.</p>")
    assert said.count(SIGN) == 2 and said.count("<details") == 1


def test_a_page_without_such_a_part_stays_as_it_is():
    page = f'<section id="claim"><h2>How far to trust this{SIGN}</h2></section>'
    assert folds.fold(page) == page


def test_a_reference_is_listed_under_the_name_that_the_text_uses():
    authors = ["Kim, Munsik", "Wyner, Aaron and Ziv, Jacob", "Li, A and van Oren, B and C, D"]
    authors += ["{{arXiv:2609.03430}}", "Kim, Other"]
    entries = [
        f"@misc{{k{n}, author = {{{who}}}, title = {{T}}, year = {{2026}}}}"
        for n, who in enumerate(authors)
    ]
    entries = parse_string("\n".join(entries), "bibtex").entries.values()
    assert list(labels.Labels().format_labels(entries)) == [
        *("Kim, 2026a", "Wyner and Ziv, 2026", "Li et al., 2026", "arXiv:2609.03430, 2026"),
        "Kim, 2026b",
    ]
