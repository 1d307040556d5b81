"""One HTML file that needs nothing else: explorers, their scripts and styles, no network.

Its content policy is the book's, for a page that has all within it: scripts run by their hashes
alone, none is evaluated, and nothing is asked of any address.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Sequence
from pathlib import Path

from kvlib.charts import inks
from kvlib.charts.compiled import compiled, library, still
from kvlib.charts.controls import Explorer

STATIC = Path(__file__).parent / "page"  # links to what the book's pages load; copies in a wheel
SCRIPTS = ("tools.js", "sliders.js", "rules.js", "explorer.js")
THEME = """
const dark = matchMedia("(prefers-color-scheme: dark)");
const follow = () => { document.documentElement.dataset.theme = dark.matches ? "dark" : "light"; };
dark.addEventListener("change", follow);
follow();
"""
COLOURS = {  # of the page, light and dark; its text is that of the pictures
    "light": {
        **{"text-base": inks.TEXT, "text-muted": inks.MUTED, "background": "#ffffff"},
        **{"surface": "#f3f4f5", "border": "#d1d5da", "danger": "#b3261e", "success": "#1a7f4b"},
        **{"primary": "#0a6ebd", "link": "#0a5fa8"},
    },
    "dark": {
        **{"text-base": "#ced6dd", "text-muted": "#9ca4af", "background": "#14181e"},
        **{"surface": "#29313d", "border": inks.MUTED, "danger": "#ff8a80", "success": "#5fd08f"},
        **{"primary": "#6cb8f5", "link": "#7cc0f7"},
    },
}


def _colours(theme: str) -> str:
    """What the book's styles ask the page's theme for."""
    named = " ".join(f"--pst-color-{name}: {value};" for name, value in COLOURS[theme].items())
    return f'html[data-theme="{theme}"] {{ {named} color-scheme: {theme}; }}\n'


STYLE = (
    _colours("light").replace('html[data-theme="light"]', "html")
    + _colours("dark")
    + """
* { box-sizing: border-box; }
body { margin: 0; background: var(--pst-color-background); color: var(--pst-color-text-base);
  font: 1.0625rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 52rem; margin: 0 auto; padding: 2.2rem 1.2rem 3rem; }
h1 { margin: 0 0 0.6rem; font-size: 1.9rem; line-height: 1.2; text-wrap: balance; }
h2 { margin: 2.6rem 0 0.4rem; font-size: 1.3rem; }
h3 { margin: 1.4rem 0 0.2rem; font-size: 1.05rem; }
p, li { max-width: 44rem; }
a { color: var(--pst-color-link); }
.kv-lead { color: var(--pst-color-text-muted); }
.kv-answer { margin: 1.4rem 0; padding: 0.9rem 1.1rem;
  border-left: 0.35rem solid var(--kv-series-1); border-radius: 0.3rem;
  background: var(--pst-color-surface); font-size: 1.12rem; }
.kv-answer.kv-no { border-color: var(--kv-series-2); }
.kv-answer p { margin: 0 0 0.4rem; }
.kv-answer p:last-child { margin: 0; }
.kv-wide { max-width: 100%; overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.92rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.3rem 1.2rem 0.3rem 0; border-bottom: 1px solid var(--pst-color-border);
  text-align: left; vertical-align: top; }
th { color: var(--pst-color-text-muted); font-weight: 600; }
td.kv-number, th.kv-number { text-align: right; white-space: nowrap; }
pre { margin: 0.3rem 0; padding: 0.6rem 0.8rem; overflow-x: auto; border-radius: 0.3rem;
  background: var(--pst-color-surface); font-size: 0.88rem; }
details { margin: 1rem 0; }
summary { cursor: pointer; font-weight: 600; }
:is(summary, a, pre, .kv-wide):focus-visible { outline: 3px solid var(--kv-series-1);
  outline-offset: 2px; }
@media (max-width: 480px) { main { padding: 1.4rem 0.9rem 2rem; } h1 { font-size: 1.5rem; }
  th, td { padding-right: 0.7rem; font-size: 0.84rem; }
  pre { white-space: pre-wrap; overflow-wrap: anywhere; } }
footer { margin-top: 3rem; padding-top: 0.8rem; border-top: 1px solid var(--pst-color-border);
  color: var(--pst-color-text-muted); font-size: 0.9rem; }
"""
)


def page(title: str, parts: Sequence[str | Explorer]) -> str:
    """A whole page of pieces of HTML and of explorers, in their order; `title` is plain text."""
    scripts = [f"window.kvInks = {json.dumps(inks.PAGE)};\n", *map(_static, SCRIPTS)]
    scripts.insert(-1, library())  # ahead of what draws with it
    body = "".join(embedded(part) if isinstance(part, Explorer) else part for part in parts)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy([THEME, *scripts])}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<link rel="icon" href="data:,">\n<title>{html.escape(title)}</title>\n'
        f"<style>{_static('book.css')}{STYLE}</style>\n<script>{THEME}</script>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n"
        + "".join(f"<script>{script}</script>\n" for script in scripts)
        + "</body>\n</html>\n"
    )


def policy(scripts: Sequence[str]) -> str:
    """The content policy: these scripts and no others, pictures and styles within the page."""
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts]
    allowed = " ".join(f"'sha256-{one}'" for one in hashes)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def embedded(explorer: Explorer) -> str:
    """An explorer, compiled, with a still picture and its sentence for want of scripts."""
    text = explorer.to_html()
    before, data, after = _split(text, 'class="kv-data">', "</script>")
    svg, sentence = still(data)
    image = base64.b64encode(svg.encode()).decode()
    start, _, rest = _split(before, "<noscript>", "</noscript>")
    plain = f'<img class="kv-still" alt="" src="data:image/svg+xml;base64,{image}">'
    return f"{start}{plain}<p>{html.escape(sentence)}</p>{rest}{compiled(data)}{after}"


def _split(text: str, begin: str, end: str) -> tuple[str, str, str]:
    """What stands up to `begin` (with it), between it and the next `end`, and from there on."""
    head, mark, rest = text.partition(begin)
    inner, close, tail = rest.partition(end)
    if not (mark and close):
        raise ValueError(f"expected {begin} and {end} in an explorer, got neither or one")
    return head + mark, inner, close + tail


def _static(name: str) -> str:
    """A file that the book's pages load, as it can stand within a page."""
    text = (STATIC / name).read_text(encoding="utf-8")
    return text.replace("</script", "<\\/script").replace("</style", "<\\/style")
