"""C5: what the page takes from its tables, by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd

from kvlib import claims


def table() -> pd.DataFrame:
    """Three documents, two targets each, with the old context cut and shuffled."""
    rows = [
        (doc, position, 64, variant, (1 + doc) * factor * (1 + position))
        for doc in range(3)
        for position in range(2)
        for variant, factor in (("restarted", 0.1), ("shuffled", 0.3))
    ]
    columns = ["doc", "position", "window", "variant", "kl_nats"]
    return pd.DataFrame(rows, columns=columns).sample(frac=1, random_state=0)


def test_divergences_are_means_of_documents_in_one_order():
    found = claims.positions.divergences_at(table(), 64)
    np.testing.assert_allclose(found["restarted"], [0.15, 0.3, 0.45])
    np.testing.assert_allclose(found["shuffled"], [0.45, 0.9, 1.35])


def test_shuffling_over_cutting_is_a_paired_ratio():
    """A ratio that is the same in every document has no width."""
    ratio = claims.positions.shuffling_over_cutting(table(), 64)
    np.testing.assert_allclose([ratio.low, ratio.value, ratio.high], 3)
