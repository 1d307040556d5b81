"""What pictures share: numbers that come out the same on every processor."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from kvlib.charts import parts


@pytest.mark.parametrize(("halfway", "digits"), [(0.514735, 5), (2.5e-7, 1), (-31.25, 3)])
def test_a_number_halfway_is_rounded_the_same_whatever_its_last_bit(halfway, digits):
    near = [math.nextafter(halfway, -math.inf), halfway, math.nextafter(halfway, math.inf)]
    assert len(set(near)) == 3
    assert parts.rounded(pd.DataFrame({"x": near}), digits)["x"].nunique() == 1
