"""Charts and explorers of the pages on blocks and on the open question.

As in `kvlib.charts`, what follows the sliders is arithmetic inside the charts. The tables come from
`kvlib.block_checks`.
"""

from __future__ import annotations

import altair as alt
import pandas as pd

from kvlib.charts import parts
from kvlib.charts.controls import Explorer, Slider
from kvlib.charts.parts import number, smooth, spoken

PREFACTOR = 0.1  # nats, the c of Δ(w) = c (w+1)^-α
LONGEST_BLOCK, LONGEST_CARRY = 512, 256
EXACT = 5  # up to here a sum of powers is added up; further on Euler and Maclaurin are good


def _power_sum(n: str) -> str:
    """Σ_{j≤n} j^-α as an expression: the reason that a picture needs no running sum."""
    return f"({n} < {EXACT} ? first_sums[{n}] : first_sums[{EXACT}] + {smooth(n)} - smooth_from)"


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
    excess = curve.mark_line(color=parts.BLUE, strokeWidth=2).encode(x=x, y=y("excess"))
    middle = curve.mark_line(color=parts.GREEN, strokeDash=[2, 3], strokeWidth=2).encode(
        x=x, y=y("middle")
    )
    peak = curve.mark_line(color=parts.ORANGE, strokeDash=[6, 4], strokeWidth=2).encode(
        x=x, y=y("peak")
    )
    here = paid(alt.Chart(pd.DataFrame({"size": [1]})).transform_calculate(size="block"))
    point = here.mark_point(color=parts.BLUE, size=110, filled=True, shape="diamond").encode(
        x=x, y=y("excess")
    )
    rule = here.mark_rule(color=parts.GREY, strokeDash=[2, 3]).encode(x=x)
    doubled = f"({_power_sum('(2 * carry + 2 * block)')} - {_power_sum('(2 * carry)')})"
    once = here.transform_calculate(
        slope=f"log(2 * datum.excess * block / ({PREFACTOR} * {doubled})) / log(2)"
    )
    reading = spoken(
        once,
        "'At α = ' + format(alpha, '~g') + ', blocks of ' + block"
        " + (block == 1 ? ' symbol' : ' symbols') + ' with a carry of ' + carry + ' pay '"
        f" + {number('datum.excess')} + ' nats a symbol above the entropy rate. A sliding window"
        f" pays ' + {number('datum.middle')} + ' with the same mean context, '"
        " + format(carry + (block - 1) / 2, '~g')"
        f" + ', and ' + {number('datum.peak')} + ' with the same peak, ' + (carry + block - 1)"
        " + '. Doubling the block' + (carry > 0 ? ' and the carry' : '')"
        " + ' divides the excess by 2 to the power of ' + format(datum.slope, '.2f') + '.'",
    )
    key = parts.legend(
        (parts.BLUE, [1, 0], "blocks with this carry"),
        (parts.GREEN, [2, 3], "sliding window, same mean"),
        (parts.ORANGE, [6, 4], "sliding window, same peak"),
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
            alt.param("smooth_from", expr=smooth(str(EXACT))),
            alt.param("before", expr=_power_sum("carry")),
        )
        .properties(width="container", height=parts.HEIGHT)
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
