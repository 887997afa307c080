"""Federations and domains over arrays, as an engine wires them, for tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from polyclinic.core.federation import Domain, Federation
from polyclinic.core.partition import Partition
from polyclinic.engines.books import Books
from polyclinic.engines.embedded import InProcess
from polyclinic.engines.site import Site
from polyclinic.engines.workers import ThreadWorkers
from polyclinic.privacy.gate import Gate
from polyclinic.privacy.policy import Policy, open_policy

OPEN = open_policy()


def partition(columns: Mapping[str, Any], key: Any = None, site: str = "") -> Partition:
    arrays = {name: np.asarray(values, dtype=np.float64) for name, values in columns.items()}
    return Partition(arrays, None if key is None else np.asarray(key, dtype=np.int64), site)


def cut(columns: Mapping[str, Any], sizes: Sequence[int], key: Any = None) -> dict[str, Partition]:
    """Sites a, b, c, ... with `sizes` rows each, taken in order."""
    edges = np.cumsum([0, *sizes])
    return {
        name: partition(
            {column: values[start:stop] for column, values in columns.items()},
            None if key is None else key[start:stop],
            name,
        )
        for name, start, stop in zip("abcdefghij", edges, edges[1:], strict=False)
    }


def federation(
    parts: Mapping[str, Partition],
    policy: Policy | None = None,
    partitions: int = 1,
    threads: int | None = None,
) -> Federation:
    """Every partition is a site of its own with a gate."""
    sites = {}
    for name, part in parts.items():
        workers = ThreadWorkers(part, partitions, threads)
        gate = Gate(name, policy or Policy())
        sites[name] = Site(gate, _always(workers), Books.in_memory(), len(parts))
    return Federation(InProcess(sites), list(sites))


def _always(workers: ThreadWorkers) -> Callable[[Any], ThreadWorkers]:
    return lambda cohort: workers


def domain(part: Partition, partitions: int = 1, threads: int | None = None) -> Domain:
    return Domain(ThreadWorkers(part, partitions, threads))
