"""Workers of one trust domain that are elsewhere: what they are asked, and what becomes of a loss.

A partition belongs to one worker, which reads it from where it lies. If the worker is lost its
partitions go to the others, who read them anew and compute what is missing of the round; if it is
slow it gives some away. As sums are exact, the result has the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from itertools import pairwise
from typing import Any

from polyclinic.core import codec
from polyclinic.core.contribution import Contribution, Sum, words_bytes
from polyclinic.core.exposure import Exposure
from polyclinic.core.exposure_data import exposure_from_data
from polyclinic.core.federation import Memory
from polyclinic.core.partition import Partition, cuts
from polyclinic.core.plan import Plan
from polyclinic.core.task import (
    Answer,
    Facts,
    Informed,
    Question,
    Stepped,
    Stepwise,
    facts_added,
    goes_by_steps,
    lookup,
)
from polyclinic.data.located import Survey
from polyclinic.data.scan import Selected
from polyclinic.engines import machines as lines
from polyclinic.engines import wire
from polyclinic.engines.assign import assign
from polyclinic.engines.given import Stays, ends, give
from polyclinic.engines.held import WHOLE, Scanned, row_bytes
from polyclinic.engines.holdings import Holdings
from polyclinic.engines.machines import Machines, Tree
from polyclinic.engines.overlap import Window
from polyclinic.engines.rounds import Message, Round
from polyclinic.engines.tree import combined
from polyclinic.engines.workers import added

PER_WORKER = 8  # partitions, so that they can be shared out anew
A_PART = 16  # chunks at most, so that of rows that do not fit some are held
A_NAME = 32  # letters of the shortest hash by which a plan names what the site keeps


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
    stays : arrays of which workers have their pieces.
    """

    def __init__(
        self,
        machines: Machines,
        rows: Partition | Selected,
        partitions: int = 1,
        stays: Stays | None = None,
    ) -> None:
        self.machines, workers = machines, machines.live()
        self._fit = isinstance(rows, Partition)  # into memory here, so into that of a worker
        place, self._source, self.rows = (
            self._located(rows)
            if isinstance(rows, Selected)
            else self._given(rows, stays or Stays())
        )
        n_rows, edge = (place.n_rows, place.edge)
        edges = cuts(n_rows, edge, partitions)
        most = max(PER_WORKER * len(workers), -(-(len(edges) - 1) // A_PART))
        self._edges = grouped(edges, most)
        self._partitions = partitions
        self._large = isinstance(rows, Selected) and len(edges) > 2
        sizes = {i: edges[-1] - edges[0] for i, edges in enumerate(self._edges)}
        self._holdings = Holdings(machines, {**sizes, WHOLE: n_rows}, workers)
        self._columns: set[str] = set()
        self._known: dict[str, Facts] = {}
        self.stepped = Stepped()
        self._name = codec.digest([self._source, self._edges])

    def sum(self, plan: Plan) -> Sum:
        """Contributions of all partitions, added at the workers first."""
        task = lookup(plan.task, plan.version)
        if goes_by_steps(task, plan, True, self._large):
            return Sum.of(task.leaves(plan), self._stepped(task, plan)[0])
        replies = self._ask("sum", plan)
        return added(iter([Sum.from_data(reply["sum"]) for reply in replies]))

    def remember(self, plan: Plan, memory: Memory) -> tuple[Sum, Memory]:
        """The sum of a task that goes on from `memory`, and what it keeps for later."""
        (reply,) = self._ask("remember", plan, [WHOLE], {"memory": dict(memory)})
        return Sum.from_data(reply["sum"]), reply["memory"]

    def exposure(self, plan: Plan, summed: Sum) -> Exposure:
        """How patients share in `summed`, for the gate."""
        task = lookup(plan.task, plan.version)
        if goes_by_steps(task, plan, True, self._large):
            return self._stepped(task, plan)[1]
        own = summed.opened(task.leaves(plan))
        replies = self._ask("exposure", plan, more={"total": own})
        return added(iter([exposure_from_data(reply["exposure"]) for reply in replies]))

    def _stepped(self, task: Stepwise, plan: Plan) -> tuple[Contribution, Exposure]:
        """What a task has made of the answers of all chunks."""
        return self.stepped.found(task, plan, partial(self._answer, task, plan))

    def _answer(self, task: Stepwise, plan: Plan, question: Question) -> Answer:
        """Of all chunks together. Where it is long each worker answers over one part at a time."""
        every, more = range(len(self._edges)), {"question": dict(question.values)}
        many = len(self._holdings.workers) if question.long else len(every)
        slices = [every[at : at + max(many, 1)] for at in range(0, len(every), max(many, 1))]
        replies = [reply for some in slices for reply in self._ask("part", plan, some, more)]
        return reduce(task.together, (reply["part"] for reply in replies))

    def located(self) -> tuple[dict[str, Any], list[list[int]]]:
        """What a worker is told to find the rows, and the edges of each part's chunks."""
        return self._source, self._edges

    def _ask(
        self,
        op: str,
        plan: Plan,
        parts: Sequence[int] = (),
        more: Mapping[str, Any] | None = None,
    ) -> list[dict[str, Any]]:
        """Answers that cover all parts, in the order of the parts."""
        parts, chunks = (parts, False) if parts else self._parts(op, plan)
        todo, replies = set(parts), list[dict[str, Any]]()
        tree = self._tree(op, plan) if WHOLE not in todo else None
        while todo:
            hold = {"hold": tree.bytes} if tree else {}
            message = self._message(op, plan, {**(more or {}), **hold, "chunks": chunks})
            one = Round(self._holdings, f"{op} {plan.task}", self._room(), message)
            answers = one.answers(todo)
            todo = set()
            if tree is None:
                replies += [answer.fields for answer in answers]
            else:
                up, todo = combined(one.talk, answers, tree.fan_in)
                replies, tree = replies + up, None  # where one could not reach another
        self.machines.activity.end()
        return replies

    def _tree(self, op: str, plan: Plan) -> Tree | None:
        """How workers add their answers; None: each comes here."""
        tree, workers = self.machines.tree, len(self._holdings.workers)
        if tree is None or op not in ("sum", "exposure") or workers < tree.workers:
            return None
        leaves = lookup(plan.task, plan.version).leaves(plan)
        return tree if workers * words_bytes(leaves) >= tree.together else None

    def overlap(self) -> Window:
        """Rounds of one fit that begin before the ones before them are summed."""
        spans = [(edges[0], edges[-1]) for edges in self._edges]
        return Window(self._holdings, spans, self._room, partial(self._message, "sum"))

    def _message(self, op: str, plan: Plan, more: Mapping[str, Any] | None = None) -> Message:
        """What makes a message for a worker about some parts."""
        kept = {word: found for word in plan.words if (found := _kept(plan, word)) is not None}
        asked: dict[str, Any] = {"op": op, "rows": self._name, "plan": codec.Fixed(plan.to_data())}
        asked |= {"kept": kept, "known": dict(plan.known), "chunks": False, **(more or {})}
        self._columns |= plan.words.intersection(self.rows.columns)

        def message(address: str, parts: Sequence[int], name: str) -> bytes:
            first = {} if address in self._holdings.told else self._first()
            own = self._holdings.own(address)
            return codec.encode({**asked, **first, "parts": parts, "own": own, "name": name})

        return message

    def _parts(self, op: str, plan: Plan) -> tuple[Sequence[int], bool]:
        """What is asked for: parts of the rows, or all of them in one place; and whether these are
        then cut into the chunks of one partition."""
        task, every = lookup(plan.task, plan.version), range(len(self._edges))
        if not isinstance(task, Informed):
            return [WHOLE] if task.grain == "site" else every, False
        chunks = ([WHOLE], True) if self._partitions > 1 else (every, False)
        if op == "facts":
            return chunks
        about = task.about(plan)
        if about not in self._known:
            replies = self._ask("facts", plan)
            self._known[about] = facts_added(reply["facts"] for reply in replies)
        plan.informed(self._known[about])
        return chunks if task.apart(self._known[about]) else ([WHOLE], False)

    def _room(self) -> dict[str, int]:
        """Rows that fit into the memory of each worker."""
        if self._fit:
            return {}
        each = row_bytes(self._columns)
        return {worker: size // each for worker, size in self.machines.memory.items()}

    def _first(self) -> dict[str, Any]:
        """What a worker is told once."""
        return {"source": self._source, "edges": self._edges}

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
            for address, reply in lines.answers(self.machines, messages).items():
                if reply is None:
                    continue
                surveys = [Survey.from_data(one) for one in opened(reply)["surveys"]]
                found |= dict(zip(mine[address], surveys, strict=True))
                todo = {i: size for i, size in todo.items() if i not in found}
        return [found[i] for i in range(len(found))]

    def _given(self, rows: Partition, stays: Stays) -> tuple[Partition, dict[str, Any], About]:
        about = About(tuple(rows.columns), rows.n_patients, rows.outside, rows.population)
        source, end = give(self.machines, rows, stays)
        ends(self, end, self.machines)
        return rows, source.to_data(), about


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
