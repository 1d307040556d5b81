"""A bounded cache that can go back: drafted tokens leave no trace, in `generate` as by hand."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from eviction import SAME, expected_states, fed, generate, largest_kl, padded, random_ids

from kvlib.cache.bounded import BoundedCache

BUDGET, N_SINK, BACK = 12, 4, 5


@pytest.fixture(scope="module", params=["sdpa", "eager"])
def lm(request, tiny):
    model = copy.deepcopy(tiny.model)
    model.set_attn_implementation(request.param)
    return dataclasses.replace(tiny, model=model)


def drafted(lm, ids, cache, rounds) -> torch.Tensor:
    """Last hidden states of `ids` when each round reads right tokens, then wrong ones that go."""
    states, end = [], 0
    for right, wrong, feed in rounds:
        junk = random_ids(wrong, seed=end + 1)
        burst = torch.cat([ids[end : end + right], junk])
        size = len(burst) if feed == "at once" else 1
        feed = [min(size, len(burst) - k) for k in range(0, len(burst), size)]
        states.append(fed(lm, burst, cache, feed)[:right])
        cache.crop(-wrong)
        end += right
        assert cache.get_seq_length() == end
    assert end == len(ids)
    return torch.cat(states)


ROUNDS = {
    "short of the budget": [
        (3, 5, "at once"),
        (2, 0, "singly"),
        (1, 4, "singly"),
        (3, 1, "singly"),
    ],
    "a burst across the budget": [(10, 0, "at once"), (2, 3, "at once"), (18, 0, "singly")],
    "single tokens across it": [(10, 0, "at once"), (2, 3, "singly"), (18, 0, "singly")],
    "a long prompt": [(30, 5, "at once"), (1, 5, "at once"), (1, 5, "singly"), (4, 2, "at once")],
    "round after round": [(14, 2, "at once"), *[(1 + k % 3, k % 6, "at once") for k in range(12)]],
    "round after round, singly": [(14, 2, "singly"), *[(1, k % 6, "singly") for k in range(18)]],
}
SOME = list(ROUNDS.values())[1::2]


@pytest.mark.parametrize("rounds", ROUNDS.values(), ids=ROUNDS)
def test_laws_are_as_if_nothing_had_been_drafted(lm, rounds):
    ids = random_ids(sum(right for right, *_ in rounds))
    cache = BoundedCache(BUDGET, N_SINK, model=lm.model, rollback=BACK)
    states = drafted(lm, ids, cache, rounds)
    assert largest_kl(lm, expected_states(lm, ids, BUDGET, N_SINK), states) < SAME


@pytest.mark.parametrize("rounds", SOME)
def test_sliding_layers_go_back_too(sliding, rounds):
    """Windows of 20 tokens beside 8 recent ones and 4 sinks, that go out of sight and come back."""
    ids = random_ids(sum(right for right, *_ in rounds))
    cache = BoundedCache(BUDGET, N_SINK, model=sliding.model, rollback=BACK)
    states = drafted(sliding, ids, cache, rounds)
    assert largest_kl(sliding, expected_states(sliding, ids, BUDGET, N_SINK), states) < SAME


@pytest.mark.parametrize("rounds", SOME)
def test_sinks_that_stand_in_the_cache_go_back_too(lm, rounds):
    ids = random_ids(sum(right for right, *_ in rounds))
    settings = {"model": lm.model, "positions": "cache"}
    plain = fed(lm, ids, BoundedCache(BUDGET, N_SINK, **settings), [len(ids)])
    states = drafted(lm, ids, BoundedCache(BUDGET, N_SINK, **settings, rollback=BACK), rounds)
    assert largest_kl(lm, plain, states) < SAME


def test_what_is_kept_for_going_back_is_needed(tiny):
    """Taken back by hand where nothing was kept, the laws are others: an entry is missing."""
    ids = random_ids(31)
    cache = BoundedCache(BUDGET, N_SINK, model=tiny.model)
    fed(tiny, torch.cat([ids[:30], random_ids(3, seed=1)]), cache, [33])
    cache.floor, cache.last = 0, torch.tensor([[[30, 0], [31, 0], [32, 0]]])
    cache.crop(-3)
    states = fed(tiny, ids[30:], cache, [1])
    assert largest_kl(tiny, expected_states(tiny, ids, BUDGET, N_SINK)[30:], states) > 1e-4


def test_a_padded_batch_goes_back_row_by_row(lm):
    """One row has passed the budget, one begins within the drafted tokens, one has two of them."""
    ids, lengths, end = random_ids(36), (36, 14, 3), 0
    batch, mask = padded(ids, lengths)
    mask = torch.nn.functional.pad(mask, (0, BACK), value=1)
    cache, states = BoundedCache(BUDGET, N_SINK, model=lm.model, rollback=BACK), []
    for size in (20, 10, 1, 1, 1, 1, 1, 1):
        for junk in (True, False):
            begin, end = end, end + (BACK if junk else size)
            part = random_ids(3, BACK, seed=end) if junk else batch[:, begin:end]
            given = {"attention_mask": mask[:, :end], "past_key_values": cache}
            with torch.inference_mode():
                out = lm.model.base_model(part, **given).last_hidden_state
            if junk:
                cache.crop(-BACK)
                end = begin
            else:
                states.append(out)
    expected, states = expected_states(lm, ids, BUDGET, N_SINK), torch.cat(states, dim=1)
    for row, n in enumerate(lengths):
        assert largest_kl(lm, expected[:n], states[row, 36 - n :]) < SAME


def test_a_copy_and_chosen_rows_go_back(tiny):
    ids = random_ids(31)
    burst = torch.cat([ids[:30], random_ids(4, seed=1)])
    cache = BoundedCache(BUDGET, N_SINK, model=tiny.model, rollback=BACK)
    fed(tiny, burst, cache, [34])
    cache.batch_repeat_interleave(2)
    cache.batch_select_indices(torch.tensor([1]))
    expected = expected_states(tiny, ids, BUDGET, N_SINK)[30:]
    for one in (copy.deepcopy(cache), cache):
        one.crop(-4)
        assert largest_kl(tiny, expected, fed(tiny, ids[30:], one, [1])) < SAME


# --- generate -----------------------------------------------------------------------------------


@contextmanager
def crops(cache) -> Iterator[list[int]]:
    """What is cropped within it."""
    found, crop = [], cache.crop

    def noted(tokens_to_remove: int) -> None:
        found.append(tokens_to_remove)
        crop(tokens_to_remove)

    cache.crop = noted
    try:
        yield found
    finally:
        del cache.crop


def assistant_of(model, noise: float = 0.0):
    """The same model, or one whose weights are a little off, so that it is often wrong."""
    assistant = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(0)
    for weight in assistant.parameters():
        weight += noise * weight.std() * torch.randn(weight.shape, generator=generator)
    assistant.generation_config.num_assistant_tokens = BACK
    assistant.generation_config.assistant_confidence_threshold = 0.0
    return assistant


def written(model, ids, cache, **helped) -> torch.Tensor:
    """(1, tokens) with 36 greedy ones; padding is no token that could be written."""
    return generate(model, ids, 36, past_key_values=cache, pad_token_id=257, **helped)


def repeating(tokens: int) -> torch.Tensor:
    """(1, tokens) ids among which pairs come again, so that looking up finds something."""
    return random_ids(4, seed=3)[torch.from_numpy(random_ids(tokens, seed=4).numpy() % 4)][None]


@pytest.mark.parametrize(
    ("way", "prompt", "kind"),
    [
        ("look-up", 5, "true"),
        ("look-up", 40, "cache"),
        ("assistant", 5, "cache"),
        ("assistant", 40, "true"),
    ],
)
def test_generate_writes_what_plain_greedy_decoding_writes(lm, way, prompt, kind):
    settings, ids = {"model": lm.model, "positions": kind}, repeating(prompt)
    expected = written(lm.model, ids, BoundedCache(BUDGET, N_SINK, **settings))
    helped = {"prompt_lookup_num_tokens": BACK}
    if way == "assistant":
        helped = {"assistant_model": assistant_of(lm.model, noise=0.1)}
    cache = BoundedCache(BUDGET, N_SINK, **settings, rollback=BACK)
    with crops(cache) as found:
        assert torch.equal(written(lm.model, ids, cache, **helped), expected)
    assert cache.get_seq_length() == prompt + 35
    assert min(found) < 0  # some drafts were wrong
    assert way == "look-up" or len(found) < 36  # some were right


@pytest.mark.parametrize("noise", [0.0, 0.1])
@pytest.mark.parametrize("budget", [BUDGET, None])
def test_an_assistant_may_have_a_bounded_cache(tiny, monkeypatch, budget, noise):
    """What is written is the target's, whose cache is bounded or not. An assistant that is the same
    model with the same cache is always right."""
    assistant, ids = assistant_of(tiny.model, noise), repeating(30)
    target = plain = None
    if budget:
        target = BoundedCache(budget, N_SINK, model=tiny.model, rollback=BACK)
        plain = BoundedCache(budget, N_SINK, model=tiny.model)
    cache = BoundedCache(BUDGET, N_SINK, model=assistant, rollback=BACK)
    write = functools.partial(type(assistant).generate, assistant, past_key_values=cache)
    monkeypatch.setattr(assistant, "generate", write)
    with crops(cache) as found:
        out = written(tiny.model, ids, target, assistant_model=assistant)
    assert torch.equal(out, written(tiny.model, ids, plain))
    if budget and not noise:
        assert len(found) == 36 // (BACK + 1) - 1 and max(found) == min(found) == 0
    else:
        assert min(found) < 0


# --- memory and bad input -----------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, BACK, 20])
def test_memory_is_the_budget_and_what_may_come_back(tiny, size):
    cache, held = BoundedCache(BUDGET, model=tiny.model, rollback=BACK), []
    with torch.inference_mode():
        for part in random_ids(2, 200).split(size, dim=1):
            tiny.model.base_model(part, past_key_values=cache)
            held.append(cache.cache_bytes)
            cache.crop(-min(size, BACK) + 1)
    layers, kv_heads, head_dim = 2, 2, 8
    assert max(held) == held[-1] == 2 * layers * 2 * (BUDGET + BACK) * kv_heads * head_dim * 4


def test_memory_is_flat_over_thousands_of_tokens(tiny):
    """Storage of every tensor that the cache holds on to, not of what it shows of them."""
    cache, held = BoundedCache(BUDGET, model=tiny.model, rollback=BACK), set()
    with torch.inference_mode():
        for k, part in enumerate(random_ids(1, 3020).split([60] + [37, 1, 1, 1] * 74, dim=1)):
            tiny.model.base_model(part, past_key_values=cache)
            if k and not k % 4:
                parts = [*vars(cache).values()]
                parts += [part for layer in cache.layers for part in (layer.keys, layer.values)]
                stored = [x.untyped_storage() for x in parts if isinstance(x, torch.Tensor)]
                held.add(sum({part.data_ptr(): part.nbytes() for part in stored}.values()))
    assert len(held) == 1


def test_going_back_further_is_refused(tiny):
    cache = BoundedCache(BUDGET, model=tiny.model, rollback=BACK)
    assert cache.is_croppable
    with pytest.raises(ValueError, match=r"crop: expected 0 \(.*rollback=5\), got -1"):
        cache.crop(-1)
    fed(tiny, random_ids(40), cache, [40])
    for wrong in (-6, 1, 40):
        with pytest.raises(ValueError, match=rf"crop: expected -5 to 0 \(.*=5\), got {wrong}$"):
            cache.crop(wrong)
    cache.crop(-3)
    for _ in range(2):
        with pytest.raises(ValueError, match="crop: expected -2 to 0"):
            cache.crop(-3)
        cache.crop(0)
    fed(tiny, random_ids(1), cache, [1])
    with pytest.raises(ValueError, match="crop: expected -3 to 0"):
        cache.crop(-4)
    cache.crop(-3)
    assert cache.get_seq_length() == 35


def test_without_rollback_every_crop_is_refused(tiny):
    cache = BoundedCache(BUDGET, model=tiny.model)
    fed(tiny, random_ids(5), cache, [5])
    assert not cache.is_croppable
    with pytest.raises(ValueError, match=r"crop: expected 0 \(.*rollback=0\), got -1"):
        cache.crop(-1)
    with pytest.raises(ValueError, match="rollback: expected 0 tokens or more, got -1"):
        BoundedCache(BUDGET, model=tiny.model, rollback=-1)


def test_a_forward_that_broke_off_cannot_be_taken_back(tiny):
    cache = BoundedCache(BUDGET, model=tiny.model, rollback=BACK)
    broken = tiny.model.model.norm.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fed(tiny, random_ids(4), cache, [4])
    broken.remove()
    with pytest.raises(RuntimeError, match="broke off in the middle; reset"):
        cache.crop(-1)
