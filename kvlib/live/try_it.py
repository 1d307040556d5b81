"""The small GPT-2 in a reader's browser: a place on the page, texts, what its weights cost.

`book/_static/try` is the model in JavaScript, `kvlib.models.in_page` brings its weights there.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from kvlib import corpora
from kvlib.measure.divergences import kl_divergence
from kvlib.measure.laws import log_laws
from kvlib.models import in_page, load_model, small_gpt2
from kvlib.models.small_gpt2 import CORPORA, NAME, held_out_documents, split

DOCUMENTS, TOKENS = 4, 512  # of each text, where the cost of few levels is measured
LAYER, HEAD = 2, -1  # whose attention is shown at first; -1: of all heads
LABEL = "A cache at work: a text, the small GPT-2, and what its cache holds at each word"


class Passage(NamedTuple):
    """Where a text comes from: a held-out stretch of a pinned text, from some words to others."""

    title: str
    corpus: str
    stretch: int
    first: str
    last: str


PASSAGES = (
    Passage(
        "Esau and Jacob (Genesis)",
        "world-english-bible",
        0,
        "When her days to be delivered",
        "Esau came in from the field",
    ),
    Passage(
        "a sorted array (SciPy)",
        "scipy-docs",
        0,
        "Creates a copy of the array",
        "The default is",
    ),
    Passage(
        "distributions (SymPy)",
        "sympy-code",
        0,
        "mu1, mu2 = symbols",
        "kint = Symbol(",
    ),
)


def passages(given: Sequence[Passage] = PASSAGES) -> list[dict[str, str]]:
    """Title and text of each passage. The model never saw them in its training."""
    texts = {}
    found = []
    for passage in given:
        if passage.corpus not in texts:
            texts[passage.corpus] = split(corpora.load_corpus(passage.corpus).text).held_out
        stretch = texts[passage.corpus][passage.stretch]
        begin = stretch.index(passage.first)
        end = stretch.index(passage.last, begin) + len(passage.last)
        found.append({"title": passage.title, "text": stretch[begin:end]})
    return found


def costs(documents: int = DOCUMENTS, tokens: int = TOKENS) -> np.ndarray:
    """Mean KL in nats, a held-out document each, of the page's weights from the stored ones."""
    stored, page = load_model(NAME), in_page.load()
    found = []
    for name in CORPORA:
        for document in held_out_documents(stored.tokenizer, name)[:documents]:
            ids = torch.from_numpy(document[:tokens])[None]
            with torch.inference_mode():
                log_p, log_q = (
                    log_laws(lm, lm.model.base_model(ids, use_cache=False).last_hidden_state[0])
                    for lm in (stored, page)
                )
            found.append(float(kl_divergence(log_p, log_q).mean()))
    return np.array(found)


def megabytes(scripts: Mapping[str, str] | None = None) -> float:
    """What the model weighs as the scripts that bring it, in MB of 10^6 bytes."""
    texts = in_page.scripts() if scripts is None else scripts
    return round(sum(len(text.encode()) for text in texts.values()) / 1e6, 1)


class TryIt:
    """The place on a page where the model runs: inert HTML that `book/_static/try` fills.

    `ask`: whether it is loaded when a button is pressed, or as soon as it comes into view.
    """

    def __init__(
        self,
        texts: Sequence[Mapping[str, str]],
        size: float,
        compact: bool = False,
        ask: bool = False,
        label: str = LABEL,
    ) -> None:
        self.label = label
        self.flags = "".join(f" data-{k}" for k, on in (("compact", compact), ("ask", ask)) if on)
        self.payload = {"passages": list(texts), "megabytes": size, "layer": LAYER, "head": HEAD}

    def to_html(self) -> str:
        """What stands there before the script comes, and what it needs to begin."""
        data = json.dumps(self.payload, ensure_ascii=False, separators=(",", ":"))
        data = data.replace("<", "\\u003c")
        return (
            f'<div class="kv-try" role="group" aria-label="{html.escape(self.label)}"{self.flags}>'
            "<noscript><p>The model runs in JavaScript.</p></noscript>"
            f'<script type="application/json" class="kv-data">{data}</script></div>'
        )

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        return {"text/html": self.to_html(), "text/plain": f"TryIt: {self.label}"}


def facts(lost: np.ndarray, size: float) -> dict[str, str]:
    """Name → text of every value that the page glues."""
    return {
        "megabytes": f"{size:g}",
        "cost": f"{lost.mean():.2g}",
        "worst-cost": f"{lost.max():.2g}",
        "documents": str(len(lost)),
    }


def training_facts() -> dict[str, str]:
    """What the page says of the training: of the curve on stretches that were cut out."""
    taught = small_gpt2.learning(pd.read_csv(small_gpt2.FOLDER / "held_out.csv"))
    read = pd.read_csv(small_gpt2.FOLDER / "loss.csv")["tokens"].iloc[-1]
    return {
        "trained-tokens": f"{read / 1e6:.1f}",
        "unseen-bits": f"{taught.bits:.2f}",
        "last-tokens": f"{taught.last_tokens / 1e6:.1f}",
        "last-change": f"{taught.last_change:+.2f}".replace("-", "−"),
    }
