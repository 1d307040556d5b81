"""A plan for a model, a cache policy and a user's texts: measured here, document by document.

Rows lie in two tables, so that a run that was killed goes on where it was: `OUT-measured` of the
documents that choices were made on, `OUT-certified-…` of the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from kvlib import store
from kvlib.cache.policies import Policy
from kvlib.cache.policies import about as about_policies
from kvlib.measure.distortion import check_policies, measure_policies, named_policies
from kvlib.models import LanguageModel, about, check_length, load_model
from kvlib.plan import deciding, texts, translate
from kvlib.plan.deciding import Question
from kvlib.plan.result import Plan
from kvlib.study import here, items

EVERY = 4  # one target in so many is scored
KIND = "policy_distortion"  # of the rows
STUDY = "plan"  # who made them, in their manifests
FEW = 3  # texts that are named


class Request(NamedTuple):
    """What a plan is asked for. `context` and `documents` of 0: as many as fit the texts."""

    model: str
    texts: Sequence[str]
    question: Question
    policy: str = "sinks"
    protocol: str = "online"
    context: int = 0
    documents: int = 0
    seed: int = 0
    device: str = "auto"
    dtype: str = "auto"

    def checked(self) -> Policy:
        """The policy; ValueError for what cannot be measured, before a model is loaded."""
        (policy,) = named_policies([self.policy])
        self.question.checked()
        for name, value in {"seq-len": self.context, "docs": self.documents}.items():
            if value < 0:
                raise ValueError(f"{name}: expected at least 1, or 0 for a choice, got {value}")
        if self.documents == 1:
            raise ValueError(
                "docs: expected at least 2, one for each half, or 0 for a choice, got 1"
            )
        if not 0 <= self.seed < 2**31:
            raise ValueError(f"seed: expected 0 to {2**31 - 1}, got {self.seed}")
        tokens = self.context or texts.LENGTHS[0]
        least = max(deciding.LEAST_BUDGET, policy.least)
        check_policies([policy], [least], self.protocol, EVERY, tokens)
        deciding.ladder(tokens, policy.least)
        return policy


class Planned(NamedTuple):
    """A plan, and what the model's cache holds of a token (None: that is not known)."""

    plan: Plan
    held: translate.Held | None


def planned(
    request: Request, out: Path, command: str, loaded: LanguageModel | None = None
) -> Planned:
    """Measure, propose, certify. Raises ValueError or OSError, with one line, for what cannot be
    used, and FloatingPointError for a model whose laws are not finite."""
    policy = request.checked()
    lm = loaded or load_model(request.model, request.device, request.dtype)
    job = _Job.of(request, policy, lm, out, command)
    half = len(job.documents) // 2
    measured = job.measured(half)
    used = int(measured["doc"].nunique())
    rest = range(used, len(job.documents))
    if not rest:
        raise ValueError(
            f"{out}: expected documents left to certify on, got all {used} measured by an earlier "
            "run; choose another --out"
        )
    losses = deciding.losses_of(measured, request.question.metric)
    rungs = deciding.to_certify(losses, job.rungs, request.question, len(rest))
    certified = job.certified(rungs, rest)
    said: dict[str, Any] = {"model": lm.name, "texts": job.names, "policy": policy.key}
    said |= {"protocol": request.protocol, "context": job.tokens}
    plan = deciding.plan_of(
        measured, certified, request.question, job.rungs, policy.n_sink, said, len(job.names)
    )
    return Planned(plan, _held(lm))


def _held(lm: LanguageModel) -> translate.Held | None:
    try:
        return translate.held_of(lm.model.config.to_dict())
    except ValueError:  # sizes by names that are not known: the plan stands without bytes
        return None


class _Job(NamedTuple):
    """A request with its model and documents: what makes rows and keeps them."""

    request: Request
    policy: Policy
    lm: LanguageModel
    documents: np.ndarray
    names: tuple[str, ...]  # of the files that documents were cut out of
    corpus: str  # all files, however many documents are asked for
    sha256: str
    rungs: list[int]
    out: Path
    command: str

    @property
    def tokens(self) -> int:
        """Of a document."""
        return self.documents.shape[1]

    @classmethod
    def of(
        cls, request: Request, policy: Policy, lm: LanguageModel, out: Path, command: str
    ) -> _Job:
        """Texts are read and cut to documents; ValueError where they are too short."""
        read = texts.read(request.texts, lm.tokenizer)
        most = request.documents or deciding.enough(request.question)
        tokens = request.context or texts.length_for(read, most, _longest(lm))
        check_length(lm, tokens)
        cut = texts.stretches(read, tokens, most, request.seed)
        names = tuple(read[file].name for file in np.unique(cut.files))
        corpus = _listed([one.name for one in read])
        rungs = deciding.ladder(tokens, policy.least)
        sha256 = texts.sha256_of(read)
        return cls(request, policy, lm, cut.ids, names, corpus, sha256, rungs, out, command)

    def measured(self, half: int) -> pd.DataFrame:
        """Rows of documents 0, 1, … on every other rung, until one is sure, `half` of all at
        most."""

        def sure(parts: list[pd.DataFrame]) -> bool:
            question = self.request.question
            losses = deciding.losses_of(pd.concat(parts), question.metric)
            return deciding.is_sure(losses, self.rungs, question)

        budgets = self.rungs[::-2][::-1]
        return self._rows("measured", budgets, range(half), sure)

    def certified(self, rungs: Sequence[int], documents: Iterable[int]) -> pd.DataFrame:
        """Rows of the other documents on a few rungs."""
        name = f"certified-{max(rungs)}-{min(rungs)}"
        return self._rows(name, sorted(rungs), documents, lambda parts: False)

    def _rows(
        self,
        name: str,
        budgets: list[int],
        documents: Iterable[int],
        enough: Callable[[list[pd.DataFrame]], bool],
    ) -> pd.DataFrame:
        """The table OUT-name, one document after the other until there is enough; what was there
        is not measured again."""
        table = store.table_file(self.out).name.removesuffix(".parquet")
        path = self.out.with_name(f"{table}-{name}")
        wanted, settings = list(documents), self._settings(budgets)
        code = items.code_sha256(KIND)
        facts = {"model": about(self.lm), "policies": about_policies([self.policy.key])}
        facts["corpus"] = {"source": self.corpus, "licence": "the user's own files"}
        with (
            store.Measurement(path, settings, wanted, code, facts) as measurement,
            here.bars() as bar,
        ):
            task = bar.add_task(
                f"{Path(self.lm.name).name} · {name.split('-')[0]}", total=len(wanted)
            )
            done = [doc for doc in measurement.done() if wanted[0] <= doc < len(self.documents)]
            held = {doc: measurement.rows(doc) for doc in sorted(done)}
            for doc in wanted:
                if doc not in held:
                    parts = list(held.values())
                    if parts and enough(parts):
                        break
                    measurement.begin(doc)
                    held[doc] = self._measure(doc, budgets)
                    measurement.add(doc, held[doc])
                bar.advance(task)
            measurement.documents = set(held)
            bar.update(task, total=len(held), completed=len(held))
            measurement.finish(store.run_of(self.command, self.lm.device.type), STUDY, facts)
        return pd.concat([held[doc] for doc in sorted(held)], ignore_index=True)

    def _measure(self, doc: int, budgets: list[int]) -> pd.DataFrame:
        """All budgets of one document: its full pass is made once."""
        return measure_policies(
            self.lm,
            self.documents[doc],
            doc,
            [self.policy],
            budgets,
            self.request.protocol,
            self.request.seed,
            EVERY,
        )

    def _settings(self, budgets: list[int]) -> dict[str, Any]:
        """What must not change from run to run of one table."""
        return {
            "kind": KIND,
            "protocol": self.request.protocol,
            "policies": [self.policy.key],
            "policies_are": [repr(self.policy)],
            "budgets": budgets,
            "seq_len": self.tokens,
            "every": EVERY,
            "seed": self.request.seed,
            "model": self.lm.name,
            "weights_sha256": self.lm.weights_sha256,
            "model_sha256": self.lm.model_sha256,
            "dtype": str(self.lm.dtype).removeprefix("torch."),
            "corpus": self.corpus,
            "corpus_sha256": self.sha256,
        }


def _listed(names: Sequence[str]) -> str:
    """All of a few names, some of many."""
    more = len(names) - FEW
    return ", ".join(names) if more < 2 else f"{', '.join(names[:FEW])} and {more} others"


def _longest(lm: LanguageModel) -> int:
    """Tokens of the longest document that a model was made for."""
    most = getattr(lm.model.config, "max_position_embeddings", None) or texts.LENGTHS[0]
    return int(most) - len(lm.prefix_ids)
