from __future__ import annotations

import os
import tracemalloc

import numpy as np
import pandas as pd
import pytest

import polyclinic as pc
from polyclinic.core import codec
from polyclinic.core.exposure import Exposure, Members, Shares
from polyclinic.core.exposure_data import exposure_from_data, exposure_to_data
from polyclinic.core.fit import fit
from polyclinic.engines import wire
from polyclinic.engines.spread import grouped
from tests.engines.near import BOOK, FORMULA, near, visits, write
from tests.study.test_conformance import ALGORITHMS, partition


@pytest.fixture
def files(tmp_path):
    return write(visits(), tmp_path / "visits")


def fitted(data, engine=None, **more):
    return pc.LogisticRegression().fit(data, FORMULA, engine=engine, **more)


def same(a, b):
    first, second = ([m.summary().to_numpy().tobytes(), m.result_.deviance] for m in (a, b))
    return first == second


def test_files_read_in_parts_give_the_bytes_of_the_whole_table(files, tmp_path):
    whole = pc.read({"hospital": tmp_path / "visits"}, BOOK)
    parts = pc.scan(files, BOOK)
    for partitions in (1, 5):
        expected = fitted(whole, pc.Embedded(partitions))
        assert same(expected, fitted(parts, pc.Embedded(partitions)))
        cluster = near(tmp_path, partitions, workers=3)
        assert same(expected, fitted(parts, cluster))
    asked = cluster.machines.messages
    assert {"w0", "w1", "w2"} == set(asked)


def test_a_cohort_and_a_derived_column_are_read_in_parts_as_well(files, tmp_path):
    def model(data, engine):
        rows = data.cohort(
            "age >= 30 and hba1c < 8", missing="drop", columns=["old", "hba1c", "readmitted"]
        )
        return pc.LogisticRegression().fit(rows, "readmitted ~ old + hba1c", engine=engine)

    whole = pc.read({"hospital": tmp_path / "visits"}, BOOK)
    assert same(model(whole, pc.Embedded(4)), model(pc.scan(files, BOOK), near(tmp_path, 4)))


@pytest.mark.parametrize("name", ["logistic", "cross-table", "cox", "boosting", "clusters"])
def test_every_grain_gives_the_bytes_of_one_process(name, tmp_path):
    algorithm = ALGORITHMS[name].algorithm
    here = fit(algorithm(), pc.Embedded(5).domain(partition())).state
    there = fit(algorithm(), near(tmp_path, 5).domain(partition())).state
    assert codec.encode(here) == codec.encode(there)


def test_a_lost_worker_changes_no_byte(files, tmp_path):
    def lose(done):
        if done.number == 2:
            cluster.machines.lost.add("w1")

    expected = fitted(pc.scan(files, BOOK), pc.Embedded(6))
    cluster = near(tmp_path, 6, workers=3)
    assert same(expected, fitted(pc.scan(files, BOOK), cluster, callbacks=[lose]))
    assert "w1" not in cluster.machines.holders
    assert cluster.machines.messages[-1] != "w1"


def test_a_worker_that_was_started_anew_is_told_again(files, tmp_path):
    from polyclinic.engines.held import Holder

    def anew(done):
        if done.number == 2:
            cluster.machines.holders["w0"] = Holder(1 << 30)

    cluster = near(tmp_path, 6)
    expected = fitted(pc.scan(files, BOOK), pc.Embedded(6))
    assert same(expected, fitted(pc.scan(files, BOOK), cluster, callbacks=[anew]))


def test_what_does_not_fit_is_read_in_every_round(files, tmp_path):
    expected = fitted(pc.scan(files, BOOK), pc.Embedded(6))
    cluster = near(tmp_path, 6, memory=9000)
    assert same(expected, fitted(pc.scan(files, BOOK), cluster))
    for holder in cluster.machines.holders.values():
        assert sum(rows.bytes() for rows in holder._rows.values()) <= 9000


def test_workers_of_little_memory_hold_less_and_read_nothing_twice(files, tmp_path, monkeypatch):
    expected = fitted(pc.scan(files, BOOK), pc.Embedded(6))
    cluster = near(tmp_path, 6, workers=3)
    machines = cluster.machines
    monkeypatch.setattr(machines.speeds, "measured", lambda kind, answers: None)  # all are as fast
    machines.holders["w1"].memory = machines.memory["w1"] = 7000
    assert same(expected, fitted(pc.scan(files, BOOK), cluster))
    held = {name: holder._size() for name, holder in machines.holders.items()}
    parts = {n: [len(r.parts) for r in h._rows.values()] for n, h in machines.holders.items()}
    assert 0 < held["w1"] <= 7000 < min(held["w0"], held["w2"])
    assert sum(map(sum, parts.values())) == 6  # each is held by one, none is read in every round


def test_all_rows_at_one_worker_must_fit(files, tmp_path):
    data = pc.scan(files, BOOK)
    with pytest.raises(pc.PolyclinicError) as caught:  # whose steps are joined over all rows
        cox = pc.CoxRegression(stratify=False, time_bins=4)
        cox.fit(data, "Surv(age, readmitted) ~ hba1c", engine=near(tmp_path, memory=100))
    assert caught.value.code == "TOO_LARGE_FOR_ONE"


def test_a_part_that_cannot_be_read_is_named(files, tmp_path):
    data = pc.scan(files, BOOK)
    path = tmp_path / "visits" / "v1.parquet"
    content = bytearray(path.read_bytes())
    content[4:40] = b"\0" * 36
    stamp = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    with pytest.raises(pc.PolyclinicError) as caught:
        fitted(data, near(tmp_path))
    assert caught.value.code == "UNREADABLE"
    assert "v1.parquet, row group 0" in str(caught.value)


def test_a_file_that_changes_in_mid_run_ends_it(files, tmp_path):
    data = pc.scan(files, BOOK)
    (tmp_path / "visits" / "v0.parquet").touch()
    with pytest.raises(pc.PolyclinicError) as caught:
        near(tmp_path).workers(data._selected("hospital", None))
    assert caught.value.code == "SOURCE_CHANGED"


def test_a_patient_in_two_places_is_refused(tmp_path):
    frame = visits(60)
    frame.loc[59, "patient"] = frame.loc[0, "patient"]
    data = pc.scan(write(frame, tmp_path / "split", 2, 20), BOOK)
    with pytest.raises(pc.InputError) as caught:
        near(tmp_path).workers(data._selected("hospital", None))
    assert caught.value.code == "PATIENT_SPLIT"
    assert "1 patients" in str(caught.value)


def test_the_gate_counts_patients_and_not_rows(tmp_path):
    frame = visits(60)
    frame["patient"] = np.repeat(["a", "b", "c", "d"], 15)
    data = pc.scan(write(frame, tmp_path / "few", 3, 7), BOOK)
    with pytest.raises(pc.Refused) as caught:
        fitted(data, near(tmp_path, 4))
    assert caught.value.code == "TOO_FEW_PATIENTS"


def test_a_hospital_that_is_a_cluster_takes_part_like_any_other(files, tmp_path):
    frames = {"b": visits(300, 1), "c": visits(400, 2)}
    here = pc.read({"a": tmp_path / "visits", **frames}, BOOK)
    on = pc.scan(files, BOOK, engine=near(tmp_path, workers=2))
    there = pc.read({"a": on, **frames}, BOOK)
    for privacy in (None, pc.SecureSum()):
        assert same(fitted(here, privacy=privacy), fitted(there, privacy=privacy))
    assert on.on.machines.messages


def test_a_second_fit_asks_for_no_row_twice(files, tmp_path):
    cluster = near(tmp_path)
    data = pc.scan(files, BOOK)
    fitted(data, cluster)
    asked = len(cluster.machines.messages)
    for path in (tmp_path / "visits").iterdir():
        path.unlink()
    fitted(pc.read({"hospital": data}, BOOK), cluster)
    assert len(cluster.machines.messages) > asked


def test_an_exposure_travels_as_it_is():
    parts = np.abs(np.random.default_rng(0).normal(size=(20, 3)))
    found = Exposure(
        3,
        {"y = 1": 4},
        {"y": 2},
        {"age": {"1": 3, "*": 1}},
        {"age": Shares.of(parts)},
        Shares.of(parts),
        np.array([1.0, np.inf]),
        {"h": Shares.of(parts)},
        float("inf"),
        4,
        True,
        (
            Members(("a",), np.array([3, 5, 9])),
            Members(("b",), np.array([7, 10**9]), ("h", 2), 1),
            Members(("c",), np.zeros(0, dtype=np.int64)),
        ),
        7,
    )
    data = codec.decode(codec.encode(exposure_to_data(found)))
    back = exposure_from_data(data)
    assert codec.encode(exposure_to_data(back)) == codec.encode(exposure_to_data(found))
    assert back.leverage == float("inf") and back.alone and back.slots == found.slots
    for one, two in zip(back.members, found.members, strict=True):
        assert (one.columns, one.cell, one.candidate) == (two.columns, two.cell, two.candidate)
        np.testing.assert_array_equal(one.patients, two.patients)


def test_exposures_are_added_on_their_way_and_their_patients_packed_one_by_one():
    def seen(first, columns=("a", "b")):
        patients = np.arange(first, first + 9_000)
        return Exposure(
            coefficients=2,
            slots={"y = 1": 3},
            members=tuple(Members((name,), patients) for name in columns),
        )

    parts = [Exposure(coefficients=2), seen(0), seen(9_000), seen(20_000)]
    data = wire.exposures_to_data(parts)
    assert max(len(codec.encode(one["patients"])) for one in data["members"]) < 5_000
    back = exposure_from_data(codec.decode(codec.encode(data)))
    total = parts[0] + parts[1] + parts[2] + parts[3]
    assert (back.slots, back.coefficients) == (total.slots, total.coefficients)
    assert [one.columns for one in back.members] == [("a",), ("b",)]
    for one, two in zip(back.members, total.members, strict=True):
        np.testing.assert_array_equal(one.patients, two.patients)


def test_memory_does_not_grow_with_the_patients_behind_a_sum():
    size, pieces = 20_000, 100

    def seen():
        for first in range(0, size * pieces, size):
            patients = np.arange(first, first + size)
            yield Exposure(members=(Members(("a",), patients),))

    tracemalloc.start()
    data = wire.exposures_to_data(seen())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * size * pieces / 8
    assert len(exposure_from_data(data).members[0].patients) == size * pieces


def test_an_error_travels_with_its_words_and_no_other_words():
    kept = wire.error_from_data(wire.error_to_data(pc.InputError("what", code="NO_FILE", next="n")))
    assert isinstance(kept, pc.InputError) and (kept.code, kept.next) == ("NO_FILE", "n")
    other = wire.error_from_data(wire.error_to_data(ValueError("patient Miller")))
    assert "Miller" not in str(other) and "ValueError" in str(other)


def test_chunks_stay_in_their_order():
    assert grouped([0, 3, 6, 9, 10], 2) == [[0, 3, 6], [6, 9, 10]]
    assert grouped([0, 0], 8) == [[0, 0]]


def test_patterns_name_files_in_the_order_of_their_names(files, tmp_path):
    folder = tmp_path / "visits"
    for pattern in (
        str(folder),
        files,
        f"file://{folder}/v*.parquet",
        str(tmp_path / "**/*.parquet"),
    ):
        found = pc.scan(pattern, BOOK).scan
        assert [path.rpartition("/")[2] for path in found.lake.files] == [
            "v0.parquet",
            "v1.parquet",
            "v2.parquet",
        ]
    for nothing in (tmp_path / "none", tmp_path / "visits" / "*.csv"):
        with pytest.raises(pc.InputError) as caught:
            pc.scan(nothing, BOOK)
        assert caught.value.code == "NO_FILE"


def test_what_a_scan_does_not_do_is_said_at_once(files, tmp_path):
    content = BOOK.to_dict()
    first = {**content, "patient": {"id": "patient", "duplicates": "first"}}
    for book, code in ((first, "WRONG_VALUE"),):
        with pytest.raises(pc.InputError) as caught:
            pc.scan(files, type(BOOK).from_dict(book))
        assert caught.value.code == code
    more = visits(50).drop(columns="hba1c")
    with pytest.raises(pc.InputError) as caught:
        pc.scan(write(more, tmp_path / "less"), BOOK)
    assert caught.value.code == "NO_COLUMN"
    data = pc.scan(files, BOOK)
    for ask in (data.check, lambda: data.local("hospital")):
        with pytest.raises(pc.InputError) as caught:
            ask()
        assert caught.value.code == "ROWS_IN_FILES"
    assert "in files" in repr(data) and "in files" in data._repr_html_()


def test_numbers_and_dates_of_a_file_are_read_as_of_a_whole_table(tmp_path):
    book = type(BOOK).from_dict(
        {
            "format": 1,
            "name": "odd",
            "columns": {
                "when": {"type": "date"},
                "count": {"type": "integer", "missing": ["-1"]},
                "flag": {"type": "binary", "levels": {"0": "no", "1": "yes"}},
            },
        }
    )
    frame = pd.DataFrame(
        {
            "when": pd.date_range("2020-01-01", periods=40).date,
            "count": pd.array([None, -1, *range(38)], dtype="Int64"),
            "flag": [True, False] * 20,
        }
    )
    pattern = write(frame, tmp_path / "odd", 2, 9)
    whole = pc.read({"hospital": tmp_path / "odd"}, book).rows("hospital", None)
    parts = pc.scan(pattern, book)._selected("hospital", None).gather()
    for name in whole.columns:
        np.testing.assert_array_equal(whole.columns[name], parts.columns[name])
    np.testing.assert_array_equal(whole.persons, parts.persons)


STUDY = """
format = 1
[study]
name = "visits"
[data]
schema = "visits.json"
sites = { north = "visits/*.parquet" }
[model]
kind = "logistic"
formula = "readmitted ~ age + C(sex)"
[evaluation]
validate = "none"
alone = false
[output]
report = []
"""


def test_a_study_runs_on_a_cluster_and_its_result_is_that_of_one_process(files, tmp_path):
    from polyclinic.data.toml import load_toml
    from polyclinic.governance.study_file import Study

    (tmp_path / "study.toml").write_text(STUDY)
    study = load_toml(tmp_path / "study.toml", Study)
    folders = [tmp_path / "here", tmp_path / "there"]
    for folder, engine in zip(folders, (None, near(tmp_path)), strict=True):
        sites = pc.read({"north": pc.scan(files, BOOK)}, BOOK)
        pc.run(study, folder, sites=sites, engine=engine)
    one, two = [(folder / "coefficients.csv").read_bytes() for folder in folders]
    assert one == two


def test_a_command_line_says_where_to_compute(tmp_path):
    from polyclinic.governance.study_file import load_study, with_engine

    path = tmp_path / "study.toml"
    path.write_text(STUDY)
    study, before = load_study(path), load_study(path).hash
    assert with_engine(study, None, None, None).name == "embedded"
    assert with_engine(study, None, 4, None).workers == 4
    found = with_engine(study, "dask", None, "tls://there:8786")
    assert (found.name, found.scheduler) == ("dask", "tls://there:8786")
    assert with_engine(study, "spark", None, "yarn").scheduler == "yarn"
    for wrong in (("embedded", 2, None), ("dask", 2, "tls://there:8786"), ("flink", None, None)):
        with pytest.raises(pc.InputError):
            with_engine(study, *wrong)
    path.write_text(STUDY + '[engine]\nname = "dask"\nworkers = 2\nmemory = "4 GB"\n')
    study = load_study(path)
    found = with_engine(study, "embedded", None, None)
    assert (found.workers, found.memory) == (None, None)
    found = with_engine(study, "spark", None, None)
    assert (found.name, found.workers, found.memory) == ("spark", None, "4 GB")
    assert with_engine(study, None, None, "tls://there:8786").name == "dask"
    assert load_study(path).hash != before


def test_a_study_file_says_who_computes_what(tmp_path):
    from polyclinic.governance.study_file import load_study, with_engine
    from polyclinic.study.run import engine_of

    def engine(lines):
        path.write_text(f"{STUDY}[engine]\n{lines}\n")
        return load_study(path)

    path = tmp_path / "study.toml"
    study = engine('name = "dask"\nworkers = 1\npolicy = "random"\nspeculate = false')
    assert study.hash != engine('name = "dask"\nworkers = 1').hash
    with engine_of(study.engine) as c:
        assert (c.machines.policy, c.machines.speculate) == ("random", False)
    here, there = (with_engine(study, name, None, None) for name in ("embedded", "spark"))
    assert (here.policy, here.speculate) == (None, None)
    assert (there.policy, there.speculate) == ("random", None)
    wrong = {
        'policy = "random"': "of name",
        'name = "dask"\npolicy = "best"': "round_robin",
        'name = "spark"\nspeculate = true': "all at once",
    }
    for lines, words in wrong.items():
        with pytest.raises(pc.InputError, match=words) as caught:
            engine(lines)
        assert caught.value.code == "WRONG_VALUE"


def test_a_study_is_over_hospitals_so_its_rounds_do_not_overlap(tmp_path):
    from polyclinic.governance.study_file import load_study

    path = tmp_path / "study.toml"
    path.write_text(STUDY + '[solver]\nname = "sgd"\nbatch = 0.5\n')
    assert "staleness" not in load_study(path).model_dump()["solver"]  # nor in what is signed
    for value in ("4", "0"):
        path.write_text(STUDY + f'[solver]\nname = "sgd"\nbatch = 0.5\nstaleness = {value}\n')
        with pytest.raises(pc.InputError) as caught:
            load_study(path)
        assert caught.value.code == "WRONG_VALUE" and "staleness" in caught.value.what
        assert "line" in caught.value.what and "pc.cluster(workers=2)" in caught.value.rule
