"""Measures of models, from sums over sites."""

from polyclinic.evaluation.evaluate import Evaluation, Outcome
from polyclinic.evaluation.own import AloneTask, OwnTask
from polyclinic.evaluation.scores import ScoresTask

tasks = [ScoresTask(), OwnTask(), AloneTask()]

__all__ = ["Evaluation", "Outcome", "tasks"]
