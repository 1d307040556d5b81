"""The verdicts of all pages together: for the front page, for the command line."""

from __future__ import annotations

import html
import json
import re
import textwrap
from pathlib import Path

from kvlib import store
from kvlib.claims import (
    block_markov,
    bounds,
    extrapolation,
    formulation,
    open_question,
    policies,
    positions,
    sensitivity,
    sink_recent,
    tracks,
)
from kvlib.claims.claim import WORDS, Claim, Figure, Verdict
from kvlib.names import name_of

PAGES = (  # in the order of their claims
    *(formulation, sensitivity, extrapolation, sink_recent, positions, bounds),
    *(open_question, block_markov, policies),
)
SLANTED, CODE = re.compile(r"\*([^*\n]+)\*"), re.compile("`([^`]+)`")
POWER = re.compile(r"\^\(([^)]*)\)")  # of a claim in plain text
WIDTH = 96  # characters a line, on the command line


def claims() -> tuple[Claim, ...]:
    """Every claim, in order."""
    return tuple(claim for page in PAGES for claim in page.CLAIMS)


def verdicts(folder: Path = store.DATA) -> list[Verdict]:
    """The verdict on every claim, in order; `to come` where there is no measurement yet."""
    return [verdict for page in PAGES for verdict in page.judge(folder)]


def to_html(items: list[Verdict]) -> str:
    """The verdicts of the front page: a table with a plain sentence and a bar a claim.

    What a verdict rests on is folded; each claim links to its page.
    """
    head = "<tr><th>Claim</th><th>The paper says, in our words; what we found</th><th>Verdict</th>"
    return (
        f'<table class="table kv-verdicts"><thead>{head}</tr></thead>'
        f"<tbody>{''.join(map(_row, items))}</tbody></table>"
    )


def tally(items: list[Verdict]) -> dict[str, int]:
    """Word → how many claims have it, in the order of WORDS; words that none has are left out."""
    given = [item.word for item in items]
    return {word: given.count(word) for word in WORDS if word in given}


def tally_html(items: list[Verdict]) -> str:
    """How many claims have which verdict, in a line."""
    counts = "\n".join(f"{_pill(word, f'{n} {word}')}" for word, n in tally(items).items())
    return f'<p class="kv-tally">Of the paper\'s {len(items)} claims: {counts}</p>'


def _pill(word: str, text: str) -> str:
    return f'<span class="kv-verdict kv-{word.replace(" ", "-")}">{text}</span>'


def _row(item: Verdict) -> str:
    page = f"../notebooks/{item.claim.page}.html"
    claim = POWER.sub(r"<sup>\1</sup>", html.escape(item.claim.text))
    said = html.escape(tracks.plain(item))
    plain = f'<p class="kv-plain">{said}</p>{tracks.bar(item)}' if said else ""
    return (
        f'<tr><td>{item.claim.id}</td><td><a href="{page}">{claim}</a>{plain}{_details(item)}</td>'
        f"<td>{_pill(item.word, item.word)}</td></tr>"
    )


def _details(item: Verdict) -> str:
    """What a verdict rests on, folded: its sentence, readings, rule and power."""
    readings = "; ".join(f"{_spoken(part)}: {word}" for part, word in item.readings.items())
    parts = {
        "Measured": item.sentence,
        "Readings": readings,
        "Rule": item.rule,
        "What would change our mind": item.power,
    }
    told = "".join(
        f'<p class="kv-figure"><b>{name}.</b> {_marked(text)}</p>'
        for name, text in parts.items()
        if text
    )
    return f"<details><summary>Figures and rule</summary>{told}</details>" if told else ""


def _spoken(part: str) -> str:
    """A reading's part as a sentence calls it: *re-encoded, KL*."""
    return ", ".join(map(name_of, part.split(", ")))


def _marked(text: str) -> str:
    """The text of a docstring in HTML: *words* slanted, `names` as code."""
    text = SLANTED.sub(r"<em>\1</em>", html.escape(text))
    return CODE.sub(r"<code>\1</code>", text)


def to_json(items: list[Verdict]) -> str:
    """All that the verdicts hold, as JSON."""
    held = [item.to_dict() for item in items]
    return json.dumps(held, ensure_ascii=False, indent=1, allow_nan=False)


def to_markdown(items: list[Verdict]) -> str:
    """Claim, verdict and sentence as a Markdown table, a line a claim; its figures are folded."""
    rows = [
        ("", "the paper, in our words", "verdict", "what we found"),
        ("---",) * 4,
        *((item.claim.id, item.claim.text, f"**{item.word}**", _found(item)) for item in items),
    ]
    return "\n".join(f"| {' | '.join(' '.join(cell.split()) for cell in row)} |" for row in rows)


def _found(item: Verdict) -> str:
    plain = tracks.plain(item)
    if not plain:
        return item.sentence
    return f"{plain} <details><summary>Figures</summary>{item.sentence}</details>"


def to_text(items: list[Verdict]) -> str:
    """All that the verdicts hold, for a terminal: a block a claim, a line a figure."""
    return "\n\n".join(map(_block, items))


def _wrapped(text: str) -> list[str]:
    """Lines of a paragraph, a word in one piece: *re-encoded*."""
    indent = {"initial_indent": "    ", "subsequent_indent": "    "}
    return textwrap.wrap(text, WIDTH, break_on_hyphens=False, **indent)


def _block(item: Verdict) -> str:
    lines = [f"{item.claim.id}  {item.word}"]
    for text in (item.claim.text, f"Rule: {item.rule}", item.sentence):
        lines += _wrapped(text)
    lines += [f"    {part}: {word}" for part, word in item.readings.items()]
    lines += _wrapped(item.power)
    return "\n".join([*lines, *(f"      {_line(figure)}" for figure in item.figures)])


def _line(figure: Figure) -> str:
    """A figure in a line: name, estimate [interval], n, and where it was measured."""
    number = "none" if figure.estimate is None else f"{figure.estimate:.3g}"
    if figure.low is not None and figure.high is not None:
        number += f" [{figure.low:.3g}, {figure.high:.3g}]"
    counted = f"n = {figure.n}" if figure.n else ""
    where = " on ".join(name_of(key) for key in (figure.model, figure.corpus) if key)
    budget = f"budget {figure.budget:,}" if figure.budget else ""
    parts = (counted, where, figure.distance, figure.protocol, name_of(figure.policy), budget)
    return f"{figure.name} = {number}; {'; '.join(filter(None, parts))}".removesuffix("; ")
