"""Explorers compiled from Vega-Lite to Vega, as a page holds them, and a still picture of each."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET

import vl_convert

from kvlib.charts import inks

VEGA_LITE_VERSION = vl_convert.get_vegalite_versions()[-1]
STILL_WIDTH = 620  # pixels
MOVING = "="  # begins an axis title that is an expression: Vega takes one, Vega-Lite a text alone
LABELS = {
    **{"labelColor": inks.TEXT, "labelFontSize": 12},
    **{"titleColor": inks.TEXT, "titleFontSize": 13, "titleFontWeight": 600},
}
THEME = {  # how all pictures look; colours and font become the page's own when they are drawn
    "background": "transparent",
    "font": "sans-serif",
    "view": {"stroke": None},
    "axis": {
        **LABELS,
        **{
            "gridColor": inks.GRID,
            "gridOpacity": 0.8,
            "domainColor": inks.MUTED,
            "tickColor": inks.MUTED,
        },
        **{"titlePadding": 8, "labelOverlap": True},
    },
    "legend": {
        **LABELS,
        **{"orient": "top", "symbolStrokeWidth": 2, "columns": {"expr": "width < 460 ? 2 : 0"}},
    },
    "header": LABELS,
    "title": {"color": inks.TEXT, "fontSize": 14, "anchor": "start"},
    "mark": {"color": inks.BLUE},
    "line": {"strokeWidth": 2.5},
    "rule": {"color": inks.MUTED},
    "text": {"color": inks.TEXT, "fontSize": 13},
    "range": {"category": inks.SERIES},
}


def moving_title(titles: dict[str, str], parameter: str) -> str:
    """A title for an axis: what `titles` says of the parameter's value."""
    if len(set(titles.values())) == 1:
        return next(iter(titles.values()))
    return f"{MOVING}({json.dumps(titles)})[{parameter}]"


def vega_of(spec: dict) -> dict:
    """A Vega-Lite spec as Vega, in which axis titles move."""
    vega = vl_convert.vegalite_to_vega(spec, vl_version=VEGA_LITE_VERSION)
    for axis in vega.get("axes", []):
        if isinstance(title := axis.get("title"), str) and title.startswith(MOVING):
            axis["title"] = {"signal": title.removeprefix(MOVING)}
    return vega


def spec_of(payload: dict) -> dict:
    """The Vega-Lite spec of an explorer, whole: its tables are kept by columns beside it."""

    def rows(columns: dict) -> list[dict]:
        values = [
            [column["texts"][place] for place in column["places"]]
            if isinstance(column, dict)
            else column
            for column in columns.values()
        ]
        return [dict(zip(columns, row, strict=True)) for row in zip(*values, strict=True)]

    tables = {name: rows(columns) for name, columns in payload["tables"].items()}
    return payload["spec"] | {"datasets": tables, "config": THEME}


def still(data: str) -> tuple[str, str]:
    """An explorer's first picture as SVG, and the sentence that reads it aloud."""
    spec = spec_of(json.loads(data)) | {"width": STILL_WIDTH, "background": "white"}
    svg = vl_convert.vega_to_svg(vega_of(spec))
    return svg, reading_of(svg)


def reading_of(svg: str) -> str:
    """The sentence of a picture: the text of its layer "reading"."""
    groups = ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}g")
    marks = [group for group in groups if "reading_marks" in group.get("class", "")]
    return " ".join(text.strip() for mark in marks for text in mark.itertext() if text.strip())


def compiled(data: str) -> str:
    """An explorer's data with its Vega-Lite spec as Vega, whose tables the browser fills in."""
    payload = json.loads(data)
    empty = {name: [] for name in payload["tables"]}
    spec = payload["spec"] | {"datasets": empty, "config": THEME}
    text = json.dumps(payload | {"spec": vega_of(spec)}, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def library() -> str:
    """Vega in a function of its own, for its global names would break others'; seconds to make."""
    bundle = vl_convert.javascript_bundle(vl_version=VEGA_LITE_VERSION)
    return f"(function () {{\n{bundle}\n}})();\n"
