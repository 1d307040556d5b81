"""What the next-token law loses when the cache holds only what a policy keeps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from kvlib.cache import protocols
from kvlib.cache.policies import NAMED, Policy
from kvlib.corpora import check_stretches, documents_of
from kvlib.measure.laws import HEAD_ROWS, log_laws
from kvlib.models import LanguageModel, check_length, masks
from kvlib.names import PROTOCOLS

# --- cache policies -----------------------------------------------------------------------------


def policy_distortion(
    lm: LanguageModel,
    documents: Sequence[Int[np.ndarray, " tokens"]],
    policies: Sequence[Policy],
    budgets: Sequence[int],
    protocol: str,
    seed: int = 0,
    every: int = 4,
    step: int = protocols.STEP,
) -> pd.DataFrame:
    """What the next-token law loses when the cache holds only what a policy keeps.

    D = KL( P(·|x[0..t]) ‖ Q(·|what the policy kept of x[0..t]) ), at every `every`-th target t of
    the second half of each document.

    Args:
        documents: token ids, all of one length ≥ 4.
        budgets: entries that a query sees in each layer and KV head, itself included. In `reencode`
            they are tokens of text, behind the model's own prefix. On a model with sliding layers
            the policy is intersected with them.
        protocol: `"reencode"`, `"online"` or `"prefill"`; see `kvlib.cache.protocols`.
        seed: draws for random policies, a new draw for each document and budget.
        step: tokens a forward of scored policies online; at most an eighth of the budget.

    Returns:
        One row a target, policy and budget: `doc, position, policy, protocol, budget, kl_nats, tv,
        top1_same, nll_excess_nats`. The last is log P(x) - log Q(x) at the text's own next token x,
        NaN after the last token. Rows of a document are correlated: count documents.

    Raises:
        ValueError: an unknown protocol, a policy without it, a budget too small for it, an
            architecture that masks or caches do not support.
        FloatingPointError: logits that are not finite.
    """
    return pd.concat(
        [
            measure_policies(lm, document, doc, policies, budgets, protocol, seed, every, step)
            for doc, document in enumerate(documents)
        ],
        ignore_index=True,
    )


def measure_policies(
    lm: LanguageModel,
    document: Int[np.ndarray, " tokens"],
    doc: int,
    policies: Sequence[Policy],
    budgets: Sequence[int],
    protocol: str,
    seed: int = 0,
    every: int = 4,
    step: int = protocols.STEP,
) -> pd.DataFrame:
    """`policy_distortion` of one document; `doc` is its number and sets the random draws."""
    check_policies(policies, budgets, protocol, every, len(document))
    check_length(lm, len(document))
    masks.check_masks(lm.model)
    ids = torch.as_tensor(np.asarray(document), device=lm.device)
    targets = np.arange(len(document) // 2, len(document), every)
    full = protocols.FullPass(lm, ids, targets, protocols.to_score(policies, protocol))
    log_p = log_laws(lm, full.states[targets])
    tables = []
    for policy in policies:
        for budget in budgets:
            rng = protocols.draws(policy, budget, seed, doc)
            hidden = protocols.run(full, policy, protocol, budget, rng, step)
            rows = _compare_rows(lm, log_p, hidden, ids, targets)
            tables.append(rows.assign(policy=policy.key, budget=np.int32(budget)))
    table = pd.concat(tables, ignore_index=True)
    if not np.isfinite(table[["kl_nats", "tv"]]).all(axis=None):
        raise FloatingPointError(f"{lm.name}: expected finite logits, got NaN in document {doc}")
    table.insert(0, "doc", np.int16(doc))
    columns = ["doc", "position", "policy", "protocol", "budget"]
    return table.assign(protocol=protocol)[
        [*columns, "kl_nats", "tv", "top1_same", "nll_excess_nats"]
    ]


def check_policies(
    policies: Sequence[Policy], budgets: Sequence[int], protocol: str, every: int, seq_len: int
) -> None:
    """Refuses what `policy_distortion` cannot do, before a model is loaded."""
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol: expected one of {', '.join(PROTOCOLS)}, got {protocol!r}")
    if len(policies) == 0 or len(budgets) == 0:
        raise ValueError("expected at least one policy and one budget, got none")
    if seq_len < 4 or every < 1:
        raise ValueError(
            f"expected documents of at least 4 tokens and every ≥ 1, got {seq_len} and {every}"
        )
    for policy in policies:
        policy.check_protocol(protocol)
        for budget in budgets:
            policy.check(budget)


def named_policies(keys: Sequence[str]) -> list[Policy]:
    """The policies of these keys; ValueError names the known ones."""
    if unknown := [key for key in keys if key not in NAMED]:
        raise ValueError(
            f"policy: expected one of {', '.join(NAMED)}, got {', '.join(map(str, unknown))}"
        )
    return [NAMED[key] for key in keys]


def checked(settings: dict[str, Any], docs: int) -> dict[str, Any]:
    """The settings of a study of this kind, with what the policies are; ValueError for those that
    cannot be run."""
    s, policies = settings, named_policies(settings["policies"])
    check_stretches(s)
    check_policies(policies, s["budgets"], s["protocol"], s["every"], s["seq_len"])
    if s["step"] < 1:
        raise ValueError(f"step: expected at least 1, got {s['step']}")
    return s | {"policies_are": [repr(policy) for policy in policies]}


def item_rows(
    lm: LanguageModel, text: Any, settings: dict[str, Any], docs: int
) -> Callable[[int], pd.DataFrame]:
    """The number of a document → its rows."""
    s, policies = settings, named_policies(settings["policies"])
    documents = documents_of(text, lm.tokenizer, s, docs)
    return lambda doc: measure_policies(
        lm,
        documents[doc],
        doc,
        policies,
        s["budgets"],
        s["protocol"],
        s["seed"],
        s["every"],
        s["step"],
    )


def _compare_rows(
    lm: LanguageModel,
    log_p: Float[Tensor, "targets vocabulary"],
    hidden: Float[Tensor, "targets width"],
    ids: Int[Tensor, " tokens"],
    targets: Int[np.ndarray, " targets"],
) -> pd.DataFrame:
    """Each row of `hidden` against the law of the same row of `log_p`; sums as in `_kl_and_tv`."""
    head = lm.model.get_output_embeddings()
    n = len(targets)
    kl, tv, excess = (torch.empty(n, device=lm.device) for _ in range(3))
    same = torch.empty(n, dtype=torch.bool, device=lm.device)
    after = torch.from_numpy(targets + 1).to(lm.device)
    following = ids[after.clamp(max=len(ids) - 1)]
    with torch.inference_mode():
        for i in range(0, n, HEAD_ROWS):
            rows = slice(i, i + HEAD_ROWS)
            p, logits = log_p[rows], head(hidden[rows]).float()
            same[rows] = p.argmax(-1) == logits.argmax(-1)
            d = torch.sub(p, torch.log_softmax(logits, -1), out=logits).clamp_(min=-80)
            excess[rows] = d.gather(1, following[rows, None])[:, 0]
            e, p = torch.expm1(-d), p.exp()
            tv[rows] = torch.linalg.vecdot(p, e.abs()).mul_(0.5)
            kl[rows] = torch.linalg.vecdot(p, d.add_(e))
    excess[after >= len(ids)] = torch.nan
    return pd.DataFrame(
        {
            "position": targets.astype(np.int32),
            "kl_nats": kl.cpu().numpy(),
            "tv": tv.cpu().numpy(),
            "top1_same": same.cpu().numpy(),
            "nll_excess_nats": excess.cpu().numpy(),
        }
    )
