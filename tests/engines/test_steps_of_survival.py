"""Boosted survival over a hospital whose rows no worker holds: all that leaves it is the same."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

import numpy as np
import pytest

import polyclinic as pc
from polyclinic.core import codec
from polyclinic.core.exposure_data import exposure_to_data
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.models.learner import values
from polyclinic.models.trees.level import roots
from polyclinic.models.trees.rows import State
from polyclinic.models.trees.stack import Stack
from tests.engines.chaos import found_of
from tests.engines.near import YES, book, lost_and_forgotten, near, visits, write
from tests.models.trees.test_cells import one_split
from tests.models.trees.test_cox import spec, survival

BOOK = book(
    "stays",
    {
        "days": {"type": "number", "range": [0, 4000]},
        "died": YES,
        "weight": {"type": "number", "range": [0, 4]},
    },
)
PLAIN, STRATA = "Surv(days, died) ~ age + hba1c", "Surv(days, died) ~ age + strata(sex)"
MODELS = {
    "ties": (PLAIN, {"max_depth": 3}),
    "stopping": (STRATA, {"early_stopping_rounds": 2, "validation_fraction": 0.3}),
    "samples": (PLAIN + " + weights(weight)", {"subsample": 0.6}),
}


def stays(name: str, several: bool, n: int = 600):
    """Durations with ties, but of samples; nobody in the last fifth of the rows has the event."""
    frame = visits(n)
    frame = frame if several else frame.drop_duplicates("patient")
    rng = np.random.default_rng(3)
    time = 40 * rng.exponential(np.exp((60 - frame.age) / 30))
    frame["days"] = np.minimum(time if name == "samples" else np.ceil(time), 3000.0)
    frame["died"] = (rng.uniform(size=len(frame)) < 0.7).astype(int)
    frame["weight"] = rng.uniform(0.2, 4.0, len(frame))
    frame.loc[frame.index[-len(frame) // 5 :], "died"] = 0
    return frame


def fitted(name, files, folder, engine, **more):
    """The model, its rounds, and the hospital's ledger and log."""
    formula, options = MODELS[name]
    data = pc.read({"hospital": pc.scan(files, BOOK)}, BOOK).at_home(folder / "home")
    model = pc.GradientBoostingSurvival(n_estimators=3, max_bins=16, **{"max_depth": 2, **options})
    return found_of(folder, model.fit(data, formula, engine=engine, **more))


@pytest.mark.parametrize(
    ("name", "several"), [("ties", True), ("stopping", False), ("samples", True)]
)
def test_rows_that_fit_nowhere_leave_what_one_process_does(name, several, tmp_path):
    files = write(stays(name, several), tmp_path / "stays")
    expected = fitted(name, files, tmp_path / "one", pc.Embedded(6))
    assert len(expected["log"]) > 5 and expected["ledger"]
    cluster = near(tmp_path, 6, memory=100)
    assert fitted(name, files, tmp_path / "streamed", cluster) == expected
    if name == "ties":
        assert fitted(name, files, tmp_path / "held", near(tmp_path, 6)) == expected


def test_a_lost_worker_and_a_site_that_forgets_change_no_byte(tmp_path):
    files, cluster = write(stays("ties", True), tmp_path / "stays"), near(tmp_path, 6, workers=3)
    lose = lost_and_forgotten(cluster, 5, 7)
    expected = fitted("ties", files, tmp_path / "one", pc.Embedded(6))
    assert fitted("ties", files, tmp_path / "more", cluster, callbacks=[lose]) == expected
    assert "w1" not in cluster.machines.holders


def test_arrays_in_one_trust_domain(tmp_path):
    columns = survival()
    x = np.column_stack([columns["a"], columns["b"]])
    outcome = {"event": columns["died"], "sites": columns["place"]}
    found = []
    for engine in (pc.Embedded(), near(tmp_path, 5)):
        model = pc.GradientBoostingSurvival(n_estimators=3, max_depth=3)
        model.fit(x, np.ceil(8 * columns["days"]), engine=engine, **outcome)
        found.append(codec.encode([model.result_.trees.to_data(), model.result_.concordance]))
    assert found[0] == found[1]


@pytest.mark.parametrize("task", ["trees.cells", "trees.held", "trees.concordance"])
def test_the_gate_judges_the_same_numbers(task, tmp_path):
    columns = survival()
    key = np.sort(np.random.default_rng(2).integers(0, 500, 1200))
    rows = Partition(columns, np.unique(key, return_inverse=True)[1], "s", person=key)
    more = {"validation": 0.4} if task == "trees.held" else {}
    asked = spec(columns, strata=("place",), cell=5, weight="weight", **more)
    trees = replace(one_split(asked, 0, 5), value=np.array([[0.0], [0.9], [-0.6]]))
    state = State(np.zeros(1), np.zeros(0), trees, roots(asked, 1)[1], np.array([[0, 0]]))
    if task != "trees.cells":
        state = State(np.zeros(1), np.zeros(0), trees, Stack.none(1), np.zeros((0, 2), np.int64))
    plan, seen = Plan(task, values(asked, **state.to_data())), []
    cluster, before = near(tmp_path, 7).workers(rows), replace(state, trees=Stack.none(1))
    if task == "trees.cells":  # what is known at other trees is of no use
        cluster.sum(Plan(task, values(asked, **before.to_data())))
    for workers in (pc.Embedded(7).workers(rows), cluster):
        total = workers.sum(plan)
        shown = workers.exposure(plan, total)
        ordered = [tuple(sorted(set(one.patients.tolist()))) for one in shown.members]
        data = exposure_to_data(shown)
        del data["members"]
        seen.append((codec.encode(total.to_data()), codec.encode(data), sorted(ordered)))
    assert seen[0] == seen[1]
    assert shown.weights.total > 0 and shown.slots["of one risk"] == 5


def test_workers_that_are_killed_change_no_byte(tmp_path):
    pytest.importorskip("distributed")
    files = write(stays("ties", True), tmp_path / "stays")

    def kill(done):
        if done.number == 4:
            os.kill(next(iter(engine.worker_pids().values())), signal.SIGKILL)

    expected = fitted("ties", files, tmp_path / "one", pc.Embedded(3))
    with pc.cluster(workers=2, partitions=3, memory=100, patience=5) as engine:
        assert fitted("ties", files, tmp_path / "left", engine, callbacks=[kill]) == expected
        assert len(engine.worker_pids()) == 1
