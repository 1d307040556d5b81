"""Laws of the controls that need no browser."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import altair as alt
import pandas as pd
import pytest

from kvlib.charts.controls import LIVE_STOPS, Choice, Explorer, Origin, Slider

WINDOWS = Slider("window", "Window", 1, 1024, value=64, scale="log", unit="tokens")
MODELS = Choice("model", "Model", [("small", "Small one"), ("large", "Large one")])


def chart(*names: str) -> alt.LayerChart:
    """A chart with a curve and a reading that declares parameters of the given names."""
    rows = pd.DataFrame({"window": [1, 64, 1024], "kl_nats": [2.0, 0.5, 0.1]})
    base = alt.Chart(rows)
    line = base.mark_line().encode(x="window", y="kl_nats")
    reading = base.mark_text(fontSize=13).encode(text="kl_nats:Q").properties(name="reading")
    return alt.layer(line, reading).add_params(*(alt.param(name=name, value=0) for name in names))


def explorer() -> Explorer:
    """The explorer that most tests look at."""
    return Explorer(chart("window", "model"), [WINDOWS, MODELS], "Sensitivity by window")


def payload(html: str) -> dict:
    """The JSON that the loader reads out of an explorer's HTML."""
    return json.loads(re.search(r'<script type="application/json"[^>]*>(.*?)</script>', html)[1])


def output_of(code: str) -> str:
    """What Python code prints in a process of its own that can import what this one can."""
    path = [str(Path(__file__).parent), *sys.path]
    run = [sys.executable, "-c", f"import sys; sys.path[:0] = {path!r}; {code}"]
    return subprocess.run(run, capture_output=True, text=True, check=True).stdout


def test_a_log_slider_reaches_every_integer_once_and_both_ends():
    assert list(WINDOWS.values) == list(range(1, 1025))


def test_a_slider_with_a_fractional_step_has_no_floating_point_dust():
    assert Slider("x", "x", 0, 0.3, step=0.1).values == (0, 0.1, 0.2, 0.3)


def test_a_slider_takes_the_values_it_is_given():
    assert Slider("x", "x", values=(8, 13, 21), value=13).values == (8, 13, 21)


def test_live_stops_are_values_even_on_the_log_track_with_ends_and_start_value():
    stops = WINDOWS.stops()
    assert set(stops) <= set(WINDOWS.values) and {1, 64, 1024} <= set(stops)
    assert list(stops) == sorted(set(stops)) and len(stops) <= LIVE_STOPS + 2
    longest = 2 ** (10 / LIVE_STOPS)  # one step of the track
    assert all(b <= max(a + 1, a * longest + 1) for a, b in zip(stops, stops[1:], strict=False))


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"start": 1, "stop": 8, "value": 9}, "expected value to be one of the 8 values from 1"),
        ({"start": 0, "stop": 8, "scale": "log"}, "starts above 0, got 0"),
        ({"start": 1, "stop": 8, "scale": "cubic"}, "expected linear or log, got 'cubic'"),
        ({"start": 1, "stop": 8, "step": 0}, "expected start, stop and step > 0"),
        ({"start": 1}, "expected start, stop and step > 0"),
        ({"start": 8, "stop": 1}, r"two or more rising values, got \[\]"),
        ({"values": [1, 3, 2]}, r"two or more rising values, got \[1, 3, 2\]"),
        ({"values": [1, 3], "axis": "x", "places": [1]}, "expected 2 places, got 1"),
        ({"values": [1, 3], "axis": "x", "places": {"a": [1, 2, 3]}}, "expected 2 places, got 3"),
    ],
)
def test_a_slider_that_cannot_work_raises_one_clear_line(settings, complaint):
    with pytest.raises(ValueError, match=complaint) as raised:
        Slider("window", "Window", **settings)
    assert "\n" not in str(raised.value) and "'window'" in str(raised.value)


@pytest.mark.parametrize(("options", "value"), [([], None), ([("a", "A")], "b")])
def test_a_choice_without_its_value_raises(options, value):
    with pytest.raises(ValueError, match="choice 'model': expected one"):
        Choice("model", "Model", options, value)


def test_a_control_that_names_no_parameter_raises_with_expected_and_got():
    with pytest.raises(ValueError, match=r"parameters \['model'\], got \['window'\]"):
        Explorer(chart("model"), [WINDOWS, MODELS], "label")


def test_two_controls_for_one_parameter_raise():
    with pytest.raises(ValueError, match="one control for each parameter"):
        Explorer(chart("window"), [WINDOWS, WINDOWS], "label")


def test_a_parameter_without_a_control_or_a_value_raises():
    unset = chart("window").add_params(alt.param(name="model"))
    with pytest.raises(ValueError, match=r"control or a value for parameters \['model'\]"):
        Explorer(unset, [WINDOWS], "label")
    by_rule = chart("window").add_params(alt.param(name="double", expr="2 * window"))
    assert Explorer(by_rule, [WINDOWS], "label").spec()["params"][1]["expr"] == "2 * window"


def test_a_choice_of_one_thing_sets_its_parameter_and_is_not_shown():
    only = Explorer(chart("window", "model"), [WINDOWS, Choice("model", "M", [("a", "A")])], "x")
    assert {"name": "model", "value": "a"} in only.spec()["params"]
    assert "<select" not in only.to_html() and len(payload(only.to_html())["controls"]) == 1


def test_the_control_sets_the_parameter_and_takes_its_bind_away():
    bound = chart().add_params(alt.param(name="window", value=3, bind=alt.binding_range()))
    before = bound.to_dict()
    spec = Explorer(bound, [WINDOWS], "label").spec()
    assert spec["params"] == [{"name": "window", "value": 64}]
    assert bound.to_dict() == before


def test_html_holds_the_spec_the_controls_and_the_label():
    html = explorer().to_html()
    data = payload(html)
    assert 'role="group" aria-label="Sensitivity by window"' in html
    assert [control["name"] for control in data["controls"]] == ["window", "model"]
    assert data["spec"] | {"datasets": explorer().spec()["datasets"]} == explorer().spec()
    assert data["spec"]["width"] == "container"
    assert (
        'aria-valuetext="64 tokens"' in html
        and "<output" not in html
        and html.count("<option") == 2
    )


def test_a_table_is_kept_by_columns_with_each_text_once():
    rows = pd.DataFrame({"model": ["a", "b", "a"], "kl_nats": [1.5, None, 3]})
    html = Explorer(alt.Chart(rows).mark_point().encode(y="kl_nats"), [], "label").to_html()
    (table,) = payload(html)["tables"].values()
    assert table["model"] == {"texts": ["a", "b"], "places": [0, 1, 0]}
    assert table["kl_nats"] == [1.5, None, 3]


def test_the_reading_stands_under_a_static_picture_not_within_it():
    spec = explorer().spec()
    assert spec["layer"][1]["mark"]["fontSize"] == 0
    assert '<p class="kv-reading" aria-live="polite"></p>' in explorer().to_html()
    silent = alt.Chart(pd.DataFrame({"x": [1]})).mark_point().encode(x="x")
    assert "kv-reading" not in Explorer(silent, [], "label").to_html()


def test_no_text_can_end_the_script_or_the_attribute_it_stands_in():
    evil = '"></script><script>alert(1)</script>'
    choice = Choice("model", evil, [(evil, evil), ("", "")])
    html = Explorer(chart("model").properties(title=evil), [choice], evil).to_html()
    assert html.count("<script") == html.count("</script>") == 1
    assert payload(html)["spec"]["title"] == evil and payload(html)["controls"][0]["value"] == evil


def test_html_is_the_same_in_another_process():
    code = "from test_controls import explorer; print(explorer().to_html(), end='')"
    assert output_of(code) == explorer().to_html()


def test_more_rows_than_altair_likes_are_no_error():
    rows = pd.DataFrame({"x": range(6000)})
    assert "5999" in Explorer(alt.Chart(rows).mark_point().encode(x="x"), [], "label").to_html()


def test_live_controls_move_the_parameters_of_the_chart():
    window, model, picture = explorer().widget().children
    assert (picture.params.window, picture.params.model) == (64, "small")
    window.value, model.value = 1024, "large"
    assert (picture.params.window, picture.params.model) == (1024, "large")
    assert all("bind" not in param for param in picture.spec["params"])
    assert picture.spec["layer"][1]["mark"]["fontSize"] == 13


@pytest.mark.parametrize(("static", "live"), [("0", True), ("1", False)])
def test_a_kernel_gets_a_widget_unless_static_output_is_asked_for(monkeypatch, static, live):
    class Shell:
        kernel = object()

    import IPython

    monkeypatch.setattr(IPython, "get_ipython", Shell)
    monkeypatch.setenv("KVLIB_STATIC", static)
    bundle = explorer()._repr_mimebundle_()
    assert ("application/vnd.jupyter.widget-view+json" in bundle) is live
    assert bundle["text/html"] == explorer().to_html()


def test_without_a_kernel_there_is_html_only(monkeypatch):
    monkeypatch.delenv("KVLIB_STATIC", raising=False)
    assert sorted(explorer()._repr_mimebundle_()) == ["text/html", "text/plain"]


def test_importing_the_module_is_light():
    code = "import kvlib, sys; print({'torch', 'altair', 'ipywidgets'} & set(sys.modules))"
    assert output_of(code) == "set()\n"


# --- rules in the picture, and where data come from ----------------------------------------------


def ruled(**where) -> Slider:
    return Slider("window", "Window", values=[1, 64], value=64, scale="log", **where)


def test_a_slider_says_where_its_rule_stands_only_if_the_picture_has_one():
    assert not {"axis", "places", "by", "aligned"} & ruled().to_json().keys()
    assert ruled(axis="y").to_json().items() >= {"axis": "y", "aligned": False}.items()
    across = ruled(axis="x", places=[2, 60]).to_json()
    assert across.items() >= {"axis": "x", "aligned": True, "places": [2, 60]}.items()
    either = ruled(axis="x", aligned=False, by=["model"], places={"a": (1, 2)}).to_json()
    assert either.items() >= {"aligned": False, "by": ["model"], "places": {"a": [1, 2]}}.items()


def test_an_explorer_without_the_rule_of_its_slider_raises():
    with pytest.raises(ValueError, match=r"rule of each slider, got no \['window_rule'\]"):
        Explorer(chart("window"), [ruled(axis="x")], "x")
    bare = chart("window")
    bare.layer[0].name = "window_rule"
    Explorer(bare, [ruled(axis="x")], "x")


def test_an_explorer_says_which_tables_it_is_made_of_and_by_which_command():
    assert "origin" not in payload(explorer().to_html())
    origin = Origin(["online", "suffix"], {"kl": "nats"})
    said = payload(Explorer(chart("window"), [WINDOWS], "x", origin).to_html())["origin"]
    assert said["command"] == "python -m kvlib study online suffix"
    assert said["tables"] == ["online-…", "suffix-…"] and said["units"] == {"kl": "nats"}
    assert Origin().to_json()["command"] == ""
