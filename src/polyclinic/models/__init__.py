"""Algorithms: the coordinator's pure functions and the sites' tasks."""

from polyclinic.models.glm import tasks as _glm

tasks = [*_glm]
