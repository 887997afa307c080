"""The list of kinds, and what plans of learners hold."""

from __future__ import annotations

import subprocess
import sys

import pytest

from polyclinic.core.errors import InputError, PolyclinicError
from polyclinic.core.plan import Plan
from polyclinic.models import learner


def test_a_kind_that_is_not_installed_is_named():
    with pytest.raises(PolyclinicError, match="'tarot'") as found:
        learner.kind_of("tarot")
    assert found.value.code == "UNKNOWN_TASK"


@pytest.mark.parametrize(
    ("options", "code"), [({"deep": 3}, "UNKNOWN_OPTION"), ({"depth": -1}, "WRONG_VALUE")]
)
def test_options_are_checked_by_name_and_value(options, code):
    with pytest.raises(InputError) as found:
        learner.check_options(options, {"depth": lambda n: n >= 0}, "depth is 0 or more")
    assert found.value.code == code
    learner.check_options({"depth": 2}, {"depth": lambda n: n >= 0}, "depth is 0 or more")


@pytest.mark.parametrize(
    "values", [{}, {"spec": {}, "rows": {}}, {"spec": 1, "rows": {}, "state": {}}]
)
def test_a_plan_of_another_form_is_refused(values):
    with pytest.raises(PolyclinicError) as found:
        learner.spec_in(Plan("some.task", values), dict)
    assert found.value.code == "BAD_MESSAGE"


def test_a_hospital_knows_the_predictor_of_every_kind():
    """Also before anything was fitted there."""
    script = """
from polyclinic.models import kinds
from polyclinic.models.predictor import _kinds
print([k.name for k in kinds if k.predictor and (k.predicts_as or k.name) not in _kinds])
"""
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert found.stdout.strip() == "[]", found.stderr
