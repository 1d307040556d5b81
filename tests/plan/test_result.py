"""A plan is written as JSON and read back; what is none is refused in a line."""

from __future__ import annotations

import dataclasses

import pytest

from kvlib.plan import CERTIFIED, Clipped, Documents, Law, NextDocument, Plan, Tried


def example() -> Plan:
    return Plan(
        model="toy",
        texts=("a.txt", "b.txt"),
        metric="kl",
        policy="sinks",
        protocol="online",
        epsilon=0.05,
        confidence=0.95,
        status=CERTIFIED,
        budget=64,
        bound=0.048,
        measured=0.03,
        context=256,
        proposed=(Tried(128, 0.01, 0.02, 1e-4, 60, True), Tried(64, 0.03, 0.048, 0.03, 60, True)),
        law=Law("finite-context power", 0.6, 0.5, 0.7, 1.2, 4, 60, 0.028),
        tails={"0.5": 0.001, "0.99": 1.3, "1": 4.0},
        clipped=Clipped(0.5, 0.0, 0.049),
        next_document=NextDocument(64, 0.041),
        documents=Documents(60, 60, 256, 2),
        documents_that_would_do=None,
        reason="certified",
        assumption="documents are exchangeable",
    )


@pytest.mark.parametrize("change", [{}, {"law": None, "clipped": None, "budget": None}])
def test_a_plan_is_read_back_as_it_was_written(change):
    plan = dataclasses.replace(example(), **change)
    assert Plan.from_json(plan.as_json()) == plan


@pytest.mark.parametrize("text", ["", "[]", "{}", "[" * 100_000, '{"model": "x"}'])
def test_what_is_no_plan_is_refused_in_a_line(text):
    with pytest.raises(ValueError, match="expected a plan as JSON") as error:
        Plan.from_json(text)
    assert "\n" not in str(error.value)


def test_a_number_that_is_none_is_not_written():
    with pytest.raises(ValueError):
        dataclasses.replace(example(), bound=float("nan")).as_json()
