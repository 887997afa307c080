"""Survival analysis over sums."""

from polyclinic.models.survival.cox import cox
from polyclinic.models.survival.curve_spec import CurveSpec
from polyclinic.models.survival.curve_tasks import tasks as _curve_tasks
from polyclinic.models.survival.diagnostics import tasks as _diagnostic_tasks
from polyclinic.models.survival.fit import CoxFit
from polyclinic.models.survival.held_out import tasks as _held_out_tasks
from polyclinic.models.survival.kinds import HELD_OUT, kinds
from polyclinic.models.survival.risk_sets import tasks as _grid_tasks
from polyclinic.models.survival.spec import CoxSpec
from polyclinic.models.survival.tasks import tasks as _cox_tasks

tasks = [*_cox_tasks, *_diagnostic_tasks, *_curve_tasks, *_grid_tasks, *_held_out_tasks]

__all__ = ["HELD_OUT", "CoxFit", "CoxSpec", "CurveSpec", "cox", "kinds", "tasks"]
