"""Rows that stay where they lie: Parquet files that are read in parts, by whoever needs them.

What a part is read as is what `read_table` makes of the same rows. A patient's rows stand side by
side in the order of the files; of which patient a row is, and how many rows a cohort selects, comes
from a survey of each part.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from polyclinic.core.errors import InputError, PolyclinicError
from polyclinic.core.partition import Partition
from polyclinic.data.codebook import Codebook, Mapped
from polyclinic.data.cohort import Cohort
from polyclinic.data.located import Located, Survey, located
from polyclinic.data.parquet import Group, Lake, matching, open_lake
from polyclinic.data.read import patient_cells, to_table
from polyclinic.data.source import open_arrow
from polyclinic.data.table import Table

Ints = NDArray[np.int64]
READERS = 4  # parts that are read at once where it is only looked whether they can be
NAMED = 5  # parts that are named, of those that cannot
FEW = 5  # rows that are not counted in words for others


@dataclass(frozen=True)
class Scan:
    """A hospital's rows in files; nothing of them is held here.

    groups  the parts that are read at once, in the order of the rows
    only    a column of the files, and its value in this hospital's rows; None: all rows are its
    """

    site: str
    codebook: Codebook
    lake: Lake
    only: tuple[str, str] | None = None

    @property
    def groups(self) -> tuple[Group, ...]:
        return self.lake.groups

    @property
    def n_rows(self) -> int:
        return sum(group.rows for group in self.groups)

    @property
    def columns(self) -> tuple[str, ...]:
        return self.codebook.usable

    @cached_property
    def fingerprint(self) -> str:
        """Name of the content, from the ends of the files: changed files are other data."""
        about = (self.lake.identity, self.only) if self.only else self.lake.identity
        return hashlib.sha256(repr(about).encode()).hexdigest()[:16]

    def at(self, site: str) -> Scan:
        """The same rows as those of the hospital of this name. Raises InputError NO_COLUMN."""
        found = replace(self, site=site)
        found.check()
        return found

    def check(self) -> None:
        """Raises InputError for what a scan does not do, and for columns that are not there."""
        if self.codebook.media:
            raise _not_scanned(self.site, "images and series", "polyclinic.read takes them")
        if self.codebook.patient.duplicates != "warn":
            rule = f'[patient] duplicates = "{self.codebook.patient.duplicates}"'
            raise _not_scanned(self.site, rule, 'take copies out of the files, and use "warn"')
        absent = [one for one in self._stored.values() if one not in self.lake.names]
        if absent:
            raise InputError(
                f"{self.site} has no column {absent[0]}",
                code="NO_COLUMN",
                site=self.site,
                rule=f"every hospital has the codebook's columns; {self.site} has: "
                f"{', '.join(self.lake.names)}",
                next=f"name it: [site.{self.site}.map]",
            )

    @cached_property
    def _stored(self) -> dict[str, str]:
        """The files' own name of each column of the codebook that they hold."""
        section = self.codebook.section(self.site)
        names = [n for n in self.codebook.usable if n in self.codebook.columns]
        if self.codebook.patient.id != "row":
            names.append(self.codebook.patient.id)
        here = [name for name in names if name not in section.not_recorded]
        return {name: section.map.get(name, Mapped()).column or name for name in here}

    def readable(self) -> Scan:
        """The same without what cannot be read, by reading each part once. Raises NO_FILE."""
        names, lake = tuple(dict.fromkeys(self._stored.values())), self.lake
        with ThreadPoolExecutor(min(READERS, os.cpu_count() or 1)) as pool:
            sound = list(pool.map(lambda group: lake.sound(group, names), self.groups))
        gone = [group for group, well in zip(self.groups, sound, strict=True) if not well]
        return replace(self, lake=lake.without(gone, self.site))

    @property
    def left_out(self) -> str:
        """What could not be read, in words; "": nothing."""
        gone = self.lake.left_out
        if not gone:
            return ""
        rows = sum(one.rows or 0 for one in gone)
        many = f"{rows:,} rows" if rows >= FEW or not rows else f"fewer than {FEW} rows"
        unknown = any(one.rows is None for one in gone)
        counted = " and ".join(
            [many] * bool(rows) + ["files of which nobody knows the rows"] * unknown
        )
        named = [
            one.file.rpartition("/")[2] + ("" if one.group is None else f", row group {one.group}")
            for one in gone[:NAMED]
        ]
        more = [f"and {len(gone) - NAMED} more"] if len(gone) > NAMED else []
        whose = "files of all hospitals" if self.only else self.site
        return f"{whose}: {counted} cannot be read and are left out: {'; '.join([*named, *more])}"

    def read(self, group: int, columns: Sequence[str]) -> tuple[Table, NDArray[np.uint64] | None]:
        """Some columns of a part, and a keyed hash of the patient of every row (None: of its own).

        Raises what `read_table` raises, with the file and the part; UNREADABLE, SOURCE_CHANGED.
        """
        derived = self.codebook.derived
        used = {c for n in columns if n in derived for c in derived[n].expression.columns}
        wanted = [*columns, *used]
        id_column = self.codebook.patient.id
        names = {self._stored[n] for n in (*wanted, id_column) if n in self._stored}
        rows = self._own(group, names)
        source = open_arrow(rows, self.codebook, self.site)
        try:
            table = to_table(source, self.codebook, self.site, wanted)
            if id_column == "row":
                return table, None
            cells = patient_cells(source, self.codebook, self.site, self._stored[id_column])
        except PolyclinicError as error:
            where = self.lake.where(self.groups[group])
            error.what = f"{error.what} ({where})"
            error.args = (error.what,)
            raise
        finally:
            source.connection.close()
        hashed = pd.util.hash_array(cells.to_numpy(dtype=object), hash_key=self.lake.key)
        return table, hashed

    def _own(self, group: int, names: set[str]) -> Any:
        """Some columns of this hospital's rows of a part."""
        if self.only is None:
            return self.lake.read(self.groups[group], [n for n in self.lake.names if n in names])
        by, value = self.only
        found = self.lake.read(
            self.groups[group], [n for n in self.lake.names if n in names or n == by]
        )
        return found.filter(matching(found[by], value))

    def split(self, by: str) -> dict[str, Scan]:
        """One scan per value of a column of the files, in the order in which these come; the column
        is read once, here.

        Raises
        ------
        InputError : NO_COLUMN, also of the codebook at one of them; MISSING_VALUES.
        """
        check_by(by, self.lake.names)
        with ThreadPoolExecutor(min(READERS, os.cpu_count() or 1)) as pool:
            counts = list(pool.map(lambda group: self.lake.counts(group, by), self.groups))
        gaps = sum(one.get(None, 0) for one in counts)
        if gaps:
            raise InputError(
                f"{by}: {gaps} rows belong to no site",
                code="MISSING_VALUES",
                rule="every row has a site",
                next="complete the column, or leave the rows out of the files",
            )
        values = dict.fromkeys(value for one in counts for value in one if value is not None)
        return {
            value: self._of(by, value, [one.get(value, 0) for one in counts]) for value in values
        }

    def _of(self, by: str, value: str, rows: Sequence[int]) -> Scan:
        """The hospital of a value, which has so many rows in each part."""
        groups = tuple(
            replace(one, rows=n, bytes=one.bytes * n // max(one.rows, 1))
            for one, n in zip(self.groups, rows, strict=True)
            if n
        )
        lake = replace(self.lake, groups=groups)
        return replace(self, lake=lake, only=(by, value)).at(value)

    def to_data(self) -> dict[str, Any]:
        """As workers get it."""
        return {
            "only": None if self.only is None else list(self.only),
            "site": self.site,
            "codebook": self.codebook.to_dict(),
            "lake": self.lake.to_data(),
        }

    @staticmethod
    def from_data(data: Mapping[str, Any]) -> Scan:
        codebook = Codebook.from_dict(data["codebook"])
        only = None if data["only"] is None else (data["only"][0], data["only"][1])
        return Scan(data["site"], codebook, Lake.from_data(data["lake"]), only)


def scan_files(where: str, codebook: Codebook, site: str, leave_out: bool = False) -> Scan:
    """The Parquet files that a path, a pattern with * or an address names.

    leave_out  whether what cannot be read is left out; all of it is then read once, here

    Raises
    ------
    InputError : NO_FILE, BAD_FILE, NO_COLUMN, WRONG_VALUE, PASSWORD_SHOWN.
    """
    found = Scan(site, codebook, open_lake(where, site, leave_out))
    found.check()
    return found.readable() if leave_out else found


def check_by(by: str, names: Sequence[str]) -> None:
    """Raises InputError NO_COLUMN unless the rows have the column that tells hospitals apart."""
    if by not in names:
        raise InputError(
            f"{by} is no column of the rows",
            code="NO_COLUMN",
            rule=f"columns: {', '.join(names)}",
            next="correct by=",
        )


def columns_read(
    names: Sequence[str], codebook: Codebook, site: str
) -> tuple[tuple[str, ...], str | None]:
    """The columns that a scan of files with columns `names` reads, and which of them is the patient
    (None: a row is one).

    Raises
    ------
    InputError : NO_COLUMN, WRONG_VALUE, as `scan_files`.
    """
    found = Scan(site, codebook, Lake("", (), tuple(names), (), ()))
    found.check()
    stored = found._stored
    return tuple(dict.fromkeys(stored.values())), stored.get(codebook.patient.id)


@dataclass(frozen=True)
class _Chosen:
    """Selected rows of one part, with their patients among all and among the selected ones."""

    columns: dict[str, NDArray[np.float64]]
    person: Ints
    key: Ints


@dataclass(frozen=True)
class Selected:
    """The rows of a scan that a cohort selects, not yet read."""

    scan: Scan
    cohort: Cohort | None
    _last: dict[tuple[int, tuple[str, ...]], _Chosen] = field(
        default_factory=dict, compare=False, repr=False
    )

    @property
    def columns(self) -> tuple[str, ...]:
        return self.scan.columns

    @property
    def groups(self) -> int:
        return len(self.scan.groups)

    def survey(self, group: int) -> Survey:
        """How many rows and patients of one part are selected."""
        table, patients = self.scan.read(group, self._needed)
        chosen, inside = self._chosen(table)
        if patients is None:
            return Survey.of_rows(table.n_rows, len(chosen), int(np.count_nonzero(inside)))
        return Survey.of_patients(patients, chosen, inside)

    def locate(self, surveys: Sequence[Survey]) -> Located:
        """Where each selected row is. Raises InputError PATIENT_SPLIT."""
        return located(surveys, self.scan.site)

    def load(self, place: Located, first: int, stop: int, columns: Sequence[str]) -> Partition:
        """The selected rows from `first` up to `stop`, in the order of the files."""
        n_rows = stop - first
        joined = {name: np.empty(n_rows) for name in columns}
        person, key = np.empty(n_rows, np.int64), np.empty(0 if place.single else n_rows, np.int64)
        at = 0
        for group, a, b in place.parts(first, stop):  # into place: nothing is held twice
            one, here = self._group(place, group, tuple(columns)), slice(at, at := at + b - a)
            for name in columns:
                joined[name][here] = one.columns[name][a:b]
            person[here] = one.person[a:b]
            if not place.single:
                key[here] = one.key[a:b]
        about = (self.scan.site, first, person, place.outside, place.population)
        return Partition(joined, None if place.single else key, *about)

    def _group(self, place: Located, group: int, columns: tuple[str, ...]) -> _Chosen:
        """The selected rows of a part. The last one is kept: chunks begin and end within parts."""
        if (group, columns) not in self._last:
            self._last.clear()
            table, patients = self.scan.read(group, [*dict.fromkeys([*self._needed, *columns])])
            chosen, _ = self._chosen(table)
            person, key = place.ordinals(group, patients, chosen, table.n_rows)
            every = len(chosen) == table.n_rows
            taken = {n: table.columns[n] if every else table.columns[n][chosen] for n in columns}
            self._last[group, columns] = _Chosen(taken, person[chosen], key)
        return self._last[group, columns]

    @cached_property
    def _needed(self) -> tuple[str, ...]:
        return () if self.cohort is None else self.cohort.reads

    def _chosen(self, table: Table) -> tuple[Ints, NDArray[np.bool_]]:
        """Positions of the selected rows, and which rows fulfil the condition."""
        if self.cohort is None:
            return np.arange(table.n_rows), np.ones(table.n_rows, dtype=bool)
        return self.cohort.rows(table), self.cohort.inside(table)

    def gather(self) -> Partition:
        """All of it, read here."""
        place = self.locate([self.survey(group) for group in range(self.groups)])
        return self.load(place, 0, place.n_rows, self.columns)

    def to_data(self) -> dict[str, Any]:
        """As workers get it."""
        cohort = None if self.cohort is None else self.cohort.to_data()
        return {"scan": self.scan.to_data(), "cohort": cohort}

    @staticmethod
    def from_data(data: Mapping[str, Any]) -> Selected:
        cohort = None if data["cohort"] is None else Cohort.from_data(data["cohort"])
        return Selected(Scan.from_data(data["scan"]), cohort)


def _not_scanned(site: str, what: str, next: str) -> InputError:
    return InputError(
        f"{site}: {what}",
        code="WRONG_VALUE",
        site=site,
        rule="files that are read in parts hold numbers, levels and dates, and no part knows what "
        "stands in another",
        next=next,
    )
