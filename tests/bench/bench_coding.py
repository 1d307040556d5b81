"""Blahut and Arimoto's problem: ours beside dit's, on one source and in one run.

A non-uniform source of 8 symbols under Hamming distortion at 20 slopes. The truth is the closed
form for Hamming distortion, which neither solver uses. The error is that of rate + slope ·
distortion, in nats: both report an attainable point, so that it is negative by rounding only.

dit is asked three times: as it comes (100 random starts of at most 100 steps, the best is kept);
with the one start that a convex problem needs; and with one start and no limit of steps, so that
it stops when the distortion changes by less than 1 part in 10^5. Ours stops at a certified gap.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np

from kvlib.theory import coding

SOURCE = np.array([0.3, 0.2, 0.15, 0.12, 0.1, 0.07, 0.04, 0.02])
SLOPES = np.geomspace(0.3, 12, 20)
GAP = 1e-10


def exact_value(p, slope):
    """V(s) for Hamming distortion: the k likeliest symbols are reproduced, for the right k.

    With a = e^-s and Z_y = a + (1-a) Q(y): p_y / Z_y is the same for all that are reproduced.
    """
    p, a = np.sort(p)[::-1], np.exp(-slope)
    best = np.inf
    for k in range(1, len(p) + 1):
        # Σ_{y<k} Z_y = 1 - a + k a and Z_y ∝ p_y
        z = np.full(len(p), a)
        z[:k] = p[:k] * (1 - a + k * a) / p[:k].sum()
        if (z[:k] >= a).all():
            best = min(best, -(p * np.log(z)).sum())
    return best


def median_seconds(function, repeats):
    """The last result and the median time."""
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        result = function()
        seconds.append(time.perf_counter() - begin)
    return result, statistics.median(seconds)


def ours():
    """20 points, each certified."""
    return [coding.blahut_arimoto(SOURCE, 1 - np.eye(8), s, tolerance=GAP) for s in SLOPES]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=21, help="of ours and of dit's one start")
    repeats = parser.parse_args().repeats
    truth = np.array([exact_value(SOURCE, s) for s in SLOPES])

    points, our_time = median_seconds(ours, repeats)
    gaps = [point.gap for point in points]
    assert all(point.converged for point in points) and max(gaps) <= GAP
    errors = np.abs([point.value for point in points] - truth)
    print(
        f"source {SOURCE.tolist()}, {len(SLOPES)} slopes from {SLOPES[0]:.3g} to {SLOPES[-1]:.3g}"
    )
    print(f"{'':28}{'time / slope':>14}{'largest error':>16}{'ratio of times':>16}")
    print(f"{'kvlib':28}{1e3 * our_time / 20:11.3f} ms{errors.max():12.1e} nat{'1':>12}")
    print(f"{'':28}largest certified gap {max(gaps):.1e} nat")

    try:
        import dit
        from dit.rate_distortion.blahut_arimoto import blahut_arimoto
    except ImportError:
        print("dit is not installed: nothing to compare with (pip install dit)")
        return

    bits = np.log(2)  # its slope is in bits per unit of distortion, its rate in bits

    def theirs(restarts, steps):
        np.random.seed(0)  # its random starts come from the global generator
        points = [
            blahut_arimoto(SOURCE, s / bits, restarts=restarts, max_iters=steps)[0] for s in SLOPES
        ]
        return np.array([bits * q.rate for q in points]) + SLOPES * [q.distortion for q in points]

    for name, options, times in (
        ("as it comes", (100, 100), 1),
        ("one start", (1, 100), repeats),
        ("one long start", (1, 10**6), 3),
    ):
        values, seconds = median_seconds(lambda o=options: theirs(*o), times)
        error = np.abs(values - truth).max()
        print(
            f"{f'dit {dit.__version__}, {name}':28}{1e3 * seconds / 20:11.3f} ms{error:12.1e} nat"
            f"{seconds / our_time:12.1f}"
        )


if __name__ == "__main__":
    main()
