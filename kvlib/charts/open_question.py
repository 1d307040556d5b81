"""The book's explorers: a chart of `kvlib.charts` with the controls that move it."""

from __future__ import annotations

import altair as alt
import pandas as pd

from kvlib.charts import parts
from kvlib.charts.controls import Choice, Explorer, Slider
from kvlib.charts.parts import GREY, HEIGHT, legend, log_axis, policy_reading, spoken
from kvlib.charts.policies import BUDGETS, COLOURS, DASHES, SHAPES
from kvlib.names import name_of


def three_protocols(summary: pd.DataFrame, policies: tuple[str, ...]) -> Explorer:
    """Re-encoded, online and after a prefill, at equal budgets; what was run, and budget to choose.

    `summary` is of the tokens that all three share.
    """
    table = policies.compared(summary, policies)
    return Explorer(
        protocols(table),
        [
            Choice(
                "setting", "Policy, model and text", [(s, s) for s in table["setting"].unique()]
            ),
            Slider(
                "budget",
                "Budget",
                values=policies.BUDGETS,
                value=64,
                scale="log",
                unit="entries",
            ),
        ],
        "Distortion of one policy in the three protocols, against its budget",
    )


LARGEST_MEMORY = 3e4


def memory(curves: pd.DataFrame, needs: pd.DataFrame) -> alt.LayerChart:
    """Distortion against memory: suffix window, recurrent state, and what no such state can do.

    `curves` and `needs` are what `block_checks.memory_curves` and `memory_needs` return, the first
    for every exponent that can be chosen. Parameters: `source`, `alpha`, `epsilon`.
    """
    x_scale = alt.Scale(type="log", domain=[0.1, LARGEST_MEMORY], clamp=True, nice=False)
    y_scale = alt.Scale(type="log", domain=[3e-6, 1], clamp=True, nice=False)
    ticks = [10.0**k for k in range(-1, 5)]
    x_axis = alt.Axis(
        title="memory (bits or numbers)", values=ticks, format=",~g", labelOverlap=True
    )
    y_axis = alt.Axis(title="distortion (nats)", format="~g", tickCount=6)
    y = alt.Y("value:Q", scale=y_scale, axis=y_axis)

    def x(field: str) -> alt.X:
        return alt.X(f"{field}:Q", scale=x_scale, axis=x_axis)

    chosen = "datum.alpha == alpha && datum.source == source"
    in_sight = (curves["value"] >= 5e-5) & curves["memory"].between(0.1, LARGEST_MEMORY)
    base = alt.Chart(parts.rounded(curves[in_sight])).transform_filter(chosen)

    def line(
        kind: str, color: str, dash: list[int], point: bool = False, width: float = 2
    ) -> alt.Chart:
        dots = alt.OverlayMarkDef(size=28, color=color) if point else False
        return (
            base.transform_filter(f"datum.kind == '{kind}'")
            .mark_line(color=color, strokeDash=dash, strokeWidth=width, point=dots)
            .encode(x=x("memory"), y=y)
        )

    level = (
        alt.Chart(pd.DataFrame({"memory": [0.1, LARGEST_MEMORY]}))
        .transform_calculate(value="epsilon")
        .mark_line(color=parts.GREY, strokeDash=[2, 3])
        .encode(x=x("memory"), y=y)
    )
    once = alt.Chart(needs).transform_filter(f"{chosen} && datum.epsilon == epsilon")
    marks = [
        once.transform_calculate(value="epsilon")
        .mark_point(color=color, size=110, filled=True, shape="diamond")
        .encode(x=x(field), y=y)
        for field, color in (("suffix", parts.BLUE), ("recurrent", parts.GREEN))
    ]
    words = {
        "renewal": (
            "tokens, one bit each",
            "a counter needs ",
            "bits",
            "recurrent memory can do with fewer than ",
        ),
        "plus": (
            "numbers",
            "a bank of linear states needs ",
            "numbers",
            "linear recursion can do with fewer than ",
        ),
        "rudin-shapiro": (
            "numbers",
            "the best linear recursion that we found needs ",
            "numbers",
            "linear recursion can do with fewer than ",
        ),
        "recall": (
            "rounds",
            "the newest fresh bits do it with ",
            "bits",
            "memory at all can do with fewer than ",
        ),
    }

    def say(place: int) -> str:
        pairs = ", ".join(f"'{key}': '{texts[place]}'" for key, texts in words.items())
        return "({" + pairs + "}[source])"

    reading = spoken(
        once,
        "'With α = ' + format(alpha, '~g') + ', a distortion of ' + format(epsilon, '~g')"
        f" + ' nats asks for a window of ' + format(datum.window, ',d') + ' ' + {say(0)}"
        " + (source == 'recall' ? ', written out in ' + format(datum.suffix, ',.0f')"
        " + ' bits' : '')"
        f" + '; ' + {say(1)} + format(datum.recurrent, ',d') + ' ' + {say(2)} + '. '"
        f" + 'No ' + {say(3)} + format(datum.bound, '.3~g') + ' ' + {say(2)} + '.'",
    )
    key = parts.legend(
        (parts.BLUE, [1, 0], "suffix window"),
        (parts.GREEN, [1, 0], "recurrent memory"),
        (parts.ORANGE, [6, 4], "lower bound"),
    )
    return (
        alt.layer(
            level,
            line("suffix", parts.BLUE, [1, 0], width=5),
            line("recurrent", parts.GREEN, [1, 0], point=True),
            line("bound", parts.ORANGE, [6, 4]),
            *marks,
            *key,
            reading,
        )
        .add_params(
            alt.param("source", value="renewal"),
            alt.param("alpha", value=1.5),
            alt.param("epsilon", value=0.001),
        )
        .properties(width="container", height=parts.HEIGHT)
    )


def memory_explorer(
    curves: pd.DataFrame, needs: pd.DataFrame, alpha: float = 1.5, epsilon: float = 0.001
) -> Explorer:
    """Source, exponent and ε to choose: the memory of a window and of a recurrent state."""
    alphas = curves["alpha"].unique().tolist()
    return Explorer(
        memory(curves, needs),
        [
            Choice("source", "Source", [(key, name_of(key)) for key in curves["source"].unique()]),
            *(
                [Slider("alpha", "Exponent α", values=alphas, value=alpha)]
                if len(alphas) > 1
                else []
            ),
            Slider(
                "epsilon",
                "Distortion allowed, ε",
                values=needs["epsilon"].unique().tolist(),
                value=epsilon,
                scale="log",
                unit="nats",
            ),
        ],
        "Memory that a suffix window and a recurrent state need for a given distortion",
    )


def protocols(table: pd.DataFrame) -> alt.LayerChart:
    """Distortion against budget, a line a protocol. Parameters: `setting`, `budget`."""
    base = alt.Chart(table).transform_filter("datum.setting == setting")
    x = alt.X(
        "budget:Q",
        scale=alt.Scale(type="log", base=2, nice=False, padding=12),
        axis=alt.Axis(title="budget (entries a query sees)", values=list(BUDGETS), format="d"),
    )
    scale = alt.Scale(type="log", nice=False)
    y = alt.Y("mean:Q", scale=scale, axis=log_axis("mean KL (nats)"))
    layers = []
    for protocol, shape in SHAPES.items():
        one = base.transform_filter(f"datum.protocol == '{protocol}'")
        layers += [
            one.mark_rule(color=COLOURS[protocol], opacity=0.5, strokeWidth=2).encode(
                x=x, y=alt.Y("low:Q", title="", scale=scale), y2="high:Q"
            ),
            one.mark_line(
                color=COLOURS[protocol],
                strokeWidth=2,
                strokeDash=DASHES[protocol],
                point=alt.OverlayMarkDef(size=70, color=COLOURS[protocol], shape=shape),
            ).encode(
                x=x,
                y=y,
                tooltip=[
                    alt.Tooltip("protocol:N"),
                    alt.Tooltip("budget:Q"),
                    alt.Tooltip("mean:Q", title="mean (nats)", format=".3g"),
                    alt.Tooltip("documents:Q"),
                ],
            ),
        ]
    once = base.transform_filter("datum.budget == budget && datum.protocol == 'online'")
    rule = once.mark_rule(color=GREY, strokeDash=[2, 3], strokeWidth=1.5).encode(x=x)
    words = {"reencode": "re-encoded", "online": "online", "prefill": "after a full prefill"}
    key = legend(*((COLOURS[p], DASHES[p], words[p]) for p in SHAPES))
    chosen = {"setting": table["setting"].iloc[0], "budget": 64}
    return (
        alt.layer(rule, *layers, *key, policy_reading(once))
        .add_params(*(alt.param(name, value=value) for name, value in chosen.items()))
        .properties(width="container", height=HEIGHT)
    )
