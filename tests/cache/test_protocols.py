"""The three protocols: each fast route equals its plain twin, and they are three things."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
from transformers import DynamicCache, GPTNeoXConfig, GPTNeoXForCausalLM

from kvlib import measure
from kvlib.cache import protocols
from kvlib.cache.bounded import BoundedCache
from kvlib.cache.policies import (
    TOVA,
    ExpectedAttention,
    HeavyHitter,
    KeyNorm,
    RandomRetention,
    SinkRecent,
    SlidingWindow,
    SnapKV,
)
from kvlib.models import LanguageModel, masks
from kvlib.models.rotary import LayerPass
from kvlib.names import PROTOCOLS

LENGTH = 34  # tokens of a text; budgets are 12
STATIC = [
    SlidingWindow(),
    SinkRecent(),
    RandomRetention(),
    RandomRetention(n_sink=4),
    RandomRetention(scope="heads"),
]
SCORED = [HeavyHitter(), TOVA(), KeyNorm()]
AFTERWARDS = [SnapKV(window=4, kernel=3), ExpectedAttention(future=16)]  # after a prefill only


def names(policy) -> str:
    return policy.key


def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def laws(lm, hidden: torch.Tensor) -> torch.Tensor:
    return measure.log_laws(lm, hidden)


def largest_kl(lm, one: torch.Tensor, other: torch.Tensor) -> float:
    """Largest KL between laws of the same rows."""
    p, q = laws(lm, one).double(), laws(lm, other).double()
    d = p - q  # Σ p (d + e^-d - 1): laws in float32 do not add up to 1 exactly
    return float((p.exp() * (d + torch.expm1(-d))).sum(-1).max())


@pytest.fixture(scope="module", params=["tiny", "sliding"])
def lm(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def text() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(1, 250, LENGTH))


TARGETS = np.arange(14, LENGTH, 3)


@pytest.fixture(scope="module")
def full(lm, text):
    return protocols.FullPass(lm, text, TARGETS, [*SCORED, *AFTERWARDS])


# --- online: one forward equals decoding with a cache that evicts -------------------------------


@pytest.mark.parametrize("policy", STATIC, ids=names)
def test_one_pass_equals_honest_decoding(lm, text, full, policy):
    fast = protocols.online_hidden(full, policy, 12, rng())
    honest = protocols.decode_hidden(lm, text, TARGETS, policy, 12, rng())
    assert largest_kl(lm, fast, honest) < 2e-5


def test_one_pass_equals_honest_decoding_on_trained_models(trained, passage):
    text = torch.from_numpy(passage(trained, LENGTH))
    scored = [HeavyHitter(), SnapKV(window=4, kernel=3)]
    full = protocols.FullPass(trained, text, TARGETS, scored)
    for policy in (SinkRecent(), RandomRetention(scope="heads")):
        fast = protocols.online_hidden(full, policy, 12, rng())
        honest = protocols.decode_hidden(trained, text, TARGETS, policy, 12, rng())
        assert largest_kl(trained, fast, honest) < 2e-5
    for policy in scored:
        fast = protocols.prefill_hidden(full, policy, 12, rng())[-1:]
        plain = evict_once(trained, text, int(TARGETS[-1]), policy, 12, rng())
        assert largest_kl(trained, fast, plain) < 2e-5


def test_cache_positions_go_through_the_bounded_cache(tiny):
    text = torch.from_numpy(np.random.default_rng(0).integers(1, 250, LENGTH))
    full = protocols.FullPass(tiny, text, TARGETS)
    policy = SinkRecent(positions="cache")
    cache = BoundedCache(12, 4, model=tiny.model, positions="cache")
    with torch.inference_mode():
        expected = tiny.model.model(text[None], past_key_values=cache).last_hidden_state[0, TARGETS]
    assert largest_kl(tiny, expected, protocols.online_hidden(full, policy, 12, rng())) < 1e-6
    true = protocols.online_hidden(full, SinkRecent(), 12, rng())
    assert largest_kl(tiny, expected, true) > 1e-4


def test_the_equality_fails_for_a_budget_that_is_off_by_one(tiny):
    text = torch.from_numpy(np.random.default_rng(0).integers(1, 250, LENGTH))
    full = protocols.FullPass(tiny, text, TARGETS)
    fast = protocols.online_hidden(full, SinkRecent(), 12, rng())
    honest = protocols.decode_hidden(tiny, text, TARGETS, SinkRecent(), 13, rng())
    assert largest_kl(tiny, fast, honest) > 1e-3


def test_the_first_tokens_of_a_budget_are_those_of_the_full_pass(full):
    """What lets one pass start behind the first `budget` tokens: there nothing has gone yet."""
    fast = protocols.online_hidden(full, SinkRecent(), 24, rng())
    early = full.targets + len(full.lm.prefix_ids) < 24
    assert early.any() and not early.all()
    assert torch.equal(fast[torch.from_numpy(early)], full.all_states[full.rows][early])


def by_masking(lm: LanguageModel, ids: torch.Tensor, policy, budget: int) -> torch.Tensor:
    """Score-based decoding written out: nothing is evicted, what has gone is hidden by a mask, and
    the scores are plain loops. States (tokens, width) of all tokens."""
    heads, groups = lm.model.config.num_key_value_heads, lm.model.config.num_attention_heads
    groups //= heads
    depth = lm.model.config.num_hidden_layers
    alive = [[[] for _ in range(heads)] for _ in range(depth)]
    sums = np.zeros((depth, heads, len(ids)))
    score = np.zeros((depth, heads, len(ids)))
    cache, states = DynamicCache(), []
    for t in range(len(ids)):
        for k, h in np.ndindex(depth, heads):
            if len(alive[k][h]) == budget:
                newest = min(policy.protected(budget), budget - 1)
                older = alive[k][h][: budget - newest]
                alive[k][h].remove(min(older, key=lambda j: score[k, h, j]))
            alive[k][h].append(t)

        def mask(k: int) -> torch.Tensor:
            seen = torch.zeros(heads, 1, t + 1, dtype=torch.bool)  # noqa: B023 (used at once)
            for h in range(heads):
                seen[h, 0, alive[k][h]] = True
            return seen

        with torch.inference_mode(), masks.eager(lm.model), masks.layer_masks(lm.model, mask):
            out = lm.model.base_model(
                ids[None, t : t + 1],
                attention_mask=masks.placeholder(lm.model, 1, t + 1),
                position_ids=torch.tensor([[t]]),
                past_key_values=cache,
                output_attentions=True,
            )
        states.append(out.last_hidden_state[0, 0])
        for k, h in np.ndindex(depth, heads):
            weights = out.attentions[k][0, :, 0].double().numpy()  # (heads, entries)
            mine = weights[h * groups : (h + 1) * groups].mean(0)
            sums[k, h, : t + 1] += mine
            keys = cache.layers[k].keys[0, h].double().numpy()
            score[k, h, : t + 1] = {
                "h2o": sums[k, h, : t + 1],
                "tova": weights.mean(0),
                "key-norm": -np.linalg.norm(keys, axis=-1),
            }[policy.key]
    return torch.stack(states)


@pytest.mark.parametrize("policy", SCORED, ids=names)
def test_score_based_eviction_equals_hiding_what_has_gone(tiny, policy):
    """A real cache that evicts against one that keeps all behind a mask, with scores by hand."""
    ids = torch.from_numpy(np.random.default_rng(3).integers(1, 250, 40))
    targets = np.arange(13, 40)
    evicted = protocols.decode_hidden(tiny, ids, targets, policy, 12, rng())
    assert largest_kl(tiny, by_masking(tiny, ids, policy, 12)[targets], evicted) < 2e-5
    other = protocols.decode_hidden(tiny, ids, targets, policy, 13, rng())
    assert largest_kl(tiny, other, evicted) > 1e-3  # a budget that is off by one shows


@pytest.mark.parametrize("policy", SCORED, ids=names)
def test_score_based_decoding_in_one_step_sees_no_more_than_its_budget(tiny, policy, monkeypatch):
    """Counts what each query could see, out of the masks that were used."""
    counts = []
    plain = protocols._Held.mask

    def counted(self, chunk):
        seen = plain(self, chunk)
        counts.append(int(seen.sum(-1).max()))
        return seen

    monkeypatch.setattr(protocols._Held, "mask", counted)
    text = torch.from_numpy(np.random.default_rng(0).integers(1, 250, LENGTH))
    for step in (1, 3):
        protocols.decode_hidden(tiny, text, TARGETS, policy, 12, rng(), step)
        assert max(counts) == 12


# --- prefill ------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", [*STATIC, *SCORED, *AFTERWARDS], ids=names)
def test_prefill_for_all_targets_equals_one_eviction_at_one(lm, text, full, policy):
    """The plain twin: a pass over x[0..t-1], keys and values cut out of its cache, then x[t]."""
    target, generator = int(TARGETS[-1]), rng()
    static = policy.kind == "static"
    if (
        static and policy.by_head
    ):  # all targets of a head are drawn before the next head's: compare a single target
        full = protocols.FullPass(lm, text, TARGETS[-1:])
    fast = protocols.prefill_hidden(full, policy, 12, rng())[-1:]
    for t in TARGETS[:-1]:  # the same generator has served the targets before
        if static and not policy.by_head:
            policy.kept(t + 1 + len(lm.prefix_ids), 12, generator)
    plain = evict_once(lm, text, target, policy, 12, generator)
    assert largest_kl(lm, fast, plain) < 2e-5


def evict_once(lm, text, target, policy, budget, generator) -> torch.Tensor:
    whole = torch.cat([torch.tensor(lm.prefix_ids, dtype=text.dtype), text])
    t = target + len(lm.prefix_ids)
    with torch.inference_mode(), masks.eager(lm.model):
        cache = DynamicCache()
        out = lm.model.base_model(
            whole[None, :t],
            past_key_values=cache,
            position_ids=torch.arange(t)[None],
            use_cache=True,
            output_attentions=True,
            output_hidden_states=True,
        )
        body, seen = lm.model.base_model, []
        for k, layer in enumerate(cache.layers):
            kv_heads = layer.keys.shape[1]
            static = policy.kind == "static"
            if static and policy.by_head:
                draws = [policy.kept(t + 1, budget, generator)[:-1] for _ in range(kv_heads)]
                index = torch.from_numpy(np.stack(draws))
            elif static:
                if k == 0:
                    drawn = policy.kept(t + 1, budget, generator)[:-1]
                index = torch.from_numpy(drawn).expand(kv_heads, -1)
            else:
                entered = body.layers[k].input_layernorm(out.hidden_states[k][0])

                def pad(rows):
                    return torch.nn.functional.pad(rows, (0, 0, 0, 1))  # a row for the target

                done = LayerPass(
                    torch.nn.functional.pad(out.attentions[k][0], (0, 1, 0, 1)),
                    pad(layer.keys[0]),
                    pad(layer.values[0]),
                    pad(entered),
                    lm.model,
                    k,
                )
                score = policy.target_scores(done, torch.tensor([t]))[:, 0, :t].clone()
                newest = policy.protected(budget)
                score[:, t - newest :] = torch.inf
                index = score.topk(budget - 1, dim=-1).indices.sort(-1).values
            wide = index[None, ..., None].expand(-1, -1, -1, layer.keys.shape[-1])
            layer.keys, layer.values = layer.keys.gather(2, wide), layer.values.gather(2, wide)
            near = torch.ones_like(index, dtype=torch.bool)
            if window := masks.sliding_windows(lm.model)[k]:
                near = t - index < window
            seen.append(torch.nn.functional.pad(near, (0, 1), value=True)[:, None])
        with masks.layer_masks(lm.model, lambda k: seen[k]):
            out = lm.model.base_model(
                whole[None, t : t + 1],
                attention_mask=masks.placeholder(lm.model, 1, budget),
                position_ids=torch.tensor([[t]]),
                past_key_values=cache,
                use_cache=True,
            )
    return out.last_hidden_state[0]


# --- reencode -----------------------------------------------------------------------------------


def test_a_suffix_encoded_again_equals_truncation(lm, text):
    rows = measure.policy_distortion(lm, [text.numpy()], [SlidingWindow()], [5, 12], "reencode")
    pairs = zip(rows["position"], rows["budget"], strict=True)
    naive = measure.naive_sensitivity(lm, text.numpy(), pairs)
    np.testing.assert_allclose(rows["kl_nats"], naive["kl_nats"], atol=2e-5, rtol=1e-4)
    np.testing.assert_allclose(rows["tv"], naive["tv"], atol=2e-4)


def test_random_tokens_at_true_positions_and_closed_up_are_two_things(tiny, text):
    true, closed = RandomRetention(), RandomRetention(positions="cache")
    one = protocols.reencode_hidden(tiny, text, TARGETS, true, 12, rng())
    two = protocols.reencode_hidden(tiny, text, TARGETS, closed, 12, rng())
    kept = true.kept(int(TARGETS[0]) + 1, 12, rng())
    with torch.inference_mode():
        plain = tiny.model.base_model(text[None, kept]).last_hidden_state[0, -1:]
        moved = tiny.model.base_model(
            text[None, kept],
            attention_mask=torch.ones(1, 12, dtype=torch.long),
            position_ids=torch.from_numpy(kept)[None],
        ).last_hidden_state[0, -1:]
    assert largest_kl(tiny, two[:1], plain) < 2e-5
    assert largest_kl(tiny, one[:1], moved) < 2e-5
    assert largest_kl(tiny, one, two) > 1e-2


# --- all of them --------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_budget_beyond_the_context_loses_nothing(lm, text, protocol):
    policies = [p for p in [*STATIC, *SCORED] if protocol in p.protocols]
    rows = measure.policy_distortion(lm, [text.numpy()], policies, [100], protocol)
    assert rows["kl_nats"].max() < 1e-6 and rows["kl_nats"].min() >= 0
    assert rows["top1_same"].all()


def test_the_three_protocols_are_three_things(tiny, text):
    document = text.numpy()
    means = {
        protocol: measure.policy_distortion(tiny, [document], [SinkRecent()], [12], protocol)[
            "kl_nats"
        ].to_numpy()
        for protocol in PROTOCOLS
    }
    for one, other in [("reencode", "online"), ("online", "prefill"), ("prefill", "reencode")]:
        assert np.abs(means[one] - means[other]).max() > 1e-3


def test_the_model_is_left_as_it_was(tiny, text):
    modules = masks.attention_modules(tiny.model)
    hooks = [(len(m._forward_pre_hooks), len(m._forward_hooks)) for m in modules]
    before = measure.next_token_law(tiny, text.numpy())
    measure.policy_distortion(tiny, [text.numpy()], [TOVA()], [12], "online")
    measure.policy_distortion(tiny, [text.numpy()], [TOVA()], [12], "prefill")
    after = measure.next_token_law(tiny, text.numpy())
    np.testing.assert_array_equal(before, after)
    assert hooks == [(len(m._forward_pre_hooks), len(m._forward_hooks)) for m in modules]


def test_hooks_go_when_a_forward_fails(tiny):
    modules = masks.attention_modules(tiny.model)
    before = [list(module._forward_pre_hooks) for module in modules]
    with pytest.raises(RuntimeError), masks.layer_masks(tiny.model, lambda k: 1 / 0):
        assert before != [list(module._forward_pre_hooks) for module in modules]
        raise RuntimeError("in the middle")
    assert before == [list(module._forward_pre_hooks) for module in modules]


# --- the table ----------------------------------------------------------------------------------


def test_the_table_is_tidy(tiny):
    documents = list(np.random.default_rng(1).integers(1, 250, (2, 40)))
    table = measure.policy_distortion(tiny, documents, [SinkRecent(), TOVA()], [8, 16], "online")
    assert list(table) == [
        *("doc", "position", "policy", "protocol", "budget"),
        *("kl_nats", "tv", "top1_same", "nll_excess_nats"),
    ]
    assert len(table) == 2 * 2 * 2 * 5 and (table["protocol"] == "online").all()
    assert sorted(table["position"].unique()) == [20, 24, 28, 32, 36]


def test_rows_are_the_plain_formulas(tiny):
    document = np.random.default_rng(1).integers(1, 250, 40)
    table = measure.policy_distortion(
        tiny, [document], [SlidingWindow()], [8], "reencode", every=1
    ).set_index("position")
    for t in (20, 33):
        p = measure.next_token_law(tiny, document[: t + 1])
        q = measure.next_token_law(tiny, document[t - 7 : t + 1])
        row = table.loc[t]
        assert row["kl_nats"] == pytest.approx(float(np.exp(p) @ (p - q)), abs=1e-6)
        assert row["tv"] == pytest.approx(float(np.abs(np.exp(p) - np.exp(q)).sum() / 2), abs=1e-6)
        assert row["top1_same"] == (p.argmax() == q.argmax())
        x = document[t + 1]
        assert row["nll_excess_nats"] == pytest.approx(p[x] - q[x], abs=1e-5)
    assert np.isnan(table.loc[39, "nll_excess_nats"])


def test_a_seed_gives_the_same_draws_and_another_gives_others(tiny):
    document = np.random.default_rng(1).integers(1, 250, 60)
    one, same, other = (
        measure.policy_distortion(tiny, [document], [RandomRetention()], [8], "online", seed=seed)
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(one["kl_nats"], same["kl_nats"])
    assert (one["kl_nats"] != other["kl_nats"]).any()


@pytest.mark.parametrize(
    ("policies", "budgets", "protocol", "message"),
    [
        ([SinkRecent()], [8], "offline", "protocol: expected one of reencode, online, prefill"),
        ([SnapKV()], [64], "online", "SnapKV: expected one of its protocols prefill, got 'online'"),
        ([SinkRecent()], [4], "online", "budget: expected at least 5, got 4"),
        ([], [8], "online", "expected at least one policy"),
        ([RandomRetention(scope="heads")], [8], "reencode", "protocols online, prefill"),
        ([RandomRetention(positions="cache")], [8], "online", "protocols reencode"),
    ],
)
def test_bad_input_is_one_clear_line(tiny, policies, budgets, protocol, message):
    with pytest.raises(ValueError, match=message) as error:
        measure.policy_distortion(tiny, [np.arange(40)], policies, budgets, protocol)
    assert "\n" not in str(error.value)


def test_a_model_without_attention_in_every_layer_is_refused_by_name(tiny):
    from transformers import MambaConfig, MambaForCausalLM

    config = MambaConfig(
        vocab_size=258, hidden_size=16, num_hidden_layers=1, state_size=4, intermediate_size=32
    )
    mamba = dataclasses.replace(tiny, model=MambaForCausalLM(config), name="small-mamba")
    with pytest.raises(ValueError, match=r"MambaForCausalLM: expected a decoder"):
        measure.policy_distortion(mamba, [np.arange(1, 41)], [SinkRecent()], [8], "online")


def test_other_names_for_attention_are_found():
    """GPT-NeoX (Pythia) keeps it under `attention`; one pass equals honest decoding there too."""
    config = GPTNeoXConfig(
        **{"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2},
        **{"num_attention_heads": 4, "max_position_embeddings": 128, "initializer_range": 0.3},
    )
    torch.manual_seed(0)
    lm = LanguageModel(
        **{"model": GPTNeoXForCausalLM(config).eval(), "tokenizer": None, "name": "neox"},
        **{"device": torch.device("cpu"), "dtype": torch.float32, "prefix_ids": ()},
        **{"weights_sha256": "", "description": ""},
    )
    ids, at = torch.randint(0, 64, (64,)), np.arange(32, 64, 4)
    full = protocols.FullPass(lm, ids, at)
    fast = protocols.online_hidden(full, SinkRecent(), 16, rng())
    honest = protocols.decode_hidden(lm, ids, at, SinkRecent(), 16, rng())
    assert (fast - honest).abs().max() < 1e-4 < (fast - full.states[at]).abs().max()


def test_a_model_that_does_not_follow_a_mask_is_refused(tiny):
    """It computes, causally and without complaint: whatever a policy keeps, it sees everything."""
    masks.check_masks(tiny.model)
    deaf = copy.deepcopy(tiny.model)
    hears = deaf.model.forward
    deaf.model.forward = lambda ids, attention_mask=None, **kwargs: hears(ids, **kwargs)
    with pytest.raises(ValueError, match="expected an architecture that follows a 4D"):
        masks.check_masks(deaf)
