"""The files of a model's folder: which are read, that they are harmless, and the hash of them all.

What is hashed is what is read: regular files below the folder, weights as safetensors only. Nothing
is unpickled. Loading and converting share the small parts at the end.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers.utils import logging as transformers_logging

from kvlib.store import check_regular, sha256

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
READ = {".json", ".model", ".txt", ".bpe", ".vocab", ".tiktoken", ".jinja"}  # beside the weights
MOST_GROWTH = 100  # times that a tokenizer may lengthen a text before it cuts it into tokens
MOST_LABELS = 1_000_000  # transformers makes a dictionary of so many before anything is checked


class ModelFiles(NamedTuple):
    """What is read of a folder: weights, and all that may shape config or tokenizer."""

    folder: Path
    weights: tuple[Path, ...]
    others: tuple[Path, ...]

    def weights_sha256(self) -> str:
        """One hash for all weight files, in name order; that of the file where there is one."""
        hashes = [sha256(path) for path in self.weights]
        if len(hashes) == 1:
            return hashes[0]
        return hashlib.sha256("".join(hashes).encode()).hexdigest()

    def model_sha256(self) -> str:
        """The model's identity: one hash over weights, config and tokenizer files."""
        files = sorted((*self.weights, *self.others))
        lines = [f"{path.relative_to(self.folder).as_posix()} {sha256(path)}\n" for path in files]
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def numbers(self) -> int:
        """How many numbers the weights are, by the heads of their files."""
        total = 0
        for path in self.weights:
            with safe_open(path, framework="pt") as file:
                total += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())
        return total

    def tensors(self) -> dict[str, torch.Tensor]:
        """All weights by their names."""
        found: dict[str, torch.Tensor] = {}
        for path in self.weights:
            part = load_file(path)
            if twice := sorted(found.keys() & part.keys()):
                raise ValueError(f"{path}: expected each tensor once, got {some(twice)} twice")
            found |= part
        return found


def files_of(folder: Path) -> ModelFiles:
    """The files that loading a folder reads; raises OSError or ValueError where one is refused.

    Refused are links that lead out of the folder (those of the Hub's own cache may), pipes and
    devices, indices that lead elsewhere or to anything but safetensors, adapters, and a config
    that names other files or leaves its architecture to be guessed.
    """
    if (folder / "adapter_config.json").exists():
        raise ValueError("expected a whole model, got an adapter for one (adapter_config.json)")
    others = [
        path for path in sorted(folder.iterdir()) if path.suffix in READ and not path.is_dir()
    ]
    for path in others:
        _check_place(path, folder)
    _check_config(folder)
    _check_normalizer(folder)
    weights = _weights(folder)
    for path in weights:
        _check_place(path, folder)
    return ModelFiles(folder, tuple(weights), tuple(others))


def _weights(folder: Path) -> list[Path]:
    """The weight files: one, or those of the index."""
    if (folder / WEIGHTS).exists():
        return [folder / WEIGHTS]
    if not (folder / INDEX).exists():
        raise OSError(f"expected weights as *.safetensors ({WEIGHTS}, or an index), found none")
    places = read_json(folder / INDEX).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise ValueError(f"{folder / INDEX}: expected a weight_map, got none")
    names = set(map(str, places.values()))
    for name in names:
        if Path(name).suffix != ".safetensors":
            raise ValueError(f"{folder / INDEX}: expected *.safetensors, got {name!r}")
    return sorted(folder / name for name in names)


def _check_place(path: Path, folder: Path) -> None:
    """Refuses what is no regular file below the folder."""
    home = folder.resolve()
    homes = [home]
    if home.parent.name == "snapshots":  # the Hub's cache: links to its blobs
        homes.append(home.parents[1] / "blobs")
    if not any(path.resolve().is_relative_to(place) for place in homes):
        raise ValueError(f"{path}: expected a file below {folder}, got one elsewhere")
    check_regular(path)


def _check_config(folder: Path) -> None:
    """Refuses a config that leads to other files, or that leaves its architecture to guesses."""
    config = read_json(folder / "config.json")
    if not isinstance(config.get("model_type"), str):
        raise ValueError(f"{folder / 'config.json'}: expected a model_type, got none")
    labels = config.get("num_labels")
    if isinstance(labels, int | float) and labels > MOST_LABELS:
        raise ValueError(f"num_labels: expected at most {MOST_LABELS}, got {labels}")
    for name in ("config.json", "tokenizer_config.json"):
        if not (folder / name).exists():
            continue
        for key, value in read_json(folder / name).items():
            if key.endswith(("_file", "_files")) or key == "transformers_weights":
                for other in value if isinstance(value, list) else [value]:
                    if isinstance(other, str) and (folder / other).exists():
                        _check_place(folder / other, folder)


def _check_normalizer(folder: Path) -> None:
    """Refuses a tokenizer whose rules blow a text up: one call would fill the memory."""
    if not (folder / "tokenizer.json").exists():
        return
    times = _growth(read_json(folder / "tokenizer.json").get("normalizer"))
    if times > MOST_GROWTH:
        raise ValueError(
            f"{folder / 'tokenizer.json'}: expected a normalizer that lengthens a text at most "
            f"{MOST_GROWTH} times, got {times:.3g} times"
        )


def _growth(normalizer: Any) -> float:
    """How much longer a text may get: a rule that replaces can do so at each character, or, by a
    regular expression, between them too; rules one after the other multiply."""
    if not isinstance(normalizer, dict):
        return 1.0
    if isinstance(rules := normalizer.get("normalizers"), list):
        return math.prod(map(_growth, rules))
    content, pattern = normalizer.get("content"), normalizer.get("pattern")
    if not isinstance(content, str):
        return 1.0
    fixed = pattern.get("String") if isinstance(pattern, dict) else pattern
    return max(
        1.0, len(content) / len(fixed) if fixed and isinstance(fixed, str) else 1 + len(content)
    )


# --- small parts --------------------------------------------------------------------------------


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; raises ValueError with one line for anything else."""
    check_regular(path)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8, absurdly nested
        raise ValueError(f"{path}: expected JSON, got damage ({first_line(error)})") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(found).__name__}")
    return found


def first_line(error: Exception) -> str:
    """What an error says first, or its class where it says nothing."""
    lines = (str(error).strip() or type(error).__name__).splitlines()
    return " ".join(line.strip() for line in lines[: 1 + lines[0].endswith(":")])


def some(names: list[str], most: int = 3) -> str:
    """The first names of a list, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if names[most:] else "")


class quiet:
    """Silence the loaders' progress bars and warnings for the length of a `with` block."""

    def __enter__(self) -> None:
        self._verbosity = transformers_logging.get_verbosity()
        transformers_logging.set_verbosity(logging.CRITICAL)
        transformers_logging.disable_progress_bar()
        self._warnings = warnings.catch_warnings()
        self._warnings.__enter__()
        warnings.simplefilter("ignore")

    def __exit__(self, *_exc: object) -> None:
        self._warnings.__exit__(None, None, None)
        transformers_logging.enable_progress_bar()
        transformers_logging.set_verbosity(self._verbosity)
