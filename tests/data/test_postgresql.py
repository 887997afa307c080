"""Queries to a PostgreSQL server that is started for them, on a socket in a folder of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import polyclinic as pc
from polyclinic.data.codebook import Codebook
from tests.engines.near import BOOK, FORMULA, near, visits

dbapi = pytest.importorskip("adbc_driver_postgresql.dbapi")
PASSWORD = "geheim"


def _programs():
    """Where initdb and pg_ctl are; Debian keeps them out of the path."""
    found = shutil.which("initdb")
    places = [Path(found).resolve().parent] if found else []
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((one for one in places if (one / "pg_ctl").exists()), None)


@pytest.fixture(scope="module")
def server():
    """Address of a server that asks for a password, and listens to no network."""
    programs, as_user = _programs(), []
    if programs is None:
        pytest.skip("PostgreSQL's server is not installed")
    folder = Path(tempfile.mkdtemp(prefix="pc-postgres-", dir="/tmp"))
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        if not shutil.which("runuser"):
            pytest.skip("PostgreSQL does not run as root, and there is no runuser")
        as_user = ["runuser", "-u", "postgres", "--"]
        shutil.chown(folder, "postgres", "postgres")
    (folder / "password").write_text(PASSWORD)
    (folder / "password").chmod(0o644)

    def run(program, *words):
        done = subprocess.run(
            [*as_user, str(programs / program), "-D", str(folder / "data"), *words],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            cwd=folder,
        )
        assert done.returncode == 0, done.stderr

    run("initdb", "-A", "scram-sha-256", "-U", "clinic", f"--pwfile={folder}/password", "-N")
    options = f"-c listen_addresses= -c unix_socket_directories={folder} -c fsync=off"
    run("pg_ctl", "-w", "-l", str(folder / "log"), "-o", options, "start")
    try:
        yield f"postgresql://clinic@/postgres?host={folder}"
    finally:
        run("pg_ctl", "-w", "-m", "immediate", "stop")
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def address(server, monkeypatch):
    """The same, its password where libpq looks for it."""
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    return server


def execute(address, *statements, frame=None):
    import pyarrow as pa

    with dbapi.connect(address) as connection, connection.cursor() as cursor:
        if frame is not None:
            cursor.adbc_ingest(
                "visits", pa.Table.from_pandas(frame, preserve_index=False), "replace"
            )
        for one in statements:
            cursor.execute(one)
        connection.commit()


def fitted(data, engine=None):
    model = pc.LogisticRegression().fit(data, FORMULA, engine=engine)
    return model.summary().to_numpy().tobytes()


def test_a_query_gives_the_bytes_of_its_rows_and_the_next_round_the_same(address, tmp_path):
    frame = visits()
    execute(address, frame=frame.sample(frac=1, random_state=0))
    asked = pc.query(address, "SELECT * FROM visits -- all\n;")
    data = pc.scan(asked, BOOK)
    execute(address, "UPDATE visits SET age = 50")
    frame = frame.sort_values(["patient", "age", "sex", "hba1c", "readmitted"])
    expected = fitted(pc.read({"hospital": frame}, BOOK), pc.Embedded(3))
    assert fitted(data, pc.Embedded(3)) == expected
    assert fitted(data, near(tmp_path, 3)) == expected
    execute(address, frame=frame)
    assert pc.scan(asked, BOOK).scan.fingerprint == data.scan.fingerprint
    assert PASSWORD not in repr(asked) + repr(data) + str(data.scan.to_data())


ODD = Codebook.from_dict(
    {
        "format": 1,
        "name": "odd",
        "patient": {"id": "patient"},
        "columns": {
            "patient": {"type": "text"},
            "exact": {"type": "number"},
            "short": {"type": "number"},
            "sex": {"type": "category", "levels": {"f": "female", "m": "male"}},
            "born": {"type": "date"},
            "seen": {"type": "date"},
            "dead": {"type": "binary", "levels": {"0": "no", "1": "yes"}},
            "code": {"type": "category", "levels": {"a": "a", "b": "b"}},
        },
    }
)
TABLE = """
CREATE TABLE odd AS SELECT ('00000000-0000-0000-0000-00000000000' || i / 3)::uuid AS patient,
  (i * 0.1)::numeric(12, 3) AS exact, (i * 0.1)::float4 AS short,
  (CASE WHEN i % 2 = 0 THEN 'f' ELSE 'm' END)::sex AS sex,
  date '1969-12-30' + i AS born, timestamptz '2020-01-31 23:30:00+00' AS seen,
  CASE WHEN i <> 4 THEN i > 5 END AS dead, 'a'::char(4) AS code FROM generate_series(0, 8) AS i
"""


def test_types_of_postgresql_are_read_as_what_they_say(address, monkeypatch):
    monkeypatch.setenv("PGTZ", "Asia/Tokyo")
    execute(address, "DROP TYPE IF EXISTS sex CASCADE", "CREATE TYPE sex AS ENUM ('f', 'm')", TABLE)
    rows = pc.scan(pc.query(address, "SELECT * FROM odd"), ODD)
    found = rows._selected("hospital", None).gather()
    order = np.argsort(found.columns["exact"])
    columns = {name: values[order] for name, values in found.columns.items()}
    np.testing.assert_array_equal(columns["exact"], [float(f"0.{i}") for i in range(9)])
    np.testing.assert_array_equal(columns["short"], [float(f"0.{i}") for i in range(9)])
    np.testing.assert_array_equal(columns["sex"], [0, 1] * 4 + [0])
    np.testing.assert_array_equal(columns["born"], np.arange(-2, 7))
    np.testing.assert_array_equal(
        columns["seen"], (pd.Timestamp("2020-01-31") - pd.Timestamp(0)).days
    )
    np.testing.assert_array_equal(columns["dead"], [0, 0, 0, 0, np.nan, 0, 1, 1, 1])
    np.testing.assert_array_equal(columns["code"], 0)
    assert found.patients() == 3
    for wrong, column in (
        ("'infinity'::date", "born"),
        ("'abc'", "exact"),
        ("'{1}'::int[]", "short"),
    ):
        sql = "SELECT patient, exact, short, sex, born, seen, dead, code FROM odd"
        asked = pc.query(address, sql.replace(f" {column}", f" {wrong} AS {column}"))
        with pytest.raises(pc.PolyclinicError) as caught:
            pc.scan(asked, ODD)._selected("hospital", None).gather()
        assert column in caught.value.what and "abc" not in str(caught.value)


OTHERS = "patient, sex, hba1c, readmitted FROM visits"


@pytest.mark.parametrize(
    ("change", "sql", "code", "said"),
    [
        ("", "SELECT * FROM nothing", "NO_TABLE", "nothing"),
        ("", "SELECT weight FROM visits", "BAD_QUERY", "weight"),
        ("", "SELECTED", "BAD_QUERY", "syntax"),
        ("", "SELECT 1; SELECT 2", "BAD_QUERY", "syntax"),
        ("", "SELECT 1) AS a; DROP TABLE visits; --", "BAD_QUERY", "syntax"),
        ("", "DELETE FROM visits RETURNING *", "BAD_QUERY", "syntax"),
        ("", "SELECT *, setval('once', 3) FROM visits", "BAD_QUERY", "rows"),
        ("", "SELECT patient, age FROM visits", "NO_COLUMN", "sex"),
        ("", "SELECT * FROM visits WHERE age > 200", "NO_ROWS", "no row"),
        ("", f"SELECT patient::int AS age, {OTHERS}", "BAD_QUERY", "rows"),
        ("", f"SELECT 1 / (age - age) AS age, {OTHERS}", "BAD_QUERY", "rows"),
        ("&port=1", "SELECT 1", "NO_DATABASE", "No such file"),
        ("&dbname=none", "SELECT 1", "NO_DATABASE", '"none"'),
        ("&user=nobody", "SELECT 1", "NO_DATABASE", '"nobody"'),
    ],
)
def test_what_cannot_be_asked_is_said(address, tmp_path, monkeypatch, change, sql, code, said):
    execute(address, "CREATE SEQUENCE IF NOT EXISTS once", frame=visits(60))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(pc.InputError) as caught:
        pc.scan(pc.query(address + change, sql), BOOK)
    assert (caught.value.code, said in caught.value.what) == (code, True), caught.value
    assert '"p1"' not in str(caught.value) and PASSWORD not in str(caught.value)
    assert not list(tmp_path.iterdir())
    execute(address, "SELECT * FROM visits")


def test_a_wrong_password_and_a_refused_connection_are_said(server, monkeypatch):
    monkeypatch.setenv("PGPASSWORD", "falsch")
    refused = "postgresql://clinic@127.0.0.1:1/ehr"
    for address, said in ((server, "password authentication failed"), (refused, "refused")):
        with pytest.raises(pc.InputError) as caught:
            pc.scan(pc.query(address, "SELECT 1"), BOOK)
        assert caught.value.code == "NO_DATABASE" and said in caught.value.what
        assert "falsch" not in str(caught.value)
