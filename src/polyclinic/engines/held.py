"""What a worker of a cluster does: holds partitions that it has read itself, and sums over them.

A message and its answer are canonical bytes. Nothing here knows how they came.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Protocol, TypeVar

import numpy as np

from polyclinic.core import codec
from polyclinic.core.contribution import Sum
from polyclinic.core.errors import PolyclinicError
from polyclinic.core.exposure import Exposing, Exposure, Members
from polyclinic.core.federation import remembered
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.core.task import lookup
from polyclinic.data.located import Located
from polyclinic.data.scan import Selected
from polyclinic.engines import wire
from polyclinic.engines.spool import Spooled
from polyclinic.engines.workers import added

T = TypeVar("T")


WHOLE = -1  # number of the part that is all rows


class Source(Protocol):
    """Rows that are read where they are needed; `mapped`: reading them takes no memory."""

    @property
    def mapped(self) -> bool: ...
    def needed(self, plan: Plan) -> tuple[str, ...]: ...
    def load(self, first: int, stop: int, columns: Sequence[str]) -> Partition: ...


@dataclass(frozen=True)
class Scanned:
    """A scan of which it is known where each row is."""

    selected: Selected
    place: Located
    mapped: bool = False

    def needed(self, plan: Plan) -> tuple[str, ...]:
        """The columns that the plan names; one at least, as rows are counted in it."""
        columns = self.selected.columns
        return tuple(name for name in columns if name in plan.words) or columns[:1]

    def load(self, first: int, stop: int, columns: Sequence[str]) -> Partition:
        """Some columns of the selected rows from `first` up to `stop`."""
        return self.selected.load(self.place, first, stop, columns)

    def to_data(self) -> dict[str, Any]:
        """As workers get it."""
        return {"selected": self.selected.to_data(), "place": self.place.to_data()}


def source_of(data: Mapping[str, Any]) -> Source:
    """The rows that a client names."""
    if "folder" in data:
        return Spooled.from_data(data)
    return Scanned(Selected.from_data(data["selected"]), Located.from_data(data["place"]))


@dataclass
class Part:
    """Contiguous chunks, the columns of them that were asked for so far, and what tasks cache.

    edges  where chunks begin and the last one ends
    """

    edges: list[int]
    columns: dict[str, Any] = field(default_factory=dict)
    whole: Partition | None = None
    chunks: list[Partition] = field(default_factory=list)

    @property
    def rows(self) -> int:
        return self.edges[-1] - self.edges[0]

    def take(self, loaded: Partition) -> None:
        """Add columns. What tasks have cached stays: they read columns that their plan names."""
        start = self.edges[0]
        spans = [(a - start, b - start) for a, b in pairwise(self.edges)]
        self.columns.update(loaded.columns)
        if self.whole is None:
            self.whole = replace(loaded, columns=self.columns)
            self.chunks = [self.whole.slice(a, b) for a, b in spans]
            return
        for i, (a, b) in enumerate(spans):
            more = {name: values[a:b] for name, values in loaded.columns.items()}
            old = self.chunks[i]
            self.chunks[i] = replace(old, columns={**old.columns, **more}, cache=old.cache)


@dataclass
class Rows:
    """The rows of one analysis: where they are, and the parts of them that are held here."""

    source: Source
    edges: list[list[int]]
    parts: dict[int, Part] = field(default_factory=dict)

    def bytes(self) -> int:
        """Of the columns that are held."""
        if self.source.mapped:
            return 0
        return sum(part.rows * _row_bytes(part.columns) for part in self.parts.values())

    def of(self, part: int) -> list[int]:
        return [self.edges[0][0], self.edges[-1][-1]] if part == WHOLE else self.edges[part]


def _row_bytes(columns: Any) -> int:
    return 8 * (len(columns) + 2)  # and the patient's two ordinals


class Holder:
    """See the module.

    Parameters
    ----------
    memory : bytes of columns that are kept; what does not fit is read anew in every round.
    threads : chunks that are computed at once.
    """

    def __init__(self, memory: int, threads: int = 1) -> None:
        self.memory = memory
        self._rows: OrderedDict[str, Rows] = OrderedDict()
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None

    def answer(self, message: codec.Bytes) -> bytes:
        """What is asked for, or the error, whose words hold no values."""
        try:
            return codec.encode(self._answer(codec.decode(message)))
        except Exception as error:
            return codec.encode({"error": wire.error_to_data(error)})

    def _answer(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        started = time.perf_counter()
        if asked["op"] == "survey":
            selected = Selected.from_data(asked["selected"])
            return {"surveys": [selected.survey(g).to_data() for g in asked["groups"]]}
        name = asked["rows"]
        if "source" in asked:
            self._rows.setdefault(name, Rows(source_of(asked["source"]), asked["edges"]))
        if name not in self._rows:
            return {"unknown": True}
        self._rows.move_to_end(name)
        plan = Plan.from_data(asked["plan"])
        plan.looked_up(asked["kept"].get)
        found = self._work(asked, self._rows[name], plan)
        return {**found, "seconds": time.perf_counter() - started}

    def _work(self, asked: Mapping[str, Any], rows: Rows, plan: Plan) -> dict[str, Any]:
        task = lookup(plan.task, plan.version)
        leaves = task.leaves(plan)
        whole = all(leaf.ring == "int64" for leaf in leaves)
        if asked["op"] == "remember":
            (all_rows,) = self._pieces(rows, plan, [WHOLE], True)
            summed, memory = remembered(plan, all_rows, asked["memory"])
            return {"sum": summed.to_data(), "memory": dict(memory)}
        pieces = self._pieces(rows, plan, asked["parts"], whole)
        if asked["op"] == "sum":
            done = self._each(lambda one: Sum.of(leaves, task.local(plan, one)), pieces)
            return {"sum": added(done).to_data()}
        if isinstance(task, Exposing):
            expose, own = task.exposure, asked["own"]
            seen = self._each(lambda one: expose(plan, one, own), pieces)
        else:
            seen = self._each(_everyone, pieces)
        return {"exposure": wire.exposures_to_data(seen)}

    def _each(self, one: Callable[[Partition], T], pieces: Iterable[Partition]) -> Iterator[T]:
        if self._pool is None or not isinstance(pieces, list):
            return map(one, pieces)
        return self._pool.map(one, pieces)

    def _pieces(
        self, rows: Rows, plan: Plan, parts: Sequence[int], whole: bool
    ) -> Iterable[Partition]:
        """Of held parts a list; where one does not fit, chunks that are read one by one."""
        columns = rows.source.needed(plan)
        found: list[Part | None] = [self._held(rows, part, columns) for part in parts]
        if None not in found:
            held = [part for part in found if part is not None]
            return [p for part in held for p in _pieces_of(part, whole)]
        if WHOLE in parts:
            raise _too_large(plan, self.memory)
        return self._streamed(rows, parts, found, columns, whole)

    def _streamed(
        self,
        rows: Rows,
        parts: Sequence[int],
        found: Sequence[Part | None],
        columns: Sequence[str],
        whole: bool,
    ) -> Iterator[Partition]:
        for number, part in zip(parts, found, strict=True):
            if part is not None:
                yield from _pieces_of(part, whole)
                continue
            for a, b in pairwise(rows.of(number)):
                yield rows.source.load(a, b, columns)

    def _held(self, rows: Rows, number: int, columns: Sequence[str]) -> Part | None:
        """A part with these columns; None: it does not fit."""
        part = rows.parts.get(number) or Part(rows.of(number))
        more = [name for name in columns if name not in part.columns]
        if more or part.whole is None:
            size = part.rows * _row_bytes(more)
            if not rows.source.mapped and not self._room(rows, size):
                return None
            part.take(rows.source.load(part.edges[0], part.edges[-1], more))
            rows.parts[number] = part
        return part

    def _room(self, rows: Rows, size: int) -> bool:
        """Make room; the parts of other analyses go first, the oldest first."""
        for other in self._rows.values():
            if rows.bytes() + size + sum(
                o.bytes() for o in self._rows.values() if o is not rows
            ) <= (self.memory):
                return True
            if other is not rows:
                other.parts.clear()
        return rows.bytes() + size <= self.memory


def _pieces_of(part: Part, whole: bool) -> list[Partition]:
    """Whole numbers add up to the same in one go; others are added chunk by chunk."""
    if whole or len(part.edges) == 2:
        return [] if part.whole is None else [part.whole]
    return part.chunks


def _everyone(rows: Partition) -> Exposure:
    return Exposure(members=(Members(("",), np.unique(rows.persons)),))


def _too_large(plan: Plan, memory: int) -> PolyclinicError:
    return PolyclinicError(
        f"{plan.step or plan.task} needs all rows at one worker, and they do not fit",
        code="TOO_LARGE_FOR_ONE",
        rule=f"a worker holds {memory / 1e9:.3g} GB of columns",
        next="give workers more memory, select fewer rows, or use a model that is fitted by sums",
    )
