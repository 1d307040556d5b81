"""Where a model's positions end, and where they begin to depend on the length of a forward.

Learned positions are rows of a table: there is none behind its end. Rotary positions go on, but in
two variants the turn of *every* position changes once a forward reaches beyond a length: dynamic
NTK grows its base with the longest position of the forward, LongRoPE (Phi-3) changes from short to
long factors. Beyond it the law of a window would depend on what it was packed with, and a cache
would hold keys turned in two ways; so nothing is measured there.

| architectures | positions | end |
|---|---|---|
| GPT-2, GPTBigCode, GPT-Neo | learned, `wpe` | `n_positions` (GPT-2: 1,024) |
| OPT, BioGPT | learned, two rows are for padding | `max_position_embeddings` (2,048; 1,024) |
| OpenAI-GPT | learned, `positions_embed` | `n_positions` (512) |
| GPT-J, CodeGen | rotary from a table of sines | `n_positions` (2,048) |
| any with `rope_type` "dynamic" | rotary | `max_position_embeddings` |
| any with `rope_type` "longrope" | rotary | `original_max_position_embeddings` (Phi-3: 4,096) |
| other rotary models, XGLM | rotary; sines made when needed | none; beyond training they guess |
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from kvlib.models import masks

TABLES = ("wpe", "embed_positions", "positions_embed")
OFFSET = "offset"  # rows of a table before that of position 0


class End(NamedTuple):
    """Positions 0 … tokens - 1 can be used; `reason` says what is there."""

    tokens: int
    reason: str


def end(model: Any) -> End | None:
    """Where the positions of a model end, if they do."""
    ends = [*_tables(model), *_switches(model)]
    return min(ends) if ends else None


def check_end(model: Any, last: int) -> None:
    """Raises ValueError for a position that a model does not have, 0 for a text's first token."""
    limit = end(model)
    if limit is not None and last >= limit.tokens:
        raise ValueError(
            f"{type(model).__name__}: expected positions below {limit.tokens}, {limit.reason}, "
            f"got {last}"
        )


def check_length(lm: Any, tokens: int) -> None:
    """Raises ValueError for a text of a `LanguageModel` that is longer than its positions."""
    limit, prefix = end(lm.model), len(lm.prefix_ids)
    if limit is not None and tokens + prefix > limit.tokens:
        raise ValueError(
            f"{lm.name}: expected documents of at most {limit.tokens - prefix} tokens "
            f"({limit.reason}), got {tokens}"
        )


def _tables(model: Any) -> list[End]:
    parts = [masks.body(model), *masks.attention_modules(model)[:1]]
    found = []
    for table in (getattr(part, name, None) for part in parts for name in TABLES):
        if isinstance(table, torch.nn.Embedding):
            rows = len(table.weight) - getattr(table, OFFSET, 0)
            found.append(End(rows, "the end of its table of positions"))
        elif isinstance(table, torch.Tensor):
            found.append(End(len(table), "the end of its table of sines"))
    return found


def _switches(model: Any) -> list[End]:
    """Where rotary frequencies change for all positions of a forward."""
    config = model.config.get_text_config()
    given = getattr(config, "rope_parameters", None) or {}
    kinds = [given] if "rope_type" in given else [v for v in given.values() if isinstance(v, dict)]
    found = []
    for kind in kinds:
        name = kind.get("rope_type") or ""
        if "dynamic" in name:
            tokens = config.max_position_embeddings
        elif name == "longrope":
            tokens = kind["original_max_position_embeddings"]
        else:
            continue
        found.append(End(tokens, f"where its rotary positions ({name}) turn otherwise"))
    return found
