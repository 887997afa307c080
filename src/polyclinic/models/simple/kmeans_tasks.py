"""The site's half of k-means.

What leaves the site: per cell of an agreed partition of space, and per cluster of a round, the
number of rows, their weight and the sums of the scaled terms; of a round over all rows also the sum
of squared distances from the centres. Over hospitals the patients of a hospital are put into cells
and clusters by whole groups of no fewer than a minimum (`units.py`), so no two sums differ in
fewer.
The gate refuses a part of fewer than its own minimum, or a sum that two patients nearly make up,
and the ledger compares all parts that were ever summed. Terms are columns as they are, without
weights: of a few patients, sums of functions of a column would be equations for their values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core import codec
from polyclinic.core.contribution import Contribution, Evidence
from polyclinic.core.design import Design
from polyclinic.core.errors import InputError, PolyclinicError
from polyclinic.core.exposure import Exposure, Members, Shares
from polyclinic.core.leaf import Leaf
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.core.sampling import uniform
from polyclinic.core.task import Grain
from polyclinic.models.glm.support import patients
from polyclinic.models.simple.group_sums import Groups
from polyclinic.models.simple.moments import LARGEST, is_array
from polyclinic.models.simple.nearest import Scaled, added, fast, nearest
from polyclinic.models.simple.rows import Exposed, Own, Table, design

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
DEEPEST = 12  # halvings of space
_PLAIN = ("value", "level", "missing")


@dataclass(frozen=True)
class Units:
    """Rows that are put into cells one by one.

    x       the rows
    keys    ordinals of their patients, by which samples are drawn
    """

    table: Table
    x: Scaled
    keys: Ints

    @property
    def means(self) -> Scaled:
        """What is put into a cell: each row."""
        return self.x

    @property
    def first(self) -> Ints:
        """Ordinal of each one's patient, (n_rows,)."""
        return self.keys[self.table.used]


class Labelled(Exposed):
    """A task that sums over parts of a hospital's patients, and is judged on each part.

    A task says in `_label` which part each unit is in, -1 for none.
    """

    grain: Grain

    def _size(self, plan: Plan) -> int:
        raise NotImplementedError

    def _label(self, plan: Plan, site: str, units: Units | Groups) -> Ints:
        raise NotImplementedError

    def _whole(self, plan: Plan, partition: Partition) -> Exposure:
        """Of all rows, whatever their parts; the same in every round."""

        def made() -> Exposure:
            return super(Labelled, self).exposure(plan, partition, {})

        name = codec.digest([plan.values["spec"]["design"], plan.values["rows"]])
        found: Exposure = partition.cached(f"exposure {name}", made)
        return found

    def exposure(self, plan: Plan, partition: Partition, own: Own) -> Exposure:
        """Also the patients of each part, and how they share in its sums."""
        found, units = self._whole(plan, partition), units_of(plan, partition)
        label = self._label(plan, partition.site, units)
        persons = partition.persons[units.table.used]
        columns = found.members[0].columns
        members = tuple(
            Members(columns, np.unique(persons[label == k])) for k in range(self._size(plan))
        )
        parts = parts_of(plan, partition, units.table)
        shares = _shares(parts, label, units.table.key, self._size(plan))
        x, weight = (_of(shares, at) for at in (np.s_[:, :-1], np.s_[:, -1]))
        cells = {"x": x, "weight": weight}
        return replace(found, members=(*found.members, *members), cells=cells)


def _of(shares: Shares, at: Any) -> Shares:
    return Shares(shares.total[at], shares.squares[at], shares.first[at], shares.second[at])


def _shares(parts: Floats, label: Ints, key: Ints | None, size: int) -> Shares:
    """Shares in the sums of each part, (size, n_sums)."""
    found = []
    for k in range(size):
        inside = label == k
        found.append(Shares.of(parts[inside], None if key is None else key[inside]))
    stacked = ((s.total, s.squares, s.first, s.second) for s in found)
    return Shares(*(np.stack(part) for part in zip(*stacked, strict=True)))


def plain(plan: Plan, table: Table) -> NDArray[np.bool_]:
    """The terms that are 0 or 1 in all of the hospital's rows, (n_terms,)."""
    if "several" in plan.known:
        return np.asarray(plan.known["several"] == 0)
    return np.asarray(~np.any((table.x != 0) & (table.x != 1), axis=0))


def parts_of(
    plan: Plan, partition: Partition, table: Table, plain_terms: NDArray[np.bool_] | None = None
) -> Floats:
    """Each row's part in the sums of the terms and, last, of the weights, (n_rows, n_terms + 1).

    A value that stands in for a missing one is known to all and no part. Of what says yes or no a
    sum is a count, whoever shares in it.
    """
    asked = design(plan)
    found = np.abs(table.x) * table.weight[:, None]
    if not asked.weight:
        found[:, plain(plan, table) if plain_terms is None else plain_terms] = 0.0
    for j, term in enumerate(asked.terms):
        for column in {f.column for f in term.factors} & set(asked.fills):
            found[np.isnan(partition.columns[column][table.used]), j] = 0.0
    weight = table.weight if asked.weight else np.zeros(len(found))
    return np.column_stack([found, weight])


def check_terms(asked: Design) -> None:
    """Raises InputError for terms that are no columns as they are, and for weights.

    Over hospitals any few patients can be one part. Who asks for several functions of a column, one
    at a time, has as many equations for their values; products with a weight are equations, too.
    """
    if asked.is_array:
        return
    if asked.weight:
        raise InputError(
            "clusters of patients with weights",
            code="BAD_FORMULA",
            rule="over hospitals every patient counts the same in a cluster",
            next="leave weights() out",
        )
    for term in asked.terms:
        one = term.factors[0] if len(term.factors) == 1 else None
        if one is None or one.kind not in _PLAIN:
            raise InputError(
                f"{term.name} cannot be clustered by",
                code="BAD_FORMULA",
                rule="clusters are found by columns as they are: no functions, no products",
                next="use the column itself, or keep its function as a column of the data",
            )


@dataclass(frozen=True)
class CellsTask(Labelled):
    """Sums over cells of space. Plan state: centre, scale, axes, split, ask.

    axes    directions, the columns of an orthogonal matrix (n_terms, n_terms)
    split   {"node", "axis", "at"}: the halving of each node; 1 is all of space, the halves of node
            i are 2i, up to `at` along its axis, and 2i + 1
    ask     the nodes that are summed
    """

    name: str
    grain: Grain
    version: int = 1

    def leaves(self, plan: Plan) -> tuple[Leaf, ...]:
        m, p = self._size(plan), len(design(plan).terms)
        return (
            Leaf("n", (m,), "count", "int64", unit="rows", support="cells"),
            Leaf("weight", (m,), support="cells"),
            Leaf("x", (m, p), support="cells"),
        )

    def _size(self, plan: Plan) -> int:
        return len(plan.values["state"]["ask"])

    def _label(self, plan: Plan, site: str, units: Units | Groups) -> Ints:
        state = plan.values["state"]
        node = nodes_of(units.means, state["axes"], state["split"])
        every = np.arange(int(node.max(initial=0)) + 1)  # few, beside the rows
        label = np.full(len(every), -1, dtype=np.int64)
        for k, asked in enumerate(state["ask"].tolist()):
            inside = every
            while np.any(inside > asked):
                inside = np.where(inside > asked, inside // 2, inside)
            label[inside == asked] = k
        return label[node]

    def local(self, plan: Plan, partition: Partition) -> Contribution:
        units = units_of(plan, partition)
        label = self._label(plan, partition.site, units)
        state = plan.values["state"]
        centres = np.zeros((self._size(plan), len(state["centre"])))
        leaves, cells, _ = _summed(units, label, centres)
        return Contribution(leaves, Evidence(units.table.patients, cells))


@dataclass(frozen=True)
class ClustersTask(Labelled):
    """Sums over the units that are nearest to each centre.

    Plan state: centre, scale, centres (n_clusters, n_terms) of the scaled terms, round: below 0 all
    rows, else the number of the sample of the spec's `batch`.
    """

    name: str
    grain: Grain
    version: int = 1

    def leaves(self, plan: Plan) -> tuple[Leaf, ...]:
        k, p = self._size(plan), len(design(plan).terms)
        return (
            Leaf("n", (k,), "count", "int64", unit="rows", support="cells"),
            Leaf("weight", (k,), support="cells"),
            Leaf("x", (k, p), support="cells"),
            Leaf("inertia", (), "sum of squares"),
        )

    def _size(self, plan: Plan) -> int:
        return len(plan.values["state"]["centres"])

    def _label(self, plan: Plan, site: str, units: Units | Groups) -> Ints:
        spec, state = plan.values["spec"], plan.values["state"]
        label = nearest(units.means, state["centres"])
        if state["round"] < 0:
            return label
        place = uniform(units.first, int(spec["seed"]), int(state["round"]), site)
        return np.where(place < float(spec["batch"] or 1.0), label, -1)

    def local(self, plan: Plan, partition: Partition) -> Contribution:
        units, centres = units_of(plan, partition), plan.values["state"]["centres"]
        label = self._label(plan, partition.site, units)
        leaves, cells, inertia = _summed(units, label, centres)
        if plan.values["state"]["round"] >= 0:
            inertia = 0.0  # it would be a sum of squares over as few as are in one part
        return Contribution({**leaves, "inertia": inertia}, Evidence(units.table.patients, cells))


def _summed(
    units: Units, label: Ints, centres: Floats
) -> tuple[dict[str, Any], dict[str, Ints], float]:
    """Per label the rows, their weight and their sums, and the patients behind each; and the
    squared distances from `centres`."""
    table, size = units.table, len(centres)
    found = added(units.x, table.weight, label, centres)
    behind = found.n
    if table.key is not None:
        behind = np.array([patients(label == k, table.key) for k in range(size)], dtype=np.int64)
    wide = np.repeat(behind[:, None], centres.shape[1], axis=1)
    leaves = {"n": found.n, "weight": found.weight, "x": found.x}
    return leaves, {"n": behind, "weight": behind, "x": wide}, found.spread


def nodes_of(
    rows: Scaled, axes: Floats, split: Mapping[str, Any], quick: bool | None = None
) -> Ints:
    """The last node that each row is in, by its coordinates along the axes."""
    node = np.ones(rows.rows, dtype=np.int64)
    if fast(rows.rows) if quick is None else quick:
        from polyclinic.models.simple import loops

        names = split["node"]
        place = np.full(int(names.max(initial=0)) + 1, -1)
        place[names] = np.arange(len(names))
        along = np.ascontiguousarray(axes.T)
        loops.walked(*rows.given(), along, place, split["axis"], split["at"], node)
        return node
    y = rows.block() @ axes
    for name, axis, at in zip(*(split[part].tolist() for part in _SPLIT), strict=True):
        inside = node == name
        node[inside] = 2 * name + (y[inside, axis] > at)
    return node


_SPLIT = ("node", "axis", "at")


def units_of(plan: Plan, partition: Partition) -> Units:
    """The rows of a partition, each by itself."""
    check_group(plan, int(plan.values["spec"]["group"]) <= 1)
    return Units(*scaled(plan, partition), partition.keys)


def scaled(plan: Plan, partition: Partition) -> tuple[Table, Scaled]:
    """A partition's rows, and their terms scaled."""
    table, state = Table.of(plan, partition), plan.values["state"]
    return table, Scaled(table.x, state["centre"], state["scale"])


def check_group(plan: Plan, good: bool) -> None:
    """Raises BAD_MESSAGE for groups of a size that the task is not for."""
    if not good:
        raise PolyclinicError(
            f"{plan.task} with groups of {plan.values['spec']['group']}",
            code="BAD_MESSAGE",
            rule="a step over groups of patients is one for whole hospitals",
        )
    check_terms(design(plan))


def check_cells(plan: Plan) -> None:
    """Raises ValueError where a plan's cells are not halves of halves of space."""
    state, p = plan.values["state"], len(design(plan).terms)
    _check_scale(plan, {"axes", "split", "ask"})
    axes, split, ask = state["axes"], state["split"], state["ask"]
    if not is_array(axes, (p, p), "f") or not np.allclose(axes.T @ axes, np.eye(p), atol=1e-6):
        raise ValueError("the axes are orthogonal directions")
    if not isinstance(split, Mapping) or set(split) != set(_SPLIT):
        raise ValueError("a split has nodes, axes and places")
    size = len(np.atleast_1d(split["node"]))
    fits = all(
        is_array(split[name], (size,), kind) for name, kind in zip(_SPLIT, "iif", strict=True)
    )
    if not fits or np.any((split["axis"] < 0) | (split["axis"] >= p)):
        raise ValueError("every split has an axis and a place on it")
    for nodes in (split["node"], ask):
        if not is_array(nodes, (len(np.atleast_1d(nodes)),), "i") or len(set(nodes.tolist())) < len(
            nodes
        ):
            raise ValueError("nodes are different whole numbers")
        if np.any((nodes < 1) | (nodes >= 2 ** (DEEPEST + 1))):
            raise ValueError("nodes are halves of halves")
    if len(ask) < 1 or np.any(np.diff(split["node"]) < 0):
        raise ValueError("a round of cells asks for one at least, and splits stand in order")


def check_clusters(plan: Plan) -> None:
    """Raises ValueError where centres are not finite, or not as many as the spec says."""
    spec, state = plan.values["spec"], plan.values["state"]
    _check_scale(plan, {"centres", "round"})
    shape = (int(spec["n_clusters"]), len(design(plan).terms))
    if not is_array(state["centres"], shape, "f") or np.any(np.abs(state["centres"]) > LARGEST):
        raise ValueError("the centres are finite numbers, one row per cluster")
    if type(state["round"]) is not int or not -1 <= state["round"] <= 100_000:
        raise ValueError("a round is a whole number")


def _check_scale(plan: Plan, more: set[str]) -> None:
    state, shape = plan.values["state"], (len(design(plan).terms),)
    if set(state) != {"centre", "scale"} | more:
        raise ValueError("the state has other fields")
    if not is_array(state["centre"], shape, "f") or np.any(np.abs(state["centre"]) > LARGEST):
        raise ValueError("the centre is a finite number per term")
    if not is_array(state["scale"], shape, "f") or np.any(state["scale"] < 1.0 / LARGEST):
        raise ValueError("the scale is a number above 0 per term")


cells, clusters = CellsTask("kmeans.cells", "row"), ClustersTask("kmeans.clusters", "row")
tasks = [cells, clusters]
