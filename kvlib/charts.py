"""One function a figure: a table in, an Altair chart out. Nothing is estimated here.

Each chart names its parameters; `kvlib.explorers` binds sliders and lists to them. What the laws
of the extrapolation chart need is arithmetic inside the chart itself, so that it refits wherever
it is drawn, with or without Python.
"""

from __future__ import annotations

import altair as alt
import pandas as pd

# Okabe and Ito's colours, told apart also by colour-blind readers; dashes repeat the distinction
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#8A8A8A"

NAMES = {
    "smollm2-135m-instruct": "SmolLM2-135M-Instruct",
    "gemma3-270m": "Gemma-3-270M",
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


def _log_axis(title: str) -> alt.Axis:
    """An axis with a label at each power of ten only."""
    return alt.Axis(title=title, labelOverlap=True, grid=True)


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
    y = alt.Y(
        "mean:Q",
        scale=alt.Scale(type="log", nice=False),
        axis=alt.Axis(title="distance from the full-context law", format="~g", tickCount=6),
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
    rule = reader.mark_rule(color=GREEN, strokeDash=[2, 3], strokeWidth=1.5).encode(x=x)
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
    labels = [
        _label(
            base, f"{picked} && datum.last == {int(largest)}", "'measured'", BLUE, "mean", 14, x
        ),
        _label(base, f"{picked} && datum.first == 2", "'fitted power law'", ORANGE, "fit", -14, x),
    ]
    return (
        alt.layer(others, band, law, measured, rule, point, *labels, reading)
        .add_params(*chosen)
        .properties(width="container", height=HEIGHT)
    )


def extrapolation(
    points: pd.DataFrame, rivals: pd.DataFrame, source: str, split: int
) -> alt.LayerChart:
    """Two laws fitted to the windows up to `split`, drawn through the ones beyond it.

    `points` has one row a (source, bin): `source`, `window`, `value` (mean KL), `weight`.
    The power law and the exponential are weighted least squares of log value on log window and
    on window; sums and slopes are transforms of the chart, so that they move with the slider.
    `rivals` holds predictions (`source`, `split`, `law`, `window`, `value`) of laws that need more
    than a regression. Parameters: `source`, `split`.
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
    largest = float(points["window"].max())
    low, high = float(points["value"].min()) / 30, float(points["value"].max()) * 3
    x = alt.X("window:Q", scale=_window_scale(1024), axis=_window_axis(1024))
    scale = alt.Scale(type="log", domain=[low, high], clamp=True, nice=False)
    axis = alt.Axis(title="mean KL divergence (nats)", format="~g", tickCount=6)

    def y(field: str) -> alt.Y:
        return alt.Y(f"{field}:Q", scale=scale, axis=axis)

    power = base.mark_line(color=BLUE, strokeWidth=2).encode(x=x, y=y("power"))
    exponential = base.mark_line(color=ORANGE, strokeWidth=2, strokeDash=[6, 4]).encode(
        x=x, y=y("exponential")
    )
    rival = (
        alt.Chart(rivals)
        .transform_filter("datum.source == source && datum.split == split")
        .mark_line(color=GREEN, strokeWidth=1.5, strokeDash=[2, 3])
        .encode(x=x, y=y("value"), detail="law:N")
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
    once = base.transform_filter(f"datum.window == {largest}")
    cut = alt.Chart(pd.DataFrame({"at": [0]})).transform_calculate(split_at="split")
    rule = cut.mark_rule(color=GREY, strokeDash=[2, 3], strokeWidth=1.5).encode(
        x=alt.X("split_at:Q", scale=_window_scale(1024))
    )
    reading = (
        once.transform_calculate(
            sentence="'Fitted on windows up to ' + split + ', the power law misses the longer ones"
            " by ' + format(datum.power_error, '.2f') + ' and the exponential by '"
            " + format(datum.exponential_error, '.2f') + ' (RMSE of log KL): a ratio of '"
            " + format(datum.exponential_error / datum.power_error, '.1f') + '.'"
        )
        .mark_text(align="left", baseline="top", dy=-26, limit=0)
        .encode(text="sentence:N", x=alt.value(0), y=alt.value(0))
        .properties(name="reading")
    )
    return (
        alt.layer(rule, rival, exponential, power, fitted, scored, reading)
        .add_params(alt.param("source", value=source), alt.param("split", value=split))
        .properties(width="container", height=HEIGHT)
    )


def _window_axis(largest: float) -> alt.Axis:
    ticks = [2**k for k in range(0, int(largest).bit_length())]
    return alt.Axis(title="window kept (tokens)", values=ticks, format="d", labelOverlap=True)


def _label(
    base: alt.Chart, where: str, text: str, color: str, field: str, dy: int, x: alt.X
) -> alt.Chart:
    """A name beside a line, in the line's colour."""
    return (
        base.transform_filter(where)
        .transform_calculate(label=text)
        .mark_text(color=color, align="right" if dy > 0 else "left", dy=dy, fontWeight="bold")
        .encode(x=x, y=alt.Y(f"{field}:Q", title=""), text="label:N")
    )


def _lookup(expression: str) -> str:
    """A Vega expression that turns a key into its name."""
    pairs = ", ".join(f'"{key}": "{name}"' for key, name in NAMES.items())
    return "({" + pairs + "}[" + expression + "] || " + expression + ")"
