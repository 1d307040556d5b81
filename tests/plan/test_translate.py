"""Tokens to bytes, by hand for small configs, and settings that name what they cannot do."""

from __future__ import annotations

import json
import os

import pytest

from kvlib import names, store
from kvlib.cache import protocols
from kvlib.cache.policies import NAMED
from kvlib.plan import translate
from kvlib.plan.translate import held_of, settings, weight, weights

GQA = {"num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 8}
GQA |= {"hidden_size": 64, "model_type": "llama", "max_position_embeddings": 1000}
GPT2 = {"n_layer": 3, "n_head": 4, "n_embd": 32, "n_positions": 512, "model_type": "gpt2"}
KINDS = ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"]
PART = GQA | {"sliding_window": 10, "layer_types": KINDS}
ALL = GQA | {"sliding_window": 16}
MLA = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 64, "kv_lora_rank": 16}
MLA |= {"qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 6, "model_type": "deepseek_v3"}


@pytest.mark.parametrize(
    ("config", "tokens", "numbers", "ours"),
    [
        (GQA, 1, 4 * 2 * 2 * 8, 128),  # 4 layers, keys and values, 2 heads of 8
        (GQA, 100, 12_800, 12_800),
        (GPT2, 10, 3 * 2 * 32 * 10, 1920),  # every head has its own keys and values
        (PART, 5, 128 * 5, 640),
        (PART, 100, 32 * 100 + 3 * 32 * 10, 4160),  # three layers stop at ten tokens
        (ALL, 100, 128 * 16, 2048),
        (ALL | {"use_sliding_window": False}, 100, 12_800, 12_800),
        (ALL | {"use_sliding_window": True, "max_window_layers": 3}, 100, 9600 + 32 * 16, 10_112),
        (ALL | {"model_type": "gemma2"}, 100, 64 * 100 + 64 * 16, 7424),  # every second
        (ALL | {"sliding_window_pattern": 4}, 100, 32 * 100 + 96 * 16, 4736),
        (MLA, 10, 2 * (16 + 4) * 10, 2 * 4 * (8 + 4 + 6) * 10),  # one vector for all heads
        (GQA | {"num_kv_shared_layers": 1}, 100, 3 * 32 * 100, 9600),
        ({"text_config": GQA, "model_type": "vision"}, 100, 12_800, 12_800),
        (GQA | {"multi_query": True, "model_type": "falcon"}, 1, 4 * 2 * 8, 64),
        ({k: v for k, v in GQA.items() if k != "head_dim"}, 1, 128, 128),
    ],
)
def test_a_cache_holds_what_was_counted_by_hand(config, tokens, numbers, ours):
    held = held_of(config)
    assert held.numbers(tokens, ours=False) == numbers
    assert held.numbers(tokens) == ours
    assert held.bytes(tokens, "bfloat16") == 2 * ours
    assert held.bytes(tokens, "float32", batch=3) == 12 * ours
    assert held.latent == (numbers != ours)


def test_a_bounded_cache_holds_its_budget_in_every_layer():
    assert held_of(PART).bounded(100, "float16") == 2 * 128 * 100
    assert held_of(MLA).bounded(10, "float32") == 4 * 1440


BROKEN = [
    ({}, "num_hidden_layers"),
    (GQA | {"num_hidden_layers": 0}, "num_hidden_layers"),
    (GQA | {"num_hidden_layers": "4"}, "num_hidden_layers"),
    (GQA | {"layer_types": KINDS[:2]}, "layer_types"),
    (GQA | {"layer_types": ["linear_attention"] * 4}, "linear_attention"),
    (GQA | {"layer_types": KINDS}, "sliding_window"),
    (GQA | {"head_dim": -1}, "head_dim"),
    ({k: v for k, v in MLA.items() if k != "v_head_dim"}, "v_head_dim"),
    ([], "object"),
]


@pytest.mark.parametrize(("config", "named"), BROKEN)
def test_a_config_without_sizes_is_refused_by_name(config, named):
    with pytest.raises(ValueError, match=named) as error:
        held_of(config)
    assert "\n" not in str(error.value)


def test_a_config_is_read_without_weights(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(GQA))
    assert held_of(translate.read_config(tmp_path)) == held_of(GQA)
    assert held_of(translate.read_config(tmp_path / "config.json")) == held_of(GQA)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="expected JSON"):
        translate.read_config(tmp_path)
    with pytest.raises(ValueError, match=r"expected a config\.json"):
        translate.read_config(tmp_path / "none")
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(
        ValueError, match=r"pipe\.json: expected a config\.json, .* no regular file"
    ):
        translate.read_config(tmp_path / "pipe.json")


def test_manifests_say_the_same_as_configs():
    """SmolLM2: 30 layers, 3 KV heads of 64. Gemma: 15 of 18 layers slide, one head of 256."""
    smollm2 = {"num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3}
    gemma = {"num_hidden_layers": 18, "num_attention_heads": 4, "num_key_value_heads": 1}
    gemma |= {"head_dim": 256, "model_type": "gemma3_text", "sliding_window": 512}
    known = {
        "smollm2-135m-instruct": held_of(smollm2 | {"hidden_size": 576}),
        "gemma3-270m": held_of(gemma | {"hidden_size": 640}),
    }
    for model, held in known.items():
        (table, *_) = store.tables(store.DATA, "online", model=model)
        assert translate.held_of_manifest(table.model).groups == held.groups
    assert translate.held_of_manifest({}) is None


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (999, "999 bytes"),
        (999.9, "1 kB"),
        (5_898_240, "5.9 MB"),
        (999_960_000, "1 GB"),
        (1_234_000_000, "1.23 GB"),
        (123_456_000_000, "123 GB"),
        (2.5e15, "2,500 TB"),
    ],
)
def test_bytes_have_sane_units(count, text):
    assert weight(count) == text


def test_weights_are_those_of_a_sequence_a_batch_and_the_full_cache():
    found = weights(held_of(GQA), budget=100, dtype="float16", batch=8)
    assert (found.sequence, found.all, found.full) == (25_600, 204_800, 256_000)
    assert found.share == 0.1
    assert found.sentence() == (
        "100 entries weigh 25.6 kB a sequence in float16, 205 kB for 8 sequences: 10% of the "
        "256 kB of the full cache at 1,000 tokens."
    )
    more = weights(held_of(GQA), budget=5000, context=1000)
    assert more.share == 1 and "all of the 256 kB" in more.sentence()
    assert weights(held_of(PART), 100, context=1000).full == 2 * (32 * 1000 + 96 * 10)
    with pytest.raises(ValueError, match="batch: expected at least 1, got 0"):
        weights(held_of(GQA), 10, batch=0)
    with pytest.raises(ValueError, match="dtype: expected one of"):
        weights(held_of(GQA), 10, dtype="int3")


# --- settings -------------------------------------------------------------------------------------


def lines_of(policy: str, budget: int = 256, config: dict | None = None, protocol: str = "online"):
    held = held_of(config) if config else None
    return {one.engine: one for one in settings(policy, budget, held, protocol)}


def test_sinks_have_their_settings_where_an_engine_has_any():
    found = lines_of("sinks")
    assert found["kvlib"].lines.startswith("cache = BoundedCache(256, n_sink=4, model=model)")
    assert found["vLLM"].lines == "" and found["SGLang"].lines == ""
    assert "sink_token_length=4" in found["TensorRT-LLM"].lines
    assert "max_attention_window=[256]" in found["TensorRT-LLM"].lines
    # -c 508 --keep 4: half of the 504 others goes at once, and 4 + 252 = 256 stay
    assert "-c 508 --keep 4 --context-shift" in found["llama.cpp"].lines
    assert "between 256 and 508" in found["llama.cpp"].differs


def test_a_sliding_window_is_set_where_all_layers_slide():
    assert '{"sliding_window": 64}' in lines_of("sliding", 64)["vLLM"].lines
    assert "-c 128 --keep 0 " in lines_of("sliding", 64)["llama.cpp"].lines
    part = lines_of("sliding", 64, PART)["vLLM"]
    assert part.lines == "" and part.differs.startswith("No equivalent")


def test_text_that_is_read_anew_is_cut_by_the_caller():
    found = lines_of("sliding", 100, protocol="reencode")
    assert found["vLLM"].lines == "SamplingParams(truncate_prompt_tokens=100)"
    assert found["SGLang"].lines == "prompt_ids = prompt_ids[-100:]"


@pytest.mark.parametrize("policy", names.POLICIES)
@pytest.mark.parametrize("protocol", names.PROTOCOLS)
def test_every_engine_says_a_setting_or_why_there_is_none(policy, protocol):
    found = settings(policy, 128, held_of(GQA), protocol)
    assert [one.engine for one in found] == list(translate.ENGINES)
    for one in found:
        assert one.differs and (one.lines or one.differs.startswith("No "))


def test_our_own_cache_takes_every_policy_that_has_an_online_form():
    for policy, known in NAMED.items():
        lines = lines_of(policy)["kvlib"].lines
        assert bool(lines) == ("online" in known.protocols), policy
        if policy not in ("sliding", "sinks", "sinks-cache-positions") and lines:
            assert f'BoundedCache(256, policy=NAMED["{policy}"], model=model)' in lines
    assert "prefill_chunk_size=32" in lines_of("tova")["kvlib"].lines
    assert translate.STEP == protocols.STEP


@pytest.mark.parametrize("policy", ["sinks", "sliding", "random", "h2o"])
def test_only_what_was_measured_online_is_called_the_same_rule(policy):
    held = held_of(GQA)
    for protocol in NAMED[policy].protocols:
        ours = {one.engine: one for one in settings(policy, 128, held, protocol)}["kvlib"]
        assert ("The same rule as measured." in ours.differs) == (protocol == "online"), protocol
        if (policy, protocol) != ("sliding", "reencode"):  # which a request can do as it is
            assert ours.differs.startswith(translate.AS_MEASURED[protocol])


def test_heads_that_differ_fit_no_pages():
    own = {"h2o", "h2o-unprotected", "snapkv", "key-norm", "expected-attention"}
    for policy in names.POLICIES:
        assert translate.shared_by_heads(policy) == (policy not in own and "heads" not in policy)
    assert "can free only what all heads" in lines_of("h2o")["vLLM"].differs


def test_engines_that_are_told_the_same_are_told_once():
    found = translate.joined(settings("sliding", 100, protocol="reencode"))
    assert [one.engine for one in found] == ["kvlib, SGLang, llama.cpp, TensorRT-LLM", "vLLM"]
    assert translate.joined(settings("sinks", 100))[0].engine == "kvlib"
