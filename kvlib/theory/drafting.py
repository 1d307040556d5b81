"""Drafting without loss: what a bounded cache buys that drafts for a full one. Plain NumPy.

Speculative sampling (Leviathan, Kalman and Matias, arXiv 2211.17192; Chen et al., arXiv
2302.01318): γ tokens are drafted from laws q, one pass gives the full model's laws p behind each of
them, and a rule keeps a first part of the draft and adds one token. The text has the law p exactly.
Here q is the same model behind a bounded cache, as in TriForce (arXiv 2404.11912) and VeriCache
(arXiv 2605.17613). A step is taken to last as long as its bytes take to be read.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from kvlib.theory.bounds import positive, within

# --- the rule -----------------------------------------------------------------------------------


def acceptance(p: ArrayLike, q: ArrayLike) -> np.ndarray:
    """Chance that a token drawn from q is kept: Σ min(p, q) = 1 - TV(p, q).

    Laws (…, vocabulary) with mass one, not their logarithms. Leviathan et al., Theorem 3.5.
    """
    return np.minimum(within("p", p, 0, 1), within("q", q, 0, 1)).sum(axis=-1)


def kept_chance(p: ArrayLike, q: ArrayLike, token: int) -> float:
    """Chance that this drafted token is kept: min(1, p(x)/q(x)), for laws (vocabulary,)."""
    above, below = float(np.asarray(p)[token]), float(np.asarray(q)[token])
    if not below > 0:
        raise ValueError(f"token: expected one that q can draw, got {token} with q = {below:g}")
    return min(1.0, above / below)


def residual(p: ArrayLike, q: ArrayLike) -> np.ndarray:
    """The law that replaces a rejected token: (p - q)⁺ / Σ (p - q)⁺, for laws (…, vocabulary).

    Where p = q nothing is rejected, and this is p. Chen et al., Algorithm 2.
    """
    p, q = within("p", p, 0, 1), within("q", q, 0, 1)
    above = np.maximum(p - q, 0)
    mass = above.sum(axis=-1, keepdims=True)
    return np.where(mass > 0, above / np.where(mass > 0, mass, 1), p)


def output_law(p: ArrayLike, q: ArrayLike) -> np.ndarray:
    """The law of the token that the rule writes: min(p, q) + TV(p, q) · residual, which is p."""
    p, q = np.asarray(p, dtype=float), np.asarray(q, dtype=float)
    return np.minimum(p, q) + (1 - acceptance(p, q))[..., None] * residual(p, q)


# --- tokens a round -----------------------------------------------------------------------------


def tokens_a_round(beta: ArrayLike, draft: ArrayLike) -> np.ndarray:
    """Expected tokens of a round of `draft` = γ drafted tokens, each kept with chance β by itself.

    E[n] = Σ_{i=0}^{γ} β^i = (1 - β^{γ+1}) / (1 - β),  γ + 1 for β = 1

    The kept first part of the draft, and one token more. Leviathan et al., equation 1.
    """
    beta, draft = within("beta", beta, 0, 1), within("draft", draft, 0, np.inf)
    short = np.where(beta < 1, 1 - beta, 1)
    return np.where(beta < 1, (1 - beta ** (draft + 1)) / short, draft + 1)[()]


def tokens_along(chances: ArrayLike) -> np.ndarray:
    """Expected tokens of rounds whose i-th drafted token is kept with chance a_i, given the draft.

    1 + Σ_i Π_{j≤i} a_j for chances (…, γ): no independence between places is assumed. Where good
    and bad places come together, its mean is above `tokens_a_round` of the mean chance; with one
    chance for all places of a round that is Jensen's inequality.
    """
    return 1 + np.cumprod(within("chances", chances, 0, 1), axis=-1).sum(axis=-1)


# --- bytes and time -----------------------------------------------------------------------------


def step_bytes(
    weights: ArrayLike, token_bytes: ArrayLike, sequences: ArrayLike, held: ArrayLike
) -> np.ndarray:
    """Bytes that a forward reads: W + B k T, weights once and the cache of each of B sequences.

    `weights` W and `token_bytes` k in bytes; `held` T, entries that each sequence's cache holds.
    """
    cache = positive("token_bytes", token_bytes) * positive("sequences", sequences)
    return positive("weights", weights) + cache * within("held", held, 0, np.inf)


def round_bytes(
    draft: ArrayLike,
    window: ArrayLike,
    context: ArrayLike,
    sequences: ArrayLike,
    weights: ArrayLike,
    token_bytes: ArrayLike,
) -> np.ndarray:
    """Bytes of a round: γ (W + B k w) to draft, W + B k T to verify."""
    drafting = step_bytes(weights, token_bytes, sequences, window)
    return within("draft", draft, 0, np.inf) * drafting + step_bytes(
        weights, token_bytes, sequences, context
    )


def speed_up(
    tokens: ArrayLike,
    draft: ArrayLike,
    window: ArrayLike,
    context: ArrayLike,
    sequences: ArrayLike,
    weights: ArrayLike,
    token_bytes: ArrayLike,
) -> np.ndarray:
    """How many times faster than decoding token by token, where time is bytes read.

    S = E[n] (W + B k T) / (γ (W + B k w) + W + B k T); `tokens` is E[n] a round and sequence.

    Goes to E[n] as B k T grows, and to E[n] / (γ + 1) ≤ 1 as it vanishes.
    """
    plain = step_bytes(weights, token_bytes, sequences, context)
    return (
        positive("tokens", tokens)
        * plain
        / round_bytes(draft, window, context, sequences, weights, token_bytes)
    )


def break_even_context(
    tokens: ArrayLike,
    draft: ArrayLike,
    window: ArrayLike,
    sequences: ArrayLike,
    weights: ArrayLike,
    token_bytes: ArrayLike,
) -> np.ndarray:
    """The context T from which drafting pays, S = 1; ∞ where a round yields one token only.

    T = ((γ + 1 - E[n]) W / (B k) + γ w) / (E[n] - 1)
    """
    tokens, draft = positive("tokens", tokens), within("draft", draft, 0, np.inf)
    load = positive("weights", weights) / (
        positive("sequences", sequences) * positive("token_bytes", token_bytes)
    )
    needed = (draft + 1 - tokens) * load + draft * within("window", window, 0, np.inf)
    gain = tokens - 1
    return np.where(gain > 0, needed / np.where(gain > 0, gain, 1), np.inf)[()]


def break_even_sequences(
    tokens: ArrayLike,
    draft: ArrayLike,
    window: ArrayLike,
    context: ArrayLike,
    weights: ArrayLike,
    token_bytes: ArrayLike,
) -> np.ndarray:
    """The batch B from which drafting pays, S = 1; ∞ where no batch is large enough.

    B = (γ + 1 - E[n]) W / (k ((E[n] - 1) T - γ w))
    """
    tokens, draft = positive("tokens", tokens), within("draft", draft, 0, np.inf)
    saved = (tokens - 1) * within("context", context, 0, np.inf) - draft * within(
        "window", window, 0, np.inf
    )
    load = (
        (draft + 1 - tokens) * positive("weights", weights) / positive("token_bytes", token_bytes)
    )
    return np.where(saved > 0, load / np.where(saved > 0, saved, 1), np.inf)[()]
