"""Pages are executed once, and again only when what they rest on changed."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import jupytext
import pytest
from jupyter_cache import get_cache
from kvbook import cache, outputs
from nbclient.exceptions import CellExecutionError

PAGE = """---
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---

# A page

```{code-cell} ipython3
from kvlib import near

near.answer()
```
"""
FILES = {
    "_toc.yml": "root: page\nparts: []\n",
    "page.md": PAGE,
    "requirements.txt": "numpy==2\n",
    "kvlib/__init__.py": "",
    "kvlib/near.py": (
        "def answer():\n    import importlib\n\n"
        "    return importlib.import_module('kvlib.room.lazy').NUMBER\n"
    ),
    "kvlib/room/__init__.py": "",
    "kvlib/room/lazy.py": "NUMBER = 42\n",
    "kvlib/far.py": "from kvlib import near\n",
    "kvlib/data/table.json": "{}",
}


@pytest.fixture
def house(tmp_path, monkeypatch):
    """A small repository with one page, which is executed by its own kvlib."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(outputs, "ROOT", tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.delenv("KVLIB_EXECUTED", raising=False)
    return tmp_path


def said(notebook):
    """What the one cell of the page shows."""
    return outputs.code_cells(notebook)[0].outputs[0].data["text/plain"]


def test_a_page_is_stale_when_what_it_rests_on_changed_and_only_then(house):
    (page,) = outputs.pages()
    told = []
    assert outputs.fresh(page) is None
    assert said(outputs.executed(page, told.append)) == "42" and len(told) == 1

    def is_fresh_after(name, text):
        before = (house / name).read_text() if (house / name).exists() else None
        (house / name).write_text(text)
        found = outputs.fresh(page) is not None
        if before is None:
            (house / name).unlink()
        else:
            (house / name).write_text(before)
        assert outputs.fresh(page) is not None
        return found

    assert is_fresh_after("kvlib/far.py", "import nothing")  # it imports, and is not imported
    assert is_fresh_after("kvlib/new.py", "")
    assert is_fresh_after("README.md", "other words")
    assert is_fresh_after("page.md", PAGE.replace("# A page", "# Another title"))
    assert not is_fresh_after("page.md", PAGE.replace("answer()", "answer() + 1"))
    assert not is_fresh_after("kvlib/near.py", FILES["kvlib/near.py"] + "\n")
    assert not is_fresh_after("kvlib/room/__init__.py", "import os")
    assert not is_fresh_after("kvlib/room/lazy.py", "NUMBER = 43")  # imported inside a function
    assert not is_fresh_after("kvlib/data/table.json", "{ }")
    assert not is_fresh_after("kvlib/data/new.json", "{}")
    assert not is_fresh_after("requirements.txt", "numpy==3\n")

    (house / "kvlib/room/lazy.py").write_text("NUMBER = 43")
    assert said(outputs.executed(page, told.append)) == "43" and len(told) == 2
    outputs.kept(page).write_text("{")
    assert said(outputs.executed(page, told.append)) == "43" and len(told) == 3
    (house / "kvlib/room/lazy.py").unlink()
    assert outputs.fresh(page) is None


def test_a_page_shows_its_present_words_around_its_outputs(house):
    (page,) = outputs.pages()
    outputs.executed(page)
    page.write_text(PAGE.replace("# A page", "# Another title"))
    notebook = outputs.executed(page, pytest.fail)
    assert notebook.cells[0].source == "# Another title" and said(notebook) == "42"
    assert [cell.execution_count for cell in outputs.code_cells(notebook)] == [1]


def test_two_who_want_a_page_at_once_execute_it_once(house):
    (page,) = outputs.pages()
    told = []
    both = [threading.Thread(target=outputs.executed, args=(page, told.append)) for _ in "ab"]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert len(told) == 1


def test_a_page_that_fails_keeps_nothing_and_does_not_hold_up_others(house):
    bad = house / "bad.md"
    bad.write_text(PAGE.replace("near.answer()", "near.nothing()"))
    (page,) = outputs.pages()
    with pytest.raises(CellExecutionError, match="nothing"):
        outputs.bring_up_to_date([bad, page], str)
    assert not outputs.kept(bad).exists() and outputs.fresh(page) is not None


def test_another_kvlib_is_refused(house, tmp_path_factory, monkeypatch):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "kvlib" / "room").mkdir(parents=True)
    for name in ("__init__", "near", "room/lazy"):
        (elsewhere / f"kvlib/{name}.py").write_text(FILES[f"kvlib/{name}.py"])
    monkeypatch.setenv("PYTHONPATH", str(elsewhere))
    with pytest.raises(RuntimeError, match="expected kvlib to be that of .*, got .*elsewhere"):
        outputs.executed(outputs.pages()[0])


def test_the_book_reads_again_just_the_pages_whose_outputs_changed(house):
    (page,) = outputs.pages()
    config = SimpleNamespace()
    app = SimpleNamespace(srcdir=str(house), outdir=str(house / "_build/html"), config=config)
    cache.choose_cache(app, config)
    env = SimpleNamespace(found_docs={"page", "other"})
    assert cache.bring_outputs(app, env, set(), set(), set()) == ["page"]
    assert cache.bring_outputs(app, env, set(), set(), set()) == []
    (house / "kvlib/far.py").write_text("import nothing")
    assert cache.bring_outputs(app, env, set(), set(), set()) == []
    (house / "kvlib/room/lazy.py").write_text("NUMBER = 43")
    assert cache.bring_outputs(app, env, set(), set(), set()) == ["page"]
    kept = get_cache(config.nb_execution_cache_path)
    _, notebook = kept.merge_match_into_notebook(jupytext.read(page))
    assert said(notebook) == "43"
    assert cache.bring_outputs(app, SimpleNamespace(found_docs=set()), set(), set(), set()) == []
