"""What a hospital's trees know of all its rows together, asked of its chunks step by step.

Bins are joined into cells until each has enough of the hospital's patients (groups.py), and a split
moves whole cells. Neither can be told from some of the rows. So the site asks every chunk who is in
each bin of a node, adds that up, joins the bins, and lets the chunks know which way each bin goes
before it asks for the next level. All that is added are whole numbers, the largest of them, and who
the patients are: the cells are the same however rows are cut.

What is known here vanishes with the process that knows it, and is then asked for again, tree by
tree. None of it leaves the site; what does is in cells.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from polyclinic.core import codec
from polyclinic.core.exposure import Members, unpacked
from polyclinic.core.task import Answer, Question
from polyclinic.models.trees.at_risk import Asking, AtRisk, added
from polyclinic.models.trees.bins import Bools
from polyclinic.models.trees.groups import Lines, joined
from polyclinic.models.trees.rows import State, split_of
from polyclinic.models.trees.spec import Spec
from polyclinic.models.trees.stack import Stack
from polyclinic.models.trees.tasks import columns_named

Ints = NDArray[np.int64]
Node = tuple[int, int]  # number of a tree, and of a node in it


@dataclass(frozen=True)
class Cells:
    """One node's cells: at which bin each bin is counted, and who is behind each of them."""

    where: Ints
    lines: Lines


class Joint:
    """See the module.

    whole     bins joined until each has enough of the cohort's patients: what moves together in
              every tree, whatever its margins are
    several   whether a patient has several rows
    patients  behind the rows that trees are fitted to
    cells     of nodes of the growing trees
    sums      histograms of the nodes that were asked for last, by bin
    at_risk   of survival: what else is known of the rows that trees are fitted to
    """

    def __init__(self, spec: Spec, class_weight: NDArray[np.float64], at_risk: AtRisk) -> None:
        self.spec, self.class_weight, self.at_risk = spec, class_weight, at_risk
        self.whole: Ints | None = None
        self.several, self.patients = False, 0
        self.cells: dict[Node, Cells] = {}
        self.sums: Mapping[str, Ints] = {}
        self._base: NDArray[np.float64] | None = None
        self._trees = Stack.none(spec.width)  # finished ones of which all ways are known
        self._grown = self._trees  # all finished ones of a plan
        self._ways: dict[Node, Bools] = {}
        self._done: dict[Node, tuple[int, ...]] = {}
        self._behind: dict[int, Members] = {}
        self._cuts: tuple[Members, ...] | None = None

    def at(self, state: State) -> Asking:
        """Bring cells and sums to where a plan is."""
        if self.whole is None:
            found = yield Question({"ask": "whole"})
            self.several, self.patients = bool(found["several"]), int(found["patients"])
            self.whole = joined([lines_in(found["lines"])[0]], None, max(self.spec.cell, 1))
        self._begin(state)
        self._grown = state.trees
        if not self.spec.forest:
            for first in range(self._trees.trees, state.trees.trees, self.spec.at_once):
                many = min(self.spec.at_once, state.trees.trees - first)
                yield from self._follow(first, [state.trees.tree(first + i) for i in range(many)])
                self._trees = state.trees.first(first + many)
        self._trees, first = state.trees, state.trees.trees
        self.cells = {at: one for at, one in self.cells.items() if at[0] >= first}
        if self.spec.forest:  # of whose finished trees no margin is known
            self._ways = {at: left for at, left in self._ways.items() if at[0] >= first}
        growing = [state.grow.tree(i) for i in range(state.grow.trees)]
        yield from self._follow(first, growing)
        asked = [(first + tree, node) for tree, node in state.asked.tolist()]
        yield from self._find(first, growing, asked, state.asked)

    def _begin(self, state: State) -> None:
        """Forget what other trees were told."""
        same = self._base is not None and np.array_equal(self._base, state.base)
        if not same or not state.trees.starts_with(self._trees):
            self._base, self._trees = state.base, Stack.none(self.spec.width)
            self._forget(0)

    def _forget(self, first: int) -> None:
        for known in (self.cells, self._ways, self._done):
            for at in [at for at in known if at[0] >= first]:
                del known[at]

    def _follow(self, first: int, trees: list[Stack]) -> Asking:
        """Find which way bins go in every split of trees that grow side by side, level by level."""
        split = {(first + i, k): tree for i, tree in enumerate(trees) for k in tree.split_nodes}
        done = {at: was for at, was in self._done.items() if at[0] >= first}
        if any(at not in split or split_of(split[at], at[1]) != was for at, was in done.items()):
            self._forget(first)
        parents = _parents(first, trees)
        while todo := [
            at for at in split if at not in self._ways and (at[1] == 0 or parents[at] in self._ways)
        ]:
            yield from self._find(first, trees, todo)
            for at in todo:
                tree, node = split[at], at[1]
                where = self.cells[at].where[int(tree.feature[node])]
                self._ways[at] = tree.goes_left(node, self.spec)[where]
                self._done[at] = split_of(tree, node)

    def _find(
        self, first: int, trees: list[Stack], wanted: list[Node], asked: Ints | None = None
    ) -> Asking:
        """The cells of some nodes whose parents' ways are known, made together with those of their
        siblings; and the histograms of those asked for."""
        parents, pairs = _parents(first, trees), dict[Node, list[Node]]()
        for at in wanted:
            if at not in self.cells:
                above = parents.get(at, at)
                pairs[above] = [at] if above == at else _siblings(trees[at[0] - first], above)
        nodes = [at for pair in pairs.values() for at in pair]
        if not nodes and asked is None:
            return
        at_risk = yield from self._at_risk(first)
        values = self._question("lines", first, nodes)
        sums = np.zeros((0, 2), np.int64) if asked is None else asked
        found = yield Question({**values, **at_risk, "sums": sums})
        self.sums = found["sums"]
        lines = dict(zip(nodes, lines_in(found["lines"]), strict=True))
        where = dict[Node, Ints]()
        for above, pair in pairs.items():
            before = self.whole if above == pair[0] else self.cells[above].where
            one = joined([lines[at] for at in pair], before, max(self.spec.cell, 1))
            where |= dict.fromkeys(pair, one)
        if self.several and nodes:
            places = np.stack([where[at] for at in nodes])
            values = self._question("moved", first, nodes)
            found = yield Question({**values, **at_risk, "where": places})
            lines = dict(zip(nodes, lines_in(found["lines"]), strict=True))
        else:
            lines = {at: one.at(where[at]) for at, one in lines.items()}
        self.cells |= {at: Cells(where[at], lines[at]) for at in nodes}

    def _question(self, ask: str, first: int, nodes: list[Node]) -> dict[str, Any]:
        """About nodes of the trees that grow behind the first ones, with all ways up to there."""
        return {
            "ask": ask,
            "first": first,
            "nodes": _nodes([(tree - first, node) for tree, node in nodes]),
            "several": self.several,
            "split": _nodes(list(self._ways)),
            "left": np.array(list(self._ways.values()), dtype=bool),
        }

    def _at_risk(self, first: int) -> Asking:
        """Of survival the table of risk sets while the trees behind the first ones grow."""
        if not self.spec.survival:
            return {}
        assert self._base is not None
        about = self._question("", first, [])
        return (yield from self.at_risk.at(self._base, self._grown.first(first), about))

    def shares(self) -> Asking:
        """Of survival, how patients share in the curvature while the trees of now grow."""
        first = self._grown.trees
        table = yield from self._at_risk(first)
        if self.at_risk.shares is None:
            question = Question({**self._question("shares", first, []), **table})
            self.at_risk.shares = yield question
        return self.at_risk.shares

    def members(self, samples: list[int], cohort: Any) -> Asking:
        """Patients behind the sums of some samples, and the cohort's patients by cell of each
        column: other edges that differ by a few are refused like a cohort."""
        new = [one for one in samples if one not in self._behind]
        cuts = self._cuts is None
        if new or cuts:
            values = {"ask": "members", "samples": new, "cuts": cuts}
            found = yield Question({**values, "where": self.whole}, long=True)
            names = columns_named(self.spec)
            for sample, pieces in zip(new, found["behind"], strict=True):
                self._behind[sample] = Members(names, _ordinals(pieces))
            if cuts:
                about = codec.digest(cohort or {})
                self._cuts = self._cut(found["persons"], found["labels"], about)
        return (*(self._behind[one] for one in samples), *(self._cuts or ()))

    def _cut(self, persons: Any, labels: Any, about: str) -> tuple[Members, ...]:
        patients, found = _ordinals(persons), list[Members]()
        if len(patients) and patients.max() < 1 << 31:  # they stay while trees grow
            patients = cast(Ints, patients.astype(np.int32))
        for j, feature in enumerate(self.spec.features):
            label = np.concatenate([one[j] for one in labels])
            order, counts = np.argsort(label, kind="stable"), np.bincount(label)
            stops = np.cumsum(counts)
            for b in np.flatnonzero(counts):
                mine = patients[order[stops[b] - counts[b] : stops[b]]]
                found.append(Members((f"{feature.name} in {about}",), mine))
        return tuple(found)


def state_at(state: State, spec: Spec, first: int) -> State:
    """A plan's state, or the one in which its tree `first` and those beside it were grown."""
    if first >= state.trees.trees:
        return state
    trees = [state.trees.tree(first + i) for i in range(spec.at_once)]
    grow = Stack.none(spec.width)
    for tree in trees:
        grow = grow.plus(tree)
    return State(
        state.base, state.class_weight, state.trees.first(first), grow, np.zeros((0, 2), np.int64)
    )


def lines_to(lines: list[Lines]) -> dict[str, Any]:
    """Lines of nodes as an answer."""
    if not lines:
        return {}
    names = [one.name for one in fields(Lines)]
    return {name: np.stack([getattr(one, name) for one in lines]) for name in names}


def lines_in(answer: Mapping[str, Any]) -> list[Lines]:
    """Lines of nodes of an answer."""
    if not answer:
        return []
    names = [one.name for one in fields(Lines)]
    return [Lines(*parts) for parts in zip(*(answer[name] for name in names), strict=True)]


def together(one: Answer, other: Answer) -> dict[str, Any]:
    """Two answers as one."""
    found: dict[str, Any] = {}
    for name, mine in one.items():
        more = other[name]
        if name == "lines":
            found[name] = vars(Lines(**mine) + Lines(**more)) if mine else {}
        elif name == "sums":
            found[name] = {leaf: mine[leaf] + more[leaf] for leaf in mine}
        elif name == "behind":
            found[name] = [a + b for a, b in zip(mine, more, strict=True)]
        else:
            found[name] = added(name, mine, more)
    return found


def _parents(first: int, trees: list[Stack]) -> dict[Node, Node]:
    return {
        (first + i, int(tree.left[k]) + side): (first + i, k)
        for i, tree in enumerate(trees)
        for k in tree.split_nodes
        for side in (0, 1)
    }


def _siblings(tree: Stack, above: Node) -> list[Node]:
    left = int(tree.left[above[1]])
    return [(above[0], left), (above[0], left + 1)]


def _nodes(found: list[Node]) -> Ints:
    return np.array(found, dtype=np.int64).reshape(-1, 2)


def _ordinals(pieces: list[Mapping[str, Any]]) -> Ints:
    return np.concatenate([unpacked(one) for one in pieces])
