"""From tokens to bytes and to settings: what a budget weighs, and what to paste into an engine.

Works on a model's `config.json` alone, or on what the manifest of a table says of its model.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from kvlib.names import sinks_of
from kvlib.store import check_regular

BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2, "fp8": 1}  # of a cached number
EVERY_NTH_SEES_ALL = {"gemma2": 2, "gemma3_text": 6, "cohere2": 4}  # where a config does not say
UNITS = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
OTHERWISE = (  # keys by which a config says that not all of its layers are attention
    *("attn_layer_period", "full_attention_interval", "block_types", "_block_types"),
    *("layers_block_type", "hybrid_override_pattern", "attn_layer_indices", "linear_attn_config"),
)
AS_MEASURED = {  # how `BoundedCache` differs from what each protocol measured
    "online": "The same rule as measured.",
    "prefill": "Measured after a full prefill; this cache evicts while it reads as well.",
    "reencode": "Measured on text that was read anew; this cache keeps what it has read.",
}
AFTER_A_PROMPT = ("snapkv", "expected-attention")  # policies without an online form
STEP = 32  # tokens at once of a policy with scores, as measured; `kvlib.cache.protocols.STEP`
SHARED = ("sliding", "sinks", "random", "tova")  # how keys of policies begin, one set a layer


class Held(NamedTuple):
    """What a cache holds of a token: groups of (numbers in all layers of the group, window).

    `window` is what layers that slide see, None for those that see everything. `groups` is what a
    serving engine holds, `ours` what transformers does: they differ where a model has latent
    attention (MLA), of which engines hold one narrow vector for all heads. `family` is the
    config's `model_type`, `slides` whether every layer does.
    """

    groups: tuple[tuple[int, int | None], ...]
    ours: tuple[tuple[int, int | None], ...]
    family: str = ""
    reach: int = 0  # tokens that the model numbers; 0: not known

    def numbers(self, tokens: int, ours: bool = True) -> int:
        """Numbers held for so many tokens; layers that slide stop at their window."""
        groups = self.ours if ours else self.groups
        return sum(each * (min(tokens, window) if window else tokens) for each, window in groups)

    def bytes(self, tokens: int, dtype: str = "bfloat16", batch: int = 1, ours: bool = True) -> int:
        """Bytes of keys and values of `batch` sequences of so many tokens."""
        return batch * self.numbers(tokens, ours) * bytes_of(dtype)

    def bounded(self, budget: int, dtype: str = "bfloat16", batch: int = 1) -> int:
        """Bytes of a `BoundedCache`: so many entries in every layer, those that slide too."""
        return batch * budget * sum(each for each, _ in self.ours) * bytes_of(dtype)

    @property
    def latent(self) -> bool:
        """Whether engines hold a narrow vector where transformers holds keys and values."""
        return self.groups != self.ours


def bytes_of(dtype: str) -> int:
    """Bytes of a number; ValueError for a type that is not known."""
    if dtype not in BYTES:
        raise ValueError(f"dtype: expected one of {', '.join(BYTES)}, got {dtype!r}")
    return BYTES[dtype]


# --- what a config says ---------------------------------------------------------------------------


def held_of(config: dict[str, Any]) -> Held:
    """What the cache of a model with this `config.json` holds.

    A layer of kv_heads heads holds kv_heads · (width of a key + width of a value) numbers a token;
    with latent attention, engines hold kv_lora_rank + qk_rope_head_dim. Layers that use the cache
    of another layer hold nothing. Raises ValueError for sizes that are missing or no sizes, and for
    layers that are no attention.
    """
    if not isinstance(config, dict):
        raise ValueError(f"config: expected an object, got {type(config).__name__}")
    text = config.get("text_config")
    config = {**config, **text} if isinstance(text, dict) else config
    layers = _size(config, "num_hidden_layers", "n_layer", "n_layers", "num_layers")
    windows = _windows(config, layers)
    shared = config.get("num_kv_shared_layers") or 0
    windows = windows[: layers - int(shared)]
    engine, ours = _latent(config) or (_width(config),) * 2
    return Held(
        _grouped(engine, windows),
        _grouped(ours, windows),
        str(config.get("model_type") or ""),
        int(config.get("max_position_embeddings") or config.get("n_positions") or 0),
    )


def held_of_manifest(about: dict[str, Any]) -> Held | None:
    """The same from what a table's manifest says of its model; None where it says nothing."""
    cost = about.get("cache_bytes")
    if not isinstance(cost, dict) or not {"full", "sliding", "local"} <= cost.keys():
        return None
    parts = ((cost["full"] // 2, None), (cost["sliding"] // 2, cost["local"] or None))
    groups = tuple((each, window) for each, window in parts if each)
    return Held(groups, groups, str(about.get("family", ""))) if groups else None


def read_config(place: Path) -> dict[str, Any]:
    """The `config.json` at a path, or in a folder; ValueError in one line where there is none."""
    place = place if place.suffix == ".json" else place / "config.json"
    try:
        check_regular(place)
        found = json.loads(place.read_text(encoding="utf-8"))
    except OSError as error:
        why = error.strerror or "it is no regular file"
        raise ValueError(f"{place}: expected a config.json, got none: {why}") from None
    except ValueError:
        raise ValueError(f"{place}: expected JSON, got something else") from None
    if not isinstance(found, dict):
        raise ValueError(f"{place}: expected an object, got {type(found).__name__}")
    return found


def _width(config: dict[str, Any]) -> int:
    """Numbers of a token in a layer of keys and values: 2 · kv_heads · head_dim."""
    heads = _size(config, "num_attention_heads", "n_head", "n_heads", "num_heads")
    kv_heads = config.get("num_key_value_heads") or config.get("num_kv_heads")
    if isinstance(inner := config.get("attn_config"), dict) and inner.get("kv_n_heads"):
        kv_heads = _size(inner, "kv_n_heads")  # DBRX
    if config.get("multi_query_attention") and config.get("multi_query_group_num"):
        kv_heads = _size(config, "multi_query_group_num")  # ChatGLM
    if config.get("multi_query") and not config.get("new_decoder_architecture"):
        kv_heads = 1  # Falcon, GPT-BigCode
    if config.get("head_dim") or config.get("kv_channels"):
        width = _size(config, "head_dim", "kv_channels")
    else:
        width = _size(config, "hidden_size", "n_embd", "d_model") // heads
    return 2 * (kv_heads or heads) * width


def _latent(config: dict[str, Any]) -> tuple[int, int] | None:
    """Numbers of a token in a layer of latent attention: an engine's, and those of transformers."""
    if not config.get("kv_lora_rank"):
        return None
    turned, plain, value = (
        _size(config, name) for name in ("qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim")
    )
    heads = _size(config, "num_attention_heads")
    return _size(config, "kv_lora_rank") + turned, heads * (plain + turned + value)


def _windows(config: dict[str, Any], layers: int) -> list[int | None]:
    """The window of each layer; None for one that sees everything."""
    window = config.get("sliding_window")
    if mixed := [key for key in OTHERWISE if config.get(key) and not config.get("layer_types")]:
        raise ValueError(f"{mixed[0]}: expected layers of attention alone, got some of other kinds")
    if kinds := config.get("layer_types"):
        if not isinstance(kinds, list) or len(kinds) != layers:
            raise ValueError(f"layer_types: expected a list of {layers}, got {str(kinds)[:60]!r}")
    elif not window or config.get("use_sliding_window") is False:
        return [None] * layers
    else:
        kinds = _kinds(config, layers)
    known = {"full_attention": None, "sliding_attention": window}
    known["chunked_attention"] = config.get("attention_chunk_size")
    if other := sorted({str(kind) for kind in kinds} - known.keys()):
        raise ValueError(f"layer_types: expected some of {', '.join(known)}, got {other[0]!r}")
    found = [known[kind] for kind in kinds]
    for kind, size in zip(kinds, found, strict=True):
        if kind != "full_attention" and (type(size) is not int or size < 1):
            raise ValueError(f"sliding_window: expected a whole number above 0, got {size!r}")
    return found


def _kinds(config: dict[str, Any], layers: int) -> list[str]:
    """The kinds of layers of a config that names a window and no kinds."""
    every = config.get("sliding_window_pattern") or config.get("_sliding_window_pattern")
    every = every or EVERY_NTH_SEES_ALL.get(str(config.get("model_type")), 0)
    first = config.get("max_window_layers", 0) if "use_sliding_window" in config else 0
    slides = [(k + 1) % every != 0 if every else k >= first for k in range(layers)]
    return ["sliding_attention" if one else "full_attention" for one in slides]


def _grouped(each: int, windows: list[int | None]) -> tuple[tuple[int, int | None], ...]:
    """Layers of one window as one group, those that see everything first."""
    counts = {window: windows.count(window) for window in dict.fromkeys(windows)}
    order = sorted(counts, key=lambda window: (window is not None, window or 0))
    return tuple((each * counts[window], window) for window in order)


def _size(config: dict[str, Any], *names: str) -> int:
    """The first of several names that a config has; ValueError where none is a size."""
    for name in names:
        if (found := config.get(name)) is not None:
            if type(found) is not int or found < 1:
                raise ValueError(f"{name}: expected a whole number above 0, got {found!r}")
            return found
    raise ValueError(f"{names[0]}: expected in the config, got none")


# --- units ----------------------------------------------------------------------------------------


def weight(count: float) -> str:
    """Bytes in the unit that leaves one to three digits before the point: 5.9 MB, 1.61 GB."""
    for size, unit in UNITS:
        if count >= 0.9995 * size:
            return f"{_digits(count / size)} {unit}"
    return f"{count:.0f} byte" + "s" * (round(count) != 1)


def _digits(value: float) -> str:
    """A positive number with three significant digits, without an exponent."""
    return f"{value:,.0f}" if value >= 99.95 else f"{value:.3g}"


class Weights(NamedTuple):
    """What a budget weighs: a sequence and a batch, beside the full cache at a context."""

    budget: int
    dtype: str
    batch: int
    context: int
    sequence: int
    all: int
    full: int

    @property
    def share(self) -> float:
        """Of the full cache at that context."""
        return self.sequence / self.full

    def sentence(self) -> str:
        """The same in words."""
        each = f"{self.budget:,} entries weigh {weight(self.sequence)} a sequence in {self.dtype}"
        batch = f", {weight(self.all)} for {self.batch} sequences" if self.batch > 1 else ""
        part = f"{100 * self.share:.3g}%" if self.share < 1 else "all"
        return (
            f"{each}{batch}: {part} of the {weight(self.full)} of the full cache at "
            f"{self.context:,} tokens."
        )


def weights(
    held: Held, budget: int, dtype: str = "bfloat16", batch: int = 1, context: int = 0
) -> Weights:
    """What a `BoundedCache` of so many entries weighs, beside the full cache at a context.

    `context` is in tokens; 0 takes what the model numbers, or else 8,192. Of a context that the
    budget holds, nothing is saved. Raises ValueError for counts below one.
    """
    context = context or held.reach or 8192
    for name, count in (("budget", budget), ("batch", batch), ("context", context)):
        if count < 1:
            raise ValueError(f"{name}: expected at least 1, got {count}")
    full = held.bytes(context, dtype)
    sequence = min(held.bounded(min(budget, context), dtype), full)
    return Weights(budget, dtype, batch, context, sequence, batch * sequence, full)


# --- settings -------------------------------------------------------------------------------------


class Setting(NamedTuple):
    """What to paste into an engine: `lines` is empty where there is no equivalent, and `differs`
    says why, or what is not the same there."""

    engine: str
    lines: str
    differs: str


ENGINES = ("kvlib", "vLLM", "SGLang", "llama.cpp", "TensorRT-LLM")


def shared_by_heads(policy: str) -> bool:
    """Whether all heads of a layer keep the same tokens: what an engine of pages can free.

    A page holds some tokens of all heads; it is free only when none of them needs any.
    """
    return policy.startswith(SHARED) and "heads" not in policy


def settings(
    policy: str,
    budget: int,
    held: Held | None = None,
    protocol: str = "online",
    step: int = STEP,
) -> list[Setting]:
    """Settings of a policy, by its key, with so many entries: ours, then those of engines.

    `step` is how many tokens at once a policy with scores was measured with, an eighth of the
    budget at most. `protocol` is "reencode" for a budget of text that is read anew, where any
    engine does.
    """
    if protocol == "reencode" and policy == "sliding":
        return [_resent(engine, budget) for engine in ENGINES]
    engines = (_vllm, _sglang, _llama_cpp, _tensorrt)
    others = [engine(policy, budget, held, protocol) for engine in engines]
    return [_ours(policy, budget, protocol, min(step, max(1, budget // 8))), *others]


def _resent(engine: str, budget: int) -> Setting:
    """A request that holds the last tokens alone."""
    lines = f"prompt_ids = prompt_ids[-{budget}:]"
    differs = (
        "Each request reads the last tokens anew, with nothing in front; what is generated comes "
        "on top."
    )
    if engine == "vLLM":
        lines = f"SamplingParams(truncate_prompt_tokens={budget})"
    return Setting(engine, lines, differs)


def _ours(policy: str, budget: int, protocol: str, step: int) -> Setting:
    sinks = sinks_of(policy)
    if policy in ("sliding", "sinks", "sinks-cache-positions"):
        positions = ', positions="cache"' if policy.endswith("cache-positions") else ""
        lines = (
            f"cache = BoundedCache({budget}, n_sink={sinks}{positions}, model=model)\n"
            "model.generate(**inputs, past_key_values=cache)"
        )
        return Setting("kvlib", lines, AS_MEASURED[protocol])
    if policy in AFTER_A_PROMPT or policy.endswith("closed-up"):
        why = "this rule is measured on a prompt that was read whole, or is read anew"
        return Setting("kvlib", "", f"No cache to generate with: {why}.")
    scored = not policy.startswith("random")
    pieces = f", prefill_chunk_size={step}" if scored else ""
    lines = (
        "from kvlib.cache.policies import NAMED\n"
        f'cache = BoundedCache({budget}, policy=NAMED["{policy}"], model=model)\n'
        f"model.generate(**inputs, past_key_values=cache{pieces})"
    )
    more = "Its draws are its own."
    if scored:
        at_once = "token by token" if step == 1 else f"in pieces of {step} tokens"
        more = (
            f"What is kept depends on how the prompt is fed: {at_once}, as measured, and larger "
            "pieces lose more. Scores of attention need a model loaded with "
            'attn_implementation="eager".'
        )
    return Setting("kvlib", lines, f"{AS_MEASURED[protocol]} {more}")


def _vllm(policy: str, budget: int, held: Held | None, protocol: str) -> Setting:
    if policy == "sliding" and not _slides_in_part(held):
        lines = f"vllm serve MODEL --hf-overrides '{{\"sliding_window\": {budget}}}'"
        differs = (
            "All layers slide, in the prompt too, as online. Pages go when all their tokens have "
            "left the window: up to one page more is held. Only for models whose config has no "
            "layer_types, and with use_sliding_window true where there is such a key."
        )
        return Setting("vLLM", lines, differs)
    return Setting("vLLM", "", _no_engine("vLLM", policy, held, "no setting keeps first tokens"))


def _sglang(policy: str, budget: int, held: Held | None, protocol: str) -> Setting:
    why = "layers slide where the model was made so, and no setting changes that"
    return Setting("SGLang", "", _no_engine("SGLang", policy, held, why))


def _llama_cpp(policy: str, budget: int, held: Held | None, protocol: str) -> Setting:
    if policy not in ("sliding", "sinks", "sinks-cache-positions"):
        return Setting("llama.cpp", "", _no_engine("llama.cpp", policy, held, "no such rule"))
    sinks = sinks_of(policy)
    size = 2 * budget - sinks  # half of what is not kept goes at once
    lines = f"llama-server -m MODEL.gguf -c {size} --keep {sinks} --context-shift -np 1"
    differs = (
        f"When the context of {size} is full, half of what --keep does not protect goes at once, "
        f"so that between {budget} and {size} entries are held, never fewer than were measured; "
        "what stays is moved to new positions. A prompt longer than the context is refused. "
        "A first token that the tokenizer adds is kept besides."
    )
    return Setting("llama.cpp", lines, differs)


def _tensorrt(policy: str, budget: int, held: Held | None, protocol: str) -> Setting:
    if policy not in ("sliding", "sinks"):
        why = "its own compression (TriAttention) scores entries in another way"
        return Setting("TensorRT-LLM", "", _no_engine("TensorRT-LLM", policy, held, why))
    sinks = sinks_of(policy)
    sink = f", sink_token_length={sinks}" if sinks else ""
    lines = f"KvCacheConfig(max_attention_window=[{budget}]{sink}, enable_block_reuse=False)"
    differs = "Pages are freed whole: up to one page more is held."
    if sinks:
        differs += (
            " The field is documented as the number of tokens always kept in the window; not every "
            "backend honours it: compare a few answers before you trust it."
        )
    return Setting("TensorRT-LLM", lines, differs)


def _slides_in_part(held: Held | None) -> bool:
    """Whether some layers see everything and others do not."""
    return held is not None and len(held.groups) > 1


def _no_engine(engine: str, policy: str, held: Held | None, why: str) -> str:
    """Why there is no equivalent."""
    if not shared_by_heads(policy):
        return (
            f"No equivalent: each head keeps other tokens, and {engine} can free only what all "
            "heads of a layer give up."
        )
    if policy == "sliding" and _slides_in_part(held):
        return "No equivalent: the window of a model whose layers slide in part is not to be set."
    return f"No equivalent: {why}."


def joined(found: Sequence[Setting]) -> list[Setting]:
    """Settings with those engines in one that are told the same, in the order of the first."""
    engines: dict[tuple[str, str], list[str]] = {}
    for one in found:
        engines.setdefault((one.lines, one.differs), []).append(one.engine)
    return [Setting(", ".join(names), *said) for said, names in engines.items()]
