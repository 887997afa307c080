from __future__ import annotations

import datetime

import numpy as np
import pytest

from polyclinic.data.codebook import Codebook
from polyclinic.data.read import read_table
from tests.data.reading import changed, plain, refused, with_site

NAN = np.nan
HEADER = "age,chol,sex,smoker,seen,note"
ROW = "63,200,1,now,2020-01-31,x"


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
        ("seen", ["31.01.2020", "2020-13-01", "infinity"], "NOT_A_DATE", 3),
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


def test_a_path_with_a_quote(tmp_path, small):
    path = tmp_path / "it's; DROP TABLE source.csv"
    path.write_text(f"{HEADER}\n{ROW}\n")
    assert read_table(path, small, "a").n_rows == 1


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
