from __future__ import annotations

import pickle

import pytest

from polyclinic.core import errors
from polyclinic.core.codes import NEXT, RULES

ERRORS = (
    errors.PolyclinicError,
    errors.InputError,
    errors.EmptySite,
    errors.Refused,
    errors.Stopped,
)


@pytest.mark.parametrize("kind", ERRORS)
def test_the_five_questions_in_order(kind):
    text = str(
        kind(
            "va, column chol: text",
            code="NOT_A_NUMBER",
            rule="numbers only",
            next="fix it",
            kept="all",
        )
    )
    assert text.splitlines() == [
        "va, column chol: text  NOT_A_NUMBER",
        "rule   numbers only",
        "next   fix it",
        "kept   all",
    ]


@pytest.mark.parametrize("kind", ERRORS)
def test_an_error_survives_the_way_to_another_process(kind):
    error = kind("what", code="C", rule="r", site="va", step="s")
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is kind
    assert (str(back), back.site, back.step, back.args) == (str(error), "va", "s", ("what",))


def test_exit_codes_and_python_types():
    assert [kind.exit_code for kind in ERRORS] == [1, 2, 2, 3, 4]
    assert issubclass(errors.InputError, ValueError)


def test_every_next_step_belongs_to_a_rule():
    assert set(NEXT) <= set(RULES)
    assert all(code.isupper() for code in RULES)
