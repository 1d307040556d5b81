"""Simulated studies of the designs at hand: what an estimate would say, were the law another.

A study has the windows, references and number of documents of a stored curve. Its expectation is
the law with a given b that comes nearest to that curve; its documents scatter around it as the
stored ones do: log-normally, with the covariance between windows of their logarithms.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pandas as pd

from kvlib.fit.bent import RATES, bend, bend_of_reference, bracketed, plain, solve
from kvlib.fit.curve import Curve

TRUTHS = (0.0, 0.3, 1.0)  # a power law, a stretched exponential, an exponential
STUDIES = 500


def expectation(data: Curve, b: float, bracket: bool, root: bool = False) -> np.ndarray:
    """The law with this b that fits the curve best, at its windows; `root` as in `fit.bend`."""
    family = bracketed if bracket else plain
    power = 1 + root
    y, weights = power * np.log(data.mean)[None], data.weights[None]
    shape, rate = solve(y, weights, family, np.array([b]), RATES, data).T
    x = family(shape, rate, data.window, data.contexts)[0]
    return np.exp((x + (y[0] - x) @ weights[0]) / power)


def studies(data: Curve, expected: np.ndarray, n: int, seed: int) -> Iterator[Curve]:
    """`n` studies whose documents have this expectation; every one is drawn afresh."""
    logs = np.log(data.doc_means)
    covariance = np.cov(logs, rowvar=False)
    values, vectors = np.linalg.eigh(covariance)
    spread = vectors * np.sqrt(np.maximum(values, 0))
    rng = np.random.default_rng(seed)
    for _ in range(n):
        scatter = rng.standard_normal(logs.shape) @ spread.T
        yield replace(data, doc_means=expected * np.exp(scatter - np.diag(covariance) / 2))


def bends(
    data: Curve, root: bool = False, n: int = STUDIES, seed: int = 0, truths: tuple = TRUTHS
) -> pd.DataFrame:
    """The estimates of b in simulated studies of a curve, a row a study, truth and law.

    Columns: `bracket` (whether the simulated reference was finite, and the fit knew it), `truth`,
    `study`, `b, low, high`.
    """
    rows = []
    for bracket in (False, True):
        for k, truth in enumerate(truths):
            expected = expectation(data, truth, bracket, root)
            drawn = studies(data, expected, n, seed + 1000 * k + 10 * bracket)
            for study, one in enumerate(drawn):
                found = (bend_of_reference if bracket else bend)(one, root).first
                rows.append((bracket, truth, study, found.value, found.low, found.high))
    return pd.DataFrame(rows, columns=["bracket", "truth", "study", "b", "low", "high"])
