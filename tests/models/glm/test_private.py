"""Models fitted under differential privacy.

The noise comes from the operating system, so what a test says about it fails by chance with a
probability below 1e-6; the bounds are quantiles of the chi-square distribution.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import statsmodels.api as sm
from scipy.stats import chi2

import polyclinic as pc
from polyclinic.core import codec
from polyclinic.core.contribution import Total
from polyclinic.core.errors import InputError, PolyclinicError
from polyclinic.core.fit import fit
from polyclinic.core.partition import Partition
from polyclinic.core.task import lookup
from polyclinic.engines.embedded import Embedded
from polyclinic.engines.workers import ThreadWorkers
from polyclinic.models.glm import glm
from polyclinic.models.glm.alone import predictor_of
from polyclinic.models.glm.private import PrivateGLMFit, noise_variance, private_glm
from polyclinic.models.glm.private_scale import bounds_of
from polyclinic.models.glm.private_solve import Step, join
from polyclinic.models.glm.private_tasks import Block, row_derivatives, unpack_norm
from polyclinic.models.glm.robust import scores_plan
from polyclinic.privacy import accounting, noisy
from polyclinic.privacy.dp import DifferentialPrivacy
from tests.models.glm.private_rows import (
    CHANCE,
    FAMILIES,
    HIGH,
    LOW,
    RANGES,
    STRICT,
    bound,
    plans,
    rows,
    run,
    sites,
    spec,
    summed,
    truth,
)


@pytest.fixture
def quiet(monkeypatch):
    """Noise far below what is looked at: the accountant has no use for such budgets."""
    monkeypatch.setattr(accounting, "calibrate", lambda epsilon, delta, rounds: 1e-9)


@pytest.fixture
def multipliers(monkeypatch):
    """The accountant's answers, each computed once."""
    known: dict[Any, float] = {}
    calibrate = accounting.calibrate

    def once(*asked: Any) -> float:
        if asked not in known:
            known[asked] = calibrate(*asked)
        return known[asked]

    monkeypatch.setattr(accounting, "calibrate", once)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("intercept", [True, False])
def test_without_noise_it_is_the_pooled_fit(quiet, family, intercept):
    columns = rows(family, 1200, short=True)
    if not intercept:  # else numbers far from 0 leave the ranges of the linear predictor
        columns["X"] = columns["X"] - 0.5 * (LOW + HIGH)
    half = 0.5 * (HIGH - LOW)
    ranges = RANGES if intercept else {f"x{j}": (-half[j], half[j]) for j in range(3)}
    algorithm = private_glm(spec(family, intercept=intercept), STRICT, 4, ranges=ranges, rounds=7)
    ours = fit(algorithm, sites(columns)).model[-1]
    x = sm.add_constant(columns["X"]) if intercept else columns["X"]
    theirs = sm.GLM(columns["y"], x, family=FAMILIES[family]).fit(tol=1e-14, maxiter=100)
    assert ours.end == "converged"
    error = (ours.coef[0] - theirs.params) / theirs.bse
    assert np.abs(error).max() < 1e-4
    np.testing.assert_allclose(np.sqrt(np.diag(ours.covariance)), theirs.bse, rtol=1e-4)
    assert ours.scale.moments.n == ours.scale.moments.patients == 1200
    assert ours.scale.moments.y_mean == pytest.approx(columns["y"].mean(), rel=1e-5)
    np.testing.assert_allclose(
        np.ldexp(ours.scale.moments.mean, ours.scale.spec.design.exponents),
        columns["X"].mean(axis=0),
        atol=1e-5,
        rtol=1e-5,
    )
    if family == "gaussian":
        assert ours.deviance == pytest.approx(theirs.deviance, rel=1e-4)
        assert ours.loglik == pytest.approx(theirs.llf, rel=1e-3)
    if family == "binomial":
        assert ours.deviance == pytest.approx(theirs.deviance, rel=1e-3)
        assert ours.scale.moments.counts.tolist() == np.bincount(columns["y"].astype(int)).tolist()
    if family == "poisson":
        assert ours.deviance is ours.aic is ours.pseudo_r2 is None


@pytest.mark.parametrize("family", FAMILIES)
def test_a_penalty_is_that_of_the_exact_fit(quiet, family):
    columns, wanted = rows(family, 900, seed=2, short=True), spec(family, l2=0.7)
    ours = run(wanted, columns, rounds=6)
    theirs = fit(glm(wanted), sites(columns)).model[-1]
    assert np.abs(theirs.coef - run(spec(family), columns).coef).max() > 1e-3
    error = (ours.coef[0] - theirs.coef[0]) / np.sqrt(np.diag(theirs.covariance))
    assert np.abs(error).max() < 1e-3


def test_coefficients_map_back_by_an_exact_linear_map(quiet):
    ours = run(spec("gaussian"), rows("gaussian", 500))
    raw = ours.scale.transform() @ ours.theta + ours.scale.origin()
    np.testing.assert_array_equal(raw, ours.coef[0])
    x = np.array([LOW, HIGH, 0.5 * (LOW + HIGH)])
    scaled = (x - ours.scale.bounds.centre) / ours.scale.bounds.unit
    np.testing.assert_allclose(scaled, [[-1] * 3, [1] * 3, [0] * 3], atol=1e-12)
    at_centre = ours.coef[0, 0] + x[2] @ ours.coef[0, 1:]
    assert at_centre == pytest.approx(100.0 + 40.0 * ours.theta[0])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("sums", ["clear", "secure"])
def test_intervals_include_the_noise(multipliers, family, sums):
    epsilon = {"gaussian": 4.0, "binomial": 0.8, "poisson": 6.0}[family]
    privacy = DifferentialPrivacy(epsilon if sums == "clear" else 0.6 * epsilon, 1e-6)
    repeats, distance, noise = 8, 0.0, 0.0
    for seed in range(repeats):
        ours = run(spec(family), rows(family, 2000, seed), privacy, sums=sums)
        assert ours.end == "converged"
        off = ours.coef[0] - truth(family)
        distance += float(off @ np.linalg.solve(ours.covariance, off))
        noise += np.trace(np.linalg.solve(ours.covariance, ours.noise_covariance)) / 4 / repeats
    assert chi2.ppf(CHANCE, 4 * repeats) / 1.2 < distance < 1.2 * chi2.isf(CHANCE, 4 * repeats)
    assert noise > 0.4  # else the test would not see an interval without it


def test_the_noise_in_the_errors_grows_as_epsilon_falls(multipliers):
    columns = rows("gaussian", 2000)
    sizes = []
    for epsilon in (20.0, 5.0, 1.2):
        ours = run(spec("gaussian"), columns, DifferentialPrivacy(epsilon, 1e-6))
        noise = np.sqrt(np.diag(ours.noise_covariance))
        sampling = ours.covariance - ours.noise_covariance
        assert (np.linalg.eigvalsh(sampling) > 0).all()
        sizes.append(noise[1])
    assert sizes[1] > 1.5 * sizes[0] and sizes[2] > 1.5 * sizes[1]


def test_noise_that_drowns_the_data_is_said(multipliers):
    ours = run(spec("binomial"), rows("binomial", 100), DifferentialPrivacy(0.05, 1e-6))
    assert ours.end == "noise" and not ours.converged
    assert np.isfinite(ours.coef).all()
    assert np.isnan(ours.covariance).all()


def test_many_points_are_joined_as_one(quiet):
    """Three noiseless rounds of a quadratic have its optimum in common, wherever they looked."""
    rng = np.random.default_rng(0)
    a = rng.normal(size=(6, 4))
    hessian, best = a.T @ a, rng.normal(size=4)
    steps = [Step(at, hessian @ (at - best), hessian, 1e-3, 1e-6) for at in rng.normal(size=(3, 4))]
    joined = join(steps, np.zeros((4, 4)))
    np.testing.assert_allclose(joined.solution, best, rtol=1e-9)
    np.testing.assert_allclose(joined.noise, joined.noise.T)
    alone = join(steps[:1], np.zeros((4, 4)))
    ratio = np.trace(joined.noise) / np.trace(alone.noise)
    assert 0.2 < ratio < 0.5  # the mean of three


def test_the_joined_noise_is_that_of_gradients_and_hessians():
    rng = np.random.default_rng(4)
    hessian, points = np.diag([60.0, 50.0, 80.0]), 3.0 * rng.normal(size=(4, 3))
    found, stated = [], np.zeros((3, 3))
    for _ in range(600):
        steps = []
        for at in points:
            e = np.triu(rng.normal(size=(3, 3)), 1)
            e = e + e.T + math.sqrt(2.0) * np.diag(rng.normal(size=3))
            gradient = hessian @ at + 3.0 * rng.normal(size=3)
            steps.append(Step(at, gradient, hessian + e, 9.0, 2.0))
        joined = join(steps, np.zeros((3, 3)))
        found.append(joined.solution)
        stated += joined.inverse @ joined.noise @ joined.inverse / 600
    ratio = np.linalg.eigvals(np.linalg.solve(stated, np.cov(np.array(found).T))).real
    assert ratio.min() > 0.8 and ratio.max() < 1.25
    without = np.trace(np.linalg.inv(hessian) @ np.linalg.inv(hessian)) * 9.0 / 4
    assert np.trace(stated) > 1.5 * without


def test_curvature_on_the_way_is_taken_along():
    """The gradient b^2 - 1 + 2 (b - 1), looked at on both sides of its root 1."""
    steps = [
        Step(np.array([b]), np.array([b * b - 1 + 2 * (b - 1)]), np.array([[2 * b + 2]]), 1e9, 1e-9)
        for b in (0.4, 1.6)
    ]
    assert join(steps, np.zeros((1, 1))).solution[0] == pytest.approx(1.0, abs=1e-8)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_patient_moves_a_sum_by_more_than_its_bound(family):
    rng = np.random.default_rng(5)
    reached = 0.0
    for _ in range(150):
        theta = rng.normal(size=4) * rng.choice([0.1, 1.0, 30.0])
        plan = plans(family, theta)
        patients = rng.integers(1, 6)
        key = np.sort(rng.integers(0, patients, 12))
        x = 0.5 * (LOW + HIGH) + (HIGH - LOW) * rng.normal(size=(12, 3)) * rng.choice([0.3, 5, 1e6])
        y = {
            "gaussian": rng.normal(100, 30, 12),
            "binomial": rng.integers(0, 2, 12),
            "poisson": rng.integers(0, 40, 12),
        }[family].astype(float)
        everyone = summed(plan, Partition({"X": x, "y": y}, key))
        for patient in np.unique(key):
            others = key != patient
            without = summed(plan, Partition({"X": x[others], "y": y[others]}, key[others]))
            reached = max(reached, float(np.linalg.norm(everyone - without)) / bound(plan))
    assert 0.95 < reached <= 1.0  # the bound holds, and is no larger than it has to be


@pytest.mark.parametrize("family", ["binomial", "poisson"])
def test_no_row_is_cut_for_its_outcome_or_mean(family):
    """Gradient and Hessian of a row fit into the bound together, for every mean and outcome."""
    longest = 0.0
    for constant in np.linspace(-9.0, 9.0, 181):
        plan = plans(family, np.array([constant, 0.0, 0.0, 0.0]))
        y = np.array([0.0, 1.0] if family == "binomial" else [0.0, 6.0, 12.0])
        block = Block(
            np.ones((len(y), 4)), y / (12.0 if len(y) == 3 else 1.0), np.ones(len(y)), None
        )
        longest = max(longest, float(np.hypot(*row_derivatives(plan, block)).max()))
    assert 0.999 < longest < 1.0 + 1e-12


@pytest.mark.parametrize("family", FAMILIES)
def test_a_longer_row_counts_less_and_not_by_its_outcome(family):
    """Clipping has to leave the sums unbiased: what a row counts depends on its terms only."""
    plan = plans(family, np.zeros(4))
    x = np.array([HIGH])
    found = [summed(plan, Partition({"X": x, "y": np.array([y])})) for y in (0.0, 1.0)]
    weight = bounds_of(spec(family), RANGES).row_norm ** 2 / 4.0
    assert weight < 1.0
    if family == "gaussian":
        xx = [unpack_norm(one, 5)[0, 0] for one in found]
        assert xx == pytest.approx([weight, weight], rel=1e-6)
    else:
        difference = (found[0] - found[1])[0] * (12.0 if family == "poisson" else 1.0)
        assert difference == pytest.approx(weight, rel=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_patient_with_many_rows_counts_once(family):
    columns = rows(family, 60, short=True)
    plan = plans(family, np.array([0.2, -0.1, 0.3, 0.1]))
    once = summed(plan, Partition(columns))
    thrice = {name: np.repeat(values, 3, axis=0) for name, values in columns.items()}
    np.testing.assert_allclose(
        summed(plan, Partition(thrice, np.repeat(np.arange(60), 3))), once, rtol=1e-6, atol=1e-6
    )
    assert np.linalg.norm(summed(plan, Partition(thrice)) - 3 * once) < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("grouped", [False, True])
def test_same_bytes_however_rows_are_split(family, grouped):
    columns = rows(family, 3001)
    key = np.sort(np.random.default_rng(1).integers(0, 900, 3001)) if grouped else None
    plan = plans(family, np.array([0.2, -0.7, 0.3, 0.1]))
    found = {
        codec.encode(ThreadWorkers(Partition(columns, key), parts).sum(plan).words)
        for parts in (1, 2, 7, 64)
    }
    assert len(found) == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_plans_carry_declared_scales_only(multipliers, family):
    asked = []
    for seed in (0, 1):
        columns = rows(family, 800, seed)
        columns["X"] = columns["X"] * (1.0 + 0.1 * seed)
        engine, algorithm = sites(columns), private_glm(spec(family), STRICT, 4, ranges=RANGES)
        state, seen = algorithm.init(0), []
        while (plan := algorithm.plan(state)) is not None:
            seen.append(plan)
            state = codec.decode(codec.encode(algorithm.update(state, plan, engine.total(plan))))
        asked.append(seen)
        assert len(seen) == algorithm.rounds
        assert isinstance(algorithm.model(state)[-1], PrivateGLMFit)
    assert asked[0][0].to_bytes() == asked[1][0].to_bytes()
    for one, two in zip(*asked, strict=True):
        differ = {
            name
            for name, value in one.values.items()
            if codec.encode(value) != codec.encode(two.values[name])
        }
        assert differ <= {"theta"}


@pytest.mark.parametrize("family", FAMILIES)
def test_all_rounds_together_cost_no_more_than_was_asked(family):
    algorithm = private_glm(spec(family), STRICT, 4, ranges=RANGES)
    multiplier = algorithm.init(0)["multiplier"]
    event = {"mechanism": "gaussian", "multiplier": multiplier, "times": algorithm.rounds}
    assert 0.99 * STRICT.epsilon < accounting.epsilon([event], STRICT.delta) <= STRICT.epsilon


def test_the_variance_of_the_noise_in_a_total():
    plan = plans("gaussian")
    plan = replace(plan, values={**plan.values, noisy.KEY: {"multiplier": 2.0}}, _derived={})
    (leaf,) = lookup(plan.task, plan.version).leaves(plan)
    sigma = math.sqrt(noisy.Noise("gaussian", 2.0).variance(leaf, [leaf]))
    for k, threshold in ((3, 3), (4, 3), (5, 4), (5, 3), (10, 7), (10, 6)):
        names = tuple("abcdefghij"[:k])
        clear, secure = Total({}, names), Total({}, names, opened_by=threshold)
        assert noise_variance(clear, leaf, plan) == pytest.approx(k * sigma**2)
        assert noise_variance(secure, leaf, plan) == pytest.approx(k / threshold * sigma**2)


@pytest.mark.parametrize("sums", ["clear", "secure"])
def test_the_noise_that_arrives_has_that_variance(sums):
    columns, plan = rows("gaussian", 40), plans("gaussian")
    plan = replace(plan, values={**plan.values, noisy.KEY: {"multiplier": 500.0}}, _derived={})
    (leaf,) = lookup(plan.task, plan.version).leaves(plan)
    exact, squares, count = summed(plan, Partition(columns)), 0.0, 0
    for _ in range(25):
        total = sites(columns, sums=sums).total(plan)
        noise = (total[leaf.name] - exact) / math.sqrt(noise_variance(total, leaf, plan))
        squares, count = squares + float(noise @ noise), count + noise.size
    assert chi2.ppf(CHANCE, count) < squares < chi2.isf(CHANCE, count)


def test_folds_leave_patients_out(quiet):
    columns = rows("binomial", 900, short=True)
    key = np.repeat(np.arange(300), 3)
    found = []
    for without in (0, 1):
        wanted = spec("binomial", rows={"folds": 3, "without": without})
        ours = fit(private_glm(wanted, STRICT, 3, ranges=RANGES), sites(columns, 3, key=key)).model[
            -1
        ]
        kept = key % 3 != without
        part = {name: values[kept] for name, values in columns.items()}
        alone = private_glm(spec("binomial"), STRICT, 1, ranges=RANGES)
        theirs = fit(alone, sites(part, 1, key=key[kept])).model[-1]
        np.testing.assert_allclose(ours.coef, theirs.coef, rtol=1e-5)
        assert ours.scale.moments.patients == 200
        found.append(ours.coef)
    assert not np.allclose(found[0], found[1], rtol=1e-3)


def test_the_faces_of_an_exact_fit_work(multipliers):
    columns = rows("binomial", 2000)
    ours = run(spec("binomial"), columns, DifferentialPrivacy(4.0, 1e-6))
    probability = predictor_of(ours).predict(Partition(columns))
    assert probability.shape == (2000,) and np.all((probability > 0) & (probability < 1))
    model = pc.LogisticRegression()
    model.result_ = ours
    table = model.summary()
    np.testing.assert_array_equal(table["se"], np.sqrt(np.diag(ours.covariance)))
    assert table.index.tolist() == ["Intercept", "x0", "x1", "x2"]
    assert ours.rounds == 5 and ours.multiplier > 0 and ours.privacy.epsilon == 4.0
    assert 0 < ours.deviance <= ours.null_deviance and math.isfinite(ours.aic)


def test_no_exact_round_follows_a_private_fit(quiet):
    with pytest.raises(InputError) as caught:
        scores_plan(run(spec("binomial"), rows("binomial", 200)), "row")
    assert caught.value.code == "NO_PRIVATE_VERSION"


def test_rows_without_a_gate_are_refused():
    part = Partition(rows("gaussian", 50))
    with pytest.raises(PolyclinicError) as caught:
        fit(private_glm(spec("gaussian"), STRICT, 1, ranges=RANGES), Embedded().domain(part))
    assert caught.value.code == "NO_NOISE"


def test_a_missing_hospital_is_noticed(quiet):
    columns = rows("gaussian", 90)
    with pytest.raises(PolyclinicError) as caught:
        fit(private_glm(spec("gaussian"), STRICT, 4, ranges=RANGES), sites(columns, 3))
    assert caught.value.code == "WRONG_ANSWER"
