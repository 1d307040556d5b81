"""What a token costs while SmolLM2 writes 8,000 of them, with a bounded cache and with a full one.

`python tests/bench/bench_cache.py` writes `kvlib/data/cache_run-smollm2-135m-instruct.parquet`.
Time is the processor's own (one thread), for a busy machine slows the clock on the wall.
"""

from __future__ import annotations

import sys
import time

import numpy as np
import pandas as pd
import torch
from transformers import DynamicCache

from kvlib import store
from kvlib.corpora import load_corpus
from kvlib.models import LanguageModel, load_model
from kvlib.policies import BoundedCache

TOKENS, EVERY, PROMPT = 8000, 100, 64
BUDGET, N_SINK = 512, 4
TEMPERATURE, SEED = 1.0, 0


def run(lm: LanguageModel, prompt: torch.Tensor, name: str) -> pd.DataFrame:
    """Rows `cache, token, cpu_seconds, wall_seconds, cache_bytes`: medians over EVERY tokens."""
    bounded = name == "bounded"
    cache = BoundedCache(BUDGET, N_SINK, model=lm.model) if bounded else DynamicCache()
    generator = torch.Generator().manual_seed(SEED)
    ids, times, rows = prompt[None], [], []
    with torch.inference_mode():
        for token in range(1, TOKENS + 1):
            cpu, wall = time.process_time(), time.monotonic()
            logits = lm.model(ids, past_key_values=cache, use_cache=True).logits[0, -1]
            law = (logits / TEMPERATURE).softmax(-1)
            ids = torch.multinomial(law, 1, generator=generator)[None]
            times.append((time.process_time() - cpu, time.monotonic() - wall))
            if token % EVERY == 0:
                cpu_s, wall_s = np.median(times[-EVERY:], axis=0)
                size = sum(x.nbytes for layer in cache.layers for x in (layer.keys, layer.values))
                rows.append((int(bounded), name, token, cpu_s, wall_s, size))
                print(name, *rows[-1][2:], file=sys.stderr, flush=True)
    columns = ["doc", "cache", "token", "cpu_seconds", "wall_seconds", "cache_bytes"]
    return pd.DataFrame(rows, columns=columns)


def main() -> None:
    """Both runs, each stored when it is done; a second start goes on with what is missing."""
    torch.set_num_threads(1)
    lm = load_model("smollm2-135m-instruct", device="cpu")
    text = load_corpus("world-english-bible")
    prompt = torch.from_numpy(text.documents(lm.tokenizer, PROMPT, 1)[0])
    settings = {
        "kind": "cache_run",
        **store.subject_of(lm, text),
        "budget": BUDGET,
        "n_sink": N_SINK,
        "tokens": TOKENS,
        "every": EVERY,
        "prompt": PROMPT,
        "temperature": TEMPERATURE,
        "seed": SEED,
    }
    measurement = store.Measurement(store.DATA / f"cache_run-{lm.name}", settings)
    for number, name in ((1, "bounded"), (0, "unbounded")):
        if number not in measurement.done():
            measurement.add(number, run(lm, prompt, name))
    measurement.finish(store.run_of("python tests/bench/bench_cache.py", lm.device.type))


if __name__ == "__main__":
    main()
