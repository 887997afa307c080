"""What a worker of a cluster does: holds partitions that it has read itself, and sums over them.

A message and its answer are canonical bytes. Nothing here knows how they came.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import reduce
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
from polyclinic.core.task import Answer, Informed, Keeping, Question, Stepwise, facts_added, lookup
from polyclinic.data.located import Located
from polyclinic.data.scan import Selected
from polyclinic.engines import wire
from polyclinic.engines.caches import Cache
from polyclinic.engines.staying import Completed, forget, given_from, staying_bytes
from polyclinic.engines.workers import added

T = TypeVar("T")

WHOLE = -1  # number of the part that is all rows
KEPT = 8  # sums that a worker holds until another one fetches them
REMEMBERED = 64  # answers that are not needed, of which the messages may not have come yet
TIMES = ("seconds", "read")
LONGEST = codec.LONGEST + 1
Fetch = Callable[[list[tuple[str, str]]], list[Any]]


class Source(Protocol):
    """Rows that are read where they are needed; `mapped`: reading them takes no memory; `gone`:
    they cannot be read any more; `bytes`: of memory that some take."""

    @property
    def mapped(self) -> bool: ...
    @property
    def gone(self) -> bool: ...
    def needed(self, plan: Plan) -> tuple[str, ...]: ...
    def bytes(self, first: int, stop: int, columns: Sequence[str]) -> int: ...
    def load(self, first: int, stop: int, columns: Sequence[str]) -> Partition: ...


@dataclass(frozen=True)
class Scanned:
    """A scan of which it is known where each row is."""

    selected: Selected
    place: Located
    mapped: bool = False
    gone: bool = False

    def needed(self, plan: Plan) -> tuple[str, ...]:
        """The columns that the plan names; one at least, as rows are counted in it."""
        columns = self.selected.columns
        return tuple(name for name in columns if name in plan.words) or columns[:1]

    def bytes(self, first: int, stop: int, columns: Sequence[str]) -> int:
        """Of memory that these rows take."""
        return (stop - first) * row_bytes(columns)

    def load(self, first: int, stop: int, columns: Sequence[str]) -> Partition:
        """Some columns of the selected rows from `first` up to `stop`."""
        return self.selected.load(self.place, first, stop, columns)

    def to_data(self) -> dict[str, Any]:
        """As workers get it."""
        return {"selected": self.selected.to_data(), "place": self.place.to_data()}


def source_of(data: Mapping[str, Any]) -> Source:
    """The rows that a client names."""
    if "staying" in data:
        return Completed.from_data(data)
    if "selected" not in data:
        return given_from(data)
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

    @property
    def caches(self) -> list[Cache]:
        pieces = [] if self.whole is None else [self.whole, *self.chunks]
        found = {id(one.cache): one.cache for one in pieces}
        return [cache for cache in found.values() if isinstance(cache, Cache)]

    def take(self, loaded: Partition, streamed: dict[int, Cache]) -> None:
        """Add columns. What tasks have cached stays: they read columns that their plan names.

        streamed  what was cached of chunks by their start before they were held
        """
        start = self.edges[0]
        spans = [(a - start, b - start) for a, b in pairwise(self.edges)]
        self.columns.update(loaded.columns)
        if self.whole is None:
            self.whole = replace(loaded, columns=self.columns, cache=Cache())
            cut = (self.whole.slice(a, b) for a, b in spans)
            starts = self.edges[:-1]
            caches = [streamed.pop(at, Cache()).handed(held=True) for at in starts]
            self.chunks = [replace(one, cache=c) for one, c in zip(cut, caches, strict=True)]
            if len(self.chunks) == 1:
                self.whole = replace(self.whole, cache=caches[0])
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
    streamed: dict[int, Cache] = field(default_factory=dict)

    def bytes(self) -> int:
        """Of the columns that are held."""
        each = self.source.bytes
        parts = self.parts.values()
        return sum(each(part.edges[0], part.edges[-1], list(part.columns)) for part in parts)

    @property
    def caches(self) -> list[Cache]:
        mine = [one for part in self.parts.values() for one in part.caches]
        return [*mine, *self.streamed.values()]

    def clear(self) -> None:
        """Let go of all of it."""
        self.parts.clear()
        self.streamed.clear()

    def let_go(self, number: int) -> None:
        """Of a part's rows, but not of what is lasting."""
        part = self.parts.pop(number)
        for start, chunk in zip(part.edges, part.chunks, strict=False):
            if isinstance(chunk.cache, Cache):
                self.streamed[start] = chunk.cache.handed(held=False)

    def bare(self, number: int) -> list[Partition]:
        """The chunks of a part with what is cached of them, but no columns where none are held."""
        if number in self.parts:
            return self.parts[number].chunks
        starts = self.of(number)[:-1]
        return [Partition({}, first=at, cache=self.streamed.get(at, Cache())) for at in starts]

    def of(self, part: int) -> list[int]:
        return [self.edges[0][0], self.edges[-1][-1]] if part == WHOLE else self.edges[part]


def row_bytes(columns: Sized) -> int:
    """Of memory that a row takes."""
    return 8 * (len(columns) + 2)  # and the patient's two ordinals


@dataclass
class Reading:
    """Of one message: what was read for it, and the parts that the worker owns.

    rows, seconds  that were read, each time they were
    """

    rows: int = 0
    seconds: float = 0.0
    own: set[int] = field(default_factory=set)


class Dropped(Exception):
    """Nobody waits for the answer any more."""


class Holder:
    """See the module.

    Parameters
    ----------
    memory : bytes of columns, and of what tasks cache, that are kept; columns that do not fit are
        read anew in every round, and what is cached is made anew.
    threads : chunks that are computed at once.
    fetch : gets sums that other workers hold, each by address and name; None where one is gone.
    """

    def __init__(self, memory: int, threads: int = 1, fetch: Fetch | None = None) -> None:
        self.memory = memory
        self._rows: OrderedDict[str, Rows] = OrderedDict()
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None
        self._fetch = fetch
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._dropped: OrderedDict[str, None] = OrderedDict()
        self._read = Reading()

    def answer(self, message: codec.Bytes) -> bytes:
        """What is asked for, or the error, whose words hold no values."""
        try:
            asked = codec.decode(message)
            found = self._answer(asked)
            answer = codec.encode(found)
            adds = "sum" in found or "exposure" in found
            if not adds or len(answer) < asked.get("hold", LONGEST):
                return answer
            self._keep(asked["name"], answer)
            return codec.encode({**{f: found[f] for f in TIMES if f in found}, "held": True})
        except Exception as error:
            return codec.encode({"error": wire.error_to_data(error)})

    def _keep(self, name: str, answer: bytes) -> None:
        self._kept[name] = answer
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)

    def fetch(self, name: str) -> bytes | None:
        """A sum that is held here, once; None: it is not. Called from any thread."""
        return self._kept.pop(name, None)

    def drop(self, name: str) -> None:
        """The answer of this name is not needed. Called from any thread."""
        if self._kept.pop(name, None) is None:
            self._dropped[name] = None
            while len(self._dropped) > REMEMBERED:
                self._dropped.popitem(last=False)

    def let_go(self) -> None:
        """Of rows that have gone: a map of a file holds its memory, also when it is removed."""
        for name in [name for name, rows in self._rows.items() if rows.source.gone]:
            del self._rows[name]
        forget()

    def _answer(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        started = time.perf_counter()
        if asked["op"] == "survey":
            selected = Selected.from_data(asked["selected"])
            return {"surveys": [selected.survey(g).to_data() for g in asked["groups"]]}
        if asked["op"] == "combine":
            return self._combined([(address, name) for address, name in asked["from"]])
        if asked["name"] in self._dropped:
            raise Dropped
        name = asked["rows"]
        if "source" in asked:
            self.let_go()
            self._rows.setdefault(name, Rows(source_of(asked["source"]), asked["edges"]))
        if name not in self._rows:
            return {"unknown": True}
        self._rows.move_to_end(name)
        plan = Plan.from_data(asked["plan"])
        plan.looked_up(asked["kept"].get)
        plan.informed(asked["known"])
        self._read = Reading(own=set(asked["own"]).union(asked["parts"]))
        found = self._work(asked, self._rows[name], plan)
        read = {"rows": self._read.rows, "seconds": self._read.seconds}
        return {**found, "seconds": time.perf_counter() - started, "read": read}

    def _combined(self, names: list[tuple[str, str]]) -> dict[str, Any]:
        """The sum of what these workers hold."""
        held = self._fetch(names) if self._fetch else []
        if not held or None in held:
            return {"missing": True}
        return wire.answers_added([codec.decode(one) for one in held])

    def _work(self, asked: Mapping[str, Any], rows: Rows, plan: Plan) -> dict[str, Any]:
        task = lookup(plan.task, plan.version)
        leaves = task.leaves(plan)
        whole = all(leaf.ring == "int64" for leaf in leaves)
        if asked["op"] == "remember":
            (all_rows,) = self._pieces(rows, plan, [WHOLE], True)
            summed, memory = remembered(plan, all_rows, asked["memory"])
            self._settle(all_rows)
            return {"sum": summed.to_data(), "memory": dict(memory)}
        name, steps = asked["name"], asked["op"] == "part"
        pieces = self._bare(rows, plan, asked) or self._pieces(
            rows,
            plan,
            asked["parts"],
            whole and not steps,  # a chunk's state is soon let go
        )
        if asked["chunks"]:
            pieces = [chunk for piece in pieces for chunk in piece.chunks()]
        if isinstance(task, Informed):
            told = task
            if asked["op"] == "facts":
                found = self._each(lambda one: told.facts(plan, one), pieces, name)
                return {"facts": dict(facts_added(found))}
        if steps and isinstance(task, Stepwise):
            stepwise, question = task, Question(asked["question"])
            parts = self._each(lambda one: stepwise.part(plan, question, one), pieces, name)
            whole_of: Answer = reduce(stepwise.together, parts)
            return {"part": whole_of}
        if asked["op"] == "sum":
            done = self._each(lambda one: Sum.of(leaves, task.local(plan, one)), pieces, name)
            return {"sum": added(done).to_data()}
        if isinstance(task, Exposing):
            expose, total = task.exposure, asked["total"]
            seen = self._each(lambda one: expose(plan, one, total), pieces, name)
        else:
            seen = self._each(_everyone, pieces, name)
        return {"exposure": wire.exposures_to_data(seen)}

    def _each(
        self, one: Callable[[Partition], T], pieces: Iterable[Partition], name: str
    ) -> Iterator[T]:
        def wanted(piece: Partition) -> T:
            if name in self._dropped:
                raise Dropped
            found = one(piece)
            self._settle(piece)
            return found

        if self._pool is None or not isinstance(pieces, list):
            return map(wanted, pieces)
        return self._pool.map(wanted, pieces)

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

    def _bare(self, rows: Rows, plan: Plan, asked: Mapping[str, Any]) -> list[Partition]:
        """Chunks of which the task has kept all that it sums; none where it has to read some."""
        task = lookup(plan.task, plan.version)
        if WHOLE in asked["parts"] or asked["op"] == "facts" or not isinstance(task, Keeping):
            return []
        found = [chunk for part in asked["parts"] for chunk in rows.bare(part)]
        return found if all(task.keeps(plan, chunk.cache) for chunk in found) else []

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
                cache = rows.streamed.setdefault(a, Cache(held=False))
                yield replace(self._load(rows, a, b, columns), cache=cache)

    def _load(self, rows: Rows, first: int, stop: int, columns: Sequence[str]) -> Partition:
        started = time.perf_counter()
        found = rows.source.load(first, stop, columns)
        self._read.rows += stop - first
        self._read.seconds += time.perf_counter() - started
        return found

    def _held(self, rows: Rows, number: int, columns: Sequence[str]) -> Part | None:
        """A part with these columns; None: it does not fit."""
        part = rows.parts.get(number) or Part(rows.of(number))
        more = [name for name in columns if name not in part.columns]
        if more or part.whole is None:
            size = rows.source.bytes(part.edges[0], part.edges[-1], more)
            if not rows.source.mapped and not self._room(rows, size):
                return None
            part.take(self._load(rows, part.edges[0], part.edges[-1], more), rows.streamed)
            rows.parts[number] = part
            for start in part.edges[:-1]:
                rows.streamed.pop(start, None)
        return part

    def _settle(self, piece: Partition) -> None:
        """What a task has cached stays where there is room beside the columns; these make room for
        what is lasting."""
        if not isinstance(piece.cache, Cache):
            return
        piece.cache.measure(piece)
        if self._size() + self._cached() <= self.memory:
            return piece.cache.kept()
        while self._size() + self._beside(piece) > self.memory - piece.cache.lasting:
            if not self._made_room():
                break
        piece.cache.settle(piece, self.memory - self._size() - self._beside(piece))

    def _made_room(self) -> bool:
        """Whether rows could be let go: of other analyses, then a part of the one of now."""
        *others, rows = self._rows.values()
        for other in others:
            if other.parts or other.streamed:
                other.clear()
                return True
        if rows.source.mapped or not rows.parts:
            return False
        rows.let_go(max(rows.parts))
        return True

    def _room(self, rows: Rows, size: int) -> bool:
        """Make room for columns. Caches go first; then what others own by now, and the parts of
        other analyses, the oldest first."""
        if self._size() + self._cached() + size <= self.memory:
            return True
        own = {n: part for n, part in rows.parts.items() if n in self._read.own}
        lasting = sum(one.lasting for one in rows.caches)
        if replace(rows, parts=own).bytes() + lasting + size > self.memory:
            return False
        for cache in self._caches():
            cache.forget()
        if self._size() + self._cached() + size > self.memory:
            for number in set(rows.parts) - set(own):
                rows.let_go(number)
        for other in self._rows.values():
            if self._size() + self._cached() + size <= self.memory:
                return True
            if other is not rows:
                other.clear()
        return True

    def _caches(self) -> list[Cache]:
        return [one for rows in self._rows.values() for one in rows.caches]

    def _cached(self) -> int:
        """Bytes of what tasks have cached."""
        return sum(one.bytes for one in self._caches())

    def _beside(self, piece: Partition) -> int:
        """The same beside that of a piece."""
        return sum(one.bytes for one in self._caches() if one is not piece.cache)

    def _size(self) -> int:
        """Bytes of columns."""
        return sum((rows.bytes() for rows in self._rows.values()), staying_bytes())


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
