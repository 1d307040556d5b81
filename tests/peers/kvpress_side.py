"""kvpress' side of `make peers`: what its presses keep, and the next-token laws that follow.

    python kvpress_side.py MODEL_FOLDER QUESTIONS.npz ANSWERS.npz

Runs where kvpress is installed and knows nothing of kvlib but these files. Questions: `contexts`
(contexts, tokens) of token ids, `cases` a JSON list of objects with `press` (a class of kvpress),
`options` (its arguments), `budget`, `attention` ("sdpa" or "eager") and `positions` ("true", or
"guessed": leave them to transformers). Answers: `full` (contexts, vocabulary), the log-law after
the whole context with nothing evicted; for case i `law_i` likewise, and `kept_i` (contexts, layers,
KV heads, budget - 1), the positions of the entries that were kept, ascending; `versions`, JSON.

A context is read in two steps: all tokens but the last with full attention and the press active,
which cuts every layer's cache to budget - 1 entries; then the last token at its true position.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import sys
import time
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import kvpress
import numpy as np
import torch
from transformers import AutoModelForCausalLM, DynamicCache

SEED = 0  # of the draws of RandomPress
VERSIONED = ("kvpress", "transformers", "torch", "numpy")


class KeysBefore:
    """The keys of each layer as its attention used them, taken before a press cuts them."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.keys: dict[int, torch.Tensor] = {}
        self.modules = [layer.self_attn for layer in model.model.layers]

    def __enter__(self) -> KeysBefore:
        self.hooks = [m.register_forward_hook(self._look, with_kwargs=True) for m in self.modules]
        return self

    def _look(self, module: torch.nn.Module, args: tuple, kwargs: dict, output: tuple) -> None:
        self.keys[module.layer_idx] = kwargs["past_key_values"].layers[module.layer_idx].keys[0]

    def __exit__(self, *_: object) -> None:
        for hook in self.hooks:
            hook.remove()


def kept(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """Where the rows of `after` (heads, kept, width) stood in `before` (heads, tokens, width)."""
    index = torch.cdist(after, before, compute_mode="donot_use_mm_for_euclid_dist").argmin(-1)
    found = before.gather(1, index[..., None].expand_as(after))
    if not torch.equal(found, after):
        raise SystemExit("error: expected kept keys to be among the prefilled ones, got others")
    return index.sort(-1).values


def next_law(model, ids: torch.Tensor, case: dict | None) -> tuple[torch.Tensor, torch.Tensor]:
    """The log-law after `ids`, and what was kept; with `case` None nothing is evicted."""
    n = len(ids) - 1
    cache = DynamicCache()
    press = kvpress.KnormPress()  # at its ratio of 0 it keeps everything
    if case:
        # a press keeps int(n · (1 - ratio)) entries: half an entry more, and rounding cannot matter
        ratio = 1 - (case["budget"] - 0.5) / n
        press = getattr(kvpress, case["press"])(compression_ratio=ratio, **case["options"])
    with KeysBefore(model) as before, press(model):  # hooks run in this order
        model.model(ids[None, :n], past_key_values=cache)
    stood = [kept(before.keys[k], layer.keys[0]) for k, layer in enumerate(cache.layers)]
    lengths = {index.shape[1] for index in stood}
    if lengths != {expected := case["budget"] - 1 if case else n}:
        raise SystemExit(f"error: expected {expected} entries in every layer, got {lengths}")
    # after an eviction transformers would take the number of entries for the position
    where = {"position_ids": torch.tensor([[n]])}
    if case and case["positions"] == "guessed":
        where = {}
    logits = model(ids[None, n:], past_key_values=cache, **where).logits[0, -1]
    return logits.float().log_softmax(-1), torch.stack(stood)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("questions", type=Path)
    parser.add_argument("answers", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with np.load(options.questions) as questions:
        contexts = torch.from_numpy(questions["contexts"])
        cases = json.loads(str(questions["cases"]))
    model = AutoModelForCausalLM.from_pretrained(options.folder, dtype=torch.float32).eval()
    answers: dict[str, np.ndarray] = {}
    begin = time.monotonic()
    with torch.inference_mode():
        answers["full"] = np.stack([next_law(model, ids, None)[0].numpy() for ids in contexts])
        for i, case in enumerate(cases):
            model.set_attn_implementation(case["attention"])
            torch.manual_seed(SEED)
            laws, stood = zip(*(next_law(model, ids, case) for ids in contexts), strict=True)
            answers[f"law_{i}"] = torch.stack(laws).numpy()
            answers[f"kept_{i}"] = torch.stack(stood).numpy().astype(np.int16)
            seconds = time.monotonic() - begin
            done = f"  {i + 1}/{len(cases)} {case['press']} {case['budget']}, {seconds:.0f} s"
            print(done, file=sys.stderr, flush=True)
    versions = {name: importlib.metadata.version(name) for name in VERSIONED}
    np.savez(options.answers, versions=np.array(json.dumps(versions)), **answers)


if __name__ == "__main__":
    main()
