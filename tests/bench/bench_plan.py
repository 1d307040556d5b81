"""Do plans keep what they promise? Hundreds of them on stored losses, whose true means are known.

The documents of a model's stored `sensitivity` tables, of all texts, are the population: what a
suffix of so many tokens, read again, loses on each. A plan draws from them at random, with
replacement, so that its documents are independent and the mean of all is the truth. It decides as
`kvlib plan` does: it measures until it is sure, and certifies on the rest. A violation is a
certified window whose true mean is above the tolerance. The ratio is that window over the least
from which on the true mean is within, so a plan that knew everything has 1.

With `--text` the population is measured here, as `kvlib plan` measures it: DOCUMENTS short ones of
a pinned text, four sinks and recent entries, KL, TV and top-1 changes. A plan then draws without
replacement, so that its two halves and half of the documents that judge it are different ones.
"""

from __future__ import annotations

import argparse
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import beta

from kvlib import fit, store
from kvlib.cache.policies import NAMED
from kvlib.fit import certify
from kvlib.measure.distortion import measure_policies
from kvlib.models import load_model
from kvlib.plan import deciding, measuring, texts
from kvlib.plan.deciding import Question

QUESTIONS = (Question("kl", 0.3, 0.95), Question("kl", 0.5, 0.8), Question("tv", 0.3, 0.95))
MEASURED = (Question("kl", 0.2, 0.95), Question("tv", 0.2, 0.95), Question("top1", 0.3, 0.95))
DRAWS, DOCUMENTS, TOKENS = 200, 480, 128


class Judged(NamedTuple):
    """What became of the plans of one question: how many there were and certified, how many
    wrongly, the ratios of those certified, the mean loss of the next document at conformal
    windows, and the documents a plan read."""

    plans: int
    certified: int
    violations: int
    ratios: np.ndarray
    following: float
    documents: int

    def interval(self) -> tuple[float, float]:
        """The 95% interval of the chance of a violation (Clopper-Pearson), over all plans."""
        k, n = self.violations, self.plans
        low = beta.ppf(0.025, k, n - k + 1) if k else 0.0
        return float(low), float(beta.ppf(0.975, k + 1, n - k))


def population(model: str, metric: str) -> pd.DataFrame:
    """Losses of all stored documents of a model, a row each, a column a window: the last of each
    bin of a fourth of an octave, from 16 tokens on."""
    found = []
    for (name, _), path in store.stored("sensitivity").items():
        if name == model:
            rows = store.load_table(path)
            curve = fit.curve(rows, deciding.METRICS[metric], common=True)
            curve = curve.between(deciding.LEAST_BUDGET)
            found.append(pd.DataFrame(curve.doc_means, columns=curve.last.astype(int)))
    return pd.concat(found, join="inner", ignore_index=True)


def rows_of(model: str, text: str, documents: int, tokens: int = TOKENS) -> pd.DataFrame:
    """Rows of `policy_distortion` of so many documents of a text, on all rungs of a ladder."""
    lm, policy = load_model(model), NAMED["sinks"]
    cut = texts.stretches(texts.read([text], lm.tokenizer), tokens, documents).ids
    rungs = deciding.ladder(tokens, policy.least)
    parts = [
        measure_policies(lm, ids, doc, [policy], rungs, "online", every=measuring.EVERY)
        for doc, ids in enumerate(cut)
    ]
    return pd.concat(parts, ignore_index=True)


def least_within(truth: pd.Series, epsilon: float) -> float:
    """The least window at and above which the mean is within ε; infinite: not even the largest."""
    above = truth.index[truth > epsilon].max() if (truth > epsilon).any() else 0
    return float(min((window for window in truth.index if window > above), default=np.inf))


def planned(losses: pd.DataFrame, question: Question) -> tuple[int | None, int | None]:
    """What a plan on these documents, in their order, certifies, and what it says of the next."""
    rungs = [int(window) for window in losses.columns]
    half, every_other = losses[: len(losses) // 2], rungs[::-2][::-1]
    used = deciding.LEAST_DOCUMENTS
    while used < len(half) and not deciding.is_sure(half[every_other][:used], rungs, question):
        used += 1
    measured, others = half[every_other][:used], losses[used:]
    tried = deciding.to_certify(measured, rungs, question, len(others))
    p = deciding.p_values(measured, others[tried], question)
    count = deciding.passed(p, others[tried], question)
    risk = certify.conformal(question.shares(others[tried].to_numpy()), question.tolerance)
    return tried[count - 1] if count else None, tried[risk.passed - 1] if risk.passed else None


def judged(losses: pd.DataFrame, question: Question, plans: int, seed: int = 0) -> Judged:
    """Plans on documents drawn from these, judged by the means of all of them: with replacement
    where there are fewer than two plans would read."""
    documents, truth = deciding.enough(question), losses.mean()
    capped = losses.clip(upper=question.scale).mean()  # what a bound of a clipped loss speaks of
    least = least_within(truth, question.epsilon)
    rng = np.random.default_rng(seed)
    ratios, violations, following = [], 0, []
    for _ in range(plans):
        few = len(losses) < 2 * documents
        some = rng.integers(len(losses), size=documents) if few else rng.permutation(len(losses))
        drawn = losses.iloc[some[:documents]]
        window, further = planned(drawn.reset_index(drop=True), question)
        if window is not None:
            violations += bool(capped[window] > question.epsilon)
            ratios.append(window / least)
        following.append(0.0 if further is None else float(capped[further]))
    mean = float(np.mean(following))
    return Judged(plans, len(ratios), violations, np.array(ratios), mean, documents)


def together(found: list[Judged]) -> str:
    """All questions as one: how many plans, certified and wrong, and the ratio's quantiles."""
    plans, certified, wrong = (sum(column) for column in list(zip(*found, strict=True))[:3])
    ratios = np.concatenate([one.ratios for one in found])
    low, high = Judged(plans, certified, wrong, ratios, 0.0, 0).interval()
    median, most = np.quantile(ratios, [0.5, 0.9])
    return (
        f"| all | | | {certified} of {plans} | {wrong} ({100 * low:.2f} to {100 * high:.2f}%) "
        f"| {median:.2f}, {most:.2f} | |"
    )


def table(plans: int, models: list[str], text: str = "") -> list[str]:
    """A line for each model and question, and one for all."""
    lines = [
        "| model | tolerance | documents | certified | wrong (95% interval; allowed) "
        "| ratio: median, 90% | next document |",
        "|---|---|---|---|---|---|---|",
    ]
    judged_all = []
    for model in models or sorted({name for name, _ in store.stored("sensitivity")}):
        rows = rows_of(model, text, DOCUMENTS) if text else None
        for question in QUESTIONS if rows is None else MEASURED:
            losses = (
                population(model, question.metric)
                if rows is None
                else deciding.losses_of(rows, question.metric)
            )
            found = judged(losses, question, plans)
            judged_all.append(found)
            low, high = found.interval()
            median, most = np.quantile(found.ratios, [0.5, 0.9]) if found.certified else (0, 0)
            lines.append(
                f"| {model} | {question.metric} {question.epsilon:g} | {found.documents} "
                f"| {found.certified} of {plans} | {found.violations} ({100 * low:.1f} to "
                f"{100 * high:.1f}%; {100 * question.level:.0f}%) | {median:.2f}, {most:.2f} "
                f"| {found.following:.3g} |"
            )
            print(lines[-1], flush=True)
    lines.append(together(judged_all))
    print(lines[-1], flush=True)
    return lines


def main() -> None:
    """Plan and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", help="with stored tables; none: all")
    parser.add_argument("--plans", type=int, default=DRAWS)
    parser.add_argument("--text", default="", help="measure the models on this pinned text")
    given = parser.parse_args()
    table(given.plans, given.models, given.text)


if __name__ == "__main__":
    main()
