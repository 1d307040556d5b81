"""Notebooks are executed again when something that their outputs depend on has changed."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from sphinx.application import Sphinx


def fingerprint(root: Path) -> str:
    """A hash of everything but the notebooks that their outputs depend on."""
    files = [path for path in (root / "kvlib").rglob("*") if path.is_file()]
    files = [path for path in files if "__pycache__" not in path.parts]
    digest = hashlib.sha256()
    for path in sorted([*files, *root.glob("requirements*.txt")]):
        digest.update(f"{path.relative_to(root)}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def choose_cache(app: Sphinx, config) -> None:
    """One cache of outputs for each fingerprint; when its path changes, Sphinx reads all again."""
    caches = Path(app.outdir).parent / ".jupyter_cache"
    cache = caches / fingerprint(Path(app.srcdir))
    if caches.is_dir() and not cache.is_dir():
        shutil.rmtree(caches)
    cache.mkdir(parents=True, exist_ok=True)
    config.nb_execution_cache_path = str(cache)
