"""Pages without inline scripts, each with its Content-Security-Policy; the book's front door."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from sphinx.application import Sphinx

from kvbook.pictures import finish_explorers

POLICY = (
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "object-src 'none'; base-uri 'none'"
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
KNOWN_CLICKS = ("window.print()", "toggleFullScreen()")  # what book/_static/clicks.js can do


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
