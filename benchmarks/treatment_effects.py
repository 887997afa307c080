"""Bias and coverage of treatment effects where the truth is known; the table of the documentation.

    python benchmarks/treatment_effects.py [replications]

Two covariates and a 0/1 column decide who is treated and the outcome. "right": all models are
right; "outcome wrong" and "treatment wrong": the model of that name lacks a square that matters.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

import polyclinic as pc
from polyclinic.core.design import Design, Factor, Term
from polyclinic.core.fit import fit
from polyclinic.core.partition import Partition
from polyclinic.models.effects import Effect, Spec

NAMES = ("a", "x", "z", "c")
TERMS = tuple(Term(name, (Factor("value", name),), 16.0) for name in NAMES)
SPEC = Spec(Design(TERMS, "y", response_bound=64.0), "a", False)
BINARY = Spec(Design(TERMS, "y", response_bound=1.0), "a", True)
MODIFIED = Spec(Design(TERMS, "y", response_bound=64.0), "a", False, modifiers=("x",))


def rows(n: int, seed: int, case: str = "right", binary: bool = False) -> dict[str, Any]:
    """Rows with an effect of 1 + 0.5 x on a number, or of 0.8 on the log-odds."""
    draw = np.random.default_rng(seed)
    x, z = draw.normal(size=(2, n))
    c = (draw.random(n) < 0.4) * 1.0
    chance = 0.5 * x - 0.4 * z + 0.3 * c + 0.6 * (x * x - 1) * (case == "treatment wrong")
    a = (draw.random(n) < 1 / (1 + np.exp(-chance))) * 1.0
    level = x + 0.5 * z - 0.3 * c + (x * x - 1) * (case == "outcome wrong")
    if binary:
        y = (draw.random(n) < 1 / (1 + np.exp(0.5 - 0.7 * level - 0.8 * a))) * 1.0
    else:
        y = level + a * (1 + 0.5 * x) + draw.normal(size=n)
    return {"a": a, "x": x, "z": z, "c": c, "y": y}


def true_difference(binary: bool) -> float:
    """By the same law, over so many patients that its own error does not matter."""
    if not binary:
        return 1.0
    draw = np.random.default_rng(0)
    x, z = draw.normal(size=(2, 4_000_000))
    level = 0.7 * (x + 0.5 * z - 0.3 * (draw.random(4_000_000) < 0.4)) - 0.5
    return float(np.mean(1 / (1 + np.exp(-level - 0.8)) - 1 / (1 + np.exp(-level))))


def estimate(spec: Spec, data: dict[str, Any]) -> Effect:
    found: Effect = fit(spec.algorithm(), pc.Embedded().domain(Partition(data))).model
    return found


def measure(n: int, times: int, case: str, binary: bool = False) -> dict[str, list[float]]:
    """By method: bias, its Monte Carlo error, spread of the estimates, mean error, coverage."""
    truth = true_difference(binary)
    spec = BINARY if binary else SPEC
    found: dict[str, list[tuple[float, float, bool]]] = {
        m: [] for m in (*spec.methods, "unadjusted")
    }
    for seed in range(times):
        effect = estimate(spec, rows(n, 1000 + seed, case, binary))
        for method, lines in found.items():
            one = effect.contrasts(method)[0]
            lines.append((one.estimate - truth, one.se, one.lower <= truth <= one.upper))
    return {method: _summary(np.array(lines)) for method, lines in found.items()}


def measure_modifier(n: int, times: int) -> list[float]:
    """The same for the slope of the effect in x, which is 0.5."""
    lines = []
    for seed in range(times):
        found = estimate(MODIFIED, rows(n, 1000 + seed)).modified
        assert found is not None
        off, se = found.coef[1] - 0.5, np.sqrt(found.covariance[1, 1])
        lines.append((off, se, abs(off) <= 1.959964 * se))
    return _summary(np.array(lines))


def _summary(lines: np.ndarray[Any, Any]) -> list[float]:
    off, se, inside = lines.T
    return [off.mean(), off.std() / np.sqrt(len(off)), off.std(ddof=1), se.mean(), inside.mean()]


def main() -> None:
    times = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    print("| outcome, models | n | method | bias (MC error) | spread | mean SE | coverage |")
    print("|---|---|---|---|---|---|---|")
    for binary, case, n in (
        (False, "right", 300), (False, "right", 1000), (False, "outcome wrong", 1000),
        (False, "treatment wrong", 1000), (True, "right", 300), (True, "right", 1000),
    ):  # fmt: skip
        name = f"{'0/1' if binary else 'number'}, {case}"
        for method, values in measure(n, times, case, binary).items():
            print(_line(name, n, method, values), flush=True)
    print(_line("number, right", 1000, "R-learner, slope of x", measure_modifier(1000, times)))


def _line(name: str, n: int, method: str, values: list[float]) -> str:
    bias, error, spread, se, inside = values
    return (
        f"| {name} | {n} | {method} | {bias:+.4f} ({error:.4f}) | {spread:.4f} | {se:.4f} "
        f"| {inside:.1%} |"
    )


if __name__ == "__main__":
    main()
