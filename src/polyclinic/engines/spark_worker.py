"""What a Python process of a Spark executor does: the rows that it has read stay in it.

Spark keeps these processes from job to job (``spark.python.worker.reuse``) and names none of them:
a message may come to one that has never read the rows. It then says so, or reads them.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import psutil
from threadpoolctl import threadpool_limits

from polyclinic.core import codec
from polyclinic.core.task import load_installed
from polyclinic.engines import wire
from polyclinic.engines.held import Holder

_held: dict[tuple[int, int], Holder] = {}


def answers(
    messages: Iterable[tuple[int, bytes | None]], memory: int, threads: int
) -> Iterator[tuple[int, int, bytes]]:
    """Slot, process and answer of each message that there is.

    Parameters
    ----------
    messages : slot, and what it is asked; None: nothing.
    memory : bytes of columns that a process holds; 0: half of what it may have.
    threads : chunks that are computed at once.
    """
    for slot, message in messages:
        if message is not None:
            yield slot, os.getpid(), _holder(memory, threads).answer(message)


class Added(NamedTuple):
    """Answers of some slots, and one sum of those among them that only say that they are held.

    answers  slot, process and answer of each
    names    of the messages whose answers are in the sum
    sum      as in an answer; {}: of none
    """

    answers: list[tuple[int, int, bytes]]
    names: list[str]
    sum: dict[str, Any]

    def plus(self, other: Added) -> Added:
        """Both together."""
        sums = [one for one in (self.sum, other.sum) if one]
        total = wire.answers_added(sums) if len(sums) > 1 else {**self.sum, **other.sum}
        return Added(self.answers + other.answers, self.names + other.names, total)


def held_back(
    messages: Iterable[tuple[int, bytes | None]], memory: int, threads: int
) -> Iterator[Added]:
    """The same, where a message says from how many bytes on its answer is held: that goes along,
    to be added to others. Nothing stays here, so Spark may run the task twice."""
    for slot, message in messages:
        if message is not None:
            holder, name = _holder(memory, threads), codec.decode(message)["name"]
            answer = slot, os.getpid(), holder.answer(message)
            held = holder.fetch(name)
            if held is None:
                yield Added([answer], [], {})
            else:
                yield Added([answer], [name], codec.decode(held))


def _holder(memory: int, threads: int) -> Holder:
    """The one of this process. It belongs to the process and not to a task, which may end here and
    go on elsewhere."""
    if (memory, threads) not in _held:
        _held.clear()
        load_installed()
        threadpool_limits(limits=1, user_api="blas")
        _held[memory, threads] = Holder(memory or _half(), threads)
    return _held[memory, threads]


def forgotten(slots: Iterable[int]) -> Iterator[int]:
    """Let go what is held in this process."""
    _held.clear()
    return iter(slots)


def _half() -> int:
    """Half of `spark.executor.pyspark.memory`, which Spark sets as the process's limit, or of the
    machine's."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    machine = int(psutil.virtual_memory().total)
    return (machine if limit == resource.RLIM_INFINITY else min(limit, machine)) // 2
