"""Rows in the order of the patients, or in one by chance: written once, and scanned from there."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from polyclinic.core.errors import InputError, PolyclinicError
from polyclinic.data.codebook import Codebook
from polyclinic.data.databases import Database, DuckDB, described, memory, opened
from polyclinic.data.kept import PREFIX, Kept, new_folder, write
from polyclinic.data.parquet import Lake, need_pyarrow, open_lake
from polyclinic.data.query import Query
from polyclinic.data.scan import Scan, check_by, columns_read
from polyclinic.data.source import quoted, quoted_name

Order = Literal["patient", "random"]
ORDERS: tuple[Order, ...] = ("patient", "random")


def scan_ordered(
    source: Query | Lake,
    codebook: Codebook,
    site: str,
    order: Order = "patient",
    seed: int = 0,
    folder: str | Path | None = None,
    by: str | None = None,
) -> Scan:
    """The codebook's columns of what a query gives, or of files, each patient's rows side by side.

    A patient's rows are in the order of their values, so that the same rows give the same files in
    whatever order they came. The folder goes when nothing uses the scan any more.

    Parameters
    ----------
    order : of the patients: that of their ids; or "random", of a hash of `seed` and the id, and
        where each row is a patient of all its values.
    folder : as of `new_folder`.
    by : a column beside the codebook's, by which the rows are ordered first.

    Raises
    ------
    InputError : as `opened` and `columns_read`; NO_ROWS, WRONG_VALUE.
    PolyclinicError : CANNOT_KEEP; UNREADABLE, SOURCE_CHANGED of files.
    """
    need_pyarrow()
    where, remove = new_folder(folder)
    try:
        with (
            tempfile.TemporaryDirectory(prefix=PREFIX) as spill,
            _opened(source, codebook, site, spill, by) as (database, table),
        ):
            columns, patient = _wanted(list(database.kinds), codebook, site, by)
            chance = seed if order == "random" else None
            sql = _sorted(database, table, columns, patient, chance, by)
            digest, n_rows = write(database.rows(sql), where)
        if not n_rows:
            raise _no_rows(site)
        lake = open_lake(where, site)
    except BaseException:
        remove()
        raise
    gone = source.left_out if isinstance(source, Lake) else ()
    return Scan(site, codebook, replace(lake, content=digest, left_out=gone, kept=Kept(remove)))


def _wanted(
    names: Sequence[str], codebook: Codebook, site: str, by: str | None
) -> tuple[tuple[str, ...], str | None]:
    """What is written, and which of it is the patient."""
    columns, patient = columns_read(names, codebook, site)
    if by is None:
        return columns, patient
    check_by(by, names)
    return tuple(dict.fromkeys([by, *columns])), patient


@contextmanager
def _opened(
    source: Query | Lake, codebook: Codebook, site: str, spill: str, by: str | None
) -> Iterator[tuple[Database, str]]:
    """The database, and what is selected from in it."""
    if isinstance(source, Query):
        with opened(source, site, spill) as database:
            yield database, source.select
        return
    columns, _ = _wanted(source.names, codebook, site, by)
    met: list[PolyclinicError] = []
    with closing(memory(spill)) as connection:
        connection.register("files", _reader(source, columns, met))
        try:
            yield DuckDB(connection, described(connection, "files"), site), "files"
        except PolyclinicError as error:
            raise (met[0] if met else error) from None


def _reader(lake: Lake, columns: tuple[str, ...], met: list[PolyclinicError]) -> Any:
    """The rows of the files, a row group at a time; what goes wrong on the way is put into `met`,
    as no words of it come through a database."""
    import pyarrow as pa

    first = lake.read(lake.groups[0], columns)

    def batches() -> Iterator[Any]:
        for group in lake.groups:
            try:
                yield from lake.read(group, columns).to_batches()
            except PolyclinicError as error:
                met.append(error)
                raise

    return pa.RecordBatchReader.from_batches(first.schema, batches())


def _sorted(
    database: Database,
    table: str,
    columns: tuple[str, ...],
    patient: str | None,
    seed: int | None,
    by: str | None,
) -> str:
    """SQL for the columns as they are written, in their order."""
    cells = ", ".join(f"{database.cell(n, patient)} AS {quoted_name(n)}" for n in columns)
    first = () if patient is None else (patient,)
    places = [database.sorted_by(name) for name in dict.fromkeys([*first, *columns])]
    if seed is not None:
        texts = ", ".join(f"CAST({quoted_name(name)} AS VARCHAR)" for name in first or columns)
        places.insert(0, f"md5(concat_ws(':', {quoted(str(seed))}, {texts}))")
    if by is not None:
        places.insert(0, database.sorted_by(by))
    return f"SELECT * FROM (SELECT {cells} FROM {table}) AS written ORDER BY {', '.join(places)}"


def _no_rows(site: str) -> InputError:
    return InputError(
        f"{site}: there is no row",
        code="NO_ROWS",
        site=site,
        rule="a hospital has at least one patient",
        next="look at the query, or at the files",
    )
