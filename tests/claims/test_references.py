"""Tables with references of several lengths: parted, compared, and told apart."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from kvlib import claims, fit

LENGTHS = (2048, 4096, 7168)
WINDOWS = np.unique(np.round(2 ** np.arange(3, 11.01, 0.25))).astype(int)


def table(strength: float, alpha: float = 0.5, docs: int = 8) -> pd.DataFrame:
    """KL is C [(w + 1)^-α - λ (T + 1)^-α], TV its root over ten; a floor row in front."""
    rng = np.random.default_rng(0)
    rows = []
    for doc in range(docs):
        level = np.exp(0.1 * rng.standard_normal())
        for position in (7167, 7500, 8000):
            for length in LENGTHS:
                context = length + position - 7167
                for window in WINDOWS[WINDOWS < context]:
                    law = (window + 1.0) ** -alpha - strength * (context + 1.0) ** -alpha
                    kl = level * law * (1 + 0.02 * rng.standard_normal())
                    rows.append((doc, position, context, window, kl, np.sqrt(kl) / 10))
    rows.insert(0, (0, 7167, 7168, 7168, 1e-12, 1e-6))
    return pd.DataFrame(rows, columns=["doc", "position", "context", "window", "kl_nats", "tv"])


def long(strength: float) -> claims.references.Long:
    return claims.references.Long("m", "c", claims.references.by_length(table(strength)))


def test_rows_are_parted_by_the_length_at_the_first_target_and_the_floor_is_left_out():
    one = long(1.0)
    assert (one.shortest, one.longest, tuple(one.rows)) == (2048, 7168, LENGTHS)
    for length, rows in one.rows.items():
        assert set(rows["context"] - rows["position"]) == {length - 7167}
        assert (rows["window"] < rows["context"]).all() and rows["kl_nats"].min() > 1e-9
    assert {data.last[-1] for data in claims.references.curves(one)} == {1024}
    assert claims.references.farthest(one).last[-1] == 2048


@pytest.mark.parametrize("strength", [1.0, 0.0])
def test_a_longer_reference_moves_the_distance_as_much_as_the_bracket_is_strong(
    strength, monkeypatch
):
    monkeypatch.setattr(fit.references, "RESAMPLES", 40)
    one = long(strength)
    found = claims.references.ratios(one)
    assert found["reference"].tolist() == [2048, 4096]
    assert set(found["windows"]) == {"513 to 1,024"} and set(found["documents"]) == {8}
    first = found.iloc[0]["ratio"]
    assert first.value > 1.1 if strength else first.value == pytest.approx(1, abs=0.02)
    apart = claims.references.told_apart(one).set_index("distance")
    for distance in ("KL", "TV"):
        assert apart.loc[distance, "λ"].value == pytest.approx(strength, abs=0.2)
        assert apart.loc[distance, "b"].value == pytest.approx(0, abs=0.1)
    if strength:
        assert apart.loc["KL", "α"].value == pytest.approx(0.5, abs=0.03)
        assert apart.loc["TV", "α"].value == pytest.approx(0.25, abs=0.02)


def test_a_ratio_is_put_into_words():
    word = claims.references.word
    assert word(fit.Estimate(1.2, 1.1, 1.3, 8), 1.25).startswith(
        "surely above one, and its interval holds"
    )
    assert "does not hold" in word(fit.Estimate(1.0, 0.9, 1.1, 8), 1.25)
    assert word(fit.Estimate(0.8, 0.7, 0.9, 8), 1.25).startswith("surely below one")


def test_without_such_a_table_nothing_is_said(tmp_path):
    assert claims.references.stored(tmp_path) == []
    assert claims.references.facts([]) == {}
