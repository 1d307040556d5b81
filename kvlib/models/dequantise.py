"""A GGUF file → a folder that transformers loads: config, tokenizer and float32 weights.

Weights are written one tensor at a time. So the peak of memory is the largest tensor and what the
libraries need, whatever the size of the model; transformers' own way holds three copies of it all.
Names and layouts are undone by transformers' own tables, so the numbers are the same to the bit.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Set
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast
from transformers.modeling_gguf_pytorch_utils import (
    TENSOR_PROCESSORS,
    TensorProcessor,
    get_gguf_hf_weights_map,
    read_field,
)

from kvlib.models.files import WEIGHTS, quiet, some

CHUNK = 1 << 24  # numbers de-quantised at a time: the routine's scratch is a few times as large
Told = Callable[[int, int], None]  # told(bytes done, bytes in all)


def silent(_done: int, _all: int) -> None:
    """Tells nobody."""


def dequantise(
    file: Path, target: Path, mend_tokenizer: Callable[[Any], None], told: Told = silent
) -> None:
    """Write config, weights and tokenizer of a GGUF file into the new folder `target`.

    Raises ValueError where the file lacks a tensor of its architecture, has one more, or one of
    another shape.
    """
    target.mkdir()
    with quiet():
        config = AutoConfig.from_pretrained(file.parent, gguf_file=file.name)
        with torch.device("meta"):  # names and shapes alone
            empty = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        write_weights(file, empty, target / WEIGHTS, told)
        _save_config(empty, target)
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        mend_tokenizer(tokenizer)
        _save_tokenizer(tokenizer, target)


def _save_config(empty: Any, target: Path) -> None:
    """What `save_pretrained` writes beside the weights."""
    empty.config.architectures = [type(empty).__name__]
    empty.config.dtype = torch.float32
    empty.config.save_pretrained(target)
    empty.generation_config.save_pretrained(target)


def _save_tokenizer(tokenizer: Any, target: Path) -> None:
    """The plain fast class: the model-specific ones rebuild themselves slowly on every load."""
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer,
        bos_token=tokenizer.bos_token,
        eos_token=tokenizer.eos_token,
        unk_token=tokenizer.unk_token,
        pad_token=tokenizer.pad_token,
    ).save_pretrained(target)


# --- weights ------------------------------------------------------------------------------------


def write_weights(file: Path, empty: Any, path: Path, told: Told = silent) -> None:
    """Write the weights of a GGUF file as float32 safetensors, in the layout of `empty`.

    `empty` is the architecture without numbers (on the meta device). The bytes are those that
    `safetensors.torch.save_file` writes of the whole model.
    """
    shapes = {name: tuple(weight.shape) for name, weight in sorted(empty.named_parameters())}
    stored, processor = _tensors(gguf.GGUFReader(file), empty)
    _check_names(shapes.keys(), stored.keys(), empty.config.model_type)
    size, done = 4 * sum(map(math.prod, shapes.values())), 0
    with path.open("wb") as out:
        out.write(safetensors_header(shapes))
        for name, shape in shapes.items():
            done += out.write(_weights(stored[name], processor, name, shape))
            told(done, size)


def _tensors(reader: Any, empty: Any) -> tuple[dict[str, Any], TensorProcessor]:
    """The stored tensors by the names of `empty`, and what undoes the layout of the file."""
    (kind,) = read_field(reader, "general.architecture")
    processor = TENSOR_PROCESSORS.get(kind, TensorProcessor)(empty.config.to_dict())
    names = get_gguf_hf_weights_map(empty, processor)
    return {names.get(tensor.name, tensor.name): tensor for tensor in reader.tensors}, processor


def _check_names(asked: Set[str], stored: Set[str], kind: str) -> None:
    """Refuses a file that holds other tensors than those of its architecture."""
    for what, odd in (
        ("missing", sorted(asked - stored)),
        ("that its architecture does not have", sorted(stored - asked)),
    ):
        if odd:
            raise ValueError(f"expected the weights of a {kind}, got some {what}: {some(odd)}")


def _weights(
    tensor: Any, processor: TensorProcessor, name: str, shape: tuple[int, ...]
) -> memoryview:
    """The bytes of a weight: float32, little-endian, row by row."""
    weights = processor.process(weights=_numbers(tensor), name=tensor.name).weights
    if weights.shape != shape:
        raise ValueError(f"{name}: expected the shape {shape}, got {weights.shape}")
    return np.ascontiguousarray(weights, dtype="<f4").data


def _numbers(tensor: Any) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The numbers of a stored tensor, de-quantised some rows at a time."""
    numbers = np.empty([int(size) for size in reversed(tensor.shape)], dtype=np.float32)
    rows = max(1, CHUNK // math.prod(numbers.shape[1:]))
    for start in range(0, len(numbers), rows):
        part = tensor.data[start : start + rows]
        numbers[start : start + rows] = gguf.dequantize(part, tensor.tensor_type)
    return numbers


def safetensors_header(shapes: dict[str, tuple[int, ...]]) -> bytes:
    """The length of the header in 8 bytes, and the header: float32 tensors one after the other."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name, shape in shapes.items():
        end = start + 4 * math.prod(shape)
        entries[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}
        start = end
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # the numbers begin at a multiple of 8
    return len(header).to_bytes(8, "little") + header
