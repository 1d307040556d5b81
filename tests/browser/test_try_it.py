"""The model in the page against the library's: tokens, laws, policies, draws; and the page."""

from __future__ import annotations

import base64
import functools
import http.server
import random
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import kvbook
import numpy as np
import pytest
import torch
from book_checks import ROOT, WHOLE, Visit, serious, visit
from kvbook import pages

from kvlib.cache import policies, protocols
from kvlib.live import lab, try_it
from kvlib.measure.divergences import kl_divergence
from kvlib.measure.laws import log_laws
from kvlib.models import in_page

pytestmark = pytest.mark.browser

SCRIPTS = ("tokenizer", "laws", "cells", "model", "engine", "loader")
BARE = """<!doctype html><html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'self'"><title>bare</title>
{scripts}</head><body></body></html>"""
NATS = 1e-3
MOST_BYTES = 4_000_000
AXE = WHOLE | {"rules": {"color-contrast": {"enabled": False}}}  # colours are the book's own
LOAD = """async () => {
  const { about, bytes } = await kvTry.fetchModel(() => {});
  const work = kvTry.unpack(about, bytes);
  let step = work.next();
  while (!step.done) step = work.next();
  window.model = new kvTry.Model(about, step.value);
  window.tokenizer = new kvTry.Tokenizer(about.merges);
}"""
LAWS = """([ids, policy, budget, drawn]) => {
  const cache = kvTry.emptyCache(model, budget, policy, (t) => drawn[t]);
  const parts = [];
  for (let from = 0; from < ids.length; from += 5) {  // four rows at once, then one by itself
    parts.push(model.laws(model.forward(ids.slice(from, from + 5), from, cache)));
  }
  const texts = parts.map((part) => {
    const bytes = new Uint8Array(part.buffer);
    let text = "";
    for (let i = 0; i < bytes.length; i += 4096) {
      text += String.fromCharCode(...bytes.subarray(i, i + 4096));
    }
    return text;
  });
  return btoa(texts.join(""));
}"""


@pytest.fixture(scope="module")
def bare(browser, tmp_path_factory) -> Iterator[Visit]:
    """A page that is opened as a file and holds nothing but the model."""
    folder = tmp_path_factory.mktemp("bare")
    static = ROOT / "book" / "_static" / "try"
    for path in static.glob("*.js"):
        (folder / path.name).write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    (folder / "small-gpt2").mkdir()
    for name, text in in_page.scripts().items():
        (folder / "small-gpt2" / name).write_text(text, encoding="utf-8")
    tags = "".join(f'<script src="{name}.js"></script>' for name in SCRIPTS)
    page = folder / "bare.html"
    page.write_text(BARE.format(scripts=tags), encoding="utf-8")
    with visit(browser, page.as_uri(), folder.as_uri()) as seen:
        seen.page.evaluate(LOAD)
        yield seen
        assert seen.complaints == []


@pytest.fixture(scope="module")
def lm():
    """The library's model with the weights of the page, in double precision."""
    return in_page.load("float64")


def test_the_model_weighs_less_than_its_limit():
    static = ROOT / "book" / "_static" / "try"
    code = sum(path.stat().st_size for path in static.iterdir())
    weight = sum(len(text.encode()) for text in in_page.scripts().values())
    assert 0 < code + weight <= MOST_BYTES


def texts(tokenizer) -> list[str]:
    """What people paste, and many texts of letters that tokenizers stumble over."""
    rng = random.Random(0)
    pieces = [
        *("a", "Z", " ", "  ", "\n", "\t", "\r\n", "'s", "'ll", "'D", "7", "1234", "½", "Ⅷ", "²"),
        *(
            "é",
            "e\u0301",
            "ß",
            "漢字",
            "かな",
            "русский",
            "العربية",
            "🙂",
            "👩‍👩‍👧",
            "…",
            "—",
            "“",
            "_",
            "#",
        ),
        *(
            "\u00a0",
            "\u0085",
            "\u2028",
            "\u3000",
            "\ufeff",
            "\u200b",
            "\x00",
            "\x7f",
            "def f(x):",
            " the",
        ),
    ]
    drawn = ["".join(rng.choices(pieces, k=rng.randint(1, 24))) for _ in range(300)]
    return [lab.EXAMPLE, "", *pieces, *drawn]


def test_the_tokenizer_is_the_librarys(bare, lm):
    cases = texts(lm.tokenizer)
    expected = [lm.tokenizer(text, add_special_tokens=False)["input_ids"] for text in cases]
    got = bare.page.evaluate("texts => texts.map((text) => tokenizer.encode(text))", cases)
    wrong = [(t, a, b) for t, a, b in zip(cases, expected, got, strict=True) if a != b]
    assert wrong == []
    back = bare.page.evaluate("lists => lists.map((ids) => tokenizer.texts(ids).join(''))", got)
    assert back == cases


def laws_in_page(bare, ids, policy: str, budget: int, drawn) -> torch.Tensor:
    """Log-probabilities after each token, computed in the browser."""
    asked = [ids.tolist(), policy, budget, [int(place) for place in drawn]]
    raw = base64.b64decode(bare.page.evaluate(LAWS, asked))
    rows = np.frombuffer(raw, dtype=np.float32).reshape(len(ids), -1)
    return torch.from_numpy(rows.astype(np.float64))


def divergence(p: torch.Tensor, q: torch.Tensor) -> float:
    """The largest KL divergence between the rows of two tables of log-probabilities, in nats."""
    return float((p.exp() * (p - q)).sum(-1).abs().max())


@pytest.mark.parametrize("key", ["", "sinks", "sliding", "random", "h2o", "tova"])
def test_the_laws_are_those_of_the_library_online(bare, lm, key):
    budget = 8
    ids = torch.tensor(lm.tokenizer(lab.EXAMPLE, add_special_tokens=False)["input_ids"][:48])
    everywhere = np.arange(len(ids))
    full = protocols.FullPass(lm, ids, everywhere)
    hidden, drawn = full.states, np.zeros(len(ids))
    if key:
        rng, same = np.random.default_rng(budget), np.random.default_rng(budget)
        drawn = same.integers(budget, size=len(ids))
        hidden = protocols.run(full, policies.NAMED[key], "online", budget, rng, step=1)
    expected = log_laws(lm, hidden).double()
    got = laws_in_page(bare, ids, key, budget if key else len(ids), drawn)
    assert divergence(expected, got) < NATS
    if key:  # and the policy does something that the test could miss
        assert divergence(log_laws(lm, full.states).double(), expected) > 10 * NATS


def test_a_budget_that_is_too_small_is_refused(bare):
    tried = "try { kvTry.emptyCache(model, 4, 'sinks'); } catch (error) { return error.message; }"
    said = bare.page.evaluate(f"() => {{ {tried} }}")
    assert said == "budget: expected at least 5, got 4"


DRAWS = """([logs, temperature, numbers]) => {
  const law = Float32Array.from(logs);
  return numbers.map((at) => kvTry.draw(law, temperature, at));
}"""


@pytest.mark.parametrize("temperature", [0, 0.5, 1])
def test_a_token_is_drawn_where_its_share_of_the_line_lies(bare, temperature):
    rng = np.random.default_rng(0)
    law = rng.dirichlet(np.ones(50)).astype(np.float32)
    numbers = (np.arange(200) + 0.5) / 200
    sharpened = law.astype(float) ** (1 / temperature if temperature else 1)
    expected = np.searchsorted(np.cumsum(sharpened) / sharpened.sum(), numbers)
    if temperature == 0:
        expected = np.full(len(numbers), law.argmax())
    got = bare.page.evaluate(DRAWS, [np.log(law).tolist(), temperature, numbers.tolist()])
    assert np.mean(np.array(got) != expected) <= 0.01  # a number may lie on a border


def test_the_dice_are_even_and_the_same_for_the_same_seed(bare):
    dice = (
        "seed => { const next = kvTry.numbers(seed); return Array.from({ length: 2000 }, next); }"
    )
    first, again, other = (np.array(bare.page.evaluate(dice, seed)) for seed in (1, 1, 2))
    assert (first == again).all() and (first != other).any()
    counts = np.histogram(first, bins=10, range=(0, 1))[0]
    assert counts.sum() == 2000 and (np.abs(counts - 200) < 80).all()


# --- the page -------------------------------------------------------------------------------------

TOOLS = ("tools.js", "sliders.js")
TEXT = "Jacob boiled stew. Esau came in from the field. Esau said to Jacob, Feed me."
STAGE = ".kv-try-stage:not([hidden], [data-reading])"
READ = f"() => document.querySelector('{STAGE} .kv-try-summary:not(:empty)')"
SAYS = ".kv-try-says"
FRAMES = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
MODEL_PATIENCE = 120_000  # milliseconds; it reads a text in one or two where nothing else runs


def waits(page, condition: str, argument: object = None) -> None:
    """Waits until a function in the page says yes, for as long as a busy machine may take."""
    page.wait_for_function(condition, arg=argument, timeout=MODEL_PATIENCE)
    page.evaluate(FRAMES)  # what is drawn is drawn in the next one


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with one page in which the model runs, under the book's policy."""
    folder = tmp_path_factory.mktemp("place")
    shutil.copytree(ROOT / "book" / "_static" / "try", folder / "try")
    for name in ("book.css", *TOOLS):
        shutil.copy(ROOT / "book" / "_static" / name, folder)
    (folder / "try" / "small-gpt2").mkdir()
    for name, text in in_page.scripts().items():
        (folder / "try" / "small-gpt2" / name).write_text(text, encoding="utf-8")
    styles = "".join(f'<link rel="stylesheet" href="{f}">' for f in ("book.css", "try/try.css"))
    scripts = [*TOOLS, *(f"try/{name}.js" for name in kvbook.TRY)]
    tags = "".join(f'<script src="{name}" defer></script>' for name in scripts)
    policy = f'<meta http-equiv="Content-Security-Policy" content="{pages.POLICY}">'
    view = '<meta name="viewport" content="width=device-width, initial-scale=1">'
    head = (
        f'<meta charset="utf-8">{view}{policy}<title>place</title><link rel="icon" href="data:,">'
    )
    texts = [{"title": "stew", "text": TEXT}]
    small = try_it.TryIt([{"title": "long", "text": 6 * TEXT}], 4.0, compact=True, ask=True)
    for name, here in (("index", try_it.TryIt(texts, 4.0)), ("small", small)):
        (folder / f"{name}.html").write_text(
            f'<!doctype html><html lang="en"><head>{head}{styles}{tags}</head>'
            f"<body><main><h1>A place</h1>{here.to_html()}</main></body></html>",
            encoding="utf-8",
        )
    return folder


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files and writes no log."""

    def log_message(self, *args: object) -> None:
        """Says nothing."""


@pytest.fixture(scope="module", params=["http", "file"])
def opened(request, browser, place) -> Iterator[Visit]:
    """The page from a server, where a worker computes, and as a file, where none can."""
    handler = functools.partial(Quiet, directory=str(place))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        served = f"http://127.0.0.1:{server.server_port}"
        root = served if request.param == "http" else place.as_uri()
        with visit(browser, f"{root}/index.html", root) as seen:
            waits(seen.page, READ)
            assert len(seen.page.workers) == (request.param == "http")
            yield seen
            assert seen.complaints == []
        server.shutdown()


def choose(page, policy: str) -> None:
    """Chooses a policy, and waits until the text has been read again."""
    page.locator("[name=policy]").select_option(policy)
    waits(page, READ)


def test_it_reads_draws_and_says_what_it_lost(opened):
    page = opened.page
    drawn = "canvas => canvas.toDataURL()"
    choose(page, "sliding")
    before = page.inner_text(".kv-try-summary"), page.locator("canvas").evaluate(drawn)
    assert "nats" in before[0] and "entries" in page.inner_text(SAYS)
    slider = page.locator("[name=budget]")
    slider.fill("0")
    waits(page, "text => document.querySelector('.kv-try-summary').textContent !== text", before[0])
    waits(page, READ)
    assert slider.get_attribute("aria-valuetext") == "6 entries"
    waits(page, "old => document.querySelector('canvas').toDataURL() !== old", before[1])
    assert "6 of" in page.inner_text(SAYS)
    states = page.locator(".kv-try-words .kv-try-cell").evaluate_all(
        "cells => cells.map((c) => c.dataset.state)"
    )
    assert {"gone", "recent", "now"} <= set(states)


def test_the_loss_it_tells_is_the_librarys(opened, lm):
    page = opened.page
    page.locator("[name=budget]").fill("1")
    choose(page, "sinks")
    waits(page, "() => document.querySelector('.kv-try-says').textContent.includes(' 8 of ')")
    waits(page, READ)
    ids = torch.tensor(lm.tokenizer(TEXT, add_special_tokens=False)["input_ids"])
    full = protocols.FullPass(lm, ids, np.arange(len(ids)))
    hidden = protocols.run(full, policies.NAMED["sinks"], "online", 8, np.random.default_rng(0))
    kl = kl_divergence(log_laws(lm, full.states), log_laws(lm, hidden))[:-1]
    assert f"on average {kl.mean():.2g} nats" in page.inner_text(".kv-try-summary")
    assert f"is {kl.max():.2g} nats" in page.inner_text(SAYS)  # it looks where most is lost


def test_arrow_keys_step_through_words_and_evictions(opened):
    page = opened.page
    scrubber = page.locator("[name=step]")
    waits(page, READ)
    scrubber.press("Home")
    waits(
        page, "s => s.getAttribute('aria-valuetext').startsWith('1 of ')", scrubber.element_handle()
    )
    before = page.inner_text(SAYS)
    scrubber.press("ArrowRight")
    waits(page, "text => document.querySelector('.kv-try-says').textContent !== text", before)
    page.locator(".kv-try-words [tabindex='0']").focus()
    page.keyboard.press("ArrowRight")
    selected = ".kv-try-words [aria-selected=true]"
    waits(page, "s => document.querySelector(s) === document.activeElement", selected)
    assert len(page.locator(".kv-try-lists li").all()) == 16


def test_both_write_on_and_the_full_cache_writes_what_the_library_does(opened, lm):
    page = opened.page
    page.locator("[name=temperature]").select_option("0")
    page.get_by_role("button", name="Let both write on").click()
    waits(page, "() => !document.querySelector('.kv-try-go').disabled")
    ids = torch.tensor([lm.tokenizer(TEXT, add_special_tokens=False)["input_ids"]])
    with torch.inference_mode():
        whole = lm.model.generate(ids, max_new_tokens=48, do_sample=False, pad_token_id=0)
    expected = lm.tokenizer.decode(whole[0, ids.shape[1] :])
    full, bounded = (side.inner_text().split() for side in page.locator(".kv-try-wrote").all())
    assert " ".join(full).endswith(" ".join(expected.replace("\n", " ⏎ ").split()))
    assert bounded != full


def test_a_text_of_ones_own_is_read_and_too_short_a_one_asks_for_more(opened):
    page = opened.page
    page.locator("[name=text]").select_option("own")
    own = page.locator("[name=own]")
    own.fill("<img src=x> & Esau, Esau, Esau")
    waits(page, "() => document.querySelector('.kv-try-words').textContent.includes('<img')")
    waits(page, READ)
    own.fill("I")
    waits(page, "() => document.querySelector('.kv-try-says').textContent.startsWith('Type a few')")
    own.fill(TEXT)
    waits(page, "() => document.querySelector('.kv-try-says').textContent.includes('After')")
    waits(page, READ)
    assert serious(page, AXE) == []


def test_a_link_holds_every_setting_and_the_data_can_be_taken_along(opened):
    page = opened.page
    page.locator("[name=text]").select_option("0")
    waits(page, READ)
    tools = {
        name: page.locator(f".kv-tools :text-is('{name}')") for name in ("Reset", "CSV", "Data")
    }
    tools["Reset"].click()
    page.mouse.move(0, 0)  # or it points at the word that comes to lie under it
    waits(page, READ)
    first = page.inner_text(SAYS)
    choose(page, "tova")
    page.locator("[name=measure]").select_option("tv")
    page.locator("[name=step]").press("Home")
    waits(page, "() => document.querySelector('[name=step]').ariaValueText.startsWith('1 of ')")
    link = page.locator(".kv-tools a").get_attribute("href")
    assert {"policy=tova", "measure=tv", "step=1"} <= set(link.partition(":")[2].split("&"))
    said = page.inner_text(SAYS)
    tools["Reset"].click()
    page.mouse.move(0, 0)
    waits(page, READ)
    waits(page, f"text => document.querySelector('{SAYS}').textContent === text", first)
    page.evaluate("link => { location.hash = link; }", link)
    waits(page, f"text => document.querySelector('{SAYS}').textContent === text", said)
    assert page.locator("[name=policy]").input_value() == "tova"
    with page.expect_download() as download:
        tools["CSV"].click()
    head, *lines = Path(download.value.path()).read_text(encoding="utf-8").splitlines()
    assert head.startswith("position,token,policy,budget (entries),kl (nats),tv,share_full")
    assert len(lines) == len(page.locator(".kv-try-words .kv-try-cell").all()) - 1
    tools["Data"].click()
    assert "by the small GPT-2" in page.inner_text(".kv-table")
    tools["Data"].click()
    tools["Reset"].click()
    waits(page, READ)


def test_on_a_phone_it_waits_to_be_asked_and_what_a_tap_says_is_on_the_screen(browser, place):
    asked: list[str] = []
    context = browser.new_context(
        viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True
    )
    page = context.new_page()
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{place.as_uri()}/small.html")
    button = page.get_by_role("button", name="Load the model (4 MB)")
    button.wait_for()
    assert not any("small-gpt2" in url for url in asked)
    button.tap()
    waits(page, READ)
    assert any("small-gpt2" in url for url in asked)
    assert page.locator(".kv-try-writing, [name=layer]").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    word = page.locator(".kv-try-words .kv-try-cell").nth(30)
    word.evaluate("word => word.scrollIntoView({ block: 'center' })")
    word.tap()
    page.evaluate(FRAMES)
    assert word.get_attribute("aria-selected") == "true"
    for part in (SAYS, ".kv-try-lists"):
        box = page.locator(part).bounding_box()
        assert box["y"] > 0 and box["y"] + box["height"] <= 844
    context.close()


def test_a_piece_that_is_missing_is_said_on_the_page(browser, place, tmp_path):
    copy = shutil.copytree(place, tmp_path / "copy")
    (copy / "try" / "small-gpt2" / "piece-0.js").unlink()
    with visit(browser, (copy / "index.html").as_uri(), copy.as_uri()) as seen:
        said = seen.page.locator(".kv-try .kv-error")
        said.wait_for()
        assert said.inner_text() == "The model cannot run here: piece-0.js could not be loaded"
        assert any("piece-0.js" in complaint for complaint in seen.complaints)
