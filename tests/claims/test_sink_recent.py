"""C4: on made-up rows whose exponents are known, the rule says what is so."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from studies import estimates, finite, rows_of, suffix_rows

from kvlib import claims, fit


def test_equal_exponents_are_found_equal_and_others_not():
    suffix = {("m", "c"): suffix_rows(0.6)}
    for alpha, verdict in ((0.6, "reproduced"), (1.2, "not reproduced")):
        law = finite(alpha)
        rows = rows_of(lambda b, law=law: law(b - 4), "sinks", spread=0.01)
        same = claims.sink_recent.same_exponent(rows, suffix, "sinks", "online")
        assert same["difference"].iloc[0].value == pytest.approx(0.6 - alpha, abs=0.08)
        assert set(claims.sink_recent.readings(same).values()) == {verdict}
        assert claims.sink_recent.rule(same) == verdict


@pytest.mark.parametrize(
    ("differences", "word"),
    [
        ([(-0.05, 0, 0.05)], "reproduced"),
        ([(-0.05, 0, 0.05), (-0.16, -0.09, -0.02)], "partly"),
        ([(-0.5, -0.4, -0.3), (0.2, 0.3, 0.4)], "not reproduced"),
    ],
)
def test_the_verdict_on_sinks_is_a_test_of_equivalence(differences, word):
    same = pd.DataFrame(dict.fromkeys(claims.sink_recent.READINGS, estimates(*differences)))
    assert claims.sink_recent.rule(same) == word


def test_at_the_margin_either_word_is_said_in_one_study_of_forty():
    (item,) = estimates((-0.02, 0.0, 0.02))
    rng = np.random.default_rng(8)
    words = [claims.sink_recent.word([fit.drawn(item, fit.MARGIN, rng)]) for _ in range(1000)]
    assert 10 < words.count("reproduced") < 45 and 10 < words.count("not reproduced") < 45


def test_each_word_has_data_that_give_it_and_the_power_says_so():
    same = pd.DataFrame(dict.fromkeys(claims.sink_recent.READINGS, estimates((-0.02, 0, 0.02))))
    found = claims.sink_recent.had_it_been(same, n=40)
    shares = found.set_index(["reading", "truth"])
    assert shares.loc[("KL", 0.0), "reproduced"] == 1
    assert shares.loc[("KL", fit.MARGIN), "partly"] > 0.8
    assert shares.loc[("TV", 0.2), "not reproduced"] == 1
    assert "0 gives KL reproduced 100%; TV reproduced 100%" in claims.sink_recent.power(found)


def test_the_verdict_is_the_word_that_the_readings_share():
    near, far = estimates((-0.05, 0, 0.05)), estimates((0.2, 0.3, 0.4))
    same = pd.DataFrame({"KL": far, "TV": near, claims.sink_recent.HALF: near})
    assert list(claims.sink_recent.readings(same).values()) == [
        "not reproduced",
        *["reproduced"] * 2,
    ]
    assert claims.sink_recent.rule(same) == "partly"


def test_half_of_kl_is_held_against_tv():
    """A TV that is no root of KL: its exponent is that of KL, not half."""
    law = finite(0.6)
    rows = rows_of(lambda b: law(b - 4), "sinks", spread=0.01)
    linear = suffix_rows(0.6).assign(tv=lambda table: table["kl_nats"] / 10)
    same = claims.sink_recent.same_exponent(rows, {("m", "c"): linear}, "sinks", "online")
    found = same[claims.sink_recent.HALF].item()
    wanted = fit.matched_slope(*(claims.policy_rows.curve(rows), fit.curve(linear)), 0.5)
    assert (
        found.value == pytest.approx(wanted.value) and found.value > 0.3
    )  # half of KL's exponent is the smaller one


def test_no_exponent_is_not_the_same_exponent():
    flat = rows_of(lambda b: 0.5 + 0 * b, "sinks", spread=0.01)
    suffix = {("m", "c"): suffix_rows(0.6)}
    found = claims.sink_recent.same_exponent(flat, suffix, "sinks", "online")
    assert claims.sink_recent.rule(found) == "not reproduced"
    assert str(found["difference"].item()) == str(found["policy"].item()) == "no exponent"


def test_exponents_are_compared_on_the_documents_of_that_policy():
    """Documents 4 to 7 beside another policy on 0 to 7: the suffixes of 0 to 3 must not count."""
    law = finite(0.6)
    ours = rows_of(lambda b: law(b - 4), "sinks", spread=0.01)
    other = rows_of(law, "random")
    suffix = suffix_rows(0.6)
    wild = suffix.assign(kl_nats=np.where(suffix["doc"] < 4, 1.0, suffix["kl_nats"]))
    both = pd.concat([ours[ours["doc"] >= 4], other])
    found = claims.sink_recent.same_exponent(both, {("m", "c"): wild}, "sinks", "online")
    assert found["documents"].item() == 4
    assert found["difference"].item().value == pytest.approx(0, abs=0.08)


def test_without_a_measurement_the_verdict_is_to_come(tmp_path):
    assert claims.sink_recent.rule(pd.DataFrame({"KL": []})) == "to come"
    assert claims.sink_recent.judge(tmp_path)[0].word == "to come"


def test_the_sentence_names_the_table_and_counts_documents():
    row = {"model": "m", "corpus": "c", "documents": 16}
    slopes = dict.fromkeys(claims.sink_recent.READINGS, estimates((-0.2, -0.1, 0.0))[0])
    same = pd.DataFrame([row | slopes])
    said = claims.sink_recent.sentence(same)
    assert "m on c \u22120.10 [\u22120.20,\u00a00]" in said and said.endswith(
        "16 or more documents each"
    )
