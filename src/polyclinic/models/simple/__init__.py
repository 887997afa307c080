"""Learners that need nothing but sums of a few kinds: naive Bayes, components, scales."""

from polyclinic.models.simple.bayes import TASK as _bayes
from polyclinic.models.simple.bayes import GaussianNBFit, GaussianNBPredictor, GaussianNBSpec
from polyclinic.models.simple.pca import MOMENTS as _pca
from polyclinic.models.simple.pca import PCAFit, PCASpec, ProductsTask
from polyclinic.models.simple.scaler import TASK as _scaler
from polyclinic.models.simple.scaler import ScalerFit, ScalerSpec

tasks = [_bayes, _pca, ProductsTask(), _scaler]

__all__ = [
    "GaussianNBFit",
    "GaussianNBPredictor",
    "GaussianNBSpec",
    "PCAFit",
    "PCASpec",
    "ScalerFit",
    "ScalerSpec",
    "tasks",
]
