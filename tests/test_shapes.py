"""Tensors and arrays of the rooms that measure say their shapes, and the tests hold them to it."""

from __future__ import annotations

import ast
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
import torch

from kvlib.cache import layers
from kvlib.measure import divergences, nested, passage, positions, rates, truncation

ROOT = Path(__file__).parents[1]
FILES = sorted(path for room in ("cache", "measure") for path in ROOT.glob(f"kvlib/{room}/*.py"))


def shapeless(source: str) -> list[str]:
    """Functions that take or give a tensor or an array and do not say its shape."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            said = [arg.annotation for arg in every] + [node.returns]
            found += [node.name for part in said if part is not None and _bare(part)]
    return found


def _bare(node: ast.AST) -> bool:
    """Does an annotation name a tensor or an array outside `Float[…]`, `Int[…]`, `Bool[…]`?"""
    if isinstance(node, ast.Subscript) and ast.unparse(node.value) in ("Float", "Int", "Bool"):
        return False
    if ast.unparse(node) in ("torch.Tensor", "Tensor", "np.ndarray", "torch.LongTensor"):
        return True
    return any(_bare(part) for part in ast.iter_child_nodes(node))


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_no_tensor_is_without_a_shape(path):
    assert shapeless(path.read_text(encoding="utf-8")) == []


def test_a_tensor_without_a_shape_is_noticed():
    source = 'def f(a: Int[Tensor, " n"], b: list[np.ndarray]) -> tuple[int, torch.Tensor]: ...'
    assert shapeless(source) == ["f", "f"]


TWO = np.arange(6).reshape(2, 3)
WRONG = {
    "a cache's entries": lambda lm: layers.take(torch.zeros(2, 3, 4), torch.zeros(2, 1).long()),
    "laws": lambda lm: divergences._log_ratio(np.zeros((2, 3)), np.zeros((2, 4))),
    "nested": lambda lm: nested.nested(lm, TWO, [1], 1, 2),
    "a passage": lambda lm: passage.measure_passage(lm, TWO, 1, [], []),
    "positions": lambda lm: positions.measure_positions(lm, TWO, 0, {}),
    "a variant": lambda lm: positions.variant_hidden(lm, torch.zeros(3), 1, 1, "kept", None),
    "a covariance": lambda lm: rates.oas(np.ones((2, 3)), 9),
    "truncation": lambda lm: truncation.naive_sensitivity(lm, TWO, []),
}


@pytest.mark.parametrize("case", WRONG)
def test_another_shape_than_a_function_says_is_noticed(case, tiny):
    with pytest.raises(jaxtyping.TypeCheckError):
        WRONG[case](tiny)
