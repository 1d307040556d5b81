"""Two curves at the same windows, with no law between them."""

from __future__ import annotations

import numpy as np

from kvlib.fit.curve import Curve
from kvlib.fit.estimate import Estimate, jackknife


def matched_slope(above: Curve, below: Curve, power: float = 1) -> Estimate:
    """Slope of log(above^power / below) on log w, over the windows of `above` that `below` covers.

    Positive where `above` falls more slowly: the exponent of `below` less that of `above`, whatever
    the laws are; with a `power`, less `power` times that of `above`. `below` is read between its
    windows as `log_gap` reads it; windows count the same. Both have the same documents, and each is
    left out of both at once (jackknife-t). Raises ValueError for other numbers of documents or
    fewer than 3 windows.
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
    """log(above^power / below) at the windows of `above`.

    `below` is read on straight lines of log value on log w through the centres of its bins, and
    from the last centre to the end of its bin with the slope of the last octave: a falling curve
    is larger at a bin's centre than at its end. Before its first centre it stays.
    """
    x, y = np.log(below.window), np.log(below.mean)
    at = np.log(above.window)
    octave = x >= x[-1] - 1.01 * np.log(2)  # 1.01: a bin that lies an octave off but for rounding
    slope = np.polyfit(x[octave], y[octave], 1)[0]
    beyond = np.maximum(at - x[-1], 0)
    return power * np.log(above.mean) - np.interp(at, x, y) - slope * beyond
