"""Where positions end, and where they depend on the length of a forward: refused beyond."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from kvlib.cache import protocols
from kvlib.cache.bounded import BoundedCache
from kvlib.measure import laws
from kvlib.models import check_length, load_model
from kvlib.models.positions import end


def random_ids(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(3, 250, shape))


LONG = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0] * 4,
    "long_factor": [4.0] * 4,
    "original_max_position_embeddings": 40,
}
ENDS = {  # kind → settings, what is there
    "gpt2": (
        {"n_embd": 32, "n_layer": 2, "n_head": 4, "max_position_embeddings": 40},
        "table of positions",
    ),
    "gpt_bigcode": (
        {"n_embd": 32, "n_layer": 2, "n_head": 4, "max_position_embeddings": 40},
        "table of positions",
    ),
    "opt": ({"ffn_dim": 48, "max_position_embeddings": 40}, "table of positions"),
    "biogpt": ({"max_position_embeddings": 40}, "table of positions"),
    "gptj": (
        {"n_embd": 32, "n_layer": 2, "n_head": 4, "max_position_embeddings": 40, "rotary_dim": 8},
        "table of sines",
    ),
    "llama": (
        {
            "max_position_embeddings": 40,
            "rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0},
        },
        r"rotary positions \(dynamic\) turn otherwise",
    ),
    "qwen2": ({"rope_parameters": LONG}, r"rotary positions \(longrope\) turn otherwise"),
    "phi3": (
        {"rope_parameters": LONG, "original_max_position_embeddings": 40},
        r"rotary positions \(longrope\) turn otherwise",
    ),
}


@pytest.fixture(scope="module", params=ENDS)
def ending(request, random_model):
    """A model whose positions end at 40."""
    settings, reason = ENDS[request.param]
    return random_model(request.param, **settings), reason


def test_positions_before_the_end_are_exact_and_beyond_it_refused(ending):
    lm, reason = ending
    assert end(lm.model).tokens == 40
    text, cache = random_ids(1, 50), BoundedCache(16, model=lm.model)
    body = lm.model.base_model
    pieces = [30, 1, 1, 8]
    with torch.inference_mode():
        whole = BoundedCache(16, model=lm.model)
        expected = body(text[:, :40], past_key_values=whole).last_hidden_state
        parts = [
            body(part, past_key_values=cache).last_hidden_state
            for part in text[:, :40].split(pieces, dim=1)
        ]
        assert torch.allclose(torch.cat(parts, dim=1), expected, atol=1e-5)
        for _ in range(2):
            with pytest.raises(ValueError, match=f"positions below 40, .*{reason}, got 40"):
                body(text[:, 40:41], past_key_values=cache)
        with pytest.raises(ValueError, match=f"positions below 40, .*{reason}, got 49"):
            body(text[:, 40:], past_key_values=cache)


def test_padding_takes_no_position(ending):
    lm, _ = ending
    mask = torch.ones(1, 50)
    mask[0, :10] = 0
    cache = BoundedCache(16, model=lm.model)
    lm.model.base_model(random_ids(1, 50), attention_mask=mask, past_key_values=cache)
    with pytest.raises(ValueError, match="positions below 40"):
        lm.model.base_model(random_ids(1, 1), past_key_values=cache)


def test_generate_ends_in_one_clear_line(ending):
    lm, reason = ending
    cache = BoundedCache(16, model=lm.model)
    with pytest.raises((ValueError, RuntimeError), match=f"{reason}|throws it away at 41 tokens"):
        lm.model.generate(
            random_ids(1, 35),
            past_key_values=cache,
            max_new_tokens=10,
            min_new_tokens=10,
            pad_token_id=0,
        )


def test_nothing_is_measured_beyond_the_end(ending):
    lm, reason = ending
    ids = random_ids(41)
    with pytest.raises(ValueError, match=rf"at most 40 tokens \(.*{reason}\), got 41"):
        check_length(lm, 41)
    with pytest.raises(ValueError, match="at most 40 tokens"):
        protocols.FullPass(lm, ids, np.array([3]))
    with pytest.raises(ValueError, match="at most 40 tokens"):
        laws.hidden_states(lm, ids[None])
    with pytest.raises(ValueError, match="at most 40 tokens"):
        laws.states_in_pieces(lm, ids[None], 7)
    shorter = dataclasses.replace(lm, prefix_ids=(1,))
    with pytest.raises(ValueError, match="at most 39 tokens"):
        check_length(shorter, 40)
    check_length(lm, 40)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "phi3"])
def test_the_reason_laws_depend_on_what_they_are_packed_with(random_model, kind):
    """The law of a window of 8 is one thing in forwards below the end, another beyond it."""
    lm = random_model(kind, **ENDS[kind][0])
    ids = random_ids(1, 60)

    def first(tokens: int) -> torch.Tensor:
        with torch.inference_mode():
            states = lm.model.base_model(ids[:, :tokens], use_cache=False).last_hidden_state
        return states[0, :8]

    assert torch.allclose(first(8), first(40), atol=1e-5)
    assert not torch.allclose(first(8), first(60), atol=1e-3)
    cache = BoundedCache(16, model=lm.model)
    with torch.inference_mode():  # after such a forward of somebody else's
        states = lm.model.base_model(ids[:, :8], past_key_values=cache).last_hidden_state
    assert torch.allclose(states[0], first(8), atol=1e-5)


def test_other_models_have_no_end(tiny, sliding, random_model):
    yarn = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}
    yarn |= {"original_max_position_embeddings": 40}
    for lm in (tiny, sliding, random_model("llama", rope_parameters=yarn)):
        assert end(lm.model) is None
        check_length(lm, 100_000)


def test_the_small_model_ends_where_it_is_said():
    assert end(load_model("small-gpt2", device="cpu").model).tokens == 1024
