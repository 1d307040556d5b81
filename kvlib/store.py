"""Tables with manifests: grow one document at a time, survive a kill, tell damage from data.

A measurement `name` is two files in one folder: `name.parquet`, the rows, and `name.json`, the
manifest that says how they came about. While it grows, finished documents wait one by one in
`name.parts/`; a part is written whole or not at all, so a killed run goes on where it was. One
process writes a table at a time. What is read back is checked: a part against the digest of its
rows, a table against the SHA-256 of its file. Files and folders that a measurement did not make are
neither replaced nor removed.
"""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import stat
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import filelock
import pandas as pd
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
MARK = b"kvlib"  # key of what a Parquet file says of its own rows, in its schema's metadata


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file, then move it to `path`; on failure nothing is left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def save_table(path: Path, table: pd.DataFrame, **mark: Any) -> None:
    """Write a table as Parquet, small and in one piece; `mark` goes with it, and its digest."""
    arrow = pa.Table.from_pandas(table, preserve_index=False)
    marked = {MARK: json.dumps(mark | {"digest": digest(table)}).encode()}
    arrow = arrow.replace_schema_metadata((arrow.schema.metadata or {}) | marked)
    floats = [field.name for field in arrow.schema if pa.types.is_floating(field.type)]
    integers = [field.name for field in arrow.schema if pa.types.is_integer(field.type)]
    write_atomically(
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
        _check_regular(path)
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
    """A measurement that grows document by document; the only writer of its table until `close()`.

        with Measurement(path, settings, documents=24) as measurement:
            for doc in measurement.missing():
                measurement.add(doc, rows(doc))
            measurement.finish(run)

    `settings` are what must not change between runs: model and its hash, corpus and its hash,
    design, seed, dtype. `documents` are the numbers that a finished table must hold, or how many
    from 0 on; those of an earlier run stay.

    Raises ValueError when another process is writing the table, when a table or parts of other
    settings are there, when they are damaged, or when the files in its place are not its own.
    """

    def __init__(
        self, path: Path, settings: dict[str, Any], documents: int | Iterable[int]
    ) -> None:
        self.path = table_file(path)
        self.manifest = table_file(path, ".json")
        self.parts = table_file(path, ".parts")
        self.settings = json.loads(json.dumps(settings))
        self.documents = set(range(documents) if isinstance(documents, int) else documents)
        self._settings_sha256 = _settings_sha256(self.settings)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._unlock = weakref.finalize(self, _unlock, _locked(self.path))
        own = (self.path, self.manifest, self.parts)
        try:
            _tidy(self.path.parent, "|".join(re.escape(file.name) for file in own))
            self._open()
            self._found = {file: _signature(file) for file in (self.path, self.manifest)}
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Measurement:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Let others write; finished documents stay in the parts."""
        self._unlock()

    def done(self) -> set[int]:
        """Numbers of the documents that are finished."""
        return {int(part.stem) for part in self.parts.glob("[0-9]*.parquet")}

    def missing(self) -> list[int]:
        """Numbers of the documents that are wanted and not finished, in order."""
        return sorted(self.documents - self.done())

    def add(self, doc: int, rows: pd.DataFrame) -> None:
        """Store one finished document; its rows have its number in their column `doc`."""
        if "doc" not in rows or len(rows) == 0 or not (rows["doc"] == doc).all():
            raise ValueError(f"rows: expected some, with doc = {doc} in each, got others")
        mark = {"settings_sha256": self._settings_sha256, "doc": doc}
        save_table(self._part(doc), rows, **mark)

    def finish(
        self,
        run: dict[str, Any],
        study: str = "",
        about: dict[str, Any] | None = None,
    ) -> pd.DataFrame:
        """Join the parts into the table, write its manifest, remove the parts, close.

        `run` is what may differ between equal measurements: versions, command, date, device.
        `study` is what tables of one study share, `about` what a page must know of model and text.
        Raises ValueError when documents are missing, or parts are not as they were written.
        """
        table = self._joined()
        for file, found in self._found.items():
            if _signature(file) != found:
                raise ValueError(
                    f"{file}: expected what was there before, got a file changed since"
                )
        save_table(self.path, table, settings_sha256=self._settings_sha256)
        manifest = {
            "layout": LAYOUT,
            "study": study,
            "settings": self.settings,
            "about": about or {},
            "run": run,
            "rows": len(table),
            "documents": int(table["doc"].nunique()),
            "sha256": _sha256(self.path),
        }
        write_manifest(self.manifest, manifest)
        self._remove_parts()
        self.close()
        return table

    # --- what is there already --------------------------------------------------------------------

    def _open(self) -> None:
        """Take up what an earlier run left, or begin; nothing changes before all is checked."""
        begun = os.path.lexists(self.parts)
        if begun:
            self._check_parts()
        table = self._earlier_table(begun)
        if not begun:
            self._make_parts()
        if table is not None:
            for doc, rows in table.groupby("doc"):
                self.add(int(doc), rows)

    def _check_parts(self) -> None:
        """Refuses a folder that this measurement did not make, and parts that have changed."""
        mark = self.parts / "settings.json"
        _refuse_link(self.parts)
        if not mark.is_file():
            raise _foreign(self.parts, "a folder that a measurement made")
        begun = _read_json(mark)
        settings = begun.get("settings")
        if "settings_sha256" not in begun or not isinstance(settings, dict):
            raise _foreign(mark, "the settings of a measurement")
        _refuse_other_settings(self.parts, settings, self.settings)
        if begun["settings_sha256"] != self._settings_sha256:
            raise _foreign(mark, "settings with their SHA-256")
        _tidy(self.parts, rf"{PART}|settings\.json")
        for file in sorted(self.parts.iterdir()):
            if file != mark and not re.fullmatch(PART, file.name):
                raise _foreign(file, "parts of a measurement alone")
        for doc in sorted(self.done()):
            self._read_part(doc)

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
        return load_table(self.path)

    def _make_parts(self) -> None:
        """The folder for parts, with its mark in it from the first moment on."""
        new = self.parts.with_name(f".{self.parts.name}.{os.getpid()}")
        mark = {"settings_sha256": self._settings_sha256, "settings": self.settings}
        try:
            new.mkdir()
            (new / "settings.json").write_text(json.dumps(mark, indent=1))
            os.rename(new, self.parts)
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise

    def _remove_parts(self) -> None:
        """Remove what was made here; a folder that holds something else stays, and says whose."""
        for doc in self.done():
            self._part(doc).unlink()
        if [file.name for file in self.parts.iterdir()] == ["settings.json"]:
            old = self.parts.with_name(f".{self.parts.name}.{os.getpid()}")
            os.rename(self.parts, old)
            shutil.rmtree(old)

    # --- parts ------------------------------------------------------------------------------------

    def _part(self, doc: int) -> Path:
        return self.parts / f"{doc:05d}.parquet"

    def _read_part(self, doc: int) -> pd.DataFrame:
        """The rows of a part, if they are those that were written."""
        rows, mark = _read_marked(self._part(doc))
        written = {"settings_sha256": self._settings_sha256, "doc": doc, "digest": digest(rows)}
        if mark != written:
            raise ValueError(
                f"{self._part(doc)} is damaged: expected the rows of document {doc} as they were "
                "measured, got others; delete it and give the command again"
            )
        return rows

    def _joined(self) -> pd.DataFrame:
        """All parts in one table; refuses an incomplete set, or parts of different columns."""
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
        parts = [self._read_part(doc) for doc in sorted(done)]
        if odd := [part for part in parts if not part.dtypes.equals(parts[0].dtypes)]:
            part = self._part(int(odd[0]["doc"].iloc[0]))
            raise ValueError(
                f"{part}: expected the columns of the other parts ({', '.join(parts[0])}), "
                f"got {', '.join(odd[0])}"
            )
        return pd.concat(parts, ignore_index=True)


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
        found = _sha256(path)
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
        _check_regular(path)
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


def _sha256(path: Path) -> str:
    _check_regular(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- whose file is it? ----------------------------------------------------------------------------


def _check_regular(path: Path) -> None:
    """Refuses pipes, devices and folders, which may never end."""
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


def _tidy(folder: Path, names: str) -> None:
    """Remove temporary files and folders that a killed run left; `names` is a regular expression
    of what they were to become. Needs the lock."""
    for found in list(folder.iterdir()):
        if re.fullmatch(rf"\.({names})\.\d+", found.name):
            if found.is_dir() and not found.is_symlink():
                shutil.rmtree(found)
            else:
                found.unlink()


def _locked(path: Path) -> filelock.FileLock:
    """The lock of a table, held; raises ValueError when another process holds it."""
    file = path.with_name(f".{path.name}.lock")
    if not _is_free(file):
        raise _foreign(file, "an empty lock file")
    lock = filelock.FileLock(file, timeout=0, thread_local=False)
    try:
        lock.acquire()
    except (filelock.Timeout, RuntimeError):  # the second: another measurement of this process
        raise ValueError(
            f"{path}: expected one writer at a time, got a second: another process is measuring "
            "into this table"
        ) from None
    return lock


def _is_free(file: Path) -> bool:
    """Is there nothing, or an empty file as a lock leaves it?"""
    try:
        found = file.lstat()
    except FileNotFoundError:
        return True
    return stat.S_ISREG(found.st_mode) and found.st_size == 0


def _unlock(lock: filelock.FileLock) -> None:
    """Remove the lock file while it is held, and let go."""
    if lock.is_locked:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release(force=True)
