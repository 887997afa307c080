"""Algorithms: the coordinator's pure functions and the sites' tasks."""

from polyclinic.models.descriptive import tasks as _descriptive
from polyclinic.models.glm import tasks as _glm

tasks = [*_glm, *_descriptive]
