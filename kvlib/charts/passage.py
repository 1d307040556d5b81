"""A passage of real text, token by token: what breaks when the cache shrinks.

`kvlib study passage` measures and stores one; `Passage` draws it: words shaded by KL, policy and
budget to choose, and for a token the model's first guesses, with the full cache and with the
bounded one. `book/_static/passage.js` brings it to life.
"""

from __future__ import annotations

import html
import json
from typing import Any

import pandas as pd

from kvlib.charts.controls import Origin
from kvlib.charts.parts import steady
from kvlib.names import name_of

SHADES = (0.02, 0.1, 0.5, 2.0)  # nats: where a word gets a darker shade


class Passage:
    """A stored passage as a page's explorer; `label` is what a screen reader says first."""

    def __init__(self, rows: pd.DataFrame, label: str) -> None:
        rows = rows.assign(policy=rows["policy"].map(name_of))
        self.full = rows.loc[rows["budget"] == 0, "policy"].iloc[0]
        self.policies = [p for p in dict.fromkeys(rows["policy"]) if p != self.full]
        self.budgets = sorted(int(b) for b in set(rows["budget"]) - {0})
        full = rows[rows["policy"] == self.full]
        self.rows, self.label = rows, label
        self.tokens = full["token"].tolist()

    def payload(self) -> dict[str, Any]:
        """What the page's script needs: texts once, numbers to three digits."""
        texts: dict[str, int] = {}
        many = sum(name.startswith("guess_") for name in self.rows)

        def guesses(part: pd.DataFrame) -> list[list[Any]]:
            names = [f"{kind}_{k}" for k in range(many) for kind in ("guess", "share")]
            return [
                [
                    texts.setdefault(v, len(texts)) if isinstance(v, str) else _percent(v)
                    for v in row
                ]
                for row in part[names].itertuples(index=False, name=None)
            ]

        cells = {}
        for (policy, budget), part in self.rows.groupby(["policy", "budget"], sort=False):
            cells[f"{policy}|{budget}"] = {
                "kl": [float(f"{steady(v):.3g}") for v in part["kl_nats"]],
                "own": [_percent(v) for v in part["probability"]],
                "guesses": guesses(part),
            }
        return {
            "tokens": self.tokens,
            "full": f"{self.full}|0",
            "policies": self.policies,
            "budgets": self.budgets,
            "shades": list(SHADES),
            "cells": cells,
            "texts": list(texts),
            "origin": Origin(["passage"], {"budget": "entries"}).to_json(),
        }

    def to_html(self) -> str:
        """Inert HTML: controls, the passage in plain spans, an empty sentence, the data as JSON."""
        data = json.dumps(self.payload(), separators=(",", ":"), allow_nan=False)
        data = data.replace("<", "\\u003c")
        options = "".join(f"<option>{html.escape(name)}</option>" for name in self.policies)
        words = "".join(
            f'<span class="kv-token" data-at="{i}">{html.escape(token)}</span>'
            for i, token in enumerate(self.tokens)
        )
        key = "".join(
            f'<span class="kv-token" data-shade="{k + 1}">{low:g} nats</span> '
            for k, low in enumerate(SHADES)
        )
        return (
            f'<div class="kv-passage" role="group" aria-label="{html.escape(self.label)}">'
            '<div class="kv-controls">'
            '<label class="kv-control"><span class="kv-label">Policy, online</span> '
            f'<select name="policy" autocomplete="off">{options}</select></label>'
            '<label class="kv-control"><span class="kv-label">Budget</span> '
            '<span class="kv-value" aria-hidden="true"></span>'
            f'<input type="range" name="budget" min="0" max="{len(self.budgets) - 1}" step="1"'
            ' autocomplete="off"></label></div>'
            f'<p class="kv-key">Shaded from {key}of divergence at that word.</p>'
            '<p class="kv-words" role="listbox" aria-label="the passage; arrow keys move from'
            f' word to word">{words}</p>'
            '<div class="kv-said"><p class="kv-reading" aria-live="polite"></p>'
            '<div class="kv-guesses"></div></div>'
            "<noscript><p>The shading needs JavaScript.</p></noscript>"
            f'<script type="application/json" class="kv-data">{data}'
            "</script></div>"
        )

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        return {"text/html": self.to_html(), "text/plain": f"Passage: {self.label}"}


def _percent(share: float) -> float:
    """A share in percent, to a tenth."""
    return round(steady(100 * share), 1)
