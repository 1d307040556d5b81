"""Rows measured anew: a random sample of a stored table, beside what the model says of it now."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from kvlib import corpora, store
from kvlib.measure import distortion, floor, positions, truncation
from kvlib.models import EMBEDDED, ON_DEMAND, LanguageModel, load_model
from kvlib.models.embedded import folder_of
from kvlib.models.files import first_line

ROWS_AT_ONCE = 4  # of one document, or of one document, policy and budget
EXACT, SHARE = 2e-5, 1e-4  # float32: nats (or TV), and a share of the value, on top of each other
SCORED_SHARE = 0.1  # of a mean where scores rank entries: near ties may fall otherwise elsewhere
NOISE = 4.0  # of half precision: how often over the floor goes into what is allowed
VALUES = ("kl_nats", "tv")
ROUNDED = {"bfloat16": 2**-4 / 12**0.5, "float16": 2**-7 / 12**0.5}  # of a logit of 8 to 16
WHOLE = ("float32", "float64")
HALF = ("bfloat16", "float16")


class Found(NamedTuple):
    """What became of one table: `ok`, `differs`, `refused` (another's hash, a damaged file),
    `skipped` (model or text is not here) or `not verified` (its kind); `why` is the rest of its
    line. `figures`, of a table that was looked at, are what `kvlib.study.checks` keeps of it, in
    the `folder` where the table lies."""

    table: str
    word: str
    why: str
    figures: dict[str, Any] | None = None
    folder: Path = store.DATA

    def line(self) -> str:
        """The line that the command prints."""
        return f"{self.table}: {self.word}: {self.why}"


class Both(NamedTuple):
    """Rows as they were stored and as they are now, in one order; `scored` where entries of a cache
    were ranked by scores."""

    stored: pd.DataFrame
    now: pd.DataFrame
    scored: bool = False


class Allowed(NamedTuple):
    """Gaps that are no difference: at a value v, `flat` + `share`·v + `root`·√v, of KL and of TV.

    Float32 rounds logits by about 1e-5, whatever the value. In half precision two roads to one law
    are ε apart (KL): then a divergence of D nats moves by about ε + 4√(Dε), by the inequality of
    Cauchy and Schwarz, and TV by the sum of both laws' own.
    """

    flat: tuple[float, float]
    share: float
    root: float
    said: str

    def of(self, values: pd.DataFrame) -> np.ndarray:
        """What is allowed at each of the values (rows, 2)."""
        v = values[list(VALUES)].to_numpy(float)
        root = np.sqrt(np.maximum(v, 0)) * [self.root, 0]
        return np.array(self.flat) + self.share * np.abs(v) + root


def chosen(names: Sequence[str], folder: Path = store.DATA) -> list[store.Stored]:
    """The stored tables of these names: a table's, a study's, a pattern with stars, or the path of
    a table elsewhere. All tables of the folder without any. ValueError where a name is none."""
    here = store.tables(folder)
    found: list[store.Stored] = []
    for name in names:
        path = store.table_file(Path(name), ".json")
        meant = [t for t in here if fnmatchcase(t.path.stem, name) or t.manifest["study"] == name]
        if not meant and path.is_file():
            meant = [store.Stored(store.table_file(path), store.read_manifest(path))]
        if not meant:
            raise ValueError(
                f"verify: expected a table or a study in {folder}, or the path of a table, "
                f"got {name!r}"
            )
        found += [table for table in meant if table.path not in [one.path for one in found]]
    return found if names else here


def verified(
    tables: Sequence[store.Stored],
    rows: int = 8,
    seed: int = 0,
    device: str = "auto",
    dtype: str = "",
    model: str = "",
    corpus: str = "",
) -> Iterator[Found]:
    """Each table's sample beside what is measured now, model by model; one is loaded at a time.

    Args:
        rows: rows a table, drawn from `seed` and the table's name: a few of each of some documents.
        dtype: another than the table's own, held to what half precision may move.
        model, corpus: where model and text are now, if not where the manifests say.
    """
    if rows < 1:
        raise ValueError(f"rows: expected at least 1, got {rows}")
    held: dict[tuple[str, str], LanguageModel] = {}
    for table in sorted(tables, key=lambda one: str(one.settings.get("model", ""))):
        name = table.path.stem
        said = {key: table.settings.get(key, "") for key in ("kind", "model", "corpus", "dtype")}
        if odd := [key for key, value in said.items() if not isinstance(value, str)]:
            yield Found(name, "refused", f"{odd[0]}: expected a name, got {said[odd[0]]!r:.80}")
            continue
        if said["kind"] not in AGAIN:
            kinds = ", ".join(AGAIN)
            yield Found(name, "not verified", f"{said['kind']}: only {kinds} are")
            continue
        if table.manifest["study"] == "plan":
            yield Found(name, "not verified", "a table of plan: its texts are one's own")
            continue
        if why := not_here(table.settings, model, corpus):
            yield Found(name, "skipped", why)
            continue
        wanted = (model or table.settings["model"], dtype or table.settings["dtype"])
        try:
            if wanted not in held:
                held.clear()
                gc.collect()  # a model is large
                held[wanted] = load_model(wanted[0], device, wanted[1])
            begin = time.monotonic()
            found = _verified(table, held[wanted], corpus, rows, seed)
            took = {"seconds": round(time.monotonic() - begin, 1)}
            figures = _subject(table) | (found.figures or {}) | took
            yield found._replace(figures=figures, folder=table.path.parent)
        except (ValueError, OSError, ArithmeticError) as error:
            yield Found(name, "refused", str(error))
        except (KeyError, TypeError) as error:
            kind, got = table.settings["kind"], first_line(error)
            yield Found(name, "refused", f"expected the columns of {kind}, got others ({got})")


def _verified(table: store.Stored, lm: LanguageModel, corpus: str, rows: int, seed: int) -> Found:
    s = table.settings
    text = corpora.load_corpus(corpus or s["corpus"])
    _check_identity(s, store.subject_of(lm, text))
    whole = table.load()
    docs = int(whole["doc"].max()) + 1
    rng = np.random.default_rng([seed, *table.path.stem.encode()])
    both = AGAIN[s["kind"]](lm, text, s, docs, _measured(whole), rows, rng)
    return judged(table.path.stem, both, allowed(s, whole, lm, text, both.scored), lm)


def _subject(table: store.Stored) -> dict[str, Any]:
    """Which table that is, and of what."""
    said = {key: table.settings[key] for key in ("kind", "model", "corpus")}
    return {"table": table.path.stem, "sha256": table.manifest["sha256"]} | said


def judged(name: str, both: Both, most: Allowed, lm: LanguageModel) -> Found:
    """`ok` if no row differs by more than is allowed, and the row that comes nearest to it. Where
    scores rank entries the means over the rows are compared."""
    stored, now = (part[list(VALUES)].astype(float) for part in both[:2])
    if both.scored:
        stored, now = stored.mean().to_frame().T, now.mean().to_frame().T
    room, gap = most.of(now), np.abs(stored.to_numpy() - now.to_numpy())
    row, column = np.unravel_index(np.argmax(np.nan_to_num(gap / room, nan=np.inf)), gap.shape)
    unit = ("nats", "in TV")[column]
    mean = " of the mean" if both.scored else ""
    docs = both.now["doc"].nunique()
    word = "ok" if (gap <= room).all() else "differs"
    largest = dict(zip(VALUES, map(float, gap.max(axis=0)), strict=True))
    figures = {"word": word, "rows": len(both.now), "documents": docs, "of_means": both.scored}
    figures |= {"gap": largest, "share": float(gap[row, column] / room[row, column])}
    figures |= {"allowed": most.said, "device": str(lm.device)}
    return Found(
        name,
        word,
        f"{len(both.now)} rows of {docs} document{'s' * (docs != 1)}; largest gap{mean} "
        f"{gap[row, column]:.2g} {unit} at {now.iat[row, column]:.3g}, allowed "
        f"{room[row, column]:.2g} ({most.said}); {str(lm.dtype).removeprefix('torch.')} on "
        f"{lm.device}",
        figures | {"dtype": str(lm.dtype).removeprefix("torch.")},
    )


def allowed(
    settings: dict[str, Any],
    rows: pd.DataFrame,
    lm: LanguageModel,
    text: Any,
    scored: bool = False,
) -> Allowed:
    """What a gap may be: stated for float32; for half precision from the noise floor: that of the
    table's own laws measured twice, or else, and for another format than the table's, the distance
    from a float32 twin. It is at least what the rounding of the logits alone makes."""
    kind = str(lm.dtype).removeprefix("torch.")
    if scored:
        return Allowed((EXACT, EXACT), SCORED_SHARE, 0.0, f"{EXACT:g} + {SCORED_SHARE:g} of it")
    if {kind, settings["dtype"]} <= set(WHOLE):
        return Allowed((EXACT, EXACT), SHARE, 0.0, f"{EXACT:g} + {SHARE:g} of it")
    twice = rows[rows["window"] == rows["context"]] if "context" in rows else rows[:0]
    (document,) = corpora.documents_of(text, lm.tokenizer, settings | {"stretches": "drawn"}, 1)
    if kind == settings["dtype"] and len(twice):
        noise, whose = floor.of_rows(twice), "the table's laws measured twice"
    else:
        twin = load_model(lm.name, str(lm.device), WHOLE[0])
        noise, whose = floor.between(twin, lm, document), f"{kind} beside float32"
    rounding = ROUNDED.get(kind, 0.0)
    kl, tv = max(noise.kl_max, rounding**2 / 2), max(noise.tv_max, rounding / 2)
    said = f"noise {kl:.2g} nats, {tv:.2g} in TV: {whose}"
    return Allowed((NOISE * kl, NOISE * tv), 0.0, NOISE * kl**0.5, said)


def floors(exact: LanguageModel, document: np.ndarray) -> Iterator[str]:
    """The noise floor of each format beside `exact`, a float32 model, as lines."""
    yield _floor_line("float32 in pieces", floor.again(exact, document), exact)
    if exact.device.type == "cuda":
        yield _floor_line("tf32", floor.between(exact, exact, document, floor.tf32()), exact)
    else:
        yield f"tf32: only a CUDA card has it, not {exact.device}"
    for kind in HALF:
        lm = load_model(exact.name, str(exact.device), kind)
        yield _floor_line(kind, floor.between(exact, lm, document), lm)


def _floor_line(what: str, found: floor.Floor, lm: LanguageModel) -> str:
    return (
        f"{what}: KL {found.kl_median:.2g} nats at the median, {found.kl_max:.2g} at most; TV "
        f"{found.tv_median:.2g} and {found.tv_max:.2g}; {found.laws} laws on {lm.device}"
    )


# --- a sample of each kind, measured anew -----------------------------------------------------


def _truncations(
    lm: LanguageModel,
    text: Any,
    settings: dict[str, Any],
    docs: int,
    table: pd.DataFrame,
    rows: int,
    rng: np.random.Generator,
) -> Both:
    """Two forward passes a row: the plain twin of the road by which the table was made."""
    documents = corpora.documents_of(text, lm.tokenizer, settings, docs)
    stored, parts = _drawn(table, rows, rng), []
    begin = stored["position"] + 1 - stored["context"]  # of a row's reference in its document
    for (doc, first), some in stored.groupby(["doc", begin], sort=False):
        pairs = zip(some["context"] - 1, some["window"], strict=True)
        now = truncation.naive_sensitivity(lm, documents[doc][first:], pairs)
        parts.append(now.set_index(some.index).assign(doc=doc))
    return Both(stored, pd.concat(parts).loc[stored.index])


def _policies(
    lm: LanguageModel,
    text: Any,
    settings: dict[str, Any],
    docs: int,
    table: pd.DataFrame,
    rows: int,
    rng: np.random.Generator,
) -> Both:
    """The ordinary road for a few documents, each with one policy and one budget, at a few of their
    targets; at all of them where what is kept is drawn target by target."""
    s = distortion.checked(settings, docs)
    if s["policies_are"] != (said := settings["policies_are"]):
        raise ValueError(
            f"policies: expected {'; '.join(said)}, got {'; '.join(s['policies_are'])}"
        )
    documents, parts = corpora.documents_of(text, lm.tokenizer, s, docs), []
    cells = table[["doc", "policy", "budget"]].drop_duplicates()
    cells = cells.sample(min(len(cells), -(-rows // ROWS_AT_ONCE)), random_state=rng)
    named = {one.key: one for one in distortion.named_policies(s["policies"])}
    for doc, key, budget in cells.itertuples(index=False):
        policy, every = named[key], s["every"]
        if s["protocol"] == "online" or not policy.draws:
            every *= max(1, s["seq_len"] // 2 // s["every"] // -(-rows // len(cells)))
        how = [policy], [int(budget)], s["protocol"], s["seed"], every, s["step"]
        parts.append(distortion.measure_policies(lm, documents[doc], int(doc), *how))
    now = pd.concat(parts, ignore_index=True)
    keys = ["doc", "position", "policy", "budget"]
    stored = now[keys].merge(table, on=keys, how="left")
    scored = any(named[key].kind == "scored" for key in cells["policy"])
    return Both(stored, now, scored)


def _positions(
    lm: LanguageModel,
    text: Any,
    settings: dict[str, Any],
    docs: int,
    table: pd.DataFrame,
    rows: int,
    rng: np.random.Generator,
) -> Both:
    """Two forward passes a row; texts that were shuffled were drawn in a row, and are left out."""
    documents = positions.documents(lm, text, settings, docs)
    stored = _drawn(table[table["variant"] != "shuffled"], rows, rng)
    now = [
        (
            row.doc,
            *positions.naive_row(lm, documents[row.doc], row.position, row.window, row.variant),
        )
        for row in stored.itertuples()
    ]
    return Both(stored, pd.DataFrame(now, columns=["doc", *VALUES], index=stored.index))


AGAIN: dict[str, Callable[..., Both]] = {
    "truncation_sensitivity": _truncations,
    "policy_distortion": _policies,
    "positions": _positions,
}


# --- small parts ------------------------------------------------------------------------------


def _measured(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of a table without those that are noise: a law beside itself."""
    return table[table["window"] < table["context"]] if "context" in table else table


def _drawn(table: pd.DataFrame, rows: int, rng: np.random.Generator) -> pd.DataFrame:
    """About `rows` rows: a few of each of some documents."""
    docs = rng.permutation(np.unique(table["doc"]))[: -(-rows // ROWS_AT_ONCE)]
    each = -(-rows // len(docs))
    parts = [table[table["doc"] == doc] for doc in docs]
    return pd.concat([part.sample(min(each, len(part)), random_state=rng) for part in parts])


def not_here(settings: dict[str, Any], model: str = "", corpus: str = "") -> str:
    """Why a table cannot be measured here, and what would help; "" where model and text are."""
    lm, text = settings.get("model", ""), settings.get("corpus", "")
    if not model and lm in ON_DEMAND and not folder_of(lm).is_dir():
        return f"its model is not here: kvlib fetch {lm}"
    if not model and lm not in EMBEDDED and Path(lm).is_absolute() and not Path(lm).is_dir():
        return f"its model is not here: --model FOLDER says where {lm} is now"
    if not corpus and text in corpora.ON_DEMAND and not corpora.path_of(text).is_file():
        return f"its text is not here: kvlib fetch {text}"
    if not corpus and text and text not in corpora.CORPORA and not os.path.isfile(text):
        return f"its text is not here: --corpus FILE says where {text} is"
    return ""


def _check_identity(said: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuses another model or text than the table's."""
    for key in ("weights_sha256", "model_sha256", "corpus_sha256"):
        if key in said and said[key] != now[key]:
            raise ValueError(
                f"{key}: expected {said[key][:12]}… by the manifest, got {now[key][:12]}…"
            )
