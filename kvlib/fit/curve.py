"""From a table of pairs to a curve: binned windows, one mean for each document."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

BINS_PER_OCTAVE = 4
BOOTSTRAPS = 2000


@dataclass(frozen=True)
class Curve:
    """Mean divergence against window, document by document.

    `doc_means` has shape (documents, bins); the windows of a bin lie within 1/BINS_PER_OCTAVE of
    an octave: from `first` to `last`, and `window` is their geometric mean. `contexts`
    are 32 reference lengths T, evenly spread over those that occur: a mean over them is a mean
    over the targets. `n_starts` counts forward passes, `n_pairs` rows.
    """

    window: np.ndarray
    first: np.ndarray
    last: np.ndarray
    doc_means: np.ndarray
    contexts: np.ndarray
    n_pairs: int
    n_starts: int

    @property
    def n_documents(self) -> int:
        """Documents behind the curve: the sample size of every interval."""
        return len(self.doc_means)

    @property
    def mean(self) -> np.ndarray:
        """Mean over documents, one number a bin."""
        return self.doc_means.mean(axis=0)

    @property
    def weights(self) -> np.ndarray:
        """1 / variance of log(mean), from the spread between documents; they sum to one."""
        error = self.doc_means.std(axis=0, ddof=1) / np.sqrt(self.n_documents) / self.mean
        return error**-2 / np.sum(error**-2)

    def between(self, smallest: float, largest: float = np.inf) -> Curve:
        """The bins that hold no window below `smallest` and none above `largest`.

        Compares whole windows: the geometric mean of a bin that holds 8 alone is 7.999….
        """
        return self._where((self.first >= smallest) & (self.last <= largest))

    def positive(self) -> Curve:
        """The bins whose mean is positive, whichever document is left out: those with a logarithm.

        A curve of `signed` values may have others.
        """
        n = self.n_documents
        without_each = (self.doc_means.sum(axis=0) - self.doc_means) / (n - 1)
        return self._where((without_each > 0).all(axis=0) & (self.mean > 0))

    def split_at(self, split: float) -> tuple[Curve, Curve]:
        """The bins with no window above `split`, and all the others."""
        near = self.last <= split
        return self._where(near), self._where(~near)

    def _where(self, keep: np.ndarray) -> Curve:
        return replace(
            self,
            window=self.window[keep],
            first=self.first[keep],
            last=self.last[keep],
            doc_means=self.doc_means[:, keep],
        )

    def leaving_out(self) -> list[Curve]:
        """The curve, then the curve without each of its documents in turn."""
        n = self.n_documents
        without = (np.delete(self.doc_means, k, axis=0) for k in range(n))
        return [self, *(replace(self, doc_means=rest) for rest in without)]

    def resampled(self, n: int = BOOTSTRAPS, seed: int = 0) -> np.ndarray:
        """Means (n, bins) over documents drawn with replacement: the cluster bootstrap."""
        counts = np.random.default_rng(seed).multinomial(
            self.n_documents, np.full(self.n_documents, 1 / self.n_documents), size=n
        )
        return counts @ self.doc_means / self.n_documents


def parted(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Truncations, and the rows whose window is the whole context: one law measured in two ways."""
    same = rows["window"] == rows["context"]
    return rows[~same], rows[same]


def curve(
    table: pd.DataFrame, value: str = "kl_nats", signed: bool = False, common: bool = False
) -> Curve:
    """Average a table of pairs (`doc, position, context, window, <value>`) into a Curve.

    Every document counts the same. Rows whose window is their whole context measure the noise of
    one law measured twice, and are left out; with `common`, so are bins that some document lacks,
    as a thinned design may have among its short windows. Raises ValueError for fewer than two
    documents, a document without some bin, or values that are negative beyond rounding, unless they
    are `signed`, as the excess of a loss is.
    """
    table, _ = parted(table)
    if table["doc"].nunique() < 2:
        raise ValueError(f"documents: expected at least 2, got {table['doc'].nunique()}")
    low = table[value].min()
    if (low < -1e-6 and not signed) or not np.isfinite(table[value]).all():
        raise ValueError(f"{value}: expected finite values ≥ 0, got a minimum of {low}")
    bins = np.ceil(BINS_PER_OCTAVE * np.log2(table["window"]) - 1e-9).astype(int)
    doc_means = table.groupby(["doc", bins])[value].mean().unstack()
    if common:
        doc_means = doc_means.dropna(axis=1)
        table = table[bins.isin(doc_means.columns)]
        bins = bins[table.index]
    elif (gaps := doc_means.isna()).any(axis=None):
        doc, last = gaps.any(axis=1).idxmax(), 2 ** (gaps.any().idxmax() / BINS_PER_OCTAVE)
        raise ValueError(
            f"documents: expected every window bin in each, got none that ends at {last:.0f} "
            f"tokens in document {doc}"
        )
    start = table["position"] - table["window"] + 1
    octave = np.ceil(np.log2(table["window"])).astype(int)
    by_bin = table["window"].groupby(bins)
    return Curve(
        window=np.exp(np.log(table["window"]).groupby(bins).mean()).to_numpy(),
        first=by_bin.min().to_numpy(),
        last=by_bin.max().to_numpy(),
        doc_means=doc_means.to_numpy(dtype=float),
        contexts=np.quantile(np.unique(table["context"]), (np.arange(32) + 0.5) / 32),
        n_pairs=len(table),
        n_starts=len(pd.DataFrame({"d": table["doc"], "o": octave, "s": start}).drop_duplicates()),
    )
