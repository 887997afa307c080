"""Ensembles over sites: every site trains a model on its own rows, and together they predict.

select-best       the model that predicts best at the other sites
voting            the mean of the models' predictions, or of their votes
weighted-average  weighted by patients, or by 1 / loss at the other sites
stacking          a regression over the models' predictions, fitted by sums: Wolpert, "Stacked
                  generalization", Neural Networks 5 (1992). It has the coefficients and standard
                  errors that pooling the predictions would give

A threshold on the risk is the one of the highest F1, of the highest Youden index, or of the lowest
cost, from summed histograms of the ensemble's risk.

What leaves a site: by name its fitted model, see `polyclinic.models.ensembles.train`, and how well
each model predicts there, see `polyclinic.evaluation.crossed`; in sums the derivatives of the
regression, see `polyclinic.evaluation.stacked`, and the histogram of `evaluation.scores`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.algorithm import Algorithm, Stages, State
from polyclinic.core.contribution import Total
from polyclinic.core.design import exponent
from polyclinic.core.errors import InputError
from polyclinic.core.plan import Plan
from polyclinic.models.ensembles.predictor import EnsemblePredictor
from polyclinic.models.ensembles.result import EnsembleResult, Models
from polyclinic.models.ensembles.spec import BETTER_HIGH, Spec
from polyclinic.models.ensembles.threshold import threshold
from polyclinic.models.ensembles.train import MODEL
from polyclinic.models.glm.algorithm import glm
from polyclinic.models.glm.inference import GLMFit
from polyclinic.models.learner import values

Floats = NDArray[np.float64]
Cells = dict[str, dict[str, dict[str, float]]]  # by model, by site: its measures
MEASURES = ("n", "auroc", "log_loss", "r2", "mse")
SMALLEST_LOSS = 1e-6


def ensemble(spec: Spec) -> Stages:
    """The algorithm that fits `spec`; its last result is an `EnsembleResult`."""

    def train(done: Sequence[Any]) -> Algorithm:
        return Train(spec)

    def judge(done: Sequence[Any]) -> Algorithm:
        return Judge(spec, done[0])

    def stack(done: Sequence[Any]) -> Algorithm:
        return Stack(spec, done[0])

    def cut(done: Sequence[Any]) -> Algorithm:
        return Cut(spec, together(spec, *done[:3]))

    def finish(done: Sequence[Any]) -> Algorithm:
        return Finish(spec, *done)

    return Stages((train, judge, stack, cut, finish))


class _Silent:
    """An algorithm without figures to show."""

    def progress(self, state: State) -> Mapping[str, float]:
        return {}


@dataclass(frozen=True)
class Train(_Silent):
    """One round: the models of all sites. Before it the sizes, where models consist of rows."""

    spec: Spec

    def init(self, seed: int) -> State:
        return {"room": 0 if self.spec.model.holds_rows else None, "sites": {}, "silent": None}

    def plan(self, state: State) -> Plan | None:
        if state["silent"] is not None:
            return None
        if state["room"] == 0:
            step = "rows of every site"
            return Plan("ensemble.sizes", values(self.spec), step, combine="collect")
        more = {} if state["room"] is None else {"room": state["room"]}
        step = "each hospital's own model"
        return Plan("ensemble.base", values(self.spec, **more), step, combine="collect")

    def update(self, state: State, plan: Plan, total: Total) -> State:
        if plan.task == "ensemble.sizes":
            return {**state, "room": max(int(t["n"]) for t in total.by_site.values())}
        found, silent = {}, []
        for site, answer in total.by_site.items():
            hidden = any(np.any(flags) for flags in answer.hidden.values())
            if hidden or not int(answer["fitted"]):
                silent.append(site)
            else:
                found[site] = dict(answer.values)
        if not found:
            raise no_model(self.spec)
        return {**state, "sites": found, "silent": silent}

    def model(self, state: State) -> Models:
        # By name, as plans and stored states have them: columns of predictions keep their places.
        found = dict(sorted(state["sites"].items()))
        arrays = {
            site: {name[len(MODEL) :]: v for name, v in one.items() if name.startswith(MODEL)}
            for site, one in found.items()
        }
        sizes = {site: (int(one["n"]), int(one["patients"])) for site, one in found.items()}
        return Models(arrays, sizes, tuple(sorted(state["silent"] or ())))


def no_model(spec: Spec) -> InputError:
    """The error where no site has a model that it lets out."""
    return InputError(
        "no hospital has given a model of its own",
        code="NO_MODELS",
        rule="a hospital gives its model where its policy lets answers of its own out, where it "
        "has enough patients of either class of the outcome and of every level, and ten per "
        "coefficient",
        next="use fewer columns, or merge levels; or fit one model over all hospitals, which "
        "needs sums only",
    )


@dataclass(frozen=True)
class Judge(_Silent):
    """One round per model: how well it predicts at every site. Its result is `Cells`."""

    spec: Spec
    models: Models

    def init(self, seed: int) -> State:
        return {"cells": {}}

    def plan(self, state: State) -> Plan | None:
        left = [site for site in self.models.arrays if site not in state["cells"]]
        if not self.spec.scored or not left:
            return None
        about = values(self.spec, model=dict(self.models.arrays[left[0]]))
        step = f"the model of {left[0] or 'all'} at every hospital"
        return Plan("ensemble.scores", about, step, combine="collect")

    def update(self, state: State, plan: Plan, total: Total) -> State:
        site = next(s for s in self.models.arrays if s not in state["cells"])
        found = {
            other: _measures(self.spec, answer)
            for other, answer in total.by_site.items()
            if not any(np.any(flags) for flags in answer.hidden.values())
        }
        return {"cells": {**state["cells"], site: found}}

    def model(self, state: State) -> Cells:
        found: Cells = {}
        for site, row in sorted(state["cells"].items()):
            found[site] = {
                other: {name: cell[name] for name in MEASURES if name in cell}
                for other, cell in sorted(row.items())
            }
        return found


def _measures(spec: Spec, answer: Total) -> dict[str, float]:
    """n, and what is defined of auroc and log_loss, or of r2 and mse."""
    n = int(answer["n"])
    found: dict[str, float] = {"n": n}
    if spec.classes:
        if int(answer["defined"][0]):
            found["auroc"] = float(answer["statistics"][0])
        return {**found, "log_loss": float(answer["means"][2])} if n else found
    if not n:
        return found
    y, yy, rr, *_ = (float(v) for v in answer["sums"])
    unit, spread = 2.0 ** (2 * exponent(spec.design.response_bound)), yy - y * y / n
    if spread > 0:
        found["r2"] = 1.0 - rr / spread
    return {**found, "mse": unit * rr / n}


def mean_elsewhere(cells: Cells, metric: str) -> dict[str, float | None]:
    """Of every model the mean of a measure over the other sites, weighted by their rows.

    At its own site a model has seen the patients; that counts only where there is no other site.
    """
    found: dict[str, float | None] = {}
    for site, row in cells.items():
        known = {other: cell for other, cell in row.items() if metric in cell}
        elsewhere = {other: cell for other, cell in known.items() if other != site} or known
        n = sum(cell["n"] for cell in elsewhere.values())
        total = sum(cell["n"] * cell[metric] for cell in elsewhere.values())
        found[site] = total / n if n else None
    return found


@dataclass(frozen=True)
class Stack:
    """The regression over the models' predictions. Its result is a `GLMFit`, or None."""

    spec: Spec
    models: Models

    @property
    def _inner(self) -> Stages:
        names = tuple(site or "all" for site in self.models.arrays)
        return glm(self.spec.stacked(len(self.models.arrays), names))

    @property
    def _used(self) -> bool:
        return self.spec.how == "stacking"

    def init(self, seed: int) -> State:
        return self._inner.init(seed) if self._used else {}

    def plan(self, state: State) -> Plan | None:
        return self._outer(self._inner.plan(state)) if self._used else None

    def _outer(self, plan: Plan | None) -> Plan | None:
        """The plan of the regression as one about the models."""
        if plan is None:
            return None
        kept = {n: plan.values[n] for n in ("theta", "order", "shift") if n in plan.values}
        models = {site: dict(arrays) for site, arrays in self.models.arrays.items()}
        about = values(self.spec, models=models, **kept)
        task = plan.task.replace("glm.", "ensemble.")
        return Plan(task, about, f"stacking: {plan.step}")

    def update(self, state: State, plan: Plan, total: Total) -> State:
        inner = self._inner.plan(state)
        if inner is None:
            raise ValueError("a round of stacking after its end")
        return self._inner.update(state, inner, total)

    def progress(self, state: State) -> Mapping[str, float]:
        return self._inner.progress(state) if self._used else {}

    def model(self, state: State) -> GLMFit | None:
        found: GLMFit | None = self._inner.model(state)[-1] if self._used else None
        return found


def together(spec: Spec, models: Models, cells: Cells, meta: GLMFit | None) -> EnsemblePredictor:
    """What predicts with the models."""
    sites, rule = list(models.arrays), "mean"
    if meta is not None:
        weights, rule = meta.coef[0], "stacked"
    elif spec.how == "select-best":
        best = best_of(cells, spec.settings["metric"])
        sites, weights = [best], np.ones(1)
    else:
        weights = np.array([_weight(spec, models, cells, site) for site in sites])
        if not weights.sum() > 0:
            raise no_scores(spec)
        weights = weights / weights.sum()
        rule = "votes" if spec.settings.get("voting") == "hard" else "mean"
    arrays = tuple(models.arrays[site] for site in sites)
    return EnsemblePredictor(spec.design, spec.base, arrays, weights, rule, spec.classes)


def _weight(spec: Spec, models: Models, cells: Cells, site: str) -> float:
    if spec.how == "voting":
        return 1.0
    if spec.settings["weights"] == "size":
        return float(models.sizes[site][0])
    loss = mean_elsewhere(cells, "log_loss" if spec.classes else "mse")[site]
    return 0.0 if loss is None else 1.0 / max(loss, SMALLEST_LOSS)


def best_of(cells: Cells, metric: str) -> str:
    """The site of the best model; of equal ones the first. Raises NO_SCORES."""
    if len(cells) == 1:
        return next(iter(cells))
    sign = 1.0 if metric in BETTER_HIGH else -1.0
    found = {s: sign * v for s, v in mean_elsewhere(cells, metric).items() if v is not None}
    if not found:
        raise no_scores(None)
    return max(found, key=lambda site: found[site])


def no_scores(spec: Spec | None) -> InputError:
    """The error where no hospital lets out how well a model predicts there."""
    return InputError(
        "no hospital has said how well a model predicts there",
        code="NO_SCORES",
        rule="models are compared by answers of each hospital alone, of enough patients of either "
        "outcome",
        next='use voting, or weights = "size", which need no scores',
    )


@dataclass(frozen=True)
class Cut(_Silent):
    """One round: the histogram of the ensemble's risk over all sites. Its result is a risk."""

    spec: Spec
    predictor: EnsemblePredictor

    def init(self, seed: int) -> State:
        return {"threshold": None}

    def plan(self, state: State) -> Plan | None:
        # In a cross-validation nothing is decided, so nothing is asked about those left out.
        skip = not self.spec.threshold or self.spec.rows or self.spec.model.holds_rows
        if skip or state["threshold"] is not None:
            return None
        about = {
            "predictors": [self.predictor.to_data()],
            "folds": 0,
            "outcome": "binary",
            "thresholds": [],
            "where": None,
            "classes": 2,
            "exponent": exponent(self.spec.design.response_bound),
            "least": self.spec.least,
        }
        return Plan("evaluation.scores", about, "risks for the threshold")

    def update(self, state: State, plan: Plan, total: Total) -> State:
        found = threshold(self.spec.threshold, total["histogram"], total["predicted"])
        return {"threshold": found}

    def model(self, state: State) -> float | None:
        found: float | None = state["threshold"]
        return found


@dataclass(frozen=True)
class Finish(_Silent):
    """No round: puts the result together."""

    spec: Spec
    models: Models
    cells: Cells
    meta: GLMFit | None
    threshold: float | None

    def init(self, seed: int) -> State:
        return {}

    def plan(self, state: State) -> Plan | None:
        return None

    def update(self, state: State, plan: Plan, total: Total) -> State:
        raise ValueError("a round after the end")

    def model(self, state: State) -> EnsembleResult:
        metric = self.spec.settings.get("metric", "log_loss" if self.spec.classes else "mse")
        return EnsembleResult(
            self.spec,
            self.models,
            self.cells,
            mean_elsewhere(self.cells, metric),
            metric,
            self.meta,
            self.threshold,
            together(self.spec, self.models, self.cells, self.meta),
        )
