"""The contract of a policy, held against every policy that is offered."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from typing import ClassVar

import jaxtyping
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kvlib import measure
from kvlib.cache import policies, protocols
from kvlib.cache.policies import NAMED, Policy, Scored, Static, Stepwise
from kvlib.models.rotary import LayerPass
from kvlib.names import KEYS, POLICIES, PROTOCOLS, name_of, sinks_of, tell

STATIC = [policy for policy in NAMED.values() if policy.kind == "static"]
SCORED = [policy for policy in NAMED.values() if policy.kind == "scored"]
STEPWISE = [policy for policy in SCORED if "online" in policy.protocols]
RUNS = [(key, protocol) for key, policy in NAMED.items() for protocol in policy.protocols]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def key(policy: Policy) -> str:
    return policy.key


# --- what it is called --------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "policy"), NAMED.items())
def test_a_policy_goes_by_its_key(name, policy):
    assert policy.key == name and re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name)
    tell(name, **policies.about([name])[name])  # as the manifest of a table does
    assert policy.title == name_of(name)
    assert policy.n_sink == sinks_of(name)


def test_titles_are_told_apart_and_each_name_is_of_a_policy():
    assert POLICIES.keys() <= NAMED.keys()
    assert len(KEYS) == len(POLICIES)
    assert len({policy.title for policy in NAMED.values()}) == len(NAMED)


def test_a_key_that_is_taken_is_refused():
    with pytest.raises(ValueError, match="expected a key that is free, got 'tova' again"):
        policies.register(NAMED["tova"])


@pytest.mark.parametrize("policy", NAMED.values(), ids=key)
def test_a_policy_is_a_value_that_says_what_it_does(policy):
    twin = type(policy)(**vars(policy))
    assert policy == twin and hash(policy) == hash(twin)
    assert inspect.getdoc(type(policy))


# --- what it promises ---------------------------------------------------------------------------


@pytest.mark.parametrize("policy", NAMED.values(), ids=key)
def test_a_budget_below_the_least_is_refused(policy):
    policy.check(policy.least)
    wrong = policy.least - 1
    with pytest.raises(ValueError, match=f"^budget: expected at least {wrong + 1}, got {wrong}$"):
        policy.check(wrong)


@pytest.mark.parametrize("policy", NAMED.values(), ids=key)
def test_a_policy_has_protocols_and_refuses_the_others(policy):
    assert policy.protocols and set(policy.protocols) <= set(PROTOCOLS)
    for protocol in PROTOCOLS:
        if protocol in policy.protocols:
            policy.check_protocol(protocol)
        else:
            with pytest.raises(ValueError, match=f"one of its protocols .*, got '{protocol}'"):
                policy.check_protocol(protocol)


@pytest.mark.parametrize("contract", [Policy, Static, Scored, Stepwise])
def test_a_contract_is_no_policy(contract):
    with pytest.raises(TypeError, match="abstract"):
        contract()


@pytest.mark.parametrize(
    ("contract", "needed"),
    [
        (Static, ["kept", "key"]),
        (Scored, ["key", "protected", "target_scores"]),
        (Stepwise, ["key", "protected", "step_scores", "target_scores"]),
    ],
)
def test_a_policy_that_lacks_a_part_cannot_be_made(contract, needed):
    assert sorted(contract.__abstractmethods__) == sorted(needed)
    whole = dict.fromkeys(needed, lambda self: None)
    type("Whole", (contract,), whole)()
    for part in needed:
        without = {name: each for name, each in whole.items() if name != part}
        with pytest.raises(TypeError, match=f"abstract method '?{part}"):
            type("Lacking", (contract,), without)()


# --- static: positions --------------------------------------------------------------------------


@pytest.mark.parametrize("policy", STATIC, ids=key)
@pytest.mark.parametrize("extra", [0, 1, 7])
def test_what_is_kept_is_causal_newest_included_and_within_the_budget(policy, extra):
    budget = policy.least + extra
    for context in (1, budget, budget + 1, 3 * budget + 5):
        kept = policy.kept(context, budget, rng(context))
        assert len(kept) == min(budget, context)
        assert (np.diff(kept) > 0).all() and kept[0] >= 0 and kept[-1] == context - 1
        sinks = min(policy.n_sink, context)
        assert kept[:sinks].tolist() == list(range(sinks))
    with pytest.raises(ValueError, match="budget: expected at least"):
        policy.kept(9, policy.least - 1, rng())


@settings(max_examples=60, deadline=None)
@given(
    policy=st.sampled_from(STATIC),
    extra=st.integers(0, 30),
    length=st.integers(1, 60),
    seed=st.integers(0, 99),
)
def test_online_survivors_are_a_cache(policy, extra, length, seed):
    """Causal, the newest kept, never over budget, full when it can be, and nothing comes back."""
    budget = policy.least + extra
    seen = policy.survivors(length, budget, rng(seed))
    assert seen.shape == (length, length) and seen.dtype == bool
    assert not np.triu(seen, 1).any()
    assert seen.diagonal().all()
    assert seen.sum(1).tolist() == [min(t + 1, budget) for t in range(length)]
    assert not came_back(seen).any()
    sinks = seen[:, : policy.n_sink]
    assert sinks[np.tri(*sinks.shape, dtype=bool)].all()


def came_back(seen: np.ndarray) -> np.ndarray:
    """(queries - 1, entries): seen now, not seen by the query before, and not new."""
    return seen[1:] & ~seen[:-1] & ~np.eye(len(seen), dtype=bool)[1:]


def test_an_entry_that_comes_back_is_noticed():
    seen = NAMED["sliding"].survivors(20, 5, rng())
    assert not came_back(seen).any()
    seen[15, 2] = True
    assert came_back(seen).any()


@pytest.mark.parametrize("policy", STATIC, ids=key)
def test_a_policy_says_whether_it_draws(policy):
    one, other = (policy.kept(60, 16, rng(seed)).tolist() for seed in (1, 2))
    assert (one != other) == policy.draws


@pytest.mark.parametrize("policy", [p for p in STATIC if not p.draws], ids=key)
def test_a_faster_way_to_the_survivors_gives_those_of_kept_row_by_row(policy):
    for budget in (policy.least, 9, 40):
        plain = Static.survivors(policy, 50, budget, rng())
        np.testing.assert_array_equal(policy.survivors(50, budget, rng()), plain)


def test_a_policy_may_say_its_own_title():
    titled = type("Titled", (Ends,), {"title": "both ends"})()
    assert (titled.key, titled.title) == ("ends", "both ends") and Ends().title == "ends"


@dataclass(frozen=True)
class Ends(Static):
    """The first half of a budget and the newest: a policy that has nothing but `kept`."""

    key: ClassVar[str] = "ends"

    def kept(self, context, budget, rng):
        self.check(budget)
        first = np.arange(min(budget // 2, context))
        return np.union1d(first, np.arange(max(0, context - budget + len(first)), context))


def test_a_policy_with_nothing_but_kept_is_whole(tiny):
    policy, ids = Ends(), np.arange(1, 41)
    test_online_survivors_are_a_cache.hypothesis.inner_test(policy, 6, 30, 0)
    assert (policy.title, policy.n_sink, policy.least) == ("ends", 0, 1)
    for protocol in policy.protocols:
        rows = measure.policy_distortion(tiny, [ids], [policy], [8], protocol, every=10)
        assert set(rows["policy"]) == {"ends"} and (rows["kl_nats"] > 1e-6).all()


# --- scored: what a layer did -------------------------------------------------------------------


def some_layer(heads: int, kv_heads: int, tokens: int, seed: int = 0) -> LayerPass:
    """Causal attention weights and keys out of a hat."""
    source = torch.Generator().manual_seed(seed)
    weights = torch.rand(heads, tokens, tokens, generator=source).tril()
    keys = torch.randn(kv_heads, tokens, 6, generator=source)
    return LayerPass(weights / weights.sum(-1, keepdim=True), keys)


@pytest.mark.parametrize("policy", SCORED, ids=key)
def test_a_scored_policy_protects_no_more_than_its_budget(policy):
    for budget in (policy.least, 64, 500):
        assert 0 <= policy.protected(budget) < budget


@pytest.mark.parametrize("policy", SCORED, ids=key)
def test_scores_have_the_shape_of_the_contract(policy, tiny):
    """One a KV head, target and token, of a real layer whose heads share KV heads."""
    ids = torch.arange(1, 61)
    full = protocols.FullPass(tiny, ids, np.array([40, 59]), [policy])
    for scores in full.scores[policy]:
        assert scores.shape == (2, 2, 60) and not scores.isnan().any()


@pytest.mark.parametrize("policy", STEPWISE, ids=key)
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 2), (3, 3), (4, 1)])
def test_scores_step_by_step_have_one_number_an_entry(policy, heads, kv_heads):
    layer, held = some_layer(heads, kv_heads, 10), torch.empty(kv_heads, 0)
    for old, new in ((0, 4), (4, 5), (5, 10)):
        held = policy.step_scores(held, layer.attention[:, old:new, :new], layer.keys[:, :new])
        assert held.shape == (kv_heads, new) and held.isfinite().all()


@pytest.mark.parametrize("policy", STEPWISE, ids=key)
def test_scores_at_a_target_are_those_of_one_step_that_stops_before_it(policy):
    layer = some_layer(4, 2, 10, seed=1)
    at_7 = policy.target_scores(layer, torch.tensor([7]))[:, 0, :7]
    stopped = policy.step_scores(torch.empty(2, 0), layer.attention[:, :7, :7], layer.keys[:, :7])
    np.testing.assert_allclose(at_7, stopped, rtol=1e-5)


# --- run ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "protocol"), RUNS)
def test_every_policy_runs_in_each_of_its_protocols(name, protocol, tiny):
    policy, ids = NAMED[name], np.random.default_rng(0).integers(1, 250, 60)
    budget = max(10, policy.least)
    rows = measure.policy_distortion(tiny, [ids], [policy], [budget, 99], protocol, every=10)
    assert set(rows["policy"]) == {name} and set(rows["protocol"]) == {protocol}
    cut, whole = (rows.loc[rows["budget"] == b, "kl_nats"] for b in (budget, 99))
    assert cut.max() > 1e-5 and whole.max() < 1e-6


@pytest.mark.parametrize("policy", [p for p in STATIC if "online" in p.protocols], ids=key)
def test_one_pass_equals_honest_decoding(policy, tiny):
    """The laws, within 2e-5 nats: entries that are masked against entries that are evicted."""
    if policy.positions == "cache":
        pytest.skip("its twin is the bounded cache: test_protocols")
    ids, at = torch.from_numpy(rng(0).integers(1, 250, 34)), np.arange(14, 34, 3)
    full = protocols.FullPass(tiny, ids, at)
    fast = protocols.run(full, policy, "online", 12, rng(7))
    honest = protocols.decode_hidden(tiny, ids, at, policy, 12, rng(7))
    p, q = (measure.log_laws(tiny, hidden).double() for hidden in (fast, honest))
    d = p - q  # Σ p (d + e^-d - 1): laws in float32 do not add up to 1 exactly
    assert (p.exp() * (d + torch.expm1(-d))).sum(-1).max() < 2e-5


def test_the_door_refuses_what_a_policy_lacks(tiny):
    full = protocols.FullPass(tiny, torch.arange(1, 41), np.array([39]))
    for policy, protocol, message in (
        ("tova", "reencode", "TOVA: expected one of its protocols online, prefill"),
        ("tova", "offline", "TOVA: expected one of its protocols online, prefill"),
        ("sinks", "online", "budget: expected at least 5, got 4"),
    ):
        with pytest.raises(ValueError, match=message):
            protocols.run(full, NAMED[policy], protocol, 4, rng())


def test_only_a_prefill_asks_for_scores():
    every = list(NAMED.values())
    assert protocols.to_score(every, "prefill") == SCORED
    assert protocols.to_score(every, "online") == protocols.to_score(every, "reencode") == []


def test_draws_are_those_of_the_stored_tables():
    """By title: `random` and its neighbours were measured with these."""
    drawn = protocols.draws(NAMED["random-sinks"], 64, seed=1, doc=3)
    same = np.random.default_rng([1, 3, 64, *b"4 sinks + random"])
    assert drawn.integers(1 << 30, size=3).tolist() == same.integers(1 << 30, size=3).tolist()


# --- shapes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", STEPWISE, ids=key)
def test_shapes_are_held_to_what_the_annotations_say(policy):
    """Five entries by the attention, four by the keys: the tests would notice."""
    with pytest.raises(jaxtyping.TypeCheckError):
        policy.step_scores(torch.empty(1, 0), torch.rand(2, 3, 5), torch.rand(1, 4, 6))
