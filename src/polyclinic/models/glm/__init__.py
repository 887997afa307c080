"""Generalised linear models, equal to the pooled fit."""

from polyclinic.models.glm.algorithm import glm
from polyclinic.models.glm.inference import GLMFit
from polyclinic.models.glm.means import PresentTask
from polyclinic.models.glm.predictor import GLMPredictor
from polyclinic.models.glm.private_tasks import tasks as _private
from polyclinic.models.glm.spec import Solver, Spec
from polyclinic.models.glm.tasks import tasks as _tasks

tasks = [*_tasks, *_private, PresentTask()]

__all__ = ["GLMFit", "GLMPredictor", "Solver", "Spec", "glm", "tasks"]
