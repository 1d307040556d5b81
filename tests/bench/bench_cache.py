"""What a token costs through a bounded cache beside transformers' plain one, and what both hold.

Steps of the two caches take turns in one run: a single token is decoded through a bounded cache of
256 entries, full and evicting, then one through a plain cache that is kept at as many, by cutting
it back after each step (not timed). Printed is the ratio of the medians of CPU time; above MOST the
command fails. Then 8,000 tokens go through a bounded cache: bytes of keys and values every 1,000
tokens, which must not change once it is full, and the memory of the process.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from transformers import DynamicCache, GPT2Config, GPT2LMHeadModel

from kvlib.cache import BoundedCache
from kvlib.models import load_model
from kvlib.models.small_gpt2 import SHAPE

BUDGET, PROMPT, MOST = 256, 300, 1.10
STEPS = {"gpt2": 400, "smollm2": 120}


def small_gpt2() -> Any:
    """A GPT-2 of random weights as wide and deep as the book's own, with room for 8,192 tokens."""
    torch.manual_seed(0)
    config = GPT2Config(n_positions=8192, vocab_size=8192, **SHAPE)
    return GPT2LMHeadModel(config).eval().requires_grad_(False)


def seconds(work: Callable[[], Any]) -> float:
    """CPU time of one call."""
    begin = time.process_time()
    work()
    return time.process_time() - begin


def ratio(model: Any, steps: int) -> tuple[float, float, float]:
    """Median milliseconds a token, bounded and plain, and the one by the other."""
    ids = torch.randint(0, 1000, (1, PROMPT + steps), generator=torch.Generator().manual_seed(0))
    bounded, plain, times = BoundedCache(BUDGET, model=model), DynamicCache(), ([], [])
    with torch.inference_mode():
        model(ids[:, :PROMPT], past_key_values=bounded)
        model(ids[:, : BUDGET - 1], past_key_values=plain)
        for t in range(PROMPT, PROMPT + steps):
            token = ids[:, t : t + 1]
            for cache, found in zip((bounded, plain), times, strict=True):
                found.append(seconds(lambda: model(token, past_key_values=cache)))  # noqa: B023
            plain.crop(-1)
    one, two = (1e3 * median(found[10:]) for found in times)
    return one, two, one / two


def resident_mb() -> float:
    """Memory of this process in MB."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 1e6


def memory(model: Any, tokens: int = 8000, every: int = 1000) -> list[tuple[int, int, float]]:
    """Tokens read, bytes of the cache, memory of the process in MB."""
    cache, found = BoundedCache(BUDGET, model=model), []
    ids = torch.randint(0, 1000, (1, tokens), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        for t in range(tokens):
            model(ids[:, t : t + 1], past_key_values=cache)
            if (t + 1) % every == 0:
                found.append((t + 1, cache.cache_bytes, resident_mb()))
    return found


def main() -> None:
    """Measure and print."""
    gpt2, failed = small_gpt2(), False
    models = {"gpt2": gpt2, "smollm2": load_model("smollm2-135m-instruct", device="cpu").model}
    for name, model in models.items():
        bounded, plain, cost = ratio(model, STEPS[name])
        print(
            f"{name}: {bounded:.2f} ms a token bounded, {plain:.2f} ms plain at as many entries: "
            f"{cost:.3f} (at most {MOST})"
        )
        failed |= cost > MOST
    rows = memory(gpt2)
    for tokens, held, process in rows:
        print(
            f"{tokens:5d} tokens: {held / 1e6:.3f} MB of keys and values, process {process:.0f} MB"
        )
    failed |= len({held for _, held, _ in rows}) > 1
    sys.exit(failed)


if __name__ == "__main__":
    main()
