"""Treatment effects: averages over patients, and how they differ between patients."""

from polyclinic.models.effects.algorithm import Effects
from polyclinic.models.effects.kind import KIND
from polyclinic.models.effects.means import InfluenceTask, MeansTask, SquaresTask
from polyclinic.models.effects.modify import ModifyScoresTask, ModifyTask
from polyclinic.models.effects.overlap import OverlapTask
from polyclinic.models.effects.result import Effect
from polyclinic.models.effects.spec import Spec

tasks = [
    MeansTask(),
    InfluenceTask(),
    SquaresTask(),
    OverlapTask(),
    ModifyTask(),
    ModifyScoresTask(),
]
kinds = [KIND]

__all__ = ["Effect", "Effects", "Spec", "kinds", "tasks"]
