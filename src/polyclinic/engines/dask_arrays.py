"""A cluster's rows as Dask arrays, for libraries that train on Dask themselves.

Each worker reads its parts of the files and builds their part of the model matrix. There is no
gate: what is computed from these arrays is the hospital's own, as from any table of its rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from dask import annotate, array, delayed

from polyclinic.core.design import Design
from polyclinic.core.errors import InputError
from polyclinic.data.scan import Selected
from polyclinic.engines.assign import assign
from polyclinic.engines.clusters import Cluster
from polyclinic.engines.held import source_of


@dataclass(frozen=True)
class DaskMatrix:
    """Rows of one hospital at its cluster's workers, for one model.

    X        model matrix without intercept, a Dask array (n_rows, n_terms), float64
    y        outcome, a Dask array (n_rows,): a number, 0/1, or the index of a level; None: none
    weight   of each row, a Dask array (n_rows,); None: none
    names    of the terms
    client   the `distributed.Client` of the cluster; it ends with the cluster
    """

    X: Any
    y: Any
    weight: Any
    names: tuple[str, ...]
    client: Any


def dask_matrix(cluster: Cluster, rows: Selected, design: Design) -> DaskMatrix:
    """The matrix of `design` over these rows, computed where they are read.

    Raises
    ------
    InputError : WRONG_VALUE for a duration, an offset, strata or images; as a scan.
    """
    if design.event or design.offset or design.strata or design.media:
        raise InputError(
            "a matrix is of terms, one outcome and a weight",
            code="WRONG_VALUE",
            rule="Surv(), offset(), strata() and images have no place in it",
            next='name these columns as terms, in a call of their own: "~ days + died"',
        )
    machines: Any = cluster.machines
    source, edges = cluster.workers(rows).located()
    spans = {i: (part[0], part[-1]) for i, part in enumerate(edges)}
    sizes = {i: stop - first for i, (first, stop) in spans.items() if stop > first}
    owners, client = assign(sizes, machines.live()), machines.client
    shared = delayed({"source": source, "design": design.to_data()}, traverse=False)
    parts = {}
    for i in sizes:
        with annotate(workers=[owners[i]], allow_other_workers=True):
            parts[i] = delayed(part_of, pure=False)(shared, *spans[i])

    def column(number: int, *width: int) -> Any:
        blocks = []
        for i, part in parts.items():
            with annotate(workers=[owners[i]], allow_other_workers=True):
                shape = (sizes[i], *width)
                blocks.append(array.from_delayed(part[number], shape, np.float64))
        return array.concatenate(blocks)

    found = [column(0, len(design.terms)), column(1), column(2)]
    wanted = [True, bool(design.response), design.weight is not None]
    here = [one for one, is_asked in zip(found, wanted, strict=True) if is_asked]
    kept = iter(client.persist(here, optimize_graph=False))
    x, y, weight = (next(kept) if is_asked else None for is_asked in wanted)
    return DaskMatrix(x, y, weight, design.names, client)


def part_of(shared: Mapping[str, Any], first: int, stop: int) -> tuple[Any, Any, Any]:
    """Matrix, outcome and weight of the rows from `first` up to `stop`, at a worker."""
    design = Design.from_data(shared["design"])
    rows = source_of(shared["source"]).load(first, stop, design.columns)
    matrix = design.matrix(rows.columns, rows.site)
    return matrix, rows.columns.get(design.response), rows.columns.get(design.weight or "")
