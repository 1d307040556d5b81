"""What the cache of a model holds, by the model's name: from its config, never its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING, AutoConfig

from kvlib.models.embedded import EMBEDDED, folder_of
from kvlib.models.files import quiet
from kvlib.models.load import TRAINED
from kvlib.plan.translate import Held, held_of, read_config
from kvlib.study.shapes import SHAPES

MOST_LAYERS = 10_000
SIZES = (
    *("num_hidden_layers", "hidden_size", "num_attention_heads", "num_key_value_heads"),
    *("head_dim", "max_position_embeddings"),
)


def held_of_model(name: str) -> Held | None:
    """What is held, for a name that `models.load_model` knows, a folder, or a `config.json`.

    A public model of the table of shapes needs no file at all. None where there is no config here,
    and for layers that are no attention; raises ValueError for a file that is no config.
    """
    place = _place(name)
    if place is not None:
        return held_of(completed(read_config(place)))
    known = next((shape for shape in SHAPES.values() if name in (shape.name, shape.hub)), None)
    if known is not None and not known.name.startswith("gemma"):  # some of whose layers slide
        group = ((2 * known.layers * known.kv_heads * known.head_dim, None),)
        return Held(group, group)
    try:
        return held_of(AutoConfig.from_pretrained(name, local_files_only=True).to_dict())
    except (OSError, ValueError):
        return None


def completed(config: dict[str, Any]) -> dict[str, Any]:
    """A `config.json` with the sizes that it leaves to its class of transformers, where that is
    known: Gemma 3 has heads of 256, whatever its width. No code of the model's is run."""
    inner = config.get("text_config")
    text = inner if isinstance(inner, dict) else config
    kind, layers = str(text.get("model_type")), text.get("num_hidden_layers", 1)
    if kind not in CONFIG_MAPPING or type(layers) is not int or not 0 < layers <= MOST_LAYERS:
        return config
    try:
        with quiet():
            known = CONFIG_MAPPING[kind].from_dict(dict(text)).to_dict()
    except Exception:  # a config of another version: what it says itself must do
        return config
    found = {key: known.get(key) for key in SIZES if text.get(key) is None}
    return {**config, **text, **{key: value for key, value in found.items() if value}}


def _place(name: str) -> Path | None:
    """Where the config of a model is on this machine."""
    if name in TRAINED:
        return TRAINED[name].folder
    places = [Path(name)] + ([folder_of(name)] if name in EMBEDDED else [])
    for place in places:
        file = place if place.suffix == ".json" else place / "config.json"
        if file.is_file():
            return file
    return None
