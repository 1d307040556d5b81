"""Every page of the book, opened once as a file, and all that a reader does there in turn."""

from __future__ import annotations

import csv
import io
import re
import xml.etree.ElementTree as ET

import pytest
from book_checks import (
    COLOURS,
    EXPLORERS,
    EXTREMES,
    FAINT,
    FORBIDDEN,
    TOO_WIDE,
    UNALIGNED,
    UNFIT,
    UNTYPESET,
    at_link,
    dead_controls,
    draw,
    draw_all,
    lasting,
    odd,
    serious,
    still,
    tool,
    unsaid,
    visit,
)

pytestmark = pytest.mark.browser

BETWEEN_DOWNLOADS = 150  # milliseconds: of more than ten in a second Chromium drops the rest

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


APPLIED = "([root, link]) => root.querySelector('.kv-tools a').getAttribute('href') === link"
NUMBERED = re.compile(r"#[a-z]*-?\d+:")  # an explorer has a name, not a place


def settings(root) -> str:
    """What an explorer's controls and its sentence say, once it has come to rest."""
    still(root.owner_frame().page)
    return root.evaluate(SETTINGS)


@pytest.fixture(scope="module")
def opened(browser, address, name):
    """One page, left open for all the tests of this file; each `name` in turn."""
    with visit(browser, f"{address['file']}/{name}.html", address["file"]) as seen:
        yield seen


@pytest.fixture
def page(opened):
    """The open page, every explorer at its first setting; what it complains of fails the test."""
    for root in opened.page.query_selector_all(EXPLORERS):
        tool(root, "Reset").click()
    opened.page.evaluate("window.scrollTo(0, 0)")
    before = len(opened.complaints)
    yield opened.page
    assert opened.complaints[before:] == []


def saved(page, button) -> str:
    """The text of the file that a button downloads."""
    page.wait_for_timeout(BETWEEN_DOWNLOADS)
    with page.expect_download() as download:
        button.click()
    with open(download.value.path(), encoding="utf-8") as file:
        return file.read()


def test_it_draws_and_typesets_silently_and_asks_nothing_from_outside(opened):
    page = opened.page
    assert draw_all(page) + page.evaluate(UNTYPESET) + opened.complaints == []


def test_every_control_moves_its_picture_and_its_sentence(page):
    assert dead_controls(page) == []


def test_at_no_end_of_any_control_a_sentence_is_odd(page):
    """Every choice, with every slider at its ends: no "1 tokens", no 7.9e-29%, no trillions."""
    draw_all(page)
    heard = [
        text for root in page.query_selector_all(EXPLORERS) for text in root.evaluate(EXTREMES)
    ]
    assert odd(heard) == []


def test_pictures_write_no_number_with_an_exponent(page):
    draw_all(page)
    words = page.locator(".kv-picture text").all_text_contents()
    assert [text for text in words if FORBIDDEN["an exponent"].search(text)] == []


def test_a_band_says_what_it_is_of(page):
    draw_all(page)
    drawn = ".kv-picture text:not(.reading_marks *), figcaption"  # its sentence has been read
    assert unsaid(page.locator(drawn).all_text_contents()) == []


def test_reset_undoes_and_a_link_restores_the_setting(page, browser, address, name):
    """Each explorer is moved as far as it goes; its link shows the same, on the page itself and,
    for the last one, in a new window."""
    link = None
    for root in page.query_selector_all(EXPLORERS):
        first = settings(root)
        unmoved = tool(root, "Link").get_attribute("href")
        root.evaluate(FAR)
        moved = settings(root)
        link = tool(root, "Link").get_attribute("href")
        assert (
            moved != first and link.startswith(unmoved.split(";")[0]) and not NUMBERED.match(link)
        )
        at_link(page, link)
        tool(root, "Reset").click()
        page.mouse.move(0, 0)  # or it points at whatever comes to lie under it
        at_link(page, unmoved)
        assert settings(root) == first
        page.evaluate("link => { location.hash = link; }", link)
        page.wait_for_function(APPLIED, arg=[root, link])
        assert settings(root) == moved
    if link:
        url = f"{address['file']}/{name}.html{link}"
        with visit(browser, url, address["file"]) as seen:
            root = seen.page.query_selector_all(EXPLORERS)[-1]
            assert draw(root) == []
            assert settings(root) == moved


def test_thumbs_stand_above_their_rules_on_screens_and_phones(page):
    draw_all(page)
    size = page.viewport_size
    complaints = page.evaluate(UNALIGNED, 6)
    page.set_viewport_size({"width": 390, "height": 844})
    assert lasting(page, UNFIT) == []
    complaints += page.evaluate(UNALIGNED, 4)
    page.set_viewport_size(size)
    assert complaints == []


def test_downloads_hold_the_picture_and_all_of_its_data(page):
    for root in page.query_selector_all(EXPLORERS):
        if picture := tool(root, "SVG"):
            svg = ET.fromstring(saved(page, picture))
            assert svg.tag.endswith("svg") and len(list(svg.iter())) > 20
        tables = root.query_selector_all(".kv-tools button:has-text('CSV')")
        assert tables
        for button in tables:
            count = int("".join(filter(str.isdigit, button.get_attribute("title"))))
            lines = list(csv.reader(io.StringIO(saved(page, button))))
            assert len(lines) == count + 1 and len({len(line) for line in lines}) == 1


def test_the_keyboard_alone_reaches_and_moves_everything(page):
    """Tab visits each control and tool in the order in which they stand; arrows move sliders."""
    for root in page.query_selector_all(EXPLORERS):
        stops = root.query_selector_all("input, select, .kv-words [tabindex='0'], .kv-tools > *")
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


def test_changing_the_theme_keeps_the_setting_and_recolours_the_picture(page):
    read = "Array.from(document.querySelectorAll('.kv-reading, .kv-value'), e => e.textContent)"
    assert page.evaluate(FAINT) == []
    for slider in page.query_selector_all(".kv-chart input"):
        slider.press("Home")
    still(page)
    before = page.evaluate(read)
    for theme in ("dark", "light"):
        page.evaluate(f"document.documentElement.dataset.theme = '{theme}'")
        still(page)
        assert lasting(page, FAINT) == []
        assert page.evaluate(read) == before
        if theme == "dark":
            assert serious(page, COLOURS) == []


def test_axe_finds_nothing_serious_and_paper_gets_whole_pictures(page):
    """On the screen, and printed from the dark: as wide as paper, in dark ink."""
    assert serious(page) == []
    page.evaluate("document.documentElement.dataset.theme = 'dark'")
    page.set_viewport_size({"width": 700, "height": 900})
    page.emulate_media(media="print")
    still(page)
    assert lasting(page, TOO_WIDE) == []
    for root in page.query_selector_all(EXPLORERS):
        look = root.evaluate(
            "root => (({ breakInside, backgroundColor }) => [breakInside, backgroundColor])"
            "(getComputedStyle(root))"
        )
        assert look == ["avoid", "rgb(255, 255, 255)"]
        assert not tool(root, "Reset").is_visible()
    assert page.pdf().startswith(b"%PDF")
