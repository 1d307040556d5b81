"""The shaded passage: its rows are the models' laws, its payload is all that the page needs."""

from __future__ import annotations

import numpy as np
import pytest

from kvlib import charts, claims, measure, store
from kvlib.measure import passage as measured


def test_rows_are_the_laws_of_the_model(smollm2, passage):
    ids = passage(smollm2, 60)
    policies = [passages_policy(key) for key in ("sinks", "sliding", "random")]
    rows = measured.measure_passage(smollm2, ids, 6, policies, [16])
    assert rows["position"].unique().tolist() == list(range(54, 60))
    full = rows[rows["policy"] == measured.FULL].set_index("position")
    law = np.exp(measure.next_token_law(smollm2, ids[:57]))
    assert full.loc[57, "probability"] == pytest.approx(law[ids[57]], rel=1e-3)
    assert full.loc[57, "share_0"] == pytest.approx(law.max(), rel=1e-3)
    assert full.loc[57, "guess_0"] == smollm2.tokenizer.decode([int(law.argmax())])
    assert (full["kl_nats"].abs() < 1e-6).all()
    table = measure.policy_distortion(
        smollm2, [ids[:-1]], [passages_policy("sinks")], [16], "online", every=1
    ).set_index("position")["kl_nats"]
    ours = rows[rows["policy"] == "sinks"].set_index("position")["kl_nats"]
    np.testing.assert_allclose(ours.to_numpy(), table.loc[53:58].to_numpy(), atol=2e-5)


def passages_policy(name: str):
    from kvlib.cache.policies import NAMED

    return NAMED[name]


def test_the_stored_passage_reads_as_text_and_its_payload_holds_every_cell():
    rows = claims.story.stored_passage()
    drawn = charts.passage.Passage(rows, "a passage")
    payload = drawn.payload()
    (table,) = store.tables(study="passage")
    shown = table.settings["shown"]
    assert len(payload["tokens"]) == shown
    assert set(payload["cells"]) == {
        payload["full"],
        *(f"{p}|{b}" for p in payload["policies"] for b in payload["budgets"]),
    }
    for cell in payload["cells"].values():
        assert len(cell["kl"]) == len(cell["own"]) == len(cell["guesses"]) == shown
        assert max(i for row in cell["guesses"] for i in row[::2]) < len(payload["texts"])


def test_the_html_is_inert_and_escaped():
    rows = claims.story.stored_passage()
    odd = rows.assign(token="<b>", guess_0="</script>")
    html = charts.passage.Passage(odd, 'a "label"').to_html()
    assert "<b>" not in html and html.count("</script>") == 1
    assert 'aria-label="a &quot;label&quot;"' in html
