"""Imports: light where they can be, and one way."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import kvlib

FOLDER = Path(kvlib.__file__).parent
ORDER = [  # the road from text to page: of these, a module may import only those above it
    *("divergences", "gaussian", "sources", "banks"),
    *("bounds", "closed_forms", "gaussian_coding", "blocks", "coding", "bottleneck"),
    *("fit", "corpora", "store", "models", "bounded_cache", "policies", "protocols"),
    *("measure", "diagnostics", "passages"),
    *(
        "controls",
        "charts",
        "bound_charts",
        "kv_rates",
        "rate_charts",
        "policy_checks",
        "plan",
        "policy_charts",
        "positions",
        "explorers",
        "lab_charts",
        "lab",
        "bench",
        "block_checks",
        "block_charts",
        "verdicts",
        "__main__",
    ),
]
NEED_TORCH = {
    "models",
    "bounded_cache",
    "policies",
    "protocols",
    "measure",
    "lab",
    "bench",
}
MODULES = sorted(
    {path.stem for path in FOLDER.glob("*.py")} - {"__init__"}
    | {path.parent.name for path in FOLDER.glob("*/__init__.py")}
)

BLOCKED = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "transformers", "tokenizers", "accelerate"}:
            raise ImportError(f"blocked: {name}")

sys.meta_path.insert(0, Blocker())
for module in sys.argv[1:]:
    __import__(f"kvlib.{module}")
"""


def import_with_torch_blocked(*modules: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", BLOCKED, *modules], capture_output=True, text=True, timeout=120
    )


def imports_of(module: str) -> set[str]:
    """Modules of kvlib that a module or package imports from outside it, anywhere in its source."""
    found = set()
    for node in (node for path in sources_of(module) for node in nodes_of(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative imports hide the order"
            if node.module == "kvlib":
                found |= {f"kvlib.{alias.name}" for alias in node.names}
            else:
                found.add(node.module or "")
    return {name.split(".")[1] for name in found if name.startswith("kvlib.")} - {module}


def sources_of(module: str) -> list[Path]:
    folder = FOLDER / module
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [FOLDER / f"{module}.py"]


def nodes_of(path: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def test_everything_but_models_and_measure_imports_without_torch():
    light = [module for module in MODULES if module not in NEED_TORCH]
    result = import_with_torch_blocked(*light)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("module", sorted(NEED_TORCH))
def test_the_import_check_fails_for_modules_that_need_torch(module):
    result = import_with_torch_blocked(module)
    assert result.returncode != 0
    assert "blocked: torch" in result.stderr


@pytest.mark.parametrize("module", ORDER)
def test_a_module_imports_only_from_above_it(module):
    assert imports_of(module) & set(ORDER) <= set(ORDER[: ORDER.index(module)])


def test_imports_have_no_cycle_and_none_is_of_the_command_line():
    graph = {module: imports_of(module) for module in MODULES}
    list(TopologicalSorter(graph).static_order())  # raises CycleError
    assert "__main__" not in set().union(*graph.values())


def test_the_order_check_sees_the_imports_that_there_are():
    assert imports_of("measure") == {"divergences", "models", "policies", "protocols"}
    assert {"measure", "models", "store", "corpora"} <= imports_of("__main__")
