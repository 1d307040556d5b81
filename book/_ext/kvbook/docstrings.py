"""Docstrings of kvlib for autodoc: plain text with `code` in it, where Sphinx reads another markup.

Indented paragraphs are formulas and examples, and stay as they are typed. ``Args:``, ``Returns:``
and ``Raises:`` are left to napoleon. Defaults are named as the source names them.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from typing import Any

from sphinx.application import Sphinx

CODE = re.compile(r"`+([^`]+)`+")
SIGNS = re.compile(r"[\\*|_]")
SECTION = re.compile(r"(Args|Returns|Raises):$")


def to_rst(lines: list[str]) -> list[str]:
    """The lines of a docstring in the markup that Sphinx reads."""
    found: list[str] = []
    literal = section = False
    for line in whole_spans(lines):
        if line and not line.startswith(" "):
            literal, section = False, bool(SECTION.match(line))
        elif line and not section and not literal and (not found or not found[-1]):
            found += ["::", ""]
            literal = True
        found.append(line if literal else escaped(line))
    return found


def escaped(line: str) -> str:
    """A line with its code spans between two ticks, and every other sign of markup as it stands."""
    pieces = CODE.split(line)  # text, span, text, …
    pieces[::2] = [SIGNS.sub(r"\\\g<0>", text) for text in pieces[::2]]
    pieces[1::2] = [f"\\ ``{span}``\\ " for span in pieces[1::2]]
    return "".join(pieces)


def whole_spans(lines: list[str]) -> list[str]:
    """Lines in which no code span is left open: the next one is joined to it."""
    joined: list[str] = []
    for line in lines:
        if joined and joined[-1].count("`") % 2:
            joined[-1] += f" {line.strip()}"
        else:
            joined.append(line)
    return joined


def prepare(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """What autodoc calls for every docstring, before napoleon does."""
    lines[:] = to_rst(lines)


def as_written(cls: type, signature: str) -> str:
    """The signature of a class with its defaults as the source has them: a name instead of a value,
    which may be a folder of the machine that builds the page."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    known = {**vars(cls), **getattr(cls, "_field_defaults", {})}  # those of a NamedTuple
    for line in tree.body:  # type: ignore[attr-defined]
        if isinstance(line, ast.AnnAssign) and isinstance(line.value, ast.Name | ast.Attribute):
            value = known.get(ast.unparse(line.target))
            signature = signature.replace(f" = {value!r}", f" = {ast.unparse(line.value)}")
    return signature


def resign(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str, back: str
) -> tuple[str, str] | None:
    """What autodoc calls for every signature: it names the defaults of functions itself."""
    return (as_written(obj, signature), back) if what == "class" and signature else None
