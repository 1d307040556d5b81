"""What the charts share: axes, a legend, the sentence under a picture, numbers in sentences."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import altair as alt
import pandas as pd

from kvlib import names
from kvlib.charts.compiled import moving_title
from kvlib.charts.controls import READING, Choice, Slider, rule_layer
from kvlib.charts.inks import GREY

HEIGHT = 340  # pixels of a picture
FAINT = 0.5  # opacity of what stands in grey behind the rest
SOLID, DASHED, DOTTED = [1, 0], [6, 4], [2, 3]
IN_TOKENS = {name: "tokens" for name in ("window", "first", "last")}
IN_ENTRIES = {"budget": "entries"}
NATS, NATS_OR_TV = (
    {name: unit for name in ("mean", "low", "high", "fit", "median", "p95", "predicted", "value")}
    for unit in ("nats", "nats or TV")
)
POLICIES = ("online", "prefill", "reencode")  # studies of cache policies
DISTANCES = {"KL": "nats", "TV": "in total variation"}  # and how a sentence goes on behind a number
DISTANCE_NAMES = {"KL": "KL divergence", "TV": "total variation"}
SETTING = "Protocol, model and text"  # of a list of what `setting_of` returns
MEANS = {  # of an axis, by the distance or the column of it
    **{"KL": "mean KL (nats)", "kl_nats": "mean KL (nats)"},
    **{"TV": "mean TV", "tv": "mean TV"},
    "excess loss": "mean excess loss (nats)",
}


def picture(
    *layers: alt.Chart | alt.LayerChart, parameters: Sequence[str], height: int = HEIGHT
) -> alt.LayerChart:
    """Layers as one chart that names its parameters; their values are the controls' to set."""
    named = (alt.param(name) for name in parameters)
    return alt.layer(*layers).add_params(*named).properties(height=height)


def reading(rows: alt.Chart, sentence: str = "", dy: float = -26) -> alt.Chart:
    """The layer that says in words what the picture shows: the sentence of the first row left.

    `sentence` is a Vega expression; without it the rows have a column `sentence`. Its first letter
    becomes a capital. A column `place`
    of their own would overwrite the number of a row when a control moves. In a kernel the words
    stand within the picture, `dy` pixels below its upper edge.
    """
    said = rows.transform_calculate(sentence=sentence) if sentence else rows
    said = said.transform_calculate(
        sentence="upper(slice(datum.sentence, 0, 1)) + slice(datum.sentence, 1)"
    )
    first = said.transform_window(place="row_number()").transform_filter("datum.place == 1")
    return (
        first.mark_text(align="left", baseline="top", dy=dy, limit=0, lineBreak="\n")
        .encode(text="sentence:N", x=alt.value(0), y=alt.value(0))
        .properties(name=READING)
    )


def rule_for(name: str, rule: alt.Chart) -> alt.Chart:
    """The rule in the picture that follows the slider of that name, and can be dragged."""
    return rule.properties(name=rule_layer(name))


def number(field: str, digits: str = ".3~g") -> str:
    """A Vega expression that writes a number, by d3's rules for formats."""
    return f"format({field}, '{digits}')"


def lookup(expression: str) -> str:
    """A Vega expression that turns a key into its name."""
    pairs = ", ".join(f'"{key}": "{name}"' for key, name in names.NAMES.items())
    return "({" + pairs + "}[" + expression + "] || " + expression + ")"


def mean_told() -> list[alt.Tooltip]:
    """What a point says of the row's `mean` and its 95% interval, `low` to `high`."""
    return [
        alt.Tooltip("mean:Q", title="mean", format=".3g"),
        alt.Tooltip("low:Q", title="95% from", format=".3g"),
        alt.Tooltip("high:Q", title="to", format=".3g"),
    ]


def placed(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of models and texts with a key of both, `setting`: not every model reads every text."""
    return rows.assign(setting=rows["model"] + "|" + rows["corpus"])


def place_choice(rows: pd.DataFrame) -> Choice:
    """Model and text to choose, of those that rows have."""
    pairs = rows[["model", "corpus"]].drop_duplicates().to_numpy()
    options = [(f"{m}|{c}", f"{names.name_of(m)} · {names.name_of(c)}") for m, c in pairs]
    return Choice("setting", "Model and text", options)


def options_of(column: pd.Series) -> list[tuple[str, str]]:
    """The different keys of a column with their names, for a list to choose from."""
    return [(key, names.name_of(key)) for key in dict.fromkeys(column)]


def setting_of(model: str, corpus: str, protocol: str) -> str:
    """What a reader chooses among: protocol, model and text."""
    return f"{names.name_of(protocol)} · {names.name_of(model)} · {names.name_of(corpus)}"


def setting_said(setting: str) -> str:
    """The same in a sentence."""
    protocol, model, text = setting.split(" · ")
    return f"{protocol}, {model} on {text}"


def texts_of(column: pd.Series) -> list[tuple[str, str]]:
    """The different texts of a column, for a list to choose from."""
    return [(text, text) for text in dict.fromkeys(column)]


def shared_policies(table: pd.DataFrame) -> list[str]:
    """The policies that every setting has, in the table's order; all where settings share none."""
    every = set.intersection(*(set(part["policy"]) for _, part in table.groupby("setting")))
    return [p for p in dict.fromkeys(table["policy"]) if p in every or not every]


def with_gaps(
    table: pd.DataFrame, say: Callable[..., str], **choices: Sequence[Any]
) -> pd.DataFrame:
    """The table with a row more for each combination of `choices` (column → its values) that it
    lacks: no numbers, and the sentence that `say` makes of the combination."""
    there = set(zip(*(table[name] for name in choices), strict=True))
    gaps = [c for c in itertools.product(*choices.values()) if c not in there]
    rows = [dict(zip(choices, gap, strict=True)) | {"sentence": say(*gap)} for gap in gaps]
    return pd.DataFrame([*table.to_dict("records"), *rows]) if rows else table


def with_distance(table: pd.DataFrame) -> pd.DataFrame:
    """The table with its `distance`: KL where it has no such column."""
    return table.copy() if "distance" in table else table.assign(distance="KL")


def distance_choice(table: pd.DataFrame) -> Choice:
    """A choice among the distances that a table has."""
    there = [key for key in DISTANCE_NAMES if key in set(table["distance"])]
    return Choice("distance", "Distance", [(key, DISTANCE_NAMES[key]) for key in there])


TOKENS_OF_BIN = (  # of a window or a bin of them, after "its last": one is not counted
    "(datum.last == 1 ? 'token' : (datum.first == datum.last ? '' : format(datum.first, ',d')"
    " + ' to ') + format(datum.last, ',d') + ' tokens')"
)


def distance_title(distances: pd.Series, parameter: str = "distance") -> str:
    """Of the axis of means of these distances: of the one that the parameter chooses."""
    return moving_title({key: MEANS[key] for key in dict.fromkeys(distances)}, parameter)


def bin_places(rows: pd.DataFrame) -> pd.Series:
    """Where the bin that ends at each `last` stands on the axis of windows: its mean `window`."""
    return rows.groupby("last")["window"].mean().map(lambda mean: float(f"{steady(mean):.4g}"))


def window_slider(rows: pd.DataFrame, window: int, **where: Any) -> Slider:
    """A slider over the `last` windows of bins, at the first that is no shorter than `window`.

    `where`: the places and what they depend on, if they are not those of `bin_places`.
    """
    places = bin_places(rows)
    ends = [int(last) for last in places.index]
    value = next((end for end in ends if end >= window), ends[-1])
    tokens = {"unit": "tokens", "scale": "log", "axis": "x"}
    where = where or {"places": places.tolist()}
    return Slider("window", "Window kept, up to", values=ends, value=value, **tokens, **where)


def window_scale(largest: float) -> alt.Scale:
    """Windows from 1 on, each octave as wide as the next."""
    return alt.Scale(type="log", base=2, domain=[1, largest], nice=False)


def window_axis(largest: float, title: str = "window kept (tokens)", low: float = 1) -> alt.Axis:
    """Windows, labelled at the powers of two from the lowest on."""
    ticks = [2**k for k in range(int(largest).bit_length()) if 2**k >= low]
    apart = {"labelOverlap": True, "labelFlush": False, "labelSeparation": 4}
    return alt.Axis(title=title, values=ticks, format=",d", **apart)


def log_axis(title: str, low: float = 0, high: float = math.inf) -> alt.Axis:
    """A logarithmic axis that is labelled at 1, 2 and 5 of each power of ten.

    Give the ends of a scale that clamps: it would draw the labels beyond them at its edges.
    """
    every = [float(f"{m}e{k}") for k in range(-6, 4) for m in (1, 2, 5)]
    ticks = [tick for tick in every if low <= tick <= high]
    return alt.Axis(title=title, format="~g", values=ticks, labelOverlap="greedy")


def named_lines(lines: alt.Chart, name: str) -> list[alt.Chart]:
    """Grey lines behind the rest that say their `name`, an expression, when pointed at: each has a
    broad one over it that isn't seen."""
    lines = lines.transform_calculate(who=name)
    told = [alt.Tooltip("who:N", title="line")]
    return [
        lines.mark_line(color=GREY, opacity=FAINT, strokeWidth=1.5),
        lines.mark_line(color=GREY, opacity=0, strokeWidth=9, tooltip=True).encode(tooltip=told),
    ]


def legend(*entries: tuple[str, list[int], str]) -> list[alt.Chart]:
    """Lines and their names, below the horizontal axis, where nothing crosses them.

    A name of more than some 36 letters is cut on a phone.
    """
    layers = []
    for k, entry in enumerate(entries):
        layers += _entry(entry, HEIGHT + 56 + 18 * k, (10, 34, 40))
    return layers


def _entry(entry: tuple[str, list[int], str], height: float, places: tuple) -> list[alt.Chart]:
    """A line and its name; `places`: where the line begins and ends, and where the name begins."""
    color, dash, text = entry
    left, right, word = map(alt.value, places)
    one, y = alt.Chart(pd.DataFrame({"text": [text]})), alt.value(height)
    return [
        one.mark_rule(
            color=color,
            strokeDash=dash,
            strokeWidth=2,
            opacity=FAINT if (color, dash) == (GREY, SOLID) else 1,
        ).encode(x=left, x2=right, y=y),
        one.mark_text(align="left", baseline="middle", fontSize=12).encode(
            x=word, y=y, text="text:N"
        ),
    ]


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
