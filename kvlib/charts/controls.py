"""Charts with sliders that are alive in two places: on a static page, and in a live kernel.

An :class:`Explorer` is an Altair chart with named parameters, and a control for each parameter that
the reader may move. The controls are declared once and rendered twice: as plain HTML, which the
book's loader (``book/_static/explorer.js``) connects to Vega with no kernel behind it, and as
ipywidgets linked to the same chart when a kernel is running.
"""

from __future__ import annotations

import html
import json
import math
import os
import re
import sys
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import altair

if TYPE_CHECKING:
    import ipywidgets

LIVE_WIDTH = 640  # pixels; a widget's cell has no width of its own when the chart asks for one
LIVE_STOPS = 200  # positions of a live slider on a log track
READING = "reading"  # name of the layer whose text mark says in words what the picture shows
READING_HTML = '<p class="kv-reading" aria-live="polite"></p>'


@dataclass(frozen=True)
class Slider:
    """A number that the reader moves along a track.

    The slider reaches ``start, start + step, …, stop``, or exactly ``values`` when they are given.
    ``scale="log"`` spaces the same numbers by their logarithms: for windows 1 to 1024 each octave
    has the same length of track, and the arrow keys go by about a hundredth of it, or to the next
    number. ``unit`` is read out after the number.

    ``axis``: whether the chart draws a rule, in a layer named `rule_layer`, that follows the number
    along its horizontal axis ("x") or its vertical one ("y"): on a static page that rule can be
    dragged. ``places`` says where on the axis the rule of each number stands, if not at the number
    itself; where that depends on other controls, ``by`` names them, and ``places`` has a list for
    each of their settings, the values joined by "|". A slider of the horizontal axis is
    ``aligned``: its thumb stands above the rule. Its track and the axis must then both be linear or
    both be logarithmic.

    Raises ValueError for fewer than two numbers or unordered ones, for a ``value`` that isn't among
    them, for a log track that touches zero, and for too few or too many places.
    """

    name: str
    label: str
    start: float | None = None
    stop: float | None = None
    step: float = 1
    value: float | None = None
    scale: Literal["linear", "log"] = "linear"
    unit: str = ""
    values: Sequence[float] | None = field(default=None, kw_only=True)
    axis: Literal["", "x", "y"] = field(default="", kw_only=True)
    places: Sequence[float] | Mapping[str, Sequence[float]] | None = field(
        default=None, kw_only=True
    )
    by: Sequence[str] = field(default=(), kw_only=True)
    aligned: bool = field(default=True, kw_only=True)

    def __post_init__(self) -> None:
        if self.scale not in ("linear", "log"):
            raise ValueError(f"slider {self.name!r}: expected linear or log, got {self.scale!r}")
        values = self._range() if self.values is None else tuple(self.values)
        if len(values) < 2 or any(b <= a for a, b in zip(values, values[1:], strict=False)):
            got = f"{list(values)[:6]}{' …' if len(values) > 6 else ''}"
            raise ValueError(f"slider {self.name!r}: expected two or more rising values, got {got}")
        if self.scale == "log" and values[0] <= 0:
            raise ValueError(f"slider {self.name!r}: a log track starts above 0, got {values[0]}")
        value = values[0] if self.value is None else self.value
        if value not in values:
            reach = f"one of the {len(values)} values from {values[0]} to {values[-1]}"
            raise ValueError(f"slider {self.name!r}: expected value to be {reach}, got {value}")
        lists = self.places.values() if isinstance(self.places, Mapping) else [self.places]
        if wrong := [len(one) for one in lists if one is not None and len(one) != len(values)]:
            raise ValueError(f"slider {self.name!r}: expected {len(values)} places, got {wrong[0]}")
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "value", value)

    def _range(self) -> tuple[float, ...]:
        """All multiples of the step from start to stop, free of floating-point dust."""
        if self.start is None or self.stop is None or self.step <= 0:
            got = f"start={self.start}, stop={self.stop}, step={self.step}"
            raise ValueError(f"slider {self.name!r}: expected start, stop and step > 0, got {got}")
        count = math.floor((self.stop - self.start) / self.step + 1e-9) + 1
        return tuple(_tidy(self.start + i * self.step) for i in range(count))

    @property
    def rule_layer(self) -> str:
        """The name of the chart's layer that draws the slider's rule."""
        return rule_layer(self.name)

    def text(self, value: float) -> str:
        """The value as it is read out, with its unit: 1,024 tokens, 1 token."""
        one = re.sub("s$", "", re.sub("ies$", "y", self.unit))
        return f"{value:,} {one if value == 1 else self.unit}".rstrip()

    def stops(self, count: int = LIVE_STOPS) -> tuple[float, ...]:
        """About ``count`` of the values, even along the track, with both ends and the value."""
        if self.scale == "linear":
            return self.values
        first, last = self.values[0], self.values[-1]
        targets = (first * (last / first) ** (i / count) for i in range(count + 1))
        nearest = {min(self._around(target), key=lambda v: abs(v - target)) for target in targets}
        return tuple(sorted(nearest | {first, last, self.value}))

    def _around(self, target: float) -> tuple[float, ...]:
        """The one or two values next to a point of the track."""
        at = bisect_left(self.values, target)
        return self.values[max(at - 1, 0) : at + 1]

    def to_html(self) -> str:
        """A labelled range input; the loader sets its ends and its place on the track."""
        text = html.escape(self.text(self.value))
        return (
            f'<label class="kv-control"><span class="kv-label">{html.escape(self.label)}</span> '
            f'<span class="kv-value" aria-hidden="true">{text}</span>'
            f'<input type="range" name="{html.escape(self.name)}" aria-valuetext="{text}"'
            ' autocomplete="off"></label>'
        )

    def to_json(self) -> dict[str, Any]:
        """What the loader needs to know."""
        kind = {"kind": "slider", "name": self.name, "value": self.value}
        kind |= {"values": list(self.values), "scale": self.scale, "unit": self.unit}
        if not self.axis:
            return kind
        kind |= {"axis": self.axis, "aligned": self.aligned and self.axis == "x"}
        if isinstance(self.places, Mapping):
            places = {key: list(one) for key, one in self.places.items()}
            return kind | {"by": list(self.by), "places": places}
        return kind if self.places is None else kind | {"places": list(self.places)}

    def to_widget(self) -> ipywidgets.Widget:
        """The same control for a live kernel."""
        import ipywidgets

        options = [(self.text(value), value) for value in self.stops()]
        return ipywidgets.SelectionSlider(options=options, **widget_options(self))


@dataclass(frozen=True)
class Choice:
    """One of a few named options, as ``(value, text)`` pairs; starts at ``value`` or at the first.

    Raises ValueError when there is no option or when ``value`` is none of them.
    """

    name: str
    label: str
    options: Sequence[tuple[Any, str]]
    value: Any = None

    def __post_init__(self) -> None:
        values = self.values
        if not values:
            raise ValueError(f"choice {self.name!r}: expected one option or more, got none")
        if self.value is None:
            object.__setattr__(self, "value", values[0])
        if self.value not in values:
            raise ValueError(f"choice {self.name!r}: expected one of {values}, got {self.value!r}")

    @property
    def values(self) -> list[Any]:
        """What there is to choose."""
        return [value for value, _ in self.options]

    def to_html(self) -> str:
        """A labelled drop-down; an option's place in the list stands for its value."""
        options = "".join(
            f'<option value="{i}"{" selected" * (value == self.value)}>{html.escape(text)}</option>'
            for i, (value, text) in enumerate(self.options)
        )
        return (
            f'<label class="kv-control"><span class="kv-label">{html.escape(self.label)}</span> '
            f'<select name="{html.escape(self.name)}" autocomplete="off">{options}</select></label>'
        )

    def to_json(self) -> dict[str, Any]:
        """What the loader needs to know."""
        kind = {"kind": "choice", "name": self.name, "value": self.value}
        return kind | {"values": self.values}

    def to_widget(self) -> ipywidgets.Widget:
        """The same control for a live kernel."""
        import ipywidgets

        options = [(text, value) for value, text in self.options]
        return ipywidgets.Dropdown(options=options, **widget_options(self))


@dataclass(frozen=True)
class Origin:
    """Where a picture's data come from, for whoever takes them along: the `studies` whose tables
    it is made of (none: it is computed from formulas), and the `units` of columns that have one."""

    studies: Sequence[str] = ()
    units: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """What the page's tools say of it; `command` makes the tables anew."""
        said = {"units": dict(self.units), "tables": [f"{name}-…" for name in self.studies]}
        command = f"python -m kvlib study {' '.join(self.studies)}" if self.studies else ""
        return said | {"command": command}


class Explorer:
    """An Altair chart whose parameters are moved by controls; show it as the last line of a cell.

    Each control names a parameter that the chart declares with ``add_params``, and sets its value;
    a value or a ``bind`` of the chart's own is dropped. A choice of one thing sets its parameter
    too, and isn't shown. The label is the sentence that a screen reader says first. Leave the
    chart's width to the explorer: it is the page's on a static page, and ``LIVE_WIDTH`` in a kernel
    unless the chart has one. `origin` says where the data come from. The text mark of a layer named
    "reading" is a sentence that says what the picture shows: it stands under the controls on a
    static page, and within it in a kernel. Raises ValueError when a control names no parameter, two
    controls name the same one, a parameter has neither a control nor a value, or the chart lacks
    the rule of a slider's axis.
    """

    def __init__(
        self,
        chart: altair.Chart | altair.LayerChart,
        controls: Sequence[Slider | Choice],
        label: str,
        origin: Origin | None = None,
    ) -> None:
        values = {control.name: control.value for control in controls}
        if len(values) < len(controls):
            names = [control.name for control in controls]
            raise ValueError(f"expected one control for each parameter, got {names}")
        self.controls = tuple(control for control in controls if len(control.values) > 1)
        self.label = label
        self.origin = origin
        self.chart = chart.copy(deep=True)
        params = self.chart.params if isinstance(self.chart.params, list) else []
        by_name = {param["name"]: param for param in (param.to_dict() for param in params)}
        if unknown := [name for name in values if name not in by_name]:
            raise ValueError(f"controls must name parameters {sorted(by_name)}, got {unknown}")
        layers = {getattr(layer, "name", None) for layer in getattr(self.chart, "layer", ())}
        if ruled := [c.rule_layer for c in self.controls if getattr(c, "axis", "")]:
            if absent := sorted(set(ruled) - layers):
                raise ValueError(f"expected a layer for the rule of each slider, got no {absent}")
        unset = [name for name, param in by_name.items() if set(param) == {"name"}]
        if missing := [name for name in unset if name not in values]:
            raise ValueError(f"expected a control or a value for parameters {missing}, got none")
        if values:
            self.chart.params = [
                altair.VariableParameter(name=name, value=values[name]) if name in values else param
                for name, param in zip(by_name, params, strict=True)
            ]

    def spec(self) -> dict[str, Any]:
        """The Vega-Lite spec for a static page: as wide as the page, its reading unseen."""
        with altair.data_transformers.enable("default", max_rows=None):
            spec = self.chart.to_dict()
        if "layer" in spec or "mark" in spec:
            spec["width"] = "container"
        for layer in spec.get("layer", []):
            if layer.get("name") == READING:
                mark = layer["mark"] if isinstance(layer["mark"], dict) else {"type": layer["mark"]}
                layer["mark"] = mark | {"fontSize": 0, "dy": 0, "tooltip": None}
        return spec

    def to_html(self) -> str:
        """Inert HTML: controls, an empty picture, an empty sentence, and the data as JSON."""
        spec = self.spec()
        tables = {name: _columns(rows) for name, rows in spec.pop("datasets", {}).items()}
        controls = [control.to_json() for control in self.controls]
        payload = {"spec": spec, "tables": tables, "controls": controls}
        if self.origin:
            payload["origin"] = self.origin.to_json()
        data = json.dumps(payload, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
        controls = "".join(control.to_html() for control in self.controls)
        speaks = any(layer.get("name") == READING for layer in spec.get("layer", []))
        return (
            f'<div class="kv-chart" role="group" aria-label="{html.escape(self.label)}">'
            f'<div class="kv-controls">{controls}</div>{READING_HTML * speaks}'
            '<div class="kv-picture"></div>'
            "<noscript><p>This picture is drawn in the browser and needs JavaScript.</p></noscript>"
            f'<script type="application/json" class="kv-data">{data}</script></div>'
        )

    def widget(self) -> ipywidgets.VBox:
        """For a live kernel: ipywidgets linked to the parameters of an ``altair.JupyterChart``."""
        import ipywidgets

        altair.JupyterChart.enable_offline(True)
        chart = self.chart
        if not isinstance(chart.width, int | float):
            chart = chart.properties(width=LIVE_WIDTH)
        with altair.data_transformers.enable("default", max_rows=None):
            picture = altair.JupyterChart(chart, embed_options={"actions": False})
        widgets = [control.to_widget() for control in self.controls]
        for control, widget in zip(self.controls, widgets, strict=True):
            ipywidgets.dlink((widget, "value"), (picture.params, control.name))
        return ipywidgets.VBox([*widgets, picture])

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        """HTML always; a widget as well when a kernel is there to answer it."""
        bundle = self.widget()._repr_mimebundle_() if kernel_is_live() else {}
        return bundle | {"text/html": self.to_html(), "text/plain": f"Explorer: {self.label}"}


def _columns(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """A table by columns, texts as places in a list of the different ones: a fifth of the size."""
    columns: dict[str, Any] = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row.get(name) for row in rows]
        if all(isinstance(value, str) for value in values):
            place = {text: i for i, text in enumerate(dict.fromkeys(values))}
            columns[name] = {"texts": list(place), "places": [place[text] for text in values]}
        else:
            columns[name] = values
    return columns


def rule_layer(name: str) -> str:
    """The name of the layer that draws the rule of a slider, given the slider's own."""
    return f"{name}_rule"


def kernel_is_live() -> bool:
    """Whether widgets have a kernel to speak to; ``KVLIB_STATIC=1`` says no, for stable outputs."""
    if os.environ.get("KVLIB_STATIC", "0") not in ("", "0") or "IPython" not in sys.modules:
        return False
    shell = sys.modules["IPython"].get_ipython()
    return getattr(shell, "kernel", None) is not None


def widget_options(control: Slider | Choice) -> dict[str, Any]:
    """Settings of all live controls: a label that isn't cut off, and the width of the chart."""
    style, layout = {"description_width": "8em"}, {"width": f"{LIVE_WIDTH}px"}
    return {"description": control.label, "value": control.value, "style": style, "layout": layout}


def _tidy(number: float) -> float:
    """An int when the number is whole, else the number without the dust of binary fractions."""
    rounded = round(number, 10)
    return int(rounded) if rounded == int(rounded) else rounded
