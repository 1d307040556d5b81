"""De-quantising one tensor at a time: the same numbers, to the bit, as by transformers itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from models import toys
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from kvlib.models import EMBEDDED, load_model
from kvlib.models import dequantise as streamed
from kvlib.models.dequantise import dequantise, safetensors_header
from kvlib.models.files import WEIGHTS, quiet
from kvlib.store import sha256

KINDS = [("qwen2", True), ("qwen2", False), ("llama", True), ("llama", False), ("gemma3", False)]


def plain(file: Path) -> torch.nn.Module:
    """The model as transformers reads it, all of it at once."""
    with quiet():
        return AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, dtype=torch.float32
        )


def same_bits(found: dict[str, torch.Tensor], model: torch.nn.Module) -> None:
    expected = dict(model.named_parameters())
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        assert found[name].dtype == weight.dtype == torch.float32
        assert torch.equal(found[name].view(torch.int32), weight.detach().view(torch.int32)), name


@pytest.mark.parametrize(("architecture", "own_head"), KINDS)
def test_tensor_by_tensor_is_what_transformers_reads_at_once(tmp_path, architecture, own_head):
    file = toys.write(tmp_path / "toy.gguf", architecture, own_head)
    dequantise(file, tmp_path / "toy", lambda tokenizer: None)
    model = plain(file)
    same_bits(load_file(tmp_path / "toy" / WEIGHTS), model)
    lm, ids = load_model(str(tmp_path / "toy"), device="cpu"), torch.arange(40)[None]
    with torch.inference_mode():
        found, expected = lm.model(ids).logits, model(ids).logits
    assert float((found - expected).norm() / expected.norm()) < 1e-5
    assert lm.tokenizer("ab 1")["input_ids"] == lm.tokenizer("xab 1")["input_ids"][1:]


def test_a_qwen_has_biases_and_the_head_of_its_file(tmp_path):
    for own_head in (True, False):
        file = toys.write(tmp_path / f"{own_head}.gguf", "qwen2", own_head)
        dequantise(file, tmp_path / str(own_head), lambda tokenizer: None)
        model = load_model(str(tmp_path / str(own_head)), device="cpu").model
        attention = model.model.layers[0].self_attn
        assert attention.q_proj.bias.shape == (toys.HEADS * toys.HEAD,)
        assert attention.k_proj.weight.shape == (toys.KV_HEADS * toys.HEAD, toys.HIDDEN)
        head, embedding = model.lm_head.weight, model.model.embed_tokens.weight
        assert (head.data_ptr() != embedding.data_ptr()) == own_head
        stored = {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}
        tensor = stored["output.weight" if own_head else "token_embd.weight"]
        numbers = gguf.dequantize(tensor.data, tensor.tensor_type)
        assert np.array_equal(head.numpy(), numbers)


def test_the_file_is_the_one_that_safetensors_writes(tmp_path):
    file = toys.write(tmp_path / "toy.gguf", "qwen2", True)
    dequantise(file, tmp_path / "toy", lambda tokenizer: None)
    weights = {name: weight.detach() for name, weight in plain(file).named_parameters()}
    save_file(weights, tmp_path / "plain.safetensors", metadata={"format": "pt"})
    assert sha256(tmp_path / "toy" / WEIGHTS) == sha256(tmp_path / "plain.safetensors")


def test_a_few_rows_at_a_time_are_all_rows(tmp_path, monkeypatch):
    file = toys.write(tmp_path / "toy.gguf", "llama", True)
    dequantise(file, tmp_path / "whole", lambda tokenizer: None)
    monkeypatch.setattr(streamed, "CHUNK", 5 * toys.HIDDEN)  # 5 rows of 259; 3 of 96 columns
    dequantise(file, tmp_path / "rows", lambda tokenizer: None)
    assert sha256(tmp_path / "whole" / WEIGHTS) == sha256(tmp_path / "rows" / WEIGHTS)


def test_progress_ends_with_all_bytes(tmp_path):
    told: list[tuple[int, int]] = []
    file = toys.write(tmp_path / "toy.gguf", "qwen2", True)
    dequantise(file, tmp_path / "toy", lambda _: None, lambda *heard: told.append(heard))
    sizes = {size for _, size in told}
    written = [done for done, _ in told]
    assert written == sorted(written) and sizes == {written[-1]}
    header = safetensors_header(
        {name: tuple(w.shape) for name, w in load_file(tmp_path / "toy" / WEIGHTS).items()}
    )
    assert (tmp_path / "toy" / WEIGHTS).stat().st_size == written[-1] + len(header)


# --- what is not the whole model ------------------------------------------------------------------


@pytest.mark.parametrize("left", ["blk.1.attn_q.bias", "blk.0.ffn_up.weight", "output_norm.weight"])
def test_a_tensor_that_is_missing_is_named(tmp_path, left):
    file = toys.write(tmp_path / "toy.gguf", "qwen2", True, leave_out=left)
    with pytest.raises(ValueError, match=r"expected the weights of a qwen2, got some missing: \S+"):
        dequantise(file, tmp_path / "toy", lambda tokenizer: None)


def test_a_tensor_too_many_is_named(tmp_path):
    more = {"blk.0.attn_sinks.weight": np.zeros(toys.HEADS, np.float32)}
    file = toys.write(tmp_path / "toy.gguf", "qwen2", True, **more)
    with pytest.raises(ValueError, match=r"does not have: blk\.0\.attn_sinks\.weight"):
        dequantise(file, tmp_path / "toy", lambda tokenizer: None)


def test_a_tensor_of_another_shape_is_named(tmp_path):
    more = {"blk.0.attn_q.bias": np.zeros(3, np.float32)}
    file = toys.write(tmp_path / "toy.gguf", "qwen2", True, **more)
    with pytest.raises(ValueError, match=r"q_proj\.bias: expected the shape \(64,\), got \(3,\)"):
        dequantise(file, tmp_path / "toy", lambda tokenizer: None)


# --- the real thing -------------------------------------------------------------------------------

SMOLLM2 = "smollm2-135m-instruct"
CONVERT = """
import sys
from pathlib import Path
from kvlib.models.dequantise import dequantise

dequantise(Path(sys.argv[1]), Path(sys.argv[2]), lambda tokenizer: None)
status = Path("/proc/self/status").read_text()
print(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
"""


# of the safetensors that transformers 5.23 wrote of the model that it had read from the GGUF file
SMOLLM2_SHA256 = "a672150fb4f99d7c8f4168cecdd464069c0ef3a37d8113f22ddb9d48031d03cd"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_smollm2_is_what_transformers_reads_in_little_memory(tmp_path):
    file = EMBEDDED[SMOLLM2].find_gguf(tmp_path)
    command = [sys.executable, "-c", CONVERT, str(file), str(tmp_path / "copy")]
    peak_kb = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert sha256(tmp_path / "copy" / WEIGHTS) == SMOLLM2_SHA256
    largest = max(weight.nbytes for weight in load_file(tmp_path / "copy" / WEIGHTS).values())
    assert 1024 * peak_kb < largest + 2e9
