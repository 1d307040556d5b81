"""A layer's queries before rotation, and rotation at positions that are yet to come.

What `kvlib.policies.ExpectedAttention` asks of a model beyond attention weights and keys. It is
read off the modules that transformers' own attention calls (`q_proj`, `q_norm`, the body's
`rotary_emb`), and checked: keys made in the same way must be those in the cache, or the
architecture is refused.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

ROUNDING = 1e-3  # of keys made again, relative to the longest


@dataclass(frozen=True)
class LayerPass:
    """What one layer did in a pass over a text: all that the score of a policy may look at.

    `attention` (heads, tokens, tokens) weights, `keys` and `values` (kv_heads, tokens, width) as
    they lie in the cache, rotated; `module` the attention module, `hidden` (tokens, model width)
    what went into it, `rotary` the model's rotary embedding, None where it has none.
    """

    attention: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor | None = None
    module: Any = None
    hidden: torch.Tensor | None = None
    rotary: Any = None

    @property
    def scaling(self) -> float:
        """The factor of q·k in this layer, 1/√width in most models."""
        return self.module.scaling

    @cached_property
    def queries(self) -> torch.Tensor:
        """(heads, tokens, width): the queries before rotation.

        Raises ValueError for an architecture whose keys do not come out of it in the same way.
        """
        name = type(self.module).__name__
        parts = (getattr(self.module, part, None) for part in ("q_proj", "k_proj", "scaling"))
        if self.rotary is None or any(part is None for part in parts):
            raise ValueError(
                f"{name}: expected attention with q_proj, k_proj and rotary positions, got "
                "another; expected attention is not supported there"
            )
        keys, where = self._projected("k"), torch.arange(len(self.hidden), device=self.keys.device)
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
        kind = {}
        if "layer_type" in inspect.signature(self.rotary.forward).parameters:
            kind = {"layer_type": self.module.layer_type}  # Gemma's two kinds of layer differ
        cos, sin = self.rotary(self.keys, where[None], **kind)
        return cos[0], sin[0]

    def _projected(self, part: str) -> torch.Tensor:
        """(heads, tokens, width) of queries ("q") or keys ("k") before rotation."""
        made = getattr(self.module, f"{part}_proj")(self.hidden)
        made = made.unflatten(-1, (-1, self.module.head_dim))
        norm = getattr(self.module, f"{part}_norm", None)
        return (norm(made) if norm else made).transpose(0, 1)


def turned(rows: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rows (…, width) rotated: the first half of each is paired with its second."""
    first, second = rows.chunk(2, dim=-1)
    return rows * cos + torch.cat([-second, first], dim=-1) * sin
