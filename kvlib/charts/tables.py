"""A table as a page shows it: a caption, one row of headings, numbers as they are read.

Estimates come with their intervals, to as many places as the interval is wide. Yes and no are
words, thousands are grouped, a minus is no hyphen, and what there isn't is a dash. Of a long table
the first rows are shown, and the others folded.
"""

from __future__ import annotations

import html
import math
from itertools import takewhile
from numbers import Integral, Real
from typing import Any

import pandas as pd

from kvlib.names import name_of, written

MOST = 8  # rows that stand open
DIGITS = 3
NAME = 16  # characters of a row's name, from which on it takes two lines of some width
LONG = 45  # characters of a cell that is prose, and goes on in the next line
NAMED = ("model", "corpus", "policy", "reader")  # columns of keys, which are shown by name
HEADS = {"corpus": "text", "where": "model and text", "kl_nats": "KL, nats", "tv": "TV"}


class Table:
    """Rows as a page's table. `caption` says what they show, in which unit, and of how many.

    The index is the first column, or columns, unless it only counts. `digits` are those that count
    of a plain number. Raises ValueError for a caption that says nothing.
    """

    def __init__(self, rows: pd.DataFrame | pd.Series, caption: str, digits: int = DIGITS) -> None:
        if not caption.strip():
            raise ValueError("caption: expected what the table shows, got nothing")
        self.caption, self.digits = caption, digits
        frame = rows.to_frame() if isinstance(rows, pd.Series) else rows
        self.rows, self.heads, self.firsts = flat(frame)

    def _repr_html_(self) -> str:
        cells = [[shown(cell, self.digits) for cell in row] for row in self.rows]
        caption = f"<caption>{html.escape(self.caption)}</caption>"
        table = self._table(caption, cells[:MOST])
        if rest := cells[MOST:]:
            more = "1 more row" if len(rest) == 1 else f"{len(rest)} more rows"
            table += (
                f'<details class="kv-more"><summary>{more}</summary>'
                f"{self._table('', rest)}</details>"
            )
        return f'<div class="kv-frame">{table}</div>'

    def __repr__(self) -> str:
        cells = [[shown(cell, self.digits) for cell in row] for row in self.rows]
        heads = [" ".join(filter(None, head)) for head in zip(*self.heads, strict=True)]
        return "\n".join([self.caption, pd.DataFrame(cells, columns=heads).to_string(index=False)])

    def _table(self, caption: str, cells: list[list[str]]) -> str:
        label = html.escape(self.caption, quote=True)
        head = "".join(f"<tr>{''.join(_heads(row))}</tr>" for row in self.heads)
        body, above = [], [""] * self.firsts
        for row in cells:
            body.append(f"<tr>{''.join(self._cells(row, above))}</tr>")
            above = row[: self.firsts]
        return (
            f'<div class="kv-wide" role="group" tabindex="0" aria-label="{label}">'
            f'<table class="kv-rows">{caption}<thead>{head}</thead>'
            f"<tbody>{''.join(body)}</tbody></table></div>"
        )

    def _cells(self, row: list[str], above: list[str]) -> list[str]:
        """The cells of a row; what the row above says as well, from the left, is quiet."""
        found, same = [], True
        for place, text in enumerate(row):
            if place >= self.firsts:
                long = ' class="kv-long"' if len(text) > LONG else ""
                found.append(f"<td{long}>{html.escape(text)}</td>")
                continue
            same = same and text == above[place] and place < self.firsts - 1
            kinds = ["kv-same"] * same + ["kv-name"] * (len(text) > NAME)
            marked = f' class="{" ".join(kinds)}"' if kinds else ""
            found.append(f'<th scope="row"{marked}>{html.escape(text)}</th>')
        return found


def flat(rows: pd.DataFrame) -> tuple[list[list[Any]], list[list[str]], int]:
    """The cells row by row, the rows of headings, and how many columns name a row.

    Two levels of headings stay two rows. A name of the columns heads the first column where that
    has none of its own.
    """
    names, labels = _index(rows)
    values = rows.itertuples(index=False, name=None)
    cells = [[*label, *row] for label, row in zip(labels, values, strict=True)]
    for place, column in enumerate([*names, *rows.columns]):
        if column in NAMED:
            for row in cells:
                row[place] = name_of(row[place])
    tops = [column if isinstance(column, tuple) else (column,) for column in rows.columns]
    last = rows.columns.nlevels - 1
    heads = []
    for level in range(last + 1):
        of_index = names if level == last else [""] * len(names)
        heads.append([headed(head) for head in [*of_index, *(top[level] for top in tops)]])
    leading = sum(takewhile(bool, (column in NAMED for column in rows)))
    return cells, heads, len(names) or max(1, leading)


def headed(head: Any) -> str:
    """A heading as it is read; a number, such as a budget, like any other."""
    text = shown(head) if isinstance(head, Real) else str(head)
    return HEADS.get(text, text.replace("_", " "))


def _index(rows: pd.DataFrame) -> tuple[list[str], list[tuple]]:
    """Names of the levels of the index, and the labels of each row; none where it only counts."""
    title = next((str(name) for name in rows.columns.names if name), "")
    if isinstance(rows.index, pd.RangeIndex) and not rows.index.name and not title:
        return [], [()] * len(rows)
    names = [str(name or "") for name in rows.index.names]
    if not any(names):
        names[-1] = title
    return names, [key if isinstance(key, tuple) else (key,) for key in rows.index]


def _heads(row: list[str]) -> list[str]:
    """Headings, one for neighbours of the same name."""
    found: list[tuple[str, int]] = []
    for name in row:
        if found and name and found[-1][0] == name:
            found[-1] = name, found[-1][1] + 1
        else:
            found.append((name, 1))
    spans = [f' colspan="{many}"' if many > 1 else "" for _, many in found]
    return [
        f'<th scope="col"{span}>{html.escape(name)}</th>' if name else f"<td{span}></td>"
        for (name, _), span in zip(found, spans, strict=True)
    ]


def shown(cell: Any, digits: int = DIGITS) -> str:
    """A cell as it is read."""
    if hasattr(cell, "low") and hasattr(cell, "high"):
        return format(cell, "t")
    if cell is None or (isinstance(cell, Real) and math.isnan(cell)):
        return "–"
    if isinstance(cell, bool) or type(cell).__name__ == "bool":
        return "yes" if cell else "no"
    if isinstance(cell, Integral):
        return f"{int(cell):,}".replace("-", "−")
    if isinstance(cell, Real):
        return number(float(cell), digits)
    text = written(str(cell))
    return text.replace(" -", " −") if text.strip() else "–"


def number(value: float, digits: int = DIGITS) -> str:
    """A number to so many digits: 9,230 and not 9.23e+03, 6 × 10⁻⁹ and not 6e-09."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else "∞" if value > 0 else "−∞"
    if abs(value) < 1e-4:
        power, _, exponent = f"{value:.{digits - 1}e}".partition("e")
        power = power.rstrip("0").rstrip(".") if "." in power else power
        return written(f"{power}e{exponent}").replace("-", "−")
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{places}f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return text.replace("-", "−")
