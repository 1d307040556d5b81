"""The two signs that a measured divergence is a Bayes risk: nought where it is, seen where not."""

from __future__ import annotations

import numpy as np
import pytest

from kvlib import measure, store
from kvlib.measure import nested


def test_one_pass_holds_the_laws_of_all_positions(tiny):
    ids = np.random.default_rng(1).integers(0, 256, 40)
    together = measure.next_token_laws(tiny, ids, [10, 25, 38])
    for law, t in zip(together, (10, 25, 38), strict=True):
        np.testing.assert_allclose(law, measure.next_token_law(tiny, ids[: t + 1]), atol=1e-5)


def test_the_divergences_are_those_of_the_naive_measurement(tiny):
    ids = np.random.default_rng(2).integers(0, 256, 40)
    found = nested.nested(tiny, ids, [30, 38], short=4, long=16)
    naive = measure.naive_sensitivity(tiny, ids, [(30, 4), (38, 4), (30, 16), (38, 16)])
    together = [*found["full_short"], *found["full_long"]]
    np.testing.assert_allclose(together, naive["kl_nats"], atol=1e-6)
    law, cut = (measure.next_token_law(tiny, ids[begin:31]) for begin in (0, 27))
    assert found["log_ratio"][0] == pytest.approx(law[ids[31]] - cut[ids[31]], abs=1e-5)


@pytest.mark.parametrize(("position", "short", "long"), [(39, 4, 16), (30, 16, 16), (10, 4, 16)])
def test_bad_windows_and_positions_are_refused(tiny, position, short, long):
    with pytest.raises(ValueError, match="expected 1 <= short < long .*got short"):
        nested.nested(tiny, np.arange(40), [position], short, long)


def test_the_stored_table_is_whole():
    (stored,) = store.tables(study="diagnostics")
    table = stored.load()
    assert table.groupby("doc").size().tolist() == [stored.settings["targets"]] * 12
    assert (table[["full_short", "full_long", "long_short"]] > -1e-9).all(axis=None)
