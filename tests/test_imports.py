"""The walls between rooms: held by import-linter, counted, and seen from a Python without torch."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import grimp
import pytest

import kvlib

FOLDER = Path(kvlib.__file__).parent
ROOT = FOLDER.parent
LIGHT = (
    "names",
    "wheels",
    "corpora",
    "store",
    "study",
    "theory",
    "fit",
    "claims",
)  # neither torch nor altair
TORCH_ROOMS = ("models", "cache", "measure", "live")
STUDIES = ("architectures", "counts", "design", "estimate", "reproduce", "verify")
NEED_TORCH = (*TORCH_ROOMS, *(f"study.{name}" for name in STUDIES))
TORCH = ("torch", "transformers", "tokenizers", "safetensors", "accelerate")
PICTURES = ("altair", "ipywidgets", "anywidget")

# Imports inside functions: file → what it may import late → why. Everything else is on top.
LATE = {
    "kvlib/__main__.py": ("kvlib.", "flags are read and help is printed before torch loads"),
    "kvlib/charts/controls.py": ("ipywidgets", "only a live kernel has widgets"),
    "kvlib/study/declared.py": ("kvlib.cache.policies", "listing needs no torch"),
    "kvlib/study/cluster.py": ("torch", "only a model needs it, and only a worker has one"),
    "kvlib/study/items.py": (
        ("kvlib.models", "kvlib.cache.policies"),
        "what is there is listed without torch, in a second",
    ),
    "kvlib/models/load.py": ("huggingface_hub", "only a name on the Hub needs it"),
    "kvlib/models/cards.py": ("accelerate", "only a model over several cards needs it"),
}

PLANTED = [  # room, what it must not import, the contract that says so
    ("names", "kvlib.store", "floors"),
    ("models", "kvlib.cache", "floors"),
    ("cache", "kvlib.theory.bounds", None),  # downwards: allowed
    ("fit", "kvlib.store", "proofs"),
    ("theory", "torch", "proofs"),
    ("charts", "kvlib.fit", "pictures"),
    ("charts", "kvlib.claims", "pictures"),
    ("claims", "kvlib.charts.parts", "verdicts"),
    ("measure", "kvlib.fit.estimate", "measurements"),
    ("store", "torch", "torch"),
    ("fit.laws", "kvlib.fit.contests", "circles"),
]

IMPORT_WITHOUT = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in sys.argv[1].split(","):
            raise ImportError(f"blocked: {name}")

sys.meta_path.insert(0, Blocker())
exec(sys.argv[2])
"""


def run_without(blocked: tuple[str, ...], source: str) -> subprocess.CompletedProcess:
    """Run Python source in a process where the blocked packages can't be imported."""
    command = [sys.executable, "-c", IMPORT_WITHOUT, ",".join(blocked), source]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT)


def modules_of(room: str) -> list[str]:
    """A room and its modules, as they are imported; a module that needs torch by itself is none."""
    found = [f"{room}.{path.stem}" for path in sorted((FOLDER / room).glob("[!_]*.py"))]
    return [f"kvlib.{name}" for name in [room, *found] if name == room or name not in NEED_TORCH]


def lint(root: Path) -> subprocess.CompletedProcess:
    """Run import-linter over the package in a folder, with the contracts in its pyproject.toml."""
    tool = Path(sys.executable).with_name("lint-imports")
    command = [str(tool), "--no-cache", "--no-logo", "pyproject.toml"]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=root)


def copy_of_the_house(folder: Path) -> Path:
    """The sources and the contracts, copied into an empty folder."""
    leave = shutil.ignore_patterns("data", "__pycache__")
    shutil.copytree(FOLDER, folder / "kvlib", ignore=leave)
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def contracts() -> dict[str, str]:
    """The contracts in pyproject.toml: id → name."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return {c["id"]: c["name"] for c in settings["tool"]["importlinter"]["contracts"]}


def arrows() -> set[tuple[str, str]]:
    """Pairs of rooms of which the first imports something from the second."""
    graph = grimp.build_graph("kvlib", cache_dir=None)
    pairs = {
        (importer.split(".")[1], imported.split(".")[1])
        for importer in graph.modules - {"kvlib"}
        for imported in graph.find_modules_directly_imported_by(importer) - {"kvlib"}
    }
    return {(a, b) for a, b in pairs if a != b}


def late_imports(source: str) -> list[str]:
    """Modules that a source imports inside a function."""
    found = []
    for function in ast.walk(ast.parse(source)):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            for node in ast.walk(function):
                if isinstance(node, ast.Import):
                    found += [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom):
                    found.append(node.module or "")
    return found


# --- the walls ----------------------------------------------------------------------------------


def test_the_walls_stand():
    result = lint(ROOT)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(("room", "imported", "contract"), PLANTED)
def test_a_forbidden_import_is_seen(tmp_path, room, imported, contract):
    place = copy_of_the_house(tmp_path).joinpath("kvlib", *room.split("."))
    file = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    with file.open("a", encoding="utf-8") as text:
        text.write(f"\n\ndef planted():\n    import {imported}\n")
    result = lint(tmp_path)
    said = " ".join(result.stdout.split())
    broken = [id for id, name in contracts().items() if f"{name} BROKEN" in said]
    assert (contract in broken) if contract else broken == []
    assert (result.returncode == 0) == (contract is None), result.stdout


def test_a_room_without_a_floor_is_seen(tmp_path):
    copy = copy_of_the_house(tmp_path)
    (copy / "kvlib" / "attic.py").touch()
    result = lint(copy)
    assert result.returncode != 0 and "attic" in result.stdout


def test_few_rooms_and_few_arrows():
    entries = [p.name for p in FOLDER.iterdir() if p.name != "__pycache__"]
    assert len(entries) <= 17, sorted(entries)
    assert 20 < len(arrows()) <= 52, sorted(arrows())
    assert {("cache", "models"), ("claims", "fit")} <= arrows()


# --- what needs what ----------------------------------------------------------------------------


def test_tables_mathematics_and_verdicts_need_neither_torch_nor_altair():
    light = ["kvlib", *(name for room in LIGHT for name in modules_of(room))]
    read = """
from kvlib import fit, store
path = next(iter(store.stored("sensitivity").values()))
print(fit.exponent(fit.curve(store.load_table(path)).between(8)))
"""
    result = run_without(TORCH + PICTURES, f"import {', '.join(light)}\n{read}")
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()


def test_charts_need_no_torch():
    result = run_without(TORCH, f"import {', '.join(modules_of('charts'))}")
    assert result.returncode == 0, result.stderr


def test_to_import_kvlib_is_to_import_nothing_heavy():
    heavy = (*TORCH, *PICTURES, "pandas", "numpy", "scipy", "pyarrow")
    assert run_without(heavy, "import kvlib").returncode == 0


@pytest.mark.parametrize("room", NEED_TORCH)
def test_the_block_blocks(room):
    result = run_without(TORCH, f"import {', '.join(modules_of(room))}")
    assert result.returncode != 0
    assert any(f"blocked: {name}\n" in result.stderr for name in TORCH)


def test_imports_inside_functions_have_a_reason():
    unexplained = []
    for path in FOLDER.rglob("*.py"):
        name = path.relative_to(ROOT).as_posix()
        allowed, _why = LATE.get(name, ("", ""))
        late = late_imports(path.read_text(encoding="utf-8"))
        unexplained += [(name, m) for m in late if not (allowed and m.startswith(allowed))]
        assert late or name not in LATE, f"{name} imports nothing late: take it off the list"
    assert unexplained == []


def test_an_import_inside_a_function_is_seen():
    assert late_imports("import a\ndef f():\n    from b.c import d\n") == ["b.c"]
    assert late_imports("import a\nclass C:\n    x = 1\n") == []


def test_the_faces_are_those_of_the_readme():
    from kvlib import cache, corpora, fit, measure, models, store

    assert callable(models.load_model) and callable(corpora.load_corpus)
    assert callable(measure.truncation_sensitivity) and callable(measure.policy_distortion)
    assert callable(fit.exponent) and callable(store.load_table) and callable(cache.BoundedCache)
