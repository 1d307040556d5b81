"""A page's tags as a parser sees them, and edits of the page at their places.

What isn't edited stays as it is, letter by letter. Where this parser and a browser's might see
something different, the page is refused: a browser must not find a script that was overlooked here.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser

RAW = ("script", "style")  # elements whose text is no markup


@dataclass
class Tag:
    """A start tag, or an end tag (`closes`), and where it stands: `page[start:end]`.

    Of an attribute that is given twice the first counts, as in a browser; one without a value has
    "". A script or a style also has its `text`, and the place `after` its end tag.
    """

    name: str
    start: int
    end: int
    attributes: dict[str, str] = field(default_factory=dict)
    closes: bool = False
    text: str = ""
    after: int = 0

    @property
    def classes(self) -> list[str]:
        """The names in its `class`."""
        return self.attributes.get("class", "").split()

    def written(self, **changes: str | None) -> str:
        """The start tag with attributes changed or, for None, taken away; `_` stands for `-`."""
        values = self.attributes | {name.replace("_", "-"): v for name, v in changes.items()}
        return start_tag(self.name, values)


@dataclass
class Page:
    """The tags of a page, and the places of what no reader sees: comments and the like."""

    tags: list[Tag]
    asides: list[tuple[int, int]]


Edit = tuple[int, int, str]  # what stands from here to there becomes this


def read(page: str) -> Page:
    """The tags of a page. Raises ValueError for markup that a browser might read otherwise."""
    reader = _Reader(page)
    reader.feed(page)
    reader.close()
    return reader.finished()


def start_tag(name: str, attributes: dict[str, str | None]) -> str:
    """A start tag, its values escaped; what is None is left out."""
    given = [(key, html.escape(text)) for key, text in attributes.items() if text is not None]
    return " ".join([f"<{name}", *(f'{key}="{text}"' for key, text in given)]) + ">"


def edited(page: str, edits: Iterable[Edit]) -> str:
    """The page after all edits, which must not overlap; those of one place in their order."""
    parts, at = [], 0
    for start, end, text in sorted(edits, key=lambda edit: edit[:2]):
        if start < at:
            raise ValueError(f"expected edits that don't overlap, got two at {start}")
        parts += [page[at:start], text]
        at = end
    return "".join([*parts, page[at:]])


def within(tags: list[Tag], name: str, kind: str = "") -> Iterator[list[Tag]]:
    """For each element of a name (and class), the tags from its start tag to its end tag."""
    for i, first in enumerate(tags):
        if first.closes or first.name != name or (kind and kind not in first.classes):
            continue
        depth = 0
        for j in range(i, len(tags)):
            if tags[j].name == name:
                depth += -1 if tags[j].closes else 1
            if depth == 0:
                yield tags[i : j + 1]
                break


class _Reader(HTMLParser):
    """Notes where each tag stands."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=False)
        self.page = page
        self.lines = [0]
        for line in page.split("\n"):
            self.lines.append(self.lines[-1] + len(line) + 1)
        self.tags: list[Tag] = []
        self.asides: list[tuple[int, int]] = []
        self.raw: Tag | None = None  # the script or style that is being read
        self.aside: int | None = None  # where a comment begins that is being read

    def here(self) -> int:
        """Where the parser is; a comment that it has read ends here."""
        line, column = self.getpos()
        at = self.lines[line - 1] + column
        if self.aside is not None:
            self.asides.append((self.aside, at))
            self.aside = None
        return at

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        start = self.here()
        end = start + len(self.get_starttag_text() or "")
        first = {key: value or "" for key, value in reversed(attributes)}
        tag = Tag(name, start, end, {key: first[key] for key, _ in attributes}, after=end)
        self.tags.append(tag)
        if name in RAW and not self.page[:end].endswith("/>"):
            self.raw = tag

    def handle_endtag(self, name: str) -> None:
        start = self.here()
        end = self.page.find(">", start) + 1
        if self.tags and self.tags[-1].start == start:
            return  # <br/>: the parser says that it ends as well
        if self.raw:
            self.raw.text, self.raw.after = self.page[self.raw.end : start], end
            self.raw = None
        self.tags.append(Tag(name, start, end, closes=True, after=end))

    def handle_data(self, data: str) -> None:
        at = self.here()
        if "<" in data and not self.raw:
            raise ValueError(
                f"expected < in a text to be written &lt;, got {self.page[at:][:40]!r}"
            )

    def handle_entityref(self, name: str) -> None:
        self.here()

    def handle_charref(self, name: str) -> None:
        self.here()

    def handle_decl(self, decl: str) -> None:
        at = self.here()
        if not decl.lower().startswith("doctype"):
            self.aside = at

    def handle_comment(self, data: str) -> None:
        self.aside = self.here()

    def handle_pi(self, data: str) -> None:
        self.aside = self.here()

    def unknown_decl(self, data: str) -> None:
        self.aside = self.here()

    def finished(self) -> Page:
        """All that was read."""
        if self.raw:
            raise ValueError(f"expected </{self.raw.name}>, got the end of the page")
        if self.aside is not None:
            self.asides.append((self.aside, len(self.page)))
        return Page(self.tags, self.asides)
