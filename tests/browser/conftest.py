"""Real Chromium on the built book, served over http and opened as files."""

from __future__ import annotations

import functools
import http.server
import os
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

sys.path.insert(0, str(Path(__file__).parent))  # the tests here share book_checks.py
from book_checks import PAGES, ROOT  # noqa: E402

BOOK = Path(os.environ.get("KVLIB_BOOK_HTML", ROOT / "_build" / "html"))
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that asks for ``name`` runs on every page of the book."""
    if "name" in metafunc.fixturenames:
        metafunc.parametrize("name", PAGES, scope="module")  # a page's tests run in a row


@pytest.fixture(scope="session")
def book() -> Path:
    """The folder of the built book."""
    if not (BOOK / "index.html").exists():
        pytest.fail(f"expected the built book at {BOOK}, got nothing there: run `make book` first")
    return BOOK.resolve()


def chromium() -> str | None:
    """The browser's program, if there is one."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)


@pytest.fixture(scope="session")
def browser() -> Iterator:
    """One Chromium for the whole session; without one, a skip that says what to install."""
    executable = chromium()
    if executable is None:
        message = "no Chromium found: `apt-get install chromium`, or name one in CHROMIUM"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(message)
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=executable, args=FLAGS)
        yield launched
        launched.close()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Serves files and writes no log."""

    def log_message(self, *args: object) -> None:
        """Says nothing."""


@pytest.fixture(scope="session")
def address(book: Path) -> Iterator[dict[str, str]]:
    """Where the book's root is found, for each of the two ways to open it."""
    handler = functools.partial(QuietHandler, directory=str(book))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield {"http": f"http://127.0.0.1:{server.server_port}", "file": book.as_uri()}
        server.shutdown()
