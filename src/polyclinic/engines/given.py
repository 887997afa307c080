"""Rows that are in memory of the process that asks, given to workers: for one fit, or until they
are let go of."""

from __future__ import annotations

import os
import shutil
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from polyclinic.core.errors import InputError
from polyclinic.core.partition import Partition
from polyclinic.data.frames import native
from polyclinic.engines.machines import Machines
from polyclinic.engines.served import Served, serve
from polyclinic.engines.spool import Spooled, spool
from polyclinic.engines.staying import Completed

COLUMN = "held"
Array = NDArray[Any]


@dataclass(frozen=True)
class Stay:
    """An array that stays with workers.

    writeable  whether it could be written to before
    end        lets go of it
    """

    values: Array
    source: Served | Spooled
    writeable: bool
    end: Callable[[], Any]


class Stays:
    """The arrays that stay with the workers of one cluster."""

    def __init__(self) -> None:
        self._all: dict[Any, Stay] = {}

    def hold(self, machines: Machines, rows: Any) -> Any:
        """See `polyclinic.engines.clusters.Cluster.hold`."""
        rows = native(rows)
        if isinstance(rows, pd.DataFrame) and self.of(np.asarray(rows)) is not None:
            return rows
        values = numbers(rows)
        if self.of(values) is None:
            machines.live()  # only of those is it known how much they hold
            source, end = _given(machines, Partition({COLUMN: values}), self.bytes)
            stay = Stay(values, source, values.flags.writeable, ends(self, end, machines))
            self._all[_place(values)] = stay
            values.flags.writeable = False  # workers would not see what is written
        if not isinstance(rows, pd.DataFrame):
            return values
        return pd.DataFrame(values, columns=rows.columns, index=rows.index, copy=False)

    def let_go(self, rows: Any) -> None:
        """Of what `hold` has given. Raises InputError (WRONG_VALUE) for other rows."""
        place = _place(np.asarray(rows))
        if place not in self._all:
            raise InputError(
                "these rows are not held",
                code="WRONG_VALUE",
                rule="let_go() takes what hold() has given",
                next="X = cluster.hold(X), and later cluster.let_go(X)",
            )
        self._end(self._all.pop(place))

    def close(self) -> None:
        """Let go of all."""
        while self._all:
            self._end(self._all.popitem()[1])

    def of(self, values: Array) -> Served | Spooled | None:
        """Where workers have these values, which nobody can have changed; None: nowhere."""
        found = self._all.get(_place(values)) if not values.flags.writeable else None
        return None if found is None else found.source

    @property
    def bytes(self) -> int:
        """Of memory of a worker that all pieces take at most."""
        return sum(one.values.nbytes for one in self._all.values() if not one.source.mapped)

    def _end(self, one: Stay) -> None:
        one.end()
        with suppress(ValueError):  # rows of which these are some are held, too
            one.values.flags.writeable = one.writeable


def give(
    machines: Machines, rows: Partition, stays: Stays
) -> tuple[Served | Spooled | Completed, Callable[[], None]]:
    """Rows as workers find them; and what ends it.

    Raises
    ------
    InputError : WRONG_VALUE for workers on other machines without `spool`.
    """
    found = {name: stays.of(np.asarray(values)) for name, values in rows.columns.items()}
    staying = {name: one for name, one in found.items() if one is not None}
    own = {name: values for name, values in rows.columns.items() if name not in staying}
    source, end = _given(machines, replace(rows, columns=own), stays.bytes)
    return (Completed(tuple(rows.columns), source, staying) if staying else source), end


def numbers(rows: Any) -> Array:
    """Rows as an array of the kinds that fits take as they are; of a frame, a copy.

    Raises
    ------
    InputError : WRONG_VALUE for what is no array of numbers of one or two dimensions.
    """
    try:
        values = np.array(rows) if isinstance(rows, pd.DataFrame) else np.asarray(rows)
        if values.dtype not in (np.dtype(np.float64), np.dtype(np.float32)):
            values = values.astype(np.float64, casting="unsafe" if _real(values) else "safe")
        if values.ndim in (1, 2):
            return values
        said = f"an array of {values.ndim} dimensions"
    except (TypeError, ValueError) as error:
        said = str(error)
    raise InputError(
        f"rows cannot be held: {said}",
        code="WRONG_VALUE",
        rule="an array or a frame of numbers, (n_rows, n_columns) or (n_rows,)",
        next="give such an array, or fit over the rows as they are",
    )


def _real(values: Array) -> bool:
    return values.dtype.kind in "fiubO"  # what objects are shows when they are read


def _given(
    machines: Machines, rows: Partition, taken: int
) -> tuple[Served | Spooled, Callable[[], None]]:
    """`taken` bytes of each worker are not to be had."""
    room = min(machines.memory.values(), default=0) // 2 - taken  # for the sums, too
    found = serve(rows, room) if machines.here else None
    if found is not None:
        return found
    if not machines.spool:
        raise InputError(
            "rows in memory cannot be read by workers on other machines",
            code="WRONG_VALUE",
            rule="each worker reads its rows itself: they never pass through a scheduler",
            next="polyclinic.scan(files, schema=...), or spool= a folder that all workers see",
        )
    spooled = spool(rows, machines.spool)
    return spooled, partial(shutil.rmtree, spooled.folder, ignore_errors=True)


def _ended(end: Callable[[], None], machines: Machines, process: int) -> None:
    """When nobody asks about these rows any more; a fork of the process has no say in that."""
    if os.getpid() != process:
        return
    end()
    machines.let_go()


def ends(asker: object, end: Callable[[], None], machines: Machines) -> Callable[[], Any]:
    """Have rows let go of when there is no `asker` any more, or when this is called."""
    return weakref.finalize(asker, _ended, end, machines, os.getpid())


def _place(values: Array) -> Any:
    """Where values are in memory, and how they lie."""
    about = values.__array_interface__
    return about["data"][0], values.shape, values.strides, values.dtype.str
