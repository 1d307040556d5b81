"""Drafting without loss, really run: a bounded cache drafts, the full cache verifies.

The drafter is the same model behind `BoundedCache`: four sinks and the most recent tokens. It
writes `draft` tokens; one forward of the full cache gives its laws behind each of them; the rule of
`kvlib.theory.drafting` keeps a first part of the draft and adds one token. `greedy` writes the
likeliest token each time and keeps a draft that equals it. `sampled` is speculative sampling.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache

from kvlib.cache.bounded import BoundedCache
from kvlib.models import LanguageModel, check_length, masks
from kvlib.theory.drafting import acceptance, kept_chance, residual

WAYS = ("greedy", "sampled")
CHUNK = 256  # tokens of the prompt that a forward reads
NOT_ASKED = -1  # of `same`, where there is no plain text to equal
COLUMNS = ["doc", "way", "window", "round", "place", "token", "reached", "kept", "chance", "tv"]
COLUMNS += ["closing", "same"]


Law = Float[np.ndarray, " vocabulary"]


class Round(NamedTuple):
    """A round: tokens drafted, the chance of each to be kept and its TV, how many were kept, and
    the token that closes the round."""

    drafted: list[int]
    chance: list[float]
    tv: list[float]
    kept: int
    closing: int


class Drafter:
    """A bounded cache that drafts, and is taken back to the text that was accepted.

    `cache` holds the text, and behind it `ahead` drafted tokens; `waiting` are tokens of the text
    that it has not read yet.
    """

    def __init__(
        self, lm: LanguageModel, prompt: Int[Tensor, " tokens"], budget: int, n_sink: int, most: int
    ) -> None:
        self.lm, self.ahead = lm, 0
        self.cache = BoundedCache(budget, n_sink, model=lm.model, rollback=most - 1)
        read(lm, prompt[:-1], self.cache)
        self.waiting = prompt[-1:].tolist()

    def copy(self) -> Drafter:
        """Another one at the same text, with a cache of its own."""
        twin = copy.copy(self)
        twin.cache = copy.deepcopy(self.cache)
        return twin

    def draft(self, count: int, pick: Callable[[Law], int]) -> tuple[list[int], list[Law]]:
        """`count` tokens, `most` at most, each by `pick` from its law, with the laws."""
        laws = [laws_of(self.lm, self.waiting, self.cache)[-1]]
        tokens = [pick(laws[0])]
        while len(tokens) < count:
            laws.append(laws_of(self.lm, tokens[-1:], self.cache)[-1])
            tokens.append(pick(laws[-1]))
        self.ahead = count - 1
        return tokens, laws

    def accept(self, tokens: list[int], kept: int) -> None:
        """The text has gained `tokens`, of which the first `kept` were drafted."""
        read_already = min(kept, self.ahead)
        self.cache.crop(read_already - self.ahead)
        self.ahead, self.waiting = 0, tokens[read_already:]


def read(lm: LanguageModel, ids: Int[Tensor, " tokens"], cache: Any) -> None:
    """Fill a cache with the prefix and `ids`."""
    with torch.inference_mode():
        for part in lm.prefixed(ids).split(CHUNK):
            lm.model.base_model(part[None], past_key_values=cache, use_cache=True)


def laws_of(
    lm: LanguageModel, tokens: list[int], cache: Any
) -> Float[np.ndarray, "tokens vocabulary"]:
    """The laws behind each of these tokens, float64, special tokens excluded so that a text goes
    on; they are added to the cache."""
    with torch.inference_mode():
        ids = torch.tensor([tokens], device=lm.device)
        logits = lm.model(ids, past_key_values=cache).logits[0].double()
        logits[:, lm.tokenizer.all_special_ids] = -torch.inf
        return logits.softmax(-1).cpu().numpy()


def plain_greedy(lm: LanguageModel, last: int, cache: DynamicCache, tokens: int) -> list[int]:
    """`tokens` likeliest tokens, one a forward, behind a full cache that lacks the last token."""
    text = [last]
    for _ in range(tokens):
        text.append(int(laws_of(lm, text[-1:], cache)[0].argmax()))
    return text[1:]


def verify(
    laws: Float[np.ndarray, "places vocabulary"],
    drafted: list[int],
    drafter_laws: list[Law],
    way: str,
    rng: np.random.Generator,
) -> Round:
    """What the rule makes of a draft; `laws` are the full model's, one more than drafted."""
    tv = [1 - float(acceptance(p, q)) for p, q in zip(laws, drafter_laws, strict=False)]
    if way == "greedy":
        best = laws.argmax(-1)
        chance = [float(x == y) for x, y in zip(drafted, best, strict=False)]
    else:
        chance = [
            kept_chance(p, q, x) for p, q, x in zip(laws, drafter_laws, drafted, strict=False)
        ]
    kept = 0
    while kept < len(drafted) and rng.random() < chance[kept]:
        kept += 1
    if way == "greedy":
        closing = int(best[kept])
    elif kept < len(drafted):
        closing = drawn(residual(laws[kept], drafter_laws[kept]), rng)
    else:
        closing = drawn(laws[kept], rng)
    return Round(drafted, chance, tv, kept, closing)


def drawn(law: Float[np.ndarray, " vocabulary"], rng: np.random.Generator) -> int:
    """A token drawn from a law."""
    mass = law.cumsum()
    return int(np.searchsorted(mass, rng.random() * mass[-1], side="right"))


def speculate(
    lm: LanguageModel,
    drafter: Drafter,
    full: DynamicCache,
    tokens: int,
    draft: int,
    way: str,
    rng: np.random.Generator,
) -> list[Round]:
    """Rounds of `draft` tokens until there are `tokens` new ones or more; both caches lack the
    text's last token, which waits."""
    rounds: list[Round] = []
    last, written = drafter.waiting[-1], 0
    pick = (lambda law: int(law.argmax())) if way == "greedy" else (lambda law: drawn(law, rng))
    while written < tokens:
        drafted, drafter_laws = drafter.draft(draft, pick)
        laws = laws_of(lm, [last, *drafted], full)
        one = verify(laws, drafted, drafter_laws, way, rng)
        full.crop(one.kept - draft)
        drafter.accept([*drafted[: one.kept], one.closing], one.kept)
        rounds.append(one)
        last, written = one.closing, written + one.kept + 1
    return rounds


def text_of(rounds: list[Round]) -> list[int]:
    """The tokens that rounds wrote."""
    return [token for one in rounds for token in (*one.drafted[: one.kept], one.closing)]


def measure_drafting(
    lm: LanguageModel, prompt: Int[np.ndarray, " tokens"], doc: int, settings: dict[str, Any]
) -> pd.DataFrame:
    """What comes of each drafted token behind one prompt: a row for each of COLUMNS' places.

    `place` counts 1 to `draft` within a `round`; `reached`: all before it were kept; `kept`: it was
    too; `chance` that it would be, given the draft; `tv` between the laws of full and bounded cache
    there; `closing`: the token that ends the round; `same`: whether the greedy text is that of
    plain decoding token by token, for every row of a run (NOT_ASKED for sampled ones).
    """
    s, ids = settings, torch.as_tensor(prompt)
    check_length(lm, len(prompt) + s["tokens"] + s["draft"] + 1)
    base = DynamicCache()
    read(lm, ids[:-1], base)
    plain = plain_greedy(lm, int(ids[-1]), copy.deepcopy(base), s["tokens"])
    tables = []
    for window in s["windows"]:
        start = Drafter(lm, ids, window, s["n_sink"], s["draft"])
        for number, way in enumerate(WAYS):
            rng = np.random.default_rng([s["seed"], doc, window, number])
            rounds = speculate(
                lm, start.copy(), copy.deepcopy(base), s["tokens"], s["draft"], way, rng
            )
            same = NOT_ASKED
            if way == "greedy":
                same = int(text_of(rounds)[: s["tokens"]] == plain)
            tables.append(_rows(rounds, same).assign(way=way, window=np.int32(window)))
    return pd.concat(tables, ignore_index=True).assign(doc=np.int16(doc))[COLUMNS]


def _rows(rounds: list[Round], same: int) -> pd.DataFrame:
    """The rows of a run's rounds."""
    draft = len(rounds[0].drafted)
    place = np.tile(np.arange(draft), len(rounds))
    kept = np.repeat([one.kept for one in rounds], draft)
    return pd.DataFrame(
        {
            "round": np.repeat(np.arange(len(rounds)), draft).astype(np.int16),
            "place": (place + 1).astype(np.int16),
            "token": np.concatenate([one.drafted for one in rounds]).astype(np.int32),
            "reached": place <= kept,
            "kept": place < kept,
            "chance": np.concatenate([one.chance for one in rounds]).astype(np.float32),
            "tv": np.concatenate([one.tv for one in rounds]).astype(np.float32),
            "closing": np.repeat([one.closing for one in rounds], draft).astype(np.int32),
            "same": np.int8(same),
        }
    )


def checked(settings: dict[str, Any], docs: int) -> dict[str, Any]:
    """The settings of a study of this kind; ValueError for those that cannot be run."""
    s = settings
    for key, least in (("prompt", 2), ("tokens", 1), ("draft", 1)):
        if s[key] < least:
            raise ValueError(f"{key}: expected at least {least}, got {s[key]}")
    if not s["windows"] or min(s["windows"]) <= s["n_sink"]:
        raise ValueError(
            f"windows: expected some, each above n_sink = {s['n_sink']}, got {s['windows']}"
        )
    if s["prompt"] > s["stride"]:
        raise ValueError(f"prompt: expected at most stride {s['stride']}, got {s['prompt']}")
    return s


def item_rows(
    lm: LanguageModel, text: Any, settings: dict[str, Any], docs: int
) -> Callable[[int], pd.DataFrame]:
    """The number of a document → its rows; the prompt is the document's first tokens."""
    s = settings
    if any(masks.sliding_windows(lm.model)):
        raise ValueError(f"{lm.name}: expected layers that see everything, got sliding ones")
    documents = text.documents(lm.tokenizer, s["stride"], docs, s["seed"])
    return lambda doc: measure_drafting(lm, documents[doc][: s["prompt"]], doc, s)
