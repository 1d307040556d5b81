"""The drawing of a cache: which cells are kept, and what a screen reader says of it."""

from __future__ import annotations

import re

import pytest

from kvlib.charts import cells

TOKENS = ["In", " the", " beginning", " God", " <said>", "."]


def test_the_first_and_the_newest_are_kept_and_the_next_is_asked_for():
    drawn = cells.strip(TOKENS, sinks=2, newest=1)
    found = re.findall(r"kv-cell-(\w+)\">([^<]*)<", drawn)
    kinds = ["kept", "kept", "gone", "gone", "gone", "kept", "asked"]
    assert [kind for kind, _ in found] == kinds
    words = ["In", "the", "beginning", "God", "&lt;said&gt;", ".", "?"]
    assert [word for _, word in found] == words
    assert "first 2 and the newest 1 are kept, the 3 between them are gone" in drawn


@pytest.mark.parametrize("sinks, newest", [(3, 3), (7, 0), (-1, 2)])
def test_a_cache_that_forgets_nothing_is_no_picture(sinks, newest):
    with pytest.raises(ValueError, match=f"fewer than 6 together, got {sinks} and {newest}"):
        cells.strip(TOKENS, sinks, newest)
