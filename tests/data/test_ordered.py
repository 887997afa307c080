"""Orders of rows: as they lie, of the patients, by chance; and what a solver makes of them."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.exceptions import ConvergenceWarning

import polyclinic as pc
from tests.engines.near import BOOK, FORMULA, near, visits, write


def fitted(data, engine=None):
    model = pc.LogisticRegression().fit(data, FORMULA, engine=engine)
    return model.summary().to_numpy().tobytes()


def ages(data):
    return data._selected("hospital", None).gather().columns["age"]


def test_patients_in_many_places_are_put_together(tmp_path):
    frame = visits()
    files = write(frame.sort_values("hba1c"), tmp_path / "visits")
    with pytest.raises(pc.InputError) as caught:
        fitted(pc.scan(files, BOOK))
    assert caught.value.code == "PATIENT_SPLIT"
    data = pc.scan(files, BOOK, order="patient")
    ordered = frame.sort_values(["patient", "age", "sex", "hba1c", "readmitted"])
    expected = fitted(pc.read({"hospital": ordered}, BOOK), pc.Embedded(3))
    assert fitted(data, near(tmp_path, 3)) == expected


def test_chance_has_a_seed_and_does_not_know_how_the_files_lie(tmp_path):
    frame = visits()
    one = write(frame.sort_values("readmitted"), tmp_path / "one")
    two = write(frame.sort_values("age"), tmp_path / "two", 5, 31)
    first, same, other = (
        pc.scan(files, BOOK, order="random", seed=seed)
        for files, seed in ((one, 1), (two, 1), (one, 2))
    )
    assert first.scan.fingerprint == same.scan.fingerprint != other.scan.fingerprint
    np.testing.assert_array_equal(ages(first), ages(same))
    assert (np.sort(ages(first)) == np.sort(ages(other))).all()
    rows = first._selected("hospital", None).gather()
    assert rows.patients() == frame.patient.nunique()  # side by side, as `Partition` demands
    halves = np.array_split(rows.columns["readmitted"], 2)
    assert abs(halves[0].mean() - halves[1].mean()) < 0.1


def test_rows_that_are_patients_come_by_chance_as_well(tmp_path):
    book = type(BOOK).from_dict({"format": 1, "name": "n", "columns": {"age": {"type": "integer"}}})
    frame = pd.DataFrame({"age": np.arange(1000)})
    found = ages(pc.scan(write(frame, tmp_path / "rows"), book, order="random", seed=3))
    assert sorted(found) == list(range(1000))
    assert abs(np.corrcoef(found, np.arange(1000))[0, 1]) < 0.1


def test_mini_batches_are_not_those_of_the_files_order(tmp_path):
    """All without the outcome first, then all with it: a batch is a share of both, as it is drawn
    from a hash of the patient's number and not from where a row lies."""
    frame = visits(4000)
    frame["patient"] = np.arange(4000).astype(str)
    frame = frame.sort_values("readmitted", kind="stable")
    data = pc.scan(write(frame, tmp_path / "visits", 2, 500), BOOK)
    formula, seen = "readmitted ~ old + C(sex)", []
    exact = pc.LogisticRegression().fit(data, formula).result_
    model = pc.LogisticRegression(
        solver="sgd", max_rounds=60, solver_options={"batch": 0.1}, random_state=0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(data, formula, engine=near(tmp_path, 4), callbacks=[seen.append])
    batches = [one.figures["loss"] for one in seen[20:] if "loss" in one.figures]
    assert np.abs(np.array(batches) / exact.loss - 1).max() < 0.2  # of one class: 0.5 and more
    assert model.result_.loss - exact.loss < 0.005 * exact.loss


def test_only_known_orders(tmp_path):
    with pytest.raises(pc.InputError) as caught:
        pc.scan(write(visits(50), tmp_path / "v"), BOOK, order="outcome")
    assert caught.value.code == "WRONG_VALUE"
