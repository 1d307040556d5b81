"""A device beside the CPU's float32: a document of each kind, each protocol, a cache, a study.

Marked `gpu`: they need a CUDA card, or KVLIB_TEST_DEVICE=cpu, where they say that the test itself
is right. `tests/gpu/run.sh` runs them on a bare machine.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from kvlib import __main__ as command_line
from kvlib import store, study
from kvlib.cache import BoundedCache
from kvlib.measure import floor, laws, truncation
from kvlib.models import load_model, memory
from kvlib.study import verify

ROOT = Path(__file__).parents[2]
DEVICE = os.environ.get("KVLIB_TEST_DEVICE", "cuda")
ON_CARD = DEVICE.startswith("cuda")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        ON_CARD and not torch.cuda.is_available(),
        reason="no CUDA here: tests/gpu/run.sh on a machine with a card; "
        "KVLIB_TEST_DEVICE=cpu python -m pytest tests/gpu",
    ),
]
HALF_KL = {"bfloat16": 0.05, "float16": 0.005}  # at most, of the small GPT-2 beside float32
SHAPE = {"seq_len": 96, "stride": 96, "docs": 2}
SETTINGS = {
    "truncation_sensitivity": SHAPE | {"max_window": 16, "contexts": [48, 80], "twice": 4},
    "diagnostics": SHAPE | {"windows": [4, 8], "targets": 2},
    "positions": SHAPE
    | {"variants": ["restarted", "kept", "moved", "shuffled"], "windows": [16], "targets": 3},
    "kv_rates": {"docs": 4, "seq_len": 100, "stride": 100},
    "passage": {"policies": ["sinks", "random"], "budgets": [16]}
    | {"context": 48, "shown": 4, "stride": 96},
}
STATIC = ["sliding", "sinks", "random", "random-sinks"]
PROTOCOLS = {
    "reencode": STATIC,
    "online": [*STATIC, "tova", "h2o"],
    "prefill": [*STATIC, "tova", "h2o", "snapkv", "key-norm", "expected-attention"],
}


@pytest.fixture(scope="module")
def cpu():
    """The small GPT-2, the twin."""
    return load_model("small-gpt2", "cpu")


@pytest.fixture(scope="module")
def there():
    """The small GPT-2 on the device."""
    return load_model("small-gpt2", DEVICE)


@pytest.fixture(scope="module")
def text_file(tmp_path_factory) -> Path:
    """English, from the repository, for no package with a text needs to be there."""
    path = tmp_path_factory.mktemp("text") / "log.txt"
    path.write_text((ROOT / "LOG.md").read_text(encoding="utf-8")[:9000], encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def document(cpu, text_file) -> np.ndarray:
    text = text_file.read_text(encoding="utf-8")
    return np.array(cpu.tokenizer(text, add_special_tokens=False)["input_ids"][:512])


def same(ours: pd.DataFrame, theirs: pd.DataFrame) -> None:
    """The same rows, numbers as float32 rounds them."""
    assert ours.columns.tolist() == theirs.columns.tolist() and len(ours) == len(theirs)
    for column in theirs:
        if theirs[column].dtype.kind == "f":
            np.testing.assert_allclose(ours[column], theirs[column], rtol=1e-3, atol=5e-5)
        else:
            assert (ours[column] == theirs[column]).all(), column


def tables(kind: str, settings: dict, folder: Path, tiny_folder, text_file) -> list[pd.DataFrame]:
    """A table made on the device, and the same on the CPU."""
    found = []
    for device in (DEVICE, "cpu"):
        rest = settings | {"model": str(tiny_folder), "corpus": str(text_file)}
        docs = rest.pop("docs", None)
        (one,) = study.declare(kind, "t", rest, docs, folder / device.replace(":", "-") / "t")
        study.run(one, "by hand", device)
        found.append(store.load_table(one.path))
        shutil.rmtree(one.folder)
    return found


# --- load -------------------------------------------------------------------------------------


def test_the_device_is_used_and_its_laws_are_those_of_the_cpu(cpu, there, document):
    assert {weight.device.type for weight in there.model.parameters()} == {DEVICE.split(":")[0]}
    assert there.model_sha256 == cpu.model_sha256
    found = floor.between(cpu, there, document)
    print(f"float32, cpu and {DEVICE}: KL {found.kl_max:.2g}, TV {found.tv_max:.2g} at most")
    assert found.kl_max < 1e-7 and found.tv_max < 1e-4


@pytest.mark.parametrize("dtype", HALF_KL)
def test_half_precision_is_as_far_from_float32_as_its_floor(cpu, document, dtype):
    half = load_model("small-gpt2", DEVICE, dtype)
    assert str(half.dtype) == f"torch.{dtype}"
    found = floor.between(cpu, half, document)
    assert 0 < found.kl_median <= found.kl_max < HALF_KL[dtype]


def test_the_floor_of_each_format_is_printed(there, document):
    lines = list(verify.floors(there, document))
    print("\n".join(lines))
    assert len(lines) == 4 and all(DEVICE.split(":")[0] in line for line in lines)


# --- rows -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SETTINGS)
def test_a_document_of_each_kind_equals_the_cpus(kind, tmp_path, tiny_folder, text_file):
    same(*tables(kind, SETTINGS[kind], tmp_path, tiny_folder, text_file))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_policies_in_each_protocol_equal_the_cpus(protocol, tmp_path, tiny_folder, text_file):
    settings = SHAPE | {"protocol": protocol, "policies": PROTOCOLS[protocol], "budgets": [40]}
    same(*tables("policy_distortion", settings, tmp_path, tiny_folder, text_file))


def test_the_fast_road_equals_two_passes_a_row_on_the_device(there, document):
    table = truncation.measure_document(there, document[:256], 0, 64, 100)
    some = table.sample(20, random_state=0)
    pairs = zip(some["position"], some["window"], strict=True)
    naive = truncation.naive_sensitivity(there, document[:256], pairs)
    np.testing.assert_allclose(some["kl_nats"], naive["kl_nats"], rtol=1e-4, atol=2e-5)
    np.testing.assert_allclose(some["tv"], naive["tv"], rtol=1e-4, atol=2e-5)


class Sent(TorchDispatchMode):
    """Tensors of laws (…, vocabulary) that leave a card for the CPU."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.vocabulary, self.sent = vocabulary, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if "copy" in str(func) and isinstance(out, torch.Tensor) and out.device.type == "cpu":
            source = [a for a in args if isinstance(a, torch.Tensor)][-1]
            if source.device.type != "cpu" and self.vocabulary in source.shape[-1:]:
                self.sent.append(tuple(source.shape))
        return out


def test_no_row_of_a_whole_vocabulary_leaves_the_card(there, document):
    with Sent(there.vocab_size) as watch:
        truncation.measure_document(there, document[:256], 0, 64, 100)
        truncation.naive_sensitivity(there, document[:256], [(200, 20)])
        floor.again(there, document[:256])
        assert watch.sent == []
        laws.next_token_law(there, document[:20])
    assert len(watch.sent) == ON_CARD  # this one does, and is seen


# --- caches, a study, memory ------------------------------------------------------------------


def test_a_bounded_cache_writes_what_it_writes_on_the_cpu(cpu, there, document):
    written = []
    for lm in (cpu, there):
        ids = torch.as_tensor(document[None, :100], device=lm.device)
        cache = BoundedCache(48, n_sink=4, model=lm.model)
        how = dict(max_new_tokens=60, do_sample=False, past_key_values=cache, pad_token_id=0)
        written.append(lm.model.generate(ids, attention_mask=torch.ones_like(ids), **how).cpu())
        assert cache.layers[0].keys.device.type == lm.device.type
        assert cache.layers[0].keys.shape[2] <= 48
    assert written[0].tolist() == written[1].tolist()


def test_a_study_is_made_and_verified_on_the_device(
    tmp_path, tiny_folder, text_file, monkeypatch, capsys
):
    lines = [f"{key} = {value!r}" for key, value in SHAPE.items()]
    lines += ["table = 'a'", "kind = 'truncation_sensitivity'", "max_window = 16"]
    lines += [f"model = '{tiny_folder}'", f"corpus = '{text_file}'"]
    file = tmp_path / "studies.toml"
    file.write_text("\n".join(["[[study]]", *lines]), encoding="utf-8")

    def kvlib(*args: object) -> int:
        monkeypatch.setattr(sys, "argv", ["kvlib", *map(str, args), "--device", DEVICE])
        with pytest.raises(SystemExit) as exit_:
            command_line.main()
        return int(exit_.value.code or 0)

    assert kvlib("study", "a", "--file", file) == 0
    assert store.read_manifest(tmp_path / "a")["run"]["device"] == DEVICE.split(":")[0]
    assert kvlib("verify", tmp_path / "a", "--corpus", text_file, "--rows", 40) == 0
    out = capsys.readouterr().out
    print(out)
    assert "a: ok: 40 rows" in out and f"float32 on {DEVICE.split(':')[0]}" in out


@pytest.mark.skipif(not ON_CARD, reason="only a card runs out of memory so that it can be said")
def test_a_card_that_is_full_halves_the_batch(there):
    free = torch.cuda.mem_get_info(there.device)[0]
    part = free // 6 // 1024**2 * 1024**2  # bytes an item takes: eight have no room, four do

    def run(items) -> int:
        torch.empty(len(items) * part, dtype=torch.uint8, device=there.device)
        return len(items)

    assert memory.in_batches(there, run, list(range(16)), 8) == [4, 4, 4, 4]
    assert memory.tokens_at_once(there, 1024) >= 1024
