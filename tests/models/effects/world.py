"""Rows with a known effect, and the same answers written down by hand for pooled rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import statsmodels.api as sm

import polyclinic as pc
from polyclinic.core.design import Design, Factor, Term
from polyclinic.core.fit import fit
from polyclinic.core.partition import Partition
from polyclinic.models.effects import Effect, Spec
from polyclinic.privacy.policy import Policy, open_policy

Rows = Mapping[str, Any]
TERMS = tuple(Term(name, (Factor("value", name),), 16.0) for name in ("a", "x", "z", "c"))


def rows(n: int, seed: int, binary: bool = False, pull: float = 1.0) -> dict[str, Any]:
    """An effect of 1 + 0.5 x on a number, or of 0.8 on the log-odds; `pull` 0: a random trial."""
    draw = np.random.default_rng(seed)
    x, z = draw.normal(size=(2, n))
    c = (draw.random(n) < 0.4) * 1.0
    a = (draw.random(n) < 1 / (1 + np.exp(-pull * (0.5 * x - 0.4 * z + 0.3 * c)))) * 1.0
    level = x + 0.5 * z - 0.3 * c
    if binary:
        y = (draw.random(n) < 1 / (1 + np.exp(0.5 - 0.7 * level - 0.8 * a))) * 1.0
    else:
        y = level + a * (1 + 0.5 * x) + draw.normal(size=n)
    return {"a": a, "x": x, "z": z, "c": c, "y": y}


def spec(binary: bool = False, **options: Any) -> Spec:
    design = Design(TERMS, "y", response_bound=1.0 if binary else 64.0)
    return Spec(design, "a", binary, **options)


def pooled(data: Rows, asked: Spec, key: Any = None) -> Effect:
    part = Partition(dict(data), key)
    found: Effect = fit(asked.algorithm(), pc.Embedded().domain(part)).model
    return found


def hospitals(
    data: Rows, cuts: list[int], policy: Policy | None = None, partitions: int = 1, **how: Any
) -> Any:
    """The rows as hospitals a, b, ...: from 0 to the first cut, and so on."""
    edges = [0, *cuts, len(data["a"])]
    parts = {
        chr(97 + i): Partition({k: v[lo:hi] for k, v in data.items()}, site=chr(97 + i))
        for i, (lo, hi) in enumerate(pairwise(edges))
    }
    makers: dict[str, Callable[[Any], Partition]] = {
        name: (lambda cohort, part=part: part) for name, part in parts.items()
    }
    rule = policy or open_policy()
    return pc.Embedded(partitions).federation(makers, dict.fromkeys(parts, rule), **how)


def matrix(data: Rows) -> Any:
    return sm.add_constant(np.column_stack([data[name] for name in ("x", "z", "c")]))


def by_hand(
    data: Rows, method: str, estimand: str = "ate", binary: bool = False
) -> tuple[Any, Any]:
    """Means and their covariance from stacked estimating equations, with statsmodels' models and
    a derivative by complex steps (Stefanski & Boos 2002)."""
    x, a, y = matrix(data), data["a"], data["y"]
    k = x.shape[1]
    law = sm.families.Binomial()
    own = law if binary else sm.families.Gaussian()
    alpha = sm.GLM(a, x, family=law).fit(tol=1e-15, maxiter=100).params
    beta = [
        sm.GLM(y[a == arm], x[a == arm], family=own).fit(tol=1e-15, maxiter=100).params
        for arm in (0, 1)
    ]

    def logistic(eta: Any) -> Any:
        return 1 / (1 + np.exp(-eta))

    def parts(theta: Any) -> tuple[Any, Any, Any]:
        e = logistic(x @ theta[:k])
        m = [x @ theta[k : 2 * k], x @ theta[2 * k : 3 * k]]
        m = [logistic(one) if binary else one for one in m]
        g = np.ones_like(a) if estimand == "ate" else a
        w = [(1 - a) / (1 - e), a / e] if estimand == "ate" else [(1 - a) * e / (1 - e), a]
        u = {
            "ipw": [w[i] * y for i in (0, 1)],
            "regression": [g * m[i] for i in (0, 1)],
            "aipw": [g * m[i] + w[i] * (y - m[i]) for i in (0, 1)],
        }[method]
        return e, m, (u, w if method == "ipw" else [g, g])

    def psi(theta: Any) -> Any:
        e, m, (u, v) = parts(theta)
        blocks = [(a - e)[:, None] * x]
        blocks += [((a == i) * (y - m[i]))[:, None] * x for i in (0, 1)]
        blocks += [(u[i] - theta[3 * k + i] * v[i])[:, None] for i in (0, 1)]
        return np.hstack(blocks)

    start = np.concatenate([alpha, *beta, [0.0, 0.0]])
    u, v = parts(start)[2]
    mean = np.array([np.sum(u[i]) / np.sum(v[i]) for i in (0, 1)])
    at = np.concatenate([start[:-2], mean])
    size, h = len(at), 1e-30
    bread = np.column_stack(
        [psi(at + 1j * h * np.eye(size)[j]).sum(axis=0).imag / h for j in range(size)]
    )
    scores = psi(at)
    inverse = np.linalg.inv(bread)
    return mean, (inverse @ (scores.T @ scores) @ inverse.T)[-2:, -2:]
