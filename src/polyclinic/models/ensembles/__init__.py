"""Ensembles over sites: models that every site trains on its own rows, together."""

from polyclinic.models.ensembles.kinds import kinds
from polyclinic.models.ensembles.train import tasks

__all__ = ["kinds", "tasks"]
