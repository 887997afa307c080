"""What a private model declares before any round, and what a site refuses of its plans."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from polyclinic.core.design import Design, Factor, Term
from polyclinic.core.errors import InputError, PolyclinicError
from polyclinic.core.partition import Partition
from polyclinic.core.task import lookup
from polyclinic.models.glm import Spec
from polyclinic.models.glm.private import PrivateGLM, private_glm
from polyclinic.models.glm.private_scale import bounds_of
from polyclinic.models.glm.private_tasks import pack_rows, unpack_norm
from tests.models.glm.private_rows import FAMILIES, RANGES, STRICT, plans, rows, spec, summed


def test_scales_follow_from_declared_ranges():
    terms = (
        Term("age", (Factor("value", "age"),), 98.0),
        Term("age2", (Factor("power", "age", (2.0,)),), 98.0**2),
        Term("sex", (Factor("level", "sex", (1.0,)),), 1.0),
        Term("age:sex", (Factor("value", "age"), Factor("level", "sex", (1.0,))), 98.0),
        Term("cp1", (Factor("level", "cp", (1.0,)),), 1.0),
        Term("cp2", (Factor("level", "cp", (2.0,)),), 1.0),
        Term("other", (Factor("value", "other"),), 4.0),
    )
    wanted = Spec(Design(terms, "y"), "binomial", 2)
    found = bounds_of(wanted, {"age": (18.0, 98.0)})
    assert found.centre.tolist() == [58.0, 0.5 * (18**2 + 98**2), 0.5, 49.0, 0.0, 0.0, 0.0]
    assert found.unit.tolist() == [40.0, 0.5 * (98**2 - 18**2), 0.5, 49.0, 1.0, 1.0, 4.0]
    assert found.row_norm == pytest.approx(math.sqrt(1 + 4 / 3 + 1 + 1))
    bare = replace(wanted, design=replace(wanted.design, intercept=False))
    assert bounds_of(bare, {"age": (18.0, 98.0)}).centre.tolist() == [0.0] * 7


def test_packing_keeps_the_norm():
    v = np.random.default_rng(0).normal(size=(1, 5))
    packed = pack_rows(v, np.array([2.0]))[0]
    assert np.linalg.norm(packed) == pytest.approx(2.0 * float(v[0] @ v[0]))
    np.testing.assert_allclose(unpack_norm(packed, 5), 2.0 * np.outer(v, v))


def wrong_design(**change: Any) -> Spec:
    wanted = spec("binomial")
    return replace(wanted, design=replace(wanted.design, **change))


@pytest.mark.parametrize(
    ("wanted", "code"),
    [
        (replace(spec("poisson"), family="gamma"), "NO_PRIVATE_VERSION"),
        (replace(spec("binomial"), family="multinomial", classes=3), "NO_PRIVATE_VERSION"),
        (spec("binomial", l1=0.1), "NO_PRIVATE_VERSION"),
        (spec("binomial", class_weight="balanced"), "NO_PRIVATE_VERSION"),
        (wrong_design(weight="w"), "NO_PRIVATE_VERSION"),
        (wrong_design(offset="o"), "NO_PRIVATE_VERSION"),
        (wrong_design(fills={"x0": 1.0}), "NO_PRIVATE_VERSION"),
        (wrong_design(terms=(Term("a", (Factor("value", "a"),)),)), "NO_RANGE"),
        (wrong_design(terms=(Term("x0", (), math.inf),)), "NO_RANGE"),
    ],
)
def test_what_has_no_private_version_is_refused(wanted, code):
    with pytest.raises(InputError) as caught:
        private_glm(wanted, STRICT, 4)
    assert caught.value.code == code and caught.value.next


def test_wrong_rounds_and_ranges():
    for more, code in (
        ({"rounds": 1}, "WRONG_VALUE"),
        ({"ranges": {"x0": (5.0, 1.0)}}, "NO_RANGE"),
        ({"ranges": {"x0": (0.0, math.nan)}}, "NO_RANGE"),
    ):
        with pytest.raises(InputError) as caught:
            private_glm(spec("poisson"), STRICT, 4, **more)
        assert caught.value.code == code


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("row_norm", math.nan),
        ("row_norm", 0.0),
        ("row_norm", 1e300),
        ("unit", np.zeros(3)),
        ("centre", np.zeros(2)),
        ("theta", np.zeros(3)),
    ],
)
def test_a_site_refuses_a_plan_without_scales(name, value):
    plan = plans("binomial", np.zeros(4))
    plan = replace(plan, values={**plan.values, name: value}, _derived={})
    with pytest.raises(PolyclinicError) as caught:
        lookup(plan.task, plan.version).leaves(plan)
    assert caught.value.code == "BAD_MESSAGE"


@pytest.mark.parametrize(
    ("family", "y"), [("binomial", 2.0), ("poisson", -1.0), ("gaussian", np.nan)]
)
def test_an_impossible_outcome_is_not_counted(family, y):
    columns = rows(family, 30)
    columns["y"][3] = y
    with pytest.raises(PolyclinicError) as caught:
        summed(plans(family, np.zeros(4)), Partition(columns))
    assert caught.value.code == "BAD_DATA"


def test_a_missing_term_is_not_counted():
    columns = rows("binomial", 30)
    columns["X"][3, 1] = np.nan
    with pytest.raises(PolyclinicError) as caught:
        summed(plans("binomial", np.zeros(4)), Partition(columns))
    assert caught.value.code == "NONFINITE"


def test_an_empty_site_adds_nothing():
    for family in FAMILIES:
        empty = Partition({"X": np.zeros((0, 3)), "y": np.zeros(0)})
        assert not summed(plans(family, np.zeros(4)), empty).any()


def test_the_algorithm_is_plain_data():
    one = private_glm(spec("poisson"), STRICT, 4, ranges=RANGES)
    assert isinstance(one, PrivateGLM) and one.rounds == 5
    assert private_glm(spec("gaussian"), STRICT, 4, ranges=RANGES).rounds == 1
