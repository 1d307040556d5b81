"""A table or a plan as one page for a browser without a network, and a plan as plain text."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from kvlib import __version__, store
from kvlib.charts import offline, own
from kvlib.charts.controls import Explorer
from kvlib.names import name_of, written
from kvlib.plan import show, terminal, translate
from kvlib.plan.result import Plan, Tried
from kvlib.plan.show import TITLES, Shown, allowed, amount, digits, entries

GRID = [round(m * 10.0**k, 6) for k in (-3, -2, -1) for m in (1, 1.5, 2, 3, 5, 7)] + [1.0]
LOSS = {"kl": "KL divergence", "tv": "total variation", "top1": "changed first guesses"}
WHAT = {
    "kl": "how far the next-token law is from the one with everything kept, in nats",
    "tv": "how far the next-token law is from the one with everything kept, from 0 to 1",
    "top1": "the share of tokens whose likeliest next token is another than with everything kept",
}


def write(path: Path, text: str) -> None:
    """Write a page in one piece, over what stood there."""
    store.write_atomically(path, lambda file: file.write_text(text, encoding="utf-8"))


# --- a table --------------------------------------------------------------------------------------


def of_table(of: Shown, epsilon: float | None = None, metric: str = "kl") -> str:
    """The page of a table: sentences, explorers, settings to paste, all figures."""
    epsilon = show.EPSILONS[metric] if epsilon is None else epsilon
    best = show.budget(of, epsilon, metric)
    rows, metrics = point_rows(of), {key: LOSS[key] for key in of.metrics}
    metrics = {metric: metrics[metric]} | metrics  # what was asked for comes up first
    window = of.kind == show.TRUNCATION
    first = "" if best is None else best.series.title(of.several)
    size = ("Window kept", "tokens", "window kept (tokens)")
    size = size if window else ("Budget", "entries", "budget (entries a query sees)")
    title = f"What {of.model} may forget of {of.corpus}"
    answer = [show.advice(of, epsilon, metric), show.heavy(of, best)]
    parts: list[str | Explorer] = [
        f"<h1>{_text(title)}</h1>",
        _paragraph(show.header(of), "kv-lead"),
        _answer(answer, best is not None and best.vouched),
        "<h2>How much is lost</h2>",
        *(_paragraph(line) for line in show.about(of, metric)),
        own.curve(rows, metrics, size, first),
        "<h2>What to keep</h2>",
        own.keeping(rows, answers(of), metrics, size[2], _near(epsilon), first),
    ]
    if best is not None:
        found = show.settings(of, best)
        parts += ["<h2>To paste</h2>", _settings(found)]
    parts += ["<h2>All figures</h2>", _figures(of), "<h2>How far to trust this</h2>"]
    parts += [_list(_limits(of)), _footer(f"table {of.name}")]
    return offline.page(title, parts)


def point_rows(of: Shown) -> pd.DataFrame:
    """What the explorers of a table draw, a row a policy, metric and size."""
    rows = []
    for one in of.series:
        for point in one.points:
            law = _law_at(of, point) if one.metric == "kl" else None
            rows.append(
                {"series": one.title(of.several), "metric": one.metric, "size": point.size}
                | {"mean": point.mean, "low": point.low, "high": point.high, "fit": law}
                | {"sentence": show.reading(of, one, point)}
            )
    table = pd.DataFrame(rows)
    return table.astype({name: float for name in ("mean", "low", "high", "fit")})


def _law_at(of: Shown, point: show.Point) -> float | None:
    """The fitted law in the middle of a point's windows."""
    if of.decay is None or point.first < show.FROM:
        return None
    return of.decay.value((point.first * point.size) ** 0.5)


def answers(of: Shown) -> pd.DataFrame:
    """What to keep of each policy for each ε, a row each."""
    rows = []
    for one in of.series:
        for epsilon in GRID:
            if one.metric != "kl" and epsilon >= 1:
                said = "All that can be lost is allowed: nothing need be kept."
                best = None
            else:
                alone = of._replace(series=(one,))
                best = show.budget(alone, epsilon, one.metric)
                said = show.advice(alone, epsilon, one.metric)
                said = " ".join(part for part in (said, show.heavy(of, best)) if part)
            rows.append(
                {"series": one.title(of.several), "metric": one.metric, "epsilon": epsilon}
                | {"least": None if best is None else best.point.size, "sentence": said}
            )
    return pd.DataFrame(rows).astype({"least": float})


def _near(epsilon: float) -> float:
    """The value of the slider that is nearest."""
    return min(GRID, key=lambda value: abs(value / epsilon - 1))


def _figures(of: Shown) -> str:
    """Every mean with its interval, folded away."""
    head = ("", "loss", "tokens" if of.kind == show.TRUNCATION else "entries", "mean", "95% from")
    lines = []
    for one in of.series:
        for point in one.points:
            size = show.windows(point).rpartition(" ")[0]
            size = size if of.kind == show.TRUNCATION else f"{point.size:,}"
            ends = ["" if end is None else digits(end) for end in (point.low, point.high)]
            cells = (one.title(of.several), LOSS[one.metric], size, digits(point.mean), *ends)
            lines.append((*cells, str(point.documents)))
    table = _table((*head, "to", "documents"), lines, numbers=(2, 3, 4, 5, 6))
    return f"<details><summary>{len(lines)} means</summary>{table}</details>"


def _limits(of: Shown) -> list[str]:
    """What a table does not say."""
    said = [
        f"Losses are means over {show.documents(of.documents)} of this text: "
        + "; ".join(f"{LOSS[key]} is {WHAT[key]}" for key in of.metrics)
        + ".",
        "An interval is over documents, not over tokens, which are not independent."
        if of.documents >= show.ENOUGH
        else "With fewer than three documents there is no interval.",
        "A budget was chosen and judged on the same documents. `kvlib plan` certifies one on "
        "documents that no choice has seen.",
        "Single tokens lose more than the mean; other texts and longer ones may as well.",
    ]
    if of.kind == show.TRUNCATION:
        said.append(
            "Each window is read anew, with nothing in front. A cache that has read the rest and "
            "dropped it loses something else: `kvlib distort` measures that."
        )
    return said


# --- a plan ---------------------------------------------------------------------------------------


class Sizes(NamedTuple):
    """For whom a plan is translated: what the model's cache holds, and how it is run."""

    held: translate.Held | None = None
    dtype: str = "bfloat16"
    batch: int = 1
    context: int = 0


def headline(plan: Plan) -> str:
    """The plan in a sentence."""
    texts = _texts(plan)
    rule = f"{name_of(plan.policy)}, {plan.protocol}"
    sure = f"{_confidence(plan)} confidence"
    if plan.certified and plan.budget is not None:
        return (
            f"Keep {entries(plan.budget)} ({rule}): with {sure} {_model(plan)} on {texts} loses at "
            f"most {amount(plan.bound, plan.metric)} on average{_capped(plan)}, within "
            f"{allowed(plan.epsilon, plan.metric)}."
        )
    more = plan.documents_that_would_do
    would = f" About {more:,} documents in all would do." if more else ""
    return (
        f"Not certified: no budget that was tried ({rule}) keeps {_model(plan)} on {texts} within "
        f"{allowed(plan.epsilon, plan.metric)} with {sure}. {_sentence(plan.reason)}{would}"
    )


def _confidence(plan: Plan) -> str:
    """In percent, never rounded up to all of it."""
    return f"{100 * plan.confidence:.12g}%"


def _capped(plan: Plan) -> str:
    """What the bound leaves out: a document above the cap, seen or not. Empty where there is no
    cap."""
    if plan.clipped is None:
        return ""
    return f", where a document counts as {written(f'{plan.clipped.cap_nats:.3g}')} nats at most"


def findings(plan: Plan) -> list[str]:
    """The other sentences of a plan, in their order."""
    held_back = show.documents(plan.documents.certification)
    said = [
        f"Measured there: {amount(plan.measured, plan.metric)} on {held_back} of "
        f"{show.tokens(plan.documents.tokens)} that no choice had seen; chosen on "
        f"{plan.documents.measured} others."
    ]
    following = plan.next_document
    if following.budget is not None:
        said.append(
            f"The next document: at {entries(following.budget)} its expected loss is at most "
            f"{amount(following.bound, plan.metric)}. That is a mean over all draws of documents, "
            "without the confidence of the certificate."
        )
    if plan.clipped is not None:
        cap = plan.clipped
        above = f"{digits(100 * cap.share)}%" if cap.share else "none"
        said.append(
            "KL has no largest value: for the bound a document counts as "
            f"{written(f'{cap.cap_nats:.3g}')} nats at most; "
            f"{above} of them were above, at most "
            f"{digits(100 * cap.share_bound)}% of all."
        )
    if (law := plan.law) is not None:
        foretold = "" if law.budget is None else f"; the law predicted {entries(law.budget)}"
        falls = "The loss falls with exponent" if law.low > 0 else "No exponent can be told:"
        said.append(
            f"{falls} {digits(law.exponent)} (95% interval {digits(law.low)} to "
            f"{digits(law.high)}){foretold}."
        )
    if tails := _tails(plan):
        of = "documents" if plan.metric == "top1" else "tokens"  # a guess is changed or not
        said.append(f"Single {of}: {tails}.")
    return said


def _tails(plan: Plan) -> str:
    """Quantiles of single losses, in words."""
    unit = {"kl": " nats", "top1": "%"}.get(plan.metric, "")
    found = []
    for quantile, value in plan.tails.items():
        share = float(quantile)
        most = digits(_percent(value, plan.metric))
        name = "the worst" if share == 1 else f"{digits(100 * share)}% lose"
        at_most = " at most" * (share < 1 and not most.startswith("less"))
        found.append(f"{name}{at_most} {most}{unit}")
    return ", ".join(found)


def weighed(plan: Plan, sizes: Sizes) -> translate.Weights | None:
    """What the plan's budget weighs; None without a budget or a model's config."""
    if plan.budget is None or sizes.held is None:
        return None
    return translate.weights(sizes.held, plan.budget, sizes.dtype, sizes.batch, sizes.context)


def plan_text(plan: Plan, sizes: Sizes | None = None) -> str:
    """A plan for a terminal: sentences, a chart of the budgets tried, settings to paste."""
    sizes = sizes or Sizes()
    weight = weighed(plan, sizes)
    said = [headline(plan), *findings(plan), *([weight.sentence()] if weight else [])]
    blocks = ["\n".join(show.wrapped(line) for line in said), _plan_chart(plan)]
    if plan.budget is not None:
        found = translate.settings(plan.policy, plan.budget, sizes.held, plan.protocol)
        blocks.append(settings_text(found))
    blocks.append(show.wrapped(f"Assumed: {_sentence(plan.assumption)}"))
    return "\n\n".join(block for block in blocks if block)


def _plan_chart(plan: Plan) -> str:
    """The budgets tried: means as `*`, upper bounds as `T` on a line of colons."""
    tried = [(one.budget, one.mean, one.mean, one.bound) for one in plan.proposed]
    bounds = [(one.budget, one.bound, None, None) for one in plan.proposed]
    lines = [terminal.Line("*", tried), terminal.Line("T", bounds)]
    picture = terminal.chart(
        lines, "budget (entries a query sees)", TITLES[plan.metric], plan.epsilon
    )
    key = f"*  mean   T  upper bound   - -  {allowed(plan.epsilon, plan.metric)}"
    return f"{picture}\n{'':9}{key}" if picture else ""


def settings_text(found: Sequence[translate.Setting]) -> str:
    """Settings of all engines as plain text."""
    return "\n".join(_pasted(one) for one in translate.joined(found))


def weighed_text(weight: translate.Weights, held: translate.Held) -> str:
    """What a budget weighs, in lines."""
    latent = _latent(weight, held)
    return "\n".join(show.wrapped(line) for line in (weight.sentence(), latent) if line)


def _latent(weight: translate.Weights, held: translate.Held) -> str:
    """What engines need that hold a latent vector alone; empty where there is none."""
    if not held.latent:
        return ""
    engine = held.bytes(weight.context, weight.dtype, ours=False)
    return (
        f"An engine that holds the latent vector alone needs {translate.weight(engine)} for the "
        "full cache."
    )


def _pasted(one: translate.Setting) -> str:
    """A setting as plain text: what to paste, and below it what differs."""
    lines = [f"{one.engine}", *(f"    {line}" for line in one.lines.splitlines())]
    lines += [f"  {line}" for line in show.wrapped(one.differs, 75).splitlines()]
    return "\n".join(lines)


def of_plan(plan: Plan, sizes: Sizes | None = None) -> str:
    """The page of a plan: its budget, a slider over those tried, what they weigh, assumptions."""
    sizes = sizes or Sizes()
    weight = weighed(plan, sizes)
    budget = f"{plan.budget:,} entries" if plan.budget is not None else "No budget certified"
    title = f"{budget}: {_model(plan)} on {_texts(plan)}"
    answer = [headline(plan), *([weight.sentence()] if weight else [])]
    parts: list[str | Explorer] = [
        f"<h1>{_text(title)}</h1>",
        _answer(answer, plan.certified),
        *(_paragraph(line) for line in findings(plan)),
    ]
    if plan.proposed:
        parts += ["<h2>The budgets that were tried</h2>", _explored(plan, sizes), _tried(plan)]
    if sizes.held is not None:
        parts += ["<h2>What they weigh</h2>", _weights(plan, sizes)]
    if plan.budget is not None:
        found = translate.settings(plan.policy, plan.budget, sizes.held, plan.protocol)
        parts += ["<h2>To paste</h2>", _settings(found)]
    parts += ["<h2>What this rests on</h2>", _list(_assumed(plan)), _footer(_model(plan))]
    return offline.page(title, parts)


def _explored(plan: Plan, sizes: Sizes) -> Explorer:
    """The slider over the budgets that were tried."""
    rows = pd.DataFrame(
        {"size": one.budget, "mean": one.mean, "bound": one.bound}
        | {"passed": _word(one), "sentence": _tried_sentence(plan, one, sizes)}
        for one in sorted(plan.proposed, key=lambda one: one.budget)
    )
    first = plan.budget if plan.budget is not None else int(rows["size"].max())
    return own.certified(rows, plan.epsilon, TITLES[plan.metric], first)


def _word(one: Tried) -> str:
    return "certified" if one.passed else "not certified"


def _tried_sentence(plan: Plan, one: Tried, sizes: Sizes) -> str:
    """What one budget came to."""
    said = (
        f"With {entries(one.budget)}: {amount(one.mean, plan.metric)} on "
        f"{show.documents(one.documents)}, and with {_confidence(plan)} confidence at "
        f"most {digits(_percent(one.bound, plan.metric))}{'%' if plan.metric == 'top1' else ''}: "
        f"{_word(one)} for {allowed(plan.epsilon, plan.metric)}."
    )
    if sizes.held is None:
        return said
    found = translate.weights(sizes.held, one.budget, sizes.dtype, sizes.batch, sizes.context)
    return f"{said} {translate.weight(found.sequence)} a sequence."


def _percent(value: float, metric: str) -> float:
    return 100 * value if metric == "top1" else value


def _tried(plan: Plan) -> str:
    """All budgets that were tried, in the order of the trials."""
    lines = [
        (f"{one.budget:,}", _word(one), digits(one.mean), digits(one.bound))
        + (_p_value(one.p_value), str(one.documents))
        for one in plan.proposed
    ]
    head = ("entries", "", "mean", "at most", "p value", "documents")
    return _table(head, lines, numbers=(0, 2, 3, 4, 5))


def _p_value(value: float) -> str:
    return "< 0.0001" if value < 1e-4 else digits(value)


def _weights(plan: Plan, sizes: Sizes) -> str:
    """Bytes of each budget that was tried, and of the full cache."""
    assert sizes.held is not None
    lines = []
    budgets = {one.budget for one in plan.proposed}
    budgets |= set() if plan.budget is None else {plan.budget}
    for budget in sorted(budgets):
        found = translate.weights(sizes.held, budget, sizes.dtype, sizes.batch, sizes.context)
        cells = [f"{budget:,}", translate.weight(found.sequence)]
        cells += [translate.weight(found.all)] if sizes.batch > 1 else []
        lines.append((*cells, f"{digits(100 * found.share)}%"))
    batch = (f"{sizes.batch} sequences",) if sizes.batch > 1 else ()
    whole = translate.weights(sizes.held, 1, sizes.dtype, sizes.batch, sizes.context)
    note = (
        f"Numbers in {sizes.dtype}; the full cache at {show.tokens(whole.context)} weighs "
        f"{translate.weight(whole.full)} a sequence."
    )
    note = f"{note} {_latent(whole, sizes.held)}".rstrip()
    head = ("entries", "a sequence", *batch, "of the full cache")
    return _table(head, lines, numbers=tuple(range(len(head)))) + _paragraph(note)


def _assumed(plan: Plan) -> list[str]:
    """Assumptions and limits."""
    return [
        _sentence(plan.assumption),
        f"The loss is {LOSS[plan.metric]}: {WHAT[plan.metric]}, averaged over a document.",
        f"Documents of {show.tokens(plan.documents.tokens)}, contexts up to "
        f"{show.tokens(plan.context)}: of longer ones this says nothing.",
        f"Measured by the rule {name_of(plan.policy)}, {plan.protocol}; engines that differ from "
        "it, as said above, are not what was certified.",
    ]


def _model(plan: Plan) -> str:
    return show.called(plan.model)


def _texts(plan: Plan) -> str:
    """The texts in a few words."""
    names = [show.called(text) for text in plan.texts]
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _sentence(text: str) -> str:
    """A text that begins and ends as a sentence does."""
    text = text.strip()
    text = f"{text[:1].upper()}{text[1:]}"
    return text if not text or text.endswith((".", "!", "?")) else f"{text}."


# --- pieces of HTML -------------------------------------------------------------------------------


def _text(text: str) -> str:
    """Plain text as HTML; what stands between two ticks is code."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", html.escape(text))


def _paragraph(text: str, kind: str = "") -> str:
    return f'<p class="{kind}">{_text(text)}</p>' if kind else f"<p>{_text(text)}</p>"


def _answer(lines: Sequence[str], good: bool) -> str:
    """What a reader came for, in a box; another colour where the answer is none."""
    inner = "".join(_paragraph(line) for line in lines if line)
    return f'<div class="kv-answer{"" if good else " kv-no"}">{inner}</div>'


def _list(lines: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{_text(line)}</li>" for line in lines) + "</ul>"


def _table(head: Sequence[str], lines: Sequence[Sequence[Any]], numbers: Sequence[int] = ()) -> str:
    """A table; columns of numbers to the right."""

    def row(cells: Sequence[Any], tag: str) -> str:
        made = [
            f'<{tag} class="{"kv-number" if k in numbers else "kv-name"}">{_text(str(cell))}'
            f"</{tag}>"
            for k, cell in enumerate(cells)
        ]
        return f"<tr>{''.join(made)}</tr>"

    body = "".join(row(line, "td") for line in lines)
    return (
        f'<div class="kv-wide" tabindex="0"><table><thead>{row(head, "th")}</thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _settings(found: Sequence[translate.Setting]) -> str:
    """Settings of each engine, and what differs there."""
    return "".join(
        f"<h3>{_text(one.engine)}</h3>"
        + (f'<pre tabindex="0">{_text(one.lines)}</pre>' if one.lines else "")
        + _paragraph(one.differs)
        for one in translate.joined(found)
    )


def _footer(what: str) -> str:
    return (
        f"<footer>kvlib {__version__}, {_text(what)}. Made to be read without a network.</footer>"
    )
