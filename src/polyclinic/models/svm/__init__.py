"""Support vector machines, linear or over random features, equal to the pooled fit."""

from polyclinic.models.svm import form as _form  # noqa: F401  # registers itself
from polyclinic.models.svm.features import Features
from polyclinic.models.svm.kinds import kinds
from polyclinic.models.svm.predictor import SVMPredictor
from polyclinic.models.svm.result import SVMFit
from polyclinic.models.svm.spec import SVMSpec
from polyclinic.models.svm.tasks import tasks

__all__ = ["Features", "SVMFit", "SVMPredictor", "SVMSpec", "kinds", "tasks"]
