"""A treatment effect as one algorithm: models of treatment and outcome, diagnostics, effects."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from polyclinic.core.algorithm import Algorithm, State
from polyclinic.core.contribution import Total
from polyclinic.core.plan import Plan
from polyclinic.models.effects import estimate
from polyclinic.models.effects.result import Effect
from polyclinic.models.effects.spec import Spec
from polyclinic.models.glm.algorithm import glm
from polyclinic.models.glm.spec import Spec as GLMSpec
from polyclinic.models.learner import values

Done = Mapping[str, Any]


@dataclass(frozen=True)
class Ask:
    """One round; its result is the sums, and how many sites hid each entry."""

    question: Plan

    def init(self, seed: int) -> State:
        return {"sums": None}

    def plan(self, state: State) -> Plan | None:
        return self.question if state["sums"] is None else None

    def update(self, state: State, plan: Plan, total: Total) -> State:
        return {"sums": {**total.values, "hidden": dict(total.hidden)}}

    def model(self, state: State) -> Any:
        return state["sums"]

    def progress(self, state: State) -> Mapping[str, float]:
        return {}


@dataclass(frozen=True)
class Step:
    """An algorithm made from what was found before, and what is kept of its result."""

    name: str
    make: Callable[[Done], Algorithm]
    keep: Callable[[Any], Any] = lambda result: result


@dataclass(frozen=True)
class Effects:
    """The algorithm of a `Spec`; its model is the `Effect`.

    As `Stages`, but each step's result is kept as data: a run has dozens of steps, and making all
    of them anew in every round would take longer than the rounds.
    """

    spec: Spec

    def init(self, seed: int) -> State:
        return self._enter({"seed": seed, "done": {}, "rounds": 0})

    def plan(self, state: State) -> Plan | None:
        step = self._step(state)
        return step.make(state["done"]).plan(state["inner"]) if step else None

    def update(self, state: State, plan: Plan, total: Total) -> State:
        step = self._step(state)
        if step is None:
            raise ValueError("this run is finished")
        inner = step.make(state["done"]).update(state["inner"], plan, total)
        return self._advance({**state, "inner": inner, "rounds": state["rounds"] + 1})

    def model(self, state: State) -> Effect:
        return Effect(self.spec, state["done"], state["rounds"], self._step(state) is None)

    def progress(self, state: State) -> Mapping[str, float]:
        step = self._step(state)
        return step.make(state["done"]).progress(state["inner"]) if step else {}

    def _enter(self, state: State) -> State:
        step = self._step(state)
        if step is None:
            return {**state, "inner": {}}
        state = {**state, "inner": step.make(state["done"]).init(state["seed"])}
        return self._advance(state)

    def _advance(self, state: State) -> State:
        step = self._step(state)
        if step is None:
            return state
        made = step.make(state["done"])
        if made.plan(state["inner"]) is not None:
            return state
        done = {**state["done"], step.name: step.keep(made.model(state["inner"]))}
        return self._enter({**state, "done": done})

    def _step(self, state: State) -> Step | None:
        return next((step for step in steps(self.spec) if step.name not in state["done"]), None)


def steps(spec: Spec) -> tuple[Step, ...]:
    """All steps of a run, in order; their names are the keys of what is kept."""
    found = [_fit("propensity", spec.propensity())]
    if spec.method != "ipw" and not spec.cross_fit:
        found.append(_fit("outcome", spec.outcome()))
    found.append(Step("overlap", partial(_overlap, spec)))
    if spec.cross_fit or spec.modifiers:
        for k in range(spec.folds):
            rows = {"folds": spec.folds, "without": k}
            found.append(_fit(f"propensity {k}", spec.propensity(rows)))
            found.append(_fit(f"outcome {k}", spec.outcome(rows)))
    for method in spec.methods:
        found.append(Step(f"{method} means", partial(_means, spec, method)))
        found.append(Step(f"{method} errors", partial(_errors, spec, method)))
    if spec.modifiers:
        found.append(Step("modify", partial(_modify, spec)))
        found.append(Step("modify errors", partial(_modify_errors, spec)))
    return tuple(found)


def question(spec: Spec, task: str, state: Mapping[str, Any], step: str) -> Plan:
    """A plan of this family."""
    return Plan(task, values(spec, **state), step)


def _fit(name: str, spec: GLMSpec) -> Step:
    return Step(name, lambda done: glm(spec), lambda results: estimate.kept(results[-1]))


def models(spec: Spec, done: Done, method: str, folds: bool) -> dict[str, Any]:
    """The models of a round as its state."""
    names = [f" {k}" for k in range(spec.folds)] if folds else [""]
    state = {"propensity": estimate.propensity(spec, _all(done, "propensity", names))}
    if method != "ipw":
        state["outcome"] = estimate.outcome(spec, _all(done, "outcome", names))
    return state


def _all(done: Done, name: str, parts: Sequence[str]) -> list[Mapping[str, Any]]:
    return [done[f"{name}{part}"] for part in parts]


def _overlap(spec: Spec, done: Done) -> Algorithm:
    state = models(spec, done, "ipw", False)
    return Ask(question(spec, "effects.overlap", state, "overlap of the arms"))


def _means(spec: Spec, method: str, done: Done) -> Algorithm:
    state = {"method": method, **models(spec, done, method, spec.cross_fit)}
    return Ask(question(spec, "effects.means", state, f"effect by {method}"))


def _errors(spec: Spec, method: str, done: Done) -> Algorithm:
    """Cross-fitted models have no part in the errors: their folds are not those of the means."""
    state = {"method": method, **models(spec, done, method, spec.cross_fit)}
    sums, none = done[f"{method} means"], np.zeros((0, len(spec.covariates) + 1))
    if spec.cross_fit:
        state |= {"mean": estimate.mean_of(sums), "by_propensity": none, "by_outcome": none}
    else:
        explained = done["outcome"] if method != "ipw" else None
        state |= estimate.levers(spec, sums, done["propensity"], explained)
    return Ask(question(spec, "effects.influence", state, f"errors of {method}"))


def _modify(spec: Spec, done: Done) -> Algorithm:
    state = models(spec, done, "aipw", True)
    state["effect"] = np.zeros((1, len(spec.modifying) + 1))
    return Ask(question(spec, "effects.modify", state, "effect modifiers"))


def _modify_errors(spec: Spec, done: Done) -> Algorithm:
    state = models(spec, done, "aipw", True)
    state["effect"] = estimate.solve(spec, done["modify"])[None]
    return Ask(question(spec, "effects.modify_scores", state, "errors of effect modifiers"))


def by_hospital(spec: Spec, done: Done) -> tuple[Plan, Plan]:
    """What each hospital is asked by name: its own means under the common models, and squares."""
    state = {"method": spec.method, **models(spec, done, spec.method, spec.cross_fit)}
    asked = [
        question(spec, task, state, f"effect by {spec.method}, each hospital")
        for task in ("effects.means", "effects.squares")
    ]
    return replace(asked[0], combine="collect"), replace(asked[1], combine="collect")
