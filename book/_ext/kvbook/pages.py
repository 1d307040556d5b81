"""Pages without inline scripts, each with its Content-Security-Policy; the book's front door."""

from __future__ import annotations

import hashlib
import re
import subprocess
from pathlib import Path

from sphinx.application import Sphinx

from kvbook import markup
from kvbook.libraries import TABLES
from kvbook.markup import Edit, Tag
from kvbook.pictures import finish_explorers

POLICY = (
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "object-src 'none'; base-uri 'none'"
)

FRONT_DOOR = """<!doctype html>
<html lang="en">
  <head>
    <meta charset="utf-8">
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <meta http-equiv="refresh" content="0; url={first}">
    <link rel="icon" href="data:,">
    <title>{title}</title>
  </head>
  <body><a href="{first}">{title}</a></body>
</html>
"""

FILLED = re.compile(r'(<span class="kv-(version|tables-size)">)[^<]*(</span>)')
JAVASCRIPT = ("", "text/javascript", "application/javascript", "module")  # a script's types
SETTING = re.compile(r"\s*(?:let |var |window\.\w+ = )")  # for scripts that may stand before it
SETS_THEME = "documentElement.dataset.theme"  # in a script that must run before the first paint
RESOLVE_THEME = """
const dark = matchMedia("(prefers-color-scheme: dark)").matches;
const asked = document.documentElement.dataset.theme;
if (asked === "auto") document.documentElement.dataset.theme = dark ? "dark" : "light";
"""  # the theme does so too, but later: what is drawn before would have no colours
UNUSED = ("fontawesome.js",)  # 1.5 MB for signs that the fonts have
OF_SEARCH = ("searchtools.js", "language_data.js", "searchindex.js")  # used on one page alone
SEARCH_PAGE = "search.html"
KNOWN_CLICKS = ("window.print()", "toggleFullScreen()")  # what book/_static/clicks.js can do
ADDRESSES = {"href", "src", "action", "formaction", "xlink:href", "data", "srcdoc"}
STALE_ROLES = {"doc-biblioentry": "", "list": "citation-list"}  # docutils'; a class that has it


def harden(page: str, name: str, to_root: str, files: dict[str, str]) -> str:
    """The page with its policy, without inline scripts and styles: their texts go to `files`.

    Scripts run after the page has been read, settings first, the others in their order.

    `to_root` is the way from the page's folder to the book's ("../"). A hardened page comes back
    as it is. Raises ValueError, with the page's name, for one without `<meta charset>`, with a
    handler that clicks.js doesn't know, a link that is a script, or markup that a browser might
    read otherwise.
    """
    try:
        found = markup.read(page)
        if any(_is_policy(tag) for tag in found.tags):
            return page
        edits = [(start, end, "") for start, end in found.asides]
        unused = UNUSED if name == SEARCH_PAGE else UNUSED + OF_SEARCH
        edits += _policy(found.tags) + _scripts(found.tags, to_root, files, unused)
        edits += _styles(found.tags, to_root, files) + _attributes(found.tags)
        return markup.edited(page, edits)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _is_policy(tag: Tag) -> bool:
    return tag.attributes.get("http-equiv", "").lower() == "content-security-policy"


def _policy(tags: list[Tag]) -> list[Edit]:
    """The policy after the charset; of several `viewport`s the first alone."""
    metas = [tag for tag in tags if tag.name == "meta" and not tag.closes]
    charset = next((tag for tag in metas if "charset" in tag.attributes), None)
    if charset is None:
        raise ValueError("expected <meta charset=…> in the head, got none")
    policy = markup.start_tag("meta", {"http-equiv": "Content-Security-Policy", "content": POLICY})
    viewports = [tag for tag in metas if tag.attributes.get("name", "").lower() == "viewport"]
    again = [(tag.start, tag.end, "") for tag in viewports[1:]]
    return [(charset.end, charset.end, f"\n    {policy}"), *again]


def _scripts(
    tags: list[Tag], to_root: str, files: dict[str, str], unused: tuple[str, ...]
) -> list[Edit]:
    """Scripts from files alone, which wait until the page is read, but for the one of the theme."""
    edits: list[Edit] = []
    settings, waiting = [], []
    for tag in tags:
        if tag.name != "script" or tag.closes:
            continue
        source = tag.attributes.get("src")
        if tag.attributes.get("type", "").strip().lower() not in JAVASCRIPT:
            if "<!--" in tag.text:
                raise ValueError(f"expected data without <!--, got {tag.text[:40]!r}")
        elif source is None and tag.text.strip():
            sets_theme = SETS_THEME in tag.text
            text = tag.text + (f"{{{RESOLVE_THEME}}}" if sets_theme else "")
            moved = {"src": f"{to_root}_static/inline/{_file(text, 'js', files)}"}
            if not sets_theme:
                moved["defer"] = ""
            script = tag.written(**moved) + "</script>"
            if SETTING.match(text):
                settings.append(script)
                script = ""
            edits.append((tag.start, tag.after, script))
            if not sets_theme:
                waiting.append(tag.start)
        elif source is not None and source.partition("?")[0].rpartition("/")[2] in unused:
            edits.append((tag.start, tag.after, ""))
        elif source is not None and tag.attributes.get("type") != "module":
            waits = {"defer", "async"} & set(tag.attributes)
            script = tag.written() if waits else tag.written(defer="")
            edits.append((tag.start, tag.after, f"{script}</script>"))
            waiting.append(tag.start)
    if settings:
        edits.append((waiting[0], waiting[0], "".join(settings)))
    return edits


def _styles(tags: list[Tag], to_root: str, files: dict[str, str]) -> list[Edit]:
    """Style sheets in files, linked at the end of the head, each once."""
    styles = [tag for tag in tags if tag.name == "style" and not tag.closes]
    if not styles:
        return []
    head = next((tag for tag in tags if tag.name == "head" and tag.closes), None)
    if head is None:
        raise ValueError("expected </head> in a page with a <style>, got none")
    names = dict.fromkeys(_file(tag.text, "css", files) for tag in styles)
    sheet = {"rel": "stylesheet"}
    links = [
        markup.start_tag("link", sheet | {"href": f"{to_root}_static/inline/{name}"})
        for name in names
    ]
    removed = [(tag.start, tag.after, "") for tag in styles]
    return [(head.start, head.start, "".join(links)), *removed]


def _file(text: str, kind: str, files: dict[str, str]) -> str:
    """The name of the file that a text is moved to: its hash."""
    name = f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.{kind}"
    files[name] = text
    return name


def _attributes(tags: list[Tag]) -> list[Edit]:
    """No handlers that clicks.js lacks, no scripts as links; stale roles and second ids go."""
    edits, ids = [], set()
    for tag in tags:
        changes: dict[str, str | None] = {}
        if tag.attributes.get("id") in ids:
            changes["id"] = None  # sphinx-proof gives all proofs the same
        ids |= {tag.attributes["id"]} if "id" in tag.attributes else set()
        for name, value in tag.attributes.items():
            if name.startswith("on"):
                if name != "onclick" or value not in KNOWN_CLICKS:
                    raise ValueError(
                        f"expected onclick to be one of {KNOWN_CLICKS}, got {name}={value!r}"
                    )
                changes |= {name: None, "data_click": value}
            elif name in ADDRESSES and _is_script(value):
                raise ValueError(f"expected an address in {name}, got {value!r}")
        role = tag.attributes.get("role", "")
        if role in STALE_ROLES and (not STALE_ROLES[role] or STALE_ROLES[role] in tag.classes):
            changes["role"] = None
        if changes:
            edits.append((tag.start, tag.end, tag.written(**changes)))
    return edits


def _is_script(address: str) -> bool:
    """Whether a browser would run it: it overlooks spaces before, and line ends and tabs within."""
    plain = "".join(letter for letter in address if letter > " ")
    return plain.lower().startswith(("javascript:", "vbscript:"))


def address_card(
    app: Sphinx, pagename: str, templatename: str, context: dict, doctree: object
) -> None:
    """The picture that goes with a shared link, by its whole address.

    Who reads it knows no page that it could be relative to. `html_baseurl` says where the book is
    published; without one it stays as it is.
    """
    base = app.config.html_baseurl.rstrip("/")
    if base:
        tags = context.get("metatags") or ""
        context["metatags"] = tags.replace('content="../_static/', f'content="{base}/_static/')


def version(folder: Path) -> str:
    """kvlib's version and, where the book is built from a repository of git, the commit."""
    from kvlib import __version__

    command = ["git", "-C", str(folder), "rev-parse", "--short=10", "HEAD"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return f"kvlib {__version__}"
    return f"kvlib {__version__}, commit {found}"


def finish_pages(app: Sphinx, error: Exception | None) -> None:
    """Writes the front door and hardens the pages of this build; earlier ones are hardened."""
    if error or app.builder.format != "html":
        return
    book = Path(app.outdir)
    first = f"{app.config.root_doc}.html"
    (book / "index.html").write_text(FRONT_DOOR.format(first=first, title=app.config.html_title))
    files: dict[str, str] = {}
    size = (book / "_static" / TABLES).stat().st_size / 1e6
    said = {"version": version(Path(app.srcdir)), "tables-size": f"{size:.0f} MB"}
    for path in sorted(book.rglob("*.html")):
        if "_static" in path.relative_to(book).parts:
            continue
        before = path.read_text(encoding="utf-8")
        to_root = "../" * (len(path.relative_to(book).parts) - 1)
        after = finish_explorers(before, to_root, book / "_static" / "stills")
        after = harden(after, path.name, to_root, files)
        after = FILLED.sub(lambda found: found[1] + said[found[2]] + found[3], after)
        if after != before:
            path.write_text(after, encoding="utf-8")
    folder = book / "_static" / "inline"
    folder.mkdir(exist_ok=True)
    for file, text in files.items():
        (folder / file).write_text(text, encoding="utf-8")
