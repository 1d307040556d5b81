"""Studies on a cluster of Dask, and what goes wrong there: afterwards tables are the same."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import dask
import distributed
import light
import pandas as pd
import psutil
import pytest

from kvlib import __main__ as command_line
from kvlib import store, study
from kvlib.study import cluster, here, items

# Dask leaves these to the collector
pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
PRELOAD = {"distributed.worker.preload": [light.__file__]}
SEEDS = [1, 2, 3]


@pytest.fixture(autouse=True)
def planted(monkeypatch):
    monkeypatch.setattr(light, "SECONDS", 0)
    monkeypatch.setitem(sys.modules, light.PLACE, None)
    light.plant(sys.modules)
    cluster._ready.clear()


@pytest.fixture(scope="module")
def threads():
    """A cluster of two workers that are threads of this process."""
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, dashboard_address=":0"
    ) as made:
        yield made


@pytest.fixture
def client(threads):
    with cluster._client(threads) as made:
        yield made


@pytest.fixture
def file(tmp_path) -> Path:
    return light.declared(tmp_path, SEEDS)


def run(client, file: Path, told=lambda one, table: None) -> cluster.Tally:
    return cluster.run(client, study.studies(file), "by hand", "cpu", told)


def assert_undisturbed(file: Path, seeds=SEEDS) -> None:
    """All tables are as one process makes them, and nothing is left behind."""
    for seed in seeds:
        table = store.load_table(file.parent / f"t-{seed}")
        pd.testing.assert_frame_equal(table, light.undisturbed(seed), check_exact=True)
    assert light.left(file.parent) == set()


# --- as in one process ------------------------------------------------------------------------


def test_a_cluster_makes_the_tables_of_one_process(client, file, tmp_path, capfd):
    made = []
    assert run(client, file, lambda one, table: made.append((one.table, len(table)))) == (36, 0)
    assert sorted(made) == [("t-1", 480), ("t-2", 480), ("t-3", 480)]
    assert "2 workers; dashboard http" in capfd.readouterr().err
    assert_undisturbed(file)
    whole = tmp_path / "whole"
    whole.mkdir()
    (alone,) = study.studies(light.declared(whole, [1]))
    here.run(alone, "by hand")
    assert (whole / "t-1.parquet").read_bytes() == (tmp_path / "t-1.parquet").read_bytes()
    manifests = [store.read_manifest(folder / "t-1") for folder in (whole, tmp_path)]
    for manifest in manifests:
        del manifest["run"]["date"]
    assert manifests[0] == manifests[1]


def test_what_an_earlier_run_measured_is_not_measured_again(client, file, tmp_path):
    studies = study.studies(file)
    here.run_share(studies, here.Shard(1, 2))
    here.run_share(studies[:1], here.Shard(2, 2))  # the first waits to be joined
    assert run(client, file) == (12, 0)
    assert_undisturbed(file)


# --- what fails ---------------------------------------------------------------------------------


def test_what_fails_is_noted_and_the_others_go_on(client, tmp_path):
    """A study whose model no worker has, a document that cannot be measured."""
    file = light.declared(tmp_path, [7, 13, 1])
    assert run(client, file) == (23, 13)
    found = store.progress(tmp_path / "t-7")
    assert found.done == set(range(12)) - {7} and found.running == {}
    assert found.failed[7]["error"] == "ArithmeticError: expected finite logits, got NaN"
    found = store.progress(tmp_path / "t-13")
    line = "cannot load 'a-model': expected a folder, got none"
    assert {said["error"] for said in found.failed.values()} == {line} and len(found.failed) == 12
    pd.testing.assert_frame_equal(store.load_table(tmp_path / "t-1"), light.undisturbed(1))


def test_rows_of_another_model_are_refused(client, tmp_path, monkeypatch):
    file = light.declared(tmp_path, [1])
    whole, calls = cluster._prepared, []

    def prepared(*args):
        ready = whole(*args)
        calls.append(args)
        other = ready.settings | {"model_sha256": "b" * 64}
        return ready if len(calls) != 5 else ready._replace(settings=other)

    monkeypatch.setattr(cluster, "_prepared", prepared)
    assert run(client, file) == (11, 1)
    (said,) = store.progress(tmp_path / "t-1").failed.values()
    assert said["error"] == f"expected model_sha256 = {'a' * 64}, got {'b' * 64}"


def test_a_scheduler_that_does_not_answer_is_one_line_within_seconds(monkeypatch):
    begin = time.monotonic()
    with pytest.raises(OSError, match="expected an answer from tcp://127.0.0.1:9 within 5 s"):
        with cluster.connected(scheduler="tcp://127.0.0.1:9"):
            pass
    assert time.monotonic() - begin < 3 * cluster.SECONDS
    for bad in ("nonsense://a:1", "tcp://a:b"):
        with pytest.raises((ValueError, OSError), match="scheduler: expected an"):
            with cluster.connected(scheduler=bad):
                pass


def test_a_worker_that_would_measure_something_else_is_named():
    wanted = {"kvlib": "1.0", "calibration": "a" * 64}
    assert cluster._other("tcp://n1:1", wanted, wanted) == ""
    assert cluster._other("tcp://n1:1", OSError("Stream is closed"), wanted) == ""
    line = cluster._other("tcp://n1:1", wanted | {"kvlib": "0.9"}, wanted)
    assert line == "worker tcp://n1:1: expected kvlib 1.0, got 0.9"
    line = cluster._other("tcp://n1:1", wanted | {"calibration": "b" * 64}, wanted)
    assert line.startswith("worker tcp://n1:1: expected the code of calibration, aaaa")
    line = cluster._other("tcp://n1:1", ModuleNotFoundError("No module named 'kvlib'"), wanted)
    assert line.endswith("expected kvlib 1.0, got ModuleNotFoundError: No module named 'kvlib'")


def test_a_worker_of_other_code_that_comes_late_ends_the_run(threads, client, file, monkeypatch):
    whole, me = items.code_sha256, threading.get_ident()

    def late(kind: str) -> str:  # this thread is the client's; those of workers have other code
        return whole(kind) if threading.get_ident() == me else "b" * 64

    monkeypatch.setattr(client, "run", lambda *args, **how: {"w": cluster.identity(args[1])})
    monkeypatch.setattr(items, "code_sha256", late)
    with pytest.raises(ValueError, match="worker .*expected the code of calibration, .* bbbb"):
        run(client, file)
    monkeypatch.setattr(items, "code_sha256", whole)
    with cluster._client(threads) as another:
        assert run(another, file).failed == 0
    assert_undisturbed(file)


def test_a_document_that_another_client_gave_up_is_asked_for_again(
    threads, client, file, monkeypatch
):
    whole, given = client.submit, []

    def submit(*arguments, key: str, **how):
        future = whole(*arguments, key=key, **how)
        if not given:  # the first one is cancelled by somebody else, once
            given.append(key)
            client.cancel([future], force=True)
        return future

    monkeypatch.setattr(client, "submit", submit)
    assert run(client, file).failed == 0 and len(given) == 1
    assert_undisturbed(file)


def test_what_another_client_met_on_a_worker_of_other_code_is_asked_for_again(
    threads, client, file
):
    def other(*_) -> None:
        raise cluster.OtherCode("worker tcp://n1:1: expected kvlib 1.0, got 0.9")

    key = cluster._name(study.studies(file)[0], 0)
    with cluster._client(threads, set_as_default=False) as another:
        met = another.submit(other, key=key)
        distributed.wait([met])
        assert run(client, file).failed == 0 and met.status == "error"
    assert_undisturbed(file)


@pytest.mark.parametrize("when", [1, 5, 30])
def test_a_full_disk_is_an_error_and_the_run_can_go_on(threads, client, file, monkeypatch, when):
    whole, calls = os.replace, []

    def full(*arguments):
        calls.append(arguments)
        if len(calls) == when:
            raise OSError(28, "No space left on device")
        whole(*arguments)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left on device"):
        run(client, file)
    monkeypatch.setattr(os, "replace", whole)
    assert [path for path in file.parent.rglob(".*")] == []
    with cluster._client(threads) as another:
        assert run(another, file).failed == 0
    assert_undisturbed(file)


def test_who_joins_while_another_cancels_is_let_in(threads, monkeypatch, file):
    """Dask tells all clients what one cancelled, and its client asserts that no such message comes
    with the greeting."""
    whole, told = threads.scheduler.handle_stream, []

    async def disturbed(*arguments, **more):
        if len(told) < 2:
            told.append(threads.scheduler.report({"op": "cancelled-keys", "keys": ["k"]}))
        await whole(*arguments, **more)

    monkeypatch.setattr(threads.scheduler, "handle_stream", disturbed)
    with cluster.connected(scheduler=threads.scheduler_address) as joined:
        assert len(told) == 2 and run(joined, file).failed == 0
    assert_undisturbed(file)


# --- twice, at once -----------------------------------------------------------------------------


@pytest.mark.parametrize("when", [1, 10, 13])
def test_two_clients_of_one_folder_make_one_table(threads, client, file, monkeypatch, when):
    """The second begins in the middle of the first and is through before it: what the first still
    gets are duplicates."""
    whole, taken = cluster._Book.take, []

    def take(book, name, future):
        taken.append(name)
        if len(taken) == when:
            with cluster._client(threads, set_as_default=False) as second:
                assert run(second, file).failed == 0
        whole(book, name, future)

    monkeypatch.setattr(cluster._Book, "take", take)
    assert run(client, file).failed == 0
    assert_undisturbed(file)


def test_a_client_and_a_job_array_share_a_folder(client, file, monkeypatch):
    whole, taken = cluster._Book.take, []

    def take(book, name, future):
        taken.append(name)
        if len(taken) == 5:
            here.run_share(study.studies(file), here.Shard(1, 2))
        whole(book, name, future)

    monkeypatch.setattr(cluster._Book, "take", take)
    assert run(client, file).failed == 0
    assert_undisturbed(file)


# --- kill -9 ------------------------------------------------------------------------------------


KILLS = 20


def test_workers_killed_at_twenty_random_moments_cost_nothing(tmp_path):
    """As `--workers 2`, with a hand that kills a worker again and again."""
    killed, stop = [], threading.Event()
    rng = random.Random(7)

    def running(nanny) -> int | None:
        """Its worker's process; None where there is none, or none any more."""
        process = nanny.process  # another thread takes it away
        at_work = process is not None and process.status == distributed.Status.running
        return process.pid if at_work else None

    def kill_now_and_then(workers: dict) -> None:
        while len(killed) < KILLS and not stop.wait(rng.uniform(0.02, 0.4)):
            if living := list(filter(None, map(running, list(workers.values())))):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid := rng.choice(living), signal.SIGKILL)
                    killed.append(pid)

    with dask.config.set(PRELOAD), cluster.connected(workers=2) as client:
        workers = client.cluster.workers  # others come for those that go
        hand = threading.Thread(target=kill_now_and_then, args=(workers,), daemon=True)
        hand.start()
        try:
            for number in range(1000):
                folder = tmp_path / str(number)
                folder.mkdir()
                file = light.declared(folder, SEEDS)
                assert run(client, file) == (36, 0)
                assert_undisturbed(file)
                if len(killed) >= KILLS:
                    break
        finally:
            stop.set()
            hand.join()
    assert len(killed) == KILLS


def test_a_killed_client_leaves_what_one_process_goes_on_from(tmp_path):
    file = light.declared(tmp_path, [1])
    command = [sys.executable, "-m", "kvlib", "study", "--file", str(file), "--workers", "1"]
    slow = os.environ | {"DASK_DISTRIBUTED__WORKER__PRELOAD": f"['{light.__file__}']"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=slow)
    parts = tmp_path / "t-1.parts"
    while not list(parts.glob("0*.parquet")) and process.poll() is None:
        time.sleep(0.002)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    err = process.communicate()[1]
    assert process.returncode == -signal.SIGKILL, err
    assert psutil.wait_procs(workers, 60)[1] == []  # they end with the client
    done = store.progress(tmp_path / "t-1").done
    assert 1 <= len(done) < 12 and not (tmp_path / "t-1.parquet").exists()
    here.run(study.studies(file)[0], "by hand", "cpu")
    assert_undisturbed(file, [1])


SERVED = """
import sys
import distributed, light
light.plant(sys.modules)
how = dict(processes=False, n_workers=2, threads_per_worker=1, dashboard_address=":0")
cluster = distributed.LocalCluster(host="tcp://127.0.0.1", **how)
print(cluster.scheduler_address, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("when", [0, 3])
def test_a_killed_scheduler_is_one_line_and_the_run_can_go_on(
    client, file, monkeypatch, command, when
):
    """Before the first document came, and in the middle."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    beside = Path(light.__file__).parent
    served = subprocess.Popen([sys.executable, "-c", SERVED], cwd=beside, **pipes)
    address = served.stdout.readline().strip()
    whole, taken, join = cluster._Book.take, [], cluster._Book.join_what_is_done

    def take(book, name, future):
        taken.append(name)
        whole(book, name, future)
        if len(taken) == when:
            served.kill()

    def join_what_is_done(book):
        join(book)
        if when == 0:
            served.kill()

    monkeypatch.setattr(cluster._Book, "take", take)
    monkeypatch.setattr(cluster._Book, "join_what_is_done", join_what_is_done)
    try:
        code, out, err = command("study", "--file", file, "--scheduler", address)
    finally:
        served.kill()
        served.communicate()
    assert code == 1 and not out and "Traceback" not in err
    assert "error: scheduler: expected rows of 36 documents, got those of " in err
    assert err.rstrip().endswith("before it went away; give the command again")
    done = sum(len(store.progress(file.parent / f"t-{seed}").done) for seed in SEEDS)
    assert when <= done < 36
    assert run(client, file) == (36 - done, 0)
    assert_undisturbed(file)


def test_a_worker_of_another_version_is_refused_by_name(tmp_path, monkeypatch, capfd):
    there = tmp_path / "other"
    leave = shutil.ignore_patterns("data", "__pycache__")
    shutil.copytree(items.PACKAGE, there / "kvlib", ignore=leave)
    (there / "kvlib" / "data").mkdir()
    init = there / "kvlib" / "__init__.py"
    init.write_text(init.read_text().replace('__version__ = "', '__version__ = "9'))
    file = light.declared(tmp_path, [1])
    with distributed.LocalCluster(n_workers=0, dashboard_address=":0") as empty:
        command = [sys.executable, "-m", "distributed.cli.dask_worker", empty.scheduler_address]
        command += ["--no-nanny", "--no-dashboard", "--nthreads", "1"]
        env = os.environ | {"PYTHONPATH": str(there)}
        quiet = subprocess.DEVNULL
        worker = subprocess.Popen(command, env=env, cwd=there, stdout=quiet, stderr=quiet)
        try:
            with cluster._client(empty) as client:
                client.wait_for_workers(1, timeout=100)
            args = ["kvlib", "study", "--file", str(file), "--scheduler", empty.scheduler_address]
            monkeypatch.setattr(sys, "argv", args)
            with pytest.raises(SystemExit) as exit_:
                command_line.main()
        finally:
            worker.kill()
            worker.wait()
    err = capfd.readouterr().err
    assert exit_.value.code == 1 and err.count("\n") == 1
    assert "error: worker tcp://" in err and "expected kvlib " in err and "got 9" in err
    shutil.rmtree(there)
    assert light.left(tmp_path) == set()
