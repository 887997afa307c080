"""What evaluations share that ask one question about all patients, and then each site by itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from polyclinic.core.algorithm import State
from polyclinic.core.contribution import Total
from polyclinic.core.plan import Plan


@dataclass(frozen=True)
class Parts:
    """One round per part: all patients, the same by the full model, each site by itself.

    Parameters
    ----------
    predictors : predictor data; with `folds`, one per fold, fitted without it.
    folds : 0 when `predictors` is the one full model, on the same patients.
    full : the full model, for the same patients beside cross-validation.
    show_sites : ask every site for its own.
    """

    what: ClassVar[str]  # is judged, as the steps are called

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
            "all": self._measures(done["all"]),
            "sites": {site: self._own(one) for site, one in answers.items() if one},
            "subgroups": {},
            "alone": {},
            "not_shown": [site for site, one in answers.items() if not one],
            "merged": {},
        }
        return found | (
            {"apparent": self._measures(done["apparent"])} if "apparent" in done else {}
        )

    def _parts(self) -> list[tuple[str, Plan]]:
        how, what = f"{self.folds}-fold validation" if self.folds else "same patients", self.what
        parts = [("all", self._plan(f"{what}, {how}", self.predictors, self.folds))]
        if self.full is not None:
            parts.append(("apparent", self._plan(f"{what}, same patients", (self.full,), 0)))
        if self.show_sites:
            step = f"each hospital's own {what}"
            parts.append(("sites", self._plan(step, self.predictors, self.folds, alone=True)))
        return parts

    def _plan(
        self,
        step: str,
        predictors: tuple[Mapping[str, Any], ...],
        folds: int,
        alone: bool = False,
    ) -> Plan:
        """One part; `alone`: of each site by itself."""
        raise NotImplementedError

    def _measures(self, sums: Mapping[str, Any]) -> dict[str, Any]:
        """Of the sums over all sites."""
        raise NotImplementedError

    def _own(self, found: Mapping[str, Any]) -> dict[str, Any]:
        """Of the answer of one site."""
        return self._measures(found)


def _answer(found: Any) -> dict[str, Any]:
    """What a site answered by name; nothing where it hid it."""
    hidden = any(np.any(flags) for flags in found.hidden.values())
    return {} if hidden else dict(found.values)
