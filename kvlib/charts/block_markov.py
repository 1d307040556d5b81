"""Block-Markov coding: what is paid when context is rebuilt at block boundaries only."""

from __future__ import annotations

import altair as alt
import pandas as pd

from kvlib.charts import parts
from kvlib.charts.controls import Explorer, Origin, Slider
from kvlib.charts.inks import BLUE, GREEN, GREY, ORANGE
from kvlib.charts.parts import DASHED, DOTTED, SOLID, number

PREFACTOR = 0.1  # nats, the c of Δ(w) = c (w+1)^-α
LONGEST_BLOCK, LONGEST_CARRY = 512, 256
EXACT = 5  # up to here a sum of powers is added up; further on Euler and Maclaurin are good


def blocks(block: int = 64, carry: int = 16, alpha: float = 1) -> Explorer:
    """Block length, carry and exponent to choose: what blocks pay, and what sliding windows do."""
    lengths = {"unit": "symbols", "scale": "log"}
    return Explorer(
        blocks_chart(),
        [
            Slider("block", "Block length", 1, LONGEST_BLOCK, value=block, axis="x", **lengths),
            Slider("carry", "Carry", 0, LONGEST_CARRY, value=carry, unit="symbols"),
            Slider("alpha", "Exponent α", 0.25, 1.5, 0.05, value=alpha),
        ],
        "What is paid when context is rebuilt at block boundaries only, beside sliding windows",
        Origin(units={"size": "symbols"}),
    )


def blocks_chart() -> alt.LayerChart:
    """The excess of the block-Markov scheme beside two sliding windows, for Δ(w) = c (w+1)^-α.

    The blue line is (1/B) Σ_{k<B} Δ(carry + k) for block lengths B; the others are Δ at the mean
    and at the peak context of the same scheme. Parameters: `block`, `carry`, `alpha`.
    """
    grid = {round(2 ** (k / 6)) for k in range(6 * (LONGEST_BLOCK.bit_length() - 1) + 1)}
    sizes = alt.Chart(pd.DataFrame({"size": sorted(grid)}))
    x_scale = alt.Scale(type="log", base=2, domain=[1, LONGEST_BLOCK], clamp=True, nice=False)
    x = alt.X(
        "size:Q", scale=x_scale, axis=parts.window_axis(LONGEST_BLOCK, "block length (symbols)")
    )
    last = LONGEST_BLOCK + LONGEST_CARRY  # the longest context
    y_scale = alt.Scale(
        type="log",
        domainMin=alt.ExprRef(f"{PREFACTOR / 1.5} * pow({last}, -alpha)"),
        domainMax=1.5 * PREFACTOR,
        nice=False,
    )
    y_axis = parts.log_axis("excess (nats a symbol)")

    def y(field: str) -> alt.Y:
        return alt.Y(f"{field}:Q", scale=y_scale, axis=y_axis)

    curve = _paid(sizes)
    excess = curve.mark_line(color=BLUE, strokeWidth=2).encode(x=x, y=y("excess"))
    middle = curve.mark_line(color=GREEN, strokeDash=DOTTED, strokeWidth=2).encode(
        x=x, y=y("middle")
    )
    peak = curve.mark_line(color=ORANGE, strokeDash=DASHED, strokeWidth=2).encode(x=x, y=y("peak"))
    here = _paid(alt.Chart(pd.DataFrame({"size": [1]})).transform_calculate(size="block"))
    point = here.mark_point(color=BLUE, size=110, filled=True, shape="diamond").encode(
        x=x, y=y("excess")
    )
    rule = parts.rule_for("block", here.mark_rule(color=GREY, strokeDash=DOTTED).encode(x=x))
    key = parts.legend(
        (BLUE, SOLID, "blocks with this carry"),
        (GREEN, DOTTED, "sliding window, same mean"),
        (ORANGE, DASHED, "sliding window, same peak"),
    )
    powers = [f"pow({j}, -alpha)" for j in range(1, EXACT + 1)]
    firsts = [" + ".join(["0", *powers[:n]]) for n in range(EXACT + 1)]
    return parts.picture(
        *(rule, middle, peak, excess, point, *key, _sentence(here)),
        parameters=("block", "carry", "alpha"),
    ).add_params(
        alt.param("first_sums", expr=f"[{', '.join(firsts)}]"),
        alt.param("smooth_from", expr=_smooth(str(EXACT))),
        alt.param("before", expr=_power_sum("carry")),
    )


def _paid(chart: alt.Chart) -> alt.Chart:
    """What blocks of `size` pay, and sliding windows of their mean and their peak context."""
    total = f"{_power_sum('(carry + datum.size)')} - before"
    return chart.transform_calculate(
        excess=f"{PREFACTOR} * ({total}) / datum.size",
        middle=f"{PREFACTOR} * pow(carry + (datum.size + 1) / 2, -alpha)",
        peak=f"{PREFACTOR} * pow(carry + datum.size, -alpha)",
    )


def _sentence(here: alt.Chart) -> alt.Chart:
    """What the block and the two windows pay, and what doubling block and carry brings."""
    doubled = f"({_power_sum('(2 * carry + 2 * block)')} - {_power_sum('(2 * carry)')})"
    once = here.transform_calculate(
        slope=f"log(2 * datum.excess * block / ({PREFACTOR} * {doubled})) / log(2)"
    )
    return parts.reading(
        once,
        "'At α = ' + format(alpha, '~g') + ', blocks of ' + block"
        " + (block == 1 ? ' symbol' : ' symbols') + ' with a carry of ' + carry + ' pay '"
        f" + {number('datum.excess')} + ' nats a symbol above what the source itself needs. A '"
        f" + 'sliding window pays ' + {number('datum.middle')} + ' with the same mean context, '"
        " + format(carry + (block - 1) / 2, '~g')"
        f" + ', and ' + {number('datum.peak')} + ' with the same peak, ' + (carry + block - 1)"
        " + '. Doubling the block' + (carry > 0 ? ' and the carry' : '')"
        " + ' divides the excess by 2 to the power of ' + format(datum.slope, '.2f') + '.'",
    )


def _power_sum(n: str) -> str:
    """Σ_{j≤n} j^-α as an expression: the reason that a picture needs no running sum."""
    return f"({n} < {EXACT} ? first_sums[{n}] : first_sums[{EXACT}] + {_smooth(n)} - smooth_from)"


def _smooth(n: str) -> str:
    """Σ_{j≤n} j^-α less a constant, by Euler and Maclaurin: to 1e-6 from n = 5 on, for α ≤ 1.5."""
    x = f"pow({n}, -alpha)"
    whole = f"(abs(1 - alpha) < 1e-9 ? log({n}) : {n} * {x} / (1 - alpha))"
    third = f"alpha * (alpha + 1) * (alpha + 2) * {x} / pow({n}, 3) / 720"
    return f"({whole} + {x} / 2 - alpha * {x} / ({n}) / 12 + {third})"
