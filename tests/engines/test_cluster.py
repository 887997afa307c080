"""The engine of real processes: three Dask workers, which are killed."""

from __future__ import annotations

import gc
import os
import runpy
import signal
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

import polyclinic as pc
from polyclinic.core import codec
from polyclinic.core.fit import fit
from polyclinic.engines.machines import Tree
from tests.engines.near import BOOK, FORMULA, visits, write
from tests.study.test_conformance import ALGORITHMS, partition

pytest.importorskip("distributed")


@pytest.fixture(scope="module")
def cluster():
    """Every worker holds a partition, however slow it has been."""
    with pc.cluster(workers=3, partitions=3, patience=5, policy="round_robin") as found:
        yield found


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write(visits(), tmp_path_factory.mktemp("visits"))


def fitted(data, engine=None, **more):
    model = pc.LogisticRegression().fit(data, FORMULA, engine=engine, **more)
    return model.summary().to_numpy().tobytes()


@pytest.mark.parametrize("name", ["logistic", "cross-table", "boosting", "clusters", "cox"])
def test_the_kit_gives_the_bytes_of_one_process(name, cluster):
    algorithm = ALGORITHMS[name].algorithm
    here = fit(algorithm(), pc.Embedded(3).domain(partition())).state
    there = fit(algorithm(), cluster.domain(partition())).state
    assert codec.encode(here) == codec.encode(there)
    assert len(set(cluster.worker_pids().values())) == 3


def test_a_hospital_may_be_a_cluster(cluster, files):
    others = {"b": visits(300, 1), "c": visits(400, 2)}
    scan = pc.scan(files, BOOK)
    here = fitted(pc.read({"a": scan, **others}, BOOK), pc.Embedded(3), privacy=pc.SecureSum())
    on = pc.read({"a": pc.scan(files, BOOK, engine=cluster), **others}, BOOK)
    assert fitted(on, pc.Embedded(3), privacy=pc.SecureSum()) == here


def test_the_example_writes_files_that_fit(cluster, tmp_path):
    write_example = runpy.run_path(str(Path(__file__).parents[2] / "examples/cluster.py"))["write"]
    write_example(tmp_path, patients=400)
    data = [pc.scan(tmp_path / "visits/*.parquet", schema=tmp_path / "visits.toml") for _ in "ab"]
    assert fitted(data[0], cluster) == fitted(data[1], pc.Embedded(3))


def state(engine, **more):
    algorithm = ALGORITHMS["logistic"].algorithm()
    return codec.encode(fit(algorithm, engine.domain(partition()), **more).state)


def test_sums_are_added_at_workers_who_fetch_them_from_others(cluster, monkeypatch):
    monkeypatch.setattr(cluster.machines, "tree", Tree(fan_in=2, workers=2, bytes=0))
    before = cluster.activity.bytes
    assert state(cluster) == state(pc.Embedded(3))
    monkeypatch.setattr(cluster.machines, "tree", None)
    held, between = cluster.activity.bytes - before, cluster.activity.bytes
    state(cluster)
    assert held < cluster.activity.bytes - between  # sums do not come here one by one


def test_a_worker_that_stands_still_is_not_waited_for(cluster):
    """Stopped from outside in one round, for longer than the fit takes; then it goes on."""

    def stop(done):
        if done.number == 1:
            pids = cluster.worker_pids()
            stopped.append(pids[max(pids)])
            os.kill(stopped[0], signal.SIGSTOP)
        copied.append(cluster.activity.copied)

    stopped, copied = [], []
    expected = state(pc.Embedded(3))
    state(cluster)  # so that it is known how long a round takes
    try:
        assert state(cluster, callbacks=[stop]) == expected
        assert copied[-1] > copied[0] and len(cluster.machines.live()) == 3
    finally:
        os.kill(stopped[0], signal.SIGCONT)
    assert state(cluster) == expected
    assert set(cluster.worker_pids().values()) >= set(stopped)


def analyses_held():
    """Of how many analyses a worker holds rows; is run there."""
    from polyclinic.engines.held import Holder

    return sum(len(one._rows) for one in gc.get_objects() if isinstance(one, Holder))


def test_workers_let_go_of_rows_as_soon_as_nobody_asks(cluster):
    def held():
        return sum(cluster.machines.client.run(analyses_held).values())

    x, seen = np.random.default_rng(0).standard_normal((2000, 3)), []
    before = held()
    look = [lambda done: seen.append(held())]
    model = pc.LinearRegression().fit(x, x.sum(axis=1), engine=cluster, callbacks=look)
    assert max(seen) > before
    del model
    gc.collect()
    end = time.monotonic() + 60
    while held() > before:
        assert time.monotonic() < end
        time.sleep(0.05)


def bytes_that_stay():
    """Of arrays that a worker keeps for many fits; is run there."""
    from polyclinic.engines.staying import staying_bytes

    return staying_bytes()


def test_workers_keep_what_is_held_until_it_is_let_go_of(cluster):
    def kept():
        return sum(cluster.machines.client.run(bytes_that_stay).values())

    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2000, 3)), rng.integers(0, 3, 2000)
    expected = pc.LogisticRegression().fit(x, y, engine=pc.Embedded(3)).coef_
    x = cluster.hold(x)
    for _ in range(2):
        assert np.array_equal(pc.LogisticRegression().fit(x, y, engine=cluster).coef_, expected)
        gc.collect()
        assert kept() == x.nbytes
    cluster.let_go(x)
    end = time.monotonic() + 60
    while kept():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_rounds_that_overlap_go_on_without_a_worker_that_is_killed(cluster):
    def kill(done):
        if done.number == 8:
            pids = cluster.worker_pids()
            os.kill(pids[min(pids)], signal.SIGKILL)

    x = np.random.default_rng(0).standard_normal((3000, 3))
    y = (x[:, 0] + np.random.default_rng(1).logistic(size=3000) > 0).astype(float)

    def hurried(engine, **more):
        options = {"batch": 0.25, "staleness": 2}
        model = pc.LogisticRegression(solver="sgd", max_rounds=60, solver_options=options)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            return model.fit(x, y, engine=engine, **more)

    model, newton = hurried(cluster, callbacks=[kill]), pc.LogisticRegression().fit(x, y)
    assert len(cluster.worker_pids()) == 2
    assert model.n_iter_ == 60 and {age for *_, age in model.events_} <= {0, 1, 2}
    assert model.result_.loss - newton.result_.loss < 0.5  # of about 1900
    again = hurried(pc.Embedded(3, arrivals=model.events_))
    assert again.result_.coef.tobytes() == model.result_.coef.tobytes()


def test_workers_that_are_killed_change_no_byte_and_the_last_stops_the_run(
    cluster, files, tmp_path
):
    def kill(done):
        """The first of two stands still for a round before, so that it is helped."""
        if done.number + 1 in kills:
            pids = cluster.worker_pids()
            target.append(pids[min(pids)])
            if len(pids) == 2:
                os.kill(target[-1], signal.SIGSTOP)
        if done.number in kills:
            os.kill(target[-1], signal.SIGKILL)

    def data():
        return pc.scan(files, BOOK)  # of its own books: else what was released is not asked again

    kills, target, copied = {2}, [], cluster.activity.copied
    expected = fitted(data(), pc.Embedded(3))
    assert fitted(data(), cluster, callbacks=[kill]) == expected
    assert cluster.activity.copied > copied
    assert len(cluster.worker_pids()) == 1
    kills = {3}
    store = pc.Checkpoint(tmp_path / "fit.pcm")
    with pytest.raises(pc.Stopped) as caught:
        fitted(data(), cluster, callbacks=[kill], store=store)
    assert caught.value.code == "CLUSTER_LOST"
    assert fitted(data(), pc.Embedded(3), store=store) == expected


def test_trees_over_rows_that_fit_nowhere_outlast_a_worker(files):
    def fits(engine, **more):
        model = pc.GradientBoostingClassifier(n_estimators=2, max_depth=2)
        trees = model.fit(pc.scan(files, BOOK), FORMULA, engine=engine, **more).result_.trees
        return codec.encode(trees.to_data())

    def kill(done):
        if done.number == 3:
            os.kill(next(iter(engine.worker_pids().values())), signal.SIGKILL)

    with pc.cluster(workers=2, partitions=3, memory=100, patience=5) as engine:
        assert fits(engine, callbacks=[kill]) == fits(pc.Embedded(3))
        assert len(engine.worker_pids()) == 1


def test_what_cannot_be_is_said():
    for wrong in ({"policy": "best"}, {"workers": 0}):
        with pytest.raises(pc.InputError) as caught:
            pc.cluster(**wrong)
        assert caught.value.code == "WRONG_VALUE"
