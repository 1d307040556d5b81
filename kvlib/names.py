"""How models, texts, distances and policies are called in a sentence; the book's order of them."""

from __future__ import annotations

import re
from typing import NamedTuple

NAMES = {
    "smollm2-135m-instruct": "SmolLM2-135M-Instruct",
    "gemma3-270m": "Gemma-3-270M",
    "qwen2.5-coder-0.5b-instruct": "Qwen2.5-Coder-0.5B-Instruct",
    "qwen2.5-coder-1.5b-instruct": "Qwen2.5-Coder-1.5B-Instruct",
    "small-gpt2": "the small GPT-2",
    "world-english-bible": "the World English Bible",
    "scipy-docs": "SciPy's docstrings",
    "sympy-code": "SymPy's source",
    "sympy-source": "SymPy's hand-written source",
    "petrogold": "PetroGold (Portuguese)",
    "aws-docs": "the AWS documentation of 2026",
    "kl_nats": "KL divergence (nats)",
    "tv": "total variation",
    "reencode": "re-encoded",
    "prefill": "after a prefill",
}


MODELS = (  # that the project knows
    "smollm2-135m-instruct",
    "gemma3-270m",
    "qwen2.5-coder-0.5b-instruct",
    "qwen2.5-coder-1.5b-instruct",
    "small-gpt2",
)


SOURCES = {
    "renewal": "age counter (renewal source)",
    "plus": "Gaussian, plus signs",
    "rudin-shapiro": "Gaussian, Rudin-Shapiro signs",
    "recall": "recall of random bits",
}


READERS = {  # that are no neural nets
    "ppmd": "PPMd",
    "n-gram": "the n-gram",
    "recency": "the n-gram of recent bytes",
}


PROTOCOLS = ("reencode", "online", "prefill")  # the ways to run a cache policy; `kvlib.cache`


class PolicyName(NamedTuple):
    """How a sentence calls a cache policy, and how many first entries it always keeps."""

    title: str
    n_sink: int = 0


POLICIES = {  # those of the book by their keys; of others the manifests of their tables tell
    "sliding": PolicyName("sliding window"),
    "sinks": PolicyName("4 sinks + recent", n_sink=4),
    "sinks-cache-positions": PolicyName("4 sinks + recent, cache positions", n_sink=4),
    "random": PolicyName("random"),
    "random-sinks": PolicyName("4 sinks + random", n_sink=4),
    "random-heads": PolicyName("random, each head its own"),
    "random-recent": PolicyName("random, half recent"),
    "random-sinks-recent": PolicyName("4 sinks + random, half recent", n_sink=4),
    "random-sinks-heads": PolicyName("4 sinks + random, each head its own", n_sink=4),
    "random-heads-recent": PolicyName("random, each head its own, half recent"),
    "random-sinks-heads-recent": PolicyName(
        "4 sinks + random, each head its own, half recent", n_sink=4
    ),
    "random-heads-pinned": PolicyName("random, each head its own, half the beginning"),
    "random-closed-up": PolicyName("random, closed up"),
    "random-sinks-closed-up": PolicyName("4 sinks + random, closed up", n_sink=4),
    "h2o": PolicyName("heavy hitters (H2O)"),
    "h2o-unprotected": PolicyName("heavy hitters, none protected"),
    "tova": PolicyName("TOVA"),
    "snapkv": PolicyName("SnapKV"),
    "key-norm": PolicyName("key norm"),
    "expected-attention": PolicyName("expected attention", n_sink=4),
}
TITLES = {key: policy.title for key, policy in POLICIES.items()}
KEYS = {title: key for key, title in TITLES.items()}  # tables of old have titles in their rows
_told: dict[str, PolicyName] = {}  # of policies that are not of the book


def tell(key: str, title: str, n_sink: int) -> None:
    """What a manifest says of a policy, for sentences and predictions on its rows.

    Those of the book keep their titles. Raises ValueError where the same key is told to keep
    another number of first entries: its rows would be foretold wrongly.
    """
    known = POLICIES.get(key) or _told.setdefault(key, PolicyName(title, n_sink))
    if known.n_sink != n_sink:
        raise ValueError(f"policy {key}: expected n_sink {known.n_sink} as before, got {n_sink}")


def name_of(key: str) -> str:
    """How a model, corpus, distance, source, reader or policy is called in a sentence."""
    return (NAMES | SOURCES | READERS | TITLES).get(key) or (
        _told[key].title if key in _told else key
    )


def sinks_of(policy: str) -> int:
    """How many first entries a policy always keeps; `policy` is its key."""
    known = POLICIES.get(policy) or _told.get(policy)
    return known.n_sink if known else 0


def order(*keys: str) -> list[int]:
    """Where models and texts stand in the order of the book; unknown ones come last."""
    known = list(NAMES)
    return [known.index(key) if key in known else len(known) for key in keys]


FLOAT = re.compile(r"(\d(?:\.\d+)?)e([-+]\d+)")  # as Python writes it
SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def written(text: str) -> str:
    """A text with its powers of ten as one writes them: 6 × 10⁻⁹, and not 6e-09."""

    def power(found: re.Match[str]) -> str:
        return f"{found[1]} × 10{str(int(found[2])).translate(SUPERSCRIPT)}"

    return FLOAT.sub(power, text)
