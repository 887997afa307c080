"""Rows, specs and engines for the tests of trees."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

import polyclinic as pc
from polyclinic.core.design import Design, Factor, Term
from polyclinic.core.fit import fit
from polyclinic.core.partition import Partition
from polyclinic.models.trees import Feature, Fit, Spec
from polyclinic.models.trees.bins import binned, quantile_edges, uniform_edges
from polyclinic.privacy.policy import Policy, open_policy

CUTS = (0, 500, 800, 1100, 1200)


def rows(n: int = 1200, seed: int = 0, gaps: float = 0.0) -> dict[str, Any]:
    """Columns a to d, of which c is a category of five levels, and outcomes of all kinds."""
    rng = np.random.default_rng(seed)
    a, b, d = rng.normal(size=(3, n))
    c = rng.integers(0, 5, n).astype(float)
    eta = a + b * (c > 2) - 0.7 * (c == 1) - 0.3
    found = {"a": a, "b": b, "c": c, "d": np.round(d)}
    if gaps:
        for name in ("a", "c"):
            found[name] = np.where(rng.uniform(size=n) < gaps, np.nan, found[name])
    found["event"] = (rng.uniform(size=n) < 1 / (1 + np.exp(-eta))).astype(float)
    found["number"] = eta + rng.normal(size=n)
    found["count"] = rng.poisson(np.exp(0.5 * eta)).astype(float)
    found["kind"] = (np.column_stack([0 * eta, eta, -eta]) + rng.gumbel(size=(n, 3))).argmax(
        1
    ) * 1.0
    found["weight"] = rng.integers(1, 4, n).astype(float)
    return found


def spec(columns: dict[str, Any], outcome: str, bins: int = 16, **more: Any) -> Spec:
    names = more.pop("names", ("a", "b", "d"))
    gaps = any(np.isnan(columns[name]).any() for name in names)
    features = tuple(
        Feature(name, (), 5, gaps)
        if name == "c"
        else Feature(name, quantile_edges(columns[name], bins), 0, gaps)
        for name in names
    )
    terms = tuple(Term(name, (Factor("value", name),), 8.0) for name in names)
    weight = more.pop("weight", None)
    design = Design(terms, outcome, weight=weight, weight_bound=4.0, response_bound=512.0)
    return Spec(design, features, **more)


def uniform(bins: int) -> tuple[float, ...]:
    return uniform_edges(-3.0, 3.0, bins)


def alone(asked: Spec, columns: dict[str, Any], partitions: int = 1) -> Fit:
    engine = pc.Embedded(partitions).domain(Partition(columns))
    found: Fit = fit(asked.algorithm(), engine).model
    return found


def hospitals(
    columns: dict[str, Any], policy: Policy | None = None, sums: Any = "clear", cuts: Any = CUTS
) -> Any:
    parts = {
        f"s{i}": Partition({k: v[x:y] for k, v in columns.items()}, site=f"s{i}")
        for i, (x, y) in enumerate(pairwise(cuts))
    }
    makers = {name: (lambda cohort, part=part: part) for name, part in parts.items()}
    policies = dict.fromkeys(parts, policy or open_policy())
    return pc.Embedded().federation(makers, policies, sums=sums)


def as_numbers(asked: Spec, columns: dict[str, Any]) -> Any:
    """Bins as numbers, for other implementations; missing as NaN."""
    bins = binned(columns, asked).astype(float)
    return np.where(bins == asked.widest, np.nan, bins)


def same(one: Fit, two: Fit) -> bool:
    """The same bytes."""
    mine, other = one.trees.to_data(), two.trees.to_data()
    return one.base.tobytes() == two.base.tobytes() and all(
        mine[name].tobytes() == other[name].tobytes() for name in mine
    )
