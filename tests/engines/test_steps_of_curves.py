"""Curves and log-rank tests over a hospital whose rows no worker holds: all that leaves it is the
same."""

from __future__ import annotations

import os
import signal
import warnings
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

import polyclinic as pc
from polyclinic.core import codec
from polyclinic.core.contribution import Sum
from polyclinic.core.design import Design, Factor, Term
from polyclinic.core.exposure_data import exposure_to_data
from polyclinic.core.federation import Domain
from polyclinic.core.fit import fit
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.core.task import lookup
from polyclinic.engines.workers import ThreadWorkers
from polyclinic.models.learner import values
from polyclinic.models.survival import CurveSpec, risk_sums
from tests.engines.chaos import found_of
from tests.engines.near import lost_and_forgotten, near, write
from tests.engines.test_steps_of_survival import BOOK, stays
from tests.models.survival import brca
from tests.models.survival.test_by_steps import alike, rows, who
from tests.models.survival.test_curves import curves

GRID = tuple(np.arange(2.0, 61.0, 2.0).tolist())
MODELS = {
    "curve": (pc.KaplanMeier, "Surv(days, died) ~ sex", {"time_bins": 50}),
    "test": (pc.LogRank, "Surv(days, died) ~ sex", {}),
}


def fitted(name, files, folder, engine, cohort=None, **more):
    """The model, its rounds, and the hospital's ledger and log."""
    model, formula, options = MODELS[name]
    data = pc.read({"hospital": pc.scan(files, BOOK)}, BOOK).at_home(folder / "home")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = model(**options).fit(data, formula, engine=engine, cohort=cohort, **more)
    return found_of(folder, found)


@pytest.mark.parametrize("name", MODELS)
def test_rows_that_fit_nowhere_leave_what_one_process_does(name, tmp_path, monkeypatch):
    monkeypatch.setattr(risk_sums, "MOST", 3000)  # some times after the others
    files = write(stays("ties", True), tmp_path / "stays")
    expected = fitted(name, files, tmp_path / "one", pc.Embedded(3), cohort="age < 80")
    assert expected["log"] and expected["ledger"]
    cluster = near(tmp_path, 3, memory=100)
    assert fitted(name, files, tmp_path / "streamed", cluster, cohort="age < 80") == expected


def test_workers_that_are_killed_change_no_byte(tmp_path):
    pytest.importorskip("distributed")
    files = write(stays("ties", True), tmp_path / "stays")
    expected = fitted("test", files, tmp_path / "one", pc.Embedded(3))
    with pc.cluster(workers=2, partitions=3, memory=100, patience=5) as engine:
        os.kill(next(iter(engine.worker_pids().values())), signal.SIGKILL)
        assert fitted("test", files, tmp_path / "left", engine) == expected
        assert len(engine.worker_pids()) == 1
