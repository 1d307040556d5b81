"""Keys, values and queries of a real cache → bits per token and head."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from kvlib.measure.laws import Ids
from kvlib.models import LanguageModel, check_length, rotary
from kvlib.theory.bounds import positive, within
from kvlib.theory.gaussian_coding import (
    conditional_covariance,
    gain_bias,
    side_information_gain,
    water_filling,
)

SINKS = 4  # first positions, left out: attention parks there, and their keys are unlike all others
GRID = (0.7, 0.5, 0.35, 0.25, 0.18, 0.12, 0.09, 0.06, 0.045, 0.03, 0.02, 0.015, 0.01)  # D / tr Σ
LEVELS = 400  # water levels between which the curves are interpolated


# --- what the model holds (torch) -------------------------------------------------------------


class Capture(NamedTuple):
    """What a pass over T tokens leaves: `keys` and `values` (layers, heads, T, d), `queries`
    (layers, heads, T, g·d), the g query heads that read one key head side by side."""

    keys: Float[np.ndarray, "layers heads tokens head_dim"]
    values: Float[np.ndarray, "layers heads tokens head_dim"]
    queries: Float[np.ndarray, "layers heads tokens query_dim"]


def capture(lm: LanguageModel, ids: Ids) -> Capture:
    """Keys, values and queries of every layer before RoPE, by hooks on the projections.

    One pass over `ids` behind the model's own prefix, whose positions are dropped again. Raises
    ValueError for models that normalise keys after the projection: there it isn't what is cached.
    """
    check_length(lm, len(ids))
    layers = [layer.self_attn for layer in lm.model.base_model.layers]
    if any(hasattr(attention, "k_norm") for attention in layers):
        raise ValueError(f"{lm.name}: expected keys straight from k_proj, got a norm after it")
    size, names = layers[0].head_dim, ("k_proj", "v_proj", "q_proj")
    heads = layers[0].k_proj.out_features // size
    seen: dict[str, list] = {name: [] for name in names}
    hooks = [
        getattr(attention, name).register_forward_hook(
            lambda _module, _args, out, name=name: seen[name].append(out[0])
        )
        for attention in layers
        for name in names
    ]
    whole = lm.prefixed(torch.as_tensor(np.asarray(ids)))[None]
    try:
        with torch.inference_mode():
            lm.model.base_model(whole, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    first = len(lm.prefix_ids)
    parts = []
    for name in names:
        stacked = torch.stack(seen[name])[:, first:]
        split = stacked.unflatten(2, (heads, -1)).transpose(1, 2)
        parts.append(split.float().cpu().numpy())
    return Capture(*parts)


def rotate(
    lm: LanguageModel, keys: Float[np.ndarray, "... tokens head_dim"]
) -> Float[np.ndarray, "... tokens head_dim"]:
    """Captured keys turned by RoPE at their positions: what the cache of the same pass holds."""
    first = len(lm.prefix_ids)
    position = torch.arange(first, first + keys.shape[-2], device=lm.device)[None]
    rotation = rotary.turns(lm.model, 0, position)
    return rotary.turned(torch.as_tensor(keys, device=lm.device), *rotation).cpu().numpy()


def cached_keys(lm: LanguageModel, ids: Ids) -> Float[np.ndarray, "layers heads tokens head_dim"]:
    """The keys (layers, heads, T, d) that the model's own cache holds after a pass over `ids`."""
    check_length(lm, len(ids))
    whole = lm.prefixed(torch.as_tensor(np.asarray(ids)))[None]
    with torch.inference_mode():
        cache = lm.model.base_model(whole, use_cache=True).past_key_values
    keys = torch.stack([layer.keys[0] for layer in cache.layers])
    return keys[:, :, len(lm.prefix_ids) :].float().cpu().numpy()


# --- moments and the fit ----------------------------------------------------------------------


class Moments(NamedTuple):
    """`n` rows, their `mean` (..., p) and their uncentred `second` moments (..., p, p)."""

    n: int
    mean: Float[np.ndarray, "*heads p"]
    second: Float[np.ndarray, "*heads p p"]

    def around(self, centre: Float[np.ndarray, "*heads p"]) -> Float[np.ndarray, "*heads p p"]:
        """E (z - c)(z - c)^T."""
        cross = self.mean[..., :, None] * centre[..., None, :]
        square = centre[..., :, None] * centre[..., None, :]
        return self.second - cross - np.swapaxes(cross, -1, -2) + square


def moments_of(rows: ArrayLike) -> Moments:
    """Moments of rows (..., n, p) in float64."""
    rows = np.asarray(rows, dtype=np.float64)
    n = rows.shape[-2]
    return Moments(n, rows.mean(axis=-2), np.swapaxes(rows, -1, -2) @ rows / n)


def pooled(parts: Sequence[Moments]) -> Moments:
    """Moments of all rows together."""
    weights = np.array([part.n for part in parts], dtype=float)
    weights /= weights.sum()
    mean = sum(w * part.mean for w, part in zip(weights, parts, strict=True))
    second = sum(w * part.second for w, part in zip(weights, parts, strict=True))
    return Moments(sum(part.n for part in parts), mean, second)


def oas(covariance: Float[np.ndarray, "p p"], n: int) -> Float[np.ndarray, "p p"]:
    """A sample covariance shrunk by the oracle-approximating rule (Chen, Wiesel, Eldar, Hero 2010).

        ρ = min(1, [(1 - 2/p) tr R² + tr² R] / [(n + 1 - 2/p) (tr R² - tr² R / p)])

    applied to the correlation matrix R, so that units do not matter: (1-ρ) Σ + ρ diag Σ. Raises
    ValueError for variances that are not positive.
    """
    covariance = np.asarray(covariance, dtype=np.float64)
    scale = np.sqrt(positive("variances", np.diag(covariance)))
    p, square = len(scale), float(((covariance / np.outer(scale, scale)) ** 2).sum())
    spread = (n + 1 - 2 / p) * (square - p)
    rho = 1.0 if spread <= 0 else min(1.0, ((1 - 2 / p) * square + p**2) / spread)
    return (1 - rho) * covariance + rho * np.diag(scale**2)


class Coder(NamedTuple):
    """A transform coder: remove `mean`, predict from the side by `weights`, turn by `basis`,
    spend bits on components of variance `variances` as water-filling says."""

    mean: Float[np.ndarray, " p"]
    weights: Float[np.ndarray, "size side"]
    basis: Float[np.ndarray, "size size"]
    variances: Float[np.ndarray, " size"]


def fit_coder(
    mean: Float[np.ndarray, " p"], joint: Float[np.ndarray, "p p"], size: int, known: bool
) -> Coder:
    """The coder of the first `size` variables of a joint covariance, the others known or not."""
    joint = np.asarray(joint, dtype=np.float64)
    if known:
        weights = np.linalg.solve(joint[size:, size:], joint[size:, :size]).T
        target = conditional_covariance(joint, size)
    else:
        weights = np.zeros((size, len(joint) - size))
        target = joint[:size, :size]
    variances, basis = np.linalg.eigh((target + target.T) / 2)
    return Coder(mean, weights, basis, variances)


def residual_variances(coder: Coder, rows: Moments) -> Float[np.ndarray, " size"]:
    """What is left in each of the coder's components, on rows that may be others than fitted."""
    size = len(coder.variances)
    around = rows.around(coder.mean)
    turn = coder.basis.T @ np.hstack([np.eye(size), -coder.weights])
    return np.einsum("ip,pq,iq->i", turn, around, turn)


# --- rates ------------------------------------------------------------------------------------


class Points(NamedTuple):
    """`rate_nats` at total squared error `distortion`, for each water level."""

    rate_nats: Float[np.ndarray, " levels"]
    distortion: Float[np.ndarray, " levels"]


def coded(variances: ArrayLike, actual: ArrayLike, levels: ArrayLike) -> Points:
    """Rate and error of a Gaussian codebook made for `variances` on components of `actual` ones.

    Component i under level θ < λ_i, where it has the variance v_i and a = 1 - θ/λ_i:

        rate ½ log(λ_i/θ) + ½ a (v_i/λ_i - 1),   error θ + (θ/λ_i)² (v_i - λ_i)

    and 0 and v_i for θ ≥ λ_i: the mean of log p(y|x)/q(y) over the test channel of λ_i. With
    v = λ it is reverse water-filling. [Our reconstruction; a Gaussian codebook on another source,
    Lapidoth 1997.]
    """
    lam, v = positive("variances", variances), within("actual", actual, 0, np.inf)
    theta = positive("levels", levels)[..., None]
    share = np.minimum(theta / lam, 1)
    rate = -0.5 * np.log(share) + 0.5 * (1 - share) * (v / lam - 1)
    error = np.where(share < 1, theta + share**2 * (v - lam), v)
    return Points(rate.sum(axis=-1), error.sum(axis=-1))


def rate_at(
    coder: Coder, rows: Moments, grid: ArrayLike = GRID
) -> Float[np.ndarray, " distortions"]:
    """Nats per row at relative distortions D/trΣ, held on rows that the coder may not have seen.

    trΣ is that of the rows themselves around the coder's mean, before any prediction.
    """
    size = len(coder.variances)
    total = np.trace(rows.around(coder.mean)[:size, :size])
    targets = np.geomspace(np.min(grid) / 50, 1, LEVELS) * coder.variances.sum()
    levels = water_filling(coder.variances, targets).level
    levels[-1] = coder.variances.max()
    points = coded(coder.variances, residual_variances(coder, rows), levels)
    reached = np.maximum.accumulate(np.maximum(points.distortion / total, 1e-12))
    return np.maximum(np.interp(np.log(grid), np.log(reached), points.rate_nats), 0)


def held_out_gain(without: Coder, known: Coder, rows: Moments) -> float:
    """What the side information saves at small distortion, in nats, on rows not fitted.

    The limit of the difference of rates: of the two, ½ Σ [log λ_i + v_i/λ_i].
    """
    cost = [
        0.5 * np.sum(np.log(c.variances) + residual_variances(c, rows) / c.variances)
        for c in (without, known)
    ]
    return float(cost[0] - cost[1])


# --- the measurement --------------------------------------------------------------------------


def rows_of(found: Capture) -> Float[np.ndarray, "layers heads rows columns"]:
    """Pairs (k_t, v_t, q_{t+1}) as rows (layers, heads, n, 2d + g·d), sink positions left out."""
    now, following = slice(SINKS, -1), slice(SINKS + 1, None)
    return np.concatenate(
        [found.keys[:, :, now], found.values[:, :, now], found.queries[:, :, following]], axis=-1
    )


def measure(lm: LanguageModel, documents: Iterable[Int[np.ndarray, " tokens"]]) -> pd.DataFrame:
    """Rates of keys and values, with the next query and without, each document coded by the others.

    Documents of even number are coded by what was fitted on the odd ones, and the other way round.

    Returns:
        One row a (doc, layer, head, part, relative distortion): `rate_bits`,
        `rate_with_query_bits` per token; and, the same for all distortions, `gain_bits` (saving at
        small distortion, held out), `plug_in_bits` (the in-sample figure of the fit that coded
        this document), `bias_bits` (by how much that one overstates for independent rows).
    """
    found, size = [], 0
    for document in documents:
        one = capture(lm, document)
        size = one.keys.shape[-1]
        per_layer = [moments_of(layer) for layer in rows_of(one)]
        found.append(per_layer)
    if len(found) < 2:
        raise ValueError(f"documents: expected at least 2, got {len(found)}")
    tables = []
    for layer in range(len(found[0])):
        whole = [document[layer] for document in found]
        for head in range(len(whole[0].mean)):
            per_doc = [Moments(m.n, m.mean[head], m.second[head]) for m in whole]
            for k, part in enumerate(("key", "value")):
                tables.append(_one_head(per_doc, size, k).assign(layer=layer, head=head, part=part))
    table = pd.concat(tables, ignore_index=True)
    floats = [name for name in table if name.endswith("_bits")] + ["distortion"]
    table = table.astype(dict.fromkeys(floats, np.float32))
    return table.astype({"doc": np.int16, "layer": np.int16, "head": np.int16})


def _one_head(per_doc: Sequence[Moments], size: int, part: int) -> pd.DataFrame:
    """The rows of one head's keys (part 0) or values (part 1), all documents."""
    p = len(per_doc[0].mean)
    kept = np.r_[part * size : (part + 1) * size, 2 * size : p]
    docs = [Moments(m.n, m.mean[kept], m.second[np.ix_(kept, kept)]) for m in per_doc]
    rows = []
    for fold in (0, 1):
        fitted = pooled(docs[1 - fold :: 2])
        if fitted.n <= len(kept) + 1:
            raise ValueError(f"rows to fit: expected more than {len(kept) + 1}, got {fitted.n}")
        sample = fitted.around(fitted.mean)
        joint = oas(sample, fitted.n)
        plug_in = side_information_gain(sample, size)
        bias = gain_bias(fitted.n, size, len(kept) - size)
        alone, knowing = (fit_coder(fitted.mean, joint, size, known) for known in (False, True))
        for doc in range(fold, len(docs), 2):
            rates = [rate_at(coder, docs[doc]) for coder in (alone, knowing)]
            rows.append(
                pd.DataFrame({"doc": doc, "distortion": GRID})
                .assign(rate_bits=rates[0], rate_with_query_bits=rates[1])
                .assign(gain_bits=held_out_gain(alone, knowing, docs[doc]))
                .assign(plug_in_bits=plug_in, bias_bits=bias)
            )
    table = pd.concat(rows)
    in_bits = [name for name in table if name.endswith("_bits")]
    table[in_bits] /= np.log(2)
    return table


def checked(settings: dict[str, Any], docs: int) -> dict[str, Any]:
    """The settings of a study of this kind, with how it codes; each document is coded by others, so
    their number is a setting too."""
    if docs < 2:
        raise ValueError(f"docs: expected at least 2, got {docs}")
    return settings | {
        "protocol": "prefill, next query of the same full-context pass (a genie's)",
        "docs": docs,
        "sinks_left_out": SINKS,
        "relative_distortions": list(GRID),
        "shrinkage": "OAS on the correlation matrix of key or value and stacked queries",
        "folds": 2,
    }


def item_rows(
    lm: LanguageModel, text: Any, settings: dict[str, Any], docs: int
) -> Callable[[int], pd.DataFrame]:
    """The number of a document → its rows; all are measured when the first is asked for."""
    s = settings
    documents = text.documents(lm.tokenizer, s["stride"], docs, s["seed"])
    whole = cache(lambda: measure(lm, [document[: s["seq_len"]] for document in documents]))
    return lambda doc: whole().query("doc == @doc").reset_index(drop=True)
