"""Write the references: what is read in each page, and what its charts hold.

    python tests/notebooks/references.py [page …]

Pages that the book was just built from are not executed again. The others are, two at a time.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1] / "book" / "_ext")]

import charts_of  # noqa: E402
import nbformat  # noqa: E402
import reading  # noqa: E402
from kvbook import outputs  # noqa: E402


def reference_of(page: Path) -> Path:
    """Where what is read in a page is kept."""
    return HERE / f"{page.stem}.ipynb"


def reference(page: Path) -> nbformat.NotebookNode:
    """A page as an executed notebook whose outputs are what is read; the same for the same page."""
    notebook = reading.read(outputs.executed(page))
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"{page.stem}-{number}"
    notebook.metadata = {"kernelspec": notebook.metadata["kernelspec"]}
    return notebook


def named(names: list[str]) -> list[Path]:
    """The pages of these names, or all; raises SystemExit for a name that no page has."""
    pages = {page.stem: page for page in outputs.pages()}
    if unknown := sorted(set(names) - set(pages)):
        sys.exit(f"unknown page: expected some of {', '.join(pages)}, got {', '.join(unknown)}")
    return [pages[name] for name in names or pages]


def write(page: Path) -> None:
    """Write what is read in a page, and what its charts hold; executes it if it is stale."""
    text = nbformat.writes(nbformat.from_dict(reference(page)), version=nbformat.NO_CONVERT)
    reference_of(page).write_text(text + "\n", encoding="utf-8")
    charts_of.write(page)
    print(f"{reference_of(page).name} written", flush=True)


def main() -> None:
    """Write the references of the pages that are named on the command line, or of all."""
    with ThreadPoolExecutor(outputs.AT_ONCE) as pool:
        runs = [pool.submit(write, page) for page in named(sys.argv[1:])]
    for run in runs:  # a page that fails says so after the others are done
        run.result()


if __name__ == "__main__":
    main()
