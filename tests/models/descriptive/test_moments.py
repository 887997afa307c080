from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import stats

from polyclinic.core.errors import Refused
from polyclinic.core.fit import fit
from polyclinic.models.descriptive import Column, Moments
from tests.core.wiring import OPEN, cut, domain, federation, partition
from tests.models.descriptive.patients import AGE, DOSE, SEX, SIZES, columns, frame

FIGURES = ("mean", "variance", "sd", "skew")


def moments(engine, *asked, by=None, skew=True):
    return fit(Moments(asked, by, skew), engine).model


@pytest.mark.parametrize("partitions", [1, 3, 7])
@pytest.mark.parametrize("sites", [SIZES, None])
def test_equals_pandas_and_scipy_on_the_pooled_rows(partitions, sites):
    data, pooled = columns(), frame()
    engine = (
        federation(cut(data, sites), OPEN, partitions=partitions)
        if sites
        else domain(partition(data), partitions)
    )
    found = moments(engine, AGE, DOSE, by=SEX)
    groups = [
        (found["all"], pooled),
        (found["by"]["female"], pooled[pooled.sex == 0]),
        (found["by"]["male"], pooled[pooled.sex == 1]),
    ]
    for figures, expected in groups:
        for name in ("age", "dose"):
            values = expected[name].dropna()
            assert figures[name]["n"] == len(values)
            assert figures[name]["mean"] == pytest.approx(values.mean(), rel=1e-12)
            assert figures[name]["variance"] == pytest.approx(values.var(), rel=1e-12)
            assert figures[name]["sd"] == pytest.approx(values.std(), rel=1e-12)
            assert figures[name]["skew"] == pytest.approx(stats.skew(values), rel=1e-11)
    if not sites:
        assert found["all"]["dose"]["missing"] == pooled.dose.isna().sum()


def test_the_order_of_sites_does_not_change_a_byte():
    parts = cut(columns(), SIZES)
    turned = dict(reversed(parts.items()))
    assert moments(federation(parts), AGE, DOSE) == moments(federation(turned), AGE, DOSE)


@pytest.mark.parametrize("bound", [2.0**20, None])
@pytest.mark.parametrize("unit", [1e-9, 1e-3, 1.0, 1e6, 1e12])
def test_twelve_digits_whatever_the_unit(unit, bound):
    x = np.random.default_rng(3).normal(5.0, 1.0, 400) * unit
    column = Column("x", "number", bound=bound or 10 * unit)
    if unit == 1e-9 and bound:
        column = Column("x", "number", bound=1.0)
    found = moments(federation(cut({"x": x}, (250, 150))), column)["all"]["x"]
    exact = [Fraction(v) for v in x.tolist()]
    mean = sum(exact) / len(exact)
    variance = sum((v - mean) ** 2 for v in exact) / (len(exact) - 1)
    assert found["mean"] == pytest.approx(float(mean), rel=1e-13)
    assert found["variance"] == pytest.approx(float(variance), rel=1e-12)
    assert found["skew"] == pytest.approx(stats.skew(x), rel=1e-9)


def test_a_small_spread_on_a_large_mean_keeps_its_digits():
    x = 1e6 + np.random.default_rng(3).normal(0.0, 1e-3, 500)
    found = moments(domain(partition({"x": x}), 3), Column("x", "number", bound=2e6))["all"]["x"]
    exact = [Fraction(v) for v in x.tolist()]
    mean = sum(exact) / len(exact)
    variance = sum((v - mean) ** 2 for v in exact) / (len(exact) - 1)
    assert found["mean"] == pytest.approx(float(mean), rel=1e-15)
    assert found["variance"] == pytest.approx(float(variance), rel=1e-12)


def test_a_bound_far_too_wide_costs_rounds_and_no_digits():
    x = np.random.default_rng(3).normal(5.0, 1.0, 400) * 1e-9
    engine = federation(cut({"x": x}, (250, 150)))
    run = fit(Moments((Column("x", "number", bound=2.0**20),), skew=True), engine)
    exact = [Fraction(v) for v in x.tolist()]
    mean = sum(exact) / len(exact)
    variance = sum((v - mean) ** 2 for v in exact) / (len(exact) - 1)
    found = run.model["all"]["x"]
    assert len(run.rounds) == 3
    assert found["mean"] == pytest.approx(float(mean), rel=1e-13)
    assert found["variance"] == pytest.approx(float(variance), rel=1e-12)
    assert found["skew"] == pytest.approx(stats.skew(x), rel=1e-10)


@given(
    st.lists(st.floats(-1e3, 1e3, allow_subnormal=False), min_size=2, max_size=40),
    st.integers(1, 7),
)
def test_any_rows_cut_anywhere(values, partitions):
    x = np.array(values)
    found = moments(
        domain(partition({"x": x}), partitions), Column("x", "number", bound=1e3), skew=False
    )["all"]["x"]
    exact = [Fraction(v) for v in values]
    mean = sum(exact) / len(exact)
    variance = float(sum((v - mean) ** 2 for v in exact) / (len(exact) - 1))
    size = float(np.abs(x).max())
    assert found["n"] == len(values)
    assert found["mean"] == pytest.approx(float(mean), rel=1e-12, abs=1e-16 * size + 1e-15)
    assert found["variance"] == pytest.approx(variance, rel=1e-11, abs=1e-29 * size**2 + 1e-18)


def test_degenerate_columns():
    rows = {"one": [4.0], "none": [np.nan]}
    asked = [Column(name, "number", bound=8) for name in rows]
    found = moments(domain(partition(rows)), *asked)["all"]
    assert found["one"] == {
        "n": 1,
        "missing": 0,
        "mean": 4.0,
        "variance": None,
        "sd": None,
        "skew": None,
        "hidden_sites": 0,
    }
    assert found["none"] == {
        "n": 0,
        "missing": 1,
        "mean": None,
        "variance": None,
        "sd": None,
        "skew": None,
        "hidden_sites": 0,
    }


@pytest.mark.parametrize("value", [0.0, 0.1, -7.3e5])
def test_a_constant_column_has_no_spread(value):
    x = np.full(123, value)
    engine = federation(cut({"x": x}, (100, 23)), partitions=3)
    found = moments(engine, Column("x", "number", bound=1e6))["all"]["x"]
    assert (found["mean"], found["variance"], found["skew"]) == (value, 0.0, None)


@given(st.floats(1e-3, 1e6), st.integers(2, 300))
@example(540.3251539712052, 154)  # the rounded mean is not the value: deviations are not zero
@example(138.85464232903306, 135)
def test_any_constant_has_no_spread(value, n):
    engine = domain(partition({"x": np.full(n, value)}), 3)
    found = moments(engine, Column("x", "number", bound=1e6))
    assert (found["all"]["x"]["sd"], found["all"]["x"]["skew"]) == (0.0, None)
    assert found["all"]["x"]["mean"] == pytest.approx(value, rel=1e-15)


def test_an_empty_site_adds_nothing():
    data = columns()
    full = moments(federation(cut(data, (300, 186))), AGE, DOSE)
    assert moments(federation(cut(data, (300, 0, 186))), AGE, DOSE) == full


def test_a_site_with_few_values_is_hidden_and_said_so():
    x = np.r_[np.arange(20.0), [500.0, 501.0], np.full(18, np.nan)]
    parts = cut({"x": x}, (20, 20))
    found = moments(federation(parts), Column("x", "number", bound=1e3))["all"]["x"]
    assert (found["n"], found["hidden_sites"]) == (20, 1)
    assert found["mean"] == pytest.approx(9.5, rel=1e-14)
    opened = moments(federation(parts, OPEN), Column("x", "number", bound=1e3))["all"]["x"]
    assert (opened["n"], opened["hidden_sites"], opened["missing"]) == (22, 0, 18)


def test_a_hidden_site_far_away_does_not_stop_the_others():
    y = np.r_[np.random.default_rng(1).normal(1.0, 1e-7, 20), [1e6, -1e6, 3.0], np.full(9, np.nan)]
    found = moments(federation(cut({"y": y}, (20, 12))), Column("y", "number", bound=1e6))
    assert found["all"]["y"]["n"] == 20
    assert found["all"]["y"]["sd"] == pytest.approx(np.std(y[:20], ddof=1), rel=1e-9)


def test_several_rows_of_few_patients_are_few():
    x, key = np.arange(24.0), np.repeat(np.arange(4), 6)
    with pytest.raises(Refused) as caught:
        moments(federation({"a": partition({"x": x}, key, "a")}), Column("x", "number"))
    assert caught.value.code == "TOO_FEW_PATIENTS"
    key = np.r_[np.repeat(np.arange(4), 6), np.arange(4, 14)]
    x = np.r_[x, np.full(10, np.nan)]  # 14 patients, 4 of them with a value
    found = moments(federation({"a": partition({"x": x}, key, "a")}), Column("x", "number"))
    assert (found["all"]["x"]["n"], found["all"]["x"]["hidden_sites"]) == (0, 1)


def test_an_absent_column_and_an_infinite_value_are_named():
    with pytest.raises(Refused) as caught:
        moments(federation(cut({"x": np.arange(9.0)}, (9,))), Column("y", "number"))
    assert caught.value.code == "BAD_DATA"
    with pytest.raises(Refused) as caught:
        moments(federation(cut({"x": np.r_[np.arange(9.0), np.inf]}, (10,))), Column("x", "number"))
    assert caught.value.code == "NONFINITE"


def test_two_rounds_are_enough_for_an_ordinary_column():
    run = fit(Moments((AGE, DOSE), SEX), federation(cut(columns(), SIZES)))
    assert [r.step for r in run.rounds] == ["means", "variances"]
