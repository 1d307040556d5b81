"""What is folded on a page: closed at first, opened by a hand, by a link into it, and on paper."""

from __future__ import annotations

import pytest
from book_checks import TOO_WIDE, draw, until, visit

pytestmark = pytest.mark.browser

PAGE = "notebooks/sensitivity"
FOLD = ".kv-fold"
INSIDE = "#fig-data-check"  # an explorer in the fold


def page_at(browser, address, link="", **how):
    """The page as it is first seen, at a link."""
    root = address["file"]
    return visit(browser, f"{root}/{PAGE}.html{link}", root, folded=True, **how)


def is_open(page) -> bool:
    return page.eval_on_selector(FOLD, "fold => fold.open")


def test_the_fold_is_closed_says_what_is_in_it_and_opens_by_its_heading(browser, address):
    with page_at(browser, address) as seen:
        page = seen.page
        assert not is_open(page) and not page.is_visible(INSIDE)
        assert "How far to trust this" in page.inner_text(f"{FOLD} > summary")
        titles = page.eval_on_selector_all(f"{FOLD} h3", "all => all.length")
        assert page.inner_text(".kv-inside").count(" · ") == titles - 1
        page.click(f"{FOLD} > summary h2")
        assert is_open(page) and draw(page.query_selector(f"{INSIDE} .kv-chart")) == []
        assert seen.complaints == []


LINKS = [
    "#how-far-to-trust-this",
    "#measure",
    "#fig-bend",
    "#fig-bend:b=0.5",
    "#equation-eq-finite",
]


@pytest.mark.parametrize("link", LINKS)
def test_a_link_into_the_fold_opens_it(browser, address, link):
    with page_at(browser, address, link) as seen:
        assert is_open(seen.page) and seen.complaints == []
    with page_at(browser, address) as seen:
        seen.page.evaluate("link => { location.hash = link; }", link)
        until(seen.page, f"() => document.querySelector('{FOLD}').open")


def test_the_same_link_opens_it_again(browser, address):
    with page_at(browser, address) as seen:
        page = seen.page
        link = page.query_selector("a[href='#eq-bend'], a[href='#equation-eq-bend']")
        for _ in range(2):
            link.evaluate("link => link.click()")
            until(page, f"() => document.querySelector('{FOLD}').open")
            page.click(f"{FOLD} > summary h2")
            assert not is_open(page)


def test_a_link_to_what_is_open_leaves_the_fold_closed(browser, address):
    with page_at(browser, address, "#what-we-found") as seen:
        assert not is_open(seen.page)


@pytest.mark.parametrize("link", ["#nothing", "#%%%", "#", "#:b=1"])
def test_a_broken_link_leaves_it_closed(browser, address, link):
    with page_at(browser, address, link) as seen:
        assert not is_open(seen.page) and seen.complaints == []


def test_on_paper_it_is_open(browser, address):
    with page_at(browser, address) as seen:
        seen.page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
        assert is_open(seen.page)


def test_a_long_table_shows_eight_rows_and_folds_the_others(browser, address):
    with page_at(browser, address, "#measure", width=390) as seen:
        page = seen.page
        frame = page.query_selector(".kv-frame:has(.kv-more)")
        rows = frame.query_selector_all(":scope > .kv-wide tbody tr")
        assert len(rows) == 8
        rest = frame.query_selector(".kv-more")
        assert not rest.query_selector("table").is_visible()
        rest.query_selector("summary").click()
        assert rest.query_selector("table").is_visible()
        assert page.evaluate(TOO_WIDE) == []


def test_what_names_a_row_stays_in_sight_when_a_table_is_moved(browser, address):
    with page_at(browser, address, width=390) as seen:
        wide = next(
            box
            for box in seen.page.query_selector_all(".kv-wide")
            if box.is_visible() and box.evaluate("box => box.scrollWidth > box.clientWidth + 50")
        )
        wide.evaluate("box => { box.scrollLeft = 50; }")
        left = "(box, which) => box.querySelector(which).getBoundingClientRect().left"
        begin = wide.evaluate("box => box.getBoundingClientRect().left")
        assert abs(wide.evaluate(left, "tbody th") - begin) <= 1
        assert wide.evaluate(left, "tbody td") < begin + 200
