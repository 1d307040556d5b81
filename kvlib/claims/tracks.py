"""The main figures of each claim: in a plain sentence, and on a track with its rule's borders."""

from __future__ import annotations

import html
import math
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np

from kvlib import fit
from kvlib.claims import bounds, extrapolation, policies
from kvlib.claims.claim import SMALL_BEND, Figure, Verdict

WIDTH, HEIGHT, SIDE = 320, 66, 10  # of a bar, and the room beside its track, in its own units
BAND = 40  # what the intervals share
THICK = 3.0  # of an interval, where there are few


@dataclass(frozen=True)
class Track:
    """Which figures of a verdict are the main ones, what they say, and where the borders are.

    `figure` is a pattern of names (`*` for anything), `distance` any where it is empty; `{span}` in
    `says` is the least and the largest estimate, `{reach}` the same of their intervals' ends.
    `marks` are values with what they stand for; the track reaches from the first of `ends` to the
    second, and on to what was measured.
    """

    figure: str
    says: str
    marks: tuple[tuple[float, str], ...]
    ends: tuple[float, float]
    log: bool = False
    distance: str = ""

    def figures(self, verdict: Verdict) -> list[Figure]:
        """The main figures, by their estimates; those without one are left out."""
        found = [
            item
            for item in verdict.figures
            if fnmatchcase(item.name, self.figure)
            and self.distance in ("", item.distance)
            and item.estimate is not None
        ]
        return sorted(found, key=lambda item: item.estimate)


def _times(*values: float) -> tuple[tuple[float, str], ...]:
    return tuple(
        (float(value), f"{value:.2g}" if value < 100 else f"{value:.0f}") for value in values
    )


_MISSES = {"marks": ((1.0, "1 held"), *_times(bounds.CLOSE)), "ends": (0.8, 4.0), "log": True}

TRACKS = {
    "C1": Track(
        "bits saved a *",
        "To know the next query saves {span} bits a token and head.",
        ((0.0, "0 nothing"),),
        (0.0, 12.0),
    ),
    "C2": Track(
        "bend b, finite reference",
        "The decay bends by {span}, where 0 is a power law and 1 an exponential.",
        ((0.0, "0 power law"), (SMALL_BEND, f"{SMALL_BEND}"), (1.0, "1 exponential")),
        (-0.1, 1.1),
    ),
    "C3": Track(
        "log error beyond * tokens, exponential / power law",
        "On long windows an exponential errs {span} times as much as a power law.",
        _times(
            1, extrapolation.ORDER / extrapolation.HALF, extrapolation.ORDER * extrapolation.HALF
        ),
        (0.5, 100.0),
        log=True,
    ),
    "C4": Track(
        "slope of log(policy / suffix)",
        "The cache's decay differs from the suffix's by {span} in the exponent.",
        ((-fit.MARGIN, f"−{fit.MARGIN}"), (0.0, "0 the same"), (fit.MARGIN, f"{fit.MARGIN}")),
        (-0.2, 0.2),
    ),
    "C5": Track(
        "the same minus the exponent from position 0",
        "With learned positions, place moves a suffix's exponent by {span} (95%: {reach}).",
        ((-fit.MARGIN, f"−{fit.MARGIN}"), (fit.MARGIN, f"{fit.MARGIN}")),
        (-0.3, 0.6),
    ),
    "C6": Track(
        "worst miss of the upper bound*",
        "Tried on longer windows, the window it gives is at worst {span} times too short.",
        **_MISSES,
    ),
    "C7": Track(
        "worst miss of the lower bound*",
        "Tried on longer windows, the window it asks for is at worst {span} times too long.",
        **_MISSES,
    ),
    "C8": Track(
        "online / suffix, same budget",
        "A real cache's error is {span} times that of a suffix of equal budget (95%: {reach}).",
        ((1.0, "1 no effect"),),
        (0.4, 4.0),
        log=True,
    ),
    "C9": Track(
        "ρ = α_KL / α_TV",
        "On real models KL's exponent is {span} times TV's; bounded log-ratios allow one to two.",
        ((1.0, "1"), (2.0, "2")),
        (0.8, 2.2),
    ),
    "C10": Track(
        "factor missed by, law of a finite reference",
        "A law of short suffixes misses what real caches lose by a factor of {span}.",
        ((1.0, "1"), (policies.FORETOLD, f"{policies.FORETOLD}")),
        (0.9, 10.0),
        log=True,
    ),
    "C11": Track(
        "random / policy",
        "Random retention loses {span} times what recency loses, by cache, budget and protocol.",
        ((1.0, "1"), *_times(*np.ravel(policies.ORDERS))),
        (0.5, 400.0),
        log=True,
        distance="KL",
    ),
    "C12": Track(
        "bend b in the budget",
        "In the budget the decay bends by {span}, where 0 is a power law and 1 an exponential.",
        ((0.0, "0 power law"), (SMALL_BEND, f"{SMALL_BEND}"), (1.0, "1 exponential")),
        (-0.3, 1.1),
    ),
}


def plain(verdict: Verdict) -> str:
    """What the main figures say, in a sentence; nothing where there are none."""
    track = TRACKS.get(verdict.claim.id)
    figures = track.figures(verdict) if track else []
    if not figures:
        return ""
    return track.says.format(span=_span(figures), reach=_reach(figures))


def bar(verdict: Verdict) -> str:
    """The main figures as an SVG: a line an interval, a dot an estimate, borders as ticks.

    Nothing where there are none. It has no colours of its own; a style sheet gives them.
    """
    track = TRACKS.get(verdict.claim.id)
    figures = track.figures(verdict) if track else []
    if not figures:
        return ""
    place = _places(track, figures)
    step = BAND / len(figures)
    thick = min(THICK, 0.7 * step)
    lines = []
    for k, item in enumerate(figures):
        y = f"{(k + 0.5) * step:.1f}"
        if item.low is not None and item.high is not None:
            lines.append(
                f'<line class="kv-bar-range" x1="{place(item.low):.1f}" y1="{y}" '
                f'x2="{place(item.high):.1f}" y2="{y}" stroke-width="{thick:.1f}"></line>'
            )
        at, radius = place(item.estimate), max(0.75 * thick, 1.2)
        lines.append(
            f'<circle class="kv-bar-dot" cx="{at:.1f}" cy="{y}" r="{radius:.1f}"></circle>'
        )
    said = html.escape(_in_words(track, figures), quote=True)
    return (
        f'<svg class="kv-bar" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{said}">'
        f'<line class="kv-bar-track" x1="{SIDE}" y1="{BAND + 4}" x2="{WIDTH - SIDE}" '
        f'y2="{BAND + 4}"></line>{"".join(_mark(*mark, place) for mark in track.marks)}'
        f"{''.join(lines)}</svg>"
    )


def _places(track: Track, figures: list[Figure]) -> Callable[[float], float]:
    """Value → place on the track, which reaches as far as the figures do."""
    values = [x for item in figures for x in (item.low, item.estimate, item.high) if x is not None]
    scale = math.log if track.log else float
    if track.log:
        values = [x for x in values if x > 0]
    low, high = (scale(f([end, *values])) for f, end in zip((min, max), track.ends, strict=True))

    def place(value: float) -> float:
        at = scale(value) if value > 0 or not track.log else low
        return SIDE + (WIDTH - 2 * SIDE) * (at - low) / (high - low)

    return place


def _mark(value: float, text: str, place: Callable[[float], float]) -> str:
    """A border of the rule: a tick through all intervals, and what it stands for."""
    x = place(value)
    half = 3.2 * len(text)  # about half of what the letters take
    anchor, at = "middle", x
    if x - half < 0:
        anchor, at = "start", 0
    elif x + half > WIDTH:
        anchor, at = "end", WIDTH
    return (
        f'<line class="kv-bar-mark" x1="{x:.1f}" y1="0" x2="{x:.1f}" y2="{BAND + 8}"></line>'
        f'<text x="{at:.1f}" y="{HEIGHT - 6}" text-anchor="{anchor}">{html.escape(text)}</text>'
    )


def _in_words(track: Track, figures: list[Figure]) -> str:
    """What a bar shows, for those who don't see it."""
    marks = ", ".join(text for _, text in track.marks)
    reach = f"; 95% intervals from {reach}" if (reach := _reach(figures)) else ""
    estimates = f"estimate{'s' * (len(figures) > 1)} {_span(figures)}"
    return f"{len(figures)} {estimates}{reach}; borders at {marks}"


def _span(figures: list[Figure]) -> str:
    """The least and the largest estimate, once where they read the same."""
    return " to ".join(dict.fromkeys(_number(figures[at].estimate) for at in (0, -1)))


def _reach(figures: list[Figure]) -> str:
    """The least and the largest end of their intervals."""
    ends = [x for item in figures for x in (item.low, item.high) if x is not None]
    return f"{_number(min(ends))} to {_number(max(ends))}" if ends else ""


def _number(value: float) -> str:
    """Two digits, as in prose: 1,200 and not 1.2e+03."""
    text = f"{value:.2g}"
    text = f"{float(text):,.0f}" if "e+" in text else text
    return text.replace("-", "−")
