"""A model larger than one card: its layers over several, everything else on the first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

ROOM = 0.7  # of a card's free memory is for weights; the rest for states and laws


def needed(bytes_of_weights: int) -> bool:
    """Whether weights fit on no single card here, while there are several."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return count > 1 and bytes_of_weights > ROOM * torch.cuda.mem_get_info(0)[0]


def free() -> list[int]:
    """Bytes that are free on each card; ValueError where there is none."""
    if not torch.cuda.is_available():
        raise ValueError("device: expected CUDA cards to spread a model over, got none")
    return [torch.cuda.mem_get_info(k)[0] for k in range(torch.cuda.device_count())]


def spread(model: Any, free: Sequence[int]) -> dict[str, int]:
    """Part of the model → number of a card with so many free bytes.

    Layers go in order, each card filled before the next; embeddings, last norm and head stay on the
    first, so that laws are made and reduced on one card. OSError where there is too little in all.
    """
    body = model.base_model
    places: dict[str, int] = {}
    layers, listed = next(
        (name, child)
        for name, child in body.named_children()
        if isinstance(child, torch.nn.ModuleList)
    )
    room = [ROOM * one for one in free]
    inner = {f"{model.base_model_prefix}.{n}": c for n, c in body.named_children() if n != layers}
    outer = {n: c for n, c in model.named_children() if n != model.base_model_prefix}
    held = {id(w): w.nbytes for part in (inner | outer).values() for w in part.parameters()}
    room[0] -= sum(held.values())  # tied weights are counted once
    places |= dict.fromkeys([*inner, *outer], 0)
    card = 0
    for k, layer in enumerate(listed):
        size = sum(weight.nbytes for weight in layer.parameters())
        while card < len(room) and room[card] < size:
            card += 1
        if card == len(room):
            total = sum(weight.nbytes for weight in model.parameters())
            raise OSError(
                f"expected room for {total / 1e9:.1f} GB of weights and for states on the cards, "
                f"got {sum(free) / 1e9:.1f} GB free on {len(free)}; bfloat16 takes less"
            )
        room[card] -= size
        places[f"{model.base_model_prefix}.{layers}.{k}"] = card
    return places


def placed(model: Any, places: dict[str, Any]) -> Any:
    """The model with its parts where `spread` says; states are handed from card to card."""
    try:
        from accelerate import dispatch_model
    except ImportError:
        raise ValueError(
            "device: expected the package accelerate, for a model over several cards, got none: "
            "pip install accelerate"
        ) from None
    return dispatch_model(model, device_map=places, main_device=next(iter(places.values())))
