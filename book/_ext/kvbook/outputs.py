"""The pages of the book, executed: each one once, and again only when what it rests on changed.

An executed page is kept as a notebook in ``_build/executed``. Its metadata hold a hash of the
page's code, and one of every file that its outputs rest on: the modules of this repository that
its kernel had imported in the end, all stored data, and the requirements. So an edit of one module
concerns the pages that import it, however they come by it, and no others. The book, the notebook
tests and ``make references`` all read from there, and whoever finds a page stale executes it.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import jupytext
import nbformat
import yaml
from filelock import FileLock
from nbclient import NotebookClient
from nbformat import NotebookNode

ROOT = Path(__file__).parents[3]
TIMEOUT = 600  # seconds a cell
AT_ONCE = min(2, os.cpu_count() or 1)  # kernels; each holds a model of half a gigabyte or more
DEFAULTS = {"OPENBLAS_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore::DeprecationWarning"}
IMPORTED = """
import json, sys
_files = {name: vars(module).get("__file__") for name, module in list(sys.modules.items())}
print(json.dumps({name: file for name, file in _files.items() if isinstance(file, str)}))
"""


def pages() -> list[Path]:
    """The executed pages of the book, in the order of its table of contents."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    chapters = [chapter["file"] for part in toc["parts"] for chapter in part["chapters"]]
    found = [ROOT / f"{file}.md" for file in [toc["root"], *chapters]]
    return [page for page in found if "\nkernelspec:" in page.read_text(encoding="utf-8")]


def folder() -> Path:
    """Where executed pages are kept; another place for tests, by ``KVLIB_EXECUTED``."""
    return Path(os.environ.get("KVLIB_EXECUTED") or ROOT / "_build" / "executed")


def kept(page: Path) -> Path:
    """The file of an executed page."""
    return folder() / f"{page.stem}.ipynb"


def executed(
    page: Path, say: Callable[[str], None] = print, at_once: int = AT_ONCE
) -> NotebookNode:
    """The page as it stands, with the outputs of its last execution; executes it if it is stale.

    ``at_once`` is how many pages share the machine's cores.
    """
    folder().mkdir(parents=True, exist_ok=True)
    with FileLock(kept(page).with_suffix(".lock")):
        if (notebook := fresh(page)) is not None:
            return notebook
        begin = time.monotonic()
        notebook = execute(page, at_once=at_once)
        text = nbformat.writes(notebook, version=nbformat.NO_CONVERT)
        temporary = kept(page).with_suffix(".part")
        temporary.write_text(text + "\n", encoding="utf-8")
        os.replace(temporary, kept(page))
        say(f"executed {page.stem} in {time.monotonic() - begin:.0f} s")
    return fresh(page) or notebook


def bring_up_to_date(wanted: Iterable[Path], say: Callable[[str], None] = print) -> None:
    """Execute the pages that are stale, two at a time, all of them even when one fails.

    Raises the error of the first page that failed.
    """
    stale = [page for page in wanted if fresh(page) is None]
    at_once = min(AT_ONCE, max(1, len(stale)))
    with ThreadPoolExecutor(at_once) as pool:
        runs = [pool.submit(executed, page, say, at_once) for page in stale]
    for run in runs:
        run.result()


def fresh(page: Path) -> NotebookNode | None:
    """The page with the outputs of its last execution, or None when something it rests on changed.

    Text and figure captions are the page's present ones; outputs rest on its code cells alone.
    """
    try:
        done = nbformat.read(kept(page), as_version=4)
        recorded = done.metadata["rests_on"]
        if recorded != rests_on(page, [ROOT / file for file in recorded["modules"]]):
            return None
    except (OSError, ValueError, KeyError):  # none yet, a damaged one, or a module that is gone
        return None
    notebook = jupytext.read(page)
    for cell, before in zip(code_cells(notebook), code_cells(done), strict=True):
        cell.outputs, cell.execution_count = before.outputs, before.execution_count
    notebook.metadata["language_info"] = done.metadata["language_info"]
    return notebook


def execute(page: Path, before: str = "", at_once: int = AT_ONCE) -> NotebookNode:
    """Run a page from nothing and return it with its outputs, and with what they rest on.

    ``before`` is code that runs first and leaves no trace in the notebook. Raises nbclient's
    CellExecutionError for a failing cell, and RuntimeError when kvlib is not that of this
    repository.
    """
    notebook = jupytext.read(page)
    files = {_name(path): digest(path) for path in _library()}  # as they were when it began
    cells = notebook.cells
    hidden = [nbformat.v4.new_code_cell(before), nbformat.v4.new_code_cell(IMPORTED)]
    notebook.cells = [hidden[0], *cells, hidden[1]]
    client = NotebookClient(
        notebook,
        timeout=TIMEOUT,
        kernel_name="python3",
        record_timing=False,
        store_widget_state=False,
        extra_arguments=["--log-level=ERROR"],  # else each kernel warns that it speaks over TCP
        resources={"metadata": {"path": str(page.parent)}},
    )
    threads = str(max(1, (os.cpu_count() or 1) // at_once))
    client.execute(env=DEFAULTS | os.environ | {"KVLIB_STATIC": "1", "OMP_NUM_THREADS": threads})
    notebook.cells = cells
    for count, cell in enumerate(code_cells(notebook), start=1):
        cell.execution_count = count
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = count
    modules = _own(json.loads(hidden[1].outputs[0].text))
    record = rests_on(page, modules)
    record["modules"] |= {name: files[name] for name in record["modules"].keys() & files}
    notebook.metadata["rests_on"] = record
    return notebook


def rests_on(page: Path, modules: Iterable[Path]) -> dict:
    """Hashes of all that a page's outputs rest on, given the modules that it imports.

    Raises OSError for a module that is gone.
    """
    notebook = jupytext.read(page)
    code = [cell.source for cell in code_cells(notebook)]
    shared = [*sorted(ROOT.glob("requirements*.txt")), *_data()]
    return {
        "code": hashlib.sha256(json.dumps(code).encode()).hexdigest(),
        "python": platform.python_version(),
        "shared": {_name(path): digest(path) for path in shared},
        "modules": {_name(path): digest(path) for path in sorted(modules)},
    }


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    """The cells that are executed."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def digest(path: Path) -> str:
    """A hash of a file's bytes, taken once for each time that it was written."""
    state = path.stat()
    return _digest(path, state.st_mtime_ns, state.st_size)


@cache
def _digest(path: Path, written: int, size: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:32]


def _own(files: dict[str, str]) -> list[Path]:
    """The modules that belong to this repository, of all that a kernel had imported."""
    library = Path(files.get("kvlib", ROOT / "kvlib"))
    if not library.is_relative_to(ROOT):
        raise RuntimeError(f"expected kvlib to be that of {ROOT}, got {library}")
    found = {Path(file) for file in files.values()}
    return sorted(
        path
        for path in found
        if path.is_relative_to(ROOT) and not path.is_relative_to(Path(sys.prefix))
    )


def _library() -> list[Path]:
    """Every module of the library, as it is now."""
    return sorted((ROOT / "kvlib").rglob("*.py"))


def _data() -> list[Path]:
    """Every stored file of the library that is no module."""
    found = (ROOT / "kvlib").rglob("*")
    return sorted(
        path
        for path in found
        if path.is_file() and path.suffix != ".py" and "__pycache__" not in path.parts
    )


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()
