"""The measurement: every pair equals the naive loop's, and every window sees the same text."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pandas as pd
import pytest
import torch

from kvlib import measure
from kvlib.cache.policies import SinkRecent
from kvlib.measure import (
    Design,
    design_for,
    laws,
    measure_document,
    naive_sensitivity,
    next_token_law,
    truncation,
    truncation_sensitivity,
)

DEFAULT = design_for(3072, 1024, measure.PAIRS_PER_OCTAVE, 0)


def assert_equals_naive(lm, document: np.ndarray, table: pd.DataFrame) -> None:
    """Each pair of `table` within 2e-5 + 1e-4·KL of the naive loop, and no KL below -1e-6."""
    naive = naive_sensitivity(lm, document, zip(table["position"], table["window"], strict=True))
    np.testing.assert_allclose(table["kl_nats"], naive["kl_nats"], atol=2e-5, rtol=1e-4)
    # TV moves at first order where KL moves at second, hence the wider bound
    np.testing.assert_allclose(table["tv"], naive["tv"], atol=2e-4, rtol=0)
    np.testing.assert_array_equal(table["context"], naive["context"])
    assert table["kl_nats"].min() >= -1e-6


@pytest.fixture(scope="module")
def numbers() -> np.ndarray:
    """96 tokens of the tiny model; any 4 neighbours in it occur nowhere else (checked below)."""
    return np.random.default_rng(0).integers(1, 250, 96)


# --- two routes agree -------------------------------------------------------------------------


def test_pairs_equal_the_naive_loop_on_the_embedded_models(embedded, passage):
    document = passage(embedded, 40)
    table = measure_document(embedded, document, doc=0, max_window=12, pairs_per_octave=1)
    assert set(table["window"]) == set(range(1, 13))
    assert_equals_naive(embedded, document, table[table["window"] >= 4])


def test_pairs_equal_the_naive_loop_on_a_trained_model(small, passage):
    document = passage(small, 128)
    table = measure_document(small, document, doc=0, max_window=32, pairs_per_octave=3)
    assert set(table["window"]) == set(range(1, 33))
    assert_equals_naive(small, document, table)


def test_windows_beyond_a_sliding_layer_equal_the_naive_loop(random_model, numbers):
    gemma = random_model("gemma3_text", sliding_window=8)
    table = measure_document(gemma, numbers, doc=0, max_window=24, pairs_per_octave=12)
    assert set(table["window"]) == set(range(1, 25))
    assert_equals_naive(gemma, numbers, table)
    wide = random_model("gemma3_text", sliding_window=96)  # the layers do slide
    other = measure_document(wide, numbers, doc=0, max_window=24, pairs_per_octave=12)
    assert np.abs(other["kl_nats"] - table["kl_nats"]).max() > 1e-3


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("phi", {"partial_rotary_factor": 0.5}),
        ("llama", {"tie_word_embeddings": True}),
        ("llama", {"tie_word_embeddings": False}),
    ],
    ids=["with a bias", "tied", "untied"],
)
def test_laws_of_states_and_head_are_the_models_own(random_model, numbers, kind, settings):
    lm = random_model(kind, num_hidden_layers=1, **settings)
    head = lm.model.get_output_embeddings()
    if kind == "phi":
        head.bias += torch.linspace(-3, 3, len(head.bias))
    assert (head.bias is not None) == (kind == "phi")
    table = measure_document(lm, numbers[:40], doc=0, max_window=12, pairs_per_octave=3)
    assert_equals_naive(lm, numbers[:40], table)


def test_a_whole_context_of_pairs_equals_the_naive_loop(small, passage):
    document = passage(small, 1024)
    table = measure_document(small, document, doc=0, max_window=512, pairs_per_octave=1)
    assert set(table["window"]) == set(range(1, 513))
    assert_equals_naive(small, document, table[table["window"].isin([100, 500])])


@pytest.mark.parametrize("prefix", [(), (256,), (256, 5)])
@pytest.mark.parametrize("max_window", [1, 2, 7, 8])
def test_every_pair_there_is_equals_the_naive_loop(tiny, numbers, prefix, max_window):
    lm, document = dataclasses.replace(tiny, prefix_ids=prefix), numbers[:26]
    table = measure_document(lm, document, 0, max_window, pairs_per_octave=10**6)
    pairs = itertools.product(range(2 * max_window - 1, 26), range(1, max_window + 1))
    assert list(zip(table["position"], table["window"], strict=True)) == list(pairs)
    assert_equals_naive(lm, document, table)


def test_the_equality_check_fails_when_windows_are_off_by_one(tiny, numbers):
    table = measure_document(tiny, numbers[:30], doc=0, max_window=8)
    with pytest.raises(AssertionError):
        assert_equals_naive(tiny, numbers[:30], table.assign(window=table["window"] % 8 + 1))


def test_the_naive_loop_is_two_forward_passes_and_a_divergence(tiny, numbers):
    with torch.inference_mode():
        full = tiny.model(torch.tensor(numbers[None, :41])).logits[0, -1].double()
        cut = tiny.model(torch.tensor(numbers[None, 34:41])).logits[0, -1].double()
    log_p, log_q = full.log_softmax(-1), cut.log_softmax(-1)
    row = naive_sensitivity(tiny, numbers, [(40, 7)]).iloc[0]
    assert (row["position"], row["context"], row["window"]) == (40, 41, 7)
    assert row["kl_nats"] == pytest.approx(float((log_p.exp() * (log_p - log_q)).sum()), abs=1e-6)
    assert row["tv"] == pytest.approx(float((log_p.exp() - log_q.exp()).abs().sum() / 2), abs=1e-6)


def test_a_window_of_the_whole_context_loses_nothing(tiny, numbers):
    table = naive_sensitivity(tiny, numbers, [(t, t + 1) for t in (0, 5, 95)])
    assert (table["kl_nats"] == 0).all() and (table["tv"] == 0).all()


def test_next_token_laws_are_laws_and_see_the_prefix(tiny, numbers):
    law = next_token_law(tiny, numbers)
    assert law.shape == (258,) and law.dtype == np.float64
    assert np.exp(law).sum() == pytest.approx(1, abs=1e-12)
    with_prefix = next_token_law(dataclasses.replace(tiny, prefix_ids=(256,)), numbers)
    np.testing.assert_allclose(with_prefix, next_token_law(tiny, [256, *numbers]), atol=1e-12)


# --- the table --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def documents(tiny) -> list[np.ndarray]:
    return list(np.random.default_rng(1).integers(1, 250, (3, 100)))


@pytest.fixture(scope="module")
def table(tiny, documents) -> pd.DataFrame:
    return truncation_sensitivity(tiny, documents, max_window=24, pairs_per_octave=40)


def test_the_table_is_tidy_and_its_context_is_position_plus_one(table):
    measured = ["kl_nats", "tv", "nll_nats", "nll_excess_nats"]
    assert list(table.columns) == ["doc", "position", "context", "window", *measured]
    assert (table["context"] == table["position"] + 1).all()
    assert (table["context"] >= 2 * table["window"]).all()
    assert not table.duplicated(["doc", "position", "window"]).any()
    assert table[measured].dtypes.unique().tolist() == [np.float32]
    assert (table["kl_nats"] >= -1e-6).all() and table["tv"].between(0, 1 + 1e-6).all()


def test_every_window_is_measured_in_every_document(table):
    for _, rows in table.groupby("doc"):
        assert set(rows["window"]) == set(range(1, 25))


def test_the_table_is_its_documents_one_below_the_other(tiny, documents, table):
    parts = [measure_document(tiny, d, k, 24, 40) for k, d in enumerate(documents)]
    pd.testing.assert_frame_equal(pd.concat(parts, ignore_index=True), table)


def test_the_same_seed_gives_the_same_table_and_another_moves_the_starts(tiny, documents, table):
    again = truncation_sensitivity(tiny, documents, 24, 40, seed=0)
    pd.testing.assert_frame_equal(again, table)
    # a seed draws one phase an octave: all six the same as seed 0's has probability below 1e-3
    other = truncation_sensitivity(tiny, documents, 24, 40, seed=1)
    assert not table[["position", "window"]].equals(other[["position", "window"]])
    both = table.merge(other, on=["doc", "position", "window"], suffixes=("", "_other"))
    assert len(both) > 0
    np.testing.assert_allclose(both["kl_nats"], both["kl_nats_other"], atol=1e-5)


@pytest.mark.parametrize(("batch_tokens", "head_rows"), [(1, 1), (50, 7), (10**6, 10**4)])
def test_the_table_does_not_depend_on_the_sizes_of_its_batches(
    monkeypatch, tiny, documents, table, batch_tokens, head_rows
):
    monkeypatch.setattr(truncation, "BATCH_TOKENS", batch_tokens)
    monkeypatch.setattr(laws, "HEAD_ROWS", head_rows)
    other = truncation_sensitivity(tiny, documents, 24, 40)
    keys = ["doc", "position", "context", "window"]
    pd.testing.assert_frame_equal(other[keys], table[keys])
    np.testing.assert_allclose(other[["kl_nats", "tv"]], table[["kl_nats", "tv"]], atol=1e-5)


def test_every_pass_is_a_batch_of_stretches_with_no_padding_and_one_reference(tiny, numbers):
    seen = []

    def spy(module, args, kwargs):
        assert "attention_mask" not in kwargs and "position_ids" not in kwargs
        seen.append(args[0].numpy())

    handle = tiny.model.base_model.register_forward_pre_hook(spy, with_kwargs=True)
    try:
        lm = dataclasses.replace(tiny, prefix_ids=(256,))
        measure_document(lm, numbers, 0, max_window=20, pairs_per_octave=60)
    finally:
        handle.remove()
    stretches = {tuple(numbers[s : s + n]) for n in range(1, 97) for s in range(97 - n)}
    assert len({tuple(numbers[s : s + 4]) for s in range(93)}) == 93
    assert [len(ids[0]) for ids in seen].count(97) == 1
    for ids in seen:
        assert (ids[:, 0] == 256).all()
        assert all(tuple(row) in stretches for row in ids[:, 1:])


# --- the design -------------------------------------------------------------------------------

DESIGNS = {
    "default": DEFAULT,
    "another seed": dataclasses.replace(DEFAULT, seed=12345),
    "no power of two": design_for(1000, 300, 200, 0),
    "small": design_for(160, 64, 64, 0),
    "sparse": design_for(3072, 1024, 300, 0),
}
DOCUMENTS = 24


def targets(design: Design) -> dict[int, list[np.ndarray]]:
    """window → its target positions, one array a document."""
    found: dict[int, list[np.ndarray]] = {}
    for octave, doc in itertools.product(design.octaves(), range(DOCUMENTS)):
        starts = design.starts(doc, octave)
        for w in range(octave[0], octave[1] + 1):
            t = starts + w - 1
            inside = (t >= design.first_target) & (t <= design.last_target)
            found.setdefault(w, []).append(t[inside])
    return found


def assert_mean_target_does_not_depend_on_the_window(design: Design) -> None:
    """Mean targets of 24 documents against the region's middle.

    Starts `spacing` apart with one phase miss the middle by up to spacing/2; 24 phases spread over
    the circle by golden steps leave about spacing/24. Allowed: 1.5 of these for a window, and half
    of one for an octave; half a token more for both, because starts are whole numbers.
    """
    middle = (design.first_target + design.last_target) / 2
    by_window = targets(design)
    for octave in design.octaves():
        step = design.spacing(octave) / DOCUMENTS
        of_octave = [np.concatenate(by_window[w]) for w in range(octave[0], octave[1] + 1)]
        for w, t in enumerate(of_octave, start=octave[0]):
            assert abs(t.mean() - middle) <= 1.5 * step + 0.5, f"window {w}"
        mean = np.concatenate(of_octave).mean()
        assert abs(mean - middle) <= 0.5 * step + 0.5, f"octave {octave}"


@pytest.mark.parametrize("name", DESIGNS)
def test_the_mean_target_position_does_not_depend_on_the_window(name):
    assert_mean_target_does_not_depend_on_the_window(DESIGNS[name])


class SamePhase(Design):
    """Broken: every document has the starts of document 0."""

    def starts(self, doc, octave):
        return super().starts(0, octave)


class AllAtTheBeginning(Design):
    """Broken: starts crowd at the beginning of the region."""

    def starts(self, doc, octave):
        starts = super().starts(doc, octave)
        return self.first_target + np.arange(len(starts))


class FirstStartLost(Design):
    """Broken: the pass that ends in the beginning of the region is left out."""

    def starts(self, doc, octave):
        return super().starts(doc, octave)[1:]


@pytest.mark.parametrize("broken", [SamePhase, AllAtTheBeginning, FirstStartLost])
def test_the_check_of_mean_targets_fails_for_a_broken_design(broken):
    with pytest.raises(AssertionError):
        assert_mean_target_does_not_depend_on_the_window(broken(**vars(DEFAULT)))


@pytest.mark.parametrize("name", DESIGNS)
def test_octaves_hold_every_window_once(name):
    design = DESIGNS[name]
    windows = [w for low, high in design.octaves() for w in range(low, high + 1)]
    assert windows == list(range(1, design.max_window + 1))


@pytest.mark.parametrize("name", [name for name in DESIGNS if name != "sparse"])
def test_a_design_measures_every_window_in_every_document(name):
    by_window = targets(DESIGNS[name])
    assert set(by_window) == set(range(1, DESIGNS[name].max_window + 1))
    assert all(len(t) > 0 for per_document in by_window.values() for t in per_document)


def test_targets_stay_where_each_context_is_at_least_twice_the_window():
    assert (DEFAULT.first_target, DEFAULT.last_target) == (2047, 3071)
    for octave, doc in itertools.product(DEFAULT.octaves(), range(DOCUMENTS)):
        starts = DEFAULT.starts(doc, octave)
        assert starts.min() >= DEFAULT.first_target - octave[1] + 1 >= 0
        assert starts.max() + octave[0] - 1 <= DEFAULT.last_target


def test_default_settings_give_three_starts_a_document_in_the_top_octave():
    assert min(len(DEFAULT.starts(doc, (513, 1024))) for doc in range(DOCUMENTS)) >= 3


def test_default_settings_give_the_promised_pairs_in_the_top_octave():
    by_window = targets(DEFAULT)
    pairs = sum(len(by_window[w][0]) for w in range(513, 1025))
    assert pairs == pytest.approx(measure.PAIRS_PER_OCTAVE, rel=0.01)


def test_spacings_shrink_by_the_root_of_two_from_octave_to_octave():
    # below it spacings are a few tokens and rounding has its say; windows 1 and 2 have one width
    octaves = [octave for octave in DEFAULT.octaves() if octave[0] >= 2]
    spacings = np.array([DEFAULT.spacing(octave) for octave in octaves])
    np.testing.assert_allclose(spacings[1:] / spacings[:-1], np.sqrt(2), rtol=0.03)


@pytest.mark.parametrize("name", DESIGNS)
def test_batches_hold_each_start_once_with_one_length_each(name):
    design = DESIGNS[name]
    for octave, doc in itertools.product(design.octaves(), range(5)):
        batches = list(truncation.equal_lengths(design, doc, octave))
        starts = np.concatenate([group for group, _ in batches])
        np.testing.assert_array_equal(np.sort(starts), design.starts(doc, octave))
        for group, length in batches:
            wanted = np.minimum(octave[1], design.last_target - group + 1)
            assert (wanted == length).all()
            assert octave[0] <= length and len(group) * length <= max(1024, length)


# --- rows left out, references of several lengths, the same law twice --------------------------


@pytest.mark.parametrize("thin", [2, 4])
def test_thinned_rows_are_those_of_the_whole_at_the_targets_that_are_kept(tiny, numbers, thin):
    settings = {"doc": 1, "max_window": 32, "pairs_per_octave": 40}
    whole = measure_document(tiny, numbers, **settings)
    ours = measure_document(tiny, numbers, **settings, thin=thin)
    width = 2 ** np.ceil(np.log2(whole["window"])) / 2  # of the row's octave
    kept = whole[(width < 4 * thin) | (whole["position"] % thin == 0)].reset_index(drop=True)
    assert len(whole) / thin < len(ours) < len(whole)
    pd.testing.assert_frame_equal(ours, kept, rtol=1e-5, atol=1e-6)


def test_references_of_several_lengths_share_targets_and_equal_the_naive_loop(tiny, numbers):
    lengths = [20, 40]
    table = measure_document(tiny, numbers, 0, max_window=16, pairs_per_octave=30, contexts=lengths)
    begins = table["position"] + 1 - table["context"]
    assert sorted(set(begins)) == [0, 20] and table["position"].min() == 39
    by_begin = {begin: part for begin, part in table.groupby(begins)}
    pairs = [list(zip(p["position"], p["window"], strict=True)) for p in by_begin.values()]
    assert pairs[0] == pairs[1]  # all windows are shorter than both
    for begin, part in by_begin.items():
        moved = part.assign(position=part["position"] - begin)
        assert_equals_naive(tiny, numbers[begin:], moved)


def test_a_reference_is_compared_with_shorter_suffixes_alone(tiny, numbers):
    table = measure_document(
        tiny, numbers, 0, max_window=32, pairs_per_octave=60, contexts=[20, 80]
    )
    assert (table["window"] < table["context"]).all()
    short = table[table["position"] + 1 - table["context"] == 60]
    assert 20 <= short["window"].max() < 36 and table["window"].max() == 32


def test_laws_measured_twice_are_the_noise_floor_of_the_first_document(tiny, numbers, monkeypatch):
    monkeypatch.setattr(truncation, "PIECE", 7)
    settings = {"max_window": 16, "pairs_per_octave": 20, "twice": 5}
    first, second = (measure_document(tiny, numbers, doc, **settings) for doc in (0, 1))
    again = first[first["window"] == first["context"]]
    assert again["position"].tolist() == [31, 32, 33, 34, 35]
    assert again["kl_nats"].abs().max() < 1e-6 and again["tv"].max() < 1e-5
    assert (second["window"] < second["context"]).all()


def test_reading_in_pieces_is_reading(tiny, small, numbers, passage):
    for lm, ids in ((tiny, numbers), (small, passage(small, 60))):
        ids = torch.as_tensor(np.asarray(ids))[None]
        with torch.inference_mode():
            whole, pieces = laws.hidden_states(lm, ids), laws.states_in_pieces(lm, ids, 13)
        torch.testing.assert_close(pieces, whole, atol=1e-4, rtol=1e-4)


def test_losses_are_those_on_the_texts_own_next_token(tiny, numbers):
    table = measure_document(tiny, numbers, 0, max_window=16, pairs_per_octave=90)
    ends = table["position"] == len(numbers) - 1
    assert ends.any() and table.loc[ends, ["nll_nats", "nll_excess_nats"]].isna().all(axis=None)
    for row in table[~ends].iloc[::9].itertuples():
        short = laws.next_token_law(tiny, numbers[row.position - row.window + 1 : row.position + 1])
        full = laws.next_token_law(tiny, numbers[: row.position + 1])
        x = numbers[row.position + 1]
        assert row.nll_nats == pytest.approx(-short[x], abs=1e-4)
        assert row.nll_excess_nats == pytest.approx(full[x] - short[x], abs=1e-4)


# --- bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"max_window": 0}, "max_window: expected at least 1, got 0"),
        ({"max_window": -3}, "max_window: expected at least 1, got -3"),
        ({"max_window": 49}, "documents: expected at least 98 tokens, .* 49, got 96"),
        ({"max_window": 8, "pairs_per_octave": 0}, "pairs_per_octave: expected at least 1, got 0"),
        ({"max_window": 8, "thin": 0}, "thin: expected at least 1, got 0"),
        ({"max_window": 8, "contexts": [1, 9]}, r"contexts: expected some of 2 to 96 .* \[1, 9\]"),
        ({"max_window": 8, "contexts": [97]}, r"contexts: expected some of 2 to 96 .* \[97\]"),
    ],
)
def test_settings_that_cannot_be_had_are_refused(tiny, numbers, settings, expected):
    with pytest.raises(ValueError, match=expected):
        measure_document(tiny, numbers, 0, **settings)


def test_a_window_of_half_the_document_is_the_largest_there_is(tiny, numbers):
    assert measure_document(tiny, numbers, 0, max_window=48)["window"].max() == 48


@pytest.mark.parametrize("window", [0, -1, 12])
def test_the_naive_loop_refuses_a_window_beyond_the_context(tiny, numbers, window):
    with pytest.raises(ValueError, match=f"window: expected 1 to 11, .* got {window}"):
        naive_sensitivity(tiny, numbers, [(10, window)])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_refused_with_their_place(tiny, numbers, bad):
    def spoil(module, args, output):
        if output.last_hidden_state.shape[1] == 96:  # the pass over the whole document
            output.last_hidden_state[:, 70] = bad

    handle = tiny.model.base_model.register_forward_hook(spoil)
    try:
        with pytest.raises(FloatingPointError) as error:
            measure_document(tiny, numbers, 3, 8, 10**6)
    finally:
        handle.remove()
    assert str(error.value) == (
        f"{tiny.name}: expected finite logits, got NaN or infinity in document 3 at "
        "position 70, window 1"
    )


def test_weights_that_are_not_finite_are_found_out(tiny_folder, numbers):
    from kvlib.models import load_model

    lm = load_model(str(tiny_folder), device="cpu")
    lm.model.get_input_embeddings().weight[numbers[70]] = float("nan")
    with pytest.raises(FloatingPointError, match="expected finite logits, got NaN"):
        measure_document(lm, numbers, 0, max_window=8)


def test_a_text_longer_than_the_models_positions_is_refused_in_one_line(small):
    ids = np.zeros(1025, dtype=np.int64)
    with pytest.raises(ValueError, match=r"at most 1024 tokens \(the end of its .*\), got 1025"):
        measure.measure_document(small, ids, 0, max_window=64)
    with pytest.raises(ValueError, match=r"at most 1024 tokens \(the end of its .*\), got 1025"):
        measure.policy_distortion(small, [ids], [SinkRecent()], [64], "online")
