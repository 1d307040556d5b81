"""Drafting for real: greedy text is that of plain decoding, sampled text has the model's law."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
from transformers import DynamicCache

from kvlib import measure
from kvlib.measure import drafting
from kvlib.measure.divergences import total_variation

SETTINGS = {"windows": [8, 24], "draft": 3, "tokens": 16, "prompt": 40, "n_sink": 2, "seed": 0}


@pytest.fixture(scope="module")
def prompt() -> np.ndarray:
    return np.random.default_rng(0).integers(1, 250, SETTINGS["prompt"])


@pytest.fixture(scope="module")
def rows(tiny, prompt):
    return drafting.measure_drafting(tiny, prompt, 0, SETTINGS)


def run_of(rows, way: str, window: int):
    return rows[(rows["way"] == way) & (rows["window"] == window)]


def written(run) -> list[int]:
    """The text of a run, from its rows."""
    text = []
    for _, one in run.groupby("round"):
        text += [*one.loc[one["kept"], "token"], one["closing"].iloc[0]]
    return text


def restless(lm):
    """The model with laws so flat that drafts are often rejected."""
    model = copy.deepcopy(lm.model)
    model.lm_head.weight.data.mul_(0.2)
    return dataclasses.replace(lm, model=model)


# --- greedy -------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", SETTINGS["windows"])
def test_greedy_text_is_that_of_plain_decoding(tiny, prompt, rows, window):
    run = run_of(rows, "greedy", window)
    ids = list(prompt)
    for _ in range(SETTINGS["tokens"]):
        law = measure.next_token_law(tiny, ids).copy()
        law[tiny.tokenizer.all_special_ids] = -np.inf
        ids.append(int(law.argmax()))
    assert written(run)[: SETTINGS["tokens"]] == ids[len(prompt) :]
    assert (run["same"] == 1).all()
    assert not run["kept"].all()  # else the rule was not needed


def test_text_that_is_another_is_said_to_be(tiny, prompt, monkeypatch):
    monkeypatch.setattr(drafting, "plain_greedy", lambda *args: [0] * SETTINGS["tokens"])
    rows = drafting.measure_drafting(tiny, prompt, 0, SETTINGS | {"windows": [24]})
    assert set(rows.loc[rows["way"] == "greedy", "same"]) == {0}
    assert set(rows.loc[rows["way"] == "sampled", "same"]) == {drafting.NOT_ASKED}


# --- rows ---------------------------------------------------------------------------------------


def test_rows_are_whole_rounds_and_the_same_for_the_same_seed(tiny, prompt, rows):
    assert list(rows.columns) == drafting.COLUMNS
    for _, run in rows.groupby(["way", "window"]):
        table = run.pivot(index="round", columns="place", values="kept")
        assert table.columns.tolist() == [1, 2, 3]
        assert (table.astype(int).diff(axis=1).iloc[:, 1:] <= 0).all(axis=None)  # a first part
        kept = table.sum(axis=1)
        assert SETTINGS["tokens"] <= (kept + 1).sum() < SETTINGS["tokens"] + 4
        reached = run.pivot(index="round", columns="place", values="reached").sum(axis=1)
        assert (reached == (kept + 1).clip(upper=3)).all()
    assert rows[["chance", "tv"]].stack().between(0, 1 + 1e-6).all()
    again = drafting.measure_drafting(tiny, prompt, 0, SETTINGS)
    assert again.equals(rows)


@pytest.mark.parametrize("window", SETTINGS["windows"])
def test_the_distance_in_a_row_is_that_of_the_laws_behind_the_same_text(tiny, prompt, rows, window):
    first = run_of(rows, "sampled", window).iloc[:3]
    ids = np.concatenate([prompt, first["token"][:2]])
    at = np.arange(len(prompt) - 1, len(ids))
    full = drafting.laws_of(tiny, list(ids), DynamicCache())
    cache = drafting.BoundedCache(window, SETTINGS["n_sink"], model=tiny.model)
    bounded = drafting.laws_of(tiny, list(ids), cache)
    with np.errstate(divide="ignore"):
        tv = total_variation(np.log(full[at]), np.log(bounded[at]))
    np.testing.assert_allclose(first["tv"], tv, atol=1e-6)


def test_a_window_that_holds_the_text_rejects_nothing(tiny, prompt):
    rows = drafting.measure_drafting(tiny, prompt, 0, SETTINGS | {"windows": [80]})
    assert rows["kept"].all() and rows["tv"].max() < 1e-5
    assert rows.groupby("way")["round"].nunique().tolist() == [4, 4]  # four tokens each


def test_a_model_with_a_prefix_drafts_behind_it(tiny, prompt):
    lm = dataclasses.replace(tiny, prefix_ids=(256,))
    rows = drafting.measure_drafting(lm, prompt, 0, SETTINGS | {"windows": [8]})
    assert (run_of(rows, "greedy", 8)["same"] == 1).all()


# --- sampled ------------------------------------------------------------------------------------


def laws_of_pairs(seed: int, symbols: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """p and q of the next token behind none (row 0) or one (row 1 + token)."""
    rng = np.random.default_rng(seed)
    return tuple(rng.dirichlet(np.ones(symbols), symbols + 1) for _ in range(2))


def pair_counts(p, q, rng, runs: int, replaced=drafting.residual) -> np.ndarray:
    """How often each text of two tokens came of rounds of two drafted ones."""
    counts = np.zeros(p[1:].shape)
    for _ in range(runs):
        first = drafting.drawn(q[0], rng)
        drafted = [first, drafting.drawn(q[1 + first], rng)]
        laws, own = p[[0, 1 + first, 0]], [q[0], q[1 + first]]
        one = drafting.verify(laws, drafted, own, "sampled", rng)
        text = drafting.text_of([one])
        if len(text) == 1:  # what follows is the next round's, and exact by itself
            counts[text[0]] += p[1 + text[0]]
        else:
            counts[text[0], text[1]] += 1
    return counts


def worst(counts: np.ndarray, p: np.ndarray) -> float:
    """The largest deviation from the model's law, in standard errors of a plain count."""
    n, law = counts.sum(), p[0][:, None] * p[1:]
    return float((np.abs(counts - n * law) / np.sqrt(n * law * (1 - law))).max())


def test_sampled_text_has_the_law_of_the_full_model():
    """Nine counts within four standard errors; seeded, so that it fails always or never."""
    p, q = laws_of_pairs(1)
    assert worst(pair_counts(p, q, np.random.default_rng(2), 3_000), p) < 4


def test_a_rejected_token_replaced_by_the_wrong_law_is_noticed(monkeypatch):
    p, q = laws_of_pairs(1)
    monkeypatch.setattr(drafting, "residual", lambda p, q: p)
    assert worst(pair_counts(p, q, np.random.default_rng(2), 3_000), p) > 6


def test_kept_tokens_are_as_many_as_the_distance_says(tiny, prompt):
    """Over places that were reached: within four standard errors; seeded."""
    lm = restless(tiny)
    many = SETTINGS | {"windows": [8], "tokens": 120}
    run = drafting.measure_drafting(lm, prompt, 0, many).query("way == 'sampled' and reached")
    p = run["chance"]
    assert abs(run["kept"].mean() - p.mean()) < 4 * np.sqrt((p * (1 - p)).mean() / len(run))
    spread = p.std() / np.sqrt(len(run))
    assert abs(p.mean() - (1 - run["tv"].mean())) < 4 * spread + 1e-6
    assert 0.05 < run["tv"].mean() < 0.95


# --- the studies --------------------------------------------------------------------------------


def test_sliding_layers_are_refused(random_model):
    lm = random_model("gemma3_text", sliding_window=8)
    with pytest.raises(ValueError, match="gemma3_text: expected layers that see everything"):
        drafting.item_rows(lm, None, SETTINGS, 1)


def best(law: np.ndarray) -> int:
    return int(law.argmax())


class CopyingDrafter(drafting.Drafter):
    """The plain twin: it drafts on a copy of its cache, and throws the copy away."""

    def draft(self, count, pick):
        laws = [drafting.laws_of(self.lm, self.waiting, self.cache)[-1]]
        tokens, ahead = [pick(laws[0])], copy.deepcopy(self.cache)
        while len(tokens) < count:
            laws.append(drafting.laws_of(self.lm, tokens[-1:], ahead)[-1])
            tokens.append(pick(laws[-1]))
        return tokens, laws

    def accept(self, tokens, kept):
        self.waiting = tokens


def test_taking_the_drafts_back_is_drafting_on_a_copy(tiny, prompt, rows, monkeypatch):
    monkeypatch.setattr(drafting, "Drafter", CopyingDrafter)
    plain = drafting.measure_drafting(tiny, prompt, 0, SETTINGS)
    numbers = ["chance", "tv"]
    assert plain.drop(columns=numbers).equals(rows.drop(columns=numbers))
    np.testing.assert_allclose(plain[numbers], rows[numbers], atol=1e-5)


@pytest.mark.parametrize("kept", [0, 1, 2, 3])
def test_a_drafter_goes_back_to_the_text_that_was_accepted(tiny, prompt, kept):
    """The next draft is that of a drafter that reads the text anew."""
    ids = torch.from_numpy(prompt)
    one = drafting.Drafter(tiny, ids, 8, 2, 3)
    gained = [*one.draft(3, best)[0][:kept], 9]
    one.accept(gained, kept)
    tokens, laws = one.draft(3, best)
    fresh = drafting.Drafter(tiny, torch.cat([ids, torch.tensor(gained)]), 8, 2, 3)
    anew, laws_anew = fresh.draft(3, best)
    assert anew == tokens
    np.testing.assert_allclose(laws_anew, laws, atol=1e-6)


def test_a_copy_drafts_without_moving_the_other(tiny, prompt):
    one = drafting.Drafter(tiny, torch.from_numpy(prompt), 8, 2, 3)
    first = one.copy().draft(3, best)[0]
    assert one.copy().draft(3, best)[0] == first == one.draft(3, best)[0]
