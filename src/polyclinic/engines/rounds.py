"""One round over the partitions of a cluster: what is asked of whom, and which answers count.

Each worker is asked once for all its partitions. Partitions of a lost worker are asked of others.
Those of a straggler are asked of idle workers as well, where its answer is expected later than
theirs: the first that is complete counts, the other is dropped. Sums are exact, so both have the
same bytes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from uuid import uuid4

from polyclinic.core import codec
from polyclinic.engines import wire
from polyclinic.engines.assign import assign
from polyclinic.engines.held import WHOLE
from polyclinic.engines.holdings import Holdings
from polyclinic.engines.machines import Arrived
from polyclinic.engines.speeds import Costs, Measured, unit_of

SLACK = 1.3  # times what is expected, from which on nobody knows when an answer comes
MARGIN = 1.5  # times what a copy is expected to take, that waiting has to take longer
AT_ONCE = 0.05  # seconds that are always waited


class Asked(NamedTuple):
    """A message: to whom, over which parts, with how many rows to be read first."""

    address: str
    parts: list[int]
    new: int


@dataclass(eq=False)
class Attempt:
    """Messages whose answers, together, cover the parts of a group.

    begun    when it was sent
    waiting  messages without an answer, by name
    answers  with name and message
    """

    begun: float
    waiting: dict[str, Asked]
    answers: list[Answer] = field(default_factory=list)


@dataclass(eq=False)
class Group:
    """Parts that are answered by one attempt, whichever is complete first."""

    parts: list[int]
    attempts: list[Attempt] = field(default_factory=list)
    done: bool = False


class Answer(NamedTuple):
    """An answer that counts."""

    name: str
    address: str
    parts: list[int]
    fields: dict[str, Any]


Message = Callable[[str, Sequence[int], str], bytes]


class Round:
    """See the module.

    Parameters
    ----------
    holdings : who holds what.
    kind : of the plan; rounds of a kind take about as long.
    room : rows that fit into each worker's memory.
    message : makes the message for a worker over some parts, by a name.
    """

    def __init__(
        self, holdings: Holdings, kind: str, room: Mapping[str, int], message: Message
    ) -> None:
        self.machines, self.holdings = holdings.machines, holdings
        self._kind, self._message = kind, message
        self._costs = self.machines.speeds.costs(kind, room)
        self.talk = self.machines.talk()
        self._groups: list[Group] = []
        self._sent: dict[str, tuple[Group, Attempt]] = {}
        self._measured: list[Measured] = []

    def answers(self, parts: Iterable[int]) -> list[Answer]:
        """Answers that cover the parts, each once, in the order of the parts."""
        parts = sorted(parts)
        self.holdings.balance(self._costs, self.machines.speeds.row(self._kind))
        placed = self.holdings.placed(parts, self._costs)
        rows = sum(self.holdings.sizes[part] for part in parts)
        self.machines.activity.begin(len(placed), len(parts), rows)
        self._groups = [Group(mine) for mine in placed.values()]
        asked = zip(self._groups, placed.items(), strict=True)
        self._post([(group, {address: mine}) for group, (address, mine) in asked])
        try:
            while not all(group.done for group in self._groups):
                for arrived in self.talk.wait(self._look_again()):
                    self._take(arrived)
                self._copy()
        finally:
            for name, (_, attempt) in self._sent.items():
                self.talk.drop(attempt.waiting[name].address, name)
        self.machines.speeds.measured(self._kind, self._measured)
        found = [answer for group in self._groups for answer in group.attempts[0].answers]
        return sorted(found, key=lambda answer: answer.parts[0])

    def _post(self, wanted: Sequence[tuple[Group, Mapping[str, list[int]]]]) -> None:
        """A new attempt for each of the groups."""
        messages = {}
        for group, mine in wanted:
            attempt = Attempt(time.monotonic(), {})
            group.attempts.append(attempt)
            for address, parts in mine.items():
                name = uuid4().hex
                messages[name] = (address, self._message(address, parts, name))
                new = self.holdings.unread(address, parts)
                attempt.waiting[name] = Asked(address, parts, new)
                self._sent[name] = group, attempt
                self.machines.activity.bytes += len(messages[name][1])
        self.talk.post(messages)

    def _take(self, arrived: Arrived) -> None:
        """An answer, or that there is none."""
        if arrived.name not in self._sent:
            return  # another answer was complete before
        group, attempt = self._sent.pop(arrived.name)
        asked = attempt.waiting.pop(arrived.name)
        if arrived.reply is None:
            self.holdings.lost(asked.address)
            return self._broken(group, attempt)
        fields: dict[str, Any] = codec.decode(arrived.reply)
        self.machines.activity.bytes += len(arrived.reply)
        if "unknown" in fields:
            self.holdings.anew(asked.address)
            return self._broken(group, attempt)
        if "error" in fields:
            if len(group.attempts) == 1:
                raise wire.error_from_data(fields["error"])
            return self._broken(group, attempt)
        self.holdings.asked(asked.address, asked.parts)
        self._measure(asked, fields)
        attempt.answers.append(Answer(arrived.name, asked.address, asked.parts, fields))
        if not attempt.waiting:
            self._done(group, attempt)

    def _measure(self, asked: Asked, fields: Mapping[str, Any]) -> None:
        rows = self._rows(asked.parts)
        read = fields["read"]
        seconds = max(fields["seconds"] - read["seconds"], 0.0)
        self._measured.append(Measured(asked.address, rows, seconds, read["rows"], read["seconds"]))

    def _rows(self, parts: Iterable[int]) -> int:
        return sum(self.holdings.sizes[part] for part in parts)

    def _done(self, group: Group, attempt: Attempt) -> None:
        """It is the one that counts."""
        group.done = True
        for other in group.attempts:
            if other is not attempt:
                self._lag(other)
                self._drop(other)
        group.attempts = [attempt]
        self.machines.activity.add(len(group.parts), self._rows(group.parts))

    def _lag(self, attempt: Attempt) -> None:
        """What is known of the speed of those who are not waited for."""
        unit = unit_of(self._measured, self._costs.speed)
        seconds = time.monotonic() - attempt.begun
        for asked in attempt.waiting.values():
            if unit and not asked.new:
                rows = self._rows(asked.parts)
                self.machines.speeds.lagged(asked.address, rows, seconds, unit)

    def _drop(self, attempt: Attempt) -> None:
        """Its answers do not count: of those it has and of those that come."""
        for name, asked in attempt.waiting.items():
            del self._sent[name]
            self.talk.drop(asked.address, name)
        for answer in attempt.answers:
            if "held" in answer.fields:
                self.talk.drop(answer.address, answer.name)

    def _broken(self, group: Group, attempt: Attempt) -> None:
        """It will not be complete; without another one the parts are asked again."""
        self._drop(attempt)
        group.attempts.remove(attempt)
        if not group.attempts:
            self._post([(group, self.holdings.placed(group.parts, self._costs))])

    def _late(self) -> list[tuple[Group, Attempt]]:
        """Those who are waited for, and of whom there is no copy; none while most still work."""
        open_ = [group for group in self._groups if not group.done]
        if not self.machines.speculate or len(open_) > max(1, len(self._groups) // 2):
            return []
        alone = [group for group in open_ if len(group.attempts) == 1 and WHOLE not in group.parts]
        return [(group, group.attempts[0]) for group in alone]

    def _idle(self) -> list[str]:
        busy = {
            asked.address
            for group in self._groups
            for attempt in group.attempts
            for asked in attempt.waiting.values()
        }
        return [worker for worker in self.holdings.workers if worker not in busy]

    def _plans(self) -> list[tuple[float, Group, dict[str, list[int]]]]:
        """When each straggler's parts had best be computed by others too, and by whom."""
        late, idle = self._late(), self._idle()
        if not late or not idle:
            return []
        costs = self.machines.speeds.now(self._kind, self._measured, self._costs)
        if costs is None:
            return []
        return [self._plan(group, attempt, idle, costs) for group, attempt in late]

    def _plan(
        self, group: Group, attempt: Attempt, idle: list[str], costs: Costs
    ) -> tuple[float, Group, dict[str, list[int]]]:
        sizes = {part: self.holdings.sizes[part] for part in group.parts}
        to: dict[str, list[int]] = {}
        for part, worker in sorted(assign(sizes, idle, costs=costs).items()):
            to.setdefault(worker, []).append(part)
        copy = max(
            self._seconds(costs, Asked(w, p, self.holdings.unread(w, p))) for w, p in to.items()
        )
        expected = max(self._seconds(costs, asked) for asked in attempt.waiting.values())
        patience = MARGIN * copy + AT_ONCE
        if attempt.begun + expected > time.monotonic() + patience:
            return 0.0, group, to
        return attempt.begun + max(SLACK * expected, patience), group, to

    def _seconds(self, costs: Costs, asked: Asked) -> float:
        return costs.seconds(asked.address, self._rows(asked.parts), asked.new)

    def _look_again(self) -> float | None:
        """Seconds after which a copy is due; None: there is nothing to do but wait."""
        due = min((when for when, *_ in self._plans()), default=None)
        return None if due is None else max(due - time.monotonic(), 0.0)

    def _copy(self) -> None:
        """Parts of stragglers also go to idle workers."""
        while due := [plan for plan in self._plans() if plan[0] <= time.monotonic()]:
            _, group, to = max(due, key=lambda plan: self._rows(plan[1].parts))
            self._post([(group, to)])
            self.machines.activity.copied += len(group.parts)
            self.machines.activity.stragglers += 1
