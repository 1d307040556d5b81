"""Architectures with positions or windows of their own: exact, or refused by name."""

from __future__ import annotations

import copy
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from transformers import DynamicCache

from kvlib.cache import protocols
from kvlib.cache.bounded import BoundedCache
from kvlib.cache.policies import SinkRecent
from kvlib.models import cache_cost, masks

LENGTH = 40
EVERY = {  # kind → settings; window of all layers, or none
    "mistral": {"sliding_window": 10},
    "phi3": {"sliding_window": 10},
    "starcoder2": {"sliding_window": 10},
    "mixtral": {"sliding_window": 10},
    "opt": {"ffn_dim": 48},
    "falcon": {"alibi": False, "head_dim": None},
}
ALIBI = {"bloom": {}, "mpt": {}, "falcon": {"alibi": True, "head_dim": None}}


def random_ids(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(3, 250, shape))


def seen_by_definition(window: int) -> torch.Tensor:
    """(queries, entries): 4 sinks and 12 recent tokens, within the model's own window."""
    t = torch.arange(LENGTH)
    query, entry = t[:, None], t
    seen = (entry <= query) & ((entry > query - 12) | (entry < 4))
    return seen & (query - entry < window) if window else seen


@pytest.fixture(scope="module", params=EVERY)
def lm(request, random_model):
    return random_model(request.param, **EVERY[request.param])


@pytest.fixture(scope="module")
def expected(lm) -> torch.Tensor:
    """Last hidden states (tokens, width) of one forward under the definition's mask."""
    window = EVERY[lm.name].get("sliding_window", 0)
    with torch.inference_mode():
        return lm.model.base_model(
            random_ids(1, LENGTH),
            attention_mask=seen_by_definition(window)[None, None],
            position_ids=torch.arange(LENGTH)[None],
            use_cache=False,
        ).last_hidden_state[0]


@pytest.mark.parametrize("feed", [[LENGTH], [20, 1, 1, 7, 1, 10]], ids=str)
def test_laws_are_those_of_one_pass(lm, expected, feed):
    cache = BoundedCache(16, 4, model=lm.model)
    with torch.inference_mode():
        parts = [
            lm.model.base_model(part, past_key_values=cache).last_hidden_state[0]
            for part in random_ids(1, LENGTH).split(feed, dim=1)
        ]
    scale = expected.abs().max()
    assert (torch.cat(parts) - expected).abs().max() < 1e-5 * scale
    assert cache.layers[0].keys.shape[2] == 16


def test_laws_are_those_of_the_measurement(lm, expected):
    masks.check_masks(lm.model)
    full = protocols.FullPass(lm, random_ids(LENGTH), np.arange(LENGTH))
    online = protocols.online_hidden(full, SinkRecent(4), 16, rng=np.random.default_rng(0))
    assert (online - expected).abs().max() < 1e-5 * expected.abs().max()


def test_a_whole_model_with_a_large_budget_is_the_plain_one(lm):
    """Its head may call another part of it than the base model (OPT)."""
    text, cache = random_ids(1, LENGTH), BoundedCache(99, model=lm.model)
    with torch.inference_mode():
        plain = lm.model(text, use_cache=False).logits
        parts = [lm.model(part, past_key_values=cache).logits for part in text.split(13, dim=1)]
    assert (torch.cat(parts, dim=1) - plain).abs().max() < 1e-4 * plain.abs().max()
    settings = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    cache = BoundedCache(99, model=lm.model)
    given = lm.model.generate(text, past_key_values=cache, **settings)
    assert torch.equal(given, lm.model.generate(text, **settings))


def test_a_window_of_all_layers_bounds_what_a_plain_cache_holds(random_model):
    config = random_model("mistral", sliding_window=10).model.config
    cost = cache_cost(config)
    plain = DynamicCache(config=config)
    assert cost.full == 0 and cost.local == 10
    assert len(plain.layers) == 4 and all(layer.is_sliding for layer in plain.layers)


@pytest.mark.parametrize("kind", ALIBI)
def test_biases_by_the_order_of_entries_are_refused_by_name(random_model, kind):
    model = random_model(kind, **ALIBI[kind]).model
    with pytest.raises(ValueError, match=f"{type(model).__name__}: .* got ALiBi, which counts its"):
        BoundedCache(8, model=model)
    with pytest.raises(ValueError, match="got ALiBi"):
        masks.check_masks(model)


def test_six_threads_on_one_new_model(tiny):
    """Each with caches of its own; the model gets its hook while others run it already."""
    text, settings = random_ids(1, 12), {"max_new_tokens": 4, "min_new_tokens": 4}
    settings |= {"do_sample": False, "pad_token_id": 0}
    cache = BoundedCache(8, 2, model=tiny.model)
    expected = tiny.model.generate(text, past_key_values=cache, **settings)

    def work(model, begin: threading.Barrier) -> bool:
        begin.wait()
        found = []
        for _ in range(3):
            model(text)
            cache = BoundedCache(8, 2, model=model)
            found.append(model.generate(text, past_key_values=cache, **settings))
        return all(torch.equal(one, expected) for one in found)

    fresh = copy.deepcopy(tiny.model)
    for part in (fresh, fresh.base_model):
        for hooks in ("_forward_pre_hooks", "_forward_hooks"):
            getattr(part, hooks).clear()
    with ThreadPoolExecutor(6) as pool:
        for _ in range(5):
            model, begin = copy.deepcopy(fresh), threading.Barrier(6)
            tasks = [pool.submit(work, model, begin) for _ in range(6)]
            assert all(task.result() for task in tasks)
