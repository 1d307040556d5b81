"""How models, texts and distances are called in a sentence; the book's order of them."""

from __future__ import annotations

NAMES = {
    "smollm2-135m-instruct": "SmolLM2-135M-Instruct",
    "gemma3-270m": "Gemma-3-270M",
    "small-gpt2": "the small GPT-2",
    "world-english-bible": "World English Bible",
    "scipy-docs": "SciPy's docstrings",
    "sympy-code": "SymPy's source",
    "kl_nats": "KL divergence (nats)",
    "tv": "total variation",
}


SOURCES = {
    "renewal": "age counter (renewal source)",
    "plus": "Gaussian, plus signs",
    "rudin-shapiro": "Gaussian, Rudin-Shapiro signs",
    "recall": "recall of random bits",
}


def name_of(key: str) -> str:
    """How a model, corpus, divergence or exact source is called in a picture or a sentence."""
    return (NAMES | SOURCES).get(key, key)
