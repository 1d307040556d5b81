"""Execute each page of the book into a reference notebook that nbval compares with."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import jupytext
import nbformat
import yaml
from nbclient import NotebookClient

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def pages() -> list[Path]:
    """The executed pages of the book, in the order of its table of contents."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    chapters = [chapter["file"] for part in toc["parts"] for chapter in part["chapters"]]
    found = [ROOT / f"{file}.md" for file in [toc["root"], *chapters]]
    return [page for page in found if "\nkernelspec:" in page.read_text(encoding="utf-8")]


def reference_of(page: Path) -> Path:
    """Where the executed copy of a page is kept."""
    return HERE / f"{page.stem}.ipynb"


def execute(page: Path) -> nbformat.NotebookNode:
    """Run a page from nothing and return it with its outputs, free of times and widget state."""
    os.environ["KVLIB_STATIC"] = "1"
    notebook = jupytext.read(page)
    client = NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        record_timing=False,
        store_widget_state=False,
        resources={"metadata": {"path": str(page.parent)}},
    )
    client.execute()
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"{page.stem}-{number}"
    notebook.metadata = {"kernelspec": notebook.metadata["kernelspec"]}
    return notebook


def main() -> None:
    """Write all references, or those of the pages that are named on the command line."""
    for page in pages():
        if sys.argv[1:] and page.stem not in sys.argv[1:]:
            continue
        notebook = execute(page)
        text = nbformat.writes(nbformat.from_dict(notebook), version=nbformat.NO_CONVERT)
        reference_of(page).write_text(text + "\n")
        print(f"{reference_of(page).relative_to(ROOT)} written")


if __name__ == "__main__":
    main()
