"""The live bench: its laws are those of the measurements, and its widgets show them."""

from __future__ import annotations

import numpy as np
import pytest

from kvlib import charts, measure, models
from kvlib.cache import policies
from kvlib.live import lab, pictures, widgets

TEXT = lab.EXAMPLE


@pytest.fixture(scope="module")
def bench(small):
    """A lab around the model that all test files share."""
    return lab.Lab(small)


@pytest.fixture
def widget(bench):
    bench.use("small-gpt2")
    return widgets.Bench(bench)


def last_row(bench, policy: str, budget: int, length: int):
    """What `policy_distortion` says of the last of `length` tokens."""
    rule, protocol = lab.setting(policy)
    ids = bench.ids(TEXT)[:length]
    table = measure.policy_distortion(bench.lm, [ids], [rule], [budget], protocol, every=1)
    return table.iloc[-1]


@pytest.mark.parametrize("policy", [lab.SUFFIX, "sliding", "sinks", "random", "h2o", "tova"])
def test_laws_are_those_of_policy_distortion(bench, policy):
    laws, row = bench.laws(TEXT, 60, policy, 16), last_row(bench, policy, 16, 60)
    assert laws.kl_nats == pytest.approx(row["kl_nats"], rel=1e-3, abs=1e-5)
    assert laws.tv == pytest.approx(row["tv"], rel=1e-3, abs=1e-5)
    assert laws.same_first == row["top1_same"]


def test_a_law_after_a_prefill_is_that_of_policy_distortion(bench):
    laws = bench.laws(TEXT, 80, "snapkv", 36)
    assert laws.kl_nats == pytest.approx(last_row(bench, "snapkv", 36, 80)["kl_nats"], rel=1e-3)
    assert laws.kl_nats > 0.01
    assert bench.laws(TEXT, 33, "snapkv", 34).kl_nats == 0


def test_the_suffix_is_two_plain_forward_passes(bench):
    ids = bench.ids(TEXT)
    laws = bench.laws(TEXT, 100, lab.SUFFIX, 12)
    pair = measure.naive_sensitivity(bench.lm, ids, [(99, 12)]).iloc[0]
    assert laws.kl_nats == pytest.approx(pair["kl_nats"], rel=1e-4)
    assert laws.tv == pytest.approx(pair["tv"], rel=1e-4)
    table = laws.table.set_index(["side", "rank"])
    for side, shown in (("full", ids[:100]), ("kept", ids[88:100])):
        law = np.exp(measure.next_token_law(bench.lm, shown))
        assert table.loc[side, "share"].tolist() == pytest.approx(
            np.sort(law)[::-1][: lab.TOP].tolist(), abs=1e-4
        )
        assert table.loc[(side, 1), "token"] == bench._token(int(law.argmax()))


@pytest.mark.parametrize("policy", [p for p in lab.POLICIES if p != "sinks-cache-positions"])
def test_a_budget_beyond_the_text_changes_nothing(bench, policy):
    laws = bench.laws(TEXT, 30, policy, 200)
    assert abs(laws.kl_nats) < 1e-6 and laws.tv < 1e-4 and laws.same_first
    assert "nothing is lost" in laws.sentence


@pytest.mark.parametrize(
    "settings, line",
    [
        (("  ", None, lab.SUFFIX, 16), "expected some words"),
        ((TEXT, 9999, lab.SUFFIX, 16), "position: expected 1 to"),
        ((TEXT, 0, lab.SUFFIX, 16), "position: expected 1 to"),
        ((TEXT, None, "forget-me-not", 16), "policy: expected one of"),
        ((TEXT, None, "sinks", 3), "budget: expected at least 5, got 3"),
        ((TEXT, None, "sinks-cache-positions", 16), "rotary"),
    ],
)
def test_refusals_are_one_line(bench, settings, line):
    with pytest.raises(ValueError, match=line) as refused:
        bench.laws(*settings)
    assert "\n" not in str(refused.value)


def test_windows_beyond_the_text_are_refused_before_anything_is_measured(bench):
    with pytest.raises(ValueError, match="text: expected 768 tokens or more for windows up to 64"):
        bench.measure(TEXT, max_window=64)
    with pytest.raises(ValueError, match="some words"):
        bench.measure("")


def test_a_long_text_is_read_as_far_as_the_model_can(bench):
    assert len(bench.ids("and " * 3000)) == bench.lm.model.config.max_position_embeddings


def test_a_measured_curve_is_that_of_truncation_sensitivity(bench):
    steps = list(bench.measure(TEXT, max_window=8, documents=4))
    assert [step.done for step in steps] == [0, 1, 2, 3, 4]
    assert steps[-1].seconds_left == 0 and all(step.curve is None for step in steps[:-1])
    length = min(len(bench.ids(TEXT)) // 4, 32)
    stretches = [bench.ids(TEXT)[k * length : (k + 1) * length] for k in range(4)]
    table = measure.truncation_sensitivity(bench.lm, stretches, 8, pairs_per_octave=256)
    alone = table[table["window"] == 1].groupby("doc")["kl_nats"].mean().mean()
    assert steps[-1].curve["kl_nats"].iloc[0] == pytest.approx(alone, rel=5e-3)


def test_moving_a_widget_changes_the_law_that_is_shown(widget):
    seen = {(widget.picture.value, widget.status.value)}
    for control, value in (
        (widget.budget, 64),
        (widget.policy, "sinks"),
        (widget.position, 100),
        (widget.text, "In the beginning God created the heavens and the"),
    ):
        control.value = value
        seen.add((widget.picture.value, widget.status.value))
    assert len(seen) == 5 and all(picture for picture, _ in seen)
    assert widget.position.value == widget.position.max < 20


def test_what_goes_wrong_is_one_line_in_the_widget_and_no_law_stays(widget):
    for control, wrong, right in (
        (widget.text, "   ", TEXT),
        (widget.other, "no such model", ""),
        (widget.budget, 1, 16),
    ):
        widget.policy.value = "sinks"
        control.value = wrong
        assert widget.status.value.startswith(widgets.ERROR) and widget.picture.value == ""
        assert "\n" not in widget.status.value and "Traceback" not in widget.status.value
        control.value = right
        assert not widget.status.value.startswith(widgets.ERROR) and widget.picture.value


def test_a_model_that_is_not_there_is_not_silently_another_one(widget):
    widget.other.value = "no such model"
    widget.budget.value = 8
    assert "no such model" in widget.status.value and widget.picture.value == ""
    widget.other.value = ""
    assert widget.picture.value


def test_a_local_folder_is_a_model(widget, tiny_folder):
    widget.other.value = str(tiny_folder)
    assert widget.lab.model == str(tiny_folder) and widget.picture.value
    assert not widget.status.value.startswith(widgets.ERROR)


def test_the_button_measures_a_curve_and_progress_reaches_the_end(widget):
    before = len(widget.parts)
    widget.longest.value = 8
    widget.button.click()
    assert widget.progress.value == widget.progress.max == 6
    assert widget.eta.value == "6 of 6 stretches, 0 s left"
    assert len(widget.parts) == before + 1 and not widget.button.disabled
    chosen = widget.figure.children[0].children[0]
    assert chosen.value == "the small GPT-2 on your text, run 1"
    widget.longest.value = 256
    widget.button.click()
    assert widget.status.value.startswith(f"{widgets.ERROR}text: expected 3072 tokens")
    assert len(widget.parts) == before + 1 and not widget.button.disabled


def test_every_policy_has_a_setting_and_every_model_a_place(widget):
    assert set(lab.POLICIES) == {lab.SUFFIX, *policies.NAMED}
    for name in lab.POLICIES:
        rule, protocol = lab.setting(name)
        assert protocol in rule.protocols
    assert {value for _, value in widget.model.options} == {*models.TRAINED, *models.EMBEDDED}


def test_the_recorded_run_holds_every_choice_and_escapes_its_tokens(bench):
    grid = bench.grid("if a < b:\n</script>", [lab.SUFFIX, "sliding"], [2, 4])
    assert len(grid) == 2 * 2 * 2 * lab.TOP
    drawn = pictures.recorded(grid, 4)
    assert drawn.to_html().count("</script>") == 1
    assert [control.name for control in drawn.controls] == ["policy", "budget"]
    names = [layer.get("name") for layer in drawn.spec()["layer"]]
    assert names.count(charts.controls.READING) == 1


def test_without_a_kernel_a_line_says_how_to_start_one():
    assert "make live" in widgets.start().data


def test_with_a_kernel_the_bench_itself_comes(monkeypatch):
    monkeypatch.setattr(charts.controls, "kernel_is_live", lambda: True)
    assert isinstance(widgets.start(), widgets.Bench)
