"""The same suffix at other positions: what is measured for C5."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from kvlib.cache import protocols
from kvlib.measure import divergences
from kvlib.measure.distortion import _compare_rows
from kvlib.measure.laws import exact_divergences, exact_laws, laws_at, log_laws
from kvlib.models import LanguageModel, small_gpt2

VARIANTS = ("restarted", "kept", "moved", "shuffled")


def targets_of(plan: dict[str, Any]) -> Int[np.ndarray, " targets"]:
    """Evenly spaced targets in the last half of a document, its last token included."""
    n = plan["seq_len"]
    return np.linspace(n // 2 + plan["windows"][0], n - 1, plan["targets"]).astype(int)


def variant_hidden(
    lm: LanguageModel,
    ids: Int[Tensor, " tokens"],
    t: int,
    w: int,
    variant: str,
    rng: np.random.Generator,
) -> Float[Tensor, " width"]:
    """Last hidden state (width,) of x[t] when only the last w tokens stand where they stood."""
    prefix, first = len(lm.prefix_ids), t - w + 1
    tokens = ids[first : t + 1]
    if variant == "shuffled":
        order = torch.from_numpy(rng.permutation(first)).to(lm.device)
        tokens = torch.cat([ids[order], tokens])
    tokens = lm.prefixed(tokens)
    positions = torch.arange(len(tokens), device=lm.device)
    if variant == "kept":
        positions = torch.where(positions < prefix, positions, positions + first)
    elif variant == "moved":
        positions = positions + first
    elif variant not in VARIANTS:
        raise ValueError(f"variant: expected one of {', '.join(VARIANTS)}, got {variant!r}")
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
    lm: LanguageModel,
    document: Int[np.ndarray, " tokens"],
    doc: int,
    plan: dict[str, Any],
    seed: int = 0,
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


def naive_row(
    lm: LanguageModel, document: Int[np.ndarray, " tokens"], t: int, w: int, variant: str
) -> tuple[float, float]:
    """KL (nats) and TV of one row of `measure_positions`, from two passes; not of `shuffled`, whose
    texts are drawn one after the other."""
    ids = torch.as_tensor(np.asarray(document), device=lm.device)
    hidden = variant_hidden(lm, ids, t, w, variant, np.random.default_rng(0))
    found = exact_divergences(laws_at(lm, ids[: t + 1], [t]), exact_laws(lm, hidden[None]))
    kl, tv = map(float, found)
    return kl, tv


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


def checked(settings: dict[str, Any], docs: int) -> dict[str, Any]:
    """The settings of a study of this kind; ValueError for those that no document can have."""
    s = settings
    if unknown := [name for name in s["variants"] if name not in VARIANTS]:
        raise ValueError(f"variants: expected some of {', '.join(VARIANTS)}, got {unknown}")
    if s["variants"][:1] != ["restarted"]:
        raise ValueError(f"variants: expected restarted first, got {s['variants']}")
    if s["stretches"] not in ("drawn", "held out"):
        raise ValueError(f"stretches: expected drawn or held out, got {s['stretches']!r}")
    half = s["seq_len"] // 2
    if not s["windows"] or not all(type(w) is int and 1 <= w <= half for w in s["windows"]):
        raise ValueError(f"windows: expected some from 1 to {half}, got {s['windows']}")
    if not 1 <= s["targets"] <= half - s["windows"][0]:
        raise ValueError(f"targets: expected 1 to {half - s['windows'][0]}, got {s['targets']}")
    return s


def item_rows(
    lm: LanguageModel, text: Any, settings: dict[str, Any], docs: int
) -> Callable[[int], pd.DataFrame]:
    """The number of a document → its rows."""
    found = documents(lm, text, settings, docs)
    return lambda doc: measure_positions(lm, found[doc], doc, settings, settings["seed"])


def documents(
    lm: LanguageModel, text: Any, settings: dict[str, Any], docs: int
) -> list[Int[np.ndarray, " tokens"]]:
    """The documents of a study. `held out` are the stretches of a pinned text that the small GPT-2
    was not trained on."""
    s = settings
    if s["stretches"] == "held out":
        found = small_gpt2.held_out_documents(lm.tokenizer, text.name, s["seq_len"])
        if docs > len(found):
            raise ValueError(f"docs: expected at most {len(found)} held out, got {docs}")
    else:
        found = text.documents(lm.tokenizer, s["stride"], docs, s["seed"])
    return [one[: s["seq_len"]] for one in found]
