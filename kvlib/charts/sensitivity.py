"""One function a figure: a table in, an Altair chart out. Nothing is estimated here.

Each chart names its parameters; `kvlib.explorers` binds sliders and lists to them. What the laws
of the extrapolation chart need is arithmetic inside the chart itself, so that it refits wherever
it is drawn, with or without Python.
"""

from __future__ import annotations

import altair as alt
import pandas as pd

from kvlib.charts.controls import Choice, Explorer, Slider
from kvlib.charts.parts import (
    BLUE,
    GREEN,
    GREY,
    HEIGHT,
    ORANGE,
    legend,
    log_axis,
    lookup,
    options_of,
    rounded,
    window_axis,
    window_scale,
)


def sensitivity_chart(curves: pd.DataFrame, model: str, corpus: str, window: int) -> alt.LayerChart:
    """Mean divergence against the window kept, with its 95% band and the fitted law.

    `curves` has one row a (model, corpus, divergence, bin): `window` (geometric mean of the bin),
    `first` and `last` (its windows), `mean`, `low`, `high`, `fit`, `n_documents`.
    Parameters: `model`, `corpus`, `divergence`, `window`.
    """
    curves = rounded(curves)
    chosen = [
        alt.param("model", value=model),
        alt.param("corpus", value=corpus),
        alt.param("divergence", value="kl_nats"),
        alt.param("window", value=window),
    ]
    same = "datum.divergence == divergence"
    picked = f"{same} && datum.model == model && datum.corpus == corpus"
    here = f"{picked} && datum.first <= window && window <= datum.last"
    largest = float(curves["last"].max())
    base = alt.Chart(curves)
    x = alt.X("window:Q", scale=window_scale(largest), axis=window_axis(largest))
    several = curves["divergence"].nunique() > 1
    title = "mean KL (nats) or total variation" if several else "mean KL (nats)"
    y = alt.Y(
        "mean:Q",
        scale=alt.Scale(type="log", nice=False),
        axis=log_axis(title),
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
        .mark_line(color=ORANGE, strokeDash=[6, 4], strokeWidth=2)
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
        .mark_rule(color=GREEN, strokeDash=[2, 3], strokeWidth=1.5)
        .encode(x=alt.X("at:Q", scale=window_scale(largest)))
    )
    point = reader.mark_point(color=GREEN, size=110, filled=True, shape="diamond").encode(x=x, y=y)
    reading = (
        reader.transform_calculate(
            sentence="'With its last ' + window + (window == 1 ? ' token' : ' tokens')"
            f" + ' alone, ' + {lookup('datum.model')} + ' on ' + {lookup('datum.corpus')}"
            " + ' is ' + format(datum.mean, '.3~g')"
            " + (divergence == 'tv' ? ' in total variation' : ' nats')"
            " + ' from its full-context law (95% interval '"
            " + format(datum.low, '.3~g') + ' to ' + format(datum.high, '.3~g')"
            " + ', ' + datum.n_documents + ' documents).'"
        )
        .mark_text(align="left", baseline="top", dy=-26, limit=0)
        .encode(text="sentence:N", x=alt.value(0), y=alt.value(0))
    )
    reading = reading.properties(name="reading")
    key = legend(
        (BLUE, [1, 0], "measured, with 95% band"),
        (ORANGE, [6, 4], "fitted power law, finite context"),
        (GREY, [1, 0], "other models and texts"),
    )
    return (
        alt.layer(others, band, law, measured, rule, point, *key, reading)
        .add_params(*chosen)
        .properties(width="container", height=HEIGHT)
    )


def two_ways_chart(largest: int = 1024) -> alt.LayerChart:
    """A power law (1+w)^-alpha and a geometric law ratio^w, on logarithmic axes.

    Parameters: `alpha` and `ratio`.
    """
    windows = pd.DataFrame({"window": [2 ** (k / 8) for k in range(8 * largest.bit_length() - 7)]})
    base = alt.Chart(windows).transform_calculate(
        power="pow(1 + datum.window, -alpha)", geometric="pow(ratio, datum.window)"
    )
    x = alt.X(
        "window:Q",
        scale=window_scale(largest),
        axis=window_axis(largest, "sentences kept"),
    )
    scale = alt.Scale(type="log", domain=[1e-4, 1], clamp=True, nice=False)
    axis = alt.Axis(title="share of questions missed", format="~g", tickCount=4)

    def y(field: str) -> alt.Y:
        return alt.Y(f"{field}:Q", scale=scale, axis=axis)

    power = base.mark_line(color=BLUE, strokeWidth=2).encode(x=x, y=y("power"))
    geometric = (
        base.transform_filter("datum.geometric >= 1e-4")
        .mark_line(color=ORANGE, strokeWidth=2, strokeDash=[6, 4])
        .encode(x=x, y=y("geometric"))
    )
    reading = (
        alt.Chart(pd.DataFrame({"at": [100]}))
        .transform_calculate(
            sentence="'A hundred sentences back, the power law still misses '"
            " + format(100 * pow(1 + datum.at, -alpha), '.2~g') + '% of the questions,'"
            " + ' and the geometric law ' + format(100 * pow(ratio, datum.at), '.2~g') + '%.'"
        )
        .mark_text(align="left", baseline="top", dy=-26, limit=0)
        .encode(text="sentence:N", x=alt.value(0), y=alt.value(0))
        .properties(name="reading")
    )
    key = legend((BLUE, [1, 0], "power law"), (ORANGE, [6, 4], "geometric law"))
    return (
        alt.layer(power, geometric, *key, reading)
        .add_params(alt.param("alpha", value=0.5), alt.param("ratio", value=0.9))
        .properties(width="container", height=HEIGHT)
    )


def two_ways_to_forget(alpha: float, ratio: float) -> Explorer:
    """A power law beside a geometric one; the exponent and the ratio to choose."""
    return Explorer(
        two_ways_chart(),
        [
            Slider("alpha", "Exponent α of the power law", 0.1, 2, 0.05, value=alpha),
            Slider("ratio", "Share kept by the geometric law", 0.5, 0.99, 0.01, value=ratio),
        ],
        "The share of questions missed when only so many sentences are kept, for two laws",
    )


def sensitivity(curves: pd.DataFrame, window: int = 128) -> Explorer:
    """Divergence against the window kept; model, text, divergence and window to choose.

    `curves` is what `kvlib.fit.summaries` returns; the first model and corpus come up first. With a
    single divergence there is none to choose.
    """
    model, corpus = curves["model"].iloc[0], curves["corpus"].iloc[0]
    distances = options_of(curves["divergence"])
    return Explorer(
        sensitivity_chart(curves, model, corpus, window),
        [
            Choice("model", "Model", options_of(curves["model"])),
            Choice("corpus", "Text", options_of(curves["corpus"])),
            *([Choice("divergence", "Distance", distances)] if len(distances) > 1 else []),
            Slider(
                "window",
                "Window kept",
                1,
                int(curves["last"].max()),
                value=window,
                scale="log",
                unit="tokens",
            ),
        ],
        "How far the next-token law given the last tokens alone is from the law given all of them",
    )
