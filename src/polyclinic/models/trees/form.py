"""A hospital's own trees as arrays, for ensembles: what leaves, and who stands behind it.

Splits and the values of leaves leave. A leaf of a few patients is not shown, and the gate counts
every leaf as a coefficient, so that only small trees leave small hospitals.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.errors import InputError
from polyclinic.core.partition import Partition
from polyclinic.models.predictor import Form, register_form
from polyclinic.models.trees.bins import binned
from polyclinic.models.trees.edges import searching
from polyclinic.models.trees.predictor import TreesPredictor
from polyclinic.models.trees.spec import Spec
from polyclinic.models.trees.stack import Stack, checked

Arrays = Mapping[str, NDArray[np.float64]]
_PARTS = ("feature", "split", "set", "missing_left", "left")
LARGEST = 2**50  # of a whole number that a double holds, as what leaves is bounded


def _trees(spec: Spec) -> int:
    """Trees of all classes at most."""
    return spec.trees * (spec.lanes if spec.width == 1 else 1)


def _nodes(spec: Spec) -> int:
    return int(2 ** (spec.depth + 1) - 1)


def shapes(spec: Spec) -> dict[str, tuple[int, ...]]:
    """Nodes and values of every tree, as many as there can be; `start` says how many there are."""
    if searching(spec):
        raise InputError(
            'bins = "quantiles" in an ensemble',
            code="WRONG_VALUE",
            rule="trees that hospitals grow alone have edges that are agreed beforehand",
            next='leave bins out, or give "edges"',
        )
    trees, nodes = _trees(spec), _nodes(spec)
    return {
        "base": (spec.lanes,),
        "start": (trees + 1,),
        "nodes": (trees * nodes, len(_PARTS)),
        "value": (trees * nodes, spec.width),
    }


def to_arrays(spec: Spec, data: Mapping[str, Any]) -> dict[str, NDArray[np.float64]]:
    """The arrays of a predictor's data. Raises ValueError where they do not fit in."""
    stack = Stack.from_data(data["trees"])
    found = {name: np.zeros(shape) for name, shape in shapes(spec).items()}
    if stack.trees > _trees(spec) or np.any(stack.set >= LARGEST):
        raise ValueError("more trees, or categories of more levels, than there is room for")
    found["base"][:] = data["base"]
    found["start"][:] = stack.start[-1]
    found["start"][: len(stack.start)] = stack.start
    nodes = np.column_stack([getattr(stack, name) for name in _PARTS])
    found["nodes"][: len(nodes)] = nodes
    found["value"][: len(nodes)] = stack.value
    return found


def from_arrays(spec: Spec, arrays: Arrays) -> dict[str, Any]:
    """A predictor's data. Raises ValueError for arrays that are no trees of the spec."""
    whole = {name: np.rint(arrays[name]).astype(np.int64) for name in ("start", "nodes")}
    start = whole["start"]
    used = int(np.argmax(start == start[-1])) if start[-1] > 0 else 0
    size = int(start[-1])
    if not 0 <= size <= len(whole["nodes"]):
        raise ValueError("more nodes than there is room for")
    parts = {name: whole["nodes"][:size, i] for i, name in enumerate(_PARTS)}
    data = {"start": start[: used + 1], **parts, "value": np.asarray(arrays["value"])[:size]}
    stack = checked(data, spec, _trees(spec))
    return TreesPredictor(spec, np.asarray(arrays["base"]), stack).to_data()


def behind(data: Mapping[str, Any], rows: Partition) -> dict[str, int]:
    """Patients of the smallest leaf of each tree."""
    predictor = TreesPredictor.from_data(data)
    bins, found = binned(rows.columns, predictor.spec), {}
    for at in range(predictor.trees.trees):
        leaves = predictor.trees.tree(at).leaves(bins, predictor.spec)
        counts = [rows.patients(leaves == leaf) for leaf in np.unique(leaves)]
        found[f"leaf of tree {at}"] = min(counts, default=0)
    return found


register_form(
    "trees",
    Form(
        shapes,
        to_arrays,
        from_arrays,
        lambda spec: _trees(spec) * 2**spec.depth * spec.width,
        behind,
    ),
)
