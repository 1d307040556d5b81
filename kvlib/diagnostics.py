"""May a measured D(w) be read as the Bayes risk Δ(w)? Two necessary signs, on real text.

Nested Bayes predictors obey D_T(w) = D_T(v) + D_v(w) for w < v < T (Pythagoras), and where the
full-context law is calibrated jointly with the short one, log P_T(x)/P_w(x) averages to D_T(w)
over the tokens x that really follow. Neither sign is sufficient. [Our reconstruction.]
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from kvlib import store
from kvlib.divergences import kl_divergence
from kvlib.fit import Estimate

if TYPE_CHECKING:
    from kvlib.models import LanguageModel

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
    from kvlib.measure import next_token_law, next_token_laws

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


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Both diagnostics with 95% t intervals over documents: rows `Pythagoras` and `data check`.

    `left` and `right` would be equal for Bayes predictors; `defect` is left minus right.
    """
    means = table.groupby("doc")[["full_short", "full_long", "long_short", "log_ratio"]].mean()
    sides = {
        "Pythagoras": (means["full_short"], means["full_long"] + means["long_short"]),
        "data check": (means["log_ratio"], means["full_short"]),
    }
    return pd.DataFrame(
        {
            name: {
                "left": mean_of(left),
                "right": mean_of(right),
                "defect": mean_of(left - right),
            }
            for name, (left, right) in sides.items()
        }
    ).T


def mean_of(values: pd.Series) -> Estimate:
    """A mean over documents with its 95% t interval."""
    n = len(values)
    half = stdtrit(n - 1, 0.975) * values.std(ddof=1) / np.sqrt(n)
    mean = float(values.mean())
    return Estimate(mean, float(mean - half), float(mean + half), n)


def main() -> None:
    """Measure and store the table that the book shows; goes on where it was."""
    from kvlib.corpora import load_corpus
    from kvlib.models import load_model

    lm, text = load_model(MODEL), load_corpus(CORPUS)
    settings = {
        "kind": NAME,
        "protocol": "reencode",
        "model": lm.name,
        "weights_sha256": lm.weights_sha256,
        "corpus": text.name,
        "corpus_sha256": text.sha256,
        "dtype": str(lm.dtype).removeprefix("torch."),
        "seq_len": SEQ_LEN,
        "windows": [SHORT, LONG],
        "targets": TARGETS,
    }
    measurement = store.Measurement(store.DATA / f"{NAME}-{MODEL}-{CORPUS}", settings)
    documents = text.documents(lm.tokenizer, SEQ_LEN, DOCUMENTS)
    for doc in sorted(set(range(DOCUMENTS)) - measurement.done()):
        rng = np.random.default_rng([0, doc])
        positions = sorted(rng.choice(np.arange(SEQ_LEN // 3, SEQ_LEN - 1), TARGETS, False))
        rows = nested(lm, documents[doc], [int(t) for t in positions], SHORT, LONG)
        measurement.add(doc, rows.assign(doc=doc))
        print(f"document {doc + 1} of {DOCUMENTS}", flush=True)
    measurement.finish(store.run_of("python -m kvlib.diagnostics", lm.device.type))


if __name__ == "__main__":
    main()
