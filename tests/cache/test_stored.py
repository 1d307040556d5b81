"""A cache that goes on with what it has read: edited texts are noticed, stored caches go on."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from kvlib.cache import history
from kvlib.cache.bounded import BoundedCache
from kvlib.cache.policies import RandomRetention


def random_ids(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(1, 250, shape))


def generate(model, ids, new: int = 4, **settings) -> torch.Tensor:
    """Without the padding's id in what is written: transformers would take it for padding."""
    settings |= {"suppress_tokens": [0]}
    fixed = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False, "pad_token_id": 0}
    return model.generate(ids, **(fixed | settings))


# --- history ------------------------------------------------------------------------------------


def test_the_hash_is_of_ids_and_places_and_of_nothing_else():
    ids, real = random_ids(1, 40), torch.rand(1, 40) < 0.7
    place = history.places(real)
    whole = history.mixed(ids, place).sum(1)
    pieces = [part.sum(1) for part in history.mixed(ids, place).split(7, dim=1)]
    assert torch.equal(whole, sum(pieces))
    short = ids[real][None]
    assert torch.equal(whole, history.mixed(short, history.places(short > 0)).sum(1))
    others = {int(whole)}
    for k in range(short.shape[1] - 1):
        edited, swapped = short.clone(), short.clone()
        edited[0, k] += 1
        swapped[0, [k, k + 1]] = short[0, [k + 1, k]]
        for other in (edited, swapped[:, : k + 2], short[:, : k + 1]):
            others.add(int(history.mixed(other, history.places(other > 0)).sum()))
    assert len(others) > 3 * short.shape[1] - 6  # two neighbours may be equal


@pytest.fixture()
def conversation(tiny) -> tuple[BoundedCache, torch.Tensor]:
    """A cache after a first turn of a batch, and what was said with a question behind it."""
    cache = BoundedCache(9, 2, model=tiny.model)
    said = generate(tiny.model, random_ids(2, 20), past_key_values=cache)
    return cache, torch.cat([said, random_ids(2, 7, seed=1)], dim=1)


@pytest.mark.parametrize("chunks", [{}, {"prefill_chunk_size": 3}], ids=str)
@pytest.mark.parametrize("place", [(0, 0), (1, 0), (1, 12), (0, 22)], ids=str)
def test_an_edited_turn_is_noticed(tiny, conversation, place, chunks):
    """The last token read is the 22nd of the answer; later ones are new."""
    cache, text = conversation
    text[place] = text[place] % 249 + 1
    with pytest.raises(ValueError, match="expected to begin with the .. tokens that the cache has"):
        generate(tiny.model, text, past_key_values=cache, **chunks)


@pytest.mark.parametrize("chunks", [{}, {"prefill_chunk_size": 3}], ids=str)
def test_what_was_read_may_be_followed_by_anything(tiny, conversation, chunks):
    cache, text = conversation
    for place in (24, 30):
        text[:, place] = 7
    before = copy.deepcopy(cache)
    out = generate(tiny.model, text, past_key_values=cache, **chunks)
    mask = torch.ones_like(text)  # new tokens alone, behind a mask of all
    new = generate(tiny.model, text[:, 23:], attention_mask=mask, past_key_values=before, **chunks)
    assert torch.equal(out[:, 23:], new)


def test_other_padding_is_another_text(tiny):
    ids, mask = random_ids(2, 20), torch.ones(2, 20)
    mask[1, :7] = 0
    cache = BoundedCache(9, 2, model=tiny.model)
    said = generate(tiny.model, ids, attention_mask=mask, past_key_values=cache)
    wrong = torch.ones_like(said)
    with pytest.raises(ValueError, match="with the same padding, got others"):
        generate(tiny.model, said, attention_mask=wrong, past_key_values=copy.deepcopy(cache))
    right = torch.cat([mask, torch.ones(2, 4)], dim=1)
    assert generate(tiny.model, said, attention_mask=right, past_key_values=cache).shape[1] == 28


def test_a_text_that_is_too_short_is_noticed(tiny, conversation):
    """transformers would cut it from the other end."""
    cache, text = conversation
    for tokens in (5, 22, 23):
        with pytest.raises(ValueError, match=f"more than the 23 tokens .* has read, got {tokens}"):
            generate(tiny.model, text[:, :tokens], past_key_values=cache)


def test_beams_and_repeated_rows_keep_their_history(tiny):
    cache = BoundedCache(9, 2, model=tiny.model)
    settings = {"num_beams": 2, "num_return_sequences": 2}
    said = generate(tiny.model, random_ids(1, 20), past_key_values=cache, **settings)
    cache.batch_select_indices(torch.tensor([1, 0, 1]))
    assert len(cache.history) == 3
    cache.batch_repeat_interleave(2)
    assert torch.equal(cache.history[0], cache.history[5])
    assert len(said) == 2


def test_embeddings_have_no_history(tiny):
    cache, body = BoundedCache(9, 2, model=tiny.model), tiny.model.base_model
    body(inputs_embeds=body.embed_tokens(random_ids(1, 20)), past_key_values=cache)
    assert cache.history is None
    generate(tiny.model, random_ids(1, 25, seed=2), past_key_values=cache)  # unknown: not refused


def test_a_model_that_throws_the_cache_away_says_so(random_model):
    """Phi-3 does, where its positions would switch: at 16 tokens here."""
    model = random_model("phi3", original_max_position_embeddings=16).model
    cache = BoundedCache(8, model=model)
    out = generate(model, random_ids(1, 10), past_key_values=cache, return_dict_in_generate=True)
    assert out.past_key_values is cache and cache.tokens == 13
    with pytest.raises(RuntimeError, match="Phi3ForCausalLM: .* throws it away at 17 tokens"):
        generate(model, random_ids(1, 10), 12, past_key_values=BoundedCache(8, model=model))


def test_copies_of_a_model_are_watched_as_well(random_model):
    model = random_model("llama").model
    BoundedCache(8, model=model)
    twins = copy.deepcopy(model), pickle.loads(pickle.dumps(model))
    shallow, ids = copy.copy(model), random_ids(1, 12)
    expected = generate(model, ids, past_key_values=BoundedCache(8, model=model))
    assert torch.equal(generate(shallow, ids), generate(model, ids))
    for twin in twins:
        cache = BoundedCache(8, model=twin)
        said = generate(twin, ids, past_key_values=cache)
        assert torch.equal(said, expected)
        said[0, 2] += 1
        with pytest.raises(ValueError, match="expected to begin with the 15 tokens"):
            generate(twin, torch.cat([said, ids], dim=1), past_key_values=cache)
    del model
    gc.collect()
    with pytest.raises(RuntimeError, match="a shallow copy of one that is gone"):
        generate(shallow, ids)


def test_after_generate_the_cache_is_the_one_handed_in(tiny, sliding):
    for lm in (tiny, sliding):
        for settings in ({}, {"num_beams": 2}, {"prefill_chunk_size": 5}, {"do_sample": True}):
            cache = BoundedCache(8, model=lm.model)
            settings |= {"past_key_values": cache, "return_dict_in_generate": True}
            assert generate(lm.model, random_ids(1, 12), **settings).past_key_values is cache


# --- stored caches ------------------------------------------------------------------------------


@pytest.fixture()
def prompt(tiny) -> BoundedCache:
    """A prompt of 20 and 13 tokens, read once."""
    mask, cache = torch.ones(2, 20), BoundedCache(9, 2, model=tiny.model)
    mask[1, :7] = 0
    with torch.inference_mode():
        tiny.model(random_ids(2, 20), attention_mask=mask, past_key_values=cache)
    return cache


def following(model, cache) -> torch.Tensor:
    with torch.inference_mode():
        return model(random_ids(2, 6, seed=3), past_key_values=cache).logits


def test_a_state_goes_through_a_file_that_unpickles_no_code(tiny, prompt, tmp_path):
    torch.save(prompt.state(), tmp_path / "prompt.pt")
    state = torch.load(tmp_path / "prompt.pt", weights_only=True)
    again = BoundedCache.from_state(state, model=tiny.model)
    assert (again.budget, again.n_sink, again.tokens) == (9, 2, 20)
    assert torch.equal(following(tiny.model, again), following(tiny.model, prompt))


def test_a_pickled_cache_goes_on_when_attached(tiny, prompt):
    file = io.BytesIO()
    torch.save(prompt, file)
    file.seek(0)
    for again in (
        pickle.loads(pickle.dumps(prompt)),
        pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(prompt)))),
        torch.load(file, weights_only=False),
    ):
        for use in (lambda c: following(tiny.model, c), copy.deepcopy):
            with pytest.raises(RuntimeError, match=r"attach|not attached"):
                use(again)
        again.attach(tiny.model)
        assert torch.equal(following(tiny.model, again), following(tiny.model, prompt_of(prompt)))


def prompt_of(cache: BoundedCache) -> BoundedCache:
    return copy.deepcopy(cache)


ELSEWHERE = """
import sys, torch
from kvlib.cache import BoundedCache
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
cache = BoundedCache.from_state(torch.load(sys.argv[2]), model=model)
with torch.inference_mode():
    torch.save(model(torch.load(sys.argv[3]), past_key_values=cache).logits, sys.argv[4])
"""


def test_another_process_goes_on(tiny, tiny_folder: Path, prompt, tmp_path):
    files = [tmp_path / name for name in ("prompt.pt", "ids.pt", "logits.pt")]
    torch.save(prompt.state(), files[0])
    torch.save(random_ids(2, 6, seed=3), files[1])
    subprocess.run([sys.executable, "-c", ELSEWHERE, tiny_folder, *files], check=True)
    assert torch.allclose(torch.load(files[2]), following(tiny.model, prompt), atol=1e-5)


def test_an_empty_cache_can_be_stored(tiny):
    again = BoundedCache.from_state(BoundedCache(9, model=tiny.model).state(), model=tiny.model)
    assert following(tiny.model, again).isfinite().all() and again.tokens == 6


def test_states_that_are_damaged_or_of_another_model_are_refused(tiny, random_model, prompt):
    state = prompt.state()
    other = random_model("llama").model
    with pytest.raises(ValueError, match="cache for this LlamaForCausalLM, got another model's"):
        BoundedCache.from_state(state, model=other)
    for damaged in (
        {},
        {k: v for k, v in state.items() if k != "held"},
        state | {"keys": state["keys"][:1]},
        state | {"keys": [part[:, :, :-1] for part in state["keys"]]},
    ):
        with pytest.raises(ValueError, match="state: expected"):
            BoundedCache.from_state(damaged, model=tiny.model)
    with pytest.raises(ValueError, match="attach: expected a cache that was unpickled"):
        prompt.attach(tiny.model)
    with pytest.raises(ValueError, match="budget: expected a whole number"):
        BoundedCache.from_state(state | {"settings": {"budget": True}}, model=tiny.model)


def test_other_policies_are_not_stored_and_keep_their_history(tiny):
    cache = BoundedCache(9, policy=RandomRetention(), model=tiny.model)
    said = generate(tiny.model, random_ids(1, 20), past_key_values=cache)
    for store in (lambda one: one.state(), pickle.dumps):
        with pytest.raises(ValueError, match="cannot be stored"):
            store(cache)
    twin = copy.deepcopy(cache)
    text = torch.cat([said, random_ids(1, 5)], dim=1)
    out = generate(tiny.model, text, past_key_values=cache)
    assert torch.equal(out, generate(tiny.model, text, past_key_values=copy.deepcopy(twin)))
    text[0, 3] += 1
    with pytest.raises(ValueError, match="expected to begin with the 23 tokens"):
        generate(tiny.model, text, past_key_values=twin)


def test_a_broken_or_closed_cache_is_not_stored(tiny, prompt):
    hook = tiny.model.model.norm.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        following(tiny.model, prompt)
    hook.remove()
    with pytest.raises(RuntimeError, match="broke off"):
        prompt.state()
    prompt.close()
    with pytest.raises(RuntimeError, match="closed, not attached, or its model is gone"):
        prompt.state()
