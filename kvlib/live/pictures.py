"""Charts of the bench: laws side by side, and a measured curve beside the stored ones."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import numpy as np
import pandas as pd

from kvlib import fit, names, store
from kvlib.charts import parts
from kvlib.charts.controls import Choice, Explorer, Slider
from kvlib.charts.inks import BLUE, GREY, ORANGE

GUTTER = 1.08  # where the second column of bars begins, in widths of the first
COMPARED = "world-english-bible"  # the text of the stored curves beside a measured one
OPACITY = (alt.value(0.6), alt.value(0.25))  # of the full law's first guess, and of other tokens


def recorded(grid: pd.DataFrame, budget: int) -> Explorer:
    """The laws of `Lab.grid` as bars side by side; policy and budget to choose."""
    table = grid.drop(columns=["kl_nats", "tv"])
    table["left"] = np.where(table["side"] == "full", 0, GUTTER)
    table["right"] = (table["left"] + table["share"]).round(4)
    table["percent"] = [f"{100 * share:.1f}%" for share in table["share"]]
    picked = "datum.policy == policy && datum.budget == budget"
    base = alt.Chart(table).transform_filter(picked)
    x = alt.X("left:Q", scale=alt.Scale(domain=[0, 1 + GUTTER], nice=False), axis=None)
    y = alt.Y("rank:O", axis=None)
    colour = alt.Color(
        "side:N",
        scale=alt.Scale(range=[BLUE, ORANGE]),
        sort=["full"],
        legend=None,
    )
    bars = base.mark_bar().encode(
        x=x, x2="right:Q", y=y, color=colour, opacity=alt.condition("datum.first", *OPACITY)
    )
    words = base.mark_text(align="left", dx=6).encode(x=x, y=y, text="token:N")
    end = alt.X("end:Q", scale=alt.Scale(domain=[0, 1 + GUTTER], nice=False), axis=None)
    percents = base.transform_calculate(end="datum.left + 1").mark_text(align="right", dx=-4)
    percents = percents.encode(x=end, y=y, text="percent:N")
    heads = base.transform_filter("datum.rank == 1").transform_calculate(
        head="datum.side == 'full' ? 'everything read' : budget + ' kept:\\n' + policy"
    )
    heads = heads.mark_text(
        align="left", baseline="bottom", lineBreak="\n", fontWeight="bold", dx=2
    ).encode(x=x, y=alt.value(-22), text="head:N")
    layers = (bars, words, percents, heads, parts.reading(base, dy=-76))
    budgets = sorted(int(value) for value in table["budget"].unique())
    return Explorer(
        parts.picture(*layers, parameters=("policy", "budget"), height=260),
        [
            Choice("policy", "Policy", parts.texts_of(table["policy"])),
            Slider("budget", "Kept", values=budgets, value=budget, scale="log", unit="tokens"),
        ],
        "The likeliest next tokens after all of a text, beside those after what was kept of it",
    )


def curve_rows(data: fit.Curve, source: str) -> pd.DataFrame:
    """A curve as rows of `curves`: `source, window, kl_nats, sentence`."""
    some = [k for k in range(len(data.last)) if data.last[k] in (1, 8, 32, 128, 512)]
    costs = ", ".join(f"{data.mean[k]:.2g} with {data.last[k]}" for k in some)
    sentence = f"{source}, {data.n_documents} stretches.\nNats lost, by tokens kept: {costs}."
    rows = pd.DataFrame({"source": source, "window": data.window, "kl_nats": data.mean})
    return parts.rounded(rows, 3).assign(sentence=sentence)


def stored_curves() -> list[pd.DataFrame]:
    """The stored curves on the World English Bible, to compare a measured one with."""
    tables = {k: v for k, v in store.stored("sensitivity").items() if k[1] == COMPARED}
    return [
        curve_rows(
            fit.curve(store.load_table(path)), f"{names.name_of(model)} on {names.name_of(text)}"
        )
        for (model, text), path in tables.items()
    ]


def curves(tables: Sequence[pd.DataFrame]) -> Explorer:
    """Measured and stored curves together; the one to choose stands out, at first the last."""
    table = pd.concat(tables, ignore_index=True)
    newest = table["source"].iloc[-1]
    x = alt.X(
        "window:Q",
        scale=alt.Scale(type="log", base=2, nice=False),
        axis=alt.Axis(title="window kept (tokens)", format=",d", labelSeparation=4),
    )
    y = alt.Y(
        "kl_nats:Q",
        scale=alt.Scale(type="log", nice=False),
        axis=parts.log_axis("mean KL (nats)"),
    )
    base = alt.Chart(table)
    picked = base.transform_filter("datum.source == source")
    others = base.mark_line(color=GREY, opacity=0.5).encode(x=x, y=y, detail="source:N")
    point = alt.OverlayMarkDef(size=30, color=BLUE)
    chosen = picked.mark_line(color=BLUE, point=point).encode(x=x, y=y)
    layers = (others, chosen, parts.reading(picked, dy=-40))
    return Explorer(
        parts.picture(*layers, parameters=("source",)),
        [Choice("source", "Curve", parts.texts_of(table["source"]), value=newest)],
        "Mean divergence against the window kept, measured here and stored",
    )
