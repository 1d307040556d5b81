"""The cache to use: its laws are those of one pass under a mask, however it is fed."""

from __future__ import annotations

import copy
import dataclasses
import gc
import inspect
import pickle
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from eviction import (
    SAME,
    expected_states,
    fed,
    generate,
    largest_kl,
    padded,
    random_ids,
    recomputed,
)
from transformers import DynamicCache

from kvlib.cache import protocols, support
from kvlib.cache.bounded import BoundedCache
from kvlib.cache.policies import SinkRecent

BUDGET, N_SINK, LENGTH = 16, 4, 40
FEEDS = {  # tokens a forward
    "whole": [LENGTH],
    "odd chunks": [7] * 5 + [5],
    "tokens": [1] * LENGTH,
    "chunks and tokens": [13, 1, 1, 1, 1, 2, 1, 1, 9, 1, 1, 8],
}


@pytest.fixture(scope="module", params=["tiny", "sliding"])
def lm(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def ids(lm) -> torch.Tensor:
    """(tokens,) with the model's own prefix in front."""
    return lm.prefixed(random_ids(LENGTH - len(lm.prefix_ids)))


@pytest.fixture(scope="module")
def expected(lm, ids) -> torch.Tensor:
    return expected_states(lm, ids)


# --- equal to one pass --------------------------------------------------------------------------


@pytest.mark.parametrize("feed", FEEDS.values(), ids=FEEDS)
def test_laws_are_those_of_one_pass_however_it_is_fed(lm, ids, expected, feed):
    cache = BoundedCache(BUDGET, N_SINK, model=lm.model)
    assert largest_kl(lm, expected, fed(lm, ids, cache, feed)) < SAME
    assert cache.get_seq_length() == LENGTH
    assert cache.layers[0].keys.shape[2] == BUDGET


def test_laws_of_trained_models_are_those_of_one_pass(trained, passage):
    text = trained.prefixed(torch.from_numpy(passage(trained, LENGTH - len(trained.prefix_ids))))
    cache = BoundedCache(BUDGET, N_SINK, model=trained.model)
    laws = fed(trained, text, cache, FEEDS["chunks and tokens"])
    assert largest_kl(trained, expected_states(trained, text), laws) < SAME
    cache = BoundedCache(10, N_SINK, model=trained.model, positions="cache")
    plain = step_by_step_at_cache_positions(trained, text[:22], 10, N_SINK)
    assert largest_kl(trained, plain, fed(trained, text[:22], cache, [7, 1, 7, 1, 1, 5])) < SAME


def test_laws_are_those_of_the_measurement(lm, ids):
    full = protocols.FullPass(dataclasses.replace(lm, prefix_ids=()), ids, np.arange(LENGTH))
    online = protocols.online_hidden(full, SinkRecent(N_SINK), BUDGET, rng=np.random.default_rng(0))
    cache = BoundedCache(BUDGET, N_SINK, model=lm.model)
    assert largest_kl(lm, online, fed(lm, ids, cache, [29, 1, 10])) < SAME


@pytest.mark.parametrize(("budget", "n_sink"), [(BUDGET + 1, 4), (BUDGET, 3), (BUDGET, 5)])
def test_the_equality_fails_for_another_budget_or_sink(tiny, budget, n_sink):
    text = random_ids(LENGTH)
    other = fed(tiny, text, BoundedCache(budget, n_sink, model=tiny.model), FEEDS["odd chunks"])
    assert largest_kl(tiny, expected_states(tiny, text), other) > 1e-3


@pytest.mark.parametrize("feed", FEEDS.values(), ids=FEEDS)
@pytest.mark.parametrize(("budget", "n_sink"), [(1, 0), (2, 0), (5, 0), (2, 1), (8, 7), (39, 4)])
def test_any_budget_and_any_number_of_sinks(tiny, budget, n_sink, feed):
    text = random_ids(LENGTH)
    laws = fed(tiny, text, BoundedCache(budget, n_sink, model=tiny.model), feed)
    assert largest_kl(tiny, expected_states(tiny, text, budget, n_sink), laws) < SAME


def test_a_budget_beyond_the_context_is_the_full_cache(lm, ids):
    laws = fed(lm, ids, BoundedCache(LENGTH + 1, model=lm.model), [13, 1, 26])
    with torch.inference_mode():
        full = lm.model.base_model(ids[None]).last_hidden_state[0]
    assert largest_kl(lm, full, laws) < SAME


@pytest.mark.parametrize("feed", [[9] * 4 + [4], [30, 7, 1, 1, 1]], ids=str)
def test_a_batch_padded_on_the_left_is_three_texts_by_themselves(lm, ids, expected, feed):
    """One row passes the budget from the start, one begins within a chunk, one has five tokens."""
    lengths = (LENGTH, 22, 5)
    batch, mask = padded(ids, lengths)
    cache, parts, end = BoundedCache(BUDGET, N_SINK, model=lm.model), [], 0
    for size in feed:
        end += size
        with torch.inference_mode():
            out = lm.model.base_model(
                batch[:, end - size : end], attention_mask=mask[:, :end], past_key_values=cache
            )
        parts.append(out.last_hidden_state)
    states = torch.cat(parts, dim=1)
    assert states.isfinite().all()  # of padding, too
    for row, n in enumerate(lengths):  # causal: the beginning's states are those of the whole
        assert largest_kl(lm, expected[:n], states[row, LENGTH - n :]) < SAME


@pytest.mark.parametrize("positions", ["true", "cache"])
@pytest.mark.parametrize("feed", [[LENGTH], [7] * 5 + [5], [1] * LENGTH], ids=str)
def test_padding_may_stand_anywhere(tiny, positions, feed):
    """Rows of a batch whose turns have other lengths: each is the text without its padding."""
    generator = np.random.default_rng(1)
    ids, real = random_ids(3, LENGTH), torch.from_numpy(generator.random((3, LENGTH)) < 0.7)
    real[2, -9:] = False
    cache = BoundedCache(BUDGET, N_SINK, model=tiny.model, positions=positions)
    parts, end = [], 0
    with torch.inference_mode():
        for size in feed:
            end += size
            given = {"attention_mask": real[:, :end].long(), "past_key_values": cache}
            out = tiny.model.base_model(ids[:, end - size : end], **given)
            parts.append(out.last_hidden_state)
    states = torch.cat(parts, dim=1)
    assert states.isfinite().all()
    for row, text, there in zip(states, ids, real, strict=True):
        alone = BoundedCache(BUDGET, N_SINK, model=tiny.model, positions=positions)
        assert (
            largest_kl(tiny, fed(tiny, text[there], alone, [int(there.sum())]), row[there]) < SAME
        )


def test_turns_of_a_batch_may_have_other_lengths(tiny):
    """Two conversations in one batch: 20 and 13 tokens, six are written, then 9 and 4 more."""
    model, first, second = tiny.model, random_ids(2, 20), random_ids(2, 9, seed=1)
    mask, more = torch.ones(2, 20), torch.ones(2, 9)
    mask[1, :7], more[1, :5] = 0, 0
    cache = BoundedCache(9, 2, model=model)
    written = generate(model, first, 6, attention_mask=mask, past_key_values=cache)
    whole = torch.cat([written, second], dim=1)
    seen = torch.cat([mask, torch.ones(2, 6), more], dim=1)
    out = generate(model, whole, 6, attention_mask=seen, past_key_values=cache)
    for row in range(2):
        one = BoundedCache(9, 2, model=model)
        alone = whole[row, seen[row].bool()][None]
        assert torch.equal(generate(model, alone, 6, past_key_values=one)[0, -6:], out[row, -6:])


def test_positions_need_no_help_and_wrong_ones_do_no_harm(tiny):
    text, wrong = random_ids(LENGTH), torch.full((1, LENGTH), 7)
    cache = BoundedCache(BUDGET, model=tiny.model)
    with torch.inference_mode():
        out = tiny.model.base_model(text[None], position_ids=wrong, past_key_values=cache)
    assert largest_kl(tiny, expected_states(tiny, text), out.last_hidden_state[0]) < SAME


def test_embeddings_and_arguments_by_place_do_as_well(tiny):
    text, body = random_ids(LENGTH), tiny.model.base_model
    one, two = (BoundedCache(BUDGET, model=tiny.model) for _ in range(2))
    ones, places = torch.ones(1, LENGTH), torch.arange(LENGTH)[None]
    with torch.inference_mode():
        embedded = body(inputs_embeds=body.embed_tokens(text[None]), past_key_values=one)
        by_place = body(text[None], ones, places, two)
    for out in (embedded, by_place):
        assert largest_kl(tiny, expected_states(tiny, text), out.last_hidden_state[0]) < SAME


def test_eager_attention_gives_the_same(tiny):
    text = random_ids(LENGTH)
    eager = dataclasses.replace(tiny, model=copy.deepcopy(tiny.model))
    eager.model.set_attn_implementation("eager")
    laws = fed(eager, text, BoundedCache(BUDGET, model=eager.model), FEEDS["chunks and tokens"])
    assert largest_kl(tiny, expected_states(tiny, text), laws) < SAME


@pytest.mark.parametrize("window", [5, 13, 30])
def test_sliding_layers_see_what_their_own_window_holds(random_model, window):
    """Windows of 5, 13 and 30 beside 12 recent tokens and 4 sinks."""
    gemma, text = random_model("gemma3_text", sliding_window=window), random_ids(LENGTH)
    expected = expected_states(gemma, text)
    for feed in FEEDS.values():
        laws = fed(gemma, text, BoundedCache(BUDGET, N_SINK, model=gemma.model), feed)
        assert largest_kl(gemma, expected, laws) < SAME


def test_learned_absolute_positions_are_served(random_model):
    gpt2 = random_model("gpt2", n_embd=32, n_layer=2, n_head=4, n_positions=64)
    text = random_ids(LENGTH)
    laws = fed(gpt2, text, BoundedCache(BUDGET, model=gpt2.model), FEEDS["chunks and tokens"])
    assert largest_kl(gpt2, expected_states(gpt2, text), laws) < SAME


def test_tokens_may_be_fed_under_any_grad_mode(tiny):
    """Entries made under inference_mode may not be changed in place elsewhere."""
    text, cache = random_ids(LENGTH), BoundedCache(BUDGET, model=tiny.model)
    parts = [fed(tiny, text[:32], cache, [31, 1])]
    with torch.no_grad():
        parts.append(tiny.model.base_model(text[None, 32:33], past_key_values=cache)[0][0])
    parts.append(fed(tiny, text[33:], cache, [1] * 7))
    assert largest_kl(tiny, expected_states(tiny, text), torch.cat(parts)) < SAME


def test_gradients_flow_through_the_entries(random_model):
    model, text = random_model("llama").model.requires_grad_(True), random_ids(1, 24)
    gradients = []
    for sizes in ([24], [20, 1, 1, 2]):
        cache = BoundedCache(9, model=model)
        logits = [model(part, past_key_values=cache).logits for part in text.split(sizes, dim=1)]
        model.zero_grad()
        torch.cat(logits, dim=1).logsumexp(-1).sum().backward()
        gradients.append(model.model.layers[0].self_attn.k_proj.weight.grad.clone())
    assert torch.allclose(*gradients, rtol=1e-3, atol=1e-4) and gradients[0].abs().max() > 1e-2


# --- generate -----------------------------------------------------------------------------------


def test_generate_writes_what_it_writes_by_recomputation(lm, ids):
    """Two prompts, one padded, both longer than the budget; every token by a whole forward."""
    batch, mask = padded(ids[:32], (32, 20))
    with recomputed(lm.model, BUDGET, N_SINK):
        expected = generate(lm.model, batch, 4, attention_mask=mask, use_cache=False)
    for settings in ({}, {"prefill_chunk_size": 11}):
        cache = BoundedCache(BUDGET, N_SINK, model=lm.model)
        given = {"attention_mask": mask, "past_key_values": cache}
        assert torch.equal(generate(lm.model, batch, 4, **given, **settings), expected)
        assert cache.get_seq_length() == 35  # the last token was not read any more


@pytest.mark.parametrize(
    "settings",
    [{"num_beams": 3}, {"num_beams": 4, "num_return_sequences": 2}, {"repetition_penalty": 1.3}],
    ids=str,
)
def test_beams_are_those_of_recomputation(tiny, settings):
    batch, mask = padded(random_ids(30), (30, 17))
    with recomputed(tiny.model, 9, 2):
        expected = generate(tiny.model, batch, 12, attention_mask=mask, use_cache=False, **settings)
    cache = BoundedCache(9, 2, model=tiny.model)
    out = generate(tiny.model, batch, 12, attention_mask=mask, past_key_values=cache, **settings)
    assert torch.equal(out, expected)


def test_samples_are_those_of_recomputation(tiny):
    """Laws 1e-6 apart move one of the 80 draws with probability 1e-4."""
    settings = {"do_sample": True, "num_return_sequences": 4}
    torch.manual_seed(0)
    with recomputed(tiny.model, 9, 2):
        expected = generate(tiny.model, random_ids(1, 30), 20, use_cache=False, **settings)
    torch.manual_seed(0)
    cache = BoundedCache(9, 2, model=tiny.model)
    out = generate(tiny.model, random_ids(1, 30), 20, past_key_values=cache, **settings)
    assert torch.equal(out, expected)


def test_a_conversation_goes_on_in_the_same_cache(tiny):
    cache, question = BoundedCache(9, 2, model=tiny.model), random_ids(1, 13, seed=1)
    first = generate(tiny.model, random_ids(1, 30), 6, past_key_values=cache)
    so_far = torch.cat([first, question], dim=1)
    second = generate(tiny.model, so_far, 6, past_key_values=cache)
    with recomputed(tiny.model, 9, 2):
        assert torch.equal(second, generate(tiny.model, so_far, 6, use_cache=False))


def test_a_copy_goes_its_own_way(tiny):
    """A prompt is read once and continued twice, in turns; neither notices the other."""
    texts = [random_ids(LENGTH), torch.cat([random_ids(32), random_ids(8, seed=1)])]
    cache = BoundedCache(BUDGET, model=tiny.model)
    fed(tiny, texts[0][:32], cache, [32])
    caches, states = [cache, copy.deepcopy(cache)], ([], [])
    for k in range(32, LENGTH):
        for text, one, found in zip(texts, caches, states, strict=True):
            found.append(fed(tiny, text[k : k + 1], one, [1]))
    for text, found in zip(texts, states, strict=True):
        assert largest_kl(tiny, expected_states(tiny, text)[32:], torch.cat(found)) < SAME


def test_rows_can_be_repeated_and_selected(tiny):
    text, cache = random_ids(LENGTH), BoundedCache(BUDGET, model=tiny.model)
    batch, mask = padded(text[:32], (32, 23))
    with torch.inference_mode():
        tiny.model(batch, attention_mask=mask, past_key_values=cache)
        cache.batch_repeat_interleave(2)
        cache.batch_select_indices(torch.tensor([2, 0]))
        following = torch.stack([text[23:31], text[32:40]])
        states = tiny.model.base_model(following, past_key_values=cache).last_hidden_state
    expected = expected_states(tiny, text)
    for row, first in enumerate((23, 32)):
        assert largest_kl(tiny, expected[first : first + 8], states[row]) < SAME


# --- positions in the cache ---------------------------------------------------------------------


def step_by_step_at_cache_positions(lm, ids, budget: int, n_sink: int) -> torch.Tensor:
    """The plain way, on a plain cache: when it is full, the oldest recent entry goes, the recent
    ones are turned back by one place, and the query stands behind them."""
    cache, rotary, states = DynamicCache(), lm.model.base_model.rotary_emb, []
    kinds = getattr(lm.model.config, "layer_types", None)
    back = torch.tensor([[-1]])

    def close_up(layer, kind):
        arguments = (kind,) if "layer_type" in inspect.signature(rotary.forward).parameters else ()
        cos, sin = rotary(layer.keys, back, *arguments)
        recent = layer.keys[:, :, n_sink + 1 :]
        left, right = recent.chunk(2, dim=-1)
        recent = recent * cos + torch.cat([-right, left], dim=-1) * sin
        layer.keys = torch.cat([layer.keys[:, :, :n_sink], recent], dim=2)
        layer.values = torch.cat(
            [layer.values[:, :, :n_sink], layer.values[:, :, n_sink + 1 :]], dim=2
        )

    with torch.inference_mode():
        for token in ids:
            if cache.get_seq_length() == budget:
                for k, layer in enumerate(cache.layers):
                    close_up(layer, kinds[k] if kinds else None)
            out = lm.model.base_model(token[None, None], past_key_values=cache, use_cache=True)
            states.append(out.last_hidden_state[0])
    return torch.cat(states)


def test_cache_positions_equal_closing_up_at_every_step(lm, ids):
    text = ids[:22]
    plain = step_by_step_at_cache_positions(lm, text, 10, N_SINK)
    for feed in ([22], [7, 1, 7, 1, 1, 5]):
        cache = BoundedCache(10, N_SINK, model=lm.model, positions="cache")
        assert largest_kl(lm, plain, fed(lm, text, cache, feed)) < SAME
    assert largest_kl(lm, plain, expected_states(lm, text, 10)) > 1e-4  # true positions


@pytest.mark.parametrize("n_sink", [1, 4, 8])
def test_cache_positions_serve_padded_batches_token_by_token(tiny, n_sink):
    text, lengths = random_ids(LENGTH), (LENGTH, 29, 5)
    batch, mask = padded(text, lengths)
    cache, states = BoundedCache(12, n_sink, model=tiny.model, positions="cache"), []
    with torch.inference_mode():
        for first, last in [(0, 20), *((k, k + 1) for k in range(20, 32)), (32, LENGTH)]:
            given = {"attention_mask": mask[:, :last], "past_key_values": cache}
            out = tiny.model.base_model(batch[:, first:last], **given)
            states.append(out.last_hidden_state)
    states = torch.cat(states, dim=1)
    plain = step_by_step_at_cache_positions(tiny, text, 12, n_sink)
    for row, n in enumerate(lengths):
        assert largest_kl(tiny, plain[:n], states[row, LENGTH - n :]) < SAME


@pytest.mark.parametrize("window", [5, 13, 30])
def test_cache_positions_in_sliding_layers_count_from_the_cache(random_model, window):
    """Windows below the budget, where sinks are out of sight in the end, and above it, where they
    are not."""
    gemma = random_model("gemma3_text", sliding_window=window)
    text = random_ids(LENGTH)
    plain = step_by_step_at_cache_positions(gemma, text, 12, N_SINK)
    for feed in FEEDS.values():
        cache = BoundedCache(12, N_SINK, model=gemma.model, positions="cache")
        assert largest_kl(gemma, plain, fed(gemma, text, cache, feed)) < SAME


def test_without_sinks_both_kinds_of_positions_agree(tiny):
    text = random_ids(LENGTH)
    one, two = (
        fed(tiny, text, BoundedCache(9, 0, model=tiny.model, positions=kind), FEEDS["odd chunks"])
        for kind in ("true", "cache")
    )
    assert largest_kl(tiny, one, two) < SAME


# --- memory and manners -------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 20])
def test_memory_stays_at_its_budget(tiny, size):
    cache, held, text = BoundedCache(BUDGET, model=tiny.model), [], random_ids(2, 200)
    with torch.inference_mode():
        for part in text.split(size, dim=1):
            tiny.model.base_model(part, past_key_values=cache)
            held.append(cache.cache_bytes)
    layers, kv_heads, head_dim = 2, 2, 8
    assert max(held) == held[-1] == 2 * layers * 2 * BUDGET * kv_heads * head_dim * 4


def hooks(model) -> int:
    """How many hooks there are on the model; its body has as many of each kind."""
    found = {
        len(part)
        for module in (model, model.base_model)
        for part in (
            module._forward_pre_hooks,
            module._forward_pre_hooks_with_kwargs,
            module._forward_hooks,
            module._forward_hooks_with_kwargs,
        )
    }
    assert len(found) == 1
    return found.pop()


@pytest.fixture()
def clean(tiny) -> Iterator[torch.Tensor]:
    """The plain logits of a text; afterwards the model must do as before, with its one hook."""
    text = random_ids(1, LENGTH)
    with torch.inference_mode():
        plain = tiny.model(text).logits
        yield plain
        assert hooks(tiny.model) <= 1
        assert torch.equal(tiny.model(text).logits, plain)


def test_a_model_has_one_hook_for_all_its_caches(random_model):
    model = random_model("llama").model
    assert hooks(model) == 0
    cache, other = (BoundedCache(8, model=model) for _ in range(2))
    twin = copy.deepcopy(cache)
    assert hooks(model) == 1
    other.close()
    del twin, cache
    assert hooks(model) == 1
    body = BoundedCache(8, model=model.base_model)
    assert hooks(model) == 1
    with torch.inference_mode():
        assert model.base_model(random_ids(1, 5), past_key_values=body)[0].shape[1] == 5
        assert model(random_ids(1, 5), past_key_values=body).logits.shape[1] == 5


def test_nothing_is_left_of_two_thousand_caches(tiny, clean):
    gc.collect()
    there = [thing for thing in gc.get_objects() if type(thing) is BoundedCache]
    watched = []
    with torch.inference_mode():
        for _ in range(2000):
            cache = BoundedCache(8, model=tiny.model)
            watched.append(weakref.ref(cache))
            watched.append(weakref.ref(cache.layers[0]))
    tiny.model(random_ids(1, 5), past_key_values=cache)
    del cache
    assert [one for one in watched if one() is not None] == []  # without the garbage collector
    gc.collect()
    assert len([t for t in gc.get_objects() if type(t) is BoundedCache]) == len(there)


def test_a_cache_does_not_keep_its_model(random_model):
    model = random_model("llama").model
    cache, gone = BoundedCache(8, model=model), weakref.ref(model)
    model(random_ids(1, 5), past_key_values=cache)
    del model
    gc.collect()
    assert gone() is None and cache.model is None
    with pytest.raises(RuntimeError, match="or its model is gone"):
        copy.deepcopy(cache)


def test_generate_leaves_nothing_behind(tiny, clean):
    generate(tiny.model, random_ids(1, 20), 4, past_key_values=BoundedCache(8, model=tiny.model))


def test_a_forward_without_the_cache_is_a_plain_one(tiny, clean):
    cache = BoundedCache(8, model=tiny.model)
    fed(tiny, random_ids(20), cache, [19, 1])
    assert torch.equal(tiny.model(random_ids(1, LENGTH)).logits, clean)


def test_two_caches_on_one_model_do_not_disturb_each_other(tiny, clean):
    text = random_ids(LENGTH)
    caches, states = [BoundedCache(b, model=tiny.model) for b in (8, 12)], ([], [])
    for part in text.split(6):
        for cache, found in zip(caches, states, strict=True):
            found.append(fed(tiny, part, cache, [len(part)]))
    for budget, found in zip((8, 12), states, strict=True):
        assert largest_kl(tiny, expected_states(tiny, text, budget), torch.cat(found)) < SAME
    del cache, caches


def test_reset_begins_anew(tiny):
    cache = BoundedCache(8, model=tiny.model)
    first = fed(tiny, random_ids(40), cache, [33, 7])
    cache.reset()
    assert cache.get_seq_length() == cache.cache_bytes == 0
    with torch.inference_mode():  # another batch size is fine, too
        states = tiny.model.base_model(random_ids(40).expand(2, -1), past_key_values=cache)[0]
    assert largest_kl(tiny, first, states[1]) < SAME


BREAKING = {  # module, and when it breaks: before its forward, or after
    "the embeddings": ("model.embed_tokens", True),
    "the first attention": ("model.layers.0.self_attn", True),
    "the first layer": ("model.layers.0.mlp", True),
    "the last attention": ("model.layers.1.self_attn", True),
    "after the last attention": ("model.layers.1.self_attn", False),
    "the last layer": ("model.layers.1.mlp", True),
    "after the last layer": ("model.layers.1", False),
    "the last norm": ("model.norm", True),
    "after the last norm": ("model.norm", False),
    "the head": ("lm_head", True),
    "after the head": ("lm_head", False),
}


def break_in(model, place: str):
    name, before = BREAKING[place]
    module = model.get_submodule(name)
    register = module.register_forward_pre_hook if before else module.register_forward_hook
    return register(lambda *_: 1 / 0)


@pytest.mark.parametrize("tokens", [1, 5])
@pytest.mark.parametrize("place", BREAKING)
def test_a_forward_that_breaks_off_anywhere_is_noticed(tiny, clean, place, tokens):
    """Tried again in silence, its tokens would be there twice."""
    text = random_ids(1, 20 + tokens)
    with torch.inference_mode():
        cache = BoundedCache(8, model=tiny.model)
        tiny.model(text[:, :20], past_key_values=cache)
        broken = break_in(tiny.model, place)
        with pytest.raises(ZeroDivisionError):
            tiny.model(text[:, 20:], past_key_values=cache)
        broken.remove()
        for forward in (tiny.model, tiny.model.base_model):
            with pytest.raises(RuntimeError, match="broke off in the middle; reset"):
                forward(text[:, 20:], past_key_values=cache)
        with pytest.raises(RuntimeError, match="broke off in the middle; reset"):
            copy.deepcopy(cache)
        cache.reset()
        found = tiny.model(text, past_key_values=cache).logits
        whole = tiny.model(text, past_key_values=BoundedCache(8, model=tiny.model)).logits
        assert torch.equal(found, whole)
    del cache


@pytest.mark.parametrize("place", [place for place in BREAKING if "head" not in place])
def test_a_body_that_breaks_off_by_itself_is_noticed(tiny, clean, place):
    cache = BoundedCache(8, model=tiny.model)
    broken = break_in(tiny.model, place)
    with pytest.raises(ZeroDivisionError):
        fed(tiny, random_ids(10), cache, [10])
    broken.remove()
    with pytest.raises(RuntimeError, match="broke off in the middle; reset"):
        fed(tiny, random_ids(5), cache, [5])
    cache.reset()
    fed(tiny, random_ids(5), cache, [5])
    del cache


def test_a_forward_that_was_refused_can_be_given_rightly(tiny, clean):
    """Nothing was stored: body and model take the next one."""
    text, wide = random_ids(1, 12), torch.ones(1, 13)
    cache = BoundedCache(8, model=tiny.model)
    with torch.inference_mode():
        for forward in (tiny.model.base_model, tiny.model):
            with pytest.raises(ValueError, match=r"expected one of shape \(1, 12\)"):
                tiny.model(text, attention_mask=wide, past_key_values=cache)
            forward(text, past_key_values=cache)
            cache.reset()
    del cache


def test_model_and_body_can_take_turns(tiny, clean):
    text = random_ids(1, 30)
    cache, other = (BoundedCache(8, model=tiny.model) for _ in range(2))
    with torch.inference_mode():
        for start in range(0, 30, 10):
            forward = tiny.model if start == 10 else tiny.model.base_model
            forward(text[:, start : start + 10], past_key_values=cache)
            tiny.model(text[:, start : start + 10], past_key_values=other)
        one, two = (tiny.model(text[:, :3], past_key_values=c).logits for c in (cache, other))
    assert torch.equal(one, two)
    del cache, other


def test_threads_with_a_cache_each_do_not_disturb_each_other(tiny, clean):
    """A hook may be called before torch knows that it takes keywords."""
    text = random_ids(1, 20)
    expected = generate(tiny.model, text, 6, past_key_values=BoundedCache(8, 2, model=tiny.model))

    def work(_: int) -> bool:
        cache = BoundedCache(8, 2, model=tiny.model)
        return torch.equal(generate(tiny.model, text, 6, past_key_values=cache), expected)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(160)))


def test_the_name_that_newer_transformers_gives_caches_is_known(random_model):
    """From 5.24 on a forward takes `cache`; here one that is renamed on its way in."""
    lm, text = random_model("llama"), random_ids(LENGTH)
    forward, cache = lm.model.base_model.forward, BoundedCache(BUDGET, N_SINK, model=lm.model)
    lm.model.base_model.forward = lambda **given: forward(
        **{"past_key_values" if name == "cache" else name: each for name, each in given.items()}
    )
    with torch.inference_mode():
        parts = [
            lm.model.base_model(input_ids=part[None], cache=cache)[0][0] for part in text.split(7)
        ]
    del lm.model.base_model.forward
    assert largest_kl(lm, expected_states(lm, text), torch.cat(parts)) < SAME


def test_a_hook_that_is_called_without_keywords_does_nothing(tiny, clean):
    cache = BoundedCache(8, model=tiny.model)
    for module in (tiny.model, tiny.model.base_model):
        for hook in module._forward_pre_hooks.values():
            assert hook(module, (random_ids(1, 5),)) is None
        for hook in module._forward_hooks.values():
            assert hook(module, (random_ids(1, 5),), {"logits": None}) is None
    fed(tiny, random_ids(5), cache, [5])


def test_a_model_can_be_copied_and_pickled_while_a_cache_lives(tiny, clean):
    """Copies have the hook, too, and serve caches of their own."""
    cache = BoundedCache(8, model=tiny.model)
    with torch.inference_mode():
        expected = tiny.model(random_ids(1, 20), past_key_values=copy.deepcopy(cache)).logits
        for twin in (copy.deepcopy(tiny.model), pickle.loads(pickle.dumps(tiny.model))):
            assert torch.equal(twin(random_ids(1, LENGTH)).logits, clean)
            with pytest.raises(RuntimeError, match="expected a forward of the model it was made f"):
                twin(random_ids(1, 5), past_key_values=cache)
            own = BoundedCache(8, model=twin)
            assert torch.equal(twin(random_ids(1, 20), past_key_values=own).logits, expected)
            assert hooks(twin) == 1
    fed(tiny, random_ids(5), cache, [5])
    cache.close()
    with pytest.raises(RuntimeError, match="before close"):
        fed(tiny, random_ids(5), cache, [5])


# --- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [8.5, 8.0, float("nan"), float("inf"), True, "8", None])
def test_a_budget_that_is_no_whole_number_is_refused(tiny, number):
    with pytest.raises(ValueError, match=f"budget: expected a whole number, got {number!r}"):
        support.whole_number("budget", number)
    assert support.whole_number("budget", np.int64(8)) == 8
    with pytest.raises(ValueError, match="budget: expected a whole number, got True"):
        BoundedCache(True, model=tiny.model)
    with pytest.raises(ValueError, match="n_sink: expected a whole number, got True"):
        BoundedCache(8, True, model=tiny.model)


@pytest.mark.parametrize(("budget", "n_sink"), [(4, 4), (3, 4), (0, 0), (5, -1)])
def test_a_budget_that_sinks_fill_is_refused(tiny, budget, n_sink):
    with pytest.raises(ValueError, match=f"expected more than n_sink = {n_sink} ≥ 0, got {budget}"):
        BoundedCache(budget, n_sink, model=tiny.model)


def test_settings_that_there_are_not_are_refused(tiny):
    with pytest.raises(ValueError, match="positions: expected 'true' or 'cache', got 'relative'"):
        BoundedCache(8, model=tiny.model, positions="relative")
    with pytest.raises(ValueError, match="expected a transformers model, got LanguageModel"):
        BoundedCache(8, model=tiny)


@pytest.mark.parametrize("shape", [(1, 1, 5, 5), (1, 4), (1, 9), (2, 5)], ids=str)
def test_masks_of_another_shape_are_refused(tiny, shape):
    with pytest.raises(ValueError, match=r"attention_mask: expected one of shape \(1, 5\) .*got"):
        tiny.model(
            random_ids(1, 5),
            attention_mask=torch.ones(shape),
            past_key_values=BoundedCache(8, model=tiny.model),
        )


@pytest.mark.parametrize("chunks", [{}, {"prefill_chunk_size": 3}], ids=str)
def test_writing_behind_padding_is_refused(tiny, chunks):
    mask = torch.ones(2, 8)
    mask[1, -1] = 0
    given = {"attention_mask": mask, "past_key_values": BoundedCache(8, model=tiny.model)}
    with pytest.raises(ValueError, match="expected a token at the end of each row, got padding"):
        generate(tiny.model, random_ids(2, 8), 4, **given, **chunks)


def test_no_token_at_all_is_refused(tiny, clean):
    cache = BoundedCache(8, model=tiny.model)
    for _ in range(2):
        with pytest.raises(ValueError, match="input_ids: expected at least one token, got none"):
            tiny.model(random_ids(1, 0), past_key_values=cache)
        fed(tiny, random_ids(5), cache, [5])
    with pytest.raises(ValueError, match="expected at least one token, got none"):
        generate(tiny.model, random_ids(1, 0), 4, past_key_values=BoundedCache(8, model=tiny.model))


def test_attention_switched_later_is_refused(random_model):
    model = random_model("llama").model
    cache = BoundedCache(8, model=model)
    model(random_ids(1, 5), past_key_values=cache)
    model.config._attn_implementation = "flex_attention"
    for forward in (model, model.base_model):
        with pytest.raises(ValueError, match="expected attention by sdpa or eager, got flex_atten"):
            forward(random_ids(1, 5), past_key_values=cache)
    model.config._attn_implementation = "eager"  # masks are made anew for each forward
    model(random_ids(1, 5), past_key_values=cache)
    assert cache.tokens == 10


def test_a_compiled_model_is_served(tiny):
    """The backend that changes nothing but runs all of the tracing."""
    text, compiled = random_ids(1, 20), torch.compile(copy.deepcopy(tiny.model), backend="eager")
    cache, plain = (BoundedCache(8, model=m) for m in (compiled, tiny.model))
    with torch.inference_mode():
        for part in text.split([15, 1, 1, 3], dim=1):
            expected = tiny.model(part, past_key_values=plain).logits
            assert torch.allclose(compiled(part, past_key_values=cache).logits, expected, atol=1e-5)
    torch.compiler.reset()


def test_another_batch_size_is_refused(tiny):
    cache = BoundedCache(8, model=tiny.model)
    tiny.model(random_ids(2, 5), past_key_values=cache)
    with pytest.raises(ValueError, match="input_ids: expected 2 rows as before, got 3"):
        tiny.model(random_ids(3, 5), past_key_values=cache)


NEO = {"attention_types": [[["global", "local"], 2]], "window_size": 8}
MAMBA = {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8}
LONGCAT = {"num_layers": 1, "kv_lora_rank": 8, "q_lora_rank": 8, "v_head_dim": 8}
LONGCAT |= {"n_routed_experts": 4, "moe_topk": 2, "zero_expert_num": 2, "ffn_hidden_size": 48}
LONGCAT |= {"expert_ffn_hidden_size": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8}


@pytest.mark.parametrize(
    ("kind", "settings", "expected"),
    [
        ("mamba", {}, "MambaForCausalLM: expected a decoder whose every layer attends"),
        ("jamba", {}, "JambaForCausalLM: expected a decoder whose every layer attends"),
        ("falcon_h1", MAMBA, "FalconH1ForCausalLM: expected layers of full or sliding attention"),
        ("longcat_flash", LONGCAT, "LongcatFlashForCausalLM: expected one attention a layer"),
        ("gpt_neo", NEO, "GPTNeoForCausalLM: expected layers that follow positions, got local"),
    ],
)
def test_architectures_without_such_a_cache_are_refused_by_name(
    random_model, kind, settings, expected
):
    with pytest.raises(ValueError, match=expected):
        BoundedCache(8, model=random_model(kind, **settings).model)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("gpt2", {"n_embd": 32, "n_layer": 1, "n_head": 4}),  # no rotation at all
        ("smollm3", {}),  # none in every fourth layer
        ("cohere", {}),  # turns neighbouring numbers
        ("phi", {}),  # turns half of each head
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}),
    ],
)
def test_positions_in_the_cache_are_refused_where_keys_do_not_turn(random_model, kind, settings):
    model = random_model(kind, **settings).model
    with pytest.raises(ValueError, match=f"{type(model).__name__}: expected plain rotary position"):
        BoundedCache(8, model=model, positions="cache")
    BoundedCache(8, model=model)


def test_encoders_with_decoders_and_other_kernels_are_refused_by_name(tiny):
    from transformers import T5Config, T5ForConditionalGeneration

    sizes = {"d_model": 16, "num_layers": 1, "num_heads": 2, "d_ff": 16, "d_kv": 8}
    t5 = T5ForConditionalGeneration(T5Config(vocab_size=50, **sizes))
    with pytest.raises(ValueError, match="T5ForConditionalGeneration: expected a decoder"):
        BoundedCache(8, model=t5)
    model = copy.deepcopy(tiny.model)
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match="expected attention by sdpa or eager, got flash"):
        BoundedCache(8, model=model)
