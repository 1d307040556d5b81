"""Whose exponent is it, the text's or the model's? A prediction, and the split of a variance.

No claim of the paper is judged here, but a prediction
of our own, written down before any of the larger models was measured; and C2 and C7 rest on it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from kvlib import fit
from kvlib.claims import memory, precision, roads, shared
from kvlib.claims.shared import (
    DISTANCES,
    KL,
    LOSS,
    SHORTER,
    TV,
    Tables,
    corpora_of,
    count_of,
    difference,
    left_out,
    models_of,
    same_documents,
    surely,
)
from kvlib.names import name_of

REFERENCES = ("smollm2-135m-instruct", "gemma3-270m")  # whose mean the larger models depart from
LARGEST = "qwen2.5-coder-1.5b-instruct"
RECITED = "world-english-bible"
MARGINS = {KL: 0.12, TV: 0.05}  # as predicted
SHARE = 0.75  # of the variance, as predicted
WORDS = ("kept", "missed", "undecided", "to come")


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
            f"{name_of(LARGEST)} leaves the margin upwards on {name_of(RECITED)}": together(up),
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
        **shared.facts(tables, powers),
        **_prediction_facts(gaps, parts),
        **_split_facts(parts),
        **memory.facts(lost, ranked),
        **precision.facts(tables, whole),
        **precision.documents_facts(powers),
        **roads.facts(tables, other),
    }


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
        up, down = (surely(own["departure"], side) for side in (1, -1))
        found[f"departures-{distance.lower()}"] = (
            f"surely above on {count_of(up)}, surely below on {count_of(down)}, "
            f"within the margin on {count_of(own['outcome'] == 'kept')}"
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


def spread_facts(powers: pd.DataFrame, distance: str = KL) -> dict[str, str]:
    """For other pages, of `shared.exponents`: how far the exponents of models on one text lie apart
    at most, and those of one model on several texts; the sizes of the models. Without the small
    GPT-2, whose windows end sooner."""
    long = powers[powers["model"] != SHORTER]
    values = long.assign(value=[item.value for item in long[distance]])
    apart = {}
    for key, along in (("models-apart", "corpus"), ("texts-apart", "model")):
        gaps = values.groupby(along)["value"].agg(np.ptp)
        apart[key] = f"{gaps.max():.2f} ({name_of(gaps.idxmax())})"
    sizes = long["parameters"] / 1e6
    return apart | {"smallest": f"{sizes.min():,.0f}", "largest": f"{sizes.max():,.0f}"}
