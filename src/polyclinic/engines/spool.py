"""Rows that are in memory, as files from which the workers of a cluster read them."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.errors import InputError
from polyclinic.core.parsing import PARSING
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan

BLOCK = 1 << 24  # bytes that one thread copies at once
SHARED = "/dev/shm"  # files in memory, where the system has them


@dataclass(frozen=True)
class Spooled:
    """Columns as numpy files in a folder of their own; workers map them into memory.

    about  what `Partition` knows beside its columns
    """

    folder: str
    columns: tuple[str, ...]
    about: Mapping[str, Any]

    @property
    def mapped(self) -> bool:
        return True

    @property
    def gone(self) -> bool:
        return not Path(self.folder).exists()

    def needed(self, plan: Plan) -> tuple[str, ...]:
        """All columns: they are mapped, not read."""
        return self.columns

    def load(self, first: int, stop: int, columns: Sequence[str]) -> Partition:
        """The rows from `first` up to `stop`."""

        def some(name: str) -> Any:
            with PARSING:
                path = Path(self.folder) / f"{name}.npy"
                return np.load(path, mmap_mode="r", allow_pickle=False)[first:stop]

        values = {name: some(f"column-{self.columns.index(name)}") for name in columns}
        return with_rows(values, some, first, self.about)

    def bytes(self, first: int, stop: int, columns: Sized) -> int:
        """Of memory that these rows take: none beside the file's own."""
        return 0

    def to_data(self) -> dict[str, Any]:
        """As workers get it."""
        return {
            "folder": self.folder,
            "columns": list(self.columns),
            "about": dict(self.about),
        }

    @staticmethod
    def from_data(data: Mapping[str, Any]) -> Spooled:
        return Spooled(data["folder"], tuple(data["columns"]), data["about"])


def spool(rows: Partition, places: Sequence[str]) -> Spooled:
    """Write rows into a new folder, which this account alone reads, in the first place with room,
    else in the last."""
    refuse_media(rows)
    size = sum(np.asarray(values).nbytes for values in rows.columns.values())
    room = [place for place in places if size <= _room(place)] or places[-1:]
    folder = Path(tempfile.mkdtemp(prefix="rows-", dir=room[0]))
    for number, values in enumerate(rows.columns.values()):
        _save(folder / f"column-{number}.npy", np.asarray(values))
    for name, ordinals in (("key", rows.key), ("person", rows.person)):
        if ordinals is not None:
            np.save(folder / f"{name}.npy", ordinals, allow_pickle=False)
    return Spooled(str(folder), tuple(rows.columns), about(rows))


def refuse_media(rows: Partition) -> None:
    """Raises WRONG_VALUE for images and series."""
    if rows.media:
        raise InputError(
            "images and series stay in this process",
            code="WRONG_VALUE",
            site=rows.site or None,
            rule="workers of a cluster compute on columns of numbers",
            next="leave engine= out",
        )


def about(rows: Partition) -> dict[str, Any]:
    """What `Partition` knows beside its columns, and which ordinals it has."""
    return {
        "key": rows.key is not None,
        "person": rows.person is not None,
        "site": rows.site,
        "first": rows.first,
        "outside": rows.outside,
        "population": rows.population,
    }


def with_rows(
    values: Mapping[str, NDArray[Any]],
    ordinals: Callable[[str], NDArray[Any]],
    first: int,
    about: Mapping[str, Any],
) -> Partition:
    """Some rows, the first of them the `first` of those that are `about`."""
    key, person = (ordinals(name) if about[name] else None for name in ("key", "person"))
    rest = about["outside"], about["population"]
    return Partition(values, key, about["site"], about["first"] + first, person, *rest)


def _save(path: Path, values: NDArray[Any]) -> None:
    """`np.save`, by several threads where there is much to copy."""
    if values.nbytes <= BLOCK or not values.flags.c_contiguous:
        np.save(path, values, allow_pickle=False)
        return
    with path.open("wb", buffering=0) as file:
        header = np.lib.format.header_data_from_array_1_0(values)
        np.lib.format.write_array_header_1_0(file, header)
        first, whole = file.tell(), values.reshape(-1).view(np.uint8).data

        def copy(start: int) -> None:
            stop = min(start + BLOCK, len(whole))
            while start < stop:
                start += os.pwrite(file.fileno(), whole[start:stop], first + start)

        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            list(pool.map(copy, range(0, len(whole), BLOCK)))


def local_places() -> list[tempfile.TemporaryDirectory[str]]:
    """New folders for rows that processes of this machine are to see, the quick one first."""
    return [
        tempfile.TemporaryDirectory(prefix="polyclinic-rows-", dir=below)
        for below in (SHARED, None)
        if below is None or os.access(below, os.W_OK)
    ]


def _room(place: str) -> int:
    """Bytes of rows that a folder has room for; in memory others need room, too."""
    import psutil

    free = int(shutil.disk_usage(place).free) // 2
    if not Path(place).is_relative_to(SHARED):
        return free
    return min(free, int(psutil.virtual_memory().available) // 4)
