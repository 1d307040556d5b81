"""Whose variance is it? Pseudo-values of documents, and how they split between texts and models.

The pseudo-value of a document, n θ - (n - 1) θ without it, says what an estimate θ from n documents
would be if it were a mean over documents of one number each (Tukey's jackknife). With I texts, J
models and K documents of each text that all models read, they form a balanced table

    p_ijk = μ + text_i + model_j + (text × model)_ij + document_k(i) + rest_ijk,

a two-way random-effects analysis of variance with documents nested in texts and crossed with
models. [Standard: the method of moments, Searle, Casella and McCulloch, Variance Components, 1992.]
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.special import chdtri
from scipy.stats import rankdata

from kvlib.fit.curve import BOOTSTRAPS
from kvlib.fit.estimate import Estimate

PARTS = ("texts", "models", "text × model", "documents", "rest")


def pseudo_values(left_out: np.ndarray) -> np.ndarray:
    """What each of n documents says by itself, (n,): n θ - (n - 1) θ without it.

    `left_out` (1 + n,): a statistic, then with each document left out, as `left_out_exponents`
    gives it. Of a mean they are the very values. Raises ValueError for fewer than 2 documents.
    """
    n = len(left_out) - 1
    if n < 2:
        raise ValueError(f"documents: expected at least 2 to leave one out, got {n}")
    return n * left_out[0] - (n - 1) * left_out[1:]


def freedom(n_texts: int, n_models: int, n_documents: int) -> np.ndarray:
    """Degrees of freedom (5,) of the mean squares, in the order of PARTS."""
    i, j, k = n_texts, n_models, n_documents
    return np.array([i - 1, j - 1, (i - 1) * (j - 1), i * (k - 1), i * (j - 1) * (k - 1)])


def mean_squares(values: np.ndarray) -> np.ndarray:
    """Mean squares (..., 5) of balanced tables (..., texts, models, documents), as PARTS has them.

    Each is a sum of squares over its degrees of freedom. Raises ValueError for fewer than two
    texts, models or documents, and for values that are not finite.
    """
    values = np.asarray(values, dtype=float)
    if values.ndim < 3 or min(values.shape[-3:]) < 2:
        raise ValueError(
            f"table: expected 2 or more texts, models and documents, got {values.shape[-3:]}"
        )
    if not np.isfinite(values).all():
        raise ValueError("table: expected finite values, got some that are not")
    i, j, k = values.shape[-3:]
    whole = values.mean(axis=(-3, -2, -1), keepdims=True)
    text = values.mean(axis=(-2, -1), keepdims=True)
    model = values.mean(axis=(-3, -1), keepdims=True)
    cell = values.mean(axis=-1, keepdims=True)
    document = values.mean(axis=-2, keepdims=True)

    def total(part: np.ndarray, repeats: int) -> np.ndarray:
        return repeats * (part**2).sum(axis=(-3, -2, -1))

    squares = (
        total(text - whole, j * k),
        total(model - whole, i * k),
        total(cell - text - model + whole, k),
        total(document - text, j),
        total(values - cell - document + text, 1),
    )
    return np.stack(squares, axis=-1) / freedom(i, j, k)


def components_of(squares: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Variances (..., 5) from mean squares (..., 5); `shape` is (texts, models, documents).

    Each mean square is set equal to its expectation, so a variance may come out negative; it is
    left so here. With e the rest: E texts = e + J d + K tm + JK t, E models = e + K tm + IK m,
    E text × model = e + K tm, E documents = e + J d, E rest = e.
    """
    i, j, k = shape
    texts, models, both, documents, rest = np.moveaxis(np.asarray(squares, dtype=float), -1, 0)
    parts = (
        (texts - both - documents + rest) / (j * k),
        (models - both) / (i * k),
        (both - rest) / k,
        (documents - rest) / j,
        rest,
    )
    return np.stack(parts, axis=-1)


def shares_of(variances: np.ndarray, n_documents: int) -> np.ndarray:
    """Each part's share (..., 5) of the variance of an estimate from `n_documents` documents.

    What documents and the rest add is divided by their number. Negative variances count as zero.
    """
    kept = np.maximum(variances, 0)
    kept = kept / np.array([1, 1, 1, n_documents, n_documents])
    return kept / kept.sum(axis=-1, keepdims=True)


def variance_components(
    values: np.ndarray, n_boot: int = BOOTSTRAPS, seed: int = 0
) -> pd.DataFrame:
    """The split of the variance of a table (texts, models, documents), a row a part of PARTS.

    Columns: `part, freedom, square`; `raw`, the variance by the method of moments; `variance`, the
    same with negative ones set to zero; `share` of the variance of an estimate from all documents,
    an `Estimate` whose interval is the bootstrap's over documents within texts: a document is drawn
    for all models at once. It is of these texts and these models; how far others may lie off says
    `freedom` alone (`factor_known`).

    Drawn documents scatter around the sample as the sample does around the truth. That adds their
    noise to each mean square once more; its mean is taken off before the shares are formed.
    Raises ValueError as `mean_squares` does.
    """
    values = np.asarray(values, dtype=float)
    squares, shape = mean_squares(values), values.shape
    i, _, k = shape
    drawn = np.random.default_rng(seed).integers(0, k, (n_boot, i, 1, k))
    resampled = mean_squares(np.take_along_axis(values[None], drawn, axis=-1))
    centred = np.maximum(resampled + squares - resampled.mean(axis=0), 0)
    raw, share = components_of(squares, shape), shares_of(components_of(squares, shape), k)
    low, high = np.quantile(shares_of(components_of(centred, shape), k), [0.025, 0.975], axis=0)
    return pd.DataFrame(
        {
            "part": PARTS,
            "freedom": freedom(*shape),
            "square": squares,
            "raw": raw,
            "variance": np.maximum(raw, 0),
            "share": [
                Estimate(float(at), float(least), float(most), i * k)
                for at, least, most in zip(share, low, high, strict=True)
            ],
        }
    )


def factor_known(degrees: int) -> tuple[float, float]:
    """A normal variance with so many degrees of freedom lies, with 95%, between which two multiples
    of its estimate: d / χ²; with two degrees between 0.27 and 39."""
    return float(degrees / chdtri(degrees, 0.025)), float(degrees / chdtri(degrees, 0.975))


def rank_correlation(x: np.ndarray, y: np.ndarray) -> Estimate:
    """Spearman's rank correlation of two numbers a document, with its 95% interval.

    The interval is symmetric in atanh, with variance (1 + ρ²/2) / (n - 3) there. [Standard: Bonett
    and Wright 2000.] Raises ValueError for fewer than 5 documents, or where one of the two is the
    same in all.
    """
    n = len(x)
    if n < 5 or n != len(y):
        raise ValueError(f"documents: expected 5 or more of both, got {n} and {len(y)}")
    ranks = [rankdata(values) for values in (x, y)]
    if min(rank.std() for rank in ranks) == 0:
        raise ValueError("values: expected different ones to rank, got the same in all documents")
    rho = float(np.corrcoef(*ranks)[0, 1])
    centre = np.arctanh(np.clip(rho, -1 + 1e-12, 1 - 1e-12))
    half = 1.959964 * np.sqrt((1 + rho**2 / 2) / (n - 3))
    return Estimate(rho, float(np.tanh(centre - half)), float(np.tanh(centre + half)), n)
