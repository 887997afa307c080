"""What tasks have in common that ask chunks step by step and rows in one place the same way."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from polyclinic.core.contribution import Contribution
from polyclinic.core.exposure import Exposure
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.core.task import Answer, Question, Steps, answered


class AlsoInOnePlace(ABC):
    """Base of a `Stepwise` task of which all sums are of whole numbers: rows in one place are its
    only chunk."""

    name: str

    @property
    def exact(self) -> bool:
        """All sums are of whole numbers."""
        return True

    @abstractmethod
    def steps(self, plan: Plan, kept: dict[str, Any]) -> Steps: ...

    @abstractmethod
    def part(self, plan: Plan, question: Question, partition: Partition) -> Answer: ...

    @abstractmethod
    def together(self, one: Answer, other: Answer) -> Answer: ...

    def local(self, plan: Plan, partition: Partition) -> Contribution:
        return self._found(plan, partition)[0]

    def exposure(self, plan: Plan, partition: Partition, own: Mapping[str, Any]) -> Exposure:
        """How patients share in it."""
        return self._found(plan, partition)[1]

    def by_steps(self, plan: Plan) -> bool:
        """Always."""
        return True

    def _found(self, plan: Plan, partition: Partition) -> tuple[Contribution, Exposure]:
        """Of all rows in one place."""
        name = f"{self.name} of a plan"
        kept = partition.cache.get(name)
        if kept is None or kept[0] != plan.content_hash:
            steps = self.steps(plan, partition.cache)
            found = answered(steps, lambda question: self.part(plan, question, partition))
            kept = partition.cache[name] = plan.content_hash, found
        done: tuple[Contribution, Exposure] = kept[1]
        return done
