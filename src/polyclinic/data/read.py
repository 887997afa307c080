"""From files and frames to a `Table`, by the codebook's rules.

Every cell is first a text: it is trimmed, compared with the missing codes, then parsed, so that
``63.0``, ``63`` and `` 63`` are one integer whatever wrote them. What is stored as a
double or an integer is taken as it is: its text would be read as the same. The casts run inside
duckdb.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from polyclinic.core.errors import InputError
from polyclinic.core.media import Media
from polyclinic.data.codebook import Codebook, Column, Mapped
from polyclinic.data.media import HERE, Beside, folder_of, media_column
from polyclinic.data.source import PARQUET as PARQUET
from polyclinic.data.source import (
    Source,
    cell_text,
    count_rows,
    day_number,
    held_numbers,
    is_number,
    level_case,
    missing_condition,
    names_shown,
    number,
    number_case,
)
from polyclinic.data.source import open_file as open_file
from polyclinic.data.source import open_frame as open_frame
from polyclinic.data.table import Table
from polyclinic.data.units import conversion

Floats = NDArray[np.float64]


def read_table(
    path: str | Path, codebook: Codebook, site: str, table: str = "", media: Any = None
) -> Table:
    """The rows of a CSV or Parquet file, of a folder of them, or of a `table` of a duckdb file.

    media  where images and series are: a folder, or by column a folder, array, file or frame; None:
           beside the table

    Raises
    ------
    InputError : NO_FILE, BAD_FILE, NO_COLUMN, NOT_A_NUMBER, NOT_AN_INTEGER, UNKNOWN_LEVEL,
        OUT_OF_RANGE, NOT_FINITE, DUPLICATE_ROWS; names site, column, number of rows, never a value.
        For images and series as `media_column`.
    """
    beside = Beside.of(media, folder_of(path))
    return to_table(open_file(path, codebook, site, table), codebook, site, beside=beside)


def table_from_frame(
    frame: Any,
    codebook: Codebook,
    site: str,
    columns: Sequence[str] | None = None,
    media: Any = None,
) -> Table:
    """The rows of a pandas, polars or arrow frame. With `columns`, only those are needed. `media`
    as in `read_table`; None: in this process's folder."""
    beside = Beside.of(media, Path())
    return to_table(open_frame(frame, codebook, site), codebook, site, columns, beside)


def split_frame(frame: Any, by: str, codebook: Codebook, media: Any = None) -> dict[str, Table]:
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
            native.filter(nw.col(by) == label).to_native(), codebook, str(label), media=media
        )
        for label in dict.fromkeys(labels.to_list())
    }


def to_table(
    source: Source,
    codebook: Codebook,
    site: str,
    wanted: Sequence[str] | None = None,
    beside: Beside = HERE,
) -> Table:
    """Parse, check and convert every column that the codebook has (or that `wanted` needs)."""
    n_rows = count_rows(source)
    columns: dict[str, Floats] = {}
    media: dict[str, Media] = {}
    needed = _stored(codebook, wanted)
    for name in needed:
        if name in codebook.media and name not in codebook.section(site).not_recorded:
            media[name], columns[name] = media_column(source, codebook, site, name, beside)
        else:
            columns[name] = column_values(source, codebook, site, name, n_rows)
    readable = presence(columns, codebook)
    for name, derived in codebook.derived.items():
        if wanted is None or name in wanted:
            columns[name] = _derive(derived, name, readable, codebook, site)
    id_column = codebook.patient.id if wanted is None else "row"
    patient = _patients(source, codebook, site, id_column, n_rows)
    keep = _without_duplicates(source, codebook, site, patient) if wanted is None else None
    if keep is not None:
        columns = {name: values[keep] for name, values in columns.items()}
        patient = pd.factorize(patient[keep])[0].astype(np.int64)
    return Table(site, columns, patient, codebook, media)


def presence(columns: Mapping[str, Floats], codebook: Codebook) -> Mapping[str, Floats]:
    """The columns as conditions read them: of images and series only whether there is one."""
    there = {name: columns[name] * 0.0 + 1.0 for name in codebook.media if name in columns}
    return {**columns, **there} if there else columns


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
            rule=f"every hospital has the codebook's columns{names_shown(source, site)}",
            next=f'name it: [site.{site}.map] {name} = {{ column = "..." }}, or '
            f'[site.{site}] not_recorded = ["{name}"]',
        )
    text = cell_text(stored)
    missing = missing_condition(text, source.format, column, mapped)
    if column.levels is not None:
        value = level_case(text, column, mapped, source.format)
        what, code = "hold a level not in the codebook", "UNKNOWN_LEVEL"
    elif column.type == "date":
        value = day_number(text)
        what, code = "hold no date (year-month-day)", "NOT_A_DATE"
    else:
        value = number(text, source.format)
        what, code = "hold no number", "NOT_A_NUMBER"
    held = held_numbers(source, stored, column, mapped)
    if held is None:
        view, as_number = "source", number_case(source, stored, column, mapped)
        if as_number is not None:
            view, (missing, value) = "raw", as_number
        held = _cells(source, missing, value, view)
    values, absent = held
    bad = int(np.count_nonzero(np.isnan(values) & ~absent))
    if bad:
        raise _bad_cells(site, name, bad, what, code, column)
    return _checked(values, column, mapped, site, name)


def _cells(source: Source, missing: str, value: str, view: str) -> tuple[Floats, NDArray[np.bool_]]:
    """The values of a column, NaN where there is none, and which cells say that it is missing."""
    query = (
        f"SELECT CASE WHEN {missing} THEN NULL ELSE {value} END AS v, ({missing}) AS m FROM {view}"
    )
    found = source.connection.execute(query).fetchnumpy()
    values = np.ma.filled(np.ma.asarray(found["v"], dtype=np.float64), np.nan)
    return np.ascontiguousarray(values), np.asarray(found["m"], dtype=bool)


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
    return pd.factorize(patient_cells(source, codebook, site, stored))[0].astype(np.int64)


def patient_cells(source: Source, codebook: Codebook, site: str, stored: str) -> pd.Series[str]:
    """The patient of every row, as column `stored` names it. Raises MISSING_VALUES."""
    text = cell_text(stored)
    about = codebook.columns.get(codebook.patient.id, Column(type="text"))
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
    return cells


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
