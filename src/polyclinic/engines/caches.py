"""What tasks keep of rows between rounds, and how much memory that takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from polyclinic.core.partition import Partition

PLAIN = (str, bytes, int, float, complex, type(None), np.generic)


class Cache(dict[str, Any]):
    """Of one piece of rows: `Partition.cache` that knows its size and what of it was asked for.

    bytes  of memory, when it was last measured
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0
        self._used: set[str] = set()

    def get(self, name: str, default: Any = None) -> Any:
        self._used.add(name)
        return super().get(name, default)

    def __setitem__(self, name: str, made: Any) -> None:
        self._used.add(name)
        super().__setitem__(name, made)

    def measure(self, rows: Partition) -> int:
        """Bytes beside the rows themselves."""
        known = {id(_root(one)) for one in (*rows.columns.values(), rows.key, rows.person)}
        self.bytes = bytes_of(dict(self), known)
        return self.bytes

    def settle(self, rows: Partition, room: int) -> None:
        """After a task: what does not fit into `room` bytes is let go, first what it did not use.

        All pieces are gone through in every round, so that none is worth more than another.
        """
        used, self._used = self._used, set()
        if self.measure(rows) > room:
            for name in self.keys() - used:
                del self[name]
            if self.measure(rows) > room:
                self.forget()

    def forget(self) -> None:
        """Let go of all of it."""
        self.clear()
        self.bytes = 0


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
        if isinstance(one, Mapping):
            todo += one.values()
        elif isinstance(one, list | tuple | set | frozenset):
            todo += one
        elif not isinstance(one, np.memmap):
            size = getattr(one, "nbytes", None)
            total += size if isinstance(size, int) else 0
            todo += [] if size is not None else getattr(one, "__dict__", {}).values()
    return total


def _root(value: Any) -> Any:
    """Of a view the array whose memory it is."""
    while isinstance(value, np.ndarray) and isinstance(value.base, np.ndarray):
        value = value.base
    return value
