"""Notebook tests compare what a page said in its one execution with its reference.

nbval collects the references, asks a kernel for each cell, and compares. The kernel that it talks
to plays back the execution that the book was built from, as it is read (`reading`); when that is
stale or there is none, the page is executed first, and kept.
"""

from __future__ import annotations

from collections import deque
from pathlib import Path
from queue import Empty
from typing import Any

import pytest
import reading
from kvbook import outputs
from nbformat import NotebookNode
from nbval.plugin import IPyNbFile


class PlayedKernel:
    """A kernel, as far as nbval talks to one, that says what an executed notebook holds."""

    def __init__(self, notebook: NotebookNode) -> None:
        self.cells = deque(outputs.code_cells(notebook))
        self.messages: deque[dict[str, Any]] = deque()
        self.asked = 0

    def is_alive(self) -> bool:
        """Until it is stopped there is something to say."""
        return True

    def execute_cell_input(self, source: str, allow_stdin: bool | None = None) -> str:
        """Lines up what the next cell of this source said; cells before it are passed over."""
        while self.cells and self.cells[0].source != source:
            self.cells.popleft()
        if not self.cells:
            raise ValueError(f"expected a cell of the page, got {source.splitlines()[:1]}")
        self.asked += 1
        said = self.cells.popleft().outputs
        idle = {"output_type": "status", "execution_state": "idle"}
        self.messages = deque(self._message(output) for output in [*said, idle])
        return str(self.asked)

    def _message(self, output: dict[str, Any]) -> dict[str, Any]:
        header = {"msg_id": str(self.asked)}
        return {"msg_type": output["output_type"], "content": output, "parent_header": header}

    def await_reply(self, msg_id: str, timeout: float | None = None) -> None:
        """The reply is always there."""

    def get_message(self, stream: str, timeout: float | None = None) -> dict[str, Any]:
        """The next message; raises Empty when all was said."""
        if not self.messages:
            raise Empty
        return self.messages.popleft()

    def await_idle(self, parent_id: str, timeout: float) -> None:
        """Passes over what is left of a cell."""
        self.messages.clear()

    def interrupt(self) -> None:
        """There is nothing to interrupt."""

    def stop(self) -> None:
        """There is nothing to stop."""


class Reference(IPyNbFile):
    """A reference notebook, compared with the one execution of its page."""

    def setup(self) -> None:
        """Bring the page up to date; nothing is executed when the book was just built."""
        page = {page.stem: page for page in outputs.pages()}[self.path.stem]
        self.kernel = PlayedKernel(reading.read(outputs.executed(page)))
        self.setup_sanitize_files()


@pytest.hookimpl(wrapper=True)
def pytest_collect_file(file_path: Path, parent: pytest.Collector):
    """nbval's notebooks become references."""
    found = yield
    return [
        Reference.from_parent(parent, path=file_path) if type(node) is IPyNbFile else node
        for node in found
    ]
