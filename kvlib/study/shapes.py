"""Shapes of public models: what a pass costs and a weight weighs is known without the weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

UNGATED = ("gpt2", "gpt_neox", "opt", "phi", "bloom", "gptj")  # two matrices an MLP, not three
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "float64": 8}


class Shape(NamedTuple):
    """Sizes of a decoder: `inner` is the width of its MLPs of `matrices` matrices, `tied` whether
    the head is the embedding, `prefix` the tokens that stand before every text, `gated` whether
    its licence has to be accepted on the Hub."""

    name: str
    hub: str
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    inner: int
    vocab: int
    tied: bool = True
    prefix: int = 1
    gated: bool = False
    matrices: int = 3

    @property
    def body(self) -> int:
        """Weights of matrices that every token meets: attention and MLPs, no embedding, no head."""
        attention = 2 * self.width * self.head_dim * (self.heads + self.kv_heads)
        return self.layers * (attention + self.matrices * self.width * self.inner)

    @property
    def parameters(self) -> int:
        """All weights, but for norms and biases: less than a hundredth."""
        return self.body + (1 if self.tied else 2) * self.vocab * self.width

    def weight_bytes(self, dtype: str) -> int:
        """Bytes of all weights at a precision."""
        return self.parameters * BYTES[dtype]

    def cache_bytes(self, dtype: str) -> int:
        """Bytes of keys and values of a token: 2 · layers · kv_heads · head_dim · size."""
        return 2 * self.layers * self.kv_heads * self.head_dim * BYTES[dtype]


# From each model's public config.json.
SHAPES = {
    shape.name: shape
    for shape in (
        Shape("small-gpt2", "", 5, 256, 4, 4, 64, 1024, 4096, prefix=0, matrices=2),
        Shape("smollm2-135m-instruct", "", 30, 576, 9, 3, 64, 1536, 49152, prefix=0),
        Shape("gemma3-270m", "", 18, 640, 4, 1, 256, 2048, 262144),
        Shape("qwen2.5-coder-0.5b-instruct", "", 24, 896, 14, 2, 64, 4864, 151936, prefix=0),
        Shape("qwen2.5-coder-1.5b-instruct", "", 28, 1536, 12, 2, 128, 8960, 151936, prefix=0),
        Shape(
            *("Qwen2.5-0.5B", "Qwen/Qwen2.5-0.5B", 24, 896, 14, 2, 64, 4864, 151936),
            prefix=0,
        ),
        Shape(
            *("Qwen2.5-1.5B", "Qwen/Qwen2.5-1.5B", 28, 1536, 12, 2, 128, 8960, 151936),
            prefix=0,
        ),
        Shape(
            *("Qwen2.5-3B", "Qwen/Qwen2.5-3B", 36, 2048, 16, 2, 128, 11008, 151936),
            prefix=0,
        ),
        Shape(
            *("Qwen2.5-7B", "Qwen/Qwen2.5-7B", 28, 3584, 28, 4, 128, 18944, 152064),
            tied=False,
            prefix=0,
        ),
        Shape(
            *("Qwen2.5-72B", "Qwen/Qwen2.5-72B", 80, 8192, 64, 8, 128, 29568, 152064),
            tied=False,
            prefix=0,
        ),
        Shape(
            *("Llama-3.2-1B", "meta-llama/Llama-3.2-1B", 16, 2048, 32, 8, 64, 8192, 128256),
            gated=True,
        ),
        Shape(
            *("Llama-3.2-3B", "meta-llama/Llama-3.2-3B", 28, 3072, 24, 8, 128, 8192, 128256),
            gated=True,
        ),
        Shape(
            *("Llama-3.1-8B", "meta-llama/Llama-3.1-8B", 32, 4096, 32, 8, 128, 14336, 128256),
            tied=False,
            gated=True,
        ),
        Shape(
            *("Llama-3.1-70B", "meta-llama/Llama-3.1-70B", 80, 8192, 64, 8, 128, 28672, 128256),
            tied=False,
            gated=True,
        ),
        Shape(
            *("Mistral-7B-v0.3", "mistralai/Mistral-7B-v0.3", 32, 4096, 32, 8, 128, 14336, 32768),
            tied=False,
        ),
        Shape(
            *("Phi-3.5-mini", "microsoft/Phi-3.5-mini-instruct", 32, 3072, 32, 32, 96, 8192, 32064),
            tied=False,
        ),
        Shape(
            *("gemma-2-2b", "google/gemma-2-2b", 26, 2304, 8, 4, 256, 9216, 256000),
            gated=True,
        ),
    )
}
NO_HEAD_ALONE = ("gemma-2-2b",)  # softens its logits behind the head: costed, but not measured


def shape_of(name: str) -> Shape:
    """The shape of a model: by its name or Hub id here, or from a folder's `config.json`.

    Raises ValueError for a name that is neither, with the names there are.
    """
    for shape in SHAPES.values():
        if name in (shape.name, shape.hub):
            return shape
    place = Path(name)
    place = place if place.name == "config.json" else place / "config.json"
    if not place.is_file():
        raise ValueError(
            f"model: expected one of {', '.join(SHAPES)}, their Hub ids, or a folder with "
            f"config.json, got {name!r}"
        )
    try:
        shape = from_config(place.parent.name, json.loads(place.read_text(encoding="utf-8")))
        return shape._replace(prefix=prefix_of(place.parent))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{place}: expected a model's sizes, got none of {error}") from None


def prefix_of(folder: Path) -> int:
    """Tokens that a folder's tokenizer puts before every text: 1 where it adds a first one, or
    where there is no tokenizer to ask."""
    said, rules = folder / "tokenizer_config.json", folder / "tokenizer.json"
    if not (said.is_file() and rules.is_file()):
        return 1
    settings = json.loads(said.read_text(encoding="utf-8"))
    bos = settings.get("bos_token")
    bos = bos.get("content") if isinstance(bos, dict) else bos
    behind = json.dumps(json.loads(rules.read_text(encoding="utf-8")).get("post_processor"))
    return int(bool(settings.get("add_bos_token")) or (bos is not None and bos in behind))


def from_config(name: str, config: dict[str, Any]) -> Shape:
    """The shape that a transformers config describes, of Llama's names or of GPT-2's."""
    config = config.get("text_config") or config

    def first(*keys: str, default: Any = None) -> Any:
        found = next((config[key] for key in keys if config.get(key) is not None), default)
        if found is None:
            raise KeyError(keys[0])
        return found

    width, heads = first("hidden_size", "n_embd"), first("num_attention_heads", "n_head")
    return Shape(
        name,
        "",
        layers=first("num_hidden_layers", "n_layer"),
        width=width,
        heads=heads,
        kv_heads=first("num_key_value_heads", default=heads),
        head_dim=first("head_dim", default=width // heads),
        inner=first("intermediate_size", "n_inner", default=4 * width),
        vocab=first("vocab_size"),
        tied=bool(config.get("tie_word_embeddings", True)),
        matrices=2 if config.get("model_type") in UNGATED else 3,
    )
