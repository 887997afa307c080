"""A query to DuckDB as a source of rows: the same numbers as from the table itself."""

from __future__ import annotations

import gc
from pathlib import Path
from urllib.parse import unquote, urlparse

import duckdb
import pyarrow as pa
import pytest
from pyarrow import parquet

import polyclinic as pc
from polyclinic.data.kept import ROWS, write
from polyclinic.governance.study_file import load_study
from tests.engines.near import BOOK, FORMULA, SCHEMA, near, visits
from tests.engines.near import write as write_files


@pytest.fixture
def database(tmp_path):
    """Visits in no order, in a DuckDB file."""
    frame = visits().sample(frac=1, random_state=0)  # noqa: F841 (DuckDB finds it by name)
    with duckdb.connect(str(tmp_path / "ehr.duckdb")) as connection:
        connection.execute("CREATE TABLE visits AS SELECT * FROM frame")
    return tmp_path / "ehr.duckdb"


def in_order():
    """The rows as a query's answer is kept."""
    frame = visits()
    return frame.sort_values(["patient", "age", "sex", "hba1c", "readmitted"])


def fitted(data, engine=None):
    model = pc.LogisticRegression().fit(data, FORMULA, engine=engine)
    return model.summary().to_numpy().tobytes()


def folder_of(data):
    return Path(unquote(urlparse(data.scan.lake.base).path)).parent


@pytest.mark.parametrize("address", ["{}", "duckdb://{}"])
def test_a_query_gives_the_bytes_of_its_rows(database, tmp_path, address):
    asked = pc.query(address.format(database), "SELECT *, 1 AS more FROM visits; ")
    data = pc.scan(asked, BOOK)
    expected = fitted(pc.read({"hospital": in_order()}, BOOK), pc.Embedded(3))
    assert fitted(data, pc.Embedded(3)) == expected
    assert fitted(data, near(tmp_path, 3)) == expected
    assert fitted(pc.read({"hospital": asked}, BOOK), pc.Embedded(3)) == expected
    assert "more" not in data.scan.lake.names


def test_a_query_reads_files_where_it_names_them(tmp_path):
    write_files(visits(), tmp_path / "visits")
    visits().to_csv(tmp_path / "visits.csv", index=False)
    expected = fitted(pc.read({"hospital": in_order()}, BOOK))
    for files in ("visits/*.parquet", "visits.csv"):
        asked = pc.query("duckdb://", f"SELECT * FROM '{tmp_path / files}'")
        assert fitted(pc.scan(asked, BOOK)) == expected


def test_the_answer_is_kept_in_row_groups_and_goes_with_the_data(database):
    cross = "SELECT v.* FROM visits AS v, range(300)"
    data = pc.scan(pc.query(str(database), cross), BOOK)
    assert [one.rows for one in data.scan.groups] == [ROWS, ROWS, 10_000]
    folder = folder_of(data)
    assert folder.stat().st_mode & 0o777 == 0o700
    (file,) = folder.rglob("*.parquet")
    ids = parquet.read_table(file, columns=["patient"])["patient"].to_pylist()
    assert ids == sorted(ids)
    del data
    gc.collect()
    assert not folder.exists()


def test_rounds_see_the_same_rows_whatever_happens_to_the_table(database):
    asked = pc.query(str(database), "SELECT * FROM visits")
    data = pc.scan(asked, BOOK)
    with duckdb.connect(str(database)) as connection:
        connection.execute("CREATE TABLE other AS SELECT * FROM visits ORDER BY hba1c, age")
        connection.execute("DROP TABLE visits; ALTER TABLE other RENAME TO visits")
    again = pc.scan(asked, BOOK)
    assert again.scan.fingerprint == data.scan.fingerprint  # the same rows: a run may go on
    with duckdb.connect(str(database)) as connection:
        connection.execute("UPDATE visits SET age = age + 1 WHERE age = 50")
    assert pc.scan(asked, BOOK).scan.fingerprint != data.scan.fingerprint
    assert fitted(data) == fitted(pc.read({"hospital": in_order()}, BOOK))


def test_groups_are_cut_by_their_rows_and_not_by_batches(tmp_path):
    def reader(sizes):
        schema, first = pa.schema({"a": pa.int64()}), 0
        batches = []
        for size in sizes:
            batches.append(pa.record_batch({"a": pa.array(range(first, first + size))}))
            first += size
        return pa.RecordBatchReader.from_batches(schema, batches)

    sizes = ([250_000], [30_000] * 8 + [10_000], [99_999, 1, 1, 149_999])
    kept = [write(reader(one), (tmp_path / str(i)).as_uri()) for i, one in enumerate(sizes)]
    assert len(set(kept)) == 1 and kept[0][1] == 250_000
    about = parquet.read_metadata(tmp_path / "1" / "rows.parquet")
    assert [about.row_group(i).num_rows for i in range(3)] == [ROWS, ROWS, 50_000]


@pytest.mark.parametrize(
    ("at", "sql", "code", "said"),
    [
        ("{}", "SELECT * FROM nothing", "NO_TABLE", "nothing"),
        ("{}", "SELECT patient, weight FROM visits", "BAD_QUERY", "weight"),
        ("{}", "SELECTED", "BAD_QUERY", "SELECTED"),
        ("{}", "SELECT 1; SELECT 2", "BAD_QUERY", "one SELECT"),
        ("{}", "DROP TABLE visits", "BAD_QUERY", "one SELECT"),
        ("{}", "SELECT patient, age FROM visits", "NO_COLUMN", "sex"),
        ("{}", "SELECT * FROM visits WHERE age > 200", "NO_ROWS", "no row"),
        ("{}", "SELECT * REPLACE (sex::INTEGER AS age) FROM visits", "BAD_QUERY", "Conversion"),
        ("{}", " ", "WRONG_VALUE", "empty"),
        ("{}.none", "SELECT 1", "NO_FILE", "none"),
        (__file__, "SELECT 1", "NO_DATABASE", "test_query.py"),
        ("mysql://host/ehr", "SELECT 1", "WRONG_VALUE", "address"),
        ("duckdb://", "SELECT * FROM 'nothing.csv'", "BAD_QUERY", "IOException"),
    ],
)
def test_what_cannot_be_asked_is_said(database, tmp_path, monkeypatch, at, sql, code, said):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    with pytest.raises(pc.InputError) as caught:
        pc.scan(pc.query(at.format(database), sql), BOOK)
    assert (caught.value.code, said in caught.value.what) == (code, True), caught.value
    assert "'f'" not in str(caught.value) and "'m'" not in str(caught.value)
    del caught
    assert not list((tmp_path / "temporary").iterdir())


def test_a_column_of_another_type_is_named(database):
    asked = pc.query(str(database), "SELECT * REPLACE ([age] AS age) FROM visits")
    with pytest.raises(pc.PolyclinicError) as caught:
        fitted(pc.scan(asked, BOOK))
    assert caught.value.code == "NOT_A_NUMBER" and "age" in caught.value.what


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://me:geheim@db/ehr",
        "postgresql://me:gehe/im@db:5432/ehr",
        "postgresql://me@db/ehr?password=geheim",
        "s3://KEY:geheim@bucket/visits",
        "s3://bucket/visits?secret_key=geheim",
    ],
)
def test_a_password_stands_in_no_address_and_no_error(address):
    with pytest.raises(pc.InputError) as caught:
        pc.scan(pc.query(address, "SELECT 1") if "postgres" in address else address, BOOK)
    assert caught.value.code == "PASSWORD_SHOWN"
    assert "gehe" not in str(caught.value)


STUDY = """
format = 1
[study]
name = "visits"
[data]
schema = "visits.toml"
[data.sites.north]
at = "ehr.duckdb"
query = "SELECT * FROM visits"
[model]
kind = "logistic"
formula = "readmitted ~ age + C(sex)"
[evaluation]
validate = "none"
alone = false
[output]
report = []
"""


def study_in(folder, text=STUDY):
    (folder / "study.toml").write_text(text)
    (folder / "visits.toml").write_text(SCHEMA)
    return folder / "study.toml"


def test_a_study_that_was_stopped_goes_on_with_the_same_answer(database, tmp_path):
    study = study_in(tmp_path)

    def stop(done):
        if done.number == 2:
            raise KeyboardInterrupt

    whole = pc.run(study, tmp_path / "whole").folder
    with pytest.raises(BaseException) as caught:
        pc.run(study, tmp_path / "stopped", callbacks=[stop])
    assert isinstance(caught.value, KeyboardInterrupt | pc.Stopped)
    with duckdb.connect(str(database)) as connection:
        connection.execute("CREATE TABLE before AS FROM visits")
        connection.execute("UPDATE visits SET age = age + 1 WHERE age = 50")
    with pytest.raises(pc.InputError) as caught:
        pc.run(study, tmp_path / "stopped", resume=True)
    assert caught.value.code == "SOURCE_CHANGED" and caught.value.site == "north"
    with duckdb.connect(str(database)) as connection:
        connection.execute("DROP TABLE visits; ALTER TABLE before RENAME TO visits")
    resumed = pc.run(study, tmp_path / "stopped", resume=True)
    numbers = [(one / "coefficients.csv").read_bytes() for one in (whole, resumed.folder)]
    assert numbers[0] == numbers[1]
    assert len({one.plan for one in resumed.model.rounds_}) == len(resumed.model.rounds_)


def test_a_study_file_holds_no_password_and_no_other_key(tmp_path):
    for old, new, said in (
        ('at = "ehr.duckdb"', 'at = "postgresql://me:geheim@db/ehr"', "password"),
        ('query = "SELECT', 'sql = "SELECT', "sql"),
    ):
        with pytest.raises(pc.InputError) as caught:
            load_study(study_in(tmp_path, STUDY.replace(old, new)))
        assert said in str(caught.value) and "geheim" not in str(caught.value)
