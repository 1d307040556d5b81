"""Toy GGUF files: a few thousand weights, quantised, with a small tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
from tokenizers.pre_tokenizers import ByteLevel

VOCABULARY, HIDDEN, INNER, LAYERS, HEADS, KV_HEADS, HEAD = 259, 64, 96, 2, 4, 2, 16
Q8_0, Q5_0 = gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.Q5_0
EXTRA = {  # norms that an architecture has beyond those of all
    "gemma3": {
        "attn_q_norm": HEAD,
        "attn_k_norm": HEAD,
        "post_attention_norm": HIDDEN,
        "post_ffw_norm": HIDDEN,
    }
}


def write(path: Path, architecture: str, own_head: bool, leave_out: str = "", **more: Any) -> Path:
    """A GGUF file of `llama`, `qwen2` (attention biases) or `gemma3`, with 2 KV heads for 4.

    `own_head` stores a head beside the embedding, `leave_out` one tensor less; `more` are tensors
    on top, by their names.
    """
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("toy")
    writer.add_block_count(LAYERS)
    writer.add_context_length(512)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(1e6)
    writer.add_key_length(HEAD)
    writer.add_value_length(HEAD)
    _add_tokenizer(writer)
    for name, numbers in (_numbers(architecture, own_head) | more).items():
        if name == leave_out:
            continue
        if numbers.ndim == 1:
            writer.add_tensor(name, numbers)
        else:
            kind = Q5_0 if name == "token_embd.weight" else Q8_0
            writer.add_tensor(name, gguf.quantize(numbers, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _numbers(architecture: str, own_head: bool) -> dict[str, np.ndarray]:
    """Random weights by the names of GGUF."""
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (VOCABULARY, HIDDEN),
        "output_norm.weight": (HIDDEN,),
    }
    if own_head:
        shapes["output.weight"] = (VOCABULARY, HIDDEN)
    for layer in range(LAYERS):
        parts = {
            "attn_q.weight": (HEADS * HEAD, HIDDEN),
            "attn_k.weight": (KV_HEADS * HEAD, HIDDEN),
            "attn_v.weight": (KV_HEADS * HEAD, HIDDEN),
            "attn_output.weight": (HIDDEN, HEADS * HEAD),
            "ffn_gate.weight": (INNER, HIDDEN),
            "ffn_up.weight": (INNER, HIDDEN),
            "ffn_down.weight": (HIDDEN, INNER),
            "attn_norm.weight": (HIDDEN,),
            "ffn_norm.weight": (HIDDEN,),
        }
        if architecture == "qwen2":
            for part in ("attn_q", "attn_k", "attn_v"):
                parts[f"{part}.bias"] = parts[f"{part}.weight"][:1]
        for norm, size in EXTRA.get(architecture, {}).items():
            parts[f"{norm}.weight"] = (size,)
        shapes |= {f"blk.{layer}.{part}": shape for part, shape in parts.items()}
    generator = np.random.default_rng(0)
    return {
        name: generator.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()
    }


def _add_tokenizer(writer: gguf.GGUFWriter) -> None:
    """Tokens are bytes and `ab`, split as Qwen does; two special ones end the vocabulary."""
    tokens = [*sorted(ByteLevel.alphabet()), "ab", "<s>", "</s>"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * 257 + [3] * 2)
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(257)
    writer.add_eos_token_id(258)
    writer.add_add_bos_token(False)
