"""Algorithms: the coordinator's pure functions and the sites' tasks."""

from polyclinic.models.descriptive import tasks as _descriptive
from polyclinic.models.effects import kinds as _effect_kinds
from polyclinic.models.effects import tasks as _effects
from polyclinic.models.ensembles import kinds as _ensemble_kinds
from polyclinic.models.ensembles import tasks as _ensembles
from polyclinic.models.glm import tasks as _glm
from polyclinic.models.learner import Kind, register_kinds
from polyclinic.models.neural import kinds as _neural_kinds
from polyclinic.models.neural import tasks as _neural
from polyclinic.models.simple import kinds as _simple_kinds
from polyclinic.models.simple import tasks as _simple
from polyclinic.models.survival import kinds as _survival_kinds
from polyclinic.models.survival import tasks as _survival
from polyclinic.models.svm import kinds as _svm_kinds
from polyclinic.models.svm import tasks as _svm
from polyclinic.models.trees import KINDS as _TREES
from polyclinic.models.trees import tasks as _trees

kinds: list[Kind] = [
    *_ensemble_kinds,
    *_simple_kinds,
    *_svm_kinds,
    *_effect_kinds,
    *_survival_kinds,
    *_TREES,
    *_neural_kinds,
]
register_kinds(kinds)
tasks = [
    *_glm,
    *_descriptive,
    *_ensembles,
    *_simple,
    *_svm,
    *_effects,
    *_survival,
    *_trees,
    *_neural,
]
