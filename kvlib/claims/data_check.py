"""The data check: is a KL the loss in predicting the text? Excess loss over KL, of stored policies.

For a reader whose full-context law is calibrated, the mean of log P_full(x)/P_cut(x) over the
tokens x that really follow is the mean KL of the two laws. So the ratio of the two means is one
where D may be read as the difference of two risks; below one, cutting costs less on the text than
the KL says. One is necessary for that reading, not sufficient. [Our reconstruction.]
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from kvlib import fit
from kvlib.claims.policy_rows import KEYS
from kvlib.names import name_of

LEAST_DOCUMENTS = 3  # for an interval


def excess_over_kl(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean excess loss over mean KL: `KEYS`, `ratio` (an `fit.Estimate`), `kl`.

    A row a model, text, protocol, policy and budget with enough documents; jackknife-t intervals
    over documents, each left out of both means. `kl` is in nats.
    """
    means = rows.groupby([*KEYS, "doc"], sort=False)[["nll_excess_nats", "kl_nats"]].mean()
    found = []
    for key, part in means.groupby(level=KEYS, sort=False):
        excess, kl = part.to_numpy().T
        if len(part) >= LEAST_DOCUMENTS and kl.mean() > 0:
            found.append((*key, fit.ratio(excess, kl), float(kl.mean())))
    return pd.DataFrame(found, columns=[*KEYS, "ratio", "kl"])


def excess_over_kl_plain(rows: pd.DataFrame) -> pd.Series:
    """The ratios alone, by `KEYS`, one loop a setting: the plain twin of `excess_over_kl`."""
    found = {}
    for key, part in rows.groupby(KEYS, sort=False):
        documents = [one for _, one in part.groupby("doc")]
        excess = np.mean([one["nll_excess_nats"].mean() for one in documents])
        found[key] = excess / np.mean([one["kl_nats"].mean() for one in documents])
    return pd.Series(found)


def counted(table: pd.DataFrame) -> pd.DataFrame:
    """What the ratios say, a row a model and text: `model, corpus, settings`, how many intervals
    hold one, lie `below` and `above`, and `median`, of the ratios."""
    found = []
    for key, part in table.groupby(["model", "corpus"], sort=False):
        below = sum(item.high < 1 for item in part["ratio"])
        above = sum(item.low > 1 for item in part["ratio"])
        median = float(np.median([item.value for item in part["ratio"]]))
        found.append((*key, len(part), len(part) - below - above, below, above, median))
    columns = ["model", "corpus", "settings", "hold one", "below", "above", "median"]
    return pd.DataFrame(found, columns=columns)


def facts(table: pd.DataFrame) -> dict[str, str]:
    """What the page glues: `data-check`, a sentence, and `data-check-suffix`, the
    ratios of what D is measured on, suffixes that are encoded anew."""
    counts = counted(table)
    total = counts[["settings", "hold one", "below", "above"]].sum()
    where = "; ".join(
        f"{name_of(row['model'])} on {name_of(row['corpus'])} {row['median']:.2f}, "
        f"surely below one {row['below']} of {row['settings']} times, above {row['above']}"
        for row in counts.to_dict("records")
    )
    suffix = table[(table["policy"] == "sliding") & (table["protocol"] == "reencode")]["ratio"]
    holds = sum(item.low <= 1 <= item.high for item in suffix)
    of_suffixes = "none is stored"
    if len(suffix):
        least, most = fit.extremes(suffix)
        of_suffixes = f"{least:.2g} to {most:.2g}; one lies in {holds} of {len(suffix)} intervals"
    return {
        "data-check": (
            f"Of {total['settings']} settings the interval holds one on {total['hold one']}, lies "
            f"below on {total['below']} and above on {total['above']}. Medians: {where}."
        ),
        "data-check-suffix": of_suffixes,
    }
