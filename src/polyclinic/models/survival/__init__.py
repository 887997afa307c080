"""Survival analysis over sums."""

from polyclinic.models.survival.cox import cox
from polyclinic.models.survival.fit import CoxFit
from polyclinic.models.survival.spec import CoxSpec
from polyclinic.models.survival.tasks import tasks

__all__ = ["CoxFit", "CoxSpec", "cox", "tasks"]
