"""A hospital's file or frame as rows of texts, and what a text means, as SQL inside duckdb."""

from __future__ import annotations

import csv
import gzip
import os
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from polyclinic.core.errors import InputError
from polyclinic.data.codebook import Codebook, Column, FileFormat, Mapped

PARQUET = (".parquet", ".pq")
INTEGERS = {"TINYINT", "SMALLINT", "INTEGER", "BIGINT"}
NUMBERS = {"DOUBLE", *INTEGERS, *(f"U{kind}" for kind in INTEGERS)}
INFINITE = ("inf", "-inf")  # as duckdb writes them
TEXT = (".csv", ".data", ".tsv", ".txt")
DATABASE = (".duckdb",)
ONE_THREAD = 100_000  # rows of a frame up to which duckdb would use one thread anyway


@dataclass(frozen=True)
class Source:
    """Rows somewhere, as a duckdb view named "source" whose columns are all texts.

    numbers  columns that are numbers where they come from, the view "raw": as doubles they are what
             their texts would be read as
    rows     the arrow table that they are the cells of; None: they are not in memory
    """

    connection: duckdb.DuckDBPyConnection
    names: tuple[str, ...]
    format: FileFormat
    where: str
    has_header: bool = False
    is_text: bool = False
    numbers: frozenset[str] = frozenset()
    rows: Any = None


def open_file(
    path: str | Path, codebook: Codebook, site: str, table: str = "", *, streamed: bool = False
) -> Source:
    """The cells of a CSV or Parquet file, or of a folder of one kind of them, as texts.

    table     of a duckdb file, which is only read; "": its only one
    streamed  whether a CSV file is read anew by every query, and never held
    """
    path, how = Path(path), codebook.file_of(site)
    files = _files(path, site)
    connection = duckdb.connect()
    listed = f"[{', '.join(quoted(str(file)) for file in files)}]"
    try:
        if path.suffix.lower() in DATABASE:
            _attach(connection, path, table, site)
            return _as_text(connection, how, f"{site}")
        if files[0].suffix.lower() in PARQUET:
            _same_columns({file.name: _parquet_names(connection, file) for file in files}, site)
            connection.execute(f"CREATE VIEW raw AS SELECT * FROM read_parquet({listed})")
            return _as_text(connection, how, f"{site}")
        found = {file.name: _header(file, how, codebook, site) for file in files}
        names = _same_columns(found, site)
        columns = ", ".join(f"{quoted(f'c{i}')}: 'VARCHAR'" for i in range(len(names)))
        named = ", ".join(f"c{i} AS {quoted_name(name)}" for i, name in enumerate(names))
        connection.execute(
            f"CREATE {'VIEW' if streamed else 'TABLE'} source AS SELECT {named} FROM "
            f"read_csv({listed}, auto_detect=false, header={str(how.header).lower()}, "
            f"delim={quoted(how.delimiter)}, quote='\"', escape='\"', nullstr='', "
            f"columns={{{columns}}})"
        )
    except duckdb.Error as error:
        raise InputError(
            f"{site}: {path.name} cannot be read as a table",
            code="BAD_FILE",
            site=site,
            rule="every line has the same number of fields; see [file] in the codebook",
            next=_duckdb_line(error),
        ) from None
    return Source(connection, tuple(names), how, f"{site}", how.header, True)


def _files(path: Path, site: str) -> list[Path]:
    """The file, or those of a folder in the order of their names."""
    try:
        whole = path.is_file()
        found = [path] if whole else sorted(path.glob("*"))
        files = [one for one in found if whole or one.suffix.lower() in (*TEXT, *PARQUET)]
        closed = [one for one in files if not os.access(one, os.R_OK)]
    except PermissionError:
        closed = [path]
    if closed:
        raise InputError(
            f"{site}: {closed[0]} may not be read by this account",
            code="NO_FILE",
            site=site,
            rule="the account that runs this reads the hospital's file and the folders above it",
            next="let it read them; a systemd service with ProtectHome=yes sees nothing in /home",
        )
    if whole:
        return files
    if not files:
        there = "holds no CSV or Parquet file" if path.is_dir() else "is not there"
        raise InputError(
            f"{site}: {path} {there}",
            code="NO_FILE",
            site=site,
            rule="a hospital's rows are one file, or a folder of files with the same columns",
            next="check the path",
        )
    if len({one.suffix.lower() in PARQUET for one in files}) > 1:
        raise InputError(
            f"{site}: {path} holds CSV and Parquet files",
            code="BAD_FILE",
            site=site,
            rule="the files of a folder are one table, written in one way",
            next="keep one kind of them there",
        )
    return files


def _same_columns(names: dict[str, list[str]], site: str) -> list[str]:
    first, *others = names
    for other in others:
        if names[other] != names[first]:
            raise InputError(
                f"{site}: {other} has other columns than {first}",
                code="BAD_FILE",
                site=site,
                rule="the files of a folder have the same columns in the same order",
                next="take the other file out of the folder, or export it anew",
            )
    return names[first]


def _parquet_names(connection: duckdb.DuckDBPyConnection, file: Path) -> list[str]:
    described = connection.execute(f"DESCRIBE SELECT * FROM read_parquet({quoted(str(file))})")
    return [f"{name} {kind}" for name, kind, *_ in described.fetchall()]


def _attach(connection: duckdb.DuckDBPyConnection, path: Path, table: str, site: str) -> None:
    """A table of a database as the view "raw". The database is opened for reading only."""
    connection.execute(f"ATTACH {quoted(str(path))} AS site_data (READ_ONLY)")
    found = connection.execute(
        "SELECT table_schema, table_name FROM information_schema.tables "
        "WHERE table_catalog = 'site_data' ORDER BY ALL"
    ).fetchall()
    chosen = [row for row in found if table in ("", row[1], f"{row[0]}.{row[1]}")]
    if len(chosen) != 1:
        raise InputError(
            f"{site}: {path.name} has "
            + (f"no table {table}" if table and not chosen else f"{len(chosen)} tables"),
            code="NO_TABLE",
            site=site,
            rule=f"a hospital's rows are one table; here: {', '.join(row[1] for row in found)}",
            next="name it: --table NAME",
        )
    ((schema, name),) = chosen
    where = f"site_data.{quoted_name(schema)}.{quoted_name(name)}"
    connection.execute(f"CREATE VIEW raw AS SELECT * FROM {where}")


def open_frame(frame: Any, codebook: Codebook, site: str) -> Source:
    """The cells of a pandas, polars or arrow frame as texts."""
    import narwhals as nw

    native = nw.from_native(frame, eager_only=True)
    pandas = native.to_pandas() if not isinstance(frame, pd.DataFrame) else frame
    pandas = pandas.set_axis([str(name) for name in pandas.columns], axis=1)
    kinds = zip(pandas.columns, pandas.dtypes, strict=True)
    named = [name for name, kind in kinds if isinstance(kind, pd.CategoricalDtype)]
    if named:
        pandas = pandas.astype(dict.fromkeys(named, object))
    few = len(pandas) <= ONE_THREAD
    connection = _shared(os.getpid()).cursor() if few else duckdb.connect()
    connection.register("raw", pandas)
    return _as_text(connection, codebook.file_of(site), f"{site}", held=few)


@cache
def _shared(process: int) -> duckdb.DuckDBPyConnection:
    """An empty database of a process, whose cursors are opened far faster than databases."""
    return duckdb.connect(config={"threads": 1})


def open_arrow(rows: Any, codebook: Codebook, site: str) -> Source:
    """The cells of an arrow table as texts; the types of a Parquet file stay what they are."""
    connection = _shared(os.getpid()).cursor()
    connection.register("raw", rows)
    return replace(_as_text(connection, codebook.file_of(site), site), rows=rows)


def _as_text(
    connection: duckdb.DuckDBPyConnection, how: FileFormat, where: str, held: bool = False
) -> Source:
    """The cells of the view "raw" as texts; `held`: turned into texts once, not by every query."""
    described = connection.execute("DESCRIBE raw").fetchall()
    parts = []
    for name, kind, *_ in described:
        text = f"CAST({quoted_name(name)} AS VARCHAR)"
        if kind in ("DOUBLE", "FLOAT"):
            text = f"CASE WHEN isnan({quoted_name(name)}) THEN NULL ELSE {text} END"
        if kind == "BOOLEAN":
            text = f"CAST(CAST({quoted_name(name)} AS INTEGER) AS VARCHAR)"
        parts.append(f"{text} AS {quoted_name(name)}")
    listed = ", ".join(parts) or "1 AS nothing"
    kind = "TABLE" if held else "VIEW"
    connection.execute(f"CREATE TEMP {kind} source AS SELECT {listed} FROM raw")
    how = how.model_copy(update={"decimal": "."})
    numbers = frozenset(name for name, kind, *_ in described if kind in NUMBERS)
    names = tuple(row[0] for row in described)
    return Source(connection, names, how, where, numbers=numbers)


def cell_text(stored: str) -> str:
    """SQL for a trimmed cell."""
    return f"trim({quoted_name(stored)})"


def number(text: str, how: FileFormat) -> str:
    """SQL for a cell as a number. With a decimal comma a point is not read: 1.500 may be 1500."""
    if how.decimal == ",":
        text = f"CASE WHEN contains({text}, '.') THEN NULL ELSE replace({text}, ',', '.') END"
    return f"TRY_CAST({text} AS DOUBLE)"


def day_number(text: str) -> str:
    """SQL for a cell as days since 1970; databases know a date infinity, which is none."""
    day = f"TRY_CAST({text} AS DATE)"
    return f"CASE WHEN isfinite({day}) THEN CAST({day} - DATE '1970-01-01' AS DOUBLE) END"


def missing_codes(how: FileFormat, column: Column, mapped: Mapped) -> list[str]:
    """Cells that say that a value is missing."""
    codes = [*how.missing, *map(str, column.missing)]
    return codes + [code for code, ours in (mapped.levels or {}).items() if ours == "missing"]


def missing_condition(text: str, how: FileFormat, column: Column, mapped: Mapped) -> str:
    """SQL that is true where a cell is missing; codes that are numbers are compared as numbers."""
    codes = missing_codes(how, column, mapped)
    texts = ", ".join(quoted(code) for code in codes) or "''"
    numbers = [float(code) for code in codes if is_number(code)]
    condition = f"{text} IS NULL OR {text} = '' OR {text} IN ({texts})"
    if numbers:
        listed = ", ".join(repr(n) for n in numbers)
        condition += f" OR coalesce({number(text, how)} IN ({listed}), false)"
    return condition


def own_levels(column: Column, mapped: Mapped) -> dict[str, str]:
    """The codebook's level, or "missing", of each code of the hospital."""
    if mapped.levels is None:
        return {code: code for code in column.levels or ()}
    return {code: str(ours) for code, ours in mapped.levels.items()}


def number_case(
    source: Source, stored: str, column: Column, mapped: Mapped
) -> tuple[str, str] | None:
    """SQL over "raw" that is true where a number is missing, and for its value or its level's
    position: what the same cell as a text would give. None: the column is read as texts."""
    if not _by_number(source, stored, column, mapped):
        return None
    missing, levels = missing_codes(source.format, column, mapped), own_levels(column, mapped)
    cell = f"CAST({quoted_name(stored)} AS DOUBLE)"
    absent = f"{cell} IS NULL OR isnan({cell})"
    if numbers := ", ".join(repr(float(code)) for code in missing if is_number(code)):
        absent += f" OR {cell} IN ({numbers})"
    if column.levels is None:
        return absent, cell
    position = {code: i for i, code in enumerate(column.levels)}
    cases = [
        f"WHEN {cell} = {float(code)!r} THEN {position[ours]}.0"
        for code, ours in levels.items()
        if is_number(code) and ours in position
    ]
    return absent, f"CASE {' '.join(cases)} ELSE NULL END" if cases else "NULL"


def _by_number(source: Source, stored: str, column: Column, mapped: Mapped) -> bool:
    """Whether a column is read as the numbers that it is stored as."""
    codes = (*missing_codes(source.format, column, mapped), *own_levels(column, mapped))
    by_text = column.type == "date" or any(code in INFINITE for code in codes)
    return stored in source.numbers and not by_text


def held_numbers(
    source: Source, stored: str, column: Column, mapped: Mapped
) -> tuple[NDArray[np.float64], NDArray[np.bool_]] | None:
    """What `number_case` gives of a column that is in memory: its values, and which are missing."""
    if source.rows is None or not _by_number(source, stored, column, mapped):
        return None
    values = source.rows[stored].to_numpy().astype(np.float64)  # null is NaN
    absent = np.isnan(values)
    for code in filter(is_number, missing_codes(source.format, column, mapped)):
        absent |= values == float(code)
    if column.levels is None:
        values[absent] = np.nan
        return values, absent
    position, found = (
        {code: i for i, code in enumerate(column.levels)},
        np.full_like(values, np.nan),
    )
    for code, ours in own_levels(column, mapped).items():
        if is_number(code) and ours in position:
            found[(values == float(code)) & np.isnan(found) & ~absent] = position[ours]
    return found, absent


def level_case(text: str, column: Column, mapped: Mapped, how: FileFormat) -> str:
    """SQL for the position of a cell's level; NULL for a code that is not mapped."""
    position, cases = {code: i for i, code in enumerate(column.levels or ())}, []
    for code, ours in own_levels(column, mapped).items():
        test = f"{text} = {quoted(code)}"
        if is_number(code):
            test = f"({test} OR coalesce({number(text, how)} = {float(code)!r}, false))"
        if ours in position:
            cases.append(f"WHEN {test} THEN {position[ours]}.0")
    return f"CASE {' '.join(cases)} ELSE NULL END" if cases else "NULL"


def repeated_rows(source: Source, stored: str | None = None, without: str = "false") -> int:
    """Rows that are an exact copy of another, or that repeat a value of column `stored`.

    `without` is SQL for the rows that are not looked at.
    """
    what = "*" if stored is None else cell_text(stored)
    rows = f"FROM source WHERE NOT ({without})"
    row = source.connection.execute(
        f"SELECT (SELECT count(*) {rows}) - count(*) FROM (SELECT DISTINCT {what} {rows})"
    ).fetchone()
    return int(row[0]) if row else 0


def seems_without_header(source: Source) -> bool:
    """Whether the line that was read as a header looks like a row of values."""
    return source.has_header and 2 * sum(map(is_number, source.names)) >= len(source.names)


def names_shown(source: Source, site: str) -> str:
    """The file's column names, unless its first line may be a patient's row."""
    if source.has_header and any(map(is_number, source.names)):
        return "; the first line holds numbers, not names: is header = false right?"
    return f"; {site} has: {', '.join(source.names)}"


def _header(path: Path, how: FileFormat, codebook: Codebook, site: str) -> list[str]:
    opened = gzip.open if path.suffix.lower() == ".gz" else open
    with opened(path, "rt", newline="", encoding="utf-8-sig", errors="replace") as file:
        first = next(csv.reader(file, delimiter=how.delimiter), [])
    if not first:
        raise InputError(
            f"{site}: {path.name} is empty",
            code="EMPTY_FILE",
            site=site,
            rule="a file holds at least one row",
            next="check the export",
        )
    if how.header:
        names = [name.strip() or f"(column {i})" for i, name in enumerate(first, 1)]
        if len({name.casefold() for name in names}) != len(names):
            raise InputError(
                f"{site}: {path.name} names a column twice",
                code="BAD_FILE",
                site=site,
                rule="names differ in more than upper and lower case",
                next="rename one",
            )
        return names
    names = list(codebook.columns)
    if len(first) != len(names):
        raise InputError(
            f"{site}: {path.name} has {len(first)} columns, the codebook {len(names)}",
            code="NO_COLUMN",
            site=site,
            rule="a file without header has the codebook's columns in their order",
            next="add a header line and header = true, or correct the codebook",
        )
    return names


def count_rows(source: Source) -> int:
    """Number of rows of a source."""
    if source.rows is not None:
        return int(source.rows.num_rows)
    row = source.connection.execute("SELECT count(*) FROM source").fetchone()
    return int(row[0]) if row else 0


def _duckdb_line(error: duckdb.Error) -> str:
    """The line number that duckdb names, without the line's content."""
    message = str(error)
    for part in message.split():
        if part.isdigit() and "line" in message.lower():
            return f"look at line {part} of the file"
    return "open the file and look at its first lines"


def is_number(text: str) -> bool:
    """True for a text that is a finite number."""
    try:
        float(text)
    except ValueError:
        return False
    return text.strip().lower() not in ("nan", "inf", "-inf", "infinity")


def quoted(value: str) -> str:
    """SQL for a text."""
    return "'" + value.replace("'", "''") + "'"


def quoted_name(value: str) -> str:
    """SQL for a name."""
    return '"' + value.replace('"', '""') + '"'
