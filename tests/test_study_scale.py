"""Many workers: the simulation beside closed forms where there is no contention, and with each."""

from __future__ import annotations

import math

import pytest

from kvlib.study.scale import Cluster, makespan, simulate


@pytest.mark.parametrize(("workers", "items"), [(1, 5), (3, 9), (4, 10), (7, 3), (100, 1000)])
def test_without_contention_it_is_the_closed_form(workers, items):
    """W workers, N items of s seconds, a load of L seconds: L + ⌈N/W⌉ s."""
    found = simulate([2.0] * items, workers, Cluster(load_bytes=3e9, own_rate=1e9))
    closed = 3 + math.ceil(items / workers) * 2
    assert found.seconds == pytest.approx(closed)
    assert found.efficiency == pytest.approx(items * 2 / (workers * closed))
    assert found.lost == 0
    assert makespan([("m", 2.0, 3.0)] * items, workers) == pytest.approx(closed)


def test_a_storage_that_all_read_at_once_gives_each_its_share():
    cluster = Cluster(load_bytes=1e9, own_rate=1e9, shared_rate=2e9)
    assert simulate([1.0] * 2, 2, cluster).seconds == pytest.approx(1 + 1)
    assert simulate([1.0] * 8, 8, cluster).seconds == pytest.approx(8 / 2 + 1)


def test_a_folder_takes_one_file_after_another():
    cluster = Cluster(load_bytes=0.0, file_seconds=0.5)
    assert simulate([1.0] * 6, 6, cluster).seconds == pytest.approx(1 + 6 * 0.5)
    assert simulate([1.0] * 6, 6, cluster, files=2).seconds == pytest.approx(1 + 6)


def test_workers_that_die_lose_an_item_each_and_all_items_are_made():
    """A worker lives t = -m log(1 - F) seconds: of items of s, the share 1 - e^(-s/m) is lost."""
    cluster = Cluster(load_bytes=1.0, mean_life=10.0, restart=1.0)
    found = simulate([2.0] * 20_000, 50, cluster)
    share = 1 - math.exp(-2 / 10)
    assert found.lost / (20_000 + found.lost) == pytest.approx(share, rel=0.05)
    assert found.efficiency < 1 - share
    calm = simulate([2.0] * 20_000, 50, cluster._replace(mean_life=math.inf))
    assert calm.lost == 0 and calm.seconds < found.seconds
    assert simulate([2.0] * 500, 5, cluster, seed=3) == simulate([2.0] * 500, 5, cluster, seed=3)


def test_a_late_load_shares_with_those_that_run():
    """Two loads from 0 on, at half the rate each; a worker that died joins at 5."""
    cluster = Cluster(load_bytes=4.0, own_rate=1.0, shared_rate=1.0)
    assert simulate([1.0, 1.0], 2, cluster).seconds == pytest.approx(8 + 1)


def test_a_schedule_loads_anew_where_the_model_is_another():
    items = [("a", 1.0, 5.0), ("a", 1.0, 5.0), ("b", 1.0, 7.0)]
    assert makespan(items, 1) == pytest.approx(5 + 1 + 1 + 7 + 1)
    assert makespan(items, 3) == pytest.approx(8)
    assert makespan([], 3) == 0
    assert makespan([("a", 9.0, 0.0), *[("a", 1.0, 0.0)] * 4], 1000) == pytest.approx(9)


@pytest.mark.parametrize("workers, seconds", [(0, [1.0]), (1, [0.0]), (-1, [1.0])])
def test_nobody_and_nothing_are_refused(workers, seconds):
    with pytest.raises(ValueError, match="expected at least 1 worker and items that take time"):
        simulate(seconds, workers, Cluster(load_bytes=1.0))
    if workers < 1:
        with pytest.raises(ValueError, match="workers: expected at least 1"):
            makespan([("a", 1.0, 0.0)], workers)
