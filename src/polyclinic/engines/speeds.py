"""How fast each worker of a cluster is, and what a share of the rows would cost it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

NEWEST = 0.3  # weight of the newest round in a moving average
UNREAD = (
    10.0  # times that reading a row is taken to cost what computing on it costs, until measured
)


class Measured(NamedTuple):
    """What a worker says of one answer: `seconds` without reading, and what was read for it."""

    worker: str
    rows: int
    seconds: float
    read_rows: int
    read_seconds: float


@dataclass(frozen=True)
class Costs:
    """What a round takes, of one kind of plan.

    row    seconds to compute on a row, by a worker of speed 1
    read   seconds to read a row, by the same
    speed  of each worker; who is not in it is as fast as the others are on average
    room   rows that fit into a worker's memory; who is not in it holds as many as it gets
    """

    row: float = 1.0
    read: float = UNREAD
    speed: Mapping[str, float] = field(default_factory=dict)
    room: Mapping[str, int] = field(default_factory=dict)

    def seconds(self, worker: str, rows: int, new: int = 0) -> float:
        """Of a round over so many rows, of which `new` are read first; what does not fit into
        memory is read in every round."""
        over = max(rows - self.room.get(worker, rows), 0)
        return (rows * self.row + max(over, new) * self.read) / self.pace(worker)

    def pace(self, worker: str) -> float:
        """The worker's speed."""
        if worker in self.speed or not self.speed:
            return self.speed.get(worker, 1.0)
        return sum(self.speed.values()) / len(self.speed)


class Speeds:
    """Moving averages over rounds.

    Rounds differ in what they compute, so a worker's speed is relative: its rows per second over
    those of a worker of speed 1 in the same round.
    """

    def __init__(self) -> None:
        self.speed: dict[str, float] = {}
        self._rounds: dict[str, int] = {}
        self._row: dict[str, float] = {}
        self._read = 0.0

    def costs(self, kind: str, room: Mapping[str, int] | None = None) -> Costs:
        """As known so far for this kind of plan."""
        row = self._row.get(kind) or 1.0
        return Costs(row, self._read or UNREAD * row, dict(self.speed), dict(room or {}))

    def now(self, kind: str, answers: list[Measured], before: Costs) -> Costs | None:
        """In the middle of a round, by those who have answered, or else by rounds of its kind;
        None: nothing is known yet."""
        row = unit_of(answers, before.speed) or self.row(kind)
        if not row:
            return None
        read = self._read or read_of(answers, before.speed) or UNREAD * row
        return replace(before, row=row, read=read)

    def row(self, kind: str) -> float:
        """Seconds per row at speed 1; 0: no such plan was measured yet."""
        return self._row.get(kind, 0.0)

    def measured(self, kind: str, answers: list[Measured]) -> None:
        """A round is over."""
        self._read = read_of(answers, self.speed) or self._read
        unit = unit_of(answers, self.speed)
        if not unit:
            return
        before = self._row.get(kind, unit)
        self._row[kind] = before + NEWEST * (unit - before)
        rows: dict[str, int] = {}
        seconds: dict[str, float] = {}
        for one in answers:
            rows[one.worker] = rows.get(one.worker, 0) + one.rows
            seconds[one.worker] = seconds.get(one.worker, 0.0) + one.seconds
        for worker in rows:
            if rows[worker] and seconds[worker] > 0:
                self._add(worker, unit * rows[worker] / seconds[worker])
        self._scale(sum(self.speed.values()) / len(self.speed))

    def _scale(self, mean: float) -> None:
        """Speed 1 is the mean, or moving averages would drift together."""
        self.speed = {worker: speed / mean for worker, speed in self.speed.items()}
        self._row = {kind: row / mean for kind, row in self._row.items()}
        self._read /= mean

    def lagged(self, worker: str, rows: int, seconds: float, unit: float) -> None:
        """A worker whose answer was not waited for is at most so fast."""
        found = unit * rows / seconds
        if found < self.speed.get(worker, 1.0):
            self._add(worker, found)

    def _add(self, worker: str, found: float) -> None:
        n = self._rounds[worker] = self._rounds.get(worker, 0) + 1
        before = self.speed.get(worker, 1.0)
        self.speed[worker] = before + max(NEWEST, 1 / n) * (found - before)

    def forget(self, worker: str) -> None:
        """It is lost."""
        self.speed.pop(worker, None)
        self._rounds.pop(worker, None)


def read_of(answers: list[Measured], speed: Mapping[str, float]) -> float:
    """Seconds to read a row, as of who was fastest: others also wait, or start up; 0: not known."""
    read = [one for one in answers if one.read_rows]
    each = [one.read_seconds * speed.get(one.worker, 1.0) / one.read_rows for one in read]
    return min(each, default=0.0)


def unit_of(answers: list[Measured], speed: Mapping[str, float]) -> float:
    """Seconds per row of a worker of speed 1 in one round; 0: not known."""
    rows = sum(one.rows for one in answers)
    work = sum(one.seconds * speed.get(one.worker, 1.0) for one in answers)
    return work / rows if rows else 0.0
