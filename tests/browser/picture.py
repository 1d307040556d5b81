"""Takes two pictures of the built book's first page: its explorer for the README, and the card that
goes with a shared link: the title, the drawing of a cache and what was found.

python tests/browser/picture.py      (after `make book`)
"""

from __future__ import annotations

import sys
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

sys.path.insert(0, str(Path(__file__).parent))
from book_checks import PAGES, ROOT, draw_all, still  # noqa: E402
from conftest import BOOK, FLAGS, chromium  # noqa: E402

FRONT = ROOT / "book" / "_static" / "front.png"
CARD = ROOT / "book" / "_static" / "card.png"
CARD_SIZE = {"width": 1200, "height": 630}  # what those who show links ask for
ON_THE_CARD = """() => {
  const article = document.querySelector(".bd-article section");
  const kept = [...article.children].slice(0, 5); // title, question, drawing, finding, tally
  const card = document.createElement("div");
  card.className = "bd-article";
  card.style = "padding: 2.4rem 3rem; font-size: 1.45rem; max-width: none";
  card.append(...kept);
  card.querySelectorAll(".headerlink").forEach((link) => link.remove());
  document.body.replaceChildren(card);
  window.scrollTo(0, 0); // drawing all explorers has scrolled
}"""


def first_page(browser: Browser, size: dict[str, int]) -> Page:
    """The front page, drawn and still."""
    page = browser.new_page(viewport=size)
    page.goto(f"{BOOK.resolve().as_uri()}/{PAGES[0]}.html")
    assert draw_all(page) == []
    still(page)
    page.evaluate("document.fonts.ready.then(() => true)")
    return page


def main() -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        page = first_page(browser, {"width": 1200, "height": 900})
        page.query_selector(".kv-chart").screenshot(path=FRONT)
        page = first_page(browser, CARD_SIZE)
        page.evaluate(ON_THE_CARD)
        page.screenshot(path=CARD)
        browser.close()
    for path in (FRONT, CARD):
        print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
