"""Cache policies: which loses least, and what the law of suffixes foretells of each."""

from __future__ import annotations

import altair as alt
import pandas as pd

from kvlib.charts import parts
from kvlib.charts.controls import Choice, Explorer, Slider
from kvlib.charts.inks import BLUE, GREY, ORANGE
from kvlib.charts.parts import DASHED, SOLID
from kvlib.names import name_of

BUDGETS = (16, 64, 256, 512)  # of every setting, whatever its protocol
BEST_KNOWN = name_of("sinks")  # each setting has it
SETTING = "Protocol, model and text"


# --- who loses least --------------------------------------------------------------------------


def ranking(summary: pd.DataFrame, budget: int = 64) -> Explorer:
    """Policies in the order of their distortion; protocol, model and text, and budget to choose.

    `summary` is what `kvlib.claims.policy_rows.summary` returns.
    """
    table = ranking_rows(summary)
    entries = {"unit": "entries", "scale": "log"}
    return Explorer(
        ranking_chart(table),
        [
            Choice("setting", SETTING, parts.texts_of(table["setting"])),
            Slider("budget", "Budget", values=BUDGETS, value=budget, **entries),
        ],
        "Cache policies from the one that loses least to the one that loses most",
    )


def ranking_chart(table: pd.DataFrame) -> alt.LayerChart:
    """Policies from the least distortion to the most. Parameters: `setting`, `budget`."""
    base = alt.Chart(table).transform_filter("datum.setting == setting && datum.budget == budget")
    scale = alt.Scale(type="log", nice=False)
    axis = parts.log_axis("mean KL (nats)")
    order = alt.Y(
        "policy:N",
        sort=alt.EncodingSortField("mean", op="min"),
        axis=alt.Axis(title=None, labelLimit=210, labelExpr="split(datum.label, ', ')"),
    )
    interval = base.mark_rule(color=GREY, strokeWidth=3, opacity=0.7).encode(
        x=alt.X("low:Q", scale=scale, axis=axis), x2="high:Q", y=order
    )
    tooltip = [
        alt.Tooltip("policy:N"),
        alt.Tooltip("mean:Q", title="mean (nats)", format=".3g"),
        alt.Tooltip("low:Q", title="95% from", format=".3g"),
        alt.Tooltip("high:Q", title="to", format=".3g"),
        alt.Tooltip("median:Q", title="median over tokens", format=".3g"),
        alt.Tooltip("p95:Q", title="95th percentile", format=".3g"),
        alt.Tooltip("top1:Q", title="same first guess", format=".0%"),
        alt.Tooltip("documents:Q"),
    ]
    mean = base.mark_point(color=BLUE, filled=True, size=90, opacity=1).encode(
        x=alt.X("mean:Q", scale=scale, axis=axis), y=order, tooltip=tooltip
    )
    one = base.transform_filter(f"datum.policy == '{BEST_KNOWN}'")
    return parts.picture(
        *(interval, mean, parts.reading(one)), parameters=("setting", "budget"), height=260
    )


def ranking_rows(summary: pd.DataFrame) -> pd.DataFrame:
    """Rows of a summary with their `setting`, and `sentence`: who is best there."""
    table = parts.rounded(summary[summary["budget"].isin(BUDGETS)].copy(), 4)
    table["policy"] = table["policy"].map(name_of)
    keys = zip(table["model"], table["corpus"], table["protocol"], strict=True)
    table["setting"] = [_setting(*key) for key in keys]
    sentences = {}
    for (setting, budget), part in table.groupby(["setting", "budget"], sort=False):
        by_mean = part.sort_values("mean")
        best, worst = by_mean.iloc[0], by_mean.iloc[-1]
        protocol, model, text = setting.split(" · ")
        sentences[setting, budget] = (
            f"With {budget} entries, {protocol}, {model} on {text}: {best['policy']} loses least, "
            f"{best['mean']:.3g} nats (95% interval {best['low']:.3g} to {best['high']:.3g}, "
            f"{best['documents']} documents), and {worst['policy']} most, {worst['mean']:.3g}."
        )
    pairs = zip(table["setting"], table["budget"], strict=True)
    table["sentence"] = [sentences[pair] for pair in pairs]
    columns = ["setting", "budget", "policy", "mean", "low", "high", "median", "p95", "top1"]
    return table[[*columns, "documents", "sentence"]]


# --- what the law foretells -------------------------------------------------------------------


def curves(summary: pd.DataFrame, foretold: pd.DataFrame) -> Explorer:
    """Distortion against budget beside what the law of suffixes foretells; setting and policy.

    The tables are what `policy_rows.summary` and `policy_laws.predictions` of `kvlib.claims`
    return. Policies that some setting lacks are drawn, and can't be chosen.
    """
    table = curve_rows(summary, foretold)
    every = set.intersection(*(set(part["policy"]) for _, part in table.groupby("setting")))
    shared = table["policy"][table["policy"].isin(every)]
    return Explorer(
        curves_chart(table),
        [
            Choice("setting", SETTING, parts.texts_of(table["setting"])),
            Choice("policy", "Policy", parts.texts_of(shared), value=BEST_KNOWN),
        ],
        "Distortion of a cache policy against its budget, and what the law foretells",
    )


def curves_chart(table: pd.DataFrame) -> alt.LayerChart:
    """Distortion against budget beside the law's prediction. Parameters: `setting`, `policy`."""
    base = alt.Chart(table).transform_filter("datum.setting == setting")
    picked = base.transform_filter("datum.policy == policy")
    ticks = sorted(table["budget"].unique().tolist())
    x = alt.X(
        "budget:Q",
        scale=alt.Scale(type="log", base=2, nice=False, domain=[ticks[0], ticks[-1]]),
        axis=alt.Axis(title="budget (entries a query sees)", values=ticks, format="d"),
    )
    scale = alt.Scale(type="log", nice=False)
    axis = parts.log_axis("mean KL (nats)")
    y = alt.Y("mean:Q", scale=scale, axis=axis)
    others = base.mark_line(color=GREY, opacity=0.35, strokeWidth=1.5).encode(
        x=x, y=y, detail="policy:N"
    )
    band = picked.mark_area(color=BLUE, opacity=0.2).encode(
        x=x, y=alt.Y("low:Q", title="", scale=scale), y2="high:Q"
    )
    law = picked.mark_line(color=ORANGE, strokeDash=DASHED, strokeWidth=2).encode(
        x=x, y=alt.Y("predicted:Q", title="", scale=scale)
    )
    measured = picked.mark_line(
        color=BLUE, strokeWidth=2, point=alt.OverlayMarkDef(size=50, color=BLUE)
    ).encode(
        x=x,
        y=y,
        tooltip=[
            alt.Tooltip("budget:Q"),
            alt.Tooltip("mean:Q", title="measured (nats)", format=".3g"),
            alt.Tooltip("predicted:Q", title="foretold", format=".3g"),
            alt.Tooltip("off:Q", title="measured / foretold", format=".2f"),
        ],
    )
    key = parts.legend(
        (BLUE, SOLID, "measured, with 95% band"),
        (ORANGE, DASHED, "foretold by the law of suffixes"),
        (GREY, SOLID, "other policies"),
    )
    reading = parts.reading(picked.transform_filter(f"datum.budget == {ticks[0]}"))
    return parts.picture(
        *(others, band, law, measured, *key, reading), parameters=("setting", "policy")
    )


def curve_rows(summary: pd.DataFrame, foretold: pd.DataFrame) -> pd.DataFrame:
    """Measured means with bands, and what the law foretells, a row a setting, policy and budget."""
    keys = ["model", "corpus", "protocol", "policy", "budget"]
    table = foretold.merge(summary[[*keys, "low", "high", "documents"]], on=keys)
    table["policy"] = table["policy"].map(name_of)
    triples = zip(table["model"], table["corpus"], table["protocol"], strict=True)
    table["setting"] = [_setting(*triple) for triple in triples]
    table["off"] = [item.value for item in table["factor"]]
    sentences = {}
    for (setting, policy), part in table.groupby(["setting", "policy"], sort=False):
        first, last = part.iloc[0], part.iloc[-1]
        sentences[setting, policy] = (
            f"{setting}: {policy} has {first['off']:.2g} times the foretold distortion at "
            f"{first['budget']} entries and {last['off']:.2g} times at {last['budget']} "
            f"(95% intervals {_span(first)} and {_span(last)}, {first['documents']} documents)."
        )
    table["sentence"] = [
        sentences[pair] for pair in zip(table["setting"], table["policy"], strict=True)
    ]
    columns = ["setting", "policy", "budget", "mean", "low", "high", "predicted", "off", "sentence"]
    return parts.rounded(table[columns], 4)


def _span(row: pd.Series) -> str:
    """A factor's interval."""
    return f"{row['factor'].low:.2g} to {row['factor'].high:.2g}"


def _setting(model: str, corpus: str, protocol: str) -> str:
    """What a reader chooses among: protocol, model and text."""
    return f"{protocol} · {name_of(model)} · {name_of(corpus)}"
