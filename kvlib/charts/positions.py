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
    options_of,
    policy_reading,
    rounded,
)
from kvlib.names import name_of


def position_curves(tables: dict[str, pd.DataFrame]) -> Explorer:
    """Divergence against window for suffixes at other positions; model and window to choose.

    `tables` is what `kvlib.claims.positions.stored_positions` returns.
    """
    table = position_rows(tables)
    shared = sorted(set.intersection(*(set(part["window"]) for _, part in table.groupby("model"))))
    return Explorer(
        position_curves_chart(table),
        [
            Choice("model", "Model", options_of(table["model"])),
            Slider(
                "window",
                "Window kept",
                values=shared,
                value=shared[len(shared) // 2],
                scale="log",
                unit="tokens",
            ),
        ],
        "Divergence from the full-context law, for a suffix restarted, kept in place, or shuffled",
    )


def position_rows(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Means over documents: `model, variant, window, mean, sentence`, the small model first."""
    parts = []
    for model in sorted(tables, key=lambda name: name != "small-gpt2"):
        by = tables[model].groupby(["variant", "window", "doc"], sort=False)["kl_nats"].mean()
        mean = by.groupby(["variant", "window"], sort=False).mean().rename("mean").reset_index()
        wide = mean.pivot(index="window", columns="variant", values="mean")
        n = tables[model]["doc"].nunique()
        words = {
            window: f"{name_of(model)}, window {window}: "
            + ", ".join(
                f"{variant} {row[variant]:.3g}" for variant in ("restarted", "kept", "shuffled")
            )
            + f" nats (means over {n} documents)."
            for window, row in wide.iterrows()
        }
        parts.append(mean.assign(model=model, sentence=mean["window"].map(words)))
    table = pd.concat(parts, ignore_index=True)
    return rounded(table[["model", "variant", "window", "mean", "sentence"]], 4)


def position_curves_chart(table: pd.DataFrame) -> alt.LayerChart:
    """Divergence against window, a line a variant. Parameters: `model`, `window`."""
    base = alt.Chart(table).transform_filter("datum.model == model")
    ticks = sorted(table["window"].unique().tolist())
    x = alt.X(
        "window:Q",
        scale=alt.Scale(type="log", base=2, nice=False, padding=10),
        axis=alt.Axis(title="window kept (tokens)", values=ticks, format="d"),
    )
    y = alt.Y(
        "mean:Q",
        scale=alt.Scale(type="log", nice=False),
        axis=log_axis("mean KL (nats)"),
    )
    styles = (
        ("restarted", BLUE, [1, 0], "circle"),
        ("kept", ORANGE, [6, 4], "square"),
        ("shuffled", GREEN, [2, 3], "triangle-up"),
    )
    layers = [
        base.transform_filter(f"datum.variant == '{variant}'")
        .mark_line(
            color=colour,
            strokeWidth=2,
            strokeDash=dash,
            point=alt.OverlayMarkDef(size=55, color=colour, shape=shape),
        )
        .encode(x=x, y=y)
        for variant, colour, dash, shape in styles
    ]
    once = base.transform_filter("datum.window == window && datum.variant == 'restarted'")
    rule = once.mark_rule(color=GREY, strokeDash=[2, 3], strokeWidth=1.5).encode(x=x)
    key = legend(
        (BLUE, [1, 0], "restarted at 0"),
        (ORANGE, [6, 4], "kept at its positions"),
        (GREEN, [2, 3], "old context shuffled"),
    )
    model = table["model"].iloc[0]
    return (
        alt.layer(rule, *layers, *key, policy_reading(once))
        .add_params(alt.param("model", value=model), alt.param("window", value=16))
        .properties(width="container", height=HEIGHT)
    )
