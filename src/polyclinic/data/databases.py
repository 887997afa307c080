"""Databases that answer a query in batches of rows: DuckDB, and PostgreSQL through ADBC.

A database's own words about a row may hold a patient's value. They are shown only where they are
about the query's text, which the database has read before it looks at a row.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import duckdb

from polyclinic.core.errors import InputError, PolyclinicError
from polyclinic.data.query import Query
from polyclinic.data.source import INTEGERS, NUMBERS, quoted, quoted_name

_DUCKDB_PLAIN = {*NUMBERS, *INTEGERS, "FLOAT", "BOOLEAN", "VARCHAR"}
_POSTGRESQL_PLAIN = {"int2", "int4", "int8", "float4", "float8", "bool", "text", "varchar"}
BATCH = 10_000  # rows
MEMORY = "1GB"  # to sort in; the rest is on disk
_EXACT = 15  # digits of a decimal number up to which its double is that of its text
_NOT_THERE = "42P01"  # PostgreSQL's code for a table


class Database(Protocol):
    """An open database. `kinds`: the type of each column of the answer, as the database names it.

    Numbers, texts and truth values are taken as they are; what else a cell may be is written as the
    text that the database makes of it.
    """

    @property
    def kinds(self) -> Mapping[str, str]: ...

    def cell(self, name: str, patient: str | None) -> str:
        """SQL for a column as it is written."""
        ...

    def sorted_by(self, name: str) -> str:
        """SQL for a written column's place in an order that puts equal values side by side."""
        ...

    def rows(self, sql: str) -> Any:
        """A reader of arrow batches. Raises PolyclinicError BAD_QUERY."""
        ...


@contextmanager
def opened(query: Query, site: str, spill: str) -> Iterator[Database]:
    """The database of a query, with the query's answer as what `select` names.

    spill  folder for what does not fit into memory

    Raises
    ------
    InputError : NO_FILE, NO_DATABASE, NO_TABLE, BAD_QUERY, MISSING_EXTRA.
    """
    with _postgresql(query, site) if query.of_postgresql else _duckdb(query, site, spill) as one:
        yield one


class _Batches:
    """A reader whose errors tell no value."""

    def __init__(self, reader: Any, site: str) -> None:
        self.reader, self.schema, self.site = reader, reader.schema, site

    def __iter__(self) -> Iterator[Any]:
        import pyarrow as pa

        try:
            yield from self.reader
        except (duckdb.Error, OSError, pa.ArrowException) as error:
            raise failed(self.site, _state(error)) from None


@dataclass(frozen=True)
class DuckDB:
    """A connection, and the table in it."""

    connection: duckdb.DuckDBPyConnection
    kinds: Mapping[str, str]
    site: str

    def cell(self, name: str, patient: str | None) -> str:
        kind, column = self.kinds[name], quoted_name(name)
        digits = re.match(r"DECIMAL\((\d+)", kind)
        if digits and int(digits[1]) <= _EXACT and name != patient:
            return f"CAST({column} AS DOUBLE)"
        return column if kind in _DUCKDB_PLAIN else f"CAST({column} AS VARCHAR)"

    def sorted_by(self, name: str) -> str:
        return quoted_name(name)

    def rows(self, sql: str) -> Any:
        try:
            return _Batches(self.connection.sql(sql).to_arrow_reader(BATCH), self.site)
        except duckdb.Error as error:
            raise failed(self.site, type(error).__name__) from None


def described(connection: duckdb.DuckDBPyConnection, table: str) -> dict[str, str]:
    """The columns of a table, or of a query in its place, and their types."""
    found = connection.execute(f"DESCRIBE SELECT * FROM {table}").fetchall()
    return {name: kind for name, kind, *_ in found}


def memory(spill: str) -> duckdb.DuckDBPyConnection:
    """A database of this process, which loads no code from elsewhere."""
    return duckdb.connect(config=_config(spill))


def _config(spill: str) -> dict[str, Any]:
    return {
        "temp_directory": spill,
        "memory_limit": MEMORY,
        "autoinstall_known_extensions": "false",
    }


@contextmanager
def _duckdb(query: Query, site: str, spill: str) -> Iterator[Database]:
    file = query.file
    if file is not None and not file.is_file():
        raise InputError(
            f"{site}: there is no database {file}",
            code="NO_FILE",
            site=site,
            rule="a DuckDB database is one file, which is only read",
            next="check the path",
        )
    try:
        connection = (
            memory(spill)
            if file is None
            else duckdb.connect(file, read_only=True, config=_config(spill))
        )
    except duckdb.Error as error:
        raise InputError(
            f"{site}: {file} cannot be opened ({type(error).__name__})",
            code="NO_DATABASE",
            site=site,
            rule="it is a DuckDB file that this account may read, and no other process writes to",
            next="close what has it open, or scan a copy of it",
        ) from None
    with closing(connection):
        connection.execute(f"SET file_search_path = {quoted(str(query.base or Path().absolute()))}")
        try:
            kinds = [one.type.name for one in duckdb.extract_statements(query.sql)]
            if kinds != ["SELECT"]:
                raise _bad_query(site, "it is not one SELECT")
            found = described(connection, query.select)
        except (duckdb.CatalogException, duckdb.BinderException, duckdb.ParserException) as error:
            said = str(error).partition("\n")[0]
            absent = isinstance(error, duckdb.CatalogException) and "Table with name" in said
            raise _bad_query(site, said, absent) from None
        except duckdb.Error as error:
            raise failed(site, type(error).__name__) from None
        yield DuckDB(connection, found, site)


@dataclass(frozen=True)
class PostgreSQL:
    """A cursor in a transaction that may only read."""

    cursor: Any
    kinds: Mapping[str, str]
    site: str

    def cell(self, name: str, patient: str | None) -> str:
        kind, column = self.kinds[name], quoted_name(name)
        if kind == "numeric" and name != patient:
            return f"CAST({column} AS float8)"
        return column if kind in _POSTGRESQL_PLAIN else f"CAST({column} AS text)"

    def sorted_by(self, name: str) -> str:
        numbers = {*_POSTGRESQL_PLAIN, "numeric"} - {"text", "varchar"}
        return quoted_name(name) + ("" if self.kinds[name] in numbers else ' COLLATE "C"')

    def rows(self, sql: str) -> Any:
        import adbc_driver_manager as adbc
        import pyarrow as pa

        try:
            self.cursor.execute(sql)
            return _Batches(self.cursor.fetch_record_batch(), self.site)
        except (adbc.Error, OSError, pa.ArrowException) as error:
            raise failed(self.site, _state(error)) from None


@contextmanager
def _postgresql(query: Query, site: str) -> Iterator[Database]:
    try:
        import adbc_driver_manager as adbc
        from adbc_driver_postgresql import dbapi
    except ImportError:
        raise InputError(
            "the driver of PostgreSQL is not installed",
            code="MISSING_EXTRA",
            rule="rows come from PostgreSQL through ADBC, in batches",
            next='pip install "polyclinic[postgresql]"',
        ) from None
    try:
        connection = dbapi.connect(query.at)
    except adbc.Error as error:
        said = str(error).partition("Failed to connect: ")[2].partition("\n")[0]
        raise InputError(
            f"{site}: PostgreSQL cannot be asked: {said or type(error).__name__}",
            code="NO_DATABASE",
            site=site,
            rule="the server answers this account; its password is in PGPASSWORD, ~/.pgpass or a "
            "service file",
            next="try the same address with psql",
        ) from None
    with connection, connection.cursor() as cursor:
        try:
            cursor.execute("SET TRANSACTION READ ONLY")
            cursor.execute("SET LOCAL DateStyle = 'ISO'")
            cursor.execute("SET LOCAL TimeZone = 'UTC'")
            schema = cursor.adbc_execute_schema(f"SELECT * FROM {query.select}")
        except adbc.Error as error:
            state = _state(error)
            if not state.startswith("SQLSTATE 42"):
                raise failed(site, state) from None
            words = re.search(r"ERROR:\s+(.*)", str(error))
            absent = state.endswith(_NOT_THERE)
            raise _bad_query(site, words[1] if words else state, absent) from None
        kinds = {one.name: one.metadata[b"POSTGRESQL:type"].decode() for one in schema}
        yield PostgreSQL(cursor, kinds, site)


def _state(error: Exception) -> str:
    state = getattr(error, "sqlstate", None)
    return f"SQLSTATE {state}" if state else type(error).__name__


def _bad_query(site: str, said: str, absent: bool = False) -> InputError:
    return InputError(
        f"{site}: the query is refused: {said}",
        code="NO_TABLE" if absent else "BAD_QUERY",
        site=site,
        rule="the rows are what one SELECT gives, which the database understands",
        next="try the query in the database's own client",
    )


def failed(site: str, name: str) -> PolyclinicError:
    """BAD_QUERY for what went wrong over rows: its words may be theirs."""
    return InputError(
        f"{site}: the query stopped over the rows ({name})",
        code="BAD_QUERY",
        site=site,
        rule="the database's own words about rows may hold a patient's value, and are not shown",
        next="run the query in the database's own client, where they are",
    )
