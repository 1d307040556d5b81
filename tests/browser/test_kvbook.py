"""The book's Sphinx extension: what makes notebooks run again, and how pages are hardened."""

from __future__ import annotations

import importlib.util

import pytest
from book_checks import ROOT

PAGE = """<head><meta charset="utf-8"></head>
<script>let a = 1</script><script src="b.js"></script>
<script type="application/json">{"c": 3}</script><button onclick="window.print()">"""


@pytest.fixture(scope="module")
def kvbook():
    """The extension, loaded from its file."""
    spec = importlib.util.spec_from_file_location("kvbook", ROOT / "book" / "_ext" / "kvbook.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("file", ["kvlib/fit.py", "kvlib/data/a.parquet", "requirements.txt"])
def test_a_change_that_outputs_depend_on_changes_the_fingerprint(kvbook, tmp_path, file):
    for name in ("kvlib/fit.py", "kvlib/data/a.parquet", "requirements.txt", "README.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("before")
    before = kvbook.fingerprint(tmp_path)
    (tmp_path / "README.md").write_text("another text")
    assert kvbook.fingerprint(tmp_path) == before
    (tmp_path / file).write_text("behind")
    assert kvbook.fingerprint(tmp_path) != before


def test_hardening_moves_scripts_and_clicks_out_and_sets_the_policy_once(kvbook):
    scripts: dict[str, str] = {}
    hard = kvbook.harden(PAGE, "page.html", "../", scripts)
    (file,) = scripts
    assert scripts[file] == "let a = 1" and f'<script src="../_static/inline/{file}">' in hard
    assert hard.count("Content-Security-Policy") == 1 and 'data-click="window.print()"' in hard
    assert '<script src="b.js">' in hard and '{"c": 3}' in hard and "onclick" not in hard
    assert kvbook.harden(hard, "page.html", "../", {}) == hard


def test_a_page_that_cannot_be_hardened_raises_with_its_name(kvbook):
    with pytest.raises(ValueError, match="page.html: expected <meta charset"):
        kvbook.harden("<p>", "page.html", "", {})
    with pytest.raises(ValueError, match="page.html: expected onclick .* got 'evil"):
        kvbook.harden('<button onclick="evil()">', "page.html", "", {})
