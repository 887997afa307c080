"""Every algorithm under differential privacy: what one patient can change is what it declares."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from polyclinic.core import codec
from polyclinic.core.design import Design, Term
from polyclinic.core.errors import PolyclinicError, Refused
from polyclinic.core.federation import Federation
from polyclinic.core.plan import Plan
from polyclinic.core.task import lookup, register
from polyclinic.engines.books import Books
from polyclinic.engines.site import Site
from polyclinic.engines.workers import ThreadWorkers
from polyclinic.models import tasks
from polyclinic.models.learner import values as learner_values
from polyclinic.models.trees import Feature
from polyclinic.models.trees import Spec as TreesSpec
from polyclinic.models.trees.rows import State
from polyclinic.models.trees.spec import Private
from polyclinic.models.trees.stack import Stack
from polyclinic.privacy.gate import Gate
from polyclinic.privacy.noisy import Noise
from polyclinic.privacy.policy import open_policy
from tests.core.wiring import cut, federation, partition

register(tasks)
Rows = Callable[[np.random.Generator, int], dict[str, np.ndarray]]
NOISES = ("gaussian", "laplace")
TERMS = tuple(Term(f"x{j}", (), 10.0) for j in range(3))
SCALES = {"centre": np.zeros(3), "unit": np.full(3, 2.0), "row_norm": 1.5, "rows": {}}
RADII = np.array([0.3, 3.0, 1e6])


def fitted(family: str) -> Rows:
    def draw(random: np.random.Generator, n: int) -> dict[str, np.ndarray]:
        x = random.normal(size=(n, 3)) * random.choice(RADII)
        outcomes = {
            "gaussian": 30.0 * random.normal(size=n),
            "binomial": random.integers(0, 2, n),
            "poisson": random.poisson(3.0, n),
        }
        return {"X": x, "y": outcomes[family].astype(float)}

    return draw


def columns(random: np.random.Generator, n: int) -> dict[str, np.ndarray]:
    size = random.choice([0.5, 500.0])
    found = {f"c{j}": size * random.normal(size=n) for j in range(10)}
    for values in found.values():
        values[random.uniform(size=n) < 0.02] = np.nan
    return found


def newton(family: str) -> Iterator[dict[str, Any]]:
    design = Design(TERMS, response_bound=20.0).to_data()
    random = np.random.default_rng(0)
    for size in (0.1, 1.0, 30.0):
        theta = size * random.normal(size=4)
        yield {"design": design, "family": family, "theta": theta, "largest": 9.0, **SCALES}


OUTCOME = {"family": "gaussian", "outcome_centre": 3.0, "outcome_unit": 4.0}
LINEAR = {"design": Design(TERMS, response_bound=20.0).to_data(), **OUTCOME, **SCALES}
NAMES = [f"c{j}" for j in range(10)]
MOMENTS = {"columns": NAMES, "centre": np.zeros(10), "unit": np.ones(10)}
BINS = {"edges": {name: np.linspace(-2.0, 2.0, 8) for name in NAMES}}
FEATURES = tuple(Feature(f"c{j}", (-1.0, 0.0, 1.0), 0, True) for j in range(4))


def grown(**more: Any) -> Iterator[dict[str, Any]]:
    """Two trees with a split each, at roots and below them; loss and range of the outcome."""
    design = Design(tuple(Term(f.name, (), 1.0) for f in FEATURES), "y", response_bound=20.0)
    for loss, scale in (("squared", (3.0, 4.0)), ("logistic", (0.0, 1.0))):
        private = Private(1.0, 1e-6, *scale, start=True)
        classes = 2 if loss == "logistic" else 0
        shape: dict[str, Any] = {"trees": 2, "forest": True, "depth": 2, "cell": 5}
        about = {"loss": loss, "classes": classes, "private": private}
        spec = TreesSpec(design, FEATURES, **shape, **about, **more)
        whole = [np.array(x) for x in ([0, 3, 6], [1, 0, 0, 2, 0, 0], [2, -1, -1, 0, -1, -1])]
        rest = [np.zeros(6, int), np.ones(6, int), np.array([1, -1, -1, 1, -1, -1])]
        grow = Stack(*whole, *rest, np.zeros((6, 1)))
        asked = np.array([[0, 1], [0, 2], [1, 1], [1, 2]])
        for margin in (0.0, 2.0, -7.0):
            state = State(np.array([margin]), np.zeros(0), Stack.none(1), grow, asked)
            yield learner_values(spec, **state.to_data())


def patients(random: np.random.Generator, n: int) -> dict[str, np.ndarray]:
    return columns(random, n) | {"y": random.integers(0, 2, n).astype(float)}


ASKED: dict[str, list[tuple[dict[str, Any], Rows]]] = {
    "glm.private_products": [(LINEAR, fitted("gaussian"))],
    "glm.private_newton": [
        (values, fitted(family)) for family in ("binomial", "poisson") for values in newton(family)
    ],
    "descriptive.private_moments": [(MOMENTS, columns)],
    "descriptive.private_histogram": [(BINS, columns)],
    "trees.private_level": [(values, patients) for values in grown()],
    "trees.private_leaves": [(values, patients) for values in grown()],
}
FITTING = {  # the norms in which a task can bound a patient's part
    "glm.private_products": {"gaussian"},
    "glm.private_newton": {"gaussian"},
    "descriptive.private_moments": {"gaussian", "laplace"},
    "descriptive.private_histogram": {"gaussian", "laplace"},
    "trees.private_level": {"gaussian"},
    "trees.private_leaves": {"gaussian"},
}


def plan_of(task: str, values: dict[str, Any], mechanism: str) -> Plan:
    return Plan(task, {**values, "noise": {"multiplier": 3.0, "mechanism": mechanism}})


def summed(plan: Plan, data: dict[str, np.ndarray], key: np.ndarray | None = None) -> Any:
    (found,) = lookup(plan.task, plan.version).local(plan, partition(data, key)).leaves.values()
    return found


def norm(leaf_norm: str, change: np.ndarray) -> float:
    return float(np.abs(change).sum() if leaf_norm == "l1" else np.linalg.norm(change))


def hospitals(rows: Rows, n: int = 40) -> Federation:
    return federation(cut(rows(np.random.default_rng(1), n), (n // 2, n // 2)), open_policy())


def test_no_private_task_is_left_out() -> None:
    made = {task.name for task in tasks if ".private_" in task.name}
    assert made == set(ASKED) == set(FITTING)


@pytest.mark.parametrize(("name", "mechanism"), [(n, m) for n in ASKED for m in sorted(FITTING[n])])
def test_no_patient_changes_more_than_is_declared(name: str, mechanism: str) -> None:
    random, reached = np.random.default_rng(7), 0.0
    for values, draw in ASKED[name]:
        plan = plan_of(name, values, mechanism)
        (leaf,) = lookup(name, plan.version).leaves(plan)
        assert leaf.norm == Noise(mechanism, 1.0).norm

        for _ in range(60):
            key, data = np.sort(random.integers(0, random.integers(1, 6), 10)), draw(random, 10)
            whole = summed(plan, data, key)
            for patient in np.unique(key):
                rest = {column: array[key != patient] for column, array in data.items()}
                change = whole - summed(plan, rest, key[key != patient])
                reached = max(reached, norm(leaf.norm, change) / leaf.bound)
    assert 0.9 < reached <= 1.0  # it holds, and is no larger than it has to be


@pytest.mark.parametrize("mechanism", NOISES)
@pytest.mark.parametrize("name", ASKED)
def test_the_noise_is_for_what_one_patient_can_change(name: str, mechanism: str) -> None:
    """Laplace noise of ten columns once had the scale of the root of what it has to hide."""
    values, rows = ASKED[name][0]
    plan = plan_of(name, values, mechanism)
    if mechanism not in FITTING[name]:
        with pytest.raises(Refused) as caught:
            hospitals(rows).total(plan)
        assert caught.value.code == "NOT_BOUNDED"
        return
    (leaf,) = lookup(name, plan.version).leaves(plan)
    true = summed(plan, rows(np.random.default_rng(1), 40))
    errors = np.array([hospitals(rows).total(plan)[leaf.name] - true for _ in range(40)])
    most = {"descriptive.private_moments": 30.0, "descriptive.private_histogram": 10.0}
    if mechanism == "laplace":  # two hospitals, each Laplace noise of scale 3 x the L1 norm
        expected = 2 * 2 * (3.0 * most[name]) ** 2
    else:
        expected = 2 * (3.0 * leaf.bound) ** 2
    deviation = np.sqrt(5.0 / errors.size)  # of the ratio; 2 / size for Gaussian noise
    assert abs((errors**2).mean() / expected - 1.0) < 7 * deviation


@pytest.mark.parametrize("name", ASKED)
def test_nothing_is_computed_without_noise(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not at the site, whatever its policy lets out, and not by a message that nobody checked."""
    values, rows = ASKED[name][0]
    plan, task = Plan(name, values), lookup(name, 1)
    data = partition(rows(np.random.default_rng(1), 40))
    for ask in (lambda: task.leaves(plan), lambda: task.local(plan, data)):
        with pytest.raises(PolyclinicError) as caught:
            ask()
        assert caught.value.code == "NOISE_REQUIRED"
    monkeypatch.setattr(np, "unique", None)  # of a patient's rows: the first thing it would do
    workers = ThreadWorkers(data)
    site = Site(Gate("a", open_policy()), lambda cohort: workers, Books.in_memory(), 1)
    assert codec.decode(site.answer(plan.to_bytes())) == {"code": "NOISE_REQUIRED"}
