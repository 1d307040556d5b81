"""Batches fit the device: halved where memory runs out; models fit it, or go over several cards."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from kvlib.cache import protocols
from kvlib.measure import distortion, laws, truncation
from kvlib.models import cards, load, masks, memory

QWEN = {  # of Qwen2-7B
    **{"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28},
    **{"num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152_064},
    **{"max_position_embeddings": 32_768, "tie_word_embeddings": False},
}


@pytest.fixture(scope="module")
def large():
    """A model in Qwen2-7B's shape, in bfloat16: shapes alone, no memory."""
    with torch.device("meta"):
        config = AutoConfig.for_model("qwen2", **QWEN)
        return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)


def full(room: int, seen: list[int]):
    """A function of a batch that has room for so many."""

    def run(part):
        seen.append(len(part))
        if len(part) > room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [2 * x for x in part]

    return run


@pytest.mark.parametrize("room", [1, 2, 3, 5, 100])
def test_batches_are_halved_until_they_fit_and_nothing_is_lost(tiny, room):
    seen: list[int] = []
    found = memory.in_batches(tiny, full(room, seen), list(range(23)), 8)
    assert sum(found, []) == [2 * k for k in range(23)]
    assert seen[0] == 8 and max(seen[-3:]) <= max(room, 1)
    first = next(k for k, n in enumerate(seen) if n <= room)
    assert all(b == a // 2 for a, b in zip(seen[:first], seen[1 : first + 1], strict=True))
    assert all(n <= room for n in seen[first:])  # it does not try again what did not fit


def test_no_room_for_a_single_text_is_one_line(tiny):
    with pytest.raises(OSError, match="expected room on cpu for a single text, got out") as error:
        memory.in_batches(tiny, full(0, []), [1, 2, 3], 2)
    assert "\n" not in str(error.value)


def test_a_document_is_measured_whole_where_memory_runs_out(tiny, monkeypatch):
    document = np.arange(96) * 7 % 250
    expected = truncation.measure_document(tiny, document, 0, 16, 60)
    whole, sizes = truncation.hidden_states, []

    def short(lm, ids):
        sizes.append(len(ids))
        if len(ids) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(lm, ids)

    monkeypatch.setattr(truncation, "hidden_states", short)
    found = truncation.measure_document(tiny, document, 0, 16, 60)
    assert max(sizes) > 2
    keys = ["doc", "position", "context", "window"]
    pd.testing.assert_frame_equal(found[keys], expected[keys])
    np.testing.assert_allclose(found["kl_nats"], expected["kl_nats"], atol=1e-5)


def test_encoding_again_goes_on_where_memory_runs_out(tiny, monkeypatch):
    document = np.arange(64) * 7 % 250
    how = (document, 0, distortion.named_policies(["sinks", "random"]), [12], "reencode")
    expected = distortion.measure_policies(tiny, *how)

    def short(module, args) -> None:
        if len(args[0]) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(protocols, "BATCH_TOKENS", 40)
    handle = tiny.model.base_model.register_forward_pre_hook(short)
    try:
        found = distortion.measure_policies(tiny, *how)
    finally:
        handle.remove()
    np.testing.assert_allclose(found["kl_nats"], expected["kl_nats"], atol=1e-5)


@pytest.mark.parametrize("rows_at_once", [1, 7, 512])
def test_the_road_of_a_card_is_that_of_the_cpu(tiny, monkeypatch, rows_at_once):
    monkeypatch.setattr(laws, "CARD_ROWS", rows_at_once)
    ids = torch.arange(40) * 7 % 250
    position = np.sort(np.random.default_rng(0).integers(5, 40, 60))
    position[-1] = 39  # after the last token there is no loss
    with torch.inference_mode():
        states = laws.hidden_states(tiny, ids[None])[0]
        hidden = laws.hidden_states(tiny, ids.flip(0)[None])[0].repeat(2, 1)[:60]
        slow = laws.divergences_at_once(tiny, states, hidden, position, ids)
        fast = laws.divergences_of_rows(tiny, states, hidden, position, ids)
    assert np.isnan(slow.nll[-1]) and np.isnan(slow.nll_excess[-1])
    for ours, theirs in zip(slow, fast, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=2e-5)


def test_a_batch_of_a_card_is_a_power_of_two_that_leaves_room(large):
    config = large.config
    sizes = [memory.tokens_for(config, 2, int(gb * 1e9)) for gb in (1, 8, 20, 60, 1000)]
    assert sizes == sorted(sizes) and all(n & (n - 1) == 0 for n in sizes)
    assert sizes[-1] == memory.MOST_TOKENS and memory.tokens_for(config, 2, 0) == 1
    for gb, n in zip((8, 20, 60), sizes[1:4], strict=True):
        assert n * 2 * 3 * config.intermediate_size < gb * 1e9 / 3


# --- several cards ----------------------------------------------------------------------------


def test_layers_are_spread_in_order_and_the_rest_stays_on_the_first_card(large):
    places = cards.spread(large, [int(8e9)] * 3)
    layers = [places[f"model.layers.{k}"] for k in range(28)]
    assert layers == sorted(layers) and set(layers) == {0, 1, 2}
    assert {places[n] for n in ("model.embed_tokens", "model.norm", "lm_head")} == {0}
    for card in range(3):
        held = [n for n, where in places.items() if where == card]
        size = sum(w.nbytes for n in held for w in large.get_submodule(n).parameters())
        assert size <= cards.ROOM * 8e9
    named = [n for n, _ in large.named_parameters()]
    assert all(any(n.startswith(f"{p}.") for p in places) for n in named)


def test_too_little_room_on_all_cards_is_one_line(large):
    with pytest.raises(OSError, match=r"room for 15.2 GB .*, got 16.0 GB free on 2"):
        cards.spread(large, [int(8e9)] * 2)


def test_tied_weights_are_counted_once(random_model):
    model = random_model("llama", tie_word_embeddings=True).model
    size = sum(w.nbytes for w in model.parameters())
    assert set(cards.spread(model, [int(size / cards.ROOM) + 1]).values()) == {0}


def test_a_model_in_parts_gives_the_same_laws(random_model, monkeypatch):
    import accelerate

    lm = random_model("llama")
    ids = torch.arange(1, 20)[None]
    with torch.inference_mode():
        expected = laws.hidden_states(lm, ids)
    whole = accelerate.dispatch_model
    monkeypatch.setattr(
        "accelerate.dispatch_model", lambda model, **how: whole(model, **how, force_hooks=True)
    )
    places = dict.fromkeys(cards.spread(lm.model, [10**9]), "cpu")
    cards.placed(lm.model, places)
    assert any(hasattr(part, "_hf_hook") for part in lm.model.modules())
    with torch.inference_mode():
        torch.testing.assert_close(laws.hidden_states(lm, ids), expected)
    lm.model.hf_device_map = {"model.layers.0": 0, "model.layers.1": 1}
    with pytest.raises(ValueError, match="expected a model on one device for cache policies"):
        masks.check_masks(lm.model)


def test_cards_that_are_not_there_are_one_line(tiny_folder, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="expected CUDA cards to spread a model over, got none"):
        load.load_model(str(tiny_folder), "cards")


def test_a_card_without_room_is_refused_before_weights_are_sent(tiny_folder, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(load, "_accelerators", lambda: {"cuda": 1})
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_: (1000, 2000))
    with pytest.raises(OSError, match=r"GB of free memory on cuda for weights in float32.*bfloat1"):
        load.load_model(str(tiny_folder), "cuda")


def test_shapes_of_a_large_model_are_right_without_its_memory(large, tiny):
    import dataclasses

    lm = dataclasses.replace(tiny, model=large, device=torch.device("meta"), prefix_ids=())
    ids = torch.zeros(2, 96, dtype=torch.int64, device="meta")
    with torch.inference_mode():  # behind a cache: without one transformers asks for numbers
        states = laws.states_in_pieces(lm, ids, 40)
        assert states.shape == (2, 96, 3584) and states.dtype == torch.bfloat16
        assert laws.exact_laws(lm, states[0]).shape == (96, 152_064) and lm.vocab_size == 152_064
