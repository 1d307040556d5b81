"""The book's explorers: a chart of `kvlib.charts` with the controls that move it."""

from __future__ import annotations

import pandas as pd

from kvlib import bound_charts, charts, policy_charts
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

    `curves` is what `kvlib.fit.summaries` returns; the first model and corpus come up first. With a
    single divergence there is none to choose.
    """
    model, corpus = curves["model"].iloc[0], curves["corpus"].iloc[0]
    distances = _options(curves["divergence"])
    return Explorer(
        charts.sensitivity(curves, model, corpus, window),
        [
            Choice("model", "Model", _options(curves["model"])),
            Choice("corpus", "Text", _options(curves["corpus"])),
            *([Choice("divergence", "Distance", distances)] if len(distances) > 1 else []),
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


EPSILONS = [round(m * 10.0**k, 6) for k in (-3, -2, -1) for m in (1, 1.5, 2, 3, 5, 7)] + [1.0]


def budget(
    points: pd.DataFrame, alpha: float, epsilon: float = 0.1, megabytes: int = 10
) -> Explorer:
    """ε, α and the budget to choose: the window they ask for, what it weighs, what it buys.

    `points` is what `kvlib.fit.pinned_points` returns.
    """
    sources = points[["source", "name"]].drop_duplicates()
    return Explorer(
        bound_charts.budget(points, sources["source"].iloc[0]),
        [
            Choice("source", "Model and text", list(sources.itertuples(index=False, name=None))),
            Slider(
                "epsilon",
                "Distortion allowed, ε",
                values=EPSILONS,
                value=epsilon,
                scale="log",
                unit="nats",
            ),
            Slider("alpha", "Exponent α", 0.3, 1.5, 0.01, value=alpha),
            Slider("budget", "Budget", 1, 1000, value=megabytes, scale="log", unit="MB"),
        ],
        "How many tokens a cache must keep for a given distortion, and how many a budget holds",
    )


def lacunary(stairs: pd.DataFrame, alpha: float = 0.8, epsilon: float = 0.01) -> Explorer:
    """A source that needs far fewer tokens than its upper bound: ε and α to choose."""
    return Explorer(
        bound_charts.lacunary(stairs),
        [
            Slider(
                "epsilon",
                "Distortion allowed, ε",
                values=EPSILONS[:-1],
                value=epsilon,
                scale="log",
                unit="nats",
            ),
            Slider("alpha", "Exponent α of the upper bound", 0.4, 1.5, 0.05, value=alpha),
        ],
        "Bayes risk of a source whose dependence sits at a few distances only, and its upper bound",
    )


def policy_ranking(summary: pd.DataFrame) -> Explorer:
    """Policies in the order of their distortion; protocol, model and text, and budget to choose.

    `summary` is what `kvlib.policy_checks.summary` returns.
    """
    table = policy_charts.settings(summary)
    return Explorer(
        policy_charts.ranking(table),
        [
            Choice(
                "setting", "Protocol, model and text", [(c, c) for c in table["setting"].unique()]
            ),
            Slider(
                "budget",
                "Budget",
                values=policy_charts.BUDGETS,
                value=64,
                scale="log",
                unit="entries",
            ),
        ],
        "Cache policies from the one that loses least to the one that loses most",
    )


def policy_curves(summary: pd.DataFrame, foretold: pd.DataFrame) -> Explorer:
    """Distortion against budget beside what the law of suffixes foretells; setting and policy."""
    table = policy_charts.lines(summary, foretold)
    every = set.intersection(*(set(part["policy"]) for _, part in table.groupby("setting")))
    policies = [name for name in table["policy"].unique() if name in every]
    return Explorer(
        policy_charts.overlay(table),
        [
            Choice(
                "setting", "Protocol, model and text", [(c, c) for c in table["setting"].unique()]
            ),
            Choice("policy", "Policy", [(p, p) for p in policies], value="4 sinks + recent"),
        ],
        "Distortion of a cache policy against its budget, and what the law foretells",
    )


def plan(table: pd.DataFrame, epsilon: float = 0.2) -> Explorer:
    """The least budget vouched for; model, text and ε to choose.

    `table` is what `kvlib.plan.plan_rows` returns.
    """
    sources = [(name, name) for name in table["source"].unique()]
    epsilons = [value for value in EPSILONS if value >= 0.02]
    return Explorer(
        policy_charts.plan(table, epsilon),
        [
            Choice("source", "Model and text", sources),
            Slider(
                "epsilon",
                "Distortion allowed, ε",
                values=epsilons,
                value=epsilon,
                scale="log",
                unit="nats",
            ),
        ],
        "The least budget that was measured to keep a distortion, and what it weighs",
    )


def three_protocols(summary: pd.DataFrame, policies: tuple[str, ...]) -> Explorer:
    """Re-encoded, online and after a prefill, at equal budgets; what was run, and budget to choose.

    `summary` is of the tokens that all three share.
    """
    table = policy_charts.compared(summary, policies)
    return Explorer(
        policy_charts.protocols(table),
        [
            Choice(
                "setting", "Policy, model and text", [(s, s) for s in table["setting"].unique()]
            ),
            Slider(
                "budget",
                "Budget",
                values=policy_charts.BUDGETS,
                value=64,
                scale="log",
                unit="entries",
            ),
        ],
        "Distortion of one policy in the three protocols, against its budget",
    )


def cache_run(run: pd.DataFrame) -> Explorer:
    """What a token costs in a long generation, bounded and not; `run` is a stored table."""
    table = policy_charts.cache_rows(run)
    tokens = sorted(int(token) for token in table["token"].unique())
    return Explorer(
        policy_charts.cache_run(table),
        [
            Choice("quantity", "Quantity", [("time", "time a token"), ("memory", "memory held")]),
            Slider("token", "Token", values=tokens, value=tokens[len(tokens) // 2]),
        ],
        "Time and memory of each generated token, with a bounded cache and with everything kept",
    )


def position_curves(tables: dict[str, pd.DataFrame]) -> Explorer:
    """Divergence against window for suffixes at other positions; model and window to choose.

    `tables` is what `kvlib.positions.stored_positions` returns.
    """
    table = policy_charts.position_rows(tables)
    shared = sorted(set.intersection(*(set(part["window"]) for _, part in table.groupby("model"))))
    return Explorer(
        policy_charts.position_curves(table),
        [
            Choice("model", "Model", _options(table["model"])),
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


def _options(column: pd.Series) -> list[tuple[str, str]]:
    return [(key, charts.name_of(key)) for key in dict.fromkeys(column)]
