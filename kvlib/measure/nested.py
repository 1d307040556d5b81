"""May a measured divergence be read as a Bayes risk? What the two signs are measured on."""

from __future__ import annotations

import numpy as np
import pandas as pd

from kvlib import store
from kvlib.corpora import load_corpus
from kvlib.measure.divergences import kl_divergence
from kvlib.measure.laws import next_token_law, next_token_laws
from kvlib.models import LanguageModel, load_model

NAME = "diagnostics"
MODEL, CORPUS = "smollm2-135m-instruct", "world-english-bible"
DOCUMENTS, TARGETS, SEQ_LEN = 12, 8, 3072
SHORT, LONG = 32, 256


def nested(
    lm: LanguageModel, document: np.ndarray, positions: list[int], short: int, long: int
) -> pd.DataFrame:
    """The three divergences between full context, `long` and `short` window, target by target.

    Columns: `position, full_short, full_long, long_short` (KL in nats) and `log_ratio`, the log of
    P_T(x)/P_short(x) at the token that really follows. Raises ValueError unless
    1 ≤ short < long ≤ context and every position has a next token.
    """
    for t in positions:
        if not 1 <= short < long <= t + 1 or t + 1 >= len(document):
            raise ValueError(
                f"expected 1 <= short < long <= {t + 1} and a token after position {t} of "
                f"{len(document)}, got short {short}, long {long}"
            )
    rows = []
    for t, full in zip(positions, next_token_laws(lm, document, positions), strict=True):
        far, near = (next_token_law(lm, document[t + 1 - w : t + 1]) for w in (long, short))
        rows.append(
            {
                "position": t,
                "full_short": float(kl_divergence(full, near)),
                "full_long": float(kl_divergence(full, far)),
                "long_short": float(kl_divergence(far, near)),
                "log_ratio": float(full[document[t + 1]] - near[document[t + 1]]),
            }
        )
    return pd.DataFrame(rows)


def main() -> None:
    """Measure and store the table that the book shows; goes on where it was."""
    lm, text = load_model(MODEL), load_corpus(CORPUS)
    settings = {
        "kind": NAME,
        "protocol": "reencode",
        "model": lm.name,
        "weights_sha256": lm.weights_sha256,
        "model_sha256": lm.model_sha256,
        "corpus": text.name,
        "corpus_sha256": text.sha256,
        "dtype": str(lm.dtype).removeprefix("torch."),
        "seq_len": SEQ_LEN,
        "windows": [SHORT, LONG],
        "targets": TARGETS,
    }
    measurement = store.Measurement(store.DATA / f"{NAME}-{MODEL}-{CORPUS}", settings, DOCUMENTS)
    documents = text.documents(lm.tokenizer, SEQ_LEN, DOCUMENTS)
    for doc in measurement.missing():
        rng = np.random.default_rng([0, doc])
        positions = sorted(rng.choice(np.arange(SEQ_LEN // 3, SEQ_LEN - 1), TARGETS, False))
        rows = nested(lm, documents[doc], [int(t) for t in positions], SHORT, LONG)
        measurement.add(doc, rows.assign(doc=doc))
        print(f"document {doc + 1} of {DOCUMENTS}", flush=True)
    measurement.finish(store.run_of("python -m kvlib.diagnostics", lm.device.type))


if __name__ == "__main__":
    main()
