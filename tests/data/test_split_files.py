"""One lake of many hospitals: a site per value of a column, whatever the order of the rows."""

from __future__ import annotations

import gc
import json

import duckdb
import numpy as np
import pytest

import polyclinic as pc
from polyclinic.governance.study_file import load_study
from tests.data.test_query import STUDY, study_in
from tests.engines.near import BOOK, FORMULA, near, visits, write

NAMES = ["north", "south", "east"]


@pytest.fixture
def frame():
    """Patients of three hospitals, who stand between each other."""
    frame = visits(900)
    frame["hospital"] = np.array(NAMES)[frame.patient.str[1:].astype(int) % 3]
    return frame


def fitted(data, engine=None, **more):
    model = pc.LogisticRegression(**more).fit(data, FORMULA, engine=engine)
    return model.summary().to_numpy().tobytes()


def test_files_are_split_as_a_frame_is(frame, tmp_path):
    files = write(frame, tmp_path / "visits")
    cluster = near(tmp_path, 3)
    here = pc.split(frame, "hospital", BOOK)
    there = pc.split(files, "hospital", BOOK, engine=cluster)
    assert here.names == there.names and set(there.names) == set(NAMES)
    assert fitted(here, pc.Embedded(3), site_effects=True) == fitted(there, site_effects=True)
    local = pc.RandomForestClassifier(n_estimators=2, max_depth=2, random_state=0)
    trees = [local.fit(one, FORMULA).tables() for one in (here, there)]
    assert trees[0] and str(trees[0]) == str(trees[1])


def test_rows_in_no_order_are_put_together_by_hospital_and_patient(frame, tmp_path):
    frame["patient"] = frame.patient.str[1:].astype(int) // 3  # a number is of three patients
    frame["patient"] = frame.patient.astype(str)
    mixed = frame.sample(frac=1, random_state=0)
    files = write(mixed, tmp_path / "visits")
    connection = duckdb.connect(str(tmp_path / "ehr.duckdb"))
    connection.execute("CREATE TABLE visits AS SELECT * FROM mixed")
    connection.close()
    ordered = frame.sort_values(["hospital", "patient", "age", "sex", "hba1c", "readmitted"])
    expected = fitted(pc.split(ordered, "hospital", BOOK))
    asked = pc.query(str(tmp_path / "ehr.duckdb"), "SELECT * FROM visits")
    for source, order in ((files, "patient"), (asked, None)):
        data = pc.split(source, "hospital", BOOK, order=order)
        gc.collect()
        assert list(data.names) == sorted(NAMES)
        assert fitted(data) == expected
    assert len({one.fingerprint for one in data._tables.values()}) == 3


def test_each_hospital_has_a_gate_of_its_own(frame, tmp_path):
    frame["hospital"] = "north"
    few = frame.patient.drop_duplicates()[:3]
    frame.loc[frame.patient.isin(few), "hospital"] = "east"
    data = pc.split(write(frame, tmp_path / "visits"), "hospital", BOOK)
    with pytest.raises(pc.Refused) as caught:
        fitted(data)
    assert caught.value.refusals == {"east": "TOO_FEW_PATIENTS"}


def test_what_cannot_be_split_is_said(frame, tmp_path):
    files = write(frame, tmp_path / "visits")
    for order in (None, "patient"):
        with pytest.raises(pc.InputError) as caught:
            pc.split(files, "clinic", BOOK, order=order)
        assert caught.value.code == "NO_COLUMN" and "hospital" in caught.value.rule
    with pytest.raises(pc.InputError) as caught:
        pc.split(files, "hospital")
    assert caught.value.code == "NO_SCHEMA"
    frame.loc[5:6, "hospital"] = None
    with pytest.raises(pc.InputError) as caught:
        pc.split(write(frame, tmp_path / "gaps"), "hospital", BOOK)
    assert caught.value.code == "MISSING_VALUES" and "2 rows" in caught.value.what


def test_a_study_splits_files_and_what_a_database_answers(frame, tmp_path):
    frame = frame.sort_values(["hospital", "patient", "age", "sex", "hba1c", "readmitted"])
    write(frame.sample(frac=1, random_state=0), tmp_path / "visits")
    with duckdb.connect(str(tmp_path / "ehr.duckdb")) as connection:
        connection.execute("CREATE TABLE visits AS SELECT * FROM frame")

    def study(source):
        start, end = STUDY.index("[data.sites"), STUDY.index("[model]")
        return study_in(tmp_path, f"{STUDY[:start]}{source}\n{STUDY[end:]}")

    files = 'split = { at = "visits/*.parquet", by = "hospital", order = "patient" }'
    query = 'split = { at = "ehr.duckdb", query = "SELECT * FROM visits", by = "hospital" }'
    made = {}
    for i, source in enumerate((files, query)):
        done = pc.run(study(source), tmp_path / f"run-{i}")
        made[source] = (done.folder / "coefficients.csv").read_bytes()
        assert list(json.loads((done.folder / "study.json").read_text())["rows"]) == sorted(NAMES)
    expected = pc.LogisticRegression().fit(
        pc.split(frame, "hospital", BOOK), "readmitted ~ age + C(sex)"
    )
    assert set(made.values()) == {expected.summary().to_csv().encode()}
    for wrong, said in (
        ('split = { at = "visits/*.parquet" }', "by"),
        (files.replace(" }", ', folder = "x" }').replace(', order = "patient"', ""), "folder"),
        (files + '\nsites = { a = "a.csv" }', "one of"),
    ):
        with pytest.raises(pc.InputError) as caught:
            pc.run(study(wrong), tmp_path / "wrong")
        assert said in str(caught.value)
    with pytest.raises(pc.InputError) as caught:
        pc.run(study(files.replace('"hospital"', '"clinic"')), tmp_path / "wrong")
    assert caught.value.code == "NO_COLUMN"


def test_a_study_that_splits_nothing_is_the_one_that_it_always_was(tmp_path):
    start = STUDY.index("[data.sites")
    model = '[model]\nkind = "logistic"\nformula = "readmitted ~ age"\n'
    files = 'sites = { a = "a.csv", b = "b.csv" }\n'
    found = load_study(study_in(tmp_path, STUDY[:start] + files + model))
    assert found.hash.startswith("fe25f8dc67f488add3b05ba17e9e170f")  # of before
