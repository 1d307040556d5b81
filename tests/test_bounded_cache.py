"""The cache to use: its laws are those of the one-pass measurement, however it is fed."""

from __future__ import annotations

import copy
import dataclasses
import gc

import numpy as np
import pytest
import torch

from kvlib import measure, protocols
from kvlib.policies import BoundedCache, SinkRecent, SlidingWindow

BUDGET, LENGTH = 16, 60


@pytest.fixture(scope="module")
def short_gemma(gemma):
    """Gemma with sliding layers of 24 tokens, so that a short text passes them."""
    model = copy.deepcopy(gemma.model)
    model.config.sliding_window = 24
    return dataclasses.replace(gemma, model=model)


@pytest.fixture(scope="module", params=["smollm2", "short_gemma", "tiny"])
def lm(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def ids(lm, passage) -> torch.Tensor:
    """(tokens,) of a text, with the model's own prefix in front."""
    if lm.name.endswith("tiny-llama"):
        return torch.from_numpy(np.random.default_rng(0).integers(1, 250, LENGTH))
    text = torch.from_numpy(passage(lm, LENGTH - len(lm.prefix_ids)))
    return torch.cat([torch.tensor(lm.prefix_ids, dtype=text.dtype), text])


@pytest.fixture(scope="module")
def expected(lm, ids) -> torch.Tensor:
    return one_pass(lm, ids, SinkRecent(), BUDGET)


def one_pass(lm, ids, policy, budget) -> torch.Tensor:
    """Log-laws (tokens, vocabulary) of the measurement by masks."""
    bare = dataclasses.replace(lm, prefix_ids=())
    full = protocols.FullPass(bare, ids, np.arange(len(ids)))
    hidden = protocols.online_hidden(full, policy, budget, np.random.default_rng(0))
    return measure._log_laws(lm, hidden).double()


def fed(lm, ids, cache, size: int) -> torch.Tensor:
    """Log-laws when the cache is fed `size` tokens at a time, without any help."""
    with torch.inference_mode():
        parts = [
            lm.model(ids[None, i : i + size], past_key_values=cache).logits[0]
            for i in range(0, len(ids), size)
        ]
    return torch.cat(parts).double().log_softmax(-1)


def largest_kl(p: torch.Tensor, q: torch.Tensor) -> float:
    d = p - q  # Σ p (d + e^-d - 1): laws in float32 do not add up to 1 exactly
    return float((p.exp() * (d + torch.expm1(-d))).sum(-1).max())


# --- equal to the measurement -------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 7, 16, LENGTH])
def test_laws_are_those_of_one_pass_for_any_chunks(lm, ids, expected, size):
    cache = BoundedCache(BUDGET, n_sink=4, model=lm.model)
    assert largest_kl(expected, fed(lm, ids, cache, size)) < 1e-5
    assert cache.get_seq_length() == LENGTH
    assert cache.layers[0].keys.shape[2] == BUDGET


def test_the_equality_fails_for_another_budget(tiny):
    ids = torch.from_numpy(np.random.default_rng(0).integers(1, 250, LENGTH))
    other = fed(tiny, ids, BoundedCache(BUDGET + 1, model=tiny.model), 7)
    assert largest_kl(one_pass(tiny, ids, SinkRecent(), BUDGET), other) > 1e-3


@pytest.mark.parametrize("budget", [1, 2, 5])
def test_without_sinks_it_is_a_sliding_window(tiny, budget):
    ids = torch.from_numpy(np.random.default_rng(0).integers(1, 250, LENGTH))
    laws = fed(tiny, ids, BoundedCache(budget, n_sink=0, model=tiny.model), 3)
    assert largest_kl(one_pass(tiny, ids, SlidingWindow(), budget), laws) < 1e-5


def test_a_budget_beyond_the_context_is_the_full_cache(lm, ids):
    laws = fed(lm, ids, BoundedCache(500, model=lm.model), 13)
    with torch.inference_mode():
        full = lm.model(ids[None]).logits[0].double().log_softmax(-1)
    assert largest_kl(full, laws) < 1e-6


@pytest.mark.parametrize("chunk", [None, 9])
def test_a_batch_padded_on_the_left_is_three_texts_by_themselves(lm, ids, chunk):
    """Lengths 60, 41 and 5: one row passes the budget, one begins inside a chunk of padding."""
    lengths = (LENGTH, 41, 5)
    batch = torch.zeros(3, LENGTH, dtype=torch.long)
    mask = torch.zeros(3, LENGTH, dtype=torch.long)
    for row, n in enumerate(lengths):
        batch[row, LENGTH - n :], mask[row, LENGTH - n :] = ids[:n], 1
    cache = BoundedCache(BUDGET, model=lm.model)
    size = chunk or LENGTH
    with torch.inference_mode():
        parts = [
            lm.model(
                batch[:, i : i + size], attention_mask=mask[:, : i + size], past_key_values=cache
            ).logits
            for i in range(0, LENGTH, size)
        ]
    laws = torch.cat(parts, dim=1).double().log_softmax(-1)
    for row, n in enumerate(lengths):
        alone = one_pass(lm, ids[:n], SinkRecent(), BUDGET)
        assert largest_kl(alone, laws[row, LENGTH - n :]) < 1e-5


@pytest.mark.parametrize("settings", [{}, {"prefill_chunk_size": 11}])
def test_generate_chooses_what_one_pass_would(lm, ids, settings):
    """A prompt longer than the budget, then greedy tokens, each checked by a pass of its own."""
    out = lm.model.generate(
        ids[None, :30],
        attention_mask=torch.ones(1, 30, dtype=torch.long),
        past_key_values=BoundedCache(BUDGET, model=lm.model),
        max_new_tokens=6,
        min_new_tokens=6,
        do_sample=False,
        pad_token_id=0,
        **settings,
    )[0]
    laws = one_pass(lm, out, SinkRecent(), BUDGET)
    chosen = laws[29:-1].gather(1, out[30:, None])[:, 0]
    assert (laws[29:-1].amax(1) - chosen).max() < 1e-4


def test_generate_serves_a_batch_padded_on_the_left(tiny):
    ids = torch.from_numpy(np.random.default_rng(3).integers(1, 250, 40))
    batch = torch.stack([ids, torch.cat([torch.zeros(12, dtype=torch.long), ids[:28]])])
    mask = (torch.arange(40) >= torch.tensor([[0], [12]])).long()
    settings = dict(max_new_tokens=8, min_new_tokens=8, do_sample=False, pad_token_id=0)
    out = tiny.model.generate(
        batch, attention_mask=mask, past_key_values=BoundedCache(9, model=tiny.model), **settings
    )
    alone = tiny.model.generate(
        ids[None, :28], past_key_values=BoundedCache(9, model=tiny.model), **settings
    )
    assert out[1, 40:].tolist() == alone[0, 28:].tolist()


def test_beam_search_gives_what_it_gives_with_a_full_cache_that_fits(tiny):
    ids = torch.from_numpy(np.random.default_rng(3).integers(1, 250, (1, 12)))
    settings = dict(num_beams=3, max_new_tokens=6, do_sample=False, pad_token_id=0)
    bounded = tiny.model.generate(
        ids, past_key_values=BoundedCache(50, model=tiny.model), **settings
    )
    assert torch.equal(bounded, tiny.model.generate(ids, **settings))


def test_eager_attention_gives_the_same(tiny):
    ids = torch.from_numpy(np.random.default_rng(0).integers(1, 250, LENGTH))
    lm = dataclasses.replace(tiny, model=copy.deepcopy(tiny.model))
    lm.model.set_attn_implementation("eager")
    laws = fed(lm, ids, BoundedCache(BUDGET, model=lm.model), 7)
    assert largest_kl(one_pass(tiny, ids, SinkRecent(), BUDGET), laws) < 1e-5


# --- positions in the cache ---------------------------------------------------------------------


def decode_at_cache_positions(lm, ids, budget: int, n_sink: int) -> torch.Tensor:
    """The plain way: keys before RoPE are kept, and turned anew at their place in the cache at
    every step. Written for the tiny Llama, out of the model's own parts."""
    model, out = lm.model.model, []
    kept: list[list[tuple[torch.Tensor, torch.Tensor]]] = [[] for _ in model.layers]
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    with torch.inference_mode():
        for token in ids:
            x = model.embed_tokens(token[None, None])
            for layer, store in zip(model.layers, kept, strict=True):
                a, h = layer.self_attn, layer.input_layernorm(x)
                q, k, v = (
                    f(h).view(1, 1, -1, a.head_dim).transpose(1, 2)
                    for f in (a.q_proj, a.k_proj, a.v_proj)
                )
                store.append((k, v))
                if len(store) > budget:
                    del store[n_sink]
                keys = torch.cat([k for k, _ in store], dim=2)
                values = torch.cat([v for _, v in store], dim=2)
                n = len(store)
                cos, sin = model.rotary_emb(keys, torch.arange(n)[None])
                _, keys = apply_rotary_pos_emb(keys, keys, cos, sin)
                q, _ = apply_rotary_pos_emb(q, q, cos[:, -1:], sin[:, -1:])
                keys, values = (z.repeat_interleave(2, dim=1) for z in (keys, values))
                mixed = torch.nn.functional.scaled_dot_product_attention(q, keys, values)
                x = x + a.o_proj(mixed.transpose(1, 2).reshape(1, 1, -1))
                x = x + layer.mlp(layer.post_attention_layernorm(x))
            out.append(lm.model.lm_head(model.norm(x))[0, 0])
    return torch.stack(out).double().log_softmax(-1)


@pytest.mark.parametrize("size", [1, 7, LENGTH])
def test_cache_positions_equal_turning_every_key_anew(tiny, size):
    ids = torch.from_numpy(np.random.default_rng(0).integers(1, 250, LENGTH))
    plain = decode_at_cache_positions(tiny, ids, 12, 4)
    cache = BoundedCache(12, 4, model=tiny.model, positions="cache")
    laws = fed(tiny, ids, cache, size)
    assert largest_kl(plain, laws) < 1e-5
    true = fed(tiny, ids, BoundedCache(12, 4, model=tiny.model), size)
    assert largest_kl(plain, true) > 1e-4


def test_cache_positions_do_not_depend_on_chunks(lm, ids):
    whole, parts = (
        fed(lm, ids, BoundedCache(BUDGET, model=lm.model, positions="cache"), size)
        for size in (LENGTH, 11)
    )
    assert largest_kl(whole, parts) < 1e-5


def test_without_sinks_both_kinds_of_positions_agree(tiny):
    ids = torch.from_numpy(np.random.default_rng(0).integers(1, 250, LENGTH))
    one, two = (
        fed(tiny, ids, BoundedCache(9, 0, model=tiny.model, positions=kind), 7)
        for kind in ("true", "cache")
    )
    assert largest_kl(one, two) < 1e-6


# --- memory and manners -------------------------------------------------------------------------


def test_memory_stays_at_its_budget(tiny):
    cache = BoundedCache(BUDGET, model=tiny.model)
    ids = torch.from_numpy(np.random.default_rng(0).integers(1, 250, (2, 200)))
    held = []
    for i in range(0, 200, 20):
        with torch.inference_mode():
            tiny.model(ids[:, i : i + 20], past_key_values=cache)
        held.append(cache.cache_bytes)
    layers, kv_heads, head_dim = 2, 2, 8
    assert set(held) == {2 * layers * 2 * BUDGET * kv_heads * head_dim * 4}


def hooks(lm) -> int:
    return len(lm.model.base_model._forward_pre_hooks)


def test_the_hook_goes_with_the_cache(tiny):
    before = hooks(tiny)
    cache, other = (BoundedCache(8, model=tiny.model) for _ in range(2))
    assert hooks(tiny) == before + 2
    other.close()
    assert hooks(tiny) == before + 1
    del cache
    gc.collect()
    assert hooks(tiny) == before


def test_two_caches_on_one_model_and_none_do_not_disturb_each_other(tiny):
    ids = torch.from_numpy(np.random.default_rng(0).integers(1, 250, 40))
    with torch.inference_mode():
        plain = tiny.model(ids[None]).logits
    alone = [fed(tiny, ids, BoundedCache(b, model=tiny.model), 40) for b in (8, 12)]
    caches = [BoundedCache(b, model=tiny.model) for b in (8, 12)]
    with torch.inference_mode():
        parts = [
            [tiny.model(ids[None, i : i + 10], past_key_values=c).logits[0] for c in caches]
            for i in range(0, 40, 10)
        ]
        again = tiny.model(ids[None]).logits
    for k in range(2):
        laws = torch.cat([p[k] for p in parts]).double().log_softmax(-1)
        assert largest_kl(alone[k], laws) < 1e-6
    assert torch.equal(plain, again)


def test_reset_begins_anew(tiny):
    ids = torch.from_numpy(np.random.default_rng(0).integers(1, 250, 40))
    cache = BoundedCache(8, model=tiny.model)
    first = fed(tiny, ids, cache, 7)
    cache.reset()
    assert cache.get_seq_length() == 0
    assert largest_kl(first, fed(tiny, ids, cache, 7)) < 1e-9


def test_a_forward_that_breaks_off_is_noticed(tiny):
    cache = BoundedCache(8, model=tiny.model)
    ids = torch.arange(1, 11)[None]
    broken = tiny.model.model.layers[1].mlp.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        tiny.model(ids, past_key_values=BoundedCache(8, model=tiny.model))
    broken.remove()
    broken = tiny.model.model.layers[0].mlp.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        tiny.model(ids, past_key_values=cache)
    broken.remove()
    with pytest.raises(RuntimeError, match="broke off"):
        tiny.model(ids, past_key_values=cache)
    cache.reset()
    fed(tiny, ids[0], cache, 5)


# --- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("budget", "n_sink"), [(4, 4), (3, 4), (0, 0), (5, -1)])
def test_a_budget_that_sinks_fill_is_refused(tiny, budget, n_sink):
    with pytest.raises(ValueError, match=f"expected more than n_sink = {n_sink} ≥ 0, got {budget}"):
        BoundedCache(budget, n_sink, model=tiny.model)


def test_padding_on_the_right_is_refused(tiny):
    mask = torch.ones(1, 10, dtype=torch.long)
    mask[0, -2:] = 0
    with pytest.raises(ValueError, match="expected padding on the left"):
        tiny.model(
            torch.arange(1, 11)[None],
            attention_mask=mask,
            past_key_values=BoundedCache(8, model=tiny.model),
        )


def test_padding_after_the_first_chunk_is_refused(tiny):
    cache = BoundedCache(8, model=tiny.model)
    tiny.model(torch.arange(1, 6)[None], past_key_values=cache)
    mask = torch.tensor([[1, 1, 1, 1, 1, 0, 1]])
    with pytest.raises(ValueError, match="expected padding on the left"):
        tiny.model(torch.arange(1, 3)[None], attention_mask=mask, past_key_values=cache)


def test_a_mask_of_its_own_is_refused(tiny):
    with pytest.raises(ValueError, match="one of shape \\(1, 5\\) or none, got \\(1, 1, 5, 5\\)"):
        tiny.model(
            torch.arange(1, 6)[None],
            attention_mask=torch.ones(1, 1, 5, 5, dtype=torch.bool),
            past_key_values=BoundedCache(8, model=tiny.model),
        )


def test_cutting_back_is_refused(tiny):
    with pytest.raises(ValueError, match="crop: expected"):
        BoundedCache(8, model=tiny.model).crop(-1)


def test_architectures_without_such_a_cache_are_refused_by_name():
    from transformers import GPT2Config, GPT2LMHeadModel, T5Config, T5ForConditionalGeneration

    t5 = T5ForConditionalGeneration(
        T5Config(d_model=16, num_layers=1, num_heads=2, d_ff=16, d_kv=8)
    )
    with pytest.raises(ValueError, match="T5ForConditionalGeneration: expected a decoder"):
        BoundedCache(8, model=t5)
    gpt2 = GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=50))
    with pytest.raises(ValueError, match="GPT2LMHeadModel: expected rotary positions"):
        BoundedCache(8, model=gpt2, positions="cache")
    BoundedCache(8, model=gpt2)


def test_another_models_forward_is_noticed(tiny):
    other = copy.deepcopy(tiny.model)
    cache = BoundedCache(8, model=tiny.model)
    other.base_model._forward_pre_hooks.clear()
    with pytest.raises(RuntimeError, match="expected a forward of the model it was made for"):
        other(torch.arange(1, 6)[None], past_key_values=cache)
