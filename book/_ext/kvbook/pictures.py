"""Explorers compiled when the book is built, and a still picture of each."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import vl_convert

from kvbook.libraries import VEGA_LITE_VERSION

DRAWN_LATER = re.compile(  # what `kvlib.controls.Explorer` leaves for browsers without scripts
    r"<noscript><p>This picture is drawn in the browser[^<]*</p></noscript>"
    r'(?P<rest><script type="application/json" class="kv-data">(?P<data>[^<]*)</script>)'
)
READING_MARKS = re.compile(r'<g class="[^"]*reading_marks.*?</g>', re.S)
STILL_WIDTH = 620  # pixels
TEXT, MUTED, GRID = "#222832", "#48566b", "#e3e6ea"  # explorer.js knows them, and the series' inks
INKS = ["#0072B2", "#D55E00", "#009E73", "#A8478A", "#806400", "#8A8A8A"]
LABELS = {
    **{"labelColor": TEXT, "labelFontSize": 12},
    **{"titleColor": TEXT, "titleFontSize": 13, "titleFontWeight": 600},
}
THEME = {  # how all pictures look; colours and font become the page's own when they are drawn
    "background": "transparent",
    "font": "sans-serif",
    "view": {"stroke": None},
    "axis": {
        **LABELS,
        **{"gridColor": GRID, "gridOpacity": 0.8, "domainColor": MUTED, "tickColor": MUTED},
        **{"titlePadding": 8, "labelOverlap": True},
    },
    "legend": {
        **LABELS,
        **{"orient": "top", "symbolStrokeWidth": 2, "columns": {"expr": "width < 460 ? 2 : 0"}},
    },
    "header": LABELS,
    "title": {"color": TEXT, "fontSize": 14, "anchor": "start"},
    "mark": {"color": INKS[0]},
    "line": {"strokeWidth": 2.5},
    "rule": {"color": MUTED},
    "text": {"color": TEXT, "fontSize": 13},
    "range": {"category": INKS},
}


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
    svg = vl_convert.vegalite_to_svg(spec, vl_version=VEGA_LITE_VERSION)
    marks = READING_MARKS.search(svg)
    lines = re.findall(r"<(?:text|tspan)[^>]*>([^<]+)<", marks[0]) if marks else []
    return svg, " ".join(lines)


def compiled(data: str) -> str:
    """An explorer's data with its Vega-Lite spec as Vega, whose tables the browser fills in."""
    payload = json.loads(data)
    empty = {name: [] for name in payload["tables"]}
    spec = payload["spec"] | {"datasets": empty, "config": THEME}
    vega = vl_convert.vegalite_to_vega(spec, vl_version=VEGA_LITE_VERSION)
    text = json.dumps(payload | {"spec": vega}, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def finish_explorers(page: str, to_root: str, folder: Path) -> str:
    """The page whose explorers are compiled and have still pictures for want of scripts."""

    def picture(match: re.Match) -> str:
        file = folder / f"{hashlib.sha256(match['data'].encode()).hexdigest()[:16]}.svg"
        svg, sentence = still(match["data"])
        file.write_text(svg, encoding="utf-8")
        image = f'<img class="kv-still" src="{to_root}_static/stills/{file.name}" alt="">'
        ready = match["rest"].replace(match["data"], compiled(match["data"]))
        return f"<noscript>{image}<p>{sentence}</p></noscript>{ready}"

    folder.mkdir(exist_ok=True)
    return DRAWN_LATER.sub(picture, page)
