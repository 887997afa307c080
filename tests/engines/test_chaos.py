"""Workers and a scheduler that are killed, a few; all of it: scripts/chaos cluster."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time

import pytest

import polyclinic as pc
from tests.engines.chaos import MOMENTS, PARTS, Play, drawn, regression, trees
from tests.engines.cluster_stage import Stage
from tests.engines.near import BOOK, FORMULA, visits, write

pytest.importorskip("distributed")

STUDY = """format = 1
seed = 1
[study]
name = "visits"
[data]
schema = "visits.toml"
sites = { north = "visits/*.parquet" }
[model]
kind = "logistic"
formula = "readmitted ~ age + C(sex)"
[solver]
name = "sgd"
batch = 0.5
max_rounds = 60
[evaluation]
validate = "none"
alone = false
[output]
report = []
"""
BOOK_FILE = """format = 1
name = "visits"
[patient]
id = "patient"
[columns]
patient = { type = "text" }
age = { type = "integer", range = [0, 120] }
sex = { type = "category", levels = { f = "female", m = "male" } }
readmitted = { type = "binary", levels = { 0 = "no", 1 = "yes" } }
"""
OUTPUT = ("model.pcm", "coefficients.csv", "metrics.json", "plans.json")


@pytest.fixture(scope="module")
def stage():
    with Stage(3) as found:
        yield found


@pytest.fixture
def cluster(stage, tmp_path):
    with pc.cluster(stage.address, partitions=PARTS, patience=30, spool=str(tmp_path)) as found:
        yield found


def fitted(data, engine, **more):
    model = pc.LogisticRegression().fit(data, FORMULA, engine=engine, **more)
    return model.summary().to_numpy().tobytes()


@pytest.mark.parametrize("learner", [regression(700), trees(3000, 2)], ids=["files", "memory"])
def test_workers_that_are_killed_at_random_points_change_no_byte(learner, stage, cluster, tmp_path):
    play = Play(stage, cluster.machines, learner, tmp_path)
    assert not play.whole.wrong
    blows, kills = drawn(2, len(play.turns), random.Random(learner.name)), stage.kills
    found = play.strike(blows)
    assert not found.wrong
    assert stage.kills == kills + 2 == kills + sum(map(bool, found.struck))


def test_kills_are_spread_over_a_fit_and_its_moments():
    blows = drawn(20, 60, random.Random(0))
    assert all(59 * k // 20 <= blow.at < 59 * (k + 1) // 20 for k, blow in enumerate(blows))
    assert {blow.moment for blow in blows} == set(MOMENTS)


def test_a_worker_that_dies_between_rounds_and_comes_back_at_its_address(stage, cluster, tmp_path):
    """On a port of its own, as behind a firewall."""

    def kill(done):
        if done.number == 2:
            stage.kill(before[0])
            time.sleep(0.3)  # until it is known that connections are closed
            cluster.machines.speculate = False  # or nobody would wait for it

    data = pc.scan(write(visits(), tmp_path / "visits"), BOOK)
    stage.until(stage.wanted)
    before = cluster.machines.live()
    began = time.monotonic()
    fitted(data, cluster, callbacks=[kill])
    assert time.monotonic() - began < 15  # Dask itself would look for half a minute
    assert cluster.activity.lost == 1
    stage.add(before[0])
    stage.until(len(before))
    assert cluster.machines.live() == before


def test_a_worker_that_cannot_be_asked_yet_is_not_lost(stage, cluster):
    """Registered with the scheduler, but Polyclinic's own door is not there."""

    def shut(dask_worker):
        dask_worker.door = dask_worker.handlers.pop("polyclinic")

    def open_(dask_worker):
        dask_worker.handlers["polyclinic"] = dask_worker.door

    stage.until(stage.wanted)
    first, *others = stage.there()
    cluster.machines.client.run(shut, workers=[first])
    assert cluster.machines.live() == others
    cluster.machines.client.run(open_, workers=[first])
    assert cluster.machines.live() == [first, *others]


def test_a_cluster_that_is_closed_in_mid_round_ends_the_fit(stage, tmp_path, capfd):
    """By another thread, as where a notebook's cell is run while one computes."""

    def close(done):
        if done.number == 2:
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)
            closing.start()

    data = pc.scan(write(visits(), tmp_path / "visits"), BOOK)
    with pc.cluster(stage.address, partitions=PARTS) as cluster:
        pids = cluster.worker_pids().values()
        closing = threading.Timer(0.3, cluster.close)
        try:
            with pytest.raises(pc.Stopped) as caught:
                fitted(data, cluster, callbacks=[close])
        finally:
            closing.join()
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
    assert caught.value.code == "CLUSTER_LOST"
    with pytest.raises(pc.Stopped):
        fitted(data, cluster)
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.slow
def test_a_lost_scheduler_stops_runs_that_go_on_from_their_rounds(stage, cluster, tmp_path):
    """One of Python, and one of the command line."""

    def data():
        return pc.scan(files, BOOK)

    def lose(done):
        if done.number == 3:
            end = time.monotonic() + 30
            while not (run / "checkpoints/fit.pcm").exists() and time.monotonic() < end:
                time.sleep(0.001)
            stage.kill_scheduler()

    def command(*more):
        asked = [sys.executable, "-m", "polyclinic.cli.main", "run", "study.toml", *more]
        return subprocess.Popen(asked, cwd=tmp_path, stderr=subprocess.PIPE, text=True)

    files, run = write(visits(), tmp_path / "visits"), tmp_path / "runs/visits"
    (tmp_path / "visits.toml").write_text(BOOK_FILE)
    (tmp_path / "study.toml").write_text(STUDY)
    running = command("--scheduler", stage.address)
    store = pc.Checkpoint(tmp_path / "fit.pcm")
    with pytest.raises(pc.Stopped) as caught:
        fitted(data(), cluster, callbacks=[lose], store=store)
    assert caught.value.code == "CLUSTER_LOST" and "resume" in caught.value.next
    _, said = running.communicate(timeout=60)
    assert running.returncode == pc.Stopped.exit_code and "CLUSTER_LOST" in said
    assert not (run / "metrics.json").exists()

    rounds = []
    again = fitted(data(), pc.Embedded(PARTS), store=store, callbacks=[rounds.append])
    assert rounds[0].number == 4 and again == fitted(data(), pc.Embedded(PARTS))
    command("--engine", "embedded", "--resume").communicate(timeout=60)
    pc.run(tmp_path / "study.toml", tmp_path / "whole")
    for name in OUTPUT:
        assert (run / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
