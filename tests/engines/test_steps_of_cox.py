"""Stratified Cox regression over a hospital whose rows no worker holds: all that leaves it is the
same."""

from __future__ import annotations

import os
import signal

import pandas as pd
import pytest

import polyclinic as pc
from polyclinic.core import codec
from polyclinic.core.contribution import Sum
from polyclinic.core.exposure_data import exposure_to_data
from polyclinic.core.task import lookup
from polyclinic.data.codebook import Codebook
from polyclinic.data.scan import Selected
from polyclinic.models.survival import risk_sums
from tests.engines.chaos import found_of
from tests.engines.near import YES, lost_and_forgotten, near, write
from tests.engines.test_steps_of_survival import BOOK, PLAIN, STRATA, stays
from tests.models.survival.test_by_steps import TASKS, alike, plan_of, rows, spec, who

MODELS = {
    "ties": (PLAIN, {"robust": "row"}),
    "breslow": (STRATA + " + weights(weight)", {"ties": "breslow", "l2": 1.0}),
    "samples": (PLAIN + " + offset(weight)", {"robust": "site", "least": 12}),
}
NUMBER = {"type": "number", "range": [-1000, 1000]}
TABLE = Codebook.from_dict(
    {
        "format": 1,
        "name": "rows",
        "patient": {"id": "patient"},
        "columns": {
            "patient": {"type": "text"},
            **{name: NUMBER for name in ("a", "same", "weight", "shift", "time")},
            **{name: YES for name in ("b", "died")},
            "place": {"type": "category", "levels": {"0": "a", "1": "b", "2": "c"}},
        },
    }
)


def fitted(name, files, folder, engine, **more):
    """The model, its rounds, and the hospital's ledger and log."""
    formula, options = MODELS[name]
    data = pc.read({"hospital": pc.scan(files, BOOK)}, BOOK).at_home(folder / "home")
    return found_of(folder, pc.CoxRegression(**options).fit(data, formula, engine=engine, **more))


@pytest.mark.parametrize(
    ("name", "several"), [("ties", True), ("breslow", True), ("samples", False)]
)
def test_rows_that_fit_nowhere_leave_what_one_process_does(name, several, tmp_path, monkeypatch):
    monkeypatch.setattr(risk_sums, "MOST", 3000)  # sums of vectors at some times after the others
    files = write(stays(name, several), tmp_path / "stays")
    expected = fitted(name, files, tmp_path / "one", pc.Embedded(3))
    assert len(expected["log"]) > 5 and expected["ledger"]
    cluster = near(tmp_path, 3, memory=100)
    assert fitted(name, files, tmp_path / "streamed", cluster) == expected
    if name == "ties":
        assert fitted(name, files, tmp_path / "held", near(tmp_path, 3)) == expected


@pytest.mark.parametrize("name", MODELS)
def test_a_model_of_chunks_is_that_of_all_rows(name, tmp_path):
    formula, options = MODELS[name]
    files = write(stays(name, True), tmp_path / "stays")
    one, many = (  # each with a ledger of its own: what was asked before is answered from it
        pc.CoxRegression(**options).fit(pc.scan(files, BOOK), formula, engine=pc.Embedded(parts))
        for parts in (1, 6)
    )
    pd.testing.assert_frame_equal(many.summary(), one.summary(), rtol=1e-9)
    pd.testing.assert_frame_equal(
        many.proportional_hazards(), one.proportional_hazards(), rtol=1e-9
    )
    assert many.concordance_ == pytest.approx(one.concordance_, rel=1e-9)


def test_a_lost_worker_and_a_site_that_forgets_change_no_byte(tmp_path):
    files, cluster = write(stays("ties", True), tmp_path / "stays"), near(tmp_path, 6, workers=3)
    lose = lost_and_forgotten(cluster, 2, 4)
    expected = fitted("ties", files, tmp_path / "one", pc.Embedded(6))
    assert fitted("ties", files, tmp_path / "more", cluster, callbacks=[lose]) == expected
    assert "w1" not in cluster.machines.holders


def scanned(folder, n: int = 400) -> Selected:
    """`rows` of the tests of single chunks, in files."""
    one = rows(n)
    frame = pd.DataFrame({**one.columns, "patient": [f"p{k}" for k in one.key]})
    frame = frame.astype({"place": int, "died": int, "b": int})
    return Selected(pc.scan(write(frame, folder), TABLE).scan, None)


def asked(name: str):
    more = {"counts": {}, "derivatives": {"order": 2}, "scores": {"by": "row"}}.get(name, {})
    return plan_of(name, spec(), **more)


@pytest.mark.parametrize("name", ["counts", *TASKS])
def test_the_gate_judges_the_same_numbers(name, tmp_path):
    plan, selected, seen = asked(name), scanned(tmp_path / "rows"), []
    for engine in (pc.Embedded(7), near(tmp_path, 7), near(tmp_path, 7, workers=3, memory=100)):
        workers = engine.workers(selected)
        total = workers.sum(plan)
        shown = exposure_to_data(workers.exposure(plan, total))
        behind = who(shown.pop("members"))
        seen.append((codec.encode(total.to_data()), behind, codec.decode(codec.encode(shown))))
    for one in seen[1:]:
        assert one[:2] == seen[0][:2]
        alike(one[2], seen[0][2], "", 1e-12)


@pytest.mark.parametrize("name", ["counts", *TASKS])
def test_rows_in_memory_and_those_of_one_chunk_are_computed_at_once(name, tmp_path):
    plan, selected = asked(name), scanned(tmp_path / "rows")
    task, held = lookup(plan.task, plan.version), selected.gather()
    leaves = task.leaves(plan)
    expected = Sum.of(leaves, task.local(plan, held))
    shown = exposure_to_data(task.exposure(plan, held, expected.opened(leaves)))
    seen = []
    for engine, source in (
        (pc.Embedded(7), held),
        (pc.Embedded(), selected),
        (near(tmp_path, 7), held),
        (near(tmp_path), selected),
        (pc.Embedded(7), selected),
    ):
        workers = engine.workers(source)
        found = workers.sum(plan)
        data = exposure_to_data(workers.exposure(plan, found))
        seen.append(codec.encode([found.to_data(), data]))
    assert seen[:4] == [codec.encode([expected.to_data(), shown])] * 4
    assert seen[4] != seen[0] or name == "counts"


def test_workers_that_are_killed_change_no_byte(tmp_path):
    pytest.importorskip("distributed")
    files = write(stays("ties", True), tmp_path / "stays")

    def kill(done):
        if done.number == 3:
            os.kill(next(iter(engine.worker_pids().values())), signal.SIGKILL)

    expected = fitted("ties", files, tmp_path / "one", pc.Embedded(3))
    with pc.cluster(workers=2, partitions=3, memory=100, patience=5) as engine:
        assert fitted("ties", files, tmp_path / "left", engine, callbacks=[kill]) == expected
        assert len(engine.worker_pids()) == 1
