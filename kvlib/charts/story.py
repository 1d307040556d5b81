"""The plan: the least budget that was measured to keep a distortion, and what it weighs."""

from __future__ import annotations

import altair as alt
import pandas as pd

from kvlib.charts import parts
from kvlib.charts.bounds import EPSILONS
from kvlib.charts.controls import Choice, Explorer, Origin, Slider
from kvlib.charts.inks import KEPT, LOST
from kvlib.charts.parts import DOTTED, SOLID


def plan(table: pd.DataFrame, epsilon: float = 0.2) -> Explorer:
    """The least budget vouched for; model, text and ε to choose.

    `table` is what `kvlib.claims.story.plan_rows` returns.
    """
    epsilons = [value for value in EPSILONS if value >= 0.02]
    allowed = {"unit": "nats", "scale": "log", "axis": "y"}
    return Explorer(
        plan_chart(table),
        [
            Choice("source", "Model and text", parts.texts_of(table["source"])),
            Slider("epsilon", "Distortion allowed, ε", values=epsilons, value=epsilon, **allowed),
        ],
        "The least budget that was measured to keep a distortion, and what it weighs",
        Origin(["online"], parts.IN_ENTRIES | parts.NATS | {"worst": "nats", "megabytes": "MB"}),
    )


def plan_chart(table: pd.DataFrame) -> alt.LayerChart:
    """The measured curve, ε, and the least budget vouched for. Parameters: `source`, `epsilon`.

    `table` is what `kvlib.claims.story.plan_rows` returns.
    """
    base = alt.Chart(parts.rounded(table, 4)).transform_filter("datum.source == source")
    ticks = sorted(table["budget"].unique().tolist())
    x = alt.X(
        "budget:Q",
        scale=alt.Scale(type="log", base=2, nice=False, padding=12),
        axis=alt.Axis(title="budget (entries a query sees)", values=ticks, format=",d"),
    )
    scale = alt.Scale(type="log", domain=[0.01, 5], clamp=True, nice=False)
    y = alt.Y("mean:Q", scale=scale, axis=parts.log_axis("mean KL (nats)", 0.01, 5))
    band = base.mark_area(color=LOST, opacity=0.2).encode(
        x=x, y=alt.Y("low:Q", title="", scale=scale), y2="high:Q"
    )
    measured = base.mark_line(
        color=LOST, strokeWidth=2, point=alt.OverlayMarkDef(size=60, color=LOST)
    ).encode(x=x, y=y)
    level = (
        base.transform_calculate(level="epsilon")
        .mark_line(color=LOST, strokeDash=DOTTED, strokeWidth=2)
        .encode(x=x, y=alt.Y("level:Q", title="", scale=scale))
    )
    level = parts.rule_for("epsilon", level)
    least = base.transform_calculate(
        good="datum.worst <= epsilon ? datum.budget : 1e9"
    ).transform_joinaggregate(least="min(good)", last="max(budget)")
    one = least.transform_filter("datum.budget == (datum.least == 1e9 ? datum.last : datum.least)")
    found = alt.condition("datum.least < 1e9", alt.value(1), alt.value(0))
    rule = one.mark_rule(color=KEPT, strokeWidth=2.5).encode(x=x, opacity=found)
    reading = parts.reading(
        one.transform_calculate(
            figures="format(datum.mean, '.2~g') + ' nats, 95% interval '"
            " + format(datum.low, '.2~g') + ' to ' + format(datum.high, '.2~g') + ', '"
            " + datum.documents + ' documents'"
        ),
        "datum.least == 1e9 ? 'No measured budget surely keeps ε = ' + format(epsilon, '~g')"
        " + (epsilon == 1 ? ' nat' : ' nats') + ' with ' + datum.source + '. The largest, '"
        " + format(datum.last, ',d') + ' entries, has a mean"
        " of ' + datum.figures + '.'"
        " : 'For at most ε = ' + format(epsilon, '~g') + (epsilon == 1 ? ' nat' : ' nats')"
        " + ' on average, the least measured budget of ' + datum.source + ' is '"
        " + format(datum.budget, ',d') + ' entries, ' + format(datum.megabytes, '.2~r') + ' MB: '"
        " + datum.figures + '. One token in twenty loses more than '"
        " + format(datum.p95, '.2~g') + ' nats.'",
    )
    key = parts.legend(
        (LOST, SOLID, "mean over documents, 95% band"),
        (LOST, DOTTED, "distortion allowed, ε"),
        (KEPT, SOLID, "least budget surely within it"),
    )
    return parts.picture(
        *(band, measured, level, rule, *key, reading), parameters=("source", "epsilon")
    )
