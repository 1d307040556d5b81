"""Charts and explorers of the pages on blocks and on the open question.

As in `kvlib.charts`, what follows the sliders is arithmetic inside the charts. The tables come from
`kvlib.block_checks`.
"""

from __future__ import annotations

import altair as alt
import pandas as pd

from kvlib import block_checks, charts
from kvlib.controls import Choice, Explorer, Slider

PREFACTOR = 0.1  # nats, the c of Δ(w) = c (w+1)^-α
LONGEST_BLOCK, LONGEST_CARRY = 512, 256
LARGEST_MEMORY = 3e4


def _spoken(chart: alt.Chart, sentence: str) -> alt.Chart:
    """The layer that says in words what the picture shows."""
    return (
        chart.transform_calculate(sentence=sentence)
        .mark_text(align="left", baseline="top", dy=-26, limit=0)
        .encode(text="sentence:N", x=alt.value(0), y=alt.value(0))
        .properties(name="reading")
    )


def _number(field: str, digits: str = ".3~g") -> str:
    return f"format({field}, '{digits}')"


EXACT = 5  # up to here a sum of powers is added up; further on Euler and Maclaurin are good


def _smooth(n: str) -> str:
    """Σ_{j≤n} j^-α less a constant, by Euler and Maclaurin: to 1e-6 from n = 5 on, for α ≤ 1.5."""
    x = f"pow({n}, -alpha)"
    whole = f"(abs(1 - alpha) < 1e-9 ? log({n}) : {n} * {x} / (1 - alpha))"
    third = f"alpha * (alpha + 1) * (alpha + 2) * {x} / pow({n}, 3) / 720"
    return f"({whole} + {x} / 2 - alpha * {x} / ({n}) / 12 + {third})"


def _power_sum(n: str) -> str:
    """Σ_{j≤n} j^-α as an expression: the reason that a picture needs no running sum."""
    return f"({n} < {EXACT} ? first_sums[{n}] : first_sums[{EXACT}] + {_smooth(n)} - smooth_from)"


def blocks() -> alt.LayerChart:
    """The excess of the block-Markov scheme beside two sliding windows, for Δ(w) = c (w+1)^-α.

    The blue line is (1/B) Σ_{k<B} Δ(carry + k) for block lengths B; the others are Δ at the mean
    and at the peak context of the same scheme. Parameters: `block`, `carry`, `alpha`.
    """
    grid = {round(2 ** (k / 6)) for k in range(6 * (LONGEST_BLOCK.bit_length() - 1) + 1)}
    sizes = alt.Chart(pd.DataFrame({"size": sorted(grid)}))
    x_scale = alt.Scale(type="log", base=2, domain=[1, LONGEST_BLOCK], clamp=True, nice=False)
    ticks = [2**j for j in range(LONGEST_BLOCK.bit_length())]
    x_axis = alt.Axis(title="block length (symbols)", values=ticks, format="d", labelOverlap=True)
    last = LONGEST_BLOCK + LONGEST_CARRY  # the longest context
    y_scale = alt.Scale(
        type="log",
        domainMin=alt.ExprRef(f"{PREFACTOR / 1.5} * pow({last}, -alpha)"),
        domainMax=1.5 * PREFACTOR,
        clamp=True,
        nice=False,
    )
    y_axis = alt.Axis(title="excess (nats a symbol)", format="~g", tickCount=6)

    def y(field: str) -> alt.Y:
        return alt.Y(f"{field}:Q", scale=y_scale, axis=y_axis)

    def paid(chart: alt.Chart) -> alt.Chart:
        """What blocks of `size` pay, and sliding windows of their mean and their peak context."""
        total = f"{_power_sum('(carry + datum.size)')} - before"
        return chart.transform_calculate(
            excess=f"{PREFACTOR} * ({total}) / datum.size",
            middle=f"{PREFACTOR} * pow(carry + (datum.size + 1) / 2, -alpha)",
            peak=f"{PREFACTOR} * pow(carry + datum.size, -alpha)",
        )

    x = alt.X("size:Q", scale=x_scale, axis=x_axis)
    curve = paid(sizes)
    excess = curve.mark_line(color=charts.BLUE, strokeWidth=2).encode(x=x, y=y("excess"))
    middle = curve.mark_line(color=charts.GREEN, strokeDash=[2, 3], strokeWidth=2).encode(
        x=x, y=y("middle")
    )
    peak = curve.mark_line(color=charts.ORANGE, strokeDash=[6, 4], strokeWidth=2).encode(
        x=x, y=y("peak")
    )
    here = paid(alt.Chart(pd.DataFrame({"size": [1]})).transform_calculate(size="block"))
    point = here.mark_point(color=charts.BLUE, size=110, filled=True, shape="diamond").encode(
        x=x, y=y("excess")
    )
    rule = here.mark_rule(color=charts.GREY, strokeDash=[2, 3]).encode(x=x)
    doubled = f"({_power_sum('(2 * carry + 2 * block)')} - {_power_sum('(2 * carry)')})"
    once = here.transform_calculate(
        slope=f"log(2 * datum.excess * block / ({PREFACTOR} * {doubled})) / log(2)"
    )
    reading = _spoken(
        once,
        "'At α = ' + format(alpha, '~g') + ', blocks of ' + block"
        " + (block == 1 ? ' symbol' : ' symbols') + ' with a carry of ' + carry + ' pay '"
        f" + {_number('datum.excess')} + ' nats a symbol above the entropy rate. A sliding window"
        f" pays ' + {_number('datum.middle')} + ' with the same mean context, '"
        " + format(carry + (block - 1) / 2, '~g')"
        f" + ', and ' + {_number('datum.peak')} + ' with the same peak, ' + (carry + block - 1)"
        " + '. Doubling the block' + (carry > 0 ? ' and the carry' : '')"
        " + ' divides the excess by 2 to the power of ' + format(datum.slope, '.2f') + '.'",
    )
    key = charts.legend(
        (charts.BLUE, [1, 0], "blocks with this carry"),
        (charts.GREEN, [2, 3], "sliding window, same mean"),
        (charts.ORANGE, [6, 4], "sliding window, same peak"),
    )
    powers = [f"pow({j}, -alpha)" for j in range(1, EXACT + 1)]
    firsts = [" + ".join(["0", *powers[:n]]) for n in range(EXACT + 1)]
    return (
        alt.layer(rule, middle, peak, excess, point, *key, reading)
        .add_params(
            alt.param("block", value=64),
            alt.param("carry", value=16),
            alt.param("alpha", value=1),
            alt.param("first_sums", expr=f"[{', '.join(firsts)}]"),
            alt.param("smooth_from", expr=_smooth(str(EXACT))),
            alt.param("before", expr=_power_sum("carry")),
        )
        .properties(width="container", height=charts.HEIGHT)
    )


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
    base = alt.Chart(curves[in_sight]).transform_filter(chosen)

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
        .mark_line(color=charts.GREY, strokeDash=[2, 3])
        .encode(x=x("memory"), y=y)
    )
    once = alt.Chart(needs).transform_filter(f"{chosen} && datum.epsilon == epsilon")
    marks = [
        once.transform_calculate(value="epsilon")
        .mark_point(color=color, size=110, filled=True, shape="diamond")
        .encode(x=x(field), y=y)
        for field, color in (("suffix", charts.BLUE), ("recurrent", charts.GREEN))
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

    reading = _spoken(
        once,
        "'With α = ' + format(alpha, '~g') + ', a distortion of ' + format(epsilon, '~g')"
        f" + ' nats asks for a window of ' + format(datum.window, ',d') + ' ' + {say(0)}"
        " + (source == 'recall' ? ', written out in ' + format(datum.suffix, ',.0f')"
        " + ' bits' : '')"
        f" + '; ' + {say(1)} + format(datum.recurrent, ',d') + ' ' + {say(2)} + '. '"
        f" + 'No ' + {say(3)} + format(datum.bound, '.3~g') + ' ' + {say(2)} + '.'",
    )
    key = charts.legend(
        (charts.BLUE, [1, 0], "suffix window"),
        (charts.GREEN, [1, 0], "recurrent memory"),
        (charts.ORANGE, [6, 4], "lower bound"),
    )
    return (
        alt.layer(
            level,
            line("suffix", charts.BLUE, [1, 0], width=5),
            line("recurrent", charts.GREEN, [1, 0], point=True),
            line("bound", charts.ORANGE, [6, 4]),
            *marks,
            *key,
            reading,
        )
        .add_params(
            alt.param("source", value="renewal"),
            alt.param("alpha", value=1.5),
            alt.param("epsilon", value=0.001),
        )
        .properties(width="container", height=charts.HEIGHT)
    )


def block_explorer(block: int = 64, carry: int = 16, alpha: float = 1) -> Explorer:
    """Block length, carry and exponent to choose: what blocks pay, and what sliding windows do."""
    return Explorer(
        blocks(),
        [
            Slider(
                "block",
                "Block length",
                1,
                LONGEST_BLOCK,
                value=block,
                scale="log",
                unit="symbols",
            ),
            Slider("carry", "Carry", 0, LONGEST_CARRY, value=carry, unit="symbols"),
            Slider("alpha", "Exponent α", 0.25, 1.5, 0.05, value=alpha),
        ],
        "What is paid when context is rebuilt at block boundaries only, beside sliding windows",
    )


def memory_explorer(
    curves: pd.DataFrame, needs: pd.DataFrame, alpha: float = 1.5, epsilon: float = 0.001
) -> Explorer:
    """Source, exponent and ε to choose: the memory of a window and of a recurrent state."""
    return Explorer(
        memory(curves, needs),
        [
            Choice("source", "Source", list(block_checks.SOURCES.items())),
            Slider("alpha", "Exponent α", values=block_checks.ALPHAS, value=alpha),
            Slider(
                "epsilon",
                "Distortion allowed, ε",
                values=block_checks.EPSILONS,
                value=epsilon,
                scale="log",
                unit="nats",
            ),
        ],
        "Memory that a suffix window and a recurrent state need for a given distortion",
    )
