"""Curves and log-rank tests over a hospital whose rows no worker holds: all that leaves it is the
same."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

import polyclinic as pc
from polyclinic.core import codec
from polyclinic.core.contribution import Sum
from polyclinic.core.design import Design, Factor, Term
from polyclinic.core.errors import PolyclinicError
from polyclinic.core.exposure_data import exposure_to_data
from polyclinic.core.federation import Domain
from polyclinic.core.fit import fit
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.core.task import lookup
from polyclinic.data.codebook import Codebook
from polyclinic.data.cohort import Cohort
from polyclinic.data.scan import Selected
from polyclinic.engines.workers import ThreadWorkers
from polyclinic.models.learner import values
from polyclinic.models.survival import CurveSpec, risk_sums
from tests.engines.chaos import found_of
from tests.engines.near import YES, near, write
from tests.engines.test_steps_of_survival import BOOK, stays
from tests.models.survival import brca
from tests.models.survival.test_by_steps import rows, same
from tests.models.survival.test_curves import curves

MODELS = {
    "curve": (pc.KaplanMeier, {"time_bins": 50}),
    "test": (pc.LogRank, {}),
}
NUMBER = {"type": "number", "range": [-1000, 1000]}
TABLE = Codebook.from_dict(
    {
        "format": 1,
        "name": "rows",
        "patient": {"id": "patient"},
        "columns": {
            "patient": {"type": "text"},
            **{name: NUMBER for name in ("time", "left", "ward")},
            "died": YES,
            "place": {"type": "category", "levels": {"0": "a", "1": "b", "2": "c"}},
            "few": YES,
        },
    }
)


def fitted(name, files, folder, engine):
    """The model, its rounds, and the hospital's ledger and log, of a cohort."""
    model, options = MODELS[name]
    data = pc.read({"hospital": pc.scan(files, BOOK)}, BOOK).at_home(folder / "home")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = data.cohort("age < 80")
        found = model(**options).fit(data, "Surv(days, died) ~ sex", engine=engine)
    return found_of(folder, found)


@pytest.mark.parametrize("name", MODELS)
def test_rows_that_fit_nowhere_leave_what_one_process_does(name, tmp_path, monkeypatch):
    monkeypatch.setattr(risk_sums, "MOST", 3000)  # some times after the others
    files = write(stays("ties", True), tmp_path / "stays")
    expected = fitted(name, files, tmp_path / "one", pc.Embedded(3))
    assert expected["log"] and expected["ledger"]
    cluster = near(tmp_path, 3, memory=100)
    assert fitted(name, files, tmp_path / "streamed", cluster) == expected


@pytest.mark.parametrize("name", MODELS)
def test_a_worker_that_is_lost_between_two_questions_changes_no_byte(name, tmp_path, monkeypatch):
    files, cluster = write(stays("ties", True), tmp_path / "stays"), near(tmp_path, 6, workers=3)
    machines, asked = cluster.machines, []

    def ask(messages):
        asked.extend(codec.decode(message)["op"] for message in messages.values())
        if asked.count("part") >= 4:
            machines.lost.add("w1")
        return type(machines).ask(machines, messages)

    monkeypatch.setattr(machines, "ask", ask)
    expected = fitted(name, files, tmp_path / "one", pc.Embedded(6))
    assert fitted(name, files, tmp_path / "more", cluster) == expected
    assert "w1" not in machines.holders and asked.count("part") > 6


def plan_of(asked: str, by: str = "", **more) -> Plan:
    """Of `table`: ways to leave are those of "left"."""
    groups = {"": ("all",), "place": ("a", "b", "c"), "few": ("no", "yes")}[by]
    terms = tuple(
        Term(f"{by} = {k}", (Factor("level", by, (float(k),)),), 1.0) for k in range(1, len(groups))
    )
    strata = more.pop("strata", ())
    made = Design(terms, "time", False, response_bound=500.0, event="left", strata=strata)
    given = {"causes": 2, "edges": tuple(np.arange(3.0, 61.0, 3.0).tolist()), **more}
    spec = CurveSpec(asked, made, by=by, groups=groups, levels=(3,) * len(strata), **given)
    task = "steps" if spec.on_grid else "log_rank"
    return Plan(f"survival.{task}", values(spec), "x")


def table(several: bool = True) -> Partition:
    """Rows of patients with several each; a group of a few; two ways to leave, the second from the
    middle on."""
    one = rows(900, several)
    few, left = np.zeros(900), one.columns["died"].copy()
    few[:3] = 1.0
    left[450::2] *= 2.0
    return replace(
        one, columns={**one.columns, "few": few, "left": left, "ward": one.key % 10.0}, cache={}
    )


def scanned(folder, where: str | None = None) -> Selected:
    """The same in files."""
    one = table()
    frame = pd.DataFrame({name: one.columns[name] for name in TABLE.columns if name != "patient"})
    frame["patient"] = [f"p{k}" for k in one.key]
    frame = frame.astype({"place": int, "died": int, "few": int})
    cohort = None if where is None else Cohort(where)
    return Selected(pc.scan(write(frame, folder), TABLE).scan, cohort)


def shown_of(workers, plan: Plan) -> bytes:
    """Sums, and how patients share in them."""
    total = workers.sum(plan)
    return codec.encode([total.to_data(), exposure_to_data(workers.exposure(plan, total))])


STEPS = {
    "all": ("kaplan-meier", {}),
    "groups": ("kaplan-meier", {"by": "place", "least": 2}),
    "causes": ("cumulative-incidence", {"least": 2}),
    "causes of groups": ("cumulative-incidence", {"by": "place", "least": 1}),
    "few": ("kaplan-meier", {"by": "few"}),
    "test": ("log-rank", {"by": "place", "by_site": False, "least": 2}),
}


@pytest.mark.parametrize("name", STEPS)
def test_steps_of_chunks_are_those_of_all_rows(name, tmp_path):
    asked, more = STEPS[name]
    plan, selected = plan_of(asked, **more), scanned(tmp_path / "rows", "ward < 8")
    held = selected.gather()
    assert held.n_patients < held.population and held.n_rows > held.n_patients
    task = lookup(plan.task, plan.version)
    expected = Sum.of(task.leaves(plan), task.local(plan, held))
    shown = exposure_to_data(task.exposure(plan, held, {}))
    opened = expected.opened(task.leaves(plan))
    assert opened["left_out"] == (name == "few") and opened["not_allowed"] > 0
    assert (len(shown["members"]) > 3) == (opened["late"].sum() > 0) == (name != "few")
    late, early = (np.cumsum(opened[end], axis=2) for end in ("late", "early"))
    assert np.all(early >= late) and np.array_equal(early[:, :, -1], late[:, :, -1])
    assert np.any(early > late) == (name not in ("few", "causes of groups"))
    for engine, source in (
        (pc.Embedded(7), selected),
        (near(tmp_path, 7), held),
        (near(tmp_path, 7, workers=3, memory=100), selected),
    ):
        workers = engine.workers(source)
        assert shown_of(workers, plan) == codec.encode([expected.to_data(), shown])


@pytest.mark.parametrize("several", [True, False])
@pytest.mark.parametrize("strata", [(), ("place",)])
def test_a_log_rank_test_of_chunks_is_that_of_all_rows(several, strata, monkeypatch):
    by = "few" if strata else "place"
    plan = plan_of("log-rank", by, strata=strata, edges=())
    monkeypatch.setattr(risk_sums, "MOST", 100)
    same(plan, table(several), 5)
    unknown = table(several)
    unknown.columns["place" if by == "place" else "few"][[10, 500, 620]] = [7.0, -1.0, 0.5]
    same(plan, unknown, 5)
    bad = np.isnan(unknown.columns["time"])
    bad[[10, 500, 620]] = True
    slots = lookup(plan.task, plan.version).exposure(plan, unknown, {}).slots
    assert slots["outcome: not allowed"] == unknown.patients(bad)
    assert slots["outcome: allowed"] == unknown.patients(~bad)


def test_rows_in_memory_and_those_of_one_chunk_are_tested_at_once(tmp_path):
    plan, selected = plan_of("log-rank", "place", edges=()), scanned(tmp_path / "rows")
    task, held = lookup(plan.task, plan.version), selected.gather()
    expected = Sum.of(task.leaves(plan), task.local(plan, held))
    shown = exposure_to_data(task.exposure(plan, held, {}))
    seen = [
        shown_of(engine.workers(source), plan)
        for engine, source in (
            (pc.Embedded(7), held),
            (near(tmp_path, 7), held),
            (near(tmp_path), selected),
            (pc.Embedded(7), selected),
            (near(tmp_path, 7, memory=100), selected),
        )
    ]
    assert seen[:3] == [codec.encode([expected.to_data(), shown])] * 3
    assert seen[3] != seen[0]


@pytest.mark.usefixtures("data_dir")
def test_chunks_as_lifelines(tmp_path):
    def found(spec):
        workers = near(tmp_path, 5).workers(brca.rows())
        if not spec.on_grid:
            workers = ThreadWorkers(brca.rows(), 5, scanned=True)
        return fit(spec.algorithm(), Domain(workers)).model

    known, curve = brca.GOLDEN["curve"], found(curves()).curves["all"]
    at = np.searchsorted(curve.times, known["times"], side="right") - 1
    assert_allclose(curve.survival[at], known["survival"], rtol=1e-10)
    assert_allclose(curve.lower[at], known["lower"], rtol=1e-8)
    test, known = found(curves("log-rank", "race_white")).test, brca.GOLDEN["logrank"]
    assert_allclose([test["chi2"], test["p"]], [known["chi2"], known["p"]], rtol=1e-9)


@pytest.mark.parametrize("asked", ["kaplan-meier", "cumulative-incidence"])
def test_curves_are_no_log_rank_test(asked):
    plan = replace(plan_of(asked, "place"), task="survival.log_rank")
    with pytest.raises(PolyclinicError) as error:
        lookup(plan.task, plan.version).local(plan, table())
    assert error.value.code == "BAD_MESSAGE"
