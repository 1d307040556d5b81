"""A long generation: what each token costs with a bounded cache, and with everything kept."""

from __future__ import annotations

import altair as alt
import pandas as pd

from kvlib.charts import parts
from kvlib.charts.controls import Choice, Explorer, Origin, Slider
from kvlib.charts.inks import BLUE, GREY, ORANGE
from kvlib.charts.parts import DASHED, DOTTED, SOLID


def cache_run(run: pd.DataFrame) -> Explorer:
    """What a token costs in a long generation, bounded and not; `run` is a stored table."""
    table = cache_run_rows(run)
    tokens = sorted(int(token) for token in table["token"].unique())
    return Explorer(
        cache_run_chart(table),
        [
            Choice("quantity", "Quantity", [("time", "time a token"), ("memory", "memory held")]),
            Slider("token", "Token", values=tokens, value=tokens[len(tokens) // 2], axis="x"),
        ],
        "Time and memory of each generated token, with a bounded cache and with everything kept",
        Origin(["cache_run"], {"value": "ms or MB"}),
    )


def cache_run_chart(table: pd.DataFrame) -> alt.LayerChart:
    """Time and memory of a token, bounded and unbounded. Parameters: `quantity`, `token`."""
    base = alt.Chart(table).transform_filter("datum.quantity == quantity")
    x = alt.X("token:Q", axis=alt.Axis(title="tokens generated", format=",d"))
    y = alt.Y("value:Q", axis=alt.Axis(title=None, format="~f"))
    layers = [
        base.transform_filter(f"datum.cache == '{name}'")
        .mark_line(color=colour, strokeWidth=2, strokeDash=dash)
        .encode(x=x, y=y)
        for name, colour, dash in (("bounded", BLUE, SOLID), ("unbounded", ORANGE, DASHED))
    ]
    once = base.transform_filter("datum.token == token && datum.cache == 'bounded'")
    rule = once.mark_rule(color=GREY, strokeDash=DOTTED, strokeWidth=1.5).encode(x=x)
    rule = parts.rule_for("token", rule)
    title = (
        alt.Chart(pd.DataFrame({"at": [0]}))
        .transform_calculate(title="quantity == 'time' ? 'ms a token' : 'MB held'")
        .mark_text(align="left", baseline="bottom", fontWeight=600)
        .encode(x=alt.value(0), y=alt.value(-6), text="title:N")
    )
    key = parts.legend((BLUE, SOLID, "BoundedCache"), (ORANGE, DASHED, "everything kept"))
    return parts.picture(
        *(rule, *layers, title, *key, parts.reading(once)), parameters=("quantity", "token")
    )


def cache_run_rows(run: pd.DataFrame) -> pd.DataFrame:
    """`cache_run`'s table, long: `cache, token, quantity, value, sentence`; tokens of both runs."""
    both = run.groupby("token")["cache"].transform("nunique") == 2
    run, tables = run[both], []
    for quantity, values, unit in (
        ("time", 1000 * run["cpu_seconds"], "ms"),
        ("memory", run["cache_bytes"] / 1e6, "MB"),
    ):
        part = run[["cache", "token"]].assign(quantity=quantity, value=values)
        wide = part.pivot(index="token", columns="cache", values="value")
        words = {
            token: f"At token {token:,} the bounded cache takes {row['bounded']:.3g} {unit}"
            f"{' of processor time' * (quantity == 'time')}, the unbounded one "
            f"{row['unbounded']:.3g} {unit}."
            for token, row in wide.iterrows()
        }
        tables.append(part.assign(sentence=part["token"].map(words)))
    return parts.rounded(pd.concat(tables, ignore_index=True), 4)
