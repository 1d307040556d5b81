"""Where the time of `make check`, `make test` and `make book` goes.

    python tests/bench/bench_make.py [check] [book] [test]

Seconds and shares, on this machine: of `check` each command; of `book`, from no executed page, each
page; of `test`, with the book built, each folder of tests. Pages and tests run two at a
time, so that theirs are seconds of a core, and add up to more than the time on the clock.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]


def commands(target: str) -> list[str]:
    """The commands of a target of the Makefile, whatever it depends on left out."""
    made = [word for done in ("book", "chromium", ".venv/.ready") for word in ("-o", done)]
    said = subprocess.run(["make", "-n", *made, target], cwd=ROOT, capture_output=True, text=True)
    return [line for line in said.stdout.splitlines() if not line.startswith(("echo", "make"))]


def run(command: str, **environment: str) -> tuple[str, float]:
    """What a command said, and its seconds; ends with its complaint if it fails."""
    begin = time.perf_counter()
    done = subprocess.run(
        f"{command} 2>&1",
        shell=True,
        cwd=ROOT,
        text=True,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
    )
    if done.returncode:
        sys.exit(f"{done.stdout[-4000:]}\nerror: expected {command!r} to pass, got the above")
    return done.stdout, time.perf_counter() - begin


def check() -> tuple[Counter, float]:
    """Seconds of each command of `make check`."""
    parts = Counter({shown(line): run(line)[1] for line in commands("check")})
    return parts, parts.total()


def shown(command: str) -> str:
    """A command by its program's name, or that of the module it runs, and its first word."""
    words = [word for word in command.split() if "=" not in word]
    words = words[2:] if words[1:2] == ["-m"] else words
    return " ".join([Path(words[0]).name, *filter(str.isalpha, words[1:2])])


def book() -> tuple[Counter, float]:
    """Seconds of each page of a book that is made from no executed page."""
    with tempfile.TemporaryDirectory() as folder:
        said, clock = run("make book", KVLIB_EXECUTED=folder)
    parts = Counter({page: float(s) for page, s in re.findall(r"executed (\w+) in (\d+) s", said)})
    return parts, clock


def test() -> tuple[Counter, float]:
    """Seconds of each folder of tests, the built book there."""
    (command,) = (line for line in commands("test") if "pytest" in line)
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        _, clock = run(f"{command} --junitxml {report}")
        parts: Counter = Counter()
        for case in ElementTree.parse(report).iter("testcase"):
            folder_of = case.get("classname", "").split(".")[1:2]
            parts[folder_of[0] if folder_of else "pages"] += float(case.get("time", 0))
    return parts, clock


def main() -> None:
    targets = {"check": check, "book": book, "test": test}
    for name in sys.argv[1:] or targets:
        parts, clock = targets[name]()
        print(f"make {name}: {clock:.0f} s on the clock")
        for part, seconds in parts.most_common():
            print(f"  {part:24}{seconds:8.1f} s{seconds / parts.total():7.0%}")


if __name__ == "__main__":
    main()
