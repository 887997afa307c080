"""Frames of pandas, Polars and Arrow, and Parquet files, beside the same rows as text."""

from __future__ import annotations

import datetime

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from polyclinic.data.codebook import Codebook
from polyclinic.data.read import read_table, split_frame, table_from_frame, to_table
from polyclinic.data.source import open_arrow
from tests.data.reading import changed, refused

NAN = np.nan


FRAME = {
    "age": [63, 64, 65],
    "chol": [200.5, NAN, 0.0],
    "sex": [True, False, True],
    "smoker": ["now", None, "never"],
    "seen": [datetime.date(1970, 1, 2), None, datetime.date(1970, 1, 3)],
    "note": ["x"] * 3,
}
EXPECTED = {
    "age": [63, 64, 65],
    "chol": [200.5, NAN, NAN],
    "sex": [1, 0, 1],
    "smoker": [2, NAN, 0],
    "seen": [1, NAN, 2],
}


def pandas_frame() -> pd.DataFrame:
    return pd.DataFrame(FRAME)


def nullable() -> pd.DataFrame:
    frame = pd.DataFrame({**FRAME, "chol": [200.5, None, 0.0]})
    return frame.assign(seen=pd.to_datetime(frame["seen"])).convert_dtypes()


FRAMES = {
    "pandas": pandas_frame,
    "pandas nullable": nullable,
    "pandas category": lambda: pandas_frame().astype({"smoker": "category", "sex": "category"}),
    "pandas object": lambda: pandas_frame().astype(object),
    "pandas other index": lambda: pandas_frame().set_index(pd.Index([7, 7, 7])),
    "pandas float32": lambda: pandas_frame().astype({"chol": "float32", "age": "float32"}),
    "polars": lambda: pl.DataFrame({**FRAME, "chol": [200.5, None, 0.0]}),
    "polars nan": lambda: pl.DataFrame(FRAME, strict=False),
    "polars category": lambda: pl.DataFrame(FRAME, strict=False).with_columns(
        pl.col("smoker").cast(pl.Categorical)
    ),
    "polars enum": lambda: pl.DataFrame(FRAME, strict=False).with_columns(
        pl.col("smoker").cast(pl.Enum(["never", "former", "now"]))
    ),
    "arrow": lambda: pa.table({**FRAME, "chol": [200.5, None, 0.0]}),
    "arrow dictionary": lambda: pa.table(
        {**FRAME, "smoker": pa.array(FRAME["smoker"]).dictionary_encode()}
    ),
}


@pytest.mark.parametrize("kind", FRAMES)
def test_frames(small, kind):
    frame = FRAMES[kind]()
    table = table_from_frame(frame, small, "a")
    for name, expected in EXPECTED.items():
        np.testing.assert_array_equal(table.columns[name], expected, err_msg=name)


def test_a_frame_is_left_as_it_was(small):
    frame = FRAMES["pandas category"]()
    before = frame.copy()
    table_from_frame(frame, small, "a")
    pd.testing.assert_frame_equal(frame, before)


def test_a_frame_keeps_every_digit(small):
    values = np.random.default_rng(0).uniform(50, 800, 1000)
    frame = pd.DataFrame({"chol": values})
    table = table_from_frame(frame, small, "a", columns=["chol"])
    np.testing.assert_array_equal(table.columns["chol"], values)


def test_only_the_columns_asked_for_are_needed(heart):
    frame = pd.DataFrame({"num": [0, 3], "age": [40, 50]})
    table = table_from_frame(frame, heart, "va", columns=["disease", "age"])
    assert table.columns["disease"].tolist() == [0, 1] and table.columns["age"].tolist() == [40, 50]
    assert refused(table_from_frame, frame, heart, "va").code == "NO_COLUMN"


def test_infinity_in_a_frame(small):
    error = refused(table_from_frame, pandas_frame().assign(chol=[np.inf, 200, 200]), small, "a")
    assert error.code == "NOT_FINITE"


@pytest.mark.parametrize("suffix", [".parquet", ".PQ"])
def test_parquet(tmp_path, small, suffix):
    path = tmp_path / f"a{suffix}"
    pandas_frame().to_parquet(path, index=False)
    table = read_table(path, small, "a")
    for name, expected in EXPECTED.items():
        np.testing.assert_array_equal(table.columns[name], expected, err_msg=name)


def test_numbers_of_a_parquet_file_are_what_their_texts_would_be_read_as(tmp_path):
    drawn = np.random.default_rng(0).integers(0, 2**64, 3000, dtype=np.uint64).view(np.float64)
    some = drawn[np.isfinite(drawn)][:1000]
    frame = pd.DataFrame(
        {
            "real": [*some, 0.1 + 0.2, -0.0, 5e-324, 1e308, -9, -9.0000001, None],
            "whole": [*range(1003), -9, 2**53 + 1, -(2**62), 7],
            "level": [0.0, 1.0, 2.0, None, -9.0, 1.0, 0.0] * 143 + [1.0] * 6,
            "single": np.linspace(0, 1, 1007, dtype=np.float32),
        }
    )
    column = {"type": "number", "missing": ["-9", "no"]}
    levels = {"type": "category", "levels": {"0": "none", "1": "one", "two": "two"}}
    book = {"real": column, "whole": column, "level": {**levels, "missing": [-9]}, "single": column}
    mapped = {"level": {"levels": {"0": "0", "1.0": "1", "2": "two", "-9": "missing", "b": "0"}}}
    codebook = Codebook.from_dict(
        {"format": 1, "name": "n", "columns": book, "site": {"a": {"map": mapped}}}
    )
    texts = pd.DataFrame({name: [*map(spelled, frame[name].to_numpy())] for name in frame})
    found = []
    for name, table in (("numbers", frame), ("texts", texts)):
        table.to_parquet(tmp_path / f"{name}.parquet", index=False)
        found.append(read_table(tmp_path / f"{name}.parquet", codebook, "a").columns)
    held = open_arrow(pa.Table.from_pandas(frame), codebook, "a")
    found.append(to_table(held, codebook, "a").columns)
    for name in frame:
        assert found[0][name].tobytes() == found[1][name].tobytes(), name
        assert found[0][name].tobytes() == found[2][name].tobytes(), name
    assert np.isnan(found[0]["real"]).sum() == 2 and np.isnan(found[0]["whole"]).sum() == 1
    assert set(found[0]["level"][:3]) == {0.0, 1.0, 2.0}


def spelled(cell: object) -> str | None:
    """A number as a file of texts has it."""
    return None if pd.isna(cell) else str(cell)


def test_a_broken_parquet_file(tmp_path, small):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 4711")
    assert refused(read_table, tmp_path / "a.parquet", small, "a", secret="4711").code == "BAD_FILE"


def test_hostile_column_names_and_codes():
    codebook = Codebook.from_dict(
        {
            "name": "x",
            "columns": {
                'a"; DROP TABLE source; --': {"type": "integer"},
                "c": {"type": "category", "levels": {"it's": "x", "b') OR 1=1 --": "y"}},
            },
        }
    )
    frame = pd.DataFrame({'a"; DROP TABLE source; --': [1, 2], "c": ["it's", "b') OR 1=1 --"]})
    table = table_from_frame(frame, codebook, "s")
    assert [v.tolist() for v in table.columns.values()] == [[1, 2], [0, 1]]


def test_a_million_rows(small):
    rng, n = np.random.default_rng(1), 1_000_000
    frame = pd.DataFrame(
        {f"x{j}": rng.standard_normal(n) for j in range(8)}
        | {"k": rng.integers(0, 3, n), "d": rng.integers(0, 2, n)}
    )
    columns = {f"x{j}": {"type": "number"} for j in range(8)} | {
        "k": {"type": "category", "levels": {"0": "a", "1": "b", "2": "c"}},
        "d": {"type": "binary", "levels": {"0": "n", "1": "y"}},
    }
    table = table_from_frame(frame, Codebook.from_dict({"name": "m", "columns": columns}), "a")
    for name in frame:
        np.testing.assert_array_equal(table.columns[name], frame[name].to_numpy(dtype=float))


@pytest.mark.parametrize("make", [pd.DataFrame, pl.DataFrame, pa.table])
def test_split_frame(small, make):
    codebook = changed(small, columns={"age": {"type": "integer"}})
    found = split_frame(make({"h": ["b", "a", "b"], "age": [1, 2, 3]}), "h", codebook)
    assert list(found) == ["b", "a"]
    assert found["b"].columns["age"].tolist() == [1, 3] and found["a"].site == "a"
    assert found["b"].patient.tolist() == [0, 1]


def test_split_frame_by_a_number_and_with_gaps(small):
    codebook = changed(small, columns={"age": {"type": "integer"}})
    frame = pd.DataFrame({"h": [2, 1, 2], "age": [1, 2, 3]})
    assert list(split_frame(frame, "h", codebook)) == ["2", "1"]
    error = refused(split_frame, frame.assign(h=["x", None, None]), "h", codebook)
    assert error.code == "MISSING_VALUES" and "2 rows" in error.what
    error = refused(split_frame, frame, "hospital", codebook)
    assert error.code == "NO_COLUMN" and "hospital" in error.what
