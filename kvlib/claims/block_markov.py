"""C9: what working in blocks costs, and two readings of a factor of two in the exponent.

The block-Markov scheme and its exponents are our reconstruction; only the paper's abstract is known
to us.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from kvlib import fit, store
from kvlib.claims.claim import (
    MIN_WINDOW,
    Claim,
    Figure,
    Verdict,
    figures_of,
    rule_text,
    stored_curves,
    to_come,
)
from kvlib.names import written
from kvlib.theory import blocks, bounds, gaussian, sources

CLAIM = Claim(
    "C9",
    "A block-Markov scheme attains the upper bound, up to a factor of two in the exponent.",
    "block_markov",
)
CLAIMS = (CLAIM,)
TOLERANCE = 0.01  # of a local exponent against the table's


def exponent_table(alphas: tuple[float, ...] = (0.5, 1.0, 1.5)) -> pd.DataFrame:
    """Local exponents of the exact excess beside those of its leading term, for Δ = c (w+1)^-α.

    An exponent is the fall of log E over one octave of the size that grows: of the block where the
    carry is nothing or short, of the carry where it is long, of both where they are equal. Columns
    `regime, grows, α, exact, leading term, limit`; the limit is what the leading term tends to.
    """
    c, big, short = 0.1, 2**20, 2**5
    sizes = {  # regime: what grows, (block, carry) before and after
        "no carry": ("block", (big, 0), (2 * big, 0)),
        "short carry": ("block", (big, short), (2 * big, short)),
        "long carry": ("carry", (short, big), (short, 2 * big)),
        "carry = block": ("both", (big // 2, big // 2), (big, big)),
    }
    rows = []
    for regime, (grows, before, after) in sizes.items():
        block, carry = np.transpose([before, after])
        for alpha in alphas:
            delta = c * np.arange(1.0, 2 * big + short + 1) ** -alpha
            exact = blocks.block_excess(delta, block, carry)
            if regime == "carry = block":
                leading = block.astype(float) ** -alpha
            else:
                leading = blocks.asymptotic_excess(c, alpha, block, np.maximum(carry, 1), regime)
            fixed = regime in ("no carry", "short carry")
            limit = float(blocks.excess_exponent(alpha, carry_grows=not fixed))
            slopes = (-float(np.diff(np.log2(values))[0]) for values in (exact, leading))
            rows.append((regime, grows, alpha, *slopes, limit))
    return pd.DataFrame(rows, columns=["regime", "grows", "α", "exact", "leading term", "limit"])


def exact_sources() -> dict[str, np.ndarray]:
    """Δ(0), ..., Δ(1023) of five sources with a known answer, nats."""
    windows = np.arange(1024)
    known = {
        "Gaussian, α = 0.5": gaussian.GaussianPowerLaw(0.5, 0.1),
        "Gaussian, α = 1.5": gaussian.GaussianPowerLaw(1.5, 0.1),
        "renewal, θ = 1.5": sources.Renewal(1.5),
        "recall, α = 0.8": sources.Recall(0.8),
        "lacunary, α = 1": gaussian.Lacunary(1.0, 1.0),
    }
    return {name: source.sensitivity(windows) for name, source in known.items()}


def sliding_checks(largest: int = 512) -> pd.DataFrame:
    """Excess of blocks over the risk of sliding windows: the least and the largest ratio found.

    Blocks and carries are 1 to `largest` in half octaves, carries also 0 in the lower ratios.
    Columns: `convex` (Δ bends upward everywhere), `mean` and `peak` (least ratio to the sliding
    window of equal mean and of equal peak context), `carry` (largest ratio to Δ(carry)), and the
    number of `schemes`. The scheme attains the upper bound when `carry` ≤ 1, and no converse is
    violated when `peak` ≥ 1.
    """
    sizes = np.unique(np.round(2 ** np.arange(0, np.log2(largest) + 0.1, 0.5)).astype(int))
    block, carry = (grid.ravel() for grid in np.meshgrid(sizes, np.append(0, sizes)))
    rows = {}
    for name, delta in exact_sources().items():
        excess = blocks.block_excess(delta, block, carry)
        middle = np.interp(carry + (block - 1) / 2, np.arange(len(delta)), delta)
        rows[name] = {
            "convex": bool((np.diff(delta, 2) >= -1e-12 * delta[0]).all()),
            "mean": float((excess / middle).min()),
            "peak": float((excess / delta[carry + block - 1]).min()),
            "carry": float((excess / delta[carry]).max()),
            "schemes": len(block),
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def pinsker_exponents(alphas: tuple[float, ...] = (0.5, 1.0, 1.5)) -> pd.DataFrame:
    """First reading of the factor of two: the exact exponent in the carry, and Pinsker's.

    One symbol predicted from w, w = 2^19 to 2^20. Columns `KL, by Pinsker`, one row an α.
    """
    carry = np.array([2**19, 2**20])
    rows = {}
    for alpha in alphas:
        delta = 0.1 * np.arange(1.0, carry[-1] + 2) ** -alpha
        pair = blocks.block_excess(delta, 1, carry), blocks.block_tv(delta, 1, carry)
        rows[alpha] = [-float(np.diff(np.log2(values))[0]) for values in pair]
    return pd.DataFrame.from_dict(rows, orient="index", columns=["KL", "by Pinsker"])


def tv_exponents(theta: float = 1.5) -> pd.DataFrame:
    """Second reading: exponents of KL and of TV on three exact sources, and their ratio ρ.

    Local exponents over the last octave up to w = 2^14. Columns `KL, TV, ρ`.
    """
    windows = np.array([2**13, 2**14])
    known = {
        "Gaussian": gaussian.GaussianPowerLaw(theta, 0.1),
        "renewal": sources.Renewal(theta),
        "recall": sources.Recall(theta),
    }
    rows = {}
    for name, source in known.items():
        values = source.sensitivity(windows), source.total_variation(windows)
        kl, tv = (-float(np.diff(np.log2(value))[0]) for value in values)
        rows[name] = {"KL": kl, "TV": tv, "ρ": kl / tv}
    return pd.DataFrame.from_dict(rows, orient="index")


def rule(exponents: pd.DataFrame, sliding: pd.DataFrame, ratios: pd.DataFrame) -> str:
    """C9. `our construction`, true of what we built, when on the exact sources every exponent is
    the predicted one, the scheme attains the upper bound without violating the converse, and the
    ratio of the KL and TV exponents reaches both of its ends, one and two. `partly` when only the
    scheme passes."""
    matched = (exponents["exact"] - exponents["leading term"]).abs() <= TOLERANCE
    attained = (sliding["carry"] <= 1 + 1e-9) & (sliding["peak"] >= 1 - 1e-9)
    if not (matched.all() and attained.all()):
        return "not reproduced"
    ends = np.abs(ratios["ρ"].to_numpy()[:, None] - [1, 2]).min(axis=0)
    return "our construction" if (ends <= 2 * TOLERANCE).all() else "partly"


def sentence(exponents: pd.DataFrame, sliding: pd.DataFrame, real: pd.DataFrame) -> str:
    """What the verdict of C9 rests on, in a line; `real` is what `two_distances` returns."""
    miss = (exponents["exact"] - exponents["leading term"]).abs().max()
    low, high = fit.extremes(real["ρ"])
    schemes = f"{sliding['schemes'].sum():,} schemes on {len(sliding)} exact sources"
    return (
        f"our reconstruction: {len(exponents)} exponents met to {miss:.1g}, and {schemes} keep "
        f"both bounds; on real models α_KL/α_TV from {low:.2g} to {high:.2g}; {len(real)} tables, "
        f"{real['documents'].min()} or more documents each"
    )


def power(exponents: pd.DataFrame, sliding: pd.DataFrame, ratios: pd.DataFrame) -> str:
    """What would have given each word, and how far it was: of the tables of `rule`."""
    miss = (exponents["exact"] - exponents["leading term"]).abs().max()
    ends = np.abs(ratios["ρ"].to_numpy()[:, None] - [1, 2]).min(axis=0)
    near = [written(f"{end:.1g}") for end in ends]
    return (
        "Nothing here is drawn at random, so nothing can be simulated. One exponent off by more "
        f"than {TOLERANCE} (the worst is off by {miss:.1g}), or one scheme beyond a bound (the "
        f"excess is at most {sliding['carry'].max():.3g} times the risk of the carry and at least "
        f"{sliding['peak'].min():.3g} times that of the peak; both bounds are one), would give not "
        f"reproduced. Ratios of exponents that stay {2 * TOLERANCE} or more off one or two (they "
        f"come within {near[0]} and {near[1]}) would give partly. "
        "No data from a model bear on it."
    )


def two_distances(
    kl: dict[tuple[str, str], fit.Curve],
    tv: dict[tuple[str, str], fit.Curve],
    min_window: float,
    n_boot: int = fit.BOOTSTRAPS,
) -> pd.DataFrame:
    """How fast KL and total variation fall on the stored tables, and how the two are related.

    `α` is the exponent of KL under the finite-context power law. `ρ` is the slope of log KL
    on log TV over the windows: α_KL / α_TV wherever TV is a power of KL, with no law of the
    windows assumed. `ρ, root law` divides α by the exponent of TV under the law of the local
    regime, C' [(w+1)^-α - mean (T+1)^-α]^½, that is, fitted to TV². `φ, σ` read α and α/ρ as
    `bounds.two_exponents` does. All intervals from the same resampled documents. Raises
    ValueError where KL and TV were not measured on the same windows and number of documents.
    """
    rows = []
    for key in kl:
        pair = [curves[key].between(min_window) for curves in (kl, tv)]
        shapes = [part.doc_means.shape for part in pair]
        if shapes[0] != shapes[1]:
            raise ValueError(f"{key}: expected one shape for KL and TV, got {shapes}")
        # one seed and one number of documents: both draw the same documents
        kl_means, tv_means = (np.vstack([p.mean, p.resampled(n_boot)]) for p in pair)
        alpha = _exponents(pair[0], kl_means)
        rho = _slope(np.log(tv_means), np.log(kl_means), pair[0].weights)
        root = alpha / (_exponents(pair[1], tv_means**2) / 2)
        reading = bounds.two_exponents(alpha, alpha / rho)
        n = pair[0].n_documents
        named = {"α": alpha, "ρ": rho, "ρ, root law": root}
        named |= {"φ": reading.phi, "σ": reading.sigma}
        rows.append(
            {"model": key[0], "corpus": key[1], "documents": n}
            | {name: fit.estimate(values[0], values[1:], n) for name, values in named.items()}
        )
    return pd.DataFrame(rows)


def _exponents(part: fit.Curve, means: np.ndarray) -> np.ndarray:
    law = "finite-context power"
    return fit.fit_law(law, part.window, means, part.weights, part.contexts).exponent


def _slope(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Slope of the weighted least-squares line of y on x, over the last axis."""
    x = x - (x @ weights)[..., None]
    return (x * y) @ weights / ((x * x) @ weights)


def judge(folder: Path = store.DATA) -> tuple[Verdict, ...]:
    """The verdict on C9."""
    curves = stored_curves(folder=folder)
    if not curves:
        return (to_come(CLAIM, rule),)
    exponents, sliding = exponent_table(), sliding_checks()
    real = two_distances(curves, stored_curves("tv", folder), MIN_WINDOW)
    miss = (exponents["exact"] - exponents["leading term"]).abs().max()
    figures = (
        Figure("largest miss of an exponent", float(miss)),
        Figure("largest excess of blocks / risk of their carry", float(sliding["carry"].max())),
        Figure("least excess of blocks / sliding window, equal peak", float(sliding["peak"].min())),
        *figures_of(real, {"ρ": "ρ = α_KL / α_TV"}, distance="KL and TV", protocol="reencode"),
    )
    word = rule(exponents, sliding, tv_exponents())
    said = sentence(exponents, sliding, real)
    tried = power(exponents, sliding, tv_exponents())
    return (Verdict(CLAIM, word, said, rule_text(rule), figures, power=tried),)


# --- the values of the page's prose ---------------------------------------------------------------


def facts(
    exponents: pd.DataFrame,
    sliding: pd.DataFrame,
    ratios: pd.DataFrame,
    real: pd.DataFrame,
    curves: dict[tuple[str, str], fit.Curve],
) -> dict[str, str]:
    """Name → text of every value that the page glues.

    The tables are those of `exponent_table`, `sliding_checks`, `tv_exponents` and `two_distances`;
    `curves` are the stored ones.
    """
    rho, phi = fit.extremes(real["ρ"]), fit.extremes(real["φ"])
    return {
        "verdict-c9": rule(exponents, sliding, ratios),
        "tolerance": str(TOLERANCE),
        "power-c9": power(exponents, sliding, ratios),
        "first-window": str(min(data.between(MIN_WINDOW).first[0] for data in curves.values())),
        "miss": f"{(exponents['exact'] - exponents['leading term']).abs().max():.4f}",
        "n-exponents": str(len(exponents)),
        "schemes": f"{sliding['schemes'].sum():,}",
        "n-sources": str(len(sliding)),
        "lacunary-ratio": f"{sliding['mean'].min():.2f}",
        "rho-low": str(rho[0]),
        "rho-high": str(rho[1]),
        "rho-inside": f"{sum(1 < x.low and x.high < 2 for x in real['ρ'])} of {len(real)}",
        "root-low": str(fit.extremes(real["ρ, root law"])[0]),
        "phi-low": str(phi[0]),
        "phi-high": str(phi[1]),
        "n-tables": str(len(real)),
        "n-docs": str(real["documents"].min()),
    }
