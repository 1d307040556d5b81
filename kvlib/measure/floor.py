"""The noise floor: one law by two roads, or in two number formats. Below it all is rounding."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from kvlib.measure.laws import (
    exact_divergences,
    exact_laws,
    hidden_states,
    states_in_pieces,
)
from kvlib.models import LanguageModel

TARGETS = 64  # laws of a document, evenly spaced over its second half
PIECE = 512  # tokens a forward where a document is read a second time


class Floor(NamedTuple):
    """KL (nats) and TV between two laws that should be one: median and largest, of so many laws."""

    laws: int
    kl_median: float
    kl_max: float
    tv_median: float
    tv_max: float


def between(
    exact: LanguageModel,
    lm: LanguageModel,
    document: Int[np.ndarray, " tokens"],
    within: AbstractContextManager | None = None,
) -> Floor:
    """A model's laws beside those of a twin of it in float32, KL(twin ‖ model), on the second half
    of a document. `within` is a switch for the model alone, such as `tf32()`: then both may be the
    same object."""
    laws = exact_laws(exact, _states(exact, document))
    with within or nullcontext():
        return _floor(laws, exact_laws(lm, _states(lm, document)))


def again(lm: LanguageModel, document: Int[np.ndarray, " tokens"], piece: int = 0) -> Floor:
    """A model's laws beside its own, the document read in pieces: what one device cannot tell."""
    piece = piece or max(1, min(PIECE, len(document) // 4))
    return _floor(
        exact_laws(lm, _states(lm, document)), exact_laws(lm, _states(lm, document, piece))
    )


def of_rows(rows: pd.DataFrame) -> Floor:
    """The floor that a table holds: its rows of a law beside itself."""
    kl, tv = rows["kl_nats"].astype(float), rows["tv"].astype(float)
    return Floor(len(rows), kl.median(), kl.max(), tv.median(), tv.max())


@contextmanager
def tf32() -> Iterator[None]:
    """Within it, CUDA multiplies float32 matrices with TF32's ten bits; never otherwise here."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def _states(
    lm: LanguageModel, document: Int[np.ndarray, " tokens"], piece: int = 0
) -> Float[Tensor, "laws width"]:
    """Last hidden states at the targets, read in one pass, or `piece` tokens a forward."""
    ids = torch.as_tensor(np.asarray(document), device=lm.device)[None]
    targets = np.unique(np.linspace(len(document) // 2, len(document) - 1, TARGETS).astype(int))
    with torch.inference_mode():
        states = states_in_pieces(lm, ids, piece)[0] if piece else hidden_states(lm, ids)[0]
    return states[torch.from_numpy(targets).to(lm.device)]


def _floor(
    log_p: Float[Tensor, "laws vocabulary"], log_q: Float[Tensor, "laws vocabulary"]
) -> Floor:
    """Reduced where the second laws are."""
    kl, tv = (part.cpu().numpy() for part in exact_divergences(log_p.to(log_q.device), log_q))
    return Floor(len(kl), *map(float, (np.median(kl), kl.max(), np.median(tv), tv.max())))
