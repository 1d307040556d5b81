"""The part of a page on how far to trust it, folded: a reader opens it, or a link into it."""

from __future__ import annotations

import re

from kvbook import markup
from kvbook.markup import Tag

TRUST = "how-far-to-trust-this"  # the id of a section of that title
TAGS = re.compile(r"<[^>]*>")


def fold(body: str) -> str:
    """The page's text with that section in a `<details>`, whose summary says what stands in it.

    Its heading stays a heading, and loses the sign that links to it. Without scripts it opens as
    well. A page without such a section comes back as it is.
    """
    for section in markup.within(markup.read(body).tags, "section"):
        if section[0].attributes.get("id") == TRUST:
            return markup.edited(body, _edits(section, body))
    return body


def _edits(section: list[Tag], body: str) -> list[markup.Edit]:
    heading = next(markup.within(section, "h2"))
    sign = next(markup.within(heading, "a", "headerlink"))
    titles = [_title(part, body) for part in markup.within(section, "h3")]
    within = f'<span class="kv-inside">{" · ".join(titles)}</span>' if titles else ""
    return [
        (heading[0].start, heading[0].start, '<details class="kv-fold"><summary>'),
        (sign[0].start, sign[-1].end, ""),
        (heading[-1].end, heading[-1].end, f"{within}</summary>"),
        (section[-1].start, section[-1].start, "</details>"),
    ]


def _title(heading: list[Tag], body: str) -> str:
    """The text of a heading, without the sign that links to it."""
    sign = next(markup.within(heading, "a", "headerlink"), None)
    return TAGS.sub("", body[heading[0].end : sign[0].start if sign else heading[-1].start])
