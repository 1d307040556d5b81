"""Whose exponent is it, the text's or the model's? Documents that several models read.

Documents of the study `shared` begin at the same characters for every tokenizer, so exponents of
two models on one text differ by what the models are and by nothing that they were given: their
difference is paired, document by document. No claim of the paper is judged here, but a prediction
of our own, written down before any of the larger models was measured; and C2 and C7 rest on it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from kvlib import fit, names, store
from kvlib.claims.claim import MIN_WINDOW, named
from kvlib.names import name_of

KL, TV, LOSS = "KL", "TV", "excess loss"
DISTANCES = {KL: "kl_nats", TV: "tv", LOSS: "nll_excess_nats"}  # by the columns that hold them
LAWS = {KL: "finite-context power", TV: "root power", LOSS: "finite-context power"}
REFERENCES = ("smollm2-135m-instruct", "gemma3-270m")  # whose mean the larger models depart from
SHORTER = "small-gpt2"  # its windows end at a quarter of the others'
LARGEST = "qwen2.5-coder-1.5b-instruct"
RECITED = "world-english-bible"
MARGINS = {KL: 0.12, TV: 0.05}  # as predicted
SHARE = 0.75  # of the variance, as predicted
LITTLE = (8, 16)  # windows with little in front
LONG = 65  # windows from here on are long
BLOCKS = 8  # tokens of the shortest neighbouring blocks
WORDS = ("kept", "missed", "undecided", "to come")


# --- the tables -----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Shared:
    """What one model said of the shared documents of one text.

    `begins` are the first characters of the documents, `chars` (documents,) their characters a
    token; `rows` are truncations and `twice` laws that were measured once more (`parted`).
    """

    model: str
    corpus: str
    parameters: int
    dtype: str
    begins: tuple[int, ...]
    chars: np.ndarray
    rows: pd.DataFrame
    twice: pd.DataFrame


Tables = dict[tuple[str, str], Shared]


def parted(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Truncations, and the rows whose window is the whole context: one law measured in two ways."""
    same = rows["window"] == rows["context"]
    return rows[~same], rows[same]


def stored(folder: Path = store.DATA, study: str = "shared") -> Tables:
    """(model, corpus) → what is stored of a study of shared documents, in the book's order."""
    found = {}
    for table in store.tables(folder, study):
        model, corpus = table.settings["model"], table.settings["corpus"]
        places = table.manifest["about"]["corpus"]["characters"]
        rows, twice = parted(table.load())
        chars = np.array([end - begin for begin, end in places]) / table.settings["seq_len"]
        found[model, corpus] = Shared(
            *(model, corpus, table.model["parameters"], table.settings["dtype"]),
            *(tuple(begin for begin, _ in places), chars, rows, twice),
        )
    return {key: found[key] for key in sorted(found, key=lambda key: names.order(*key))}


def models_of(tables: Tables) -> list[str]:
    """The models, the smallest first."""
    sizes = {one.model: one.parameters for one in tables.values()}
    return sorted(sizes, key=sizes.__getitem__)


def corpora_of(tables: Tables) -> list[str]:
    return list(dict.fromkeys(sorted((c for _, c in tables), key=lambda c: names.order(c))))


def readers(tables: Tables) -> pd.DataFrame:
    """Who read what, a row a model, the smallest first: `model, parameters, numbers` (the format
    that they were computed in), `windows to, texts, documents` (of each text)."""
    rows = []
    for model in models_of(tables):
        own = [one for one in tables.values() if one.model == model]
        docs = [len(one.begins) for one in own]
        rows.append(
            {"model": model, "parameters": f"{own[0].parameters / 1e6:,.0f} million"}
            | {"numbers": " and ".join(dict.fromkeys(one.dtype for one in own))}
            | {"windows to": f"{max(one.rows['window'].max() for one in own):,}"}
            | {"texts": len(own), "documents": f"{min(docs)}"}
        )
    return pd.DataFrame(rows)


def same_documents(parts: Sequence[Shared]) -> tuple[int, ...]:
    """The numbers of the documents that begin at the same character in all tables of one text."""
    fewest = min(len(one.begins) for one in parts)
    return tuple(k for k in range(fewest) if len({one.begins[k] for one in parts}) == 1)


# --- exponents ------------------------------------------------------------------------------------


@lru_cache(maxsize=256)
def curve(one: Shared, distance: str, docs: tuple[int, ...] | None = None) -> fit.Curve:
    """Mean distance against window, of all documents or of some. Losses may be negative."""
    rows, column = one.rows, DISTANCES[distance]
    if docs is not None:
        rows = rows[rows["doc"].isin(docs)]
    if distance == LOSS:  # the last token of a document is followed by none
        rows = rows.dropna(subset=[column])
    return fit.curve(rows, column, signed=distance == LOSS)


def fitted(one: Shared, distance: str, docs: tuple[int, ...] | None = None) -> fit.Curve:
    """The part of a curve that its law is fitted to: from MIN_WINDOW on, and of losses the bins
    whose mean is positive whichever document is left out."""
    data = curve(one, distance, docs).between(MIN_WINDOW)
    return data.positive() if distance == LOSS else data


@lru_cache(maxsize=1024)
def left_out(one: Shared, distance: str, docs: tuple[int, ...] | None = None) -> np.ndarray:
    """The exponent, then without each document; nan where fewer than three bins are left."""
    data = fitted(one, distance, docs)
    if len(data.window) < 3:
        return np.full(1 + data.n_documents, np.nan)
    return fit.left_out_exponents(data, LAWS[distance])


def estimate_of(values: np.ndarray, distance: str = KL) -> fit.Estimate:
    """The estimate that `left_out` gives; `flat` where there is no exponent."""
    if np.isnan(values).any():
        return fit.Estimate(np.nan, np.nan, np.nan, len(values) - 1, flat=True)
    return fit.exponent_of(values, LAWS[distance])


def exponents(tables: Tables) -> pd.DataFrame:
    """A row a table: `model, corpus, parameters, documents`, the exponents of DISTANCES (an
    `Estimate` each), and `left out`, the bins without a logarithm that the losses' fit lacks."""
    rows = []
    for (model, corpus), one in tables.items():
        lost = len(curve(one, LOSS).between(MIN_WINDOW).window) - len(fitted(one, LOSS).window)
        rows.append(
            {"model": model, "corpus": corpus, "parameters": one.parameters}
            | {"documents": len(one.begins)}
            | {distance: estimate_of(left_out(one, distance), distance) for distance in DISTANCES}
            | {"left out": lost}
        )
    return pd.DataFrame(rows)


def difference(one: Shared, others: Sequence[Shared], distance: str) -> fit.Estimate:
    """An exponent less the mean of others', on the documents that all of them read.

    Each document is left out of all at once (jackknife-t), so what it does to all cancels.
    """
    docs = same_documents([one, *others])
    mean = np.mean([left_out(other, distance, docs) for other in others], axis=0)
    gap = left_out(one, distance, docs) - mean
    return fit.jackknife(gap[0], gap[1:])


def shown(rows: pd.DataFrame) -> pd.DataFrame:
    """A table for the page: estimates with two digits behind the point, numbers with two in all."""

    def text(item: object) -> object:
        if isinstance(item, fit.Estimate):
            return f"{item:.2f}"
        return f"{item:.2g}" if isinstance(item, float) else item

    return named(rows.map(text))


# --- the prediction -------------------------------------------------------------------------------


def outcome(item: fit.Estimate, low: float, high: float) -> str:
    """A prediction that a number lies between two bounds is *kept* where its whole 95% interval
    does, *missed* where none of the interval does, and *undecided* otherwise."""
    if low <= item.low and item.high <= high:
        return "kept"
    return "missed" if item.high < low or high < item.low else "undecided"


def together(words: Iterable[str]) -> str:
    """One prediction of several numbers is *kept* where each is, *missed* where any is missed, and
    *undecided* otherwise. Where nothing was measured yet it is *to come*."""
    said = set(words)
    if not said:
        return "to come"
    return "missed" if "missed" in said else "kept" if said == {"kept"} else "undecided"


def departures(tables: Tables) -> pd.DataFrame:
    """How far the larger models lie from the mean of SmolLM2 and Gemma, a row a model, text and
    distance: `model, corpus, distance, documents, departure` (an `Estimate`), `outcome` of the
    margin. A larger model has more parameters than either."""
    rows = []
    for corpus in corpora_of(tables):
        others = [tables[key] for name in REFERENCES if (key := (name, corpus)) in tables]
        if len(others) < len(REFERENCES):
            continue
        most = max(other.parameters for other in others)
        for model in models_of(tables):
            one = tables.get((model, corpus))
            if one is None or one.parameters <= most:
                continue
            for distance, margin in MARGINS.items():
                item = difference(one, others, distance)
                rows.append(
                    {"model": model, "corpus": corpus, "distance": distance}
                    | {"documents": item.n_documents, "departure": item}
                    | {"outcome": outcome(item, -margin, margin)}
                )
    columns = ["model", "corpus", "distance", "documents", "departure", "outcome"]
    return pd.DataFrame(rows, columns=columns)


def departure_table(gaps: pd.DataFrame) -> pd.DataFrame:
    """`departures` for a page, a row a model and text: of KL and TV the departure and its word."""
    rows: dict[tuple[str, str], dict] = {}
    for row in gaps.to_dict("records"):
        own = rows.setdefault((row["model"], row["corpus"]), {"documents": row["documents"]})
        own[row["distance"]] = f"{row['departure']:.2f} {row['outcome']}"
    return pd.DataFrame(
        [{"model": model, "corpus": corpus} | own for (model, corpus), own in rows.items()],
        columns=["model", "corpus", "documents", *MARGINS],
    )


def prediction(gaps: pd.DataFrame, parts: pd.DataFrame) -> pd.DataFrame:
    """What came of the prediction: a row a part of it, a column KL and TV, a word each of WORDS.

    From `departures` and `components`. The margin was predicted for every text, with one exception:
    the largest model on the text that it can recite, which was to leave it upwards. The share of
    the texts is that of the first split: models whose windows are equally long.
    """
    recited = (gaps["model"] == LARGEST) & (gaps["corpus"] == RECITED)
    found = {}
    for distance, margin in MARGINS.items():
        here = gaps["distance"] == distance
        up = [outcome(item, margin, np.inf) for item in gaps.loc[here & recited, "departure"]]
        found[distance] = {
            f"within the margin of {name_of(REFERENCES[0])} and {name_of(REFERENCES[1])}": together(
                gaps.loc[here & ~recited, "outcome"]
            ),
            "three quarters of the variance lie between texts": together(
                outcome(item, SHARE, 1) for item in share_of(parts, distance, "texts")
            ),
            f"{name_of(LARGEST)} leaves the margin upwards on the {name_of(RECITED)}": together(up),
        }
    return pd.DataFrame(found)


# --- whose variance -------------------------------------------------------------------------------


def block(tables: Tables, must: str = "", without: str = "") -> tuple[list[str], list[str]]:
    """The models and texts of the balanced table with most cells: each model read each text.

    Of two such the one with more texts. Both lists are empty where no two models share two texts.
    """
    best: tuple[list[str], list[str]] = ([], [])
    names_ = [model for model in models_of(tables) if model != without]
    for n in range(2, len(names_) + 1):
        for some in itertools.combinations(names_, n):
            texts = [c for c in corpora_of(tables) if all((model, c) in tables for model in some)]
            if (must and must not in some) or len(texts) < 2:
                continue
            if (n * len(texts), len(texts)) > (len(best[0]) * len(best[1]), len(best[1])):
                best = list(some), texts
    return best


SPLITS = {  # which models; the first is the one that the prediction is judged by
    "windows to 1,024": {"without": SHORTER},
    "with the small GPT-2": {"must": SHORTER},
    "with the 1.5B": {"must": LARGEST, "without": SHORTER},
}


def pseudo_values(
    tables: Tables, distance: str, models: Sequence[str], corpora: Sequence[str]
) -> np.ndarray:
    """What each document says of the exponent by itself: (texts, models, documents), documents the
    same for all models; as many of each text as the text with fewest shared ones has."""
    docs = {c: same_documents([tables[model, c] for model in models]) for c in corpora}
    fewest = min(map(len, docs.values()))
    return np.array(
        [
            [
                fit.pseudo_values(left_out(tables[model, c], distance, docs[c][:fewest]))
                for model in models
            ]
            for c in corpora
        ]
    )


def components(tables: Tables) -> pd.DataFrame:
    """The split of the variance of exponents, a row a split of SPLITS, distance and part.

    Columns: `split, models, corpora, documents, distance`, and those of `fit.variance_components`.
    A split that has the tables of an earlier one is left out, and so is a distance that some table
    has no exponent in.
    """
    found, seen = [], []
    for split, choice in SPLITS.items():
        models, corpora = block(tables, **choice)
        if not models or (models, corpora) in seen:
            continue
        seen.append((models, corpora))
        for distance in DISTANCES:
            values = pseudo_values(tables, distance, models, corpora)
            if np.isnan(values).any():
                continue
            where = {"split": split, "models": len(models), "corpora": len(corpora)}
            where |= {"documents": values.shape[-1], "distance": distance}
            found.append(fit.variance_components(values).assign(**where))
    columns = ["split", "models", "corpora", "documents", "distance", "part", "freedom"]
    columns += ["square", "raw", "variance", "share"]
    return pd.concat(found, ignore_index=True)[columns] if found else pd.DataFrame(columns=columns)


def share_of(parts: pd.DataFrame, distance: str, part: str) -> list[fit.Estimate]:
    """The share of one part in the first split, in a list; an empty one where there is no split."""
    first = parts[parts["split"] == next(iter(SPLITS))]
    return first.loc[(first["distance"] == distance) & (first["part"] == part), "share"].tolist()


def whose(parts: pd.DataFrame, distance: str) -> str:
    """An exponent is *the text's* where the 95% interval of the texts' share of its variance lies
    above one half, *not the text's* where it lies below, and *undecided* otherwise. Where no split
    was possible it is *to come*."""
    found = share_of(parts, distance, "texts")
    if not found:
        return "to come"
    return {"kept": "the text's", "missed": "not the text's"}.get(
        outcome(found[0], 0.5, 1), "undecided"
    )


def split_table(parts: pd.DataFrame) -> pd.DataFrame:
    """`components` for a page: a row a split and distance, a column a part, with the number of
    degrees of freedom of texts, models and their interaction."""
    rows = []
    for (split, distance), part in parts.groupby(["split", "distance"], sort=False):
        degrees = part["freedom"].iloc[:3]
        rows.append(
            {"split": split, "distance": distance}
            | {"degrees of freedom": ", ".join(map(str, degrees))}
            | {row["part"]: f"{row['share']:.2f}" for row in part.to_dict("records")}
        )
    return pd.DataFrame(rows, columns=["split", "distance", "degrees of freedom", *fit.PARTS])


# --- a control for memory -------------------------------------------------------------------------


def losses_of_documents(one: Shared) -> pd.DataFrame:
    """Mean loss of each document in bits a character: `little`, on windows of LITTLE tokens, and
    `full`, at the same tokens with the whole context in front."""
    rows = one.rows[one.rows["window"].between(*LITTLE)].dropna(subset=["nll_nats"])
    rows = rows.assign(full=rows["nll_nats"] - rows["nll_excess_nats"])
    means = rows.groupby("doc")[["nll_nats", "full"]].mean().rename(columns={"nll_nats": "little"})
    return means.div(one.chars[means.index], axis=0) / np.log(2)


def losses(tables: Tables) -> pd.DataFrame:
    """A row a table: `model, corpus, documents`, and in bits a character, an `Estimate` each, the
    loss with `little` in front, with the `full` context, and how much that `helps`."""
    rows = []
    for (model, corpus), one in tables.items():
        means = losses_of_documents(one)
        rows.append(
            {"model": model, "corpus": corpus, "documents": len(means)}
            | {name: fit.mean_of(means[name]) for name in means}
            | {"helps": fit.mean_of(means["little"] - means["full"])}
        )
    return pd.DataFrame(rows)


def ranks(tables: Tables) -> pd.DataFrame:
    """Does a document that is foretold well with little in front have another exponent?

    A row a table: `model, corpus`, and of KL and TV the rank correlation (an `Estimate`) of the
    documents' pseudo-values of the exponent with their loss.
    """
    rows = []
    for (model, corpus), one in tables.items():
        little = losses_of_documents(one)["little"].to_numpy()
        rows.append(
            {"model": model, "corpus": corpus}
            | {
                distance: fit.rank_correlation(fit.pseudo_values(left_out(one, distance)), little)
                for distance in MARGINS
            }
        )
    return pd.DataFrame(rows)


# --- precision and noise --------------------------------------------------------------------------


def noise(tables: Tables) -> pd.DataFrame:
    """Laws measured twice, a row a model and number format: `model, dtype, laws`, and the median
    and the largest KL (nats) and TV between the two."""
    kept = [
        one.twice.assign(model=one.model, dtype=one.dtype)
        for one in tables.values()
        if len(one.twice)
    ]
    columns = ["model", "dtype", "laws", "KL, median", "KL, largest", "TV, median", "TV, largest"]
    if not kept:
        return pd.DataFrame(columns=columns)
    rows = []
    for (model, dtype), part in pd.concat(kept).groupby(["model", "dtype"], sort=False):
        said = [getattr(part[c], how)() for c in ("kl_nats", "tv") for how in ("median", "max")]
        rows.append((model, dtype, len(part), *map(float, said)))
    return pd.DataFrame(rows, columns=columns)


def precision(tables: Tables, whole: Tables) -> pd.DataFrame:
    """By how much half precision moves an exponent: that of `tables` less that of `whole`, on the
    documents of both; a row a table that has both, `model, corpus, dtype, documents, KL, TV`."""
    rows = []
    for key, exact in whole.items():
        if key not in tables or tables[key].dtype == exact.dtype:
            continue
        moved = {d: difference(tables[key], [exact], d) for d in MARGINS}
        where = {"model": key[0], "corpus": key[1], "dtype": tables[key].dtype}
        rows.append(where | {"documents": moved[KL].n_documents} | moved)
    return pd.DataFrame(rows, columns=["model", "corpus", "dtype", "documents", *MARGINS])


# --- other roads ----------------------------------------------------------------------------------


def block_lengths(last: float) -> np.ndarray:
    """Lengths of neighbouring blocks: BLOCKS, twice that, …, as far as windows up to `last` go."""
    lengths = BLOCKS * 2 ** np.arange(20)
    return lengths[2 * lengths - 1 <= last]


def information(losses_at: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Σ over w = 1 … L-1 of D(w) - D(w+L), in nats, for each length L of a block.

    What a block of L tokens says about the next one: a token with w of its own block in front is
    foretold from these, or from L more. `losses_at` (windows,) is D at windows 1, 2, …; a block's
    first token, with nothing in front, is left out. The terms of the finite reference cancel. It is
    the mutual information where D is a Bayes risk. [Our reconstruction, by the chain rule.]
    """
    d = losses_at
    return np.array([(d[: n - 1] - d[n : 2 * n - 1]).sum() for n in lengths])


def growth(losses_at: np.ndarray, lengths: np.ndarray) -> float:
    """The exponent with which `information` grows: its slope, both logarithmic."""
    return float(np.polyfit(np.log(lengths), np.log(information(losses_at, lengths)), 1)[0])


def growth_of(data: fit.Curve) -> float:
    """`growth` of a measured curve, read on straight lines between its bins (both logarithmic)."""
    windows = np.arange(1, int(data.window[-1]) + 1)
    read = np.exp(np.interp(np.log(windows), np.log(data.window), np.log(data.mean)))
    return growth(read, block_lengths(data.window[-1]))


def growth_of_law(alpha: float, last: float) -> float:
    """`growth` of (w + 1)^-α at the same lengths: 1 - α only where blocks are endless."""
    return growth((np.arange(1, int(last) + 1) + 1.0) ** -alpha, block_lengths(last))


def roads(tables: Tables) -> pd.DataFrame:
    """Other roads to the exponent, a row a table, an `Estimate` each.

    `model, corpus, KL, excess loss`; `excess less KL`, paired; `excess / KL`, of the means over
    windows from LONG on; `1 - α` of KL; `blocks`, the growth exponent of the information between
    neighbouring blocks; `law`, that of KL's law at the same lengths; and `blocks less law`, paired.
    """
    rows = []
    for (model, corpus), one in tables.items():
        data, alphas, loss = curve(one, KL), left_out(one, KL), left_out(one, LOSS)
        last = data.window[-1]
        grown = np.array([growth_of(part) for part in data.leaving_out()])
        law = np.array([growth_of_law(alpha, last) for alpha in alphas])
        gap = loss - alphas
        rows.append(
            {"model": model, "corpus": corpus}
            | {KL: estimate_of(alphas), LOSS: estimate_of(loss)}
            | {"excess less KL": estimate_of(gap) if np.isnan(gap).any() else _shift(gap)}
            | {"excess / KL": _worth(one)}
            | {"1 - α": _shift(1 - alphas), "blocks": _shift(grown), "law": _shift(law)}
            | {"blocks less law": _shift(grown - law)}
        )
    return pd.DataFrame(rows)


def good_readers(other: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Text → the rows of `roads` whose changes of law are surely worth more than half; of texts
    that have two such readers or more."""
    good = other[[item.low > 0.5 for item in other["excess / KL"]]]
    return {corpus: part for corpus, part in good.groupby("corpus", sort=False) if len(part) > 1}


def _worth(one: Shared) -> fit.Estimate:
    """Mean excess loss over mean KL on the long windows: what a change of the law was worth."""
    long = one.rows[one.rows["window"] >= LONG].dropna(subset=["nll_excess_nats"])
    means = long.groupby("doc")[["nll_excess_nats", "kl_nats"]].mean()
    return fit.ratio(means["nll_excess_nats"].to_numpy(), means["kl_nats"].to_numpy())


def _shift(values: np.ndarray) -> fit.Estimate:
    return fit.jackknife(values[0], values[1:])


# --- for the explorers ----------------------------------------------------------------------------


def curves_table(tables: Tables) -> pd.DataFrame:
    """Every curve for a chart, a row a bin: what `fit.summary` says, `model, corpus, divergence`,
    the window in characters, `chars`, and what the other models on that text span.

    `others_low, others_high` at the same window in tokens, `chars_low, chars_high` at the same in
    characters, nan where no other model has such a window; `alpha` is the exponent. Bins of the
    excess loss without a logarithm are left out.
    """
    found = []
    for (model, corpus), one in tables.items():
        others = [t for (name, text), t in tables.items() if text == corpus and name != model]
        for distance in DISTANCES:
            data = curve(one, distance)
            data = data.positive() if distance == LOSS else data
            table = fit.summary(data, _law_of(one, distance))
            table.loc[table["first"] < MIN_WINDOW, "fit"] = np.nan
            table["chars"] = table["window"] * one.chars.mean()
            found.append(
                table.assign(
                    **{"model": model, "corpus": corpus, "divergence": distance},
                    **_spanned(table, others, distance),
                    alpha=left_out(one, distance)[0],
                )
            )
    return pd.concat(found, ignore_index=True)


def _law_of(one: Shared, distance: str) -> fit.Fit | None:
    data = fitted(one, distance)
    if len(data.window) < 3:
        return None
    return fit.fit_law(LAWS[distance], data.window, data.mean, data.weights, data.contexts)


def _spanned(table: pd.DataFrame, others: Sequence[Shared], distance: str) -> dict[str, np.ndarray]:
    """The least and the largest mean of the other models at each window of a curve."""
    spans = {}
    for column, unit, names_ in (
        ("window", lambda one: 1.0, ("others_low", "others_high")),
        ("chars", lambda one: one.chars.mean(), ("chars_low", "chars_high")),
    ):
        read = [_read(other, distance, table[column].to_numpy(), unit(other)) for other in others]
        stack = np.array([np.full(len(table), np.nan), *read])
        spans[names_[0]] = np.fmin.reduce(stack)
        spans[names_[1]] = np.fmax.reduce(stack)
    return spans


def _read(one: Shared, distance: str, at: np.ndarray, unit: float) -> np.ndarray:
    """A curve between its bins, on straight lines of both logarithms; nan outside them."""
    data = curve(one, distance)
    data = data.positive() if distance == LOSS else data
    if not len(data.window):
        return np.full(len(at), np.nan)
    x, y = np.log(data.window * unit), np.log(data.mean)
    return np.exp(np.interp(np.log(at), x, y, left=np.nan, right=np.nan))


# --- what the page says ---------------------------------------------------------------------------


def facts(
    tables: Tables,
    powers: pd.DataFrame,
    gaps: pd.DataFrame,
    parts: pd.DataFrame,
    lost: pd.DataFrame,
    ranked: pd.DataFrame,
    other: pd.DataFrame,
    whole: Tables,
) -> dict[str, str]:
    """What the page's prose glues: of its `exponents`, `departures`, `components`, `losses`,
    `ranks` and `roads`, and of the tables in whole precision."""
    return {
        **_table_facts(tables, powers),
        **_prediction_facts(gaps, parts),
        **_split_facts(parts),
        **_memory_facts(lost, ranked),
        **_noise_facts(tables, whole),
        **_road_facts(tables, other),
    }


def _of(flags: Iterable[bool]) -> str:
    listed = list(flags)
    return f"{sum(listed)} of {len(listed)}"


def _surely(items: Iterable[fit.Estimate], side: int) -> list[bool]:
    """Does each interval lie above (1) or below (-1) zero?"""
    return [item.low > 0 if side > 0 else item.high < 0 for item in items]


def _table_facts(tables: Tables, powers: pd.DataFrame) -> dict[str, str]:
    bins = [curve(one, LOSS).between(MIN_WINDOW).first for one in tables.values()]
    kept = [fitted(one, LOSS).first for one in tables.values()]
    long = sum(int((first >= LONG).sum()) for first in bins)
    long -= sum(int((first >= LONG).sum()) for first in kept)
    found = {
        "n-models": f"{powers['model'].nunique()}",
        "n-texts": f"{powers['corpus'].nunique()}",
        "n-tables": f"{len(powers)}",
        "docs-least": f"{powers['documents'].min()}",
        "docs-most": f"{powers['documents'].max()}",
        "first-window": f"{MIN_WINDOW}",
        "bins-left-out": f"{powers['left out'].sum()} of {sum(map(len, bins))}",
        "bins-long": f"{long}",
    }
    for distance, key in ((KL, "kl"), (TV, "tv"), (LOSS, "loss")):
        items = [item for item in powers[distance] if not item.flat]
        low, high = fit.extremes(pd.Series(items))
        found |= {f"least-{key}": f"{low:.2f}", f"most-{key}": f"{high:.2f}"}
    return found


def _prediction_facts(gaps: pd.DataFrame, parts: pd.DataFrame) -> dict[str, str]:
    words = prediction(gaps, parts).to_numpy().ravel().tolist()
    counts = [f"{words.count(word)} {word}" for word in WORDS if word in words]
    found = {
        "margin-kl": f"{MARGINS[KL]}",
        "margin-tv": f"{MARGINS[TV]}",
        "outcome": f"of {len(words)} parts, {', '.join(counts)}",
    }
    for distance in MARGINS:
        own = gaps[gaps["distance"] == distance]
        up, down = (_surely(own["departure"], side) for side in (1, -1))
        found[f"departures-{distance.lower()}"] = (
            f"surely above on {_of(up)}, surely below on {_of(down)}, within the margin on "
            f"{_of(own['outcome'] == 'kept')}"
            if len(own)
            else "no larger model was measured beside both yet"
        )
    return found


def _split_facts(parts: pd.DataFrame) -> dict[str, str]:
    first = parts[parts["split"] == next(iter(SPLITS))]
    found = {f"whose-{key}": whose(parts, d) for d, key in ((KL, "kl"), (TV, "tv"), (LOSS, "loss"))}
    if first.empty:
        none = "no two models of equally long windows have read two texts yet"
        return found | dict.fromkeys(("split", "degrees", "known", "negative"), none)
    said, below = [], []
    for distance, own in first.groupby("distance", sort=False):
        shares = own.set_index("part")["share"]
        said.append(
            f"{distance}: texts {shares['texts']:.2f}, models {shares['models']:.2f}, "
            f"text × model {shares['text × model']:.2f}"
        )
        below += [f"{row['part']} ({distance})" for row in own[own["raw"] < 0].to_dict("records")]
    degrees = first.drop_duplicates("part").set_index("part")["freedom"]
    fewest = int(degrees.iloc[:3].min())
    low, high = fit.factor_known(fewest)
    return found | {
        "split": "; ".join(said),
        "degrees": f"{degrees['texts']} of texts, {degrees['models']} of models, "
        f"{degrees['text × model']} of text × model",
        "known": f"with {fewest} degree{'s' * (fewest > 1)} of freedom the truth lies between "
        f"{low:.2g} and {high:,.0f} times the estimate",
        "negative": ", ".join(below) or "none",
    }


CONTROLS = {"aws-docs": "newer than every model", "petrogold": "in another language"}


def _memory_facts(lost: pd.DataFrame, ranked: pd.DataFrame) -> dict[str, str]:
    least, most = fit.extremes(lost["helps"])
    best = []
    for corpus, part in lost.groupby("corpus", sort=False):
        row = min(part.to_dict("records"), key=lambda row: row["full"].value)
        best.append(f"{name_of(corpus)}: {name_of(row['model'])}, {row['full']:.2f}")
    controls = []
    for corpus, why in CONTROLS.items():
        part = lost[lost["corpus"] == corpus]
        if len(part):
            low, high = fit.extremes(part["helps"])
            controls.append(f"{name_of(corpus)}, {why}: {low:.2f} to {high:.2f}")
    items = [item for distance in MARGINS for item in ranked[distance]]
    low, high = fit.extremes(pd.Series(items))
    return {
        "little-first": f"{LITTLE[0]}",
        "little-last": f"{LITTLE[1]}",
        "helps-least": f"{least:.2f}",
        "helps-most": f"{most:.2f}",
        "best": "; ".join(best),
        "controls": "; ".join(controls) or "neither was measured yet",
        "ranks-sure": _of(not item.low <= 0 <= item.high for item in items),
        "ranks-least": f"{low:.2f}",
        "ranks-most": f"{high:.2f}",
    }


def _noise_facts(tables: Tables, whole: Tables) -> dict[str, str]:
    twice, moved = noise(tables), precision(tables, whole)
    said = [
        f"{dtype}: {part['KL, median'].max():.2g} nats and {part['TV, median'].max():.2g} at the "
        f"median, {part['KL, largest'].max():.2g} and {part['TV, largest'].max():.2g} at most"
        for dtype, part in twice.groupby("dtype", sort=False)
    ]
    shares = [
        one.twice["kl_nats"].median() / curve(one, KL).mean[-1]
        for one in tables.values()
        if len(one.twice)
    ]
    shifts = [
        f"{name_of(row['model'])} on {name_of(row['corpus'])}: {row[KL]:.3f} in KL, "
        f"{row[TV]:.3f} in TV ({row['documents']} documents)"
        for row in moved.to_dict("records")
    ]
    return {
        "noise": "; ".join(said) or "no law was measured twice yet",
        "noise-share": f"{100 * max(shares, default=0):.2g}%",
        "precision": "; ".join(shifts) or "no table was measured in both yet",
    }


def _road_facts(tables: Tables, other: pd.DataFrame) -> dict[str, str]:
    gaps = [item for item in other["excess less KL"] if not item.flat]
    worth = fit.extremes(other["excess / KL"])
    least, most = (
        other.loc[[item is end for item in other["excess / KL"]]].iloc[0] for end in worth
    )
    good = []
    for corpus, part in good_readers(other).items():
        low, high = (item.value for item in fit.extremes(part[KL]))
        good.append(f"{name_of(corpus)}: {low:.2f} to {high:.2f} ({len(part)} models)")
    lengths = block_lengths(max(curve(one, KL).window[-1] for one in tables.values()))
    naive = [
        row["1 - α"].low <= row["blocks"].high and row["blocks"].low <= row["1 - α"].high
        for row in other.to_dict("records")
    ]
    return {
        "excess-hold": _of(item.low <= 0 <= item.high for item in gaps),
        "excess-above": _of(_surely(gaps, 1)),
        "long-window": f"{LONG}",
        "worth-least": f"{worth[0]:.2f} ({name_of(least['model'])} on {name_of(least['corpus'])})",
        "worth-most": f"{worth[1]:.2f} ({name_of(most['model'])} on {name_of(most['corpus'])})",
        "good": "; ".join(good) or "no text has two such readers yet",
        "block-first": f"{lengths[0]}",
        "block-last": f"{lengths[-1]}",
        "blocks-naive": _of(naive),
        "blocks-law": _of(item.low <= 0 <= item.high for item in other["blocks less law"]),
        "blocks-below": _of(_surely(other["blocks less law"], -1)),
    }
