"""Links to settings, tables, terms, search, and the book without scripts."""

from __future__ import annotations

import pytest
from book_checks import PAGES, draw_all, tool, until, visit

pytestmark = pytest.mark.browser

SAYS = "text => document.querySelector('#fig-ranking .kv-reading').textContent.includes(text)"


def open_page(browser, address, name, **how):
    """A page of the book, opened as a file."""
    return visit(browser, f"{address['file']}/{name}.html", address["file"], **how)


def test_a_link_on_the_page_itself_sets_the_explorer(browser, address):
    with open_page(browser, address, "notebooks/policies") as seen:
        draw_all(seen.page)
        seen.page.evaluate("location.hash = '#fig-ranking:budget=256'")
        until(seen.page, SAYS, "With 256 entries")


def test_a_link_holds_all_explorers_that_were_moved(browser, address):
    with open_page(browser, address, "notebooks/story") as seen:
        draw_all(seen.page)
        first, last = "#fig-story-curve", "#fig-story-plan"
        for figure in (first, last):
            seen.page.query_selector(f"{figure} input").press("Home")
        link = tool(seen.page.query_selector(f"{last} .kv-chart"), "Link").get_attribute("href")
        assert link.startswith(f"{last}:") and ";fig-story-curve:window=" in link
        said = [seen.page.inner_text(f"{figure} .kv-reading") for figure in (first, last)]
        url = seen.page.url.partition("#")[0] + link
    with visit(browser, url, address["file"]) as again:
        draw_all(again.page)
        for figure, text in zip((first, last), said, strict=True):
            assert again.page.inner_text(f"{figure} .kv-reading") == text


def test_the_tour_goes_from_stop_to_stop_and_ends(browser, address):
    with open_page(browser, address, "notebooks/story") as seen:
        page = seen.page
        draw_all(page)
        start = page.query_selector(".kv-tour-start")
        start.click()
        panel = page.query_selector(".kv-tour-panel")
        assert panel.is_visible() and panel.inner_text().startswith("1 of 5.")
        until(page, "() => document.querySelector('.kv-passage input').value === '0'")
        for stop in range(2, 6):
            page.keyboard.press("Enter")
            assert panel.inner_text().startswith(f"{stop} of 5.")
        until(page, SAYS.replace("#fig-ranking", "#fig-story-ranking"), "With 64 entries")
        page.keyboard.press("Escape")
        assert not panel.is_visible()
        assert start.evaluate("e => e === document.activeElement")
        start.click()
        assert panel.inner_text().startswith("1 of 5.")
        assert seen.complaints == []


BROKEN = ["#fig-ranking:budget=999", "#fig-none:budget=16", "#fig-ranking:%%%", "#view-2:budget=16"]


@pytest.mark.parametrize("fragment", BROKEN)
def test_a_broken_link_leaves_the_first_setting(browser, address, fragment):
    url = f"{address['file']}/notebooks/policies.html{fragment}"
    with visit(browser, url, address["file"]) as seen:
        draw_all(seen.page)
        assert "With 64 entries" in seen.page.inner_text("#fig-ranking .kv-reading")
        assert seen.complaints == []


def test_the_table_shows_the_rows_of_the_setting(browser, address):
    with open_page(browser, address, "notebooks/policies") as seen:
        draw_all(seen.page)
        root = seen.page.query_selector("#fig-ranking .kv-chart")
        button = tool(root, "Data")
        assert button.get_attribute("aria-expanded") == "false"
        button.click()
        assert button.get_attribute("aria-expanded") == "true"
        assert (
            "python -m kvlib study online prefill" in root.query_selector(".kv-table").inner_text()
        )
        assert "mean (nats or TV)" in root.query_selector(".kv-table thead").inner_text()
        chosen = root.query_selector("select").evaluate("s => s.options[s.selectedIndex].text")
        cells = root.evaluate(
            "root => Array.from(root.querySelectorAll('tbody tr'), row => row.cells[0].textContent)"
        )
        assert set(cells) == {chosen}
        root.query_selector("select").select_option(index=1)
        assert root.query_selector(".kv-table tbody td").inner_text() != chosen
        button.click()
        assert not root.query_selector(".kv-table").is_visible()


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


def test_a_tap_on_a_term_says_what_it_means_and_a_second_one_leads_there(browser, address):
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True)
    page = context.new_page()
    page.goto(f"{address['file']}/notebooks/story.html")
    term = page.locator('a[data-definition][href*="#term-"]').first
    term.scroll_into_view_if_needed()
    where, tip = page.url, page.locator("#kv-tip")
    term.tap()
    assert page.url == where and tip.inner_text().startswith(term.get_attribute("data-definition"))
    box = tip.bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= 390
    page.locator(".bd-article h1").tap()
    assert not tip.is_visible()
    term.tap()
    tip.locator("a").tap()
    page.wait_for_url("**/glossary.html#term-*")
    page.go_back()
    term.tap()
    term.tap()
    page.wait_for_url("**/glossary.html#term-*")
    context.close()


FOCUS = """() => {
  const at = document.activeElement;
  if (!at || at === document.body) return null;
  const ringed = (element) => {
    const { outlineStyle, outlineWidth, visibility } = getComputedStyle(element);
    const { width, height } = element.getBoundingClientRect();
    const seen = visibility === "visible" && width > 1 && height > 1;
    return seen && outlineStyle !== "none" && parseFloat(outlineWidth) >= 2;
  };
  const card = at.closest(".sd-card");
  return { ring: ringed(at) || (card !== null && ringed(card)), what: at.outerHTML.slice(0, 120) };
}"""


@pytest.mark.parametrize("page", ["book/index", "notebooks/story", "notebooks/try_it"])
@pytest.mark.parametrize("width", [1280, 390])
def test_wherever_tab_leads_one_sees_it(browser, address, page, width):
    with open_page(browser, address, page, width=width) as seen:
        draw_all(seen.page)
        stops, unseen = set(), []
        for _ in range(400):
            seen.page.keyboard.press("Tab")
            found = seen.page.evaluate(FOCUS)
            if found is None:
                break
            stops.add(found["what"])
            unseen += [] if found["ring"] else [found["what"]]
        assert unseen == [] and len(stops) > 8


def test_without_scripts_a_still_picture_and_its_sentence_stand_there(browser, address, name):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{address['file']}/{name}.html")
    for fold in page.query_selector_all(".kv-fold > summary"):
        fold.click()
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
