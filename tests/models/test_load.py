"""Models: the right tokens, the right weights, and one clear line for all that goes wrong."""

from __future__ import annotations

import dataclasses
import inspect
import shutil
import textwrap
from types import SimpleNamespace

import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM, Gemma3TextConfig, LlamaConfig

from kvlib.measure import next_token_law
from kvlib.models import EMBEDDED, OneDnnLinear, about, cache_bytes, load, load_model
from kvlib.models.load import _prefix_ids
from kvlib.store import sha256


def one_line(error: pytest.ExceptionInfo) -> str:
    message = str(error.value)
    assert message and "\n" not in message
    return message


# --- tokens -----------------------------------------------------------------------------------

PINNED_IDS = {
    "smollm2": {
        "x =   3": [104, 446, 333, 35],
        "1234": [33, 34, 35, 36],
        "def f(x):\n    return x**2 + 10": [
            *(1604, 275, 24, 104, 727, 472, 1003, 1792, 828, 34, 1232, 216, 33, 32)
        ],
        "In the beginning, God created the heavens and the earth.": [
            *(788, 260, 3616, 28, 1839, 2312, 260, 23418, 284, 260, 3103, 30)
        ],
        "naïve – 水 🙂": [3546, 46494, 816, 17097, 125, 129, 47526],
    },
    "gemma": {
        "x =   3": [236781, 578, 139, 236800],
        "1234": [236770, 236778, 236800, 236812],
        "def f(x):\n    return x**2 + 10": [
            *(2063, 517, 236769, 236781, 1473, 107, 140, 2060),
            *(1123, 1018, 236778, 900, 236743, 236770, 236771),
        ],
        "In the beginning, God created the heavens and the earth.": [
            *(902, 506, 6534, 236764, 3803, 4464, 506, 80958, 532, 506, 7764, 236761)
        ],
        "naïve – 水 🙂": [1789, 238527, 560, 1271, 34156, 57235],
    },
}


QWEN_IDS = {
    "x =   3": [87, 284, 256, 220, 18],
    "12345 is don't": [16, 17, 18, 19, 20, 374, 1513, 944],
    "naïve café 北京": [3376, 37572, 586, 51950, 94305, 245, 46553],
    "DON'T": [84641, 17323],
    "a\r\n\n b": [64, 80823, 293],
}
PINNED_IDS |= {fixture: QWEN_IDS for fixture in ("qwen_half", "qwen")}


@pytest.mark.parametrize(
    ("model", "text", "ids"),
    [(model, text, ids) for model, pins in PINNED_IDS.items() for text, ids in pins.items()],
)
def test_token_ids_are_the_pinned_ones_and_decode_to_the_text(request, model, text, ids):
    tokenizer = request.getfixturevalue(model).tokenizer
    assert tokenizer(text, add_special_tokens=False)["input_ids"] == ids
    assert tokenizer.decode(ids) == text


def test_every_digit_is_a_token_of_its_own(embedded):
    ids = embedded.tokenizer("9876543210", add_special_tokens=False)["input_ids"]
    assert [embedded.tokenizer.decode([i]) for i in ids] == list("9876543210")


def test_smollm2_has_nothing_before_a_context_and_gemma_its_bos(smollm2, gemma):
    assert smollm2.prefix_ids == ()
    assert gemma.prefix_ids == (gemma.tokenizer.bos_token_id,) == (2,)


@pytest.mark.parametrize("model", ["qwen_half", "qwen"])
def test_qwen_composes_accents_and_puts_nothing_before_a_context(request, model):
    lm = request.getfixturevalue(model)
    composed, apart = (lm.tokenizer(text)["input_ids"] for text in ("na\u00efve", "nai\u0308ve"))
    assert composed == apart == [3376, 37572, 586]
    assert lm.prefix_ids == ()


@pytest.mark.parametrize(
    ("bos", "of_nothing", "prefix"),
    [
        (None, [], ()),
        (None, [2], ()),  # an end mark alone
        (1, [], ()),
        (1, [1], (1,)),
        (1, [1, 2], (1,)),
        (2, [2], (2,)),  # one token begins and ends
    ],
)
def test_before_a_context_stands_what_the_tokenizer_begins_texts_with(bos, of_nothing, prefix):
    def tokenizer(text: str) -> SimpleNamespace:
        assert text == ""
        return SimpleNamespace(input_ids=of_nothing)

    tokenizer.bos_token_id = bos
    assert _prefix_ids(tokenizer) == prefix


# --- weights ----------------------------------------------------------------------------------


def test_a_loaded_model_says_what_it_is(embedded):
    known = EMBEDDED[embedded.name]
    assert embedded.weights_sha256 == known.gguf_sha256
    assert embedded.description == known.description and "de-quantised" in embedded.description
    assert embedded.dtype == torch.float32 and embedded.device.type == "cpu"
    assert {p.dtype for p in embedded.model.parameters()} == {torch.float32}
    assert not embedded.model.training
    assert not any(p.requires_grad for p in embedded.model.parameters())
    with pytest.raises(dataclasses.FrozenInstanceError):
        embedded.name = "another"


def test_the_head_and_the_embedding_share_their_weights(embedded):
    head = embedded.model.get_output_embeddings().weight
    assert head.data_ptr() == embedded.model.get_input_embeddings().weight.data_ptr()
    assert head.shape[0] == embedded.vocab_size == len(next_token_law(embedded, [1, 2]))


def mean_nll(lm, ids: torch.Tensor) -> float:
    prefix = torch.tensor(lm.prefix_ids, dtype=ids.dtype)
    with torch.inference_mode():
        logits = lm.model(torch.cat([prefix, ids])[None], use_cache=False).logits[0]
    logits = logits[len(prefix) : -1]
    return float(torch.nn.functional.cross_entropy(logits, ids[1:]))


def test_the_dequantised_weights_are_a_language_model(embedded, passage):
    # uniform guessing costs log 49,152 = 10.8 and log 262,144 = 12.5 nats a token
    ids = torch.tensor(passage(embedded, 512))
    assert mean_nll(embedded, ids) < 4


def test_the_language_model_check_fails_for_shuffled_text(smollm2, passage):
    ids = torch.tensor(passage(smollm2, 128))
    shuffled = ids[torch.randperm(128, generator=torch.Generator().manual_seed(0))]
    assert mean_nll(smollm2, shuffled) > 4.5


QWEN = {  # layers, query heads, KV heads, head_dim, parameters with the head of its own
    "qwen_half": (24, 14, 2, 64, 630_167_424),
    "qwen": (28, 12, 2, 128, 1_777_088_000),
}


@pytest.mark.parametrize("model", QWEN)
def test_qwen_is_what_it_says(request, model):
    lm = request.getfixturevalue(model)
    config, (layers, heads, kv_heads, head, count) = lm.model.config, QWEN[model]
    assert (config.num_hidden_layers, config.num_attention_heads) == (layers, heads)
    assert config.num_key_value_heads == kv_heads
    assert config.hidden_size // config.num_attention_heads == head
    assert config.rope_parameters["rope_theta"] == 1e6
    assert lm.vocab_size == 151_936
    assert about(lm)["parameters"] == count and about(lm)["licence"] == "Apache-2.0"
    embedding = lm.model.get_input_embeddings().weight
    own = lm.model.get_output_embeddings().weight
    assert own.data_ptr() != embedding.data_ptr()  # the file's head, some percents apart
    assert 0.01 < relative_error(own[:512], embedding[:512]) < 0.2
    code = lm.tokenizer(inspect.getsource(textwrap.TextWrapper))["input_ids"][:128]
    assert mean_nll(lm, torch.tensor(code)) < 3.5  # guessing costs log 151,936 = 11.9


def test_qwen_in_bfloat16_says_nearly_the_same(qwen_half, passage):
    half = load_model(qwen_half.name, device="cpu", dtype="bfloat16")
    assert half.dtype == torch.bfloat16 == half.model.lm_head.weight.dtype
    ids = torch.tensor(passage(qwen_half, 64))
    assert abs(mean_nll(half, ids) - mean_nll(qwen_half, ids)) < 0.1  # the floor of bfloat16


# --- the faster matrix product ------------------------------------------------------------------

needs_onednn = pytest.mark.skipif(
    not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")),
    reason="this build of torch has no oneDNN linear layer; models keep torch's own",
)


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@needs_onednn
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(1, 7), (3, 64, 576), (2, 5, 3)])
def test_the_onednn_layer_is_a_linear_layer(shape, bias):
    # seeded: the same numbers on every run
    generator = torch.Generator().manual_seed(0)
    plain = torch.nn.Linear(shape[-1], 33, bias=bias)
    for parameter in plain.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    x = torch.randn(shape, generator=generator)
    twin = OneDnnLinear(shape[-1], 33, bias=bias)
    twin.load_state_dict(plain.state_dict())
    with torch.inference_mode():
        assert relative_error(twin(x), plain(x)) < 1e-5


@needs_onednn
def test_a_whole_forward_is_the_same_with_torchs_own_layers(smollm2, passage):
    ids = torch.tensor(passage(smollm2, 48))[None]
    swapped = [m for m in smollm2.model.modules() if type(m) is OneDnnLinear]
    assert len(swapped) == 7 * smollm2.model.config.num_hidden_layers + 1  # q k v o, MLP, head
    with torch.inference_mode():
        fast = smollm2.model(ids, use_cache=False).logits
        try:
            for module in swapped:
                module.__class__ = torch.nn.Linear
            plain = smollm2.model(ids, use_cache=False).logits
        finally:
            for module in swapped:
                module.__class__ = OneDnnLinear
    assert relative_error(fast, plain) < 1e-5


# --- other models -----------------------------------------------------------------------------


def test_a_local_folder_loads(tiny, tiny_folder):
    assert tiny.name == str(tiny_folder)
    assert tiny.weights_sha256 == sha256(tiny_folder / "model.safetensors")
    assert tiny.prefix_ids == () and tiny.vocab_size == 258
    assert tiny.tokenizer("abc")["input_ids"] == tiny.tokenizer("xabc")["input_ids"][1:]


def test_other_dtypes_load_when_asked_for(tiny_folder):
    lm = load_model(str(tiny_folder), device="cpu", dtype="bfloat16")
    assert lm.dtype == torch.bfloat16 == lm.model.lm_head.weight.dtype


@pytest.mark.parametrize("name", ["no-such-model", "nobody/no-such-model", "/no/such/folder"])
def test_an_unknown_name_gives_one_line_that_names_the_known(name):
    with pytest.raises((ValueError, OSError)) as error:
        load_model(name)
    line = one_line(error)
    assert repr(name) in line
    assert all(known in line for known in EMBEDDED)


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ({"device": "abacus"}, "device: expected auto, cpu or .* got 'abacus'"),
        ({"dtype": "int4"}, "dtype: expected auto, float32, .* got 'int4'"),
    ],
)
def test_an_unknown_device_or_dtype_is_refused_before_anything_is_read(wrong, expected):
    with pytest.raises(ValueError, match=expected):
        load_model("no-such-model", **wrong)


@pytest.mark.parametrize(
    "device",
    ["meta", "mps", "xpu", "vulkan", "hpu", "fpga", "mtia", "xla", "privateuseone", "cpu:1"],
)
def test_a_device_that_is_not_here_is_refused_before_anything_is_read(device, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    with pytest.raises(ValueError, match=f"device: expected .* here, cpu, got '{device}'") as error:
        load_model("no-such-model", device=device)
    one_line(error)


def test_a_device_beyond_those_that_are_here_is_refused(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("xpu"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    assert load._resolve_device("xpu:1") == torch.device("xpu:1")
    with pytest.raises(ValueError, match="expected one that exists here, cpu, xpu:0 to xpu:1, got"):
        load._resolve_device("xpu:2")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_cuda_is_refused_where_there_is_none():
    with pytest.raises(ValueError, match="CUDA is missing"):
        load_model("no-such-model", device="cuda")


def test_pickled_weights_are_refused(tiny_folder, tmp_path):
    folder = tmp_path / "pickled"
    shutil.copytree(tiny_folder, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    torch.save({"x": torch.zeros(1)}, folder / "pytorch_model.bin")
    with pytest.raises(OSError, match=r"expected weights as \*\.safetensors") as error:
        load_model(str(folder))
    one_line(error)
    # nor does a safetensors file of something else open the door to them
    shutil.copy(tiny_folder / "model.safetensors", folder / "adapter.safetensors")
    with pytest.raises(OSError, match="cannot load") as error:
        load_model(str(folder))
    one_line(error)


def test_truncated_weights_of_a_local_folder_give_one_line(tiny_folder, tmp_path):
    folder = tmp_path / "short"
    shutil.copytree(tiny_folder, folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(OSError, match="cannot load") as error:
        load_model(str(folder))
    assert str(folder) in one_line(error)


def test_an_architecture_that_caps_its_logits_is_refused_by_name(tiny_folder, tmp_path):
    folder = tmp_path / "capped"
    config = Gemma2Config(
        vocab_size=258,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        initializer_range=1.0,  # logits large enough for the cap to bend them
        final_logit_softcapping=30.0,
    )
    torch.manual_seed(0)
    Gemma2ForCausalLM(config).save_pretrained(folder)
    for file in tiny_folder.glob("tokenizer*"):
        shutil.copy(file, folder)
    with pytest.raises(ValueError, match=r"Gemma2ForCausalLM.*not supported") as error:
        load_model(str(folder))
    one_line(error)


def test_a_model_full_of_nan_is_not_mistaken_for_one_that_caps_its_logits(tiny_folder):
    lm = load_model(str(tiny_folder), device="cpu")
    lm.model.lm_head.weight.fill_(float("nan"))
    load._check_head(lm.model, lm.name)  # measuring says what is wrong


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bad", [None, "inf", "-inf", "nan"])
def test_one_number_that_is_not_finite_is_found(dtype, bad):
    weight = torch.ones(300, 40, dtype=dtype)
    weight[7, :2] = torch.finfo(dtype).max  # whose sum overflows
    assert load._all_finite(weight)
    if bad:
        weight[211, 3] = float(bad)
        assert not load._all_finite(weight)
        weight[211, 4] = -float(bad)  # infinities of both signs
        assert not load._all_finite(weight)


# --- arithmetic -------------------------------------------------------------------------------


def test_cache_bytes_have_their_hand_value():
    config = LlamaConfig(
        hidden_size=576, num_attention_heads=9, num_key_value_heads=3, num_hidden_layers=30
    )
    # keys and values · layers · KV heads · head_dim · bytes, for each of 1,024 tokens
    assert cache_bytes(config, 1024) == 1024 * 2 * 30 * 3 * 64 * 2
    assert cache_bytes(config, 1024, bytes_per_number=4) == 2 * cache_bytes(config, 1024)


def test_cache_bytes_charge_sliding_layers_at_most_their_window():
    config = Gemma3TextConfig(
        num_hidden_layers=3,
        num_key_value_heads=1,
        head_dim=256,
        sliding_window=512,
        layer_types=["sliding_attention", "sliding_attention", "full_attention"],
    )
    assert cache_bytes(config, 100) == 2 * (100 + 100 + 100) * 256 * 2
    assert cache_bytes(config, 2000) == 2 * (512 + 512 + 2000) * 256 * 2
