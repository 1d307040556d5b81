"""What a chart says in words, by Vega's own arithmetic, as the book's pages run it."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import vl_convert

from kvlib.charts.controls import READING, Explorer

SVG = "{http://www.w3.org/2000/svg}"


def sentence(explorer: Explorer, **settings: float | str) -> str:
    """The sentence under an explorer's picture, its controls moved to `settings`."""
    spec = explorer.spec() | {"width": 600}
    parameters = {param["name"]: param for param in spec["params"]}
    values = {control.name: control.values for control in explorer.controls}
    for name, value in settings.items():
        assert value in values[name], f"{name}: expected one of {values[name]}, got {value}"
        parameters[name]["value"] = value
    drawn = ET.fromstring(vl_convert.vegalite_to_svg(spec))
    marks = [g for g in drawn.iter(f"{SVG}g") if f"{READING}_marks" in g.get("class", "")]
    lines = [text.text for mark in marks for text in mark.iter(f"{SVG}text")]
    assert len(lines) == 1, f"expected one sentence, got {lines}"
    return lines[0]


def numbers(text: str) -> list[float]:
    """The numbers of a sentence in their order; commas part thousands, a minus is no dash."""
    found = re.findall(r"(?<![\w.])[-−]?\d[\d,]*(?:\.\d+)?(?:e[-+]\d+)?(?![\d-])", text)
    return [float(one.replace(",", "").replace("−", "-")) for one in found]


def figures(value: float, digits: int) -> float:
    """A number with so many significant digits, as a sentence has it."""
    return float(f"{value:.{digits}g}")
