"""A cache for every policy that has an online form: its laws are those that are measured."""

from __future__ import annotations

import copy
import dataclasses
import io
import pickle
import re

import numpy as np
import pytest
import torch
from eviction import SAME, fed, generate, largest_kl, random_ids

from kvlib.cache import protocols
from kvlib.cache.bounded import BoundedCache
from kvlib.cache.by_policy import draws
from kvlib.cache.policies import NAMED, TOVA, RandomRetention, SinkRecent, SnapKV, Static
from kvlib.models import masks
from kvlib.plan.translate import settings

BUDGET, LENGTH = 12, 34
ONLINE = [p for p in NAMED.values() if "online" in p.protocols and p.least <= BUDGET]
STATIC = [p for p in ONLINE if p.kind == "static" and p.positions == "true"]
SCORED = [p for p in ONLINE if p.kind == "scored"]


def key(policy) -> str:
    return policy.key


@pytest.fixture(scope="module", params=["tiny", "sliding"])
def lm(request):
    """Both in eager attention, and without the token that stands before texts."""
    given = request.getfixturevalue(request.param)
    model = copy.deepcopy(given.model)
    model.set_attn_implementation("eager")
    return dataclasses.replace(given, model=model, prefix_ids=())


@pytest.fixture(scope="module")
def full(lm):
    return protocols.FullPass(lm, random_ids(LENGTH), np.arange(LENGTH))


def one_pass(full, policy, seed: int) -> torch.Tensor:
    """A static policy by a mask for each layer and head, drawn as the cache draws."""
    lm, config = full.lm, full.lm.model.config
    layers = len(masks.attention_modules(lm.model))
    shape = (layers, config.num_key_value_heads) if policy.by_head else (1, 1)
    rngs = draws(seed, shape[0] * shape[1])
    drawn = np.array([policy.survivors(LENGTH, BUDGET, rng) for rng in rngs])
    seen = torch.from_numpy(drawn.reshape(*shape, LENGTH, LENGTH))
    windows, rows = masks.sliding_windows(lm.model), torch.arange(LENGTH)

    def mask(k: int) -> torch.Tensor:
        return seen[k % len(seen)] & masks.near(rows, LENGTH, windows[k])

    with torch.inference_mode(), masks.layer_masks(lm.model, mask):
        placeholder = masks.placeholder(lm.model, LENGTH, LENGTH)
        out = lm.model.base_model(full.ids[None], attention_mask=placeholder, use_cache=False)
    return out.last_hidden_state[0]


@pytest.mark.parametrize("feed", [[1] * LENGTH, [20, 1, 1, 7, 5]], ids=["tokens", "chunks"])
@pytest.mark.parametrize("policy", STATIC, ids=key)
def test_laws_of_a_static_policy_are_those_of_one_pass(full, policy, feed):
    if full.lm.name == "sliding" and policy.key not in ("sinks", "random", "random-heads-recent"):
        pytest.skip("tiny shows it")
    cache = BoundedCache(BUDGET, policy=policy, model=full.lm.model, seed=3)
    states = fed(full.lm, full.ids, cache, feed)
    assert largest_kl(full.lm, one_pass(full, policy, 3), states) < SAME
    if not policy.by_head:
        measured = protocols.run(full, policy, "online", BUDGET, np.random.default_rng(3))
        assert largest_kl(full.lm, measured, states) < SAME


@pytest.mark.parametrize("step", [1, 2])
@pytest.mark.parametrize("policy", SCORED, ids=key)
def test_laws_of_a_scored_policy_are_those_that_are_measured(full, policy, step):
    cache = BoundedCache(BUDGET, policy=policy, model=full.lm.model)
    feed = [min(step, LENGTH - k) for k in range(0, LENGTH, step)]
    states = fed(full.lm, full.ids, cache, feed)
    measured = protocols.decode_hidden(
        full.lm, full.ids, full.targets, policy, BUDGET, np.random.default_rng(0), step
    )
    assert largest_kl(full.lm, measured, states) < SAME
    assert largest_kl(full.lm, full.states, states) > 1e-3


@pytest.mark.parametrize("policy", SCORED, ids=key)
def test_a_prompt_in_the_pieces_of_the_setting_to_paste_has_the_laws_that_are_measured(lm, policy):
    """In larger pieces it has others."""
    budget, length = 32, 80
    full = protocols.FullPass(lm, random_ids(length), np.arange(length))
    measured = protocols.run(full, policy, "online", budget, np.random.default_rng(0))
    (piece,) = re.findall(r"prefill_chunk_size=(\d+)", settings(policy.key, budget)[0].lines)
    for size in (int(piece), budget // 2):
        cache = BoundedCache(budget, policy=policy, model=lm.model)
        feed = [min(size, length - k) for k in range(0, length, size)]
        off = largest_kl(lm, measured, fed(lm, full.ids, cache, feed))
        assert off < SAME if size == int(piece) else off > 1e-4


@pytest.mark.parametrize("policy", ONLINE, ids=key)
def test_memory_stays_at_its_budget_and_rows_do_not_meet(tiny_eager, policy):
    """Two texts in a batch, selected and copied on the way, are as each by itself."""
    texts, held = torch.stack([random_ids(30, seed=s) for s in (0, 1)]), []
    cache = BoundedCache(BUDGET, policy=policy, model=tiny_eager.model)
    states = []
    for k, part in enumerate(texts.split([5, 1, 1, 9, 1, 1, 11, 1], dim=1)):
        with torch.inference_mode():
            out = tiny_eager.model(part, past_key_values=cache, output_hidden_states=True)
        states.append(out.hidden_states[-1])
        held.append(cache.cache_bytes)
        if k == 3:
            cache = copy.deepcopy(cache)
            cache.batch_repeat_interleave(2)
            cache.batch_select_indices(torch.tensor([1, 3]))
    layers, kv_heads, head_dim = 2, 2, 8
    assert max(held) == held[-1] == 2 * layers * 2 * BUDGET * kv_heads * head_dim * 4
    for row, text in enumerate(texts):
        alone = BoundedCache(BUDGET, policy=policy, model=tiny_eager.model)
        expected = fed(tiny_eager, text, alone, [5, 1, 1, 9, 1, 1, 11, 1])
        assert largest_kl(tiny_eager, expected, torch.cat(states, dim=1)[row]) < SAME


@pytest.fixture(scope="module")
def tiny_eager(tiny):
    model = copy.deepcopy(tiny.model)
    model.set_attn_implementation("eager")
    return dataclasses.replace(tiny, model=model)


@pytest.mark.parametrize("policy", STATIC, ids=key)
def test_steps_are_the_rows_of_survivors(policy):
    """Of a text whose length nobody knows, from the same draws."""
    seen = policy.survivors(60, BUDGET, np.random.default_rng(5))
    rng, held = np.random.default_rng(5), np.arange(0)
    for t in range(60):
        held = policy.step(held, t, BUDGET, rng)
        assert held[-1] == t
        assert sorted(held) == list(np.flatnonzero(seen[t]))


@pytest.mark.parametrize("name", ["tova", "h2o", "random-heads", "key-norm"])
def test_generate_writes_from_it(tiny_eager, name):
    """In chunks, sampled beams included; token by token it is what the laws say."""
    model, prompt = tiny_eager.model, random_ids(1, 20)
    given = {"policy": NAMED[name], "model": model}
    out = generate(
        model, prompt, 8, past_key_values=BoundedCache(BUDGET, **given), prefill_chunk_size=5
    )
    cache, written = BoundedCache(BUDGET, **given), []
    with torch.inference_mode():
        for part in prompt.split(5, dim=1):
            logits = model(part, past_key_values=cache).logits
        for _ in range(8):
            written.append(logits[:, -1:].argmax(-1))
            logits = model(written[-1], past_key_values=cache).logits
    assert torch.equal(out[:, 20:], torch.cat(written, dim=1))
    for beams in (
        generate(
            model,
            prompt,
            8,
            past_key_values=BoundedCache(BUDGET, **given),
            prefill_chunk_size=5,
            num_beams=1 + k,
        )
        for k in (0, 2)
    ):
        assert beams.shape == (1, 28)


def test_key_norms_need_no_eager_attention(tiny, tiny_eager):
    ids, policy = random_ids(LENGTH), NAMED["key-norm"]
    one, two = (
        fed(lm, ids, BoundedCache(BUDGET, policy=policy, model=lm.model), [1] * LENGTH)
        for lm in (tiny, tiny_eager)
    )
    assert largest_kl(tiny, one, two) < SAME


@pytest.mark.parametrize("policy", [SinkRecent(2), SinkRecent(3, positions="cache")], ids=key)
def test_sinks_and_recent_are_the_cache_itself(tiny, policy):
    ids = random_ids(LENGTH)
    given = BoundedCache(BUDGET, policy=policy, model=tiny.model, rollback=2)
    plain = BoundedCache(BUDGET, policy.n_sink, model=tiny.model, positions=policy.positions)
    assert type(given) is BoundedCache
    one, two = (fed(tiny, ids, cache, [20, 1, 13]) for cache in (given, plain))
    assert largest_kl(tiny, one, two) < SAME


GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}


def test_other_architectures_and_plain_caches_beside_it(random_model):
    """Learned positions; and a plain forward of the same model, hooks and all, is what it was."""
    gpt2 = random_model("gpt2", **GPT2, num_key_value_heads=4)
    gpt2.model.set_attn_implementation("eager")
    ids, policy = random_ids(LENGTH), NAMED["h2o"]
    with torch.inference_mode():
        before = gpt2.model(ids[None]).logits
    states = fed(gpt2, ids, BoundedCache(BUDGET, policy=policy, model=gpt2.model), [2] * 17)
    measured = protocols.decode_hidden(
        dataclasses.replace(gpt2, prefix_ids=()),
        *(ids, np.arange(LENGTH), policy, BUDGET, np.random.default_rng(0), 2),
    )
    assert largest_kl(gpt2, measured, states) < SAME
    with torch.inference_mode():
        assert torch.equal(gpt2.model(ids[None]).logits, before)


def test_a_policy_of_ones_own(tiny):
    """Every other entry, and the newest ones: whatever `kept` says."""

    @dataclasses.dataclass(frozen=True)
    class Even(Static):
        key = "even"
        least = 4

        def kept(self, context, budget, rng):
            first = np.arange(0, context, 2)[: budget - 3]
            newest = np.arange(max(0, context - 3), context)
            return np.union1d(first, newest)

    ids, policy = random_ids(LENGTH), Even()
    full = protocols.FullPass(tiny, ids, np.arange(LENGTH))
    states = fed(tiny, ids, BoundedCache(BUDGET, policy=policy, model=tiny.model), [20, 1, 13])
    assert largest_kl(tiny, one_pass(full, policy, 0), states) < SAME


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"policy": TOVA()}, "TOVA: expected eager attention, .* got sdpa"),
        ({"policy": SnapKV()}, "policy: expected one with an online form, got SnapKV"),
        ({"policy": "tova"}, "policy: expected one with an online form, got str"),
        ({"policy": NAMED["random-closed-up"]}, "expected one of its protocols reencode"),
        ({"policy": RandomRetention(), "positions": "cache"}, "positions: expected 'true' with"),
        ({"policy": RandomRetention(), "rollback": 3}, "rollback: expected 0 with .*, got 3"),
        ({"policy": RandomRetention(), "n_sink": 4}, "n_sink: expected the policy's own 0, got 4"),
        ({"policy": SinkRecent(2), "n_sink": 4}, "n_sink: expected the policy's own 2, got 4"),
        (
            {"policy": SinkRecent(), "positions": "cache"},
            "positions: expected 'true' as the policy has, got 'cache'",
        ),
        ({"policy": RandomRetention(n_sink=12)}, "budget: expected at least 13, got 12"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused(tiny, settings, message):
    with pytest.raises(ValueError, match=message):
        BoundedCache(BUDGET, model=tiny.model, **settings)


def test_attention_that_cannot_be_followed_is_refused_by_name(random_model):
    """Here one with other KV heads than its settings say."""
    model = random_model("gpt2", **GPT2, num_key_value_heads=2).model
    with pytest.raises(ValueError, match="GPT2LMHeadModel: expected attention that is handed its"):
        BoundedCache(BUDGET, policy=RandomRetention(), model=model)


def test_long_forwards_padding_and_crops_are_refused(tiny_eager):
    cache = BoundedCache(BUDGET, policy=TOVA(), model=tiny_eager.model)
    with pytest.raises(ValueError, match="fewer tokens than the budget 12, got 12; .*chunk_size"):
        fed(tiny_eager, random_ids(12), cache, [12])
    fed(tiny_eager, random_ids(11), cache, [11])  # nothing was changed
    cache.crop(0)
    with pytest.raises(ValueError, match="crop: expected 0 with TOVA, got -1"):
        cache.crop(-1)
    cache = BoundedCache(BUDGET, policy=TOVA(), model=tiny_eager.model)
    mask = torch.tensor([[0, 1, 1]])
    with pytest.raises(ValueError, match="TOVA: expected texts without padding"):
        tiny_eager.model(random_ids(1, 3), attention_mask=mask, past_key_values=cache)


@pytest.mark.parametrize("policy", [TOVA(), RandomRetention()], ids=key)
def test_what_a_policy_cannot_do_is_one_line(tiny_eager, policy):
    def made() -> BoundedCache:
        return BoundedCache(BUDGET, policy=policy, model=tiny_eager.model)

    ids, mask = random_ids(2, 9), torch.ones(2, 9, dtype=torch.long)
    mask[0, :3] = 0
    plain = BoundedCache(BUDGET, n_sink=2, model=tiny_eager.model).state()
    given = {"do_sample": False, "pad_token_id": 0, "min_new_tokens": 8, "max_new_tokens": 8}
    tried = [
        (lambda: made().state(), "state: expected a cache of sinks and recent tokens"),
        (lambda: pickle.dumps(made()), "state: expected a cache of sinks and recent tokens"),
        (lambda: torch.save(made(), io.BytesIO()), "it cannot be stored"),
        (lambda: type(made()).from_state(plain, model=tiny_eager.model), "cannot be stored"),
        (lambda: made().attach(tiny_eager.model), "attach: expected a cache that was unpickled"),
        (lambda: made().crop(-3), "crop: expected 0 with .*, got -3"),
        (
            lambda: tiny_eager.model.generate(
                ids, attention_mask=mask, past_key_values=made(), **given
            ),
            "expected texts without padding",
        ),
    ]
    for attempt, message in tried:
        with pytest.raises(ValueError, match=message) as caught:
            attempt()
        assert len(str(caught.value).splitlines()) == 1


def test_attention_that_is_switched_under_way_is_refused(tiny_eager):
    cache = BoundedCache(BUDGET, policy=TOVA(), model=tiny_eager.model)
    fed(tiny_eager, random_ids(5), cache, [5])
    tiny_eager.model.set_attn_implementation("sdpa")
    try:
        with pytest.raises(ValueError, match="TOVA: expected eager attention, .* got sdpa"):
            fed(tiny_eager, random_ids(3), cache, [3])
    finally:
        tiny_eager.model.set_attn_implementation("eager")


def test_a_cache_that_scores_is_copied_where_gradients_are_wanted(tiny_eager):
    cache = BoundedCache(BUDGET, policy=TOVA(), model=tiny_eager.model)
    model, ids = tiny_eager.model, random_ids(1, 11)
    embedded = model.get_input_embeddings()(ids).requires_grad_()
    model(inputs_embeds=embedded, past_key_values=cache)
    twin = copy.deepcopy(cache)
    steps = [model(ids[:, :1], past_key_values=one).logits for one in (cache, twin)]
    assert torch.equal(*steps)
