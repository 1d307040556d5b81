"""How much goes into one forward: chosen for the device, halved where its memory runs out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from kvlib.models.load import LanguageModel

MOST_TOKENS = 32_768  # of one forward on a card: more gain nothing on the largest there are
SHARE = 4  # of a card's free memory, one part in so many is for the states of a forward


def tokens_at_once(lm: LanguageModel, on_cpu: int) -> int:
    """Tokens of a forward without a cache: `on_cpu` there; on a card a power of two, not fewer,
    whose states fill a part of its free memory."""
    if lm.device.type != "cuda":
        return on_cpu
    free, _ = torch.cuda.mem_get_info(lm.device)
    return max(on_cpu, tokens_for(lm.model.config.get_text_config(), lm.dtype.itemsize, free))


def tokens_for(config: Any, itemsize: int, free: int) -> int:
    """Tokens for so many bytes of free memory: a token's widest moment is in a layer's MLP."""
    wide = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    each = itemsize * (4 * wide + 8 * config.hidden_size)
    fit = max(1, free // SHARE // each)
    return min(MOST_TOKENS, 2 ** (fit.bit_length() - 1))


def in_batches(lm: LanguageModel, run: Callable[[Any], Any], items: Any, size: int) -> list:
    """`run` of the items (a list, array or tensor), `size` at a time, in order.

    Where the device is out of memory, the part is tried again in halves, and so is what comes
    after. Raises OSError, in one line, where even one item has no room.
    """
    found, begin = [], 0
    while begin < len(items):
        part = items[begin : begin + size]
        try:
            found.append(run(part))
            begin += len(part)
            continue
        except torch.OutOfMemoryError:
            pass  # what the error holds is free only after this block
        if len(part) == 1:
            raise OSError(
                f"{lm.name}: expected room on {lm.device} for a single text, got out of memory; "
                "another --dtype or shorter texts take less"
            )
        size = len(part) // 2
        if lm.device.type == "cuda":
            torch.cuda.empty_cache()
    return found
