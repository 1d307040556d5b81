"""Rates with side information: a binary source whose answer is known, and a real cache."""

from __future__ import annotations

from typing import Literal

import altair as alt
import pandas as pd

from kvlib.charts import parts
from kvlib.charts.controls import Choice, Explorer, Origin, Slider
from kvlib.charts.inks import BLUE, GREEN, GREY, ORANGE
from kvlib.charts.parts import DASHED, DOTTED, SOLID

IN_BITS = {name: "bits" for name in ("without", "known", "saving", "low", "high")}
PARTS = {"key": "keys", "value": "values"}  # of a cache
CODED = "(" + " : ".join(f"part == '{key}' ? '{name}'" for key, name in PARTS.items()) + " : part)"


# --- the doubly symmetric binary source -------------------------------------------------------


def side_information(table: pd.DataFrame, p: float = 0.24, distortion: float = 0.1) -> Explorer:
    """Wyner-Ziv against the conditional rate; the copy's quality and the distortion to choose."""
    return Explorer(
        side_information_chart(table),
        [
            Slider("p", "Share of wrong bits in the copy, p", values=tuple(table["p"]), value=p),
            Slider(
                *("distortion", "Wrong bits allowed, D", 0.01, 0.49, 0.01),
                **{"value": distortion, "axis": "x"},
            ),
        ],
        "Bits a symbol against distortion, when nobody, the decoder or both hold a noisy copy",
        Origin(),
    )


def side_information_chart(table: pd.DataFrame) -> alt.LayerChart:
    """Rate against distortion for a fair bit and a noisy copy of it: held by nobody, by the
    decoder, by both. Parameters: `p` (one of the table's), `distortion`.

    The curve of Wyner and Ziv is straight from a tangent point on; the table
    (`kvlib.claims.formulation.tangents`) holds that point for each p, and the rest is arithmetic of
    the chart.
    """

    def rates(base: alt.Chart, d: str) -> alt.Chart:
        low = f"min({d}, datum.from)"
        through = f"(p * (1 - {low}) + {low} * (1 - p))"
        return base.transform_calculate(
            nobody=f"1 - {_entropy(d)}",
            both=f"max(0, {_entropy('p')} - {_entropy(f'min({d}, p)')})",
            decoder=f"{d} < datum.from ? {_entropy(through)} - {_entropy(low)}"
            f" : datum.slope * max(0, p - {d})",
        )

    chosen = alt.Chart(table).transform_filter("abs(datum.p - p) < 1e-9")
    along = (
        chosen.transform_calculate(step="sequence(0, 201)")
        .transform_flatten(["step"])
        .transform_calculate(wide="datum.step / 400", narrow="p * datum.step / 200")
    )
    x_scale = alt.Scale(domain=[0, 0.5], nice=False)
    x_axis = alt.Axis(title="distortion (share of wrong bits)", format="~g", tickCount=6)
    y_scale = alt.Scale(domain=[0, 1], nice=False)
    y_axis = alt.Axis(title="rate (bits a symbol)", format="~g", tickCount=6)

    def x(field: str) -> alt.X:
        return alt.X(f"{field}:Q", scale=x_scale, axis=x_axis)

    def y(field: str) -> alt.Y:
        return alt.Y(f"{field}:Q", scale=y_scale, axis=y_axis)

    nobody = (
        rates(along, "datum.wide")
        .mark_line(color=GREY, strokeDash=DOTTED, strokeWidth=2)
        .encode(x=x("wide"), y=y("nobody"))
    )
    narrow = rates(along, "datum.narrow")
    both = narrow.mark_line(color=BLUE, strokeDash=DASHED, strokeWidth=2).encode(
        x=x("narrow"), y=y("both")
    )
    decoder = narrow.mark_line(color=ORANGE, strokeWidth=2).encode(x=x("narrow"), y=y("decoder"))
    gap = narrow.mark_area(color=ORANGE, opacity=0.18).encode(
        x=x("narrow"), y=y("decoder"), y2="both:Q"
    )
    here = rates(chosen, "distortion").transform_calculate(at="distortion")
    rule = here.mark_rule(color=GREEN, strokeDash=DOTTED, strokeWidth=1.5).encode(x=x("at"))
    rule = parts.rule_for("distortion", rule)
    points = [
        here.mark_point(color=color, filled=True, size=60, opacity=1).encode(x=x("at"), y=y(field))
        for color, field in (
            (GREY, "nobody"),
            (BLUE, "both"),
            (ORANGE, "decoder"),
        )
    ]
    reading = parts.reading(
        here,
        "'A copy with ' + format(p, '.0%') + ' of its bits wrong, and ' + format(distortion, '.0%')"
        " + ' wrong bits allowed: ' + format(datum.nobody, '.3f') + ' bits a symbol without the"
        " copy, ' + format(datum.decoder, '.3f') + ' when the decoder has it, '"
        " + format(datum.both, '.3f') + ' when both have it.'"
        " + (distortion >= p ? ' The copy alone is good enough.' : ' The encoder not seeing it"
        " costs ' + format(datum.decoder - datum.both, '.3f') + ' bits.')",
    )
    key = parts.legend(
        (GREY, DOTTED, "nobody has the copy"),
        (ORANGE, SOLID, "the decoder has it"),
        (BLUE, DASHED, "both have it"),
    )
    return parts.picture(
        *(gap, nobody, both, decoder, rule, *points, *key, reading), parameters=("p", "distortion")
    )


def _entropy(x: str) -> str:
    """h(x) in bits as a Vega expression."""
    return f"(-(({x}) * log(max({x}, 1e-12)) + (1 - ({x})) * log(max(1 - ({x}), 1e-12))) / LN2)"


# --- the real cache ---------------------------------------------------------------------------


def cache_rates(summary: pd.DataFrame, layer: int = 15, distortion: float = 0.09) -> Explorer:
    """The rate of a real cache: layer, keys or values, head and distortion to choose."""
    heads = sorted(set(summary["head"]) - {"mean"}, key=int)
    options = [("mean", "mean over heads")]
    options += [(str(int(h) + 1), f"head {int(h) + 1}") for h in heads]
    return Explorer(
        cache_rates_chart(summary),
        [
            Choice("part", "Coded", list(PARTS.items())),
            Choice("head", "Head", options),
            Slider("layer", "Layer", 1, int(summary["layer"].max()) + 1, value=layer),
            _distortions(summary, distortion, axis="x"),
        ],
        "Bits per token and head of a real cache against relative distortion, with the next query "
        "and without",
        Origin(["kv_rates"], IN_BITS),
    )


def cache_rates_chart(summary: pd.DataFrame) -> alt.LayerChart:
    """Bits per token and head against relative distortion, with the next query and without.

    `summary` is what `kvlib.claims.formulation.rates_summary` returns. Parameters: `layer` (from
    1), `part`, `head`, `distortion` (one of the stored ones).
    """
    rows = _cache_rows(summary)
    base = alt.Chart(rows).transform_filter(
        "datum.part == part && datum.head == head && datum.layer == layer"
    )
    x_scale = alt.Scale(
        type="log", domain=[rows["distortion"].min(), rows["distortion"].max()], nice=False
    )
    x_axis = alt.Axis(
        title="relative distortion D / tr Σ", format="~g", values=[0.01, 0.03, 0.1, 0.3, 0.5]
    )
    y_scale = alt.Scale(domain=[0, float(rows["without"].max())], nice=True)
    y_axis = alt.Axis(title="bits per token and head", format="d", tickCount=6)
    x = alt.X("distortion:Q", scale=x_scale, axis=x_axis)

    def y(field: str) -> alt.Y:
        return alt.Y(f"{field}:Q", scale=y_scale, axis=y_axis)

    saved = base.mark_area(color=ORANGE, opacity=0.18).encode(x=x, y=y("known"), y2="without:Q")
    tooltip = [
        alt.Tooltip("distortion:Q", title="relative distortion", format="~g"),
        alt.Tooltip("without:Q", title="bits without the query", format=".1f"),
        alt.Tooltip("known:Q", title="with it", format=".1f"),
    ]
    without = base.mark_line(
        color=BLUE, strokeWidth=2, point=alt.OverlayMarkDef(size=22, color=BLUE)
    ).encode(x=x, y=y("without"), tooltip=tooltip)
    known = base.mark_line(color=ORANGE, strokeDash=DASHED, strokeWidth=2).encode(x=x, y=y("known"))
    here = base.transform_filter("abs(datum.distortion - distortion) < 1e-6")
    rule = here.mark_rule(color=GREEN, strokeDash=DOTTED, strokeWidth=1.5).encode(x=x)
    rule = parts.rule_for("distortion", rule)
    points = [
        here.mark_point(color=color, filled=True, size=60, opacity=1).encode(x=x, y=y(field))
        for color, field in ((BLUE, "without"), (ORANGE, "known"))
    ]
    reading = parts.reading(
        here,
        f"'Layer ' + layer + ', ' + {CODED} + ', '"
        " + (head == 'mean' ? 'mean over heads' : 'head ' + head)"
        " + ': at a relative distortion of ' + format(distortion, '~g') + ', '"
        " + format(datum.without, '.1f') + ' bits per token and head without the next query, '"
        " + format(datum.known, '.1f') + ' with it. It saves ' + format(datum.saving, '.1f')"
        " + ' bits (95% interval ' + format(datum.low, '.1f') + ' to ' + format(datum.high, '.1f')"
        " + '), ' + format(datum.saving / max(datum.without, 0.01), '.0%') + '. The query is a"
        " genie\u2019s: it has seen the whole context.'",
    )
    key = parts.legend(
        (BLUE, SOLID, "without the query"),
        (ORANGE, DASHED, "with the genie's query"),
    )
    return parts.picture(
        *(saved, without, known, rule, *points, *key, reading),
        parameters=("layer", "part", "head", "distortion"),
    )


def saving_by_layer(summary: pd.DataFrame, distortion: float = 0.09) -> Explorer:
    """What the next query saves, layer by layer; keys or values and the distortion to choose."""
    return Explorer(
        saving_by_layer_chart(summary),
        [
            Choice("part", "Coded", list(PARTS.items())),
            _distortions(summary, distortion),
        ],
        "Bits per token and head that the next query saves, for each layer",
        Origin(["kv_rates"], IN_BITS),
    )


def saving_by_layer_chart(summary: pd.DataFrame) -> alt.LayerChart:
    """What the next query saves in each layer, mean over heads, with its interval.

    `summary` is what `kvlib.claims.formulation.rates_summary` returns. Parameters: `part`,
    `distortion`.
    """
    rows = _cache_rows(summary[summary["head"] == "mean"]).drop(columns=["head", "known"])
    near = "abs(datum.distortion - distortion) < 1e-6"
    base = alt.Chart(rows).transform_filter(near)
    x = alt.X(
        "layer:Q",
        scale=alt.Scale(domain=[1, int(rows["layer"].max())], nice=False),
        axis=alt.Axis(title="layer", format="d", tickCount=8),
    )
    scale = alt.Scale(domain=[0, 1.2 * float(rows["high"].max())], nice=True)
    y_axis = alt.Axis(title="bits saved per token and head", format="~g", tickCount=6)
    y = alt.Y("saving:Q", scale=scale, axis=y_axis)
    other = (
        base.transform_filter("datum.part != part")
        .mark_line(color=GREY, opacity=0.6, strokeWidth=1.5)
        .encode(x=x, y=y)
    )
    picked = base.transform_filter("datum.part == part")
    band = picked.mark_area(color=BLUE, opacity=0.2).encode(
        x=x, y=alt.Y("low:Q", scale=scale, axis=y_axis), y2="high:Q"
    )
    line = picked.mark_line(
        color=BLUE, strokeWidth=2, point=alt.OverlayMarkDef(size=22, color=BLUE)
    ).encode(x=x, y=y)
    once = picked.transform_joinaggregate(
        MEAN="mean(saving)", COST="mean(without)", MOST="max(saving)"
    )
    reading = parts.reading(
        once.transform_filter("datum.saving == datum.MOST"),
        f"'At a relative distortion of ' + format(distortion, '~g') + ' the genie\u2019s query"
        f" saves ' + format(datum.MEAN, '.1f') + ' of ' + format(datum.COST, '.1f') + ' bits for '"
        f" + {CODED} + ', mean over layers; most in layer ' + datum.layer + ', '"
        " + format(datum.MOST, '.1f') + ' bits.'",
    )
    key = parts.legend((BLUE, SOLID, "chosen: mean, with its 95% band"), (GREY, SOLID, "the other"))
    return parts.picture(*(other, band, line, *key, reading), parameters=("part", "distortion"))


def _distortions(summary: pd.DataFrame, value: float, axis: Literal["", "x"] = "") -> Slider:
    values = sorted(round(float(d), 6) for d in set(summary["distortion"]))
    label = ("distortion", "Relative distortion")
    return Slider(*label, values=values, value=value, scale="log", axis=axis)


def _cache_rows(summary: pd.DataFrame) -> pd.DataFrame:
    """What the charts need of the summary of rates: layers and heads from 1, short floats."""
    rows = summary.copy()
    rows["layer"] = rows["layer"].astype(int) + 1
    rows["head"] = [h if h == "mean" else str(int(h) + 1) for h in rows["head"]]
    values = ["without", "known", "saving", "low", "high"]
    rows[values] = rows[values].astype(float).map(parts.steady).round(2)
    return rows
