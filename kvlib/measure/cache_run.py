"""What a token costs while a model writes, with a bounded cache; and with a full one.

The main figure is the processor's time (one thread), for a busy machine slows the clock on the
wall. A study has two documents: the run with the bounded cache, and that with the full one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor
from transformers import Cache, DynamicCache

from kvlib.cache.bounded import BoundedCache
from kvlib.models import LanguageModel

STOPS, SINGLE = 500, 12  # the full cache is timed every STOPS tokens, on SINGLE of them
COLUMNS = ["cache", "token", "seconds", "cpu_seconds", "cache_bytes"]


def generate(
    lm: LanguageModel, prompt: Int[Tensor, " tokens"], settings: dict[str, Any]
) -> pd.DataFrame:
    """`tokens` of them with a bounded cache: rows `COLUMNS`, medians over `every` tokens of what a
    token took, and the bytes of keys and values held after the last of them.

    Tokens are sampled from a seeded generator, special ones excluded, so that the text goes on.
    """
    s = settings
    cache = BoundedCache(s["budget"], s["n_sink"], model=lm.model)
    generator = torch.Generator().manual_seed(s["seed"])
    ids, times, rows = prompt[None], [], []
    with torch.inference_mode():
        for token in range(1, s["tokens"] + 1):
            wall, cpu = time.monotonic(), time.process_time()
            logits = lm.model(ids, past_key_values=cache, logits_to_keep=1).logits[0, -1]
            logits[lm.tokenizer.all_special_ids] = -torch.inf
            law = (logits / s["temperature"]).softmax(-1)
            ids = torch.multinomial(law, 1, generator=generator)[None]
            times.append((time.monotonic() - wall, time.process_time() - cpu))
            if token % s["every"] == 0:
                middle = np.median(times[-s["every"] :], axis=0)
                rows.append(("bounded", token, *middle, held(cache)))
    return pd.DataFrame(rows, columns=COLUMNS)


def fill(lm: LanguageModel, text: Int[Tensor, " tokens"]) -> pd.DataFrame:
    """The same columns for a cache that keeps everything, at multiples of STOPS tokens.

    To write every token would take far longer than to know what one costs: the cache reads the
    text in chunks, and the last SINGLE tokens before each stop one by one, which are timed.
    """
    cache, rows = DynamicCache(), []
    with torch.inference_mode():
        for stop in range(STOPS, len(text) + 1, STOPS):
            for chunk in text[stop - STOPS : stop - SINGLE].split(256):
                lm.model(chunk[None], past_key_values=cache, logits_to_keep=1)
            times = []
            for one in text[stop - SINGLE : stop]:
                wall, cpu = time.monotonic(), time.process_time()
                lm.model(one[None, None], past_key_values=cache, logits_to_keep=1)
                times.append((time.monotonic() - wall, time.process_time() - cpu))
            rows.append(("unbounded", stop, *np.median(times, axis=0), held(cache)))
    return pd.DataFrame(rows, columns=COLUMNS)


def held(cache: Cache) -> int:
    """Bytes of keys and values between forwards."""
    return sum(x.nbytes for layer in cache.layers for x in (layer.keys, layer.values))


def checked(settings: dict[str, Any], docs: int) -> dict[str, Any]:
    """The settings of a study of this kind; ValueError for those that give no rows."""
    s = settings
    if docs != 2:
        raise ValueError(f"docs: expected 2, the bounded run and the full one, got {docs}")
    if s["tokens"] < STOPS or not 1 <= s["every"] <= s["tokens"] or s["prompt"] < 1:
        raise ValueError(
            f"tokens, every and prompt: expected at least {STOPS}, 1 to tokens and 1, got "
            f"{s['tokens']}, {s['every']} and {s['prompt']}"
        )
    if not s["temperature"] > 0:
        raise ValueError(f"temperature: expected more than 0, got {s['temperature']}")
    return s


def item_rows(
    lm: LanguageModel, text: Any, settings: dict[str, Any], docs: int
) -> Callable[[int], pd.DataFrame]:
    """The number of a run → its rows. One thread from here on, on the CPU."""
    if lm.device.type != "cpu":
        raise ValueError(f"device: expected cpu, whose time is measured, got {lm.device.type}")
    torch.set_num_threads(1)
    prompt, long = (
        torch.from_numpy(text.documents(lm.tokenizer, n, 1, settings["seed"])[0])
        for n in (settings["prompt"], settings["tokens"])
    )
    runs = (lambda: generate(lm, prompt, settings), lambda: fill(lm, long))

    def rows(number: int) -> pd.DataFrame:
        table = runs[number]()
        table.insert(0, "doc", np.int16(number))
        return table

    return rows
