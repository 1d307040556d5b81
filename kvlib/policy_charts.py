"""Charts of the pages on cache policies: a table in, an Altair chart out. Nothing is estimated.

The tables are those of `kvlib.policy_checks`, made ready for pictures by `settings`, `lines` and
`compared` here; what a picture says in words is a column of its rows.
"""

from __future__ import annotations

import altair as alt
import pandas as pd

from kvlib.charts import BLUE, GREEN, GREY, HEIGHT, ORANGE, legend, log_axis, name_of
from kvlib.fit import rounded

BUDGETS = (16, 64, 256, 512)  # of every setting, whatever its protocol
SHAPES = {"reencode": "square", "online": "circle", "prefill": "triangle-up"}
COLOURS = {"reencode": GREEN, "online": BLUE, "prefill": ORANGE}
DASHES = {"reencode": [2, 3], "online": [1, 0], "prefill": [6, 4]}


def setting_of(model: str, corpus: str, protocol: str) -> str:
    """What a reader chooses among: protocol, model and text."""
    return f"{protocol} · {name_of(model)} · {name_of(corpus)}"


def settings(summary: pd.DataFrame) -> pd.DataFrame:
    """Rows of `policy_checks.summary` with their `setting`, and `sentence`: who is best there."""
    table = rounded(summary[summary["budget"].isin(BUDGETS)].copy(), 4)
    keys = zip(table["model"], table["corpus"], table["protocol"], strict=True)
    table["setting"] = [setting_of(*key) for key in keys]
    sentences = {}
    for (setting, budget), part in table.groupby(["setting", "budget"], sort=False):
        by_mean = part.sort_values("mean")
        best, worst = by_mean.iloc[0], by_mean.iloc[-1]
        protocol, model, text = setting.split(" · ")
        sentences[setting, budget] = (
            f"With {budget} entries, {protocol}, {model} on {text}: {best['policy']} loses least, "
            f"{best['mean']:.3g} nats (95% interval {best['low']:.3g} to {best['high']:.3g}, "
            f"{best['documents']} documents), and {worst['policy']} most, {worst['mean']:.3g}."
        )
    pairs = zip(table["setting"], table["budget"], strict=True)
    table["sentence"] = [sentences[pair] for pair in pairs]
    columns = ["setting", "budget", "policy", "mean", "low", "high", "median", "p95", "top1"]
    return table[[*columns, "documents", "sentence"]]


def ranking(table: pd.DataFrame) -> alt.LayerChart:
    """Policies from the least distortion to the most. Parameters: `setting`, `budget`."""
    setting, budget = table["setting"].iloc[0], 64
    base = alt.Chart(table).transform_filter("datum.setting == setting && datum.budget == budget")
    scale = alt.Scale(type="log", nice=False)
    axis = log_axis("mean KL (nats)")
    order = alt.Y(
        "policy:N",
        sort=alt.EncodingSortField("mean", op="min"),
        axis=alt.Axis(title=None, labelLimit=210, labelExpr="split(datum.label, ', ')"),
    )
    interval = base.mark_rule(color=GREY, strokeWidth=3, opacity=0.7).encode(
        x=alt.X("low:Q", scale=scale, axis=axis), x2="high:Q", y=order
    )
    tooltip = [
        alt.Tooltip("policy:N"),
        alt.Tooltip("mean:Q", title="mean (nats)", format=".3g"),
        alt.Tooltip("low:Q", title="95% from", format=".3g"),
        alt.Tooltip("high:Q", title="to", format=".3g"),
        alt.Tooltip("median:Q", title="median over tokens", format=".3g"),
        alt.Tooltip("p95:Q", title="95th percentile", format=".3g"),
        alt.Tooltip("top1:Q", title="same first guess", format=".0%"),
        alt.Tooltip("documents:Q"),
    ]
    mean = base.mark_point(color=BLUE, filled=True, size=90, opacity=1).encode(
        x=alt.X("mean:Q", scale=scale, axis=axis), y=order, tooltip=tooltip
    )
    one = base.transform_filter("datum.policy == '4 sinks + recent'")  # each setting has it
    return (
        alt.layer(interval, mean, _reading(one))
        .add_params(alt.param("setting", value=setting), alt.param("budget", value=budget))
        .properties(width="container", height=260)
    )


def lines(summary: pd.DataFrame, foretold: pd.DataFrame) -> pd.DataFrame:
    """Measured means with bands, and what the law foretells, a row a setting, policy and budget."""
    keys = ["model", "corpus", "protocol", "policy", "budget"]
    table = foretold.merge(summary[[*keys, "low", "high", "documents"]], on=keys)
    triples = zip(table["model"], table["corpus"], table["protocol"], strict=True)
    table["setting"] = [setting_of(*triple) for triple in triples]
    table["off"] = [item.value for item in table["factor"]]
    sentences = {}
    for (setting, policy), part in table.groupby(["setting", "policy"], sort=False):
        first, last = part.iloc[0], part.iloc[-1]
        sentences[setting, policy] = (
            f"{setting}: {policy} has {first['off']:.2g} times the foretold distortion at "
            f"{first['budget']} entries and {last['off']:.2g} times at {last['budget']} "
            f"(95% intervals {_span(first)} and {_span(last)}, {first['documents']} documents)."
        )
    table["sentence"] = [
        sentences[pair] for pair in zip(table["setting"], table["policy"], strict=True)
    ]
    columns = ["setting", "policy", "budget", "mean", "low", "high", "predicted", "off", "sentence"]
    return rounded(table[columns], 4)


def overlay(table: pd.DataFrame) -> alt.LayerChart:
    """Distortion against budget beside the law's prediction. Parameters: `setting`, `policy`."""
    setting, policy = table["setting"].iloc[0], "4 sinks + recent"
    base = alt.Chart(table).transform_filter("datum.setting == setting")
    picked = base.transform_filter("datum.policy == policy")
    ticks = sorted(table["budget"].unique().tolist())
    x = alt.X(
        "budget:Q",
        scale=alt.Scale(type="log", base=2, nice=False, domain=[ticks[0], ticks[-1]]),
        axis=alt.Axis(title="budget (entries a query sees)", values=ticks, format="d"),
    )
    scale = alt.Scale(type="log", nice=False)
    axis = log_axis("mean KL (nats)")
    y = alt.Y("mean:Q", scale=scale, axis=axis)
    others = base.mark_line(color=GREY, opacity=0.35, strokeWidth=1.5).encode(
        x=x, y=y, detail="policy:N"
    )
    band = picked.mark_area(color=BLUE, opacity=0.2).encode(
        x=x, y=alt.Y("low:Q", title="", scale=scale), y2="high:Q"
    )
    law = picked.mark_line(color=ORANGE, strokeDash=[6, 4], strokeWidth=2).encode(
        x=x, y=alt.Y("predicted:Q", title="", scale=scale)
    )
    measured = picked.mark_line(
        color=BLUE, strokeWidth=2, point=alt.OverlayMarkDef(size=50, color=BLUE)
    ).encode(
        x=x,
        y=y,
        tooltip=[
            alt.Tooltip("budget:Q"),
            alt.Tooltip("mean:Q", title="measured (nats)", format=".3g"),
            alt.Tooltip("predicted:Q", title="foretold", format=".3g"),
            alt.Tooltip("off:Q", title="measured / foretold", format=".2f"),
        ],
    )
    key = legend(
        (BLUE, [1, 0], "measured, with 95% band"),
        (ORANGE, [6, 4], "foretold by the law of suffixes"),
        (GREY, [1, 0], "other policies"),
    )
    reading = _reading(picked.transform_filter(f"datum.budget == {ticks[0]}"))
    return (
        alt.layer(others, band, law, measured, *key, reading)
        .add_params(alt.param("setting", value=setting), alt.param("policy", value=policy))
        .properties(width="container", height=HEIGHT)
    )


def compared(summary: pd.DataFrame, policies: tuple[str, ...]) -> pd.DataFrame:
    """The three protocols at equal budgets, for policies and models that have all of them."""
    table = summary[summary["policy"].isin(policies) & summary["budget"].isin(BUDGETS)].copy()
    table["source"] = [
        f"{name_of(model)} · {name_of(corpus)}"
        for model, corpus in zip(table["model"], table["corpus"], strict=True)
    ]
    keys = ["source", "policy", "budget"]
    full = table.groupby(keys)["protocol"].transform("nunique") == len(SHAPES)
    table = table[full]
    sentences = {}
    for key, part in table.groupby(keys, sort=False):
        at = part.set_index("protocol")["mean"]
        who, where = key[1][:1].upper() + key[1][1:], key[0].replace(" · ", " on ")
        sentences[key] = (
            f"{who} with {key[2]} entries, {where}: re-encoded "
            f"{at['reencode']:.3g} nats, online {at['online']:.3g}, after a full prefill "
            f"{at['prefill']:.3g} ({part['documents'].min()} documents, "
            f"{part['tokens'].min()} tokens)."
        )
    triples = zip(*(table[name] for name in keys), strict=True)
    table["sentence"] = [sentences[triple] for triple in triples]
    table["setting"] = table["policy"] + " · " + table["source"]
    table = table.sort_values("policy", key=lambda names: names.map(policies.index), kind="stable")
    columns = ["setting", "budget", "protocol", "mean", "low", "high", "documents", "tokens"]
    return rounded(table[[*columns, "sentence"]], 4)


def protocols(table: pd.DataFrame) -> alt.LayerChart:
    """Distortion against budget, a line a protocol. Parameters: `setting`, `budget`."""
    base = alt.Chart(table).transform_filter("datum.setting == setting")
    x = alt.X(
        "budget:Q",
        scale=alt.Scale(type="log", base=2, nice=False, padding=12),
        axis=alt.Axis(title="budget (entries a query sees)", values=list(BUDGETS), format="d"),
    )
    scale = alt.Scale(type="log", nice=False)
    y = alt.Y("mean:Q", scale=scale, axis=log_axis("mean KL (nats)"))
    layers = []
    for protocol, shape in SHAPES.items():
        one = base.transform_filter(f"datum.protocol == '{protocol}'")
        layers += [
            one.mark_rule(color=COLOURS[protocol], opacity=0.5, strokeWidth=2).encode(
                x=x, y=alt.Y("low:Q", title="", scale=scale), y2="high:Q"
            ),
            one.mark_line(
                color=COLOURS[protocol],
                strokeWidth=2,
                strokeDash=DASHES[protocol],
                point=alt.OverlayMarkDef(size=70, color=COLOURS[protocol], shape=shape),
            ).encode(
                x=x,
                y=y,
                tooltip=[
                    alt.Tooltip("protocol:N"),
                    alt.Tooltip("budget:Q"),
                    alt.Tooltip("mean:Q", title="mean (nats)", format=".3g"),
                    alt.Tooltip("documents:Q"),
                ],
            ),
        ]
    once = base.transform_filter("datum.budget == budget && datum.protocol == 'online'")
    rule = once.mark_rule(color=GREY, strokeDash=[2, 3], strokeWidth=1.5).encode(x=x)
    words = {"reencode": "re-encoded", "online": "online", "prefill": "after a full prefill"}
    key = legend(*((COLOURS[p], DASHES[p], words[p]) for p in SHAPES))
    chosen = {"setting": table["setting"].iloc[0], "budget": 64}
    return (
        alt.layer(rule, *layers, *key, _reading(once))
        .add_params(*(alt.param(name, value=value) for name, value in chosen.items()))
        .properties(width="container", height=HEIGHT)
    )


def plan(table: pd.DataFrame, epsilon: float) -> alt.LayerChart:
    """The measured curve, ε, and the least budget vouched for. Parameters: `source`, `epsilon`.

    `table` is what `kvlib.plan.plan_rows` returns.
    """
    base = alt.Chart(table).transform_filter("datum.source == source")
    ticks = sorted(table["budget"].unique().tolist())
    x = alt.X(
        "budget:Q",
        scale=alt.Scale(type="log", base=2, nice=False, padding=12),
        axis=alt.Axis(title="budget (entries a query sees)", values=ticks, format="d"),
    )
    scale = alt.Scale(type="log", domain=[0.01, 5], clamp=True, nice=False)
    y = alt.Y("mean:Q", scale=scale, axis=log_axis("mean KL (nats)", 0.01, 5))
    band = base.mark_area(color=BLUE, opacity=0.2).encode(
        x=x, y=alt.Y("low:Q", title="", scale=scale), y2="high:Q"
    )
    measured = base.mark_line(
        color=BLUE, strokeWidth=2, point=alt.OverlayMarkDef(size=60, color=BLUE)
    ).encode(x=x, y=y)
    level = (
        base.transform_calculate(level="epsilon")
        .mark_line(color=GREEN, strokeDash=[2, 3], strokeWidth=2)
        .encode(x=x, y=alt.Y("level:Q", title="", scale=scale))
    )
    least = base.transform_calculate(
        good="datum.worst <= epsilon ? datum.budget : 1e9"
    ).transform_joinaggregate(least="min(good)", last="max(budget)")
    one = least.transform_filter("datum.budget == (datum.least == 1e9 ? datum.last : datum.least)")
    found = alt.condition("datum.least < 1e9", alt.value(1), alt.value(0))
    rule = one.mark_rule(color=ORANGE, strokeWidth=2.5).encode(x=x, opacity=found)
    once = one.transform_calculate(
        figures="format(datum.mean, '.2~g') + ' nats, 95% interval ' + format(datum.low, '.2~g')"
        " + ' to ' + format(datum.high, '.2~g') + ', ' + datum.documents + ' documents'",
        sentence="datum.least == 1e9 ? 'No measured budget keeps ε = ' + format(epsilon, '~g')"
        " + ' nats with ' + datum.source + '. The largest, ' + datum.last + ' entries, has a mean"
        " of ' + datum.figures + '.'"
        " : 'For at most ε = ' + format(epsilon, '~g') + ' nats on average, ' + datum.source"
        " + ' needs ' + datum.budget + ' entries, ' + format(datum.megabytes, '.2~r') + ' MB: '"
        " + datum.figures + '. One token in twenty still loses more than '"
        " + format(datum.p95, '.2~g') + ' nats.'",
    )
    key = legend(
        (BLUE, [1, 0], "measured, with 95% band"),
        (GREEN, [2, 3], "distortion allowed, ε"),
        (ORANGE, [1, 0], "least budget vouched for"),
    )
    return (
        alt.layer(band, measured, level, rule, *key, _reading(once))
        .add_params(
            alt.param("source", value=table["source"].iloc[0]),
            alt.param("epsilon", value=epsilon),
        )
        .properties(width="container", height=HEIGHT)
    )


def cache_run(table: pd.DataFrame) -> alt.LayerChart:
    """Time and memory of a token, bounded and unbounded. Parameters: `quantity`, `token`."""
    base = alt.Chart(table).transform_filter("datum.quantity == quantity")
    x = alt.X("token:Q", axis=alt.Axis(title="tokens generated", format="d"))
    y = alt.Y("value:Q", axis=alt.Axis(title="per token (ms), or held (MB)", format="~g"))
    layers = [
        base.transform_filter(f"datum.cache == '{name}'")
        .mark_line(color=colour, strokeWidth=2, strokeDash=dash)
        .encode(x=x, y=y)
        for name, colour, dash in (("bounded", BLUE, [1, 0]), ("unbounded", ORANGE, [6, 4]))
    ]
    once = base.transform_filter("datum.token == token && datum.cache == 'bounded'")
    rule = once.mark_rule(color=GREY, strokeDash=[2, 3], strokeWidth=1.5).encode(x=x)
    key = legend((BLUE, [1, 0], "BoundedCache"), (ORANGE, [6, 4], "everything kept"))
    return (
        alt.layer(rule, *layers, *key, _reading(once))
        .add_params(alt.param("quantity", value="time"), alt.param("token", value=4000))
        .properties(width="container", height=HEIGHT)
    )


def cache_rows(run: pd.DataFrame) -> pd.DataFrame:
    """`cache_run`'s table, long: `cache, token, quantity, value, sentence`; tokens of both runs."""
    both = run.groupby("token")["cache"].transform("nunique") == 2
    run, parts = run[both], []
    for quantity, values, unit in (
        ("time", 1000 * run["cpu_seconds"], "ms of processor time"),
        ("memory", run["cache_bytes"] / 1e6, "MB"),
    ):
        part = run[["cache", "token"]].assign(quantity=quantity, value=values)
        wide = part.pivot(index="token", columns="cache", values="value")
        words = {
            token: f"At token {token:,} the bounded cache takes {row['bounded']:.3g} {unit}, "
            f"the unbounded one {row['unbounded']:.3g}."
            for token, row in wide.iterrows()
        }
        parts.append(part.assign(sentence=part["token"].map(words)))
    return rounded(pd.concat(parts, ignore_index=True), 4)


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


def position_curves(table: pd.DataFrame) -> alt.LayerChart:
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
        alt.layer(rule, *layers, *key, _reading(once))
        .add_params(alt.param("model", value=model), alt.param("window", value=16))
        .properties(width="container", height=HEIGHT)
    )


def _reading(rows: alt.Chart) -> alt.Chart:
    """The sentence of one row, as the text layer that stands under the picture."""
    return (
        rows.mark_text(align="left", baseline="top", dy=-26, limit=0)
        .encode(text="sentence:N", x=alt.value(0), y=alt.value(0))
        .properties(name="reading")
    )


def _span(row: pd.Series) -> str:
    return f"{row['factor'].low:.2g} to {row['factor'].high:.2g}"
