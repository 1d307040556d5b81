"""A chart of plain characters: 80 columns, no colours, the same in a file, a pipe or a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

WIDTH, HEIGHT = 64, 13  # characters of the picture, without its axes
LEFT = 9  # of the labels at the left
DEEP = 1e-6  # of the largest value: what lies below is drawn on the lowest line


class Line(NamedTuple):
    """Points (x, y, low, high) drawn with a letter; `low` and `high` None without an interval."""

    letter: str
    points: Sequence[tuple[float, float, float | None, float | None]]


def chart(lines: Sequence[Line], x_title: str, y_title: str, level: float | None = None) -> str:
    """Lines on logarithmic axes, intervals as `:`, and a level as a row of dashes.

    Values that are not above zero are left out: they have no logarithm. No points give no chart.
    """
    points = [p for line in lines for p in line.points if p[0] > 0 and p[1] > 0]
    if not points:
        return ""
    every = [y for p in points for y in p[1:] if y and y > 0]
    every += [level] if level and level > 0 else []
    x, y = _Axis([p[0] for p in points], WIDTH), _Axis(every, HEIGHT)
    grid = [[" "] * WIDTH for _ in range(HEIGHT)]
    if level and level > 0:
        grid[y.place(level)] = list("- " * (WIDTH // 2))
    for line in lines:
        for at, mean, low, high in line.points:
            if at > 0 and mean > 0 and low is not None and high is not None:
                for row in range(y.place(max(low, y.low)), y.place(high) + 1):
                    if grid[row][x.place(at)] in " -":
                        grid[row][x.place(at)] = ":"
    for line in reversed(lines):  # the first line lies on top
        for at, mean, _, _ in line.points:
            if at > 0 and mean > 0:
                grid[y.place(mean)][x.place(at)] = line.letter
    return "\n".join([f"{y_title}", *_rows(grid, y), *_feet(x, x_title)])


def _rows(grid: list[list[str]], y: _Axis) -> list[str]:
    """The picture from top to bottom, labelled at round values."""
    labels = {y.place(value): _text(value) for value in _ticks(y.low, y.high)}
    return [
        f"{labels.get(row, ''):>{LEFT - 2}} {'+' if row in labels else '|'}"
        f"{''.join(grid[row])}".rstrip()
        for row in reversed(range(len(grid)))
    ]


def _feet(x: _Axis, title: str) -> list[str]:
    """The lower axis, its labels and its title."""
    ticks = _octaves(x.low, x.high)
    rule, labels = ["-"] * WIDTH, [" "] * (WIDTH + LEFT)
    free = 0
    for value in ticks:
        at, text = x.place(value), _text(value)
        rule[at] = "+"
        begin = min(max(LEFT - 1 + at - len(text) // 2, free), len(labels) - len(text))
        if begin >= free and abs(begin - (LEFT - 1 + at)) <= len(text):
            labels[begin : begin + len(text)] = text
            free = begin + len(text) + 1
    left = " " * (LEFT - 1)
    return [f"{left}+{''.join(rule)}", "".join(labels).rstrip(), f"{left} {title}"]


class _Axis:
    """A logarithmic axis of so many characters."""

    def __init__(self, values: Sequence[float], length: int) -> None:
        self.low, self.high = max(min(values), DEEP * max(values)), max(values)
        if self.high / self.low < 1.15:  # all is one value: it stands in the middle
            self.low, self.high = self.low / 2, self.high * 2
        self.length = length

    def place(self, value: float) -> int:
        """The character of a value, from 0."""
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return min(self.length - 1, max(0, round(share * (self.length - 1))))


def _ticks(low: float, high: float) -> list[float]:
    """Values 1, 2 and 5 of each power of ten between two ends; powers alone of a long way."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    steps = (1, 2, 5) if last - first <= 4 else (1,)
    every = [m * 10.0**k for k in range(first, last + 1) for m in steps]
    return [value for value in every if low * 0.999 <= value <= high * 1.001]


def _octaves(low: float, high: float) -> list[float]:
    """Powers of two between two ends, of a long way every second; the ends where there is none."""
    first, last = math.ceil(math.log2(low) - 1e-9), math.floor(math.log2(high) + 1e-9)
    step = 1 if last - first <= 8 else 2
    found = [2.0**k for k in range(first, last + 1, step)]
    return found if len(found) > 1 else [low, high]


def _text(value: float) -> str:
    """A label: 1,024 or 0.05, and 1e+12 where that would be long."""
    if not 1e-6 <= value < 1e9:
        return f"{value:.0e}"
    return f"{value:,.0f}" if value >= 1 else f"{value:.9f}".rstrip("0")
