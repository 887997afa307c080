"""Look at one hospital's data without stopping at the first problem.

Counts per column of what `read_table` would refuse and of what a person should look at. It holds
no value of a patient: missing codes, levels, ranges and units that it names are the codebook's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.errors import InputError
from polyclinic.data.check_media import check_media
from polyclinic.data.codebook import Codebook, Column, Mapped
from polyclinic.data.findings import SMALL, ColumnFindings, Finding, Findings, Severity
from polyclinic.data.media import Beside, folder_of
from polyclinic.data.source import (
    Source,
    cell_text,
    count_rows,
    day_number,
    is_number,
    level_case,
    missing_condition,
    number,
    open_file,
    open_frame,
    repeated_rows,
    seems_without_header,
)
from polyclinic.data.units import conversion, same_kind

Floats = NDArray[np.float64]
_NAME = {
    "surname",
    "firstname",
    "lastname",
    "forename",
    "fullname",
    "vorname",
    "nachname",
    "patientname",
}
_NAME_PARTS = {"name", "first", "last", "full", "given", "family", "middle", "maiden", "patient"}
_IDENTIFIERS = {
    "an e-mail address": {"email", "mail"},
    "a telephone number": {"phone", "telephone", "mobile", "telefon", "tel", "fax"},
    "a date of birth": {"dob", "birthdate", "birthday", "dateofbirth", "geburtsdatum"},
    "an address": {"address", "street", "postcode", "zip", "zipcode", "adresse", "plz"},
    "a patient number": {"ssn", "mrn", "nhs", "patientid", "patientnumber", "insuranceid"},
}


def check_table(
    source: str | Path | Any, codebook: Codebook, site: str, table: str = "", media: Any = None
) -> Findings:
    """Check a file or folder (path) or a frame (pandas, polars, arrow) against the codebook.

    table  of a duckdb file; "": its only one
    media  as in `read_table`; every image is opened, every measurement read

    Raises
    ------
    InputError : NO_FILE, EMPTY_FILE, BAD_FILE: there are no rows to look at. A bad cell is a
        finding, never an error.
    """
    is_file = isinstance(source, (str, Path))
    if is_file:
        opened = open_file(source, codebook, site, table)
    else:
        opened = open_frame(source, codebook, site)
    n_rows = count_rows(opened)
    beside = Beside.of(media, folder_of(source) if is_file else Path())
    columns = tuple(
        check_media(opened, codebook, site, name, n_rows, beside)
        if name in codebook.media and name not in codebook.section(site).not_recorded
        else _column(opened, codebook, site, name, n_rows)
        for name in codebook.columns
        if name != codebook.patient.id
    )
    has_header = is_file and opened.is_text
    rows = (*_about_rows(opened, codebook, site, n_rows), *_about_names(opened, codebook, site))
    return Findings(
        site, n_rows, len(opened.names), opened.format.header if has_header else None, columns, rows
    )


def _column(
    source: Source, codebook: Codebook, site: str, name: str, n_rows: int
) -> ColumnFindings:
    column, section = codebook.columns[name], codebook.section(site)
    mapped = section.map.get(name, Mapped())
    stored = mapped.column or name
    unrecorded = name in section.not_recorded
    if stored not in source.names:
        if unrecorded:
            return ColumnFindings(name, n_rows, n_rows, (), (_not_recorded(),))
        absent = Finding("absent", "error", "the file has no such column")
        return ColumnFindings(name, n_rows, n_rows, (), (absent,))
    text = cell_text(stored)
    condition = missing_condition(text, source.format, column, mapped)
    written = _written(source, text, condition)
    missing = sum(count for _, count in written)
    own = {_spelled(str(code)) for code in column.missing}
    findings = []
    if unrecorded:
        findings = [_not_recorded()]
        if missing < n_rows:
            findings.append(
                Finding(
                    "not_recorded_but_there",
                    "look",
                    "{rows} {holds} a value, which is not read",
                    n_rows - missing,
                )
            )
    else:
        findings += _few(n_rows, missing)
        findings += _missing_codes(written, own, n_rows)
        findings += _values(source, column, mapped, text, condition)
    if name in section.not_comparable:
        findings.append(
            Finding(
                "not_comparable", "note", _plain(f"not comparable: {section.not_comparable[name]}")
            )
        )
    return ColumnFindings(
        name, n_rows, missing, written, tuple(findings), any(code in own for code, _ in written)
    )


def _not_recorded() -> Finding:
    return Finding("not_recorded", "note", "not recorded here, as the codebook says")


def _written(source: Source, text: str, condition: str) -> tuple[tuple[str, int], ...]:
    """How missing values are written, the most general code first."""
    found: dict[str, int] = {}
    query = (
        f"SELECT coalesce({text}, '') AS t, count(*) FROM source WHERE {condition} "
        "GROUP BY t ORDER BY t"
    )
    for cell, count in source.connection.execute(query).fetchall():
        code = _spelled(cell)
        found[code] = found.get(code, 0) + int(count)
    return tuple(sorted(found.items(), key=lambda item: (is_number(item[0]), item[0])))


def _spelled(code: str) -> str:
    if not code.strip():
        return "blank"
    return f"{float(code):g}" if is_number(code) else f'"{code}"'


def _few(n_rows: int, missing: int) -> Iterator[Finding]:
    left = n_rows - missing
    if n_rows == 0:
        return
    if left < SMALL:
        yield Finding(
            "unusable", "look", f"{{n}} value{{s}} left, the minimum is {SMALL}: unusable", left
        )
    elif missing > 0.5 * n_rows:
        percent = min(round(100 * missing / n_rows), 99)
        yield Finding("mostly_missing", "look", f"{percent} % missing")


def _missing_codes(
    written: tuple[tuple[str, int], ...], own: set[str], n_rows: int
) -> Iterator[Finding]:
    for code, count in written:
        if code in own and count >= max(SMALL, 0.05 * n_rows):
            yield Finding("missing_code", "note", _plain(f"{code} is a missing code here"))


def _values(
    source: Source, column: Column, mapped: Mapped, text: str, condition: str
) -> list[Finding]:
    """Findings about the cells that are not missing."""
    if column.type == "text":
        return []
    if column.levels is not None:
        value = level_case(text, column, mapped, source.format)
    elif column.type == "date":
        value = day_number(text)
    else:
        value = number(text, source.format)
    query = f"SELECT {value} AS v FROM source WHERE NOT ({condition})"
    found = source.connection.execute(query).fetchnumpy()["v"]
    values = np.ma.filled(np.ma.asarray(found, dtype=np.float64), np.nan)
    good = values[np.isfinite(values)]
    findings = list(_unreadable(values, column))
    if column.levels is None and column.type != "date":
        findings += _numbers(good, column, mapped)
    if len(good) >= SMALL and np.all(good == good[0]):
        findings.append(Finding("constant", "look", "every value is the same"))
    return findings


def _unreadable(values: Floats, column: Column) -> Iterator[Finding]:
    bad, infinite = int(np.isnan(values).sum()), int(np.isinf(values).sum())
    if bad and column.levels is not None:
        yield Finding(
            "unknown_level", "error", "{rows} {holds} a level not in the codebook", bad, "levels"
        )
    elif bad:
        what = "date (year-month-day)" if column.type == "date" else "number"
        yield Finding(
            "not_a_number" if what == "number" else "not_a_date",
            "error",
            f"{{rows}} {{holds}} no {what}",
            bad,
            "numbers",
        )
    if infinite:
        yield Finding("not_finite", "error", "{rows} {holds} infinity", infinite, "numbers")


def _numbers(own: Floats, column: Column, mapped: Mapped) -> Iterator[Finding]:
    """Fractions, ranges and the unit; `own` is in the file's unit."""
    if column.type == "integer" and (broken := int(np.count_nonzero(own != np.round(own)))):
        yield Finding(
            "fraction",
            "error",
            "{rows} {holds} a fraction, the column is of whole numbers",
            broken,
            "numbers",
        )
    values = own
    if mapped.unit is not None and column.unit is not None:
        try:
            factor, offset = conversion(mapped.unit, column.unit, column.molar_mass)
        except InputError as error:
            yield Finding("unknown_unit", "error", _plain(error.what), None, "units")
            return
        values = own * factor + offset
    unit = f" {column.unit}" if column.unit not in (None, "1") else ""
    yield from _outside(values, column, "range", "error", unit)
    yield from _outside(values, column, "usual", "note", unit)
    yield from _wrong_unit(own, values, column, mapped)


def _outside(
    values: Floats, column: Column, name: str, severity: Severity, unit: str
) -> Iterator[Finding]:
    limits = getattr(column, name)
    if limits is None:
        return
    low, high = limits
    if name == "usual":  # what is an error already is not counted again
        first, last = column.range or (-np.inf, np.inf)
        values = values[(values >= first) & (values <= last)]
        shown = f"the usual {low:g} to {high:g}, kept"
        kind = "unusual"
    else:
        shown = _plain(f"the range {low:g} to {high:g}{unit}")
        kind = "out_of_range"
    below, above = int(np.count_nonzero(values < low)), int(np.count_nonzero(values > high))
    if below:
        yield Finding(kind, severity, f"{{n}} below {shown}", below, "ranges")
    if above:
        yield Finding(kind, severity, f"{{n}} above {shown}", above, "ranges")


def _wrong_unit(own: Floats, values: Floats, column: Column, mapped: Mapped) -> Iterator[Finding]:
    """The middle value would be usual if the column were in another unit of the same kind."""
    limits = column.usual or column.range
    if limits is None or column.unit is None or len(own) < SMALL:
        return
    if limits[0] <= float(np.median(values)) <= limits[1]:
        return
    middle, fits = float(np.median(own)), []
    for unit in same_kind(column.unit, column.molar_mass):
        factor, offset = conversion(unit, column.unit, column.molar_mass)
        if unit != mapped.unit and limits[0] <= factor * middle + offset <= limits[1]:
            fits.append(unit)
    if fits:
        yield Finding(
            "wrong_unit",
            "look",
            _plain(f"looks like {' or '.join(fits[:3])}, declared {mapped.unit or column.unit}"),
            None,
            "units",
        )


def _about_rows(source: Source, codebook: Codebook, site: str, n_rows: int) -> Iterator[Finding]:
    if n_rows == 0:
        yield Finding("no_rows", "error", "the file has no rows")
        return
    rule, key = codebook.patient.duplicates, codebook.patient.id
    severity: Severity = "error" if rule == "error" else "look"
    done = {"warn": "kept", "first": "left out", "error": "refused"}[rule]
    stored = codebook.section(site).map.get(key, Mapped()).column or key
    if key == "row":
        if count := repeated_rows(source):
            yield Finding(
                "duplicate_rows",
                severity,
                f"{{n}} exact duplicate{{s}}, no patient id, {done}",
                count,
            )
        return
    if stored not in source.names:
        yield Finding("no_id", "error", _plain(f"no column {stored} for the patient id"))
        return
    column = codebook.columns.get(key, Column(type="text"))
    condition = missing_condition(cell_text(stored), source.format, column, Mapped())
    row = source.connection.execute(f"SELECT count(*) FROM source WHERE {condition}").fetchone()
    if row and row[0]:
        yield Finding("missing_id", "error", "{rows} without a patient id", int(row[0]))
    if count := repeated_rows(source):
        yield Finding("duplicate_rows", severity, f"{{n}} exact duplicate{{s}}, {done}", count)
    if count := repeated_rows(source, stored, condition):
        several: Severity = "note" if rule == "warn" else severity
        yield Finding("duplicate_ids", several, f"{{rows}} repeat a patient id, {done}", count)


def _about_names(source: Source, codebook: Codebook, site: str) -> Iterator[Finding]:
    """Findings about the names of the file's columns."""
    if seems_without_header(source):
        yield Finding(
            "no_header", "error", "the first line holds values, not names: header = false?"
        )
        return
    section = codebook.section(site)
    identity = section.map.get(codebook.patient.id, Mapped()).column or codebook.patient.id
    known = {section.map.get(name, Mapped()).column or name for name in codebook.columns}
    known.add(identity)
    for name in source.names:
        what = _identifier(name)
        if what and name != identity:
            advice = "leave it out of the file" if name not in known else "leave it out"
            yield Finding("identifier", "look", _plain(f"{name} may be {what}: {advice}"))
    extra = sum(name not in known for name in source.names)
    if extra:
        yield Finding("extra_columns", "note", "{n} column{s} not in the codebook, not read", extra)


def _identifier(name: str) -> str | None:
    """What a column of this name probably holds, if it points at a person."""
    split = re.sub(r"([a-z])([A-Z])", r"\1 \2", name).lower()
    parts = re.findall(r"[a-zäöüß]+", split)
    joined = "".join(parts)
    if joined in _NAME or ("name" in parts and set(parts) <= _NAME_PARTS):
        return "a name"
    for what, words in _IDENTIFIERS.items():
        if joined in words or words & set(parts):
            return what
    return None


def _plain(text: str) -> str:
    """A sentence in which braces are braces."""
    return text.replace("{", "{{").replace("}", "}}")
