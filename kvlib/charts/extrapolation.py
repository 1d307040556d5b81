"""Extrapolation: laws fitted to short windows, and how they miss the long ones."""

from __future__ import annotations

import altair as alt
import pandas as pd

from kvlib.charts import parts
from kvlib.charts.controls import Choice, Explorer, Origin, Slider
from kvlib.charts.inks import BLUE, GREEN, GREY, ORANGE
from kvlib.charts.parts import DASHED, DOTTED, SOLID


def extrapolation(points: pd.DataFrame, rivals: pd.DataFrame, split: int) -> Explorer:
    """Two laws fitted to the windows up to a split that the reader moves; source and distance to
    choose.

    The tables as `extrapolation_chart` asks for; the slider stops at the splits of `rivals`.
    """
    splits = sorted(int(value) for value in rivals["split"].unique())
    sources = points[["source", "name"]].drop_duplicates()
    tokens = {"unit": "tokens", "scale": "log", "axis": "x"}
    return Explorer(
        extrapolation_chart(points, rivals),
        [
            Choice("source", "Model and text", list(sources.itertuples(index=False, name=None))),
            parts.distance_choice(parts.with_distance(points)),
            Slider("split", "Fit windows up to", values=splits, value=split, **tokens),
        ],
        "A power law and an exponential, fitted to short windows and drawn through the long ones",
        Origin(["sensitivity"], parts.NATS_OR_TV | {"window": "tokens", "split": "tokens"}),
    )


def extrapolation_chart(points: pd.DataFrame, rivals: pd.DataFrame) -> alt.LayerChart:
    """Two laws fitted to the windows up to `split`, drawn through the ones beyond it.

    `points` has one row a (source, distance, bin): `source`, `name`, `window`, `value` (mean KL, in
    nats, or TV), `weight`. `rivals` holds predictions (`source`, `split`, `window`, `value`) of a
    law that needs more than a regression. Without a column `distance` all are KL. Parameters:
    `source`, `distance`, `split`.
    """
    points, rivals = (parts.rounded(parts.with_distance(table)) for table in (points, rivals))
    chosen = "datum.source == source && datum.distance == distance"
    base = _fitted(alt.Chart(points).transform_filter(chosen))
    largest = 2 ** (int(points["window"].max()) - 1).bit_length()
    x_scale = parts.window_scale(largest)
    x = alt.X("window:Q", scale=x_scale, axis=parts.window_axis(largest))
    low, high = float(points["value"].min()) / 30, float(points["value"].max()) * 3
    scale = alt.Scale(type="log", domain=[low, high], clamp=True, nice=False)
    axis = parts.log_axis(parts.distance_title(points["distance"]), low, high)

    def y(field: str) -> alt.Y:
        return alt.Y(f"{field}:Q", scale=scale, axis=axis)

    power = base.mark_line(color=BLUE, strokeWidth=2).encode(x=x, y=y("power"))
    exponential = (
        base.transform_filter(f"datum.exponential >= {low}")
        .mark_line(color=ORANGE, strokeWidth=2, strokeDash=DASHED)
        .encode(x=x, y=y("exponential"))
    )
    rival = (
        alt.Chart(rivals)
        .transform_filter(f"{chosen} && datum.split == split")
        .mark_line(color=GREEN, strokeWidth=1.5, strokeDash=DOTTED)
        .encode(x=x, y=y("value"))
    )
    tooltip = [
        alt.Tooltip("window:Q", title="window", format=".0f"),
        alt.Tooltip("value:Q", title="measured", format=".3g"),
        alt.Tooltip("power:Q", title="power law", format=".3g"),
        alt.Tooltip("exponential:Q", title="exponential", format=".3g"),
    ]
    fitted, scored = (
        base.transform_filter(f"datum.far == {far}")
        .mark_point(color=BLUE, filled=not far, size=46, strokeWidth=1.6 * far, opacity=1)
        .encode(x=x, y=y("value"), tooltip=tooltip)
        for far in (0, 1)
    )
    cut = alt.Chart(pd.DataFrame({"at": [0]})).transform_calculate(split_at="split")
    rule = cut.mark_rule(color=GREY, strokeDash=DOTTED, strokeWidth=1.5)
    rule = parts.rule_for("split", rule.encode(x=alt.X("split_at:Q", scale=x_scale)))
    reading = parts.reading(
        base.transform_filter("datum.window == datum.LONGEST"),
        "datum.name + (datum.distance == 'KL' ? ', KL divergence in nats' : ', total variation')"
        " + (!isFinite(datum.power_error) ? ': no window beyond ' + format(split, ',d')"
        " + ' tokens was measured, so nothing can be predicted.'"
        " : ': fitted on windows up to ' + format(split, ',d') + ' tokens, the power law"
        " misses the longer ones by ' + format(datum.power_error, '.2f')"
        " + ' and the exponential by ' + format(datum.exponential_error, '.2f')"
        " + ' (typically, in the logarithm): a ratio of '"
        " + format(datum.exponential_error / datum.power_error, '.1f') + '.')",
    )
    both = points["distance"].nunique() > 1
    key = parts.legend(
        (BLUE, SOLID, "power law"),
        (ORANGE, DASHED, "exponential"),
        (GREEN, DOTTED, "finite context; for TV its root" if both else "power law, finite context"),
    )
    return parts.picture(
        *(rule, rival, exponential, power, fitted, scored, *key, reading),
        parameters=("source", "distance", "split"),
    )


def _fitted(base: alt.Chart) -> alt.Chart:
    """Both laws at every window, and `power_error` and `exponential_error` beyond the split.

    The power law and the exponential are weighted least squares of log value on log window and on
    window; sums and slopes are transforms of the chart, so that they move with the slider.
    """
    return (
        base.transform_calculate(
            y="log(datum.value)",
            lw="log(datum.window)",
            k="datum.window <= split ? datum.weight : 0",
            far="datum.window > split ? 1 : 0",
        )
        .transform_calculate(
            ky="datum.k * datum.y",
            kl="datum.k * datum.lw",
            kll="datum.k * datum.lw * datum.lw",
            kly="datum.k * datum.lw * datum.y",
            kw="datum.k * datum.window",
            kww="datum.k * datum.window * datum.window",
            kwy="datum.k * datum.window * datum.y",
        )
        .transform_joinaggregate(
            **{name.upper(): f"sum({name})" for name in ("k", "ky", "kl", "kll", "kly")},
            **{name.upper(): f"sum({name})" for name in ("kw", "kww", "kwy", "far")},
            LONGEST="max(window)",
        )
        .transform_calculate(
            power_slope="(datum.K * datum.KLY - datum.KL * datum.KY)"
            " / (datum.K * datum.KLL - datum.KL * datum.KL)",
            rate="(datum.K * datum.KWY - datum.KW * datum.KY)"
            " / (datum.K * datum.KWW - datum.KW * datum.KW)",
        )
        .transform_calculate(
            power_y="(datum.KY - datum.power_slope * datum.KL) / datum.K"
            " + datum.power_slope * datum.lw",
            exponential_y="(datum.KY - datum.rate * datum.KW) / datum.K"
            " + datum.rate * datum.window",
        )
        .transform_calculate(
            power="exp(datum.power_y)",
            exponential="exp(datum.exponential_y)",
            power_miss="datum.far * pow(datum.power_y - datum.y, 2)",
            exponential_miss="datum.far * pow(datum.exponential_y - datum.y, 2)",
        )
        .transform_joinaggregate(
            POWER_MISS="sum(power_miss)", EXPONENTIAL_MISS="sum(exponential_miss)"
        )
        .transform_calculate(
            power_error="sqrt(datum.POWER_MISS / datum.FAR)",
            exponential_error="sqrt(datum.EXPONENTIAL_MISS / datum.FAR)",
        )
    )
