"""Proposals for a study: counts are those of the measurement, the best is the best."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from kvlib.measure import costs
from kvlib.measure.truncation import design_for, measure_document
from kvlib.study import design

TOPS = (1, 2, 4, 8, 16, 32, 64)
SPENT = costs.Seconds(document=2.0, starts={top: top / 100 for top in TOPS}, row=0.001)


@pytest.fixture(scope="module")
def table(tiny) -> pd.DataFrame:
    documents = np.random.default_rng(4).integers(1, 250, (4, 192))
    rows = [measure_document(tiny, ids, doc, 64, 64) for doc, ids in enumerate(documents)]
    return pd.concat(rows, ignore_index=True)


@pytest.mark.parametrize("pairs, thin", [(64, 1), (256, 4)])
def test_counts_are_those_of_the_rows(tiny, pairs, thin):
    counted = costs.counts(design_for(192, 64, pairs, 0, thin), docs=3)
    documents = np.random.default_rng(4).integers(1, 250, (3, 192))
    rows = [
        measure_document(tiny, ids, doc, 64, pairs, thin=thin) for doc, ids in enumerate(documents)
    ]
    assert counted.targets == round(np.mean([one["position"].nunique() for one in rows]))
    top = 2 ** np.ceil(np.log2(pd.concat(rows)["window"]))
    for octave, many in top.value_counts().items():
        assert counted.starts[octave] * counted.rows[octave] == pytest.approx(many / 3)


def test_a_calibration_times_each_kind_of_pass(tiny):
    found = costs.calibrated(tiny, 192, list(TOPS))
    assert set(found.starts) == set(TOPS)
    assert min(found.document, found.row, *found.starts.values()) > 0
    assert found.starts[64] > found.starts[1]


def test_the_best_proposal_is_the_narrowest_of_all(table):
    found = design.proposals(table, SPENT, 600, 64, 192)
    assert found["unsaid"].settings == design.UNSAID
    parts = design.checked(table, 64, 192)
    every = [
        design.planned(parts, SPENT, 600, 64, 192, pairs, thin)
        for pairs in design.PAIRS
        for thin in design.THINS
    ]
    worth = {str(one.settings): one.variance * one.seconds_a_document for one in every}
    assert worth[str(found["best"].settings)] == min(worth.values()) < max(worth.values())
    assert found["best"].documents == int(600 / found["best"].seconds_a_document)


def test_a_dear_row_is_thinned_and_a_free_one_is_not(table):
    dear, free = (
        design.proposals(table, SPENT._replace(row=row), 600, 64, 192)["best"] for row in (1.0, 0.0)
    )
    assert free.settings["thin"] == 1 < dear.settings["thin"]


def test_what_is_told_can_be_typed(table):
    lines = design.told(design.proposals(table, SPENT, 600, 64, 192), SPENT).splitlines()
    assert "reference 2.00 s" in lines[0] and "64 tokens 0.64 s" in lines[0]
    best, unsaid = lines[1:]
    assert best.startswith("best: --docs ") and " --pairs-per-octave " in best
    assert "--pairs-per-octave 1024 --thin 1 " in unsaid and "±" in unsaid


def test_a_table_of_other_windows_is_refused(table):
    with pytest.raises(ValueError, match=r"like: expected a table with windows to 128, got .*64"):
        design.checked(table, 128, 384)
