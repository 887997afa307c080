"""Polyclinic: hospitals learn together; only sums leave.

Names are imported on first use, so that ``import polyclinic`` is quick and needs numpy only.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_WHERE = {
    "LinearRegression": "polyclinic.study.regression",
    "LogisticRegression": "polyclinic.study.regression",
    "PoissonRegression": "polyclinic.study.regression",
    "GammaRegression": "polyclinic.study.regression",
    "GaussianNB": "polyclinic.study.simple",
    "KMeans": "polyclinic.study.simple",
    "PCA": "polyclinic.study.simple",
    "Screening": "polyclinic.study.simple",
    "StandardScaler": "polyclinic.study.simple",
    "TreatmentEffect": "polyclinic.study.effects",
    "LinearSVC": "polyclinic.study.svm",
    "LinearSVR": "polyclinic.study.svm",
    "SVC": "polyclinic.study.svm",
    "DecisionTreeClassifier": "polyclinic.study.trees",
    "DecisionTreeRegressor": "polyclinic.study.trees",
    "RandomForestClassifier": "polyclinic.study.trees",
    "RandomForestRegressor": "polyclinic.study.trees",
    "GradientBoostingClassifier": "polyclinic.study.trees",
    "GradientBoostingRegressor": "polyclinic.study.trees",
    "GradientBoostingSurvival": "polyclinic.study.survival_trees",
    "SelectBest": "polyclinic.study.ensembles",
    "Voting": "polyclinic.study.ensembles",
    "WeightedAverage": "polyclinic.study.ensembles",
    "Stacking": "polyclinic.study.ensembles",
    "NeuralNetwork": "polyclinic.study.neural",
    "KerasNetwork": "polyclinic.study.keras",
    "TensorBoard": "polyclinic.study.watching",
    "ProgressLine": "polyclinic.study.watching",
    "FedAvg": "polyclinic.study.strategies",
    "FedSGD": "polyclinic.study.strategies",
    "FedProx": "polyclinic.study.strategies",
    "Scaffold": "polyclinic.study.strategies",
    "FedAdam": "polyclinic.study.strategies",
    "FedYogi": "polyclinic.study.strategies",
    "FedAdagrad": "polyclinic.study.strategies",
    "Cyclic": "polyclinic.study.strategies",
    "FedBN": "polyclinic.study.strategies",
    "FedPer": "polyclinic.study.strategies",
    "Ditto": "polyclinic.study.strategies",
    "FedNova": "polyclinic.study.strategies",
    "FedBuff": "polyclinic.study.strategies",
    "CoxRegression": "polyclinic.study.survival",
    "KaplanMeier": "polyclinic.study.curves",
    "CumulativeIncidence": "polyclinic.study.curves",
    "LogRank": "polyclinic.study.curves",
    "Sites": "polyclinic.study.sites",
    "read": "polyclinic.study.door",
    "scan": "polyclinic.study.door",
    "query": "polyclinic.data.query",
    "from_spark": "polyclinic.study.door",
    "split": "polyclinic.study.door",
    "images": "polyclinic.study.pictures",
    "partition": "polyclinic.study.pictures",
    "Embedded": "polyclinic.engines.embedded",
    "cluster": "polyclinic.engines.clusters",
    "spark": "polyclinic.engines.spark",
    "Policy": "polyclinic.privacy.policy",
    "DifferentialPrivacy": "polyclinic.privacy.dp",
    "SecureSum": "polyclinic.privacy.dp",
    "Checkpoint": "polyclinic.core.checkpoint",
    "PolyclinicError": "polyclinic.core.errors",
    "InputError": "polyclinic.core.errors",
    "EmptySite": "polyclinic.core.errors",
    "Refused": "polyclinic.core.errors",
    "Stopped": "polyclinic.core.errors",
    "DataWarning": "polyclinic.core.errors",
    "connect": "polyclinic.study.connected",
    "run": "polyclinic.study.run",
    "load": "polyclinic.study.saved",
}

__all__ = ["datasets", *sorted(_WHERE)]


def __getattr__(name: str) -> Any:
    if name == "datasets":
        return import_module("polyclinic.study.datasets")
    if name not in _WHERE:
        raise AttributeError(f"module 'polyclinic' has no attribute {name!r}")
    value = getattr(import_module(_WHERE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
