"""A task and an algorithm that are small enough to know the answer of, for tests of the core."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from polyclinic.core.algorithm import State
from polyclinic.core.contribution import Contribution, Evidence, Total
from polyclinic.core.exposure import Exposure, Members, Unaided
from polyclinic.core.leaf import Leaf
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.core.task import Grain, register


@dataclass(frozen=True)
class SumTask(Unaided):
    """Counts and float sums of (x - centre) * rate, patients per sign of x as cells."""

    name: str = "toy.sum"
    version: int = 1
    grain: Grain = "row"

    def leaves(self, plan: Plan) -> tuple[Leaf, ...]:
        return (
            Leaf("n", (), "count", "int64"),
            Leaf("sum"),
            Leaf("signs", (2,), "histogram", "int64", support="cells", small="hide"),
        )

    def exposure(self, plan: Plan, partition: Partition, own: Mapping[str, Any]) -> Exposure:
        return Exposure(members=(Members(("x",), np.unique(partition.persons)),))

    def local(self, plan: Plan, partition: Partition) -> Contribution:
        x = partition.columns["x"]
        parts = (x < 0, x >= 0)
        cells = np.array([partition.patients(part) for part in parts], dtype=np.int64)
        leaves = {
            "n": x.size,
            "sum": np.sum((x - plan.values["centre"]) * plan.values["rate"]),
            "signs": np.array([np.count_nonzero(part) for part in parts]),
        }
        return Contribution(leaves, Evidence(partition.n_patients, {"signs": cells}))


@dataclass(frozen=True)
class InterruptTask(SumTask):
    """Someone presses Ctrl-C while a site computes."""

    name: str = "toy.interrupt"

    def local(self, plan: Plan, partition: Partition) -> Contribution:
        raise KeyboardInterrupt


@dataclass(frozen=True)
class Descend:
    """Gradient descent to the mean of x, `rounds` steps."""

    rounds: int = 6
    rate: float = 0.3
    task: str = "toy.sum"

    def init(self, seed: int) -> State:
        return {"step": 0, "at": float(seed), "signs": np.zeros(2, np.int64)}

    def plan(self, state: State) -> Plan | None:
        if state["step"] == self.rounds:
            return None
        return Plan(self.task, {"centre": state["at"], "rate": self.rate}, "descent")

    def update(self, state: State, plan: Plan, total: Total) -> State:
        move = total.number("sum") / int(total["n"])
        return {"step": state["step"] + 1, "at": state["at"] + move, "signs": total["signs"]}

    def model(self, state: State) -> dict[str, Any]:
        return {"mean": state["at"], "signs": state["signs"].tolist()}

    def progress(self, state: State) -> Mapping[str, float]:
        return {"at": state["at"], "left": float("inf") if state["step"] == 0 else 0.0}


SUM, INTERRUPT = SumTask(), InterruptTask()
register([SUM, INTERRUPT])
