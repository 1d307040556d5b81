"""Sensitivity: what is lost when only the last tokens are kept, and two ways to forget."""

from __future__ import annotations

import altair as alt
import pandas as pd

from kvlib.charts import parts
from kvlib.charts.controls import Choice, Explorer, Slider
from kvlib.charts.inks import BLUE, GREEN, GREY, ORANGE
from kvlib.charts.parts import DASHED, DOTTED, SOLID, lookup, number


def sensitivity(curves: pd.DataFrame, window: int = 128) -> Explorer:
    """Divergence against the window kept; model, text, divergence and window to choose.

    `curves` is what `kvlib.fit.summaries` returns; the first model and corpus come up first.
    """
    longest = int(curves["last"].max())
    tokens = {"unit": "tokens", "scale": "log"}
    return Explorer(
        sensitivity_chart(curves),
        [
            Choice("model", "Model", parts.options_of(curves["model"])),
            Choice("corpus", "Text", parts.options_of(curves["corpus"])),
            Choice("divergence", "Distance", parts.options_of(curves["divergence"])),
            Slider("window", "Window kept", 1, longest, value=window, **tokens),
        ],
        "How far the next-token law given the last tokens alone is from the law given all of them",
    )


def sensitivity_chart(curves: pd.DataFrame) -> alt.LayerChart:
    """Mean divergence against the window kept, with its 95% band and the fitted law.

    `curves` has one row a (model, corpus, divergence, bin): `window` (geometric mean of the bin),
    `first` and `last` (its windows), `mean`, `low`, `high`, `fit`, `n_documents`.
    Parameters: `model`, `corpus`, `divergence`, `window`.
    """
    curves = parts.rounded(curves)
    same = "datum.divergence == divergence"
    picked = f"{same} && datum.model == model && datum.corpus == corpus"
    here = f"{picked} && datum.first <= window && window <= datum.last"
    largest = float(curves["last"].max())
    base = alt.Chart(curves)
    x = alt.X("window:Q", scale=parts.window_scale(largest), axis=parts.window_axis(largest))
    several = curves["divergence"].nunique() > 1
    title = "mean KL (nats) or total variation" if several else "mean KL (nats)"
    y = alt.Y(
        "mean:Q",
        scale=alt.Scale(type="log", nice=False),
        axis=parts.log_axis(title),
    )
    others = (
        base.transform_filter(same)
        .mark_line(color=GREY, opacity=0.35, strokeWidth=1.5)
        .encode(x=x, y=y, detail=["model:N", "corpus:N"])
    )
    band = (
        base.transform_filter(picked)
        .mark_area(color=BLUE, opacity=0.2)
        .encode(x=x, y=alt.Y("low:Q", title=""), y2="high:Q")
    )
    law = (
        base.transform_filter(picked)
        .mark_line(color=ORANGE, strokeDash=DASHED, strokeWidth=2)
        .encode(x=x, y=alt.Y("fit:Q", title=""))
    )
    measured = (
        base.transform_filter(picked)
        .mark_line(color=BLUE, strokeWidth=2, point=alt.OverlayMarkDef(size=22, color=BLUE))
        .encode(
            x=x,
            y=y,
            tooltip=[
                alt.Tooltip("first:Q", title="windows from"),
                alt.Tooltip("last:Q", title="to"),
                alt.Tooltip("mean:Q", title="mean", format=".3g"),
                alt.Tooltip("low:Q", title="95% from", format=".3g"),
                alt.Tooltip("high:Q", title="to", format=".3g"),
            ],
        )
    )
    reader = base.transform_filter(here)
    rule = (
        reader.transform_calculate(at="window")
        .mark_rule(color=GREEN, strokeDash=DOTTED, strokeWidth=1.5)
        .encode(x=alt.X("at:Q", scale=parts.window_scale(largest)))
    )
    point = reader.mark_point(color=GREEN, size=110, filled=True, shape="diamond").encode(x=x, y=y)
    reading = parts.reading(
        reader,
        "'With its last ' + window + (window == 1 ? ' token' : ' tokens')"
        f" + ' alone, ' + {lookup('datum.model')} + ' on ' + {lookup('datum.corpus')}"
        f" + ' is ' + {number('datum.mean')}"
        " + (divergence == 'tv' ? ' in total variation' : ' nats')"
        f" + ' from its full-context law (95% interval ' + {number('datum.low')}"
        f" + ' to ' + {number('datum.high')} + ', ' + datum.n_documents + ' documents).'",
    )
    key = parts.legend(
        (BLUE, SOLID, "measured, with 95% band"),
        (ORANGE, DASHED, "fitted power law, finite context"),
        (GREY, SOLID, "other models and texts"),
    )
    return parts.picture(
        *(others, band, law, measured, rule, point, *key, reading),
        parameters=("model", "corpus", "divergence", "window"),
    )


def two_ways_to_forget(alpha: float = 0.5, ratio: float = 0.9) -> Explorer:
    """A power law beside a geometric one; the exponent and the ratio to choose."""
    return Explorer(
        two_ways_to_forget_chart(),
        [
            Slider("alpha", "Exponent α of the power law", 0.1, 2, 0.05, value=alpha),
            Slider("ratio", "Share kept by the geometric law", 0.5, 0.99, 0.01, value=ratio),
        ],
        "The share of questions missed when only so many sentences are kept, for two laws",
    )


def two_ways_to_forget_chart(largest: int = 1024) -> alt.LayerChart:
    """A power law (1+w)^-alpha and a geometric law ratio^w, on logarithmic axes.

    Parameters: `alpha` and `ratio`.
    """
    windows = pd.DataFrame({"window": [2 ** (k / 8) for k in range(8 * largest.bit_length() - 7)]})
    base = alt.Chart(windows).transform_calculate(
        power="pow(1 + datum.window, -alpha)", geometric="pow(ratio, datum.window)"
    )
    x = alt.X(
        "window:Q",
        scale=parts.window_scale(largest),
        axis=parts.window_axis(largest, "sentences kept"),
    )
    scale = alt.Scale(type="log", domain=[1e-4, 1], clamp=True, nice=False)
    axis = alt.Axis(title="share of questions missed", format="~g", tickCount=4)

    def y(field: str) -> alt.Y:
        return alt.Y(f"{field}:Q", scale=scale, axis=axis)

    power = base.mark_line(color=BLUE, strokeWidth=2).encode(x=x, y=y("power"))
    geometric = (
        base.transform_filter("datum.geometric >= 1e-4")
        .mark_line(color=ORANGE, strokeWidth=2, strokeDash=DASHED)
        .encode(x=x, y=y("geometric"))
    )
    reading = parts.reading(
        alt.Chart(pd.DataFrame({"at": [100]})),
        "'A hundred sentences back, the power law still misses '"
        f" + {number('100 * pow(1 + datum.at, -alpha)', '.2~g')} + '% of the questions,'"
        f" + ' and the geometric law ' + {number('100 * pow(ratio, datum.at)', '.2~g')} + '%.'",
    )
    key = parts.legend((BLUE, SOLID, "power law"), (ORANGE, DASHED, "geometric law"))
    return parts.picture(power, geometric, *key, reading, parameters=("alpha", "ratio"))
