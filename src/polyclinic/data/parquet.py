"""Parquet files on any file system that pyarrow reaches, as parts that are read one by one."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from polyclinic.core.errors import InputError, PolyclinicError

SUFFIXES = (".parquet", ".pq")


@dataclass(frozen=True)
class Group:
    """A row group: what is read at once."""

    file: int
    group: int
    rows: int
    bytes: int


@dataclass(frozen=True)
class Lake:
    """Files with the same columns.

    base    address of the folder that `files` are in, as `pyarrow.fs` reads it
    names   of the columns that the files hold
    marks   size, time and rows of each file: it is read only while these are the same
    key     of the hashes that stand for patients while parts are put together
    """

    base: str
    files: tuple[str, ...]
    names: tuple[str, ...]
    marks: tuple[tuple[int, int, int], ...]
    groups: tuple[Group, ...]
    key: str = field(default_factory=lambda: secrets.token_hex(8), repr=False)

    @cached_property
    def _system(self) -> Any:
        return _file_system(self.base)[0]

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
                opened = parquet.ParquetFile(file)
                if (*mark, opened.metadata.num_rows) != self.marks[group.file]:
                    raise self._changed(path)
                read = opened.read_row_group(group.group, columns=list(columns), use_threads=False)
                return read if columns else pa.table({"rows": pa.nulls(group.rows)})
        except (OSError, pa.ArrowException) as error:
            raise PolyclinicError(
                f"{self.where(group)} cannot be read ({type(error).__name__})",
                code="UNREADABLE",
                rule="every worker reads its parts of the files itself",
                next="check that the file is whole and that each worker's machine reaches it",
            ) from None

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


def open_lake(where: str, site: str) -> Lake:
    """The files that a path, a folder or a pattern names, in the order of their names.

    Raises
    ------
    InputError : NO_FILE, BAD_FILE.
    """
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise InputError(
            "pyarrow is not installed",
            code="MISSING_EXTRA",
            rule="Parquet files are read in parts by pyarrow",
            next='pip install "polyclinic[cluster]"',
        ) from None
    try:
        base, system, files = _files(where)
        marks, groups, names = [], [], None
        for number, path in enumerate(files):
            with system.open_input_file(path) as file:
                opened = parquet.ParquetFile(file)
                about, kinds = opened.metadata, [(f.name, str(f.type)) for f in opened.schema_arrow]
            if names is not None and kinds != names:
                raise InputError(
                    f"{site}: {path} has other columns than {files[0]}",
                    code="BAD_FILE",
                    site=site,
                    rule="the files of a scan have the same columns in the same order",
                    next="take the other file out, or export it anew",
                )
            names = kinds
            marks.append((*_mark(system, path), about.num_rows))
            sizes = [about.row_group(i) for i in range(about.num_row_groups)]
            groups += [
                Group(number, i, one.num_rows, one.total_byte_size) for i, one in enumerate(sizes)
            ]
    except (OSError, ArrowException) as error:
        raise _no_file(site, where, f"cannot be read ({type(error).__name__})") from None
    if names is None or not groups:
        raise _no_file(site, where, "names no Parquet file with rows")
    return Lake(base, tuple(files), tuple(n for n, _ in names), tuple(marks), tuple(groups))


def _file_system(base: str) -> tuple[Any, str]:
    from pyarrow import fs

    system, path = fs.FileSystem.from_uri(base)
    return system, path


def _files(where: str) -> tuple[str, Any, list[str]]:
    """Address of the folder, its file system, and the files that `where` names."""
    from pyarrow import fs

    if "://" not in where:
        where = "file://" + str(Path(where).absolute())
    scheme, _, rest = where.partition("://")
    rest, _, options = rest.partition("?") if scheme != "file" else (rest, "", "")
    wild = rest.find("*")
    folder = rest[:wild].rpartition("/")[0] if wild >= 0 else rest
    address = Path(folder).as_uri() if scheme == "file" else f"{scheme}://{folder}"
    base = address + (f"?{options}" if options else "")
    system, root = _file_system(base)
    about = system.get_file_info([root])[0]
    if about.type == fs.FileType.File:
        return base, system, [root]
    if about.type == fs.FileType.NotFound:
        return base, system, []
    found = system.get_file_info(fs.FileSelector(root, recursive=True))
    paths = sorted(f.path for f in found if f.type == fs.FileType.File)
    if wild < 0:
        return base, system, [p for p in paths if p.lower().endswith(SUFFIXES)]
    tail = rest[len(folder) :].lstrip("/")
    fits = re.compile(_pattern(tail))
    return base, system, [p for p in paths if fits.fullmatch(p[len(root) :].lstrip("/"))]


def _pattern(glob: str) -> str:
    """A pattern whose * stays within a folder, and whose **/ is any folders."""
    steps = {"**/": "(?:.*/)?", "*": "[^/]*"}
    return "".join(steps.get(one) or re.escape(one) for one in re.split(r"(\*\*/|\*)", glob))


def _mark(system: Any, path: str) -> tuple[int, int]:
    """Size and time of a file."""
    about = system.get_file_info([path])[0]
    return int(about.size or 0), int(about.mtime_ns or 0)


def _no_file(site: str, where: str, what: str) -> InputError:
    return InputError(
        f"{site}: {where} {what}",
        code="NO_FILE",
        site=site,
        rule="a scan is a Parquet file, a folder of them, or a pattern such as visits/*.parquet",
        next="check the path, and that this account may read it",
    )
