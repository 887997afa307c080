"""From files and frames to a `Table`, by the codebook's rules.

Every cell is first a text: it is trimmed, compared with the missing codes, then parsed, so that
``63.0``, ``63`` and `` 63`` are one integer whatever wrote them. The casts run inside duckdb.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from polyclinic.core.errors import InputError
from polyclinic.data.codebook import Codebook, Column, FileFormat, Mapped
from polyclinic.data.table import Table
from polyclinic.data.units import conversion

Floats = NDArray[np.float64]
PARQUET = (".parquet", ".pq")


@dataclass(frozen=True)
class Source:
    """Rows somewhere, as a duckdb view named "source" whose columns are all texts."""

    connection: duckdb.DuckDBPyConnection
    names: tuple[str, ...]
    format: FileFormat
    where: str
    has_header: bool = False


def read_table(path: str | Path, codebook: Codebook, site: str) -> Table:
    """The rows of a CSV or Parquet file.

    Raises
    ------
    InputError : NO_FILE, BAD_FILE, NO_COLUMN, NOT_A_NUMBER, NOT_AN_INTEGER, UNKNOWN_LEVEL,
        OUT_OF_RANGE, NOT_FINITE, DUPLICATE_ROWS; names site, column, number of rows, never a value.
    """
    return to_table(open_file(path, codebook, site), codebook, site)


def table_from_frame(
    frame: Any, codebook: Codebook, site: str, columns: Sequence[str] | None = None
) -> Table:
    """The rows of a pandas, polars or arrow frame. With `columns`, only those are needed."""
    return to_table(open_frame(frame, codebook, site), codebook, site, columns)


def split_frame(frame: Any, by: str, codebook: Codebook) -> dict[str, Table]:
    """One table per value of column `by`, in order of first appearance."""
    import narwhals as nw

    native = nw.from_native(frame, eager_only=True)
    if by not in native.columns:
        raise InputError(
            f"{by} is no column of the frame",
            code="NO_COLUMN",
            rule=f"columns: {', '.join(native.columns)}",
            next="correct by=",
        )
    labels = native.get_column(by)
    if labels.null_count():
        raise InputError(
            f"{by}: {labels.null_count()} rows belong to no site",
            code="MISSING_VALUES",
            rule="every row has a site",
            next="complete the column, or drop the rows",
        )
    return {
        str(label): table_from_frame(
            native.filter(nw.col(by) == label).to_native(), codebook, str(label)
        )
        for label in dict.fromkeys(labels.to_list())
    }


def open_file(path: str | Path, codebook: Codebook, site: str) -> Source:
    """The cells of a CSV or Parquet file as texts."""
    path, how = Path(path), codebook.file_of(site)
    if not path.is_file():
        raise InputError(
            f"{site}: there is no file {path}",
            code="NO_FILE",
            site=site,
            rule="one file per hospital",
            next="check the path",
        )
    connection = duckdb.connect()
    try:
        if path.suffix.lower() in PARQUET:
            connection.execute(f"CREATE VIEW raw AS SELECT * FROM read_parquet({_text(str(path))})")
            return _as_text(connection, how, f"{site}")
        names = _header(path, how, codebook, site)
        columns = ", ".join(f"{_text(f'c{i}')}: 'VARCHAR'" for i in range(len(names)))
        connection.execute(
            f"CREATE TABLE source AS SELECT * FROM read_csv({_text(str(path))}, "
            f"auto_detect=false, header={str(how.header).lower()}, delim={_text(how.delimiter)}, "
            f"quote='\"', escape='\"', nullstr='', columns={{{columns}}})"
        )
    except duckdb.Error as error:
        raise InputError(
            f"{site}: {path.name} cannot be read as a table",
            code="BAD_FILE",
            site=site,
            rule="every line has the same number of fields; see [file] in the codebook",
            next=_duckdb_line(error),
        ) from None
    for i, name in enumerate(names):
        connection.execute(f"ALTER TABLE source RENAME COLUMN c{i} TO {_name(f'_{i}_{name}')}")
    for i, name in enumerate(names):
        connection.execute(
            f"ALTER TABLE source RENAME COLUMN {_name(f'_{i}_{name}')} TO {_name(name)}"
        )
    return Source(connection, tuple(names), how, f"{site}", how.header)


def open_frame(frame: Any, codebook: Codebook, site: str) -> Source:
    """The cells of a pandas, polars or arrow frame as texts."""
    import narwhals as nw

    native = nw.from_native(frame, eager_only=True)
    connection = duckdb.connect()
    pandas = native.to_pandas() if not isinstance(frame, pd.DataFrame) else frame
    pandas = pandas.set_axis([str(name) for name in pandas.columns], axis=1)
    for name in pandas.columns:
        if isinstance(pandas[name].dtype, pd.CategoricalDtype):
            pandas = pandas.assign(**{name: pandas[name].astype(object)})
    connection.register("raw", pandas)
    return _as_text(connection, codebook.file_of(site), f"{site}")


def _as_text(connection: duckdb.DuckDBPyConnection, how: FileFormat, where: str) -> Source:
    described = connection.execute("DESCRIBE raw").fetchall()
    parts = []
    for name, kind, *_ in described:
        text = f"CAST({_name(name)} AS VARCHAR)"
        if kind in ("DOUBLE", "FLOAT"):
            text = f"CASE WHEN isnan({_name(name)}) THEN NULL ELSE {text} END"
        if kind == "BOOLEAN":
            text = f"CAST(CAST({_name(name)} AS INTEGER) AS VARCHAR)"
        parts.append(f"{text} AS {_name(name)}")
    listed = ", ".join(parts) or "1 AS nothing"
    connection.execute(f"CREATE VIEW source AS SELECT {listed} FROM raw")
    how = how.model_copy(update={"decimal": "."})
    return Source(connection, tuple(row[0] for row in described), how, where)


def to_table(
    source: Source, codebook: Codebook, site: str, wanted: Sequence[str] | None = None
) -> Table:
    """Parse, check and convert every column that the codebook has (or that `wanted` needs)."""
    n_rows = count_rows(source)
    columns: dict[str, Floats] = {}
    needed = _stored(codebook, wanted)
    for name in needed:
        columns[name] = column_values(source, codebook, site, name, n_rows)
    for name, derived in codebook.derived.items():
        if wanted is None or name in wanted:
            columns[name] = _derive(derived, name, columns, codebook, site)
    id_column = codebook.patient.id if wanted is None else "row"
    patient = _patients(source, codebook, site, id_column, n_rows)
    keep = _without_duplicates(source, codebook, site, patient) if wanted is None else None
    if keep is not None:
        columns = {name: values[keep] for name, values in columns.items()}
        patient = pd.factorize(patient[keep])[0].astype(np.int64)
    return Table(site, columns, patient, codebook)


def _stored(codebook: Codebook, wanted: Sequence[str] | None) -> list[str]:
    stored = [n for n in codebook.usable if n in codebook.columns]
    if wanted is None:
        return stored
    used = {
        c for n in wanted if n in codebook.derived for c in codebook.derived[n].expression.columns
    }
    return [n for n in stored if n in wanted or n in used]


def column_values(source: Source, codebook: Codebook, site: str, name: str, n_rows: int) -> Floats:
    """One column in the codebook's unit, checked."""
    column, section = codebook.columns[name], codebook.section(site)
    mapped = section.map.get(name, Mapped())
    if name in section.not_recorded:
        return np.full(n_rows, np.nan)
    stored = mapped.column or name
    if stored not in source.names:
        raise InputError(
            f"{site} has no column {stored}",
            code="NO_COLUMN",
            site=site,
            rule=f"every hospital has the codebook's columns{_names_shown(source, site)}",
            next=f'name it: [site.{site}.map] {name} = {{ column = "..." }}, or '
            f'[site.{site}] not_recorded = ["{name}"]',
        )
    text = cell_text(stored)
    missing = missing_condition(text, source.format, column, mapped)
    if column.levels is not None:
        value = level_case(text, column, mapped, source.format)
        what, code = "hold a level not in the codebook", "UNKNOWN_LEVEL"
    elif column.type == "date":
        value = f"CAST(TRY_CAST({text} AS DATE) - DATE '1970-01-01' AS DOUBLE)"
        what, code = "hold no date (year-month-day)", "NOT_A_DATE"
    else:
        value = number(text, source.format)
        what, code = "hold no number", "NOT_A_NUMBER"
    query = (
        f"SELECT CASE WHEN {missing} THEN NULL ELSE {value} END AS v, ({missing}) AS m FROM source"
    )
    found = source.connection.execute(query).fetchnumpy()
    values = np.ma.filled(np.ma.asarray(found["v"], dtype=np.float64), np.nan)
    bad = int(np.count_nonzero(np.isnan(values) & ~np.asarray(found["m"], dtype=bool)))
    if bad:
        raise _bad_cells(site, name, bad, what, code, column)
    return _checked(np.ascontiguousarray(values), column, mapped, site, name)


def cell_text(stored: str) -> str:
    """SQL for a trimmed cell."""
    return f"trim({_name(stored)})"


def number(text: str, how: FileFormat) -> str:
    """SQL for a cell as a number. With a decimal comma a point is not read: 1.500 may be 1500."""
    if how.decimal == ",":
        text = f"CASE WHEN contains({text}, '.') THEN NULL ELSE replace({text}, ',', '.') END"
    return f"TRY_CAST({text} AS DOUBLE)"


def missing_condition(text: str, how: FileFormat, column: Column, mapped: Mapped) -> str:
    """SQL that is true where a cell is missing; codes that are numbers are compared as numbers."""
    codes = [*how.missing, *map(str, column.missing)]
    codes += [code for code, ours in (mapped.levels or {}).items() if ours == "missing"]
    texts = ", ".join(_text(code) for code in codes) or "''"
    numbers = [float(code) for code in codes if is_number(code)]
    condition = f"{text} IS NULL OR {text} = '' OR {text} IN ({texts})"
    if numbers:
        listed = ", ".join(repr(n) for n in numbers)
        condition += f" OR coalesce({number(text, how)} IN ({listed}), false)"
    return condition


def level_case(text: str, column: Column, mapped: Mapped, how: FileFormat) -> str:
    """SQL for the position of a cell's level; NULL for a code that is not mapped."""
    position = {code: i for i, code in enumerate(column.levels or ())}
    own = {code: code for code in position}
    if mapped.levels is not None:
        own = {code: str(ours) for code, ours in mapped.levels.items()}
    cases = []
    for code, ours in own.items():
        test = f"{text} = {_text(code)}"
        if is_number(code):
            test = f"({test} OR coalesce({number(text, how)} = {float(code)!r}, false))"
        if ours in position:
            cases.append(f"WHEN {test} THEN {position[ours]}.0")
    return f"CASE {' '.join(cases)} ELSE NULL END" if cases else "NULL"


def _checked(values: Floats, column: Column, mapped: Mapped, site: str, name: str) -> Floats:
    if np.isinf(values).any():
        raise _bad_cells(
            site, name, int(np.isinf(values).sum()), "hold infinity", "NOT_FINITE", column
        )
    if column.levels is not None:
        return values
    if column.type == "integer":
        broken = int(np.count_nonzero(values != np.round(values)) - np.isnan(values).sum())
        if broken:
            raise _bad_cells(site, name, broken, "hold a fraction", "NOT_AN_INTEGER", column)
    if mapped.unit is not None:
        values = _converted(values, column, mapped.unit, site, name)
    if column.range is not None:
        outside = int(np.count_nonzero((values < column.range[0]) | (values > column.range[1])))
        if outside:
            raise _bad_cells(site, name, outside, "lie outside the range", "OUT_OF_RANGE", column)
    return values


def _converted(values: Floats, column: Column, own: str, site: str, name: str) -> Floats:
    """In the codebook's unit; whole numbers become completed units (757 months are 63 years)."""
    try:
        factor, offset = conversion(own, column.unit or "no unit", column.molar_mass)
    except InputError as error:
        raise InputError(
            f"{site}, column {name}: {error.what}",
            code=error.code,
            site=site,
            rule=error.rule,
            next=error.next,
        ) from None
    values = values * factor + offset
    return np.floor(values + 1e-9) if column.type == "integer" else values


def _bad_cells(
    site: str, name: str, count: int, what: str, code: str, column: Column
) -> InputError:
    rules = {
        "UNKNOWN_LEVEL": f"levels come from the codebook: {', '.join(column.levels or ())}",
        "OUT_OF_RANGE": f"range of {name}: {column.range[0]:g} to {column.range[1]:g} "
        f"{column.unit or ''}"
        if column.range
        else "",
    }
    rows = "1 row holds" if count == 1 else f"{count} rows hold"
    what = what.removeprefix("hold ") if what.startswith("hold ") else what
    sentence = (
        f"{rows} {what}"
        if code != "OUT_OF_RANGE"
        else (
            f"{count} rows lie outside the range" if count > 1 else "1 row lies outside the range"
        )
    )
    hint = (
        (
            f"add the level to the codebook, or map it: [site.{site}.map] {name} = "
            "{ levels = { ... } }"
        )
        if code == "UNKNOWN_LEVEL"
        else (
            f'correct the data, or declare its unit: [site.{site}.map] {name} = {{ unit = "..." }}'
        )
    )
    return InputError(
        f"{site}, column {name}: {sentence}",
        code=code,
        site=site,
        rule=rules.get(code)
        or f"{name} is of type {column.type} (the value is shown at {site} only)",
        next=f"at {site}: polyclinic check; then {hint}",
    )


def _derive(
    derived: Any, name: str, columns: Mapping[str, Floats], codebook: Codebook, site: str
) -> Floats:
    values: Floats = derived.expression.evaluate(columns, codebook.codes)
    if not derived.levels or not all(is_number(code) for code in derived.levels):
        return values
    place = np.full_like(values, np.nan)
    for i, level in enumerate(derived.levels):
        place[values == float(level)] = i
    if np.any(np.isnan(place) & ~np.isnan(values)):
        raise InputError(
            f"{site}, column {name}: a derived value is no level",
            code="UNKNOWN_LEVEL",
            site=site,
            rule=f"levels: {', '.join(derived.levels)}",
            next="correct the codebook's expression",
        )
    return place


def _patients(
    source: Source, codebook: Codebook, site: str, id_column: str, n_rows: int
) -> NDArray[np.int64]:
    if id_column == "row":
        return np.arange(n_rows, dtype=np.int64)
    stored = codebook.section(site).map.get(id_column, Mapped()).column or id_column
    if stored not in source.names:
        raise InputError(
            f"{site} has no column {stored}",
            code="NO_COLUMN",
            site=site,
            rule="the patient id says which rows belong together",
            next=f"name it in [site.{site}.map]",
        )
    text = cell_text(stored)
    about = codebook.columns.get(id_column, Column(type="text"))
    missing = missing_condition(text, source.format, about, Mapped())
    cells = source.connection.execute(
        f"SELECT CASE WHEN {missing} THEN NULL ELSE {text} END AS v FROM source"
    ).df()["v"]
    gaps = int(cells.isna().sum())
    if gaps:
        raise InputError(
            f"{site}, column {stored}: {gaps} rows have no patient id",
            code="MISSING_VALUES",
            site=site,
            rule="every row belongs to a patient",
            next="complete the ids, or leave the rows out of the file",
        )
    return pd.factorize(cells)[0].astype(np.int64)


def _without_duplicates(
    source: Source, codebook: Codebook, site: str, patient: NDArray[np.int64]
) -> NDArray[np.int64] | None:
    """Positions to keep, or None for all. "warn" keeps them: `check` reports them."""
    rule, key = codebook.patient.duplicates, codebook.patient.id
    if rule == "warn":
        return None
    if key == "row":
        frame = source.connection.execute("SELECT * FROM source").df()
        repeated, what = frame.duplicated(keep="first").to_numpy(), "exact copies of others"
    else:
        repeated, what = pd.Series(patient).duplicated().to_numpy(), "of a patient who is there"
    count = int(repeated.sum())
    if count and rule == "error":
        rows = "1 row is" if count == 1 else f"{count} rows are"
        what = "an exact copy of another" if count == 1 and key == "row" else what
        raise InputError(
            f"{site}: {rows} {what}",
            code="DUPLICATE_ROWS",
            site=site,
            rule='[patient] duplicates = "error"',
            next='remove them, or use duplicates = "first"',
        )
    return np.flatnonzero(~repeated) if count else None


def repeated_rows(source: Source, stored: str | None) -> int:
    """Rows that are an exact copy of another, or that repeat a value of column `stored`."""
    what = "*" if stored is None else cell_text(stored)
    row = source.connection.execute(
        f"SELECT (SELECT count(*) FROM source) - count(*) FROM (SELECT DISTINCT {what} FROM source)"
    ).fetchone()
    return int(row[0]) if row else 0


def seems_without_header(source: Source) -> bool:
    """Whether the line that was read as a header looks like a row of values."""
    return source.has_header and 2 * sum(map(is_number, source.names)) >= len(source.names)


def _names_shown(source: Source, site: str) -> str:
    """The file's column names, unless its first line may be a patient's row."""
    if source.has_header and any(map(is_number, source.names)):
        return "; the first line holds numbers, not names: is header = false right?"
    return f"; {site} has: {', '.join(source.names)}"


def _header(path: Path, how: FileFormat, codebook: Codebook, site: str) -> list[str]:
    with open(path, newline="", encoding="utf-8-sig", errors="replace") as file:
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


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _name(value: str) -> str:
    return '"' + value.replace('"', '""') + '"'
