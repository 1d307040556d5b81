"""What a bounded cache holds in one layer: keys and values, moved as the plan of a forward says."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.cache_utils import DynamicLayer

from kvlib.models.rotary import turned, turns


class BoundedLayer(DynamicLayer):
    """One layer's keys and values (batch, kv_heads, entries, head_dim); does what the plan says."""

    def __init__(self, cache: Any, index: int) -> None:
        super().__init__()
        self.keys: torch.Tensor
        self.values: torch.Tensor
        self._cache, self._index = weakref.ref(cache), index
        self.is_croppable = cache.rollback > 0

    @torch.compiler.disable  # it follows a plan that was made outside the graph
    def update(
        self,
        key_states: Float[Tensor, "batch kv_heads queries head_dim"],
        value_states: Float[Tensor, "batch kv_heads queries value_dim"],
        *args: Any,
        **kwargs: Any,
    ) -> tuple[
        Float[Tensor, "batch kv_heads entries head_dim"],
        Float[Tensor, "batch kv_heads entries value_dim"],
    ]:
        cache = self._cache()
        plan = None if cache is None else cache.plan
        if plan is None:
            raise RuntimeError(
                "BoundedCache: expected a forward of the model it was made for, before close() and "
                "after attach()"
            )
        if plan.slot is not None:
            keys = self.keys = put(self.keys, plan.slot, key_states)
            values = self.values = put(self.values, plan.slot, value_states)
        else:
            keys, values = super().update(key_states, value_states)
            if plan.keep is not None:
                self.keys, self.values = take(keys, plan.keep), take(values, plan.keep)
        if plan.turn is not None:
            rotation = turns(plan.model, self._index, plan.turn)
            copies = turn(take(keys, plan.sinks), rotation)
            keys = torch.cat([keys, copies], dim=2)
            same = take(values, plan.sinks).repeat(1, 1, plan.turn.shape[1], 1)
            values = torch.cat([values, same], dim=2)
        return keys, values

    def get_seq_length(self) -> int:
        """Columns seen so far, padding included: what `generate` calls the past."""
        cache = self._cache()
        return 0 if cache is None else cache.tokens

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Entries a mask must cover; the hook brings its own."""
        held = self.keys.shape[-2] if self.is_initialized else 0
        return held + query_length, 0


def put(
    states: Float[Tensor, "batch heads entries dim"],
    slot: Int[Tensor, "batch 1"],
    new: Float[Tensor, "batch heads 1 dim"],
) -> Float[Tensor, "batch heads entries dim"]:
    """`states` (batch, heads, entries, dim) with `new` (batch, heads, 1, dim) at `slot`; in place,
    unless autograd remembers them."""
    frozen = states.is_inference() and not torch.is_inference_mode_enabled()
    index = slot.to(new.device)
    if frozen or new.requires_grad or states.requires_grad:
        return states.scatter(2, index[:, None, :, None].expand_as(new), new)
    if len(index) == 1:  # the same, and half as dear: this is done twice a layer and token
        return states.index_copy_(2, index[0], new)
    return states.scatter_(2, index[:, None, :, None].expand_as(new), new)


def take(
    states: Float[Tensor, "batch heads entries dim"], index: Int[Tensor, "batch kept"]
) -> Float[Tensor, "batch heads kept dim"]:
    """(batch, heads, entries, dim) → those at `index` (batch, kept)."""
    _, heads, _, dim = states.shape
    return states.gather(2, index.to(states.device)[:, None, :, None].expand(-1, heads, -1, dim))


def turn(
    keys: Float[Tensor, "batch heads sinks dim"],
    rotation: tuple[Float[Tensor, "batch queries dim"], Float[Tensor, "batch queries dim"]],
) -> Float[Tensor, "batch heads copies dim"]:
    """Copies of keys (batch, heads, sinks, dim), one set a query: (…, queries·sinks, dim)."""
    cos, sin = (part.to(keys.device)[:, None, :, None] for part in rotation)
    return turned(keys[:, :, None], cos, sin).flatten(2, 3)
