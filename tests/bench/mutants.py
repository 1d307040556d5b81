"""Every small change of one module, one at a time, and whether its tests see it.

    python tests/bench/mutants.py fit/tries.py fit/test_tries.py

Operators, comparisons, numbers, names of lower and upper bounds, and conditions are changed as the
tables below say; docstrings and annotations are left alone. Prints what survived, and the count. A
survivor is a sentence that no test speaks: write the test, or say why both are right.

Done for `fit/tries.py`: of 49 changes 5 survived. Four had no test (the degrees of freedom of a
drawn interval, up and down; the scatter of drawn values; the cap of a corrected p at one), and have
one now. The fifth is no fault: the sign before a symmetric draw.
"""

from __future__ import annotations

import ast
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
OPERATORS = {
    **{ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult},
    **{ast.Pow: ast.Mult, ast.FloorDiv: ast.Div, ast.Mod: ast.Mult, ast.MatMult: ast.Mult},
    **{ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt},
    **{ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.In: ast.NotIn, ast.NotIn: ast.In},
    **{ast.And: ast.Or, ast.Or: ast.And, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd},
}
NAMES = {"low": "high", "high": "low", "min": "max", "max": "min", "minimum": "maximum"}
NAMES |= {"maximum": "minimum", "all": "any", "any": "all", "log": "exp", "exp": "log"}


def mutants(source: str) -> Iterator[tuple[int, str, str]]:
    """(line, the line's new text, the whole new source) of every small change."""
    plain = ast.unparse(ast.parse(source)).splitlines()
    for place in range(len(list(ast.walk(ast.parse(source))))):
        tree = ast.parse(source)
        node = list(ast.walk(tree))[place]
        if getattr(node, "lineno", 0) and _change(node, tree):
            changed = ast.unparse(ast.fix_missing_locations(tree))
            lines = changed.splitlines()
            new = [two for one, two in zip(plain, lines, strict=False) if one != two]
            yield node.lineno, new[0].strip() if new else "", changed


def _change(node: ast.AST, tree: ast.Module) -> bool:
    """Changes the node, if it is one that can be."""
    if _unread(node, tree):
        return False
    if isinstance(node, ast.BinOp | ast.BoolOp | ast.AugAssign) and type(node.op) in OPERATORS:
        node.op = OPERATORS[type(node.op)]()
    elif isinstance(node, ast.Compare) and type(node.ops[0]) in OPERATORS:
        node.ops[0] = OPERATORS[type(node.ops[0])]()
    elif isinstance(node, ast.Constant) and type(node.value) in (int, float, bool):
        node.value = not node.value if type(node.value) is bool else node.value + 1
    elif isinstance(node, ast.Attribute) and node.attr in NAMES:
        node.attr = NAMES[node.attr]
    elif isinstance(node, ast.Name) and node.id in NAMES:
        node.id = NAMES[node.id]
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        node.op = ast.UAdd()
    elif isinstance(node, ast.If | ast.IfExp):
        node.test = ast.UnaryOp(ast.Not(), node.test)
    else:
        return False
    return True


def _unread(node: ast.AST, tree: ast.Module) -> bool:
    """Is it in an annotation, which no test executes?"""
    for other in ast.walk(tree):
        for name in ("annotation", "returns"):
            part = getattr(other, name, None)
            if part is not None and any(node is inner for inner in ast.walk(part)):
                return True
    return False


def survives(folder: Path, file: str, source: str, tests: list[str]) -> bool:
    """Do all tests pass with this source? In a child, so that what is imported is shared."""
    (folder / "kvlib" / file).write_text(source, encoding="utf-8")
    child = os.fork()
    if child == 0:
        import pytest

        sys.stdout = sys.stderr = open(os.devnull, "w")
        options = ["-qx", "-p", "no:cacheprovider", "-m", "not slow"]
        os._exit(int(pytest.main([*options, *(str(folder / "tests" / t) for t in tests)])))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def main() -> None:
    file, *tests = sys.argv[1:]
    import pandas  # noqa: F401 (imported once, for all children)
    import pytest  # noqa: F401
    import scipy.stats  # noqa: F401

    sys.dont_write_bytecode = True  # two sources of one second and one size would share it
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        leave = shutil.ignore_patterns("_build", ".*", "__pycache__")
        shutil.copytree(ROOT, folder, ignore=leave, dirs_exist_ok=True)
        os.chdir(folder)
        sys.path[:0] = [str(folder), str(folder / "tests")]
        os.environ |= {"PYTHONPATH": f"{folder}:{folder / 'tests'}", "KVLIB_STATIC": "1"}
        source = (folder / "kvlib" / file).read_text(encoding="utf-8")
        if not survives(folder, file, source, tests):
            sys.exit(f"{file}: expected tests that pass before it is changed, got a failure")
        tried = alive = 0
        for line, new, changed in mutants(source):
            tried += 1
            if survives(folder, file, changed, tests):
                alive += 1
                print(f"{file}:{line}: {new}", flush=True)
    print(f"{tried - alive} of {tried} changes seen, {alive} survived")


if __name__ == "__main__":
    main()
