"""What it takes to make the book's tables again, the paper's, and those of larger models."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pandas as pd

from kvlib import study
from kvlib.study import estimate, hardware, scale
from kvlib.study.counts import COUNTED, Work
from kvlib.study.shapes import SHAPES

PAPER_MODELS = ("Qwen2.5-0.5B", "Llama-3.2-1B", "Qwen2.5-1.5B", "Qwen2.5-3B")
TEXTS, DOCS = 4, 24  # of the paper's scale
LARGE = {"7B": "Qwen2.5-7B", "70B": "Llama-3.1-70B"}
SIZES = ("Qwen2.5-1.5B", "Qwen2.5-7B", "Llama-3.1-70B")  # of the chart
MACHINES = ("RTX-4090", "A100-80GB", "2xH100", "8xH100")
CHART_CARDS = ("A100-80GB", "H100", "H200")
COUNTS = (1, 2, 4, 8, 16, 32, 64, 128)

# Past one cluster: a study of so many documents of a 7B model, and what its workers share.
MANY, LARGE_CARD = 100_000, "h100"
WORKERS = (1, 10, 100, 1000)
STORAGE = 20e9  # bytes a second that a shared file system gives to all of its readers
FILE = 0.01  # seconds that it takes to make, sync and rename one file there
LIFE, RESTART = 24 * 3600.0, 120.0  # a worker's mean life, and the wait for its successor
TOGETHER = 32  # documents of one file, once they are put together


def sensitivity(model: str, texts: int = TEXTS, docs: int = DOCS) -> list[study.Study]:
    """The truncation study with the book's defaults, of one model in bfloat16 on some texts."""
    known = study.KINDS["truncation_sensitivity"].settings
    return [
        study.Study(
            f"sensitivity-{model}-text-{k}",
            "truncation_sensitivity",
            {key: value for key, value in known.items() if not isinstance(value, type)}
            | {"model": model, "corpus": f"text-{k}", "dtype": "bfloat16"},
            docs,
        )
        for k in range(texts)
    ]


def studies() -> dict[str, list[study.Study]]:
    """What the page prices: the book, the paper's scale, and a model of each larger size."""
    paper = [one for model in PAPER_MODELS for one in sensitivity(model)]
    larger = {f"{size}, {TEXTS} texts": sensitivity(model) for size, model in LARGE.items()}
    book = [one for one in study.studies() if one.kind in COUNTED]
    return {"this book": book, "the paper's scale": paper} | larger


def costs_table(machines: Sequence[str] = MACHINES) -> pd.DataFrame:
    """A row a group of `studies`: tables, tokens, rows, memory a worker, and the time until all
    are made on each machine; `does not fit` where a worker needs more cards than there are."""
    rows = []
    for name, group in studies().items():
        found = {text: estimate.on_machine(group, hardware.machine_of(text)) for text in machines}
        priced = max(found.values(), key=lambda one: len(one.costs)).costs
        row = {
            "tables": len(group),
            "tokens": estimate.amount(sum(one.tokens for one in priced)),
            "rows": f"{sum(one.rows for one in priced):,}",
            "memory a worker": estimate.in_bytes(max(one.memory for one in priced)),
        }
        for text, one in found.items():
            whole = len(one.costs) == len(group)
            row[text] = estimate.duration(one.seconds) if whole else "does not fit"
        rows.append({"what": name} | row)
    return pd.DataFrame(rows).set_index("what")


def models_table() -> pd.DataFrame:
    """Models of the table of shapes that are on the Hub: id, parameters, whether they are gated,
    and bytes of weights at 16 bits."""
    return pd.DataFrame(
        {
            "Hub id": shape.hub,
            "parameters": f"{shape.parameters / 1e9:.3g} billion",
            "gated": "yes" if shape.gated else "no",
            "weights, 16 bits": estimate.in_bytes(shape.weight_bytes("bfloat16")),
        }
        for shape in SHAPES.values()
        if shape.hub
    ).set_index("Hub id")


def hours_table(
    models: Sequence[str] = SIZES,
    cards: Sequence[str] = CHART_CARDS,
    counts: Sequence[int] = COUNTS,
) -> pd.DataFrame:
    """Minutes of one model's study (TEXTS texts of DOCS documents) by the number of cards.

    Columns: `model, card, cards, workers, minutes, longest` (an item and a load: what no number of
    cards goes below). Numbers of cards that no worker fits on are left out.
    """
    rows = []
    for model, card, count in itertools.product(models, cards, counts):
        found = estimate.on_machine(sensitivity(model), hardware.machine_of(f"{count}x{card}"))
        if not found.costs:
            continue
        longest = max(max(one.seconds) + one.load_seconds for one in found.costs)
        rows.append((model, card, count, found.workers, found.seconds / 60, longest / 60))
    columns = ["model", "card", "cards", "workers", "minutes", "longest"]
    return pd.DataFrame(rows, columns=columns)


# --- past one cluster -------------------------------------------------------------------------


def item() -> tuple[float, scale.Cluster]:
    """Seconds of a document of the 7B model on the card, and a cluster that shares nothing."""
    shape = SHAPES[LARGE["7B"]]
    pace = estimate.elsewhere(shape, hardware.CARDS[LARGE_CARD], "bfloat16")
    works = estimate.works_of(sensitivity(shape.name)[0], shape.prefix, pace.at_once)
    assert works is not None, "a kind that is counted"
    seconds = sum(map(pace.seconds, works)) / len(works)
    load_bytes = shape.weight_bytes("bfloat16")
    return seconds, scale.Cluster(load_bytes, hardware.LOAD_RATE, start=hardware.START)


def clusters() -> dict[str, tuple[scale.Cluster, int]]:
    """What workers share, one thing after another, and then what one would change: a cluster and
    the documents of an item."""
    alone = item()[1]
    storage = alone._replace(shared_rate=STORAGE)
    files = storage._replace(file_seconds=FILE)
    deaths = files._replace(mean_life=LIFE, restart=RESTART)
    near = deaths._replace(shared_rate=float("inf"))
    return {
        "nothing shared": (alone, 1),
        "one storage": (storage, 1),
        "and one folder": (files, 1),
        "and workers die": (deaths, 1),
        f"{TOGETHER} documents a file": (deaths, TOGETHER),
        "and weights on each node": (near, TOGETHER),
    }


def efficiencies(documents: int = MANY, workers: Sequence[int] = WORKERS) -> pd.DataFrame:
    """The share of the workers' time that goes into documents, a row a cluster of `clusters`."""
    seconds, _ = item()
    return pd.DataFrame(
        {
            number: {
                name: scale.simulate(
                    [together * seconds] * -(-documents // together), number, cluster
                ).efficiency
                for name, (cluster, together) in clusters().items()
            }
            for number in workers
        }
    )


def shares() -> dict[str, float]:
    """Parts of the 7B study's work: of its tokens those of references, and of its seconds those of
    the vocabulary's head."""
    shape = SHAPES[LARGE["7B"]]
    pace = estimate.elsewhere(shape, hardware.CARDS[LARGE_CARD], "bfloat16")
    works = estimate.works_of(sensitivity(shape.name)[0], shape.prefix, pace.at_once)
    assert works is not None, "a kind that is counted"
    longest = [max(one.tokens for one in work.passes) for work in works]
    bodies = [Work(passes=work.passes) for work in works]
    whole = sum(map(pace.seconds, works))
    return {
        "references": sum(longest) / sum(work.tokens for work in works),
        "head": 1 - sum(map(pace.seconds, bodies)) / whole,
    }


# --- what the page says -----------------------------------------------------------------------


def facts(table: pd.DataFrame, found: pd.DataFrame) -> dict[str, str]:
    """What the page's prose glues: of the `costs_table` and the `efficiencies`."""
    seconds, alone = item()
    load = alone.start + alone.load_bytes / alone.own_rate
    work = seconds * TEXTS * DOCS
    most = WORKERS[-1]
    bare, last = (found[most][name] for name in ("nothing shared", "and weights on each node"))
    held = alone.load_bytes * most
    part = shares()
    paper = table.loc["the paper's scale"]
    return {
        "n-stored": f"{len(study.studies())}",
        "n-counted": f"{len(studies()['this book'])}",
        "paper-tokens": paper["tokens"],
        "paper-models": f"{len(PAPER_MODELS)}",
        "n-texts": f"{TEXTS}",
        "n-docs": f"{DOCS}",
        "paper-one": paper["A100-80GB"],
        "paper-eight": paper["8xH100"],
        "seven-one": table.loc[f"7B, {TEXTS} texts", "A100-80GB"],
        "seventy-eight": table.loc[f"70B, {TEXTS} texts", "8xH100"],
        "seventy-memory": table.loc[f"70B, {TEXTS} texts", "memory a worker"],
        "item": estimate.duration(seconds),
        "load": estimate.duration(load),
        "load-items": f"{load / seconds:.0f}",
        "work": estimate.duration(work),
        "one-share": f"{work / (work + load):.0%}",
        "many": f"{MANY:,}",
        "many-work": estimate.duration(seconds * MANY),
        "most": f"{most:,}",
        "all-weights": f"{held / 1e12:.3g} TB",
        "storage": f"{STORAGE / 1e9:.0f} GB/s",
        "storage-wait": estimate.duration(held / STORAGE),
        "files-second": f"{most / seconds:,.0f}",
        "file-limit": f"{1 / FILE:.0f}",
        "file-workers": f"{seconds / FILE:.0f}",
        "together": f"{TOGETHER}",
        "bare": f"{bare:.0%}",
        "shared": f"{found[most]['and workers die']:.1%}",
        "mended": f"{last:.0%}",
        "references": f"{part['references']:.0%}",
        "head": f"{part['head']:.0%}",
        "share": f"{hardware.SHARE:.0%}",
        "launch": f"{1e3 * hardware.LAUNCH:.1f} ms",
        "life": estimate.duration(LIFE),
    }
