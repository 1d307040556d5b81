"""What stands under the explorers, and who else can read the book: links, downloads, paper, axe."""

from __future__ import annotations

import csv
import io
import xml.etree.ElementTree as ET

import pytest
from axe_playwright_python.sync_playwright import Axe
from book_checks import PAGES, TOO_WIDE, draw, draw_all, visit

pytestmark = pytest.mark.browser

EXPLORERS = ".kv-chart, .kv-passage"
SETTINGS = """root => JSON.stringify([
  ...Array.from(root.querySelectorAll("input"), (input) => input.getAttribute("aria-valuetext")),
  ...Array.from(root.querySelectorAll("select"), (select) => select.selectedIndex),
  root.querySelector(".kv-reading")?.textContent,
])"""
FAR = """root => {
  for (const input of root.querySelectorAll("input")) {
    input.value = input.max;
    input.dispatchEvent(new Event("input", { bubbles: true }));
  }
  for (const select of root.querySelectorAll("select")) {
    const last = select.options.length - 1;
    select.selectedIndex = select.selectedIndex === last ? 0 : last;
    select.dispatchEvent(new Event("change", { bubbles: true }));
  }
}"""
SETTLE = 350  # milliseconds: longer than the address waits


def open_page(browser, address, name, **how):
    """A page of the book, opened as a file."""
    return visit(browser, f"{address['file']}/{name}.html", address["file"], **how)


def tool(root, text: str):
    """One of the tools under an explorer."""
    return root.query_selector(f".kv-tools :is(button, a):has-text('{text}')")


def saved(page, button) -> str:
    """The text of the file that a button downloads."""
    with page.expect_download() as download:
        button.click()
    with open(download.value.path(), encoding="utf-8") as file:
        return file.read()


def test_reset_undoes_and_a_link_restores_the_setting(browser, address, name):
    """Each explorer is moved as far as it goes; the link shows the same in a new window."""
    links = {}
    with open_page(browser, address, name) as seen:
        assert draw_all(seen.page) == []
        for i, root in enumerate(seen.page.query_selector_all(EXPLORERS)):
            first = root.evaluate(SETTINGS)
            root.evaluate(FAR)
            seen.page.wait_for_timeout(SETTLE)
            moved = root.evaluate(SETTINGS)
            assert moved != first
            link = tool(root, "Link").get_attribute("href")
            assert seen.page.url.endswith(link)
            links[i] = link, moved
            tool(root, "Reset").click()
            seen.page.wait_for_timeout(SETTLE)
            assert root.evaluate(SETTINGS) == first
        assert seen.complaints == []
    for i, (link, moved) in links.items():
        url = f"{address['file']}/{name}.html{link}"
        with visit(browser, url, address["file"]) as seen:
            root = seen.page.query_selector_all(EXPLORERS)[i]
            assert draw(root) == []
            seen.page.wait_for_timeout(SETTLE)
            assert root.evaluate(SETTINGS) == moved


def test_a_link_on_the_page_itself_sets_the_explorer(browser, address):
    with open_page(browser, address, "notebooks/policies") as seen:
        draw_all(seen.page)
        seen.page.evaluate("location.hash = '#view-2:budget=256'")
        seen.page.wait_for_timeout(SETTLE)
        assert "With 256 entries" in seen.page.inner_text("#view-2 .kv-reading")


@pytest.mark.parametrize("fragment", ["#view-2:budget=999", "#view-99:budget=16", "#view-2:%%%"])
def test_a_broken_link_leaves_the_first_setting(browser, address, fragment):
    url = f"{address['file']}/notebooks/policies.html{fragment}"
    with visit(browser, url, address["file"]) as seen:
        draw_all(seen.page)
        assert "With 64 entries" in seen.page.inner_text("#view-2 .kv-reading")
        assert seen.complaints == []


def test_downloads_hold_the_picture_and_all_of_its_data(browser, address, name):
    with open_page(browser, address, name) as seen:
        assert draw_all(seen.page) == []
        for root in seen.page.query_selector_all(EXPLORERS):
            if picture := tool(root, "SVG"):
                svg = ET.fromstring(saved(seen.page, picture))
                assert svg.tag.endswith("svg") and len(list(svg.iter())) > 20
            tables = root.query_selector_all(".kv-tools button:has-text('CSV')")
            assert tables
            for button in tables:
                count = int("".join(filter(str.isdigit, button.get_attribute("title"))))
                lines = list(csv.reader(io.StringIO(saved(seen.page, button))))
                assert len(lines) == count + 1 and len({len(line) for line in lines}) == 1
        assert seen.complaints == []


def test_the_table_shows_the_rows_of_the_setting(browser, address):
    with open_page(browser, address, "notebooks/policies") as seen:
        draw_all(seen.page)
        root = seen.page.query_selector("#view-2")
        button = tool(root, "Table")
        assert button.get_attribute("aria-expanded") == "false"
        button.click()
        assert button.get_attribute("aria-expanded") == "true"
        chosen = root.query_selector("select").evaluate("s => s.options[s.selectedIndex].text")
        cells = root.evaluate(
            "root => Array.from(root.querySelectorAll('tbody tr'), row => row.cells[0].textContent)"
        )
        assert set(cells) == {chosen}
        root.query_selector("select").select_option(index=1)
        assert root.query_selector(".kv-table tbody td").inner_text() != chosen
        button.click()
        assert not root.query_selector(".kv-table").is_visible()


def test_the_keyboard_alone_reaches_and_moves_everything(browser, address, name):
    """Tab visits each control and tool in the order in which they stand; arrows move sliders."""
    with open_page(browser, address, name) as seen:
        page = seen.page
        draw_all(page)
        for root in page.query_selector_all(EXPLORERS):
            stops = root.query_selector_all(
                "input, select, .kv-words [tabindex='0'], .kv-tools > *"
            )
            stops = [stop for stop in stops if stop.evaluate("e => e.tabIndex >= 0")]
            stops[0].focus()
            for stop in stops:
                assert stop.evaluate("e => e === document.activeElement"), stop.evaluate(
                    "e => e.outerHTML + ' ≠ ' + document.activeElement.outerHTML"
                )
                if stop.evaluate("e => e.type") == "range":
                    before = stop.get_attribute("aria-valuetext")
                    page.keyboard.press("ArrowRight")
                    page.keyboard.press("ArrowRight")
                    if stop.get_attribute("aria-valuetext") == before:  # it stood at its right end
                        page.keyboard.press("ArrowLeft")
                    assert stop.get_attribute("aria-valuetext") != before
                page.keyboard.press("Tab")


COLOURS = {"runOnly": {"type": "rule", "values": ["color-contrast", "link-in-text-block"]}}


def serious(page, options: dict | None = None) -> list[str]:
    """What axe-core finds that would stop a reader."""
    return [
        f"{item['id']}: {node['html']}"
        for item in Axe().run(page, options=options).response["violations"]
        if item["impact"] in ("serious", "critical")
        for node in item["nodes"]
    ]


def test_axe_finds_nothing_serious_and_paper_gets_whole_pictures(browser, address, name):
    """In the light, in the dark, and printed from the dark: as wide as paper, in dark ink."""
    with open_page(browser, address, name) as seen:
        page = seen.page
        assert draw_all(page) == []
        assert serious(page) == []
        page.evaluate("document.documentElement.dataset.theme = 'dark'")
        page.wait_for_timeout(SETTLE)
        assert serious(page, COLOURS) == []  # nothing else has changed
        page.set_viewport_size({"width": 700, "height": 900})
        page.emulate_media(media="print")
        page.wait_for_timeout(SETTLE)
        assert page.evaluate(TOO_WIDE) == []
        for root in page.query_selector_all(EXPLORERS):
            look = root.evaluate(
                "root => (({ breakInside, backgroundColor }) => [breakInside, backgroundColor])"
                "(getComputedStyle(root))"
            )
            assert look == ["avoid", "rgb(255, 255, 255)"]
            assert not tool(root, "Reset").is_visible()
        assert page.pdf().startswith(b"%PDF")


def test_terms_and_signs_say_what_they_mean(browser, address):
    with open_page(browser, address, "notebooks/bounds") as seen:
        page = seen.page
        tip = page.query_selector("#kv-tip")
        for link in page.query_selector_all("a[data-definition]"):
            link.focus()
            assert tip.is_visible() and tip.inner_text() == link.get_attribute("data-definition")
            box = tip.bounding_box()
            assert box["x"] >= 0 and box["x"] + box["width"] <= 1280
            page.keyboard.press("Escape")
            assert not tip.is_visible()
        link.hover()
        assert tip.is_visible() and link.get_attribute("aria-describedby") == "kv-tip"
        assert seen.complaints == []


def test_without_scripts_a_still_picture_and_its_sentence_stand_there(browser, address, name):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{address['file']}/{name}.html")
    for root in page.query_selector_all(".kv-chart"):
        still = root.query_selector("noscript img")
        assert still and still.bounding_box()["height"] > 150
        assert not root.query_selector(".kv-controls").is_visible()
        if root.query_selector(":scope > .kv-reading"):
            assert len(root.query_selector("noscript p").inner_text()) > 40
    context.close()


@pytest.mark.parametrize("way", ["http", "file"])
def test_search_finds_a_page(browser, address, way):
    url = f"{address[way]}/search.html?q=sinks"
    with visit(browser, url, address[way]) as seen:
        seen.page.wait_for_selector("#search-results li a", timeout=10000)
        found = [a.get_attribute("href") for a in seen.page.query_selector_all("#search-results a")]
        assert any("sink_recent" in link for link in found)
        assert seen.complaints == []


def test_every_page_is_in_the_contents(book):
    assert all((book / f"{name}.html").exists() for name in PAGES)
