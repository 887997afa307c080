"""Rows of four hospitals, and designs over them."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

import polyclinic as pc
from polyclinic.core.design import Design, Factor, Term
from polyclinic.core.federation import Engine
from polyclinic.core.partition import Partition
from polyclinic.privacy.policy import Policy

N, EDGES = 700, (0, 250, 420, 540, 700)
TERMS = ("a", "b", "c")


def made() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    kind = rng.integers(0, 3, N).astype(float)
    return {
        "a": rng.normal(2.0, 1.0, N) + 4.0 * kind,
        "b": rng.normal(0.0, 3.0, N),
        "c": rng.integers(0, 3, N).astype(float),
        "kind": kind,
        "w": rng.integers(1, 4, N).astype(float),
    }


DATA = made()
X = np.column_stack([DATA[name] for name in TERMS])


def design(response: str = "", **more: Any) -> Design:
    terms = tuple(Term(name, (Factor("value", name),), 16.0) for name in TERMS)
    return Design(terms, response, **more)


def part(data: Any = None, at: slice = slice(None), site: str = "", key: Any = None) -> Partition:
    data = DATA if data is None else data
    return Partition({name: column[at] for name, column in data.items()}, key, site)


def domain(partitions: int = 1, data: Any = None) -> Engine:
    return pc.Embedded(partitions).domain(part(data))


def sites(
    partitions: int = 1, data: Any = None, sums: str = "auto", policy: Policy | None = None
) -> Engine:
    data = DATA if data is None else data
    n = len(next(iter(data.values())))
    edges = [edge * n // N for edge in EDGES]
    parts = {f"s{i}": part(data, slice(*ends), f"s{i}") for i, ends in enumerate(pairwise(edges))}
    makers = {name: (lambda cohort, one=one: one) for name, one in parts.items()}
    policies = dict.fromkeys(parts, policy or Policy())
    return pc.Embedded(partitions).federation(makers, policies, sums=sums)  # type: ignore[arg-type]


ENGINES = {
    "domain": domain,
    "domain in 3": lambda: domain(3),
    "sites": sites,
    "sites in 3": lambda: sites(3),
    "secure": lambda: sites(sums="secure"),
}
