"""Pages of tables and plans in Chromium: opened as files, alone, and alive."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from book_checks import dead_controls, draw_all, serious, still, until, visit
from reports import PLAN, SIZES, distortions, truncations

from kvlib.plan import report, show

pytestmark = pytest.mark.browser

WIDTHS = [(1280, False), (390, True)]  # pixels, and whether the reader likes it dark
SAYS = "text => document.querySelector('.kv-reading').textContent.includes(text)"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A page of each kind, in a folder of their own."""
    place = tmp_path_factory.mktemp("reports")
    windows = show.shown(truncations(place / "w", 5))
    policies = show.shown(distortions(place / "p", 3))
    one = show.shown(truncations(place / "o", 1, np.array([16])))
    pages = {"windows": windows, "policies": policies, "one": one}
    for kind, of in pages.items():
        report.write(place / f"{kind}.html", report.of_table(of))
    report.write(place / "plan.html", report.of_plan(PLAN, SIZES))
    return place


@pytest.mark.parametrize(("width", "dark"), WIDTHS)
@pytest.mark.parametrize("kind", ["windows", "policies", "one", "plan"])
def test_a_page_opens_from_a_file_and_needs_nothing_else(browser, folder, kind, width, dark):
    url = (folder / f"{kind}.html").as_uri()
    with visit(browser, url, url, width=width, dark=dark) as seen:
        assert draw_all(seen.page) == []
        still(seen.page)
        theme = seen.page.evaluate("document.documentElement.dataset.theme")
        assert theme == ("dark" if dark else "light")
        assert seen.page.evaluate("document.documentElement.scrollWidth") <= width
        assert all(len(p.inner_text()) > 40 for p in seen.page.query_selector_all(".kv-reading"))
        assert seen.complaints == []


@pytest.mark.parametrize("kind", ["windows", "policies", "plan"])
def test_every_control_moves_picture_and_sentence(browser, folder, kind):
    url = (folder / f"{kind}.html").as_uri()
    with visit(browser, url, url) as seen:
        assert dead_controls(seen.page) == []
        assert serious(seen.page) == []
        assert seen.complaints == []


def test_the_slider_of_a_plan_says_what_is_certified(browser, folder):
    url = (folder / "plan.html").as_uri()
    with visit(browser, url, url) as seen:
        draw_all(seen.page)
        until(seen.page, SAYS, "With 256 entries: 0.141 nats on 24 documents")
        until(seen.page, SAYS, "at most 0.188: certified for epsilon = 0.2 nats. 5.9 MB")
        seen.page.focus("input[name=size]")
        seen.page.keyboard.press("ArrowLeft")
        until(seen.page, SAYS, "With 128 entries")
        until(seen.page, SAYS, "not certified")
        assert seen.complaints == []


def test_a_tolerance_moves_what_to_keep(browser, folder):
    url = (folder / "policies.html").as_uri()
    says = SAYS.replace("querySelector('.kv-reading')", "querySelectorAll('.kv-reading')[1]")
    with visit(browser, url, url) as seen:
        draw_all(seen.page)
        until(seen.page, says, "With epsilon = 0.2 nats keep 64 entries by 4 sinks + recent")
        seen.page.focus("input[name=epsilon]")
        seen.page.keyboard.press("Home")
        until(seen.page, says, "No measured budget keeps epsilon = 0.001 nats")
        assert seen.complaints == []


def test_without_scripts_a_still_picture_and_its_sentence_stand_there(browser, folder):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((folder / "plan.html").as_uri())
    assert page.query_selector("noscript img").bounding_box()["height"] > 150
    assert "With 256 entries" in page.query_selector("noscript p").inner_text()
    assert not page.query_selector(".kv-controls").is_visible()
    context.close()
