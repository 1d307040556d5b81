"""Our `prefill` protocol beside NVIDIA's kvpress: the same contexts, budgets and methods.

    python compare.py --peer .venv-peers/bin/python [--record]

Asks kvpress (`kvpress_side.py`, in its own environment) for its next-token laws, computes ours, and
prints a row for each case. Where both define the same method, the KL from the full law must agree
within BAR in every context, and so must the two laws with each other: else the exit code is 1.
`--record` stores the answers for two contexts in `recorded.npz`, which `make test` checks against
without kvpress.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from kvlib import corpora, measure, models, store
from kvlib.cache import protocols
from kvlib.cache.policies import (
    TOVA,
    ExpectedAttention,
    HeavyHitter,
    KeyNorm,
    Policy,
    RandomRetention,
    SinkRecent,
    SnapKV,
)
from kvlib.measure.divergences import kl_divergence

HERE = Path(__file__).parent
MODEL = "smollm2-135m-instruct"
CONTEXTS = {"world-english-bible": 6, "scipy-docs": 2}
TOKENS = 512
BAR = 1e-3  # nats in a context
TIED = 1e-5  # relative: two key lengths this close are a tie
RECORDED = (0, 6)  # contexts whose answers travel with the tests: one of each corpus
TOP = 32  # largest probabilities of a recorded law
GUESSED = "guessed"


@dataclass(frozen=True)
class Case:
    """One method at one budget on both sides; `differs` says why they are not the same thing."""

    press: str
    budget: int
    ours: Policy | None
    options: dict[str, Any] = field(default_factory=dict)
    attention: str = "sdpa"
    positions: str = "true"
    differs: str = ""
    ties: str = ""  # why kept entries may differ though the method is the same

    @property
    def alike(self) -> bool:
        return not self.differs

    @property
    def control(self) -> bool:
        """A known mistake that the comparison must see."""
        return self.positions == GUESSED

    @property
    def name(self) -> str:
        short = {
            key.removesuffix("_size").removesuffix("_positions"): n
            for key, n in self.options.items()
        }
        options = ", ".join(f"{key} {n}" for key, n in short.items())
        eager = "eager" if self.attention == "eager" else ""
        where = "positions guessed" if self.control else ""
        return ", ".join(filter(None, (self.press.removesuffix("Press"), options, eager, where)))

    def question(self) -> dict[str, Any]:
        """What kvpress' side must know."""
        return {
            key: getattr(self, key)
            for key in ("press", "budget", "options", "attention", "positions")
        }


def snapkv(budget: int, window: int, **more: Any) -> Case:
    """SnapKV with one observation window on both sides."""
    options = {"window_size": window, "kernel_size": 5}
    return Case("SnapKVPress", budget, SnapKV(window, 5), options, **more)


TIES = (
    "in the first layer a key's length depends on its token alone, so two occurrences of a word "
    "tie but for rounding, which decides what stays. The laws are compared with ours told which "
    "entries kvpress kept, and the lengths of what either side keeps must agree"
)
CASES = [
    *(Case("StreamingLLMPress", b, SinkRecent(4), {"n_sink": 4}) for b in (32, 128, 256)),
    *(Case("TOVAPress", b, TOVA()) for b in (32, 128, 256)),
    *(snapkv(b, w) for b, w in ((32, 16), (128, 32), (256, 32), (128, 64), (256, 64))),
    *(Case("KnormPress", b, KeyNorm(), ties=TIES) for b in (32, 128, 256)),
    *(
        Case("ExpectedAttentionPress", b, ExpectedAttention(), {"n_future_positions": 512})
        for b in (32, 128, 256)
    ),
    *(Case("RandomPress", b, RandomRetention(scope="heads")) for b in (32, 128, 256)),
    Case("TOVAPress", 128, TOVA(), attention="eager"),
    snapkv(128, 32, attention="eager"),
    Case(
        "SnapKVPress",
        32,
        None,
        {"window_size": 32, "kernel_size": 5},
        differs="the observation window fills the budget: its 32 entries tie, kvpress keeps 31 of "
        "them as topk has it; kvlib refuses such a budget",
    ),
    *(
        Case(
            "ObservedAttentionPress",
            b,
            HeavyHitter(),
            attention="eager",
            differs="kvpress divides the attention that an entry received by the number of queries "
            "that saw it, and protects nothing; H2O, as published and here, does not divide and "
            "keeps half of the budget for recent entries",
        )
        for b in (128, 256)
    ),
    Case(
        "StreamingLLMPress",
        256,
        SinkRecent(4),
        {"n_sink": 4},
        positions=GUESSED,
        differs="a control: without position_ids the query stands where the shrunken cache ends, "
        "and the comparison must see it",
    ),
]


@dataclass(frozen=True)
class Told(RandomRetention):
    """Keeps what it is told: `entries` yields positions for each layer and KV head in turn."""

    scope: str = "heads"
    entries: Iterator[np.ndarray] = iter(())

    def kept(self, context: int, budget: int, rng: np.random.Generator) -> np.ndarray:
        return np.append(next(self.entries), context - 1)


def contexts_of(lm: models.LanguageModel) -> np.ndarray:
    """(contexts, TOKENS) token ids."""
    return np.concatenate(
        [
            corpora.load_corpus(name).documents(lm.tokenizer, TOKENS, n)
            for name, n in CONTEXTS.items()
        ]
    )


def our_answers(
    lm: models.LanguageModel, ids: np.ndarray, cases: Sequence[Case], peer_kept: Sequence
) -> Iterator[dict[str, np.ndarray]]:
    """Of one context, for each case: log-laws `full`, `told` (kept as kvpress did) and `law`, and
    `kept` (layers, KV heads, tokens - 1) bool.

    Random draws cannot be compared: there `law` is `told`, and `drawn` is the law of our own draw.
    Without a policy of ours, `law` and `kept` are kvpress' own choice as well.
    """
    target = np.array([len(ids) - 1])
    scored = protocols.to_score([c.ours for c in cases if c.ours], "prefill")
    full = protocols.FullPass(lm, torch.from_numpy(ids), target, scored)
    reference = law(lm, full.states[target])
    for case, entries in zip(cases, peer_kept, strict=True):
        told = Told(entries=iter(entries.reshape(-1, entries.shape[-1])))
        answer = {"full": reference, "told": run(full, told, case.budget)}
        if case.ours and case.ours.draws:
            answer["drawn"] = run(full, case.ours, case.budget)
        if case.ours is None or "drawn" in answer:
            answer |= {"law": answer["told"], "kept": as_mask(entries, len(ids) - 1)}
        else:
            answer["law"] = run(full, case.ours, case.budget)
            answer["kept"] = chosen(full, case.ours, case.budget)
        if case.ties:
            answer["tie_gap"] = tie_gap(full, answer["kept"], as_mask(entries, len(ids) - 1))
            answer["law"] = answer["told"]
        yield answer


def run(full: protocols.FullPass, policy: Policy, budget: int) -> np.ndarray:
    """Our log-law after one eviction."""
    rng = np.random.default_rng(0)
    return law(full.lm, protocols.run(full, policy, "prefill", budget, rng))


def law(lm: models.LanguageModel, hidden: torch.Tensor) -> np.ndarray:
    """The log-law of one row of last hidden states."""
    return measure.log_laws(lm, hidden)[0].numpy()


def chosen(full: protocols.FullPass, policy: Policy, budget: int) -> np.ndarray:
    """(layers, KV heads, tokens - 1) bool: what our policy keeps before the only target."""
    layers = full.cache.layers
    if policy in full.scores:
        seen = [protocols._best(full, scores, policy, budget) for scores in full.scores[policy]]
    else:
        seen = protocols._drawn(full, policy, budget, np.random.default_rng(0)) * len(layers)
    heads = layers[0].keys.shape[1]
    return np.stack([s[:, 0, :-1].expand(heads, -1).numpy() for s in seen])


def tie_gap(full: protocols.FullPass, ours: np.ndarray, peer: np.ndarray) -> float:
    """Largest relative difference between the sorted key lengths of what either side keeps."""
    gap = 0.0
    for k, layer in enumerate(full.cache.layers):
        lengths = layer.keys[0, :, : ours.shape[-1]].norm(dim=-1).numpy()
        for head, norm in enumerate(lengths):
            one, two = np.sort(norm[ours[k, head]]), np.sort(norm[peer[k, head]])
            gap = max(gap, float((np.abs(one - two) / two).max()))
    return gap


def as_mask(entries: np.ndarray, tokens: int) -> np.ndarray:
    """Positions (…, kept) as a mask (…, tokens)."""
    mask = np.zeros((*entries.shape[:-1], tokens), dtype=bool)
    np.put_along_axis(mask, entries.astype(np.int64), True, axis=-1)
    return mask


def row_of(peer: dict[str, np.ndarray], ours: dict[str, np.ndarray]) -> dict[str, float]:
    """One context in one case: divergences in nats, and heads whose kept entries differ."""
    kl = {
        "kl_peer": kl_divergence(peer["full"], peer["law"]),
        "kl_ours": kl_divergence(ours["full"], ours["law"]),
        "kl_told": kl_divergence(ours["full"], ours["told"]),
        "between": kl_divergence(peer["law"], ours["law"]),
        "between_full": kl_divergence(peer["full"], ours["full"]),
        "tie_gap": ours.get("tie_gap", 0.0),
        "kl_drawn": kl_divergence(ours["full"], ours["drawn"]) if "drawn" in ours else np.nan,
    }
    other = (as_mask(peer["kept"], ours["kept"].shape[-1]) != ours["kept"]).any(-1)
    return {key: float(value) for key, value in kl.items()} | {
        "heads": other.size,
        "other_heads": int(other.sum()),
    }


def summary(case: Case, rows: pd.DataFrame) -> dict[str, Any]:
    """All contexts of one case as a line of the table."""
    off = float((rows["kl_ours"] - rows["kl_peer"]).abs().max())
    between = float(rows["between"].max())
    good = max(off, between) <= BAR and rows["tie_gap"].max() <= TIED
    verdict = ("ok" if good else "MISSED") if case.alike else "differs"
    if case.control:
        verdict = "NOT SEEN" if good else "seen"
    return {
        "case": case.name,
        "budget": case.budget,
        "n": len(rows),
        "kl_kvpress": rows["kl_peer"].mean(),
        "kl_ours": rows["kl_ours"].mean(),
        "max_off": off,
        "max_between": between,
        "told_off": float((rows["kl_told"] - rows["kl_peer"]).abs().max()),
        "other_heads": rows["other_heads"].sum() / rows["heads"].sum(),
        "verdict": verdict,
    }


def report(cases: Sequence[Case], lines: Sequence[dict[str, Any]]) -> bool:
    """Print the table and the reasons; True when every case is as it must be."""
    widths = (32, 6, 3, 10, 10, 10, 10, 10, 10)
    heads = (
        ("", "", "", "mean KL", "mean KL", "ours less", "KL of", "told what", "heads that"),
        ("press", "budget", "n", "kvpress", "kvlib", "kvpress", "the laws", "to keep", "keep else"),
    )
    print()
    for head in heads:
        print(head[0].ljust(widths[0]) + "".join(map(str.rjust, head[1:], widths[1:])))
    for line in lines:
        print(
            f"{line['case']:32}{line['budget']:6d}{line['n']:3d}{line['kl_kvpress']:10.4f}"
            f"{line['kl_ours']:10.4f}{line['max_off']:10.1e}{line['max_between']:10.1e}"
            f"{line['told_off']:10.1e}{line['other_heads']:10.2%}  {line['verdict']}"
        )
    print(
        "\nNats. Mean KL: from the full law, over n contexts. The next three are the largest of all"
        "\ncontexts: our KL less theirs; KL of their law from ours; our KL less theirs when ours is"
        "\ntold which entries kvpress kept. Random draws differ by nature: ours is always told."
    )
    for name, reason in {
        case.differs + case.ties: (case.name, case.differs + case.ties) for case in cases
    }.values():
        if reason:
            print(f"{name}: {reason}.")
    return not {"MISSED", "NOT SEEN"} & {line["verdict"] for line in lines}


def record(
    path: Path, contexts: np.ndarray, peer: Any, kl: np.ndarray, manifest: dict[str, Any]
) -> None:
    """Answers of kvpress for the contexts RECORDED in all alike cases, small enough to travel."""
    some = list(RECORDED)
    cases = [i for i, case in enumerate(CASES) if case.alike]
    laws = np.stack([peer[f"law_{i}"][some] for i in cases])
    top = np.argsort(-laws, axis=-1, kind="stable")[..., :TOP]
    arrays = {
        "contexts": contexts[some].astype(np.int32),
        "kl": kl[cases][:, some],
        "top": top.astype(np.int32),
        "top_log_p": np.take_along_axis(laws, top, -1).astype(np.float32),
    }
    for row, i in enumerate(cases):
        mask = as_mask(peer[f"kept_{i}"][some], contexts.shape[1] - 1)
        arrays[f"kept_{row}"] = np.packbits(mask, axis=-1)
    store.write_atomically(path, lambda file: _savez(file, arrays))
    manifest["settings"]["cases"] = [CASES[i].question() for i in cases]
    manifest["sha256"] = store.sha256(path)
    text = json.dumps(manifest, indent=1) + "\n"
    store.write_atomically(path.with_suffix(".json"), lambda file: file.write_text(text))


def _savez(file: Path, arrays: dict[str, np.ndarray]) -> None:
    with file.open("wb") as out:
        np.savez_compressed(out, **arrays)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", type=Path, required=True, help="Python with kvpress installed")
    parser.add_argument("--out", type=Path, default=Path("_build/peers"), help="folder for laws")
    parser.add_argument("--record", action="store_true", help="store two contexts for `make test`")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    questions, answers = options.out / "questions.npz", options.out / "answers.npz"

    lm = models.load_model(MODEL, device="cpu")
    contexts = contexts_of(lm)
    asked = json.dumps([case.question() for case in CASES])
    np.savez(questions, contexts=contexts, cases=np.array(asked))
    print(f"kvpress: {len(CASES)} cases on {len(contexts)} contexts of {TOKENS} tokens (minutes)")
    side = [options.peer, HERE / "kvpress_side.py", models.converted(MODEL), questions, answers]
    if code := subprocess.run(side).returncode:
        sys.exit(f"error: expected kvpress' side to finish, got exit code {code}")

    rows: list[list[dict[str, float]]] = [[] for _ in CASES]
    with np.load(answers) as peer:
        versions = json.loads(str(peer["versions"]))
        peer = {key: peer[key] for key in peer.files if key != "versions"}
    for doc, ids in enumerate(contexts):
        kept = [peer[f"kept_{i}"][doc] for i in range(len(CASES))]
        for i, ours in enumerate(our_answers(lm, ids, CASES, kept)):
            theirs = {"full": peer["full"][doc], "law": peer[f"law_{i}"][doc], "kept": kept[i]}
            rows[i].append(row_of(theirs, ours))
    tables = [pd.DataFrame(r) for r in rows]
    run = store.run_of("python tests/peers/compare.py --record", lm.device.type)
    print("\nkvpress' side: " + ", ".join(f"{name} {v}" for name, v in versions.items()))
    print("our side: " + ", ".join(f"{name} {v}" for name, v in run["versions"].items()))
    print(f"KL of the two full laws: at most {tables[0]['between_full'].max():.1e}")
    good = report(CASES, [summary(c, t) for c, t in zip(CASES, tables, strict=True)])
    for case, table in zip(CASES, tables, strict=True):
        if table["kl_drawn"].notna().all():
            print(
                f"{case.name} {case.budget}: mean KL {table['kl_peer'].mean():.3f} by kvpress' "
                f"draws, {table['kl_drawn'].mean():.3f} by ours."
            )
    if options.record:
        settings = {
            "model": lm.name,
            "weights_sha256": lm.weights_sha256,
            "model_sha256": lm.model_sha256,
            "corpora": {name: corpora.load_corpus(name).sha256 for name in CONTEXTS},
            "tokens": TOKENS,
        }
        manifest = {"settings": settings, "run": run | {"peer_versions": versions}}
        kl = np.stack([table["kl_peer"] for table in tables])
        record(HERE / "recorded.npz", contexts, peer, kl, manifest)
    print("\nall as it must be" if good else "\nNOT as it must be: see the rows in capitals")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
