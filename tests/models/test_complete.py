"""A model that isn't there is not measured; what is read is what its identity names."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
)

from kvlib.measure import next_token_law
from kvlib.models import TRAINED, about, load, load_model
from kvlib.models.files import ModelFiles, files_of
from kvlib.store import sha256

TEXT = np.arange(40, 60)


@pytest.fixture
def copy(tiny_folder, tmp_path) -> Path:
    """A copy of the tiny Llama to be damaged."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


def refused(folder: Path) -> str:
    with pytest.raises(OSError, match="cannot load") as error:
        load_model(str(folder), device="cpu")
    message = str(error.value)
    assert "\n" not in message and str(folder) in message
    return message


def law_of(folder: Path) -> np.ndarray:
    return next_token_law(load_model(str(folder), device="cpu"), TEXT)


def change_weights(folder: Path, change: Callable[[dict], dict]) -> None:
    weights = change(load_file(folder / "model.safetensors"))
    weights = {name: weight.clone() for name, weight in weights.items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def change_json(path: Path, **values: object) -> None:
    found = json.loads(path.read_text()) | values
    path.write_text(json.dumps({key: value for key, value in found.items() if value != "DROP"}))


# --- weights --------------------------------------------------------------------------------------

HEAD, NORM = "lm_head.weight", "model.norm.weight"
UP = "model.layers.1.mlp.up_proj.weight"


def without(*parts: str):
    return lambda weights: {k: v for k, v in weights.items() if not any(p in k for p in parts)}


def renamed(old: str, new: str):
    return lambda weights: {k.replace(old, new): v for k, v in weights.items()}


def changed(name: str, change: Callable):
    return lambda weights: weights | {name: change(weights[name]).contiguous()}


def one_value(value: float):
    def put(weight: torch.Tensor) -> torch.Tensor:
        weight = weight.clone()
        weight.view(-1)[7] = value
        return weight

    return put


WEIGHTS = {
    "no layer 1": (without("layers.1."), "missing: model.layers.1"),
    "no layer 0": (without("layers.0."), "missing: model.layers.0"),
    "no tensor of a layer": (without("layers.1.mlp.up"), f"missing: {UP}"),
    "no head": (without("lm_head"), f"missing: {HEAD}"),
    "no embedding": (without("embed_tokens"), "missing: model.embed_tokens.weight"),
    "no norm": (without("model.norm"), f"missing: {NORM}"),
    "no weights at all": (lambda weights: {}, "not more than the 0 tensors"),
    "the head alone": (lambda weights: {HEAD: weights[HEAD]}, "num_hidden_layers"),
    "other names": (renamed("model.", "other."), "missing: model."),
    "another name for one": (renamed("layers.1.mlp.up", "layers.1.mlp.down2"), UP),
    "a layer under another number": (renamed("layers.1.", "layers.2."), "layers.1"),
    "a layer twice": (
        lambda w: w | {k.replace(".1.", ".2."): v for k, v in w.items() if ".1." in k},
        "that its architecture does not have: model.layers.2",
    ),
    "a surplus tensor": (lambda w: w | {"model.more.weight": w[NORM]}, "model.more.weight"),
    "a surplus bias": (
        lambda w: w | {UP.replace("weight", "bias"): torch.zeros(64)},
        "does not have: model.layers.1.mlp.up_proj.bias",
    ),
    "another shape": (changed(HEAD, lambda w: w[:200]), f"other shapes than its config's: {HEAD}"),
    "turned": (changed(UP, lambda w: w.T), f"other shapes than its config's: {UP}"),
    "int64": (changed(UP, lambda w: w.long()), f"got int64 in {UP}"),
    "int8": (changed(HEAD, lambda w: (50 * w).to(torch.int8)), f"got int8 in {HEAD}"),
    "bool": (changed(NORM, lambda w: w > 0), f"got bool in {NORM}"),
    "8-bit floats": (changed(UP, lambda w: w.to(torch.float8_e4m3fn)), "got float8_e4m3fn in"),
    "all integers": (lambda w: {k: v.int() for k, v in w.items()}, "got int32 in"),
    "one NaN": (changed(UP, one_value(float("nan"))), f"got NaN or infinity in {UP}"),
    "one infinity": (changed(HEAD, one_value(float("inf"))), f"NaN or infinity in {HEAD}"),
    "one minus infinity": (changed(NORM, one_value(-float("inf"))), f"infinity in {NORM}"),
}


@pytest.mark.parametrize("kind", WEIGHTS)
def test_weights_that_are_not_the_models_are_refused(copy, kind):
    change, expected = WEIGHTS[kind]
    change_weights(copy, change)
    assert expected in refused(copy)


def test_numbers_beyond_the_precision_asked_for_are_refused(copy):
    change_weights(copy, changed(NORM, one_value(1e30)))
    load_model(str(copy), device="cpu")
    with pytest.raises(OSError, match="NaN or infinity in model.norm.weight"):
        load_model(str(copy), device="cpu", dtype="float16")


# --- config ---------------------------------------------------------------------------------------

CONFIGS = [
    *({"num_hidden_layers": n} for n in (0, -1, 1, 3, 10**6, 10**12, 2.5, "2", "DROP", True)),
    *({"vocab_size": n} for n in (257, 300, 10**9)),
    *({"hidden_size": n} for n in (0, 16, 64, 10**6)),
    {"intermediate_size": 63},
    {"num_key_value_heads": 4},
    {"head_dim": 16},
    {"attention_bias": True},
    {"mlp_bias": True},
    *(
        {"model_type": kind}
        for kind in ("gpt2", "gpt_neox", "mistral3", "nonsense", "DROP", None, 3)
    ),
    *({"num_labels": n} for n in (10**9, 1e12)),
    {"id2label": None, "num_hidden_layers": None},
]


@pytest.mark.parametrize("lie", CONFIGS, ids=str)
def test_a_config_that_lies_about_its_weights_is_refused(copy, lie):
    change_json(copy / "config.json", **lie)
    refused(copy)


def test_a_key_that_a_config_may_not_hold_is_one_line(copy, capfd):
    change_json(copy / "config.json", use_return_dict=False)
    refused(copy)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '"llama"', "[" * 100_000, "\0" * 9])
@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_a_damaged_file_of_the_folder_is_one_line(copy, file, content):
    (copy / file).write_text(content)
    refused(copy)


def change_vocabulary(vocabulary: dict[str, int]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        found = json.loads((folder / "tokenizer.json").read_text())
        found["model"]["vocab"] = vocabulary
        (folder / "tokenizer.json").write_text(json.dumps(found))

    return change


def another_class(name: str, without_file: bool = True) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        change_json(folder / "tokenizer_config.json", tokenizer_class=name)
        if without_file:
            (folder / "tokenizer.json").unlink()

    return change


TOKENIZERS = {
    "no file": lambda folder: (folder / "tokenizer.json").unlink(),
    "no vocabulary": change_vocabulary({}),
    "no vocabulary files": another_class("GPT2Tokenizer"),
    "a class that needs another": another_class("BertTokenizer"),
    "a class for another file": another_class("BertTokenizer", without_file=False),
    "ids beyond the model's": change_vocabulary({c: 300 + k for k, c in enumerate("T123a6")}),
}


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_tokenizer_that_is_not_the_models_is_refused(copy, kind):
    TOKENIZERS[kind](copy)
    refused(copy)


def replacing(pattern: dict[str, str], content: str) -> dict[str, object]:
    return {"type": "Replace", "pattern": pattern, "content": content}


@pytest.mark.parametrize(
    "normalizer",
    [
        {"type": "Sequence", "normalizers": [replacing({"String": "a"}, "aa")] * 40},
        replacing({"Regex": ""}, "a" * 1000),
        replacing({"String": ""}, "a" * 1000),
        replacing({"String": "a"}, "a" * 101),
        {"type": "Sequence", "normalizers": [replacing({"Regex": "."}, "a" * 9)] * 3},
    ],
    ids=["doubled often", "between letters", "for nothing", "for a letter", "thrice"],
)
def test_a_tokenizer_that_blows_texts_up_is_refused(copy, normalizer):
    change_json(copy / "tokenizer.json", normalizer=normalizer)
    assert "expected a normalizer that lengthens a text at most 100 times" in refused(copy)


@pytest.mark.parametrize(
    "normalizer",
    [
        {"type": "NFC"},
        replacing({"String": " "}, "▁"),
        {"type": "Sequence", "normalizers": [{"type": "NFKC"}, replacing({"Regex": " +"}, " ")]},
    ],
    ids=["composed", "blanks", "both"],
)
def test_a_tokenizer_that_tidies_texts_is_not(copy, normalizer):
    change_json(copy / "tokenizer.json", normalizer=normalizer)
    load_model(str(copy), device="cpu")


def save_gpt2(folder: Path, **settings: object) -> GPT2LMHeadModel:
    torch.manual_seed(1)
    config = GPT2Config(
        **{"vocab_size": 258, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
        **settings,
    )
    model = GPT2LMHeadModel(config)
    model.save_pretrained(folder)
    return model


def test_weights_of_another_architecture_are_refused(copy, tmp_path):
    save_gpt2(tmp_path / "gpt2")
    (tmp_path / "gpt2" / "model.safetensors").rename(copy / "model.safetensors")
    assert "missing" in refused(copy)


def test_a_model_that_looks_ahead_is_refused(copy):
    torch.manual_seed(0)
    config = Gemma3TextConfig(
        **{"vocab_size": 258, "hidden_size": 32, "intermediate_size": 48, "head_dim": 8},
        **{"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2},
        **{"initializer_range": 0.3, "use_bidirectional_attention": True},
    )
    Gemma3ForCausalLM(config).save_pretrained(copy)
    with pytest.raises(ValueError, match="expected a causal model") as error:
        load_model(str(copy), device="cpu")
    assert "\n" not in str(error.value)
    change_json(copy / "config.json", use_bidirectional_attention=False)
    load_model(str(copy), device="cpu")


# --- what is legitimately absent, or more ---------------------------------------------------------


def test_a_head_tied_to_the_embeddings_need_not_be_in_the_file(copy):
    tied = load_model(str(copy), device="cpu").model
    change_weights(copy, without("lm_head"))
    change_json(copy / "config.json", tie_word_embeddings=True)
    found = load_model(str(copy), device="cpu").model
    assert found.lm_head.weight is found.model.embed_tokens.weight
    assert torch.equal(found.model.embed_tokens.weight, tied.model.embed_tokens.weight)


def test_a_head_that_is_there_is_the_one_that_is_used_whatever_the_config_says(copy):
    before = law_of(copy)
    change_json(copy / "config.json", tie_word_embeddings=True)
    np.testing.assert_array_equal(law_of(copy), before)


def test_tied_weights_that_are_both_absent_are_missing(copy):
    change_weights(copy, without("lm_head", "embed_tokens"))
    change_json(copy / "config.json", tie_word_embeddings=True)
    assert "missing" in refused(copy)


def test_a_body_without_its_prefix_is_the_same_model(copy):
    config = LlamaConfig.from_pretrained(copy, tie_word_embeddings=True)
    torch.manual_seed(3)
    LlamaForCausalLM(config).save_pretrained(copy)
    before = law_of(copy)
    body = LlamaForCausalLM.from_pretrained(copy).model
    assert isinstance(body, LlamaModel)
    body.save_pretrained(copy)
    assert not any(k.startswith("model.") for k in load_file(copy / "model.safetensors"))
    np.testing.assert_array_equal(law_of(copy), before)


def test_buffers_that_old_checkpoints_carry_are_no_surplus(copy):
    before = law_of(copy)
    frequencies = "model.layers.0.self_attn.rotary_emb.inv_freq"
    change_weights(copy, lambda weights: weights | {frequencies: torch.ones(4)})
    np.testing.assert_array_equal(law_of(copy), before)


@pytest.mark.parametrize("kind", ["gpt2", "gptj", "gpt_neo", "gpt_neox"])
def test_masks_that_old_checkpoints_carry_are_no_surplus(copy, kind):
    sizes = {"vocab_size": 258, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48}
    if kind == "gpt_neo":
        sizes["attention_types"] = [[["global", "local"], 1]]
    config = CONFIG_MAPPING[kind](**sizes, num_attention_heads=4, rotary_dim=4)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(copy)
    before = law_of(copy)
    layer = next(name for name in load_file(copy / "model.safetensors") if ".0." in name)
    layer = layer.split(".0.")[0] + ".0."
    inside = {"gpt_neox": "attention", "gpt_neo": "attn.attention"}.get(kind, "attn")
    masks = {
        f"{layer}{inside}.bias": torch.ones(1, 1, 64, 64, dtype=torch.bool).tril(),
        f"{layer}{inside}.masked_bias": torch.tensor(-1e9),
    }
    change_weights(copy, lambda weights: weights | masks)
    np.testing.assert_array_equal(law_of(copy), before)
    change_weights(copy, lambda weights: weights | {f"{layer}{inside}.bias": torch.zeros(32)})
    if kind == "gptj":  # in the others transformers itself passes over anything of that name
        assert "does not have" in refused(copy)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_the_weights_are_bit_for_bit_those_of_the_file(copy, dtype):
    lm = load_model(str(copy), device="cpu", dtype=dtype)
    found = lm.model.state_dict()
    for name, weight in load_file(copy / "model.safetensors").items():
        assert torch.equal(found[name], weight.to(lm.dtype)), name


def test_a_generation_config_is_kept(copy):
    change_json(copy / "generation_config.json", max_new_tokens=17)
    assert load_model(str(copy), device="cpu").model.generation_config.max_new_tokens == 17


# --- shards and their index -----------------------------------------------------------------------

INDEX = "model.safetensors.index.json"


@pytest.fixture
def sharded(copy) -> Path:
    """The tiny Llama in several files with an index."""
    model = LlamaForCausalLM.from_pretrained(copy)
    (copy / "model.safetensors").unlink()
    model.save_pretrained(copy, max_shard_size="40KB")
    assert len(list(copy.glob("*.safetensors"))) > 2
    return copy


def point(folder: Path, place: str, number: int = 1) -> None:
    """Let the index name `place` for what lies in one of its files."""
    index = json.loads((folder / INDEX).read_text())
    old = sorted(set(index["weight_map"].values()))[number]
    index["weight_map"] = {
        key: place if value == old else value for key, value in index["weight_map"].items()
    }
    (folder / INDEX).write_text(json.dumps(index))


def shard(folder: Path, number: int = 1) -> Path:
    return sorted(folder.glob("*.safetensors"))[number]


def test_shards_are_one_model(sharded, tiny_folder):
    np.testing.assert_array_equal(law_of(sharded), law_of(tiny_folder))


def test_a_shard_in_a_folder_below_is_read_and_hashed(sharded, tiny_folder):
    (sharded / "deep" / "er").mkdir(parents=True)
    name = shard(sharded).name
    shard(sharded).rename(sharded / "deep" / "er" / name)
    point(sharded, f"deep/er/{name}")
    np.testing.assert_array_equal(law_of(sharded), law_of(tiny_folder))
    assert sharded / "deep" / "er" / name in files_of(sharded).weights


@pytest.mark.parametrize(
    "way", ["../outside/{}", "{outside}/{}", "sub/../../outside/{}", "link/{}"]
)
def test_an_index_that_leads_out_of_the_folder_is_refused(sharded, tmp_path, way):
    outside = tmp_path / "outside"
    outside.mkdir()
    (sharded / "link").symlink_to(outside)
    (sharded / "sub").mkdir()
    name = shard(sharded).name
    shutil.copy(shard(sharded), outside / name)  # the same weights, and a decoy in the folder
    point(sharded, way.format(name, outside=outside))
    assert f"expected a file below {sharded}" in refused(sharded)


@pytest.mark.parametrize(
    "place", ["pytorch_model.bin", "model.pt", "x.safetensors.pkl", "", 7, None]
)
def test_an_index_that_names_no_safetensors_is_refused_and_nothing_is_unpickled(sharded, place):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(sharded / "exploded"),)

    torch.save(Bomb(), sharded / "pytorch_model.bin")
    shutil.copy(sharded / "pytorch_model.bin", sharded / "model.pt")
    point(sharded, place)
    assert "expected *.safetensors" in refused(sharded)
    assert not (sharded / "exploded").exists()


def test_a_pickle_under_the_name_of_a_safetensors_file_is_not_unpickled(copy):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(copy / "exploded"),)

    torch.save(Bomb(), copy / "model.safetensors")
    refused(copy)
    assert not (copy / "exploded").exists()


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"weight_map": {}}',
        '{"weight_map": []}',
        '{"weight_map": 1}',
        "[" * 100_000,
    ],
)
def test_a_damaged_index_is_one_line(sharded, content):
    (sharded / INDEX).write_text(content)
    assert INDEX in refused(sharded)


def test_a_missing_shard_a_shard_twice_and_one_left_out_are_refused(sharded, tmp_path):
    twice = shutil.copytree(sharded, tmp_path / "twice")
    shutil.copy(shard(twice, 0), shard(twice, 1))
    assert "expected each tensor once" in refused(twice)
    left_out = shutil.copytree(sharded, tmp_path / "left-out")
    point(left_out, shard(left_out, 0).name)
    assert "missing" in refused(left_out)
    shard(sharded).unlink()
    assert "No such file" in refused(sharded)


# --- files that are none --------------------------------------------------------------------------

NOT_FILES = {
    "a pipe": os.mkfifo,
    "a device that never ends": lambda path: path.symlink_to("/dev/zero"),
    "a link to nothing": lambda path: path.symlink_to(path.parent / "nowhere"),
    "a link to itself": lambda path: path.symlink_to(path),
}
FILES = ["model.safetensors", "tokenizer.json", "tokenizer_config.json", "generation_config.json"]


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("kind", NOT_FILES)
def test_what_may_never_end_is_not_read(copy, kind, file):
    (copy / file).unlink()
    NOT_FILES[kind](copy / file)
    refused(copy)


@pytest.mark.parametrize("file", ["config.json", *FILES])
def test_a_link_out_of_the_folder_is_refused_and_one_inside_is_not(copy, tmp_path, file):
    (copy / file).rename(copy / f"real-{file}")
    (copy / file).symlink_to(f"real-{file}")
    load_model(str(copy), device="cpu")
    (copy / f"real-{file}").rename(tmp_path / file)
    (copy / file).unlink()
    (copy / file).symlink_to(tmp_path / file)
    assert f"expected a file below {copy}" in refused(copy)


def test_the_links_of_the_hubs_own_cache_are_followed(tiny_folder, tmp_path):
    repo = tmp_path / "models--nobody--tiny"
    snapshot = repo / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (repo / "blobs").mkdir()
    for file in tiny_folder.iterdir():
        shutil.copy(file, repo / "blobs" / sha256(file))
        (snapshot / file.name).symlink_to(Path("../../blobs") / sha256(file))
    lm = load_model(str(snapshot), device="cpu")
    assert lm.model_sha256 == files_of(tiny_folder).model_sha256()
    assert lm.revision == about(lm)["revision"] == "0123"


@pytest.mark.parametrize(("name", "revision"), [("a/b", None), ("a/b@0123", "0123")])
def test_a_model_of_the_hub_is_asked_for_at_its_revision(monkeypatch, tiny_folder, name, revision):
    asked = []

    def snapshot_download(repository, **more):
        asked.append((repository, more["revision"]))
        return str(tiny_folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    lm = load_model(name, device="cpu")
    assert asked == [("a/b", revision)] and lm.name == name
    assert lm.revision == "" and "revision" not in about(lm)  # the folder is not of the Hub's cache


@pytest.mark.parametrize(
    ("file", "key", "name"),
    [
        ("config.json", "transformers_weights", "other.safetensors"),
        ("config.json", "configuration_files", ["config.4.0.0.json"]),
        ("tokenizer_config.json", "fast_tokenizer_files", ["tokenizer.4.0.0.json"]),
        ("tokenizer_config.json", "tokenizer_file", "tokenizer.json"),
        ("tokenizer_config.json", "vocab_file", "vocab.json"),
    ],
)
def test_a_config_that_leads_to_files_elsewhere_is_refused(copy, tmp_path, file, key, name):
    plain = name[0] if isinstance(name, list) else name
    (tmp_path / plain).write_text("{}")
    out = f"../{plain}"
    change_json(copy / file, **{key: [out] if isinstance(name, list) else out})
    assert f"expected a file below {copy}" in refused(copy)


def test_an_adapter_is_no_model(copy, tmp_path):
    (copy / "adapter_config.json").write_text('{"base_model_name_or_path": "elsewhere"}')
    assert "expected a whole model, got an adapter" in refused(copy)


# --- identity -------------------------------------------------------------------------------------


def swap_two_tokens(folder: Path) -> None:
    found = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = found["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (folder / "tokenizer.json").write_text(json.dumps(found))


OTHERS = {
    "a frequency": lambda f: change_json(f / "config.json", rope_parameters={"rope_theta": 500.0}),
    "an epsilon": lambda f: change_json(f / "config.json", rms_norm_eps=1e-3),
    "an activation": lambda f: change_json(f / "config.json", hidden_act="gelu"),
    "two tokens": swap_two_tokens,
    "a beginning": lambda f: change_json(f / "tokenizer_config.json", bos_token="</s>"),
    "a map of special tokens": lambda f: (f / "special_tokens_map.json").write_text("{}"),
    "added tokens": lambda f: (f / "added_tokens.json").write_text('{"zz": 7}'),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_a_changed_config_or_tokenizer_is_another_model_with_the_same_weights(copy, kind):
    before = files_of(copy)
    weights, model = before.weights_sha256(), before.model_sha256()
    OTHERS[kind](copy)
    after = files_of(copy)
    assert after.weights_sha256() == weights and after.model_sha256() != model


def test_one_changed_weight_is_another_model(copy):
    before = files_of(copy).model_sha256()
    change_weights(copy, changed(NORM, one_value(0.5)))
    assert files_of(copy).model_sha256() != before


def test_a_model_is_the_same_elsewhere_and_with_notes_beside_it(copy, tiny, tmp_path):
    assert files_of(copy).model_sha256() == tiny.model_sha256
    for note in ("README.md", "loss.csv", "decoy.safetensors", "train.py"):
        (copy / note).write_text("note")
    (copy / "checkpoints").mkdir()
    moved = copy.rename(tmp_path / "elsewhere")
    assert files_of(moved).model_sha256() == tiny.model_sha256


def test_the_stored_model_is_pinned(monkeypatch, tmp_path):
    known = TRAINED["small-gpt2"]
    assert files_of(known.folder).model_sha256() == known.model_sha256
    folder = shutil.copytree(known.folder, tmp_path / "small")
    monkeypatch.setitem(load.TRAINED, "small-gpt2", known._replace(folder=folder))
    assert load_model("small-gpt2", device="cpu").model_sha256 == known.model_sha256
    change_json(folder / "config.json", layer_norm_epsilon=1e-3)
    with pytest.raises(OSError, match="it has changed: expected SHA-256 .*…, got .*…"):
        load_model("small-gpt2", device="cpu")


# --- memory -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "hint"), [("float32", True), ("bfloat16", False)])
def test_too_little_memory_is_one_line_before_a_weight_is_read(
    tiny_folder, monkeypatch, dtype, hint
):
    numbers = files_of(tiny_folder).numbers()
    size = numbers * (4 if dtype == "float32" else 2)
    for free, fits in ((size, True), (size - 1, False)):
        memory = SimpleNamespace(available=free)
        monkeypatch.setattr(load.psutil, "virtual_memory", lambda memory=memory: memory)
        if fits:
            lm = load_model(str(tiny_folder), dtype=dtype)
            assert numbers == sum(weight.numel() for weight in lm.model.parameters())
            continue
        monkeypatch.setattr(ModelFiles, "tensors", lambda self: pytest.fail("it was read"))
        with pytest.raises(OSError, match=rf"expected 0.0 GB of free memory .*{dtype}") as error:
            load_model(str(tiny_folder), dtype=dtype)
        assert ("bfloat16 takes less" in str(error.value)) == hint
        assert "\n" not in str(error.value)
