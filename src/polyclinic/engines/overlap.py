"""Rounds over the partitions of a cluster that overlap, so that no worker waits for another.

The rounds of a window are open: the next one, and as many after it as staleness lets begin. Who is
free computes its partitions of the earliest of them, at the newest coefficients, and pushes one
sum; then of the round after that; ahead of the window nobody gets. That is the bound of the stale
synchronous parallel server of Ho et al. (2013), in which the fast wait for the slow at its end.
Here they help. A partition that its owner has not begun is taken over for good: before going ahead
by who has read it before, and by anybody instead of waiting. What is out for too long is computed
twice, and the first answer counts. So each partition counts once in each round, whoever was slow,
and nothing is thrown away for its age.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from uuid import uuid4

from polyclinic.core import codec
from polyclinic.core.contribution import Sum
from polyclinic.core.overlap import Ages
from polyclinic.core.plan import Plan
from polyclinic.engines import wire
from polyclinic.engines.holdings import Holdings
from polyclinic.engines.machines import Arrived
from polyclinic.engines.rounds import AT_ONCE, MARGIN, SLACK, Message
from polyclinic.engines.speeds import Costs, Measured
from polyclinic.engines.workers import added


class Asked(NamedTuple):
    """A message: to whom, and how many rows are read first."""

    address: str
    new: int


@dataclass(eq=False)
class Piece:
    """Partitions of a round that are computed together, by one worker or, if it is late, by two.

    version  the round that was next when it was asked: its coefficients
    plan     with these coefficients, for a copy as well
    asked    messages without an answer, by name
    """

    round: int
    parts: list[int]
    version: int
    plan: Plan
    begun: float
    asked: dict[str, Asked] = field(default_factory=dict)
    sum: Sum | None = None


@dataclass(eq=False)
class Open:
    """A round that may begin: partitions that nobody computes yet, and pieces that somebody does
    or has done."""

    waiting: set[int]
    pieces: list[Piece] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        return not self.waiting and all(piece.sum is not None for piece in self.pieces)


class Window:
    """See the module; an `Overlap` of one fit.

    Parameters
    ----------
    holdings : who holds what.
    parts : rows of each partition, from and up to.
    room : rows that fit into each worker's memory, by address.
    message : makes the messages about a plan.
    """

    def __init__(
        self,
        holdings: Holdings,
        parts: Sequence[tuple[int, int]],
        room: Callable[[], dict[str, int]],
        message: Callable[[Plan], Message],
    ) -> None:
        self.machines, self.holdings = holdings.machines, holdings
        self._parts, self._room, self._message = parts, room, message
        self.talk = self.machines.talk()
        self._open: dict[int, Open] = {}
        self._plans: dict[int, Plan] = {}
        self._sent: dict[str, tuple[str, Piece]] = {}
        self._now, self._costs, self._kind = 0, Costs(), ""
        self._measured: list[Measured] = []

    def next(self, plans: Sequence[Plan]) -> tuple[Sum, Ages]:
        """The sum of the first plan's round, and the ages of its parts; see `Overlap`."""
        self._begin(plans)
        current = self._open[self._now]
        while not current.complete:
            self._hand_out()
            for arrived in self.talk.wait(self._look_again()):
                self._take(arrived)
        del self._open[self._now]
        self.machines.speeds.measured(self._kind, self._measured)
        self.machines.activity.end()
        found = added(piece.sum for piece in current.pieces if piece.sum is not None)
        return found, self._ages(current)

    def close(self) -> None:
        """Nobody need go on."""
        for name, (address, _) in self._sent.items():
            self.talk.drop(address, name)
        self._open.clear()
        self._sent.clear()

    def _begin(self, plans: Sequence[Plan]) -> None:
        self._plans, self._now = {plan.round: plan for plan in plans}, plans[0].round
        for number in self._plans:
            self._open.setdefault(number, Open(set(range(len(self._parts)))))
        self._kind, self._measured = f"sum {plans[0].task}", []
        self._costs = self.machines.speeds.costs(self._kind, self._room())
        self.holdings.newcomers()
        here = self._open[self._now]
        left = {part for piece in here.pieces if piece.sum is None for part in piece.parts}
        left |= here.waiting
        rows = self._rows(range(len(self._parts)))
        self.machines.activity.begin(len(self.holdings.workers), len(self._parts), rows)
        self.machines.activity.add(len(self._parts) - len(left), rows - self._rows(left))

    def _ages(self, done: Open) -> Ages:
        """Rows and ages of a round's parts; neighbours of the same age as one."""
        age = {part: done_.round - done_.version for done_ in done.pieces for part in done_.parts}
        found = list[tuple[int, int, int]]()
        for part, (first, stop) in enumerate(self._parts):
            if found and found[-1][2] == age[part]:
                found[-1] = found[-1][0], stop, age[part]
            else:
                found.append((first, stop, age[part]))
        return tuple(found)

    def _rows(self, parts: Iterable[int]) -> int:
        return sum(self.holdings.sizes[part] for part in parts)

    def _idle(self) -> list[str]:
        busy = {address for address, _ in self._sent.values()}
        return [worker for worker in self.holdings.workers if worker not in busy]

    def _hand_out(self) -> None:
        """Everyone who is free gets something of its own, or else of another's."""
        everything = {part for one in self._open.values() for part in one.waiting}
        self.holdings.placed(everything, self._costs)
        for choose in (self._own, self._take_over, self._copy):
            for worker in self._idle():
                if (piece := choose(worker)) is not None:
                    self._post(worker, piece)

    def _own(self, worker: str) -> Piece | None:
        """Of the earliest round in which there is some, all that the worker holds, or a partition
        of another one that it has read before."""
        for number, one in sorted(self._open.items()):
            mine = sorted(part for part in one.waiting if self.holdings.owner[part] == worker)
            if mine:
                return self._piece(number, mine)
            known = self._others(worker, one) & self.holdings.read.get(worker, set())
            if known:
                return self._taken(worker, number, max(known))
        return None

    def _take_over(self, worker: str) -> Piece | None:
        """What is to be read first, instead of waiting."""
        for number, one in sorted(self._open.items()):
            if others := self._others(worker, one):
                return self._taken(worker, number, max(others))
        return None

    def _others(self, worker: str, one: Open) -> set[int]:
        """Partitions that wait for somebody who is not free, and that fit into memory here."""
        if self.machines.policy != "least_load":
            return set()
        room, free = self._costs.room.get(worker), self._idle()
        if room is not None:
            room -= self._rows(self.holdings.own(worker))
        theirs = {part for part in one.waiting if self.holdings.owner[part] not in free}
        return {part for part in theirs if room is None or self._rows([part]) <= room}

    def _taken(self, worker: str, number: int, part: int) -> Piece:
        """It is this worker's from now on."""
        self.holdings.owner[part] = worker
        self.machines.activity.moved += 1
        return self._piece(number, [part])

    def _piece(self, number: int, parts: list[int]) -> Piece:
        """To be computed from now on."""
        one, plan = self._open[number], self._plans[number]
        found = Piece(number, parts, self._now, plan, time.monotonic())
        one.waiting.difference_update(parts)
        one.pieces.append(found)
        return found

    def _copy(self, worker: str) -> Piece | None:
        """What is due to be computed twice, of the earliest round."""
        due = [piece for piece in self._late() if self._due(piece, worker) <= time.monotonic()]
        if not due:
            return None
        piece = min(due, key=lambda one: (one.round, one.begun))
        self.machines.activity.copied += len(piece.parts)
        self.machines.activity.stragglers += 1
        return piece

    def _late(self) -> list[Piece]:
        """Pieces that one worker computes, and of which there is no copy."""
        if not self.machines.speculate:
            return []
        pieces = [piece for one in self._open.values() for piece in one.pieces]
        return [piece for piece in pieces if piece.sum is None and len(piece.asked) == 1]

    def _due(self, piece: Piece, worker: str) -> float:
        """When a copy by this worker is worth its while; see `rounds`."""
        costs = self.machines.speeds.now(self._kind, self._measured, self._costs)
        if costs is None:
            return float("inf")
        (asked,), rows = piece.asked.values(), self._rows(piece.parts)
        expected = costs.seconds(asked.address, rows, asked.new)
        copy = costs.seconds(worker, rows, self.holdings.unread(worker, piece.parts))
        return piece.begun + max(SLACK * expected, MARGIN * copy + AT_ONCE)

    def _look_again(self) -> float | None:
        """Seconds after which a copy is due; None: there is nothing to do but wait."""
        idle, late = self._idle(), self._late()
        due = min((self._due(piece, worker) for piece in late for worker in idle), default=None)
        return None if due in (None, float("inf")) else max(due - time.monotonic(), 0.0)

    def _post(self, worker: str, piece: Piece) -> None:
        name = uuid4().hex
        message = self._message(piece.plan)(worker, piece.parts, name)
        piece.asked[name] = Asked(worker, self.holdings.unread(worker, piece.parts))
        self._sent[name] = worker, piece
        self.machines.activity.bytes += len(message)
        self.talk.post({name: (worker, message)})

    def _take(self, arrived: Arrived) -> None:
        """An answer, or that there is none."""
        if arrived.name not in self._sent:
            return  # of a fit that is over
        address, piece = self._sent.pop(arrived.name)
        asked = piece.asked.pop(arrived.name, None)
        if arrived.reply is None:
            self.holdings.lost(address)
        if piece.sum is not None or asked is None:
            return  # another answer was first
        fields: dict[str, Any] = {} if arrived.reply is None else codec.decode(arrived.reply)
        if "sum" in fields:
            return self._count(piece, asked, fields, len(arrived.reply))
        if "unknown" in fields:
            self.holdings.anew(address)
        if piece.asked:
            return  # it is computed by another one as well
        if "error" in fields:
            raise wire.error_from_data(fields["error"])
        one = self._open[piece.round]
        one.pieces.remove(piece)
        one.waiting.update(piece.parts)

    def _count(self, piece: Piece, asked: Asked, fields: dict[str, Any], size: int) -> None:
        """It is the one that counts."""
        piece.sum = Sum.from_data(fields["sum"])
        for name, other in piece.asked.items():
            self.talk.drop(other.address, name)
        piece.asked.clear()
        self.holdings.asked(asked.address, piece.parts)
        self.machines.activity.bytes += size
        rows, read = self._rows(piece.parts), fields["read"]
        seconds = max(fields["seconds"] - read["seconds"], 0.0)
        self._measured.append(Measured(asked.address, rows, seconds, read["rows"], read["seconds"]))
        if piece.round == self._now:
            self.machines.activity.add(len(piece.parts), rows)
