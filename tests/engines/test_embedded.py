from __future__ import annotations

import threading

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from polyclinic.core.partition import CHUNK_ROWS
from polyclinic.core.plan import Plan
from polyclinic.engines import workers
from polyclinic.engines.workers import ThreadWorkers, single_threaded_blas
from tests.core import toy
from tests.core.wiring import domain, federation, partition

N = 2 * CHUNK_ROWS + 1234
X = np.random.default_rng(8).normal(0.1, 3.0, N)
KEY = np.sort(np.random.default_rng(9).integers(0, N // 3, N))
PLAN = Plan("toy.sum", {"centre": 0.123, "rate": 0.7}, "descent")


@pytest.fixture(autouse=True)
def _threads_even_for_small_work(monkeypatch):
    monkeypatch.setattr(workers, "INLINE_CELLS", 0)


def total(partitions=1, threads=1, key=None):
    return domain(partition({"x": X}, key), partitions, threads).total(PLAN)


@pytest.mark.parametrize("key", [None, KEY], ids=["rows", "patients"])
@pytest.mark.parametrize("partitions", [1, 3, 7])
def test_any_number_of_threads_the_same_bytes(partitions, key):
    one, *others = (total(partitions, threads, key) for threads in (1, 2, 4))
    for other in others:
        assert other["sum"].tobytes() == one["sum"].tobytes()
        assert other["signs"].tobytes() == one["signs"].tobytes()


@pytest.mark.parametrize("key", [None, KEY], ids=["rows", "patients"])
@pytest.mark.parametrize("partitions", [3, 7])
def test_another_split_the_same_integers_and_floats_to_twelve_digits(partitions, key):
    one, other = total(1, 2, key), total(partitions, 2, key)
    assert other["n"].tobytes() == one["n"].tobytes()
    assert other["signs"].tobytes() == one["signs"].tobytes()
    assert other.number("sum") == pytest.approx(one.number("sum"), rel=1e-12)


@pytest.mark.parametrize("partitions", [1, 3, 7])
def test_patients_are_counted_once_however_rows_are_split(partitions):
    workers = ThreadWorkers(partition({"x": X}, KEY), partitions, 2)
    assert workers.sum(PLAN).evidence.patients == len(np.unique(KEY))


def test_sites_and_one_domain_agree():
    half = N // 2
    parts = {"a": partition({"x": X[:half]}, site="a"), "b": partition({"x": X[half:]}, site="b")}
    sites = federation(parts, partitions=3, threads=2).total(PLAN)
    assert sites["signs"].tobytes() == total()["signs"].tobytes()
    assert sites.number("sum") == pytest.approx(total().number("sum"), rel=1e-12)


def test_an_empty_domain_sums_to_zero():
    found = domain(partition({"x": []}), 3, 2).total(PLAN)
    assert (int(found["n"]), found.number("sum"), found["signs"].tolist()) == (0, 0.0, [0, 0])


def test_more_partitions_than_rows():
    found = domain(partition({"x": [1.0, -2.0, 3.0]}), 7, 2).total(PLAN)
    assert int(found["n"]) == 3


def test_a_site_task_sees_all_rows_at_once(monkeypatch):
    seen = []
    monkeypatch.setattr(toy.SumTask, "grain", "site")
    monkeypatch.setattr(toy.SumTask, "local", _spy(toy.SumTask.local, seen))
    object.__setattr__(toy.SUM, "grain", "site")
    try:
        total(7, 2)
    finally:
        object.__setattr__(toy.SUM, "grain", "row")
    assert seen == [N]


def _spy(local, seen):
    def watched(self, plan, part):
        seen.append(part.n_rows)
        return local(self, plan, part)

    return watched


def test_an_error_in_one_thread_ends_the_round():
    x = X.copy()
    x[-1] = np.nan
    with pytest.raises(Exception, match="not finite"):
        domain(partition({"x": x}), 7, 2).total(PLAN)


def blas_threads():
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


def test_blas_is_single_threaded_while_any_run_lasts():
    before = blas_threads()
    inside, leave = threading.Event(), threading.Event()

    def other():
        with single_threaded_blas():
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    with single_threaded_blas():
        thread.start()
        inside.wait(10)
        assert blas_threads() == {1}
        leave.set()
        thread.join()
        assert blas_threads() == {1}, "this run goes on when the other has ended"
    assert blas_threads() == before


def test_blas_is_restored_after_an_error():
    before = blas_threads()
    with pytest.raises(RuntimeError), single_threaded_blas():
        raise RuntimeError
    assert blas_threads() == before
