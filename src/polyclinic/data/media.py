"""From the cells of a media column to its items: image files, arrays, and long tables of series."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from polyclinic.core.errors import InputError
from polyclinic.core.media import Media
from polyclinic.data.codebook import Codebook, Column, Mapped
from polyclinic.data.images import Images, Scale, Stack, bad_items
from polyclinic.data.pixels import file_of
from polyclinic.data.series import Long, open_long, read_series
from polyclinic.data.source import Source, cell_text, missing_condition, names_shown

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Beside:
    """What lies beside a site's table.

    folder  that paths in cells and long tables are relative to
    given   by column instead: a folder of images, an array of them whose rows the cells number, or
            the path or frame of a long table
    """

    folder: Path = field(default_factory=Path)
    given: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    def of(given: Any, folder: Path) -> Beside:
        """From what a user says of one site: nothing, a folder, or a mapping by column."""
        if given is None:
            return Beside(folder)
        if isinstance(given, Mapping):
            return Beside(folder, dict(given))
        return Beside(Path(given))


HERE = Beside()


def folder_of(path: str | Path) -> Path:
    """Where the files beside a table lie."""
    path = Path(path)
    return path if path.is_dir() else path.parent


def media_column(
    source: Source, codebook: Codebook, site: str, name: str, beside: Beside
) -> tuple[Media, Floats]:
    """The items of a column, and the position of each row's, (n_rows,), NaN: none.

    Raises
    ------
    InputError : NO_COLUMN, BAD_ITEM for files that are not there, NO_SERIES; as `read_series`.
    """
    column = codebook.columns[name]
    if column.type == "series":
        return _series(long_table(source, codebook, site, name, beside), source, codebook)
    cells = image_cells(source, codebook, site, name)
    given = beside.given.get(name)
    if given is not None and not isinstance(given, (str, Path)):
        return _stacked(cells, np.asarray(given), column, site, name)
    images, positions = images_of(cells, column, site, name, Path(given or beside.folder))
    absent = sum(not file_of(where).exists() for where in images.where)
    if absent:
        raise bad_items(site, name, images.shape, {"missing": absent})
    return images, positions


def image_cells(source: Source, codebook: Codebook, site: str, name: str) -> pd.Series[Any]:
    """The cells of a column of images, None where missing."""
    mapped = codebook.section(site).map.get(name, Mapped())
    stored = mapped.column or name
    text = cell_text(_stored(source, site, name, stored))
    missing = missing_condition(text, source.format, codebook.columns[name], mapped)
    query = f"SELECT CASE WHEN {missing} THEN NULL ELSE {text} END AS v FROM source"
    return source.connection.execute(query).df()["v"]


def images_of(
    cells: pd.Series[Any], column: Column, site: str, name: str, folder: Path
) -> tuple[Images, Floats]:
    """Images in files, and the position of each row's."""
    places, unique = pd.factorize(cells)
    where = tuple(str(folder / str(cell)) for cell in unique)
    images = Images(site, name, where, column.shape or (), Scale.of(column), column.fit)
    return images, _positions(places)


def _stacked(
    cells: pd.Series[Any], array: NDArray[Any], column: Column, site: str, name: str
) -> tuple[Stack, Floats]:
    """Images in memory; a cell is the row of the array."""
    if array.shape[1:] != column.shape:
        raise bad_items(site, name, column.shape or (), {"shape": len(array)})
    rows = pd.to_numeric(cells, errors="coerce").to_numpy(np.float64)
    wrong = ~np.isnan(rows) & ~((rows >= 0) & (rows < len(array)) & (rows == np.round(rows)))
    bad = int(wrong.sum() + (np.isnan(rows) & cells.notna().to_numpy()).sum())
    if bad:
        raise bad_items(site, name, column.shape or (), {"missing": bad})
    return Stack(array, Scale.of(column)), rows


def long_table(source: Source, codebook: Codebook, site: str, name: str, beside: Beside) -> Long:
    """The long table of a column of series, open."""
    column, section = codebook.columns[name], codebook.section(site)
    mapped = section.map.get(name, Mapped())
    grid = column.series
    if grid is None:
        raise InputError(
            f"column {name}: nothing says where its series are",
            code="NO_SERIES",
            site=site,
            rule="a column of series has a section [columns.NAME.series]",
            next="add the step, the length and the variables to the codebook",
        )
    key = grid.key or codebook.patient.id
    if key == "row":
        raise InputError(
            f"column {name}: nothing says which rows of the long table are a patient's",
            code="NO_SERIES",
            site=site,
            rule="a patient is named in both tables",
            next=f'say [patient] id = "...", or key = "..." in [columns.{name}.series]',
        )
    stored = section.map.get(key, Mapped()).column or key
    keys, _ = _keys(source, site, name, stored)
    start = None
    if grid.start:
        start = _starts(source, site, name, stored, grid.start)
    where = beside.given.get(name)
    if where is None or isinstance(where, (str, Path)):
        where = beside.folder / str(where or mapped.file or grid.file or f"{name}.csv")
    return Long(open_long(where, codebook, site), column, mapped, site, name, keys, start)


def _series(long: Long, source: Source, codebook: Codebook) -> tuple[Media, Floats]:
    """All series; a patient without any measurement on the grid has none."""
    grid = long.grid
    key = grid.key or codebook.patient.id
    stored = codebook.section(long.site).map.get(key, Mapped()).column or key
    _, places = _keys(source, long.site, long.name, stored)
    found = read_series(long)
    empty = np.array([bool(np.isnan(one).all()) for one in found.values], dtype=bool)
    positions = _positions(places)
    known = ~np.isnan(positions)
    positions[known] = np.where(empty[places[known]], np.nan, positions[known])
    return found, positions


def _keys(source: Source, site: str, name: str, stored: str) -> tuple[list[str], NDArray[np.int64]]:
    """Names of the patients in order of first appearance, and the place of each row's."""
    text = cell_text(_stored(source, site, name, stored))
    cells = source.connection.execute(f"SELECT nullif({text}, '') AS v FROM source").df()["v"]
    places, unique = pd.factorize(cells)
    return [str(one) for one in unique], places.astype(np.int64)


def _starts(source: Source, site: str, name: str, stored: str, start: str) -> Floats:
    """Time 0 of each patient in seconds since 1970: the first row's."""
    key, text = cell_text(stored), cell_text(_stored(source, site, name, start))
    found = source.connection.execute(
        f"SELECT nullif({key}, '') AS k, epoch(TRY_CAST({text} AS TIMESTAMP)) AS t FROM source"
    ).df()
    first = found.dropna(subset="k").drop_duplicates("k")
    return first["t"].to_numpy(np.float64)


def _stored(source: Source, site: str, name: str, stored: str) -> str:
    if stored not in source.names:
        raise InputError(
            f"{site} has no column {stored}",
            code="NO_COLUMN",
            site=site,
            rule=f"{name} needs it{names_shown(source, site)}",
            next=f'name it: [site.{site}.map] {name} = {{ column = "..." }}, or '
            f'[site.{site}] not_recorded = ["{name}"]',
        )
    return stored


def _positions(places: NDArray[Any]) -> Floats:
    positions = np.asarray(places, dtype=np.float64)
    positions[positions < 0] = np.nan
    return positions
