"""One way to fit a model on arrays, on a domain or on a federation with gates."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from polyclinic.core.design import Design, Term
from polyclinic.core.federation import Engine
from polyclinic.core.fit import fit
from polyclinic.core.partition import Partition
from polyclinic.core.task import register
from polyclinic.engines.embedded import Embedded
from polyclinic.models import tasks
from polyclinic.models.glm import GLMFit, Solver, Spec, glm
from polyclinic.privacy.policy import open_policy

register(tasks)
CLASSES = {"binomial": 2, "multinomial": 3}


def design(x: np.ndarray, y: np.ndarray, **more: Any) -> Design:
    bounds = np.abs(np.nan_to_num(x, posinf=0.0)).max(axis=0, initial=0.0)
    terms = tuple(Term(f"x{j}", (), float(b)) for j, b in enumerate(bounds))
    return Design(terms, response_bound=float(np.abs(y).max(initial=1.0)), **more)


def domain(columns: dict[str, np.ndarray], partitions: int = 1, threads: int = 2) -> Engine:
    return Embedded(partitions, threads).domain(Partition(columns))


def federation(columns: dict[str, np.ndarray], cuts: list[int], partitions: int = 1) -> Engine:
    edges = [0, *cuts, len(columns["y"])]
    parts = {
        f"site{i}": Partition({k: v[a:b] for k, v in columns.items()}, site=f"site{i}")
        for i, (a, b) in enumerate(pairwise(edges))
    }
    makers = {name: (lambda cohort, p=p: p) for name, p in parts.items()}
    return Embedded(partitions).federation(makers, dict.fromkeys(parts, open_policy(5)))


@pytest.fixture
def fit_glm() -> Callable[..., GLMFit]:
    def run(
        x: np.ndarray,
        y: np.ndarray,
        family: str,
        *,
        weight: Any = None,
        offset: Any = None,
        intercept: bool = True,
        partitions: int = 1,
        cuts: list[int] | None = None,
        **spec: Any,
    ) -> GLMFit:
        columns = {"X": x, "y": y}
        more: dict[str, Any] = {"intercept": intercept}
        if weight is not None:
            columns["w"], more["weight"] = weight, "w"
        if offset is not None:
            columns["offset"], more["offset"] = offset, "offset"
        solver = spec.pop("solver", Solver())
        wanted = Spec(design(x, y, **more), family, CLASSES.get(family, 0), solver=solver, **spec)
        engine = federation(columns, cuts, partitions) if cuts else domain(columns, partitions)
        result: GLMFit = fit(glm(wanted), engine).model[-1]
        return result

    return run


def sample(family: str, n: int = 600, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Badly scaled terms (1e-3 to 2000) and an outcome of the family."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, 4)) * [1.0, 10.0, 1e-3, 2.0] + [0.0, 0.0, 0.0, 2000.0]
    eta = 0.3 + x @ [0.5, 0.05, 200.0, 0.0] + 0.2 * (x[:, 3] - 2000.0)
    if family == "binomial":
        return x, (rng.uniform(size=n) < 1 / (1 + np.exp(-eta))).astype(float)
    if family == "poisson":
        return x, rng.poisson(np.exp(eta)).astype(float)
    if family == "gamma":
        return x, np.exp(eta) * rng.gamma(2.0, 0.5, n)
    if family == "multinomial":
        scores = np.column_stack([0 * eta, eta, -0.5 * eta])
        return x, (scores + rng.gumbel(size=scores.shape)).argmax(axis=1).astype(float)
    return x, 100.0 * eta + rng.standard_normal(n)
