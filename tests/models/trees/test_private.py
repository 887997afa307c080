"""Trees under differential privacy.

The noise comes from the operating system, so what a test says about it fails by chance with a
probability below 1e-6.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import dp_accounting
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from polyclinic.core import codec
from polyclinic.core.errors import InputError, PolyclinicError, Refused
from polyclinic.core.fit import fit
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.core.task import lookup
from polyclinic.models.learner import Asked, Column, kind_of
from polyclinic.models.trees import Fit, Spec
from polyclinic.models.trees.private import PrivateGrowing, consistent, real_bins, rounds_of
from polyclinic.models.trees.spec import Private
from polyclinic.privacy import accounting
from polyclinic.privacy.dp import DifferentialPrivacy
from polyclinic.privacy.policy import Policy
from tests.models.trees.world import CUTS, alone, hospitals, rows, spec

ROWS = rows()
BOOSTED = {"classes": 2, "loss": "logistic", "trees": 3, "rate": 0.5, "hessian": 1.0, "l2": 1.0}
WAYS: dict[str, tuple[str, dict[str, Any], Private]] = {
    "tree": ("event", {"classes": 2, "leaf": 20}, Private(1.0, 1e-6, 0.5, 0.5)),
    "number": ("number", {"leaf": 20}, Private(1.0, 1e-6, 1.0, 8.0)),
    "forest": (
        "event",
        {"classes": 2, "leaf": 20, "forest": True, "trees": 4, "node_columns": 2},
        Private(1.0, 1e-6, 0.5, 0.5),
    ),
    "logistic": ("event", BOOSTED, Private(1.0, 1e-6, 0.0, 1.0, True)),
    "squared": (
        "number",
        {"trees": 3, "rate": 0.5, "l2": 1.0, "hessian": 20.0},
        Private(1.0, 1e-6, 0.0, 20.0, True),
    ),
}


def private(way: str, **more: Any) -> Spec:
    outcome, options, noise = WAYS[way]
    names = ("a", "b", "c", "d")
    return spec(
        ROWS, outcome, 12, names=names, depth=2, cell=5, private=noise, **{**options, **more}
    )


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise far below what is looked at: the accountant has no use for such budgets."""
    monkeypatch.setattr(accounting, "calibrate", lambda epsilon, delta, rounds: 1e-9)


def grown(asked: Spec, sums: Any = "clear", columns: Any = ROWS, cuts: Any = CUTS) -> Fit:
    found: Fit = fit(asked.algorithm(), hospitals(columns, sums=sums, cuts=cuts)).model
    return found


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("way", WAYS)
def test_next_to_no_noise_gives_the_exact_trees(way: str) -> None:
    asked = private(way)
    ours = grown(asked)
    theirs = alone(replace(asked, private=None, cell=0), ROWS)
    for name in ("start", "feature", "split", "left"):
        np.testing.assert_array_equal(getattr(ours.trees, name), getattr(theirs.trees, name))
    if way != "forest":  # levels that nobody in a node has may go either way
        np.testing.assert_array_equal(ours.trees.set, theirs.trees.set)
    everyone = Partition(ROWS)
    risks = [found.predictor().predict(everyone) for found in (ours, theirs)]
    np.testing.assert_allclose(*risks, atol=1e-3)
    leaf = ours.trees.left < 0
    size = np.abs(theirs.trees.value[leaf]).max()
    if way in ("logistic", "squared"):
        np.testing.assert_allclose(ours.base, theirs.base, atol=1e-4)
        np.testing.assert_allclose(
            ours.trees.value[leaf], theirs.trees.value[leaf], atol=1e-4 * size
        )
    else:  # they start at the middle of the range, not at the mean
        moved = theirs.trees.value[leaf] + (theirs.base - ours.base) / ours.trees.trees
        np.testing.assert_allclose(ours.trees.value[leaf], moved, atol=1e-4)
    assert ours.n == ours.patients == 1200
    assert ours.rounds == rounds_of(asked)


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("way", ["forest", "logistic"])
def test_the_same_however_rows_are_split_and_seen(way: str) -> None:
    one = grown(private(way))
    for other in (grown(private(way), cuts=(0, 100, 1000, 1200)), grown(private(way), "secure")):
        np.testing.assert_array_equal(one.trees.split, other.trees.split)
        np.testing.assert_allclose(one.trees.value, other.trees.value, atol=1e-6)


@pytest.mark.usefixtures("quiet")
def test_a_patient_with_many_rows_counts_once() -> None:
    asked = private("logistic")
    plan = first_plan(asked)
    once = Partition({k: v[:50] for k, v in ROWS.items()})
    many = Partition(
        {k: np.repeat(v[:50], 4) for k, v in ROWS.items()}, np.repeat(np.arange(50), 4)
    )
    task = lookup(plan.task, 1)
    sums = [task.local(plan, part).leaves["sums"] for part in (once, many)]
    np.testing.assert_allclose(sums[0], sums[1], atol=1e-6)
    assert np.abs(sums[0]).sum() > 1.0


def first_plan(asked: Spec, level: bool = False) -> Plan:
    algorithm = asked.algorithm()
    state = algorithm.init(0)
    if level:
        assert isinstance(algorithm, PrivateGrowing)
        state = algorithm._begin(state)
    plan = algorithm.plan(state)
    assert plan is not None
    return plan


def test_the_rounds_cost_what_was_asked_for() -> None:
    """By Google's accountant of as many Gaussian mechanisms, and by the hospitals' own books."""
    asked = private("logistic")
    engine = hospitals(ROWS, Policy(epsilon=1.0, delta=1e-6))
    run = fit(asked.algorithm(), engine)
    with pytest.raises(Refused) as caught:
        fit(replace(asked, seed=1).algorithm(), engine)
    assert caught.value.code == "BUDGET_SPENT"
    z = run.state["multiplier"]
    assert rounds_of(asked) == 1 + 3 * 3 == len(run.rounds)
    for rounds, least, most in ((10, 0.97, 1.0), (11, 1.0, 2.0)):
        accountant = dp_accounting.pld.PLDAccountant(value_discretization_interval=1e-3)
        accountant.compose(dp_accounting.GaussianDpEvent(z), rounds)
        assert least < accountant.get_epsilon(1e-6) <= most * 1.002
    forest = private("forest")
    assert rounds_of(forest) == 3  # four trees side by side: noise for a patient in all of them
    (leaf,) = lookup("trees.private_level", 1).leaves(first_plan(forest))
    assert leaf.bound == pytest.approx(np.sqrt(4 * 2))


@pytest.mark.parametrize("sums", ["clear", "secure"])
def test_epsilon_three_still_ranks_patients(sums: Any) -> None:
    columns = rows(20_000, 5)
    asked = private("logistic", trees=10)
    asked = replace(asked, private=replace(asked.private, epsilon=3.0))
    cuts = (0, 5000, 9000, 12_000, 15_000)
    ours = grown(asked, sums, columns, cuts)
    exact = alone(replace(asked, private=None, cell=0), {k: v[:15_000] for k, v in columns.items()})
    new = Partition({k: v[15_000:] for k, v in columns.items()})
    areas = [
        roc_auc_score(columns["event"][15_000:], found.predictor().predict(new))
        for found in (ours, exact)
    ]
    assert areas[1] > 0.75 and areas[0] > areas[1] - 0.03
    assert abs(ours.n - 15_000) < 1500


def test_totals_of_all_columns_of_a_node_become_one() -> None:
    draw = np.random.default_rng(0)
    asked = private("tree")
    real = real_bins(asked, np.array([[0, 2, 3], [1, 2, 3]]))
    sums = np.where(real[..., None], draw.normal(size=(*real.shape, 2)), 9.0)
    found = consistent(sums, real)
    totals = found.sum(axis=2)
    np.testing.assert_allclose(totals, totals[:, :1].repeat(3, axis=1))
    assert np.all(found[~real] == 0.0)
    exact = np.where(real[..., None], 1.0 / real.sum(axis=2)[..., None, None], 0.0)
    np.testing.assert_allclose(consistent(exact, real), exact)  # what fits already stays


COLUMNS = (Column("a", "number", (), -3.0, 3.0), Column("b", "number", (), -3.0, 3.0))
NOISE = DifferentialPrivacy(1.0, 1e-6)


def question(outcome: str = "event", classes: int = 2, **options: Any) -> Asked:
    design = spec(ROWS, outcome, names=("a", "b")).design
    return Asked(design, options, classes, COLUMNS, span=(-9.0, 9.0), privacy=NOISE)


@pytest.mark.parametrize(
    ("kind", "asked"),
    [
        ("forest", question()),  # bootstrap
        ("tree", question("kind", 3)),
        ("tree", question(class_weight="balanced")),
        ("boosting", question(subsample=0.5)),
        ("boosting", question(early_stopping_rounds=3)),
        ("boosting", question("count", 0, loss="poisson")),
        ("boosting", question("kind", 3)),
        ("tree", replace(question(), design=replace(question().design, weight="weight"))),
    ],
)
def test_what_has_no_version_with_noise_is_refused(kind: str, asked: Asked) -> None:
    with pytest.raises(InputError) as caught:
        kind_of(kind).spec(asked)
    assert caught.value.code == "NO_PRIVATE_VERSION"
    kind_of(kind).spec(replace(asked, privacy=None))


def test_a_number_needs_a_range() -> None:
    with pytest.raises(InputError) as caught:
        kind_of("tree").spec(replace(question("number", 0), span=None))
    assert caught.value.code == "NO_RANGE"
    found = kind_of("tree").spec(question("number", 0)).private
    assert (found.centre, found.unit, found.start) == (0.0, 9.0, False)


def test_hospitals_answer_no_plan_under_which_a_patient_is_not_bounded() -> None:
    good = first_plan(private("logistic"))
    lookup(good.task, 1).leaves(good)
    fixed = good.values["spec"]
    nothing = np.zeros((0, 2), np.int64)
    for change in (
        {"spec": {**fixed, "bootstrap": True}},
        {"spec": {**fixed, "rows_share": 0.5}},
        {"spec": {**fixed, "validation": 0.2}},
        {"spec": {**fixed, "loss": "poisson"}},
        {"spec": {**fixed, "private": None}},
        {"spec": {**fixed, "private": {**fixed["private"], "unit": 0.0}}},
        {"spec": {**fixed, "design": {**fixed["design"], "weight": "weight"}}},
        {"rows": {"folds": 3, "without": 1}},
        {"state": {**good.values["state"], "asked": nothing}},
        {"state": {**good.values["state"], "base": np.array([np.nan])}},
        {"state": {**good.values["state"], "class_weight": np.array([1.0, 9.0])}},
    ):
        with pytest.raises(PolyclinicError) as caught:
            lookup(good.task, 1).leaves(Plan(good.task, {**good.values, **change}))
        assert caught.value.code in ("BAD_MESSAGE", "WRONG_VALUE"), change


def test_the_state_goes_through_a_checkpoint_and_gives_the_same_model() -> None:
    algorithm = private("forest").algorithm()
    run = fit(algorithm, hospitals(ROWS))
    again = algorithm.model(codec.decode(codec.encode(run.state)))
    assert again.trees.value.tobytes() == run.model.trees.value.tobytes()
    assert Spec.from_data(algorithm.spec.to_data()).private == algorithm.spec.private
