"""How fast the built book answers: slider to picture, first picture, and what each page weighs.

    python tests/bench/bench_book.py [page …]

Milliseconds in Chromium on this machine, for every slider of every page: from the input event to
the changed picture, over the whole track. First picture: from opening the page, over http, with
nothing cached. Weight: bytes of the first page, and what each further page adds.
"""

from __future__ import annotations

import functools
import http.server
import sys
import threading
from pathlib import Path

import numpy as np
from playwright.sync_api import sync_playwright

sys.path.insert(0, str(Path(__file__).parents[1] / "browser"))
from book_checks import PAGES, UNFOLD, draw_all  # noqa: E402
from conftest import BOOK, FLAGS, QuietHandler, chromium  # noqa: E402

MOVES = 60
FIRST = """
new MutationObserver((_, seen) => {
  if (!document.querySelector(".kv-picture svg .role-mark > *")) return;
  window.firstPicture = performance.now();
  seen.disconnect();
}).observe(document, { childList: true, subtree: true });
"""
TIMES = """async (input, moves) => {
  const picture = input.closest(".kv-chart").querySelector(".kv-picture");
  const [low, high] = [Number(input.min), Number(input.max)];
  const times = [];
  for (let k = 0; k <= moves; k++) {
    await new Promise((done) => requestAnimationFrame(() => setTimeout(done, 0)));
    const changed = new Promise((done) => {
      const watch = new MutationObserver(() => {
        watch.disconnect();
        done(performance.now());
      });
      const all = { subtree: true, childList: true, attributes: true, characterData: true };
      watch.observe(picture, all);
      setTimeout(() => done(NaN), 500); // a move to a value that draws the same
    });
    input.value = low + ((high - low) * k) / moves;
    const begin = performance.now();
    input.dispatchEvent(new Event("input", { bubbles: true }));
    times.push((await changed) - begin);
  }
  return times.filter((time) => !Number.isNaN(time));
}"""


def main() -> None:
    names = sys.argv[1:] or PAGES
    handler = functools.partial(QuietHandler, directory=str(BOOK))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    root = f"http://127.0.0.1:{server.server_port}"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        reader = browser.new_context()  # one who reads on: what is cached stays
        print(f"{'page':28}{'KB added':>10}{'first ms':>10}   slider to picture: median, p95 (ms)")
        for name in names:
            sizes = []
            page = reader.new_page()
            page.on("requestfinished", lambda request, to=sizes: to.append(request.sizes()))
            page.goto(f"{root}/{name}.html", wait_until="networkidle")
            added = sum(size["responseBodySize"] for size in sizes) / 1000
            page.close()
            fresh = browser.new_context()
            page = fresh.new_page()
            page.add_init_script(FIRST)
            page.goto(f"{root}/{name}.html", wait_until="networkidle")
            first = page.evaluate("window.firstPicture ?? NaN")
            page.evaluate(UNFOLD)
            draw_all(page)
            found = []
            for slider in page.query_selector_all(".kv-chart input[type=range]"):
                times = slider.evaluate(TIMES, MOVES)
                median, late = np.quantile(times, [0.5, 0.95])
                found.append(f"{slider.get_attribute('name')} {median:.1f}, {late:.1f}")
            fresh.close()
            print(f"{name:28}{added:10,.0f}{first:10,.0f}   {'; '.join(found)}", flush=True)
        browser.close()
    server.shutdown()


if __name__ == "__main__":
    main()
