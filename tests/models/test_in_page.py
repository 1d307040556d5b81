"""The small GPT-2 for a page: its numbers on few levels, and the scripts that carry them."""

from __future__ import annotations

import base64
import json
import zlib

import numpy as np
import pytest
import torch

from kvlib.models import in_page, load_model


@pytest.fixture(scope="module")
def tensors():
    return in_page.quantised()


@pytest.fixture(scope="module")
def scripts():
    return in_page.scripts()


def test_half_a_float_is_what_torch_calls_bfloat16():
    values = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    expected = torch.from_numpy(values).bfloat16().float().numpy()
    assert (in_page.whole(in_page.half(values)) == expected).all()


def test_a_matrix_on_levels_is_half_a_step_off_at_most():
    matrix = np.random.default_rng(0).standard_normal((50, 300)).astype(np.float32)
    on_levels = in_page.on_levels(matrix, 0.2)
    assert on_levels.levels.dtype == np.int8 and on_levels.steps.shape == (50, 1)
    away = np.abs(on_levels.matrix() - matrix)
    assert (away <= 0.5001 * on_levels.steps).all() and away.max() > 0.01


def test_the_model_has_the_vectors_as_they_are_and_the_matrices_nearly(tensors):
    stored, page = load_model(in_page.NAME), in_page.load()
    before, after = (lm.model.state_dict() for lm in (stored, page))
    assert before.keys() == after.keys()
    for name, values in before.items():
        if values.ndim == 1:
            assert torch.equal(values, after[name]), name
        else:
            off = (values - after[name]).std() / values.std()
            assert 0.01 < off < 0.2, name
    assert torch.equal(after["lm_head.weight"], after[in_page.TOKENS])
    assert stored.weights_sha256 == page.weights_sha256  # it names what was loaded, not the levels


def test_the_scripts_hold_every_tensor(scripts, tensors):
    about = json.loads(scripts["about.js"].removeprefix("kvTry.about = ").rstrip(";\n"))
    raw = b""
    for k in range(about["pieces"]):
        number, text = scripts[f"piece-{k}.js"].removeprefix("kvTry.take(").split(", ")
        assert int(number) == k
        packed = base64.b64decode(text.removeprefix('"').removesuffix('");\n'))
        raw += zlib.decompress(packed, -zlib.MAX_WBITS)
    assert len(raw) == about["bytes"] and len(scripts) == about["pieces"] + 1
    at = 0
    for name, rows, *columns in about["tensors"]:
        if columns:
            size = rows * columns[0]
            levels = np.frombuffer(raw[at : at + size], dtype=np.int8).reshape(rows, -1)
            assert (levels == tensors[f"transformer.{name}"].levels).all()
            at += size
    halves = np.frombuffer(raw[at:], dtype=np.uint16)
    assert len(halves) == sum(rows for _, rows, *_ in about["tensors"])
