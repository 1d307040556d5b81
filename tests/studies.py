"""Simulated studies whose answer is known, shared by the tests."""

from __future__ import annotations

import numpy as np
import pandas as pd

from kvlib import claims, fit
from kvlib.fit import Estimate

WINDOWS = 2.0 ** np.arange(2, 9.01, 0.25)


def exact_curve(alpha, context, windows=WINDOWS, prefactor=0.1):
    """What a perfect predictor measures against a reference of `context` tokens."""
    return prefactor * ((windows + 1) ** -alpha - (context + 1) ** -alpha)


def table_of(doc_means, windows, context=2560):
    """A table with one pair for each document and window."""
    docs, positions = np.indices(doc_means.shape)
    return pd.DataFrame(
        {
            "doc": docs.ravel(),
            "position": np.full(docs.size, context - 1),
            "context": np.full(docs.size, context),
            "window": np.asarray(windows)[positions.ravel()],
            "kl_nats": doc_means.ravel(),
            "tv": np.minimum(1, np.sqrt(np.abs(doc_means.ravel()) / 2)),
        }
    )


def noisy_curve(value_at, n_documents=24, seed=0, spread=0.3):
    """A curve whose documents differ by a common log-normal factor and some noise of their own."""
    windows = np.unique(np.round(2 ** np.arange(3, 10.01, 0.25)).astype(int))
    truth = value_at(windows.astype(float))
    rng = np.random.default_rng(seed)
    factor = np.exp(rng.normal(0, spread, (n_documents, 1)))
    own = np.exp(rng.normal(0, spread, (n_documents, len(windows))))
    return fit.curve(table_of(truth * factor * own, windows))


# --- rows of policies -----------------------------------------------------------------------------


def rows_of(
    law, policy: str, protocol: str = "online", docs: int = 8, spread: float = 0.05, seed: int = 0
) -> pd.DataFrame:
    """Rows whose document means scatter log-normally around `law(budget)`."""
    rng = np.random.default_rng([seed, *policy.encode()])
    position = np.arange(1024, 2048, 128)
    parts = []
    for doc in range(docs):
        factor = np.exp(spread * rng.standard_normal())
        for budget in (16, 64, 256, 512, 1024):
            noise = np.exp(spread * rng.standard_normal(len(position)))
            parts.append(
                pd.DataFrame(
                    {
                        **{"model": "m", "corpus": "c", "protocol": protocol, "policy": policy},
                        **{"budget": budget, "doc": doc, "position": position},
                        "kl_nats": law(budget) * factor * noise,
                        "tv": np.sqrt(law(budget) * factor * noise) / 4,
                        **{"top1_same": True, "nll_excess_nats": 0.0},
                    }
                )
            )
    return pd.concat(parts, ignore_index=True)


def suffix_rows(alpha: float, docs: int = 8, law=None) -> pd.DataFrame:
    """A truncation table whose law is C[(w+1)^-α - (T+1)^-α] with T = 1536, or another `law`."""
    law = law or finite(alpha)
    parts = []
    for doc in range(docs):
        window = np.unique(np.geomspace(1, 1024, 60).astype(int))
        value = law(window) * np.exp(0.02 * np.sin(doc + window))
        parts.append(
            pd.DataFrame({"doc": doc, "position": 1535, "window": window, "kl_nats": value})
        )
    table = pd.concat(parts, ignore_index=True)
    return table.assign(context=1536, tv=np.sqrt(table["kl_nats"]) / 4)


def finite(alpha: float, contexts: float = 1536.0):
    """The finite-context power law of that exponent, as a function of the window."""
    return lambda w: 3.0 * ((np.asarray(w) + 1.0) ** -alpha - (contexts + 1.0) ** -alpha)


def estimates(*triples) -> list[Estimate]:
    """Estimates from 16 documents, each from (low, value, high)."""
    return [Estimate(value, low, high, 16) for low, value, high in triples]


def online(**columns) -> pd.DataFrame:
    """One row for sliding window, one for sinks."""
    names = list(claims.policy_rows.RECENCY)
    return pd.DataFrame(
        {"protocol": "online", "policy": names, "model": "m", "corpus": "c"} | columns
    )


def three_protocols() -> pd.DataFrame:
    """A policy in all protocols, re-encoded at every second token only."""
    parts = [rows_of(lambda b: 1 / b, "random", p) for p in claims.policy_rows.PROTOCOLS]
    parts[0] = parts[0][parts[0]["position"] % 256 == 0]
    return pd.concat([*parts, rows_of(lambda b: 1 / b, "tova", "online")])


# --- documents that several models read -----------------------------------------------------------


def shared(model: str, corpus: str, alpha: float, docs: int = 8, **how) -> object:
    """A table of shared documents whose KL is the finite-context law with that exponent.

    `how`: `tilts` (docs,) add to each document's exponent; `worth` is the excess loss over KL;
    `parameters`, `dtype`, `chars` a token, and `begins` of the documents.
    """
    rows = suffix_rows(alpha, docs)
    tilts = np.asarray(how.get("tilts", np.zeros(docs)))
    rows["kl_nats"] *= (rows["window"] / 64.0) ** -tilts[rows["doc"]]
    rows["tv"] = np.sqrt(rows["kl_nats"]) / 4
    rows["nll_excess_nats"] = how.get("worth", 1.0) * rows["kl_nats"]
    rows["nll_nats"] = 2 + rows["nll_excess_nats"]
    whole = rows.groupby("doc").head(1).query("doc == 0")
    twice = whole.assign(window=whole["context"], kl_nats=1e-6, tv=1e-4, nll_excess_nats=0.0)
    truncations, again = fit.parted(pd.concat([rows, twice]))
    return claims.shared.Shared(
        *(model, corpus, how.get("parameters", 10**8), how.get("dtype", "float32")),
        *(tuple(how.get("begins", range(0, 1000 * docs, 1000))),),
        *(np.full(docs, how.get("chars", 4.0)), truncations, again),
    )


SIZES = {  # of the models of a made-up study
    "small-gpt2": 5_000_000,
    "smollm2-135m-instruct": 135_000_000,
    "gemma3-270m": 270_000_000,
    "qwen2.5-coder-0.5b-instruct": 630_000_000,
    "qwen2.5-coder-1.5b-instruct": 1_780_000_000,
}


def shared_tables(alphas: dict[tuple[str, str], float], docs: int = 8, scatter=0.05) -> dict:
    """(model, corpus) → `shared` with that exponent. Documents of a text have exponents of their
    own, the same for all models, that scatter by so much."""
    tilts = {
        corpus: scatter * np.random.default_rng([7, *corpus.encode()]).standard_normal(docs)
        for _, corpus in alphas
    }
    return {
        (model, corpus): shared(
            *(model, corpus, alpha, docs), tilts=tilts[corpus], parameters=SIZES[model]
        )
        for (model, corpus), alpha in alphas.items()
    }
