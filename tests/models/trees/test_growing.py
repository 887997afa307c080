"""Trees against XGBoost and scikit-learn on the same bins, and the same bytes for any split."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import xgboost
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from polyclinic.core.fit import fit
from polyclinic.core.partition import Partition
from polyclinic.models.trees import Fit
from polyclinic.models.trees.kernels import MOST_ROWS
from tests.models.trees import world

LOSSES = {
    "event": ("logistic", 2, "binary:logistic"),
    "number": ("squared", 0, "reg:squarederror"),
    "count": ("poisson", 0, "count:poisson"),
    "kind": ("softmax", 3, "multi:softprob"),
}
BOOSTED = {"trees": 12, "depth": 4, "rate": 0.3, "hessian": 1.0, "l2": 1.0}


def expected(found: Fit, columns):
    return found.predictor().expected(columns)


def xgboosted(asked, columns, found, objective, weight=None, **more):
    """XGBoost on the numbers of the bins, from the same start."""
    x = world.as_numbers(asked, columns)
    margin = np.tile(found.base, (len(x), 1)).squeeze()
    data = xgboost.DMatrix(x, columns[asked.design.response], weight=weight, base_margin=margin)
    options = {
        "objective": objective, "tree_method": "hist", "max_bin": 512, "nthread": 1,
        "max_depth": asked.depth, "eta": asked.rate, "lambda": asked.l2, "alpha": asked.l1,
        "gamma": asked.gamma, "min_child_weight": asked.hessian, "base_score": 0.5, **more,
    }  # fmt: skip
    if asked.classes > 2:
        options["num_class"] = asked.classes
    return xgboost.train(options, data, asked.trees).predict(data)


@pytest.mark.parametrize("gaps", [0.0, 0.15])
@pytest.mark.parametrize("outcome", LOSSES)
def test_boosting_is_xgboost_on_the_same_bins(outcome, gaps):
    loss, classes, objective = LOSSES[outcome]
    columns = world.rows(gaps=gaps)
    asked = world.spec(columns, outcome, loss=loss, classes=classes, **BOOSTED)
    found = world.alone(asked, columns)
    reference = xgboosted(asked, columns, found, objective)
    np.testing.assert_allclose(expected(found, columns), reference, rtol=2e-5, atol=2e-6)
    assert np.ptp(reference) > 0.3


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"l1": 3.0}, {}),
        ({"gamma": 2.0}, {}),
        ({"hessian": 20.0}, {}),
        ({"monotone": (1, -1, 0)}, {"monotone_constraints": "(1,-1,0)"}),
    ],
)
def test_penalties_are_those_of_xgboost(ours, theirs):
    columns = world.rows()
    asked = world.spec(columns, "event", loss="logistic", classes=2, **{**BOOSTED, **ours})
    found = world.alone(asked, columns)
    reference = xgboosted(asked, columns, found, "binary:logistic", **theirs)
    np.testing.assert_allclose(expected(found, columns), reference, rtol=2e-5, atol=2e-6)
    plain = world.alone(
        world.spec(columns, "event", loss="logistic", classes=2, **BOOSTED), columns
    )
    assert not world.same(found, plain)


def test_weights_are_those_of_xgboost():
    columns = world.rows()
    asked = world.spec(columns, "event", loss="logistic", classes=2, weight="weight", **BOOSTED)
    found = world.alone(asked, columns)
    reference = xgboosted(asked, columns, found, "binary:logistic", columns["weight"])
    np.testing.assert_allclose(expected(found, columns), reference, rtol=2e-5, atol=2e-6)


def test_sets_of_levels_are_those_of_xgboost():
    columns = world.rows()
    asked = world.spec(columns, "event", names=("a", "c"), loss="logistic", classes=2, **BOOSTED)
    found = world.alone(asked, columns)
    data = xgboost.DMatrix(
        world.as_numbers(asked, columns),
        columns["event"],
        feature_types=["float", "c"],
        enable_categorical=True,
        base_margin=np.full(1200, found.base[0]),
    )
    options = {
        "objective": "binary:logistic", "tree_method": "hist", "max_bin": 512, "max_depth": 4,
        "eta": 0.3, "min_child_weight": 1.0, "max_cat_to_onehot": 1, "nthread": 1,
        "base_score": 0.5,
    }  # fmt: skip
    reference = xgboost.train(options, data, 12).predict(data)
    np.testing.assert_allclose(expected(found, columns), reference, rtol=2e-5, atol=2e-6)
    assert np.any(found.trees.set > 0)


@pytest.mark.parametrize(
    ("outcome", "classes", "reference"),
    [
        ("event", 2, DecisionTreeClassifier(max_depth=4, min_samples_leaf=7)),
        ("kind", 3, DecisionTreeClassifier(max_depth=4, min_samples_leaf=7)),
        ("number", 0, DecisionTreeRegressor(max_depth=4, min_samples_leaf=7)),
    ],
)
def test_one_tree_is_that_of_scikit_learn(outcome, classes, reference):
    columns = world.rows()
    asked = world.spec(columns, outcome, classes=classes, depth=4, leaf=7)
    found = expected(world.alone(asked, columns), columns)
    x = world.as_numbers(asked, columns)
    reference.fit(x, columns[outcome])
    if classes:
        theirs = reference.predict_proba(x)
        np.testing.assert_allclose(found, theirs[:, 1] if classes == 2 else theirs, atol=1e-7)
    else:
        np.testing.assert_allclose(found, reference.predict(x), atol=1e-6)


FORMS = {
    "boosting": ("event", {"loss": "logistic", "classes": 2, **BOOSTED}),
    "softmax": ("kind", {"loss": "softmax", "classes": 3, **BOOSTED, "trees": 3}),
    "sampled": ("count", {"loss": "poisson", **BOOSTED, "rows_share": 0.5, "columns_share": 0.7}),
    "forest": ("kind", {"classes": 3, "forest": True, "bootstrap": True, "node_columns": 2,
                        "trees": 7, "depth": 5, "leaf": 4}),
    "stopped": ("event", {"loss": "logistic", "classes": 2, **BOOSTED, "trees": 40,
                          "validation": 0.3, "patience": 3, "class_weight": "balanced"}),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_the_same_bytes_however_rows_are_split(form):
    outcome, options = FORMS[form]
    columns = world.rows(gaps=0.1)
    asked = world.spec(columns, outcome, names=("a", "b", "c", "d"), **options)
    whole = world.alone(asked, columns)
    assert whole.trees.trees > 1 and np.any(whole.trees.left >= 0)
    assert all(world.same(whole, world.alone(asked, columns, k)) for k in (3, 7))


def test_more_rows_than_a_block():
    columns = world.rows(2 * MOST_ROWS + 3)
    asked = world.spec(columns, "event", loss="logistic", classes=2, trees=1, depth=2)
    whole = world.alone(asked, columns)
    assert whole.cover[0] == pytest.approx(len(columns["event"]) * np.var(columns["event"]))
    assert world.same(whole, world.alone(asked, columns, 3))


@pytest.mark.parametrize("sums", ["clear", "secure"])
@pytest.mark.parametrize("outcome", ["event", "kind"])
def test_the_same_bytes_over_hospitals(outcome, sums):
    loss, classes, _ = LOSSES[outcome]
    columns = world.rows(gaps=0.1)
    options = {"loss": loss, "classes": classes, **BOOSTED, "trees": 3}
    asked = world.spec(columns, outcome, names=("a", "b", "c"), **options)
    engine = world.hospitals(columns, sums=sums)
    found = fit(replace(asked, cell=1).algorithm(), engine).model
    assert world.same(found, world.alone(asked, columns))


def test_a_site_that_forgets_answers_the_same():
    columns = world.rows()
    asked = world.spec(columns, "kind", loss="softmax", classes=3, cell=5, **BOOSTED)
    part = Partition(columns)

    class Forgetful:
        def __init__(self, forgets):
            self.forgets = forgets

        def sum(self, plan):
            if self.forgets:
                part.cache.clear()
            return Inline(part).sum(plan)

    from polyclinic.core.federation import Domain, Inline

    found = [
        fit(replace(asked, trees=3).algorithm(), Domain(Forgetful(forgets))).model
        for forgets in (False, True)
    ]
    assert world.same(*found)


def test_a_sibling_is_its_parent_less_the_other():
    columns = world.rows(gaps=0.1)
    options = {"loss": "logistic", "classes": 2, **BOOSTED, "trees": 4}
    asked = world.spec(columns, "event", **options)
    both = fit(replace(asked, cell=1).algorithm(), world.hospitals(columns)).model
    assert asked.subtracts and world.same(world.alone(asked, columns), both)


@pytest.mark.parametrize("sign", [1, -1])
def test_monotone_constraints_hold(sign):
    columns = world.rows()
    options = {"loss": "logistic", "classes": 2, **BOOSTED, "monotone": (sign, 0, 0)}
    found = world.alone(world.spec(columns, "event", **options), columns).predictor()
    grid = np.linspace(-3, 3, 60)
    for b, d in ((-1.0, 0.0), (1.0, 1.0), (0.0, -2.0)):
        line = {"a": grid, "b": np.full(60, b), "d": np.full(60, d)}
        steps = np.diff(found.expected(line)) * sign
        assert np.all(steps >= 0)
    assert np.ptp(found.expected(columns)) > 0.3


def test_stopping_keeps_the_best_round():
    columns = world.rows()
    outcome, options = FORMS["stopped"]
    found = world.alone(world.spec(columns, outcome, **options), columns)
    best = int(np.argmin(found.losses))
    assert found.trees.trees == best < 40 and len(found.losses) <= best + 4


@pytest.mark.parametrize(
    "change",
    [
        {"a": np.zeros(60)},
        {"a": np.full(60, np.nan)},
        {"event": np.ones(60)},
        {"event": np.r_[1.0, np.zeros(59)]},
    ],
)
@pytest.mark.parametrize("depth", [0, 3])
def test_degenerate_rows(change, depth):
    columns = {k: v[:60] for k, v in world.rows().items()} | change
    asked = world.spec(columns, "event", names=("a",), classes=2, depth=depth)
    found = expected(world.alone(asked, columns), columns)
    assert np.all(np.isfinite(found))
    assert abs(found.mean() - columns["event"].mean()) < 1e-3


def test_one_bin_and_more_bins_than_values():
    columns = world.rows()
    one = world.spec(columns, "number", bins=1, depth=3)
    mean = columns["number"].mean()
    np.testing.assert_allclose(expected(world.alone(one, columns), columns), mean, rtol=1e-8)
    few = world.spec(columns, "number", names=("d",), bins=500, depth=10, leaf=1)
    found = world.alone(few, columns)
    means = pd.Series(columns["number"]).groupby(columns["d"]).transform("mean")
    np.testing.assert_allclose(expected(found, columns), means, atol=1e-6)


def test_a_level_that_nobody_knew_counts_as_missing():
    columns = world.rows()
    asked = world.spec(columns, "event", names=("c",), classes=2, depth=3)
    found = world.alone(asked, columns).predictor()
    strange = found.expected({"c": np.array([7.0, -1.0, 2.5, np.nan])})
    assert len(np.unique(strange)) == 1


def test_missing_values_where_none_are_kept_are_an_error():
    columns = world.rows()
    asked = world.spec(columns, "event", classes=2)
    with pytest.raises(Exception, match="missing values"):
        world.alone(asked, {**columns, "a": np.where(columns["a"] > 2, np.nan, columns["a"])})


def test_an_empty_hospital_changes_nothing():
    columns = world.rows()
    options = {"loss": "logistic", "classes": 2, "cell": 1, **BOOSTED, "trees": 2}
    asked = world.spec(columns, "event", **options)
    four = fit(asked.algorithm(), world.hospitals(columns)).model
    five = fit(asked.algorithm(), world.hospitals(columns, cuts=(*world.CUTS, 1200))).model
    assert world.same(four, five)
