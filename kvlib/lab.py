"""The live bench: any text, any model, any cache policy; the next-token laws move with a slider.

`Lab` computes without a browser. `Bench` is its face in a live kernel: ipywidgets. `recorded` and
`curves` draw the same things as explorers, for a page with no kernel behind it.
"""

from __future__ import annotations

import html
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import altair as alt
import ipywidgets
import numpy as np
import pandas as pd
import torch

from kvlib import charts, controls, corpora, fit, masks, measure, models, policies, protocols, store
from kvlib.controls import Choice, Explorer, Slider
from kvlib.divergences import kl_divergence, total_variation

SUFFIX = "re-encoded suffix"
POLICIES = (SUFFIX, *policies.NAMED)
TOP = 10  # tokens of each law that are shown
LONGEST = 1024  # tokens that the bench reads at most: more makes a slider wait
KEPT = (1, 2, 3, *(m * 2**k for k in range(8) for m in (4, 5, 6, 7)))  # stops of the live slider
GUTTER = 1.08  # where the second column of bars begins, in widths of the first
OWN = "the text above"
COMPARED = "world-english-bible"  # the text of the stored curves beside a measured one
OPACITY = (alt.value(0.6), alt.value(0.25))  # of the full law's first guess, and of other tokens
SIDES = (("full", "everything read", "0,114,178"), ("kept", "what was kept", "213,94,0"))
ERROR = "<b>Not possible:</b> "
STATIC_NOTE = "This is where the live bench stands. It needs a kernel: run <code>make live</code>."
EXAMPLE = (  # Exodus 16:23-26, World English Bible
    "He said to them, \"This is that which Yahweh has spoken, 'Tomorrow is a solemn rest, a holy"
    " Sabbath to Yahweh. Bake that which you want to bake, and boil that which you want to boil;"
    ' and all that remains over lay up for yourselves to be kept until the morning." They laid it'
    " up until the morning, as Moses asked, and it didn't become foul, neither was there any worm"
    ' in it. Moses said, "Eat that today, for today is a Sabbath to Yahweh. Today you shall not'
    " find it in the field. Six days you shall gather it, but on the seventh"
)


@dataclass(frozen=True)
class Laws:
    """Two next-token laws side by side, the second from what a policy kept.

    `table` has TOP rows a side: `side` ("full" or "kept"), `rank`, `token` (its text), `share`
    (its probability), `first` (whether it is the full law's first guess).
    """

    table: pd.DataFrame
    kl_nats: float
    tv: float
    same_first: bool
    sentence: str


@dataclass(frozen=True)
class Progress:
    """How far a measurement is; `curve` comes with the last step."""

    done: int
    total: int
    seconds_left: float | None
    curve: pd.DataFrame | None = field(default=None, repr=False)


class Lab:
    """One model at a time, and what it makes of a text. Models stay loaded once used.

    `dtype` as in `models.load_model`. Every refusal is a ValueError or OSError of one line.
    """

    def __init__(
        self,
        model: str | models.LanguageModel = "small-gpt2",
        device: str = "auto",
        dtype: str = "auto",
    ) -> None:
        self.device, self.dtype = device, dtype
        self.loaded: dict[str, models.LanguageModel] = {}
        self._full: tuple[Any, Any] = (None, None)  # the last full pass, and what it was of
        self.use(model)

    def use(self, model: str | models.LanguageModel) -> None:
        """Take this model from now on: an embedded name, a local folder or a Hub id."""
        if isinstance(model, models.LanguageModel):
            self.loaded[model.name], model = model, model.name
        elif model not in self.loaded:
            self.loaded[model] = models.load_model(model, self.device, self.dtype)
        self.lm, self.model = self.loaded[model], model

    def ids(self, text: str) -> np.ndarray:
        """Token ids of a text, as many as the bench reads."""
        if not text.strip():
            raise ValueError("text: expected some words, got an empty text")
        ids = self.lm.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        room = getattr(self.lm.model.config, "max_position_embeddings", None) or LONGEST
        return np.asarray(ids[: min(LONGEST, room - len(self.lm.prefix_ids))], dtype=np.int64)

    def laws(
        self, text: str, position: int | None = None, policy: str = SUFFIX, budget: int = 16
    ) -> Laws:
        """The law of the token after the first `position` tokens (default: all), full and bounded.

        `policy` is one of POLICIES; `budget` counts entries, for the suffix tokens of text.
        """
        rule, protocol = setting(policy)
        rule.check(budget)
        ids = self.ids(text)
        position = len(ids) if position is None else position
        if not 1 <= position <= len(ids):
            raise ValueError(f"position: expected 1 to {len(ids)}, the text's, got {position}")
        ids = ids[:position]
        whole = budget >= position + (0 if protocol == "reencode" else len(self.lm.prefix_ids))
        full = self._full_pass(ids, (rule,) if protocol == "prefill" and not whole else ())
        log_p = self._law(full.states[-1:])
        log_q = self._law(self._bounded(full, ids, rule, protocol, budget, whole))
        return self._compare(log_p, log_q, f"{label(policy)}, {budget} kept", whole)

    def grid(self, text: str, names: Sequence[str], budgets: Sequence[int]) -> pd.DataFrame:
        """`laws` at the text's end for each policy and budget: what `recorded` draws."""
        parts = []
        for name in names:
            for budget in budgets:
                laws = self.laws(text, None, name, budget)
                numbers = dict(kl_nats=laws.kl_nats, tv=laws.tv, sentence=laws.sentence)
                parts.append(laws.table.assign(policy=label(name), budget=budget, **numbers))
        return pd.concat(parts, ignore_index=True)

    def measure(
        self, text: str, max_window: int = 32, documents: int = 6, name: str = "your text"
    ) -> Iterator[Progress]:
        """A small truncation-sensitivity curve, one step a stretch of text; refuses at once.

        `text` is a pinned corpus by name, or a text itself; `name` says what the curve was of.
        """
        if text in corpora.CORPORA:
            corpus = corpora.load_corpus(text)
            stretches = corpus.documents(self.lm.tokenizer, 4 * max_window, documents)
        else:
            stretches = self._stretches(text, max_window, documents)
        return self._steps(stretches, max_window, f"{charts.name_of(self.model)} on {name}")

    def widget(self, text: str = EXAMPLE) -> Bench:
        """The bench itself, for a live kernel."""
        return Bench(self, text)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        live = controls._kernel_is_live()
        bundle = self.widget()._repr_mimebundle_() if live else {"text/html": STATIC_NOTE}
        return bundle | {"text/plain": "The live bench"}

    def _stretches(self, text: str, max_window: int, documents: int) -> list[np.ndarray]:
        self.ids(text)  # refuses an empty one
        ids = self.lm.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        length = min(len(ids) // documents, 4 * max_window)
        if length < 2 * max_window:
            raise ValueError(
                f"text: expected {documents * 2 * max_window} tokens or more for windows up to "
                f"{max_window}, got {len(ids)}; paste more text or choose shorter windows"
            )
        return [np.asarray(ids[k * length : (k + 1) * length]) for k in range(documents)]

    def _steps(
        self, stretches: list[np.ndarray], max_window: int, source: str
    ) -> Iterator[Progress]:
        began, total, tables = time.monotonic(), len(stretches), []
        yield Progress(0, total, None)
        for done, stretch in enumerate(stretches, start=1):
            tables.append(measure.measure_document(self.lm, stretch, done - 1, max_window, 256))
            left = (time.monotonic() - began) / done * (total - done)
            rows = curve_rows(fit.curve(pd.concat(tables)), source) if done == total else None
            yield Progress(done, total, left, rows)

    def _full_pass(self, ids: np.ndarray, scored: tuple) -> protocols.FullPass:
        """The reference; kept until text, position or model change, so that sliders are quick."""
        key = (self.model, ids.tobytes(), scored)
        if self._full[0] != key:
            masks.check_masks(self.lm.model)
            whole, targets = torch.as_tensor(ids, device=self.lm.device), np.array([len(ids) - 1])
            self._full = (key, protocols.FullPass(self.lm, whole, targets, scored))
        return self._full[1]

    def _bounded(
        self, full: Any, ids: np.ndarray, rule: Any, protocol: str, budget: int, everything: bool
    ) -> torch.Tensor:
        """The last hidden state (1, width) after what the policy kept; draws as in `measure`."""
        lm, targets = self.lm, np.array([len(ids) - 1])
        whole = torch.as_tensor(ids, device=lm.device)
        rng = np.random.default_rng([0, 0, budget, *rule.name.encode()])
        if protocol == "reencode":
            return protocols.reencode_hidden(lm, whole, targets, rule, budget, rng)
        if protocol == "prefill":
            if everything:
                return full.states[-1:]
            return protocols.prefill_hidden(full, rule, budget, rng)
        if hasattr(rule, "survivors"):
            return protocols.online_hidden(full, rule, budget, rng)
        step = min(protocols.STEP, max(1, budget // 8))
        return protocols.decode_hidden(lm, whole, targets, rule, budget, rng, step)

    def _law(self, hidden: torch.Tensor) -> np.ndarray:
        """Log-probabilities (vocabulary,) of a last hidden state (1, width), as float64."""
        with torch.inference_mode():
            logits = self.lm.model.get_output_embeddings()(hidden)[0]
        return logits.double().log_softmax(-1).cpu().numpy()

    def _compare(self, log_p: np.ndarray, log_q: np.ndarray, what: str, whole: bool) -> Laws:
        kl, tv = float(kl_divergence(log_p, log_q)), float(total_variation(log_p, log_q))
        best, other = int(log_p.argmax()), int(log_q.argmax())
        rows = []
        for side, law in (("full", log_p), ("kept", log_q)):
            for rank, i in enumerate(np.argsort(-law, kind="stable")[:TOP], start=1):
                share = round(float(np.exp(law[i])), 4)
                rows.append((side, rank, self._token(i), share, bool(i == best)))
        first = f"first guess {self._token(best)}" + (
            " as before" if best == other else f" becomes {self._token(other)}"
        )
        sentence = f"{what}: {round(kl, 4):.3g} nats from the full law;\ntotal variation {tv:.2f}; "
        sentence += first + ("; the whole text fits, so nothing is lost." if whole else ".")
        table = pd.DataFrame(rows, columns=["side", "rank", "token", "share", "first"])
        return Laws(table, kl, tv, best == other, sentence)

    def _token(self, i: int) -> str:
        """A token's text, with its spaces and line ends made visible."""
        text = self.lm.tokenizer.decode([int(i)])
        return "“" + text.replace(" ", "·").replace("\n", "↵") + "”"


def setting(policy: str) -> tuple[policies.Policy, str]:
    """A policy by its name, and the protocol it is shown in: online where it has that."""
    if policy == SUFFIX:
        return policies.SlidingWindow(), "reencode"
    if policy not in policies.NAMED:
        raise ValueError(f"policy: expected one of {', '.join(POLICIES)}, got {policy!r}")
    rule = policies.NAMED[policy]
    return rule, "online" if "online" in rule.protocols else rule.protocols[0]


def label(policy: str) -> str:
    """How a policy is called in a list or a sentence."""
    rule, protocol = setting(policy)
    return SUFFIX if policy == SUFFIX else f"{rule.name} ({protocol})"


# --- on a page: tables in, explorers out ------------------------------------------------------


def recorded(grid: pd.DataFrame, budget: int) -> Explorer:
    """The laws of `Lab.grid` as bars side by side; policy and budget to choose."""
    table = grid.drop(columns=["kl_nats", "tv"])
    table["left"] = np.where(table["side"] == "full", 0, GUTTER)
    table["right"] = (table["left"] + table["share"]).round(4)
    table["percent"] = [f"{100 * share:.1f}%" for share in table["share"]]
    picked = "datum.policy == policy && datum.budget == budget"
    base = alt.Chart(table).transform_filter(picked)
    x = alt.X("left:Q", scale=alt.Scale(domain=[0, 1 + GUTTER], nice=False), axis=None)
    y = alt.Y("rank:O", axis=None)
    colour = alt.Color(
        "side:N", scale=alt.Scale(range=[charts.BLUE, charts.ORANGE]), sort=["full"], legend=None
    )
    bars = base.mark_bar().encode(
        x=x, x2="right:Q", y=y, color=colour, opacity=alt.condition("datum.first", *OPACITY)
    )
    words = base.mark_text(align="left", dx=6).encode(x=x, y=y, text="token:N")
    end = alt.X("end:Q", scale=alt.Scale(domain=[0, 1 + GUTTER], nice=False), axis=None)
    percents = base.transform_calculate(end="datum.left + 1").mark_text(align="right", dx=-4)
    percents = percents.encode(x=end, y=y, text="percent:N")
    heads = base.transform_filter("datum.rank == 1").transform_calculate(
        head="datum.side == 'full' ? 'everything read' : budget + ' kept:\\n' + policy"
    )
    heads = heads.mark_text(
        align="left", baseline="bottom", lineBreak="\n", fontWeight="bold", dx=2
    ).encode(x=x, y=alt.value(-22), text="head:N")
    chart = alt.layer(bars, words, percents, heads, _reading(base, -76)).add_params(
        alt.param("policy", value=table["policy"].iloc[0]), alt.param("budget", value=budget)
    )
    budgets = sorted(int(value) for value in table["budget"].unique())
    return Explorer(
        chart.properties(width="container", height=260),
        [
            Choice("policy", "Policy", [(name, name) for name in table["policy"].unique()]),
            Slider("budget", "Kept", values=budgets, value=budget, scale="log", unit="tokens"),
        ],
        "The likeliest next tokens after all of a text, beside those after what was kept of it",
    )


def curve_rows(data: fit.Curve, source: str) -> pd.DataFrame:
    """A curve as rows of `curves`: `source, window, kl_nats, sentence`."""
    some = [k for k in range(len(data.last)) if data.last[k] in (1, 8, 32, 128, 512)]
    costs = ", ".join(f"{data.mean[k]:.2g} with {data.last[k]}" for k in some)
    sentence = f"{source}, {data.n_documents} stretches.\nNats lost, by tokens kept: {costs}."
    rows = pd.DataFrame({"source": source, "window": data.window, "kl_nats": data.mean})
    return fit.rounded(rows, 3).assign(sentence=sentence)


def stored_curves() -> list[pd.DataFrame]:
    """The stored curves on the World English Bible, to compare a measured one with."""
    tables = {k: v for k, v in store.stored("sensitivity").items() if k[1] == COMPARED}
    return [
        curve_rows(
            fit.curve(store.load_table(path)), f"{charts.name_of(model)} on {charts.name_of(text)}"
        )
        for (model, text), path in tables.items()
    ]


def curves(parts: Sequence[pd.DataFrame]) -> Explorer:
    """Measured and stored curves together; the one to choose stands out, at first the last."""
    table = pd.concat(parts, ignore_index=True)
    sources = list(dict.fromkeys(table["source"]))
    x = alt.X(
        "window:Q",
        scale=alt.Scale(type="log", base=2, nice=False),
        axis=alt.Axis(title="window kept (tokens)", format="d"),
    )
    y = alt.Y(
        "kl_nats:Q",
        scale=alt.Scale(type="log", nice=False),
        axis=alt.Axis(title="mean KL divergence (nats)", format="~g", tickCount=5),
    )
    base = alt.Chart(table)
    picked = base.transform_filter("datum.source == source")
    others = base.mark_line(color=charts.GREY, opacity=0.5).encode(x=x, y=y, detail="source:N")
    point = alt.OverlayMarkDef(size=30, color=charts.BLUE)
    chosen = picked.mark_line(color=charts.BLUE, point=point).encode(x=x, y=y)
    chart = alt.layer(others, chosen, _reading(picked, -40)).add_params(
        alt.param("source", value=sources[-1])
    )
    return Explorer(
        chart.properties(width="container", height=charts.HEIGHT),
        [Choice("source", "Curve", [(name, name) for name in sources], value=sources[-1])],
        "Mean divergence against the window kept, measured here and stored",
    )


def _reading(rows: alt.Chart, dy: int) -> alt.Chart:
    """The sentence of the first row that is left; `dy` pixels down where a kernel draws it."""
    first = rows.transform_window(order="row_number()").transform_filter("datum.order == 1")
    text = first.mark_text(align="left", baseline="top", dy=dy, limit=0, lineBreak="\n")
    text = text.encode(text="sentence:N", x=alt.value(0), y=alt.value(0))
    return text.properties(name=controls.READING)


# --- in a live kernel -------------------------------------------------------------------------


class Bench(ipywidgets.VBox):
    """The widgets of a `Lab`; each is an attribute. Refusals come as one line in `status`."""

    def __init__(self, lab: Lab, text: str = EXAMPLE) -> None:
        self.lab, self.parts = lab, stored_curves()
        self.n_stored = len(self.parts)
        known = [*models.TRAINED, *models.EMBEDDED]
        style = controls._widget_options(Choice("", "", [("", "")]))
        wide = {"style": style["style"], "layout": style["layout"]}
        self.text = ipywidgets.Textarea(
            text, description="Text", rows=6, continuous_update=False, **wide
        )
        self.model = _choice("Model", [(name, charts.name_of(name)) for name in known])
        self.other = ipywidgets.Text(
            "" if lab.model in known else lab.model,
            description="Or another",
            placeholder="a local folder or a Hub id",
            continuous_update=False,
            **wide,
        )
        self.model.value = lab.model if lab.model in known else known[0]
        self.policy = _choice("Policy", [(name, label(name)) for name in POLICIES])
        kept = Slider("budget", "Kept", values=KEPT, value=16, scale="log", unit="tokens")
        self.budget = kept.to_widget()
        self.position = ipywidgets.IntSlider(1, 1, 2, description="Tokens read", **wide)
        self.position.continuous_update = self.budget.continuous_update = False
        self.picture, self.status = ipywidgets.HTML(), ipywidgets.HTML()
        self.corpus = _choice("Measure on", [(OWN, OWN), *((c, c) for c in corpora.CORPORA)])
        self.longest = _choice("Windows up to", [(2**k, str(2**k)) for k in range(2, 9)], 8)
        self.button = ipywidgets.Button(description="Measure a curve")
        self.progress = ipywidgets.IntProgress(description="Progress", **wide)
        self.eta, self.figure = ipywidgets.Label(), ipywidgets.VBox()
        self.model.observe(self._choose, "value")
        for widget in (self.text, self.other):
            widget.observe(self._retext, "value")
        for widget in (self.policy, self.budget, self.position):
            widget.observe(self._redraw, "value")
        self.button.on_click(self._measure)
        super().__init__(
            [self.text, self.model, self.other, self.policy, self.budget, self.position]
            + [self.status, self.picture, self.corpus, self.longest, self.button]
            + [self.progress, self.eta, self.figure]
        )
        self._retext()
        self.figure.children = [curves(self.parts).widget()]

    def _choose(self, _: Any = None) -> None:
        """A model of the list: it takes the place of what was typed below it."""
        self.other.value = ""
        self._retext()

    def _retext(self, _: Any = None) -> None:
        """Another text or model: go to the text's end."""
        self.position.unobserve(self._redraw, "value")
        with self._one_line():
            self._use()
            self.position.max = len(self.lab.ids(self.text.value))
            self.position.value = self.position.max
            self._draw()
        self.position.observe(self._redraw, "value")

    def _redraw(self, _: Any = None) -> None:
        with self._one_line():
            self._use()
            self._draw()

    def _use(self) -> None:
        name = self.other.value.strip() or self.model.value
        if name not in self.lab.loaded:
            self.status.value = f"loading {html.escape(name)} …"
        self.lab.use(name)

    def _draw(self) -> None:
        settings = self.position.value, self.policy.value, self.budget.value
        laws = self.lab.laws(self.text.value, *settings)
        self.status.value = html.escape(laws.sentence)
        self.picture.value = _html(laws.table)

    def _measure(self, _: Any = None) -> None:
        """The button: one curve more, which has the chart's choice."""
        self.button.disabled = True
        with self._one_line():
            self._use()
            own, run = self.corpus.value == OWN, len(self.parts) - self.n_stored + 1
            text = self.text.value if own else self.corpus.value
            name = f"{'your text' if own else charts.name_of(text)}, run {run}"
            for step in self.lab.measure(text, self.longest.value, name=name):
                self.progress.max, self.progress.value = step.total, step.done
                left = "" if step.seconds_left is None else f", {step.seconds_left:.0f} s left"
                self.eta.value = f"{step.done} of {step.total} stretches{left}"
            self.parts.append(step.curve)
            self.figure.children = [curves(self.parts).widget()]
        self.button.disabled = False

    @contextmanager
    def _one_line(self) -> Iterator[None]:
        """Whatever goes wrong is said in one line, and no law of another setting stays."""
        try:
            yield
        except Exception as error:  # loaders and models raise a dozen kinds
            line = (str(error).strip() or type(error).__name__).splitlines()[0]
            self.status.value, self.picture.value = ERROR + html.escape(line), ""


def _choice(name: str, options: Sequence[tuple[Any, str]], value: Any = None) -> Any:
    return Choice(name, name, options, value).to_widget()


def _html(table: pd.DataFrame) -> str:
    """Two lists of tokens with bars behind them, side by side."""
    lists = []
    for side, name, colour in SIDES:
        rows = "".join(
            f'<div style="display:flex;justify-content:space-between;padding:1px 6px;margin:2px 0;'
            f"background:linear-gradient(to right,rgba({colour},0.4) {100 * row.share:.1f}%,"
            f'transparent 0)"><span>{html.escape(row.token)}</span>'
            f"<span>{100 * row.share:.1f}%</span></div>"
            for row in table[table["side"] == side].itertuples()
        )
        lists.append(f'<div style="flex:1"><b>{name}</b>{rows}</div>')
    return f'<div style="display:flex;gap:24px;width:640px">{"".join(lists)}</div>'
