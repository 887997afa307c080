"""Rules of disclosure control, each at the minimum and one below it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyclinic.core.contribution import Evidence
from polyclinic.core.exposure import Exposure, Shares
from polyclinic.privacy.disclosure import (
    Selection,
    dominated,
    isolating,
    judge,
    levels_of,
    share,
    totals,
)
from polyclinic.privacy.policy import Policy

POLICY, NOBODY = Policy(), Exposure()


def codes(exposure=NOBODY, patients=1000, others=None, **more):
    return [found.code for found in judge(POLICY, exposure, Evidence(patients), others, **more)]


def weights(parts):
    return Shares.of(np.array(parts, dtype=float)[:, None])


@pytest.mark.parametrize(
    ("exposure", "patients", "code"),
    [
        (Exposure(), 4, "TOO_FEW_PATIENTS"),
        (Exposure(coefficients=9), 89, "SATURATED"),
        (Exposure(coefficients=1), 10, "SATURATED"),
        (Exposure(levels=20), 199, "TOO_MANY_LEVELS"),
        (Exposure(levels=41), 10**6, "TOO_MANY_LEVELS"),
        (Exposure(slots={"sex = 1": 4}), 1000, "LEVEL_TOO_SMALL"),
        (Exposure(values={"ca": {"0": 990, "1": 6, "2": 4}}), 1000, "LEVEL_TOO_SMALL"),
        (Exposure(leverage=0.51), 1000, "LEVERAGE"),
    ],
)
def test_one_below_the_minimum_is_refused(exposure, patients, code):
    assert codes(exposure, patients) == [code]


@pytest.mark.parametrize(
    ("exposure", "patients"),
    [
        (Exposure(), 5),
        (Exposure(), 0),
        (Exposure(coefficients=9), 90),
        (Exposure(coefficients=1), 11),
        (Exposure(levels=20), 200),
        (Exposure(levels=40), 400),
        (Exposure(slots={"sex = 1": 5, "sex = 0": 0}), 1000),
        (Exposure(values={"ca": {"0": 990, "1": 5, "2": 5}}), 1000),
        (Exposure(values={"age": {"*": 0, "50": 1}}), 1000),
        (Exposure(leverage=0.5), 1000),
    ],
)
def test_the_minimum_itself_is_allowed(exposure, patients):
    assert codes(exposure, patients) == []


def test_a_subset_needs_ten_patients():
    subset = Selection(subset=True)
    for few in (1, 4, 5, 9):
        assert codes(patients=few, selection=subset) == ["SUBSET_TOO_SMALL"]
    assert codes(patients=10, selection=subset) == codes(patients=9) == []


def test_nobody_left_is_told_apart_from_one_left_by_nothing():
    """Else asking for ever fewer would tell when the last patient has gone."""
    assert codes(patients=0, selection=Selection(700, True)) == ["SUBSET_TOO_SMALL"]
    assert codes(patients=0, selection=Selection(0, True)) == []  # a column that nobody has


def test_sums_of_few_are_no_part_of_what_is_shared():
    exposure = Exposure(columns={"a": weights([2.0] * 9)}, weights=weights([0.5] * 20))
    for patients, selection, enough in (
        (9, Selection(), 1),
        (4, Selection(), 0),
        (9, Selection(subset=True), 0),
        (10, Selection(subset=True), 1),
    ):
        vector = share(POLICY, exposure, Evidence(patients), (), selection, shown=True)
        found = totals(vector, (), ("a",))
        assert (found.sites, found.shown) == (enough, 1)
        assert found.columns["a"] == 18.0 * enough
        assert found.weights == 10.0 * enough


def test_fewer_carriers_than_the_minimum_are_always_counted_by_value():
    """A column with k-1 patients off its usual value has at most k values, and they are counted."""
    few = {"0": 996, "3": 1, "7": 1, "8": 1, "9": 1}
    assert codes(Exposure(values={"x": few})) == ["LEVEL_TOO_SMALL"] * 4
    many = {"0": 995, "3": 1, "7": 1, "8": 1, "9": 1, "10": 1}
    assert codes(Exposure(values={"x": many})) == []


@pytest.mark.parametrize(
    ("parts", "bad"),
    [
        ([1.0] * 10, False),
        ([1.0] * 9, True),  # an effective size of 9
        ([1.0] * 100, False),
        ([1.0] * 100 + [30.0], True),  # effective size 17, but see below
        ([1e-9] * 500 + [0.25], True),
        ([1e-300] * 500 + [1e-290], True),
        ([np.inf] + [1.0] * 50, True),
        ([0.0] * 50, False),
    ],
)
def test_weights_that_single_out_a_patient(parts, bad):
    if parts[-1] == 30.0:  # the largest share is 0.23: allowed by shares, judged by effective size
        expected = (130.0**2 / (100 + 900)) < 10
        assert isolating(POLICY, Exposure(weights=weights(parts))).tolist() == [expected]
        return
    assert isolating(POLICY, Exposure(weights=weights(parts))).tolist() == [bad]


def test_a_column_whose_sum_is_one_patient_or_two():
    assert dominated(POLICY, weights([1.0] * 5)).tolist() == [False]
    assert dominated(POLICY, weights([100.0, 1.0, 1.0])).tolist() == [True]
    assert dominated(POLICY, weights([50.0, 50.0, 1.0, 1.0])).tolist() == [True]
    assert dominated(POLICY, weights([0.0, 0.0])).tolist() == [False]


@given(
    st.lists(st.floats(0, 1e6), min_size=1, max_size=30),
    st.lists(st.floats(0, 1e6), min_size=1, max_size=30),
)
def test_shares_are_a_monoid_of_disjoint_patients(a, b):
    both, joined = weights(a) + weights(b), weights(a + b)
    np.testing.assert_allclose(both.total, joined.total)
    np.testing.assert_allclose(both.squares, joined.squares)
    assert (both.first, both.second) == (joined.first, joined.second)


def test_rows_of_a_patient_are_one_part():
    parts = Shares.of(np.array([[1.0], [2.0], [5.0]]), np.array([4, 4, 9]))
    assert (parts.total, parts.first, parts.second) == (8.0, 5.0, 3.0)


def test_what_is_shared_is_safe_and_comes_back():
    exposure = Exposure(
        values={"b": {"0": 33, "1": 3}},
        slots={"outcome = 1": 12},
        columns={"a": weights([1.0] * 36), "b": weights([1.0] * 3)},
        weights=weights([0.5] * 36),
    )
    slots = ("b = 0", "b = 1", "outcome = 1")
    found = totals(share(POLICY, exposure, Evidence(36), slots), slots, ("a", "b"))
    assert found.patients == 35
    assert found.slots == {"b = 0": 30, "b = 1": 0, "outcome = 1": 10}  # multiples of 5
    assert (found.columns["a"], found.columns["b"]) == (36.0, 0.0)  # the three are not told
    assert (found.weights, found.squares) == (18.0, 9.0)


def test_others_excuse_what_they_make_up_for():
    small = Exposure(
        coefficients=9,
        slots={"C(cp)[T.2] = 1": 4},
        values={"only here": {"0": 40, "1": 1}},
        weights=weights([0.2] * 6),
    )
    assert set(codes(small, 41)) == {"SATURATED", "LEVEL_TOO_SMALL"}
    slots = ("C(cp)[T.2] = 1",)
    others = totals(np.array([800.0, 4.0, 0.0, 20.0, 160.0, 32.0]), slots, ())
    assert codes(small, 41, others) == ["LEVEL_TOO_SMALL"]  # what only this site has, stays refused
    assert isolating(POLICY, small).tolist() == [True]
    assert isolating(POLICY, small, others).tolist() == [False]
    nobody = totals(np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0]), slots, ())
    assert set(codes(small, 41, nobody)) == {"SATURATED", "LEVEL_TOO_SMALL"}
    assert isolating(POLICY, small, nobody).tolist() == [True]


def test_others_do_not_excuse_a_patient_who_is_most_of_the_total():
    lonely = Exposure(weights=weights([0.25] + [1e-9] * 100))
    others = totals(np.array([800.0, 4.0, 0.0, 0.2, 1e-4]), (), ())
    assert isolating(POLICY, lonely, others).tolist() == [True]


def test_names_of_levels():
    exposure = Exposure(slots={"outcome = 0": 7}, values={"sex": {"0": 5, "1": 6}})
    assert levels_of(POLICY, exposure, 1000) == {"outcome = 0": 7, "sex = 0": 5, "sex = 1": 6}


def test_no_sum_of_a_product_is_shared_that_few_lack():
    """It would be the sum of all less the few's; so would be that of its residuals."""
    exposure = Exposure(
        slots={"[rare = 0] lab = 0": 1, "[rare = 0] lab = 1": 99},
        columns={
            "lab": weights([1.0] * 100),
            "[rare = 0] lab": weights([1.0] * 99),
            "(residual of) [rare = 0] lab": weights([1.0] * 99),
        },
        weights=weights([0.5] * 100),
    )
    vector = share(POLICY, exposure, Evidence(100), ())
    assert vector.tolist() == [100.0, 1.0, 0.0, 100.0, 0.0, 0.0, 50.0, 25.0]
