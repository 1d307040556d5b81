"""Links to terms and signs hold what the glossary and the notation say of them, and links to
references what they refer to: `terms.js` shows it."""

from __future__ import annotations

from docutils import nodes
from sphinx.application import Sphinx

from kvbook import markup

GLOSSARY = "book/glossary"
NOTATION = "book/notation"
REFERENCES = "references.html"


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
    """The page's text in which each link to a term, a sign or a reference holds what it means."""
    edits = []
    for tag in markup.read(body).tags:
        page, _, anchor = tag.attributes.get("href", "").partition("#")
        said: dict[str, str | None] = {}
        if anchor.startswith(("term-", "sign-")) and meanings.get(anchor):
            said["data_definition"] = meanings[anchor]
            if anchor.startswith("sign-"):  # its text is a formula
                said["aria_label"] = meanings[anchor]
        elif page.endswith(REFERENCES) and anchor and tag.attributes.get("title"):
            said = {"data_definition": tag.attributes["title"], "title": None}
        if tag.name == "a" and said:
            edits.append((tag.start, tag.end, tag.written(**said)))
    return markup.edited(body, edits)
