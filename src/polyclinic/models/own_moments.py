"""Counts and moments of a model's columns, as for a generalised linear model, in its own name.

A learner's study covers its own steps only, so it asks for these sums under a name of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from polyclinic.core.algorithm import State
from polyclinic.core.contribution import Contribution, Total
from polyclinic.core.exposure import Exposure
from polyclinic.core.leaf import Leaf
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.core.task import Grain
from polyclinic.models.glm.moments import MomentsAlgorithm
from polyclinic.models.glm.spec import Moments
from polyclinic.models.glm.tasks import MomentsTask as Plain
from polyclinic.models.learner import values

_MOMENTS = Plain()


@dataclass(frozen=True)
class OwnMoments:
    """The coordinator's half.

    spec  of the learner, with `plain()`: the generalised linear model that has the same rows
    task  name of the step
    """

    spec: Any
    task: str

    @property
    def _plain(self) -> MomentsAlgorithm:
        return MomentsAlgorithm(self.spec.plain())

    def init(self, seed: int) -> State:
        return self._plain.init(seed)

    def plan(self, state: State) -> Plan | None:
        plan = self._plain.plan(state)
        if plan is None:
            return None
        more = {name: plan.values[name] for name in ("shift",) if name in plan.values}
        return Plan(self.task, values(self.spec, **more), plan.step)

    def update(self, state: State, plan: Plan, total: Total) -> State:
        return self._plain.update(state, plan, total)

    def progress(self, state: State) -> Mapping[str, float]:
        return {}

    def model(self, state: State) -> Moments:
        return self._plain.model(state)


@dataclass(frozen=True)
class MomentsTask:
    """The site's half. What leaves: counts and moments of the columns, judged as they are there.

    plain  from a plan to that of the generalised linear model about the same rows
    """

    name: str
    plain: Callable[[Plan], Plan]
    version: int = 1
    grain: Grain = "row"

    def leaves(self, plan: Plan) -> tuple[Leaf, ...]:
        return _MOMENTS.leaves(self.plain(plan))

    def local(self, plan: Plan, partition: Partition) -> Contribution:
        return _MOMENTS.local(self.plain(plan), partition)

    def exposure(self, plan: Plan, partition: Partition, own: Mapping[str, Any]) -> Exposure:
        """As the gate judges them there."""
        return _MOMENTS.exposure(self.plain(plan), partition, own)

    def slots(self, plan: Plan) -> tuple[str, ...]:
        """Names of the levels that the plan itself names."""
        return _MOMENTS.slots(self.plain(plan))

    def candidates(self, plan: Plan) -> tuple[tuple[str, ...], int]:
        """Names of the columns; one candidate."""
        return _MOMENTS.candidates(self.plain(plan))
