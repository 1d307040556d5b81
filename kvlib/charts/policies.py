"""Cache policies: which loses least, and what the law of suffixes foretells of each."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import pandas as pd

from kvlib.charts import parts
from kvlib.charts.controls import Choice, Explorer, Origin, Slider
from kvlib.charts.inks import BLUE, GREY, ORANGE
from kvlib.charts.parts import DASHED, DISTANCES, SOLID
from kvlib.names import name_of

BUDGETS = (16, 64, 256, 512)  # to choose from
BEST_KNOWN = name_of("sinks")  # drawn first where it can be chosen
ENDS = ("value", "low", "high")  # of an estimate
RANDOM_KIND, H2O_KIND = "random retention", "heavy hitters"


def _places(table: pd.DataFrame) -> list[Choice]:
    """A choice of what was run on which model and text, and one of the distance."""
    return [
        Choice("setting", parts.SETTING, parts.texts_of(table["setting"])),
        parts.distance_choice(table),
    ]


def _budget(budgets: Sequence[int], value: int) -> Slider:
    """The slider of the budget."""
    return Slider("budget", "Budget", values=budgets, value=value, unit="entries", scale="log")


# --- who loses least --------------------------------------------------------------------------


def ranking(summary: pd.DataFrame, budget: int = 64) -> Explorer:
    """Policies in the order of their distortion; setting, distance and budget to choose.

    `summary` is what `summary`, in KL, or `summaries` of `kvlib.claims.policy_rows` return.
    """
    table = ranking_rows(summary)
    settings, distances = (list(dict.fromkeys(table[name])) for name in ("setting", "distance"))
    table = parts.with_gaps(
        table,
        lambda setting, _, budget: (
            f"{parts.setting_said(setting)}: nothing was measured with {budget} entries."
        ),
        **{"setting": settings, "distance": distances, "budget": BUDGETS},
    )
    return Explorer(
        ranking_chart(table),
        [*_places(table), _budget(BUDGETS, budget)],
        "Cache policies from the one that loses least to the one that loses most",
        Origin(parts.POLICIES, parts.IN_ENTRIES | parts.NATS_OR_TV),
    )


def ranking_chart(table: pd.DataFrame) -> alt.LayerChart:
    """Policies from the least distortion to the most.

    Parameters: `setting`, `distance`, `budget`.
    """
    base = alt.Chart(table).transform_filter(
        "datum.setting == setting && datum.distance == distance && datum.budget == budget"
    )
    scale = alt.Scale(type="log", nice=False)
    axis = parts.log_axis(parts.distance_title(table["distance"]))
    of_setting = "datum.setting == setting && datum.distance == distance && isValid(datum.mean)"
    reach = [  # the axis is that of all budgets: dots move when a budget grows
        alt.Chart(table)
        .transform_filter(of_setting)
        .mark_point(opacity=0, tooltip=None)
        .encode(x=alt.X(f"{end}:Q", scale=scale, axis=axis), y=alt.value(0))
        for end in ("low", "high")
    ]
    order = alt.Y(
        "policy:N",
        sort=alt.EncodingSortField("mean", op="min"),
        axis=alt.Axis(title=None, labelLimit=210, labelExpr="split(datum.label, ', ')"),
    )
    shown = base.transform_filter("isValid(datum.mean)")
    interval = shown.mark_rule(color=GREY, strokeWidth=3, opacity=0.7).encode(
        x=alt.X("low:Q", scale=scale, axis=axis), x2="high:Q", y=order
    )
    tooltip = [
        alt.Tooltip("policy:N"),
        *parts.mean_told(),
        alt.Tooltip("median:Q", title="median over tokens", format=".3g"),
        alt.Tooltip("p95:Q", title="95th percentile", format=".3g"),
        alt.Tooltip("top1:Q", title="same first guess", format=".0%"),
        alt.Tooltip("documents:Q"),
    ]
    mean = shown.mark_point(color=BLUE, filled=True, size=90, opacity=1).encode(
        x=alt.X("mean:Q", scale=scale, axis=axis), y=order, tooltip=tooltip
    )
    return parts.picture(
        *(*reach, interval, mean, parts.reading(base)),
        parameters=("setting", "distance", "budget"),
        height=260,
    )


def ranking_rows(summary: pd.DataFrame) -> pd.DataFrame:
    """Rows of a summary with their `setting`, and `sentence`: who is best there."""
    table = parts.rounded(parts.with_distance(summary[summary["budget"].isin(BUDGETS)]), 4)
    table["policy"] = table["policy"].map(name_of)
    keys = zip(table["model"], table["corpus"], table["protocol"], strict=True)
    table["setting"] = [parts.setting_of(*key) for key in keys]
    sentences = {}
    places = ["setting", "distance", "budget"]
    every = table.groupby(places[:2])["policy"].unique()
    for (setting, distance, budget), part in table.groupby(places, sort=False):
        by_mean = part.sort_values("mean")
        best, worst = by_mean.iloc[0], by_mean.iloc[-1]
        last = f"{worst['policy']} loses most, {worst['mean']:.3g}."
        near = int((part["mean"] <= best["high"]).sum()) - 1
        also = f", with {near} more policies inside it" if near > 1 else ""
        also = ", with one more policy inside it" if near == 1 else also
        here = set(part["policy"])
        absent = [name for name in every[setting, distance] if name not in here]
        gone = f" Not measured with {budget}: {'; '.join(absent)}." if absent else ""
        sentences[setting, distance, budget] = (
            f"With {budget} entries, {parts.setting_said(setting)}: {best['policy']} loses least, "
            f"{best['mean']:.3g} {DISTANCES[distance]} (95% interval {best['low']:.3g} to "
            f"{best['high']:.3g}, {best['documents']} documents{also}); "
            + (last if len(part) > 1 else "no other was measured.")
            + gone
        )
    triples = zip(*(table[name] for name in places), strict=True)
    table["sentence"] = [sentences[triple] for triple in triples]
    columns = [*places, "policy", "mean", "low", "high", "median", "p95", "top1"]
    return table[[*columns, "documents", "sentence"]]


# --- what the law foretells -------------------------------------------------------------------


def curves(summary: pd.DataFrame, foretold: pd.DataFrame) -> Explorer:
    """Distortion against budget beside what the law of suffixes foretells; setting, distance and
    policy to choose.

    The tables are what `policy_rows.summary` and `policy_laws.predictions` of `kvlib.claims`
    return, or `summaries` and `both_predictions`. Policies that some setting lacks are drawn, and
    can't be chosen, as long as the settings share any.
    """
    table = curve_rows(summary, foretold)
    shared = parts.shared_policies(table)
    settings, distances = (list(dict.fromkeys(table[name])) for name in ("setting", "distance"))
    table = parts.with_gaps(
        table,
        lambda setting, _, policy: f"{parts.setting_said(setting)}: {policy} was not measured.",
        **{"setting": settings, "distance": distances, "policy": shared},
    )
    first = BEST_KNOWN if BEST_KNOWN in shared else None
    label = "Policy" + ", of those that every setting has" * (
        len(shared) < table["policy"].nunique()
    )
    return Explorer(
        curves_chart(table),
        [*_places(table), Choice("policy", label, [(p, p) for p in shared], value=first)],
        "Distortion of a cache policy against its budget, and what the law predicts",
        Origin([*parts.POLICIES, "suffix"], parts.IN_ENTRIES | parts.NATS_OR_TV),
    )


def curves_chart(table: pd.DataFrame) -> alt.LayerChart:
    """Distortion against budget beside the law's prediction.

    Parameters: `setting`, `distance`, `policy`.
    """
    base = alt.Chart(table).transform_filter(
        "datum.setting == setting && datum.distance == distance"
    )
    picked = base.transform_filter("datum.policy == policy")
    ticks = [int(budget) for budget in sorted(table["budget"].dropna().unique())]
    x = alt.X(
        "budget:Q",
        scale=alt.Scale(type="log", base=2, nice=False, domain=[ticks[0], ticks[-1]]),
        axis=alt.Axis(title="budget (entries a query sees)", values=ticks, format=",d"),
    )
    scale = alt.Scale(type="log", nice=False)
    axis = parts.log_axis(parts.distance_title(table["distance"]))
    y = alt.Y("mean:Q", scale=scale, axis=axis)
    others = parts.named_lines(base.encode(x=x, y=y, detail="policy:N"), "datum.policy")
    band = picked.mark_area(color=BLUE, opacity=0.2).encode(
        x=x, y=alt.Y("low:Q", title="", scale=scale), y2="high:Q"
    )
    law = picked.mark_line(color=ORANGE, strokeDash=DASHED, strokeWidth=2).encode(
        x=x, y=alt.Y("predicted:Q", title="", scale=scale)
    )
    measured = picked.mark_line(
        color=BLUE, strokeWidth=2, point=alt.OverlayMarkDef(size=50, color=BLUE)
    ).encode(
        x=x,
        y=y,
        tooltip=[
            alt.Tooltip("budget:Q"),
            alt.Tooltip("mean:Q", title="measured", format=".3g"),
            alt.Tooltip("predicted:Q", title="predicted", format=".3g"),
            alt.Tooltip("off:Q", title="measured / predicted", format=".2f"),
        ],
    )
    key = parts.legend(
        (BLUE, SOLID, "mean over documents, 95% band"),
        (ORANGE, DASHED, "predicted by the law of suffixes"),
        (GREY, SOLID, "other policies"),
    )
    return parts.picture(
        *(*others, band, law, measured, *key, parts.reading(picked)),
        parameters=("setting", "distance", "policy"),
    )


def curve_rows(summary: pd.DataFrame, foretold: pd.DataFrame) -> pd.DataFrame:
    """Measured means with bands, and what the law foretells, a row a setting, policy and budget."""
    keys = ["model", "corpus", "protocol", "policy", "budget", "distance"]
    summary = parts.with_distance(summary)
    table = parts.with_distance(foretold).merge(
        summary[[*keys, "low", "high", "documents"]], on=keys
    )
    table["policy"] = table["policy"].map(name_of)
    triples = zip(table["model"], table["corpus"], table["protocol"], strict=True)
    table["setting"] = [parts.setting_of(*triple) for triple in triples]
    table["off"] = [item.value for item in table["factor"]]
    sentences = {}
    places = ["setting", "distance", "policy"]
    for place, part in table.groupby(places, sort=False):
        setting, distance, policy = place
        first, last = part.iloc[0], part.iloc[-1]
        sentences[place] = (
            f"{parts.setting_said(setting)}: {policy} has {first['off']:.2f} times the {distance} "
            f"that the law predicts at {first['budget']:,} entries and {last['off']:.2f} times it "
            f"at {last['budget']:,} (95% intervals {_span(first)} and {_span(last)}, "
            f"{first['documents']} documents)."
        )
    triples = zip(*(table[name] for name in places), strict=True)
    table["sentence"] = [sentences[triple] for triple in triples]
    columns = [*places, "budget", "mean", "low", "high", "predicted", "off", "sentence"]
    return parts.rounded(table[columns], 4)


def _span(row: pd.Series) -> str:
    """A factor's interval."""
    return f"{row['factor'].low:.2f} to {row['factor'].high:.2f}"


# --- what protects ----------------------------------------------------------------------------


def protection(gains: pd.DataFrame, budget: int = 256) -> Explorer:
    """How many times less each protected policy loses than bare random retention; setting, distance
    and budget to choose.

    `gains` is what `kvlib.claims.protection.gains` returns, a row or more.
    """
    table = protection_rows(gains)
    shared = set.intersection(*(set(part["budget"]) for _, part in table.groupby("setting")))
    budgets = sorted(int(value) for value in shared or table["budget"].unique())
    start = budget if budget in budgets else budgets[0]
    return Explorer(
        protection_chart(table),
        [*_places(table), _budget(budgets, start)],
        "How many times less than random retention each protected policy loses",
        Origin(
            ["protection_*"], parts.IN_ENTRIES | {"value": "times", "low": "times", "high": "times"}
        ),
    )


def protection_chart(table: pd.DataFrame) -> alt.LayerChart:
    """A dot and an interval a policy, by what it keeps. Parameters: `setting, distance, budget`."""
    base = alt.Chart(table).transform_filter(
        "datum.setting == setting && datum.distance == distance && datum.budget == budget"
    )
    scale = alt.Scale(type="log", nice=False, padding=12)
    axis = parts.log_axis("times less than random")
    order = alt.Y(
        "policy:N",
        sort=list(dict.fromkeys(table["policy"])),
        axis=alt.Axis(
            title=None, labelLimit=210, labelOffset=-8, labelExpr="split(datum.label, ', ')"
        ),
    )
    color = alt.Color(
        "kind:N",
        scale=alt.Scale(domain=[RANDOM_KIND, H2O_KIND], range=[BLUE, ORANGE]),
        legend=alt.Legend(title=None, orient="bottom", columns=1, symbolOpacity=1),
    )
    shape = alt.Shape(
        "kind:N", scale=alt.Scale(domain=[RANDOM_KIND, H2O_KIND], range=["circle", "square"])
    )
    interval = base.mark_rule(strokeWidth=3, opacity=0.5).encode(
        x=alt.X("low:Q", scale=scale, axis=axis), x2="high:Q", y=order, color=color
    )
    tooltip = [
        alt.Tooltip("policy:N"),
        alt.Tooltip("value:Q", title="times less", format=".3g"),
        alt.Tooltip("low:Q", title="95% from", format=".3g"),
        alt.Tooltip("high:Q", title="to", format=".3g"),
        alt.Tooltip("documents:Q"),
    ]
    dot = base.mark_point(filled=True, size=90, opacity=1).encode(
        x=alt.X("value:Q", scale=scale, axis=axis),
        y=order,
        color=color,
        shape=shape,
        tooltip=tooltip,
    )
    one = alt.Chart(pd.DataFrame({"one": [1.0]})).mark_rule(color=GREY, strokeDash=DASHED)
    even = one.encode(x=alt.X("one:Q", scale=scale, axis=axis))
    return parts.picture(
        *(even, interval, dot, parts.reading(base)),
        parameters=("setting", "distance", "budget"),
        height=520,
    )


def protection_rows(gains: pd.DataFrame) -> pd.DataFrame:
    """Rows of gains with `setting`, `kind`, ends of intervals, and `sentence`: who gains most."""
    triples = zip(gains["model"], gains["corpus"], gains["protocol"], strict=True)
    ends = {name: [getattr(item, name) for item in gains["ratio"]] for name in ENDS}
    table = gains.assign(
        setting=[parts.setting_of(*triple) for triple in triples],
        kind=[H2O_KIND if key.startswith("h2o") else RANDOM_KIND for key in gains["policy"]],
        policy=gains["policy"].map(name_of),
        documents=[item.n_documents for item in gains["ratio"]],
        **ends,
    )
    places = ["setting", "distance", "budget"]
    sentences = {key: _gain_sentence(key, part) for key, part in table.groupby(places, sort=False)}
    keys = zip(*(table[name] for name in places), strict=True)
    table["sentence"] = [sentences[key] for key in keys]
    columns = [*places, "policy", "kind", *ENDS, "documents", "sentence"]
    return parts.rounded(table[columns], 4)


def _gain_sentence(key: tuple[str, str, int], part: pd.DataFrame) -> str:
    """Which kind of random retention gains most, and what H2O gains, in one setting."""
    setting, distance, budget = key
    said = []
    for kind, ours in part.groupby("kind", sort=False):
        best = ours.loc[ours["value"].idxmax()]
        whose = f"the best of {kind} (“{best['policy']}”)" if len(ours) > 1 else best["policy"]
        said.append(
            f"{whose} loses {best['value']:.3g} times less (95% interval {best['low']:.3g} to "
            f"{best['high']:.3g})"
        )
    return (
        f"With {budget} entries, {parts.setting_said(setting)}, in "
        f"{parts.DISTANCE_NAMES[distance]}, against random retention that protects nothing: "
        f"{'; '.join(said)}. "
        f"{part['documents'].min()} documents."
    )
