"""A table or a plan of the reader's own: its curve, what to keep for a tolerance, and the budgets
that were certified. Works on any number of sizes and policies, with intervals or without.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import altair as alt
import pandas as pd

from kvlib.charts import parts
from kvlib.charts.compiled import moving_title
from kvlib.charts.controls import Choice, Explorer, Slider
from kvlib.charts.inks import GREY, KEPT, LOST, MUTED
from kvlib.charts.parts import DASHED, DOTTED, SOLID

PICKED = "datum.series == series && datum.metric == metric"
LOWEST, HIGHEST = 1e-6, 1e6  # of an axis of losses


def curve(
    rows: pd.DataFrame, metrics: dict[str, str], size: tuple[str, str, str], first: str = ""
) -> Explorer:
    """Loss against the size kept; policy, metric and size to choose.

    `rows` has one row a (series, metric, size): `series, metric, size, mean, low, high` (empty
    where there is no interval), `fit` (empty where there is no law) and `sentence`. `metrics`: key
    → title of those there are. `size`: what it is called, its unit in the plural, the axis's title.
    `first` is the series that comes up first; empty for the first of the rows.
    """
    label, unit, title = size
    series, sizes = _different(rows["series"]), sorted(set(rows["size"].tolist()))
    rows = parts.with_gaps(
        rows,
        lambda one, _, count: f"{one}: {count:,} {unit} were not measured.",
        series=series,
        metric=list(metrics),
        size=sizes,
    )
    middle = sizes[(len(sizes) - 1) // 2]
    return Explorer(
        curve_chart(rows, metrics, title),
        [*_choices(series, metrics, first), _size(label, unit, sizes, middle)],
        f"Loss against the {label.lower()}, with what was chosen read out",
    )


def curve_chart(rows: pd.DataFrame, metrics: dict[str, str], title: str) -> alt.LayerChart:
    """The measured means with their bands, a fitted law, and the size that was chosen.

    Parameters: `series`, `metric`, `size`.
    """
    base = alt.Chart(parts.rounded(rows))
    drawn = base.transform_filter("isValid(datum.mean) && datum.mean > 0")
    axes = _axes(rows, metrics, title)
    x, y = axes.x("size"), axes.y("mean")
    others = parts.named_lines(
        drawn.transform_filter("datum.metric == metric").encode(x=x, y=y, detail="series:N"),
        "datum.series",
    )
    layers = [*others, *_measured(drawn.transform_filter(PICKED), axes)]
    law = bool(rows["fit"].notna().any())
    if law:
        fitted = drawn.transform_filter(PICKED).transform_filter("isValid(datum.fit)")
        layers.append(
            fitted.mark_line(color=MUTED, strokeDash=DASHED, strokeWidth=2, clip=True).encode(
                x=x, y=alt.Y("fit:Q", title="", scale=axes.y_scale)
            )
        )
    here = base.transform_filter(f"{PICKED} && datum.size == size")
    rule = here.mark_rule(color=KEPT, strokeDash=DOTTED, strokeWidth=1.5).encode(x=x)
    rule = parts.rule_for("size", rule)
    dot = here.transform_filter("isValid(datum.mean) && datum.mean > 0").mark_point(
        color=LOST, size=110, filled=True, opacity=1, shape="diamond"
    )
    key = [(LOST, SOLID, _solid_line(rows))]
    key += [(MUTED, DASHED, "fitted power law, finite context")] * law
    key += [(GREY, SOLID, "other policies")] * (rows["series"].nunique() > 1)
    return parts.picture(
        *(*layers, rule, dot.encode(x=x, y=y), *parts.legend(*key), parts.reading(here)),
        parameters=("series", "metric", "size"),
    )


def _solid_line(rows: pd.DataFrame) -> str:
    """What the solid line is, and its band, where there is one."""
    return "mean over documents" + ", 95% band" * bool(rows["low"].notna().any())


def keeping(
    rows: pd.DataFrame,
    answers: pd.DataFrame,
    metrics: dict[str, str],
    title: str,
    epsilon: float,
    first: str = "",
) -> Explorer:
    """What to keep for ε; policy, metric and ε to choose.

    `rows` as in `curve`; `answers` has one row a (series, metric, epsilon): `least`, the size to
    keep, empty where none does, and `sentence`.
    """
    series, values = _different(rows["series"]), sorted(set(answers["epsilon"].tolist()))
    tolerance = {"unit": "" if len(metrics) > 1 else _unit(metrics), "scale": "log", "axis": "y"}
    return Explorer(
        keeping_chart(rows, answers, metrics, title),
        [
            *_choices(series, metrics, first),
            Slider("epsilon", "Loss allowed, ε", values=values, value=epsilon, **tolerance),
        ],
        "What to keep for a loss that is allowed",
    )


def keeping_chart(
    rows: pd.DataFrame, answers: pd.DataFrame, metrics: dict[str, str], title: str
) -> alt.LayerChart:
    """The measured means, the loss that is allowed, and the least size that keeps it.

    Parameters: `series`, `metric`, `epsilon`.
    """
    base = alt.Chart(parts.rounded(rows)).transform_filter(PICKED)
    drawn = base.transform_filter("isValid(datum.mean) && datum.mean > 0")
    axes = _axes(rows, metrics, title)
    x = axes.x("size")
    level = parts.rule_for(
        "epsilon",
        drawn.transform_calculate(level="epsilon")
        .mark_line(color=LOST, strokeDash=DOTTED, strokeWidth=2, clip=True)
        .encode(x=x, y=alt.Y("level:Q", title="", scale=axes.y_scale)),
    )
    answer = alt.Chart(answers).transform_filter(f"{PICKED} && datum.epsilon == epsilon")
    rule = (
        answer.transform_filter("isValid(datum.least)")
        .mark_rule(color=KEPT, strokeWidth=2.5)
        .encode(x=axes.x("least"))
    )
    key = parts.legend(
        (LOST, SOLID, _solid_line(rows)),
        (LOST, DOTTED, "loss allowed, ε"),
        (KEPT, SOLID, "least that keeps it"),
    )
    return parts.picture(
        *(*_measured(drawn, axes), level, rule, *key, parts.reading(answer)),
        parameters=("series", "metric", "epsilon"),
    )


def certified(rows: pd.DataFrame, epsilon: float, metric: str, budget: int) -> Explorer:
    """The budgets that were tried on documents no choice had seen: their means and upper bounds.

    `rows` has one row a budget: `size, mean, bound`, `passed` (a word) and `sentence`; `metric` is
    the title of the loss, `budget` comes up first.
    """
    sizes = sorted(set(rows["size"].tolist()))
    control = _size("Budget", "entries", sizes, budget if budget in sizes else sizes[-1])
    return Explorer(
        certified_chart(rows, epsilon, metric),
        [control],
        "The loss of each budget that was tried, and its upper bound beside the loss allowed",
    )


def certified_chart(rows: pd.DataFrame, epsilon: float, metric: str) -> alt.LayerChart:
    """Means, upper bounds, and ε. Parameter: `size`."""
    base = alt.Chart(parts.rounded(rows.assign(level=epsilon)))
    every = pd.concat([rows["mean"], rows["bound"], pd.Series([epsilon])])
    titled = {"loss": metric}
    axes = _axes(
        rows.assign(low=epsilon, high=every.max()), titled, "budget (entries a query sees)"
    )
    x, at = axes.x("size"), axes.y

    above = base.transform_filter("datum.mean > 0")
    gap = above.mark_rule(color=LOST, strokeWidth=3, opacity=0.35).encode(
        x=x, y=at("mean"), y2="bound:Q"
    )
    mean = above.mark_point(color=LOST, filled=True, size=70, opacity=1).encode(x=x, y=at("mean"))
    told = [
        alt.Tooltip("size:Q", title="budget"),
        alt.Tooltip("mean:Q", format=".3g"),
        alt.Tooltip("bound:Q", title="at most", format=".3g"),
        alt.Tooltip("passed:N", title="verdict"),
    ]
    bound = base.mark_tick(color=LOST, thickness=3, size=22, orient="horizontal").encode(
        x=x, y=at("bound"), tooltip=told
    )
    level = base.mark_rule(color=LOST, strokeDash=DOTTED, strokeWidth=2).encode(y=at("level"))
    here = base.transform_filter("datum.size == size")
    rule = here.mark_rule(color=KEPT, strokeWidth=2.5, opacity=0.8).encode(x=x)
    rule = parts.rule_for("size", rule)
    key = parts.legend(
        (LOST, SOLID, "mean, and its upper bound"),
        (LOST, DOTTED, "loss allowed, ε"),
        (KEPT, SOLID, "budget chosen"),
    )
    return parts.picture(
        *(rule, level, gap, mean, bound, *key, parts.reading(here)), parameters=("size",)
    )


# --- parts ----------------------------------------------------------------------------------------


def _choices(series: Sequence[str], metrics: dict[str, str], first: str) -> list[Choice]:
    """A choice of what was run and of how loss is counted; what there is one of is not shown."""
    return [
        Choice("series", "Policy", [(one, one) for one in series], value=first or None),
        Choice("metric", "Loss", list(metrics.items())),
    ]


def _size(label: str, unit: str, sizes: Sequence[int], value: int) -> Slider | Choice:
    """A slider over the sizes; one size alone is no choice."""
    if len(sizes) < 2:
        return Choice("size", label, [(size, f"{size:,} {unit}") for size in sizes])
    return Slider("size", label, values=sizes, value=value, unit=unit, scale="log", axis="x")


def _unit(metrics: dict[str, str]) -> str:
    return "nats" if "kl" in metrics else ""


def _different(column: pd.Series) -> list[str]:
    return list(dict.fromkeys(column))


class _Axes(NamedTuple):
    """The scales and axes of a picture, for whatever is drawn in it."""

    x_scale: alt.Scale
    x_axis: alt.Axis
    y_scale: alt.Scale
    y_axis: alt.Axis

    def x(self, field: str) -> alt.X:
        return alt.X(f"{field}:Q", scale=self.x_scale, axis=self.x_axis)

    def y(self, field: str) -> alt.Y:
        return alt.Y(f"{field}:Q", scale=self.y_scale, axis=self.y_axis)


def _axes(rows: pd.DataFrame, metrics: dict[str, str], title: str) -> _Axes:
    """Both axes are logarithmic; few sizes are labelled each, many at the powers of two."""
    sizes = sorted(set(rows["size"].tolist()))
    low, high = sizes[0], sizes[-1]
    ticks = (
        sizes if len(sizes) <= 8 else [2**k for k in range(int(high).bit_length()) if 2**k >= low]
    )
    ends = [low / 1.3, high * 1.3] if len(sizes) <= 8 else [low, high]
    x_scale = alt.Scale(type="log", base=2, domain=ends, nice=False)
    x_axis = alt.Axis(title=title, values=ticks, format=",d", labelOverlap=True)
    values = pd.concat([rows[name] for name in ("mean", "low", "high")]).astype(float).dropna()
    values = values[values > 0]
    reach = (values.min(), values.max()) if len(values) else (0.1, 1.0)
    reach = max(reach[0] / 1.4, LOWEST), min(max(reach[1] * 1.4, 2 * LOWEST), HIGHEST)
    scale = alt.Scale(type="log", domain=list(reach), clamp=True, nice=False)
    names = {key: name + " (nats)" * (key == "kl") for key, name in metrics.items()}
    return _Axes(x_scale, x_axis, scale, parts.log_axis(moving_title(names, "metric"), *reach))


def _measured(base: alt.Chart, axes: _Axes) -> list[alt.Chart]:
    """The band and the means of what was chosen."""
    x, y = axes.x("size"), axes.y("mean")
    band = (
        base.transform_filter("isValid(datum.low)")
        .mark_area(color=LOST, opacity=0.2)
        .encode(x=x, y=alt.Y("low:Q", title="", scale=axes.y_scale), y2="high:Q")
    )
    line = base.mark_line(
        color=LOST, strokeWidth=2, point=alt.OverlayMarkDef(size=40, color=LOST)
    ).encode(x=x, y=y, tooltip=[alt.Tooltip("size:Q", title="kept"), *parts.mean_told()])
    return [band, line]
