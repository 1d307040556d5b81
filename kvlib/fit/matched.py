"""Two curves at the same windows, with no law between them."""

from __future__ import annotations

import numpy as np

from kvlib.fit.curve import Curve
from kvlib.fit.estimate import Estimate, jackknife


def matched_slope(above: Curve, below: Curve, power: float = 1) -> Estimate:
    """Slope of log(above^power / below) on log w, over the windows of `above` that `below` covers.

    Positive where `above` falls more slowly: the exponent of `below` less that of `above`, whatever
    the laws are; with a `power`, less `power` times that of `above`. `below` is read between its
    windows on a straight line of log value on log w; windows count the same. Both have the same
    documents, and each is left out of both at once (jackknife-t). Raises ValueError for other
    numbers of documents or fewer than 3 windows.
    """
    if above.n_documents != below.n_documents:
        raise ValueError(
            f"documents: expected as many of both curves, got {above.n_documents} and "
            f"{below.n_documents}"
        )
    common = covered(above, below)
    x = np.log(above.window[common])
    if len(x) < 3:
        raise ValueError(f"windows: expected at least 3 that both curves cover, got {len(x)}")
    x -= x.mean()
    gaps = np.array(
        [
            log_gap(one, two, power)[common]
            for one, two in zip(above.leaving_out(), below.leaving_out(), strict=True)
        ]
    )
    slopes = gaps @ x / (x @ x)
    return jackknife(slopes[0], slopes[1:])


def covered(above: Curve, below: Curve) -> np.ndarray:
    """Which bins of `above` lie between the smallest and the largest window of `below`.

    Compares whole windows, as `Curve.between` does.
    """
    return (above.first >= below.first[0]) & (above.last <= below.last[-1])


def log_gap(above: Curve, below: Curve, power: float = 1) -> np.ndarray:
    """log(above^power / below) at the windows of `above`; beyond its ends `below` stays."""
    log = np.interp(np.log(above.window), np.log(below.window), np.log(below.mean))
    return power * np.log(above.mean) - log
