"""Lanes: threads that train sites of one process side by side, each with one thread of torch.

Torch's own threads wait for each other at every product and spin while they do: where a core is
busy with something else, a small step takes ten times as long. Lanes meet once a round.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import TypeVar

from polyclinic.models.neural.architectures import torch

A = TypeVar("A")
B = TypeVar("B")
_lock = threading.Lock()
_users = 0
_threads = 1  # of torch, before the first user


def cores() -> int:
    """Cores that this process may use: so many lanes at most."""
    return len(os.sched_getaffinity(0))


def side_by_side(one: Callable[[A], B], lanes: Sequence[A]) -> list[B]:
    """What `one` makes of each lane, in their order; a single lane is this thread."""
    with single_threaded_torch():
        if len(lanes) == 1:
            return [one(lanes[0])]
        return list(_pool(os.getpid()).map(one, lanes))


@contextmanager
def single_threaded_torch() -> Iterator[None]:
    """One thread of torch for this thread, and for those that compute their first here. Users are
    counted: the first one's number is what all of them leave behind."""
    global _users, _threads
    library = torch()
    with _lock:
        if not _users:
            _threads = library.get_num_threads()
        _users += 1
        library.set_num_threads(1)
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            library.set_num_threads(_threads)


@cache
def _pool(process: int) -> ThreadPoolExecutor:
    """Threads that are kept; a forked process has none of its parent's."""
    return ThreadPoolExecutor(cores(), thread_name_prefix="polyclinic-lane")
