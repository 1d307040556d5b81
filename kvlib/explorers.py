"""The book's explorers: a chart of `kvlib.charts` with the controls that move it."""

from __future__ import annotations

import pandas as pd

from kvlib import charts
from kvlib.controls import Choice, Explorer, Slider


def two_ways_to_forget(alpha: float, ratio: float) -> Explorer:
    """A power law beside a geometric one; the exponent and the ratio to choose."""
    return Explorer(
        charts.two_ways_to_forget(),
        [
            Slider("alpha", "Exponent α of the power law", 0.1, 2, 0.05, value=alpha),
            Slider("ratio", "Share kept by the geometric law", 0.5, 0.99, 0.01, value=ratio),
        ],
        "The share of questions missed when only so many sentences are kept, for two laws",
    )


def sensitivity(curves: pd.DataFrame, window: int = 128) -> Explorer:
    """Divergence against the window kept; model, text, divergence and window to choose.

    `curves` is what `kvlib.fit.summaries` returns; the first model and corpus come up first.
    """
    model, corpus = curves["model"].iloc[0], curves["corpus"].iloc[0]
    return Explorer(
        charts.sensitivity(curves, model, corpus, window),
        [
            Choice("model", "Model", _options(curves["model"])),
            Choice("corpus", "Text", _options(curves["corpus"])),
            Choice("divergence", "Distance", _options(curves["divergence"])),
            Slider(
                "window",
                "Window kept",
                1,
                int(curves["last"].max()),
                value=window,
                scale="log",
                unit="tokens",
            ),
        ],
        "How far the next-token law given the last tokens alone is from the law given all of them",
    )


def extrapolation(points: pd.DataFrame, predictions: pd.DataFrame, split: int) -> Explorer:
    """Two laws fitted to the windows up to a split that the reader moves.

    The tables are what `kvlib.fit.contest_tables` returns.
    """
    splits = sorted(int(value) for value in predictions["split"].unique())
    sources = points[["source", "name"]].drop_duplicates()
    return Explorer(
        charts.extrapolation(points, predictions, sources["source"].iloc[0], split),
        [
            Choice("source", "Model and text", list(sources.itertuples(index=False, name=None))),
            Slider(
                "split", "Fit windows up to", values=splits, value=split, scale="log", unit="tokens"
            ),
        ],
        "A power law and an exponential, fitted to short windows and drawn through the long ones",
    )


def _options(column: pd.Series) -> list[tuple[str, str]]:
    return [(key, charts.name_of(key)) for key in dict.fromkeys(column)]
