"""The checks of this folder can fail: each fault, planted in a copy of the book, is found."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from book_checks import (
    CUT,
    FAINT,
    HIDDEN_COLUMNS,
    LONE_LINKS,
    TOO_WIDE,
    UNTYPESET,
    dead_controls,
    draw,
    draw_all,
    odd,
    unsaid,
    visit,
)

pytestmark = pytest.mark.browser


@pytest.fixture
def copy(book, tmp_path) -> Path:
    """A copy of the book that a test may spoil."""
    return shutil.copytree(book, tmp_path / "book")


def page_with(book: Path, text: str) -> Path:
    """The first page of the book that holds a text."""
    pages = sorted(path for path in book.rglob("*.html") if "_static" not in path.parts)
    return next(path for path in pages if text in path.read_text(encoding="utf-8"))


def spoil(path: Path, old: str, new: str) -> None:
    """Replaces a text that must be there."""
    text = path.read_text(encoding="utf-8")
    assert old in text, f"expected {old!r} in {path.name}, so that the fault can be planted"
    path.write_text(text.replace(old, new), encoding="utf-8")


def complaints(browser, page: Path, check, **how) -> list[str]:
    """What a check says of a page, after what the visit itself heard."""
    with visit(browser, page.as_uri(), page.parents[1].as_uri(), **how) as seen:
        draw_all(seen.page)
        found = check(seen.page)
        return seen.complaints + found


def test_a_dead_slider_is_found(browser, copy):
    spoil(copy / "_static" / "sliders.js", "moved(slider.values[at]);", "")
    found = complaints(browser, page_with(copy, 'type="range"'), dead_controls)
    assert any("leaves the picture" in complaint for complaint in found)


def test_a_dead_sentence_is_found(browser, copy):
    spoil(copy / "_static" / "explorer.js", "reading.textContent = sentence", "void sentence")
    found = complaints(browser, page_with(copy, 'class="kv-reading"'), dead_controls)
    assert any("leaves the sentence" in complaint for complaint in found)


def test_a_missing_drawing_library_is_found_and_said_on_the_page(browser, copy):
    next((copy / "_static").glob("vega-*.js")).unlink()
    found = complaints(browser, page_with(copy, 'class="kv-chart"'), draw_all)
    assert any("the drawing library did not load" in complaint for complaint in found)


DAMAGES = {
    "data that are cut short": ('class="kv-data">{', 'class="kv-data">{"'),
    "a control without its input": (
        '<input type="range" name="window"',
        '<input type="range" name="w"',
    ),
    "a value that isn't on the track": ('"value":128,', '"value":128.5,'),
    "no signals": ('"signals":', '"sign":'),
    "a column that is too short": ('"mean":[', '"mean":[1],"low":[1],"old":['),
    "an unknown mark": ('"type":"line"', '"type":"lion"'),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_explorer_says_so_in_a_line_and_leaves_the_others_alone(browser, copy, damage):
    page = copy / "notebooks" / "story.html"
    whole = page.read_text(encoding="utf-8")
    place = whole.index('class="kv-chart"')
    old, new = DAMAGES[damage]
    assert old in whole[place:]
    page.write_text(whole[:place] + whole[place:].replace(old, new, 1), encoding="utf-8")
    with visit(browser, page.as_uri(), copy.as_uri()) as seen:
        charts = seen.page.query_selector_all(".kv-chart")
        drawn = [draw(chart) == [] for chart in charts]
        assert drawn == [False] + [True] * (len(charts) - 1) and len(charts) > 2
        message = charts[0].query_selector(".kv-error").inner_text()
        assert message.startswith("This picture could not be drawn: ") and "\n" not in message
        assert not any(text.startswith("script error") for text in seen.complaints)


def test_a_damaged_passage_says_so_and_the_charts_are_drawn(browser, copy):
    page = copy / "notebooks" / "story.html"
    spoil(page, '{"tokens":', '{"token":')
    with visit(browser, page.as_uri(), copy.as_uri()) as seen:
        said = seen.page.inner_text(".kv-passage .kv-reading")
        assert said.startswith("This passage could not be shaded: ")
        assert draw_all(seen.page) + seen.complaints == []


def test_an_image_from_outside_is_found(browser, copy):
    page = page_with(copy, 'class="kv-chart"')
    spoil(page, "</article>", '<img src="https://example.org/pixel.png" alt=""></article>')
    assert any("example.org" in complaint for complaint in complaints(browser, page, draw_all))


def test_a_request_to_outside_is_found_when_the_policy_is_gone(browser, copy):
    page = page_with(copy, 'class="kv-chart"')
    spoil(page, "Content-Security-Policy", "X-No-Policy")
    spoil(page, "</article>", '<img src="https://example.org/pixel.png" alt=""></article>')
    found = complaints(browser, page, draw_all)
    assert "request outside the book: https://example.org/pixel.png" in found


def test_an_inline_script_is_found(browser, copy):
    page = page_with(copy, 'class="kv-chart"')
    spoil(page, "</article>", "<script>window.inline = 1</script></article>")
    assert any("Content Security" in complaint for complaint in complaints(browser, page, draw_all))


def test_a_wide_element_is_found(browser, copy):
    page = page_with(copy, 'class="kv-chart"')
    spoil(page, "</article>", '<div style="width: 900px">wide</div></article>')
    found = complaints(browser, page, lambda page: page.evaluate(TOO_WIDE), width=390)
    assert any("in a window of 390 px" in complaint for complaint in found)


def test_an_empty_line_under_a_title_is_found(browser, copy):
    spoil(copy / "_static" / "book.css", "display: inline-block;\n  width: 0;", "")
    page = copy / "notebooks" / "formulation.html"
    found = complaints(browser, page, lambda page: page.evaluate(LONE_LINKS), width=390)
    assert found == ['an empty line under "What does the next query buy?"']


def test_a_table_that_scrolls_in_secret_is_found(browser, copy):
    spoil(copy / "_static" / "reading.css", "padding: 0.35rem 0.3rem;", "min-width: 12rem;")
    page = copy / "book" / "notation.html"
    found = complaints(browser, page, lambda page: page.evaluate(HIDDEN_COLUMNS), width=390)
    assert len(found) == 1 and found[0].startswith("cut: Sign")


def test_cut_words_are_found(browser, copy):
    page = page_with(copy, '"other models and texts"')
    spoil(page, '"other models and texts"', f'"{"other models and texts, " * 4}"')
    found = complaints(browser, page, lambda page: page.evaluate(CUT), width=390)
    assert any('texts," is cut by' in complaint for complaint in found)


def test_a_light_panel_in_dark_mode_is_found(browser, copy):
    spoil(copy / "_static" / "book.css", "background: transparent", "background: #eee")
    page = page_with(copy, 'class="kv-chart"')
    found = complaints(browser, page, lambda page: page.evaluate(FAINT), dark=True)
    assert any("panel" in complaint for complaint in found)


def test_faint_text_is_found(browser, copy):
    spoil(copy / "_static" / "inks.js", '"--pst-color-text-base"', '"--kv-grid"')
    page = page_with(copy, 'class="kv-chart"')
    found = complaints(browser, page, lambda page: page.evaluate(FAINT))
    assert any("contrast" in complaint for complaint in found)


def test_a_missing_mathjax_is_found(browser, copy):
    (copy / "_static" / "mathjax" / "startup.js").unlink()
    page = page_with(copy, 'class="math')
    found = complaints(browser, page, lambda page: page.evaluate(UNTYPESET))
    assert "a page with formulas, but without MathJax" in found


@pytest.mark.parametrize(
    "text",
    ["1 tokens", "7.9e-29%", "had 0% with", "−0 nats", "6,940,000,000 MB", "NaN", "12345 tokens"],
)
def test_an_odd_text_is_found(text):
    assert odd([f"It says {text} here."]) and not odd(["With 11 tokens: 0.5%, 1 token, in 2026."])


def test_a_band_of_nothing_is_found():
    assert unsaid(["measured, with 95% band"])
    assert not unsaid(["mean over documents, 95% band", "95% interval of b", "measured"])
