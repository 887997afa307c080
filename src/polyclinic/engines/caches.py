"""What tasks keep of rows between rounds, and how much memory that takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from polyclinic.core.partition import Partition

BARE = frozenset((str, bytes, int, float, bool))
PLAIN = (str, bytes, int, float, complex, type(None), np.generic)


class Cache(dict[str, Any]):
    """Of one piece of rows: `Partition.cache` that knows its size and what of it was asked for.

    held     whether the rows stay, too: what is a view of them then takes nothing
    bytes    of memory, when it was last measured
    lasting  bytes of entries that say of themselves that they are: they took long to make and
             little room, and stay before rows do
    """

    def __init__(self, held: bool = True) -> None:
        super().__init__()
        self.held, self.bytes, self.lasting = held, 0, 0
        self._used: set[str] = set()

    def get(self, name: str, default: Any = None) -> Any:
        self._used.add(name)
        return super().get(name, default)

    def __setitem__(self, name: str, made: Any) -> None:
        self._used.add(name)
        super().__setitem__(name, made)

    def measure(self, rows: Partition) -> dict[str, int]:
        """Bytes of each entry beside those before it and, where they are held, the rows."""
        arrays = (*rows.columns.values(), rows.key, rows.person) if self.held else ()
        known = {id(_root(one)) for one in arrays}
        sizes = {name: bytes_of(made, known) for name, made in self.items()}
        self.bytes = sum(sizes.values())
        self.lasting = sum(size for name, size in sizes.items() if _lasts(self[name]))
        return sizes

    def kept(self) -> None:
        """After a task: there is room for all of it."""
        self._used = set()

    def settle(self, rows: Partition, room: int) -> None:
        """After a task: what does not fit into `room` bytes is let go, first what it did not use,
        then what is largest.

        All pieces are gone through in every round, so that none is worth more than another.
        """
        used, self._used = self._used, set()
        while (sizes := self.measure(rows)) and self.bytes > room:
            del self[max(sizes, key=lambda name: self._worth(name, used, sizes))]

    def _worth(self, name: str, used: set[str], sizes: Mapping[str, int]) -> tuple[Any, ...]:
        return not _lasts(self[name]), name not in used, sizes[name]

    def forget(self) -> None:
        """Let go of all of it but what is lasting."""
        for name in [name for name, made in self.items() if not _lasts(made)]:
            del self[name]
        self.bytes = self.lasting

    def handed(self, held: bool) -> Cache:
        """The same with what is lasting, when the rows are held or are not any more."""
        self.forget()
        self.held = held
        return self


def _lasts(made: Any) -> bool:
    return bool(getattr(made, "lasting", False))


def bytes_of(value: Any, known: set[int]) -> int:
    """Of the arrays that are reached from `value`, each once; those of files count nothing.

    known  `id` of what is not counted
    """
    total, todo = 0, [value]
    while todo:
        one = _root(todo.pop())
        if isinstance(one, PLAIN) or id(one) in known:
            continue
        known.add(id(one))
        size = getattr(one, "nbytes", None)
        if isinstance(size, int):
            total += 0 if isinstance(one, np.memmap) else size
        elif isinstance(one, Mapping):
            todo += one.values()
        elif isinstance(one, list | tuple | set | frozenset):
            todo += [each for each in one if type(each) not in BARE]
        else:
            todo += getattr(one, "__dict__", {}).values()
    return total


def _root(value: Any) -> Any:
    """Of a view the array whose memory it is."""
    while isinstance(value, np.ndarray) and isinstance(value.base, np.ndarray):
        value = value.base
    return value
