"""The published table: each architecture's row is what its toy shows here, trial by trial."""

from __future__ import annotations

import functools
import json

import pytest
import torch
import transformers

from kvlib.cache import toys, trials
from kvlib.cache.bounded import BoundedCache
from kvlib.study import architectures

TOYS = {toy.name: toy for toy in toys.toys() if toys.is_here(toy)}
STORED = {one["name"]: one for one in architectures.read()["rows"]}
OTHER_VERSION = architectures.read()["versions"]["transformers"] != transformers.__version__
CHEAP = ("exact", "padding")  # of each; the others of two


def words(found: dict[str, trials.Found]) -> dict[str, tuple[str, str]]:
    """Words and reasons; numbers are another processor's."""
    return {name: (cell.word, cell.reason) for name, cell in found.items()}


@functools.cache
def toy(name: str):
    return toys.made(TOYS[name])


@pytest.mark.parametrize("name", TOYS)
def test_a_row_is_what_its_toy_shows(name):
    stored = architectures.cells(STORED[name])
    found = trials.tried(toy(name), CHEAP)
    if not (OTHER_VERSION and {cell.word for cell in found.values()} == {"yes"}):
        assert words(found) == {trial: words(stored)[trial] for trial in CHEAP}
    for cells in (found, stored):
        for trial in architectures.DISTANCES:
            if trial in cells and cells[trial].word == "yes":
                assert cells[trial].number < 1e-4
    assert type(toy(name)).__name__ == STORED[name]["class"]


@pytest.mark.parametrize("name", ["Gemma 3", "Mixtral"])
def test_all_other_trials_of_a_row(name):
    rest = tuple(trial for trial in trials.TRIALS if trial != "compiled")
    stored = words(architectures.cells(STORED[name]))
    assert words(trials.tried(toy(name), rest)) == {trial: stored[trial] for trial in rest}


def test_a_compiled_step_is_compiled_once():
    (found,) = trials.tried(toy("GPT-2"), ("compiled",)).values()
    stored = architectures.cells(STORED["GPT-2"])["compiled"]
    assert (found.word, found.reason) == (stored.word, stored.reason)


def test_the_table_is_whole():
    assert set(STORED) >= set(TOYS)
    assert len({one["class"] for one in STORED.values()}) >= 30
    for one in STORED.values():
        assert trials.TRIALS.keys() - {"compiled"} <= one["found"].keys() <= trials.TRIALS.keys()
        for cell in architectures.cells(one).values():
            assert cell.word == "yes" or (cell.word == "no" and cell.reason)


# --- the reference, and that it can tell ----------------------------------------------------------


def test_what_is_seen_by_hand():
    rows = trials.seen(tokens=6, budget=3, n_sink=1, window=0).int().tolist()
    assert rows == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 0, 1, 1, 0, 0],
        [1, 0, 0, 1, 1, 0],
        [1, 0, 0, 0, 1, 1],
    ]
    assert trials.seen(6, 3, 1, window=2)[5].int().tolist() == [0, 0, 0, 0, 1, 1]


@pytest.mark.parametrize(("name", "modules"), [("Llama", 2), ("Gemma 3", 2), ("Bloom (ALiBi)", 2)])
def test_the_reference_reaches_each_layer(name, modules):
    assert len(trials.attentions(toy(name))) == modules


def test_windows_of_the_layers_are_in_the_reference():
    model = toy("Gemma 3")
    text = trials.some_text(model, trials.LENGTH)
    with_windows = trials.expected(model, text)
    assert [trials.window_of(model, k, m) for k, m in enumerate(trials.attentions(model))] == [9, 0]
    model.config.sliding_window = 99
    try:
        assert (trials.expected(model, text) - with_windows).abs().max() > 1e-2
    finally:
        model.config.sliding_window = 9


@pytest.mark.parametrize("name", ["Llama", "Gemma 2", "GPT-2"])
def test_a_cache_that_is_off_by_one_entry_is_noticed(name, monkeypatch):
    def off(budget, n_sink, **settings):
        return BoundedCache(budget + 1, n_sink, **settings)

    model, names = toy(name), ("exact", "batch", "padding", "bf16")
    monkeypatch.setattr(trials, "BoundedCache", off)
    found = trials.tried(model, names)
    assert {cell.word for cell in found.values()} == {"no"}


def test_another_cache_in_its_place_is_noticed():
    out = type(
        "Out", (), {"past_key_values": None, "sequences": torch.ones(1, 2, dtype=torch.long)}
    )
    cache = BoundedCache(8, model=toy("Llama"))
    assert trials._same(out, torch.ones(1, 2, dtype=torch.long), cache).reason == (
        "the class puts another cache in its place"
    )
    out.past_key_values, out.sequences = cache, torch.tensor([[1, 1, 2]])
    assert (
        "another text from its token"
        in trials._same(out, torch.ones(1, 3, dtype=torch.long), cache).reason
    )


def test_a_model_whose_laws_follow_no_mask_is_refused():
    model = toys.made(TOYS["Llama"])
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.zero_()
    with pytest.raises(ValueError, match="LlamaForCausalLM: expected laws that follow a mask"):
        trials.tried(model, ("exact",))


# --- kept and said ------------------------------------------------------------------------------


def test_every_refusal_has_its_meaning():
    refusals = {why for one in STORED.values() if (why := architectures.refusal(one))}
    assert refusals and all(architectures.meaning(why) for why in refusals)
    with pytest.raises(ValueError, match="expected one of those in MEANINGS, got 'nonsense'"):
        architectures.meaning("nonsense")


def test_tables_of_the_page_hold_each_architecture_once():
    made = architectures.read()
    refused = ", ".join(architectures.refused(made)["architectures"])
    served = list(architectures.served(made).index)
    of_refusals = [name for name, one in STORED.items() if architectures.refusal(one)]
    assert served + of_refusals and set(served) | set(of_refusals) == set(STORED)
    assert not set(served) & set(of_refusals) and all(name in refused for name in of_refusals)


def test_a_table_is_written_and_read(tmp_path, command):
    file = tmp_path / "table.json"
    made = architectures.table(
        [architectures.row(TOYS[name], CHEAP) for name in ("Mamba", "Llama")]
    )
    architectures.write(made, file)
    newer = architectures.row(TOYS["Llama"], ("batch",))
    (whole,) = [one for one in architectures.table([newer], made)["rows"] if one["name"] == "Llama"]
    assert whole["found"].keys() == {"exact", "padding", "batch"}
    other = made | {"versions": {"transformers": "5.0.0", "torch": "2.0.0"}}
    assert architectures.table([newer], other)["rows"] == [newer]
    assert [one["name"] for one in architectures.read(file)["rows"]] == ["Llama", "Mamba"]
    for text in ("", "{}", '{"rows": []}', "[]"):
        file.write_text(text)
        with pytest.raises(ValueError, match="table.json: expected"):
            architectures.read(file)


def test_the_command_says_the_table_and_makes_rows(tmp_path, command, tiny_folder):
    code, out, err = command("architectures", "Llama", "Mamba")
    assert code == 0 and [line.split(":")[0] for line in out.splitlines()] == ["Llama", "Mamba"]
    code, out, err = command("architectures", "Mambo")
    assert (code, out) == (1, "") and "architecture: expected one of Llama, " in err
    file = tmp_path / "mine.json"
    code, out, err = command("architectures", "Mamba", "--make", "--out", file)
    assert code == 0 and json.loads(file.read_text())["rows"][0]["class"] == "MambaForCausalLM"
    code, out, err = command("architectures", "Llamma", "--make")
    assert code == 1 and "architecture: expected one of Llama, " in err and "got 'Llamma'" in err
    code, out, err = command("architectures", "Mamba", "--make", "--trial", "speed")
    assert code == 1 and "trial: expected some of exact, " in err and "got 'speed'" in err


def test_names_of_toys_are_told_apart(tmp_path):
    file = tmp_path / "toys.toml"
    one = '[[architecture]]\nname = "A"\nkind = "llama"\n'
    file.write_text(f"[sizes]\n{one}{one}")
    with pytest.raises(ValueError, match="expected names that are told apart, got 'A' again"):
        toys.toys(file)
