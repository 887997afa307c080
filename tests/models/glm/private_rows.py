"""Rows of known truth, and the parts of a private fit over them."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import statsmodels.api as sm

from polyclinic.core.design import Design, Term
from polyclinic.core.federation import Engine
from polyclinic.core.fit import fit
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.core.task import lookup, register
from polyclinic.engines.embedded import Embedded
from polyclinic.models import tasks
from polyclinic.models.glm import Spec
from polyclinic.models.glm.private import PrivateGLMFit, private_glm
from polyclinic.privacy.dp import DifferentialPrivacy
from polyclinic.privacy.policy import open_policy

register(tasks)
FAMILIES = {
    "gaussian": sm.families.Gaussian(),
    "binomial": sm.families.Binomial(),
    "poisson": sm.families.Poisson(),
}
LOW, HIGH = np.array([18.0, -1e-3, 900.0]), np.array([98.0, 3e-3, 1100.0])
RANGES = {f"x{j}": (LOW[j], HIGH[j]) for j in range(3)}
WITH_OUTCOME = {**RANGES, "y": (60.0, 140.0)}
SLOPES = np.array([0.8, -0.6, 0.4])
STRICT = DifferentialPrivacy(1.0, 1e-6)
CHANCE = 1e-7


def rows(family: str, n: int, seed: int = 0, short: bool = False) -> dict[str, np.ndarray]:
    """Terms of very different units; with `short` no row is longer than what counts in full."""
    rng = np.random.default_rng(seed)
    z = rng.uniform(-0.55, 0.55, (n, 3)) if short else np.clip(rng.normal(0, 0.4, (n, 3)), -1, 1)
    eta = 0.3 + z @ SLOPES
    if family == "gaussian":
        y = 100.0 + 10.0 * eta + rng.normal(0, 5.0, n)
    elif family == "binomial":
        y = (rng.uniform(size=n) < 1 / (1 + np.exp(-eta))).astype(float)
    else:
        y = np.minimum(rng.poisson(np.exp(eta)), 12).astype(float)
    return {"X": 0.5 * (LOW + HIGH) + 0.5 * (HIGH - LOW) * z, "y": y}


def truth(family: str) -> np.ndarray:
    """Raw coefficients that `rows` were drawn with."""
    slopes = SLOPES / (0.5 * (HIGH - LOW))
    raw = np.append(0.3 - slopes @ (0.5 * (LOW + HIGH)), slopes)
    return 10.0 * raw + [100.0, 0, 0, 0] if family == "gaussian" else raw


def spec(family: str, **more: Any) -> Spec:
    terms = tuple(Term(f"x{j}", (), float(np.abs([LOW[j], HIGH[j]]).max())) for j in range(3))
    bound = {"gaussian": 140.0, "binomial": 1.0, "poisson": 12.0}[family]
    design = Design(terms, response_bound=bound, intercept=more.pop("intercept", True))
    return Spec(design, family, 2 if family == "binomial" else 0, **more)


def sites(
    columns: Mapping[str, np.ndarray],
    k: int = 4,
    sums: Any = "clear",
    key: Any = None,
) -> Engine:
    cuts = np.linspace(0, len(columns["y"]), k + 1).astype(int)
    parts = {
        f"s{i}": Partition(
            {name: values[a:b] for name, values in columns.items()},
            None if key is None else key[a:b],
            f"s{i}",
            population=0 if key is None else int(key.max()) + 1,
        )
        for i, (a, b) in enumerate(pairwise(cuts))
    }
    makers = {name: (lambda cohort, p=p: p) for name, p in parts.items()}
    return Embedded().federation(makers, dict.fromkeys(parts, open_policy()), sums=sums)


def run(
    wanted: Spec,
    columns: Mapping[str, np.ndarray],
    privacy: DifferentialPrivacy = STRICT,
    **more: Any,
) -> PrivateGLMFit:
    ranges = WITH_OUTCOME if wanted.family == "gaussian" else RANGES
    algorithm = private_glm(wanted, privacy, 4, ranges=ranges, rounds=more.pop("rounds", None))
    result: PrivateGLMFit = fit(algorithm, sites(columns, **more)).model[-1]
    return result


def plans(family: str, theta: np.ndarray | None = None) -> Plan:
    ranges = WITH_OUTCOME if family == "gaussian" else RANGES
    algorithm = private_glm(spec(family), STRICT, 4, ranges=ranges)
    plan = algorithm.plan({"steps": [], "multiplier": 1.0, "theta": theta})
    assert plan is not None
    return plan


def summed(plan: Plan, part: Partition) -> np.ndarray:
    task = lookup(plan.task, plan.version)
    (leaf,) = task.leaves(plan)
    return np.asarray(task.local(plan, part).leaves[leaf.name])


def bound(plan: Plan) -> float:
    (leaf,) = lookup(plan.task, plan.version).leaves(plan)
    assert leaf.bound is not None and leaf.ring == "exact128"
    return leaf.bound
