"""What README.md, CONTRIBUTING.md and book/extend.md name is there, and the recipes' code runs."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
import textwrap
import tomllib
import types
from pathlib import Path

import pytest
import typer
import yaml

import kvlib

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "book/extend.md"]
MADE = {
    "notebooks/first_guess.md",
    "notebooks/first_guess",
    "kvlib/claims/first_guess.py",
    "tests/claims/test_first_guess.py",
}  # files that a recipe has its reader make
BUILT = ("_build/", ".venv")  # what `make book` leaves
FENCE = re.compile(
    r"^(?P<indent> *)(?P<mark>`{3,})(?P<kind>\w*)\n(?P<body>.*?)^ *(?P=mark)$", re.S | re.M
)
PATH = re.compile(r"(?:kvlib|tests|book|notebooks)/[\w./-]*|[\w.-]+\.(?:cff|md|toml|txt|yaml|yml)")
NOT_OURS = {"my.txt"}  # a reader's own file


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(text: str, kind: str) -> list[str]:
    """The fenced blocks of one kind, without their indent; none from inside another block."""
    return [textwrap.dedent(m["body"]) for m in FENCE.finditer(text) if m["kind"] == kind]


def prose(text: str) -> str:
    """The text without its fenced blocks."""
    return FENCE.sub("", text)


def section(text: str, title: str) -> str:
    """What stands below a heading of the second level, down to the next one."""
    return text.split(f"\n## {title}\n")[1].split("\n## ")[0]


def spans(text: str) -> list[str]:
    """Inline code."""
    return re.findall(r"`([^`\n]+)`", prose(text))


def commands(text: str) -> list[str]:
    """The lines of shell blocks, continued ones in one piece, without comments, and inline code."""
    shell = "\n".join(blocks(text, "sh")).replace("\\\n", " ")
    return [line.split("#")[0].strip() for line in shell.splitlines()] + spans(text)


def unknown_targets(text: str) -> list[str]:
    """Targets named after `make` that the Makefile doesn't have."""
    targets = set(re.findall(r"^([a-z]+):", read("Makefile"), re.M))
    named = [m[1] for line in commands(text) if (m := re.match(r"make ([a-z]+)", line))]
    return [name for name in named if name not in targets]


def missing_paths(text: str) -> list[str]:
    """Files and folders of the repository, in inline code and shell commands, that aren't there."""
    words = [word for line in commands(text) for word in line.split()]
    named = {word for word in words if PATH.fullmatch(word)} - MADE - NOT_OURS
    wanted = [word for word in named if not word.startswith(BUILT)]
    outputs = set(re.findall(r"--out (\S+)", " ".join(commands(text))))
    return [word for word in wanted if word not in outputs and not (ROOT / word).exists()]


def unknown_options(text: str) -> list[str]:
    """Commands and options of `python -m kvlib` that the command line doesn't take."""
    known = typer.main.get_command(importlib.import_module("kvlib.__main__").app).commands
    complaints = []
    for line in commands(text):
        if not (match := re.search(r"-m kvlib ([a-z]+)(.*)", line)):
            continue
        if match[1] not in known:
            complaints.append(match[1])
            continue
        taken = {name for option in known[match[1]].params for name in option.opts}
        complaints += [name[2:] for name in re.findall(r"--[a-z-]+", match[2]) if name not in taken]
    return complaints


def house(text: str) -> dict[str, bool]:
    """The map of CONTRIBUTING: what stands in kvlib → whether it says that it needs torch."""
    lines = section(text, "The house").split("```")[1].split("kvlib/\n")[1].splitlines()
    rooms = [line for line in lines if line.startswith("  ")]
    return {line.split()[0].rstrip("/"): line.endswith("needs torch") for line in rooms}


def floors() -> list[str]:
    """The rooms of kvlib from the top floor down, by the contract in pyproject.toml."""
    return re.findall(r"[\w]+", " ".join(contract("floors")["layers"]))


def contract(name: str) -> dict:
    """A contract of import-linter."""
    held = tomllib.loads(read("pyproject.toml"))["tool"]["importlinter"]["contracts"]
    return next(one for one in held if one["id"] == name)


def untrue_house(text: str) -> list[str]:
    """What the map has that isn't so: names, order, who needs torch."""
    drawn = house(text)
    there = {path.name for path in (ROOT / "kvlib").glob("[!_.]*")} | {"__main__.py"}
    complaints = sorted(there ^ drawn.keys())
    rooms = [Path(name).stem for name in drawn if name != "data"]
    light = {name.removeprefix("kvlib.") for name in contract("torch")["source_modules"]}
    light |= {"__main__", "data"}
    complaints += [n for n, torch in drawn.items() if torch == (Path(n).stem in light)]
    places = [floors().index(room) for room in rooms if room in floors()]
    return complaints + ["order"] * (places != sorted(places))


# --- what is named is there ---------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("complaints", [unknown_targets, missing_paths, unknown_options])
def test_what_a_page_names_is_there(page, complaints):
    assert complaints(read(page)) == []


def test_messages_name_targets_that_there_are():
    sources = [path.read_text("utf-8") for path in ROOT.glob("kvlib/**/*.py")]
    named = [name for text in sources for name in re.findall(r"`make [a-z]+`", text)]
    assert unknown_targets("\n".join(named)) == []
    assert unknown_targets("run `make models` or `make book`") == ["models"]


def test_the_map_is_that_of_the_house():
    assert untrue_house(read("CONTRIBUTING.md")) == []
    assert len(house(read("CONTRIBUTING.md"))) > 10


def test_what_is_not_there_is_noticed():
    bad = """Try `make haste` and see `kvlib/none.py`.

```sh
make book
python -m kvlib fetsch
python -m kvlib measure \\
    --modus x
pytest tests/test_none.py
```
"""
    assert unknown_targets(bad) == ["haste"]
    assert sorted(missing_paths(bad)) == ["kvlib/none.py", "tests/test_none.py"]
    assert unknown_options(bad) == ["fetsch", "modus"]


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("  store.py ", "  stores.py ", ["store.py", "stores.py"]),
        ("  fit/ ", "  fats/ ", ["fats", "fit"]),
        ("  measure/ ", "  theory/ ", ["measure"]),
        ("in, a language model out         needs torch", "in, a language model out", ["models"]),
    ],
)
def test_a_wrong_map_is_noticed(old, new, complaint):
    text = read("CONTRIBUTING.md")
    assert old in text
    assert set(complaint) <= set(untrue_house(text.replace(old, new)))


def test_rooms_out_of_order_are_noticed():
    text = read("CONTRIBUTING.md")
    (names,) = [line for line in text.splitlines() if line.startswith("  names.py")]
    moved = text.replace(names + "\n", "").replace("kvlib/\n", f"kvlib/\n{names}\n", 1)
    assert untrue_house(moved) == ["order"]


def test_the_pages_have_something_to_check():
    extend = read("book/extend.md")
    assert len(commands(extend)) > 50
    assert all(
        blocks(read(page), "sh") for page in ("README.md", "CONTRIBUTING.md", "book/extend.md")
    )


def test_slow_tests_are_there_and_in_order():
    named = read("tests/slow.txt").split()
    assert named == sorted(set(named))
    for line in named:
        file, _, name = line.partition("::")
        assert (f"\ndef {name}(" if name else "def test_") in read(file), line


def test_contributing_fits_a_screen_and_its_map():
    text = read("CONTRIBUTING.md")
    assert len(text.splitlines()) - len(section(text, "The house").splitlines()) <= 45


def test_the_changelog_keeps_its_form_and_knows_this_version():
    text = read("CHANGELOG.md")
    releases = re.findall(r"^## (.*)$", text, re.M)
    assert releases[0] == "[Unreleased]"
    for release in releases[1:]:
        assert re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", release)
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert set(re.findall(r"^### (.*)$", text, re.M)) <= kinds
    assert f"[{kvlib.__version__}]" in text


# --- how to cite --------------------------------------------------------------------------------


def test_the_citation_has_its_required_keys_and_is_of_this_version():
    citation = yaml.safe_load(read("CITATION.cff"))
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["cff-version"] == "1.2.0"
    assert citation["authors"] == [{"name": "The kvlib authors"}]
    project = read("pyproject.toml")
    assert f'license = "{citation["license"]}"' in project
    assert citation["version"] == kvlib.__version__
    assert 'version = { attr = "kvlib.__version__" }' in project
    (paper,) = citation["references"]
    bibliography = " ".join(read("book/references.bib").replace("{", "").replace("}", "").split())
    assert paper["title"].replace("–", "--") in bibliography
    assert (
        f"{paper['authors'][0]['family-names']}, {paper['authors'][0]['given-names']}"
        in bibliography
    )
    assert paper["identifiers"][0]["value"].removeprefix("arXiv:") in bibliography


# --- the recipes run ----------------------------------------------------------------------------


def copy_of(name: str):
    """A fresh copy of a test file, to which a recipe's tests can be added."""
    path = ROOT / "tests" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"copy_of_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look for it there
    spec.loader.exec_module(module)
    return module


def add(source: str, module) -> dict:
    """What a module would hold with `source` added; the module itself stays as it is."""
    names = dict(vars(module))
    exec(compile(source, "book/extend.md", "exec"), names)
    return names


def test_every_block_of_python_in_the_recipes_is_python():
    for source in blocks(read("book/extend.md"), "python"):
        ast.parse("f({" + source + "})" if re.match('"[^"]', source) else source.rstrip(",\n"))


@pytest.fixture(scope="module")
def policy_blocks():
    return blocks(section(read("book/extend.md"), "A policy"), "python")


@pytest.fixture
def strided(policy_blocks, monkeypatch):
    """The class of the policy recipe, as it would be in kvlib.cache.policies, offered there."""
    from kvlib.cache import policies

    monkeypatch.setattr(policies, "NAMED", dict(policies.NAMED))
    made = add(policy_blocks[0], policies)["Strided"]
    assert policies.NAMED["strided"] == made()
    return made


def test_the_policy_of_the_recipe_passes_the_test_of_the_recipe(policy_blocks, strided):
    (test,) = [source for source in policy_blocks if source.startswith("def test_")]
    module = copy_of("cache/test_policies")
    module.Strided = strided
    add(test, module)["test_strided_by_hand"]()
    broken = type("Broken", (strided,), {"kept": lambda self, *a: strided.kept(self, *a)[1:]})
    module.Strided = broken
    with pytest.raises(AssertionError):
        add(test, module)["test_strided_by_hand"]()


def test_the_policy_of_the_recipe_keeps_the_contract(strided, tiny):
    contract, policy = copy_of("cache/test_contract"), strided()
    assert strided().key in contract.NAMED  # so that all of its tests are run for it
    contract.test_a_policy_goes_by_its_key("strided", policy)
    contract.test_a_budget_below_the_least_is_refused(policy)
    contract.test_a_policy_says_whether_it_draws(policy)
    for each in (policy, strided(stride=3), strided(stride=1)):
        for extra, length in ((0, 60), (11, 60), (39, 60), (39, 30)):
            law = contract.test_online_survivors_are_a_cache.hypothesis.inner_test
            law(each, extra, length, 0)
            contract.test_what_is_kept_is_causal_newest_included_and_within_the_budget(each, extra)
    contract.test_one_pass_equals_honest_decoding(policy, tiny)
    for protocol in policy.protocols:
        contract.test_every_policy_runs_in_each_of_its_protocols("strided", protocol, tiny)


def test_the_study_of_the_policy_recipe_can_be_declared(strided, tmp_path):
    from kvlib import study

    file = tmp_path / "studies.toml"
    file.write_text(blocks(section(read("book/extend.md"), "A policy"), "toml")[0])
    (declared,) = study.studies(file)
    assert declared.settings["policies"] == [strided().key]
    assert declared.label == "strided"


@pytest.fixture(scope="module")
def claim_recipe():
    return section(read("book/extend.md"), "A claim with its page and its verdict")


@pytest.fixture
def first_guess(claim_recipe, monkeypatch):
    """The module of the claim recipe, as it would be in kvlib.claims."""
    module = types.ModuleType("kvlib.claims.first_guess")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    vars(module).update(add(blocks(claim_recipe, "python")[0], module))
    return module


@pytest.fixture
def first_guess_page(claim_recipe, tmp_path):
    """The page of the claim recipe, in a folder of its own."""
    (page,) = blocks(claim_recipe, "md")
    path = tmp_path / "notebooks" / "first_guess.md"
    path.parent.mkdir()
    path.write_text(page, encoding="utf-8")
    return path


def test_the_verdict_of_the_recipe_passes_the_tests_of_the_recipe(
    claim_recipe, first_guess, tmp_path
):
    tests = add(blocks(claim_recipe, "python")[2], types.ModuleType("test_first_guess"))
    rule = tests["test_first_guesses_stay_only_if_every_interval_says_so"]
    for case in rule.pytestmark[0].args[1]:
        rule(*case)
    with pytest.raises(AssertionError):
        rule(*case[:2], "reproduced")
    tests["test_first_guesses_by_hand"]()
    tests["test_without_a_table_the_verdict_is_to_come"](tmp_path)


def test_the_claim_of_the_recipe_is_judged_like_the_others(first_guess):
    from kvlib import claims

    (claim,) = first_guess.CLAIMS
    assert f"notebooks/{claim.page}.md" in MADE
    assert claim.id not in [other.id for other in claims.front.claims()]
    (verdict,) = first_guess.judge()
    assert verdict.word != "to come" and verdict.sentence and verdict.figures
    assert verdict.rule == claims.claim.rule_text(first_guess.rule)


def test_the_page_of_the_recipe_has_the_parts_of_a_page_and_says_its_facts(
    claim_recipe, first_guess, first_guess_page
):
    from kvlib import claims

    test_a_page_of_a_claim_keeps_its_shape(first_guess_page)
    test_a_page_numbers_its_pictures_and_speaks_of_each(first_guess_page)
    module = copy_of("test_prose")
    module.ROOT = first_guess_page.parents[1]
    tests = add(blocks(claim_recipe, "python")[1], module)
    guesses = first_guess.first_guesses(claims.policy_rows.stored_rows())
    tests["claims"] = types.SimpleNamespace(first_guess=first_guess)
    tests["test_the_facts_of_first_guess_are_what_its_prose_glues"](guesses)
    tests["test_first_guess_no_table_is_far_from_nine_in_ten"](guesses)


def test_the_text_of_the_recipe_can_be_made():
    from kvlib.corpora import pinned as place
    from kvlib.corpora import recipes

    made, entry, pinned, _ = blocks(section(read("book/extend.md"), "A text"), "python")
    added = add(made, recipes)
    text = added["numpy_code"]()
    (least, phrase) = eval("{" + pinned + "}")["numpy-code"]
    assert len(text) >= least and phrase in text
    known = vars(place) | {"recipes": types.SimpleNamespace(**added)}
    assert eval("{" + entry + "}", known)["numpy-code"].read() == text


NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.md"))
OF_NO_CLAIM = ("drafting", "lab", "reproduce", "story", "try_it", "whose_exponent")  # one predicts
CLAIM_PAGES = [page for page in NOTEBOOKS if page.stem not in OF_NO_CLAIM]
PARTS = (  # in this order; what follows on trust is folded
    *("## Claim", "## Intuition", "## Explore", "## What we found", "## How far to trust this"),
    *("### Measure", "### Check", "## Exercises"),
)


def prose_words(text: str) -> int:
    """Words that a reader of the built page sees: no front matter, no code cells."""
    text = re.sub(r"\A---.*?^---$", "", text, flags=re.S | re.M)
    text = re.sub(r"^```\{code-cell\}.*?^```$", "", text, flags=re.S | re.M)
    return len(text.split())


@pytest.mark.parametrize("page", CLAIM_PAGES, ids=lambda page: page.stem)
def test_a_page_of_a_claim_keeps_its_shape(page):
    text = page.read_text(encoding="utf-8")
    assert "{admonition} What you will learn" in text and "What this does not show" in text
    assert [part for part in PARTS if f"\n{part}" not in text] == []
    places = [text.index(f"\n{part}\n") for part in PARTS]
    assert places == sorted(places)
    assert text.index("The paper says") < text.index("Our verdict")


@pytest.mark.parametrize("page", NOTEBOOKS, ids=lambda page: page.stem)
def test_a_page_numbers_its_pictures_and_speaks_of_each(page):
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"^    name: (fig-\S+)$", text, flags=re.M)
    assert named and [name for name in named if f"{{numref}}`{name}`" not in text] == []


LITERAL = re.compile(
    r"^```\{literalinclude\} (\S+)\n:language: python\n:pyobject: (\S+)\n```$", re.M
)


def test_the_index_of_explorers_lists_each_with_its_caption():
    index = (ROOT / "book" / "explorers.md").read_text(encoding="utf-8")
    figure = re.compile(r'caption: "(.*?)"\n\s*name: (fig-[\w-]+)')
    pages = [*(ROOT / "notebooks").glob("*.md"), ROOT / "book" / "index.md"]
    found = [named for page in pages for named in figure.findall(page.read_text(encoding="utf-8"))]
    lines = [f"- {{numref}}`{name}`. {caption}" for caption, name in found]
    assert len(lines) >= 25 and [line for line in lines if line not in index.splitlines()] == []
    assert index.count("{numref}") == len(lines)


@pytest.mark.parametrize("page", NOTEBOOKS, ids=lambda page: page.stem)
def test_what_a_page_shows_of_the_code_is_there(page):
    text = page.read_text(encoding="utf-8")
    shown = LITERAL.findall(text)
    assert len(shown) == text.count("{literalinclude}")
    for path, name in shown:
        found = ast.parse((page.parent / path).read_text(encoding="utf-8"))
        for part in name.split("."):
            (found,) = [node for node in found.body if getattr(node, "name", "") == part]


def test_the_fifteen_minutes_fit_into_fifteen_minutes():
    text = (ROOT / "notebooks" / "story.md").read_text(encoding="utf-8")
    assert 1000 < prose_words(text) <= 2800
    assert prose_words("---\na\n---\none two\n```{code-cell} x\nthree\n```\nfour\n") == 3


@pytest.mark.parametrize("page", sorted((ROOT / "notebooks").glob("*.md")), ids=lambda p: p.stem)
def test_code_of_a_page_is_plain_python(page):
    """A magic that is not there is no error to a kernel: it says so, and the page goes on."""
    cells = re.findall(
        r"^```\{code-cell\}.*?\n(.*?)^```", page.read_text(encoding="utf-8"), re.S | re.M
    )
    for cell in cells:
        ast.parse(re.sub(r"\A(---\n.*?\n---\n|(:.*\n)+)", "", cell, flags=re.S))


def test_a_magic_is_not_plain_python():
    with pytest.raises(SyntaxError):
        ast.parse("%there_is_no_such_magic")


def test_the_built_book_carries_the_licences_of_its_libraries():
    licences = ROOT / "book" / "_static" / "licences"
    for file, words in {
        "mathjax.txt": ["Apache License", "Version 2.0"],
        "vega.txt": ["University of Washington", "vega-embed", "Mike Bostock", "topojson"],
    }.items():
        text = (licences / file).read_text(encoding="utf-8")
        assert [word for word in words if word not in text] == []


def pins(file: str) -> dict[str, str]:
    """Packages of a file of requirements and their versions."""
    found = re.findall(r"^([\w.-]+)==([\w.+]+)", read(file), re.M)
    return {name.lower().replace("_", "-"): version for name, version in found}


def test_every_package_has_one_version_and_those_that_read_files_of_strangers_a_hash():
    files = ("requirements.txt", "constraints.txt", "requirements.lock")
    asked, all_of_them, locked = map(pins, files)
    assert asked.items() - {("torch", asked["torch"])} <= all_of_them.items()
    assert locked.items() <= all_of_them.items()
    assert {"tokenizers", "huggingface-hub", "safetensors", "transformers"} <= locked.keys()
    hashed = r"\S+==\S+ --hash=sha256:[0-9a-f]{64}"
    assert all(re.fullmatch(hashed, line) for line in read("requirements.lock").splitlines()[1:])
