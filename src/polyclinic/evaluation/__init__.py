"""Measures of models, from sums over sites."""

from polyclinic.evaluation.evaluate import Evaluation
from polyclinic.evaluation.own import AloneTask, OwnTask
from polyclinic.evaluation.scores import ScoresTask

tasks = [ScoresTask(), OwnTask(), AloneTask()]

__all__ = ["Evaluation", "tasks"]
