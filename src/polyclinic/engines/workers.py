"""Partitions of one trust domain on the threads of this process.

Each thread works on chunks of rows with single-threaded BLAS; contributions are added in integer
arithmetic, so the result does not depend on which thread finishes first.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache, reduce
from typing import Any, Protocol, TypeVar

import numpy as np
from threadpoolctl import threadpool_limits

from polyclinic.core.contribution import Contribution, Sum
from polyclinic.core.exposure import Exposing, Exposure, Members
from polyclinic.core.federation import Workers, remembered
from polyclinic.core.leaf import Leaf
from polyclinic.core.partition import Partition, Rows
from polyclinic.core.plan import Plan
from polyclinic.core.task import (
    Answer,
    Facts,
    Informed,
    Question,
    Stepped,
    Stepwise,
    Task,
    facts_added,
    goes_by_steps,
    lookup,
)

T = TypeVar("T")
INLINE_CELLS = 2_000_000  # below this many numbers a second thread costs more than it brings


class Held(Workers, Protocol):
    """Workers of a site, as its gate asks them."""

    @property
    def rows(self) -> Rows: ...
    def exposure(self, plan: Plan, summed: Sum) -> Exposure: ...


class ThreadWorkers:
    """Partitions of one trust domain on the threads of this process.

    Parameters
    ----------
    rows : all rows of the domain.
    partitions : contiguous parts to cut them into.
    threads : at most so many at once; None: one per core.
    scanned : whether the rows were read from a scan.
    """

    def __init__(
        self,
        rows: Partition,
        partitions: int = 1,
        threads: int | None = None,
        scanned: bool = False,
    ) -> None:
        self.rows = rows
        self.parts = [chunk for part in rows.split(partitions) for chunk in part.chunks()]
        cells = sum(values.size for values in rows.columns.values())
        cores = threads or len(os.sched_getaffinity(0))
        self.threads = 1 if cells < INLINE_CELLS else min(cores, max(1, len(self.parts)))
        self.whole = rows.split(max(partitions, self.threads))
        self._chunks = self.parts if partitions == 1 else rows.chunks()
        self._large = scanned and len(self.parts) > 1
        self._known: dict[str, Facts] = {}
        self.stepped = Stepped()

    def sum(self, plan: Plan) -> Sum:
        """Contributions of all partitions, added in ring form as they arrive."""
        task = lookup(plan.task, plan.version)
        leaves = task.leaves(plan)
        if goes_by_steps(task, plan, False, self._large):
            return Sum.of(leaves, self._stepped(task, plan)[0])

        def one(partition: Partition) -> Sum:
            return Sum.of(leaves, task.local(plan, partition))

        return added(self._each(one, self._parts(task, plan, leaves)))

    def sum_of(self, plan: Plan, first: int, stop: int) -> Sum:
        """Of the chunks between two rows, counted from the first one; they are not split."""
        start, leaves = self.rows.first, lookup(plan.task, plan.version).leaves(plan)
        local = lookup(plan.task, plan.version).local
        mine = [part for part in self.parts if first <= part.first - start < stop]
        return added(self._each(lambda part: Sum.of(leaves, local(plan, part)), mine))

    def remember(self, plan: Plan, memory: Mapping[str, Any]) -> tuple[Sum, Mapping[str, Any]]:
        """The sum of a task that goes on from `memory`, and what it keeps for later."""
        return remembered(plan, self.rows, memory)

    def exposure(self, plan: Plan, summed: Sum) -> Exposure:
        """How patients share in `summed`, for the gate."""
        task = lookup(plan.task, plan.version)
        if not isinstance(task, Exposing):
            return Exposure(members=(Members(("",), np.unique(self.rows.persons)),))
        if goes_by_steps(task, plan, False, self._large):
            return self._stepped(task, plan)[1]
        own = summed.opened(task.leaves(plan))
        parts = self._parts(task, plan, task.leaves(plan))
        return added(self._each(lambda part: task.exposure(plan, part, own), parts))

    def _parts(self, task: Task, plan: Plan, leaves: Sequence[Leaf]) -> list[Partition]:
        """Chunks, for additions of floating-point numbers; whole numbers need no more parts than
        there are threads."""
        if not self.parts:
            return [self.rows]
        if isinstance(task, Informed):
            known = self._facts(task, plan)
            plan.informed(known)
            return self._chunks if task.apart(known) else [self.rows]
        if task.grain == "site":
            return [self.rows]
        return self.whole if all(leaf.ring == "int64" for leaf in leaves) else self.parts

    def _stepped(self, task: Stepwise, plan: Plan) -> tuple[Contribution, Exposure]:
        """What a task has made of the answers of all chunks."""

        def ask(question: Question) -> Answer:
            answers = self._each(lambda part: task.part(plan, question, part), self.parts)
            return reduce(task.together, answers)

        return self.stepped.found(task, plan, ask)

    def _facts(self, task: Informed, plan: Plan) -> Facts:
        about = task.about(plan)
        if about not in self._known:
            found = self._each(lambda part: task.facts(plan, part), self._chunks)
            self._known[about] = facts_added(found)
        return self._known[about]

    def _each(self, one: Callable[[Partition], T], parts: list[Partition]) -> Iterator[T]:
        if self.threads == 1 or len(parts) == 1:
            return map(one, parts)
        return _pool(self.threads, os.getpid()).map(one, parts)


@cache
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """Threads that are kept: starting them anew costs more than a small round.

    A forked process has none of its parent's, so each process has a pool of its own.
    """
    return ThreadPoolExecutor(threads, thread_name_prefix="polyclinic")


def added(sums: Iterator[T]) -> T:
    """The sum of one or more."""
    total: Any = next(sums)
    for more in sums:
        total = total + more
    found: T = total
    return found


_blas_lock = threading.Lock()
_blas_users = 0
_blas_limit: Any = None


@contextmanager
def single_threaded_blas() -> Iterator[None]:
    """One BLAS thread per worker while a run lasts. The limit is process-wide, so it is counted."""
    global _blas_users, _blas_limit
    with _blas_lock:
        _blas_users += 1
        if _blas_users == 1:
            _blas_limit = threadpool_limits(limits=1, user_api="blas")
    try:
        yield
    finally:
        with _blas_lock:
            _blas_users -= 1
            if _blas_users == 0:
                _blas_limit.restore_original_limits()
