"""A passage of real text, token by token: what breaks when the cache shrinks.

`python -m kvlib.passages` measures and stores one; `Passage` draws it: words shaded by KL, policy
and budget to choose, and for a token the model's first guesses, with the full cache and with the
bounded one.
"""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from kvlib import store

if TYPE_CHECKING:
    from kvlib.models import LanguageModel

MODEL, CORPUS, DOCUMENT = "smollm2-135m-instruct", "world-english-bible", 0
CONTEXT, SHOWN = 1024, 176  # tokens before the passage, and tokens of it
POLICIES = ("sinks", "sliding", "random")
BUDGETS = (16, 32, 64, 128, 256, 512)
GUESSES = 3
FULL = "full cache"
SHADES = (0.02, 0.1, 0.5, 2.0)  # nats: where a word gets a darker shade


def measure_passage(lm: LanguageModel, ids: np.ndarray) -> pd.DataFrame:
    """Laws of the last SHOWN tokens of `ids` under each policy, online, and with the full cache.

    Row (t, policy, budget) is about the law *of* token t, made after token t-1. Columns: `doc,
    position, token` (its text), `policy, budget, kl_nats, probability` (of the token itself), and
    `guess_k, share_k` for the GUESSES likeliest tokens. The full cache has budget 0 and KL 0.
    """
    import torch

    from kvlib import measure, protocols
    from kvlib.policies import NAMED

    targets = np.arange(len(ids) - SHOWN - 1, len(ids) - 1)
    whole = torch.as_tensor(ids, device=lm.device)
    full = protocols.FullPass(lm, whole, targets)
    reference = measure._log_laws(lm, full.states[targets])
    tokens = [lm.tokenizer.decode([i]) for i in ids[targets + 1]]
    parts = [_rows(lm, ids, targets, tokens, reference, reference, FULL, 0)]
    for name in POLICIES:
        policy = NAMED[name]
        for budget in BUDGETS:
            rng = np.random.default_rng([0, budget])
            hidden = protocols.online_hidden(full, policy, budget, rng)
            laws = measure._log_laws(lm, hidden)
            parts.append(_rows(lm, ids, targets, tokens, reference, laws, policy.name, budget))
    return pd.concat(parts, ignore_index=True)


def _rows(
    lm: LanguageModel,
    ids: np.ndarray,
    targets: np.ndarray,
    tokens: list[str],
    log_p: Any,
    log_q: Any,
    policy: str,
    budget: int,
) -> pd.DataFrame:
    d = (log_p - log_q).clamp(min=-80)
    kl = (log_p.exp() * (d + (-d).expm1())).sum(-1)
    top = log_q.topk(GUESSES, dim=-1)
    own = np.exp(log_q.cpu().numpy()[np.arange(len(targets)), ids[targets + 1]])
    columns = {
        "doc": np.int16(DOCUMENT),
        "position": (targets + 1).astype(np.int32),
        "token": tokens,
        "policy": policy,
        "budget": np.int32(budget),
        "kl_nats": kl.cpu().numpy(),
        "probability": own,
    }
    for k in range(GUESSES):
        columns[f"guess_{k}"] = [lm.tokenizer.decode([i]) for i in top.indices[:, k].tolist()]
        columns[f"share_{k}"] = top.values[:, k].exp().cpu().numpy()
    return pd.DataFrame(columns)


def stored_passage(folder: Path = store.DATA) -> pd.DataFrame:
    """The stored passage."""
    return store.load_table(folder / f"passage-{MODEL}-{CORPUS}")


class Passage:
    """A stored passage as a page's explorer; `label` is what a screen reader says first."""

    def __init__(self, rows: pd.DataFrame, label: str) -> None:
        self.rows, self.label = rows, label
        self.policies = [p for p in dict.fromkeys(rows["policy"]) if p != FULL]
        self.budgets = sorted(int(b) for b in set(rows["budget"]) - {0})
        full = rows[rows["policy"] == FULL]
        self.tokens = full["token"].tolist()

    def payload(self) -> dict[str, Any]:
        """What the page's script needs: texts once, numbers to three digits."""
        texts: dict[str, int] = {}

        def guesses(part: pd.DataFrame) -> list[list[Any]]:
            names = [f"{kind}_{k}" for k in range(GUESSES) for kind in ("guess", "share")]
            return [
                [
                    texts.setdefault(v, len(texts)) if isinstance(v, str) else round(100 * v, 1)
                    for v in row
                ]
                for row in part[names].itertuples(index=False, name=None)
            ]

        cells = {}
        for (policy, budget), part in self.rows.groupby(["policy", "budget"], sort=False):
            cells[f"{policy}|{budget}"] = {
                "kl": [float(f"{v:.3g}") for v in part["kl_nats"]],
                "own": [round(100 * v, 1) for v in part["probability"]],
                "guesses": guesses(part),
            }
        return {
            "tokens": self.tokens,
            "full": f"{FULL}|0",
            "policies": self.policies,
            "budgets": self.budgets,
            "shades": list(SHADES),
            "cells": cells,
            "texts": list(texts),
        }

    def to_html(self) -> str:
        """Inert HTML: controls, the passage in plain spans, an empty sentence, the data as JSON."""
        data = json.dumps(self.payload(), separators=(",", ":"), allow_nan=False)
        data = data.replace("<", "\\u003c")
        options = "".join(f"<option>{html.escape(name)}</option>" for name in self.policies)
        words = "".join(
            f'<span class="kv-token" data-at="{i}">{html.escape(token)}</span>'
            for i, token in enumerate(self.tokens)
        )
        key = "".join(
            f'<span class="kv-token" data-shade="{k + 1}">{low:g} nats</span> '
            for k, low in enumerate(SHADES)
        )
        return (
            f'<div class="kv-passage" role="group" aria-label="{html.escape(self.label)}">'
            '<div class="kv-controls">'
            '<label class="kv-control"><span class="kv-label">Policy, online</span>'
            f'<select name="policy" autocomplete="off">{options}</select></label>'
            '<label class="kv-control"><span class="kv-label">Budget</span>'
            '<output class="kv-value" aria-hidden="true"></output>'
            f'<input type="range" name="budget" min="0" max="{len(self.budgets) - 1}" step="1"'
            ' autocomplete="off"></label></div>'
            f'<p class="kv-key">Shaded from {key}of divergence at that word.</p>'
            '<p class="kv-words" role="listbox" aria-label="the passage; arrow keys move from'
            f' word to word">{words}</p>'
            '<p class="kv-reading" aria-live="polite"></p><div class="kv-guesses"></div>'
            "<noscript><p>The shading needs JavaScript.</p></noscript>"
            f'<script type="application/json" class="kv-data">{data}'
            "</script></div>"
        )

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        return {"text/html": self.to_html(), "text/plain": f"Passage: {self.label}"}


def main() -> None:
    """Measure the passage and store it."""
    from kvlib.corpora import load_corpus
    from kvlib.models import load_model

    lm, text = load_model(MODEL), load_corpus(CORPUS)
    ids = text.documents(lm.tokenizer, 3072, 1)[DOCUMENT][: CONTEXT + SHOWN]
    settings = {
        "kind": "passage",
        "protocol": "online",
        **store.subject_of(lm, text),
        "context": CONTEXT,
        "shown": SHOWN,
        "policies": list(POLICIES),
        "budgets": list(BUDGETS),
        "seed": 0,
    }
    measurement = store.Measurement(store.DATA / f"passage-{MODEL}-{CORPUS}", settings)
    measurement.add(DOCUMENT, measure_passage(lm, ids))
    measurement.finish(store.run_of("python -m kvlib.passages", lm.device.type))


if __name__ == "__main__":
    main()
