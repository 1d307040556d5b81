"""What a bounded cache is compared with: its definition written as a mask, and recomputation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

SAME = 1e-7  # nats; float32 reaches 1e-9, and 1e-5 was asked for


def random_ids(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(1, 250, shape))


def by_definition(model, real: torch.Tensor, budget: int, n_sink: int) -> dict:
    """Mask and positions of one forward over whole texts; `real` (batch, tokens) is no padding."""
    t = real.long().cumsum(1) - 1
    query, entry = t[:, :, None], t[:, None, :]
    recent = (entry <= query) & (entry > query - (budget - n_sink))
    seen = (recent | ((entry < n_sink) & (entry <= query))) & real[:, None, :]
    seen |= torch.eye(real.shape[1], dtype=torch.bool) & ~real[:, :, None]
    mask = seen[:, None]
    kinds = {"full_attention": mask}
    if window := getattr(model.config, "sliding_window", None):
        kinds["sliding_attention"] = mask & (query - entry < window)[:, None]
    if model.config._attn_implementation == "eager":  # it adds what it is given
        low = torch.finfo(model.dtype).min
        kinds = {name: torch.where(mask, 0.0, low) for name, mask in kinds.items()}
    given = kinds if len(kinds) > 1 else kinds["full_attention"]
    return {"attention_mask": given, "position_ids": t.clamp(min=0)}


def expected_states(lm, ids, budget=16, n_sink=4) -> torch.Tensor:
    """Last hidden states (tokens, width) of one forward under the definition's mask."""
    given = by_definition(lm.model, torch.ones(1, len(ids), dtype=torch.bool), budget, n_sink)
    with torch.inference_mode():
        return lm.model.base_model(ids[None], use_cache=False, **given).last_hidden_state[0]


@contextmanager
def recomputed(model, budget: int, n_sink: int) -> Iterator[None]:
    """Within it, forwards over whole texts see what the definition says: for `use_cache=False`."""

    def before(body, args, kwargs):
        mask, tokens = kwargs.get("attention_mask"), kwargs["input_ids"]
        real = torch.ones_like(tokens) if mask is None else mask
        return args, kwargs | by_definition(model, real.bool(), budget, n_sink)

    hook = model.base_model.register_forward_pre_hook(before, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


def fed(lm, ids, cache, feed) -> torch.Tensor:
    """Last hidden states when the cache is fed some tokens at a time, without any help."""
    with torch.inference_mode():
        parts = [
            lm.model.base_model(part[None], past_key_values=cache).last_hidden_state[0]
            for part in ids.split(list(feed))
        ]
    return torch.cat(parts)


def largest_kl(lm, p: torch.Tensor, q: torch.Tensor) -> float:
    """max KL(p‖q) in nats over rows of last hidden states (rows, width)."""
    with torch.inference_mode():
        log_p, log_q = (lm.model.get_output_embeddings()(x).log_softmax(-1) for x in (p, q))
        d = log_p - log_q  # Σ p (d + e^-d - 1): laws in float32 do not add up to 1 exactly
        return float(torch.linalg.vecdot(log_p.exp(), d + torch.expm1(-d)).max())


def padded(ids: torch.Tensor, lengths: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Beginnings of a text, padded on the left: ids and mask (rows, tokens)."""
    mask = torch.arange(len(ids)) >= len(ids) - torch.tensor(lengths)[:, None]
    rows = [ids[: int(n)].new_zeros(len(ids)) for n in lengths]
    for row, n in zip(rows, lengths, strict=True):
        row[len(ids) - n :] = ids[:n]
    return torch.stack(rows), mask.long()


def generate(model, ids, new: int, **settings) -> torch.Tensor:
    """(rows, tokens) with `new` greedy ones, or what `settings` say."""
    fixed = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False, "pad_token_id": 0}
    return model.generate(ids, **(fixed | settings))
