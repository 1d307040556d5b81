"""The book's explorers: a chart of `kvlib.charts` with the controls that move it."""

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
    policy_reading,
    rounded,
    span,
)
from kvlib.names import name_of


def policy_ranking(summary: pd.DataFrame) -> Explorer:
    """Policies in the order of their distortion; protocol, model and text, and budget to choose.

    `summary` is what `kvlib.claims.policy_rows.summary` returns.
    """
    table = settings(summary)
    return Explorer(
        ranking(table),
        [
            Choice(
                "setting", "Protocol, model and text", [(c, c) for c in table["setting"].unique()]
            ),
            Slider(
                "budget",
                "Budget",
                values=BUDGETS,
                value=64,
                scale="log",
                unit="entries",
            ),
        ],
        "Cache policies from the one that loses least to the one that loses most",
    )


def policy_curves(summary: pd.DataFrame, foretold: pd.DataFrame) -> Explorer:
    """Distortion against budget beside what the law of suffixes foretells; setting and policy."""
    table = lines(summary, foretold)
    every = set.intersection(*(set(part["policy"]) for _, part in table.groupby("setting")))
    policies = [name for name in table["policy"].unique() if name in every]
    return Explorer(
        overlay(table),
        [
            Choice(
                "setting", "Protocol, model and text", [(c, c) for c in table["setting"].unique()]
            ),
            Choice("policy", "Policy", [(p, p) for p in policies], value="4 sinks + recent"),
        ],
        "Distortion of a cache policy against its budget, and what the law foretells",
    )


BUDGETS = (16, 64, 256, 512)  # of every setting, whatever its protocol
SHAPES = {"reencode": "square", "online": "circle", "prefill": "triangle-up"}
COLOURS = {"reencode": GREEN, "online": BLUE, "prefill": ORANGE}
DASHES = {"reencode": [2, 3], "online": [1, 0], "prefill": [6, 4]}


def setting_of(model: str, corpus: str, protocol: str) -> str:
    """What a reader chooses among: protocol, model and text."""
    return f"{protocol} · {name_of(model)} · {name_of(corpus)}"


def settings(summary: pd.DataFrame) -> pd.DataFrame:
    """Rows of `policy_checks.summary` with their `setting`, and `sentence`: who is best there."""
    table = rounded(summary[summary["budget"].isin(BUDGETS)].copy(), 4)
    keys = zip(table["model"], table["corpus"], table["protocol"], strict=True)
    table["setting"] = [setting_of(*key) for key in keys]
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


def ranking(table: pd.DataFrame) -> alt.LayerChart:
    """Policies from the least distortion to the most. Parameters: `setting`, `budget`."""
    setting, budget = table["setting"].iloc[0], 64
    base = alt.Chart(table).transform_filter("datum.setting == setting && datum.budget == budget")
    scale = alt.Scale(type="log", nice=False)
    axis = log_axis("mean KL (nats)")
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
    one = base.transform_filter("datum.policy == '4 sinks + recent'")  # each setting has it
    return (
        alt.layer(interval, mean, policy_reading(one))
        .add_params(alt.param("setting", value=setting), alt.param("budget", value=budget))
        .properties(width="container", height=260)
    )


def lines(summary: pd.DataFrame, foretold: pd.DataFrame) -> pd.DataFrame:
    """Measured means with bands, and what the law foretells, a row a setting, policy and budget."""
    keys = ["model", "corpus", "protocol", "policy", "budget"]
    table = foretold.merge(summary[[*keys, "low", "high", "documents"]], on=keys)
    triples = zip(table["model"], table["corpus"], table["protocol"], strict=True)
    table["setting"] = [setting_of(*triple) for triple in triples]
    table["off"] = [item.value for item in table["factor"]]
    sentences = {}
    for (setting, policy), part in table.groupby(["setting", "policy"], sort=False):
        first, last = part.iloc[0], part.iloc[-1]
        sentences[setting, policy] = (
            f"{setting}: {policy} has {first['off']:.2g} times the foretold distortion at "
            f"{first['budget']} entries and {last['off']:.2g} times at {last['budget']} "
            f"(95% intervals {span(first)} and {span(last)}, {first['documents']} documents)."
        )
    table["sentence"] = [
        sentences[pair] for pair in zip(table["setting"], table["policy"], strict=True)
    ]
    columns = ["setting", "policy", "budget", "mean", "low", "high", "predicted", "off", "sentence"]
    return rounded(table[columns], 4)


def overlay(table: pd.DataFrame) -> alt.LayerChart:
    """Distortion against budget beside the law's prediction. Parameters: `setting`, `policy`."""
    setting, policy = table["setting"].iloc[0], "4 sinks + recent"
    base = alt.Chart(table).transform_filter("datum.setting == setting")
    picked = base.transform_filter("datum.policy == policy")
    ticks = sorted(table["budget"].unique().tolist())
    x = alt.X(
        "budget:Q",
        scale=alt.Scale(type="log", base=2, nice=False, domain=[ticks[0], ticks[-1]]),
        axis=alt.Axis(title="budget (entries a query sees)", values=ticks, format="d"),
    )
    scale = alt.Scale(type="log", nice=False)
    axis = log_axis("mean KL (nats)")
    y = alt.Y("mean:Q", scale=scale, axis=axis)
    others = base.mark_line(color=GREY, opacity=0.35, strokeWidth=1.5).encode(
        x=x, y=y, detail="policy:N"
    )
    band = picked.mark_area(color=BLUE, opacity=0.2).encode(
        x=x, y=alt.Y("low:Q", title="", scale=scale), y2="high:Q"
    )
    law = picked.mark_line(color=ORANGE, strokeDash=[6, 4], strokeWidth=2).encode(
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
    key = legend(
        (BLUE, [1, 0], "measured, with 95% band"),
        (ORANGE, [6, 4], "foretold by the law of suffixes"),
        (GREY, [1, 0], "other policies"),
    )
    reading = policy_reading(picked.transform_filter(f"datum.budget == {ticks[0]}"))
    return (
        alt.layer(others, band, law, measured, *key, reading)
        .add_params(alt.param("setting", value=setting), alt.param("policy", value=policy))
        .properties(width="container", height=HEIGHT)
    )


def compared(summary: pd.DataFrame, policies: tuple[str, ...]) -> pd.DataFrame:
    """The three protocols at equal budgets, for policies and models that have all of them."""
    table = summary[summary["policy"].isin(policies) & summary["budget"].isin(BUDGETS)].copy()
    table["source"] = [
        f"{name_of(model)} · {name_of(corpus)}"
        for model, corpus in zip(table["model"], table["corpus"], strict=True)
    ]
    keys = ["source", "policy", "budget"]
    full = table.groupby(keys)["protocol"].transform("nunique") == len(SHAPES)
    table = table[full]
    sentences = {}
    for key, part in table.groupby(keys, sort=False):
        at = part.set_index("protocol")["mean"]
        who, where = key[1][:1].upper() + key[1][1:], key[0].replace(" · ", " on ")
        sentences[key] = (
            f"{who} with {key[2]} entries, {where}: re-encoded "
            f"{at['reencode']:.3g} nats, online {at['online']:.3g}, after a full prefill "
            f"{at['prefill']:.3g} ({part['documents'].min()} documents, "
            f"{part['tokens'].min()} tokens)."
        )
    triples = zip(*(table[name] for name in keys), strict=True)
    table["sentence"] = [sentences[triple] for triple in triples]
    table["setting"] = table["policy"] + " · " + table["source"]
    table = table.sort_values("policy", key=lambda names: names.map(policies.index), kind="stable")
    columns = ["setting", "budget", "protocol", "mean", "low", "high", "documents", "tokens"]
    return rounded(table[[*columns, "sentence"]], 4)
