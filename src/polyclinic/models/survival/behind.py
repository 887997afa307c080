"""Who is behind the runs of an agreed grid: patients and events of each, whatever the coefficients.

None of it leaves the site but as risk_sets.py says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.exposure import Exposure, Members
from polyclinic.core.exposure_data import exposure_from_data, exposure_to_data
from polyclinic.core.partition import Partition
from polyclinic.models.exact import WIDE, floats_of
from polyclinic.models.survival.grid_runs import Here
from polyclinic.models.survival.pieces import whole
from polyclinic.models.survival.rows import key_of, rows_of
from polyclinic.models.survival.spec import CoxSpec
from polyclinic.models.survival.tasks import LARGEST

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Behind:
    """Who is behind the runs, whatever the coefficients.

    deaths     weight of the events of each run, (n_runs,)
    observed   sum of w x over events, (p,)
    died, who  patients with the event, and patients, of each run, (n_runs,)
    members    patients of each run, of all events and of each run's
    """

    deaths: Floats
    observed: Floats
    died: Ints
    who: Ints
    members: tuple[Members, ...]

    @staticmethod
    def of(spec: CoxSpec, partition: Partition, at: Here) -> Behind:
        """Of rows in one place, or of a chunk."""
        weight = weights_of(spec, partition)[at.rows] * at.event
        died = [run[at.event[run]] for run in at.parts]
        behind = (*at.parts, np.flatnonzero(at.event), *died) if at.parts else ()

        def patients(parts: list[Ints]) -> Ints:
            counts = [partition.patients(_mask(partition, at.rows[run])) for run in parts]
            return np.array(counts, dtype=np.int64)

        return Behind(
            np.array([weight[run].sum() for run in at.parts], dtype=np.float64),
            weight @ rows_of(spec, partition).x[at.rows] * bool(at.parts),
            patients(died),
            patients(at.parts),
            tuple(
                Members(spec.design.columns, np.unique(partition.persons[at.rows[some]]))
                for some in behind
            ),
        )

    def to_data(self) -> dict[str, Any]:
        """As a chunk tells it."""
        sums = np.concatenate([self.deaths, self.observed])
        return {
            "happened": whole(sums),
            "vast": int(not np.all(np.abs(sums) < LARGEST)),
            "died": self.died,
            "who": self.who,
            "members": [exposure_to_data(Exposure(members=self.members))],
        }

    @staticmethod
    def from_data(found: Mapping[str, Any]) -> Behind:
        """Of what all chunks have told."""
        sums = floats_of(found["happened"], WIDE)
        if found["vast"]:
            sums[:] = np.nan  # the ring refuses it
        members = reduce(add, map(exposure_from_data, found["members"])).members
        runs = len(found["died"])
        return Behind(sums[:runs], sums[runs:], found["died"], found["who"], members)


def behind_here(spec: CoxSpec, partition: Partition, at: Here) -> Behind:
    """Of rows in one place; made once."""
    found: Behind = partition.cached(
        f"behind {key_of(spec)}", lambda: Behind.of(spec, partition, at)
    )
    return found


def weights_of(spec: CoxSpec, partition: Partition) -> Floats:
    """Of all rows, (n_rows,)."""
    rows = rows_of(spec, partition)
    return np.ones(partition.n_rows) if rows.weight is None else rows.weight


def _mask(partition: Partition, rows: Ints) -> Bools:
    found = np.zeros(partition.n_rows, dtype=bool)
    found[rows] = True
    return found
