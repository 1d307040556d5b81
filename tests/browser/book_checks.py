"""What the browser tests look for on a page; every check returns a list of complaints."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ElementHandle, Page, TimeoutError

ROOT = Path(__file__).parents[2]


def pages_of(toc: dict) -> list[str]:
    """All pages that a table of contents names, in reading order."""
    own = [toc[key] for key in ("root", "file") if key in toc]
    below = [entry for key in ("parts", "chapters", "sections") for entry in toc.get(key, [])]
    return own + [page for entry in below for page in pages_of(entry)]


PAGES = pages_of(yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8")))
EXPLORERS = ".kv-chart, .kv-passage"
PATIENCE = 10_000  # milliseconds; a busy machine takes its time
WHOLE = {"resultTypes": ["violations"], "preload": False}  # axe needn't fetch the styles again
COLOURS = WHOLE | {"runOnly": {"type": "rule", "values": ["color-contrast", "link-in-text-block"]}}
# Waits for something to come about; returns whether it did.
UNTIL = """
const until = async (milliseconds, done) => {
  const end = performance.now() + milliseconds;
  while (!done() && performance.now() < end) await new Promise(requestAnimationFrame);
  return Boolean(done());
};
"""

UNFOLD = """() => document
  .querySelectorAll("details.kv-fold, details.kv-more")
  .forEach((fold) => (fold.open = true))"""

DRAWN = f"""async chart => {{
  {UNTIL}
  const picture = chart.querySelector(".kv-picture");
  await until(10000, () => picture.querySelector("svg .role-mark > *, .kv-error"));
  return Boolean(picture.querySelector("svg .role-mark > *"));
}}"""

STATE = """chart => ({
  picture: chart.querySelector(".kv-picture").innerHTML,
  reading: chart.querySelector(".kv-reading")?.textContent ?? null,
})"""

CHANGED = f"""async (chart, before) => {{
  {UNTIL}
  const reading = chart.querySelector(".kv-reading");
  const moved = {{
    picture: () => chart.querySelector(".kv-picture").innerHTML !== before.picture,
    sentence: () => !reading || reading.textContent !== before.reading,
  }};
  if (await until(2000, () => moved.picture() && moved.sentence())) return [];
  return Object.keys(moved).filter((part) => !moved[part]());
}}"""

TO_THE_LEFT = """input => {
  input.value = input.min;
  input.dispatchEvent(new Event("input", { bubbles: true }));
}"""

# Relative luminance and contrast as WCAG 2 defines them; colours are read back from a canvas.
FAINT = """() => {
  const pen = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => {
    pen.clearRect(0, 0, 1, 1);
    pen.fillStyle = colour;
    pen.fillRect(0, 0, 1, 1);
    return pen.getImageData(0, 0, 1, 1).data;
  };
  const luminance = (colour) => {
    const [r, g, b] = Array.from(rgba(colour).slice(0, 3), (part) => {
      const c = part / 255;
      return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const panels = (element) => {
    const found = [];
    for (let at = element; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if (rgba(colour)[3] > 0) found.push(colour);
    }
    return found;
  };
  const contrast = (a, b) => {
    const [low, high] = [luminance(a), luminance(b)].sort((x, y) => x - y);
    return (high + 0.05) / (low + 0.05);
  };
  const complaints = [];
  for (const chart of document.querySelectorAll(".kv-chart, .cell_output .text_html")) {
    const page = getComputedStyle(document.body).backgroundColor;
    for (const panel of panels(chart)) {
      if (contrast(panel, page) > 1.5) complaints.push(`panel ${panel} on a page of ${page}`);
    }
    const words = ".kv-picture text, .kv-label, .kv-value, select, .kv-reading, th, td, caption";
    for (const text of chart.querySelectorAll(words)) {
      if (!text.textContent.trim() || !text.getClientRects().length) continue;
      const style = getComputedStyle(text);
      const ink = text instanceof SVGElement ? style.fill : style.color;
      const ratio = contrast(ink, panels(text)[0] ?? page);
      if (ratio < 4.5) complaints.push(`contrast ${ratio.toFixed(1)} of "${text.textContent}"`);
    }
  }
  return complaints;
}"""

UNFIT = """() => Array.from(document.querySelectorAll(".kv-picture"), (picture) => {
  const drawn = picture.querySelector("svg")?.getBoundingClientRect().width ?? 0;
  const room = picture.clientWidth;
  return Math.abs(drawn - room) > 2 ? `picture of ${drawn} px in a box of ${room} px` : "";
}).filter(Boolean)"""

TOO_WIDE = """() => {
  const complaints = [];
  const page = document.documentElement.scrollWidth;
  if (page > innerWidth) complaints.push(`page of ${page} px in a window of ${innerWidth} px`);
  for (const picture of document.querySelectorAll(".kv-picture")) {
    const { scrollWidth: drawn, clientWidth: room } = picture;
    if (drawn > room) complaints.push(`picture of ${drawn} px in a box of ${room} px`);
  }
  return complaints;
}"""

# Tables that scroll and don't show it, as those of `kvlib.charts.tables` do.
HIDDEN_COLUMNS = """() => Array.from(
  document.querySelectorAll(".bd-article .pst-scrollable-table-container"),
  (box) => (box.scrollWidth > box.clientWidth ? `cut: ${box.textContent.trim().slice(0, 40)}` : ""),
).filter(Boolean)"""

# Titles whose link stands in a line of its own below them, where nothing else is.
LONE_LINKS = """() => Array.from(document.querySelectorAll(".bd-article .headerlink"), (link) => {
  const words = document.createRange();
  words.setStart(link.parentElement, 0);
  words.setEndBefore(link);
  const { bottom, height } = words.getBoundingClientRect();
  const below = height > 0 && link.getBoundingClientRect().top > bottom - 2;
  return below ? `an empty line under "${words}"` : "";
}).filter(Boolean)"""

# Words of pictures that leave them, and labels of a horizontal axis that run together.
CUT = """() => {
  const complaints = [];
  for (const svg of document.querySelectorAll(".kv-picture svg")) {
    const edge = svg.getBoundingClientRect();
    const boxes = (root) => Array.from(root.querySelectorAll("text"))
      .filter((text) => !text.closest(".reading_marks") && text.textContent.trim())
      .filter((text) => text.getAttribute("opacity") !== "0") // what would overlap, Vega hides so
      .map((text) => ({ words: text.textContent, box: text.getBoundingClientRect() }))
      .filter(({ box }) => box.width > 0);
    for (const { words, box } of boxes(svg)) {
      const beyond = Math.max(box.right - edge.right, edge.left - box.left);
      if (beyond > 1) complaints.push(`"${words}" is cut by ${Math.round(beyond)} px`);
    }
    for (const axis of svg.querySelectorAll(".role-axis-label")) {
      const labels = boxes(axis).sort((a, b) => a.box.left - b.box.left);
      labels.slice(1).forEach(({ words, box }, k) => {
        const before = labels[k];
        const level = Math.abs(box.top - before.box.top) < 2;
        const gap = box.left - before.box.right;
        if (level && gap < 3) complaints.push(`"${before.words}" runs into "${words}"`);
      });
    }
  }
  return complaints;
}"""

# Thumbs that don't stand above their slider's rule, at up to so many values of each.
UNALIGNED = f"""async (count) => {{
  {UNTIL}
  const complaints = [];
  for (const input of document.querySelectorAll("input[data-aligned]")) {{
    const root = input.closest(".kv-chart");
    const before = input.value;
    const rest = () => until(10000, () => root.getAttribute("aria-busy") !== "true");
    const move = async (value) => {{
      input.value = value;
      input.dispatchEvent(new Event("input", {{ bubbles: true }}));
      input.dispatchEvent(new Event("change", {{ bubbles: true }}));
      await rest();
    }};
    const rem = parseFloat(getComputedStyle(document.documentElement).fontSize);
    const thumb = rem * parseFloat(getComputedStyle(input).getPropertyValue("--kv-thumb"));
    await rest();
    for (let k = 0; k < count; k++) {{
      const [min, max] = [Number(input.min), Number(input.max)];
      await move(min + ((max - min) * k) / (count - 1));
      const rules = root.querySelectorAll(`.${{CSS.escape(input.name)}}_rule_marks > *`);
      if (rules.length !== 1) continue;
      const rule = rules[0].getBoundingClientRect();
      const track = input.getBoundingClientRect();
      const part = (Number(input.value) - min) / (max - min);
      const above = track.left + thumb / 2 + part * (track.width - thumb);
      const off = above - (rule.left + rule.width / 2);
      if (Math.abs(off) > 2) {{
        const where = `${{root.ariaLabel}}: ${{input.name}} at ${{input.ariaValueText}}`;
        complaints.push(`${{where}}: ${{off.toFixed(1)}} px`);
      }}
    }}
    await move(before);
  }}
  return complaints;
}}"""

UNTYPESET = """async () => {
  const formulas = Array.from(document.querySelectorAll(".math"));
  if (!formulas.length) return [];
  if (!window.MathJax?.startup?.promise) return ["a page with formulas, but without MathJax"];
  await MathJax.startup.promise;
  await document.fonts.ready;
  const raw = formulas.filter((formula) => !formula.querySelector("mjx-container"));
  const wrong = formulas.filter((formula) => formula.querySelector("mjx-merror"));
  const fonts = Array.from(document.fonts).filter((font) => font.family.startsWith("MJX"));
  return [
    ...raw.map((formula) => `not typeset: ${formula.textContent}`),
    ...wrong.map((formula) => `not understood: ${formula.textContent}`),
    ...(fonts.some((font) => font.status === "loaded") ? [] : ["no MathJax font was loaded"]),
  ];
}"""


@dataclass
class Visit:
    """An open page, with all that went wrong on it so far."""

    page: Page
    complaints: list[str] = field(default_factory=list)


@contextmanager
def visit(
    browser: Browser,
    url: str,
    root: str,
    width: int = 1280,
    dark: bool = False,
    leads_to: str | None = None,
    folded: bool = False,
) -> Iterator[Visit]:
    """Opens a page and listens: console, errors, failed requests, requests that leave ``root``.

    Its folds are opened, unless it is to be seen as it is first: ``folded``.
    """
    scheme = "dark" if dark else "light"
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    seen = Visit(page)

    def on_console(message) -> None:
        if message.type in ("error", "warning"):
            seen.complaints.append(f"console {message.type}: {message.text} {message.location}")

    def on_request(request) -> None:
        if not request.url.startswith((root, "data:", "blob:")):
            seen.complaints.append(f"request outside the book: {request.url}")

    def on_response(response) -> None:
        if response.status >= 400:
            seen.complaints.append(f"status {response.status}: {response.url}")

    page.on("console", on_console)
    page.on("pageerror", lambda error: seen.complaints.append(f"script error: {error}"))
    page.on("request", on_request)
    page.on("requestfailed", lambda request: seen.complaints.append(f"failed: {request.url}"))
    page.on("response", on_response)
    page.goto(url)
    page.wait_for_url(leads_to or url)
    page.evaluate("window.MathJax?.startup?.promise?.then(() => true)")
    if not folded:
        page.evaluate(UNFOLD)
    yield seen
    context.close()


def until(page: Page, condition: str, argument: object = None) -> None:
    """Waits until a JavaScript function of one argument says yes; fails with its text."""
    page.wait_for_function(condition, arg=argument, timeout=PATIENCE)


def still(page: Page) -> None:
    """Waits until no picture is being drawn or brought up to date."""
    until(page, "() => !document.querySelector('[aria-busy=true]')")


def lasting(page: Page, check: str) -> list[str]:
    """The complaints of a check that don't go away while the page comes to rest."""
    try:
        until(page, f"() => !({check})().length")
    except TimeoutError:
        return page.evaluate(check)
    return []


def at_link(page: Page, link: str) -> None:
    """Waits until the address of the page ends with a link."""
    until(page, "link => decodeURI(location.href).endsWith(decodeURI(link))", link)


def draw(explorer: ElementHandle) -> list[str]:
    """Brings an explorer into view; complains when it draws no marks. A passage is words alone."""
    explorer.scroll_into_view_if_needed()
    if not (picture := explorer.query_selector(".kv-picture")) or explorer.evaluate(DRAWN):
        return []
    return [f"{explorer.get_attribute('aria-label')}: nothing drawn ({picture.inner_text()!r})"]


def draw_all(page: Page) -> list[str]:
    """Brings every explorer into view; complains about those that draw no marks."""
    return [
        complaint for chart in page.query_selector_all(".kv-chart") for complaint in draw(chart)
    ]


def dead_controls(page: Page) -> list[str]:
    """Moves every control of every explorer; complains when picture or sentence stays as it was."""
    complaints = draw_all(page)
    for chart in page.query_selector_all(".kv-chart"):
        for control in chart.query_selector_all("input, select"):
            name = control.get_attribute("name")
            for move, action in moves_of(control):
                before = chart.evaluate(STATE)
                action()
                unmoved = chart.evaluate(CHANGED, before)
                complaints += [f"{name}: {move} leaves the {part} as it was" for part in unmoved]
                if unmoved:
                    break  # one complaint a control says enough
    return complaints


def moves_of(control: ElementHandle) -> Iterator[tuple[str, Callable]]:
    """Ways to move a control: each option of a drop-down; a slider's far left, then arrow keys."""
    if control.evaluate("control => control.tagName") == "SELECT":
        chosen = control.evaluate("select => select.selectedIndex")
        options = control.query_selector_all("option")
        for i, option in enumerate(options):
            if i != chosen:
                label = option.inner_text()
                yield f"choosing {label}", lambda label=label: control.select_option(label=label)
    else:
        yield "moving to the left end", lambda: control.evaluate(TO_THE_LEFT)
        for key in ("ArrowRight", "ArrowUp", "ArrowLeft"):
            yield f"pressing {key}", lambda key=key: control.press(key)


# All that an explorer says, its sliders together at their ends and alone, under each choice.
EXTREMES = f"""async root => {{
  {UNTIL}
  const heard = new Set();
  const inputs = Array.from(root.querySelectorAll("input[type=range]"));
  const selects = Array.from(root.querySelectorAll("select"));
  const first = inputs.map((input) => input.value);
  const fire = (control, kind) => control.dispatchEvent(new Event(kind, {{ bubbles: true }}));
  const hear = async () => {{
    await until(10000, () => root.getAttribute("aria-busy") !== "true");
    heard.add(root.querySelector(".kv-reading")?.textContent ?? "");
    for (const value of root.querySelectorAll(".kv-value")) heard.add(value.textContent);
  }};
  const move = (input, value) => {{
    input.value = value;
    fire(input, "input");
  }};
  const walk = async () => {{
    await hear();
    for (const end of ["min", "max"]) {{
      for (const input of inputs) move(input, input[end]);
      await hear();
      inputs.forEach((input, i) => move(input, first[i]));
      if (inputs.length < 2) continue;
      for (const [i, input] of inputs.entries()) {{
        move(input, input[end]);
        await hear();
        move(input, first[i]);
      }}
    }}
  }};
  await walk();
  for (const select of selects) {{
    const before = select.selectedIndex;
    for (let i = 0; i < select.options.length; i++) {{
      if (i === before) continue;
      select.selectedIndex = i;
      fire(select, "change");
      await walk();
    }}
    select.selectedIndex = before;
    fire(select, "change");
  }}
  return Array.from(heard);
}}"""

UNITS = "tokens|symbols|entries|nats|bits|numbers|words|times|documents|cards|bytes|steps|rounds"
FORBIDDEN = {
    "one of many": re.compile(rf"(?<![\d.,])1 (?:{UNITS})\b"),
    "an exponent": re.compile(r"\de[-−+]?\d"),
    "nothing": re.compile(r"(?<![\d.,])0%|(?<![\w.,])[-−]0(?![.\d])"),
    "more than anyone reads": re.compile(r"\d{1,3}(?:,\d{3}){3,}"),
    "no number": re.compile(r"\bNaN\b|\bundefined\b|\bnull\b|\bInfinity\b|\bnan\b"),
    "digits in a row": re.compile(r"(?<![\d.,])(?!20\d\d\b)\d{4,}"),
}


BAND = re.compile(r"95% (?:band|interval)")
WHOSE = re.compile(r"\b(?:means?|over|of)\b")  # a mean's, over documents, of an exponent


def unsaid(texts: list[str]) -> list[str]:
    """Texts that name a band and don't say of what: it is no range of observations."""
    return [text for text in texts if BAND.search(text) and not WHOSE.search(text)]


def odd(texts: list[str]) -> list[str]:
    """Complaints about texts that hold a forbidden form."""
    return [
        f"{what}: {text}" for text in texts for what, form in FORBIDDEN.items() if form.search(text)
    ]


def tool(root: ElementHandle, text: str) -> ElementHandle | None:
    """One of the tools under an explorer."""
    return root.query_selector(f".kv-tools :is(button, a):has-text('{text}')")


def serious(page: Page, options: dict = WHOLE) -> list[str]:
    """What axe-core finds that would stop a reader."""
    return [
        f"{item['id']}: {node['html']}"
        for item in Axe().run(page, options=options).response["violations"]
        if item["impact"] in ("serious", "critical")
        for node in item["nodes"]
    ]
