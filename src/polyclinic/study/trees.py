"""Estimators of histogram trees: a tree, a forest, gradient boosting."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_array, check_is_fitted

from polyclinic.core.design import Design
from polyclinic.core.errors import InputError
from polyclinic.core.partition import CHUNK_ROWS
from polyclinic.data.frames import native
from polyclinic.models.trees import Fit
from polyclinic.models.trees.bins import quantile_edges, sampled
from polyclinic.models.trees.export import booster_of, explained, xgboost_columns, xgboost_json
from polyclinic.models.trees.kinds import DOMAIN_BINS
from polyclinic.models.trees.words import to_svg, to_text
from polyclinic.study.arrays import reduced
from polyclinic.study.learner import Classifier, Learner, Regressor

Floats = NDArray[np.float64]
NEAR, AT_ONCE = 64, 4096  # columns, and rows of a sample, that are taken together


class Trees(Learner):
    """What all trees share."""

    result_: Fit
    max_bins: int | None
    edges: Mapping[str, Sequence[float]] | None
    _of_arrays: dict[str, Any] | None = None
    _most_weight = 1.0

    def _options(self) -> dict[str, Any]:
        given = {**super()._options(), **(self._of_arrays or {})}
        weight = given.get("class_weight")
        if isinstance(weight, Mapping):
            given["class_weight"] = [
                float(weight.get(k, 1.0)) for k in native_list(self.classes_or_none_)
            ]
        return given

    def _fit_data(self, *args: Any, **more: Any) -> Any:
        self._of_arrays = None
        return super()._fit_data(*args, **more)

    def _fit_arrays(self, X: Any, y: Any, sample_weight: Any, *args: Any, **more: Any) -> Any:
        """Arrays have no codebook: their bins hold as many rows each."""
        self._of_arrays = {"edges": None, "bins": "ranges", "gaps": ()}
        x = _numbers(native(X))
        if x.ndim == 2 and x.dtype.kind in "fiub" and len(x):
            self._of_arrays = self._bins(x, _names(X, x.shape[1]), sample_weight)
        return super()._fit_arrays(X, y, sample_weight, *args, **more)

    def _array_design(self, design: Design) -> Design:
        return replace(design, weight_bound=self._most_weight) if design.weight else design

    def _bins(self, x: NDArray[Any], names: list[str], sample_weight: Any) -> dict[str, Any]:
        """Edges by name, of rows that have a weight, and the columns with gaps."""
        given, bins = self.edges or {}, self.max_bins or DOMAIN_BINS
        weight = np.ones(1) if sample_weight is None else np.asarray(sample_weight, np.float64)
        if not np.any(weight > 0):
            raise InputError(
                "all sample weights are zero",
                code="WRONG_VALUE",
                rule="a row counts by its weight",
                next="give some row a weight above 0",
            )
        self._most_weight = float(weight.max())
        rows = x
        if weight.shape == (len(x),) and np.any(weight == 0):
            rows = x[weight > 0]
        few = np.arange(len(rows))[sampled(len(rows), bins)]
        edges = dict(given)
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            gone = pool.map(lambda at: _gone(x[at : at + CHUNK_ROWS]), range(0, len(x), CHUNK_ROWS))
            for start in range(0, len(names), NEAR):
                near = rows[:, start : start + NEAR]
                some = np.empty((near.shape[1], len(few)), dtype=np.float32)
                list(pool.map(partial(_gather, near, few, some), range(0, len(few), AT_ONCE)))
                found = {
                    name: pool.submit(
                        quantile_edges, c if np.isfinite(c).all() else near[:, j], bins
                    )
                    for j, (name, c) in enumerate(zip(names[start:], some, strict=False))
                    if name not in given
                }
                edges |= {name: one.result() for name, one in found.items()}
            missing = np.array(names)[np.any(list(gone), axis=0)]
        return {"edges": edges, "bins": "ranges", "gaps": tuple(missing.tolist())}

    def _set(self) -> None:
        gain = self.result_.importances()["gain"]
        total = float(gain.sum())
        self.feature_importances_ = gain / total if total > 0 else gain

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_of_arrays": None}

    def to_text(self, tree: int = 0) -> str:
        """One tree in words."""
        check_is_fitted(self)
        return to_text(self.result_, self._number(tree))

    def to_svg(self, tree: int = 0) -> str:
        """One tree as a drawing."""
        check_is_fitted(self)
        return to_svg(self.result_, self._number(tree))

    def _number(self, tree: int) -> int:
        if 0 <= tree < self.result_.trees.trees:
            return tree
        raise InputError(
            f"there is no tree {tree}",
            code="WRONG_VALUE",
            rule=f"trees are numbered from 0 to {self.result_.trees.trees - 1}",
            next="give another number",
        )

    def to_xgboost(self) -> Any:
        """The same trees as an `xgboost.Booster`."""
        check_is_fitted(self)
        return booster_of(self.result_)

    def save_xgboost(self, path: str | Path) -> None:
        """Write the trees in XGBoost's JSON format."""
        check_is_fitted(self)
        Path(path).write_text(json.dumps(xgboost_json(self.result_)), encoding="utf-8")

    def matrix(self, X: Any) -> Floats:
        """Rows as the exported trees read them: codes for levels, NaN for what is missing."""
        columns, spec = self.partition(X).columns, self.result_.spec
        if "X" in columns:
            return xgboost_columns(columns["X"], spec)
        return xgboost_columns(np.column_stack([columns[f.name] for f in spec.features]), spec)

    def explain(self, X: Any) -> Floats:
        """Shapley values by XGBoost: how each column moves each prediction before the link.

        Returns
        -------
        (n_rows, n_features + 1), the last column what everybody starts with; with several outcomes
        (n_rows, n_outcomes, n_features + 1).
        """
        return explained(self.result_, self.matrix(X))


def _numbers(X: Any) -> NDArray[Any]:
    """The array of a frame; where its columns are of several kinds numpy alone finds objects."""
    x = np.asarray(X)
    if x.dtype.kind == "O":
        with suppress(TypeError, ValueError):  # the fit says what is wrong
            x = check_array(X, dtype=np.float64, ensure_all_finite=False)
    return x


def _gather(x: NDArray[Any], few: NDArray[np.int64], out: NDArray[np.float32], start: int) -> None:
    """Some of the few rows, by column."""
    at = slice(start, start + AT_ONCE)
    with np.errstate(over="ignore"):
        out[:, at] = x[few[at]].T


def _gone(x: NDArray[Any]) -> NDArray[np.bool_]:
    """Columns with a missing value."""
    if x.dtype.kind != "f" or not len(x):
        return np.zeros(x.shape[1], dtype=bool)
    return np.isnan(reduced(np.maximum, x))  # which is NaN where one value is


def _names(X: Any, many: int) -> list[str]:
    """Names of columns as scikit-learn takes them: only where all are texts."""
    names = list(getattr(X, "columns", ()))
    good = len(names) == many and all(isinstance(name, str) for name in names)
    return names if good else [f"x{j}" for j in range(many)]


def native_list(classes: Any) -> list[Any]:
    """Classes as plain values."""
    return [] if classes is None else np.asarray(classes).tolist()


class DecisionTreeClassifier(Trees, Classifier):
    """One classification tree by the Gini index.

    Parameters
    ----------
    max_depth : levels of splits, 0 to 16.
    min_samples_leaf : rows in a leaf, at least. Over hospitals never below `min_cell`.
    gamma : what a split must gain, in weighted squared error.
    max_bins : bins of a number; None: 256 of arrays, 32 over hospitals.
    bins : of numbers over hospitals: "ranges", of equal width over the codebook's ranges, or
        "quantiles", with as many rows each, which summed histograms find. Arrays have quantiles.
    edges : bins of some numbers by name, ascending; None: as `bins` says.
    min_cell : patients in every number that leaves a hospital; None: 5, or the next of 10, 20, ...
        that every hospital's policy asks for.
    class_weight : one weight per class, "balanced", or None.
    random_state : seed of all draws.
    """

    _kind = "tree"

    def __init__(
        self,
        *,
        max_depth: int = 4,
        min_samples_leaf: int = 20,
        gamma: float = 0.0,
        max_bins: int | None = None,
        bins: str = "ranges",
        edges: Mapping[str, Sequence[float]] | None = None,
        min_cell: int | None = None,
        class_weight: Any = None,
        random_state: int = 0,
    ) -> None:
        self.max_depth, self.min_samples_leaf, self.gamma = max_depth, min_samples_leaf, gamma
        self.max_bins, self.edges, self.min_cell = max_bins, edges, min_cell
        self.bins = bins
        self.class_weight, self.random_state = class_weight, random_state


class DecisionTreeRegressor(Trees, Regressor):
    """One regression tree by squared error. Parameters: as `DecisionTreeClassifier`."""

    _kind = "tree"

    def __init__(
        self,
        *,
        max_depth: int = 4,
        min_samples_leaf: int = 20,
        gamma: float = 0.0,
        max_bins: int | None = None,
        bins: str = "ranges",
        edges: Mapping[str, Sequence[float]] | None = None,
        min_cell: int | None = None,
        random_state: int = 0,
    ) -> None:
        self.max_depth, self.min_samples_leaf, self.gamma = max_depth, min_samples_leaf, gamma
        self.max_bins, self.edges, self.min_cell = max_bins, edges, min_cell
        self.bins = bins
        self.random_state = random_state


class RandomForestClassifier(Trees, Classifier):
    """A forest of classification trees, averaged.

    Parameters
    ----------
    n_estimators : trees.
    max_features : columns that each node may split on: "sqrt", "log2", a number, a share, or None.
    bootstrap : each tree sees every patient Poisson(1) times, by hash of the patient's key.
    The others as `DecisionTreeClassifier`.
    """

    _kind = "forest"

    def __init__(
        self,
        *,
        n_estimators: int = 100,
        max_depth: int = 8,
        max_features: Any = "sqrt",
        bootstrap: bool = True,
        min_samples_leaf: int = 5,
        gamma: float = 0.0,
        max_bins: int | None = None,
        bins: str = "ranges",
        edges: Mapping[str, Sequence[float]] | None = None,
        min_cell: int | None = None,
        class_weight: Any = None,
        random_state: int = 0,
    ) -> None:
        self.n_estimators, self.max_depth, self.max_features = n_estimators, max_depth, max_features
        self.bootstrap, self.min_samples_leaf, self.gamma = bootstrap, min_samples_leaf, gamma
        self.max_bins, self.edges, self.min_cell = max_bins, edges, min_cell
        self.bins = bins
        self.class_weight, self.random_state = class_weight, random_state


class RandomForestRegressor(Trees, Regressor):
    """A forest of regression trees, averaged. Parameters: as `RandomForestClassifier`."""

    _kind = "forest"

    def __init__(
        self,
        *,
        n_estimators: int = 100,
        max_depth: int = 8,
        max_features: Any = 1.0,
        bootstrap: bool = True,
        min_samples_leaf: int = 5,
        gamma: float = 0.0,
        max_bins: int | None = None,
        bins: str = "ranges",
        edges: Mapping[str, Sequence[float]] | None = None,
        min_cell: int | None = None,
        random_state: int = 0,
    ) -> None:
        self.n_estimators, self.max_depth, self.max_features = n_estimators, max_depth, max_features
        self.bootstrap, self.min_samples_leaf, self.gamma = bootstrap, min_samples_leaf, gamma
        self.max_bins, self.edges, self.min_cell = max_bins, edges, min_cell
        self.bins = bins
        self.random_state = random_state


class GradientBoostingClassifier(Trees, Classifier):
    """Gradient boosting of classes: logistic loss of two, softmax of more.

    Parameters
    ----------
    loss : "auto" for these, or "focal" of two classes: rows that are well predicted count less.
    focal_gamma : how much less, 0 to 10; 0 is the logistic loss. Probabilities are not calibrated.
    n_estimators : rounds.
    learning_rate : what a tree's values are multiplied by.
    max_depth : levels of splits.
    min_child_weight : sum of second derivatives in a leaf, at least.
    reg_lambda, reg_alpha : penalties on the values of leaves.
    gamma : what a split must gain.
    subsample : share of the patients that each round sees, by hash of the patient's key.
    colsample_bytree : share of the columns that each round sees.
    monotone_constraints : by column, 1 where the risk may not fall with it, -1 where not rise.
    early_stopping_rounds : stop after so many rounds without a better loss of held-out patients.
    validation_fraction : share of the patients that are held out for that.
    The others as `DecisionTreeClassifier`.
    """

    _kind = "boosting"

    def __init__(
        self,
        *,
        loss: str = "auto",
        focal_gamma: float = 2.0,
        n_estimators: int = 100,
        learning_rate: float = 0.1,
        max_depth: int = 6,
        min_child_weight: float = 1.0,
        min_samples_leaf: int = 1,
        reg_lambda: float = 1.0,
        reg_alpha: float = 0.0,
        gamma: float = 0.0,
        subsample: float = 1.0,
        colsample_bytree: float = 1.0,
        monotone_constraints: Mapping[str, int] | None = None,
        early_stopping_rounds: int | None = None,
        validation_fraction: float = 0.2,
        max_bins: int | None = None,
        bins: str = "ranges",
        edges: Mapping[str, Sequence[float]] | None = None,
        min_cell: int | None = None,
        class_weight: Any = None,
        random_state: int = 0,
    ) -> None:
        self.loss, self.focal_gamma = loss, focal_gamma
        self.n_estimators, self.learning_rate, self.max_depth = (
            n_estimators,
            learning_rate,
            max_depth,
        )
        self.min_child_weight, self.min_samples_leaf = min_child_weight, min_samples_leaf
        self.reg_lambda, self.reg_alpha, self.gamma = reg_lambda, reg_alpha, gamma
        self.subsample, self.colsample_bytree = subsample, colsample_bytree
        self.monotone_constraints = monotone_constraints
        self.early_stopping_rounds = early_stopping_rounds
        self.validation_fraction = validation_fraction
        self.max_bins, self.edges, self.min_cell = max_bins, edges, min_cell
        self.bins = bins
        self.class_weight, self.random_state = class_weight, random_state


class GradientBoostingRegressor(Trees, Regressor):
    """Gradient boosting of a number: `loss` "squared", or "poisson" of counts.

    The other parameters as `GradientBoostingClassifier`.
    """

    _kind = "boosting"

    def __init__(
        self,
        *,
        loss: str = "squared",
        n_estimators: int = 100,
        learning_rate: float = 0.1,
        max_depth: int = 6,
        min_child_weight: float = 1.0,
        min_samples_leaf: int = 1,
        reg_lambda: float = 1.0,
        reg_alpha: float = 0.0,
        gamma: float = 0.0,
        subsample: float = 1.0,
        colsample_bytree: float = 1.0,
        monotone_constraints: Mapping[str, int] | None = None,
        early_stopping_rounds: int | None = None,
        validation_fraction: float = 0.2,
        max_bins: int | None = None,
        bins: str = "ranges",
        edges: Mapping[str, Sequence[float]] | None = None,
        min_cell: int | None = None,
        random_state: int = 0,
    ) -> None:
        self.loss = loss
        self.n_estimators, self.learning_rate, self.max_depth = (
            n_estimators,
            learning_rate,
            max_depth,
        )
        self.min_child_weight, self.min_samples_leaf = min_child_weight, min_samples_leaf
        self.reg_lambda, self.reg_alpha, self.gamma = reg_lambda, reg_alpha, gamma
        self.subsample, self.colsample_bytree = subsample, colsample_bytree
        self.monotone_constraints = monotone_constraints
        self.early_stopping_rounds = early_stopping_rounds
        self.validation_fraction = validation_fraction
        self.max_bins, self.edges, self.min_cell = max_bins, edges, min_cell
        self.bins = bins
        self.random_state = random_state
