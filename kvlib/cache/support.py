"""Which models a bounded cache can serve: the others are refused by name, with the reason."""

from __future__ import annotations

import hashlib
import operator
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from kvlib.cache.layers import turn
from kvlib.models import masks
from kvlib.models.rotary import turns


def plain(model: Any) -> Any:
    """The model itself, where `torch.compile` stands around it."""
    return getattr(model, "_orig_mod", model)


def whole_number(name: str, value: Any) -> int:
    """`value` as an int; refuses 8.5, NaN, inf, True."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise ValueError(f"{name}: expected a whole number, got {value!r}")
    return int(operator.index(value))


def check_kernel(model: Any) -> None:
    """Refuses attention that takes no mask for each query; it may be switched at any time."""
    if (kind := model.config._attn_implementation) not in ("sdpa", "eager"):
        raise ValueError(
            f"{type(model).__name__}: expected attention by sdpa or eager, got {kind}; "
            "not supported"
        )


def fingerprint(model: Any) -> str:
    """SHA-256 over what makes a model's keys: settings of its positions, and of each weight the
    name, shape and first numbers."""
    config, digest = model.config.get_text_config(), hashlib.sha256()
    for name in ("model_type", "rope_parameters", "layer_types", "sliding_window"):
        digest.update(f"{name}={getattr(config, name, None)}".encode())
    for name, weight in model.base_model.named_parameters():
        first = weight.detach().flatten()[:8].double().cpu().tolist()
        digest.update(f"{name}{tuple(weight.shape)}{weight.dtype}{first}".encode())
    return digest.hexdigest()


def check_state(state: Any, model: Any, names: tuple[str, ...]) -> None:
    """Refuses what no cache gave by `state()`, and a state of another model."""
    parts = {"settings", "model", "keys", "values", *names}
    if not isinstance(state, dict) or set(state) != parts:
        got = ", ".join(sorted(map(str, state))) if isinstance(state, dict) else type(state)
        raise ValueError(f"state: expected {', '.join(sorted(parts))}, got {got}")
    if state["model"] != fingerprint(model):
        raise ValueError(
            f"state: expected one of a cache for this {type(model).__name__}, got another model's"
        )
    held, keys, values = state["held"], state["keys"], state["values"]
    rows = (0, 0) if held is None else tuple(held.shape)
    layers = 0 if held is None else len(masks.attention_modules(model))
    shapes = [(part.shape[0], part.shape[2]) for part in [*keys, *values]]
    if shapes != [rows] * 2 * layers:
        raise ValueError(
            f"state: expected keys and values of {layers} layers with (rows, entries) {rows}, "
            f"got {shapes[:2]}"
        )


def check_model(model: Any, positions: str) -> None:
    """Refuses by name what masks or positions cannot be had for."""
    name = type(model).__name__
    if not (hasattr(model, "base_model") and hasattr(model, "config")):
        raise ValueError(f"model: expected a transformers model, got {name}")
    if getattr(model.config, "is_encoder_decoder", False):
        raise ValueError(f"{name}: expected a decoder, got an encoder and a decoder; not supported")
    masks.sliding_windows(model)
    theirs = {type(layer) for layer in DynamicCache(config=model.config).layers}
    if other := theirs - {DynamicLayer, DynamicSlidingWindowLayer}:
        got = ", ".join(sorted(kind.__name__ for kind in other))
        raise ValueError(
            f"{name}: expected a cache of plain keys and values, got {got}; not supported"
        )
    check_kernel(model)
    if positions == "cache" and not _keys_turn(model):
        raise ValueError(
            f"{name}: expected plain rotary positions over whole heads in every layer for "
            "positions='cache', got others; not supported"
        )


@torch.no_grad()
def _keys_turn(model: Any, tolerance: float = 0.1) -> bool:
    """Tried out: are the keys of a text that stands elsewhere the same keys, turned?

    What does not turn, or another way, is off by about 1; bfloat16 by a few hundredths.
    """
    rotary = getattr(model.base_model, "rotary_emb", None)
    kinds = getattr(rotary, "rope_type", None)
    kinds = set(kinds.values()) if isinstance(kinds, dict) else {kinds}
    if kinds & {None, "dynamic", "longrope"}:  # the last two turn otherwise in longer texts
        return False
    shift = min(1000, model.config.max_position_embeddings // 2)
    ids = torch.arange(1, 5, device=model.device)[None]
    here, there = DynamicCache(), DynamicCache()
    for cache, first in ((here, 0), (there, shift)):
        place = torch.arange(first, first + 4, device=model.device)[None]
        model.base_model(ids, position_ids=place, past_key_values=cache, use_cache=True)
    for k, (old, new) in enumerate(zip(here.layers, there.layers, strict=True)):
        cos, sin = turns(model, k, torch.full_like(ids[:, :1], shift))
        if cos.shape[-1] != old.keys.shape[-1]:
            return False
        error = turn(old.keys, (cos, sin)) - new.keys
        if not error.norm() < tolerance * new.keys.norm():
            return False
    return True
