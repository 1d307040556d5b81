"""The pictures of drafting: Vega's arithmetic is `kvlib.theory.drafting`, at every setting."""

from __future__ import annotations

import itertools
import json
import re

import numpy as np
import pandas as pd
import pytest
import vl_convert
from spoken import figures, numbers, sentence

from kvlib import charts
from kvlib.charts import drafting as drawn
from kvlib.theory import drafting

LOAD = {"weights": 269e6, "token_bytes": 23_040}
SMALL, LARGE = "small|text", "large|text"
ROWS = [(SMALL, 16, 0.46, True), (SMALL, 23, 0.4, False), (SMALL, 1024, 0.05, True)]
ROWS += [(LARGE, 16, 0.97, True), (LARGE, 23, 0.3, False), (LARGE, 1024, 0.004, True)]


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    names = {SMALL: "Small on the text", LARGE: "Large on the text"}
    rows = pd.DataFrame(ROWS, columns=["setting", "window", "tv", "measured"])
    rows = rows.assign(where=rows["setting"].map(names), documents=8, **LOAD)
    rows.loc[rows["setting"] == LARGE, "weights"] = 3e9
    return rows


@pytest.fixture(scope="module")
def explorer(table):
    return drawn.speed(table, window=16)


def computed(table: pd.DataFrame, **settings: float) -> pd.DataFrame:
    """The rows that Vega makes of a table."""
    chart = drawn.with_speed(drawn.alt.Chart(table)).mark_point().encode(y="speed:Q")
    params = [drawn.alt.param(name=name, value=value) for name, value in settings.items()]
    spec = chart.add_params(*params).to_dict()
    text = ["window", "tokens", "least", "plain", "bytes", "speed", "pays_context", "pays_batch"]
    spec["encoding"]["description"] = {"field": "told", "type": "nominal"}
    told = "[" + ", ".join(f"datum.{name}" for name in text) + "]"
    spec["transform"].append({"calculate": f"'(' + join({told}, ' ') + ')'", "as": "told"})
    drawing = vl_convert.vegalite_to_svg(spec)
    found = [part.split(")")[0] for part in drawing.split("(")[1:]]
    rows = [part.split() for part in found if len(part.split()) == len(text)]
    return pd.DataFrame(rows, columns=text).astype(float).drop_duplicates()


@pytest.mark.parametrize(
    ("draft", "context", "batch"), [(1, 2048, 1), (4, 8192, 32), (16, 3072, 128)]
)
def test_the_picture_computes_what_the_library_does(table, draft, context, batch):
    rows = table[table["setting"] == SMALL]
    found = computed(rows, draft=draft, context=context, batch=batch).set_index("window")
    assert len(found) == len(rows)
    for row in rows.itertuples():
        tokens = drafting.tokens_a_round(1 - row.tv, draft)
        size = (draft, row.window)
        plain = drafting.step_bytes(**LOAD, sequences=batch, held=context)
        whole = drafting.round_bytes(*size, context, batch, **LOAD)
        fewest = drafting.break_even_sequences(tokens, *size, context, **LOAD)
        expected = {
            "tokens": tokens,
            "least": tokens / (draft + 1),
            "plain": plain / batch,
            "bytes": whole / (batch * tokens),
            "speed": drafting.speed_up(tokens, *size, context, batch, **LOAD),
            "pays_context": drafting.break_even_context(tokens, *size, batch, **LOAD),
            "pays_batch": fewest if np.isfinite(fewest) else -1,
        }
        for name, value in expected.items():
            assert found.loc[row.window, name] == pytest.approx(float(value), rel=1e-9), name


def test_the_sentence_reads_rate_tokens_bytes_speed_and_break_even(explorer):
    said = sentence(explorer, draft=4, context=8192, batch=32)
    tokens = drafting.tokens_a_round(1 - 0.46, 4)
    size = (4, 16)
    plain = drafting.step_bytes(**LOAD, sequences=32, held=8192) / 32e6
    read = drafting.round_bytes(*size, 8192, 32, **LOAD) / (32e6 * tokens)
    speed = drafting.speed_up(tokens, *size, 8192, 32, **LOAD)
    heard = numbers(said)
    expected = [16, 46, 2048, 4, figures(tokens, 3), 32, 8192]
    assert heard[:7] == expected
    assert heard[7:10] == [figures(x, 3) for x in (read, plain, speed)]
    assert said.startswith("Small on the text, 16 entries: 46% of drafted tokens are rejected")
    assert "as measured behind at most 2,048 tokens" in said
    assert "measured behind" not in sentence(explorer, context=2048)
    assert "read between two measured windows" in sentence(explorer, window=23)


def test_the_sentence_says_when_it_does_not_pay(explorer):
    slow = sentence(explorer, draft=1, context=2048, batch=1)
    assert "so it does not pay" in slow and "1 token at a time" in slow
    assert "1 sequence of 2,048 tokens" in slow
    assert "contexts of more than 8,192 tokens" in slow
    never = sentence(explorer, setting=LARGE, window=16, draft=16, context=2048, batch=128)
    assert "so it does not pay" in never and "at no batch here" in never
    always = sentence(explorer, draft=1, context=8192, batch=128, window=1024)
    assert "pays at every context here" in always and "does not pay" not in always


def test_it_pays_from_where_the_library_says(explorer):
    tokens = drafting.tokens_a_round(1 - 0.46, 2)
    said = sentence(explorer, draft=2, context=4096, batch=4)
    context = drafting.break_even_context(tokens, 2, 16, 4, **LOAD)
    batch = drafting.break_even_sequences(tokens, 2, 16, 4096, **LOAD)
    assert 2048 < context < 8192 and batch > 1
    assert f"pays from {np.ceil(context):,.0f} tokens on" in said
    assert f"from {np.ceil(batch):,.0f} sequences on" in said


def test_a_pass_of_many_tokens_comes_with_a_warning(explorer):
    assert "may wait for arithmetic" not in sentence(explorer, draft=7, batch=32)
    assert "verifies 288 tokens may wait for arithmetic" in sentence(explorer, draft=8, batch=32)


def test_no_extreme_of_a_control_makes_an_odd_sentence(explorer):
    ends = {control.name: (control.values[0], control.values[-1]) for control in explorer.controls}
    for values in itertools.product(*ends.values()):
        said = sentence(explorer, **dict(zip(ends, values, strict=True)))
        assert not any(odd in said for odd in ("NaN", "Infinity", "undefined", "null", "e+", "e-"))
        assert not re.search(r"(?<![\d.,])(0%|-0|1 tokens|1 sequences|0 )", said), said
        assert said.endswith(".") and ".." not in said


# --- real rounds ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def counted() -> pd.DataFrame:
    """Two windows, two ways and two draft lengths, all numbers different."""
    rows = [
        {
            **{"setting": SMALL, "where": "Small on the text", "way": way, "window": window},
            **{"draft": draft, "tokens": at, "low": at - 0.2512, "high": at + 0.2534},
            **{"independent": at + 0.1234, "kept": at / 7.9, "of_text": of_text},
            **{"documents": 8, "rounds": 100 + k},
        }
        for k, (way, window, draft) in enumerate(
            itertools.product(["greedy", "sampled"], [16, 64], [1, 2])
        )
        for at, of_text in [(1.53 + 0.117 * k, 1.25 if window == 16 else np.nan)]
    ]
    return pd.DataFrame(rows)


def test_the_rounds_that_were_counted_are_read_out(counted):
    explorer = drawn.rounds(counted, window=16)
    for row in counted.to_dict("records"):
        chosen = {name: row[name] for name in ("way", "window", "draft")}
        said = sentence(explorer, **chosen)
        assert f"{row['way']}, {row['window']} entries" in said
        heard = numbers(said)
        for name in ("tokens", "low", "high", "independent"):
            assert figures(row[name], 3) in heard
        assert figures(100 * row["kept"], 3) in heard
        assert ("TV on the text promises" in said) == (row["window"] == 16)
        assert said.endswith(f"{row['rounds']} rounds, 8 documents.") and "NaN" not in said


def test_pictures_are_drawn_with_all_their_layers(table, counted):
    for made in (drawn.speed(table, window=16), drawn.rounds(counted, window=16)):
        svg = vl_convert.vegalite_to_svg(made.spec() | {"width": 600})
        assert svg.count("<path") > 5 and json.loads(json.dumps(made.spec()))
    assert charts.drafting is drawn
