"""Small parts that loading and converting share: hashes, one line of an error, silence."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path

from transformers.utils import logging as transformers_logging


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def first_line(error: Exception) -> str:
    """What an error says first, or its class where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class quiet:
    """Silence the loaders' progress bars and warnings for the length of a `with` block."""

    def __enter__(self) -> None:
        self._verbosity = transformers_logging.get_verbosity()
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
        self._warnings = warnings.catch_warnings()
        self._warnings.__enter__()
        warnings.simplefilter("ignore")

    def __exit__(self, *exc: object) -> None:
        self._warnings.__exit__(*exc)
        transformers_logging.enable_progress_bar()
        transformers_logging.set_verbosity(self._verbosity)
