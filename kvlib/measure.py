"""The one heavy loop: text and a model in, a table of divergences out.

For a last context position t the question is always the same: how far is the next-token law given
what was kept from the law given all of x[0..t]? `truncation_sensitivity` keeps the last w tokens,
re-encoded from position 0, for every w at once; `policy_distortion` keeps what a cache policy
keeps, in one of the three protocols of `kvlib.protocols`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from kvlib import protocols
from kvlib.divergences import kl_divergence, total_variation
from kvlib.models import LanguageModel, check_length, masks
from kvlib.policies import Policy

GOLDEN = 0.6180339887498949  # steps of this fraction fill a circle evenly, however many there are
PAIRS_PER_OCTAVE = 1024
BATCH_TOKENS = 1024  # more tokens a forward pass gain nothing on a CPU
HEAD_ROWS = 64  # rows of logits alive at once: 67 MB for a vocabulary of 262,144


@dataclass(frozen=True)
class Design:
    """Which pairs of one document are measured, and by which forward passes.

    Windows are sorted into octaves (1), (2), (3, 4), (5..8), … Each octave has starts s, evenly
    spaced and `spacing` tokens apart, with a phase that differs from document to document. One pass
    over x[s..] serves the windows of its octave at once: at s+w-1 it has seen exactly w tokens.
    Targets outside [first_target, last_target] are dropped, so that every window is scored on
    the same region of text.

    A start of the top octave costs as much as two of the octave below, while the start-to-start
    spread of KL, relative to its mean, is about the same in every octave. For starts of cost c
    and equal spread, the variance of a log-log slope falls fastest with starts ∝ 1/√c: so each
    octave has 1/√2 of the pairs of the octave above it, and √2 times the starts.
    """

    max_window: int
    first_target: int
    last_target: int
    pairs_per_octave: int
    seed: int

    def octaves(self) -> list[tuple[int, int]]:
        """(smallest, largest) window of each octave."""
        tops = [2**k for k in range(int(np.ceil(np.log2(self.max_window))) + 1)]
        return [(top // 2 + 1 if top > 1 else 1, min(top, self.max_window)) for top in tops]

    def spacing(self, octave: tuple[int, int]) -> int:
        """Tokens between neighbouring starts; the top octave has about `pairs_per_octave` pairs."""
        region = self.last_target - self.first_target + 1
        width = octave[1] - octave[0] + 1
        pairs = self.pairs_per_octave * (octave[1] / self.max_window) ** 0.5
        return max(1, min(region, round(width * region / pairs)))

    def starts(self, doc: int, octave: tuple[int, int]) -> np.ndarray:
        """Starts of one document and octave whose passes reach the target region."""
        spacing = self.spacing(octave)
        offset = np.random.default_rng([self.seed, octave[1]]).random()
        phase = int(spacing * ((offset + doc * GOLDEN) % 1))
        first, last = self.first_target - octave[1] + 1, self.last_target - octave[0] + 1
        return np.arange(first + (phase - first) % spacing, last + 1, spacing)


def truncation_sensitivity(
    lm: LanguageModel,
    documents: Sequence[np.ndarray],
    max_window: int = 1024,
    pairs_per_octave: int = PAIRS_PER_OCTAVE,
    seed: int = 0,
) -> pd.DataFrame:
    """What the next-token law loses when all but the last w tokens are cut, for every w.

    D(w) = KL( P(·|x[0..t]) ‖ P(·|x[t-w+1..t]) ), the suffix re-encoded from position 0.

    Args:
        documents: token ids, all of one length ≥ 2·max_window. Targets t are the positions from
            2·max_window - 1 to the end, so each context is at least twice the window.
        pairs_per_octave: pairs (t, w) of a document in the top octave; `Design` has the rest.

    Returns:
        One row a pair: `doc, position, context, window, kl_nats, tv`; `position` is t and
        `context` = t + 1 is the length of the reference. Neighbouring pairs share their start and
        are correlated: count documents, not rows.

    Raises:
        ValueError: a window below 1, or documents too short for it.
        FloatingPointError: logits that are not finite.
    """
    return pd.concat(
        [
            measure_document(lm, document, doc, max_window, pairs_per_octave, seed)
            for doc, document in enumerate(documents)
        ],
        ignore_index=True,
    )


def measure_document(
    lm: LanguageModel,
    document: np.ndarray,
    doc: int,
    max_window: int = 1024,
    pairs_per_octave: int = PAIRS_PER_OCTAVE,
    seed: int = 0,
) -> pd.DataFrame:
    """`truncation_sensitivity` of one document; `doc` is its number and sets its starts."""
    design = design_for(len(document), max_window, pairs_per_octave, seed)
    check_length(lm, len(document))
    ids = torch.as_tensor(np.asarray(document), device=lm.device)
    with torch.inference_mode():
        reference = _hidden(lm, ids[None])[0]
        positions, windows, hidden = [], [], []
        for octave in design.octaves():
            for starts, length in _equal_lengths(design, doc, octave):
                states = _hidden(lm, torch.stack([ids[s : s + length] for s in starts]))
                w = np.arange(octave[0], length + 1)
                t = starts[:, None] + w[None, :] - 1
                keep = (t >= design.first_target) & (t <= design.last_target)
                hidden.append(states[:, octave[0] - 1 :][torch.from_numpy(keep).to(lm.device)])
                positions.append(t[keep])
                windows.append(np.broadcast_to(w, t.shape)[keep])
        position, window = np.concatenate(positions), np.concatenate(windows)
        order = np.lexsort((window, position))
        position, window = position[order], window[order]
        hidden = torch.cat(hidden)[torch.from_numpy(order).to(lm.device)]
        kl, tv = _divergences_of_rows(lm, reference, hidden, position)
    if not (np.isfinite(kl).all() and np.isfinite(tv).all()):
        bad = int(np.argmin(np.isfinite(kl) & np.isfinite(tv)))
        raise FloatingPointError(
            f"{lm.name}: expected finite logits, got NaN or infinity in document {doc} at "
            f"position {position[bad]}, window {window[bad]}"
        )
    return pd.DataFrame(
        {
            "doc": np.full(len(position), doc, dtype=np.int16),
            "position": position.astype(np.int32),
            "context": (position + 1).astype(np.int32),
            "window": window.astype(np.int32),
            "kl_nats": kl,
            "tv": tv,
        }
    )


def naive_sensitivity(
    lm: LanguageModel, document: np.ndarray, pairs: Iterable[tuple[int, int]]
) -> pd.DataFrame:
    """The plain twin of `measure_document`: one forward pass for each pair (position, window).

    References are computed once a position. The divergences are `kvlib.divergences`', in float64.
    """
    ids = torch.as_tensor(np.asarray(document), device=lm.device)
    references: dict[int, np.ndarray] = {}
    rows = []
    for position, window in pairs:
        if not 1 <= window <= position + 1:
            raise ValueError(
                f"window: expected 1 to {position + 1}, the context's length, got {window}"
            )
        if position not in references:
            references[position] = next_token_law(lm, ids[: position + 1])
        log_q = next_token_law(lm, ids[position - window + 1 : position + 1])
        kl = float(kl_divergence(references[position], log_q))
        tv = float(total_variation(references[position], log_q))
        rows.append((position, position + 1, window, kl, tv))
    return pd.DataFrame(rows, columns=["position", "context", "window", "kl_nats", "tv"])


def next_token_law(lm: LanguageModel, ids: torch.Tensor | Sequence[int]) -> np.ndarray:
    """Log-probabilities (vocabulary,) of the token after `ids`, as float64."""
    return next_token_laws(lm, ids, [len(ids) - 1])[0]


def next_token_laws(
    lm: LanguageModel, ids: torch.Tensor | Sequence[int], positions: Sequence[int]
) -> np.ndarray:
    """Log-probabilities (positions, vocabulary) of the tokens after `positions`, from one pass."""
    ids = torch.as_tensor(ids, device=lm.device)
    prefix = torch.tensor(lm.prefix_ids, dtype=ids.dtype, device=lm.device)
    rows = torch.tensor(positions, device=lm.device) + len(prefix)
    with torch.inference_mode():
        whole = torch.cat([prefix, ids])[None]
        logits = lm.model(whole, use_cache=False, logits_to_keep=rows).logits[0]
    return logits.double().log_softmax(-1).cpu().numpy()


def design_for(seq_len: int, max_window: int, pairs_per_octave: int, seed: int) -> Design:
    """The design for documents of `seq_len` tokens; raises ValueError when it cannot be had."""
    if max_window < 1:
        raise ValueError(f"max_window: expected at least 1, got {max_window}")
    if pairs_per_octave < 1:
        raise ValueError(f"pairs_per_octave: expected at least 1, got {pairs_per_octave}")
    if seq_len < 2 * max_window:
        raise ValueError(
            f"documents: expected at least {2 * max_window} tokens, twice the largest window "
            f"{max_window}, got {seq_len}"
        )
    return Design(max_window, 2 * max_window - 1, seq_len - 1, pairs_per_octave, seed)


# --- cache policies -----------------------------------------------------------------------------


def policy_distortion(
    lm: LanguageModel,
    documents: Sequence[np.ndarray],
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
        protocol: `"reencode"`, `"online"` or `"prefill"`; see `kvlib.protocols`.
        seed: draws for random policies, a new draw for each document and budget.
        step: tokens a forward of score-based policies online; at most an eighth of the budget.

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
    document: np.ndarray,
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
    scored = [policy for policy in policies if not hasattr(policy, "kept")]
    full = protocols.FullPass(lm, ids, targets, scored if protocol == "prefill" else ())
    log_p = _log_laws(lm, full.states[targets])
    tables = []
    for policy in policies:
        for budget in budgets:
            rng = np.random.default_rng([seed, doc, budget, *policy.name.encode()])
            if protocol == "prefill":
                hidden = protocols.prefill_hidden(full, policy, budget, rng)
            elif protocol == "reencode":
                hidden = protocols.reencode_hidden(lm, ids, targets, policy, budget, rng)
            elif policy in scored:
                size = min(step, max(1, budget // 8))
                hidden = protocols.decode_hidden(lm, ids, targets, policy, budget, rng, size)
            else:
                hidden = protocols.online_hidden(full, policy, budget, rng)
            rows = _compare_rows(lm, log_p, hidden, ids, targets)
            tables.append(rows.assign(policy=policy.name, budget=np.int32(budget)))
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
    if protocol not in protocols.PROTOCOLS:
        raise ValueError(
            f"protocol: expected one of {', '.join(protocols.PROTOCOLS)}, got {protocol!r}"
        )
    if len(policies) == 0 or len(budgets) == 0:
        raise ValueError("expected at least one policy and one budget, got none")
    if seq_len < 4 or every < 1:
        raise ValueError(
            f"expected documents of at least 4 tokens and every ≥ 1, got {seq_len} and {every}"
        )
    for policy in policies:
        if protocol not in policy.protocols:
            raise ValueError(
                f"{policy.name}: expected one of its protocols {', '.join(policy.protocols)}, "
                f"got {protocol!r}"
            )
        for budget in budgets:
            policy.check(budget)


def _log_laws(lm: LanguageModel, hidden: torch.Tensor) -> torch.Tensor:
    """Log-probabilities (rows, vocabulary) of rows of last hidden states."""
    head = lm.model.get_output_embeddings()
    with torch.inference_mode():
        chunks = [
            head(hidden[i : i + HEAD_ROWS]).float().log_softmax(-1)
            for i in range(0, len(hidden), HEAD_ROWS)
        ]
    return torch.cat(chunks).clamp_(min=-80)


def _compare_rows(
    lm: LanguageModel,
    log_p: torch.Tensor,
    hidden: torch.Tensor,
    ids: torch.Tensor,
    targets: np.ndarray,
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


# --- inside the loop --------------------------------------------------------------------------


def _equal_lengths(
    design: Design, doc: int, octave: tuple[int, int]
) -> Iterator[tuple[np.ndarray, int]]:
    """Batches of starts with one pass length each, so that nothing is padded."""
    starts = design.starts(doc, octave)
    lengths = np.minimum(octave[1], design.last_target - starts + 1)
    for length in np.unique(lengths)[::-1]:
        group = starts[lengths == length]
        size = max(1, BATCH_TOKENS // int(length))
        for i in range(0, len(group), size):
            yield group[i : i + size], int(length)


def _hidden(lm: LanguageModel, ids: torch.Tensor) -> torch.Tensor:
    """Last hidden states (batch, length, width) of `ids` (batch, length) behind the prefix."""
    prefix = torch.tensor(lm.prefix_ids, dtype=ids.dtype, device=ids.device)
    with_prefix = torch.cat([prefix.expand(len(ids), -1), ids], dim=1)
    body = lm.model.base_model(with_prefix, use_cache=False).last_hidden_state
    return body[:, len(lm.prefix_ids) :]


def _divergences_of_rows(
    lm: LanguageModel, reference: torch.Tensor, hidden: torch.Tensor, position: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """KL and TV of each row of `hidden` from the reference at its position (sorted ascending).

    The head runs on HEAD_ROWS rows at a time; each reference law is made once.
    """
    head = lm.model.get_output_embeddings()
    kl = torch.empty(len(position), device=lm.device)
    tv = torch.empty_like(kl)
    scratch = torch.empty(HEAD_ROWS, lm.vocab_size, device=lm.device)
    targets, first_row = np.unique(position, return_index=True)
    first_row = np.append(first_row, len(position))
    for block in range(0, len(targets), HEAD_ROWS):
        in_block = targets[block : block + HEAD_ROWS]
        log_p = head(reference[torch.from_numpy(in_block).to(lm.device)]).float().log_softmax(-1)
        log_p.clamp_(min=-80)  # adds at most 262,144·e^-80 of mass, and no ratio overflows below
        p = log_p.exp()
        begin, end = first_row[block], first_row[block + len(in_block)]
        for chunk in range(begin, end, HEAD_ROWS):
            stop = min(chunk + HEAD_ROWS, end)
            logits = head(hidden[chunk:stop]).float()
            row = chunk
            while row < stop:  # rows that share a target share its reference
                k = int(np.searchsorted(first_row, row, side="right")) - 1
                last = min(first_row[k + 1], stop)
                rows = logits[row - chunk : last - chunk]
                _kl_and_tv(
                    log_p[k - block], p[k - block], rows, scratch, kl[row:last], tv[row:last]
                )
                row = last
    return kl.cpu().numpy(), tv.cpu().numpy()


def _kl_and_tv(
    log_p: torch.Tensor,
    p: torch.Tensor,
    logits: torch.Tensor,
    scratch: torch.Tensor,
    kl: torch.Tensor,
    tv: torch.Tensor,
) -> None:
    """KL(p‖q) and TV of rows of logits (rows, vocabulary) from one law, into `kl` and `tv`.

    With d = log p - log q and e = exp(-d) - 1: KL = Σ p (e + d), TV = ½ Σ p |e|. No term is
    negative, so float32 is enough where Σ p log p - Σ p log q would be off by 6e-5. Overwrites
    `logits` and `scratch`: fresh memory for each row would cost more than the arithmetic.
    """
    scratch = scratch[: len(logits)]
    top = logits.amax(dim=-1, keepdim=True)
    torch.sub(logits, top, out=scratch).exp_()
    log_mass = scratch.sum(dim=-1, keepdim=True).log_().add_(top)
    d = torch.sub(log_p, logits, out=logits).add_(log_mass).clamp_(min=-80)
    e = torch.neg(d, out=scratch).expm1_()
    torch.mv(d.add_(e), p, out=kl)
    torch.mv(e.abs_(), p, out=tv).mul_(0.5)
