from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from patsy import dmatrix

from polyclinic.core.codec import decode, encode
from polyclinic.core.design import Design, Factor, Term, exponent
from polyclinic.core.errors import InputError

COLUMNS = {"age": np.array([30.0, 50.0, np.nan, 71.0]), "pain": np.array([0.0, 1.0, 2.0, np.nan])}
DESIGN = Design(
    (
        Term("age", (Factor("value", "age"),), 110.0),
        Term("C(pain)[T.1]", (Factor("level", "pain", (1.0,)),), 1.0),
        Term("age:C(pain)[T.1]", (Factor("value", "age"), Factor("level", "pain", (1.0,))), 110.0),
        Term("age_missing", (Factor("missing", "age"),), 1.0),
    ),
    response="y",
    offset="o",
    weight="w",
    fills={"age": 44.5},
)


def test_factors_are_what_they_say():
    x = COLUMNS["age"]
    cases = {
        "value": x,
        "log": np.log(x),
        "log1p": np.log1p(x),
        "exp": np.exp(x),
        "sqrt": np.sqrt(x),
        "abs": abs(x),
        "missing": np.isnan(x).astype(float),
    }
    for kind, expected in cases.items():
        np.testing.assert_array_equal(Factor(kind, "age").evaluate(COLUMNS, {}), expected)
    np.testing.assert_array_equal(Factor("power", "age", (2.0,)).evaluate(COLUMNS, {}), x**2)
    level = Factor("level", "pain", (2.0,)).evaluate(COLUMNS, {})
    np.testing.assert_array_equal(level, [0.0, 0.0, 1.0, np.nan])


def test_an_unknown_factor_is_named():
    with pytest.raises(InputError) as caught:
        Factor("tan", "age").evaluate(COLUMNS, {})
    assert caught.value.code == "UNKNOWN_FACTOR"


def test_the_matrix_equals_patsys():
    pain = np.array([0.0, 1.0, 2.0, 1.0])
    age = np.array([30.0, 50.0, 44.5, 71.0])
    expected = np.asarray(
        dmatrix("age * C(pain, levels=[0, 1, 2]) - 1", {"age": age, "pain": pain})
    )
    design = Design(
        tuple(
            [Term(f"p{i}", (Factor("level", "pain", (float(i),)),)) for i in range(3)]
            + [Term("age", (Factor("value", "age"),))]
            + [
                Term(f"age:p{i}", (Factor("value", "age"), Factor("level", "pain", (float(i),))))
                for i in (1, 2)
            ]
        )
    )
    np.testing.assert_array_equal(design.matrix({"age": age, "pain": pain}), expected)


def test_fills_replace_and_the_indicator_still_sees_the_gap():
    matrix = DESIGN.matrix(COLUMNS)
    np.testing.assert_array_equal(matrix[:, 0], [30.0, 50.0, 44.5, 71.0])
    np.testing.assert_array_equal(matrix[:, 3], [0.0, 0.0, 1.0, 0.0])
    assert np.isnan(matrix[3, 1])
    np.testing.assert_array_equal(matrix[:3, 2], [0.0, 50.0, 0.0])


def test_columns_each_once_in_order():
    assert DESIGN.columns == ("age", "pain", "o", "w", "y")
    assert DESIGN.names[1] == "C(pain)[T.1]"


def test_a_design_travels_as_data():
    back = Design.from_data(decode(encode(DESIGN.to_data())))
    assert back == DESIGN
    np.testing.assert_array_equal(back.matrix(COLUMNS), DESIGN.matrix(COLUMNS))


@pytest.mark.parametrize("names", [("a", "a"), ("(loss)", "a"), ("a", "(residual of) a")])
def test_terms_have_names_of_their_own(names):
    data = Design(tuple(Term(name, (Factor("value", "age"),)) for name in names)).to_data()
    with pytest.raises(InputError) as caught:
        Design.from_data(data)
    assert caught.value.code == "BAD_MESSAGE"
    data["terms"] = data["terms"][:1]
    assert names[0] == "(loss)" or Design.from_data(data).names == names[:1]


def test_an_array_design_returns_the_array_itself():
    x = np.arange(6.0).reshape(3, 2)
    design = Design((Term("x0", (), 1.0), Term("x1", (), 1.0)))
    assert design.is_array
    assert design.matrix({"X": x}) is x


@given(st.floats(min_value=1e-300, max_value=1e300))
def test_the_exponent_is_the_smallest_power_of_two_above(bound):
    e = exponent(bound)
    assert bound <= 2.0**e
    assert bound > 2.0 ** (e - 1)


@pytest.mark.parametrize("bound", [0.0, -1.0, math.inf, math.nan])
def test_a_bound_that_says_nothing_scales_nothing(bound):
    assert exponent(bound) == 0
