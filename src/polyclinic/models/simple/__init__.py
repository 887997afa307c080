"""Learners by sums of a few kinds: naive Bayes, components, clusters, scales, screening."""

from polyclinic.models.simple import (
    bayes,
    kmeans,
    kmeans_grouped,
    kmeans_tasks,
    pca,
    scaler,
    screening_tasks,
)
from polyclinic.models.simple import form as _form  # noqa: F401  # registers itself
from polyclinic.models.simple.bayes import GaussianNBFit, GaussianNBPredictor, GaussianNBSpec
from polyclinic.models.simple.kinds import kinds
from polyclinic.models.simple.kmeans import KMeansFit, KMeansSpec
from polyclinic.models.simple.pca import PCAFit, PCASpec
from polyclinic.models.simple.scale import Scale
from polyclinic.models.simple.scaler import ScalerFit, ScalerSpec
from polyclinic.models.simple.screening import ScreeningFit, ScreeningSpec

tasks = [
    bayes.TASK,
    pca.MOMENTS,
    pca.PRODUCTS,
    scaler.TASK,
    kmeans.MOMENTS,
    kmeans.PRODUCTS,
    *kmeans_tasks.tasks,
    *kmeans_grouped.tasks,
    screening_tasks.task,
]

__all__ = [
    "GaussianNBFit",
    "GaussianNBPredictor",
    "GaussianNBSpec",
    "KMeansFit",
    "KMeansSpec",
    "PCAFit",
    "PCASpec",
    "Scale",
    "ScalerFit",
    "ScalerSpec",
    "ScreeningFit",
    "ScreeningSpec",
    "kinds",
    "tasks",
]
