"""Parquet files on any file system that pyarrow reaches, as parts that are read one by one."""

from __future__ import annotations

import importlib.util
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from polyclinic.core.errors import InputError, PolyclinicError
from polyclinic.data.file_systems import Unreached, about, files_of, opened, reason
from polyclinic.data.query import refuse_secrets

SUFFIXES = (".parquet", ".pq")


@dataclass(frozen=True)
class Group:
    """A row group: what is read at once."""

    file: int
    group: int
    rows: int
    bytes: int


@dataclass(frozen=True)
class LeftOut:
    """A row group that cannot be read, or a whole file (`group` and `rows` None)."""

    file: str
    group: int | None
    rows: int | None


@dataclass(frozen=True)
class Lake:
    """Files with the same columns.

    base    address of the folder that `files` are in, as `pyarrow.fs` reads it
    names   of the columns that the files hold
    marks   size, time and rows of each file: it is read only while these are the same
    key     of the hashes that stand for patients while parts are put together
    content digest of rows that were written for this process; "": the files are somebody else's
    left_out  what cannot be read, and was found so before the first round
    kept    what the files live as long as; None: they are somebody else's
    """

    base: str
    files: tuple[str, ...]
    names: tuple[str, ...]
    marks: tuple[tuple[int, int, int], ...]
    groups: tuple[Group, ...]
    key: str = field(default_factory=lambda: secrets.token_hex(8), repr=False)
    content: str = ""
    left_out: tuple[LeftOut, ...] = ()
    kept: object = field(default=None, compare=False, repr=False)

    @property
    def identity(self) -> Any:
        """What is another where the rows are others."""
        rows = self.content or self.marks
        return (rows, self.left_out) if self.left_out else rows

    @cached_property
    def _system(self) -> Any:
        return opened(self.base)[0]

    def where(self, group: Group) -> str:
        """File and row group, in words."""
        return f"{self.files[group.file]}, row group {group.group}"

    def read(self, group: Group, columns: Sequence[str]) -> Any:
        """Some columns of a part as an arrow table. Raises UNREADABLE, SOURCE_CHANGED."""
        import pyarrow as pa
        from pyarrow import parquet

        path = self.files[group.file]
        try:
            mark = _mark(self._system, path)
            with self._system.open_input_file(path) as file:
                whole = parquet.ParquetFile(file)
                if (*mark, whole.metadata.num_rows) != self.marks[group.file]:
                    raise self._changed(path)
                read = whole.read_row_group(group.group, columns=list(columns), use_threads=False)
                return read if columns else pa.table({"rows": pa.nulls(group.rows)})
        except (OSError, pa.ArrowException) as error:
            raise PolyclinicError(
                f"{self.where(group)} cannot be read ({reason(error)})",
                code="UNREADABLE",
                rule="every worker reads its parts of the files itself",
                next=error.next
                if isinstance(error, Unreached)
                else "check that the file is whole and that each worker's machine reaches it; "
                'or go on without: unreadable = "leave out", of polyclinic.scan or [data]',
            ) from None

    def sound(self, group: Group, columns: Sequence[str]) -> bool:
        """Whether a part can be read. Raises SOURCE_CHANGED; UNREADABLE where its folder cannot be
        asked either."""
        try:
            self.read(group, columns)
        except PolyclinicError as error:
            if error.code != "UNREADABLE" or not _answers(self.base):
                raise
            return False
        return True

    def counts(self, group: Group, column: str) -> dict[str | None, int]:
        """Rows of a part by the text of a column. Raises UNREADABLE, SOURCE_CHANGED."""
        found = _texts(self.read(group, [column])[column]).value_counts()
        return {
            str(one["values"]) if one["values"].is_valid else None: one["counts"].as_py()
            for one in found
        }

    def without(self, groups: Iterable[Group], site: str) -> Lake:
        """The same with these parts left out. Raises NO_FILE where none would be left."""
        gone = tuple(groups)
        rest = tuple(group for group in self.groups if group not in gone)
        if not rest:
            raise _no_file(site, self.base, "has no part that can be read")
        more = (LeftOut(self.files[one.file], one.group, one.rows) for one in gone)
        return replace(self, groups=rest, left_out=(*self.left_out, *more))

    def _changed(self, path: str) -> PolyclinicError:
        return PolyclinicError(
            f"{path} is not the file that it was when the run began",
            code="SOURCE_CHANGED",
            rule="all rounds of a run are about the same rows",
            next="start again over the new files",
        )

    def to_data(self) -> dict[str, Any]:
        """As workers get it."""
        return {
            "base": self.base,
            "files": list(self.files),
            "names": list(self.names),
            "marks": [list(one) for one in self.marks],
            "groups": [[g.file, g.group, g.rows, g.bytes] for g in self.groups],
            "key": self.key,
        }

    @staticmethod
    def from_data(data: Mapping[str, Any]) -> Lake:
        return Lake(
            data["base"],
            tuple(data["files"]),
            tuple(data["names"]),
            tuple(tuple(one) for one in data["marks"]),
            tuple(Group(*one) for one in data["groups"]),
            data["key"],
        )


def _texts(column: Any) -> Any:
    return column.cast("string")


def matching(column: Any, text: str) -> Any:
    """Which cells of an arrow column have this text."""
    from pyarrow import compute

    return compute.equal(_texts(column), text)


def need_pyarrow() -> None:
    """Raises InputError MISSING_EXTRA."""
    if importlib.util.find_spec("pyarrow") is None:
        raise InputError(
            "pyarrow is not installed",
            code="MISSING_EXTRA",
            rule="Parquet files are read in parts by pyarrow",
            next='pip install "polyclinic[cluster]"',
        )


def open_lake(where: str, site: str, leave_out: bool = False) -> Lake:
    """The files that a path, a folder or a pattern names, in the order of their names.

    leave_out  whether a file that cannot be opened is noted in `left_out`, and not met with an
               error

    Raises
    ------
    InputError : NO_FILE, BAD_FILE, PASSWORD_SHOWN, MISSING_EXTRA.
    """
    need_pyarrow()
    from pyarrow import ArrowException

    refuse_secrets(where)
    try:
        base, system, files = files_of(where, SUFFIXES)
    except (OSError, ArrowException) as error:
        raise _unread(site, where, error) from None
    marks, groups, left_out = list[tuple[int, int, int]](), list[Group](), list[LeftOut]()
    first: tuple[str, list[tuple[str, str]]] | None = None
    for number, path in enumerate(files):
        try:
            kinds, mark, sizes = _footer(system, path)
        except (OSError, ArrowException) as error:
            if not leave_out or not _answers(base):
                raise _unread(site, path, error) from None
            left_out.append(LeftOut(path, None, None))
            marks.append((0, 0, 0))
            continue
        first = first or (path, kinds)
        if kinds != first[1]:
            raise InputError(
                f"{site}: {path} has other columns than {first[0]}",
                code="BAD_FILE",
                site=site,
                rule="the files of a scan have the same columns in the same order",
                next="take the other file out, or export it anew",
            )
        marks.append(mark)
        groups += [Group(number, i, rows, size) for i, (rows, size) in enumerate(sizes)]
    if first is None or not groups:
        raise _no_file(site, where, "names no Parquet file with rows")
    names = tuple(name for name, _ in first[1])
    return Lake(base, tuple(files), names, tuple(marks), tuple(groups), left_out=tuple(left_out))


def _footer(
    system: Any, path: str
) -> tuple[list[tuple[str, str]], tuple[int, int, int], list[tuple[int, int]]]:
    """Columns and types of a file, its mark, and rows and bytes of each row group."""
    from pyarrow import parquet

    with system.open_input_file(path) as file:
        read = parquet.ParquetFile(file)
        footer, kinds = read.metadata, [(f.name, str(f.type)) for f in read.schema_arrow]
    parts = [footer.row_group(i) for i in range(footer.num_row_groups)]
    sizes = [(one.num_rows, one.total_byte_size) for one in parts]
    return kinds, (*_mark(system, path), footer.num_rows), sizes


def _answers(base: str) -> bool:
    """Whether a folder can be asked what is in it: if not, nothing is wrong with its files."""
    try:
        about(*opened(base))
    except OSError:
        return False
    return True


def _mark(system: Any, path: str) -> tuple[int, int]:
    """Size and time of a file."""
    found = about(system, path)
    return int(found.size or 0), int(found.mtime_ns or 0)


def _unread(site: str, where: str, error: Exception) -> InputError:
    return _no_file(site, where, f"cannot be read ({reason(error)})", error)


def _no_file(site: str, where: str, what: str, error: Exception | None = None) -> InputError:
    return InputError(
        f"{site}: {where} {what}",
        code="NO_FILE",
        site=site,
        rule="a scan is a Parquet file, a folder of them, or a pattern such as visits/*.parquet",
        next=error.next
        if isinstance(error, Unreached)
        else "check the path, and that this account may read it",
    )
