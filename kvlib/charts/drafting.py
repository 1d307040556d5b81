"""Drafting without loss: what a window buys that drafts, and what real rounds came to."""

from __future__ import annotations

import altair as alt
import pandas as pd

from kvlib.charts import parts
from kvlib.charts.controls import Choice, Explorer, Origin, Slider
from kvlib.charts.inks import BLUE, GREEN, GREY, ORANGE
from kvlib.charts.parts import DASHED, DOTTED, SOLID, number

CONTEXTS = (2048, 3072, 4096, 6144, 8192)  # tokens; the models read no more
MEASURED = 2048  # tokens of the texts behind which TV was measured
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
LONGEST_DRAFT = 16
FREE = (
    256  # tokens that a pass verifies at about the price of one, while weights are what takes time
)


# --- what a window buys -----------------------------------------------------------------------


def speed(
    table: pd.DataFrame, window: int = 256, draft: int = 4, context: int = 8192, batch: int = 32
) -> Explorer:
    """Window, draft length, context and batch to choose: tokens a round, bytes, speed, break-even.

    `table` is what `claims.drafting.rejections` returns.
    """
    windows = sorted(int(value) for value in table["window"].unique())
    settings = table[["setting", "where"]].drop_duplicates().to_numpy().tolist()
    return Explorer(
        speed_chart(table),
        [
            Choice("setting", "Model and text", [(key, words) for key, words in settings]),
            Slider("window", "Drafter's window", values=windows, value=window, unit="entries",
                   scale="log", axis="x"),
            Slider("draft", "Drafted at a time", 1, LONGEST_DRAFT, value=draft, unit="tokens"),
            Slider("context", "Context", values=CONTEXTS, value=context, unit="tokens",
                   scale="log"),
            Slider("batch", "Batch", values=BATCHES, value=batch, unit="sequences", scale="log"),
        ],
        "How much faster a model writes when its own bounded cache drafts, over the window",
        Origin(["online"], {"window": "entries", "weights": "bytes", "token_bytes": "bytes"}),
    )  # fmt: skip


def speed_chart(table: pd.DataFrame) -> alt.LayerChart:
    """Speed-up over the window, between its limits for short and for long contexts.

    Parameters: `setting`, `window`, `draft`, `context`, `batch`.
    """
    base = with_speed(alt.Chart(parts.rounded(table)).transform_filter("datum.setting == setting"))
    largest = int(table["window"].max())
    scale = alt.Scale(type="log", base=2, domain=[int(table["window"].min()), largest], nice=False)
    x = alt.X(
        "window:Q", scale=scale, axis=parts.window_axis(largest, "drafter's window (entries)")
    )
    axis = alt.Axis(title="times as fast as token by token", format="~g")

    def y(field: str) -> alt.Y:
        return alt.Y(f"{field}:Q", scale=alt.Scale(zero=True, nice=True), axis=axis)

    lines = [
        base.mark_line(color=colour, strokeWidth=width, strokeDash=dash).encode(x=x, y=y(field))
        for field, colour, dash, width in (
            ("tokens", GREY, DASHED, 1.5),
            ("least", GREY, DOTTED, 1.5),
            ("speed", BLUE, SOLID, 2.5),
        )
    ]
    even = alt.Chart(pd.DataFrame({"one": [1]})).mark_rule(color=ORANGE, strokeWidth=1.5)
    even = even.encode(y=y("one"))
    once = base.transform_filter("datum.window == window")
    rule = parts.rule_for("window", once.mark_rule(color=GREEN, strokeWidth=1.5).encode(x=x))
    dot = once.mark_point(color=BLUE, filled=True, size=90, opacity=1).encode(
        x=x,
        y=y("speed"),
        tooltip=[
            alt.Tooltip("window:Q"),
            alt.Tooltip("tv:Q", title="rejected", format=".1%"),
            alt.Tooltip("tokens:Q", title="tokens a round", format=".3g"),
            alt.Tooltip("speed:Q", title="times as fast", format=".3g"),
        ],
    )
    key = parts.legend(
        (BLUE, SOLID, "speed-up"),
        (GREY, DASHED, "at most: the tokens of a round"),
        (GREY, DOTTED, "at least: weights are all that is read"),
        (ORANGE, SOLID, "as fast as token by token"),
    )
    return parts.picture(
        *(*lines, even, rule, dot, *key, parts.reading(once, SPOKEN)),
        parameters=("setting", "window", "draft", "context", "batch"),
    )


def with_speed(rows: alt.Chart) -> alt.Chart:
    """Rows of a rejection rate with what the parameters make of it.

    `tokens` a round, (1 - β^(γ+1)) / (1 - β) with β = 1 - TV; `least` = tokens / (γ + 1); `plain`
    and `bytes`, read for each token of a sequence; `speed`, their ratio; `pays_context` and
    `pays_batch`, from which the speed is above one, -1 where it is never. `kvlib.theory.drafting`
    has the same in Python.
    """
    return (
        rows.transform_calculate(
            tokens="(1 - pow(1 - datum.tv, draft + 1)) / datum.tv",
            cache="batch * datum.token_bytes",
        )
        .transform_calculate(
            least="datum.tokens / (draft + 1)",
            step="datum.weights + datum.cache * context",
            lost="(draft + 1 - datum.tokens) * datum.weights",
            saved="datum.token_bytes * ((datum.tokens - 1) * context - draft * datum.window)",
        )
        .transform_calculate(
            round="draft * (datum.weights + datum.cache * datum.window) + datum.step",
        )
        .transform_calculate(
            plain="datum.step / batch",
            bytes="datum.round / (batch * datum.tokens)",
            speed="datum.tokens * datum.step / datum.round",
            pays_context="(datum.lost / datum.cache + draft * datum.window) / (datum.tokens - 1)",
            pays_batch="datum.saved > 0 ? datum.lost / datum.saved : -1",
        )
    )


LAST = CONTEXTS[-1]
SPOKEN = (
    "datum.where + ', ' + format(datum.window, ',d') + ' entries: '"
    f" + {number('100 * datum.tv', '.3~r')} + '% of drafted tokens are rejected'"
    " + (datum.measured ? '' : ', read between two measured windows')"
    f" + (context > {MEASURED} ? ', as measured behind at most {MEASURED:,} tokens' : '')"
    " + '. Drafting ' + draft + (draft == 1 ? ' token' : ' tokens') + ' at a time yields '"
    f" + {number('datum.tokens', '.3~r')} + ' tokens a round. With ' + batch"
    " + (batch == 1 ? ' sequence of ' : ' sequences of ') + format(context, ',d')"
    f" + ' tokens, ' + {number('datum.bytes / 1e6', ',.3~r')} + ' MB are read for each token'"
    f" + ' instead of ' + {number('datum.plain / 1e6', ',.3~r')} + ': '"
    f" + {number('datum.speed', '.3~r')} + ' times as fast as token by token'"
    " + (datum.speed > 1 ? '. ' : ', so it does not pay. ')"
    " + 'At this batch it '"
    f" + (datum.pays_context > {LAST} ? 'would take contexts of more than {LAST:,} tokens'"
    f" : datum.pays_context < {MEASURED} ? 'pays at every context here'"
    " : 'pays from ' + format(ceil(datum.pays_context), ',d') + ' tokens on')"
    " + ', at this context '"
    f" + (datum.pays_batch < 0 || datum.pays_batch > {BATCHES[-1]}"
    " ? 'at no batch here'"
    " : datum.pays_batch <= 1 ? 'at every batch'"
    " : 'from ' + format(ceil(datum.pays_batch), ',d') + ' sequences on')"
    " + '.'"
    f" + (batch * (draft + 1) > {FREE} ? ' But a pass that verifies '"
    " + format(batch * (draft + 1), ',d')"
    " + ' tokens may wait for arithmetic, which is not counted here.' : '')"
)


# --- real rounds ------------------------------------------------------------------------------


def rounds(table: pd.DataFrame, window: int = 256) -> Explorer:
    """Tokens a round as they were counted, beside the formula; model, way, window and draft length
    to choose. `table` is what `claims.drafting.drawn` returns."""
    windows = sorted(int(value) for value in table["window"].unique())
    longest = int(table["draft"].max())
    settings = table[["setting", "where"]].drop_duplicates().to_numpy().tolist()
    return Explorer(
        rounds_chart(table),
        [
            Choice("setting", "Model and text", [(key, words) for key, words in settings]),
            Choice("way", "Way to write", [("sampled", "sampled"), ("greedy", "greedy")]),
            Slider("window", "Drafter's window", values=windows, value=window, unit="entries",
                   scale="log", axis="x"),
            Slider("draft", "Of a draft count the first", 1, longest, value=longest),
        ],
        "Tokens a round in real runs, and what the independent formula says",
        Origin(["drafting"], {"window": "entries", "tokens": "tokens a round"}),
    )  # fmt: skip


def rounds_chart(table: pd.DataFrame) -> alt.LayerChart:
    """Counted tokens a round over the window, with intervals, and two formulas.

    Parameters: `setting`, `way`, `window`, `draft`.
    """
    base = alt.Chart(parts.rounded(table)).transform_filter(
        "datum.setting == setting && datum.way == way && datum.draft == draft"
    )
    least, largest = int(table["window"].min()), int(table["window"].max())
    ends = [least / 2**0.5, largest * 2**0.5]
    scale = alt.Scale(type="log", base=2, domain=ends, nice=False)
    axis = alt.Axis(
        title="drafter's window (entries)", values=sorted(table["window"].unique().tolist())
    )
    x = alt.X("window:Q", scale=scale, axis=axis)

    def y(field: str) -> alt.Y:
        high = int(table["draft"].max()) + 1
        return alt.Y(
            f"{field}:Q",
            scale=alt.Scale(domain=[1, high], nice=False),
            axis=alt.Axis(title="tokens a round", format="~g"),
        )

    lines = [
        base.transform_filter(f"isValid(datum.{field})")
        .mark_line(color=colour, strokeDash=dash, strokeWidth=2)
        .encode(x=x, y=y(field))
        for field, colour, dash in (("independent", ORANGE, DASHED), ("of_text", GREY, DOTTED))
    ]
    interval = base.mark_rule(color=BLUE, strokeWidth=2).encode(x=x, y=y("low"), y2="high:Q")
    told = [
        alt.Tooltip("tokens:Q", title="tokens a round", format=".3g"),
        alt.Tooltip("low:Q", title="95% from", format=".3g"),
        alt.Tooltip("high:Q", title="to", format=".3g"),
        alt.Tooltip("documents:Q"),
    ]
    dots = base.mark_point(color=BLUE, filled=True, size=90, opacity=1).encode(
        x=x, y=y("tokens"), tooltip=told
    )
    once = base.transform_filter("datum.window == window")
    rule = parts.rule_for("window", once.mark_rule(color=GREEN, strokeWidth=1.5).encode(x=x))
    key = parts.legend(
        (BLUE, SOLID, "counted mean, with its 95% interval"),
        (ORANGE, DASHED, "formula, mean chance to be kept"),
        (GREY, DOTTED, "formula, TV on the text"),
    )
    return parts.picture(
        *(rule, *lines, interval, dots, *key, parts.reading(once, COUNTED)),
        parameters=("setting", "way", "window", "draft"),
    )


COUNTED = (
    "datum.where + ', ' + datum.way + ', ' + format(datum.window, ',d') + ' entries: '"
    " + (draft == 1 ? 'with one drafted token' : 'with ' + draft + ' drafted tokens')"
    f" + ' a round, ' + {number('datum.tokens', '.3~r')} + ' tokens were written (95% interval '"
    f" + {number('datum.low', '.3~r')} + ' to ' + {number('datum.high', '.3~r')} + '), and '"
    f" + {number('100 * datum.kept', '.3~r')} + '% of those that were reached were kept. Kept'"
    " + ' independently, with the same mean chance, they would yield '"
    f" + {number('datum.independent', '.3~r')}"
    " + (isValid(datum.of_text) ? ', and with that which TV on the text promises '"
    f" + {number('datum.of_text', '.3~r')} : '')"
    " + '. ' + datum.rounds + ' rounds, ' + datum.documents + ' documents.'"
)
