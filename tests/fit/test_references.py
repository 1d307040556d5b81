"""Curves of the same targets against references of several lengths tell a bend from a bracket."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from kvlib import fit
from kvlib.fit import references

WINDOWS = np.unique(np.round(2 ** np.arange(3, 11.01, 0.25))).astype(int)
LENGTHS = (2048, 4096, 7168)


def curves_of(bend: float, strength: float, exponent: float = 0.5, docs: int = 16, noise=0.02):
    """Curves with a known law, of documents that have levels of their own."""
    rng = np.random.default_rng(3)
    levels = np.exp(0.2 * rng.standard_normal((docs, 1)))
    own = 1 + noise * rng.standard_normal((docs, len(WINDOWS)))
    found = []
    for length in LENGTHS:
        bare = fit.Curve(
            window=WINDOWS.astype(float),
            first=WINDOWS,
            last=WINDOWS,
            doc_means=np.ones((docs, len(WINDOWS))),
            contexts=length + np.linspace(0, 1024, 32),
            n_pairs=1,
            n_starts=1,
        )
        law = np.exp(references.log_law(bare, np.log(exponent), bend, strength))
        found.append(replace(bare, doc_means=levels * own * law))
    return found


@pytest.mark.parametrize(("bend", "strength"), [(0.0, 1.0), (0.0, 0.0), (0.4, 0.0), (0.3, 1.0)])
def test_the_bend_and_the_strength_are_told_apart(bend, strength):
    found = references.strengths(curves_of(bend, strength))
    assert found.strength.value == pytest.approx(strength, abs=0.15)
    assert found.bend.value == pytest.approx(bend, abs=0.08)
    assert found.exponent.value == pytest.approx(0.5, abs=0.05)
    assert found.strength.low - 0.05 <= strength <= found.strength.high + 0.05
    assert found.strength.n_documents == 16


def test_one_curve_tells_less(monkeypatch):
    """A single reference leaves λ wide where three pin it down."""
    monkeypatch.setattr(references, "RESAMPLES", 60)
    curves = [data.between(1, 512) for data in curves_of(0.0, 1.0, noise=0.2)]
    alone, together = (references.strengths(some) for some in ([curves[0]] * 2, curves))
    widths = [one.strength.high - one.strength.low for one in (alone, together)]
    assert widths[0] > 1.5 * widths[1]


def test_what_can_not_be_compared_is_refused():
    curves = curves_of(0.0, 1.0)
    with pytest.raises(ValueError, match="expected at least 2, of several references, got 1"):
        references.strengths(curves[:1])
    with pytest.raises(ValueError, match="expected the same windows and documents, got"):
        references.strengths([curves[0], curves[1].between(20)])
