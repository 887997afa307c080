"""Gradient boosting of survival over sites by a formula, or over arrays in one trust domain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.design import Design
from polyclinic.core.fit import Callback, Store
from polyclinic.engines.embedded import Embedded
from polyclinic.models.learner import Column
from polyclinic.models.survival.concordance import concordance_of, pairs
from polyclinic.models.trees.predictor import TreesPredictor
from polyclinic.study.sites import Sites
from polyclinic.study.survival import outcome_of_arrays
from polyclinic.study.trees import Trees
from polyclinic.study.ways import ways

Floats = NDArray[np.float64]


class GradientBoostingSurvival(Trees):
    """Gradient boosting of survival: Cox partial likelihood with a baseline per site.

    Every hospital computes derivatives in its own risk sets; only histograms of them leave.

    Parameters
    ----------
    cause : number of the event column's level that is the event, from 0; all others are censored.
    early_stopping_rounds : stop after so many rounds without a better partial likelihood of
        held-out patients, in risk sets of their own.
    random_state : seed of all draws.
    The others as `GradientBoostingClassifier`.

    Attributes
    ----------
    concordance_ : Harrell's C. feature_importances_ : (n_features,).
    """

    _kind = "survival-boosting"
    _strata = False

    def __init__(
        self,
        *,
        cause: int = 1,
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
        edges: Mapping[str, Sequence[float]] | None = None,
        min_cell: int | None = None,
        random_state: int = 0,
    ) -> None:
        self.cause = cause
        self.n_estimators, self.learning_rate = n_estimators, learning_rate
        self.max_depth, self.min_child_weight = max_depth, min_child_weight
        self.min_samples_leaf = min_samples_leaf
        self.reg_lambda, self.reg_alpha, self.gamma = reg_lambda, reg_alpha, gamma
        self.subsample, self.colsample_bytree = subsample, colsample_bytree
        self.monotone_constraints = monotone_constraints
        self.early_stopping_rounds = early_stopping_rounds
        self.validation_fraction = validation_fraction
        self.max_bins, self.edges, self.min_cell = max_bins, edges, min_cell
        self.random_state = random_state

    def fit(
        self,
        X: Any,
        y: Any = None,
        sample_weight: Any = None,
        *,
        event: Any = None,
        sites: Any = None,
        engine: Embedded | None = None,
        callbacks: Sequence[Callback] = (),
        store: Store | None = None,
        privacy: Any = None,
        purpose: str = "",
    ) -> Self:
        """Fit over sites by a formula, or over arrays in one trust domain.

        Parameters
        ----------
        X : `Sites`, or array or frame of shape (n_rows, n_features).
        y : with `Sites` the formula, ``"Surv(days, died) ~ age + arm"``; else durations,
            (n_rows,), 0 or more; or a structured array of events and durations.
        sample_weight : (n_rows,), 0 or more. In a formula: ``weights(column)``.
        event : (n_rows,) of arrays: `cause` where the event happened; None: it did in every row.
        sites : (n_rows,) site of every row: strata of arrays. In a formula: ``strata(column)``
            beside the hospitals.
        engine, callbacks, store, privacy, purpose : as for every learner.

        Raises
        ------
        InputError : OUTCOME_NOT_ALLOWED for durations below 0, NO_EVENTS where all are censored.
        """
        engine = engine or Embedded()
        more: dict[str, Any]
        if isinstance(X, Sites):
            more = {"callbacks": callbacks, "store": store, "purpose": purpose}
            super().fit(X, y, engine=engine, privacy=privacy, **more)
            return self
        ways(X, y, privacy)
        duration, happened = outcome_of_arrays(y, event, self.cause)
        extra = {"event": happened}
        self._strata = sites is not None
        if self._strata:
            extra["site"] = np.unique(sites, return_inverse=True)[1].astype(np.float64)
        more = {"extra": extra}
        self._fit_arrays(X, duration, sample_weight, sites, engine, callbacks, store, **more)
        return self

    def _array_design(self, design: Design) -> Design:
        strata = ("site",) if self._strata else ()
        return replace(super()._array_design(design), event="event", strata=strata)

    def _more_columns(self, sites: Any) -> tuple[Column, ...]:
        if sites is None:
            return ()
        return (Column("site", "category", tuple(str(label) for label in np.unique(sites))),)

    @property
    def concordance_(self) -> dict[str, float] | None:
        """Harrell's C of pairs within sites: "c", its "se", and the number of "pairs"; of patients
        that were held out where there are some, else of those that were fitted."""
        return self.result_.concordance

    def predict(self, X: Any) -> Floats:
        """Log of the relative hazard, (n_rows,): a larger one means an earlier event."""
        found = self.predictor_
        if not isinstance(found, TreesPredictor):
            raise TypeError("no trees")
        return found.margin(self.partition(X).columns)[:, 0]

    def score(self, X: Any, y: Any, sample_weight: Any = None, *, event: Any = None) -> float:
        """Harrell's concordance on arrays."""
        duration, happened = outcome_of_arrays(y, event, self.cause)
        return concordance_of(pairs(duration, happened == self.cause, self.predict(X)))["c"]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.target_tags.positive_only = True
        return tags
