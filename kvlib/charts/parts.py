"""One function a figure: a table in, an Altair chart out. Nothing is estimated here.

Each chart names its parameters; `kvlib.explorers` binds sliders and lists to them. What the laws
of the extrapolation chart need is arithmetic inside the chart itself, so that it refits wherever
it is drawn, with or without Python.
"""

from __future__ import annotations

import math

import altair as alt
import pandas as pd

from kvlib import names
from kvlib.names import NAMES

# Okabe and Ito's colours, told apart also by colour-blind readers; dashes repeat the distinction
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#8A8A8A"
HEIGHT = 340


def window_scale(largest: float) -> alt.Scale:
    return alt.Scale(type="log", base=2, domain=[1, largest], nice=False)


def window_axis(largest: float, title: str = "window kept (tokens)") -> alt.Axis:
    ticks = [2**k for k in range(0, int(largest).bit_length())]
    return alt.Axis(title=title, values=ticks, format="d", labelOverlap=True)


def log_axis(title: str, low: float = 0, high: float = math.inf) -> alt.Axis:
    """A logarithmic axis that is labelled at 1, 2 and 5 of each power of ten.

    Give the ends of a scale that clamps: it would draw the labels beyond them at its edges.
    """
    every = [float(f"{m}e{k}") for k in range(-6, 4) for m in (1, 2, 5)]
    ticks = [tick for tick in every if low <= tick <= high]
    return alt.Axis(title=title, format="~g", values=ticks, labelOverlap="greedy")


def legend(*entries: tuple[str, list[int], str]) -> list[alt.Chart]:
    """Lines and their names, below the horizontal axis, where nothing crosses them."""
    layers = []
    for k, (color, dash, text) in enumerate(entries):
        y = alt.value(HEIGHT + 56 + 18 * k)
        one = alt.Chart(pd.DataFrame({"text": [text]}))
        layers += [
            one.mark_rule(color=color, strokeDash=dash, strokeWidth=2).encode(
                x=alt.value(10), x2=alt.value(34), y=y
            ),
            one.mark_text(align="left", baseline="middle", fontSize=12).encode(
                x=alt.value(40), y=y, text="text:N"
            ),
        ]
    return layers


def lookup(expression: str) -> str:
    """A Vega expression that turns a key into its name."""
    pairs = ", ".join(f'"{key}": "{name}"' for key, name in NAMES.items())
    return "({" + pairs + "}[" + expression + "] || " + expression + ")"


def options_of(column: pd.Series) -> list[tuple[str, str]]:
    return [(key, names.name_of(key)) for key in dict.fromkeys(column)]


def spoken(chart: alt.Chart, sentence: str) -> alt.Chart:
    """The layer that says in words what the picture shows."""
    return (
        chart.transform_calculate(sentence=sentence)
        .mark_text(align="left", baseline="top", dy=-26, limit=0)
        .encode(text="sentence:N", x=alt.value(0), y=alt.value(0))
        .properties(name="reading")
    )


def number(field: str, digits: str = ".3~g") -> str:
    return f"format({field}, '{digits}')"


def smooth(n: str) -> str:
    """Σ_{j≤n} j^-α less a constant, by Euler and Maclaurin: to 1e-6 from n = 5 on, for α ≤ 1.5."""
    x = f"pow({n}, -alpha)"
    whole = f"(abs(1 - alpha) < 1e-9 ? log({n}) : {n} * {x} / (1 - alpha))"
    third = f"alpha * (alpha + 1) * (alpha + 2) * {x} / pow({n}, 3) / 720"
    return f"({whole} + {x} / 2 - alpha * {x} / ({n}) / 12 + {third})"


def policy_reading(rows: alt.Chart) -> alt.Chart:
    """The sentence of one row, as the text layer that stands under the picture."""
    return (
        rows.mark_text(align="left", baseline="top", dy=-26, limit=0)
        .encode(text="sentence:N", x=alt.value(0), y=alt.value(0))
        .properties(name="reading")
    )


def span(row: pd.Series) -> str:
    return f"{row['factor'].low:.2g} to {row['factor'].high:.2g}"


def steady(value: float) -> float:
    """A float to twelve digits, which every processor agrees on.

    To be rounded further: one that lies halfway, as 0.514735 may, then goes the same way whatever
    its last bit is.
    """
    return float(f"{value:.12g}")


def rounded(table: pd.DataFrame, digits: int = 5) -> pd.DataFrame:
    """Floats with so many significant digits: enough for a picture, the same on every processor."""
    table = table.copy()
    for name in table.select_dtypes("float"):
        table[name] = [float(f"{steady(value):.{digits}g}") for value in table[name]]
    return table
