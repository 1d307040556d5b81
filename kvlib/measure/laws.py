"""States → next-token laws → divergences. Every law and every KL of a model is made here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache

from kvlib.models import LanguageModel, check_length
from kvlib.models.memory import in_batches

Ids = Int[Tensor, " tokens"] | Int[np.ndarray, " tokens"] | Sequence[int]
HEAD_ROWS = 64  # rows of logits alive at once: 67 MB for a vocabulary of 262,144
CARD_ROWS = 512  # the same on a card, where one step should last: 3 GB at most


def next_token_law(lm: LanguageModel, ids: Ids) -> Float[np.ndarray, " vocabulary"]:
    """Log-probabilities (vocabulary,) of the token after `ids`, as float64."""
    return next_token_laws(lm, ids, [len(ids) - 1])[0]


def next_token_laws(
    lm: LanguageModel, ids: Ids, positions: Sequence[int] | Int[np.ndarray, " positions"]
) -> Float[np.ndarray, "positions vocabulary"]:
    """Log-probabilities (positions, vocabulary) of the tokens after `positions`, from one pass."""
    return laws_at(lm, ids, positions).cpu().numpy()


def laws_at(
    lm: LanguageModel, ids: Ids, positions: Sequence[int] | Int[np.ndarray, " positions"]
) -> Float[Tensor, "positions vocabulary"]:
    """`next_token_laws` where the model is: on a card, for `exact_divergences` to reduce there."""
    ids = torch.as_tensor(ids, device=lm.device)
    rows = torch.as_tensor(positions, device=lm.device) + len(lm.prefix_ids)
    with torch.inference_mode():
        logits = lm.model(lm.prefixed(ids)[None], use_cache=False, logits_to_keep=rows).logits[0]
    return logits.to(lm.device).double().log_softmax(-1)


def exact_laws(
    lm: LanguageModel, hidden: Float[Tensor, "rows width"]
) -> Float[Tensor, "rows vocabulary"]:
    """Log-probabilities (rows, vocabulary) of rows of last hidden states, as float64."""
    with torch.inference_mode():
        return lm.model.get_output_embeddings()(hidden).double().log_softmax(-1)


def exact_divergences(
    log_p: Float[Tensor, "rows vocabulary"], log_q: Float[Tensor, "rows vocabulary"]
) -> tuple[Float[Tensor, " rows"], Float[Tensor, " rows"]]:
    """KL(p‖q) and TV of rows of float64 laws, where they are; as in `divergences`, for laws without
    zeros: a ratio beyond e^80 counts as that."""
    d, p = (log_p - log_q).clamp(min=-80), log_p.exp()
    e = torch.expm1(-d)
    return (p * (e + d)).sum(-1), 0.5 * (p * e.abs()).sum(-1)


def log_laws(
    lm: LanguageModel, hidden: Float[Tensor, "rows width"]
) -> Float[Tensor, "rows vocabulary"]:
    """Log-probabilities (rows, vocabulary) of rows of last hidden states."""
    head = lm.model.get_output_embeddings()
    with torch.inference_mode():
        chunks = [
            head(hidden[i : i + HEAD_ROWS]).float().log_softmax(-1)
            for i in range(0, len(hidden), HEAD_ROWS)
        ]
    return torch.cat(chunks).clamp_(min=-80)


def hidden_states(
    lm: LanguageModel, ids: Int[Tensor, "batch tokens"]
) -> Float[Tensor, "batch tokens width"]:
    """Last hidden states (batch, length, width) of `ids` (batch, length) behind the prefix."""
    check_length(lm, ids.shape[1])
    body = lm.model.base_model(lm.prefixed(ids), use_cache=False).last_hidden_state
    return body[:, len(lm.prefix_ids) :]


def states_in_pieces(
    lm: LanguageModel, ids: Int[Tensor, "batch tokens"], piece: int
) -> Float[Tensor, "batch tokens width"]:
    """`hidden_states` by another road: `piece` tokens a forward, behind a growing cache."""
    check_length(lm, ids.shape[1])
    ids, cache, found = lm.prefixed(ids), DynamicCache(config=lm.model.config), []
    for part in ids.split(piece, dim=1):
        out = lm.model.base_model(part, past_key_values=cache, use_cache=True)
        found.append(out.last_hidden_state)
    return torch.cat(found, dim=1)[:, len(lm.prefix_ids) :]


class Rows(NamedTuple):
    """What rows of laws Q lose beside a reference P: KL(P‖Q), TV, -log Q(x) at the text's own next
    token x, and what that is above the reference's."""

    kl: Float[np.ndarray, " rows"]
    tv: Float[np.ndarray, " rows"]
    nll: Float[np.ndarray, " rows"]
    nll_excess: Float[np.ndarray, " rows"]


def divergences_of_rows(
    lm: LanguageModel,
    reference: Float[Tensor, "tokens width"],
    hidden: Float[Tensor, "rows width"],
    position: Int[np.ndarray, " rows"],
    ids: Int[Tensor, " tokens"],
) -> Rows:
    """Each row of `hidden` beside the reference at its position (sorted ascending) in `ids`.

    The head runs on HEAD_ROWS rows at a time; each reference law is made once. On a card
    `divergences_at_once` does it, with fewer and larger steps.
    """
    if lm.device.type != "cpu":
        return divergences_at_once(lm, reference, hidden, position, ids)
    head = lm.model.get_output_embeddings()
    kl = torch.empty(len(position), device=lm.device)
    tv, excess, own = (torch.empty_like(kl) for _ in range(3))
    following = ids[(torch.from_numpy(position).to(ids.device) + 1).clamp(max=len(ids) - 1)]
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
                law, x = log_p[k - block], following[row]
                kl_and_tv(
                    law,
                    p[k - block],
                    rows,
                    scratch,
                    kl[row:last],
                    tv[row:last],
                    x,
                    excess[row:last],
                )
                own[row:last] = law[x]
                row = last
    after_last = torch.from_numpy(position + 1 >= len(ids)).to(lm.device)
    excess[after_last] = torch.nan
    found = kl, tv, excess - own, excess
    return Rows(*(values.cpu().numpy() for values in found))


def divergences_at_once(
    lm: LanguageModel,
    reference: Float[Tensor, "tokens width"],
    hidden: Float[Tensor, "rows width"],
    position: Int[np.ndarray, " rows"],
    ids: Int[Tensor, " tokens"],
) -> Rows:
    """The plain twin of `divergences_of_rows`, and its road on a card: CARD_ROWS rows a step, fewer
    where memory runs out, each beside a copy of its reference law. Only four numbers a row leave
    the device."""
    head = lm.model.get_output_embeddings()
    where = torch.from_numpy(position).to(lm.device, torch.int64)
    following = ids[(where + 1).clamp(max=len(ids) - 1)]

    def step(rows: Int[Tensor, " some"]) -> Float[Tensor, "4 some"]:
        targets, own = torch.unique_consecutive(where[rows], return_inverse=True)
        log_p = head(reference[targets]).float().log_softmax(-1).clamp_(min=-80)[own]
        logits = head(hidden[rows]).float()
        d = torch.sub(log_p, logits.log_softmax(-1), out=logits).clamp_(min=-80)
        x, p = following[rows, None], log_p.exp()
        own_x, excess = log_p.gather(1, x)[:, 0], d.gather(1, x)[:, 0]
        e = torch.expm1(-d)
        kl, tv = torch.linalg.vecdot(p, d.add_(e)), torch.linalg.vecdot(p, e.abs_()).mul_(0.5)
        return torch.stack([kl, tv, excess - own_x, excess])

    rows = torch.arange(len(position), device=lm.device)
    found = torch.cat(in_batches(lm, step, rows, CARD_ROWS), dim=1)
    found[2:, where + 1 >= len(ids)] = torch.nan  # the last token is followed by none
    return Rows(*found.cpu().numpy())


def kl_and_tv(
    log_p: Float[Tensor, " vocabulary"],
    p: Float[Tensor, " vocabulary"],
    logits: Float[Tensor, "rows vocabulary"],
    scratch: Float[Tensor, "room vocabulary"],
    kl: Float[Tensor, " rows"],
    tv: Float[Tensor, " rows"],
    x: Int[Tensor, ""],
    excess: Float[Tensor, " rows"],
) -> None:
    """KL(p‖q) and TV of rows of logits (rows, vocabulary) from one law, into `kl` and `tv`, and
    d at token `x` into `excess`.

    With d = log p - log q and e = exp(-d) - 1: KL = Σ p (e + d), TV = ½ Σ p |e|. No term is
    negative, so float32 is enough where Σ p log p - Σ p log q would be off by 6e-5. Overwrites
    `logits` and `scratch`: fresh memory for each row would cost more than the arithmetic.
    """
    scratch = scratch[: len(logits)]
    top = logits.amax(dim=-1, keepdim=True)
    torch.sub(logits, top, out=scratch).exp_()
    log_mass = scratch.sum(dim=-1, keepdim=True).log_().add_(top)
    d = torch.sub(log_p, logits, out=logits).add_(log_mass).clamp_(min=-80)
    excess.copy_(d[:, x])
    e = torch.neg(d, out=scratch).expm1_()
    torch.mv(d.add_(e), p, out=kl)
    torch.mv(e.abs_(), p, out=tv).mul_(0.5)
