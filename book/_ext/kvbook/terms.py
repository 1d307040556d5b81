"""Links to terms and signs hold what the glossary and the notation say of them."""

from __future__ import annotations

import html
import re

from docutils import nodes
from sphinx.application import Sphinx

GLOSSARY = "book/glossary"
NOTATION = "book/notation"
TERM = re.compile(r'(?P<link><a [^>]*href="[^"]*#(?P<anchor>(?:term|sign)-[^"]+)"[^>]*)>')


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
