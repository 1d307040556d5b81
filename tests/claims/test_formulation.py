"""C1: the one-step problem is checked, and the check can fail."""

from __future__ import annotations

import pandas as pd
import pytest

from kvlib import claims


@pytest.fixture(scope="module")
def solved() -> tuple[pd.DataFrame, pd.Series]:
    return claims.formulation.one_step(), claims.formulation.three_flips()


def test_the_solver_meets_the_closed_forms(solved):
    assert claims.formulation.solver_holds(*solved)


@pytest.mark.parametrize("column", ["solver", "solver both", "gap"])
def test_a_rate_or_a_certificate_that_is_off_is_noticed(solved, column):
    steps, bits = solved
    off = steps.copy()
    off.loc[off.index[1], column] += 1e-7
    assert not claims.formulation.solver_holds(off, bits)


def test_notes_of_the_wrong_length_are_noticed(solved):
    steps, bits = solved
    assert not claims.formulation.solver_holds(steps, bits + [0, 1e-5])


def test_a_crossover_that_is_another_is_noticed(solved):
    steps, bits = solved
    assert not claims.formulation.solver_holds(steps, bits, p=0.4)
