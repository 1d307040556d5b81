"""Attention masks for transformers: the forms that its models take, for all layers or for each.

A model takes one bool mask (batch, 1 or heads, queries, entries) for all layers, or, where some
layers slide, one for each kind of layer. Where every layer or KV head has a mask of its own, a
forward pre-hook on each attention module puts it in place. Nothing in transformers is patched.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

# of a layer's attention: Llama's, GPT-2's, GPT-NeoX's, Falcon's
NAMES = ("self_attn", "attn", "attention", "self_attention")
ALIBI = ("bloom", "mpt")  # always; Falcon by its config


def body(model: Any) -> torch.nn.Module:
    """What runs the layers: the model's base, or OPT's decoder inside it, which its head calls."""
    return getattr(model.base_model, "decoder", model.base_model)


def attention_modules(model: Any) -> list[torch.nn.Module]:
    """The attention module of each layer, in order; refuses an architecture without plain ones."""
    if model.config.model_type in ALIBI or getattr(model.config, "alibi", False):
        raise ValueError(
            f"{type(model).__name__}: expected positions that do not hang on the cache, got ALiBi, "
            "which counts its entries; not supported"
        )
    inner = body(model)
    layers = getattr(inner, "layers", None) or getattr(inner, "h", None) or ()
    parts = [[getattr(layer, name, None) for name in NAMES] for layer in layers]
    modules = [part for found in parts if (part := next(filter(None, found), None)) is not None]
    if any(isinstance(part, torch.nn.ModuleList) for part in modules):
        raise ValueError(
            f"{type(model).__name__}: expected one attention a layer, got several; its caches are "
            "not supported"
        )
    if not modules or len(modules) < len(parts):
        raise ValueError(
            f"{type(model).__name__}: expected a decoder whose every layer attends "
            f"through {', '.join(NAMES)}; its caches are not supported"
        )
    return modules


def sliding_windows(model: Any) -> list[int]:
    """For each layer its own window in tokens, or 0 where it sees everything."""
    config, n = model.config, len(attention_modules(model))
    kinds = getattr(config, "layer_types", None)
    window = getattr(config, "sliding_window", None) or 0
    if kinds is None:
        kinds = ["sliding_attention" if window else "full_attention"] * n
    if unknown := set(kinds) - {"full_attention", "sliding_attention"}:
        raise ValueError(
            f"{type(model).__name__}: expected layers of full or sliding attention, "
            f"got {', '.join(sorted(unknown))}; not supported"
        )
    if window and not (hasattr(config, "layer_types") or _all_slide(model)):
        raise ValueError(
            f"{type(model).__name__}: expected sliding layers listed in "
            "layer_types, got none; not supported"
        )
    if "local" in (getattr(config, "attention_layers", None) or ()):  # GPT-Neo's, by cache order
        raise ValueError(
            f"{type(model).__name__}: expected layers that follow positions, got local attention "
            "by order in the cache; not supported"
        )
    return [window if kind == "sliding_attention" else 0 for kind in kinds]


def _all_slide(model: Any) -> bool:
    """Whether a model without `layer_types` applies its window, to all layers (Mistral, Phi-3)."""
    source = sys.modules[type(model.base_model).__module__]
    return hasattr(source, "create_sliding_window_causal_mask")


@contextmanager
def layer_masks(model: Any, mask: Callable[[int], torch.Tensor]) -> Iterator[None]:
    """Within it, layer k attends where `mask(k)` (1 or kv_heads, queries, entries) is True."""
    hooks = []

    def put(k: int) -> Callable:
        def before(module: torch.nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple:
            seen = mask(k)
            heads = model.config.num_attention_heads
            if len(seen) > 1:
                seen = seen.repeat_interleave(heads // len(seen), dim=0)
            return args, kwargs | {"attention_mask": as_mask(model, seen[None])}

        return before

    try:
        for k, module in enumerate(attention_modules(model)):
            hooks.append(module.register_forward_pre_hook(put(k), with_kwargs=True))
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def eager(model: Any) -> Iterator[None]:
    """Within it the model computes its attention weights openly, so that they can be read."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def masks_for(
    model: Any, seen: torch.Tensor, age: torch.Tensor, windows: list[int] | None = None
) -> Any:
    """One bool mask (batch, 1, queries, entries) in the form the model wants.

    `age` (…, queries, entries) is the query's position less the entry's: where the model slides, an
    entry whose age has reached the window is hidden as well. `windows`: its `sliding_windows`, from
    who asks at every token.
    """
    windows = sliding_windows(model) if windows is None else windows
    if not any(windows):
        return as_mask(model, seen)
    sliding = as_mask(model, seen & (age < max(windows)))
    if not hasattr(model.config, "layer_types"):
        return sliding
    return {"full_attention": as_mask(model, seen), "sliding_attention": sliding}


def near(queries: torch.Tensor, entries: int, window: int) -> torch.Tensor:
    """(queries, entries) bool: what a layer with a window of its own (0: none) sees at all."""
    age = queries[:, None] - torch.arange(entries, device=queries.device)
    return age < window if window else torch.ones_like(age, dtype=torch.bool)


def placeholder(model: Any, queries: int, entries: int) -> Any:
    """A mask in the form the model wants, to be replaced in every layer."""
    mask = torch.ones(1, 1, queries, entries, dtype=torch.bool, device=model.device)
    by_kind = hasattr(model.config, "layer_types") and any(sliding_windows(model))
    return {"full_attention": mask, "sliding_attention": mask} if by_kind else mask


def as_mask(model: Any, seen: torch.Tensor) -> torch.Tensor:
    """Bool for sdpa; for eager attention 0 where seen and the smallest number elsewhere."""
    if model.config._attn_implementation != "eager":
        return seen
    low = torch.finfo(model.dtype).min
    return torch.zeros(seen.shape, dtype=model.dtype, device=seen.device).masked_fill_(~seen, low)


def check_masks(model: Any) -> None:
    """Refuses a model that does not do what a mask says: a causal one must change nothing. One that
    is spread over cards is refused too: masks of layers and heads stay on the first."""
    if len(set(getattr(model, "hf_device_map", {}).values())) > 1:
        raise ValueError(
            f"{type(model).__name__}: expected a model on one device for cache policies, got one "
            "spread over cards"
        )
    ids = torch.arange(1, 9, device=model.device)[None]
    age = ids[0][:, None] - ids[0]
    causal = age >= 0

    def states(seen: torch.Tensor | None) -> torch.Tensor:
        given = {}
        if seen is not None:
            given["attention_mask"] = masks_for(model, seen[None, None], age)
            given["position_ids"] = torch.arange(8, device=model.device)[None]
        return model.base_model(ids, use_cache=False, **given).last_hidden_state

    try:
        with torch.inference_mode():
            plain, masked, narrow = states(None), states(causal), states(causal & (age < 2))
        follows = torch.allclose(plain, masked, rtol=1e-3, atol=1e-3)
        follows = follows and not torch.equal(masked, narrow)
    except (RuntimeError, TypeError):  # it takes no such argument, or no mask of this shape
        follows = False
    if not follows:
        raise ValueError(
            f"{type(model).__name__}: expected an architecture that follows a 4D "
            "attention mask, got another; not supported"
        )
