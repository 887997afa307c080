"""What a worker keeps beside its columns counts, and goes first; nothing is held twice."""

from __future__ import annotations

import gc
import tracemalloc
from weakref import ref

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

import polyclinic as pc
from polyclinic.core.partition import Partition
from polyclinic.data.codebook import Codebook
from polyclinic.engines.caches import Cache, bytes_of
from polyclinic.engines.held import Holder
from polyclinic.models.glm.support import Data
from tests.engines.near import near

ROWS, GROUP, COLUMNS = 140_000, 10_000, 6
NAMES = [f"x{j}" for j in range(COLUMNS)]
NUMBERS = {name: {"type": "number", "range": [-99, 99]} for name in NAMES}
LEVELS = {"y": {"type": "binary", "levels": {"0": "no", "1": "yes"}}}
BOOK = Codebook.from_dict({"format": 1, "name": "numbers", "columns": {**NUMBERS, **LEVELS}})
FORMULA = f"x5 ~ {' + '.join(NAMES[:5])}"
HELD = ROWS * 8 * (COLUMNS + 2)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("rows")
    x = rng.normal(size=(ROWS, COLUMNS))
    x[:, 0] = rng.integers(0, 6, ROWS)
    y = (rng.uniform(size=ROWS) < 1 / (1 + np.exp(-x[:, 1]))).astype(np.int8)
    parquet.write_table(pa.table([*x.T, y], [*NAMES, "y"]), folder / "a.parquet", GROUP)
    return folder


def traced(work):
    """Most memory that Python and numpy took for it, and what it gave."""
    tracemalloc.start()
    try:
        found = work()
        return tracemalloc.get_traced_memory()[1], found
    finally:
        tracemalloc.stop()


def fitted(files, folder, memory):
    cluster = near(folder, workers=1, memory=memory)
    data = pc.scan(files, BOOK)
    model = pc.LinearRegression().fit(data, FORMULA, engine=cluster)
    (rows,) = cluster.machines.holders["w0"]._rows.values()
    columns = {id(one) for part in rows.parts.values() for one in part.columns.values()}
    return model, rows.bytes() + bytes_of([dict(one) for one in rows.caches], columns)


def test_columns_and_what_models_keep_are_within_the_memory_together(files, tmp_path):
    free, much = fitted(files, tmp_path, 1 << 30)
    bound, little = fitted(files, tmp_path, HELD)
    assert free.summary().to_numpy().tobytes() == bound.summary().to_numpy().tobytes()
    matrices = ROWS * 8 * 5
    assert little <= HELD < HELD + matrices <= much


def test_rows_are_read_into_place(files):
    selected = pc.scan(files, BOOK)._selected("hospital", None)
    place = selected.locate([selected.survey(group) for group in range(selected.groups)])
    selected.load(place, 0, 10, NAMES)  # what is imported by it
    peak, loaded = traced(lambda: selected.load(place, 0, ROWS, NAMES))
    assert loaded.n_rows == ROWS
    held = ROWS * 8 * (COLUMNS + 1)
    assert held < peak < held + 5 * GROUP * 8 * (COLUMNS + 2)


def test_clusters_of_rows_that_fit_nowhere_are_those_of_one_process(files, tmp_path):
    data = pc.scan(files, BOOK)
    here = pc.KMeans(3, max_iter=2).fit(data, "~ x0")
    streamed = near(tmp_path, memory=1 << 20)
    whole = near(tmp_path, 2)

    def lose(done):
        if done.step == "clusters":  # of whose groups nobody else knows
            streamed.machines.lost.add("w1")

    for engine in (streamed, whole):
        model = pc.KMeans(3, max_iter=2)
        there = model.fit(data, "~ x0", engine=engine, callbacks=[lose])
        assert there.cluster_centers_.tobytes() == here.cluster_centers_.tobytes()


def test_what_a_task_did_not_use_goes_first_and_then_what_is_large():
    rows, cache = Partition({"x": np.zeros(100)}, key=np.arange(100)), Cache()
    cache["old"] = np.zeros(100)
    cache.settle(rows, 2000)
    made = {"new": np.zeros(100), "view": rows.columns["x"][3:], "again": [rows.key[:4]]}
    cache["new"], cache["small"] = made, np.zeros(10)
    cache.settle(rows, 1600)
    assert list(cache) == ["new", "small"] and cache.bytes == 880
    assert cache.get("new") is made and cache.get("small") is not None
    cache.settle(rows, 879)
    assert list(cache) == ["small"] and cache.bytes == 80
    cache.settle(rows, 0)
    assert not cache and cache.bytes == 0


def test_of_rows_that_do_not_stay_views_count():
    rows, cache = Partition({"x": np.zeros(100)}), Cache(held=False)
    cache["view"] = rows.columns["x"][3:]
    cache.settle(rows, 800)
    assert cache.bytes == 800
    cache.settle(rows, 799)
    assert not cache


def test_memory_is_counted_once_and_files_not_at_all(tmp_path):
    x = np.zeros((10, 3))
    mapped = np.memmap(tmp_path / "x", dtype=np.float64, mode="w+", shape=(50,))
    loop = {"x": x[2:], "again": (x.T, {"deep": [x]}), "file": mapped[4:], "word": "x"}
    loop["self"] = loop
    assert bytes_of(loop, set()) == 240
    assert bytes_of(loop, {id(x)}) == 0


def test_rows_that_were_judged_are_let_go_at_once():
    x = np.zeros(10)
    data = Data({"x": x}, {}, x, 2, None)
    assert data.seen.outcome(0).all()
    there = ref(data)
    gc.disable()  # as good as in a worker of Dask
    try:
        del data
        assert there() is None
    finally:
        gc.enable()


class Lasting:
    """What a task says is to stay."""

    lasting = True

    def __init__(self, size):
        self.values = np.zeros(size)


def test_what_is_lasting_goes_last():
    rows, cache = Partition({"x": np.zeros(100)}), Cache()
    cache["lasting"], cache["small"] = Lasting(100), np.zeros(10)
    cache.settle(rows, 800)
    assert list(cache) == ["lasting"] and cache.bytes == cache.lasting == 800
    cache["small"] = np.zeros(10)
    cache.forget()
    assert list(cache) == ["lasting"] and cache.bytes == 800
    cache.settle(rows, 799)
    assert not cache


def test_groups_stay_before_rows_and_rounds_then_read_nothing(files, tmp_path, monkeypatch):
    cluster, read, load = near(tmp_path, workers=1, memory=HELD // 4), [], Holder._load
    monkeypatch.setattr(Holder, "_load", lambda *a: read.append(a[2]) or load(*a))
    reads = []
    data, model = pc.scan(files, BOOK), pc.KMeans(3, max_iter=2)
    model.fit(data, "~ x0", engine=cluster, callbacks=[lambda _: reads.append(len(read))])
    holder = cluster.machines.holders["w0"]
    lasting = sum(one.lasting for one in holder._caches())
    assert lasting > 0 and holder._size() + lasting <= holder.memory
    first = [done.step for done in model.rounds_].index("clusters")
    assert reads[first - 1] == reads[-1]  # each round of clusters reads nothing

    cluster._known.clear()  # someone else asks, who does not know what the chunks hold
    again = [
        pc.KMeans(2, max_iter=2).fit(data, "~ x0", engine=engine).cluster_centers_
        for engine in (cluster, pc.Embedded())
    ]
    assert again[0].tobytes() == again[1].tobytes()
    (workers,) = cluster._known.values()
    assert [known["patients"].tolist() for known in workers._known.values()] == [[ROWS]]
    assert sum(one.lasting for one in holder._caches()) == lasting  # the same groups


def test_what_a_task_did_not_use_goes_before_what_is_large():
    rows, cache = Partition({"x": np.arange(10.0)}), Cache()
    cache["small"], cache["large"] = np.zeros(10), np.zeros(1000)
    cache.kept()  # after the first task
    assert cache.get("large") is not None
    cache.settle(rows, 8000)
    assert list(cache) == ["large"] and cache.bytes == 8000
    cache.forget()
    assert not cache and cache.bytes == 0
