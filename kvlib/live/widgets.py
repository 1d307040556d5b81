"""The live bench: a `kvlib.live.lab.Lab` with ipywidgets for text, model, policy and budget."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ipywidgets
import pandas as pd
from IPython.display import HTML

from kvlib import charts, corpora, models, names
from kvlib.charts.controls import Choice, Slider
from kvlib.charts.inks import BLUE, ORANGE
from kvlib.live.lab import EXAMPLE, POLICIES, Lab, label
from kvlib.live.pictures import curves, stored_curves

KEPT = (1, 2, 3, *(m * 2**k for k in range(8) for m in (4, 5, 6, 7)))  # stops of the slider
OWN = "the text above"
SIDES = (("full", "everything read", BLUE), ("kept", "what was kept", ORANGE))
FAINT = "66"  # of an ink behind words: its opacity, 40%, in hexadecimal
ERROR = "<b>Not possible:</b> "
STATIC_NOTE = "This is where the live bench stands. It needs a kernel: run <code>make live</code>."


def start(model: str = "small-gpt2", text: str = EXAMPLE) -> Bench | HTML:
    """The bench in a live kernel; on a static page, a line that says how to start one."""
    return Bench(Lab(model), text) if charts.controls.kernel_is_live() else HTML(STATIC_NOTE)


class Bench(ipywidgets.VBox):
    """The widgets of a `Lab`; each is an attribute. Refusals come as one line in `status`."""

    def __init__(self, lab: Lab, text: str = EXAMPLE) -> None:
        self.lab, self.parts = lab, stored_curves()
        self.n_stored = len(self.parts)
        known = [*models.TRAINED, *models.EMBEDDED]
        style = charts.controls.widget_options(Choice("", "", [("", "")]))
        wide = {"style": style["style"], "layout": style["layout"]}
        self.text = ipywidgets.Textarea(
            text, description="Text", rows=6, continuous_update=False, **wide
        )
        self.model = _choice("Model", [(name, names.name_of(name)) for name in known])
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
            name = f"{'your text' if own else names.name_of(text)}, run {run}"
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
            f"background:linear-gradient(to right,{colour}{FAINT} {100 * row.share:.1f}%,"
            f'transparent 0)"><span>{html.escape(row.token)}</span>'
            f"<span>{100 * row.share:.1f}%</span></div>"
            for row in table[table["side"] == side].itertuples()
        )
        lists.append(f'<div style="flex:1"><b>{name}</b>{rows}</div>')
    return f'<div style="display:flex;gap:24px;width:640px">{"".join(lists)}</div>'
