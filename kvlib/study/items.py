"""An item: one document of one table. Whoever measures it, one process here, a job of an array or a
worker of a cluster, comes by `prepared` and `Prepared.measured`.

An item is its `key`: settings (with the hashes of model and text, kind, grid and dtype), the number
of the document, and the hash of the code that measures. To do one twice does no harm.
"""

from __future__ import annotations

import functools
import hashlib
import json
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from kvlib import corpora, store
from kvlib.study.declared import KINDS, Study, module_of

ROOMS = ("measure", "cache", "models", "corpora")  # whose sources decide what is measured
PACKAGE = Path(__file__).parents[1]


class Prepared(NamedTuple):
    """A table's items, ready to be measured: its settings with the hashes of model and text, what a
    page must know of both, the device, the hash of the code, and what makes a document's rows."""

    settings: dict[str, Any]
    about: dict[str, Any]
    device: str
    code: str
    rows: Callable[[int], pd.DataFrame]

    def mark(self, doc: int) -> dict[str, Any]:
        """What a part says of its rows: their key, of which model and text, and what made them."""
        subject = {k: v for k, v in self.settings.items() if k.endswith("_sha256")}
        run = store.run_of("", self.device)
        made = {name: run[name] for name in ("device", "python", "versions")}
        return {
            "code_sha256": self.code,
            "key": key(self.settings, doc, self.code),
            "subject": subject,
            "run": made | {"host": platform.node()},
        }


def key(settings: dict[str, Any], doc: int, code: str) -> str:
    """What an item is, as one SHA-256 of settings, document and code."""
    said = {"settings": settings, "doc": doc, "code": code}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


@functools.cache
def code_sha256(kind: str) -> str:
    """SHA-256 of the sources that measure a kind: `ROOMS`, and its own module. Of text and names
    relative to the package alone, so that it is the same on every machine."""
    files = {path for room in ROOMS for path in (PACKAGE / room).glob("*.py")}
    files.add(PACKAGE.joinpath(*KINDS[kind].module.split(".")).with_suffix(".py"))
    named = {path.relative_to(PACKAGE).as_posix(): path for path in files}
    found = hashlib.sha256()
    for name in sorted(named):
        text = named[name].read_text(encoding="utf-8")  # its line ends are \n on every system
        found.update(json.dumps([name, text]).encode())
    return found.hexdigest()


def prepared(study: Study, device: str = "auto") -> Prepared:
    """Load what a table's items need. Bad settings fail before text and model are loaded; a model
    that the item before had is not loaded again.

    Raises ValueError or OSError with one line.
    """
    settings, lm = study.checked(), None
    text: Any = None
    about: dict[str, Any] = {}
    if "corpus" in settings:
        text = corpora.load_corpus(settings["corpus"])
        settings |= store.text_of(text)
        about["corpus"] = text.about()
        if "chars" in settings:
            places = corpora.begins(len(text.text), study.docs)
            spans = [[begin, begin + settings["chars"]] for begin in places]
            about["corpus"]["characters"] = spans
    if "model" in settings:
        from kvlib.models import about as about_model

        device = KINDS[study.kind].device if device == "auto" else device
        lm = _model(settings["model"], device, settings["dtype"])
        settings |= store.subject_of(lm, text)
        about["model"] = about_model(lm)
        if settings.get("stretches") == "shared":
            shared = text.shared(lm.tokenizer, settings["seq_len"], study.docs)
            about["corpus"]["characters"] = [[one.begin, one.end] for one in shared]
    if "policies" in settings:
        from kvlib.cache.policies import about as about_policies

        about["policies"] = about_policies(settings["policies"])
    rows = module_of(study.kind).item_rows(lm, text, settings, study.docs)
    on = lm.device.type if lm else "cpu"
    return Prepared(settings, about, on, code_sha256(study.kind), rows)


_kept: dict[tuple, Any] = {}  # the model of the last item, and no other: memory is for one


def _model(name: str, device: str, dtype: str) -> Any:
    """A model, loaded once for all items in a row that need it; a folder that has changed is
    another model."""
    from kvlib.models import load_model

    folder = Path(name)
    files = sorted(folder.iterdir()) if (folder / "config.json").is_file() else []
    stats = [(file.name, file.stat()) for file in files]
    found = tuple((file, stat.st_size, stat.st_mtime_ns) for file, stat in stats)
    wanted = (name, device, dtype, found)
    if wanted not in _kept:
        _kept.clear()
        _kept[wanted] = load_model(name, device, dtype)
    return _kept[wanted]
