"""Rows that are in memory of the process that asks, given to workers on the same machine.

A worker reads its parts through a socket that is a file in a folder of this account, into memory of
its own: nothing is written to a disk, and no port is open.
"""

from __future__ import annotations

import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.engines.spool import about, refuse_media, with_rows

AT_ONCE = 1 << 20  # bytes that are handed over by one call
PAUSE = 0.1  # seconds until somebody is let in where there were too many open files
SPAN = np.dtype(("<i8", (2,)))  # of rows: the first, and the one behind the last
Array = NDArray[Any]


@dataclass(frozen=True)
class Served:
    """Rows behind a socket.

    arrays  kind and shape of a row of each array, and whether it lies column by column: of the
            columns, then of the ordinals that there are
    about   what `Partition` knows beside its columns
    """

    address: str
    columns: tuple[str, ...]
    arrays: tuple[tuple[str, tuple[int, ...], bool], ...]
    about: Mapping[str, Any]
    mapped: bool = False

    @property
    def gone(self) -> bool:
        return not Path(self.address).exists()

    def needed(self, plan: Plan) -> tuple[str, ...]:
        """All columns: what is in memory has been chosen before."""
        return self.columns

    def bytes(self, first: int, stop: int, columns: Sized) -> int:
        """Of memory that these rows take; columns are all of them, or none."""
        return (stop - first) * self._row_bytes if columns else 0

    @cached_property
    def _row_bytes(self) -> int:
        return sum(np.dtype((kind, row)).itemsize for kind, row, _ in self.arrays)

    def load(self, first: int, stop: int, columns: Sequence[str]) -> Partition:
        """The rows from `first` up to `stop`."""
        with socket.socket(socket.AF_UNIX) as talk:
            talk.connect(self.address)
            talk.sendall(np.array([first, stop], "<i8").tobytes())
            found = [_received(talk, stop - first, *one) for one in self.arrays]
        own = iter(found[len(self.columns) :])
        values = dict(zip(self.columns, found, strict=False))
        return with_rows(values, lambda name: next(own), first, self.about)

    def to_data(self) -> dict[str, Any]:
        """As workers get it."""
        arrays = [[kind, list(row), across] for kind, row, across in self.arrays]
        return {
            "address": self.address,
            "columns": list(self.columns),
            "arrays": arrays,
            "about": dict(self.about),
        }

    @staticmethod
    def from_data(data: Mapping[str, Any]) -> Served:
        arrays = tuple((kind, tuple(row), across) for kind, row, across in data["arrays"])
        return Served(data["address"], tuple(data["columns"]), arrays, data["about"])


def serve(rows: Partition, most: int) -> tuple[Served, Callable[[], None]] | None:
    """Give rows to who asks from now on; and what ends it. None: they take more than `most` bytes,
    or this system has no such sockets."""
    refuse_media(rows)
    ordinals = [one for one in (rows.key, rows.person) if one is not None]
    arrays = [np.asarray(one) for one in (*rows.columns.values(), *ordinals)]
    if sum(one.nbytes for one in arrays) > most:
        return None
    folder = tempfile.mkdtemp(prefix="polyclinic-rows-")
    address, door = f"{folder}/rows", None
    try:
        door = socket.socket(socket.AF_UNIX)
        door.bind(address)  # where its name is too long there is none
        door.listen(socket.SOMAXCONN)
        _beside(_open, door, address, arrays)
    except (AttributeError, OSError, RuntimeError):  # no such sockets; too many files, threads
        shutil.rmtree(folder, ignore_errors=True)
        if door is not None:
            door.close()
        return None
    kinds = tuple((one.dtype.str, one.shape[1:], _across(one)) for one in arrays)
    return Served(address, tuple(rows.columns), kinds, about(rows)), lambda: _end(door, folder)


def _end(door: socket.socket, folder: str) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):
        door.shutdown(socket.SHUT_RDWR)  # who waits at it wakes, and closes it


def _beside(work: Callable[..., None], *about: Any) -> None:
    Thread(target=work, args=about, daemon=True, name="polyclinic rows").start()


def _open(door: socket.socket, address: str, arrays: Sequence[Array]) -> None:
    """Let everybody in until the address is removed. Closed elsewhere, the door's number could be
    that of the next one before this thread has seen it."""
    with door:
        while True:
            try:
                talk, _ = door.accept()
            except OSError:
                if not Path(address).exists():
                    return
                time.sleep(PAUSE)  # there are too many open files: later there may not be
                continue
            try:
                _beside(_give, talk, arrays)
            except RuntimeError:  # there are too many threads
                _give(talk, arrays)


def _give(talk: socket.socket, arrays: Sequence[Array]) -> None:
    with talk, suppress(OSError):  # who asked has ended
        asked = bytearray(SPAN.itemsize)
        _fill(talk, memoryview(asked))
        first, stop = np.frombuffer(asked, "<i8").tolist()
        for values in arrays:
            for piece in _pieces(values[first:stop]):
                for at in range(0, len(piece), AT_ONCE):
                    talk.sendall(piece[at : at + AT_ONCE])


def _across(values: Array) -> bool:
    """Whether each column lies in one piece, and rows do not."""
    return (
        values.ndim == 2 and not values.flags.c_contiguous and values.strides[0] == values.itemsize
    )


def _pieces(values: Array) -> Iterator[memoryview]:
    """The bytes of some rows, piece by piece as a worker is to have them."""
    pieces: Iterable[Array] = values.T if _across(values) else [values]
    if not values.flags.c_contiguous and not _across(values):
        step = max(AT_ONCE // values[:1].nbytes, 1)
        pieces = (values[at : at + step] for at in range(0, len(values), step))
    for piece in pieces:
        yield np.ascontiguousarray(piece).reshape(-1).view(np.uint8).data


def _received(
    talk: socket.socket, n_rows: int, kind: str, row: tuple[int, ...], across: bool
) -> Array:
    found = np.empty((n_rows, *row), kind, order="F" if across else "C")
    _fill(talk, (found.T if across else found).reshape(-1).view(np.uint8).data)
    return found


def _fill(talk: socket.socket, room: memoryview) -> None:
    at = 0
    while at < len(room):
        got = talk.recv_into(room[at:])
        if not got:
            raise ConnectionResetError("the rows are not given any more")
        at += got
