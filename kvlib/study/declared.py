"""Studies, declared: `studies.toml` holds those of the book, flags make one of the user's own.

A new kind of table is an entry of `KINDS` and a module that has

    checked(settings, docs) -> settings       with what the code itself decides, or a ValueError
    item_rows(lm, text, settings, docs)       -> function: number of a document -> its rows

where `lm` is None for kinds that need no model, and `text` for those that need none.
"""

from __future__ import annotations

import importlib
import itertools
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

from kvlib import corpora, names, store

FILE = store.DATA / "studies.toml"
DTYPES = ("float32", "bfloat16", "float16", "float64")
MOST_DOCS = 2**15  # tables number documents with 16 bits
HUB_ID = r"\w[\w.-]*/\w[\w.-]*(@[\w./-]+)?"
ITEMS = {"policies": str, "budgets": int, "variants": str, "windows": int, "truths": float}
ITEMS |= {"contexts": int, "readers": str}


class Kind(NamedTuple):
    """A kind of table: who makes its rows, and its settings with their defaults; a type in place
    of a default is of a setting that must be said. `later` came after tables had been made, which
    do not say them: a table says them where they are not the default."""

    module: str
    settings: dict[str, Any]
    docs: int
    device: str = "auto"
    later: tuple[str, ...] = ()


TEXT = {"model": str, "corpus": str, "dtype": "float32", "seed": 0}
READ = TEXT | {"protocol": "reencode", "seq_len": 3072, "stride": 3072}
POLICIES = TEXT | {"protocol": "online", "policies": list, "budgets": list, "stride": 3072}
KINDS = {
    "truncation_sensitivity": Kind(
        "measure.truncation",
        READ
        | {"stretches": "drawn", "max_window": 1024, "pairs_per_octave": 1024}
        | {"thin": 1, "contexts": [], "twice": 0},
        docs=24,
        later=("stretches", "thin", "contexts", "twice"),
    ),
    "policy_distortion": Kind(
        "measure.distortion",
        POLICIES | {"stretches": "drawn", "seq_len": 2048, "every": 4, "step": 32},
        docs=16,
        later=("stretches",),
    ),
    "passage": Kind("measure.passage", POLICIES | {"context": 1024, "shown": 176}, docs=1),
    "diagnostics": Kind("measure.nested", READ | {"windows": [32, 256], "targets": 8}, docs=12),
    "positions": Kind(
        "measure.positions",
        READ
        | {"stretches": "drawn", "seq_len": 1024}
        | {"variants": list, "windows": list, "targets": int},
        docs=24,
    ),
    "kv_rates": Kind("measure.rates", TEXT | {"seq_len": 1024, "stride": 1024}, docs=16),
    "cache_run": Kind(
        "measure.cache_run",
        TEXT
        | {"budget": 512, "n_sink": 4, "tokens": 8000, "every": 50, "prompt": 64}
        | {"temperature": 1.0},
        docs=2,
        device="cpu",
    ),
    "drafting": Kind(
        "measure.drafting",
        TEXT
        | {"windows": list, "draft": 5, "tokens": 64, "prompt": 1536, "n_sink": 4, "stride": 3072},
        docs=8,
    ),
    "readers": Kind(
        "measure.readers",
        {"corpus": str, "readers": list, "windows": list, "chars": 12_288}
        | {"history": 2**22, "ppmd_history": 2**20},
        docs=24,
    ),
    "bends": Kind(
        "claims.bends", {"studies": 100, "first": 8, "truths": [0.0, 0.3, 1.0], "seed": 0}, 44
    ),
    "calibration": Kind("fit.calibration", {"studies": 1000, "resamples": 1000, "seed": 0}, 12),
}


@dataclass(frozen=True)
class Study:
    """One table, declared: `settings` are all there are, but for hashes and what code decides."""

    table: str
    kind: str
    settings: dict[str, Any]
    docs: int
    folder: Path = store.DATA
    pattern: str = field(default="", compare=False)

    @property
    def path(self) -> Path:
        """Where the table lies, without ending."""
        return self.folder / self.table

    @property
    def label(self) -> str:
        """The table's name without its model and text: what tables of one study share."""
        label = self.table
        for key in ("corpus", "model"):
            label = label.removesuffix(f"-{Path(self.settings.get(key, '')).name}") or label
        return label

    def checked(self) -> dict[str, Any]:
        """The settings with what the code itself decides; ValueError for what cannot be done."""
        found = module_of(self.kind).checked(self.settings, self.docs)
        _check_numbers(self.settings | {"docs": self.docs})
        return {"kind": self.kind} | found


# --- declared ---------------------------------------------------------------------------------


def declare(
    kind: str, table: str, settings: dict[str, Any], docs: int | None, folder: Path
) -> list[Study]:
    """The studies that an entry stands for: one for each combination of what it lists.

    Raises ValueError with one line: an unknown kind, an unknown or missing setting, one of another
    type, a name in braces that is no setting.
    """
    if kind not in KINDS:
        raise ValueError(f"{table}: kind: expected one of {', '.join(KINDS)}, got {kind!r}")
    known = KINDS[kind].settings
    if unknown := sorted(settings.keys() - known.keys()):
        raise ValueError(
            f"{table}: expected settings of {kind} ({', '.join(known)}), got {', '.join(unknown)}"
        )
    if missing := [k for k, v in known.items() if isinstance(v, type) and k not in settings]:
        raise ValueError(f"{table}: expected {' and '.join(missing)} too, got no such setting")
    types = {key: v if isinstance(v, type) else type(v) for key, v in known.items()}
    docs = _typed(table, "docs", KINDS[kind].docs if docs is None else docs, int)
    listed = [k for k, v in settings.items() if isinstance(v, list) and types[k] is not list]
    found = []
    for values in itertools.product(*(settings[key] for key in listed)):
        said = known | settings | dict(zip(listed, values, strict=True))
        typed = {key: _typed(table, key, value, types[key]) for key, value in said.items()}
        for key in ITEMS.keys() & typed.keys():
            typed[key] = [_typed(table, key, item, ITEMS[key]) for item in typed[key]]
        name = _named(table, typed)
        found.append(Study(name, kind, said_of(kind, typed), docs, folder, table))
    if not found:
        raise ValueError(f"{table}: expected something in each list, got nothing")
    return found


def said_of(kind: str, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that a table says: all but those of `Kind.later` that are the default."""
    known, later = KINDS[kind].settings, KINDS[kind].later
    return {k: v for k, v in settings.items() if k not in later or v != known[k]}


def studies(file: Path = FILE) -> list[Study]:
    """All tables that a file declares, in its order.

    Raises ValueError with one line where `declare` does, for what is no TOML (with the place), for
    two tables of one name, and for a table to make of a model, text or policy that is not known;
    OSError for what is no regular file.
    """
    store.check_regular(file)
    try:
        entries = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: expected TOML, got {error}") from None
    listed = entries.pop("study", [])
    if entries or not isinstance(listed, list) or not all(isinstance(e, dict) for e in listed):
        got = ", ".join(entries) or "something else"
        raise ValueError(f"{file}: expected [[study]] and nothing else, got {got}")
    found: list[Study] = []
    for entry in listed:
        kind, table = (str(entry.pop(key, "")) for key in ("kind", "table"))
        try:
            found += declare(kind, table, entry, entry.pop("docs", None), file.parent)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from None
    tables = [one.table for one in found]
    if twice := sorted({table for table in tables if tables.count(table) > 1}):
        raise ValueError(f"{file}: expected each table once, got {', '.join(twice)} twice")
    for one in found:
        if not store.table_file(one.path, ".json").exists():  # else it needs no model any more
            _check_names(one, file)
    return found


def chosen(declared: Sequence[Study], names: Sequence[str]) -> list[Study]:
    """The studies of these names; a name is a table's, a study's (its label or its pattern), or a
    pattern with stars. All of them without any. ValueError names the known ones."""

    def meant(study: Study, name: str) -> bool:
        return name in (study.label, study.pattern) or fnmatchcase(study.table, name)

    for name in names:
        if not any(meant(study, name) for study in declared):
            known = ", ".join(dict.fromkeys(study.label for study in declared))
            raise ValueError(
                f"unknown study or table: expected one of {known}, or a table that --list names, "
                f"got {name!r}"
            )
    return [study for study in declared if not names or any(meant(study, n) for n in names)]


# --- small parts --------------------------------------------------------------------------------


def module_of(kind: str) -> Any:
    """The module that measures a kind."""
    return importlib.import_module(f"kvlib.{KINDS[kind].module}")


def _typed(table: str, key: str, value: Any, wanted: type) -> Any:
    """The value, if it is of the kind that is wanted; a whole number may stand for a real one."""
    if wanted is float and type(value) is int:
        return float(value)
    if type(value) is not wanted:
        raise ValueError(f"{table}: {key}: expected {wanted.__name__}, got {value!r}")
    return value


def _named(pattern: str, settings: dict[str, Any]) -> str:
    """The table's name, with settings in the place of their names in braces."""

    def value(found: re.Match) -> str:
        if found[1] not in settings:
            raise ValueError(f"{pattern}: expected settings in braces, got {found[1]!r}")
        return Path(str(settings[found[1]])).name

    name = re.sub(r"\{(.*?)\}", value, pattern)
    if Path(name).name != name or not name:
        raise ValueError(f"table: expected the name of a table, got {name!r}")
    return name


def _check_names(one: Study, file: Path) -> None:
    """Refuses models, texts and policies that cannot be had, as far as is known without a load."""
    said, wrong = one.settings, ""
    model, text, policies = (said.get(key) for key in ("model", "corpus", "policies"))
    if model and not (
        model in names.MODELS
        or (Path(model) / "config.json").is_file()
        or re.fullmatch(HUB_ID, model)
    ):
        known = ", ".join(names.MODELS)
        known += ", a folder with a model, or a Hub id as owner/name[@revision]"
        wrong = f"model: expected one of {known}, got {model!r}"
    elif text and not (text in corpora.CORPORA or Path(text).is_file()):
        known = f"{', '.join(corpora.CORPORA)}, or a text file"
        wrong = f"corpus: expected one of {known}, got {text!r}"
    elif unknown := set(policies or ()) - names.POLICIES.keys():
        from kvlib.cache.policies import NAMED  # needs torch, and knows those without a name too

        if unknown := unknown - NAMED.keys():
            listed = ", ".join(sorted(unknown))
            wrong = f"policy: expected one of {', '.join(NAMED)}, got {listed}"
    if wrong:
        raise ValueError(f"{file}: {one.table}: {wrong}")


def _check_numbers(settings: dict[str, Any]) -> None:
    """Refuses counts below zero or beyond what tables hold, and documents that would overlap."""
    if not 1 <= settings["docs"] <= MOST_DOCS:
        raise ValueError(f"docs: expected 1 to {MOST_DOCS}, got {settings['docs']}")
    for key, value in settings.items():
        for number in value if isinstance(value, list) else [value]:
            if type(number) is int and not 0 <= number < 2**31:
                raise ValueError(f"{key}: expected 0 to {2**31 - 1}, got {number}")
    if settings.get("dtype", DTYPES[0]) not in DTYPES:
        raise ValueError(f"dtype: expected auto, {', '.join(DTYPES)}, got {settings['dtype']!r}")
    if settings.get("stride", 0) < settings.get("seq_len", 0):
        length, stride = settings["seq_len"], settings["stride"]
        raise ValueError(f"stride: expected at least seq-len {length}, got {stride}")
