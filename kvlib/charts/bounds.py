"""Bounds: the window that a distortion asks for, and a source that needs far less."""

from __future__ import annotations

import altair as alt
import pandas as pd

from kvlib.charts import parts
from kvlib.charts.controls import Choice, Explorer, Slider
from kvlib.charts.inks import BLUE, GREEN, ORANGE
from kvlib.charts.parts import DASHED, DOTTED, SOLID

EPSILONS = [round(m * 10.0**k, 6) for k in (-3, -2, -1) for m in (1, 1.5, 2, 3, 5, 7)] + [1.0]
LARGEST = 1e6  # tokens; the longest window that is drawn
CLAIMED = "'At ε = ' + format(epsilon, '~g') + ' nats and α = ' + format(alpha, '~g') + ', '"


# --- the window for ε, and what it weighs -----------------------------------------------------


def budget(
    points: pd.DataFrame, alpha: float, epsilon: float = 0.1, megabytes: int = 10
) -> Explorer:
    """ε, α and the budget to choose: the window they ask for, what it weighs, what it buys.

    `points` as `budget_chart` asks for.
    """
    sources = points[["source", "name"]].drop_duplicates()
    allowed = {"unit": "nats", "scale": "log"}
    return Explorer(
        budget_chart(points),
        [
            Choice("source", "Model and text", list(sources.itertuples(index=False, name=None))),
            Slider("epsilon", "Distortion allowed, ε", values=EPSILONS, value=epsilon, **allowed),
            Slider("alpha", "Exponent α", 0.3, 1.5, 0.01, value=alpha),
            Slider("budget", "Budget", 1, 1000, value=megabytes, scale="log", unit="MB"),
        ],
        "How many tokens a cache must keep for a given distortion, and how many a budget holds",
    )


def budget_chart(points: pd.DataFrame) -> alt.LayerChart:
    """The window that a distortion ε asks for, what it weighs, and what a budget buys.

    `points` has one row a (source, window): `source`, `name`, `window`, `value` (0 where nothing
    was measured and only the law is drawn); and, the same in all rows of a source, `pin_window` and
    `pin_value` (a measured point that the law goes through), `measured_alpha` (a text), `longest`
    (the longest window that was measured), `full` and `sliding` (bytes a token of layers that see
    everything and of layers that see `local` tokens). Parameters: `source`, `epsilon`, `alpha`,
    `budget` (MB).
    """
    base = alt.Chart(parts.rounded(points)).transform_filter("datum.source == source")
    once = _needs_and_holds(base)
    scale = alt.Scale(type="log", domain=[1e-4, 20], clamp=True, nice=False)
    x_scale = alt.Scale(type="log", domain=[1, LARGEST], clamp=True, nice=False)
    x_axis = alt.Axis(title="window kept (tokens)", format="~s", tickCount=7)
    y_axis = alt.Axis(title="distortion (nats)", format="~g", tickCount=6)

    def x(field: str) -> alt.X:
        return alt.X(f"{field}:Q", scale=x_scale, axis=x_axis)

    def y(field: str) -> alt.Y:
        return alt.Y(f"{field}:Q", scale=scale, axis=y_axis)

    law = (
        base.transform_calculate(
            law="datum.pin_value * pow(datum.window / datum.pin_window, -alpha)"
        )
        .transform_filter("datum.law >= 1e-4 && datum.law <= 20")
        .mark_line(color=BLUE, strokeWidth=2)
        .encode(x=x("window"), y=y("law"))
    )
    measured = (
        base.transform_filter("datum.value > 0")
        .mark_point(color=BLUE, filled=True, size=26, opacity=0.9)
        .encode(x=x("window"), y=y("value"))
    )
    level = (
        alt.Chart(pd.DataFrame({"w": [1.0, LARGEST]}))
        .transform_calculate(level="epsilon")
        .mark_line(color=GREEN, strokeDash=DOTTED, strokeWidth=1.5)
        .encode(x=x("w"), y=y("level"))
    )
    needed = once.mark_rule(color=GREEN, strokeWidth=2).encode(x=x("needed_x"))
    held = once.mark_rule(color=ORANGE, strokeDash=DASHED, strokeWidth=2).encode(x=x("held_x"))
    reading = parts.reading(
        once.transform_calculate(
            beyond="datum.needed > datum.longest ? ' (extrapolated: measured up to '"
            " + format(datum.longest, ',d') + ')' : ''",
        ),
        CLAIMED + " + datum.name + ' must keep ' + format(datum.needed, ',.0f')"
        " + (datum.needed == 1 ? ' token, ' : ' tokens, ')"
        " + format(datum.needed_mb, ',.3~r') + ' MB of cache' + datum.beyond"
        " + '. A budget of ' + format(budget, '~g') + ' MB keeps ' + format(datum.held, ',.0f')"
        " + ' tokens, for ' + format(datum.reached, '.2~g') + ' nats. Measured: α = '"
        " + datum.measured_alpha + '.'",
    )
    key = parts.legend(
        (BLUE, SOLID, "law through the measured points"),
        (GREEN, SOLID, "window needed for ε"),
        (ORANGE, DASHED, "window that the budget holds"),
    )
    return parts.picture(
        *(law, measured, level, needed, held, *key, reading),
        parameters=("source", "epsilon", "alpha", "budget"),
    )


def _needs_and_holds(base: alt.Chart) -> alt.Chart:
    """One row: `needed` tokens for ε and `needed_mb`; `held` tokens and the distortion `reached`.

    The law is D(w) = D₀ (w / w₀)^-α. A cache of w tokens weighs full·w + sliding·min(w, local)
    bytes.
    """
    return (
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
            needed_x=f"min(datum.needed, {LARGEST})",
            held_x=f"max(1, min(datum.held, {LARGEST}))",
        )
    )


# --- a source whose dependence sits at a few distances ----------------------------------------


def lacunary(stairs: pd.DataFrame, alpha: float = 0.8, epsilon: float = 0.01) -> Explorer:
    """A source that needs far fewer tokens than its upper bound: ε and α to choose."""
    allowed = {"unit": "nats", "scale": "log"}
    some = EPSILONS[:-1]
    return Explorer(
        lacunary_chart(stairs),
        [
            Slider("epsilon", "Distortion allowed, ε", values=some, value=epsilon, **allowed),
            Slider("alpha", "Exponent α of the upper bound", 0.4, 1.5, 0.05, value=alpha),
        ],
        "Bayes risk of a source whose dependence sits at a few distances only, and its upper bound",
    )


def lacunary_chart(stairs: pd.DataFrame) -> alt.LayerChart:
    """A sensitivity that stays below C w^-α but touches it at a few windows only.

    `stairs` has `left`, `right`, `step` (the k with Δ = C k^-α between them). Parameters: `alpha`,
    `epsilon`. C is one.
    """
    largest = int(stairs["right"].max())
    x_scale = alt.Scale(type="log", base=2, domain=[1, largest], nice=False)
    ticks = [4**k for k in range(largest.bit_length() // 2 + 1)]
    x_axis = alt.Axis(title="window kept (tokens)", values=ticks, format=",d")
    scale = alt.Scale(type="log", domain=[1e-4, 1], clamp=True, nice=False)
    y_axis = alt.Axis(title="Bayes risk (nats)", format="~g", tickCount=5)

    def x(field: str) -> alt.X:
        return alt.X(f"{field}:Q", scale=x_scale, axis=x_axis)

    def y(field: str) -> alt.Y:
        return alt.Y(f"{field}:Q", scale=scale, axis=y_axis)

    base = alt.Chart(stairs).transform_calculate(value="pow(datum.step, -alpha)")
    risk = base.mark_rule(color=BLUE, strokeWidth=3).encode(x=x("left"), x2="right:Q", y=y("value"))
    halves = [2 ** (k / 2) for k in range(2 * largest.bit_length() - 1)]
    curve = alt.Chart(pd.DataFrame({"w": halves})).transform_calculate(
        bound="pow(datum.w, -alpha)", level="epsilon"
    )
    bound = (
        curve.transform_filter("datum.bound >= 1e-4")
        .mark_line(color=ORANGE, strokeDash=DASHED, strokeWidth=2)
        .encode(x=x("w"), y=y("bound"))
    )
    level = curve.mark_line(color=GREEN, strokeDash=DOTTED, strokeWidth=1.5).encode(
        x=x("w"), y=y("level")
    )
    needs = (
        base.transform_calculate(need="datum.value > epsilon ? datum.right : 1")
        .transform_joinaggregate(needed="max(need)")
        .transform_filter("datum.left == 1")
    )
    rule = needs.mark_rule(color=GREEN, strokeWidth=2).encode(x=x("needed"))
    reading = parts.reading(
        needs.transform_calculate(promised="ceil(pow(1 / epsilon, 1 / alpha))"),
        CLAIMED + " + 'the upper bound asks for ' + format(datum.promised, ',.0f')"
        f" + ' tokens; this source needs ' + (datum.needed >= {largest} ?"
        " 'more than are drawn here' : format(datum.needed, ',.0f')) + '.'",
    )
    key = parts.legend(
        (BLUE, SOLID, "Bayes risk of the source"),
        (ORANGE, DASHED, "its upper bound"),
        (GREEN, SOLID, "window needed for ε"),
    )
    return parts.picture(bound, risk, level, rule, *key, reading, parameters=("alpha", "epsilon"))
