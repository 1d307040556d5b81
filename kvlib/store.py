"""Tables with manifests: grow one document at a time, survive a kill, tell damage from data.

A measurement `name` is two files in one folder: `name.parquet`, the rows, and `name.json`, the
manifest that says how they came about. While it grows, finished documents wait one by one in
`name.parts/`; a part is written whole or not at all, so a killed run goes on where it was. Any
number of processes may write parts of a table; one at a time joins them. What is read back is
checked: a part against the digest of its rows, a table against the SHA-256 of its file. Files and
folders that a measurement did not make are neither replaced nor removed.

A file that is being made has its writer in its name, `.00003.parquet.HOST.PID`, from the moment on
when its rows begin to be measured. What a dead process of this host left is tidied; what one of
another host left is when the table is joined. No clock is read.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import filelock
import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from kvlib import __version__, names

VERSIONED = ("torch", "transformers", "numpy", "scipy", "pyppmd")
DATA = Path(__file__).with_name("data")
LAYOUT = 2  # of manifests; raise it when their keys change
KEYS = {  # of a manifest, and their kinds
    **{"settings": dict, "sha256": str, "rows": int, "documents": int},
    **{"study": str, "about": dict, "run": dict},
}
PART = r"\d{5,}\.parquet"  # name of a part: the number of its document
FAILURE = r"\d{5,}\.json"  # name of what is said of a document that failed
TEMPORARY = r"\.({names})(?:\.(?P<host>[\w-]+))?\.(?P<pid>\d+)"  # without a host: of old versions
HOST = re.sub(r"[^\w-]", "-", platform.node()) or "here"
JOINING_SECONDS = 60.0  # how long one waits for another process that opens or joins the same table
TRIES = 5  # to write a part whose folder goes away meanwhile
MARK = b"kvlib"  # key of what a Parquet file says of its own rows, in its schema's metadata


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file, then move it to `path`; on failure nothing is left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _write_whole(path, write)


def temporary_of(path: Path) -> Path:
    """The file that this process fills before it becomes `path`."""
    return path.with_name(f".{path.name}.{HOST}.{os.getpid()}")


def _write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """`write_atomically` into a folder that must be there."""
    temporary = temporary_of(path)
    try:
        write(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def save_table(path: Path, table: pd.DataFrame, **mark: Any) -> None:
    """Write a table as Parquet, small and in one piece; `mark` goes with it, and its digest."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _save(path, table, mark)


def _save(path: Path, table: pd.DataFrame, mark: dict[str, Any]) -> None:
    """`save_table` into a folder that must be there."""
    arrow = pa.Table.from_pandas(table, preserve_index=False)
    marked = {MARK: json.dumps(mark | {"digest": digest(table)}).encode()}
    arrow = arrow.replace_schema_metadata((arrow.schema.metadata or {}) | marked)
    floats = [field.name for field in arrow.schema if pa.types.is_floating(field.type)]
    integers = [field.name for field in arrow.schema if pa.types.is_integer(field.type)]
    _write_whole(
        path,
        lambda file: pq.write_table(
            arrow,
            file,
            compression="zstd",
            compression_level=19,
            write_page_checksum=True,
            use_dictionary=False,
            column_encoding={name: "BYTE_STREAM_SPLIT" for name in floats}
            | {name: "DELTA_BINARY_PACKED" for name in integers},
        ),
    )


def read_table(path: Path) -> pd.DataFrame:
    """Read a Parquet table; raises ValueError with one line when it is missing or damaged."""
    return _read_marked(path)[0]


def _read_marked(path: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """A Parquet table, and the mark it was saved with ({} without one)."""
    try:
        check_regular(path)
        arrow = pq.read_table(path, page_checksum_verification=True)
        mark = json.loads((arrow.schema.metadata or {}).get(MARK, b"{}"))
        return arrow.to_pandas(), mark if isinstance(mark, dict) else {}
    except FileNotFoundError:
        raise ValueError(f"{path}: expected a Parquet file, found none") from None
    except Exception as error:  # damage shows in a dozen kinds
        line = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"{path}: expected a Parquet file, got a damaged one ({line})") from None


def digest(table: pd.DataFrame) -> str:
    """A SHA-256 of a table's rows: names, kinds and values of its columns, in order."""
    found = hashlib.sha256(str(len(table)).encode())
    for name, column in table.items():
        values = column.to_numpy()
        if values.dtype.kind in "biuf":
            kind, content = values.dtype.str, values.tobytes()
        else:
            texts = [
                None if gap else str(value)
                for value, gap in zip(values, column.isna(), strict=True)
            ]
            kind, content = "text", json.dumps(texts).encode()
        found.update(json.dumps([str(name), kind, len(content)]).encode() + content)
    return found.hexdigest()


def subject_of(lm: Any, text: Any) -> dict[str, Any]:
    """What settings say of a `models.LanguageModel` and a `corpora.Corpus`: names and hashes."""
    return {
        "model": lm.name,
        "weights_sha256": lm.weights_sha256,
        "model_sha256": lm.model_sha256,
        **text_of(text),
        "dtype": str(lm.dtype).removeprefix("torch."),
    }


def text_of(text: Any) -> dict[str, Any]:
    """What settings say of a `corpora.Corpus`."""
    return {"corpus": text.name, "corpus_sha256": text.sha256}


def run_of(command: str, device: str) -> dict[str, Any]:
    """What a manifest says of one run: command, date, device and versions."""
    return {
        "command": command,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": device,
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in VERSIONED} | {"kvlib": __version__},
    }


class Measurement:
    """A measurement that grows document by document, by as many processes as there are.

        with Measurement(path, settings, documents=24) as measurement:
            for doc in measurement.missing():
                measurement.add(doc, rows(doc))
            measurement.finish(run)

    `settings` are what must not change between runs: model and its hash, corpus and its hash,
    design, seed, dtype. `documents` are the numbers that a finished table must hold, or how many
    from 0 on; those of an earlier run stay. `code` is the hash of what measures: parts of another
    are refused; without it parts of any one code are joined. `about`, what a page must know of
    model and text, is kept with the parts for who joins them.

    Raises ValueError when a table or parts of other settings are there, when they are damaged, or
    when the files in its place are not its own.
    """

    def __init__(
        self,
        path: Path,
        settings: dict[str, Any],
        documents: int | Iterable[int],
        code: str = "",
        about: dict[str, Any] | None = None,
    ) -> None:
        self.path = table_file(path)
        self.manifest = table_file(path, ".json")
        self.parts = table_file(path, ".parts")
        self.settings = json.loads(json.dumps(settings))
        self.documents = set(range(documents) if isinstance(documents, int) else documents)
        self.code, self.about = code, about
        self._settings_sha256 = _settings_sha256(self.settings)
        self._begun: set[int] = set()
        self._table: pd.DataFrame | None = None
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(self.path):
            _tidy(self.path.parent, self._own())
            self._open()

    def __enter__(self) -> Measurement:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Say that nothing is being measured here any more; what is finished stays in the parts."""
        for doc in self._begun:
            temporary_of(self._part(doc)).unlink(missing_ok=True)
        self._begun.clear()

    def done(self) -> set[int]:
        """Numbers of the documents that are finished, by whomever."""
        self._look_again()
        held = set() if self._table is None else set(self._table["doc"].astype(int))
        return held | self._in_parts()

    def missing(self) -> list[int]:
        """Numbers of the documents that are wanted and not finished, in order."""
        return sorted(self.documents - self.done())

    def rows(self, doc: int) -> pd.DataFrame:
        """The rows of a finished document, checked; ValueError for one that is not."""
        if self._table is not None and (held := self._table["doc"] == doc).any():
            return self._table[held].reset_index(drop=True)
        return self._read_part(doc)[0]

    def begin(self, doc: int) -> None:
        """Say that a document is being measured: others see it as running while this process
        lives."""
        with contextlib.suppress(FileNotFoundError):  # the table was joined meanwhile
            temporary_of(self._part(doc)).touch()
            self._begun.add(doc)

    def add(self, doc: int, rows: pd.DataFrame, **said: Any) -> None:
        """Store one finished document; its rows have its number in their column `doc`. What is
        `said` of them goes into the mark of the part.

        When another process has joined the table meanwhile, with this document, nothing is to do.
        """
        if "doc" not in rows or len(rows) == 0 or not (rows["doc"] == doc).all():
            raise ValueError(f"rows: expected some, with doc = {doc} in each, got others")
        mark = {"settings_sha256": self._settings_sha256, "doc": doc}
        mark |= {"code_sha256": self.code} if self.code else {}
        for last in (*[False] * (TRIES - 1), True):
            try:
                _save(self._part(doc), rows, mark | said)
                break
            except FileNotFoundError:  # folder or temporary file went away: a join, or a tidying
                if last:
                    raise
                if doc in self.done():
                    break
                with _locked(self.path):
                    if not self.parts.exists():
                        self._make_parts()
        self._begun.discard(doc)
        forget_failure(self.path, doc)

    def take(self, path: Path) -> None:
        """Take in the parts that another folder holds of this table; they stay there too. Raises
        ValueError for those of other settings or code, and for damaged ones."""
        parts, said = table_file(path, ".parts"), begun(path)
        if said is None:
            return
        _refuse_other_settings(parts, said["settings"], self.settings)
        done, code = self.done(), self.code
        for mark in (self._read_part(doc)[1] for doc in self._in_parts()):
            code = code or mark.get("code_sha256", "")
        for file in sorted(parts.glob("[0-9]*.parquet")):
            doc = int(file.stem)
            mark = self._read_part(doc, parts)[1]
            code = code or mark.get("code_sha256", "")
            _check_code(file, code, mark)
            if doc not in done:
                _write_whole(self._part(doc), partial(shutil.copyfile, file))
                forget_failure(self.path, doc)

    def finish(
        self,
        run: dict[str, Any] | Callable[[list[dict[str, Any]]], dict[str, Any]],
        study: str = "",
        about: dict[str, Any] | None = None,
    ) -> pd.DataFrame:
        """Join the parts into the table, write its manifest, remove the parts, close.

        `run` is what may differ between equal measurements: versions, command, date, device; or a
        function of the marks of the parts that tells it. `study` is what tables of one study share,
        `about` what a page must know of model and text. Raises ValueError when documents are
        missing, or parts are not as they were written, or of different code.
        """
        with _locked(self.path):
            self._look_again()
            for file, found in self._found.items():
                if _signature(file) != found:
                    raise ValueError(
                        f"{file}: expected what was there before, got a file changed since"
                    )
            table, marks = self._joined()
            if self.parts.exists():  # else another process has just done all this
                codes = self._codes(marks)
                run = run(marks) if callable(run) else run
                self._write(table, study, about or {}, run | codes)
                self._remove_parts()
            _tidy(self.path.parent, self._own(), all_of_them=True)
        self.close()
        return table

    def _write(
        self, table: pd.DataFrame, study: str, about: dict[str, Any], run: dict[str, Any]
    ) -> None:
        """The table, then the manifest that has its hash."""
        save_table(self.path, table, settings_sha256=self._settings_sha256)
        manifest = {
            "layout": LAYOUT,
            "study": study,
            "settings": self.settings,
            "about": about,
            "run": run,
            "rows": len(table),
            "documents": int(table["doc"].nunique()),
            "sha256": sha256(self.path),
        }
        write_manifest(self.manifest, manifest)

    # --- what is there already --------------------------------------------------------------------

    def _own(self) -> str:
        """What the files beside the parts are called, as a regular expression."""
        return "|".join(re.escape(file.name) for file in (self.path, self.manifest, self.parts))

    def _open(self) -> None:
        """Take up what an earlier run left, or begin; nothing changes before all is checked."""
        begun = os.path.lexists(self.parts)
        if begun:
            self._check_parts()
        self._found = self._signatures()
        self._table = self._earlier_table(begun)
        if not begun:
            self._make_parts()

    def _signatures(self) -> dict[Path, tuple[int, ...] | None]:
        return {file: _signature(file) for file in (self.path, self.manifest)}

    def _look_again(self) -> None:
        """Take up the table that another process has finished; whatever else came in its place is
        left to `finish`, which refuses it."""
        if (found := self._signatures()) != self._found:
            with contextlib.suppress(ValueError, OSError):
                self._table = self._earlier_table(self.parts.exists())
                self._found = found

    def _check_parts(self) -> None:
        """Refuses a folder that this measurement did not make, and parts that have changed."""
        mark = self.parts / "settings.json"
        settings = _begun_settings(self.parts)["settings"]
        _refuse_other_settings(self.parts, settings, self.settings)
        _tidy(self.parts, rf"{PART}|settings\.json")
        for file in sorted(self.parts.iterdir()):
            known = rf"{PART}|{TEMPORARY.format(names=PART)}"
            if file != mark and not re.fullmatch(known, file.name):
                raise _foreign(file, "parts of a measurement alone")
        for doc in sorted(self._in_parts()):
            _check_code(self._part(doc), self.code, self._read_part(doc)[1])

    def _earlier_table(self, begun: bool) -> pd.DataFrame | None:
        """The table of an earlier run, checked; None where there is none."""
        if os.path.lexists(self.manifest):
            _refuse_link(self.manifest)
            try:
                manifest = read_manifest(self.manifest)
            except ValueError as error:
                raise ValueError(f"{error}; choose another --out or move it away") from None
            _refuse_other_settings(self.path, manifest["settings"], self.settings)
        if not os.path.lexists(self.path):
            return None
        _refuse_link(self.path)
        if begun:  # a run may have been killed between its table and its manifest
            table, mark = _read_marked(self.path)
            if mark == {"settings_sha256": self._settings_sha256, "digest": digest(table)}:
                return table
        table = load_table(self.path)
        if "doc" not in table:
            raise ValueError(
                f"{self.path}: expected a column doc, got {', '.join(map(str, table))}; choose "
                "another --out or move it away"
            )
        return table

    def _make_parts(self) -> None:
        """The folder for parts, with its mark in it from the first moment on."""
        new = temporary_of(self.parts)
        mark = {"settings_sha256": self._settings_sha256, "settings": self.settings}
        mark |= {} if self.about is None else {"about": self.about}
        try:
            new.mkdir()
            (new / "settings.json").write_text(json.dumps(mark, indent=1))
            os.rename(new, self.parts)
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise

    def _remove_parts(self) -> None:
        """Remove what was made here; a folder that holds something else stays, and says whose.

        Whoever still measures a document has its rows in the table: what it is writing goes too.
        """
        for doc in self._in_parts():
            self._part(doc).unlink(missing_ok=True)
        _tidy(self.parts, PART, all_of_them=True)
        if [file.name for file in self.parts.iterdir()] == ["settings.json"]:
            old = temporary_of(self.parts)
            os.rename(self.parts, old)
            shutil.rmtree(old)
        for doc in failures(self.path):
            forget_failure(self.path, doc)

    # --- parts ------------------------------------------------------------------------------------

    def _part(self, doc: int) -> Path:
        return self.parts / f"{doc:05d}.parquet"

    def _in_parts(self) -> set[int]:
        return {int(part.stem) for part in self.parts.glob("[0-9]*.parquet")}

    def _read_part(self, doc: int, parts: Path | None = None) -> tuple[pd.DataFrame, dict]:
        """The rows of a part, if they are those that were written, and its mark."""
        part = (parts or self.parts) / self._part(doc).name
        rows, mark = _read_marked(part)
        written = {"settings_sha256": self._settings_sha256, "doc": doc, "digest": digest(rows)}
        if {key: mark.get(key) for key in written} != written:
            subject = mark.get("subject")
            for key, value in subject.items() if isinstance(subject, dict) else ():
                if value != self.settings.get(key):
                    raise ValueError(
                        f"{part}: expected rows with {key} = {_shown(self.settings, key)}, "
                        f"got {_short(repr(value))}"
                    )
            raise ValueError(
                f"{part} is damaged: expected the rows of document {doc} as they were "
                "measured, got others; delete it and give the command again"
            )
        return rows, mark

    def _joined(self) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
        """All parts in one table, behind what is finished, and the marks of the parts; refuses an
        incomplete set, or parts of different columns."""
        done = self.done()
        wanted = self.documents
        if wanted == set(range(len(wanted))):  # of consecutive documents an earlier run has no gap
            wanted = wanted | set(range(max(done, default=-1) + 1))
        if lacking := sorted(wanted - done):
            some = ", ".join(map(str, lacking[:5])) + (", …" if lacking[5:] else "")
            raise ValueError(
                f"{self.parts}: finished documents: expected {len(wanted)}, "
                f"got {len(wanted & done)}; missing: {some}"
            )
        found = {} if self._table is None else {int(d): r for d, r in self._table.groupby("doc")}
        marks = []
        for doc in sorted(self._in_parts() - found.keys()):
            found[doc], mark = self._read_part(doc)
            _check_code(self._part(doc), self.code, mark)
            marks.append(mark)
        parts = [found[doc] for doc in sorted(found)]
        if odd := [part for part in parts if not part.dtypes.equals(parts[0].dtypes)]:
            part = self._part(int(odd[0]["doc"].iloc[0]))
            raise ValueError(
                f"{part}: expected the columns of the other parts ({', '.join(parts[0])}), "
                f"got {', '.join(odd[0])}"
            )
        return pd.concat(parts, ignore_index=True), marks

    def _codes(self, marks: list[dict[str, Any]]) -> dict[str, dict[str, int]]:
        """What a manifest says of the code: its hash → how many documents it measured. Refuses
        parts of two codes. Says nothing where nothing is known."""
        counted: dict[str, int] = {}
        for mark in marks:
            code = mark.get("code_sha256")
            if code and (others := [key for key in counted if key not in (code, "unknown")]):
                raise ValueError(
                    f"{self._part(mark['doc'])}: expected rows of the same code as the other "
                    f"parts, {others[0][:12]}…, got those of {code[:12]}…"
                )
            counted[code or "unknown"] = counted.get(code or "unknown", 0) + 1
        if self._table is not None:
            told = read_manifest(self.manifest)["run"] if self.manifest.exists() else {}
            rest = self._table["doc"].nunique()
            for code, number in told.get("code_sha256", {}).items():
                counted[code] = counted.get(code, 0) + number
                rest -= number
            if rest > 0:
                counted["unknown"] = counted.get("unknown", 0) + rest
        return {"code_sha256": counted} if counted.keys() - {"unknown"} else {}


# --- what there is of a table, for those who only look ------------------------------------------


class Progress(NamedTuple):
    """Documents by their state: done (in the table or a part), being measured (by which process),
    and failed (host and line)."""

    done: set[int]
    running: dict[int, str]
    failed: dict[int, dict[str, str]]


def progress(path: Path) -> Progress:
    """What there is of a table: read from names of files, but for the finished table's rows."""
    table, parts = table_file(path), table_file(path, ".parts")
    done, running = set(), {}
    if table.is_file() and table_file(path, ".json").exists():
        done |= {int(doc) for doc in pq.read_table(table, columns=["doc"])["doc"].unique()}
    for file in parts.iterdir() if parts.is_dir() else ():
        if re.fullmatch(PART, file.name):
            done.add(int(file.stem))
        elif match := re.fullmatch(TEMPORARY.format(names=PART), file.name):
            if _is_alive(match["host"], int(match["pid"])):
                running[int(match[1].split(".")[0])] = f"{match['host']}, process {match['pid']}"
    failed = {doc: said for doc, said in failures(path).items() if doc not in done}
    running = {doc: who for doc, who in running.items() if doc not in done}
    return Progress(done, running, {d: said for d, said in failed.items() if d not in running})


def note_failure(path: Path, doc: int, host: str, line: str) -> None:
    """Keep what went wrong with a document, and where, beside the parts: `name.failed/00003.json`.
    A disk without room keeps nothing."""
    file = table_file(path, ".failed") / f"{doc:05d}.json"
    said = json.dumps({"host": host, "error": line}, ensure_ascii=False)
    with contextlib.suppress(OSError):
        write_atomically(file, lambda new: new.write_text(said, encoding="utf-8"))


def failures(path: Path) -> dict[int, dict[str, str]]:
    """What was noted of documents that failed: number → host and error."""
    folder, found = table_file(path, ".failed"), {}
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        if re.fullmatch(FAILURE, file.name):
            with contextlib.suppress(ValueError):
                said = _read_json(file)
                if said.keys() == {"host", "error"}:
                    found[int(file.stem)] = said
    return found


def forget_failure(path: Path, doc: int) -> None:
    """Take back what was noted of a document, and the folder with the last one."""
    folder = table_file(path, ".failed")
    if folder.is_dir():
        (folder / f"{doc:05d}.json").unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            _tidy(folder, FAILURE)
            folder.rmdir()


def begun(path: Path) -> dict[str, Any] | None:
    """What the parts of a table say of themselves: `settings`, and `about` if it was known; None
    without parts. ValueError for a folder that no measurement made."""
    parts = table_file(path, ".parts")
    return _begun_settings(parts) if os.path.lexists(parts) else None


def _check_code(part: Path, code: str, mark: dict[str, Any]) -> None:
    """Refuses a part that other code measured; one of an old version does not say which."""
    found = mark.get("code_sha256")
    if code and found not in (None, code):
        raise ValueError(
            f"{part}: expected rows measured by code {code[:12]}…, got those of code "
            f"{_short(str(found), 12)}; finish with the version that began, or delete it and have "
            "it measured again"
        )


def _begun_settings(parts: Path) -> dict[str, Any]:
    mark = parts / "settings.json"
    _refuse_link(parts)
    if not mark.is_file():
        raise _foreign(parts, "a folder that a measurement made")
    found = _read_json(mark)
    settings = found.get("settings")
    if "settings_sha256" not in found or not isinstance(settings, dict):
        raise _foreign(mark, "the settings of a measurement")
    if found["settings_sha256"] != _settings_sha256(settings):
        raise _foreign(mark, "settings with their SHA-256")
    return found


def table_file(path: Path, ending: str = ".parquet") -> Path:
    """`name.parquet`, `name.json` or `name.parts` of the table at `path`, given with or without.

    Dots in a name are part of it: `lr0.1` and `lr0.2` are two tables.
    """
    path = Path(path)
    name = path.name
    for known in (".parquet", ".json"):
        name = name.removesuffix(known) or name
    if name in ("", "..") or not name.isprintable():
        raise ValueError(f"out: expected the name of a table, got {str(path)!r}")
    return path.with_name(name + ending)


def load_table(path: Path) -> pd.DataFrame:
    """Read a finished table and check it against its manifest."""
    path = table_file(path)
    manifest = checked_manifest(path)
    table = read_table(path)
    counted = {"rows": len(table)}
    if "doc" in table:
        counted["documents"] = int(table["doc"].nunique())
    for key, number in counted.items():
        if manifest.get(key, number) != number:
            raise ValueError(
                f"{path}: expected {_short(repr(manifest[key]))} {key} by its manifest, "
                f"got {number}"
            )
    if "policy" in table:  # rows once held the titles of policies; now they hold their keys
        table["policy"] = table["policy"].replace(names.KEYS)
    return table


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a table; raises ValueError with one line when it is missing or damaged.

    What it says of policies is known to `kvlib.names` from then on.
    """
    path = table_file(path, ".json")
    manifest = _read_json(path)
    if missing := {"settings", "sha256"} - manifest.keys():
        raise ValueError(f"{path}: expected a manifest with {' and '.join(sorted(missing))}")
    layout = manifest.get("layout", 1)
    if layout != LAYOUT:
        raise ValueError(
            f"{path}: expected a manifest of layout {LAYOUT}, got one of layout "
            f"{_short(str(layout))}, made by another version of kvlib; `store.read_table` reads "
            "the rows"
        )
    for key, kind in KEYS.items():
        if not isinstance(manifest.get(key), kind):
            got = type(manifest.get(key)).__name__
            raise ValueError(
                f"{path}: expected a manifest with {kind.__name__} as its {key}, got {got}"
            )
    _tell_policies(path, manifest["about"].get("policies", {}))
    return manifest


def _tell_policies(path: Path, policies: Any) -> None:
    """Hand on what a manifest says of policies; ValueError with one line for what is none."""
    for key, said in policies.items() if isinstance(policies, dict) else [("", policies)]:
        told = said if isinstance(said, dict) else {}
        title, n_sink = told.get("title"), told.get("n_sink")
        if not (isinstance(title, str) and type(n_sink) is int):
            raise ValueError(
                f"{path}: expected title and n_sink of each policy, got {_short(repr(key))} "
                "without them"
            )
        try:
            names.tell(key, title, n_sink)
        except ValueError as error:
            raise ValueError(f"{path}: {_short(str(error))}") from None


def checked_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a table whose file has the SHA-256 that it says; ValueError otherwise."""
    manifest, path = read_manifest(path), table_file(path)
    try:
        found = sha256(path)
    except FileNotFoundError:
        raise ValueError(f"{path}: expected a Parquet file, found none") from None
    except OSError as error:
        raise ValueError(str(error)) from None
    if found != manifest["sha256"]:
        raise ValueError(
            f"{path} is damaged: expected SHA-256 {manifest['sha256'][:12]}…, got {found[:12]}…"
        )
    return manifest


def write_manifest(path: Path, manifest: dict[str, Any]) -> None:
    """Write a manifest in one piece."""
    text = json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"
    write_atomically(path, lambda file: file.write_text(text, encoding="utf-8"))


class Stored(NamedTuple):
    """A finished table: where it lies, and its manifest."""

    path: Path
    manifest: dict[str, Any]

    @property
    def settings(self) -> dict[str, Any]:
        """What was measured: kind, model, corpus, design."""
        return self.manifest["settings"]

    @property
    def model(self) -> dict[str, Any]:
        """What is known of the model: family, parameters, licence, bytes a cached token costs."""
        return self.manifest["about"].get("model", {})

    def load(self) -> pd.DataFrame:
        """Its rows, checked."""
        return load_table(self.path)


def tables(folder: Path = DATA, study: str | None = None, **settings: Any) -> list[Stored]:
    """The finished tables of a folder whose manifests hold these settings, in the order of names.

    `tables(kind="policy_distortion", protocol="online")`. `study` is what the tables of one study
    share, such as `sensitivity`.
    """
    found = [
        Stored(table_file(path), read_manifest(path)) for path in sorted(folder.glob("*.json"))
    ]
    return [
        table
        for table in found
        if study in (None, table.manifest["study"])
        and all(table.settings.get(key) == value for key, value in settings.items())
    ]


def stored(study: str, folder: Path = DATA) -> dict[tuple[str, str], Path]:
    """The tables of a study by model and corpus."""
    found = {}
    for table in tables(folder, study):
        if missing := {"model", "corpus"} - table.settings.keys():
            raise ValueError(
                f"{table.path.with_suffix('.json')}: expected settings with "
                f"{' and '.join(sorted(missing))}"
            )
        found[table.settings["model"], table.settings["corpus"]] = table.path
    return found


def signature(path: Path) -> tuple[tuple[int, ...] | None, ...]:
    """What changes when the files of a table, rows or manifest, are written or replaced."""
    return tuple(_signature(table_file(path, ending)) for ending in (".parquet", ".json"))


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _refuse_other_settings(where: Path, begun: dict[str, Any], now: dict[str, Any]) -> None:
    for key in sorted(begun.keys() | now.keys()):
        before, after = _shown(begun, key), _shown(now, key)
        if before != after:
            raise ValueError(
                f"{where} was begun with other settings: expected {_short(key)} = "
                f"{_short(before)}, got {_short(after)}; choose another --out or remove it"
            )


def _shown(settings: dict[str, Any], key: str) -> str:
    """A setting as Python writes it."""
    try:
        return repr(settings[key]) if key in settings else "nothing"
    except RecursionError:
        return "something nested too deeply"


def _short(text: str, most: int = 100) -> str:
    """Text that fits into a line."""
    text = text if text.isprintable() else repr(text)
    return text if len(text) <= most else text[:most] + "…"


def _read_json(path: Path) -> dict[str, Any]:
    try:
        check_regular(path)
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path}: expected a manifest beside the table, found none") from None
    except (ValueError, OSError, RecursionError) as error:  # no JSON, no UTF-8, absurdly nested
        line = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"{path}: expected a JSON manifest, got a damaged one ({line})") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path}: expected a JSON manifest, got {type(found).__name__}")
    return found


def _settings_sha256(settings: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def sha256(path: Path) -> str:
    """The SHA-256 of a regular file's bytes, in hexadecimal."""
    check_regular(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- whose file is it? ----------------------------------------------------------------------------


def check_regular(path: Path) -> None:
    """Refuses pipes, devices and folders, which may never end; OSError where there is nothing."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(f"{path}: expected a regular file, got another kind")


def _refuse_link(path: Path) -> None:
    if path.is_symlink():
        raise _foreign(path, "no symbolic link")


def _foreign(path: Path, expected: str) -> ValueError:
    return ValueError(
        f"{path}: expected {expected}, got what is not this measurement's; "
        "choose another --out or move it away"
    )


def _signature(path: Path) -> tuple[int, ...] | None:
    """What changes when a file is written or replaced; None where there is none."""
    if not os.path.lexists(path):
        return None
    found = path.lstat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def _tidy(folder: Path, names: str, all_of_them: bool = False) -> None:
    """Remove temporary files and folders that a killed run left; `names` is a regular expression
    of what they were to become. Those of living processes stay, and of other hosts, of which
    nothing is known here, unless `all_of_them` are to go."""
    for found in list(folder.iterdir()):
        match = re.fullmatch(TEMPORARY.format(names=names), found.name)
        if match and (all_of_them or not _is_alive(match["host"], int(match["pid"]))):
            if found.is_dir() and not found.is_symlink():
                shutil.rmtree(found, ignore_errors=True)
            else:
                found.unlink(missing_ok=True)


def _is_alive(host: str | None, pid: int) -> bool:
    """May a process still be writing? One of another host always may; None is of an old version."""
    return host is not None and (host != HOST or psutil.pid_exists(pid))


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of a table; ValueError when another process holds it for a minute."""
    file = path.with_name(f".{path.name}.lock")
    if not _is_free(file):
        raise _foreign(file, "an empty lock file")
    lock = filelock.FileLock(file, timeout=JOINING_SECONDS, thread_local=False)
    try:
        lock.acquire()
    except (filelock.Timeout, RuntimeError):  # the second: this process itself
        raise ValueError(
            f"{path}: expected one process at a time to join this table, got another that has been "
            f"at it for {JOINING_SECONDS:.0f} s"
        ) from None
    try:
        yield
    finally:
        file.unlink(missing_ok=True)  # while it is held: who waits notices, and takes the next one
        lock.release(force=True)


def _is_free(file: Path) -> bool:
    """Is there nothing, or an empty file as a lock leaves it?"""
    try:
        found = file.lstat()
    except FileNotFoundError:
        return True
    return stat.S_ISREG(found.st_mode) and found.st_size == 0
