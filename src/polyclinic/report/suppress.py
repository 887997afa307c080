"""Small cells in shared tables: which to hide so that none can be worked out.

A table has levels as rows and hospitals as columns; its last column may be the sum of the others.
What a reader holds against it: the patients of every column, the sum of every row, the cells that
are shown. Cells of 1 to 4 are hidden, and with them the cheapest larger cells until

1. no hidden cell is certain to be under 5, and none can be worked out: over all tables that agree
   with what is shown, its largest value is at least 5 and above its smallest;
2. a reader who guesses which of the hidden cells are the small ones gains nothing: each of those
   can be any of 1 to 4 while the others are at least 5 (unless its whole column is hidden).

All hidden cells look alike. Zeros are shown, except where a whole column is hidden.

References
----------
Willenborg, de Waal: Elements of Statistical Disclosure Control (2001), chapters 6 and 7.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEAST = 5
Cell = tuple[int, int]  # (level, column)
Counts = Sequence[Sequence[int | None]]
Bounds = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class _Table:
    """Counts (level x column), the published sum of each column, and whether the last column is
    the sum of the others."""

    counts: Counts
    totals: Sequence[int | None]
    summed: bool

    @property
    def cells(self) -> list[Cell]:
        return [(i, j) for i, row in enumerate(self.counts) for j in range(len(row))]

    def count(self, cell: Cell) -> int | None:
        return self.counts[cell[0]][cell[1]]

    @property
    def axes(self) -> tuple[int, ...]:
        """Lines whose sums are known: rows (0) where summed, columns (1)."""
        return (0, 1) if self.summed else (1,)

    def is_small(self, cell: Cell) -> bool:
        """A hospital hides 1 to 4; an overall count that is not known need not be small."""
        count = self.count(cell)
        if count is None:
            return not (self.summed and cell[1] == len(self.totals) - 1)
        return 0 < count < LEAST

    def equations(self) -> Iterator[tuple[list[tuple[Cell, int]], int]]:
        """What adds up to what: (cells with their signs, sum)."""
        for j, total in enumerate(self.totals):
            if total is not None:
                yield [((i, j), 1) for i in range(len(self.counts))], total
        if self.summed:
            last = len(self.totals) - 1
            for i in range(len(self.counts)):
                yield [((i, j), 1 if j < last else -1) for j in range(last + 1)], 0


def suppress(
    counts: Counts, totals: Sequence[int | None], *, summed: bool = True
) -> list[list[bool]]:
    """True for every cell that must not be shown.

    Parameters
    ----------
    counts : level x column; None for a cell that a hospital's gate already hid (1 to 4).
    totals : published number of patients of each column; None where it is not published. All
        cells of a column add up to it.
    summed : the last column is the sum of the others.
    """
    table = _Table(counts, totals, summed)
    small = {cell for cell in table.cells if table.is_small(cell)}
    hidden = small | {cell for cell in table.cells if table.count(cell) is None}
    while hidden and (unsafe := _unsafe(table, hidden, small)) is not None:
        extra = _cheapest(table, hidden, unsafe)
        if extra is None:
            break
        hidden |= extra
    hidden = _pruned(table, hidden, small)
    return [[(i, j) in hidden for j in range(len(totals))] for i in range(len(counts))]


def shown_events(sites: Sequence[Mapping[str, Any]], model: Mapping[str, Any]) -> list[int | None]:
    """Events of each hospital and of all, None for those that must not be shown: patients with the
    event and without it are both cells of a table."""
    parts = [*sites, model]
    events = [part["events"] for part in parts]
    others = [
        None if e is None or part["patients"] is None else part["patients"] - e
        for e, part in zip(events, parts, strict=True)
    ]
    hidden = suppress([events, others], [part["patients"] for part in parts])
    return [
        None if gone or other_gone else value
        for value, gone, other_gone in zip(events, *hidden, strict=True)
    ]


def _unsafe(table: _Table, hidden: set[Cell], small: set[Cell]) -> Cell | None:
    """A hidden cell that breaks one of the two rules, or None."""
    whole = {
        j
        for j in range(len(table.totals))
        if all((i, j) in hidden or not table.count((i, j)) for i in range(len(table.counts)))
    }
    order = sorted(hidden)
    reader = _Reader(table, order)
    alike = [(0 if j in whole else 1, reader.most) for _, j in order]
    every = range(len(order))
    broken = reader.not_reached(alike, {k: LEAST for k in every}, 1)
    if broken is None:
        broken = reader.known(alike)
    if broken is None:
        guess = [_guess(table, cell, cell in small, reader.most) for cell in order]
        asked = [k for k in every if order[k] in small and order[k][1] not in whole]
        broken = reader.not_reached(guess, dict.fromkeys(asked, LEAST - 1), 1)
        if broken is None:
            broken = reader.not_reached(guess, dict.fromkeys(asked, 1), -1)
    return None if broken is None else order[broken]


def _guess(table: _Table, cell: Cell, small: bool, most: int) -> tuple[int, int]:
    """Bounds of a hidden cell for a reader who has guessed which are small and which are zero."""
    count = table.count(cell)
    if small:
        return 1, LEAST - 1
    if count == 0:
        return 0, 0
    return (0 if count is None else LEAST), most


class _Reader:
    """Who solves for the hidden cells of a table from all that is shown.

    The equations are those of a network, so the ends of a linear program are whole numbers. One
    solution answers for many cells: each asks how far a sum of cells can go, then cell by cell.
    """

    def __init__(self, table: _Table, order: Sequence[Cell]) -> None:
        places = {cell: k for k, cell in enumerate(order)}
        known = [table.count(cell) or 0 for cell in table.cells]
        self.size = len(order)
        self.most = sum(known) + sum(total or 0 for total in table.totals) + 10 * LEAST
        self.left: list[NDArray[np.float64]] = []
        self.right: list[float] = []
        for terms, total in table.equations():
            row, rest = np.zeros(self.size), float(total)
            for cell, sign in terms:
                if cell in places:
                    row[places[cell]] = sign
                else:
                    rest -= sign * (table.count(cell) or 0)
            if row.any():
                self.left.append(row)
                self.right.append(rest)

    def solve(self, bounds: Bounds, places: Sequence[int], sign: int) -> NDArray[np.int64] | None:
        """Values of the hidden cells with the largest (sign 1) or smallest sum over `places`."""
        from scipy.optimize import linprog

        aim = np.zeros(self.size)
        aim[list(places)] = -sign
        equations = {"A_eq": np.array(self.left), "b_eq": self.right} if self.left else {}
        found = linprog(aim, bounds=bounds, method="highs", **equations)
        return np.rint(found.x).astype(np.int64) if found.status == 0 else None

    def not_reached(self, bounds: Bounds, targets: Mapping[int, int], sign: int) -> int | None:
        """A cell that cannot come to its target (or beyond) from below (1) or above (-1)."""
        left = sorted(targets)
        while left:
            for places in (left, left[:1]):
                values = self.solve(bounds, places, sign)
                if values is None:
                    return None  # no table agrees with these bounds: nothing is learnt from them
                rest = [k for k in left if sign * values[k] < sign * targets[k]]
                if len(rest) < len(left):
                    break
            else:
                return left[0]
            left = rest
        return None

    def known(self, bounds: Bounds) -> int | None:
        """A cell that has one possible value only."""
        first = self.solve(bounds, [], 1)
        left = list(range(self.size))
        while left and first is not None:
            for places, sign in ((left, 1), (left, -1), (left[:1], 1), (left[:1], -1)):
                values = self.solve(bounds, places, sign)
                rest = left if values is None else [k for k in left if values[k] == first[k]]
                if len(rest) < len(left):
                    break
            else:
                return left[0]
            left = rest
        return None


def _cheapest(table: _Table, hidden: set[Cell], unsafe: Cell) -> set[Cell] | None:
    """The cheapest cells to hide next: beside one that is alone in its line, else in the column or
    the row of `unsafe`, else anywhere; at last the zeros of its column too."""
    shown = [cell for cell in table.cells if cell not in hidden and table.count(cell)]
    lines = [
        (axis, cell[axis])
        for cell in sorted(hidden)
        for axis in table.axes
        if sum(other[axis] == cell[axis] for other in hidden) == 1
    ]
    lines += [(axis, unsafe[axis]) for axis in reversed(table.axes)]
    for axis, place in lines:
        choice = [cell for cell in shown if cell[axis] == place]
        if choice:
            return {min(choice, key=lambda cell: (_cost(table, hidden, cell), cell))}
    if shown:
        return {min(shown, key=lambda cell: (_cost(table, hidden, cell), cell))}
    whole = {cell for cell in table.cells if cell[1] == unsafe[1]} - hidden
    return whole or None


def _cost(table: _Table, hidden: set[Cell], cell: Cell) -> int:
    """Patients hidden by hiding `cell`, with the cell that its column or row would then need."""
    cost = table.count(cell) or 0
    for axis in table.axes:
        line = [other for other in table.cells if other[axis] == cell[axis] and other != cell]
        if any(other in hidden for other in line):
            continue
        cost += min((count for other in line if (count := table.count(other))), default=0)
    return cost


def _pruned(table: _Table, hidden: set[Cell], small: set[Cell]) -> set[Cell]:
    """Without the extra cells that turned out not to be needed, largest first."""
    if not hidden or _unsafe(table, hidden, small) is not None:
        return hidden
    extra = {cell for cell in hidden - small if table.count(cell) is not None}
    columns = [{cell for cell in extra if cell[1] == j} for j in range(len(table.totals))]
    single = [{cell} for cell in sorted(extra, key=lambda cell: -(table.count(cell) or 0))]
    for group in [*filter(None, columns), *single]:
        if group <= hidden and _unsafe(table, hidden - group, small) is None:
            hidden = hidden - group
    return hidden
