"""Rows whose columns are in two places: those of one fit, and arrays that stay with the workers.

A worker reads its pieces of such an array once, and has them for all fits until it is let go of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.engines.served import Served
from polyclinic.engines.spool import Spooled

_READ: dict[str, dict[tuple[int, int], NDArray[Any]]] = {}  # by address, then by span of rows


@dataclass(frozen=True)
class Completed:
    """See the module.

    columns  of the rows, in order
    own      the rows with the columns that are of this fit only
    staying  by name of another column, the rows of which it is the only one
    """

    columns: tuple[str, ...]
    own: Served | Spooled
    staying: Mapping[str, Served | Spooled]

    @property
    def mapped(self) -> bool:
        return all(one.mapped for one in (self.own, *self.staying.values()))

    @property
    def gone(self) -> bool:
        return any(one.gone for one in (self.own, *self.staying.values()))

    def needed(self, plan: Plan) -> tuple[str, ...]:
        """All columns: what is in memory has been chosen before."""
        return self.columns

    def bytes(self, first: int, stop: int, columns: Sequence[str]) -> int:
        """Of memory that these rows take beside `staying_bytes`."""
        more = [
            one.bytes(first, stop, one.columns)
            for name, one in self.staying.items()
            if name in columns and not _is_read(one, first, stop)
        ]
        return sum(more, self.own.bytes(first, stop, columns))

    def load(self, first: int, stop: int, columns: Sequence[str]) -> Partition:
        """The rows from `first` up to `stop`."""
        found = self.own.load(first, stop, [one for one in columns if one not in self.staying])
        pieces = {name: _piece(one, first, stop) for name, one in self.staying.items()}
        values = {**found.columns, **pieces}
        return replace(found, columns={name: values[name] for name in columns})

    def to_data(self) -> dict[str, Any]:
        """As workers get it."""
        staying = {name: one.to_data() for name, one in self.staying.items()}
        return {"columns": list(self.columns), "own": self.own.to_data(), "staying": staying}

    @staticmethod
    def from_data(data: Mapping[str, Any]) -> Completed:
        staying = {name: given_from(one) for name, one in data["staying"].items()}
        return Completed(tuple(data["columns"]), given_from(data["own"]), staying)


def given_from(data: Mapping[str, Any]) -> Served | Spooled:
    """Rows in memory of the process that asks, as it names them."""
    return Served.from_data(data) if "address" in data else Spooled.from_data(data)


def _piece(one: Served | Spooled, first: int, stop: int) -> NDArray[Any]:
    """Some rows of an array that stays."""

    def read() -> NDArray[Any]:
        (found,) = one.load(first, stop, one.columns).columns.values()
        return np.asarray(found)

    if isinstance(one, Spooled):
        return read()
    pieces = _READ.setdefault(one.address, {})
    if (first, stop) not in pieces:
        pieces[first, stop] = read()
    return pieces[first, stop]


def _is_read(one: Served | Spooled, first: int, stop: int) -> bool:
    return isinstance(one, Served) and (first, stop) in _READ.get(one.address, {})


def staying_bytes() -> int:
    """Of memory that pieces of arrays take which stay."""
    return sum(piece.nbytes for pieces in _READ.values() for piece in pieces.values())


def forget() -> None:
    """The pieces of arrays that have been let go of."""
    for address in [one for one in _READ if not Path(one).exists()]:
        del _READ[address]
