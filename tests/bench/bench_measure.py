"""The fast measurement beside the naive one, in one run on one machine.

Three figures for each embedded model:

1. naive time over ours for the same pairs of one document. The naive loop pays one forward pass
   for each pair; its cost is sampled in every octave and multiplied by the pairs there. Both pay
   for the references once.
2. the width of the exponent's 95% interval (document bootstrap) when naive gets the wall time that
   ours takes, on the same documents, drawn anew for each seed from the stored ones: medians.
3. the share of our time spent outside the model's own body and head.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter

import numpy as np
import pandas as pd
import torch

from kvlib import claims, corpora, fit, measure, models, store

CORPUS = "world-english-bible"


def timed(function, *arguments):
    """Result and seconds."""
    begin = time.perf_counter()
    return function(*arguments), time.perf_counter() - begin


class Stopwatch:
    """Seconds inside the model's body and head, by hooks."""

    def __init__(self, lm):
        self.seconds = Counter()
        self.parts = {"body": lm.model.base_model, "head": lm.model.get_output_embeddings()}

    def __enter__(self):
        self.hooks = []
        for name, module in self.parts.items():
            self.hooks += [
                module.register_forward_pre_hook(lambda *_, n=name: self._add(n, -1)),
                module.register_forward_hook(lambda *_, n=name: self._add(n, +1)),
            ]
        return self.seconds

    def _add(self, name, sign):
        self.seconds[name] += sign * time.perf_counter()

    def __exit__(self, *_):
        for hook in self.hooks:
            hook.remove()


def octave_of(window):
    """Number of the octave that a window belongs to."""
    return np.ceil(np.log2(window)).astype(int)


def reference_seconds(lm, document, design):
    """What both pay once: the full pass and the reference laws."""
    ids = torch.as_tensor(document)
    targets = np.arange(design.first_target, design.last_target + 1)

    def references():
        with torch.inference_mode():
            hidden = measure.hidden_states(lm, ids[None])[0]
            for block in range(0, len(targets), measure.HEAD_ROWS):
                rows = torch.from_numpy(targets[block : block + measure.HEAD_ROWS])
                lm.model.get_output_embeddings()(hidden[rows]).log_softmax(-1)

    return timed(references)[1]


def reference_law(lm, reference, position):
    """The full-context law at one position, from the hidden states of the full pass."""
    with torch.inference_mode():
        return lm.model.get_output_embeddings()(reference[position]).double().log_softmax(-1)


def naive_kl(lm, document, log_p, position, window):
    """One naive pair: a forward pass over the suffix, the head on its last row, one divergence."""
    ids = torch.as_tensor(document[position - window + 1 : position + 1])
    log_q = torch.from_numpy(measure.next_token_law(lm, ids))
    return float((log_p.exp() * (log_p - log_q)).sum())


def naive_cost(lm, document, table, samples, rng):
    """Seconds a naive pair in each octave, as a mean over `samples` of its pairs."""
    with torch.inference_mode():
        reference = measure.hidden_states(lm, torch.as_tensor(document)[None])[0]
    cost = {}
    for octave, rows in table.groupby(octave_of(table["window"])):
        picked = rows.sample(samples, random_state=rng)
        pairs = list(zip(picked["position"], picked["window"], strict=True))
        laws = [reference_law(lm, reference, position) for position, _ in pairs]
        naive_kl(lm, document, laws[0], *pairs[0])  # warm up
        begin = time.perf_counter()
        for log_p, (position, window) in zip(laws, pairs, strict=True):
            naive_kl(lm, document, log_p, position, window)
        cost[octave] = (time.perf_counter() - begin) / samples
    return cost


def naive_table(lm, documents, design, sweeps, rng):
    """A naive study: in each document and octave `sweeps` pairs at random targets and windows."""
    rows = []
    for doc, document in documents.items():
        with torch.inference_mode():
            reference = measure.hidden_states(lm, torch.as_tensor(document)[None])[0]
        for low, high in design.octaves():
            for window in rng.integers(low, high + 1, size=sweeps):
                position = int(rng.integers(design.first_target, design.last_target + 1))
                log_p = reference_law(lm, reference, position)
                kl = naive_kl(lm, document, log_p, position, int(window))
                rows.append((doc, position, position + 1, int(window), kl))
    return pd.DataFrame(rows, columns=["doc", "position", "context", "window", "kl_nats"])


def octave_curve(table):
    """A curve with one bin an octave: a naive study has too few pairs for quarter octaves."""
    octaves = octave_of(table["window"])
    low, high = 2.0 ** (octaves - 1) + 1, 2.0**octaves
    middle = np.where(octaves == 0, 1, np.sqrt(np.maximum(low, 1) * high)).round().astype(int)
    return fit.curve(table.assign(window=middle, position=table["position"]))


def width(curve):
    """Width of the exponent's 95% interval by document bootstrap, from MIN_WINDOW on."""
    found = fit.exponent(curve.between(claims.claim.MIN_WINDOW), interval="percentile")
    return found.high - found.low


def bench(name, samples, documents, seeds, sweeps):
    """All figures of one model, as a dictionary.

    `sweeps` 0 lets the timings of this run say how many naive pairs an octave and document take
    as long as ours; on a busy machine give the number that a quiet run printed.
    """
    lm = models.load_model(name)
    text = corpora.load_corpus(CORPUS).documents(lm.tokenizer, 3072, 24)
    design = measure.design_for(3072, 1024, measure.PAIRS_PER_OCTAVE, 0)
    measure.measure_document(lm, text[0], 0)  # warm up
    with Stopwatch(lm) as seconds:
        table, ours = timed(measure.measure_document, lm, text[0], 0)
    references = reference_seconds(lm, text[0], design)
    cost = naive_cost(lm, text[0], table, samples, 0)
    pairs = table.groupby(octave_of(table["window"])).size()
    naive = references + sum(cost[octave] * count for octave, count in pairs.items())
    result = {
        "model": name,
        "threads": torch.get_num_threads(),
        "pairs": len(table),
        "ours_s": round(ours, 2),
        "naive_s": round(naive, 1),
        "naive_over_ours": round(naive / ours, 1),
        "sweeps_at_equal_time": round((ours - references) / sum(cost.values()), 2),
        "outside_body_and_head": round(1 - (seconds["body"] + seconds["head"]) / ours, 3),
    }
    if seeds:
        sweeps = sweeps or max(1, round(result["sweeps_at_equal_time"]))
        stored = store.load_table(store.stored("sensitivity")[name, CORPUS])
        mine, theirs = [], []
        for seed in range(1, seeds + 1):
            rng = np.random.default_rng(seed)
            drawn = rng.choice(stored["doc"].nunique(), documents, replace=False)
            naive_rows = naive_table(lm, {k: text[k] for k in drawn}, design, sweeps, rng)
            mine.append(width(fit.curve(stored[stored["doc"].isin(drawn)])))
            theirs.append(width(octave_curve(naive_rows)))
            print(f"  seed {seed}: ours {mine[-1]:.3f}, naive {theirs[-1]:.3f}", flush=True)
        ours_median, naive_median = float(np.median(mine)), float(np.median(theirs))
        result |= {
            "documents": documents,
            "seeds": seeds,
            "naive_pairs_an_octave_and_document": sweeps,
            "our_width_median": round(ours_median, 3),
            "naive_width_median": round(naive_median, 3),
            "our_width_over_naive": round(ours_median / naive_median, 3),
        }
    return result


def main():
    """Print every figure as one JSON line a model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=6, help="naive pairs timed in each octave")
    parser.add_argument("--documents", type=int, default=10, help="for the widths")
    parser.add_argument("--seeds", type=int, default=5, help="naive studies; 0 leaves widths out")
    parser.add_argument("--sweeps", type=int, default=0, help="naive pairs an octave and document")
    parser.add_argument("--models", nargs="*", default=list(models.INSTALLED))
    options = parser.parse_args()
    for name in options.models:
        result = bench(name, options.samples, options.documents, options.seeds, options.sweeps)
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
