"""Rows in memory as files: where they are written."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest

import polyclinic as pc
from polyclinic.core.partition import Partition
from polyclinic.engines import spool
from tests.engines.near import near


@pytest.mark.parametrize(("room", "place"), [(800, "quick"), (799, "large")])
def test_rows_are_written_where_there_is_room(room, place, tmp_path, monkeypatch):
    places = [str(tmp_path / "quick"), str(tmp_path / "large")]
    for one in places:
        Path(one).mkdir()
    monkeypatch.setattr(spool, "_room", lambda at: room if at == places[0] else 0)
    found = spool.spool(Partition({"x": np.arange(100.0)}, site="a"), places)
    assert Path(found.folder).parent == tmp_path / place
    assert found.load(10, 12, ["x"]).columns["x"].tolist() == [10.0, 11.0]


def test_files_in_memory_leave_room_for_others(tmp_path, monkeypatch):
    import psutil

    monkeypatch.setattr(spool, "SHARED", str(tmp_path))
    assert 0 < spool._room(str(tmp_path)) <= psutil.virtual_memory().total // 4


@pytest.mark.parametrize("kind", [np.float64, np.float32])
@pytest.mark.parametrize("order", ["C", "F"])
def test_large_arrays_are_written_as_numpy_writes_them(kind, order, tmp_path, monkeypatch):
    monkeypatch.setattr(spool, "BLOCK", 1000)
    values = np.array(np.arange(3001).reshape(-1, 1) * [1.0, 2.0], dtype=kind, order=order)
    spool._save(tmp_path / "ours.npy", values)
    np.save(tmp_path / "theirs.npy", values)
    assert (tmp_path / "ours.npy").read_bytes() == (tmp_path / "theirs.npy").read_bytes()


def test_workers_let_go_of_rows_whose_files_are_removed(tmp_path):
    cluster = near(tmp_path)
    x = np.random.default_rng(0).normal(size=(100, 2))
    for _ in range(3):
        pc.PCA(1).fit(x, engine=cluster)
        gc.collect()
    assert sum(len(one._rows) for one in cluster.machines.holders.values()) == 1
