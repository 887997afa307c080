from __future__ import annotations

import datetime
import decimal

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from polyclinic.core.errors import InputError
from polyclinic.data.infer import infer_codebook
from polyclinic.data.read import split_frame, table_from_frame

CONTENT = {
    "age": [30, 41, 77],
    "bmi": [20.5, None, 31.0],
    "sick": [0, 1, 1],
    "flag": [True, False, None],
    "ward": ["b", "a", None],
    "seen": [datetime.date(2020, 1, 1), None, datetime.date(2021, 1, 1)],
}


@pytest.mark.parametrize(
    "make",
    [
        pd.DataFrame,
        lambda c: pd.DataFrame(c).convert_dtypes(),
        pl.DataFrame,
        pa.table,
        lambda c: pd.DataFrame(c).astype({"ward": "category"}),
        lambda c: pd.DataFrame(c).astype(object),
    ],
)
def test_types_levels_and_ranges(make):
    columns = infer_codebook(make(CONTENT)).columns
    assert {n: c.type for n, c in columns.items()} == {
        "age": "integer",
        "bmi": "number",
        "sick": "binary",
        "flag": "binary",
        "ward": "category",
        "seen": "date",
    }
    assert columns["age"].range == (30, 77) and columns["bmi"].range == (20.5, 31)
    assert list(columns["ward"].levels) == ["a", "b"] and list(columns["flag"].levels) == ["0", "1"]


def test_what_is_inferred_reads_the_frame_back():
    frame = pd.DataFrame(CONTENT)
    table = table_from_frame(frame, infer_codebook(frame), "a")
    assert table.columns["age"].tolist() == [30, 41, 77]
    np.testing.assert_array_equal(table.columns["bmi"], [20.5, np.nan, 31])
    np.testing.assert_array_equal(table.columns["flag"], [1, 0, np.nan])
    np.testing.assert_array_equal(table.columns["ward"], [1, 0, np.nan])
    assert table.columns["seen"][2] - table.columns["seen"][0] == 366


@pytest.mark.parametrize(
    ("values", "kind", "range_"),
    [
        ([1, 2, 3], "integer", (1, 3)),
        ([1.0, 2.0, np.nan], "integer", (1, 2)),
        ([0.0, 1.0, np.nan], "binary", None),
        ([0, 0, 0], "integer", (0, 1)),
        ([1, 1, 1], "integer", (0, 1)),
        ([-2.5, -2.5], "number", (-2.5, 0)),
        ([np.nan, np.nan], "number", None),
        ([1.5, np.inf, 2.5], "number", (1.5, 2.5)),
        ([decimal.Decimal("1.5"), decimal.Decimal(2), None], "number", (1.5, 2)),
    ],
)
def test_numbers(values, kind, range_):
    column = infer_codebook(pd.DataFrame({"x": values})).columns["x"]
    assert (column.type, column.range) == (kind, range_)


@pytest.mark.parametrize(
    ("values", "levels"),
    [
        (pd.Categorical([10, 9, 2]), ["2", "9", "10"]),
        (pd.Categorical([1.0, 2.0, np.nan]), ["1", "2"]),
        (pd.Categorical(["x", "y"], categories=["z", "y", "x"]), ["x", "y"]),
        (pd.Categorical([True, False]), ["0", "1"]),
        (["10", "9", " 9 ", ""], ["9", "10"]),
        (["b", "B", "a"], ["B", "a", "b"]),
    ],
)
def test_categories_and_that_they_read_back(values, levels):
    frame = pd.DataFrame({"x": values})
    codebook = infer_codebook(frame)
    assert codebook.columns["x"].type == "category" and list(codebook.level_names("x")) == levels
    table = table_from_frame(frame, codebook, "a")
    present = table.columns["x"][~np.isnan(table.columns["x"])]
    assert set(present) == set(range(len(levels)))


def test_free_text_is_no_category():
    frame = pd.DataFrame({"note": [f"patient {i}" for i in range(1001)], "x": range(1001)})
    codebook = infer_codebook(frame)
    assert codebook.columns["note"].type == "text" and codebook.usable == ("x",)
    assert infer_codebook(frame.head(1000)).columns["note"].type == "category"


def test_times_without_a_date_are_text():
    frame = pl.DataFrame({"t": [datetime.time(1), datetime.time(2)], "x": [1, 2]})
    assert infer_codebook(frame).columns["t"].type == "text"


def test_exclude_and_names():
    frame = pd.DataFrame({"hospital": ["a", "b"], 7: [1.5, 2.5]})
    codebook = infer_codebook(frame, "mine", exclude=("hospital",))
    assert codebook.name == "mine" and list(codebook.columns) == ["7"]
    assert split_frame(
        pd.DataFrame({"h": ["a"], "x": [1.5]}), "h", infer_codebook(pd.DataFrame({"x": [1.5, 2]}))
    )["a"].columns["x"].tolist() == [1.5]


@pytest.mark.parametrize("exclude", [("ward",), ("x",)])
def test_an_unknown_name_and_nothing_left(exclude):
    with pytest.raises(InputError) as caught:
        infer_codebook(pd.DataFrame({"x": [1, 2]}), exclude=exclude)
    assert caught.value.code == "NO_COLUMN" and caught.value.rule and caught.value.next
