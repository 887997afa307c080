"""A generalised linear model as one algorithm: moments, solver, inference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from polyclinic.core.algorithm import Algorithm, Stages
from polyclinic.core.errors import InputError
from polyclinic.models.glm.firstorder import LBFGS, GradientDescent, StochasticDescent
from polyclinic.models.glm.inference import Inference
from polyclinic.models.glm.moments import MomentsAlgorithm
from polyclinic.models.glm.newton import Newton
from polyclinic.models.glm.scale import Scale
from polyclinic.models.glm.spec import SOLVERS, Spec

_MADE: dict[str, Callable[[Scale], Algorithm]] = {
    "newton": Newton,
    "lbfgs": LBFGS,
    "gd": GradientDescent,
    "sgd": StochasticDescent,
}


def glm(spec: Spec) -> Stages:
    """The algorithm that fits `spec`; its last result is a `GLMFit`.

    Raises
    ------
    InputError : UNKNOWN_SOLVER, or SOLVER_CANNOT for an L1 penalty without `newton`.
    """
    name = spec.solver.name
    if name not in _MADE:
        raise InputError(
            f"unknown solver {name!r}", code="UNKNOWN_SOLVER", rule=f"solvers: {', '.join(SOLVERS)}"
        )
    if spec.l1 > 0 and name != "newton":
        raise InputError(
            f"solver {name!r} cannot use an L1 penalty",
            code="SOLVER_CANNOT",
            rule="an L1 penalty is not smooth",
            next='use solver = "newton"',
        )

    def moments(results: Sequence[Any]) -> Algorithm:
        return MomentsAlgorithm(spec)

    def solve(results: Sequence[Any]) -> Algorithm:
        return _MADE[name](Scale(spec, results[0]))

    def infer(results: Sequence[Any]) -> Algorithm:
        return Inference(Scale(spec, results[0]), results[1])

    return Stages((moments, solve, infer))
