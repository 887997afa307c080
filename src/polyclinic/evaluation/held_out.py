"""Evaluation of a survival model over all sites: concordance of patients it was not fitted on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from polyclinic.core.algorithm import State
from polyclinic.core.contribution import Total
from polyclinic.core.plan import Plan
from polyclinic.evaluation import metrics
from polyclinic.evaluation.pairs import TASKS
from polyclinic.models.learner import values
from polyclinic.models.survival import HELD_OUT, CoxSpec
from polyclinic.models.survival.concordance import Pairs, concordance_of


@dataclass(frozen=True)
class HeldOut:
    """One round per part: all patients, the same by the full model, each site by itself.

    Parameters
    ----------
    spec : of the regression, over all rows; None: of other models, `predictors` say all.
    predictors : predictor data; with `folds`, one per fold, fitted without it.
    folds : 0 when `predictors` is the one full model, on the same patients.
    full : the full model, for the same patients beside cross-validation.
    show_sites : ask every site for its own concordance.
    least : patients whose risks are taken together, where there is no spec.
    """

    spec: CoxSpec | None
    predictors: tuple[Mapping[str, Any], ...]
    folds: int
    full: Mapping[str, Any] | None = None
    show_sites: bool = True
    least: int = 5

    def init(self, seed: int) -> State:
        return {"done": {}}

    def plan(self, state: State) -> Plan | None:
        return next((plan for name, plan in self._parts() if name not in state["done"]), None)

    def update(self, state: State, plan: Plan, total: Total) -> State:
        name = next(name for name, _ in self._parts() if name not in state["done"])
        kept: Any = dict(total.values)
        if plan.combine == "collect":
            kept = {site: _answer(found) for site, found in total.by_site.items()}
        return {"done": {**state["done"], name: kept}}

    def progress(self, state: State) -> Mapping[str, float]:
        return {}

    def model(self, state: State) -> dict[str, Any]:
        done = state["done"]
        answers = done.get("sites", {})
        found = {
            "how": "cross-validation" if self.folds else "same patients",
            "folds": self.folds,
            "all": _of_pairs(done["all"]),
            "sites": {site: _own(one) for site, one in answers.items() if one},
            "subgroups": {},
            "alone": {},
            "not_shown": [site for site, one in answers.items() if not one],
            "merged": {},
        }
        return found | ({"apparent": _of_pairs(done["apparent"])} if "apparent" in done else {})

    def _parts(self) -> list[tuple[str, Plan]]:
        how = f"{self.folds}-fold validation" if self.folds else "same patients"
        total, own = TASKS if self.spec is None else HELD_OUT
        parts = [("all", self._plan(total, f"concordance, {how}", self.predictors, self.folds))]
        if self.full is not None:
            step = "concordance, same patients"
            parts.append(("apparent", self._plan(total, step, (self.full,), 0)))
        if self.show_sites:
            plan = self._plan(own, "each hospital's own concordance", self.predictors, self.folds)
            parts.append(("sites", replace(plan, combine="collect")))
        return parts

    def _plan(
        self, task: str, step: str, predictors: tuple[Mapping[str, Any], ...], folds: int
    ) -> Plan:
        if self.spec is None:
            asked = {"folds": folds, "outcome": "survival", "where": None, "least": self.least}
            return Plan(task, {"predictors": [dict(one) for one in predictors], **asked}, step)
        exponents = np.array(self.spec.design.exponents, dtype=np.int64)
        theta = np.array([np.ldexp(one["coef"], exponents) for one in predictors])
        theta = theta.reshape(len(predictors), self.spec.size)
        return Plan(task, values(self.spec, theta=theta, folds=folds), step)


def _answer(found: Total) -> dict[str, Any]:
    """What a site answered by name; nothing where it hid it."""
    hidden = any(np.any(flags) for flags in found.hidden.values())
    return {} if hidden else dict(found.values)


def _of_pairs(sums: Mapping[str, Any]) -> dict[str, Any]:
    found = concordance_of(Pairs.of(sums))
    defined = found["pairs"] > 0
    return _measures(sums, found["c"] if defined else None, found["se"]) | {
        "pairs": int(found["pairs"])
    }


def _own(found: Mapping[str, Any]) -> dict[str, Any]:
    value, error = (float(v) for v in found["concordance"])
    return _measures(found, value if int(found["defined"]) else None, error)


def _measures(counts: Mapping[str, Any], value: float | None, error: float) -> dict[str, Any]:
    return {
        "n": int(counts["n"]),
        "events": int(counts["events"]),
        "concordance": metrics.interval(value, None if value is None else error, 0.0, 1.0),
    }
