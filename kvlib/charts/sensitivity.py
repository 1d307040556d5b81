"""Sensitivity: what is lost when only the last tokens are kept, and two ways to forget."""

from __future__ import annotations

import altair as alt
import pandas as pd

from kvlib.charts import parts
from kvlib.charts.controls import Choice, Explorer, Origin, Slider
from kvlib.charts.inks import BLUE, GREEN, GREY, KEPT, LOST, MUTED, ORANGE
from kvlib.charts.parts import DASHED, DOTTED, SOLID, lookup, number
from kvlib.names import name_of


def sensitivity(curves: pd.DataFrame, window: int = 128) -> Explorer:
    """Divergence against the window kept; model, text, divergence and window to choose.

    `curves` is what `kvlib.fit.summaries` returns; the first model and corpus come up first.
    """
    return Explorer(
        sensitivity_chart(curves),
        [
            parts.place_choice(curves),
            Choice("divergence", "Distance", parts.options_of(curves["divergence"])),
            parts.window_slider(curves, window),
        ],
        "How far the next-token law given the last tokens alone is from the law given all of them",
        Origin(["sensitivity"], parts.IN_TOKENS | parts.NATS_OR_TV),
    )


def sensitivity_chart(curves: pd.DataFrame) -> alt.LayerChart:
    """Mean divergence against the window kept, with its 95% band and the fitted law.

    `curves` has one row a (model, corpus, divergence, bin): `window` (geometric mean of the bin),
    `first` and `last` (its windows), `mean`, `low`, `high`, `fit`, `n_documents`.
    Parameters: `setting` (model and text), `divergence`, `window` (a `last`).
    """
    curves = parts.placed(parts.rounded(curves))
    ends = curves.groupby(["setting", "divergence"])["last"].transform("max")
    curves["end"] = curves["last"] == ends
    same = "datum.divergence == divergence"
    picked = f"{same} && datum.setting == setting"
    here = f"{picked} && datum.first <= window && window <= datum.last"
    beyond = f"{picked} && datum.end && window > datum.last"
    largest = float(curves["last"].max())
    base = alt.Chart(curves)
    x = alt.X("window:Q", scale=parts.window_scale(largest), axis=parts.window_axis(largest))
    title = parts.distance_title(curves["divergence"], "divergence")
    y = alt.Y(
        "mean:Q",
        scale=alt.Scale(type="log", nice=False),
        axis=parts.log_axis(title),
    )
    others = parts.named_lines(
        base.transform_filter(same).encode(x=x, y=y, detail=["model:N", "corpus:N"]),
        f"{lookup('datum.model')} + ' on ' + {lookup('datum.corpus')}",
    )
    band = (
        base.transform_filter(picked)
        .mark_area(color=LOST, opacity=0.2)
        .encode(x=x, y=alt.Y("low:Q", title=""), y2="high:Q")
    )
    law = (
        base.transform_filter(picked)
        .mark_line(color=MUTED, strokeDash=DASHED, strokeWidth=2)
        .encode(x=x, y=alt.Y("fit:Q", title=""))
    )
    measured = (
        base.transform_filter(picked)
        .mark_line(color=LOST, strokeWidth=2, point=alt.OverlayMarkDef(size=22, color=LOST))
        .encode(
            x=x,
            y=y,
            tooltip=[
                alt.Tooltip("first:Q", title="windows from"),
                alt.Tooltip("last:Q", title="to"),
                *parts.mean_told(),
            ],
        )
    )
    reader = base.transform_filter(f"({here}) || ({beyond})")
    places = parts.bin_places(curves).rename("at").reset_index()
    rule = parts.rule_for(
        "window",
        alt.Chart(places)
        .transform_filter("datum.last == window")
        .mark_rule(color=KEPT, strokeDash=DOTTED, strokeWidth=1.5)
        .encode(x=alt.X("at:Q", scale=parts.window_scale(largest))),
    )
    read = alt.condition("window <= datum.last", alt.value(1), alt.value(0))
    point = reader.mark_point(color=LOST, size=110, filled=True, shape="diamond")
    point = point.encode(x=x, y=y, opacity=read)
    reading = parts.reading(
        reader,
        f"window > datum.last ? {lookup('datum.model')} + ' on ' + {lookup('datum.corpus')}"
        " + ' was measured up to ' + format(datum.last, ',d') + ' tokens.' : "
        f"'With its last ' + {parts.TOKENS_OF_BIN}"
        f" + ' alone, ' + {lookup('datum.model')} + ' on ' + {lookup('datum.corpus')}"
        f" + ' is ' + {number('datum.mean')}"
        " + (divergence == 'tv' ? ' in total variation' : ' nats')"
        f" + ' from its full-context law (95% interval ' + {number('datum.low')}"
        f" + ' to ' + {number('datum.high')} + ', ' + datum.n_documents + ' documents).'",
    )
    key = parts.legend(
        (LOST, SOLID, "mean over documents, 95% band"),
        (MUTED, DASHED, "fitted power law, finite context"),
        (GREY, SOLID, "other models and texts"),
        (KEPT, DOTTED, "window kept"),
    )
    return parts.picture(
        *(*others, band, law, measured, rule, point, *key, reading),
        parameters=("setting", "divergence", "window"),
    )


def bend(measured: pd.DataFrame, laws: pd.DataFrame, b: float = 0.3) -> Explorer:
    """The best law of a bend over the measured points; model, text, distance and bend to choose.

    The tables are what `measured` and `laws` of `kvlib.claims.bend_laws` return.
    """
    distances = [("KL", "KL divergence"), ("TV", "total variation")]
    kinds = [("reference", "finite, as it was"), ("plain", "taken as endless")]
    grid = sorted(laws["b"].unique().tolist())
    return Explorer(
        bend_chart(measured, laws),
        [
            parts.place_choice(measured),
            Choice("distance", "Distance", _those(distances, measured["distance"])),
            Choice("kind", "Reference", _those(kinds, laws["kind"])),
            Slider(
                *("b", "Bend b, from a power law to an exponential"),
                **{"values": grid, "value": b},
                **{"axis": "x", "places": [_track_place(measured["window"], one) for one in grid]},
            ),
        ],
        "The measured decay, and the best law of the bend that is chosen",
        Origin(["sensitivity", "bends"], {"window": "tokens", "mean": "nats or TV"}),
    )


def _those(options: list[tuple[str, str]], column: pd.Series) -> list[tuple[str, str]]:
    return [option for option in options if option[0] in set(column)]


def bend_chart(measured: pd.DataFrame, laws: pd.DataFrame) -> alt.LayerChart:
    """Measured points, the best law of one bend through them, and the interval of b on a track.

    The track runs above the picture from b = 0 at its left end to b = 1 at its right.
    Parameters: `setting` (model and text), `distance`, `kind`, `b`.
    """
    points, fits = _keyed(measured, laws)
    first, last = float(points["window"].min()), float(points["window"].max())
    joined = (
        alt.Chart(points)
        .transform_filter("datum.setting == setting && datum.distance == distance")
        .transform_calculate(key="datum.at + '|' + kind + '|' + format(b, '.2f')")
        .transform_lookup("key", from_=alt.LookupData(fits, "key", FITTED))
    )
    ratio = "(datum.window + datum.shift) / 64"
    drawn = joined.transform_calculate(
        bent=f"b < 1e-9 ? log({ratio}) : (pow({ratio}, b) - 1) / b"
    ).transform_calculate(
        law="exp((datum.level + log(exp(-datum.rate * datum.bent) - datum.reference))"
        " / datum.power)"
    )
    x = alt.X(
        "window:Q",
        scale=alt.Scale(type="log", base=2, domain=[first, last], nice=False),
        axis=parts.window_axis(last, low=first),
    )
    reach = [float(points["mean"].min()) / 1.5, float(points["mean"].max()) * 1.5]
    scale = alt.Scale(type="log", domain=reach, nice=False)
    title = parts.distance_title(points["distance"])
    y = alt.Y("mean:Q", scale=scale, axis=parts.log_axis(title, *reach))
    miss = drawn.mark_rule(color=ORANGE, opacity=0.6, clip=True).encode(
        x=x, y=alt.Y("law:Q", title="", scale=scale), y2="mean:Q"
    )
    law = drawn.mark_line(color=ORANGE, strokeDash=DASHED, strokeWidth=2, clip=True).encode(
        x=x, y=alt.Y("law:Q", title="", scale=scale)
    )
    seen = drawn.mark_point(color=BLUE, filled=True, size=45, opacity=1).encode(
        x=x,
        y=y,
        tooltip=[
            alt.Tooltip("window:Q", title="window", format=".3~g"),
            alt.Tooltip("mean:Q", title="measured", format=".3g"),
            alt.Tooltip("law:Q", title="law", format=".3g"),
        ],
    )
    one = joined.transform_filter("datum.begins")
    reading = parts.reading(
        one.transform_calculate(inside="b > datum.low - 0.001 && b < datum.high + 0.001"),
        f"{lookup('datum.model')} + ' on ' + {lookup('datum.corpus')} + ', ' + datum.distance"
        " + ': with b = ' + format(b, '.2f') + ' the best law misses the points by '"
        f" + {number('datum.misfit', '.2~g')} + ' in the logarithm, a factor of '"
        f" + {number('exp(datum.misfit)', '.3~g')} + ', and b lies '"
        " + (datum.inside ? 'inside' : 'outside') + ' its 95% interval, '"
        " + (max(datum.high, -datum.low) < 0.005"
        " ? '0 alone, where the search for it begins'"
        f" : {number('datum.low', '.2~r')} + ' to ' + {number('datum.high', '.2~r')})"
        " + ' (' + datum.documents + ' documents).'",
        dy=-64,
    )
    key = parts.legend(
        (BLUE, SOLID, "measured"),
        (ORANGE, DASHED, "the best law with this b"),
        (GREEN, SOLID, "95% interval of b, on the track"),
    )
    return parts.picture(
        *(miss, law, seen, *_bend_track(one, first, last), *key, reading),
        parameters=("setting", "distance", "kind", "b"),
    )


FITTED = ["level", "rate", "reference", "shift", "power", "misfit", "low", "high"]


def _keyed(measured: pd.DataFrame, laws: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Points with the place `at` of their table and a mark where it `begins`; laws by a `key`."""
    keys = ["model", "corpus", "distance"]
    places = {key: k for k, key in enumerate(measured.groupby(keys, sort=False).groups)}
    points, fits = parts.placed(parts.rounded(measured, 4)), parts.rounded(laws, 6)
    ends = ["low", "high"]  # of b, by a search that ends within 1e-7 of them
    fits[ends] = laws[ends].round(4)
    points["at"] = [places[key] for key in zip(*(points[k] for k in keys), strict=True)]
    points["begins"] = ~points["at"].duplicated()
    columns = (laws[name] for name in (*keys, "kind", "b"))
    fits["key"] = [
        f"{places[key]}|{kind}|{b:.2f}"
        for *key, kind, b in zip(*columns, strict=True)
        for key in [tuple(key)]
    ]
    return points, fits[["key", *FITTED]]


def _bend_track(one: alt.Chart, first: float, last: float) -> list[alt.Chart]:
    """Above the picture: the track of b, its interval, and where the slider is."""
    height = -18

    def at(value: str) -> str:
        """The window that lies as far to the right as a b between 0 and 1 does."""
        return f"{first} * pow({last / first}, clamp({value}, 0, 1))"

    scale = alt.Scale(type="log", base=2, domain=[first, last], nice=False)
    placed = one.transform_calculate(
        left=at("datum.low"), right=at("datum.high"), here=at("b"), zero=at("0"), one=at("1")
    )

    def where(field: str) -> alt.X:
        return alt.X(f"{field}:Q", scale=scale, title="")

    y = alt.value(height)
    whole = placed.mark_rule(color=GREY, opacity=0.6).encode(x=where("zero"), x2="one:Q", y=y)
    interval = placed.mark_rule(color=GREEN, strokeWidth=6, opacity=0.5).encode(
        x=where("left"), x2="right:Q", y=y
    )
    here = placed.mark_point(color=GREEN, filled=True, shape="diamond", size=110, opacity=1).encode(
        x=where("here"), y=y
    )
    names = [
        placed.transform_calculate(name=f"'{text}'")
        .mark_text(align=align, baseline="bottom", fontSize=12)
        .encode(x=where(field), y=alt.value(height - 8), text="name:N")
        for field, align, text in (
            ("zero", "left", "b = 0: power law"),
            ("one", "right", "b = 1: exponential"),
        )
    ]
    return [whole, interval, parts.rule_for("b", here), *names]


def _track_place(windows: pd.Series, b: float) -> float:
    """The window that lies as far to the right as a b between 0 and 1 does."""
    first, last = float(windows.min()), float(windows.max())
    return parts.steady(first * (last / first) ** b)


RATIOS = [0, 2]  # what the picture of the data check reaches


def data_check(table: pd.DataFrame) -> Explorer:
    """Excess loss over KL against the budget; protocol, model and text, and policy to choose.

    `table` is what `kvlib.claims.data_check.excess_over_kl` returns. Policies that some setting
    lacks are drawn, and can't be chosen, as long as the settings share any.
    """
    rows = data_check_rows(table)
    shared = parts.shared_policies(rows)
    rows = parts.with_gaps(
        rows,
        lambda setting, policy, _: f"{parts.setting_said(setting)}: {policy} was not measured.",
        **{"setting": list(dict.fromkeys(rows["setting"])), "policy": shared, "begins": [True]},
    )
    return Explorer(
        data_check_chart(rows),
        [
            Choice("setting", parts.SETTING, parts.texts_of(rows["setting"])),
            Choice("policy", "Policy", [(p, p) for p in shared]),
        ],
        "Excess loss on the text over KL: one where KL is what cutting costs in prediction",
        Origin(parts.POLICIES, parts.IN_ENTRIES | {"kl": "nats"}),
    )


def data_check_chart(rows: pd.DataFrame) -> alt.LayerChart:
    """Ratios with 95% intervals around one. Parameters: `setting`, `policy`."""
    base = alt.Chart(rows).transform_filter("datum.setting == setting")
    picked = base.transform_filter("datum.policy == policy")
    ticks = [int(budget) for budget in sorted(rows["budget"].dropna().unique())]
    x = alt.X(
        "budget:Q",
        scale=alt.Scale(type="log", base=2, domain=[ticks[0] / 1.3, ticks[-1] * 1.3], nice=False),
        axis=alt.Axis(title="budget (entries a query sees)", values=ticks, format=",d"),
    )
    scale = alt.Scale(domain=RATIOS, nice=False)
    y = alt.Y(
        "ratio:Q", scale=scale, axis=alt.Axis(title="excess loss / KL", format="~g", tickCount=5)
    )
    one = picked.transform_calculate(one="1").mark_rule(color=ORANGE, strokeDash=DASHED)
    others = base.mark_point(color=GREY, opacity=0.5, size=30, clip=True).encode(x=x, y=y)
    interval = picked.mark_rule(color=BLUE, strokeWidth=3, opacity=0.45, clip=True).encode(
        x=x, y=alt.Y("low:Q", title="", scale=scale), y2="high:Q"
    )
    ratio = picked.mark_point(color=BLUE, filled=True, size=80, opacity=1, clip=True).encode(
        x=x,
        y=y,
        tooltip=[
            alt.Tooltip("budget:Q"),
            alt.Tooltip("ratio:Q", title="excess loss / KL", format=".3g"),
            alt.Tooltip("low:Q", title="95% from", format=".3g"),
            alt.Tooltip("high:Q", title="to", format=".3g"),
            alt.Tooltip("kl:Q", title="KL (nats)", format=".3g"),
            alt.Tooltip("documents:Q"),
        ],
    )
    key = parts.legend(
        (BLUE, SOLID, "ratio of means, 95% interval"),
        (ORANGE, DASHED, "one: KL is the loss on the text"),
        (GREY, SOLID, "other policies"),
    )
    line = one.encode(y=alt.Y("one:Q", title="", scale=scale))
    first = picked.transform_filter("datum.begins")
    return parts.picture(
        *(others, line, interval, ratio, *key, parts.reading(first)),
        parameters=("setting", "policy"),
    )


def data_check_rows(table: pd.DataFrame) -> pd.DataFrame:
    """Ratios with their intervals, a row a setting, policy and budget; a sentence where one
    `begins`."""
    keys = zip(table["model"], table["corpus"], table["protocol"], strict=True)
    rows = pd.DataFrame(
        {
            "setting": [parts.setting_of(*key) for key in keys],
            "policy": table["policy"].map(name_of),
            "budget": table["budget"],
            "ratio": [item.value for item in table["ratio"]],
            "low": [item.low for item in table["ratio"]],
            "high": [item.high for item in table["ratio"]],
            "kl": table["kl"],
            "documents": [item.n_documents for item in table["ratio"]],
        }
    ).sort_values("budget", kind="stable")
    found = []
    for (setting, policy), part in rows.groupby(["setting", "policy"], sort=False):
        sentence = _ratio_sentence(setting, policy, part)
        begins = [True] + [False] * (len(part) - 1)
        found.append(part.assign(begins=begins, sentence=[sentence] + [""] * (len(part) - 1)))
    return parts.rounded(pd.concat(found).sort_index().reset_index(drop=True), 4)


def _ratio_sentence(setting: str, policy: str, part: pd.DataFrame) -> str:
    """What a policy's ratios say, from the least budget to the largest."""
    ends = [part.iloc[k] for k in (0, -1)]
    said = [
        f"{row['ratio']:.2f} times the KL at {row['budget']:,} entries "
        f"(95% interval {row['low']:.2f} to {row['high']:.2f})".replace("-", "−")
        for row in (ends if len(part) > 1 else ends[:1])
    ]
    holds = int(((part["low"] <= 1) & (1 <= part["high"])).sum())
    return (
        f"{parts.setting_said(setting)}: with {policy} the loss on the text grows by "
        f"{' and '.join(said)}. The value 1 lies in {holds} of {len(part)} "
        f"intervals ({part['documents'].min()} or more documents)."
    )


def two_ways_to_forget(alpha: float = 0.5, ratio: float = 0.9) -> Explorer:
    """A power law beside a geometric one; the exponent and the ratio to choose."""
    return Explorer(
        two_ways_to_forget_chart(),
        [
            Slider("alpha", "Exponent α of the power law", 0.1, 2, 0.05, value=alpha),
            Slider("ratio", "Share kept by the geometric law", 0.5, 0.99, 0.01, value=ratio),
        ],
        "The share of questions missed when only so many sentences are kept, for two laws",
        Origin(units={"window": "sentences"}),
    )


def two_ways_to_forget_chart(largest: int = 1024) -> alt.LayerChart:
    """A power law (1+w)^-alpha and a geometric law ratio^w, on logarithmic axes.

    Parameters: `alpha` and `ratio`.
    """
    windows = pd.DataFrame({"window": [2 ** (k / 8) for k in range(8 * largest.bit_length() - 7)]})
    base = alt.Chart(windows).transform_calculate(
        power="pow(1 + datum.window, -alpha)", geometric="pow(ratio, datum.window)"
    )
    x = alt.X(
        "window:Q",
        scale=parts.window_scale(largest),
        axis=parts.window_axis(largest, "sentences kept"),
    )
    scale = alt.Scale(type="log", domain=[1e-4, 1], clamp=True, nice=False)
    axis = parts.log_axis("share of questions missed", 1e-4, 1)

    def y(field: str) -> alt.Y:
        return alt.Y(f"{field}:Q", scale=scale, axis=axis)

    power = base.mark_line(color=BLUE, strokeWidth=2).encode(x=x, y=y("power"))
    geometric = (
        base.transform_filter("datum.geometric >= 1e-4")
        .mark_line(color=ORANGE, strokeWidth=2, strokeDash=DASHED)
        .encode(x=x, y=y("geometric"))
    )
    reading = parts.reading(
        alt.Chart(pd.DataFrame({"at": [100]})),
        "'A hundred sentences back, the power law still misses '"
        f" + {number('100 * pow(1 + datum.at, -alpha)', '.2~g')} + '% of the questions, and the'"
        " + ' geometric law ' + (pow(ratio, datum.at) < 1e-6"
        " ? 'practically none: fewer than one in 10 to the power of '"
        " + floor(-datum.at * log(ratio) / LN10) + '.'"
        f" : {number('100 * pow(ratio, datum.at)', '.2~r')} + '%.')",
    )
    key = parts.legend((BLUE, SOLID, "power law"), (ORANGE, DASHED, "geometric law"))
    return parts.picture(power, geometric, *key, reading, parameters=("alpha", "ratio"))
