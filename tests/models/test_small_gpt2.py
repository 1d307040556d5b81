"""The project's own small model: what it was kept from, how it resumes, what its card says."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
import torch

from kvlib import corpora
from kvlib.models import small_gpt2


def test_a_split_loses_nothing_and_overlaps_nowhere():
    text = "".join(chr(0x4E00 + k) for k in range(10_000))  # each character once
    part = small_gpt2.split(text, stretches=5, chars=300)
    assert [len(s) for s in part.held_out] == [300] * 5
    assert sorted("".join(part.train + part.held_out)) == sorted(text)
    assert not set("".join(part.train)) & set("".join(part.held_out))


def test_a_text_too_short_for_its_stretches_is_refused():
    with pytest.raises(ValueError, match="text: expected at least 1000 characters, got 900"):
        small_gpt2.split("a" * 900, stretches=5, chars=100)


@pytest.mark.parametrize("name", small_gpt2.CORPORA)
def test_no_held_out_stretch_of_the_pinned_texts_is_trained_on(name):
    """Cut by place, so certain by construction; and the middle of none is found elsewhere."""
    text = corpora.load_corpus(name).text
    part = small_gpt2.split(text)
    assert sum(map(len, part.train)) + sum(map(len, part.held_out)) == len(text)
    train = "\0".join(part.train)
    found = [stretch[2000:2400] in train for stretch in part.held_out]
    assert sum(found) <= (1 if name == "scipy-docs" else 0)  # docstrings repeat themselves


def test_held_out_documents_come_from_the_stretches(small):
    documents = small_gpt2.held_out_documents(small.tokenizer, "world-english-bible")
    stretches = small_gpt2.split(corpora.load_corpus("world-english-bible").text).held_out
    assert len(documents) == 24 and {len(d) for d in documents} == {1024}
    for document, stretch in zip(documents, stretches, strict=True):
        assert stretch.startswith(small.tokenizer.decode(document[:300]))


def tiny_training(folder):
    ids = [np.random.default_rng(k).integers(0, 60, 500).astype(np.uint16) for k in range(2)]
    config = small_gpt2.config_for(60, 16, n_embd=16, n_layer=1, n_head=2)
    looked_at = [np.arange(16) % 60]
    return small_gpt2.Training(folder, ids, config, held_out=looked_at)


def test_a_resumed_training_ends_where_an_undisturbed_one_does(tmp_path, monkeypatch):
    monkeypatch.setattr(small_gpt2, "HELD_OUT_EVERY", 3)
    whole = tiny_training(tmp_path / "whole")
    whole.run(8)
    part = tiny_training(tmp_path / "part")
    original = small_gpt2.batch

    def interrupted(ids, update, seed, context):
        if update == 4:
            raise KeyboardInterrupt
        return original(ids, update, seed, context)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(small_gpt2, "batch", interrupted)
        part.run(8, checkpoint_s=0)
    again = tiny_training(tmp_path / "part")
    assert again.update == 4
    again.run(8)
    for one, two in zip(whole.parameters, again.parameters, strict=True):
        torch.testing.assert_close(one, two, atol=0, rtol=0)
    assert whole.losses == again.losses
    assert [update for update, _ in again.held_out] == [3, 6] and whole.held_out == again.held_out
    assert not list(tmp_path.rglob("*.pt")) + list(tmp_path.rglob("*.bin"))


def test_the_rate_warms_up_and_comes_down():
    shares = [small_gpt2.share_of_peak(done) for done in (0, 0.01, 0.03, 0.5, 1)]
    assert shares[0] < shares[1] < shares[2] == pytest.approx(1)
    assert shares[2] > shares[3] > shares[4] == pytest.approx(0.05)


def test_the_stored_model_is_small_tied_and_has_a_loss_curve_that_falls(small):
    files = list(small_gpt2.FOLDER.iterdir())
    assert sum(f.stat().st_size for f in files) < 12e6
    assert {"model.safetensors", "config.json", "README.md", "loss.csv", "held_out.csv"} <= {
        f.name for f in files
    }
    assert small.model.lm_head.weight is small.model.transformer.wte.weight
    losses = np.loadtxt(small_gpt2.FOLDER / "loss.csv", delimiter=",", skiprows=1)[:, 1]
    assert losses[-5:].mean() < losses[:5].mean() - 2
    assert small.prefix_ids == () and small.vocab_size == 4096


def test_the_card_says_what_the_model_does(small):
    card = (small_gpt2.FOLDER / "README.md").read_text(encoding="utf-8")
    stated = dict(re.findall(r"^\| ([a-z-]+) \| ([\d.]+) \|$", card, re.MULTILINE))
    documents = small_gpt2.held_out_documents(small.tokenizer, "world-english-bible")[:24]
    # the card was computed in the precision of the export, before the file was read back
    found = small_gpt2.bits_per_token(small.model, documents)
    assert found == pytest.approx(float(stated["world-english-bible"]), abs=0.01)
    assert f"{small.model.num_parameters():,} parameters" in card


def test_what_training_taught_is_read_off_the_end_of_its_curve():
    looks = pd.DataFrame({"tokens": [1e6, 2e6, 3e6], "bits_per_token": [9.0, 7.0, 6.5]})
    assert small_gpt2.learning(looks) == (3_000_000, 6.5, 1_000_000, -0.5)
    with pytest.raises(ValueError, match="expected two looks or more, got 1"):
        small_gpt2.learning(looks.head(1))


def test_the_stored_model_had_nearly_stopped_to_learn():
    taught = small_gpt2.learning(pd.read_csv(small_gpt2.FOLDER / "held_out.csv"))
    assert -0.2 < taught.last_change < 0.02  # bits a token; it neither falls fast nor overfits
