"""The `prefill` protocol against what kvpress answered, and the comparison that `make peers` makes.

`peers/recorded.npz` holds kvpress' answers for two contexts; its manifest says of which versions.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from peers import compare

FOLDER = Path(compare.__file__).parent
ALIKE = [case for case in compare.CASES if case.alike]
NAMES = [f"{case.name} {case.budget}" for case in ALIKE]


@pytest.fixture(scope="module")
def manifest():
    return json.loads((FOLDER / "recorded.json").read_text())


@pytest.fixture(scope="module")
def recorded(manifest):
    """What kvpress answered, for the cases in ALIKE."""
    path = FOLDER / "recorded.npz"
    assert hashlib.sha256(path.read_bytes()).hexdigest() == manifest["sha256"]
    assert manifest["settings"]["cases"] == [case.question() for case in ALIKE]
    with np.load(path) as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def ours(smollm2, recorded):
    """Our answers: for each context a list with one for each case in ALIKE."""
    answers = []
    for k, ids in enumerate(recorded["contexts"].astype(np.int64)):
        kept = [np.argwhere(kept_by_kvpress(recorded, row)[k]) for row in range(len(ALIKE))]
        shape = kept_by_kvpress(recorded, 0).shape[1:3]
        kept = [where[:, -1].reshape(*shape, -1) for where in kept]
        answers.append(list(compare.our_answers(smollm2, ids, ALIKE, kept)))
    return answers


def kept_by_kvpress(recorded, row) -> np.ndarray:
    """(contexts, layers, KV heads, tokens - 1) bool."""
    tokens = recorded["contexts"].shape[1] - 1
    return np.unpackbits(recorded[f"kept_{row}"], axis=-1, count=tokens).astype(bool)


@pytest.mark.parametrize("row", range(len(ALIKE)), ids=NAMES)
def test_prefill_is_what_kvpress_does(row, ours, recorded):
    """The same entries stay, and the KL from the full law agrees within the bar of 1e-3 nats."""
    for k in range(len(recorded["contexts"])):
        ours_now = ours[k][row]
        kept = kept_by_kvpress(recorded, row)[k]
        assert (kept.sum(-1) == ALIKE[row].budget - 1).all()
        if ALIKE[row].ours and not ALIKE[row].ours.draws:
            others = (kept != ours_now["kept"]).any(-1).mean()  # else ours is told what to keep
            assert others < (0.05 if ALIKE[row].ties else 0.01)  # of the heads, by rounding
        assert ours_now.get("tie_gap", 0) < compare.TIED
        kl = compare.kl_divergence(ours_now["full"], ours_now["law"])
        assert abs(kl - recorded["kl"][row, k]) < compare.BAR
        top, log_p = recorded["top"][row, k], recorded["top_log_p"][row, k]
        np.testing.assert_allclose(ours_now["law"][top], log_p, atol=1e-2)


def test_recorded_answers_come_from_the_pinned_versions(manifest):
    lines = (FOLDER.parent.parent / "requirements-peers.txt").read_text().splitlines()
    pins = dict(line.split("#")[0].strip().split("==") for line in lines if "==" in line)
    versions = manifest["run"]["peer_versions"]
    assert pins.keys() >= {"kvpress", "transformers", "torch"}
    assert {name: versions[name].split("+")[0] for name in pins} == pins


def rows(off: float, between: float = 0.0, tie_gap: float = 0.0) -> pd.DataFrame:
    """Two contexts in which our KL differs from kvpress' by `off` and minus a hair."""
    return pd.DataFrame(
        {
            "kl_peer": [0.5, 0.25],
            "kl_ours": [0.5 + off, 0.25],
            "kl_told": [0.5, 0.25],
            "between": [0.0, between],
            "tie_gap": [0.0, tie_gap],
            "heads": 90,
            "other_heads": [9, 0],
        }
    )


def test_the_table_passes_and_misses(capsys):
    alike = ALIKE[0]
    good = compare.summary(alike, rows(5e-4))
    assert good["verdict"] == "ok" and good["n"] == 2 and good["other_heads"] == 0.05
    assert good["max_off"] == pytest.approx(5e-4) and good["kl_kvpress"] == 0.375
    assert compare.report([alike], [good])
    for bad in (rows(-2e-3), rows(0, between=2e-3), rows(0, tie_gap=1e-3)):
        line = compare.summary(alike, bad)
        assert line["verdict"] == "MISSED"
        assert not compare.report([alike, alike], [good, line])
    assert "MISSED" in capsys.readouterr().out


def test_what_differs_is_told_with_its_reason_and_a_blind_control_fails(capsys):
    differs = [case for case in compare.CASES if not case.alike]
    lines = [compare.summary(case, rows(0.1)) for case in differs]
    assert compare.report(differs, lines)
    out = capsys.readouterr().out
    assert all(case.differs in out for case in differs)
    (control,) = [case for case in differs if case.control]
    assert not compare.report([control], [compare.summary(control, rows(0))])
