"""Grown trees as XGBoost's JSON: XGBoost predicts the same, and explains by Shapley values.

The margin without a tree is added to the leaves of the first trees, so the base score is none. A
leaf with several numbers becomes as many trees. Levels of a category are its codes, 0 and up.

Reference: the JSON model format of XGBoost 3 (doc/model.schema).
"""

from __future__ import annotations

import json
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.errors import PolyclinicError
from polyclinic.models.trees.result import Fit
from polyclinic.models.trees.spec import Spec
from polyclinic.models.trees.stack import Stack

Floats = NDArray[np.float64]
ROOT = 2147483647  # what XGBoost writes for no parent
OBJECTIVES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "squared": ("reg:squarederror", "0E0", {"reg_loss_param": {"scale_pos_weight": "1"}}),
    "logistic": ("binary:logistic", "5E-1", {"reg_loss_param": {"scale_pos_weight": "1"}}),
    "focal": ("binary:logistic", "5E-1", {"reg_loss_param": {"scale_pos_weight": "1"}}),
    "cox": ("survival:cox", "1E0", {}),
    "poisson": ("count:poisson", "1E0", {"poisson_regression_param": {"max_delta_step": "0.7"}}),
}


def xgboost_json(fit: Fit) -> dict[str, Any]:
    """The model as XGBoost reads it."""
    spec = fit.spec
    trees = _scalar_trees(fit)
    each = spec.lanes
    objective = OBJECTIVES.get(
        spec.loss,
        ("multi:softprob", "0E0", {"softmax_multiclass_param": {"num_class": str(each)}}),
    )
    several = str(each) if spec.loss == "softmax" else "0"
    model = {
        "gbtree_model_param": {"num_parallel_tree": "1", "num_trees": str(len(trees))},
        "iteration_indptr": list(range(0, len(trees) + 1, each)),
        "tree_info": [at % each for at in range(len(trees))],
        "trees": [tree | {"id": at} for at, tree in enumerate(trees)],
    }
    return {
        "learner": {
            "attributes": {},
            "feature_names": [f.name for f in spec.features],
            "feature_types": ["c" if f.levels else "float" for f in spec.features],
            "gradient_booster": {"model": model, "name": "gbtree"},
            "learner_model_param": {
                "base_score": objective[1],
                "boost_from_average": "1",
                "num_class": several,
                "num_feature": str(len(spec.features)),
                "num_target": "1" if spec.loss == "softmax" else str(each),
            },
            "objective": {"name": objective[0], **objective[2]},
        },
        "version": [2, 1, 0],
    }


def xgboost_columns(X: Floats, spec: Spec) -> Floats:
    """Rows as XGBoost is to be given them: a level that the codebook does not know is missing."""
    out = np.array(X, dtype=np.float64)
    for j, feature in enumerate(spec.features):
        if feature.levels:
            x = out[:, j]
            known = np.isin(x, np.arange(feature.levels))
            out[:, j] = np.where(known, x, np.nan)
    return out


def _scalar_trees(fit: Fit) -> list[dict[str, Any]]:
    spec, found = fit.spec, []
    stack, cover, gain = fit.trees, fit.cover, fit.gain
    if not stack.trees:
        one = np.zeros(1, dtype=np.int64)
        leaf = Stack(np.array([0, 1]), one, one, one, one, one - 1, np.zeros((1, spec.width)))
        trees, parts = [leaf] * spec.at_once, [(np.zeros(1), np.ones(1))] * spec.at_once
    else:
        trees = [stack.tree(at) for at in range(stack.trees)]
        parts = list(
            zip(np.split(gain, stack.start[1:-1]), np.split(cover, stack.start[1:-1]), strict=True)
        )
    for at, (tree, part) in enumerate(zip(trees, parts, strict=True)):
        for k in range(spec.width):
            lane = k if spec.width > 1 else at % spec.lanes
            start = float(fit.base[lane]) if at < spec.at_once else 0.0
            found.append(_tree(tree, tree.value[:, k] + start, *part, spec))
    return found


def _tree(tree: Stack, value: Floats, gain: Floats, cover: Floats, spec: Spec) -> dict[str, Any]:
    nodes = len(tree.left)
    leaf = tree.left < 0
    parents = np.full(nodes, ROOT)
    split = np.flatnonzero(~leaf)
    for child in (tree.left[split], tree.left[split] + 1):
        parents[child] = split
    kinds = np.array([f.levels > 0 for f in spec.features])
    category = ~leaf & kinds[tree.feature]
    sets = {int(n): np.flatnonzero(_bits(int(tree.set[n]))) for n in np.flatnonzero(category)}
    sizes = [len(levels) for levels in sets.values()]
    condition = np.where(leaf, value, 0.0)
    for node in np.flatnonzero(~leaf & ~category):
        condition[node] = _threshold(tree, int(node), spec)
    return {
        "base_weights": value.tolist(),
        "categories": [int(v) for levels in sets.values() for v in levels],
        "categories_nodes": list(sets),
        "categories_segments": np.cumsum([0, *sizes])[:-1].tolist(),
        "categories_sizes": sizes,
        "default_left": np.where(leaf, 0, tree.missing_left).tolist(),
        "left_children": tree.left.tolist(),
        "loss_changes": gain.tolist(),
        "parents": parents.tolist(),
        "right_children": np.where(leaf, -1, tree.left + 1).tolist(),
        "split_conditions": condition.tolist(),
        "split_indices": np.where(leaf, 0, tree.feature).tolist(),
        "split_type": category.astype(int).tolist(),
        "sum_hessian": cover.tolist(),
        "tree_param": {
            "num_deleted": "0",
            "num_feature": str(len(spec.features)),
            "num_nodes": str(nodes),
            "size_leaf_vector": "1",
        },
    }


def _bits(number: int) -> list[int]:
    return [number >> k & 1 for k in range(number.bit_length())]


def _threshold(tree: Stack, node: int, spec: Spec) -> float:
    """What is less than this goes left. Where all known values do, or none, that is all numbers."""
    edges, place = spec.features[int(tree.feature[node])].edges, int(tree.split[node])
    most = float(np.finfo(np.float32).max)
    if place < 0:
        return -most
    return edges[place] if place < len(edges) else most


def booster_of(fit: Fit) -> Any:
    """An `xgboost.Booster`. Raises MISSING_EXTRA without XGBoost."""
    booster = library().Booster()
    booster.load_model(bytearray(json.dumps(xgboost_json(fit)).encode()))
    return booster


def explained(fit: Fit, X: Floats) -> Floats:
    """Shapley values of rows as `xgboost_columns` gives them. Raises MISSING_EXTRA."""
    rows = library().DMatrix(
        X,
        feature_names=[f.name for f in fit.spec.features],
        feature_types=["c" if f.levels else "float" for f in fit.spec.features],
        enable_categorical=True,
    )
    return np.asarray(booster_of(fit).predict(rows, pred_contribs=True), dtype=np.float64)


def library() -> Any:
    """XGBoost. Raises MISSING_EXTRA."""
    try:
        return import_module("xgboost")
    except ImportError:
        raise PolyclinicError(
            "this needs the package xgboost",
            code="MISSING_EXTRA",
            rule="Shapley values and boosters are XGBoost's own",
            next='pip install "polyclinic[trees]"; save_xgboost needs nothing',
        ) from None
