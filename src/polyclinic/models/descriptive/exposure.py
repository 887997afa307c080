"""Which patients stand behind the statistics of columns, and how they share in their sums."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.exposure import Exposure, Members
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.models.descriptive import rows
from polyclinic.models.descriptive.rows import Mask

Own = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Known:
    """Columns that are looked at together, in the rows where all of them are known.

    leaf, first, step  the leaf that counts these rows, the position of the first group in it, and
                       the distance to the next; no leaf: nothing that could be hidden counts them
    """

    columns: tuple[str, ...]
    leaf: str = ""
    first: int = 0
    step: int = 1

    def cell(self, group: int) -> tuple[str, int] | None:
        return (self.leaf, self.first + group * self.step) if self.leaf else None


class Counted:
    """A task whose sums are over the rows where the columns of a plan are known, by group.

    A task of the family says in `known` which columns, alone or in pairs.
    """

    def known(self, plan: Plan) -> Sequence[Known]:
        """Columns that are looked at together."""
        raise NotImplementedError

    def slots(self, plan: Plan) -> tuple[str, ...]:
        """None: small cells are hidden one by one."""
        return ()

    def candidates(self, plan: Plan) -> tuple[tuple[str, ...], int]:
        """None."""
        return (), 0

    def exposure(self, plan: Plan, partition: Partition, own: Own) -> Exposure:
        """The patients behind each column's statistics."""
        return Exposure(members=members(partition, self.known(plan), plan.values.get("by")))


def members(
    partition: Partition, looked_at: Sequence[Known], by: Mapping[str, Any] | None
) -> tuple[Members, ...]:
    """Patients where all columns of a tuple are known, in all rows and by group."""
    masks = rows.groups(partition, by)
    found = []
    for one in looked_at:
        known = np.ones(partition.n_rows, dtype=bool)
        for name in one.columns:
            known &= ~np.isnan(rows.values(partition, name))
        found += [
            Members(one.columns, persons(partition, mask & known), one.cell(group))
            for group, mask in enumerate(masks)
        ]
    return tuple(found)


def persons(partition: Partition, mask: Mask) -> NDArray[np.int64]:
    """Ordinals of the patients behind `mask`, each once."""
    found: NDArray[np.int64] = np.unique(partition.persons[mask])
    return found
