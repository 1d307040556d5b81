"""What a reader reads in a page's outputs: sentences, tables and rounded facts, as plain text.

The references hold this, and nbval compares it. HTML becomes its text, a table a line a row. A
chart becomes its name, the sentence that it says as it is first seen, its controls, its encodings
and how many rows it has; what those rows hold is compared with a tolerance by `test_charts`.
Numbers stand as they were printed, but never with more than `DIGITS` digits.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from decimal import Context
from html.parser import HTMLParser
from typing import Any

from kvbook import pictures
from nbformat import NotebookNode

DIGITS = 6  # more are no facts: the last ones depend on the processor
SAFE_DIGITS = 12  # the same on every processor
NUMBER = re.compile(r"(?<![\w.])\d+\.\d+(?:e[+-]?\d+)?")
GLUED = "application/papermill.record/"
UNSEEN = {"script", "style", "noscript", "svg"}
LINES = {"p", "div", "tr", "table", "ul", "ol", "li", "label", "option", "h1", "h2", "h3", "br"}


def read(notebook: NotebookNode) -> NotebookNode:
    """The notebook with its outputs as they are read; one that has been read stays as it is."""
    notebook = copy.deepcopy(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [read_output(output) for output in cell.outputs]
    return notebook


def read_output(output: NotebookNode) -> NotebookNode:
    """One output as it is read: text alone, unless it is a picture."""
    output = copy.deepcopy(output)
    if output.output_type == "stream":
        output.text = rounded(output.text)
    elif "data" in output:
        output.data = NotebookNode(read_data(output.data, output.metadata))
        output.metadata = NotebookNode()  # of glue, whose name now stands before its value
    return output


def read_data(data: dict[str, Any], metadata: dict[str, Any]) -> dict[str, Any]:
    """The kinds of one output: HTML as text, and a glued fact behind its name."""
    if "text/html" in data:
        return {"text/plain": rounded(text_of(data["text/html"]))}
    name = metadata.get("scrapbook", {}).get("name")
    said = {}
    for kind, value in data.items():
        if kind.startswith(GLUED) and name and not value.startswith(f"{name} = "):
            value = f"{name} = {value}"
        said[kind] = rounded(value) if isinstance(value, str) else value
    return said


def rounded(text: str) -> str:
    """The text with long fractions cut to `DIGITS` significant digits.

    They are rounded to `SAFE_DIGITS` first. A number that lies halfway between two neighbours, as
    0.0000005 does, is then rounded the same way whatever its last bit is.
    """

    def shorten(match: re.Match) -> str:
        digits = re.sub(r"e.*|\.", "", match[0]).lstrip("0")
        if len(digits) <= DIGITS or not match[0].split(".")[1].strip("0"):
            return match[0]
        safe = Context(prec=SAFE_DIGITS).create_decimal(match[0])
        return f"{Context(prec=DIGITS).plus(safe).normalize():g}"

    return NUMBER.sub(shorten, text)


def text_of(html: str) -> str:
    """HTML as it is read, line by line, and every chart in it in words."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    lines = "".join(reader.parts).splitlines()
    return "\n".join(line for line in (" ".join(line.split()) for line in lines) if line)


class _Reader(HTMLParser):
    """Collects what is seen, or read aloud, of HTML."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self.unseen: list[str] = []
        self.data: list[str] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        said = dict(attrs)
        if tag in UNSEEN:
            self.unseen.append(tag)
        if said.get("class") == "kv-data":
            self.data = []
        if tag in LINES:
            self.parts.append("\n")
        if said.get("role") == "group":
            self.parts.append(f"{said['aria-label']}\n")
        if tag == "output":
            self.parts.append(": ")

    def handle_endtag(self, tag: str) -> None:
        if self.data is not None:
            self.parts += ["\n", *(f"{line}\n" for line in data_in_words("".join(self.data)))]
            self.data = None
        if self.unseen and self.unseen[-1] == tag:
            self.unseen.pop()
        if tag in LINES:
            self.parts.append("\n")
        if tag in ("td", "th"):
            self.parts.append(" | ")

    def handle_data(self, data: str) -> None:
        if self.data is not None:
            self.data.append(data)
        elif not self.unseen:
            self.parts.append(data if data.strip() else " ")


def payloads_of(html: str) -> list[str]:
    """The data that pictures in a piece of HTML bring along, as JSON."""
    return re.findall(r'class="kv-data">([^<]*)<', html)


def data_in_words(data: str) -> Iterator[str]:
    """What a picture says and shows: its sentence, controls, and marks; not its numbers."""
    payload = json.loads(data)
    if "spec" not in payload:
        for name, value in payload.items():
            yield f"{name}: {_few(value)}"
        return
    yield pictures.still(data)[1]
    for control in payload["controls"]:
        yield "control " + ", ".join(f"{name} {_few(value)}" for name, value in control.items())
    yield from marks_in_words(payload["spec"], payload["tables"])


def marks_in_words(spec: dict[str, Any], tables: dict[str, Any], name: str = "") -> Iterator[str]:
    """A line a mark: what it is, what it shows along which channel, and of how many rows."""
    name = spec.get("data", {}).get("name", name)
    for key in ("layer", "concat", "hconcat", "vconcat"):
        for part in spec.get(key, []):
            yield from marks_in_words(part, tables, name)
    if "spec" in spec:
        yield from marks_in_words(spec["spec"], tables, name)
    if "mark" in spec:
        yield from _mark_in_words(spec, tables.get(name, {}))


def _mark_in_words(spec: dict[str, Any], table: dict[str, Any]) -> Iterator[str]:
    """A mark that shows columns, or says a word; none for one at a fixed place, as in a legend."""
    mark = spec["mark"] if isinstance(spec["mark"], str) else spec["mark"]["type"]
    channels = spec.get("encoding", {})
    said = table.get(channels.get("text", {}).get("field"), {})
    if mark == "text" and isinstance(said, dict) and len(said.get("texts", [])) == 1:
        yield f"text: {said['texts'][0]}"
        return
    shown = [
        f"{channel} {_shown(item)}"
        for channel, items in channels.items()
        for item in (items if isinstance(items, list) else [items])
        if "field" in item or "aggregate" in item
    ]
    if shown:
        yield f"{mark} of {_rows(table)} rows: {', '.join(shown)}"


def _shown(item: dict[str, Any]) -> str:
    """A channel's column, and the title on its axis."""
    column = item.get("field") or item["aggregate"]
    title = item.get("title") or (item.get("axis") or {}).get("title")
    return f"{column} ({title})" if title else f"{column}"


def _rows(table: dict[str, Any]) -> int:
    """How many rows a table has that is kept by columns."""
    for column in table.values():
        return len(column["places"] if isinstance(column, dict) else column)
    return 0


def _few(value: Any) -> str:
    """A value, or how many there are and the first and last of them; of named ones the names."""
    if isinstance(value, dict):
        return _few(list(value))
    if isinstance(value, list) and len(value) > 4:
        return f"{len(value)} from {_few(value[0])} to {_few(value[-1])}"
    return json.dumps(value, ensure_ascii=False) if not isinstance(value, str) else value
