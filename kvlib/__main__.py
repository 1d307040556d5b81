"""The command line: `python -m kvlib measure --model … --corpus … --docs … --out …`."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import pandas as pd
import rich.progress
import typer
from rich.console import Console

from kvlib import store
from kvlib.corpora import load_corpus

if TYPE_CHECKING:
    from kvlib.models import LanguageModel

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback()
def about() -> None:
    """Measure what a language model may forget."""


@app.command()
def fetch() -> None:
    """Convert the embedded models into the cache folder, so that later loads take seconds."""
    from kvlib.models import EMBEDDED, cache_folder, converted

    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        list(pool.map(converted, EMBEDDED))
    print(f"{', '.join(EMBEDDED)}: ready in {cache_folder()}")


@app.command()
def measure(
    model: Annotated[str, typer.Option(help="embedded name, local folder or Hub id")],
    corpus: Annotated[str, typer.Option(help="pinned name or a UTF-8 text file")],
    out: Annotated[Path, typer.Option(help="table to write: PATH.parquet and PATH.json")],
    docs: Annotated[int, typer.Option(help="documents")] = 24,
    max_window: Annotated[int, typer.Option(help="largest window, in tokens")] = 1024,
    seq_len: Annotated[int, typer.Option(help="tokens a document; 0: three windows")] = 0,
    stride: Annotated[int, typer.Option(help="tokens from document to document; 0: seq-len")] = 0,
    pairs_per_octave: Annotated[int, typer.Option(help="pairs in a document's top octave")] = 0,
    seed: Annotated[int, typer.Option(help="draws documents and starts")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, …")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto (float32), bfloat16, …")] = "auto",
) -> None:
    """Truncation sensitivity of a model on a text, appended document by document.

    A run that was killed goes on where it was when the same command is given again. With a stride,
    documents are the first seq-len tokens of stretches of so many, as in `distort`.
    """
    from kvlib.measure import PAIRS_PER_OCTAVE, design_for, measure_document
    from kvlib.models import load_model

    pairs_per_octave = pairs_per_octave or PAIRS_PER_OCTAVE
    seq_len = seq_len or 3 * max_window
    design_for(seq_len, max_window, pairs_per_octave, seed)  # bad settings fail before the loads
    check_stride(stride or seq_len, seq_len)
    store.table_file(out)
    text = load_corpus(corpus)
    lm = load_model(model, device, dtype)
    documents = text.documents(lm.tokenizer, stride or seq_len, docs, seed)
    settings = {
        "kind": "truncation_sensitivity",
        "protocol": "reencode",
        **store.subject_of(lm, text),
        "seq_len": seq_len,
        "max_window": max_window,
        "pairs_per_octave": pairs_per_octave,
        "seed": seed,
        **({"stride": stride} if stride else {}),
    }
    _document_by_document(
        store.Measurement(out, settings, docs),
        lm,
        lambda doc: measure_document(
            lm, documents[doc][:seq_len], doc, max_window, pairs_per_octave, seed
        ),
    )


@app.command()
def distort(
    model: Annotated[str, typer.Option(help="embedded name, local folder or Hub id")],
    corpus: Annotated[str, typer.Option(help="pinned name or a UTF-8 text file")],
    out: Annotated[Path, typer.Option(help="table to write: PATH.parquet and PATH.json")],
    policy: Annotated[list[str], typer.Option(help="name of a policy; may be repeated")],
    budget: Annotated[list[int], typer.Option(help="entries a query sees; may be repeated")],
    protocol: Annotated[str, typer.Option(help="reencode, online or prefill")] = "online",
    docs: Annotated[int, typer.Option(help="documents")] = 16,
    seq_len: Annotated[int, typer.Option(help="tokens a document")] = 2048,
    stride: Annotated[int, typer.Option(help="tokens from document to document")] = 3072,
    every: Annotated[int, typer.Option(help="every n-th token of the second half")] = 4,
    step: Annotated[int, typer.Option(help="tokens a forward, score-based online")] = 32,
    seed: Annotated[int, typer.Option(help="draws documents and random policies")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, …")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto (float32), bfloat16, …")] = "auto",
) -> None:
    """Distortion of cache policies at several budgets, appended document by document.

    Documents are the first seq-len tokens of stretches of stride tokens: with the default stride
    they begin the documents of `measure`.
    """
    from kvlib.cache.policies import NAMED
    from kvlib.measure import check_policies, measure_policies
    from kvlib.models import load_model

    if unknown := sorted(set(policy) - NAMED.keys()):
        raise ValueError(f"policy: expected one of {', '.join(NAMED)}, got {', '.join(unknown)}")
    policies = [NAMED[name] for name in policy]
    check_policies(policies, budget, protocol, every, seq_len)
    check_stride(stride, seq_len)
    store.table_file(out)
    text = load_corpus(corpus)
    lm = load_model(model, device, dtype)
    documents = text.documents(lm.tokenizer, stride, docs, seed)
    settings = {
        "kind": "policy_distortion",
        "protocol": protocol,
        **store.subject_of(lm, text),
        "policies": [repr(policy) for policy in policies],
        "budgets": budget,
        "seq_len": seq_len,
        "stride": stride,
        "every": every,
        "step": step,
        "seed": seed,
    }
    _document_by_document(
        store.Measurement(out, settings, docs),
        lm,
        lambda doc: measure_policies(
            lm, documents[doc][:seq_len], doc, policies, budget, protocol, seed, every, step
        ),
    )


@app.command()
def verdicts(
    json: Annotated[bool, typer.Option("--json", help="as JSON, with all that is known")] = False,
) -> None:
    """Every claim: the paper's words in ours, our verdict, its rule, and each figure behind it."""
    from kvlib.claims import front

    print((front.to_json if json else front.to_text)(front.verdicts()))


def check_stride(stride: int, seq_len: int) -> None:
    """Refuses documents that would overlap."""
    if stride < seq_len:
        raise ValueError(f"stride: expected at least seq-len {seq_len}, got {stride}")


def _document_by_document(
    measurement: store.Measurement,
    lm: LanguageModel,
    rows: Callable[[int], pd.DataFrame],
) -> None:
    """Measure what is missing, show progress, finish the table."""
    docs, todo = len(measurement.documents), measurement.missing()
    with measurement:
        with _progress() as progress:
            title = f"{Path(lm.name).name} · {measurement.settings['corpus']}"
            task = progress.add_task(title, total=docs, completed=docs - len(todo))
            for doc in todo:
                measurement.add(doc, rows(doc))
                progress.advance(task)
        table = measurement.finish(
            store.run_of("python -m kvlib " + " ".join(sys.argv[1:]), lm.device.type)
        )
    print(f"{len(table):,} rows of {table['doc'].nunique()} documents in {measurement.path}")


def _progress() -> rich.progress.Progress:
    return rich.progress.Progress(
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TextColumn("documents · elapsed"),
        rich.progress.TimeElapsedColumn(),
        rich.progress.TextColumn("· left"),
        rich.progress.TimeRemainingColumn(),
        console=Console(stderr=True),
    )


def main() -> None:
    """Run the command line; a failure is one line on standard error and exit code 1."""
    try:
        app()
    except (ValueError, OSError, ArithmeticError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
