"""Patients behind two columns of a model matrix at once: the counts that the gate looks at.

The entry of two terms in the Hessian is a sum over the patients who have both, and with the other
entries it gives the sums over those who have one of them, or none. The outcome stands beside a
product in the gradient likewise.

Two terms that are only ever 0 or 1 have a count as their entry, and ordinary models have small
cross-tables; where patients have weights (`curved`), the entry is the weight of these few, so there
they are looked at as well. In such a pair, and in products with a yes-or-no column as it stands,
like `sex:age`, a patient counts twice, so that half the minimum is enough: ordinary models have
them, and an entry that one patient or two make up stays out of reach.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.design import Design, Factor
from polyclinic.models.glm.support import Data, patients

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
BLOCK_ROWS = 65_536
MOST_SLOTS = 20_000  # that sites share: above, no site makes up for another's pairs
MANY_PATIENTS = 1000  # from here on a lower bound of their number is enough
SELECTING = ("level", "missing", "bspline")  # by which a plan picks patients
CELLS = ("both", "the first alone", "the second alone", "neither")


@dataclass(frozen=True)
class Pair:
    """Two groups of factors whose product is summed.

    outcome   the second is this outcome
    ordinary  its products pick patients by columns as they stand only
    """

    name: str
    first: tuple[Factor, ...]
    second: tuple[Factor, ...] = ()
    outcome: int | None = None
    ordinary: bool = False

    @property
    def slots(self) -> tuple[str, ...]:
        return tuple(f"{self.name}: {cell}" for cell in CELLS)


def pairs(design: Design, classes: int) -> tuple[Pair, ...]:
    """What is summed together with a product, as the plan alone shows it."""
    return tuple(_pairs(design, classes))


def plain_pairs(design: Design) -> tuple[Pair, ...]:
    """What is summed together without a product."""
    plain = [term for term in design.terms if len(term.factors) == 1]
    plain = [term for term in plain if term.factors[0].kind != "site"]
    return tuple(
        Pair(f"{one.name!r} and {two.name!r}", one.factors, two.factors)
        for one, two in combinations(plain, 2)
    )


def pair_slots(design: Design, classes: int, curved: bool = False) -> tuple[str, ...]:
    """Names of the cells of all pairs; none where there are too many to share.

    curved  the sums give patients weights
    """
    found = pairs(design, classes) + (plain_pairs(design) if curved else ())
    if len(found) * len(CELLS) > MOST_SLOTS:
        return ()
    return tuple(slot for pair in found for slot in pair.slots)


def _pairs(design: Design, classes: int) -> Iterator[Pair]:
    products = [i for i, term in enumerate(design.terms) if len(term.factors) > 1]
    plain = {i: not any(f.kind in SELECTING for f in design.terms[i].factors) for i in products}
    for i in products:
        one = design.terms[i]
        for j, two in enumerate(design.terms):
            if j not in products or j > i:
                ordinary = plain[i] and plain.get(j, True)
                name = f"{one.name!r} and {two.name!r}"
                yield Pair(name, one.factors, two.factors, ordinary=ordinary)
        for k in range(classes) if classes > 2 else (1,):
            name = f"{one.name!r} and outcome {k}"
            yield Pair(name, one.factors, outcome=k, ordinary=plain[i])
        for f, factor in enumerate(one.factors if len(one.factors) > 2 else ()):
            rest = one.factors[:f] + one.factors[f + 1 :]
            yield Pair(f"{one.name!r}, part {f}", rest, (factor,), ordinary=plain[i])


def pair_counts(design: Design, data: Data, curved: bool = False) -> dict[str, int]:
    """Patients per cell of the pairs that show more than a count."""
    found: dict[str, int] = {}
    seen = data.seen
    for pair in pairs(design, data.classes):
        first, many = seen.of(pair.first)
        if pair.outcome is None:
            second, more = seen.of(pair.second)
        else:
            second, more = seen.outcome(pair.outcome), False
        only = not (many or more)
        if first is None or second is None or (only and not (curved and pair.outcome is None)):
            continue
        if only and not (first.any() and second.any()):
            continue
        times = 2 if only or pair.ordinary else 1
        for cell, slot in enumerate(pair.slots):
            found[slot] = times * patients(_cell(cell, first, second), data.key)
    return found


def plain_counts(design: Design, data: Data) -> dict[str, int]:
    """The same of pairs without a product, where the sums give patients weights.

    Without weights their numbers are in the sums themselves.
    """
    seen = data.seen
    wanted = plain_pairs(design)
    bounds = {term.factors: term.bound for term in design.terms}
    masks = {one: seen.of(one)[0] for pair in wanted for one in (pair.first, pair.second)}
    # A column of zeros may be a number that was not measured here, so that others count it not.
    known = {
        one: mask
        for one, mask in masks.items()
        if mask is not None and (bounds[one] <= 1.0 or mask.any())
    }
    if not known:
        return {}
    place = {one: i for i, one in enumerate(known)}
    table = Table(np.column_stack(list(known.values())), data.key)
    found: dict[str, int] = {}
    for pair in wanted:
        if pair.first in place and pair.second in place:
            cells = table.cells(place[pair.first], place[pair.second])
            found |= {slot: 2 * n for slot, n in zip(pair.slots, cells, strict=True)}
    return found


@dataclass(frozen=True)
class Table:
    """Rows and patients in the cells of the cross-tables of yes-or-no columns."""

    masks: Bools  # (n_rows, m)
    key: NDArray[np.int64] | None

    @cached_property
    def both(self) -> Floats:
        """Rows that have two columns, (m, m)."""
        found = np.zeros((self.masks.shape[1],) * 2)
        for at in range(0, len(self.masks), BLOCK_ROWS):
            part = self.masks[at : at + BLOCK_ROWS].astype(np.float32)
            found += part.T @ part
        return found

    @cached_property
    def _most(self) -> int:
        """Rows of the patient who has most."""
        return 1 if self.key is None else int(np.unique(self.key, return_counts=True)[1].max())

    def cells(self, i: int, j: int) -> list[int]:
        """Patients per cell of two columns, or a lower bound where they are many."""
        both, one, two = self.both[i, j], self.both[i, i], self.both[j, j]
        rows = [both, one - both, two - both, len(self.masks) - one - two + both]
        if self.key is None:
            return [int(n) for n in rows]
        found = []
        for cell, n in enumerate(rows):
            if n == 0 or n >= MANY_PATIENTS * self._most:
                found.append(int(n) // self._most)
                continue
            a, b = self.masks[:, i], self.masks[:, j]
            found.append(patients(_cell(cell, a, b), self.key))
        return found


def _cell(cell: int, first: Bools, second: Bools) -> Bools:
    """Rows in one of `CELLS`."""
    a, b = (first, ~first)[cell in (2, 3)], (second, ~second)[cell in (1, 3)]
    return a & b
