"""What is measured next and what it says, on planted losses: no model is needed."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom

from kvlib.fit import certify
from kvlib.plan import CERTIFIED, NOT_CERTIFIED, deciding, report
from kvlib.plan.deciding import Question

RUNGS = deciding.ladder(256)
KL = Question("kl", 0.05, 0.95)


def losses(n: int, at_64: float, seed: int = 0, spread: float = 0.4) -> pd.DataFrame:
    """Documents (n) whose losses fall as 1 / budget, each with more or less of everything."""
    rng = np.random.default_rng(seed)
    own = rng.lognormal(-(spread**2) / 2, spread, (n, 1))
    values = own * at_64 * 64 / np.array(RUNGS, dtype=float)
    return pd.DataFrame(np.minimum(values, 1), columns=RUNGS)


def rows_of(table: pd.DataFrame, metric: str = "kl", tokens: int = 256) -> pd.DataFrame:
    """Rows of `policy_distortion` whose means over a document are those of a table."""
    targets = np.arange(tokens // 2, tokens, 16)
    doc, budget, position = (
        a.ravel() for a in np.meshgrid(table.index, table.columns, targets, indexing="ij")
    )
    mean = table.to_numpy().repeat(len(targets), axis=1).ravel()
    loss = mean * np.where(position % 32 == 0, 1.5, 0.5)
    rows = pd.DataFrame({"doc": doc, "budget": budget, "position": position})
    return rows.assign(kl_nats=loss, tv=np.minimum(loss, 1), top1_same=False)


def plan(measured: pd.DataFrame, others: pd.DataFrame, question: Question = KL):
    said = {"model": "toy", "texts": ("a.txt",), "policy": "sinks", "protocol": "online"}
    every_other = RUNGS[::-2][::-1]
    tried = deciding.to_certify(measured[every_other], RUNGS, question, len(others))
    return deciding.plan_of(
        *(rows_of(measured[every_other]), rows_of(others[tried]), question, RUNGS, 4),
        said | {"context": 256},
    )


# --- questions and ladders ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"metric": "perplexity"}, "metric: expected one of kl, tv, top1, got 'perplexity'"),
        ({"epsilon": 0.0}, "epsilon: expected more than 0, got 0.0"),
        ({"epsilon": float("nan")}, "epsilon: expected more than 0, got nan"),
        ({"metric": "tv", "epsilon": 1.0}, "epsilon: expected more than 0 and below 1, got 1.0"),
        ({"confidence": 1.0}, "confidence: expected 0.5 or more, below 1, got 1.0"),
        ({"confidence": 0.2}, "confidence: expected 0.5 or more, below 1, got 0.2"),
    ],
)
def test_a_question_that_cannot_be_asked_is_refused(change, said):
    with pytest.raises(ValueError) as error:
        KL._replace(**change).checked()
    assert str(error.value) == said
    assert KL.checked() == KL


def test_a_ladder_has_four_rungs_an_octave_below_the_documents_length():
    assert RUNGS[0] == 16 and RUNGS[-1] < 256 and len(RUNGS) == 16
    assert np.allclose(np.array(RUNGS[4:]) / RUNGS[:-4], 2, atol=0.06)
    assert deciding.ladder(256, least=40)[0] == 40
    with pytest.raises(ValueError, match="seq-len: expected at least 32 tokens a document, got 20"):
        deciding.ladder(20)


def test_a_loss_counts_as_a_share_of_the_largest_that_counts():
    assert KL.shares(np.array([0.05, 0.5, 3.0])) == pytest.approx([0.1, 1, 1])
    tv = Question("tv", 0.05, 0.95)
    assert tv.shares(np.array([0.05, 1])) == pytest.approx([0.05, 1])


def test_rows_become_means_of_documents():
    table = losses(3, 0.05)
    pd.testing.assert_frame_equal(
        deciding.losses_of(rows_of(table), "kl"), table, check_names=False
    )
    assert (deciding.losses_of(rows_of(table), "top1") == 1).all(axis=None)


# --- the measuring half -------------------------------------------------------------------------


def test_the_proposal_is_the_least_rung_from_which_on_all_are_within():
    table = losses(40, 0.05)
    found = deciding.proposal(table[RUNGS[::-2][::-1]], RUNGS, KL)
    assert found.mean is not None and found.sure is not None
    assert found.mean <= found.sure
    mean, rung = table.mean(), RUNGS.index(found.mean)
    assert mean[found.mean] <= KL.epsilon < mean[RUNGS[rung - 1]]
    bumped = table.copy()
    bumped[RUNGS[-1]] = 0.2  # the largest budget is bad: nothing below it is proposed
    assert deciding.proposal(bumped, RUNGS, KL) == (None, None)


def test_more_documents_make_it_sure():
    table = losses(200, 0.05, spread=1.0)
    assert not deciding.is_sure(table[: deciding.LEAST_DOCUMENTS - 1], RUNGS, KL)
    assert not deciding.is_sure(table[:12], RUNGS, KL)
    assert deciding.is_sure(table, RUNGS, KL)
    assert not deciding.is_sure(losses(200, 2.0), RUNGS, KL)  # no budget is within


def test_rungs_to_certify_hold_the_proposal_and_go_down():
    table = losses(24, 0.03)
    tried = deciding.to_certify(table, RUNGS, KL, 60)
    assert tried == sorted(tried, reverse=True) and len(tried) <= deciding.MOST_RUNGS
    least = deciding.proposal(table, RUNGS, KL).mean
    assert least in tried and max(tried) > least
    fewer = deciding.to_certify(table, RUNGS, KL, 36)
    assert max(fewer) > max(deciding.to_certify(table, RUNGS, KL, 600))
    assert deciding.to_certify(losses(24, 5.0), RUNGS, KL, 60) == RUNGS[:-4:-1]


# --- the plan ----------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["kl", "tv"])
def test_a_plan_names_a_budget_between_the_least_and_half_as_much_again(metric):
    question = Question(metric, 0.05, 0.95)
    found = plan(losses(24, 0.05, 1), losses(300, 0.05, 2), question)
    assert found.status == CERTIFIED and found.budget is not None
    assert 64 <= found.budget <= 1.5 * 64
    assert found.measured < found.bound <= 0.05
    assert [t.budget for t in found.proposed if t.passed][-1] == found.budget
    assert found.law is not None and found.law.low <= found.law.exponent <= found.law.high
    assert (found.clipped is None) == (metric == "tv")
    assert found.tails["0.5"] <= found.tails["0.9"] <= found.tails["1"]
    assert found.next_document.budget is not None and found.next_document.bound <= 0.05
    assert found.documents_that_would_do is None
    assert type(found).from_json(found.as_json()) == found


def test_without_enough_documents_a_plan_says_how_many_would_do_and_they_do():
    few = plan(losses(20, 0.02, 1), losses(20, 0.02, 2))
    assert few.status == NOT_CERTIFIED and few.budget is None
    assert few.documents_that_would_do is not None and few.documents_that_would_do > 40
    assert "within the tolerance, but 20 documents leave room for" in few.reason
    more = few.documents_that_would_do
    assert plan(losses(20, 0.02, 1), losses(2 * more, 0.02, 3)).certified
    # half of so many documents are measured, and the other half suffices
    assert plan(losses(more // 2, 0.02, 1), losses(more - more // 2, 0.02, 3)).certified


def test_where_no_budget_is_within_no_number_of_documents_is_promised():
    found = plan(losses(20, 2.0, 1), losses(60, 2.0, 2))
    assert found.status == NOT_CERTIFIED and found.documents_that_would_do is None
    assert "above the tolerance" in found.reason
    assert found.next_document.budget is None
    assert found.law is None or found.law.budget is None


def test_documents_above_the_cap_are_counted():
    others = losses(200, 0.02, 2)
    others.iloc[:3] = 2.0  # nats, of a cap of half a nat
    found = plan(losses(24, 0.02, 1), others)
    assert found.clipped is not None and found.clipped.cap_nats == pytest.approx(0.5)
    assert found.clipped.share == pytest.approx(3 / 200)
    assert found.clipped.share_bound > 3 / 200


def test_a_mean_above_the_tolerance_is_never_certified_whatever_the_cap_hides():
    """Three documents of 200 lose 5 nats: with a cap of half a nat the mean is within."""
    others = losses(200, 0.005, 2)
    others.iloc[:3] = 5.0
    found = plan(losses(24, 0.005, 1), others)
    assert all(one.mean < KL.epsilon and one.p_value < 0.05 for one in found.proposed[:1])
    assert found.measured > KL.epsilon and not found.certified
    assert found.documents_that_would_do is None
    assert "single documents lose more than 0.5 nats" in found.reason


def test_what_the_cap_hides_stands_beside_the_bound():
    others = losses(200, 0.005, 2)
    others.iloc[:3] = 1.0
    found = plan(losses(24, 0.005, 1), others)
    chosen = next(one for one in found.proposed if one.budget == found.budget)
    assert found.certified and chosen.mean < found.measured <= KL.epsilon
    assert chosen.mean <= found.bound
    assert ", where a document counts as 0.5 nats at most, within " in report.headline(found)


def test_wrong_plans_are_as_rare_as_promised():
    """Losses whose mean at 64 entries is the tolerance: to certify less than 64 is wrong."""
    tries, wrong, named = 150, 0, 0
    rng = np.random.default_rng(5)
    for k in range(tries):
        table = losses(150, 0.05, seed=[int(rng.integers(2**31)), k], spread=0.8)
        found = plan_budget(table[:30], table[30:])
        wrong += found is not None and found < 64
        named += found is not None
    assert wrong <= binom.ppf(1 - 1e-4, tries, KL.level)
    assert named > tries / 2


def plan_budget(measured: pd.DataFrame, others: pd.DataFrame) -> int | None:
    tried = deciding.to_certify(measured, RUNGS, KL, len(others))
    count = certify.passed(deciding.p_values(measured, others[tried], KL), KL.level)
    return tried[count - 1] if count else None


def test_documents_that_choices_have_seen_certify_wrongly():
    """The fault that halves are for: the budget that looks least is taken at its word."""
    tries, wrong = 100, 0
    for k in range(tries):
        table = losses(12, 0.05, seed=[7, k], spread=0.8)
        found = deciding.proposal(table, RUNGS, KL).mean
        wrong += found is not None and found < 64
    assert wrong > binom.ppf(1 - 1e-4, tries, KL.level)


def test_enough_documents_certify_half_of_the_tolerance():
    for question in (KL, Question("tv", 0.05, 0.95), Question("top1", 0.2, 0.9)):
        half = np.full(deciding.enough(question) // 2, question.tolerance / 2)
        bets = certify.bets_of(half, question.tolerance)
        assert certify.p_value(half, question.tolerance, bets) <= question.level


def test_the_plan_cannot_be_changed():
    found = plan(losses(24, 0.05, 1), losses(60, 0.05, 2))
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.budget = 1
