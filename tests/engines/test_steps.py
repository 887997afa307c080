"""Trees over a hospital whose rows no worker holds: the bytes, and the audit, of one process."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import polyclinic as pc
from polyclinic.core import codec
from polyclinic.core.exposure_data import exposure_to_data
from polyclinic.core.fit import fit
from polyclinic.core.partition import Partition
from polyclinic.core.task import lookup
from tests.engines.near import BOOK, lost_and_forgotten, near, visits, write
from tests.models.trees import world

FORMULA = "readmitted ~ age + C(sex) + hba1c"
MODELS = {
    "boosting": pc.GradientBoostingClassifier(n_estimators=3, max_depth=3, max_bins=16),
    "samples": pc.GradientBoostingClassifier(
        n_estimators=3, max_depth=2, max_bins=16, subsample=0.5
    ),
    "forest": pc.RandomForestClassifier(n_estimators=3, max_depth=3, max_bins=16),
}


@pytest.fixture(params=["visits", "patients"])
def files(request, tmp_path):
    """Of patients with several visits, or with one each."""
    frame = visits(500)
    if request.param == "patients":
        frame = frame.drop_duplicates("patient")
    return write(frame, tmp_path / "visits")


def fitted(model, files, engine, **more):
    """The trees, and what the hospital has written down, without the time."""
    found = model.fit(pc.scan(files, BOOK), FORMULA, engine=engine, **more)
    trees = found.result_.trees.to_data()
    return codec.encode([trees, found.result_.gain, found.result_.cover])


def streamed(tmp_path, workers=2):
    """Workers that hold nothing between rounds."""
    return near(tmp_path, 6, workers=workers, memory=100)


@pytest.mark.parametrize("name", MODELS)
def test_trees_over_rows_that_fit_nowhere_are_those_of_one_process(name, files, tmp_path):
    expected = fitted(MODELS[name], files, pc.Embedded(6))
    assert fitted(MODELS[name], files, streamed(tmp_path)) == expected
    assert fitted(MODELS[name], files, near(tmp_path, 6)) == expected  # all of it is held


def test_a_lost_worker_and_a_site_that_forgets_change_no_byte(files, tmp_path):
    model, cluster = MODELS["boosting"], streamed(tmp_path, 3)
    lose = lost_and_forgotten(cluster, 5, 7)
    expected = fitted(model, files, pc.Embedded(6))
    assert fitted(model, files, cluster, callbacks=[lose]) == expected
    assert "w1" not in cluster.machines.holders


@pytest.mark.parametrize("spec", [
    {"rate": 0.5, "validation": 0.2, "loss": "logistic", "classes": 2},
    {"rate": 0.5, "rows_share": 0.6, "columns_share": 0.7, "loss": "logistic", "classes": 2},
])  # fmt: skip
def test_the_gate_judges_the_same_numbers(spec, tmp_path):
    columns = world.rows(600, gaps=0.05)
    key = np.sort(np.random.default_rng(2).integers(0, 300, 600))
    rows = Partition(columns, np.unique(key, return_inverse=True)[1], "s", person=key)
    asked = world.spec(columns, "event", names=("a", "c", "d"), depth=3, trees=3, cell=5, **spec)
    here, there = pc.Embedded(7).workers(rows), near(tmp_path, 7).workers(rows)
    seen = []

    def watched(plan):
        task = lookup(plan.task, plan.version)
        found = [workers.sum(plan) for workers in (here, there)]
        if plan.task == "trees.cells":
            one, two = (codec.encode(each.to_data()) for each in found)
            assert one == two
            shown = [workers.exposure(plan, found[0]) for workers in (here, there)]
            one, two = (codec.encode(exposure_to_data(_there(each))) for each in shown)
            assert one == two
            seen.append(len(shown[0].members))
        return found[0].opened(task.leaves(plan))

    engine = pc.Embedded(7).domain(rows)
    total = engine.total
    engine.total = lambda plan: (watched(plan), total(plan))[1]
    fit(asked.algorithm(), engine)
    assert len(seen) >= 6 and min(seen) > 10


def _there(exposure):
    """Without cells that nobody is in, of which nothing is compared."""
    return replace(exposure, members=tuple(one for one in exposure.members if len(one.patients)))
