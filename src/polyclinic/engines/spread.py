"""Workers of one trust domain that are elsewhere: what they are asked, and what becomes of a loss.

A partition belongs to one worker, which reads it from where it lies. If the worker is lost its
partitions go to the others, who read them anew and compute what is missing of the round; as sums
are exact, the result has the same bytes.
"""

from __future__ import annotations

import shutil
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

from polyclinic.core import codec
from polyclinic.core.contribution import Sum
from polyclinic.core.errors import InputError
from polyclinic.core.exposure import Exposure
from polyclinic.core.federation import Memory
from polyclinic.core.partition import Partition, cuts
from polyclinic.core.plan import Plan
from polyclinic.core.task import lookup
from polyclinic.data.located import Survey
from polyclinic.data.scan import Selected
from polyclinic.engines import wire
from polyclinic.engines.assign import Policy, assign
from polyclinic.engines.held import WHOLE, Scanned
from polyclinic.engines.spool import spool
from polyclinic.engines.workers import added

PER_WORKER = 4  # partitions, so that those of a lost worker can be shared out
A_NAME = 32  # letters of the shortest hash by which a plan names what the site keeps


class Machines(Protocol):
    """What carries messages to workers.

    speed  rows per second of each worker, as measured
    spool  folder that all workers see, for rows in memory; None: there is none
    """

    policy: Policy
    speed: dict[str, float]
    spool: str | None

    def ask(self, messages: Mapping[str, bytes]) -> dict[str, Any]: ...
    def live(self) -> list[str]: ...


@dataclass(frozen=True)
class About:
    """What the gate reads of rows that are elsewhere; see `polyclinic.core.partition.Rows`."""

    columns: tuple[str, ...]
    n_patients: int
    outside: int
    population: int


class SpreadWorkers:
    """See the module; takes the place of `ThreadWorkers`.

    Parameters
    ----------
    machines : where the workers are.
    rows : all rows of the domain, in memory or where they lie.
    partitions : as in `ThreadWorkers`: with the same number the sums have the same bytes.
    """

    def __init__(self, machines: Machines, rows: Partition | Selected, partitions: int = 1) -> None:
        self.machines = machines
        self._owner: dict[int, str] = {}
        self._told: set[str] = set()
        place, self._source, self.rows = (
            self._located(rows) if isinstance(rows, Selected) else self._spooled(rows)
        )
        n_rows, edge = (place.n_rows, place.edge)
        workers = len(machines.live())
        self._edges = grouped(cuts(n_rows, edge, partitions), PER_WORKER * workers)
        self._sizes = {i: edges[-1] - edges[0] for i, edges in enumerate(self._edges)}
        self._sizes[WHOLE] = n_rows
        self._name = codec.digest([self._source, self._edges])

    def sum(self, plan: Plan) -> Sum:
        """Contributions of all partitions, added at the workers first."""
        replies = self._ask("sum", plan)
        return added(iter([Sum.from_data(reply["sum"]) for reply in replies]))

    def remember(self, plan: Plan, memory: Memory) -> tuple[Sum, Memory]:
        """The sum of a task that goes on from `memory`, and what it keeps for later."""
        (reply,) = self._ask("remember", plan, [WHOLE], {"memory": dict(memory)})
        return Sum.from_data(reply["sum"]), reply["memory"]

    def exposure(self, plan: Plan, summed: Sum) -> Exposure:
        """How patients share in `summed`, for the gate."""
        own = summed.opened(lookup(plan.task, plan.version).leaves(plan))
        replies = self._ask("exposure", plan, more={"own": own})
        return added(iter([wire.exposure_from_data(reply["exposure"]) for reply in replies]))

    def _ask(
        self,
        op: str,
        plan: Plan,
        parts: Sequence[int] = (),
        more: Mapping[str, Any] | None = None,
    ) -> list[dict[str, Any]]:
        """Answers that cover all parts, in the order of the parts."""
        if not parts:
            whole = lookup(plan.task, plan.version).grain == "site"
            parts = [WHOLE] if whole else range(len(self._edges))
        kept = {word: found for word in plan.words if (found := _kept(plan, word)) is not None}
        asked = {"op": op, "rows": self._name, "plan": plan.to_data(), "kept": kept, **(more or {})}
        todo, answers = set(parts), []
        while todo:
            mine = self._placed(todo)
            for address, reply in self._round(asked, mine).items():
                if reply is not None:
                    answers.append((min(mine[address]), reply))
                    todo -= set(mine[address])
        return [reply for _, reply in sorted(answers, key=lambda one: one[0])]

    def _round(
        self, asked: Mapping[str, Any], mine: Mapping[str, list[int]]
    ) -> dict[str, dict[str, Any] | None]:
        """Ask each worker for its parts; None: it has to be asked again, or another one."""
        messages = {}
        for address, parts in mine.items():
            first = {} if address in self._told else self._first()
            messages[address] = codec.encode({**asked, **first, "parts": parts})
        found: dict[str, dict[str, Any] | None] = {}
        for address, reply in self.machines.ask(messages).items():
            found[address] = None
            if reply is None:
                self._forget(address)
                continue
            fields = opened(reply)
            if "unknown" in fields:  # it was started anew
                self._told.discard(address)
                continue
            self._told.add(address)
            rows = sum(self._sizes[part] for part in mine[address])
            if rows and fields["seconds"] > 0:
                self.machines.speed[address] = rows / fields["seconds"]
            found[address] = fields
        return found

    def _first(self) -> dict[str, Any]:
        """What a worker is told once."""
        return {"source": self._source, "edges": self._edges}

    def _forget(self, address: str) -> None:
        self._told.discard(address)
        self._owner = {part: owner for part, owner in self._owner.items() if owner != address}

    def _placed(self, parts: Iterable[int]) -> dict[str, list[int]]:
        """Parts by worker, for each of which there is one."""
        homeless = {part: self._sizes[part] for part in sorted(parts) if part not in self._owner}
        if homeless:
            live = self.machines.live()
            load = dict.fromkeys(live, 0)
            for part, owner in self._owner.items():
                load[owner] = load.get(owner, 0) + self._sizes[part]
            how = self.machines.policy
            self._owner |= assign(homeless, live, how, load, self.machines.speed)
        found: dict[str, list[int]] = {}
        for part in sorted(parts):
            found.setdefault(self._owner[part], []).append(part)
        return found

    def _located(self, rows: Selected) -> tuple[Any, dict[str, Any], About]:
        place = rows.locate(self._surveys(rows))
        about = About(rows.columns, place.n_patients, place.outside, place.population)
        return place, Scanned(rows, place).to_data(), about

    def _surveys(self, rows: Selected) -> list[Survey]:
        """Of every part of the files, by the workers."""
        selected = rows.to_data()
        found: dict[int, Survey] = {}
        todo = {i: group.bytes for i, group in enumerate(rows.scan.groups)}
        while todo:
            mine: dict[str, list[int]] = {}
            for group, address in assign(todo, self.machines.live()).items():
                mine.setdefault(address, []).append(group)
            asked = {"op": "survey", "selected": selected}
            messages = {a: codec.encode({**asked, "groups": mine[a]}) for a in mine}
            for address, reply in self.machines.ask(messages).items():
                if reply is None:
                    continue
                surveys = [Survey.from_data(one) for one in opened(reply)["surveys"]]
                found |= dict(zip(mine[address], surveys, strict=True))
                todo = {i: size for i, size in todo.items() if i not in found}
        return [found[i] for i in range(len(found))]

    def _spooled(self, rows: Partition) -> tuple[Partition, dict[str, Any], About]:
        folder = self.machines.spool
        if folder is None:
            raise InputError(
                "rows in memory cannot be read by workers on other machines",
                code="WRONG_VALUE",
                rule="each worker reads its rows itself: they never pass through a scheduler",
                next="polyclinic.scan(files, schema=...), or spool= a folder that all workers see",
            )
        spooled = spool(rows, folder)
        weakref.finalize(self, shutil.rmtree, spooled.folder, ignore_errors=True)
        about = About(tuple(rows.columns), rows.n_patients, rows.outside, rows.population)
        return rows, spooled.to_data(), about


def grouped(edges: list[int], most: int) -> list[list[int]]:
    """Chunks as at most so many contiguous parts, each with the edges of its chunks."""
    chunks = list(pairwise(edges))
    parts = min(most, len(chunks))
    ends = [len(chunks) * i // parts for i in range(parts + 1)]
    return [[*(a for a, _ in chunks[i:j]), chunks[j - 1][1]] for i, j in pairwise(ends)]


def opened(reply: codec.Bytes) -> dict[str, Any]:
    """What a worker says. Raises the error that it has met."""
    fields: dict[str, Any] = codec.decode(reply)
    if "error" in fields:
        raise wire.error_from_data(fields["error"])
    return fields


def _kept(plan: Plan, word: str) -> Memory | None:
    return plan.kept(word) if len(word) >= A_NAME else None
