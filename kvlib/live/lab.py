"""What the bench computes: the law of the next token for any text, model and cache policy.

`kvlib.live.widgets` is its face in a live kernel, `kvlib.live.pictures` on a page with none
behind it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch

from kvlib import corpora, fit, measure, models, names
from kvlib.cache import policies, protocols
from kvlib.corpora.reading import tokens_of
from kvlib.live.pictures import curve_rows
from kvlib.measure.divergences import kl_divergence, total_variation
from kvlib.models import masks

SUFFIX = "re-encoded suffix"
POLICIES = (SUFFIX, *policies.NAMED)
TOP = 10  # tokens of each law that are shown
LONGEST = 1024  # tokens that the bench reads at most: more makes a slider wait
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
        ids = tokens_of(self.lm.tokenizer, text)["input_ids"]
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
        full = self._full_pass(ids, () if whole else (*protocols.to_score([rule], protocol),))
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
        return self._steps(stretches, max_window, f"{names.name_of(self.model)} on {name}")

    def _stretches(self, text: str, max_window: int, documents: int) -> list[np.ndarray]:
        self.ids(text)  # refuses an empty one
        ids = tokens_of(self.lm.tokenizer, text)["input_ids"]
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
        if protocol == "prefill" and everything:  # then its scores were not asked for
            return full.states[-1:]
        return protocols.run(full, rule, protocol, budget, protocols.draws(rule, budget))

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
    return SUFFIX if policy == SUFFIX else f"{rule.title} ({protocol})"


# --- the values of the page's prose ---------------------------------------------------------------


def facts(laws: Laws, grid: pd.DataFrame, budget: int) -> dict[str, str]:
    """Name → text of every value that the page on the bench glues.

    `laws` are those with the last `budget` tokens kept, `grid` the recorded run.
    """
    first = laws.table[laws.table["rank"] == 1].set_index("side")
    sliding = grid[grid["policy"] == label("sliding")].groupby("budget")["kl_nats"].first()
    return {
        "budget": str(budget),
        **{f"first-{side}": first.loc[side, "token"] for side in first.index},
        **{f"share-{side}": f"{first.loc[side, 'share']:.2f}" for side in first.index},
        "kl": f"{laws.kl_nats:.2f}",
        "tv": f"{laws.tv:.2f}",
        **{f"at-{kept}": f"{sliding[kept]:.2f}" for kept in (6, 8)},
    }
