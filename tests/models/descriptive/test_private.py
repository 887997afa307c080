"""Counts, means and histograms under differential privacy.

The noise comes from the operating system, so what a test says about it fails by chance with a
probability below 1e-6.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import chi2

from polyclinic.core import codec
from polyclinic.core.errors import InputError, PolyclinicError
from polyclinic.core.fit import fit
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.core.task import lookup
from polyclinic.engines.embedded import Embedded
from polyclinic.engines.workers import ThreadWorkers
from polyclinic.models.descriptive import Column, PrivateHistogram, PrivateMoments
from polyclinic.models.private import noise_variance
from polyclinic.privacy import accounting, noisy
from polyclinic.privacy.dp import DifferentialPrivacy
from polyclinic.privacy.policy import open_policy
from tests.core.wiring import cut, domain, partition
from tests.models.descriptive.patients import AGE, DOSE, PAIN, SEX, SIZES, columns

STRICT = DifferentialPrivacy(1.0, 1e-6)
BOTH = (AGE, DOSE)
ALL = (AGE, DOSE, SEX, PAIN)
CHANCE = 1e-7


@pytest.fixture
def quiet(monkeypatch):
    """Noise far below what is looked at: the accountant has no use for such budgets."""
    monkeypatch.setattr(accounting, "calibrate", lambda epsilon, delta, rounds: 1e-9)


def engine(parts: dict[str, Partition], sums: Any = "clear", threshold: Any = "two_thirds") -> Any:
    makers = {name: (lambda cohort, p=p: p) for name, p in parts.items()}
    policy = replace(open_policy(), threshold=threshold)
    return Embedded().federation(makers, dict.fromkeys(parts, policy), sums=sums)


def plans(kind: str, asked: tuple[Column, ...] = BOTH, mechanism: str = "gaussian") -> Plan:
    algorithm: Any = (
        PrivateMoments(asked, STRICT) if kind == "moments" else PrivateHistogram(asked, 8, STRICT)
    )
    state = {"done": False, "multiplier": 1.0, "mechanism": mechanism}
    plan: Plan = algorithm.plan(state)
    return plan


def summed(plan: Plan, part: Partition) -> np.ndarray:
    task = lookup(plan.task, plan.version)
    (leaf,) = task.leaves(plan)
    return np.asarray(task.local(plan, part).leaves[leaf.name])


def test_without_noise_moments_are_those_of_the_pooled_rows(quiet):
    data = columns()
    found = fit(PrivateMoments(ALL, STRICT), engine(cut(data, SIZES))).model
    for column in ALL:
        x, one = data[column.name], found[column.name]
        x = x[~np.isnan(x)]
        assert one["n"] == len(x)
        assert one["mean"] == pytest.approx(x.mean(), rel=1e-6)
        assert one["variance"] == pytest.approx(x.var(ddof=1), rel=1e-5)
        assert one["sd"] == pytest.approx(x.std(ddof=1), rel=1e-5)


def test_without_noise_histograms_are_numpys(quiet):
    data = columns()
    found = fit(PrivateHistogram(ALL, 12, STRICT), engine(cut(data, SIZES))).model
    assert list(found) == [column.name for column in ALL]
    for column in ALL:
        x, one = data[column.name], found[column.name]
        counts, _ = np.histogram(x[~np.isnan(x)], one["edges"])
        assert one["counts"] == counts.tolist()
        assert one["n"] == counts.sum()
        np.testing.assert_allclose(one["lower"], counts, atol=1e-5)
        np.testing.assert_allclose(one["upper"], counts, atol=1e-5)
    assert len(found["pain"]["counts"]) == 3 and len(found["sex"]["counts"]) == 2


def test_values_outside_the_range_belong_to_its_ends(quiet):
    x = np.array([-50.0, 0.2, 0.9, 1.0, 7.0])
    column = Column("x", "number", lower=0, upper=1)
    parts = {"a": partition({"x": x}, site="a")}
    assert fit(PrivateHistogram((column,), 2, STRICT), engine(parts)).model["x"]["counts"] == [2, 3]
    mean = fit(PrivateMoments((column,), STRICT), engine(parts)).model["x"]["mean"]
    assert mean == pytest.approx(np.clip(x, 0, 1).mean(), abs=1e-6)


@pytest.mark.parametrize("kind", ["moments", "histogram"])
@pytest.mark.parametrize("asked", [(AGE,), BOTH, ALL])
def test_no_patient_moves_the_sums_by_more_than_the_bound(kind, asked):
    draw, reached, plan = np.random.default_rng(3), 0.0, plans(kind, asked)
    (leaf,) = lookup(plan.task, plan.version).leaves(plan)
    for _ in range(100):
        key = np.sort(draw.integers(0, draw.integers(1, 6), 10))
        data = columns(int(draw.integers(1000)), 10)
        data["age"], data["dose"] = 1e3 * draw.normal(size=10), 1e3 * draw.normal(size=10)
        everyone = summed(plan, partition(data, key))
        for patient in np.unique(key):
            kept = key != patient
            others = {name: values[kept] for name, values in data.items()}
            change = everyone - summed(plan, partition(others, key[kept]))
            reached = max(reached, float(np.linalg.norm(change)) / leaf.bound)
    assert 0.99 < reached <= 1.0  # the bound holds, and is no larger than it has to be


@pytest.mark.parametrize("kind", ["moments", "histogram"])
def test_a_patient_with_many_rows_counts_once_per_column(kind):
    data = columns(n=50)
    once = summed(plans(kind), partition(data))
    thrice = {name: np.repeat(values, 3) for name, values in data.items()}
    key = np.repeat(np.arange(50), 3)
    np.testing.assert_allclose(summed(plans(kind), partition(thrice, key)), once, atol=1e-6)
    gaps = {**thrice, "dose": np.where(np.arange(150) % 3 == 1, thrice["dose"], np.nan)}
    np.testing.assert_allclose(summed(plans(kind), partition(gaps, key)), once, atol=1e-6)


@pytest.mark.parametrize("kind", ["moments", "histogram"])
@pytest.mark.parametrize("grouped", [False, True])
def test_same_bytes_however_rows_are_split(kind, grouped):
    data = columns(n=2003)
    key = np.sort(np.random.default_rng(1).integers(0, 700, 2003)) if grouped else None
    plan = plans(kind, ALL)
    found = {
        codec.encode(ThreadWorkers(partition(data, key), parts).sum(plan).words)
        for parts in (1, 2, 7, 64)
    }
    assert len(found) == 1


def test_one_round_costs_what_was_asked():
    algorithm = PrivateMoments(ALL, STRICT)
    event = {"mechanism": "gaussian", "multiplier": algorithm.init(0)["multiplier"]}
    assert 0.99 < accounting.epsilon([event], STRICT.delta) <= 1.0
    state = algorithm.init(0)
    plan = algorithm.plan(state)
    assert plan is not None
    done = algorithm.update(state, plan, engine(cut(columns(), SIZES)).total(plan))
    assert algorithm.plan(codec.decode(codec.encode(done))) is None


@pytest.mark.parametrize("sums", ["clear", "secure"])
def test_the_stated_noise_is_the_noise(sums):
    """Over repetitions, errors in units of their stated size have mean square 1."""
    x = np.random.default_rng(0).uniform(0.0, 60.0, 4000)
    column, parts = Column("x", "number", lower=0, upper=60), cut({"x": x}, (1000,) * 4)
    true_counts, edges = np.histogram(x, 20, (0, 60))
    mean, counts, inside, repeats = 0.0, 0.0, 0, 14
    moments, histogram = PrivateMoments((column,), STRICT), PrivateHistogram((column,), 20, STRICT)
    first = {id(algorithm): algorithm.init(0) for algorithm in (moments, histogram)}
    for _ in range(repeats):
        models = []
        for algorithm in (moments, histogram):
            state = first[id(algorithm)]
            plan = algorithm.plan(state)
            total = engine(parts, sums).total(plan)
            models.append(algorithm.model(algorithm.update(state, plan, total))["x"])
        one, bins = models
        mean += ((one["mean"] - x.mean()) / one["mean_noise"]) ** 2
        counts += ((one["n"] - 4000) / one["n_noise"]) ** 2
        lower, upper = np.array(bins["lower"]), np.array(bins["upper"])
        assert bins["edges"] == pytest.approx(edges.tolist())
        inside += int(np.count_nonzero((lower <= true_counts) & (true_counts <= upper)))
    for squares in (mean, counts):
        assert chi2.ppf(CHANCE, repeats) < squares < chi2.isf(CHANCE, repeats)
    assert 0.85 < inside / (20 * repeats) < 1.0  # 95 %


@pytest.mark.parametrize("mechanism", ["gaussian", "laplace"])
@pytest.mark.parametrize(
    ("sums", "threshold"),
    [("clear", "two_thirds"), ("secure", "two_thirds"), ("secure", "majority")],
)
def test_the_stated_variance_is_that_of_the_hospitals_that_add_noise(sums, threshold, mechanism):
    """Of 1200 bins and five hospitals, where three may open a total and not four."""
    algorithm = PrivateHistogram((DOSE,), 1200, STRICT)
    plan = algorithm.plan({"done": False, "multiplier": 500.0, "mechanism": mechanism})
    assert plan is not None
    (leaf,) = lookup(plan.task, plan.version).leaves(plan)
    data = {"dose": np.full(50, 20.0)}
    total = engine(cut(data, (10,) * 5), sums, threshold).total(plan)
    errors = total["bins"] - summed(plan, partition(data))
    ratio = (errors**2).mean() / noise_variance(total, leaf, plan)
    kurtosis = 2.0 if mechanism == "gaussian" else 2.6  # of a sum of five Laplace variables: + 3/5
    assert abs(ratio - 1.0) < 5.5 * math.sqrt(kurtosis / len(errors)) < 4 / 3 - 1


def test_what_the_noise_drowns_is_left_out():
    weak = DifferentialPrivacy(0.01, 1e-6)
    found = fit(PrivateMoments(BOTH, weak), engine(cut(columns(), SIZES))).model
    assert all(found[name]["mean"] is None is found[name]["sd"] for name in ("age", "dose"))
    bins = fit(PrivateHistogram(BOTH, 10, weak), engine(cut(columns(), SIZES))).model
    assert all(min(bins[name]["counts"]) >= 0 and bins[name]["n"] >= 0 for name in bins)


def test_nothing_asked_nothing_answered():
    for algorithm in (PrivateMoments((), STRICT), PrivateHistogram((), 5, STRICT)):
        assert fit(algorithm, engine(cut(columns(), SIZES))).model == {}


def test_an_empty_site_and_an_all_missing_column(quiet):
    data = {"age": np.full(40, np.nan), "dose": np.linspace(0, 10, 40)}
    parts = cut(data, (40, 0))
    found = fit(PrivateMoments(BOTH, STRICT), engine(parts)).model
    assert found["age"]["n"] == 0 and found["age"]["mean"] is None
    assert found["dose"]["mean"] == pytest.approx(5.0, abs=1e-6)


def test_rows_without_a_gate_are_refused():
    with pytest.raises(PolyclinicError) as caught:
        fit(PrivateMoments(BOTH, STRICT), domain(partition(columns())))
    assert caught.value.code == "NO_NOISE"


@pytest.mark.parametrize(
    "column",
    [Column("x", "number"), Column("x", "number", lower=3, upper=3), Column("x", "date", lower=0)],
)
def test_a_column_without_a_range_is_refused(column):
    for algorithm in (PrivateMoments((column,), STRICT), PrivateHistogram((column,), 5, STRICT)):
        with pytest.raises(InputError) as caught:
            algorithm.init(0)
        assert caught.value.code == "NO_RANGE"


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        ("moments", "unit", np.ones(3)),
        ("moments", "unit", np.zeros(2)),
        ("moments", "centre", np.array([0.0, math.nan])),
        ("histogram", "edges", {"age": np.zeros(3)}),
        ("histogram", "edges", {"age": np.array([1.0])}),
    ],
)
def test_a_site_refuses_a_plan_without_scales(kind, name, value):
    plan = plans(kind)
    plan = replace(plan, values={**plan.values, name: value}, _derived={})
    with pytest.raises(PolyclinicError) as caught:
        lookup(plan.task, plan.version).leaves(plan)
    assert caught.value.code == "BAD_MESSAGE"


def test_plans_carry_declared_scales_and_the_noise():
    for kind in ("moments", "histogram"):
        plan = plans(kind)
        assert noisy.noise_of(plan).multiplier == 1.0
        assert Plan.from_bytes(plan.to_bytes()).content_hash == plan.content_hash
    assert plans("moments").values["centre"].tolist() == [64.0, 25.0]
    assert plans("moments").values["unit"].tolist() == [46.0, 35.0]
