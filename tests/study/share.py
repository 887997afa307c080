"""A learner for tests: everybody has the share of events as risk, or the mean of the outcome."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from polyclinic.core.contribution import Contribution, Evidence
from polyclinic.core.design import Design
from polyclinic.core.exposure import Exposure, Members, Shares, Unaided
from polyclinic.core.leaf import Leaf
from polyclinic.core.plan import Plan
from polyclinic.core.task import register
from polyclinic.models.learner import (
    Asked,
    Kind,
    check_options,
    register_kinds,
    spec_in,
    values,
)
from polyclinic.models.predictor import register_predictor
from polyclinic.study.learner import Classifier, Regressor


@dataclass(frozen=True)
class Spec:
    design: Design
    times: int = 1
    classes: int = 0
    rows: Any = field(default_factory=dict)

    def to_data(self) -> dict[str, Any]:
        rest = {"times": self.times, "classes": self.classes, "rows": dict(self.rows)}
        return {"design": self.design.to_data(), **rest}

    @staticmethod
    def from_data(data: Any) -> Spec:
        design = Design.from_data(data["design"])
        return Spec(design, data["times"], data["classes"], dict(data["rows"]))

    def algorithm(self) -> Share:
        return Share(self)


def spec(asked: Asked) -> Spec:
    check_options(asked.options, {"times": lambda n: n > 0}, "times is 1 or more")
    return Spec(asked.design, asked.options.get("times", 1), asked.classes)


class ShareTask(Unaided):
    name, version, grain = "share.sum", 1, "row"

    def leaves(self, plan: Plan) -> tuple[Leaf, ...]:
        scale = 20 + spec_in(plan, Spec.from_data).classes
        return Leaf("n", (), "count", "int64"), Leaf("y", (), scale=scale)

    def _kept(self, plan: Plan, partition: Any) -> Any:
        rows, found = plan.values["rows"], np.ones(partition.n_rows, dtype=bool)
        return found if not rows else partition.keys % rows["folds"] != rows["without"]

    def local(self, plan: Plan, partition: Any) -> Contribution:
        kept = self._kept(plan, partition)
        y = partition.columns[plan.values["spec"]["design"]["response"]][kept]
        return Contribution({"n": len(y), "y": float(y.sum())}, Evidence(partition.patients(kept)))

    def exposure(self, plan: Plan, partition: Any, own: Any) -> Exposure:
        kept, name = self._kept(plan, partition), plan.values["spec"]["design"]["response"]
        one = np.ones(int(kept.sum()))
        members = (Members((name,), np.unique(partition.persons[kept])),)
        return Exposure(weights=Shares.of(one), members=members)


@dataclass(frozen=True)
class Share:
    spec: Spec

    def init(self, seed: int) -> dict[str, Any]:
        return {"round": 0, "n": 0, "y": 0.0}

    def plan(self, state: Any) -> Plan | None:
        if state["round"] == self.spec.times:
            return None
        return Plan("share.sum", values(self.spec, round=state["round"]), "share of events")

    def update(self, state: Any, plan: Plan, total: Any) -> dict[str, Any]:
        n, y = int(total.number("n")), total.number("y")
        return {"round": state["round"] + 1, "n": n, "y": y}

    def model(self, state: Any) -> Found:
        return Found(self.spec, state["n"], state["y"], state["round"])

    def progress(self, state: Any) -> dict[str, float]:
        return {"loss": float(state["y"])}


@dataclass(frozen=True)
class Found:
    spec: Spec
    n: int
    y: float
    rounds: int
    converged: bool = True

    @property
    def patients(self) -> int:
        return self.n

    def predictor(self) -> Same:
        return Same(self.spec.design, self.spec.classes, self.y / self.n)

    def warnings(self) -> list[str]:
        return ["everybody is alike"]

    def blocks(self) -> list[dict[str, Any]]:
        share = self.y / self.n
        line = {"name": "all <i>", "estimate": share, "lower": share / 2, "upper": share * 2}
        times = [0.0, 1.0, 2.0]
        curve = {"name": "all", "x": times, "y": [1.0, 0.5, 0.4]}
        band = {"lower": [1.0, 0.4, 0.3], "upper": [1.0, 0.6, 0.5]}
        at_risk = [{"name": "all", "times": times, "counts": [100, 50, None]}]
        axes = {"x_label": "days", "y_label": "alive", "step": True, "percent": True}
        return [
            {"kind": "text", "text": "The share was found."},
            {"kind": "table", "title": "Shares", "head": ["of", "share"], "rows": [["all", share]]},
            {"kind": "forest", "title": "Forest", "lines": [line], "ratio": True},
            {"kind": "bars", "title": "Bars", "bars": [{"name": "share", "value": share}]},
            {"kind": "curves", "title": "Curves", "curves": [curve | band], **axes},
            {"kind": "curves", "title": "At risk", "curves": [curve], "at_risk": at_risk, **axes},
            {"kind": "svg", "title": "Own", "svg": "<svg role='img'></svg>"},
        ]

    def tables(self) -> dict[str, list[dict[str, Any]]]:
        return {"shares": [{"of": "all", "share": self.y / self.n}]}


@dataclass(frozen=True)
class Same:
    design: Design
    classes: int
    share: float

    @property
    def explains(self) -> str:
        return "binary" if self.classes else "number"

    def predict(self, partition: Any) -> Any:
        return np.full(partition.n_rows, self.share)

    def outcome(self, partition: Any) -> Any:
        return partition.columns[self.design.response]

    def weight(self, partition: Any) -> None:
        return None

    def to_data(self) -> dict[str, Any]:
        rest = {"classes": self.classes, "share": self.share}
        return {"kind": "share", "design": self.design.to_data(), **rest}

    @staticmethod
    def from_data(data: Any) -> Same:
        return Same(Design.from_data(data["design"]), data["classes"], data["share"])


def check_state(spec: Spec, plan: Plan) -> None:
    if set(plan.values["state"]) != {"round"}:
        raise ValueError("a state of another form")


def check_predictor(spec: Spec, data: Any) -> None:
    if not 0 <= data["share"] <= 1:
        raise ValueError("no share")


KIND = Kind(
    "share",
    "share of events",
    "any",
    spec,
    Spec.from_data,
    lambda spec: spec.times,
    {"share.sum": check_state},
    predictor=check_predictor,
)
TASK = ShareTask()


def install() -> None:
    register([TASK])
    register_kinds([KIND])
    register_predictor("share", Same.from_data)


class ShareClassifier(Classifier):
    _kind = "share"

    def __init__(self, *, times: int = 1, random_state: int = 0) -> None:
        self.times, self.random_state = times, random_state


class ShareRegressor(Regressor):
    _kind = "share"

    def __init__(self, *, times: int = 1, random_state: int = 0) -> None:
        self.times, self.random_state = times, random_state
