"""Time against the number of cards, for models of three sizes."""

from __future__ import annotations

import altair as alt
import pandas as pd

from kvlib.charts import parts
from kvlib.charts.controls import Choice, Explorer, Origin, Slider
from kvlib.charts.inks import BLUE, GREEN, GREY, ORANGE
from kvlib.charts.parts import DASHED, DOTTED, SOLID

LOOKS = ((GREEN, DOTTED, "triangle-up"), (BLUE, SOLID, "circle"), (ORANGE, DASHED, "square"))


def minutes(table: pd.DataFrame) -> Explorer:
    """Time of a study against the number of cards; model, card and their number to choose.

    `table` is what `kvlib.study.reproduce.hours_table` returns.
    """
    rows = parts.rounded(with_sentences(table), 4)
    counts = sorted(set(rows["cards"]))
    middle = {"value": counts[len(counts) // 2 - 1], "scale": "log", "unit": "cards"}
    middle |= {"axis": "x"}
    return Explorer(
        minutes_chart(rows),
        [
            Choice("model", "Model", parts.texts_of(rows["model"])),
            Choice("card", "Card", parts.texts_of(rows["card"])),
            Slider("cards", "Number of cards", values=counts, **middle),
        ],
        "Minutes of one study against the number of cards, for models of three sizes",
        Origin(units={"minutes": "minutes", "longest": "minutes"}),
    )


def minutes_chart(rows: pd.DataFrame) -> alt.LayerChart:
    """Minutes against cards, a line a model. Parameters: `model`, `card`, `cards`."""
    base = alt.Chart(rows).transform_filter("datum.card == card")
    ticks = sorted(set(rows["cards"]))
    x = alt.X(
        "cards:Q",
        scale=alt.Scale(type="log", base=2, nice=False, padding=10),
        axis=alt.Axis(title="cards", values=ticks, format=",d"),
    )
    y = alt.Y(
        "minutes:Q",
        scale=alt.Scale(type="log", nice=False, padding=10),
        axis=parts.log_axis("time until all is made (minutes)"),
    )
    looks = dict(zip(dict.fromkeys(rows["model"]), LOOKS, strict=False))
    lines = [
        base.transform_filter(f"datum.model == '{model}'")
        .mark_line(
            color=ink,
            strokeDash=dash,
            strokeWidth=2,
            point=alt.OverlayMarkDef(size=55, color=ink, shape=shape),
        )
        .encode(x=x, y=y)
        for model, (ink, dash, shape) in looks.items()
    ]
    once = base.transform_filter("datum.model == model && datum.cards == cards")
    rule = once.mark_rule(color=GREY, strokeDash=DOTTED, strokeWidth=1.5).encode(x=x)
    rule = parts.rule_for("cards", rule)
    key = parts.legend(*((ink, dash, model) for model, (ink, dash, _) in looks.items()))
    return parts.picture(
        *(rule, *lines, *key, parts.reading(once)), parameters=("model", "card", "cards")
    )


def with_sentences(table: pd.DataFrame) -> pd.DataFrame:
    """The table with what each row says, and a row for each number of cards that none fits on."""

    def missing(model: str, card: str, cards: int) -> str:
        return f"{model} does not fit on {cards} x {card}."

    said = table.assign(sentence=[_said(row) for row in table.to_dict("records")])
    every = {name: list(dict.fromkeys(table[name])) for name in ("model", "card")}
    counts = [int(count) for count in sorted(set(table["cards"]))]
    return parts.with_gaps(said, missing, **every, cards=counts)


def _said(row: dict) -> str:
    workers = f"{row['workers']} worker" + "s" * (row["workers"] != 1)
    return (
        f"{row['model']} on {row['cards']} x {row['card']}: {_time(row['minutes'], 3)} with "
        f"{workers}; an item and a load alone take {_time(row['longest'], 2)}."
    )


def _time(minutes: float, digits: int) -> str:
    """Minutes; below one of them seconds."""
    if minutes < 1:
        return f"{60 * minutes:.{digits}g} seconds"
    return f"{minutes:.{digits}g} minutes"
