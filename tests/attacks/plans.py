"""Plans of the tasks of several families, for any model matrix."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from polyclinic.core.design import Design
from polyclinic.core.plan import Plan
from polyclinic.models import learner
from polyclinic.models.neural.inputs import Scaling
from polyclinic.models.neural.predictor import NeuralPredictor
from polyclinic.models.neural.spec import NeuralSpec
from polyclinic.models.simple import GaussianNBSpec, KMeansSpec, PCASpec, ScalerSpec
from polyclinic.models.simple.rows import values
from polyclinic.models.survival import CoxSpec, CurveSpec
from polyclinic.models.svm import SVMSpec
from polyclinic.models.trees import Feature
from polyclinic.models.trees import Spec as Trees
from polyclinic.models.trees.stack import Stack

GROUP = 2  # patients who stay together: fewer than any hospital's minimum


def by_sums(task: str, made: Design, apart: float | None = None) -> Plan:
    """Of the rows of a design.

    apart  where the first term is cut in two parts; None: all rows are one
    """
    size = len(made.terms)
    if task == "naive_bayes.moments":
        return Plan(task, values(GaussianNBSpec(made, 2).to_data(), **_scaled(made, 3)), task)
    made = replace(made, response="")
    if task.startswith(("pca", "scaler")):
        spec: Any = PCASpec(made) if task.startswith("pca") else ScalerSpec(made)
    else:
        spec = KMeansSpec(made, 1 if apart is None else 2, group=GROUP if "grouped" in task else 1)
    if task.endswith("moments"):
        state = _scaled(made, 1)
    elif task.endswith("products"):
        state = {name: array[0] for name, array in _scaled(made, 1).items()}
    else:
        state = {"centre": np.zeros(size), "scale": np.ones(size)} | _parts(task, size, apart)
    return Plan(task, values(spec.to_data(), **state), task)


def _scaled(made: Design, groups: int) -> dict[str, Any]:
    shape = (groups, len(made.terms))
    return {"centre": np.zeros(shape), "exponent": np.broadcast_to(made.exponents, shape).copy()}


def _parts(task: str, size: int, apart: float | None) -> dict[str, Any]:
    cut = [] if apart is None else [apart]
    if task.endswith("clusters"):
        centres = np.zeros((1 + len(cut), size))
        centres[1:, 0] = 2.0 * np.array(cut)
        return {"centres": centres, "round": -1}
    node, axis = np.ones(len(cut), np.int64), np.zeros(len(cut), np.int64)
    split = {"node": node, "axis": axis, "at": np.array(cut)}
    return {"axes": np.eye(size), "split": split, "ask": np.arange(1, 2 + 2 * len(cut))}


def tables(kind: str, **asked: Any) -> Plan:
    """One table beside an outcome."""
    part = {"task": f"descriptive.{kind}", "version": 1, "values": asked}
    spec = {"design": Design((), "age").to_data()}
    return Plan(
        "screening.tables",
        {"spec": spec, "rows": {}, "state": {"parts": {kind: part}, "cuts": np.zeros(0)}},
        kind,
    )


def machine(task: str, made: Design) -> Plan:
    """Of a support vector machine at coefficients of zero."""
    spec, one = SVMSpec(made, "squared_hinge"), np.zeros((1, 1 + len(made.terms)))
    state: dict[str, Any] = {}
    if task != "svm.moments":
        state = {"machine": np.zeros(1, np.int64), "shift": np.zeros(len(made.terms))}
    if task == "svm.machines":
        state |= {"theta": one, "past": one, "order": 2, "class_weight": np.zeros(0)}
        state |= {"sharpness": np.zeros(1), "past_sharpness": np.zeros(1)}
        state["machine"] = np.ones(1, np.int64)
    if task == "svm.platt":
        state |= {"coef": one, "theta": np.zeros((1, 2)), "target": np.array([[0.1, 0.9]])}
    return Plan(task, learner.values(spec, **state), task)


EDGES = (256.0, 512.0)


def survival(task: str, made: Design) -> Plan:
    """Of a survival model; on a grid where times leave."""
    if task == "survival.steps":
        spec: Any = CurveSpec("kaplan-meier", replace(made, terms=()), edges=EDGES)
        return Plan(task, learner.values(spec), task)
    if task == "survival.log_rank":
        by = made.terms[0].factors[0].column
        spec = CurveSpec("log-rank", made, by=by, groups=("no", "yes"))
        return Plan(task, learner.values(spec), task)
    on_grid = task == "survival.risk_sets"
    grid: dict[str, Any] = {"by_site": False, "edges": EDGES} if on_grid else {}
    spec = CoxSpec(made, least=10, **grid)  # groups of risks, as large as the largest minimum here
    state: dict[str, Any] = {} if task == "survival.counts" else {"theta": _theta(made)}
    state |= {"order": 2} if task in ("survival.derivatives", "survival.risk_sets") else {}
    state |= {"by": "row"} if task == "survival.scores" else {}
    state |= {"folds": 0} if "held_out" in task else {}
    combine: Any = "collect" if task.endswith("_own") else "sum"
    return Plan(task, learner.values(spec, **state), task, combine=combine)


def network(task: str, made: Design) -> Plan:
    """Of a linear network that explains a number, in its first round."""
    width = len(made.terms)
    spec = NeuralSpec(replace(made, intercept=False), "linear", loss="squared", classes=0)
    state: dict[str, Any] = {}
    if task == "neural.train":
        state = {"round": 0, "after": "", "lr": 1e-6, "class_weight": np.zeros(0)}
        state |= {"weights": np.zeros(width + 1, np.float32), "beside": np.zeros(0, np.float32)}
        state["scaling"] = {"centre": np.zeros(width), "spread": np.ones(width)}
    return Plan(task, learner.values(spec, **state), task)


def ranking(task: str, made: Design) -> Plan:
    """Of a linear network of durations, under which all patients have the same risk."""
    width = len(made.terms)
    options = {"loss_options": {"cause": 1}, "classes": 0}
    spec = NeuralSpec(replace(made, intercept=False), "linear", loss="cox", **options)
    scaling = Scaling(np.zeros(width), np.ones(width))
    network = NeuralPredictor(spec, scaling, np.zeros(width + 1, "f"), np.zeros(0, "f"))
    values = {"predictors": [network.to_data()], "folds": 0, "outcome": "survival"}
    combine: Any = "collect" if task.endswith("own") else "sum"
    return Plan(task, {**values, "where": None, "least": 10}, task, combine=combine)


def _theta(made: Design) -> Any:
    return np.zeros((1, len(made.terms)))


def tree(task: str, made: Design) -> Plan:
    """Of a tree without a split, in cells of two patients; of its loss all rows are held out."""
    feature = Feature(made.terms[0].factors[0].column, (64.0,))
    held = 1.0 if task in ("trees.loss", "trees.held") else 0.0
    cell, loss = (10, "cox") if made.event else (GROUP, "squared")  # as the groups of survival
    spec = Trees(made, (feature,), loss=loss, classes=0, cell=cell, validation=held)
    state: dict[str, Any] = {}
    if task not in ("trees.start", "trees.events"):
        none, one = np.zeros(1, np.int64), np.ones(1, np.int64)
        root = Stack(np.array([0, 1]), none, -one, none, none, -one, np.zeros((1, 1)))
        asked = np.zeros((int(task == "trees.cells"), 2), np.int64)
        state = {"base": np.zeros(1), "class_weight": np.zeros(0), "asked": asked}
        state |= {"trees": Stack.none(1).to_data(), "grow": root.to_data()}
    return Plan(task, learner.values(spec, **state), task)
