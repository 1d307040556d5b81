"""Which ids a cache has read: a running hash of each row, to be compared with what a caller gives.

Each token adds a number mixed from its id and position, so that padding adds nothing, rows may
stand in any order, and a text may come in pieces of any size.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor

FACTORS = (-7046029254386353131, -4658895280553007687)  # odd: those of splitmix64


def mixed(
    ids: Int[Tensor, "batch tokens"], place: Int[Tensor, "batch tokens"]
) -> Int[Tensor, "batch tokens"]:
    """mix(id, place) of each token, to be added modulo 2⁶⁴; 0 for padding, which is at place -1."""
    bits = ids.long() + (place + 1) * 2**32
    for factor in FACTORS:
        bits = (bits ^ (bits >> 29)) * factor
    return (bits ^ (bits >> 32)) * (place >= 0)


def places(real: Bool[Tensor, "batch tokens"]) -> Int[Tensor, "batch tokens"]:
    """Each token's position in its row, behind the padding before it; -1 for padding."""
    return torch.where(real, real.long().cumsum(1) - 1, -1)
