"""The site's half of k-means over groups of a hospital's patients.

What leaves is that of `kmeans_tasks.py`. Groups are found once for a scale of the columns, and what
they add up to (`group_sums.py`) is all that rounds need.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core import codec
from polyclinic.core.contribution import Contribution, Evidence
from polyclinic.core.exposure import Exposure
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.core.task import Facts, Grain
from polyclinic.models.simple.group_sums import Groups, groups_in
from polyclinic.models.simple.kmeans_tasks import (
    CellsTask,
    ClustersTask,
    Labelled,
    check_group,
    check_terms,
    parts_of,
    plain,
    scaled,
)
from polyclinic.models.simple.rows import Exposed, Own, Table, design
from polyclinic.models.simple.units import MOST, groups_of, points_of, ruled, summed_of

Ints = NDArray[np.int64]
Judged = Callable[[Plan, Partition, Own], Exposure]


class Grouped(Labelled):
    """A task over groups of patients: chunks are cut into groups one by one, where each of them
    can be a group of its own; else all of the hospital's rows together.

    What is known: `patients`, how many there are; `several`, rows by term that are neither 0 nor 1;
    `ruled`, chunks by sum of which two patients make up nearly all; `small`, chunks that hold fewer
    patients than a group.
    """

    grain: Grain

    def about(self, plan: Plan) -> str:
        """The terms, the rows, and the size of groups."""
        spec = plan.values["spec"]
        return codec.digest([spec["design"], plan.values["rows"], int(spec["group"])])

    def everyone(self, plan: Plan, partition: Partition, own: Own) -> Exposure:
        """How patients share in sums over all rows, the same in every round."""
        return Exposed.exposure(self, plan, partition, own)

    def local(self, plan: Plan, partition: Partition) -> Contribution:
        groups = grouped_of(plan, partition, self.everyone)
        label = self._label(plan, groups.site, groups)
        leaves, cells = groups.summed(label, self._size(plan))
        found = {**leaves, **self._more(plan, groups, label)}
        return Contribution(found, Evidence(groups.patients, cells))

    def exposure(self, plan: Plan, partition: Partition, own: Own) -> Exposure:
        """Also the patients of each part, and how they share in its sums."""
        groups = grouped_of(plan, partition, self.everyone)
        return groups.exposure(self._label(plan, groups.site, groups), self._size(plan))

    def _more(self, plan: Plan, groups: Groups, label: Ints) -> dict[str, Any]:
        """Sums beside those of each part."""
        return {}

    def keeps(self, plan: Plan, cache: Mapping[str, Any]) -> bool:
        """Whether the groups are there, so that no row is needed."""
        return _name_of(plan) in cache

    def facts(self, plan: Plan, partition: Partition) -> Facts:
        """Of one chunk. Whether a term is 0 or 1 in all rows is not known yet."""
        check_terms(design(plan))
        table = Table.of(plan, partition)
        parts = parts_of(plan, partition, table, np.zeros(table.x.shape[1], dtype=bool))
        parts = summed_of(parts, table.key)
        several = np.count_nonzero((table.x != 0) & (table.x != 1), axis=0)
        small = len(parts) < int(plan.values["spec"]["group"])
        return {
            "patients": np.array([len(parts)], dtype=np.int64),
            "several": several.astype(np.int64),
            "ruled": ruled(parts).astype(np.int64),
            "small": np.array([small], dtype=np.int64),
        }

    def apart(self, known: Facts) -> bool:
        """Whether groups are formed within chunks."""
        judged = np.append(known["several"] > 0, True)
        return not known["small"].any() and not known["ruled"][judged].any()


@dataclass(frozen=True)
class GroupedCells(Grouped, CellsTask):
    """`CellsTask` over groups."""


@dataclass(frozen=True)
class GroupedClusters(Grouped, ClustersTask):
    """`ClustersTask` over groups."""

    def _more(self, plan: Plan, groups: Groups, label: Ints) -> dict[str, Any]:
        """Squared distances; of a sample they would be over as few as are in one part."""
        state = plan.values["state"]
        whole = state["round"] < 0
        return {"inertia": groups.inertia(label, state["centres"]) if whole else 0.0}


def grouped_of(plan: Plan, partition: Partition, exposed: Judged) -> Groups:
    """The groups of a site's patients, or of a chunk's that can be by itself; found once per scale
    of the columns.

    exposed  says how patients share in sums over all of the rows
    """
    least = int(plan.values["spec"]["group"])
    check_group(plan, least > 1)

    def made() -> Groups:
        table, rows = scaled(plan, partition)
        x = rows.block()
        parts = parts_of(plan, partition, table)
        points, _ = points_of(x, table.key)
        sides = points_of(table.x[:, plain(plan, table)], table.key)[0] > 0.5
        patients = int(np.sum(plan.known.get("patients", len(points))))
        size = max(least, -(-patients // MOST))
        group = groups_of(points, summed_of(parts, table.key), sides, size)
        ordinals = partition.keys[table.used], partition.persons[table.used]
        whole = exposed(plan, partition, {})
        return groups_in(x, table.weight, parts, group, table.key, *ordinals, whole, partition.site)

    found: Groups = partition.cached(_name_of(plan), made)
    return found


def _name_of(plan: Plan) -> str:
    """Of the groups in a cache."""
    spec, state = plan.values["spec"], plan.values["state"]

    def key() -> str:
        about = [spec["design"], int(spec["group"]), plan.values["rows"]]
        return f"groups {codec.digest([*about, state['centre'], state['scale']])}"

    return plan.once("groups", key)


cells = GroupedCells("kmeans.grouped_cells", "site")
clusters = GroupedClusters("kmeans.grouped_clusters", "site")
tasks = [cells, clusters]
