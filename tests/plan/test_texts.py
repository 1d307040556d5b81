"""Files and folders become documents: of equal length, each once, in an order of their own."""

from __future__ import annotations

import numpy as np
import pytest

from kvlib.plan import texts


class Letters:
    """A tokenizer of one token a character."""

    def __call__(self, text, **options):
        return {"input_ids": [ord(c) for c in text]}


@pytest.fixture
def folder(tmp_path):
    """Forty pages of 300 characters, of which no two stretches are the same."""
    rng = np.random.default_rng(0)
    for k in range(40):
        page = "".join(map(chr, rng.integers(97, 123, 300)))
        (tmp_path / f"page-{k:02d}.txt").write_text(page)
    (tmp_path / "notes.bin").write_bytes(b"\\xff\\x00")
    return tmp_path


def test_a_folder_is_its_texts_and_a_text_counts_once(folder):
    read = texts.read([str(folder), str(folder / "page-03.txt")], Letters())
    assert [one.name for one in read] == [f"page-{k:02d}.txt" for k in range(40)]
    assert texts.sha256_of(read) != texts.sha256_of(read[1:])


def test_endings_may_be_large_and_what_is_hidden_is_not_read(folder):
    for name in ("LAST.TXT", ".draft.txt", ".venv/LICENSE.txt"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(f"{name} says something of its own")
    read = [one.name for one in texts.read([str(folder)], Letters())]
    assert sorted(read) == ["LAST.TXT", *(f"page-{k:02d}.txt" for k in range(40))]


def test_documents_do_not_overlap_and_the_first_stay_the_first(folder):
    read = texts.read([str(folder)], Letters())
    cut = texts.stretches(read, 100, 1000)
    assert cut.ids.shape == (120, 100) and len({ids.tobytes() for ids in cut.ids}) == 120
    whole = "".join(chr(c) for one in read for c in one.ids)
    assert all("".join(map(chr, ids)) in whole for ids in cut.ids)
    assert np.bincount(cut.files).tolist() == [3] * 40
    fewer = texts.stretches(read, 100, 50)
    np.testing.assert_array_equal(fewer.ids, cut.ids[:50])
    other = texts.stretches(read, 100, 1000, seed=1)
    assert (other.ids != cut.ids).any()
    assert not (np.diff(cut.files) >= 0).all()  # in no order of files


def test_the_length_is_the_longest_that_makes_enough_documents(folder):
    read = texts.read([str(folder)], Letters())
    assert texts.length_for(read, 40, 4096) == 256
    assert texts.length_for(read, 41, 4096) == 128
    assert texts.length_for(read, 10_000, 4096) == 128
    assert texts.length_for(read, 40, 200) == 128


def test_what_stands_twice_in_texts_is_one_document():
    """An alphabet of 128 letters again and again: each stretch is the same."""
    read = [texts.Text(name, name, np.tile(np.arange(128), 300)) for name in ("a", "b")]
    with pytest.raises(ValueError, match="expected at least 48 different documents of 128 tokens"):
        texts.stretches(read, 128, 100)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([], "text: expected files or a folder with texts, got none"),
        ([""], "text: expected a name, a file or a folder, got ''"),
        ([" "], "text: expected a name, a file or a folder, got ' '"),
        (["nowhere.txt"], "expected one of .* or a text file, got 'nowhere.txt'"),
    ],
)
def test_texts_that_are_none_are_refused(names, said):
    with pytest.raises(ValueError, match=said):
        texts.read(names, Letters())


def test_a_folder_without_texts_and_a_file_that_is_no_text_are_refused(tmp_path):
    with pytest.raises(ValueError, match="expected files ending in .txt, .md, .rst, got none"):
        texts.read([str(tmp_path)], Letters())
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="expected UTF-8 text, got byte 0"):
        texts.read([str(tmp_path)], Letters())
