"""Positions: suffixes restarted, kept at their positions, or after a shuffled past."""

from __future__ import annotations

import altair as alt
import pandas as pd

from kvlib.charts import parts
from kvlib.charts.controls import Choice, Explorer, Origin, Slider
from kvlib.charts.inks import BLUE, GREEN, GREY, ORANGE
from kvlib.charts.parts import DASHED, DOTTED, SOLID
from kvlib.names import name_of

COLUMNS = {"KL": "kl_nats", "TV": "tv"}  # of a distance
VARIANTS = {  # in words; ink, dash and shape
    "restarted": ("restarted at 0", BLUE, SOLID, "circle"),
    "kept": ("kept at its positions", ORANGE, DASHED, "square"),
    "shuffled": ("old context shuffled", GREEN, DOTTED, "triangle-up"),
}


def curves(tables: dict[str, pd.DataFrame]) -> Explorer:
    """Divergence against window for suffixes at other positions; model, distance, window to choose.

    `tables` is what `kvlib.claims.positions.stored_positions` returns.
    """
    table = curve_rows(tables)
    windows = sorted(set(table["window"].tolist()))
    shared = sorted(set.intersection(*(set(part["window"]) for _, part in table.groupby("model"))))
    middle = {"value": shared[len(shared) // 2], "scale": "log", "unit": "tokens", "axis": "x"}
    table = parts.with_gaps(
        table,
        lambda model, _, __, window: (
            f"{name_of(model)}, {_tokens(window)} kept: not measured, but for "
            f"{_windows(tables[model])}."
        ),
        model=list(tables),
        distance=list(dict.fromkeys(table["distance"])),
        variant=["restarted"],
        window=windows,
    )
    return Explorer(
        curves_chart(table),
        [
            Choice("model", "Model", parts.options_of(table["model"])),
            parts.distance_choice(table),
            Slider("window", "Window kept", values=windows, **middle),
        ],
        "Divergence from the full-context law, for a suffix restarted, kept in place, or shuffled",
        Origin(["positions"], {"window": "tokens"} | parts.NATS_OR_TV),
    )


def curves_chart(table: pd.DataFrame) -> alt.LayerChart:
    """Divergence against window, a line a variant. Parameters: `model`, `distance`, `window`."""
    base = alt.Chart(table).transform_filter("datum.model == model && datum.distance == distance")
    ticks = sorted(table["window"].unique().tolist())
    x = alt.X(
        "window:Q",
        scale=alt.Scale(type="log", base=2, nice=False, padding=10),
        axis=parts.window_axis(max(ticks)),
    )
    y = alt.Y(
        "mean:Q",
        scale=alt.Scale(type="log", nice=False),
        axis=parts.log_axis(parts.distance_title(table["distance"])),
    )
    layers = [
        base.transform_filter(f"datum.variant == '{variant}' && isValid(datum.mean)")
        .mark_line(
            color=colour,
            strokeWidth=2,
            strokeDash=dash,
            point=alt.OverlayMarkDef(size=55, color=colour, shape=shape),
        )
        .encode(x=x, y=y)
        for variant, (_, colour, dash, shape) in VARIANTS.items()
    ]
    once = base.transform_filter("datum.window == window && datum.variant == 'restarted'")
    rule = once.mark_rule(color=GREY, strokeDash=DOTTED, strokeWidth=1.5).encode(x=x)
    rule = parts.rule_for("window", rule)
    key = parts.legend(*((colour, dash, words) for words, colour, dash, _ in VARIANTS.values()))
    return parts.picture(
        *(rule, *layers, *key, parts.reading(once)), parameters=("model", "distance", "window")
    )


def curve_rows(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Means over documents, the small model first, in each distance that all tables hold.

    Columns: `model, distance, variant, window, mean, sentence`.
    """
    means = []
    for model in sorted(tables, key=lambda name: name != "small-gpt2"):
        for distance, value in COLUMNS.items():
            if all(value in table for table in tables.values()):
                means.append(_means(tables[model], model, distance))
    return parts.rounded(pd.concat(means, ignore_index=True), 4)


def _means(rows: pd.DataFrame, model: str, distance: str) -> pd.DataFrame:
    """The rows of `curve_rows` of one model and distance."""
    by = rows.groupby(["variant", "window", "doc"], sort=False)[COLUMNS[distance]].mean()
    mean = by.groupby(["variant", "window"], sort=False).mean().rename("mean").reset_index()
    wide = mean.pivot(index="window", columns="variant", values="mean")
    unit = " nats" * (distance == "KL")  # a total variation has none
    words = {
        window: f"{name_of(model)}, {_tokens(window)} kept, {parts.DISTANCE_NAMES[distance]}: "
        + ", ".join(f"{variant} {row[variant]:.3g}" for variant in VARIANTS)
        + f"{unit} (means over {rows['doc'].nunique()} documents)."
        for window, row in wide.iterrows()
    }
    mean = mean.assign(model=model, distance=distance, sentence=mean["window"].map(words))
    return mean[["model", "distance", "variant", "window", "mean", "sentence"]]


def _tokens(window: int) -> str:
    return f"{window:,} token{'s' * (window != 1)}"


def _windows(rows: pd.DataFrame) -> str:
    """The windows of a table in words."""
    *most, last = sorted(set(rows["window"].tolist()))
    return f"windows of {', '.join(f'{window:,}' for window in most)} and {_tokens(last)}"
