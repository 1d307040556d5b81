"""One function a figure: a table in, an Altair chart out. Nothing is estimated here.

Each chart names its parameters; `kvlib.explorers` binds sliders and lists to them. What the laws
of the extrapolation chart need is arithmetic inside the chart itself, so that it refits wherever
it is drawn, with or without Python.
"""

from __future__ import annotations

import math

import altair as alt
import pandas as pd

# Okabe and Ito's colours, told apart also by colour-blind readers; dashes repeat the distinction
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#8A8A8A"

NAMES = {
    "smollm2-135m-instruct": "SmolLM2-135M-Instruct",
    "gemma3-270m": "Gemma-3-270M",
    "small-gpt2": "the small GPT-2",
    "world-english-bible": "World English Bible",
    "scipy-docs": "SciPy's docstrings",
    "sympy-code": "SymPy's source",
    "kl_nats": "KL divergence (nats)",
    "tv": "total variation",
}

HEIGHT = 340


def name_of(key: str) -> str:
    """How a model, corpus or divergence is called in a picture or a sentence."""
    return NAMES.get(key, key)


def _window_scale(largest: float) -> alt.Scale:
    return alt.Scale(type="log", base=2, domain=[1, largest], nice=False)


def sensitivity(curves: pd.DataFrame, model: str, corpus: str, window: int) -> alt.LayerChart:
    """Mean divergence against the window kept, with its 95% band and the fitted law.

    `curves` has one row a (model, corpus, divergence, bin): `window` (geometric mean of the bin),
    `first` and `last` (its windows), `mean`, `low`, `high`, `fit`, `n_documents`.
    Parameters: `model`, `corpus`, `divergence`, `window`.
    """
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
    x = alt.X("window:Q", scale=_window_scale(largest), axis=_window_axis(largest))
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
        .encode(x=alt.X("at:Q", scale=_window_scale(largest)))
    )
    point = reader.mark_point(color=GREEN, size=110, filled=True, shape="diamond").encode(x=x, y=y)
    reading = (
        reader.transform_calculate(
            sentence="'With its last ' + window + (window == 1 ? ' token' : ' tokens')"
            f" + ' alone, ' + {_lookup('datum.model')} + ' on ' + {_lookup('datum.corpus')}"
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


def extrapolation(
    points: pd.DataFrame, rivals: pd.DataFrame, source: str, split: int
) -> alt.LayerChart:
    """Two laws fitted to the windows up to `split`, drawn through the ones beyond it.

    `points` has one row a (source, bin): `source`, `name`, `window`, `value` (mean KL), `weight`.
    The power law and the exponential are weighted least squares of log value on log window and
    on window; sums and slopes are transforms of the chart, so that they move with the slider.
    `rivals` holds predictions (`source`, `split`, `window`, `value`) of a law that needs more than
    a regression. Parameters: `source`, `split`.
    """
    base = (
        alt.Chart(points)
        .transform_filter("datum.source == source")
        .transform_calculate(
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
    low, high = float(points["value"].min()) / 30, float(points["value"].max()) * 3
    x = alt.X("window:Q", scale=_window_scale(1024), axis=_window_axis(1024))
    scale = alt.Scale(type="log", domain=[low, high], clamp=True, nice=False)
    axis = log_axis("mean KL (nats)", low, high)

    def y(field: str) -> alt.Y:
        return alt.Y(f"{field}:Q", scale=scale, axis=axis)

    power = base.mark_line(color=BLUE, strokeWidth=2).encode(x=x, y=y("power"))
    exponential = (
        base.transform_filter(f"datum.exponential >= {low}")
        .mark_line(color=ORANGE, strokeWidth=2, strokeDash=[6, 4])
        .encode(x=x, y=y("exponential"))
    )
    rival = (
        alt.Chart(rivals)
        .transform_filter("datum.source == source && datum.split == split")
        .mark_line(color=GREEN, strokeWidth=1.5, strokeDash=[2, 3])
        .encode(x=x, y=y("value"))
    )
    tooltip = [
        alt.Tooltip("window:Q", title="window", format=".0f"),
        alt.Tooltip("value:Q", title="measured (nats)", format=".3g"),
        alt.Tooltip("power:Q", title="power law", format=".3g"),
        alt.Tooltip("exponential:Q", title="exponential", format=".3g"),
    ]
    fitted = (
        base.transform_filter("datum.far == 0")
        .mark_point(color=BLUE, filled=True, size=46, opacity=1)
        .encode(x=x, y=y("value"), tooltip=tooltip)
    )
    scored = (
        base.transform_filter("datum.far == 1")
        .mark_point(color=BLUE, filled=False, size=46, strokeWidth=1.6, opacity=1)
        .encode(x=x, y=y("value"), tooltip=tooltip)
    )
    once = base.transform_filter("datum.window == datum.LONGEST")
    cut = alt.Chart(pd.DataFrame({"at": [0]})).transform_calculate(split_at="split")
    rule = cut.mark_rule(color=GREY, strokeDash=[2, 3], strokeWidth=1.5).encode(
        x=alt.X("split_at:Q", scale=_window_scale(1024))
    )
    reading = (
        once.transform_calculate(
            sentence="datum.name + ': fitted on windows up to ' + split + ' tokens, the power law"
            " misses the longer ones by ' + format(datum.power_error, '.2f')"
            " + ' and the exponential by ' + format(datum.exponential_error, '.2f')"
            " + ' (RMSE of log KL): a ratio of '"
            " + format(datum.exponential_error / datum.power_error, '.1f') + '.'"
        )
        .mark_text(align="left", baseline="top", dy=-26, limit=0)
        .encode(text="sentence:N", x=alt.value(0), y=alt.value(0))
        .properties(name="reading")
    )
    key = legend(
        (BLUE, [1, 0], "power law"),
        (ORANGE, [6, 4], "exponential"),
        (GREEN, [2, 3], "power law, finite context"),
    )
    return (
        alt.layer(rule, rival, exponential, power, fitted, scored, *key, reading)
        .add_params(alt.param("source", value=source), alt.param("split", value=split))
        .properties(width="container", height=HEIGHT)
    )


def two_ways_to_forget(largest: int = 1024) -> alt.LayerChart:
    """A power law (1+w)^-alpha and a geometric law ratio^w, on logarithmic axes.

    Parameters: `alpha` and `ratio`.
    """
    windows = pd.DataFrame({"window": [2 ** (k / 8) for k in range(8 * largest.bit_length() - 7)]})
    base = alt.Chart(windows).transform_calculate(
        power="pow(1 + datum.window, -alpha)", geometric="pow(ratio, datum.window)"
    )
    x = alt.X(
        "window:Q",
        scale=_window_scale(largest),
        axis=_window_axis(largest, "sentences kept"),
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


def _window_axis(largest: float, title: str = "window kept (tokens)") -> alt.Axis:
    ticks = [2**k for k in range(0, int(largest).bit_length())]
    return alt.Axis(title=title, values=ticks, format="d", labelOverlap=True)


def log_axis(title: str, low: float = 0, high: float = math.inf) -> alt.Axis:
    """A logarithmic axis that is labelled at 1, 2 and 5 of each power of ten.

    Give the ends of a scale that clamps: it would draw the labels beyond them at its edges.
    """
    every = [float(f"{m}e{k}") for k in range(-6, 4) for m in (1, 2, 5)]
    ticks = [tick for tick in every if low <= tick <= high]
    return alt.Axis(title=title, format="~g", values=ticks, labelOverlap="greedy")


def legend(*entries: tuple[str, list[int], str]) -> list[alt.Chart]:
    """Lines and their names, below the horizontal axis, where nothing crosses them."""
    layers = []
    for k, (color, dash, text) in enumerate(entries):
        y = alt.value(HEIGHT + 56 + 18 * k)
        one = alt.Chart(pd.DataFrame({"text": [text]}))
        layers += [
            one.mark_rule(color=color, strokeDash=dash, strokeWidth=2).encode(
                x=alt.value(10), x2=alt.value(34), y=y
            ),
            one.mark_text(align="left", baseline="middle", fontSize=12).encode(
                x=alt.value(40), y=y, text="text:N"
            ),
        ]
    return layers


def _lookup(expression: str) -> str:
    """A Vega expression that turns a key into its name."""
    pairs = ", ".join(f'"{key}": "{name}"' for key, name in NAMES.items())
    return "({" + pairs + "}[" + expression + "] || " + expression + ")"
