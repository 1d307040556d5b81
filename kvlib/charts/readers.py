"""Readers that are no neural nets beside models: what less context costs, in bits a byte."""

from __future__ import annotations

import itertools

import altair as alt
import pandas as pd

from kvlib.charts import parts
from kvlib.charts.controls import Choice, Explorer, Slider
from kvlib.charts.inks import BLUE, GREEN, GREY, OLIVE, ORANGE, PURPLE
from kvlib.charts.parts import DASHED, DOTTED, SOLID, number
from kvlib.names import READERS, name_of

LOOKS = {  # of the readers: ink and dash
    "ppmd": (ORANGE, DASHED),
    "n-gram": (PURPLE, [10, 3]),
    "recency": (BLUE, SOLID),
}
LEAST = 1e-4  # bits a byte: less is not drawn


def excess(table: pd.DataFrame, window: int = 128) -> Explorer:
    """Excess loss against the window kept, all readers of a text; text, reader and window to
    choose.

    `table` is what `kvlib.claims.readers.curves_table` returns.
    """
    rows = table[table["mean"] >= LEAST]
    readers = sorted(set(rows["reader"]), key=lambda key: (key not in READERS, _place(rows, key)))
    first = "recency" if "recency" in readers else readers[0]
    longest = int(rows["window"].max())
    return Explorer(
        excess_chart(rows),
        [
            Choice("corpus", "Text", parts.options_of(rows["corpus"])),
            Choice("reader", "Reader", [(key, _title(key)) for key in readers], value=first),
            Slider("window", "Window kept", 1, longest, value=window, scale="log", unit="bytes"),
        ],
        "What less context costs each reader of a text, in bits a byte",
    )


def _place(rows: pd.DataFrame, reader: str) -> int:
    return list(dict.fromkeys(rows["reader"])).index(reader)


def _title(reader: str) -> str:
    """A reader's name as it begins a sentence."""
    name = name_of(reader)
    return name[0].upper() + name[1:]


def excess_chart(table: pd.DataFrame) -> alt.LayerChart:
    """Mean excess loss against the window kept, models in grey. Parameters: `corpus`, `reader`,
    `window`."""
    rows = _with_gaps(parts.rounded(table, 4))
    rows = rows.assign(name=rows["reader"].map(name_of), text=rows["corpus"].map(name_of))
    here = alt.Chart(rows).transform_filter("datum.corpus == corpus")
    base = here.transform_filter("isValid(datum.mean)")
    largest = float(rows["window"].max())
    x = alt.X(
        "window:Q",
        scale=parts.window_scale(largest),
        axis=parts.window_axis(largest, "window kept (bytes)"),
    )
    y_scale = alt.Scale(type="log", nice=False)
    y = alt.Y(
        "mean:Q", scale=y_scale, axis=parts.log_axis("mean excess loss (bits a byte)", low=LEAST)
    )
    models = [key for key in dict.fromkeys(rows["reader"]) if key not in LOOKS]
    lines = [
        base.transform_filter(f"datum.reader == '{key}'")
        .mark_line(color=ink, strokeDash=dash, strokeWidth=2 if key in LOOKS else 1.2)
        .encode(x=x, y=y)
        for key, (ink, dash) in ({key: (GREY, SOLID) for key in models} | LOOKS).items()
    ]
    chosen = base.transform_filter("datum.reader == reader")
    band = chosen.mark_area(color=OLIVE, opacity=0.2).encode(
        x=x, y=alt.Y("low:Q", title="", scale=y_scale), y2="high:Q"
    )
    points = chosen.mark_point(color=OLIVE, filled=True, size=22).encode(
        x=x,
        y=y,
        tooltip=[
            alt.Tooltip("name:N", title="reader"),
            alt.Tooltip("window:Q", format="~r"),
            alt.Tooltip("mean:Q", title="mean", format=".3g"),
            alt.Tooltip("low:Q", title="95% from", format=".3g"),
            alt.Tooltip("high:Q", title="to", format=".3g"),
        ],
    )
    nearest = _nearest(here.transform_filter("datum.reader == reader"))
    rule = (
        nearest.transform_filter("isValid(datum.mean)")
        .mark_rule(color=GREEN, strokeDash=DOTTED, strokeWidth=1.5)
        .encode(x=x)
    )
    key = parts.legend(
        *((ink, dash, _title(reader)) for reader, (ink, dash) in LOOKS.items()),
        (GREY, SOLID, "models on this text"),
        (OLIVE, SOLID, "the chosen reader, with its 95% band over documents"),
    )
    return parts.picture(
        *(band, *lines, points, rule, *key, parts.reading(nearest, _sentence())),
        parameters=("corpus", "reader", "window"),
    )


def _nearest(chosen: alt.Chart) -> alt.Chart:
    """The row of the chosen reader whose window is nearest to the slider's."""
    away = chosen.transform_calculate(away="abs(log(datum.window / window))")
    ranked = away.transform_window(rank="row_number()", sort=[alt.SortField("away")])
    return ranked.transform_filter("datum.rank == 1")


def _with_gaps(table: pd.DataFrame) -> pd.DataFrame:
    """The table with a row, without numbers, for each text and reader that it lacks."""
    there = set(zip(table["corpus"], table["reader"], strict=True))
    every = itertools.product(dict.fromkeys(table["corpus"]), dict.fromkeys(table["reader"]))
    gaps = [{"corpus": c, "reader": r} for c, r in every if (c, r) not in there]
    return pd.DataFrame([*table.to_dict("records"), *gaps])


def _sentence() -> str:
    """What the window says of the chosen reader."""
    said = (
        f"'With its last ' + {number('datum.window', ',.0f')} + (datum.window < 1.5 ? ' byte' :"
        " ' bytes') + ' alone, ' + datum.name + ' foretells ' + datum.text + ' worse by '"
        f" + {number('datum.mean')} + ' bits a byte (95% interval ' + {number('datum.low')}"
        f" + ' to ' + {number('datum.high')} + ', ' + datum.n_documents + ' documents) than with '"
        f" + {number('datum.context', ',.0f')} + ' bytes, where it needs '"
        f" + {number('datum.full', '.2f')} + '; its law has '"
        " + (isValid(datum.alpha) ? 'the exponent ' + format(datum.alpha, '.2f') : 'no exponent')"
        " + '.'"
    )
    none = "datum.name + ' has no excess loss on ' + datum.text + ' that could be drawn.'"
    return f"isValid(datum.mean) ? {said} : {none}"
