"""Causal language models, ready to be measured: load them, know what their caches cost.

`masks`, `rotary` and `small_gpt2` are modules of their own: attention masks, rotary positions, and
the training of the project's own small model.
"""

from kvlib.models.about import about
from kvlib.models.embedded import (
    CONVERSION,
    EMBEDDED,
    INSTALLED,
    ON_DEMAND,
    EmbeddedModel,
    cache_folder,
    converted,
    make,
)
from kvlib.models.load import (
    TRAINED,
    CacheCost,
    LanguageModel,
    OneDnnLinear,
    cache_bytes,
    cache_cost,
    load_model,
)
from kvlib.models.positions import check_length

__all__ = [
    "CONVERSION",
    "EMBEDDED",
    "INSTALLED",
    "ON_DEMAND",
    "TRAINED",
    "CacheCost",
    "EmbeddedModel",
    "LanguageModel",
    "OneDnnLinear",
    "about",
    "cache_bytes",
    "cache_cost",
    "cache_folder",
    "check_length",
    "converted",
    "load_model",
    "make",
]
