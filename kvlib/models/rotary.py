"""Rotary positions, and a layer's queries before they are rotated.

`turns` and `turned` are the rotation that keys and queries get from the model itself. `LayerPass`
is what the score of a policy may look at. Queries are read off the modules that transformers' own
attention calls (`q_proj`, `q_norm`), and checked: keys made in the same way must be those in the
cache, or the architecture is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import torch

from kvlib.models import masks

ROUNDING = 1e-3  # of keys made again, relative to the longest


@dataclass(frozen=True)
class LayerPass:
    """What one layer did in a pass over a text: all that the score of a policy may look at.

    `attention` (heads, tokens, tokens) weights, `keys` and `values` (kv_heads, tokens, width) as
    they lie in the cache, rotated; `hidden` (tokens, model width) what went into the attention of
    layer number `index` of `model`.
    """

    attention: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor | None = None
    hidden: torch.Tensor | None = None
    model: Any = None
    index: int = 0

    @property
    def module(self) -> torch.nn.Module:
        """The layer's attention module."""
        return masks.attention_modules(self.model)[self.index]

    @property
    def scaling(self) -> float:
        """The factor of q·k in this layer, 1/√width in most models."""
        return cast(float, self.module.scaling)

    @cached_property
    def queries(self) -> torch.Tensor:
        """(heads, tokens, width): the queries before rotation.

        Raises ValueError for an architecture whose keys do not come out of it in the same way.
        """
        name = type(self.module).__name__
        parts = (getattr(self.module, part, None) for part in ("q_proj", "k_proj", "scaling"))
        rotary = getattr(self.model.base_model, "rotary_emb", None)
        if rotary is None or any(part is None for part in parts):
            raise ValueError(
                f"{name}: expected attention with q_proj, k_proj and rotary positions, got "
                "another; expected attention is not supported there"
            )
        keys = self._projected("k")
        where = torch.arange(keys.shape[1], device=keys.device)
        cos, sin = self.turns(where)
        if cos.shape[-1] == keys.shape[-1] == self.keys.shape[-1]:
            off = (turned(keys, cos, sin) - self.keys).norm(dim=-1).max()
            if off <= ROUNDING * self.keys.norm(dim=-1).max():
                return self._projected("q")
        raise ValueError(
            f"{name}: expected keys rotated in halves over the whole head, got others; expected "
            "attention is not supported there"
        )

    def turns(self, where: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines (positions, width) of this layer's rotation at `where`."""
        cos, sin = turns(self.model, self.index, where[None])
        return cos[0], sin[0]

    def _projected(self, part: str) -> torch.Tensor:
        """(heads, tokens, width) of queries ("q") or keys ("k") before rotation."""
        made = getattr(self.module, f"{part}_proj")(self.hidden)
        made = made.unflatten(-1, (-1, self.module.head_dim))
        norm = getattr(self.module, f"{part}_norm", None)
        return (norm(made) if norm else made).transpose(0, 1)


def turns(model: Any, layer: int, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The model's own cos and sin (batch, positions, head_dim) in a layer."""
    like = torch.empty(0, dtype=model.dtype, device=model.device)
    rotary, kinds = model.base_model.rotary_emb, getattr(model.config, "layer_types", None)
    if kinds is not None and hasattr(rotary, f"{kinds[layer]}_inv_freq"):
        return rotary(like, positions, kinds[layer])
    return rotary(like, positions)


def turned(rows: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rows (…, width) rotated: the first half of each is paired with its second."""
    first, second = rows.chunk(2, dim=-1)
    return rows * cos + torch.cat([-second, first], dim=-1) * sin
