"""What `kvlib estimate` says here beside what the same studies then take, on SmolLM2.

Small studies of three kinds: one of truncation, one of static policies in one pass each, one of a
scored policy that evicts step by step. One calibration for all, in seconds of the processor as the
measurements are, so that other work beside does not count. Beyond LIMIT the command fails.

    python tests/bench/bench_estimate.py [truncation policies scored]
"""

from __future__ import annotations

import importlib
import sys
import time

from kvlib import corpora, study
from kvlib.models import load_model
from kvlib.study import estimate
from kvlib.study.shapes import SHAPES

MODEL, CORPUS, LIMIT = "smollm2-135m-instruct", "world-english-bible", 1.25
TEXT = {"model": MODEL, "corpus": CORPUS, "stretches": "shared"}
STUDIES = {  # kind, settings beside the defaults, documents
    "truncation": (
        "truncation_sensitivity",
        {"max_window": 256, "seq_len": 768, "stride": 768, "pairs_per_octave": 256, "thin": 4},
        1,
    ),
    "policies": (
        "policy_distortion",
        {"policies": ["sliding", "sinks"], "budgets": [64, 256], "every": 8, "seq_len": 768},
        1,
    ),
    "scored": (
        "policy_distortion",
        {"policies": ["tova"], "budgets": [128], "every": 8, "seq_len": 512},
        1,
    ),
}


def declared(name: str) -> study.Study:
    """One of the studies, as a file would declare it."""
    kind, settings, docs = STUDIES[name]
    (one,) = study.declare(kind, name, TEXT | settings, docs, study.FILE.parent)
    return one


def main(names: list[str]) -> None:
    """Estimate, measure, print the ratio."""
    lm, text = load_model(MODEL), corpora.load_corpus(CORPUS)
    begin, worst = time.process_time(), 1.0
    pace = estimate.here(lm, 0.0, time.process_time)
    print(f"calibration: {time.process_time() - begin:.1f} s", flush=True)
    for name in names or list(STUDIES):
        one = declared(name)
        said = sum(estimate.cost(one, SHAPES[MODEL], pace).seconds)
        module = importlib.import_module(f"kvlib.{study.KINDS[one.kind].module}")
        rows = module.item_rows(lm, text, one.settings, one.docs)
        begin = time.process_time()
        for doc in range(one.docs):
            rows(doc)
        took = time.process_time() - begin
        worst = max(worst, said / took, took / said)
        print(
            f"{name}: estimated {said:.1f} s, took {took:.1f} s of processor time, ratio "
            f"{said / took:.2f}",
            flush=True,
        )
    if worst > LIMIT:
        sys.exit(f"error: expected a ratio of at most {LIMIT:g} either way, got {worst:.2f}")


if __name__ == "__main__":
    main(sys.argv[1:])
