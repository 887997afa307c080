"""The embedded engine: every site is an object in this process, with its own rows and gate.

Messages are the same bytes that a network would carry. Inside a site, threads work on chunks of
rows, each with single-threaded BLAS; contributions are added in integer arithmetic, so the result
does not depend on which thread finishes first.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

from threadpoolctl import threadpool_limits

from polyclinic.core import codec
from polyclinic.core.contribution import Sum
from polyclinic.core.errors import PolyclinicError
from polyclinic.core.federation import Cohort, Domain, Federation
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.core.task import lookup
from polyclinic.privacy.gate import Gate
from polyclinic.privacy.policy import Policy

INLINE_CELLS = 2_000_000  # below this many numbers a second thread costs more than it brings


@dataclass(frozen=True)
class Embedded:
    """The default engine. The result does not depend on its settings.

    Parameters
    ----------
    partitions : contiguous parts into which each site's rows are cut.
    threads : at most so many at once; None: one per core.
    """

    partitions: int = 1
    threads: int | None = None

    def workers(self, rows: Partition) -> ThreadWorkers:
        return ThreadWorkers(rows, self.partitions, self.threads)

    def domain(self, rows: Partition) -> Domain:
        """One trust domain over `rows`."""
        return Domain(self.workers(rows), single_threaded_blas)

    def federation(
        self,
        rows: Mapping[str, Callable[[Cohort | None], Partition]],
        policies: Mapping[str, Policy],
        cohort: Cohort | None = None,
    ) -> Federation:
        """Sites with a gate each. `rows` gives a site's rows for a cohort."""
        sites = {
            name: Site(name, self._held(make), Gate(name, policies[name]))
            for name, make in rows.items()
        }
        return Federation(InProcess(sites), list(sites), cohort)

    def _held(
        self, make: Callable[[Cohort | None], Partition]
    ) -> Callable[[Cohort | None], ThreadWorkers]:
        held: dict[str, ThreadWorkers] = {}

        def workers(cohort: Cohort | None) -> ThreadWorkers:
            key = codec.digest(cohort)
            if key not in held:
                held[key] = self.workers(make(cohort))
            return held[key]

        return workers


class ThreadWorkers:
    """Partitions of one trust domain on the threads of this process.

    Parameters
    ----------
    rows : all rows of the domain.
    partitions : contiguous parts to cut them into.
    threads : at most so many at once; None: one per core.
    """

    def __init__(self, rows: Partition, partitions: int = 1, threads: int | None = None) -> None:
        self.rows = rows
        self.parts = [chunk for part in rows.split(partitions) for chunk in part.chunks()]
        cells = sum(values.size for values in rows.columns.values())
        cores = threads or len(os.sched_getaffinity(0))
        self.threads = 1 if cells < INLINE_CELLS else min(cores, max(1, len(self.parts)))

    def sum(self, plan: Plan) -> Sum:
        """Contributions of all partitions, added in ring form as they arrive."""
        task = lookup(plan.task, plan.version)
        leaves = task.leaves(plan)

        def one(partition: Partition) -> Sum:
            return Sum.of(leaves, task.local(plan, partition))

        parts = [self.rows] if task.grain == "site" else self.parts
        if not parts:
            return Sum.of(leaves, task.local(plan, self.rows))
        if self.threads == 1 or len(parts) == 1:
            return _add(one(part) for part in parts)
        return _add(_pool(self.threads, os.getpid()).map(one, parts))


@cache
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """Threads that are kept: starting them anew costs more than a small round.

    A forked process has none of its parent's, so each process has a pool of its own.
    """
    return ThreadPoolExecutor(threads, thread_name_prefix="polyclinic")


def _add(sums: Iterator[Sum]) -> Sum:
    total = next(sums)
    for more in sums:
        total = total + more
    return total


class Site:
    """One hospital: rows that a cohort selects, a gate, and `answer`, its only door.

    Parameters
    ----------
    rows : from a cohort (plain data, as it stands in a plan) to the workers that hold its rows.
    log : errors in full, for the site's own eyes; only codes leave.
    """

    def __init__(
        self, name: str, rows: Callable[[Mapping[str, Any] | None], ThreadWorkers], gate: Gate
    ) -> None:
        self.name, self.gate, self._rows = name, gate, rows
        self.log: list[Exception] = []

    def answer(self, message: bytes) -> bytes:
        """The release for a plan, or the code of a refusal, as bytes."""
        try:
            plan = Plan.from_bytes(message)
            leaves = lookup(plan.task, plan.version).leaves(plan)
            summed = self._rows(plan.cohort).sum(plan)
            return self.gate.release(plan, leaves, summed).to_bytes()
        except PolyclinicError as error:
            self.log.append(error)
            return codec.encode({"code": error.code})
        except Exception as error:  # whatever it was, no more than a code may cross the border
            self.log.append(error)
            return codec.encode({"code": "SITE_FAILED"})


class InProcess:
    """The transport of the embedded engine: a call."""

    def __init__(self, sites: Mapping[str, Site]) -> None:
        self.sites = dict(sites)

    def ask(self, messages: Mapping[str, bytes]) -> Mapping[str, bytes]:
        return {name: self.sites[name].answer(message) for name, message in messages.items()}

    @contextmanager
    def session(self) -> Iterator[None]:
        with single_threaded_blas():
            yield


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
