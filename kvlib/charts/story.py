"""The book's explorers: a chart of `kvlib.charts` with the controls that move it."""

from __future__ import annotations

import altair as alt
import pandas as pd

from kvlib.charts.bounds import EPSILONS
from kvlib.charts.controls import Choice, Explorer, Slider
from kvlib.charts.parts import (
    BLUE,
    GREEN,
    HEIGHT,
    ORANGE,
    legend,
    log_axis,
    policy_reading,
    rounded,
)


def plan(table: pd.DataFrame, epsilon: float = 0.2) -> Explorer:
    """The least budget vouched for; model, text and ε to choose.

    `table` is what `kvlib.claims.story.plan_rows` returns.
    """
    sources = [(name, name) for name in table["source"].unique()]
    epsilons = [value for value in EPSILONS if value >= 0.02]
    return Explorer(
        plan_chart(table, epsilon),
        [
            Choice("source", "Model and text", sources),
            Slider(
                "epsilon",
                "Distortion allowed, ε",
                values=epsilons,
                value=epsilon,
                scale="log",
                unit="nats",
            ),
        ],
        "The least budget that was measured to keep a distortion, and what it weighs",
    )


def plan_chart(table: pd.DataFrame, epsilon: float) -> alt.LayerChart:
    """The measured curve, ε, and the least budget vouched for. Parameters: `source`, `epsilon`.

    `table` is what `kvlib.claims.story.plan_rows` returns.
    """
    base = alt.Chart(rounded(table, 4)).transform_filter("datum.source == source")
    ticks = sorted(table["budget"].unique().tolist())
    x = alt.X(
        "budget:Q",
        scale=alt.Scale(type="log", base=2, nice=False, padding=12),
        axis=alt.Axis(title="budget (entries a query sees)", values=ticks, format="d"),
    )
    scale = alt.Scale(type="log", domain=[0.01, 5], clamp=True, nice=False)
    y = alt.Y("mean:Q", scale=scale, axis=log_axis("mean KL (nats)", 0.01, 5))
    band = base.mark_area(color=BLUE, opacity=0.2).encode(
        x=x, y=alt.Y("low:Q", title="", scale=scale), y2="high:Q"
    )
    measured = base.mark_line(
        color=BLUE, strokeWidth=2, point=alt.OverlayMarkDef(size=60, color=BLUE)
    ).encode(x=x, y=y)
    level = (
        base.transform_calculate(level="epsilon")
        .mark_line(color=GREEN, strokeDash=[2, 3], strokeWidth=2)
        .encode(x=x, y=alt.Y("level:Q", title="", scale=scale))
    )
    least = base.transform_calculate(
        good="datum.worst <= epsilon ? datum.budget : 1e9"
    ).transform_joinaggregate(least="min(good)", last="max(budget)")
    one = least.transform_filter("datum.budget == (datum.least == 1e9 ? datum.last : datum.least)")
    found = alt.condition("datum.least < 1e9", alt.value(1), alt.value(0))
    rule = one.mark_rule(color=ORANGE, strokeWidth=2.5).encode(x=x, opacity=found)
    once = one.transform_calculate(
        figures="format(datum.mean, '.2~g') + ' nats, 95% interval ' + format(datum.low, '.2~g')"
        " + ' to ' + format(datum.high, '.2~g') + ', ' + datum.documents + ' documents'",
        sentence="datum.least == 1e9 ? 'No measured budget keeps ε = ' + format(epsilon, '~g')"
        " + ' nats with ' + datum.source + '. The largest, ' + datum.last + ' entries, has a mean"
        " of ' + datum.figures + '.'"
        " : 'For at most ε = ' + format(epsilon, '~g') + ' nats on average, ' + datum.source"
        " + ' needs ' + datum.budget + ' entries, ' + format(datum.megabytes, '.2~r') + ' MB: '"
        " + datum.figures + '. One token in twenty still loses more than '"
        " + format(datum.p95, '.2~g') + ' nats.'",
    )
    key = legend(
        (BLUE, [1, 0], "measured, with 95% band"),
        (GREEN, [2, 3], "distortion allowed, ε"),
        (ORANGE, [1, 0], "least budget vouched for"),
    )
    return (
        alt.layer(band, measured, level, rule, *key, policy_reading(once))
        .add_params(
            alt.param("source", value=table["source"].iloc[0]),
            alt.param("epsilon", value=epsilon),
        )
        .properties(width="container", height=HEIGHT)
    )
