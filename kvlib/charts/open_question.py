"""The open question: the memory of a recurrent state beside a window's, and three protocols."""

from __future__ import annotations

import altair as alt
import pandas as pd

from kvlib.charts import parts
from kvlib.charts.controls import Choice, Explorer, Origin, Slider
from kvlib.charts.inks import BLUE, GREEN, GREY, ORANGE
from kvlib.charts.parts import DASHED, DOTTED, SOLID
from kvlib.charts.policies import BUDGETS
from kvlib.names import name_of

LARGEST_MEMORY = 1e6
WORDS = {  # for each source: the window's unit, who else does it, in what unit, and who can't
    "renewal": (
        "tokens, one bit each",
        "a counter needs ",
        "bits",
        "recurrent memory can do with fewer than ",
    ),
    "plus": (
        "numbers",
        "a bank of linear states needs ",
        "numbers",
        "linear recursion can do with fewer than ",
    ),
    "rudin-shapiro": (
        "numbers",
        "the best linear recursion that we found needs ",
        "numbers",
        "linear recursion can do with fewer than ",
    ),
    "recall": (
        "rounds",
        "the newest fresh bits do it with ",
        "bits",
        "memory at all can do with fewer than ",
    ),
}
ABSENT = {  # why a source has no such exponent
    "renewal": "no stationary source flashes after gaps of that law",
    "plus": "with plus signs the source keeps a random mean, so that it is not ergodic",
}
PROTOCOLS = {  # in words; ink, dash and shape
    "reencode": ("re-encoded", GREEN, DOTTED, "square"),
    "online": ("online", BLUE, SOLID, "circle"),
    "prefill": ("after a full prefill", ORANGE, DASHED, "triangle-up"),
}


# --- memory -----------------------------------------------------------------------------------


def memory(
    curves: pd.DataFrame, needs: pd.DataFrame, alpha: float = 1.5, epsilon: float = 0.001
) -> Explorer:
    """Source, exponent and ε to choose: the memory of a window and of a recurrent state.

    The tables as `memory_chart` asks for, with two exponents or more.
    """
    alphas, epsilons = (sorted(needs[name].unique().tolist()) for name in ("alpha", "epsilon"))
    allowed = {"unit": "nats", "scale": "log", "axis": "y"}
    return Explorer(
        memory_chart(curves, needs),
        [
            Choice("source", "Source", [(key, name_of(key)) for key in curves["source"].unique()]),
            Slider("alpha", "Exponent α", values=alphas, value=alpha),
            Slider("epsilon", "Distortion allowed, ε", values=epsilons, value=epsilon, **allowed),
        ],
        "Memory that a suffix window and a recurrent state need for a given distortion",
        Origin(units={"memory": "bits or numbers", "value": "nats", "epsilon": "nats"}),
    )


def memory_chart(curves: pd.DataFrame, needs: pd.DataFrame) -> alt.LayerChart:
    """Distortion against memory: suffix window, recurrent state, and what no such state can do.

    `curves` and `needs` are what `memory_curves` and `memory_needs` of
    `kvlib.claims.open_question` return, for every exponent that can be chosen. Where a source has
    no such exponent (no row of `needs`) the sentence says why. Parameters: `source`, `alpha`,
    `epsilon`.
    """
    x_scale = alt.Scale(type="log", domain=[0.1, LARGEST_MEMORY], clamp=True, nice=False)
    y_scale = alt.Scale(type="log", domain=[3e-6, 1], clamp=True, nice=False)
    ticks = [10.0**k for k in range(-1, 7)]
    x_axis = alt.Axis(
        title="memory (bits or numbers)", values=ticks, format=",~f", labelOverlap=True
    )
    y_axis = parts.log_axis("distortion (nats)", 3e-6, 1)
    y = alt.Y("value:Q", scale=y_scale, axis=y_axis)

    def x(field: str) -> alt.X:
        return alt.X(f"{field}:Q", scale=x_scale, axis=x_axis)

    chosen = "datum.alpha == alpha && datum.source == source"
    in_sight = (curves["value"] >= 5e-5) & curves["memory"].between(0.1, LARGEST_MEMORY)
    base = alt.Chart(parts.rounded(curves[in_sight])).transform_filter(chosen)

    def line(
        kind: str, color: str, dash: list[int], point: bool = False, width: float = 2
    ) -> alt.Chart:
        dots = alt.OverlayMarkDef(size=28, color=color) if point else False
        return (
            base.transform_filter(f"datum.kind == '{kind}'")
            .mark_line(color=color, strokeDash=dash, strokeWidth=width, point=dots)
            .encode(x=x("memory"), y=y)
        )

    level = (
        alt.Chart(pd.DataFrame({"memory": [0.1, LARGEST_MEMORY]}))
        .transform_calculate(value="epsilon")
        .mark_line(color=GREY, strokeDash=DOTTED)
        .encode(x=x("memory"), y=y)
    )
    level = parts.rule_for("epsilon", level)
    once = alt.Chart(every_choice(needs)).transform_filter(f"{chosen} && datum.epsilon == epsilon")
    marks = [
        once.transform_filter("isValid(datum.window)")
        .transform_calculate(value="epsilon")
        .mark_point(color=color, size=110, filled=True, shape="diamond")
        .encode(x=x(field), y=y)
        for field, color in (("suffix", BLUE), ("recurrent", GREEN))
    ]

    def say(place: int) -> str:
        pairs = ", ".join(f"'{key}': '{texts[place]}'" for key, texts in WORDS.items())
        return "({" + pairs + "}[source])"

    def one(place: int) -> str:
        return f"replace({say(place)}, /s$/, '')"

    absent = ", ".join(f"'{key}': '{why}'" for key, why in ABSENT.items())
    reading = parts.reading(
        once,
        "!isValid(datum.window) ? 'Nothing to show with α = ' + format(alpha, '~g')"
        " + ' and a distortion of ' + format(epsilon, '~g') + ' nats: '"
        " + ({" + absent + "}[source] || 'it was not computed') + '.' : "
        "'With α = ' + format(alpha, '~g') + ', a distortion of ' + format(epsilon, '~g')"
        f" + ' nats asks for a window of ' + format(datum.window, ',d') + ' '"
        f" + (datum.window == 1 ? replace({say(0)}, /s(?=,|$)/, '') : {say(0)})"
        " + (source == 'recall' ? ', written out in ' + format(datum.suffix, ',.0f')"
        " + ' bits' : '')"
        f" + '; ' + {say(1)} + format(datum.recurrent, ',d') + ' '"
        f" + (datum.recurrent == 1 ? {one(2)} : {say(2)}) + '. '"
        f" + 'No ' + {say(3)} + (datum.bound <= 1 ? '1 ' + {one(2)} + ': here the bound says'"
        f" + ' nothing.' : format(datum.bound, datum.bound < 1000 ? ',.3~r' : ',.0f') + ' ' + "
        f"{say(2)} + '.')",
    )
    key = parts.legend(
        (BLUE, SOLID, "suffix window"),
        (GREEN, SOLID, "recurrent memory"),
        (ORANGE, DASHED, "lower bound"),
    )
    lines = (
        line("suffix", BLUE, SOLID, width=5),
        line("recurrent", GREEN, SOLID, point=True),
        line("bound", ORANGE, DASHED),
    )
    return parts.picture(
        *(level, *lines, *marks, *key, reading), parameters=("source", "alpha", "epsilon")
    )


def every_choice(needs: pd.DataFrame) -> pd.DataFrame:
    """`needs` with a row for every source, exponent and ε; empty where a source has no such
    exponent."""
    keys = ["source", "alpha", "epsilon"]
    choices = pd.MultiIndex.from_product([needs[key].unique() for key in keys], names=keys)
    return needs.set_index(keys).reindex(choices).reset_index()


# --- three protocols --------------------------------------------------------------------------


def three_protocols(summary: pd.DataFrame, policies: tuple[str, ...], budget: int = 64) -> Explorer:
    """Re-encoded, online and after a prefill, at equal budgets; what was run, and budget to choose.

    `summary` (`kvlib.claims.policy_rows.summary`) is of the tokens that all three share.
    """
    table = three_protocols_rows(summary, policies)
    entries = {"unit": "entries", "scale": "log", "axis": "x"}
    return Explorer(
        three_protocols_chart(table),
        [
            Choice("setting", "Policy, model and text", parts.texts_of(table["setting"])),
            Slider("budget", "Budget", values=BUDGETS, value=budget, **entries),
        ],
        "Distortion of one policy in the three protocols, against its budget",
        Origin([*parts.POLICIES, "suffix"], parts.IN_ENTRIES | parts.NATS),
    )


def three_protocols_chart(table: pd.DataFrame) -> alt.LayerChart:
    """Distortion against budget, a line a protocol. Parameters: `setting`, `budget`."""
    base = alt.Chart(table).transform_filter("datum.setting == setting")
    x = alt.X(
        "budget:Q",
        scale=alt.Scale(type="log", base=2, nice=False, padding=12),
        axis=alt.Axis(title="budget (entries a query sees)", values=list(BUDGETS), format=",d"),
    )
    scale = alt.Scale(type="log", nice=False)
    y = alt.Y("mean:Q", scale=scale, axis=parts.log_axis("mean KL (nats)"))
    layers = []
    for protocol, (_, colour, dash, shape) in PROTOCOLS.items():
        one = base.transform_filter(f"datum.protocol == '{protocol}'")
        layers += [
            one.mark_rule(color=colour, opacity=0.5, strokeWidth=2).encode(
                x=x, y=alt.Y("low:Q", title="", scale=scale), y2="high:Q"
            ),
            one.mark_line(
                color=colour,
                strokeWidth=2,
                strokeDash=dash,
                point=alt.OverlayMarkDef(size=70, color=colour, shape=shape),
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
    rule = once.mark_rule(color=GREY, strokeDash=DOTTED, strokeWidth=1.5).encode(x=x)
    rule = parts.rule_for("budget", rule)
    key = parts.legend(*((colour, dash, words) for words, colour, dash, _ in PROTOCOLS.values()))
    return parts.picture(
        *(rule, *layers, *key, parts.reading(once)), parameters=("setting", "budget")
    )


def three_protocols_rows(summary: pd.DataFrame, policies: tuple[str, ...]) -> pd.DataFrame:
    """The three protocols at equal budgets, for policies and models that have all of them."""
    table = summary[summary["policy"].isin(policies) & summary["budget"].isin(BUDGETS)].copy()
    table["policy"] = table["policy"].map(name_of)
    titles = [name_of(policy) for policy in policies]
    table["source"] = [
        f"{name_of(model)} · {name_of(corpus)}"
        for model, corpus in zip(table["model"], table["corpus"], strict=True)
    ]
    keys = ["source", "policy", "budget"]
    full = table.groupby(keys)["protocol"].transform("nunique") == len(PROTOCOLS)
    table = table[full]
    sentences = {}
    for key, part in table.groupby(keys, sort=False):
        at = part.set_index("protocol")["mean"]
        who, where = key[1][:1].upper() + key[1][1:], key[0].replace(" · ", " on ")
        sentences[key] = (
            f"{who} with {key[2]} entries, {where}: re-encoded "
            f"{at['reencode']:#.3g} nats, online {at['online']:#.3g}, after a full prefill "
            f"{at['prefill']:#.3g} ({part['documents'].min()} documents, "
            f"{part['tokens'].min()} tokens)."
        )
    triples = zip(*(table[name] for name in keys), strict=True)
    table["sentence"] = [sentences[triple] for triple in triples]
    table["setting"] = table["policy"] + " · " + table["source"]
    table = table.sort_values("policy", key=lambda names: names.map(titles.index), kind="stable")
    columns = ["setting", "budget", "protocol", "mean", "low", "high", "documents", "tokens"]
    return parts.rounded(table[[*columns, "sentence"]], 4)
