"""The small GPT-2 for a reader's browser: weights on few levels, and the scripts that carry them.

A matrix becomes whole numbers times one step a row of outputs (embeddings: a step a token, and a
step a position). Few levels take few bits: deflate's Huffman codes reach their entropy. A page
cannot fetch files when it was opened as one, so the bytes travel as base64 in scripts. What the
coarser weights change is measured on the page that uses them; `load` gives Python the same ones.
"""

from __future__ import annotations

import base64
import json
import zlib
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file

from kvlib.models.load import LanguageModel, load_model
from kvlib.models.small_gpt2 import FOLDER, NAME

MOST = 127  # the largest level
TOKENS, POSITIONS = "transformer.wte.weight", "transformer.wpe.weight"
STEPS = {TOKENS: 0.18, POSITIONS: 0.4}  # of a row's standard deviation
STEP = 0.21  # for all other matrices
PIECES = 8  # scripts, so that loading has a progress


class Levels(NamedTuple):
    """A matrix on few levels: `levels` (rows, columns) times `steps` (rows, 1)."""

    levels: np.ndarray  # int8
    steps: np.ndarray  # float32, each of them a bfloat16

    def matrix(self) -> np.ndarray:
        """What the page computes with: (rows, columns) in float32."""
        return self.levels.astype(np.float32) * self.steps


def half(values: np.ndarray) -> np.ndarray:
    """The upper halves of float32 numbers, rounded to nearest: bfloat16 as uint16."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def whole(halves: np.ndarray) -> np.ndarray:
    """bfloat16 as float32: what `half` kept."""
    return (halves.astype(np.uint32) << 16).view(np.float32)


def on_levels(matrix: np.ndarray, step: float) -> Levels:
    """A matrix on levels of `step` standard deviations of each row; steps are bfloat16."""
    steps = whole(half(step * matrix.std(axis=1, keepdims=True)))
    levels = np.clip(np.round(matrix / steps), -MOST, MOST).astype(np.int8)
    return Levels(levels, steps)


def quantised(folder: Path = FOLDER) -> dict[str, Levels | np.ndarray]:
    """Each tensor of the model by its name: matrices on levels, vectors as they are stored.

    Rows are outputs, tokens or positions. GPT-2 stores its linear layers (inputs, outputs).
    """
    tensors = load_file(folder / "model.safetensors")
    found: dict[str, Levels | np.ndarray] = {}
    for name, tensor in sorted(tensors.items()):
        values = tensor.float().numpy()
        if values.ndim == 1:
            found[name] = values
        else:
            rows = values if name in STEPS else values.T
            found[name] = on_levels(rows, STEPS.get(name, STEP))
    return found


def load(dtype: str = "float32") -> LanguageModel:
    """The small GPT-2 with the weights that the page has."""
    lm = load_model(NAME, dtype=dtype)
    state = {}
    for name, part in quantised().items():
        values = part.matrix() if isinstance(part, Levels) else part
        turned = values.T if isinstance(part, Levels) and name not in STEPS else values
        state[name] = torch.from_numpy(np.ascontiguousarray(turned))
    missing = lm.model.load_state_dict(state, strict=False)
    tied = {"lm_head.weight"}  # the tokens' embedding once more
    if set(missing.missing_keys) - tied or missing.unexpected_keys:
        raise ValueError(f"{NAME}: expected the model's tensors, got {sorted(state)}")
    return replace(lm, description=f"{lm.description}; weights on few levels, as in the page")


def scripts(folder: Path = FOLDER) -> dict[str, str]:
    """The scripts that bring the model to a page, by their file names.

    The first tells shape, merges of the tokenizer and the order of the tensors. The others hand
    over pieces of the bytes: all levels in that order, then all steps and vectors as bfloat16.
    """
    tensors = quantised(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    levels, halves, order = [], [], []
    for name, part in tensors.items():
        if isinstance(part, Levels):
            levels.append(part.levels.tobytes())
            halves.append(half(part.steps).tobytes())
            order.append([name.removeprefix("transformer."), *part.levels.shape])
        else:
            halves.append(half(part).tobytes())
            order.append([name.removeprefix("transformer."), len(part)])
    raw = b"".join(levels + halves)
    length = -(-len(raw) // PIECES)
    about = {
        "layers": config["n_layer"],
        "heads": config["n_head"],
        "width": config["n_embd"],
        "positions": config["n_positions"],
        "epsilon": config["layer_norm_epsilon"],
        "merges": "\n".join(" ".join(pair) for pair in tokenizer["merges"]),
        "tensors": order,
        "bytes": len(raw),
        "piece": length,
        "pieces": PIECES,
    }
    files = {"about.js": f"kvTry.about = {json.dumps(about, ensure_ascii=False)};\n"}
    for k in range(PIECES):
        text = base64.b64encode(deflated(raw[k * length : (k + 1) * length])).decode()
        files[f"piece-{k}.js"] = f'kvTry.take({k}, "{text}");\n'
    return files


def deflated(raw: bytes) -> bytes:
    """Raw deflate by Huffman codes alone: levels do not repeat, but some are frequent."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS, 9, zlib.Z_HUFFMAN_ONLY)
    return packer.compress(raw) + packer.flush()
