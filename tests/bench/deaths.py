"""All studies of the book, each table in little, while workers die: do they come out the same?

Every table of `studies.toml` keeps its kind, model, text, precision and policies, and has one or
two short documents. Model by model they are made twice: by one process, undisturbed, and by
`kvlib study --workers 2` while a hand kills a worker, whatever it is doing, whenever all have had
another 10 to 40 seconds of the processor. Then both are compared row by row, exactly, but for
columns that hold clock times, and what is left behind is looked for: files that are no tables,
temporary files, processes.

    PYTHONPATH=tests python tests/bench/deaths.py [--folder _build/deaths] [MODEL …]
    PYTHONPATH=tests python tests/bench/deaths.py --whole TABLE…    # these, at their full length

What was found goes into the files that the page `reproduce` reads, model by model; models that are
not named keep what was found before. The exit code is 1 where anything differs or is left.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import light
import pandas as pd
import psutil

from kvlib import store, study
from kvlib.study import checks, verify

WORKERS = 2
BETWEEN = (10.0, 40.0)  # seconds of the processor from one death to the next, of all workers
GONE = 10.0  # seconds that processes may take to end
DASK = "dask-scratch-space"  # what Dask keeps among temporary files: a folder with two locks
KEPT = {DASK, f"{DASK}/global.lock", f"{DASK}/purge.lock"}
NONE = "no model"
CLOCKS = {"cache_run": ["seconds", "cpu_seconds"]}  # columns that no two runs share
SHORT = {"seq_len": 128, "stride": 128}
LITTLE: dict[str, dict[str, Any]] = {  # settings of each kind, in the place of the book's
    "truncation_sensitivity": SHORT | {"max_window": 32, "pairs_per_octave": 16, "docs": 2},
    "policy_distortion": SHORT | {"every": 32, "docs": 1},
    "passage": {"context": 64, "shown": 16, "budgets": [16], "docs": 1},
    "diagnostics": SHORT | {"windows": [8, 32], "targets": 2, "docs": 2},
    "positions": SHORT | {"windows": [4, 16], "targets": 2, "docs": 2},
    "kv_rates": {"seq_len": 768, "stride": 768, "docs": 2},
    "cache_run": {"budget": 64, "tokens": 500, "prompt": 16, "docs": 2},
    "drafting": {"windows": [16], "tokens": 8, "prompt": 64, "docs": 2},
    "readers": {"windows": [1, 2, 8, 64, 256], "chars": 768, "docs": 2}
    | {"history": 2**14, "ppmd_history": 2**13},
    "bends": {"studies": 1, "truths": [0.0]},
    "calibration": {"studies": 4, "resamples": 20},
}


def little(one: study.Study) -> study.Study:
    """A study as it is, but for the settings that say how long it takes."""
    said = dict(LITTLE[one.kind])
    docs = said.pop("docs", one.docs)
    if "budgets" in one.settings and "budgets" not in said:
        said["budgets"] = one.settings["budgets"][:1]
    if one.settings.get("step") == 1:
        said |= {"seq_len": 48, "stride": 48, "budgets": [16], "every": 12}
    if one.settings.get("contexts"):
        said["contexts"] = [64, 96, 120]
    if one.settings.get("stretches") == "held out":
        del said["stride"]  # that of the stretches
    return dataclasses.replace(one, settings=one.settings | said, docs=docs)


def declared(studies: Sequence[study.Study]) -> str:
    """A file of studies, as TOML, an entry a table."""
    entries = []
    for one in studies:
        said = {"table": one.table, "kind": one.kind, "docs": one.docs} | one.settings
        lines = [f"{key} = {json.dumps(value)}" for key, value in said.items()]
        entries.append("\n".join(["[[study]]", *lines]))
    return "\n\n".join(entries) + "\n"


def groups(whole: Sequence[str] = ()) -> dict[str, list[study.Study]]:
    """All studies in little, or the named ones as they are, by model: one is loaded at a time."""
    declared = study.studies()
    chosen = study.chosen(declared, whole) if whole else map(little, declared)
    found: dict[str, list[study.Study]] = {}
    for one in chosen:
        found.setdefault(one.settings.get("model", NONE), []).append(one)
    return found


# --- two runs -----------------------------------------------------------------------------------


def command_of(file: Path, *more: str) -> list[str]:
    """The command that makes the tables of a file."""
    return [sys.executable, "-m", "kvlib", "study", "--file", str(file), *more]


def environment(scratch: Path) -> dict[str, str]:
    """That of a run: one thread a process, and a place of its own for temporary files."""
    scratch.mkdir()
    own = {"TMPDIR": str(scratch), "DASK_TEMPORARY_DIRECTORY": str(scratch)}
    return os.environ | own | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


def undisturbed(file: Path, scratch: Path) -> None:
    """Make the tables in one process."""
    subprocess.run(command_of(file), env=environment(scratch), check=True)


def disturbed(
    file: Path, scratch: Path, rng: random.Random, between: tuple[float, float]
) -> tuple[float, int, set[str]]:
    """Make the tables with workers that die: seconds, deaths, and which processes are left."""
    begin, kills, next_one = time.monotonic(), 0, rng.uniform(*between)
    spent: dict[psutil.Process, float] = {}
    command = command_of(file, "--workers", str(WORKERS))
    with subprocess.Popen(command, env=environment(scratch)) as run:
        while run.poll() is None:
            time.sleep(0.5)
            family = family_of(run.pid)
            spent |= family
            if sum(spent.values()) >= next_one:
                kills += killed_one(list(family), rng)
                next_one = sum(spent.values()) + rng.uniform(*between)
    if run.returncode:
        raise SystemExit(f"error: expected exit code 0 of {command}, got {run.returncode}")
    seconds = time.monotonic() - begin
    _, alive = psutil.wait_procs(list(spent), GONE)
    return seconds, kills, {f"process {one.pid}" for one in alive}


def family_of(pid: int) -> dict[psutil.Process, float]:
    """A process's descendants, and the seconds of the processor that each has had."""
    family = {}
    with contextlib.suppress(psutil.NoSuchProcess):
        for one in psutil.Process(pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                family[one] = sum(one.cpu_times()[:2])
    return family


def killed_one(family: Sequence[psutil.Process], rng: random.Random) -> bool:
    """Kill a worker, if there is one: whatever it is doing, starting included."""
    workers = [one for one in family if is_worker(one)]
    if not workers:
        return False
    try:
        rng.choice(workers).send_signal(signal.SIGKILL)
    except psutil.NoSuchProcess:
        return False
    return True


def is_worker(process: psutil.Process) -> bool:
    """Is it a living process that Dask has made?"""
    try:
        alive = process.status() != psutil.STATUS_ZOMBIE
        return alive and any("spawn_main" in word for word in process.cmdline())
    except psutil.NoSuchProcess:
        return False


def temporary(scratch: Path) -> set[str]:
    """Temporary files and folders that are left, but for what Dask keeps."""
    return {str(path.relative_to(scratch)) for path in scratch.rglob("*")} - KEPT


# --- compared -----------------------------------------------------------------------------------


def different(studies: Sequence[study.Study], alone: Path, together: Path) -> list[str]:
    """Why tables of two folders are not the same: a line for each that is not."""
    lines = []
    for one in studies:
        try:
            assert_same(one, alone / one.table, together / one.table)
        except (AssertionError, ValueError) as error:
            lines.append(f"{one.table}: {' '.join(str(error).split())}")
    return lines


def assert_same(one: study.Study, alone: Path, together: Path) -> None:
    """AssertionError unless rows and what manifests say of them are the same."""
    clocks = CLOCKS.get(one.kind, [])
    tables = [store.load_table(path).drop(columns=clocks) for path in (alone, together)]
    pd.testing.assert_frame_equal(*tables, check_exact=True)
    said = [store.read_manifest(path) for path in (alone, together)]
    for key in ("settings", "about", "rows", "documents", "study"):
        assert said[0][key] == said[1][key], f"{key}: {said[0][key]} and {said[1][key]}"


def measured(
    name: str,
    studies: Sequence[study.Study],
    folder: Path,
    go_on: bool = False,
    between: tuple[float, float] = BETWEEN,
) -> dict[str, Any]:
    """What came of a model's tables: one row of the report."""
    files = {way: folder / way / "studies.toml" for way in ("alone", "together")}
    for path in folder.iterdir() if folder.exists() else ():
        if not (go_on and path == files["alone"].parent):
            shutil.rmtree(path)
    for file in files.values():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(declared(studies), encoding="utf-8")
    undisturbed(files["alone"], folder / "scratch-alone")
    scratch = folder / "scratch-together"
    seconds, kills, left = disturbed(files["together"], scratch, random.Random(name), between)
    left |= light.left(files["together"].parent) | temporary(scratch)
    lines = different(studies, files["alone"].parent, files["together"].parent)
    tables = [store.load_table(files["together"].parent / one.table) for one in studies]
    for line in [*lines, *sorted(left)]:
        print(line, file=sys.stderr)
    return {
        **{"model": name, "tables": len(studies), "documents": sum(one.docs for one in studies)},
        **{"rows": sum(map(len, tables)), "deaths": kills, "seconds": round(seconds)},
        **{"different": lines, "left": sorted(left)},
    }


def main() -> int:
    """Make, disturb, compare, and keep what was found."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", nargs="*", help=f"some of {', '.join(groups())}; none: all")
    parser.add_argument("--folder", type=Path, default=Path("_build/deaths"))
    parser.add_argument("--go-on", action="store_true", help="keep what was made undisturbed")
    parser.add_argument("--whole", nargs="+", default=(), metavar="TABLE", help="at full length")
    parser.add_argument("--out", type=Path, help="default: where the page reads it")
    parser.add_argument(
        "--between", type=float, nargs=2, default=BETWEEN, help="seconds; fewer for a small model"
    )
    flags = parser.parse_args()
    out = flags.out or checks.file_of("deaths_whole" if flags.whole else "deaths")
    bad = 0
    for name, studies in groups(flags.whole).items():
        if flags.model and name not in flags.model:
            continue
        if why := next(filter(None, (verify.not_here(one.settings) for one in studies)), ""):
            print(f"{name}: left out: {why}")
            continue
        found = measured(
            name, studies, flags.folder / name.replace(" ", "-"), flags.go_on, flags.between
        )
        checks.keep(found, "model", out)
        print(json.dumps(found))
        bad += len(found["different"]) + len(found["left"])
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
