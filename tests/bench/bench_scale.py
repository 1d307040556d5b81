"""Efficiency against the number of workers, as `kvlib.study.scale` simulates it.

A study of a 7B model, with what its workers share added one thing after another, and then what one
would change. Times of items and loads are those of `kvlib estimate`; what is shared is assumed in
`kvlib.study.reproduce`.

    python tests/bench/bench_scale.py [documents [workers …]]
"""

from __future__ import annotations

import sys

from kvlib.study import reproduce

WORKERS = (1, 10, 30, 100, 300, 1000, 3000)


def main(documents: int = reproduce.MANY, *workers: int) -> None:
    """Simulate and print."""
    seconds, cluster = reproduce.item()
    load = cluster.start + cluster.load_bytes / cluster.own_rate
    print(f"{documents:,} documents of {seconds:.2f} s, a load alone takes {load:.0f} s")
    found = reproduce.efficiencies(documents, workers or WORKERS)
    print(found.map("{:.1%}".format).to_string())


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
