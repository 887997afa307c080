"""How the patients of a site share in the sums of a plan.

A sum over many patients can still be one patient's value: a column that is 0 for everyone else, a
weight that is 0 for everyone else. What a task says here lets the gate see that. None of it leaves
the site; under secure sums the parts that are safe may be summed over sites.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Shares:
    """Parts of patients in a family of sums of magnitudes; all arrays have the family's shape.

    total, squares   sum of the patients' parts, and of their squares
    first, second    the two largest parts
    A commutative monoid under `+` for disjoint patients.
    """

    total: Floats
    squares: Floats
    first: Floats
    second: Floats

    @staticmethod
    def of(parts: Floats, key: Ints | None = None) -> Shares:
        """Shares of rows `parts` (n_rows, m), 0 or more; rows of a patient are added first."""
        if key is not None and len(key):
            starts = np.flatnonzero(np.diff(key, prepend=key[0] - 1))
            parts = np.add.reduceat(parts, starts, axis=0)
        if len(parts) == 0:
            nothing = np.zeros(parts.shape[1:])
            return Shares(nothing, nothing, nothing, nothing)
        across = np.ascontiguousarray(np.moveaxis(parts, 0, -1))  # rows last: far faster to reduce
        first = across.max(axis=-1)
        second = np.zeros_like(first)
        if len(parts) > 1:
            rest = across.copy()
            np.put_along_axis(rest, across.argmax(axis=-1)[..., None], 0.0, axis=-1)
            second = rest.max(axis=-1)
        squares = np.einsum("...i,...i->...", across, across)
        return Shares(across.sum(axis=-1), squares, first, second)

    def __add__(self, other: Shares) -> Shares:
        return Shares(
            self.total + other.total,
            self.squares + other.squares,
            np.maximum(self.first, other.first),
            np.maximum(np.minimum(self.first, other.first), np.maximum(self.second, other.second)),
        )


@dataclass(frozen=True)
class Members:
    """Patients (ordinals at the site) behind sums of these columns.

    cell       leaf and flat position of an entry about just them: where it is hidden, so are they
    candidate  place of the candidate whose sums are over just them; None: of all
    """

    columns: tuple[str, ...]
    patients: Ints
    cell: tuple[str, int] | None = None
    candidate: int | None = None

    @cached_property
    def digest(self) -> bytes:
        """Of who they are, whatever the order."""
        inside = np.zeros(int(self.patients.max(initial=-1)) + 1, dtype=bool)
        inside[self.patients] = True
        return hashlib.sha256(np.packbits(inside).tobytes()).digest()


@dataclass(frozen=True)
class Exposure:
    """What the gate needs to know beyond counts. A commutative monoid for disjoint patients.

    coefficients  unknowns that a release can be solved for: columns of a model matrix
    slots         patients per level that the plan names ("outcome = 1")
    joint         the same where the sums of other plans hold the number itself
    values        patients per value of the columns with few values; "*" among them: it has many
    columns       shares in the weighted column sums, by name of column
    weights       shares in the weights, one per candidate of the plan
    crowd         fewest patients, effectively, whose leaving can be seen in a candidate's sums
    cells         shares per entry of a leaf, by name of leaf
    leverage      largest leverage of a patient
    levels        largest number of levels of a column
    alone         a sum that holds this site only, whoever adds it up
    members       the patients behind the sums
    updates       numbers of a model that was trained on the patients' rows: its changes may show
                  what it was trained on, whatever their number
    """

    coefficients: int = 0
    slots: Mapping[str, int] = field(default_factory=dict)
    joint: Mapping[str, int] = field(default_factory=dict)
    values: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    columns: Mapping[str, Shares] = field(default_factory=dict)
    weights: Shares | None = None
    crowd: Floats | None = None
    cells: Mapping[str, Shares] = field(default_factory=dict)
    leverage: float = 0.0
    levels: int = 0
    alone: bool = False
    members: tuple[Members, ...] = ()
    updates: int = 0

    def __add__(self, other: Exposure) -> Exposure:
        return Exposure(
            max(self.coefficients, other.coefficients),
            _merged(self.slots, other.slots),
            _merged(self.joint, other.joint),
            _nested(self.values, other.values),
            _merged(self.columns, other.columns),
            self.weights if other.weights is None else _plus(self.weights, other.weights),
            _least(self.crowd, other.crowd),
            _merged(self.cells, other.cells),
            max(self.leverage, other.leverage),
            max(self.levels, other.levels),
            self.alone or other.alone,
            _joined(self.members, other.members),
            max(self.updates, other.updates),
        )


@runtime_checkable
class Exposing(Protocol):
    """A task that says how patients share in what it sums."""

    def exposure(
        self, plan: Plan, partition: Partition, own: Mapping[str, NDArray[Any]]
    ) -> Exposure:
        """Of one partition; `own` is the site's own sum, for leverages."""
        ...

    def slots(self, plan: Plan) -> tuple[str, ...]:
        """Levels that every site knows from the plan, in one order."""
        ...

    def candidates(self, plan: Plan) -> tuple[tuple[str, ...], int]:
        """Names in `Exposure.columns`, in order, and the number of candidates."""
        ...


class Unaided:
    """Base of an `Exposing` task for which the patients of other sites make up for nothing."""

    def slots(self, plan: Plan) -> tuple[str, ...]:
        """None."""
        return ()

    def candidates(self, plan: Plan) -> tuple[tuple[str, ...], int]:
        """None."""
        return (), 0


def packed(ordinals: Ints) -> dict[str, Any]:
    """Ascending ordinals as a bit each where that is shorter."""
    ordinals = np.asarray(ordinals, dtype=np.int64)
    if len(ordinals) and np.all(np.diff(ordinals) > 0):
        first, span = int(ordinals[0]), int(ordinals[-1] - ordinals[0]) + 1
        if span <= 64 * len(ordinals):
            bits = np.zeros(span, dtype=bool)
            bits[ordinals - first] = True
            return {"first": first, "bits": np.packbits(bits).view(np.int8)}
    return {"all": ordinals}


def unpacked(data: Mapping[str, Any]) -> Ints:
    """The ordinals that `packed` has written."""
    if "all" in data:
        return np.asarray(data["all"])
    bits = np.unpackbits(np.asarray(data["bits"]).view(np.uint8))
    return np.flatnonzero(bits).astype(np.int64) + int(data["first"])


def _plus(a: Any, b: Any) -> Any:
    return b if a is None else a + b


def _least(a: Floats | None, b: Floats | None) -> Floats | None:
    if a is None or b is None:
        return a if b is None else b
    return np.asarray(np.minimum(a, b))


def _merged(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Any]:
    return {**a, **{name: _plus(a.get(name), value) for name, value in b.items()}}


def _nested(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Any]:
    return {**a, **{name: _merged(a.get(name, {}), counts) for name, counts in b.items()}}


def _joined(a: tuple[Members, ...], b: tuple[Members, ...]) -> tuple[Members, ...]:
    if not a or not b:
        return a or b
    return tuple(
        replace(one, patients=np.concatenate([one.patients, two.patients]))
        for one, two in zip(a, b, strict=True)
    )
