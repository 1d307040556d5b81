"""What to measure next, and what it says: rungs, a proposal, certificates. No model, no file.

A ladder of budgets has four rungs an octave. Documents in a random order are measured on every
other rung until the least budget within the tolerance is known well enough; the documents behind
them, of which nothing is known yet, are then read on a few rungs next to each other, and those are
tested from the largest down (`fit.certify`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from kvlib import fit
from kvlib.fit import certify
from kvlib.plan.result import (
    CERTIFIED,
    NOT_CERTIFIED,
    Clipped,
    Documents,
    Law,
    NextDocument,
    Plan,
    Tried,
)

METRICS = {"kl": "kl_nats", "tv": "tv", "top1": "top1_changed"}  # → column of rows
LAWS = {"kl": "finite-context power", "tv": "root power", "top1": "root power"}
CAP = 10  # tolerances: a document's mean KL counts as this at most
LEAST_BUDGET = 16
RUNGS_AN_OCTAVE = 4
MOST_RUNGS = 8  # that are certified on
LEAST_DOCUMENTS = 24  # before one is sure of anything
UP = 2  # rungs above the least hopeful one, where tests begin
MANY = 240  # documents, where there are as many
TAILS = (0.5, 0.9, 0.99, 1.0)


class Question(NamedTuple):
    """What is asked: a loss, a tolerance for its mean over documents, and how sure one must be."""

    metric: str
    epsilon: float
    confidence: float

    @property
    def scale(self) -> float:
        """The largest loss that counts: KL's cap, in nats; 1 for a share."""
        return CAP * self.epsilon if self.metric == "kl" else 1.0

    @property
    def tolerance(self) -> float:
        """The tolerance as a share of the largest loss."""
        return self.epsilon / self.scale

    @property
    def level(self) -> float:
        """How often a wrong budget may be certified."""
        return 1 - self.confidence

    def shares(self, losses: np.ndarray) -> np.ndarray:
        """Losses as shares of the largest that counts, in [0, 1]."""
        return np.clip(losses / self.scale, 0, 1)

    def checked(self) -> Question:
        """Itself; ValueError for what cannot be asked."""
        if self.metric not in METRICS:
            raise ValueError(f"metric: expected one of {', '.join(METRICS)}, got {self.metric!r}")
        most = np.inf if self.metric == "kl" else 1
        if not 0 < self.epsilon < most:
            below = "" if self.metric == "kl" else " and below 1"
            raise ValueError(f"epsilon: expected more than 0{below}, got {self.epsilon}")
        if not 0.5 <= self.confidence < 1:
            raise ValueError(f"confidence: expected 0.5 or more, below 1, got {self.confidence}")
        return self


def enough(question: Question) -> int:
    """How many documents to read at most: twice what certifies a loss of half the tolerance, and
    MANY at least, for losses that spread."""
    half = np.full(2, question.tolerance / 2)
    bets = certify.bets_of(half, question.tolerance)
    need = certify.documents_needed(half, question.tolerance, question.confidence, bets)
    assert need is not None  # half of the tolerance is below it
    return max(MANY, 2 * need)


def ladder(context: int, least: int = LEAST_BUDGET) -> list[int]:
    """Budgets to choose from for documents of `context` tokens, `least` or above.

    Raises ValueError where fewer than three are below the documents' length."""
    low = max(least, LEAST_BUDGET)
    steps = int(np.ceil(RUNGS_AN_OCTAVE * np.log2(max(context / low, 1))))
    rungs = [round(low * 2 ** (k / RUNGS_AN_OCTAVE)) for k in range(steps)]
    if len(rungs) < 3:
        raise ValueError(f"seq-len: expected at least {2 * low} tokens a document, got {context}")
    return rungs


def losses_of(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Mean losses, a row a document, a column a budget, of rows of `policy_distortion`."""
    if metric == "top1":
        rows = rows.assign(top1_changed=1.0 - rows["top1_same"].astype(float))
    return rows.groupby(["doc", "budget"])[METRICS[metric]].mean().unstack("budget").astype(float)


# --- the measuring half -------------------------------------------------------------------------


class Proposal(NamedTuple):
    """The least rungs whose mean, and whose upper bound, meet the tolerance; None: no rung."""

    mean: int | None
    sure: int | None


def proposal(measured: pd.DataFrame, rungs: Sequence[int], question: Question) -> Proposal:
    """From losses (`losses_of`) of the measuring half.

    The upper bound is that of a t interval, one-sided; between measured budgets both are
    straight in log-log. A rung counts only where all larger ones meet the tolerance too.
    """
    values = question.shares(measured.to_numpy())
    upper = certify.t_bound(values, question.confidence)
    return Proposal(
        *(_least(measured.columns, y, rungs, question.tolerance) for y in (values.mean(0), upper))
    )


def _least(
    budgets: Sequence[int], values: np.ndarray, rungs: Sequence[int], most: float
) -> int | None:
    """The least rung at and above which values between budgets are `most` at most."""
    inside = [b for b in rungs if b <= max(budgets)]
    logs = np.log(np.maximum(values, 1e-12))
    found = np.interp(np.log(inside), np.log(np.asarray(budgets, dtype=float)), logs)
    good = found <= np.log(most) + 1e-12
    first = len(good) - int(np.argmin(good[::-1])) if not good.all() else 0
    return inside[first] if first < len(inside) else None


def is_sure(measured: pd.DataFrame, rungs: Sequence[int], question: Question) -> bool:
    """Whether more documents would not move the proposal by more than a rung."""
    if len(measured) < LEAST_DOCUMENTS:
        return False
    found = proposal(measured, rungs, question)
    if found.mean is None or found.sure is None:
        return False
    return rungs.index(found.sure) - rungs.index(found.mean) <= 1


def to_certify(
    measured: pd.DataFrame, rungs: Sequence[int], question: Question, documents: int
) -> list[int]:
    """The rungs to test on `documents` others, the largest first.

    From UP rungs above the least that so many documents are foretold to certify, down to a rung
    below the proposal: what is tested below costs no certainty.
    """
    hopeful = [
        budget for budget in measured.columns if (_need(measured, budget, question)) <= documents
    ]
    found = proposal(measured, rungs, question)
    low = rungs.index(found.mean) - 1 if found.mean is not None else len(rungs) - 3
    top = rungs.index(min(hopeful)) + UP if hopeful else len(rungs) - 1
    top = min(max(top, low + 2), len(rungs) - 1)
    return list(reversed(rungs[max(low, top - MOST_RUNGS + 1, 0) : top + 1]))


def _need(measured: pd.DataFrame, budget: int, question: Question) -> float:
    """How many documents like these would certify a measured budget; infinite: no number."""
    values = question.shares(measured[budget].to_numpy())
    bets = certify.bets_of(values, question.tolerance)
    need = certify.documents_needed(values, question.tolerance, question.confidence, bets)
    return np.inf if need is None else need


def bets_at(measured: pd.DataFrame, budget: int, question: Question) -> certify.Bets:
    """Bets for a budget, from the largest measured one that is no larger, whose losses are no
    smaller; from the least of all below that."""
    smaller = [other for other in measured.columns if other <= budget]
    nearest = max(smaller, default=min(measured.columns))
    return certify.bets_of(question.shares(measured[nearest].to_numpy()), question.tolerance)


def law_of(
    rows: pd.DataFrame, sinks: int, rungs: Sequence[int], question: Question, proposed: int | None
) -> Law | None:
    """The law of the measuring half, on budgets of at most half a document; None where fewer than
    three have a loss whichever document is left out."""
    losses = losses_of(rows, question.metric)
    context = int(rows["position"].max()) + 1
    losses = losses[[b for b in losses.columns if sinks < b <= context // 2]]
    window = losses.columns.to_numpy(dtype=float) - sinks
    lengths = np.unique(rows["position"].to_numpy()) + 1.0
    contexts = np.quantile(lengths, (np.arange(32) + 0.5) / 32)
    values = losses.to_numpy()
    curve = fit.Curve(window, window, window, values, contexts, len(rows), len(losses))
    curve = curve.positive() if len(values) > 2 else curve
    spread = curve.doc_means.std(axis=0) > 0
    if len(values) < 3 or len(curve.window) < 3 or not spread.all():
        return None
    name = LAWS[question.metric]
    alpha = fit.jackknife_t(curve, name)
    law = fit.fit_law(name, curve.window, curve.mean, curve.weights, curve.contexts)
    near = np.arange(curve.window[0], curve.window[-1] + 1)
    good = near[law(near) <= question.epsilon]
    inside = proposed is not None and near[0] <= proposed - sinks <= near[-1]
    return Law(
        name,
        alpha.value,
        alpha.low,
        alpha.high,
        float(law.prefactor),
        sinks,
        int(good[0]) + sinks if len(good) else None,
        float(law(np.array([proposed - sinks]))[0]) if inside and proposed is not None else None,
    )


# --- the other half ----------------------------------------------------------------------------


class Verdict(NamedTuple):
    """What the certification half says: of each rung, the largest first, of the budget that is
    certified (None: of none), and of the next document."""

    tried: tuple[Tried, ...]
    budget: int | None
    next_document: NextDocument


def p_values(measured: pd.DataFrame, certified: pd.DataFrame, question: Question) -> np.ndarray:
    """Of each budget (a column) of the certification half, in its order: the p-value of a mean
    above the tolerance. Bets are chosen on the measuring half."""
    found = [
        certify.p_value(
            question.shares(values.to_numpy()),
            question.tolerance,
            bets_at(measured, int(budget), question),
        )
        for budget, values in certified.items()
    ]
    return np.array(found)


def passed(p: np.ndarray, certified: pd.DataFrame, question: Question) -> int:
    """How many budgets of the certification half, in its order, are certified; `p_values` → `p`.

    Beside the test, which speaks of a mean of losses with a cap, no mean without the cap may be
    above the tolerance: so nothing is certified that was seen to lose more.
    """
    count = certify.passed(p, question.level)
    above = (certified.mean() > question.epsilon).to_numpy()
    return min(count, int(np.argmax(above))) if above.any() else count


def verdict(measured: pd.DataFrame, certified: pd.DataFrame, question: Question) -> Verdict:
    """Losses of both halves → certificates, tested from the largest budget down."""
    certified = certified[sorted(certified.columns, reverse=True)]
    p = p_values(measured, certified, question)
    count = passed(p, certified, question)
    tried = tuple(
        Tried(
            int(budget),
            float(question.scale * question.shares(losses.to_numpy()).mean()),
            _bound(losses, bets_at(measured, int(budget), question), question),
            float(p[k]),
            len(losses),
            k < count,
        )
        for k, (budget, losses) in enumerate(certified.items())
    )
    risk = certify.conformal(question.shares(certified.to_numpy()), question.tolerance)
    place = max(risk.passed - 1, 0)
    following = NextDocument(
        tried[place].budget if risk.passed else None, float(question.scale * risk.bounds[place])
    )
    return Verdict(tried, tried[count - 1].budget if count else None, following)


def _bound(losses: pd.Series, bets: certify.Bets, question: Question) -> float:
    """The upper confidence bound of a mean, in the unit of the loss."""
    shares = question.shares(losses.to_numpy())
    return question.scale * certify.upper_bound(shares, question.confidence, bets)


def plan_of(
    measured: pd.DataFrame,
    certified: pd.DataFrame,
    question: Question,
    rungs: Sequence[int],
    sinks: int,
    said: dict[str, Any],
    files: int = 1,
) -> Plan:
    """The plan, from rows of `policy_distortion` of both halves; `said` are the fields of `Plan`
    that name what was measured: `model, texts, policy, protocol, context`."""
    one, two = (losses_of(rows, question.metric) for rows in (measured, certified))
    found = verdict(one, two, question)
    shown = next(t for t in found.tried if t.budget == (found.budget or found.tried[0].budget))
    proposed = proposal(one, rungs, question).sure
    context, mean = said["context"], float(two[shown.budget].mean())
    settled = found.budget is not None or mean > question.epsilon  # more documents change nothing
    need = None if settled else _would_do(one, two, rungs, question)
    return Plan(
        **said,
        metric=question.metric,
        epsilon=question.epsilon,
        confidence=question.confidence,
        status=CERTIFIED if found.budget else NOT_CERTIFIED,
        budget=found.budget,
        bound=shown.bound,
        measured=mean,
        proposed=found.tried,
        law=law_of(measured, sinks, rungs, question, proposed),
        tails=_tails(certified, two, shown.budget, question.metric),
        clipped=_clipped(two[shown.budget].to_numpy(), question),
        next_document=found.next_document,
        documents=Documents(len(one), len(two), context, files),
        documents_that_would_do=need,
        reason=_reason(found, shown, mean, question, need, context),
        assumption=_assumption(context),
    )


def _would_do(
    one: pd.DataFrame, two: pd.DataFrame, rungs: Sequence[int], question: Question
) -> int | None:
    """How many documents of both halves would certify the largest budget tried; None: no number.
    Where the first half is not sure yet, it grows with the other."""
    budget = max(two.columns)
    values = question.shares(two[budget].to_numpy())
    bets = bets_at(one, budget, question)
    need = certify.documents_needed(values, question.tolerance, question.confidence, bets)
    if need is None:
        return None
    need = max(need, len(two) + 1)
    return need + (len(one) if is_sure(one, rungs, question) else need)


def _tails(rows: pd.DataFrame, losses: pd.DataFrame, budget: int, metric: str) -> dict[str, float]:
    """Quantiles of single targets' losses at a budget; of top-1 changes, of documents' shares."""
    values = losses[budget] if metric == "top1" else rows.loc[rows["budget"] == budget]
    values = values if metric == "top1" else values[METRICS[metric]]
    return {f"{q:g}": float(np.quantile(values, q)) for q in TAILS}


def _clipped(values: np.ndarray, question: Question) -> Clipped | None:
    """How many documents' KL was clipped at the cap."""
    if question.metric != "kl":
        return None
    count, n = int((values > question.scale).sum()), len(values)
    bound = certify.share_bound(count, n, question.confidence)
    return Clipped(question.scale, count / n, bound)


def _reason(
    found: Verdict, shown: Tried, mean: float, question: Question, need: int | None, context: int
) -> str:
    """Why there is a certificate, or none, in a sentence or two."""
    if found.budget:
        return (
            f"On {shown.documents} documents that no choice had seen, a mean loss above the "
            f"tolerance is refused with p = {shown.p_value:.2g}."
        )
    if shown.mean > question.epsilon:
        return (
            f"At {shown.budget} entries, the largest budget tried, the mean loss is "
            f"{mean:.3g}, above the tolerance: no number of documents of {context} tokens "
            "would certify it."
        )
    start = f"At {shown.budget} entries the mean loss is {mean:.3g}, "
    if mean > question.epsilon:
        return start + (
            f"above the tolerance: single documents lose more than {question.scale:.3g} nats, and "
            "of how much more no number of documents is a proof."
        )
    if need is None:
        return start + "too near to the tolerance for any number of documents like these."
    return start + (
        f"within the tolerance, but {shown.documents} documents leave room for a mean of "
        f"{shown.bound:.3g}."
    )


def _assumption(context: int) -> str:
    return (
        f"Documents are exchangeable: those to come are stretches of {context} tokens of the same "
        f"kind of text, read from their beginning, with contexts of {context // 2} to {context} "
        "tokens, and stretches of one file count like those of different files. Longer contexts "
        "lose more. A certificate is for one question asked once."
    )
