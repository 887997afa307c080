from __future__ import annotations

import datetime

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from polyclinic.core.errors import InputError
from polyclinic.data.codebook import Codebook
from polyclinic.data.read import read_table, split_frame, table_from_frame, to_table
from polyclinic.data.source import open_arrow

NAN = np.nan
HEADER = "age,chol,sex,smoker,seen,note"
ROW = "63,200,1,now,2020-01-31,x"


def plain(codebook: Codebook) -> dict:
    """The codebook as a TOML file would hold it."""
    return codebook.model_dump(by_alias=True, exclude_none=True)


def changed(codebook: Codebook, **parts) -> Codebook:
    return Codebook.from_dict({**plain(codebook), **parts})


def with_site(codebook: Codebook, **section) -> Codebook:
    return changed(codebook, site={"a": section})


@pytest.fixture
def read(tmp_path, small):
    def reader(text: str | bytes, codebook: Codebook = small, name: str = "a.csv"):
        path = tmp_path / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return read_table(path, codebook, "a")

    return reader


@pytest.fixture
def column(read):
    """One column of a file whose other cells are harmless."""

    def values(name: str, *cells: str, codebook: Codebook | None = None) -> list[float]:
        place = HEADER.split(",").index(name)
        lines = []
        for cell in cells:
            row = ROW.split(",")
            row[place] = cell
            lines.append(",".join(row))
        options = {} if codebook is None else {"codebook": codebook}
        return read("\n".join([HEADER, *lines]) + "\n", **options).columns[name].tolist()

    return values


def refused(call, *args, secret: str | None = None, **options) -> InputError:
    with pytest.raises(InputError) as caught:
        call(*args, **options)
    error = caught.value
    assert error.rule and error.next
    if secret is not None:
        assert secret not in str(error)
    return error


def test_a_row_of_every_type(read):
    table = read(f"{HEADER}\n{ROW}\n")
    assert set(table.columns) == {"age", "chol", "sex", "smoker", "seen"}
    assert {k: v.tolist() for k, v in table.columns.items()} == {
        "age": [63.0],
        "chol": [200.0],
        "sex": [1.0],
        "smoker": [2.0],
        "seen": [(datetime.date(2020, 1, 31) - datetime.date(1970, 1, 1)).days],
    }
    assert all(v.dtype == np.float64 for v in table.columns.values())
    assert table.patient.tolist() == [0] and table.n_rows == table.n_patients == 1


def test_spellings_of_a_number(column):
    assert column("age", "63.0", "63", " 63", "63 ", "+63", "6.3e1", "063") == [63.0] * 7
    assert column("chol", "100.7", "1.5e2", "  99.") == [100.7, 150.0, 99.0]


def test_a_number_without_leading_zero(column, small):
    columns = plain(small)["columns"] | {"chol": {"type": "number"}}
    assert column("chol", ".7", "-.7", codebook=changed(small, columns=columns)) == [0.7, -0.7]


def test_missing_in_every_spelling(column):
    np.testing.assert_array_equal(
        column("age", "?", "NA", " ? ", "", "  ", "63"), [NAN] * 5 + [63.0]
    )
    np.testing.assert_array_equal(
        column("chol", "0", "0.0", " 0", "00", "?", "200"), [NAN] * 5 + [200.0]
    )
    np.testing.assert_array_equal(column("sex", "?", "1", "", "0.0", "1.0"), [NAN, 1, NAN, 0, 1])
    np.testing.assert_array_equal(column("smoker", "", "never", " former "), [NAN, 0, 1])
    np.testing.assert_array_equal(column("seen", "NA", "1970-01-02", "1969-12-31"), [NAN, 1, -1])


@pytest.mark.parametrize(
    ("name", "bad", "code", "count"),
    [
        ("age", ["63.5", "64", "1.1"], "NOT_AN_INTEGER", 2),
        ("age", ["6o", "64"], "NOT_A_NUMBER", 1),
        ("age", ["63,5".replace(",", ";")], "NOT_A_NUMBER", 1),
        ("age", ["nan"], "NOT_A_NUMBER", 1),
        ("age", ["17", "111", "64", "-63"], "OUT_OF_RANGE", 3),
        ("chol", ["none", "0x10", "true", "1 2"], "NOT_A_NUMBER", 4),
        ("chol", ["inf", "-inf", "1e999"], "NOT_FINITE", 3),
        ("chol", ["49.99", "800.01"], "OUT_OF_RANGE", 2),
        ("sex", ["2", "male", "-1"], "UNKNOWN_LEVEL", 3),
        ("smoker", ["Never", "now", "0"], "UNKNOWN_LEVEL", 2),
        ("seen", ["31.01.2020", "2020-13-01", "x"], "NOT_A_DATE", 3),
    ],
)
def test_bad_cells_are_counted_and_never_shown(column, name, bad, code, count):
    error = refused(column, name, *bad)
    assert error.code == code and error.site == "a"
    assert error.what.startswith(f"a, column {name}: {count} row")
    for cell in bad:
        assert cell not in str(error) or len(cell) < 3 or cell in ("now", "inf")  # words of ours


def test_the_ends_of_a_range_are_inside(column):
    assert column("age", "18", "110") == [18, 110]


def test_unusual_values_are_kept(column):
    assert column("chol", "99", "401") == [99, 401]


def test_no_file(tmp_path, small):
    error = refused(read_table, tmp_path / "absent.csv", small, "a")
    assert error.code == "NO_FILE" and "absent.csv" in error.what
    assert refused(read_table, tmp_path, small, "a").code == "NO_FILE"


def test_what_is_closed_in_a_folder_matters_only_where_it_is_a_table(tmp_path, small):
    (tmp_path / "rows.csv").write_text(f"{HEADER}\n")
    (tmp_path / "lost+found").symlink_to(tmp_path / "nowhere")  # nobody may read it, root neither
    assert read_table(tmp_path, small, "a").n_rows == 0
    (tmp_path / "more.csv").symlink_to(tmp_path / "nowhere")
    error = refused(read_table, tmp_path, small, "a")
    assert error.code == "NO_FILE" and "more.csv may not be read" in error.what


def test_an_empty_file_and_one_with_a_header_only(read):
    assert refused(read, "").code == "EMPTY_FILE"
    table = read(f"{HEADER}\n")
    assert table.n_rows == table.n_patients == 0 and len(table.columns["age"]) == 0


def test_a_column_that_is_absent(read):
    error = refused(read, "age,chol,smoker,seen\n63,200,now,2020-01-01\n")
    assert error.code == "NO_COLUMN" and error.what == "a has no column sex"
    assert "age, chol, smoker, seen" in error.rule and "[site.a.map]" in error.next


def test_a_first_row_read_as_a_header_is_not_shown(read):
    error = refused(
        read, "64,217,1,now,2020-01-01,Mueller\n63,200,0,now,2020-01-01,y\n", secret="Mueller"
    )
    assert error.code == "NO_COLUMN" and "217" not in str(error) and "header" in error.rule


def test_not_recorded_is_missing_even_without_the_column(read, small):
    codebook = with_site(small, not_recorded=["sex", "chol"])
    table = read("age,chol,smoker,seen\n63,200,now,2020-01-01\n", codebook)
    assert np.isnan(table.columns["sex"]).all() and np.isnan(table.columns["chol"]).all()


def test_the_map_of_column_unit_and_levels(read, small):
    codebook = with_site(
        small,
        map={
            "chol": {"column": "chol_mmol", "unit": "mmol/L"},
            "sex": {"column": "gender", "levels": {"F": 0, "M": 1, "U": "missing"}},
            "age": {"column": "age_months", "unit": "mo"},
            "smoker": {"levels": {"0": "never", "1": "former", "9": "missing"}},
        },
    )
    table = read(
        "age_months,chol_mmol,gender,smoker,seen\n"
        "757,5.2,F,0,2020-01-01\n756,0,M,1.0,2020-01-01\n755,?,U,9,2020-01-01\n",
        codebook,
    )
    assert table.columns["age"].tolist() == [63, 63, 62]  # completed years
    np.testing.assert_allclose(table.columns["chol"], [5.2 * 38.665, NAN, NAN])
    np.testing.assert_array_equal(table.columns["sex"], [0, 1, NAN])
    np.testing.assert_array_equal(table.columns["smoker"], [0, 1, NAN])


def test_an_unmapped_code_and_a_range_after_conversion(read, small):
    codebook = with_site(small, map={"sex": {"levels": {"F": 0, "M": 1}}})
    assert refused(read, f"{HEADER}\n{ROW}\n", codebook).code == "UNKNOWN_LEVEL"
    codebook = with_site(small, map={"chol": {"unit": "mmol/L"}})
    assert refused(read, f"{HEADER}\n{ROW}\n", codebook).code == "OUT_OF_RANGE"  # 200 mmol/L


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffage,chol,sex,smoker,seen,note\n63,200,1,now,2020-01-31,x\n",
        "age,chol,sex,smoker,seen,note\r\n63,200,1,now,2020-01-31,x\r\n",
        '"age","chol","sex","smoker","seen","note"\n"63","200","1","now","2020-01-31","x, ""y"""\n',
        ' age ,chol , sex,smoker,seen,note\n63,200,1,now,2020-01-31,"two\nlines"\n',
        "note,seen,smoker,sex,chol,age\nx,2020-01-31,now,1,200,63\n",
        "extra,age,chol,sex,smoker,seen,note,\n1,63,200,1,now,2020-01-31,x,9\n",
        ",age,chol,sex,smoker,seen,note\n0,63,200,1,now,2020-01-31,x\n",
        "age,chol,sex,smoker,seen,note\n63,200,1,now,2020-01-31,x",
    ],
)
def test_ways_of_writing_a_csv(read, text):
    values = {k: v.tolist() for k, v in read(text).columns.items()}
    assert values == {"age": [63], "chol": [200], "sex": [1], "smoker": [2], "seen": [18292]}


def test_no_header_delimiter_and_decimal_comma(read, small):
    codebook = with_site(small, file={"header": False, "delimiter": ";", "decimal": ","})
    table = read("63,0;200,5;1,0;now;2020-01-31;x\n", codebook)
    assert table.columns["chol"].tolist() == [200.5] and table.columns["age"].tolist() == [63]
    assert table.columns["sex"].tolist() == [1]
    # with a decimal comma a point would be a thousands sign: never read as a fraction
    error = refused(read, "63;100.500;1;now;2020-01-31;x\n", codebook, secret="100.500")
    assert error.code == "NOT_A_NUMBER"


def test_no_header_and_a_byte_order_mark(read, small):
    codebook = changed(small, file={"header": False, "missing": ["?"]})
    assert read(f"\ufeff{ROW}\n64{ROW[2:]}\n", codebook).columns["age"].tolist() == [63, 64]


def test_no_header_and_another_number_of_columns(read, small):
    codebook = changed(small, file={"header": False})
    error = refused(read, "63,200\n", codebook)
    assert error.code == "NO_COLUMN" and "2 columns" in error.what and "6" in error.what


@pytest.mark.parametrize(
    "text",
    [
        f"{HEADER}\n{ROW}\n4711,zz\n",
        f"{HEADER}\n{ROW}\n{ROW},4711,zz\n",
        f'{HEADER}\n{ROW}\n63,200,1,"now,2020-01-31,zz\n',
        f"{HEADER}\n{ROW}\n".encode() + b"63,200,1,now,2020-01-31,\xff\xfe4711\n",
    ],
)
def test_ragged_lines_and_broken_text(read, text):
    error = refused(read, text, secret="zz")
    assert error.code == "BAD_FILE" and "a.csv" in error.what and "4711" not in str(error)


def test_the_line_of_a_ragged_row_is_named(read):
    assert "line 3" in refused(read, f"{HEADER}\n{ROW}\n4711,zz\n").next


@pytest.mark.parametrize("header", ["age,age,sex,smoker,seen,note", "age,AGE,sex,smoker,seen,note"])
def test_a_column_named_twice(read, header):
    assert refused(read, f"{header}\n{ROW}\n").code == "BAD_FILE"


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


def test_a_path_with_a_quote(tmp_path, small):
    path = tmp_path / "it's; DROP TABLE source.csv"
    path.write_text(f"{HEADER}\n{ROW}\n")
    assert read_table(path, small, "a").n_rows == 1


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


@pytest.fixture
def visits(small) -> Codebook:
    columns = {"pid": {"type": "text", "missing": [-1]}, "age": {"type": "integer"}}
    return changed(small, columns=columns, patient={"id": "pid"})


def test_patients_are_numbered_in_order_of_appearance(read, visits):
    table = read("pid,age\nb,1\na,2\n b,3\nc,4\na,5\n", visits)
    assert table.patient.tolist() == [0, 1, 0, 2, 1] and table.n_patients == 3
    assert set(table.columns) == {"age"}


@pytest.mark.parametrize("gap", ["", " ", "NA", "?", "-1"])
def test_a_row_without_a_patient(read, visits, gap):
    error = refused(read, f"pid,age\nb,1\n{gap},2\n{gap},2\n", visits)
    assert error.code == "MISSING_VALUES" and "2 rows" in error.what and "pid" in error.what


def test_the_id_may_be_mapped_and_must_be_there(read, visits):
    mapped = changed(visits, site={"a": {"map": {"pid": {"column": "mrn"}}}})
    assert read("mrn,age\nb,1\nb,2\n", mapped).n_patients == 1
    assert refused(read, "pid,age\nb,1\n", mapped).code == "NO_COLUMN"


TWICE = f"{HEADER}\n{ROW}\n{ROW}\n64{ROW[2:]}\n"


def test_duplicate_rows(read, small):
    assert read(TWICE).n_rows == 3
    first = read(TWICE, changed(small, patient={"duplicates": "first"}))
    assert first.columns["age"].tolist() == [63, 64] and first.patient.tolist() == [0, 1]
    error = refused(read, TWICE, changed(small, patient={"duplicates": "error"}))
    assert error.code == "DUPLICATE_ROWS" and error.what == "a: 1 row is an exact copy of another"
    assert read(f"{HEADER}\n{ROW}\n", changed(small, patient={"duplicates": "error"})).n_rows == 1


def test_duplicate_ids(read, visits):
    text = "pid,age\nb,1\nb,3\na,2\n"
    assert read(text, visits).patient.tolist() == [0, 0, 1]
    first = read(text, changed(visits, patient={"id": "pid", "duplicates": "first"}))
    assert first.columns["age"].tolist() == [1, 2] and first.patient.tolist() == [0, 1]
    error = refused(read, text, changed(visits, patient={"id": "pid", "duplicates": "error"}))
    assert error.code == "DUPLICATE_ROWS" and "1 row" in error.what


def test_derived_columns(read, small):
    codebook = changed(
        small,
        derived={
            "old": {"from": "age >= 64", "levels": {"0": "no", "1": "yes"}},
            "ratio": {"type": "number", "from": "chol / age"},
            "smokes": {"from": "smoker == 'now'"},
            "grade": {"type": "category", "from": "sex + 1", "levels": {"1": "f", "2": "m"}},
        },
    )
    table = read(f"{HEADER}\n{ROW}\n64,?,0,,2020-01-01,\n?,100,1,never,2020-01-01,\n", codebook)
    np.testing.assert_array_equal(table.columns["old"], [0, 1, NAN])
    np.testing.assert_allclose(table.columns["ratio"], [200 / 63, NAN, NAN])
    np.testing.assert_array_equal(table.columns["smokes"], [1, NAN, 0])
    np.testing.assert_array_equal(table.columns["grade"], [1, 0, 1])


def test_a_derived_value_that_is_no_level(read, small):
    codebook = changed(
        small, derived={"d": {"type": "category", "from": "sex + 5", "levels": {"5": "x"}}}
    )
    error = refused(read, f"{HEADER}\n{ROW}\n", codebook)
    assert error.code == "UNKNOWN_LEVEL" and error.site == "a" and "column d" in error.what


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
