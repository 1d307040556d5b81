"""Files and folders in, documents out: stretches of equal length, in a random order."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kvlib import corpora
from kvlib.corpora.reading import tokens_of

ENDINGS = (".txt", ".md", ".rst")  # of the files of a folder that are read
LENGTHS = (1024, 512, 256, 128)  # tokens of a document, where none are asked for
LEAST = 48  # documents: with fewer nothing can be said


class Text(NamedTuple):
    """A file, or a pinned text: its name, the SHA-256 of its text, and its tokens."""

    name: str
    sha256: str
    ids: np.ndarray


class Stretches(NamedTuple):
    """Documents (n, tokens) in a random order, and which file each is of."""

    ids: np.ndarray
    files: np.ndarray


def read(names: Sequence[str], tokenizer: Any) -> list[Text]:
    """The texts of pinned names, files and folders, in that order, a text once.

    Raises ValueError or OSError, in one line: none, no such file, no UTF-8, a folder without texts.
    """
    found: dict[str, Text] = {}
    for name in names:
        for place in _files(name):
            text = corpora.load_corpus(place)
            if text.sha256 not in found:
                ids = np.asarray(tokens_of(tokenizer, text.text)["input_ids"], dtype=np.int64)
                found[text.sha256] = Text(text.name, text.sha256, ids)
    if not found:
        raise ValueError("text: expected files or a folder with texts, got none")
    return list(found.values())


def _files(name: str) -> list[str]:
    """A name or file as it is; the texts of a folder, in the order of their names."""
    if not name.strip():  # as a path it would be the folder one is in
        raise ValueError(f"text: expected a name, a file or a folder, got {name!r}")
    folder = Path(name)
    if name in corpora.CORPORA or not folder.is_dir():
        return [name]
    files = sorted(p for p in folder.rglob("*") if _is_text(p.relative_to(folder)) and p.is_file())
    if not files:
        raise ValueError(f"{name}: expected files ending in {', '.join(ENDINGS)}, got none")
    return [str(file) for file in files]


def _is_text(path: Path) -> bool:
    """Whether a file below a folder is read: by its ending, and nowhere in what is hidden."""
    return path.suffix.lower() in ENDINGS and not any(part.startswith(".") for part in path.parts)


def sha256_of(texts: Sequence[Text]) -> str:
    """One hash of several texts, in their order."""
    return hashlib.sha256(json.dumps([one.sha256 for one in texts]).encode()).hexdigest()


def length_for(texts: Sequence[Text], wanted: int, most: int) -> int:
    """The longest of LENGTHS, `most` tokens at most, that cuts `wanted` documents out of texts;
    the shortest where none does."""
    lengths = [length for length in LENGTHS if length <= most] or [LENGTHS[-1]]
    enough = (n for n in lengths if sum(len(one.ids) // n for one in texts) >= wanted)
    return next(enough, lengths[-1])


def stretches(texts: Sequence[Text], tokens: int, most: int, seed: int = 0) -> Stretches:
    """At most `most` documents of `tokens` tokens that nowhere overlap, none of them twice.

    What is left at the end of a file is not read. Raises ValueError for fewer than LEAST.
    """
    found: dict[bytes, tuple[int, np.ndarray]] = {}
    for file, one in enumerate(texts):
        for begin in range(0, len(one.ids) - tokens + 1, tokens):
            ids = one.ids[begin : begin + tokens]
            found.setdefault(ids.tobytes(), (file, ids))
    if len(found) < LEAST:
        total = sum(len(one.ids) for one in texts)
        raise ValueError(
            f"text: expected at least {LEAST} different documents of {tokens} tokens, got "
            f"{len(found)} out of {total:,} tokens in {len(texts)} file{'s' * (len(texts) != 1)}"
        )
    order = np.random.default_rng(seed).permutation(len(found))[:most]
    cut = list(found.values())
    return Stretches(np.array([cut[k][1] for k in order]), np.array([cut[k][0] for k in order]))
