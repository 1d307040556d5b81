"""What a page must know of a model that it never loads: manifests carry it."""

from __future__ import annotations

from typing import Any

from kvlib.models.embedded import EMBEDDED
from kvlib.models.load import TRAINED, LanguageModel, cache_cost


def about(lm: LanguageModel) -> dict[str, Any]:
    """Description, licence, family, number of parameters, and bytes that a token of its cache costs
    at 16 bits: of layers that see everything (`full`), and of those that see `local` tokens. Of a
    model of the Hub also its revision."""
    said = {"revision": lm.revision} if lm.revision else {}
    return said | {
        "description": lm.description,
        "licence": licence(lm.name),
        "family": lm.model.config.model_type,
        "parameters": sum(weight.numel() for weight in lm.model.parameters()),
        "cache_bytes": cache_cost(lm.model.config.get_text_config())._asdict(),
    }


def licence(name: str) -> str:
    """The terms of a known model; of others nothing is known here."""
    if name in EMBEDDED:
        return EMBEDDED[name].licence
    return "MIT" if name in TRAINED else ""
