"""A support vector machine as one algorithm: moments, machines, probabilities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from polyclinic.core.algorithm import Algorithm, Stages, State
from polyclinic.core.contribution import Total
from polyclinic.core.plan import Plan
from polyclinic.models.glm.spec import Moments
from polyclinic.models.own_moments import OwnMoments
from polyclinic.models.svm.frame import Frame
from polyclinic.models.svm.newton import Newton
from polyclinic.models.svm.platt import Platt
from polyclinic.models.svm.result import SVMFit
from polyclinic.models.svm.spec import SVMSpec


def svm(spec: SVMSpec) -> Stages:
    """The algorithm that fits `spec`; its last result is an `SVMFit`."""

    def moments(results: Sequence[Any]) -> Algorithm:
        return OwnMoments(spec, "svm.moments")

    def solve(results: Sequence[Any]) -> Algorithm:
        return Newton(frame_of(spec, results[0]))

    def platt(results: Sequence[Any]) -> Algorithm:
        frame = frame_of(spec, results[0])
        return Platt(frame, results[1], Newton(frame).sample)

    def result(results: Sequence[Any]) -> Algorithm:
        return _Result(frame_of(spec, results[0]), tuple(results[1:]))

    middle = (platt,) if spec.classifies and spec.curve else ()
    return Stages((moments, solve, *middle, result))


def frame_of(spec: SVMSpec, moments: Moments) -> Frame:
    """The coordinates for these moments."""
    if spec.features is None:
        return Frame(spec, moments, {})
    e = spec.design.exponents
    spread = np.ldexp(np.where(moments.sd > 0, moments.sd, 1.0), e)
    return Frame(spec, moments, {"centre": np.ldexp(moments.mean, e), "spread": spread})


@dataclass(frozen=True)
class _Result:
    """What was found, put together; asks for nothing."""

    frame: Frame
    results: tuple[Any, ...]

    def init(self, seed: int) -> State:
        return {}

    def plan(self, state: State) -> Plan | None:
        return None

    def update(self, state: State, plan: Plan, total: Total) -> State:
        return state

    def progress(self, state: State) -> Mapping[str, float]:
        return {}

    def model(self, state: State) -> SVMFit:
        return SVMFit(self.frame, self.results[0], *self.results[1:])
