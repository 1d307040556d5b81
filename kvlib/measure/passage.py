"""A passage of real text, token by token: what is measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from kvlib.cache import protocols
from kvlib.cache.policies import Policy
from kvlib.measure.distortion import check_policies, named_policies
from kvlib.measure.laws import log_laws
from kvlib.models import LanguageModel

GUESSES = 3
FULL = "full cache"


def measure_passage(
    lm: LanguageModel,
    ids: Int[np.ndarray, " tokens"],
    shown: int,
    policies: Sequence[Policy],
    budgets: Sequence[int],
    seed: int = 0,
    doc: int = 0,
) -> pd.DataFrame:
    """Laws of the last `shown` tokens of `ids` under each policy, online, and with the full cache.

    Row (t, policy, budget) is about the law *of* token t, made after token t-1. Columns: `doc,
    position, token` (its text), `policy, budget, kl_nats, probability` (of the token itself), and
    `guess_k, share_k` for the GUESSES likeliest tokens. The full cache has budget 0 and KL 0.
    """
    targets = np.arange(len(ids) - shown - 1, len(ids) - 1)
    whole = torch.as_tensor(ids, device=lm.device)
    full = protocols.FullPass(lm, whole, targets)
    reference = log_laws(lm, full.states[targets])
    tokens = [lm.tokenizer.decode([i]) for i in ids[targets + 1]]
    parts = [_rows(lm, ids, targets, tokens, reference, reference, FULL, 0)]
    for policy in policies:
        for budget in budgets:
            rng = np.random.default_rng([seed, budget])
            hidden = protocols.run(full, policy, "online", budget, rng)
            laws = log_laws(lm, hidden)
            parts.append(_rows(lm, ids, targets, tokens, reference, laws, policy.key, budget))
    table = pd.concat(parts, ignore_index=True)
    table.insert(0, "doc", np.int16(doc))
    return table


def _rows(
    lm: LanguageModel,
    ids: Int[np.ndarray, " tokens"],
    targets: Int[np.ndarray, " targets"],
    tokens: list[str],
    log_p: Float[Tensor, "targets vocabulary"],
    log_q: Float[Tensor, "targets vocabulary"],
    policy: str,
    budget: int,
) -> pd.DataFrame:
    d = (log_p - log_q).clamp(min=-80)
    kl = (log_p.exp() * (d + (-d).expm1())).sum(-1)
    top = log_q.topk(GUESSES, dim=-1)
    following = torch.as_tensor(ids[targets + 1], device=lm.device)[:, None]
    own = np.exp(log_q.gather(1, following)[:, 0].cpu().numpy())
    columns = {
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


def checked(settings: dict[str, Any], docs: int) -> dict[str, Any]:
    """The settings of a study of this kind; ValueError for those that cannot be run."""
    s, policies = settings, named_policies(settings["policies"])
    check_policies(policies, s["budgets"], "online", 1, s["context"] + s["shown"])
    if s["protocol"] != "online":
        raise ValueError(f"protocol: expected online, got {s['protocol']!r}")
    if not (s["shown"] >= 1 and s["context"] >= 1 and s["context"] + s["shown"] <= s["stride"]):
        raise ValueError(
            f"context and shown: expected at least 1 each and {s['stride']} (stride) together at "
            f"most, got {s['context']} and {s['shown']}"
        )
    return s | {"policies_are": [repr(policy) for policy in policies]}


def item_rows(
    lm: LanguageModel, text: Any, settings: dict[str, Any], docs: int
) -> Callable[[int], pd.DataFrame]:
    """The number of a document → the rows of what follows its first `context` tokens."""
    s, policies = settings, named_policies(settings["policies"])
    documents = text.documents(lm.tokenizer, s["stride"], docs, s["seed"])
    end = s["context"] + s["shown"]
    return lambda doc: measure_passage(
        lm, documents[doc][:end], s["shown"], policies, s["budgets"], s["seed"], doc
    )
