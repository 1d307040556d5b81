"""What the next query would save a coder of a real KV cache: bits per token and head.

Keys and values of a Llama-type model before RoPE, with the query of the next token as side
information, under squared error and a Gaussian fit. The next query comes from the same pass over
the whole context: it is a genie's, and the saving is optimistic. `kvlib.measure.rates` measures it.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from kvlib import fit, names, store
from kvlib.claims import chances
from kvlib.claims.claim import Claim, Verdict, figure_of, rule_text, to_come
from kvlib.fit import Estimate
from kvlib.theory import bottleneck, closed_forms, coding

CLAIM = Claim(
    "C1",
    "Compressing a cache online is sequential Wyner-Ziv coding; the next query is side "
    "information.",
    "formulation",
)
CLAIMS = (CLAIM,)
PARTS = ("key", "value")
TRUTHS = (0.0, 0.02, 0.05, 0.1, 1.0)  # of the measured savings


# --- reading the table ------------------------------------------------------------------------


def stored_table(folder: Path = store.DATA) -> store.Stored | None:
    """The measured table (SmolLM2 on the World English Bible): where there are several, the first
    in the order of the book; None without any."""
    tables = store.tables(folder, study="kv_rates")
    place = ("model", "corpus")
    return min(tables, key=lambda t: names.order(*(t.settings[key] for key in place)), default=None)


def stored_rates(folder: Path = store.DATA) -> pd.DataFrame:
    """The rows of the measured table."""
    table = stored_table(folder)
    if table is None:
        raise ValueError(f"{folder}: expected a table of the study kv_rates, found none")
    return table.load()


def rates_summary(table: pd.DataFrame) -> pd.DataFrame:
    """Means over documents, for each head and for the mean over heads.

    One row a (part, layer, head, distortion): `without`, `known` (bits per token and head) and
    `saving` with its 95% t-interval over documents, `low` and `high`. `head` is a text: "0", "1",
    …, or "mean".
    """
    values = ["rate_bits", "rate_with_query_bits"]
    keys = ["part", "layer", "distortion"]
    heads = table[[*keys, "doc", "head", *values]].astype(
        {"head": str} | dict.fromkeys(values, float)
    )
    over_heads = heads.groupby([*keys, "doc"], as_index=False)[values].mean().assign(head="mean")
    every = pd.concat([over_heads, heads], ignore_index=True)
    every["saving"] = every["rate_bits"] - every["rate_with_query_bits"]
    grouped = every.groupby(["part", "layer", "head", "distortion"])
    found = grouped[[*values, "saving"]].mean()
    half = grouped["saving"].sem() * stats.t.ppf(0.975, grouped.size() - 1)
    found["low"], found["high"] = found["saving"] - half, found["saving"] + half
    found = found.rename(columns={"rate_bits": "without", "rate_with_query_bits": "known"})
    found = found.reset_index()
    found["distortion"] = found["distortion"].astype(float).round(6)
    return found


def mean_saving(table: pd.DataFrame, part: str, distortion: float | None = None) -> Estimate:
    """Bits per token and head that the genie's query saves, over all layers and heads.

    At the given relative distortion, or in the limit of small ones. The interval is Student's t
    over documents; that the documents share two fits is left out of it.
    """
    rows = table[table["part"] == part]
    if distortion is None:
        rows = rows.drop_duplicates(["doc", "layer", "head"])
        saving = rows["gain_bits"]
    else:
        rows = rows[np.isclose(rows["distortion"], distortion, rtol=1e-3)]
        saving = rows["rate_bits"] - rows["rate_with_query_bits"]
    if not len(rows):
        raise ValueError(f"part, distortion: expected stored ones, got {part!r}, {distortion}")
    per_doc = saving.astype(float).groupby(rows["doc"]).mean()
    half = per_doc.sem() * stats.t.ppf(0.975, len(per_doc) - 1)
    mean = float(per_doc.mean())
    return Estimate(mean, float(mean - half), float(mean + half), len(per_doc))


def gains(table: pd.DataFrame) -> pd.DataFrame:
    """The saving at small distortion by three routes, mean bits per token and head, a row a part.

    `plug-in` (in sample), `bias` (its bias for independent Gaussian rows), `corrected` (their
    difference), `held out` (an `Estimate`: shrunk fit, other documents).
    """
    rows = {}
    for part in PARTS:
        mine = table[table["part"] == part].drop_duplicates(["doc", "layer", "head"])
        plug_in, bias = float(mine["plug_in_bits"].mean()), float(mine["bias_bits"].mean())
        rows[part] = {
            "plug-in": round(plug_in, 2),
            "its bias": round(bias, 2),
            "corrected": round(plug_in - bias, 2),
            "held out": mean_saving(table, part),
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def rule(solver_holds: bool, table: pd.DataFrame) -> str:
    """C1. Partly, when the one-step problem meets its closed forms and the query says something
    about the real cache (interval above zero); what a sequence of steps adds is not tested here,
    and so never more than partly."""
    return word(solver_holds, [mean_saving(table, part) for part in PARTS])


def word(solver_holds: bool, savings: list[Estimate]) -> str:
    """The word on the solver's check and what the query saves of each part."""
    says = all(item.low > 0 for item in savings)
    return "partly" if solver_holds and says else "not reproduced"


def had_it_been(
    savings: dict[str, Estimate], n: int = chances.STUDIES, seed: int = 0
) -> pd.DataFrame:
    """What the rule would have said, were another share of the measured `savings` the truth.

    Savings of keys and values are drawn anew. Columns: `reading, truth`, the share of each word.
    """

    def study(rng: np.random.Generator, _: str, truth: float) -> str:
        made = [fit.drawn(item, truth * item.value, rng) for item in savings.values()]
        return word(True, made)

    return chances.table(["reading", "truth"], [("", truth) for truth in TRUTHS], study, n, seed)


def power(of: pd.DataFrame) -> str:
    """What data would have given each word, from `had_it_been`."""
    said = chances.sentence(of, "how many times the measured saving is the true one")
    return (
        "Reproduced is out of reach: a proof about a sequence of steps would be needed, not data. "
        "The one-step problem has no chance in it: a rate off its closed form gives not "
        f"reproduced. {said}"
    )


def sentence(table: pd.DataFrame) -> str:
    """The figure beside the verdict."""
    key, value = (mean_saving(table, part) for part in PARTS)
    return (
        f"a genie's next query saves {key} bits a key and {value} bits a value, per token and head "
        f"at small distortion; SmolLM2, {key.n_documents} documents"
    )


def three_flips() -> pd.Series:
    """Bits that a note on three coin flips takes, of which one will be asked for: when the question
    is heard before the note is written, and when it is heard after."""
    flips = np.array(list(itertools.product([0, 1], repeat=3)))
    answer = np.eye(2)[flips]  # (flips, question, answer)
    late = bottleneck.bottleneck(np.full((8, 3), 1 / 24), answer, 4, size=8)
    known = np.tile(np.eye(3), (8, 1)) / 24  # the writer sees (flips, question)
    told = np.repeat(answer, 3, axis=0)
    early = bottleneck.bottleneck(known, told, 4, size=8)
    bits = np.array([early.rate_nats, late.rate_nats]) / np.log(2)
    return pd.Series(bits, ["question first", "note first"], name="bits")


def one_step(p: float = 0.25, slopes: tuple[float, ...] = (2.2, 2.5, 3.0, 4.0)) -> pd.DataFrame:
    """Fair bits, a memory of them that is wrong with probability p: least rates in nats, a row a
    slope. With the memory at the reader: distortion `D`, rate of the `solver`, of the `formula`,
    `gap` (the solver's rate is too large by no more). With it on both sides: `D both`,
    `solver both`, `formula both`."""
    wrong, joint = 1 - np.eye(2), np.array([[1 - p, p], [p, 1 - p]]) / 2
    reader = [coding.wyner_ziv(joint, wrong, slope) for slope in slopes]
    both = [coding.conditional_blahut_arimoto(joint, wrong, slope) for slope in slopes]
    table = pd.DataFrame(index=list(slopes))
    table["D"] = [point.distortion for point in reader]
    table["solver"] = [point.rate_nats for point in reader]
    table["formula"] = closed_forms.doubly_symmetric_rate(table["D"].to_numpy(), p)
    table["gap"] = [point.gap for point in reader]
    table["D both"] = [point.distortion for point in both]
    table["solver both"] = [point.rate_nats for point in both]
    table["formula both"] = closed_forms.binary_rate(table["D both"].to_numpy(), p)
    return table


def solver_holds(steps: pd.DataFrame, bits: pd.Series, p: float = 0.25) -> bool:
    """Does `one_step` meet its closed forms, with a certified gap, at a rate above the conditional
    one, and do the notes of `three_flips` take one and three bits?"""
    conditional = closed_forms.binary_rate(steps["D"].to_numpy(), p)
    return bool(
        (steps["solver"] - steps["formula"]).abs().max() < 1e-8
        and (steps["solver both"] - steps["formula both"]).abs().max() < 1e-8
        and steps["gap"].max() <= 1e-10
        and (steps["formula"] > conditional).all()
        and np.abs(bits.to_numpy() - [1, 3]).max() < 1e-6 / np.log(2)
    )


def tangents() -> pd.DataFrame:
    """Where the Wyner-Ziv curve of the doubly symmetric source becomes straight, a row a crossover.

    Columns: `p`, `from` (distortion of the tangent point), `slope` (bits a unit of it).
    """
    crossovers = [round(0.02 * k, 2) for k in range(1, 24)]
    points = [closed_forms.doubly_symmetric_tangent(p) for p in crossovers]
    return pd.DataFrame(
        {
            "p": crossovers,
            "from": [point.distortion for point in points],
            "slope": [point.slope / np.log(2) for point in points],
        }
    )


def judge(folder: Path = store.DATA) -> tuple[Verdict, ...]:
    """The verdict on C1."""
    stored = stored_table(folder)
    if stored is None:
        return (to_come(CLAIM, rule),)
    table = stored.load()
    where = {key: stored.settings[key] for key in ("model", "corpus")}
    figures = [
        figure_of(f"bits saved a {part}, small distortion", mean_saving(table, part), **where)
        for part in PARTS
    ]
    judged = rule(solver_holds(one_step(), three_flips()), table), sentence(table), rule_text(rule)
    tried = power(had_it_been({part: mean_saving(table, part) for part in PARTS}))
    return (Verdict(CLAIM, *judged, tuple(figures), power=tried),)


# --- what the page says -----------------------------------------------------------------------


def facts(
    table: pd.DataFrame, summary: pd.DataFrame, level: float, steps: pd.DataFrame, bits: pd.Series
) -> dict[str, str]:
    """What the page's prose glues: of the stored rates and their `rates_summary`, at the relative
    distortion `level`; of `one_step` and `three_flips`."""
    settings = store.read_manifest(next(iter(store.stored("kv_rates").values())))["settings"]
    key, value = (mean_saving(table, part) for part in PARTS)
    return {
        "verdict-c1": rule(solver_holds(steps, bits), table),
        "power-c1": power(had_it_been(dict(zip(PARTS, (key, value), strict=True)))),
        "early-bits": f"{bits.iloc[0]:.0f}",
        "late-bits": f"{bits.iloc[1]:.0f}",
        "sinks": f"{settings['sinks_left_out']}",
        "tokens": f"{settings['seq_len']:,}",
        "n": f"{key.n_documents}",
        "key-gain": f"{key}",
        "value-gain": f"{value}",
        "level": f"{100 * level:.0f}",
        "key-saving": f"{mean_saving(table, 'key', level)}",
        "plug-in": f"{gains(table).loc['key', 'plug-in']:.1f}",
        "corrected": f"{gains(table).loc['key', 'corrected']:.1f}",
        **_level_facts(summary[np.isclose(summary["distortion"], level)]),
    }


def _level_facts(summary: pd.DataFrame) -> dict[str, str]:
    """Of one distortion: rates and savings over all layers, and the layers that differ most."""
    layers = summary[summary["head"] == "mean"]
    means = layers.groupby("part")[["without", "known", "saving"]].mean()
    share = 100 * means["saving"] / means["without"]
    keys = layers[layers["part"] == "key"]
    ends = {"most": keys["saving"].idxmax(), "least": keys["saving"].idxmin()}
    found = {
        "key-rate": f"{means.loc['key', 'without']:.0f}",
        "key-known": f"{means.loc['key', 'known']:.0f}",
        "key-share": f"{share['key']:.0f}",
        "value-share": f"{share['value']:.0f}",
    }
    for name, row in ((name, keys.loc[k]) for name, k in ends.items()):
        found[name] = f"{row['saving']:.1f} [{row['low']:.1f}, {row['high']:.1f}]"
        found[f"{name}-layer"] = f"{row['layer'] + 1:.0f}"
    return found
