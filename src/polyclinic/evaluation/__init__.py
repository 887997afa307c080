"""Measures of models, from sums over sites."""

from polyclinic.evaluation.crossed import CrossedTask
from polyclinic.evaluation.evaluate import Evaluation, Outcome
from polyclinic.evaluation.exchanges import Parts, exchanges
from polyclinic.evaluation.found_masks import FoundMasks
from polyclinic.evaluation.held_out import HeldOut
from polyclinic.evaluation.importance import Importance, ImportanceTask
from polyclinic.evaluation.masks import MasksTask
from polyclinic.evaluation.own import AloneTask, OwnTask
from polyclinic.evaluation.pairs import OwnPairsTask, PairsTask
from polyclinic.evaluation.scores import ScoresTask
from polyclinic.evaluation.shuffled import Shuffle
from polyclinic.evaluation.stacked import StackedDerivatives, StackedMoments

tasks = [
    ScoresTask(),
    OwnTask(),
    AloneTask(),
    CrossedTask(),
    ImportanceTask(),
    PairsTask(),
    OwnPairsTask(),
    MasksTask(),
    StackedMoments(),
    StackedDerivatives(),
]

__all__ = [
    "Evaluation",
    "FoundMasks",
    "HeldOut",
    "Importance",
    "Outcome",
    "Parts",
    "Shuffle",
    "exchanges",
    "tasks",
]
