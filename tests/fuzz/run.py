"""`make fuzz`: 2,000 inputs, a table of what came of them, and each that was not as it should be.

    python tests/fuzz/run.py [--only KIND] [--count 2000] [--first 0] [--out FILE]

A worker of `worker.py` runs them. One that takes longer than its time, grows beyond its memory or
dies is ended, noted and replaced. Exit code 1 where anything was wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

from fuzz import inputs  # noqa: E402

MOST_SECONDS = 60.0  # of a processor, before an input is ended: six times what it may take
STILL_SECONDS = 60.0  # in which an input that waits for something takes none
START_SECONDS = 200.0  # of a processor, before a worker that does not start is given up
MOST_BYTES = 3 << 30


class Worker:
    """A process that runs inputs; started when it is needed."""

    def __init__(self, root: Path) -> None:
        self.root, self.process, self.results = root, None, None  # type: ignore[var-annotated]
        for name in ("home/cache", "tmp"):
            (root / name).mkdir(parents=True, exist_ok=True)

    def environment(self) -> dict[str, str]:
        """Folders of its own, no network, one thread."""
        home = self.root / "home"
        return os.environ | {
            **{"HOME": str(home), "KVLIB_CACHE": str(home / "cache"), "COLUMNS": "300"},
            **{"XDG_CACHE_HOME": str(home / "xdg"), "HF_HOME": str(home / "hub")},
            **{"TMPDIR": str(self.root / "tmp"), "PYTHONDONTWRITEBYTECODE": "1"},
            **{"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
            **{"PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])},
        }

    def start(self) -> None:
        """A new process, once it is ready."""
        read, write = os.pipe()
        with (self.root / "worker.log").open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(TESTS / "fuzz" / "worker.py"), str(self.root), str(write)],
                stdin=subprocess.PIPE,
                stderr=log,
                text=True,
                pass_fds=[write],
                cwd=self.root,
                env=self.environment(),
            )
        os.close(write)
        self.results = os.fdopen(read)
        answer = self.answer(START_SECONDS)
        if answer != {"ready": True}:
            self.stop()
            said = (self.root / "worker.log").read_text()
            raise RuntimeError(f"expected a worker, got {answer}: {said[-2000:]}")

    def answer(self, most: float = MOST_SECONDS, still: float = STILL_SECONDS) -> dict[str, Any]:
        """What it says, or why it was ended: `most` seconds of a processor, or none for `still`
        seconds of the clock. A machine with other work makes neither of them."""
        assert self.process is not None and self.results is not None
        began = spent = self.spent()
        moved = time.monotonic()
        while True:
            if select.select([self.results], [], [], 0.1)[0]:
                line = self.results.readline()
                if line:
                    return json.loads(line)
                return {"ended": f"died: exit code {self.process.wait()}"}
            held, now = self.held(), self.spent()
            if held > MOST_BYTES:
                return {"ended": f"memory: {held / 1e9:.1f} GB"}
            if now - began > most:
                return {"ended": f"hang: no end after {most:.0f} s of the processor"}
            if now - spent > 0.01:
                spent, moved = now, time.monotonic()
            if time.monotonic() - moved > still:
                return {"ended": f"hang: nothing done for {still:.0f} s"}

    def family(self) -> list[psutil.Process]:
        """The process and those that it started, where they still are."""
        assert self.process is not None
        with contextlib.suppress(psutil.NoSuchProcess):
            own = psutil.Process(self.process.pid)
            return [own, *own.children(recursive=True)]
        return []

    def spent(self) -> float:
        """Seconds of a processor, of the family and of those it waited for."""
        found = 0.0
        for one in self.family():
            with contextlib.suppress(psutil.NoSuchProcess):
                found += sum(one.cpu_times()[:4])
        return found

    def held(self) -> int:
        """Bytes of memory of the largest of the family."""
        found = [0]
        for one in self.family():
            with contextlib.suppress(psutil.NoSuchProcess):
                found.append(one.memory_info().rss)
        return max(found)

    def run(self, kind: str, number: int, alone: bool = False) -> dict[str, Any]:
        """One input; `alone`: in a process of its own."""
        if self.process is None:
            self.start()
        assert self.process is not None and self.process.stdin is not None
        self.process.stdin.write(json.dumps([kind, number, alone]) + "\n")
        self.process.stdin.flush()
        found = self.answer()
        if "ended" in found:
            self.stop()
            found = {"kind": kind, "number": number, "outcome": "ended", "wrong": [found["ended"]]}
        return found

    def stop(self) -> None:
        """End the process, and those that it started."""
        if self.process is None:
            return
        for one in reversed(self.family()):
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        self.process.kill()
        self.process.wait()
        assert self.process.stdin is not None and self.results is not None
        self.process.stdin.close()
        self.results.close()
        self.process = None


def plan(count: int, first: int = 0, only: str = "") -> Iterator[tuple[str, int]]:
    """`count` inputs, of each kind its share, from number `first` on; `only` is a pattern."""
    for kind, (share, _) in inputs.KINDS.items():
        if re.search(only, kind):
            for number in range(first, first + max(1, round(share * count / 2000))):
                yield kind, number


def results(
    count: int, first: int = 0, only: str = "", alone: bool = True
) -> Iterator[dict[str, Any]]:
    """What comes of inputs, one by one, in a scratch folder that is removed afterwards; `alone`
    runs the first of each kind in a process of its own."""
    root = Path(tempfile.mkdtemp(prefix="kvlib-fuzz-")).resolve()
    worker = Worker(root)
    try:
        for kind, number in plan(count, first, only):
            yield worker.run(kind, number, alone and number == first)
    finally:
        worker.stop()
        shutil.rmtree(root, ignore_errors=True)


def told(found: list[dict[str, Any]]) -> str:
    """A table: a kind a line, how many were refused, accepted and wrong."""
    lines = ["| kind | tried | refused in a line | accepted | wrong |", "|---|---|---|---|---|"]
    total: Counter[str] = Counter()
    for kind in inputs.KINDS:
        these = [one for one in found if one["kind"] == kind and one["outcome"] != "not there"]
        counts = Counter("wrong" if one["wrong"] else one["outcome"] for one in these) | Counter(
            tried=len(these)
        )
        total += counts
        cells = (counts[key] for key in ("tried", "refused", "accepted", "wrong"))
        lines.append(f"| {kind} | {' | '.join(map(str, cells))} |")
    cells = (f"{total[key]:,}" for key in ("tried", "refused", "accepted", "wrong"))
    return "\n".join([*lines, f"| **all** | {' | '.join(cells)} |"])


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", default="", help="kinds that hold this")
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0, help="number of the first of each kind")
    parser.add_argument("--out", type=Path, help="all results, a line of JSON each")
    asked = parser.parse_args()
    found, start = [], time.monotonic()
    with (asked.out or Path(os.devnull)).open("w") as file:
        for one in results(asked.count, asked.first, asked.only):
            found.append(one)
            file.write(json.dumps(one) + "\n")
            file.flush()
            for line in one["wrong"]:
                print(f"{one['kind']} {one['number']}: {line}", flush=True)
    print(told(found))
    print(f"{time.monotonic() - start:.0f} s")
    sys.exit(any(one["wrong"] for one in found))


if __name__ == "__main__":
    main()
