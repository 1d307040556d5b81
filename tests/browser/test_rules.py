"""Rules in pictures that follow a slider: dragged by mouse, pen and finger; thumbs above them."""

from __future__ import annotations

from collections.abc import Iterator

import altair as alt
import pandas as pd
import pytest
from book_checks import TOO_WIDE, UNALIGNED, Visit, draw_all, still, until, visit

from kvlib.charts import offline, parts
from kvlib.charts.controls import Choice, Explorer, Slider

pytestmark = pytest.mark.browser

WINDOWS = [2**k for k in range(11)]
LEVELS = [0.01, 0.03, 0.1, 0.3, 1.0]
PLOT = "svg .root > g > .background"
AT = 1.1  # times the window: where the rule of a window stands


def explorer() -> Explorer:
    """A curve with a rule on each axis; the vertical one stands a little beside its window."""
    rows = pd.DataFrame({"window": WINDOWS, "mean": [1 / w**0.5 for w in WINDOWS]})
    base = alt.Chart(rows)
    largest = AT * WINDOWS[-1]
    x = alt.X("window:Q", scale=parts.window_scale(largest), axis=parts.window_axis(largest))
    scale = alt.Scale(type="log", domain=[0.005, 2], nice=False)
    line = base.mark_line().encode(x=x, y=alt.Y("mean:Q", scale=scale))
    once = base.transform_filter("datum.window == window")
    rule = once.transform_calculate(at=f"{AT} * window * (unit == 'half' ? 0.5 : 1)").mark_rule()
    upright = rule.encode(x=alt.X("at:Q", scale=parts.window_scale(largest)))
    level = once.transform_calculate(level="epsilon").mark_rule()
    flat = level.encode(y=alt.Y("level:Q", scale=scale))
    said = parts.reading(once, "'At ' + window + ' with ' + epsilon")
    halves = {"whole": [AT * w for w in WINDOWS], "half": [AT * w / 2 for w in WINDOWS]}
    where = {"axis": "x", "by": ["unit"], "places": halves}
    return Explorer(
        parts.picture(
            *(line, parts.rule_for("window", upright), parts.rule_for("epsilon", flat), said),
            parameters=("window", "epsilon", "unit"),
        ),
        [
            Choice("unit", "Unit", [("whole", "whole"), ("half", "half")]),
            Slider("window", "Window", values=WINDOWS, value=32, scale="log", **where),
            Slider("epsilon", "ε", values=LEVELS, value=0.03, scale="log", axis="y"),
        ],
        "A curve and two rules",
    )


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> str:
    """A page with a tall explorer, opened as a file."""
    path = tmp_path_factory.mktemp("rules") / "page.html"
    tall = '<div style="height: 1500px"></div>'
    path.write_text(offline.page("Rules", [explorer(), tall]), encoding="utf-8")
    return path.as_uri()


@pytest.fixture
def seen(browser, address) -> Iterator[Visit]:
    with visit(browser, address, address) as seen:
        assert draw_all(seen.page) == []
        still(seen.page)
        yield seen
        assert seen.complaints == []


def rule(page, name: str) -> tuple[float, float]:
    """Where the middle of a slider's rule is on the screen."""
    still(page)
    box = page.locator(f".{name}_rule_marks line").bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def values(page) -> list[str]:
    """What both sliders say."""
    return [one.get_attribute("aria-valuetext") for one in page.locator("input").all()]


def apart(a: tuple[float, float], b: tuple[float, float], axis: int) -> float:
    return abs(a[axis] - b[axis])


def test_a_mouse_drags_the_rule_and_the_slider_follows(seen):
    page = seen.page
    x, y = rule(page, "window")
    page.mouse.move(x + 3, y)
    assert page.locator(".kv-picture").evaluate("e => e.style.cursor") == "ew-resize"
    page.mouse.down()
    octave = page.evaluate(f"document.querySelector('{PLOT}').getBBox().width") / 10.14
    heard = []
    for step in range(1, 4):
        page.mouse.move(x + step * octave, y, steps=4)
        assert apart(rule(page, "window"), (x + step * octave, y), 0) < 4
        heard.append(values(page)[0])
    page.mouse.up()
    assert heard == ["64", "128", "256"]
    until(page, "() => document.querySelector('.kv-reading').textContent === 'At 256 with 0.03'")
    page.mouse.move(x, y)  # let go: it follows no more
    assert values(page) == ["256", "0.03"]
    page.keyboard.press("ArrowRight")  # the keyboard goes on from where the mouse was
    assert values(page) == ["512", "0.03"]


def test_a_click_jumps_the_nearer_rule_and_the_other_one_stays(seen):
    page = seen.page
    x, y = rule(page, "window")
    _, level = rule(page, "epsilon")
    page.mouse.move(x - 200, level - 2)
    assert page.locator(".kv-picture").evaluate("e => e.style.cursor") == "ns-resize"
    page.mouse.down()
    page.mouse.move(x - 200, level - 120, steps=5)
    page.mouse.up()
    moved = values(page)
    assert moved[0] == "32" and float(moved[1]) > 0.03
    page.mouse.click(x + 40, level - 230)
    assert values(page) == ["64", moved[1]] or values(page)[0] != "32"
    outside = page.locator(".kv-picture svg").bounding_box()
    before = values(page)
    page.mouse.click(outside["x"] + 4, outside["y"] + outside["height"] - 2)
    assert values(page) == before


def test_where_a_rule_stands_may_depend_on_another_control(seen):
    page = seen.page
    page.locator("select").select_option("half")
    still(page)
    x, y = rule(page, "window")
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 2, y)
    page.mouse.up()
    assert values(page)[0] == "32"


def test_a_pen_drags_it_too(seen):
    page = seen.page
    x, y = rule(page, "window")
    pen = page.context.new_cdp_session(page)

    def put(kind: str, at: float) -> None:
        held = {"button": "left", "buttons": 1, "clickCount": 1, "pointerType": "pen"}
        pen.send("Input.dispatchMouseEvent", {"type": kind, "x": at, "y": y} | held)

    put("mousePressed", x)
    for at in (x - 20, x - 60, x - 120):
        put("mouseMoved", at)
    put("mouseReleased", x - 120)
    assert int(values(page)[0]) < 32 and apart(rule(page, "window"), (x - 120, y), 0) < 40


@pytest.fixture
def phone(browser, address) -> Iterator:
    """The page under a finger, and how to put it: `touch(kind, x, y)`."""
    size = {"width": 390, "height": 844}
    context = browser.new_context(viewport=size, has_touch=True, is_mobile=True)
    page = context.new_page()
    page.goto(address)
    assert draw_all(page) == []
    page.evaluate("document.querySelector('.kv-picture').scrollIntoView({ block: 'center' })")
    still(page)
    finger = page.context.new_cdp_session(page)

    def touch(kind: str, *place: float) -> None:
        points = [{"x": place[0], "y": place[1]}] if place else []
        finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    yield page, touch
    context.close()


def test_a_finger_drags_a_rule_taps_and_still_scrolls_the_page(phone):
    page, touch = phone
    x, y = rule(page, "window")
    touch("touchStart", x + 10, y + 40)
    for step in range(1, 9):
        touch("touchMove", x + 10 + 10 * step, y + 40)
    touch("touchEnd")
    dragged = values(page)
    assert int(dragged[0]) > 32 and apart(rule(page, "window"), (x + 90, y), 0) < 20
    _, level = rule(page, "epsilon")
    across = x + 90 - 100 if x > 200 else x - 60
    touch("touchStart", across, level + 4)  # the other rule: the page must not scroll under it
    before = page.evaluate("scrollY")
    for step in range(1, 9):
        touch("touchMove", across, level + 4 - 10 * step)
    touch("touchEnd")
    assert page.evaluate("scrollY") == before
    held = values(page)
    assert held[0] == dragged[0] and float(held[1]) > 0.03
    corner = page.locator(PLOT).bounding_box()
    at = corner["x"] + 25, corner["y"] + corner["height"] - 25
    touch("touchStart", *at)
    for step in range(1, 9):
        touch("touchMove", at[0], at[1] - 20 * step)
    until(page, "before => scrollY > before", before)
    touch("touchEnd")
    assert values(page) == held  # it was the page that moved
    still(page)
    corner = page.locator(PLOT).bounding_box()
    at = corner["x"] + 25, corner["y"] + corner["height"] - 25
    touch("touchStart", *at)
    touch("touchEnd")
    said = "Array.from(document.querySelectorAll('input'), (one) => one.ariaValueText).join()"
    until(page, f"old => {said} !== old", ",".join(held))  # whichever rule was nearer


@pytest.mark.parametrize("width", [1280, 390])
def test_every_thumb_stands_above_its_rule(browser, address, width):
    with visit(browser, address, address, width=width) as seen:
        assert draw_all(seen.page) == []
        still(seen.page)
        (inputs,) = [seen.page.query_selector_all("input[data-aligned]")]
        assert [one.get_attribute("name") for one in inputs] == ["window"]
        assert seen.page.evaluate(UNALIGNED, len(WINDOWS)) == []
        seen.page.add_style_tag(content="input[data-aligned] { margin-left: 0 !important; }")
        assert len(seen.page.evaluate(UNALIGNED, 2)) > 0  # the check can fail


def test_a_slider_that_is_too_long_widens_nothing(browser, address):
    """As one is for a moment, above a picture that was drawn too wide."""
    long = "input[data-aligned] { --kv-span: 3000px !important; }"
    card = "document.querySelector('.kv-chart').clientWidth"
    with visit(browser, address, address) as seen:
        assert draw_all(seen.page) == []
        before = seen.page.evaluate(card)
        seen.page.add_style_tag(content=long)
        assert seen.page.evaluate(TOO_WIDE) == [] and seen.page.evaluate(card) == before
        seen.page.add_style_tag(content=".kv-chart { overflow: visible !important; }")
        assert len(seen.page.evaluate(TOO_WIDE)) == 1  # the check can fail


def test_few_values_have_ticks_and_a_thumb_that_snaps_to_them(seen):
    slider = seen.page.locator("[name=epsilon]")
    assert slider.evaluate("e => getComputedStyle(e).backgroundImage").count("gradient") == 5
    slider.evaluate("e => { e.value = Number(e.min) + 0.3; e.dispatchEvent(new Event('input')); }")
    assert slider.evaluate("e => e.value === e.min") or values(seen.page)[1] == "0.01"


def test_dates_and_expressions_are_drawn_where_no_code_may_be_made_of_text(browser, tmp_path):
    """The policy forbids `eval`: what Vega compiles elsewhere it must read as a tree here."""
    rows = pd.DataFrame(
        {"day": pd.date_range("2026-01-15", periods=6, freq="MS"), "loss": range(6)}
    )
    base = alt.Chart(rows).transform_calculate(shown="datum.loss > least ? datum.loss : 0")
    bars = base.mark_bar().encode(x="month(day):O", y="shown:Q")
    said = parts.reading(
        base.transform_filter("month(datum.day) == 6"),
        "monthFormat(month(datum.day)) + ' ' + least",
    )
    dated = Explorer(
        parts.picture(bars, said, parameters=["least"]), [Slider("least", "Least", 1, 3)], "Dates"
    )
    path = tmp_path / "page.html"
    path.write_text(offline.page("Dates", [dated]), encoding="utf-8")
    with visit(browser, path.as_uri(), path.as_uri()) as seen:
        assert draw_all(seen.page) == []
        still(seen.page)
        assert seen.page.inner_text(".kv-reading") == "July 1"
        months = seen.page.locator(".kv-picture .role-axis-label text").all_text_contents()
        assert {"Feb", "Jul"} <= set(months)
        assert seen.complaints == []
