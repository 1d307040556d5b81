"""May a measured divergence be read as a Bayes risk? What the two signs are measured on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int

from kvlib.measure.divergences import kl_divergence
from kvlib.measure.laws import next_token_law, next_token_laws
from kvlib.models import LanguageModel


def nested(
    lm: LanguageModel,
    document: Int[np.ndarray, " tokens"],
    positions: list[int],
    short: int,
    long: int,
) -> pd.DataFrame:
    """The three divergences between full context, `long` and `short` window, target by target.

    Columns: `position, full_short, full_long, long_short` (KL in nats) and `log_ratio`, the log of
    P_T(x)/P_short(x) at the token that really follows. Raises ValueError unless
    1 ≤ short < long ≤ context and every position has a next token.
    """
    for t in positions:
        if not 1 <= short < long <= t + 1 or t + 1 >= len(document):
            raise ValueError(
                f"expected 1 <= short < long <= {t + 1} and a token after position {t} of "
                f"{len(document)}, got short {short}, long {long}"
            )
    rows = []
    for t, full in zip(positions, next_token_laws(lm, document, positions), strict=True):
        far, near = (next_token_law(lm, document[t + 1 - w : t + 1]) for w in (long, short))
        rows.append(
            {
                "position": t,
                "full_short": float(kl_divergence(full, near)),
                "full_long": float(kl_divergence(full, far)),
                "long_short": float(kl_divergence(far, near)),
                "log_ratio": float(full[document[t + 1]] - near[document[t + 1]]),
            }
        )
    return pd.DataFrame(rows)


def checked(settings: dict[str, Any], docs: int) -> dict[str, Any]:
    """The settings of a study of this kind; ValueError for windows that a third of a document
    cannot hold, or fewer tokens than targets."""
    s, (first, last) = settings, _region(settings["seq_len"])
    if not (len(s["windows"]) == 2 and 1 <= s["windows"][0] < s["windows"][1] <= first + 1):
        raise ValueError(
            f"windows: expected two, 1 <= short < long <= {first + 1}, got {s['windows']}"
        )
    if not 1 <= s["targets"] <= last - first:
        raise ValueError(f"targets: expected 1 to {last - first}, got {s['targets']}")
    return s


def item_rows(
    lm: LanguageModel, text: Any, settings: dict[str, Any], docs: int
) -> Callable[[int], pd.DataFrame]:
    """The number of a document → its rows, at targets drawn from the last two thirds of it."""
    s = settings
    documents = text.documents(lm.tokenizer, s["stride"], docs, s["seed"])

    def rows(doc: int) -> pd.DataFrame:
        rng = np.random.default_rng([s["seed"], doc])
        drawn = rng.choice(np.arange(*_region(s["seq_len"])), s["targets"], False)
        positions = [int(t) for t in sorted(drawn)]
        return nested(lm, documents[doc][: s["seq_len"]], positions, *s["windows"]).assign(doc=doc)

    return rows


def _region(seq_len: int) -> tuple[int, int]:
    """The first target that may be drawn, and the first beyond them: the last has no next token."""
    return seq_len // 3, seq_len - 1
