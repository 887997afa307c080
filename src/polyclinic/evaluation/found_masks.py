"""Evaluation of a network of masks over all sites."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from polyclinic.core.algorithm import State
from polyclinic.core.contribution import Total
from polyclinic.core.plan import Plan
from polyclinic.evaluation.masks import NAME, measures


@dataclass(frozen=True)
class FoundMasks:
    """One round per part: all patients, the same by the full model, each site by itself.

    Parameters
    ----------
    predictors : predictor data; with `folds`, one per fold, fitted without it.
    folds : 0 when `predictors` is the one full model, on the same patients.
    full : the full model, for the same patients beside cross-validation.
    show_sites : ask every site for its own.
    """

    predictors: tuple[Mapping[str, Any], ...]
    folds: int
    full: Mapping[str, Any] | None = None
    show_sites: bool = True

    def init(self, seed: int) -> State:
        return {"done": {}}

    def plan(self, state: State) -> Plan | None:
        return next((plan for name, plan in self._parts() if name not in state["done"]), None)

    def update(self, state: State, plan: Plan, total: Total) -> State:
        name = next(name for name, _ in self._parts() if name not in state["done"])
        kept: Any = dict(total.values)
        if plan.combine == "collect":
            kept = {
                site: {} if any(flags.any() for flags in one.hidden.values()) else dict(one.values)
                for site, one in total.by_site.items()
            }
        return {"done": {**state["done"], name: kept}}

    def progress(self, state: State) -> Mapping[str, float]:
        return {}

    def model(self, state: State) -> dict[str, Any]:
        done = state["done"]
        answers = done.get("sites", {})
        found = {
            "how": "cross-validation" if self.folds else "same patients",
            "folds": self.folds,
            "all": measures(done["all"]),
            "sites": {site: measures(one) for site, one in answers.items() if one},
            "subgroups": {},
            "alone": {},
            "not_shown": [site for site, one in answers.items() if not one],
            "merged": {},
        }
        return found | ({"apparent": measures(done["apparent"])} if "apparent" in done else {})

    def _parts(self) -> list[tuple[str, Plan]]:
        how = f"{self.folds}-fold validation" if self.folds else "same patients"
        parts = [("all", self._plan(f"masks, {how}", self.predictors, self.folds))]
        if self.full is not None:
            parts.append(("apparent", self._plan("masks, same patients", (self.full,), 0)))
        if self.show_sites:
            step = "each hospital's own masks"
            parts.append(("sites", self._plan(step, self.predictors, self.folds, "collect")))
        return parts

    def _plan(
        self,
        step: str,
        predictors: tuple[Mapping[str, Any], ...],
        folds: int,
        combine: Any = "sum",
    ) -> Plan:
        values = {"predictors": [dict(one) for one in predictors], "folds": folds, "where": None}
        return Plan(NAME, values, step, combine=combine)
