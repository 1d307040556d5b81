"""Drafting without loss: rejection rates from stored distances, and what the real runs came to.

No claim of the paper is judged here. Documents are what is left out for an interval (jackknife-t);
a share ends at 0 and 1, and tokens a round at one and all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from kvlib import fit, store
from kvlib.claims.policy_rows import CORPUS, MODEL, SINKS, place, summary
from kvlib.names import order
from kvlib.theory import drafting as theory

STUDY = "drafting"
RUN = ["model", "corpus", "way", "window"]
STEPS = 2  # windows that a slider has an octave
WEIGHT_BYTES = 2  # of a parameter, at the 16 bits that a server holds it in
LARGER = "qwen2.5-coder-0.5b-instruct"
SPOKEN = 256  # entries of the window that sentences single out
EXAMPLE = {"draft": 4, "window": SPOKEN, "context": 8192}  # of the worked number
BATCHES = (1, 64)  # its batches


# --- the rejection rate, from stored distances ------------------------------------------------


def rejections(rows: pd.DataFrame, folder: Path = store.DATA) -> pd.DataFrame:
    """Mean TV of sinks and recent tokens online, a row a model, text and window, for the picture.

    `rows` are those of policies. Between measured budgets the logarithm of TV is read on a straight
    line over that of the window. Columns: `setting, where, window, tv, measured` (whether the
    window was), `weights, token_bytes` (16 bits), `documents`. Models with layers that see a few
    tokens only are left out: their cache does not grow as the formulas say.
    """
    ours = rows[(rows["protocol"] == "online") & (rows["policy"] == SINKS)]
    loads = _loads(folder)
    tables = []
    for (model, corpus), part in summary(ours, "tv").groupby(["model", "corpus"], sort=False):
        if (load := loads[model]) is None:
            continue
        windows = grid(int(part["budget"].min()), int(part["budget"].max()))
        logs = np.interp(np.log(windows), np.log(part["budget"]), np.log(part["mean"]))
        tables.append(
            pd.DataFrame({"window": windows, "tv": np.exp(logs)}).assign(
                setting=f"{model}|{corpus}",
                where=place(model, corpus),
                measured=np.isin(windows, part["budget"]),
                documents=int(part["documents"].min()),
                weights=load.weights,
                token_bytes=load.token_bytes,
            )
        )
    return pd.concat(tables, ignore_index=True)


def grid(first: int, last: int) -> np.ndarray:
    """Windows from the first to the last, STEPS an octave."""
    octaves = np.arange(STEPS * np.log2(last / first) + 1e-9) / STEPS
    return np.unique(np.round(first * 2.0 ** np.append(octaves, np.log2(last / first)))).astype(int)


class Load(NamedTuple):
    """Bytes of a model's weights, and of a token of its cache, at 16 bits."""

    weights: float
    token_bytes: float


def _loads(folder: Path) -> dict[str, Load | None]:
    """Model → what it weighs, None for one with layers that see a few tokens only."""
    found: dict[str, Load | None] = {}
    for table in store.tables(folder, kind="policy_distortion"):
        about = table.model
        cost = about["cache_bytes"]
        weighs = Load(float(WEIGHT_BYTES * about["parameters"]), float(cost["full"]))
        found[table.settings["model"]] = None if cost["sliding"] else weighs
    return found


# --- the runs -----------------------------------------------------------------------------------


def stored_runs(folder: Path = store.DATA) -> pd.DataFrame:
    """Every stored row of a run, with its `model` and `corpus`; empty when there is no table."""
    parts = [
        table.load().assign(model=table.settings["model"], corpus=table.settings["corpus"])
        for table in sorted(
            store.tables(folder, kind=STUDY),
            key=lambda t: order(t.settings["model"], t.settings["corpus"]),
        )
    ]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=RUN)


def rounds(rows: pd.DataFrame) -> pd.DataFrame:
    """A row a round: `RUN, doc, round`, `kept` of its drafted tokens, and `expected`, the tokens
    that it yields on average over the rule's own draws, given what was drafted."""
    keys = [*RUN, "doc", "round"]
    wide = rows.sort_values([*keys, "place"])
    draft = int(rows["place"].max())
    chances = wide["chance"].to_numpy(dtype=float).clip(0, 1).reshape(-1, draft)
    found = wide.groupby(keys, sort=True)["kept"].sum().reset_index()
    return found.assign(expected=theory.tokens_along(chances))


def outcomes(rows: pd.DataFrame, draft: int | None = None) -> pd.DataFrame:
    """What came of each model, way and window, when the first `draft` of a round's tokens count.

    Columns: `RUN`; estimates over documents: `kept` (share of the drafted tokens that were reached
    and kept), `promised` (one less the mean TV at the same places), `tokens` (a round, counted),
    `independent` (`theory.tokens_a_round` of the mean chance at all drafted places), `more`
    (`tokens` over that, paired); and `rounds`, `same` (documents whose greedy text is that of plain
    decoding; nan where none is compared).

    The chance of all places, not the share of those that were reached: good rounds reach more
    places than bad ones, and their share is too high wherever rounds differ.
    """
    draft = int(rows["place"].max()) if draft is None else draft
    first = rows[rows["place"] <= draft]
    table = []
    for key, part in first.groupby(RUN, sort=False):
        chance = part.groupby("doc")["chance"].sum().to_numpy(dtype=float)
        places = part.groupby("doc").size().to_numpy(dtype=float)
        docs = part[part["reached"]].groupby("doc")
        kept = docs["kept"].sum().to_numpy(dtype=float)
        tried = docs.size().to_numpy(dtype=float)
        tv = docs["tv"].sum().to_numpy(dtype=float)
        tours = docs["round"].nunique().to_numpy(dtype=float)

        def formula(chance: float, places: float) -> float:
            return float(theory.tokens_a_round(min(chance / places, 1), draft))  # noqa: B023

        def above(kept: float, tours: float, chance: float, places: float) -> float:
            return (1 + kept / tours) / formula(chance, places)  # noqa: B023

        same = docs["same"].min()
        table.append(
            (
                *key,
                _bounded(over_documents(lambda k, n: k / n, kept, tried), 0, 1),
                _bounded(over_documents(lambda d, n: 1 - d / n, tv, tried), 0, 1),
                _bounded(over_documents(lambda k, n: 1 + k / n, kept, tours), 1, draft + 1),
                _bounded(over_documents(formula, chance, places), 1, draft + 1),
                over_documents(above, kept, tours, chance, places),
                int(tours.sum()),
                float((same == 1).sum()) if (same >= 0).all() else np.nan,
            )
        )
    columns = ["kept", "promised", "tokens", "independent", "more", "rounds", "same"]
    return pd.DataFrame(table, columns=[*RUN, *columns])


def over_documents(of: Callable[..., float], *sums: np.ndarray) -> fit.Estimate:
    """A function of sums over documents, with a jackknife-t interval; each leaves one out."""
    whole = of(*(values.sum() for values in sums))
    left = [of(*(values.sum() - values[k] for values in sums)) for k in range(len(sums[0]))]
    return fit.jackknife(whole, np.array(left))


def _bounded(item: fit.Estimate, low: float, high: float) -> fit.Estimate:
    """The estimate with its interval cut at what is possible."""
    return replace(item, low=max(item.low, low), high=min(item.high, high))


def repeats(rows: pd.DataFrame, span: int = 4) -> pd.Series:
    """By model and way: the share of a text's stretches of `span` tokens that it had before."""
    found = []
    for key, run in rows.groupby([*RUN, "doc"], sort=False):
        text = written(run)
        spans = [tuple(text[i : i + span]) for i in range(len(text) - span + 1)]
        found.append((*key, 1 - len(set(spans)) / len(spans)))
    table = pd.DataFrame(found, columns=[*RUN, "doc", "share"])
    return table.groupby(["model", "way"], sort=False)["share"].mean()


def written(run: pd.DataFrame) -> list[int]:
    """The tokens that a run of one document wrote."""
    text: list[int] = []
    for _, one in run.groupby("round"):
        text += [*one.loc[one["kept"], "token"], one["closing"].iloc[0]]
    return text


def drawn(rows: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """For the picture of rounds: `outcomes` at each draft length, and the formula at the rate that
    the text's own TV promises (`rejections`), where that window was measured.

    Columns: `setting, where, way, window, draft, tokens, low, high, independent, promised,
    of_text, documents, rounds`.
    """
    rate = table[table["measured"]].set_index(["setting", "window"])["tv"]
    parts = []
    for draft in range(1, int(rows["place"].max()) + 1):
        for row in outcomes(rows, draft).to_dict("records"):
            setting = f"{row['model']}|{row['corpus']}"
            tv = rate.get((setting, row["window"]), np.nan)
            parts.append(
                {
                    "setting": setting,
                    "where": place(row["model"], row["corpus"]),
                    "way": row["way"],
                    "window": int(row["window"]),
                    "draft": draft,
                    "tokens": row["tokens"].value,
                    "low": row["tokens"].low,
                    "high": row["tokens"].high,
                    "independent": row["independent"].value,
                    "kept": row["kept"].value,
                    "of_text": np.nan if np.isnan(tv) else theory.tokens_a_round(1 - tv, draft),
                    "documents": row["tokens"].n_documents,
                    "rounds": row["rounds"],
                }
            )
    return pd.DataFrame(parts)


# --- for the page -------------------------------------------------------------------------------


def example(table: pd.DataFrame) -> pd.DataFrame:
    """The worked number, on the text and model that sentences single out; `table` of `rejections`.

    A row a batch: `sequences`, `tokens` a round, `speed_up`, `pays_from` (tokens of context).
    """
    row = spoken_rate(table)
    load = {"weights": row["weights"], "token_bytes": row["token_bytes"]}
    tokens = theory.tokens_a_round(1 - row["tv"], EXAMPLE["draft"])
    found = []
    for sequences in BATCHES:
        speed = theory.speed_up(tokens, sequences=sequences, **EXAMPLE, **load)
        pays = theory.break_even_context(
            tokens, EXAMPLE["draft"], EXAMPLE["window"], sequences, **load
        )
        found.append((sequences, float(tokens), float(speed), float(pays)))
    return pd.DataFrame(found, columns=["sequences", "tokens", "speed_up", "pays_from"])


def spoken_rate(table: pd.DataFrame) -> pd.Series:
    """The row of `rejections` that sentences single out."""
    at = (table["setting"] == f"{MODEL}|{CORPUS}") & (table["window"] == SPOKEN)
    return table[at].iloc[0]


def shown(found: pd.DataFrame, model: str) -> pd.DataFrame:
    """`outcomes` of one model for its page, by window and way, to three digits."""
    ours = found[found["model"] == model]
    names = {
        "kept": "kept of those reached",
        "promised": "1 − mean TV there",
        "tokens": "tokens a round",
        "independent": "formula",
        "more": "counted / formula",
    }
    words = ours[list(names)].map(lambda item: f"{item:.3g}").rename(columns=names)
    words.index = pd.MultiIndex.from_frame(ours[["way", "window"]], names=["way", "window"])
    return words


def facts(
    rows: pd.DataFrame, found: pd.DataFrame, table: pd.DataFrame, folder: Path = store.DATA
) -> dict[str, str]:
    """Name → text of every value that the page glues: `stored_runs`, `outcomes`, `rejections`."""
    foretold = theory.tokens_a_round(1 - spoken_rate(table)["tv"], int(rows["place"].max()))
    said = _design_facts(folder) | _rate_facts(table) | _run_facts(rows, found)
    return said | {"foretold": f"{foretold:.3g}"}


def _design_facts(folder: Path) -> dict[str, str]:
    of = {t.settings["model"]: t for t in store.tables(folder, kind=STUDY)}
    ours, larger = of[MODEL], of[LARGER]
    return {
        "n-docs": str(ours.manifest["documents"]),
        "n-docs-larger": str(larger.manifest["documents"]),
        "n-prompt": f"{ours.settings['prompt']:,}",
        "n-tokens": str(ours.settings["tokens"]),
        "n-tokens-larger": str(larger.settings["tokens"]),
        "n-draft": str(ours.settings["draft"]),
    }


def _rate_facts(table: pd.DataFrame) -> dict[str, str]:
    row, worked = spoken_rate(table), example(table)
    one, many = worked.to_dict("records")
    return {
        "rejected": f"{100 * row['tv']:.0f}%",
        "n-text": str(row["documents"]),
        "worked-tokens": f"{one['tokens']:.2f}",
        "worked-draft": str(EXAMPLE["draft"]),
        "worked-context": f"{EXAMPLE['context']:,}",
        "worked-weights": f"{row['weights'] / 1e6:.0f}",
        "worked-token-bytes": f"{row['token_bytes']:,.0f}",
        "worked-one": f"{one['speed_up']:.2f}",
        "worked-many": f"{many['speed_up']:.2f}",
        "worked-batch": str(many["sequences"]),
        "worked-from": f"{float(format(one['pays_from'], '.2g')):,.0f}",
    }


def _run_facts(rows: pd.DataFrame, found: pd.DataFrame) -> dict[str, str]:
    sampled = found[found["way"] == "sampled"]
    (one,) = sampled.query("model == @MODEL and window == @SPOKEN").to_dict("records")
    said = {"kept": f"{one['kept']:.2g}", "promised": f"{one['promised']:.2g}"}
    said |= {"counted": f"{one['tokens']:.3g}", "independent": f"{one['independent']:.3g}"}
    for name, model in (("", MODEL), ("-larger", LARGER)):
        greedy = found[(found["model"] == model) & (found["way"] == "greedy")]
        runs = sum(item.n_documents for item in greedy["kept"])
        said[f"equal{name}"] = f"{greedy['same'].sum():.0f} of {runs}"
    low, high = fit.extremes(found["more"])
    again = repeats(rows)[MODEL]
    return said | {
        "least-more": f"{low.value:.2f}",
        "most-more": f"{high.value:.2f}",
        "surely-more": str(sum(item.low > 1 for item in found["more"]) or "none"),
        "surely-less": str(sum(item.high < 1 for item in found["more"]) or "none"),
        "n-runs": str(len(found)),
        "repeats-greedy": f"{100 * again['greedy']:.0f}%",
        "repeats-sampled": f"{100 * again['sampled']:.1f}%",
    }
