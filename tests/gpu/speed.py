"""How fast a card measures: random weights in the shape of Qwen2-7B, in bfloat16.

    python tests/gpu/speed.py [--shape toy] [--device cpu] [--seconds 20]

Prints one JSON object, and writes it to $OUT/speed.json where OUT is set: the card, tokens a second
of forwards, pairs a second of `measure_document`, the share of the card's own matrix rate that the
forwards reach, and the most memory held.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import transformers

from kvlib.measure import laws, truncation
from kvlib.models import LanguageModel, memory

SHAPES = {
    "qwen2-7b": {
        **{"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28},
        **{"num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152_064},
    },
    "toy": {
        **{"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2},
        **{"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 512},
    },
}


def model_of(shape: str, device: str) -> LanguageModel:
    """Random weights, made where they are used."""
    config = transformers.Qwen2Config(**SHAPES[shape], tie_word_embeddings=False)
    with torch.device(device), torch.random.fork_rng(enabled=False):
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.eval().requires_grad_(False)
    return LanguageModel(model, None, shape, torch.device(device), torch.bfloat16, (), "random")


def seconds(run: Callable[[], object], device: str, most: float) -> float:
    """Of one run, warm: the mean over as many as fit into `most` seconds, at least two."""

    def timed() -> float:
        begin = time.perf_counter()
        run()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        return time.perf_counter() - begin

    first = max(timed(), timed())
    times = [timed() for _ in range(max(2, int(most / first)))]
    return float(np.mean(times))


def matrix_rate(device: str, most: float) -> float:
    """Floating-point operations a second of a square product in bfloat16."""
    n = 8192 if device.startswith("cuda") else 512
    a, b = (torch.randn(n, n, device=device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * n**3 / seconds(lambda: a @ b, device, most)


def measured(shape: str, device: str, most: float) -> dict[str, object]:
    """What the JSON holds."""
    lm = model_of(shape, device)
    on_card = device.startswith("cuda")
    length = 1024
    tokens = memory.tokens_at_once(lm, 1024)
    ids = torch.randint(0, lm.vocab_size, (tokens // length, length), device=device)
    with torch.inference_mode():
        forward = seconds(lambda: laws.hidden_states(lm, ids), device, most)
    rate = matrix_rate(device, most / 4)
    body = sum(w.numel() for n, w in lm.model.named_parameters() if ".layers." in n)
    document = np.random.default_rng(0).integers(0, lm.vocab_size, 3 * length)
    counted = len(truncation.measure_document(lm, document, 0, length))
    whole = seconds(lambda: truncation.measure_document(lm, document, 0, length), device, most)
    found: dict[str, object] = {
        "device": torch.cuda.get_device_name() if on_card else device,
        "shape": shape,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "tokens_a_forward": tokens,
        "tokens_a_second": tokens / forward,
        "pairs_a_document": counted,
        "pairs_a_second": counted / whole,
        "seconds_a_document": whole,
        "matrix_flops_a_second": rate,
    }
    if on_card:  # elsewhere bfloat16 is converted, and a toy has no large product
        found["share_of_matrix_rate"] = 2 * body * tokens / forward / rate
        found["peak_bytes"] = torch.cuda.max_memory_allocated()
        found["card_bytes"] = torch.cuda.mem_get_info()[1]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="qwen2-7b")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=20.0)
    given = parser.parse_args()
    text = json.dumps(measured(given.shape, given.device, given.seconds), indent=1)
    print(text)
    if folder := os.environ.get("OUT"):
        Path(folder, "speed.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
