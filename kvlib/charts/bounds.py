"""The book's explorers: a chart of `kvlib.charts` with the controls that move it."""

from __future__ import annotations

import altair as alt
import pandas as pd

from kvlib.charts import parts
from kvlib.charts.controls import Choice, Explorer, Slider

EPSILONS = [round(m * 10.0**k, 6) for k in (-3, -2, -1) for m in (1, 1.5, 2, 3, 5, 7)] + [1.0]


def budget(
    points: pd.DataFrame, alpha: float, epsilon: float = 0.1, megabytes: int = 10
) -> Explorer:
    """ε, α and the budget to choose: the window they ask for, what it weighs, what it buys.

    `points` is what `kvlib.fit.pinned_points` returns.
    """
    sources = points[["source", "name"]].drop_duplicates()
    return Explorer(
        budget_chart(points, sources["source"].iloc[0]),
        [
            Choice("source", "Model and text", list(sources.itertuples(index=False, name=None))),
            Slider(
                "epsilon",
                "Distortion allowed, ε",
                values=EPSILONS,
                value=epsilon,
                scale="log",
                unit="nats",
            ),
            Slider("alpha", "Exponent α", 0.3, 1.5, 0.01, value=alpha),
            Slider("budget", "Budget", 1, 1000, value=megabytes, scale="log", unit="MB"),
        ],
        "How many tokens a cache must keep for a given distortion, and how many a budget holds",
    )


def lacunary(stairs: pd.DataFrame, alpha: float = 0.8, epsilon: float = 0.01) -> Explorer:
    """A source that needs far fewer tokens than its upper bound: ε and α to choose."""
    return Explorer(
        lacunary_chart(stairs),
        [
            Slider(
                "epsilon",
                "Distortion allowed, ε",
                values=EPSILONS[:-1],
                value=epsilon,
                scale="log",
                unit="nats",
            ),
            Slider("alpha", "Exponent α of the upper bound", 0.4, 1.5, 0.05, value=alpha),
        ],
        "Bayes risk of a source whose dependence sits at a few distances only, and its upper bound",
    )


def budget_chart(points: pd.DataFrame, source: str) -> alt.LayerChart:
    """The window that a distortion ε asks for, what it weighs, and what a budget buys.

    `points` has one row a (source, window): `source`, `name`, `window`, `value` (0 where nothing
    was measured and only the law is drawn); and, the
    same in all rows of a source, `pin_window` and `pin_value` (a measured point that the law goes
    through), `measured_alpha` (a text), `full` and `sliding` (bytes a token of layers that see
    everything and of layers that see `local` tokens). Parameters: `source`, `epsilon`, `alpha`,
    `budget` (MB).
    """
    largest = 1e6
    base = alt.Chart(parts.rounded(points)).transform_filter("datum.source == source")
    once = (
        base.transform_filter("datum.window == datum.pin_window && datum.value > 0")
        .transform_calculate(
            needed="max(1, ceil(datum.pin_window * pow(datum.pin_value / epsilon, 1 / alpha)))",
            both="(datum.full + datum.sliding) * datum.local",
            bytes="budget * 1e6",
        )
        .transform_calculate(
            needed_mb="(datum.full * datum.needed"
            " + datum.sliding * min(datum.needed, datum.local)) / 1e6",
            held="floor(datum.bytes <= datum.both"
            " ? datum.bytes / (datum.full + datum.sliding)"
            " : datum.local + (datum.bytes - datum.both) / datum.full)",
        )
        .transform_calculate(
            reached="datum.pin_value * pow(max(datum.held, 1) / datum.pin_window, -alpha)",
            needed_x=f"min(datum.needed, {largest})",
            held_x=f"max(1, min(datum.held, {largest}))",
        )
    )
    scale = alt.Scale(type="log", domain=[1e-4, 20], clamp=True, nice=False)
    x_scale = alt.Scale(type="log", domain=[1, largest], clamp=True, nice=False)
    x_axis = alt.Axis(title="window kept (tokens)", format="~s", tickCount=7)
    y_axis = alt.Axis(title="distortion (nats)", format="~g", tickCount=6)

    def x(field: str) -> alt.X:
        return alt.X(f"{field}:Q", scale=x_scale, axis=x_axis)

    def y(field: str) -> alt.Y:
        return alt.Y(f"{field}:Q", scale=scale, axis=y_axis)

    ends = alt.Chart(pd.DataFrame({"w": [1.0, largest]}))
    law = (
        base.transform_calculate(
            law="datum.pin_value * pow(datum.window / datum.pin_window, -alpha)"
        )
        .transform_filter("datum.law >= 1e-4 && datum.law <= 20")
        .mark_line(color=parts.BLUE, strokeWidth=2)
        .encode(x=x("window"), y=y("law"))
    )
    measured = (
        base.transform_filter("datum.value > 0")
        .mark_point(color=parts.BLUE, filled=True, size=26, opacity=0.9)
        .encode(x=x("window"), y=y("value"))
    )
    level = (
        ends.transform_calculate(level="epsilon")
        .mark_line(color=parts.GREEN, strokeDash=[2, 3], strokeWidth=1.5)
        .encode(x=x("w"), y=y("level"))
    )
    needed = once.mark_rule(color=parts.GREEN, strokeWidth=2).encode(x=x("needed_x"))
    held = once.mark_rule(color=parts.ORANGE, strokeDash=[6, 4], strokeWidth=2).encode(
        x=x("held_x")
    )
    reading = (
        once.transform_calculate(
            beyond="datum.needed > 1024 ? ' (extrapolated: measured up to 1,024)' : ''",
            sentence="'At ε = ' + format(epsilon, '~g') + ' nats and α = ' + format(alpha, '~g')"
            " + ', ' + datum.name + ' must keep ' + format(datum.needed, ',.0f')"
            " + (datum.needed == 1 ? ' token, ' : ' tokens, ')"
            " + format(datum.needed_mb, ',.3~r') + ' MB of cache' + datum.beyond"
            " + '. A budget of ' + format(budget, '~g') + ' MB keeps ' + format(datum.held, ',.0f')"
            " + ' tokens, for ' + format(datum.reached, '.2~g') + ' nats. Measured: α = '"
            " + datum.measured_alpha + '.'",
        )
        .mark_text(align="left", baseline="top", dy=-26, limit=0)
        .encode(text="sentence:N", x=alt.value(0), y=alt.value(0))
        .properties(name="reading")
    )
    key = parts.legend(
        (parts.BLUE, [1, 0], "law through the measured points"),
        (parts.GREEN, [1, 0], "window needed for ε"),
        (parts.ORANGE, [6, 4], "window that the budget holds"),
    )
    return (
        alt.layer(law, measured, level, needed, held, *key, reading)
        .add_params(
            alt.param("source", value=source),
            alt.param("epsilon", value=0.1),
            alt.param("alpha", value=0.65),
            alt.param("budget", value=10),
        )
        .properties(width="container", height=parts.HEIGHT)
    )


def lacunary_chart(stairs: pd.DataFrame) -> alt.LayerChart:
    """A sensitivity that stays below C w^-α but touches it at a few windows only.

    `stairs` has `left`, `right`, `step` (the k with Δ = C k^-α between them). Parameters: `alpha`,
    `epsilon`. C is one.
    """
    largest = float(stairs["right"].max())
    x_scale = alt.Scale(type="log", base=2, domain=[1, largest], nice=False)
    x_axis = alt.Axis(title="window kept (tokens)", values=[4**k for k in range(9)], format=",d")
    scale = alt.Scale(type="log", domain=[1e-4, 1], clamp=True, nice=False)
    y_axis = alt.Axis(title="Bayes risk (nats)", format="~g", tickCount=5)
    base = alt.Chart(stairs).transform_calculate(
        value="pow(datum.step, -alpha)", above="pow(datum.step, -alpha) > epsilon ? 1 : 0"
    )
    x = alt.X("left:Q", scale=x_scale, axis=x_axis)
    risk = base.mark_rule(color=parts.BLUE, strokeWidth=3).encode(
        x=x, x2="right:Q", y=alt.Y("value:Q", scale=scale, axis=y_axis)
    )
    curve = alt.Chart(pd.DataFrame({"w": [2 ** (k / 2) for k in range(33)]})).transform_calculate(
        bound="pow(datum.w, -alpha)", level="epsilon"
    )
    bound = (
        curve.transform_filter("datum.bound >= 1e-4")
        .mark_line(color=parts.ORANGE, strokeDash=[6, 4], strokeWidth=2)
        .encode(
            x=alt.X("w:Q", scale=x_scale, axis=x_axis),
            y=alt.Y("bound:Q", scale=scale, axis=y_axis),
        )
    )
    level = curve.mark_line(color=parts.GREEN, strokeDash=[2, 3], strokeWidth=1.5).encode(
        x=alt.X("w:Q", scale=x_scale, axis=x_axis), y=alt.Y("level:Q", scale=scale, axis=y_axis)
    )
    needs = base.transform_calculate(
        need="datum.above ? datum.right : 1", least="1"
    ).transform_joinaggregate(needed="max(need)")
    reading = (
        needs.transform_filter("datum.left == 1")
        .transform_calculate(
            promised="ceil(pow(1 / epsilon, 1 / alpha))",
            sentence="'At ε = ' + format(epsilon, '~g') + ' nats and α = ' + format(alpha, '~g')"
            " + ', the upper bound asks for ' + format(datum.promised, ',.0f')"
            " + ' tokens; this source needs ' + (datum.needed >= " + str(int(largest)) + " ?"
            " 'more than are drawn here' : format(datum.needed, ',.0f')) + '.'",
        )
        .mark_text(align="left", baseline="top", dy=-26, limit=0)
        .encode(text="sentence:N", x=alt.value(0), y=alt.value(0))
        .properties(name="reading")
    )
    rule = (
        needs.transform_filter("datum.left == 1")
        .mark_rule(color=parts.GREEN, strokeWidth=2)
        .encode(x=alt.X("needed:Q", scale=x_scale, axis=x_axis))
    )
    key = parts.legend(
        (parts.BLUE, [1, 0], "Bayes risk of the source"),
        (parts.ORANGE, [6, 4], "its upper bound"),
        (parts.GREEN, [1, 0], "window needed for ε"),
    )
    return (
        alt.layer(bound, risk, level, rule, *key, reading)
        .add_params(alt.param("alpha", value=0.8), alt.param("epsilon", value=0.01))
        .properties(width="container", height=parts.HEIGHT)
    )
