"""Tables and a plan whose answers are known, for what is said and drawn of them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
from studies import table_of

from kvlib import store
from kvlib.plan import (
    CERTIFIED,
    Clipped,
    Documents,
    Law,
    NextDocument,
    Plan,
    Tried,
    report,
    show,
    translate,
)

WINDOWS = np.unique(np.round(2 ** np.arange(0, 8.01, 0.25)).astype(int))
CACHE = {"full": 1000, "sliding": 0, "local": 0}  # bytes a token

PLAN = Plan(
    model="smollm2-135m-instruct",
    texts=("scipy-docs", "notes/b.txt"),
    metric="kl",
    policy="sinks",
    protocol="online",
    epsilon=0.2,
    confidence=0.95,
    status=CERTIFIED,
    budget=256,
    bound=0.188,
    measured=0.141,
    context=2048,
    proposed=(
        Tried(1024, 0.031, 0.044, 1e-9, 24, True),
        Tried(512, 0.071, 0.102, 1e-6, 24, True),
        Tried(256, 0.141, 0.188, 0.021, 24, True),
        Tried(128, 0.27, 0.36, 0.71, 24, False),
    ),
    law=Law("finite-context power", 0.6, 0.5, 0.7, 1.2, 4, 210, 0.16),
    tails={"0.5": 0.02, "0.9": 0.38, "0.99": 1.9, "1": 7.3},
    clipped=Clipped(2.0, 0.0, 0.12),
    next_document=NextDocument(256, 0.19),
    documents=Documents(24, 24, 2048, 3),
    documents_that_would_do=None,
    reason="certified",
    assumption="documents are exchangeable",
)
CONFIG = {"num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3}
CONFIG |= {"hidden_size": 576, "model_type": "llama", "max_position_embeddings": 8192}
SIZES = report.Sizes(translate.held_of(CONFIG), "bfloat16", 32, 8192)


def stored(path: Path, table: pd.DataFrame, kind: str, **settings: str) -> Path:
    """A table with a manifest, as `measure` and `distort` leave them."""
    store.save_table(store.table_file(path), table)
    settings = {"kind": kind, "model": "/models/toy", "corpus": "mine.txt"} | settings
    digest = hashlib.sha256(store.table_file(path).read_bytes()).hexdigest()
    counts = {"rows": len(table), "documents": int(table["doc"].nunique())}
    manifest = {"layout": store.LAYOUT, "study": "t", "settings": settings, "sha256": digest}
    manifest |= {"about": {"model": {"cache_bytes": CACHE}}, "run": {}} | counts
    store.write_manifest(store.table_file(path, ".json"), manifest)
    return path


def truncations(
    path: Path, docs: int, windows: np.ndarray = WINDOWS, alpha: float = 0.7, **settings: str
) -> Path:
    """A table whose means fall as the finite-context power law, documents a factor apart."""
    spread = np.exp(0.1 * np.linspace(-1, 1, docs))[:, None] if docs > 1 else np.ones((1, 1))
    bracket = (windows + 1.0) ** -alpha - 2561.0**-alpha
    return stored(path, table_of(2 * spread * bracket, windows), show.TRUNCATION, **settings)


def distortions(
    path: Path,
    docs: int,
    budgets: tuple[int, ...] = (16, 64, 256),
    policies: tuple[str, ...] = ("sinks", "random"),
) -> Path:
    """Losses of 8 / budget nats, and of four times as much at random."""
    rows = [
        {"doc": doc, "position": position, "policy": policy, "protocol": "online"}
        | {
            "budget": budget,
            "kl_nats": (1 + 0.02 * doc) * 8 / budget * (1 + 3 * (policy == "random")),
        }
        | {"tv": min(1.0, 2 / budget), "top1_same": position % 4 != 0}
        for doc in range(docs)
        for position in range(100, 108)
        for policy in policies
        for budget in budgets
    ]
    return stored(path, pd.DataFrame(rows).astype({"doc": "int16"}), show.DISTORTION)
