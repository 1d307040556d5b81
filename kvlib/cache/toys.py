"""Toy models of many architectures: real classes of transformers, tiny, with random weights."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from kvlib.store import DATA

FILE = DATA / "architectures" / "toys.toml"


class Toy(NamedTuple):
    """An architecture as it is called, transformers' `model_type`, and all that it is made of.

    `nothing` are settings of its configuration that are None, which TOML cannot say.
    """

    name: str
    kind: str
    settings: dict[str, Any]
    nothing: tuple[str, ...] = ()


def toys(file: Path = FILE) -> list[Toy]:
    """Those that a file declares, in its order; ValueError for a name that comes twice."""
    declared = tomllib.loads(file.read_text(encoding="utf-8"))
    found = []
    for one in declared["architecture"]:
        settings = declared["sizes"] | one.get("settings", {})
        settings = {key: settings[key] for key in settings if key not in one.get("without", ())}
        found.append(Toy(one["name"], one["kind"], settings, tuple(one.get("nothing", ()))))
    names = [toy.name for toy in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{file}: expected names that are told apart, got {twice[0]!r} again")
    return found


def is_here(toy: Toy) -> bool:
    """Whether the installed transformers has this architecture."""
    return toy.kind in CONFIG_MAPPING


def made(toy: Toy) -> Any:
    """The model, in float32, the same in every process."""
    config = CONFIG_MAPPING[toy.kind](**toy.settings)
    for name in toy.nothing:
        setattr(config, name, None)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
    return model.eval().requires_grad_(False)
