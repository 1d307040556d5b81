"""What the cache of a model holds, by the model's name: from its config, never its weights."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoConfig

from kvlib.models.embedded import EMBEDDED, folder_of
from kvlib.models.load import TRAINED
from kvlib.plan.translate import Held, held_of, read_config
from kvlib.study.shapes import SHAPES


def held_of_model(name: str) -> Held | None:
    """What is held, for a name that `models.load_model` knows, a folder, or a `config.json`.

    A public model of the table of shapes needs no file at all. None where there is no config here,
    and for layers that are no attention; raises ValueError for a file that is no config.
    """
    place = _place(name)
    if place is not None:
        return held_of(read_config(place))
    known = next((shape for shape in SHAPES.values() if name in (shape.name, shape.hub)), None)
    if known is not None and not known.name.startswith("gemma"):  # some of whose layers slide
        group = ((2 * known.layers * known.kv_heads * known.head_dim, None),)
        return Held(group, group)
    try:
        return held_of(AutoConfig.from_pretrained(name, local_files_only=True).to_dict())
    except (OSError, ValueError):
        return None


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
