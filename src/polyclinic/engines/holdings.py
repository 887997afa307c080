"""Which worker holds which partition of one analysis, from round to round."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from polyclinic.engines.assign import assign, moved
from polyclinic.engines.held import WHOLE
from polyclinic.engines.machines import Machines
from polyclinic.engines.speeds import Costs

REST = 3  # rounds between two times that partitions are moved, so that speeds are measured anew
SOON = 5  # rounds, at least, in which moving has to pay; later as many as there were
NEWCOMERS = 10.0  # seconds between two looks for workers that have joined


class Holdings:
    """See the module.

    Parameters
    ----------
    machines : the workers.
    sizes : rows of each partition.
    workers : who is there.
    """

    def __init__(self, machines: Machines, sizes: Mapping[int, int], workers: list[str]) -> None:
        self.machines, self.sizes = machines, sizes
        self.owner: dict[int, str] = {}
        self.told: set[str] = set()
        self.read: dict[str, set[int]] = {}
        self.workers = workers
        self._rounds, self._rested, self._looked = 0, 0, 0.0

    def placed(self, parts: Iterable[int], costs: Costs) -> dict[str, list[int]]:
        """Parts by worker, for each of which there is one."""
        homeless = {part: self.sizes[part] for part in sorted(parts) if part not in self.owner}
        if homeless:
            self._look()
            load = dict.fromkeys(self.workers, 0)
            for part, owner in self.owner.items():
                if part != WHOLE:
                    load[owner] = load.get(owner, 0) + self.sizes[part]
            self.owner |= assign(homeless, self.workers, self.machines.policy, load, costs)
        found: dict[str, list[int]] = {}
        for part in sorted(parts):
            found.setdefault(self.owner[part], []).append(part)
        return found

    def balance(self, costs: Costs, row: float) -> None:
        """Before a round: partitions go from slow workers to fast ones, where that pays.

        row  seconds that a row takes, as measured; 0: nothing was measured yet
        """
        self._rounds += 1
        self._rested += 1
        owner = {part: worker for part, worker in self.owner.items() if part != WHOLE}
        if self.machines.policy != "least_load" or not owner or not row or self._rested <= REST:
            return
        self.newcomers()
        if set(owner.values()) - set(self.workers):
            return  # of a worker that is lost: the round finds out
        rounds = max(SOON, self._rounds)
        if found := moved(self.sizes, owner, self.workers, costs, rounds, self.read):
            self.owner |= found
            self.machines.activity.moved += len(found)
            self._rested = 0

    def newcomers(self) -> None:
        """Look now and then for workers that have joined."""
        if time.monotonic() - self._looked > NEWCOMERS:
            self._look()

    def _look(self) -> None:
        self.workers, self._looked = self.machines.live(), time.monotonic()

    def unread(self, address: str, parts: Iterable[int]) -> int:
        """Rows of these that the worker has not read yet."""
        return sum(self.sizes[part] for part in set(parts) - self.read.get(address, set()))

    def own(self, address: str) -> list[int]:
        """The parts of a worker."""
        return sorted(part for part, owner in self.owner.items() if owner == address)

    def asked(self, address: str, parts: Iterable[int]) -> None:
        """A worker has answered over these parts."""
        self.told.add(address)
        self.read.setdefault(address, set()).update(parts)

    def anew(self, address: str) -> None:
        """A worker was started anew: it has to be told, and to read, again."""
        self.told.discard(address)
        self.read.pop(address, None)

    def lost(self, address: str) -> None:
        """A worker is not there any more."""
        known = {*self.workers, *self.owner.values()}
        self.anew(address)
        self.owner = {part: owner for part, owner in self.owner.items() if owner != address}
        self.machines.speeds.forget(address)
        self.machines.activity.lost += address in known
        self.workers = [worker for worker in self.workers if worker != address]
