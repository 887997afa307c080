"""Time series of a hospital: the long table against pandas, units, times, and what is refused."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from polyclinic.core.errors import InputError
from polyclinic.data import series as module
from polyclinic.data.check import check_table
from polyclinic.data.codebook import Codebook
from polyclinic.data.read import read_table, table_from_frame

VARIABLES = {
    "hr": {"unit": "/min", "range": [0, 300], "usual": [40, 160], "aliases": ["HR", "pulse"]},
    "crea": {"unit": "mg/dL", "range": [0, 40], "join": "last", "molar_mass": 113.12},
    "urine": {"unit": "mL", "join": "sum"},
}


def book(site=None, patient="pid", **changes):
    grid = {"step": "1 h", "length": 6, "variables": VARIABLES, **changes}
    return Codebook.from_dict(
        {
            "name": "wards",
            "patient": {"id": patient},
            "columns": {
                "pid": {"type": "text"},
                "age": {"type": "number", "range": [0, 120]},
                "course": {"type": "series", "series": grid},
            },
            "site": {"a": {"map": {"course": site}}} if site else {},
        }
    )


TABLE = pd.DataFrame({"pid": ["p1", "p2", "p3", "p2"], "age": [50, 60, 70, 61]})


def read(long, codebook=None, table=TABLE):
    return table_from_frame(table, codebook or book(), "a", media={"course": long})


def rows(*lines):
    return pd.DataFrame(lines, columns=["patient", "time", "variable", "value"])


def drawn(n=4000):
    draw = np.random.default_rng(3)
    return pd.DataFrame(
        {
            "patient": draw.choice(["p1", "p2", "p3"], n),
            "time": draw.uniform(0, 6, n).round(3),
            "variable": draw.choice(["hr", "HR", "pulse", "crea", "urine"], n),
            "value": draw.uniform(1, 39, n).round(2),
        }
    )


def pivoted(long):
    """The same by pandas: mean of hr, last of crea, sum of urine."""
    long = long.assign(
        variable=long["variable"].replace({"HR": "hr", "pulse": "hr"}),
        step=np.floor(long["time"]).astype(int),
    ).sort_values("time", kind="stable")
    keys = ["patient", "step", "variable"]
    found = np.full((3, 6, 3), np.nan)
    for i, (name, how) in enumerate((("hr", "mean"), ("crea", "last"), ("urine", "sum"))):
        wide = long[long["variable"] == name].groupby(keys)["value"].agg(how).unstack("step")
        found[:, :, i] = (
            wide.droplevel("variable").reindex(["p1", "p2", "p3"]).reindex(columns=range(6))
        )
    return found


def test_a_long_table_is_what_pandas_makes_of_it():
    long = drawn()
    table = read(long)
    assert np.allclose(table.media["course"].values, pivoted(long), rtol=1e-6, equal_nan=True)
    assert table.columns["course"].tolist() == [0, 1, 2, 1]  # a patient's rows share a course


@pytest.mark.parametrize("kind", ["csv", "parquet", "semicolons"])
def test_files_of_all_kinds_give_the_same(tmp_path, kind):
    long, codebook = drawn(300), book()
    if kind == "parquet":
        codebook = book(file="course.parquet")
        long.to_parquet(tmp_path / "course.parquet")
        TABLE.to_csv(tmp_path / "a.csv", index=False)
    elif kind == "csv":
        long.to_csv(tmp_path / "course.csv", index=False)
        TABLE.to_csv(tmp_path / "a.csv", index=False)
    else:
        codebook = Codebook.from_dict(
            {**codebook.to_dict(), "file": {"delimiter": ";", "decimal": ",", "header": False}}
        )
        long.to_csv(tmp_path / "course.csv", index=False, sep=";", decimal=",")
        plain = TABLE.assign(course="")[["pid", "age", "course"]]
        plain.to_csv(tmp_path / "a.csv", index=False, sep=";", header=False)
    found = read_table(tmp_path / "a.csv", codebook, "a").media["course"]
    expected = read(drawn(300)).media["course"]
    assert np.array_equal(found.values, expected.values, equal_nan=True)
    assert found.fingerprint == expected.fingerprint


def test_the_order_of_rows_matters_only_between_values_of_one_time():
    long = drawn(500).drop_duplicates(["patient", "time", "variable"])
    first = read(long).media["course"].values
    again = read(long.sample(frac=1, random_state=1)).media["course"].values
    assert np.allclose(first, again, rtol=1e-6, equal_nan=True)
    tie = rows(("p1", 1, "crea", 2), ("p1", 1, "crea", 3))
    assert read(tie).media["course"].values[0, 1, 1] == 3


def test_networks_read_scaled_values_and_gaps_stay():
    table = read(rows(("p1", 0, "hr", 100), ("p1", 1, "hr", 160), ("p1", 2, "crea", 30)))
    found = table.media["course"].read(np.array([0]))[0]
    assert found[0, 0] == 0.0 and found[1, 0] == 1.0  # usual is 40 to 160
    assert found[2, 1] == pytest.approx(0.5)  # range is 0 to 40
    assert np.isnan(found).sum() == 15
    assert table.media["course"].shape == (6, 3) and found.dtype == np.float32


def test_a_patient_without_a_measurement_on_the_grid_is_missing():
    table = read(rows(("p1", 0, "hr", 60), ("p2", 99, "hr", 60), ("zz", 0, "hr", 60)))
    assert table.columns["course"][0] == 0
    assert np.isnan(table.columns["course"][1:]).all()


def test_units_come_from_the_site_or_from_the_row():
    agreed = read(rows(("p1", 0, "crea", 1.1312))).media["course"].values[0, 0, 1]
    section = {"variable_units": {"crea": "umol/L"}, "variables": {"Kreatinin": "crea"}}
    long = rows(("p1", 0, "Kreatinin", 100))
    assert read(long, book(section)).media["course"].values[0, 0, 1] == pytest.approx(agreed)
    own = rows(("p1", 0, "crea", 100), ("p1", 1, "crea", 1.1312), ("p1", 2, "urine", 2))
    own["unit"] = ["umol/L", "", "dL"]
    values = read(own, book(unit="unit")).media["course"].values[0]
    assert values[0, 1] == pytest.approx(agreed) and values[1, 1] == pytest.approx(agreed)
    assert values[2, 2] == 200
    own["unit"] = ["kg", "mm", ""]
    with pytest.raises(InputError, match="2 rows hold a unit of another kind"):
        read(own, book(unit="unit"))


def test_times_as_clock_minutes_and_timestamps():
    clock = read(rows(("p1", "02:30", "hr", 60), ("p1", "05:59", "hr", 70)), book(clock="hh:mm"))
    assert np.flatnonzero(~np.isnan(clock.media["course"].values[0, :, 0])).tolist() == [2, 5]
    minutes = read(rows(*(("p1", 60 * i, "hr", i) for i in range(6))), book(clock="min"))
    assert minutes.media["course"].values[0, :, 0].tolist() == [0, 1, 2, 3, 4, 5]
    table = TABLE.assign(admitted=["2020-01-01 10:00", "2020-02-01", "2020-03-01", "2020-02-01"])
    long = rows(
        ("p1", "2020-01-01 12:15:00", "hr", 60),
        ("p1", "2020-01-01 09:59:00", "hr", 1),
        ("p2", "2020-02-01 05:00:00", "hr", 70),
    )
    found = read(long, book(clock="timestamp", start="admitted"), table).media["course"].values
    assert found[0, 2, 0] == 60 and found[1, 5, 0] == 70
    assert np.count_nonzero(~np.isnan(found)) == 2


@pytest.mark.parametrize(
    ("line", "changes", "code", "what"),
    [
        (("p1", 0, "hr", "fast"), {}, "NOT_A_NUMBER", "1 row holds no number"),
        (("p1", "soon", "hr", 60), {}, "NOT_A_TIME", "1 row holds no time"),
        (("p1", 0, "hr", 777), {}, "OUT_OF_RANGE", "1 row holds a value outside"),
        (("p1", 0, "lactate", 2), {"unknown": "error"}, "UNKNOWN_VARIABLE", "1 row holds a"),
    ],
)
def test_what_cannot_be_read_is_counted_not_shown(line, changes, code, what):
    with pytest.raises(InputError) as error:
        read(rows(("p1", 0, "hr", 60), line), book(**changes))
    assert error.value.code == code and what in str(error.value)
    for secret in ("fast", "soon", "777", "lactate"):
        assert secret not in str(error.value)


def test_values_out_of_range_and_other_variables_may_be_left_out():
    long = rows(
        ("p1", 0, "hr", 60), ("p1", 0, "hr", 777), ("p1", 0, "lactate", 2), ("p2", 0, "hr", "")
    )
    found = read(long, book(outside="drop")).media["course"].values
    assert found[0, 0, 0] == 60 and np.count_nonzero(~np.isnan(found)) == 1


def test_a_check_counts_what_is_wrong(tmp_path):
    long = rows(
        ("p1", 0, "hr", 60),
        ("p1", 0, "hr", 777),
        ("p1", 0, "hr", "fast"),
        ("p1", "soon", "hr", 60),
        ("p2", 99, "hr", 60),
        ("zz", 0, "hr", 60),
        ("p1", 0, "lactate", 2),
        ("p1", 0, "lactate", 3),
    )
    long.to_csv(tmp_path / "course.csv", index=False)
    TABLE.to_csv(tmp_path / "a.csv", index=False)
    found = check_table(tmp_path / "a.csv", book(), "a")
    (column,) = [one for one in found.columns if one.name == "course"]
    counts = {one.kind: (one.severity, one.count) for one in column.findings}
    assert counts == {
        "unusable": ("look", 1),
        "not_a_number": ("error", 1),
        "not_a_time": ("error", 1),
        "out_of_range": ("error", 1),
        "unknown_variable": ("note", 2),
        "off_grid": ("note", 1),
        "strangers": ("look", 1),
    }
    assert column.missing == 3
    assert not any(secret in str(found) for secret in ("777", "fast", "lactate", "zz"))
    (tmp_path / "course.csv").unlink()
    assert "no_file" in str(check_table(tmp_path / "a.csv", book(), "a").to_dict())


def test_a_file_that_changes_has_another_fingerprint(tmp_path):
    TABLE.to_csv(tmp_path / "a.csv", index=False)
    names = set()
    for value in (60, 60, 61):
        rows(("p1", 0, "hr", value)).to_csv(tmp_path / "course.csv", index=False)
        names.add(read_table(tmp_path / "a.csv", book(), "a").fingerprint)
    assert len(names) == 2


def test_many_series_are_held_in_a_file(monkeypatch):
    expected = read(drawn()).media["course"]
    monkeypatch.setattr(module, "IN_MEMORY", 100)
    found = read(drawn()).media["course"]
    assert isinstance(found.values, np.memmap) and found.fingerprint == expected.fingerprint
    assert np.array_equal(found.read(np.array([2])), expected.read(np.array([2])), equal_nan=True)


def test_nothing_says_whose_rows_they_are():
    with pytest.raises(InputError) as error:
        read(rows(("p1", 0, "hr", 60)), book(patient="row"))
    assert error.value.code == "NO_SERIES"
    assert read(rows(("p1", 0, "hr", 60)), book(patient="row", key="pid")).n_patients == 4


@pytest.mark.parametrize(
    "wrong",
    [
        {"step": "an hour"},
        {"step": "0 h"},
        {"step": "1 kg"},
        {"clock": "timestamp"},
        {"variables": {"a": {"aliases": ["b"]}, "b": {}}},
        {"variables": {}},
        {"length": 0},
    ],
)
def test_a_grid_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(InputError):
        book(**wrong)


def test_a_codebook_of_series_travels_as_it_is():
    codebook = book({"variables": {"P": "hr"}, "variable_units": {"crea": "umol/L"}})
    again = Codebook.from_dict(codebook.to_dict())
    assert again == codebook and again.content_hash == codebook.content_hash
    assert list(again.columns["course"].series.variables) == ["hr", "crea", "urine"]
    assert again.media == {"course": (6, 3)}
