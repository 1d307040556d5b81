"""Tables with manifests: grow one document at a time, survive a kill, tell damage from data.

A measurement `name` is two files in one folder: `name.parquet`, the rows, and `name.json`, the
manifest that says how they came about. While it grows, finished documents wait one by one in
`name.parts/`; a part is written whole or not at all, so a killed run goes on where it was.
"""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

VERSIONED = ("torch", "transformers", "numpy", "scipy", "kvlib")
DATA = Path(__file__).with_name("data")


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file, then move it to `path`; on failure nothing is left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def save_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table as Parquet, small and in one piece."""
    arrow = pa.Table.from_pandas(table, preserve_index=False)
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
    try:
        return pq.read_table(path, page_checksum_verification=True).to_pandas()
    except FileNotFoundError:
        raise ValueError(f"{path}: expected a Parquet file, found none") from None
    except Exception as error:  # damage shows in a dozen kinds
        line = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"{path}: expected a Parquet file, got a damaged one ({line})") from None


def subject_of(lm: Any, text: Any) -> dict[str, Any]:
    """What a manifest says of a `models.LanguageModel` and a `corpora.Corpus`: names and hashes."""
    return {
        "model": lm.name,
        "model_description": lm.description,
        "weights_sha256": lm.weights_sha256,
        "corpus": text.name,
        "corpus_source": text.source,
        "corpus_sha256": text.sha256,
        "dtype": str(lm.dtype).removeprefix("torch."),
    }


def run_of(command: str, device: str) -> dict[str, Any]:
    """What a manifest says of one run: command, date, device and versions."""
    return {
        "command": command,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": device,
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in VERSIONED},
    }


class Measurement:
    """A measurement that grows document by document.

    `settings` are what must not change between runs: model and its hash, corpus and its hash,
    design, seed, dtype. A folder begun with other settings is refused.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path = path.with_suffix(".parquet")
        self.parts = path.with_suffix(".parts")
        self.settings = settings
        begun = self.parts / "settings.json"
        if begun.is_file():
            _refuse_other_settings(self.parts, _read_json(begun), settings)
        elif self.path.is_file():
            _refuse_other_settings(self.path, read_manifest(self.path)["settings"], settings)
            self._split(load_table(self.path))
        else:
            self.parts.mkdir(parents=True, exist_ok=True)
        write_atomically(begun, lambda file: file.write_text(json.dumps(settings, indent=1)))

    def done(self) -> set[int]:
        """Numbers of the documents that are finished."""
        return {int(part.stem) for part in self.parts.glob("[0-9]*.parquet")}

    def add(self, doc: int, rows: pd.DataFrame) -> None:
        """Store one finished document."""
        save_table(self.parts / f"{doc:05d}.parquet", rows)

    def finish(self, run: dict[str, Any]) -> pd.DataFrame:
        """Join the parts into the table, write its manifest, remove the parts.

        `run` is what may differ between equal measurements: versions, command, date, device.
        """
        parts = sorted(self.parts.glob("[0-9]*.parquet"))
        table = pd.concat([read_table(part) for part in parts], ignore_index=True)
        save_table(self.path, table)
        manifest = {
            "settings": self.settings,
            "run": run,
            "rows": len(table),
            "documents": int(table["doc"].nunique()),
            "sha256": _sha256(self.path),
        }
        text = json.dumps(manifest, indent=1) + "\n"
        write_atomically(self.path.with_suffix(".json"), lambda file: file.write_text(text))
        shutil.rmtree(self.parts)
        return table

    def _split(self, table: pd.DataFrame) -> None:
        self.parts.mkdir(parents=True, exist_ok=True)
        for doc, rows in table.groupby("doc"):
            self.add(int(doc), rows)


def load_table(path: Path) -> pd.DataFrame:
    """Read a finished table and check it against its manifest."""
    path = Path(path).with_suffix(".parquet")
    manifest = read_manifest(path)
    table = read_table(path)
    if (found := _sha256(path)) != manifest["sha256"]:
        raise ValueError(
            f"{path} is damaged: expected SHA-256 {manifest['sha256'][:12]}…, got {found[:12]}…"
        )
    return table


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a table; raises ValueError with one line when it is missing or damaged."""
    path = Path(path).with_suffix(".json")
    manifest = _read_json(path)
    if missing := {"settings", "sha256"} - manifest.keys():
        raise ValueError(f"{path}: expected a manifest with {' and '.join(sorted(missing))}")
    return manifest


def stored(kind: str, folder: Path = DATA) -> dict[tuple[str, str], Path]:
    """Tables of one kind that travel with the library: (model, corpus) → path."""
    found = {}
    for path in sorted(folder.glob(f"{kind}-*.json")):
        settings = read_manifest(path)["settings"]
        found[settings["model"], settings["corpus"]] = path.with_suffix(".parquet")
    return found


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _refuse_other_settings(where: Path, begun: dict[str, Any], now: dict[str, Any]) -> None:
    for key in sorted(begun.keys() | now.keys()):
        if begun.get(key) != now.get(key):
            raise ValueError(
                f"{where} was begun with other settings: expected {key} = {begun.get(key)!r}, "
                f"got {now.get(key)!r}; choose another --out or remove it"
            )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path}: expected a manifest beside the table, found none") from None
    except ValueError as error:  # no JSON, or no UTF-8
        raise ValueError(f"{path}: expected a JSON manifest, got a damaged one ({error})") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path}: expected a JSON manifest, got {type(found).__name__}")
    return found


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
