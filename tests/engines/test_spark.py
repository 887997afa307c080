"""The engine of Spark: two executors in processes of their own, of which one is killed."""

from __future__ import annotations

import gc
import os
import shutil
import signal
from pathlib import Path

import psutil
import pytest

import polyclinic as pc
from polyclinic.core import codec
from polyclinic.core.fit import fit
from polyclinic.engines.machines import Tree
from polyclinic.engines.spark import bytes_of
from tests.engines.near import BOOK, FORMULA, visits, write
from tests.engines.test_steps_of_cox import asked, scanned
from tests.study.test_conformance import ALGORITHMS, partition

pytest.importorskip("pyspark")
if shutil.which("java") is None:
    pytest.skip("there is no Java", allow_module_level=True)

from pyspark import TaskContext

from polyclinic.engines import spark_machines, wire
from polyclinic.engines.spark_worker import Added
from polyclinic.engines.workers import ThreadWorkers

SLOTS = 6


@pytest.fixture(scope="module")
def session():
    """Spark waits for the executor that has the rows, however busy the machine is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(spark_machines.HERE, "spark.locality.wait", "60s")
        found = spark_machines.started("local-cluster[2,1,1024]")
    work = Path(os.environ["SPARK_HOME"] if "SPARK_HOME" in os.environ else _home()) / "work"
    logs = work / found.sparkContext.applicationId
    yield found
    found.stop()
    shutil.rmtree(logs, ignore_errors=True)


def _home():
    import pyspark

    return Path(pyspark.__file__).parent


@pytest.fixture(scope="module")
def spark(session):
    with pc.spark(session, partitions=3) as found:
        yield found


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write(visits(), tmp_path_factory.mktemp("visits"))


def fitted(data, engine=None, **more):
    model = pc.LogisticRegression().fit(data, FORMULA, engine=engine, **more)
    return model.summary().to_numpy().tobytes()


@pytest.mark.parametrize("name", ["logistic", "cross-table", "boosting", "clusters"])
def test_the_kit_gives_the_bytes_of_one_process(name, spark):
    algorithm = ALGORITHMS[name].algorithm
    here = fit(algorithm(), pc.Embedded(3).domain(partition())).state
    there = fit(algorithm(), spark.domain(partition())).state
    assert codec.encode(here) == codec.encode(there)


def test_rows_stay_with_the_process_that_has_read_them(spark, tmp_path):
    data = pc.scan(write(visits(), tmp_path / "visits"), BOOK)
    rows = pc.read({"hospital": data}, BOOK)
    here = fitted(pc.read({"hospital": tmp_path / "visits"}, BOOK), pc.Embedded(3))
    assert fitted(data, spark) == here
    before = spark.worker_pids()
    assert len(set(before.values())) == 2
    shutil.rmtree(tmp_path / "visits")
    assert fitted(rows, spark) == here
    assert spark.worker_pids() == before


def test_risk_sets_over_files_are_those_of_one_process(spark, tmp_path):
    plan, selected = asked("derivatives"), scanned(tmp_path / "rows")
    here, there = (engine.workers(selected).sum(plan) for engine in (pc.Embedded(3), spark))
    assert codec.encode(here.to_data()) == codec.encode(there.to_data())


def test_a_part_that_cannot_be_read_is_named(spark, tmp_path):
    data = pc.scan(write(visits(300), tmp_path / "visits"), BOOK)
    path = tmp_path / "visits" / "v1.parquet"
    content, stamp = bytearray(path.read_bytes()), path.stat()
    content[4:40] = b"\0" * 36
    path.write_bytes(content)
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    with pytest.raises(pc.PolyclinicError) as caught:
        fitted(data, spark)
    assert caught.value.code == "UNREADABLE"
    assert "v1.parquet, row group 0" in str(caught.value)


def test_rows_are_let_go_at_the_end(session, files):
    def held(_):
        from polyclinic.engines import spark_worker

        return len(spark_worker._held)

    with pc.spark(session, partitions=2) as engine:
        fitted(pc.scan(files, BOOK), engine)
        slots = engine.machines._slots
        assert slots.map(held).collect() == [1, 1]
    assert slots.map(held).collect() == [0, 0]


def test_an_executor_that_is_killed_changes_no_byte(spark, files):
    def kill(done):
        if done.number == 2:
            python = psutil.Process(min(spark.worker_pids().values()))
            executor = python.parent().parent()
            assert "CoarseGrainedExecutorBackend" in " ".join(executor.cmdline())
            executor.kill()
            killed.append(executor.pid)

    killed = []
    expected = fitted(pc.scan(files, BOOK), pc.Embedded(3))
    assert fitted(pc.scan(files, BOOK), spark, callbacks=[kill]) == expected
    assert killed


@pytest.fixture(scope="module")
def tree(session):
    """Six slots on two executors, which add their sums whatever their number and length."""
    with pc.spark(session, workers=SLOTS, partitions=7, policy="round_robin") as found:
        found.machines.tree = Tree(fan_in=SLOTS, workers=3, bytes=0)
        yield found


@pytest.fixture
def jobs(tree, monkeypatch):
    """Of each job that may add: how many slots were asked, and how many answers its sum is of."""
    found, ask = [], tree.machines.added

    def added(messages):
        one = ask(messages)
        found.append((len(messages), len(one.names)))
        return one

    monkeypatch.setattr(tree.machines, "added", added)
    return found


@pytest.mark.parametrize("name", ["moments", "clusters"])
def test_executors_add_sums_to_the_bytes_of_one_process(name, tree, jobs):
    algorithm = ALGORITHMS[name].algorithm
    here = fit(algorithm(), pc.Embedded(7).domain(partition())).state
    there = fit(algorithm(), tree.domain(partition())).state
    assert codec.encode(here) == codec.encode(there)
    most = max(added for _, added in jobs)
    assert most >= SLOTS - 1
    unread = sum(asked - added for asked, added in jobs)
    assert unread == sum(asked for asked, _ in jobs if asked < most)  # these were asked again


def test_executors_add_how_patients_share_in_a_sum(tree, jobs):
    algorithm = ALGORITHMS["logistic"].algorithm()
    plan, here = algorithm.plan(algorithm.init(0)), ThreadWorkers(partition(), 7)
    summed, there = here.sum(plan), tree.workers(partition())
    found, expected = there.exposure(plan, summed), here.exposure(plan, summed)
    assert found.members and found.slots == expected.slots and found.values == expected.values
    assert [one.digest for one in found.members] == [one.digest for one in expected.members]
    assert max(added for _, added in jobs) >= SLOTS - 1


def test_a_sum_of_other_answers_is_not_taken(tree, monkeypatch):
    def added(messages):
        one = ask(messages)
        wrong.append(one.names)
        twice = wire.answers_added([one.sum, one.sum])
        return one._replace(names=[*one.names[1:], "another"], sum=twice)

    wrong, ask = [], tree.machines.added
    monkeypatch.setattr(tree.machines, "added", added)
    algorithm = ALGORITHMS["cross-table"].algorithm
    here = fit(algorithm(), pc.Embedded(7).domain(partition())).state
    assert codec.encode(fit(algorithm(), tree.domain(partition())).state) == codec.encode(here)
    assert wrong


def test_a_part_that_is_gone_is_named_by_its_slot(tree, tmp_path, monkeypatch):
    def added(messages):
        (tmp_path / "visits" / "v1.parquet").unlink(missing_ok=True)
        found.append(ask(messages))
        return found[-1]

    found, ask = [], tree.machines.added
    monkeypatch.setattr(tree.machines, "added", added)
    data = pc.scan(write(visits(300), tmp_path / "visits"), BOOK)
    with pytest.raises(pc.PolyclinicError) as caught:
        fitted(data, tree)
    assert caught.value.code == "UNREADABLE"
    assert 0 < len(found[0].names) < len(found[0].answers)


def test_processes_that_die_while_sums_are_added_change_no_byte(tree, tmp_path, monkeypatch):
    """A Python process that has its answer, and an executor with those that it is to add."""
    before, plus = spark_machines.held_back, Added.plus
    first, executor, here = tmp_path / "python", tmp_path / "executor", []

    def held_back(part, memory, threads):
        for one in before(part, memory, threads):
            if one.answers[0][0] == 1 and one.names and not first.exists():
                first.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            yield one

    def added(one, other):
        if TaskContext.get() is None:
            here.append(len(other.names))
        elif first.exists() and not executor.exists():
            executor.touch()
            found = psutil.Process().parent().parent()
            assert "CoarseGrainedExecutorBackend" in " ".join(found.cmdline())
            found.kill()
        return plus(one, other)

    monkeypatch.setattr(spark_machines, "held_back", held_back)
    monkeypatch.setattr(Added, "plus", added)
    algorithm = ALGORITHMS["moments"].algorithm
    expected = fit(algorithm(), pc.Embedded(7).domain(partition())).state
    there = fit(algorithm(), tree.domain(partition())).state
    assert codec.encode(there) == codec.encode(expected)
    assert first.exists() and executor.exists()
    assert max(here) > 1  # what comes here was added


def test_a_frame_of_spark_is_a_hospital(session, spark, tmp_path):
    rows = visits()
    mixed = rows.sample(frac=1, random_state=0)
    frame = session.read.parquet(write(mixed, tmp_path / "mixed"))
    data = pc.from_spark(frame.withColumnRenamed("age", "age"), BOOK)
    folder = Path(data.scan.lake.files[0]).parents[1]
    assert folder.stat().st_mode & 0o077 == 0
    order = rows.sort_values(["patient", "age", "sex", "hba1c", "readmitted"], na_position="first")
    assert fitted(data, spark) == fitted(pc.read({"hospital": order}, BOOK), pc.Embedded(3))
    both = pc.read({"north": data, "south": visits(300, 1)}, BOOK)
    del data
    assert fitted(both)
    del both
    gc.collect()
    assert not folder.exists()


def test_a_frame_that_does_not_fit_is_said_before_a_job(session, tmp_path):
    frame = session.read.parquet(write(visits(50), tmp_path / "few"))
    for wrong, code in ((frame.drop("age"), "NO_COLUMN"), (visits(50), "WRONG_VALUE")):
        with pytest.raises(pc.InputError) as caught:
            pc.from_spark(wrong, BOOK)
        assert caught.value.code == code
    with pytest.raises(pc.InputError) as caught:
        pc.from_spark(frame.limit(0), BOOK, folder=tmp_path)
    assert caught.value.code == "NO_FILE"
    assert sorted(one.name for one in tmp_path.iterdir()) == ["few"]


def test_what_cannot_be_is_said(session):
    wrong = ({"policy": "best"}, {"workers": 0}, {"memory": "much"}, {"session": "local[2]"})
    for one in (*wrong, {"session": object()}):
        with pytest.raises(pc.InputError) as caught:
            pc.spark(**{"session": session, **one})
        assert caught.value.code == "WRONG_VALUE"
    assert [bytes_of(one) for one in (None, 7, "4 GB", "1.5MiB")] == [0, 7, 4 * 10**9, 3 << 19]


def test_a_session_that_was_stopped_stops_the_run(session, files):
    """The last test: it ends the session."""
    data = pc.scan(files, BOOK)
    with pc.spark(session) as engine, pytest.raises(pc.Stopped) as caught:
        session.stop()
        fitted(data, engine)
    assert caught.value.code == "CLUSTER_LOST"
