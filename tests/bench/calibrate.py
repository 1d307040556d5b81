"""The calibration of the statistics: do 95% intervals cover, does the contest name the right law?

Simulates studies of sources whose exponents are known exactly, prints how often each method's
interval covers the truth, and how often the extrapolation contest names the exponential on sources
without a power law (and on those with α = 1). The table is stored with the library.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import pandas as pd

from kvlib import store
from kvlib.fit import calibration


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--resamples", type=int, default=1000, help="bootstrap samples a study")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=store.DATA / "calibration")
    arguments = parser.parse_args()
    power, geometric = calibration.power_designs(), calibration.geometric_designs()
    tables, begin = [], time.perf_counter()
    for k, design in enumerate(power):
        seed = arguments.seed + 10_000 * k  # no two sources share their random numbers
        found = calibration.coverage(design, arguments.studies, arguments.resamples, seed)
        tables.append(found)
        report(found)
    for k, design in enumerate([*geometric, *(d for d in power if d.source.alpha == 1)]):
        seed = arguments.seed + 10_000 * (k + len(power))
        found = calibration.contest(design, arguments.studies, seed=seed)
        tables.append(found)
        report(found)
    seconds = time.perf_counter() - begin
    print(f"{seconds:.0f} s")
    settings = {
        "kind": "calibration",
        "studies": arguments.studies,
        "resamples": arguments.resamples,
        "seed": arguments.seed,
        "designs": [
            asdict(design) | {"source": repr(design.source)} for design in power + geometric
        ],
    }
    run = {
        "command": "python tests/bench/calibrate.py",
        "seconds": round(seconds),
        "versions": {name: version(name) for name in ("numpy", "scipy")},
    }
    path = arguments.out.with_suffix(".parquet")
    table = pd.concat(tables, ignore_index=True)
    store.save_table(path, table)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    manifest = {"settings": settings, "run": run, "rows": len(table), "sha256": digest}
    text = json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"
    store.write_atomically(
        path.with_suffix(".json"), lambda file: file.write_text(text, encoding="utf-8")
    )


def report(table: pd.DataFrame) -> None:
    """One line a row."""
    for row in table.itertuples():
        line = f"{row.source:30} {row.method:50} {row.share:6.1%} [{row.low:.1%}, {row.high:.1%}]"
        if row.check == "interval":
            line += f"  width {row.mean_width:.4f}  mean {row.mean_estimate:.4f}"
            line += f"  estimand {row.estimand:.4f}"
        print(line, flush=True)


if __name__ == "__main__":
    main()
