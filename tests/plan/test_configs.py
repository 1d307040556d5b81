"""What a cache holds is known from a config, wherever that lies, and never from weights."""

from __future__ import annotations

import json

import pytest
from reports import CONFIG

from kvlib.models import load_model
from kvlib.models.load import cache_bytes
from kvlib.plan.configs import held_of_model
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
        (("--budget", 0), "budget: expected at least 1"),
        (("--budget", 8, "--dtype", "int2"), "dtype: expected one of"),
        (("--budget", 8, "--policy", "none"), "policy: expected one of"),
        (("--budget", 8, "--protocol", "none"), "protocol: expected one of"),
        (("--budget", 8, "--batch", -1), "batch: expected at least 1"),
    ],
)
def test_what_cannot_be_weighed_is_one_line_and_code_2(command, config_folder, flags, said):
    code, out, err = command("weigh", "--model", config_folder, *flags)
    assert code == 2 and out == "" and err.count("\n") == 1 and said in err
    code, _, err = command("weigh", "--model", "none-such", "--budget", 8)
    assert code == 2 and "expected a known name" in err
