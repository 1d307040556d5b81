"""Verdicts follow their rules, both ways, and the front page says what they say."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from kvlib import claims, fit
from kvlib.claims.claim import Verdict

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def stored_verdicts() -> list[Verdict]:
    """The verdicts from the tables that travel with the library."""
    return claims.front.verdicts()


@pytest.fixture(scope="module")
def without_tables(tmp_path_factory) -> list[Verdict]:
    return claims.front.verdicts(tmp_path_factory.mktemp("empty"))


def test_without_measurements_a_claim_about_models_is_to_come(without_tables):
    exact = {"C6": "definition checked", "C7": "definition checked", "C8": "open"}  # need none
    found = {item.claim.id: item.word for item in without_tables}
    claims_in_order = [claim.id for claim in claims.front.claims()]
    assert claims_in_order == [f"C{k + 1}" for k in range(len(claims_in_order))]
    assert found == {id: exact.get(id, "to come") for id in claims_in_order}
    assert all(item.rule for item in without_tables)


def test_every_claim_has_a_page_and_with_the_stored_tables_a_verdict(stored_verdicts):
    assert tuple(item.claim for item in stored_verdicts) == claims.front.claims()
    assert all(item.word != "to come" and item.sentence for item in stored_verdicts)
    assert all(item.rule and item.figures and item.power for item in stored_verdicts)
    pages = {path.stem for path in (ROOT / "notebooks").glob("*.md")}
    assert {item.claim.page for item in stored_verdicts} <= pages


def test_a_page_judges_its_own_claims():
    for page in claims.front.PAGES:
        name = page.__name__.split(".")[-1]
        assert {claim.page for claim in page.CLAIMS} == {name}


def test_every_interval_on_data_says_of_what_it_is(stored_verdicts):
    measured = [
        figure for item in stored_verdicts for figure in item.figures if figure.low is not None
    ]
    assert len(measured) > 100
    assert all(figure.low <= figure.estimate <= figure.high for figure in measured)
    assert all(figure.n >= 3 and figure.model and figure.corpus for figure in measured)


def test_the_verdicts_as_json_are_the_verdicts(stored_verdicts):
    read = json.loads(claims.front.to_json(stored_verdicts))
    assert [item["claim"]["id"] for item in read] == [item.claim.id for item in stored_verdicts]
    back = [
        Verdict(
            claim=claims.claim.Claim(**item.pop("claim")),
            figures=tuple(claims.claim.Figure(**figure) for figure in item.pop("figures")),
            **item,
        )
        for item in read
    ]
    assert back == stored_verdicts


def test_the_verdicts_as_text_hold_rule_sentence_and_each_figure(stored_verdicts):
    text = claims.front.to_text(stored_verdicts)
    flat = " ".join(text.split())
    for item in stored_verdicts:
        assert f"{item.claim.id} {item.word}" in flat
        assert item.claim.text in flat and item.rule in flat
        assert " ".join(item.sentence.split()) in flat
    lines = sum(line.startswith("      ") for line in text.splitlines())
    assert lines == sum(len(item.figures) for item in stored_verdicts)


def findings(readme: str) -> str:
    """The table of verdicts in README.md."""
    return readme.split("<!-- kvlib verdicts --markdown -->\n")[1].split("\n<!-- end -->")[0]


def test_the_readme_says_what_was_found(stored_verdicts):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert findings(readme) == claims.front.to_markdown(stored_verdicts), (
        "README.md: expected what `kvlib verdicts --markdown` prints between the two marks"
    )
    other = stored_verdicts[1:]
    assert findings(readme) != claims.front.to_markdown(other)


def test_the_readmes_sentence_on_exponentials_holds_on_every_table(stored_verdicts):
    (decay,) = [item for item in stored_verdicts if item.claim.id == "C2"]
    bends = [figure for figure in decay.figures if figure.name.startswith("bend b")]
    assert len(bends) >= 40 and all(figure.high < 1 for figure in bends)
    assert decay.word == "reproduced"  # "no more than a power law would"


def test_a_figure_in_a_line_says_what_it_has_and_nothing_else():
    claim = claims.claim.Claim("C0", "said", "sensitivity")
    figures = (
        claims.claim.Figure("bits", 160.0),
        claims.claim.Figure(
            *("α", 0.5, 0.4, 0.6, 24, "gemma3-270m", "scipy-docs", "KL", "online"),
            policy="sinks",
            budget=1024,
        ),
        claims.claim.figure_of("α", fit.Estimate(0, 0, 0, 16, flat=True), distance="TV"),
    )
    readings = {"KL": "reproduced", "TV": "not reproduced"}
    said = claims.front.to_text([Verdict(claim, "partly", "all", "a rule", figures, readings)])
    assert [line.strip() for line in said.splitlines()] == [
        *("C0  partly", "said", "Rule: a rule", "all", "KL: reproduced", "TV: not reproduced"),
        "bits = 160",
        "α = 0.5 [0.4, 0.6]; n = 24; Gemma-3-270M on SciPy's docstrings; KL; online; "
        "4 sinks + recent; budget 1,024",
        "α = none; n = 16; TV",
    ]


def test_the_command_prints_what_the_front_page_rests_on(monkeypatch):
    from kvlib import __main__ as command_line

    claim = claims.claim.Claim("C0", "said", "sensitivity")
    items = [Verdict(claim, "partly", "all", "a rule", (claims.claim.Figure("α", 0.5),))]
    monkeypatch.setattr(claims.front, "verdicts", lambda: items)
    run = CliRunner().invoke
    assert run(command_line.app, ["verdicts"]).output == claims.front.to_text(items) + "\n"
    (printed,) = json.loads(run(command_line.app, ["verdicts", "--json"]).output)
    assert printed == json.loads(claims.front.to_json(items))[0]


@pytest.mark.parametrize("bad", [("great", {}), ("partly", {"TV": "great"})])
def test_a_word_that_no_rule_may_give_is_refused(bad):
    word, readings = bad
    claim = claims.front.claims()[0]
    with pytest.raises(ValueError, match="expected one of reproduced, .*, got 'great'"):
        Verdict(claim, word, "", "", readings=readings)


def test_a_rule_is_printed_from_its_docstring():
    assert claims.claim.rule_text(claims.sensitivity.rule).startswith("C2, by the bend b")
    with pytest.raises(ValueError, match="expected a docstring that states the rule"):
        claims.claim.rule_text(lambda table: "partly")


def test_figures_take_their_place_from_the_row():
    rows = pd.DataFrame(
        {"model": ["m"], "budget": [64], "a": [fit.Estimate(3, 2, 4, 24)], "b": ["x"]}
    )
    (found,) = claims.claim.figures_of(rows, {"a": "ratio"}, distance="TV")
    assert found == claims.claim.Figure(
        "ratio", 3.0, 2.0, 4.0, 24, model="m", distance="TV", budget=64
    )


def test_the_html_table_names_every_claim_and_escapes_its_text(without_tables):
    claim = claims.claim.Claim("C0", "a < b & c", "sensitivity")
    html = claims.front.to_html([Verdict(claim, "partly", "α > 0", "")])
    assert "a &lt; b &amp; c" in html and "α &gt; 0" in html
    assert 'href="../notebooks/sensitivity.html"' in html
    whole = claims.front.to_html(without_tables)
    assert all(f"<td>{claim.id}</td>" in whole for claim in claims.front.claims())


def test_the_html_has_a_tally_in_the_order_of_words():
    claim = claims.claim.Claim("C0", "said", "sensitivity")
    items = [Verdict(claim, word, "", "") for word in ("open", "partly", "reproduced", "partly")]
    assert claims.front.tally(items) == {"reproduced": 1, "partly": 2, "open": 1}
    first = claims.front.tally_html(items)
    assert "Of the paper's 4 claims" in first
    assert first.index("1 reproduced") < first.index("2 partly") < first.index("1 open")


def test_what_a_verdict_rests_on_is_folded():
    claim = claims.claim.Claim("C2", "said", "sensitivity")
    figures = (claims.claim.Figure("bend b, finite reference", 0.1, 0.0, 0.2, 24),)
    item = Verdict(claim, "partly", "a < b", "a rule", figures, {"KL": "partly"}, "in 3% so")
    before, folded = claims.front.to_html([item]).split("<details>")
    assert claims.tracks.plain(item) in before and claims.tracks.bar(item) in before
    assert "a rule" not in before and "a &lt; b" not in before
    for text in ("a &lt; b", "KL: partly", "a rule", "in 3% so"):
        assert text in folded.split("</details>")[0]
    assert "in 3% so" in claims.front.to_text([item])


def test_every_claim_is_said_plainly_and_has_a_bar(stored_verdicts):
    bare = [item.claim.id for item in stored_verdicts if not claims.tracks.bar(item)]
    assert bare == [], "expected a track that matches a figure of each verdict"
    said = [claims.tracks.plain(item) for item in stored_verdicts]
    assert all(text.endswith(".") and len(text) < 120 for text in said)
