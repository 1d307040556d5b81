"""The plain sentence and the bar of a claim say what its figures say."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from kvbook import markup

from kvlib import claims
from kvlib.claims import tracks
from kvlib.claims.claim import Figure, Verdict


def verdict(*figures: Figure, id: str = "C2") -> Verdict:
    return Verdict(claims.claim.Claim(id, "said", "sensitivity"), "partly", "all", "", figures)


def bends(*values: tuple[float, float, float]) -> Verdict:
    return verdict(*(Figure("bend b, finite reference", *item, 24) for item in values))


def places(bar: str, kind: str, *names: str) -> list[tuple[float, ...]]:
    """Where the shapes of a kind lie, from left to right."""
    shapes = [one for one in ET.fromstring(bar).iter() if one.get("class") == kind]
    return [tuple(float(one.get(name)) for name in names) for one in shapes]


def test_every_claim_has_a_track_and_its_pattern_is_one_of_a_name():
    ids = [claim.id for claim in claims.front.claims()]
    assert list(tracks.TRACKS) == ids
    for track in tracks.TRACKS.values():
        assert track.says.count("{span}") == 1
        assert track.ends[0] < track.ends[1]
        assert all(track.ends[0] <= value <= track.ends[1] for value, _ in track.marks)


def test_the_sentence_has_the_least_and_the_largest_estimate():
    said = tracks.plain(bends((0.25, 0.2, 0.3), (0.031, 0, 0.1), (0.1, 0, 0.2)))
    assert said == "The decay bends by 0.031 to 0.25, where 0 is a power law and 1 an exponential."
    assert "by −0.1, where" in tracks.plain(bends((-0.1, -0.2, 0.0)))


def test_the_bar_draws_what_is_measured_where_it_belongs():
    bar = tracks.bar(bends((0.5, 0.2, 0.8), (0.0, -0.1, 0.3)))
    ranges = places(bar, "kv-bar-range", "x1", "x2")
    dots = [x for (x,) in places(bar, "kv-bar-dot", "cx")]
    zero, small, one = (x for (x,) in places(bar, "kv-bar-mark", "x1"))
    assert dots[0] == zero and ranges[0][1] == small, "the lesser estimate comes first"
    assert dots[1] == pytest.approx((zero + one) / 2, abs=0.1)
    assert ranges[0][0] == tracks.SIDE, "the track begins where it is declared to"
    assert "2 estimates 0 to 0.5; 95% intervals from −0.1 to 0.8; borders at 0" in bar


def test_a_track_is_as_long_as_what_was_measured():
    bar = tracks.bar(bends((1.5, 1.2, 2.5)))
    (ends,) = places(bar, "kv-bar-range", "x1", "x2")
    assert ends[1] == tracks.WIDTH - tracks.SIDE
    assert all(x < ends[0] for (x,) in places(bar, "kv-bar-mark", "x1"))


def test_on_a_log_track_a_factor_is_a_distance_and_zero_its_left_end():
    name = "log error beyond 64 tokens, exponential / power law"
    items = [Figure(name, value, low, value) for low, value in ((0.0, 1.0), (10.0, 10.0), (9, 100))]
    bar = tracks.bar(verdict(*items, id="C3"))
    one, ten, hundred = (x for (x,) in places(bar, "kv-bar-dot", "cx"))
    assert hundred - ten == pytest.approx(ten - one, abs=0.1)
    assert places(bar, "kv-bar-range", "x1")[0] == (tracks.SIDE,)


def test_what_has_no_estimate_is_not_drawn_and_no_figure_is_no_bar():
    flat, other = Figure("bend b, finite reference", None), Figure("exponent α", 0.5)
    for item in (verdict(), verdict(flat, other), verdict(Figure("α", 1.0), id="C0")):
        assert tracks.plain(item) == "" and tracks.bar(item) == ""
    exact = tracks.bar(
        verdict(Figure("worst miss of the upper bound beyond 64 tokens", 1.5), id="C6")
    )
    assert places(exact, "kv-bar-range", "x1") == [] and "1 estimate 1.5; borders" in exact


def test_another_distance_is_left_out_where_the_track_has_one():
    items = [Figure("random / policy", 4.0, distance="KL"), Figure("random / policy", 2.0)]
    assert "loses 4 times" in tracks.plain(verdict(*items, id="C11"))


def test_many_intervals_share_the_height_of_few():
    many = tracks.bar(bends(*((k / 40, k / 40, k / 40) for k in range(40))))
    heights = [y for (y,) in places(many, "kv-bar-dot", "cy")]
    assert len(heights) == 40 and 0 < min(heights) and max(heights) < tracks.BAND


def test_a_bar_needs_no_style_and_a_book_can_read_it():
    bar = tracks.bar(bends((0.5, 0.2, 0.8)))
    found = markup.read(bar).tags
    assert not [tag for tag in found if {"style", "onclick"} & set(tag.attributes)]
    opened = [tag.name for tag in found if not tag.closes]
    assert sorted(opened) == sorted(tag.name for tag in found if tag.closes)
    drawn = {tag.attributes.get("class") for tag in found if not tag.closes} - {None}
    css = (Path(__file__).parents[2] / "book/_static/book.css").read_text("utf-8")
    assert drawn <= set(re.findall(r"\.(kv-[\w-]+)", css))
