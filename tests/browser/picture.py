"""Takes the README's picture: the first page of the built book, as a reader meets it.

python tests/browser/picture.py      (after `make book`)
"""

from __future__ import annotations

import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

sys.path.insert(0, str(Path(__file__).parent))
from book_checks import PAGES, ROOT, draw_all, still  # noqa: E402
from conftest import BOOK, FLAGS, chromium  # noqa: E402

PICTURE = ROOT / "book" / "_static" / "front.png"


def main() -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        page.goto(f"{BOOK.resolve().as_uri()}/{PAGES[0]}.html")
        assert draw_all(page) == []
        still(page)
        page.evaluate("document.fonts.ready.then(() => true)")
        page.query_selector(".kv-chart").screenshot(path=PICTURE)
        browser.close()
    print(f"{PICTURE.relative_to(ROOT)}: {PICTURE.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
