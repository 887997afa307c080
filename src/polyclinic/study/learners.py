"""The learners' estimators, by kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sklearn.base import ClassifierMixin, RegressorMixin

from polyclinic.core.errors import InputError
from polyclinic.study import simple
from polyclinic.study.curves import CumulativeIncidence, KaplanMeier, LogRank
from polyclinic.study.effects import TreatmentEffect
from polyclinic.study.ensembles import ENSEMBLES
from polyclinic.study.learner import Learner
from polyclinic.study.neural import NeuralNetwork
from polyclinic.study.survival import CoxRegression
from polyclinic.study.survival_trees import GradientBoostingSurvival
from polyclinic.study.svm import SVC, LinearSVC, LinearSVR
from polyclinic.study.trees import (
    DecisionTreeClassifier,
    DecisionTreeRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)

ESTIMATORS: tuple[type[Learner], ...] = (
    *simple.ESTIMATORS,
    *ENSEMBLES,
    LinearSVC,
    LinearSVR,
    SVC,
    TreatmentEffect,
    CoxRegression,
    KaplanMeier,
    CumulativeIncidence,
    LogRank,
    DecisionTreeClassifier,
    DecisionTreeRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    GradientBoostingSurvival,
    NeuralNetwork,
)


def learner_of(kind: str, classes: int, options: Mapping[str, Any], seed: int) -> Learner:
    """The estimator of a study's model, unfitted.

    classes  of the outcome; 0: a number, or none

    Raises
    ------
    InputError : UNKNOWN_OPTION; WRONG_VALUE for an outcome that this kind does not explain.
    """
    makers = [made for made in ESTIMATORS if made._kind == kind]
    unlike = RegressorMixin if classes else ClassifierMixin
    fitting = [made for made in makers if not issubclass(made, unlike)]
    if not fitting:
        raise InputError(
            f"a model of kind {kind} does not explain {'classes' if classes else 'a number'}",
            code="WRONG_VALUE",
            rule="the kind of the model fits the outcome's type in the codebook",
            next="use another kind of model, or another outcome",
        )
    model = fitting[0]()
    if unknown := sorted(set(options) - set(model._options())):
        raise InputError(
            f"[model.options] {', '.join(unknown)}",
            code="UNKNOWN_OPTION",
            rule=f"options of {kind}: {', '.join(sorted(model._options()))}",
            next="correct the name",
        )
    if "random_state" in model.get_params(deep=False):
        model.set_params(random_state=seed)
    model.set_params(**options)
    return model


def estimator_called(name: str) -> Learner:
    """An unfitted estimator by the name of its class. Raises MODEL_DAMAGED."""
    for made in ESTIMATORS:
        if made.__name__ == name:
            return made()
    raise InputError(
        f"no model of the kind {name!r} is installed here",
        code="MODEL_DAMAGED",
        rule="a model is read by the version of Polyclinic that wrote it, or a later one",
        next="install that version",
    )
