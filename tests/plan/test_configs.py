"""What a cache holds is known from a config, wherever that lies, and never from weights."""

from __future__ import annotations

import json

import pytest
from reports import CONFIG

from kvlib.models import load_model
from kvlib.models.load import cache_bytes
from kvlib.plan.configs import completed, held_of_model
from kvlib.plan.translate import held_of
from kvlib.study.shapes import SHAPES


@pytest.fixture
def config_folder(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return tmp_path


def test_a_folder_a_file_and_a_known_name_are_told_the_same(config_folder):
    expected = held_of(CONFIG)
    assert held_of_model(str(config_folder)) == expected
    assert held_of_model(str(config_folder / "config.json")) == expected
    assert held_of_model("Qwen/Qwen2.5-7B").bytes(1, "bfloat16") == 2 * 2 * 28 * 4 * 128
    assert held_of_model("no-such-model") is None and held_of_model("..//") is None


def test_the_config_says_what_the_loaded_model_says():
    lm = load_model("small-gpt2", device="cpu")
    held = held_of_model("small-gpt2")
    assert held.bytes(300, "float16") == cache_bytes(lm.model.config, 300)
    assert held == held_of(lm.model.config.to_dict())
    assert held.bytes(1, "bfloat16") == SHAPES["small-gpt2"].cache_bytes("bfloat16")


GEMMA = {"model_type": "gemma3_text", "hidden_size": 3840, "num_hidden_layers": 48}
GEMMA |= {"num_attention_heads": 16, "num_key_value_heads": 8, "sliding_window": 1024}
GLM = {"model_type": "chatglm", "num_layers": 28, "hidden_size": 4096, "kv_channels": 128}
GLM |= {"num_attention_heads": 32, "multi_query_attention": True, "multi_query_group_num": 2}
DBRX = {"model_type": "dbrx", "d_model": 6144, "n_heads": 48, "n_layers": 40}
PLAIN = {"model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32}
PLAIN |= {"num_attention_heads": 32}


@pytest.mark.parametrize(
    ("config", "expected"),  # bytes of a token in bfloat16: 2 · 2 · layers · heads · width
    [
        (PLAIN, 4 * 32 * 32 * 128),
        (PLAIN | {"num_key_value_heads": 8}, 4 * 32 * 8 * 128),
        ({"model_type": "gemma3", "text_config": GEMMA}, 4 * 48 * 8 * 256),  # not 3840 / 16
        (DBRX | {"attn_config": {"kv_n_heads": 8}}, 4 * 40 * 8 * 128),
        (GLM, 4 * 28 * 2 * 128),
        (GLM | {"multi_query_attention": False}, 4 * 28 * 32 * 128),
    ],
)
def test_sizes_that_a_config_leaves_out_or_calls_otherwise_are_counted(tmp_path, config, expected):
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert held_of_model(str(tmp_path)).bytes(1, "bfloat16") == expected


@pytest.mark.parametrize(
    "key", ["attn_layer_period", "full_attention_interval", "block_types", "layers_block_type"]
)
def test_layers_that_are_no_attention_are_refused_by_the_key_that_says_so(tmp_path, key):
    config = PLAIN | {"model_type": "unknown", key: 4 if key[0] in "af" else ["a", "b"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=f"^{key}: expected layers of attention alone"):
        held_of_model(str(tmp_path))


def test_a_config_of_a_billion_layers_is_not_filled_in():
    config = PLAIN | {"num_hidden_layers": 10**9}
    assert completed(config) is config


def test_weigh_prints_bytes_and_settings(command, config_folder):
    flags = ["--budget", 256, "--batch", 32, "--context", 8192]
    code, out, err = command("weigh", "--model", config_folder, *flags)
    text = " ".join(out.split())
    assert code == 0 and err == ""
    # 30 layers, 3 KV heads of 64, keys and values, 2 bytes: 23,040 bytes an entry
    assert "256 entries weigh 5.9 MB a sequence in bfloat16, 189 MB for 32 sequences" in text
    assert "BoundedCache(256, n_sink=4, model=model)" in text and "sink_token_length=4" in text
    code, out, _ = command("weigh", "--model", config_folder, *flags, "--policy", "tova")
    assert code == 0 and 'NAMED["tova"]' in out and "No equivalent" in out


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--budget", 0), "budget: expected at least 5 for sinks, got 0"),
        (("--budget", 8, "--dtype", "int2"), "dtype: expected one of"),
        (("--budget", 8, "--policy", "none"), "policy: expected one of"),
        (("--budget", 8, "--protocol", "none"), "protocol: expected one of"),
        (("--budget", 64, "--policy", "snapkv"), "protocol: expected prefill for snapkv, got 'onl"),
        (("--budget", 8, "--batch", -1), "batch: expected at least 1"),
    ],
)
def test_what_cannot_be_weighed_is_one_line_and_code_2(command, config_folder, flags, said):
    code, out, err = command("weigh", "--model", config_folder, *flags)
    assert code == 2 and out == "" and err.count("\n") == 1 and said in err
    code, _, err = command("weigh", "--model", "none-such", "--budget", 8)
    assert code == 2 and "expected a known name" in err
