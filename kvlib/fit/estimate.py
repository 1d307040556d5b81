"""Every interval of the book: estimates with their 95% intervals over documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import stdtrit

MARGIN = 0.1  # exponents closer than this are called the same
AS_GOOD_AS_ZERO = 5e-5  # in a table


# --- estimates with intervals -----------------------------------------------------------------


@dataclass(frozen=True)
class Estimate:
    """A number with its 95% interval over documents, and how many documents stand behind it.

    `flat` marks an exponent at the lower end of what is fitted, whichever document is left out, or
    a difference from one: there is no exponent, and the width of the interval means nothing.
    """

    value: float
    low: float
    high: float
    n_documents: int
    flat: bool = False

    def __str__(self) -> str:
        return format(self, ".3g")

    def __format__(self, spec: str) -> str:
        """The value and its interval, each formatted by `spec`; no line breaks in an interval.

        `t` is the format of tables: as many places as show the width of the interval to two digits.
        It stands in where `spec` makes one text of two of them, as in 1 [1, 1].
        """
        if self.flat:
            return "no exponent"
        numbers = self.value, self.low, self.high
        tabular = f",.{places(*numbers)}f"
        texts = [_plain(x, tabular if spec == "t" else spec or ".3g") for x in numbers]
        if len(set(texts)) < len(set(numbers)):
            texts = [_plain(x, tabular) for x in numbers]
        value, low, high = texts
        return f"{value} [{low},\u00a0{high}]".replace("-", "\u2212")


def places(value: float, low: float, high: float) -> int:
    """How many places after the point show the width of an interval to two digits, and no positive
    lower end as zero; six at most, and two where all three are as good as zero."""
    width = high - low
    if not 0 < width < np.inf or max(abs(value), abs(low), abs(high)) < AS_GOOD_AS_ZERO:
        return 2
    wanted = 1 - np.floor(np.log10(width))
    if low > 0:
        wanted = max(wanted, -np.floor(np.log10(low)))
    return int(np.clip(wanted, 0, 6))


def _plain(number: float, spec: str) -> str:
    """A number as `spec` has it, but 160 rather than 1.6e+02, and 0.60 rather than 0.6 where `spec`
    counts digits: what stands behind one number of an interval stands behind all."""
    padded = "#" * (number != 0 and spec.endswith("g"))
    text = format(number, padded + spec).removesuffix(".")
    if "e+" in text:
        return f"{float(text):,.0f}"
    return text.lstrip("-") if float(text.replace(",", "")) == 0 else text


def estimate(value: float, samples: np.ndarray, n_documents: int) -> Estimate:
    """Percentile interval of bootstrap samples around the value from all documents."""
    low, high = np.quantile(samples, [0.025, 0.975])
    return Estimate(float(value), float(low), float(high), n_documents)


def geometric_mean(estimates: pd.Series) -> float:
    """Geometric mean of the values of a column of estimates."""
    return float(np.exp(np.mean([np.log(item.value) for item in estimates])))


def extremes(estimates: pd.Series) -> tuple[Estimate, Estimate]:
    """The smallest and the largest of a column of estimates, by their values."""
    return tuple(pick(estimates, key=lambda item: item.value) for pick in (min, max))


def jackknife(whole: float, left: np.ndarray) -> Estimate:
    """A statistic with a t interval, from its values when each of n documents is left out."""
    n = len(left)
    _check_enough(n)
    half = stdtrit(n - 1, 0.975) * np.sqrt((n - 1) * np.var(left))
    return Estimate(float(whole), float(whole - half), float(whole + half), n)


def mean_of(values: pd.Series) -> Estimate:
    """A mean over documents with its 95% t interval."""
    n = len(values)
    half = stdtrit(n - 1, 0.975) * values.std(ddof=1) / np.sqrt(n)
    mean = float(values.mean())
    return Estimate(mean, float(mean - half), float(mean + half), n)


def log_mean(values: np.ndarray) -> Estimate:
    """Mean of positive document means with its 95% interval, symmetric in the logarithm."""
    return exponential_of(jackknife(np.log(values.mean()), np.log(means_without_each(values))))


def log_ratio(above: np.ndarray, below: np.ndarray) -> Estimate:
    """Ratio of two means over the same documents, paired, symmetric in the logarithm."""
    whole = np.log(above.mean() / below.mean())
    return exponential_of(
        jackknife(whole, np.log(means_without_each(above) / means_without_each(below)))
    )


def ratio(above: np.ndarray, below: np.ndarray) -> Estimate:
    """Ratio of two means over the same documents, paired, whatever their signs; jackknife-t."""
    left = means_without_each(above) / means_without_each(below)
    return jackknife(above.mean() / below.mean(), left)


def over_texts(estimates: Sequence[Estimate]) -> Estimate:
    """The mean over texts with a t interval from their spread: n is the number of texts.

    It says how far another text may lie off, which no number of documents of these texts tells.
    Raises ValueError for fewer than two texts.
    """
    values = pd.Series([item.value for item in estimates], dtype=float)
    if len(values) < 2:
        raise ValueError(f"texts: expected at least 2, got {len(values)}")
    return mean_of(values)


def means_without_each(values: np.ndarray) -> np.ndarray:
    """Means (n,) without each of n values in turn."""
    _check_enough(len(values))
    return (values.sum() - values) / (len(values) - 1)


def _check_enough(n: int) -> None:
    if n < 3:
        raise ValueError(f"documents: expected at least 3 to leave one out, got {n}")


def exponential_of(item: Estimate) -> Estimate:
    value, low, high = np.exp([item.value, item.low, item.high])
    return Estimate(float(value), float(low), float(high), item.n_documents)
