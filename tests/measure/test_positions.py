"""C5: the same suffix at other positions, on models that can and cannot tell."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kvlib import claims, measure
from kvlib.measure import positions
from kvlib.models import small_gpt2


def plan(**changes) -> dict:
    settings = {"variants": ["restarted", "kept", "moved", "shuffled"], "windows": [2, 8, 16]}
    return settings | {"seq_len": 48, "targets": 3} | changes


@pytest.fixture(scope="module")
def text(small) -> np.ndarray:
    return small_gpt2.held_out_documents(small.tokenizer, "scipy-docs")[0]


def test_positions_are_nothing_to_a_rotary_model_when_everything_moves(embedded, passage):
    table = positions.measure_positions(embedded, passage(embedded, 48), 0, plan())
    moved = table[table["variant"] == "moved"]["kl_to_restarted_nats"]
    assert moved.max() < 1e-6
    kept = table[table["variant"] == "kept"]["kl_to_restarted_nats"]
    if embedded.prefix_ids:  # the distance to the prefix has changed
        assert kept.max() > 1e-4
    else:
        assert kept.max() < 1e-6


def test_positions_are_something_to_a_model_that_learned_them(small, text):
    table = positions.measure_positions(small, text[:400], 0, plan(seq_len=400))
    kept = table[table["variant"] == "kept"]["kl_to_restarted_nats"]
    assert kept.min() > 1e-3


def test_restarted_is_the_truncation_of_the_other_pages(small, text):
    table = positions.measure_positions(small, text[:48], 0, plan())
    rows = table[table["variant"] == "restarted"]
    pairs = zip(rows["position"], rows["window"], strict=True)
    naive = measure.naive_sensitivity(small, text[:48], pairs)
    np.testing.assert_allclose(rows["kl_nats"], naive["kl_nats"], atol=2e-5, rtol=1e-4)


def test_shuffled_keeps_the_suffix_the_length_and_the_words(small, text):
    ids, t, w = torch.from_numpy(text), 40, 8
    rng = np.random.default_rng(3)
    found = positions.variant_hidden(small, ids, t, w, "shuffled", rng)
    order = np.random.default_rng(3).permutation(t - w + 1)
    tokens = np.concatenate([text[order], text[t - w + 1 : t + 1]])
    assert sorted(tokens) == sorted(text[: t + 1])
    with torch.inference_mode():
        plain = small.model.base_model(torch.from_numpy(tokens)[None]).last_hidden_state[0, -1]
    torch.testing.assert_close(found, plain, atol=1e-4, rtol=1e-4)


def test_an_unknown_variant_is_refused(small, text):
    with pytest.raises(
        ValueError, match="variant: expected one of restarted, kept, moved, shuffled"
    ):
        positions.variant_hidden(
            small, torch.from_numpy(text), 9, 4, "sideways", np.random.default_rng(0)
        )


def test_a_stored_row_is_what_the_model_says(small):
    document = small_gpt2.held_out_documents(small.tokenizer, "world-english-bible")[2]
    table = claims.positions.stored_positions()[claims.positions.SMALL].query(
        "doc == 2 and window == 16"
    )
    first = table["position"].min()
    row = table[(table["position"] == first) & (table["variant"] == "restarted")]
    naive = measure.naive_sensitivity(small, document, [(int(first), 16)])
    assert row["kl_nats"].item() == pytest.approx(naive["kl_nats"].item(), rel=1e-3, abs=1e-4)
