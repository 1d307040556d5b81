"""What pictures share: numbers that come out the same on every processor."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET

import altair as alt
import pandas as pd
import pytest
import vl_convert

from kvlib.charts import parts
from kvlib.charts.compiled import vega_of


@pytest.mark.parametrize(("halfway", "digits"), [(0.514735, 5), (2.5e-7, 1), (-31.25, 3)])
def test_a_number_halfway_is_rounded_the_same_whatever_its_last_bit(halfway, digits):
    near = [math.nextafter(halfway, -math.inf), halfway, math.nextafter(halfway, math.inf)]
    assert len(set(near)) == 3
    assert parts.rounded(pd.DataFrame({"x": near}), digits)["x"].nunique() == 1


def test_the_title_of_an_axis_follows_the_choice():
    table = pd.DataFrame({"distance": ["KL", "TV"], "window": [1, 2], "mean": [0.5, 0.25]})
    axis = parts.log_axis(parts.distance_title(table["distance"]))
    chart = alt.Chart(table).mark_point().encode(x="window:Q", y=alt.Y("mean:Q", axis=axis))
    drawn = vega_of(parts.picture(chart, chart, parameters=["distance"]).to_dict())
    for distance, title in (("KL", "mean KL (nats)"), ("TV", "mean TV")):
        drawn["signals"] = [
            signal | {"value": distance} if signal["name"] == "distance" else signal
            for signal in drawn["signals"]
        ]
        words = "".join(ET.fromstring(vl_convert.vega_to_svg(drawn)).itertext())
        assert title in words and "or TV" not in words and words.count("mean") == 1


def test_an_axis_of_one_distance_has_a_plain_title():
    assert parts.distance_title(pd.Series(["TV", "TV"])) == "mean TV"
