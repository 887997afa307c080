from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyclinic.core.fit import fit
from polyclinic.models.descriptive import Column, Quantiles
from polyclinic.models.descriptive.cumulative import Cumulative
from polyclinic.privacy.policy import open_policy
from tests.core.wiring import OPEN, cut, domain, federation, partition
from tests.models.descriptive.patients import AGE, DOSE, SEX, SIZES, columns, frame

Q = (0.1, 0.25, 0.5, 0.75, 0.9)


def quantiles(engine, *asked, q=Q, by=None, **more):
    return fit(Quantiles(asked, q, by, **more), engine).model


@pytest.mark.parametrize("partitions", [1, 3, 7])
@pytest.mark.parametrize("sites", [SIZES, None])
def test_the_pooled_quantile_lies_in_the_stated_bin(partitions, sites):
    data, pooled = columns(), frame()
    engine = (
        federation(cut(data, sites), OPEN, partitions=partitions)
        if sites
        else domain(partition(data), partitions)
    )
    found = quantiles(engine, AGE, DOSE, by=SEX)
    for answers, rows in ((found["all"], pooled), (found["by"]["male"], pooled[pooled.sex == 1])):
        for name in ("age", "dose"):
            values = rows[name].dropna()
            for q in Q:
                answer, true = answers[name][str(q)], np.quantile(values, q)
                assert answer["lower"] - 1e-12 <= true <= answer["upper"] + 1e-12
                assert answer["lower"] <= answer["value"] <= answer["upper"]


def test_a_domain_resolves_a_large_column_to_its_tolerance():
    x = np.random.default_rng(2).normal(0.0, 1.0, 200_000)
    column = Column("x", "number", lower=-8, upper=8)
    run = fit(Quantiles((column,), Q, tolerance=1e-3), domain(partition({"x": x}), 3))
    for q in Q:
        answer = run.model["all"]["x"][str(q)]
        assert answer["upper"] - answer["lower"] <= 16 * 1e-3
        assert answer["value"] == pytest.approx(np.quantile(x, q), abs=1e-3)
    assert len(run.rounds) <= 5


def test_whole_numbers_are_exact_when_enough_patients_share_them():
    age = np.random.default_rng(5).integers(40, 60, 4000).astype(float)
    found = quantiles(federation(cut({"age": age}, (2500, 1500))), AGE)["all"]["age"]
    for q in Q:
        assert found[str(q)]["exact"]
        assert found[str(q)]["value"] == np.quantile(age, q)
    assert found["low"]["value"] == np.sort(age)[4]
    assert found["high"]["value"] == np.sort(age)[-5]


def test_between_two_whole_numbers_the_median_is_halfway():
    x = np.repeat([50.0, 51.0], 20)
    found = quantiles(domain(partition({"age": x})), AGE, q=(0.5,))["all"]["age"]
    assert found["0.5"] == {"value": 50.5, "lower": 50.5, "upper": 50.5, "exact": True}


def test_extremes_are_never_resolved():
    x = np.r_[np.repeat(50.0, 300), [18.0, 19.0, 101.0, 109.0]]
    found = quantiles(domain(partition({"age": x})), AGE, q=(0.0, 1.0))["all"]["age"]
    for answer, true in ((found["0.0"], 18.0), (found["1.0"], 109.0)):
        assert answer["lower"] <= true <= answer["upper"]
        assert np.sum((x >= answer["lower"]) & (x <= answer["upper"])) >= 5
        assert not answer["exact"]


@given(
    st.lists(st.integers(18, 110), min_size=5, max_size=120),
    st.integers(1, 4),
    st.sampled_from([3, 5, 10]),
)
def test_no_answer_is_ever_wrong_or_singles_out_a_patient(ages, sites, k):
    x = np.array(ages, dtype=float)
    sizes = [len(x) // sites] * (sites - 1)
    engine = federation(cut({"age": x}, (*sizes, len(x) - sum(sizes))), open_policy())
    hidden = quantiles(engine, AGE, q=(0.0, 0.5, 1.0), least=k)["all"]["age"]
    for q in (0.0, 0.5, 1.0):
        answer = hidden[str(q)]
        assert answer["lower"] <= np.quantile(x, q) <= answer["upper"]
    for q in (0.0, 1.0):
        inside = (x >= hidden[str(q)]["lower"]) & (x <= hidden[str(q)]["upper"])
        assert inside.sum() >= min(k, len(x))


@given(
    st.lists(st.floats(0.0, 1.0), min_size=26, max_size=200),
    st.integers(1, 3),
    st.sampled_from([2, 5, 8]),
)
def test_hidden_cells_widen_the_answer_and_never_falsify_it(values, sites, k):
    x = np.array(values)
    sizes = [k + 1] * (sites - 1)
    engine = federation(cut({"x": x}, (*sizes, len(x) - sum(sizes))), open_policy(k))
    found = quantiles(engine, Column("x", "number", lower=0, upper=1))["all"]["x"]
    for q in Q:
        answer = found[str(q)]
        assert answer["lower"] - 1e-12 <= np.quantile(x, q) <= answer["upper"] + 1e-12


def test_the_same_bytes_for_any_order_of_sites_and_any_split():
    parts = cut(columns(), SIZES)
    one = quantiles(federation(parts), AGE, DOSE)
    assert quantiles(federation(dict(reversed(parts.items())), partitions=3), AGE, DOSE) == one


def test_no_values_no_answer():
    found = quantiles(domain(partition({"age": [np.nan, np.nan]})), AGE)["all"]["age"]
    assert found == {**{str(q): None for q in Q}, "low": None, "high": None}


def test_one_value_and_a_constant():
    assert quantiles(domain(partition({"age": [47.0]})), AGE)["all"]["age"]["0.5"]["exact"] is False
    found = quantiles(federation(cut({"age": np.full(60, 47.0)}, (40, 20))), AGE)["all"]["age"]
    assert all(answer["value"] == 47.0 and answer["exact"] for answer in found.values())


def test_a_value_outside_the_agreed_range_is_not_given_a_bound():
    x = np.full(30, 200.0)
    found = quantiles(domain(partition({"age": x})), AGE, q=(0.5,))["all"]["age"]["0.5"]
    assert (found["lower"], found["upper"]) == (111.0, None)


def test_a_column_without_a_range_is_found_within_its_bound():
    x = np.random.default_rng(0).normal(1000.0, 5.0, 5000)
    found = quantiles(domain(partition({"x": x})), Column("x", "number"), tolerance=1e-6)
    assert found["all"]["x"]["0.5"]["value"] == pytest.approx(np.median(x), abs=2.0)


def test_probabilities_and_least_are_checked():
    with pytest.raises(ValueError, match="between 0 and 1"):
        Quantiles((AGE,), (1.5,))
    with pytest.raises(ValueError, match="at least 1"):
        Quantiles((AGE,), least=0)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=40), st.data())
def test_cumulative_bounds_hold_the_truth(values, data):
    x = np.sort(np.array(values, dtype=float))
    known = Cumulative.unknown(len(x))
    for _ in range(3):
        edges = np.unique(data.draw(st.lists(st.integers(0, 10), min_size=1, max_size=6)))
        bins = np.bincount(np.searchsorted(edges, x, side="right"), minlength=len(edges) + 1)
        hidden = np.array(
            data.draw(st.lists(st.booleans(), min_size=len(bins), max_size=len(bins)))
        )
        hidden &= bins > 0
        shown = np.where(hidden, bins // 2, bins)  # another site shows a part of a hidden cell
        known = known.refined(edges.astype(float), shown, hidden.astype(np.int64))
        truth = np.searchsorted(x, known.edges, side="left")
        truth[-1] = len(x)
        assert np.all(known.low <= truth)
        assert np.all(truth <= known.high)
        assert np.all(np.diff(known.low) >= 0)
        assert np.all(np.diff(known.high) >= 0)
