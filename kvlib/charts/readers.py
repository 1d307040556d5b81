"""Readers that are no neural nets beside models: what less context costs, in bits a byte."""

from __future__ import annotations

import altair as alt
import pandas as pd

from kvlib.charts import parts
from kvlib.charts.controls import Choice, Explorer, Origin, Slider
from kvlib.charts.inks import BLUE, GREEN, GREY, OLIVE, ORANGE, PURPLE
from kvlib.charts.parts import DASHED, DOTTED, SOLID, number
from kvlib.names import name_of

LOOKS = {  # of the readers: ink and dash
    "ppmd": (ORANGE, DASHED),
    "n-gram": (PURPLE, [10, 3]),
    "recency": (BLUE, SOLID),
}
IN_BYTES = {"window": "bytes", "context": "bytes"} | {
    name: "bits a byte" for name in ("mean", "low", "high", "full")
}
LEAST = 1e-4  # bits a byte: less is not drawn


def excess(table: pd.DataFrame, window: int = 128) -> Explorer:
    """Excess loss against the window kept, all readers of a text; text, window and one of the
    readers that are no models to choose.

    `table` is what `kvlib.claims.readers.curves_table` returns.
    """
    rows = table[table["mean"] >= LEAST]
    readers = [key for key in LOOKS if key in set(rows["reader"])]
    first = "recency" if "recency" in readers else readers[0]
    windows = sorted({round(w) for w in rows.loc[rows["reader"].isin(readers), "window"]})
    bytes_ = {"unit": "bytes", "scale": "log", "axis": "x"}
    start = next((one for one in windows if one >= window), windows[-1])
    return Explorer(
        excess_chart(rows),
        [
            Choice("corpus", "Text", parts.options_of(rows["corpus"])),
            Choice("reader", "Reader", [(key, _title(key)) for key in readers], value=first),
            Slider("window", "Window kept", values=windows, value=start, **bytes_),
        ],
        "What less context costs each reader of a text, in bits a byte",
        Origin(["readers", "sensitivity"], IN_BYTES),
    )


def _title(reader: str) -> str:
    """A reader's name as it begins a sentence."""
    name = name_of(reader)
    return name[0].upper() + name[1:]


def excess_chart(table: pd.DataFrame) -> alt.LayerChart:
    """Mean excess loss against the window kept, models in grey. Parameters: `corpus`, `reader`,
    `window`."""
    rows = parts.rounded(table, 4)
    rows = rows.assign(name=rows["reader"].map(name_of), text=rows["corpus"].map(name_of))
    base = alt.Chart(rows).transform_filter("datum.corpus == corpus")
    largest = float(rows["window"].max())
    axis = parts.window_axis(largest, "window kept (bytes)")

    def x_of(field: str) -> alt.X:
        return alt.X(f"{field}:Q", scale=parts.window_scale(largest), axis=axis)

    x = x_of("window")
    y_scale = alt.Scale(type="log", nice=False)
    y = alt.Y(
        "mean:Q", scale=y_scale, axis=parts.log_axis("mean excess loss (bits a byte)", low=LEAST)
    )
    lines = [
        base.transform_filter(f"datum.reader == '{key}'")
        .mark_line(color=ink, strokeDash=dash, strokeWidth=2)
        .encode(x=x, y=y)
        for key, (ink, dash) in LOOKS.items()
        if key in set(rows["reader"])
    ]
    if models := sorted(set(rows["reader"]) - LOOKS.keys()):
        of_models = base.transform_filter(alt.FieldOneOfPredicate("reader", models))
        grey = of_models.encode(x=x, y=y, detail="reader:N")
        lines = [*parts.named_lines(grey, "datum.name"), *lines]
    chosen = base.transform_filter("datum.reader == reader")
    reaching = "datum.low > 0 ? datum.low : datum.mean / 100"  # far down, where it has no logarithm
    band = (
        chosen.transform_calculate(drawn_low=reaching)
        .mark_area(color=OLIVE, opacity=0.2)
        .encode(x=x, y=alt.Y("drawn_low:Q", title="", scale=y_scale), y2="high:Q")
    )
    points = chosen.mark_point(color=OLIVE, filled=True, size=22).encode(
        x=x,
        y=y,
        tooltip=[
            alt.Tooltip("name:N", title="reader"),
            alt.Tooltip("window:Q", format="~r"),
            *parts.mean_told(),
        ],
    )
    nearest = _nearest(chosen)
    rule = nearest.transform_calculate(at="window").mark_rule(
        color=GREEN, strokeDash=DOTTED, strokeWidth=1.5
    )
    rule = parts.rule_for("window", rule.encode(x=x_of("at")))
    key = parts.legend(
        *((ink, dash, _title(reader)) for reader, (ink, dash) in LOOKS.items()),
        (GREY, SOLID, "models on this text"),
        (OLIVE, SOLID, "chosen reader's mean, 95% band"),
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


def _sentence() -> str:
    """What the window says of the chosen reader."""
    return (
        "(abs(log(datum.window / window)) < 0.01 ? 'With its last ' : 'No mean is drawn at '"
        " + format(window, ',d') + (window == 1 ? ' byte' : ' bytes')"
        " + '. At the nearest window, with its last ')"
        f" + (datum.window < 1.5 ? 'byte' : {number('datum.window', ',.0f')} + ' bytes')"
        " + ' alone, ' + datum.name + ' predicts ' + datum.text + ' worse by '"
        f" + {number('datum.mean')} + ' bits a byte (95% interval ' + {number('datum.low')}"
        f" + ' to ' + {number('datum.high')} + ', ' + datum.n_documents + ' documents) than with '"
        f" + {number('datum.context', ',.0f')} + ' bytes, where it needs '"
        f" + {number('datum.full', '.2f')} + '; its law has '"
        " + (isValid(datum.alpha) ? 'the exponent ' + format(datum.alpha, '.2f') : 'no exponent')"
        " + '.'"
    )
