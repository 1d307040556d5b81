"""The built book in Chromium: from a server, in the dark, on a phone; first page and passage."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from book_checks import (
    COLOURS,
    CUT,
    FAINT,
    HIDDEN_COLUMNS,
    LONE_LINKS,
    PAGES,
    TOO_WIDE,
    UNFIT,
    UNTYPESET,
    draw_all,
    lasting,
    serious,
    until,
    visit,
)
from kvbook import markup

from kvlib import claims, fit
from kvlib.measure import passage

pytestmark = pytest.mark.browser

FIRST_PAGE_BYTES = 3_000_000
WAYS = ("http", "file")
OWN_TYPE = """() => document.fonts.ready.then((fonts) =>
  [...fonts].filter((font) => font.family.includes("Kept")).map((font) => font.status))"""


def test_a_page_from_a_server_draws_and_typesets_silently(browser, address, name):
    """`test_pages` opens the same pages as files."""
    root = address["http"]
    with visit(browser, f"{root}/{name}.html", root) as seen:
        assert draw_all(seen.page) + seen.page.evaluate(UNTYPESET) + seen.complaints == []


@pytest.mark.parametrize("way", WAYS)
def test_front_door_leads_to_the_first_page(browser, address, way):
    root = address[way]
    first = f"{root}/{PAGES[0]}.html"
    with visit(browser, f"{root}/index.html", root, leads_to=first) as seen:
        assert seen.complaints == []


CONTROLS = {"input", "select", "textarea", "button", "output", "meter", "progress"}


def markup_faults(page: str) -> list[str]:
    """What the built pages' markup must not have, and what each must have once."""
    tags = [tag for tag in markup.read(page).tags if not tag.closes]
    metas = [tag.attributes for tag in tags if tag.name == "meta"]
    once = {
        "viewport": sum(meta.get("name") == "viewport" for meta in metas),
        "policy": sum(meta.get("http-equiv") == "Content-Security-Policy" for meta in metas),
    }
    faults = [f"{count} of {name}" for name, count in once.items() if count != 1]
    faults += [f"a <style> at {tag.start}" for tag in tags if tag.name == "style"]
    code = [tag for tag in tags if tag.name == "script" and "src" not in tag.attributes]
    faults += [tag.text for tag in code if tag.attributes.get("type") != "application/json"]
    ids = Counter(tag.attributes["id"] for tag in tags if "id" in tag.attributes)
    faults += [f"{count} elements with the id {name}" for name, count in ids.items() if count > 1]
    for label in markup.within(markup.read(page).tags, "label"):
        inside = [tag.name for tag in label if tag.name in CONTROLS and not tag.closes]
        faults += [f"a label of {inside}"] if len(inside) > 1 else []
    return faults


def test_the_markup_of_every_page_is_sound(book):
    pages = [page for page in book.rglob("*.html") if "_static" not in page.parts]
    faults = {str(page): markup_faults(page.read_text(encoding="utf-8")) for page in pages}
    assert pages and {page: found for page, found in faults.items() if found} == {}


@pytest.mark.parametrize(
    "fault",
    [
        '<meta name="viewport">',
        "<style>a{}</style>",
        "<script>go()</script>",
        "<p id=a><p id=a>",
        "<label><input><output></output></label>",
    ],
)
def test_unsound_markup_is_found(fault):
    policy = '<meta http-equiv="Content-Security-Policy" content="default-src \'self\'">'
    page = f'<meta name="viewport">{policy}'
    assert markup_faults(page) == [] and len(markup_faults(page + fault)) == 1
    assert markup_faults("") == ["0 of viewport", "0 of policy"]


@pytest.mark.parametrize("page", ["book/index", "notebooks/policies"])
def test_who_prefers_the_dark_gets_it_at_once(browser, address, page):
    """The charts and the passage; `test_pages` turns every page dark by its button's way."""
    with visit(browser, f"{address['file']}/{page}.html", address["file"], dark=True) as seen:
        assert seen.page.evaluate("document.documentElement.dataset.theme") == "dark"
        assert draw_all(seen.page) + seen.page.evaluate(FAINT) == []
        assert serious(seen.page, COLOURS) == []


def test_nothing_overflows_on_a_phone_and_a_wider_window_refits_the_pictures(
    browser, address, name
):
    """390 pixels; 320, the narrowest there is; 640, which is 200% zoom of 1,280; 800; 1,280."""
    with visit(browser, f"{address['file']}/{name}.html", address["file"], width=390) as seen:
        complaints = draw_all(seen.page) + lasting(seen.page, TOO_WIDE)
        for check in (CUT, LONE_LINKS, HIDDEN_COLUMNS):
            complaints += lasting(seen.page, check)
        for width in (320, 640, 800, 1280):
            seen.page.set_viewport_size({"width": width, "height": 900})
            complaints += lasting(seen.page, UNFIT) + lasting(seen.page, TOO_WIDE)
        assert complaints == []


def test_the_archive_of_tables_is_there_and_its_size_is_said(book):
    size = (book / "_static" / "kvlib-tables.zip").stat().st_size
    page = (book / "book" / "explorers.html").read_text(encoding="utf-8")
    assert 'href="../_static/kvlib-tables.zip"' in page
    assert f'<span class="kv-tables-size">{size / 1e6:.0f} MB</span>' in page


def test_no_page_tells_where_it_was_built(book):
    files = [path for path in book.rglob("*") if path.suffix in (".html", ".js", ".json", ".ipynb")]
    assert len(files) > len(PAGES)
    places = [str(book.parents[1] / name) for name in ("kvlib", "book", "notebooks", "_build")]
    told = [f for f in files if any(place in f.read_text(encoding="utf-8") for place in places)]
    assert told == []


def test_a_search_shows_words_of_the_articles(browser, address):
    root = address["http"]
    with visit(browser, f"{root}/search.html?q=window", root) as seen:
        until(seen.page, "() => document.querySelectorAll('#search-results p.context').length > 4")
        found = seen.page.locator("#search-results li:has(p.context)").all_inner_texts()
        assert not [text for text in found if ".pdf" in text or "Contents" in text]
        terms = [text for text in found if text.startswith("Glossary")]
        meaning = "How many of the last tokens are kept"  # what it means, not the word again
        assert any(meaning in text for text in terms), terms
        box, sign = (seen.page.locator(f"form.bd-search {e}").last for e in ("input", ".fa-solid"))
        words = box.evaluate(
            "e => e.getBoundingClientRect().left + parseFloat(getComputedStyle(e).paddingLeft)"
        )
        assert words > sign.evaluate("e => e.getBoundingClientRect().right")


ON_THE_FIRST_SCREEN = {
    "the question": ".bd-article h1 ~ p strong",
    "the drawing": ".kv-strip",
    "the finding": ".bd-article .cell ~ p strong",
    "the tally": ".kv-tally",
    "something to move": ".kv-control input[type=range]",
}


@pytest.mark.parametrize("width, height", [(1280, 900), (390, 844)])
def test_the_first_screen_says_what_was_found_and_can_be_moved(browser, address, width, height):
    url = f"{address['file']}/{PAGES[0]}.html"
    with visit(browser, url, address["file"], width=width) as seen:
        seen.page.set_viewport_size({"width": width, "height": height})
        assert draw_all(seen.page) == []
        seen.page.evaluate("document.fonts.ready.then(() => scrollTo(0, 0))")
        ends = {
            what: seen.page.locator(place).first.evaluate("e => e.getBoundingClientRect().bottom")
            for what, place in ON_THE_FIRST_SCREEN.items()
        }
    assert all(0 < end <= height for end in ends.values()), ends


@pytest.mark.parametrize("way", WAYS)
def test_the_book_is_set_in_its_own_type(browser, address, way):
    with visit(browser, f"{address[way]}/{PAGES[0]}.html", address[way]) as seen:
        draw_all(seen.page)
        own = seen.page.evaluate(OWN_TYPE)
        assert len(own) == 3 and own.count("loaded") >= 2 and "error" not in own


def test_first_page_is_light(browser, address):
    waiting, sizes = [], {}
    with visit(browser, "about:blank", "about:") as seen:
        seen.page.on("response", lambda response: waiting.append(response))
        seen.page.goto(f"{address['http']}/{PAGES[0]}.html", wait_until="networkidle")
        while waiting:  # reading one body can let another response in
            response = waiting.pop()
            sizes[response.url] = len(response.body())
    weight = sum(sizes.values())
    assert 0 < weight <= FIRST_PAGE_BYTES, f"limit {FIRST_PAGE_BYTES} bytes, got {weight}"


SAYS = "text => document.querySelector('.kv-reading').textContent.includes(text)"


def ratio_read_aloud(page) -> float:
    """The ratio of errors in the sentence of the extrapolation page."""
    sentence = page.query_selector(".kv-reading").inner_text()
    return float(re.search(r"a ratio of ([\d.]+)\.$", sentence)[1])


@pytest.mark.parametrize("presses", [0, 5])
def test_the_browser_fits_what_the_library_fits(browser, address, presses):
    """The laws refitted in the chart and `kvlib.fit` agree on the ratio of errors."""
    curves = claims.claim.stored_curves()
    first = next(iter(curves.values())).between(claims.claim.MIN_WINDOW)
    name, root = "notebooks/extrapolation", address["file"]
    with visit(browser, f"{root}/{name}.html", root) as seen:
        draw_all(seen.page)
        slider = seen.page.query_selector(".kv-chart input")
        for _ in range(presses):
            slider.press("ArrowRight")
        split = int(slider.get_attribute("aria-valuetext").split()[0])
        until(seen.page, SAYS, f"windows up to {split} tokens")
        shown = ratio_read_aloud(seen.page)
    assert (split == claims.extrapolation.SPLIT) == (presses == 0)
    contest = fit.extrapolation(first, split, ("power", "exponential"), n_boot=2)
    assert shown == pytest.approx(contest.ratios["exponential"].value, rel=2e-3, abs=0.06)


def passage_page(browser, address, way="file", **options):
    """The page with the shaded passage."""
    return visit(browser, f"{address[way]}/notebooks/policies.html", address[way], **options)


WORDS = ".kv-passage .kv-words .kv-token"
SHADES = f"Array.from(document.querySelectorAll('{WORDS}'), w => w.dataset.shade).join('')"


def test_both_controls_of_the_passage_move_its_shading_and_its_sentence(browser, address):
    with passage_page(browser, address) as seen:
        page = seen.page
        reading = page.query_selector(".kv-passage .kv-reading")
        before = page.evaluate(SHADES), reading.inner_text()
        assert set(before[0]) > {"0"} and "tokens lose half a nat" in before[1]
        page.query_selector(".kv-passage input").press("Home")
        smaller = page.evaluate(SHADES), reading.inner_text()
        assert smaller[0] != before[0] and smaller[1] != before[1]
        assert sum(map(int, smaller[0])) > sum(map(int, before[0]))  # a smaller cache breaks more
        page.query_selector(".kv-passage select").select_option(index=1)
        other = page.evaluate(SHADES), reading.inner_text()
        assert other[0] != smaller[0] and other[1] != smaller[1]
        assert seen.complaints == []


def test_the_passage_can_be_walked_with_the_keyboard_alone(browser, address):
    with passage_page(browser, address) as seen:
        page = seen.page
        page.query_selector(WORDS).focus()
        first = page.query_selector(".kv-passage .kv-reading").inner_text()
        page.keyboard.press("ArrowRight")
        second = page.query_selector(".kv-passage .kv-reading").inner_text()
        assert "nats from the full cache" in first and first != second
        assert len(page.query_selector_all(".kv-guesses li")) == 6
        assert len(page.query_selector_all(f"{WORDS}[tabindex='0']")) == 1


def test_the_passage_fits_a_phone_and_shows_what_is_stored(browser, address):
    rows = claims.story.stored_passage()
    tokens = rows[rows["policy"] == passage.FULL]["token"]
    with passage_page(browser, address, width=390) as seen:
        shown = seen.page.evaluate(
            f"Array.from(document.querySelectorAll('{WORDS}'), w => w.textContent).join('')"
        )
        assert shown == "".join(tokens)
        assert seen.page.evaluate(TOO_WIDE) == []


@pytest.mark.parametrize("page", ["notebooks/story", "notebooks/policies"])
def test_what_a_tap_on_a_word_says_is_on_the_screen_of_a_phone(browser, address, page):
    size = {"width": 390, "height": 844}
    context = browser.new_context(viewport=size, has_touch=True, is_mobile=True)
    phone = context.new_page()
    phone.goto(f"{address['file']}/{page}.html")
    word = phone.locator(WORDS).nth(40)
    word.evaluate("word => word.scrollIntoView({ block: 'center' })")
    word.tap()
    until(phone, "() => document.querySelector('.kv-guesses li')")
    for part in (".kv-reading", ".kv-guesses"):
        box = phone.locator(f".kv-passage {part}").bounding_box()
        assert box["y"] > 0 and box["y"] + box["height"] <= 844
    context.close()
