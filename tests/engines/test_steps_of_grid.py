"""Cox regression on an agreed grid over a hospital whose rows no worker holds: all that leaves it
is the same, and as near to that of rows in one place as rounding."""

from __future__ import annotations

from dataclasses import replace
from functools import reduce

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

import polyclinic as pc
from polyclinic.core import codec
from polyclinic.core.contribution import Sum
from polyclinic.core.exposure_data import exposure_to_data
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.core.task import answered, lookup
from polyclinic.models.learner import values
from polyclinic.models.survival import grid_runs, risk_sets
from polyclinic.models.survival.rows import spec_of
from tests.engines.chaos import found_of
from tests.engines.near import lost_and_forgotten, near, write
from tests.engines.test_steps_of_cox import scanned
from tests.engines.test_steps_of_survival import BOOK, PLAIN, STRATA, stays
from tests.models.survival.test_by_steps import alike, in_parts, no_laxer, rows, spec, whole

GRID = {"stratify": False, "grid": list(range(10, 600, 10))}
SEX = PLAIN + " + C(sex)"  # a column that says yes or no
MODELS = {
    "ties": (SEX, GRID),
    "breslow": (PLAIN + " + weights(weight)", {**GRID, "ties": "breslow", "l2": 1.0}),
    "samples": (PLAIN + " + offset(weight)", {**GRID, "least": 12}),
    "baseline": (STRATA, {"grid": GRID["grid"]}),
}
EDGES = tuple(np.linspace(2.0, 60.0, 25).tolist())
pytestmark = pytest.mark.filterwarnings("ignore::polyclinic.core.errors.DataWarning")


def files_of(name: str, several: bool, folder) -> str:
    return write(stays(name, several), folder / "stays", group=130)


def fitted(name, files, folder, engine, **more):
    """The model, its rounds, and the hospital's ledger and log."""
    formula, options = MODELS[name]
    data = pc.read({"hospital": pc.scan(files, BOOK)}, BOOK).at_home(folder / "home")
    return found_of(folder, pc.CoxRegression(**options).fit(data, formula, engine=engine, **more))


@pytest.mark.parametrize(
    ("name", "several"), [("ties", True), ("breslow", True), ("samples", False), ("baseline", True)]
)
def test_rows_that_fit_nowhere_leave_what_one_process_does(name, several, tmp_path, monkeypatch):
    if name == "breslow":
        monkeypatch.setattr(risk_sets, "MOST", 200)  # sums of some runs after those of others
    files = files_of(name, several, tmp_path)
    expected = fitted(name, files, tmp_path / "one", pc.Embedded(3))
    assert len(expected["log"]) > 3 and expected["ledger"]
    assert fitted(name, files, tmp_path / "streamed", near(tmp_path, 3, memory=100)) == expected
    if name == "ties":
        assert fitted(name, files, tmp_path / "held", near(tmp_path, 3)) == expected


@pytest.mark.parametrize("name", MODELS)
def test_a_model_of_chunks_is_that_of_all_rows(name, tmp_path):
    formula, options = MODELS[name]
    files, found = files_of(name, name != "samples", tmp_path), []
    few = write(stays(name, True, 120), tmp_path / "few", 1, 40)
    for parts in (1, 6):  # each with a ledger of its own: what was asked before is answered from it
        every = {"many": pc.scan(files, BOOK), "few": pc.scan(few, BOOK)}
        data = pc.read(every, BOOK).at_home(tmp_path / str(parts))
        model = pc.CoxRegression(**options).fit(data, formula, engine=pc.Embedded(parts))
        found.append((model.summary(), model.result_))
    (table, one), (other, many) = found
    assert np.any(other.to_numpy() != table.to_numpy())  # rounded elsewhere
    pd.testing.assert_frame_equal(other, table, rtol=1e-9)
    assert_allclose(many.baseline, one.baseline, rtol=1e-9)
    assert len(np.unique(one.baseline[1])) > 4
    assert many.left_out == one.left_out == (name in ("ties", "samples"))
    for beside in one.beside or ():
        assert_allclose(many.beside[beside], one.beside[beside], rtol=1e-9)


def test_a_lost_worker_and_a_site_that_forgets_change_no_byte(tmp_path):
    files, cluster = files_of("ties", True, tmp_path), near(tmp_path, 6, workers=3)
    lose = lost_and_forgotten(cluster, 2, 4)
    expected = fitted("ties", files, tmp_path / "one", pc.Embedded(6))
    assert fitted("ties", files, tmp_path / "more", cluster, callbacks=[lose]) == expected
    assert "w1" not in cluster.machines.holders


def asked(order: int, least: int = 5, edges: tuple[float, ...] = EDGES, **more) -> Plan:
    """The last of the candidates is too large for one chunk."""
    theta = np.array([[0.4, -0.3, 0.2], [0.0, 0.0, 0.0], [-1.5, 2.0, 0.0], [29.2, 0.0, 0.0]])
    model = replace(spec(**more), by_site=False, edges=edges, least=least)
    return Plan("survival.risk_sets", values(model, theta=theta, order=order), "x")


def same(plan: Plan, partition: Partition) -> dict:
    """Compares sums and all that the gate reads; returns the sums."""
    leaves = lookup(plan.task, plan.version).leaves(plan)
    workers, (known, shown) = in_parts(partition, 5), whole(plan, partition)
    summed = workers.sum(plan)
    opened, expected = (one.opened(leaves) for one in (summed, Sum.of(leaves, known)))
    for name, value in expected.items():
        scale = np.abs(value).max(initial=1.0)
        assert_allclose(opened[name], value, rtol=1e-10, atol=1e-11 * scale, err_msg=name)
    assert summed.evidence.patients == known.evidence.patients
    assert summed.evidence.cells["deaths"].tolist() == known.evidence.cells["deaths"].tolist()
    seen = workers.exposure(plan, summed)
    who = [[sorted(m.patients.tolist()) for m in one.members] for one in (shown, seen)]
    assert who[0] == who[1]
    one, two = exposure_to_data(shown), exposure_to_data(seen)
    assert len(one.pop("members")) == len(two.pop("members"))
    for name in [name for name in one["columns"] if name.startswith("(loss)")]:
        no_laxer(*(
            {part: value[:3] for part, value in each["columns"].pop(name).items()}
            for each in (one, two)
        ))  # fmt: skip
    alike(one, two, "")
    return expected


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("least", [1, 5])
def test_the_gate_judges_what_it_does_of_rows_in_one_place(least, order, monkeypatch):
    monkeypatch.setattr(risk_sets, "MOST", 1000)  # sums of some runs after those of others
    with np.errstate(over="ignore", invalid="ignore"):
        for several in (True, False):
            found = same(asked(order, least), rows(several=several))
            assert found["too_large"].tolist() == [0, 0, 0, 1] and found["left_out"] == 0
            assert several or len(np.unique(found["r"][0])) > (3 if least > 1 else 15)


@pytest.mark.parametrize("edges", [(5.0,), (1.0, 2.0, 3.0, 10.0, 60.0, 90.0)])
def test_events_after_the_end_of_the_grid(edges):
    """Few of them are counted with the last."""
    for least in (2, 5, 12):
        with np.errstate(over="ignore", invalid="ignore"):
            same(asked(2, least, edges), rows(several=False))


def test_a_site_that_is_left_out_says_nothing_else():
    with np.errstate(over="ignore", invalid="ignore"):
        found = same(asked(2, 60), rows())
    assert found["left_out"] == 1 and not any(found[name].any() for name in ("r", "deaths", "rxx"))


def test_a_column_says_yes_or_no_by_the_same_rows_as_in_one_place():
    """Those of the first thousand that count, whichever chunk is asked first."""
    every, at = rows(4000, several=False), np.arange(4000)
    columns = dict(every.columns)
    for start, name in ((1300, "a"), (950, "same")):  # yes or no before that row
        columns[name] = np.where(at < start, columns["b"], at % 7.0)
    partition, plan = Partition(columns), asked(2)
    asked_of, runs = spec_of(plan), []
    for order in ([0, 1, 2, 3, 4], [3, 1, 4, 2, 0]):
        parts = [partition.split(5)[k] for k in order]

        def ask(question):
            answers = [grid_runs.told(asked_of, part, question.values) for part in parts]  # noqa: B023
            if question.values["ask"] == "marks":
                assert question.values["yes"].tolist() == [0, 1]
            return reduce(risk_sets.RiskSetsTask().together, answers)

        runs.append(answered(grid_runs.runs_of(asked_of), ask))
    for one in runs:
        assert codec.encode(vars(one)) == codec.encode(
            vars(risk_sets.runs_here(asked_of, partition))
        )
    assert len(one.ends) > 3


def test_the_same_bytes_wherever_the_chunks_are(tmp_path):
    plan, selected, seen = asked(2), scanned(tmp_path / "rows"), []
    for engine in (pc.Embedded(7), near(tmp_path, 7), near(tmp_path, 7, workers=3, memory=100)):
        workers = engine.workers(selected)
        total = workers.sum(plan)
        found = workers.exposure(plan, total)
        shown, behind = exposure_to_data(found), [one.digest for one in found.members]
        del shown["members"]
        seen.append((codec.encode(total.to_data()), behind, shown))
    for one in seen[1:]:
        assert one[:2] == seen[0][:2]
        alike(one[2], seen[0][2], "", 1e-12)


def test_rows_in_memory_and_those_of_one_chunk_are_computed_at_once(tmp_path):
    plan, selected = asked(2), scanned(tmp_path / "rows")
    held, leaves = selected.gather(), lookup("survival.risk_sets", 1).leaves(plan)
    expected = codec.encode(Sum.of(leaves, whole(plan, held)[0]).to_data())
    for engine, source in (
        (pc.Embedded(7), held),
        (pc.Embedded(), selected),
        (near(tmp_path), selected),
    ):
        assert codec.encode(engine.workers(source).sum(plan).to_data()) == expected
    assert codec.encode(pc.Embedded(7).workers(selected).sum(plan).to_data()) != expected
