"""What this book asks of Sphinx beyond Jupyter Book: all local, nothing inline, nothing stale.

- Vega and MathJax are written next to the pages, and loaded only where there is a chart or a
  formula.
- Links to terms of the glossary hold their definitions, which a script shows when pointed at.
- After the build, each explorer's Vega-Lite is compiled to Vega, which spares the reader's browser
  that work, and gets a still picture for browsers without scripts. Inline scripts are moved to
  files, so that each page can carry a strict Content-Security-Policy; the book runs from a web
  server and from ``file://`` alike.
- No script holds the page up: all but the one that sets the theme wait until it has been read, and
  the explorers' come first.
- Notebooks are executed again when kvlib, its data or the requirements changed, which Jupyter's
  cache, looking only at the notebooks' own cells, would not notice.
"""

from __future__ import annotations

import hashlib
import html
import importlib.resources
import json
import os
import re
import shutil
from pathlib import Path

import vl_convert
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging

logger = logging.getLogger(__name__)

POLICY = (
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "object-src 'none'; base-uri 'none'"
)
VEGA = f"vega-{vl_convert.get_vega_version()}.js"
VEGA_LITE_VERSION = vl_convert.get_vegalite_versions()[-1]
MATHJAX_PARTS = (  # what mathjax3_config in _config.yml loads, TeX's extensions on demand
    "startup.js",
    "core.js",
    "input/tex.js",
    "input/tex/extensions",
    "output/chtml.js",
    "output/chtml/fonts",
    "a11y/assistive-mml.js",
)

FRONT_DOOR = """<!doctype html>
<html lang="en">
  <head>
    <meta charset="utf-8">
    <meta http-equiv="refresh" content="0; url={first}">
    <link rel="icon" href="data:,">
    <title>{title}</title>
  </head>
  <body><a href="{first}">{title}</a></body>
</html>
"""

CHARSET = re.compile(r"<meta charset=[^>]*>", re.I)
SCRIPT = re.compile(r"<script(?P<attributes>[^>]*)>(?P<body>.*?)</script>", re.S | re.I)
NOT_INLINE = re.compile(r"\s(src=|type=\"(?!text/javascript))")  # a file already, or data
FONTAWESOME = re.compile(r"<script[^>]*/fontawesome\.js[^>]*></script>\s*")
STALE_ROLES = re.compile(r' role="(?:list(?=" class="citation-list)|doc-biblioentry)"')  # docutils'
SETTING = re.compile(r"\s*(?:let |var |window\.\w+ = )")  # for scripts that may stand before it
WAITS = re.compile(r'\s(?:defer|async)\b|\stype="module"')
SETS_THEME = "documentElement.dataset.theme"  # in a script that must run before the first paint
RESOLVE_THEME = """
const dark = matchMedia("(prefers-color-scheme: dark)").matches;
const asked = document.documentElement.dataset.theme;
if (asked === "auto") document.documentElement.dataset.theme = dark ? "dark" : "light";
"""  # the theme does so too, but later: what is drawn before would have no colours
CLICK = re.compile(r'\sonclick="([^"]*)"')
GLOSSARY = "book/glossary"
NOTATION = "book/notation"
TERM = re.compile(r'(?P<link><a [^>]*href="[^"]*#(?P<anchor>(?:term|sign)-[^"]+)"[^>]*)>')
DRAWN_LATER = re.compile(  # what `kvlib.controls.Explorer` leaves for browsers without scripts
    r"<noscript><p>This picture is drawn in the browser[^<]*</p></noscript>"
    r'(?P<rest><script type="application/json" class="kv-data">(?P<data>[^<]*)</script>)'
)
READING_MARKS = re.compile(r'<g class="[^"]*reading_marks.*?</g>', re.S)
FIRST = 100  # a script's place among others, which stand at 200 and above
STILL_WIDTH = 620  # pixels
TEXT, MUTED, GRID = "#222832", "#48566b", "#e3e6ea"  # explorer.js knows them, and the series' inks
INKS = ["#0072B2", "#D55E00", "#009E73", "#A8478A", "#806400", "#8A8A8A"]
LABELS = {
    **{"labelColor": TEXT, "labelFontSize": 12},
    **{"titleColor": TEXT, "titleFontSize": 13, "titleFontWeight": 600},
}
THEME = {  # how all pictures look; colours and font become the page's own when they are drawn
    "background": "transparent",
    "font": "sans-serif",
    "view": {"stroke": None},
    "axis": {
        **LABELS,
        **{"gridColor": GRID, "gridOpacity": 0.8, "domainColor": MUTED, "tickColor": MUTED},
        **{"titlePadding": 8, "labelOverlap": True},
    },
    "legend": {
        **LABELS,
        **{"orient": "top", "symbolStrokeWidth": 2, "columns": {"expr": "width < 460 ? 2 : 0"}},
    },
    "header": LABELS,
    "title": {"color": TEXT, "fontSize": 14, "anchor": "start"},
    "mark": {"color": INKS[0]},
    "line": {"strokeWidth": 2.5},
    "rule": {"color": MUTED},
    "text": {"color": TEXT, "fontSize": 13},
    "range": {"category": INKS},
}
KNOWN_CLICKS = ("window.print()", "toggleFullScreen()")  # what book/_static/clicks.js can do


def fingerprint(root: Path) -> str:
    """A hash of everything but the notebooks that their outputs depend on."""
    files = [path for path in (root / "kvlib").rglob("*") if path.is_file()]
    files = [path for path in files if "__pycache__" not in path.parts]
    digest = hashlib.sha256()
    for path in sorted([*files, *root.glob("requirements*.txt")]):
        digest.update(f"{path.relative_to(root)}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def choose_cache(app: Sphinx, config) -> None:
    """One cache of outputs for each fingerprint; when its path changes, Sphinx reads all again."""
    caches = Path(app.outdir).parent / ".jupyter_cache"
    cache = caches / fingerprint(Path(app.srcdir))
    if caches.is_dir() and not cache.is_dir():
        shutil.rmtree(caches)
    cache.mkdir(parents=True, exist_ok=True)
    config.nb_execution_cache_path = str(cache)


def write_libraries(app: Sphinx) -> None:
    """Writes MathJax, and Vega in a function of its own: its global names would break Sphinx's."""
    static = Path(app.outdir) / "_static"
    static.mkdir(parents=True, exist_ok=True)
    if not (static / VEGA).exists():
        bundle = vl_convert.javascript_bundle(vl_version=VEGA_LITE_VERSION)
        (static / VEGA).write_text(f"(function () {{\n{bundle}\n}})();\n", encoding="utf-8")
    mathjax = importlib.resources.files("sphinx-mathjax-offline") / "static" / "mathjax"
    for part in MATHJAX_PARTS:
        with importlib.resources.as_file(mathjax / part) as source:
            target = static / "mathjax" / part
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, dirs_exist_ok=True)
            else:
                shutil.copyfile(source, target)


def add_scripts(app: Sphinx, pagename: str, templatename: str, context: dict, doctree) -> None:
    """Vega and the explorers' loader, ahead of all else, on pages that have an explorer."""
    app.add_js_file("clicks.js", defer="defer")
    body = context.get("body", "")
    charts, passages = ('class="kv-chart"' in body), ('class="kv-passage"' in body)
    wanted = {"tools.js": charts or passages, VEGA: charts, "explorer.js": charts}
    for file in [name for name, here in (wanted | {"passage.js": passages}).items() if here]:
        app.add_js_file(file, priority=FIRST, defer="defer")
    context["body"] = define_terms(body, definitions(app))
    if "data-definition" in context["body"]:
        app.add_js_file("terms.js", defer="defer")


def definitions(app: Sphinx) -> dict[str, str]:
    """What the glossary says of its terms, and the notation of its signs, by their anchors."""
    if not {GLOSSARY, NOTATION} <= app.env.all_docs.keys():
        return {}
    found = {}
    for row in app.env.get_doctree(NOTATION).findall(nodes.row):
        sign, meaning = row[0], " ".join(row[1].astext().split()).replace(r"\varepsilon", "ε")
        found |= {anchor: meaning for node in sign.findall() for anchor in ids_of(node)}
    for item in app.env.get_doctree(GLOSSARY).findall(nodes.definition_list_item):
        text = " ".join(item[-1].astext().split())
        found |= {anchor: text for term in item.findall(nodes.term) for anchor in term["ids"]}
    return found


def ids_of(node: nodes.Node) -> list[str]:
    """The anchors of an element; a text has none."""
    return node["ids"] if isinstance(node, nodes.Element) else []


def define_terms(body: str, meanings: dict[str, str]) -> str:
    """The page's text in which each link to a term or sign holds what it means."""

    def define(match: re.Match) -> str:
        text = html.escape(meanings.get(match["anchor"], ""))
        name = f' aria-label="{text}"' if match["anchor"].startswith("sign-") else ""  # a formula
        return f'{match["link"]} data-definition="{text}"{name}>' if text else match[0]

    return TERM.sub(define, body)


def spec_of(payload: dict) -> dict:
    """The Vega-Lite spec of an explorer, whole: its tables are kept by columns beside it."""

    def rows(columns: dict) -> list[dict]:
        values = [
            [column["texts"][place] for place in column["places"]]
            if isinstance(column, dict)
            else column
            for column in columns.values()
        ]
        return [dict(zip(columns, row, strict=True)) for row in zip(*values, strict=True)]

    tables = {name: rows(columns) for name, columns in payload["tables"].items()}
    return payload["spec"] | {"datasets": tables, "config": THEME}


def still(data: str) -> tuple[str, str]:
    """An explorer's first picture as SVG, and the sentence that reads it aloud."""
    spec = spec_of(json.loads(data)) | {"width": STILL_WIDTH, "background": "white"}
    svg = vl_convert.vegalite_to_svg(spec, vl_version=VEGA_LITE_VERSION)
    marks = READING_MARKS.search(svg)
    lines = re.findall(r"<(?:text|tspan)[^>]*>([^<]+)<", marks[0]) if marks else []
    return svg, " ".join(lines)


def compiled(data: str) -> str:
    """An explorer's data with its Vega-Lite spec as Vega, whose tables the browser fills in."""
    payload = json.loads(data)
    empty = {name: [] for name in payload["tables"]}
    spec = payload["spec"] | {"datasets": empty, "config": THEME}
    vega = vl_convert.vegalite_to_vega(spec, vl_version=VEGA_LITE_VERSION)
    text = json.dumps(payload | {"spec": vega}, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def finish_explorers(page: str, to_root: str, folder: Path) -> str:
    """The page whose explorers are compiled and have still pictures for want of scripts."""

    def picture(match: re.Match) -> str:
        file = folder / f"{hashlib.sha256(match['data'].encode()).hexdigest()[:16]}.svg"
        svg, sentence = still(match["data"])
        file.write_text(svg, encoding="utf-8")
        image = f'<img class="kv-still" src="{to_root}_static/stills/{file.name}" alt="">'
        ready = match["rest"].replace(match["data"], compiled(match["data"]))
        return f"<noscript>{image}<p>{sentence}</p></noscript>{ready}"

    folder.mkdir(exist_ok=True)
    return DRAWN_LATER.sub(picture, page)


def harden(page: str, name: str, to_root: str, scripts: dict[str, str]) -> str:
    """The page with its policy and without inline scripts, whose texts are added to ``scripts``.

    Scripts run after the page has been read, settings first, the others in their order.

    ``to_root`` is the way from the page's folder to the book's ("../"). A hardened page comes back
    as it is. Raises ValueError for a page without ``<meta charset>`` or an unknown ``onclick``.
    """
    if "Content-Security-Policy" in page:
        return page

    settings: list[str] = []

    def move_out(match: re.Match) -> str:
        attributes, body = match["attributes"], match["body"]
        if not body.strip() and " src=" in attributes:
            return match[0] if WAITS.search(attributes) else f"<script defer{attributes}></script>"
        if NOT_INLINE.search(attributes) or not body.strip():
            return match[0]
        wait = "" if SETS_THEME in body else " defer"
        body += "" if wait else f"{{{RESOLVE_THEME}}}"
        file = f"{hashlib.sha256(body.encode()).hexdigest()[:16]}.js"
        scripts[file] = body
        tag = f'<script{wait}{attributes} src="{to_root}_static/inline/{file}"></script>'
        if not SETTING.match(body):
            return tag
        settings.append(tag)
        return ""

    def rename_click(match: re.Match) -> str:
        if match[1] not in KNOWN_CLICKS:
            raise ValueError(
                f"{name}: expected onclick to be one of {KNOWN_CLICKS}, got {match[1]!r}"
            )
        return f' data-click="{match[1]}"'

    page = FONTAWESOME.sub("", page)
    page = STALE_ROLES.sub("", page)
    page = SCRIPT.sub(move_out, page)
    page = page.replace("<script defer", "".join(settings) + "<script defer", 1)
    page = CLICK.sub(rename_click, page)
    policy = f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    page, found = CHARSET.subn(lambda match: f"{match[0]}\n    {policy}", page, count=1)
    if not found:
        raise ValueError(f"{name}: expected <meta charset=…> in the head, got none")
    return page


def finish_pages(app: Sphinx, error: Exception | None) -> None:
    """Writes the front door and hardens the pages of this build; earlier ones are hardened."""
    if error or app.builder.format != "html":
        return
    book = Path(app.outdir)
    first = f"{app.config.root_doc}.html"
    (book / "index.html").write_text(FRONT_DOOR.format(first=first, title=app.config.html_title))
    scripts: dict[str, str] = {}
    for path in sorted(book.rglob("*.html")):
        if "_static" in path.relative_to(book).parts:
            continue
        before = path.read_text(encoding="utf-8")
        to_root = "../" * (len(path.relative_to(book).parts) - 1)
        after = finish_explorers(before, to_root, book / "_static" / "stills")
        after = harden(after, path.name, to_root, scripts)
        if after != before:
            path.write_text(after, encoding="utf-8")
    folder = book / "_static" / "inline"
    folder.mkdir(exist_ok=True)
    for file, body in scripts.items():
        (folder / file).write_text(body, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers the above, and keeps widget state out of the notebooks' outputs."""
    os.environ["KVLIB_STATIC"] = "1"
    app.connect("config-inited", choose_cache)
    app.connect("builder-inited", write_libraries)
    app.connect("html-page-context", add_scripts)
    app.connect("build-finished", finish_pages, priority=900)  # after the theme's own index.html
    return {"parallel_read_safe": True, "parallel_write_safe": True}
