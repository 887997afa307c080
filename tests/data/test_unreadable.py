"""Parts of files that cannot be read: named, and left out only where that is asked."""

from __future__ import annotations

import os

import numpy as np
import pytest
from pyarrow import parquet

import polyclinic as pc
from polyclinic.governance.study_file import load_study
from tests.data.test_query import STUDY, study_in
from tests.engines.near import BOOK, FORMULA, near, visits, write


def damage(path, group):
    """Zeros in the pages of a row group; size and time stay what they were."""
    about, stamp = parquet.read_metadata(path).row_group(group), path.stat()
    pages, content = about.column(1), bytearray(path.read_bytes())
    start = pages.dictionary_page_offset or pages.data_page_offset
    content[start : start + 24] = b"\0" * 24
    path.write_bytes(content)
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))


@pytest.fixture
def files(tmp_path):
    """Three files of 240 visits, each a patient, in row groups of 100; the second one of the second
    file is damaged."""
    frame = visits(720)
    frame["patient"] = np.arange(720).astype(str)
    write(frame, tmp_path / "visits", 3, 100)
    damage(tmp_path / "visits" / "v1.parquet", 1)
    return tmp_path / "visits", frame.drop(index=range(340, 440))


def fitted(data, engine=None):
    model = pc.LogisticRegression().fit(data, FORMULA, engine=engine)
    return model.summary().to_numpy().tobytes()


def test_a_part_that_cannot_be_read_stops_unless_it_may_be_left_out(files, tmp_path):
    folder, rest = files
    with pytest.raises(pc.PolyclinicError) as caught:
        fitted(pc.scan(folder, BOOK), near(tmp_path))
    assert (caught.value.code, "v1.parquet, row group 1" in caught.value.what) == ("UNREADABLE", 1)
    with pytest.warns(pc.DataWarning, match=r"100 rows cannot be read.*v1\.parquet, row group 1$"):
        data = pc.scan(folder, BOOK, unreadable="leave out")
    expected = fitted(pc.read({"hospital": rest}, BOOK), pc.Embedded(3))
    assert fitted(data, pc.Embedded(3)) == expected
    assert fitted(data, near(tmp_path, 3)) == expected
    assert data.scan.fingerprint != pc.scan(folder, BOOK).scan.fingerprint  # other rows


def test_nothing_is_said_where_all_can_be_read(tmp_path):
    pattern = write(visits(), tmp_path / "visits")
    one, two = (pc.scan(pattern, BOOK, unreadable=how) for how in ("stop", "leave out"))
    assert one.scan.fingerprint == two.scan.fingerprint
    assert one.scan.groups == two.scan.groups and two.unread() == []


def test_whole_files_count_as_unknown_and_few_rows_are_not_counted(files, tmp_path):
    folder, _ = files
    (folder / "v0.parquet").write_bytes(b"PAR1 is not here")
    with pytest.raises(pc.InputError) as caught:
        pc.scan(folder, BOOK)
    assert caught.value.code == "NO_FILE" and "v0.parquet" in caught.value.what
    with pytest.warns(pc.DataWarning, match=r"100 rows and files of which .* v0\.parquet; v1"):
        data = pc.scan(folder, BOOK, unreadable="leave out")
    assert data.scan.n_rows == 140 + 240
    for path in folder.iterdir():
        path.write_bytes(b"nothing")
    with pytest.raises(pc.InputError) as caught:
        pc.scan(folder, BOOK, unreadable="leave out")
    assert caught.value.code == "NO_FILE"
    few = visits(7)
    write(few, tmp_path / "few", 1, 4)
    damage(tmp_path / "few" / "v0.parquet", 1)
    with pytest.warns(pc.DataWarning, match="fewer than 5 rows"):
        pc.scan(tmp_path / "few", BOOK, unreadable="leave out")


def test_what_fails_later_stops_the_run_in_any_case(files, tmp_path):
    folder, _ = files
    with pytest.warns(pc.DataWarning):
        data = pc.scan(folder, BOOK, unreadable="leave out")
    damage(folder / "v2.parquet", 0)
    with pytest.raises(pc.PolyclinicError) as caught:
        fitted(data, near(tmp_path))
    assert caught.value.code == "UNREADABLE" and "v2.parquet, row group 0" in caught.value.what


def test_rows_that_are_written_anew_leave_out_the_same(files):
    folder, rest = files
    with pytest.raises(pc.PolyclinicError) as caught:
        pc.scan(folder, BOOK, order="patient")
    assert caught.value.code == "UNREADABLE" and "v1.parquet, row group 1" in caught.value.what
    with pytest.warns(pc.DataWarning, match="100 rows"):
        data = pc.scan(folder, BOOK, order="patient", unreadable="leave out")
    expected = pc.read({"hospital": rest.sort_values("patient")}, BOOK)
    assert fitted(data) == fitted(expected)
    with pytest.warns(pc.DataWarning, match="100 rows"):
        data = pc.split(folder, "sex", BOOK, unreadable="leave out")
    assert [said.partition(":")[0] for said in data.unread()] == ["files of all hospitals"]


def test_a_study_says_whether_to_stop_and_its_report_what_was_left_out(files, tmp_path):
    at, query = 'at = "ehr.duckdb"', 'query = "SELECT * FROM visits"'
    text = STUDY.replace("[data.sites.north]", 'sites = { north = "visits/*.parquet" }')
    text = text.replace(at, "").replace(query, "").replace("report = []", 'report = ["html"]')
    with pytest.raises(pc.PolyclinicError) as caught:
        pc.run(study_in(tmp_path, text), tmp_path / "stops")
    assert caught.value.code == "UNREADABLE"
    text = text.replace("[model]", 'unreadable = "leave out"\n[model]')
    done = pc.run(study_in(tmp_path, text), tmp_path / "goes-on")
    said = "north: 100 rows cannot be read and are left out: v1.parquet, row group 1"
    assert done.results["model"]["warnings"] == [said]
    assert said in (done.folder / "report.html").read_text()


def test_one_file_of_a_study_is_read_in_parts_where_some_may_be_left_out(files, tmp_path):
    at = 'at = "ehr.duckdb"\nquery = "SELECT * FROM visits"'
    one = 'sites = { north = "visits/v1.parquet" }\nunreadable = "leave out"'
    text = STUDY.replace(at, "").replace("[data.sites.north]", one)
    done = pc.run(study_in(tmp_path, text), tmp_path / "one")
    assert done.results["model"]["n"] < 141 and done.results["model"]["warnings"]
    with pytest.raises(pc.InputError) as caught:
        load_study(study_in(tmp_path, text.replace(one.split("\n")[0], 'folder = "visits"')))
    assert "sites" in caught.value.rule


def test_only_two_words_are_known(files):
    with pytest.raises(pc.InputError) as caught:
        pc.scan(files[0], BOOK, unreadable="skip")
    assert caught.value.code == "WRONG_VALUE"
