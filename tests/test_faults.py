"""The lists in tests/bench: each fault can still be planted, and what mutates code does so."""

from __future__ import annotations

import ast
import importlib.util
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).with_name("bench")
ROOT = BENCH.parents[1]


def loaded(name: str):
    spec = importlib.util.spec_from_file_location(f"bench_{name}", BENCH / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


faults, mutants = loaded("faults"), loaded("mutants")


@pytest.mark.parametrize("fault", faults.FAULTS, ids=lambda fault: f"{fault.file}: {fault.old}")
def test_a_fault_can_be_planted_and_its_tests_are_there(fault):
    text = (ROOT / "kvlib" / fault.file).read_text(encoding="utf-8")
    assert text.count(fault.old) == 1, "say in tests/bench/faults.py what the line is now"
    ast.parse(text.replace(fault.old, fault.new))
    assert all((ROOT / "tests" / test).exists() for test in fault.tests.split())


SOURCE = '''def least(a: int = 1) -> int:
    """No change in here: 1 + 1."""
    return max(a - 1, -2) if a < 3 and a else 0
'''


def test_every_small_change_is_made_once_and_is_python():
    found = list(mutants.mutants(SOURCE))
    assert ast.unparse(ast.parse(SOURCE)) not in {changed for _, _, changed in found}
    assert len({changed for _, _, changed in found}) == len(found) == 11
    assert all("No change in here: 1 + 1." in changed for _, _, changed in found)
    new = {text for _, text, _ in found}
    for part in ("min(a - 1, -2)", "max(a + 1, -2)", "a <= 3", "a < 4", "a < 3 or a", "a: int=2"):
        assert any(part in text for text in new), part
