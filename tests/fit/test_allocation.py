"""Variance components of a slope, and what a design makes of them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from kvlib.fit.allocation import Components, best, components, plan, two_levels

TOPS = (16, 32, 64, 128)


def rows_of(docs, starts, rows, of_docs, of_starts, of_rows, seed=0):
    """Rows of every octave with known relative spreads, the same in each; D falls as w^-1/2.

    A document's slope varies by `of_docs`: its octaves are scaled by w to a random power.
    """
    rng = np.random.default_rng(seed)
    found = []
    for doc in range(docs):
        tilt = of_docs * rng.standard_normal()
        for top in TOPS:
            for start in range(starts):
                lift = of_starts * rng.standard_normal()
                window = top - np.arange(rows)
                level = 1 - tilt * np.log(top / 45) + lift + of_rows * rng.standard_normal(rows)
                found.append(
                    pd.DataFrame(
                        {
                            "doc": doc,
                            "position": 1000 * start + window,
                            "context": 5000 + 1000 * start + window,
                            "window": window,
                            "kl_nats": top**-0.5 * level,
                        }
                    )
                )
    return pd.concat(found, ignore_index=True)


def influences(rows: int) -> np.ndarray:
    x = np.log(np.array(TOPS)[:, None] - np.arange(rows)).mean(axis=1)
    return (x - x.mean()) / ((x - x.mean()) ** 2).sum()


def test_known_components_are_found():
    table = rows_of(docs=400, starts=4, rows=5, of_docs=0.05, of_starts=0.1, of_rows=0.2)
    found = components(table)
    assert found.tops.tolist() == list(TOPS)
    assert found.documents == pytest.approx(0.05**2, rel=0.25)
    np.testing.assert_allclose(found.starts, influences(5) ** 2 * 0.1**2, rtol=0.25)
    np.testing.assert_allclose(found.rows, influences(5) ** 2 * 0.2**2, rtol=0.1)


@pytest.mark.parametrize("missing", ["of_docs", "of_starts", "of_rows"])
def test_what_does_not_vary_has_no_component(missing):
    spreads = {"of_docs": 0.05, "of_starts": 0.1, "of_rows": 0.2} | {missing: 0.0}
    found = components(rows_of(docs=300, starts=4, rows=6, **spreads))
    total = found.variance(np.full(4, 4), np.full(4, 6))
    shares = {
        "of_docs": found.documents,
        "of_starts": found.starts.sum() / 4,
        "of_rows": found.rows.sum() / 24,
    }
    assert shares[missing] < 0.1 * total
    assert all(share > 0.1 * total for key, share in shares.items() if key != missing)


def test_the_variance_of_a_document_is_foretold():
    """The spread of single documents' slopes, in a study of another design than the first."""
    spreads = {"of_docs": 0.05, "of_starts": 0.15, "of_rows": 0.3}
    found = components(rows_of(docs=300, starts=6, rows=5, **spreads))
    other = rows_of(docs=600, starts=2, rows=3, **spreads, seed=1)
    means = other.groupby(["doc", np.ceil(np.log2(other["window"]))])["kl_nats"].mean().unstack()
    slopes = (means / means.mean() * influences(3)).sum(axis=1)
    foretold = found.variance(np.full(4, 2), np.full(4, 3))
    assert slopes.var(ddof=1) == pytest.approx(foretold, rel=0.2)


def test_laws_measured_twice_and_short_windows_do_not_count():
    table = rows_of(docs=20, starts=3, rows=4, of_docs=0.05, of_starts=0.1, of_rows=0.2)
    again = table.head(30).assign(window=table["context"].head(30), kl_nats=1e-9)
    short = table.head(30).assign(window=1 + np.arange(30) % 8)
    whole = components(pd.concat([table, again, short], ignore_index=True))
    plain = components(table)
    assert whole.documents == plain.documents
    np.testing.assert_array_equal(whole.starts, plain.starts)


def test_a_plan_counts_documents_and_foretells_the_interval():
    found = Components(np.array(TOPS), 0.01, np.full(4, 0.02), np.full(4, 0.3))
    one = plan({"thin": 1}, np.full(4, 2), np.full(4, 10), 5.0, found, seconds=52.0)
    assert one.documents == 10
    assert one.variance == pytest.approx(0.01 + 4 * (0.02 + 0.03) / 2)
    assert one.half_width == pytest.approx(stats.t.ppf(0.975, 9) * np.sqrt(one.variance / 10))
    assert plan({}, np.ones(4), np.ones(4), 90.0, found, seconds=1.0).documents == 2
    with pytest.raises(ValueError, match="octaves: expected those of the table"):
        plan({}, np.ones(3), np.ones(3), 1.0, found, seconds=1.0)


def test_the_best_plan_has_the_least_variance_for_its_time():
    found = Components(np.array(TOPS), 0.05, np.full(4, 0.001), np.full(4, 0.01))
    many = plan({"n": 8}, np.full(4, 8), np.full(4, 9), 8.0, found, 1000)
    few = plan({"n": 1}, np.full(4, 1), np.full(4, 9), 2.0, found, 1000)
    assert best([many, few]) is few  # documents differ, starts hardly do
    alike = Components(np.array(TOPS), 0.0, np.full(4, 0.05), np.full(4, 0.01))
    many = plan({"n": 8}, np.full(4, 8), np.full(4, 9), 8.0, alike, 1000)
    few = plan({"n": 1}, np.full(4, 1), np.full(4, 9), 2.0, alike, 1000)
    assert best([many, few]) is many


@pytest.mark.parametrize("docs, octaves", [(2, 4), (5, 1)])
def test_too_little_to_tell_components_apart_is_one_line(docs, octaves):
    table = rows_of(docs, 2, 3, 0.1, 0.1, 0.1)
    with pytest.raises(ValueError, match=r"expected at least 3 documents and 2 octaves.* got"):
        components(table[table["window"] <= TOPS[octaves - 1]])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda table: table.drop(columns="context"), "expected the column context, got doc, "),
        (lambda table: table.assign(window=-1), "expected finite numbers and windows of 1 or more"),
        (lambda table: table.assign(kl_nats=np.nan), "expected finite numbers"),
    ],
)
def test_a_table_of_other_things_is_one_line(change, said):
    with pytest.raises(ValueError, match=said):
        components(change(rows_of(5, 2, 3, 0.1, 0.1, 0.1)))


def test_two_levels_pay_where_the_difference_hardly_varies():
    rng = np.random.default_rng(0)
    cheap = rng.standard_normal(400)
    close = two_levels(cheap, cheap + 0.05 * rng.standard_normal(400) + 0.01, 1.0, 4.0)
    assert close.shift == pytest.approx(0.01, abs=close.half_width)
    assert close.share == pytest.approx(0.05 * np.sqrt(1 / 5), rel=0.15)
    assert close.time == pytest.approx((1 + 0.05 * np.sqrt(5)) ** 2 / 4, rel=0.1)
    far = two_levels(cheap, rng.standard_normal(400), 1.0, 4.0)
    assert far.time > 1
    with pytest.raises(ValueError, match="expected at least 3 at both precisions, got 2 and 2"):
        two_levels(cheap[:2], cheap[:2], 1.0, 1.0)


def test_the_time_of_two_levels_is_that_of_a_study_simulated():
    """With the shares it names, the corrected mean has the variance that it counts on."""
    rng = np.random.default_rng(3)
    found = two_levels(
        cheap := rng.standard_normal(3000), cheap + 0.3 * rng.standard_normal(3000), 1.0, 3.0
    )
    n0, studies = 60, 4000
    n1 = round(found.share * n0)
    first = rng.standard_normal((studies, n0)).mean(axis=1)
    second = 0.3 * rng.standard_normal((studies, n1)).mean(axis=1)
    seconds = n0 * 1.0 + n1 * 4.0
    alone = seconds / 3.0 / (1 + 0.3**2)  # documents in float32 alone, over their variance
    assert np.var(first + second) * alone == pytest.approx(found.time, rel=0.1)
