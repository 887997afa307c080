"""Findings about columns of images and series: every file is opened, every measurement read.

Counts only: no finding holds a path, a value or anything of a file.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from polyclinic.core.errors import InputError
from polyclinic.data.codebook import Codebook, Mapped
from polyclinic.data.findings import SMALL, ColumnFindings, Finding, Severity
from polyclinic.data.grid import Grid
from polyclinic.data.media import Beside, image_cells, images_of, long_table
from polyclinic.data.pixels import BAD
from polyclinic.data.series import Counted
from polyclinic.data.source import Source, cell_text


def check_media(
    source: Source, codebook: Codebook, site: str, name: str, n_rows: int, beside: Beside
) -> ColumnFindings:
    """What is wrong with the items of a column that the site records."""
    if codebook.columns[name].type == "series":
        return _series(source, codebook, site, name, n_rows, beside)
    stored = codebook.section(site).map.get(name, Mapped()).column or name
    if stored not in source.names:
        absent = Finding("absent", "error", "the file has no such column")
        return ColumnFindings(name, n_rows, n_rows, (), (absent,))
    cells = image_cells(source, codebook, site, name)
    missing = int(cells.isna().sum())
    given = beside.given.get(name)
    folder = Path(given) if isinstance(given, (str, Path)) else beside.folder
    findings = list(_few(n_rows - missing, n_rows))
    if given is None or isinstance(given, (str, Path)):
        images, _ = images_of(cells, codebook.columns[name], site, name, folder)
        try:
            bad = images.bad()
        except InputError as error:
            return ColumnFindings(name, n_rows, missing, (), (_plain(error),))
        findings += [
            Finding(f"image_{kind}", "error", f"{{n}} image{{s}}: {BAD[kind]}", count)
            for kind, count in bad.items()
        ]
        repeated = n_rows - missing - len(images.where)
        if repeated:
            findings.append(
                Finding("repeated_images", "note", "{rows} {holds} an image of another", repeated)
            )
    return ColumnFindings(name, n_rows, missing, (), tuple(findings))


def _series(
    source: Source, codebook: Codebook, site: str, name: str, n_rows: int, beside: Beside
) -> ColumnFindings:
    try:
        long = long_table(source, codebook, site, name, beside)
        counted, values = long.read()
    except InputError as error:
        return ColumnFindings(name, n_rows, n_rows, (), (_plain(error),))
    findings = list(_about_rows(counted, long.grid))
    measured = [not np.isnan(one).all() for one in values]
    grid = long.grid
    key = grid.key or codebook.patient.id
    stored = codebook.section(site).map.get(key, Mapped()).column or key
    cells = source.connection.execute(
        f"SELECT nullif({cell_text(stored)}, '') AS v FROM source"
    ).df()["v"]
    there = dict(zip(cells.dropna().unique().tolist(), measured, strict=True))
    missing = int(sum(not there.get(cell, False) for cell in cells.tolist()))
    return ColumnFindings(name, n_rows, missing, (), (*_few(n_rows - missing, n_rows), *findings))


def _about_rows(found: Counted, grid: Grid) -> Iterator[Finding]:
    """Rows of the long table; what is refused is an error, what is left out a note."""
    listed: list[tuple[str, int, Severity, str, str]] = [
        ("not_a_number", found.not_number, "error", "no number", "numbers"),
        ("not_a_time", found.not_time, "error", "no time", ""),
        ("unknown_unit", found.unknown_unit, "error", "a unit of another kind", "units"),
        (
            "out_of_range",
            found.outside,
            "error" if grid.outside == "error" else "note",
            "a value outside its variable's range"
            + (", left out" if grid.outside == "drop" else ""),
            "ranges",
        ),
        (
            "unknown_variable",
            found.unknown,
            "error" if grid.unknown == "error" else "note",
            "a variable that the codebook does not have"
            + (", not read" if grid.unknown == "drop" else ""),
            "",
        ),
        ("off_grid", found.off_grid, "note", "a time outside the grid, left out", ""),
        ("strangers", found.strangers, "look", "a patient who is not in the table", ""),
    ]
    for kind, count, severity, what, topic in listed:
        if count:
            text = f"long table: {{rows}} {{holds}} {what}"
            yield Finding(kind, severity, text, count, topic)


def _few(left: int, n_rows: int) -> Iterator[Finding]:
    if n_rows and left < SMALL:
        text = f"{{n}} item{{s}} left, the minimum is {SMALL}: unusable"
        yield Finding("unusable", "look", text, left)


def _plain(error: InputError) -> Finding:
    text = error.what.replace("{", "{{").replace("}", "}}")
    return Finding(error.code.lower(), "error", text)
