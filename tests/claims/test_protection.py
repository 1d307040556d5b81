"""What protects: on made-up rows whose parts are known, effects and words say what is so."""

from __future__ import annotations

import functools

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from studies import estimates, rows_of

from kvlib import claims, fit, store
from kvlib.claims import protection
from kvlib.claims.policy_rows import KEYS
from kvlib.fit import Estimate

RANDOMS = list(protection.worth("sinks"))


@functools.cache
def made(
    sinks=2.0, recent=3.0, heads=1.5, scores=4.0, overlap=1.0, protocol="prefill", **more
) -> pd.DataFrame:
    """Rows of every policy: each protection, and H2O's scores, divide one law by their factors.

    `overlap` is what sinks beside the newest half are worth, over what they are worth alone.
    """
    parts = []
    for policy in [*RANDOMS, "h2o", "h2o-unprotected", "random-heads-pinned"]:
        kept = {name for name in protection.FACTORS if name in policy.split("-")}
        divisor = np.prod([{"sinks": sinks, "recent": recent, "heads": heads}[k] for k in kept])
        if {"sinks", "recent"} <= kept:
            divisor *= overlap
        if policy.startswith("h2o"):
            divisor = heads * scores * (recent if policy == "h2o" else 1)
        law = lambda b, by=divisor: 0.1 * b**-0.5 / by  # noqa: E731
        parts.append(rows_of(law, policy, protocol, **more))
    rows = pd.concat(parts, ignore_index=True)
    return rows[rows["budget"].isin([64, 256, 512])]


def at(table: pd.DataFrame, effect: str, **where) -> list[Estimate]:
    for column, value in ({"effect": effect} | where).items():
        table = table[table[column] == value]
    return table["ratio"].tolist()


# --- effects --------------------------------------------------------------------------------------


def test_what_each_protection_and_the_scores_are_worth():
    table = protection.mean_effects(made(spread=0.01))
    truth = {
        **{"4 sinks kept": 2, "newest half kept": 3, "each head its own draw": 1.5},
        **{name: 1 for name in list(protection.WORTH)[3:]},
        **{protection.BOTH: 12, protection.SAME: 4, protection.UNPROTECTED: 4},
        **{protection.ALSO_SINKS: 2, protection.KEPT_SCORES: 3, protection.RIVALS: 3 / 4},
        protection.PIN: 12,  # made-up pinned rows divide by `heads` alone
    }
    assert set(table["effect"]) == set(truth) == set(protection.EFFECTS)
    for effect, value in truth.items():
        (item,) = at(table, effect)
        assert item.value == pytest.approx(value, rel=0.03)
        assert item.low < value * 1.01 and item.high > value / 1.01
    assert set(table["budgets"]) == {3}


def test_two_that_protect_from_the_same_are_worth_less_together():
    table = protection.mean_effects(made(overlap=0.5, spread=0.01))
    (item,) = at(table, "sinks beside the newest half, over alone")
    assert item.value == pytest.approx(0.5, rel=0.03)
    (sinks,) = at(table, "4 sinks kept")
    assert sinks.value == pytest.approx(2 * 0.5**0.5, rel=0.03)  # a mean over both settings


def test_in_tv_as_in_kl():
    kl, tv = (protection.mean_effects(made(spread=0), value) for value in ("kl_nats", "tv"))
    for one, other in zip(kl["ratio"], tv["ratio"], strict=True):
        assert other.value == pytest.approx(one.value**0.5)


@pytest.mark.parametrize("value", ["kl_nats", "tv"])
def test_effects_by_plain_loops(value):
    """Means of documents, a factor at a time, each document left out by hand."""
    rows = made(spread=0.3, seed=4)
    docs = sorted(rows["doc"].unique())

    def log_mean(policy: str, budget: int, left: int | None) -> float:
        part = rows[(rows["policy"] == policy) & (rows["budget"] == budget)]
        means = [part[part["doc"] == doc][value].mean() for doc in docs if doc != left]
        return float(np.log(np.mean(means)))

    def newest_half(budget: int, left: int | None) -> float:
        pairs = [
            *(("random", "random-recent"), ("random-sinks", "random-sinks-recent")),
            *(("random-heads", "random-heads-recent"),),
            ("random-sinks-heads", "random-sinks-heads-recent"),
        ]
        return np.mean([log_mean(a, budget, left) - log_mean(b, budget, left) for a, b in pairs])

    table = protection.effects(rows, value)
    for budget in (64, 512):
        (item,) = at(table, "newest half kept", budget=budget)
        left = np.array([newest_half(budget, doc) for doc in docs])
        n = len(docs)
        half = stats.t.ppf(0.975, n - 1) * np.sqrt((n - 1) * np.var(left))
        assert np.log(item.value) == pytest.approx(newest_half(budget, None))
        assert np.log(item.high / item.value) == pytest.approx(half)
        (same,) = at(table, protection.SAME, budget=budget)
        gap = log_mean("random-heads-recent", budget, None) - log_mean("h2o", budget, None)
        assert np.log(same.value) == pytest.approx(gap)


def test_documents_are_paired():
    """A factor that all policies of a document share widens no interval."""
    rows = made(spread=0.01)
    factor = np.exp(np.random.default_rng(1).normal(0, 2, 8))
    harder = rows.assign(kl_nats=rows["kl_nats"] * factor[rows["doc"]])
    (item,) = at(protection.mean_effects(harder), protection.SAME)
    assert item.high / item.low < 1.2


# --- words ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recent", "scores", "word"),
    [(6.0, 2.0, "the protection"), (2.0, 6.0, "the scores"), (3.0, 3.0, "undecided")],
)
def test_what_is_worth_more_gets_its_word_in_both_distances(recent, scores, word):
    table, _ = protection.in_both(made(recent=recent, scores=scores))
    assert protection.answers(table) == {"prefill, KL": word, "prefill, TV": word}


def test_where_budgets_disagree_it_depends():
    short = made(recent=6, scores=2).query("budget == 64")
    long = made(recent=2, scores=6).query("budget != 64")
    table, _ = protection.in_both(pd.concat([short, long]))
    assert set(protection.answers(table).values()) == {"it depends on the budget and the text"}


def test_at_the_border_a_word_is_given_no_oftener_than_once_in_twenty():
    rng, item = np.random.default_rng(2), Estimate(1.0, 0.8, 1.25, 16)

    def study() -> str:
        drawn = [fit.drawn(item, 1.0, rng, log=True) for _ in range(6)]
        return protection.answer(pd.DataFrame({"ratio": drawn}))

    words = [study() for _ in range(400)]
    assert 400 - words.count("undecided") < 35  # 20 expected


def test_one_sure_ratio_among_many_is_none():
    alone = pd.DataFrame({"ratio": estimates((1.02, 1.5, 2.2))})
    many = pd.DataFrame({"ratio": estimates((1.02, 1.5, 2.2), *[(0.5, 1, 2)] * 11)})
    assert protection.counts(alone) == (1, 0) and protection.counts(many) == (0, 0)


# --- any subset of the tables ---------------------------------------------------------------------


def all_rows() -> pd.DataFrame:
    online = made(protocol="online")
    online = online[online["policy"] != "random-heads-pinned"]
    return pd.concat([made(), online], ignore_index=True)


@pytest.mark.parametrize("protocols", [(), ("prefill",), ("online",), ("online", "prefill")])
def test_what_is_missing_is_not_measured_yet(protocols):
    rows = all_rows()
    rows = rows[rows["protocol"].isin(protocols)]
    facts = protection.facts(*protection.in_both(rows))
    for name in ("measured", "worth", "scores", "answer"):
        said = facts[f"protection-{name}"]
        assert (said == protection.NOTHING) == (not protocols)
        assert all((f"{p}" in said) == (p in protocols) for p in ("online", "prefill"))
    assert (facts["protection-pinned"] == protection.NOTHING) == ("prefill" not in protocols)


def test_without_a_table_the_page_has_nothing_to_draw(tmp_path):
    rows = claims.policy_rows.protection_rows(tmp_path)
    assert protection.gains(rows).empty
    assert set(protection.facts(*protection.in_both(rows)).values()) == {protection.NOTHING}


def test_sentences_carry_their_figures():
    table, means = protection.in_both(made(spread=0.05, recent=6, scores=2))
    facts = protection.facts(table, means)
    assert facts["protection-measured"] == "prefill, m on c (8 documents)"
    assert facts["protection-worth"].startswith("prefill: 4 sinks kept 2.0")
    assert "newest half kept 6.0 [" in facts["protection-worth"]
    assert "loses 1" in facts["protection-scores"]
    assert "kept in both 2" in facts["protection-scores"]
    said = facts["protection-answer"]
    assert said.startswith("prefill, KL: the protection (the newest half alone surely loses less")
    assert "in 3 of 3 cases, surely more in 0; protected alike, H2O surely loses less" in said
    assert facts["protection-pinned"].startswith("1")
    assert " in KL (surely more in 3 of 3 cases, surely less in 0)" in facts["protection-pinned"]


def test_a_table_for_the_page_has_at_most_eight_rows_and_blanks_where_nothing_ran():
    _, means = protection.in_both(all_rows())
    for kinds in (protection.WORTH, protection.SCORES):
        wide = protection.shown(means, kinds)
        assert list(wide) == ["prefill, m on c", "online, m on c"] and len(wide) == len(kinds) <= 8
    assert wide.loc[protection.PIN, "online, m on c"] == ""
    empty = protection.shown(means[:0], protection.WORTH)
    assert empty.to_numpy().tolist() == [[protection.NOTHING]]
    pd.testing.assert_frame_equal(empty, protection.nothing())


# --- where the rows come from, and what they join -------------------------------------------------


def write(folder, study: str, rows: pd.DataFrame) -> None:
    """Rows as a stored table of that study."""
    settings = {"kind": "policy_distortion", "step": claims.policy_rows.STEP}
    settings |= {"protocol": rows["protocol"].iloc[0], "policies": list(rows["policy"].unique())}
    settings |= {"model": "smollm2-135m-instruct", "corpus": "scipy-docs"}
    with store.Measurement(folder / f"{study}-a-b", settings, rows["doc"].nunique()) as measured:
        for doc, part in rows.groupby("doc"):
            measured.add(doc, part.drop(columns=["model", "corpus"]))
        measured.finish({"command": "none"}, study)


def test_the_tables_of_protection_are_read_by_themselves(tmp_path):
    """They hold policies that other tables of one protocol, model and text hold too."""
    usual = pd.concat([rows_of(lambda b: 1 / b, p, "prefill") for p in ("sinks", "random", "h2o")])
    write(tmp_path, "prefill", usual)
    before = claims.policy_rows.stored_rows(tmp_path)
    assert claims.policy_rows.protection_rows(tmp_path).empty
    write(tmp_path, "protection_prefill", made())
    write(tmp_path, "protection_online", made(protocol="online"))
    pd.testing.assert_frame_equal(claims.policy_rows.stored_rows(tmp_path), before)
    ours = claims.policy_rows.protection_rows(tmp_path)
    assert set(ours["policy"]) >= set(RANDOMS) and set(ours["protocol"]) == {"online", "prefill"}
    assert len(ours) == 2 * len(made())


@pytest.mark.parametrize("read", ["stored_rows", "protection_rows"])
def test_no_stored_row_of_a_policy_is_there_twice(read):
    rows = getattr(claims.policy_rows, read)()
    assert not rows.duplicated([*KEYS, "doc", "position"]).any()


def test_policies_that_keep_the_newest_half_join_the_tries_of_their_protocol():
    rows = pd.concat(
        [rows_of(lambda b, by=by: 1 / b / by, p, "prefill") for p, by in
         (("sinks", 5), ("sliding", 5), ("random", 1))]
    )  # fmt: skip
    ratio, means = claims.policies.retention_tables(rows, made(recent=30, sinks=1))
    readings = claims.policies.retention_readings(ratio, means)
    assert readings["prefill, KL"] == "partly"  # thirtyfold, by the newest half alone
    alone = claims.policies.retention_tables(rows, made()[:0])
    assert claims.policies.retention_readings(*alone)["prefill, KL"] == "not reproduced"
    assert len(ratio) - len(alone[0]) == 2 * 2 * 3  # distances, policies, budgets
    pd.testing.assert_frame_equal(means, alone[1])


def test_more_tries_ask_more_of_each():
    one, others = (11, 22, 44), (1, 2, 4)
    table = pd.DataFrame({"ratio": estimates(one, *[others] * 12)})
    table = table.assign(protocol="online", distance="KL")
    table["policy"] = ["sinks"] + ["random-recent"] * 12
    means = pd.DataFrame({"ratio": estimates(one), "budgets": [1], "policy": "sinks"}).assign(
        protocol="online", distance="KL"
    )
    read = claims.policies.retention_readings
    assert read(table[:1], means) == {"online, KL": "partly"}
    assert read(table, means) == {"online, KL": "not reproduced"}


def test_the_power_of_the_rule_counts_the_same_tries():
    """Recency at fourfold, the newest half alone at thirtyfold: that one is found every time."""
    rows = pd.concat(
        [
            rows_of(lambda b, by=by: 1 / b / by, policy, "prefill")
            for policy, by in (("sinks", 4), ("sliding", 4), ("random", 1))
        ]
    )
    for protected, word in ((made(recent=30, sinks=1), "partly"), (made()[:0], "not reproduced")):
        tables = claims.policies.retention_tables(rows, protected)
        chances = claims.policies.retention_had_it_been(*tables, n=20).set_index("truth")
        assert chances.loc[4.0, word] == 1


def test_the_verdict_carries_what_each_protection_is_worth():
    _, means = protection.in_both(made())
    figures = protection.figures(means)
    assert len(figures) == 2 * len(protection.EFFECTS)
    (sinks,) = [f for f in figures if f.name == "worth of: 4 sinks kept" and f.distance == "KL"]
    assert sinks.protocol == "prefill" and sinks.n == 8 and sinks.low < 2 < sinks.high * 1.1
