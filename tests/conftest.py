"""What several test files share: the embedded models, a text, a tiny model made on the spot.

Nothing here touches the network: the embedded models come from installed wheels, and tests of the
larger ones are skipped where those were not fetched.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

# before a library starts its threads: sums come out the same, run for run
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from jaxtyping import install_import_hook  # noqa: E402

# before they are imported: what these modules say of the shapes of tensors is held to, call by call
ANNOTATED = ("cache", "measure")  # rooms, with all their modules
install_import_hook([f"kvlib.{name}" for name in ANNOTATED], "shapes.held")

os.environ["HF_HUB_OFFLINE"] = "1"  # read once, when huggingface_hub is first imported
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


HEAVY = {  # fixtures that load 10^8 weights, or judge all claims
    *("smollm2", "gemma", "embedded", "trained", "qwen_half", "qwen"),
    *("stored_verdicts", "without_tables"),
}
SLOW = Path(__file__).with_name("slow.txt")


@pytest.fixture
def command(monkeypatch, capfd):
    """command(…): the command line in this process, which has its libraries loaded; exit code,
    standard output, standard error."""
    from kvlib import __main__ as command_line

    def run(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["kvlib", *map(str, args)])
        capfd.readouterr()
        code: object = 0
        try:
            command_line.main()
        except SystemExit as exit_:
            code = exit_.code
        return int(code or 0), *capfd.readouterr()

    return run


def used(item: pytest.Item) -> set[str]:
    """The names of a test's fixtures, and of what it may ask for by a parameter."""
    given = getattr(item, "callspec", None)
    asked = {value for value in given.params.values() if isinstance(value, str)} if given else set()
    return asked | set(getattr(item, "fixturenames", ()))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks as slow what asks for a heavy fixture, and what `slow.txt` names."""
    slow = set(SLOW.read_text(encoding="utf-8").split())
    for item in items:
        file, test = item.location[0], item.location[2].partition("[")[0]
        if {file, f"{file}::{test}"} & slow or HEAVY & used(item):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def smollm2():
    """SmolLM2-135M-Instruct on the CPU, in float32."""
    from kvlib.models import load_model

    return load_model("smollm2-135m-instruct", device="cpu")


@pytest.fixture(scope="session")
def gemma():
    """Gemma-3-270M on the CPU, in float32."""
    from kvlib.models import load_model

    return load_model("gemma3-270m", device="cpu")


def on_demand(name: str):
    """A model that is fetched on demand, in float32 on the CPU; skips where it is not here."""
    from kvlib.models import embedded, load_model

    if not embedded.folder_of(name).is_dir():
        pytest.skip(f"{name} is not here: kvlib fetch {name}")
    return load_model(name, device="cpu")


@pytest.fixture(scope="module")
def qwen_half():
    """Qwen2.5-Coder-0.5B-Instruct: not held beyond a file of tests, for its size."""
    return on_demand("qwen2.5-coder-0.5b-instruct")


@pytest.fixture(scope="module")
def qwen():
    """Qwen2.5-Coder-1.5B-Instruct, likewise."""
    return on_demand("qwen2.5-coder-1.5b-instruct")


@pytest.fixture(scope="session")
def small():
    """The project's own small GPT-2, with learned absolute positions: real, and fast."""
    from kvlib.models import load_model

    return load_model("small-gpt2", device="cpu")


@pytest.fixture(scope="session", params=["smollm2", "gemma"])
def embedded(request: pytest.FixtureRequest):
    """Each embedded model in turn."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def bible():
    """The World English Bible as a `Corpus`."""
    from kvlib.corpora import load_corpus

    return load_corpus("world-english-bible")


@pytest.fixture(scope="session")
def passage(bible):
    """passage(lm, n): the ids of n consecutive tokens of the Bible, without tokenising it whole."""
    import numpy as np

    def cut(lm, n: int, start: int = 100_000) -> np.ndarray:
        text = bible.text[start : start + 12 * n]
        return np.array(lm.tokenizer(text, add_special_tokens=False)["input_ids"][:n])

    return cut


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random two-layer Llama and a tokenizer whose tokens are bytes."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny") / "tiny-llama"
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: k for k, symbol in enumerate(alphabet)} | {"<s>": 256, "</s>": 257}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=258,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        bos_token_id=256,
        eos_token_id=257,
        initializer_range=0.3,  # large, so that its next-token laws do depend on the context
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path):
    """The tiny random Llama, loaded."""
    from kvlib.models import load_model

    return load_model(str(tiny_folder), device="cpu")


@pytest.fixture(scope="session")
def random_model(tiny):
    """random_model(kind, …): a small random model of an architecture, by its model_type; what is
    None is not said."""
    import dataclasses

    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    sizes = {
        **{"vocab_size": 258, "hidden_size": 32, "intermediate_size": 48, "head_dim": 8},
        **{"num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2},
        **{"max_position_embeddings": 512, "bos_token_id": 1, "eos_token_id": 2},
        **{"pad_token_id": 0, "initializer_range": 0.3},
    }

    def make(kind: str, **settings):
        torch.manual_seed(0)
        given = {k: value for k, value in (sizes | settings).items() if value is not None}
        config = CONFIG_MAPPING[kind](**given)
        model = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
        return dataclasses.replace(tiny, model=model, name=kind)

    return make


@pytest.fixture(scope="session")
def sliding(random_model):
    """A small random Gemma 3: every other layer sees 20 tokens, a token stands before texts."""
    import dataclasses

    import torch

    kinds = ["sliding_attention", "full_attention"] * 2
    made = random_model("gemma3_text", sliding_window=20, layer_types=kinds)
    generator = torch.Generator().manual_seed(0)
    for layer in made.model.base_model.layers:  # else all keys have one norm
        weight = layer.self_attn.k_norm.weight
        weight += torch.randn(weight.shape, generator=generator) / 2
    return dataclasses.replace(made, name="sliding", prefix_ids=(256,))


@pytest.fixture(scope="session", params=["smollm2", "gemma"])
def trained(request: pytest.FixtureRequest):
    """Each embedded model; Gemma with sliding layers of 20 tokens, so that a short text passes."""
    import copy
    import dataclasses

    lm = request.getfixturevalue(request.param)
    if request.param == "smollm2":
        return lm
    model = copy.deepcopy(lm.model)
    model.config.sliding_window = 20
    return dataclasses.replace(lm, model=model)


@pytest.fixture(scope="session")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A UTF-8 text of 9,000 characters, each a token of the tiny model."""
    path = tmp_path_factory.mktemp("text") / "numbers.txt"
    path.write_text(" ".join(str(k * k % 9973) for k in range(2500))[:9000], encoding="utf-8")
    return path
