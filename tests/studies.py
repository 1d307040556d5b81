"""Simulated studies whose answer is known, shared by the tests."""

from __future__ import annotations

import numpy as np
import pandas as pd

from kvlib import fit

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
