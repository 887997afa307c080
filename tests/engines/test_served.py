"""Rows in memory as workers of the same machine get them."""

from __future__ import annotations

import gc
import os
import resource
import socket
import stat
import threading
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

import polyclinic as pc
from polyclinic.core import codec
from polyclinic.core.partition import Partition
from polyclinic.engines import served
from polyclinic.engines.held import source_of
from polyclinic.engines.served import serve
from tests.engines.near import near

RNG = np.random.default_rng(0)
X = RNG.normal(size=(3000, 4))
ALL = 1 << 30


def columns():
    return {
        "by row": X,
        "by column": np.asfortranarray(X),
        "first rows": np.asfortranarray(np.vstack([X, X]))[:3000],
        "every other": np.repeat(X, 2, axis=1)[:, ::2],
        "backwards": X[::-1],
        "far apart": np.repeat(X[:, 0], 3)[::3],
        "one": X[:, 0],
        "single": X.astype(np.float32),
        "other end": X[:, 1].astype(">f8"),
        "whole": np.arange(3000),
        "flag": X[:, 2] > 0,
        "empty": X[:, :0],
    }


@pytest.mark.parametrize("span", [(0, 3000), (17, 2001), (5, 5)])
@pytest.mark.parametrize("ordinals", [(), ("key",), ("key", "person")])
def test_workers_get_the_rows_as_they_are(span, ordinals, monkeypatch):
    monkeypatch.setattr(served, "AT_ONCE", 1000)
    own = {name: np.sort(RNG.integers(0, 900, 3000)) for name in ordinals}
    rows = Partition(columns(), **own, site="a", first=40, outside=3, population=9)
    given, end = serve(rows, ALL)
    source = source_of(codec.decode(codec.encode(given.to_data())))
    found, wanted = source.load(*span, tuple(rows.columns)), rows.slice(*span)
    end()
    for name, values in wanted.columns.items():
        got = found.columns[name]
        assert got.dtype == values.dtype and got.shape == values.shape
        assert got.tobytes() == values.tobytes()
    for name in ("by column", "first rows"):
        assert found.columns[name].flags.f_contiguous
    for name in ("key", "person"):
        assert np.array_equal(getattr(found, name), getattr(wanted, name)) or name not in own
        assert (getattr(found, name) is None) == (name not in own)
    assert (found.site, found.first, found.outside, found.population) == ("a", 40 + span[0], 3, 9)
    per_row = sum(one.itemsize * max(one[:1].size, 0) for one in columns().values())
    each = per_row + 8 * len(own)
    assert source.bytes(*span, source.columns) == (span[1] - span[0]) * each
    assert not source.bytes(*span, ())


def test_another_account_has_no_way_in_and_nothing_stays():
    given, end = serve(Partition({"x": X[:, 0]}), ALL)
    folder = Path(given.address).parent
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not given.gone
    end()
    assert given.gone and not folder.exists()
    with pytest.raises(OSError):
        given.load(0, 1, ("x",))


def test_a_worker_that_ends_in_the_middle_harms_nobody():
    given, end = serve(Partition({"x": np.zeros(4_000_000)}), ALL)
    for _ in range(3):
        with socket.socket(socket.AF_UNIX) as talk:
            talk.connect(given.address)
            talk.sendall(np.array([0, 4_000_000], "<i8").tobytes()[:11])
        with socket.socket(socket.AF_UNIX) as talk:
            talk.connect(given.address)
            talk.sendall(np.array([0, 4_000_000], "<i8").tobytes())
            talk.recv(10)
    assert given.load(7, 9, ("x",)).columns["x"].tolist() == [0.0, 0.0]
    end()


def test_rows_that_lie_apart_are_copied_piece_by_piece():
    wide = np.random.default_rng(1).normal(size=(40_000, 100))
    for x in (wide[:, :50], wide.T[:, ::2], np.asfortranarray(wide)[:20_000]):
        tracemalloc.start()
        given, end = serve(Partition({"x": x}), ALL)
        found = given.load(0, len(x), ("x",)).columns["x"]
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        end()
        assert found.tobytes() == x.tobytes()
        assert peak < 1.3 * x.nbytes  # what is loaded is here, too


def test_who_cannot_be_let_in_at_once_is_let_in_later(monkeypatch):
    monkeypatch.setattr(served, "PAUSE", 0.01)
    given, end = serve(Partition({"x": X[:, 0]}), ALL)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket(socket.AF_UNIX) as first, socket.socket(socket.AF_UNIX) as second:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (second.fileno() + 1, hard))
            first.connect(given.address)
            second.connect(given.address)
            time.sleep(0.1)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        second.settimeout(30.0)
        second.sendall(np.array([0, 2], "<i8").tobytes())
        assert second.recv(16, socket.MSG_WAITALL) == X[:2, 0].tobytes()
    end()


@pytest.mark.parametrize("what", ["socket", "Thread"])
def test_nothing_is_left_where_there_are_too_many(what, tmp_path, monkeypatch):
    def none_left(*args, **more):
        raise {"socket": OSError, "Thread": RuntimeError}[what]

    monkeypatch.setattr(served.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(served.socket if what == "socket" else served, what, none_left)
    assert serve(Partition({"x": X[:, 0]}), ALL) is None
    assert not list(tmp_path.iterdir())


def test_its_thread_ends_with_it():
    before = set(threading.enumerate())
    given, end = serve(Partition({"x": X[:, 0]}), ALL)
    given.load(0, 3000, ("x",))
    mine = set(threading.enumerate()) - before
    assert mine
    end()
    for one in mine:
        one.join(30.0)
        assert not one.is_alive()


@pytest.mark.parametrize("reason", ["large", "no sockets", "long name"])
def test_else_rows_go_through_files(reason, tmp_path, monkeypatch):
    if reason == "no sockets":
        monkeypatch.delattr(socket, "AF_UNIX")
    if reason == "long name":
        long = tmp_path / ("x" * 120)
        long.mkdir()
        monkeypatch.setattr(served.tempfile, "tempdir", str(long))
    memory = 2 * X.nbytes - 1 if reason == "large" else ALL
    (tmp_path / "files").mkdir()
    cluster = near(tmp_path / "files", memory=memory)
    cluster.machines.here = True
    domain = cluster.domain(Partition({"X": X}))
    assert domain is not None and len(list((tmp_path / "files").iterdir())) == 1
    monkeypatch.undo()
    assert not list(tmp_path.glob("x*/*"))  # nor is a folder of a socket left


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("memory", [ALL, 0], ids=["socket", "files"])
def test_a_fork_that_lets_go_of_rows_takes_them_from_nobody(memory, tmp_path):
    cluster = near(tmp_path, memory=memory)
    cluster.machines.here = True
    workers = cluster.workers(Partition({"X": X}))
    source = source_of(workers.located()[0])
    child = os.fork()
    if not child:
        try:
            del workers
            gc.collect()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert not source.gone
    assert np.array_equal(source.load(1, 3, ("X",)).columns["X"], X[1:3])
    del workers
    assert source.gone


def test_a_fit_has_the_bytes_of_one_process_and_rows_are_let_go(tmp_path):
    cluster = near(tmp_path)
    cluster.machines.here = True
    y = (X[:, 0] + RNG.logistic(size=3000) > 0).astype(float)
    for x in (X, np.asfortranarray(X), np.asfortranarray(np.vstack([X, X]))[:3000]):
        one = pc.LogisticRegression().fit(x, y, engine=pc.Embedded(3))
        other = pc.LogisticRegression().fit(x, y, engine=pc.Embedded(1))
        spread = pc.LogisticRegression().fit(x, y, engine=cluster)
        assert spread.coef_.tobytes() == other.coef_.tobytes()
        np.testing.assert_allclose(spread.coef_, one.coef_, rtol=1e-10)
    assert not list(tmp_path.iterdir())
    del spread, other, one
    gc.collect()
    for holder in cluster.machines.holders.values():
        holder.let_go()
        assert not holder._rows
