"""Histogram trees: a tree, a forest, gradient boosting."""

from polyclinic.core.task import Task
from polyclinic.models.trees import form as _form  # noqa: F401  # registers itself
from polyclinic.models.trees.cells import CellsTask
from polyclinic.models.trees.grow import Growing
from polyclinic.models.trees.kinds import KINDS
from polyclinic.models.trees.predictor import TreesPredictor
from polyclinic.models.trees.private_tasks import tasks as _private
from polyclinic.models.trees.result import Fit
from polyclinic.models.trees.spec import Feature, Spec
from polyclinic.models.trees.survival import ConcordanceTask, EventsTask, HeldTask, RiskSumsTask
from polyclinic.models.trees.tasks import LossTask, StartTask, SumsTask

tasks: list[Task] = [
    StartTask(),
    SumsTask(),
    RiskSumsTask(),
    CellsTask(),
    LossTask(),
    EventsTask(),
    HeldTask(),
    ConcordanceTask(),
    *_private,
]

__all__ = [
    "KINDS",
    "Feature",
    "Fit",
    "Growing",
    "Spec",
    "TreesPredictor",
    "tasks",
]
