"""Runs inputs one after the other in a process that has its libraries loaded, and watches them.

A line of JSON in, `[kind, number]`; a line of JSON out: what came of it. Noticed are exceptions
that get as far as the user, programs that are started, connections, pickles, code of a model's
folder that is run, and files that are written to another place than the named output.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fuzz import inputs

import kvlib

SECONDS = 10  # of a processor, for one input
IMPORT_SECONDS = 20  # more for one that runs alone, and has its libraries to load
PROGRAMS = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "pty.spawn"}
NETWORK = {"socket.connect", "socket.getaddrinfo", "urllib.Request"}
CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate"}
OUTPUTS = re.compile(r"--(?:out|report|json|html)(?:=(.*))?", re.DOTALL)
FETCHED = r"/home/(cache(/texts|/models)?$|cache/\w+/[^/]*\.lock$|\.rustup)"  # pip asks rustc
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


class Watch:
    """What this process does while an input runs; hooks cannot be taken out again."""

    def __init__(self, root: Path) -> None:
        self.root, self.place, self.seen, self.on = str(root), "", [], False  # type: ignore[var-annotated]
        sys.addaudithook(self.hook)

    def hook(self, event: str, args: tuple) -> None:
        """One event of the interpreter."""
        if not self.on:
            return
        if event in PROGRAMS:
            if "pip" not in str(args) or "download" not in str(args):
                self.seen.append(f"started a program: {args!r}"[:300])
        elif event in NETWORK:
            self.seen.append(f"asked the network: {args!r}"[:300])
        elif event == "pickle.find_class":
            self.seen.append(f"unpickled {args!r}"[:300])
        elif event == "exec" and str(getattr(args[0], "co_filename", "")).startswith(self.place):
            self.seen.append(f"ran {args[0].co_filename}")
        elif event == "open":
            path, mode, flags = args
            written = set(str(mode or "")) & set("wax+") or (
                isinstance(flags, int) and flags & WRITING
            )
            if written and not isinstance(path, int):
                self.changed(path)
        elif event in CHANGES:
            for path in args[: 2 if event in ("os.rename", "os.link", "os.symlink") else 1]:
                self.changed(path)

    def changed(self, path: Any) -> None:
        """Something is written, made or removed at a path."""
        full = os.path.abspath(os.fsdecode(path))
        if not full.startswith(self.root) and full != os.devnull:
            self.seen.append(f"wrote to {full}"[:300])


def tree(*folders: Path) -> dict[str, tuple]:
    """All there is below folders: names, sizes, times and kinds."""
    found = {}
    for folder in folders:
        for at, names, files in os.walk(folder):
            for name in [*names, *files]:
                path = os.path.join(at, name)
                stat = os.lstat(path)
                same = (stat.st_mode, stat.st_size, stat.st_mtime_ns, stat.st_ino)
                found[path] = same if name in files else (stat.st_mode,)
    return found


def strangers(before: dict, after: dict, place: Path, argv: list[str], out: tuple) -> list[str]:
    """What was changed beside the named output."""
    named = [*out]
    for k, word in enumerate(argv):
        if match := OUTPUTS.fullmatch(word):
            value = match[1] if match[1] is not None else (argv[k + 1 : k + 2] or [""])[0]
            value = os.path.abspath(os.path.join(place, value))
            named.append(os.path.relpath(value, place))
    found = []
    for path in sorted(before.keys() | after.keys()):
        if before.get(path) == after.get(path):
            continue
        name = os.path.relpath(path, place)
        if not any(own(name, one) for one in named):
            found.append(name)
    return found


def own(name: str, output: str) -> bool:
    """Is a file part of an output: the table, its manifest, parts, lock, or a folder above it?"""
    folder, _, last = output.rpartition("/")
    for known in (".parquet", ".json"):
        last = last.removesuffix(known) or last
    if output.startswith(f"{name}/"):
        return True
    here, _, file = name.rpartition("/")
    prefix = f"{folder}/" if folder else ""
    rest = name.removeprefix(prefix)
    return name.startswith(prefix) and (
        last == "*" and not here or rest.lstrip(".").startswith(last.lstrip("."))
    )


class Runner:
    """Inputs in a scratch folder `root`, with a stock of sound files in it."""

    def __init__(self, root: Path) -> None:
        self.root, self.stock, self.watch = root, root / "stock", Watch(root)
        self.places = root / "places" / "deep" / "down"
        self.places.mkdir(parents=True, exist_ok=True)
        for module in pkgutil.walk_packages(kvlib.__path__, "kvlib."):
            importlib.import_module(module.name)
        from kvlib import __main__ as command_line

        self.command_line = command_line
        if not self.stock.exists():
            self.make_stock()

    def make_stock(self) -> None:
        """The small model, a text, a table of it, a measurement that was begun, studies."""
        from kvlib import store
        from kvlib.models.small_gpt2 import FOLDER

        new = self.root / "new stock"
        shutil.rmtree(new, ignore_errors=True)
        shutil.copytree(FOLDER, new / "model")
        text = " ".join(str(k * k % 9973) for k in range(2500))[:9000]
        (new / "text.txt").write_text(text)
        (new / "short.txt").write_text(text[:2700])  # 48 documents of 40 tokens, and some more
        new.rename(self.stock)
        draw = inputs.Draw(None, self.stock, self.stock)  # type: ignore[arg-type]
        os.chdir(self.stock)
        self.call(inputs.measure(draw, out="table"))
        finish = store.Measurement.finish

        def stop(self: Any, *args: Any, **more: Any) -> None:
            raise OSError("stopped")

        store.Measurement.finish = stop  # type: ignore[method-assign, assignment]
        self.call(inputs.measure(draw, out="begun"))
        store.Measurement.finish = finish  # type: ignore[method-assign]
        (self.stock / "begun.parts" / "00001.parquet").unlink()
        text = inputs.STUDY.replace("TEXT", str(self.stock / "text.txt"))
        (self.stock / "studies.toml").write_text(text)

    def call(self, argv: list[str]) -> tuple[int, str, str, str]:
        """The command line: exit code, standard output and error, and an exception's traceback."""
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            held = [os.dup(1), os.dup(2)]
            sys.stdout.flush()
            sys.stderr.flush()
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            code, trace = 0, ""
            sys.argv = ["kvlib", *argv]
            try:
                self.command_line.main()
            except SystemExit as exit_:
                code = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
            except BaseException as error:
                frames = traceback.extract_tb(error.__traceback__)
                own = [f for f in frames if "/kvlib/" in f.filename][-1:]
                where = "".join(f"{Path(f.filename).name}:{f.lineno} in {f.name}" for f in own)
                text = str(error).splitlines() or [""]
                code, trace = 1, f"{type(error).__name__}: {text[0][:200]} ({where})"
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                for k, fd in enumerate(held, 1):
                    os.dup2(fd, k)
                    os.close(fd)
            texts = []
            for file in (out, err):
                file.seek(0)
                texts.append(file.read().decode(errors="replace"))
            return code, texts[0], texts[1], trace

    def process(self, argv: list[str]) -> tuple[int, str, str, str]:
        """The same as a process of its own, which is not watched."""
        command = [sys.executable, "-m", "kvlib", *argv]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        return done.returncode, done.stdout, done.stderr, ""

    def run(self, kind: str, number: int, alone: bool = False) -> dict[str, Any]:
        """One input: what was typed, what came of it, and what is wrong with that. `alone` runs it
        in a process of its own."""
        place = Path(tempfile.mkdtemp(prefix="p", dir=self.places))
        os.chdir(place)
        try:
            given = inputs.drawn(kind, number, place, self.stock)
            if not given.argv:
                return {"kind": kind, "number": number, "outcome": "not there", "wrong": []}
            call = self.process if alone else self.call
            return self.watched(kind, number, given, place, call)
        finally:
            os.chdir(self.root)
            shutil.rmtree(place, ignore_errors=True)

    def watched(
        self, kind: str, number: int, given: inputs.Input, place: Path, call: Callable
    ) -> dict[str, Any]:
        """An input that was drawn."""
        argv = [os.fsdecode(os.fsencode(word)) for word in given.argv]
        home = [self.stock, self.root / "home"]
        before, environment = tree(place, *home), dict(os.environ)
        os.environ.update(given.env)
        start, spent = time.monotonic(), spent_seconds()
        self.watch.place, self.watch.seen, self.watch.on = str(place), [], call == self.call
        code, out, err, trace = call(argv)
        self.watch.on = False
        seconds, spent = time.monotonic() - start, spent_seconds() - spent
        os.environ.clear()
        os.environ.update(environment)
        odd = strangers(before, tree(place, *home), place, argv, given.out)
        fetched = [n for n in odd if given.argv[0] == "fetch" and re.search(FETCHED, n)]
        wrong = [f"traceback: {trace}"] if trace else wrong_words(argv[0], code, err)
        wrong += self.watch.seen + [f"changed: {name}" for name in odd if name not in fetched]
        wrong += ["canary"] * (place / "canary").exists()
        most = SECONDS + IMPORT_SECONDS * (call == self.process)
        wrong += [f"slow: {spent:.0f} s of the processor"] * (spent > most)
        outcome = "accepted" if code == 0 else "refused"
        wrong += [f"expected to be {given.must}, was {outcome}"] * (given.must not in ("", outcome))
        return {
            **{"kind": kind, "number": number, "argv": argv, "code": code, "outcome": outcome},
            **{"wrong": wrong, "said": (err or out)[-600:], "seconds": round(seconds, 2)},
        }


def spent_seconds() -> float:
    """Seconds of the processor, of this process and of those it waited for."""
    own, others = (resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + others.ru_utime + others.ru_stime


def wrong_words(command: str, code: int, err: str) -> list[str]:
    """What is wrong with what was said: more than a line, or something beside the progress."""
    bar = re.compile(r"━|/\d+ documents · elapsed|bytes? .*\d:\d\d:\d\d|\d/[\d.]+ [kMG]?B|0:00:0")
    lines = [line for line in err.splitlines() if line.strip() and not bar.search(line)]
    if "Traceback" in err:
        return [f"traceback: {lines[-1][:200]}"]
    if code == 0:  # a table that was there, and that there is nothing to be said of, has one note
        odd = [line for line in lines if not line.startswith("note: ")]
        return [f"said {odd[0][:200]!r}"] if odd else []
    if code == 2 and lines and re.match(r"Usage:|╭─ Error", lines[0].lstrip()):
        return []
    if command in ("study", "merge", "status", "verify", "plan") and not lines:
        return []
    if command in ("study", "merge", "status"):  # a line for each hole
        return []
    if len(lines) != 1 or not lines[0].startswith("error: "):
        return [f"expected one line of error, got {len(lines)}: {' | '.join(lines)[:300]}"]
    return []


def main() -> None:
    """Inputs from standard input until it ends; results go to the file descriptor that is named."""
    root, results = Path(sys.argv[1]), int(sys.argv[2])
    runner = Runner(root)
    with os.fdopen(results, "w", buffering=1) as answers:
        answers.write(json.dumps({"ready": True}) + "\n")
        for line in sys.stdin:
            answers.write(json.dumps(runner.run(*json.loads(line))) + "\n")


if __name__ == "__main__":
    main()
