"""Time series of a site as `Media`: a long table, read once into a compact array.

The long table has a row per measurement: patient, time, variable, value. duckdb streams it and
joins the values of a step; what stays is (patients, steps, variables) in float32, NaN where nothing
was measured. Nothing of it leaves the site by itself.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from polyclinic.core.errors import InputError
from polyclinic.core.media import Kind
from polyclinic.data.codebook import Codebook, Column, Mapped
from polyclinic.data.grid import Grid
from polyclinic.data.source import (
    Source,
    cell_text,
    missing_condition,
    number,
    open_file,
    open_frame,
    quoted,
)
from polyclinic.data.units import conversion

Floats = NDArray[np.float32]
IN_MEMORY = 2**30  # bytes of a column's series up to which they are held in memory
DUCKDB_MEMORY = "2GB"  # what joins the values of steps may hold; more is put on disk meanwhile
_JOINS = {
    "mean": "avg(v)",
    "last": "arg_max(v, {'t': t, 'r': r})",
    "first": "arg_min(v, {'t': t, 'r': r})",
    "min": "min(v)",
    "max": "max(v)",
    "sum": "sum(v)",
}


@dataclass(frozen=True)
class Series:
    """Series of one column at one site.

    values         (n, steps, variables) in the codebook's units, NaN where nothing was measured
    centre, spread  of the variables: networks read (value - centre) / spread
    """

    site: str
    column: str
    values: Floats
    centre: Floats
    spread: Floats
    kind: Kind = "series"

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape[1:]

    @cached_property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(repr((self.values.shape,)).encode())
        for one in (self.centre, self.spread, self.values):
            digest.update(np.ascontiguousarray(one).data)
        return digest.hexdigest()[:16]

    def read(self, positions: NDArray[np.int64]) -> Floats:
        """The series at `positions`, (n, steps, variables), NaN where nothing was measured."""
        found: Floats = (np.asarray(self.values[positions]) - self.centre) / self.spread
        return found


@dataclass(frozen=True)
class Counted:
    """Rows of a long table by what is wrong with them."""

    strangers: int = 0
    unknown: int = 0
    not_number: int = 0
    not_time: int = 0
    unknown_unit: int = 0
    outside: int = 0
    off_grid: int = 0


class Long:
    """A long table of one site, open.

    keys   names of the patients, in the order of the items
    start  seconds since 1970 of time 0 of each, for timestamps
    """

    def __init__(
        self,
        source: Source,
        column: Column,
        mapped: Mapped,
        site: str,
        name: str,
        keys: Iterable[str],
        start: NDArray[np.float64] | None = None,
    ) -> None:
        if column.series is None:
            raise ValueError(f"{name} has no grid")
        self.grid: Grid = column.series
        self.source, self.column, self.mapped = source, column, mapped
        self.site, self.name = site, name
        named = pd.DataFrame({"key": pd.Series(list(keys), dtype=object)})
        named["position"] = np.arange(len(named), dtype=np.int64)
        named["start"] = np.zeros(len(named)) if start is None else start
        self.n = len(named)
        self._check_columns()
        run = source.connection
        run.execute("SET threads = 1")  # so that sums are added in one order
        run.execute("SET enable_progress_bar = false")
        run.register("series_keys", named)
        run.register("series_names", self._names())
        run.register("series_units", self._units())

    def read(self) -> tuple[Counted, Floats]:
        """Rows by what is wrong, each once; and all series in the codebook's units, (n, steps,
        variables), without these rows."""
        found, wrong = _empty((self.n, *self.grid.shape)), dict.fromkeys(_KINDS, 0)
        joins = sorted({v.join for v in self.grid.variables.values()})
        how = np.array([joins.index(v.join) for v in self.grid.variables.values()])
        good = ", ".join(f"CASE WHEN wrong = '' THEN {one} END AS {one}" for one in "psi")
        query = (
            f"SELECT wrong, p, s, i, count(*), {', '.join(_JOINS[join] for join in joins)} FROM "
            f"(SELECT wrong, {good}, t, r, v FROM ({self._rows()})) GROUP BY wrong, p, s, i"
        )
        with tempfile.TemporaryDirectory() as folder:
            self._run(f"SET temp_directory = {quoted(folder)}")
            self._run(f"SET memory_limit = '{DUCKDB_MEMORY}'")
            answer = self._run(query)
            while len(part := answer.fetch_df_chunk(64)):
                kept = part[part.iloc[:, 0] == ""]
                p, s, i = (kept.iloc[:, c].to_numpy(np.int64) for c in range(1, 4))
                joined = kept.iloc[:, 5:].to_numpy(np.float64)
                found[p, s, i] = joined[np.arange(len(kept)), how[i]]
                for kind, rows in zip(part.iloc[:, 0], part.iloc[:, 4], strict=True):
                    wrong[kind] += int(rows)
        return Counted(*(wrong[kind] for kind in _KINDS[2:])), found

    def _run(self, query: str) -> Any:
        try:
            return self.source.connection.execute(query)
        except duckdb.Error:
            raise InputError(
                f"{self.site}, column {self.name}: its long table cannot be read",
                code="BAD_FILE",
                site=self.site,
                rule="every line of the table has the same number of fields",
                next="open the file and look at its first lines",
            ) from None

    def _check_columns(self) -> None:
        grid = self.grid
        wanted = [grid.patient, grid.time, grid.variable, grid.value]
        wanted += [grid.unit] if grid.unit else []
        for name in wanted:
            if name not in self.source.names:
                raise InputError(
                    f"{self.site}, column {self.name}: its long table has no column {name}",
                    code="NO_COLUMN",
                    site=self.site,
                    rule="a long table has the patient, the time, the variable and the value",
                    next=f"name its columns in [columns.{self.name}.series]",
                )

    def _names(self) -> pd.DataFrame:
        """Every name of a variable: its place, factor and offset of its usual unit, its range."""
        own = {**self.grid.names(), **(self.mapped.variables or {})}
        places = {name: i for i, name in enumerate(self.grid.variables)}
        lines = []
        for name, ours in own.items():
            variable = self.grid.variables[ours]
            unit = (self.mapped.variable_units or {}).get(ours)
            factor, offset = 1.0, 0.0
            if unit is not None:
                factor, offset = conversion(unit, variable.unit or "no unit", variable.molar_mass)
            low, high = variable.range or (-np.inf, np.inf)
            lines.append((name, places[ours], factor, offset, low, high))
        return pd.DataFrame(lines, columns=["own", "i", "factor", "shift", "low", "high"])

    def _units(self) -> pd.DataFrame:
        """How values in the units that the table names become the codebook's."""
        lines = []
        if self.grid.unit:
            units = self._run(f"SELECT DISTINCT {cell_text(self.grid.unit)} FROM source").fetchall()
            for i, variable in enumerate(self.grid.variables.values()):
                for (unit,) in units:
                    try:
                        pair = conversion(unit or "", variable.unit or "", variable.molar_mass)
                    except InputError:
                        continue
                    lines.append((i, unit, *pair))
        return pd.DataFrame(lines, columns=["j", "u", "factor", "shift"]).astype(
            {"j": "int64", "u": "str", "factor": "float64", "shift": "float64"}
        )

    def _time(self) -> str:
        """SQL for a cell's time in hours since the start."""
        text = cell_text(self.grid.time)
        if self.grid.clock == "hh:mm":
            parts = (f"TRY_CAST(split_part({text}, ':', {i}) AS DOUBLE)" for i in (1, 2))
            return " + ".join(f"{part} / {per}" for part, per in zip(parts, (1, 60), strict=True))
        if self.grid.clock == "timestamp":
            return f"(epoch(TRY_CAST({text} AS TIMESTAMP)) - k.start) / 3600"
        return f"{number(text, self.source.format)} * {self.grid.clock_hours!r}"

    def _rows(self) -> str:
        """SQL for patient, step, variable, time, order and value of each row, and what is wrong."""
        grid, how = self.grid, self.source.format
        value = cell_text(grid.value)
        missing = missing_condition(value, how, self.column, Mapped())
        agreed, foreign, units = f"{number(value, how)} * n.factor + n.shift", "false", ""
        if grid.unit:
            unit = cell_text(grid.unit)
            factor, shift = "coalesce(u.factor, n.factor)", "coalesce(u.shift, n.shift)"
            agreed = f"{number(value, how)} * {factor} + {shift}"
            foreign = f"({unit} IS NOT NULL AND {unit} != '' AND u.j IS NULL)"
            units = f"LEFT JOIN series_units AS u ON u.j = n.i AND u.u = {unit}"
        ordered = any(v.join in ("first", "last") for v in grid.variables.values())
        place = "row_number() OVER ()" if ordered else "0"
        return f"""
            SELECT *, TRY_CAST(floor(t / {grid.hours!r} + 1e-9) AS BIGINT) AS s, CASE
                WHEN p IS NULL THEN 'stranger' WHEN i IS NULL THEN 'unknown'
                WHEN m THEN 'gap' WHEN bad_unit THEN 'unit'
                WHEN v IS NULL OR NOT isfinite(v) THEN 'number'
                WHEN t IS NULL OR NOT isfinite(t) THEN 'time'
                WHEN v < low OR v > high THEN 'outside'
                WHEN t / {grid.hours!r} + 1e-9 < 0
                    OR t / {grid.hours!r} + 1e-9 >= {grid.length} THEN 'grid'
                ELSE '' END AS wrong
            FROM (SELECT k.position AS p, n.i AS i, n.low, n.high, {missing} AS m, r,
                {self._time()} AS t,
                {agreed} AS v,
                {foreign} AS bad_unit
                FROM (SELECT *, {place} AS r FROM source) AS lines
                LEFT JOIN series_keys AS k ON k.key = {cell_text(grid.patient)}
                LEFT JOIN series_names AS n ON n.own = {cell_text(grid.variable)}
                {units})
        """


_KINDS = ("", "gap", "stranger", "unknown", "number", "time", "unit", "outside", "grid")


def open_long(where: Any, codebook: Codebook, site: str) -> Source:
    """A long table, from a path or a frame; a file has a header whatever the site's table has."""
    if not isinstance(where, (str, Path)):
        return open_frame(where, codebook, site)
    how = codebook.file_of(site).model_copy(update={"header": True})
    plain = codebook.model_copy(update={"file": how, "site": {}})
    return open_file(where, plain, site, streamed=True)


def read_series(long: Long) -> Series:
    """All series of a column. Raises InputError: NOT_A_NUMBER, NOT_A_TIME, UNKNOWN_UNIT,
    OUT_OF_RANGE, UNKNOWN_VARIABLE."""
    counted, values = long.read()
    for code, count, what, rule, then in problems(counted, long.grid, long.name):
        raise InputError(
            f"{long.site}, column {long.name}: {count} "
            f"row{' holds' if count == 1 else 's hold'} {what} in its long table",
            code=code,
            site=long.site,
            rule=rule,
            next=f"at {long.site}: polyclinic check; then {then}",
        )
    scales = np.array([v.scale for v in long.grid.variables.values()], dtype=np.float32)
    return Series(long.site, long.name, values, scales[:, 0], scales[:, 1])


def problems(found: Counted, grid: Grid, name: str) -> list[tuple[str, int, str, str, str]]:
    """Code, number of rows, what they hold, rule and next step of what is refused."""
    section = f"[columns.{name}.series]"
    known = f"variables: {', '.join(grid.variables)}"
    listed = [
        ("NOT_A_NUMBER", found.not_number, "no number", "values are numbers", "correct the data"),
        (
            "NOT_A_TIME",
            found.not_time,
            "no time",
            f'times are read by clock = "{grid.clock}"',
            f"correct clock or start in {section}",
        ),
        (
            "UNKNOWN_UNIT",
            found.unknown_unit,
            "a unit of another kind",
            "units are UCUM, and of the kind that the codebook says",
            "correct the units, or the codebook's",
        ),
        (
            "OUT_OF_RANGE",
            found.outside if grid.outside == "error" else 0,
            "a value outside its variable's range",
            f"each variable has its range in {section}",
            f'correct the data, declare a unit, or say outside = "drop" in {section}',
        ),
        (
            "UNKNOWN_VARIABLE",
            found.unknown if grid.unknown == "error" else 0,
            "a variable that the codebook does not have",
            known,
            f'give it as an alias, or say unknown = "drop" in {section}',
        ),
    ]
    return [one for one in listed if one[1]]


def _empty(shape: tuple[int, ...]) -> Floats:
    """NaN everywhere; of many patients in a file without a name, which ends with the process."""
    if int(np.prod(shape)) * 4 <= IN_MEMORY:
        return np.full(shape, np.nan, dtype=np.float32)
    with tempfile.TemporaryFile() as file:
        found = np.memmap(file, dtype=np.float32, mode="w+", shape=shape)
    for start in range(0, shape[0], 1024):
        found[start : start + 1024] = np.nan
    return found
