"""Which models a bounded cache works with: a table, made by trying toys of each architecture."""

from __future__ import annotations

import importlib.metadata
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from kvlib import store
from kvlib.cache import toys, trials
from kvlib.cache.trials import Found
from kvlib.names import written

FILE = store.DATA / "architectures" / "table.json"
VERSIONS = ("transformers", "torch")
TITLES = {  # of the trials, as a table's columns say them
    "exact": "one text",
    "batch": "batch",
    "padding": "left padding",
    "beams": "beams",
    "assisted": "assisted",
    "bf16": "bfloat16",
    "compiled": "compiled",
}
DISTANCES = ("exact", "batch", "padding")  # whose numbers are distances between logits
MEANINGS = {  # a pattern of a refusal → what it means
    "whose every layer attends": "A layer keeps a state of fixed size and no entries, so there is "
    "nothing to evict, or it attends in a module that we do not know.",
    "layers of full or sliding attention": "Some layers are recurrent, convolutional, chunked, or "
    "read what an index selects: that is no set of entries which a budget counts.",
    "cache of plain keys and values": "Some layers have no keys of their own, or keep more.",
    "sliding layers listed": "It has a window, and nothing says in which layers.",
    "local attention by order": "Local layers count places in the cache, not positions.",
    "one attention a layer": "A layer attends twice, and keeps two sets of keys and values.",
    "ALiBi": "The class computes its biases from the number of entries, not from positions.",
    "positions below": "Positions end, or begin to depend on the length of a forward, before the "
    "text does; up to there it is served.",
}


# --- made, kept, read ---------------------------------------------------------------------------


def chosen(names: Iterable[str] = ()) -> list[toys.Toy]:
    """The toys of these names, or all that the installed transformers has."""
    declared = {toy.name: toy for toy in toys.toys()}
    names = list(names) or [name for name, toy in declared.items() if toys.is_here(toy)]
    for name in names:
        if name not in declared:
            raise ValueError(f"architecture: expected one of {', '.join(declared)}, got {name!r}")
        if not toys.is_here(declared[name]):
            raise ValueError(f"architecture: {name} is not in the transformers that is installed")
    return [declared[name] for name in names]


def trials_of(names: Iterable[str]) -> tuple[str, ...]:
    """These trials, or all."""
    names = tuple(names)
    if unknown := sorted(set(names) - TITLES.keys()):
        raise ValueError(f"trial: expected some of {', '.join(TITLES)}, got {unknown[0]!r}")
    return names or tuple(TITLES)


def row(toy: toys.Toy, names: tuple[str, ...] | None = None) -> dict[str, Any]:
    """What is found of one toy: its name, class, attention, and a cell a trial."""
    model = toys.made(toy)
    found = trials.tried(model, names)
    return {
        "name": toy.name,
        "kind": toy.kind,
        "class": type(model).__name__,
        "attention": model.config._attn_implementation,
        "found": {name: cell._asdict() for name, cell in found.items()},
    }


def table(rows: list[dict[str, Any]], older: dict[str, Any] | None = None) -> dict[str, Any]:
    """Rows, in the order of the toys, with what they were tried under.

    Of an older table that was made under the same versions and settings the other rows stay, and of
    a row that is served the trials that were not made anew.
    """
    order = [toy.name for toy in toys.toys()]
    under = {
        "versions": {name: importlib.metadata.version(name) for name in VERSIONS},
        "settings": {
            **{"budget": trials.BUDGET, "n_sink": trials.N_SINK, "tokens": trials.LENGTH},
            **{"written": trials.NEW, "rounding": trials.ROUNDING, "half": trials.HALF},
        },
    }
    same = older is not None and all(older[key] == under[key] for key in under)
    kept = {one["name"]: one for one in older["rows"]} if older is not None and same else {}
    for one in rows:
        before = kept.get(one["name"], one)
        if not refusal(one) and not refusal(before):
            one = one | {"found": before["found"] | one["found"]}
        kept[one["name"]] = one
    return under | {"rows": sorted(kept.values(), key=lambda one: order.index(one["name"]))}


def write(made: dict[str, Any], file: Path = FILE) -> None:
    """Keep a table, whole or not at all."""
    text = json.dumps(made, indent=1, ensure_ascii=False) + "\n"
    store.write_atomically(file, lambda path: path.write_text(text, encoding="utf-8"))


def read(file: Path = FILE) -> dict[str, Any]:
    """The table that is kept."""
    try:
        made = json.loads(file.read_text(encoding="utf-8"))
        names = [one["name"] for one in made["rows"]]
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{file}: expected a table of architectures, got other text") from None
    if not names:
        raise ValueError(f"{file}: expected some architectures, got none")
    return made


def cells(one: dict[str, Any]) -> dict[str, Found]:
    """What was found in a row."""
    return {name: Found(**cell) for name, cell in one["found"].items()}


# --- said ---------------------------------------------------------------------------------------


def refusal(one: dict[str, Any]) -> str:
    """Why the cache cannot be made for a model at all; empty where it can."""
    reasons = {cell.reason for cell in cells(one).values()}
    (reason, *more) = reasons
    prefix = f"{one['class']}: "
    return reason.removeprefix(prefix) if not more and reason.startswith(prefix) else ""


def meaning(reason: str) -> str:
    """What a refusal means; ValueError for one that nobody has explained."""
    for pattern, text in MEANINGS.items():
        if re.search(pattern, reason):
            return text
    raise ValueError(f"refusal: expected one of those in MEANINGS, got {reason!r}")


def shown(name: str, cell: Found | None) -> str:
    """A cell of the page: the word, and the number where it says something; a dash for a trial that
    was not made."""
    if cell is None:
        return "–"
    if cell.number is None:
        return cell.word
    number = f"{cell.number:.0e}" if name in DISTANCES else f"{cell.number:.2g}"
    return f"{cell.word}, {number}"


def line_of(one: dict[str, Any]) -> str:
    """A row as one line."""
    if why := refusal(one):
        return f"{one['name']}: no: {why}"
    said = (f"{TITLES[name]} {shown(name, cell)}" for name, cell in cells(one).items())
    return f"{one['name']}: {'; '.join(said)}"


def lines(found: dict[str, Found]) -> Iterable[str]:
    """A line a trial: title, word, number, reason."""
    for name, cell in found.items():
        reason = f"  {cell.reason}" if cell.reason else ""
        yield f"{TITLES[name]:<14}{shown(name, cell)}{reason}"


def served(made: dict[str, Any]) -> pd.DataFrame:
    """The architectures that a cache can be made for: a row each, a column a trial."""
    rows = {
        one["name"]: {title: shown(name, cells(one).get(name)) for name, title in TITLES.items()}
        for one in made["rows"]
        if not refusal(one)
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("architecture")


def failed(made: dict[str, Any]) -> pd.DataFrame:
    """Trials that failed although a cache can be made: architecture, trials and reasons."""
    found = [
        (one["name"], TITLES[name], _reason(cell.reason))
        for one in made["rows"]
        if not refusal(one)
        for name, cell in cells(one).items()
        if cell.word != "yes"
    ]
    table = pd.DataFrame(found, columns=["architecture", "trials", "reason"])
    keys = ["architecture", "reason"]
    table = table.groupby(keys, sort=False)["trials"].agg(", ".join).reset_index()
    return table[["architecture", "trials", "reason"]]


def _reason(reason: str) -> str:
    """What a failure means, where it is a refusal that is explained; else as it stands."""
    try:
        return meaning(reason)
    except ValueError:
        return reason


def refused(made: dict[str, Any]) -> pd.DataFrame:
    """The architectures that are refused, by what the refusal means."""
    found = [(meaning(why), one["name"]) for one in made["rows"] if (why := refusal(one))]
    return _grouped(pd.DataFrame(found, columns=["what it means", "architectures"]))


def _grouped(found: pd.DataFrame) -> pd.DataFrame:
    keys = list(found.columns[:-1])
    return found.groupby(keys, sort=False)["architectures"].agg("; ".join).reset_index()


def facts(made: dict[str, Any]) -> dict[str, str]:
    """What the page says of the table."""
    rows = made["rows"]
    able = [cells(one) for one in rows if not refusal(one)]
    words = {name: [one[name].word for one in able if name in one] for name in TITLES}
    worst = max(
        (cell.number or 0.0)
        for one in able
        for name in DISTANCES
        if (cell := one[name]).word == "yes"
    )
    settings = made["settings"]
    return {
        "transformers": made["versions"]["transformers"],
        "torch": made["versions"]["torch"],
        "tried": str(len(rows)),
        "classes": str(len({one["class"] for one in rows})),
        "served": str(len(able)),
        "refused": str(len(rows) - len(able)),
        "worst": written(f"{worst:.0e}"),
        "budget": str(settings["budget"]),
        "n-sink": str(settings["n_sink"]),
        "tokens": str(settings["tokens"]),
        "written": str(settings["written"]),
        "bound": written(f"{settings['rounding']:.0e}"),
        "half": f"{settings['half']:g}",
        **{f"yes-{name}": f"{w.count('yes')} of {len(w)}" for name, w in words.items()},
    }
