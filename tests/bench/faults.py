"""Faults planted in a copy of kvlib, one at a time, and the test that sees each.

    python tests/bench/faults.py [part of a file's name …]

A fault is a source text replaced by another, and the test files that have to notice. Prints a
table: file, fault, test. Ends with an error if one goes unseen, or cannot be planted any more.
Minutes; run it before and after tests are made shorter or faster.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
FAST = "not slow"  # what `make check` runs


class Fault(NamedTuple):
    """In `file`, `old` becomes `new`; `tests` has to notice."""

    file: str
    old: str
    new: str
    tests: str


FAULTS = [
    # text to rows
    Fault("corpora/documents.py", "if available < n:", "if available < n - 1:", "test_corpora.py"),
    Fault(
        "corpora/pinned.py",
        "(found := sha256_of(content)) != pinned.sha256",
        "False",
        "test_corpora.py",
    ),
    Fault(
        "measure/divergences.py",
        "np.expm1(-d) + d",
        "np.expm1(-d) - d",
        "measure/test_divergences.py",
    ),
    Fault(
        "measure/divergences.py",
        "0.5 * np.abs(np.exp",
        "np.abs(np.exp",
        "measure/test_divergences.py",
    ),
    Fault(
        "measure/laws.py",
        "+ len(lm.prefix_ids)\n",
        "+ len(lm.prefix_ids) - 1\n",
        "measure/test_measure.py",
    ),
    Fault(
        "measure/truncation.py",
        "width = octave[1] - octave[0] + 1",
        "width = octave[1] - octave[0]",
        "measure/test_measure.py",
    ),
    Fault(
        "measure/truncation.py", "(offset + doc * GOLDEN) % 1", "offset", "measure/test_measure.py"
    ),
    Fault("measure/distortion.py", "len(document) // 2, len", "len(document) // 3, len", "cache"),
    # models
    Fault("models/rotary.py", "torch.cat([-second, first]", "torch.cat([second, first]", "cache"),
    Fault("models/masks.py", "seen & (age < max(windows))", "seen", "cache"),
    Fault("models/masks.py", "not torch.equal(masked, narrow)", "True", "cache"),
    # caches
    Fault(
        "cache/policies.py",
        "entry > query - (budget - self.n_sink)",
        "entry >= query - (budget - self.n_sink)",
        "cache",
    ),
    Fault(
        "cache/policies.py",
        "np.arange(context - (budget - self.n_sink), context)",
        "np.arange(context - budget, context)",
        "cache/test_policies.py",
    ),
    Fault("cache/policies.py", "new[:, : previous.shape[1]] += previous", "pass", "cache"),
    Fault("cache/protocols.py", "*policy.title.encode()", "7", "cache measure"),
    Fault(
        "cache/protocols.py",
        "if not policy.closed_up:",
        "if policy.closed_up:",
        "cache/test_protocols.py",
    ),
    Fault(
        "cache/plan.py",
        "entry > now - self.window",
        "entry >= now - self.window",
        "cache/test_bounded.py",
    ),
    Fault(
        "cache/bounded.py", "self.tokens += plan.query.shape[1]", "pass", "cache/test_bounded.py"
    ),
    Fault(
        "cache/plan.py",
        "(self.query - cache.budget + 1)",
        "(self.query - cache.budget)",
        "cache/test_bounded.py",
    ),
    Fault("cache/plan.py", "self.window - self.rollback", "self.window", "cache/test_rollback.py"),
    Fault(
        "cache/by_policy.py", "room = budget - queries", "room = budget", "cache/test_by_policy.py"
    ),
    Fault("cache/history.py", "(place + 1) * 2**32", "0", "cache/test_stored.py"),
    Fault("models/positions.py", "last >= limit.tokens", "False", "models/test_positions.py"),
    # rows to estimates
    Fault("fit/curve.py", "self.first >= smallest", "self.window >= smallest", "fit"),
    Fault(
        "fit/curve.py",
        "return error**-2 / np.sum(error**-2)",
        "return error**-1 / np.sum(error**-1)",
        "fit",
    ),
    Fault(
        "fit/estimate.py",
        "stdtrit(n - 1, 0.975) * np.sqrt((n - 1)",
        "1.96 * np.sqrt((n - 1)",
        "fit",
    ),
    Fault("fit/estimate.py", "[0.025, 0.975]", "[0.05, 0.95]", "fit"),
    Fault("fit/laws.py", "((contexts + shift) ** -alpha", "(contexts ** -alpha", "fit"),
    Fault("fit/exponents.py", "@ x) / (x @ x) / np.log(2)", "@ x) / (x @ x)", "fit"),
    # the store and the loop
    Fault("store.py", 'if found != manifest["sha256"]:', "if False:", "test_store.py"),
    Fault("store.py", "if lacking := sorted(wanted - done):", "if lacking := []:", "test_store.py"),
    Fault(
        "study/declared.py", "tables.count(table) > 1", "tables.count(table) > 2", "test_study.py"
    ),
    Fault("study/states.py", "if found[0] < study.docs or parts", "if parts", "test_study.py"),
    Fault("store.py", "host != HOST or psutil.pid_exists(pid)", "True", "test_store.py"),
    Fault("store.py", "if code and found not in (None, code):", "if False:", "test_shares.py"),
    Fault("study/items.py", '"settings": settings, "doc": doc', '"doc": doc', "test_shares.py"),
    Fault(
        "study/here.py", "self.number - 1 :: self.of", "self.number :: self.of", "test_shares.py"
    ),
    # theory
    Fault(
        "theory/bounds.py", "return (high - shift)[()]", "return high[()]", "theory/test_bounds.py"
    ),
    Fault(
        "theory/bounds.py",
        "-alpha - 2 * k - 1",
        "-alpha - 2 * k",
        "theory/test_bounds.py theory/test_blocks.py",
    ),
    Fault(
        "theory/gaussian.py",
        "phi[:n] -= reflection",
        "phi[:n] += reflection",
        "theory/test_sources.py",
    ),
    Fault(
        "theory/sources.py",
        "(1 - self.l2) / (1 - self.l1)",
        "(1 - self.l1) / (1 - self.l2)",
        "theory/test_sources.py",
    ),
    Fault("theory/coding.py", "np.exp(values - top)", "np.exp(values)", "theory/test_coding.py"),
    # verdicts and pictures
    Fault(
        "claims/sensitivity.py",
        'if not rows["not geometric"].all():',
        "if False:",
        "claims",
    ),
    Fault("claims/extrapolation.py", "ORDER / HALF <= mean", "1 <= mean", "claims"),
    Fault(
        "fit/curve.py",
        'rows["window"] == rows["context"]',
        'rows["window"] < 0',
        "claims/test_whose_exponent.py",
    ),
    Fault(
        "claims/whose_exponent.py",
        "item.high < low or high < item.low",
        "item.low < low or high < item.high",
        "claims/test_whose_exponent.py",
    ),
    Fault("fit/components.py", "(both - rest) / k", "both / k", "fit/test_components.py"),
    Fault(
        "fit/components.py",
        "resampled + squares - resampled.mean(axis=0)",
        "resampled",
        "fit/test_components.py",
    ),
    Fault("claims/sink_recent.py", "item.high < MARGIN", "True", "claims"),
    Fault("charts/controls.py", "if value not in values:", "if False:", "charts"),
    Fault("charts/parts.py", "{value:.12g}", "{value}", "charts"),
    Fault(
        "names.py",
        "(NAMES | SOURCES | READERS | TITLES)",
        "(NAMES | SOURCES | READERS)",
        "charts claims",
    ),
]


def plant(fault: Fault, folder: Path) -> None:
    """Copies what the tests need and spoils one file, in which `old` is found once."""
    leave = shutil.ignore_patterns("_build", ".*", "__pycache__")
    shutil.copytree(ROOT, folder, ignore=leave, dirs_exist_ok=True)
    file = folder / "kvlib" / fault.file
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace(fault.old, fault.new), encoding="utf-8")


def seen_by(fault: Fault) -> str:
    """The first test that fails, or nothing."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plant(fault, folder)
        tests = [f"tests/{part}" for part in fault.tests.split()]
        command = [sys.executable, "-m", "pytest", "-qx", "-p", "no:cacheprovider", "-m", FAST]
        done = subprocess.run(
            [*command, *tests],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": f"{folder}:{folder / 'tests'}", "KVLIB_STATIC": "1"},
            capture_output=True,
            text=True,
        )
    found = re.search(r"^(?:FAILED|ERROR) tests/(\S+)", done.stdout, re.M)
    return found[1] if found else ""


def main() -> None:
    wanted = [f for f in FAULTS if not sys.argv[1:] or any(part in f.file for part in sys.argv[1:])]
    unseen = 0
    for fault in wanted:
        test = seen_by(fault)
        unseen += not test
        shown = f"{' '.join(fault.old.split())} → {fault.new.strip()}"
        print(f"{fault.file:24} {shown:76} {test or 'NOT SEEN'}", flush=True)
    if unseen:
        sys.exit(f"error: expected every fault to be seen, got {unseen} of {len(wanted)} unseen")


if __name__ == "__main__":
    main()
