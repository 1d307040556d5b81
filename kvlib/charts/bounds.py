"""Bounds: the window that a distortion asks for, and a source that needs far less."""

from __future__ import annotations

import math

import altair as alt
import pandas as pd

from kvlib.charts import parts
from kvlib.charts.controls import Choice, Explorer, Origin, Slider
from kvlib.charts.inks import BLUE, GREEN, KEPT, LOST, MUTED, ORANGE, PURPLE
from kvlib.charts.parts import DASHED, DOTTED, SOLID

EPSILONS = [round(m * 10.0**k, 6) for k in (-3, -2, -1) for m in (1, 1.5, 2, 3, 5, 7)] + [1.0]
CLAIMED = "'At ε = ' + format(epsilon, '~g') + ' nats and α = ' + format(alpha, '~g') + ', '"


# --- the window for ε, and what it weighs -----------------------------------------------------

BUDGETS = [round(m * 10.0**k, 6) for k in (-1, 0, 1) for m in (1, 1.5, 2, 3, 5, 7)] + [100.0]
LEVELS = [1e-3, 20]  # nats that are drawn
OF_LAW = ["alpha", "alpha_low", "alpha_high", "level", "middle", "reference"]


def budget(rows: pd.DataFrame, epsilon: float = 0.1, megabytes: float = 10) -> Explorer:
    """ε, α and the budget to choose: the window they ask for, what it weighs, what it buys.

    `rows` as `budget_chart` asks for.
    """
    allowed = {"unit": "nats", "scale": "log", "axis": "y"}
    return Explorer(
        budget_chart(rows),
        [
            Choice("source", "Model and text", parts.texts_of(rows["source"])),
            Slider("epsilon", "Distortion allowed, ε", values=EPSILONS, value=epsilon, **allowed),
            Slider("moved", "Exponent α, moved from the fitted one by", -0.15, 0.6, 0.01, value=0),
            Slider(
                *("budget", "Budget"),
                **{"values": BUDGETS, "value": megabytes, "scale": "log", "unit": "MB"},
                **{"axis": "x", "aligned": False, "by": ["source"], "places": _held(rows)},
            ),
        ],
        "How many tokens a window needs for a given distortion, and how many a budget holds",
        Origin(["sensitivity"], parts.IN_TOKENS | parts.NATS | {"full": "bytes a token"}),
    )


def _held(rows: pd.DataFrame) -> dict[str, list[int]]:
    """How many tokens each budget holds on each source, from one to all that was read."""
    found = {}
    for source, part in rows.groupby("source", sort=False):
        full, sliding, local, reference = (
            float(part[name].iloc[0]) for name in ("full", "sliding", "local", "reference")
        )
        both = (full + sliding) * local
        held = [
            math.floor(size / (full + sliding) if size <= both else local + (size - both) / full)
            for size in (1e6 * megabytes for megabytes in BUDGETS)
        ]
        found[source] = [max(1, min(tokens, int(reference))) for tokens in held]
    return found


def budget_chart(rows: pd.DataFrame) -> alt.LayerChart:
    """The window that the fitted law asks for at a distortion ε, what it weighs, and what a budget
    of memory buys.

    `rows` is what `kvlib.claims.bounds.budget_rows` returns. Parameters: `source`, `epsilon`,
    `moved` (added to the fitted α; the law keeps its value at the middle of the windows), `budget`
    (MB).
    """
    rows = parts.rounded(rows)
    largest = float(2 ** math.ceil(math.log2(rows["reference"].max())))
    base = alt.Chart(rows).transform_filter("datum.source == source")
    scale = alt.Scale(type="log", domain=LEVELS, clamp=True, nice=False)
    x_scale = alt.Scale(type="log", base=2, domain=[1, largest], clamp=True, nice=False)
    y_axis = parts.log_axis("mean KL (nats)", *LEVELS)

    def x(field: str) -> alt.X:
        return alt.X(f"{field}:Q", scale=x_scale, axis=parts.window_axis(largest))

    def y(field: str) -> alt.Y:
        return alt.Y(f"{field}:Q", scale=scale, axis=y_axis)

    sources = rows.drop_duplicates("source")[["source", *OF_LAW]]
    drawn = (
        alt.Chart(alt.sequence(0, 8 * math.log2(largest) + 1, as_="step"))
        .transform_calculate(window="pow(2, datum.step / 8)", source="source")
        .transform_lookup("source", from_=alt.LookupData(sources, "source", OF_LAW))
        .transform_filter("datum.window < datum.reference")
        .transform_calculate(
            law=_law("datum.window", "datum.alpha + moved"),
            low=_law("datum.window", "datum.alpha_low + moved"),
            high=_law("datum.window", "datum.alpha_high + moved"),
        )
    )
    shown = f"datum.law >= {LEVELS[0]}"
    band = drawn.mark_area(color=MUTED, opacity=0.15, clip=True).encode(
        x=x("window"), y=y("low"), y2="high:Q"
    )
    law = (
        drawn.transform_filter(shown)
        .mark_line(color=MUTED, strokeWidth=2, strokeDash=DASHED)
        .encode(x=x("window"), y=y("law"))
    )
    spread = base.mark_rule(color=LOST, strokeWidth=2, opacity=0.4, clip=True).encode(
        x=x("window"), y=y("low"), y2="high:Q"
    )
    measured = base.mark_point(color=LOST, filled=True, size=26, opacity=0.9).encode(
        x=x("window"),
        y=y("mean"),
        tooltip=[
            alt.Tooltip("first:Q", title="windows from"),
            alt.Tooltip("last:Q", title="to"),
            *parts.mean_told(),
        ],
    )
    once = _needs_and_holds(base)
    level = once.transform_calculate(level="epsilon").mark_rule(
        color=LOST, strokeDash=DOTTED, strokeWidth=1.5
    )
    level = parts.rule_for("epsilon", level.encode(y=y("level")))
    needed = once.mark_rule(color=KEPT, strokeWidth=2).encode(x=x("needed"))
    held = once.mark_rule(color=PURPLE, strokeDash=DASHED, strokeWidth=2)
    held = parts.rule_for("budget", held.encode(x=x("held_x")))
    key = parts.legend(
        (LOST, SOLID, "mean, 95% interval"),
        (MUTED, DASHED, "fitted law; band: interval of α"),
        (KEPT, SOLID, "window for ε"),
        (PURPLE, DASHED, "window that the budget holds"),
    )
    return parts.picture(
        *(band, law, spread, measured, level, needed, held, *key),
        _told(once),
        parameters=("source", "epsilon", "moved", "budget"),
    )


def _law(window: str, alpha: str) -> str:
    """level · g(w) / g(middle) with g(w) = (w+1)^-α - (T+1)^-α, as an expression; α from 0.02."""
    return f"datum.level * {_bracket(window, alpha)} / {_bracket('datum.middle', alpha)}"


def _bracket(window: str, alpha: str) -> str:
    power = f"-max(0.02, {alpha})"
    return f"(pow({window} + 1, {power}) - pow(datum.reference + 1, {power}))"


def _needs_and_holds(base: alt.Chart) -> alt.Chart:
    """One row: `needed` tokens for ε and `needed_mb`; `held` tokens and the distortion `reached`;
    and the measured bin that holds `needed`, where there is one (`inside`).

    The law is turned around: w + 1 = [(T+1)^-α + ε g(middle) / level]^(-1/α). A cache of w tokens
    weighs full·w + sliding·min(w, local) bytes.
    """
    alpha = "max(0.02, datum.alpha + moved)"
    share = f"epsilon / datum.level * {_bracket('datum.middle', 'datum.alpha + moved')}"
    return (
        base.transform_calculate(
            needed=f"max(1, ceil(pow(pow(datum.reference + 1, -{alpha}) + {share}, -1 / {alpha})"
            " - 1))",
            both="(datum.full + datum.sliding) * datum.local",
            bytes="budget * 1e6",
        )
        .transform_calculate(
            needed_mb="(datum.full * datum.needed"
            " + datum.sliding * min(datum.needed, datum.local)) / 1e6",
            held="floor(datum.bytes <= datum.both"
            " ? datum.bytes / (datum.full + datum.sliding)"
            " : datum.local + (datum.bytes - datum.both) / datum.full)",
            inside="datum.first <= datum.needed && datum.needed <= datum.last ? 1 : 0",
        )
        .transform_calculate(
            reached=_law("max(datum.held, 1)", "datum.alpha + moved"),
            held_x="max(1, min(datum.held, datum.reference))",
        )
        .transform_joinaggregate(found="max(inside)")
        .transform_filter("datum.inside == 1 || (datum.found == 0 && datum.last == datum.longest)")
    )


def _told(once: alt.Chart) -> alt.Chart:
    """The sentence: window and memory for ε, what was measured there, and what the budget buys."""
    beyond = "datum.held > datum.longest || datum.held < datum.shortest"
    said = once.transform_calculate(
        law="abs(moved) < 0.005 ? 'the fitted law, α = ' + format(datum.alpha, '.2f')"
        " + ' (95% interval ' + format(datum.alpha_low, '.2f') + ' to '"
        " + format(datum.alpha_high, '.2f') + ', ' + datum.n_documents + ' documents),'"
        " : 'a law with α = ' + format(max(0.02, datum.alpha + moved), '.2f')"
        " + ', where ' + format(datum.alpha, '.2f') + ' was fitted,'",
        window="format(datum.needed, ',.0f') + (datum.needed == 1 ? ' token' : ' tokens')",
        there="datum.inside == 1 ? ' Measured there, on windows of '"
        " + (datum.first == datum.last ? format(datum.first, ',d')"
        " : format(datum.first, ',d') + ' to ' + format(datum.last, ',d')) + ' tokens: '"
        f" + {parts.number('datum.mean')} + ' nats (' + {parts.number('datum.low')} + ' to '"
        f" + {parts.number('datum.high')} + ').'"
        " : ' An extrapolation: windows of ' + format(datum.shortest, ',d') + ' to '"
        " + format(datum.longest, ',d') + ' tokens were measured.'",
    ).transform_calculate(
        money="datum.held < 1 ? ' A budget of ' + format(budget, '~g')"
        " + ' MB does not hold one token.' : datum.held >= datum.reference"
        " ? ' A budget of ' + format(budget, '~g') + ' MB holds all that was read, about '"
        " + format(datum.reference, ',.0f') + ' tokens.'"
        " : ' A budget of ' + format(budget, '~g') + ' MB holds '"
        " + format(datum.held, ',.0f') + (datum.held == 1 ? ' token' : ' tokens')"
        f" + ': ' + {parts.number('datum.reached', '.2~r')} + ' nats by the same law'"
        f" + ({beyond} ? ', an extrapolation too.' : '.')",
    )
    return parts.reading(
        said,
        "datum.source + ': by ' + datum.law + ' a window of ' + datum.window + ', '"
        " + format(datum.needed_mb, ',.2~r') + ' MB, keeps the mean KL within ε = '"
        " + format(epsilon, '~g') + (epsilon == 1 ? ' nat' : ' nats')"
        " + ' of what about ' + format(datum.reference, ',.0f')"
        " + ' tokens would say.' + datum.there + datum.money",
    )


# --- a source whose dependence sits at a few distances ----------------------------------------


def lacunary(stairs: pd.DataFrame, alpha: float = 0.8, epsilon: float = 0.01) -> Explorer:
    """A source that needs far fewer tokens than its upper bound: ε and α to choose."""
    allowed = {"unit": "nats", "scale": "log", "axis": "y"}
    some = EPSILONS[:-1]
    return Explorer(
        lacunary_chart(stairs),
        [
            Slider("epsilon", "Distortion allowed, ε", values=some, value=epsilon, **allowed),
            Slider("alpha", "Exponent α of the upper bound", 0.4, 1.5, 0.05, value=alpha),
        ],
        "Bayes risk of a source whose dependence sits at a few distances only, and its upper bound",
        Origin(units={"left": "tokens", "right": "tokens", "w": "tokens"}),
    )


def lacunary_chart(stairs: pd.DataFrame) -> alt.LayerChart:
    """A sensitivity that stays below C w^-α but touches it at a few windows only.

    `stairs` has `left`, `right`, `step` (the k with Δ = C k^-α between them). Parameters: `alpha`,
    `epsilon`. C is one.
    """
    largest = int(stairs["right"].max())
    x_scale = alt.Scale(type="log", base=2, domain=[1, largest], nice=False)
    ticks = [4**k for k in range(largest.bit_length() // 2 + 1)]
    x_axis = alt.Axis(title="window kept (tokens)", values=ticks, format=",d")
    scale = alt.Scale(type="log", domain=[1e-4, 1], clamp=True, nice=False)
    y_axis = parts.log_axis("Bayes risk (nats)", 1e-4, 1)

    def x(field: str) -> alt.X:
        return alt.X(f"{field}:Q", scale=x_scale, axis=x_axis)

    def y(field: str) -> alt.Y:
        return alt.Y(f"{field}:Q", scale=scale, axis=y_axis)

    base = alt.Chart(stairs).transform_calculate(value="pow(datum.step, -alpha)")
    risk = base.mark_rule(color=BLUE, strokeWidth=3).encode(x=x("left"), x2="right:Q", y=y("value"))
    halves = [2 ** (k / 2) for k in range(2 * largest.bit_length() - 1)]
    curve = alt.Chart(pd.DataFrame({"w": halves})).transform_calculate(
        bound="pow(datum.w, -alpha)", level="epsilon"
    )
    bound = (
        curve.transform_filter("datum.bound >= 1e-4")
        .mark_line(color=ORANGE, strokeDash=DASHED, strokeWidth=2)
        .encode(x=x("w"), y=y("bound"))
    )
    level = curve.mark_line(color=GREEN, strokeDash=DOTTED, strokeWidth=1.5)
    level = parts.rule_for("epsilon", level.encode(x=x("w"), y=y("level")))
    needs = (
        base.transform_calculate(need="datum.value > epsilon ? datum.right : 1")
        .transform_joinaggregate(needed="max(need)")
        .transform_filter("datum.left == 1")
    )
    rule = needs.mark_rule(color=GREEN, strokeWidth=2).encode(x=x("needed"))
    reading = parts.reading(
        needs.transform_calculate(promised="ceil(pow(1 / epsilon, 1 / alpha))"),
        CLAIMED + " + 'the upper bound asks for ' + format(datum.promised, ',.0f')"
        f" + ' tokens; this source needs ' + (datum.needed >= {largest} ?"
        " 'more tokens than the picture holds' : format(datum.needed, ',.0f')) + '.'",
    )
    key = parts.legend(
        (BLUE, SOLID, "Bayes risk of the source"),
        (ORANGE, DASHED, "its upper bound"),
        (GREEN, SOLID, "window needed for ε"),
    )
    return parts.picture(bound, risk, level, rule, *key, reading, parameters=("alpha", "epsilon"))
