"""Secondary suppression: a hidden cell must not be what is left of known totals.

Lines are nodes of a graph and hidden cells its edges: a cell lies in one line along each closed
axis. What the totals determine is just the edges on no circle, the bridges: what is shown on one
side of a bridge, added and subtracted, is the cell. A bridge is put on a circle by hiding the cells
of the cheapest way around it, counted in patients.

Reference: D. Gusfield, "A graph theoretic approach to statistical data security", *SIAM Journal on
Computing* 17 (1988).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Node = tuple[object, ...]
GROUND: Node = ("no total",)  # the second end of cells that lie in one closed line only


def cover(behind: Ints, hidden: Bools, axes: Sequence[str], minimum: int) -> Bools:
    """More hidden cells, until every hidden one could be another number than it is.

    In every line none are hidden, or two or more with enough patients together; and no cell follows
    from several lines together. Where all that could be hidden is not enough a cell stays as it is.

    Parameters
    ----------
    behind : patients per cell; hidden : the cells that are too small; both of the leaf's shape.
    axes : the leaf's `closed`.
    minimum : patients that must stand behind the hidden cells of a line together.
    """
    hidden = hidden.copy()
    before = -1
    while axes and (now := int(np.count_nonzero(hidden))) != before:
        before = now
        for axis in axes:
            place = -1 if axis == "last" else 0
            counts = np.moveaxis(behind, place, -1)
            marks = np.moveaxis(hidden, place, -1)
            for at in np.ndindex(counts.shape[:-1]):
                _cover(counts[at], marks[at], axis, minimum)
        _close(behind, hidden, axes, minimum)
    return hidden


def _cover(counts: Ints, mark: Bools, axis: str, minimum: int) -> None:
    """Cover one line; along "groups" what is in no group is one more cell, which is never shown."""
    if axis != "groups":
        _cover_line(counts, mark, minimum)
        return
    rest = max(int(counts[0] - counts[1:].sum()), 0)
    whole = np.append(counts[1:], rest)
    marks = np.append(mark[1:], 0 < rest < minimum)
    _cover_line(whole, marks, minimum)
    mark[1:] = marks[:-1]


def _cover_line(counts: Ints, mark: Bools, minimum: int) -> None:
    while True:
        number = np.count_nonzero(mark & (counts > 0))
        enough = number != 1 and counts[mark].sum() >= minimum
        shown = np.flatnonzero((counts > 0) & ~mark)
        if number == 0 or enough or not len(shown):
            return
        mark[shown[np.argmin(counts[shown])]] = True


@dataclass(frozen=True)
class _Edge:
    """A cell between its two lines; `place` its flat position, None for what is never shown."""

    ends: tuple[Node, Node]
    place: int | None
    patients: int


def _close(behind: Ints, hidden: Bools, axes: Sequence[str], minimum: int) -> None:
    """Hide more cells until no hidden one is a bridge that could be put on a circle.

    Twice where there are groups: their sum may be known from elsewhere, so first without it.
    """
    flat = hidden.reshape(-1)
    assumed = (True, False) if "groups" in axes else (False,)
    for sum_known in assumed:
        edges = list(_edges(behind, axes, minimum, sum_known))
        if any(edge.place is None or flat[edge.place] for edge in edges):
            _put_on_circles(edges, flat)
    hidden[...] = flat.reshape(hidden.shape)


def _edges(behind: Ints, axes: Sequence[str], minimum: int, sum_known: bool) -> Iterator[_Edge]:
    """All cells with patients, and the small rests that are in no group."""
    for place in np.flatnonzero(behind):
        at = tuple(int(i) for i in np.unravel_index(place, behind.shape))
        if sum_known and at[0] == 0:
            continue
        lines = [_line(axis, at) for axis in axes]
        yield _Edge(_ends(lines), int(place), int(behind[at]))
    if "groups" in axes:
        rests = behind[0] - behind[1:].sum(axis=0)
        for rest_at in np.argwhere((rests > 0) & (rests < minimum)):
            at = (-1, *(int(i) for i in rest_at))
            yield _Edge(_ends([_line(axis, at) for axis in axes]), None, 0)


def _line(axis: str, at: tuple[int, ...]) -> Node:
    return (axis, at[:-1] if axis == "last" else at[1:])


def _ends(lines: list[Node]) -> tuple[Node, Node]:
    first, second = (*lines, GROUND)[:2]
    return first, second


def _put_on_circles(edges: list[_Edge], hidden: Bools) -> None:
    """Hide cells in `hidden` (flat) around every bridge for which there is a way around."""
    while True:
        for bridge in _bridges([e for e in edges if e.place is None or hidden[e.place]]):
            way = _way_around(bridge, edges, hidden)
            if way:
                hidden[way] = True
                break
        else:
            return


def _bridges(edges: list[_Edge]) -> list[_Edge]:
    """The edges on no circle, by the numbers of a depth-first search without recursion."""
    near = _neighbours(edges)
    number: dict[Node, int] = {}
    low: dict[Node, int] = {}
    found = []
    for root in near:
        if root in number:
            continue
        number[root] = low[root] = len(number)
        stack: list[tuple[Node, int, Iterator[tuple[Node, int]]]] = [(root, -1, iter(near[root]))]
        while stack:
            node, came_by, rest = stack[-1]
            step = next((s for s in rest if s[1] != came_by), None)
            if step is None:
                stack.pop()
                if stack:
                    above = stack[-1][0]
                    low[above] = min(low[above], low[node])
                    if low[node] > number[above]:
                        found.append(edges[came_by])
            elif step[0] in number:
                low[node] = min(low[node], number[step[0]])
            else:
                number[step[0]] = low[step[0]] = len(number)
                stack.append((step[0], step[1], iter(near[step[0]])))
    return found


def _neighbours(edges: list[_Edge]) -> dict[Node, list[tuple[Node, int]]]:
    near: dict[Node, list[tuple[Node, int]]] = {}
    for i, edge in enumerate(edges):
        for one, two in (edge.ends, edge.ends[::-1]):
            near.setdefault(one, []).append((two, i))
    return near


def _way_around(bridge: _Edge, edges: list[_Edge], hidden: Bools) -> list[int]:
    """Shown cells with the fewest patients that join the ends of a bridge; none: there is no way.

    Dijkstra's algorithm; hidden cells cost nothing.
    """
    start, goal = bridge.ends
    near = _neighbours(edges)
    best: dict[Node, tuple[int, list[int]]] = {}
    queue: list[tuple[int, int, Node, list[int]]] = [(0, 0, start, [])]
    pushed = 0
    while queue:
        cost, _, node, way = heapq.heappop(queue)
        if node in best:
            continue
        best[node] = (cost, way)
        if node == goal:
            return way
        for other, i in near[node]:
            edge = edges[i]
            if other in best or edge is bridge:
                continue
            shown = edge.place is not None and not hidden[edge.place]
            more = [edge.place] if shown and edge.place is not None else []
            pushed += 1
            heapq.heappush(queue, (cost + edge.patients * shown, pushed, other, way + more))
    return []
