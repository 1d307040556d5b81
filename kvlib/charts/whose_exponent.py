"""Whose exponent: exponents against model size, curves beside those of other models, a variance
split into its parts."""

from __future__ import annotations

import json

import altair as alt
import pandas as pd

from kvlib.charts import parts
from kvlib.charts.compiled import moving_title
from kvlib.charts.controls import Choice, Explorer, Origin
from kvlib.charts.inks import BLUE, GREEN, GREY, OLIVE, ORANGE, PURPLE
from kvlib.charts.parts import DASHED, DOTTED, SOLID, lookup, number
from kvlib.names import name_of

DISTANCES = parts.DISTANCE_NAMES | {"excess loss": "excess loss on the text"}
LOOKS = [  # of the texts in turn: ink, dash and shape
    (BLUE, SOLID, "circle"),
    (ORANGE, DASHED, "square"),
    (GREEN, DOTTED, "triangle-up"),
    (PURPLE, [10, 3], "diamond"),
    (OLIVE, [10, 3, 2, 3], "triangle-down"),
    (GREY, [4, 2], "cross"),
]
PARTS = {  # of a variance, and their inks
    "texts": BLUE,
    "models": ORANGE,
    "text × model": GREEN,
    "documents": PURPLE,
    "rest": GREY,
}
ASIDE = 1.05  # by which neighbouring texts stand apart on the axis of sizes


def those(table: pd.DataFrame) -> list[tuple[str, str]]:
    """The distances that a table has, for a list to choose from."""
    return [(key, name) for key, name in DISTANCES.items() if key in set(table["distance"])]


# --- exponents against model size -----------------------------------------------------------------


def sizes(exponents: pd.DataFrame) -> Explorer:
    """Exponents against the number of parameters, a line a text; distance and text to choose.

    `exponents` is what `kvlib.claims.shared.exponents` returns.
    """
    rows = size_rows(exponents)
    return Explorer(
        sizes_chart(rows),
        [
            Choice("distance", "Distance", those(rows)),
            Choice("corpus", "Text", parts.options_of(rows["corpus"])),
        ],
        "The exponent of each text against the size of the model that read it",
        Origin(["sensitivity"]),
    )


def size_rows(exponents: pd.DataFrame) -> pd.DataFrame:
    """A row a distance, text and model: `value, low, high`, and a sentence where one `begins`."""
    found = []
    for distance in DISTANCES:
        for corpus, part in exponents.groupby("corpus", sort=False):
            items = [item for item in part[distance] if not item.flat]
            part = part[[not item.flat for item in part[distance]]].sort_values("parameters")
            if not items:
                continue
            found.append(
                pd.DataFrame(
                    {
                        **{"distance": distance, "corpus": corpus, "model": part["model"]},
                        "parameters": part["parameters"].astype(float),
                        **{k: [getattr(i, k) for i in part[distance]] for k in _ENDS},
                        "documents": [item.n_documents for item in part[distance]],
                        "begins": [True] + [False] * (len(part) - 1),
                        "sentence": [_size_sentence(distance, corpus, part)]
                        + [""] * (len(part) - 1),
                    }
                )
            )
    return parts.rounded(pd.concat(found, ignore_index=True), 4)


_ENDS = ("value", "low", "high")


def _size_sentence(distance: str, corpus: str, part: pd.DataFrame) -> str:
    said = [
        f"{name_of(row['model'])} {row[distance].value:.2f} "
        + f"({row[distance].low:.2f} to {row[distance].high:.2f})".replace("-", "−")
        for row in part.to_dict("records")
    ]
    return (
        f"{name_of(corpus)}, exponent of the {DISTANCES[distance]}, smallest model first: "
        f"{', '.join(said)}; in brackets the 95% intervals over documents."
    )


def sizes_chart(rows: pd.DataFrame) -> alt.LayerChart:
    """Exponents with intervals, a line a text, the chosen one in full ink.

    Parameters: `distance`, `corpus`.
    """
    corpora = list(dict.fromkeys(rows["corpus"]))
    base = alt.Chart(rows).transform_filter("datum.distance == distance")
    reach = [float(rows["parameters"].min()) / 1.6, float(rows["parameters"].max()) * 1.6]
    ticks = [v for k in range(5, 12) for v in (10**k, 3 * 10**k) if reach[0] <= v <= reach[1]]
    words = (
        "datum.value >= 1e9 ? format(datum.value / 1e9, '~g') + ' billion'"
        " : format(datum.value / 1e6, '~g') + ' million'"
    )
    x = alt.X(
        "at:Q",
        scale=alt.Scale(type="log", domain=reach, nice=False),
        axis=alt.Axis(
            title="parameters of the model", values=ticks, labelExpr=words, labelOverlap="greedy"
        ),
    )
    top = 1.15 * float(rows["value"].max())
    scale = alt.Scale(domain=[min(0.0, float(rows["value"].min()) * 1.15), top], nice=False)
    y = alt.Y("value:Q", scale=scale, axis=alt.Axis(title="exponent α", format="~g", tickCount=6))
    layers = []
    for k, corpus in enumerate(corpora):
        ink, dash, shape = LOOKS[k % len(LOOKS)]
        shift = ASIDE ** (k - (len(corpora) - 1) / 2)
        bright = alt.ExprRef(f"corpus == '{corpus}' ? 1 : 0.4")
        own = base.transform_filter(f"datum.corpus == '{corpus}'").transform_calculate(
            at=f"datum.parameters * {shift:.6g}"
        )
        layers += [
            own.mark_rule(color=ink, strokeWidth=3, opacity=bright, clip=True).encode(
                x=x, y=alt.Y("low:Q", title="", scale=scale), y2="high:Q"
            ),
            own.mark_line(color=ink, strokeDash=dash, strokeWidth=1.5, opacity=bright).encode(
                x=x, y=y
            ),
            own.mark_point(color=ink, shape=shape, filled=True, size=70, opacity=bright).encode(
                x=x,
                y=y,
                tooltip=[
                    alt.Tooltip("value:Q", title="exponent", format=".2f"),
                    alt.Tooltip("low:Q", title="95% from", format=".2f"),
                    alt.Tooltip("high:Q", title="to", format=".2f"),
                    alt.Tooltip("documents:Q"),
                ],
            ),
        ]
    read = base.transform_filter("datum.corpus == corpus && datum.begins")
    key = parts.legend(
        *(
            (LOOKS[k % len(LOOKS)][0], LOOKS[k % len(LOOKS)][1], name_of(corpus))
            for k, corpus in enumerate(corpora)
        )
    )
    return parts.picture(*layers, *key, parts.reading(read), parameters=("distance", "corpus"))


# --- one curve beside the others ------------------------------------------------------------------


def curves(table: pd.DataFrame, window: int = 128) -> Explorer:
    """A curve with its band and law, and what the other models on the same text span.

    `table` is what `kvlib.claims.shared.curves_table` returns. Text, model, distance, the
    unit of the axis and the window to choose.
    """
    rows = table.rename(columns={"divergence": "distance"})
    keys = rows[["corpus", "model"]].drop_duplicates().sort_values("corpus", key=_places)
    return Explorer(
        curves_chart(rows),
        [
            Choice(
                "setting",
                "Text and model",
                [(f"{c}|{m}", f"{name_of(c)} · {name_of(m)}") for c, m in keys.to_numpy()],
            ),
            Choice("distance", "Distance", those(rows)),
            Choice("unit", "Axis", [("tokens", "in tokens"), ("chars", "in characters")]),
            parts.window_slider(rows, window, by=("unit", "setting"), places=_places_of_bins(rows)),
        ],
        "What a shortened context changes, for one model and for the others on the same text",
        Origin(["sensitivity"], parts.IN_TOKENS | parts.NATS_OR_TV),
    )


def _places_of_bins(rows: pd.DataFrame) -> dict[str, list[float]]:
    """Where each bin stands on the axis: its windows, in tokens or in a setting's characters."""
    tokens = parts.bin_places(rows)
    found = {}
    for (corpus, model), part in rows.groupby(["corpus", "model"], sort=False):
        letters = float((part["chars"] / part["window"]).mean())
        for unit, factor in (("tokens", 1.0), ("chars", letters)):
            found[f"{unit}|{corpus}|{model}"] = [
                float(f"{parts.steady(factor * place):.4g}") for place in tokens
            ]
    return found


def _places(column: pd.Series) -> pd.Series:
    """Where the keys of a column first come up in it."""
    found = list(dict.fromkeys(column))
    return column.map(found.index)


def curves_chart(table: pd.DataFrame) -> alt.LayerChart:
    """Mean distance against the window kept, in tokens or in characters.

    Parameters: `setting` (text and model), `distance`, `unit`, `window`.
    """
    rows = parts.rounded(table, 4).assign(setting=table["corpus"] + "|" + table["model"])
    rows["end"] = rows.groupby("setting")["last"].transform("max")
    ends = {"tokens": float(rows["last"].max()), "chars": float(rows["chars"].max())}
    octaves = [2**k for k in range(int(max(ends.values())).bit_length())]
    ticks = {unit: [v for v in octaves if v <= end] for unit, end in ends.items()}
    base = (
        alt.Chart(rows)
        .transform_filter("datum.setting == setting && datum.distance == distance")
        .transform_calculate(
            at="unit == 'chars' ? datum.chars : datum.window",
            least="unit == 'chars' ? datum.chars_low : datum.others_low",
            most="unit == 'chars' ? datum.chars_high : datum.others_high",
            drawn_low="datum.low > 0 ? datum.low : datum.mean / 1000",  # far below the frame
        )
    )
    x_scale = alt.Scale(
        type="log",
        base=2,
        domain=[1, alt.ExprRef(f"unit == 'chars' ? {ends['chars']} : {ends['tokens']}")],
        nice=False,
    )
    x = alt.X(
        "at:Q",
        scale=x_scale,
        axis=alt.Axis(
            title=moving_title(
                {"tokens": "window kept (tokens)", "chars": "window kept (characters)"}, "unit"
            ),
            values=alt.ExprRef(f"unit == 'chars' ? {ticks['chars']} : {ticks['tokens']}"),
            format=",d",
            labelOverlap=True,
        ),
    )
    reach = {distance: _reach(part) for distance, part in rows.groupby("distance")}
    y_scale = alt.Scale(
        type="log",
        nice=False,
        domain=[_by_distance({d: ends[k] for d, ends in reach.items()}) for k in (0, 1)],
    )
    axis = parts.log_axis(parts.distance_title(rows["distance"]))
    axis.values = _by_distance(
        {d: [v for v in axis.values if low <= v <= high] for d, (low, high) in reach.items()}
    )
    y = alt.Y("mean:Q", scale=y_scale, axis=axis)

    def also(field: str) -> alt.Y:
        return alt.Y(f"{field}:Q", title="", scale=y_scale)

    others = (
        base.transform_filter("isValid(datum.least)")
        .mark_area(color=GREY, opacity=0.3, clip=True)
        .encode(x=x, y=also("least"), y2="most:Q")
    )
    band = base.mark_area(color=BLUE, opacity=0.2, clip=True).encode(
        x=x, y=also("drawn_low"), y2="high:Q"
    )
    law = (
        base.transform_filter("isValid(datum.fit)")
        .mark_line(color=ORANGE, strokeDash=DASHED, strokeWidth=2)
        .encode(x=x, y=also("fit"))
    )
    measured = base.mark_line(
        color=BLUE, strokeWidth=2, point=alt.OverlayMarkDef(size=22, color=BLUE)
    ).encode(
        x=x,
        y=y,
        tooltip=[
            alt.Tooltip("first:Q", title="windows from"),
            alt.Tooltip("last:Q", title="to"),
            *parts.mean_told(),
        ],
    )
    here = base.transform_filter("datum.first <= window && window <= datum.last")
    rule = parts.rule_for(
        "window", here.mark_rule(color=GREEN, strokeDash=DOTTED, strokeWidth=1.5).encode(x=x)
    )
    point = here.mark_point(color=GREEN, size=110, filled=True, shape="diamond").encode(x=x, y=y)
    key = parts.legend(
        (BLUE, SOLID, "mean over documents, 95% band"),
        (ORANGE, DASHED, "fitted law"),
        (GREY, SOLID, "what the other models span"),
    )
    return parts.picture(
        *(others, band, law, measured, rule, point, *key, _curve_reading(base)),
        parameters=("setting", "distance", "unit", "window"),
    )


def _reach(rows: pd.DataFrame) -> tuple[float, float]:
    """The ends of the axis of means: all curves of a distance, the same for every choice."""
    return float(rows["mean"].min()) / 1.5, float(rows["high"].max()) * 1.2


def _by_distance(values: dict) -> alt.ExprRef:
    """A Vega expression for what the chosen distance has in a table of values."""
    return alt.ExprRef(f"({json.dumps(values)})[distance]")


def _curve_reading(base: alt.Chart) -> alt.Chart:
    """What the window says of the chosen curve and of the others.

    A window beyond the last bin, or in one that was left out, has no number.
    """
    inside = "datum.first <= window && window <= datum.last"
    what = (
        "(distance == 'excess loss' ? ' predicts the next token of the text worse by '"
        " : ' is, by ' + (distance == 'TV' ? 'total variation' : 'KL divergence') + ', ')"
    )
    unit = "(distance == 'TV' ? '' : ' nats')"
    characters = (
        f"' (some ' + {number('window * datum.chars / datum.window', ',.2~r')} + ' characters)'"
    )
    kept = f"format(window, ',d') + (window == 1 ? ' token' : ' tokens') + {characters}"
    own = (
        f"'With its last ' + {parts.TOKENS_OF_BIN} + {characters} + ' alone, '"
        f" + {lookup('datum.model')} + ' on ' + {lookup('datum.corpus')} + {what}"
        f" + {number('datum.mean')} + {unit}"
        " + (distance == 'excess loss' ? ' than' : ' from what it is')"
        f" + ' with its full context (95% interval ' + {number('datum.low')} + ' to '"
        f" + {number('datum.high')} + ', ' + datum.n_documents + ' documents); '"
        " + (isValid(datum.alpha) ? 'its law has the exponent ' + format(datum.alpha, '.2f')"
        " : 'no law could be fitted') + '. '"
    )
    others = (
        "(!isValid(datum.least) ? 'No other model was measured on this text at as many '"
        " : (datum.least == datum.most ? 'Another model on this text has '"
        " : 'The other models on this text have ')"
        f" + {number('datum.least')} + (datum.least == datum.most ? '' : ' to ' + "
        f"{number('datum.most')}) + ' at as many ')"
        " + (unit == 'chars' ? 'characters.' : 'tokens.')"
    )
    none = (
        f"{lookup('datum.model')} + ' on ' + {lookup('datum.corpus')} + ' has no mean with a '"
        f" + 'logarithm at ' + {kept} + '; the axis is in '"
        " + (unit == 'chars' ? 'characters.' : 'tokens.')"
    )
    beyond = (
        f"{lookup('datum.model')} + ' on ' + {lookup('datum.corpus')} + ' was measured up to '"
        " + format(datum.end, ',d') + ' tokens.'"
    )
    told = base.transform_calculate(
        inside=inside,
        said=f"{inside} ? {own} + {others} : window > datum.end ? {beyond} : {none}",
    ).transform_window(rank="row_number()", sort=[alt.SortField("inside", order="descending")])
    return parts.reading(told.transform_filter("datum.rank == 1"), "datum.said")


# --- a variance and its parts ---------------------------------------------------------------------


def split(components: pd.DataFrame) -> Explorer:
    """The parts of a variance as stacked bars, one a distance; which models, and of what.

    `components` is what the function of that name in `kvlib.claims.whose_exponent` returns.
    """
    rows = split_rows(components)
    of = [("all", "an exponent from all documents"), ("one", "what one document says of it")]
    return Explorer(
        split_chart(rows),
        [
            Choice("split", "Models", parts.texts_of(rows["split"])),
            Choice("of", "Variance of", [pair for pair in of if pair[0] in set(rows["of"])]),
        ],
        "How the variance of exponents splits between texts, models, documents and the rest",
        Origin(["sensitivity"]),
    )


def split_rows(components: pd.DataFrame) -> pd.DataFrame:
    """A row a split, variance, distance and part: where its piece of the bar begins and ends.

    One row that says so where nothing can be split.
    """
    if components.empty:
        none = {"split": "none", "of": "all", "distance": "KL", "part": "rest", "begin": 0.0}
        none |= {"end": 0.0, "begins": True}
        return pd.DataFrame([none | {"sentence": "No two models have read two texts yet."}])
    found = []
    for split_, part in components.groupby("split", sort=False):
        for of in ("all", "one"):
            pieces = [
                _pieces(piece, of).assign(split=split_, of=of, distance=distance)
                for distance, piece in part.groupby("distance", sort=False)
            ]
            rows = pd.concat(pieces, ignore_index=True)
            rows["begins"] = rows.index == 0
            rows["sentence"] = ""
            rows.loc[0, "sentence"] = _split_sentence(part, rows, of)
            found.append(rows)
    return parts.rounded(pd.concat(found, ignore_index=True), 4)


def _pieces(part: pd.DataFrame, of: str) -> pd.DataFrame:
    if of == "all":
        share = pd.Series([item.value for item in part["share"]])
    else:
        share = (part["variance"] / part["variance"].sum()).reset_index(drop=True)
    end = share.cumsum()
    return pd.DataFrame(
        {"part": part["part"].to_numpy(), "share": share, "begin": end - share, "end": end}
    )


def _percent(share: float) -> str:
    """A share in percent; one that rounds to nothing by name."""
    text = f"{100 * share:.0f}%"
    return "under 1%" if text in ("0%", "-0%") else text


def _split_sentence(part: pd.DataFrame, rows: pd.DataFrame, of: str) -> str:
    first = part.iloc[0]
    head = (
        f"{first['models']} models, {first['corpora']} texts, {first['documents']} documents each. "
    )
    if of == "one":
        said = [
            f"{distance}: "
            + ", ".join(f"{row['part']} {_percent(row['share'])}" for row in own.to_dict("records"))
            for distance, own in rows.groupby("distance", sort=False)
        ]
        return head + "Of what one document says: " + "; ".join(said) + "."
    said = []
    for distance, own in part.groupby("distance", sort=False):
        shares = [
            f"{row['part']} {_percent(row['share'].value)} "
            f"({100 * row['share'].low:.0f} to {100 * row['share'].high:.0f})"
            for row in own.to_dict("records")
        ]
        said.append(f"{distance}: " + ", ".join(shares))
    return head + "; ".join(said) + ". In brackets the 95% intervals over documents."


def split_chart(rows: pd.DataFrame) -> alt.LayerChart:
    """Stacked bars of shares. Parameters: `split`, `of`."""
    base = alt.Chart(rows).transform_filter("datum.split == split && datum.of == of")
    order = [key for key in DISTANCES if key in set(rows["distance"])]
    y = alt.Y(
        "distance:N",
        sort=order,
        scale=alt.Scale(paddingInner=0.4, paddingOuter=0.3),
        axis=alt.Axis(title=None, labelLimit=120),
    )
    scale = alt.Scale(domain=[0, 1], nice=False)
    x = alt.X(
        "begin:Q",
        scale=scale,
        axis=alt.Axis(title="share of the variance", format="%", tickCount=5),
    )
    bars = [
        base.transform_filter(f"datum.part == '{part}'")
        .mark_bar(color=ink)
        .encode(
            y=y,
            x=x,
            x2="end:Q",
            tooltip=[
                alt.Tooltip("part:N"),
                alt.Tooltip("share:Q", format=".1%"),
            ],
        )
        for part, ink in PARTS.items()
    ]
    key = parts.legend(*((ink, SOLID, part) for part, ink in PARTS.items()))
    read = parts.reading(base.transform_filter("datum.begins"))
    return parts.picture(*bars, *key, read, parameters=("split", "of"))
