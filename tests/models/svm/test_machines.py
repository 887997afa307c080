"""Machines against scikit-learn's, over any split, and on data that are hardly any."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import statsmodels.api as sm
from sklearn.svm import LinearSVC, LinearSVR

import polyclinic as pc
from polyclinic.core.design import Design, Term
from polyclinic.core.errors import PolyclinicError
from polyclinic.core.fit import fit
from polyclinic.core.partition import Partition
from polyclinic.core.task import register
from polyclinic.models import tasks
from polyclinic.models.glm.kernel import Rows
from polyclinic.models.svm import Features, SVMSpec
from polyclinic.models.svm.frame import Point
from polyclinic.models.svm.kernel import Question, one_pass, sums
from polyclinic.models.svm.newton import Newton

register(tasks)
CLASSES = ("hinge", "squared_hinge")
NUMBERS = ("epsilon_insensitive", "squared_epsilon_insensitive")
EPSILON = 0.3


def made(n=400, p=4, seed=1):
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(n, p))
    eta = x @ draw.normal(size=p) - 0.4
    binary = (draw.uniform(size=n) < 1 / (1 + np.exp(-eta))).astype(float)
    kind = np.column_stack([0 * eta, eta, -x[:, 0]]) + draw.gumbel(size=(n, 3))
    return x, binary, eta + draw.normal(size=n), kind.argmax(1).astype(float)


X, BINARY, NUMBER, KIND = made()


def spec(loss="squared_hinge", classes=2, intercept=True, p=4, **more):
    terms = tuple(Term(f"x{j}", (), 16.0) for j in range(p))
    weight = "w" if more.pop("weighted", False) else None
    design = Design(terms, "y", intercept, weight=weight, response_bound=64.0, weight_bound=8.0)
    epsilon = 0.0 if classes else EPSILON
    return SVMSpec(design, loss, classes, epsilon=epsilon, **more)


def fitted(wanted, x=X, y=BINARY, partitions=1, **columns):
    rows = Partition({"X": x, "y": y, **columns})
    return fit(wanted.algorithm(), pc.Embedded(partitions).domain(rows)).model[-1]


def objective(loss, x, y, coef, intercept, weight=1.0, c=1.0):
    f = x @ np.ravel(coef) + float(np.ravel(intercept)[0])
    missed = 1 - y * f if "hinge" in loss else np.abs(y - f) - EPSILON
    missed = np.maximum(missed, 0) ** (2 if "squared" in loss else 1)
    return 0.5 * np.sum(np.square(coef)) + c * np.sum(weight * missed)


def reference(loss, y, intercept, weight=None, **more):
    maker = LinearSVC if loss in CLASSES else LinearSVR
    given = {} if loss in CLASSES else {"epsilon": EPSILON}
    model = maker(loss=loss, fit_intercept=intercept, tol=1e-11, max_iter=1_000_000, dual=True)
    return model.set_params(**given, **more).fit(X, y, weight)


@pytest.mark.parametrize("c", [0.03, 1.0])
@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("loss", [*CLASSES, *NUMBERS])
def test_the_objective_is_that_of_scikit_learn(loss, intercept, c):
    classes = loss in CLASSES
    y = BINARY if classes else NUMBER
    found = fitted(
        spec(loss, 2 * classes, intercept, C=c, intercept_scaling=1.0 if intercept else None), y=y
    )
    model = reference(loss, y, intercept, C=c)
    signed = 2 * y - 1 if classes else y
    best = objective(loss, X, signed, model.coef_, model.intercept_ if intercept else 0.0, c=c)
    best += 0.5 * float(np.ravel(model.intercept_)[0]) ** 2 if intercept else 0.0
    assert found.converged and found.gap <= 1e-9
    assert found.objective == pytest.approx(best, rel=1e-8)
    assert found.objective <= best * (1 + 1e-9)
    ours = np.ravel(found.coef)
    assert np.allclose(ours[int(intercept) :], np.ravel(model.coef_), atol=1e-4)


@pytest.mark.parametrize("loss", [*CLASSES, *NUMBERS])
def test_a_free_intercept_has_no_lower_objective_beside_it(loss):
    classes = loss in CLASSES
    y = BINARY if classes else NUMBER
    found = fitted(spec(loss, 2 * classes), y=y)
    signed, coef = (2 * y - 1 if classes else y), found.coef[0]
    at = objective(loss, X, signed, coef[1:], coef[0])
    assert at == pytest.approx(found.objective, rel=1e-12)
    draw = np.random.default_rng(0)
    for size in (1e-4, 1e-3, 1e-2, 0.1):
        for _ in range(20):
            moved = coef + size * draw.normal(size=len(coef))
            assert objective(loss, X, signed, moved[1:], moved[0]) >= at * (1 - 1e-9)


@pytest.mark.parametrize("loss", CLASSES)
def test_several_classes_each_against_the_others(loss):
    found = fitted(spec(loss, 3, intercept_scaling=1.0), y=KIND)
    model = reference(loss, KIND, True)
    best = sum(
        objective(loss, X, np.where(k == KIND, 1, -1), model.coef_[k], model.intercept_[k])
        + 0.5 * model.intercept_[k] ** 2
        for k in range(3)
    )
    assert found.objective == pytest.approx(best, rel=1e-8)
    p = found.predictor().predict(Partition({"X": X}))
    assert np.allclose(p.sum(axis=1), 1.0)
    chosen = p[np.arange(len(KIND)), KIND.astype(int)]
    assert -np.log(chosen).mean() < 0.95 * np.log(3)


@pytest.mark.parametrize("classes", [2, 3])
def test_weights_of_rows_and_classes(classes):
    y = BINARY if classes == 2 else KIND
    weight = np.random.default_rng(3).uniform(0.2, 4.0, len(y))
    weight[::7] = 0.0
    by_class = (0.5, 2.0, 1.5)[:classes]
    wanted = spec(classes=classes, class_weight=by_class, intercept_scaling=1.0, weighted=True)
    found = fitted(wanted, y=y, w=weight)
    given = dict(enumerate(by_class))
    model = reference("squared_hinge", y, True, weight, class_weight=given)
    assert np.allclose(found.coef[:, 1:], model.coef_, atol=1e-6)
    assert np.allclose(found.coef[:, 0], model.intercept_, atol=1e-6)


def test_balanced_weights():
    found = fitted(spec(class_weight="balanced", intercept_scaling=1.0))
    model = reference("squared_hinge", BINARY, True, class_weight="balanced")
    assert np.allclose(found.coef[0, 1:], model.coef_[0], atol=1e-7)


def question(squared, classes, sharpness, past=0.0):
    d = 4
    return Question(
        np.random.default_rng(2).normal(size=(3, d)) * 0.7,
        np.array([1, 1, 0]),
        squared,
        np.full(3, sharpness),
        np.full((3, d), past),
        np.full(3, past),
        np.array([[1.0, 1.0], [1.0, 2.0], [0.5, 1.0]]),
        classes,
        0.0 if classes else EPSILON,
        True,
    )


@pytest.mark.parametrize("classes", [0, 2])
@pytest.mark.parametrize(
    ("squared", "sharpness", "past"),
    [(True, 0.0, 0), (True, 5.0, 0), (False, 3.0, 0), (False, 3.0, 0.4)],
)
def test_derivatives_are_those_of_finite_differences(classes, squared, sharpness, past):
    asked = question(squared, classes, sharpness, past)
    rows = Rows(X[:40, :3], (BINARY if classes else NUMBER)[:40], np.linspace(0.1, 2, 40), None)
    found, h = sums(rows, asked, 2, None), 1e-6
    for j in range(4):
        step = h * (np.arange(4) == j)
        up, down = (
            sums(rows, replace(asked, theta=asked.theta + s), 2, None) for s in (step, -step)
        )
        assert np.allclose((up.loss - down.loss) / (2 * h), found.gradient[:, j], atol=1e-6)
        change = (up.gradient - down.gradient) / (2 * h)
        assert np.allclose(change, found.hessian[:, j], atol=1e-4)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("weighted", [False, True])
def test_sums_are_those_of_the_rows_that_the_gate_judges(classes, weighted):
    draw = np.random.default_rng(5)
    y = BINARY if classes == 2 else KIND
    weight = draw.uniform(0.5, 2.0, len(y)) if weighted else None
    machine = np.array([1] if classes == 2 else [0, 1, 2])
    theta, m = draw.normal(size=(len(machine), 5)), len(machine)
    past, by_class = np.zeros((m, 5)), np.tile([1.0, 1.5], (m, 1))
    asked = Question(
        theta, machine, True, np.zeros(m), past, np.zeros(m), by_class, classes, 0.0, True
    )
    found = sums(Rows(X, y, weight, None), asked, 2, None)
    each = asked.rows(X, y).times(asked.weights(y, weight))
    full = np.column_stack([np.ones(len(X)), X])
    for name in ("loss", "sharp", "dual"):
        np.testing.assert_allclose(getattr(found, name), getattr(each, name).sum(0), rtol=1e-12)
    np.testing.assert_allclose(found.gradient, each.first.T @ full, rtol=1e-11)
    hessian = np.einsum("ik,ia,ib->kab", each.curvature, full, full)
    np.testing.assert_allclose(found.hessian, hessian, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("more", [False, True])
def test_one_compiled_pass_has_the_same_sums(squared, intercept, more):
    pytest.importorskip("numba")
    draw = np.random.default_rng(6)
    theta, past = draw.normal(size=(2, 1, 4 + intercept))
    sharp = np.zeros(1) if squared else np.full(1, 30.0)
    by_class = np.array([[0.5, 2.0]]) if more else np.ones((1, 2))
    asked = Question(
        theta, np.ones(1, int), squared, sharp, 9 * past, 0.3 * sharp, by_class, 2, 0.0, intercept
    )
    weight = draw.integers(0, 3, len(BINARY)).astype(float) if more else None
    rows, shift = Rows(X, BINARY, weight, None), draw.normal(size=4) if more else None
    for order in (0, 1, 2):
        found, wanted = (make(rows, asked, order, shift) for make in (one_pass, sums))
        for name, values in vars(wanted).items():
            np.testing.assert_allclose(getattr(found, name), values, rtol=1e-11, atol=1e-11)
    broken = X.copy()
    broken[7, 2] = np.nan
    for make in (one_pass, sums):
        assert make(Rows(broken, BINARY, weight, None), asked, 2, shift).too_large[0]


@pytest.mark.parametrize("loss", CLASSES)
def test_a_start_on_a_sample_reaches_the_same_optimum(loss):
    x, y, _, _ = made(3000)
    tight = spec(loss, tolerance=1e-11)
    warm = fitted(replace(tight, warm_rows=300), x, y)
    cold = fitted(replace(tight, warm_rows=0), x, y)
    assert warm.objective == pytest.approx(cold.objective, rel=1e-10)
    assert np.allclose(warm.curve["theta"], cold.curve["theta"], rtol=1e-4)


def test_rounded_corners_go_on_from_a_sample_without_looking_for_step_sizes():
    x, y, _, _ = made(8000, 8)
    rows = pc.Embedded().domain(Partition({"X": x, "y": y}))
    rounds = fit(spec("hinge", p=8, warm_rows=800).algorithm(), rows).rounds
    steps = [done.step for done in rounds if done.task == "svm.machines"]
    assert "step sizes" not in steps
    assert 5 < sum("sample" in step for step in steps) < 20 and len(steps) < 60


def test_a_step_too_far_goes_back_to_where_its_slope_vanishes():
    machine = {"theta": np.zeros(2), "direction": np.array([4.0, 0.0]), "shortened": False}
    machine["point"] = {"gradient": np.array([-1.0, 5.0]), "value": 0.0}
    end = Point(1.0, 1.0, 1.0, 0.0, 0.0, np.array([3.0, 7.0]), None)
    solver = Newton(frame=None)
    assert solver._too_far(machine, end)
    back = solver._shorter(machine, end)
    assert np.allclose(back["try"], [1.0, 0.0]) and not back.get("searching")
    assert solver._shorter(back, end)["searching"]
    assert not solver._too_far(machine, replace(end, gradient=np.array([-0.1, 0.0])))


def test_columns_far_from_zero_and_of_other_sizes():
    x = X * [1.0, 100.0, 1e-3, 1.0] + [0.0, 5000.0, 0.0, 3.0]
    found = fitted(spec(p=4), x)
    signed, coef = 2 * BINARY - 1, found.coef[0]
    assert objective("squared_hinge", x, signed, coef[1:], coef[0]) == pytest.approx(
        found.objective, rel=1e-9
    )
    assert found.converged


def test_probabilities_are_those_of_a_logistic_curve_over_the_decision_values():
    found = fitted(spec())
    f = found.predictor().decision(X)
    n1, n0 = BINARY.sum(), (1 - BINARY).sum()
    target = np.where(BINARY == 1, (n1 + 1) / (n1 + 2), 1 / (n0 + 2))
    curve = sm.GLM(target, sm.add_constant(f), family=sm.families.Binomial()).fit(tol=1e-14)
    assert np.allclose(found.curve["theta"][0], curve.params[::-1], rtol=1e-7)


def test_random_features_stand_for_their_kernel_and_are_alike_everywhere():
    features = Features(components=4000, seed=7)
    z = features.map(X[:60], X.mean(axis=0), X.std(axis=0))
    u = (X[:60] - X.mean(axis=0)) / X.std(axis=0)
    kernel = np.exp(-0.25 * ((u[:, None] - u[None]) ** 2).sum(axis=2))
    assert np.abs(z @ z.T - kernel).max() < 5 / np.sqrt(4000)
    first = Features(components=3, seed=1).map(np.zeros((1, 2)), np.zeros(2), np.ones(2))
    # sqrt(2 / 3) cos(phase), from the first three words of Philox with key 1
    words = np.random.Philox(key=1).random_raw(3)
    assert np.allclose(first, np.sqrt(2 / 3) * np.cos(2 * np.pi * words / 2.0**64), atol=1e-6)


BAD = {
    "one class": ({"y": np.zeros(400)}, "ONE_CLASS"),
    "a missing number": (
        {"x": np.where(np.arange(1600).reshape(400, 4) == 5, np.nan, X)},
        "NONFINITE",
    ),
    "no row": ({"x": X[:0], "y": BINARY[:0]}, "NO_ROWS"),
    "one row": ({"x": X[:1], "y": BINARY[:1]}, "ONE_CLASS"),
    "another outcome": ({"y": BINARY + 0.5}, "OUTCOME_NOT_ALLOWED"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_data_are_named(name):
    given, code = BAD[name]
    with pytest.raises(PolyclinicError) as found:
        fitted(spec(), **{"x": X, "y": BINARY, **given})
    assert found.value.code == code


@pytest.mark.parametrize("loss", [*CLASSES, *NUMBERS])
def test_a_constant_column_a_copy_and_two_rows(loss):
    classes = loss in CLASSES
    y = BINARY if classes else NUMBER
    x = np.column_stack([X[:, 0], np.full(400, 3.0), X[:, 0], X[:, 1]])
    found = fitted(spec(loss, 2 * classes), x, y)
    assert found.converged and np.all(np.isfinite(found.coef))
    assert np.isclose(found.coef[0, 1], found.coef[0, 3], atol=1e-4)  # the shortest vector
    assert abs(found.coef[0, 2]) < 1e-6
    two = fitted(spec(loss, 2 * classes), X[:2], np.array([0.0, 1.0]))
    assert two.converged


def test_one_row_of_a_number_and_separated_classes():
    assert fitted(spec(NUMBERS[1], 0), X[:1], NUMBER[:1]).converged
    for loss in CLASSES:
        found = fitted(spec(loss, C=100.0), y=(X[:, 0] > 0).astype(float))
        assert found.converged
        right = (found.predictor().decision(X)[:, 0] > 0) == (X[:, 0] > 0)
        assert right.mean() > 0.99


@pytest.mark.parametrize("loss", [*CLASSES, *NUMBERS])
def test_any_split_of_the_rows(loss):
    classes = loss in CLASSES
    wanted, y = spec(loss, 2 * classes), BINARY if classes else NUMBER
    one = fitted(wanted, y=y)
    for partitions in (3, 7):
        other = fitted(wanted, y=y, partitions=partitions)
        assert np.allclose(other.coef, one.coef, rtol=1e-9, atol=1e-11)
        assert other.rounds == one.rounds
